//! Tests on bytes: what a connection says, whole and in every two pieces.

mod client;
mod properties;
mod raw;
mod server;
mod shapes;
mod smuggling;

use std::sync::Arc;

use super::{Client, Server, Settings};
use crate::codec::{Codec, Consumed, Event, Events, Out, StreamId, Why};
use crate::head::{Head, HeadKind};

/// Events as text, with neighbouring data joined: what must not depend on how bytes were split.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(crate) struct Log {
    pub(crate) lines: Vec<String>,
    data: Option<(StreamId, Vec<u8>)>,
    current: Current,
    /// The message that ended last, until someone takes it to answer it.
    pub(crate) complete: Option<Current>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) stream: StreamId,
    pub(crate) connect: bool,
    pub(crate) upgrade: bool,
}

impl Log {
    fn flush(&mut self) {
        if let Some((stream, data)) = self.data.take()
            && !data.is_empty()
        {
            let text = data.escape_ascii();
            self.lines.push(format!("{stream} data {text}"));
        }
    }

    fn line(&mut self, line: String) {
        self.flush();
        self.lines.push(line);
    }

    pub(crate) fn events(&mut self, input: &[u8], events: &mut Events) {
        for event in std::mem::take(&mut events.list) {
            match event {
                Event::Head { stream, head, end } => {
                    self.line(format!(
                        "{stream} {}{}",
                        describe(&head),
                        if end { " end" } else { "" }
                    ));
                    self.current = Current {
                        stream,
                        connect: head.method() == b"CONNECT",
                        upgrade: head.upgrade,
                    };
                    self.complete = end.then_some(self.current);
                    events.give_head(head);
                }
                Event::Data { stream, range, end } => {
                    match &mut self.data {
                        Some((other, data)) if *other == stream => {
                            data.extend_from_slice(&input[range]);
                        }
                        _ => {
                            self.flush();
                            self.data = Some((stream, input[range].to_vec()));
                        }
                    }
                    if end {
                        self.line(format!("{stream} end"));
                        self.complete = Some(self.current);
                    }
                }
                Event::Trailers { stream, head } => {
                    self.line(format!("{stream} trailers {}", describe(&head)));
                    self.complete = Some(self.current);
                    events.give_head(head);
                }
                other => self.line(format!("{other:?}")),
            }
        }
    }

    pub(crate) fn why(&mut self, why: Why) {
        match why {
            Why::NeedMore | Why::Paused => {}
            Why::Upgraded => self.line("upgraded".into()),
            Why::Http2 => self.line("http2".into()),
            Why::Closed(None) => self.line("closed".into()),
            Why::Closed(Some(error)) => self.line(format!(
                "refused {} {}{}",
                error.status,
                error.detail,
                error.stream.map_or(String::new(), |id| format!(" on {id}"))
            )),
        }
    }

    pub(crate) fn done(mut self) -> Vec<String> {
        self.flush();
        self.lines
    }
}

pub(crate) fn describe(head: &Head) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut out = match head.kind {
        HeadKind::Request => format!(
            "{} {}{}{}",
            text(head.method()),
            if head.scheme().is_empty() {
                String::new()
            } else {
                format!("{}://", text(head.scheme()))
            },
            text(head.authority()),
            text(head.path())
        ),
        HeadKind::Response => head.status.to_string(),
        HeadKind::Trailers => String::new(),
    };
    if let Some(length) = head.content_length {
        out += &format!(" length={length}");
    }
    if head.upgrade {
        out += " upgrade";
    }
    if head.expect_continue {
        out += " expect";
    }
    for (name, value) in head.fields() {
        out += &format!(" {}={}", text(name), text(value));
    }
    out
}

/// One connection with what it has not consumed.
pub(crate) struct Wire<C> {
    pub(crate) codec: C,
    pub(crate) rest: Vec<u8>,
    pub(crate) events: Events,
    pub(crate) out: Out,
    pub(crate) log: Log,
}

impl<C: Codec> Wire<C> {
    pub(crate) fn new(codec: C) -> Self {
        Self {
            codec,
            rest: Vec::new(),
            events: Events::default(),
            out: Out::default(),
            log: Log::default(),
        }
    }

