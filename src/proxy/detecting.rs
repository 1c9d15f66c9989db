//! Listener filters: what a client's first bytes say before its filter chain is chosen.
//!
//! The bytes are peeked at where they are, in the socket, and read into the turn's arena anew with each
//! arrival; a connection keeps none of them, only what was found. It is resident meanwhile, in the
//! smallest role there is, under the timeout of its listener. Waiting for the rest of a hello costs
//! nothing: the registration is edge-triggered, and an edge comes with new bytes, never for those that
//! were left where they are. (SO_RCVLOWAT is not used: it would have to be taken back before the
//! connection is served, and no filter knows how much more it needs before it has seen it.)
//!
//! Only a PROXY header is taken off the socket; everything else is left to whoever serves the chain.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use moorgate_codecs::preface::{client_hello, http, proxy};

use super::chain_match;
use super::config::{FilterChain, Listener, ListenerFilter, ListenerFilters, ProxyProtocol};
use super::conn::{Conn, Role};
use super::facts::Ends;
use super::gateway::{Core, Gateway};
use crate::engine::reactor::{Addr, Interest, Reactor, Sock};
use crate::engine::slab::Key;
use crate::telemetry::recorder::Recorder;

/// A client whose filter chain is not chosen yet.
#[derive(Debug)]
pub(super) struct Detecting {
    listener: Arc<Listener>,
    /// Filters that have had their say.
    done: usize,
    /// Bytes of a PROXY header that are still to be taken off the socket.
    skip: usize,
    found: Found,
}

/// What is known of a client besides its socket.
#[derive(Debug)]
pub(super) struct Found {
    /// The other end of the socket.
    pub(super) peer: Addr,
    /// Who it is and what it connected to, where those are not the socket's ends.
    remote: Option<Addr>,
    local: Option<Addr>,
    /// It began with a TLS hello.
    tls: bool,
    server_name: Option<Box<str>>,
    protocols: Vec<Box<[u8]>>,
}

impl Found {
    pub(super) fn nothing(peer: Addr) -> Self {
        Self {
            peer,
            remote: None,
            local: None,
            tls: false,
            server_name: None,
            protocols: Vec::new(),
        }
    }

    /// Our address and the client's, as far as they are known.
    pub(super) fn addresses<R: Reactor>(
        &self,
        core: &Core<R>,
        sock: Sock,
    ) -> [Option<std::net::IpAddr>; 2] {
        let socket = core.reactor.local_addr(sock).ok();
        let local = self.local.as_ref().or(socket.as_ref());
        let remote = self.remote.as_ref().unwrap_or(&self.peer);
        [local.and_then(Addr::ip), remote.ip()]
    }

    /// The addresses of the client, where the socket does not say them.
    pub(super) fn ends(&mut self, direct_local: &Addr) -> Option<Box<Ends>> {
        self.was_told().then(|| self.all_ends(direct_local))
    }

    /// A filter told other addresses than the socket's.
    pub(super) fn was_told(&self) -> bool {
        self.remote.is_some() || self.local.is_some()
    }

    /// The addresses of the client, for a log.
    pub(super) fn all_ends(&mut self, direct_local: &Addr) -> Box<Ends> {
        Box::new(Ends {
            remote: self.remote.take().unwrap_or_else(|| self.peer.clone()),
            local: self.local.take().unwrap_or_else(|| direct_local.clone()),
            direct_remote: self.peer.clone(),
            direct_local: direct_local.clone(),
            server_name: self.server_name.take(),
        })
    }
}

impl Detecting {
    /// Since the connection was accepted, ms; 0 never.
    pub(super) fn timeout_ms(&self) -> u64 {
        self.listener
            .filters
            .as_ref()
            .map_or(0, |filters| filters.timeout_ms)
    }
}

/// What a filter says of a connection.
enum Verdict {
    /// The next filter's turn; that many bytes are to be taken off before.
    Next(usize),
    /// It needs to see more.
    More,
    /// The connection is to be closed.
    Close,
}

