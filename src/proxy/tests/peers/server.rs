//! A scripted HTTP/1 upstream: it does to each request what the request's path says.

use std::collections::VecDeque;
use std::io::ErrorKind;

use super::message::{Reader, belong, content};
use super::script::{Answer, Script};
use super::{Actor, Listener, Peer, World};
use crate::engine::reactor::random::Random;

/// How long a closed server waits for the other side to close, µs.
const LINGER_US: u64 = 600_000_000;

#[derive(Debug)]
enum Step {
    Bytes(Vec<u8>),
    Wait(u64),
    Close,
    Reset,
    Echo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Http,
    Echo,
    /// The write direction ended; what still comes is thrown away.
    Ended,
}

struct Conn {
    peer: Option<Peer>,
    reader: Reader,
    steps: VecDeque<Step>,
    /// Silent until, µs.
    until_us: u64,
    /// The current request has its answer queued.
    answered: bool,
    /// Closes after the current answer.
    last: bool,
    mode: Mode,
    eof: bool,
}

/// The server: a listener and its connections.
pub(in crate::proxy::tests) struct Server {
    listener: Listener,
    conns: Vec<Conn>,
}

impl Server {
    pub(in crate::proxy::tests) fn new(listener: Listener) -> Self {
        Self {
            listener,
            conns: Vec::new(),
        }
    }
}

fn chunks(random: &mut Random, body: &[u8], pause_ms: u64, steps: &mut VecDeque<Step>) {
    let mut rest = body;
    while !rest.is_empty() {
        let count = 1 + random.below(rest.len() as u64) as usize;
        let mut bytes = format!("{count:x}\r\n").into_bytes();
        bytes.extend_from_slice(&rest[..count]);
        bytes.extend_from_slice(b"\r\n");
        steps.push_back(Step::Bytes(bytes));
        if pause_ms > 0 {
            steps.push_back(Step::Wait(pause_ms * 1000));
        }
        rest = &rest[count..];
    }
}

/// The steps of an answer; whether the connection ends with it.
fn answer(script: &Script, random: &mut Random, steps: &mut VecDeque<Step>) -> bool {
    let body = content(!script.id, 0, script.gets);
    let half = body.len() / 2;
    let status = if script.answer == Answer::Error {
        "503 Busy"
    } else {
        "200 OK"
    };
    let head = |framing: String| {
        let id = script.id;
        Step::Bytes(format!("HTTP/1.1 {status}\r\nx-id: {id}\r\n{framing}\r\n").into_bytes())
    };
    let length = format!("content-length: {}\r\n", body.len());
    let chunked = "transfer-encoding: chunked\r\n".to_owned();
    if script.pause_ms > 0 {
        steps.push_back(Step::Wait(script.pause_ms * 1000));
    }
    match script.answer {
        Answer::Length | Answer::Error | Answer::Early => {
            steps.extend([head(length), Step::Bytes(body)]);
            false
        }
        Answer::Hints => {
            let hints = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".to_vec();
            steps.extend([Step::Bytes(hints), head(length), Step::Bytes(body)]);
            false
        }
        Answer::Chunked | Answer::Events => {
            steps.push_back(head(chunked));
            let pause_ms = if script.answer == Answer::Events {
                script.pause_ms.max(1) * 3
            } else {
                0
            };
            chunks(random, &body, pause_ms, steps);
            steps.push_back(Step::Bytes(b"0\r\n\r\n".to_vec()));
            false
        }
        Answer::Close => {
            steps.extend([head(String::new()), Step::Bytes(body), Step::Close]);
            true
        }
        Answer::Last | Answer::EarlyClose => {
            let framing = format!("{length}connection: close\r\n");
            steps.extend([head(framing), Step::Bytes(body), Step::Close]);
            true
        }
        Answer::Reset => {
            steps.push_back(Step::Reset);
            true
        }
        Answer::Silent => {
            steps.push_back(Step::Close);
            true
        }
        Answer::CutReset | Answer::CutLength => {
            // One byte more is promised than there is.
            let framing = format!("content-length: {}\r\n", body.len() + 1);
            let end = if script.answer == Answer::CutReset {
                Step::Reset
            } else {
                Step::Close
            };
            steps.extend([head(framing), Step::Bytes(body[..half].to_vec()), end]);
            true
        }
        Answer::CutChunked => {
            steps.push_back(head(chunked));
            chunks(random, &body, 0, steps);
            steps.push_back(Step::Close);
            true
        }
        Answer::Upgrade => {
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nx-id: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                script.id
            );
            steps.extend([Step::Bytes(head.into_bytes()), Step::Echo]);
            true
        }
    }
}

