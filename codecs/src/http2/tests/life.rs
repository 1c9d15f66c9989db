//! A connection's life: windows, signs of life, leaving, silence.

use super::*;
use crate::codec::ResetReason;

fn strict() -> Settings {
    Settings::default()
}

#[test]
fn section_5_2_windows_both_ways() {
    let settings = Settings {
        stream_window: 100,
        connection_window: 65_535,
        ..strict()
    };
    let mut bench = Bench::server(settings);
    bench.feed(&[headers(1, GET, false), data(1, &[b'a'; 100], false)].concat());
    bench.take();
    bench.send(|conn, out| conn.release(1, 40, out));
    assert!(bench.frames().is_empty());
    bench.send(|conn, out| conn.release(1, 20, out));
    assert_eq!(bench.frames(), ["1 WINDOW 60"]);
    bench.feed(&data(1, &[b'a'; 61], false));
    assert_eq!(bench.take().1, ["1 RST 3"]);

    // The connection's window is kept apart, and gets back what a dead stream held.
    let mut bench = Bench::server(Settings {
        connection_window: 65_535,
        ..strict()
    });
    bench.feed(&headers(1, GET, false));
    for _ in 0..4 {
        bench.feed(&data(1, &[b'a'; 16_000], false));
    }
    bench.take();
    bench.feed(&rst(1, 8));
    assert_eq!(
        bench.take(),
        (vec!["1 reset Cancel".into()], vec!["0 WINDOW 64000".into()])
    );
    bench.feed(&headers(3, GET, false));
    for _ in 0..5 {
        bench.feed(&data(3, &[b'a'; 16_000], false));
    }
    assert_eq!(
        bench.events().last().unwrap(),
        "closed http2.connection_window_overrun"
    );

    // What we send: by stream, by connection, in turn.
    let mut bench = Bench::server(strict());
    bench.feed(&settings_and_requests());
    for id in [1, 3, 5] {
        bench.respond(id, 200, false);
    }
    bench.take();
    let send =
        |bench: &mut Bench, id| bench.send(|conn, out| conn.send_data(id, 50_000, false, out));
    assert_eq!(send(&mut bench, 1), Ok(40_000));
    assert_eq!(send(&mut bench, 3), Ok(25_535));
    assert_eq!(send(&mut bench, 5), Ok(0));
    assert_eq!(
        bench.frames(),
        [
            "1 DATA 16384",
            "1 DATA 16384",
            "1 DATA 7232",
            "3 DATA 16384",
            "3 DATA 9151"
        ]
    );
    bench.feed(&window_update(1, 10));
    assert!(bench.events().is_empty(), "the connection is full");
    bench.feed(&window_update(0, 10));
    assert_eq!(bench.events(), ["1 writable", "3 writable", "5 writable"]);
    assert_eq!(send(&mut bench, 1), Ok(10));
    assert_eq!((send(&mut bench, 3), send(&mut bench, 5)), (Ok(0), Ok(0)));
    bench.feed(&window_update(1, 1000));
    bench.park();
    bench.feed(&window_update(0, 10));
    assert_eq!(
        bench.events(),
        ["3 writable", "5 writable", "1 writable"],
        "another is first"
    );
    // A smaller window of the peer's makes ours negative (section 6.9.2).
    bench.feed(&super::settings(&[(4, 10)]));
    bench.feed(&window_update(3, 25_525));
    assert_eq!(send(&mut bench, 3), Ok(0));
    bench.feed(&window_update(3, 2));
    assert_eq!(bench.events().last().unwrap(), "3 writable");
    assert_eq!(send(&mut bench, 3), Ok(2));
}

/// Streams 1, 3 and 5 on a connection whose streams have 40,000 bytes each.
fn settings_and_requests() -> Vec<u8> {
    let mut bytes = super::settings(&[(4, 40_000)]);
    for id in [1, 3, 5] {
        bytes.extend(headers(id, GET, true));
    }
    bytes
}

