//! Streams, their windows, and what each frame that comes in does to them.

use super::frame::{Flags, FrameHeader, Kind, read_head};
use super::{MAX_PAYLOAD, Role, Settings};
use crate::codec::{
    Consumed, Event, Events, Millis, Out, ProtocolError, ResetReason, SendError, StreamId, Why,
};
use crate::head::{Head, HeadKind};

/// One open stream. A side that ended sends no more messages, but credit still comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// Bytes we may still send.
    pub(super) send_window: u32,
    /// Bytes the peer may still send.
    pub(super) receive_window: u32,
    /// Bytes taken by the other side of the proxy for which no credit went back yet.
    pub(super) taken: u32,
    pub(super) state: StreamState,
}

/// Facts about a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamState {
    pub(super) one_way: bool,
    /// Our final head went out.
    pub(super) local_head: bool,
    pub(super) local_end: bool,
    /// The peer's final head came in.
    pub(super) remote_head: bool,
    pub(super) remote_end: bool,
    /// A send took less than offered.
    pub(super) blocked: bool,
}

impl Stream {
    fn over(&self) -> bool {
        self.state.local_end && self.state.remote_end
    }
}

/// The rest of a DATA frame whose header was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenData {
    stream: StreamId,
    left: u32,
    end: bool,
}

/// One connection of the test protocol.
#[derive(Debug)]
pub struct Mux {
    pub(super) role: Role,
    pub(super) settings: Settings,
    /// Open streams, by rising number.
    pub(super) streams: Vec<Stream>,
    /// The last stream this side opened.
    pub(super) last_local: StreamId,
    /// The last stream the peer opened.
    pub(super) last_remote: StreamId,
    pub(super) data: Option<OpenData>,
    /// The last `decode` left an unfinished frame with its caller.
    pub(super) partial: bool,
    pub(super) going_away: bool,
    pub(super) peer_going_away: bool,
    pub(super) closed: bool,
    /// When the peer was last heard of, or asked; `None` before any call that knew the time.
    pub(super) heard: Option<Millis>,
    /// A heartbeat is on its way.
    pub(super) asked: bool,
}

pub(super) const fn error(stream: Option<StreamId>, detail: &'static str) -> ProtocolError {
    ProtocolError {
        stream,
        status: 0,
        detail,
    }
}

/// A head that another one follows.
pub(super) fn is_interim(head: &Head) -> bool {
    head.kind == HeadKind::Response && (100..200).contains(&head.status) && head.status != 101
}

impl Mux {
    /// A codec for a fresh connection.
    #[must_use]
    pub fn new(role: Role, mut settings: Settings) -> Self {
        settings.max_payload = settings.max_payload.clamp(1, MAX_PAYLOAD);
        Self {
            role,
            settings,
            streams: Vec::new(),
            last_local: 0,
            last_remote: 0,
            data: None,
            partial: false,
            going_away: false,
            peer_going_away: false,
            closed: false,
            heard: None,
            asked: false,
        }
    }

    /// The number after `last` that `role` may open; `None` when they are used up.
    pub(super) fn next_id(role: Role, last: StreamId) -> Option<StreamId> {
        match (role, last) {
            (Role::Client, 0) => Some(1),
            (Role::Server, 0) => Some(2),
            (_, last) => last.checked_add(2),
        }
    }

    pub(super) fn is_local(&self, id: StreamId) -> bool {
        (id % 2 == 1) == (self.role == Role::Client)
    }

    /// Open streams that this side opened, or that the other one did. The two have a limit each: with
    /// one for both, streams that cross on the way would be refused though neither side was at fault.
    pub(super) fn opened(&self, local: bool) -> usize {
        let ids = self.streams.iter().map(|stream| stream.id);
        ids.filter(|id| self.is_local(*id) == local).count()
    }

    pub(super) fn place(&self, id: StreamId) -> Option<usize> {
        self.streams
            .binary_search_by_key(&id, |stream| stream.id)
            .ok()
    }

    pub(super) fn insert(&mut self, id: StreamId) -> &mut Stream {
        let place = self.streams.partition_point(|stream| stream.id < id);
        let window = self.settings.window;
        self.streams.insert(
            place,
            Stream {
                id,
                send_window: window,
                receive_window: window,
                taken: 0,
                state: StreamState::default(),
            },
        );
        &mut self.streams[place]
    }

    pub(super) fn remove_if_over(&mut self, place: usize) {
        if self.streams[place].over() {
            self.streams.remove(place);
        }
    }

