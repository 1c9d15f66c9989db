//! The record of a connection on which no byte is moving, and the slot that holds it.
//!
//! A parked connection has no buffer, no codec, no filter chain and no thread. What it has is this
//! record, one one-shot registration per descriptor, and a link in its home worker's timing wheel.
//! Only the home worker writes a slot's state; whoever pops the [`Token`] of a queued one owns the
//! connection.

use super::reactor::{Ready, Sock};
use super::slab::Key;
use super::wheel::TimerLink;

/// What an application keeps with its connections.
pub trait Facts: std::fmt::Debug + 'static {
    /// Facts of a parked connection that the kernel cannot be asked again; owned by one record.
    type Cold: Send + std::fmt::Debug + 'static;
    /// The upstream a record belongs to.
    type Peer: Send + std::fmt::Debug + 'static;
    /// What the application's workers send each other.
    type Message: Send + std::fmt::Debug + 'static;
}

/// The four kinds of parked connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A client without an open stream.
    Idle,
    /// A tunnel, or a one-to-one exchange that is open and silent: two descriptors.
    Pair,
    /// A multiplexed client, possibly with open silent streams.
    Mux,
    /// An upstream connection that waits for its next stream.
    Pooled,
}

/// Number of [`Kind`]s.
pub const KINDS: usize = 4;

/// Time in tenths of a second on the worker's clock: 13 years fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deci(pub u32);

impl Deci {
    /// No deadline.
    pub const NEVER: Self = Self(u32::MAX);

    /// Rounds up, so that a deadline never comes early.
    #[must_use]
    pub fn from_ms(ms: u64) -> Self {
        Self(u32::try_from(ms.div_ceil(100)).unwrap_or(u32::MAX))
    }

    /// Milliseconds; `u64::MAX` when never.
    #[must_use]
    pub fn ms(self) -> u64 {
        if self == Self::NEVER {
            u64::MAX
        } else {
            u64::from(self.0) * 100
        }
    }
}

/// State bits of a record.
pub mod flags {
    /// The first descriptor's peer has sent FIN.
    pub const READ_CLOSED_A: u8 = 1;
    /// The second descriptor's peer has sent FIN.
    pub const READ_CLOSED_B: u8 = 2;
    /// We have sent FIN on the first descriptor.
    pub const WRITE_CLOSED_A: u8 = 4;
    /// We have sent FIN on the second descriptor.
    pub const WRITE_CLOSED_B: u8 = 8;
    /// A `Pair` that is a tunnel; otherwise it is an open exchange.
    pub const TUNNEL: u8 = 16;
    /// The connection is to be closed at its next message boundary.
    pub const DRAINING: u8 = 32;
}

/// A parked connection. It is `Send` and names nothing inside a worker.
#[derive(Debug)]
pub struct Parked<F: Facts> {
    /// Downstream, or the only descriptor; then upstream of a `Pair`, else `Sock(-1)`.
    pub socks: [Sock; 2],
    /// Stable id of the listener (of the host, for `Pooled`).
    pub owner: u32,
    /// Stable id of the filter chain.
    pub chain: u32,
    /// When the connection was opened.
    pub opened: Deci,
    /// Earliest of idle, duration and keepalive deadlines.
    pub deadline: Deci,
    /// Requests it has carried.
    pub requests: u32,
    /// Kind.
    pub kind: Kind,
    /// Bits of [`flags`].
    pub flags: u8,
    /// The upstream of a `Pair` or `Pooled`.
    pub peer: Option<F::Peer>,
    /// Facts that the kernel cannot be asked again.
    pub cold: Option<Box<F::Cold>>,
}

impl<F: Facts> Parked<F> {
    /// Descriptors of the record.
    pub fn descriptors(&self) -> impl Iterator<Item = Sock> + use<F> {
        self.socks.into_iter().filter(|sock| sock.0 >= 0)
    }

    /// Bit of [`flags`] is set.
    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// State of a slot.
#[derive(Debug)]
pub enum State<F: Facts> {
    /// No byte is moving.
    Parked(Parked<F>),
    /// A token with the record is in the run queue.
    Queued,
    /// Being served here; the number is the application's.
    Resident(u32),
    /// A listening socket; the number is the application's.
    Listener(u32),
}

/// No neighbour in the list.
pub(super) const NIL: u32 = u32::MAX;

/// A place for one connection, kept from accept to close (or until it leaves the worker).
#[derive(Debug)]
pub struct Slot<F: Facts> {
    pub(super) timer: TimerLink,
    /// Neighbours in the list of idle clients, oldest first.
    pub(super) older: u32,
    pub(super) newer: u32,
    pub(super) state: State<F>,
}

impl<F: Facts> Slot<F> {
    pub(super) fn new(state: State<F>) -> Self {
        Self {
            timer: TimerLink::default(),
            older: NIL,
            newer: NIL,
            state,
        }
    }
}

/// Ownership of a queued connection.
#[derive(Debug)]
pub struct Token<F: Facts> {
    /// Worker that has its slot and registrations.
    pub home: u16,
    /// Its slot there.
    pub key: Key,
    /// What woke it.
    pub ready: Ready,
    /// Which descriptor of it.
    pub side: bool,
    /// The connection.
    pub record: Parked<F>,
}
