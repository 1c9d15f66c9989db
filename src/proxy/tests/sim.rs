//! The whole gateway in a simulated world: several workers, scripted clients and upstreams, faults and
//! timing drawn from a seed, and judges of what must hold whatever happens.
//!
//! `MOORGATE_SEEDS` says how many seeds a run takes, from `MOORGATE_FIRST_SEED` on; `MOORGATE_SEED` runs
//! one and keeps its whole trace. A seed decides everything: the same one gives the same run, call for
//! call.

#[cfg(chaos)]
mod chaos;
mod judge;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use moorgate_codecs::testmux::Role;

use super::peers::{Actor, Listener, Net, World, client, gate, mux, server, stopper, tcp};
use super::{Bed, HttpPlan, Plan, secure};
use crate::cluster::ClusterConfig;
use crate::engine::arena::Arena;
use crate::engine::reactor::random::Random;
use crate::engine::reactor::sim::{Config, Faults, SimReactor, SimWorld};
use crate::engine::reactor::{Addr, Reactor};
use crate::engine::worker::Worker;
use crate::proxy::config::Snapshot;
use crate::proxy::conn;
use crate::proxy::drain::Drain;
use crate::proxy::facts::Message;
use crate::proxy::{Gateway, Tuning};
use crate::tls::seals;

/// Virtual time in which nothing at all moves between peers, after which they count as hanging, µs.
const PATIENCE_US: u64 = 400_000_000;
/// Virtual time within which every client has had its say once nothing is broken on purpose any more, µs.
const LONGEST_RUN_US: u64 = 3_600_000_000;
/// Turns of one run; a run of more has a livelock.
const MOST_TURNS: u64 = 3_000_000;
/// Seeds of a run without `MOORGATE_SEEDS`.
const SEEDS: u64 = 300;
/// Seeds of a run over TLS without `MOORGATE_SEEDS`.
const SEEDS_OVER_TLS: u64 = 60;
/// Seeds of a run with HTTP/2 without `MOORGATE_SEEDS`.
const SEEDS_OVER_HTTP2: u64 = 60;
/// Failures after which a run ends.
const MOST_FAILURES: usize = 10;
/// Seeds between two lines of progress.
const PROGRESS: u64 = 500;

pub(super) fn addr(port: u16) -> Addr {
    Addr::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
}

/// What a seed decides before anything runs.
#[derive(Clone, Copy, Debug)]
struct Draw {
    workers: usize,
    buffer_limit: u32,
    upstream_buffer_limit: u32,
    memory: usize,
    tuning: Tuning,
    /// Bytes of a worker's read arena.
    arena: usize,
    /// Moves of a random client, in a thousand turns.
    moves: u16,
    /// Configurations published on the way.
    swaps: u64,
    /// The gateway drains while clients are still there.
    early_drain: bool,
    /// Largest body.
    most: usize,
    /// Nothing that happens may cost a benign request its answer.
    strict: bool,
    /// The gateway may run out of descriptors and close idle clients.
    reclaims: bool,
    clients: u64,
    /// A filter makes some streams wait.
    gated: bool,
    /// The multiplexed protocol.
    speech: mux::Speech,
    /// Upstreams are reached over TLS.
    tls: bool,
}

