//! WebSocket (RFC 6455): frames, fragmentation, UTF-8 across fragments, control frames, close codes.
//!
//! A reader for either end, functions that write frames, and the handshake's accept value. Extensions
//! are not spoken: a frame with a reserved bit is an error, and whoever makes the handshake must not
//! agree to any (permessage-deflate included). Sans-IO: payload is handed on as it arrives, unmasked in
//! place, and nothing is kept but a few numbers.

mod accept;
mod follower;
mod frame;
mod mask;
mod reader;
#[cfg(test)]
mod tests;
mod utf8;

pub use accept::{accept_key, client_key};
pub use follower::Follower;
pub use frame::{write_close, write_frame, write_header};
pub use mask::apply as mask;
pub use reader::{Event, Reader};

/// Most bytes of a control frame's payload (section 5.5).
pub const MAX_CONTROL: usize = 125;
/// Most bytes of a frame's header.
pub const MAX_HEADER: usize = 14;

/// Which end reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Frames from the client are masked (section 5.1).
    Server,
    /// Frames from the server are not.
    Client,
}

/// What a message or a control frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message that was begun.
    Continuation,
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// No more frames follow.
    Close,
    /// Wants a pong with the same payload.
    Ping,
    /// Answers a ping, or nothing.
    Pong,
}

impl Opcode {
    fn number(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    fn of(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Close, ping, pong: short, whole, and allowed within a message.
    #[must_use]
    pub fn is_control(self) -> bool {
        self.number() >= 8
    }
}

/// What is read at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Payload of one frame, bytes.
    pub frame: u64,
    /// Payload of one message, bytes.
    pub message: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame: 16 << 20,
            message: 64 << 20,
        }
    }
}

/// How a peer broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A bit of an extension that was not agreed to.
    ReservedBit,
    /// An opcode that is not defined.
    Opcode,
    /// A control frame in parts, or of more than 125 bytes.
    Control,
    /// A length that is not written as short as it can be, or of 2^63 and more.
    Length,
    /// A client that does not mask, or a server that does.
    Mask,
    /// A continuation of nothing, or a message within a message.
    Fragment,
    /// A close frame of one byte, or with a code that is not to be sent.
    CloseCode,
    /// Text that is not UTF-8.
    Utf8,
    /// More than the [`Limits`].
    TooBig,
}

impl Error {
    /// The code to close with (section 7.4.1).
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::Utf8 => close::INVALID_DATA,
            Self::TooBig => close::TOO_BIG,
            _ => close::PROTOCOL_ERROR,
        }
    }
}

/// Close codes (section 7.4.1).
pub mod close {
    /// The purpose is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// This end goes away: a server that is shut down.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// Data of this kind is not taken.
    pub const UNSUPPORTED: u16 = 1003;
    /// The data was not what its kind says.
    pub const INVALID_DATA: u16 = 1007;
    /// The message was too big.
    pub const TOO_BIG: u16 = 1009;

    /// May stand in a close frame: those that are defined for it, and the registered and private ones.
    #[must_use]
    pub fn may_be_sent(code: u16) -> bool {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}
