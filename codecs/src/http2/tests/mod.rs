//! Tests on bytes: what a connection says, whole and in every two pieces, and after parking.

mod attacks;
mod client;
mod life;
mod properties;
mod server;

use std::sync::Arc;

use super::frame::{FrameHeader, HEADER, PREFACE, flag, kind};
use super::{Connection, Role, Settings};
use crate::codec::{Codec, Event, Events, Out, StreamId, Why};
use crate::head::{Head, HeadKind};
use crate::hpack;

/// A frame as bytes.
pub(super) fn frame(kind: u8, flags: u8, stream: StreamId, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    FrameHeader {
        len: payload.len() as u32,
        kind,
        flags,
        stream,
    }
    .write(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block that uses no table.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut encoder = hpack::Encoder::new();
    let mut bytes = Vec::new();
    for (name, value) in fields {
        encoder.encode(name.as_bytes(), value.as_bytes(), true, &mut bytes);
    }
    bytes
}

pub(super) const GET: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a.example"),
    (":path", "/"),
];

/// `GET`-like fields with some replaced (by the same name) or added.
pub(super) fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = GET.to_vec();
    for (name, value) in more {
        match fields.iter_mut().find(|field| field.0 == *name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    fields
}

pub(super) fn headers(stream: StreamId, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    let end = if end { flag::END_STREAM } else { 0 };
    frame(
        kind::HEADERS,
        flag::END_HEADERS | end,
        stream,
        &block(fields),
    )
}

pub(super) fn data(stream: StreamId, bytes: &[u8], end: bool) -> Vec<u8> {
    frame(kind::DATA, u8::from(end), stream, bytes)
}

pub(super) fn window_update(stream: StreamId, credit: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &credit.to_be_bytes())
}

