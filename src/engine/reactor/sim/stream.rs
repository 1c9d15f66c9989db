//! One end of a simulated connection, with the state the kernel keeps of it.
//!
//! Only the end itself: what it can read, write and report. Moving bytes between ends is the
//! network's part.

use std::collections::VecDeque;

use super::world::Id;
use crate::engine::reactor::{Addr, Ready};

/// Which rules of closing and of room apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Unix,
}

/// As far as callers can tell the kernel's TCP states apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// SYN sent.
    Connecting,
    /// ESTABLISHED, or one direction closed.
    Open,
    /// Reset, refused, or both directions closed and acknowledged.
    Closed,
}

/// Who holds this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A worker, under this descriptor.
    Sock(i32),
    /// A scripted peer.
    Peer,
    /// The queue of a listening socket.
    Queue,
    /// Closed by its owner; still sends what was written.
    Nobody,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) kind: Kind,
    pub(super) state: State,
    pub(super) owner: Owner,
    /// The other end, while it can still be reached.
    pub(super) peer: Option<Id>,
    pub(super) local: Addr,
    pub(super) remote: Addr,
    /// Written, not yet arrived at the other end (TCP only).
    pub(super) send: VecDeque<u8>,
    pub(super) send_limit: usize,
    /// Arrived, not yet read.
    pub(super) receive: VecDeque<u8>,
    pub(super) receive_limit: usize,
    /// Unread bytes of each write, in order (Unix only): its writer is told of each that is done with.
    pub(super) writes: VecDeque<usize>,
    /// The last bytes of `receive` which have, for the reader, not yet arrived.
    pub(super) hidden: usize,
    /// The first bytes of `receive` that a peek showed: those have arrived for good.
    pub(super) peeked: usize,
    /// The write direction was ended here.
    pub(super) shut_write: bool,
    /// The other end will send no more, or the connection is gone.
    pub(super) shut_read: bool,
    /// Our FIN arrived at the other end.
    pub(super) fin_sent: bool,
    /// The other end's FIN arrived here.
    pub(super) fin_received: bool,
    /// Pending error number.
    pub(super) error: Option<i32>,
    /// Somebody found no room: the next room is told (SOCK_NOSPACE).
    pub(super) no_space: bool,
    /// A fault: there is no room until this is taken back.
    pub(super) held_back: bool,
    /// Microseconds that bytes from here take.
    pub(super) latency_us: u64,
    /// Delivery is scheduled.
    pub(super) pump_due: bool,
    /// The simulated network broke this connection.
    pub(super) broken: bool,
}

impl Stream {
    /// Bytes a read can have.
    pub(super) fn visible(&self) -> usize {
        self.receive.len() - self.hidden
    }

    /// Bytes that may still arrive.
    pub(super) fn receive_space(&self) -> usize {
        self.receive_limit.saturating_sub(self.receive.len())
    }

    /// TCP: the kernel tells room only when a third of the buffer is free.
    pub(super) fn tcp_writable(&self) -> bool {
        !self.held_back && self.send.len() <= self.send_limit - self.send_limit.div_ceil(3)
    }

    /// `count` bytes were taken: says whether the other end gets room for it.
    pub(super) fn gives_room(&mut self, mut count: usize) -> bool {
        if self.kind == Kind::Tcp {
            return true;
        }
        let mut freed = false;
        while let Some(first) = self.writes.front_mut()
            && count > 0
        {
            let part = count.min(*first);
            *first -= part;
            count -= part;
            if *first == 0 {
                self.writes.pop_front();
                freed = true;
            }
        }
        freed
    }

    /// Moves at most `into.len()` visible bytes out.
    pub(super) fn take(&mut self, into: &mut [u8]) -> usize {
        let count = self.copy(into);
        self.receive.drain(..count);
        self.peeked = self.peeked.saturating_sub(count);
        count
    }

    /// Copies at most `into.len()` visible bytes.
    pub(super) fn copy(&self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.visible());
        let (front, back) = self.receive.as_slices();
        let first = count.min(front.len());
        into[..first].copy_from_slice(&front[..first]);
        into[first..count].copy_from_slice(&back[..count - first]);
        count
    }

    /// What the socket is ready for. `unix_room`: the other end's queue has room.
    pub(super) fn poll(&mut self, unix_room: bool) -> u8 {
        let mut ready = 0;
        if self.state != State::Connecting {
            if self.shut_read && self.shut_write {
                ready |= Ready::HUP.0;
            }
            if self.shut_read {
                ready |= Ready::READ.0 | Ready::READ_CLOSED.0;
            }
            if self.visible() > 0 {
                ready |= Ready::READ.0;
            }
            let writable = match self.kind {
                Kind::Tcp => self.shut_write || self.tcp_writable(),
                Kind::Unix => unix_room && !self.held_back,
            };
            if writable {
                ready |= Ready::WRITE.0;
            } else {
                self.no_space = true;
            }
        }
        if self.error.is_some() {
            ready |= Ready::ERROR.0;
        }
        ready
    }
}
