use super::*;
use proptest::prelude::*;

const GOOD: Outcome = Outcome::Success { degraded: false };

fn done(outcome: Outcome, keep: bool) -> Step {
    Step::Done { outcome, keep }
}

fn wrong(retriable: bool) -> Outcome {
    Outcome::Wrong {
        retriable,
        excluded: false,
    }
}

fn tcp(send: &[u8], receive: &[&[u8]]) -> HealthCheck {
    HealthCheck {
        kind: HealthCheckKind::Tcp {
            send: send.to_vec(),
            receive: receive.iter().map(|part| part.to_vec()).collect(),
        },
        ..HealthCheck::default()
    }
}

fn http() -> HealthCheck {
    HealthCheck {
        kind: HealthCheckKind::Http {
            host: String::new(),
            path: "/healthz?full".to_owned(),
            method: "GET".to_owned(),
            expected: Vec::new(),
            retriable: Vec::new(),
            headers: vec![("X-Probe".to_owned(), "yes".to_owned())],
            receive: Vec::new(),
        },
        ..HealthCheck::default()
    }
}

fn probe(check: &HealthCheck) -> Probe {
    Probe::new(check, "svc.test", &Arc::default())
}

/// Begins a check and gives it an answer in one piece.
fn answer(check: &HealthCheck, bytes: &[u8]) -> Step {
    let mut probe = probe(check);
    let mut out = Vec::new();
    assert!(probe.begin(check, &mut out));
    probe.received(check, bytes, 0, &mut out)
}

#[test]
fn a_plain_tcp_check_is_a_connect() {
    let check = tcp(b"not sent", &[]);
    let mut probe = probe(&check);
    let mut out = Vec::new();
    assert!(probe.begin(&check, &mut out));
    assert_eq!(out, b"");
    assert_eq!(probe.connected(&check), done(GOOD, false));
}

#[test]
fn a_tcp_answer_is_searched_in_order() {
    let check = tcp(b"PING\r\n", &[b"PO", b"NG"]);
    let mut probe = probe(&check);
    let mut out = Vec::new();
    assert!(probe.begin(&check, &mut out));
    assert_eq!(out, b"PING\r\n");
    assert_eq!(probe.connected(&check), Step::Wait);
    assert_eq!(probe.received(&check, b"NG P", 0, &mut out), Step::Wait);
    assert_eq!(probe.received(&check, b"ON", 0, &mut out), Step::Wait);
    assert_eq!(probe.received(&check, b"G", 0, &mut out), done(GOOD, true));
    assert!(probe.begin(&check, &mut out));
    assert_eq!(
        probe.received(&check, b"x", 0, &mut out),
        Step::Wait,
        "anew"
    );
    assert_eq!(probe.closed(&check), done(Outcome::Network, false));
    assert_eq!(probe.closed_while_idle(), Some(Outcome::Network));
}

#[test]
fn an_endless_tcp_answer_fails() {
    let check = tcp(b"", &[b"never"]);
    let mut probe = probe(&check);
    let mut out = Vec::new();
    assert!(probe.begin(&check, &mut out));
    let step = (0..100)
        .map(|_| probe.received(&check, &[0; 1024], 0, &mut out))
        .find(|step| *step != Step::Wait);
    assert_eq!(step, Some(done(Outcome::Network, false)));
}

#[test]
fn segments_do_not_overlap() {
    let segments = |list: &[&[u8]]| list.iter().map(|part| part.to_vec()).collect::<Vec<_>>();
    assert!(matches(b"abab", &segments(&[b"ab", b"ab"])));
    assert!(!matches(b"aba", &segments(&[b"ab", b"ab"])));
    assert!(matches(b"", &segments(&[b""])));
    assert!(matches(b"", &[]));
}

#[test]
fn an_http_check_is_a_request() {
    let check = http();
    let mut probe = probe(&check);
    let mut out = Vec::new();
    assert!(probe.begin(&check, &mut out));
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.starts_with("GET /healthz?full HTTP/1.1\r\nhost: svc.test\r\n"),
        "{text}"
    );
    assert!(text.contains("user-agent: Moorgate/HC\r\n"), "{text}");
    assert!(text.contains("x-probe: yes\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n"), "{text}");
    assert_eq!(probe.connected(&check), Step::Wait);
}

