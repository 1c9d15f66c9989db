//! What was published to the workers, and what of it is still alive.
//!
//! A snapshot must die when the last worker has taken the next one: one that lives on is a leak, and
//! the gauge shows it.

use std::sync::{Arc, Weak};

use super::dump::Dump;
use super::process::Process;
use rustc_hash::FxHashMap;

use crate::cluster::{Cluster, ClusterId};
use crate::proxy::config::Snapshot;
use crate::proxy::facts::Message;
use crate::telemetry::registry::Registry;
use crate::telemetry::stats::{ConfigStats, ListenerManagerStats, Recorder};

/// Numbers of publications.
#[derive(Debug)]
pub(super) struct Published {
    recorder: Arc<Recorder>,
    stats: ConfigStats,
    listener_stats: ListenerManagerStats,
    version: u64,
    snapshots: Vec<Weak<Snapshot>>,
}

impl Published {
    /// Nothing yet.
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            recorder: registry.recorder(),
            stats: ConfigStats::new(registry, "moorgate.config."),
            listener_stats: ListenerManagerStats::new(registry, "listener_manager."),
            version: 0,
            snapshots: Vec::new(),
        }
    }

    /// The number of the last snapshot.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    fn next(&mut self, make: impl FnOnce(u64) -> Snapshot) -> Arc<Snapshot> {
        self.version += 1;
        let snapshot = Arc::new(make(self.version));
        self.snapshots.retain(|old| old.strong_count() > 0);
        self.snapshots.push(Arc::downgrade(&snapshot));
        snapshot
    }

    /// The configuration was read again: it took effect, or was refused.
    pub(super) fn reloaded(&self, success: bool) {
        self.recorder.inc(if success {
            self.stats.reload_success
        } else {
            self.stats.reload_rejected
        });
    }

    /// Counts what became of the listeners `before`.
    pub(super) fn listeners(&self, before: &Dump, after: &Dump) {
        let (before, after) = (before.listeners(), after.listeners());
        let stats = &self.listener_stats;
        for (name, listener) in &after {
            match before.get(name) {
                None => self.recorder.inc(stats.listener_added),
                Some(old) if old != listener => self.recorder.inc(stats.listener_modified),
                Some(_) => {}
            }
        }
        let gone = before.keys().filter(|name| !after.contains_key(*name));
        self.recorder
            .add(stats.listener_removed, gone.count() as u64);
        self.recorder
            .set(stats.total_listeners_active, after.len() as i64);
    }

    /// Sets the gauges that are only known when asked for.
    pub(super) fn show(&mut self, accepting: bool) {
        self.snapshots.retain(|old| old.strong_count() > 0);
        let set = |gauge, value: u64| self.recorder.set(gauge, value as i64);
        set(self.stats.version, self.version);
        set(self.stats.snapshots_alive, self.snapshots.len() as u64);
        set(self.listener_stats.workers_started, u64::from(accepting));
    }
}

impl Process {
    /// Sends a message to every worker.
    pub(super) fn tell(&self, message: impl Fn() -> Message) {
        for member in &self.group.members {
            member.post(message());
        }
    }

    /// The configuration as it is now.
    pub(super) fn snapshot(&mut self) -> Arc<Snapshot> {
        let clusters: FxHashMap<ClusterId, Arc<Cluster>> = self.manager.clusters();
        let names = clusters
            .values()
            .map(|cluster| (cluster.name.as_bytes().into(), cluster.id))
            .collect();
        let listeners = self.listeners.clone();
        let max_connections = self.max_connections;
        self.published.next(|version| Snapshot {
            version,
            listeners,
            clusters,
            names,
            max_connections,
        })
    }

    /// Gives the workers the configuration as it is now.
    pub(super) fn publish(&mut self) {
        let snapshot = self.snapshot();
        self.tell(|| Message::Snapshot(Arc::clone(&snapshot)));
    }

    /// Lets the workers accept once every cluster is ready.
    pub(super) fn accept_when_warm(&mut self) {
        if self.accepting || self.draining || !self.manager.is_warm() {
            return;
        }
        self.accepting = true;
        self.facts.initialized();
        let socks = self.sockets.socks();
        self.tell(|| Message::Listeners(socks.clone()));
        tracing::info!("all clusters are ready: accepting connections");
    }

    /// Closes the listening sockets, once the workers have done what they were told before.
    pub(super) fn leave_listeners(&mut self) {
        let leaving = self.sockets.leave_all();
        self.tell(|| Message::Release(Arc::clone(&leaving)));
    }
}
