//! Frames as bytes.

use crate::codec::{SendError, StreamId};
use crate::head::{Head, HeadKind, Version};

/// Bytes before each payload.
pub const HEADER: usize = 10;

/// Largest payload there is.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Request or response head.
    Head,
    /// Body bytes.
    Data,
    /// Trailers; the message ends with them.
    Trailers,
    /// Gives a stream up; one byte of reason.
    Reset,
    /// Credit for a stream; four bytes.
    Window,
    /// A sign of life, answered by the same with [`Flags::ACK`]; stream 0.
    Heartbeat,
    /// No new streams; the stream number is the last one looked at.
    GoAway,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Head,
            1 => Self::Data,
            2 => Self::Trailers,
            3 => Self::Reset,
            4 => Self::Window,
            5 => Self::Heartbeat,
            6 => Self::GoAway,
            _ => return None,
        })
    }
}

/// Bits of a frame header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// The message ends here.
    pub const END: Self = Self(1);
    /// A heartbeat is answered.
    pub const ACK: Self = Self(2);
    /// A request without response.
    pub const ONE_WAY: Self = Self(4);

    /// All bits of `other` are set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What comes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Payload bytes.
    pub len: u32,
    /// Type.
    pub kind: Kind,
    /// Flags.
    pub flags: Flags,
    /// Stream, or 0.
    pub stream: StreamId,
}

impl FrameHeader {
    /// Reads the header at the start of `input`: `None` when it is not all there, `Some(None)` when
    /// its type is unknown.
    #[must_use]
    pub fn read(input: &[u8]) -> Option<Option<Self>> {
        let (header, _) = input.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, kind, flags, e, f, g, h] = *header;
        Some(Kind::from_byte(kind).map(|kind| Self {
            len: u32::from_be_bytes([a, b, c, d]),
            kind,
            flags: Flags(flags),
            stream: u32::from_be_bytes([e, f, g, h]),
        }))
    }

    /// Appends it.
    pub fn write(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.len.to_be_bytes());
        bytes.extend_from_slice(&[self.kind as u8, self.flags.0]);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
    }
}

/// Bits of a head payload.
const UPGRADE: u8 = 1;
const EXPECT_CONTINUE: u8 = 2;
const HAS_LENGTH: u8 = 4;

fn text(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
    let len = u16::try_from(bytes.len()).map_err(|_| SendError::Unencodable("testmux.too_long"))?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends the payload of a head or trailers frame.
pub(super) fn write_head(head: &Head, out: &mut Vec<u8>) -> Result<(), SendError> {
    let kind = match head.kind {
        HeadKind::Request => 0,
        HeadKind::Response => 1,
        HeadKind::Trailers => 2,
    };
    let mut bits = 0;
    if head.upgrade {
        bits |= UPGRADE;
    }
    if head.expect_continue {
        bits |= EXPECT_CONTINUE;
    }
    if head.content_length.is_some() {
        bits |= HAS_LENGTH;
    }
    out.extend_from_slice(&[kind, bits]);
    out.extend_from_slice(&head.status.to_be_bytes());
    if let Some(length) = head.content_length {
        out.extend_from_slice(&length.to_be_bytes());
    }
    if head.kind == HeadKind::Request {
        for part in [head.method(), head.scheme(), head.authority(), head.path()] {
            text(part, out)?;
        }
    }
    for (name, value) in head.fields() {
        text(name, out)?;
        text(value, out)?;
    }
    Ok(())
}

/// Takes a payload apart.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = u16::from_be_bytes(self.array()?) as usize;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(text)
    }
}

/// Reads the payload of a head or trailers frame; `None` when it is malformed.
pub(super) fn read_head(payload: &[u8], head: &mut Head) -> Option<()> {
    let mut reader = Reader(payload);
    let [kind, bits] = reader.array()?;
    head.kind = match kind {
        0 => HeadKind::Request,
        1 => HeadKind::Response,
        2 => HeadKind::Trailers,
        _ => return None,
    };
    head.version = Version::Other;
    head.upgrade = bits & UPGRADE != 0;
    head.expect_continue = bits & EXPECT_CONTINUE != 0;
    head.status = u16::from_be_bytes(reader.array()?);
    if bits & HAS_LENGTH != 0 {
        head.content_length = Some(u64::from_be_bytes(reader.array()?));
    }
    if head.kind == HeadKind::Request {
        head.set_method(reader.text()?);
        head.set_scheme(reader.text()?);
        head.set_authority(reader.text()?);
        head.set_path(reader.text()?);
    }
    while !reader.0.is_empty() {
        let name = reader.text()?;
        head.push(name, reader.text()?);
    }
    Some(())
}
