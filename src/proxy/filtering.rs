//! Bodies and trailers of streams with a filter that looks at them.
//!
//! Such a body is copied piece by piece, which no other pays for. A filter may hold back the head of a
//! response until it has seen the beginning of its body; nothing else is kept here.

use std::sync::Arc;

use moorgate_codecs::{Head, HeadKind, ResetReason};

use super::gateway::{Core, Gateway};
use super::reply::Source;
use super::stream::{Stream, Way};
use crate::engine::arena::Span;
use crate::engine::chunk::{Budget, ChunkPool};
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;
use crate::filter::Verdict;
use crate::telemetry::recorder::Recorder;

impl Stream {
    /// A filter looks at body bytes.
    pub(super) fn filters_body(&self) -> bool {
        self.filters.iter().any(|filter| filter.wants_body())
    }

    /// Shows body bytes to the filters that only look.
    pub(super) fn show_body(&mut self, way: Way, data: &[u8], worker: &Recorder) {
        for filter in &mut self.filters {
            if filter.watches_body() {
                filter.body_passes(way == Way::Request, data);
                filter.count(worker);
            }
        }
    }

    /// The filters look at our own answer, the last of them first.
    pub(super) fn filter_own(&mut self, head: &mut Head, body: &mut Vec<u8>, worker: &Recorder) {
        for filter in self.filters.iter_mut().rev() {
            filter.local_reply(head, body);
            filter.count(worker);
        }
    }

    /// A response is its head alone: what the filters add.
    fn filter_end(
        &mut self,
        data: &mut Vec<u8>,
        spare: &mut Option<Box<Head>>,
    ) -> Option<Box<Head>> {
        let mut given = spare.take().unwrap_or_default();
        given.kind = HeadKind::Trailers;
        let mut filters = self.filters.iter_mut().rev();
        if !filters.any(|filter| filter.response_end(data, &mut given)) {
            *spare = Some(given);
            return None;
        }
        for filter in filters {
            if filter.wants_body() {
                filter.response_data(data, false);
            }
            if filter.response_trailers(&mut given, data) {
                *spare = Some(given);
                return None;
            }
        }
        Some(given)
    }

    /// Response body bytes go through the filters, the last of them first. What a filter ends the response
    /// with goes through those before it.
    fn filter_response(
        &mut self,
        data: &mut Vec<u8>,
        end: bool,
        worker: &Recorder,
        budget: &Arc<Budget>,
        spare: &mut Option<Box<Head>>,
    ) -> Option<Box<Head>> {
        let mut trailers: Option<Box<Head>> = None;
        for filter in self.filters.iter_mut().rev() {
            if filter.wants_body() {
                filter.response_data(data, end && trailers.is_none());
                filter.charge(budget);
            } else if filter.watches_body() {
                filter.body_passes(false, data);
            }
            if let Some(given) = &mut trailers {
                if filter.response_trailers(given, data) {
                    trailers = None;
                }
            } else if end {
                let mut given = spare.take().unwrap_or_default();
                given.kind = HeadKind::Trailers;
                if filter.response_end(data, &mut given) {
                    trailers = Some(given);
                } else {
                    *spare = Some(given);
                }
            }
            filter.count(worker);
        }
        trailers
    }
}

