//! Upstream pools of requests that ask for more than a host: for a name (`auto_sni`), or told of their client
//! (`upstream_proxy_protocol`), or by the HTTP version they came by (`use_downstream_protocol_config`).
//!
//! There are as many of these pools as clients make up, so what bounds other pools (their number is that of
//! the hosts) does not bound them: the connections of a cluster stay within its breaker, and one that is idle
//! makes room for one that is wanted. A connection must never serve a request with another name or client.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;

use super::facts::{Cold, Endpoint};
use super::gateway::{Core, Gateway};
use super::http::local_reply::UpstreamFailure;
use crate::cluster::breaker::{Permit, Priority, Resource};
use crate::cluster::{Cluster, ClusterId, Host, HostId, PoolId};
use crate::engine::reactor::Reactor;

/// A client and where it wanted to go.
type Told = (SocketAddr, SocketAddr);

/// What tells connections to one host apart; the last is HTTP/2 beside HTTP/1.
type Asked = (HostId, Option<Box<str>>, Option<Told>, bool);

/// The named pools of a worker.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Those that are in use.
    endpoints: HashMap<Asked, Weak<Endpoint>>,
    /// Pools in the order in which a connection of theirs became idle, with the number of that event. One
    /// whose number is not its pool's is stale.
    idle: FxHashMap<ClusterId, VecDeque<(PoolId, u64)>>,
    /// The last number.
    rests: u64,
}

fn asked(endpoint: &Endpoint) -> Asked {
    (
        endpoint.host.id,
        endpoint.name.clone(),
        endpoint.client,
        endpoint.http2,
    )
}

impl Named {
    fn insert(&mut self, asked: Asked, endpoint: &Arc<Endpoint>) {
        let all = &mut self.endpoints;
        // Names come from clients: what is left of those that nobody uses is swept out, not too often.
        if all.len() == all.capacity() {
            all.retain(|_, known| known.strong_count() > 0);
            all.reserve(all.len().max(4));
        }
        all.insert(asked, Arc::downgrade(endpoint));
    }
}

impl Gateway {
    /// A host that is asked for by a name, or told of a client, or sent HTTP/2 beside HTTP/1: its connections
    /// serve no request that wants something else.
    pub(super) fn named_endpoint(
        &mut self,
        host: &Arc<Host>,
        cluster: &Arc<Cluster>,
        name: Option<Box<str>>,
        client: Option<Told>,
        http2: bool,
    ) -> Arc<Endpoint> {
        let asked = (host.id, name, client, http2);
        let known = self.named.endpoints.get(&asked).and_then(Weak::upgrade);
        let pool = match known {
            Some(known) if Arc::ptr_eq(&known.cluster, cluster) => return known,
            // As after a reload: the connections stay those of this pool.
            Some(known) => known.pool,
            None => PoolId::another(),
        };
        let endpoint = Arc::new(Endpoint {
            host: Arc::clone(host),
            cluster: Arc::clone(cluster),
            pool,
            name: asked.1.clone(),
            client,
            http2,
        });
        self.named.insert(asked, &endpoint);
        endpoint
    }

    /// The endpoint of a connection that came from another worker, as this worker knows it: the pool has the
    /// number that is asked for here.
    pub(super) fn adopt_endpoint(&mut self, endpoint: Arc<Endpoint>) -> Arc<Endpoint> {
        if !endpoint.pool.is_named() {
            return endpoint;
        }
        let asked = asked(&endpoint);
        match self.named.endpoints.get(&asked).and_then(Weak::upgrade) {
            Some(known) if Arc::ptr_eq(&known.cluster, &endpoint.cluster) => known,
            // Before or after a reload.
            Some(known) => Arc::new(Endpoint {
                host: Arc::clone(&endpoint.host),
                cluster: Arc::clone(&endpoint.cluster),
                pool: known.pool,
                name: asked.1,
                client: asked.2,
                http2: asked.3,
            }),
            None => {
                self.named.insert(asked, &endpoint);
                endpoint
            }
        }
    }

    /// A connection of a named pool became idle.
    pub(super) fn named_rests(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        self.named.rests += 1;
        pool.rested = self.named.rests;
        let cluster = pool.endpoint.cluster.id;
        let queue = self.named.idle.entry(cluster).or_default();
        if queue.len() == queue.capacity() {
            let pools = &self.pools;
            queue.retain(|(id, at)| pools.get(id).is_some_and(|pool| pool.rested == *at));
            queue.reserve(queue.len().max(4));
        }
        queue.push_back((id, self.named.rests));
    }

