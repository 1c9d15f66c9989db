//! The process clock: microseconds that never go back, counted from one common start.
//!
//! Every worker and control thread holds a copy of the same [`Clock`], so times may be compared across
//! threads. It must never follow the wall clock.

use std::time::Instant;

/// CLOCK_MONOTONIC, counted from when the process made its clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now. One per process, copied to every thread.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Microseconds since the start.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        // 2^64 µs are 584,000 years.
        self.start.elapsed().as_micros() as u64
    }
}
