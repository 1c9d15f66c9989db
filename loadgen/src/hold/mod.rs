//! `hold`: many connections that are almost always silent.

pub mod counts;
pub mod holder;
mod progress;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use moorgate::engine::limits;
use moorgate::engine::reactor::Addr;
use moorgate::engine::reactor::clock::Clock;
use serde::Serialize;

use crate::cli::{HoldOptions, MessageOptions};
use crate::exchange::Exchange;
use crate::fleet::{Fleet, Plan};
use crate::histogram::{Latencies, Summary};
use crate::mux::Call;
use crate::pacer::Pacer;
use crate::report::{self, CpuTime};
use crate::run;
use crate::signal;
use crate::target::{Scheme, Target};
use crate::tls;
use counts::{Board, Counts};
use holder::Holder;
use progress::Progress;

/// Connections from one source address: well below the number of ports one has.
const PER_SOURCE: u32 = 10_000;
/// Descriptors a table needs beside its connections: standard streams, files, libraries.
const SPARE_DESCRIPTORS: u64 = 16;
/// Descriptors of a worker: its epoll set and its wake-up.
const PER_WORKER: u64 = 2;
/// How often the main thread looks.
const LOOK: Duration = Duration::from_millis(100);

/// What all workers are to do.
#[derive(Debug)]
pub struct Orders {
    /// Where to.
    pub addr: Addr,
    /// Number of source addresses; 0 leaves it to the kernel.
    pub sources: u32,
    /// What to send; nothing where connections carry streams.
    pub exchange: Arc<Exchange>,
    /// What to ask on streams, where connections carry them.
    pub call: Option<Arc<Call>>,
    /// Streams that are kept open on each.
    pub streams: u32,
    /// It is a subscription.
    pub sse: bool,
    /// Lost connections are opened again.
    pub reconnect: bool,
    /// Milliseconds between two messages of a connection.
    pub every_ms: u64,
    /// How far that strays to either side.
    pub stray_ms: u64,
    /// Microseconds until an answer, or a connection, is given up.
    pub timeout_us: u64,
}

impl Orders {
    /// Address that connection `number` comes from.
    #[must_use]
    pub fn source(&self, number: u32) -> Option<SocketAddr> {
        let index = number.checked_rem(self.sources)?;
        // 127.1.1.1 and on; the last part avoids 0 and 255.
        #[allow(clippy::cast_possible_truncation)] // Each is below 255.
        let ip = Ipv4Addr::new(
            127,
            1 + (index / 62_500) as u8,
            1 + (index / 250 % 250) as u8,
            1 + (index % 250) as u8,
        );
        Some(SocketAddr::new(IpAddr::V4(ip), 0))
    }

    /// Milliseconds until the next message; `random` is any number.
    #[must_use]
    pub fn wait_ms(&self, random: u64) -> u64 {
        let within = ((2 * self.stray_ms + 1) * (random >> 32)) >> 32;
        self.every_ms - self.stray_ms + within
    }
}

/// What a hold came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where the connections went.
    pub target: String,
    /// Connections that were to be held.
    pub connections: u32,
    /// Worker threads.
    pub workers: u16,
    /// Each had a descriptor table of its own.
    pub private_tables: bool,
    /// Source addresses; 0: the kernel's choice.
    pub sources: u32,
    /// Seconds until every connection had been tried.
    pub opening_s: f64,
    /// Seconds after that.
    pub held_s: f64,
    /// Numbers at the end, before the connections were closed.
    pub counts: Counts,
    /// Latency of answers, or of events.
    pub latency: Summary,
    /// Processor time of the load generator.
    pub cpu: CpuTime,
}

/// Holds, and reports on standard output and into the file asked for.
///
/// # Errors
/// What is wrong with the options, or with this machine.
pub fn main(options: &HoldOptions) -> Result<(), String> {
    signal::listen().map_err(|error| error.to_string())?;
    let report = hold(options)?;
    print!("{}", progress::text(&report));
    if let Some(path) = &options.json {
        report::write(path, &report::to_json(&report))?;
    }
    Ok(())
}

