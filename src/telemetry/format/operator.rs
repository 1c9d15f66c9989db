//! The operators of the access-log format language: names, arguments, values.
//!
//! An operator that is not listed here is an error when the format is compiled, never a dash in a
//! log. Values are written without allocation.

use std::fmt::Write as _;

use moorgate_codecs::{Head, Version};

use super::time::{TimeFormat, padded};
use super::{Environment, Out, Utf8Writer};
use crate::engine::reactor::Addr;
use crate::grpc;
use crate::telemetry::flags;
use crate::telemetry::record::{PeerPart, Record};

/// Which head a header operator reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Request,
    Response,
    Trailers,
}

/// Which part of an address is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    WithoutPort,
    Port,
}

/// Which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    UpstreamRemote,
    UpstreamLocal,
    DownstreamRemote,
    DownstreamDirectRemote,
    DownstreamLocal,
    DownstreamDirectLocal,
}

/// Points in time for `%COMMON_DURATION%`, in Envoy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    DownstreamRxBegin,
    DownstreamRxEnd,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
}

/// Numbers: JSON shows them without quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    Status,
    BytesReceived,
    BytesSent,
    DownstreamWireReceived,
    DownstreamWireSent,
    UpstreamWireReceived,
    UpstreamWireSent,
    Connection,
    UpstreamConnection,
    Attempts,
    /// Between two points, in units of so many microseconds.
    Between(Point, Point, u64),
    /// From start to end, in milliseconds.
    Duration,
}

/// Text that the record holds as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    Termination,
    UpstreamHostname,
    UpstreamCluster,
    UpstreamClusterRaw,
    Route,
    FilterChain,
    ServerName,
    StreamId,
}

/// How `%GRPC_STATUS%` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcForm {
    Camel,
    Snake,
    Number,
}

/// An operator with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    /// First of the two header names that is there. Names are lower case.
    Header(Source, Box<str>, Option<Box<str>>),
    StartTime(TimeFormat),
    EmitTime(TimeFormat),
    Number(Number),
    Text(Text),
    /// White space becomes `_` unless the flag is set.
    Details(bool),
    UpstreamFailure,
    TlsVersion,
    TlsCipher,
    /// Of the client's certificate; the one operator that allocates when it is written.
    Peer(PeerPart),
    Flags {
        long: bool,
    },
    GrpcStatus(GrpcForm),
    Protocol,
    UpstreamProtocol,
    Address(Place, Part),
    /// Known when the format is compiled.
    Constant(Option<Box<str>>),
}

