//! The side that sends requests and reads responses.

use std::sync::Arc;

use super::body::{Body, Source};
use super::chars::{is_authority, is_target, is_token};
use super::compact::{self, State};
use super::encode::{Options, Sending, Writer};
use super::scan::{Scan, section_end};
use super::{Refusal, Settings, parse};
use crate::codec::{
    Codec, Compact, Consumed, Event, Events, Millis, Out, ProtocolError, ResetReason, SendError,
    Shape, StreamId, Why,
};
use crate::head::Head;

/// What is read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing: no request was sent, so every byte is one too many.
    Idle,
    /// A response head.
    Head,
    /// The body of the response.
    Body,
    /// The connection left HTTP.
    Upgraded,
    /// Nothing any more.
    Closed,
}

/// One HTTP/1 connection, client side.
#[derive(Debug)]
pub struct Client {
    settings: Arc<Settings>,
    body: Body,
    sending: Sending,
    stream: StreamId,
    /// How far an unfinished head or trailer section was looked at.
    scanned: u32,
    phase: Phase,
    /// The last `decode` left an unfinished element with its caller.
    partial: bool,
    flags: Flags,
}

/// Facts about the current exchange and the connection.
#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    head: bool,
    connect: bool,
    upgrade: bool,
    /// No exchange follows this one.
    close: bool,
    /// The exchange left HTTP and stays a stream.
    raw: bool,
}

impl Flags {
    fn pack(self) -> u8 {
        [self.head, self.connect, self.upgrade, self.close, self.raw]
            .into_iter()
            .rev()
            .fold(0, |bits, flag| bits << 1 | u8::from(flag))
    }

    fn unpack(bits: u8) -> Self {
        let flag = |place: u8| bits >> place & 1 == 1;
        Self {
            head: flag(0),
            connect: flag(1),
            upgrade: flag(2),
            close: flag(3),
            raw: flag(4),
        }
    }
}

impl Client {
    /// A codec for a connection that was just made.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            body: Body::Done,
            sending: Sending::Idle,
            stream: 0,
            scanned: 0,
            phase: Phase::Idle,
            partial: false,
            flags: Flags::default(),
        }
    }

    /// A codec for a connection that was parked. What [`Codec::park`] gave is always understood;
    /// anything else gives a codec that is [`Codec::finished`].
    #[must_use]
    pub fn unpark(settings: Arc<Settings>, compact: &[u8]) -> Self {
        let mut client = Self::new(settings);
        if compact.is_empty() {
            return client;
        }
        client.phase = Phase::Closed;
        if let Some(state) = compact::unpack(compact) {
            client.phase = match state.phase {
                0 => Phase::Idle,
                1 => Phase::Head,
                2 => Phase::Body,
                3 => Phase::Upgraded,
                _ => Phase::Closed,
            };
            client.flags = Flags::unpack(state.flags);
            client.stream = state.stream;
            client.body = state.body;
            client.sending = state.sending;
        }
        client
    }

    fn consumed(&mut self, bytes: usize, why: Why, partial: bool) -> Consumed {
        self.partial = partial;
        Consumed { bytes, why }
    }

    fn refuse(&mut self, bytes: usize, detail: &'static str) -> Consumed {
        let error = ProtocolError {
            stream: (self.streams() > 0).then_some(self.stream),
            status: 502,
            detail,
        };
        self.abort();
        self.consumed(bytes, Why::Closed(Some(error)), false)
    }

    fn abort(&mut self) {
        self.phase = Phase::Closed;
        self.sending = Sending::Done;
    }

    /// Reads a head at the start of `rest`; `None` when it is not all there.
    fn head(&mut self, rest: &[u8], events: &mut Events) -> Result<Option<usize>, Refusal> {
        let max = self.settings.max_head_bytes;
        let end = match section_end(rest, self.scanned as usize, max) {
            Scan::Complete(end) => end,
            Scan::Partial => {
                self.scanned = rest.len() as u32;
                return Ok(None);
            }
            Scan::BareLineFeed => return Err(Refusal::new(502, "http1.bare_line_feed")),
            Scan::TooLong => return Err(Refusal::new(502, "http1.headers_too_large")),
        };
        self.scanned = 0;
        let asked = parse::Asked {
            head: self.flags.head,
            connect: self.flags.connect,
            upgrade: self.flags.upgrade,
        };
        let mut head = events.take_head();
        let message = match parse::response(&rest[..end], &self.settings, asked, &mut head) {
            Ok(message) => message,
            Err(refusal) => {
                events.give_head(head);
                return Err(refusal);
            }
        };
        let status = head.status;
        if head.upgrade && self.sending != Sending::Done {
            // The tunnel would begin in the middle of the request.
            events.give_head(head);
            return Err(Refusal::new(502, "http1.unexpected_switch"));
        }
        let interim = status < 200 && status != 101;
        let ended = message.body == Body::Done && !interim && !head.upgrade;
        self.flags.close |= !message.keep;
        self.body = message.body;
        if head.upgrade {
            self.phase = Phase::Upgraded;
        } else if !interim {
            self.phase = Phase::Body;
        }
        events.list.push(Event::Head {
            stream: self.stream,
            head,
            end: ended,
        });
        if ended {
            self.response_ended();
        }
        Ok(Some(end))
    }

    /// The response is complete. A request that is not will never be: the server answered without it,
    /// and nobody can say what it makes of the rest.
    fn response_ended(&mut self) {
        self.phase = if self.flags.close || self.sending != Sending::Done {
            self.sending = Sending::Done;
            Phase::Closed
        } else {
            self.sending = Sending::Idle;
            Phase::Idle
        };
    }

    fn encode_head(
        &mut self,
        head: &Head,
        end: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<Sending, SendError> {
        let method = head.method();
        let connect = method == b"CONNECT";
        let authority = head.authority();
        let target = if connect { authority } else { head.path() };
        if !is_token(method) {
            return Err(SendError::Unencodable("http1.invalid_method"));
        }
        let form = target.first() == Some(&b'/') || target == b"*" || connect;
        if !form || !is_target(target) {
            return Err(SendError::Unencodable("http1.invalid_url"));
        }
        if !is_authority(authority) {
            return Err(SendError::Unencodable("http1.invalid_host"));
        }
        bytes.extend_from_slice(method);
        bytes.push(b' ');
        bytes.extend_from_slice(target);
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        let mut writer = Writer::new(&self.settings, bytes);
        writer.field(b"host", authority);
        let upgrade = head.upgrade && !connect;
        let sending = if connect {
            Sending::Done
        } else {
            match head.content_length {
                Some(length) => {
                    if end && length > 0 {
                        return Err(SendError::Unencodable("http1.body_shorter_than_declared"));
                    }
                    writer.content_length(length);
                    Sending::Length(length)
                }
                None if end => {
                    // With any other method a server may wait for a body (RFC 9110 section 8.6).
                    if !matches!(method, b"GET" | b"HEAD" | b"DELETE" | b"TRACE") {
                        writer.content_length(0);
                    }
                    Sending::Done
                }
                None => {
                    writer.chunked();
                    Sending::Chunked
                }
            }
        };
        writer.fields(
            head,
            Options {
                close: self.flags.close,
                keep_alive: false,
                upgrade,
            },
        )?;
        bytes.extend_from_slice(b"\r\n");
        self.flags.head = method == b"HEAD";
        self.flags.connect = connect;
        self.flags.upgrade = upgrade;
        Ok(if end { Sending::Done } else { sending })
    }
}

