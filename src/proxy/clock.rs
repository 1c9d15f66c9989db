//! Wall-clock time on the worker, made once a second: the `date` field and log timestamps.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::text::{HTTP_DATE_LEN, http_date};

/// The wall clock as of some moment of the worker's clock.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Worker's clock at which the wall clock was read, ms.
    read_ms: u64,
    /// Wall clock then, µs since the epoch.
    wall_us: u64,
    /// The date text is of this second.
    second: u64,
    date: Option<[u8; HTTP_DATE_LEN]>,
}

impl Clock {
    /// Microseconds since the Unix epoch at `now_ms` of the worker's clock.
    pub(super) fn wall_us(&mut self, now_ms: u64) -> u64 {
        if self.wall_us == 0 || now_ms.saturating_sub(self.read_ms) >= 1000 {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            self.wall_us = since.as_micros() as u64;
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
