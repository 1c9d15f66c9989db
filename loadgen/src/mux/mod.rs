//! The client's side of an HTTP/2 connection that asks the same again and again: requests, unary calls of
//! gRPC, or messages on its bidirectional streams.
//!
//! Bytes in, results and bytes out: no socket and no clock is touched here. What is counted as an answer
//! was complete and well-formed, and of gRPC had a status.

mod call;
mod grpc;

use std::collections::VecDeque;

use moorgate_codecs::http2::{Connection, Role};
use moorgate_codecs::{Codec, Event, Events, Head, Millis, Out, ResetReason, StreamId};

pub use call::{Call, Kind};
use grpc::Messages;

use crate::reader::Failure;

/// How far a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A request, or a message, is under way.
    Awaiting,
    /// A bidirectional stream on which nothing is.
    Idle,
    /// We said all on a bidirectional stream.
    Ending,
}

/// A stream.
#[derive(Debug)]
struct Flight {
    stream: StreamId,
    phase: Phase,
    status: u16,
    /// Bytes of the body that the codec took.
    sent: usize,
    messages: Messages,
    intended_us: u64,
    began_us: u64,
}

/// What became of a request or message that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// When it was to start.
    pub intended_us: u64,
    /// When it was started.
    pub began_us: u64,
    /// How it ended.
    pub result: Result<Answer, Failure>,
}

/// A complete answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With this status; 200 of a message of gRPC.
    Status(u16),
    /// Of gRPC, with this status, which is not 0.
    Grpc(u32),
    /// A bidirectional stream ended well when we had ended our side. It stands for no message.
    Ended,
}

/// What is left of a connection while it is parked, beside its codec: a number for each stream.
pub type Silent = Box<[StreamId]>;

/// One connection.
#[derive(Debug)]
pub struct Client {
    codec: Connection,
    /// By rising number.
    flights: Vec<Flight>,
    /// Bidirectional streams on which nothing is under way, in the order of their turns.
    idle: VecDeque<StreamId>,
    goaway: bool,
}

impl Client {
    /// A new connection.
    #[must_use]
    pub fn new(call: &Call) -> Self {
        Self::of(Connection::new(Role::Client, call.settings.clone()))
    }

    fn of(codec: Connection) -> Self {
        Self {
            codec,
            flights: Vec::new(),
            idle: VecDeque::new(),
            goaway: false,
        }
    }

    /// A request, or a message, can be started now while at most `streams` are to be open.
    #[must_use]
    pub fn can_start(&self, streams: usize) -> bool {
        !self.idle.is_empty() || self.can_open(streams)
    }

    /// A stream can be opened now while at most `streams` are to be open.
    #[must_use]
    pub fn can_open(&self, streams: usize) -> bool {
        self.flights.len() < streams && self.codec.room() > 0
    }

