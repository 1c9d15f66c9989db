//! What the connection manager does to a request head before any filter sees it.
//!
//! Judges path and authority, finds the client, and sets the headers that tell the next hop about
//! it; headers that only a trusted peer may send are taken away from everyone else. One pass over
//! the fields tells which of the rules apply at all.

use std::net::IpAddr;

use moorgate_codecs::Head;

use super::client_address::{self, Client, FORWARDED_FOR, append_peer, join};
use super::client_cert;
use super::local_reply::LocalReply;
use super::path::{PathVerdict, normalize_authority, normalize_path};
use crate::engine::reactor::Addr;
use crate::proxy::config::{Rules, Underscores};
use crate::text::push_decimal;

/// What the rules need to know of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// The peer, as PROXY protocol or the socket says.
    pub peer: &'a Addr,
    /// Our end.
    pub local: &'a Addr,
    /// The connection is encrypted.
    pub is_tls: bool,
    /// The client showed a certificate, and it was good.
    pub certificates: Option<client_cert::Certificates<'a>>,
    /// The address by which others know this machine: what stands for peers on the loopback.
    pub local_ip: Option<IpAddr>,
}

impl Connection<'_> {
    fn local_port(&self) -> Option<u16> {
        match self.local {
            Addr::Ip(addr) => Some(addr.port()),
            Addr::Unix(_) => None,
        }
    }
}

/// What was found out while a request was prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The client.
    pub client: Client,
    /// An external client's first contact with us (`use_remote_address`, not internal).
    pub edge: bool,
    /// `x-envoy-*` fields that the client sent are left: the router rules have to look at them.
    pub envoy_headers: bool,
    /// The request asks for its id in the response (`x-envoy-force-trace`).
    pub wants_request_id: bool,
}

const FORWARDED_PROTO: &[u8] = b"x-forwarded-proto";
const FORWARDED_PORT: &[u8] = b"x-forwarded-port";
const REQUEST_ID: &[u8] = b"x-request-id";
const ENVOY: &[u8] = b"x-envoy-";

/// Which fields a head has.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    forwarded_for: bool,
    forwarded_proto: bool,
    forwarded_port: bool,
    client_cert: bool,
    request_id: bool,
    via: bool,
    envoy: bool,
}

impl Seen {
    fn of(head: &Head) -> Self {
        let mut seen = Self::default();
        for (name, _) in head.fields() {
            match name {
                b"via" => seen.via = true,
                [b'x', b'-', rest @ ..] => match rest {
                    b"forwarded-for" => seen.forwarded_for = true,
                    b"forwarded-proto" => seen.forwarded_proto = true,
                    b"forwarded-port" => seen.forwarded_port = true,
                    b"forwarded-client-cert" => seen.client_cert = true,
                    b"request-id" => seen.request_id = true,
                    [b'e', b'n', b'v', b'o', b'y', b'-', ..] => seen.envoy = true,
                    _ => {}
                },
                _ => {}
            }
        }
        seen
    }
}

/// Judges a request and prepares it for the filters.
///
/// `random` is asked for 64 bits twice when a request id is made. `buffer` is overwritten.
///
/// # Errors
/// The reply to give instead of going on.
pub fn prepare(
    head: &mut Head,
    rules: &Rules,
    connection: &Connection<'_>,
    random: impl FnMut() -> u64,
    buffer: &mut Vec<u8>,
) -> Result<Prepared, LocalReply> {
    if head.method() == b"QUERY" && head.get(b"content-type").is_none() {
        // The query is its content, which means nothing without a type.
        return Err(LocalReply::Codec {
            status: 400,
            detail: "query_missing_content_type",
        });
    }
    underscores(head, rules)?;
    judge_target(head, rules, buffer)?;
    normalize_authority(head, rules, connection.local_port(), buffer);

    let seen = Seen::of(head);
    let client = client_address::find(head, rules, connection.peer, seen.forwarded_for);
    forwarded(head, rules, connection, seen, buffer);
    scheme(head, rules, connection, buffer);

    let edge = rules.use_remote_address && !client.internal;
    let mut envoy_headers = seen.envoy;
    if seen.envoy {
        envoy_headers = sanitize(head, client.internal, edge);
    }
    client_cert::apply(
        head,
        rules.client_cert,
        connection.certificates.as_ref(),
        seen.client_cert,
        buffer,
    );
    if client.internal {
        head.set(b"x-envoy-internal", b"true");
    }
    if !rules.via.is_empty() {
        join(head, b"via", b", ", seen.via, buffer, |out| {
            out.extend_from_slice(rules.via.as_bytes());
        });
    }
    if edge {
        let address = client.address.map(|address| address.ip());
        let address = address.or_else(|| match connection.peer {
            Addr::Ip(peer) => Some(peer.ip()),
            Addr::Unix(_) => None,
        });
        if let Some(address) = address {
            buffer.clear();
            crate::text::push_ip(buffer, address);
            head.set(b"x-envoy-external-address", buffer);
        }
    }
    let foreign_id = edge && !rules.preserve_external_request_id;
    if rules.generate_request_id && (foreign_id || !seen.request_id) {
        let id = uuid_v4(random);
        if seen.request_id {
            head.set(REQUEST_ID, &id);
        } else {
            head.push(REQUEST_ID, &id);
        }
    }
    Ok(Prepared {
        client,
        edge,
        envoy_headers,
        wants_request_id: envoy_headers && head.get(b"x-envoy-force-trace").is_some(),
    })
}

