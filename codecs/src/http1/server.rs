//! The side that reads requests and sends responses.

use std::sync::Arc;

use super::body::{Body, Source};
use super::chars::is_token_byte;
use super::compact::{self, State};
use super::encode::{Options, Sending, Writer, decimal, reason};
use super::scan::{Scan, section_end};
use super::{Refusal, Settings, parse};
use crate::codec::{
    Codec, Compact, Consumed, Event, Events, Millis, Out, ProtocolError, ResetReason, SendError,
    Shape, StreamId, Why,
};
use crate::head::Head;

/// Empty lines tolerated before a request line (RFC 9112 section 2.2).
const MAX_BLANK_LINES: u8 = 4;

/// What is read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A request head.
    Head,
    /// The body of the request.
    Body,
    /// Nothing, before the response is sent.
    Answer,
    /// Nothing any more.
    Closed,
}

/// One HTTP/1 connection, server side.
#[derive(Debug)]
pub struct Server {
    settings: Arc<Settings>,
    body: Body,
    sending: Sending,
    stream: StreamId,
    /// How far an unfinished head or trailer section was looked at.
    scanned: u32,
    phase: Phase,
    blank_lines: u8,
    /// The last `decode` left an unfinished element with its caller.
    partial: bool,
    flags: Flags,
}

/// Facts about the current exchange and the connection.
#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    http10: bool,
    head: bool,
    connect: bool,
    upgrade: bool,
    /// No exchange follows this one.
    close: bool,
    /// The client will send no more.
    eof: bool,
    /// The exchange left HTTP and stays a stream.
    raw: bool,
}

impl Flags {
    fn pack(self) -> u8 {
        [
            self.http10,
            self.head,
            self.connect,
            self.upgrade,
            self.close,
            self.eof,
            self.raw,
        ]
        .into_iter()
        .rev()
        .fold(0, |bits, flag| bits << 1 | u8::from(flag))
    }

    fn unpack(bits: u8) -> Self {
        let flag = |place: u8| bits >> place & 1 == 1;
        Self {
            http10: flag(0),
            head: flag(1),
            connect: flag(2),
            upgrade: flag(3),
            close: flag(4),
            eof: flag(5),
            raw: flag(6),
        }
    }
}

