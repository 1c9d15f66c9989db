//! Reads answers, and knows when one is complete.
//!
//! A load generator gets the same answer again and again. The head of the last complete response is
//! remembered: bytes that begin with the very same head, line end for line end, are framed in the
//! very same way, so they need no parsing. Whatever differs in one byte goes through the codec.
//! Nothing may be counted as an answer that the codec would have refused.

use std::sync::Arc;

use moorgate_codecs::http1::Client;
use moorgate_codecs::websocket::{self, Limits, Opcode, Role};
use moorgate_codecs::{Codec, Event, Events, Out, Why};

use crate::exchange::{Answer, Exchange, WEBSOCKET_KEY};

/// Why an exchange failed. A response with an error status is not a failure: it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection came about.
    Connect,
    /// The handshake of TLS failed, or agreed on another protocol.
    Tls,
    /// No answer in time.
    Timeout,
    /// The connection ended before the answer was complete.
    Reset,
    /// The stream was reset (RST_STREAM).
    StreamReset,
    /// The server left before it looked at the stream (GOAWAY).
    GoAway,
    /// What came was not an answer.
    Protocol,
}

/// How far a connection's answer has been read.
#[derive(Debug, Default)]
pub enum Progress {
    /// Nothing of it.
    #[default]
    Start,
    /// The head; so many bytes of the body are missing.
    Body { left: u64, status: u16 },
    /// So many bytes of the echo.
    Echo(usize),
    /// Only the codec knows.
    Codec(Box<Decoding>),
    /// Of the answer to an opening handshake, only the codec knows.
    Opening(Box<Opening>),
    /// A message of a WebSocket.
    Frames(Box<Frames>),
}

/// An opening handshake.
#[derive(Debug)]
pub struct Opening {
    client: Client,
    rest: Vec<u8>,
}

/// Frames of a WebSocket.
#[derive(Debug)]
pub struct Frames {
    reader: websocket::Reader,
    /// An unfinished header or control frame.
    rest: Vec<u8>,
    /// Bytes of the message.
    got: usize,
}

/// A response on its way through the codec.
#[derive(Debug)]
pub struct Decoding {
    client: Client,
    /// An unfinished element.
    rest: Vec<u8>,
    status: u16,
    /// Becomes known when the response is complete and the connection stays open.
    candidate: Option<Known>,
}

/// A head and what it means.
#[derive(Debug)]
struct Known {
    head: Vec<u8>,
    body: u64,
    status: u16,
}

/// What the bytes so far came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is not complete.
    More,
    /// It is. Without `reusable` the connection ends with it. The status of an echo is 0.
    Done { status: u16, reusable: bool },
    /// It never will be.
    Failed(Failure),
}

/// What a worker needs to read the answers of its connections.
#[derive(Debug)]
pub struct Reader {
    exchange: Arc<Exchange>,
    known: Option<Known>,
    events: Events,
    out: Out,
    /// To be sent on the connection that was read last: answers to pings.
    pub replies: Vec<u8>,
}

impl Reader {
    /// A reader of answers to `exchange`.
    #[must_use]
    pub fn new(exchange: Arc<Exchange>) -> Self {
        Self {
            exchange,
            known: None,
            events: Events::default(),
            out: Out::default(),
            replies: Vec::new(),
        }
    }

    /// A new connection: what it has to send before anything else, where it has to.
    pub fn open(&self, progress: &mut Progress) -> Option<Vec<u8>> {
        let (client, bytes) = self.exchange.open()?;
        *progress = Progress::Opening(Box::new(Opening {
            client,
            rest: Vec::new(),
        }));
        Some(bytes)
    }

    /// What is sent each time.
    #[must_use]
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// Reads on.
    #[inline]
    pub fn feed(&mut self, progress: &mut Progress, input: &[u8]) -> Outcome {
        if let Progress::Start = progress
            && let Some(known) = &self.known
            && input.starts_with(&known.head)
        {
            let body = (input.len() - known.head.len()) as u64;
            return body_bytes(progress, known.body, body, known.status);
        }
        match progress {
            Progress::Body { left, status } => {
                let (left, status) = (*left, *status);
                body_bytes(progress, left, input.len() as u64, status)
            }
            _ => self.feed_slow(progress, input),
        }
    }

