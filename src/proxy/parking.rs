//! From resident to parked.
//!
//! A connection is parked when no byte of it is anywhere in this process: nothing queued, nothing
//! unread, no message in part. What is left is the record; everything else goes back to the pools.

use std::sync::Arc;

use moorgate_codecs::Shape;
use moorgate_codecs::websocket::Follower;

use super::conn::{Closing, Conn, Role, pause};
use super::facts::{Cold, Endpoint, ParkedMux, ProxyFacts};
use super::gateway::{Core, Gateway};
use super::silent::{Exchange, Upgraded};
use super::stream::{Client, Stream};
use super::tunnel::{self, Origin};
use crate::cluster::breaker::{Permit, Priority, Resource};
use crate::engine::chunk::ByteQueue;
use crate::engine::parked::{Deci, Kind, Parked, flags};
use crate::engine::reactor::{Reactor, Sock};
use crate::engine::slab::Key;

/// Record bit: the connection counts against the high-priority thresholds.
const HIGH_PRIORITY: u8 = 64;
/// No second descriptor.
pub(super) const NO_SOCK: Sock = Sock(-1);
/// Resident connections looked at in one turn.
const SWEEP: usize = 256;

pub(super) type Record = Parked<ProxyFacts>;

impl Gateway {
    /// Looks for connections that fell silent, some in each turn, and parks them. While any had something
    /// to do lately it comes again by itself; when none had, only after the next turn that something else
    /// woke this worker for.
    pub(super) fn sweep<R: Reactor>(&mut self, core: &mut Core<R>) {
        let now = core.now();
        if self.conns.is_empty() {
            self.sweep_ms = u64::MAX;
            return;
        }
        if self.sweep_ms == u64::MAX {
            self.sweep_ms = now + self.tuning.quiet_ms;
        }
        #[cfg(chaos)]
        if core.chaos.chance(700) {
            self.sweep_ms = now;
        }
        if now < self.sweep_ms && self.sweep_at.is_none() {
            return;
        }
        let mut at = match self.sweep_at {
            Some(index) => self.conns.next_index(index),
            None => {
                self.sweep_again = false;
                self.conns.first_index()
            }
        };
        for _ in 0..SWEEP {
            let Some(index) = at else { break };
            at = self.conns.next_index(index);
            self.sweep_at = Some(index);
            let Some(conn) = self.conns.get(index) else {
                continue;
            };
            // What is not parkable now for another reason than this becomes so by an event.
            self.sweep_again |= now.saturating_sub(conn.active_ms) < self.tuning.quiet_ms;
            if let Some(key) = self.conns.key(index) {
                self.park_if_quiet(core, key);
            }
        }
        if at.is_none() {
            self.sweep_at = None;
            self.sweep_ms = if self.sweep_again {
                now + self.tuning.quiet_ms.max(1)
            } else {
                u64::MAX
            };
            self.release_spare(core);
        }
    }

