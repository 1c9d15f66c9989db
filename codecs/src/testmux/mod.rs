//! A small multiplexed protocol for tests: everything the stream pipeline must be able to carry and
//! HTTP/1 does not have, in the least bytes.
//!
//! It has streams with a window each, reset, one-way requests, requests opened by either side,
//! heartbeats that the codec answers itself, and GOAWAY. It is no protocol anyone should deploy: it
//! has no version, no settings exchange (both sides are configured alike) and no connection window.
//!
//! A frame is a header of ten bytes (payload length 32, type 8, flags 8, stream 32, big-endian) and
//! its payload. Streams opened by the client have odd numbers, by the server even ones, each rising.

mod codec;
mod frame;
mod mux;
mod park;
#[cfg(test)]
mod tests;

pub use frame::{Flags, FrameHeader, HEADER, Kind, MAX_PAYLOAD};
pub use mux::Mux;

use crate::codec::Millis;

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepted the connection; the streams it opens are even.
    Server,
    /// Made the connection; the streams it opens are odd.
    Client,
}

/// What both sides must agree on, and limits of this one.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of body a stream may have on the way before the receiver gives credit.
    pub window: u32,
    /// Streams open at a time that the same side opened. More from the peer are refused.
    pub max_streams: usize,
    /// Largest payload of any frame, at most [`MAX_PAYLOAD`].
    pub max_payload: usize,
    /// Silence after which a heartbeat is sent; as much again and the peer is dead. `None`: never.
    pub heartbeat: Option<Millis>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: 64 * 1024,
            max_streams: 128,
            max_payload: MAX_PAYLOAD,
            heartbeat: None,
        }
    }
}
