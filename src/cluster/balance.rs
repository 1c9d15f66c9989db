//! Choosing a host: one worker's balancing state of one cluster.
//!
//! A [`Balancer`] keeps indices into the cluster's host set, never hosts: it pins nothing. It is
//! rebuilt when the host set, a weight or a health flag changed, which one load per pick tells. A
//! pick must never lock, allocate, or look at every host: it costs a few loads, and the logarithm of
//! the number of hosts where their weights differ.
//!
//! Priorities, degraded hosts, overprovisioning and panic follow Envoy's documented arithmetic.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{BalancerKind, Cluster, ClusterConfig, Host, HostId, HostSet, Usable};

/// Outcome of a pick.
#[derive(Clone, Copy, Debug)]
pub enum Pick<'a> {
    /// Use this host.
    Host(&'a Arc<Host>),
    /// There is none that may be used.
    NoHost,
}

impl<'a> Pick<'a> {
    /// The host, if there is one.
    #[must_use]
    pub fn host(self) -> Option<&'a Arc<Host>> {
        match self {
            Self::Host(host) => Some(host),
            Self::NoHost => None,
        }
    }
}

/// One worker's balancing state of one cluster.
#[derive(Debug, Default)]
pub struct Balancer {
    /// Host set and change of health that the rest was built for.
    built_for: Option<(u64, u64)>,
    levels: Vec<Level>,
    /// The only priority and list with load, when there is just one: no dice needed.
    only: Option<(usize, Choice)>,
    panic: bool,
}

/// One priority.
#[derive(Debug, Default)]
struct Level {
    healthy: List,
    degraded: List,
    /// Filled in panic only.
    all: List,
    healthy_load: u32,
    degraded_load: u32,
    panic: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Healthy,
    Degraded,
}

/// Hosts of one priority among which a policy chooses, by index in the host set.
#[derive(Debug, Default)]
struct List {
    hosts: Vec<u32>,
    /// Next index for unweighted round robin; survives rebuilds.
    next: usize,
    /// Earliest deadline first, when weights differ.
    schedule: BinaryHeap<Entry>,
    started: bool,
}

/// A host in the schedule of its list.
#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline: f64,
    host: u32,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest deadline is the greatest, for a heap that gives its maximum.
    fn cmp(&self, other: &Self) -> Order {
        other
            .deadline
            .total_cmp(&self.deadline)
            .then(other.host.cmp(&self.host))
    }
}

impl Balancer {
    /// State that is built at the first pick.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The last pick ignored health because too few hosts are healthy: counted as
    /// `lb_healthy_panic`.
    #[must_use]
    pub fn in_panic(&self) -> bool {
        self.panic
    }

