//! The PROXY protocol, versions 1 and 2: who the client of a proxy in front of us is.
//!
//! Reading a header from the first bytes of a connection, and writing one. The addresses are those the
//! header says; whether to believe it is the caller's question.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How a header of version 1 begins.
const V1: &[u8] = b"PROXY ";
/// How a header of version 2 begins.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Most bytes of a header of version 1, its CRLF included.
const MAX_V1: usize = 107;
/// Fixed part of a header of version 2.
const FIXED_V2: usize = 16;
/// Most bytes of a header of version 2 that are taken: the format allows 64 KiB, but no proxy sends a
/// fraction of that, and what is looked at has to fit a receive buffer.
pub const MAX_HEADER: usize = 16 * 1024;

/// Versions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How it was written.
    pub version: Version,
    /// Client and destination; `None` where the proxy speaks for itself (LOCAL, UNKNOWN, a Unix socket):
    /// the addresses of the socket hold.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Its bytes, which have to be taken off the connection.
    pub length: usize,
}

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Cannot be told from these bytes.
    More,
    /// Does not begin as a header does.
    Absent,
    /// It began as one, and then it broke the rules of this version.
    Malformed(Version),
    /// A whole header.
    Header(Header),
}

/// Which versions the bytes may still be the beginning of; (false, false) when there is no header.
#[must_use]
pub fn may_be(bytes: &[u8]) -> (bool, bool) {
    let begins = |signature: &[u8]| {
        let shared = bytes.len().min(signature.len());
        bytes[..shared] == signature[..shared]
    };
    (begins(V1), begins(V2))
}

/// Reads the beginning of a connection.
#[must_use]
pub fn parse(bytes: &[u8]) -> Found {
    match may_be(bytes) {
        (false, false) => Found::Absent,
        (true, _) if bytes.len() >= V1.len() => v1(bytes),
        (_, true) if bytes.len() >= V2.len() => v2(bytes),
        _ => Found::More,
    }
}

fn v1(bytes: &[u8]) -> Found {
    let malformed = Found::Malformed(Version::V1);
    let Some(end) = memchr::memchr(b'\n', &bytes[..bytes.len().min(MAX_V1)]) else {
        return if bytes.len() >= MAX_V1 {
            malformed
        } else {
            Found::More
        };
    };
    let Some(line) = bytes[..end].strip_suffix(b"\r") else {
        return malformed;
    };
    let Ok(line) = std::str::from_utf8(&line[V1.len()..]) else {
        return malformed;
    };
    let addresses = match line.split(' ').next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => None,
        _ => match v1_addresses(line) {
            Some(addresses) => Some(addresses),
            None => return malformed,
        },
    };
    Found::Header(Header {
        version: Version::V1,
        addresses,
        length: end + 1,
    })
}

fn v1_addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut parts = line.split(' ');
    let family = parts.next()?;
    let (source, destination): (IpAddr, IpAddr) =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let (from, to) = (v1_port(parts.next()?)?, v1_port(parts.next()?)?);
    let fits = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    let fits = fits && is_unicast(source) && is_unicast(destination) && parts.next().is_none();
    fits.then(|| {
        (
            SocketAddr::new(source, from),
            SocketAddr::new(destination, to),
        )
    })
}

/// An address that a connection can come from and go to.
fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

