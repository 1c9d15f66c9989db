//! What the peer says of itself: its settings, its leaving, and what it gives up (RFC 9113 section 6.4,
//! 6.5 and 6.8).

use super::connection::{Connection, Fault, Phase, Role};
use super::frame::{FrameHeader, MAX_31, MAX_PAYLOAD, code, flag, number, setting};
use super::stream::state;
use crate::codec::{Event, Events, Out, ResetReason, StreamId};

impl Connection {
    pub(super) fn reset_arrived(
        &mut self,
        id: StreamId,
        code: u32,
        events: &mut Events,
        out: &mut Out,
    ) -> Result<(), Fault> {
        if !self.was_open(id) {
            return Err(Fault::protocol("http2.idle_stream"));
        }
        events.note("http2.rx_reset");
        self.counts.reset().map_err(Fault::flood)?;
        let Some(place) = self.streams.place(id) else {
            return Ok(());
        };
        let stream = self.remove(place, out);
        let mut judged = Ok(());
        if !self.is_local(id) {
            let premature = !stream.is(state::LOCAL_HEAD);
            judged = self.counts.ended(premature, &self.settings);
        }
        // A server that has said all may do without the rest of the request (section 8.1).
        let answered = self.is_local(id) && stream.is(state::REMOTE_END);
        if !(answered && code == code::NO_ERROR) {
            let reason = match code {
                code::REFUSED_STREAM => ResetReason::Refused,
                code::NO_ERROR | code::CANCEL => ResetReason::Cancel,
                code::ENHANCE_YOUR_CALM => ResetReason::Overload,
                code::INTERNAL_ERROR => ResetReason::Disconnected,
                _ => ResetReason::Protocol,
            };
            events.list.push(Event::Reset { stream: id, reason });
        }
        judged.map_err(Fault::flood)
    }

    pub(super) fn settings_arrived(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        events: &mut Events,
        out: &mut Out,
    ) -> Result<(), Fault> {
        let size = Fault::Connection(code::FRAME_SIZE_ERROR, "http2.frame_size");
        if header.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(size);
            }
            if !std::mem::replace(&mut self.acknowledged, true) {
                let table = self.settings.header_table_size;
                self.decoder.set_max_table_size(table);
            }
            return Ok(());
        }
        let (list, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(size);
        }
        for &[a, b, c, d, e, f] in list {
            let value = u32::from_be_bytes([c, d, e, f]);
            self.setting(u16::from_be_bytes([a, b]), value, events)?;
        }
        if self.phase == Phase::Settings {
            self.phase = Phase::Open;
            self.settled = true;
            self.start(out);
            if self.role == Role::Client {
                events.list.push(Event::Settled);
            }
        }
        self.settings_ack(out);
        Ok(())
    }

    fn setting(&mut self, id: u16, value: u32, events: &mut Events) -> Result<(), Fault> {
        let invalid = Fault::protocol("http2.invalid_setting");
        match id {
            setting::HEADER_TABLE_SIZE => self.encoder.set_max_table_size(value),
            // Only a server could push, and a server must not be allowed to.
            setting::ENABLE_PUSH if value > 1 || value == 1 && self.role == Role::Client => {
                return Err(invalid);
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer_streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                let overrun = "http2.window_overflow";
                let overrun = Fault::Connection(code::FLOW_CONTROL_ERROR, overrun);
                if value > MAX_31 {
                    return Err(overrun);
                }
                let change = value as i32 - self.peer_window as i32;
                self.peer_window = value;
                for stream in &mut self.streams.0 {
                    stream.send_window = stream.send_window.checked_add(change).ok_or(overrun)?;
                }
                self.offer_window(events);
            }
            setting::MAX_FRAME_SIZE => {
                if !(MAX_PAYLOAD..1 << 24).contains(&value) {
                    return Err(invalid);
                }
                self.peer_frame = value;
            }
            setting::ENABLE_CONNECT_PROTOCOL => {
                if value > 1 || value == 0 && self.peer_connect {
                    return Err(invalid);
                }
                self.peer_connect = value == 1;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn goaway_arrived(
        &mut self,
        payload: &[u8],
        events: &mut Events,
        out: &mut Out,
    ) -> Result<(), Fault> {
        if payload.len() < 8 {
            return Err(Fault::Connection(
                code::FRAME_SIZE_ERROR,
                "http2.frame_size",
            ));
        }
        let last = number(payload) & MAX_31;
        self.peer_leaving = true;
        events.list.push(Event::GoAway { last });
        if self.role == Role::Client {
            // It did not look at these.
            while let Some(stream) = self.streams.0.last().filter(|stream| stream.id > last) {
                let stream = stream.id;
                events.list.push(Event::Reset {
                    stream,
                    reason: ResetReason::Refused,
                });
                self.remove(self.streams.len() - 1, out);
            }
        }
        Ok(())
    }
}
