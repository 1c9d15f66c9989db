//! The HTTP/2 side of a server: requests in, answers into the output, for each stream what `http` does for a
//! connection, and the echo of gRPC. No socket is touched here.
//!
//! Bodies go out in turns, a frame for each stream, as far as windows and the room in the output allow. What
//! is echoed and not taken by the client's window is held, and the client gets no credit for it.

use std::sync::Arc;

use moorgate::engine::reactor::random::Random;
use moorgate_codecs::http2::{Connection, Role, Settings};
use moorgate_codecs::{Codec, Compact, Event, Events, Head, HeadKind, Out, StreamId, Why};

use super::answers::Answers;
use crate::cli::Service;
use crate::mux::place;

/// Bytes of a body that one stream sends before it is the next one's turn.
const TURN_BYTES: usize = 16 * 1024;
/// Output beyond which nothing more is made before it is written.
const OUT_BYTES: usize = 256 * 1024;
/// `UNAVAILABLE`: what failing calls of gRPC get.
const UNAVAILABLE: &[u8] = b"14";

/// What a stream is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Reads the request's body and drops it. `head`: the answer has no body.
    Taking { head: bool },
    /// Answers at the given time.
    Waiting { head: bool, due_ms: u64 },
    /// Sends a body of which so much is missing.
    Sending { left: u64 },
    /// Sends the request's body back as it comes. `ended`: all of it came.
    Echoing { ended: bool },
    /// Sends event `next` at the given time, if any.
    Events { next: u32, due_ms: Option<u64> },
}

#[derive(Debug)]
struct Stream {
    id: StreamId,
    doing: Doing,
    /// To be echoed, and not taken by the window yet.
    held: Vec<u8>,
}

/// What is kept of the streams while their connection is parked.
#[derive(Debug)]
pub(super) struct Silent {
    codec: Compact,
    streams: Box<[(StreamId, Doing)]>,
}

/// A connection of HTTP/2.
#[derive(Debug)]
pub(super) struct Mux {
    codec: Connection,
    /// In the order of their turns.
    streams: Vec<Stream>,
    /// Only the room in the output ended what was sent last.
    more: bool,
}

/// What answers are made with.
pub(super) struct Tools<'a> {
    pub(super) answers: &'a Answers,
    pub(super) random: &'a mut Random,
    pub(super) events: &'a mut Events,
    pub(super) out: &'a mut Out,
    pub(super) head: &'a mut Head,
    pub(super) event: &'a mut Vec<u8>,
    pub(super) now_ms: u64,
}

impl Mux {
    /// A new connection.
    pub(super) fn new(settings: &Arc<Settings>) -> Self {
        Self {
            codec: Connection::new(Role::Server, Arc::clone(settings)),
            streams: Vec::new(),
            more: false,
        }
    }

    /// There is more to send, and only the room for it was missing.
    pub(super) fn has_more(&self) -> bool {
        self.more
    }

    /// Everything made so far was written.
    pub(super) fn written(&mut self) {
        self.codec.written();
    }

    /// The next time a stream wants to be called.
    pub(super) fn due_ms(&self) -> Option<u64> {
        let due = self.streams.iter().filter_map(|stream| match stream.doing {
            Doing::Waiting { due_ms, .. } => Some(due_ms),
            Doing::Events { due_ms, .. } => due_ms,
            _ => None,
        });
        due.min()
    }

    /// Reads requests and answers them into the output. Gives the number of bytes that are done with, and
    /// whether the connection goes on.
    pub(super) fn feed(&mut self, input: &[u8], tools: &mut Tools<'_>) -> (usize, bool) {
        let consumed = (self.codec).decode(tools.now_ms, input, tools.events, tools.out);
        let mut list = std::mem::take(&mut tools.events.list);
        for event in list.drain(..) {
            match event {
                Event::Head { stream, head, end } => {
                    self.request(stream, &head, end, tools);
                    tools.events.give_head(head);
                }
                Event::Data { stream, range, end } => {
                    self.data(stream, &input[range], end, tools);
                }
                Event::Trailers { stream, head } => {
                    // They are not echoed: the body ends without them.
                    self.data(stream, b"", true, tools);
                    tools.events.give_head(head);
                }
                Event::Reset { stream, .. } => self.streams.retain(|one| one.id != stream),
                Event::Writable { .. } | Event::GoAway { .. } | Event::Settled => {}
            }
        }
        tools.events.list = list;
        tools.events.notes.clear();
        self.pump(tools);
        let open = !matches!(consumed.why, Why::Closed(_)) && !self.codec.finished();
        (consumed.bytes, open)
    }

