//! Requests out, responses in.

use super::*;
use crate::codec::{ResetReason, SendError};

fn get(bytes: &[u8]) -> Vec<String> {
    receive(&request("GET", "/"), bytes, false)
}

#[test]
fn responses() {
    assert_eq!(
        get(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabc"),
        ["1 200 length=3 x-a=b", "1 data abc", "1 end", "reusable"]
    );
    assert_eq!(
        get(b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n"),
        ["1 200 length=0 end", "reusable"]
    );
    assert_eq!(
        get(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: u\r\n\r\n"),
        ["1 200", "1 data abc", "1 trailers  t=u", "reusable"]
    );
    assert_eq!(
        get(b"HTTP/1.1 103 Early Hints\r\nlink: l\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
        ["1 103 link=l", "1 204 end", "reusable"]
    );
    assert_eq!(
        get(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n"),
        ["1 304 length=7 end", "reusable"]
    );
    assert_eq!(
        receive(
            &request("HEAD", "/"),
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            false
        ),
        ["1 200 end", "reusable"]
    );
}

#[test]
fn responses_that_end_the_connection() {
    assert_eq!(
        receive(
            &request("GET", "/"),
            b"HTTP/1.1 200 OK\r\nconnection: x-a\r\nx-a: b\r\n\r\nabc",
            true
        ),
        ["1 200", "1 data abc", "1 end", "open"]
    );
    for close in [
        &b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\na"[..],
        b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na",
    ] {
        assert_eq!(
            get(close),
            ["1 200 length=1", "1 data a", "1 end", "closed"]
        );
    }
    assert_eq!(
        get(b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na"),
        ["1 200 length=1", "1 data a", "1 end", "reusable"]
    );
}

#[test]
fn cut_short() {
    let eof = |bytes: &[u8]| receive(&request("GET", "/"), bytes, true);
    let reset = "Reset { stream: 1, reason: Disconnected }";
    assert_eq!(eof(b""), [reset, "open"]);
    // What was begun and not ended breaks the protocol.
    let reset = "Reset { stream: 1, reason: Protocol }";
    assert_eq!(
        eof(b"HTTP/1.1 20"),
        [reset, "refused 502 http1.truncated_head on 1", "open"]
    );
    let body = eof(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab");
    assert_eq!(
        body[1..],
        [
            "1 data ab",
            reset,
            "refused 502 http1.truncated_body on 1",
            "open"
        ]
    );
    let body = eof(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n");
    assert_eq!(body[3], "refused 502 http1.truncated_body on 1");
}

#[test]
fn bytes_nobody_asked_for() {
    let mut wire = Wire::new(Client::new(settings()));
    assert_eq!(wire.feed(b""), Why::NeedMore);
    assert!(matches!(
        wire.feed(b"HTTP/1.1 408 x\r\n"),
        Why::Closed(Some(error)) if error.stream.is_none()
    ));
    assert!(wire.codec.finished());
    assert_eq!(
        get(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab"),
        [
            "1 200 length=1",
            "1 data a",
            "1 end",
            "refused 502 http1.unsolicited_response"
        ]
    );
    let mut wire = Wire::new(Client::new(settings()));
    wire.codec.open().expect("idle");
    wire.feed(b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(
        wire.log.done(),
        ["refused 502 http1.unsolicited_response on 1"]
    );
}

#[test]
fn ambiguous_responses_are_refused() {
    for (head, detail) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "http1.content_length_and_chunked_not_allowed",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
            "http1.multiple_content_lengths",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n",
            "http1.invalid_content_length",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "http1.invalid_transfer_encoding",
        ),
        (
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "http1.transfer_encoding_not_allowed",
        ),
        (
            "HTTP/1.1 204 x\r\ntransfer-encoding: chunked\r\n\r\n",
            "http1.transfer_encoding_not_allowed",
        ),
        (
            "HTTP/1.1 204 x\r\ncontent-length: 1\r\n\r\n",
            "http1.content_length_not_allowed",
        ),
        (
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "http1.invalid_header_name",
        ),
        ("HTTP/1.1 200 OK\n\n", "http1.bare_line_feed"),
        ("HTTP/1.1 20 OK\r\n\r\n", "http1.invalid_status"),
        ("HTTP/1.1 099 OK\r\n\r\n", "http1.invalid_status"),
        ("HTTP/2.0 200 OK\r\n\r\n", "http1.invalid_version"),
        ("ICY 200 OK\r\n\r\n", "http1.invalid_version"),
        (
            "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            "http1.unexpected_switch",
        ),
    ] {
        assert_eq!(
            get(head.as_bytes()),
            [format!("refused 502 {detail} on 1")],
            "{head:?}"
        );
    }
}

#[test]
fn tunnels() {
    let mut asked = request("GET", "/ws");
    asked.upgrade = true;
    asked.push(b"upgrade", b"websocket");
    assert_eq!(
        receive(
            &asked,
            b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            false
        ),
        ["1 101 upgrade upgrade=websocket", "upgraded"]
    );
    assert_eq!(
        receive(
            &asked,
            b"HTTP/1.1 403 x\r\ncontent-length: 0\r\n\r\n",
            false
        ),
        ["1 403 length=0 end", "reusable"]
    );
    let mut asked = request("CONNECT", "o:1");
    asked.set_authority(b"o:1");
    assert_eq!(
        receive(
            &asked,
            b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n",
            false
        ),
        ["1 200 upgrade", "upgraded"]
    );
}

#[test]
fn requests() {
    let send = |head: &Head, body: Option<&[u8]>| {
        let mut wire = Wire::new(Client::new(settings()));
        wire.codec.open().expect("idle");
        wire.codec
            .send_head(1, head, body.is_none(), &mut wire.out)
            .expect("head");
        if let Some(body) = body {
            let sent = wire.codec.send_data(1, body.len(), true, &mut wire.out);
            assert_eq!(sent, Ok(body.len()));
        }
        String::from_utf8(wire.take_out(body.unwrap_or_default())).expect("ascii")
    };
    let mut head = request("GET", "/a?b");
    head.push(b"X-A", b"b");
    head.push(b"host", b"evil");
    head.push(b"connection", b"close");
    head.push(b"te", b"trailers");
    head.push(b"expect", b"100-Continue");
    head.push(b"expect", b"tea");
    assert_eq!(
        send(&head, None),
        "GET /a?b HTTP/1.1\r\nhost: h\r\nx-a: b\r\nexpect: tea\r\nte: trailers\r\nconnection: te\r\n\r\n"
    );
    assert_eq!(
        send(&request("POST", "/"), None),
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
    );
    assert_eq!(
        send(&request("POST", "/"), Some(b"ab")),
        "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    );
    let mut sized = request("PUT", "/");
    sized.content_length = Some(2);
    sized.expect_continue = true;
    assert_eq!(
        send(&sized, Some(b"ab")),
        "PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\nab"
    );
    let mut upgrade = request("GET", "/ws");
    upgrade.upgrade = true;
    upgrade.push(b"upgrade", b"websocket");
    assert_eq!(
        send(&upgrade, None),
        "GET /ws HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    );
    let mut connect = request("CONNECT", "x");
    connect.set_authority(b"o:1");
    connect.upgrade = true;
    assert_eq!(
        send(&connect, None),
        "CONNECT o:1 HTTP/1.1\r\nhost: o:1\r\n\r\n"
    );
}

#[test]
fn what_cannot_be_said_is_refused_without_a_trace() {
    let mut no_host = request("GET", "/");
    no_host.set_authority(b"");
    let mut bad_host = request("GET", "/");
    bad_host.set_authority(b"h\r\nx: y");
    let mut bad_value = request("GET", "/");
    bad_value.push(b"a", b"b\r\nc: d");
    let mut too_long = request("GET", "/");
    too_long.content_length = Some(1);
    for head in [
        request("GET", ""),
        request("GET", "x"),
        request("GET", "/ HTTP/1.1\r\n"),
        request("GET", "/a b"),
        request("G ET", "/"),
        request("", "/"),
        no_host,
        bad_host,
        bad_value,
        too_long,
    ] {
        let mut wire = Wire::new(Client::new(settings()));
        wire.codec.open().expect("idle");
        let sent = wire.codec.send_head(1, &head, true, &mut wire.out);
        assert!(matches!(sent, Err(SendError::Unencodable(_))), "{head:?}");
        assert!(wire.out.bytes.is_empty());
        wire.codec.reset(1, ResetReason::Cancel, &mut wire.out);
        assert_eq!(wire.codec.room(), 1);
    }
}

#[test]
fn one_exchange_after_the_other() {
    let mut wire = Wire::new(Client::new(settings()));
    for stream in 1..4 {
        assert_eq!(wire.codec.open(), Some(stream));
        assert_eq!(wire.codec.open(), None);
        wire.codec
            .send_head(stream, &request("GET", "/"), true, &mut wire.out)
            .expect("head");
        assert_eq!(wire.codec.streams(), 1);
        wire.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        assert_eq!((wire.codec.streams(), wire.codec.room()), (0, 1));
    }
    wire.codec.go_away(&mut wire.out);
    assert!(wire.codec.finished());
    assert_eq!(wire.codec.open(), None);
}

#[test]
fn response_before_the_request_is_complete() {
    let mut wire = Wire::new(Client::new(settings()));
    wire.codec.open().expect("idle");
    wire.codec
        .send_head(1, &request("POST", "/"), false, &mut wire.out)
        .expect("head");
    assert_eq!(
        wire.feed(b"HTTP/1.1 413 x\r\ncontent-length: 1\r\n\r\n"),
        Why::NeedMore
    );
    assert_eq!(wire.codec.send_data(1, 1, false, &mut wire.out), Ok(1));
    assert_eq!(wire.feed(b"a"), Why::Closed(None));
    assert!(wire.codec.finished());
    let late = wire.codec.send_data(1, 1, true, &mut wire.out);
    assert_eq!(late, Err(SendError::UnknownStream));
}

#[test]
fn parked_at_every_byte_it_goes_on_as_if_not() {
    let bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n\
                  2\r\nde\r\n0\r\nx: y\r\n\r\n";
    for at in 0..=bytes.len() {
        let mut wire = Wire::new(Client::new(settings()));
        wire.codec.open().expect("idle");
        wire.codec
            .send_head(1, &request("GET", "/"), true, &mut wire.out)
            .expect("head");
        wire.feed(&bytes[..at]);
        let parked = wire.codec.park();
        assert_eq!(parked.is_none(), !wire.rest.is_empty());
        if let Some(compact) = parked {
            assert!(compact.len() <= 32);
            assert_eq!(compact.is_empty(), wire.codec.streams() == 0);
            wire.codec = Client::unpark(settings(), &compact);
        }
        wire.feed(&bytes[at..]);
        assert_eq!(wire.codec.room(), 1);
        assert_eq!(
            wire.log.done(),
            ["1 200", "1 data abcde", "1 trailers  x=y"]
        );
    }
    assert!(Client::unpark(settings(), &Box::from(&b"junk"[..])).finished());
    assert!(size_of::<Client>() <= 64);
}
