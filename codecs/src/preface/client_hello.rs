//! The names in a TLS ClientHello (RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2).
//!
//! Only what a choice among servers needs: the server's name (RFC 6066 section 3) and the application
//! protocols (RFC 7301 section 3.1). It verifies nothing else, and never takes part in a handshake.

use std::borrow::Cow;

/// Content type `handshake`.
const HANDSHAKE: u8 = 22;
/// Handshake type `client_hello`.
const CLIENT_HELLO: u8 = 1;
/// Extension `server_name`.
const SERVER_NAME: u16 = 0;
/// Extension `application_layer_protocol_negotiation`.
const ALPN: u16 = 16;
/// Bytes of a record's header.
const RECORD_HEADER: usize = 5;
/// Most bytes of a plaintext record (RFC 8446 section 5.1).
const MAX_RECORD: usize = 1 << 14;

/// What a hello asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The server's name in lower case.
    pub server: Option<Box<str>>,
    /// Application protocols, most wanted first. `None`: the extension is absent.
    pub protocols: Option<Vec<Box<[u8]>>>,
}

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Cannot be told from these bytes.
    More,
    /// Not the beginning of TLS.
    NotTls,
    /// It began as TLS, and then it broke the rules of a hello.
    Malformed,
    /// A whole hello.
    Hello(Names),
}

/// Reads the beginning of a connection.
///
/// The caller bounds the size: a hello that is not whole within the bytes it is willing to look at is
/// too large. A hello may be spread over records as its sender likes.
#[must_use]
pub fn parse(bytes: &[u8]) -> Found {
    if !matches!(bytes, [] | [HANDSHAKE] | [HANDSHAKE, 3, ..]) {
        return Found::NotTls;
    }
    let handshake = match join(bytes) {
        Ok(joined) => joined,
        Err(found) => return found,
    };
    let [_, a, b, c, body @ ..] = &*handshake else {
        return Found::More;
    };
    let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    match body.get(..length) {
        Some(body) => names(body).map_or(Found::Malformed, Found::Hello),
        None => Found::More,
    }
}

/// The handshake bytes of the records; copied only when the hello is in several of them.
fn join(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Found> {
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    while rest.len() >= RECORD_HEADER {
        let length = usize::from(rest[3]) << 8 | usize::from(rest[4]);
        if rest[0] != HANDSHAKE || rest[1] != 3 || length == 0 || length > MAX_RECORD {
            // The first header decides whether it is TLS at all; a later one breaks the hello.
            return Err(if joined.is_empty() {
                Found::NotTls
            } else {
                Found::Malformed
            });
        }
        let end = (RECORD_HEADER + length).min(rest.len());
        let fragment = &rest[RECORD_HEADER..end];
        if joined.is_empty() {
            joined = Cow::Borrowed(fragment);
        } else {
            joined.to_mut().extend_from_slice(fragment);
        }
        if joined.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Found::NotTls);
        }
        // A hello that is whole needs no look at what follows it.
        if let [CLIENT_HELLO, a, b, c, body @ ..] = &*joined
            && body.len() >= (usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c))
        {
            break;
        }
        rest = &rest[end..];
    }
    Ok(joined)
}

/// A cursor over vectors with lengths in front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<usize> {
        self.take(1).map(|bytes| usize::from(bytes[0]))
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2)
            .map(|bytes| usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
    }

    fn vector8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(length).map(Self)
    }

    fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length).map(Self)
    }
}

/// `None` when the body is not that of a hello.
fn names(body: &[u8]) -> Option<Names> {
    let mut reader = Reader(body);
    // legacy_version and random.
    reader.take(2 + 32)?;
    let session = reader.vector8()?;
    let suites = reader.vector16()?;
    let compression = reader.vector8()?;
    if session.0.len() > 32
        || suites.0.is_empty()
        || suites.0.len() % 2 != 0
        || compression.0.is_empty()
    {
        return None;
    }
    let mut names = Names::default();
    if reader.0.is_empty() {
        // Before TLS 1.3 a hello may have no extensions.
        return Some(names);
    }
    let mut extensions = reader.vector16()?;
    if !reader.0.is_empty() {
        return None;
    }
    let (mut named, mut spoken) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let body = extensions.vector16()?;
        let twice = match kind as u16 {
            SERVER_NAME => {
                names.server = server_name(body)?;
                std::mem::replace(&mut named, true)
            }
            ALPN => {
                names.protocols = Some(protocols(body)?);
                std::mem::replace(&mut spoken, true)
            }
            _ => false,
        };
        // RFC 8446 section 4.2: no extension comes twice.
        if twice {
            return None;
        }
    }
    Some(names)
}

/// RFC 6066 section 3: a list in which only `host_name` is defined, once.
fn server_name(mut body: Reader<'_>) -> Option<Option<Box<str>>> {
    let mut list = body.vector16()?;
    let kind = list.u8()?;
    let name = list.vector16()?;
    if !body.0.is_empty() || !list.0.is_empty() || kind != 0 {
        return None;
    }
    let plain = !name.0.is_empty()
        && name.0.len() <= 255
        && name.0.iter().all(|byte| byte.is_ascii_graphic());
    let text = std::str::from_utf8(name.0).ok().filter(|_| plain)?;
    Some(Some(text.to_ascii_lowercase().into()))
}

fn protocols(mut body: Reader<'_>) -> Option<Vec<Box<[u8]>>> {
    let mut list = body.vector16()?;
    if !body.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?;
        if name.0.is_empty() {
            return None;
        }
        protocols.push(name.0.into());
    }
    Some(protocols)
}
