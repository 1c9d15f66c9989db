//! The control thread's side of clusters: definitions in, `Arc<Cluster>`s out.
//!
//! The manager owns what must survive a reload: ids, hosts with their health and counts, breakers. It
//! merges what discovery and health checks find, and says when workers need a new snapshot. It never
//! does I/O, and nothing of it is reached from a worker.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

use super::{
    Breakers, Cluster, ClusterConfig, ClusterId, Discovery, DnsName, DnsSource, Endpoint,
    HealthEpoch, HealthTarget, Host, HostId, HostSet,
};
use crate::engine::reactor::Addr;
use crate::telemetry::stats::{ClusterManagerStats, ClusterStats, Names, Recorder};
use gauges::{BreakerGauges, Membership};

/// Numbers for cluster names, for the life of the process. Shared by all who name clusters: routes
/// may name one that does not exist (yet).
#[derive(Debug, Default)]
pub struct ClusterIds {
    names: Mutex<HashMap<Arc<str>, ClusterId>>,
}

impl ClusterIds {
    /// The id of a name: the same name always has the same id.
    #[must_use]
    pub fn id(&self, name: &str) -> ClusterId {
        // Held only while configuration is built. A panic meanwhile leaves the map whole.
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = names.get(name) {
            return *id;
        }
        let id = ClusterId(u32::try_from(names.len()).unwrap_or(u32::MAX));
        names.insert(name.into(), id);
        id
    }
}

/// A cluster as configuration defines it.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Name.
    pub name: Arc<str>,
    /// `alt_stat_name`, else the name.
    pub stat_name: Arc<str>,
    /// Settings.
    pub config: Arc<ClusterConfig>,
    /// Hosts of a static cluster.
    pub endpoints: Vec<Endpoint>,
}

/// Outcome of looking one name up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The name has these addresses, possibly none.
    Addresses(Vec<IpAddr>),
    /// No server gave an answer: what was known stays.
    Failed,
}

/// State that has a cluster manager, as the sources of the control loop need it.
pub trait ClusterState {
    /// The manager.
    fn clusters(&mut self) -> &mut Manager;
}

/// What identifies a host within its cluster for the life of the process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum HostKey {
    Addr(Addr),
    /// The one host of a LOGICAL_DNS cluster, wherever its name points.
    Logical(String, u16),
}

/// A host as discovery wants it.
struct Wanted {
    key: HostKey,
    addr: Addr,
    hostname: String,
    weight: u32,
    priority: u32,
    flags: u32,
    health_target: HealthTarget,
}

#[derive(Debug)]
struct Entry {
    definition: Definition,
    epoch: Arc<HealthEpoch>,
    hosts: HashMap<HostKey, Arc<Host>>,
    /// Addresses by DNS name, as last resolved.
    resolved: HashMap<String, Vec<IpAddr>>,
    /// Names without any outcome yet.
    unresolved: HashSet<String>,
    /// Hosts whose first health check has no outcome yet.
    unchecked: HashSet<HostId>,
    current: Arc<Cluster>,
    membership: Membership,
    breaker_gauges: BreakerGauges,
    /// Epoch for which membership was counted.
    counted: u64,
}

impl Entry {
    fn is_warm(&self) -> bool {
        self.unresolved.is_empty() && self.unchecked.is_empty()
    }

    /// Counts the members by health and shows them.
    fn count(&mut self, recorder: &Recorder) {
        self.counted = self.epoch.get();
        let hosts = self.hosts.values();
        self.membership.show(hosts, &self.current.stats, recorder);
    }
}

/// Flags that only active health checks set.
const ACTIVE_HC: u32 = Host::FAILED_ACTIVE_HC
    | Host::DEGRADED_ACTIVE_HC
    | Host::PENDING_ACTIVE_HC
    | Host::ACTIVE_HC_TIMEOUT
    | Host::EXCLUDED_VIA_IMMEDIATE_HC_FAIL;

/// Priorities there can be: Envoy's limit.
const MAX_PRIORITY: u32 = 128;

