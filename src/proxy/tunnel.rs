//! Two connections whose bytes go to each other: TCP proxying, WebSocket, CONNECT.
//!
//! A tunnel knows no messages. It keeps half-closes in both directions and ends when both directions
//! have ended. The facts of the session stay with the client's end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use moorgate_codecs::websocket::Follower;

use super::config::{Http, Listener, TcpProxy};
use super::conn::{Conn, Role, pause};
use super::facts::{Endpoint, Ends};
use super::gateway::{Core, Gateway};
use super::http::local_reply::UpstreamFailure;
use crate::cluster::balance::Pick;
use crate::cluster::breaker::{Permit, Priority, Resource};
use crate::engine::arena::Span;
use crate::engine::reactor::{Addr, Interest, Reactor};
use crate::engine::slab::Key;
use crate::telemetry::flags;

/// What a tunnel came from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// A connection that is proxied as it is.
    Tcp(Arc<TcpProxy>),
    /// An HTTP exchange that left HTTP.
    Upgrade(Arc<Http>),
}

/// One end of a tunnel.
#[derive(Debug)]
pub(super) struct End {
    pub(super) peer: Option<Key>,
    /// The client's end; it has the facts.
    pub(super) client: bool,
    pub(super) connecting: bool,
    pub(super) listener: Arc<Listener>,
    pub(super) endpoint: Option<Arc<Endpoint>>,
    /// Held by the upstream's end.
    pub(super) permit: Option<Permit>,
    pub(super) facts: Option<Box<Facts>>,
    /// Of a WebSocket: where the frames end that this end sends.
    pub(super) frames: Option<Follower>,
}

impl End {
    pub(super) fn buffer_limit(&self) -> u32 {
        match &self.endpoint {
            Some(endpoint) if !self.client => endpoint.cluster.config.buffer_limit,
            _ => self.listener.buffer_limit,
        }
    }
}

/// Facts of a session.
#[derive(Debug)]
pub struct Facts {
    pub(super) origin: Origin,
    pub(super) chain: u32,
    pub(super) attempts: u32,
    pub(super) tried: Vec<crate::cluster::HostId>,
    pub(super) started_ms: u64,
    pub(super) number: u64,
    pub(super) flags: u64,
    /// Bytes from the client and to it, of the time before it was last parked.
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Bytes from and to the client that were HTTP, before it was a tunnel.
    pub(super) before: (u64, u64),
    /// The client's address and ours, for a log: the socket cannot be asked when it is gone.
    pub(super) addresses: Option<Box<Ends>>,
    /// The upgraded request, for its access log.
    pub(super) stream: Option<Box<super::stream::Stream>>,
}

impl Facts {
    pub(super) fn idle_timeout_ms(&self) -> u64 {
        match &self.origin {
            Origin::Tcp(tcp) => tcp.idle_timeout_ms,
            Origin::Upgrade(http) => http.stream_idle_timeout_ms,
        }
    }

    /// Bytes from the client and to it that went through the tunnel.
    pub(super) fn payload(&self) -> (u64, u64) {
        (
            self.received.saturating_sub(self.before.0),
            self.sent.saturating_sub(self.before.1),
        )
    }

    pub(super) fn max_duration_ms(&self) -> u64 {
        match &self.origin {
            Origin::Tcp(tcp) => tcp.max_connection_duration_ms,
            Origin::Upgrade(http) => match &self.stream {
                Some(stream) => stream.timeouts.stream_ms,
                None => http.max_stream_duration_ms,
            },
        }
    }
}