impl ListenerFilter {
    /// The most bytes it looks at; 0 when it looks at none.
    fn most_bytes(&self) -> usize {
        match self {
            Self::Tls { max_hello, .. } => *max_hello,
            Self::Http { .. } => http::MAX_BYTES,
            Self::Proxy(_) => proxy::MAX_HEADER,
            Self::OriginalDst => 0,
        }
    }

    fn look(&self, bytes: &[u8], found: &mut Found, stats: &Recorder) -> Verdict {
        match self {
            Self::Tls {
                max_hello,
                close_on_errors,
                stats: counters,
            } => match client_hello::parse(bytes) {
                client_hello::Found::More if bytes.len() >= *max_hello => {
                    stats.inc(counters.client_hello_too_large);
                    Verdict::Close
                }
                client_hello::Found::More => Verdict::More,
                client_hello::Found::Malformed if *close_on_errors => {
                    stats.inc(counters.tls_not_found);
                    Verdict::Close
                }
                client_hello::Found::NotTls | client_hello::Found::Malformed => {
                    stats.inc(counters.tls_not_found);
                    Verdict::Next(0)
                }
                client_hello::Found::Hello(names) => {
                    stats.inc(counters.tls_found);
                    stats.inc(match &names.server {
                        Some(_) => counters.sni_found,
                        None => counters.sni_not_found,
                    });
                    stats.inc(match &names.protocols {
                        Some(_) => counters.alpn_found,
                        None => counters.alpn_not_found,
                    });
                    stats.record(counters.bytes_processed, bytes.len() as u64);
                    found.tls = true;
                    found.server_name = names.server;
                    found.protocols = names.protocols.unwrap_or_default();
                    Verdict::Next(0)
                }
            },
            Self::Http { stats: counters } => {
                let http = http::parse(bytes);
                stats.inc(match http {
                    http::Found::More => return Verdict::More,
                    http::Found::NotHttp => counters.http_not_found,
                    http::Found::Http10 => counters.http10_found,
                    http::Found::Http11 => counters.http11_found,
                    http::Found::Http2 => counters.http2_found,
                });
                if let Some(protocol) = http.protocol() {
                    found.protocols = vec![protocol.as_bytes().into()];
                }
                Verdict::Next(0)
            }
            Self::Proxy(config) => config.look(bytes, found, stats),
            Self::OriginalDst => Verdict::Next(0),
        }
    }
}

impl ProxyProtocol {
    fn look(&self, bytes: &[u8], found: &mut Found, stats: &Recorder) -> Verdict {
        let (first, second) = proxy::may_be(bytes);
        let possible = first && self.versions[0] || second && self.versions[1];
        if self.optional && !possible {
            stats.inc(self.stats.not_found_allowed);
            return Verdict::Next(0);
        }
        let of = |version| &self.version_stats[usize::from(version == proxy::Version::V2)];
        match proxy::parse(bytes) {
            proxy::Found::More => Verdict::More,
            proxy::Found::Absent => {
                stats.inc(self.stats.not_found_disallowed);
                stats.inc(self.errors);
                Verdict::Close
            }
            proxy::Found::Malformed(version) => {
                stats.inc(of(version).error);
                stats.inc(self.errors);
                Verdict::Close
            }
            proxy::Found::Header(header) => {
                let counters = of(header.version);
                stats.inc(counters.found);
                if !self.versions[usize::from(header.version == proxy::Version::V2)] {
                    stats.inc(counters.disallowed);
                    return Verdict::Close;
                }
                if let Some((remote, local)) = header.addresses {
                    found.remote = Some(Addr::Ip(remote));
                    found.local = Some(Addr::Ip(local));
                }
                Verdict::Next(header.length)
            }
        }
    }
}

