//! Events in, parts out: how the bytes of a stream cross from one connection to the other.
//!
//! Both directions are lanes with the same rules: pass on at once what the destination takes, hold
//! the rest, stop the source when too much is held, and let it go on when the destination drained.
//! Nothing here knows which protocol is on either side.

use moorgate_codecs::{Event, Head, ProtocolError, ResetReason, Shape, StreamId};

use super::conn::{Closing, Conn, Role, pause};
use super::gateway::{Core, Gateway};
use super::resting::rests;
use super::stream::Way;
use crate::engine::arena::Span;
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;

impl Gateway {
    /// Handles the events of one `decode` call on a connection; ranges are relative to `span`.
    pub(super) fn dispatch<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, span: Span) {
        if self.events.list.is_empty() {
            return;
        }
        let mut list = std::mem::take(&mut self.events.list);
        for event in list.drain(..) {
            // An event before this one may have closed the connection.
            if self.conn(key).is_none() {
                if let Event::Head { head, .. } | Event::Trailers { head, .. } = event {
                    self.events.give_head(head);
                }
                continue;
            }
            match event {
                Event::Head { stream, head, end } => self.on_head(core, key, stream, head, end),
                Event::Data { stream, range, end } => {
                    let part = Span {
                        start: span.start + range.start as u32,
                        len: range.len() as u32,
                    };
                    self.on_data(core, key, stream, part, end);
                }
                Event::Trailers { stream, head } => self.on_trailers(core, key, stream, head),
                Event::Reset { stream, reason } => self.on_reset(core, key, stream, reason),
                Event::Writable { stream } => {
                    if let Some((stream, way)) = self.lane_into(core, key, stream) {
                        self.pump(core, stream, way);
                    }
                }
                Event::GoAway { last } => self.on_go_away(core, key, last),
                Event::Settled => self.upstream_quiet(core, key),
            }
        }
        self.events.list = list;
        if !self.events.notes.is_empty() {
            self.count_notes(key);
        }
    }

    fn stream_on<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, id: StreamId) -> Option<Key> {
        let found = self.conn(key)?.streams()?.get(id)?;
        if rests(found) {
            return self.roused(core, key, id, found);
        }
        Some(found)
    }

    /// The stream and lane whose source is this connection's stream.
    fn lane_from<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        id: StreamId,
    ) -> Option<(Key, Way)> {
        let stream = self.stream_on(core, key, id)?;
        let from_client = self.conn(key)?.down().is_some();
        let reverse = self.stream(stream)?.reverse;
        Some((
            stream,
            if from_client != reverse {
                Way::Request
            } else {
                Way::Response
            },
        ))
    }

    fn lane_into<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        id: StreamId,
    ) -> Option<(Key, Way)> {
        let (stream, way) = self.lane_from(core, key, id)?;
        Some((
            stream,
            if way == Way::Request {
                Way::Response
            } else {
                Way::Request
            },
        ))
    }

    fn on_head<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        id: StreamId,
        head: Box<Head>,
        end: bool,
    ) {
        match self.lane_from(core, key, id) {
            None if self.conn(key).is_some_and(|conn| conn.down().is_some()) => {
                self.request_arrived(core, key, id, head, end);
            }
            None => self.reverse_request(core, key, id, head, end),
            Some((stream, Way::Response)) => self.response_arrived(core, stream, head, end),
            // A second head in the request direction cannot come from a correct codec.
            Some((stream, Way::Request)) => {
                self.events.give_head(head);
                self.abort_stream(core, stream, ResetReason::Protocol);
            }
        }
    }

    fn on_data<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        id: StreamId,
        span: Span,
        end: bool,
    ) {
        let Some((stream, way)) = self.lane_from(core, key, id) else {
            // The stream was given up on our side; its credit still has to return.
            let none = Span { start: 0, len: 0 };
            self.encode(key, none, |codec, out| {
                codec.release(id, span.len as usize, out)
            });
            return;
        };
        self.lane_data(core, stream, way, span, end);
        if end {
            self.source_done(core, stream, way);
        }
    }

    fn on_trailers<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        id: StreamId,
        head: Box<Head>,
    ) {
        let Some((stream, way)) = self.lane_from(core, key, id) else {
            self.events.give_head(head);
            return;
        };
        let filtered =
            way == Way::Response && self.stream(stream).is_some_and(|s| !s.filters.is_empty());
        let head = if filtered {
            self.filter_trailers(core, stream, head)
        } else {
            Some(head)
        };
        if let Some(stream) = self.stream_mut(stream) {
            let lane = stream.lane_mut(way);
            lane.trailers = head;
            lane.done = true;
        }
        self.pump(core, stream, way);
        if filtered {
            self.check_held_response(core, stream);
        }
        self.source_done(core, stream, way);
    }

    fn on_reset<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        id: StreamId,
        reason: ResetReason,
    ) {
        let Some(stream) = self.stream_on(core, key, id) else {
            return;
        };
        if self.conn(key).is_some_and(|conn| conn.down().is_some()) {
            self.client_reset(core, stream);
        } else {
            if let Some(up) = self.conn_mut(key).and_then(Conn::up_mut) {
                up.streams.remove(id);
            }
            if let Some(stream) = self.stream_mut(stream) {
                stream.upstream = None;
                // It was not looked at: to send it again is safe (RFC 9113 section 8.7).
                stream.on_used_connection = reason == ResetReason::Refused;
            }
            self.upstream_reset(core, stream, reason);
        }
    }

    fn on_go_away<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, last: StreamId) {
        let Some(up) = self.conn_mut(key).and_then(Conn::up_mut) else {
            return;
        };
        up.draining = true;
        let refused: Vec<(StreamId, Key)> = up
            .streams
            .entries()
            .iter()
            .copied()
            .filter(|(id, _)| *id > last)
            .collect();
        for (id, stream) in refused {
            self.on_reset(core, key, id, ResetReason::Refused);
            let _ = stream;
        }
        self.upstream_quiet(core, key);
    }

    /// Body bytes of a lane.
    pub(super) fn lane_data<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        way: Way,
        span: Span,
        end: bool,
    ) {
        let now = core.now();
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        stream.active_ms = now;
        if !stream.filters.is_empty() {
            if stream.filters_body() {
                self.filter_data(core, key, way, span, end);
                return;
            }
            stream.show_body(way, core.arena.get(span), &self.stats);
        }
        self.pass_data(core, key, way, span, end, span.len as usize);
    }

    /// Passes body bytes on. `credit`: what the source is to get back for them.
    pub(super) fn pass_data<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        way: Way,
        span: Span,
        end: bool,
        credit: usize,
    ) {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        if way == Way::Request && stream.replay.is_some() && !self.keep_for_retry(core, key, span) {
            return;
        }
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        let held = stream.pending.is_some() || stream.hold_body.is_some();
        let destination = stream.destination(way);
        let lane = stream.lane_mut(way);
        // What came from a client is counted as it came, what goes to one as it goes.
        lane.bytes += match way {
            Way::Request => credit as u64,
            Way::Response => u64::from(span.len),
        };
        lane.done |= end;
        let direct = lane.head_sent && !held && lane.buffer.is_empty();
        let mut accepted = 0;
        if direct && let Some((to, id)) = destination {
            let len = span.len as usize;
            let sent = self.encode(to, span, |codec, out| codec.send_data(id, len, end, out));
            match sent {
                Some(Ok(n)) => accepted = n,
                Some(Err(_)) | None => return,
            }
        }
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        let lane = stream.lane_mut(way);
        if accepted < span.len as usize {
            let rest = core.arena.get(span).get(accepted..).unwrap_or_default();
            lane.buffer.push(&mut core.chunks, rest);
        } else if end && direct {
            lane.sent = true;
        }
        lane.unreleased += credit;
        self.settle(core, key, way);
        if way == Way::Request {
            self.check_held(core, key);
        }
    }

    /// Sends what a lane holds, as far as its destination takes it.
    pub(super) fn pump<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, way: Way) {
        loop {
            let Some(stream) = self.streams.0.get_key_mut(key) else {
                return;
            };
            if stream.pending.is_some() || stream.hold_body.is_some() {
                return;
            }
            let Some((to, id)) = stream.destination(way) else {
                return;
            };
            let lane = stream.lane_mut(way);
            if !lane.head_sent || lane.sent {
                return;
            }
            let waiting = lane.buffer.len();
            if waiting == 0 {
                break;
            }
            let none = Span { start: 0, len: 0 };
            let most = self.conns.get_key_mut(to).and_then(Conn::codec_mut);
            let most = most.map_or(0, |codec| codec.sendable(id));
            if most == 0 {
                // It says when there is room again, once it was asked.
                self.encode(to, none, |codec, out| {
                    codec.send_data(id, waiting, false, out)
                });
                break;
            }
            let len = waiting.min(16 * 1024).min(most);
            if core.arena.room() < len {
                if self.flushing {
                    self.note_drained(to);
                    break;
                }
                if self.decoding {
                    // It goes on when the turn's output was written.
                    if let Some(conn) = self.conn_mut(to) {
                        conn.throttles = true;
                    }
                    self.mark_dirty(to);
                    break;
                }
                self.flush_all(core);
                continue;
            }
            let Some(into) = core.arena.tail_mut().get_mut(..len) else {
                return;
            };
            lane.buffer.copy_to(into);
            let end = lane.done && lane.trailers.is_none() && len == waiting;
            let span = core.arena.commit(len);
            let sent = self.encode(to, span, |codec, out| codec.send_data(id, len, end, out));
            let Some(Ok(accepted)) = sent else { return };
            let Some(stream) = self.streams.0.get_key_mut(key) else {
                return;
            };
            let lane = stream.lane_mut(way);
            lane.buffer.consume(&mut core.chunks, accepted);
            if accepted < len {
                break;
            }
            if end {
                lane.sent = true;
                break;
            }
        }
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        let destination = stream.destination(way);
        let lane = stream.lane_mut(way);
        if lane.done && !lane.sent && lane.buffer.is_empty() {
            let trailers = lane.trailers.take();
            lane.sent = true;
            if let Some((to, id)) = destination {
                let none = Span { start: 0, len: 0 };
                self.encode(to, none, |codec, out| match &trailers {
                    Some(trailers) => codec.send_trailers(id, trailers, out),
                    None => codec.send_data(id, 0, true, out).map(|_| ()),
                });
            }
            if let Some(trailers) = trailers {
                match self.stream_mut(key) {
                    // The log has not seen them yet.
                    Some(stream) if way == Way::Response && !stream.http.access_logs.is_empty() => {
                        stream.response.trailers = Some(trailers);
                    }
                    _ => self.events.give_head(trailers),
                }
            }
        }
        self.settle(core, key, way);
    }

    /// After bytes moved on a lane: gives credit back or stops the source, and notices the end.
    pub(super) fn settle<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, way: Way) {
        let Some(stream) = self.stream(key) else {
            return;
        };
        let lane = stream.lane(way);
        let (buffered, sent) = (lane.buffer.len(), lane.sent);
        let source = stream.source(way);
        let destination = stream.destination(way);
        let limit = match destination {
            Some((to, _)) => self.output_limit(core, to),
            None => source.map_or(1 << 20, |(from, _)| self.output_limit(core, from)),
        };
        let queued = destination
            .and_then(|(to, _)| self.conn(to))
            .map_or(0, |c| c.output.len());
        // A lane that is through has no source any more: what its connection says next is another
        // message's, and nobody would let it go on.
        if buffered + queued > limit && !sent {
            if let Some((to, _)) = destination
                && let Some(conn) = self.conn_mut(to)
            {
                conn.throttles = true;
            }
            if self.stop_source(key, way)
                && let Some((to, _)) = destination
            {
                self.note_stop(core, to, buffered + queued);
            }
        } else {
            self.release(key, way);
        }
        if sent {
            self.lane_sent(core, key, way);
        }
    }

    /// True when it was being read until now.
    fn stop_source(&mut self, key: Key, way: Way) -> bool {
        let Some((from, _)) = self.stream(key).and_then(|stream| stream.source(way)) else {
            return false;
        };
        let Some(conn) = self.conn_mut(from) else {
            return false;
        };
        // A multiplexed source is stopped by the credit it does not get.
        let shape = conn.codec_mut().map(|codec| codec.shape());
        if shape == Some(Shape::Multiplex) || conn.paused & pause::FULL != 0 {
            return false;
        }
        conn.paused |= pause::FULL;
        match &conn.role {
            Role::Down(down) => {
                let counter = down.http.stats.downstream_flow_control_paused_reading_total;
                self.stats.inc(counter);
            }
            Role::Up(up) => {
                let counter = up
                    .endpoint
                    .cluster
                    .stats
                    .upstream_flow_control_paused_reading_total;
                self.stats.inc(counter);
            }
            Role::Tunnel(_) | Role::Detecting(_) | Role::Waking => {}
        }
        true
    }

    /// Gives back the credit of what the destination took, and reads the source again.
    pub(super) fn release(&mut self, key: Key, way: Way) {
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        let Some((from, id)) = stream.source(way) else {
            return;
        };
        let n = std::mem::take(&mut stream.lane_mut(way).unreleased);
        if n > 0 {
            let none = Span { start: 0, len: 0 };
            self.encode(from, none, |codec, out| codec.release(id, n, out));
        }
        let Some(conn) = self.conn_mut(from) else {
            return;
        };
        if conn.paused & pause::FULL != 0 {
            conn.paused &= !pause::FULL;
            match &conn.role {
                Role::Down(down) => {
                    let counter = down
                        .http
                        .stats
                        .downstream_flow_control_resumed_reading_total;
                    self.stats.inc(counter);
                }
                Role::Up(up) => {
                    let stats = &up.endpoint.cluster.stats;
                    let counter = stats.upstream_flow_control_resumed_reading_total;
                    self.stats.inc(counter);
                }
                Role::Tunnel(_) | Role::Detecting(_) | Role::Waking => {}
            }
            self.queue(from);
        }
    }

    /// A connection's output drained (in part): lanes into it may move again.
    pub(super) fn drained<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let limit = self.output_limit(core, key);
        let Some(conn) = self.conn_mut(key) else {
            return;
        };
        if !conn.throttles || conn.output.len() > limit / 2 {
            return;
        }
        conn.throttles = false;
        if conn.paused & pause::OUTPUT != 0 {
            conn.paused &= !pause::OUTPUT;
            self.queue(key);
        }
        let Some(conn) = self.conn(key) else { return };
        if let Role::Tunnel(end) = &conn.role {
            if let Some(peer) = end.peer
                && let Some(peer_conn) = self.conn_mut(peer)
            {
                peer_conn.paused &= !pause::FULL;
                self.queue(peer);
            }
            return;
        }
        if self.flushing {
            self.note_drained(key);
        } else {
            self.pump_into(core, key);
        }
    }

    fn note_drained(&mut self, key: Key) {
        if !self.drained.contains(&key) {
            self.drained.push(key);
        }
    }

    /// Lets all lanes into a connection move.
    pub(super) fn pump_into<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(conn) = self.conn(key) else { return };
        let client = conn.down().is_some();
        let streams = conn
            .streams()
            .map(super::conn::StreamMap::keys)
            .unwrap_or_default();
        for stream in streams {
            let Some(reverse) = self.stream(stream).map(|stream| stream.reverse) else {
                continue;
            };
            let way = if client != reverse {
                Way::Response
            } else {
                Way::Request
            };
            self.pump(core, stream, way);
        }
    }

    /// A whole lane went to its destination.
    fn lane_sent<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, way: Way) {
        let now = core.now();
        if self.stream(key).is_some_and(|stream| stream.tunnel) {
            self.end_raw(key, way);
        }
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        match way {
            Way::Request => {
                stream.times.upstream_end = now;
                let over = stream.one_way || stream.response.done;
                if over {
                    self.upstream_finished(core, key);
                }
                if self
                    .stream(key)
                    .is_some_and(|stream| stream.one_way || stream.response.sent)
                {
                    self.finish_stream(core, key);
                }
            }
            Way::Response => {
                stream.times.response_end = now;
                // What left HTTP has two directions that end for themselves.
                if !stream.tunnel || stream.request.sent {
                    self.finish_stream(core, key);
                }
            }
        }
    }

    /// The source of a lane has said all it will.
    pub(super) fn source_done<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, way: Way) {
        let now = core.now();
        let Some(stream) = self.stream_mut(key) else {
            return;
        };
        match way {
            Way::Request => {
                stream.times.request_end = now;
                self.schedule_stream(key);
            }
            Way::Response => {
                if stream.request.sent {
                    self.upstream_finished(core, key);
                }
            }
        }
    }

    /// A codec says its connection is over.
    pub(super) fn codec_closed<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        key: Key,
        error: Option<ProtocolError>,
    ) {
        let Some(conn) = self.conn(key) else { return };
        match &conn.role {
            Role::Down(down) => {
                let Some(error) = error else {
                    self.close_after_flush(core, key);
                    return;
                };
                self.stats.inc(down.http.stats.downstream_cx_protocol_error);
                self.count_breach(key, error.detail);
                if down.codec.shape() == Shape::PingPong && down.codec.streams() == 0 {
                    // It got its answer while the events before the error were handled.
                    self.close_after_flush(core, key);
                    return;
                }
                self.refuse_request(core, key, error);
            }
            Role::Up(_) => {
                if let Some(error) = error {
                    self.note_upstream_error(key);
                    self.count_breach(key, error.detail);
                    self.upstream_ended(core, key, true, ResetReason::Protocol);
                } else {
                    self.upstream_gone(core, key, true);
                }
            }
            Role::Tunnel(_) | Role::Detecting(_) | Role::Waking => {}
        }
    }

    /// Closes a client's connection once everything is written.
    pub(super) fn close_after_flush<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let _ = core;
        let Some(conn) = self.conn_mut(key) else {
            return;
        };
        if conn.closing == Closing::No {
            conn.closing = Closing::AfterFlush;
            self.mark_dirty(key);
        }
    }
}
