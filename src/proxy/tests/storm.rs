//! Clients that speak TLS, all at once or not at all: what a storm of handshakes leaves to others, and what a
//! silent client is told when it is closed.

use std::sync::Arc;

use super::secure::client_context;
use super::sim::addr;
use super::{Bed, HttpPlan, Plan};
use crate::cluster::ClusterConfig;
use crate::engine::reactor::Reactor as _;
use crate::engine::reactor::sim::{Config, SimListener, SimPeer, SimReactor, SimWorld};
use crate::engine::worker::Worker;
use crate::proxy::facts::Message;
use crate::proxy::secure::HANDSHAKES_PER_TURN;
use crate::proxy::{Gateway, Tuning};
use crate::tls::{Asked, Session};

const SECURE: u16 = 80;
const PLAIN: u16 = 81;

/// A process with one worker: HTTP over TLS, and a plain TCP listener beside it.
struct Run {
    sim: SimWorld,
    bed: Bed,
    worker: Worker<SimReactor, Gateway>,
    upstream: SimListener,
}

impl Run {
    fn new(idle_timeout_ms: u64) -> Self {
        let sim = SimWorld::new(7, Config::quiet(1));
        let mut bed = Bed::new(1 << 26);
        bed.secure = vec![addr(SECURE)];
        let http = HttpPlan {
            idle_timeout_ms,
            ..HttpPlan::default()
        };
        let snapshot = bed.snapshot(Plan {
            clusters: vec![("web", ClusterConfig::default(), vec![addr(9000)])],
            http: vec![(addr(SECURE), http, "web")],
            tcp: vec![(addr(PLAIN), "web", 0)],
            max_connections: 0,
        });
        let upstream = sim.listen_peer(&addr(9000)).expect("a free address");
        let mut workers = bed.workers(vec![sim.reactor(0)], &snapshot, Tuning::default());
        Self {
            worker: workers.pop().expect("a worker"),
            sim,
            bed,
            upstream,
        }
    }

    fn value(&self, name: &str) -> i64 {
        self.bed.registry.value(name).unwrap_or(0)
    }

    /// One turn, if there is anything to do within so many ms.
    fn turn(&mut self, ms: u64) -> bool {
        let until = self.sim.now_us() + ms * 1000;
        if self.sim.pick(until).is_none() {
            self.sim.advance(ms * 1000);
            return false;
        }
        if self.worker.is_over() {
            let _ = self.worker.core.reactor.wait(None, &mut Vec::new());
        } else {
            self.worker.turn().expect("a turn");
        }
        true
    }

    fn settle(&mut self, ms: u64) {
        let until = self.sim.now_us() + ms * 1000;
        while self.sim.now_us() < until {
            self.turn(ms.min(100));
        }
    }

    fn stop(mut self) {
        let group = Arc::clone(self.worker.core.siblings());
        group.members[0].post(Message::Stop);
        self.settle(1_000);
        assert!(self.worker.is_over());
        assert_eq!(self.value("moorgate.resident"), 0);
        assert_eq!(self.bed.budget.used(), 0);
    }
}

/// A client with TLS.
struct Client {
    peer: SimPeer,
    session: Session,
    wire: Vec<u8>,
    unread: Vec<u8>,
    plain: Vec<u8>,
    /// It was told that nothing more comes, and then nothing more came.
    told: bool,
    ended: bool,
}

impl Client {
    fn new(run: &Run) -> Self {
        let mut wire = Vec::new();
        let session = Session::client(&client_context(), &Asked::default(), &mut wire);
        Self {
            peer: run.sim.connect_client(&addr(SECURE)).expect("a client"),
            session: session.expect("a session"),
            wire,
            unread: Vec::new(),
            plain: Vec::new(),
            told: false,
            ended: false,
        }
    }

    fn step(&mut self) {
        if let Ok(count) = self.peer.write(&self.wire) {
            self.wire.drain(..count);
        }
        let mut buffer = [0; 4096];
        while let Ok(count) = self.peer.read(&mut buffer) {
            self.ended |= count == 0;
            if count == 0 {
                break;
            }
            self.unread.extend_from_slice(&buffer[..count]);
            let opened = self.session.open(&mut self.unread, &mut self.wire);
            assert_eq!(opened.error, None);
            self.told |= opened.closed;
            self.plain.extend_from_slice(&self.unread[..opened.plain]);
            self.unread.drain(..opened.consumed);
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        let slices = std::iter::once(bytes);
        let sealed = self.session.seal(0, slices, usize::MAX, &mut self.wire);
        assert_eq!(sealed, Ok(bytes.len()));
    }
}

/// However many clients shake hands at once, a turn takes a few steps of them, and what flows already flows
/// in each turn.
#[test]
fn a_storm_of_handshakes_leaves_room_for_what_flows() {
    const CLIENTS: usize = 200;
    let mut run = Run::new(3_600_000);
    let flowing = run.sim.connect_client(&addr(PLAIN)).expect("a client");
    flowing.write(b"first").expect("taken");
    run.settle(100);
    let upstream = run.upstream.accept().expect("a connection");
    let mut got = Vec::new();
    upstream.read_available(&mut got).expect("bytes");
    assert_eq!(got, b"first");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::new(&run)).collect();
    let shaken = |run: &Run| run.value("listener.secure.ssl.handshake");
    let mut late = 0;
    for turn in 0..10_000 {
        clients.iter_mut().for_each(Client::step);
        let (before, had) = (shaken(&run), got.len());
        flowing.write(b".").expect("taken");
        run.turn(10);
        upstream.read_available(&mut got).expect("bytes");
        assert!(
            shaken(&run) - before <= HANDSHAKES_PER_TURN as i64,
            "{turn}"
        );
        late += u32::from(got.len() == had);
        if shaken(&run) == CLIENTS as i64 {
            break;
        }
    }
    assert_eq!(shaken(&run), CLIENTS as i64);
    // A byte may be on its way while a turn is over; none waits until the storm is.
    assert!(late <= 2, "{late} turns in which nothing flowed");
    let deferred = run.value("moorgate.worker_0.tls_handshakes_deferred");
    assert!(deferred >= CLIENTS as i64, "{deferred}");
    drop(clients);
    run.settle(1_000);
    drop((flowing, upstream));
    run.settle(1_000);
    run.stop();
}

/// A parked client is told before it is closed, as a resident one is.
#[test]
fn a_silent_client_is_told_that_it_is_closed() {
    for drain in [false, true] {
        let mut run = Run::new(if drain { 0 } else { 30_000 });
        let mut client = Client::new(&run);
        while client.session.is_shaking() {
            client.step();
            run.settle(10);
        }
        client.say(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        client.step();
        run.settle(100);
        let upstream = run.upstream.accept().expect("a connection");
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        upstream.write(answer).expect("taken");
        run.settle(2_000);
        client.step();
        assert!(client.plain.ends_with(b"ok"));
        assert_eq!(run.value("moorgate.parked.idle"), 1);
        if drain {
            let group = Arc::clone(run.worker.core.siblings());
            group.members[0].post(Message::Drain {
                within_ms: 100,
                exit: false,
                close: true,
            });
            run.settle(1_000);
        } else {
            run.settle(40_000);
        }
        client.step();
        assert!(client.told && client.ended, "drain {drain}");
        drop((client, upstream));
        run.settle(1_000);
        run.stop();
    }
}
