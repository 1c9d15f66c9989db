//! Busy clients that one worker accepted end up on two; a sleeping worker is woken to steal; nobody
//! spins. Judged by counters, in the simulator and over real sockets with a thread for each worker.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use moorgate_codecs::testmux::Role;

use super::peers::busy::{Asker, Echo, Juggler, Progress, Streamer};
use super::peers::{Actor, Listener, Net, World, mux, server};
use super::{Bed, HttpPlan, Plan};
use crate::cluster::ClusterConfig;
use crate::engine::reactor::clock::Clock;
use crate::engine::reactor::epoll::Epoll;
use crate::engine::reactor::random::Random;
use crate::engine::reactor::sim::{Config, Faults, SimReactor, SimWorld};
use crate::engine::reactor::{Addr, Reactor};
use crate::engine::worker::Worker;
use crate::proxy::conn::Role as ConnRole;
use crate::proxy::facts::Message;
use crate::proxy::{Gateway, Tuning};

const WINDOW: u32 = 65_536;

/// What keeps a worker busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Http1,
    Tunnels,
    /// Multiplexed clients over HTTP/1 upstreams.
    MuxToHttp1,
    /// Multiplexed clients that begin on one shared multiplexed upstream connection.
    MuxToMux,
}

const WORKS: [Work; 4] = [Work::Http1, Work::Tunnels, Work::MuxToHttp1, Work::MuxToMux];

/// A gateway with one listener for the work, which only its first worker accepts from.
fn gateway<R: Reactor>(
    bed: &mut Bed,
    work: Work,
    front: &Addr,
    back: Addr,
    reactors: Vec<R>,
    tuning: Tuning,
) -> Vec<Worker<R, Gateway>> {
    let codec = |role| Some(mux::Factory::shared(role, WINDOW));
    let config = ClusterConfig {
        codec: (work == Work::MuxToMux).then(|| mux::Factory::shared(Role::Client, WINDOW)),
        ..ClusterConfig::default()
    };
    let http = HttpPlan {
        codec: if work == Work::Http1 {
            None
        } else {
            codec(Role::Server)
        },
        route_timeout_ms: 0,
        ..HttpPlan::default()
    };
    let tunnels = work == Work::Tunnels;
    let snapshot = bed.snapshot(Plan {
        clusters: vec![("back", config, vec![back])],
        http: if tunnels {
            Vec::new()
        } else {
            vec![(front.clone(), http, "back")]
        },
        tcp: if tunnels {
            vec![(front.clone(), "back", 0)]
        } else {
            Vec::new()
        },
        max_connections: 0,
    });
    let mut workers = bed.workers(reactors, &snapshot, tuning);
    for worker in &mut workers[1..] {
        worker.app.close_listeners(&mut worker.core);
    }
    workers
}

/// Two clients of the kind, and the upstream they need.
fn peers(work: Work, front: &Addr, back: Listener) -> (Vec<Box<dyn Actor>>, Vec<Rc<Progress>>) {
    let progress: Vec<Rc<Progress>> = vec![Rc::default(), Rc::default()];
    let mut actors: Vec<Box<dyn Actor>> = vec![match work {
        Work::Http1 | Work::MuxToHttp1 => Box::new(server::Server::new(back)),
        Work::Tunnels => Box::new(Echo::new(back)),
        Work::MuxToMux => Box::new(mux::MuxServer::silent(back, WINDOW)),
    }];
    for (number, progress) in (1u64..).zip(&progress) {
        let id = number * 1_000_000_000;
        actors.push(match work {
            Work::Http1 => Box::new(Asker::new(front.clone(), id, progress)),
            Work::Tunnels => Box::new(Streamer::new(front.clone(), id, progress)),
            Work::MuxToHttp1 | Work::MuxToMux => {
                Box::new(Juggler::new(front.clone(), id, progress))
            }
        });
    }
    (actors, progress)
}

fn step(actors: &mut [Box<dyn Actor>], world: &World, random: &mut Random) -> bool {
    let mut moved = false;
    for actor in actors {
        moved |= actor.step(world, random).unwrap_or_else(|why| {
            let states: Vec<_> = std::iter::once(actor.describe()).collect();
            panic!("{why}: {states:?}")
        });
    }
    moved
}

/// Clients on each worker.
fn clients<R: Reactor>(workers: &[Worker<R, Gateway>]) -> Vec<usize> {
    let clients = |worker: &Worker<R, Gateway>| {
        let conns = worker.app.conns.iter();
        conns
            .filter(|(_, conn)| match &conn.role {
                ConnRole::Down(_) => true,
                ConnRole::Tunnel(end) => end.client,
                ConnRole::Up(_) | ConnRole::Detecting(_) | ConnRole::Waking => false,
            })
            .count()
    };
    workers.iter().map(clients).collect()
}