    fn feed_slow(&mut self, progress: &mut Progress, input: &[u8]) -> Outcome {
        if let Progress::Start = progress {
            *progress = match &self.exchange.answer {
                Answer::Echo => Progress::Echo(0),
                Answer::WebSocket { frame, .. } if frame == input => {
                    return Outcome::Done {
                        status: 0,
                        reusable: true,
                    };
                }
                Answer::WebSocket { .. } => Progress::Frames(Box::new(Frames {
                    reader: websocket::Reader::new(Role::Client, Limits::default()),
                    rest: Vec::new(),
                    got: 0,
                })),
                Answer::Http { settings, awaiting } => Progress::Codec(Box::new(Decoding {
                    client: Client::unpark(Arc::clone(settings), awaiting),
                    rest: Vec::new(),
                    status: 0,
                    candidate: None,
                })),
            };
        }
        let outcome = match progress {
            Progress::Echo(got) => echo_bytes(got, &self.exchange.bytes, input),
            Progress::Codec(decoding) => {
                let outcome = decoding.feed(input, &mut self.events, &mut self.out);
                if let Outcome::Done { reusable: true, .. } = outcome
                    && let Some(known) = decoding.candidate.take()
                {
                    self.known = Some(known);
                }
                outcome
            }
            Progress::Opening(opening) => opening.feed(input, &mut self.events, &mut self.out),
            Progress::Frames(frames) => {
                let Answer::WebSocket { payload, .. } = &self.exchange.answer else {
                    return Outcome::Failed(Failure::Protocol);
                };
                let outcome = frames.feed(input, payload, &mut self.replies);
                if outcome == Outcome::More && frames.is_idle() {
                    *progress = Progress::Start;
                }
                outcome
            }
            Progress::Start | Progress::Body { .. } => Outcome::More,
        };
        if outcome != Outcome::More {
            *progress = Progress::Start;
        }
        outcome
    }

    /// The peer will send no more.
    pub fn eof(&mut self, progress: &mut Progress) -> Outcome {
        match std::mem::take(progress) {
            Progress::Codec(mut decoding) => {
                let refused = decoding.client.eof(decoding.rest.len(), &mut self.events);
                let ended = drain(&mut self.events, |event| {
                    matches!(event, Event::Data { end: true, .. })
                });
                match (ended, refused) {
                    (true, None) => Outcome::Done {
                        status: decoding.status,
                        reusable: false,
                    },
                    _ => Outcome::Failed(Failure::Reset),
                }
            }
            _ => Outcome::Failed(Failure::Reset),
        }
    }
}

impl Opening {
    /// Done when the connection is a WebSocket.
    fn feed(&mut self, input: &[u8], events: &mut Events, out: &mut Out) -> Outcome {
        self.rest.extend_from_slice(input);
        let consumed = self.client.decode(0, &self.rest, events, out);
        out.bytes.clear();
        self.rest.drain(..consumed.bytes);
        let accept = websocket::accept_key(WEBSOCKET_KEY);
        let refused = drain(events, |event| match event {
            Event::Head { head, .. } => {
                head.status != 101 || head.get(b"sec-websocket-accept") != Some(accept.as_bytes())
            }
            _ => false,
        });
        match consumed.why {
            _ if refused => Outcome::Failed(Failure::Protocol),
            // Nobody has anything to say before we do.
            Why::Upgraded if self.rest.is_empty() => Outcome::Done {
                status: 101,
                reusable: true,
            },
            Why::NeedMore => Outcome::More,
            _ => Outcome::Failed(Failure::Protocol),
        }
    }
}

impl Frames {
    fn is_idle(&self) -> bool {
        self.rest.is_empty() && self.got == 0 && self.reader.is_idle()
    }

