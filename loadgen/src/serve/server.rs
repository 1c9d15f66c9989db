//! The application of one worker of `serve`.
//!
//! A turn reads, decodes, answers and writes at once. Whatever the socket does not take waits in the
//! connection, and until it is gone nothing more is read from there.

use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use moorgate::engine::core::Core;
use moorgate::engine::parked::{Parked, Token};
use moorgate::engine::reactor::epoll::Epoll;
use moorgate::engine::reactor::random::Random;
use moorgate::engine::reactor::{
    Addr, Interest, ListenOptions, Reactor, Ready, Sock, SocketOptions,
};
use moorgate::engine::slab::{Key, PagedSlab};
use moorgate::engine::worker::App;
use moorgate::tls::ServerContext;
use moorgate_codecs::http1::Server;
use moorgate_codecs::{Codec, Events, Head, Out};

use super::answers::Answers;
use super::conn::{Conn, Doing, ServeFacts};
use super::streams::Mux;
use crate::cli::Service;
use crate::secure::{self, Input, Secure};

/// Connections accepted in one go.
const ACCEPTS: usize = 64;
/// Milliseconds before accepting goes on when descriptors ran out.
const ACCEPT_PAUSE_MS: u64 = 100;
/// Reads of one connection in one turn.
const READS_PER_TURN: usize = 8;
/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// Writes of one connection in one turn.
const WRITES_PER_TURN: usize = 16;
/// A connection that was quiet for so long is parked.
const QUIET_MS: u64 = 1000;
/// A wait of at least this long is spent parked, whose deadlines count tenths of a second.
const LONG_WAIT_MS: u64 = 2000;

type ServeCore = Core<Epoll, ServeFacts>;

/// The application of one worker.
#[derive(Debug)]
pub(super) struct Serve {
    pub(super) answers: Answers,
    listener: Sock,
    listening: Option<Key>,
    listen_again_ms: u64,
    pub(super) conns: PagedSlab<Conn>,
    /// Stopped reading before their socket was empty.
    unread: Vec<u32>,
    next_sweep_ms: u64,
    pub(super) events: Events,
    pub(super) out: Out,
    pub(super) head: Head,
    pub(super) event: Vec<u8>,
    pub(super) random: Random,
    /// Every connection shakes hands with it first.
    tls: Option<Arc<ServerContext>>,
    /// Room for what is sealed and written at once.
    sealed: Vec<u8>,
}

impl Serve {
    /// Listens; also gives the address.
    pub(super) fn new(
        core: &mut ServeCore,
        addr: &Addr,
        options: &ListenOptions,
        answers: Answers,
        tls: Option<Arc<ServerContext>>,
    ) -> io::Result<(Self, Addr)> {
        let listener = core.reactor.listen(addr, options)?;
        let bound = core.reactor.local_addr(listener)?;
        let listening = core.add_listener(listener, 0)?;
        let serve = Self {
            answers,
            listener,
            listening: Some(listening),
            listen_again_ms: 0,
            conns: PagedSlab::new(),
            unread: Vec::new(),
            next_sweep_ms: 0,
            events: Events::default(),
            out: Out::default(),
            head: Head::new(),
            event: Vec::new(),
            random: Random::from_os()?,
            tls,
            sealed: Vec::new(),
        };
        Ok((serve, bound))
    }

    /// Connections begin with HTTP/1.
    fn is_http(&self) -> bool {
        !matches!(self.answers.service, Service::Tcp | Service::Grpc)
    }

    fn opened(&mut self, core: &mut ServeCore, sock: Sock) {
        let codec = self
            .is_http()
            .then(|| Server::new(self.answers.settings.clone()));
        let key = Key {
            index: u32::MAX,
            generation: 0,
        };
        let mut conn = Conn::new(key, sock, codec, core.now());
        // A context that was built makes sessions.
        conn.tls = (self.tls.as_deref()).and_then(|context| Secure::server(context).ok());
        if self.answers.service == Service::Grpc {
            conn.mux = Some(Box::new(Mux::new(&self.answers.http2)));
        }
        let place = self.conns.insert(conn);
        match core.open(sock, place.index, Interest::Edge { write: false }) {
            Ok(key) => {
                if let Some(conn) = self.conns.get_mut(place.index) {
                    conn.key = key;
                }
            }
            Err(_) => {
                self.conns.remove(place.index);
                core.reactor.close(sock, true);
            }
        }
    }

