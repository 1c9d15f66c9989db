//! Frames as bytes (RFC 9113 section 4.1), and the numbers of the registries.

/// What a client says first (section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes before each payload.
pub(super) const HEADER: usize = 9;

/// Largest payload we take, and the least that everybody takes.
pub(super) const MAX_PAYLOAD: u32 = 16 * 1024;

/// Largest window and largest stream number.
pub(super) const MAX_31: u32 = (1 << 31) - 1;

/// Frame types (section 6).
pub(super) mod kind {
    pub(in crate::http2) const DATA: u8 = 0;
    pub(in crate::http2) const HEADERS: u8 = 1;
    pub(in crate::http2) const PRIORITY: u8 = 2;
    pub(in crate::http2) const RST_STREAM: u8 = 3;
    pub(in crate::http2) const SETTINGS: u8 = 4;
    pub(in crate::http2) const PUSH_PROMISE: u8 = 5;
    pub(in crate::http2) const PING: u8 = 6;
    pub(in crate::http2) const GOAWAY: u8 = 7;
    pub(in crate::http2) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::http2) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(super) mod flag {
    pub(in crate::http2) const END_STREAM: u8 = 1;
    pub(in crate::http2) const ACK: u8 = 1;
    pub(in crate::http2) const END_HEADERS: u8 = 4;
    pub(in crate::http2) const PADDED: u8 = 8;
    pub(in crate::http2) const PRIORITY: u8 = 0x20;
}

/// Error codes (section 7).
pub(super) mod code {
    pub(in crate::http2) const NO_ERROR: u32 = 0;
    pub(in crate::http2) const PROTOCOL_ERROR: u32 = 1;
    pub(in crate::http2) const INTERNAL_ERROR: u32 = 2;
    pub(in crate::http2) const FLOW_CONTROL_ERROR: u32 = 3;
    pub(in crate::http2) const STREAM_CLOSED: u32 = 5;
    pub(in crate::http2) const FRAME_SIZE_ERROR: u32 = 6;
    pub(in crate::http2) const REFUSED_STREAM: u32 = 7;
    pub(in crate::http2) const CANCEL: u32 = 8;
    pub(in crate::http2) const COMPRESSION_ERROR: u32 = 9;
    pub(in crate::http2) const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Settings (section 6.5.2, RFC 8441 section 3).
pub(super) mod setting {
    pub(in crate::http2) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in crate::http2) const ENABLE_PUSH: u16 = 2;
    pub(in crate::http2) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in crate::http2) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in crate::http2) const MAX_FRAME_SIZE: u16 = 5;
    pub(in crate::http2) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(in crate::http2) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// What comes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) len: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl FrameHeader {
    /// Reads the header at the start of `input`; `None` when it is not all there.
    pub(super) fn read(input: &[u8]) -> Option<Self> {
        let (header, _) = input.split_first_chunk::<HEADER>()?;
        let [a, b, c, kind, flags, d, e, f, g] = *header;
        Some(Self {
            len: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            // The first bit is reserved and ignored.
            stream: u32::from_be_bytes([d, e, f, g]) & MAX_31,
        })
    }

    pub(super) fn write(self, bytes: &mut Vec<u8>) {
        let [_, a, b, c] = self.len.to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        bytes.extend_from_slice(&[a, b, c, self.kind, self.flags, d, e, f, g]);
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A payload without its padding (section 6.1); `None` when there is more padding than payload.
pub(super) fn unpadded(header: FrameHeader, payload: &[u8]) -> Option<&[u8]> {
    if !header.has(flag::PADDED) {
        return Some(payload);
    }
    let (&pad, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(pad.into())?)
}

/// A number of four bytes at the start of a payload, without the reserved bit.
pub(super) fn number(payload: &[u8]) -> u32 {
    payload
        .first_chunk::<4>()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
