//! Values of added headers: literal text and the command operators that routes may use.
//!
//! Parsed when the table is built; writing appends to a buffer and never fails. What is not there
//! (a header the request has not, an upstream not yet chosen) is written as nothing. An operator
//! outside the supported set is refused by name.

use moorgate_codecs::{Head, Version};

use super::error::BuildError;
use crate::engine::reactor::Addr;
use crate::text::{MONTHS, Utc, WEEKDAYS, push_decimal, push_ip, push_padded, push_socket_addr};

/// What operators can ask about a stream besides its heads.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The client, as found from trusted headers or the connection.
    pub remote: &'a Addr,
    /// The peer of the connection.
    pub direct_remote: &'a Addr,
    /// Our address of the connection.
    pub local: &'a Addr,
    /// When the request began, microseconds since 1970.
    pub start_unix_us: i64,
    /// Name of this machine.
    pub hostname: &'a str,
    /// Status of the upstream's response, 0 when there is none (yet).
    pub response_code: u16,
    /// Name of the route; empty when it has none.
    pub route_name: &'a str,
    /// The chosen upstream endpoint.
    pub upstream_host: Option<&'a Addr>,
    /// Name of the chosen cluster; empty when there is none.
    pub upstream_cluster: &'a str,
    /// Version of the request.
    pub protocol: Version,
}

/// A parsed value.
#[derive(Clone, Debug, Default)]
pub struct Format {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(Vec<u8>),
    Operator {
        operator: Operator,
        max: Option<usize>,
    },
}

#[derive(Clone, Debug)]
enum Operator {
    RemoteAddress,
    RemoteAddressWithoutPort,
    RemotePort,
    DirectRemoteAddress,
    DirectRemoteAddressWithoutPort,
    LocalAddress,
    LocalAddressWithoutPort,
    LocalPort,
    Protocol,
    Request(HeaderRef),
    Response(HeaderRef),
    StartTime(Vec<TimePiece>),
    Hostname,
    ResponseCode,
    RouteName,
    UpstreamHost,
    UpstreamCluster,
}

/// `NAME?ALTERNATIVE`.
#[derive(Clone, Debug)]
struct HeaderRef {
    name: Vec<u8>,
    alternative: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum TimePiece {
    Literal(u8),
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    /// Digits after the point of a second, with the second itself in front when true.
    Fraction(u8, bool),
    Unix,
    Weekday,
    MonthName,
    DayOfYear,
}

/// Envoy's default for `%START_TIME%`.
const START_TIME: &str = "%Y-%m-%dT%H:%M:%E3SZ";

impl Format {
    /// A value without operators; a percent sign stands for itself.
    #[must_use]
    pub fn literal(text: &[u8]) -> Self {
        Self {
            pieces: if text.is_empty() {
                Vec::new()
            } else {
                vec![Piece::Literal(text.to_vec())]
            },
        }
    }

    /// Parses `%OPERATOR(arguments):length%` and literal text; `%%` is a percent sign.
    ///
    /// # Errors
    /// [`BuildError::Format`] names the operator that is unknown or malformed.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        let refuse = |operator: &str, reason| BuildError::Format {
            text: text.to_owned(),
            operator: operator.to_owned(),
            reason,
        };
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(percent) = rest.find('%') {
            literal.extend_from_slice(&rest.as_bytes()[..percent]);
            rest = &rest[percent + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push(b'%');
                rest = after;
                continue;
            }
            let name_len = rest
                .bytes()
                .take_while(|byte| byte.is_ascii_uppercase() || matches!(byte, b'_' | b'0'..=b'9'))
                .count();
            let (name, mut tail) = rest.split_at(name_len);
            let mut arguments = None;
            if let Some(inside) = tail.strip_prefix('(') {
                let end = inside
                    .find(')')
                    .ok_or_else(|| refuse(name, "closing parenthesis is missing"))?;
                arguments = Some(&inside[..end]);
                tail = &inside[end + 1..];
            }
            let mut max = None;
            if let Some(length) = tail.strip_prefix(':') {
                let digits = length
                    .bytes()
                    .take_while(|byte| byte.is_ascii_digit())
                    .count();
                max = Some(
                    length[..digits]
                        .parse()
                        .map_err(|_| refuse(name, "length is not a number"))?,
                );
                tail = &length[digits..];
            }
            rest = tail
                .strip_prefix('%')
                .ok_or_else(|| refuse(name, "closing percent sign is missing"))?;
            let operator =
                Operator::parse(name, arguments).map_err(|reason| refuse(name, reason))?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Operator { operator, max });
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self { pieces })
    }

    /// The text, when no operator is in it.
    #[must_use]
    pub fn as_literal(&self) -> Option<&[u8]> {
        match self.pieces.as_slice() {
            [] => Some(b""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The request head has to be kept until this is written.
    #[must_use]
    pub fn needs_request(&self) -> bool {
        self.pieces.iter().any(|piece| {
            matches!(
                piece,
                Piece::Operator {
                    operator: Operator::Request(_),
                    ..
                }
            )
        })
    }

    /// Appends the value.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        request: Option<&Head>,
        response: Option<&Head>,
        facts: &Facts<'_>,
    ) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Operator { operator, max } => {
                    let start = out.len();
                    operator.write(out, request, response, facts);
                    if let Some(max) = max {
                        out.truncate(start.saturating_add(*max).min(out.len()));
                    }
                }
            }
        }
    }
}

