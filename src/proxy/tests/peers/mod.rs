//! Scripted peers of a gateway under test, and the network between: the simulated one, or loopback
//! sockets.
//!
//! The same clients and servers judge every byte on both. They must never wait: a driver gives each of
//! them its turn.

pub(super) mod busy;
pub(super) mod client;
pub(super) mod gate;
mod message;
pub(super) mod mux;
mod script;
pub(super) mod server;
mod speech;
pub(super) mod stopper;
pub(super) mod tcp;

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use nix::sys::socket::{setsockopt, sockopt};

use crate::engine::reactor::Addr;
use crate::engine::reactor::random::Random;
use crate::engine::reactor::sim::{SimListener, SimPeer, SimWorld};

/// How many times faster the scripts' clock runs on real sockets: their silences are long.
const HASTE: u64 = 20;

/// Where peers meet the gateway.
#[derive(Debug)]
pub(super) enum Net {
    Sim(SimWorld),
    /// Loopback sockets, and when the run began.
    Real(Instant),
}

/// What scripted peers see of the run.
#[derive(Debug)]
pub(super) struct World {
    pub(super) net: Net,
    lenient: Cell<bool>,
    busy_ends: Cell<bool>,
    reclaims: bool,
}

impl World {
    /// `reclaims`: the gateway may run out of descriptors, and then closes idle clients.
    pub(super) fn new(net: Net, reclaims: bool) -> Self {
        Self {
            net,
            lenient: Cell::new(false),
            busy_ends: Cell::new(false),
            reclaims,
        }
    }

    pub(super) fn now_us(&self) -> u64 {
        match &self.net {
            Net::Sim(sim) => sim.now_us(),
            Net::Real(began) => began.elapsed().as_micros() as u64 * HASTE,
        }
    }

    /// From now on clients may be turned away: the gateway leaves.
    pub(super) fn lenient(&self) -> bool {
        self.lenient.get()
    }

    pub(super) fn be_lenient(&self) {
        self.lenient.set(true);
    }

    /// Busy peers have done enough and end in order.
    pub(super) fn end_busy(&self) {
        self.busy_ends.set(true);
    }

    fn busy_ends(&self) -> bool {
        self.busy_ends.get()
    }

    /// A client without an open exchange may be closed at any time.
    fn reclaims(&self) -> bool {
        self.reclaims
    }

    fn connect(&self, addr: &Addr) -> Option<Peer> {
        match (&self.net, addr) {
            (Net::Sim(sim), _) => sim.connect_client(addr).ok().map(Peer::Sim),
            (Net::Real(_), Addr::Ip(addr)) => {
                let stream = TcpStream::connect(addr).ok()?;
                Peer::real(stream).ok()
            }
            (Net::Real(_), Addr::Unix(_)) => None,
        }
    }
}

/// The far end of a connection. Dropping it closes it.
#[derive(Debug)]
enum Peer {
    Sim(SimPeer),
    Real(TcpStream),
}

impl Peer {
    fn real(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self::Real(stream))
    }

    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Sim(peer) => peer.read(into),
            Self::Real(stream) => again(|| (&*stream).read(into)),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Sim(peer) => peer.write(bytes),
            Self::Real(stream) => again(|| (&*stream).write(bytes)),
        }
    }

    fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Sim(peer) => peer.shutdown_write(),
            Self::Real(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Closes with RST.
    fn reset(self) {
        match self {
            Self::Sim(peer) => peer.reset(),
            Self::Real(stream) => {
                let now = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                // A connection that is gone already needs no reset.
                let _ = setsockopt(&stream, sockopt::Linger, &now);
            }
        }
    }

    /// For the report of a failure.
    fn state(&self) -> String {
        match self {
            Self::Sim(peer) => format!("{:?}", peer.poll()),
            Self::Real(stream) => format!("{stream:?}"),
        }
    }
}

fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A scripted server's listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Sim(SimListener),
    Real(TcpListener),
}

impl Listener {
    /// Listens on a free loopback port.
    #[cfg_attr(not(chaos), allow(dead_code))]
    pub(super) fn real() -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        Ok((Self::Real(listener), addr))
    }

    /// The next connection, if one waits.
    fn accept(&self) -> Option<Peer> {
        match self {
            Self::Sim(listener) => listener.accept().map(Peer::Sim),
            Self::Real(listener) => {
                let (stream, _) = again(|| listener.accept()).ok()?;
                Peer::real(stream).ok()
            }
        }
    }
}

/// A scripted client or server.
pub(super) trait Actor {
    /// Does something, if there is anything to do; says whether it moved. `Err` is a broken promise.
    fn step(&mut self, world: &World, random: &mut Random) -> Result<bool, String>;

    /// When it goes on by itself.
    fn next_us(&self, now_us: u64) -> Option<u64>;

    /// The run may end without it.
    fn is_done(&self) -> bool;

    fn describe(&self) -> String {
        String::new()
    }
}
