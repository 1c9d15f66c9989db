//! The connection behind the codec interface.

use super::connection::{
    Connection, Fault, LEAVE_MS, Leaving, PING_ALIVE, PING_LEAVING, Phase, Role,
};
use super::frame::{MAX_31, MAX_PAYLOAD, code, flag, kind};
use super::outbound::{Form, judge};
use super::stream::state;
use crate::codec::{
    Codec, Compact, Consumed, Events, Millis, Out, ProtocolError, ResetReason, SendError, Shape,
    StreamId, Why,
};
use crate::head::{Head, HeadKind};

impl Connection {
    fn consumed(&mut self, bytes: usize, why: Why, partial: bool) -> Consumed {
        self.partial = partial;
        Consumed { bytes, why }
    }

    /// The stream, when this side may send body or trailers on it.
    fn sending(&self, id: StreamId) -> Result<usize, SendError> {
        let place = self.streams.place(id).ok_or(SendError::UnknownStream)?;
        let stream = &self.streams.0[place];
        if !stream.is(state::LOCAL_HEAD) || stream.is(state::LOCAL_END) {
            return Err(SendError::UnknownStream);
        }
        Ok(place)
    }

    fn local_end(&mut self, place: usize, out: &mut Out) {
        self.streams.0[place].state |= state::LOCAL_END;
        self.side_ended(place, out);
    }
}

impl Codec for Connection {
    fn shape(&self) -> Shape {
        Shape::Multiplex
    }

    fn decode(
        &mut self,
        now: Millis,
        input: &[u8],
        events: &mut Events,
        out: &mut Out,
    ) -> Consumed {
        if !input.is_empty() {
            self.heard = Some(now);
            self.asked = None;
        }
        let mut pos = 0;
        loop {
            if self.phase == Phase::Closed {
                return self.consumed(input.len(), Why::Closed(None), false);
            }
            match self.step(input, &mut pos, events, out) {
                Ok(true) => {}
                Ok(false) => {
                    let partial = pos < input.len() || self.data.is_some() || self.block.is_some();
                    return self.consumed(pos, Why::NeedMore, partial);
                }
                Err(fault) => {
                    let fault = match fault {
                        Fault::Stream(id, code, name) => self
                            .refuse_stream(id, code, name, events, out)
                            .and_then(|()| self.check_queue()),
                        fault => Err(fault),
                    };
                    if let Err(Fault::Connection(code, name) | Fault::Stream(_, code, name)) = fault
                    {
                        let error = self.fail(code, name, events, out);
                        return self.consumed(pos, Why::Closed(Some(error)), false);
                    }
                }
            }
        }
    }

    fn eof(&mut self, rest: usize, events: &mut Events) -> Option<ProtocolError> {
        let begun = rest > 0 || self.data.is_some() || self.block.is_some();
        let cut = self.phase != Phase::Closed && begun;
        self.cut_all(ResetReason::Disconnected, events);
        cut.then_some(ProtocolError {
            stream: None,
            status: 0,
            detail: "http2.truncated_frame",
        })
    }

    fn open(&mut self) -> Option<StreamId> {
        if self.room() == 0 {
            return None;
        }
        let id = match self.last_local {
            0 => 1,
            last => last + 2,
        };
        self.last_local = id;
        self.insert(id, 0);
        Some(id)
    }

    fn send_head(
        &mut self,
        stream: StreamId,
        head: &Head,
        end: bool,
        out: &mut Out,
    ) -> Result<(), SendError> {
        let place = self.streams.place(stream).ok_or(SendError::UnknownStream)?;
        let entry = self.streams.0[place];
        if self.phase == Phase::Closed || entry.state & (state::LOCAL_HEAD | state::LOCAL_END) != 0
        {
            return Err(SendError::UnknownStream);
        }
        let local = self.is_local(stream);
        if (head.kind == HeadKind::Request) != local || head.kind == HeadKind::Trailers {
            return Err(SendError::Unencodable("http2.invalid_head"));
        }
        let form = self.form(head, entry.is(state::EXTENDED))?;
        judge(head, form)?;
        self.start(out);
        let interim = head.kind == HeadKind::Response && head.status < 200 && form == Form::Plain;
        self.section(stream, head, form, end && !interim, out);
        if interim {
            return Ok(());
        }
        let mut bits = state::LOCAL_HEAD;
        if local {
            match form {
                Form::Connect => bits |= state::CONNECT,
                Form::Extended => bits |= state::EXTENDED,
                Form::Plain if head.method() == b"HEAD" => bits |= state::HEAD,
                Form::Plain => {}
            }
        }
        self.streams.0[place].state |= bits;
        if end {
            self.local_end(place, out);
        }
        Ok(())
    }

