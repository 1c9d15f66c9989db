//! An HTTP exchange leaves HTTP.
//!
//! Where nothing else is on its two connections they become the ends of a tunnel. Where one of them has
//! other streams (extended CONNECT, RFC 8441, or CONNECT over HTTP/2) the exchange stays a stream whose
//! lanes are the two directions: what the pipeline does for bodies, it then does for the session, and an
//! HTTP/1 connection on the other side is told to pass bytes through.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use moorgate_codecs::Head;
use moorgate_codecs::websocket::{self, Follower};

use super::config::Http;
use super::conn::{Closing, Conn, Role, pause};
use super::gateway::{Core, Gateway};
use super::stream::Way;
use super::tunnel::{End, Facts, Origin};
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;

impl Gateway {
    /// The exchange of a stream left HTTP: both its connections become the ends of a tunnel.
    pub(super) fn become_tunnel<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        if self.stream(key).is_none() {
            return;
        }
        self.stream_wheel.cancel(&mut self.streams, key.index);
        let Some(mut stream) = self.streams.0.remove(key.index) else {
            return;
        };
        let (Some(client), Some((upstream, _))) = (stream.client_key(), stream.upstream) else {
            return;
        };
        let http = Arc::clone(&stream.http);
        self.stats.inc(http.stats.downstream_cx_upgrades_total);
        self.stats
            .gauge(http.stats.downstream_cx_upgrades_active, 1);
        if let Some(endpoint) = &stream.endpoint {
            self.stats
                .gauge(endpoint.cluster.stats.upstream_rq_active, -1);
            endpoint
                .host
                .active_requests
                .fetch_sub(1, Ordering::Relaxed);
        }
        stream.permit = None;
        stream.upstream = None;
        let number = stream.stream_number;
        self.turn_client(client, upstream, &http, Box::new(stream), number, now);
        self.turn_upstream(client, upstream);
        self.arm_tunnel_timer(core, client);
        for end in [client, upstream] {
            if let Some(conn) = self.conn_mut(end) {
                conn.paused = 0;
                conn.active_ms = now;
            }
            self.queue(end);
        }
    }

    fn turn_client(
        &mut self,
        client: Key,
        upstream: Key,
        http: &Arc<Http>,
        stream: Box<super::stream::Stream>,
        number: u64,
        now: u64,
    ) {
        let endpoint = stream.endpoint.clone();
        let websocket = stream.websocket;
        let Some(conn) = self.conn_mut(client) else {
            return;
        };
        let Role::Down(down) = &conn.role else { return };
        // Bytes that were read and not consumed are the tunnel's first; all that is queued is HTTP.
        let before = (
            conn.rx.saturating_sub(conn.rest.len() as u64),
            conn.tx + conn.output.len() as u64,
        );
        let facts = Facts {
            origin: Origin::Upgrade(Arc::clone(http)),
            chain: down.chain.id.0,
            attempts: 1,
            tried: Vec::new(),
            started_ms: now,
            number,
            flags: 0,
            received: 0,
            sent: 0,
            before,
            addresses: None,
            stream: Some(stream),
        };
        let end = End {
            peer: Some(upstream),
            client: true,
            connecting: false,
            listener: Arc::clone(&down.listener),
            endpoint,
            permit: None,
            facts: Some(Box::new(facts)),
            frames: websocket.then(|| Follower::new(websocket::Role::Server)),
        };
        conn.closing = Closing::No;
        conn.role = Role::Tunnel(Box::new(end));
    }

    fn turn_upstream(&mut self, client: Key, upstream: Key) {
        let end = self.tunnel_end(client);
        let websocket = end.is_some_and(|end| end.frames.is_some());
        let listener = end.map(|end| Arc::clone(&end.listener));
        let Some(conn) = self.conn_mut(upstream) else {
            return;
        };
        let Role::Up(up) = &mut conn.role else { return };
        let Some(listener) = listener else { return };
        let host = up.endpoint.pool;
        let end = End {
            peer: Some(client),
            client: false,
            connecting: false,
            listener,
            endpoint: Some(Arc::clone(&up.endpoint)),
            permit: up.permit.take(),
            facts: None,
            frames: websocket.then(|| Follower::new(websocket::Role::Client)),
        };
        conn.role = Role::Tunnel(Box::new(end));
        if let Some(pool) = self.pools.get_mut(&host) {
            pool.total = pool.total.saturating_sub(1);
            if pool.total == 0 && pool.pending.is_empty() {
                self.pools.remove(&host);
            }
        }
    }
}