#[test]
fn section_6_8_leaving_in_two_steps() {
    let mut bench = Bench::server(strict());
    bench.feed(&headers(1, GET, true));
    bench.send(|conn, out| conn.go_away(out));
    assert_eq!(bench.frames(), ["GOAWAY 2147483647 0 ", "PING leaving?"]);
    // What was on its way is served.
    bench.feed(&headers(3, GET, true));
    bench.park();
    bench.feed(&frame(kind::PING, flag::ACK, 0, b"leaving?"));
    bench.feed(&headers(5, GET, true));
    let (events, frames) = bench.take();
    assert_eq!(events, ["3 GET http://a.example/ end"]);
    assert_eq!(frames, ["GOAWAY 3 0 "]);
    assert!(!bench.conn.finished());
    for id in [1, 3] {
        bench.respond(id, 204, true);
    }
    assert!(bench.conn.finished());
    // A peer that does not say that it knows is not waited for without end.
    let mut bench = Bench::server(strict());
    bench.send(|conn, out| conn.go_away(out));
    bench.take();
    assert_eq!(bench.conn.next_deadline(), Some(0));
    bench.send(|conn, out| conn.on_deadline(1000, out));
    assert_eq!(bench.conn.next_deadline(), Some(6000));
    bench.send(|conn, out| conn.on_deadline(6000, out));
    assert_eq!(bench.frames(), ["GOAWAY 0 0 "]);
    assert!(bench.conn.finished());
}

#[test]
fn jitter_spreads_pings_over_its_part_of_the_interval() {
    let keep = crate::http2::Keepalive {
        interval: 1000,
        jitter_percent: 15,
        timeout: 30,
    };
    let added: Vec<_> = (0..1000).map(|at| keep.due(at) - at - 1000).collect();
    assert!(added.iter().all(|ms| *ms <= 150));
    for part in added.chunks(100) {
        // A hundred that were heard one after the other are asked at many different moments.
        let mut times: Vec<_> = part.iter().map(|ms| ms / 10).collect();
        times.sort_unstable();
        times.dedup();
        assert!(times.len() >= 10, "{part:?}");
    }
    let none = crate::http2::Keepalive {
        jitter_percent: 0,
        ..keep
    };
    assert_eq!(none.due(7), 1007);
}

#[test]
fn pings_both_ways() {
    let keepalive = Some(crate::http2::Keepalive {
        interval: 100,
        jitter_percent: 0,
        timeout: 30,
    });
    let mut bench = Bench::server(Settings {
        keepalive,
        ..strict()
    });
    bench.feed(&frame(kind::PING, 0, 0, b"12345678"));
    assert_eq!(bench.frames(), ["PING 12345678 end"]);
    assert_eq!(bench.conn.next_deadline(), Some(1100));
    assert!(bench.send(|conn, out| conn.on_deadline(1100, out)));
    assert_eq!(bench.frames(), ["PING alive???"]);
    bench.park();
    assert_eq!(bench.conn.next_deadline(), Some(1130));
    bench.now = 1120;
    bench.feed(&frame(kind::PING, flag::ACK, 0, b"alive???"));
    assert_eq!(bench.conn.next_deadline(), Some(1220));
    assert!(bench.send(|conn, out| conn.on_deadline(1220, out)));
    assert!(!bench.send(|conn, out| conn.on_deadline(1250, out)));
    assert!(bench.conn.finished());
}

#[test]
fn an_early_answer_lets_the_rest_of_the_request_go() {
    let mut bench = Bench::server(strict());
    bench.feed(&headers(1, GET, false));
    bench.respond(1, 413, true);
    bench.send(|conn, out| conn.reset(1, ResetReason::Cancel, out));
    assert_eq!(bench.frames(), ["1 HEADERS :status=413 end", "1 RST 0"]);
}

