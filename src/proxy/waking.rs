//! From parked to resident: what a record becomes when a byte, a request or the end arrives.
//!
//! The resident objects are built anew from the record and its cold block. A record that cannot be served
//! any more is closed and counted here, whatever it was.

use std::sync::Arc;

use moorgate_codecs::{Codec, Shape, StreamId, http1};

use super::config::{ChainId, Http, NetworkFilter};
use super::conn::{Conn, Down, Role, StreamMap, Up};
use super::facts::{Cold, Endpoint, Ends, ProxyFacts};
use super::gateway::{ChainRef, Core, Gateway};
use super::parking::{NO_SOCK, Record};
use super::secure::Secure;
use super::silent::Upgraded;
use super::stream::Client;
use super::tunnel::{self, Origin};
use crate::engine::parked::{Kind, Token, flags};
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;

/// What a client's record says of it besides its codec and streams.
struct Carried {
    requests: u32,
    /// It takes no more of them.
    draining: bool,
    ends: Option<Box<Ends>>,
}

impl Gateway {
    /// A parked connection woke and is ours: makes it resident and serves it.
    pub(super) fn woken<R: Reactor>(&mut self, core: &mut Core<R>, token: Token<ProxyFacts>) {
        let (side, ready) = (token.side, token.ready);
        let now = core.now();
        let placeholder = Conn::new(token.record.socks[0], Role::Waking, now);
        let key = self.conns.insert(placeholder);
        let (slot, record, registered) = match core.adopt(token, key.index) {
            Ok(adopted) => adopted,
            Err(record) => {
                self.conns.remove(key.index);
                self.forget_record(core, record);
                return;
            }
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
        let Some(mut record) = core.unpark(slot, key.index) else {
            self.conns.remove(key.index);
            return None;
        };
        let [tls, _] = Self::unpark_tls(&mut record);
        let endpoint = record.peer?;
        let (remainder, streams) = match record.cold.map(|cold| *cold) {
            Some(Cold::Codec(compact)) => (compact, Vec::new()),
            Some(Cold::Mux(parked)) => (parked.codec, parked.streams),
            _ => (moorgate_codecs::Compact::default(), Vec::new()),
        };
        let codec = Self::client_codec(&endpoint, &remainder);
        let priority = Self::record_priority(record.flags);
        let permit = Self::take_up_connection(&endpoint, priority);
        if codec.shape() != Shape::PingPong
            && let Some(pool) = self.pools.get_mut(&endpoint.pool)
        {
            pool.shared.push(key);
            pool.idle.retain(|other| *other != slot);
        }
        self.upstream_wakes(&streams, key);
        let busy = !streams.is_empty();
        let conn = self.conn_mut(key)?;
        conn.slot = slot;
        conn.tls = tls;
        conn.opened_ms = record.opened.ms();
        conn.role = Role::Up(Box::new(Up {
            codec,
            endpoint,
            streams: StreamMap::from_entries(streams),
            connecting: false,
            idle: !busy,
            requests: record.requests,
            only_for: None,
            raw: false,
            draining: false,
            permit: Some(permit),
        }));
        if busy {
            self.rearm_client_timer(core, key);
        }
        Some(key)
    }

    fn client_codec(endpoint: &Endpoint, remainder: &[u8]) -> Box<dyn Codec> {
        match endpoint.codec() {
            Some(factory) => factory.unpark(remainder),
            None => {
                let settings = Arc::clone(&endpoint.cluster.config.http1);
                Box::new(http1::Client::unpark(settings, remainder))
            }
        }
    }

    fn server_codec(http: &Http, multiplexed: bool, remainder: &[u8]) -> Box<dyn Codec> {
        let other = match &http.codec {
            None if multiplexed => &http.http2,
            codec => codec,
        };
        match other {
            Some(factory) => factory.unpark(remainder),
            None => Box::new(http1::Server::unpark(Arc::clone(&http.http1), remainder)),
        }
    }

    /// The client that a record was. `carried`: its requests, and whether it takes no more of them.
    fn client_role<R: Reactor>(
        core: &Core<R>,
        conn: &Conn,
        chain: &ChainRef,
        http: &Arc<Http>,
        codec: Box<dyn Codec>,
        streams: Vec<(StreamId, Key)>,
        carried: Carried,
    ) -> Role {
        let unknown = || crate::engine::reactor::Addr::Ip(([0, 0, 0, 0], 0).into());
        let (remote, local) = match &carried.ends {
            Some(ends) => (Some(ends.remote.clone()), Some(ends.local.clone())),
            None => Self::addresses(core, conn),
        };
        Role::Down(Box::new(Down {
            codec,
            http: Arc::clone(http),
            listener: Arc::clone(&chain.listener),
            chain: Arc::clone(&chain.chain),
            streams: StreamMap::from_entries(streams),
            remote: remote.unwrap_or_else(unknown),
            local: local.unwrap_or_else(unknown),
            ends: carried.ends,
            requests: carried.requests,
            draining: carried.draining,
            head_since: None,
            own_upstreams: false,
        }))
    }

    /// Builds the resident objects of a record. Gives the first connection and its peer.
    fn restore<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        slot: Key,
        mut record: Record,
        registered: bool,
    ) -> Option<(Key, Option<Key>)> {
        let [first, second] = Self::unpark_tls(&mut record);
        let chain = self.chain(ChainId(record.chain));
        if let Some(conn) = self.conn_mut(key) {
            conn.slot = slot;
            conn.tls = first;
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
            return self.restore_pair(core, key, record, second, registered, &chain);
        }
        let NetworkFilter::Http(http) = &chain.chain.filter else {
            self.drop_restored(core, key, slot, record, registered);
            return None;
        };
        let (requests, draining) = (record.requests, record.has(flags::DRAINING));
        let multiplexed = record.kind == Kind::Mux;
        let (ends, cold) = Cold::split(record.cold);
        let carried = Carried {
            requests,
            draining,
            ends,
        };
        let (compact, mut streams) = match cold {
            Some(Cold::Codec(compact)) => (compact, Vec::new()),
            Some(Cold::Mux(parked)) => (parked.codec, parked.streams),
            _ => (moorgate_codecs::Compact::default(), Vec::new()),
        };
        streams.retain_mut(|(_, stream)| {
            let raised = self.raise(core, *stream, Client::Resident(key));
            *stream = raised.unwrap_or(*stream);
            raised.is_some()
        });
        let codec = Self::server_codec(http, multiplexed, &compact);
        let conn = self.conns.get_key_mut(key)?;
        conn.role = Self::client_role(core, conn, &chain, http, codec, streams, carried);
        self.rearm_client_timer(core, key);
        Some((key, None))
    }