impl Codec for Client {
    fn shape(&self) -> Shape {
        Shape::PingPong
    }

    fn decode(
        &mut self,
        _now: Millis,
        input: &[u8],
        events: &mut Events,
        _out: &mut Out,
    ) -> Consumed {
        let before = events.list.len();
        let mut pos = 0;
        loop {
            match self.phase {
                Phase::Closed => return self.consumed(input.len(), Why::Closed(None), false),
                Phase::Upgraded => return self.consumed(pos, Why::Upgraded, false),
                Phase::Idle | Phase::Head if pos == input.len() => {
                    return self.consumed(pos, Why::NeedMore, false);
                }
                Phase::Idle => return self.refuse(pos, "http1.unsolicited_response"),
                Phase::Head if self.sending == Sending::Head => {
                    return self.refuse(pos, "http1.unsolicited_response");
                }
                Phase::Head => match self.head(&input[pos..], events) {
                    Ok(Some(end)) => pos += end,
                    Ok(None) => return self.consumed(pos, Why::NeedMore, true),
                    Err(refusal) => return self.refuse(pos, refusal.detail),
                },
                Phase::Body => {
                    let source = Source {
                        settings: &self.settings,
                        stream: self.stream,
                        input,
                        before,
                    };
                    match self
                        .body
                        .decode(&source, &mut pos, &mut self.scanned, events)
                    {
                        Ok(true) => self.response_ended(),
                        Ok(false) => return self.consumed(pos, Why::NeedMore, pos < input.len()),
                        Err(refusal) => return self.refuse(pos, refusal.detail),
                    }
                }
            }
        }
    }

