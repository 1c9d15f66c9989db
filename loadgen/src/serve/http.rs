//! The HTTP side of a server: requests in, answers into the output. No socket is touched here.

use std::ops::ControlFlow;

use moorgate_codecs::websocket;
use moorgate_codecs::{Codec, Event, Head, HeadKind, ProtocolError, StreamId, Why};

use super::answers::Answers;
use super::conn::Doing;
use super::server::Serve;
use super::streams::{Mux, Tools};
use crate::cli::Service;
use crate::mux::place;

/// A body of at most this size is sent together with its head.
const SMALL_BODY: u64 = 16 * 1024;
/// Output made from one input, beyond which the rest of the input waits.
const OUT_BYTES: usize = 256 * 1024;

impl Serve {
    /// Decodes requests and answers them into the output. Gives the number of bytes that are done
    /// with, and whether more may be read.
    pub(super) fn decode(&mut self, number: u32, now_ms: u64, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        loop {
            if self
                .conns
                .get(number)
                .is_some_and(|conn| conn.mux.is_some())
            {
                let (used, open) = self.decode_streams(number, now_ms, &bytes[at..]);
                return (at + used, open);
            }
            match self.decode_step(number, now_ms, &bytes[at..], &mut at) {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(open) => return (at, open),
            }
        }
    }

    fn decode_streams(&mut self, number: u32, now_ms: u64, bytes: &[u8]) -> (usize, bool) {
        self.with_streams(number, now_ms, |mux, tools| mux.feed(bytes, tools))
            .unwrap_or((bytes.len(), false))
    }

