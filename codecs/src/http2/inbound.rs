//! What each frame that comes in does (RFC 9113 section 6).

use super::connection::{Block, Connection, Fault, Leaving, PING_LEAVING, Phase, Role};
use super::fields::{Facts, Section, Wrong};
use super::frame::{
    FrameHeader, HEADER, MAX_31, MAX_PAYLOAD, PREFACE, code, flag, kind, number, unpadded,
};
use super::limits::MAX_CONTINUATIONS;
use super::stream::{UNDECLARED, state};
use crate::codec::{Event, Events, Out, StreamId};
use crate::head::{Head, HeadKind};

/// Bytes that the way through the proxy adds to a head, roughly, and what short blocks stand for.
const ADDED_BYTES: usize = 384;

/// What a header block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Request,
    Response,
    Trailers,
    /// Nobody wants it, but the table of HPACK must follow.
    Nothing,
    /// The same, and the stream is refused with this code.
    Refuse(u32, &'static str),
}

impl Connection {
    /// Takes the next element of the input. False: more is needed.
    pub(super) fn step(
        &mut self,
        input: &[u8],
        pos: &mut usize,
        events: &mut Events,
        out: &mut Out,
    ) -> Result<bool, Fault> {
        let rest = &input[*pos..];
        if self.phase == Phase::Preface {
            let have = rest.len().min(PREFACE.len());
            if rest[..have] != PREFACE[..have] {
                return Err(Fault::protocol("http2.bad_preface"));
            }
            if have < PREFACE.len() {
                return Ok(false);
            }
            *pos += have;
            self.phase = Phase::Settings;
            self.start(out);
            return Ok(true);
        }
        if let Some(data) = self.data {
            return Ok(self.data_bytes(data, pos, rest.len(), events, out));
        }
        let Some(header) = FrameHeader::read(rest) else {
            return Ok(false);
        };
        self.check_order(header)?;
        if header.kind == kind::DATA {
            let padded = header.has(flag::PADDED);
            let Some(&pad) = rest.get(HEADER).or_else(|| (!padded).then_some(&0)) else {
                return Ok(false);
            };
            let pad = if padded { Some(pad) } else { None };
            *pos += HEADER + usize::from(padded);
            self.data_header(header, pad, out)?;
            return Ok(true);
        }
        let end = HEADER + header.len as usize;
        let Some(payload) = rest.get(HEADER..end) else {
            return Ok(false);
        };
        *pos += end;
        self.frame_arrived(header, payload, events, out)?;
        self.check_queue()?;
        Ok(true)
    }

    /// A frame that cannot stand where it is.
    fn check_order(&self, header: FrameHeader) -> Result<(), Fault> {
        if header.len > MAX_PAYLOAD {
            return Err(Fault::Connection(
                code::FRAME_SIZE_ERROR,
                "http2.frame_too_large",
            ));
        }
        if self.phase == Phase::Settings && (header.kind != kind::SETTINGS || header.has(flag::ACK))
        {
            return Err(Fault::protocol("http2.settings_expected"));
        }
        let continues = header.kind == kind::CONTINUATION;
        match &self.block {
            Some(block) if !continues || block.stream != header.stream => {
                Err(Fault::protocol("http2.continuation_expected"))
            }
            None if continues => Err(Fault::protocol("http2.unexpected_continuation")),
            _ => Ok(()),
        }
    }

