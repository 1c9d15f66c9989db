//! One upstream host and what all workers know of it, and the set of hosts that a cluster has. What changes
//! between snapshots is atomic; nothing here blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::HostId;
use crate::engine::reactor::Addr;

/// How one endpoint is checked, where it differs from the cluster (`health_check_config`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthTarget {
    /// Another port.
    pub port: Option<u16>,
    /// Another address.
    pub addr: Option<std::net::IpAddr>,
    /// The `host` of HTTP checks; empty: that of the check, or the cluster's name.
    pub hostname: String,
    /// Not checked at all; counts as healthy.
    pub disabled: bool,
}

/// One upstream endpoint.
#[derive(Debug)]
pub struct Host {
    /// Id.
    pub id: HostId,
    /// Where to connect.
    pub addr: Addr,
    /// Name it was resolved from, or the configured `hostname`; for auto_host_rewrite.
    pub hostname: String,
    /// Priority, 0 is first.
    pub priority: u32,
    /// How it is checked, where that differs from the cluster.
    pub health_target: HealthTarget,
    /// Requests in flight: what least-request compares.
    pub active_requests: CachePadded<AtomicU32>,
    /// Requests, errors, connections, connect failures: for /clusters.
    pub totals: HostTotals,
    weight: AtomicU32,
    health: AtomicU32,
    epoch: Arc<HealthEpoch>,
}

/// Counts the changes of health and weight of a cluster's hosts, so that balancers notice them by one
/// load. Shared by every host and host set of a cluster.
#[derive(Debug, Default)]
pub struct HealthEpoch(AtomicU64);

impl HealthEpoch {
    /// The number of changes so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn bump(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// How far a host may be used, from its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usable {
    /// No flag speaks against it.
    Healthy,
    /// Used when the healthy ones do not suffice.
    Degraded,
    /// Used in panic only.
    Unhealthy,
}

impl Host {
    /// An active health check failed (or none succeeded yet).
    pub const FAILED_ACTIVE_HC: u32 = 1;
    /// Ejected by outlier detection.
    pub const FAILED_OUTLIER_CHECK: u32 = 2;
    /// Configuration says it is unhealthy.
    pub const FAILED_EDS_HEALTH: u32 = 4;
    /// An active health check said it is degraded.
    pub const DEGRADED_ACTIVE_HC: u32 = 8;
    /// Configuration says it is degraded.
    pub const DEGRADED_EDS_HEALTH: u32 = 16;
    /// No longer in discovery, kept because it is healthy.
    pub const PENDING_DYNAMIC_REMOVAL: u32 = 32;
    /// Not checked since it was added, and not to be counted before
    /// ([`ClusterConfig::ignore_new_hosts`]).
    pub const PENDING_ACTIVE_HC: u32 = 64;
    /// The last failed check was a timeout.
    pub const ACTIVE_HC_TIMEOUT: u32 = 128;
    /// Configuration says it is draining.
    pub const EDS_STATUS_DRAINING: u32 = 256;
    /// Failed its check and asked not to be counted (`x-envoy-immediate-health-check-fail`).
    pub const EXCLUDED_VIA_IMMEDIATE_HC_FAIL: u32 = 512;

    /// Flags by the names Envoy's `/clusters` prints.
    pub const FLAG_NAMES: [(u32, &'static str); 10] = [
        (Self::FAILED_ACTIVE_HC, "failed_active_hc"),
        (Self::FAILED_OUTLIER_CHECK, "failed_outlier_check"),
        (Self::FAILED_EDS_HEALTH, "failed_eds_health"),
        (Self::DEGRADED_ACTIVE_HC, "degraded_active_hc"),
        (Self::DEGRADED_EDS_HEALTH, "degraded_eds_health"),
        (Self::PENDING_DYNAMIC_REMOVAL, "pending_dynamic_removal"),
        (Self::PENDING_ACTIVE_HC, "pending_active_hc"),
        (Self::ACTIVE_HC_TIMEOUT, "active_hc_timeout"),
        (Self::EDS_STATUS_DRAINING, "eds_status_draining"),
        (
            Self::EXCLUDED_VIA_IMMEDIATE_HC_FAIL,
            "excluded_via_immediate_hc_fail",
        ),
    ];

    const UNHEALTHY: u32 = Self::FAILED_ACTIVE_HC
        | Self::FAILED_OUTLIER_CHECK
        | Self::FAILED_EDS_HEALTH
        | Self::EDS_STATUS_DRAINING;
    const DEGRADED: u32 = Self::DEGRADED_ACTIVE_HC | Self::DEGRADED_EDS_HEALTH;

    /// A healthy host of weight 1.
    #[must_use]
    pub fn new(
        id: HostId,
        addr: Addr,
        hostname: String,
        priority: u32,
        epoch: Arc<HealthEpoch>,
    ) -> Self {
        Self {
            id,
            addr,
            hostname,
            priority,
            health_target: HealthTarget::default(),
            active_requests: CachePadded::default(),
            totals: HostTotals::default(),
            weight: AtomicU32::new(1),
            health: AtomicU32::new(0),
            epoch,
        }
    }

    /// Load balancing weight, at least 1.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Changes the weight (0 counts as 1); balancers notice.
    pub fn set_weight(&self, weight: u32) {
        let weight = weight.max(1);
        if self.weight.swap(weight, Ordering::Relaxed) != weight {
            self.epoch.bump();
        }
    }

    /// The flags; 0 is healthy.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.health.load(Ordering::Relaxed)
    }