impl Operator {
    fn parse(name: &str, arguments: Option<&str>) -> Result<Self, &'static str> {
        let plain = match name {
            "DOWNSTREAM_REMOTE_ADDRESS" => Self::RemoteAddress,
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::RemoteAddressWithoutPort,
            "DOWNSTREAM_REMOTE_PORT" => Self::RemotePort,
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Self::DirectRemoteAddress,
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Self::DirectRemoteAddressWithoutPort,
            "DOWNSTREAM_LOCAL_ADDRESS" => Self::LocalAddress,
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::LocalAddressWithoutPort,
            "DOWNSTREAM_LOCAL_PORT" => Self::LocalPort,
            "PROTOCOL" => Self::Protocol,
            "HOSTNAME" => Self::Hostname,
            "RESPONSE_CODE" => Self::ResponseCode,
            "ROUTE_NAME" => Self::RouteName,
            "UPSTREAM_HOST" => Self::UpstreamHost,
            "UPSTREAM_CLUSTER" => Self::UpstreamCluster,
            "REQ" => return HeaderRef::parse(arguments).map(Self::Request),
            "RESP" => return HeaderRef::parse(arguments).map(Self::Response),
            "START_TIME" => {
                let format = arguments
                    .filter(|text| !text.is_empty())
                    .unwrap_or(START_TIME);
                return parse_time(format).map(Self::StartTime);
            }
            "" => return Err("a single '%' is written as '%%'"),
            _ => return Err("not supported in header values"),
        };
        if arguments.is_some() {
            return Err("takes no arguments");
        }
        Ok(plain)
    }

    fn write(
        &self,
        out: &mut Vec<u8>,
        request: Option<&Head>,
        response: Option<&Head>,
        facts: &Facts<'_>,
    ) {
        match self {
            Self::RemoteAddress => push_addr(out, facts.remote),
            Self::RemoteAddressWithoutPort => push_host(out, facts.remote),
            Self::RemotePort => push_port(out, facts.remote),
            Self::DirectRemoteAddress => push_addr(out, facts.direct_remote),
            Self::DirectRemoteAddressWithoutPort => push_host(out, facts.direct_remote),
            Self::LocalAddress => push_addr(out, facts.local),
            Self::LocalAddressWithoutPort => push_host(out, facts.local),
            Self::LocalPort => push_port(out, facts.local),
            Self::Protocol => out.extend_from_slice(protocol_name(facts.protocol)),
            Self::Request(header) => header.write(out, request),
            Self::Response(header) => header.write(out, response),
            Self::StartTime(pieces) => write_time(out, pieces, facts.start_unix_us),
            Self::Hostname => out.extend_from_slice(facts.hostname.as_bytes()),
            Self::ResponseCode => push_decimal(out, u64::from(facts.response_code)),
            Self::RouteName => out.extend_from_slice(facts.route_name.as_bytes()),
            Self::UpstreamHost => {
                if let Some(host) = facts.upstream_host {
                    push_addr(out, host);
                }
            }
            Self::UpstreamCluster => out.extend_from_slice(facts.upstream_cluster.as_bytes()),
        }
    }
}

/// The name access logs and headers give a version; empty for protocols other than HTTP.
#[must_use]
pub fn protocol_name(version: Version) -> &'static [u8] {
    match version {
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 => b"HTTP/1.1",
        Version::Http2 => b"HTTP/2",
        Version::Other => b"",
    }
}

/// Appends an address: `ip:port`, or the path of a Unix socket.
pub fn push_addr(out: &mut Vec<u8>, addr: &Addr) {
    match addr {
        Addr::Ip(addr) => push_socket_addr(out, *addr),
        Addr::Unix(path) => out.extend_from_slice(path.as_os_str().as_encoded_bytes()),
    }
}

/// Appends an address without its port.
pub fn push_host(out: &mut Vec<u8>, addr: &Addr) {
    match addr {
        Addr::Ip(addr) => push_ip(out, addr.ip()),
        Addr::Unix(_) => push_addr(out, addr),
    }
}

