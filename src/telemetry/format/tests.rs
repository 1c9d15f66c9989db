use std::net::SocketAddr;

use moorgate_codecs::{Head, HeadKind, Version};

use super::*;
use crate::engine::reactor::Addr;
use crate::telemetry::flags;
use crate::telemetry::record::{Timings, WireBytes};

fn environment() -> Environment<'static> {
    Environment {
        hostname: "box",
        variable: |name| (name == "HOME").then(|| "/root".to_owned()),
    }
}

fn addr(text: &str) -> Addr {
    Addr::Ip(text.parse::<SocketAddr>().unwrap())
}

struct Facts {
    request: Head,
    response: Head,
    upstream: Addr,
    client: Addr,
}

impl Facts {
    fn new() -> Self {
        let mut request = Head::new();
        request.set_method(b"GET");
        request.set_path(b"/d/x?y=1");
        request.set_authority(b"localhost:29080");
        request.push(b"user-agent", b"curl/7.88.1");
        request.push(b"x-a", b"abcdefgh");
        request.push(b"x-quote", b"a\"b\\c\x01\xff");
        let mut response = Head::new();
        response.kind = HeadKind::Response;
        response.status = 200;
        response.push(b"x-envoy-upstream-service-time", b"4");
        Self {
            request,
            response,
            upstream: addr("127.0.0.1:29082"),
            client: addr("[::1]:51934"),
        }
    }

    fn record(&self) -> Record<'_> {
        Record {
            request: Some(&self.request),
            response: Some(&self.response),
            protocol: Some(Version::Http11),
            status: 200,
            details: "via upstream",
            bytes_received: 7,
            bytes_sent: 335,
            downstream_wire: WireBytes {
                received: 90,
                sent: 501,
            },
            start_us: 1_795_263_341_744_151,
            timings: Timings {
                request_end: Some(1_200),
                upstream_tx_end: Some(2_500),
                upstream_rx_start: Some(4_100),
                downstream_tx_end: Some(5_900),
                end: Some(6_000),
                ..Timings::default()
            },
            upstream_host: Some(&self.upstream),
            upstream_cluster: "up",
            downstream_remote: Some(&self.client),
            connection: 3,
            attempts: 1,
            ..Record::default()
        }
    }
}

