//! `run`: throughput and latency, in a closed or an open loop.

pub mod load;
pub mod mux;
pub mod orders;
mod schedule;
pub mod tally;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use moorgate::engine::limits;
use moorgate::engine::reactor::Addr;
use moorgate::engine::reactor::clock::Clock;

use crate::cli::{MessageOptions, RunOptions};
use crate::exchange::{Exchange, Request};
use crate::fleet::{Fleet, Plan};
use crate::mux::Call;
use crate::pacer::Pacer;
use crate::report::{self, CpuTime, Report};
use crate::signal;
use crate::target::{Scheme, Target};
use crate::tls;
use load::Load;
use mux::MuxLoad;
use orders::Orders;
use tally::Tally;

/// Least length of an interval of the series.
const INTERVAL_US: u64 = 100_000;
/// Intervals of a run whose length is known, at most.
const INTERVALS: u64 = 200;
/// From now to the intended start, so that all threads are there.
const LEAD_US: u64 = 1000;

/// Runs, and reports on standard output and into the files asked for.
///
/// # Errors
/// What is wrong with the options, or with this machine.
pub fn main(options: &RunOptions) -> Result<(), String> {
    signal::listen().map_err(|error| error.to_string())?;
    let report = run(options)?;
    print!("{}", report.text());
    if let Some(path) = &options.json {
        report::write(path, &report.json())?;
    }
    if let Some(path) = &options.html {
        report::write(path, &report.html())?;
    }
    Ok(())
}

/// Runs and gives back the report.
///
/// # Errors
/// What is wrong with the options, or with this machine.
pub fn run(options: &RunOptions) -> Result<Report, String> {
    let target = Target::parse(&options.target, options.message.allow_remote)?;
    let target = target.speak(&options.protocol)?;
    let job = if target.has_streams() {
        if options.no_keep_alive {
            return Err(
                "HTTP/2 does not end connections by request: --reconnect-every 1".to_owned(),
            );
        }
        Job::Streams(Arc::new(call(
            &target,
            &options.message,
            options.protocol.bidi,
        )?))
    } else {
        let keep_alive = !options.no_keep_alive;
        Job::Exchanges(Arc::new(exchange(&target, &options.message, keep_alive)?))
    };
    // What is wrong with the options is told before anything is started.
    tls::Client::new(&target, &options.tls)?;
    let system = |error: io::Error| error.to_string();
    let descriptors = limits::raise_descriptors().map_err(system)?;
    if u64::from(options.connections) + 64 > descriptors.now {
        return Err(format!(
            "{} connections need more descriptors than the limit of {}; \
             raise it (ulimit -n), or take at most -c {}",
            options.connections,
            descriptors.now,
            descriptors.now.saturating_sub(64).max(1)
        ));
    }

    let clock = Clock::start();
    let start_us = clock.now_us() + LEAD_US;
    let length = options.requests.is_none().then_some(options.duration);
    let interval_us = length.map_or(INTERVAL_US, |length| {
        INTERVAL_US.max(micros(length).div_ceil(INTERVALS))
    });
    let threads = usize::from(options.threads).min(options.connections as usize);
    let cpu_before = CpuTime::now().map_err(system)?;
    let all = Orders {
        addr: Addr::Ip(target.addr),
        tls: None,
        reconnect_every: options.reconnect_every,
        streams: options.protocol.streams.unwrap_or(1),
        connections: options.connections,
        timeout_us: micros(options.message.timeout).max(1000),
        start_us,
        end_us: length.map(|length| start_us + micros(length)),
        quota: options.requests,
        pacer: None,
        interval_us,
    };
    let rate = options.rate;
    let (to, tls_options) = (target.clone(), options.tls.clone());
    let plan = Plan {
        threads,
        private_tables: false,
        clock,
    };
    let share_of = move |thread: usize| {
        #[allow(clippy::cast_possible_truncation)] // Not more than there are connections.
        let connections = share(u64::from(all.connections), threads, thread) as u32;
        // One for each worker: sessions are looked up without waiting for another.
        let tls = tls::Client::new(&to, &tls_options).map_err(io::Error::other)?;
        io::Result::Ok(Orders {
            tls: tls.map(Arc::new),
            connections,
            quota: all.quota.map(|quota| share(quota, threads, thread)),
            pacer: rate.map(|rate| Pacer::new(rate, threads, thread, start_us)),
            ..all.clone()
        })
    };
    let mut tally = Tally::new(start_us, interval_us, rate.is_some());
    match job {
        Job::Exchanges(exchange) => {
            let fleet = Fleet::start(plan, move |thread, core| {
                Load::new(share_of(thread)?, Arc::clone(&exchange), core)
            });
            for load in fleet.and_then(Fleet::join).map_err(system)? {
                tally.add(&load.into_tally());
            }
        }
        Job::Streams(call) => {
            let fleet = Fleet::start(plan, move |thread, core| {
                MuxLoad::new(share_of(thread)?, Arc::clone(&call), core)
            });
            for load in fleet.and_then(Fleet::join).map_err(system)? {
                tally.add(&load.into_tally());
            }
        }
    }
    let cpu = CpuTime::now().map_err(system)?.since(cpu_before);
    Ok(Report::new(
        options,
        &target,
        threads,
        &tally,
        start_us,
        interval_us,
        cpu,
    ))
}

