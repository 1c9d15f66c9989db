//! Where the pure rules for heads meet a stream and its connections.

use moorgate_codecs::Head;

use super::conn::Conn;
use super::gateway::{Core, Gateway};
use super::http::client_cert::Certificates;
use super::http::local_reply::LocalReply;
use super::http::request_rules::{self, Connection};
use super::http::response_rules;
use super::http::retry::RetryState;
use super::http::router_rules::{self, Timeouts};
use super::reply::Source;
use super::stream::Stream;
use crate::engine::chunk::ByteQueue;
use crate::engine::reactor::{Addr, Reactor};
use crate::engine::slab::Key;
use crate::route::{Action, formatter};

impl Gateway {
    /// Prepares a request head as the connection manager does. `Some` is the answer to give instead.
    pub(super) fn apply_request_rules<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
    ) -> Option<LocalReply> {
        let stream = self.streams.0.get_key_mut(key)?;
        let conn = self.conns.get_key(stream.client_key()?)?;
        let down = conn.down()?;
        let head = stream.head.as_mut()?;
        let agreed = conn.tls.as_ref().map(|tls| tls.agreed());
        let peer = agreed.and_then(|agreed| agreed.peer.as_deref());
        let own = peer.and(down.chain.tls.as_ref());
        let own = own.map(|tls| tls.context.get());
        let certificates = peer.zip(own.as_deref()).map(|(peer, own)| {
            let name = agreed.and_then(|agreed| agreed.server_name.as_deref());
            let own_uris = own.own_uris(name);
            Certificates { peer, own_uris }
        });
        let connection = Connection {
            peer: &down.remote,
            local: &down.local,
            is_tls: conn.tls.is_some(),
            certificates,
            local_ip: self.local_ip,
        };
        let reactor = &mut core.reactor;
        let rules = &stream.http.rules;
        let buffer = &mut self.scratch.bytes;
        match request_rules::prepare(head, rules, &connection, || reactor.random(), buffer) {
            Err(reply) => Some(reply),
            Ok(prepared) => {
                stream.envoy_headers = prepared.envoy_headers;
                stream.wants_request_id =
                    response_rules::wants_request_id(rules, prepared.wants_request_id);
                if stream.wants_request_id {
                    stream.request_id = head.get(b"x-request-id").map(Into::into);
                }
                stream.internal_client = prepared.client.internal;
                stream.remote = prepared.client.address.map(Addr::Ip);
                None
            }
        }
    }

    /// What the router prepares once the route is known: rewrites, timeouts, retries.
    pub(super) fn prepare_forward<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let wall = self.clock.wall_us(now);
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        let Some(conn) = stream.client_key().and_then(|key| self.conns.get_key(key)) else {
            return;
        };
        let Some(down) = conn.down() else { return };
        let (Some(route), Some(head)) = (&stream.route, &mut stream.head) else {
            return;
        };
        let Action::Forward(forward) = &route.action else {
            return;
        };
        let http = &stream.http;
        let policy = forward.retry.as_ref().or(route.host.retry.as_ref());
        let envoy = stream.envoy_headers;
        stream.timeouts = Timeouts::of(
            head,
            &http.rules,
            forward,
            policy.map(|policy| &**policy),
            envoy,
            http.max_stream_duration_ms,
        );
        let buffer = &mut self.scratch.bytes;
        if !stream.not_grpc {
            router_rules::set_stream_limit(head, &forward.limits, &stream.timeouts, buffer);
        }
        stream.retry = RetryState::new(policy, head, envoy);
        if envoy {
            router_rules::strip_controls(head, &http.rules);
        }
        if let Some(timeout) = forward.idle_timeout_ms {
            stream.idle_timeout_ms = timeout;
        }
        if stream.retry.is_some() && !stream.request.done {
            stream.replay = Some(ByteQueue::default());
        }
        let facts = formatter::Facts {
            remote: stream.remote.as_ref().unwrap_or(&down.remote),
            direct_remote: down.direct_remote(),
            local: &down.local,
            start_unix_us: wall as i64,
            hostname: &self.hostname,
            response_code: 0,
            route_name: &route.name,
            upstream_host: None,
            upstream_cluster: "",
            protocol: head.version,
        };
        let weighted = stream.weighted.and_then(|index| forward.weighted(index));
        let keep_original = !http.rules.suppress_envoy_headers;
        let scratch = &mut self.scratch;
        http.routes
            .finalize_request(route, weighted, head, keep_original, &facts, scratch);
    }

    /// What the upstream is told before each try.
    pub(super) fn apply_try_rules(
        stream: &mut Stream,
        head: &mut Head,
        now: u64,
        buffer: &mut Vec<u8>,
    ) {
        // The first try is told the whole, whatever it waited for its connection.
        let elapsed = match stream.times.request_end {
            0 => 0,
            _ if stream.attempts == 1 => 0,
            end => now.saturating_sub(end),
        };
        let rules = &stream.http.rules;
        let limits = match stream.route.as_ref().map(|route| &route.action) {
            Some(Action::Forward(forward)) => Some(&forward.limits),
            _ => None,
        };
        let timeouts = &stream.timeouts;
        router_rules::set_expected_timeout(head, rules, timeouts, limits, elapsed, buffer);
        if let Some(route) = &stream.route
            && route.host.include_request_attempt_count
        {
            response_rules::set_attempt_count(head, stream.attempts, buffer);
        }
    }

    /// The fields every response gets.
    pub(super) fn apply_response_rules<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        head: &mut Head,
        source: Source,
    ) {
        let now = core.now();
        let date = self.clock.date(now);
        let wall = self.clock.wall_us(now);
        let Some(stream) = self.streams.0.get_key(key) else {
            return;
        };
        let http = &stream.http;
        if source == Source::Upstream && stream.asked_all() {
            let took = now.saturating_sub(stream.times.request_end);
            response_rules::from_upstream(head, &http.rules, took, &mut self.scratch.bytes);
        }
        if let Some(route) = &stream.route
            && let Some(conn) = stream.client_key().and_then(|key| self.conns.get_key(key))
            && let Some(down) = conn.down()
        {
            let endpoint = stream.endpoint.as_deref();
            let facts = formatter::Facts {
                remote: stream.remote.as_ref().unwrap_or(&down.remote),
                direct_remote: down.direct_remote(),
                local: &down.local,
                start_unix_us: wall as i64,
                hostname: &self.hostname,
                response_code: head.status,
                route_name: &route.name,
                upstream_host: endpoint.map(|endpoint| &endpoint.host.addr),
                upstream_cluster: endpoint.map_or("", |endpoint| &endpoint.cluster.name),
                protocol: stream
                    .head
                    .as_ref()
                    .map_or(head.version, |head| head.version),
            };
            let weighted = match &route.action {
                Action::Forward(forward) => {
                    stream.weighted.and_then(|index| forward.weighted(index))
                }
                _ => None,
            };
            let request = stream.head.as_deref();
            let scratch = &mut self.scratch;
            http.routes
                .finalize_response(route, weighted, head, request, &facts, scratch);
            // After the route's operations: they cannot change it.
            if source != Source::Manager
                && route.host.include_attempt_count_in_response
                && stream.attempts > 0
            {
                response_rules::set_attempt_count(head, stream.attempts, &mut scratch.bytes);
            }
        }
        let id = stream
            .request_id
            .as_deref()
            .filter(|_| stream.wants_request_id);
        response_rules::finish(head, &http.rules, &date, id, &mut self.scratch.bytes);
    }

    /// Whether the request head is still wanted once the response has begun.
    pub(super) fn keeps_request_head(stream: &Stream) -> bool {
        !stream.http.access_logs.is_empty()
            || stream.route.as_ref().is_some_and(|route| {
                let weighted = match &route.action {
                    Action::Forward(forward) => {
                        stream.weighted.and_then(|index| forward.weighted(index))
                    }
                    _ => None,
                };
                !stream.response.head_sent
                    && stream.http.routes.response_needs_request(route, weighted)
            })
    }

    /// What a parked exchange does not need of its heads.
    pub(super) fn release_silent_head(&mut self, stream: &mut Stream) {
        if !Self::keeps_request_head(stream)
            && stream.retry.is_none()
            && let Some(head) = stream.head.take()
        {
            self.events.give_head(head);
        }
    }

    /// A client's address facts, kept with the stream when a log will want them.
    pub(super) fn note_addresses(&mut self, key: Key) {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        if stream.http.access_logs.is_empty() {
            return;
        }
        let Some(conn) = stream.client_key().and_then(|key| self.conns.get_key(key)) else {
            return;
        };
        let Some(down) = Conn::down(conn) else { return };
        if stream.remote.is_none() {
            stream.remote = Some(down.remote.clone());
        }
        stream.direct_remote = Some(down.direct_remote().clone());
        stream.local = Some(down.local.clone());
        if let Some(ends) = &down.ends {
            stream.direct_local = Some(Box::new(ends.direct_local.clone()));
        }
    }
}