/// All clusters of the process.
pub struct Manager {
    ids: Arc<ClusterIds>,
    names: Arc<dyn Names + Send + Sync>,
    recorder: Arc<Recorder>,
    host_ids: HashMap<(ClusterId, HostKey), HostId>,
    entries: HashMap<ClusterId, Entry>,
    /// Breakers of all clusters there ever were: requests of a removed one may still be counted when
    /// it comes back.
    breakers: HashMap<ClusterId, Arc<Breakers>>,
    stats: ClusterManagerStats,
    /// Workers must see what is new.
    dirty: bool,
    /// Counts up whenever the set of clusters, their settings or their hosts change.
    revision: u64,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager")
            .field("clusters", &self.entries.len())
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl Manager {
    /// A manager without clusters. Counters go to `recorder`, which must be the control thread's own.
    #[must_use]
    pub fn new(
        ids: Arc<ClusterIds>,
        names: Arc<dyn Names + Send + Sync>,
        recorder: Arc<Recorder>,
    ) -> Self {
        let stats = ClusterManagerStats::new(&*names, "cluster_manager.");
        Self {
            ids,
            names,
            recorder,
            host_ids: HashMap::new(),
            entries: HashMap::new(),
            breakers: HashMap::new(),
            stats,
            dirty: false,
            revision: 0,
        }
    }

    /// Makes these the clusters: new ones are added, changed ones changed, others removed. Hosts that
    /// stay keep their health and counts.
    pub fn set(&mut self, definitions: Vec<Definition>) {
        let ids = Arc::clone(&self.ids);
        let keep: HashSet<_> = definitions.iter().map(|next| ids.id(&next.name)).collect();
        let gone: Vec<_> = self
            .entries
            .keys()
            .filter(|id| !keep.contains(id))
            .copied()
            .collect();
        for id in gone {
            self.remove(id);
        }
        for definition in definitions {
            self.upsert(definition);
        }
    }

    /// Adds a cluster or changes the one of this name.
    pub fn upsert(&mut self, definition: Definition) {
        let id = self.ids.id(&definition.name);
        let names = dns_names(&definition.config);
        let mut entry = match self.entries.remove(&id) {
            Some(mut entry) => {
                self.recorder.inc(self.stats.cluster_modified);
                entry.resolved.retain(|host, _| names.contains(host));
                entry.unresolved = names;
                let resolved = &entry.resolved;
                entry.unresolved.retain(|host| !resolved.contains_key(host));
                entry.definition = definition;
                entry
            }
            None => {
                let epoch = Arc::<HealthEpoch>::default();
                let breakers = Arc::clone(self.breakers.entry(id).or_default());
                let prefix = format!("cluster.{}.", definition.stat_name);
                self.recorder.inc(self.stats.cluster_added);
                Entry {
                    breaker_gauges: BreakerGauges::new(&*self.names, &prefix),
                    current: Arc::new(Cluster {
                        id,
                        name: Arc::clone(&definition.name),
                        stat_name: Arc::clone(&definition.stat_name),
                        config: Arc::clone(&definition.config),
                        hosts: Arc::new(HostSet::new(Vec::new(), Arc::clone(&epoch))),
                        stats: ClusterStats::new(&*self.names, &prefix),
                        breakers,
                    }),
                    definition,
                    epoch,
                    hosts: HashMap::new(),
                    resolved: HashMap::new(),
                    unresolved: names,
                    unchecked: HashSet::new(),
                    membership: Membership::default(),
                    counted: 0,
                }
            }
        };
        if entry.definition.config.health_checks.is_empty() {
            entry.unchecked.clear();
            for host in entry.hosts.values() {
                host.change_flags(0, ACTIVE_HC);
            }
        }
        self.rebuild(&mut entry);
        self.publish(&mut entry);
        self.entries.insert(id, entry);
    }

    /// Removes a cluster. False when there is none.
    pub fn remove(&mut self, id: ClusterId) -> bool {
        let Some(mut entry) = self.entries.remove(&id) else {
            return false;
        };
        entry.membership.hide(&entry.current.stats, &self.recorder);
        entry.breaker_gauges.hide(&self.recorder);
        self.recorder.inc(self.stats.cluster_removed);
        self.revision += 1;
        self.dirty = true;
        true
    }

    /// The clusters for a snapshot.
    #[must_use]
    pub fn clusters(&self) -> FxHashMap<ClusterId, Arc<Cluster>> {
        let pair = |(id, entry): (&ClusterId, &Entry)| (*id, Arc::clone(&entry.current));
        self.entries.iter().map(pair).collect()
    }

    /// One cluster as it is now.
    #[must_use]
    pub fn get(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.entries.get(&id).map(|entry| &entry.current)
    }

    /// All clusters as they are now.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.entries.values().map(|entry| &entry.current)
    }

