//! What one worker counts, and how workers add up.

use moorgate::tls::{Agreed, TlsError, suite_name};
use serde::Serialize;

use crate::histogram::Latencies;
use crate::reader::Failure;

/// Failed exchanges by kind. `status` and `grpc` are answers too: they are in the latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// No connection came about.
    pub connect: u64,
    /// The handshake of TLS failed, or agreed on another protocol.
    pub tls: u64,
    /// No answer, or no connection, in time.
    pub timeout: u64,
    /// The connection ended before the answer was complete.
    pub reset: u64,
    /// The stream was reset (RST_STREAM).
    pub rst: u64,
    /// The server left before it looked at the stream (GOAWAY).
    pub goaway: u64,
    /// Answered with a status of gRPC other than 0.
    pub grpc: u64,
    /// Answered with a status of 400 and above.
    pub status: u64,
    /// What came was not an answer.
    pub protocol: u64,
}

impl Errors {
    /// One more.
    pub fn count(&mut self, failure: Failure) {
        match failure {
            Failure::Connect => self.connect += 1,
            Failure::Tls => self.tls += 1,
            Failure::Timeout => self.timeout += 1,
            Failure::Reset => self.reset += 1,
            Failure::StreamReset => self.rst += 1,
            Failure::GoAway => self.goaway += 1,
            Failure::Protocol => self.protocol += 1,
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_kind().iter().map(|(_, number)| number).sum()
    }

    /// Kinds by name.
    #[must_use]
    pub fn by_kind(&self) -> [(&'static str, u64); 9] {
        [
            ("connect", self.connect),
            ("tls", self.tls),
            ("timeout", self.timeout),
            ("reset", self.reset),
            ("rst", self.rst),
            ("goaway", self.goaway),
            ("grpc", self.grpc),
            ("status", self.status),
            ("protocol", self.protocol),
        ]
    }

    /// Adds those of another worker.
    pub fn add(&mut self, other: Self) {
        self.connect += other.connect;
        self.tls += other.tls;
        self.timeout += other.timeout;
        self.reset += other.reset;
        self.rst += other.rst;
        self.goaway += other.goaway;
        self.grpc += other.grpc;
        self.status += other.status;
        self.protocol += other.protocol;
    }
}

/// Handshakes of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Handshakes {
    /// With a certificate and its signature.
    pub full: u64,
    /// Those that continued an earlier session.
    pub resumed: u64,
    /// Version that was agreed on first.
    pub version: &'static str,
    /// Cipher suite that was agreed on first, as OpenSSL names it.
    pub suite: &'static str,
    /// Protocol that was agreed on first.
    pub alpn: String,
    /// Why the first failed that failed, where that is known.
    pub refused: Option<String>,
}

impl Handshakes {
    fn count(&mut self, agreed: &Agreed) {
        if self.full + self.resumed == 0 {
            self.version = agreed.version_name();
            self.suite = suite_name(agreed.suite);
            let alpn = agreed.alpn.as_deref().unwrap_or_default();
            self.alpn = String::from_utf8_lossy(alpn).into_owned();
        }
        if agreed.resumed {
            self.resumed += 1;
        } else {
            self.full += 1;
        }
    }

    fn add(&mut self, other: &Self) {
        self.full += other.full;
        self.resumed += other.resumed;
        if !other.version.is_empty() {
            (self.version, self.suite) = (other.version, other.suite);
            self.alpn.clone_from(&other.alpn);
        }
        if self.refused.is_none() {
            self.refused.clone_from(&other.refused);
        }
    }
}

/// One interval of the run.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Answers that came in it.
    pub answers: u64,
    /// Errors in it.
    pub errors: u64,
    /// Latencies of the answers.
    pub latencies: Latencies,
}

impl Interval {
    fn new() -> Self {
        Self {
            answers: 0,
            errors: 0,
            latencies: Latencies::coarse(),
        }
    }
}

/// Everything that one worker counts.
#[derive(Debug)]
pub struct Tally {
    /// Complete answers.
    pub answers: u64,
    /// Errors.
    pub errors: Errors,
    /// Connections that came about.
    pub connects: u64,
    /// Their handshakes.
    pub handshakes: Handshakes,
    /// Bytes received, as they are without TLS.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Answers that came after the end of the run; they are in `answers` too.
    pub late: u64,
    /// Due in an open loop and never sent.
    pub unsent: u64,
    /// From when a request was to start.
    pub latency: Latencies,
    /// From when it was sent; only where that may differ (open loop).
    pub service: Option<Latencies>,
    /// When the last answer came.
    pub last_us: u64,
    /// From when on nothing new was sent.
    pub stopped_us: u64,
    /// The run in time.
    pub series: Vec<Interval>,
    start_us: u64,
    interval_us: u64,
}

