//! Body bytes that come in, and the windows of both directions (RFC 9113 section 5.2, 6.1 and 6.9).

use super::connection::{Connection, Fault, OpenData, Role};
use super::frame::{FrameHeader, MAX_31, code, flag, number};
use super::settings::DEFAULT_WINDOW;
use super::stream::{UNDECLARED, state};
use crate::codec::{Event, Events, Out, StreamId};

impl Connection {
    /// The peer said all on a stream.
    pub(super) fn remote_end(&mut self, id: StreamId, out: &mut Out) {
        if let Some(place) = self.streams.place(id) {
            self.streams.0[place].state |= state::REMOTE_END;
            self.side_ended(place, out);
        }
    }

    pub(super) fn data_header(
        &mut self,
        header: FrameHeader,
        pad: Option<u8>,
        out: &mut Out,
    ) -> Result<(), Fault> {
        let id = header.stream;
        if id == 0 {
            return Err(Fault::protocol("http2.misplaced_frame"));
        }
        let padding = u32::from(pad.unwrap_or(0)) + u32::from(pad.is_some());
        let invalid = Fault::protocol("http2.invalid_padding");
        let left = header.len.checked_sub(padding).ok_or(invalid)?;
        let end = header.has(flag::END_STREAM);
        let counted = self.counts.content(left == 0 && !end, &self.settings);
        counted.map_err(Fault::flood)?;
        // Padding counts too (section 6.9.1).
        if i64::from(header.len) > i64::from(self.receive_window) {
            let overrun = "http2.connection_window_overrun";
            return Err(Fault::Connection(code::FLOW_CONTROL_ERROR, overrun));
        }
        self.receive_window -= header.len as i32;
        self.data = Some(OpenData {
            stream: id,
            left,
            padding: padding - u32::from(pad.is_some()),
            end,
            wanted: false,
        });
        let judged = self.judge_data(header, left, end);
        if judged != Ok(true) {
            self.credit(header.len, out);
            return judged.map(|_| ());
        }
        self.credit(padding, out);
        if let Some(data) = &mut self.data {
            data.wanted = true;
        }
        Ok(())
    }

    /// Whether a DATA frame is wanted; with its `left` bytes of content booked when it is.
    fn judge_data(&mut self, header: FrameHeader, left: u32, end: bool) -> Result<bool, Fault> {
        let id = header.stream;
        // Until the peer has read our settings its streams begin with the window everybody has.
        let slack = if self.acknowledged {
            0
        } else {
            DEFAULT_WINDOW.saturating_sub(self.stream_window())
        };
        let Some(place) = self.streams.place(id) else {
            if !self.was_open(id) {
                return Err(Fault::protocol("http2.idle_stream"));
            }
            if self.role == Role::Client || self.recent.contains(&id) {
                return Ok(false);
            }
            let closed = "http2.stream_closed";
            return Err(Fault::Connection(code::STREAM_CLOSED, closed));
        };
        let stream = &mut self.streams.0[place];
        if stream.is(state::REMOTE_END) {
            let closed = "http2.stream_closed";
            return Err(Fault::Stream(id, code::STREAM_CLOSED, closed));
        }
        if !stream.is(state::REMOTE_HEAD) {
            return Err(Fault::Stream(
                id,
                code::PROTOCOL_ERROR,
                "http2.data_before_head",
            ));
        }
        if i64::from(header.len) > i64::from(stream.receive_window) + i64::from(slack) {
            let overrun = "http2.stream_window_overrun";
            return Err(Fault::Stream(id, code::FLOW_CONTROL_ERROR, overrun));
        }
        stream.receive_window -= header.len as i32;
        if stream.left != UNDECLARED {
            let longer = u64::from(left) > stream.left;
            if longer || end && u64::from(left) < stream.left {
                return Err(self.malformed(
                    id,
                    if longer {
                        "http2.body_longer_than_declared"
                    } else {
                        "http2.body_shorter_than_declared"
                    },
                ));
            }
            stream.left -= u64::from(left);
        }
        stream.held += left;
        // Padding is given back with the next credit.
        stream.taken += header.len - left;
        Ok(true)
    }

    /// Passes on what there is of the open DATA frame. False: more is needed.
    pub(super) fn data_bytes(
        &mut self,
        mut data: OpenData,
        pos: &mut usize,
        have: usize,
        events: &mut Events,
        out: &mut Out,
    ) -> bool {
        let take = (data.left as usize).min(have);
        let ends = data.left as usize == take && data.end;
        if data.wanted && (take > 0 || ends) {
            events.list.push(Event::Data {
                stream: data.stream,
                range: *pos..*pos + take,
                end: ends,
            });
        }
        data.left -= take as u32;
        *pos += take;
        let skip = if data.left == 0 {
            (data.padding as usize).min(have - take)
        } else {
            0
        };
        data.padding -= skip as u32;
        *pos += skip;
        if ends {
            if data.wanted {
                self.remote_end(data.stream, out);
            }
            // Said once, however the padding is cut.
            data.end = false;
        }
        let over = data.left == 0 && data.padding == 0;
        self.data = if over { None } else { Some(data) };
        over
    }

    pub(super) fn window_arrived(
        &mut self,
        id: StreamId,
        payload: &[u8],
        events: &mut Events,
    ) -> Result<(), Fault> {
        let counted = self.counts.window_update(&self.settings);
        counted.map_err(Fault::flood)?;
        let credit = (number(payload) & MAX_31) as i32;
        let overflow = "http2.window_overflow";
        if id == 0 {
            if credit == 0 {
                return Err(Fault::protocol("http2.window_update_of_zero"));
            }
            let overflow = Fault::Connection(code::FLOW_CONTROL_ERROR, overflow);
            self.send_window = self.send_window.checked_add(credit).ok_or(overflow)?;
            self.offer_window(events);
            return Ok(());
        }
        let open = self.send_window > 0;
        let Some(stream) = self.streams.get_mut(id) else {
            return if self.was_open(id) {
                Ok(())
            } else {
                Err(Fault::protocol("http2.idle_stream"))
            };
        };
        if credit == 0 {
            let zero = "http2.window_update_of_zero";
            return Err(Fault::Stream(id, code::PROTOCOL_ERROR, zero));
        }
        let overflow = Fault::Stream(id, code::FLOW_CONTROL_ERROR, overflow);
        stream.send_window = stream.send_window.checked_add(credit).ok_or(overflow)?;
        if open && stream.send_window > 0 && stream.is(state::BLOCKED) {
            stream.state &= !state::BLOCKED;
            events.list.push(Event::Writable { stream: id });
        }
        Ok(())
    }

    /// There is room on the connection: whoever waits for it is told, each time beginning with the one
    /// after the last that was first.
    pub(super) fn offer_window(&mut self, events: &mut Events) {
        if self.send_window <= 0 {
            return;
        }
        let turn = self.turn;
        let from = self.streams.0.partition_point(|stream| stream.id <= turn);
        let (before, after) = self.streams.0.split_at_mut(from);
        let mut first = None;
        for stream in after.iter_mut().chain(before) {
            if stream.is(state::BLOCKED) && stream.send_window > 0 {
                stream.state &= !state::BLOCKED;
                events.list.push(Event::Writable { stream: stream.id });
                first = first.or(Some(stream.id));
            }
        }
        self.turn = first.unwrap_or(turn);
    }
}
