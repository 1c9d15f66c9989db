//! Peers that mean harm: each row of the attack list, with the name that it gets.

use super::*;

fn plain() -> Settings {
    Settings {
        stream_errors: true,
        ..Settings::default()
    }
}

/// Feeds pieces until the connection is closed; how many it took, and why.
fn until_closed(bench: &mut Bench, mut piece: impl FnMut(usize) -> Vec<u8>) -> (usize, String) {
    for count in 1..200_000 {
        let bytes = piece(count);
        if let Why::Closed(error) = bench.feed(&bytes) {
            assert!(bench.conn.finished());
            return (count, error.unwrap().detail.into());
        }
        // The peer reads all that is said.
        bench.conn.written();
        bench.take();
    }
    panic!("never closed");
}

fn id_of(count: usize) -> StreamId {
    (count * 2 - 1) as StreamId
}

#[test]
fn rapid_reset() {
    let mut bench = Bench::server(plain());
    let (count, name) = until_closed(&mut bench, |count| {
        [headers(id_of(count), GET, true), rst(id_of(count), 8)].concat()
    });
    assert_eq!(
        (count, name.as_str()),
        (250, "http2.too_many_premature_resets")
    );
    assert!(
        bench
            .frames()
            .last()
            .unwrap()
            .contains(" 11 http2.too_many_premature_resets")
    );
    // Clients that now and then give up are no attack.
    let mut bench = Bench::server(plain());
    for count in 1..4000 {
        let id = id_of(count);
        bench.feed(&headers(id, GET, true));
        if count % 3 == 0 {
            bench.feed(&rst(id, 8));
        } else {
            bench.respond(id, 200, true);
        }
    }
    assert!(!bench.conn.finished());
}

#[test]
fn made_you_reset() {
    // Each provokes a reset of ours on a stream whose answer has not begun.
    for provoke in [
        |id| window_update(id, 0),
        |id| window_update(id, (1 << 31) - 1),
        |id| data(id, b"x", false),
        |id| headers(id, &[("a", "b")], false),
    ] {
        let mut bench = Bench::server(plain());
        let (count, name) = until_closed(&mut bench, |count| {
            let id = id_of(count);
            [headers(id, GET, true), provoke(id)].concat()
        });
        assert_eq!(
            (count, name.as_str()),
            (250, "http2.too_many_premature_resets")
        );
    }
}

#[test]
fn continuation_floods() {
    let mut bench = Bench::server(plain());
    bench.feed(&frame(kind::HEADERS, 0, 1, &block(GET)));
    let (count, name) = until_closed(&mut bench, |_| frame(kind::CONTINUATION, 0, 1, b"x"));
    assert_eq!((count, name.as_str()), (65, "http2.continuation_flood"));
    let mut bench = Bench::server(plain());
    bench.feed(&frame(kind::HEADERS, 0, 1, &block(GET)));
    let (count, name) = until_closed(&mut bench, |_| {
        frame(kind::CONTINUATION, 0, 1, &[0; 16_000])
    });
    assert_eq!((count, name.as_str()), (4, "http2.continuation_flood"));
}

#[test]
fn answers_that_are_not_read() {
    for piece in [
        frame(kind::PING, 0, 0, &[0; 8]),
        settings(&[(1, 4096)]),
        headers(1, &[(":method", "")], true),
    ] {
        let mut bench = Bench::server(Settings {
            max_concurrent_streams: 0,
            ..plain()
        });
        let name = (1..3000).find_map(|count| {
            let piece = match piece[3] {
                kind::HEADERS => headers(id_of(count), GET, true),
                _ => piece.clone(),
            };
            match bench.feed(&piece) {
                Why::Closed(error) => Some((count, error.unwrap().detail)),
                _ => None,
            }
        });
        // Two answers to the hello were not read either.
        let (count, name) = name.unwrap();
        assert!((999..=1001).contains(&count), "{count}");
        assert_eq!(name, "http2.outbound_control_frames_flood");
    }
    // A peer that reads is answered without end.
    let mut bench = Bench::server(plain());
    for _ in 0..5000 {
        bench.feed(&frame(kind::PING, 0, 0, &[0; 8]));
        bench.conn.written();
    }
    assert!(!bench.conn.finished());
}

#[test]
fn frames_that_are_not_read() {
    let mut bench = Bench::server(plain());
    bench.feed(&headers(1, GET, true));
    bench.respond(1, 200, false);
    for _ in 0..10_000 {
        bench
            .send(|conn, out| conn.send_data(1, 1, false, out))
            .unwrap();
    }
    bench.feed(&window_update(0, 1));
    assert_eq!(
        bench.events().last().unwrap(),
        "closed http2.outbound_frames_flood"
    );
}