#[test]
fn statuses_are_judged() {
    let mut check = http();
    let status = |check: &HealthCheck, status: u16| {
        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        answer(check, text.as_bytes())
    };
    assert_eq!(status(&check, 200), done(GOOD, true));
    assert_eq!(status(&check, 204), done(wrong(false), true));
    assert_eq!(status(&check, 503), done(wrong(false), true));
    if let HealthCheckKind::Http {
        expected,
        retriable,
        ..
    } = &mut check.kind
    {
        *expected = vec![201..202, 300..400];
        *retriable = vec![500..503, 503..504];
    }
    assert_eq!(status(&check, 200), done(wrong(false), true));
    assert_eq!(status(&check, 201), done(GOOD, true));
    assert_eq!(status(&check, 399), done(GOOD, true));
    assert_eq!(status(&check, 503), done(wrong(true), true));
}

#[test]
fn interim_responses_are_passed_over() {
    let text = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    assert_eq!(answer(&http(), text), done(GOOD, true));
}

#[test]
fn the_body_is_searched() {
    let mut check = http();
    if let HealthCheckKind::Http { receive, .. } = &mut check.kind {
        *receive = vec![b"ready".to_vec()];
    }
    let body = |body: &str| {
        let length = body.len();
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        answer(&check, text.as_bytes())
    };
    assert_eq!(body("all ready"), done(GOOD, true));
    assert_eq!(body("not yet"), done(wrong(false), true));
    assert_eq!(
        body(&format!("{}ready", "x".repeat(1019))),
        done(GOOD, true)
    );
    assert_eq!(
        body(&format!("{}ready", "x".repeat(1020))),
        done(wrong(false), true)
    );
}

#[test]
fn headers_tell_degraded_and_excluded() {
    let text = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-envoy-degraded: 1\r\n\r\n";
    let degraded = Outcome::Success { degraded: true };
    assert_eq!(answer(&http(), text), done(degraded, true));
    let text =
        b"HTTP/1.1 503 X\r\ncontent-length: 0\r\nx-envoy-immediate-health-check-fail: true\r\n\r\n";
    let excluded = Outcome::Wrong {
        retriable: false,
        excluded: true,
    };
    assert_eq!(answer(&http(), text), done(excluded, true));
}

#[test]
fn connections_are_kept_only_when_they_can_be() {
    let close = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    assert_eq!(answer(&http(), close), done(GOOD, false));
    let more = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n";
    assert_eq!(answer(&http(), more), done(GOOD, false));
    let once = HealthCheck {
        reuse_connection: false,
        ..http()
    };
    let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(answer(&once, plain), done(GOOD, false));
}

#[test]
fn a_kept_connection_serves_the_next_check() {
    let check = http();
    let mut probe = probe(&check);
    for _ in 0..3 {
        let mut out = Vec::new();
        assert!(probe.begin(&check, &mut out));
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        for byte in &text[..text.len() - 1] {
            assert_eq!(probe.received(&check, &[*byte], 0, &mut out), Step::Wait);
        }
        assert_eq!(probe.received(&check, b"\n", 0, &mut out), done(GOOD, true));
    }
    assert_eq!(probe.closed_while_idle(), None);
}

#[test]
fn a_body_may_end_with_the_connection() {
    let check = http();
    let mut probe = probe(&check);
    let mut out = Vec::new();
    assert!(probe.begin(&check, &mut out));
    let step = probe.received(&check, b"HTTP/1.1 200 OK\r\n\r\nhello", 0, &mut out);
    assert_eq!(step, Step::Wait);
    assert_eq!(probe.closed(&check), done(GOOD, false));
    let mut cut = super::tests::probe(&check);
    assert!(cut.begin(&check, &mut out));
    let step = cut.received(
        &check,
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel",
        0,
        &mut out,
    );
    assert_eq!(step, Step::Wait);
    assert_eq!(cut.closed(&check), done(Outcome::Network, false));
}

#[test]
fn what_is_not_http_fails() {
    for text in [
        &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        assert_eq!(answer(&http(), text), done(Outcome::Network, false));
    }
}

proptest! {
    #[test]
    fn any_answer_is_taken_without_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        prefix in prop::sample::select(&[
            "", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ][..]),
        cut in 1_usize..50,
    ) {
        let check = http();
        let mut probe = probe(&check);
        let mut out = Vec::new();
        prop_assert!(probe.begin(&check, &mut out));
        let text = [prefix.as_bytes(), &bytes].concat();
        let ended = text
            .chunks(cut)
            .any(|part| probe.received(&check, part, 0, &mut out) != Step::Wait);
        if !ended {
            prop_assert_ne!(probe.closed(&check), Step::Wait);
        }
    }
}