impl Gateway {
    /// A new client of a TCP proxy: connects it.
    pub(super) fn start_tcp<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let random = core.reactor.random();
        let now = core.now();
        let Some(end) = self.tunnel_end(key) else {
            return;
        };
        let Some(facts) = &end.facts else { return };
        let Origin::Tcp(tcp) = &facts.origin else {
            return;
        };
        let tcp = Arc::clone(tcp);
        if facts.attempts >= tcp.max_connect_attempts {
            if let Some(endpoint) = &end.endpoint {
                self.stats
                    .inc(endpoint.cluster.stats.upstream_cx_connect_attempts_exceeded);
            }
            self.tunnel_refused(core, key, flags::UPSTREAM_CONNECT_FAILURE);
            return;
        }
        let total = tcp.clusters.last().map_or(0, |(_, weight)| *weight).max(1);
        let point = random % total;
        let chosen = tcp
            .clusters
            .iter()
            .find(|(_, cumulative)| point < *cumulative);
        let cluster = chosen
            .and_then(|(name, _)| self.snapshot.clusters.get(&name.id))
            .cloned();
        let Some(cluster) = cluster else {
            self.stats.inc(tcp.stats.downstream_cx_no_route);
            self.tunnel_refused(core, key, flags::NO_CLUSTER);
            return;
        };
        let tried = facts.tried.clone();
        let balancer = self.balancers.entry(cluster.id).or_default();
        let picked = balancer.pick(&cluster, || core.reactor.random(), &tried);
        let Pick::Host(host) = picked else {
            self.stats.inc(cluster.stats.upstream_cx_none_healthy);
            self.tunnel_refused(core, key, flags::NO_HEALTHY_UPSTREAM);
            return;
        };
        let host = Arc::clone(host);
        let thresholds = &cluster.config.thresholds;
        let permit = cluster
            .breakers
            .acquire(Resource::Connections, Priority::Default, thresholds);
        let Some(permit) = permit else {
            self.stats.inc(cluster.stats.upstream_cx_overflow);
            self.tunnel_refused(core, key, flags::UPSTREAM_OVERFLOW);
            return;
        };
        let endpoint = self.endpoint(&host, &cluster);
        if let Some(facts) = self.tunnel_end_mut(key).and_then(|end| end.facts.as_mut()) {
            facts.attempts += 1;
            facts.tried.push(host.id);
        }
        self.stats.inc(cluster.stats.upstream_cx_total);
        let opened = self.open_upstream(core, &endpoint);
        let listener = self.tunnel_end(key).map(|end| Arc::clone(&end.listener));
        let (Ok(sock), Some(listener)) = (opened, listener) else {
            self.tcp_connect_failed(core, key, &endpoint);
            return;
        };
        let end = End {
            peer: Some(key),
            client: false,
            connecting: true,
            listener,
            endpoint: Some(Arc::clone(&endpoint)),
            permit: Some(permit),
            facts: None,
            frames: None,
        };
        let peer = self
            .conns
            .insert(Conn::new(sock, Role::Tunnel(Box::new(end)), now));
        match core.open(sock, peer.index, Interest::Edge { write: true }) {
            Ok(slot) => {
                if let Some(conn) = self.conn_mut(peer) {
                    conn.slot = slot;
                    conn.write_armed = true;
                }
            }
            Err(_) => {
                core.reactor.close(sock, true);
                self.conns.remove(peer.index);
                self.tcp_connect_failed(core, key, &endpoint);
                return;
            }
        }
        self.stats.gauge(cluster.stats.upstream_cx_active, 1);
        host.totals.cx_total.fetch_add(1, Ordering::Relaxed);
        host.totals.cx_active.fetch_add(1, Ordering::Relaxed);
        if let Some(end) = self.tunnel_end_mut(key) {
            end.peer = Some(peer);
            end.endpoint = Some(endpoint);
        }
        self.due_by(core, peer, now + cluster.config.connect_timeout_ms);
    }

    fn tcp_connect_failed<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        endpoint: &Arc<Endpoint>,
    ) {
        self.stats
            .inc(endpoint.cluster.stats.upstream_cx_connect_fail);
        endpoint
            .host
            .totals
            .cx_connect_fail
            .fetch_add(1, Ordering::Relaxed);
        if let Some(end) = self.tunnel_end_mut(key) {
            end.peer = None;
            end.endpoint = Some(Arc::clone(endpoint));
        }
        self.start_tcp(core, key);
    }

    pub(super) fn tunnel_end(&self, key: Key) -> Option<&End> {
        match &self.conn(key)?.role {
            Role::Tunnel(end) => Some(end),
            _ => None,
        }
    }

    pub(super) fn tunnel_end_mut(&mut self, key: Key) -> Option<&mut End> {
        match &mut self.conn_mut(key)?.role {
            Role::Tunnel(end) => Some(end),
            _ => None,
        }
    }

    /// The outcome of a tunnel's connect is known; `key` is the upstream's end.
    pub(super) fn tunnel_connected<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conn_mut(key) else {
            return;
        };
        let (sock, slot) = (conn.sock, conn.slot);
        conn.write_armed = false;
        let connected = core.reactor.take_error(sock).is_ok();
        if !connected
            || core
                .arm(slot, sock, Interest::Edge { write: false })
                .is_err()
        {
            self.tunnel_connect_failed(core, key, false);
            return;
        }
        let endpoint = self.tunnel_end(key).and_then(|end| end.endpoint.clone());
        if endpoint.is_some_and(|endpoint| self.begin_upstream(core, key, &endpoint)) {
            return;
        }
        self.tunnel_established(core, key);
    }

    /// A tunnel's upstream takes bytes; `key` is its end.
    pub(super) fn tunnel_established<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let Some(conn) = self.conn(key) else { return };
        let opened = conn.opened_ms;
        let Some(end) = self.tunnel_end_mut(key) else {
            return;
        };
        end.connecting = false;
        let peer = end.peer;
        if let Some(endpoint) = end.endpoint.clone() {
            self.stats
                .record(endpoint.cluster.stats.upstream_cx_connect_ms, now - opened);
        }
        if let Some(peer) = peer {
            if let Some(client) = self.conn_mut(peer) {
                client.paused &= !pause::CONNECTING;
                client.active_ms = now;
                if let Role::Tunnel(end) = &mut client.role
                    && let Some(facts) = &mut end.facts
                    && let Origin::Tcp(tcp) = &facts.origin
                    && tcp.access_logs.is_empty()
                {
                    // Nobody asks for them any more.
                    facts.addresses = None;
                }
            }
            self.queue(peer);
            self.arm_tunnel_timer(core, peer);
        }
    }

    pub(super) fn arm_tunnel_timer<R: Reactor>(&mut self, core: &mut Core<R>, client: Key) {
        let now = core.now();
        let Some(facts) = self.tunnel_end(client).and_then(|end| end.facts.as_ref()) else {
            return;
        };
        let idle = facts.idle_timeout_ms();
        let longest = facts.max_duration_ms();
        let started = facts.started_ms;
        if idle > 0 {
            self.due_by(core, client, now + idle);
        }
        if longest > 0 {
            self.due_by(core, client, started + longest);
        }
    }

    /// A tunnel's connect failed: the next attempt, or the client is closed.
    pub(super) fn tunnel_connect_failed<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        timed_out: bool,
    ) {
        let Some(end) = self.tunnel_end(key) else {
            return;
        };
        let client = end.peer;
        let Some(endpoint) = end.endpoint.clone() else {
            return;
        };
        if timed_out {
            self.stats
                .inc(endpoint.cluster.stats.upstream_cx_connect_timeout);
        }
        self.drop_tunnel_end(core, key, true);
        if let Some(client) = client {
            self.tcp_connect_failed(core, client, &endpoint);
        }
    }

    fn tunnel_refused<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, flags: u64) {
        if let Some(facts) = self.tunnel_end_mut(key).and_then(|end| end.facts.as_mut()) {
            facts.flags |= flags;
        }
        self.tunnel_broken(core, key, false);
    }

    /// Bytes of one end go to the other. False when the source must not be read on now.
    pub(super) fn tunnel_bytes<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        span: Span,
    ) -> bool {
        let Some(end) = self.tunnel_end_mut(key) else {
            return false;
        };
        let Some(peer) = end.peer else {
            self.keep_rest(core, key, span);
            return false;
        };
        if let Some(frames) = &mut end.frames {
            frames.follow(core.arena.get(span));
        }
        let limit = self.output_limit(core, peer);
        let Some(conn) = self.conns.get_key_mut(peer) else {
            return false;
        };
        if !conn.write_closed {
            conn.output.push_span(span);
        }
        let waiting = conn.output.len();
        if waiting > limit {
            conn.throttles = true;
        }
        self.mark_dirty(peer);
        if waiting > limit
            && let Some(conn) = self.conn_mut(key)
        {
            conn.paused |= pause::FULL;
            self.note_stop(core, peer, waiting);
            return false;
        }
        true
    }

    /// This end of an upgraded exchange was the first to leave: its log says so.
    pub(super) fn note_left(&mut self, key: Key) {
        let Some(end) = self.tunnel_end(key) else {
            return;
        };
        let (client, peer) = (end.client, end.peer);
        let Some(peer) = peer.filter(|peer| self.conn(*peer).is_some_and(|c| !c.read_closed))
        else {
            return;
        };
        let with_facts = if client { key } else { peer };
        let facts = self
            .tunnel_end_mut(with_facts)
            .and_then(|end| end.facts.as_mut());
        let Some(stream) = facts.and_then(|facts| facts.stream.as_mut()) else {
            return;
        };
        if client {
            stream.flags |= flags::DOWNSTREAM_TERMINATION;
            stream.details = "downstream_remote_disconnect";
        } else if !stream.terminates() {
            let failure = UpstreamFailure::Terminated;
            stream.flags |= failure.flags();
            stream.details = failure.details(true);
        }
    }

    /// One end will send no more: the other is told when it has everything.
    pub(super) fn tunnel_eof<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        self.note_left(key);
        let Some(peer) = self.tunnel_end(key).and_then(|end| end.peer) else {
            self.tunnel_broken(core, key, false);
            return;
        };
        if let Some(conn) = self.conn_mut(peer) {
            conn.fin_after_flush = true;
        }
        self.mark_dirty(peer);
    }

    /// FIN was sent on one end; when both directions are through, the tunnel is over.
    pub(super) fn tunnel_half_closed<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(end) = self.tunnel_end(key) else {
            return;
        };
        let Some(peer) = end.peer else { return };
        let over = |conn: Option<&Conn>| conn.is_some_and(|c| c.read_closed && c.write_closed);
        if over(self.conn(key)) && over(self.conn(peer)) {
            self.tunnel_broken(core, key, false);
        }
    }

    /// Ends a tunnel: both ends are closed, what was still queued is dropped on a reset.
    pub(super) fn tunnel_broken<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, reset: bool) {
        let Some(end) = self.tunnel_end(key) else {
            return;
        };
        let peer = end.peer;
        if end.connecting {
            self.tunnel_connect_failed(core, key, false);
            return;
        }
        let client = if end.client { Some(key) } else { peer };
        if let Some(client) = client {
            self.account_tunnel(core, client);
        }
        if let Some(peer) = peer {
            // What one end said before it broke still reaches the other, if it takes it now.
            self.flush_last(core, peer);
            self.drop_tunnel_end(core, peer, reset);
        }
        self.drop_tunnel_end(core, key, reset);
    }

    pub(super) fn flush_last<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        if conn.output.is_empty() || conn.blocked {
            return;
        }
        if conn.tls.is_some() {
            // Nor does it here.
            let _ = Self::flush_secure(core, conn, &self.out.bytes, &mut self.sealed);
            return;
        }
        // The outcome does not matter any more.
        let _ = conn.output.flush(
            &mut core.reactor,
            conn.sock,
            &core.arena,
            &self.out.bytes,
            &mut core.chunks,
        );
    }

    fn drop_tunnel_end<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, reset: bool) {
        let Some(mut conn) = self.conns.remove(key.index) else {
            return;
        };
        conn.rest.clear(&mut core.chunks);
        conn.output.clear(&mut core.chunks);
        if !reset {
            Self::farewell(core, &mut conn, &mut self.sealed);
        }
        let age = core.now().saturating_sub(conn.opened_ms);
        if let Role::Tunnel(end) = &conn.role {
            if end.client {
                self.client_closed(&end.listener, None, age);
            } else if let Some(endpoint) = &end.endpoint {
                let stats = &endpoint.cluster.stats;
                self.stats.inc(if conn.read_closed {
                    stats.upstream_cx_destroy_remote
                } else {
                    stats.upstream_cx_destroy_local
                });
                self.note_tunnel_upstream_closed(endpoint, age, (conn.rx, conn.tx));
            }
        }
        core.close(conn.slot, conn.sock, reset);
    }

    pub(super) fn note_tunnel_upstream_closed(
        &self,
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
    }

    /// Counters and access log of a session that ends.
    fn account_tunnel<R: Reactor>(&mut self, core: &mut Core<R>, client: Key) {
        let now = core.now();
        let Some(conn) = self.conns.get_key_mut(client) else {
            return;
        };
        let (rx, tx) = (conn.rx, conn.tx);
        let Role::Tunnel(end) = &mut conn.role else {
            return;
        };
        let endpoint = end.endpoint.clone();
        let Some(mut facts) = end.facts.take() else {
            return;
        };
        facts.received += rx;
        facts.sent += tx;
        match &facts.origin {
            Origin::Tcp(tcp) => {
                self.stats.add(tcp.stats.downstream_cx_rx_bytes_total, rx);
                self.stats.add(tcp.stats.downstream_cx_tx_bytes_total, tx);
                if !tcp.access_logs.is_empty() {
                    let tcp = Arc::clone(tcp);
                    // Its connection lives on until it was logged.
                    let tls = self
                        .conns
                        .get_key_mut(client)
                        .and_then(|conn| conn.tls.take());
                    let agreed = tls.as_ref().map(|tls| tls.agreed());
                    self.log_session(&tcp, &facts, endpoint.as_deref(), agreed, now);
                    if let Some(conn) = self.conns.get_key_mut(client) {
                        conn.tls = tls;
                    }
                }
            }
            Origin::Upgrade(http) => {
                self.stats.add(http.stats.downstream_cx_rx_bytes_total, rx);
                self.stats.add(http.stats.downstream_cx_tx_bytes_total, tx);
                self.stats
                    .gauge(http.stats.downstream_cx_upgrades_active, -1);
                self.account_upgraded_close(http);
            }
        }
        if let Some(stream) = facts.stream.take() {
            self.end_upgraded(core, *stream, facts.payload());
        }
    }

    /// Bytes counted so far, before the tunnel's ends are parked.
    pub(super) fn fold_tunnel_bytes(&mut self, client: Key) {
        let Some(conn) = self.conns.get_key_mut(client) else {
            return;
        };
        let (rx, tx) = (std::mem::take(&mut conn.rx), std::mem::take(&mut conn.tx));
        let Role::Tunnel(end) = &mut conn.role else {
            return;
        };
        let Some(facts) = &mut end.facts else { return };
        facts.received += rx;
        facts.sent += tx;
        match &facts.origin {
            Origin::Tcp(tcp) => {
                self.stats.add(tcp.stats.downstream_cx_rx_bytes_total, rx);
                self.stats.add(tcp.stats.downstream_cx_tx_bytes_total, tx);
            }
            Origin::Upgrade(http) => {
                self.stats.add(http.stats.downstream_cx_rx_bytes_total, rx);
                self.stats.add(http.stats.downstream_cx_tx_bytes_total, tx);
            }
        }
    }

    /// A client connection for a TCP proxy.
    pub(super) fn tcp_role(
        &self,
        listener: &Arc<Listener>,
        chain: u32,
        tcp: &Arc<TcpProxy>,
        addresses: Option<Box<Ends>>,
        now: u64,
    ) -> Role {
        let facts = Facts {
            origin: Origin::Tcp(Arc::clone(tcp)),
            chain,
            attempts: 0,
            tried: Vec::new(),
            started_ms: now,
            number: self.next_number(),
            flags: 0,
            received: 0,
            sent: 0,
            before: (0, 0),
            addresses,
            stream: None,
        };
        Role::Tunnel(Box::new(End {
            peer: None,
            client: true,
            connecting: false,
            listener: Arc::clone(listener),
            endpoint: None,
            permit: None,
            facts: Some(Box::new(facts)),
            frames: None,
        }))
    }

    /// Addresses of a client, for logs.
    pub(super) fn addresses<R: Reactor>(
        core: &Core<R>,
        conn: &Conn,
    ) -> (Option<Addr>, Option<Addr>) {
        (
            core.reactor.peer_addr(conn.sock).ok(),
            core.reactor.local_addr(conn.sock).ok(),
        )
    }
}
