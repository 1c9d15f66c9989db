//! Accepting connections, and the limits on how many there may be.
//!
//! Running out of descriptors never spins and never stops a listener: it is taken out of the
//! registrations for a moment and looked at again by its timer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use moorgate_codecs::{Shape, http1};

use super::config::{FilterChain, Http, Listener, ListenerId, NetworkFilter};
use super::conn::{Conn, Down, Role, StreamMap, pause};
use super::detecting::Found;
use super::facts::Message;
use super::gateway::{Core, Gateway};
use crate::engine::parked::Kind;
use crate::engine::reactor::{Addr, Interest, Reactor, Sock};
use crate::engine::slab::Key;

/// Connections accepted from one listening socket in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Pause of a listener that ran out of descriptors, ms.
const EXHAUSTED_MS: u64 = 100;

/// A listening socket that this worker accepts from.
#[derive(Clone, Copy, Debug)]
pub struct ListenSock {
    /// The socket; shared by all workers or this one's own.
    pub sock: Sock,
    /// Listener it belongs to.
    pub listener: ListenerId,
}

/// A registered listening socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenListener {
    pub(super) sock: Sock,
    pub(super) listener: ListenerId,
    pub(super) slot: Key,
}

/// Descriptors or memory for sockets have run out, here or in the whole system.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// The error is that of the connection which was next, not of the listening socket: accept(2).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::ECONNABORTED
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENONET
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
        )
    ) || matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