    fn frame_arrived(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        events: &mut Events,
        out: &mut Out,
    ) -> Result<(), Fault> {
        let fixed = match header.kind {
            kind::PRIORITY => Some(5),
            kind::RST_STREAM | kind::WINDOW_UPDATE => Some(4),
            kind::PING => Some(8),
            _ => None,
        };
        if fixed.is_some_and(|len| len != header.len) {
            // Of PRIORITY it would be its stream's fault, but nobody needs that to be told apart.
            return Err(Fault::Connection(
                code::FRAME_SIZE_ERROR,
                "http2.frame_size",
            ));
        }
        let of_connection = match header.kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY => Some(true),
            kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION => Some(false),
            _ => None,
        };
        if of_connection.is_some_and(|whole| whole != (header.stream == 0)) {
            return Err(Fault::protocol("http2.misplaced_frame"));
        }
        match header.kind {
            kind::HEADERS => self.headers(header, payload, events, out),
            kind::CONTINUATION => self.continuation(header, payload, events, out),
            kind::PRIORITY => {
                self.counts.priority(&self.settings).map_err(Fault::flood)?;
                depends(header.stream, payload)
            }
            kind::RST_STREAM => self.reset_arrived(header.stream, number(payload), events, out),
            kind::SETTINGS => self.settings_arrived(header, payload, events, out),
            kind::PUSH_PROMISE => Err(Fault::protocol("http2.unexpected_push")),
            kind::PING => {
                if !header.has(flag::ACK) {
                    let data = payload.first_chunk().copied().unwrap_or_default();
                    self.ping(out, true, data);
                } else if payload == PING_LEAVING && matches!(self.leaving, Leaving::Announced(_)) {
                    self.say_last(out);
                    events.note("http2.goaway_sent");
                }
                Ok(())
            }
            kind::GOAWAY => self.goaway_arrived(payload, events, out),
            kind::WINDOW_UPDATE => self.window_arrived(header.stream, payload, events),
            // Unknown types are ignored (section 4.1).
            _ => Ok(()),
        }
    }

    fn headers(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        events: &mut Events,
        out: &mut Out,
    ) -> Result<(), Fault> {
        let invalid = Fault::protocol("http2.invalid_padding");
        let mut fragment = unpadded(header, payload).ok_or(invalid)?;
        if header.has(flag::PRIORITY) {
            depends(header.stream, fragment)?;
            let short = Fault::Connection(code::FRAME_SIZE_ERROR, "http2.frame_size");
            fragment = fragment.get(5..).ok_or(short)?;
        }
        let end = header.has(flag::END_STREAM);
        let whole = header.has(flag::END_HEADERS);
        let empty = fragment.is_empty() && !end;
        let counted = self.counts.content(empty, &self.settings);
        counted.map_err(Fault::flood)?;
        if whole {
            return self.block_arrived(header.stream, end, fragment, events, out);
        }
        self.block = Some(Box::new(Block {
            stream: header.stream,
            end,
            frames: 0,
            bytes: fragment.to_vec(),
        }));
        Ok(())
    }

    fn continuation(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        events: &mut Events,
        out: &mut Out,
    ) -> Result<(), Fault> {
        let whole = header.has(flag::END_HEADERS);
        let counted = self
            .counts
            .content(payload.is_empty() && !whole, &self.settings);
        counted.map_err(Fault::flood)?;
        let most = self.settings.max_head_bytes;
        let Some(mut block) = self.block.take() else {
            return Ok(());
        };
        block.frames += 1;
        if block.frames > MAX_CONTINUATIONS || block.bytes.len() + payload.len() > most {
            return Err(Fault::flood("http2.continuation_flood"));
        }
        block.bytes.extend_from_slice(payload);
        if !whole {
            self.block = Some(block);
            return Ok(());
        }
        self.block_arrived(block.stream, block.end, &block.bytes, events, out)
    }

    /// What a block on this stream is, by what came before.
    fn purpose(&mut self, id: StreamId, end: bool) -> Result<Purpose, Fault> {
        let server = self.role == Role::Server;
        if id.is_multiple_of(2) {
            return Err(Fault::protocol("http2.invalid_stream_id"));
        }
        let Some(place) = self.streams.place(id) else {
            if server && id > self.last_remote {
                if self.leaving == Leaving::Said {
                    return Ok(Purpose::Nothing);
                }
                self.last_remote = id;
                if self.streams.len() >= self.settings.max_concurrent_streams as usize {
                    let refused = "http2.stream_refused";
                    return Ok(Purpose::Refuse(code::REFUSED_STREAM, refused));
                }
                return Ok(Purpose::Request);
            }
            if !self.was_open(id) {
                return Err(Fault::protocol("http2.idle_stream"));
            }
            if server && !self.recent.contains(&id) {
                let closed = "http2.stream_closed";
                return Err(Fault::Connection(code::STREAM_CLOSED, closed));
            }
            return Ok(Purpose::Nothing);
        };
        let stream = &self.streams.0[place];
        Ok(if stream.is(state::REMOTE_END) {
            Purpose::Refuse(code::STREAM_CLOSED, "http2.stream_closed")
        } else if !stream.is(state::REMOTE_HEAD) {
            Purpose::Response
        } else if !end {
            Purpose::Refuse(code::PROTOCOL_ERROR, "http2.trailers_without_end")
        } else {
            Purpose::Trailers
        })
    }

    /// A whole header block.
    fn block_arrived(
        &mut self,
        id: StreamId,
        end: bool,
        block: &[u8],
        events: &mut Events,
        out: &mut Out,
    ) -> Result<(), Fault> {
        let purpose = self.purpose(id, end)?;
        let mut head = events.take_head();
        // What indices and Huffman code stand for is about twice as long, and fields are added on the way.
        head.expect(ADDED_BYTES + 2 * block.len().min(self.settings.max_head_bytes / 2));
        let kind = match purpose {
            Purpose::Request => HeadKind::Request,
            Purpose::Response => HeadKind::Response,
            _ => HeadKind::Trailers,
        };
        let limits = (self.settings.max_head_bytes, self.settings.max_fields);
        let mut section = Section::new(&mut head, kind, limits);
        let wanted = !matches!(purpose, Purpose::Nothing | Purpose::Refuse(..));
        let decoded = self
            .decoder
            .decode_with(block, &mut events.scratch, |name, value, _| {
                if wanted {
                    section.field(name, value);
                }
            });
        let judged = section.finish(self.settings.allow_connect);
        let result = match (decoded, purpose) {
            (Err(error), _) => Err(Fault::Connection(code::COMPRESSION_ERROR, error.name())),
            (Ok(()), Purpose::Nothing) => Ok(false),
            (Ok(()), Purpose::Refuse(code, name)) => Err(Fault::Stream(id, code, name)),
            (Ok(()), _) => match judged {
                Ok(facts) => self.head_arrived(id, end, facts, &mut head, events),
                Err(Wrong::TooLarge(name)) => Err(Fault::Stream(id, code::ENHANCE_YOUR_CALM, name)),
                Err(Wrong::Malformed(name)) => Err(self.malformed(id, name)),
            },
        };
        if kind == HeadKind::Request && result.is_err() {
            self.counts.opened();
        }
        match result {
            Ok(true) => {
                let stream = id;
                events.list.push(match head.kind {
                    HeadKind::Trailers => Event::Trailers { stream, head },
                    HeadKind::Request | HeadKind::Response => Event::Head { stream, head, end },
                });
                if end {
                    self.remote_end(id, out);
                }
                Ok(())
            }
            Ok(false) => {
                events.give_head(head);
                Ok(())
            }
            Err(fault) => {
                events.give_head(head);
                Err(fault)
            }
        }
    }

    /// A message breaks the rules (section 8.1.1).
    pub(super) fn malformed(&self, id: StreamId, name: &'static str) -> Fault {
        if self.settings.stream_errors {
            Fault::Stream(id, code::PROTOCOL_ERROR, name)
        } else {
            Fault::protocol(name)
        }
    }

    /// A good head, before it is told. False: nobody is to be told.
    fn head_arrived(
        &mut self,
        id: StreamId,
        end: bool,
        facts: Facts,
        head: &mut Head,
        events: &mut Events,
    ) -> Result<bool, Fault> {
        let mut left = head.content_length.unwrap_or(UNDECLARED);
        match head.kind {
            HeadKind::Request => {
                if facts.extended {
                    // Its payload is another protocol's: no length says where it ends.
                    head.content_length = None;
                    left = UNDECLARED;
                }
                if end && left != UNDECLARED && left > 0 {
                    return Err(self.malformed(id, "http2.body_shorter_than_declared"));
                }
                let mut bits = state::REMOTE_HEAD;
                for (fact, bit) in [
                    (facts.head, state::HEAD),
                    (facts.connect, state::CONNECT),
                    (facts.extended, state::EXTENDED),
                ] {
                    if fact {
                        bits |= bit;
                    }
                }
                self.insert(id, bits);
                if let Some(stream) = self.streams.get_mut(id) {
                    stream.left = left;
                }
            }
            HeadKind::Response => return self.response_arrived(id, end, head, left),
            HeadKind::Trailers => {
                let left = self.streams.get_mut(id).map_or(0, |stream| stream.left);
                if left != UNDECLARED && left > 0 {
                    return Err(self.malformed(id, "http2.body_shorter_than_declared"));
                }
                events.note("http2.trailers");
            }
        }
        Ok(true)
    }

    fn response_arrived(
        &mut self,
        id: StreamId,
        end: bool,
        head: &mut Head,
        mut left: u64,
    ) -> Result<bool, Fault> {
        let status = head.status;
        let Some(place) = self.streams.place(id) else {
            return Ok(false);
        };
        let stream = self.streams.0[place];
        let interim = status < 200;
        if status == 101 || interim && end {
            return Err(self.malformed(id, "http2.invalid_status"));
        }
        if interim {
            if head.content_length.is_some() {
                return Err(self.malformed(id, "http2.content_length_not_allowed"));
            }
            return Ok(true);
        }
        let tunnel = stream.state & (state::CONNECT | state::EXTENDED) != 0 && status < 300;
        if tunnel {
            head.upgrade = true;
            head.content_length = None;
            left = UNDECLARED;
            if stream.is(state::EXTENDED) {
                head.status = 101;
                head.push(b"upgrade", b"websocket");
            }
        } else if stream.is(state::HEAD) || matches!(status, 204 | 304) {
            left = 0;
            if status == 204 {
                head.content_length = None;
            }
        } else if end && left != UNDECLARED && left > 0 {
            return Err(self.malformed(id, "http2.body_shorter_than_declared"));
        }
        let stream = &mut self.streams.0[place];
        stream.left = left;
        stream.state |= state::REMOTE_HEAD;
        Ok(true)
    }
}

/// Priorities are read past; only a stream that depends on itself says that its sender is broken.
fn depends(stream: StreamId, payload: &[u8]) -> Result<(), Fault> {
    if payload.len() >= 5 && number(payload) & MAX_31 == stream {
        return Err(Fault::protocol("http2.depends_on_itself"));
    }
    Ok(())
}
