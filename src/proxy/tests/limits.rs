//! What happens at the limits, with workers turned by hand over real sockets: nothing runs but what the
//! test turns, so that every count is exact.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use moorgate_codecs::Head;

use super::HttpPlan;
use super::bench::{Bench, REQUEST};
use crate::filter::{Filter, FilterFactory, Reply, Verdict};

#[test]
fn a_client_that_asks_and_never_reads_is_not_read_on() {
    const LENGTH: usize = 60_000;
    let mut bench = Bench::new(1, usize::MAX, HttpPlan::default(), 0);
    let mut client = bench.client();
    let requests = REQUEST.repeat(2_000);
    assert_eq!(
        client.write(&requests).expect("room for all"),
        requests.len()
    );
    let (mut last, mut still) = (0, 0);
    bench.serve_until(LENGTH, "a standstill", |bench| {
        let answered = bench.value("cluster.web.upstream_rq_total");
        still = if answered == last { still + 1 } else { 0 };
        last = answered;
        still > 1_000
    });
    assert!(last > 0 && last < 2_000, "{last} requests were forwarded");
    let (held, limit) = (bench.bed.budget.used(), 1 << 20);
    assert!(
        held > 0 && held < limit + 4 * LENGTH,
        "{held} bytes are held"
    );

    // Once it reads, it gets everything.
    let mut got = 0;
    bench.serve_until(LENGTH, "all the answers", |bench| {
        let mut piece = vec![0; 1 << 20];
        while let Ok(n) = client.read(&mut piece) {
            got += n;
        }
        bench.value("http.test.downstream_rq_completed") == 2_000 && bench.bed.budget.used() == 0
    });
    while let Ok(n) = client.read(&mut [0; 65536]) {
        got += n;
    }
    assert!(got > 2_000 * LENGTH, "{got} bytes");
    drop(client);
}

/// Answers every request at once, and at length.
#[derive(Debug)]
struct Talker;

impl FilterFactory for Talker {
    fn name(&self) -> &str {
        "talker"
    }

    fn make(&self) -> Box<dyn Filter> {
        Box::new(Self)
    }
}

impl Filter for Talker {
    fn request_head(&mut self, _: &mut Head, _: bool) -> Verdict {
        Verdict::Reply(Reply {
            status: 200,
            body: vec![b'x'; 50_000],
            headers: Vec::new(),
            details: "talker",
        })
    }
}

#[test]
fn a_client_that_asks_much_at_once_is_answered_in_parts() {
    let http = HttpPlan {
        filters: vec![Arc::new(Talker)],
        ..HttpPlan::default()
    };
    let mut bench = Bench::new(1, usize::MAX, http, 0);
    let mut client = bench.client();
    // One read brings them all, and their answers are 50 MB.
    let requests = REQUEST.repeat(1_000);
    let sent = client.write(&requests).expect("room for all");
    assert_eq!(sent, requests.len());
    let (mut last, mut still, mut most) = (0, 0, 0);
    bench.turn_until("a standstill", |bench| {
        let answered = bench.value("http.test.downstream_rq_completed");
        still = if answered == last { still + 1 } else { 0 };
        last = answered;
        most = most.max(bench.bed.budget.used());
        still > 1_000
    });
    assert!(last > 0 && last < 1_000, "{last} requests were answered");
    assert!(most > 0 && most < 3 << 20, "{most} bytes were held");
    bench.turn_until("all the answers", |bench| {
        while client.read(&mut vec![0; 1 << 20]).is_ok_and(|n| n > 0) {}
        bench.value("http.test.downstream_rq_completed") == 1_000 && bench.bed.budget.used() == 0
    });
}

