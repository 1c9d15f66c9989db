//! The client side.

use super::*;
use crate::codec::{ResetReason, SendError};

fn client() -> Bench {
    let mut bench = Bench::new(
        Role::Client,
        Settings {
            stream_errors: true,
            ..Settings::default()
        },
    );
    assert_eq!(bench.conn.room(), 100);
    bench.feed(
        &[
            settings(&[(3, 3), (8, 1)]),
            frame(kind::SETTINGS, flag::ACK, 0, &[]),
        ]
        .concat(),
    );
    bench.take();
    bench
}

fn ask(bench: &mut Bench, method: &str, end: bool) -> StreamId {
    let id = bench.conn.open().unwrap();
    let head = request(method);
    bench
        .send(|conn, out| conn.send_head(id, &head, end, out))
        .unwrap();
    id
}

#[test]
fn the_preface_goes_before_the_first_request() {
    let mut bench = Bench::new(Role::Client, Settings::default());
    ask(&mut bench, "GET", true);
    assert_eq!(
        bench.frames(),
        [
            "preface",
            "SETTINGS 2=0 4=16777216 6=61440",
            "0 WINDOW 25100289",
            "1 HEADERS :method=GET :scheme=http :authority=a.example:1 :path=/ end"
        ]
    );
    bench.feed(&settings(&[]));
    assert_eq!(bench.frames(), ["SETTINGS ack"]);
}

#[test]
fn answers() {
    let mut bench = client();
    assert_eq!(bench.conn.room(), 3);
    let ids = [
        ask(&mut bench, "GET", true),
        ask(&mut bench, "HEAD", true),
        ask(&mut bench, "POST", false),
    ];
    assert_eq!(ids, [1, 3, 5]);
    assert_eq!((bench.conn.room(), bench.conn.open()), (0, None));
    bench.feed(
        &[
            headers(3, &[(":status", "200"), ("content-length", "5")], true),
            headers(1, &[(":status", "103")], false),
            headers(1, &[(":status", "200"), ("content-length", "2")], false),
            headers(5, &[(":status", "200")], false),
            data(1, b"ok", true),
            data(5, b"x", false),
            headers(5, &[("grpc-status", "0")], true),
            rst(5, 0),
        ]
        .concat(),
    );
    assert_eq!(
        bench.events(),
        [
            "3 200 length=5 end",
            "1 103",
            "1 200 length=2",
            "5 200",
            "1 data ok",
            "1 end",
            "5 data x",
            "5 trailers grpc-status=0",
        ],
        "a complete answer stays one when the rest of the request is not wanted"
    );
    assert_eq!(bench.conn.streams(), 0);
    bench.park();
    assert_eq!(ask(&mut bench, "GET", true), 7);
}

#[test]
fn wrong_answers() {
    for (bytes, code, name) in [
        (headers(1, &[("a", "b")], true), 1, "missing_pseudo_header"),
        (headers(1, &[(":status", "20")], true), 1, "invalid_status"),
        (headers(1, &[(":status", "020")], true), 1, "invalid_status"),
        (
            headers(1, &[(":status", "101")], false),
            1,
            "invalid_status",
        ),
        (headers(1, &[(":status", "100")], true), 1, "invalid_status"),
        (
            headers(1, &[(":status", "200"), (":path", "/")], true),
            1,
            "unknown_pseudo_header",
        ),
        (
            headers(1, &[(":status", "200"), ("connection", "x")], true),
            1,
            "connection_header_rejected",
        ),
        (
            headers(1, &[(":status", "200"), ("content-length", "1")], true),
            1,
            "body_shorter_than_declared",
        ),
        (data(1, b"x", true), 1, "data_before_head"),
    ] {
        let mut bench = client();
        ask(&mut bench, "GET", true);
        bench.take();
        bench.feed(&bytes);
        assert_eq!(bench.notes, [format!("http2.{name}").as_str()]);
        assert_eq!(
            bench.take(),
            (
                vec!["1 reset Protocol".into()],
                vec![format!("1 RST {code}")]
            )
        );
    }
    for (bytes, name) in [
        (headers(3, &[(":status", "200")], true), "idle_stream"),
        (headers(2, &[(":status", "200")], true), "invalid_stream_id"),
        (
            frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]),
            "unexpected_push",
        ),
        (settings(&[(2, 1)]), "invalid_setting"),
    ] {
        let mut bench = client();
        ask(&mut bench, "GET", true);
        bench.feed(&bytes);
        assert_eq!(
            *bench.events().last().unwrap(),
            format!("closed http2.{name}")
        );
    }
}

#[test]
fn what_comes_late_is_ignored() {
    let mut bench = client();
    ask(&mut bench, "GET", true);
    bench.send(|conn, out| conn.reset(1, ResetReason::Cancel, out));
    assert_eq!(bench.frames().last().unwrap(), "1 RST 8");
    bench.feed(
        &[
            headers(1, &[(":status", "200")], false),
            data(1, b"x", true),
            rst(1, 8),
        ]
        .concat(),
    );
    assert_eq!(bench.take(), (vec![], vec![]));
    assert_eq!(bench.conn.room(), 3);
}

#[test]
fn a_server_that_leaves_refuses_what_it_did_not_look_at() {
    let mut bench = client();
    for _ in 0..3 {
        ask(&mut bench, "GET", true);
    }
    let goaway = |last: u32| {
        frame(
            kind::GOAWAY,
            0,
            0,
            &[&last.to_be_bytes()[..], &[0; 4]].concat(),
        )
    };
    bench.feed(&goaway((1 << 31) - 1));
    assert_eq!(
        (bench.events(), bench.conn.room()),
        (vec!["goaway 2147483647".into()], 0)
    );
    bench.park();
    bench.feed(&goaway(3));
    assert_eq!(bench.events(), ["goaway 3", "5 reset Refused"]);
    bench.feed(&[headers(1, &[(":status", "200")], true), rst(3, 7)].concat());
    assert_eq!(bench.events(), ["1 200 end", "3 reset Refused"]);
    assert!(bench.conn.finished());
}

#[test]
fn upgrades_are_extended_connects() {
    let mut bench = client();
    let id = bench.conn.open().unwrap();
    let mut head = request("GET");
    head.upgrade = true;
    head.push(b"upgrade", b"websocket");
    head.push(b"sec-websocket-version", b"13");
    bench
        .send(|conn, out| conn.send_head(id, &head, false, out))
        .unwrap();
    assert_eq!(
        bench.frames(),
        [
            "1 HEADERS :method=CONNECT :scheme=http :authority=a.example:1 :path=/ :protocol=websocket \
          sec-websocket-version=13"
        ]
    );
    bench.feed(&headers(id, &[(":status", "200")], false));
    assert_eq!(bench.events(), ["1 101 upgrade=websocket upgrade"]);
    bench
        .send(|conn, out| conn.send_data(id, 3, false, out))
        .unwrap();
    // A server that did not say that it takes them does not get one.
    let mut bench = Bench::new(Role::Client, Settings::default());
    bench.feed(&settings(&[]));
    let id = bench.conn.open().unwrap();
    let sent = bench.send(|conn, out| conn.send_head(id, &head, false, out));
    assert_eq!(
        sent,
        Err(SendError::Unencodable("http2.upgrade_not_supported"))
    );
    // A plain CONNECT has neither scheme nor path.
    let mut bench = client();
    assert_eq!(ask(&mut bench, "CONNECT", false), 1);
    assert_eq!(
        bench.frames(),
        ["1 HEADERS :method=CONNECT :authority=a.example:1"]
    );
}
