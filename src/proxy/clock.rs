//! Wall-clock time on the worker, asked for once a second: the `date` field and log timestamps.
//!
//! Whoever makes the worker hands in how it is asked; nothing here asks the system.

use crate::text::{HTTP_DATE_LEN, http_date};

/// Gives microseconds since the Unix epoch.
pub type WallClock = fn() -> u64;

/// The wall clock as of some moment of the worker's clock.
#[derive(Debug)]
pub(super) struct Clock {
    ask: WallClock,
    /// Worker's clock at which the wall clock was read, ms.
    read_ms: u64,
    /// Wall clock then, µs since the epoch.
    wall_us: u64,
    /// The date text is of this second.
    second: u64,
    date: Option<[u8; HTTP_DATE_LEN]>,
}

impl Clock {
    pub(super) fn new(ask: WallClock) -> Self {
        Self {
            ask,
            read_ms: 0,
            wall_us: 0,
            second: 0,
            date: None,
        }
    }

    /// Microseconds since the Unix epoch at `now_ms` of the worker's clock.
    pub(super) fn wall_us(&mut self, now_ms: u64) -> u64 {
        if self.wall_us == 0 || now_ms.saturating_sub(self.read_ms) >= 1000 {
            self.wall_us = (self.ask)();
            self.read_ms = now_ms;
        }
        self.wall_us + now_ms.saturating_sub(self.read_ms) * 1000
    }

    /// The `date` field of this second (RFC 9110 section 6.6.1).
    pub(super) fn date(&mut self, now_ms: u64) -> [u8; HTTP_DATE_LEN] {
        let second = self.wall_us(now_ms) / 1_000_000;
        match self.date {
            Some(date) if second == self.second => date,
            _ => {
                let date = http_date(second as i64);
                self.second = second;
                self.date = Some(date);
                date
            }
        }
    }
}
