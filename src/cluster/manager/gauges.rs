//! What the manager shows of a cluster: members by health, and circuit breakers.

use std::sync::Arc;

use crate::cluster::breaker::{Breakers, Priority, Resource};
use crate::cluster::{Host, Thresholds, Usable};
use crate::telemetry::stats::{
    BreakerRemainingStats, BreakerStats, ClusterStats, Gauge, Names, Recorder,
};

/// What the membership gauges show, to change them by differences: clusters may share a stat name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Membership {
    total: i64,
    healthy: i64,
    degraded: i64,
    excluded: i64,
    max_weight: i64,
}

impl Membership {
    /// Counts these hosts and shows them.
    pub(super) fn show<'a>(
        &mut self,
        hosts: impl Iterator<Item = &'a Arc<Host>>,
        stats: &ClusterStats,
        recorder: &Recorder,
    ) {
        let mut new = Self::default();
        for host in hosts {
            new.total += 1;
            match host.usable() {
                Usable::Healthy => new.healthy += 1,
                Usable::Degraded => new.degraded += 1,
                Usable::Unhealthy => {}
            }
            new.excluded += i64::from(host.is_excluded());
            new.max_weight = new.max_weight.max(host.weight().into());
        }
        self.change_to(new, stats, recorder);
    }

    /// Takes back what is shown.
    pub(super) fn hide(&mut self, stats: &ClusterStats, recorder: &Recorder) {
        self.change_to(Self::default(), stats, recorder);
    }

    fn change_to(&mut self, new: Self, stats: &ClusterStats, recorder: &Recorder) {
        let shift = |gauge: Gauge, old: i64, new: i64| recorder.gauge(gauge, new - old);
        shift(stats.membership_total, self.total, new.total);
        shift(stats.membership_healthy, self.healthy, new.healthy);
        shift(stats.membership_degraded, self.degraded, new.degraded);
        shift(stats.membership_excluded, self.excluded, new.excluded);
        shift(stats.max_host_weight, self.max_weight, new.max_weight);
        *self = new;
    }
}

/// `circuit_breakers.<priority>.*` of a cluster.
#[derive(Debug)]
pub(super) struct BreakerGauges {
    open: [BreakerStats; 2],
    remaining: [BreakerRemainingStats; 2],
    /// The gauges of what remains were touched, so they are shown.
    tracked: [bool; 2],
}

impl BreakerGauges {
    /// Interns the names below `prefix` (`cluster.<name>.`).
    pub(super) fn new(names: &dyn Names, prefix: &str) -> Self {
        let prefix =
            Priority::ALL.map(|priority| format!("{prefix}circuit_breakers.{}.", priority.name()));
        Self {
            open: [
                BreakerStats::new(names, &prefix[0]),
                BreakerStats::new(names, &prefix[1]),
            ],
            remaining: [
                BreakerRemainingStats::new(names, &prefix[0]),
                BreakerRemainingStats::new(names, &prefix[1]),
            ],
            tracked: [false; 2],
        }
    }

    /// Sets them to what is the case now.
    pub(super) fn show(
        &mut self,
        breakers: &Breakers,
        thresholds: &[Thresholds; 2],
        recorder: &Recorder,
    ) {
        for priority in Priority::ALL {
            for resource in Resource::ALL {
                let open = !breakers.has_room(resource, priority, thresholds);
                recorder.set(self.open_gauge(resource, priority), i64::from(open));
            }
            let track = thresholds[priority as usize].track_remaining;
            let shown = &mut self.tracked[priority as usize];
            if !track && !*shown {
                continue;
            }
            *shown = track;
            for resource in Resource::ALL {
                let left = if track {
                    breakers.remaining(resource, priority, thresholds).into()
                } else {
                    0
                };
                recorder.set(self.remaining_gauge(resource, priority), left);
            }
        }
    }

    /// Sets them to zero.
    pub(super) fn hide(&self, recorder: &Recorder) {
        for priority in Priority::ALL {
            for resource in Resource::ALL {
                recorder.set(self.open_gauge(resource, priority), 0);
                if self.tracked[priority as usize] {
                    recorder.set(self.remaining_gauge(resource, priority), 0);
                }
            }
        }
    }

    fn open_gauge(&self, resource: Resource, priority: Priority) -> Gauge {
        let stats = &self.open[priority as usize];
        match resource {
            Resource::Connections => stats.cx_open,
            Resource::Pending => stats.rq_pending_open,
            Resource::Requests => stats.rq_open,
            Resource::Retries => stats.rq_retry_open,
        }
    }

    fn remaining_gauge(&self, resource: Resource, priority: Priority) -> Gauge {
        let stats = &self.remaining[priority as usize];
        match resource {
            Resource::Connections => stats.remaining_cx,
            Resource::Pending => stats.remaining_pending,
            Resource::Requests => stats.remaining_rq,
            Resource::Retries => stats.remaining_retries,
        }
    }
}
