//! The books: which streams there are and how far each of them is (RFC 9113 section 5.1).

use crate::codec::StreamId;

/// Facts about a stream, as bits.
pub(super) mod state {
    /// Our final head went out.
    pub(in crate::http2) const LOCAL_HEAD: u8 = 1;
    /// We said all.
    pub(in crate::http2) const LOCAL_END: u8 = 2;
    /// The peer's final head came in.
    pub(in crate::http2) const REMOTE_HEAD: u8 = 4;
    /// The peer said all.
    pub(in crate::http2) const REMOTE_END: u8 = 8;
    /// A send took less than offered.
    pub(in crate::http2) const BLOCKED: u8 = 16;
    /// The request was HEAD.
    pub(in crate::http2) const HEAD: u8 = 32;
    /// The request was CONNECT.
    pub(in crate::http2) const CONNECT: u8 = 64;
    /// The request was an extended CONNECT.
    pub(in crate::http2) const EXTENDED: u8 = 128;
}

/// No length was declared.
pub(super) const UNDECLARED: u64 = u64::MAX;

/// One open stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// Bytes we may still send; below zero after the peer made its window smaller.
    pub(super) send_window: i32,
    /// Bytes the peer may still send.
    pub(super) receive_window: i32,
    /// Bytes passed on and not taken by the other side of the proxy.
    pub(super) held: u32,
    /// Bytes taken for which no credit went back yet.
    pub(super) taken: u32,
    /// Declared bytes of body that are still to come.
    pub(super) left: u64,
    /// Bits of [`state`].
    pub(super) state: u8,
}

impl Stream {
    pub(super) fn is(&self, bits: u8) -> bool {
        self.state & bits == bits
    }

    pub(super) fn over(&self) -> bool {
        self.is(state::LOCAL_END | state::REMOTE_END)
    }
}

/// Open streams by rising number. New ones come at the end; what is looked for is found by halving.
#[derive(Debug, Default)]
pub(super) struct Streams(pub(super) Vec<Stream>);

impl Streams {
    pub(super) fn place(&self, id: StreamId) -> Option<usize> {
        // Most connections have one stream, or speak of the newest.
        if self.0.last().is_some_and(|last| last.id == id) {
            return Some(self.0.len() - 1);
        }
        self.0.binary_search_by_key(&id, |stream| stream.id).ok()
    }

    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        let place = self.place(id)?;
        self.0.get_mut(place)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