    fn close(&mut self, core: &mut ServeCore, number: u32, reset: bool) {
        if let Some(mut conn) = self.conns.remove(number) {
            if let Some(tls) = &mut conn.tls
                && !reset
            {
                tls.farewell(&mut core.reactor, conn.sock);
            }
            core.close(conn.key, conn.sock, reset);
        }
    }

    /// Reads and answers until the socket is empty, full, or had its share.
    fn serve(&mut self, core: &mut ServeCore, number: u32) {
        for _ in 0..READS_PER_TURN {
            let Some(conn) = self.conns.get_mut(number) else {
                return;
            };
            if !conn.readable || conn.held || conn.closing || conn.blocked() {
                return;
            }
            let buffer = core.arena.tail_mut();
            let room = buffer.len().min(READ_BYTES);
            match secure::read(
                &mut conn.tls,
                &mut core.reactor,
                conn.sock,
                &mut buffer[..room],
            ) {
                Input::End => {
                    conn.readable = false;
                    conn.read_closed = true;
                    return self.ended(core, number);
                }
                Input::Bytes { n, more } => {
                    conn.readable = more;
                    conn.active_ms = core.now();
                    if n == 0 {
                        // TLS reads its own messages, and may have to answer.
                        if !self.settle(core, number, true) {
                            return;
                        }
                        continue;
                    }
                    let span = core.arena.commit(n);
                    let open = if let Some(frames) = &mut conn.frames {
                        conn.rest.extend_from_slice(core.arena.get(span));
                        frames.feed(&mut conn.rest, &mut self.out.bytes)
                    } else if conn.codec.is_some() || conn.mux.is_some() {
                        self.input(core.arena.get(span), number, core.now())
                    } else {
                        self.out.bytes.extend_from_slice(core.arena.get(span));
                        true
                    };
                    core.arena.uncommit(span);
                    if !self.settle(core, number, open) {
                        return;
                    }
                }
                Input::Blocked => {
                    conn.readable = false;
                    return;
                }
                Input::Broken => return self.close(core, number, true),
            }
        }
        self.unread.push(number);
    }

    /// Bytes came on an HTTP connection. False: nothing more will be read from it.
    fn input(&mut self, bytes: &[u8], number: u32, now_ms: u64) -> bool {
        let Some(conn) = self.conns.get_mut(number) else {
            return false;
        };
        if conn.rest.is_empty() {
            let (at, open) = self.decode(number, now_ms, bytes);
            if let Some(conn) = self.conns.get_mut(number) {
                conn.rest.extend_from_slice(&bytes[at..]);
            }
            return open;
        }
        conn.rest.extend_from_slice(bytes);
        self.decode_rest(number, now_ms)
    }

    fn decode_rest(&mut self, number: u32, now_ms: u64) -> bool {
        let Some(conn) = self.conns.get_mut(number) else {
            return false;
        };
        let mut rest = std::mem::take(&mut conn.rest);
        let (at, open) = self.decode(number, now_ms, &rest);
        rest.drain(..at);
        if let Some(conn) = self.conns.get_mut(number) {
            conn.rest = rest;
        }
        open
    }

    /// Goes on with input that was held back.
    fn resume(&mut self, core: &mut ServeCore, number: u32) {
        if let Some(conn) = self.conns.get(number)
            && conn.held
            && !conn.blocked()
        {
            let open = self.decode_rest(number, core.now());
            if !self.settle(core, number, open) {
                return;
            }
        }
        if let Some(conn) = self.conns.get(number)
            && conn.mux.as_ref().is_some_and(|mux| mux.has_more())
            && !conn.blocked()
        {
            self.with_streams(number, core.now(), Mux::pump);
            if !self.settle(core, number, true) {
                return;
            }
        }
        self.serve(core, number);
    }

    /// Writes what was made, closes what is done, waits for what is due. False: the connection is
    /// gone or parked.
    fn settle(&mut self, core: &mut ServeCore, number: u32, open: bool) -> bool {
        if let Some(conn) = self.conns.get_mut(number) {
            conn.closing |= !open || conn.codec.as_ref().is_some_and(Codec::finished);
        }
        if !self.write(core, number) {
            return false;
        }
        let Some(conn) = self.conns.get_mut(number) else {
            return false;
        };
        if !conn.blocked() {
            if conn.closing {
                self.close(core, number, false);
                return false;
            }
            if let Some(mux) = &mut conn.mux {
                mux.written();
                if mux.has_more() {
                    self.unread.push(number);
                }
            }
            if conn.held && !matches!(conn.doing, Doing::Waiting { .. } | Doing::Events { .. }) {
                self.unread.push(number);
            }
        }
        if let Some(due_ms) = conn.due_ms() {
            core.schedule(conn.key, due_ms);
            if due_ms >= core.now() + LONG_WAIT_MS {
                return !self.park(core, number);
            }
        }
        true
    }

