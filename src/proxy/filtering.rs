//! Bodies and trailers of streams with a filter that looks at them.
//!
//! Such a body is copied piece by piece, which no other pays for. A filter may hold back the head of a
//! response until it has seen the beginning of its body; nothing else is kept here.

use moorgate_codecs::{Head, ResetReason};

use super::gateway::{Core, Gateway};
use super::reply::Source;
use super::stream::{Stream, Way};
use crate::engine::arena::Span;
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;
use crate::filter::Verdict;

impl Stream {
    /// A filter looks at body bytes.
    pub(super) fn filters_body(&self) -> bool {
        self.filters.iter().any(|filter| filter.wants_body())
    }

    /// The filters look at our own answer, the last of them first.
    pub(super) fn filter_own(&mut self, head: &mut Head, body: &mut Vec<u8>) {
        for filter in self.filters.iter_mut().rev() {
            filter.local_reply(head, body);
        }
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
        // The body of an answer that is held back is no body any more.
        if way == Way::Request || !stream.holds_response() {
            for at in 0..stream.filters.len() {
                match way {
                    Way::Request => {
                        let Some(filter) = stream.filters.get_mut(at) else {
                            break;
                        };
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
                    Way::Response => {
                        let last = stream.filters.len() - 1 - at;
                        if let Some(filter) = stream.filters.get_mut(last)
                            && filter.wants_body()
                        {
                            filter.response_data(&mut data, end);
                        }
                    }
                }
            }
        }
        let credit = span.len as usize;
        let into = core.arena.tail_mut().get_mut(..data.len());
        if let Some(into) = into {
            into.copy_from_slice(&data);
            let span = core.arena.commit(data.len());
            self.pass_data(core, key, way, span, end, credit);
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
            self.pass_data(core, key, way, none, end, credit);
            self.pump(core, key, way);
        }
        if way == Way::Response {
            self.check_held_response(core, key);
        }
    }

    /// Shows the trailers of a response to the filters; one of them may want them in the body instead.
    /// Returns what is left of them.
    pub(super) fn filter_trailers<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        trailers: Box<Head>,
    ) -> Option<Box<Head>> {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return Some(trailers);
        };
        let held = stream.holds_response();
        let mut data = Vec::new();
        let mut filters = stream.filters.iter_mut().rev();
        if held || !filters.any(|filter| filter.response_trailers(&trailers, &mut data)) {
            return Some(trailers);
        }
        let lane = &mut stream.response;
        lane.bytes += data.len() as u64;
        lane.buffer.push(&mut core.chunks, &data);
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