    fn send_data(
        &mut self,
        stream: StreamId,
        len: usize,
        end: bool,
        out: &mut Out,
    ) -> Result<usize, SendError> {
        let place = self.sending(stream)?;
        let entry = &mut self.streams.0[place];
        let window = entry.send_window.min(self.send_window).max(0) as usize;
        let accepted = len.min(window);
        entry.send_window -= accepted as i32;
        self.send_window -= accepted as i32;
        if accepted < len {
            entry.state |= state::BLOCKED;
        } else {
            entry.state &= !state::BLOCKED;
        }
        let ends = end && accepted == len;
        let most = MAX_PAYLOAD.min(self.peer_frame) as usize;
        let mut at = 0;
        while at < accepted || ends && at == accepted {
            let take = (accepted - at).min(most);
            let last = at + take == accepted;
            let flags = if last && ends { flag::END_STREAM } else { 0 };
            self.frame(out, take as u32, kind::DATA, flags, stream);
            self.counts.data_sent();
            out.payload(at..at + take);
            at += take;
            if last {
                break;
            }
        }
        if ends {
            self.local_end(place, out);
        }
        Ok(accepted)
    }

    fn sendable(&self, stream: StreamId) -> usize {
        let window = self.streams.place(stream).map_or(0, |place| {
            let window = self.streams.0[place].send_window;
            window.min(self.send_window)
        });
        window.max(0) as usize
    }

    fn send_trailers(
        &mut self,
        stream: StreamId,
        trailers: &Head,
        out: &mut Out,
    ) -> Result<(), SendError> {
        let place = self.sending(stream)?;
        if trailers.kind != HeadKind::Trailers {
            return Err(SendError::Unencodable("http2.invalid_head"));
        }
        judge(trailers, Form::Plain)?;
        let some = trailers.fields().next().is_some();
        if some {
            self.section(stream, trailers, Form::Plain, true, out);
        } else {
            self.frame(out, 0, kind::DATA, flag::END_STREAM, stream);
            self.counts.data_sent();
        }
        self.local_end(place, out);
        Ok(())
    }

    fn release(&mut self, stream: StreamId, n: usize, out: &mut Out) {
        let half = self.stream_window() / 2;
        let Some(entry) = self.streams.get_mut(stream) else {
            // It left the books, and what it held went back then.
            return;
        };
        // No more than what is on this side can be taken, whatever the caller says.
        let n = u32::try_from(n).map_or(entry.held, |n| n.min(entry.held));
        entry.held -= n;
        entry.taken = entry.taken.saturating_add(n);
        // Who sent beyond the window, not knowing it yet, can use credit only once it is open again.
        let opens = entry.receive_window.saturating_add_unsigned(entry.taken) >= half as i32;
        if entry.taken > half && opens && !entry.is(state::REMOTE_END) {
            let credit = std::mem::take(&mut entry.taken);
            entry.receive_window = entry.receive_window.saturating_add_unsigned(credit);
            self.window_update(out, stream, credit);
        }
        self.credit(n, out);
    }