    fn request(&mut self, id: StreamId, head: &Head, end: bool, tools: &mut Tools<'_>) {
        let grpc = tools.answers.service == Service::Grpc;
        if head.expect_continue && !end {
            tools.head.clear();
            tools.head.kind = HeadKind::Response;
            tools.head.status = 100;
            // It has nothing in it that could not be encoded.
            let _ = self.codec.send_head(id, tools.head, false, tools.out);
        }
        let doing = if grpc {
            let failed = tools.answers.status(tools.random.next_u64()) != 200;
            tools.head.clear();
            tools.head.kind = HeadKind::Response;
            tools.head.status = 200;
            tools.head.push(b"content-type", b"application/grpc");
            if failed {
                tools.head.push(b"grpc-status", UNAVAILABLE);
            }
            let _ = self.codec.send_head(id, tools.head, failed, tools.out);
            if failed {
                return;
            }
            Doing::Echoing { ended: end }
        } else if tools.answers.echo {
            let length = if end { Some(0) } else { head.content_length };
            tools.answers.head(tools.head, 200, length);
            let _ = self.codec.send_head(id, tools.head, end, tools.out);
            if end {
                return;
            }
            Doing::Echoing { ended: false }
        } else {
            Doing::Taking {
                head: head.method() == b"HEAD",
            }
        };
        self.streams.push(Stream {
            id,
            doing,
            held: Vec::new(),
        });
        if end {
            self.request_read(self.streams.len() - 1, tools);
        }
    }

    fn data(&mut self, id: StreamId, payload: &[u8], end: bool, tools: &mut Tools<'_>) {
        let Some(at) = self.streams.iter().position(|stream| stream.id == id) else {
            // Answered or failed already: the client may send on.
            return self.codec.release(id, payload.len(), tools.out);
        };
        let stream = &mut self.streams[at];
        match &mut stream.doing {
            Doing::Echoing { ended } => {
                *ended = end;
                let sent = if stream.held.is_empty() {
                    let sent = self.codec.send_data(id, payload.len(), false, tools.out);
                    place(tools.out, payload);
                    sent.unwrap_or(payload.len())
                } else {
                    0
                };
                stream.held.extend_from_slice(&payload[sent..]);
                self.codec.release(id, sent, tools.out);
            }
            _ => self.codec.release(id, payload.len(), tools.out),
        }
        if end {
            self.request_read(at, tools);
        }
    }

    /// The request is complete: answers, now or later.
    fn request_read(&mut self, at: usize, tools: &mut Tools<'_>) {
        let delay_ms = tools.answers.delay_ms;
        if let Doing::Taking { head } = self.streams[at].doing {
            self.streams[at].doing = Doing::Waiting {
                head,
                due_ms: tools.now_ms + delay_ms,
            };
            if delay_ms == 0 {
                self.answer(at, tools);
            }
        }
    }

    /// Begins the answer of a stream that waits; its body follows when it is pumped.
    fn answer(&mut self, at: usize, tools: &mut Tools<'_>) {
        let Stream { id, doing, .. } = &mut self.streams[at];
        let Doing::Waiting { head, .. } = *doing else {
            return;
        };
        let status = tools.answers.status(tools.random.next_u64());
        let events = tools.answers.service == Service::Sse && status == 200;
        let size = if status == 200 { tools.answers.size } else { 0 };
        let length = if events { None } else { Some(size) };
        let end = head || length == Some(0);
        tools.answers.head(tools.head, status, length);
        let _ = self.codec.send_head(*id, tools.head, end, tools.out);
        *doing = match (end, events) {
            (true, _) => Doing::Sending { left: 0 },
            (false, true) => Doing::Events {
                next: 0,
                due_ms: Some(tools.now_ms),
            },
            (false, false) => Doing::Sending { left: size },
        };
    }

