//! What the workers of a hold count, and how the main thread gets to see it.

use std::sync::Mutex;

use serde::Serialize;

use crate::histogram::Latencies;
use crate::run::tally::Errors;

/// Numbers of one worker, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Connections that are open now.
    pub connected: u64,
    /// Connections whose first attempt has ended, one way or the other.
    pub settled: u64,
    /// Attempts to connect, or to subscribe, that failed.
    pub failed: u64,
    /// Open connections that were lost.
    pub dropped: u64,
    /// Connections that came back after they were lost or had failed.
    pub reconnected: u64,
    /// Messages sent.
    pub messages: u64,
    /// Messages that were answered.
    pub answers: u64,
    /// Server-sent events received.
    pub events: u64,
    /// Failures of connections and messages, by kind.
    pub errors: Errors,
}

impl Counts {
    /// Adds those of another worker.
    pub fn add(&mut self, other: &Self) {
        self.connected += other.connected;
        self.settled += other.settled;
        self.failed += other.failed;
        self.dropped += other.dropped;
        self.reconnected += other.reconnected;
        self.messages += other.messages;
        self.answers += other.answers;
        self.events += other.events;
        self.errors.add(other.errors);
    }
}

/// Where a worker puts its numbers.
#[derive(Debug)]
pub struct Board(Mutex<Published>);

#[derive(Debug)]
struct Published {
    counts: Counts,
    latencies: Latencies,
}

impl Default for Board {
    fn default() -> Self {
        Self(Mutex::new(Published {
            counts: Counts::default(),
            latencies: Latencies::fine(),
        }))
    }
}

impl Board {
    /// Publishes, and clears `latencies`. When the main thread is just reading, nothing happens
    /// unless `last`: a worker does not wait, it comes again soon.
    pub fn publish(&self, counts: &Counts, latencies: &mut Latencies, last: bool) {
        let published = if last {
            self.0.lock().ok()
        } else {
            self.0.try_lock().ok()
        };
        if let Some(mut published) = published {
            published.counts = *counts;
            published.latencies.add(latencies);
            latencies.clear();
        }
    }

    /// Adds the numbers to `counts`, and to `latencies` what was recorded since the last time.
    pub fn collect(&self, counts: &mut Counts, latencies: &mut Latencies) {
        if let Ok(mut published) = self.0.lock() {
            counts.add(&published.counts);
            latencies.add(&published.latencies);
            published.latencies.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_replaced_and_latencies_are_handed_over() {
        let board = Board::default();
        let mut mine = Latencies::fine();
        let mut counts = Counts::default();
        for round in 1..=3 {
            counts.answers += 1;
            mine.record(round * 100);
            board.publish(&counts, &mut mine, round == 3);
        }
        assert_eq!(mine.count(), 0);
        let mut all = Counts::default();
        let mut latencies = Latencies::fine();
        board.collect(&mut all, &mut latencies);
        assert_eq!((all.answers, latencies.count()), (3, 3));
        let mut again = Latencies::fine();
        board.collect(&mut all, &mut again);
        assert_eq!((all.answers, again.count()), (6, 0));
    }
}