fn push_port(out: &mut Vec<u8>, addr: &Addr) {
    if let Addr::Ip(addr) = addr {
        push_decimal(out, u64::from(addr.port()));
    }
}

impl HeaderRef {
    fn parse(arguments: Option<&str>) -> Result<Self, &'static str> {
        let text = arguments.ok_or("needs a header name")?;
        let mut names = text.split('?').map(|name| {
            let lower = name.trim().to_ascii_lowercase();
            let bare = lower.strip_prefix(':').unwrap_or(&lower);
            if super::matcher::is_token(bare) {
                Ok(lower.into_bytes())
            } else {
                Err("not a header name")
            }
        });
        let parsed = Self {
            name: names.next().ok_or("needs a header name")??,
            alternative: names.next().transpose()?,
        };
        if names.next().is_some() {
            return Err("more than one alternative header");
        }
        Ok(parsed)
    }

    fn write(&self, out: &mut Vec<u8>, head: Option<&Head>) {
        let Some(head) = head else { return };
        for name in std::iter::once(&self.name).chain(&self.alternative) {
            if name == b":status" {
                if head.status != 0 {
                    push_decimal(out, u64::from(head.status));
                    return;
                }
            } else if let Some(value) = header(head, name) {
                out.extend_from_slice(value);
                return;
            }
        }
    }
}

/// The first value of a header or pseudo-header.
fn header<'a>(head: &'a Head, name: &[u8]) -> Option<&'a [u8]> {
    let pseudo = match name {
        b":method" => head.method(),
        b":path" => head.path(),
        b":authority" | b"host" => head.authority(),
        b":scheme" => head.scheme(),
        _ => return head.get(name),
    };
    Some(pseudo).filter(|value| !value.is_empty())
}

fn parse_time(format: &str) -> Result<Vec<TimePiece>, &'static str> {
    const UNKNOWN: &str = "unknown conversion in its time format";
    let mut pieces = Vec::new();
    let mut bytes = format.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            pieces.push(TimePiece::Literal(byte));
            continue;
        }
        match bytes.next().ok_or(UNKNOWN)? {
            b'Y' => pieces.push(TimePiece::Year),
            b'm' => pieces.push(TimePiece::Month),
            b'd' => pieces.push(TimePiece::Day),
            b'H' => pieces.push(TimePiece::Hour),
            b'M' => pieces.push(TimePiece::Minute),
            b'S' => pieces.push(TimePiece::Second),
            b's' => pieces.push(TimePiece::Unix),
            b'a' => pieces.push(TimePiece::Weekday),
            b'b' => pieces.push(TimePiece::MonthName),
            b'j' => pieces.push(TimePiece::DayOfYear),
            b'f' => pieces.push(TimePiece::Fraction(9, false)),
            b'%' => pieces.push(TimePiece::Literal(b'%')),
            b'F' => {
                let dash = || TimePiece::Literal(b'-');
                pieces.extend([
                    TimePiece::Year,
                    dash(),
                    TimePiece::Month,
                    dash(),
                    TimePiece::Day,
                ]);
            }
            b'T' => {
                let colon = || TimePiece::Literal(b':');
                pieces.extend([
                    TimePiece::Hour,
                    colon(),
                    TimePiece::Minute,
                    colon(),
                    TimePiece::Second,
                ]);
            }
            b'E' => match (bytes.next(), bytes.next()) {
                (Some(digits @ b'1'..=b'9'), Some(b'S')) => {
                    pieces.push(TimePiece::Fraction(digits - b'0', true));
                }
                _ => return Err(UNKNOWN),
            },
            digits @ b'1'..=b'9' if bytes.next() == Some(b'f') => {
                pieces.push(TimePiece::Fraction(digits - b'0', false));
            }
            _ => return Err(UNKNOWN),
        }
    }
    Ok(pieces)
}

