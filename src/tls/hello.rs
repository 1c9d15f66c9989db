//! The name in a client's first message (RFC 6066 section 3): `rustls` uses it and does not tell it.

use super::record::HEADER;

/// Reads big-endian numbers and what they give the length of.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        let bytes = self.take(bytes)?;
        Some(bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
    }

    fn vector(&mut self, bytes: usize) -> Option<Reader<'a>> {
        let len = self.number(bytes)?;
        self.take(len).map(Reader)
    }
}

/// The host name of a client hello that begins at the first of these records. `None` when there is none,
/// or when the message is not whole: what is malformed is for `rustls` to refuse.
pub(super) fn server_name(records: &[u8]) -> Option<Box<str>> {
    let mut message = Vec::new();
    let mut rest = Reader(records);
    while let Some(header) = rest.take(HEADER) {
        if header[0] != super::record::content::HANDSHAKE {
            break;
        }
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        message.extend_from_slice(rest.take(len)?);
    }
    let mut hello = Reader(&message);
    if hello.number(1)? != 1 {
        return None;
    }
    let mut hello = hello.vector(3)?;
    // Version and random, session, suites, compression.
    hello.take(34)?;
    hello.vector(1)?;
    hello.vector(2)?;
    hello.vector(1)?;
    let mut extensions = hello.vector(2)?;
    while let Some(kind) = extensions.number(2) {
        let mut body = extensions.vector(2)?;
        if kind == 0 {
            let mut names = body.vector(2)?;
            if names.number(1)? != 0 {
                return None;
            }
            let name = std::str::from_utf8(names.vector(2)?.0).ok()?;
            let plain = name.bytes().all(|byte| byte.is_ascii_graphic());
            return (plain && !name.is_empty()).then(|| name.to_ascii_lowercase().into());
        }
    }
    None
}