    fn restore_pair<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        record: Record,
        tls: Option<Box<Secure>>,
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
                conn.tls = tls;
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
        let (requests, draining) = (record.requests, record.has(flags::DRAINING));
        let (ends, cold) = Cold::split(record.cold);
        let carried = Carried {
            requests,
            draining,
            ends,
        };
        match cold {
            Some(Cold::Exchange(exchange)) => {
                let NetworkFilter::Http(http) = &chain.chain.filter else {
                    return None;
                };
                let (down, up) = exchange.codecs();
                let up_codec = Self::client_codec(&endpoint, up);
                let codec = Self::server_codec(http, false, down);
                let ids = (exchange.client_id(), exchange.up_id);
                let (up_requests, up_opened_ms) = (exchange.up_requests, exchange.up_opened.ms());
                let mut stream = exchange.into_stream(Some(&endpoint));
                stream.client = Client::Resident(key);
                stream.upstream = Some((peer, ids.1));
                let stream_key = self.streams.0.insert(stream);
                self.schedule_stream(stream_key);
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
                    raw: false,
                    draining: false,
                    permit: Some(permit),
                }));
                let streams = vec![(ids.0, stream_key)];
                let conn = self.conns.get_key_mut(key)?;
                conn.role = Self::client_role(core, conn, chain, http, codec, streams, carried);
            }
            other => {
                let mut frames = None;
                let facts = match other {
                    Some(Cold::Tunnel(facts)) => facts,
                    Some(Cold::Upgraded(session)) => {
                        frames = session.frames();
                        Self::upgraded_facts(record.chain, *session, Some(&endpoint))
                    }
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
                    frames: frames.map(|[_, upstream]| upstream),
                };
                let end = tunnel::End {
                    peer: Some(peer),
                    client: true,
                    connecting: false,
                    listener,
                    endpoint: Some(endpoint),
                    permit: None,
                    facts: Some(facts),
                    frames: frames.map(|[client, _]| client),
                };
                self.conn_mut(peer)?.role = Role::Tunnel(Box::new(other_end));
                self.conn_mut(key)?.role = Role::Tunnel(Box::new(end));
                self.arm_tunnel_timer(core, key);
            }
        }
        Some((key, Some(peer)))
    }

    /// The facts of a session that was parked as its packed stream.
    fn upgraded_facts(
        chain: u32,
        session: Upgraded,
        endpoint: Option<&Arc<Endpoint>>,
    ) -> Box<tunnel::Facts> {
        let started_ms = session.started_ms();
        let stream = session.into_stream(endpoint);
        Box::new(tunnel::Facts {
            origin: Origin::Upgrade(Arc::clone(&stream.http)),
            chain,
            attempts: 1,
            tried: Vec::new(),
            started_ms,
            number: stream.stream_number,
            flags: 0,
            received: 0,
            sent: 0,
            before: (0, 0),
            addresses: None,
            stream: Some(Box::new(stream)),
        })
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
            before: (0, 0),
            addresses: None,
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

    pub(super) fn drop_record<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        slot: Key,
        record: Record,
    ) {
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
    pub(super) fn forget_record<R: Reactor>(&mut self, core: &mut Core<R>, mut record: Record) {
        let [tls, _] = Self::unpark_tls(&mut record);
        let age = core.now().saturating_sub(record.opened.ms());
        let chain = self.chain(ChainId(record.chain));
        let tunnel = record.has(flags::TUNNEL);
        let multiplexed = record.kind == Kind::Mux;
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
        match Cold::split(record.cold).1 {
            Some(Cold::Exchange(exchange)) => {
                let stream = exchange.into_stream(endpoint.as_ref());
                let key = self.streams.0.insert(stream);
                self.uncount_upstream(key);
                self.end_stream(core, key);
            }
            Some(Cold::Mux(parked)) => {
                for (_, stream) in parked.streams {
                    if let Some(stream) = self.raise(core, stream, Client::Gone) {
                        self.client_gone(core, stream);
                    }
                }
            }
            Some(Cold::Tunnel(facts)) => {
                let agreed = tls.as_ref().map(|tls| tls.agreed());
                self.account_parked_tunnel(core, facts, endpoint.as_deref(), agreed);
            }
            Some(Cold::Upgraded(session)) => {
                let agreed = tls.as_ref().map(|tls| tls.agreed());
                let facts = Self::upgraded_facts(record.chain, *session, endpoint.as_ref());
                self.account_parked_tunnel(core, facts, endpoint.as_deref(), agreed);
            }
            Some(Cold::Codec(_) | Cold::Named(..) | Cold::Tls(_)) | None => {}
        }
        if let Some(chain) = chain {
            let http = match &chain.chain.filter {
                NetworkFilter::Http(http) if !tunnel => Some(Arc::clone(http)),
                _ => None,
            };
            let http = http.as_ref().map(|http| (http, multiplexed));
            self.client_closed(&chain.listener, http, age);
        }
    }
}