fn gauges(bed: &Bed, what: &str) {
    for name in [
        "moorgate.resident",
        "moorgate.parked.idle",
        "moorgate.parked.pair",
        "moorgate.parked.mux",
        "moorgate.parked.pooled",
        "http.test.downstream_cx_active",
        "http.test.downstream_rq_active",
        "tcp.test.downstream_cx_active",
        "cluster.back.upstream_cx_active",
        "cluster.back.upstream_rq_active",
        "cluster.back.upstream_rq_pending_active",
    ] {
        let value = bed.registry.value(name).unwrap_or(0);
        assert_eq!(value, 0, "{what}: {name}");
    }
    assert_eq!(bed.budget.used(), 0, "{what}: bytes of buffers");
}

/// A world in which every call costs time, so that there is load to measure.
fn costly(workers: usize, seed: u64) -> SimWorld {
    let config = Config {
        call_us: 20,
        send_buffer: (4096, 4096),
        receive_buffer: (4096, 4096),
        faults: Faults {
            shuffle: 500,
            ..Faults::default()
        },
        ..Config::quiet(workers)
    };
    SimWorld::new(seed, config)
}

struct Simulated {
    sim: SimWorld,
    world: World,
    random: Random,
    workers: Vec<Worker<SimReactor, Gateway>>,
    actors: Vec<Box<dyn Actor>>,
    turns: u64,
}

impl Simulated {
    /// Runs until `over`, which must come within so many turns.
    fn run(&mut self, most: u64, what: &str, over: impl Fn(&Self) -> bool) {
        let end = self.turns + most;
        while !over(self) {
            assert!(self.turns < end, "{what}\n{}", self.sim.trace());
            let moved = step(&mut self.actors, &self.world, &mut self.random);
            match self.sim.pick(self.sim.now_us() + 1000) {
                Some(at) => {
                    self.turns += 1;
                    self.turn(at);
                }
                None if !moved => self.sim.advance(1000),
                None => {}
            }
        }
    }

    fn turn(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        if worker.is_over() {
            let _ = worker.core.reactor.wait(None, &mut Vec::new());
        } else {
            worker.turn().expect("a turn");
        }
    }

    fn stop(mut self, bed: &Bed, what: &str) {
        let group = Arc::clone(self.workers[0].core.siblings());
        for member in &group.members {
            member.post(Message::Stop);
        }
        self.run(100_000, "stops", |run| {
            run.workers.iter().all(Worker::is_over)
        });
        gauges(bed, what);
    }
}

fn simulated(work: Work, seed: u64) {
    let what = format!("{work:?}, seed {seed}");
    let (front, back) = (super::sim::addr(80), super::sim::addr(9000));
    let sim = costly(2, seed);
    let mut bed = Bed::new(1 << 26);
    let tuning = Tuning {
        load_window_ms: 5,
        ..Tuning::default()
    };
    let reactors = vec![sim.reactor(0), sim.reactor(1)];
    let workers = gateway(&mut bed, work, &front, back.clone(), reactors, tuning);
    let listener = Listener::Sim(sim.listen_peer(&back).expect("a free address"));
    let (mut actors, progress) = peers(work, &front, listener);
    let world = World::new(Net::Sim(sim.clone()), false);
    let mut random = Random::from_seed(seed);
    // Both wait to be accepted when the first worker begins: it takes both, as nobody has load yet.
    step(&mut actors, &world, &mut random);
    let mut run = Simulated {
        sim,
        world,
        random,
        workers,
        actors,
        turns: 0,
    };
    run.run(10_000, &what, |run| clients(&run.workers) == [2, 0]);
    assert_eq!(bed.registry.value("moorgate.moves"), Some(0), "{what}");
    run.run(200_000, &what, |run| clients(&run.workers) == [1, 1]);
    // There they stay, and both go on.
    let before: Vec<_> = progress.iter().map(|client| client.done.get()).collect();
    let more = if work == Work::Tunnels { 1 << 20 } else { 300 };
    run.run(400_000, &what, |_| {
        let mut both = progress.iter().zip(&before);
        both.all(|(client, before)| client.done.get() > before + more)
    });
    assert_eq!(clients(&run.workers), [1, 1], "{what}");
    assert_eq!(bed.registry.value("moorgate.moves"), Some(1), "{what}");
    if matches!(work, Work::MuxToHttp1 | Work::MuxToMux) {
        for client in &progress {
            assert!(client.fewest.get() >= 10, "{what}: {client:?}");
        }
    }
    run.world.end_busy();
    run.run(100_000, &what, |run| {
        run.actors.iter().all(|actor| actor.is_done())
    });
    run.stop(&bed, &what);
}

