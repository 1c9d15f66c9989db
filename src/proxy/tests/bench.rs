//! A gateway whose workers the test turns itself, over real sockets: nothing runs but what is turned, so
//! that every count is exact.

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

pub(super) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// Turns after which nothing more can be expected.
const MOST_TURNS: usize = 100_000;

/// HTTP and TCP listeners of a plan.
pub(super) type Listeners = (
    Vec<(Addr, HttpPlan, &'static str)>,
    Vec<(Addr, &'static str, u64)>,
);

/// A gateway whose workers the test turns, with an upstream that the test plays itself.
pub(super) struct Bench {
    pub(super) bed: Bed,
    pub(super) workers: Vec<Worker<Epoll, Gateway>>,
    pub(super) front: SocketAddr,
    pub(super) upstream: TcpListener,
    /// Its connections, and what is still to be sent on each.
    pub(super) answering: Vec<(TcpStream, Vec<u8>)>,
    /// Only this worker is turned.
    pub(super) only: Option<usize>,
}

impl Bench {
    pub(super) fn new(workers: usize, budget: usize, http: HttpPlan, max_connections: u64) -> Self {
        Self::with(workers, budget, max_connections, |front| {
            (vec![(front, http, "web")], Vec::new())
        })
    }

    /// With a TCP proxy in place of HTTP.
    pub(super) fn tcp(budget: usize) -> Self {
        Self::with(1, budget, 0, |front| (Vec::new(), vec![(front, "web", 0)]))
    }

    pub(super) fn with(
        workers: usize,
        budget: usize,
        max_connections: u64,
        listeners: impl FnOnce(Addr) -> Listeners,
    ) -> Self {
        let cluster = |_: &Bed| ClusterConfig::default();
        Self::build(workers, budget, max_connections, cluster, |_, front| {
            listeners(front)
        })
    }

    /// With a cluster and listeners that want counters.
    pub(super) fn build(
        workers: usize,
        budget: usize,
        max_connections: u64,
        cluster: impl FnOnce(&Bed) -> ClusterConfig,
        listeners: impl FnOnce(&Bed, Addr) -> Listeners,
    ) -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").expect("bind");
        upstream.set_nonblocking(true).expect("non-blocking");
        let address = upstream.local_addr().expect("its address");
        let front = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port");
        let mut bed = Bed::new(budget);
        let (http, tcp) = listeners(&bed, Addr::Ip(front));
        let cluster = cluster(&bed);
        let snapshot = bed.snapshot(Plan {
            clusters: vec![("web", cluster, vec![Addr::Ip(address)])],
            http,
            tcp,
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
            only: None,
        }
    }

    pub(super) fn value(&self, name: &str) -> i64 {
        self.bed.registry.value(name).unwrap_or(0)
    }

    /// Gives a worker something to do (a call nobody made goes on), so that its turn does not sleep, and turns it.
    pub(super) fn turn(&mut self, worker: usize) {
        let worker = &mut self.workers[worker];
        worker.core.siblings().members[usize::from(worker.core.id())]
            .post(Message::Resume(Token(u64::MAX)));
        worker.turn().expect("a turn");
    }

    /// One request and its answer; the connection is parked afterwards, on the worker that is turned.
    pub(super) fn exchange(&mut self, client: &mut TcpStream, worker: usize) {
        let completed = "http.test.downstream_rq_completed";
        let before = self.value(completed);
        client.write_all(REQUEST).expect("a request");
        self.only = Some(worker);
        self.serve_until(2, "an answer", |bench| {
            bench.value(completed) > before && bench.value("moorgate.resident") == 0
        });
        self.only = None;
        let mut answer = [0; 4096];
        let n = client.read(&mut answer).expect("an answer");
        assert!(answer[..n].starts_with(b"HTTP/1.1 200 OK\r\n"));
    }

    pub(super) fn turn_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..MOST_TURNS {
            if done(self) {
                return;
            }
            for worker in 0..self.workers.len() {
                if self.only.is_none_or(|only| only == worker) {
                    self.turn(worker);
                }
            }
        }
        panic!("never came: {what}");
    }

    pub(super) fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.front).expect("connect");
        client.set_nonblocking(true).expect("non-blocking");
        client
    }

    /// Turns until `done`, while the upstream answers what it is asked with `length` bytes each.
    pub(super) fn serve_until(
        &mut self,
        length: usize,
        what: &str,
        mut done: impl FnMut(&mut Self) -> bool,
    ) {
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
        }
        for worker in &mut self.workers {
            assert!(worker.is_over());
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
