//! Answers of our own, and what becomes of a request that could not be forwarded.

use std::sync::Arc;

use moorgate_codecs::{Head, HeadKind, ResetReason, Shape};

use super::conn::Conn;
use super::gateway::{Core, Gateway};
use super::http::local_reply::{self, LocalReply, UpstreamFailure};
use crate::engine::arena::Span;
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;
use crate::filter::Reply;
use crate::grpc;

/// Who made a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An upstream.
    Upstream,
    /// The router: the route has its say about the header as well.
    Router,
    /// Somebody before the router.
    Manager,
}

impl Gateway {
    /// Answers a stream in our own words; ends it when it was answered in part already.
    pub(super) fn fail<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, reply: LocalReply) {
        if reply.closes()
            && let Some(client) = self.client_of(key)
            && let Some(down) = self.conn_mut(client).and_then(Conn::down_mut)
        {
            down.draining = true;
        }
        let Some(stream) = self.stream(key) else {
            return;
        };
        if stream.ends_with_status() {
            let [message, ..] = reply.body();
            let (status, flags, details) = (reply.grpc_status(), reply.flags(), reply.details());
            self.end_with_status(core, key, status, message, (flags, details));
            return;
        }
        let suppress = stream.http.rules.suppress_envoy_headers;
        let own = reply.to_reply(stream.head.as_deref(), suppress);
        let source = if reply.by_router() {
            Source::Router
        } else {
            Source::Manager
        };
        self.reply(core, key, own, reply.flags(), source);
    }

    /// Answers a stream ourselves. What the upstream was still to do is given up.
    pub(super) fn reply<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        reply: Reply,
        flags: u64,
        source: Source,
    ) {
        let Some(client) = self.client_of(key) else {
            self.detach_upstream(core, key, ResetReason::Cancel);
            self.end_stream(core, key);
            return;
        };
        self.detach_upstream(core, key, ResetReason::Cancel);
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        stream.flags |= flags;
        stream.details = reply.details;
        if stream.response.head_sent || stream.one_way {
            self.abort_stream(core, key, ResetReason::Cancel);
            return;
        }
        stream.pending = None;
        stream.hold_body = None;
        stream.retry_at = None;
        let id = stream.client_id;
        let mut head = self.events.take_head();
        head.kind = HeadKind::Response;
        let worker = Arc::clone(&self.stats);
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        let request = stream.head.as_deref().filter(|_| !stream.not_grpc);
        let full = local_reply::write_head(&reply, request, stream.was_grpc, &mut head);
        let mut body = if full { reply.body } else { Vec::new() };
        if !stream.filters.is_empty() {
            stream.filter_own(&mut head, &mut body, &worker);
        }
        stream.status = head.status;
        self.apply_response_rules(core, key, &mut head, source);
        self.send_own(core, key, client, id, head, &body);
    }

    /// Ends a gRPC call that was answered in part with trailers that say why: a reset would be told to the
    /// client's program as an error of the gateway, whatever the reason.
    fn end_with_status<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        status: u8,
        message: &str,
        (flags, details): (u64, &'static str),
    ) {
        self.detach_upstream(core, key, ResetReason::Cancel);
        let mut trailers = self.events.take_head();
        trailers.kind = HeadKind::Trailers;
        let mut text = Vec::new();
        grpc::push_message(&mut text, message.as_bytes());
        trailers.push(b"grpc-status", status.to_string().as_bytes());
        trailers.push(b"grpc-message", &text);
        let trailers = self.filter_trailers(core, key, trailers);
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        stream.flags |= flags;
        stream.details = details;
        self.end_with(core, key, trailers);
    }

    fn send_own<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        client: Key,
        id: u32,
        head: Box<Head>,
        body: &[u8],
    ) {
        let now = core.now();
        self.announce_drain(key, client);
        let none = Span { start: 0, len: 0 };
        let end = body.is_empty();
        let sent = self.encode(client, none, |codec, out| {
            codec.send_head(id, &head, end, out)
        });
        if !matches!(sent, Some(Ok(()))) {
            self.events.give_head(head);
            self.abort_stream(core, key, ResetReason::Cancel);
            return;
        }
        if let Some(stream) = self.stream_mut(key) {
            stream.response.head_sent = true;
            stream.response.done = true;
            stream.times.response_start = now;
            let to_head = stream
                .head
                .as_ref()
                .is_some_and(|head| head.method() == b"HEAD");
            stream.response.bytes = if to_head { 0 } else { body.len() as u64 };
            stream.response.buffer.clear(&mut core.chunks);
            if stream.http.access_logs.is_empty() {
                self.events.give_head(head);
            } else {
                stream.response_head = Some(head);
            }
        }
        if end {
            if let Some(stream) = self.stream_mut(key) {
                stream.response.sent = true;
            }
        } else if let Some(stream) = self.streams.0.get_key_mut(key) {
            stream.response.buffer.push(&mut core.chunks, body);
        }
        if end {
            self.finish_stream(core, key);
        } else {
            self.pump(core, key, super::stream::Way::Response);
        }
    }

    /// Tells the codec to announce the end of the connection with its next response, when that is due.
    pub(super) fn announce_drain(&mut self, stream: Key, client: Key) {
        // A drain of all, or of its own chain; that of another chain is no business of this client.
        let (drain, retired) = (self.drain, &self.retired);
        let down = self.conns.get_key(client).and_then(Conn::down);
        let draining = drain
            .zip(down)
            .is_some_and(|(drain, down)| drain.is_whole() || retired.contains_key(&down.chain.id));
        let early = self
            .stream(stream)
            .is_some_and(|stream| !stream.asked_all() && !stream.reverse);
        let Some(down) = self.conn_mut(client).and_then(Conn::down_mut) else {
            return;
        };
        if early && down.codec.shape() == Shape::PingPong {
            // Nobody waits for the rest of a request that has its answer.
            down.draining = true;
        }
        if draining && !down.draining {
            down.draining = true;
            let counter = down.http.stats.downstream_cx_drain_close;
            self.stats.inc(counter);
        }
        if self
            .conn(client)
            .and_then(Conn::down)
            .is_some_and(|down| down.draining)
        {
            self.encode(client, Span { start: 0, len: 0 }, |codec, out| {
                codec.go_away(out)
            });
        }
    }

    /// An attempt did not give a response: retry, or answer with what fits.
    pub(super) fn upstream_failed<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        failure: UpstreamFailure,
    ) {
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        stream.permit = None;
        if stream.response.head_sent {
            let in_trailers = stream.ends_with_status();
            let http = Arc::clone(&stream.http);
            stream.flags |= failure.flags();
            stream.details = failure.details(true);
            self.stats
                .inc(http.stats.rq_reset_after_downstream_response_started);
            // What the upstream said by a reset is passed on as it said it.
            if failure == UpstreamFailure::Terminated && in_trailers {
                let why = (failure.flags(), failure.details(true));
                self.end_with_status(core, key, grpc::UNAVAILABLE, failure.text(), why);
                return;
            }
            self.abort_stream(core, key, ResetReason::Disconnected);
            return;
        }
        if self.try_again(core, key, failure) {
            return;
        }
        let retried = self.stream(key).is_some_and(|stream| stream.attempts > 1);
        self.fail(core, key, LocalReply::Upstream { failure, retried });
    }

    /// The upstream gave a stream up.
    pub(super) fn upstream_reset<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        reason: ResetReason,
    ) {
        self.uncount_upstream(key);
        self.upstream_reset_uncounted(core, key, reason);
    }

    /// The same, when it no longer counts as active.
    pub(super) fn upstream_reset_uncounted<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        reason: ResetReason,
    ) {
        let Some(stream) = self.stream(key) else {
            return;
        };
        if let Some(endpoint) = &stream.endpoint {
            self.stats.inc(endpoint.cluster.stats.upstream_rq_rx_reset);
        }
        // Of a session the other direction is left, and has nowhere to go.
        if stream.reverse || stream.tunnel && stream.response.done {
            self.abort_stream(core, key, reason);
            return;
        }
        if stream.response.done {
            // The response is complete; only the request was cut short.
            return;
        }
        let failure = match reason {
            ResetReason::Protocol => UpstreamFailure::Protocol,
            ResetReason::Disconnected => UpstreamFailure::Terminated,
            ResetReason::Refused => UpstreamFailure::Refused,
            ResetReason::Cancel | ResetReason::Overload => UpstreamFailure::RemoteReset,
        };
        self.upstream_failed(core, key, failure);
    }
}