    pub(super) fn frame(out: &mut Out, kind: Kind, flags: Flags, stream: StreamId, payload: &[u8]) {
        let header = FrameHeader {
            len: payload.len() as u32,
            kind,
            flags,
            stream,
        };
        header.write(&mut out.bytes);
        out.bytes.extend_from_slice(payload);
    }

    pub(super) fn send_reset(out: &mut Out, stream: StreamId, reason: ResetReason) {
        let code = match reason {
            ResetReason::Refused => 1,
            ResetReason::Cancel => 2,
            ResetReason::Protocol => 3,
            ResetReason::Disconnected => 4,
            ResetReason::Overload => 5,
        };
        Self::frame(out, Kind::Reset, Flags::default(), stream, &[code]);
    }

    /// A frame header that cannot stand for itself.
    pub(super) fn check(&self, header: FrameHeader) -> Result<(), ProtocolError> {
        let fixed = match header.kind {
            Kind::Head | Kind::Data | Kind::Trailers => None,
            Kind::Reset => Some(1),
            Kind::Window => Some(4),
            Kind::Heartbeat | Kind::GoAway => Some(0),
        };
        if header.len as usize > self.settings.max_payload
            || fixed.is_some_and(|len| len != header.len)
        {
            return Err(error(None, "testmux.frame_size"));
        }
        let misplaced = match header.kind {
            Kind::Heartbeat => header.stream != 0,
            Kind::GoAway => false,
            _ => header.stream == 0,
        };
        if misplaced {
            return Err(error(None, "testmux.stream_number"));
        }
        Ok(())
    }

    /// A stream that is not open: was it ever? Frames for one that was may still be on their way.
    fn unknown(&self, id: StreamId) -> Result<(), ProtocolError> {
        let last = if self.is_local(id) {
            self.last_local
        } else {
            self.last_remote
        };
        if id <= last {
            Ok(())
        } else {
            Err(error(None, "testmux.unknown_stream"))
        }
    }

    fn on_head(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        events: &mut Events,
        out: &mut Out,
    ) -> Result<(), ProtocolError> {
        let id = header.stream;
        let mut head = events.take_head();
        if read_head(payload, &mut head).is_none() {
            events.give_head(head);
            return Err(error(None, "testmux.malformed_head"));
        }
        let end = header.flags.has(Flags::END);
        let result = match (self.place(id), head.kind) {
            (_, HeadKind::Trailers) => Err(error(None, "testmux.unexpected_head")),
            (None, HeadKind::Request) if !self.is_local(id) && id > self.last_remote => {
                self.last_remote = id;
                if self.going_away || self.opened(false) >= self.settings.max_streams {
                    Self::send_reset(out, id, ResetReason::Refused);
                    Ok(false)
                } else {
                    let one_way = header.flags.has(Flags::ONE_WAY);
                    head.one_way = one_way;
                    let stream = self.insert(id);
                    stream.state.one_way = one_way;
                    stream.state.local_end = one_way;
                    stream.state.remote_head = true;
                    Ok(true)
                }
            }
            (Some(place), HeadKind::Response) if self.is_local(id) => {
                let stream = &mut self.streams[place];
                let interim = is_interim(&head);
                if stream.state.remote_head || stream.state.one_way || (interim && end) {
                    Err(error(None, "testmux.unexpected_head"))
                } else {
                    stream.state.remote_head = !interim;
                    Ok(true)
                }
            }
            (Some(_), _) => Err(error(None, "testmux.unexpected_head")),
            (None, _) => self.unknown(id).map(|()| false),
        };
        match result {
            Ok(true) => {
                events.list.push(Event::Head {
                    stream: id,
                    head,
                    end,
                });
                if end {
                    self.on_end(id);
                }
                Ok(())
            }
            Ok(false) => {
                events.give_head(head);
                Ok(())
            }
            Err(error) => {
                events.give_head(head);
                Err(error)
            }
        }
    }

    fn on_end(&mut self, id: StreamId) {
        if let Some(place) = self.place(id) {
            self.streams[place].state.remote_end = true;
            self.remove_if_over(place);
        }
    }

    /// Whether the peer may send body on this stream. False: it is over, drop what comes.
    fn may_receive(&self, id: StreamId) -> Result<bool, ProtocolError> {
        let Some(place) = self.place(id) else {
            return self.unknown(id).map(|()| false);
        };
        let state = self.streams[place].state;
        if !state.remote_head || state.remote_end {
            return Err(error(None, "testmux.unexpected_data"));
        }
        Ok(true)
    }

