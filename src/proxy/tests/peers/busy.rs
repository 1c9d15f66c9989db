//! Peers that are never silent: what makes a worker busy. They end when the run says so.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::rc::Rc;

use moorgate_codecs::StreamId;
use moorgate_codecs::testmux::Role;

use super::message::{Reader, content};
use super::mux::{self, Heard, Link};
use super::{Actor, Listener, Peer, World};
use crate::engine::reactor::Addr;
use crate::engine::reactor::random::Random;

/// Bytes of a stream's answer.
const ANSWER: usize = 700;
/// Streams a multiplexed client holds open.
const STREAMS: usize = 14;

/// What one busy client has done, for whoever waits for it.
#[derive(Debug, Default)]
pub(in crate::proxy::tests) struct Progress {
    /// Answers, or bytes that came back.
    pub(in crate::proxy::tests) done: Cell<u64>,
    /// Fewest streams open at a time since the first ones were.
    pub(in crate::proxy::tests) fewest: Cell<usize>,
}

/// Where a client connects, and its connection once there is one.
struct Line {
    addr: Addr,
    peer: Option<Peer>,
    ended: bool,
}

impl Line {
    /// The connection; made at the first call.
    fn get(&mut self, world: &World) -> Result<&Peer, String> {
        if self.peer.is_none() {
            self.peer = world.connect(&self.addr);
        }
        self.peer.as_ref().ok_or_else(|| "no connection".to_owned())
    }
}

