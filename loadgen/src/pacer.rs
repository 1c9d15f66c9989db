//! When the requests of an open loop are due.
//!
//! The intended starts are fixed in advance and evenly spaced over all threads; they never wait for
//! answers. A timer descriptor wakes the worker for the next one, since the engine's own timers count
//! milliseconds.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use moorgate::engine::reactor::Sock;

/// Intended starts of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    start_us: u64,
    /// Microseconds between two starts of this thread.
    gap_us: f64,
    /// Of the first one.
    offset_us: f64,
    next: u64,
}

impl Pacer {
    /// `rate` starts in a second over all `threads`, of which this one is number `thread`.
    #[must_use]
    pub fn new(rate: f64, threads: usize, thread: usize, start_us: u64) -> Self {
        let gap_us = 1e6 / rate;
        #[allow(clippy::cast_precision_loss)] // Few threads.
        let (threads, thread) = (threads as f64, thread as f64);
        Self {
            start_us,
            gap_us: gap_us * threads,
            offset_us: gap_us * thread,
            next: 0,
        }
    }

    /// When the next request is to start.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // Positive, and far below 2^52 microseconds.
    pub fn next_us(&self) -> u64 {
        self.start_us + (self.offset_us + self.next as f64 * self.gap_us) as u64
    }

    /// The next request was started.
    pub fn advance(&mut self) {
        self.next += 1;
    }

    /// How many starts before `end_us` have not been taken.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // Positive, and far below 2^52 microseconds.
    pub fn missed(&self, end_us: u64) -> u64 {
        let span = end_us.saturating_sub(self.start_us) as f64 - self.offset_us;
        let due = (span / self.gap_us).ceil().max(0.0) as u64;
        due.saturating_sub(self.next)
    }
}

/// A timer that makes its descriptor readable. It is registered edge-triggered and never read: each
/// expiry is an edge.
#[derive(Debug)]
pub struct Alarm {
    sock: Sock,
}

impl Alarm {
    /// A timer that is not set. The descriptor belongs to the reactor, which closes it.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new() -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: timerfd_create has just made this descriptor; nobody else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        debug_assert!(fd.as_raw_fd() >= 0);
        Ok(Self {
            sock: Sock(fd.into_raw_fd()),
        })
    }

    /// The descriptor, to be registered.
    #[must_use]
    pub fn sock(&self) -> Sock {
        self.sock
    }

    /// Goes off in `us` microseconds, at least one. A later call replaces the earlier.
    pub fn set(&self, us: u64) {
        let us = us.max(1);
        #[allow(clippy::cast_possible_wrap)] // 2^63 seconds do not come.
        let value = libc::timespec {
            tv_sec: (us / 1_000_000) as libc::time_t,
            tv_nsec: (us % 1_000_000 * 1000) as libc::c_long,
        };
        let spec = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: value,
        };
        // SAFETY: the descriptor is open while its worker is, `spec` is ours, no old value is asked for.
        let done =
            unsafe { libc::timerfd_settime(self.sock.0, 0, &raw const spec, std::ptr::null_mut()) };
        debug_assert_eq!(done, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_interleave_evenly() {
        let mut all: Vec<u64> = (0..3)
            .flat_map(|thread| {
                let mut pacer = Pacer::new(1000.0, 3, thread, 5000);
                (0..10).map(move |_| {
                    let us = pacer.next_us();
                    pacer.advance();
                    us
                })
            })
            .collect();
        all.sort_unstable();
        let expected: Vec<u64> = (0..30).map(|i| 5000 + i * 1000).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn what_was_due_and_not_started_is_missed() {
        let mut pacer = Pacer::new(100.0, 1, 0, 0);
        assert_eq!(pacer.missed(1_000_000), 100);
        assert_eq!(pacer.missed(0), 0);
        (0..40).for_each(|_| pacer.advance());
        assert_eq!(pacer.missed(1_000_000), 60);
        assert_eq!(pacer.missed(1_000_001), 61);
        assert_eq!(pacer.missed(200_000), 0);
    }
}
