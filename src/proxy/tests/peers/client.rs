//! A scripted HTTP/1 client: sends requests, maybe ahead of their answers, and judges what comes back.

use std::collections::VecDeque;
use std::io::ErrorKind;

use super::message::{Message, Reader, belong, content};
use super::script::{Answer, Script};
use super::{Actor, Peer, World};
use crate::engine::reactor::Addr;
use crate::engine::reactor::random::Random;

/// What a client does besides asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Plain,
    /// Ends its write direction after the last request.
    HalfClose,
    /// Resets after so many bytes were received.
    Abort(usize),
    /// Closes after so many bytes were sent.
    Leave(usize),
}

/// The client; it makes its connection at its first step.
pub(in crate::proxy::tests) struct Client {
    addr: Addr,
    peer: Option<Peer>,
    scripts: VecDeque<Script>,
    /// Requests begun and not yet answered.
    asked: VecDeque<Script>,
    out: VecDeque<u8>,
    reader: Reader,
    ahead: usize,
    manner: Manner,
    /// Most bytes it reads at a time.
    gulp: u64,
    sent: usize,
    got: usize,
    half_closed: bool,
    /// Silent until, µs.
    until_us: u64,
    think_ms: u64,
    /// Answers must be the real ones.
    strict: bool,
    /// The gateway may close this connection between two exchanges.
    reclaims: bool,
    /// Something went wrong by script: this connection may end at any time.
    spoiled: bool,
    tunnel: Option<(Script, Vec<u8>, usize)>,
    pub(in crate::proxy::tests) answers: u64,
    ended: bool,
}

impl Client {
    pub(in crate::proxy::tests) fn new(
        addr: Addr,
        random: &mut Random,
        first_id: u64,
        (most, upgrades): (usize, bool),
        strict: bool,
    ) -> Self {
        let odd = if random.chance(500) { 0 } else { 300 };
        let count = 1 + random.below(6);
        let mut scripts = VecDeque::new();
        for id in first_id..first_id + count {
            let mut script = Script::draw(random, id, most, odd);
            if upgrades && id + 1 == first_id + count && random.chance(150) {
                script.answer = Answer::Upgrade;
            } else if script.answer == Answer::Upgrade {
                script.answer = Answer::Length;
            }
            scripts.push_back(script);
        }
        let manner = match random.below(8) {
            0 => Manner::HalfClose,
            1 => Manner::Abort(random.below(most as u64 * 2) as usize),
            2 => Manner::Leave(random.below(most as u64 * 2) as usize),
            _ => Manner::Plain,
        };
        // A half-closed tunnel and a half-closed exchange are different things; see `Tunnel` below.
        let upgrades = scripts.iter().any(|s| s.answer == Answer::Upgrade);
        Self {
            addr,
            peer: None,
            asked: VecDeque::new(),
            out: VecDeque::new(),
            reader: Reader::new(false),
            ahead: if upgrades {
                1
            } else {
                1 + random.below(3) as usize
            },
            manner: if upgrades && manner == Manner::HalfClose {
                Manner::Plain
            } else {
                manner
            },
            gulp: [50, 500, 5000, 50_000][random.below(4) as usize],
            sent: 0,
            got: 0,
            half_closed: false,
            until_us: random.below(2_000_000),
            think_ms: [0, 0, 5, 100, 2000][random.below(5) as usize],
            strict,
            reclaims: false,
            spoiled: false,
            tunnel: None,
            answers: 0,
            ended: false,
            scripts,
        }
    }

