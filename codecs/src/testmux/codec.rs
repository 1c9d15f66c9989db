//! The multiplexer behind the codec interface: what comes in is cut into frames, what goes out becomes some.

use super::Role;
use super::frame::{Flags, FrameHeader, HEADER, Kind, write_head};
use super::mux::{Mux, error, is_interim};
use crate::codec::{
    Codec, Compact, Consumed, Events, Millis, Out, ProtocolError, ResetReason, SendError, Shape,
    StreamId, Why,
};
use crate::head::{Head, HeadKind};

impl Codec for Mux {
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
            self.asked = false;
        }
        let mut pos = 0;
        loop {
            if self.closed {
                return self.consumed(input.len(), Why::Closed(None), false);
            }
            let rest = &input[pos..];
            if let Some(data) = self.data {
                if !self.on_data(data, &mut pos, rest.len(), events) {
                    return self.consumed(pos, Why::NeedMore, true);
                }
                continue;
            }
            let header = match FrameHeader::read(rest) {
                None => return self.consumed(pos, Why::NeedMore, !rest.is_empty()),
                Some(header) => header.ok_or(error(None, "testmux.frame_type")),
            };
            let result = header.and_then(|header| {
                self.check(header)?;
                if header.kind == Kind::Data {
                    self.on_data_header(header)?;
                    return Ok(Some(HEADER));
                }
                let end = HEADER + header.len as usize;
                let Some(payload) = rest.get(HEADER..end) else {
                    return Ok(None);
                };
                self.on_frame(header, payload, events, out)?;
                Ok(Some(end))
            });
            match result {
                Ok(Some(bytes)) => pos += bytes,
                Ok(None) => return self.consumed(pos, Why::NeedMore, true),
                Err(error) => {
                    self.cut_all(events);
                    return self.consumed(pos, Why::Closed(Some(error)), false);
                }
            }
        }
    }

    fn eof(&mut self, rest: usize, events: &mut Events) -> Option<ProtocolError> {
        let cut = !self.closed && (rest > 0 || self.data.is_some());
        self.cut_all(events);
        self.data = None;
        cut.then_some(error(None, "testmux.truncated_frame"))
    }

    fn open(&mut self) -> Option<StreamId> {
        if self.room() == 0 {
            return None;
        }
        let id = Self::next_id(self.role, self.last_local)?;
        self.last_local = id;
        self.insert(id);
        Some(id)
    }

    fn send_head(
        &mut self,
        stream: StreamId,
        head: &Head,
        end: bool,
        out: &mut Out,
    ) -> Result<(), SendError> {
        let place = self.place(stream).ok_or(SendError::UnknownStream)?;
        let state = self.streams[place].state;
        if self.closed || state.local_head || state.local_end {
            return Err(SendError::UnknownStream);
        }
        let start = out.bytes.len();
        let local = self.is_local(stream);
        let one_way = head.one_way && local;
        let mut flags = Flags::default();
        if end {
            flags.0 |= Flags::END.0;
        }
        if one_way {
            flags.0 |= Flags::ONE_WAY.0;
        }
        Self::frame(out, Kind::Head, flags, stream, &[]);
        let written = write_head(head, &mut out.bytes);
        let len = out.bytes.len() - start - HEADER;
        let fits = len <= self.settings.max_payload;
        if written.is_err() || !fits || (head.kind == HeadKind::Request) != local {
            out.bytes.truncate(start);
            return Err(SendError::Unencodable("testmux.invalid_head"));
        }
        out.bytes[start..start + 4].copy_from_slice(&(len as u32).to_be_bytes());
        let interim = is_interim(head);
        let state = &mut self.streams[place].state;
        state.local_head = !interim;
        if one_way {
            state.one_way = true;
            state.remote_end = true;
        }
        if end {
            state.local_end = true;
            self.remove_if_over(place);
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
        let sender = &mut self.streams[place];
        let accepted = len.min(sender.send_window as usize);
        sender.send_window -= accepted as u32;
        sender.state.blocked = accepted < len;
        let ends = end && accepted == len;
        let mut at = 0;
        loop {
            let take = (accepted - at).min(self.settings.max_payload);
            let last = at + take == accepted;
            if take > 0 || (last && ends) {
                FrameHeader {
                    len: take as u32,
                    kind: Kind::Data,
                    flags: if last && ends { Flags::END } else { Flags(0) },
                    stream,
                }
                .write(&mut out.bytes);
                out.payload(at..at + take);
            }
            at += take;
            if last {
                break;
            }
        }
        if ends {
            sender.state.local_end = true;
            self.remove_if_over(place);
        }
        Ok(accepted)
    }

    fn sendable(&self, stream: StreamId) -> usize {
        self.place(stream)
            .map_or(0, |place| self.streams[place].send_window as usize)
    }

    fn send_trailers(
        &mut self,
        stream: StreamId,
        trailers: &Head,
        out: &mut Out,
    ) -> Result<(), SendError> {
        let place = self.sending(stream)?;
        let start = out.bytes.len();
        Self::frame(out, Kind::Trailers, Flags::END, stream, &[]);
        let written = write_head(trailers, &mut out.bytes);
        let len = out.bytes.len() - start - HEADER;
        let fits = len <= self.settings.max_payload;
        if written.is_err() || !fits || trailers.kind != HeadKind::Trailers {
            out.bytes.truncate(start);
            return Err(SendError::Unencodable("testmux.invalid_trailers"));
        }
        out.bytes[start..start + 4].copy_from_slice(&(len as u32).to_be_bytes());
        self.streams[place].state.local_end = true;
        self.remove_if_over(place);
        Ok(())
    }

    fn release(&mut self, stream: StreamId, n: usize, out: &mut Out) {
        let half = self.settings.window / 2;
        let Some(place) = self.place(stream) else {
            return;
        };
        let receiver = &mut self.streams[place];
        if receiver.state.remote_end {
            return;
        }
        // No more than what is on this side can be taken, whatever the caller says.
        let held = self.settings.window - receiver.receive_window - receiver.taken;
        receiver.taken += u32::try_from(n).map_or(held, |n| n.min(held));
        if receiver.taken > half {
            let credit = receiver.taken;
            receiver.taken = 0;
            receiver.receive_window += credit;
            Self::frame(
                out,
                Kind::Window,
                Flags::default(),
                stream,
                &credit.to_be_bytes(),
            );
        }
    }

    fn reset(&mut self, stream: StreamId, reason: ResetReason, out: &mut Out) {
        if let Some(place) = self.place(stream) {
            let sent = self.streams[place].state.local_head || !self.is_local(stream);
            self.streams.remove(place);
            // A stream that was only opened in our books is news to nobody.
            if sent && !self.closed {
                Self::send_reset(out, stream, reason);
            }
        }
    }

    fn streams(&self) -> usize {
        self.streams.len()
    }

    fn room(&self) -> usize {
        if self.closed || self.going_away || self.peer_going_away {
            return 0;
        }
        self.settings.max_streams.saturating_sub(self.opened(true))
    }

    fn finished(&self) -> bool {
        // A client that may open nothing has nothing left to do; a server still has requests to read.
        let leaving = self.going_away || (self.peer_going_away && self.role == Role::Client);
        self.closed || (leaving && self.streams.is_empty())
    }

    fn go_away(&mut self, out: &mut Out) {
        if !self.going_away && !self.closed {
            self.going_away = true;
            Self::frame(out, Kind::GoAway, Flags::default(), self.last_remote, &[]);
        }
    }

    fn mid_message(&self) -> bool {
        self.partial
    }

    fn next_deadline(&self) -> Option<Millis> {
        let interval = self.settings.heartbeat?;
        Some(self.heard.map_or(0, |heard| heard.saturating_add(interval)))
    }

    fn on_deadline(&mut self, now: Millis, out: &mut Out) -> bool {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return true;
        }
        // On the first call the clock starts.
        if self.heard.replace(now).is_none() {
            return true;
        }
        if self.asked {
            self.closed = true;
            return false;
        }
        self.asked = true;
        Self::frame(out, Kind::Heartbeat, Flags::default(), 0, &[]);
        true
    }

    fn park(&self) -> Option<Compact> {
        if self.partial || self.closed {
            return None;
        }
        Some(super::park::pack(self))
    }
}
