//! How connections end: by the peer, by us, at once or after what is queued was written.

use moorgate_codecs::{ResetReason, Shape};

use super::conn::{Closing, Conn, Role, pause};
use super::gateway::{Core, Gateway};
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;

impl Gateway {
    /// The peer of a connection went away (`reset`: not in order).
    pub(super) fn peer_gone<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, reset: bool) {
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        match &mut conn.role {
            Role::Detecting(_) => self.drop_undetected(core, key, reset),
            Role::Waking => self.unregistered(core, key),
            Role::Up(up) => {
                let rest = conn.rest.len();
                if !up.connecting && !reset {
                    let _ = up.codec.eof(rest, &mut self.events);
                    self.dispatch(core, key, crate::engine::arena::Span { start: 0, len: 0 });
                }
                self.upstream_gone(core, key, reset);
            }
            Role::Tunnel(_) => {
                self.note_left(key);
                self.tunnel_broken(core, key, reset);
            }
            Role::Down(down) => {
                let stats = down.http.stats;
                let open = !down.streams.is_empty();
                self.stats.inc(stats.downstream_cx_destroy_remote);
                if open {
                    self.stats.inc(stats.downstream_cx_destroy_remote_active_rq);
                }
                self.close(core, key, reset);
            }
        }
    }

    /// Writing to a peer failed.
    pub(super) fn write_failed<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        // An upstream may have answered before it closed: what it said is read first.
        if let Some(conn) = self.conn_mut(key)
            && matches!(conn.role, Role::Up(_))
            && !conn.read_closed
        {
            conn.readable = true;
            conn.fin_seen = true;
            if conn.paused == 0 {
                self.queue(key);
                return;
            }
        }
        self.peer_gone(core, key, true);
    }

    /// Closes a client or tunnel connection now; its streams are cancelled.
    pub(super) fn close<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, reset: bool) {
        let Some(conn) = self.conn_mut(key) else {
            return;
        };
        let streams = match &mut conn.role {
            Role::Down(down) => std::mem::take(&mut down.streams).keys(),
            Role::Up(_) => {
                self.upstream_gone(core, key, reset);
                return;
            }
            Role::Tunnel(_) => {
                self.tunnel_broken(core, key, reset);
                return;
            }
            Role::Detecting(_) => {
                self.drop_undetected(core, key, reset);
                return;
            }
            Role::Waking => Vec::new(),
        };
        for stream in streams {
            self.client_gone(core, stream);
        }
        self.drop_client(core, key, reset);
    }

    /// Takes a client connection without streams out of everything.
    pub(super) fn drop_client<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, reset: bool) {
        let Some(mut conn) = self.conns.remove(key.index) else {
            return;
        };
        conn.rest.clear(&mut core.chunks);
        conn.output.clear(&mut core.chunks);
        if !reset {
            Self::farewell(core, &mut conn, &mut self.sealed);
        }
        let age = core.now().saturating_sub(conn.opened_ms);
        if let Role::Down(down) = &conn.role {
            let stats = down.http.stats;
            self.stats.add(stats.downstream_cx_rx_bytes_total, conn.rx);
            self.stats.add(stats.downstream_cx_tx_bytes_total, conn.tx);
            let multiplexed = down.codec.shape() == Shape::Multiplex;
            self.client_closed(&down.listener, Some((&down.http, multiplexed)), age);
        }
        core.close(conn.slot, conn.sock, reset);
    }

    /// Sends FIN and waits a little for the peer's, so that a reset does not overtake our last bytes.
    pub(super) fn linger<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        let Role::Down(down) = &conn.role else {
            self.upstream_gone(core, key, false);
            return;
        };
        let wait = down.http.delayed_close_timeout_ms;
        if conn.read_closed || wait == 0 {
            self.close(core, key, false);
            return;
        }
        conn.closing = Closing::Lingering;
        conn.paused = 0;
        conn.active_ms = now;
        conn.rest.clear(&mut core.chunks);
        if !conn.write_closed {
            Self::farewell(core, conn, &mut self.sealed);
            conn.write_closed = true;
            let sock = conn.sock;
            // A peer that is gone already is told by its event.
            let _ = core.reactor.shutdown_write(sock);
        }
        self.due_by(core, key, now + wait);
        self.queue(key);
    }

    /// The client of a stream went away.
    pub(super) fn client_gone<R: Reactor>(&mut self, core: &mut Core<R>, stream: Key) {
        let Some(found) = self.stream_mut(stream) else {
            return;
        };
        found.client = super::stream::Client::Gone;
        if found.status == 0 || !found.response.sent {
            found.flags |= crate::telemetry::flags::DOWNSTREAM_TERMINATION;
            found.details = "downstream_remote_disconnect";
        }
        self.detach_upstream(core, stream, ResetReason::Cancel);
        self.end_stream(core, stream);
    }

    /// The client gave a stream up, but not its connection.
    pub(super) fn client_reset<R: Reactor>(&mut self, core: &mut Core<R>, stream: Key) {
        let Some(found) = self.stream(stream) else {
            return;
        };
        let (http, client) = (std::sync::Arc::clone(&found.http), found.client_key());
        let id = found.client_id;
        self.stats.inc(http.stats.downstream_rq_rx_reset);
        if let Some(down) = client
            .and_then(|key| self.conn_mut(key))
            .and_then(Conn::down_mut)
        {
            down.streams.remove(id);
        }
        if let Some(found) = self.stream_mut(stream) {
            found.flags |= crate::telemetry::flags::DOWNSTREAM_RESET;
        }
        self.detach_upstream(core, stream, ResetReason::Cancel);
        self.end_stream(core, stream);
        if let Some(key) = client {
            self.client_quiet(core, key);
        }
    }

    /// Ends a stream that cannot be answered properly any more: reset on both sides.
    pub(super) fn abort_stream<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        stream: Key,
        reason: ResetReason,
    ) {
        self.detach_upstream(core, stream, reason);
        let Some(found) = self.stream(stream) else {
            return;
        };
        let (client, id) = (found.client_key(), found.client_id);
        self.stats.inc(found.http.stats.downstream_rq_tx_reset);
        if let Some(key) = client {
            let none = crate::engine::arena::Span { start: 0, len: 0 };
            self.encode(key, none, |codec, out| codec.reset(id, reason, out));
            self.count_tx_reset(key);
            if let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) {
                down.streams.remove(id);
            }
        }
        self.end_stream(core, stream);
        if let Some(key) = client {
            self.client_quiet(core, key);
        }
    }

    /// Both lanes of a stream are through.
    pub(super) fn finish_stream<R: Reactor>(&mut self, core: &mut Core<R>, stream: Key) {
        let Some(found) = self.stream(stream) else {
            return;
        };
        let (client, id, reverse) = (found.client_key(), found.client_id, found.reverse);
        let early = !found.request.done;
        let unfinished = !found.request.sent;
        if early {
            let stats = &found.http.stats;
            self.stats
                .inc(stats.downstream_rq_response_before_rq_complete);
        }
        if unfinished && !found.response.done {
            self.detach_upstream(core, stream, ResetReason::Cancel);
        } else if found.upstream.is_some() {
            if unfinished {
                self.detach_upstream(core, stream, ResetReason::Cancel);
            } else {
                self.upstream_finished(core, stream);
            }
        }
        if let Some(key) = client {
            if early && !reverse {
                // The rest of the request is not wanted.
                let none = crate::engine::arena::Span { start: 0, len: 0 };
                self.encode(key, none, |codec, out| {
                    codec.reset(id, ResetReason::Cancel, out);
                });
            }
            if let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) {
                down.streams.remove(id);
            }
        }
        self.end_stream(core, stream);
        if let Some(key) = client {
            self.client_quiet(core, key);
        }
    }

    /// A stream of this client ended: go on with the next message, or close.
    pub(super) fn client_quiet<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        conn.active_ms = now;
        let Role::Down(down) = &conn.role else { return };
        // A multiplexed client is told first, and says that it knows: requests may be on their way.
        let drained =
            down.draining && down.streams.is_empty() && down.codec.shape() != Shape::Multiplex;
        if down.codec.finished() || drained {
            self.close_after_flush(core, key);
            return;
        }
        let idle = down.http.idle_timeout_ms;
        let empty = down.streams.is_empty();
        conn.paused &= !pause::ORDER;
        if empty {
            // Whoever was full was a destination of the stream that ended.
            conn.paused &= !pause::FULL;
        }
        if conn.readable || !conn.rest.is_empty() {
            self.queue(key);
        }
        if empty && idle > 0 {
            self.due_by(core, key, now + idle);
        }
    }

    /// Frees a stream: counts it, logs it, lets go of all it held.
    pub(super) fn end_stream<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        if self.stream(key).is_none() {
            return;
        }
        self.stop_waiting(key);
        self.stream_wheel.cancel(&mut self.streams, key.index);
        self.account(core, key);
        let Some(mut stream) = self.streams.0.remove(key.index) else {
            return;
        };
        if stream.http2
            && let Some(stats) = stream.http.http2_stats()
        {
            self.stats.gauge(stats.streams_active, -1);
        }
        if stream.tunnel {
            let stats = stream.http.stats;
            self.stats.gauge(stats.downstream_cx_upgrades_active, -1);
        }
        if let Some(pending) = stream.pending {
            self.suspended.remove(&pending.token);
        }
        stream.request.buffer.clear(&mut core.chunks);
        stream.response.buffer.clear(&mut core.chunks);
        if let Some(mut replay) = stream.replay.take() {
            replay.clear(&mut core.chunks);
        }
        for head in [
            stream.head.take(),
            stream.response_head.take(),
            stream.request.trailers.take(),
            stream.response.trailers.take(),
        ]
        .into_iter()
        .flatten()
        {
            self.events.give_head(head);
        }
    }
}
