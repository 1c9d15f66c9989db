//! The server side, by section of RFC 9113.

use super::*;

fn strict() -> Settings {
    Settings::default()
}

fn lenient() -> Settings {
    Settings {
        stream_errors: true,
        ..Settings::default()
    }
}

/// What comes of one message on stream 1, when malformed ones end only their stream.
fn outcome(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
    server_on(&lenient(), bytes)
}

#[test]
fn section_3_4_prefaces() {
    let mut bench = Bench::new(Role::Server, strict());
    bench.feed(&hello());
    let (events, frames) = bench.take();
    assert!(events.is_empty());
    assert_eq!(
        frames,
        [
            "SETTINGS 3=1024 4=16777216 6=61440",
            "0 WINDOW 25100289",
            "SETTINGS ack"
        ]
    );
    for bad in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r",
    ] {
        let mut bench = Bench::new(Role::Server, strict());
        bench.feed(bad);
        assert_eq!(bench.events(), ["closed http2.bad_preface"]);
    }
    // SETTINGS come first, and not as an acknowledgement.
    for first in [
        headers(1, GET, true),
        frame(kind::SETTINGS, flag::ACK, 0, &[]),
    ] {
        let mut bench = Bench::new(Role::Server, strict());
        bench.feed(&[PREFACE, &first[..]].concat());
        assert_eq!(bench.events(), ["closed http2.settings_expected"]);
    }
}

#[test]
fn requests_come_in_and_are_answered() {
    let mut bench = Bench::server(strict());
    bench.feed(&headers(
        1,
        &with(&[("accept", "*/*"), ("cookie", "a=b"), ("cookie", "c=d")]),
        true,
    ));
    assert_eq!(
        bench.events(),
        ["1 GET http://a.example/ accept=*/* cookie=c=d end"]
    );
    bench.respond(1, 200, false);
    bench
        .send(|conn, out| conn.send_data(1, 5, false, out))
        .unwrap();
    let mut trailers = Head::new();
    trailers.kind = HeadKind::Trailers;
    trailers.push(b"grpc-status", b"0");
    bench
        .send(|conn, out| conn.send_trailers(1, &trailers, out))
        .unwrap();
    assert_eq!(
        bench.frames(),
        [
            "1 HEADERS :status=200",
            "1 DATA 5",
            "1 HEADERS grpc-status=0 end"
        ]
    );
    assert_eq!(bench.conn.streams(), 0);
}

#[test]
fn bodies_trailers_and_padding() {
    let post = with(&[(":method", "POST"), ("content-length", "7")]);
    let bytes = [
        headers(1, &post, false),
        frame(kind::DATA, flag::PADDED, 1, b"\x03abc\0\0\0"),
        data(1, b"", false),
        data(1, b"defg", false),
        headers(1, &[("t", "u"), ("content-length", "1")], true),
    ]
    .concat();
    let (events, frames) = server_on(&strict(), &bytes);
    assert_eq!(
        events,
        [
            "1 POST http://a.example/ length=7",
            "1 data abcdefg",
            "1 trailers t=u"
        ]
    );
    assert!(frames.is_empty());
    // A cookie may come in crumbs (section 8.2.3).
    let crumbs = [
        GET,
        &[
            ("cookie", "a=b"),
            ("x", "y"),
            ("cookie", "c=d"),
            ("cookie", "e=f"),
        ],
    ]
    .concat();
    let (events, _) = server_on(&strict(), &headers(1, &crumbs, true));
    assert_eq!(
        events,
        ["1 GET http://a.example/ cookie=a=b; c=d; e=f x=y end"]
    );
}

