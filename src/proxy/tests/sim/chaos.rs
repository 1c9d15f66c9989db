//! The same clients, servers and judges over loopback sockets, with a thread for each worker, in the
//! build in which workers park, steal and move at every legal point.
//!
//! Each direction of each exchange and tunnel carries bytes of its own that both ends know, and the
//! receiving end compares them all: none is lost, doubled, changed, or sent to another.
//! `MOORGATE_CHAOS_SEEDS` says how many casts a run takes.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::super::peers::busy::{Echo, Progress, Streamer};
use super::super::secure::{self, FIRST_PORT};
use super::{Actor, Addr, BACKS, Bed, Draw, Listener, Net, Random, Tuning, World};
use super::{cast, draw, number, plan, stoppers};
use crate::engine::arena::Arena;
use crate::engine::reactor::clock::Clock;
use crate::engine::reactor::epoll::Epoll;
use crate::proxy::facts::Message;

/// Time in which nothing at all moves, after which the run counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);
const WORKERS: usize = 4;
const FRONTS: [u16; 10] = [
    80,
    81,
    82,
    83,
    84,
    85,
    FIRST_PORT,
    FIRST_PORT + 1,
    FIRST_PORT + 2,
    FIRST_PORT + 3,
];
/// Bytes that each streaming tunnel carries and gets back.
const STREAMED: u64 = 1 << 20;

