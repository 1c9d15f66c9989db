//! Which host, and may it be used now.
//!
//! A [`Cluster`] is immutable configuration plus the hosts known when the snapshot was made. What
//! changes between snapshots (health, active requests, breaker counts) lives in [`Host`] and
//! [`Breakers`], which are shared by all workers and survive a reload. It must never touch a socket
//! of the data path, and nothing here blocks.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::stats::ClusterStats;

/// Names a cluster for the life of the process: an interned name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub u32);

/// Names a host for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(pub u32);

/// Names connections that are alike for the life of the process: those of a host, or some of them that are
/// kept apart. Clients make new ones as fast as they like, so the numbers must not come to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(NonZeroU64);

impl PoolId {
    /// Where the numbers begin that are no host's.
    const NAMED: u64 = 1 << 33;

    /// The pool of all connections to a host.
    #[must_use]
    pub fn of(host: HostId) -> Self {
        Self(NonZeroU64::MIN.saturating_add(u64::from(host.0)))
    }

    /// A number that nobody had: for connections of one host that are kept apart.
    #[must_use]
    pub fn another() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(PoolId::NAMED);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(NonZeroU64::MIN.saturating_add(next))
    }

    /// It is not the pool of all connections to a host.
    #[must_use]
    pub fn is_named(self) -> bool {
        self.0.get() > Self::NAMED
    }
}

/// A cluster as one snapshot sees it.
#[derive(Debug)]
pub struct Cluster {
    /// Id.
    pub id: ClusterId,
    /// Name.
    pub name: Arc<str>,
    /// `alt_stat_name`, else the name.
    pub stat_name: Arc<str>,
    /// Settings.
    pub config: Arc<ClusterConfig>,
    /// Hosts by priority, as last resolved.
    pub hosts: Arc<HostSet>,
    /// Counters.
    pub stats: ClusterStats,
    /// Process-wide counts that the thresholds limit.
    pub breakers: Arc<Breakers>,
}

pub mod balance;
pub mod breaker;
mod dice;
pub mod dns;
pub mod health;
mod host;
pub mod manager;
mod settings;
#[cfg(test)]
pub(crate) mod testing;

pub use breaker::{BreakerCounts, Breakers};
pub use host::{HealthEpoch, HealthTarget, Host, HostSet, HostTotals, Usable};
pub use settings::{
    AutoSni, BalancerKind, ClusterConfig, CodecFactory, Discovery, DnsFamily, DnsName, DnsSource,
    Endpoint, HealthCheck, HealthCheckKind, ProxyHeader, Thresholds, UpstreamTls,
};