impl Gateway {
    /// Shows body bytes to the filters and passes on what they make of them.
    pub(super) fn filter_data<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        way: Way,
        span: Span,
        end: bool,
    ) {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        let mut data = core.arena.get(span).to_vec();
        let mut trailers = None;
        let mut spare = end.then(|| self.events.take_head());
        // The body of an answer that is held back is no body any more.
        if way == Way::Request || !stream.holds_response() {
            match way {
                Way::Request => {
                    for filter in &mut stream.filters {
                        if filter.watches_body() {
                            filter.body_passes(true, &data);
                            filter.count(&self.stats);
                        }
                        if !filter.wants_body() {
                            continue;
                        }
                        if let Verdict::Reply(reply) = filter.request_data(&mut data, end) {
                            stream.request.done |= end;
                            stream.request.bytes += u64::from(span.len);
                            let client = stream.client_key();
                            // What else it sends is not worth reading.
                            if let Some(down) =
                                client.and_then(|client| self.conn_mut(client)?.down_mut())
                            {
                                down.draining = true;
                            }
                            self.reply(core, key, reply, 0, Source::Manager);
                            return;
                        }
                    }
                }
                Way::Response => {
                    trailers = stream.filter_response(
                        &mut data,
                        end,
                        &self.stats,
                        core.chunks.budget(),
                        &mut spare,
                    );
                }
            }
        }
        if let Some(spare) = spare {
            self.events.give_head(spare);
        }
        let last = end && trailers.is_none();
        let credit = span.len as usize;
        let into = core.arena.tail_mut().get_mut(..data.len());
        if let Some(into) = into {
            into.copy_from_slice(&data);
            let span = core.arena.commit(data.len());
            self.pass_data(core, key, way, span, last, credit);
        } else {
            // No room in this turn: it waits in the lane, and is not kept for another try.
            if let Some(mut replay) = stream.replay.take_if(|_| way == Way::Request) {
                replay.clear(&mut core.chunks);
                stream.retry = None;
            }
            let lane = stream.lane_mut(way);
            if way == Way::Response {
                lane.bytes += data.len() as u64;
            }
            lane.buffer.push(&mut core.chunks, &data);
            let none = Span { start: 0, len: 0 };
            self.pass_data(core, key, way, none, last, credit);
            self.pump(core, key, way);
        }
        if way == Way::Response {
            if trailers.is_some() {
                self.end_with(core, key, trailers);
            }
            self.check_held_response(core, key);
        }
    }

    /// A response ends with trailers of our own, behind what is still to be sent of it.
    pub(super) fn end_with<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        trailers: Option<Box<Head>>,
    ) {
        if let Some(stream) = self.stream_mut(key) {
            stream.response.trailers = trailers;
            stream.response.done = true;
        }
        self.pump(core, key, Way::Response);
    }

    /// A response that is its head alone may get a body and trailers from a filter.
    pub(super) fn filter_bodiless(&mut self, chunks: &mut ChunkPool, key: Key) {
        let mut spare = Some(self.events.take_head());
        if let Some(stream) = self.streams.0.get_key_mut(key) {
            let mut data = Vec::new();
            let trailers = stream.filter_end(&mut data, &mut spare);
            if !data.is_empty() || trailers.is_some() {
                stream.response.bytes += data.len() as u64;
                stream.response.buffer.push(chunks, &data);
                stream.response.trailers = trailers;
            }
        }
        if let Some(spare) = spare {
            self.events.give_head(spare);
        }
    }

    /// The filters learn which cluster a request goes to.
    pub(super) fn tell_cluster(&mut self, key: Key) {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        let cluster = stream
            .cluster
            .and_then(|id| self.snapshot.clusters.get(&id));
        if let Some(cluster) = cluster {
            for filter in &mut stream.filters {
                filter.routed(&cluster.stat_name);
            }
        }
    }

    /// What its filters saw goes to this worker's counters.
    pub(super) fn count_filters(&mut self, key: Key) {
        if let Some(stream) = self.streams.0.get_key_mut(key) {
            for filter in &mut stream.filters {
                filter.count(&self.stats);
            }
        }
    }

    /// A stream ends: the last that its filters have to count.
    pub(super) fn end_filters(&mut self, key: Key, now: u64) {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        let answered = stream.endpoint.is_some() && stream.response.done;
        let took = answered.then(|| now.saturating_sub(stream.times.upstream_start));
        for filter in &mut stream.filters {
            filter.ended(took);
            filter.count(&self.stats);
        }
    }

    /// Shows the trailers of a response to the filters; one of them may want them in the body instead.
    /// Returns what is left of them.
    pub(super) fn filter_trailers<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        mut trailers: Box<Head>,
    ) -> Option<Box<Head>> {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return Some(trailers);
        };
        let mut data = Vec::new();
        let mut taken = false;
        if !stream.holds_response() {
            for filter in stream.filters.iter_mut().rev() {
                // What one of them puts before the trailers is body to the next.
                if filter.wants_body() && !data.is_empty() {
                    filter.response_data(&mut data, taken);
                } else if filter.watches_body() {
                    filter.body_passes(false, &data);
                }
                taken = taken || filter.response_trailers(&mut trailers, &mut data);
                filter.count(&self.stats);
            }
        }
        let lane = &mut stream.response;
        lane.bytes += data.len() as u64;
        lane.buffer.push(&mut core.chunks, &data);
        if !taken {
            return Some(trailers);
        }
        // The log does not see them either, as in Envoy.
        self.events.give_head(trailers);
        None
    }

    /// A filter wants to see the beginning of the body before the head goes on.
    pub(super) fn hold_response<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        head: Box<Head>,
        at: usize,
        limit: usize,
    ) {
        let client = self.client_of(key);
        let room = client.map_or(limit, |client| self.output_limit(core, client));
        if let Some(stream) = self.stream_mut(key) {
            stream.response_head = Some(head);
            stream.held_at = at;
            // More than the lane holds never comes.
            stream.hold_body = Some(limit.min(room));
        }
    }

    /// The head of a response goes on once enough of its body is there.
    pub(super) fn check_held_response<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        if !stream.holds_response() {
            return;
        }
        let enough = stream
            .hold_body
            .is_some_and(|limit| stream.response.buffer.len() >= limit);
        if !enough && !stream.response.done {
            return;
        }
        let Some(mut head) = stream.response_head.take() else {
            return;
        };
        stream.hold_body = None;
        let at = stream.held_at;
        let lane = &mut stream.response;
        let mut body = vec![0; lane.buffer.len()];
        lane.buffer.copy_to(&mut body);
        lane.buffer.clear(&mut core.chunks);
        lane.bytes = 0;
        let (complete, trailers) = (
            std::mem::replace(&mut lane.done, true),
            lane.trailers.take(),
        );
        if let Some(filter) = stream.filters.get_mut(at) {
            filter.response_held(&mut head, &body);
        }
        if let Some(trailers) = trailers {
            self.events.give_head(trailers);
        }
        if !complete {
            self.detach_upstream(core, key, ResetReason::Cancel);
        }
        let Some(stream) = self.stream(key) else {
            return;
        };
        let skip = stream.filters.len() - at;
        self.run_response_filters(core, key, head, skip);
    }
}
