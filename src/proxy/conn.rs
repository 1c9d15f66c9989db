//! A resident connection: what is attached to a socket while bytes move.

use std::sync::Arc;

use moorgate_codecs::{Codec, StreamId};

use super::config::{FilterChain, Http, Listener};
use super::detecting::Detecting;
use super::facts::{Endpoint, Ends};
use super::output::Output;
use super::tunnel;
use crate::engine::chunk::ByteQueue;
use crate::engine::reactor::{Addr, Sock};
use crate::engine::slab::Key;

/// Why a connection is not read, as bits.
pub(super) mod pause {
    /// Somebody its bytes go to is full.
    pub(in crate::proxy) const FULL: u8 = 1;
    /// The next message waits for the answer to this one.
    pub(in crate::proxy) const ORDER: u8 = 2;
    /// There is nowhere to send the bytes yet.
    pub(in crate::proxy) const CONNECTING: u8 = 4;
    /// The peer does not read our answers: what it says next waits until it does.
    pub(in crate::proxy) const OUTPUT: u8 = 8;
}

/// How far a connection is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// Not at all.
    No,
    /// When its output is written.
    AfterFlush,
    /// We sent FIN; what still comes is thrown away until the peer closes too.
    Lingering,
}

/// Open streams of a connection, in order of their numbers.
#[derive(Debug, Default)]
pub(super) struct StreamMap(Vec<(StreamId, Key)>);

impl StreamMap {
    pub(super) fn insert(&mut self, id: StreamId, key: Key) {
        match self.0.binary_search_by_key(&id, |entry| entry.0) {
            Ok(at) => self.0[at].1 = key,
            Err(at) => self.0.insert(at, (id, key)),
        }
    }

    pub(super) fn get(&self, id: StreamId) -> Option<Key> {
        self.0
            .binary_search_by_key(&id, |entry| entry.0)
            .ok()
            .map(|at| self.0[at].1)
    }

    pub(super) fn remove(&mut self, id: StreamId) -> Option<Key> {
        self.0
            .binary_search_by_key(&id, |entry| entry.0)
            .ok()
            .map(|at| self.0.remove(at).1)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.0.iter().map(|entry| entry.1).collect()
    }

    pub(super) fn at(&self, index: usize) -> Option<(StreamId, Key)> {
        self.0.get(index).copied()
    }

    pub(super) fn entries(&self) -> &[(StreamId, Key)] {
        &self.0
    }

    pub(super) fn from_entries(entries: Vec<(StreamId, Key)>) -> Self {
        Self(entries)
    }
}

/// A client that speaks in messages.
#[derive(Debug)]
pub(super) struct Down {
    pub(super) codec: Box<dyn Codec>,
    pub(super) http: Arc<Http>,
    pub(super) listener: Arc<Listener>,
    pub(super) chain: Arc<FilterChain>,
    pub(super) streams: StreamMap,
    pub(super) remote: Addr,
    pub(super) local: Addr,
    /// Set where those are not the socket's own: it is a pointer, and only behind listener filters.
    pub(super) ends: Option<Box<Ends>>,
    /// Requests it has carried.
    pub(super) requests: u32,
    /// No further request is taken after the ones that are open.
    pub(super) draining: bool,
    /// First byte of an unfinished head came then, ms.
    pub(super) head_since: Option<u64>,
    /// New streams get upstream connections of their own, because this client is to move.
    pub(super) own_upstreams: bool,
}

impl Down {
    /// The other end of the socket.
    pub(super) fn direct_remote(&self) -> &Addr {
        self.ends
            .as_ref()
            .map_or(&self.remote, |ends| &ends.direct_remote)
    }
}

/// An upstream connection that speaks in messages.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) codec: Box<dyn Codec>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) streams: StreamMap,
    /// Not connected yet.
    pub(super) connecting: bool,
    /// In the pool's list of idle connections.
    pub(super) idle: bool,
    /// Requests it has carried.
    pub(super) requests: u32,
    /// Only for this client (its connection's key), which is to move.
    pub(super) only_for: Option<Key>,
    /// For the payload of one CONNECT that ends here: no HTTP is spoken on it.
    pub(super) raw: bool,
    /// Takes no new streams.
    pub(super) draining: bool,
    /// Counted in the breaker's connections.
    pub(super) permit: Option<crate::cluster::breaker::Permit>,
}