/// Why an operator was refused.
pub(crate) fn parse(
    name: &str,
    arguments: Option<&str>,
    environment: &Environment<'_>,
) -> Result<Operator, String> {
    let operator = match name {
        "REQ" | "RESP" | "TRAILER" => {
            let source = match name {
                "REQ" => Source::Request,
                "RESP" => Source::Response,
                _ => Source::Trailers,
            };
            return header(name, source, arguments);
        }
        "START_TIME" | "EMIT_TIME" => {
            let format = match arguments {
                None | Some("") => TimeFormat::iso(),
                Some(pattern) => TimeFormat::parse(pattern)
                    .map_err(|part| format!("%{name}%: unknown time specifier '{part}'"))?,
            };
            return Ok(match name {
                "START_TIME" => Operator::StartTime(format),
                _ => Operator::EmitTime(format),
            });
        }
        "ENVIRONMENT" => {
            let Some(variable) = arguments.filter(|variable| !variable.is_empty()) else {
                return Err("%ENVIRONMENT% needs the name of a variable".to_owned());
            };
            return Ok(Operator::Constant(
                (environment.variable)(variable).map(Into::into),
            ));
        }
        "COMMON_DURATION" => return common_duration(arguments.unwrap_or_default()),
        "RESPONSE_CODE_DETAILS" => {
            return match arguments {
                None => Ok(Operator::Details(false)),
                Some("ALLOW_WHITESPACES") => Ok(Operator::Details(true)),
                Some(other) => Err(format!(
                    "%RESPONSE_CODE_DETAILS({other})%: only ALLOW_WHITESPACES is known"
                )),
            };
        }
        "GRPC_STATUS" => {
            return match arguments {
                None | Some("" | "CAMEL_STRING") => Ok(Operator::GrpcStatus(GrpcForm::Camel)),
                Some("SNAKE_STRING") => Ok(Operator::GrpcStatus(GrpcForm::Snake)),
                Some("NUMBER") => Ok(Operator::GrpcStatus(GrpcForm::Number)),
                Some(other) => Err(format!(
                    "%GRPC_STATUS({other})%: only CAMEL_STRING, SNAKE_STRING and NUMBER are known"
                )),
            };
        }
        "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(GrpcForm::Number),
        "HOSTNAME" => Operator::Constant(Some(environment.hostname.into())),
        "PROTOCOL" => Operator::Protocol,
        "DOWNSTREAM_TLS_VERSION" => Operator::TlsVersion,
        "DOWNSTREAM_TLS_CIPHER" => Operator::TlsCipher,
        "DOWNSTREAM_PEER_SUBJECT" => Operator::Peer(PeerPart::Subject),
        "DOWNSTREAM_PEER_ISSUER" => Operator::Peer(PeerPart::Issuer),
        "DOWNSTREAM_PEER_SERIAL" => Operator::Peer(PeerPart::Serial),
        "DOWNSTREAM_PEER_FINGERPRINT_256" => Operator::Peer(PeerPart::Fingerprint),
        "DOWNSTREAM_PEER_URI_SAN" => Operator::Peer(PeerPart::Uris),
        "DOWNSTREAM_PEER_DNS_SAN" => Operator::Peer(PeerPart::DnsNames),
        "DOWNSTREAM_PEER_CERT" => Operator::Peer(PeerPart::Pem),
        "UPSTREAM_PROTOCOL" => Operator::UpstreamProtocol,
        "RESPONSE_FLAGS" => Operator::Flags { long: false },
        "RESPONSE_FLAGS_LONG" => Operator::Flags { long: true },
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::UpstreamFailure,
        _ => match (number(name), text(name), address(name)) {
            (Some(number), _, _) => Operator::Number(number),
            (_, Some(text), _) => Operator::Text(text),
            (_, _, Some((place, part))) => Operator::Address(place, part),
            _ => return Err(format!("%{name}% is not supported")),
        },
    };
    match arguments {
        None => Ok(operator),
        Some(_) => Err(format!("%{name}% takes no arguments")),
    }
}

fn number(name: &str) -> Option<Number> {
    use Point::{
        DownstreamRxBegin, DownstreamRxEnd, DownstreamTxEnd, UpstreamRxBegin, UpstreamTxEnd,
    };
    Some(match name {
        "RESPONSE_CODE" => Number::Status,
        "BYTES_RECEIVED" => Number::BytesReceived,
        "BYTES_SENT" => Number::BytesSent,
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Number::DownstreamWireReceived,
        "DOWNSTREAM_WIRE_BYTES_SENT" => Number::DownstreamWireSent,
        "UPSTREAM_WIRE_BYTES_RECEIVED" => Number::UpstreamWireReceived,
        "UPSTREAM_WIRE_BYTES_SENT" => Number::UpstreamWireSent,
        "CONNECTION_ID" => Number::Connection,
        "UPSTREAM_CONNECTION_ID" => Number::UpstreamConnection,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Number::Attempts,
        "DURATION" => Number::Duration,
        "REQUEST_DURATION" => Number::Between(DownstreamRxBegin, DownstreamRxEnd, 1000),
        "REQUEST_TX_DURATION" => Number::Between(DownstreamRxBegin, UpstreamTxEnd, 1000),
        "RESPONSE_DURATION" => Number::Between(DownstreamRxBegin, UpstreamRxBegin, 1000),
        "RESPONSE_TX_DURATION" => Number::Between(UpstreamRxBegin, DownstreamTxEnd, 1000),
        _ => return None,
    })
}