    /// Sets some flags and clears others (setting wins); balancers notice. True when this changed
    /// whether the host may be used.
    pub fn change_flags(&self, set: u32, clear: u32) -> bool {
        let change = |flags: u32| Some((flags & !clear) | set);
        let old = self
            .health
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change)
            .unwrap_or_default();
        let new = (old & !clear) | set;
        if old != new {
            self.epoch.bump();
        }
        Self::usable_with(old) != Self::usable_with(new)
    }

    /// How far the host may be used.
    #[must_use]
    pub fn usable(&self) -> Usable {
        Self::usable_with(self.flags())
    }

    /// It counts neither as healthy nor as unhealthy (`membership_excluded`).
    #[must_use]
    pub fn is_excluded(&self) -> bool {
        self.flags() & (Self::PENDING_ACTIVE_HC | Self::EXCLUDED_VIA_IMMEDIATE_HC_FAIL) != 0
    }

    fn usable_with(flags: u32) -> Usable {
        if flags & Self::UNHEALTHY != 0 {
            Usable::Unhealthy
        } else if flags & Self::DEGRADED != 0 {
            Usable::Degraded
        } else {
            Usable::Healthy
        }
    }
}

/// Totals of a host, written at the end of a request or connection.
#[derive(Debug, Default)]
pub struct HostTotals {
    pub cx_active: AtomicU32,
    pub cx_total: AtomicU64,
    pub cx_connect_fail: AtomicU64,
    pub rq_total: AtomicU64,
    pub rq_success: AtomicU64,
    pub rq_error: AtomicU64,
    pub rq_timeout: AtomicU64,
    rq_pending: AtomicU32,
}

impl HostTotals {
    /// Requests that wait for a connection to the host.
    #[must_use]
    pub fn rq_pending_active(&self) -> u32 {
        self.rq_pending.load(Ordering::Relaxed)
    }

    /// One more request waits.
    pub fn pending(&self) {
        self.rq_pending.fetch_add(1, Ordering::Relaxed);
    }

    /// A request waits no longer. It may have been counted in the host that this one replaced.
    pub fn pending_ended(&self) {
        let less = |waiting: u32| waiting.checked_sub(1);
        let _ = self
            .rq_pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Hosts of a cluster at one time.
#[derive(Debug)]
pub struct HostSet {
    /// All hosts, by priority.
    pub priorities: Vec<Vec<Arc<Host>>>,
    version: u64,
    epoch: Arc<HealthEpoch>,
}

impl Default for HostSet {
    fn default() -> Self {
        Self::new(Vec::new(), Arc::default())
    }
}

impl HostSet {
    /// A set of hosts that share `epoch`.
    #[must_use]
    pub fn new(priorities: Vec<Vec<Arc<Host>>>, epoch: Arc<HealthEpoch>) -> Self {
        static VERSIONS: AtomicU64 = AtomicU64::new(1);
        Self {
            priorities,
            version: VERSIONS.fetch_add(1, Ordering::Relaxed),
            epoch,
        }
    }

    /// The host is in the set.
    #[must_use]
    pub fn has(&self, id: HostId) -> bool {
        self.priorities.iter().flatten().any(|host| host.id == id)
    }

    /// A number that no other set of this process has.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Counts changes of health and weight of the hosts.
    #[must_use]
    pub fn epoch(&self) -> &Arc<HealthEpoch> {
        &self.epoch
    }

    /// All hosts, by falling priority.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.priorities.iter().flatten()
    }
}