#[test]
fn section_4_and_6_connection_errors() {
    for (bytes, code, name) in [
        (frame(kind::DATA, 0, 0, b"x"), 1, "misplaced_frame"),
        (frame(kind::HEADERS, 4, 0, b""), 1, "misplaced_frame"),
        (
            frame(kind::PRIORITY, 0, 0, b"\0\0\0\x01\0"),
            1,
            "misplaced_frame",
        ),
        (frame(kind::RST_STREAM, 0, 0, &[0; 4]), 1, "misplaced_frame"),
        (frame(kind::SETTINGS, 0, 1, b""), 1, "misplaced_frame"),
        (frame(kind::PING, 0, 1, &[0; 8]), 1, "misplaced_frame"),
        (frame(kind::GOAWAY, 0, 1, &[0; 8]), 1, "misplaced_frame"),
        (frame(kind::PRIORITY, 0, 1, b"\0\0\0\x05"), 6, "frame_size"),
        (frame(kind::RST_STREAM, 0, 1, b"\0\0\0"), 6, "frame_size"),
        (
            frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
            6,
            "frame_size",
        ),
        (frame(kind::SETTINGS, 0, 0, &[0; 5]), 6, "frame_size"),
        (frame(kind::PING, 0, 0, &[0; 7]), 6, "frame_size"),
        (frame(kind::GOAWAY, 0, 0, &[0; 7]), 6, "frame_size"),
        (frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]), 6, "frame_size"),
        (frame(kind::DATA, 0, 1, &[0; 16385]), 6, "frame_too_large"),
        (settings(&[(2, 2)]), 1, "invalid_setting"),
        (settings(&[(4, 1 << 31)]), 3, "window_overflow"),
        (settings(&[(5, 16383)]), 1, "invalid_setting"),
        (settings(&[(5, 1 << 24)]), 1, "invalid_setting"),
        (settings(&[(8, 2)]), 1, "invalid_setting"),
        (
            frame(kind::PUSH_PROMISE, 4, 1, &[0; 4]),
            1,
            "unexpected_push",
        ),
        (
            frame(kind::CONTINUATION, 4, 1, b""),
            1,
            "unexpected_continuation",
        ),
        (window_update(0, 0), 1, "window_update_of_zero"),
        (window_update(0, (1 << 31) - 1), 3, "window_overflow"),
        (
            frame(kind::HEADERS, 4 | flag::PADDED, 1, b"\x05abcd"),
            1,
            "invalid_padding",
        ),
        (frame(kind::HEADERS, 4, 1, b"\xff"), 9, ""),
        (frame(kind::HEADERS, 4, 1, b"\x80"), 9, ""),
    ] {
        let (events, frames) = server_on(&lenient(), &bytes);
        let last = events.last().unwrap();
        if name.is_empty() {
            assert!(last.starts_with("closed hpack_"), "{last}");
        } else {
            assert_eq!(*last, format!("closed http2.{name}"));
        }
        let goaway = frames.last().unwrap();
        assert!(
            goaway.starts_with("GOAWAY ") && goaway.contains(&format!(" {code} ")),
            "{goaway}"
        );
    }
}

#[test]
fn section_5_1_states() {
    let open = headers(1, GET, false);
    let closed = headers(1, GET, true);
    for (bytes, last, name) in [
        // Idle.
        (vec![data(1, b"x", true)], "GOAWAY 0 1", "idle_stream"),
        (vec![rst(1, 8)], "GOAWAY 0 1", "idle_stream"),
        (vec![window_update(1, 1)], "GOAWAY 0 1", "idle_stream"),
        (
            vec![headers(2, GET, true)],
            "GOAWAY 0 1",
            "invalid_stream_id",
        ),
        // Half-closed by the peer.
        (vec![closed.clone(), data(1, b"x", true)], "1 RST 5", ""),
        (vec![closed, headers(1, GET, true)], "1 RST 5", ""),
        // Closed by the peer's reset.
        (
            vec![open.clone(), rst(1, 8), data(1, b"x", false)],
            "GOAWAY 1 5",
            "stream_closed",
        ),
        (
            vec![open.clone(), rst(1, 8), headers(1, GET, true)],
            "GOAWAY 1 5",
            "stream_closed",
        ),
        // A number below one that was used.
        (
            vec![headers(5, GET, true), headers(3, GET, true)],
            "GOAWAY 5 5",
            "stream_closed",
        ),
        // Trailers have to end.
        (
            vec![open.clone(), headers(1, &[("a", "b")], false)],
            "1 RST 1",
            "",
        ),
        // Windows of streams.
        (vec![open.clone(), window_update(1, 0)], "1 RST 1", ""),
        (vec![open, window_update(1, (1 << 31) - 1)], "1 RST 3", ""),
        // Another frame in the middle of a block (section 6.10).
        (
            vec![
                frame(kind::HEADERS, 0, 1, &block(GET)),
                frame(kind::PING, 0, 0, &[0; 8]),
            ],
            "GOAWAY 0 1",
            "continuation_expected",
        ),
        (
            vec![
                frame(kind::HEADERS, 0, 1, &block(GET)),
                frame(kind::CONTINUATION, 4, 3, b""),
            ],
            "GOAWAY 0 1",
            "continuation_expected",
        ),
        // Dependence on itself.
        (
            vec![frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0])],
            "GOAWAY 0 1",
            "depends_on_itself",
        ),
    ] {
        let (events, frames) = outcome(&bytes.concat());
        let said = frames.last().unwrap();
        assert!(
            said.starts_with(last),
            "{said} instead of {last}: {events:?}"
        );
        if !name.is_empty() {
            assert_eq!(*events.last().unwrap(), format!("closed http2.{name}"));
        }
    }
}

