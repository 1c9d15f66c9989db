//! Access logs: what is written when a stream or connection ends.
//!
//! An [`AccessLog`] is immutable configuration: a filter, a compiled format, a target. Workers write
//! through a [`LogWriter`], which never blocks: what finds no room is dropped and counted.

use std::fmt;
use std::sync::Arc;

use moorgate_codecs::Head;

use super::format::{Format, Keeps};
use super::log_thread::{LogTarget, Wake};
use super::record::Record;
use super::ring;
use super::stats::{AccessLogStats, Recorder};

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Greater or equal.
    AtLeast,
    /// Less or equal.
    AtMost,
}

/// A number compared with a fixed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// How.
    pub op: Op,
    /// With what.
    pub value: u64,
}

impl Comparison {
    fn holds(self, value: u64) -> bool {
        match self.op {
            Op::Equal => value == self.value,
            Op::NotEqual => value != self.value,
            Op::AtLeast => value >= self.value,
            Op::AtMost => value <= self.value,
        }
    }
}

/// A test of a request head that someone else compiled (Envoy's `HeaderMatcher`).
pub trait HeaderTest: Send + Sync + fmt::Debug {
    /// The head passes.
    fn matches(&self, head: &Head) -> bool;
    /// The header it looks at, lower case: it is kept until the entry is written.
    fn header(&self) -> &str;
}

/// Which streams are written.
#[derive(Clone, Debug)]
pub enum Filter {
    /// By status; 0 when there was no response.
    Status(Comparison),
    /// By duration in milliseconds.
    Duration(Comparison),
    /// All but health checks.
    NotHealthCheck,
    /// With any of these flags; 0 is any flag at all.
    Flags(u64),
    /// By a request header.
    Header(Arc<dyn HeaderTest>),
    /// A share of all: `numerator` of `denominator`. By request id, so that all proxies on a
    /// request's way decide alike, unless `independent`.
    Sampled {
        /// Of so many.
        numerator: u32,
        /// 100, 10,000 or 1,000,000.
        denominator: u32,
        /// Draw lots instead.
        independent: bool,
    },
    /// All of them.
    And(Vec<Self>),
    /// Any of them.
    Or(Vec<Self>),
}

impl Filter {
    fn passes(&self, record: &Record<'_>, random: &mut u64) -> bool {
        match self {
            Self::Status(comparison) => comparison.holds(u64::from(record.status)),
            Self::Duration(comparison) => {
                comparison.holds(record.duration_us().unwrap_or(0) / 1000)
            }
            Self::NotHealthCheck => !record.health_check,
            Self::Flags(0) => record.flags != 0,
            Self::Flags(flags) => record.flags & flags != 0,
            Self::Header(test) => record.request.is_some_and(|head| test.matches(head)),
            Self::Sampled {
                numerator,
                denominator,
                independent,
            } => {
                let by_id = match independent {
                    true => None,
                    false => record
                        .request
                        .and_then(|head| head.get(b"x-request-id"))
                        .and_then(by_request_id),
                };
                let lot = by_id.unwrap_or_else(|| next_random(random));
                lot % u64::from((*denominator).max(1)) < u64::from(*numerator)
            }
            Self::And(filters) => filters.iter().all(|filter| filter.passes(record, random)),
            Self::Or(filters) => filters.iter().any(|filter| filter.passes(record, random)),
        }
    }

    fn add_keeps(&self, keeps: &mut Keeps) {
        match self {
            Self::Header(test) => keeps.add_request(test.header()),
            Self::Sampled {
                independent: false, ..
            } => keeps.add_request("x-request-id"),
            Self::And(filters) | Self::Or(filters) => {
                filters.iter().for_each(|filter| filter.add_keeps(keeps));
            }
            _ => {}
        }
    }
}

/// The first eight hexadecimal digits of a UUID.
fn by_request_id(id: &[u8]) -> Option<u64> {
    if id.len() != 36 {
        return None;
    }
    let digits = std::str::from_utf8(id.get(..8)?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

/// xorshift64*: good enough to draw lots.
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
}

/// One configured access log.
#[derive(Debug)]
pub struct AccessLog {
    filter: Option<Filter>,
    format: Format,
    target: LogTarget,
    keeps: Keeps,
}

impl AccessLog {
    /// A log of a filter, a compiled format and an open target.
    #[must_use]
    pub fn new(filter: Option<Filter>, format: Format, target: LogTarget) -> Self {
        let mut keeps = format.keeps();
        if let Some(filter) = &filter {
            filter.add_keeps(&mut keeps);
        }
        Self {
            filter,
            format,
            target,
            keeps,
        }
    }

    /// Which fields of heads are needed when the entry is written. What else is in a request head
    /// can be given back once it was forwarded.
    #[must_use]
    pub fn keeps(&self) -> &Keeps {
        &self.keeps
    }
}

/// A worker's way to the log thread.
#[derive(Debug)]
pub struct LogWriter {
    ring: ring::Writer,
    wake: Wake,
    recorder: Arc<Recorder>,
    stats: AccessLogStats,
    random: u64,
}

impl LogWriter {
    pub(super) fn new(
        ring: ring::Writer,
        wake: Wake,
        recorder: Arc<Recorder>,
        stats: AccessLogStats,
        seed: u64,
    ) -> Self {
        Self {
            ring,
            wake,
            recorder,
            stats,
            random: seed | 1,
        }
    }

    /// Writes an entry, when the log's filter lets it. Never blocks; an entry that finds no room is
    /// dropped and counted (`access_log.dropped`).
    pub fn write(&mut self, log: &AccessLog, record: &Record<'_>) {
        if let Some(filter) = &log.filter
            && !filter.passes(record, &mut self.random)
        {
            return;
        }
        // The wall clock need not be asked: an entry is written when its stream ends.
        let now_us = record.start_us + record.duration_us().unwrap_or(0);
        let mut entry = self.ring.entry();
        log.format.write(record, now_us, &mut entry);
        if entry.publish(log.target.number()) {
            self.recorder.inc(self.stats.written);
        } else {
            self.recorder.inc(self.stats.dropped);
        }
        self.wake
            .written(self.ring.used() >= self.ring.capacity() / 2);
    }
}

#[cfg(test)]
mod tests;