impl Server {
    /// A codec for a connection that was just accepted.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            body: Body::Done,
            sending: Sending::Idle,
            stream: 0,
            scanned: 0,
            phase: Phase::Head,
            blank_lines: 0,
            partial: false,
            flags: Flags::default(),
        }
    }

    /// A codec for a connection that was parked. What [`Codec::park`] gave is always understood;
    /// anything else gives a codec that is [`Codec::finished`].
    #[must_use]
    pub fn unpark(settings: Arc<Settings>, compact: &[u8]) -> Self {
        let mut server = Self::new(settings);
        if compact.is_empty() {
            return server;
        }
        server.phase = Phase::Closed;
        if let Some(state) = compact::unpack(compact) {
            server.phase = match state.phase {
                0 => Phase::Head,
                1 => Phase::Body,
                2 => Phase::Answer,
                _ => Phase::Closed,
            };
            server.flags = Flags::unpack(state.flags);
            server.stream = state.stream;
            server.body = state.body;
            server.sending = state.sending;
        }
        server
    }

    fn consumed(&mut self, bytes: usize, why: Why, partial: bool) -> Consumed {
        self.partial = partial;
        Consumed { bytes, why }
    }

    /// The head that was refused is the beginning of HTTP/2's preface, and no request came before it.
    fn begins_http2(&self, rest: &[u8]) -> bool {
        self.settings.detect_http2
            && self.stream == 0
            && rest.starts_with(b"PRI * HTTP/2.0\r\n\r\n")
    }

    /// Refuses what was read. The stream, new or not, can still be answered if it was not yet.
    fn refuse(&mut self, bytes: usize, refusal: Refusal) -> Consumed {
        if self.phase == Phase::Head {
            self.stream = self.stream.wrapping_add(1);
            self.sending = Sending::Head;
        }
        self.phase = Phase::Closed;
        self.flags.close = true;
        let mut error = refusal.of(self.stream);
        if self.streams() == 0 {
            // It has its answer; only what followed the head is broken.
            error.stream = None;
        }
        self.consumed(bytes, Why::Closed(Some(error)), false)
    }

    /// Reads a head at the start of `rest`; `None` when it is not all there.
    fn head(&mut self, rest: &[u8], events: &mut Events) -> Result<Option<usize>, Refusal> {
        if self.scanned == 0
            && let Some(&first) = rest.first()
            && !is_token_byte(first)
        {
            // Another protocol altogether, TLS for instance: no point in waiting for a line.
            return Err(Refusal::new(400, "http1.invalid_start_line"));
        }
        let max = self.settings.max_head_bytes;
        let end = match section_end(rest, self.scanned as usize, max) {
            Scan::Complete(end) => end,
            Scan::Partial => {
                self.scanned = rest.len() as u32;
                return Ok(None);
            }
            Scan::BareLineFeed => return Err(Refusal::new(400, "http1.bare_line_feed")),
            Scan::TooLong => return Err(Refusal::new(431, "http1.headers_too_large")),
        };
        self.scanned = 0;
        let mut head = events.take_head();
        match parse::request(&rest[..end], &self.settings, &mut head) {
            Ok(message) => {
                self.stream = self.stream.wrapping_add(1);
                self.blank_lines = 0;
                self.body = message.body;
                self.sending = Sending::Head;
                self.flags.http10 = message.http10;
                self.flags.head = message.is_head;
                self.flags.connect = message.is_connect;
                self.flags.upgrade = head.upgrade && !message.is_connect;
                self.flags.close |= !message.keep;
                let end_of_message = message.body == Body::Done;
                self.phase = if end_of_message {
                    Phase::Answer
                } else {
                    Phase::Body
                };
                events.list.push(Event::Head {
                    stream: self.stream,
                    head,
                    end: end_of_message,
                });
                Ok(Some(end))
            }
            Err(refusal) => {
                // A response to HEAD has no body, whatever is wrong with the request.
                // Whoever may not speak 1.0 is told so in 1.1.
                self.flags.http10 =
                    self.settings.accept_http_10 && head.version == crate::head::Version::Http10;
                self.flags.head = head.method() == b"HEAD";
                self.flags.connect = false;
                self.flags.upgrade = false;
                events.give_head(head);
                Err(refusal)
            }
        }
    }

    /// Both directions are done, or one of them never will be.
    fn advance(&mut self) {
        if self.sending != Sending::Done || self.flags.raw && self.phase == Phase::Body {
            return;
        }
        if self.phase == Phase::Answer && !self.flags.close {
            self.phase = Phase::Head;
            self.sending = Sending::Idle;
        } else {
            // A client that still sends its request cannot be told where the next one begins.
            self.phase = Phase::Closed;
        }
    }

    fn abort(&mut self) {
        self.phase = Phase::Closed;
        self.sending = Sending::Done;
    }

    fn encode_head(
        &mut self,
        head: &Head,
        end: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<Sending, SendError> {
        let status = head.status;
        if !(100..1000).contains(&status) {
            return Err(SendError::Unencodable("http1.invalid_status"));
        }
        let interim = status < 200 && status != 101;
        if interim && self.flags.http10 {
            // 1.0 does not know them (RFC 9110 section 15.2).
            return Ok(Sending::Head);
        }
        let tunnel = self.flags.connect && (200..300).contains(&status);
        if tunnel && !self.settings.allow_connect {
            return Err(SendError::Unencodable("http1.connect_not_allowed"));
        }
        if status == 101 {
            let token = head.get(b"upgrade").unwrap_or_default();
            let mut allowed = self.settings.upgrades.iter();
            if !self.flags.upgrade
                || !allowed.any(|known| token.eq_ignore_ascii_case(known.as_bytes()))
            {
                return Err(SendError::Unencodable("http1.upgrade_not_allowed"));
            }
        }
        bytes.extend_from_slice(if self.flags.http10 {
            b"HTTP/1.0 "
        } else {
            b"HTTP/1.1 "
        });
        decimal(status.into(), bytes);
        bytes.push(b' ');
        bytes.extend_from_slice(reason(status).as_bytes());
        bytes.extend_from_slice(b"\r\n");
        let mut writer = Writer::new(&self.settings, bytes);
        let mut options = Options::default();

        if interim {
            writer.fields(head, options)?;
            bytes.extend_from_slice(b"\r\n");
            return Ok(Sending::Head);
        }
        if tunnel || status == 101 {
            options.upgrade = status == 101;
            writer.fields(head, options)?;
            bytes.extend_from_slice(b"\r\n");
            return Ok(Sending::Upgraded);
        }

        // A refused CONNECT leaves bytes on the way that are not requests, and so does an upgrade
        // whose client did not wait for its answer.
        let incomplete = self.phase != Phase::Answer;
        let refused = self.flags.connect || self.flags.upgrade;
        let mut close = self.flags.close || incomplete || refused;
        let bodiless = self.flags.head || status == 204 || status == 304;
        let sending = match head.content_length {
            _ if status == 204 => Sending::Nothing,
            Some(length) => {
                if !bodiless && end && length > 0 {
                    return Err(SendError::Unencodable("http1.body_shorter_than_declared"));
                }
                writer.content_length(length);
                Sending::Length(length)
            }
            None if bodiless => Sending::Nothing,
            None if end => {
                writer.content_length(0);
                Sending::Nothing
            }
            None if self.flags.http10 => {
                close = true;
                Sending::UntilClose
            }
            None => {
                writer.chunked();
                Sending::Chunked
            }
        };
        options.close = close;
        options.keep_alive = self.flags.http10;
        writer.fields(head, options)?;
        bytes.extend_from_slice(b"\r\n");
        self.flags.close = close;
        Ok(match sending {
            _ if end => Sending::Done,
            _ if bodiless => Sending::Nothing,
            sending => sending,
        })
    }
}