/// What connections do.
enum Job {
    /// One exchange after the other.
    Exchanges(Arc<Exchange>),
    /// As many at a time as there are streams.
    Streams(Arc<Call>),
}

/// The body of the command line, if there is one.
fn body(options: &MessageOptions) -> Result<Vec<u8>, String> {
    match options.body.as_deref() {
        None => Ok(Vec::new()),
        Some(text) => match text.strip_prefix('@') {
            Some(path) => std::fs::read(path).map_err(|error| format!("{path}: {error}")),
            None => Ok(text.as_bytes().to_vec()),
        },
    }
}

/// A message of so many bytes, all of them printable.
fn generated(size: u32) -> Vec<u8> {
    (b'!'..=b'~').cycle().take(size as usize).collect()
}

/// What the options say to ask on a stream.
///
/// # Errors
/// What cannot be asked.
pub(crate) fn call(target: &Target, options: &MessageOptions, bidi: bool) -> Result<Call, String> {
    let body = body(options)?;
    if target.scheme != Scheme::Grpc {
        let request = Request {
            method: &options.method,
            headers: &options.headers,
            body: &body,
            keep_alive: true,
        };
        return Call::http(target, &request);
    }
    if options.method != "GET" {
        return Err("a method is for http://; that of gRPC is the path of the target".to_owned());
    }
    let message = match options.body {
        Some(_) => body,
        None => generated(options.size),
    };
    Call::grpc(target, &options.headers, &message, bidi)
}

/// What the options say to send.
///
/// # Errors
/// What cannot be sent.
pub(crate) fn exchange(
    target: &Target,
    options: &MessageOptions,
    keep_alive: bool,
) -> Result<Exchange, String> {
    let body = body(options)?;
    match target.scheme {
        Scheme::Ws if options.method != "GET" => Err("a method is for http://".to_owned()),
        Scheme::Ws => {
            let payload = match options.body {
                Some(_) => body,
                None => generated(options.size),
            };
            Exchange::websocket(target, &options.headers, payload, keep_alive)
        }
        Scheme::Tcp if options.method != "GET" || !options.headers.is_empty() => {
            Err("a method and headers are for http://".to_owned())
        }
        Scheme::Tcp if options.body.is_some() => {
            if body.is_empty() {
                return Err("an empty message has no answer".to_owned());
            }
            Ok(Exchange::echo(body, keep_alive))
        }
        Scheme::Tcp => Ok(Exchange::echo_of(options.size as usize, keep_alive)),
        Scheme::Http2 | Scheme::Grpc => Err(format!("{target} has streams")),
        Scheme::Http => Exchange::request(
            target,
            &Request {
                method: &options.method,
                headers: &options.headers,
                body: &body,
                keep_alive,
            },
        ),
    }
}

/// Microseconds of a time from the command line, which is at most a year.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4)
}

/// Part `number` of `total` cut into `parts` as equal as can be.
pub(crate) fn share(total: u64, parts: usize, number: usize) -> u64 {
    let (parts, number) = (parts.max(1) as u64, number as u64);
    total / parts + u64::from(number < total % parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (total, parts) in [(10, 3), (2, 4), (0, 2), (64, 1)] {
            let shares: Vec<u64> = (0..parts).map(|i| share(total, parts, i)).collect();
            assert_eq!(shares.iter().sum::<u64>(), total);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