    /// The time of at least one stream has come.
    pub(super) fn on_due(&mut self, tools: &mut Tools<'_>) {
        for at in 0..self.streams.len() {
            if let Doing::Waiting { due_ms, .. } = self.streams[at].doing
                && due_ms <= tools.now_ms
            {
                self.answer(at, tools);
            }
        }
        self.pump(tools);
    }

    /// Sends what there is to send and room for.
    pub(super) fn pump(&mut self, tools: &mut Tools<'_>) {
        self.more = false;
        loop {
            let mut moved = false;
            let mut at = 0;
            while at < self.streams.len() {
                if tools.out.bytes.len() >= OUT_BYTES {
                    // Whoever is next begins next time.
                    self.streams.rotate_left(at);
                    self.more = true;
                    return;
                }
                let (progress, over) = turn(&mut self.codec, &mut self.streams[at], tools);
                moved |= progress;
                if over {
                    self.streams.remove(at);
                } else {
                    at += 1;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// What to keep while nothing comes; `None` in the middle of something.
    pub(super) fn park(&self) -> Option<Silent> {
        let silent = !self.more
            && self.streams.iter().all(|stream| match stream.doing {
                Doing::Echoing { ended } => stream.held.is_empty() && !ended,
                Doing::Waiting { .. } | Doing::Events { .. } | Doing::Taking { .. } => true,
                Doing::Sending { .. } => false,
            });
        let codec = silent.then(|| self.codec.park()).flatten()?;
        let streams = self.streams.iter().map(|stream| (stream.id, stream.doing));
        Some(Silent {
            codec,
            streams: streams.collect(),
        })
    }

    /// A connection that was parked.
    pub(super) fn unpark(settings: &Arc<Settings>, silent: &Silent) -> Self {
        let streams = silent.streams.iter().map(|&(id, doing)| Stream {
            id,
            doing,
            held: Vec::new(),
        });
        Self {
            codec: Connection::unpark(Role::Server, Arc::clone(settings), &silent.codec),
            streams: streams.collect(),
            more: false,
        }
    }
}

/// A stream sends some of what it has to send: whether it did, and whether it is over with that.
fn turn(codec: &mut Connection, stream: &mut Stream, tools: &mut Tools<'_>) -> (bool, bool) {
    let id = stream.id;
    let out = &mut *tools.out;
    match &mut stream.doing {
        Doing::Taking { .. } | Doing::Waiting { .. } => (false, false),
        Doing::Sending { left: 0 } => (true, true),
        Doing::Sending { left } => {
            let piece = tools.answers.body(*left);
            let piece = &piece[..piece.len().min(TURN_BYTES)];
            let last = piece.len() as u64 == *left;
            let Ok(sent) = codec.send_data(id, piece.len(), last, out) else {
                return (true, true);
            };
            place(out, piece);
            *left -= sent as u64;
            (sent > 0, *left == 0)
        }
        Doing::Echoing { ended } => {
            let mut moved = false;
            if !stream.held.is_empty() {
                let offered = stream.held.len().min(TURN_BYTES);
                let Ok(sent) = codec.send_data(id, offered, false, out) else {
                    return (true, true);
                };
                place(out, &stream.held[..offered]);
                stream.held.drain(..sent);
                codec.release(id, sent, out);
                moved = sent > 0;
            }
            if !*ended || !stream.held.is_empty() {
                return (moved, false);
            }
            stream.held = Vec::new();
            // The stream may have been given up meanwhile, and then nobody waits for its end.
            let _ = if tools.answers.service == Service::Grpc {
                tools.head.clear();
                tools.head.kind = HeadKind::Trailers;
                tools.head.push(b"grpc-status", b"0");
                codec.send_trailers(id, tools.head, out)
            } else {
                codec.send_data(id, 0, true, out).map(|_| ())
            };
            (true, true)
        }
        Doing::Events { next, due_ms } => {
            if due_ms.is_none_or(|due_ms| due_ms > tools.now_ms) {
                return (false, false);
            }
            *due_ms = tools.answers.interval_ms.map(|ms| tools.now_ms + ms);
            Answers::event(*next, tools.event);
            // An event goes out whole or not at all; the next one may.
            if codec.sendable(id) >= tools.event.len() {
                *next = next.wrapping_add(1);
                let _ = codec.send_data(id, tools.event.len(), false, out);
                place(out, tools.event);
            }
            (true, false)
        }
    }
}
