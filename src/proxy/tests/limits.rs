//! What happens at the limits, with workers turned by hand over real sockets: nothing runs but what the
//! test turns, so that every count is exact.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::{Bed, HttpPlan, Plan};
use crate::cluster::ClusterConfig;
use crate::engine::reactor::Addr;
use crate::engine::reactor::clock::Clock;
use crate::engine::reactor::epoll::Epoll;
use crate::engine::worker::Worker;
use crate::filter::Token;
use crate::proxy::facts::Message;
use crate::proxy::{Gateway, Tuning};

/// Turns after which nothing more can be expected.
const MOST_TURNS: usize = 100_000;

/// A gateway whose workers the test turns, with an upstream that the test plays itself.
struct Bench {
    bed: Bed,
    workers: Vec<Worker<Epoll, Gateway>>,
    front: SocketAddr,
    upstream: TcpListener,
    /// Its connections, and what is still to be sent on each.
    answering: Vec<(TcpStream, Vec<u8>)>,
}

impl Bench {
    fn new(workers: usize, budget: usize, http: HttpPlan, max_connections: u64) -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").expect("bind");
        upstream.set_nonblocking(true).expect("non-blocking");
        let address = upstream.local_addr().expect("its address");
        let front = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port");
        let mut bed = Bed::new(budget);
        let snapshot = bed.snapshot(Plan {
            clusters: vec![("web", ClusterConfig::default(), vec![Addr::Ip(address)])],
            http: vec![(Addr::Ip(front), http, "web")],
            tcp: Vec::new(),
            max_connections,
        });
        let clock = Clock::start();
        let reactors = (0..workers).map(|_| Epoll::new(clock).expect("epoll"));
        let tuning = Tuning {
            quiet_ms: 0,
            ..Tuning::default()
        };
        let workers = bed.workers(reactors.collect(), &snapshot, tuning);
        Self {
            bed,
            workers,
            front,
            upstream,
            answering: Vec::new(),
        }
    }

    fn value(&self, name: &str) -> i64 {
        self.bed.registry.value(name).unwrap_or(0)
    }

    /// Gives a worker something to do (a call nobody made goes on), so that its turn does not sleep, and turns it.
    fn turn(&mut self, worker: usize) {
        let worker = &mut self.workers[worker];
        worker.core.siblings().members[usize::from(worker.core.id())]
            .post(Message::Resume(Token(u64::MAX)));
        worker.turn().expect("a turn");
    }

    fn turn_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..MOST_TURNS {
            if done(self) {
                return;
            }
            for worker in 0..self.workers.len() {
                self.turn(worker);
            }
        }
        panic!("never came: {what}");
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.front).expect("connect");
        client.set_nonblocking(true).expect("non-blocking");
        client
    }

    /// Turns until `done`, while the upstream answers what it is asked with `length` bytes each.
    fn serve_until(&mut self, length: usize, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + length, b'x');
        self.turn_until(what, |bench| {
            if let Ok((stream, _)) = bench.upstream.accept() {
                stream.set_nonblocking(true).expect("non-blocking");
                bench.answering.push((stream, Vec::new()));
            }
            bench.answering.retain_mut(|(stream, unsent)| {
                let mut asked = [0; 4096];
                let open = match stream.read(&mut asked) {
                    Ok(0) => false,
                    Ok(n) => {
                        let heads = asked[..n].windows(4).filter(|four| four == b"\r\n\r\n");
                        (0..heads.count()).for_each(|_| unsent.extend_from_slice(&answer));
                        true
                    }
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                };
                if let Ok(n) = stream.write(unsent) {
                    unsent.drain(..n);
                }
                open
            });
            done(bench)
        });
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for worker in &self.workers {
            worker.core.siblings().members[usize::from(worker.core.id())].post(Message::Stop);
        }
        for worker in &mut self.workers {
            worker.turn().expect("the last turn");
            assert_eq!(
                (worker.core.slot_count(), worker.core.tally.resident),
                (0, 0)
            );
        }
        assert_eq!(self.value("http.test.downstream_cx_active"), 0);
        assert_eq!(self.value("cluster.web.upstream_cx_active"), 0);
        assert_eq!(self.bed.budget.used(), 0);
    }
}

#[test]
fn a_client_that_asks_and_never_reads_is_not_read_on() {
    const LENGTH: usize = 60_000;
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
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
