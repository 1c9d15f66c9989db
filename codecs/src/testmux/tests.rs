//! Two ends joined by bytes, and ends that are told nonsense.

use super::*;
use crate::codec::{
    Codec, Event, Events, Out, ProtocolError, ResetReason, SendError, StreamId, Why,
};
use crate::head::{Head, HeadKind};

/// Events as text, neighbouring data joined.
#[derive(Default)]
struct End {
    rest: Vec<u8>,
    events: Events,
    out: Out,
    log: Vec<String>,
}

impl End {
    fn feed(&mut self, mux: &mut Mux, now: Millis, bytes: &[u8]) -> Why {
        self.rest.extend_from_slice(bytes);
        let consumed = mux.decode(now, &self.rest, &mut self.events, &mut self.out);
        self.drain();
        self.rest.drain(..consumed.bytes);
        consumed.why
    }

    fn drain(&mut self) {
        for event in std::mem::take(&mut self.events.list) {
            let line = match event {
                Event::Head { stream, head, end } => {
                    let text = format!("{stream} {head:?} one_way={} end={end}", head.one_way);
                    self.events.give_head(head);
                    text
                }
                Event::Data { stream, range, end } => {
                    let text = self.rest[range].escape_ascii().to_string();
                    let prefix = format!("{stream} data ");
                    let line = match self.log.last_mut() {
                        Some(last) if last.starts_with(&prefix) => {
                            last.push_str(&text);
                            None
                        }
                        _ => Some(prefix + &text),
                    };
                    self.log.extend(line.filter(|_| !text.is_empty()));
                    end.then(|| self.log.push(format!("{stream} end")));
                    continue;
                }
                other => format!("{other:?}"),
            };
            self.log.push(line);
        }
    }