#[test]
fn busy_clients_of_one_worker_end_up_on_two() {
    for work in WORKS {
        for seed in 0..5 {
            simulated(work, seed);
        }
    }
}

/// One request on each of many connections; gives how many answers came whole.
fn answers(text: &[u8]) -> usize {
    let blank = text.windows(4).filter(|four| four == b"\r\n\r\n");
    blank.count()
}

const CROWD: usize = 64;
const REQUEST: &[u8] = b"GET /1/l/0/0/0 HTTP/1.1\r\nhost: sim\r\n\r\n";

#[test]
fn a_sleeping_worker_is_woken_to_steal_and_nobody_spins() {
    for seed in 0..10 {
        let (front, back) = (super::sim::addr(80), super::sim::addr(9000));
        let sim = costly(2, seed);
        let mut bed = Bed::new(1 << 26);
        let reactors = vec![sim.reactor(0), sim.reactor(1)];
        let tuning = Tuning {
            quiet_ms: 20,
            ..Tuning::default()
        };
        let workers = gateway(
            &mut bed,
            Work::Http1,
            &front,
            back.clone(),
            reactors,
            tuning,
        );
        let listener = Listener::Sim(sim.listen_peer(&back).expect("a free address"));
        let connect = |_| sim.connect_client(&front).expect("connects");
        let clients: Vec<_> = (0..CROWD).map(connect).collect();
        let mut run = Simulated {
            world: World::new(Net::Sim(sim.clone()), false),
            random: Random::from_seed(seed),
            actors: vec![Box::new(server::Server::new(listener))],
            turns: 0,
            workers,
            sim: sim.clone(),
        };
        let parked = |run: &Simulated| {
            let tallies = run.workers.iter().map(|worker| worker.core.tally);
            let idle: u64 = tallies.clone().map(|tally| tally.parked[0]).sum();
            let resident: u64 = tallies.map(|tally| tally.resident).sum();
            (idle, resident) == (CROWD as u64, 0)
        };
        run.run(100_000, "all park", parked);
        assert_eq!(run.workers[1].core.tally.parked, [0; 4], "seed {seed}");
        assert!(!sim.runnable(1), "seed {seed}: the second worker sleeps");
        let slept = run.workers[1].core.tally.turns;
        for client in &clients {
            assert_eq!(client.write(REQUEST).expect("room"), REQUEST.len());
        }
        run.run(100_000, "all are answered", |_| {
            let whole = |client: &crate::engine::reactor::sim::SimPeer| client.readable() > 100;
            clients.iter().all(whole)
        });
        let tallies = [0, 1].map(|at| run.workers[at].core.tally);
        assert!(tallies[0].wakes > 0, "seed {seed}: {tallies:?}");
        assert!(tallies[1].steals > 0, "seed {seed}: {tallies:?}");
        assert!(tallies[1].turns > slept, "seed {seed}: {tallies:?}");
        for client in &clients {
            let mut text = Vec::new();
            assert!(!client.read_available(&mut text).expect("reads"));
            assert_eq!(answers(&text), 1, "seed {seed}");
        }
        run.run(100_000, "all park again", parked);
        let turns = run.turns;
        let end = sim.now_us() + 600_000_000;
        while let Some(at) = sim.pick(end) {
            run.turns += 1;
            run.turn(at);
        }
        assert!(run.turns < turns + 20, "{} idle turns", run.turns - turns);
        drop(clients);
        run.stop(&bed, &format!("seed {seed}"));
    }
}

/// Threads of a gateway over epoll.
struct Threads {
    group: Arc<
        crate::engine::core::Group<
            crate::engine::reactor::epoll::EpollRemote,
            crate::proxy::facts::ProxyFacts,
        >,
    >,
    threads: Vec<thread::JoinHandle<usize>>,
}

impl Threads {
    fn start(workers: Vec<Worker<Epoll, Gateway>>) -> Self {
        let group = Arc::clone(workers[0].core.siblings());
        let threads = workers.into_iter().map(|mut worker| {
            thread::spawn(move || {
                worker.run().expect("a worker");
                worker.core.slot_count()
            })
        });
        Self {
            group,
            threads: threads.collect(),
        }
    }

