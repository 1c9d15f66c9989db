//! When a worker of `run` starts requests, and when it stops: one for all that it connects with.

use std::collections::VecDeque;
use std::io;

use moorgate::engine::core::Core;
use moorgate::engine::reactor::Interest;
use moorgate::engine::reactor::epoll::Epoll;
use moorgate::engine::slab::Key;

use super::orders::{NoFacts, Orders};
use crate::pacer::{Alarm, Pacer};
use crate::signal;

/// Milliseconds before a connection is tried again that was refused, or lost before any answer.
const RETRY_MS: u64 = 100;
/// Milliseconds between looks at the clock and the stop flag.
const TICK_MS: u64 = 100;
/// Number of the alarm among the residents.
pub(super) const ALARM: u32 = u32::MAX;

/// What whoever has nothing to do is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Start a request, which was to start then.
    Start { intended_us: u64 },
    /// Open loop: nothing is due. The alarm is set.
    Wait,
    /// Nothing new is sent any more.
    Over,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Schedule {
    quota: Option<u64>,
    pacer: Option<Pacer>,
    end_us: Option<u64>,
    alarm: Option<(Alarm, Key)>,
    alarm_us: u64,
    /// Connections to be tried again, by time.
    retries: VecDeque<(u64, u32)>,
    next_tick_ms: u64,
    stopped_us: Option<u64>,
}

impl Schedule {
    /// # Errors
    /// No descriptor for the alarm.
    pub(super) fn new(orders: &Orders, core: &mut Core<Epoll, NoFacts>) -> io::Result<Self> {
        let alarm = match orders.pacer {
            Some(_) => {
                let alarm = Alarm::new()?;
                let key = core.open(alarm.sock(), ALARM, Interest::Edge { write: false })?;
                Some((alarm, key))
            }
            None => None,
        };
        Ok(Self {
            quota: orders.quota,
            pacer: orders.pacer,
            end_us: orders.end_us,
            alarm,
            alarm_us: u64::MAX,
            retries: VecDeque::new(),
            next_tick_ms: 0,
            stopped_us: None,
        })
    }

    /// Nothing new is sent any more.
    pub(super) fn is_over(&self) -> bool {
        self.stopped_us.is_some()
    }

    /// The end was a time, so that answers may come after it.
    pub(super) fn is_over_by_time(&self) -> bool {
        self.stopped_us.is_some() && self.quota.is_none()
    }

    /// Looks whether it is over.
    #[inline]
    pub(super) fn check(&mut self, now_us: u64) -> bool {
        if self.stopped_us.is_none()
            && (self.quota == Some(0) || self.end_us.is_some_and(|end_us| now_us >= end_us))
        {
            self.stopped_us = Some(self.end_us.map_or(now_us, |end_us| end_us.min(now_us)));
        }
        self.is_over()
    }

    /// What to do next. A start is to be followed by [`started`](Self::started).
    #[inline]
    pub(super) fn next(&mut self, now_us: u64) -> Next {
        if self.check(now_us) {
            return Next::Over;
        }
        let Some(pacer) = &mut self.pacer else {
            return Next::Start {
                intended_us: now_us,
            };
        };
        let due_us = pacer.next_us();
        if due_us <= now_us {
            pacer.advance();
            return Next::Start {
                intended_us: due_us,
            };
        }
        if let Some((alarm, _)) = &self.alarm
            && self.alarm_us != due_us
        {
            self.alarm_us = due_us;
            alarm.set(due_us.saturating_sub(now_us));
        }
        Next::Wait
    }

    /// A request was started.
    #[inline]
    pub(super) fn started(&mut self) {
        if let Some(quota) = &mut self.quota {
            *quota -= 1;
        }
    }

    /// A connection did not come about, which stands for a request that could not even be started.
    pub(super) fn gave_up(&mut self) {
        if let Some(quota) = &mut self.quota {
            *quota = quota.saturating_sub(1);
        }
    }

    /// The alarm went off.
    pub(super) fn alarmed(&mut self) {
        self.alarm_us = u64::MAX;
    }

    /// A connection is to be tried again, a little later.
    pub(super) fn retry(&mut self, now_ms: u64, number: u32) {
        self.retries.push_back((now_ms + RETRY_MS, number));
    }

    /// One whose time has come.
    pub(super) fn due_retry(&mut self, now_ms: u64) -> Option<u32> {
        let &(due_ms, number) = self.retries.front()?;
        (due_ms <= now_ms).then(|| {
            self.retries.pop_front();
            number
        })
    }

    /// Looks at the stop flag now and then; gives the time to come again.
    pub(super) fn tick(&mut self, core: &Core<Epoll, NoFacts>) -> u64 {
        let now_ms = core.now();
        if now_ms >= self.next_tick_ms {
            self.next_tick_ms = now_ms + TICK_MS;
            if let Some(end_us) = self.end_us {
                let end_ms = end_us.div_ceil(1000);
                if end_ms > now_ms {
                    self.next_tick_ms = self.next_tick_ms.min(end_ms);
                }
            }
            if signal::stopped() && self.stopped_us.is_none() {
                self.stopped_us = Some(moorgate::engine::reactor::Reactor::clock_us(&core.reactor));
            }
        }
        let due_ms = self.retries.front().map(|&(due_ms, _)| due_ms);
        due_ms.map_or(self.next_tick_ms, |due_ms| due_ms.min(self.next_tick_ms))
    }

    /// Everything has ended: when nothing was sent any more, and how many were due and not sent.
    pub(super) fn finish(&mut self, core: &mut Core<Epoll, NoFacts>) -> (u64, u64) {
        if let Some((alarm, key)) = self.alarm.take() {
            core.close(key, alarm.sock(), false);
        }
        let stopped_us = self.stopped_us.unwrap_or(0);
        let unsent = match (&self.pacer, self.quota) {
            (Some(pacer), None) => pacer.missed(stopped_us),
            _ => 0,
        };
        (stopped_us, unsent)
    }
}
