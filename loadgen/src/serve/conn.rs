//! One connection of a server: what it waits for, and what is still to be written.

use moorgate::engine::parked::{Deci, Facts, Kind, Parked};
use moorgate::engine::reactor::Sock;
use moorgate::engine::slab::Key;
use moorgate_codecs::http1::Server;
use moorgate_codecs::{Codec, Compact, StreamId};

use super::answers::Answers;
use super::frames::Frames;
use super::streams::{Mux, Silent};
use crate::secure::Secure;

/// What a server keeps with parked connections.
#[derive(Debug)]
pub(super) struct ServeFacts;

impl Facts for ServeFacts {
    type Cold = Remains;
    type Peer = ();
    type Message = ();
}

/// What is kept of a connection with an open request, or with TLS, while it is parked.
#[derive(Debug)]
pub(super) struct Remains {
    codec: Compact,
    doing: Doing,
    tls: Option<Box<Secure>>,
    mux: Option<Silent>,
}

/// What a connection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Reads a request, or waits for one.
    Reading,
    /// Sends the request's body back as it comes.
    Echoing(StreamId),
    /// Reads the request's body and drops it. `head`: the answer has no body.
    Taking { head: bool },
    /// Answers at the given time.
    Waiting {
        stream: StreamId,
        head: bool,
        due_ms: u64,
    },
    /// Sends messages of a WebSocket back.
    Messages,
    /// Sends event `next` at the given time, if any.
    Events {
        stream: StreamId,
        next: u32,
        due_ms: Option<u64>,
    },
}

impl Doing {
    /// When it wants to be called.
    pub(super) fn due_ms(self) -> Option<u64> {
        match self {
            Self::Reading | Self::Echoing(_) | Self::Taking { .. } | Self::Messages => None,
            Self::Waiting { due_ms, .. } => Some(due_ms),
            Self::Events { due_ms, .. } => due_ms,
        }
    }
}

/// A resident connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) key: Key,
    pub(super) sock: Sock,
    pub(super) tls: Option<Box<Secure>>,
    /// Of HTTP; a TCP echo has none, nor has a WebSocket.
    pub(super) codec: Option<Server>,
    pub(super) frames: Option<Box<Frames>>,
    /// Of HTTP/2, in the place of `codec`.
    pub(super) mux: Option<Box<Mux>>,
    pub(super) doing: Doing,
    /// Input that was not consumed yet.
    pub(super) rest: Vec<u8>,
    /// Output that the socket did not take.
    pub(super) queue: Vec<u8>,
    /// Bytes of a generated body that follow it.
    pub(super) fill: u64,
    /// Registered for writing.
    pub(super) armed: bool,
    /// The client sends no more.
    pub(super) read_closed: bool,
    /// More may be there to read.
    pub(super) readable: bool,
    /// What is in `rest` could be decoded, but not before something else is done.
    pub(super) held: bool,
    /// To be closed when the output is written.
    pub(super) closing: bool,
    /// When it last read.
    pub(super) active_ms: u64,
}

impl Conn {
    /// A new connection.
    pub(super) fn new(key: Key, sock: Sock, codec: Option<Server>, now_ms: u64) -> Self {
        Self {
            key,
            sock,
            tls: None,
            codec,
            frames: None,
            mux: None,
            doing: Doing::Reading,
            rest: Vec::new(),
            queue: Vec::new(),
            fill: 0,
            armed: false,
            read_closed: false,
            readable: false,
            held: false,
            closing: false,
            active_ms: now_ms,
        }
    }

    /// Output waits for the socket: nothing more may be made.
    pub(super) fn blocked(&self) -> bool {
        !self.queue.is_empty()
            || self.fill > 0
            || self.tls.as_ref().is_some_and(|tls| tls.is_blocked())
    }

    /// When it wants to be called.
    pub(super) fn due_ms(&self) -> Option<u64> {
        match &self.mux {
            Some(mux) => mux.due_ms(),
            None => self.doing.due_ms(),
        }
    }

    /// Nothing has to be done before its time comes or a byte arrives.
    fn is_silent(&self) -> bool {
        let secure = self.tls.as_ref().is_none_or(|tls| tls.is_quiet());
        secure && self.rest.is_empty() && !self.blocked() && !self.read_closed && !self.readable
    }

    /// The record to park it with, when it is silent. Its TLS is in there then.
    pub(super) fn record(&mut self) -> Option<Parked<ServeFacts>> {
        if !self.is_silent() || self.frames.as_ref().is_some_and(|frames| !frames.is_idle()) {
            return None;
        }
        let codec = match &self.codec {
            Some(codec) => codec.park()?,
            None => Compact::default(),
        };
        let deadline = self.due_ms().map_or(Deci::NEVER, Deci::from_ms);
        let mux = match &self.mux {
            Some(mux) => Some(mux.park()?),
            None => None,
        };
        let open = mux.is_some() || self.doing != Doing::Reading || !codec.is_empty();
        let mut tls = self.tls.take();
        if let Some(tls) = &mut tls {
            tls.park();
        }
        let keeps = open || tls.is_some();
        Some(Parked {
            socks: [self.sock, Sock(-1)],
            owner: 0,
            chain: 0,
            opened: Deci(0),
            deadline,
            requests: 0,
            kind: if open { Kind::Mux } else { Kind::Idle },
            flags: 0,
            peer: None,
            cold: keeps.then(|| {
                let doing = self.doing;
                Box::new(Remains {
                    codec,
                    doing,
                    tls,
                    mux,
                })
            }),
        })
    }

    /// The connection of a record, resident again.
    pub(super) fn unpark(
        key: Key,
        record: Parked<ServeFacts>,
        answers: &Answers,
        http: bool,
        now_ms: u64,
    ) -> Self {
        let (codec, doing, tls, mux) = match record.cold {
            Some(remains) => (remains.codec, remains.doing, remains.tls, remains.mux),
            None => (Compact::default(), Doing::Reading, None, None),
        };
        let websocket = doing == Doing::Messages;
        let mux = mux.map(|silent| Box::new(Mux::unpark(&answers.http2, &silent)));
        let codec = (http && !websocket && mux.is_none())
            .then(|| Server::unpark(answers.settings.clone(), &codec));
        Self {
            doing,
            tls,
            mux,
            frames: websocket.then(Box::default),
            ..Self::new(key, record.socks[0], codec, now_ms)
        }
    }
}