fn text(name: &str) -> Option<Text> {
    Some(match name {
        "CONNECTION_TERMINATION_DETAILS" => Text::Termination,
        "UPSTREAM_HOST_NAME" => Text::UpstreamHostname,
        "UPSTREAM_CLUSTER" => Text::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => Text::UpstreamClusterRaw,
        "ROUTE_NAME" => Text::Route,
        "FILTER_CHAIN_NAME" => Text::FilterChain,
        "REQUESTED_SERVER_NAME" => Text::ServerName,
        "STREAM_ID" => Text::StreamId,
        _ => return None,
    })
}

fn address(name: &str) -> Option<(Place, Part)> {
    if name == "UPSTREAM_HOST" {
        return Some((Place::UpstreamRemote, Part::Whole));
    }
    let (name, part) = if let Some(name) = name.strip_suffix("_ADDRESS_WITHOUT_PORT") {
        (name, Part::WithoutPort)
    } else if let Some(name) = name.strip_suffix("_ADDRESS") {
        (name, Part::Whole)
    } else {
        (name.strip_suffix("_PORT")?, Part::Port)
    };
    let place = match name {
        "UPSTREAM_REMOTE" => Place::UpstreamRemote,
        "UPSTREAM_LOCAL" => Place::UpstreamLocal,
        "DOWNSTREAM_REMOTE" => Place::DownstreamRemote,
        "DOWNSTREAM_DIRECT_REMOTE" => Place::DownstreamDirectRemote,
        "DOWNSTREAM_LOCAL" => Place::DownstreamLocal,
        "DOWNSTREAM_DIRECT_LOCAL" => Place::DownstreamDirectLocal,
        _ => return None,
    };
    Some((place, part))
}

/// `(main?alternative)`
fn header(name: &str, source: Source, arguments: Option<&str>) -> Result<Operator, String> {
    let (main, alternative) = match arguments.unwrap_or_default().split_once('?') {
        Some((main, alternative)) => (main, Some(alternative)),
        None => (arguments.unwrap_or_default(), None),
    };
    let check = |header: &str| {
        let known = match (header.strip_prefix(':'), source) {
            (None, _) => !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_graphic()),
            (Some(pseudo), Source::Request) => {
                ["method", "path", "authority", "scheme"].contains(&&*pseudo.to_ascii_lowercase())
            }
            (Some(pseudo), Source::Response) => pseudo.eq_ignore_ascii_case("status"),
            (Some(_), Source::Trailers) => false,
        };
        match known {
            true => Ok(header.to_ascii_lowercase().into_boxed_str()),
            false => Err(format!("%{name}%: '{header}' is no header name")),
        }
    };
    let alternative = match alternative {
        Some(alternative) if alternative.contains('?') => {
            return Err(format!("%{name}%: more than one alternative header"));
        }
        Some(alternative) => Some(check(alternative)?),
        None => None,
    };
    Ok(Operator::Header(source, check(main)?, alternative))
}

/// `(start:end:precision)`
fn common_duration(arguments: &str) -> Result<Operator, String> {
    let point = |name: &str| {
        Ok(match name {
            "DS_RX_BEG" => Point::DownstreamRxBegin,
            "DS_RX_END" => Point::DownstreamRxEnd,
            "US_TX_BEG" => Point::UpstreamTxBegin,
            "US_TX_END" => Point::UpstreamTxEnd,
            "US_RX_BEG" => Point::UpstreamRxBegin,
            "US_RX_END" => Point::UpstreamRxEnd,
            "DS_TX_BEG" => Point::DownstreamTxBegin,
            "DS_TX_END" => Point::DownstreamTxEnd,
            _ => return Err(format!("%COMMON_DURATION%: unknown point in time '{name}'")),
        })
    };
    let parts: Vec<&str> = arguments.split(':').collect();
    let [start, end, precision] = parts[..] else {
        return Err("%COMMON_DURATION% needs start, end and precision".to_owned());
    };
    let unit = match precision {
        "ms" => 1000,
        "us" => 1,
        _ => {
            return Err(format!(
                "%COMMON_DURATION%: precision '{precision}' is not ms or us"
            ));
        }
    };
    Ok(Operator::Number(Number::Between(
        point(start)?,
        point(end)?,
        unit,
    )))
}

