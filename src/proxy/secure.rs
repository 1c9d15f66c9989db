//! TLS between a connection's socket and its codec or tunnel.
//!
//! What is read is opened in the arena, behind the codec's own remainder; what is to be written is sealed
//! in one buffer of the worker and written from there. A connection keeps only the unfinished record of its
//! peer and what the socket did not take of one batch. While it shakes hands neither codec nor tunnel knows
//! of it. A connection without TLS pays one look at an empty pointer for each read and each flush.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::config::DownstreamTls;
use super::conn::{Closing, Conn, Role, pause};
use super::facts::{Cold, Endpoint};
use super::gateway::{Core, Gateway};
use super::http::local_reply::UpstreamFailure;
use super::io::{Got, MIN_ROOM, READ_BYTES};
use super::output::{Flushed, Output};
use super::parking::Record;
use crate::engine::arena::Arena;
use crate::engine::chunk::{ByteQueue, ChunkPool};
use crate::engine::parked::flags;
use crate::engine::reactor::{Addr, Reactor, Sock};
use crate::engine::slab::Key;
use crate::telemetry::stats::TlsStats;
use crate::tls::{Agreed, Asked, Session, TlsError};

/// Plaintext sealed before the socket is asked again; the most that is sealed and not taken.
const BATCH: usize = 64 * 1024;
/// Steps of handshakes that a worker takes in one turn, each of up to a signature and a key exchange: what
/// flows already must not wait for all who arrive at once.
pub(super) const HANDSHAKES_PER_TURN: usize = 8;
/// Slices given to one write call.
const SLICES: usize = 16;

/// The TLS of one connection.
#[derive(Debug)]
pub(super) struct Secure {
    session: Session,
    /// Unfinished record of the peer.
    rest: ByteQueue,
    /// Sealed, and not taken by the socket.
    wire: ByteQueue,
    /// The handshake has to be over by then, ms; `u64::MAX` when it may take as long as it likes.
    deadline_ms: u64,
    stats: TlsStats,
}

/// TLS of a parked connection, around whatever else it keeps.
#[derive(Debug)]
pub struct ParkedTls {
    /// Of the record's two descriptors.
    pub(super) sessions: [Option<Box<Secure>>; 2],
    pub(super) inner: Option<Box<Cold>>,
}

impl Secure {
    fn new(session: Session, deadline_ms: u64, stats: TlsStats) -> Box<Self> {
        Box::new(Self {
            session,
            rest: ByteQueue::default(),
            wire: ByteQueue::default(),
            deadline_ms,
            stats,
        })
    }

    /// The server's end of a new connection.
    pub(super) fn server(
        tls: &DownstreamTls,
        now: u64,
        ends: impl FnOnce() -> [Option<IpAddr>; 2],
    ) -> Result<Box<Self>, TlsError> {
        let deadline = match tls.handshake_timeout_ms {
            0 => u64::MAX,
            timeout => now + timeout,
        };
        let context = tls.context.get();
        let logged = context.key_log().is_some_and(|log| {
            let [local, remote] = ends();
            log.wants(local, remote)
        });
        let session = Session::server(&context, logged)?;
        Ok(Self::new(session, deadline, tls.stats))
    }

    pub(super) fn is_shaking(&self) -> bool {
        self.session.is_shaking()
    }

    pub(super) fn deadline_ms(&self) -> u64 {
        if self.is_shaking() {
            self.deadline_ms
        } else {
            u64::MAX
        }
    }

    pub(super) fn agreed(&self) -> &Agreed {
        self.session.agreed()
    }

    /// Nothing of it is anywhere in this process but what is parked with it.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_shaking() && self.rest.is_empty() && self.wire.is_empty()
    }

    /// Bytes it holds in chunks.
    pub(super) fn held(&self) -> usize {
        self.rest.held() + self.wire.held()
    }

    pub(super) fn clear(&mut self, pool: &mut ChunkPool) {
        self.rest.clear(pool);
        self.wire.clear(pool);
    }

    /// Seals and writes what the socket takes. Plaintext that it does not take stays in `output`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn flush<R: Reactor>(
        &mut self,
        output: &mut Output,
        reactor: &mut R,
        sock: Sock,
        (arena, out): (&Arena, &[u8]),
        pool: &mut ChunkPool,
        sealed: &mut Vec<u8>,
        (now, last): (u64, bool),
    ) -> io::Result<(usize, Flushed)> {
        let mut plain = 0;
        let state = loop {
            if self.write_backlog(reactor, sock, pool)? == Flushed::Blocked {
                break Flushed::Blocked;
            }
            if self.session.is_shaking() {
                break Flushed::All;
            }
            sealed.clear();
            if output.is_empty() {
                if !last || self.session.close_sent() {
                    break Flushed::All;
                }
                self.session.close(sealed);
            } else {
                let slices = output.slices(arena, out);
                let n = self
                    .session
                    .seal(now, slices, BATCH, sealed)
                    .map_err(io::Error::other)?;
                output.consume(n, pool);
                plain += n;
            }
            let taken = write(reactor, sock, &[IoSlice::new(sealed)])?;
            if taken < sealed.len() {
                self.wire.push(pool, &sealed[taken..]);
            }
        };
        output.spill(pool, arena, out);
        Ok((plain, state))
    }

    fn write_backlog<R: Reactor>(
        &mut self,
        reactor: &mut R,
        sock: Sock,
        pool: &mut ChunkPool,
    ) -> io::Result<Flushed> {
        while !self.wire.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for chunk in self.wire.chunks().take(SLICES) {
                slices[count] = IoSlice::new(chunk);
                count += 1;
            }
            let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            let taken = write(reactor, sock, &slices[..count])?;
            self.wire.consume(pool, taken);
            if taken < offered {
                return Ok(Flushed::Blocked);
            }
        }
        Ok(Flushed::All)
    }
}