/// Holds, until the time is over or a signal comes.
///
/// # Errors
/// What is wrong with the options, or with this machine.
pub fn hold(options: &HoldOptions) -> Result<Report, String> {
    let system = |error: io::Error| error.to_string();
    let target = Target::parse(&options.target, options.message.allow_remote)?;
    let target = target.speak(&options.protocol)?;
    let workers = options.tables.unwrap_or(options.threads);
    let private_tables = options.tables.is_some();
    let limit = limits::raise_descriptors().map_err(system)?.now;
    check_descriptors(options.connections, workers, private_tables, limit)?;
    let orders = Arc::new(orders(options, &target)?);
    // What is wrong with the options is told before anything is started.
    tls::Client::new(&target, &options.tls)?;

    let clock = Clock::start();
    let stop = Arc::new(AtomicBool::new(false));
    let boards: Vec<Arc<Board>> = (0..workers).map(|_| Arc::default()).collect();
    let plan = Plan {
        threads: usize::from(workers),
        private_tables,
        clock,
    };
    let cpu_before = CpuTime::now().map_err(system)?;
    let start_us = clock.now_us();
    let (rate, connections, threads) = (options.rate, options.connections, plan.threads);
    let fleet = {
        let (orders, boards, stop) = (Arc::clone(&orders), boards.clone(), Arc::clone(&stop));
        let (to, tls_options) = (target.clone(), options.tls.clone());
        Fleet::start(plan, move |thread, _| {
            Ok(Holder::new(
                Arc::clone(&orders),
                tls::Client::new(&to, &tls_options).map_err(io::Error::other)?,
                seats(connections, threads, thread),
                Pacer::new(rate, threads, thread, start_us),
                Arc::clone(&boards[thread]),
                Arc::clone(&stop),
            ))
        })
        .map_err(system)?
    };

    let mut progress = Progress::new(connections);
    let mut all = Latencies::fine();
    let began = Instant::now();
    let mut settled: Option<Instant> = None;
    loop {
        let (counts, recent) = look(&boards);
        all.add(&recent);
        if counts.settled >= u64::from(connections) && settled.is_none() {
            settled = Some(Instant::now());
        }
        progress.show(&counts, &recent, settled.is_some());
        let over = settled
            .zip(options.duration)
            .is_some_and(|(settled, duration)| settled.elapsed() >= duration);
        if over || signal::stopped() || fleet.finished() {
            break;
        }
        std::thread::sleep(LOOK);
    }
    let ended = Instant::now();
    stop.store(true, Ordering::Relaxed);
    fleet.join().map_err(system)?;
    progress.finish();
    let (counts, recent) = look(&boards);
    all.add(&recent);
    let settled = settled.unwrap_or(ended);
    Ok(Report {
        target: target.to_string(),
        connections,
        workers,
        private_tables,
        sources: orders.sources,
        opening_s: (settled - began).as_secs_f64(),
        held_s: (ended - settled).as_secs_f64(),
        counts,
        latency: all.summary(),
        cpu: CpuTime::now().map_err(system)?.since(cpu_before),
    })
}

/// Numbers of all workers, and the latencies since the last look.
fn look(boards: &[Arc<Board>]) -> (Counts, Latencies) {
    let mut counts = Counts::default();
    let mut latencies = Latencies::fine();
    for board in boards {
        board.collect(&mut counts, &mut latencies);
    }
    (counts, latencies)
}

fn orders(options: &HoldOptions, target: &Target) -> Result<Orders, String> {
    let message = if options.sse {
        if target.scheme != Scheme::Http {
            return Err("server-sent events come over HTTP/1.1: http:// or https://".to_owned());
        }
        let mut message: MessageOptions = options.message.clone();
        message.headers.push("accept: text/event-stream".to_owned());
        message
    } else {
        options.message.clone()
    };
    let call = match target.has_streams() {
        true => Some(Arc::new(run::call(
            target,
            &message,
            options.protocol.bidi,
        )?)),
        false => None,
    };
    let exchange = match &call {
        Some(_) => Exchange::echo(Vec::new(), true),
        None => run::exchange(target, &message, true)?,
    };
    if options.protocol.streams.is_some() && !options.protocol.bidi {
        return Err("streams are held open with --bidi".to_owned());
    }
    let from_loopback = matches!(target.addr.ip(), IpAddr::V4(ip) if ip.is_loopback());
    let sources = match options.sources {
        Some(_) if !from_loopback => {
            return Err("source addresses are for IPv4 loopback targets".to_owned());
        }
        Some(sources) => sources,
        None if from_loopback => options.connections.div_ceil(PER_SOURCE),
        None => 0,
    };
    let every_ms = run::micros(options.every).div_ceil(1000).max(1);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // A share of at most a year.
    let stray_ms = (every_ms as f64 * options.jitter) as u64;
    Ok(Orders {
        addr: Addr::Ip(target.addr),
        sources,
        exchange: Arc::new(exchange),
        call,
        streams: options.protocol.streams.unwrap_or(1),
        sse: options.sse,
        reconnect: !options.no_reconnect,
        every_ms,
        stray_ms: stray_ms.min(every_ms),
        timeout_us: run::micros(options.message.timeout).max(1000),
    })
}