    fn take_out(&mut self, offered: &[u8]) -> Vec<u8> {
        let out = std::mem::take(&mut self.out);
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
}

fn settings() -> Settings {
    Settings {
        window: 8,
        max_streams: 4,
        max_payload: 256,
        heartbeat: Some(100),
    }
}

fn request() -> Head {
    let mut head = Head::new();
    head.set_method(b"GET");
    head.set_scheme(b"http");
    head.set_authority(b"h");
    head.set_path(b"/x");
    head.content_length = Some(5);
    head.push(b"a", b"b");
    head
}

fn response(status: u16) -> Head {
    let mut head = Head::new();
    head.kind = HeadKind::Response;
    head.status = status;
    head
}

fn trailers() -> Head {
    let mut head = Head::new();
    head.kind = HeadKind::Trailers;
    head.push(b"t", b"u");
    head
}

/// A client that opened stream 1 and a server that read its head.
fn pair() -> (Mux, End, Mux, End) {
    let mut client = Mux::new(Role::Client, settings());
    let mut server = Mux::new(Role::Server, settings());
    let (mut c, mut s) = (End::default(), End::default());
    assert_eq!(client.open(), Some(1));
    client
        .send_head(1, &request(), false, &mut c.out)
        .expect("head");
    s.feed(&mut server, 0, &c.take_out(b""));
    (client, c, server, s)
}

#[test]
fn an_exchange_with_windows() {
    let (mut client, mut c, mut server, mut s) = pair();
    assert_eq!(client.send_data(1, 12, true, &mut c.out), Ok(8));
    s.feed(&mut server, 0, &c.take_out(b"abcdefghijkl"));
    assert_eq!(client.send_data(1, 4, true, &mut c.out), Ok(0));
    // Small credit is saved up.
    server.release(1, 4, &mut s.out);
    assert!(s.out.bytes.is_empty());
    server.release(1, 100, &mut s.out);
    c.feed(&mut client, 0, &s.take_out(b""));
    assert_eq!(c.log, ["Writable { stream: 1 }"]);
    assert_eq!(client.send_data(1, 4, true, &mut c.out), Ok(4));
    s.feed(&mut server, 0, &c.take_out(b"ijkl"));
    server
        .send_head(1, &response(103), false, &mut s.out)
        .expect("interim");
    server
        .send_head(1, &response(200), false, &mut s.out)
        .expect("head");
    assert_eq!(server.send_data(1, 2, false, &mut s.out), Ok(2));
    server
        .send_trailers(1, &trailers(), &mut s.out)
        .expect("trailers");
    assert_eq!(server.streams(), 0);
    c.feed(&mut client, 0, &s.take_out(b"ok"));
    assert_eq!(client.streams(), 0);
    assert_eq!(s.log[1..], ["1 data abcdefghijkl", "1 end"]);
    assert!(s.log[0].contains(r#"path: "/x", a: "b""#), "{}", s.log[0]);
    assert_eq!(c.log.len(), 5);
    assert_eq!(c.log[3], "1 data ok");
    assert!(c.log[4].starts_with("Trailers"));
}

#[test]
fn large_data_is_cut_into_frames() {
    let mut wide = settings();
    wide.window = 1000;
    let mut client = Mux::new(Role::Client, wide);
    let mut server = Mux::new(Role::Server, wide);
    let (mut c, mut s) = (End::default(), End::default());
    client.open().expect("room");
    client
        .send_head(1, &request(), false, &mut c.out)
        .expect("head");
    assert_eq!(client.send_data(1, 600, true, &mut c.out), Ok(600));
    assert_eq!(c.out.payloads.len(), 3);
    s.feed(&mut server, 0, &c.take_out(&[b'x'; 600]));
    assert_eq!(
        s.log[1..],
        [format!("1 data {}", "x".repeat(600)), "1 end".into()]
    );
}

#[test]
fn one_way_requests_end_with_themselves() {
    let mut client = Mux::new(Role::Client, settings());
    let mut server = Mux::new(Role::Server, settings());
    let (mut c, mut s) = (End::default(), End::default());
    client.open().expect("room");
    let mut head = request();
    head.one_way = true;
    client.send_head(1, &head, false, &mut c.out).expect("head");
    assert_eq!(client.send_data(1, 1, true, &mut c.out), Ok(1));
    assert_eq!(client.streams(), 0);
    s.feed(&mut server, 0, &c.take_out(b"x"));
    assert!(s.log[0].ends_with("one_way=true end=false"));
    assert_eq!(server.streams(), 0);
    assert_eq!(
        server.send_head(1, &response(200), true, &mut s.out),
        Err(SendError::UnknownStream)
    );
}

#[test]
fn the_server_may_open_streams() {
    let (mut client, mut c, mut server, mut s) = pair();
    assert_eq!(server.open(), Some(2));
    server
        .send_head(2, &request(), true, &mut s.out)
        .expect("head");
    c.feed(&mut client, 0, &s.take_out(b""));
    assert!(c.log[0].starts_with("2 Head { method"));
    client
        .send_head(2, &response(200), true, &mut c.out)
        .expect("head");
    s.feed(&mut server, 0, &c.take_out(b""));
    assert!(s.log[1].starts_with("2 Head { status: 200"));
    assert_eq!((client.streams(), server.streams()), (1, 1));
}

#[test]
fn resets() {
    let (mut client, mut c, mut server, mut s) = pair();
    server.reset(1, ResetReason::Overload, &mut s.out);
    // Sent before the reset was read: not an error.
    assert_eq!(client.send_data(1, 3, true, &mut c.out), Ok(3));
    assert_eq!(s.feed(&mut server, 0, &c.take_out(b"abc")), Why::NeedMore);
    c.feed(&mut client, 0, &s.take_out(b""));
    assert_eq!(c.log, ["Reset { stream: 1, reason: Overload }"]);
    assert_eq!((client.streams(), server.streams()), (0, 0));
    // A stream the peer never heard of ends without a word.
    let id = client.open().expect("room");
    client.reset(id, ResetReason::Cancel, &mut c.out);
    assert!(c.out.bytes.is_empty());
}

#[test]
fn too_many_streams_are_refused() {
    let mut client = Mux::new(
        Role::Client,
        Settings {
            max_streams: 9,
            ..settings()
        },
    );
    let mut server = Mux::new(Role::Server, settings());
    let (mut c, mut s) = (End::default(), End::default());
    for _ in 0..5 {
        let id = client.open().expect("room");
        client
            .send_head(id, &request(), false, &mut c.out)
            .expect("head");
    }
    s.feed(&mut server, 0, &c.take_out(b""));
    assert_eq!((server.streams(), server.room()), (4, 4));
    c.feed(&mut client, 0, &s.take_out(b""));
    assert_eq!(c.log, ["Reset { stream: 9, reason: Refused }"]);
}

#[test]
fn go_away() {
    let (mut client, mut c, mut server, mut s) = pair();
    server.go_away(&mut s.out);
    server.go_away(&mut s.out);
    let id = client.open().expect("does not know yet");
    client
        .send_head(id, &request(), true, &mut c.out)
        .expect("head");
    c.feed(&mut client, 0, &s.take_out(b""));
    s.feed(&mut server, 0, &c.take_out(b""));
    c.feed(&mut client, 0, &s.take_out(b""));
    assert_eq!(
        c.log,
        ["GoAway { last: 1 }", "Reset { stream: 3, reason: Refused }"]
    );
    assert_eq!(client.room(), 0);
    assert!(!client.finished() && !server.finished());
    assert_eq!(client.send_data(1, 0, true, &mut c.out), Ok(0));
    s.feed(&mut server, 0, &c.take_out(b""));
    server
        .send_head(1, &response(200), true, &mut s.out)
        .expect("head");
    c.feed(&mut client, 0, &s.take_out(b""));
    assert!(client.finished() && server.finished());
}

#[test]
fn heartbeats() {
    let mut client = Mux::new(Role::Client, settings());
    let mut server = Mux::new(Role::Server, settings());
    let (mut c, mut s) = (End::default(), End::default());
    assert_eq!(client.next_deadline(), Some(0));
    assert!(client.on_deadline(1000, &mut c.out));
    assert!(c.out.bytes.is_empty());
    assert_eq!(client.next_deadline(), Some(1100));
    assert!(client.on_deadline(1099, &mut c.out));
    assert!(c.out.bytes.is_empty());
    assert!(client.on_deadline(1100, &mut c.out));
    s.feed(&mut server, 1110, &c.take_out(b""));
    assert_eq!(server.next_deadline(), Some(1210));
    c.feed(&mut client, 1120, &s.take_out(b""));
    assert!(c.out.bytes.is_empty() && s.out.bytes.is_empty());
    assert_eq!(client.next_deadline(), Some(1220));
    assert!(client.on_deadline(1220, &mut c.out));
    assert!(!client.on_deadline(1320, &mut c.out));
    assert!(client.finished());
    assert!(c.log.is_empty() && s.log.is_empty());
}

/// Everything a peer may say, and what is made of it.
fn conversation() -> (Vec<u8>, Vec<String>) {
    let mut client = Mux::new(Role::Client, settings());
    let mut c = End::default();
    let mut bytes = Vec::new();
    for id in [1, 3, 5] {
        client.open().expect("room");
        client
            .send_head(id, &request(), id == 5, &mut c.out)
            .expect("head");
        bytes.extend(c.take_out(b""));
    }
    client.send_data(1, 5, false, &mut c.out).expect("open");
    bytes.extend(c.take_out(b"hello"));
    client.send_data(3, 2, true, &mut c.out).expect("open");
    bytes.extend(c.take_out(b"hi"));
    client.on_deadline(0, &mut c.out);
    client.on_deadline(100, &mut c.out);
    client.go_away(&mut c.out);
    client.reset(5, ResetReason::Cancel, &mut c.out);
    client
        .send_trailers(1, &trailers(), &mut c.out)
        .expect("open");
    bytes.extend(c.take_out(b""));
    let mut s = End::default();
    s.feed(&mut Mux::new(Role::Server, settings()), 7, &bytes);
    assert_eq!(s.log.len(), 9);
    (bytes, s.log)
}

#[test]
fn every_split_and_every_park_agree() {
    let (bytes, log) = conversation();
    for at in 0..=bytes.len() {
        for park in [false, true] {
            let mut server = Mux::new(Role::Server, settings());
            let mut s = End::default();
            s.feed(&mut server, 7, &bytes[..at]);
            if park && let Some(compact) = server.park() {
                assert!(s.rest.is_empty());
                assert!(compact.len() <= 6 + server.streams() * 6);
                let unparked = Mux::unpark(Role::Server, settings(), &compact);
                assert_eq!(format!("{unparked:?}"), format!("{server:?}"));
                server = unparked;
            }
            s.feed(&mut server, 7, &bytes[at..]);
            assert_eq!(s.log, log, "split at {at}, park {park}");
        }
    }
    let mut server = Mux::new(Role::Server, settings());
    let mut s = End::default();
    for byte in bytes.chunks(1) {
        s.feed(&mut server, 7, byte);
    }
    assert_eq!(s.log, log);
}

#[test]
fn parking() {
    assert!(
        Mux::new(Role::Server, settings())
            .park()
            .is_some_and(|c| c.is_empty())
    );
    let (client, ..) = pair();
    let compact = client.park().expect("whole frames");
    assert!(!client.mid_message());
    // Junk never panics and never gives a usable codec.
    for end in 0..compact.len() {
        let cut = &compact[..end];
        let mux = Mux::unpark(Role::Client, settings(), cut);
        assert!(mux.finished() || end == 0 || mux.streams() == 0);
    }
    let junk = vec![0xff; 40].into_boxed_slice();
    assert!(Mux::unpark(Role::Client, settings(), &junk).finished());
}

fn refused(frame: FrameHeader, payload: &[u8]) -> Option<&'static str> {
    let (.., mut server, mut s) = pair();
    let mut bytes = Vec::new();
    frame.write(&mut bytes);
    bytes.extend_from_slice(payload);
    match s.feed(&mut server, 0, &bytes) {
        Why::Closed(Some(ProtocolError { detail, .. })) => {
            assert_eq!(
                s.log.last().map(String::as_str),
                Some("Reset { stream: 1, reason: Disconnected }")
            );
            assert!(server.finished() && server.streams() == 0);
            Some(detail)
        }
        _ => None,
    }
}

#[test]
fn nonsense() {
    let frame = |kind, stream: StreamId, len: usize| FrameHeader {
        len: len as u32,
        kind,
        flags: Flags::default(),
        stream,
    };
    for (header, payload, detail) in [
        (
            frame(Kind::Data, 1, 257),
            &[0; 257][..],
            "testmux.frame_size",
        ),
        (frame(Kind::Reset, 1, 2), &[0; 2], "testmux.frame_size"),
        (frame(Kind::Window, 1, 3), &[0; 3], "testmux.frame_size"),
        (frame(Kind::Heartbeat, 1, 0), &[], "testmux.stream_number"),
        (frame(Kind::Data, 0, 1), &[0], "testmux.stream_number"),
        (frame(Kind::Data, 1, 9), &[0; 9], "testmux.window_overrun"),
        (
            frame(Kind::Window, 1, 4),
            &[255; 4],
            "testmux.window_overrun",
        ),
        (frame(Kind::Data, 3, 1), &[0], "testmux.unknown_stream"),
        (frame(Kind::Data, 2, 1), &[0], "testmux.unknown_stream"),
        (frame(Kind::Reset, 9, 1), &[0], "testmux.unknown_stream"),
        (frame(Kind::Head, 3, 1), &[0], "testmux.malformed_head"),
        (
            frame(Kind::Head, 3, 6),
            &[0, 0, 0, 0, 0, 9],
            "testmux.malformed_head",
        ),
        (
            frame(Kind::Head, 3, 4),
            &[9, 0, 0, 0],
            "testmux.malformed_head",
        ),
        (
            frame(Kind::Head, 1, 4),
            &[1, 0, 0, 200],
            "testmux.unexpected_head",
        ),
        (
            frame(Kind::Head, 3, 4),
            &[1, 0, 0, 200],
            "testmux.unknown_stream",
        ),
        (
            frame(Kind::Head, 3, 4),
            &[2, 0, 0, 0],
            "testmux.unexpected_head",
        ),
        (
            frame(Kind::Trailers, 1, 4),
            &[1, 0, 0, 0],
            "testmux.malformed_head",
        ),
    ] {
        assert_eq!(refused(header, payload), Some(detail), "{header:?}");
    }
    let (.., mut server, mut s) = pair();
    let unknown_type = [0, 0, 0, 0, 77, 0, 0, 0, 0, 1];
    assert!(matches!(
        s.feed(&mut server, 0, &unknown_type),
        Why::Closed(Some(_))
    ));
}

#[test]
fn end_of_input() {
    let (_, _, mut server, mut s) = pair();
    assert_eq!(server.eof(0, &mut s.events), None);
    s.drain();
    assert_eq!(s.log[1], "Reset { stream: 1, reason: Disconnected }");
    assert!(server.finished());
    let (_, _, mut server, mut s) = pair();
    s.feed(&mut server, 0, b"\0");
    assert!(server.mid_message() && server.park().is_none());
    assert!(server.eof(1, &mut s.events).is_some());
}
