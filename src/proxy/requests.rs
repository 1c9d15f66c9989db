//! A request's way from its head to an upstream: rules, filters, route, host.

use std::sync::Arc;

use moorgate_codecs::{Head, ProtocolError, ResetReason, StreamId, Version};

use super::conn::Conn;
use super::gateway::{Core, Gateway};
use super::http::local_reply::{LocalReply, UpstreamFailure};
use super::reply::Source;
use super::stream::{PendingCall, Stream, Way};
use crate::cluster::PoolId;
use crate::cluster::balance::Pick;
use crate::cluster::breaker::{Priority, Resource};
use crate::engine::arena::Span;
use crate::engine::chunk::{ByteQueue, Pressure};
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;
use crate::filter::{Reply, Token, Verdict};
use crate::grpc;
use crate::route::{Action, Pick as RoutePick};

impl Gateway {
    /// A client's connection has (or no longer has) the beginning of a message without its end.
    pub(super) fn note_partial<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, partial: bool) {
        let now = core.now();
        let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) else {
            return;
        };
        let inside = down.streams.is_empty() && down.codec.mid_message();
        if !partial && !inside {
            down.head_since = None;
            if down.draining && down.streams.is_empty() && down.codec.finished() {
                self.close_after_flush(core, key);
            }
        } else if down.head_since.is_none() && down.streams.is_empty() {
            down.head_since = Some(now);
            let timeout = down.http.request_headers_timeout_ms;
            if timeout > 0 {
                self.due_by(core, key, now + timeout);
            }
        }
    }

    /// A request head came in.
    pub(super) fn request_arrived<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        id: StreamId,
        mut head: Box<Head>,
        end: bool,
    ) {
        let now = core.now();
        let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) else {
            return;
        };
        down.head_since = None;
        let first = down.requests == 0;
        down.requests += 1;
        let http = Arc::clone(&down.http);
        let (stats, either) = (http.stats, http.http2.is_some());
        let proxied = http.proxy_100_continue;
        let limit = http.max_requests_per_connection;
        if limit > 0 && down.requests >= limit && !down.draining {
            down.draining = true;
            self.stats.inc(stats.downstream_cx_max_requests_reached);
        }
        let mut stream = Stream::new(key, id, http, now);
        stream.stream_number = self.next_number();
        stream.request.done = end;
        stream.bodiless = end;
        stream.times.request_end = if end { now } else { 0 };
        stream.one_way = head.one_way;
        stream.is_connect = head.method() == b"CONNECT";
        stream.upgrade = head.upgrade;
        let protocol = head.get(b"upgrade").unwrap_or_default();
        stream.websocket = protocol.eq_ignore_ascii_case(b"websocket");
        let filters = &stream.http.filters;
        if !filters.is_empty() {
            stream.filters = filters.iter().map(|factory| factory.make()).collect();
            stream.was_grpc = grpc::is_grpc(&head);
            stream.not_grpc = !stream.was_grpc;
        }
        let expects = std::mem::take(&mut head.expect_continue);
        let version = head.version;
        stream.head = Some(head);
        let stream_key = self.streams.0.insert(stream);
        if let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) {
            down.streams.insert(id, stream_key);
        }
        self.stats.inc(stats.downstream_rq_total);
        match version {
            Version::Http2 => {
                self.stats.inc(stats.downstream_rq_http2_total);
                self.note_http2_stream(stream_key);
            }
            Version::Other => {}
            Version::Http10 | Version::Http11 => {
                self.stats.inc(stats.downstream_rq_http1_total);
                if first && either {
                    // Until now it could have been the other.
                    self.stats.inc(stats.downstream_cx_http1_total);
                }
            }
        }
        self.stats.gauge(stats.downstream_rq_active, 1);
        self.schedule_stream(stream_key);
        if core.chunks.budget().pressure() >= Pressure::Refuse {
            self.stats.inc(stats.downstream_rq_overload_close);
            self.stats.inc(self.engine_stats.buffers_requests_refused);
            self.fail(core, stream_key, LocalReply::Overload);
            return;
        }
        if expects {
            self.answer_expectation(key, id, stream_key, proxied);
        }
        if let Some(reply) = self.apply_request_rules(core, stream_key) {
            self.note_addresses(stream_key);
            self.fail(core, stream_key, reply);
            return;
        }
        self.note_addresses(stream_key);
        self.run_request_filters(core, stream_key, 0);
    }

    /// `expect: 100-continue` is answered here, unless the upstream is to do so.
    fn answer_expectation(&mut self, key: Key, id: StreamId, stream: Key, proxied: bool) {
        let Some(head) = self
            .stream_mut(stream)
            .and_then(|stream| stream.head.as_mut())
        else {
            return;
        };
        if proxied {
            head.expect_continue = true;
            return;
        }
        head.remove(b"expect");
        let mut interim = self.events.take_head();
        interim.kind = moorgate_codecs::HeadKind::Response;
        interim.status = 100;
        let none = Span { start: 0, len: 0 };
        self.encode(key, none, |codec, out| {
            codec.send_head(id, &interim, false, out)
        });
        self.events.give_head(interim);
    }

    /// A request that could not be read is answered and its connection closed.
    pub(super) fn refuse_request<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        error: ProtocolError,
    ) {
        let Some(id) = error.stream.filter(|_| error.status > 0) else {
            self.close_after_flush(core, key);
            return;
        };
        let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) else {
            return;
        };
        down.draining = true;
        if let Some(stream) = down.streams.get(id) {
            // The error is in its body.
            if self
                .stream(stream)
                .is_some_and(|stream| stream.response.head_sent)
            {
                self.abort_stream(core, stream, ResetReason::Protocol);
                self.close_after_flush(core, key);
                return;
            }
            self.detach_upstream(core, stream, ResetReason::Cancel);
            self.fail(
                core,
                stream,
                LocalReply::Codec {
                    status: error.status,
                    detail: error.detail,
                },
            );
            return;
        }
        self.answer_unread(
            core,
            key,
            id,
            LocalReply::Codec {
                status: error.status,
                detail: error.detail,
            },
        );
    }

    /// Answers a request whose head was not read to its end; the connection ends with it.
    pub(super) fn answer_unread<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        id: StreamId,
        reply: LocalReply,
    ) {
        let now = core.now();
        let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) else {
            return;
        };
        down.draining = true;
        down.head_since = None;
        let http = Arc::clone(&down.http);
        let mut stream = Stream::new(key, id, Arc::clone(&http), now);
        stream.request.done = true;
        stream.stream_number = self.next_number();
        let stream = self.streams.0.insert(stream);
        if let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) {
            down.streams.insert(id, stream);
        }
        self.note_addresses(stream);
        self.stats.inc(http.stats.downstream_rq_total);
        self.stats.gauge(http.stats.downstream_rq_active, 1);
        self.fail(core, stream, reply);
    }

    /// Shows the request head to the filters from `next` on; after the last one it is routed.
    pub(super) fn run_request_filters<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        mut next: usize,
    ) {
        loop {
            let Some(stream) = self.stream_mut(key) else {
                return;
            };
            let end = stream.request.done && stream.request.bytes == 0;
            let (Some(filter), Some(head)) = (stream.filters.get_mut(next), stream.head.as_mut())
            else {
                break;
            };
            match filter.request_head(head, end) {
                Verdict::Continue => next += 1,
                Verdict::StopAndBuffer(limit) => {
                    if end {
                        next += 1;
                        continue;
                    }
                    stream.hold_body = Some(limit);
                    stream.held_at = next;
                    self.check_held(core, key);
                    return;
                }
                Verdict::Pending(token) => {
                    stream.pending = Some(PendingCall {
                        token,
                        way: Way::Request,
                        next,
                    });
                    self.suspended.insert(token, key);
                    return;
                }
                Verdict::Reply(reply) => {
                    self.reply(core, key, reply, 0, Source::Manager);
                    return;
                }
            }
        }
        self.route_request(core, key);
    }

    /// Body bytes are held for a filter: shows them when all are there, refuses when too many.
    pub(super) fn check_held<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        if stream.holds_response() {
            return;
        }
        let Some(limit) = stream.hold_body else {
            return;
        };
        if stream.request.buffer.len() > limit {
            stream.hold_body = None;
            self.fail(core, key, LocalReply::PayloadTooLarge);
            return;
        }
        if !stream.request.done {
            return;
        }
        stream.hold_body = None;
        let at = stream.held_at;
        let mut body = vec![0; stream.request.buffer.len()];
        stream.request.buffer.copy_to(&mut body);
        let verdict = match stream.filters.get_mut(at) {
            Some(filter) => filter.request_data(&mut body, true),
            None => Verdict::Continue,
        };
        stream.request.buffer.clear(&mut core.chunks);
        stream.request.buffer.push(&mut core.chunks, &body);
        match verdict {
            Verdict::Reply(reply) => self.reply(core, key, reply, 0, Source::Manager),
            Verdict::Pending(token) => {
                stream.pending = Some(PendingCall {
                    token,
                    way: Way::Request,
                    next: at,
                });
                self.suspended.insert(token, key);
            }
            Verdict::Continue | Verdict::StopAndBuffer(_) => {
                self.run_request_filters(core, key, at + 1);
            }
        }
    }

    /// A filter's pending call ended.
    pub(super) fn resume<R: Reactor>(&mut self, core: &mut Core<R>, token: Token) {
        let Some(key) = self.suspended.remove(&token) else {
            return;
        };
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        let Some(call) = stream.pending.take() else {
            return;
        };
        let verdict = match stream.filters.get_mut(call.next) {
            Some(filter) => filter.resumed(token),
            None => Verdict::Continue,
        };
        match (verdict, call.way) {
            (Verdict::Reply(reply), _) => self.reply(core, key, reply, 0, Source::Manager),
            (Verdict::Pending(token), _) => {
                stream.pending = Some(PendingCall { token, ..call });
                self.suspended.insert(token, key);
            }
            (_, Way::Request) => self.run_request_filters(core, key, call.next + 1),
            (_, Way::Response) => {
                if let Some(head) = stream.response_head.take() {
                    self.run_response_filters(core, key, head, call.next + 1);
                }
            }
        }
    }

    fn route_request<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let random = core.reactor.random();
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        let (http, stats) = (&stream.http, stream.http.stats);
        let Some(head) = stream.head.as_mut() else {
            return;
        };
        let Some(found) = http.routes.route(head, random, false) else {
            self.stats.inc(stats.no_route);
            self.fail(core, key, LocalReply::NoRoute);
            return;
        };
        let route = &**stream.route.insert(Arc::clone(found.route));
        match &route.action {
            Action::Direct(direct) => {
                self.stats.inc(stats.rq_direct_response);
                let reply = Reply {
                    status: direct.status,
                    body: direct.body.to_vec(),
                    headers: Vec::new(),
                    details: "direct_response",
                };
                self.reply(core, key, reply, 0, Source::Router);
            }
            Action::Redirect(redirect) => {
                self.stats.inc(stats.rq_redirect);
                let mut location = Vec::new();
                route.write_location(redirect, head, &mut location);
                let reply = Reply {
                    status: redirect.status,
                    body: Vec::new(),
                    headers: vec![(b"location".to_vec(), location)],
                    details: "direct_response",
                };
                self.reply(core, key, reply, 0, Source::Router);
            }
            Action::Forward(forward) => {
                let refused = stream.upgrade
                    && !Self::upgrade_allowed(&http.upgrades, &forward.upgrades, head);
                stream.cluster = match forward.pick(head, random) {
                    RoutePick::Cluster(name) => Some(name.id),
                    RoutePick::Weighted(index, name) => {
                        stream.weighted = Some(index);
                        Some(name.id)
                    }
                    RoutePick::Named(name) => self.snapshot.cluster_named(name),
                    RoutePick::None => None,
                };
                if refused {
                    self.stats.inc(stats.downstream_rq_ws_on_non_ws_route);
                    self.fail(core, key, LocalReply::UpgradeRefused);
                    return;
                }
                stream.high_priority = forward.high_priority;
                stream.auto_host_rewrite = forward.auto_host_rewrite;
                if !stream.filters.is_empty() {
                    self.tell_cluster(key);
                }
                self.prepare_forward(core, key);
                self.attempt(core, key);
            }
        }
    }

    fn upgrade_allowed(http: &[(String, bool)], route: &[(String, bool)], head: &Head) -> bool {
        let connect = head.method() == b"CONNECT";
        let token = if connect {
            b"connect".as_slice()
        } else {
            head.get(b"upgrade").unwrap_or_default()
        };
        let find = |list: &[(String, bool)]| {
            list.iter()
                .find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(token))
                .map(|(_, enabled)| *enabled)
        };
        find(route).or_else(|| find(http)).unwrap_or(false)
    }

    /// Tries to send the request to an upstream: at first, or again.
    pub(super) fn attempt<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(stream) = self.streams.0.get_key(key) else {
            return;
        };
        let Some(cluster) = stream
            .cluster
            .and_then(|id| self.snapshot.clusters.get(&id))
        else {
            self.stats.inc(stream.http.stats.no_cluster);
            let status = match stream.route.as_ref().map(|route| &route.action) {
                Some(Action::Forward(forward)) => forward.cluster_not_found_status,
                _ => 503,
            };
            self.fail(core, key, LocalReply::NoCluster { status });
            return;
        };
        let priority = if stream.high_priority {
            Priority::High
        } else {
            Priority::Default
        };
        if let Some(stream) = self.streams.0.get_key_mut(key) {
            stream.attempts += 1;
        }
        let Some(stream) = self.streams.0.get_key(key) else {
            return;
        };
        let again = stream
            .retry
            .as_ref()
            .map_or(0, |retry| retry.host_attempts());
        let tried = &stream.tried;
        let balancer = self.balancers.entry(cluster.id).or_default();
        let picked = balancer.pick_avoiding(cluster, || core.reactor.random(), tried, again);
        if balancer.in_panic() {
            self.stats.inc(cluster.stats.lb_healthy_panic);
        }
        let Pick::Host(host) = picked else {
            self.stats.inc(cluster.stats.upstream_cx_none_healthy);
            self.fail(core, key, LocalReply::NoHealthyUpstream);
            return;
        };
        let permit =
            cluster
                .breakers
                .acquire(Resource::Requests, priority, &cluster.config.thresholds);
        let Some(permit) = permit else {
            self.stats.inc(cluster.stats.upstream_rq_pending_overflow);
            self.upstream_failed(core, key, UpstreamFailure::Overflow);
            return;
        };
        let id = host.id;
        let auto_sni = cluster.config.tls.as_ref();
        let auto_sni = auto_sni.and_then(|tls| tls.auto_sni.as_ref());
        let name = auto_sni.and_then(|auto| auto.name(stream.head.as_deref()?));
        if name.is_none() && auto_sni.is_some_and(|auto| auto.verify) {
            // Nothing to verify a certificate by: no connection is good enough, now or later.
            let failure = UpstreamFailure::LocalConnect;
            let retried = false;
            self.fail(core, key, LocalReply::Upstream { failure, retried });
            return;
        }
        let client = match &cluster.config.proxy_header {
            None => None,
            Some(_) => stream
                .client_key()
                .and_then(|client| self.conns.get_key(client))
                .and_then(Conn::down)
                .and_then(|down| down.remote.socket().zip(down.local.socket())),
        };
        let http2 = cluster.config.http2.is_some() && stream.http2;
        // The counts of hosts and clusters are every worker's; the pool's endpoint is our own.
        let endpoint = match self.pools.get(&PoolId::of(id)) {
            _ if http2 || name.is_some() || client.is_some() => {
                let (host, cluster) = (Arc::clone(host), Arc::clone(cluster));
                self.named_endpoint(&host, &cluster, name, client, http2)
            }
            Some(pool) if Arc::ptr_eq(&pool.endpoint.cluster, cluster) => {
                Arc::clone(&pool.endpoint)
            }
            _ => {
                let (host, cluster) = (Arc::clone(host), Arc::clone(cluster));
                self.endpoint(&host, &cluster)
            }
        };
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        stream.permit = Some(permit);
        if again > 0 {
            stream.tried.push(id);
        }
        self.find_upstream(core, key, &endpoint);
    }

    /// Another try after its back-off.
    pub(super) fn retry_now<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        stream.retry_at = None;
        stream.request.head_sent = false;
        stream.request.sent = false;
        stream.endpoint = None;
        stream.try_started_ms = 0;
        let mut whole = ByteQueue::default();
        if let Some(replay) = &stream.replay {
            for chunk in replay.chunks() {
                whole.push(&mut core.chunks, chunk);
            }
        }
        stream.request.buffer.clear(&mut core.chunks);
        stream.request.buffer = whole;
        self.attempt(core, key);
    }

    /// A request that an upstream opened towards its client: it goes to the client whose streams this
    /// connection carries, when there is exactly one.
    pub(super) fn reverse_request<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        id: StreamId,
        head: Box<Head>,
        end: bool,
    ) {
        let now = core.now();
        let Some((http, client)) = self.only_client_of(core, key) else {
            self.events.give_head(head);
            let none = Span { start: 0, len: 0 };
            self.encode(key, none, |codec, out| {
                codec.reset(id, ResetReason::Refused, out)
            });
            return;
        };
        let opened = self
            .encode(client, Span { start: 0, len: 0 }, |codec, _| codec.open())
            .flatten();
        let Some(client_id) = opened else {
            self.events.give_head(head);
            let none = Span { start: 0, len: 0 };
            self.encode(key, none, |codec, out| {
                codec.reset(id, ResetReason::Refused, out)
            });
            return;
        };
        let mut stream = Stream::new(client, client_id, Arc::clone(&http), now);
        stream.reverse = true;
        stream.upstream = Some((key, id));
        stream.endpoint = self
            .conn(key)
            .and_then(Conn::up)
            .map(|up| Arc::clone(&up.endpoint));
        stream.request.done = end;
        stream.request.head_sent = true;
        stream.request.sent = end;
        stream.one_way = head.one_way;
        stream.stream_number = self.next_number();
        let one_way = stream.one_way;
        if let Some(endpoint) = &stream.endpoint {
            // Counted like the streams that go the other way, so that the gauges agree at the end.
            self.stats.inc(endpoint.cluster.stats.upstream_rq_total);
            self.stats
                .gauge(endpoint.cluster.stats.upstream_rq_active, 1);
            endpoint
                .host
                .active_requests
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        self.stats.inc(http.stats.downstream_rq_total);
        self.stats.gauge(http.stats.downstream_rq_active, 1);
        let stream = self.streams.0.insert(stream);
        if let Some(up) = self.conn_mut(key).and_then(Conn::up_mut) {
            up.streams.insert(id, stream);
        }
        if let Some(down) = self.conn_mut(client).and_then(Conn::down_mut) {
            down.streams.insert(client_id, stream);
        }
        self.schedule_stream(stream);
        let none = Span { start: 0, len: 0 };
        self.encode(client, none, |codec, out| {
            codec.send_head(client_id, &head, end, out)
        });
        self.events.give_head(head);
        if end && one_way {
            self.upstream_finished(core, stream);
            self.finish_stream(core, stream);
        }
    }

    /// The one client whose streams an upstream connection carries.
    fn only_client_of<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
    ) -> Option<(Arc<super::config::Http>, Key)> {
        self.rouse_all(core, key);
        let streams = self.conn(key)?.streams()?.keys();
        let mut only = None;
        for stream in streams {
            let client = self.client_of(stream)?;
            if only.is_some_and(|found| found != client) {
                return None;
            }
            only = Some(client);
        }
        let client =
            only.or_else(|| self.conn(key).and_then(Conn::up).and_then(|up| up.only_for))?;
        let http = Arc::clone(&self.conn(client)?.down()?.http);
        Some((http, client))
    }
}