    fn reset(&mut self, stream: StreamId, reason: ResetReason, out: &mut Out) {
        let Some(place) = self.streams.place(stream) else {
            return;
        };
        let entry = self.remove(place, out);
        let local = self.is_local(stream);
        if !local {
            // Ours to decide: it is not held against the peer.
            let _ = self.counts.ended(false, &self.settings);
        }
        // A stream that was only opened in our books is news to nobody.
        if self.phase == Phase::Closed || local && !entry.is(state::LOCAL_HEAD) {
            return;
        }
        let code = match reason {
            ResetReason::Refused => code::REFUSED_STREAM,
            // The answer is complete without the rest of the request (section 8.1).
            ResetReason::Cancel if !local && entry.is(state::LOCAL_END) => code::NO_ERROR,
            ResetReason::Cancel => code::CANCEL,
            ResetReason::Protocol => code::PROTOCOL_ERROR,
            ResetReason::Disconnected => code::INTERNAL_ERROR,
            ResetReason::Overload => code::ENHANCE_YOUR_CALM,
        };
        self.rst_stream(out, stream, code);
        if !entry.is(state::REMOTE_END) {
            self.remember_reset(stream);
        }
    }

    fn streams(&self) -> usize {
        self.streams.len()
    }

    fn room(&self) -> usize {
        let over = self.last_local >= MAX_31 - 1;
        if self.role == Role::Server
            || self.phase == Phase::Closed
            || self.leaving != Leaving::No
            || self.peer_leaving
            || over
        {
            return 0;
        }
        let most = self.peer_streams.min(self.settings.max_concurrent_streams);
        (most as usize).saturating_sub(self.streams.len())
    }

    fn finished(&self) -> bool {
        // A client that may open nothing has nothing left to do; a server still has requests to read.
        let left = match self.role {
            Role::Server => self.leaving == Leaving::Said,
            Role::Client => self.leaving != Leaving::No || self.peer_leaving,
        };
        self.phase == Phase::Closed || left && self.streams.len() == 0
    }

    fn go_away(&mut self, out: &mut Out) {
        if self.leaving != Leaving::No || self.phase == Phase::Closed {
            return;
        }
        if self.role == Role::Client || self.phase != Phase::Open {
            self.say_last(out);
            return;
        }
        // Requests may be on their way: the number is said when the peer knows (section 6.8).
        self.leaving = Leaving::Announced(None);
        self.goaway(out, MAX_31, code::NO_ERROR, "");
        self.ping(out, false, PING_LEAVING);
    }

    fn begin(&mut self, out: &mut Out) {
        if self.role == Role::Client && self.phase != Phase::Closed {
            self.start(out);
        }
    }

    fn takes_upgrades(&self) -> Option<bool> {
        self.settled.then_some(self.peer_connect)
    }

    fn mid_message(&self) -> bool {
        self.partial
    }

    fn written(&mut self) {
        self.queued = 0;
        self.queued_control = 0;
    }

    fn next_deadline(&self) -> Option<Millis> {
        let leave = match self.leaving {
            Leaving::Announced(until) => Some(until.unwrap_or(0)),
            Leaving::No | Leaving::Said => None,
        };
        let alive = self.settings.keepalive.map(|keep| {
            match (self.asked, self.heard) {
                (Some(asked), _) => asked.saturating_add(keep.timeout),
                // On the first call the clock starts.
                (None, None) => 0,
                (None, Some(heard)) => keep.due(heard),
            }
        });
        leave.into_iter().chain(alive).min()
    }

    fn on_deadline(&mut self, now: Millis, out: &mut Out) -> bool {
        if self.phase == Phase::Closed {
            return true;
        }
        match self.leaving {
            Leaving::Announced(None) => self.leaving = Leaving::Announced(Some(now + LEAVE_MS)),
            Leaving::Announced(Some(until)) if until <= now => self.say_last(out),
            _ => {}
        }
        let Some(keep) = self.settings.keepalive else {
            return true;
        };
        match (self.asked, self.heard) {
            (Some(asked), _) if asked + keep.timeout <= now => {
                self.phase = Phase::Closed;
                return false;
            }
            (None, None) => self.heard = Some(now),
            // Who has not begun cannot be asked yet.
            (None, Some(_)) if !self.started => self.heard = Some(now),
            (None, Some(heard)) if keep.due(heard) <= now => {
                self.asked = Some(now);
                self.ping(out, false, PING_ALIVE);
            }
            _ => {}
        }
        true
    }

    fn park(&self) -> Option<Compact> {
        let busy = self.partial || self.data.is_some() || self.block.is_some();
        if busy || self.phase == Phase::Closed {
            return None;
        }
        Some(super::park::pack(self))
    }
}