fn draw(seed: u64, random: &mut Random) -> (Draw, Config) {
    let workers = 1 + random.below(4) as usize;
    let mut config = if random.chance(150) {
        Config::quiet(workers)
    } else {
        Config::swarm(workers, seed)
    };
    for buffer in [&mut config.send_buffer, &mut config.receive_buffer] {
        buffer.0 = buffer.0.max(16);
        buffer.1 = buffer.1.max(64);
    }
    let faults = &mut config.faults;
    if random.chance(600) {
        faults.connect_refused = 0;
        faults.connect_timeout = 0;
        faults.connect_error = 0;
        faults.reset = 0;
        faults.accept_aborted = 0;
    }
    let memory = if random.chance(150) { 1 << 16 } else { 1 << 26 };
    let early_drain = random.chance(100);
    let broken = faults.connect_refused
        + faults.connect_timeout
        + faults.connect_error
        + faults.reset
        + faults.accept_aborted;
    let limits = [2048, 16 << 10, 1 << 20];
    let room = config.send_buffer.1.min(config.receive_buffer.1);
    let draw = Draw {
        workers,
        buffer_limit: limits[random.below(3) as usize],
        upstream_buffer_limit: limits[random.below(3) as usize],
        memory,
        tuning: Tuning {
            quiet_ms: [0, 5, 50, 250][random.below(4) as usize],
            read_budget: [64, 4096, 256 * 1024][random.below(3) as usize],
            load_window_ms: 5,
            overload_percent: 0,
            ..Tuning::default()
        },
        arena: [96 << 10, 256 << 10][random.below(2) as usize],
        moves: [0, 0, 5, 50][random.below(4) as usize],
        swaps: random.below(4),
        early_drain,
        most: (room * 20).clamp(1024, 100_000),
        strict: broken == 0 && memory > 1 << 20 && !early_drain,
        reclaims: faults.accept_limit > 0,
        clients: 1 + random.below(10),
        gated: random.chance(400),
        speech: [300, 4096, 65_536][random.below(3) as usize].into(),
        tls: false,
    };
    (draw, config)
}

/// Where the peers of the plan listen, by the numbers it gives them.
const BACKS: [u16; 4] = [9000, 9001, 9100, 9200];

/// `addr` tells where a number of the plan is.
fn plan(draw: &Draw, waiting: &Arc<gate::Waiting>, addr: &dyn Fn(u16) -> Addr) -> Plan {
    let cluster = || ClusterConfig {
        buffer_limit: draw.upstream_buffer_limit,
        connect_timeout_ms: 60_000,
        ..ClusterConfig::default()
    };
    let http = |codec| HttpPlan {
        codec,
        buffer_limit: draw.buffer_limit,
        filters: if draw.gated {
            vec![Arc::new(gate::Gate(Arc::clone(waiting)))]
        } else {
            Vec::new()
        },
        route_timeout_ms: 0,
        upgrades: vec![("websocket".to_owned(), true)],
        ..HttpPlan::default()
    };
    let down = || Some(mux::Factory::shared(Role::Server, draw.speech));
    let muxed = ClusterConfig {
        codec: Some(mux::Factory::shared(Role::Client, draw.speech)),
        ..cluster()
    };
    Plan {
        clusters: vec![
            ("web", cluster(), vec![addr(9000), addr(9001)]),
            ("tcp", cluster(), vec![addr(9100)]),
            ("mux", muxed, vec![addr(9200)]),
        ],
        http: vec![
            (addr(80), http(None), "web"),
            (addr(82), http(down()), "web"),
            (addr(83), http(down()), "mux"),
            (addr(84), http(None), "mux"),
        ],
        tcp: vec![(addr(81), "tcp", 3_600_000)],
        max_connections: 0,
    }
}

/// A snapshot of what was drawn.
fn published(bed: &mut Bed, draw: &Draw, waiting: &Arc<gate::Waiting>) -> Arc<Snapshot> {
    let mut plan = plan(draw, waiting, &addr);
    if draw.tls {
        let registry = Arc::clone(&bed.registry);
        (plan, bed.secure) = secure::wrap(plan, &*registry, &addr, 20_000);
    }
    bed.snapshot(plan)
}