    /// Counts up whenever the set of clusters, their settings or their hosts change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether something changed since the last call that workers must see: publish a snapshot.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// Every cluster has its first look-up and the first health check of its first hosts behind it.
    /// Envoy opens its listeners then.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        self.entries.values().all(Entry::is_warm)
    }

    /// The shared ids.
    #[must_use]
    pub fn ids(&self) -> &Arc<ClusterIds> {
        &self.ids
    }

    /// Where counters of the control thread go.
    #[must_use]
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// Names of counters.
    #[must_use]
    pub fn names(&self) -> &Arc<dyn Names + Send + Sync> {
        &self.names
    }

    /// A look-up for a cluster begins (`update_attempt`).
    pub fn resolving(&self, id: ClusterId) {
        if let Some(entry) = self.entries.get(&id) {
            self.recorder.inc(entry.current.stats.update_attempt);
        }
    }

    /// A look-up of `host` (the name as configured) ended.
    pub fn resolved(&mut self, id: ClusterId, host: &str, resolution: Resolution) {
        let Some(mut entry) = self.entries.remove(&id) else {
            return;
        };
        let first = entry.unresolved.remove(host);
        let stats = entry.current.stats;
        match resolution {
            Resolution::Failed => self.recorder.inc(stats.update_failure),
            Resolution::Addresses(addresses) => {
                self.recorder.inc(stats.update_success);
                let logical = matches!(entry.definition.config.discovery, Discovery::LogicalDns(_));
                if addresses.is_empty() && logical {
                    // The logical host stays where it was.
                    self.recorder.inc(stats.update_empty);
                } else if dns_names(&entry.definition.config).contains(host) {
                    entry.resolved.insert(host.to_owned(), addresses);
                    if self.rebuild(&mut entry) {
                        self.publish(&mut entry);
                    } else {
                        self.recorder.inc(stats.update_no_rebuild);
                    }
                }
            }
        }
        if first {
            self.revision += 1;
        }
        self.entries.insert(id, entry);
    }

    /// The first health check of a host ended.
    pub fn checked(&mut self, id: ClusterId, host: HostId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.unchecked.remove(&host);
        }
    }

    /// Catches up with changes of health: membership gauges, and hosts that were only kept because
    /// they were healthy. Cheap when nothing changed; called every turn.
    pub fn settle(&mut self) {
        let changed: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.counted != entry.epoch.get())
            .map(|(id, _)| *id)
            .collect();
        for id in changed {
            let Some(mut entry) = self.entries.remove(&id) else {
                continue;
            };
            const LEAVES: u32 = Host::PENDING_DYNAMIC_REMOVAL | Host::FAILED_ACTIVE_HC;
            let leaves = |host: &Arc<Host>| host.flags() & LEAVES == LEAVES;
            if entry.hosts.values().any(leaves) {
                self.rebuild(&mut entry);
                self.publish(&mut entry);
            } else {
                entry.count(&self.recorder);
            }
            self.entries.insert(id, entry);
        }
    }

    /// Sets the gauges that are only worked out when somebody looks: circuit breakers, and the number
    /// of clusters. Called before statistics are read.
    pub fn show(&mut self) {
        for entry in self.entries.values_mut() {
            let cluster = &entry.current;
            entry.breaker_gauges.show(
                &cluster.breakers,
                &cluster.config.thresholds,
                &self.recorder,
            );
        }
        let warming = self.entries.values().filter(|entry| !entry.is_warm());
        self.recorder
            .set(self.stats.warming_clusters, warming.count() as i64);
        self.recorder
            .set(self.stats.active_clusters, self.entries.len() as i64);
    }

    fn host_id(&mut self, cluster: ClusterId, key: &HostKey) -> HostId {
        let next = HostId(u32::try_from(self.host_ids.len()).unwrap_or(u32::MAX));
        *self.host_ids.entry((cluster, key.clone())).or_insert(next)
    }

    /// Makes `entry.hosts` what discovery says now. True when a host came, went or was replaced.
    fn rebuild(&mut self, entry: &mut Entry) -> bool {
        let id = entry.current.id;
        let config = Arc::clone(&entry.definition.config);
        let checked = !config.health_checks.is_empty();
        let mut old = std::mem::take(&mut entry.hosts);
        let mut changed = false;
        for wanted in wanted(&entry.definition, &entry.resolved) {
            let host_id = self.host_id(id, &wanted.key);
            let kept = old.remove(&wanted.key);
            let same = kept.as_ref().filter(|host| {
                host.addr == wanted.addr
                    && host.priority == wanted.priority
                    && host.hostname == wanted.hostname
                    && host.health_target == wanted.health_target
            });
            let host = match same {
                Some(host) => Arc::clone(host),
                None => {
                    changed = true;
                    let epoch = Arc::clone(&entry.epoch);
                    let mut host = Host::new(
                        host_id,
                        wanted.addr,
                        wanted.hostname,
                        wanted.priority,
                        epoch,
                    );
                    if wanted.health_target.disabled {
                        entry.unchecked.remove(&host_id);
                        let flags = kept.map_or(0, |old| old.flags());
                        host.change_flags(flags & !ACTIVE_HC, 0);
                    } else if let Some(old) = kept {
                        host.change_flags(old.flags(), 0);
                    } else if checked {
                        // Not used before a check succeeds.
                        let new = if config.ignore_new_hosts {
                            Host::FAILED_ACTIVE_HC | Host::PENDING_ACTIVE_HC
                        } else {
                            Host::FAILED_ACTIVE_HC
                        };
                        host.change_flags(new, 0);
                        entry.unchecked.insert(host_id);
                    }
                    host.health_target = wanted.health_target;
                    Arc::new(host)
                }
            };
            host.set_weight(wanted.weight);
            let configured = Host::FAILED_EDS_HEALTH
                | Host::EDS_STATUS_DRAINING
                | Host::DEGRADED_EDS_HEALTH
                | Host::PENDING_DYNAMIC_REMOVAL;
            host.change_flags(wanted.flags, configured);
            entry.hosts.insert(wanted.key, host);
        }
        // A host that discovery lost is kept while active health checks find it healthy.
        let dns = !matches!(config.discovery, Discovery::Static);
        for (key, host) in old {
            let healthy = host.flags() & Host::FAILED_ACTIVE_HC == 0;
            let logical = matches!(key, HostKey::Logical(..));
            if dns && checked && healthy && !config.drop_unhealthy_on_removal && !logical {
                host.change_flags(Host::PENDING_DYNAMIC_REMOVAL, 0);
                entry.hosts.insert(key, host);
            } else {
                entry.unchecked.remove(&host.id);
                changed = true;
            }
        }
        if changed {
            self.recorder.inc(entry.current.stats.membership_change);
        }
        changed
    }

    /// Makes a new `Arc<Cluster>` of the entry.
    fn publish(&mut self, entry: &mut Entry) {
        let levels = entry.hosts.values().map(|host| host.priority + 1).max();
        let mut priorities = vec![Vec::new(); levels.unwrap_or(1) as usize];
        for host in entry.hosts.values() {
            priorities[host.priority as usize].push(Arc::clone(host));
        }
        for hosts in &mut priorities {
            // Hash order must not decide who is asked first.
            hosts.sort_by_key(|host| host.id);
        }
        let hosts = HostSet::new(priorities, Arc::clone(&entry.epoch));
        let definition = &entry.definition;
        let stats = if definition.stat_name == entry.current.stat_name {
            entry.current.stats
        } else {
            entry.membership.hide(&entry.current.stats, &self.recorder);
            entry.breaker_gauges.hide(&self.recorder);
            let prefix = format!("cluster.{}.", definition.stat_name);
            entry.breaker_gauges = BreakerGauges::new(&*self.names, &prefix);
            ClusterStats::new(&*self.names, &prefix)
        };
        let definition = &entry.definition;
        entry.current = Arc::new(Cluster {
            id: entry.current.id,
            name: Arc::clone(&definition.name),
            stat_name: Arc::clone(&definition.stat_name),
            config: Arc::clone(&definition.config),
            hosts: Arc::new(hosts),
            stats,
            breakers: Arc::clone(&entry.current.breakers),
        });
        entry.count(&self.recorder);
        self.revision += 1;
        self.dirty = true;
        tracing::debug!(
            "cluster {}: {} hosts",
            entry.current.name,
            entry.hosts.len()
        );
    }
}