impl Tally {
    /// Nothing yet. Intervals of `interval_us` are counted from `start_us`.
    #[must_use]
    pub fn new(start_us: u64, interval_us: u64, open_loop: bool) -> Self {
        Self {
            answers: 0,
            errors: Errors::default(),
            connects: 0,
            handshakes: Handshakes::default(),
            bytes_in: 0,
            bytes_out: 0,
            late: 0,
            unsent: 0,
            latency: Latencies::fine(),
            service: open_loop.then(Latencies::fine),
            last_us: start_us,
            stopped_us: start_us,
            series: Vec::new(),
            start_us,
            interval_us: interval_us.max(1),
        }
    }

    /// An answer came, to a request that was to start at `intended_us` and was sent at `sent_us`.
    #[inline]
    pub fn answer(&mut self, status: u16, intended_us: u64, sent_us: u64, now_us: u64) {
        let latency = now_us.saturating_sub(intended_us);
        self.answers += 1;
        self.last_us = now_us;
        self.latency.record(latency);
        if let Some(service) = &mut self.service {
            service.record(now_us.saturating_sub(sent_us));
        }
        let failed = status >= 400;
        self.errors.status += u64::from(failed);
        let interval = self.interval(now_us);
        interval.answers += 1;
        interval.errors += u64::from(failed);
        interval.latencies.record(latency);
    }

    /// The answer that was counted last had a status of gRPC other than 0.
    pub fn grpc_failed(&mut self, now_us: u64) {
        self.errors.grpc += 1;
        self.interval(now_us).errors += 1;
    }

    /// A connection speaks TLS.
    pub fn shook_hands(&mut self, agreed: &Agreed) {
        self.handshakes.count(agreed);
    }

    /// A handshake failed; why, where that is known.
    pub fn shook_no_hands(&mut self, error: Option<TlsError>) {
        let refused = &mut self.handshakes.refused;
        *refused = refused.take().or_else(|| Some(error?.to_string()));
    }

    /// An exchange failed.
    pub fn failure(&mut self, failure: Failure, now_us: u64) {
        self.errors.count(failure);
        self.interval(now_us).errors += 1;
    }

    #[inline]
    fn interval(&mut self, now_us: u64) -> &mut Interval {
        let at = (now_us.saturating_sub(self.start_us) / self.interval_us) as usize;
        // A run longer than planned does not grow without bound: the last interval takes the rest.
        let at = at.min(MAX_INTERVALS - 1);
        while self.series.len() <= at {
            self.series.push(Interval::new());
        }
        &mut self.series[at]
    }

    /// Adds what another worker of the same run counted.
    pub fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.errors.add(other.errors);
        self.connects += other.connects;
        self.handshakes.add(&other.handshakes);
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.late += other.late;
        self.unsent += other.unsent;
        self.latency.add(&other.latency);
        if let (Some(mine), Some(theirs)) = (&mut self.service, &other.service) {
            mine.add(theirs);
        }
        self.last_us = self.last_us.max(other.last_us);
        self.stopped_us = self.stopped_us.max(other.stopped_us);
        while self.series.len() < other.series.len() {
            self.series.push(Interval::new());
        }
        for (mine, theirs) in self.series.iter_mut().zip(&other.series) {
            mine.answers += theirs.answers;
            mine.errors += theirs.errors;
            mine.latencies.add(&theirs.latencies);
        }
    }
}

/// Most intervals of a run.
const MAX_INTERVALS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_failures_by_interval() {
        let mut tally = Tally::new(1000, 100, true);
        tally.answer(200, 1000, 1010, 1050);
        tally.answer(500, 1000, 1010, 1250);
        tally.failure(Failure::Timeout, 1260);
        assert_eq!(tally.answers, 2);
        assert_eq!((tally.errors.status, tally.errors.timeout), (1, 1));
        assert_eq!(tally.errors.total(), 2);
        let counts: Vec<_> = tally.series.iter().map(|i| (i.answers, i.errors)).collect();
        assert_eq!(counts, [(1, 0), (0, 0), (1, 2)]);
        assert_eq!(tally.latency.max(), 250);
        assert_eq!(tally.service.as_ref().map(Latencies::max), Some(240));
    }

    #[test]
    fn workers_add_up() {
        let mut a = Tally::new(0, 100, false);
        let mut b = Tally::new(0, 100, false);
        a.answer(200, 0, 0, 50);
        b.answer(0, 0, 0, 150);
        b.failure(Failure::Reset, 10);
        a.add(&b);
        assert_eq!((a.answers, a.errors.reset, a.last_us), (2, 1, 150));
        assert_eq!(a.series.len(), 2);
        assert_eq!((a.series[0].errors, a.series[1].answers), (1, 1));
    }

    #[test]
    fn intervals_are_bounded() {
        let mut tally = Tally::new(0, 1, false);
        tally.answer(200, 0, 0, u64::MAX);
        assert_eq!(tally.series.len(), MAX_INTERVALS);
    }
}