/// The servers of a plan behind their listeners, and clients drawn at random.
fn cast(
    draw: &Draw,
    random: &mut Random,
    backs: [Listener; 4],
    addr: &dyn Fn(u16) -> Addr,
) -> Vec<Box<dyn Actor>> {
    let [one, two, tcp, mux] = backs;
    let (most, strict, speech) = (draw.most, draw.strict, draw.speech);
    let mut actors: Vec<Box<dyn Actor>> = vec![
        Box::new(server::Server::new(one)),
        Box::new(server::Server::new(two)),
        Box::new(tcp::TcpServer::new(tcp, strict)),
        Box::new(mux::MuxServer::new(mux, speech)),
    ];
    for number in 0..draw.clients {
        let id = 1 + number * 100;
        let http = |random: &mut Random, port, upgrades| {
            Box::new(client::Client::new(
                addr(port),
                random,
                id,
                (most, upgrades),
                strict,
            ))
        };
        actors.push(match random.below(10) {
            0..4 => http(random, 80, true),
            4 => http(random, 84, false),
            5..8 => {
                let to = addr(82 + random.below(2) as u16);
                Box::new(mux::MuxClient::new(to, random, id, most, (strict, speech)))
            }
            _ => Box::new(tcp::TcpClient::new(addr(81), random, id, most, strict)),
        });
    }
    actors
}

/// Clients that stop in the middle of a handshake or a record, at the listener in front of HTTP servers.
fn stoppers(random: &mut Random, addr: &dyn Fn(u16) -> Addr) -> Vec<Box<dyn Actor>> {
    let context = secure::client_context();
    (0..random.below(4))
        .map(|_| {
            let at = addr(secure::FIRST_PORT);
            Box::new(stopper::Stopper::new(at, &context, random)) as Box<dyn Actor>
        })
        .collect()
}

