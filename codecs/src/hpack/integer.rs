//! Integers with a prefix (RFC 7541, section 5.1). Never more than 32 bits, never more than six octets.

use super::Error;

/// Octets that may follow the prefix: enough for 32 bits.
const MAX_CONTINUATION: usize = 5;

/// Reads an integer whose prefix is the low `prefix` bits of the first octet. Returns it and how many
/// octets it took.
///
/// # Errors
/// [`Error::Truncated`] when the octets end before it, [`Error::Integer`] when it has more than 32 bits
/// or more octets than 32 bits need.
#[inline]
pub(super) fn decode(bytes: &[u8], prefix: u32) -> Result<(u32, usize), Error> {
    let mask = (1u32 << prefix) - 1;
    let first = u32::from(*bytes.first().ok_or(Error::Truncated)?) & mask;
    if first < mask {
        return Ok((first, 1));
    }
    let mut value = u64::from(mask);
    for (at, &octet) in bytes[1..].iter().take(MAX_CONTINUATION).enumerate() {
        value += u64::from(octet & 0x7f) << (7 * at);
        if octet & 0x80 == 0 {
            let value = u32::try_from(value).map_err(|_| Error::Integer)?;
            return Ok((value, at + 2));
        }
    }
    Err(if bytes.len() > MAX_CONTINUATION {
        Error::Integer
    } else {
        Error::Truncated
    })
}

/// Appends `value` with a prefix of `prefix` bits; `pattern` is what the bits above the prefix say.
#[inline]
pub(super) fn encode(value: usize, prefix: u32, pattern: u8, out: &mut Vec<u8>) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        // Below the mask, so it fits in the prefix.
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