    /// Chooses a host. Hosts in `exclude` (those already tried) are avoided with up to twice as many
    /// further picks, and at least one.
    pub fn pick<'a>(
        &mut self,
        cluster: &'a Cluster,
        random: impl FnMut() -> u64,
        exclude: &[HostId],
    ) -> Pick<'a> {
        let attempts = 2 * u32::try_from(exclude.len()).unwrap_or(u32::MAX / 2);
        self.pick_avoiding(cluster, random, exclude, attempts)
    }

    /// Chooses a host, picking again up to `attempts` times while the outcome is in `exclude`; the
    /// last pick stands whatever it is (Envoy's `host_selection_retry_max_attempts`).
    pub fn pick_avoiding<'a>(
        &mut self,
        cluster: &'a Cluster,
        mut random: impl FnMut() -> u64,
        exclude: &[HostId],
        attempts: u32,
    ) -> Pick<'a> {
        self.refresh(&cluster.hosts, &cluster.config, &mut random);
        let mut left = attempts;
        loop {
            let Some(host) = self.pick_one(&cluster.hosts, &cluster.config, &mut random) else {
                return Pick::NoHost;
            };
            if left == 0 || !exclude.contains(&host.id) {
                return Pick::Host(host);
            }
            left -= 1;
        }
    }

    fn refresh(&mut self, set: &HostSet, config: &ClusterConfig, random: &mut impl FnMut() -> u64) {
        let now = (set.version(), set.epoch().get());
        if self.built_for == Some(now) {
            return;
        }
        self.built_for = Some(now);
        self.levels
            .resize_with(set.priorities.len(), Level::default);
        let mut health = Vec::with_capacity(set.priorities.len());
        for (level, hosts) in self.levels.iter_mut().zip(&set.priorities) {
            health.push(level.sort(hosts, config));
        }
        self.share_load(&health, config);
        for (level, hosts) in self.levels.iter_mut().zip(&set.priorities) {
            level.all.hosts.clear();
            if level.panic {
                level.all.hosts.extend(0..hosts.len() as u32);
            }
            for list in [&mut level.healthy, &mut level.degraded, &mut level.all] {
                list.plan(hosts, config.balancer, random);
            }
        }
        let loaded = |level: &Level| level.healthy_load == 100 || level.degraded_load == 100;
        self.only = self.levels.iter().position(loaded).map(|priority| {
            let healthy = self.levels[priority].healthy_load == 100;
            let choice = if healthy {
                Choice::Healthy
            } else {
                Choice::Degraded
            };
            (priority, choice)
        });
    }

    /// Gives each priority its share of 100 per cent, and decides on panic.
    fn share_load(&mut self, health: &[Health], config: &ClusterConfig) {
        for level in &mut self.levels {
            level.healthy_load = 0;
            level.degraded_load = 0;
            level.panic = false;
        }
        let sum: u32 = health.iter().map(|part| part.healthy + part.degraded).sum();
        let total = sum.min(100);
        let share = |part: u32| (part * 100).checked_div(total).unwrap_or(0);
        let mut left = 100;
        for (level, part) in self.levels.iter_mut().zip(health) {
            level.healthy_load = left.min(share(part.healthy));
            left -= level.healthy_load;
        }
        for (level, part) in self.levels.iter_mut().zip(health) {
            level.degraded_load = left.min(share(part.degraded));
            left -= level.degraded_load;
        }
        // What rounding left over goes to the first priority that can take it.
        if let Some(first) = health.iter().position(|part| part.healthy > 0) {
            self.levels[first].healthy_load += left;
        } else if let Some(first) = health.iter().position(|part| part.degraded > 0) {
            self.levels[first].degraded_load += left;
        }
        if config.panic_threshold == 0 && total == 0 {
            // No panic allowed: the first priority's healthy hosts, if it has any at all.
            if let Some(first) = self.levels.first_mut() {
                first.healthy_load = 100;
            }
            return;
        }
        if total < 100 {
            for (level, part) in self.levels.iter_mut().zip(health) {
                level.panic = part.in_panic(config.panic_threshold);
            }
        }
        if self.levels.iter().all(|level| level.panic) {
            self.share_load_in_total_panic(health);
        }
    }

    /// Every priority is in panic: load goes by the number of hosts, whatever their health.
    fn share_load_in_total_panic(&mut self, health: &[Health]) {
        let total: u64 = health.iter().map(|part| part.hosts).sum();
        if total == 0 {
            return;
        }
        let mut left = 100;
        for (level, part) in self.levels.iter_mut().zip(health) {
            level.healthy_load = (100 * part.hosts / total) as u32;
            level.degraded_load = 0;
            left -= level.healthy_load;
        }
        if let Some(first) = health.iter().position(|part| part.hosts > 0) {
            self.levels[first].healthy_load += left;
        }
    }

    fn choose(&self, random: &mut impl FnMut() -> u64) -> Option<(usize, Choice)> {
        if self.only.is_some() {
            return self.only;
        }
        let dice = (random() % 100) as u32;
        let mut reached = 0;
        for (priority, level) in self.levels.iter().enumerate() {
            reached += level.healthy_load;
            if dice < reached {
                return Some((priority, Choice::Healthy));
            }
        }
        for (priority, level) in self.levels.iter().enumerate() {
            reached += level.degraded_load;
            if dice < reached {
                return Some((priority, Choice::Degraded));
            }
        }
        None
    }

    fn pick_one<'a>(
        &mut self,
        set: &'a HostSet,
        config: &ClusterConfig,
        random: &mut impl FnMut() -> u64,
    ) -> Option<&'a Arc<Host>> {
        self.panic = false;
        let (priority, choice) = self.choose(random)?;
        let hosts = set.priorities.get(priority)?;
        let level = self.levels.get_mut(priority)?;
        let list = if level.panic {
            self.panic = true;
            if config.fail_traffic_on_panic {
                return None;
            }
            &mut level.all
        } else {
            match choice {
                Choice::Healthy => &mut level.healthy,
                Choice::Degraded => &mut level.degraded,
            }
        };
        list.pick(hosts, config.balancer, random)
    }
}

/// Health of one priority, in per cent of its hosts times overprovisioning, at most 100.
#[derive(Clone, Copy, Debug, Default)]
struct Health {
    healthy: u32,
    degraded: u32,
    usable: u64,
    counted: u64,
    hosts: u64,
}