fn is_closed(client: &mut TcpStream) -> bool {
    match client.read(&mut [0; 4096]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn at_the_limit_the_longest_idle_client_of_any_worker_makes_room() {
    const OVERFLOW: &str = "downstream_global_cx_overflow";
    const RECLAIMED: &str = "downstream_cx_reclaimed";
    let mut bench = Bench::new(2, usize::MAX, HttpPlan::default(), 4);
    let listener = format!("listener.{}.", bench.front);
    let count = move |bench: &Bench, name: &str| bench.value(&format!("{listener}{name}"));

    // All clients are idle on worker 0.
    let mut clients: Vec<_> = (0..4).map(|_| bench.client()).collect();
    for client in &mut clients {
        bench.exchange(client, 0);
    }
    assert_eq!(bench.workers[0].core.tally.parked[0], 4);

    // One more comes, and worker 1 accepts it: the first of worker 0 goes.
    let mut fifth = bench.client();
    bench.turn(1);
    assert_eq!(count(&bench, RECLAIMED), 0, "worker 0 was not turned yet");
    bench.turn(0);
    assert_eq!(count(&bench, RECLAIMED), 1);
    assert!(is_closed(&mut clients[0]));
    assert!(!clients[1..].iter_mut().any(is_closed));
    bench.exchange(&mut fifth, 0);
    assert_eq!(bench.value("http.test.downstream_cx_active"), 4);

    // Nobody is idle: whoever comes is refused, whoever accepts it.
    for client in clients[1..].iter_mut().chain([&mut fifth]) {
        client.write_all(REQUEST).expect("a request");
    }
    bench.turn_until("four open requests", |bench| {
        bench.value("cluster.web.upstream_rq_active") == 4
    });
    for worker in [0, 1] {
        let mut refused = bench.client();
        bench.only = Some(worker);
        bench.turn_until("a refusal", |bench| {
            count(bench, OVERFLOW) == worker as i64 + 1
        });
        bench.only = None;
        assert!(is_closed(&mut refused));
    }
    assert_eq!(count(&bench, RECLAIMED), 1);
    assert_eq!(bench.value("http.test.downstream_cx_active"), 4);
}

#[test]
fn an_idle_process_sleeps_until_the_next_deadline() {
    let mut bench = Bench::new(1, usize::MAX, HttpPlan::default(), 0);
    let mut clients: Vec<_> = (0..8).map(|_| bench.client()).collect();
    for client in &mut clients {
        bench.exchange(client, 0);
    }
    // The other kinds: an open and silent exchange, and a client in the middle of a head, which is
    // resident and stays it.
    clients[0].write_all(REQUEST).expect("a request");
    clients[1].write_all(b"GET / HT").expect("half a head");
    bench.turn_until("all that can be parked", |bench| {
        bench.value("moorgate.parked.pair") == 1 && bench.value("moorgate.parked.idle") == 6
    });
    assert!(bench.value("moorgate.resident") >= 1);
    bench.turn(0);
    // What is due next is the timeout of the exchange, in 15 s.
    let wait = bench.workers[0].timeout();
    assert!(wait.is_none_or(|ms| ms > 10_000), "wakes after {wait:?} ms");
}

#[test]
fn who_goes_away_while_parked_is_noticed() {
    let mut bench = Bench::new(1, usize::MAX, HttpPlan::default(), 0);
    let mut client = bench.client();
    bench.exchange(&mut client, 0);
    // The upstream closes its idle connection, which is parked.
    bench.turn_until("a pooled connection", |bench| {
        bench.value("moorgate.parked.pooled") == 1
    });
    bench.answering.clear();
    bench.turn_until("its end", |bench| {
        bench.value("cluster.web.upstream_cx_active") == 0
    });
    assert_eq!(bench.value("moorgate.parked.pooled"), 0);

    // The client goes while its exchange is open and silent: the upstream is told.
    client.write_all(REQUEST).expect("a request");
    bench.turn_until("an open exchange", |bench| {
        bench.value("moorgate.parked.pair") == 1
    });
    let (mut upstream, _) = bench.upstream.accept().expect("its connection");
    drop(client);
    bench.turn_until("the client's end", |bench| {
        bench.value("http.test.downstream_cx_active") == 0
    });
    assert_eq!(bench.value("cluster.web.upstream_cx_active"), 0);
    assert_eq!(bench.value("cluster.web.upstream_rq_active"), 0);
    let mut asked = [0; 4096];
    assert!(upstream.read(&mut asked).expect("the request") > 0);
    assert!(!matches!(upstream.read(&mut asked), Ok(1..)));

    // And the other way round: the upstream goes while the exchange is parked.
    let mut client = bench.client();
    client.write_all(REQUEST).expect("a request");
    bench.turn_until("an open exchange", |bench| {
        bench.value("moorgate.parked.pair") == 1
    });
    drop(bench.upstream.accept().expect("its connection"));
    bench.turn_until("the answer", |bench| {
        bench.value("http.test.downstream_rq_5xx") == 1
    });
    let mut answer = [0; 4096];
    let n = client.read(&mut answer).expect("an answer");
    assert!(answer[..n].starts_with(b"HTTP/1.1 503 "));
}

#[test]
fn tunnels_stay_within_the_budget_and_lose_nothing() {
    const BUDGET: usize = 512 * 1024;
    const PIECE: usize = 65_536;
    // Every stretch of what is sent is found in it.
    let pattern: Vec<u8> = (0..PIECE + 251).map(|at| (at % 251) as u8).collect();
    let mut bench = Bench::tcp(BUDGET);
    // (client, upstream, bytes sent, bytes received, over)
    let mut tunnels: Vec<(TcpStream, TcpStream, usize, usize, bool)> = Vec::new();
    for _ in 0..4 {
        let client = bench.client();
        let mut upstream = None;
        bench.turn_until("a tunnel", |bench| {
            upstream = bench.upstream.accept().ok();
            upstream.is_some()
        });
        let (upstream, _) = upstream.expect("a connection");
        upstream.set_nonblocking(true).expect("non-blocking");
        tunnels.push((client, upstream, 0, 0, false));
    }
    // The upstreams say what they can, and nobody reads.
    let (mut still, mut most) = (0, 0);
    bench.turn_until("a standstill", |bench| {
        still += 1;
        for (_, upstream, sent, ..) in &mut tunnels {
            if let Ok(n) = upstream.write(&pattern[*sent % 251..][..PIECE]) {
                *sent += n;
                still = 0;
            }
        }
        most = most.max(bench.bed.budget.used());
        still > 1_000
    });
    assert!(most > BUDGET / 2, "{most} bytes were held");
    assert!(most < BUDGET + (1 << 20), "{most} bytes were held");
    let paused = bench.value("moorgate.buffers.reads_paused");
    assert!(paused + bench.value("moorgate.buffers.shrunk") > 0);

    // Then they read; who was not reset gets every byte in its place.
    bench.turn_until("everything", |_| {
        for (client, _, sent, got, over) in &mut tunnels {
            let mut piece = [0; PIECE];
            match client.read(&mut piece) {
                Ok(0) => *over = true,
                Ok(n) => {
                    let right = &pattern[*got % 251..][..n];
                    assert!(piece[..n] == *right, "other bytes than were sent");
                    *got += n;
                }
                Err(error) => *over |= error.kind() != ErrorKind::WouldBlock,
            }
            *over |= *got == *sent;
        }
        tunnels.iter().all(|tunnel| tunnel.4)
    });
    let whole = tunnels.iter().filter(|tunnel| tunnel.2 == tunnel.3).count();
    let reset = bench.value("moorgate.buffers.holders_reset");
    assert_eq!(whole as i64 + reset, 4);
    assert!(whole > 0);
    drop(tunnels);
    bench.turn_until("the end of all", |bench| {
        bench.value("moorgate.resident") == 0 && bench.value("moorgate.parked.pair") == 0
    });
}
