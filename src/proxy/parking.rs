//! From resident to parked and back.
//!
//! A connection is parked when no byte of it is anywhere in this process: nothing queued, nothing
//! unread, no message in part. What is left is the record; everything else goes back to the pools.

use std::sync::Arc;

use moorgate_codecs::{Codec, Shape, http1};

use super::config::{ChainId, NetworkFilter};
use super::conn::{Closing, Conn, Down, Role, StreamMap, Up, pause};
use super::facts::{Cold, Endpoint, ProxyFacts};
use super::gateway::{ChainRef, Core, Gateway};
use super::stream::Client;
use super::tunnel::{self, Origin};
use crate::cluster::breaker::{Permit, Priority, Resource};
use crate::engine::parked::{Deci, Kind, Parked, Token, flags};
use crate::engine::reactor::{Reactor, Sock};
use crate::engine::slab::Key;

/// Record bit: the connection counts against the high-priority thresholds.
const HIGH_PRIORITY: u8 = 64;
/// No second descriptor.
const NO_SOCK: Sock = Sock(-1);
/// Resident connections looked at in one turn.
const SWEEP: usize = 256;

type Record = Parked<ProxyFacts>;

impl Gateway {
    /// Looks for connections that fell silent, some in each turn, and parks them.
    pub(super) fn sweep<R: Reactor>(&mut self, core: &mut Core<R>) {
        let now = core.now();
        if self.conns.is_empty() {
            self.sweep_ms = u64::MAX;
            return;
        }
        if self.sweep_ms == u64::MAX {
            self.sweep_ms = now + self.tuning.quiet_ms;
        }
        if now < self.sweep_ms && self.sweep_at.is_none() {
            return;
        }
        let mut at = match self.sweep_at {
            Some(index) => self.conns.next_index(index),
            None => self.conns.first_index(),
        };
        for _ in 0..SWEEP {
            let Some(index) = at else { break };
            at = self.conns.next_index(index);
            self.sweep_at = Some(index);
            if let Some(key) = self.conns.key(index) {
                self.park_if_quiet(core, key);
            }
        }
        if at.is_none() {
            self.sweep_at = None;
            self.sweep_ms = now + self.tuning.quiet_ms.max(1);
            self.release_spare(core);
        }
    }

    fn release_spare<R: Reactor>(&mut self, core: &mut Core<R>) {
        if self.conns.is_empty() {
            self.sweep_ms = u64::MAX;
            core.chunks.trim();
            core.arena.release();
            self.events.shrink();
            self.out.bytes = Vec::new();
            self.dirty.shrink_to(16);
            self.ready.shrink_to(16);
        }
    }

    fn is_quiet(&self, conn: &Conn, now: u64) -> bool {
        now.saturating_sub(conn.active_ms) >= self.tuning.quiet_ms
            && (!conn.readable || conn.read_closed)
            && !conn.dirty
            && !conn.queued
            && !conn.blocked
            && conn.paused & (pause::FULL | pause::CONNECTING) == 0
            && conn.closing == Closing::No
            && conn.rest.is_empty()
            && conn.output.is_empty()
            && (!conn.fin_after_flush || conn.write_closed)
            && !Self::still_connecting(conn)
    }

