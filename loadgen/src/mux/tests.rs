//! Connections against the codec's own server: what counts as an answer, and what does not.

use std::sync::Arc;

use moorgate_codecs::HeadKind;
use moorgate_codecs::http2::Settings;

use super::*;
use crate::exchange::Request;
use crate::target::Target;

/// A client and the server's codec, with what each has to say.
struct Pair {
    call: Call,
    client: Client,
    server: Connection,
    events: Events,
    sent: Out,
    answered: Out,
    done: Vec<Done>,
}

impl Pair {
    fn new(call: Call) -> Self {
        Self {
            client: Client::new(&call),
            call,
            server: Connection::new(Role::Server, Arc::new(Settings::default())),
            events: Events::default(),
            sent: Out::default(),
            answered: Out::default(),
            done: Vec::new(),
        }
    }

    fn start(&mut self, at_us: u64) {
        assert!(
            self.client
                .start(&self.call, (at_us, at_us), &mut self.sent)
        );
    }

    /// The server reads; gives the streams on which it was asked something.
    fn serve(&mut self) -> Vec<StreamId> {
        let bytes = std::mem::take(&mut self.sent.bytes);
        let events = &mut self.events;
        let consumed = self.server.decode(0, &bytes, events, &mut self.answered);
        assert_eq!(consumed.bytes, bytes.len());
        let list = std::mem::take(&mut events.list);
        let asked = list.into_iter().filter_map(|event| match event {
            Event::Head { stream, .. } => Some(stream),
            _ => None,
        });
        asked.collect()
    }

    fn head(&mut self, stream: StreamId, fields: &[(&str, &str)], end: bool) {
        let mut head = Head::new();
        head.kind = HeadKind::Response;
        head.status = 200;
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        let out = &mut self.answered;
        self.server.send_head(stream, &head, end, out).unwrap();
    }

    fn body(&mut self, stream: StreamId, bytes: &[u8], end: bool) {
        let out = &mut self.answered;
        self.server
            .send_data(stream, bytes.len(), end, out)
            .unwrap();
        place(out, bytes);
    }

    fn trailers(&mut self, stream: StreamId, status: &str) {
        let mut head = Head::new();
        head.kind = HeadKind::Trailers;
        head.push(b"grpc-status", status.as_bytes());
        let out = &mut self.answered;
        self.server.send_trailers(stream, &head, out).unwrap();
    }

    /// The client reads; gives what ended.
    fn read(&mut self) -> Vec<Result<Answer, Failure>> {
        let bytes = std::mem::take(&mut self.answered.bytes);
        let (events, done) = (&mut self.events, &mut self.done);
        let at = (&self.call, 0);
        let (used, _) = self.client.feed(at, &bytes, events, &mut self.sent, done);
        assert_eq!(used, bytes.len());
        done.drain(..).map(|done| done.result).collect()
    }
}

fn target(scheme: &str) -> Target {
    Target::parse(&format!("{scheme}://127.0.0.1:81/x"), false).unwrap()
}

fn request(body: &[u8]) -> Call {
    let request = Request {
        method: "POST",
        headers: &[],
        body,
        keep_alive: true,
    };
    Call::http(&target("http"), &request).unwrap()
}

fn grpc(bidi: bool) -> Call {
    Call::grpc(&target("grpc"), &[], b"abc", bidi).unwrap()
}

const MESSAGE: &[u8] = b"\0\0\0\0\x03abc";

#[test]
fn answers_come_in_any_order() {
    let mut pair = Pair::new(request(b"body"));
    (1..=3).for_each(|at_us| pair.start(at_us));
    let asked = pair.serve();
    assert_eq!(asked, [1, 3, 5]);
    for stream in [5, 1, 3] {
        pair.head(stream, &[], false);
        pair.body(stream, b"x", true);
    }
    assert_eq!(pair.read(), [Ok(Answer::Status(200)); 3]);
    assert_eq!((pair.client.streams(), pair.client.is_idle()), (0, true));
    assert!(pair.client.park().is_some());
}

