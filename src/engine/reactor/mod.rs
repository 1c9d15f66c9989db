//! What a worker asks of the operating system, behind one trait.
//!
//! Two backends: raw epoll, and a simulator with a virtual clock. The worker pulls bytes
//! with [`Reactor::read`]; a completion-based backend hands out what has already arrived, a
//! readiness-based one makes the call. Both must keep the registration rules, which the conformance
//! suite checks on each of them:
//!
//! - A one-shot that fired is disarmed and reports nothing, not even a reset. [`Interest::Silent`] is
//!   the armed form of silence: no bytes are reported, but a reset or full close is, once.
//! - [`Interest::Edge`] reports again only when something new arrives; `modify` polls anew, so what is
//!   already readable is reported after it.
//! - `remove` comes before `close`, and only the owner closes.
//! - A tag comes back exactly as it was given. The backend never looks into it.

pub mod clock;
#[cfg(test)]
mod conformance;
pub mod epoll;
pub mod random;
pub mod sim;

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// A socket of this process: a descriptor, or the simulator's number for one.
///
/// It is a name, not an owner: whoever owns the connection closes it through [`Reactor::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sock(pub i32);

/// Tag of a registration: generation:32 | side:1 | index:31.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub u64);

impl Tag {
    /// Reserved for the backend's own wake-up.
    pub const WAKE: Self = Self(u64::MAX);

    /// Packs the parts; `index` must be below 2^31.
    #[must_use]
    pub fn new(generation: u32, side: bool, index: u32) -> Self {
        debug_assert!(index < 1 << 31);
        Self(u64::from(generation) << 32 | u64::from(side) << 31 | u64::from(index))
    }

    /// Generation of the slot this was made for.
    #[must_use]
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// False: the first descriptor of a record (downstream); true: the second.
    #[must_use]
    pub fn side(self) -> bool {
        self.0 >> 31 & 1 == 1
    }

    /// Index of the slot.
    #[must_use]
    pub fn index(self) -> u32 {
        (self.0 & 0x7fff_ffff) as u32
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Tag({}.{}{})",
            self.index(),
            self.generation(),
            if self.side() { "b" } else { "a" }
        )
    }
}

/// What a registration waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// One-shot with an empty mask: only a reset or full close is reported, once.
    Silent,
    /// One-shot: the next bytes, end of stream or error; then disarmed. A parked connection.
    ReadOnce,
    /// Edge-triggered: new bytes, end of stream, errors. With `write`, also when the socket takes
    /// bytes again. A resident connection.
    Edge { write: bool },
    /// Level-triggered; of several workers that wait on one listening socket only some are woken.
    Listen,
}

/// What happened to a socket. Several may be set at once.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready(pub u8);

impl Ready {
    /// Bytes (or a connection to accept) can be read.
    pub const READ: Self = Self(1);
    /// The socket takes bytes (or the connect ended).
    pub const WRITE: Self = Self(2);
    /// The peer will send no more (FIN). Told once by an edge, often together with the last bytes:
    /// from then on only `Ok(0)` says that everything was read, not a read that gave less than asked.
    /// Every arming that waits for bytes reports it anew.
    pub const READ_CLOSED: Self = Self(4);
    /// Both directions are gone (reset, or closed on both sides).
    pub const HUP: Self = Self(8);
    /// The socket has an error to be fetched.
    pub const ERROR: Self = Self(16);

    /// Any of `other` is set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Ready {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::READ, "READ"),
            (Self::WRITE, "WRITE"),
            (Self::READ_CLOSED, "READ_CLOSED"),
            (Self::HUP, "HUP"),
            (Self::ERROR, "ERROR"),
        ];
        let set: Vec<_> = names
            .iter()
            .filter(|(bit, _)| self.has(*bit))
            .map(|(_, n)| *n)
            .collect();
        f.write_str(&set.join("|"))
    }
}

/// One report of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Tag the registration was made with.
    pub tag: Tag,
    /// What happened.
    pub ready: Ready,
}

/// Address of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Addr {
    /// TCP over IPv4 or IPv6.
    Ip(SocketAddr),
    /// Unix stream socket. A leading NUL names an abstract one.
    Unix(Arc<Path>),
}

impl Addr {
    /// The IP address with its port; a Unix socket has none.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }

    /// The IP address; a Unix socket has none.
    #[must_use]
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        match self {
            Self::Ip(addr) => Some(addr.ip()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// TCP keepalive; unset parts keep the kernel's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Seconds of silence before the first probe.
    pub idle_s: Option<u32>,
    /// Seconds between probes.
    pub interval_s: Option<u32>,
    /// Probes without answer before the connection is dead.
    pub probes: Option<u32>,
}

/// A socket option by number, as Envoy's `SocketOption`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOption {
    /// Level, for instance SOL_TCP.
    pub level: i32,
    /// Name, for instance TCP_USER_TIMEOUT.
    pub name: i32,
    /// Value as the kernel wants it.
    pub value: Vec<u8>,
    /// Applied before bind, after bind, or when listening/connected (Envoy's SocketState).
    pub when: OptionTime,
}

/// When a [`RawOption`] is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OptionTime {
    #[default]
    PreBind,
    Bound,
    Listening,
}