/// Digits only: a sign is none.
fn v1_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn v2(bytes: &[u8]) -> Found {
    let malformed = Found::Malformed(Version::V2);
    let Some(&command) = bytes.get(V2.len()) else {
        return Found::More;
    };
    if command >> 4 != 2 || command & 0xf > 1 {
        return malformed;
    }
    let Some(fixed) = bytes.get(..FIXED_V2) else {
        return Found::More;
    };
    let length = FIXED_V2 + (usize::from(fixed[14]) << 8 | usize::from(fixed[15]));
    if length > MAX_HEADER {
        return malformed;
    }
    let body = &bytes[FIXED_V2..bytes.len().min(length)];
    let (family, transport) = (fixed[13] >> 4, fixed[13] & 0xf);
    let size = match family {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    // LOCAL: the proxy's own connection, whatever the rest says.
    let on_behalf = command & 0xf == 1;
    if on_behalf && (length - FIXED_V2 < size || family > 3 || transport > 2) {
        return malformed;
    }
    if body.len() < length - FIXED_V2 {
        return Found::More;
    }
    let addresses = match family {
        _ if !on_behalf || transport == 0 => None,
        1 => v2_addresses::<4>(body).map(|(from, to)| (IpAddr::from(from), IpAddr::from(to))),
        2 => v2_addresses::<16>(body).map(|(from, to)| (IpAddr::from(from), IpAddr::from(to))),
        _ => None,
    };
    let ports = |at: usize| {
        let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        (port(at), port(at + 2))
    };
    let addresses = addresses.map(|(source, destination)| {
        let (from, to) = ports(size - 4);
        (
            SocketAddr::new(source, from),
            SocketAddr::new(destination, to),
        )
    });
    let unicast = addresses.is_none_or(|(source, destination)| {
        is_unicast(source.ip()) && is_unicast(destination.ip())
    });
    if on_behalf && !(unicast && tlvs_fit(&body[size..])) {
        return malformed;
    }
    Found::Header(Header {
        version: Version::V2,
        addresses,
        length,
    })
}

fn v2_addresses<const N: usize>(body: &[u8]) -> Option<([u8; N], [u8; N])> {
    let source = body.get(..N)?.try_into().ok()?;
    let destination = body.get(N..2 * N)?.try_into().ok()?;
    Some((source, destination))
}

/// The type-length-value fields fill what is left of the header.
fn tlvs_fit(mut rest: &[u8]) -> bool {
    while let [_, high, low, values @ ..] = rest {
        let length = usize::from(*high) << 8 | usize::from(*low);
        match values.get(length..) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// Appends a header that says who a connection is from and where it was for. Without addresses it says
/// that the proxy speaks for itself.
pub fn write(version: Version, addresses: Option<(SocketAddr, SocketAddr)>, out: &mut Vec<u8>) {
    match version {
        Version::V1 => write_v1(addresses, out),
        Version::V2 => write_v2(addresses, out),
    }
}

fn write_v1(addresses: Option<(SocketAddr, SocketAddr)>, out: &mut Vec<u8>) {
    let line = match addresses {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some((source, destination)) => {
            let (from, to) = (source.port(), destination.port());
            match (source.ip(), destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    format!("PROXY TCP4 {source} {destination} {from} {to}\r\n")
                }
                (source, destination) => {
                    let (source, destination) = (as_v6(source), as_v6(destination));
                    format!("PROXY TCP6 {source} {destination} {from} {to}\r\n")
                }
            }
        }
    };
    out.extend_from_slice(line.as_bytes());
}

fn write_v2(addresses: Option<(SocketAddr, SocketAddr)>, out: &mut Vec<u8>) {
    out.extend_from_slice(V2);
    let Some((source, destination)) = addresses else {
        out.extend_from_slice(&[0x20, 0, 0, 0]);
        return;
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend_from_slice(&[0x21, 0x11, 0, 12]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
        (source, destination) => {
            out.extend_from_slice(&[0x21, 0x21, 0, 36]);
            out.extend_from_slice(&as_v6(source).octets());
            out.extend_from_slice(&as_v6(destination).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

/// Appends a header of version 2 with these type-length-value fields. False, and nothing is appended, when
/// they are more than a header can have.
#[must_use]
pub fn write_v2_with(
    addresses: Option<(SocketAddr, SocketAddr)>,
    tlvs: &[(u8, Box<[u8]>)],
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    write_v2(addresses, out);
    for (kind, value) in tlvs {
        let Ok(length) = u16::try_from(value.len()) else {
            out.truncate(start);
            return false;
        };
        out.push(*kind);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
    let Ok(length) = u16::try_from(out.len() - start - FIXED_V2) else {
        out.truncate(start);
        return false;
    };
    out[start + 14..start + FIXED_V2].copy_from_slice(&length.to_be_bytes());
    true
}

/// Both addresses of a header are of one family.
fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address),
        IpAddr::V6(address) => address,
    }
}