impl Conn {
    fn read(&mut self, random: &mut Random) -> Result<bool, String> {
        let Some(peer) = &self.peer else {
            return Ok(false);
        };
        if self.eof || (self.mode == Mode::Echo && !self.steps.is_empty()) {
            return Ok(false);
        }
        let mut buffer = vec![0; 1 + random.below(4096) as usize];
        match peer.read(&mut buffer) {
            Ok(0) => self.eof = true,
            Ok(_) if self.mode == Mode::Ended => {}
            Ok(count) if self.mode == Mode::Echo => {
                buffer.truncate(count);
                self.steps.push_back(Step::Bytes(buffer));
            }
            Ok(count) => self.reader.bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(_) => {
                self.peer = None;
                return Ok(true);
            }
        }
        Ok(true)
    }

    fn requests(&mut self, random: &mut Random) -> Result<(), String> {
        while self.mode == Mode::Http {
            self.reader.advance(self.eof)?;
            let Some(request) = &mut self.reader.current else {
                return Ok(());
            };
            let path = request.first.split(' ').nth(1).unwrap_or_default();
            let script =
                Script::parse(path).ok_or_else(|| format!("a request: {:?}", request.first))?;
            if script.answer != Answer::Upgrade {
                if !belong(script.id, &request.body, &mut request.judged) {
                    return Err(format!("upstream got another body of {script:?}"));
                }
                if request.done && request.body.len() != script.sends {
                    let got = request.body.len();
                    return Err(format!("upstream got {got} bytes of {script:?}"));
                }
            }
            let early = matches!(
                script.answer,
                Answer::Early | Answer::EarlyClose | Answer::Reset
            );
            if !self.answered && (request.done || early) {
                if self.last {
                    return Err("a request after the last one".to_owned());
                }
                self.answered = true;
                self.last = answer(&script, random, &mut self.steps);
            }
            if !request.done || !self.answered {
                return Ok(());
            }
            if self.last {
                return Ok(());
            }
            self.answered = false;
            self.reader.current = None;
        }
        Ok(())
    }

    fn act(&mut self, now_us: u64, random: &mut Random) -> bool {
        let mut moved = false;
        while self.until_us <= now_us {
            let Some(peer) = &self.peer else {
                return moved;
            };
            match self.steps.front_mut() {
                None if self.eof => {
                    self.peer = None;
                    return true;
                }
                None => return moved,
                Some(Step::Bytes(bytes)) => {
                    let most = bytes.len().min(1 + random.below(4096) as usize);
                    if !bytes.is_empty() {
                        match peer.write(&bytes[..most]) {
                            Ok(count) => drop(bytes.drain(..count)),
                            Err(error) if error.kind() == ErrorKind::WouldBlock => return moved,
                            Err(_) => {
                                self.peer = None;
                                return true;
                            }
                        }
                        moved = true;
                    }
                    if !bytes.is_empty() {
                        return moved;
                    }
                }
                Some(Step::Wait(us)) => self.until_us = now_us + *us,
                Some(Step::Close) => {
                    // A server that closes while bytes are unread destroys its own answer.
                    if self.eof || peer.shutdown_write().is_err() {
                        self.peer = None;
                    } else {
                        self.mode = Mode::Ended;
                        self.steps.clear();
                        self.steps.push_back(Step::Reset);
                        self.until_us = now_us + LINGER_US;
                    }
                    return true;
                }
                Some(Step::Reset) => {
                    if let Some(peer) = self.peer.take() {
                        peer.reset();
                    }
                    return true;
                }
                Some(Step::Echo) => {
                    self.mode = Mode::Echo;
                    let early = std::mem::take(&mut self.reader.bytes);
                    self.steps.pop_front();
                    self.steps.push_back(Step::Bytes(early));
                    moved = true;
                    continue;
                }
            }
            self.steps.pop_front();
            moved = true;
        }
        moved
    }
}

impl Actor for Server {
    fn step(&mut self, world: &World, random: &mut Random) -> Result<bool, String> {
        let mut moved = false;
        while let Some(peer) = self.listener.accept() {
            moved = true;
            self.conns.push(Conn {
                peer: Some(peer),
                reader: Reader::new(true),
                steps: VecDeque::new(),
                until_us: 0,
                answered: false,
                last: false,
                mode: Mode::Http,
                eof: false,
            });
        }
        for conn in &mut self.conns {
            if random.chance(700) {
                moved |= conn.read(random)?;
                conn.requests(random)?;
            }
            moved |= conn.act(world.now_us(), random);
        }
        self.conns.retain(|conn| conn.peer.is_some());
        Ok(moved)
    }

    fn next_us(&self, now_us: u64) -> Option<u64> {
        let later = self.conns.iter().map(|conn| conn.until_us);
        later.filter(|at| *at > now_us).min()
    }

    fn is_done(&self) -> bool {
        true
    }
}