    fn eof(&mut self, rest: usize, events: &mut Events) -> Option<ProtocolError> {
        let stream = self.stream;
        let cut_short = match self.phase {
            Phase::Idle | Phase::Closed | Phase::Upgraded => {
                self.abort();
                return None;
            }
            Phase::Body if self.body == Body::UntilClose => {
                events.list.push(Event::Data {
                    stream,
                    range: 0..0,
                    end: true,
                });
                if self.flags.raw && self.sending.in_body() {
                    // The other direction goes on.
                    self.phase = Phase::Upgraded;
                } else {
                    self.abort();
                }
                return None;
            }
            Phase::Head if rest == 0 => None,
            Phase::Head => Some("http1.truncated_head"),
            Phase::Body => Some("http1.truncated_body"),
        };
        self.abort();
        events.list.push(Event::Reset {
            stream,
            reason: match cut_short {
                // Part of a response is a breach of protocol; none at all is not.
                Some(_) => ResetReason::Protocol,
                None => ResetReason::Disconnected,
            },
        });
        cut_short.map(|detail| ProtocolError {
            stream: Some(stream),
            status: 502,
            detail,
        })
    }

    fn open(&mut self) -> Option<StreamId> {
        if self.room() == 0 {
            return None;
        }
        self.stream = self.stream.wrapping_add(1);
        self.phase = Phase::Head;
        self.sending = Sending::Head;
        Some(self.stream)
    }

    fn send_head(
        &mut self,
        stream: StreamId,
        head: &Head,
        end: bool,
        out: &mut Out,
    ) -> Result<(), SendError> {
        if stream != self.stream || self.sending != Sending::Head {
            return Err(SendError::UnknownStream);
        }
        let start = out.bytes.len();
        match self.encode_head(head, end, &mut out.bytes) {
            Ok(sending) => {
                self.sending = sending;
                Ok(())
            }
            Err(error) => {
                out.bytes.truncate(start);
                Err(error)
            }
        }
    }

    fn send_data(
        &mut self,
        stream: StreamId,
        len: usize,
        end: bool,
        out: &mut Out,
    ) -> Result<usize, SendError> {
        if stream != self.stream || !self.sending.in_body() {
            return Err(SendError::UnknownStream);
        }
        if let Err(error) = self.sending.data(len, end, out) {
            self.abort();
            return Err(error);
        }
        if end && self.flags.raw && self.phase == Phase::Upgraded {
            self.phase = Phase::Closed;
        }
        Ok(len)
    }

    fn send_trailers(
        &mut self,
        stream: StreamId,
        trailers: &Head,
        out: &mut Out,
    ) -> Result<(), SendError> {
        if stream != self.stream || !self.sending.in_body() {
            return Err(SendError::UnknownStream);
        }
        if let Err(error) = self.sending.trailers(trailers, &self.settings, out) {
            self.abort();
            return Err(error);
        }
        if self.flags.raw && self.phase == Phase::Upgraded {
            self.phase = Phase::Closed;
        }
        Ok(())
    }

    fn release(&mut self, _stream: StreamId, _n: usize, _out: &mut Out) {}

    fn reset(&mut self, stream: StreamId, _reason: ResetReason, _out: &mut Out) {
        if stream != self.stream || self.streams() == 0 {
            return;
        }
        if self.sending == Sending::Head {
            // Nothing was sent: the connection is as good as before.
            self.phase = Phase::Idle;
            self.sending = Sending::Idle;
            if self.flags.close {
                self.abort();
            }
        } else {
            self.abort();
        }
    }

    fn streams(&self) -> usize {
        let sending = self.flags.raw && self.phase == Phase::Upgraded;
        usize::from(matches!(self.phase, Phase::Head | Phase::Body) || sending)
    }

    fn room(&self) -> usize {
        usize::from(self.phase == Phase::Idle && !self.flags.close)
    }

    fn finished(&self) -> bool {
        self.phase == Phase::Closed
    }

    fn go_away(&mut self, _out: &mut Out) {
        self.flags.close = true;
        if self.phase == Phase::Idle {
            self.abort();
        }
    }

    fn pass_through(&mut self) {
        if self.phase == Phase::Closed {
            return;
        }
        self.flags.raw = true;
        self.flags.close = true;
        self.phase = Phase::Body;
        self.body = Body::UntilClose;
        self.sending = Sending::UntilClose;
    }

    fn is_raw(&self) -> bool {
        self.flags.raw
    }

    fn mid_message(&self) -> bool {
        self.partial
    }

    fn park(&self) -> Option<Compact> {
        if self.partial || self.phase == Phase::Closed {
            return None;
        }
        if self.phase == Phase::Idle {
            return Some(Compact::default());
        }
        Some(compact::pack(State {
            phase: match self.phase {
                Phase::Idle => 0,
                Phase::Head => 1,
                Phase::Body => 2,
                Phase::Upgraded => 3,
                Phase::Closed => 4,
            },
            flags: self.flags.pack(),
            stream: self.stream,
            body: self.body,
            sending: self.sending,
        }))
    }
}
