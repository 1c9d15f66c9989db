//! Requests in, responses out.

use super::*;
use crate::codec::{Payload, ResetReason, SendError};

fn lines(bytes: &[u8]) -> Vec<String> {
    serve(&settings(), bytes).0
}

fn refusal(bytes: &[u8]) -> String {
    lines(bytes).pop().unwrap_or_default()
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const OK_CLOSE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[test]
fn keep_alive_and_pipelining() {
    let (log, out) = serve(
        &settings(),
        b"GET /a?b=c HTTP/1.1\r\nHost: h:80\r\nX-A:  v w \r\n\r\n\
          POST /b HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc\
          \r\nGET / HTTP/1.1\r\nhost: h\r\nConnection: close\r\n\r\nGET /never",
    );
    assert_eq!(
        log,
        [
            "1 GET h:80/a?b=c x-a=v w end",
            "2 POST h/b length=3",
            "2 data abc",
            "2 end",
            "3 GET h/ end",
            "closed",
        ]
    );
    assert_eq!(
        String::from_utf8(out).expect("ascii"),
        format!("{OK}{OK}{OK_CLOSE}")
    );
}

#[test]
fn pipelined_rest_stays_with_the_caller() {
    let mut wire = Wire::new(Server::new(settings()));
    let one = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";
    assert_eq!(wire.feed(&one.repeat(3)), Why::Paused);
    assert_eq!(wire.rest.len(), 2 * one.len());
    assert_eq!(wire.feed(b""), Why::Paused);
    wire.codec
        .send_head(1, &ok(), false, &mut wire.out)
        .expect("head");
    assert_eq!(wire.feed(b""), Why::Paused);
    assert_eq!(wire.codec.send_data(1, 2, true, &mut wire.out), Ok(2));
    assert_eq!(wire.feed(b""), Why::Paused);
    assert_eq!(wire.rest.len(), one.len());
    assert_eq!(wire.codec.streams(), 1);
    let stale = wire.codec.send_data(1, 2, true, &mut wire.out);
    assert_eq!(stale, Err(SendError::UnknownStream));
}

#[test]
fn chunked_with_extensions_and_trailers() {
    assert_eq!(
        lines(
            b"POST / HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: Chunked\r\n\r\n\
              3\r\nabc\r\n00A;x=\"y z\"\r\n0123456789\r\n1 ;q\r\n!\r\n0;last\r\n\
              X-Sum: 7\r\nContent-Length: 9\r\nhost: evil\r\n\r\n\
              POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        [
            "1 POST h/",
            "1 data abc0123456789!",
            "1 trailers  x-sum=7",
            "2 POST h/",
            "2 end",
        ]
    );
}

#[test]
fn trailers_that_are_not_wanted_are_read_and_dropped() {
    let settings = Arc::new(Settings::default());
    let head = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = b"1\r\na\r\n0\r\nx: y\r\n\r\n";
    let (log, _) = serve(&settings, &[&head[..], body].concat());
    assert_eq!(log, ["1 POST h/", "1 data a", "1 end"]);
}

#[test]
fn a_chunked_message_in_one_piece_is_two_events() {
    let mut server = Server::new(settings());
    let mut events = Events::default();
    let input =
        b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    server.decode(0, input, &mut events, &mut Out::default());
    assert_eq!(events.list.len(), 2);
    assert!(matches!(
        &events.list[1],
        Event::Data { range, end: true, .. } if &input[range.clone()] == b"abc"
    ));
}

#[test]
fn targets() {
    let line = |line: &str| refusal(format!("{line}\r\nhost: h\r\n\r\n").as_bytes());
    assert_eq!(line("OPTIONS * HTTP/1.1"), "1 OPTIONS h* end");
    assert_eq!(
        line("GET http://Other:81/x?y HTTP/1.1"),
        "1 GET http://Other:81/x?y end"
    );
    assert_eq!(
        line("GET HTTPS://o HTTP/1.1"),
        "refused 403 http1.https_url_on_plaintext_connection on 1"
    );
    assert_eq!(line("GET HTTP://o HTTP/1.1"), "1 GET http://o/ end");
    for fragment in ["GET /a#b HTTP/1.1", "GET http://o#b HTTP/1.1"] {
        let refused = "refused 400 path_normalization_failed on 1";
        assert_eq!(line(fragment), refused, "{fragment}");
    }
    assert_eq!(line("GET http://o?q HTTP/1.1"), "1 GET http://o/?q end");
    assert_eq!(line("OPTIONS http://o HTTP/1.1"), "1 OPTIONS http://o* end");
    for bad in [
        "GET * HTTP/1.1",
        "GET a HTTP/1.1",
        "GET h:80 HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET http://u@o/ HTTP/1.1",
        "GET http://o:x/ HTTP/1.1",
        "GET ftp://o/ HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "CONNECT /x HTTP/1.1",
        "CONNECT o HTTP/1.1",
        "CONNECT http://o:80 HTTP/1.1",
    ] {
        assert_eq!(line(bad), "refused 400 http1.invalid_url on 1", "{bad}");
    }
    let relative = Arc::new(Settings {
        allow_absolute_url: false,
        ..Settings::default()
    });
    let (log, _) = serve(&relative, b"GET http://o/ HTTP/1.1\r\nhost: h\r\n\r\n");
    assert_eq!(log, ["refused 400 http1.invalid_url on 1"]);
}

#[test]
fn http_10() {
    let (log, out) = serve(
        &settings(),
        b"GET / HTTP/1.0\r\nhost: h\r\nconnection: Keep-Alive\r\n\r\n\
          GET / HTTP/1.0\r\nhost: h\r\n\r\n",
    );
    assert_eq!(log, ["1 GET h/ end", "2 GET h/ end", "closed"]);
    assert_eq!(
        String::from_utf8(out).expect("ascii"),
        "HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n\
         HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let strict = Arc::new(Settings::default());
    let (log, _) = serve(&strict, b"GET / HTTP/1.0\r\nhost: h\r\n\r\n");
    assert_eq!(log, ["refused 426 low_version on 1"]);
    let (log, _) = serve(&settings(), b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(log, ["refused 400 missing_host_header on 1"]);
    let default = Arc::new(Settings {
        accept_http_10: true,
        default_host_for_http_10: Some("d".into()),
        ..Settings::default()
    });
    let (log, _) = serve(&default, b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(log, ["1 GET d/ end", "closed"]);
}

#[test]
fn response_to_10_without_length_ends_with_the_connection() {
    let mut wire = Wire::new(Server::new(settings()));
    wire.feed(b"GET / HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\n\r\n");
    wire.codec
        .send_head(1, &response(103), false, &mut wire.out)
        .expect("left out");
    wire.codec
        .send_head(1, &ok(), false, &mut wire.out)
        .expect("head");
    assert_eq!(wire.codec.send_data(1, 3, false, &mut wire.out), Ok(3));
    assert!(!wire.codec.finished());
    assert_eq!(wire.codec.send_data(1, 0, true, &mut wire.out), Ok(0));
    assert!(wire.codec.finished());
    assert_eq!(
        wire.take_out(b"abc"),
        b"HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nabc"
    );
}

#[test]
fn hop_by_hop_fields_stay_here() {
    assert_eq!(
        lines(
            b"GET / HTTP/1.1\r\nhost: h\r\nconnection: x-hop, Cookie, keep-alive, X-Forwarded-For\r\n\
              keep-alive: 5\r\nproxy-connection: x\r\nte: gzip, trailers\r\nx-hop: 1\r\nX-HOP: 2\r\n\
              cookie: c\r\nx-forwarded-for: f\r\nupgrade: foo\r\nhttp2-settings: s\r\ntrailer: t\r\n\r\n"
        ),
        ["1 GET h/ te=trailers cookie=c x-forwarded-for=f trailer=t end"]
    );
    let many = "a,".repeat(11);
    assert_eq!(
        refusal(format!("GET / HTTP/1.1\r\nhost: h\r\nconnection: {many}\r\n\r\n").as_bytes()),
        "refused 400 http1.connection_header_rejected on 1"
    );
}

#[test]
fn upgrade_and_connect_leave_http() {
    let (log, out) = serve(
        &settings(),
        b"GET /ws HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, Upgrade\r\nupgrade: h2c, WebSocket\r\n\r\nraw",
    );
    assert_eq!(
        log,
        ["1 GET h/ws upgrade upgrade=WebSocket end", "upgraded"]
    );
    assert_eq!(
        out,
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    );
    let (log, out) = serve(&settings(), b"CONNECT o:443 HTTP/1.1\r\nhost: h\r\n\r\nraw");
    assert_eq!(log, ["1 CONNECT o:443o:443 upgrade end", "upgraded"]);
    assert_eq!(out, b"HTTP/1.1 200 OK\r\n\r\n");
    // h2c is not offered, and 1.0 has no upgrades.
    assert_eq!(
        lines(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n\r\n"),
        ["1 GET h/ end"]
    );
    assert_eq!(
        lines(b"GET / HTTP/1.0\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
        ["1 GET h/ end", "closed"]
    );
}

#[test]
fn tunnels_that_are_not_allowed() {
    let mut wire = Wire::new(Server::new(Arc::new(Settings::default())));
    wire.feed(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    let mut switch = response(101);
    switch.push(b"upgrade", b"websocket");
    assert_eq!(
        wire.codec.send_head(1, &switch, false, &mut wire.out),
        Err(SendError::Unencodable("http1.upgrade_not_allowed"))
    );
    assert!(wire.out.bytes.is_empty());
    wire.codec
        .send_head(1, &response(403), true, &mut wire.out)
        .expect("refusal");
    assert!(wire.codec.finished());
    let mut wire = Wire::new(Server::new(Arc::new(Settings::default())));
    wire.feed(b"CONNECT o:1 HTTP/1.1\r\nhost: h\r\n\r\n");
    assert_eq!(
        wire.codec.send_head(1, &ok(), false, &mut wire.out),
        Err(SendError::Unencodable("http1.connect_not_allowed"))
    );
    wire.codec
        .send_head(1, &response(403), true, &mut wire.out)
        .expect("refusal");
    assert!(wire.codec.finished());
}

#[test]
fn expect_continue_and_interim_responses() {
    let mut wire = Wire::new(Server::new(settings()));
    wire.feed(b"PUT / HTTP/1.1\r\nhost: h\r\nexpect: 100-Continue\r\ncontent-length: 2\r\n\r\n");
    wire.codec
        .send_head(1, &response(100), false, &mut wire.out)
        .expect("interim");
    let mut hints = response(103);
    hints.push(b"link", b"</a>");
    wire.codec
        .send_head(1, &hints, false, &mut wire.out)
        .expect("interim");
    wire.feed(b"ab");
    wire.codec
        .send_head(1, &ok(), true, &mut wire.out)
        .expect("final");
    assert_eq!(
        wire.take_out(b""),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
          HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    );
    assert_eq!(
        wire.log.done(),
        ["1 PUT h/ length=2 expect", "1 data ab", "1 end"]
    );
}

#[test]
fn response_framing() {
    let send = |request: &str, head: &Head, body: Option<&[u8]>| {
        let mut wire = Wire::new(Server::new(settings()));
        wire.feed(format!("{request} / HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes());
        wire.codec
            .send_head(1, head, body.is_none(), &mut wire.out)
            .expect("head");
        if let Some(body) = body {
            let sent = wire.codec.send_data(1, body.len(), true, &mut wire.out);
            assert_eq!(sent, Ok(body.len()));
        }
        assert_eq!(wire.codec.streams(), 0);
        assert!(!wire.codec.finished());
        String::from_utf8(wire.take_out(body.unwrap_or_default())).expect("ascii")
    };
    let mut sized = ok();
    sized.content_length = Some(3);
    assert_eq!(
        send("GET", &sized, Some(b"abc")),
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"
    );
    assert_eq!(
        send("GET", &ok(), Some(b"abc")),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    );
    for body in [None, Some(&b"abc"[..])] {
        assert_eq!(
            send("HEAD", &sized, body),
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
        );
        assert_eq!(send("HEAD", &ok(), body), "HTTP/1.1 200 OK\r\n\r\n");
        sized.status = 304;
        assert_eq!(
            send("GET", &sized, body),
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n"
        );
        sized.status = 204;
        assert_eq!(send("GET", &sized, body), "HTTP/1.1 204 No Content\r\n\r\n");
        sized.status = 200;
    }
    assert_eq!(
        send("GET", &response(299), None),
        "HTTP/1.1 299 Unknown\r\ncontent-length: 0\r\n\r\n"
    );
}

#[test]
fn payload_is_placed_not_copied() {
    let mut wire = Wire::new(Server::new(settings()));
    wire.feed(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n");
    wire.codec
        .send_head(1, &ok(), false, &mut wire.out)
        .expect("head");
    let before = wire.out.bytes.len();
    assert_eq!(wire.codec.send_data(1, 20, false, &mut wire.out), Ok(20));
    let placed = Payload {
        at: before + 4,
        start: 0,
        end: 20,
    };
    assert_eq!(wire.out.payloads, [placed]);
    assert_eq!(&wire.out.bytes[before..], b"14\r\n\r\n");
    let mut trailers = Head::new();
    trailers.kind = HeadKind::Trailers;
    trailers.push(b"x-sum", b"1");
    trailers.push(b"content-length", b"1");
    let before = wire.out.bytes.len();
    wire.codec
        .send_trailers(1, &trailers, &mut wire.out)
        .expect("trailers");
    assert_eq!(&wire.out.bytes[before..], b"0\r\nx-sum: 1\r\n\r\n");
}

#[test]
fn what_cannot_be_said_is_refused_without_a_trace() {
    let mut wire = Wire::new(Server::new(settings()));
    wire.feed(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n");
    for (name, value) in [
        ("x", "a\r\nb: c"),
        ("x", "a\nb"),
        ("x", "\0"),
        ("x y", "a"),
        ("x:", "a"),
        ("", "a"),
        ("x\r\n", "a"),
    ] {
        let mut head = ok();
        head.push(name.as_bytes(), value.as_bytes());
        let sent = wire.codec.send_head(1, &head, true, &mut wire.out);
        assert!(matches!(sent, Err(SendError::Unencodable(_))), "{name}");
        assert!(wire.out.bytes.is_empty());
    }
    // Framing that others set is not repeated.
    let mut head = ok();
    for name in [
        "connection",
        "transfer-encoding",
        "content-length",
        "upgrade",
    ] {
        head.push(name.as_bytes(), b"x");
    }
    wire.codec
        .send_head(1, &head, true, &mut wire.out)
        .expect("head");
    assert_eq!(wire.take_out(b""), OK.as_bytes());
}

#[test]
fn a_body_that_breaks_its_promise_ends_the_connection() {
    for (len, end) in [(4, false), (2, true)] {
        let mut wire = Wire::new(Server::new(settings()));
        wire.feed(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n");
        let mut head = ok();
        head.content_length = Some(3);
        wire.codec
            .send_head(1, &head, false, &mut wire.out)
            .expect("head");
        let sent = wire.codec.send_data(1, len, end, &mut wire.out);
        assert!(matches!(sent, Err(SendError::Unencodable(_))));
        assert!(wire.codec.finished());
    }
}

#[test]
fn response_before_the_request_is_complete_closes() {
    let mut wire = Wire::new(Server::new(settings()));
    wire.feed(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nab");
    wire.codec
        .send_head(1, &response(413), true, &mut wire.out)
        .expect("head");
    assert!(wire.codec.finished());
    assert_eq!(wire.feed(b"cdeGET / HTTP/1.1\r\n"), Why::Closed(None));
    assert!(String::from_utf8_lossy(&wire.take_out(b"")).contains("connection: close"));
}

#[test]
fn go_away_and_reset() {
    let mut wire = Wire::new(Server::new(settings()));
    wire.codec.go_away(&mut wire.out);
    assert!(!wire.codec.finished());
    wire.feed(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n");
    wire.codec
        .send_head(1, &ok(), true, &mut wire.out)
        .expect("head");
    assert_eq!(wire.take_out(b""), OK_CLOSE.as_bytes());
    assert!(wire.codec.finished());

    let mut wire = Wire::new(Server::new(settings()));
    wire.feed(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n");
    wire.codec.reset(7, ResetReason::Cancel, &mut wire.out);
    assert!(!wire.codec.finished());
    wire.codec.reset(1, ResetReason::Cancel, &mut wire.out);
    assert!(wire.codec.finished());
}

#[test]
fn end_of_input() {
    let eof = |bytes: &[u8]| {
        let mut wire = Wire::new(Server::new(settings()));
        wire.feed(bytes);
        wire.eof();
        (wire.codec.finished(), wire.log.done())
    };
    assert_eq!(eof(b""), (true, vec![]));
    assert_eq!(
        eof(b"GET / HT"),
        (true, vec!["refused 0 http1.truncated_head".into()])
    );
    let (finished, log) = eof(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nab");
    assert!(finished);
    assert_eq!(log[2], "Reset { stream: 1, reason: Disconnected }");
    // A half-closed client still gets its answers, pipelined ones too.
    let mut wire = Wire::new(Server::new(settings()));
    wire.feed(&b"GET / HTTP/1.1\r\nhost: h\r\n\r\n".repeat(2));
    wire.eof();
    answer(&mut wire);
    assert!(wire.codec.finished());
    let out = wire.take_out(b"");
    assert_eq!(String::from_utf8_lossy(&out).matches("200 OK").count(), 2);
}

#[test]
fn methods_and_versions_by_setting() {
    let plain = Arc::new(Settings::default());
    let custom = Arc::new(Settings {
        custom_methods: true,
        ..Settings::default()
    });
    let first = |settings: &Arc<Settings>, line: &str| {
        let (log, _) = serve(settings, format!("{line}\r\nhost: h\r\n\r\n").as_bytes());
        log.into_iter().next().unwrap_or_default()
    };
    let refused = "refused 400 http1.invalid_method on 1";
    assert_eq!(first(&plain, "BREW / HTTP/1.1"), refused);
    assert_eq!(first(&plain, "get / HTTP/1.1"), refused);
    assert_eq!(first(&custom, "BREW / HTTP/1.1"), "1 BREW h/ end");
    for line in ["GET / HTTP/1.2", "GET / HTTP/2.0", "GET / HTTP/1.0"] {
        let refused = "refused 426 low_version on 1";
        assert_eq!(first(&plain, line), refused, "{line}");
    }
    let refused = "refused 400 http1.invalid_version on 1";
    assert_eq!(
        first(&plain, "GET / HTTP/1.10"),
        "refused 400 http1.invalid_line_end on 1"
    );
    assert_eq!(first(&plain, "GET / HTTP/x.1"), refused);
    assert_eq!(first(&settings(), "GET / HTTP/1.2"), refused);
}

#[test]
fn a_head_that_is_given_up_can_be_answered() {
    let mut wire = Wire::new(Server::new(settings()));
    assert_eq!(wire.codec.abandon_head(), None);
    wire.feed(b"HEAD / HTTP/1.1\r\nho");
    let stream = wire.codec.abandon_head().expect("a head was begun");
    let mut late = response(408);
    late.content_length = Some(0);
    let sent = wire.codec.send_head(stream, &late, true, &mut wire.out);
    assert_eq!(sent, Ok(()));
    assert_eq!(
        String::from_utf8_lossy(&wire.take_out(b"")),
        "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    assert!(wire.codec.finished());
    assert_eq!(wire.codec.abandon_head(), None);
}

#[test]
fn limits() {
    let small = Arc::new(Settings {
        max_head_bytes: 64,
        max_fields: 2,
        ..Settings::default()
    });
    let long = format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "a".repeat(64));
    let (log, _) = serve(&small, long.as_bytes());
    assert_eq!(log, ["refused 431 http1.headers_too_large on 1"]);
    let (log, _) = serve(&small, b"GET / HTTP/1.1\r\nhost: h\r\na: b\r\nc: d\r\n\r\n");
    assert_eq!(log, ["refused 431 http1.too_many_headers on 1"]);
    let (log, _) = serve(&small, b"GET / HTTP/1.1\r\nhost: h\r\na: b\r\n\r\n");
    assert_eq!(log, ["1 GET h/ a=b end"]);
    // More fields than there are slots on the stack.
    let many = Arc::new(Settings {
        max_fields: 1000,
        ..Settings::default()
    });
    let fields = "a: b\r\n".repeat(999);
    let head = format!("GET / HTTP/1.1\r\nhost: h\r\n{fields}\r\n");
    let (log, _) = serve_pieces(&many, &[head.as_bytes()]);
    assert!(log[0].ends_with("a=b end"));
    let head = format!("GET / HTTP/1.1\r\nhost: h\r\na: b\r\n{fields}\r\n");
    let (log, _) = serve_pieces(&many, &[head.as_bytes()]);
    assert_eq!(log, ["refused 431 http1.too_many_headers on 1"]);
    let blank = [&b"\r\n".repeat(5)[..], b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"].concat();
    assert_eq!(refusal(&blank), "refused 400 http1.invalid_start_line on 1");
    assert_eq!(lines(&blank[2..]), ["1 GET h/ end"]);
}

#[test]
fn a_refused_request_can_be_answered() {
    let mut wire = Wire::new(Server::new(settings()));
    wire.feed(b"HEAD / HTTP/1.1\r\n\r\n");
    assert_eq!(wire.codec.streams(), 1);
    assert!(!wire.codec.finished());
    wire.codec
        .send_head(1, &response(400), false, &mut wire.out)
        .expect("head");
    assert_eq!(wire.codec.send_data(1, 3, true, &mut wire.out), Ok(3));
    assert!(wire.codec.finished());
    assert_eq!(
        wire.take_out(b"bad"),
        b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"
    );
}

#[test]
fn parked_at_every_byte_it_goes_on_as_if_not() {
    let bytes = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n\
                  2\r\nde\r\n0\r\nx: y\r\n\r\nGET / HTTP/1.0\r\nhost: h\r\n\r\n";
    let whole = serve(&settings(), bytes);
    for at in 0..bytes.len() {
        let mut wire = Wire::new(Server::new(settings()));
        wire.feed(&bytes[..at]);
        let paused = wire.log.complete.is_some();
        let parked = wire.codec.park();
        assert_eq!(parked.is_none(), wire.codec.mid_message());
        assert_eq!(parked.is_none(), !wire.rest.is_empty() && !paused);
        if let Some(compact) = parked {
            assert!(compact.len() <= 32);
            assert_eq!(compact.is_empty(), wire.codec.streams() == 0);
            wire.codec = Server::unpark(settings(), &compact);
        }
        wire.feed(&bytes[at..]);
        answer(&mut wire);
        let out = wire.take_out(b"");
        assert_eq!((wire.log.done(), out), whole, "parked at {at}");
    }
    assert!(Server::unpark(settings(), &Box::from(&b"junk"[..])).finished());
}

#[test]
fn small() {
    assert!(size_of::<Server>() <= 64);
}

#[test]
fn proper_case() {
    let settings = Arc::new(Settings {
        proper_case: true,
        ..Settings::default()
    });
    let mut wire = Wire::new(Server::new(settings));
    wire.feed(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n");
    let mut head = ok();
    head.push(b"x-request-id", b"a-b");
    wire.codec
        .send_head(1, &head, true, &mut wire.out)
        .expect("head");
    assert_eq!(
        wire.take_out(b""),
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Request-Id: a-b\r\n\r\n"
    );
}

#[test]
fn the_preface_of_http2_is_handed_over_where_it_may_come() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let run = |detect_http2: bool, before: &[u8]| {
        let settings = Settings {
            detect_http2,
            ..Settings::default()
        };
        let mut server = Server::new(Arc::new(settings));
        let (mut events, mut out) = (Events::default(), Out::default());
        if !before.is_empty() {
            server.decode(0, before, &mut events, &mut out);
            let mut head = Head::new();
            head.kind = HeadKind::Response;
            head.status = 204;
            server.send_head(1, &head, true, &mut out).unwrap();
        }
        for end in 0..18 {
            let consumed = server.decode(0, &preface[..end], &mut events, &mut out);
            assert_eq!(consumed.why, Why::NeedMore);
        }
        let consumed = server.decode(0, preface, &mut events, &mut out);
        (consumed.bytes, consumed.why)
    };
    assert_eq!(run(true, b""), (0, Why::Http2));
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    for (_, why) in [run(false, b""), run(true, request)] {
        assert!(matches!(why, Why::Closed(Some(error)) if error.status == 426));
    }
}