/// Options of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// TCP keepalive, off when `None`.
    pub keepalive: Option<Keepalive>,
    /// Milliseconds that sent bytes may stay unacknowledged (TCP_USER_TIMEOUT).
    pub user_timeout_ms: Option<u32>,
    /// Further options by number.
    pub raw: Vec<RawOption>,
    /// Local address to connect from.
    pub bind: Option<SocketAddr>,
}

/// Options of a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Length of the accept queue.
    pub backlog: u32,
    /// Several sockets may listen on the address (SO_REUSEPORT).
    pub reuse_port: bool,
    /// An IPv6 socket also takes IPv4.
    pub ipv4_compat: bool,
    /// Permission bits of a Unix socket's path.
    pub unix_mode: Option<u32>,
    /// Options, of which raw ones also apply to the listening socket.
    pub socket: SocketOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            reuse_port: false,
            ipv4_compat: false,
            unix_mode: None,
            socket: SocketOptions::default(),
        }
    }
}

/// What another thread may do to a worker's backend.
pub trait Remote: Clone + Send + Sync + 'static {
    /// Ends the wait of the worker, now or the next one. Callers check first that it sleeps.
    fn wake(&self);

    /// Takes a descriptor that the caller owns out of this backend's registrations.
    fn remove(&self, sock: Sock) -> io::Result<()>;
}

/// Sockets, registrations and the clock of one worker.
pub trait Reactor: 'static {
    /// Handle for other threads.
    type Remote: Remote;

    /// A handle for other threads.
    fn remote(&self) -> Self::Remote;

    /// Microseconds on a clock that never goes back and is common to the process.
    fn clock_us(&self) -> u64;

    /// A random number; seeded in the simulator.
    fn random(&mut self) -> u64;

    /// Waits for events, at most `timeout_ms` (`None`: until one comes or [`Remote::wake`]), and
    /// appends them. At most as many as one call gives; the rest comes with the next.
    ///
    /// The simulator never blocks: where it would sleep it notes until when and fails with
    /// `WouldBlock`. The caller's turn ends there, its sleep flag still set; the driver calls it again
    /// when there is a reason to wake, and it waits anew. Other backends never give `WouldBlock`.
    fn wait(&mut self, timeout_ms: Option<u64>, events: &mut Vec<Event>) -> io::Result<()>;

    /// Registers a socket.
    fn add(&mut self, sock: Sock, tag: Tag, interest: Interest) -> io::Result<()>;

    /// Changes a registration, arming it anew. Not for [`Interest::Listen`], on either side of the
    /// change (EINVAL): to pause a listening socket, remove it and add it again.
    fn modify(&mut self, sock: Sock, tag: Tag, interest: Interest) -> io::Result<()>;

    /// Ends a registration.
    fn remove(&mut self, sock: Sock) -> io::Result<()>;

    /// Opens a listening socket (non-blocking, close-on-exec).
    fn listen(&mut self, addr: &Addr, options: &ListenOptions) -> io::Result<Sock>;

    /// Takes one connection off a listening socket, non-blocking, TCP_NODELAY set.
    fn accept(&mut self, listener: Sock, options: &SocketOptions) -> io::Result<(Sock, Addr)>;

    /// Starts to connect. The outcome is told by a WRITE or ERROR event once registered with
    /// `Edge { write: true }`, and fetched with [`take_error`](Self::take_error).
    fn connect(&mut self, addr: &Addr, options: &SocketOptions) -> io::Result<Sock>;

    /// The pending error of a socket, if any; clears it.
    fn take_error(&mut self, sock: Sock) -> io::Result<()>;

    /// Reads; `Ok(0)` is the end of stream, `WouldBlock` means nothing is there now.
    fn read(&mut self, sock: Sock, into: &mut [u8]) -> io::Result<usize>;

    /// Reads without taking: what is there, from the first unread byte on, stays to be read. `Ok(0)` is
    /// the end of stream.
    ///
    /// Bytes that were peeked at are no event any more to [`Interest::Edge`], which reports each further
    /// arrival; the other interests would report them again at once.
    fn peek(&mut self, sock: Sock, into: &mut [u8]) -> io::Result<usize>;

    /// Where the connection was for before the packet filter redirected it to this socket; `None` when
    /// it was for this socket.
    fn original_dst(&self, sock: Sock) -> Option<Addr>;

    /// Writes what the socket takes; `WouldBlock` when that is nothing.
    fn write(&mut self, sock: Sock, from: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ends the write direction (FIN).
    fn shutdown_write(&mut self, sock: Sock) -> io::Result<()>;

    /// Closes. With `reset`, the peer is told with RST and unread or unsent bytes are dropped.
    fn close(&mut self, sock: Sock, reset: bool);

    /// Address of this end.
    fn local_addr(&self, sock: Sock) -> io::Result<Addr>;

    /// Address of the other end.
    fn peer_addr(&self, sock: Sock) -> io::Result<Addr>;
}