fn underscores(head: &mut Head, rules: &Rules) -> Result<(), LocalReply> {
    match rules.underscores {
        Underscores::Allow => Ok(()),
        Underscores::DropHeader => {
            head.retain(|name, _| !name.contains(&b'_'));
            Ok(())
        }
        Underscores::RejectRequest if head.fields().any(|(name, _)| name.contains(&b'_')) => {
            Err(LocalReply::Codec {
                status: 400,
                detail: "http1.unexpected_underscore",
            })
        }
        Underscores::RejectRequest => Ok(()),
    }
}

fn judge_target(head: &mut Head, rules: &Rules, buffer: &mut Vec<u8>) -> Result<(), LocalReply> {
    match head.path() {
        [b'/', ..] => match normalize_path(head, rules, buffer) {
            PathVerdict::Continue => Ok(()),
            PathVerdict::Reject => Err(LocalReply::BadPath),
            PathVerdict::Redirect => Err(LocalReply::NormalizedPath),
        },
        _ if head.method() == b"CONNECT" => Ok(()),
        [] => Err(LocalReply::MissingPath),
        _ => Err(LocalReply::AbsolutePath),
    }
}

fn forwarded(
    head: &mut Head,
    rules: &Rules,
    connection: &Connection<'_>,
    seen: Seen,
    buffer: &mut Vec<u8>,
) {
    let proto: &[u8] = if connection.is_tls { b"https" } else { b"http" };
    let untrusted = rules.use_remote_address && rules.xff_num_trusted_hops == 0;
    if rules.use_remote_address && !rules.skip_xff_append {
        append_peer(
            head,
            connection.peer,
            connection.local_ip,
            seen.forwarded_for,
            buffer,
        );
    }
    if !seen.forwarded_proto {
        head.push(FORWARDED_PROTO, proto);
    } else if untrusted {
        head.set(FORWARDED_PROTO, proto);
    }
    if rules.append_x_forwarded_port
        && rules.use_remote_address
        && (untrusted || !seen.forwarded_port)
        && let Some(port) = connection.local_port()
    {
        buffer.clear();
        push_decimal(buffer, u64::from(port));
        head.set(FORWARDED_PORT, buffer);
    }
}

fn scheme(head: &mut Head, rules: &Rules, connection: &Connection<'_>, buffer: &mut Vec<u8>) {
    if let Some(scheme) = &rules.scheme_overwrite {
        head.set_scheme(scheme.as_bytes());
        head.set(FORWARDED_PROTO, scheme.as_bytes());
        return;
    }
    if head.scheme().is_empty() {
        let scheme: &[u8] = match head.get(FORWARDED_PROTO) {
            Some(proto) if proto.eq_ignore_ascii_case(b"https") => b"https",
            Some(proto) if proto.eq_ignore_ascii_case(b"http") => b"http",
            _ if connection.is_tls => b"https",
            _ => b"http",
        };
        head.set_scheme(scheme);
    } else if head.scheme().iter().any(u8::is_ascii_uppercase) {
        buffer.clear();
        buffer.extend_from_slice(head.scheme());
        buffer.make_ascii_lowercase();
        head.set_scheme(buffer);
    }
}