impl Gateway {
    /// Accepts from these sockets from now on, in place of those given before. Sockets that are not
    /// named any more are taken out of the registrations; whoever opened them closes them.
    pub fn adopt_listeners<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        socks: &[ListenSock],
    ) -> io::Result<()> {
        for (number, entry) in (0u32..).zip(&mut self.listeners) {
            if let Some(open) = *entry
                && !socks.iter().any(|sock| sock.sock == open.sock)
            {
                core.remove_listener(open.slot, open.sock);
                *entry = None;
                // Its number may be another's before its rest is over.
                self.resting.retain(|(resting, _)| *resting != number);
            }
        }
        for sock in socks {
            if self
                .listeners
                .iter()
                .flatten()
                .any(|open| open.sock == sock.sock)
            {
                continue;
            }
            let number = self
                .listeners
                .iter()
                .position(Option::is_none)
                .unwrap_or_else(|| {
                    self.listeners.push(None);
                    self.listeners.len() - 1
                });
            let slot = core.add_listener(sock.sock, number as u32)?;
            self.listeners[number] = Some(OpenListener {
                sock: sock.sock,
                listener: sock.listener,
                slot,
            });
        }
        Ok(())
    }

    /// Takes every listening socket out of the registrations.
    pub(super) fn close_listeners<R: Reactor>(&mut self, core: &mut Core<R>) {
        for open in std::mem::take(&mut self.listeners).into_iter().flatten() {
            core.remove_listener(open.slot, open.sock);
        }
        self.resting.clear();
    }

    pub(super) fn listener(&self, id: ListenerId) -> Option<Arc<Listener>> {
        self.snapshot
            .listeners
            .iter()
            .find(|listener| listener.id == id)
            .map(Arc::clone)
    }

    /// Connections wait on a listening socket.
    pub(super) fn accept_some<R: Reactor>(&mut self, core: &mut Core<R>, number: u32) {
        let Some(Some(open)) = self.listeners.get(number as usize).copied() else {
            return;
        };
        let Some(listener) = self.listener(open.listener) else {
            return;
        };
        let mut accepted = 0;
        while accepted < ACCEPTS_PER_TURN {
            match core.reactor.accept(open.sock, &listener.socket) {
                Ok((sock, peer)) => {
                    accepted += 1;
                    self.place_client(core, &listener, sock, peer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.stats.inc(listener.stats.accept_errors);
                    if !is_of_one_connection(&error) {
                        self.rest_listener(core, open, number, &error);
                        break;
                    }
                    accepted += 1;
                }
            }
        }
    }

    /// The socket cannot be accepted from: make room if that is what is missing, and look again in a
    /// moment.
    fn rest_listener<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        open: OpenListener,
        number: u32,
        error: &io::Error,
    ) {
        if is_exhaustion(error) {
            self.stats.inc(self.engine_stats.out_of_descriptors);
            self.make_room(core);
        }
        // Level-triggered: it would report without end. It comes back when its timer fires.
        core.remove_listener(open.slot, open.sock);
        let later = core.now() + EXHAUSTED_MS;
        self.resting.push((number, later));
    }

    /// There are no descriptors left: closes an idle client of this worker, or else asks the others to.
    /// True when there is room now.
    pub(super) fn make_room<R: Reactor>(&mut self, core: &mut Core<R>) -> bool {
        if self.reclaim(core) {
            return true;
        }
        let me = usize::from(core.id());
        for (id, member) in core.siblings().members.iter().enumerate() {
            if id != me {
                member.post(Message::Reclaim);
            }
        }
        false
    }

    /// Listeners that rested long enough accept again.
    pub(super) fn wake_listeners<R: Reactor>(&mut self, core: &mut Core<R>) -> Option<u64> {
        let now = core.now();
        let mut at = 0;
        while let Some((number, due)) = self.resting.get(at).copied() {
            if due > now {
                at += 1;
                continue;
            }
            self.resting.swap_remove(at);
            let Some(Some(open)) = self.listeners.get(number as usize).copied() else {
                continue;
            };
            match core.add_listener(open.sock, number) {
                Ok(slot) => {
                    if let Some(Some(open)) = self.listeners.get_mut(number as usize) {
                        open.slot = slot;
                    }
                }
                Err(_) => self.resting.push((number, now + EXHAUSTED_MS)),
            }
        }
        self.resting.iter().map(|(_, due)| *due).min()
    }

    fn place_client<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        listener: &Arc<Listener>,
        sock: Sock,
        peer: Addr,
    ) {
        let open = self.shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let limit = self.snapshot.max_connections;
        if limit > 0 && open > limit && !listener.ignore_global_conn_limit {
            let looks = core.siblings().members.len() as u16;
            self.accepted_instead(core, listener, sock, peer, looks);
            return;
        }
        let target = self.place(core);
        if target == usize::from(core.id()) {
            self.accepted(core, listener, sock, peer);
        } else {
            Self::pass_on(core, target, listener, sock, peer, 0);
        }
    }

    /// A connection that another worker accepted for this one.
    pub(super) fn accepted_elsewhere<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        listener: &Arc<Listener>,
        sock: Sock,
        peer: Addr,
        looks: u16,
    ) {
        if looks == 0 {
            self.accepted(core, listener, sock, peer);
        } else {
            self.accepted_instead(core, listener, sock, peer, looks);
        }
    }

    /// There are too many clients: this one takes the place of the one that is idle longest, on the worker
    /// that has it, or is refused when nobody is idle.
    fn accepted_instead<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        listener: &Arc<Listener>,
        sock: Sock,
        peer: Addr,
        looks: u16,
    ) {
        let me = usize::from(core.id());
        let own = core.oldest_idle_ms();
        let members = core.siblings().members.iter().enumerate();
        let other = members
            .filter(|(id, member)| *id != me && !member.has_left())
            .map(|(id, member)| (member.oldest_idle(), id))
            .min()
            .filter(|(oldest, _)| *oldest < own);
        match other {
            // What the others tell may be out of date, so the last who looks takes what it has.
            Some((_, target)) if looks > 1 => {
                Self::pass_on(core, target, listener, sock, peer, looks - 1);
            }
            _ if self.reclaim(core) => self.accepted(core, listener, sock, peer),
            _ => {
                self.shared.connections.fetch_sub(1, Ordering::Relaxed);
                self.stats.inc(listener.stats.downstream_global_cx_overflow);
                core.reactor.close(sock, true);
            }
        }
    }

    fn pass_on<R: Reactor>(
        core: &Core<R>,
        target: usize,
        listener: &Listener,
        sock: Sock,
        peer: Addr,
        looks: u16,
    ) {
        let message = Message::Accepted {
            sock,
            peer,
            listener: listener.id,
            looks,
        };
        core.siblings().members[target].post(message);
    }

    /// Closes the idle client that has been silent longest. False when there is none.
    pub(super) fn reclaim<R: Reactor>(&mut self, core: &mut Core<R>) -> bool {
        let Some(slot) = core.oldest_idle() else {
            return false;
        };
        let Some(mut record) = self.close_record(core, slot) else {
            return false;
        };
        debug_assert_eq!(record.kind, Kind::Idle);
        if let Some(listener) = self.listener(ListenerId(record.owner)) {
            self.stats.inc(listener.stats.downstream_cx_reclaimed);
        }
        record.peer = None;
        self.forget_record(core, record);
        true
    }

    /// A connection is this worker's.
    pub(super) fn accepted<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        listener: &Arc<Listener>,
        sock: Sock,
        peer: Addr,
    ) {
        if listener.filters.is_some() {
            self.start_detecting(core, listener, sock, peer);
            return;
        }
        let mut found = Found::nothing(peer);
        let Some(chain) = self.choose_chain(core, listener, sock, &mut found) else {
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
            core.reactor.close(sock, false);
            return;
        };
        let now = core.now();
        let Ok(tls) = Self::accept_tls(&chain, now, || found.addresses(core, sock)) else {
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
            core.reactor.close(sock, true);
            return;
        };
        let role = self.chain_role(core, listener, chain, sock, found, now);
        let mut conn = Conn::new(sock, role, now);
        conn.tls = tls;
        let key = self.conns.insert(conn);
        match core.open(sock, key.index, Interest::Edge { write: false }) {
            Ok(slot) => {
                if let Some(conn) = self.conn_mut(key) {
                    conn.slot = slot;
                }
            }
            Err(_) => {
                core.reactor.close(sock, true);
                self.unregistered(core, key);
                return;
            }
        }
        self.start_client(core, key);
    }

    /// A client has its filter chain: counts it, and makes what serves it.
    pub(super) fn chain_role<R: Reactor>(
        &mut self,
        core: &Core<R>,
        listener: &Arc<Listener>,
        chain: Arc<FilterChain>,
        sock: Sock,
        mut found: Found,
        now: u64,
    ) -> Role {
        let stats = &listener.stats;
        self.stats.inc(stats.downstream_cx_total);
        self.stats.gauge(stats.downstream_cx_active, 1);
        let local = |peer: &Addr| {
            let local = core.reactor.local_addr(sock);
            local.unwrap_or_else(|_| peer.clone())
        };
        match &chain.filter {
            NetworkFilter::Tcp(filter) => {
                self.stats.inc(filter.stats.downstream_cx_total);
                // For a log, or an upstream that is told whose the connection is.
                let wanted = !filter.access_logs.is_empty() || found.was_told();
                let ends = wanted.then(|| {
                    let local = local(&found.peer);
                    found.all_ends(&local)
                });
                self.tcp_role(listener, chain.id.0, filter, ends, now)
            }
            NetworkFilter::Http(http) => {
                self.stats.inc(http.stats.downstream_cx_total);
                self.stats.gauge(http.stats.downstream_cx_active, 1);
                match &http.codec {
                    None => {
                        if http.http2.is_none() {
                            self.stats.inc(http.stats.downstream_cx_http1_total);
                        }
                        self.stats.gauge(http.stats.downstream_cx_http1_active, 1);
                    }
                    Some(codec) if codec.http2().is_some() => {
                        self.stats.inc(http.stats.downstream_cx_http2_total);
                        self.stats.gauge(http.stats.downstream_cx_http2_active, 1);
                    }
                    Some(_) => {}
                }
                let local = local(&found.peer);
                let ends = found.ends(&local);
                let (remote, local) = match &ends {
                    Some(ends) => (ends.remote.clone(), ends.local.clone()),
                    None => (found.peer, local),
                };
                Role::Down(Box::new(Down {
                    codec: match &http.codec {
                        Some(factory) => factory.make(),
                        None => Box::new(http1::Server::new(Arc::clone(&http.http1))),
                    },
                    http: Arc::clone(http),
                    listener: Arc::clone(listener),
                    chain: Arc::clone(&chain),
                    streams: StreamMap::default(),
                    remote,
                    local,
                    ends,
                    requests: 0,
                    draining: false,
                    head_since: None,
                    own_upstreams: false,
                }))
            }
        }
    }

    /// A registered client with its role begins.
    pub(super) fn start_client<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conn_mut(key) else {
            return;
        };
        // Behind TLS a tunnel begins when the handshake is over.
        if matches!(conn.role, Role::Tunnel(_)) && conn.tls.is_none() {
            conn.paused |= pause::CONNECTING;
            self.start_tcp(core, key);
        } else {
            self.rearm_client_timer(core, key);
        }
    }

    /// Forgets a connection that never got into (or left) the registrations; its descriptor is closed.
    pub(super) fn unregistered<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(mut conn) = self.conns.remove(key.index) else {
            return;
        };
        conn.rest.clear(&mut core.chunks);
        conn.output.clear(&mut core.chunks);
        match &conn.role {
            Role::Down(down) => {
                let multiplexed = down.codec.shape() == Shape::Multiplex;
                self.client_closed(&down.listener, Some((&down.http, multiplexed)), 0);
            }
            Role::Tunnel(end) if end.client => self.client_closed(&end.listener, None, 0),
            Role::Tunnel(_) | Role::Up(_) | Role::Detecting(_) | Role::Waking => {}
        }
    }

    /// A connection that came from another worker could not be registered: it ends, and its peers and
    /// streams with it.
    pub(super) fn unregistered_with_peer<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        self.peer_gone(core, key, true);
    }

    /// Counts the end of a client's connection; `http` with whether its codec multiplexed.
    pub(super) fn client_closed(
        &self,
        listener: &Listener,
        http: Option<(&Arc<Http>, bool)>,
        age_ms: u64,
    ) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.stats.inc(listener.stats.downstream_cx_destroy);
        self.stats.gauge(listener.stats.downstream_cx_active, -1);
        self.stats
            .record(listener.stats.downstream_cx_length_ms, age_ms);
        let Some((http, multiplexed)) = http else {
            return;
        };
        self.stats.inc(http.stats.downstream_cx_destroy);
        self.stats.gauge(http.stats.downstream_cx_active, -1);
        if http.codec.is_none() && !multiplexed {
            self.stats.gauge(http.stats.downstream_cx_http1_active, -1);
        } else if http
            .codec
            .as_ref()
            .is_none_or(|codec| codec.http2().is_some())
        {
            self.stats.gauge(http.stats.downstream_cx_http2_active, -1);
        }
        self.stats
            .record(http.stats.downstream_cx_length_ms, age_ms);
    }

    /// A client that was upgraded is closed: its connection manager's gauges go down too.
    pub(super) fn account_upgraded_close(&self, http: &Http) {
        self.stats.inc(http.stats.downstream_cx_destroy);
        self.stats.gauge(http.stats.downstream_cx_active, -1);
        if http.codec.is_none() {
            self.stats.gauge(http.stats.downstream_cx_http1_active, -1);
        }
    }
}