    /// The client sends no more.
    fn ended(&mut self, core: &mut ServeCore, number: u32) {
        let Some(conn) = self.conns.get_mut(number) else {
            return;
        };
        let rest = conn.rest.len();
        if let Some(codec) = &mut conn.codec {
            // What was cut short gets no answer, so nothing is to be told.
            let _ = codec.eof(rest, &mut self.events);
            self.events.list.clear();
        }
        if !matches!(conn.doing, Doing::Waiting { .. }) {
            conn.closing = true;
            if !conn.blocked() {
                self.close(core, number, false);
            }
        }
    }

    /// Writes. False: the connection is gone.
    fn write(&mut self, core: &mut ServeCore, number: u32) -> bool {
        let now_ms = core.now();
        let Some(conn) = self.conns.get_mut(number) else {
            self.out.bytes.clear();
            return false;
        };
        let queued = !conn.queue.is_empty();
        if queued {
            conn.queue.extend_from_slice(&self.out.bytes);
        }
        let bytes: &[u8] = if queued { &conn.queue } else { &self.out.bytes };
        let mut at = 0;
        let mut left = conn.fill;
        let mut writes = 0;
        let full = loop {
            let body = if left > 0 {
                self.answers.body(left)
            } else {
                &[]
            };
            let slices = [IoSlice::new(&bytes[at..]), IoSlice::new(body)];
            let slices = match (at == bytes.len(), body.is_empty()) {
                (true, true) => break flush(conn.tls.as_mut(), core, conn.sock),
                (false, true) => &slices[..1],
                (true, false) => &slices[1..],
                (false, false) => &slices[..],
            };
            if writes == WRITES_PER_TURN {
                self.unread.push(number);
                break Ok(false);
            }
            writes += 1;
            match secure::write(
                &mut conn.tls,
                &mut core.reactor,
                conn.sock,
                slices,
                &mut self.sealed,
                now_ms,
            ) {
                Ok(n) => {
                    let first = n.min(bytes.len() - at);
                    at += first;
                    left -= (n - first) as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(true),
                Err(error) => break Err(error),
            }
        };
        conn.fill = left;
        if queued {
            conn.queue.drain(..at);
        } else {
            conn.queue.extend_from_slice(&self.out.bytes[at..]);
        }
        self.out.bytes.clear();
        let registered = match full {
            Ok(true) if !conn.armed => {
                conn.armed = true;
                core.arm(conn.key, conn.sock, Interest::Edge { write: true })
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if registered.is_err() {
            self.close(core, number, true);
            return false;
        }
        true
    }

    /// True when it was parked, or is gone.
    fn park(&mut self, core: &mut ServeCore, number: u32) -> bool {
        let Some(conn) = self.conns.get_mut(number) else {
            return false;
        };
        let Some(record) = conn.record() else {
            return false;
        };
        let parked = core.park(conn.key, record).is_ok();
        if parked {
            self.conns.remove(number);
        } else {
            // The kernel knows the descriptor no more.
            self.close(core, number, true);
        }
        true
    }

    fn unpark(&mut self, core: &mut ServeCore, key: Key) -> Option<u32> {
        let place = self.conns.insert(Conn::new(key, Sock(-1), None, 0));
        let Some(record) = core.unpark(key, place.index) else {
            self.conns.remove(place.index);
            return None;
        };
        let conn = Conn::unpark(key, record, &self.answers, self.is_http(), core.now());
        *self.conns.get_mut(place.index)? = conn;
        Some(place.index)
    }

    /// Accepting goes on later: a full descriptor table would report the same connection for ever.
    fn pause_accepting(&mut self, core: &mut ServeCore) {
        if let Some(key) = self.listening.take() {
            core.remove_listener(key, self.listener);
            self.listen_again_ms = core.now() + ACCEPT_PAUSE_MS;
        }
    }

    fn sweep(&mut self, core: &mut ServeCore) {
        let now_ms = core.now();
        let mut at = self.conns.first_index();
        while let Some(number) = at {
            at = self.conns.next_index(number);
            if let Some(conn) = self.conns.get(number)
                && conn.active_ms + QUIET_MS <= now_ms
                && conn
                    .due_ms()
                    .is_none_or(|due_ms| due_ms >= now_ms + LONG_WAIT_MS)
            {
                self.park(core, number);
            }
        }
    }
}

/// What TLS sealed goes out. True when some of it did not.
fn flush(tls: Option<&mut Box<Secure>>, core: &mut ServeCore, sock: Sock) -> io::Result<bool> {
    match tls {
        Some(tls) => Ok(!tls.flush(&mut core.reactor, sock)?),
        None => Ok(false),
    }
}

/// Whoever measures wants to know that the server is what is in the way; once is enough.
fn tell_once(error: &std::io::Error) {
    static TOLD: std::sync::Once = std::sync::Once::new();
    TOLD.call_once(|| {
        eprintln!(
            "moorgate-load: cannot accept: {error}; connections wait until others end. \
             Raise the limit on descriptors (ulimit -n) or open fewer connections."
        );
    });
}

impl App<Epoll> for Serve {
    type Facts = ServeFacts;

    fn ready(&mut self, core: &mut ServeCore, number: u32, ready: Ready) {
        let Some(conn) = self.conns.get_mut(number) else {
            return;
        };
        if ready.has(Ready::HUP | Ready::ERROR) {
            return self.close(core, number, false);
        }
        conn.readable |= ready.has(Ready::READ | Ready::READ_CLOSED);
        if ready.has(Ready::WRITE) && conn.blocked() && !self.settle(core, number, true) {
            return;
        }
        self.resume(core, number);
    }

    fn local_ready(&mut self, core: &mut ServeCore, key: Key, ready: Ready) {
        if let Some(number) = self.unpark(core, key) {
            self.ready(core, number, ready);
        }
    }

    fn parked_due(&mut self, core: &mut ServeCore, key: Key) {
        if let Some(number) = self.unpark(core, key) {
            self.resident_due(core, number);
        }
    }

    fn resident_due(&mut self, core: &mut ServeCore, number: u32) {
        let now_ms = core.now();
        let Some(conn) = self.conns.get(number) else {
            return;
        };
        match conn.doing {
            Doing::Waiting { due_ms, .. } if due_ms <= now_ms => self.answer(number, now_ms),
            Doing::Events { due_ms, .. } if due_ms.is_some_and(|due_ms| due_ms <= now_ms) => {
                self.send_event(number, now_ms);
            }
            _ => {}
        }
        self.with_streams(number, now_ms, Mux::on_due);
        if self.settle(core, number, true) {
            self.resume(core, number);
        }
    }

    fn accept(&mut self, core: &mut ServeCore, _number: u32) {
        for _ in 0..ACCEPTS {
            match core
                .reactor
                .accept(self.listener, &SocketOptions::default())
            {
                Ok((sock, _)) => self.opened(core, sock),
                Err(error) => {
                    let gone = [ErrorKind::WouldBlock, ErrorKind::ConnectionAborted];
                    if !gone.contains(&error.kind()) {
                        tell_once(&error);
                        self.pause_accepting(core);
                    }
                    return;
                }
            }
        }
    }

    fn has_ready(&self) -> bool {
        !self.unread.is_empty()
    }

    fn serve_ready(&mut self, core: &mut ServeCore) {
        for number in std::mem::take(&mut self.unread) {
            let blocked = self.conns.get(number).is_some_and(Conn::blocked);
            if !blocked || self.settle(core, number, true) {
                self.resume(core, number);
            }
        }
    }

    fn expire(&mut self, core: &mut ServeCore) -> Option<u64> {
        let now_ms = core.now();
        let mut due_ms = None;
        if self.listening.is_none() {
            if now_ms >= self.listen_again_ms {
                self.listening = core.add_listener(self.listener, 0).ok();
                self.listen_again_ms = now_ms + ACCEPT_PAUSE_MS;
            }
            if self.listening.is_none() {
                due_ms = Some(self.listen_again_ms);
            }
        }
        if !self.conns.is_empty() {
            if now_ms >= self.next_sweep_ms {
                self.next_sweep_ms = now_ms + QUIET_MS;
                self.sweep(core);
            }
            let sweep_ms = self.next_sweep_ms;
            due_ms = Some(due_ms.map_or(sweep_ms, |due_ms: u64| due_ms.min(sweep_ms)));
        }
        due_ms
    }

    fn is_local(&self, _record: &Parked<ServeFacts>) -> bool {
        true
    }

    fn end_turn(&mut self, _core: &mut ServeCore, _began_us: u64) {}

    fn finished(&self) -> bool {
        false
    }

    fn message(&mut self, _core: &mut ServeCore, (): ()) {}

    fn wake(&mut self, _core: &mut ServeCore, _token: Token<ServeFacts>) {
        unreachable!("every record is local");
    }
}