/// A header or pseudo-header by lower-case name.
fn lookup<'a>(head: &'a Head, name: &str) -> Option<&'a [u8]> {
    let present = |value: &'a [u8]| (!value.is_empty()).then_some(value);
    match name {
        ":method" => present(head.method()),
        // A CONNECT has none (RFC 9110 section 9.3.6).
        ":path" if head.method() == b"CONNECT" => None,
        ":path" => present(head.path()),
        ":authority" => present(head.authority()),
        ":scheme" => present(head.scheme()),
        _ => head.get(name.as_bytes()),
    }
}

/// A version as logs print it.
fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::Http10 => Some("HTTP/1.0"),
        Version::Http11 => Some("HTTP/1.1"),
        Version::Http2 => Some("HTTP/2"),
        Version::Other => None,
    }
}

impl Number {
    fn value(self, record: &Record<'_>) -> Option<u64> {
        let some = |value: u64| (value > 0).then_some(value);
        match self {
            Self::Status => Some(u64::from(record.status)),
            Self::BytesReceived => Some(record.bytes_received),
            Self::BytesSent => Some(record.bytes_sent),
            Self::DownstreamWireReceived => Some(record.downstream_wire.received),
            Self::DownstreamWireSent => Some(record.downstream_wire.sent),
            Self::UpstreamWireReceived => Some(record.upstream_wire.received),
            Self::UpstreamWireSent => Some(record.upstream_wire.sent),
            Self::Connection => Some(record.connection),
            Self::UpstreamConnection => some(record.upstream_connection),
            Self::Attempts => Some(u64::from(record.attempts)),
            Self::Duration => record.duration_us().map(|duration| duration / 1000),
            Self::Between(start, end, unit) => {
                let duration = end.at(record)?.checked_sub(start.at(record)?)?;
                Some(duration / unit)
            }
        }
    }
}

impl Point {
    fn at(self, record: &Record<'_>) -> Option<u64> {
        let timings = &record.timings;
        match self {
            Self::DownstreamRxBegin => Some(0),
            Self::DownstreamRxEnd => timings.request_end,
            Self::UpstreamTxBegin => timings.upstream_tx_start,
            Self::UpstreamTxEnd => timings.upstream_tx_end,
            Self::UpstreamRxBegin => timings.upstream_rx_start,
            Self::UpstreamRxEnd => timings.upstream_rx_end,
            Self::DownstreamTxBegin => timings.downstream_tx_start,
            Self::DownstreamTxEnd => timings.downstream_tx_end,
        }
    }
}

impl Operator {
    /// The value is a number, which JSON shows without quotes.
    pub(crate) fn number(&self, record: &Record<'_>) -> Option<Option<u64>> {
        match self {
            Self::Number(number) => Some(number.value(record)),
            Self::Address(place, Part::Port) => {
                let port = match place.get(record) {
                    Some(Addr::Ip(addr)) => Some(u64::from(addr.port())),
                    _ => None,
                };
                Some(port)
            }
            // What is no number is shown as the text -1.
            Self::GrpcStatus(GrpcForm::Number) => match record.grpc_status() {
                Some(status) => status.map(Some),
                None => Some(None),
            },
            _ => None,
        }
    }