    fn ask(&mut self, random: &mut Random) {
        while self.asked.len() < self.ahead {
            let Some(script) = self.scripts.pop_front() else {
                return;
            };
            let body = if script.answer == Answer::Upgrade {
                Vec::new()
            } else {
                content(script.id, 0, script.sends)
            };
            let method = if body.is_empty() { "GET" } else { "POST" };
            let mut bytes = format!("{method} {} HTTP/1.1\r\nhost: sim\r\n", script.path());
            if script.answer == Answer::Upgrade {
                bytes += "connection: upgrade\r\nupgrade: websocket\r\n\r\n";
                self.out.extend(bytes.into_bytes());
            } else if body.is_empty() {
                bytes += "\r\n";
                self.out.extend(bytes.into_bytes());
            } else if random.chance(500) {
                bytes += &format!("content-length: {}\r\n\r\n", body.len());
                self.out.extend(bytes.into_bytes());
                self.out.extend(body);
            } else {
                bytes += "transfer-encoding: chunked\r\n\r\n";
                self.out.extend(bytes.into_bytes());
                let mut rest = &body[..];
                while !rest.is_empty() {
                    let count = 1 + random.below(rest.len() as u64) as usize;
                    self.out.extend(format!("{count:x}\r\n").into_bytes());
                    self.out.extend(&rest[..count]);
                    self.out.extend(b"\r\n");
                    rest = &rest[count..];
                }
                self.out.extend(b"0\r\n\r\n");
            }
            self.spoiled |= !script.is_benign();
            self.asked.push_back(script);
        }
    }

    /// The connection is over; says what is wrong about that.
    fn end(&mut self, why: &str) -> Result<(), String> {
        self.ended = true;
        self.peer = None;
        let all = self.asked.is_empty() && self.scripts.is_empty() && self.tunnel.is_none();
        // What a client says on and on meets a closed socket, whose reset takes along the end of an
        // answer that was still on its way (RFC 9112 section 9.6).
        let cut = self.reader.is_idle() || self.asked.len() > 1;
        let may = self.reclaims && self.tunnel.is_none() && cut;
        if self.strict && !(self.spoiled || all || may) {
            return Err(format!("{why} with {:?} to come", self.asked.front()));
        }
        Ok(())
    }

    fn judge(&mut self, message: &Message) -> Result<(), String> {
        let status = message.status();
        if (100..200).contains(&status) && status != 101 {
            return Ok(());
        }
        let Some(script) = self.asked.pop_front() else {
            return Err(format!("an answer to nothing: {:?}", message.first));
        };
        self.answers += 1;
        if message.field("connection") == Some("close") {
            self.spoiled |= script.answer != Answer::Length;
        }
        let Some(id) = message.field("x-id") else {
            // An answer of the gateway's own.
            if self.strict && script.is_benign() {
                return Err(format!("{:?} for {script:?}", message.first));
            }
            return Ok(());
        };
        if id != script.id.to_string() {
            return Err(format!("the answer of {id} for {script:?}"));
        }
        if script.never_completes() {
            return Err(format!("a cut answer arrived whole: {script:?}"));
        }
        if status == 101 {
            self.tunnel = Some((script, Vec::new(), 0));
            let bytes = content(script.id, 0, script.sends);
            self.out.extend(bytes);
            return Ok(());
        }
        if message.body != content(!script.id, 0, script.gets) {
            let got = message.body.len();
            return Err(format!("another body of {got} bytes for {script:?}"));
        }
        Ok(())
    }

