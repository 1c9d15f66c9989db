//! The one contract between a protocol and the stream pipeline.
//!
//! The pipeline is written against [`Codec`] and [`Event`] alone. A new protocol comes in by
//! implementing the trait; if the pipeline has to change for it, the trait was wrong.

use std::ops::Range;

use crate::head::Head;

/// Names a stream within one connection. Codecs choose the numbers; HTTP/1 counts messages.
pub type StreamId = u32;

/// Milliseconds on the worker's clock. Only differences mean anything.
pub type Millis = u64;

/// How many streams a connection of a protocol carries at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One exchange after the other (HTTP/1): reading the connection is reading the stream.
    PingPong,
    /// Requests may overtake responses but answers come in order.
    Pipeline,
    /// Streams interleave and have flow control of their own.
    Multiplex,
}

/// Why a stream ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// The peer refused the stream before doing any work on it: safe to try again.
    Refused,
    /// The peer or the pipeline gave it up.
    Cancel,
    /// The peer broke the protocol.
    Protocol,
    /// The connection under the stream went away.
    Disconnected,
    /// A limit of ours was met.
    Overload,
}

/// A breach of protocol: what the peer is told, and what the counter is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    /// The stream to answer, when the error belongs to one. The pipeline answers it with
    /// [`status`](Self::status) and closes; without a stream the connection is closed.
    pub stream: Option<StreamId>,
    /// HTTP status that fits (400, 413, 431 …). 0 where the protocol has no such answer.
    pub status: u16,
    /// Stable snake_case name, used in counters and `%RESPONSE_CODE_DETAILS%`.
    pub detail: &'static str,
}

/// What a codec reports to the pipeline, in the order it happened on the wire.
#[derive(Debug)]
pub enum Event {
    /// A message begins. On a client codec a response (or a 1xx, told by its status); a request
    /// there is one that the peer opened.
    Head {
        stream: StreamId,
        head: Box<Head>,
        end: bool,
    },
    /// Body bytes: a range of the input that this `decode` call was given.
    Data {
        stream: StreamId,
        range: Range<usize>,
        end: bool,
    },
    /// Trailers; the message ends with them.
    Trailers { stream: StreamId, head: Box<Head> },
    /// The peer gave up this stream.
    Reset {
        stream: StreamId,
        reason: ResetReason,
    },
    /// A stream whose `send_data` took less than offered can take more.
    Writable { stream: StreamId },
    /// The peer takes no new streams after `last`; streams above it were not looked at.
    GoAway { last: StreamId },
    /// The peer said what it takes ([`Codec::takes_upgrades`] knows now).
    Settled,
}

/// Events of one `decode` call, with a pool of heads so that steady traffic allocates none.
#[derive(Debug, Default)]
pub struct Events {
    /// In wire order. The pipeline drains it after every call.
    pub list: Vec<Event>,
    /// Names of what was refused or noticed of one stream only, for counters: no event tells it. The
    /// pipeline drains it after every call.
    pub notes: Vec<&'static str>,
    /// Room for a codec's work within a call; empty between calls.
    pub scratch: Vec<u8>,
    // Boxed as in the events, so that taking and giving back moves a pointer.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Head>>,
}

/// Heads kept for reuse by one worker.
const SPARE_HEADS: usize = 256;
/// Notes kept of one call; more of the same is not worth memory.
const MOST_NOTES: usize = 256;

impl Events {
    /// An empty head, reused when there is one.
    pub fn take_head(&mut self) -> Box<Head> {
        self.spare.pop().unwrap_or_default()
    }

    /// Gives a head back for reuse. Oversized ones are dropped, so a burst does not pin memory.
    pub fn give_head(&mut self, mut head: Box<Head>) {
        if self.spare.len() < SPARE_HEADS && head.capacity() <= 4096 {
            head.clear();
            self.spare.push(head);
        }
    }

    /// Notes a name for the counters.
    pub fn note(&mut self, name: &'static str) {
        if self.notes.len() < MOST_NOTES {
            self.notes.push(name);
        }
    }

    /// Drops what is kept for reuse.
    pub fn shrink(&mut self) {
        self.spare = Vec::new();
        self.list.shrink_to(0);
        self.notes.shrink_to(0);
        self.scratch = Vec::new();
    }
}

/// Where `decode` stopped, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumed {
    /// Input bytes that need not be offered again. Event ranges lie below it.
    pub bytes: usize,
    /// What happens next.
    pub why: Why,
}

/// Why `decode` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The rest, if any, is an unfinished element: call again with it in front of new bytes.
    NeedMore,
    /// Another message waits in the input, but this one has to be answered first (or the stream was
    /// paused). Call again after that, with the same rest.
    Paused,
    /// The bytes that follow are not this codec's any more (101, CONNECT): a tunnel takes over.
    Upgraded,
    /// The bytes that follow begin an HTTP/2 connection: another codec takes over, from the same rest.
    Http2,
    /// The connection is over for this codec, after what was emitted.
    Closed(Option<ProtocolError>),
}

/// Payload bytes placed inside encoded output, by range of what `send_data` was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Offset in [`Out::bytes`] before which the payload goes.
    pub at: usize,
    /// Range of the payload offered.
    pub start: usize,
    /// End of the range, exclusive.
    pub end: usize,
}