#[test]
fn interim_answers_and_what_cannot_be_said() {
    let mut bench = Bench::server(strict());
    bench.feed(&headers(1, GET, true));
    bench.respond(1, 100, false);
    bench.respond(1, 103, false);
    let mut head = response(200);
    for (name, value) in [
        ("connection", "x"),
        ("transfer-encoding", "chunked"),
        ("keep-alive", "1"),
        ("te", "gzip"),
        ("a", " b "),
    ] {
        head.push(name.as_bytes(), value.as_bytes());
    }
    head.content_length = Some(12);
    let mut bad = response(200);
    bad.push(b"a", b"b\r\nc: d");
    let sent = bench.send(|conn, out| conn.send_head(1, &bad, false, out));
    assert!(sent.is_err());
    bench
        .send(|conn, out| conn.send_head(1, &head, false, out))
        .unwrap();
    assert_eq!(
        bench.frames(),
        [
            "1 HEADERS :status=100",
            "1 HEADERS :status=103",
            "1 HEADERS :status=200 a=b content-length=12"
        ]
    );
    let again = bench.send(|conn, out| conn.send_head(1, &head, false, out));
    assert!(again.is_err());
}

#[test]
fn a_long_head_takes_several_frames_both_ways() {
    let mut bench = Bench::server(strict());
    let long = "~".repeat(40_000);
    let block = block(&with(&[("long", &long)]));
    let mut bytes = frame(kind::HEADERS, flag::END_STREAM, 1, &block[..16_000]);
    bytes.extend(frame(kind::CONTINUATION, 0, 1, &block[16_000..32_000]));
    bytes.extend(frame(
        kind::CONTINUATION,
        flag::END_HEADERS,
        1,
        &block[32_000..],
    ));
    bench.feed(&bytes);
    assert!(bench.events()[0].ends_with("~ end"));
    let mut head = response(200);
    head.push(b"long", long.as_bytes());
    bench
        .send(|conn, out| conn.send_head(1, &head, true, out))
        .unwrap();
    assert_eq!(
        bench.frames(),
        ["1 HEADERS part", "1 CONTINUATION", "1 CONTINUATION"]
    );
}

#[test]
fn a_silent_connection_is_small() {
    let mut bench = Bench::new(Role::Server, strict());
    assert_eq!(bench.park(), 0);
    bench.feed(&hello());
    let mut fields = with(&[("user-agent", "h2load nghttp2/1.59.0")]);
    fields[2].1 = "127.0.0.1:8080";
    let mut encoder = hpack::Encoder::new();
    for id in [1, 3, 5] {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        for (name, value) in &fields {
            encoder.encode(name.as_bytes(), value.as_bytes(), false, &mut block);
        }
        bench.feed(&frame(kind::HEADERS, 5, id, &block));
        let mut head = response(200);
        head.push(b"server", b"moorgate");
        head.push(b"date", b"Sat, 21 Nov 2026 18:00:00 GMT");
        bench
            .send(|conn, out| conn.send_head(id, &head, true, out))
            .unwrap();
    }
    let idle = bench.park();
    assert!(idle <= 120, "{idle}");
    for id in 0..100 {
        bench.feed(&headers(7 + 2 * id, GET, false));
        bench.feed(&data(7 + 2 * id, &[0; 1000], false));
        bench.respond(7 + 2 * id, 200, false);
        bench.send(|conn, out| conn.release(7 + 2 * id, 1000, out));
    }
    let streams = bench.park() - idle;
    assert!(streams <= 100 * 16, "{streams}");
}

#[test]
fn what_comes_late_on_a_stream_that_we_reset_is_ignored() {
    let mut bench = Bench::server(strict());
    bench.feed(&headers(1, GET, false));
    bench.send(|conn, out| conn.reset(1, ResetReason::Cancel, out));
    bench.park();
    bench.take();
    bench.feed(&[data(1, &[0; 100], false), headers(1, &[("a", "b")], true)].concat());
    bench.feed(&[window_update(1, 5), rst(1, 8)].concat());
    assert_eq!(bench.take(), (vec![], vec![]));
    // The window of the connection does not leak.
    for _ in 0..5000 {
        bench.feed(&data(1, &[0; 16000], false));
    }
    let (events, frames) = bench.take();
    assert!(events.is_empty());
    let updates = frames.iter().filter(|line| line.starts_with("0 WINDOW"));
    assert!(updates.count() >= 5);
}
