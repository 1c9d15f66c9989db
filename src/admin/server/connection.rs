//! One connection of the admin interface: bytes to requests, answers to bytes.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use moorgate_codecs::http1::{Server, Settings};
use moorgate_codecs::{Codec, Event, Events, Head, HeadKind, Out, StreamId, Why};

use super::super::{Request, Response};
use super::socket::Stream;
use crate::engine::reactor::Addr;
use crate::server::control::Millis;
use crate::telemetry::access_log::{AccessLog, LogWriter};
use crate::telemetry::format::time::TimeFormat;
use crate::telemetry::record::{Record, Timings};

/// Bytes of a request's body that are read and thrown away.
const MAX_BODY: usize = 1024 * 1024;
/// Read at a time.
const CHUNK: usize = 16 * 1024;

/// What a connection does next.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing before the socket is ready again.
    Wait,
    /// It got on: ask again.
    Moved,
    /// A request is complete: answer it.
    Request(Request),
    /// What came is no request; it was answered with this status.
    Refused(u16),
    /// It is over.
    Close,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: Stream,
    pub(super) peer: Addr,
    pub(super) opened_ms: Millis,
    /// When something last moved.
    pub(super) moved_ms: Millis,
    number: u64,
    codec: Server,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// The request that is being read or answered.
    request: Option<(StreamId, Box<Head>)>,
    complete: bool,
    body: usize,
    started_us: u64,
    /// Only the rest of the output is of interest; then the client is told, and its close awaited.
    closing: bool,
    closed_write: bool,
}

/// What an access log needs of an answer.
#[derive(Debug)]
pub(super) struct Sent {
    request: Option<Box<Head>>,
    status: u16,
    body: usize,
    number: u64,
    received: usize,
    started_us: u64,
}

fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}

impl Connection {
    pub(super) fn new(stream: Stream, peer: Addr, number: u64, now: Millis) -> Self {
        Self {
            stream,
            peer,
            opened_ms: now,
            moved_ms: now,
            number,
            codec: Server::new(Arc::new(Settings::default())),
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            request: None,
            complete: false,
            body: 0,
            started_us: 0,
            closing: false,
            closed_write: false,
        }
    }

    /// Bytes that wait for the client.
    pub(super) fn pending(&self) -> usize {
        self.output.len() - self.written
    }