/// The DNS settings of a cluster, if it has any.
#[must_use]
pub fn dns_source(config: &ClusterConfig) -> Option<&Arc<DnsSource>> {
    match &config.discovery {
        Discovery::Static => None,
        Discovery::StrictDns(source) | Discovery::LogicalDns(source) => Some(source),
    }
}

fn dns_names(config: &ClusterConfig) -> HashSet<String> {
    let names = dns_source(config).map_or(&[][..], |source| &source.names);
    names.iter().map(|name| name.host.clone()).collect()
}

/// The hosts that definition and look-ups ask for, each key once.
fn wanted(definition: &Definition, resolved: &HashMap<String, Vec<IpAddr>>) -> Vec<Wanted> {
    let mut list: Vec<Wanted> = Vec::new();
    let mut seen: HashMap<HostKey, usize> = HashMap::new();
    match &definition.config.discovery {
        Discovery::Static => {
            for endpoint in &definition.endpoints {
                let key = HostKey::Addr(endpoint.addr.clone());
                if let Some(index) = seen.get(&key) {
                    // Named twice: twice the share.
                    let weight = &mut list[*index].weight;
                    *weight = weight.saturating_add(endpoint.weight.max(1));
                    continue;
                }
                seen.insert(key.clone(), list.len());
                list.push(Wanted {
                    key,
                    addr: endpoint.addr.clone(),
                    hostname: endpoint.hostname.clone(),
                    weight: endpoint.weight.max(1),
                    priority: endpoint.priority.min(MAX_PRIORITY),
                    flags: endpoint.flags,
                    health_target: endpoint.health_target.clone(),
                });
            }
        }
        Discovery::StrictDns(source) => {
            for name in &source.names {
                for ip in resolved.get(&name.host).into_iter().flatten() {
                    let addr = Addr::Ip(SocketAddr::new(*ip, name.port));
                    let key = HostKey::Addr(addr.clone());
                    if seen.insert(key.clone(), list.len()).is_none() {
                        list.push(wanted_of(name, key, addr));
                    }
                }
            }
        }
        Discovery::LogicalDns(source) => {
            if let Some(name) = source.names.first()
                && let Some(ip) = resolved.get(&name.host).and_then(|list| list.first())
            {
                let key = HostKey::Logical(name.host.clone(), name.port);
                let addr = Addr::Ip(SocketAddr::new(*ip, name.port));
                list.push(wanted_of(name, key, addr));
            }
        }
    }
    list
}

fn wanted_of(name: &DnsName, key: HostKey, addr: Addr) -> Wanted {
    let own = !name.hostname.is_empty();
    Wanted {
        key,
        addr,
        hostname: if own { &name.hostname } else { &name.host }.clone(),
        weight: name.weight,
        priority: name.priority.min(MAX_PRIORITY),
        flags: 0,
        health_target: name.health_target.clone(),
    }
}

mod gauges;
#[cfg(test)]
mod tests;
