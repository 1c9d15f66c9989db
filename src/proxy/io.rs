//! Reading and flushing resident connections.

use std::io;

use moorgate_codecs::{Consumed, Why};

use super::conn::{Closing, Conn, Role, pause};
use super::gateway::{Core, Gateway};
use super::output::Flushed;
use crate::engine::arena::Span;
use crate::engine::chunk::Pressure;
use crate::engine::reactor::{Interest, Reactor, Ready};
use crate::engine::slab::Key;

/// Free arena below which everything is flushed first.
pub(super) const MIN_ROOM: usize = 16 * 1024;
/// Most bytes one read call is offered.
pub(super) const READ_BYTES: usize = 64 * 1024;
/// Encoded output above which everything is flushed at once.
const MAX_WIRE: usize = 256 * 1024;

/// What one read gave.
pub(super) enum Got {
    /// Bytes; `dry` when the socket had no more.
    Bytes { span: Span, dry: bool },
    /// Nothing for the codec, but the transport itself was served.
    Control { dry: bool },
    /// Nothing now.
    Nothing,
    /// End of stream.
    End,
    /// The connection broke.
    Broken,
}

impl Gateway {
    /// An event of a resident connection.
    pub(super) fn resident_ready<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        ready: Ready,
    ) {
        let now = core.now();
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        conn.active_ms = now;
        conn.work += 1;
        if ready.has(Ready::READ_CLOSED | Ready::HUP | Ready::ERROR) {
            conn.fin_seen = true;
        }
        if ready.has(Ready::READ | Ready::READ_CLOSED | Ready::HUP | Ready::ERROR) {
            conn.readable = true;
        }
        let broken = ready.has(Ready::ERROR) || (ready.has(Ready::HUP) && !conn.write_closed);
        let (paused, client) = (conn.paused, matches!(conn.role, Role::Down(_)));
        // Everything it sent was read and passed on: no read will tell of this any more.
        let unread = !conn.read_closed || !conn.rest.is_empty();
        if self.is_connecting(key) {
            if matches!(
                self.conn(key).map(|conn| &conn.role),
                Some(Role::Detecting(_))
            ) {
                self.detect(core, key, broken);
            } else if ready.has(Ready::WRITE | Ready::ERROR | Ready::HUP) {
                self.connect_ended(core, key);
            }
            return;
        }
        if ready.has(Ready::WRITE)
            && let Some(conn) = self.conns.get_key_mut(key)
            && conn.blocked
        {
            conn.blocked = false;
            self.mark_dirty(key);
        }
        // A client that is not read now must still be noticed when it goes away. What an upstream or
        // a tunnel sent before its end is read first, when there is room for it.
        if client
            && paused != 0
            && (broken || ready.has(Ready::READ_CLOSED) && paused & pause::ORDER != 0)
        {
            self.peer_gone(core, key, broken);
            return;
        }
        if broken && !unread {
            self.peer_gone(core, key, true);
            return;
        }
        self.serve(core, key);
    }

    /// Reads a connection until it is dry, paused, or has had its share of the turn.
    pub(super) fn serve<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let mut left = Self::read_budget(core, self.tuning.read_budget);
        // Rest first: a message may be complete in it.
        if self
            .conn(key)
            .is_some_and(|conn| !conn.rest.is_empty() && conn.paused == 0)
            && self.may_read(core, key)
            && !self.feed(core, key, Span { start: 0, len: 0 })
        {
            return;
        }
        loop {
            let Some(conn) = self.conn(key) else { return };
            if !conn.readable || conn.read_closed || conn.paused != 0 {
                return;
            }
            if left == 0 {
                self.queue(key);
                return;
            }
            let secure = conn.tls.is_some();
            let pressed = core.chunks.budget().pressure() >= Pressure::Refuse;
            if (conn.blocked || pressed) && !self.may_read(core, key) {
                return;
            }
            let got = if secure {
                self.read_secure(core, key, left)
            } else {
                self.read(core, key, left)
            };
            match got {
                Got::Bytes { span, dry } => {
                    left = left.saturating_sub(span.len as usize);
                    if !self.feed(core, key, span) {
                        return;
                    }
                    if dry {
                        return;
                    }
                }
                Got::Control { dry: false } => {}
                Got::Control { dry: true } | Got::Nothing => return,
                Got::End => {
                    self.read_ended(core, key);
                    return;
                }
                Got::Broken => {
                    self.peer_gone(core, key, true);
                    return;
                }
            }
        }
    }

    /// Reads at most `most` bytes.
    fn read<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, most: usize) -> Got {
        let rest = self.conn(key).map_or(0, |conn| conn.rest.len());
        if core.arena.room() < MIN_ROOM + rest || self.out.bytes.len() > MAX_WIRE {
            self.flush_all(core);
        }
        let most = most.min(READ_BYTES);
        let Some(conn) = self.conns.get_key_mut(key) else {
            return Got::Nothing;
        };
        let tail = core.arena.tail_mut();
        // New bytes go behind the unfinished ones, so that the codec sees them in one piece.
        let room = tail.len().saturating_sub(rest).min(most);
        let Some(into) = tail.get_mut(rest..rest + room) else {
            return Got::Nothing;
        };
        match core.reactor.read(conn.sock, into) {
            Ok(0) => {
                conn.readable = false;
                Got::End
            }
            Ok(n) => {
                let dry = n < room && !conn.fin_seen;
                if dry {
                    conn.readable = false;
                }
                conn.rx += n as u64;
                if rest > 0 {
                    conn.rest.copy_to(&mut tail[..rest]);
                    conn.rest.clear(&mut core.chunks);
                }
                let span = core.arena.commit(rest + n);
                Got::Bytes { span, dry }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {
                    conn.readable = false;
                    Got::Nothing
                }
                io::ErrorKind::Interrupted => Got::Nothing,
                _ => Got::Broken,
            },
        }
    }

    /// Gives a connection's bytes (its rest, when the span is empty) to whom they belong. False when
    /// the connection is gone or must not be read on now.
    fn feed<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, span: Span) -> bool {
        let mut span = span;
        if span.len == 0 {
            let Some(conn) = self.conns.get_key_mut(key) else {
                return false;
            };
            let rest = conn.rest.len();
            if core.arena.room() < rest {
                self.flush_all(core);
            }
            let Some(conn) = self.conns.get_key_mut(key) else {
                return false;
            };
            let Some(into) = core.arena.tail_mut().get_mut(..rest) else {
                return false;
            };
            conn.rest.copy_to(into);
            conn.rest.clear(&mut core.chunks);
            span = core.arena.commit(rest);
        }
        let Some(conn) = self.conn(key) else {
            return false;
        };
        if conn.closing == Closing::Lingering {
            return true;
        }
        match &conn.role {
            Role::Tunnel(_) => self.tunnel_bytes(core, key, span),
            Role::Down(_) | Role::Up(_) => self.decode(core, key, span),
            Role::Detecting(_) | Role::Waking => false,
        }
    }

    fn decode<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, mut span: Span) -> bool {
        loop {
            let now = core.now();
            let Some(conn) = self.conns.get_key_mut(key) else {
                return false;
            };
            let start = self.out.bytes.len();
            let Some(codec) = (match &mut conn.role {
                Role::Down(down) => Some(&mut down.codec),
                Role::Up(up) => Some(&mut up.codec),
                Role::Tunnel(_) | Role::Detecting(_) | Role::Waking => None,
            }) else {
                return false;
            };
            let Consumed { bytes, why } =
                codec.decode(now, core.arena.get(span), &mut self.events, &mut self.out);
            conn.output
                .take(&mut self.out, start, Span { start: 0, len: 0 });
            if !conn.output.is_empty() {
                self.mark_dirty(key);
            }
            let had_events = !self.events.list.is_empty();
            // The rest of the span is still to be read: the arena must stay as it is.
            self.decoding = true;
            self.dispatch(core, key, span);
            self.decoding = false;
            let bytes = (bytes as u32).min(span.len);
            span = Span {
                start: span.start + bytes,
                len: span.len - bytes,
            };
            match why {
                Why::NeedMore => {
                    self.keep_rest(core, key, span);
                    self.note_partial(core, key, span.len > 0);
                    return self.conn(key).is_some();
                }
                Why::Paused => {
                    // The answer may have been given while the events were handled: then go on.
                    let waits = self.conn(key).is_some_and(|conn| {
                        conn.paused & pause::ORDER != 0
                            || conn.streams().is_some_and(|streams| !streams.is_empty())
                    });
                    if !waits && span.len > 0 && (bytes > 0 || had_events) {
                        if !self.must_drain(key) {
                            continue;
                        }
                        self.keep_rest(core, key, span);
                        self.queue(key);
                        return false;
                    }
                    self.keep_rest(core, key, span);
                    if waits && let Some(conn) = self.conns.get_key_mut(key) {
                        conn.paused |= pause::ORDER;
                    }
                    return false;
                }
                Why::Upgraded => {
                    // The stream's end made both connections a tunnel; what is left is its first bytes.
                    if self
                        .conn(key)
                        .is_some_and(|conn| matches!(conn.role, Role::Tunnel(_)))
                    {
                        return span.len == 0 || self.tunnel_bytes(core, key, span);
                    }
                    if self.is_raw(key) {
                        continue;
                    }
                    self.keep_rest(core, key, span);
                    if let Some(conn) = self.conns.get_key_mut(key) {
                        conn.paused |= pause::CONNECTING;
                    }
                    return false;
                }
                Why::Http2 => {
                    if !self.switch_to_http2(core, key) {
                        self.close_after_flush(core, key);
                        return false;
                    }
                }
                Why::Closed(error) => {
                    self.codec_closed(core, key, error);
                    return false;
                }
            }
        }
    }

    /// Keeps unread bytes: they are about to leave the arena.
    pub(super) fn keep_rest<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, span: Span) {
        if span.len == 0 {
            return;
        }
        if let Some(conn) = self.conns.get_key_mut(key) {
            conn.rest.push(&mut core.chunks, core.arena.get(span));
        }
    }

    /// The peer will send no more.
    fn read_ended<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        conn.read_closed = true;
        if conn.closing == Closing::Lingering {
            self.close(core, key, false);
            return;
        }
        match &mut conn.role {
            Role::Tunnel(_) => self.tunnel_eof(core, key),
            Role::Up(up) => {
                let error = up.codec.eof(conn.rest.len(), &mut self.events);
                self.dispatch(core, key, Span { start: 0, len: 0 });
                if error.is_some() {
                    self.note_upstream_error(key);
                }
                let closing = self.conn(key).map(|conn| conn.closing);
                if self.is_raw(key)
                    && (self.carries_streams(key) || closing == Some(Closing::AfterFlush))
                {
                    // The other direction of a session goes on, or its last bytes are on their way.
                    return;
                }
                self.upstream_gone(core, key, false);
            }
            Role::Down(down) if down.codec.is_raw() => {
                let _ = down.codec.eof(conn.rest.len(), &mut self.events);
                self.dispatch(core, key, Span { start: 0, len: 0 });
            }
            Role::Down(_) | Role::Detecting(_) | Role::Waking => self.peer_gone(core, key, false),
        }
    }

    /// Writes what every connection has to say, and frees the turn's buffers.
    pub(super) fn flush_all<R: Reactor>(&mut self, core: &mut Core<R>) {
        debug_assert!(!self.decoding, "the arena is still read from");
        if self.flushing {
            // It goes on below, once there is room.
            return;
        }
        self.flushing = true;
        // What drains may make others talk; they are flushed in the same go. It is a loop and not a call
        // from within, so that a long row of those who wait for each other takes no stack.
        loop {
            while let Some(key) = self.dirty.pop() {
                self.flush(core, key);
            }
            core.arena.reset();
            self.out.bytes.clear();
            if self.drained.is_empty() {
                break;
            }
            for key in std::mem::take(&mut self.drained) {
                self.pump_into(core, key);
            }
        }
        self.flushing = false;
        if self.out.bytes.capacity() > 4 * MAX_WIRE {
            self.out.bytes.shrink_to(MAX_WIRE);
        }
    }

    fn flush<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        conn.dirty = false;
        if conn.blocked || Self::still_connecting(conn) {
            conn.output
                .spill(&mut core.chunks, &core.arena, &self.out.bytes);
            return;
        }
        let flushed = match &mut conn.tls {
            None => conn.output.flush(
                &mut core.reactor,
                conn.sock,
                &core.arena,
                &self.out.bytes,
                &mut core.chunks,
            ),
            Some(_) => Self::flush_secure(core, conn, &self.out.bytes, &mut self.sealed),
        };
        let blocked = match flushed {
            Ok((n, Flushed::All)) => {
                conn.tx += n as u64;
                let (slot, sock) = (conn.slot, conn.sock);
                if std::mem::take(&mut conn.write_armed)
                    && core
                        .arm(slot, sock, Interest::Edge { write: false })
                        .is_err()
                {
                    self.peer_gone(core, key, true);
                    return;
                }
                false
            }
            Ok((n, Flushed::Blocked)) => {
                conn.tx += n as u64;
                conn.blocked = true;
                let (slot, sock) = (conn.slot, conn.sock);
                let armed = std::mem::replace(&mut conn.write_armed, true);
                if !armed
                    && core
                        .arm(slot, sock, Interest::Edge { write: true })
                        .is_err()
                {
                    self.peer_gone(core, key, true);
                    return;
                }
                true
            }
            Err(_) => {
                conn.output.clear(&mut core.chunks);
                self.write_failed(core, key);
                return;
            }
        };
        if !blocked {
            if let Some(codec) = self.conn_mut(key).and_then(Conn::codec_mut) {
                codec.written();
            }
            self.drained(core, key);
            self.written(core, key);
        } else if self.conn(key).is_some_and(|conn| conn.throttles) {
            self.drained(core, key);
        }
    }

    /// Everything was written: do what waited for that.
    fn written<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        if !conn.output.is_empty() {
            return;
        }
        if conn.fin_after_flush && !conn.write_closed {
            conn.write_closed = true;
            let sock = conn.sock;
            // A peer that is gone already is told by its event.
            let _ = core.reactor.shutdown_write(sock);
            self.tunnel_half_closed(core, key);
        }
        let closing = self.conn(key).map(|conn| conn.closing);
        if closing == Some(Closing::AfterFlush) {
            self.linger(core, key);
        }
    }
}
