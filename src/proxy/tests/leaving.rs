//! WebSocket sessions are told that the gateway leaves, where something may be said.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use moorgate_codecs::websocket::{Opcode, mask, write_frame};

use super::bench::Bench;
use super::{HttpPlan, Plan};
use crate::proxy::facts::Message;

const ASK: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const AGREE: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// What the client and the upstream send, and which of the two are told.
type Case<'a> = (&'a [u8], &'a [u8], (bool, bool));

/// A frame of the client.
fn masked(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(
        true,
        Opcode::Binary,
        payload,
        Some([1, 2, 3, 4]),
        &mut bytes,
    );
    bytes
}

/// A frame of the upstream.
fn bare(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(true, Opcode::Binary, payload, None, &mut bytes);
    bytes
}

fn gateway() -> Bench {
    let http = HttpPlan {
        upgrades: vec![("websocket".to_owned(), true)],
        ..HttpPlan::default()
    };
    Bench::new(1, usize::MAX, http, 0)
}

/// Turns until so many bytes came.
fn arrive(bench: &mut Bench, sock: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut got = Vec::new();
    bench.turn_until("bytes", |_| {
        let mut part = [0; 1024];
        match sock.read(&mut part) {
            Ok(n) => got.extend_from_slice(&part[..n]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        got.len() >= length
    });
    got
}

/// A session, with what either end sends behind its handshake. It is `parked` or resident then.
fn session(
    bench: &mut Bench,
    parked: bool,
    (from_client, from_upstream): (&[u8], &[u8]),
) -> (TcpStream, TcpStream) {
    if !parked {
        bench.workers[0].app.tuning.quiet_ms = u64::MAX / 2;
    }
    let mut client = bench.client();
    client.write_all(ASK).expect("a request");
    let mut accepted = None;
    bench.turn_until("an upstream", |bench| {
        accepted = bench.upstream.accept().ok();
        accepted.is_some()
    });
    let (mut upstream, _) = accepted.expect("a connection");
    upstream.set_nonblocking(true).expect("non-blocking");
    upstream.write_all(AGREE).expect("an answer");
    bench.turn_until("a session", |bench| {
        bench.value("http.test.downstream_cx_upgrades_active") == 1
    });
    let silent = |bench: &Bench| bench.value("moorgate.parked.pair") == 1;
    if parked {
        // It was parked before: what is known of its frames survives that.
        bench.turn_until("silence", |bench| silent(bench));
    }
    client.write_all(from_client).expect("its bytes");
    upstream.write_all(from_upstream).expect("its bytes");
    let mut head = Vec::new();
    while !head.ends_with(from_upstream) || !head.windows(4).any(|four| four == b"\r\n\r\n") {
        head.extend(arrive(bench, &mut client, 1));
    }
    let mut got = Vec::new();
    while !got.ends_with(from_client) || !got.windows(4).any(|four| four == b"\r\n\r\n") {
        got.extend(arrive(bench, &mut upstream, 1));
    }
    if parked {
        bench.turn_until("silence", |bench| silent(bench));
    }
    assert_eq!(silent(bench), parked);
    (client, upstream)
}

/// What an end reads until it is closed, once the gateway has gone.
fn last_words(mut sock: TcpStream) -> Vec<u8> {
    sock.set_nonblocking(false).expect("blocking");
    let mut said = Vec::new();
    sock.read_to_end(&mut said).expect("an end in order");
    said
}

/// Stops the gateway; whether the client and the upstream were told 1001.
fn told(bench: &mut Bench, ends: (TcpStream, TcpStream)) -> (bool, bool) {
    bench.workers[0].core.siblings().members[0].post(Message::Stop);
    bench.workers[0].turn().expect("the last turn");
    heard(bench, ends)
}

/// Whether the client and the upstream of a session that was closed were told 1001.
fn heard(bench: &Bench, (client, upstream): (TcpStream, TcpStream)) -> (bool, bool) {
    let (client, mut upstream) = (last_words(client), last_words(upstream));
    if !client.is_empty() {
        assert_eq!(client, [0x88, 2, 0x03, 0xe9]);
    }
    if !upstream.is_empty() {
        assert_eq!((upstream[0], upstream[1], upstream.len()), (0x88, 0x82, 8));
        let key = [upstream[2], upstream[3], upstream[4], upstream[5]];
        mask(&mut upstream[6..], key, 0);
        assert_eq!(upstream[6..], [0x03, 0xe9]);
    }
    let told = (!client.is_empty(), !upstream.is_empty());
    let both = told == (true, true);
    assert_eq!(
        bench.value("moorgate.websockets.going_away"),
        i64::from(both)
    );
    assert_eq!(
        bench.value("moorgate.websockets.closed_untold"),
        i64::from(!both)
    );
    told
}

#[test]
fn who_is_between_frames_is_told_and_nobody_else() {
    let (asks, says) = (masked(b"question"), bare(b"answer"));
    let (half_asked, half_said) = (&asks[..asks.len() - 1], &says[..1]);
    let mut leaves = Vec::new();
    moorgate_codecs::websocket::write_close(1000, "", Some([7; 4]), &mut leaves);
    let cases: [Case<'_>; 6] = [
        (b"", b"", (true, true)),
        (&asks, &says, (true, true)),
        (half_asked, &says, (true, false)),
        (&asks, half_said, (false, true)),
        // No frame may follow a close frame.
        (&leaves, &says, (true, false)),
        (b"not a frame", b"neither", (false, false)),
    ];
    for parked in [false, true] {
        for (from_client, from_upstream, expected) in cases {
            let mut bench = gateway();
            let ends = session(&mut bench, parked, (from_client, from_upstream));
            let told = told(&mut bench, ends);
            assert_eq!(told, expected, "{parked} {from_client:?} {from_upstream:?}");
        }
    }
}

#[test]
fn silence_within_a_frame_does_not_lose_it() {
    let mut bench = gateway();
    let (asks, says) = (masked(&[7; 300]), bare(&[8; 300]));
    let (mut client, mut upstream) = session(&mut bench, true, (&asks[..5], &says[..200]));
    client.write_all(&asks[5..]).expect("the rest");
    upstream.write_all(&says[200..]).expect("the rest");
    arrive(&mut bench, &mut client, says.len() - 200);
    arrive(&mut bench, &mut upstream, asks.len() - 5);
    assert_eq!(told(&mut bench, (client, upstream)), (true, true));
}

#[test]
fn sessions_of_a_listener_that_went_are_told() {
    for parked in [false, true] {
        let mut bench = gateway();
        let ends = session(&mut bench, parked, (&masked(b"question"), &bare(b"answer")));
        bench.workers[0].app.tuning.drain_ms = 0;
        let snapshot = bench.bed.snapshot(Plan {
            clusters: Vec::new(),
            http: Vec::new(),
            tcp: Vec::new(),
            max_connections: 0,
        });
        bench.workers[0].core.siblings().members[0].post(Message::Snapshot(snapshot));
        bench.turn_until("the end", |bench| {
            bench.value("http.test.downstream_cx_upgrades_active") == 0
        });
        assert_eq!(heard(&bench, ends), (true, true), "{parked}");
    }
}

#[test]
fn other_upgrades_are_closed_without_a_word() {
    let http = HttpPlan {
        upgrades: vec![("chess".to_owned(), true)],
        ..HttpPlan::default()
    };
    let mut bench = Bench::new(1, usize::MAX, http, 0);
    let mut client = bench.client();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: chess\r\n\r\n")
        .expect("a request");
    let mut upstream = None;
    bench.turn_until("a session", |bench| {
        if let Ok((mut sock, _)) = bench.upstream.accept() {
            sock.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chess\r\n\r\n",
            )
            .expect("an answer");
            upstream = Some(sock);
        }
        bench.value("moorgate.parked.pair") == 1
            && bench.value("http.test.downstream_cx_upgrades_active") == 1
    });
    bench.workers[0].core.siblings().members[0].post(Message::Stop);
    bench.workers[0].turn().expect("the last turn");
    assert!(last_words(client).ends_with(b"\r\n\r\n"));
    assert!(last_words(upstream.expect("a connection")).ends_with(b"\r\n\r\n"));
    assert_eq!(bench.value("moorgate.websockets.going_away"), 0);
    assert_eq!(bench.value("moorgate.websockets.closed_untold"), 0);
}