    /// Lets the streams of a connection make output, where it has any.
    pub(super) fn with_streams<T>(
        &mut self,
        number: u32,
        now_ms: u64,
        does: impl FnOnce(&mut Mux, &mut Tools<'_>) -> T,
    ) -> Option<T> {
        let mux = self.conns.get_mut(number)?.mux.as_mut()?;
        let mut tools = Tools {
            answers: &self.answers,
            random: &mut self.random,
            events: &mut self.events,
            out: &mut self.out,
            head: &mut self.head,
            event: &mut self.event,
            now_ms,
        };
        Some(does(mux, &mut tools))
    }

    fn decode_step(
        &mut self,
        number: u32,
        now_ms: u64,
        input: &[u8],
        at: &mut usize,
    ) -> ControlFlow<bool> {
        let Some(conn) = self.conns.get_mut(number) else {
            return ControlFlow::Break(false);
        };
        let Some(codec) = &mut conn.codec else {
            return ControlFlow::Break(true);
        };
        let waiting = matches!(conn.doing, Doing::Waiting { .. });
        conn.held = waiting || conn.fill > 0 || self.out.bytes.len() > OUT_BYTES;
        if conn.held {
            // With nothing to decode there is nothing to hold back, and the end must be noticed.
            conn.held = !input.is_empty();
            return ControlFlow::Break(true);
        }
        let consumed = codec.decode(now_ms, input, &mut self.events, &mut self.out);
        *at += consumed.bytes;
        let idle = consumed.bytes == 0 && self.events.list.is_empty();
        self.take_events(number, now_ms, input);
        match consumed.why {
            Why::NeedMore => ControlFlow::Break(true),
            Why::Paused if idle => {
                if let Some(conn) = self.conns.get_mut(number) {
                    conn.held = true;
                }
                ControlFlow::Break(true)
            }
            Why::Paused => ControlFlow::Continue(()),
            Why::Http2 => {
                if let Some(conn) = self.conns.get_mut(number) {
                    conn.codec = None;
                    conn.mux = Some(Box::new(Mux::new(&self.answers.http2)));
                }
                ControlFlow::Continue(())
            }
            Why::Upgraded | Why::Closed(None) => ControlFlow::Break(false),
            Why::Closed(Some(error)) => {
                self.refuse(number, error);
                ControlFlow::Break(false)
            }
        }
    }

    fn take_events(&mut self, number: u32, now_ms: u64, input: &[u8]) {
        let mut list = std::mem::take(&mut self.events.list);
        for event in list.drain(..) {
            match event {
                Event::Head { stream, head, end } => {
                    self.request(number, now_ms, stream, &head, end);
                    self.events.give_head(head);
                }
                Event::Data { stream, range, end } => {
                    self.data(number, stream, &input[range], end);
                    if end {
                        self.request_read(number, now_ms, stream);
                    }
                }
                Event::Trailers { stream, head } => {
                    self.events.give_head(head);
                    // They are not echoed: the body ends without them.
                    self.data(number, stream, b"", true);
                    self.request_read(number, now_ms, stream);
                }
                Event::Reset { .. }
                | Event::Writable { .. }
                | Event::GoAway { .. }
                | Event::Settled => {}
            }
        }
        self.events.list = list;
    }

    fn request(&mut self, number: u32, now_ms: u64, stream: StreamId, head: &Head, end: bool) {
        let Some(conn) = self.conns.get_mut(number) else {
            return;
        };
        let Some(codec) = &mut conn.codec else {
            return;
        };
        if self.answers.service == Service::Ws
            && let Some(key) = head.get(b"sec-websocket-key")
        {
            self.head.clear();
            self.head.kind = HeadKind::Response;
            self.head.status = 101;
            self.head.push(b"upgrade", b"websocket");
            let accept = websocket::accept_key(key);
            self.head.push(b"sec-websocket-accept", accept.as_bytes());
            if codec
                .send_head(stream, &self.head, false, &mut self.out)
                .is_ok()
            {
                conn.codec = None;
                conn.frames = Some(Box::default());
                conn.doing = Doing::Messages;
                return;
            }
        }
        if head.expect_continue && !end {
            self.head.clear();
            self.head.kind = HeadKind::Response;
            self.head.status = 100;
            // It has nothing in it that could not be encoded.
            let _ = codec.send_head(stream, &self.head, false, &mut self.out);
        }
        if self.answers.echo {
            let length = if end { Some(0) } else { head.content_length };
            self.answers.head(&mut self.head, 200, length);
            let sent = codec.send_head(stream, &self.head, end, &mut self.out);
            conn.doing = match sent {
                Ok(()) if !end => Doing::Echoing(stream),
                _ => Doing::Reading,
            };
            return;
        }
        conn.doing = Doing::Taking {
            head: head.method() == b"HEAD",
        };
        if end {
            self.request_read(number, now_ms, stream);
        }
    }

    fn data(&mut self, number: u32, stream: StreamId, payload: &[u8], end: bool) {
        if let Some(conn) = self.conns.get_mut(number)
            && conn.doing == Doing::Echoing(stream)
            && let Some(codec) = &mut conn.codec
        {
            let sent = codec.send_data(stream, payload.len(), end, &mut self.out);
            place(&mut self.out, payload);
            if end || sent.is_err() {
                conn.doing = Doing::Reading;
            }
        }
    }

    /// The request is complete: answers, now or later.
    fn request_read(&mut self, number: u32, now_ms: u64, stream: StreamId) {
        let delay_ms = self.answers.delay_ms;
        if let Some(conn) = self.conns.get_mut(number)
            && let Doing::Taking { head } = conn.doing
        {
            conn.doing = Doing::Waiting {
                stream,
                head,
                due_ms: now_ms + delay_ms,
            };
            if delay_ms == 0 {
                self.answer(number, now_ms);
            }
        }
    }

    /// Answers the request that waits.
    pub(super) fn answer(&mut self, number: u32, now_ms: u64) {
        let status = self.answers.status(self.random.next_u64());
        let Some(conn) = self.conns.get_mut(number) else {
            return;
        };
        let (Doing::Waiting { stream, head, .. }, Some(codec)) = (conn.doing, &mut conn.codec)
        else {
            return;
        };
        conn.doing = Doing::Reading;
        let events = self.answers.service == Service::Sse && status == 200;
        let size = if status == 200 { self.answers.size } else { 0 };
        let length = if events { None } else { Some(size) };
        let end = head || length == Some(0);
        self.answers.head(&mut self.head, status, length);
        let sent = codec.send_head(stream, &self.head, end, &mut self.out);
        if end || sent.is_err() {
            return;
        }
        if events {
            conn.doing = Doing::Events {
                stream,
                next: 0,
                due_ms: None,
            };
            return self.send_event(number, now_ms);
        }
        // Of a declared length, so that the payload is all there is and comes last.
        let whole = usize::try_from(size).unwrap_or(usize::MAX);
        let _ = codec.send_data(stream, whole, true, &mut self.out);
        self.out.payloads.clear();
        if size > SMALL_BODY {
            conn.fill = size;
            return;
        }
        let mut left = size;
        while left > 0 {
            let piece = self.answers.body(left);
            self.out.bytes.extend_from_slice(piece);
            left -= piece.len() as u64;
        }
    }

    /// Sends the next event, unless the client has not even taken what was sent before.
    pub(super) fn send_event(&mut self, number: u32, now_ms: u64) {
        let interval_ms = self.answers.interval_ms;
        let Some(conn) = self.conns.get_mut(number) else {
            return;
        };
        let blocked = conn.blocked();
        let (
            Doing::Events {
                stream,
                next,
                due_ms,
            },
            Some(codec),
        ) = (&mut conn.doing, &mut conn.codec)
        else {
            return;
        };
        *due_ms = interval_ms.map(|interval_ms| now_ms + interval_ms);
        if !blocked {
            Answers::event(*next, &mut self.event);
            *next = next.wrapping_add(1);
            // The stream is open: nobody else ends it.
            let _ = codec.send_data(*stream, self.event.len(), false, &mut self.out);
            place(&mut self.out, &self.event);
        }
    }

    fn refuse(&mut self, number: u32, error: ProtocolError) {
        if let Some(stream) = error.stream
            && error.status >= 200
            && let Some(conn) = self.conns.get_mut(number)
            && let Some(codec) = &mut conn.codec
        {
            self.answers.head(&mut self.head, error.status, Some(0));
            // When it was answered already, closing has to do.
            let _ = codec.send_head(stream, &self.head, true, &mut self.out);
        }
    }
}
