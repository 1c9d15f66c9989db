//! What happens when time is up: for connections, parked or resident, and for streams.

use moorgate_codecs::Shape;

use super::conn::{Closing, Conn, Role};
use super::gateway::{Core, Gateway};
use super::http::local_reply::{LocalReply, UpstreamFailure};
use super::stream::TryLimit;
use crate::engine::parked::{Kind, flags};
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;

/// How long an upstream may take to read what is left for it.
const LAST_BYTES_MS: u64 = 1000;

/// Streams whose deadlines are looked at in one turn.
const STREAMS_PER_TURN: usize = 1024;

impl Gateway {
    /// Schedules a client connection's timer for its own deadlines.
    pub(super) fn rearm_client_timer<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let due = self.conn_deadline(key);
        if due != u64::MAX {
            self.due_by(core, key, due);
        }
    }

    /// The earliest of a resident connection's deadlines.
    fn conn_deadline(&self, key: Key) -> u64 {
        let Some(conn) = self.conn(key) else {
            return u64::MAX;
        };
        let mut due = u64::MAX;
        if let Some(tls) = &conn.tls {
            due = tls.deadline_ms();
        }
        let mut at = |since: u64, timeout: u64| {
            if timeout > 0 {
                due = due.min(since + timeout);
            }
        };
        match &conn.role {
            Role::Down(down) => {
                if conn.closing == Closing::Lingering {
                    at(conn.active_ms, down.http.delayed_close_timeout_ms);
                    return due;
                }
                if conn.closing == Closing::AfterFlush {
                    // A client that does not read our last bytes is not waited for without end.
                    at(conn.active_ms, down.http.delayed_close_timeout_ms.max(1000));
                }
                if down.streams.is_empty() {
                    at(conn.active_ms, down.http.idle_timeout_ms);
                }
                if let Some(since) = down.head_since {
                    at(since, down.http.request_headers_timeout_ms);
                }
                if !down.draining {
                    at(conn.opened_ms, down.http.max_connection_duration_ms);
                }
                due = due.min(down.codec.next_deadline().unwrap_or(u64::MAX));
            }
            Role::Up(up) => {
                let config = &up.endpoint.cluster.config;
                if up.connecting {
                    at(conn.opened_ms, config.connect_timeout_ms);
                } else if up.idle {
                    at(conn.active_ms, config.idle_timeout_ms);
                } else if conn.closing != Closing::No {
                    // Nor is an upstream that does not read the last bytes of a session.
                    at(conn.active_ms, LAST_BYTES_MS);
                }
                at(conn.opened_ms, config.max_connection_duration_ms);
                if !up.connecting {
                    due = due.min(up.codec.next_deadline().unwrap_or(u64::MAX));
                }
            }
            Role::Tunnel(end) => {
                if end.connecting {
                    let timeout = end
                        .endpoint
                        .as_ref()
                        .map_or(0, |endpoint| endpoint.cluster.config.connect_timeout_ms);
                    at(conn.opened_ms, timeout);
                }
                if let Some(facts) = &end.facts {
                    let peer = end.peer.and_then(|peer| self.conn(peer));
                    let active = peer.map_or(0, |peer| peer.active_ms).max(conn.active_ms);
                    at(active, facts.idle_timeout_ms());
                    at(facts.started_ms, facts.max_duration_ms());
                }
            }
            Role::Detecting(detecting) => at(conn.opened_ms, detecting.timeout_ms()),
            Role::Waking => {}
        }
        due
    }

    /// A resident connection's timer fired.
    pub(super) fn conn_due<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let due = self.conn_deadline(key);
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        conn.timer_ms = u64::MAX;
        if due <= now && !self.codec_due(core, key) {
            return;
        }
        let due = self.conn_deadline(key);
        let Some(conn) = self.conn(key) else { return };
        if due > now {
            if due != u64::MAX {
                self.due_by(core, key, due);
            }
            return;
        }
        if conn
            .tls
            .as_ref()
            .is_some_and(|tls| tls.deadline_ms() <= now)
        {
            self.handshake_timed_out(core, key);
            return;
        }
        match &conn.role {
            Role::Down(_) => self.client_due(core, key, now),
            Role::Up(up) if up.connecting => {
                self.connect_failed(core, key, UpstreamFailure::ConnectTimeout);
            }
            Role::Up(_) if conn.closing != Closing::No => self.upstream_gone(core, key, false),
            Role::Up(up) => {
                let stats = up.endpoint.cluster.stats;
                if up.idle {
                    self.stats.inc(stats.upstream_cx_idle_timeout);
                    self.upstream_gone(core, key, false);
                } else {
                    self.stats.inc(stats.upstream_cx_max_duration_reached);
                    if let Some(up) = self.conn_mut(key).and_then(Conn::up_mut) {
                        up.draining = true;
                    }
                    self.upstream_quiet(core, key);
                }
            }
            Role::Detecting(_) => self.detection_timed_out(core, key),
            Role::Waking => {}
            Role::Tunnel(end) if end.connecting => self.tunnel_connect_failed(core, key, true),
            Role::Tunnel(end) => {
                if let Some(facts) = &end.facts
                    && let super::tunnel::Origin::Tcp(tcp) = &facts.origin
                {
                    let aged = facts.max_duration_ms() > 0
                        && facts.started_ms + facts.max_duration_ms() <= now;
                    self.stats.inc(if aged {
                        tcp.stats.max_downstream_connection_duration
                    } else {
                        tcp.stats.idle_timeout
                    });
                }
                self.tunnel_broken(core, key, false);
            }
        }
    }

    fn client_due<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, now: u64) {
        let Some(conn) = self.conn(key) else { return };
        let Some(down) = conn.down() else { return };
        let http = std::sync::Arc::clone(&down.http);
        if conn.closing != Closing::No {
            self.stats
                .inc(http.stats.downstream_cx_delayed_close_timeout);
            self.close(core, key, false);
            return;
        }
        let aged = http.max_connection_duration_ms > 0
            && conn.opened_ms + http.max_connection_duration_ms <= now
            && !down.draining;
        if let Some(since) = down.head_since
            && http.request_headers_timeout_ms > 0
            && since + http.request_headers_timeout_ms <= now
        {
            self.stats.inc(http.stats.downstream_rq_header_timeout);
            let unread = self
                .conn_mut(key)
                .and_then(Conn::down_mut)
                .and_then(|down| down.codec.abandon_head());
            if let Some(id) = unread {
                self.answer_unread(core, key, id, LocalReply::RequestHeadersTimeout);
            }
            self.close_after_flush(core, key);
            return;
        }
        if aged {
            self.stats
                .inc(http.stats.downstream_cx_max_duration_reached);
            self.leave(core, key);
            return;
        }
        self.stats.inc(http.stats.downstream_cx_idle_timeout);
        if !down.draining && down.codec.shape() == Shape::Multiplex {
            self.leave(core, key);
            return;
        }
        self.close(core, key, false);
    }

    /// A parked connection's deadline passed.
    pub(super) fn record_due<R: Reactor>(&mut self, core: &mut Core<R>, slot: Key) {
        let Some(record) = core.parked(slot) else {
            return;
        };
        match record.kind {
            Kind::Pooled if self.wants_waking(record) => {
                if let Some(key) = self.unpark_pooled(core, slot) {
                    self.conn_due(core, key);
                }
            }
            Kind::Pooled => {
                if let Some(endpoint) = &record.peer {
                    self.stats
                        .inc(endpoint.cluster.stats.upstream_cx_idle_timeout);
                }
                self.close_parked_upstream(core, slot);
            }
            Kind::Pair if !record.has(flags::TUNNEL) => {
                // The stream's own deadline decides what its client is told.
                let number = self.wake_record(core, slot);
                if let Some(key) = number {
                    self.client_streams_due(core, key);
                }
            }
            Kind::Mux => {
                if let Some(key) = self.wake_record(core, slot) {
                    self.mux_due(core, key);
                }
            }
            Kind::Idle | Kind::Pair => {
                let chain = self.chain(super::config::ChainId(record.chain));
                if let Some(chain) = chain {
                    match &chain.chain.filter {
                        super::config::NetworkFilter::Http(http) => {
                            self.stats.inc(http.stats.downstream_cx_idle_timeout);
                        }
                        super::config::NetworkFilter::Tcp(tcp) => {
                            self.stats.inc(tcp.stats.idle_timeout);
                        }
                    }
                }
                if let Some(record) = self.close_record(core, slot) {
                    self.forget_record(core, record);
                }
            }
        }
    }

    /// A multiplexed client's deadline passed while it was parked: its codec's, or its own.
    fn mux_due<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        let idle = conn.streams().is_some_and(super::conn::StreamMap::is_empty);
        let codec = conn.codec_mut().and_then(|codec| codec.next_deadline());
        if idle && codec.is_none_or(|due| due > now) {
            // Nothing else was waited for: it was silent for as long as it may be.
            conn.active_ms = 0;
        }
        self.conn_due(core, key);
    }

    fn client_streams_due<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let streams = self
            .conn(key)
            .and_then(|conn| conn.streams())
            .map(|map| map.keys());
        for stream in streams.unwrap_or_default() {
            self.stream_due(core, stream);
        }
        if self.conn(key).is_some() {
            self.rearm_client_timer(core, key);
        }
    }

    /// Looks at streams whose timers fired. Gives when the next one is due.
    pub(super) fn expire_streams<R: Reactor>(&mut self, core: &mut Core<R>) -> Option<u64> {
        let now = core.now();
        if self.stream_wheel.next_due().is_some_and(|due| due <= now) {
            let mut due = std::mem::take(&mut self.due_streams);
            self.stream_wheel
                .expire(&mut self.streams, now, &mut due, STREAMS_PER_TURN);
            for index in due.drain(..) {
                if let Some(key) = self.streams.0.key(index) {
                    self.stream_due(core, key);
                }
            }
            self.due_streams = due;
        }
        self.stream_wheel.next_due()
    }

    fn stream_due<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let Some(stream) = self.stream(key) else {
            return;
        };
        if stream.deadline() > now {
            self.schedule_stream(key);
            return;
        }
        let complete = stream.request.done;
        let stream_alt = stream.timeouts.alt_response;
        let http = std::sync::Arc::clone(&stream.http);
        let passed = |since: u64, timeout: u64| timeout > 0 && since + timeout <= now;
        if stream.retry_at.is_some_and(|at| at <= now) {
            self.retry_now(core, key);
            self.schedule_stream(key);
            return;
        }
        let cluster = stream
            .endpoint
            .as_ref()
            .map(|endpoint| endpoint.cluster.stats);
        if passed(stream.started_ms, stream.timeouts.stream_ms) {
            self.stats
                .inc(http.stats.downstream_rq_max_duration_reached);
            self.fail(core, key, LocalReply::MaxDuration { complete });
        } else if stream.asked_all()
            && !stream.response.sent
            && passed(stream.times.request_end, stream.timeouts.global_ms)
        {
            if let Some(stats) = cluster {
                self.stats.inc(stats.upstream_rq_timeout);
            }
            self.note_host_timeout(key);
            self.fail(core, key, LocalReply::UpstreamTimeout { alt: stream_alt });
        } else if !stream.request.done
            && !stream.upgrade
            && passed(stream.started_ms, http.request_timeout_ms)
        {
            self.stats.inc(http.stats.downstream_rq_timeout);
            self.fail(core, key, LocalReply::RequestTimeout { complete: false });
        } else if let Some(limit) = stream.try_limit_passed(now) {
            if let Some(stats) = cluster {
                self.stats.inc(match limit {
                    TryLimit::Time => stats.upstream_rq_per_try_timeout,
                    TryLimit::Idle => stats.upstream_rq_per_try_idle_timeout,
                    TryLimit::Duration => stats.upstream_rq_max_duration_reached,
                });
            }
            self.note_host_timeout(key);
            self.try_timed_out(core, key, limit);
        } else {
            self.stats.inc(http.stats.downstream_rq_idle_timeout);
            if stream.http2
                && stream.response.done
                && let Some(stats) = http.http2_stats()
            {
                // All is here, and the client's windows do not let it through.
                self.stats.inc(stats.tx_flush_timeout);
            }
            self.fail(core, key, LocalReply::StreamIdle { complete });
        }
    }

    fn note_host_timeout(&self, key: Key) {
        if let Some(endpoint) = self.stream(key).and_then(|stream| stream.endpoint.as_ref()) {
            endpoint
                .host
                .totals
                .rq_timeout
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}
