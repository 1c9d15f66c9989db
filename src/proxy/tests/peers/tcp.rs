//! Scripted TCP clients and servers: bytes both ways, each direction ended by itself.

use std::io::ErrorKind;

use super::message::{belong, content};
use super::{Actor, Listener, Peer, World};
use crate::engine::reactor::Addr;
use crate::engine::reactor::random::Random;

/// Bytes of the preface: number, bytes to send, bytes to get, and who ends first.
const PREFACE: usize = 25;

/// One end: sends what it should and its FIN, and checks what comes until the other's FIN.
struct End {
    peer: Option<Peer>,
    /// Starts with the preface on a client.
    sends: Vec<u8>,
    sent: usize,
    /// The FIN waits until the other side's came.
    ends_last: bool,
    shut: bool,
    got: Vec<u8>,
    /// Bytes of those that were looked at.
    judged: usize,
    eof: bool,
    failed: bool,
}

impl End {
    fn new(peer: Option<Peer>) -> Self {
        Self {
            peer,
            sends: Vec::new(),
            sent: 0,
            ends_last: false,
            shut: false,
            got: Vec::new(),
            judged: 0,
            eof: false,
            failed: false,
        }
    }

    fn step(&mut self, random: &mut Random, may_end: bool) -> bool {
        let Some(peer) = &self.peer else {
            return false;
        };
        let mut moved = false;
        let rest = &self.sends[self.sent..];
        if !rest.is_empty() {
            let most = rest.len().min(1 + random.below(8192) as usize);
            match peer.write(&rest[..most]) {
                Ok(count) => {
                    self.sent += count;
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.failed = true,
            }
        } else if may_end && !self.shut && (self.eof || !self.ends_last) {
            self.shut = true;
            self.failed |= peer.shutdown_write().is_err();
            moved = true;
        }
        if !self.eof && random.chance(700) {
            let mut buffer = vec![0; 1 + random.below(20_000) as usize];
            match peer.read(&mut buffer) {
                Ok(0) => {
                    self.eof = true;
                    moved = true;
                }
                Ok(count) => {
                    self.got.extend_from_slice(&buffer[..count]);
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.failed = true,
            }
        }
        if self.failed || (self.eof && self.shut) {
            self.peer = None;
            moved = true;
        }
        moved
    }
}

/// A client of a TCP listener.
pub(in crate::proxy::tests) struct TcpClient {
    addr: Addr,
    end: End,
    id: u64,
    gets: usize,
    until_us: u64,
    abort_after: Option<usize>,
    strict: bool,
    ended: bool,
}

impl TcpClient {
    pub(in crate::proxy::tests) fn new(
        addr: Addr,
        random: &mut Random,
        id: u64,
        most: usize,
        strict: bool,
    ) -> Self {
        let sends = random.below(most as u64) as usize;
        let gets = random.below(most as u64) as usize;
        let ends_last = random.chance(400);
        let mut end = End::new(None);
        end.sends.extend(id.to_be_bytes());
        end.sends.extend((sends as u64).to_be_bytes());
        end.sends.extend((gets as u64).to_be_bytes());
        end.sends.push(u8::from(!ends_last));
        end.sends.extend(content(id, 0, sends));
        end.ends_last = ends_last;
        Self {
            addr,
            end,
            id,
            gets,
            until_us: random.below(2_000_000),
            abort_after: random
                .chance(150)
                .then(|| random.below(most as u64) as usize),
            strict,
            ended: false,
        }
    }
}

impl Actor for TcpClient {
    fn step(&mut self, world: &World, random: &mut Random) -> Result<bool, String> {
        if self.ended || world.now_us() < self.until_us {
            return Ok(false);
        }
        if self.end.peer.is_none() {
            self.end.peer = world.connect(&self.addr);
            return Ok(true);
        }
        if random.chance(20) {
            self.until_us = world.now_us() + random.below(1_000_000);
        }
        self.strict &= !world.lenient();
        let moved = self.end.step(random, true);
        if !belong(!self.id, &self.end.got, &mut self.end.judged) {
            return Err(format!("tcp {}: other bytes", self.id));
        }
        if let Some(after) = self.abort_after
            && self.end.sent + self.end.got.len() > after
            && let Some(peer) = self.end.peer.take()
        {
            if random.chance(500) {
                peer.reset();
            }
            self.ended = true;
            return Ok(true);
        }
        if self.end.peer.is_none() {
            self.ended = true;
            let whole = self.end.eof && self.end.got.len() == self.gets && !self.end.failed;
            if self.strict && !whole {
                return Err(format!("tcp {}: {}", self.id, self.describe()));
            }
        }
        Ok(moved)
    }

    fn next_us(&self, now_us: u64) -> Option<u64> {
        (!self.ended && self.until_us > now_us).then_some(self.until_us)
    }

    fn is_done(&self) -> bool {
        self.ended
    }

    fn describe(&self) -> String {
        let end = &self.end;
        format!(
            "tcp {}: sent {} of {}, got {} of {}, eof {}, shut {}, failed {}, abort {:?}",
            self.id,
            end.sent,
            end.sends.len(),
            end.got.len(),
            self.gets,
            end.eof,
            end.shut,
            end.failed,
            self.abort_after,
        )
    }
}

/// The TCP upstream.
pub(in crate::proxy::tests) struct TcpServer {
    listener: Listener,
    ends: Vec<(End, bool)>,
    strict: bool,
}

impl TcpServer {
    pub(in crate::proxy::tests) fn new(listener: Listener, strict: bool) -> Self {
        Self {
            listener,
            ends: Vec::new(),
            strict,
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

impl Actor for TcpServer {
    fn step(&mut self, world: &World, random: &mut Random) -> Result<bool, String> {
        self.strict &= !world.lenient();
        let mut moved = false;
        while let Some(peer) = self.listener.accept() {
            self.ends.push((End::new(Some(peer)), false));
            moved = true;
        }
        for (end, known) in &mut self.ends {
            moved |= end.step(random, *known || end.eof);
            if !*known && end.got.len() >= PREFACE {
                *known = true;
                let gets = number(&end.got[16..24]) as usize;
                end.sends = content(!number(&end.got[..8]), 0, gets);
                end.ends_last = end.got[24] != 0;
            }
            if *known {
                let id = number(&end.got[..8]);
                let bytes = &end.got[PREFACE..];
                if !belong(id, bytes, &mut end.judged) {
                    return Err(format!("tcp {id}: other bytes upstream"));
                }
                if bytes.len() > number(&end.got[8..16]) as usize {
                    return Err(format!("tcp {id}: too many bytes upstream"));
                }
            }
        }
        self.ends.retain(|(end, _)| end.peer.is_some());
        Ok(moved)
    }

    fn next_us(&self, _: u64) -> Option<u64> {
        None
    }

    fn is_done(&self) -> bool {
        true
    }
}