#[test]
fn a_call_has_one_message_and_a_status() {
    let ok = Ok(Answer::Status(200));
    let protocol = Err(Failure::Protocol);
    for (messages, status, result) in [
        (1, "0", ok),
        (0, "0", protocol),
        (2, "0", protocol),
        (0, "7", Ok(Answer::Grpc(7))),
        (1, "x", protocol),
    ] {
        let mut pair = Pair::new(grpc(false));
        pair.start(0);
        pair.serve();
        pair.head(1, &[], false);
        (0..messages).for_each(|_| pair.body(1, MESSAGE, false));
        pair.trailers(1, status);
        assert_eq!(
            pair.read(),
            [result],
            "{messages} messages, status {status}"
        );
    }
    // Trailers only, and an end without any.
    let mut pair = Pair::new(grpc(false));
    pair.start(0);
    pair.start(0);
    pair.serve();
    pair.head(1, &[("grpc-status", "14")], true);
    pair.head(3, &[], false);
    pair.body(3, MESSAGE, true);
    assert_eq!(pair.read(), [Ok(Answer::Grpc(14)), protocol]);
}

#[test]
fn a_stream_carries_messages_until_it_is_ended() {
    let mut pair = Pair::new(grpc(true));
    pair.start(0);
    assert_eq!(pair.serve(), [1]);
    pair.head(1, &[], false);
    for at in 1..4 {
        pair.body(1, &MESSAGE[..4], false);
        assert_eq!(pair.read(), []);
        pair.body(1, &MESSAGE[4..], false);
        assert_eq!(pair.read(), [Ok(Answer::Status(200))]);
        assert!(pair.client.is_idle());
        pair.start(at);
        assert!(!pair.client.is_idle());
        assert!(pair.serve().is_empty(), "no new stream");
    }
    pair.body(1, MESSAGE, false);
    pair.read();
    assert_eq!(pair.client.end_idle(9, &mut pair.sent), 1);
    pair.serve();
    pair.trailers(1, "0");
    assert_eq!(pair.read(), [Ok(Answer::Ended)]);
    // A message that nobody asked for.
    pair.start(0);
    pair.serve();
    pair.head(3, &[], false);
    pair.body(3, &[MESSAGE, MESSAGE].concat(), false);
    assert_eq!(pair.read(), [Err(Failure::Protocol)]);
}

#[test]
fn silent_streams_go_on_after_parking() {
    let mut pair = Pair::new(grpc(true));
    pair.start(0);
    pair.start(0);
    assert_eq!(pair.serve(), [1, 3]);
    pair.head(3, &[], false);
    pair.body(3, MESSAGE, false);
    assert_eq!(pair.read(), [Ok(Answer::Status(200))]);
    assert!(pair.client.park().is_none(), "a message is under way");
    pair.head(1, &[], false);
    pair.body(1, MESSAGE, false);
    assert_eq!(pair.read(), [Ok(Answer::Status(200))]);
    let (codec, silent) = pair.client.park().unwrap();
    pair.client = Client::unpark(&pair.call, &codec, &silent);
    for stream in [1, 3] {
        pair.start(0);
        assert!(pair.serve().is_empty(), "no new stream");
        pair.body(stream, MESSAGE, false);
        assert_eq!(pair.read(), [Ok(Answer::Status(200))]);
    }
}

#[test]
fn resets_goaway_timeouts_and_the_end_are_told_apart() {
    let mut pair = Pair::new(request(b""));
    (1..=4).for_each(|at_us| pair.start(at_us));
    pair.serve();
    pair.server
        .reset(1, ResetReason::Cancel, &mut pair.answered);
    assert_eq!(pair.read(), [Err(Failure::StreamReset)]);
    pair.client.expire(2, &mut pair.sent, &mut pair.done);
    assert_eq!(pair.done.pop().unwrap().result, Err(Failure::Timeout));
    assert_eq!(pair.client.oldest_us(), Some(3));
    // GOAWAY with 5 as the last stream that is looked at.
    let goaway = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x05\0\0\0\0";
    pair.answered.bytes.extend_from_slice(goaway);
    assert_eq!(pair.read(), [Err(Failure::GoAway)]);
    assert!(!pair.client.can_start(10) && !pair.client.is_finished());
    pair.client.cut(Failure::Reset, &mut pair.done);
    assert_eq!(pair.done.pop().unwrap().result, Err(Failure::Reset));
    assert!(pair.client.is_finished());
}
