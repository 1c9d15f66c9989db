//! Scripted clients and servers: ends of connections that no worker owns.
//!
//! They live outside the process under test: they use none of its descriptors and see no faults but
//! those of the network between.

use std::io::{self, IoSlice};

use super::stream::State;
use super::world::{Id, World};
use super::{SimWorld, failed};
use crate::engine::reactor::{Addr, Ready};

/// The far end of a connection. Dropping it closes it.
#[derive(Debug)]
pub struct SimPeer {
    world: SimWorld,
    id: Id,
}

impl SimPeer {
    pub(super) fn new(world: SimWorld, id: Id) -> Self {
        Self { world, id }
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// As [`Reactor::write`](crate::engine::reactor::Reactor::write); `WouldBlock` also while the connection is
    /// not yet made.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let slices = [IoSlice::new(bytes)];
        let mut world = self.world.lock();
        let done = world.write_plain(self.id, &slices, bytes.len());
        done.map_err(failed)
    }

    /// Reads; `Ok(0)` is the end of stream.
    ///
    /// # Errors
    /// As [`Reactor::read`](crate::engine::reactor::Reactor::read).
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut world = self.world.lock();
        world.read_plain(self.id, into).map_err(failed)
    }

    /// Appends everything that can be read now; says whether the end of stream was met.
    ///
    /// # Errors
    /// As [`read`](Self::read), but never `WouldBlock`.
    pub fn read_available(&self, into: &mut Vec<u8>) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(count) => into.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes that can be read now.
    #[must_use]
    pub fn readable(&self) -> usize {
        let mut world = self.world.lock();
        world.stream(self.id).map_or(0, |stream| stream.visible())
    }

    /// What the socket is ready for.
    #[must_use]
    pub fn poll(&self) -> Ready {
        Ready(self.world.lock().poll(self.id))
    }

    /// The connection was made, and not yet reset or closed in both directions.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state() == Some(State::Open)
    }

    /// The connect is not decided yet.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        self.state() == Some(State::Connecting)
    }

    /// The simulated network broke this connection or its connect: whatever was on the way may be lost.
    #[must_use]
    pub fn was_broken(&self) -> bool {
        let mut world = self.world.lock();
        world.stream(self.id).is_some_and(|stream| stream.broken)
    }

    /// Ends the write direction.
    ///
    /// # Errors
    /// ENOTCONN when the connection is gone.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.world.lock().shutdown_write(self.id).map_err(failed)
    }

    /// Closes with RST.
    pub fn reset(self) {
        self.world.lock().close_stream(self.id, true);
    }

    /// Closes: FIN after what was written, or RST when something was left unread.
    pub fn close(self) {}

    /// Address of this end.
    #[must_use]
    pub fn local_addr(&self) -> Option<Addr> {
        let mut world = self.world.lock();
        world.stream(self.id).map(|stream| stream.local.clone())
    }

    /// Address of the end under test.
    #[must_use]
    pub fn remote_addr(&self) -> Option<Addr> {
        let mut world = self.world.lock();
        world.stream(self.id).map(|stream| stream.remote.clone())
    }

    fn state(&self) -> Option<State> {
        let mut world = self.world.lock();
        world.stream(self.id).map(|stream| stream.state)
    }
}

impl Drop for SimPeer {
    fn drop(&mut self) {
        let mut world = self.world.lock();
        close_if_held(&mut world, self.id);
    }
}

/// A reset peer is freed already; its number names nothing any more.
fn close_if_held(world: &mut World, id: Id) {
    if world.stream(id).is_some() {
        world.close_stream(id, false);
    }
}

/// A scripted server. Dropping it closes the listening socket and resets what waits in its queue.
#[derive(Debug)]
pub struct SimListener {
    world: SimWorld,
    id: Id,
}

impl SimListener {
    pub(super) fn new(world: SimWorld, id: Id) -> Self {
        Self { world, id }
    }

    /// The next connection, if one waits.
    #[must_use]
    pub fn accept(&self) -> Option<SimPeer> {
        let mut world = self.world.lock();
        let id = world.accept_end(self.id)?;
        if let Some(stream) = world.stream(id) {
            stream.owner = super::stream::Owner::Peer;
        }
        drop(world);
        Some(SimPeer::new(self.world.clone(), id))
    }

    /// Connections that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let mut world = self.world.lock();
        world.listener(self.id).map_or(0, |found| found.queue.len())
    }

    /// The address, with the port that was chosen.
    #[must_use]
    pub fn local_addr(&self) -> Option<Addr> {
        let mut world = self.world.lock();
        world.listener(self.id).map(|found| found.addr.clone())
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.world.lock().close_listener(self.id);
    }
}