#[test]
fn section_8_2_malformed_fields() {
    for (more, name) in [
        (("Upper", "x"), "invalid_header_name"),
        (("", "x"), "invalid_header_name"),
        (("a b", "x"), "invalid_header_name"),
        (("a:b", "x"), "invalid_header_name"),
        (("a\r\nb", "x"), "invalid_header_name"),
        (("a", "x\r\nhost: evil"), "invalid_header_value"),
        (("a", "x\ny"), "invalid_header_value"),
        (("a", "x\0"), "invalid_header_value"),
        (("a", " x"), "invalid_header_value"),
        (("a", "x\t"), "invalid_header_value"),
        (("connection", "close"), "connection_header_rejected"),
        (("keep-alive", "1"), "connection_header_rejected"),
        (("proxy-connection", "x"), "connection_header_rejected"),
        (
            ("transfer-encoding", "chunked"),
            "connection_header_rejected",
        ),
        (("upgrade", "h2c"), "connection_header_rejected"),
        (("te", "gzip"), "connection_header_rejected"),
        (("te", "trailers, chunked"), "connection_header_rejected"),
        (("host", "b.example"), "host_differs_from_authority"),
        (("content-length", "1x"), "invalid_content_length"),
        (("content-length", "-1"), "invalid_content_length"),
        (("content-length", "5, 5"), "invalid_content_length"),
        (("content-length", "5"), "body_shorter_than_declared"),
        ((":status", "200"), "unknown_pseudo_header"),
        ((":unknown", "x"), "unknown_pseudo_header"),
        ((":method", "GET / HTTP/1.1"), "invalid_method"),
        ((":method", ""), "invalid_method"),
        ((":path", ""), "invalid_path"),
        ((":path", "x"), "invalid_path"),
        ((":path", "*"), "invalid_path"),
        ((":path", "/a b"), "invalid_path"),
        ((":path", "/ HTTP/1.1\r\nx: y"), "invalid_header_value"),
        ((":path", "/a#b"), "invalid_path"),
        ((":scheme", ""), "invalid_scheme"),
        ((":scheme", "http://evil/?"), "invalid_scheme"),
        ((":authority", "a@b"), "invalid_authority"),
        ((":authority", "a b"), "invalid_authority"),
        ((":authority", "a/b"), "invalid_authority"),
        ((":authority", ""), "invalid_authority"),
        ((":protocol", "websocket"), "unexpected_protocol"),
    ] {
        let fields = with(&[more]);
        let bytes = headers(1, &fields, true);
        let mut bench = Bench::server(lenient());
        bench.feed(&bytes);
        assert_eq!(bench.notes, [format!("http2.{name}").as_str()], "{more:?}");
        assert_eq!(
            bench.take(),
            (vec!["1 reset Protocol".into()], vec!["1 RST 1".into()])
        );
        // By default it ends the connection, as in Envoy.
        let (events, frames) = server_on(&strict(), &bytes);
        assert_eq!(events, [format!("closed http2.{name}")]);
        assert_eq!(frames, [format!("GOAWAY 1 1 http2.{name}")]);
    }
}

