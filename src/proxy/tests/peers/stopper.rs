//! A client that stops in the middle: of a handshake, or of a record.

use super::{Actor, Peer, World};
use crate::engine::reactor::Addr;
use crate::engine::reactor::random::Random;
use crate::tls::{Asked, ClientContext, Session};

/// Says something of TLS up to some byte, is silent for a while, and goes. All that is asked of the gateway is
/// that nothing else suffers and nothing of it stays.
pub(in crate::proxy::tests) struct Stopper {
    addr: Addr,
    peer: Option<Peer>,
    session: Session,
    wire: Vec<u8>,
    unread: Vec<u8>,
    /// Bytes that it still says.
    left: usize,
    /// When the connection is there: says half of a record.
    in_record: bool,
    begin_us: u64,
    silent_us: u64,
    go_us: Option<u64>,
    resets: bool,
    done: bool,
}

impl Stopper {
    pub(in crate::proxy::tests) fn new(
        addr: Addr,
        context: &ClientContext,
        random: &mut Random,
    ) -> Self {
        let mut wire = Vec::new();
        let session = Session::client(context, &Asked::default(), &mut wire);
        let in_record = random.chance(500);
        Self {
            addr,
            peer: None,
            session: session.expect("a session"),
            left: if in_record {
                usize::MAX
            } else {
                random.below(wire.len() as u64 + 40) as usize
            },
            wire,
            unread: Vec::new(),
            in_record,
            begin_us: random.below(3_000_000),
            silent_us: random.below(90_000_000),
            go_us: None,
            resets: random.chance(500),
            done: false,
        }
    }

    fn talk(&mut self, random: &mut Random) -> bool {
        let Some(peer) = &self.peer else {
            return false;
        };
        let mut moved = false;
        let most = self.wire.len().min(self.left);
        if most > 0 {
            let most = 1 + random.below(most as u64) as usize;
            match peer.write(&self.wire[..most]) {
                Ok(count) => {
                    self.wire.drain(..count);
                    self.left -= count;
                    moved |= count > 0;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => self.done = true,
            }
        }
        let mut buffer = [0; 2048];
        match peer.read(&mut buffer) {
            Ok(0) => self.done = true,
            Ok(count) => {
                moved = true;
                self.unread.extend_from_slice(&buffer[..count]);
                let opened = self.session.open(&mut self.unread, &mut self.wire);
                self.unread.drain(..opened.consumed);
                self.done |= opened.error.is_some();
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.done = true,
        }
        if self.in_record && !self.session.is_shaking() && self.wire.is_empty() {
            self.in_record = false;
            let plain = [7; 300];
            let slices = std::iter::once(&plain[..]);
            let sealed = self.session.seal(0, slices, usize::MAX, &mut self.wire);
            self.done |= sealed.is_err();
            // Its last byte at least is never said.
            self.left = random.below(self.wire.len() as u64) as usize;
            moved = true;
        }
        moved || self.done
    }
}

impl Actor for Stopper {
    fn step(&mut self, world: &World, random: &mut Random) -> Result<bool, String> {
        let now = world.now_us();
        if self.done || now < self.begin_us {
            return Ok(false);
        }
        if self.peer.is_none() {
            self.peer = world.connect(&self.addr);
            self.done = self.peer.is_none();
            return Ok(true);
        }
        let go_us = *self.go_us.get_or_insert(now + self.silent_us);
        let moved = self.talk(random);
        if self.done || now >= go_us {
            self.done = true;
            match self.peer.take() {
                Some(peer) if self.resets => peer.reset(),
                peer => drop(peer),
            }
            return Ok(true);
        }
        Ok(moved)
    }

    fn next_us(&self, now_us: u64) -> Option<u64> {
        let next = if now_us < self.begin_us {
            Some(self.begin_us)
        } else {
            self.go_us
        };
        next.filter(|_| !self.done)
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn describe(&self) -> String {
        format!("a client that stops, {:?}", self.session)
    }
}