/// Takes away what a client that is not one of us may not send; true when `x-envoy-*` fields are
/// left.
fn sanitize(head: &mut Head, internal: bool, edge: bool) -> bool {
    let mut left = false;
    head.retain(|name, _| {
        let Some(name) = name.strip_prefix(ENVOY) else {
            return true;
        };
        let keep = match name {
            b"internal" => false,
            b"decorator-operation"
            | b"downstream-service-cluster"
            | b"downstream-service-node"
            | b"original-path"
            | b"original-host" => !edge,
            b"retry-on"
            | b"retry-grpc-on"
            | b"max-retries"
            | b"retriable-status-codes"
            | b"retriable-header-names"
            | b"hedge-on-per-try-timeout"
            | b"upstream-alt-stat-name"
            | b"upstream-rq-timeout-ms"
            | b"upstream-rq-per-try-timeout-ms"
            | b"upstream-rq-timeout-alt-response"
            | b"upstream-stream-duration-ms"
            | b"expected-rq-timeout-ms"
            | b"force-trace"
            | b"ip-tags"
            | b"original-url" => internal,
            _ => true,
        };
        left |= keep;
        keep
    });
    left
}

/// A random UUID (RFC 9562 section 5.4) in its text form.
pub fn uuid_v4(mut random: impl FnMut() -> u64) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [0_u8; 16];
    bytes[..8].copy_from_slice(&random().to_le_bytes());
    bytes[8..].copy_from_slice(&random().to_le_bytes());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    text
}