/// Encoded output. Payload is referred to, not copied: the output is `bytes` with each payload
/// inserted before its offset. `bytes` may already hold other connections' output; a codec only
/// appends.
#[derive(Debug, Default)]
pub struct Out {
    /// Framing and heads.
    pub bytes: Vec<u8>,
    /// Insertions, in order.
    pub payloads: Vec<Payload>,
}

impl Out {
    /// Places a range of the offered payload here.
    pub fn payload(&mut self, range: Range<usize>) {
        if !range.is_empty() {
            self.payloads.push(Payload {
                at: self.bytes.len(),
                start: range.start,
                end: range.end,
            });
        }
    }
}

/// Why a codec did not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The stream is not open in that direction (it was reset, or it never was).
    UnknownStream,
    /// The message cannot be said in this protocol (for instance a header with a line break).
    Unencodable(&'static str),
}

/// What remains of a codec while its connection is parked. Empty costs no allocation.
pub type Compact = Box<[u8]>;

/// A protocol on one connection, server or client side.
pub trait Codec: Send + std::fmt::Debug {
    /// How streams share the connection.
    fn shape(&self) -> Shape;

    /// Reads `input`. Emits events in wire order; its own replies (window updates, pongs, heartbeat
    /// answers) go to `out`. Any split of the same bytes over several calls gives the same events,
    /// but for where `Data` is cut.
    fn decode(&mut self, now: Millis, input: &[u8], events: &mut Events, out: &mut Out)
    -> Consumed;

    /// The peer will send no more bytes; `rest` unread ones are left. Ends what only the end of the
    /// connection can end, resets what it cut short. `Some` when the cut was a breach of protocol.
    fn eof(&mut self, rest: usize, events: &mut Events) -> Option<ProtocolError>;

    /// Opens a stream towards the peer; `None` when there is no room for one now.
    /// On a server codec this is a request of the upstream's kind, where the protocol has those.
    fn open(&mut self) -> Option<StreamId>;

    /// Sends a head (request, response, or a 1xx before it). `end`: nothing follows.
    fn send_head(
        &mut self,
        stream: StreamId,
        head: &Head,
        end: bool,
        out: &mut Out,
    ) -> Result<(), SendError>;

    /// Sends body bytes; the payload is placed with [`Out::payload`]. Returns how many of `len` were
    /// accepted: fewer when a window is full, then [`Event::Writable`] follows. `end` takes effect
    /// only when all were accepted.
    fn send_data(
        &mut self,
        stream: StreamId,
        len: usize,
        end: bool,
        out: &mut Out,
    ) -> Result<usize, SendError>;

    /// How many bytes [`send_data`](Self::send_data) would accept now, so that nobody gets more ready.
    fn sendable(&self, stream: StreamId) -> usize {
        let _ = stream;
        usize::MAX
    }

    /// Sends trailers; the message ends with them.
    fn send_trailers(
        &mut self,
        stream: StreamId,
        trailers: &Head,
        out: &mut Out,
    ) -> Result<(), SendError>;

    /// The other side took `n` body bytes of this stream: credit goes back to the peer.
    fn release(&mut self, stream: StreamId, n: usize, out: &mut Out);

    /// Gives a stream up. Where the protocol cannot end one stream alone, the connection becomes
    /// unusable ([`finished`](Self::finished)).
    fn reset(&mut self, stream: StreamId, reason: ResetReason, out: &mut Out);

    /// Streams that are open in any direction.
    fn streams(&self) -> usize;

    /// How many more streams `open` would give now.
    fn room(&self) -> usize;

    /// Nothing more can be sent or received on this connection once queued output is written:
    /// the owner closes it.
    fn finished(&self) -> bool;

    /// Says this side's part of the beginning now, where the protocol has one and it was not said yet.
    fn begin(&mut self, out: &mut Out) {
        let _ = out;
    }

    /// Whether the peer takes requests that ask to leave HTTP (but CONNECT); `None` before it has said so.
    fn takes_upgrades(&self) -> Option<bool> {
        Some(true)
    }

    /// The exchange that left HTTP stays a stream: from here on what comes and goes on it is bytes as they
    /// are, and each direction ends for itself. Where streams can do that anyway there is nothing to do.
    fn pass_through(&mut self) {}

    /// [`pass_through`](Self::pass_through) made the whole connection one stream of bytes: the end of the
    /// stream is the end of the connection, in each direction.
    fn is_raw(&self) -> bool {
        false
    }

    /// Announces that this side takes no more streams (`connection: close` with the next response,
    /// GOAWAY …). Open streams go on.
    fn go_away(&mut self, out: &mut Out);

    /// Gives up waiting for the rest of a message's head. The stream it would have been can be
    /// answered; nothing is read after it. `None` where no head was begun, or none can be answered.
    fn abandon_head(&mut self) -> Option<StreamId> {
        None
    }

    /// Everything encoded so far was written: whoever counts what the peer does not take begins anew.
    fn written(&mut self) {}

    /// Part of a message was decoded or is buffered inside: the connection has a deadline for it.
    fn mid_message(&self) -> bool;

    /// The next time `on_deadline` wants to be called (keepalive pings and the like).
    fn next_deadline(&self) -> Option<Millis> {
        None
    }

    /// The deadline passed. False: the peer is dead, close the connection.
    fn on_deadline(&mut self, now: Millis, out: &mut Out) -> bool {
        let (_, _) = (now, out);
        true
    }

    /// What must be kept while no byte moves; `None` when the connection cannot be parked now (part of
    /// a message is inside). The codec is dropped after `Some`.
    fn park(&self) -> Option<Compact>;
}