    /// Writes the value; false, and nothing written, when there is none.
    pub(crate) fn write(&self, record: &Record<'_>, now_us: u64, out: &mut dyn Out) -> bool {
        if let Some(number) = self.number(record) {
            if let Some(number) = number {
                padded(number, 1, b'0', out);
            }
            return number.is_some();
        }
        let text = match self {
            Self::Header(source, main, alternative) => {
                return header_value(*source, main, alternative.as_deref(), record, out);
            }
            Self::StartTime(format) => {
                format.write(record.start_us, out);
                return true;
            }
            Self::EmitTime(format) => {
                format.write(now_us, out);
                return true;
            }
            Self::Details(true) => record.details,
            Self::Details(false) => return without_spaces(record.details, out),
            Self::UpstreamFailure => return without_spaces(record.upstream_failure, out),
            Self::Flags { long } => {
                let mut first = true;
                for (bit, short, long_name) in flags::NAMES {
                    if record.flags & bit != 0 {
                        if !first {
                            out.put(b",");
                        }
                        out.put(if *long { long_name } else { short }.as_bytes());
                        first = false;
                    }
                }
                if first {
                    out.put(b"-");
                }
                return true;
            }
            Self::GrpcStatus(form) => match record.grpc_status() {
                None => "",
                Some(None) => "-1",
                Some(Some(status)) => match (grpc::name(status), form) {
                    (Some((_, snake)), GrpcForm::Snake) => snake,
                    (Some((camel, _)), _) => camel,
                    (None, _) => {
                        padded(status, 1, b'0', out);
                        return true;
                    }
                },
            },
            Self::TlsVersion => record.tls.map_or("", |tls| tls.version),
            Self::TlsCipher => record.tls.map_or("", |tls| tls.cipher),
            Self::Peer(part) => {
                let peer = record.tls.and_then(|tls| tls.peer);
                let text = peer.map(|peer| peer.part(*part)).unwrap_or_default();
                out.put(text.as_bytes());
                return !text.is_empty();
            }
            Self::Protocol => record.protocol.and_then(version).unwrap_or_default(),
            Self::UpstreamProtocol => record
                .upstream_protocol
                .and_then(version)
                .unwrap_or_default(),
            Self::Address(place, part) => return place.write(*part, record, out),
            Self::Constant(text) => text.as_deref().unwrap_or_default(),
            Self::Text(Text::UpstreamHostname) if record.upstream_hostname.is_empty() => {
                return Place::UpstreamRemote.write(Part::Whole, record, out);
            }
            Self::Text(text) => match text {
                Text::Termination => record.termination,
                Text::UpstreamHostname => record.upstream_hostname,
                Text::UpstreamCluster => record.upstream_cluster,
                Text::UpstreamClusterRaw => record.upstream_cluster_raw,
                Text::Route => record.route,
                Text::FilterChain => record.filter_chain,
                Text::ServerName => record.server_name,
                Text::StreamId => record.stream_id,
            },
            Self::Number(_) => "",
        };
        out.put(text.as_bytes());
        !text.is_empty()
    }
}

fn header_value(
    source: Source,
    main: &str,
    alternative: Option<&str>,
    record: &Record<'_>,
    out: &mut dyn Out,
) -> bool {
    let head = match source {
        Source::Request => record.request,
        Source::Response => record.response,
        Source::Trailers => record.trailers,
    };
    let Some(head) = head else { return false };
    if main == ":status" || (alternative == Some(":status") && lookup(head, main).is_none()) {
        padded(u64::from(head.status), 1, b'0', out);
        return true;
    }
    let value = lookup(head, main).or_else(|| lookup(head, alternative?));
    out.put(value.unwrap_or_default());
    value.is_some()
}

/// Writes text with `_` for white space, so that it stays one word of a line.
fn without_spaces(text: &str, out: &mut dyn Out) -> bool {
    let mut first = true;
    for word in text.split_ascii_whitespace() {
        if !first {
            out.put(b"_");
        }
        out.put(word.as_bytes());
        first = false;
    }
    !first
}

impl Place {
    fn get<'a>(self, record: &Record<'a>) -> Option<&'a Addr> {
        match self {
            Self::UpstreamRemote => record.upstream_host,
            Self::UpstreamLocal => record.upstream_local,
            Self::DownstreamRemote => record.downstream_remote,
            Self::DownstreamDirectRemote => record.downstream_direct_remote,
            Self::DownstreamLocal => record.downstream_local,
            Self::DownstreamDirectLocal => record.downstream_direct_local,
        }
    }

    fn write(self, part: Part, record: &Record<'_>, out: &mut dyn Out) -> bool {
        let Some(addr) = self.get(record) else {
            return false;
        };
        // The writer never fails.
        let _ = match (addr, part) {
            (Addr::Ip(addr), Part::WithoutPort) => write!(Utf8Writer(out), "{}", addr.ip()),
            (addr, _) => write!(Utf8Writer(out), "{addr}"),
        };
        true
    }
}
