//! Upstream connections of this worker: pools by host, taking out of them and giving back.
//!
//! A pool keeps idle connections by slot, so that it does not matter whether one is resident or
//! parked. Entries may be stale: whoever takes one looks whether it still is what it was.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use moorgate_codecs::{ResetReason, Shape};

use super::conn::{Closing, Conn, Role, pause};
use super::facts::{Cold, Endpoint};
use super::gateway::{Core, Gateway};
use super::http::local_reply::UpstreamFailure;
use super::parking::Record;
use super::stream::Stream;
use crate::cluster::breaker::{Permit, Priority, Resource};
use crate::cluster::{Cluster, Host, PoolId};
use crate::engine::reactor::{Reactor, Ready};
use crate::engine::slab::Key;

/// Streams assumed to fit on a multiplexed connection that is still connecting.
const ASSUMED_STREAMS: usize = 100;

/// Connections to one host.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) endpoint: Arc<Endpoint>,
    /// Slots of idle connections; the last one is taken first. May hold stale ones.
    pub(super) idle: Vec<Key>,
    /// Multiplexed connections that may have room.
    pub(super) shared: Vec<Key>,
    /// Streams that wait, with what they count as.
    pub(super) pending: VecDeque<(Key, Permit)>,
    /// Connections that are not connected yet.
    pub(super) connecting: usize,
    /// All connections, parked ones included.
    pub(super) total: usize,
    /// When one of them became idle last, if this is a named pool.
    pub(super) rested: u64,
}

impl Pool {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            idle: Vec::new(),
            shared: Vec::new(),
            pending: VecDeque::new(),
            connecting: 0,
            total: 0,
            rested: 0,
        }
    }
}