fn text(format: &str, record: &Record<'_>) -> String {
    let mut out = Vec::new();
    let format = Format::text(format, false, &environment()).unwrap();
    format.write(record, 0, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn refused(format: &str) -> String {
    Format::text(format, false, &environment()).unwrap_err()
}

#[test]
fn the_default_line_is_that_of_envoy() {
    let facts = Facts::new();
    assert_eq!(
        text(DEFAULT, &facts.record()),
        "[2026-11-21T12:15:41.744Z] \"GET /d/x?y=1 HTTP/1.1\" 200 - 7 335 6 4 \"-\" \
         \"curl/7.88.1\" \"-\" \"localhost:29080\" \"127.0.0.1:29082\"\n"
    );
    let tcp = Record {
        bytes_sent: 79,
        bytes_received: 490,
        start_us: 1_795_263_341_768_000,
        timings: Timings {
            end: Some(6_000),
            ..Timings::default()
        },
        upstream_host: Some(&facts.upstream),
        ..Record::default()
    };
    assert_eq!(
        text(DEFAULT, &tcp),
        "[2026-11-21T12:15:41.768Z] \"- - -\" 0 - 490 79 6 - \"-\" \"-\" \"-\" \"-\" \
         \"127.0.0.1:29082\"\n"
    );
}

#[test]
fn operators_give_their_facts() {
    let facts = Facts::new();
    let mut record = facts.record();
    record.flags = flags::UPSTREAM_CONNECT_FAILURE | flags::RETRY_LIMIT;
    let cases = [
        ("100%%", "100%"),
        ("%REQ(x-a?:PATH):4%", "abcd"),
        ("%REQ(nope?:path):4%", "/d/x"),
        ("%REQ(nope)%", "-"),
        ("%REQ(nope):4%", "-"),
        ("%RESP(:status)%", "200"),
        ("%TRAILER(grpc-status)%", "-"),
        ("%RESPONSE_FLAGS%", "URX,UF"),
        (
            "%RESPONSE_FLAGS_LONG%",
            "UpstreamRetryLimitExceeded,UpstreamConnectionFailure",
        ),
        ("%RESPONSE_CODE_DETAILS%", "via_upstream"),
        ("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "via upstream"),
        ("%REQUEST_DURATION%", "1"),
        ("%REQUEST_TX_DURATION%", "2"),
        ("%RESPONSE_DURATION%", "4"),
        ("%RESPONSE_TX_DURATION%", "1"),
        ("%COMMON_DURATION(US_RX_BEG:DS_TX_END:us)%", "1800"),
        ("%COMMON_DURATION(US_TX_BEG:DS_TX_END:us)%", "-"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "[::1]:51934"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "::1"),
        ("%DOWNSTREAM_REMOTE_PORT%", "51934"),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", "-"),
        ("%UPSTREAM_REMOTE_ADDRESS%", "127.0.0.1:29082"),
        ("%UPSTREAM_CLUSTER%", "up"),
        (
            "%HOSTNAME% %ENVIRONMENT(HOME)% %ENVIRONMENT(NO)%",
            "box /root -",
        ),
        ("%CONNECTION_ID% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "3 1"),
        ("%DOWNSTREAM_WIRE_BYTES_SENT%", "501"),
        ("%START_TIME(%s.%3f)%", "1795263341.744"),
        ("%EMIT_TIME(%s)%", "0"),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", "-"),
    ];
    for (format, expected) in cases {
        assert_eq!(text(format, &record), expected, "{format}");
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let cases = [
        ("a %WHAT% b", "%WHAT% is not supported"),
        (
            "%DYNAMIC_METADATA(a:b)%",
            "%DYNAMIC_METADATA% is not supported",
        ),
        ("%REQ(:status)%", "%REQ%: ':status' is no header name"),
        ("%REQ()%", "%REQ%: '' is no header name"),
        ("%REQ(a?b?c)%", "%REQ%: more than one alternative header"),
        ("%DURATION(x)%", "%DURATION% takes no arguments"),
        ("%REQ(a):b%", "%REQ%: 'b' is no length"),
        ("50% off", "'% off' is no operator"),
        ("%REQ(a", "'%REQ(a' is no operator"),
        ("%", "'%' is no operator"),
        (
            "%START_TIME(%Q)%",
            "%START_TIME%: unknown time specifier '%Q'",
        ),
    ];
    for (format, error) in cases {
        assert_eq!(refused(format), error);
    }
}

fn object(fields: &[(&str, JsonTemplate)]) -> JsonTemplate {
    let fields = fields.iter().cloned();
    JsonTemplate::Object(fields.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn string(text: &str) -> JsonTemplate {
    JsonTemplate::Text(text.to_owned())
}

#[test]
fn json_keeps_types_and_sorts_keys() {
    let facts = Facts::new();
    let template = object(&[
        ("z", string("%REQ(nope)%")),
        ("a", string("%RESPONSE_CODE%")),
        ("b", string("x%RESPONSE_CODE%%REQ(nope)%")),
        (
            "n",
            object(&[("d", string("%DURATION%")), ("t", JsonTemplate::Bool(true))]),
        ),
        (
            "l",
            JsonTemplate::List(vec![string("%PROTOCOL%"), JsonTemplate::Number(3.0)]),
        ),
        ("q", string("%REQ(x-quote)%")),
        ("p", string("%DOWNSTREAM_REMOTE_PORT%")),
        ("e", string("")),
    ]);
    let write = |omit_empty| {
        let mut out = Vec::new();
        let format = Format::json(&template, omit_empty, &environment()).unwrap();
        format.write(&facts.record(), 0, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        write(false),
        "{\"a\":200,\"b\":\"x200-\",\"e\":\"\",\"l\":[\"HTTP/1.1\",3],\"n\":{\"d\":6,\"t\":true},\
         \"p\":51934,\"q\":\"a\\\"b\\\\c\\u0001\u{fffd}\",\"z\":null}\n"
    );
    assert_eq!(
        write(true),
        "{\"a\":200,\"b\":\"x200\",\"e\":\"\",\"l\":[\"HTTP/1.1\",3],\"n\":{\"d\":6,\"t\":true},\
         \"p\":51934,\"q\":\"a\\\"b\\\\c\\u0001\u{fffd}\"}\n"
    );
}

#[test]
fn formats_say_what_to_keep() {
    let keeps = Format::text(DEFAULT, false, &environment())
        .unwrap()
        .keeps();
    let names: Vec<&str> = keeps.request.iter().map(|name| &**name).collect();
    assert_eq!(
        names,
        [
            ":method",
            "x-envoy-original-path",
            ":path",
            "x-forwarded-for",
            "user-agent",
            "x-request-id",
            ":authority"
        ]
    );
    assert_eq!(&*keeps.response[0], "x-envoy-upstream-service-time");
    let facts = Facts::new();
    let mut kept = Head::new();
    keeps.reduce_request(&facts.request, &mut kept);
    let mut record = facts.record();
    let whole = text(DEFAULT, &record);
    record.request = Some(&kept);
    assert_eq!(text(DEFAULT, &record), whole);
    assert_eq!(kept.len(), 1);
}

#[test]
fn grpc_statuses() {
    let facts = Facts::new();
    let mut request = Head::new();
    request.push(b"content-type", b"application/grpc");
    let head = |status: &str| {
        let mut head = Head::new();
        head.push(b"grpc-status", status.as_bytes());
        head
    };
    let format =
        "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%\n";
    let none = facts.record();
    assert_eq!(text(format, &none), "- - - -\n", "not gRPC");
    for (trailers, response, status, expected) in [
        (Some("0"), None, 200, "OK OK 0 0\n"),
        (Some("1"), Some("2"), 200, "Canceled CANCELLED 1 1\n"),
        (
            None,
            Some("4"),
            200,
            "DeadlineExceeded DEADLINE_EXCEEDED 4 4\n",
        ),
        (None, None, 503, "Unavailable UNAVAILABLE 14 14\n"),
        (Some("99"), None, 200, "99 99 99 99\n"),
        (Some("x"), None, 200, "-1 -1 -1 -1\n"),
        (None, None, 0, "- - - -\n"),
    ] {
        let (trailers, response) = (trailers.map(head), response.map(head));
        let record = Record {
            request: Some(&request),
            response: response.as_ref(),
            trailers: trailers.as_ref(),
            status,
            ..facts.record()
        };
        assert_eq!(text(format, &record), expected);
    }
}