impl Gateway {
    /// How the request of an exchange that is to leave HTTP goes to an upstream when it cannot become a
    /// tunnel: whether its HTTP message ends with the head. `None` when it cannot be said there.
    pub(super) fn open_towards<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        (key, upstream): (Key, Key),
        head: &mut Head,
    ) -> Option<bool> {
        let shared = self.is_multiplexed(upstream);
        let client = self.stream(key)?.client_key();
        let from_shared = client.is_some_and(|client| self.is_multiplexed(client));
        let stream = self.stream_mut(key)?;
        let lane = &mut stream.request;
        if shared {
            if from_shared {
                return Some(stream.bodiless);
            }
            // What HTTP/1 calls the end of its request is the beginning of the session here; a request with
            // a body of its own has no place for that.
            lane.done = false;
            lane.sent = false;
            return stream.bodiless.then_some(false);
        }
        // Nothing is said before the upstream agreed: it could take it for another request.
        lane.head_sent = false;
        lane.sent = false;
        if stream.websocket && head.get(b"sec-websocket-key").is_none() {
            // Over HTTP/2 there is none (RFC 8441 section 5), and HTTP/1 asks for one.
            let random = [core.reactor.random(), core.reactor.random()];
            let mut bytes = [0; 16];
            for (into, from) in bytes.chunks_exact_mut(8).zip(random) {
                into.copy_from_slice(&from.to_ne_bytes());
            }
            head.push(
                b"sec-websocket-key",
                websocket::client_key(bytes).as_bytes(),
            );
        }
        Some(true)
    }

    /// The answer to the key of an HTTP/1 client, where the upstream's protocol has none.
    pub(super) fn answer_key(&self, key: Key, head: &mut Head) {
        let Some(stream) = self.stream(key).filter(|stream| stream.websocket) else {
            return;
        };
        let asked = stream.head.as_ref();
        if head.get(b"sec-websocket-accept").is_none()
            && let Some(asked) = asked.and_then(|asked| asked.get(b"sec-websocket-key"))
        {
            head.push(
                b"sec-websocket-accept",
                websocket::accept_key(asked).as_bytes(),
            );
        }
    }

    /// The exchange left HTTP and stays a stream.
    pub(super) fn become_lanes<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        stream.tunnel = true;
        stream.request.head_sent = true;
        stream.request.sent &= stream.request.done;
        let ends = [
            stream.client_key(),
            stream.upstream.map(|(upstream, _)| upstream),
        ];
        let stats = stream.http.stats;
        self.stats.inc(stats.downstream_cx_upgrades_total);
        self.stats.gauge(stats.downstream_cx_upgrades_active, 1);
        for end in ends.into_iter().flatten() {
            let Some(conn) = self.conn_mut(end) else {
                continue;
            };
            conn.paused &= !(pause::ORDER | pause::CONNECTING);
            if let Some(codec) = conn.codec_mut() {
                codec.pass_through();
            }
            self.queue(end);
        }
        self.schedule_stream(key);
        self.pump(core, key, Way::Request);
        self.pump(core, key, Way::Response);
    }

    /// The upstream did not agree to leave HTTP: the request has no more than its head.
    pub(super) fn stays_http<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        let Some((upstream, _)) = stream.upstream else {
            return;
        };
        let lane = &mut stream.request;
        if stream.bodiless && !lane.done {
            // Its client had said all; the upstream is told now.
            lane.done = true;
            self.pump(core, key, Way::Request);
            return;
        }
        if !self.is_multiplexed(upstream)
            && let Some(stream) = self.streams.0.get_key_mut(key)
        {
            stream.request.buffer.clear(&mut core.chunks);
            stream.request.head_sent = true;
            stream.request.sent = true;
        }
    }

    /// A whole lane of a session went to its destination: a connection that is nothing but this session is
    /// told by its end.
    pub(super) fn end_raw(&mut self, key: Key, way: Way) {
        let to = self.stream(key).and_then(|stream| stream.destination(way));
        if let Some((to, _)) = to
            && self.is_raw(to)
            && let Some(conn) = self.conn_mut(to)
        {
            conn.fin_after_flush = true;
            self.mark_dirty(to);
        }
    }

    /// The connection is one stream of bytes.
    pub(super) fn is_raw(&self, key: Key) -> bool {
        self.conn(key).is_some_and(|conn| match &conn.role {
            Role::Down(down) => down.codec.is_raw(),
            Role::Up(up) => up.codec.is_raw(),
            Role::Tunnel(_) | Role::Detecting(_) | Role::Waking => false,
        })
    }

    pub(super) fn carries_streams(&self, key: Key) -> bool {
        let streams = self.conn(key).and_then(Conn::streams);
        streams.is_some_and(|streams| !streams.is_empty())
    }
}
