//! The name in a client's first message (RFC 6066 section 3), which `rustls` uses and does not tell, and its
//! protocols (RFC 7301 section 3.1), for which it knows no way but one.

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
    let message = message(records)?;
    let mut names = extension(&message, 0)?.vector(2)?;
    if names.number(1)? != 0 {
        return None;
    }
    let name = std::str::from_utf8(names.vector(2)?.0).ok()?;
    let plain = name.bytes().all(|byte| byte.is_ascii_graphic());
    (plain && !name.is_empty()).then(|| name.to_ascii_lowercase().into())
}

/// A whole hello names protocols, and none of them is ours.
pub(super) fn speaks_none_of(records: &[u8], ours: &[Vec<u8>]) -> bool {
    let strange = || {
        let message = message(records)?;
        let mut theirs = extension(&message, 16)?.vector(2)?;
        while !theirs.0.is_empty() {
            let protocol = theirs.vector(1)?.0;
            if protocol.is_empty() || ours.iter().any(|one| one == protocol) {
                return None;
            }
        }
        Some(())
    };
    !ours.is_empty() && strange().is_some()
}

/// What the records from the first on hold of handshake messages.
fn message(records: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let mut rest = Reader(records);
    while let Some(header) = rest.take(HEADER) {
        if header[0] != super::record::content::HANDSHAKE {
            break;
        }
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        message.extend_from_slice(rest.take(len)?);
    }
    Some(message)
}

/// The body of an extension of a whole hello.
fn extension(message: &[u8], wanted: usize) -> Option<Reader<'_>> {
    let mut hello = Reader(message);
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
        let body = extensions.vector(2)?;
        if kind == wanted {
            return Some(body);
        }
    }
    None
}