#[test]
fn floods_of_frames_that_do_nothing() {
    type Piece = fn(usize) -> Vec<u8>;
    let cases: [(Piece, usize, &str); 7] = [
        (
            |_| data(1, b"", false),
            2,
            "http2.inbound_empty_frames_flood",
        ),
        (
            |_| frame(kind::DATA, flag::PADDED, 1, &[1, 0]),
            2,
            "http2.inbound_empty_frames_flood",
        ),
        (
            |count| {
                let kind = if count == 1 {
                    kind::HEADERS
                } else {
                    kind::CONTINUATION
                };
                frame(kind, 0, 3, b"")
            },
            2,
            "http2.inbound_empty_frames_flood",
        ),
        (
            |_| frame(kind::PRIORITY, 0, 1, &[0; 5]),
            201,
            "http2.inbound_priority_frames_flood",
        ),
        (
            |_| window_update(0, 1),
            8,
            "http2.inbound_window_update_frames_flood",
        ),
        (
            |_| window_update(1, 1),
            8,
            "http2.inbound_window_update_frames_flood",
        ),
        (|_| rst(1, 8), 102, "http2.inbound_reset_frames_flood"),
    ];
    for (piece, most, name) in cases {
        let mut bench = Bench::server(plain());
        bench.feed(&headers(1, GET, false));
        assert_eq!(until_closed(&mut bench, piece), (most, name.into()));
    }
}

#[test]
fn header_bombs() {
    // Many fields out of few bytes: one entry of the table, again and again.
    let mut encoder = hpack::Encoder::new();
    let mut block = Vec::new();
    for (name, value) in GET {
        encoder.encode(name.as_bytes(), value.as_bytes(), true, &mut block);
    }
    for _ in 0..1000 {
        encoder.encode(b"x-bomb", b"y", false, &mut block);
    }
    let mut bench = Bench::server(plain());
    bench.feed(&frame(kind::HEADERS, 5, 1, &block));
    assert_eq!(bench.notes, ["http2.too_many_headers"]);
    // Many bytes out of few bytes.
    let long = "z".repeat(2000);
    let mut bench = Bench::server(Settings {
        max_fields: 10_000,
        ..plain()
    });
    let mut encoder = hpack::Encoder::new();
    let mut block = super::block(GET);
    for _ in 0..1000 {
        encoder.encode(b"x-bomb", long.as_bytes(), false, &mut block);
    }
    assert!(block.len() < 4000);
    bench.feed(&frame(kind::HEADERS, 5, 1, &block));
    assert_eq!(bench.notes, ["http2.headers_too_large"]);
    assert_eq!(bench.frames(), ["1 RST 11"]);
    // Crumbs of a cookie count one by one.
    let crumbs = [GET.to_vec(), vec![("cookie", "a=b"); 200]].concat();
    let mut bench = Bench::server(plain());
    bench.feed(&headers(1, &crumbs, true));
    assert_eq!(bench.notes, ["http2.too_many_headers"]);
    // The table followed all the same: the next request is good.
    bench.feed(&headers(3, GET, true));
    assert_eq!(
        bench.events().last().unwrap(),
        "3 GET http://a.example/ end"
    );
}

#[test]
fn table_sizes_beyond_what_was_said() {
    // A size update to 2 GiB.
    let block = [0x3f, 0xe1, 0xff, 0xff, 0xff, 0x07];
    let mut bench = Bench::server(plain());
    bench.feed(&frame(kind::HEADERS, 5, 1, &block));
    assert!(bench.events().last().unwrap().starts_with("closed hpack_"));
    // The peer's offer of a huge table is not taken up.
    let mut bench = Bench::server(plain());
    bench.feed(&settings(&[(1, u32::MAX)]));
    bench.feed(&headers(1, GET, true));
    let mut head = response(200);
    for number in 0..1000 {
        head.push(
            format!("x-{number}").as_bytes(),
            b"some value that is worth a place",
        );
    }
    bench
        .send(|conn, out| conn.send_head(1, &head, true, out))
        .unwrap();
    assert!(bench.conn.table_octets() <= 4096);
}

#[test]
fn windows_that_stay_shut() {
    // A peer that opens streams and never a window: nothing is held here, and nothing else suffers.
    let mut bench = Bench::server(plain());
    bench.feed(&settings(&[(4, 0)]));
    for count in 1..=100 {
        let id = id_of(count);
        bench.feed(&headers(id, GET, true));
        bench.respond(id, 200, false);
        let sent = bench.send(|conn, out| conn.send_data(id, 1000, true, out));
        assert_eq!(sent, Ok(0));
    }
    let size = bench.park();
    assert!(size <= 100 * 128, "{size}");
    bench.take();
    bench.feed(&window_update(7, 10));
    assert_eq!(bench.events(), ["7 writable"]);
    let sent = bench.send(|conn, out| conn.send_data(7, 10, true, out));
    assert_eq!((sent, bench.conn.streams()), (Ok(10), 99));
}

#[test]
fn too_many_streams_are_refused_one_by_one() {
    let mut bench = Bench::server(Settings {
        max_concurrent_streams: 2,
        ..plain()
    });
    for id in [1, 3, 5] {
        bench.feed(&headers(id, GET, true));
    }
    assert_eq!(bench.frames(), ["5 RST 7"]);
    assert_eq!(bench.notes, ["http2.stream_refused"]);
    assert_eq!(bench.conn.streams(), 2);
}
