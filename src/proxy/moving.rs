//! Moving a busy connection to another worker.
//!
//! A bundle is everything that belongs to one client and to nobody else: its connection, its streams,
//! and the upstream connections that only they use. It is owned by value while it travels. What cannot
//! be bundled stays, and the reason is counted.

use std::collections::HashMap;

use super::conn::{Closing, Conn, Role};
use super::facts::Message;
use super::gateway::{Core, Gateway};
use super::stream::{Client, Stream};
use crate::engine::reactor::{Interest, Reactor};
use crate::engine::slab::Key;
use crate::telemetry::stats::Counter;

/// A client with all that belongs to it.
#[derive(Debug)]
pub struct Bundle {
    /// The client's connection first. Keys inside are those of the worker it left.
    conns: Vec<(Key, Conn)>,
    streams: Vec<(Key, Stream)>,
}

impl Gateway {
    /// Moves a client to another worker. Must be called between turns' flush and wait: no output may
    /// refer to the turn's buffers.
    pub(super) fn move_client<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        target: usize,
    ) -> bool {
        let (conns, streams) = match self.closure(key) {
            Ok(found) => found,
            Err(reason) => {
                self.stats.inc(reason);
                return false;
            }
        };
        let mut bundle = Bundle {
            conns: Vec::new(),
            streams: Vec::new(),
        };
        for key in conns {
            let Some(mut conn) = self.conns.remove(key.index) else {
                continue;
            };
            core.detach(conn.slot, conn.sock);
            conn.output
                .spill(&mut core.chunks, &core.arena, &self.out.bytes);
            conn.dirty = false;
            conn.queued = false;
            if let Role::Up(up) = &conn.role {
                self.leave_pool(up.endpoint.pool);
            }
            bundle.conns.push((key, conn));
        }
        for key in streams {
            self.stream_wheel.cancel(&mut self.streams, key.index);
            if let Some(stream) = self.streams.0.remove(key.index) {
                bundle.streams.push((key, stream));
            }
        }
        self.stats.inc(self.engine_stats.moves);
        core.siblings().members[target].post(Message::Moved(Box::new(bundle)));
        true
    }

    fn leave_pool(&mut self, host: crate::cluster::PoolId) {
        if let Some(pool) = self.pools.get_mut(&host) {
            pool.total = pool.total.saturating_sub(1);
            if pool.total == 0 && pool.pending.is_empty() {
                self.pools.remove(&host);
            }
        }
    }

    /// Connections and streams that belong to a client alone, or why they cannot go.
    fn closure(&self, key: Key) -> Result<(Vec<Key>, Vec<Key>), Counter> {
        let refused = &self.engine_stats;
        let Some(conn) = self.conn(key) else {
            return Err(refused.refused_closing);
        };
        if conn.closing != Closing::No {
            return Err(refused.refused_closing);
        }
        match &conn.role {
            Role::Tunnel(end) => {
                let Some(peer) = end.peer.filter(|_| end.client) else {
                    return Err(refused.refused_connecting);
                };
                if self.is_connecting(peer) {
                    return Err(refused.refused_connecting);
                }
                Ok((vec![key, peer], Vec::new()))
            }
            Role::Detecting(_) => Err(refused.refused_connecting),
            Role::Up(_) | Role::Waking => Err(refused.refused_shared_upstream),
            Role::Down(down) => {
                let mut conns = vec![key];
                let mut streams = down.streams.keys();
                streams.retain(|key| self.streams.0.contains(*key));
                for stream_key in &streams {
                    let Some(stream) = self.stream(*stream_key) else {
                        continue;
                    };
                    if stream.pending.is_some() {
                        return Err(refused.refused_pending_filter);
                    }
                    if stream.waiting.is_some() {
                        return Err(refused.refused_connecting);
                    }
                    let Some((up_key, _)) = stream.upstream else {
                        continue;
                    };
                    if conns.contains(&up_key) {
                        continue;
                    }
                    let Some(up) = self.conn(up_key).and_then(Conn::up) else {
                        continue;
                    };
                    let alone = up
                        .streams
                        .keys()
                        .iter()
                        .all(|other| streams.contains(other));
                    if !alone {
                        return Err(refused.refused_shared_upstream);
                    }
                    conns.push(up_key);
                }
                Ok((conns, streams))
            }
        }
    }

    /// A client that moves may not share upstream connections: its next streams get their own.
    pub(super) fn prepare_move(&mut self, key: Key) {
        if let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) {
            down.own_upstreams = true;
        }
    }

    /// Moves some client somewhere, if it can go.
    #[cfg(chaos)]
    pub(super) fn move_at_random<R: Reactor>(&mut self, core: &mut Core<R>) {
        let count = core.siblings().members.len();
        if count < 2 || self.drain.is_some_and(super::drain::Drain::is_whole) {
            return;
        }
        if self.stopped || !core.chaos.chance(100) {
            return;
        }
        let clients: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, conn)| match &conn.role {
                Role::Down(_) => true,
                Role::Tunnel(end) => end.client,
                Role::Up(_) | Role::Detecting(_) | Role::Waking => false,
            })
            .filter_map(|(index, _)| self.conns.key(index))
            .collect();
        if clients.is_empty() {
            return;
        }
        let client = clients[core.chaos.below(clients.len())];
        let step = 1 + core.chaos.below(count - 1);
        let target = (usize::from(core.id()) + step) % count;
        if !self.move_client(core, client, target) {
            self.prepare_move(client);
        }
    }

    /// Takes in a client that came from another worker.
    pub(super) fn moved_in<R: Reactor>(&mut self, core: &mut Core<R>, bundle: Bundle) {
        let now = core.now();
        let mut conn_keys = HashMap::new();
        let mut order = Vec::new();
        let mut lost = Vec::new();
        for (old, mut conn) in bundle.conns {
            let sock = conn.sock;
            let write = conn.write_armed;
            // What came in between leaving and arriving is polled by the new registration.
            conn.readable = true;
            conn.active_ms = now;
            conn.timer_ms = u64::MAX;
            conn.work = 0;
            let key = self.conns.insert(conn);
            match core.open(sock, key.index, Interest::Edge { write }) {
                Ok(slot) => {
                    if let Some(conn) = self.conn_mut(key) {
                        conn.slot = slot;
                    }
                }
                Err(_) => lost.push(key),
            }
            conn_keys.insert(old, key);
            order.push(key);
        }
        let mut stream_keys = HashMap::new();
        for (old, mut stream) in bundle.streams {
            if let Client::Resident(client) = stream.client {
                stream.client = conn_keys
                    .get(&client)
                    .map_or(Client::Gone, |key| Client::Resident(*key));
            }
            stream.upstream = stream
                .upstream
                .and_then(|(up, id)| conn_keys.get(&up).map(|key| (*key, id)));
            let key = self.streams.0.insert(stream);
            self.schedule_stream(key);
            stream_keys.insert(old, key);
        }
        for key in &order {
            self.rename(*key, &conn_keys, &stream_keys);
        }
        for key in lost {
            // It could not be registered here: it ends as if its peer had gone.
            self.unregistered_with_peer(core, key);
        }
        for key in order {
            if self.conn(key).is_some() {
                self.rearm_client_timer(core, key);
                if self.conn(key).is_some_and(|conn| !conn.output.is_empty()) {
                    self.mark_dirty(key);
                }
                self.queue(key);
            }
        }
    }

    fn rename(&mut self, key: Key, conns: &HashMap<Key, Key>, streams: &HashMap<Key, Key>) {
        let mut joined = None;
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        let renamed = |map: &super::conn::StreamMap| {
            let entries = map.entries().iter();
            let entries = entries.filter_map(|(id, old)| streams.get(old).map(|key| (*id, *key)));
            super::conn::StreamMap::from_entries(entries.collect())
        };
        match &mut conn.role {
            Role::Down(down) => {
                down.streams = renamed(&down.streams);
                down.own_upstreams = false;
            }
            Role::Up(up) => {
                up.streams = renamed(&up.streams);
                up.only_for = up.only_for.and_then(|old| conns.get(&old).copied());
                joined = Some((std::sync::Arc::clone(&up.endpoint), up.codec.shape()));
            }
            Role::Tunnel(end) => {
                end.peer = end.peer.and_then(|old| conns.get(&old).copied());
            }
            Role::Detecting(_) | Role::Waking => {}
        }
        if let Some((endpoint, shape)) = joined {
            let endpoint = self.adopt_endpoint(endpoint);
            if let Some(up) = self.conn_mut(key).and_then(Conn::up_mut) {
                up.endpoint = std::sync::Arc::clone(&endpoint);
            }
            let host = endpoint.pool;
            let pool = self
                .pools
                .entry(host)
                .or_insert_with(|| super::upstream::Pool::new(endpoint));
            pool.total += 1;
            if shape != moorgate_codecs::Shape::PingPong {
                pool.shared.push(key);
            }
        }
    }
}