/// First connection of a worker, and how many it has.
fn seats(connections: u32, threads: usize, thread: usize) -> (u32, u32) {
    let of = |thread| run::share(u64::from(connections), threads, thread);
    let first: u64 = (0..thread).map(of).sum();
    #[allow(clippy::cast_possible_truncation)] // At most `connections`.
    let (first, count) = (first as u32, of(thread) as u32);
    (first, count)
}

/// Refuses what the descriptor limit does not allow, and says what would.
fn check_descriptors(
    connections: u32,
    workers: u16,
    private_tables: bool,
    limit: u64,
) -> Result<(), String> {
    let (in_table, in_use) = if private_tables {
        let most = u64::from(connections).div_ceil(u64::from(workers));
        (most, SPARE_DESCRIPTORS + PER_WORKER)
    } else {
        let in_use = SPARE_DESCRIPTORS + PER_WORKER * u64::from(workers);
        (u64::from(connections), in_use)
    };
    if in_table + in_use <= limit {
        return Ok(());
    }
    let room = limit.saturating_sub(SPARE_DESCRIPTORS + PER_WORKER).max(1);
    Err(format!(
        "{connections} connections need more than the limit of {limit} descriptors in a table; \
         --tables {} spreads them",
        u64::from(connections).div_ceil(room)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use std::collections::HashSet;

    fn orders_of(line: &str) -> Result<Orders, String> {
        let words = format!("moorgate-load hold {line}");
        match Cli::parse_from(words.split(' ')).command {
            Command::Hold(options) => {
                let target = Target::parse(&options.target, true)?;
                orders(&options, &target)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sources_are_distinct_loopback_addresses() {
        let orders = orders_of("tcp://127.0.0.1:9 --sources 60000").unwrap();
        let all: HashSet<SocketAddr> = (0..60_000).filter_map(|n| orders.source(n)).collect();
        assert_eq!(all.len(), 60_000);
        assert!(all.iter().all(|addr| addr.ip().is_loopback()));
        assert_eq!(orders.source(60_000), orders.source(0));
        assert_eq!(orders_of("tcp://[::1]:9").unwrap().source(5), None);
        assert!(orders_of("tcp://[::1]:9 --sources 2").is_err());
    }

    #[test]
    fn the_time_between_messages_strays_as_far_as_it_may() {
        let orders = orders_of("tcp://127.0.0.1:9 --every 10s --jitter 0.5").unwrap();
        assert_eq!(orders.wait_ms(0), 5000);
        assert_eq!(orders.wait_ms(u64::MAX), 15_000);
        let exact = orders_of("tcp://127.0.0.1:9 --every 10s --jitter 0").unwrap();
        assert_eq!(
            (exact.wait_ms(0), exact.wait_ms(u64::MAX)),
            (10_000, 10_000)
        );
    }

    #[test]
    fn every_connection_has_one_worker() {
        let all: Vec<_> = (0..3).map(|thread| seats(11, 3, thread)).collect();
        assert_eq!(all, [(0, 4), (4, 4), (8, 3)]);
    }

    #[test]
    fn the_descriptor_limit_is_told_with_a_way_out() {
        assert!(check_descriptors(19_980, 1, false, 20_000).is_ok());
        let told = check_descriptors(1_000_000, 1, false, 20_000).unwrap_err();
        assert!(told.contains("--tables 51"), "{told}");
        assert!(check_descriptors(1_000_000, 51, true, 20_000).is_ok());
        assert!(check_descriptors(1_000_000, 49, true, 20_000).is_err());
    }
}