/// One run.
struct Run {
    seed: u64,
    draw: Draw,
    random: Random,
    sim: SimWorld,
    world: World,
    bed: Bed,
    workers: Vec<Worker<SimReactor, Gateway>>,
    /// Workers whose threads have ended.
    ended: Vec<bool>,
    actors: Vec<Box<dyn Actor>>,
    snapshots: Vec<Weak<Snapshot>>,
    turns: u64,
    waiting: Arc<gate::Waiting>,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self::with(seed, Over::Plain)
    }

    fn with(seed: u64, over: Over) -> Self {
        let mut random = Random::from_seed(seed ^ 0x9a7e);
        let (mut draw, mut config) = draw(seed, &mut random);
        draw.tls = over == Over::Tls;
        draw.speech.http2 = over == Over::Http2;
        if std::env::var_os("MOORGATE_SEED").is_some() {
            config.trace = 100_000;
            println!("{draw:?}\n{config:?}");
        }
        let sim = SimWorld::new(seed, config);
        let mut bed = Bed::new(draw.memory);
        let waiting = Arc::default();
        let snapshot = published(&mut bed, &draw, &waiting);
        let reactors = (0..draw.workers).map(|worker| sim.reactor(worker));
        let mut workers = bed.workers(reactors.collect(), &snapshot, draw.tuning);
        for worker in &mut workers {
            worker.core.arena = Arena::new(draw.arena);
        }
        let listen = |port| {
            let listener = sim.listen_peer(&addr(port));
            Listener::Sim(listener.expect("a free address"))
        };
        let mut actors = cast(&draw, &mut random, BACKS.map(listen), &addr);
        if draw.tls {
            actors.extend(stoppers(&mut random, &addr));
        }
        Self {
            seed,
            draw,
            random,
            ended: vec![false; draw.workers],
            world: World::new(Net::Sim(sim.clone()), draw.reclaims),
            sim,
            bed,
            workers,
            actors,
            snapshots: vec![Arc::downgrade(&snapshot)],
            turns: 0,
            waiting,
        }
    }

    fn step_actors(&mut self, chance: u16) -> bool {
        let mut moved = false;
        for at in 0..self.actors.len() {
            if self.random.chance(chance) {
                match self.actors[at].step(&self.world, &mut self.random) {
                    Ok(one) => moved |= one,
                    Err(why) => self.fail(&why),
                }
            }
        }
        moved
    }

    fn turn(&mut self, at: usize) {
        self.turns += 1;
        if self.turns > MOST_TURNS {
            self.fail("too many turns");
        }
        let worker = &mut self.workers[at];
        self.ended[at] |= worker.is_over();
        if self.ended[at] {
            // Here it only sleeps.
            let _ = worker.core.reactor.wait(None, &mut Vec::new());
            return;
        }
        if let Err(error) = worker.turn() {
            self.fail(&format!("a turn: {error}"));
        }
        if self.draw.workers > 1 && self.random.chance(self.draw.moves) {
            self.force_move(at);
        }
    }

    /// Moves a random client of this worker, if it can go.
    fn force_move(&mut self, at: usize) {
        let target =
            (at + 1 + self.random.below(self.draw.workers as u64 - 1) as usize) % self.draw.workers;
        let worker = &mut self.workers[at];
        let clients: Vec<_> = worker
            .app
            .conns
            .iter()
            .filter(|(_, conn)| match &conn.role {
                conn::Role::Down(_) => true,
                conn::Role::Tunnel(end) => end.client,
                conn::Role::Up(_) | conn::Role::Detecting(_) | conn::Role::Waking => false,
            })
            .filter_map(|(index, _)| worker.app.conns.key(index))
            .collect();
        // A worker that drains gives nobody away: the other one may have ended.
        if clients.is_empty() || worker.app.drain.is_some_and(Drain::is_whole) {
            return;
        }
        let client = clients[self.random.below(clients.len() as u64) as usize];
        if !worker.app.move_client(&mut worker.core, client, target) {
            worker.app.prepare_move(client);
        }
    }

    /// Runs until `over`, or until nothing has moved for as long as anybody waits.
    fn run_until(&mut self, until_us: u64, over: impl Fn(&Self) -> bool) {
        let mut moved_us = self.world.now_us();
        loop {
            let now = self.world.now_us();
            if over(self) || now >= until_us {
                return;
            }
            if self.random.chance(50) {
                self.resume();
            }
            if self.step_actors(300) {
                moved_us = self.world.now_us();
            }
            let next = self.actors.iter().filter_map(|actor| actor.next_us(now));
            let until = next.min().unwrap_or(u64::MAX).min(until_us);
            if let Some(at) = self.sim.pick(until.min(now + 10_000)) {
                self.turn(at);
            } else if self.step_actors(1000) || self.resume() {
                moved_us = self.world.now_us();
            } else if until > now {
                let step = (until - now).min(100_000);
                self.sim.advance(step);
            }
            if self.world.now_us() - moved_us > PATIENCE_US {
                self.fail("nothing moves");
            }
        }
    }

    fn post(&mut self, make: impl Fn() -> Message) {
        let group = Arc::clone(self.workers[0].core.siblings());
        for member in &group.members {
            member.post(make());
        }
    }

    /// A suspended filter call goes on. Only one worker knows its token.
    fn resume(&mut self) -> bool {
        let drawn = self.random.next_u64();
        let token = self.waiting.take(drawn);
        if let Some(token) = token {
            self.post(|| Message::Resume(token));
        }
        token.is_some()
    }

    fn swap(&mut self) {
        let snapshot = published(&mut self.bed, &self.draw, &self.waiting);
        self.snapshots.push(Arc::downgrade(&snapshot));
        self.post(|| Message::Snapshot(Arc::clone(&snapshot)));
    }

    fn clients_done(&self) -> bool {
        self.actors.iter().all(|actor| actor.is_done())
    }

    /// Bytes that wait to be written to any peer.
    fn unwritten(&self) -> usize {
        let conns = |worker: &Worker<_, Gateway>| -> usize {
            let conns = worker.app.conns.iter();
            conns.map(|(_, conn)| conn.output.len()).sum()
        };
        self.workers.iter().map(conns).sum()
    }

    fn all_finished(&self) -> bool {
        self.ended.iter().all(|ended| *ended)
    }

    /// Runs to the end; gives what tells this run from every other.
    fn go(mut self) -> (u64, u64, u64) {
        for _ in 0..self.draw.swaps {
            let until = self.world.now_us() + self.random.below(3_000_000);
            self.run_until(until, |_| false);
            self.swap();
        }
        let faulty = self.world.now_us() + 20_000_000;
        self.run_until(faulty, Self::clients_done);
        self.sim.set_faults(Faults::default());
        if self.draw.early_drain {
            self.world.be_lenient();
            self.post(|| Message::Drain {
                within_ms: 5_000,
                exit: true,
                close: true,
            });
        }
        // Someone who waits for ever while others come and go is no less lost.
        self.run_until(self.world.now_us() + LONGEST_RUN_US, Self::clients_done);
        if !self.clients_done() {
            self.fail("a client waits for ever");
        }
        // What is under way inside, and on connections that clients left, comes to its end.
        let mut before = usize::MAX;
        loop {
            let quiet = self.world.now_us() + 130_000_000;
            self.run_until(quiet, |_| false);
            // An upstream that has answered may be a slow reader of what is left of the request.
            let left = self.unwritten();
            if left == 0 || left >= before {
                break;
            }
            before = left;
        }
        if !self.draw.early_drain {
            self.judge_quiet();
        }
        self.world.be_lenient();
        self.post(|| Message::Stop);
        self.run_until(u64::MAX, Self::all_finished);
        self.judge_end();
        (self.sim.digest(), self.world.now_us(), self.turns)
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What the connections of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Plain,
    Tls,
    Http2,
}

