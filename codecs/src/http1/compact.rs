//! What remains of an open, silent exchange while its connection is parked: at most 24 bytes.
//!
//! The settings are not in it; the owner gives them again. The bytes are ours, not the network's, but
//! reading them cannot panic either.

use super::body::Body;
use super::encode::Sending;
use crate::codec::{Compact, StreamId};

/// The state of a codec that is not its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) phase: u8,
    pub(super) flags: u8,
    pub(super) stream: StreamId,
    pub(super) body: Body,
    pub(super) sending: Sending,
}

const LENGTH: usize = 24;

pub(super) fn pack(state: State) -> Compact {
    let (body, body_left) = match state.body {
        Body::Done => (0, 0),
        Body::Length(left) => (1, left),
        Body::ChunkLine => (2, 0),
        Body::Chunk(left) => (3, left),
        Body::ChunkEnd => (4, 0),
        Body::Trailers => (5, 0),
        Body::UntilClose => (6, 0),
    };
    let (sending, sending_left) = match state.sending {
        Sending::Idle => (0, 0),
        Sending::Head => (1, 0),
        Sending::Nothing => (2, 0),
        Sending::Length(left) => (3, left),
        Sending::Chunked => (4, 0),
        Sending::UntilClose => (5, 0),
        Sending::Done => (6, 0),
        Sending::Upgraded => (7, 0),
    };
    let mut bytes = [0; LENGTH];
    bytes[..4].copy_from_slice(&[state.phase, state.flags, body, sending]);
    bytes[4..8].copy_from_slice(&state.stream.to_le_bytes());
    bytes[8..16].copy_from_slice(&body_left.to_le_bytes());
    bytes[16..].copy_from_slice(&sending_left.to_le_bytes());
    Box::new(bytes)
}

pub(super) fn unpack(compact: &[u8]) -> Option<State> {
    let bytes: &[u8; LENGTH] = compact.try_into().ok()?;
    let number = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(number)
    };
    Some(State {
        phase: bytes[0],
        flags: bytes[1],
        stream: number(4) as u32,
        body: match bytes[2] {
            0 => Body::Done,
            1 => Body::Length(number(8)),
            2 => Body::ChunkLine,
            3 => Body::Chunk(number(8)),
            4 => Body::ChunkEnd,
            5 => Body::Trailers,
            6 => Body::UntilClose,
            _ => return None,
        },
        sending: match bytes[3] {
            0 => Sending::Idle,
            1 => Sending::Head,
            2 => Sending::Nothing,
            3 => Sending::Length(number(16)),
            4 => Sending::Chunked,
            5 => Sending::UntilClose,
            6 => Sending::Done,
            7 => Sending::Upgraded,
            _ => return None,
        },
    })
}