impl Codec for Server {
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
                Phase::Answer => {
                    let why = if self.sending == Sending::Upgraded {
                        Why::Upgraded
                    } else if pos < input.len() {
                        Why::Paused
                    } else {
                        Why::NeedMore
                    };
                    return self.consumed(pos, why, false);
                }
                Phase::Head => {
                    while input[pos..].starts_with(b"\r\n") {
                        if self.blank_lines == MAX_BLANK_LINES {
                            return self.refuse(pos, Refusal::new(400, "http1.invalid_start_line"));
                        }
                        self.blank_lines += 1;
                        pos += 2;
                    }
                    let rest = &input[pos..];
                    let step = if rest.is_empty() || rest == b"\r" {
                        Ok(None)
                    } else {
                        self.head(rest, events)
                    };
                    match step {
                        Ok(Some(end)) => pos += end,
                        Ok(None) if self.flags.eof => self.phase = Phase::Closed,
                        Ok(None) => return self.consumed(pos, Why::NeedMore, pos < input.len()),
                        Err(_) if self.begins_http2(rest) => {
                            return self.consumed(pos, Why::Http2, true);
                        }
                        Err(refusal) => return self.refuse(pos, refusal),
                    }
                }
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
                        Ok(true) => self.phase = Phase::Answer,
                        Ok(false) => return self.consumed(pos, Why::NeedMore, pos < input.len()),
                        Err(refusal) => return self.refuse(pos, refusal),
                    }
                }
            }
        }
    }

    fn eof(&mut self, rest: usize, events: &mut Events) -> Option<ProtocolError> {
        self.flags.eof = true;
        match self.phase {
            Phase::Closed => None,
            Phase::Head => {
                if rest > 0 && !self.partial {
                    // Whole requests may wait there; decode closes after them.
                    return None;
                }
                self.phase = Phase::Closed;
                (rest > 0).then_some(ProtocolError {
                    stream: None,
                    status: 0,
                    detail: "http1.truncated_head",
                })
            }
            Phase::Body if self.flags.raw => {
                events.list.push(Event::Data {
                    stream: self.stream,
                    range: 0..0,
                    end: true,
                });
                self.body = Body::Done;
                self.phase = Phase::Answer;
                self.advance();
                None
            }
            Phase::Body => {
                events.list.push(Event::Reset {
                    stream: self.stream,
                    reason: ResetReason::Disconnected,
                });
                self.abort();
                None
            }
            Phase::Answer => {
                if rest == 0 {
                    self.flags.close = true;
                }
                None
            }
        }
    }

    fn open(&mut self) -> Option<StreamId> {
        None
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
                self.advance();
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
        self.advance();
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
        self.advance();
        Ok(())
    }

    fn release(&mut self, _stream: StreamId, _n: usize, _out: &mut Out) {}

    fn reset(&mut self, stream: StreamId, _reason: ResetReason, _out: &mut Out) {
        if stream == self.stream && self.streams() > 0 {
            self.abort();
        }
    }

    fn streams(&self) -> usize {
        let reading = self.flags.raw && self.phase == Phase::Body;
        usize::from(self.sending == Sending::Head || self.sending.in_body() || reading)
    }

    fn room(&self) -> usize {
        0
    }

    fn finished(&self) -> bool {
        self.phase == Phase::Closed && matches!(self.sending, Sending::Idle | Sending::Done)
    }

    fn go_away(&mut self, _out: &mut Out) {
        self.flags.close = true;
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

    fn abandon_head(&mut self) -> Option<StreamId> {
        if self.phase != Phase::Head || !self.partial {
            return None;
        }
        self.stream = self.stream.wrapping_add(1);
        self.sending = Sending::Head;
        self.flags = Flags {
            close: true,
            ..Flags::default()
        };
        self.phase = Phase::Closed;
        self.partial = false;
        Some(self.stream)
    }

    fn mid_message(&self) -> bool {
        self.partial
    }

    fn park(&self) -> Option<Compact> {
        if self.partial || self.phase == Phase::Closed {
            return None;
        }
        if self.phase == Phase::Head && !self.flags.close && !self.flags.eof {
            return Some(Compact::default());
        }
        Some(compact::pack(State {
            phase: match self.phase {
                Phase::Head => 0,
                Phase::Body => 1,
                Phase::Answer => 2,
                Phase::Closed => 3,
            },
            flags: self.flags.pack(),
            stream: self.stream,
            body: self.body,
            sending: self.sending,
        }))
    }
}