    /// Gives it bytes; returns why it stopped. Checks what holds for every call.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Why {
        self.rest.extend_from_slice(bytes);
        let Consumed { bytes, why } =
            self.codec
                .decode(0, &self.rest, &mut self.events, &mut self.out);
        assert!(bytes <= self.rest.len());
        for event in &self.events.list {
            if let Event::Data { range, .. } = event {
                assert!(range.start <= range.end && range.end <= bytes);
            }
        }
        self.log.events(&self.rest, &mut self.events);
        self.log.why(why);
        self.rest.drain(..bytes);
        why
    }

    pub(crate) fn eof(&mut self) {
        let error = self.codec.eof(self.rest.len(), &mut self.events);
        self.log.events(&[], &mut self.events);
        if error.is_some() {
            self.log.why(Why::Closed(error));
        }
    }

    /// Output so far, with payload put in from `offered`.
    pub(crate) fn take_out(&mut self, offered: &[u8]) -> Vec<u8> {
        let out = std::mem::take(&mut self.out);
        render(&out, offered)
    }
}

pub(crate) fn render(out: &Out, offered: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = 0;
    for payload in &out.payloads {
        bytes.extend_from_slice(&out.bytes[at..payload.at]);
        bytes.extend_from_slice(&offered[payload.start..payload.end]);
        at = payload.at;
    }
    bytes.extend_from_slice(&out.bytes[at..]);
    bytes
}

pub(crate) fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        accept_http_10: true,
        enable_trailers: true,
        upgrades: vec!["websocket".into()],
        allow_connect: true,
        ..Settings::default()
    })
}

pub(crate) fn ok() -> Head {
    response(200)
}

pub(crate) fn response(status: u16) -> Head {
    let mut head = Head::new();
    head.kind = HeadKind::Response;
    head.status = status;
    head
}

pub(crate) fn request(method: &str, path: &str) -> Head {
    let mut head = Head::new();
    head.set_method(method.as_bytes());
    head.set_path(path.as_bytes());
    head.set_authority(b"h");
    head
}

/// Answers every request that is complete with an empty 200, upgrades with what opens the tunnel.
pub(crate) fn answer(wire: &mut Wire<Server>) {
    while let Some(current) = wire.log.complete.take() {
        let mut head = ok();
        if current.upgrade && !current.connect {
            head.status = 101;
            head.push(b"upgrade", b"websocket");
        }
        let sent = wire
            .codec
            .send_head(current.stream, &head, true, &mut wire.out);
        if sent.is_err() {
            return;
        }
        wire.feed(b"");
    }
}

/// What a server makes of the bytes when it answers everything, in one piece.
pub(crate) fn serve_pieces(settings: &Arc<Settings>, pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
    let mut wire = Wire::new(Server::new(Arc::clone(settings)));
    for piece in pieces {
        wire.feed(piece);
        answer(&mut wire);
        if wire.log.lines.last().is_some_and(|line| {
            line == "closed" || line == "upgraded" || line.starts_with("refused")
        }) {
            break;
        }
    }
    let out = wire.take_out(b"");
    (wire.log.done(), out)
}

/// The same in one piece, in every two pieces, and byte by byte; all must agree.
pub(crate) fn serve(settings: &Arc<Settings>, bytes: &[u8]) -> (Vec<String>, Vec<u8>) {
    let whole = serve_pieces(settings, &[bytes]);
    for at in 0..=bytes.len() {
        let split = serve_pieces(settings, &[&bytes[..at], &bytes[at..]]);
        assert_eq!(split, whole, "split at {at}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(serve_pieces(settings, &single), whole, "byte by byte");
    whole
}

/// What a client that asked `asked` makes of the bytes and the end of the connection after them.
pub(crate) fn receive_pieces(asked: &Head, pieces: &[&[u8]], eof: bool) -> Vec<String> {
    let mut wire = Wire::new(Client::new(settings()));
    let stream = wire.codec.open().expect("idle");
    wire.codec
        .send_head(stream, asked, true, &mut wire.out)
        .expect("encodable");
    for piece in pieces {
        if !matches!(wire.feed(piece), Why::NeedMore) {
            return wire.log.done();
        }
    }
    if eof {
        wire.eof();
    }
    let reusable = wire.codec.room() == 1;
    wire.log
        .line(if reusable { "reusable" } else { "open" }.into());
    wire.log.done()
}

/// The same in one piece, in every two pieces, and byte by byte; all must agree.
pub(crate) fn receive(asked: &Head, bytes: &[u8], eof: bool) -> Vec<String> {
    let whole = receive_pieces(asked, &[bytes], eof);
    for at in 0..=bytes.len() {
        let split = receive_pieces(asked, &[&bytes[..at], &bytes[at..]], eof);
        assert_eq!(split, whole, "split at {at}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(receive_pieces(asked, &single, eof), whole, "byte by byte");
    whole
}
