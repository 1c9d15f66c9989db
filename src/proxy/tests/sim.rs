//! The whole gateway in a simulated world: several workers, scripted clients and upstreams, faults and
//! timing drawn from a seed, and judges of what must hold whatever happens.
//!
//! `MOORGATE_SEEDS` says how many seeds a run takes, `MOORGATE_SEED` runs one and prints its trace.

mod client;
mod gate;
mod message;
mod mux;
mod script;
mod server;
mod tcp;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};

use moorgate_codecs::testmux::Role;

use super::{Bed, HttpPlan, Plan};
use crate::cluster::ClusterConfig;
use crate::engine::reactor::random::Random;
use crate::engine::reactor::sim::{Config, Faults, SimReactor, SimWorld};
use crate::engine::reactor::{Addr, Reactor};
use crate::engine::worker::Worker;
use crate::proxy::config::Snapshot;
use crate::proxy::conn;
use crate::proxy::drain::Drain;
use crate::proxy::facts::Message;
use crate::proxy::{Gateway, Tuning};

/// Virtual time in which nothing at all moves between peers, after which they count as hanging, µs.
const PATIENCE_US: u64 = 400_000_000;
/// Turns of one run; a run of more has a livelock.
const MOST_TURNS: u64 = 3_000_000;

/// What scripted peers see of the run.
pub(super) struct World {
    pub(super) sim: SimWorld,
    lenient: Cell<bool>,
}

impl World {
    fn now_us(&self) -> u64 {
        self.sim.now_us()
    }

    /// From now on clients may be turned away: the gateway leaves.
    fn lenient(&self) -> bool {
        self.lenient.get()
    }
}

/// A scripted client or server.
trait Actor {
    /// Does something, if there is anything to do; says whether it moved. `Err` is a broken promise.
    fn step(&mut self, world: &World, random: &mut Random) -> Result<bool, String>;

    /// When it goes on by itself.
    fn next_us(&self, now_us: u64) -> Option<u64>;

    /// The run may end without it.
    fn is_done(&self) -> bool;

    fn describe(&self) -> String {
        String::new()
    }
}

fn addr(port: u16) -> Addr {
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
    clients: u64,
    /// A filter makes some streams wait.
    gated: bool,
    /// Window of the multiplexed protocol.
    window: u32,
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
            quiet_ms: [5, 20, 50, 250][random.below(4) as usize],
            read_budget: [64, 4096, 256 * 1024][random.below(3) as usize],
            load_window_ms: 5,
            overload_percent: 0,
            ..Tuning::default()
        },
        moves: [0, 0, 5, 50][random.below(4) as usize],
        swaps: random.below(4),
        early_drain,
        most: (room * 20).clamp(1024, 100_000),
        strict: broken == 0 && memory > 1 << 20 && !early_drain,
        clients: 1 + random.below(10),
        gated: random.chance(400),
        window: [300, 4096, 65_536][random.below(3) as usize],
    };
    (draw, config)
}