fn write_time(out: &mut Vec<u8>, pieces: &[TimePiece], unix_us: i64) {
    let seconds = unix_us.div_euclid(1_000_000);
    let nanoseconds = unix_us.rem_euclid(1_000_000) as u64 * 1000;
    let utc = Utc::from_unix(seconds);
    for piece in pieces {
        match piece {
            TimePiece::Literal(byte) => out.push(*byte),
            TimePiece::Year => push_padded(out, utc.year.max(0) as u64, 4),
            TimePiece::Month => push_padded(out, u64::from(utc.month), 2),
            TimePiece::Day => push_padded(out, u64::from(utc.day), 2),
            TimePiece::Hour => push_padded(out, u64::from(utc.hour), 2),
            TimePiece::Minute => push_padded(out, u64::from(utc.minute), 2),
            TimePiece::Second => push_padded(out, u64::from(utc.second), 2),
            TimePiece::Fraction(digits, whole) => {
                if *whole {
                    push_padded(out, u64::from(utc.second), 2);
                    out.push(b'.');
                }
                let cut = 10_u64.pow(9 - u32::from(*digits));
                push_padded(out, nanoseconds / cut, usize::from(*digits));
            }
            TimePiece::Unix => push_decimal(out, seconds.max(0) as u64),
            TimePiece::Weekday => {
                out.extend_from_slice(WEEKDAYS[usize::from(utc.weekday % 7)].as_bytes());
            }
            TimePiece::MonthName => {
                out.extend_from_slice(MONTHS[usize::from((utc.month - 1) % 12)].as_bytes());
            }
            TimePiece::DayOfYear => push_padded(out, u64::from(utc.day_of_year), 3),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::route) fn with_facts<R>(use_them: impl FnOnce(&Facts<'_>) -> R) -> R {
        let remote = Addr::Ip("192.0.2.7:0".parse().unwrap());
        let direct = Addr::Ip("10.0.0.1:5000".parse().unwrap());
        let local = Addr::Ip("[::1]:8080".parse().unwrap());
        use_them(&Facts {
            remote: &remote,
            direct_remote: &direct,
            local: &local,
            start_unix_us: 1_700_000_000_123_456,
            hostname: "box",
            response_code: 0,
            route_name: "r1",
            upstream_host: None,
            upstream_cluster: "c1",
            protocol: Version::Http11,
        })
    }

    fn written(format: &str, request: &Head, response: Option<&Head>) -> String {
        let format = Format::parse(format).unwrap();
        let mut out = Vec::new();
        with_facts(|facts| format.write(&mut out, Some(request), response, facts));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn operators() {
        let mut request = Head::new();
        request.set_method(b"GET");
        request.set_path(b"/a?b");
        request.set_authority(b"h");
        request.push(b"x-one", b"1");
        let mut response = Head::new();
        response.status = 204;
        response.push(b"x-two", b"2");
        for (format, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("100%%", "100%"),
            ("%PROTOCOL%", "HTTP/1.1"),
            ("%DOWNSTREAM_REMOTE_ADDRESS%", "192.0.2.7:0"),
            ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "192.0.2.7"),
            ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "10.0.0.1:5000"),
            ("%DOWNSTREAM_LOCAL_ADDRESS%", "[::1]:8080"),
            ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "::1"),
            ("%DOWNSTREAM_LOCAL_PORT%", "8080"),
            ("[%REQ(X-One)%]", "[1]"),
            ("%REQ(:PATH):2%", "/a"),
            ("%REQ(none?x-one)%", "1"),
            ("%REQ(none)%", ""),
            ("%REQ(:authority)% %REQ(host)% %REQ(:method)%", "h h GET"),
            ("%RESP(x-two)%%RESP(:status)%", "2204"),
            ("%START_TIME%", "2023-11-14T22:13:20.123Z"),
            ("%START_TIME(%s.%3f)%", "1700000000.123"),
            (
                "%START_TIME(%a %d %b %F %T %j)%",
                "Tue 14 Nov 2023-11-14 22:13:20 318",
            ),
            ("%HOSTNAME%/%ROUTE_NAME%/%UPSTREAM_CLUSTER%", "box/r1/c1"),
            ("<%UPSTREAM_HOST%|%RESPONSE_CODE%>", "<|0>"),
        ] {
            assert_eq!(
                written(format, &request, Some(&response)),
                expected,
                "{format}"
            );
        }
    }

    #[test]
    fn refused_by_name() {
        for (format, name) in [
            ("%NOPE%", "NOPE"),
            ("50%", ""),
            ("a % b", ""),
            ("%PROTOCOL", "PROTOCOL"),
            ("%PROTOCOL(x)%", "PROTOCOL"),
            ("%REQ%", "REQ"),
            ("%REQ(a", "REQ"),
            ("%REQ(a?b?c)%", "REQ"),
            ("%REQ(a b)%", "REQ"),
            ("%REQ(a):x%", "REQ"),
            ("%START_TIME(%Q)%", "START_TIME"),
        ] {
            match Format::parse(format) {
                Err(BuildError::Format { operator, .. }) => assert_eq!(operator, name, "{format}"),
                other => panic!("{format}: {other:?}"),
            }
        }
    }

    #[test]
    fn literals_are_known() {
        assert_eq!(
            Format::parse("a%%b").unwrap().as_literal(),
            Some(&b"a%b"[..])
        );
        assert!(Format::parse("%PROTOCOL%").unwrap().as_literal().is_none());
        assert!(Format::parse("%REQ(a)%").unwrap().needs_request());
        assert!(!Format::parse("%RESP(a)%").unwrap().needs_request());
        assert_eq!(Format::literal(b"50%").as_literal(), Some(&b"50%"[..]));
    }
}
