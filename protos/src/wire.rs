//! The protobuf wire format, for code that is driven by descriptors instead of types.
//!
//! Sees one message at a time and copies nothing. Must never be used on the data path.

use std::fmt;

/// One field as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireValue<'a> {
    /// int32, int64, uint32, uint64, sint32, sint64, bool, enum.
    Varint(u64),
    /// fixed64, sfixed64, double.
    Fixed64(u64),
    /// fixed32, sfixed32, float.
    Fixed32(u32),
    /// string, bytes, message, packed repeated scalars.
    Bytes(&'a [u8]),
}

/// The bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a valid protobuf message")
    }
}

impl std::error::Error for Malformed {}

/// Iterates over the fields of an encoded message; stops after the first [`Malformed`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// The fields of `message` in wire order.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, WireValue<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or(Malformed))
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Option<(u32, WireValue<'a>)> {
        let key = get_varint(&mut self.rest)?;
        let number = u32::try_from(key >> 3).ok().filter(|&n| n != 0)?;
        let value = match key & 7 {
            0 => WireValue::Varint(get_varint(&mut self.rest)?),
            1 => WireValue::Fixed64(get_fixed64(&mut self.rest)?),
            2 => {
                let len = usize::try_from(get_varint(&mut self.rest)?).ok()?;
                let (body, rest) = self.rest.split_at_checked(len)?;
                self.rest = rest;
                WireValue::Bytes(body)
            }
            5 => WireValue::Fixed32(get_fixed32(&mut self.rest)?),
            _ => return None,
        };
        Some((number, value))
    }
}

/// Takes a varint off the front of `input`; `None` when it is cut short or longer than 64 bits.
pub fn get_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (i, &byte) in input.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            // The tenth byte holds the last bit only.
            if i == 9 && byte > 1 {
                return None;
            }
            *input = &input[i + 1..];
            return Some(value);
        }
    }
    None
}

/// Takes eight little-endian bytes off the front of `input`.
pub fn get_fixed64(input: &mut &[u8]) -> Option<u64> {
    let (bytes, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(u64::from_le_bytes(*bytes))
}

/// Takes four little-endian bytes off the front of `input`.
pub fn get_fixed32(input: &mut &[u8]) -> Option<u32> {
    let (bytes, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(u32::from_le_bytes(*bytes))
}

/// Appends a varint.
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a whole field.
pub fn put_field(number: u32, value: WireValue<'_>, out: &mut Vec<u8>) {
    let key = u64::from(number) << 3;
    match value {
        WireValue::Varint(v) => {
            put_varint(key, out);
            put_varint(v, out);
        }
        WireValue::Fixed64(v) => {
            put_varint(key | 1, out);
            out.extend_from_slice(&v.to_le_bytes());
        }
        WireValue::Bytes(v) => {
            put_varint(key | 2, out);
            put_varint(v.len() as u64, out);
            out.extend_from_slice(v);
        }
        WireValue::Fixed32(v) => {
            put_varint(key | 5, out);
            out.extend_from_slice(&v.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read_back() {
        let values = [
            (1, WireValue::Varint(u64::MAX)),
            (2, WireValue::Fixed64(7)),
            (536_870_911, WireValue::Fixed32(9)),
            (3, WireValue::Bytes(b"xyz")),
        ];
        let mut bytes = Vec::new();
        for (number, value) in values {
            put_field(number, value, &mut bytes);
        }
        let read: Result<Vec<_>, _> = fields(&bytes).collect();
        assert_eq!(read, Ok(values.to_vec()));
        // Cut anywhere: an error or fewer fields, and the iterator ends.
        for cut in 0..bytes.len() {
            assert!(fields(&bytes[..cut]).count() <= values.len());
        }
    }

    #[test]
    fn groups_field_zero_and_long_varints_are_malformed() {
        for bytes in [
            &[0x0b_u8][..],
            &[0x00, 0x00],
            &[0x08, 0xff],
            &[0x0a, 0x05, 0x00],
        ] {
            assert_eq!(fields(bytes).collect::<Vec<_>>(), [Err(Malformed)]);
        }
        let eleven = [
            0x80_u8, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01,
        ];
        assert_eq!(get_varint(&mut &eleven[..]), None);
    }
}
