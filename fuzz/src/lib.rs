//! What the fuzz targets share: a codec is driven with the same bytes whole, cut in pieces, and parked
//! at every pause, and must say the same each time.

use moorgate_codecs::{Codec, Event, Events, Head, HeadKind, Out, StreamId, Why};

/// What a codec said, without what may depend on how its input was cut.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Events in order; neighbouring data of a stream is one.
    pub list: Vec<Thing>,
}

/// One thing said.
#[derive(Debug, PartialEq, Eq)]
pub enum Thing {
    /// A head, as text.
    Head(StreamId, String, bool),
    /// Body bytes.
    Data(StreamId, Vec<u8>),
    /// A body ended.
    End(StreamId),
    /// Trailers, as text.
    Trailers(StreamId, String),
    /// Anything else, as text.
    Other(String),
}

/// A head as text.
#[must_use]
pub fn describe(head: &Head) -> String {
    format!(
        "{head:?} {:?} {} {} {:?} {}",
        head.content_length,
        head.upgrade,
        head.expect_continue,
        head.scheme().escape_ascii().to_string(),
        head.one_way
    )
}

impl Said {
    fn take(&mut self, input: &[u8], events: &mut Events) -> Option<StreamId> {
        let mut ended = None;
        for event in std::mem::take(&mut events.list) {
            let thing = match event {
                Event::Head { stream, head, end } => {
                    if end {
                        ended = Some(stream);
                    }
                    let thing = Thing::Head(stream, describe(&head), end);
                    events.give_head(head);
                    thing
                }
                Event::Data { stream, range, end } => {
                    let data = &input[range];
                    match self.list.last_mut() {
                        Some(Thing::Data(other, bytes)) if *other == stream => {
                            bytes.extend_from_slice(data);
                        }
                        _ if data.is_empty() => {}
                        _ => self.list.push(Thing::Data(stream, data.to_vec())),
                    }
                    if !end {
                        continue;
                    }
                    ended = Some(stream);
                    Thing::End(stream)
                }
                Event::Trailers { stream, head } => {
                    ended = Some(stream);
                    let thing = Thing::Trailers(stream, describe(&head));
                    events.give_head(head);
                    thing
                }
                other => Thing::Other(format!("{other:?}")),
            };
            self.list.push(thing);
        }
        ended
    }
}

/// A number that depends on all bytes, to cut them by.
#[must_use]
pub fn hash(bytes: &[u8]) -> usize {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    (bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold) >> 16) as usize
}

/// How a codec is driven.
pub struct Drive<'a, C> {
    /// Makes a codec in its starting state.
    pub make: &'a dyn Fn() -> C,
    /// What a park and an unpark make of it.
    pub parked: &'a dyn Fn(&C) -> Option<C>,
    /// Called when a message ended; true when it sent something that lets the codec go on.
    pub answer: &'a dyn Fn(&mut C, StreamId, &mut Out) -> bool,
    /// The bytes end with the connection.
    pub eof: bool,
}

impl<C: Codec> Drive<'_, C> {
    /// Gives the codec the pieces one after the other.
    #[must_use]
    pub fn run(&self, pieces: &[&[u8]], park: bool) -> (Said, Vec<u8>) {
        let mut codec = (self.make)();
        let mut said = Said::default();
        let mut events = Events::default();
        let mut out = Out::default();
        let mut rest = Vec::new();
        let mut over = false;
        for piece in pieces {
            rest.extend_from_slice(piece);
            while !over {
                let consumed = codec.decode(0, &rest, &mut events, &mut out);
                assert!(consumed.bytes <= rest.len());
                assert!(events.list.len() <= 2 * rest.len() + 2);
                let ended = said.take(&rest, &mut events);
                rest.drain(..consumed.bytes);
                match consumed.why {
                    Why::NeedMore | Why::Paused => {}
                    why => {
                        said.list.push(Thing::Other(format!("{why:?}")));
                        over = true;
                    }
                }
                if !ended.is_some_and(|stream| !over && (self.answer)(&mut codec, stream, &mut out))
                {
                    break;
                }
            }
            if park
                && rest.is_empty()
                && let Some(unparked) = (self.parked)(&codec)
            {
                codec = unparked;
            }
        }
        if self.eof && !over {
            let error = codec.eof(rest.len(), &mut events);
            said.take(&[], &mut events);
            said.list.push(Thing::Other(format!("{error:?}")));
        }
        (said, out.bytes)
    }

    /// Whole, in three pieces, byte by byte, and parked between the pieces: all must agree.
    pub fn check(&self, bytes: &[u8]) {
        let whole = self.run(&[bytes], false);
        let hash = hash(bytes);
        let first = hash % (bytes.len() + 1);
        let second = first + (hash >> 20) % (bytes.len() - first + 1);
        let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
        for park in [false, true] {
            assert_eq!(self.run(&pieces, park), whole);
        }
        if bytes.len() < 512 {
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(self.run(&single, true), whole);
        }
    }
}

/// Encoded output as bytes, with the payload put in.
#[must_use]
pub fn render(out: &Out, offered: &[u8]) -> Vec<u8> {
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

/// An empty response head.
#[must_use]
pub fn response(status: u16) -> Head {
    let mut head = Head::new();
    head.kind = HeadKind::Response;
    head.status = status;
    head
}