    /// Whether a connection may be opened although the breaker refused it. An idle one of another name makes
    /// room; else a pool without any connection may open one, so that what waits is not stuck. Of named pools,
    /// only if the cluster has no other connection here, as there is no end of them.
    pub(super) fn connect_beyond<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        endpoint: &Endpoint,
        priority: Priority,
        raw: bool,
    ) -> Option<Permit> {
        let (cluster, pool) = (&endpoint.cluster, endpoint.pool);
        if self.close_idle_named(core, cluster.id, pool) {
            let thresholds = &cluster.config.thresholds;
            let connections = Resource::Connections;
            if let Some(permit) = cluster.breakers.acquire(connections, priority, thresholds) {
                return Some(permit);
            }
        }
        self.stats.inc(cluster.stats.upstream_cx_overflow);
        let bare = self.pools.get(&pool).is_none_or(|pool| pool.total == 0);
        // Nobody else's connection could serve a CONNECT.
        if raw || bare && (!pool.is_named() || !self.has_others(cluster.id, pool)) {
            let breakers = &cluster.breakers;
            return Some(breakers.acquire_anyway(Resource::Connections, priority));
        }
        if bare {
            // Nothing will come that could serve those who wait.
            self.fail_pending(core, pool, UpstreamFailure::Overflow);
        }
        None
    }

    /// The cluster has connections on this worker, in other pools or in sessions that left their pools.
    fn has_others(&self, cluster: ClusterId, than: PoolId) -> bool {
        let mut pools = self.pools.values();
        let mut named = self.named.endpoints.values();
        pools.any(|pool| pool.total > 0 && pool.endpoint.cluster.id == cluster)
            || named.any(|known| {
                let known = known.upgrade();
                known.is_some_and(|known| known.cluster.id == cluster && known.pool != than)
            })
    }

    /// Closes the connection of the named pool that is idle longest.
    fn close_idle_named<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        cluster: ClusterId,
        than: PoolId,
    ) -> bool {
        let mut own = None;
        let mut closed = false;
        while !closed {
            let queue = self.named.idle.get_mut(&cluster);
            let Some((id, at)) = queue.and_then(VecDeque::pop_front) else {
                break;
            };
            if self.pools.get(&id).is_none_or(|pool| pool.rested != at) {
                continue;
            }
            if id == than {
                own = Some((id, at));
                continue;
            }
            closed = self.close_idle_of(core, id);
            if closed && let Some(queue) = self.named.idle.get_mut(&cluster) {
                // It may have more.
                queue.push_front((id, at));
            }
        }
        if let Some(own) = own
            && let Some(queue) = self.named.idle.get_mut(&cluster)
        {
            queue.push_front(own);
        }
        closed
    }

    fn close_idle_of<R: Reactor>(&mut self, core: &mut Core<R>, id: PoolId) -> bool {
        let Some(pool) = self.pools.get_mut(&id) else {
            return false;
        };
        let (idle, shared) = (std::mem::take(&mut pool.idle), pool.shared.clone());
        let mut idle = idle.into_iter();
        let mut kept = Vec::new();
        let mut found = None;
        for slot in idle.by_ref() {
            let key = if let Some(record) = core.parked(slot) {
                if record.cold.as_deref().is_some_and(Cold::is_mux) {
                    // It has open streams.
                    kept.push(slot);
                    continue;
                }
                self.unpark_pooled(core, slot)
            } else {
                let number = core.resident(slot);
                let key = number.and_then(|number| self.conns.key(number));
                key.filter(|key| self.conn(*key).is_some_and(|conn| conn.slot == slot))
            };
            found = key.filter(|key| self.is_at_rest(*key));
            if found.is_some() {
                break;
            }
        }
        kept.extend(idle);
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.idle = kept;
        }
        let resting = || shared.into_iter().find(|key| self.is_at_rest(*key));
        let Some(key) = found.or_else(resting) else {
            return false;
        };
        self.upstream_gone(core, key, false);
        true
    }

    fn is_at_rest(&self, key: crate::engine::slab::Key) -> bool {
        let up = self.conn(key).and_then(super::conn::Conn::up);
        up.is_some_and(|up| up.idle && up.streams.is_empty())
    }

    /// Forgets a pool in which nothing is left.
    pub(super) fn forget_pool(&mut self, id: PoolId) {
        if let Some(pool) = self.pools.get(&id)
            && pool.total == 0
            && pool.pending.is_empty()
        {
            self.pools.remove(&id);
        }
    }
}