    /// Neither a request nor an answer is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.request.is_none() && self.input.is_empty() && self.pending() == 0 && !self.closing
    }

    /// Gets on by one step.
    pub(super) fn step(&mut self, now: Millis) -> Step {
        if self.pending() > 0 {
            return self.write(now);
        }
        if self.closing {
            return self.linger(now);
        }
        if self.complete {
            self.complete = false;
            if let Some((_, head)) = &self.request {
                return Step::Request(Request::new(head.method(), head.path()));
            }
        }
        if !self.input.is_empty()
            && let Some(step) = self.decode(now)
        {
            return step;
        }
        self.read(now)
    }

    fn write(&mut self, now: Millis) -> Step {
        match self.stream.write(&self.output[self.written..]) {
            Ok(0) => Step::Close,
            Ok(n) => {
                self.moved_ms = now;
                self.written += n;
                if self.pending() == 0 {
                    // Answers may be large: their memory is not kept for the next.
                    self.output = Vec::new();
                    self.written = 0;
                }
                Step::Moved
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Step::Wait,
                ErrorKind::Interrupted => Step::Moved,
                _ => Step::Close,
            },
        }
    }

    /// All is sent: tells the client so, and reads until it closes, so that no reset takes from it
    /// what it did not read yet.
    fn linger(&mut self, now: Millis) -> Step {
        self.input.clear();
        if !self.closed_write {
            self.closed_write = true;
            self.moved_ms = now;
            if self.stream.shutdown_write().is_err() {
                return Step::Close;
            }
        }
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Step::Close,
            // Whatever it says does not extend its time.
            Ok(_) => Step::Moved,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Step::Wait,
                ErrorKind::Interrupted => Step::Moved,
                _ => Step::Close,
            },
        }
    }

    fn read(&mut self, now: Millis) -> Step {
        let from = self.input.len();
        self.input.resize(from + CHUNK, 0);
        let result = self.stream.read(&mut self.input[from..]);
        self.input
            .truncate(from + result.as_ref().copied().unwrap_or(0));
        match result {
            Ok(0) => Step::Close,
            Ok(_) => {
                self.moved_ms = now;
                Step::Moved
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => {
                    if self.input.is_empty() {
                        self.input = Vec::new();
                    }
                    Step::Wait
                }
                ErrorKind::Interrupted => Step::Moved,
                _ => Step::Close,
            },
        }
    }

    /// Decodes what is there. `None`: more is needed.
    fn decode(&mut self, now: Millis) -> Option<Step> {
        let mut events = Events::default();
        let mut out = Out::default();
        let consumed = self.codec.decode(now, &self.input, &mut events, &mut out);
        self.output.extend_from_slice(&out.bytes);
        self.input.drain(..consumed.bytes);
        let got_on = consumed.bytes > 0 || !events.list.is_empty() || !out.bytes.is_empty();
        for event in events.list {
            match event {
                Event::Head { stream, head, end } => {
                    // Whoever waits for a 100 gets the answer instead, and the end.
                    if head.expect_continue {
                        self.codec.go_away(&mut Out::default());
                    }
                    self.complete = end || head.expect_continue;
                    self.body = 0;
                    self.started_us = wall_us();
                    self.request = Some((stream, head));
                }
                Event::Data { range, end, .. } => {
                    self.body += range.len();
                    self.complete |= end;
                    if self.body > MAX_BODY {
                        return Some(Step::Close);
                    }
                }
                Event::Trailers { .. } => self.complete = true,
                Event::Reset { .. } => return Some(Step::Close),
                Event::Writable { .. } | Event::GoAway { .. } | Event::Settled => {}
            }
        }
        match consumed.why {
            Why::NeedMore if got_on => Some(Step::Moved),
            Why::NeedMore => None,
            Why::Paused if self.complete => Some(Step::Moved),
            // The codec waits for an answer that there is none to: it cannot get on.
            Why::Paused | Why::Upgraded | Why::Http2 | Why::Closed(None) => Some(self.end()),
            Why::Closed(Some(error)) => {
                let Some(stream) = error.stream.filter(|_| error.status > 0) else {
                    return Some(self.end());
                };
                self.request = Some((stream, Box::default()));
                let text = format!("{}\n", error.detail);
                self.respond(&Response::error(error.status, text));
                self.closing = true;
                Some(Step::Refused(error.status))
            }
        }
    }

    fn end(&mut self) -> Step {
        if self.pending() == 0 {
            return Step::Close;
        }
        self.closing = true;
        Step::Moved
    }

    /// Sends an answer to the request that was given out.
    pub(super) fn respond(&mut self, response: &Response) -> Sent {
        let (stream, request) = match self.request.take() {
            Some((stream, head)) => (stream, Some(head)),
            None => (0, None),
        };
        let mut head = Head::new();
        head.kind = HeadKind::Response;
        head.status = response.status;
        let body = response.body.as_bytes();
        head.content_length = Some(body.len() as u64);
        head.push(b"content-type", response.content_type.as_bytes());
        head.push(b"cache-control", b"no-cache, max-age=0");
        head.push(b"x-content-type-options", b"nosniff");
        let now_us = wall_us();
        if let Ok(format) = TimeFormat::parse("%a, %d %b %Y %H:%M:%S GMT") {
            let mut date = Vec::new();
            format.write(now_us, &mut date);
            head.push(b"date", &date);
        }
        head.push(b"server", b"moorgate");
        let without_body = body.is_empty()
            || request
                .as_ref()
                .is_some_and(|request| request.method() == b"HEAD");
        let mut out = Out::default();
        let mut sent = self.codec.send_head(stream, &head, without_body, &mut out);
        if sent.is_ok() && !without_body {
            let data = self.codec.send_data(stream, body.len(), true, &mut out);
            sent = data.map(|_| ());
        }
        let mut from = 0;
        for payload in &out.payloads {
            self.output.extend_from_slice(&out.bytes[from..payload.at]);
            self.output
                .extend_from_slice(&body[payload.start..payload.end]);
            from = payload.at;
        }
        self.output.extend_from_slice(&out.bytes[from..]);
        self.closing |= sent.is_err() || self.codec.finished();
        Sent {
            request,
            status: response.status,
            body: if without_body { 0 } else { body.len() },
            number: self.number,
            received: self.body,
            started_us: self.started_us,
        }
    }
}

/// Writes an answer to access logs.
pub(super) fn log(
    writer: &mut LogWriter,
    logs: &[Arc<AccessLog>],
    sent: &Sent,
    (peer, local): (&Addr, &Addr),
) {
    let lasted = wall_us().saturating_sub(sent.started_us);
    let record = Record {
        request: sent.request.as_deref(),
        protocol: sent.request.as_ref().map(|head| head.version),
        status: sent.status,
        details: "admin_filter_response",
        bytes_received: sent.received as u64,
        bytes_sent: sent.body as u64,
        start_us: sent.started_us,
        timings: Timings {
            end: Some(lasted),
            ..Timings::default()
        },
        downstream_remote: Some(peer),
        downstream_direct_remote: Some(peer),
        downstream_local: Some(local),
        downstream_direct_local: Some(local),
        connection: sent.number,
        ..Record::default()
    };
    for log in logs {
        writer.write(log, &record);
    }
}
