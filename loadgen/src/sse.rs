//! The client's side of server-sent events: a response that does not end, and the events in it.
//!
//! Events are counted and, where their data is a number as `serve sse` sends it, timed. Between two
//! events nothing is kept but the codec's parked form.

use std::sync::Arc;

use moorgate_codecs::http1::{Client, Settings};
use moorgate_codecs::{Codec, Compact, Event, Events, Out, Why};

/// Bytes of a line that are looked at; no number is longer.
const LINE_BYTES: usize = 32;

/// A subscription that is being read.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    /// An unfinished element of the framing.
    rest: Vec<u8>,
    lines: Lines,
}

/// What came.
#[derive(Debug, Default)]
pub struct Received {
    /// Status of the response, when its head came now.
    pub status: Option<u16>,
    /// Events that ended.
    pub events: u64,
    /// Data of the events that are a number.
    pub numbers: Vec<u64>,
    /// The response is over, or was never one.
    pub ended: bool,
}

impl Subscription {
    /// Of a connection that `compact` was parked with.
    #[must_use]
    pub fn new(settings: &Arc<Settings>, compact: &[u8]) -> Self {
        Self {
            client: Client::unpark(Arc::clone(settings), compact),
            rest: Vec::new(),
            lines: Lines::default(),
        }
    }

    /// What to keep while nothing comes; `None` in the middle of an event.
    #[must_use]
    pub fn park(&self) -> Option<Compact> {
        if !self.rest.is_empty() || self.lines.in_event() {
            return None;
        }
        self.client.park()
    }

    /// Reads on.
    pub fn feed(&mut self, input: &[u8], events: &mut Events, out: &mut Out) -> Received {
        let mut received = Received::default();
        let fresh = self.rest.is_empty();
        if !fresh {
            self.rest.extend_from_slice(input);
        }
        let bytes = if fresh { input } else { &self.rest[..] };
        let consumed = self.client.decode(0, bytes, events, out);
        let mut list = std::mem::take(&mut events.list);
        for event in list.drain(..) {
            match event {
                Event::Head { head, .. } => {
                    if head.status >= 200 {
                        received.status = Some(head.status);
                    }
                    events.give_head(head);
                }
                Event::Data { range, .. } => self.lines.feed(&bytes[range], &mut received),
                Event::Trailers { head, .. } => events.give_head(head),
                Event::Reset { .. }
                | Event::Writable { .. }
                | Event::GoAway { .. }
                | Event::Settled => {}
            }
        }
        events.list = list;
        received.ended = consumed.why != Why::NeedMore || self.client.streams() == 0;
        if fresh {
            self.rest.extend_from_slice(&input[consumed.bytes..]);
        } else {
            self.rest.drain(..consumed.bytes);
        }
        received
    }
}

/// Takes a stream of events apart into lines.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    /// A field came since the last event.
    fields: bool,
    number: Option<u64>,
}

impl Lines {
    fn in_event(&self) -> bool {
        self.fields || !self.line.is_empty()
    }

    fn feed(&mut self, bytes: &[u8], received: &mut Received) {
        for &byte in bytes {
            if byte != b'\n' {
                if self.line.len() < LINE_BYTES {
                    self.line.push(byte);
                }
                continue;
            }
            let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
            if line.is_empty() {
                if self.fields {
                    received.events += 1;
                    received.numbers.extend(self.number.take());
                }
                self.fields = false;
            } else if line[0] != b':' {
                self.fields = true;
                if let Some(data) = line.strip_prefix(b"data:") {
                    self.number = std::str::from_utf8(data)
                        .ok()
                        .and_then(|text| text.trim().parse().ok());
                }
            }
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{Answer, Exchange, Request};
    use crate::target::Target;

    fn subscription() -> (Subscription, Arc<Settings>) {
        let target = Target::parse("http://127.0.0.1:81/", false).unwrap();
        let request = Request {
            method: "GET",
            headers: &[],
            body: b"",
            keep_alive: true,
        };
        match Exchange::request(&target, &request).unwrap().answer {
            Answer::Http { settings, awaiting } => {
                (Subscription::new(&settings, &awaiting), settings)
            }
            _ => unreachable!(),
        }
    }

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

    #[test]
    fn events_at_every_split() {
        let body = b": comment\n\nid: 1\ndata: 123\n\ndata: x\r\n\r\n";
        let chunk = format!(
            "{:x}\r\n{}\r\n",
            body.len(),
            std::str::from_utf8(body).unwrap()
        );
        let text = [HEAD, chunk.as_bytes()].concat();
        for size in 1..=text.len() {
            let (mut subscription, _) = subscription();
            let (mut events, mut out) = (Events::default(), Out::default());
            let (mut status, mut count, mut numbers) = (None, 0, Vec::new());
            for piece in text.chunks(size) {
                let received = subscription.feed(piece, &mut events, &mut out);
                assert!(!received.ended);
                status = status.or(received.status);
                count += received.events;
                numbers.extend(received.numbers);
            }
            assert_eq!((status, count), (Some(200), 2));
            assert_eq!(numbers, [123]);
            assert!(subscription.park().is_some());
        }
    }

    #[test]
    fn it_goes_on_after_parking() {
        let (mut first, settings) = subscription();
        let (mut events, mut out) = (Events::default(), Out::default());
        assert!(!first.feed(HEAD, &mut events, &mut out).ended);
        let compact = first.park().unwrap();
        let mut second = Subscription::new(&settings, &compact);
        assert!(!second.feed(b"9\r\ndata: 7\n", &mut events, &mut out).ended);
        assert!(second.park().is_none(), "an event is open");
        let received = second.feed(b"\n\r\n0\r\n\r\n", &mut events, &mut out);
        assert_eq!((received.events, received.numbers), (1, vec![7]));
        assert!(received.ended);
    }

    #[test]
    fn what_is_no_response_is_over() {
        let (mut subscription, _) = subscription();
        let (mut events, mut out) = (Events::default(), Out::default());
        let received = subscription.feed(b"220 hello\r\n\r\n", &mut events, &mut out);
        assert!(received.ended && received.status.is_none());
    }
}