    fn release_spare<R: Reactor>(&mut self, core: &mut Core<R>) {
        if self.conns.is_empty() {
            self.sweep_ms = u64::MAX;
            core.trim();
            self.conns.trim();
            self.streams.0.trim();
            self.packed.trim();
            self.events.shrink();
            self.out.bytes = Vec::new();
            self.sealed = Vec::new();
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
            && conn.tls.as_ref().is_none_or(|tls| tls.is_quiet())
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
            Role::Up(up) if up.idle && up.streams.is_empty() => self.park_pooled(core, key),
            Role::Up(up)
                if !up.streams.is_empty()
                    && !up.draining
                    && !up.raw
                    && up.only_for.is_none()
                    && !conn.read_closed
                    && !conn.fin_after_flush
                    && Self::all_rest(conn) =>
            {
                self.park_pooled(core, key);
            }
            Role::Up(_) => {}
            Role::Tunnel(end) if end.client => self.park_tunnel(core, key),
            Role::Tunnel(_) | Role::Detecting(_) | Role::Waking => {}
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
                (0, down.codec.next_deadline().unwrap_or(0)),
            ]),
            requests: down.requests,
            kind,
            flags: Self::closed_bits(conn, None) | draining,
            peer: None,
            cold: Cold::join(down.ends.clone(), Self::pooled_cold(compact)),
        };
        let stats = http.stats;
        let (rx, tx, slot) = (conn.rx, conn.tx, conn.slot);
        if self.park_record(core, key, slot, record) {
            self.stats.add(stats.downstream_cx_rx_bytes_total, rx);
            self.stats.add(stats.downstream_cx_tx_bytes_total, tx);
            self.conns.remove(key.index);
        }
    }

    /// Parks one connection with its TLS; where that fails it stays as it is.
    fn park_record<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        slot: Key,
        mut record: Record,
    ) -> bool {
        self.park_tls(&mut record, key, None);
        let Err((_, mut record)) = core.park(slot, record) else {
            return true;
        };
        let [tls, _] = Self::unpark_tls(&mut record);
        if let Some(conn) = self.conn_mut(key) {
            conn.tls = tls;
        }
        false
    }

    /// Whether a stream is open and silent, with nothing of it held anywhere.
    fn stream_is_silent(&self, key: Key) -> bool {
        self.stream(key).is_some_and(|stream| {
            stream.pending.is_none()
                && stream.hold_body.is_none()
                && stream.retry_at.is_none()
                && stream.waiting.is_none()
                && stream.replay.as_ref().is_none_or(ByteQueue::is_empty)
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
        let ends = down.ends.clone();
        let up_requests = up.requests;
        let up_opened_ms = up_conn.opened_ms;
        self.fold_bytes(key);
        self.fold_bytes(up_key);
        self.stream_wheel
            .cancel(&mut self.streams, stream_key.index);
        let Some(mut stream) = self.streams.0.remove(stream_key.index) else {
            return;
        };
        debug_assert_eq!(id, stream.client_id);
        self.release_silent_head(&mut stream);
        let cold = Cold::Exchange(Exchange::of(
            stream,
            (&down_compact, &up_compact),
            (up_id, up_requests, up_opened_ms),
        ));
        let mut record = Record {
            cold: Cold::join(ends, Some(Box::new(cold))),
            ..record
        };
        self.park_tls(&mut record, key, Some(up_key));
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
            Role::Tunnel(_) | Role::Detecting(_) | Role::Waking => {}
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
        let awake = down.streams.entries().to_vec();
        let due = awake.iter().filter_map(|(_, stream)| self.stream(*stream));
        let due = due.map(Stream::deadline).min();
        let slot = conn.slot;
        let record = Record {
            socks: [conn.sock, NO_SOCK],
            owner: down.listener.id.0,
            chain: down.chain.id.0,
            opened: Deci::from_ms(conn.opened_ms),
            deadline: Self::earliest(&[
                (conn.opened_ms, http.max_connection_duration_ms),
                (0, down.codec.next_deadline().unwrap_or(0)),
                (0, due.filter(|due| *due != u64::MAX).unwrap_or(0)),
            ]),
            requests: down.requests,
            kind: Kind::Mux,
            flags: Self::closed_bits(conn, None) | draining,
            peer: None,
            cold: None,
        };
        let ends = down.ends.clone();
        let mut upstreams = Vec::new();
        let mut streams = Vec::with_capacity(awake.len());
        for (id, stream) in awake {
            if let Some((upstream, _)) = self.stream(stream).and_then(|stream| stream.upstream)
                && !upstreams.contains(&upstream)
            {
                upstreams.push(upstream);
            }
            streams.extend(self.lay_to_rest(stream, slot).map(|rest| (id, rest)));
        }
        let cold = Cold::Mux(Box::new(ParkedMux {
            codec: compact,
            streams: streams.clone(),
        }));
        let record = Record {
            cold: Cold::join(ends, Some(Box::new(cold))),
            ..record
        };
        self.fold_bytes(key);
        if self.park_record(core, key, slot, record) {
            self.conns.remove(key.index);
            // They may have waited for nothing but this.
            for upstream in upstreams {
                self.park_if_quiet(core, upstream);
            }
            return;
        }
        for (id, rest) in streams {
            if let Some(stream) = self.raise(core, rest, Client::Resident(key))
                && let Some(down) = self.conn_mut(key).and_then(Conn::down_mut)
            {
                down.streams.insert(id, stream);
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
        let streams = up.streams.entries().to_vec();
        let (idle_ms, room) = match streams.len() {
            0 => (config.idle_timeout_ms, true),
            _ => (0, up.codec.room() > 0),
        };
        let cold = if streams.is_empty() {
            Self::pooled_cold(compact)
        } else {
            let codec = compact;
            let streams = streams.clone();
            Some(Box::new(Cold::Mux(Box::new(ParkedMux { codec, streams }))))
        };
        let record = Record {
            socks: [conn.sock, NO_SOCK],
            owner: up.endpoint.host.id.0,
            chain: 0,
            opened: Deci::from_ms(conn.opened_ms),
            deadline: Self::earliest(&[
                (conn.active_ms, idle_ms),
                (conn.opened_ms, config.max_connection_duration_ms),
                (0, up.codec.next_deadline().unwrap_or(0)),
            ]),
            requests: up.requests,
            kind: Kind::Pooled,
            flags: Self::closed_bits(conn, None) | if high { HIGH_PRIORITY } else { 0 },
            peer: Some(Arc::clone(&up.endpoint)),
            cold,
        };
        let shared = up.codec.shape() != Shape::PingPong;
        let host = up.endpoint.pool;
        self.fold_bytes(key);
        if !self.park_record(core, key, slot, record) {
            return;
        }
        if shared && let Some(pool) = self.pools.get_mut(&host) {
            // As long as it is parked it is one of those that are idle.
            pool.shared.retain(|other| *other != key);
            if room {
                pool.idle.push(slot);
            }
        }
        self.upstream_rests(&streams, slot);
        if let Some(mut conn) = self.conns.remove(key.index)
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
        let Role::Tunnel(other_end) = &other.role else {
            return;
        };
        let frames = end.frames.zip(other_end.frames).map(<[_; 2]>::from);
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
        let mut record = Record {
            cold: facts.map(|facts| Box::new(self.tunnel_cold(facts, frames))),
            ..record
        };
        self.park_tls(&mut record, key, Some(peer));
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

    /// What a session is parked with. Of one that was an exchange the packed stream is all there is to keep,
    /// with the bytes so far in it.
    fn tunnel_cold(
        &mut self,
        mut facts: Box<tunnel::Facts>,
        frames: Option<[Follower; 2]>,
    ) -> Cold {
        let Some(mut stream) = facts.stream.take() else {
            return Cold::Tunnel(facts);
        };
        let (received, sent) = facts.payload();
        stream.request.bytes += received;
        stream.response.bytes += sent;
        self.release_silent_head(&mut stream);
        Cold::Upgraded(Upgraded::of(*stream, facts.started_ms, frames))
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
}