fn plan(draw: &Draw, waiting: &Arc<gate::Waiting>) -> Plan {
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
    let down = || Some(mux::Factory::shared(Role::Server, draw.window));
    let muxed = ClusterConfig {
        codec: Some(mux::Factory::shared(Role::Client, draw.window)),
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

/// One run.
struct Run {
    seed: u64,
    draw: Draw,
    random: Random,
    world: World,
    bed: Bed,
    workers: Vec<Worker<SimReactor, Gateway>>,
    actors: Vec<Box<dyn Actor>>,
    snapshots: Vec<Weak<Snapshot>>,
    turns: u64,
    waiting: Arc<gate::Waiting>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::from_seed(seed ^ 0x9a7e);
        let (draw, mut config) = draw(seed, &mut random);
        if std::env::var_os("MOORGATE_SEED").is_some() {
            config.trace = 100_000;
            println!("{draw:?}\n{config:?}");
        }
        let sim = SimWorld::new(seed, config);
        let mut bed = Bed::new(draw.memory);
        let waiting = Arc::default();
        let snapshot = bed.snapshot(plan(&draw, &waiting));
        let reactors = (0..draw.workers).map(|worker| sim.reactor(worker));
        let workers = bed.workers(reactors.collect(), &snapshot, draw.tuning);
        let mut actors: Vec<Box<dyn Actor>> = Vec::new();
        let listen = |port| sim.listen_peer(&addr(port)).expect("a free address");
        for port in [9000, 9001] {
            actors.push(Box::new(server::Server::new(listen(port))));
        }
        actors.push(Box::new(tcp::TcpServer::new(listen(9100), draw.strict)));
        actors.push(Box::new(mux::MuxServer::new(listen(9200), draw.window)));
        for number in 0..draw.clients {
            let id = 1 + number * 100;
            let (most, strict) = (draw.most, draw.strict);
            actors.push(match random.below(10) {
                0..4 => Box::new(client::Client::new(
                    addr(80),
                    &mut random,
                    id,
                    (most, true),
                    strict,
                )),
                4 => Box::new(client::Client::new(
                    addr(84),
                    &mut random,
                    id,
                    (most, false),
                    strict,
                )),
                5..8 => {
                    let to = addr(82 + random.below(2) as u16);
                    let how = (strict, draw.window);
                    Box::new(mux::MuxClient::new(to, &mut random, id, most, how))
                }
                _ => Box::new(tcp::TcpClient::new(addr(81), &mut random, id, most, strict)),
            });
        }
        Self {
            seed,
            draw,
            random,
            world: World {
                sim,
                lenient: Cell::new(false),
            },
            bed,
            workers,
            actors,
            snapshots: vec![Arc::downgrade(&snapshot)],
            turns: 0,
            waiting,
        }
    }

    fn fail(&self, why: &str) -> ! {
        let clients: Vec<_> = self
            .actors
            .iter()
            .filter(|actor| !actor.is_done())
            .map(|actor| actor.describe())
            .collect();
        let trace = self.world.sim.trace();
        let trace: Vec<_> = trace
            .lines()
            .filter(|line| !line.contains("sleep"))
            .collect();
        panic!(
            "seed {}: {why}\nat {} us after {} turns\n{}\n{}{:?}\ntrace:\n{}",
            self.seed,
            self.world.now_us(),
            self.turns,
            clients.join("\n"),
            self.residents(),
            self.draw,
            trace.join("\n"),
        );
    }

    /// What the workers hold, a line for each resident connection.
    fn residents(&self) -> String {
        let mut text = String::new();
        for (at, worker) in self.workers.iter().enumerate() {
            let tally = worker.core.tally.parked;
            text += &format!("worker {at}: parked {tally:?}\n");
            for (index, conn) in worker.app.conns.iter() {
                let role = match &conn.role {
                    conn::Role::Down(down) => format!("down, streams {:?}", down.streams.entries()),
                    conn::Role::Up(up) => {
                        format!("up, idle {}, {:?}", up.idle, up.streams.entries())
                    }
                    conn::Role::Tunnel(end) => format!("tunnel, client {}", end.client),
                    conn::Role::Waking => "waking".to_owned(),
                };
                text += &format!(
                    "  {index} {:?} {role}: readable {}, read_closed {}, fin_seen {}, \
                     write_closed {}, fin_after {}, blocked {}, armed {}, throttles {}, paused {}, \
                     {:?}, rest {}, output {}\n",
                    conn.sock,
                    conn.readable,
                    conn.read_closed,
                    conn.fin_seen,
                    conn.write_closed,
                    conn.fin_after_flush,
                    conn.blocked,
                    conn.write_armed,
                    conn.throttles,
                    conn.paused,
                    conn.closing,
                    conn.rest.len(),
                    conn.output.len(),
                );
            }
            for (index, stream) in worker.app.streams.0.iter() {
                let lanes = [&stream.request, &stream.response]
                    .map(|lane| (lane.done, lane.head_sent, lane.sent, lane.buffer.len()));
                text += &format!(
                    "  stream {index}: upstream {:?}, waiting {:?}, lanes {lanes:?}\n",
                    stream.upstream, stream.waiting,
                );
            }
        }
        text
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
        if crate::engine::worker::App::<SimReactor>::finished(&worker.app) {
            // Its thread has ended; here it only sleeps.
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
                conn::Role::Up(_) | conn::Role::Waking => false,
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
            if let Some(at) = self.world.sim.pick(until.min(now + 10_000)) {
                self.turn(at);
            } else if self.step_actors(1000) || self.resume() {
                moved_us = self.world.now_us();
            } else if until > now {
                let step = (until - now).min(100_000);
                self.world.sim.advance(step);
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
        let snapshot = self.bed.snapshot(plan(&self.draw, &self.waiting));
        self.snapshots.push(Arc::downgrade(&snapshot));
        self.post(|| Message::Snapshot(Arc::clone(&snapshot)));
    }

    fn clients_done(&self) -> bool {
        self.actors.iter().all(|actor| actor.is_done())
    }

    fn all_finished(&self) -> bool {
        let mut workers = self.workers.iter();
        workers.all(|worker| crate::engine::worker::App::<SimReactor>::finished(&worker.app))
    }

    fn go(mut self) {
        for _ in 0..self.draw.swaps {
            let until = self.world.now_us() + self.random.below(3_000_000);
            self.run_until(until, |_| false);
            self.swap();
        }
        let faulty = self.world.now_us() + 20_000_000;
        self.run_until(faulty, Self::clients_done);
        self.world.sim.set_faults(Faults::default());
        if self.draw.early_drain {
            self.world.lenient.set(true);
            self.post(|| Message::Drain {
                within_ms: 5_000,
                exit: true,
                close: true,
            });
        }
        self.run_until(u64::MAX, Self::clients_done);
        // What is under way inside, and on connections that clients left, comes to its end.
        let quiet = self.world.now_us() + 130_000_000;
        self.run_until(quiet, |_| false);
        if !self.draw.early_drain {
            self.judge_quiet();
        }
        self.world.lenient.set(true);
        self.post(|| Message::Stop);
        self.run_until(u64::MAX, Self::all_finished);
        self.judge_end();
    }

    /// All clients are gone, and the workers still run.
    fn judge_quiet(&mut self) {
        let alive: Vec<_> = self
            .snapshots
            .iter()
            .enumerate()
            .filter(|(_, snapshot)| snapshot.strong_count() > 0)
            .map(|(number, _)| number)
            .collect();
        if alive != [self.snapshots.len() - 1] {
            self.fail(&format!("snapshots {alive:?} are alive"));
        }
        let used = self.bed.budget.used();
        if used != 0 {
            self.fail(&format!("{used} bytes of buffers at rest"));
        }
        self.judge_gauges(&["upstream_cx_", "parked", "resident"]);
        for at in 0..self.workers.len() {
            let app = &self.workers[at].app;
            let streams = app.streams.0.iter().count();
            if streams != 0 {
                self.fail(&format!("{streams} streams left on worker {at}"));
            }
        }
    }

    fn judge_gauges(&self, except: &[&str]) {
        for name in [
            "moorgate.resident",
            "moorgate.parked.idle",
            "moorgate.parked.pair",
            "moorgate.parked.mux",
            "moorgate.parked.pooled",
            "http.test.downstream_cx_active",
            "http.test.downstream_cx_http1_active",
            "http.test.downstream_cx_upgrades_active",
            "http.test.downstream_rq_active",
            "tcp.test.downstream_cx_active",
            "listener.127.0.0.1:80.downstream_cx_active",
            "listener.127.0.0.1:81.downstream_cx_active",
            "cluster.web.upstream_cx_active",
            "cluster.web.upstream_rq_active",
            "cluster.web.upstream_rq_pending_active",
            "listener.127.0.0.1:82.downstream_cx_active",
            "listener.127.0.0.1:83.downstream_cx_active",
            "cluster.mux.upstream_cx_active",
            "cluster.mux.upstream_rq_active",
            "cluster.mux.upstream_rq_pending_active",
            "cluster.tcp.upstream_cx_active",
            "cluster.tcp.upstream_rq_active",
            "cluster.tcp.upstream_rq_pending_active",
        ] {
            if except.iter().any(|part| name.contains(part)) {
                continue;
            }
            let value = self.bed.registry.value(name).unwrap_or(0);
            if value != 0 {
                self.fail(&format!("{name} is {value}"));
            }
        }
        let open = self
            .bed
            .shared
            .connections
            .load(std::sync::atomic::Ordering::Relaxed);
        if open != 0 {
            self.fail(&format!("{open} connections counted"));
        }
    }

    /// Every worker has ended.
    fn judge_end(&mut self) {
        for at in 0..self.workers.len() {
            let core = &self.workers[at].core;
            let left = (core.slot_count(), core.tally.resident, core.tally.parked);
            if left != (0, 0, [0; 4]) {
                self.fail(&format!("worker {at} has {left:?} left"));
            }
        }
        self.judge_gauges(&[]);
        let used = self.bed.budget.used();
        if used != 0 {
            self.fail(&format!("{used} bytes of buffers at the end"));
        }
        let open = self.world.sim.open_descriptors();
        let listeners = 5;
        if open.len() != listeners {
            self.fail(&format!("descriptors left: {open:?}"));
        }
        for sock in open {
            self.workers[0].core.reactor.close(sock, false);
        }
    }
}

#[test]
fn nothing_is_lost_and_nothing_hangs() {
    if let Some(seed) = std::env::var("MOORGATE_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
    {
        Run::new(seed).go();
        return;
    }
    let seeds = std::env::var("MOORGATE_SEEDS");
    let seeds = seeds
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(100);
    for seed in 0..seeds {
        Run::new(seed).go();
    }
}