    pub(super) fn on_data_header(&mut self, header: FrameHeader) -> Result<(), ProtocolError> {
        if self.may_receive(header.stream)?
            && let Some(place) = self.place(header.stream)
        {
            let window = &mut self.streams[place].receive_window;
            *window = window
                .checked_sub(header.len)
                .ok_or(error(None, "testmux.window_overrun"))?;
        }
        self.data = Some(OpenData {
            stream: header.stream,
            left: header.len,
            end: header.flags.has(Flags::END),
        });
        Ok(())
    }

    /// Passes on what there is of the open DATA frame. False: more is needed.
    pub(super) fn on_data(
        &mut self,
        mut data: OpenData,
        pos: &mut usize,
        have: usize,
        events: &mut Events,
    ) -> bool {
        let take = (data.left as usize).min(have);
        data.left -= take as u32;
        let ended = data.left == 0;
        let end = ended && data.end;
        let range = *pos..*pos + take;
        *pos += take;
        // The stream may have been reset since the frame began.
        if (take > 0 || end) && self.place(data.stream).is_some() {
            events.list.push(Event::Data {
                stream: data.stream,
                range,
                end,
            });
            if end {
                self.on_end(data.stream);
            }
        }
        self.data = (!ended).then_some(data);
        ended
    }

    pub(super) fn on_frame(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        events: &mut Events,
        out: &mut Out,
    ) -> Result<(), ProtocolError> {
        let id = header.stream;
        match header.kind {
            Kind::Head => self.on_head(header, payload, events, out)?,
            // DATA is passed on before it is complete.
            Kind::Data => {}
            Kind::Trailers => {
                if !self.may_receive(id)? {
                    return Ok(());
                }
                let mut head = events.take_head();
                let parsed = read_head(payload, &mut head);
                if parsed.is_none() || head.kind != HeadKind::Trailers {
                    events.give_head(head);
                    return Err(error(None, "testmux.malformed_head"));
                }
                events.list.push(Event::Trailers { stream: id, head });
                self.on_end(id);
            }
            Kind::Reset => match self.place(id) {
                Some(place) => {
                    self.streams.remove(place);
                    let reason = match payload.first() {
                        Some(1) => ResetReason::Refused,
                        Some(3) => ResetReason::Protocol,
                        Some(4) => ResetReason::Disconnected,
                        Some(5) => ResetReason::Overload,
                        _ => ResetReason::Cancel,
                    };
                    events.list.push(Event::Reset { stream: id, reason });
                }
                None => self.unknown(id)?,
            },
            Kind::Window => {
                let credit = payload.try_into().map_or(0, u32::from_be_bytes);
                match self.place(id) {
                    Some(place) => {
                        let stream = &mut self.streams[place];
                        let overrun = error(None, "testmux.window_overrun");
                        stream.send_window =
                            stream.send_window.checked_add(credit).ok_or(overrun)?;
                        if stream.state.blocked && stream.send_window > 0 {
                            stream.state.blocked = false;
                            events.list.push(Event::Writable { stream: id });
                        }
                    }
                    None => self.unknown(id)?,
                }
            }
            Kind::Heartbeat => {
                if header.flags.has(Flags::ACK) {
                    self.asked = false;
                } else {
                    Self::frame(out, Kind::Heartbeat, Flags::ACK, 0, &[]);
                }
            }
            Kind::GoAway => {
                self.peer_going_away = true;
                events.list.push(Event::GoAway { last: id });
            }
        }
        Ok(())
    }

    pub(super) fn consumed(&mut self, bytes: usize, why: Why, partial: bool) -> Consumed {
        self.partial = partial;
        Consumed { bytes, why }
    }

    /// Nothing more will come: every stream still open is cut short.
    pub(super) fn cut_all(&mut self, events: &mut Events) {
        for stream in self.streams.drain(..) {
            events.list.push(Event::Reset {
                stream: stream.id,
                reason: ResetReason::Disconnected,
            });
        }
        self.closed = true;
    }

    /// The stream, when this side may send body or trailers on it.
    pub(super) fn sending(&mut self, id: StreamId) -> Result<usize, SendError> {
        let place = self.place(id).ok_or(SendError::UnknownStream)?;
        let state = self.streams[place].state;
        if self.closed || state.local_end || !state.local_head {
            return Err(SendError::UnknownStream);
        }
        Ok(place)
    }
}
