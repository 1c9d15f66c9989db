//! What the tests of this room share.

use std::sync::Arc;

use super::manager::{ClusterIds, Definition, Manager};
use super::{ClusterConfig, DnsName, Endpoint, HealthTarget};
use crate::engine::reactor::Addr;
use crate::telemetry::registry::Registry;

/// Splitmix64: good enough dice for statistics.
pub(crate) fn dice(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

pub(crate) fn manager() -> Manager {
    manager_with(&Registry::new())
}

/// A manager that counts in this registry.
pub(crate) fn manager_with(registry: &Arc<Registry>) -> Manager {
    Manager::new(
        Arc::<ClusterIds>::default(),
        Arc::<Registry>::clone(registry),
        registry.recorder(),
    )
}

/// The counters and gauges whose names begin with `prefix` and that are not zero, sorted.
pub(crate) fn counted(registry: &Registry, prefix: &str) -> Vec<(String, i64)> {
    let reading = registry.read_where(|name| name.starts_with(prefix));
    let counters = reading.counters.iter();
    let counters = counters.map(|entry| (&entry.name, entry.value as i64));
    let gauges = reading
        .gauges
        .iter()
        .map(|entry| (&entry.name, entry.value));
    let mut list: Vec<_> = counters
        .chain(gauges)
        .filter(|(_, value)| *value != 0)
        .map(|(name, value)| (name[prefix.len()..].to_owned(), value))
        .collect();
    list.sort();
    list
}

pub(crate) fn definition(
    name: &str,
    config: ClusterConfig,
    endpoints: Vec<Endpoint>,
) -> Definition {
    Definition {
        name: name.into(),
        stat_name: name.into(),
        config: Arc::new(config),
        endpoints,
    }
}

/// 127.0.0.1 at this port.
pub(crate) fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        addr: Addr::Ip(([127, 0, 0, 1], port).into()),
        hostname: String::new(),
        weight: 1,
        priority: 0,
        flags: 0,
        health_target: HealthTarget::default(),
    }
}

pub(crate) fn dns_name(host: &str, port: u16) -> DnsName {
    DnsName {
        host: host.to_owned(),
        port,
        weight: 1,
        priority: 0,
        hostname: String::new(),
        health_target: HealthTarget::default(),
    }
}
