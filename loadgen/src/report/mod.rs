//! What a run came to: as text, as JSON, and as a page with plots.
//!
//! All three are made from one [`Report`], so they cannot disagree.

mod html;
mod plot;
mod text;

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::cli::RunOptions;
use crate::histogram::Summary;
use crate::run::tally::{Errors, Handshakes, Tally};
use crate::target::Target;

pub(crate) use text::{count as format_count, latency as format_us};

/// Writes a file.
///
/// # Errors
/// The path and what is wrong with it.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Processor time of this process.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CpuTime {
    /// Seconds in user mode.
    pub user_s: f64,
    /// Seconds in the kernel.
    pub system_s: f64,
}

impl CpuTime {
    /// Until now.
    ///
    /// # Errors
    /// What getrusage(2) says.
    pub fn now() -> io::Result<Self> {
        // SAFETY: all zeroes is a valid value of this struct of numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the struct is ours.
        if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
            return Err(io::Error::last_os_error());
        }
        #[allow(clippy::cast_precision_loss)] // Seconds and microseconds of one process.
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        Ok(Self {
            user_s: seconds(usage.ru_utime),
            system_s: seconds(usage.ru_stime),
        })
    }

    /// What was spent since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            user_s: self.user_s - before.user_s,
            system_s: self.system_s - before.system_s,
        }
    }
}

/// One interval of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Seconds from the start of the run to the start of the interval.
    pub at_s: f64,
    /// Answers in a second.
    pub rate: f64,
    /// Errors in a second.
    pub error_rate: f64,
    /// Median latency, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
    /// Greatest, microseconds.
    pub max_us: u64,
}

/// Everything a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where the load went.
    pub target: String,
    /// `closed` or `open`.
    pub mode: &'static str,
    /// Connections.
    pub connections: u32,
    /// Streams under way on each connection, where it carries streams.
    pub streams: Option<u32>,
    /// Threads.
    pub threads: usize,
    /// Connections carry more than one exchange.
    pub keep_alive: bool,
    /// Starts in a second that were wanted; open loop only.
    pub wanted_rate: Option<f64>,
    /// Seconds in which requests were sent.
    pub elapsed_s: f64,
    /// Complete answers, those after the end included.
    pub answers: u64,
    /// Answers that came when nothing was sent any more; not in `rate`.
    pub late: u64,
    /// Answers in a second.
    pub rate: f64,
    /// Open loop: due and not sent before the end, for want of a free connection.
    pub unsent: u64,
    /// Connections that came about.
    pub connects: u64,
    /// Handshakes of TLS, where it was spoken.
    pub tls: Option<Handshakes>,
    /// Bytes received, as they are without TLS.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Errors by kind.
    pub errors: Errors,
    /// Latency of answers; in an open loop from the intended start.
    pub latency: Summary,
    /// Open loop: latency from the actual start.
    pub service: Option<Summary>,
    /// Processor time of the load generator.
    pub cpu: CpuTime,
    /// The same for one answer, microseconds.
    pub cpu_us_per_answer: f64,
    /// Length of the intervals in `series`.
    pub interval_s: f64,
    /// The run in time.
    pub series: Vec<Point>,
}

impl Report {
    /// Sums up.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // Counts far below 2^52.
    pub(crate) fn new(
        options: &RunOptions,
        target: &Target,
        threads: usize,
        tally: &Tally,
        start_us: u64,
        interval_us: u64,
        cpu: CpuTime,
    ) -> Self {
        let end_us = match options.requests {
            Some(_) => tally.last_us,
            None => tally.stopped_us,
        };
        let elapsed_s = (end_us.saturating_sub(start_us) as f64 / 1e6).max(1e-6);
        let interval_s = interval_us as f64 / 1e6;
        let series = tally
            .series
            .iter()
            .enumerate()
            .map(|(number, interval)| {
                let at_s = number as f64 * interval_s;
                // The last one may be cut short.
                let length_s = interval_s.min(elapsed_s - at_s);
                let length_s = if length_s > interval_s / 10.0 {
                    length_s
                } else {
                    interval_s
                };
                Point {
                    at_s,
                    rate: interval.answers as f64 / length_s,
                    error_rate: interval.errors as f64 / length_s,
                    p50_us: interval.latencies.percentile(50.0),
                    p99_us: interval.latencies.percentile(99.0),
                    max_us: interval.latencies.max(),
                }
            })
            .collect();
        Self {
            target: target.to_string(),
            mode: if options.rate.is_some() {
                "open"
            } else {
                "closed"
            },
            connections: options.connections,
            streams: target
                .has_streams()
                .then(|| options.protocol.streams.unwrap_or(1)),
            threads,
            keep_alive: !options.no_keep_alive && options.reconnect_every != Some(1),
            wanted_rate: options.rate,
            elapsed_s,
            answers: tally.answers,
            late: tally.late,
            rate: (tally.answers - tally.late) as f64 / elapsed_s,
            unsent: tally.unsent,
            connects: tally.connects,
            tls: target.tls.then(|| tally.handshakes.clone()),
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
            errors: tally.errors,
            latency: tally.latency.summary(),
            service: tally.service.as_ref().map(|service| service.summary()),
            cpu,
            cpu_us_per_answer: (cpu.user_s + cpu.system_s) * 1e6 / tally.answers.max(1) as f64,
            interval_s,
            series,
        }
    }

    /// As JSON, one object.
    #[must_use]
    pub fn json(&self) -> String {
        to_json(self)
    }
}

/// A value of ours as indented JSON with a line end.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    // Only maps with keys that are not strings, and failing writers, make this fail.
    let mut text = serde_json::to_string_pretty(value).expect("numbers and strings");
    text.push('\n');
    text
}
