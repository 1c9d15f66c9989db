//! The header of a frame (section 5.2), and frames to be sent.

use super::{Error, MAX_CONTROL, MAX_HEADER, Opcode, Role, mask};

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) last: bool,
    pub(super) opcode: Opcode,
    pub(super) length: u64,
    pub(super) key: Option<[u8; 4]>,
    /// Bytes of the header itself.
    pub(super) size: usize,
}

/// Reads a header; `None` when it is not whole. What is wrong with it is told by its first bytes already.
pub(super) fn read(bytes: &[u8], role: Role) -> Result<Option<Header>, Error> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(Error::ReservedBit);
    }
    let last = first & 0x80 != 0;
    let opcode = Opcode::of(first & 0xf).ok_or(Error::Opcode)?;
    if opcode.is_control() && !last {
        return Err(Error::Control);
    }
    let Some(&second) = bytes.get(1) else {
        return Ok(None);
    };
    let masked = second & 0x80 != 0;
    if masked != (role == Role::Server) {
        return Err(Error::Mask);
    }
    let (length, size) = match second & 0x7f {
        126 => (2, 4),
        127 => (8, 10),
        short => (u64::from(short), 2),
    };
    if opcode.is_control() && size > 2 {
        return Err(Error::Control);
    }
    let Some(long) = bytes.get(2..size) else {
        return Ok(None);
    };
    let length = match size {
        2 => length,
        _ => long.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    let least = match size {
        2 => 0,
        4 => 126,
        _ => 1 << 16,
    };
    if length < least || length >= 1 << 63 {
        return Err(Error::Length);
    }
    if !masked {
        return Ok(Some(Header {
            last,
            opcode,
            length,
            key: None,
            size,
        }));
    }
    let Some(key) = bytes.get(size..size + 4) else {
        return Ok(None);
    };
    Ok(Some(Header {
        last,
        opcode,
        length,
        key: Some([key[0], key[1], key[2], key[3]]),
        size: size + 4,
    }))
}

/// Appends a frame's header. A client gives a key, which its payload is then masked with.
pub fn write_header(
    last: bool,
    opcode: Opcode,
    length: u64,
    key: Option<[u8; 4]>,
    out: &mut Vec<u8>,
) {
    out.reserve(MAX_HEADER);
    out.push(u8::from(last) << 7 | opcode.number());
    let bit = u8::from(key.is_some()) << 7;
    match length {
        0..126 => out.push(bit | length as u8),
        126..0x1_0000 => {
            out.push(bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(bit | 127);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    if let Some(key) = key {
        out.extend_from_slice(&key);
    }
}

/// Appends a whole frame.
pub fn write_frame(
    last: bool,
    opcode: Opcode,
    payload: &[u8],
    key: Option<[u8; 4]>,
    out: &mut Vec<u8>,
) {
    write_header(last, opcode, payload.len() as u64, key, out);
    let at = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        mask(&mut out[at..], key, 0);
    }
}

/// Appends a close frame; a reason that does not fit is cut at a character.
pub fn write_close(code: u16, reason: &str, key: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let end = reason.floor_char_boundary(MAX_CONTROL - 2);
    let payload = [&code.to_be_bytes()[..], &reason.as_bytes()[..end]].concat();
    write_frame(true, Opcode::Close, &payload, key, out);
}