/// What a resident connection is.
#[derive(Debug)]
pub(super) enum Role {
    /// A client with a codec.
    Down(Box<Down>),
    /// An upstream with a codec.
    Up(Box<Up>),
    /// One end of a tunnel.
    Tunnel(Box<tunnel::End>),
    /// A client whose first bytes are looked at before its filter chain is chosen.
    Detecting(Box<Detecting>),
    /// Taken out of its record, not restored yet.
    Waking,
}

/// A resident connection.
#[derive(Debug)]
pub(super) struct Conn {
    /// Its slot in the engine.
    pub(super) slot: Key,
    pub(super) sock: Sock,
    pub(super) role: Role,
    /// TLS between the socket and the role. One pointer, so that plain connections grow by no more.
    pub(super) tls: Option<Box<super::secure::Secure>>,
    /// The socket may have bytes: an edge came and it was not read dry since.
    pub(super) readable: bool,
    /// The peer sent FIN and it was read.
    pub(super) read_closed: bool,
    /// FIN was reported; a short read is not the end then.
    pub(super) fin_seen: bool,
    /// We sent FIN.
    pub(super) write_closed: bool,
    /// Send FIN when the output is written.
    pub(super) fin_after_flush: bool,
    /// The socket was full and has not said otherwise.
    pub(super) blocked: bool,
    /// Registered for writing, which is only so while something is pending.
    pub(super) write_armed: bool,
    /// In the list of connections to flush.
    pub(super) dirty: bool,
    /// In the list of connections to be served without an event.
    pub(super) queued: bool,
    /// Sources wait until this one's output has drained.
    pub(super) throttles: bool,
    /// Bits of [`pause`].
    pub(super) paused: u8,
    pub(super) closing: Closing,
    /// Unfinished or unread input.
    pub(super) rest: ByteQueue,
    pub(super) output: Output,
    pub(super) opened_ms: u64,
    pub(super) active_ms: u64,
    /// The slot's timer is scheduled for then; `u64::MAX` when not.
    pub(super) timer_ms: u64,
    /// Turns in which it had work, in the current load window.
    pub(super) work: u32,
    /// Bytes read and written since it was opened or last parked.
    pub(super) rx: u64,
    pub(super) tx: u64,
}

impl Conn {
    pub(super) fn new(sock: Sock, role: Role, now: u64) -> Self {
        Self {
            slot: Key {
                index: u32::MAX >> 1,
                generation: 0,
            },
            sock,
            role,
            tls: None,
            readable: false,
            read_closed: false,
            fin_seen: false,
            write_closed: false,
            fin_after_flush: false,
            blocked: false,
            write_armed: false,
            dirty: false,
            queued: false,
            throttles: false,
            paused: 0,
            closing: Closing::No,
            rest: ByteQueue::default(),
            output: Output::default(),
            opened_ms: now,
            active_ms: now,
            timer_ms: u64::MAX,
            work: 0,
            rx: 0,
            tx: 0,
        }
    }

    pub(super) fn down(&self) -> Option<&Down> {
        match &self.role {
            Role::Down(down) => Some(down),
            _ => None,
        }
    }

    pub(super) fn down_mut(&mut self) -> Option<&mut Down> {
        match &mut self.role {
            Role::Down(down) => Some(down),
            _ => None,
        }
    }

    pub(super) fn up(&self) -> Option<&Up> {
        match &self.role {
            Role::Up(up) => Some(up),
            _ => None,
        }
    }

    pub(super) fn up_mut(&mut self) -> Option<&mut Up> {
        match &mut self.role {
            Role::Up(up) => Some(up),
            _ => None,
        }
    }

    pub(super) fn codec_mut(&mut self) -> Option<&mut dyn Codec> {
        match &mut self.role {
            Role::Down(down) => Some(&mut *down.codec),
            Role::Up(up) => Some(&mut *up.codec),
            Role::Tunnel(_) | Role::Detecting(_) | Role::Waking => None,
        }
    }

    pub(super) fn streams(&self) -> Option<&StreamMap> {
        match &self.role {
            Role::Down(down) => Some(&down.streams),
            Role::Up(up) => Some(&up.streams),
            Role::Tunnel(_) | Role::Detecting(_) | Role::Waking => None,
        }
    }

    /// Bytes it holds in chunks.
    pub(super) fn held(&self) -> usize {
        let tls = self.tls.as_ref().map_or(0, |tls| tls.held());
        self.rest.held() + self.output.held() + tls
    }
}
