//! Trying again: whether, when, and with what of the request.

use moorgate_codecs::Head;

use super::conn::Conn;
use super::gateway::{Core, Gateway};
use super::http::local_reply::{LocalReply, UpstreamFailure};
use super::http::retry::{Decision, Outcome, is_idempotent};
use super::stream::TryLimit;
use crate::cluster::breaker::{Priority, Resource};
use crate::engine::arena::Span;
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;
use crate::telemetry::flags;

impl Gateway {
    /// An attempt failed without a response. True when the request will be tried again.
    pub(super) fn try_again<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        failure: UpstreamFailure,
    ) -> bool {
        let unseen = matches!(
            failure,
            UpstreamFailure::Terminated | UpstreamFailure::Refused
        );
        if unseen && self.replace_dead_connection(core, key, failure) {
            return true;
        }
        let random = core.reactor.random();
        let Some(stream) = self.stream_mut(key) else {
            return false;
        };
        let sent = stream.request.head_sent;
        let Some(retry) = &mut stream.retry else {
            return false;
        };
        let decision = retry.decide(Outcome::Failed { failure, sent }, random);
        self.follow(core, key, decision)
    }

    /// A response came whose status the retry policy may not want. True when it is tried again.
    pub(super) fn retry_response<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        head: &Head,
    ) -> bool {
        let random = core.reactor.random();
        let Some(stream) = self.stream_mut(key) else {
            return false;
        };
        let Some(retry) = &mut stream.retry else {
            return false;
        };
        let retried = stream.attempts > 1;
        let decision = retry.decide(Outcome::Response(head), random);
        let again = self.follow(core, key, decision);
        if !again
            && retried
            && decision == Decision::No
            && let Some(endpoint) = self.stream(key).and_then(|stream| stream.endpoint.as_ref())
        {
            self.stats
                .inc(endpoint.cluster.stats.upstream_rq_retry_success);
        }
        again
    }

    /// Keeps a piece of the request's body for another try, up to the listener's buffer limit. A
    /// request that is larger is sent once; if it waits for its next try, it is answered: false.
    pub(super) fn keep_for_retry<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        span: Span,
    ) -> bool {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return false;
        };
        let limit = stream
            .client_key()
            .and_then(|client| self.conns.get_key(client))
            .and_then(Conn::down)
            .map_or(0, |down| down.listener.buffer_limit as usize);
        let Some(replay) = &mut stream.replay else {
            return true;
        };
        if replay.len() + span.len as usize <= limit {
            replay.push(&mut core.chunks, core.arena.get(span));
            return true;
        }
        replay.clear(&mut core.chunks);
        stream.replay = None;
        stream.retry = None;
        let waits = stream.retry_at.is_some();
        let cluster = stream
            .cluster
            .and_then(|id| self.snapshot.clusters.get(&id));
        if let Some(cluster) = cluster {
            self.stats.inc(cluster.stats.retry_or_shadow_abandoned);
        }
        if waits {
            self.fail(core, key, LocalReply::RetryBufferExceeded);
        }
        !waits
    }

    fn follow<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, decision: Decision) -> bool {
        let now = core.now();
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return false;
        };
        stream.retry_permit = None;
        let cluster = match &stream.endpoint {
            Some(endpoint) => Some(std::sync::Arc::clone(&endpoint.cluster)),
            None => stream
                .cluster
                .and_then(|id| self.snapshot.clusters.get(&id))
                .cloned(),
        };
        let Some(cluster) = cluster else { return false };
        let stats = cluster.stats;
        match decision {
            Decision::No => false,
            Decision::LimitExceeded => {
                stream.flags |= flags::RETRY_LIMIT;
                self.stats.inc(stats.upstream_rq_retry_limit_exceeded);
                false
            }
            Decision::Retry { backoff_ms } => {
                // What was sent of the body can only be sent again when all of it was kept.
                if stream.request.bytes > 0 && stream.replay.is_none() {
                    self.stats.inc(stats.retry_or_shadow_abandoned);
                    return false;
                }
                let priority = if stream.high_priority {
                    Priority::High
                } else {
                    Priority::Default
                };
                let thresholds = &cluster.config.thresholds;
                let permit = cluster
                    .breakers
                    .acquire(Resource::Retries, priority, thresholds);
                let Some(permit) = permit else {
                    self.stats.inc(stats.upstream_rq_retry_overflow);
                    return false;
                };
                stream.retry_permit = Some(permit);
                stream.retry_at = Some(now + backoff_ms);
                stream.try_started_ms = 0;
                stream.response.done = false;
                self.stats.inc(stats.upstream_rq_retry);
                self.stats.inc(stats.upstream_rq_retry_backoff_exponential);
                self.detach_upstream(core, key, moorgate_codecs::ResetReason::Cancel);
                self.schedule_stream(key);
                true
            }
        }
    }

    /// A try took too long: another one, or the client is told.
    pub(super) fn try_timed_out<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        limit: TryLimit,
    ) {
        self.detach_upstream(core, key, moorgate_codecs::ResetReason::Cancel);
        let Some(stream) = self.stream(key) else {
            return;
        };
        let alt = stream.timeouts.alt_response;
        if !stream.response.head_sent && self.try_again(core, key, UpstreamFailure::LocalReset) {
            return;
        }
        let reply = match limit {
            TryLimit::Time => LocalReply::PerTryTimeout { alt },
            TryLimit::Idle => LocalReply::PerTryIdleTimeout,
            TryLimit::Duration => LocalReply::UpstreamMaxDuration,
        };
        self.fail(core, key, reply);
    }

    /// A connection that had been used before may have been closed by the upstream while our request
    /// was on its way: nothing was answered, so a request that may be repeated is, once. One that the
    /// upstream says it did not look at, because it is leaving, may always be.
    fn replace_dead_connection<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        failure: UpstreamFailure,
    ) -> bool {
        let Some(stream) = self.stream_mut(key) else {
            return false;
        };
        if !stream.on_used_connection || stream.replaced_dead || stream.request.bytes > 0 {
            return false;
        }
        let Some(head) = &stream.head else {
            return false;
        };
        let unseen = failure == UpstreamFailure::Refused;
        if !(unseen || is_idempotent(head.method())) || !stream.request.done {
            return false;
        }
        stream.replaced_dead = true;
        stream.on_used_connection = false;
        stream.attempts = stream.attempts.saturating_sub(1);
        self.retry_now(core, key);
        true
    }
}