/// Where the client's chain of proxies is written.
#[must_use]
pub fn forwarded_for(head: &Head) -> Option<&[u8]> {
    head.get(FORWARDED_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::config::{EscapedSlashes, Network};

    const ALL: [&str; 20] = [
        "retry-on",
        "retry-grpc-on",
        "max-retries",
        "retriable-status-codes",
        "retriable-header-names",
        "hedge-on-per-try-timeout",
        "upstream-alt-stat-name",
        "upstream-rq-timeout-ms",
        "upstream-rq-per-try-timeout-ms",
        "upstream-rq-timeout-alt-response",
        "upstream-stream-duration-ms",
        "expected-rq-timeout-ms",
        "force-trace",
        "ip-tags",
        "original-url",
        "decorator-operation",
        "downstream-service-cluster",
        "original-path",
        "attempt-count",
        "internal",
    ];

    fn get(fields: &[(&str, &str)]) -> Head {
        let mut head = Head::new();
        head.set_method(b"GET");
        head.set_authority(b"h.example");
        head.set_path(b"/a");
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn prepared(head: &mut Head, rules: &Rules) -> Result<Prepared, LocalReply> {
        let peer = Addr::Ip("127.0.0.1:4000".parse().unwrap());
        let local = Addr::Ip("127.0.0.1:8080".parse().unwrap());
        let connection = Connection {
            peer: &peer,
            local: &local,
            is_tls: false,
            certificates: None,
            local_ip: Some("192.0.2.2".parse().unwrap()),
        };
        prepare(head, rules, &connection, || u64::MAX, &mut Vec::new())
    }

    fn text(head: &Head) -> String {
        head.fields()
            .map(|(name, value)| {
                let text = String::from_utf8_lossy;
                format!("{}={}", text(name), text(value))
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    const ID: &str = "x-request-id=ffffffff-ffff-4fff-bfff-ffffffffffff";

    fn edge() -> Rules {
        Rules {
            use_remote_address: true,
            ..Rules::default()
        }
    }

    fn internal() -> Rules {
        Rules {
            internal_networks: vec![Network::new("127.0.0.0".parse().unwrap(), 8).unwrap()],
            ..edge()
        }
    }

    #[test]
    fn defaults() {
        let mut head = get(&[]);
        let facts = prepared(&mut head, &Rules::default()).unwrap();
        assert_eq!(text(&head), format!("x-forwarded-proto=http {ID}"));
        assert_eq!(head.scheme(), b"http");
        assert!(!facts.edge && !facts.envoy_headers && !facts.client.internal);

        let mut head = get(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-client-cert", "By=me"),
            ("x-request-id", "mine"),
        ]);
        let facts = prepared(&mut head, &Rules::default()).unwrap();
        assert_eq!(
            text(&head),
            "x-forwarded-for=1.2.3.4 x-forwarded-proto=https x-request-id=mine"
        );
        assert_eq!(head.scheme(), b"https");
        assert_eq!(facts.client.address, Some("1.2.3.4:0".parse().unwrap()));
    }

    #[test]
    fn edge_requests() {
        let mut head = get(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "theirs"),
            ("x-envoy-external-address", "5.5.5.5"),
        ]);
        let facts = prepared(&mut head, &edge()).unwrap();
        assert_eq!(
            text(&head),
            format!(
                "x-forwarded-for=1.2.3.4,192.0.2.2 x-forwarded-proto=http {ID} \
                 x-envoy-external-address=127.0.0.1"
            )
        );
        assert!(facts.edge);

        let mut head = get(&[("x-request-id", "theirs")]);
        let rules = Rules {
            preserve_external_request_id: true,
            skip_xff_append: true,
            ..edge()
        };
        prepared(&mut head, &rules).unwrap();
        assert_eq!(
            text(&head),
            "x-request-id=theirs x-forwarded-proto=http x-envoy-external-address=127.0.0.1"
        );
    }

    #[test]
    fn internal_requests() {
        let mut head = get(&[("x-request-id", "ours"), ("x-envoy-force-trace", "1")]);
        let facts = prepared(&mut head, &internal()).unwrap();
        assert_eq!(
            text(&head),
            "x-request-id=ours x-envoy-force-trace=1 x-forwarded-for=192.0.2.2 \
             x-forwarded-proto=http x-envoy-internal=true"
        );
        assert!(facts.client.internal && facts.envoy_headers && facts.wants_request_id);
    }

    #[test]
    fn sanitizing() {
        let left = |rules: &Rules| {
            let names: Vec<_> = ALL.iter().map(|name| format!("x-envoy-{name}")).collect();
            let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
            let mut head = get(&fields);
            prepared(&mut head, rules).unwrap();
            head.fields()
                .filter(|(_, value)| *value == b"1")
                .map(|(name, _)| String::from_utf8_lossy(&name[8..]).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(left(&edge()), ["attempt-count"]);
        assert_eq!(
            left(&Rules::default()),
            [
                "decorator-operation",
                "downstream-service-cluster",
                "original-path",
                "attempt-count"
            ]
        );
        assert_eq!(left(&internal()), ALL[..19]);
    }

    #[test]
    fn further_headers() {
        let rules = Rules {
            append_x_forwarded_port: true,
            via: "me".into(),
            scheme_overwrite: Some("https".into()),
            generate_request_id: false,
            ..internal()
        };
        let mut head = get(&[("via", "1.1 x"), ("x-forwarded-port", "9")]);
        prepared(&mut head, &rules).unwrap();
        assert_eq!(
            text(&head),
            "via=1.1 x, me x-forwarded-port=8080 x-forwarded-for=192.0.2.2 \
             x-forwarded-proto=https x-envoy-internal=true"
        );
        assert_eq!(head.scheme(), b"https");
    }

    #[test]
    fn refusals() {
        let judge = |path: &str, rules: &Rules, fields: &[(&str, &str)]| {
            let mut head = get(fields);
            head.set_path(path.as_bytes());
            prepared(&mut head, rules).err()
        };
        let rules = Rules::default();
        assert_eq!(judge("*", &rules, &[]), Some(LocalReply::AbsolutePath));
        assert_eq!(judge("", &rules, &[]), Some(LocalReply::MissingPath));
        assert_eq!(judge("/#", &rules, &[]), Some(LocalReply::BadPath));
        assert_eq!(judge("/", &rules, &[("a_b", "")]), None);
        let strict = Rules {
            underscores: Underscores::RejectRequest,
            escaped_slashes: EscapedSlashes::UnescapeAndRedirect,
            ..Rules::default()
        };
        assert!(matches!(
            judge("/", &strict, &[("a_b", "")]),
            Some(LocalReply::Codec { status: 400, .. })
        ));
        assert_eq!(
            judge("/%2f", &strict, &[]),
            Some(LocalReply::NormalizedPath)
        );
        let dropping = Rules {
            underscores: Underscores::DropHeader,
            ..Rules::default()
        };
        let mut head = get(&[("a_b", "1"), ("a-b", "2")]);
        prepared(&mut head, &dropping).unwrap();
        assert!(head.get(b"a_b").is_none() && head.get(b"a-b").is_some());
    }

    #[test]
    fn request_ids() {
        let mut counter = 0_u64;
        let id = uuid_v4(|| {
            counter += 1;
            counter
        });
        assert_eq!(&id, b"01000000-0000-4000-8200-000000000000");
    }
}
