//! A response's way back: retry or not, filters, rules, client.

use moorgate_codecs::{Head, ResetReason, Version};

use super::gateway::{Core, Gateway};
use super::http::local_reply::{LocalReply, UpstreamFailure};
use super::reply::Source;
use super::stream::{PendingCall, Way};
use crate::engine::arena::Span;
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;
use crate::filter::Verdict;
use crate::grpc;

impl Gateway {
    /// A response head (or an interim one) came from the upstream.
    pub(super) fn response_arrived<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        head: Box<Head>,
        end: bool,
    ) {
        let now = core.now();
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        stream.active_ms = now;
        if stream.reverse {
            self.forward_reverse_answer(core, key, head, end);
            return;
        }
        let status = head.status;
        if (100..200).contains(&status) && status != 101 {
            self.interim(key, head);
            return;
        }
        if stream.response.head_sent || stream.response_head.is_some() {
            self.events.give_head(head);
            self.upstream_failed(core, key, UpstreamFailure::Protocol);
            return;
        }
        stream.times.response_start = now;
        stream.response.done = end;
        self.count_upstream_status(key, status);
        if self.retry_response(core, key, &head) {
            self.events.give_head(head);
            return;
        }
        if let Some(stream) = self.stream_mut(key) {
            stream.grpc_answer = head.version == Version::Http2 && !end && grpc::is_grpc(&head);
            // From here on the request is not sent again.
            if let Some(mut replay) = stream.replay.take() {
                replay.clear(&mut core.chunks);
            }
            stream.retry = None;
            stream.status = status;
            stream.details = "via_upstream";
        }
        self.run_response_filters(core, key, head, 0);
        if end {
            self.source_done(core, key, Way::Response);
        }
    }

    fn interim(&mut self, key: Key, head: Box<Head>) {
        let client = self.client_of(key);
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        // The upstream has seen the request: it is not sent a second time behind its back.
        stream.replaced_dead = true;
        let id = stream.client_id;
        if stream.http.proxy_100_continue
            && !stream.response.head_sent
            && let Some(client) = client
        {
            let none = Span { start: 0, len: 0 };
            self.encode(client, none, |codec, out| {
                codec.send_head(id, &head, false, out)
            });
        }
        self.events.give_head(head);
    }

    pub(super) fn run_response_filters<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        mut head: Box<Head>,
        skip: usize,
    ) {
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        let end = stream.response.done && stream.response.bytes == 0;
        let count = stream.filters.len();
        for step in skip..count {
            // Responses pass the filters from the last to the first.
            let Some(filter) = stream.filters.get_mut(count - 1 - step) else {
                break;
            };
            match filter.response_head(&mut head, end) {
                Verdict::Continue => {}
                Verdict::StopAndBuffer(limit) => {
                    if end {
                        continue;
                    }
                    self.hold_response(core, key, head, count - 1 - step, limit);
                    return;
                }
                Verdict::Pending(token) => {
                    stream.response_head = Some(head);
                    stream.pending = Some(PendingCall {
                        token,
                        way: Way::Response,
                        next: step,
                    });
                    self.suspended.insert(token, key);
                    return;
                }
                Verdict::Reply(reply) => {
                    self.events.give_head(head);
                    self.reply(core, key, reply, 0, Source::Manager);
                    return;
                }
            }
        }
        if count > 0 {
            self.count_filters(key);
            if end {
                self.filter_bodiless(&mut core.chunks, key);
            }
        }
        self.send_response_head(core, key, head);
    }

    fn send_response_head<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        mut head: Box<Head>,
    ) {
        let Some(client) = self.client_of(key) else {
            self.events.give_head(head);
            return;
        };
        self.apply_response_rules(core, key, &mut head, Source::Upstream);
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        let id = stream.client_id;
        let tunnel =
            stream.upgrade && (head.status == 101 || stream.is_connect && head.status / 100 == 2);
        // An answer that neither opens the WebSocket nor says what was wrong: its content is nothing
        // that the client asked for.
        let unsuccessful = stream.websocket && stream.upgrade && !tunnel && head.status < 400;
        if unsuccessful {
            head.remove(b"content-type");
            head.content_length = Some(0);
            stream.details = "websocket_handshake_unsuccessful";
            stream.response.done = true;
            stream.response.bytes = 0;
            stream.response.trailers = None;
            stream.response.buffer.clear(&mut core.chunks);
        }
        let asked = stream.upgrade;
        let lane = &mut stream.response;
        let end = lane.done && lane.buffer.is_empty() && lane.trailers.is_none() && !tunnel;
        lane.head_sent = true;
        lane.sent = end;
        let keep = !stream.http.access_logs.is_empty();
        if !tunnel {
            self.announce_drain(key, client);
        }
        let none = Span { start: 0, len: 0 };
        // A connection with other streams on it does not become a tunnel for one of them.
        let shared = asked && self.is_shared(key);
        if tunnel && shared {
            self.answer_key(key, &mut head);
        }
        let sent = self.encode(client, none, |codec, out| {
            codec.send_head(id, &head, end, out)
        });
        if !matches!(sent, Some(Ok(()))) {
            self.events.give_head(head);
            if let Some(stream) = self.stream_mut(key) {
                stream.response.head_sent = false;
                stream.response.sent = false;
            }
            self.detach_upstream(core, key, ResetReason::Protocol);
            self.fail(
                core,
                key,
                LocalReply::Upstream {
                    failure: UpstreamFailure::Protocol,
                    retried: false,
                },
            );
            return;
        }
        if keep && let Some(stream) = self.stream_mut(key) {
            stream.response_head = Some(head);
        } else {
            self.events.give_head(head);
        }
        self.drop_request_head(key);
        if tunnel {
            if shared {
                self.become_lanes(core, key);
            } else {
                self.become_tunnel(core, key);
            }
            return;
        }
        if unsuccessful {
            self.detach_upstream(core, key, ResetReason::Cancel);
        } else if shared {
            self.stays_http(core, key);
        }
        if end {
            self.settle(core, key, Way::Response);
        } else {
            self.schedule_stream(key);
            self.pump(core, key, Way::Response);
        }
    }

    /// The request is not sent again: unless a log wants its head, it goes.
    fn drop_request_head(&mut self, key: Key) {
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        if !Self::keeps_request_head(stream)
            && let Some(head) = stream.head.take()
        {
            self.events.give_head(head);
        }
    }

    /// The client's answer to a request that the upstream opened.
    fn forward_reverse_answer<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        head: Box<Head>,
        end: bool,
    ) {
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        stream.status = head.status;
        stream.response.done = end;
        stream.response.head_sent = true;
        stream.response.sent = end;
        let to = stream.destination(Way::Response);
        if let Some((to, id)) = to {
            let none = Span { start: 0, len: 0 };
            self.encode(to, none, |codec, out| codec.send_head(id, &head, end, out));
        }
        self.events.give_head(head);
        if end {
            self.source_done(core, key, Way::Response);
            self.settle(core, key, Way::Response);
        }
    }

    fn count_upstream_status(&mut self, key: Key, status: u16) {
        let Some(endpoint) = self.stream(key).and_then(|stream| stream.endpoint.as_ref()) else {
            return;
        };
        let stats = &endpoint.cluster.stats;
        self.stats.inc(stats.upstream_rq_completed);
        self.stats.inc(match status / 100 {
            1 => stats.upstream_rq_1xx,
            2 => stats.upstream_rq_2xx,
            3 => stats.upstream_rq_3xx,
            4 => stats.upstream_rq_4xx,
            _ => stats.upstream_rq_5xx,
        });
        let totals = &endpoint.host.totals;
        let total = if status >= 500 {
            &totals.rq_error
        } else {
            &totals.rq_success
        };
        total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// The connection manager's counters and the access log of a stream that ends.
    pub(super) fn account<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        self.end_filters(key, now);
        let Some(stream) = self.streams.0.get_key(key) else {
            return;
        };
        let http = &stream.http;
        let stats = &http.stats;
        self.stats.gauge(stats.downstream_rq_active, -1);
        if stream.status > 0 {
            self.stats.inc(stats.downstream_rq_completed);
            self.stats.inc(match stream.status / 100 {
                1 => stats.downstream_rq_1xx,
                2 => stats.downstream_rq_2xx,
                3 => stats.downstream_rq_3xx,
                4 => stats.downstream_rq_4xx,
                _ => stats.downstream_rq_5xx,
            });
            self.stats.record(
                stats.downstream_rq_time,
                now.saturating_sub(stream.started_ms),
            );
        }
        if let Some(endpoint) = &stream.endpoint
            && stream.response.done
        {
            let time = now.saturating_sub(stream.times.upstream_start);
            self.stats
                .record(endpoint.cluster.stats.upstream_rq_time, time);
        }
        if !http.access_logs.is_empty() {
            self.log_stream(core, key);
        }
    }
}