    /// Done when a message with this payload is whole, and nothing follows it.
    fn feed(&mut self, input: &[u8], payload: &[u8], replies: &mut Vec<u8>) -> Outcome {
        self.rest.extend_from_slice(input);
        let (got, mut done, mut failed) = (&mut self.got, false, false);
        let read = self.reader.read(&mut self.rest, |event| match event {
            websocket::Event::Data {
                payload: part,
                last,
                ..
            } => {
                failed |= done || !payload[*got..].starts_with(part);
                *got = (*got + part.len()).min(payload.len());
                done = last;
                failed |= last && *got != payload.len();
            }
            websocket::Event::Ping(payload) => {
                websocket::write_frame(true, Opcode::Pong, payload, Some([0; 4]), replies);
            }
            websocket::Event::Pong(_) => {}
            websocket::Event::Close { .. } => failed = true,
        });
        let Ok(count) = read else {
            return Outcome::Failed(Failure::Protocol);
        };
        self.rest.drain(..count);
        match (failed, done) {
            (true, _) => Outcome::Failed(Failure::Protocol),
            (false, false) => Outcome::More,
            (false, true) if self.rest.is_empty() && self.reader.is_idle() => Outcome::Done {
                status: 0,
                reusable: true,
            },
            (false, true) => Outcome::Failed(Failure::Protocol),
        }
    }
}

impl Decoding {
    fn feed(&mut self, input: &[u8], events: &mut Events, out: &mut Out) -> Outcome {
        let whole = self.rest.is_empty();
        if !whole {
            self.rest.extend_from_slice(input);
        }
        let bytes = if whole { input } else { &self.rest[..] };
        let first = whole && self.status == 0;
        let consumed = self.client.decode(0, bytes, events, out);
        out.bytes.clear();
        out.payloads.clear();
        if first {
            self.candidate = candidate(bytes, consumed.bytes, &events.list);
        }
        let status = &mut self.status;
        drain(events, |event| {
            if let Event::Head { head, .. } = event
                && head.status >= 200
            {
                *status = head.status;
            }
            false
        });
        let left = bytes.len() - consumed.bytes;
        if let Why::Closed(Some(_)) | Why::Upgraded = consumed.why {
            return Outcome::Failed(Failure::Protocol);
        }
        if self.client.streams() == 0 {
            return Outcome::Done {
                status: self.status,
                reusable: self.client.room() > 0,
            };
        }
        if whole {
            self.rest.extend_from_slice(&input[input.len() - left..]);
        } else {
            self.rest.drain(..consumed.bytes);
        }
        Outcome::More
    }
}

/// Gives heads back; true when `is` was true of an event.
fn drain(events: &mut Events, mut is: impl FnMut(&Event) -> bool) -> bool {
    let mut found = false;
    let mut list = std::mem::take(&mut events.list);
    for event in list.drain(..) {
        found |= is(&event);
        if let Event::Head { head, .. } | Event::Trailers { head, .. } = event {
            events.give_head(head);
        }
    }
    events.list = list;
    found
}

/// What to remember of a response whose first bytes were decoded: its head, when that came whole and
/// tells the length of the body.
fn candidate(input: &[u8], consumed: usize, events: &[Event]) -> Option<Known> {
    let (status, body) = match events.first()? {
        Event::Head { head, end, .. } if head.status >= 200 => {
            (head.status, if *end { 0 } else { head.content_length? })
        }
        _ => return None,
    };
    let head_end = match events.get(1) {
        Some(Event::Data { range, .. }) => range.start,
        Some(_) => return None,
        None => consumed,
    };
    Some(Known {
        head: input[..head_end].to_vec(),
        body,
        status,
    })
}

#[inline]
fn body_bytes(progress: &mut Progress, left: u64, got: u64, status: u16) -> Outcome {
    if got < left {
        *progress = Progress::Body {
            left: left - got,
            status,
        };
        return Outcome::More;
    }
    *progress = Progress::Start;
    if got > left {
        // Nothing else was asked for.
        return Outcome::Failed(Failure::Protocol);
    }
    Outcome::Done {
        status,
        reusable: true,
    }
}

fn echo_bytes(got: &mut usize, sent: &[u8], input: &[u8]) -> Outcome {
    if !sent[*got..].starts_with(input) {
        return Outcome::Failed(Failure::Protocol);
    }
    *got += input.len();
    if *got < sent.len() {
        return Outcome::More;
    }
    Outcome::Done {
        status: 0,
        reusable: true,
    }
}

#[cfg(test)]
mod tests;