#[test]
fn section_8_3_pseudo_header_fields() {
    let wrong = |fields: &[(&str, &str)]| {
        let mut bench = Bench::server(lenient());
        bench.feed(&headers(1, fields, true));
        assert_eq!(bench.frames(), ["1 RST 1"], "{fields:?}");
        bench.notes[0].strip_prefix("http2.").unwrap()
    };
    for missing in [0, 1, 3] {
        let mut fields = GET.to_vec();
        fields.remove(missing);
        assert_eq!(wrong(&fields), "missing_pseudo_header");
    }
    assert_eq!(wrong(&[GET[0], GET[1], GET[3]]), "missing_authority");
    for twice in GET {
        let fields = [GET, &[*twice]].concat();
        assert_eq!(wrong(&fields), "duplicate_pseudo_header");
    }
    let late = [&GET[..3], &[("a", "b"), GET[3]]].concat();
    assert_eq!(wrong(&late), "pseudo_header_after_field");
    let connect = (":method", "CONNECT");
    assert_eq!(wrong(&[connect, (":authority", "a")]), "invalid_connect");
    assert_eq!(wrong(&with(&[connect])), "invalid_connect");
    assert_eq!(
        wrong(&[GET, &[("content-length", "0"), ("content-length", "0")]].concat()),
        "multiple_content_lengths"
    );
    assert_eq!(
        wrong(&[GET, &[("host", "a.example"), ("host", "a.example")]].concat()),
        "duplicate_host"
    );
    // Pseudo-header fields have no place in trailers.
    let mut bench = Bench::server(lenient());
    bench.feed(&[headers(1, GET, false), headers(1, &[(":path", "/")], true)].concat());
    assert_eq!(bench.notes, ["http2.unknown_pseudo_header"]);

    for (fields, head) in [
        (
            vec![GET[0], GET[1], GET[3], ("host", "h:1")],
            "GET http://h:1/",
        ),
        (with(&[("host", "A.example")]), "GET http://a.example/"),
        (
            with(&[("te", "trailers")]),
            "GET http://a.example/ te=trailers",
        ),
        (
            with(&[("expect", "100-continue")]),
            "GET http://a.example/ expects",
        ),
        (
            with(&[(":method", "OPTIONS"), (":path", "*")]),
            "OPTIONS http://a.example*",
        ),
        (
            with(&[("content_length", "5"), ("transfer_encoding", "x")]),
            "GET http://a.example/",
        ),
        (
            vec![connect, (":authority", "o:443")],
            "CONNECT ://o:443o:443 upgrade",
        ),
    ] {
        let (events, _) = server_on(&strict(), &headers(1, &fields, false));
        assert_eq!(events, [format!("1 {head}")]);
    }
}

#[test]
fn section_8_1_1_declared_lengths() {
    let post = headers(1, &with(&[("content-length", "3")]), false);
    for (body, name) in [
        (data(1, b"abcd", true), "body_longer_than_declared"),
        (data(1, b"ab", true), "body_shorter_than_declared"),
        (
            headers(1, &[("t", "u")], true),
            "body_shorter_than_declared",
        ),
    ] {
        let (events, _) = server_on(&strict(), &[post.clone(), body].concat());
        assert_eq!(
            events[1..],
            [
                "1 reset Protocol".to_owned(),
                format!("closed http2.{name}")
            ]
        );
    }
    let (events, _) = server_on(&strict(), &[post, data(1, b"abc", true)].concat());
    assert_eq!(events[1..], ["1 data abc", "1 end"]);
}

#[test]
fn extended_connect_is_an_upgrade() {
    let settings = Settings {
        allow_connect: true,
        ..strict()
    };
    let fields = with(&[
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        ("sec-websocket-version", "13"),
    ]);
    let mut fields: Vec<_> = fields;
    fields.sort_by_key(|field| !field.0.starts_with(':'));
    let mut bench = Bench::new(Role::Server, settings);
    bench.feed(&hello());
    assert!(bench.frames()[0].contains("8=1"));
    bench.feed(&headers(1, &fields, false));
    assert_eq!(
        bench.events(),
        ["1 GET http://a.example/ sec-websocket-version=13 upgrade=websocket upgrade"]
    );
    let mut head = response(101);
    head.upgrade = true;
    head.push(b"upgrade", b"websocket");
    bench
        .send(|conn, out| conn.send_head(1, &head, false, out))
        .unwrap();
    bench.feed(&data(1, b"hi", false));
    bench
        .send(|conn, out| conn.send_data(1, 3, false, out))
        .unwrap();
    assert_eq!(
        bench.take(),
        (
            vec!["1 data hi".into()],
            vec!["1 HEADERS :status=200".into(), "1 DATA 3".into()]
        )
    );
}
