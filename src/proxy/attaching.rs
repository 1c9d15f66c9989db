//! The tie between a stream and its upstream connection: made, and undone.
//!
//! Whatever an attempt counts as is counted when the tie is made and uncounted exactly once after.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use moorgate_codecs::{Head, HeadKind, ResetReason, StreamId};

use super::conn::Conn;
use super::gateway::{Core, Gateway};
use super::http::local_reply::UpstreamFailure;
use super::stream::Way;
use crate::engine::arena::Span;
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;

impl Gateway {
    /// Opens a stream's request on a connected upstream.
    pub(super) fn attach<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, stream_key: Key) {
        let now = core.now();
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        conn.active_ms = now;
        let Some(up) = conn.up_mut() else { return };
        let endpoint = Arc::clone(&up.endpoint);
        let Some(id) = up.codec.open() else {
            // It said that it had room; treat it as gone and look for another.
            self.upstream_gone(core, key, true);
            self.upstream_failed(core, stream_key, UpstreamFailure::Terminated);
            return;
        };
        let raw = up.raw;
        up.idle = false;
        up.requests += 1;
        up.streams.insert(id, stream_key);
        let stats = &endpoint.cluster.stats;
        self.stats.inc(stats.upstream_rq_total);
        self.stats.gauge(stats.upstream_rq_active, 1);
        endpoint
            .host
            .active_requests
            .fetch_add(1, Ordering::Relaxed);
        endpoint
            .host
            .totals
            .rq_total
            .fetch_add(1, Ordering::Relaxed);
        if let Some(stats) = endpoint.http2_stats(raw) {
            self.stats.gauge(stats.streams_active, 1);
        }
        let Some(stream) = self.stream_mut(stream_key) else {
            return;
        };
        stream.upstream = Some((key, id));
        stream.waiting = None;
        stream.endpoint = Some(endpoint);
        stream.try_started_ms = now;
        stream.times.upstream_start = now;
        if stream.terminates() {
            self.accept_connect(core, stream_key);
            return;
        }
        self.send_request_head(core, stream_key, key, id);
        self.schedule_stream(stream_key);
    }

    /// The connection that a CONNECT asked for is there: its client is told so in the upstream's name.
    fn accept_connect<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let mut head = self.events.take_head();
        head.kind = HeadKind::Response;
        head.status = 200;
        head.upgrade = true;
        let shared = self.is_shared(key);
        if let Some(stream) = self.stream_mut(key) {
            stream.request.head_sent = !shared;
            stream.request.sent = !shared;
        }
        self.response_arrived(core, key, head, false);
    }

    fn send_request_head<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        stream_key: Key,
        key: Key,
        id: StreamId,
    ) {
        let Some(stream) = self.stream_mut(stream_key) else {
            return;
        };
        let Some(mut head) = stream.head.take() else {
            return;
        };
        // A body that is known to be empty by now is still one: how the request is framed must not
        // depend on how long the connection took.
        let mut end = stream.bodiless;
        let leaves = stream.upgrade;
        let lane = &mut stream.request;
        lane.head_sent = true;
        lane.sent = end;
        if leaves && self.is_shared(stream_key) {
            match self.open_towards(core, (stream_key, key), &mut head) {
                Some(ends) => end = ends,
                None => {
                    self.keep_request_head(stream_key, head);
                    self.detach_upstream(core, stream_key, ResetReason::Cancel);
                    self.upstream_failed(core, stream_key, UpstreamFailure::Protocol);
                    return;
                }
            }
        }
        let now = core.now();
        self.rewrite_for_endpoint(stream_key, &mut head);
        if let Some(stream) = self.streams.0.get_key_mut(stream_key) {
            Self::apply_try_rules(stream, &mut head, now, &mut self.scratch.bytes);
        }
        let none = Span { start: 0, len: 0 };
        let sent = self.encode(key, none, |codec, out| codec.send_head(id, &head, end, out));
        self.keep_request_head(stream_key, head);
        if let Some(Err(_)) = sent {
            self.detach_upstream(core, stream_key, ResetReason::Protocol);
            self.upstream_failed(core, stream_key, UpstreamFailure::Protocol);
            return;
        }
        if end && self.stream(stream_key).is_none_or(|s| s.request.sent) {
            self.settle(core, stream_key, Way::Request);
        } else {
            self.pump(core, stream_key, Way::Request);
        }
    }

    /// Both lanes are through with the upstream: its stream is over.
    pub(super) fn upstream_finished<R: Reactor>(&mut self, core: &mut Core<R>, stream: Key) {
        let Some((key, _)) = self.forget_upstream(stream) else {
            return;
        };
        self.upstream_quiet(core, key);
    }

    /// Gives the upstream's stream up.
    pub(super) fn detach_upstream<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        stream: Key,
        reason: ResetReason,
    ) {
        self.stop_waiting(stream);
        let Some((key, id)) = self.forget_upstream(stream) else {
            return;
        };
        if let Some(up) = self.conn(key).and_then(Conn::up) {
            self.stats
                .inc(up.endpoint.cluster.stats.upstream_rq_tx_reset);
        }
        let none = Span { start: 0, len: 0 };
        self.encode(key, none, |codec, out| codec.reset(id, reason, out));
        self.count_tx_reset(key);
        self.upstream_quiet(core, key);
    }

    /// Removes the tie between a stream and its upstream connection, with what it counted as.
    pub(super) fn forget_upstream(&mut self, stream: Key) -> Option<(Key, StreamId)> {
        let found = self.stream_mut(stream)?;
        let (key, id) = found.upstream.take()?;
        self.uncount_upstream(stream);
        if let Some(up) = self.conn_mut(key).and_then(Conn::up_mut) {
            up.streams.remove(id);
        }
        Some((key, id))
    }

    /// An attempt is over: it no longer counts as active.
    pub(super) fn uncount_upstream(&mut self, stream: Key) {
        let Some(found) = self.stream_mut(stream) else {
            return;
        };
        found.permit = None;
        let raw = found.terminates();
        let Some(endpoint) = &self
            .streams
            .0
            .get_key(stream)
            .and_then(|found| found.endpoint.as_ref())
        else {
            return;
        };
        self.stats
            .gauge(endpoint.cluster.stats.upstream_rq_active, -1);
        if let Some(stats) = endpoint.http2_stats(raw) {
            self.stats.gauge(stats.streams_active, -1);
        }
        endpoint
            .host
            .active_requests
            .fetch_sub(1, Ordering::Relaxed);
    }

    /// The request head with what depends on the chosen endpoint.
    fn rewrite_for_endpoint(&self, stream: Key, head: &mut Head) {
        let Some(stream) = self.stream(stream) else {
            return;
        };
        let Some(endpoint) = &stream.endpoint else {
            return;
        };
        if stream.auto_host_rewrite && !endpoint.host.hostname.is_empty() {
            head.set_authority(endpoint.host.hostname.as_bytes());
        }
    }

    /// What is kept of a forwarded request head: the head itself while it may be sent again or a log
    /// wants it, else nothing.
    fn keep_request_head(&mut self, stream: Key, head: Box<Head>) {
        match self.stream_mut(stream) {
            Some(found) => found.head = Some(head),
            None => self.events.give_head(head),
        }
    }
}
