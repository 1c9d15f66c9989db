//! Whether a connection begins with HTTP, and which: the preface of HTTP/2 (RFC 9113 section 3.4) or a
//! request line of HTTP/1 (RFC 9112 section 3).
//!
//! Names the protocol and judges nothing more: a request that is found here may still be refused by the
//! codec that reads it.

/// Bytes that are looked at.
pub const MAX_BYTES: usize = 16 * 1024;

/// How the preface of HTTP/2 begins; no request of HTTP/1 does.
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Cannot be told from these bytes.
    More,
    /// No HTTP.
    NotHttp,
    /// A request line with a version below 1.1.
    Http10,
    /// A request line with HTTP/1.1.
    Http11,
    /// The preface of HTTP/2.
    Http2,
}

impl Found {
    /// The protocol as ALPN would name it (`h2c` has no such name, and is its own).
    #[must_use]
    pub fn protocol(self) -> Option<&'static str> {
        match self {
            Self::Http10 => Some("http/1.0"),
            Self::Http11 => Some("http/1.1"),
            Self::Http2 => Some("h2c"),
            Self::More | Self::NotHttp => None,
        }
    }
}

/// Reads the beginning of a connection. A request line that does not end within [`MAX_BYTES`] is none.
#[must_use]
pub fn parse(bytes: &[u8]) -> Found {
    let shared = bytes.len().min(PREFACE.len());
    if bytes[..shared] == PREFACE[..shared] {
        return if shared == PREFACE.len() {
            Found::Http2
        } else {
            Found::More
        };
    }
    // Any token is a method: new ones come up, and it is not for us to know them.
    let looked = &bytes[..bytes.len().min(MAX_BYTES)];
    let Some(space) = looked.iter().position(|byte| !is_token(*byte)) else {
        return if bytes.len() >= MAX_BYTES {
            Found::NotHttp
        } else {
            Found::More
        };
    };
    if space == 0 || looked[space] != b' ' {
        return Found::NotHttp;
    }
    let line = &looked[space + 1..];
    let end = memchr::memchr2(b'\r', b'\n', line);
    let line = match end {
        Some(end) => &line[..end],
        None if bytes.len() >= MAX_BYTES => return Found::NotHttp,
        None => line,
    };
    // No control belongs into a target; one says early that this is something else.
    if line.iter().any(|byte| *byte < b' ' || *byte == 0x7f) {
        return Found::NotHttp;
    }
    if end.is_none() {
        return Found::More;
    }
    let Some(at) = line.iter().rposition(|byte| *byte == b' ') else {
        return Found::NotHttp;
    };
    match &line[at + 1..] {
        _ if at == 0 => Found::NotHttp,
        b"HTTP/1.1" => Found::Http11,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Found::Http10
        }
        _ => Found::NotHttp,
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