impl Gateway {
    /// A host with the cluster it was chosen from; one block for all that use it.
    pub(super) fn endpoint(&mut self, host: &Arc<Host>, cluster: &Arc<Cluster>) -> Arc<Endpoint> {
        let known = self.endpoints.get(&host.id).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| Arc::ptr_eq(&known.cluster, cluster)) {
            return known;
        }
        // Hosts come and go; what is left of those that went is swept out before the table grows.
        if self.endpoints.len() == self.endpoints.capacity() {
            self.endpoints.retain(|_, known| known.strong_count() > 0);
        }
        let endpoint = Arc::new(Endpoint {
            host: Arc::clone(host),
            cluster: Arc::clone(cluster),
            pool: PoolId::of(host.id),
            name: None,
            client: None,
            http2: false,
        });
        self.endpoints.insert(host.id, Arc::downgrade(&endpoint));
        endpoint
    }

    pub(super) fn is_connecting(&self, key: Key) -> bool {
        self.conn(key).is_some_and(Self::still_connecting)
    }

    /// There is no socket to read and write yet. One that shakes hands has one.
    pub(super) fn still_connecting(conn: &Conn) -> bool {
        match &conn.role {
            Role::Up(up) => up.connecting && conn.tls.is_none(),
            Role::Tunnel(end) => end.connecting && conn.tls.is_none(),
            // Nothing is read for whoever is not known yet.
            Role::Detecting(_) => true,
            Role::Down(_) | Role::Waking => false,
        }
    }

    pub(super) fn note_upstream_error(&self, key: Key) {
        if let Some(up) = self.conn(key).and_then(Conn::up) {
            self.stats
                .inc(up.endpoint.cluster.stats.upstream_cx_protocol_error);
        }
    }

    /// Finds a stream its upstream connection: one with room, an idle one, or a new one to wait for.
    pub(super) fn find_upstream<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        stream: Key,
        endpoint: &Arc<Endpoint>,
    ) {
        let (host, cluster) = (&endpoint.host, &endpoint.cluster);
        let pool_id = endpoint.pool;
        let own = self
            .stream(stream)
            .and_then(|stream| stream.client_key())
            .filter(|key| {
                self.conn(*key)
                    .and_then(Conn::down)
                    .is_some_and(|d| d.own_upstreams)
            });
        let raw = self.stream(stream).is_some_and(Stream::terminates);
        let leaves = self.stream(stream).is_some_and(Stream::leaves_http);
        if !raw
            && let Some(conn) = self
                .with_room(pool_id, own, leaves)
                .or_else(|| self.take_idle(core, pool_id, own))
        {
            self.attach(core, conn, stream);
            return;
        }
        // Not before: a dead idle connection may have been the last of its pool.
        match self.pools.entry(pool_id) {
            Entry::Occupied(mut pool) => pool.get_mut().endpoint = Arc::clone(endpoint),
            Entry::Vacant(place) => {
                place.insert(Pool::new(Arc::clone(endpoint)));
            }
        }
        let priority = self.priority_of(stream);
        let stats = cluster.stats;
        let thresholds = &cluster.config.thresholds;
        let Some(permit) = cluster
            .breakers
            .acquire(Resource::Pending, priority, thresholds)
        else {
            self.stats.inc(stats.upstream_rq_pending_overflow);
            self.upstream_failed(core, stream, UpstreamFailure::Overflow);
            self.forget_pool(pool_id);
            return;
        };
        self.stats.inc(stats.upstream_rq_pending_total);
        self.stats.gauge(stats.upstream_rq_pending_active, 1);
        host.totals.pending();
        if let Some(stream) = self.stream_mut(stream) {
            stream.waiting = Some(pool_id);
        }
        let Some(pool) = self.pools.get_mut(&pool_id) else {
            return;
        };
        let multiplexed = endpoint.codec().is_some() && !raw;
        // One that is being opened for this client takes its other streams too.
        let opening = multiplexed
            && own.is_some()
            && pool.pending.iter().any(|(other, _)| {
                let other = self.streams.0.get_key(*other);
                other.is_some_and(|other| other.client_key() == own)
            });
        pool.pending.push_back((stream, permit));
        let each = if multiplexed { ASSUMED_STREAMS } else { 1 };
        if raw || own.is_some() && !opening || pool.connecting * each < pool.pending.len() {
            self.connect(core, pool_id, priority, own, raw);
        }
    }

    fn priority_of(&self, stream: Key) -> Priority {
        match self.stream(stream) {
            Some(stream) if stream.high_priority => Priority::High,
            _ => Priority::Default,
        }
    }

    fn with_room(&mut self, host: PoolId, own: Option<Key>, leaves: bool) -> Option<Key> {
        let pool = self.pools.get_mut(&host)?;
        let conns = &self.conns;
        pool.shared.retain(|key| conns.contains(*key));
        pool.shared.iter().copied().find(|key| {
            self.conns
                .get_key(*key)
                .and_then(Conn::up)
                .is_some_and(|up| {
                    !up.connecting
                        && !up.draining
                        && up.only_for == own
                        && up.codec.room() > 0
                        && (!leaves || up.codec.takes_upgrades().is_some())
                })
        })
    }

    /// Takes an idle connection out of a pool, making it resident.
    fn take_idle<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        host: PoolId,
        own: Option<Key>,
    ) -> Option<Key> {
        loop {
            let slot = self.pools.get_mut(&host)?.idle.pop()?;
            if let Some(number) = core.resident(slot) {
                let Some(key) = self.conns.key(number) else {
                    continue;
                };
                let Some(conn) = self.conn_mut(key).filter(|conn| conn.slot == slot) else {
                    continue;
                };
                let used_up = conn.read_closed || conn.fin_seen || conn.readable;
                let Some(up) = conn.up_mut().filter(|up| up.idle) else {
                    continue;
                };
                if used_up {
                    // Its end, or bytes nobody asked for; out of the list nobody would look at it again.
                    self.upstream_gone(core, key, false);
                    continue;
                }
                up.idle = false;
                up.only_for = own;
                return Some(key);
            }
            if core.parked(slot).is_some()
                && let Some(key) = self.unpark_pooled(core, slot)
                && let Some(up) = self.conn_mut(key).and_then(Conn::up_mut)
            {
                if !up.streams.is_empty() && (own.is_some() || up.codec.room() == 0) {
                    // It has the streams of others, and may take no more.
                    continue;
                }
                up.idle = false;
                up.only_for = own;
                return Some(key);
            }
        }
    }

    /// Takes a stream that ended out of a host's queue.
    pub(super) fn stop_waiting(&mut self, stream: Key) {
        let Some(host) = self
            .stream_mut(stream)
            .and_then(|stream| stream.waiting.take())
        else {
            return;
        };
        let Some(pool) = self.pools.get_mut(&host) else {
            return;
        };
        if let Some(at) = pool.pending.iter().position(|(key, _)| *key == stream) {
            pool.pending.remove(at);
            let stats = pool.endpoint.cluster.stats;
            pool.endpoint.host.totals.pending_ended();
            self.stats.gauge(stats.upstream_rq_pending_active, -1);
            self.stats.inc(stats.upstream_rq_cancelled);
        }
        self.forget_pool(host);
    }

    /// A stream of this connection ended, or it has just connected: serve who waits, or be idle, or
    /// close.
    pub(super) fn upstream_quiet<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        loop {
            let Some(conn) = self.conn(key) else { return };
            let Some(up) = conn.up() else { return };
            let config = &up.endpoint.cluster.config;
            let worn = config.max_requests_per_connection > 0
                && up.requests >= config.max_requests_per_connection;
            // Of streams that the codec is through with something may still be on its way here.
            let over = up.codec.finished() && up.streams.is_empty() || conn.read_closed;
            if over || ((worn || up.draining) && up.streams.is_empty()) {
                if worn {
                    self.stats
                        .inc(up.endpoint.cluster.stats.upstream_cx_max_requests);
                }
                // The last bytes of a session are still wanted.
                if conn.output.is_empty() || over && !up.codec.is_raw() {
                    self.upstream_gone(core, key, false);
                } else {
                    self.close_after_flush(core, key);
                    self.rearm_client_timer(core, key);
                }
                return;
            }
            if worn || up.draining || conn.closing != Closing::No || up.codec.room() == 0 {
                return;
            }
            let host = up.endpoint.pool;
            let (only_for, raw) = (up.only_for, up.raw);
            let settled = up.codec.takes_upgrades().is_some();
            let idle = up.streams.is_empty();
            if idle && let Some(conn) = self.conn_mut(key) {
                // Whoever was full was the client of a stream that ended; the next one is another.
                conn.paused &= !pause::FULL;
            }
            let mut next = self.next_pending(host, only_for, raw, settled);
            if next.is_none() && idle && only_for.is_some() {
                // The one it was made for was served by another, which somebody else waited for.
                if let Some(up) = self.conn_mut(key).and_then(Conn::up_mut) {
                    up.only_for = None;
                }
                next = self.next_pending(host, None, raw, settled);
            }
            let Some(stream) = next else {
                if raw {
                    // The client it was for went away.
                    self.upstream_gone(core, key, false);
                } else if idle {
                    self.become_idle(core, key, host);
                }
                return;
            };
            self.attach(core, key, stream);
        }
    }

    fn next_pending(
        &mut self,
        host: PoolId,
        only_for: Option<Key>,
        raw: bool,
        settled: bool,
    ) -> Option<Key> {
        let pool = self.pools.get_mut(&host)?;
        let stats = pool.endpoint.cluster.stats;
        let mut at = 0;
        while let Some((stream, _)) = pool.pending.get(at) {
            let stream = *stream;
            let fits = self.streams.0.get_key(stream).map(|found| {
                found.terminates() == raw
                    && (only_for.is_none() || found.client_key() == only_for)
                    && (settled || !found.leaves_http())
            });
            if fits == Some(false) {
                at += 1;
                continue;
            }
            pool.pending.remove(at);
            pool.endpoint.host.totals.pending_ended();
            self.stats.gauge(stats.upstream_rq_pending_active, -1);
            if fits == Some(true) {
                return Some(stream);
            }
        }
        None
    }

    fn become_idle<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, host: PoolId) {
        let current = self.host_is_current(host);
        let now = core.now();
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        conn.active_ms = now;
        let slot = conn.slot;
        let Some(up) = conn.up_mut() else { return };
        if up.idle {
            return;
        }
        up.only_for = None;
        let timeout = up.endpoint.cluster.config.idle_timeout_ms;
        let shared = up.codec.shape() != Shape::PingPong;
        if !current {
            self.upstream_gone(core, key, false);
            return;
        }
        up.idle = true;
        if !shared && let Some(pool) = self.pools.get_mut(&host) {
            pool.idle.push(slot);
            if pool.idle.len() > 64 && pool.idle.len() > 2 * pool.total {
                let conns = &self.conns;
                pool.idle.retain(|slot| {
                    core.parked(*slot).is_some()
                        || core.resident(*slot).is_some_and(|n| conns.get(n).is_some())
                });
            }
        }
        if host.is_named() {
            self.named_rests(host);
        }
        if timeout > 0 {
            self.due_by(core, key, now + timeout);
        }
    }

    /// The host is still in its cluster.
    pub(super) fn host_is_current(&self, host: PoolId) -> bool {
        self.pools.get(&host).is_some_and(|pool| {
            self.snapshot
                .clusters
                .get(&pool.endpoint.cluster.id)
                .is_some_and(|cluster| {
                    // Most often it is the set the host was chosen from, which need not be searched.
                    Arc::ptr_eq(&cluster.hosts, &pool.endpoint.cluster.hosts)
                        || cluster.hosts.has(pool.endpoint.host.id)
                })
        })
    }

    /// An upstream connection ended: its streams are told, then it is closed.
    pub(super) fn upstream_gone<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, reset: bool) {
        self.upstream_ended(core, key, reset, ResetReason::Disconnected);
    }

    /// The same for a reason that its streams are to know.
    pub(super) fn upstream_ended<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        reset: bool,
        reason: ResetReason,
    ) {
        self.rouse_all(core, key);
        // An answer that was begun is one, even where its head never came to its end.
        let answered = self.conn(key).is_some_and(|conn| !conn.rest.is_empty());
        let Some(up) = self.conn_mut(key).and_then(Conn::up_mut) else {
            return;
        };
        if up.connecting {
            self.connect_failed(core, key, UpstreamFailure::Connect);
            return;
        }
        let streams = std::mem::take(&mut up.streams);
        let fresh = up.requests <= 1;
        let settled = up.codec.takes_upgrades().is_some();
        let endpoint = Arc::clone(&up.endpoint);
        if !streams.is_empty() {
            self.stats
                .inc(endpoint.cluster.stats.upstream_cx_destroy_with_active_rq);
        }
        self.drop_upstream(core, key, reset);
        if !settled && !self.is_one_opening(endpoint.pool) {
            // Whoever waited for what it would say waits in vain; others need no more than a connection.
            self.fail_waiting(
                core,
                endpoint.pool,
                UpstreamFailure::Terminated,
                Stream::leaves_http,
            );
        }
        for stream in streams.keys() {
            if let Some(found) = self.stream_mut(stream) {
                found.upstream = None;
                found.on_used_connection = !fresh && !answered;
            }
            self.uncount_upstream(stream);
            self.upstream_reset_uncounted(core, stream, reason);
        }
    }

    /// A connection of this pool is being opened, or has not said yet what it takes.
    fn is_one_opening(&self, pool: PoolId) -> bool {
        self.pools.get(&pool).is_some_and(|pool| {
            pool.connecting > 0
                || pool.shared.iter().any(|key| {
                    let up = self.conns.get_key(*key).and_then(Conn::up);
                    up.is_some_and(|up| up.codec.takes_upgrades().is_none())
                })
        })
    }

    pub(super) fn drop_upstream<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, reset: bool) {
        let Some(mut conn) = self.conns.remove(key.index) else {
            return;
        };
        conn.rest.clear(&mut core.chunks);
        conn.output.clear(&mut core.chunks);
        if !reset {
            Self::farewell(core, &mut conn, &mut self.sealed);
        }
        if let Role::Up(up) = &conn.role {
            self.note_upstream_closed(
                &up.endpoint,
                core.now().saturating_sub(conn.opened_ms),
                (conn.rx, conn.tx),
            );
            if conn.read_closed || conn.fin_seen {
                self.stats
                    .inc(up.endpoint.cluster.stats.upstream_cx_destroy_remote);
            } else {
                self.stats
                    .inc(up.endpoint.cluster.stats.upstream_cx_destroy_local);
            }
        }
        core.close(conn.slot, conn.sock, reset);
    }

    /// Counts the end of an upstream connection.
    pub(super) fn note_upstream_closed(
        &mut self,
        endpoint: &Endpoint,
        age_ms: u64,
        (rx, tx): (u64, u64),
    ) {
        let stats = &endpoint.cluster.stats;
        self.stats.inc(stats.upstream_cx_destroy);
        self.stats.gauge(stats.upstream_cx_active, -1);
        self.stats.add(stats.upstream_cx_rx_bytes_total, rx);
        self.stats.add(stats.upstream_cx_tx_bytes_total, tx);
        self.stats.record(stats.upstream_cx_length_ms, age_ms);
        endpoint
            .host
            .totals
            .cx_active
            .fetch_sub(1, Ordering::Relaxed);
        let host = endpoint.pool;
        if let Some(pool) = self.pools.get_mut(&host) {
            pool.total = pool.total.saturating_sub(1);
            if pool.total == 0 && pool.pending.is_empty() {
                self.pools.remove(&host);
            }
        }
    }

    /// An idle parked upstream has something: its end, or bytes nobody asked for. Either way it is
    /// of no use any more.
    /// One that multiplexes may say more than that, and does so to its codec.
    pub(super) fn parked_upstream_ready<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        slot: Key,
        ready: Ready,
    ) {
        let tls = core
            .parked(slot)
            .is_some_and(|record| matches!(record.cold.as_deref(), Some(Cold::Tls(_))));
        let asked = core
            .parked(slot)
            .is_some_and(|record| self.wants_waking(record));
        if tls || asked {
            // Of TLS: a ticket, or new keys: not for us to judge before it was opened.
            if let Some(key) = self.unpark_pooled(core, slot) {
                self.rearm_client_timer(core, key);
                self.resident_ready(core, key, ready);
            }
            return;
        }
        self.close_parked_upstream(core, slot);
    }

    /// A parked upstream connection whose codec has to be asked what becomes of it.
    pub(super) fn wants_waking(&self, record: &Record) -> bool {
        let endpoint = record.peer.as_ref();
        endpoint.is_some_and(|endpoint| endpoint.codec().is_some())
            || record.cold.as_deref().is_some_and(Cold::is_mux)
    }

    /// Closes a parked idle upstream.
    pub(super) fn close_parked_upstream<R: Reactor>(&mut self, core: &mut Core<R>, slot: Key) {
        let now = core.now();
        let streams = core
            .parked(slot)
            .is_some_and(|record| record.cold.as_deref().is_some_and(Cold::is_mux));
        if streams {
            // They are told.
            if let Some(key) = self.unpark_pooled(core, slot) {
                self.upstream_gone(core, key, false);
            }
            return;
        }
        let Some(record) = self.close_record(core, slot) else {
            return;
        };
        let Some(endpoint) = record.peer else { return };
        let priority = Self::record_priority(record.flags);
        drop(Self::take_up_connection(&endpoint, priority));
        self.stats
            .inc(endpoint.cluster.stats.upstream_cx_destroy_remote);
        self.note_upstream_closed(&endpoint, now.saturating_sub(record.opened.ms()), (0, 0));
    }

    /// Cold facts of a pooled record.
    pub(super) fn pooled_cold(compact: moorgate_codecs::Compact) -> Option<Box<Cold>> {
        (!compact.is_empty()).then(|| Box::new(Cold::Codec(compact)))
    }
}