impl Gateway {
    /// A new client of a listener with filters: it waits until they have seen enough.
    pub(super) fn start_detecting<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        listener: &Arc<Listener>,
        sock: Sock,
        peer: Addr,
    ) {
        let detecting = Detecting {
            listener: Arc::clone(listener),
            done: 0,
            skip: 0,
            found: Found::nothing(peer),
        };
        let role = Role::Detecting(Box::new(detecting));
        let key = self.conns.insert(Conn::new(sock, role, core.now()));
        let Ok(slot) = core.open(sock, key.index, Interest::Edge { write: false }) else {
            core.reactor.close(sock, true);
            self.conns.remove(key.index);
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        self.stats.gauge(listener.stats.downstream_pre_cx_active, 1);
        if let Some(conn) = self.conn_mut(key) {
            conn.slot = slot;
        }
        self.rearm_client_timer(core, key);
        // Nothing may be there yet, but a filter may not need anything.
        self.detect(core, key, false);
    }

    /// Something happened on a connection that waits for its filter chain.
    pub(super) fn detect<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, broken: bool) {
        if broken {
            if let Some(Role::Detecting(detecting)) = self.conn(key).map(|conn| &conn.role) {
                let stats = &detecting.listener.stats;
                self.stats
                    .inc(stats.downstream_listener_filter_remote_close);
            }
            self.drop_undetected(core, key, true);
            return;
        }
        loop {
            let Some(conn) = self.conns.get_key_mut(key) else {
                return;
            };
            let Role::Detecting(detecting) = &mut conn.role else {
                return;
            };
            let listener = Arc::clone(&detecting.listener);
            let Some(filters) = &listener.filters else {
                return;
            };
            if detecting.skip == 0 && detecting.done == filters.list.len() {
                self.detected(core, key);
                return;
            }
            let verdict = match Self::step(core, conn, filters, &self.stats) {
                Ok(Verdict::More) if conn.fin_seen => {
                    // No more will come: as if the time were over.
                    let stats = &listener.stats;
                    if filters.continue_on_timeout {
                        self.detected(core, key);
                    } else {
                        self.stats
                            .inc(stats.downstream_listener_filter_remote_close);
                        self.drop_undetected(core, key, false);
                    }
                    return;
                }
                Ok(verdict) => verdict,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::UnexpectedEof => {
                        self.stats
                            .inc(listener.stats.downstream_listener_filter_remote_close);
                        self.drop_undetected(core, key, false);
                        return;
                    }
                    io::ErrorKind::OutOfMemory => {
                        // The arena is full of what others read.
                        self.flush_all(core);
                        continue;
                    }
                    _ => {
                        self.stats
                            .inc(listener.stats.downstream_listener_filter_error);
                        self.drop_undetected(core, key, true);
                        return;
                    }
                },
            };
            match verdict {
                Verdict::Next(_) => {}
                Verdict::More => return,
                Verdict::Close => {
                    self.drop_undetected(core, key, false);
                    return;
                }
            }
        }
    }

    /// Takes off what is to be taken off, or lets the next filter look. OutOfMemory: the arena has to
    /// be made empty first.
    fn step<R: Reactor>(
        core: &mut Core<R>,
        conn: &mut Conn,
        filters: &ListenerFilters,
        stats: &Recorder,
    ) -> io::Result<Verdict> {
        let (sock, fin_seen) = (conn.sock, conn.fin_seen);
        let Role::Detecting(detecting) = &mut conn.role else {
            return Ok(Verdict::Close);
        };
        let filter = filters.list.get(detecting.done);
        let most = match (detecting.skip, filter) {
            (0, Some(filter)) => filter.most_bytes(),
            (0, None) => 0,
            (skip, _) => skip,
        };
        if most > 0 && core.arena.room() < most {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if detecting.skip > 0 {
            let into = &mut core.arena.tail_mut()[..most];
            return match core.reactor.read(sock, into)? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    detecting.skip -= n;
                    Ok(Verdict::Next(0))
                }
            };
        }
        let Some(filter) = filter else {
            return Ok(Verdict::Next(0));
        };
        // As in Envoy: who speaks TLS does not speak HTTP before it is opened.
        let skipped = detecting.found.tls && matches!(filter, ListenerFilter::Http { .. });
        if most == 0 || skipped {
            if matches!(filter, ListenerFilter::OriginalDst)
                && let Some(original) = core.reactor.original_dst(sock)
            {
                detecting.found.local = Some(original);
            }
            detecting.done += 1;
            return Ok(Verdict::Next(0));
        }
        let n = core
            .reactor
            .peek(sock, &mut core.arena.tail_mut()[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let span = core.arena.commit(n);
        let verdict = filter.look(core.arena.get(span), &mut detecting.found, stats);
        core.arena.uncommit(span);
        match verdict {
            Verdict::Next(skip) => {
                detecting.skip = skip;
                detecting.done += 1;
            }
            // A PROXY header must not be passed over because its end did not come.
            Verdict::More if fin_seen && matches!(filter, ListenerFilter::Proxy(_)) => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Verdict::More | Verdict::Close => {}
        }
        Ok(verdict)
    }

    /// The filters took too long.
    pub(super) fn detection_timed_out<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(Role::Detecting(detecting)) = self.conn(key).map(|conn| &conn.role) else {
            return;
        };
        let listener = &detecting.listener;
        self.stats.inc(listener.stats.downstream_pre_cx_timeout);
        let goes_on = listener
            .filters
            .as_ref()
            .is_some_and(|filters| filters.continue_on_timeout);
        if goes_on && detecting.skip == 0 {
            self.detected(core, key);
        } else {
            self.drop_undetected(core, key, false);
        }
    }

    /// All is known that is to be known: the connection gets its filter chain.
    fn detected<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        let (sock, slot) = (conn.sock, conn.slot);
        let role = std::mem::replace(&mut conn.role, Role::Waking);
        let Role::Detecting(detecting) = role else {
            conn.role = role;
            return;
        };
        let Detecting {
            listener,
            mut found,
            ..
        } = *detecting;
        self.stats
            .gauge(listener.stats.downstream_pre_cx_active, -1);
        // A reload meanwhile may have replaced the listener, or taken it away.
        let current = self.listener(listener.id);
        let chain = match &current {
            Some(current) => self.choose_chain(core, current, sock, &mut found),
            None => None,
        };
        let (Some(listener), Some(chain)) = (current, chain) else {
            self.conns.remove(key.index);
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
            core.close(slot, sock, false);
            return;
        };
        let Ok(tls) = Self::accept_tls(&chain, now, || found.addresses(core, sock)) else {
            self.conns.remove(key.index);
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
            core.close(slot, sock, true);
            return;
        };
        let role = self.chain_role(core, &listener, chain, sock, found, now);
        if let Some(conn) = self.conn_mut(key) {
            conn.role = role;
            conn.tls = tls;
            conn.opened_ms = now;
            conn.active_ms = now;
            // What was peeked at makes no edge any more.
            conn.readable = true;
        }
        self.start_client(core, key);
        self.queue(key);
    }

    /// The chain for a connection; `None` (counted) when it fits none.
    pub(super) fn choose_chain<R: Reactor>(
        &mut self,
        core: &Core<R>,
        listener: &Listener,
        sock: Sock,
        found: &mut Found,
    ) -> Option<Arc<FilterChain>> {
        let chosen = match &listener.chooser {
            None => listener.chains.first(),
            Some(chooser) => {
                let local = core.reactor.local_addr(sock);
                let local = local.unwrap_or_else(|_| found.peer.clone());
                let facts = chain_match::Facts {
                    local: found.local.as_ref().unwrap_or(&local),
                    remote: found.remote.as_ref().unwrap_or(&found.peer),
                    peer: &found.peer,
                    server_name: found.server_name.as_deref().unwrap_or_default(),
                    transport: if found.tls { "tls" } else { "raw_buffer" },
                    protocols: &found.protocols,
                };
                let chosen = chooser.choose_or_default(&facts);
                chosen.and_then(|number| listener.chains.get(number))
            }
        };
        if chosen.is_none() {
            self.stats.inc(listener.stats.no_filter_chain_match);
        }
        // This worker's own copy of it.
        chosen.map(|chain| match self.chains.get(&chain.id) {
            Some(own) => Arc::clone(&own.chain),
            None => Arc::clone(chain),
        })
    }

    /// A connection ends before it had a chain.
    pub(super) fn drop_undetected<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        reset: bool,
    ) {
        let Some(conn) = self.conns.remove(key.index) else {
            return;
        };
        if let Role::Detecting(detecting) = &conn.role {
            let stats = &detecting.listener.stats;
            self.stats.gauge(stats.downstream_pre_cx_active, -1);
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        }
        core.close(conn.slot, conn.sock, reset);
    }
}