/// Runs seeds on every core there is, and says of each that fails how to run it alone.
fn run_seeds(first: u64, count: u64, over: Over) {
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    let end = first + count;
    let failures = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    let name = match over {
        Over::Plain => "nothing_is_lost_and",
        Over::Tls => "nothing_is_lost_over_tls",
        Over::Http2 => "nothing_is_lost_over_http2",
    };
    let work = || {
        while failures().len() < MOST_FAILURES {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let run = || {
                // Both ends of every connection are this thread's.
                let watch = (over == Over::Tls).then(seals::Watch::begin);
                Run::with(seed, over).go();
                drop(watch);
            };
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                println!(
                    "seed {seed} failed; to run it alone:\n  \
                     MOORGATE_SEED={seed} cargo test --lib {name} -- --nocapture"
                );
                failures().push(seed);
            }
            let done = seed + 1 - first;
            if done.is_multiple_of(PROGRESS) {
                println!("{done} of {count} seeds");
            }
        }
    };
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    assert_eq!(*failures(), Vec::<u64>::new(), "seeds that failed");
}

fn seeds(over: Over, usual: u64) {
    match number("MOORGATE_SEED") {
        Some(seed) => run_seeds(seed, 1, over),
        None => run_seeds(
            number("MOORGATE_FIRST_SEED").unwrap_or(0),
            // Seeds over TLS or HTTP/2 take longer each, and are a fifth of the others.
            number("MOORGATE_SEEDS").map_or(usual, |all| (all * usual / SEEDS).max(1)),
            over,
        ),
    }
}

#[test]
fn nothing_is_lost_and_nothing_hangs() {
    seeds(Over::Plain, SEEDS);
}

/// The keys are not the seed's, so that a run over TLS is the same in all but a few lengths.
#[test]
fn nothing_is_lost_over_tls() {
    seeds(Over::Tls, SEEDS_OVER_TLS);
}

/// HTTP/2 in the place of the test protocol, on both sides.
#[test]
fn nothing_is_lost_over_http2() {
    seeds(Over::Http2, SEEDS_OVER_HTTP2);
}

/// Nothing but the seed decides: not the order of a hash map, not an address, not the time of day.
#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..12 {
        assert_eq!(Run::new(seed).go(), Run::new(seed).go(), "seed {seed}");
    }
}