impl Health {
    fn in_panic(self, threshold: u32) -> bool {
        // usable / counted < threshold / 100, where no hosts count as none usable.
        if self.counted == 0 {
            return threshold > 0;
        }
        self.usable * 100 < u64::from(threshold.min(100)) * self.counted
    }
}

impl Level {
    /// Sorts the hosts into the lists of healthy and degraded ones.
    fn sort(&mut self, hosts: &[Arc<Host>], config: &ClusterConfig) -> Health {
        self.healthy.hosts.clear();
        self.degraded.hosts.clear();
        let mut excluded = 0;
        for (index, host) in hosts.iter().enumerate() {
            let index = index as u32;
            match host.usable() {
                Usable::Healthy => self.healthy.hosts.push(index),
                Usable::Degraded => self.degraded.hosts.push(index),
                Usable::Unhealthy => {}
            }
            if host.is_excluded() {
                excluded += 1;
            }
        }
        let (healthy, degraded) = (
            self.healthy.hosts.len() as u64,
            self.degraded.hosts.len() as u64,
        );
        let counted = hosts.len() as u64 - excluded;
        let share = |count: u64| {
            (count * u64::from(config.overprovisioning))
                .checked_div(counted)
                .map_or(0, |share| share.min(100) as u32)
        };
        Health {
            healthy: share(healthy),
            degraded: share(degraded),
            usable: healthy + degraded,
            counted,
            hosts: hosts.len() as u64,
        }
    }
}

impl List {
    /// Makes the schedule, when the policy wants one for these hosts.
    fn plan(&mut self, hosts: &[Arc<Host>], kind: BalancerKind, random: &mut impl FnMut() -> u64) {
        self.schedule.clear();
        if self.hosts.is_empty() {
            return;
        }
        if !self.started {
            // Workers must not all begin with the same host.
            self.started = true;
            self.next = below(random(), self.hosts.len());
        }
        let weight = |index: u32| hosts.get(index as usize).map_or(1, |host| host.weight());
        let first = weight(self.hosts[0]);
        if kind == BalancerKind::Random || self.hosts.iter().all(|host| weight(*host) == first) {
            return;
        }
        let hosts = self.hosts.iter().map(|&host| Entry {
            // A random phase for each host instead of the end of its first period.
            deadline: unit(random()) / f64::from(weight(host)),
            host,
        });
        self.schedule.extend(hosts);
    }

    fn pick<'a>(
        &mut self,
        hosts: &'a [Arc<Host>],
        kind: BalancerKind,
        random: &mut impl FnMut() -> u64,
    ) -> Option<&'a Arc<Host>> {
        if !self.schedule.is_empty() {
            return self.pick_scheduled(hosts, kind);
        }
        let count = self.hosts.len();
        let at = |index: usize| {
            let host = *self.hosts.get(index)?;
            hosts.get(host as usize)
        };
        match kind {
            BalancerKind::RoundRobin => {
                let index = if self.next < count { self.next } else { 0 };
                let host = at(index);
                self.next = index + 1;
                host
            }
            BalancerKind::Random => match count {
                0 => None,
                1 => at(0),
                _ => at(below(random(), count)),
            },
            BalancerKind::LeastRequest { choices } => {
                if count < 2 {
                    return at(0);
                }
                let mut best: Option<(u32, &Arc<Host>)> = None;
                for _ in 0..choices.max(1) {
                    let host = at(below(random(), count))?;
                    let active = host.active_requests.load(Ordering::Relaxed);
                    if best.is_none_or(|(least, _)| active < least) {
                        best = Some((active, host));
                    }
                }
                best.map(|(_, host)| host)
            }
        }
    }

    /// The host whose turn comes first; it comes again after a time that is inverse to its weight
    /// (for least-request: to its weight divided by what it is doing already).
    fn pick_scheduled<'a>(
        &mut self,
        hosts: &'a [Arc<Host>],
        kind: BalancerKind,
    ) -> Option<&'a Arc<Host>> {
        let mut entry = self.schedule.peek_mut()?;
        let host = hosts.get(entry.host as usize)?;
        let mut weight = f64::from(host.weight());
        if let BalancerKind::LeastRequest { .. } = kind {
            weight /= f64::from(host.active_requests.load(Ordering::Relaxed)) + 1.0;
        }
        entry.deadline += 1.0 / weight;
        // Sifts the entry to its new place.
        drop::<PeekMut<'_, _>>(entry);
        Some(host)
    }
}

/// A number below `count` from 64 random bits, without division.
fn below(random: u64, count: usize) -> usize {
    ((u128::from(random) * count as u128) >> 64) as usize
}

/// A number in [0, 1) from 64 random bits.
fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
