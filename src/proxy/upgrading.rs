//! An HTTP exchange leaves HTTP: both its connections become the ends of a tunnel.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::config::Http;
use super::conn::{Closing, Role};
use super::gateway::{Core, Gateway};
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
        };
        conn.closing = Closing::No;
        conn.role = Role::Tunnel(Box::new(end));
    }

    fn turn_upstream(&mut self, client: Key, upstream: Key) {
        let listener = self.tunnel_end(client).map(|end| Arc::clone(&end.listener));
        let Some(conn) = self.conn_mut(upstream) else {
            return;
        };
        let Role::Up(up) = &mut conn.role else { return };
        let Some(listener) = listener else { return };
        let host = up.endpoint.host.id;
        let end = End {
            peer: Some(client),
            client: false,
            connecting: false,
            listener,
            endpoint: Some(Arc::clone(&up.endpoint)),
            permit: up.permit.take(),
            facts: None,
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
