//! Opening upstream connections: the connect, its outcome, and what those who wait for it get.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use moorgate_codecs::{Shape, http1};

use super::conn::{Conn, Role, StreamMap, Up};
use super::facts::Endpoint;
use super::gateway::{Core, Gateway};
use super::http::local_reply::UpstreamFailure;
use super::listen::is_exhaustion;
use super::stream::Stream;
use crate::cluster::PoolId;
use crate::cluster::breaker::{Priority, Resource};
use crate::engine::arena::Span;
use crate::engine::reactor::{Interest, Reactor, Sock};
use crate::engine::slab::Key;

impl Gateway {
    /// Opens a connection to a host. `own`: for this client alone; `raw`: for the payload of a CONNECT.
    pub(super) fn connect<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        host: PoolId,
        priority: Priority,
        own: Option<Key>,
        raw: bool,
    ) {
        let Some(pool) = self.pools.get(&host) else {
            return;
        };
        let endpoint = Arc::clone(&pool.endpoint);
        let cluster = Arc::clone(&endpoint.cluster);
        let thresholds = &cluster.config.thresholds;
        let permit = match cluster
            .breakers
            .acquire(Resource::Connections, priority, thresholds)
        {
            Some(permit) => permit,
            None => match self.connect_beyond(core, &endpoint, priority, raw) {
                Some(permit) => permit,
                None => return,
            },
        };
        let now = core.now();
        let sock = match self.open_upstream(core, &endpoint) {
            Ok(sock) => sock,
            Err(failure) => {
                self.stats.inc(cluster.stats.upstream_cx_total);
                self.stats.inc(cluster.stats.upstream_cx_connect_fail);
                endpoint
                    .host
                    .totals
                    .cx_connect_fail
                    .fetch_add(1, Ordering::Relaxed);
                drop(permit);
                self.fail_pending(core, host, failure);
                return;
            }
        };
        let codec = match endpoint.codec() {
            Some(factory) if !raw => factory.make(),
            _ => Box::new(http1::Client::new(Arc::clone(&cluster.config.http1))),
        };
        let up = Up {
            codec,
            endpoint: Arc::clone(&endpoint),
            streams: StreamMap::default(),
            connecting: true,
            idle: false,
            requests: 0,
            only_for: own,
            raw,
            draining: false,
            permit: Some(permit),
        };
        let key = self
            .conns
            .insert(Conn::new(sock, Role::Up(Box::new(up)), now));
        match core.open(sock, key.index, Interest::Edge { write: true }) {
            Ok(slot) => {
                if let Some(conn) = self.conn_mut(key) {
                    conn.slot = slot;
                    conn.write_armed = true;
                }
            }
            Err(_) => {
                core.reactor.close(sock, true);
                self.conns.remove(key.index);
                self.fail_pending(core, host, UpstreamFailure::Connect);
                return;
            }
        }
        let stats = &cluster.stats;
        self.stats.inc(stats.upstream_cx_total);
        self.stats.gauge(stats.upstream_cx_active, 1);
        match endpoint.codec() {
            None => self.stats.inc(stats.upstream_cx_http1_total),
            Some(codec) if codec.http2().is_some() && !raw => {
                self.stats.inc(stats.upstream_cx_http2_total);
            }
            Some(_) => {}
        }
        endpoint
            .host
            .totals
            .cx_total
            .fetch_add(1, Ordering::Relaxed);
        endpoint
            .host
            .totals
            .cx_active
            .fetch_add(1, Ordering::Relaxed);
        if let Some(pool) = self.pools.get_mut(&host) {
            pool.connecting += 1;
            pool.total += 1;
        }
        self.due_by(core, key, now + cluster.config.connect_timeout_ms);
    }

    /// Opens a socket to a host and begins to connect it. When descriptors have run out, an idle client
    /// makes room.
    pub(super) fn open_upstream<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        endpoint: &Endpoint,
    ) -> Result<Sock, UpstreamFailure> {
        let (addr, socket) = (&endpoint.host.addr, &endpoint.cluster.config.socket);
        let error = match core.reactor.connect(addr, socket) {
            Ok(sock) => return Ok(sock),
            Err(error) => error,
        };
        if !is_exhaustion(&error) {
            return Err(UpstreamFailure::Connect);
        }
        self.stats.inc(self.engine_stats.out_of_descriptors);
        if !self.make_room(core) {
            return Err(UpstreamFailure::LocalConnect);
        }
        let again = core.reactor.connect(addr, socket);
        again.map_err(|_| UpstreamFailure::LocalConnect)
    }

    /// The outcome of a connect is known.
    pub(super) fn connect_ended<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        let sock = conn.sock;
        if matches!(conn.role, Role::Tunnel(_)) {
            self.tunnel_connected(core, key);
            return;
        }
        if core.reactor.take_error(sock).is_err() {
            self.connect_failed(core, key, UpstreamFailure::Connect);
            return;
        }
        let Some(conn) = self.conn_mut(key) else {
            return;
        };
        conn.write_armed = false;
        let slot = conn.slot;
        let Some(up) = conn.up() else { return };
        let endpoint = Arc::clone(&up.endpoint);
        if core
            .arm(slot, sock, Interest::Edge { write: false })
            .is_err()
        {
            self.connect_failed(core, key, UpstreamFailure::Connect);
            return;
        }
        if !self.begin_upstream(core, key, &endpoint) {
            self.upstream_connected(core, key);
        }
    }

    /// A connection can carry streams.
    pub(super) fn upstream_connected<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let Some(conn) = self.conn_mut(key) else {
            return;
        };
        let opened = conn.opened_ms;
        let Some(up) = conn.up_mut() else { return };
        up.connecting = false;
        let endpoint = Arc::clone(&up.endpoint);
        let multiplexed = up.codec.shape() != Shape::PingPong;
        let host = endpoint.pool;
        self.stats
            .record(endpoint.cluster.stats.upstream_cx_connect_ms, now - opened);
        if let Some(pool) = self.pools.get_mut(&host) {
            pool.connecting = pool.connecting.saturating_sub(1);
            if multiplexed {
                pool.shared.push(key);
            }
        }
        if multiplexed {
            let none = Span { start: 0, len: 0 };
            self.encode(key, none, |codec, out| codec.begin(out));
        }
        self.upstream_quiet(core, key);
    }

    /// A connect failed or took too long: all that wait for this host are told, as they would only
    /// meet the same.
    pub(super) fn connect_failed<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        failure: UpstreamFailure,
    ) {
        let Some(up) = self.conn(key).and_then(Conn::up) else {
            return;
        };
        let endpoint = Arc::clone(&up.endpoint);
        let stats = &endpoint.cluster.stats;
        self.stats.inc(stats.upstream_cx_connect_fail);
        if failure == UpstreamFailure::ConnectTimeout {
            self.stats.inc(stats.upstream_cx_connect_timeout);
        }
        endpoint
            .host
            .totals
            .cx_connect_fail
            .fetch_add(1, Ordering::Relaxed);
        if let Some(pool) = self.pools.get_mut(&endpoint.pool) {
            pool.connecting = pool.connecting.saturating_sub(1);
        }
        self.drop_upstream(core, key, true);
        self.fail_pending(core, endpoint.pool, failure);
    }

    pub(super) fn fail_pending<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        host: PoolId,
        failure: UpstreamFailure,
    ) {
        self.fail_waiting(core, host, failure, |_| true);
    }

    /// Fails those of them for whom `fails` is true.
    pub(super) fn fail_waiting<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        host: PoolId,
        failure: UpstreamFailure,
        fails: impl Fn(&Stream) -> bool,
    ) {
        let streams = &self.streams;
        let Some(pool) = self.pools.get_mut(&host) else {
            return;
        };
        let waiting = std::mem::take(&mut pool.pending);
        let (waiting, others): (VecDeque<_>, _) = waiting
            .into_iter()
            .partition(|(stream, _)| streams.0.get_key(*stream).is_none_or(&fails));
        pool.pending = others;
        let stats = pool.endpoint.cluster.stats;
        let endpoint = Arc::clone(&pool.endpoint);
        for (stream, permit) in waiting {
            drop(permit);
            endpoint.host.totals.pending_ended();
            self.stats.gauge(stats.upstream_rq_pending_active, -1);
            let Some(found) = self.stream_mut(stream) else {
                continue;
            };
            if found.waiting.take() != Some(host) {
                continue;
            }
            self.stats.inc(stats.upstream_rq_pending_failure_eject);
            self.upstream_failed(core, stream, failure);
        }
        self.forget_pool(host);
    }
}