fn write<R: Reactor>(reactor: &mut R, sock: Sock, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        match reactor.write(sock, slices) {
            Ok(taken) => return Ok(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Gateway {
    /// Reads a TLS connection: gives plaintext, and takes care of all else itself.
    pub(super) fn read_secure<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        most: usize,
    ) -> Got {
        let Some(conn) = self.conn(key) else {
            return Got::Nothing;
        };
        let Some(tls) = &conn.tls else {
            return Got::Nothing;
        };
        if tls.session.peer_closed() {
            return Got::End;
        }
        if tls.is_shaking() {
            let Some(left) = self.handshakes.checked_sub(1) else {
                // The bytes stay in the socket until its turn comes.
                self.stats.inc(self.worker_stats.tls_handshakes_deferred);
                self.queue(key);
                return Got::Nothing;
            };
            self.handshakes = left;
        }
        let Some(conn) = self.conn(key) else {
            return Got::Nothing;
        };
        let Some(tls) = &conn.tls else {
            return Got::Nothing;
        };
        let (kept, partial) = (conn.rest.len(), tls.rest.len());
        if core.arena.room() < MIN_ROOM + kept + partial {
            self.flush_all(core);
        }
        let most = most.min(READ_BYTES);
        let Some(conn) = self.conns.get_key_mut(key) else {
            return Got::Nothing;
        };
        let Some(tls) = &mut conn.tls else {
            return Got::Nothing;
        };
        let tail = core.arena.tail_mut();
        let from = kept + partial;
        let room = tail.len().saturating_sub(from).min(most);
        let Some(into) = tail.get_mut(from..from + room) else {
            return Got::Nothing;
        };
        let n = match core.reactor.read(conn.sock, into) {
            // A handshake that breaks off was no connection; later, most peers do not say that they close.
            Ok(0) if tls.is_shaking() => {
                conn.readable = false;
                self.transport_failed(core, key, TlsError::Protocol);
                return Got::Nothing;
            }
            Ok(0) => {
                conn.readable = false;
                return Got::End;
            }
            Ok(n) => n,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {
                    conn.readable = false;
                    return Got::Nothing;
                }
                io::ErrorKind::Interrupted => return Got::Nothing,
                _ => return Got::Broken,
            },
        };
        let dry = n < room && !conn.fin_seen;
        if dry {
            conn.readable = false;
        }
        tls.rest.copy_to(&mut tail[kept..from]);
        tls.rest.clear(&mut core.chunks);
        let input = &mut tail[kept..from + n];
        self.sealed.clear();
        let opened = tls.session.open(input, &mut self.sealed);
        tls.rest.push(&mut core.chunks, &input[opened.consumed..]);
        tls.wire.push(&mut core.chunks, &self.sealed);
        if opened.closed {
            // Its end is looked at when what it said before was.
            conn.readable = true;
        }
        let said = !self.sealed.is_empty();
        conn.rx += opened.plain as u64;
        let mut span = crate::engine::arena::Span::default();
        if opened.plain > 0 {
            conn.rest.copy_to(&mut tail[..kept]);
            conn.rest.clear(&mut core.chunks);
            span = core.arena.commit(kept + opened.plain);
        }
        if said {
            self.mark_dirty(key);
        }
        if opened.established {
            // The arena must stay as it is: what came behind the handshake is in it.
            let decoding = std::mem::replace(&mut self.decoding, true);
            self.transport_established(core, key);
            self.decoding = decoding;
        }
        if let Some(error) = opened.error {
            self.transport_failed(core, key, error);
            return Got::Nothing;
        }
        let dry = dry && !opened.closed;
        if span.is_empty() {
            return Got::Control { dry };
        }
        if opened.established && self.conn(key).is_some_and(|conn| conn.paused != 0) {
            self.keep_rest(core, key, span);
            return Got::Control { dry };
        }
        Got::Bytes { span, dry }
    }

    /// The handshake is over: the connection is what it was opened for.
    fn transport_established<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        let Some(tls) = &conn.tls else { return };
        let server = match &conn.role {
            Role::Down(_) => true,
            Role::Tunnel(end) => end.client,
            Role::Up(_) | Role::Detecting(_) | Role::Waking => false,
        };
        tls.stats.shaken(&self.stats, tls.agreed(), server);
        match &conn.role {
            Role::Down(_) => self.rearm_client_timer(core, key),
            Role::Tunnel(end) if end.client => {
                conn.paused |= pause::CONNECTING;
                self.start_tcp(core, key);
            }
            Role::Tunnel(_) => self.tunnel_established(core, key),
            Role::Up(_) => self.upstream_connected(core, key),
            Role::Detecting(_) | Role::Waking => {}
        }
    }

    /// A connection's TLS is broken. What there is to say about that is said, and it ends.
    pub(super) fn transport_failed<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        error: TlsError,
    ) {
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        if let Some(tls) = &mut conn.tls {
            tls.stats.broken(&self.stats, error);
            if !conn.blocked {
                // The outcome does not matter any more.
                let _ = tls.write_backlog(&mut core.reactor, conn.sock, &mut core.chunks);
            }
        }
        match &conn.role {
            Role::Down(_) => self.close(core, key, false),
            Role::Tunnel(_) => self.tunnel_broken(core, key, false),
            Role::Up(_) => self.upstream_gone(core, key, false),
            Role::Detecting(_) | Role::Waking => {}
        }
    }

    /// A TCP connection to an upstream is there: says whose it is, where that is wanted. True when its TLS
    /// begins now, or could not.
    pub(super) fn begin_upstream<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        endpoint: &Arc<Endpoint>,
    ) -> bool {
        self.sealed.clear();
        if let Some(header) = &endpoint.cluster.config.proxy_header {
            let client = endpoint.client.or_else(|| self.tunnels_client(core, key));
            header.write(client, &mut self.sealed);
        }
        let Some(tls) = &endpoint.cluster.config.tls else {
            self.say_first(key);
            return false;
        };
        let name = match &endpoint.name {
            Some(name) => Some(&**name),
            None => tls.server_name(&endpoint.host),
        };
        let context = tls.context.get();
        let logged = context.key_log().is_some_and(|log| {
            let sock = self.conn(key).map(|conn| conn.sock);
            let local = sock.and_then(|sock| core.reactor.local_addr(sock).ok());
            log.wants(local.as_ref().and_then(Addr::ip), endpoint.host.addr.ip())
        });
        let offered = (endpoint.http2 && tls.alpn_is_implied).then(|| [b"h2".to_vec()]);
        let asked = Asked {
            name,
            by_request: endpoint.name.is_some(),
            alpn: offered.as_ref().map(|offered| &offered[..]),
            logged,
        };
        let session = Session::client(&context, &asked, &mut self.sealed);
        let Some(conn) = self.conns.get_key_mut(key) else {
            return true;
        };
        match session {
            Ok(session) => {
                // The connect timeout is for the handshake, too.
                let mut secure = Secure::new(session, u64::MAX, tls.stats);
                secure.wire.push(&mut core.chunks, &self.sealed);
                conn.tls = Some(secure);
                self.mark_dirty(key);
            }
            Err(error) => {
                tls.stats.broken(&self.stats, error);
                if matches!(conn.role, Role::Tunnel(_)) {
                    self.tunnel_connect_failed(core, key, false);
                } else {
                    self.connect_failed(core, key, UpstreamFailure::Connect);
                }
            }
        }
        true
    }

    /// Sends what was put into the buffer before anything else of a new connection.
    fn say_first(&mut self, key: Key) {
        if self.sealed.is_empty() {
            return;
        }
        let start = self.out.bytes.len();
        self.out.bytes.extend_from_slice(&self.sealed);
        if let Some(conn) = self.conns.get_key_mut(key) {
            let none = crate::engine::arena::Span { start: 0, len: 0 };
            conn.output.take(&mut self.out, start, none);
            self.mark_dirty(key);
        }
    }

    /// The client of a tunnel, of which this is the upstream's end, and where it wanted to go.
    fn tunnels_client<R: Reactor>(
        &self,
        core: &Core<R>,
        key: Key,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let client = self.tunnel_end(key)?.peer?;
        let facts = self.tunnel_end(client)?.facts.as_ref()?;
        let (remote, local) = match &facts.addresses {
            Some(ends) => (Some(ends.remote.clone()), Some(ends.local.clone())),
            None => Self::addresses(core, self.conn(client)?),
        };
        remote?.socket().zip(local?.socket())
    }

    /// Seals and writes a connection's output.
    pub(super) fn flush_secure<R: Reactor>(
        core: &mut Core<R>,
        conn: &mut Conn,
        out: &[u8],
        sealed: &mut Vec<u8>,
    ) -> io::Result<(usize, Flushed)> {
        let last = conn.fin_after_flush || conn.closing == Closing::AfterFlush;
        let now = core.now();
        let Some(tls) = &mut conn.tls else {
            return Ok((0, Flushed::All));
        };
        tls.flush(
            &mut conn.output,
            &mut core.reactor,
            conn.sock,
            (&core.arena, out),
            &mut core.chunks,
            sealed,
            (now, last),
        )
    }

    /// Says to the peer that this connection ends, if that can be said at once.
    pub(super) fn farewell<R: Reactor>(core: &mut Core<R>, conn: &mut Conn, sealed: &mut Vec<u8>) {
        let Some(tls) = &mut conn.tls else { return };
        if !conn.blocked && !conn.write_closed && tls.is_quiet() {
            sealed.clear();
            tls.session.close(sealed);
            // Nobody waits for the outcome.
            let _ = write(&mut core.reactor, conn.sock, &[IoSlice::new(sealed)]);
        }
        tls.clear(&mut core.chunks);
    }

    /// Closes a parked connection in order: where it has TLS, its peers are told first.
    pub(super) fn close_record<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        slot: Key,
    ) -> Option<Record> {
        let record = core.parked_mut(slot)?;
        let (socks, bits) = (record.socks, record.flags);
        if let Some(Cold::Tls(parked)) = record.cold.as_deref_mut() {
            let closed = [flags::WRITE_CLOSED_A, flags::WRITE_CLOSED_B];
            let mut ends = [(0, 0); 2];
            self.sealed.clear();
            for (end, session) in parked.sessions.iter_mut().enumerate() {
                let from = self.sealed.len();
                if let Some(tls) = session
                    && bits & closed[end] == 0
                {
                    // What it takes to seal one record is made again, and goes with the session.
                    tls.session.close(&mut self.sealed);
                }
                ends[end] = (from, self.sealed.len());
            }
            for (sock, (from, to)) in socks.into_iter().zip(ends) {
                if from < to {
                    // Nobody waits for the outcome.
                    let _ = write(
                        &mut core.reactor,
                        sock,
                        &[IoSlice::new(&self.sealed[from..to])],
                    );
                }
            }
        }
        core.close_parked(slot, false)
    }

    /// The handshake of a client took too long.
    pub(super) fn handshake_timed_out<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let listener = match self.conn(key).map(|conn| &conn.role) {
            Some(Role::Down(down)) => Arc::clone(&down.listener),
            Some(Role::Tunnel(end)) => Arc::clone(&end.listener),
            _ => return,
        };
        self.stats.inc(
            listener
                .stats
                .downstream_cx_transport_socket_connect_timeout,
        );
        self.close(core, key, false);
    }

    /// Gives a record the TLS of its connections, less what can be made again.
    pub(super) fn park_tls(&mut self, record: &mut Record, first: Key, second: Option<Key>) {
        let mut take = |key: Option<Key>| {
            let mut tls = self.conns.get_key_mut(key?)?.tls.take()?;
            tls.session.park();
            Some(tls)
        };
        let sessions = [take(Some(first)), take(second)];
        if sessions.iter().any(Option::is_some) {
            let inner = record.cold.take();
            record.cold = Some(Box::new(Cold::Tls(Box::new(ParkedTls { sessions, inner }))));
        }
    }

    /// Takes the TLS of its connections out of a record.
    pub(super) fn unpark_tls(record: &mut Record) -> [Option<Box<Secure>>; 2] {
        match record.cold.take().map(|cold| *cold) {
            Some(Cold::Tls(parked)) => {
                record.cold = parked.inner;
                parked.sessions
            }
            other => {
                record.cold = other.map(Box::new);
                [None, None]
            }
        }
    }

    /// Whether a chain speaks TLS: how it is judged is the same for all of its connections.
    pub(super) fn accept_tls(
        chain: &super::config::FilterChain,
        now: u64,
        ends: impl FnOnce() -> [Option<IpAddr>; 2],
    ) -> Result<Option<Box<Secure>>, TlsError> {
        match &chain.tls {
            Some(tls) => Secure::server(tls, now, ends).map(Some),
            None => Ok(None),
        }
    }
}