pub(super) fn rst(stream: StreamId, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(super) fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = list
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// What a client says before its first request.
pub(super) fn hello() -> Vec<u8> {
    let ack = frame(kind::SETTINGS, flag::ACK, 0, &[]);
    [PREFACE, &settings(&[])[..], &ack].concat()
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn describe(head: &Head) -> String {
    let mut line = match head.kind {
        HeadKind::Request => format!(
            "{} {}://{}{}",
            text(head.method()),
            text(head.scheme()),
            text(head.authority()),
            text(head.path())
        ),
        HeadKind::Response => head.status.to_string(),
        HeadKind::Trailers => "trailers".into(),
    };
    for (name, value) in head.fields() {
        line += &format!(" {}={}", text(name), text(value));
    }
    if let Some(length) = head.content_length {
        line += &format!(" length={length}");
    }
    if head.upgrade {
        line += " upgrade";
    }
    if head.expect_continue {
        line += " expects";
    }
    line
}

/// A connection and all it said: events as text, with neighbouring data joined, and frames as text.
pub(super) struct Bench {
    pub(super) conn: Connection,
    role: Role,
    settings: Arc<Settings>,
    pub(super) events: Vec<String>,
    pub(super) notes: Vec<&'static str>,
    pub(super) frames: Vec<String>,
    joined: Option<(StreamId, Vec<u8>)>,
    rest: Vec<u8>,
    out: Out,
    sent: Vec<u8>,
    reader: hpack::Decoder,
    pub(super) now: u64,
}

impl Bench {
    pub(super) fn new(role: Role, settings: Settings) -> Self {
        let settings = Arc::new(settings);
        Self {
            conn: Connection::new(role, Arc::clone(&settings)),
            role,
            settings,
            events: Vec::new(),
            notes: Vec::new(),
            frames: Vec::new(),
            joined: None,
            rest: Vec::new(),
            out: Out::default(),
            sent: Vec::new(),
            reader: hpack::Decoder::new(4096),
            now: 1000,
        }
    }

    /// A server that has had its client's hello.
    pub(super) fn server(settings: Settings) -> Self {
        let mut bench = Self::new(Role::Server, settings);
        bench.feed(&hello());
        bench.take();
        bench
    }

    fn flush_data(&mut self) {
        if let Some((stream, bytes)) = self.joined.take()
            && !bytes.is_empty()
        {
            self.events.push(format!("{stream} data {}", text(&bytes)));
        }
    }

    fn line(&mut self, line: String) {
        self.flush_data();
        self.events.push(line);
    }

    /// Offers bytes behind what was not taken before.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Why {
        let input = [&self.rest[..], bytes].concat();
        let mut events = Events::default();
        let consumed = self
            .conn
            .decode(self.now, &input, &mut events, &mut self.out);
        self.rest = input[consumed.bytes..].to_vec();
        self.tell(&input, events);
        self.collect(&[]);
        if let Why::Closed(error) = consumed.why {
            let detail = error.map_or("closed", |error| error.detail);
            self.line(format!("closed {detail}"));
        }
        consumed.why
    }

    fn tell(&mut self, input: &[u8], mut events: Events) {
        self.notes.append(&mut events.notes);
        for event in events.list {
            match event {
                Event::Head { stream, head, end } => {
                    let end = if end { " end" } else { "" };
                    self.line(format!("{stream} {}{end}", describe(&head)));
                }
                Event::Data { stream, range, end } => {
                    match &mut self.joined {
                        Some((other, bytes)) if *other == stream => {
                            bytes.extend_from_slice(&input[range]);
                        }
                        _ => {
                            self.flush_data();
                            self.joined = Some((stream, input[range].to_vec()));
                        }
                    }
                    if end {
                        self.line(format!("{stream} end"));
                    }
                }
                Event::Trailers { stream, head } => {
                    self.line(format!("{stream} {}", describe(&head)));
                }
                Event::Reset { stream, reason } => self.line(format!("{stream} reset {reason:?}")),
                Event::Writable { stream } => self.line(format!("{stream} writable")),
                Event::GoAway { last } => self.line(format!("goaway {last}")),
                Event::Settled => {}
            }
        }
    }

    /// Puts the output together, with payload of the bytes offered, and reads frames out of it.
    fn collect(&mut self, payload: &[u8]) {
        let mut from = 0;
        for piece in self.out.payloads.drain(..) {
            self.sent.extend_from_slice(&self.out.bytes[from..piece.at]);
            self.sent
                .extend_from_slice(&payload[piece.start..piece.end]);
            from = piece.at;
        }
        self.sent.extend_from_slice(&self.out.bytes[from..]);
        self.out.bytes.clear();
        let mut at = 0;
        if self.sent.starts_with(PREFACE) {
            self.frames.push("preface".into());
            at = PREFACE.len();
        }
        while let Some(header) = FrameHeader::read(&self.sent[at..]) {
            let end = at + HEADER + header.len as usize;
            let Some(payload) = self.sent.get(at + HEADER..end) else {
                break;
            };
            at = end;
            let line = say(header, payload, &mut self.reader);
            self.frames.push(line);
        }
        self.sent.drain(..at);
        assert!(self.sent.is_empty(), "a frame was cut");
    }

    /// Says something on the connection, with payload of `len` times `x`.
    pub(super) fn send<T>(&mut self, say: impl FnOnce(&mut Connection, &mut Out) -> T) -> T {
        let result = say(&mut self.conn, &mut self.out);
        self.collect(&[b'x'; 1 << 17]);
        result
    }

    pub(super) fn respond(&mut self, stream: StreamId, status: u16, end: bool) {
        let head = response(status);
        self.send(|conn, out| conn.send_head(stream, &head, end, out))
            .unwrap();
    }

    /// Parks the connection and wakes it from what was kept.
    pub(super) fn park(&mut self) -> usize {
        let compact = self.conn.park().expect("nothing is in part");
        self.conn = Connection::unpark(self.role, Arc::clone(&self.settings), &compact);
        compact.len()
    }

    /// Takes what was told and said since the last time.
    pub(super) fn take(&mut self) -> (Vec<String>, Vec<String>) {
        self.flush_data();
        (
            std::mem::take(&mut self.events),
            std::mem::take(&mut self.frames),
        )
    }

    pub(super) fn events(&mut self) -> Vec<String> {
        self.take().0
    }

    pub(super) fn frames(&mut self) -> Vec<String> {
        self.take().1
    }
}

pub(super) fn response(status: u16) -> Head {
    let mut head = Head::new();
    head.kind = HeadKind::Response;
    head.status = status;
    head
}

pub(super) fn request(method: &str) -> Head {
    let mut head = Head::new();
    head.set_method(method.as_bytes());
    head.set_authority(b"a.example:1");
    head.set_path(b"/");
    head
}

fn say(header: FrameHeader, payload: &[u8], reader: &mut hpack::Decoder) -> String {
    let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    let id = header.stream;
    let end = if header.flags & 1 != 0 { " end" } else { "" };
    match header.kind {
        kind::DATA => format!("{id} DATA {}{end}", payload.len()),
        kind::HEADERS if header.flags & flag::END_HEADERS == 0 => format!("{id} HEADERS part"),
        kind::HEADERS => {
            let mut line = format!("{id} HEADERS");
            reader
                .decode(payload, |name, value, _| {
                    line += &format!(" {}={}", text(name), text(value));
                })
                .unwrap();
            line + end
        }
        kind::RST_STREAM => format!("{id} RST {}", number(0)),
        kind::SETTINGS if header.flags & 1 != 0 => "SETTINGS ack".into(),
        kind::SETTINGS => {
            let list: Vec<_> = payload
                .chunks(6)
                .map(|setting| {
                    let value = u32::from_be_bytes(setting[2..6].try_into().unwrap());
                    format!("{}={value}", setting[1])
                })
                .collect();
            format!("SETTINGS {}", list.join(" "))
        }
        kind::PING => format!("PING {}{end}", text(payload)),
        kind::GOAWAY => format!("GOAWAY {} {} {}", number(0), number(4), text(&payload[8..])),
        kind::WINDOW_UPDATE => format!("{id} WINDOW {}", number(0)),
        kind::CONTINUATION => format!("{id} CONTINUATION"),
        other => format!("{id} type {other}"),
    }
}

/// Events, notes and frames of a server that is told `bytes` after its client's hello, which must not
/// depend on how they are cut.
pub(super) fn server_on(settings: &Settings, bytes: &[u8]) -> (Vec<String>, Vec<String>) {
    let mut whole = Bench::server(settings.clone());
    whole.feed(bytes);
    let expected = whole.take();
    for cut in 0..bytes.len().min(400) {
        let mut bench = Bench::server(settings.clone());
        if !matches!(bench.feed(&bytes[..cut]), Why::Closed(_)) {
            bench.feed(&bytes[cut..]);
        }
        assert_eq!(bench.take(), expected, "cut at {cut}");
    }
    expected
}