    /// Parks a resident connection when nothing of it is moving.
    pub(super) fn park_if_quiet<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let Some(conn) = self.conn(key) else { return };
        if !self.is_quiet(conn, now) {
            return;
        }
        match &conn.role {
            Role::Down(down) if down.streams.is_empty() => self.park_idle(core, key),
            Role::Down(down) if down.codec.shape() == Shape::PingPong => {
                self.park_exchange(core, key)
            }
            Role::Down(_) => self.park_mux(core, key),
            Role::Up(up) if up.idle && up.codec.shape() == Shape::PingPong => {
                self.park_pooled(core, key);
            }
            Role::Up(_) => {}
            Role::Tunnel(end) if end.client => self.park_tunnel(core, key),
            Role::Tunnel(_) | Role::Waking => {}
        }
    }

    fn closed_bits(first: &Conn, second: Option<&Conn>) -> u8 {
        let mut bits = 0;
        let mut set = |on: bool, bit: u8| {
            if on {
                bits |= bit;
            }
        };
        set(first.read_closed, flags::READ_CLOSED_A);
        set(first.write_closed, flags::WRITE_CLOSED_A);
        if let Some(second) = second {
            set(second.read_closed, flags::READ_CLOSED_B);
            set(second.write_closed, flags::WRITE_CLOSED_B);
        }
        bits
    }

    fn earliest(timeouts: &[(u64, u64)]) -> Deci {
        let due = timeouts
            .iter()
            .filter(|(_, timeout)| *timeout > 0)
            .map(|(since, timeout)| since + timeout)
            .min();
        due.map_or(Deci::NEVER, Deci::from_ms)
    }

    fn park_idle<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        let Some(down) = conn.down() else { return };
        let Some(compact) = down.codec.park() else {
            return;
        };
        let http = &down.http;
        let kind = if down.codec.shape() == Shape::Multiplex {
            Kind::Mux
        } else {
            Kind::Idle
        };
        let draining = if down.draining { flags::DRAINING } else { 0 };
        let record = Record {
            socks: [conn.sock, NO_SOCK],
            owner: down.listener.id.0,
            chain: down.chain.id.0,
            opened: Deci::from_ms(conn.opened_ms),
            deadline: Self::earliest(&[
                (conn.active_ms, http.idle_timeout_ms),
                (conn.opened_ms, http.max_connection_duration_ms),
            ]),
            requests: down.requests,
            kind,
            flags: Self::closed_bits(conn, None) | draining,
            peer: None,
            cold: Self::pooled_cold(compact),
        };
        let stats = http.stats;
        let (rx, tx) = (conn.rx, conn.tx);
        if core.park(conn.slot, record).is_ok() {
            self.stats.add(stats.downstream_cx_rx_bytes_total, rx);
            self.stats.add(stats.downstream_cx_tx_bytes_total, tx);
            self.conns.remove(key.index);
        }
    }

    /// Whether a stream is open and silent, with nothing of it held anywhere.
    fn stream_is_silent(&self, key: Key) -> bool {
        self.stream(key).is_some_and(|stream| {
            stream.pending.is_none()
                && stream.hold_body.is_none()
                && stream.retry_at.is_none()
                && stream.waiting.is_none()
                && stream.upstream.is_some()
                && stream.request.buffer.is_empty()
                && stream.response.buffer.is_empty()
                && stream.response.trailers.is_none()
                && stream.request.trailers.is_none()
                && stream.request.unreleased == 0
                && stream.response.unreleased == 0
        })
    }

    /// An open one-to-one exchange: both connections become one record.
    fn park_exchange<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let Some(conn) = self.conn(key) else { return };
        let Some(down) = conn.down() else { return };
        let Some((id, stream_key)) = down.streams.at(0).filter(|_| down.streams.len() == 1) else {
            return;
        };
        if !self.stream_is_silent(stream_key) {
            return;
        }
        let Some(stream) = self.stream(stream_key) else {
            return;
        };
        let Some((up_key, up_id)) = stream.upstream.filter(|_| !stream.reverse) else {
            return;
        };
        let Some(up_conn) = self.conn(up_key).filter(|up| self.is_quiet(up, now)) else {
            return;
        };
        let Some(up) = up_conn.up() else { return };
        if up.codec.shape() != Shape::PingPong || up.streams.len() != 1 {
            return;
        }
        let (Some(down_compact), Some(up_compact)) = (down.codec.park(), up.codec.park()) else {
            return;
        };
        let deadline = Deci::from_ms(stream.deadline().min(
            match down.http.max_connection_duration_ms {
                0 => u64::MAX,
                age => conn.opened_ms + age,
            },
        ));
        let high = up
            .permit
            .as_ref()
            .is_some_and(|permit| permit.priority() == Priority::High);
        let draining = if down.draining { flags::DRAINING } else { 0 };
        let bits = Self::closed_bits(conn, Some(up_conn)) | draining;
        let (slot, up_slot) = (conn.slot, up_conn.slot);
        let record = Record {
            socks: [conn.sock, up_conn.sock],
            owner: down.listener.id.0,
            chain: down.chain.id.0,
            opened: Deci::from_ms(conn.opened_ms),
            deadline,
            requests: down.requests,
            kind: Kind::Pair,
            flags: bits | if high { HIGH_PRIORITY } else { 0 },
            peer: Some(Arc::clone(&up.endpoint)),
            cold: None,
        };
        let up_requests = up.requests;
        let up_opened_ms = up_conn.opened_ms;
        self.fold_bytes(key);
        self.fold_bytes(up_key);
        self.stream_wheel
            .cancel(&mut self.streams, stream_key.index);
        let Some(mut stream) = self.streams.0.remove(stream_key.index) else {
            return;
        };
        // Whatever only speeds up the busy is given back.
        stream.request.buffer = Default::default();
        stream.response.buffer = Default::default();
        stream.filters.shrink_to_fit();
        stream.tried = Vec::new();
        self.release_silent_head(&mut stream);
        let cold = Cold::Exchange {
            down: down_compact,
            up: up_compact,
            ids: (id, up_id),
            up_requests,
            up_opened_ms,
            stream: Box::new(stream),
        };
        let record = Record {
            cold: Some(Box::new(cold)),
            ..record
        };
        let mut removed = self.conns.remove(up_key.index);
        if let Some(Role::Up(up)) = removed.as_mut().map(|conn| &mut conn.role)
            && let Some(permit) = up.permit.take()
        {
            let _aside = permit.set_aside();
        }
        self.conns.remove(key.index);
        core.join(up_slot);
        if let Err((_, record)) = core.park(slot, record) {
            // The kernel refused to arm an open descriptor: there is nothing to go on with.
            self.drop_record(core, slot, record);
        }
    }

    fn fold_bytes(&mut self, key: Key) {
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        let (rx, tx) = (std::mem::take(&mut conn.rx), std::mem::take(&mut conn.tx));
        match &conn.role {
            Role::Down(down) => {
                let stats = &down.http.stats;
                self.stats.add(stats.downstream_cx_rx_bytes_total, rx);
                self.stats.add(stats.downstream_cx_tx_bytes_total, tx);
            }
            Role::Up(up) => {
                let stats = &up.endpoint.cluster.stats;
                self.stats.add(stats.upstream_cx_rx_bytes_total, rx);
                self.stats.add(stats.upstream_cx_tx_bytes_total, tx);
            }
            Role::Tunnel(_) | Role::Waking => {}
        }
    }

    fn park_mux<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        let Some(down) = conn.down() else { return };
        if !down
            .streams
            .entries()
            .iter()
            .all(|(_, stream)| self.stream_is_silent(*stream))
        {
            return;
        }
        let Some(compact) = down.codec.park() else {
            return;
        };
        let http = &down.http;
        let draining = if down.draining { flags::DRAINING } else { 0 };
        let streams = down.streams.entries().to_vec();
        let cold = Cold::Mux {
            codec: compact,
            streams,
        };
        let slot = conn.slot;
        let record = Record {
            socks: [conn.sock, NO_SOCK],
            owner: down.listener.id.0,
            chain: down.chain.id.0,
            opened: Deci::from_ms(conn.opened_ms),
            deadline: Self::earliest(&[(conn.opened_ms, http.max_connection_duration_ms)]),
            requests: down.requests,
            kind: Kind::Mux,
            flags: Self::closed_bits(conn, None) | draining,
            peer: None,
            cold: Some(Box::new(cold)),
        };
        let streams = down.streams.keys();
        self.fold_bytes(key);
        if core.park(slot, record).is_ok() {
            self.conns.remove(key.index);
            for stream in streams {
                if let Some(stream) = self.stream_mut(stream) {
                    stream.client = Client::Parked(slot);
                }
            }
        }
    }

    fn park_pooled<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        let Some(up) = conn.up() else { return };
        let Some(compact) = up.codec.park() else {
            return;
        };
        let config = &up.endpoint.cluster.config;
        let high = up
            .permit
            .as_ref()
            .is_some_and(|permit| permit.priority() == Priority::High);
        let slot = conn.slot;
        let record = Record {
            socks: [conn.sock, NO_SOCK],
            owner: up.endpoint.host.id.0,
            chain: 0,
            opened: Deci::from_ms(conn.opened_ms),
            deadline: Self::earliest(&[
                (conn.active_ms, config.idle_timeout_ms),
                (conn.opened_ms, config.max_connection_duration_ms),
            ]),
            requests: up.requests,
            kind: Kind::Pooled,
            flags: Self::closed_bits(conn, None) | if high { HIGH_PRIORITY } else { 0 },
            peer: Some(Arc::clone(&up.endpoint)),
            cold: Self::pooled_cold(compact),
        };
        self.fold_bytes(key);
        if core.park(slot, record).is_ok()
            && let Some(mut conn) = self.conns.remove(key.index)
            && let Role::Up(up) = &mut conn.role
            && let Some(permit) = up.permit.take()
        {
            let _aside = permit.set_aside();
        }
    }

    fn park_tunnel<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let Some(conn) = self.conn(key) else { return };
        let Role::Tunnel(end) = &conn.role else {
            return;
        };
        let Some(peer) = end.peer else { return };
        let Some(other) = self.conn(peer).filter(|other| self.is_quiet(other, now)) else {
            return;
        };
        let (Some(facts), Some(endpoint)) = (&end.facts, &end.endpoint) else {
            return;
        };
        let bits = Self::closed_bits(conn, Some(other)) | flags::TUNNEL;
        let (slot, peer_slot) = (conn.slot, other.slot);
        let active = conn.active_ms.max(other.active_ms);
        let record = Record {
            socks: [conn.sock, other.sock],
            owner: end.listener.id.0,
            chain: facts.chain,
            opened: Deci::from_ms(conn.opened_ms),
            deadline: Self::earliest(&[
                (active, facts.idle_timeout_ms()),
                (facts.started_ms, facts.max_duration_ms()),
            ]),
            requests: 0,
            kind: Kind::Pair,
            flags: bits,
            peer: Some(Arc::clone(endpoint)),
            cold: None,
        };
        // Without a log, chain and endpoint say all there is to know.
        let plain = matches!(&facts.origin, Origin::Tcp(tcp) if tcp.access_logs.is_empty());
        self.fold_tunnel_bytes(key);
        self.fold_upstream_bytes(peer);
        let facts = match self.tunnel_end_mut(key) {
            Some(end) if !plain => end.facts.take(),
            _ => None,
        };
        let record = Record {
            cold: facts.map(|facts| Box::new(Cold::Tunnel(facts))),
            ..record
        };
        if let Some(mut conn) = self.conns.remove(peer.index)
            && let Role::Tunnel(end) = &mut conn.role
            && let Some(permit) = end.permit.take()
        {
            let _aside = permit.set_aside();
        }
        self.conns.remove(key.index);
        core.join(peer_slot);
        if let Err((_, record)) = core.park(slot, record) {
            self.drop_record(core, slot, record);
        }
    }

    fn fold_upstream_bytes(&mut self, key: Key) {
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        let (rx, tx) = (std::mem::take(&mut conn.rx), std::mem::take(&mut conn.tx));
        if let Role::Tunnel(end) = &conn.role
            && let Some(endpoint) = &end.endpoint
        {
            self.stats
                .add(endpoint.cluster.stats.upstream_cx_rx_bytes_total, rx);
            self.stats
                .add(endpoint.cluster.stats.upstream_cx_tx_bytes_total, tx);
        }
    }

    /// The priority a record's upstream connection counts against.
    pub(super) fn record_priority(bits: u8) -> Priority {
        if bits & HIGH_PRIORITY == 0 {
            Priority::Default
        } else {
            Priority::High
        }
    }

    /// The breaker's permit of a parked upstream connection.
    pub(super) fn take_up_connection(endpoint: &Endpoint, priority: Priority) -> Permit {
        endpoint
            .cluster
            .breakers
            .take_up_kind(Resource::Connections, priority)
    }

    /// A parked connection woke and is ours: makes it resident and serves it.
    pub(super) fn woken<R: Reactor>(&mut self, core: &mut Core<R>, token: Token<ProxyFacts>) {
        let (side, ready) = (token.side, token.ready);
        let now = core.now();
        let placeholder = Conn::new(token.record.socks[0], Role::Waking, now);
        let key = self.conns.insert(placeholder);
        let Ok((slot, record, registered)) = core.adopt(token, key.index) else {
            self.conns.remove(key.index);
            return;
        };
        let second = record.socks[1];
        let Some((first, peer)) = self.restore(core, key, slot, record, registered) else {
            return;
        };
        // The first descriptor was re-armed, which polls anew; what woke it is served right away.
        let woken = if side && second.0 >= 0 {
            peer.unwrap_or(first)
        } else {
            first
        };
        self.resident_ready(core, woken, ready);
    }

    /// Makes a parked multiplexed client with open streams resident again, on its own worker.
    pub(super) fn unpark_mux<R: Reactor>(&mut self, core: &mut Core<R>, slot: Key) -> Option<Key> {
        let now = core.now();
        let sock = core.parked(slot)?.socks[0];
        let key = self.conns.insert(Conn::new(sock, Role::Waking, now));
        let Some(record) = core.unpark(slot, key.index) else {
            self.conns.remove(key.index);
            return None;
        };
        self.restore(core, key, slot, record, true)
            .map(|(key, _)| key)
    }

    /// Makes a parked idle upstream resident again.
    pub(super) fn unpark_pooled<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        slot: Key,
    ) -> Option<Key> {
        let now = core.now();
        let sock = core.parked(slot)?.socks[0];
        let key = self.conns.insert(Conn::new(sock, Role::Waking, now));
        let Some(record) = core.unpark(slot, key.index) else {
            self.conns.remove(key.index);
            return None;
        };
        let endpoint = record.peer?;
        let codec = Self::client_codec(&endpoint, record.cold.as_deref());
        let priority = Self::record_priority(record.flags);
        let permit = Self::take_up_connection(&endpoint, priority);
        let conn = self.conn_mut(key)?;
        conn.slot = slot;
        conn.opened_ms = record.opened.ms();
        conn.role = Role::Up(Box::new(Up {
            codec,
            endpoint,
            streams: StreamMap::default(),
            connecting: false,
            idle: true,
            requests: record.requests,
            only_for: None,
            draining: false,
            permit: Some(permit),
        }));
        Some(key)
    }

    fn client_codec(endpoint: &Endpoint, cold: Option<&Cold>) -> Box<dyn Codec> {
        let config = &endpoint.cluster.config;
        let empty = moorgate_codecs::Compact::default();
        let compact = match cold {
            Some(Cold::Codec(compact)) => compact,
            Some(Cold::Exchange { up, .. }) => up,
            _ => &empty,
        };
        match &config.codec {
            Some(factory) => factory.unpark(compact),
            None => Box::new(http1::Client::unpark(Arc::clone(&config.http1), compact)),
        }
    }

    /// Builds the resident objects of a record. Gives the first connection and its peer.
    fn restore<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        slot: Key,
        record: Record,
        registered: bool,
    ) -> Option<(Key, Option<Key>)> {
        let chain = self.chain(ChainId(record.chain));
        if let Some(conn) = self.conn_mut(key) {
            conn.slot = slot;
            conn.opened_ms = record.opened.ms();
            conn.read_closed = record.has(flags::READ_CLOSED_A);
            conn.write_closed = record.has(flags::WRITE_CLOSED_A);
            conn.fin_after_flush = conn.write_closed;
        }
        let Some(chain) = chain else {
            // Its filter chain went and was drained: there is nobody to serve it.
            self.drop_restored(core, key, slot, record, registered);
            return None;
        };
        if record.kind == Kind::Pair {
            return self.restore_pair(core, key, record, registered, &chain);
        }
        let NetworkFilter::Http(http) = &chain.chain.filter else {
            self.drop_restored(core, key, slot, record, registered);
            return None;
        };
        let (compact, streams) = match record.cold.map(|cold| *cold) {
            Some(Cold::Codec(compact)) => (compact, Vec::new()),
            Some(Cold::Mux { codec, streams }) => (codec, streams),
            _ => (moorgate_codecs::Compact::default(), Vec::new()),
        };
        for (_, stream) in &streams {
            if let Some(stream) = self.stream_mut(*stream) {
                stream.client = Client::Resident(key);
            }
        }
        let codec: Box<dyn Codec> = match &http.codec {
            Some(factory) => factory.unpark(&compact),
            None => Box::new(http1::Server::unpark(Arc::clone(&http.http1), &compact)),
        };
        let conn = self.conns.get_key_mut(key)?;
        let unknown = || crate::engine::reactor::Addr::Ip(([0, 0, 0, 0], 0).into());
        let (remote, local) = Self::addresses(core, conn);
        conn.role = Role::Down(Box::new(Down {
            codec,
            http: Arc::clone(http),
            listener: chain.listener,
            chain: chain.chain,
            streams: StreamMap::from_entries(streams),
            remote: remote.unwrap_or_else(unknown),
            local: local.unwrap_or_else(unknown),
            requests: record.requests,
            draining: record.flags & flags::DRAINING != 0,
            head_since: None,
            own_upstreams: false,
        }));
        self.rearm_client_timer(core, key);
        Some((key, None))
    }

    fn restore_pair<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        record: Record,
        registered: bool,
        chain: &ChainRef,
    ) -> Option<(Key, Option<Key>)> {
        let now = core.now();
        let endpoint = record.peer.clone()?;
        let sock = record.socks[1];
        let permit = Self::take_up_connection(&endpoint, Self::record_priority(record.flags));
        let peer = self.conns.insert(Conn::new(sock, Role::Waking, now));
        match core.split(sock, peer.index, registered) {
            Ok(slot) => {
                let conn = self.conn_mut(peer)?;
                conn.slot = slot;
                conn.opened_ms = record.opened.ms();
                conn.read_closed = record.has(flags::READ_CLOSED_B);
                conn.write_closed = record.has(flags::WRITE_CLOSED_B);
                conn.fin_after_flush = conn.write_closed;
            }
            Err(_) => {
                self.conns.remove(peer.index);
                if registered {
                    let _ = core.reactor.remove(sock);
                }
                core.reactor.close(sock, true);
                drop(permit);
                self.lose_pair(core, key, record);
                return None;
            }
        }
        let tunnel = record.has(flags::TUNNEL);
        let cold = record.cold.map(|cold| *cold);
        match cold {
            Some(Cold::Exchange {
                down,
                up,
                ids,
                up_requests,
                up_opened_ms,
                stream,
            }) => {
                let NetworkFilter::Http(http) = &chain.chain.filter else {
                    return None;
                };
                let mut stream = *stream;
                stream.client = Client::Resident(key);
                stream.upstream = Some((peer, ids.1));
                let stream_key = self.streams.0.insert(stream);
                self.schedule_stream(stream_key);
                let up_codec: Box<dyn Codec> = match &endpoint.cluster.config.codec {
                    Some(factory) => factory.unpark(&up),
                    None => Box::new(http1::Client::unpark(
                        Arc::clone(&endpoint.cluster.config.http1),
                        &up,
                    )),
                };
                let peer_conn = self.conn_mut(peer)?;
                peer_conn.opened_ms = up_opened_ms;
                peer_conn.role = Role::Up(Box::new(Up {
                    codec: up_codec,
                    endpoint,
                    streams: StreamMap::from_entries(vec![(ids.1, stream_key)]),
                    connecting: false,
                    idle: false,
                    requests: up_requests,
                    only_for: None,
                    draining: false,
                    permit: Some(permit),
                }));
                let codec: Box<dyn Codec> = match &http.codec {
                    Some(factory) => factory.unpark(&down),
                    None => Box::new(http1::Server::unpark(Arc::clone(&http.http1), &down)),
                };
                let conn = self.conns.get_key_mut(key)?;
                let unknown = || crate::engine::reactor::Addr::Ip(([0, 0, 0, 0], 0).into());
                let (remote, local) = Self::addresses(core, conn);
                conn.role = Role::Down(Box::new(Down {
                    codec,
                    http: Arc::clone(http),
                    listener: Arc::clone(&chain.listener),
                    chain: Arc::clone(&chain.chain),
                    streams: StreamMap::from_entries(vec![(ids.0, stream_key)]),
                    remote: remote.unwrap_or_else(unknown),
                    local: local.unwrap_or_else(unknown),
                    requests: record.requests,
                    draining: record.flags & flags::DRAINING != 0,
                    head_since: None,
                    own_upstreams: false,
                }));
            }
            other => {
                let facts = match other {
                    Some(Cold::Tunnel(facts)) => facts,
                    _ => self.plain_facts(chain, record.chain, record.opened.ms())?,
                };
                debug_assert!(tunnel);
                let listener = Arc::clone(&chain.listener);
                let other_end = tunnel::End {
                    peer: Some(key),
                    client: false,
                    connecting: false,
                    listener: Arc::clone(&listener),
                    endpoint: Some(Arc::clone(&endpoint)),
                    permit: Some(permit),
                    facts: None,
                };
                let end = tunnel::End {
                    peer: Some(peer),
                    client: true,
                    connecting: false,
                    listener,
                    endpoint: Some(endpoint),
                    permit: None,
                    facts: Some(facts),
                };
                self.conn_mut(peer)?.role = Role::Tunnel(Box::new(other_end));
                self.conn_mut(key)?.role = Role::Tunnel(Box::new(end));
                self.arm_tunnel_timer(core, key);
            }
        }
        Some((key, Some(peer)))
    }

    fn plain_facts(
        &self,
        chain: &ChainRef,
        id: u32,
        started_ms: u64,
    ) -> Option<Box<tunnel::Facts>> {
        let NetworkFilter::Tcp(tcp) = &chain.chain.filter else {
            return None;
        };
        Some(Box::new(tunnel::Facts {
            origin: Origin::Tcp(Arc::clone(tcp)),
            chain: id,
            attempts: 1,
            tried: Vec::new(),
            started_ms,
            number: 0,
            flags: 0,
            received: 0,
            sent: 0,
            stream: None,
        }))
    }

    /// Closes a record that could not be made resident.
    fn drop_restored<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        slot: Key,
        record: Record,
        registered: bool,
    ) {
        self.conns.remove(key.index);
        let second = record.socks[1];
        if second.0 >= 0 {
            if registered {
                let _ = core.reactor.remove(second);
            }
            core.reactor.close(second, false);
        }
        let first = record.socks[0];
        self.forget_record(core, record);
        core.close(slot, first, false);
    }

    fn lose_pair<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, mut record: Record) {
        let Some(conn) = self.conns.remove(key.index) else {
            return;
        };
        record.socks[1] = NO_SOCK;
        self.forget_record(core, record);
        core.close(conn.slot, conn.sock, true);
    }

    fn drop_record<R: Reactor>(&mut self, core: &mut Core<R>, slot: Key, record: Record) {
        let [first, second] = record.socks;
        if second.0 >= 0 {
            let _ = core.reactor.remove(second);
            core.reactor.close(second, true);
        }
        self.forget_record(core, record);
        core.close(slot, first, true);
    }

    /// Counts the end of a record whose descriptors are closed: its connection, its upstream, its open
    /// exchange.
    pub(super) fn forget_record<R: Reactor>(&mut self, core: &mut Core<R>, record: Record) {
        let age = core.now().saturating_sub(record.opened.ms());
        let chain = self.chain(ChainId(record.chain));
        let tunnel = record.has(flags::TUNNEL);
        let endpoint = record.peer;
        if let Some(endpoint) = endpoint.clone()
            && record.socks[1].0 >= 0
        {
            drop(Self::take_up_connection(
                &endpoint,
                Self::record_priority(record.flags),
            ));
            if tunnel {
                self.note_tunnel_upstream_closed(&endpoint, age, (0, 0));
            } else {
                self.note_upstream_closed(&endpoint, age, (0, 0));
            }
        }
        match record.cold.map(|cold| *cold) {
            Some(Cold::Exchange { stream, .. }) => {
                let mut stream = *stream;
                stream.client = Client::Gone;
                stream.upstream = None;
                let key = self.streams.0.insert(stream);
                self.uncount_upstream(key);
                self.end_stream(core, key);
            }
            Some(Cold::Mux { streams, .. }) => {
                for (_, stream) in streams {
                    self.client_gone(core, stream);
                }
            }
            Some(Cold::Tunnel(facts)) => {
                self.account_parked_tunnel(core, facts, endpoint.as_deref())
            }
            Some(Cold::Codec(_)) | None => {}
        }
        if let Some(chain) = chain {
            let http = match &chain.chain.filter {
                NetworkFilter::Http(http) if !tunnel => Some(Arc::clone(http)),
                _ => None,
            };
            self.client_closed(&chain.listener, http.as_ref(), age);
        }
    }
}