    /// Streams that are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.flights.len()
    }

    /// Nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle.len() == self.flights.len()
    }

    /// Nothing new can be asked any more, and nothing is under way.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.codec.finished() || self.goaway && self.flights.is_empty()
    }

    /// Starts a request, or a message on a stream that waits for one. False: it cannot be said.
    pub fn start(&mut self, call: &Call, times_us: (u64, u64), out: &mut Out) -> bool {
        match self.idle.pop_front() {
            Some(stream) => self.begin(self.place(stream), call, times_us, out),
            None => self.start_new(call, times_us, out),
        }
    }

    /// The same on a new stream, even if others wait.
    pub fn start_new(&mut self, call: &Call, times_us: (u64, u64), out: &mut Out) -> bool {
        let place = self.open(call, out);
        self.begin(place, call, times_us, out)
    }

    fn begin(
        &mut self,
        place: Option<usize>,
        call: &Call,
        (intended_us, began_us): (u64, u64),
        out: &mut Out,
    ) -> bool {
        let Some(flight) = place.and_then(|place| self.flights.get_mut(place)) else {
            return false;
        };
        flight.phase = Phase::Awaiting;
        flight.sent = 0;
        (flight.intended_us, flight.began_us) = (intended_us, began_us);
        pump(&mut self.codec, flight, call, out);
        true
    }

    fn open(&mut self, call: &Call, out: &mut Out) -> Option<usize> {
        let stream = self.codec.open()?;
        let end = call.body.is_empty() && call.kind != Kind::Bidi;
        self.codec.send_head(stream, &call.head, end, out).ok()?;
        self.flights.push(Flight {
            stream,
            phase: Phase::Idle,
            status: 0,
            sent: 0,
            messages: Messages::default(),
            intended_us: 0,
            began_us: 0,
        });
        Some(self.flights.len() - 1)
    }

    fn place(&self, stream: StreamId) -> Option<usize> {
        self.flights
            .binary_search_by_key(&stream, |flight| flight.stream)
            .ok()
    }

    /// Says all on the bidirectional streams that wait for a message; gives their number.
    pub fn end_idle(&mut self, now_us: u64, out: &mut Out) -> usize {
        let idle = std::mem::take(&mut self.idle);
        for stream in &idle {
            if let Some(place) = self.place(*stream) {
                let flight = &mut self.flights[place];
                flight.phase = Phase::Ending;
                flight.began_us = now_us;
                // An idle stream is open to us: nothing was said on it that could end it.
                let _ = self.codec.send_data(*stream, 0, true, out);
            }
        }
        idle.len()
    }

    /// When the oldest of what is under way began.
    #[must_use]
    pub fn oldest_us(&self) -> Option<u64> {
        let waiting = self.flights.iter();
        let waiting = waiting.filter(|flight| flight.phase != Phase::Idle);
        waiting.map(|flight| flight.began_us).min()
    }

    /// Gives up what began at `until_us` or before.
    pub fn expire(&mut self, until_us: u64, out: &mut Out, done: &mut Vec<Done>) {
        for flight in &self.flights {
            if flight.phase != Phase::Idle && flight.began_us <= until_us {
                self.codec.reset(flight.stream, ResetReason::Cancel, out);
                done.push(flight.done(Err(Failure::Timeout)));
            }
        }
        self.flights
            .retain(|flight| flight.phase == Phase::Idle || flight.began_us > until_us);
    }

    /// The connection is gone: what is under way failed.
    pub fn cut(&mut self, failure: Failure, done: &mut Vec<Done>) {
        let under_way = self.flights.drain(..);
        let under_way = under_way.filter(|flight| flight.phase != Phase::Idle);
        done.extend(under_way.map(|flight| flight.done(Err(failure))));
        self.idle.clear();
    }

    /// Everything made so far was written.
    pub fn written(&mut self) {
        self.codec.written();
    }

    /// Reads on. Gives the bytes that were used up, and whether the connection goes on.
    pub fn feed(
        &mut self,
        (call, now_ms): (&Call, Millis),
        input: &[u8],
        events: &mut Events,
        out: &mut Out,
        done: &mut Vec<Done>,
    ) -> (usize, bool) {
        let consumed = self.codec.decode(now_ms, input, events, out);
        let mut list = std::mem::take(&mut events.list);
        for event in list.drain(..) {
            match event {
                Event::Head { stream, head, end } => {
                    if head.status >= 200 {
                        self.head(call, stream, &head, end, out, done);
                    }
                    events.give_head(head);
                }
                Event::Data { stream, range, end } => {
                    self.codec.release(stream, range.len(), out);
                    self.data(call, stream, &input[range], end, out, done);
                }
                Event::Trailers { stream, head } => {
                    let status = head.get(b"grpc-status");
                    let result = self.judged(call, stream, status);
                    self.end(call, stream, result, out, done);
                    events.give_head(head);
                }
                Event::Reset { stream, reason } => {
                    let failure = match reason {
                        ResetReason::Protocol => Failure::Protocol,
                        _ if self.goaway => Failure::GoAway,
                        _ => Failure::StreamReset,
                    };
                    self.end(call, stream, Err(failure), out, done);
                }
                Event::Writable { stream } => {
                    if let Some(place) = self.place(stream) {
                        pump(&mut self.codec, &mut self.flights[place], call, out);
                    }
                }
                Event::GoAway { .. } => self.goaway = true,
                Event::Settled => {}
            }
        }
        events.list = list;
        events.notes.clear();
        let open = !matches!(consumed.why, moorgate_codecs::Why::Closed(_));
        (consumed.bytes, open)
    }

    fn head(
        &mut self,
        call: &Call,
        stream: StreamId,
        head: &Head,
        end: bool,
        out: &mut Out,
        done: &mut Vec<Done>,
    ) {
        if let Some(place) = self.place(stream) {
            self.flights[place].status = head.status;
            if end {
                let result = self.judged(call, stream, head.get(b"grpc-status"));
                self.end(call, stream, result, out, done);
            }
        }
    }

    fn data(
        &mut self,
        call: &Call,
        stream: StreamId,
        bytes: &[u8],
        end: bool,
        out: &mut Out,
        done: &mut Vec<Done>,
    ) {
        let Some(place) = self.place(stream) else {
            return;
        };
        if call.kind != Kind::Http {
            let flight = &mut self.flights[place];
            let whole = flight.messages.feed(bytes);
            if call.kind == Kind::Bidi && whole > 0 {
                if whole > 1 || flight.phase != Phase::Awaiting {
                    // Nobody asked for that.
                    self.end(call, stream, Err(Failure::Protocol), out, done);
                    return;
                }
                done.push(flight.done(Ok(Answer::Status(flight.status))));
                flight.phase = Phase::Idle;
                self.idle.push_back(stream);
            }
        }
        if end {
            let result = self.judged(call, stream, None);
            self.end(call, stream, result, out, done);
        }
    }

    /// What an answer comes to whose last fields are here.
    fn judged(
        &self,
        call: &Call,
        stream: StreamId,
        grpc_status: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let Some(place) = self.place(stream) else {
            return Err(Failure::Protocol);
        };
        let flight = &self.flights[place];
        if call.kind == Kind::Http || flight.status != 200 {
            return Ok(Answer::Status(flight.status));
        }
        let number = grpc_status.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        match number {
            None => Err(Failure::Protocol),
            Some(0) if flight.messages.in_message() => Err(Failure::Protocol),
            Some(0) => match (call.kind, flight.phase) {
                (Kind::Unary, _) if flight.messages.count() == 1 => Ok(Answer::Status(200)),
                (Kind::Bidi, Phase::Ending) => Ok(Answer::Ended),
                _ => Err(Failure::Protocol),
            },
            Some(number) => Ok(Answer::Grpc(number)),
        }
    }

    /// A stream is over.
    fn end(
        &mut self,
        call: &Call,
        stream: StreamId,
        result: Result<Answer, Failure>,
        out: &mut Out,
        done: &mut Vec<Done>,
    ) {
        let Some(place) = self.place(stream) else {
            return;
        };
        let flight = self.flights.remove(place);
        // Whoever answers early need not get the rest; where all was said there is nothing to reset.
        if flight.sent < call.body.len() || call.kind == Kind::Bidi || result.is_err() {
            self.codec.reset(stream, ResetReason::Cancel, out);
        }
        if flight.phase == Phase::Idle {
            self.idle.retain(|idle| *idle != stream);
        } else {
            done.push(flight.done(result));
        }
    }

    /// What to keep while nothing comes: the codec, and the streams that wait. `None` in the middle of
    /// something.
    #[must_use]
    pub fn park(&self) -> Option<(moorgate_codecs::Compact, Silent)> {
        let quiet = self.is_idle()
            && !self.goaway
            && (self.flights.iter()).all(|flight| !flight.messages.in_message());
        let codec = quiet.then(|| self.codec.park()).flatten()?;
        let streams = self.flights.iter().map(|flight| flight.stream);
        Some((codec, streams.collect()))
    }

    /// A connection that was parked.
    #[must_use]
    pub fn unpark(call: &Call, codec: &[u8], silent: &[StreamId]) -> Self {
        let codec = Connection::unpark(Role::Client, call.settings.clone(), codec);
        let mut client = Self::of(codec);
        client.flights.extend(silent.iter().map(|&stream| Flight {
            stream,
            phase: Phase::Idle,
            status: 200,
            sent: 0,
            messages: Messages::default(),
            intended_us: 0,
            began_us: 0,
        }));
        client.idle.extend(silent);
        client
    }
}

impl Flight {
    fn done(&self, result: Result<Answer, Failure>) -> Done {
        Done {
            intended_us: self.intended_us,
            began_us: self.began_us,
            result,
        }
    }
}

/// Sends of the body what the windows allow.
fn pump(codec: &mut Connection, flight: &mut Flight, call: &Call, out: &mut Out) {
    let rest = &call.body[flight.sent..];
    if rest.is_empty() {
        return;
    }
    let end = call.kind != Kind::Bidi;
    // A stream that is not open any more is about to be reported as reset.
    if let Ok(taken) = codec.send_data(flight.stream, rest.len(), end, out) {
        place(out, rest);
        flight.sent += taken;
    }
}

/// Puts the payload in its places.
pub fn place(out: &mut Out, payload: &[u8]) {
    while let Some(place) = out.payloads.pop() {
        let piece = &payload[place.start..place.end];
        if place.at == out.bytes.len() {
            out.bytes.extend_from_slice(piece);
        } else {
            out.bytes.splice(place.at..place.at, piece.iter().copied());
        }
    }
}

#[cfg(test)]
mod tests;