    fn read(&mut self, random: &mut Random, now_us: u64) -> Result<bool, String> {
        let Some(peer) = &self.peer else {
            return Ok(false);
        };
        let mut buffer = vec![0; 1 + random.below(self.gulp) as usize];
        let count = match peer.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => {
                self.check_tail()?;
                self.end(&error.to_string())?;
                return Ok(true);
            }
        };
        self.got += count;
        if let Some((_, bytes, _)) = &mut self.tunnel {
            bytes.extend_from_slice(&buffer[..count]);
        } else {
            self.reader.bytes.extend_from_slice(&buffer[..count]);
        }
        loop {
            if self.tunnel.is_some() {
                break;
            }
            self.reader.advance(count == 0)?;
            match self.reader.current.take() {
                Some(message) if message.done => {
                    self.judge(&message)?;
                    if let Some((_, bytes, _)) = &mut self.tunnel {
                        bytes.append(&mut self.reader.bytes);
                    }
                    self.until_us = now_us + random.below(self.think_ms + 1) * 1000;
                }
                unfinished => {
                    self.reader.current = unfinished;
                    break;
                }
            }
        }
        self.tunneled()?;
        if count == 0 && !self.ended {
            self.check_tail()?;
            self.end("closed")?;
        }
        Ok(true)
    }

    /// What was cut must still be the beginning of the right answer.
    fn check_tail(&self) -> Result<(), String> {
        let Some(message) = &self.reader.current else {
            return Ok(());
        };
        let Some(script) = self.asked.front() else {
            return Err(format!("half an answer to nothing: {:?}", message.first));
        };
        if message.field("x-id").is_some()
            && message.body != content(!script.id, 0, message.body.len())
        {
            return Err(format!("another beginning of a body for {script:?}"));
        }
        Ok(())
    }

    fn tunneled(&mut self) -> Result<(), String> {
        let Some((script, bytes, judged)) = &mut self.tunnel else {
            return Ok(());
        };
        if !belong(script.id, bytes, judged) || bytes.len() > script.sends {
            return Err(format!("another echo of {script:?}: {} bytes", bytes.len()));
        }
        if bytes.len() == script.sends {
            self.tunnel = None;
            self.ended = true;
            self.peer = None;
        }
        Ok(())
    }

    fn write(&mut self, random: &mut Random) -> Result<bool, String> {
        let Some(peer) = &self.peer else {
            return Ok(false);
        };
        if self.out.is_empty() {
            return Ok(false);
        }
        let most = self.out.len().min(1 + random.below(8192) as usize);
        let bytes: Vec<u8> = self.out.iter().take(most).copied().collect();
        match peer.write(&bytes) {
            Ok(count) => {
                self.out.drain(..count);
                self.sent += count;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => {
                // The answer, if any, is still to be read.
                self.out.clear();
                Ok(true)
            }
        }
    }
}

impl Actor for Client {
    fn step(&mut self, world: &World, random: &mut Random) -> Result<bool, String> {
        if self.ended || world.now_us() < self.until_us {
            return Ok(false);
        }
        if self.peer.is_none() {
            self.peer = world.connect(&self.addr);
            return Ok(true);
        }
        self.strict &= !world.lenient();
        self.reclaims = world.reclaims();
        self.ask(random);
        let mut moved = self.write(random)?;
        if random.chance(700) {
            moved |= self.read(random, world.now_us())?;
        }
        let over = match self.manner {
            Manner::Abort(after) => self.got > after,
            Manner::Leave(after) => self.sent > after,
            Manner::Plain | Manner::HalfClose => false,
        };
        if over && let Some(peer) = self.peer.take() {
            if matches!(self.manner, Manner::Abort(_)) {
                peer.reset();
            }
            self.ended = true;
            return Ok(true);
        }
        let all_sent = self.out.is_empty() && self.scripts.is_empty();
        if all_sent && self.asked.is_empty() && self.tunnel.is_none() && self.reader.is_idle() {
            if let Some(peer) = &self.peer
                && self.manner == Manner::HalfClose
                && !self.half_closed
            {
                self.half_closed = true;
                self.spoiled = true;
                moved |= peer.shutdown_write().is_ok();
            } else if self.manner != Manner::HalfClose {
                self.ended = true;
                self.peer = None;
                moved = true;
            }
        } else if all_sent
            && self.manner == Manner::HalfClose
            && !self.half_closed
            && let Some(peer) = &self.peer
        {
            self.half_closed = true;
            self.spoiled = true;
            moved |= peer.shutdown_write().is_ok();
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
        format!(
            "client: {:?} asked {:?}, {} bytes to send, reading {:?}, {:?}, tunnel {:?}",
            self.manner,
            self.asked,
            self.out.len(),
            self.reader
                .current
                .as_ref()
                .map(|m| (&m.first, m.body.len())),
            self.peer.as_ref().map(Peer::state),
            self.tunnel.as_ref().map(|(_, bytes, _)| bytes.len()),
        )
    }
}