/// An address of the process's own: no client's port, as those are all of 127.0.0.1.
fn front_addr(seed: u64, number: u16) -> Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let port = 20_000 + (seed % 2000) as u16 * 10 + number;
    Addr::Ip(([127, 77, high, low], port).into())
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn settled(what: &str, mut over: impl FnMut() -> Result<(), String>) {
    let began = Instant::now();
    while let Err(why) = over() {
        assert!(began.elapsed() < PATIENCE, "{what}: {why}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn run(seed: u64, tls: bool) -> [i64; 3] {
    let before = descriptors();
    let mut random = Random::from_seed(seed);
    let (drawn, _) = draw(seed, &mut random);
    let draw = Draw {
        workers: WORKERS,
        memory: 1 << 28,
        tuning: Tuning {
            quiet_ms: 0,
            load_window_ms: 5,
            overload_percent: 0,
            ..drawn.tuning
        },
        early_drain: false,
        strict: true,
        reclaims: false,
        most: 60_000,
        clients: 12,
        ..drawn
    };
    let mut places: HashMap<u16, Addr> = HashMap::new();
    for (number, front) in (0..).zip(FRONTS) {
        places.insert(front, front_addr(seed, number));
    }
    let mut listen = |port| {
        let (listener, addr) = Listener::real().expect("a free port");
        places.insert(port, Addr::Ip(addr));
        listener
    };
    let backs = BACKS.map(&mut listen);
    let echo = listen(9300);
    let addr = |port: u16| places[&port].clone();
    let mut actors = cast(&draw, &mut random, backs, &addr);
    actors.push(Box::new(Echo::new(echo)));
    if tls {
        actors.extend(stoppers(&mut random, &addr));
    }
    let streams: [Rc<Progress>; 2] = Default::default();
    for (id, progress) in (1u64..).zip(&streams) {
        actors.push(Box::new(Streamer::new(addr(85), id, progress)));
    }
    let waiting = Arc::default();
    let mut bed = Bed::new(draw.memory);
    let registry = Arc::clone(&bed.registry);
    let whole_plan = || {
        let mut plan = plan(&draw, &waiting, &addr);
        plan.clusters
            .push(("echo", Default::default(), vec![addr(9300)]));
        plan.tcp.push((addr(85), "echo", 3_600_000));
        match tls {
            true => secure::wrap(plan, &*registry, &addr, 300),
            false => (plan, Vec::new()),
        }
    };
    let published = |bed: &mut Bed| {
        let (plan, between) = whole_plan();
        bed.secure = between;
        bed.snapshot(plan)
    };
    let snapshot = published(&mut bed);
    let mut snapshots = vec![Arc::downgrade(&snapshot)];
    let clock = Clock::start();
    let epoll = |_| Epoll::new(clock).expect("epoll");
    let mut workers = bed.workers((0..WORKERS).map(epoll).collect(), &snapshot, draw.tuning);
    for worker in &mut workers {
        worker.core.arena = Arena::new(draw.arena);
    }
    drop(snapshot);
    let listeners: Vec<_> = workers[0].app.listeners.iter().flatten().copied().collect();
    let group = Arc::clone(workers[0].core.siblings());
    let threads: Vec<_> = workers
        .into_iter()
        .map(|mut worker| {
            thread::spawn(move || {
                worker.run().expect("a worker");
                let core = &worker.core;
                assert_eq!(
                    (core.slot_count(), core.tally.resident, core.tally.parked),
                    (0, 0, [0; 4])
                );
            })
        })
        .collect();
    let post = |make: &dyn Fn() -> Message| {
        for member in &group.members {
            member.post(make());
        }
    };
    let world = World::new(Net::Real(Instant::now()), false);
    let mut moved_at = Instant::now();
    let mut swaps = draw.swaps;
    let ready = |actors: &[Box<dyn Actor>]| actors.iter().all(|actor| actor.is_done());
    while !ready(&actors) {
        let mut moved = false;
        for actor in &mut actors {
            match actor.step(&world, &mut random) {
                Ok(one) => moved |= one,
                Err(why) => panic!("seed {seed}: {why}\n{draw:?}"),
            }
        }
        if let Some(token) = waiting.take(random.next_u64()) {
            post(&|| Message::Resume(token));
        }
        if swaps > 0 && random.chance(2) {
            swaps -= 1;
            let snapshot = published(&mut bed);
            snapshots.push(Arc::downgrade(&snapshot));
            post(&|| Message::Snapshot(Arc::clone(&snapshot)));
        }
        if streams.iter().all(|stream| stream.done.get() > STREAMED) {
            world.end_busy();
        }
        if moved {
            moved_at = Instant::now();
        } else {
            thread::sleep(Duration::from_micros(50));
        }
        if moved_at.elapsed() > PATIENCE {
            let open: Vec<_> = actors.iter().filter(|actor| !actor.is_done()).collect();
            let open: Vec<_> = open.iter().map(|actor| actor.describe()).collect();
            panic!("seed {seed}: nothing moves\n{}\n{draw:?}", open.join("\n"));
        }
    }
    let value = |name: &str| bed.registry.value(name).unwrap_or(0);
    let counters = ["moorgate.steals", "moorgate.moves", "moorgate.wakeups"].map(value);
    settled("clients and streams end", || {
        // Servers still answer clients that left half-way.
        for actor in &mut actors {
            if let Err(why) = actor.step(&world, &mut random) {
                panic!("seed {seed}: {why}\n{draw:?}");
            }
        }
        match [
            "http.test.downstream_cx_active",
            "http.test.downstream_rq_active",
            "tcp.test.downstream_cx_active",
        ]
        .into_iter()
        .find(|name| value(name) != 0)
        {
            Some(name) => {
                if let Some(token) = waiting.take(0) {
                    post(&|| Message::Resume(token));
                }
                Err(format!("{name} is {}", value(name)))
            }
            None => Ok(()),
        }
    });
    settled("one snapshot lives", || {
        let alive = snapshots
            .iter()
            .filter(|one| one.strong_count() > 0)
            .count();
        (alive == 1).then_some(()).ok_or(format!("{alive} live"))
    });
    post(&|| Message::Stop);
    for thread in threads {
        thread.join().expect("a worker ends in order");
    }
    for name in [
        "moorgate.resident",
        "moorgate.parked.idle",
        "moorgate.parked.pair",
        "moorgate.parked.mux",
        "moorgate.parked.pooled",
        "http.test.downstream_cx_upgrades_active",
        "cluster.web.upstream_cx_active",
        "cluster.web.upstream_rq_active",
        "cluster.mux.upstream_cx_active",
        "cluster.mux.upstream_rq_active",
        "cluster.tcp.upstream_cx_active",
        "cluster.echo.upstream_cx_active",
    ] {
        assert_eq!(value(name), 0, "seed {seed}: {name}");
    }
    assert_eq!(bed.budget.used(), 0, "seed {seed}: bytes of buffers");
    for open in listeners {
        // SAFETY: opened by the test's reactors and closed nowhere else.
        drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(open.sock.0) });
    }
    drop(group);
    drop(actors);
    assert_eq!(descriptors(), before, "seed {seed}: descriptors");
    counters
}

fn runs(seeds: std::ops::Range<u64>, tls: bool) {
    // The process's descriptors are counted: one after the other.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut sums = [0; 3];
    let count = seeds.end - seeds.start;
    for seed in seeds.clone() {
        let counters = run(seed, tls);
        for (sum, counter) in sums.iter_mut().zip(counters) {
            *sum += counter;
        }
        let done = seed + 1 - seeds.start;
        if done.is_multiple_of(10) {
            println!("{done} of {count} casts");
        }
    }
    let [steals, moves, wakes] = sums;
    println!("{steals} steals, {moves} moves, {wakes} wake-ups of thieves");
    assert!(steals > 0 && moves > 0 && wakes > 0);
}

#[test]
fn chaos_conserves_every_byte() {
    runs(0..number("MOORGATE_CHAOS_SEEDS").unwrap_or(20), false);
}

/// Upstreams are reached over TLS, by way of listeners of the same gateway. A seed decides where it listens:
/// these are other ones.
#[test]
fn chaos_conserves_every_byte_over_tls() {
    let seeds = number("MOORGATE_CHAOS_SEEDS").unwrap_or(20).div_ceil(4);
    runs(1000..1000 + seeds, true);
}