    fn stop(self) {
        for member in &self.group.members {
            member.post(Message::Stop);
        }
        for thread in self.threads {
            assert_eq!(thread.join().expect("ends"), 0, "slots in use");
        }
    }
}

fn epolls() -> Vec<Epoll> {
    let clock = Clock::start();
    let epoll = |_| Epoll::new(clock).expect("epoll");
    (0..2).map(epoll).collect()
}

/// Looks again until `over`, a bounded number of times; waits a little after each look.
fn until(what: &str, mut over: impl FnMut() -> bool) {
    for _ in 0..30_000 {
        if over() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("never: {what}");
}

fn real(work: Work) {
    let what = format!("{work:?} over sockets");
    let (back, addr) = Listener::real().expect("a free port");
    let front = Addr::Ip(super::smoke::free_addr());
    let mut bed = Bed::new(1 << 26);
    let tuning = Tuning {
        // The measure of overload is time; what is under test is what follows from it.
        overload_percent: 0,
        quiet_ms: 60_000,
        ..Tuning::default()
    };
    let workers = gateway(&mut bed, work, &front, Addr::Ip(addr), epolls(), tuning);
    let (mut actors, progress) = peers(work, &front, back);
    let world = World::new(Net::Real(Instant::now()), false);
    let mut random = Random::from_seed(1);
    // The kernel holds both until the first worker begins.
    step(&mut actors, &world, &mut random);
    let threads = Threads::start(workers);
    let load = |at: usize| threads.group.members[at].load() / 1000;
    let moves = || bed.registry.value("moorgate.moves").unwrap_or(0);
    let mut steps = 0;
    while moves() == 0 || (load(0), load(1)) != (1, 1) {
        steps += 1;
        assert!(steps < 20_000_000, "{what}: {} moves", moves());
        if !step(&mut actors, &world, &mut random) {
            thread::yield_now();
        }
    }
    let before: Vec<_> = progress.iter().map(|client| client.done.get()).collect();
    let more = if work == Work::Tunnels { 1 << 20 } else { 300 };
    let both = || {
        let mut both = progress.iter().zip(&before);
        both.all(|(client, before)| client.done.get() > before + more)
    };
    while !both() {
        steps += 1;
        assert!(steps < 40_000_000, "{what}: stuck");
        step(&mut actors, &world, &mut random);
    }
    world.end_busy();
    while !actors.iter().all(|actor| actor.is_done()) {
        step(&mut actors, &world, &mut random);
    }
    threads.stop();
    gauges(&bed, &what);
}

#[test]
fn busy_clients_move_over_real_sockets() {
    for work in WORKS {
        real(work);
    }
}

fn round(clients: &mut [TcpStream]) {
    for client in &mut *clients {
        client.write_all(REQUEST).expect("write");
    }
    for client in clients {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        while answers(&text) == 0 {
            let count = client.read(&mut buffer).expect("an answer");
            assert_ne!(count, 0, "closed");
            text.extend_from_slice(&buffer[..count]);
        }
    }
}

#[test]
fn a_sleeping_worker_is_woken_to_steal_over_real_sockets() {
    let back = super::smoke::upstream();
    let front: SocketAddr = super::smoke::free_addr();
    let mut bed = Bed::new(1 << 26);
    let tuning = Tuning {
        quiet_ms: 5,
        ..Tuning::default()
    };
    let addr = Addr::Ip(front);
    let workers = gateway(
        &mut bed,
        Work::Http1,
        &addr,
        Addr::Ip(back),
        epolls(),
        tuning,
    );
    let connect = |_| TcpStream::connect(front).expect("connects");
    let mut clients: Vec<_> = (0..CROWD).map(connect).collect();
    let threads = Threads::start(workers);
    let value = |name: &str| bed.registry.value(name).unwrap_or(0);
    let parked = || (value("moorgate.parked.idle"), value("moorgate.resident")) == (64, 0);
    let mut rounds = 0;
    while value("moorgate.steals") == 0 {
        rounds += 1;
        assert!(rounds < 500, "nothing was stolen");
        round(&mut clients);
        until("all park", parked);
    }
    assert_ne!(value("moorgate.wakeups"), 0);
    // Everybody is parked: from here on nobody takes turns, however long that lasts.
    let turns = || value("moorgate.worker_0.turns") + value("moorgate.worker_1.turns");
    let before = turns();
    thread::sleep(Duration::from_millis(300));
    assert!(turns() < before + 20, "{} idle turns", turns() - before);
    drop(clients);
    threads.stop();
    gauges(&bed, "steals over sockets");
}