/// The bytes written, or read, now; `None` when that is nothing.
fn now(done: std::io::Result<usize>) -> Result<Option<usize>, String> {
    match done {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Asks, reads the answer, asks again.
pub(in crate::proxy::tests) struct Asker {
    line: Line,
    out: Vec<u8>,
    reader: Reader,
    asked: Option<u64>,
    next: u64,
    progress: Rc<Progress>,
}

impl Asker {
    pub(in crate::proxy::tests) fn new(addr: Addr, id: u64, progress: &Rc<Progress>) -> Self {
        Self {
            line: Line {
                addr,
                peer: None,
                ended: false,
            },
            out: Vec::new(),
            reader: Reader::new(false),
            asked: None,
            next: id,
            progress: Rc::clone(progress),
        }
    }
}

impl Actor for Asker {
    fn step(&mut self, world: &World, _: &mut Random) -> Result<bool, String> {
        if self.line.ended {
            return Ok(false);
        }
        if self.line.peer.is_none() {
            self.line.get(world)?;
            return Ok(true);
        }
        if self.asked.is_none() {
            if world.busy_ends() {
                self.line.ended = true;
                self.line.peer = None;
                return Ok(true);
            }
            let id = self.next;
            self.next += 1;
            self.asked = Some(id);
            self.out = format!("GET /{id}/l/0/{ANSWER}/0 HTTP/1.1\r\nhost: sim\r\n\r\n").into();
        }
        let peer = self.line.get(world)?;
        let mut moved = false;
        if !self.out.is_empty()
            && let Some(count) = now(peer.write(&self.out))?
        {
            self.out.drain(..count);
            moved = true;
        }
        let mut buffer = [0; 4096];
        if let Some(count) = now(peer.read(&mut buffer))? {
            if count == 0 {
                return Err("a busy client was closed".to_owned());
            }
            moved = true;
            self.reader.bytes.extend_from_slice(&buffer[..count]);
            self.reader.advance(false)?;
        }
        if let Some(message) = self.reader.current.take_if(|message| message.done) {
            let id = self.asked.take().unwrap_or(u64::MAX);
            if message.status() != 200 || message.body != content(!id, 0, ANSWER) {
                return Err(format!("another answer for {id}: {:?}", message.first));
            }
            self.progress.done.set(self.progress.done.get() + 1);
        }
        Ok(moved)
    }

    fn next_us(&self, _: u64) -> Option<u64> {
        None
    }

    fn is_done(&self) -> bool {
        self.line.ended
    }
}

/// Streams through a tunnel to an [`Echo`]: writes and reads all the time.
pub(in crate::proxy::tests) struct Streamer {
    line: Line,
    id: u64,
    sent: usize,
    got: usize,
    shut: bool,
    progress: Rc<Progress>,
}

impl Streamer {
    pub(in crate::proxy::tests) fn new(addr: Addr, id: u64, progress: &Rc<Progress>) -> Self {
        Self {
            line: Line {
                addr,
                peer: None,
                ended: false,
            },
            id,
            sent: 0,
            got: 0,
            shut: false,
            progress: Rc::clone(progress),
        }
    }
}

impl Actor for Streamer {
    fn step(&mut self, world: &World, _: &mut Random) -> Result<bool, String> {
        if self.line.ended {
            return Ok(false);
        }
        if self.line.peer.is_none() {
            self.line.get(world)?;
            return Ok(true);
        }
        let (id, sent, shut) = (self.id, self.sent, self.shut);
        let ends = world.busy_ends();
        let peer = self.line.get(world)?;
        let mut moved = false;
        if !ends {
            let bytes = content(id, sent, 8192);
            if let Some(count) = now(peer.write(&bytes))? {
                self.sent += count;
                moved = true;
            }
        } else if !shut {
            let _ = peer.shutdown_write();
            self.shut = true;
        }
        let peer = self.line.get(world)?;
        let mut buffer = [0; 8192];
        if let Some(count) = now(peer.read(&mut buffer))? {
            moved = true;
            if buffer[..count] != content(id, self.got, count) {
                return Err(format!("tunnel {id}: other bytes after {}", self.got));
            }
            self.got += count;
            self.progress.done.set(self.got as u64);
            if count == 0 {
                if self.got != self.sent || !self.shut {
                    return Err(format!("tunnel {id}: {} of {}", self.got, self.sent));
                }
                self.line.ended = true;
                self.line.peer = None;
            }
        }
        Ok(moved)
    }

    fn next_us(&self, _: u64) -> Option<u64> {
        None
    }

    fn is_done(&self) -> bool {
        self.line.ended
    }
}

/// A TCP upstream that sends back what comes.
pub(in crate::proxy::tests) struct Echo {
    listener: Listener,
    conns: Vec<(Peer, Vec<u8>, bool)>,
}

impl Echo {
    pub(in crate::proxy::tests) fn new(listener: Listener) -> Self {
        Self {
            listener,
            conns: Vec::new(),
        }
    }
}

impl Actor for Echo {
    fn step(&mut self, _: &World, _: &mut Random) -> Result<bool, String> {
        let mut moved = false;
        while let Some(peer) = self.listener.accept() {
            moved = true;
            self.conns.push((peer, Vec::new(), false));
        }
        self.conns.retain_mut(|(peer, held, eof)| {
            let mut buffer = [0; 8192];
            if !*eof && held.len() < 1 << 16 {
                match now(peer.read(&mut buffer)) {
                    Ok(Some(count)) => {
                        moved = true;
                        *eof = count == 0;
                        held.extend_from_slice(&buffer[..count]);
                    }
                    Ok(None) => {}
                    Err(_) => return false,
                }
            }
            if held.is_empty() {
                return !*eof;
            }
            match now(peer.write(held)) {
                Ok(Some(count)) => {
                    moved = true;
                    held.drain(..count);
                    true
                }
                Ok(None) => true,
                Err(_) => false,
            }
        });
        Ok(moved)
    }

    fn next_us(&self, _: u64) -> Option<u64> {
        None
    }

    fn is_done(&self) -> bool {
        true
    }
}

/// A multiplexed client that opens a stream for each that is about to end.
pub(in crate::proxy::tests) struct Juggler {
    addr: Addr,
    link: Link,
    open: BTreeMap<StreamId, (u64, Vec<u8>)>,
    next: u64,
    connected: bool,
    ended: bool,
    progress: Rc<Progress>,
}

impl Juggler {
    pub(in crate::proxy::tests) fn new(addr: Addr, id: u64, progress: &Rc<Progress>) -> Self {
        progress.fewest.set(usize::MAX);
        Self {
            addr,
            link: Link::new(None, Role::Client, 65_536),
            open: BTreeMap::new(),
            next: id,
            connected: false,
            ended: false,
            progress: Rc::clone(progress),
        }
    }

    fn ask(&mut self) {
        while self.open.len() < STREAMS {
            let Some(id) = self.link.codec.open() else {
                return;
            };
            let number = self.next;
            self.next += 1;
            let head = mux::plain_request(&format!("/{number}/l/0/{ANSWER}/0"));
            let said = self
                .link
                .say(&[], |codec, out| codec.send_head(id, &head, true, out));
            debug_assert!(said.is_ok());
            self.open.insert(id, (number, Vec::new()));
        }
    }

    fn hear(&mut self, heard: Heard) -> Result<(), String> {
        let (id, bytes, end) = match heard {
            Heard::Head(_, head, _) if head.status != 200 => {
                return Err(format!("status {} for a busy stream", head.status));
            }
            Heard::Head(id, _, end) => (id, Vec::new(), end),
            Heard::Data(id, bytes, end) => (id, bytes, end),
            Heard::Reset(id) => return Err(format!("a busy stream was reset: {id:?}")),
        };
        let Some((number, got)) = self.open.get_mut(&id) else {
            return Err(format!("an answer on {id:?}, which is not open"));
        };
        got.extend(bytes);
        if end {
            if *got != content(!*number, 0, ANSWER) {
                return Err(format!("another answer for {number}"));
            }
            self.open.remove(&id);
            self.progress.done.set(self.progress.done.get() + 1);
        }
        Ok(())
    }
}

impl Actor for Juggler {
    fn step(&mut self, world: &World, random: &mut Random) -> Result<bool, String> {
        if self.ended {
            return Ok(false);
        }
        if !self.connected {
            self.connected = true;
            self.link.peer = world.connect(&self.addr);
            return Ok(true);
        }
        if !world.busy_ends() {
            self.ask();
        } else if self.open.is_empty() {
            self.ended = true;
            self.link.peer = None;
            return Ok(true);
        }
        let mut heard = Vec::new();
        let moved = self.link.step(world, random, &mut heard)?;
        for heard in heard {
            let opened = self.open.len();
            self.hear(heard)?;
            if !world.busy_ends() && self.open.len() < opened {
                let fewest = self.progress.fewest.get().min(self.open.len());
                self.progress.fewest.set(fewest);
                self.ask();
            }
        }
        if self.link.peer.is_none() {
            return Err("a busy client was closed".to_owned());
        }
        Ok(moved)
    }

    fn next_us(&self, _: u64) -> Option<u64> {
        None
    }

    fn is_done(&self) -> bool {
        self.ended
    }
}
