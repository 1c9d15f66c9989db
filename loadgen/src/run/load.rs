//! The application of one worker of `run`: its connections, and what is sent on them when.
//!
//! An exchange costs one write, one read and its share of a wait: no registration changes while a
//! connection lives, deadlines are one timer per connection that is moved only when it fires, and
//! what is sent lies ready. Nothing that is allocated may depend on the number of requests.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use moorgate::engine::core::Core;
use moorgate::engine::parked::{Parked, Token};
use moorgate::engine::reactor::epoll::Epoll;
use moorgate::engine::reactor::{Interest, Reactor, Ready, Sock, SocketOptions};
use moorgate::engine::slab::Key;
use moorgate::engine::worker::App;

use super::orders::{NoFacts, Orders};
use super::tally::Tally;
use crate::pacer::Alarm;
use crate::reader::{Failure, Outcome, Progress, Reader};
use crate::signal;

/// Connections being opened at the same time by one worker.
const OPENING: u32 = 256;
/// Reads of one connection in one turn.
const READS_PER_TURN: usize = 8;
/// Milliseconds before a connection is tried again that was refused, or lost before any answer.
const RETRY_MS: u64 = 100;
/// Milliseconds between looks at the clock and the stop flag.
const TICK_MS: u64 = 100;
/// Number of the alarm among the residents.
const ALARM: u32 = u32::MAX;

/// State of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No socket.
    Absent,
    /// Being opened; a request that was to start at `intended_us` waits for it when `pending`.
    Connecting,
    /// Connected; it is becoming a WebSocket.
    Opening,
    /// Open, nothing sent.
    Idle,
    /// A request was sent, or part of it.
    Busy,
}

#[derive(Debug)]
struct Conn {
    key: Key,
    sock: Sock,
    progress: Progress,
    /// Bytes of the request that were sent.
    sent: usize,
    /// When the request was to start.
    intended_us: u64,
    /// When the request was started, or the connection.
    began_us: u64,
    phase: Phase,
    pending: bool,
    /// Has carried an answer.
    proven: bool,
    /// It is in the list of the free.
    listed: bool,
}

const NO_KEY: Key = Key {
    index: u32::MAX,
    generation: 0,
};

/// The application of one worker.
#[derive(Debug)]
pub struct Load {
    orders: Orders,
    reader: Reader,
    conns: Vec<Conn>,
    /// The first that was never opened.
    unopened: u32,
    connecting: u32,
    /// Requests under way.
    under_way: u32,
    /// Open loop: those that can take a request. An entry may be stale.
    free: VecDeque<u32>,
    alarm: Option<(Alarm, Key)>,
    alarm_us: u64,
    /// Connections to be tried again, by time.
    retries: VecDeque<(u64, u32)>,
    /// Stopped reading before their socket was empty.
    unread: Vec<u32>,
    next_tick_ms: u64,
    stopping: bool,
    finished: bool,
    tally: Tally,
}

impl Load {
    /// Begins to open connections.
    ///
    /// # Errors
    /// No descriptor for the alarm.
    pub fn new(orders: Orders, core: &mut Core<Epoll, NoFacts>) -> io::Result<Self> {
        let count = orders.connections;
        let alarm = match orders.pacer {
            Some(_) => {
                let alarm = Alarm::new()?;
                let key = core.open(alarm.sock(), ALARM, Interest::Edge { write: false })?;
                Some((alarm, key))
            }
            None => None,
        };
        let tally = Tally::new(orders.start_us, orders.interval_us, orders.pacer.is_some());
        let conns = (0..count)
            .map(|_| Conn {
                key: NO_KEY,
                sock: Sock(-1),
                progress: Progress::Start,
                sent: 0,
                intended_us: 0,
                began_us: 0,
                phase: Phase::Absent,
                pending: false,
                proven: false,
                listed: false,
            })
            .collect();
        let mut load = Self {
            reader: Reader::new(Arc::clone(&orders.exchange)),
            orders,
            conns,
            unopened: 0,
            connecting: 0,
            under_way: 0,
            free: VecDeque::new(),
            alarm,
            alarm_us: u64::MAX,
            retries: VecDeque::new(),
            unread: Vec::new(),
            next_tick_ms: 0,
            stopping: false,
            finished: false,
            tally,
        };
        load.open_more(core);
        Ok(load)
    }

    /// What was counted.
    #[must_use]
    pub fn into_tally(self) -> Tally {
        self.tally
    }

    fn keep_alive(&self) -> bool {
        self.orders.exchange.keep_alive
    }

    fn open_more(&mut self, core: &mut Core<Epoll, NoFacts>) {
        while self.connecting < OPENING && (self.unopened as usize) < self.conns.len() {
            let number = self.unopened;
            self.unopened += 1;
            self.launch(core, number);
        }
    }

    /// Brings a connection without socket to work.
    fn launch(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32) {
        if self.stopping {
            return;
        }
        if self.keep_alive() {
            self.conns[number as usize].pending = false;
            self.open(core, number);
        } else {
            let now_us = core.reactor.clock_us();
            self.next(core, number, now_us);
        }
    }

    fn open(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32) {
        let now_us = core.reactor.clock_us();
        let opened = core
            .reactor
            .connect(&self.orders.addr, &SocketOptions::default())
            .and_then(|sock| {
                // Registered for writing for good: what was delivered once is not told again, and a
                // request that the socket takes in pieces needs no further call.
                let key = core.open(sock, number, Interest::Edge { write: true });
                key.map(|key| (sock, key))
                    .inspect_err(|_| core.reactor.close(sock, true))
            });
        let conn = &mut self.conns[number as usize];
        conn.began_us = now_us;
        conn.proven = false;
        conn.phase = Phase::Connecting;
        self.connecting += 1;
        match opened {
            Ok((sock, key)) => {
                (conn.sock, conn.key) = (sock, key);
                core.schedule(key, (now_us + self.orders.timeout_us).div_ceil(1000));
            }
            Err(_) => self.fail(core, number, Failure::Connect),
        }
    }

    fn connected(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32) {
        let conn = &mut self.conns[number as usize];
        let Some(opening) = self.reader.open(&mut conn.progress) else {
            return self.begin(core, number);
        };
        conn.phase = Phase::Opening;
        // A new socket takes more than an opening.
        match core.reactor.write(conn.sock, &[IoSlice::new(&opening)]) {
            Ok(n) if n == opening.len() => self.tally.bytes_out += n as u64,
            _ => self.fail(core, number, Failure::Connect),
        }
    }

    /// A connection takes messages.
    fn begin(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32) {
        let now_us = core.reactor.clock_us();
        self.tally.connects += 1;
        self.connecting -= 1;
        let conn = &mut self.conns[number as usize];
        conn.phase = Phase::Idle;
        if conn.pending {
            conn.pending = false;
            self.under_way -= 1;
            let (intended_us, began_us) = (conn.intended_us, conn.began_us);
            self.send(core, number, intended_us, began_us);
        } else {
            self.next(core, number, now_us);
        }
        self.open_more(core);
    }

    /// Finds work for a connection that has none.
    fn next(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32, now_us: u64) {
        if self.should_stop(now_us) {
            return;
        }
        let Some(pacer) = &mut self.orders.pacer else {
            self.start(core, number, now_us, now_us);
            return;
        };
        let due_us = pacer.next_us();
        if due_us <= now_us {
            pacer.advance();
            self.start(core, number, due_us, now_us);
            return;
        }
        let conn = &mut self.conns[number as usize];
        if !conn.listed {
            conn.listed = true;
            self.free.push_back(number);
        }
        self.set_alarm(due_us, now_us);
    }

    fn set_alarm(&mut self, due_us: u64, now_us: u64) {
        if let Some((alarm, _)) = &self.alarm
            && self.alarm_us != due_us
        {
            self.alarm_us = due_us;
            alarm.set(due_us.saturating_sub(now_us));
        }
    }

    /// Open loop: starts what is due, while there are connections for it.
    fn start_due(&mut self, core: &mut Core<Epoll, NoFacts>) {
        self.alarm_us = u64::MAX;
        let now_us = core.reactor.clock_us();
        while let Some(number) = self.free.pop_front() {
            let conn = &mut self.conns[number as usize];
            conn.listed = false;
            let free = match conn.phase {
                Phase::Idle => true,
                Phase::Absent => !self.orders.exchange.keep_alive,
                Phase::Connecting | Phase::Opening | Phase::Busy => false,
            };
            if !free {
                continue;
            }
            let before = self.free.len();
            self.next(core, number, now_us);
            if self.free.len() > before || self.stopping {
                // Listed again: nothing more is due.
                return;
            }
        }
    }

    /// Sends a request, on a new connection where there is none.
    fn start(
        &mut self,
        core: &mut Core<Epoll, NoFacts>,
        number: u32,
        intended_us: u64,
        now_us: u64,
    ) {
        if let Some(quota) = &mut self.orders.quota {
            *quota -= 1;
        }
        let conn = &mut self.conns[number as usize];
        if conn.phase == Phase::Idle {
            self.send(core, number, intended_us, now_us);
        } else {
            conn.intended_us = intended_us;
            conn.pending = true;
            self.under_way += 1;
            self.open(core, number);
        }
    }

    #[inline]
    fn send(
        &mut self,
        core: &mut Core<Epoll, NoFacts>,
        number: u32,
        intended_us: u64,
        began_us: u64,
    ) {
        self.under_way += 1;
        let conn = &mut self.conns[number as usize];
        conn.phase = Phase::Busy;
        conn.sent = 0;
        conn.intended_us = intended_us;
        conn.began_us = began_us;
        self.send_rest(core, number);
    }

    #[inline]
    fn send_rest(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32) {
        let conn = &mut self.conns[number as usize];
        let bytes = &self.orders.exchange.bytes;
        while conn.sent < bytes.len() {
            match core
                .reactor
                .write(conn.sock, &[IoSlice::new(&bytes[conn.sent..])])
            {
                Ok(n) => {
                    conn.sent += n;
                    self.tally.bytes_out += n as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // What the peer said before it went may still be there to read.
                Err(_) => return self.receive(core, number, true),
            }
        }
    }

    fn receive(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32, closed: bool) {
        for _ in 0..READS_PER_TURN {
            let conn = &mut self.conns[number as usize];
            let buffer = core.arena.tail_mut();
            let outcome = match core.reactor.read(conn.sock, buffer) {
                Ok(0) => self.reader.eof(&mut conn.progress),
                Ok(n) => {
                    self.tally.bytes_in += n as u64;
                    let outcome = self.reader.feed(&mut conn.progress, &buffer[..n]);
                    if !self.reader.replies.is_empty() {
                        // A message that is under way is first: whoever pings gets this too late, or not.
                        if conn.sent == self.orders.exchange.bytes.len() {
                            let replies = [IoSlice::new(&self.reader.replies)];
                            let _ = core.reactor.write(conn.sock, &replies);
                        }
                        self.reader.replies.clear();
                    }
                    // Fewer bytes than there was room for: the socket is empty.
                    if outcome == Outcome::More && n < buffer.len() && !closed {
                        return;
                    }
                    outcome
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => Outcome::Failed(Failure::Reset),
            };
            match outcome {
                Outcome::More => {}
                Outcome::Done { .. } if conn.phase == Phase::Opening => {
                    return self.begin(core, number);
                }
                Outcome::Done { .. } if conn.phase != Phase::Busy => {
                    return self.fail(core, number, Failure::Protocol);
                }
                Outcome::Done { status, reusable } => {
                    return self.answered(core, number, status, reusable && !closed);
                }
                Outcome::Failed(failure) => return self.fail(core, number, failure),
            }
        }
        self.unread.push(number);
    }

    fn answered(
        &mut self,
        core: &mut Core<Epoll, NoFacts>,
        number: u32,
        status: u16,
        reusable: bool,
    ) {
        let now_us = core.reactor.clock_us();
        let conn = &mut self.conns[number as usize];
        // An answer that came before the request was sent leaves the connection unusable.
        let whole = conn.sent == self.orders.exchange.bytes.len();
        self.tally
            .answer(status, conn.intended_us, conn.began_us, now_us);
        if self.stopping && self.orders.quota.is_none() {
            self.tally.late += 1;
        }
        self.under_way -= 1;
        conn.phase = Phase::Idle;
        conn.proven = true;
        if reusable && whole && self.keep_alive() {
            self.next(core, number, now_us);
        } else {
            self.close(core, number, false);
            self.launch(core, number);
        }
    }

    fn fail(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32, failure: Failure) {
        let now_us = core.reactor.clock_us();
        let conn = &mut self.conns[number as usize];
        match conn.phase {
            Phase::Busy => self.under_way -= 1,
            Phase::Connecting | Phase::Opening if conn.pending => self.under_way -= 1,
            Phase::Connecting | Phase::Opening => {
                // It stands for a request that could not even be started.
                if let Some(quota) = &mut self.orders.quota {
                    *quota = quota.saturating_sub(1);
                }
            }
            Phase::Absent | Phase::Idle => {}
        }
        let again_at_once = conn.proven;
        self.tally.failure(failure, now_us);
        self.close(core, number, true);
        if self.should_stop(now_us) {
            return;
        }
        if again_at_once {
            self.launch(core, number);
        } else {
            self.retries.push_back((now_us / 1000 + RETRY_MS, number));
        }
    }

    fn close(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32, reset: bool) {
        let conn = &mut self.conns[number as usize];
        if matches!(conn.phase, Phase::Connecting | Phase::Opening) {
            self.connecting -= 1;
        }
        conn.phase = Phase::Absent;
        conn.pending = false;
        conn.progress = Progress::Start;
        let sock = std::mem::replace(&mut conn.sock, Sock(-1));
        if sock.0 >= 0 {
            core.close(conn.key, sock, reset);
        }
    }

    fn should_stop(&mut self, now_us: u64) -> bool {
        if !self.stopping
            && (self.orders.quota == Some(0)
                || self.orders.end_us.is_some_and(|end_us| now_us >= end_us))
        {
            self.stop(
                self.orders
                    .end_us
                    .map_or(now_us, |end_us| end_us.min(now_us)),
            );
        }
        self.stopping
    }

    fn stop(&mut self, at_us: u64) {
        self.stopping = true;
        self.tally.stopped_us = at_us;
    }

    fn finish(&mut self, core: &mut Core<Epoll, NoFacts>) {
        self.finished = true;
        for number in 0..self.unopened {
            self.close(core, number, false);
        }
        if let Some((alarm, key)) = self.alarm.take() {
            core.close(key, alarm.sock(), false);
        }
        if let (Some(pacer), None) = (&self.orders.pacer, self.orders.quota) {
            self.tally.unsent = pacer.missed(self.tally.stopped_us);
        }
    }
}

impl App<Epoll> for Load {
    type Facts = NoFacts;

    fn ready(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32, ready: Ready) {
        if number == ALARM {
            return self.start_due(core);
        }
        let Some(conn) = self.conns.get(number as usize) else {
            return;
        };
        let closed = ready.has(Ready::READ_CLOSED | Ready::HUP | Ready::ERROR);
        let readable = closed || ready.has(Ready::READ);
        match conn.phase {
            Phase::Connecting => match core.reactor.take_error(conn.sock) {
                Ok(()) if ready.has(Ready::WRITE) => self.connected(core, number),
                Ok(()) if !ready.has(Ready::HUP) => {}
                _ => self.fail(core, number, Failure::Connect),
            },
            Phase::Opening if readable => self.receive(core, number, closed),
            Phase::Busy => {
                if conn.sent < self.orders.exchange.bytes.len() {
                    self.send_rest(core, number);
                }
                if readable && self.conns[number as usize].phase == Phase::Busy {
                    self.receive(core, number, closed);
                }
            }
            Phase::Idle if closed => {
                // Closed by the peer between two requests, as it may.
                let proven = conn.proven;
                self.close(core, number, false);
                if proven {
                    self.launch(core, number);
                } else {
                    self.retries.push_back((core.now() + RETRY_MS, number));
                }
            }
            // A WebSocket may be pinged at any time; whatever else comes was not asked for.
            Phase::Idle if readable && self.orders.exchange.opening.is_some() => {
                self.receive(core, number, closed);
            }
            Phase::Idle if readable => self.fail(core, number, Failure::Protocol),
            Phase::Opening | Phase::Idle | Phase::Absent => {}
        }
    }

    fn resident_due(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32) {
        let Some(conn) = self.conns.get(number as usize) else {
            return;
        };
        let timeout_us = self.orders.timeout_us;
        let due_us = match conn.phase {
            Phase::Absent => return,
            // Moved only here: sending a request costs no timer.
            Phase::Idle => core.now() * 1000 + timeout_us,
            Phase::Connecting | Phase::Opening | Phase::Busy => conn.began_us + timeout_us,
        };
        if due_us / 1000 <= core.now() {
            self.fail(core, number, Failure::Timeout);
        } else {
            core.schedule(conn.key, due_us.div_ceil(1000));
        }
    }

    fn expire(&mut self, core: &mut Core<Epoll, NoFacts>) -> Option<u64> {
        let now_ms = core.now();
        while let Some(&(due_ms, number)) = self.retries.front()
            && due_ms <= now_ms
        {
            self.retries.pop_front();
            self.launch(core, number);
        }
        if now_ms >= self.next_tick_ms {
            self.next_tick_ms = now_ms + TICK_MS;
            if let Some(end_us) = self.orders.end_us {
                let end_ms = end_us.div_ceil(1000);
                if end_ms > now_ms {
                    self.next_tick_ms = self.next_tick_ms.min(end_ms);
                }
            }
            if signal::stopped() && !self.stopping {
                self.stop(core.reactor.clock_us());
            }
        }
        let due_ms = self.retries.front().map(|&(due_ms, _)| due_ms);
        Some(due_ms.map_or(self.next_tick_ms, |due_ms| due_ms.min(self.next_tick_ms)))
    }

    fn has_ready(&self) -> bool {
        !self.unread.is_empty()
    }

    fn serve_ready(&mut self, core: &mut Core<Epoll, NoFacts>) {
        for number in std::mem::take(&mut self.unread) {
            // It may have been closed, or even replaced, since; a read too many does no harm.
            if self.conns[number as usize].phase == Phase::Busy {
                self.receive(core, number, false);
            }
        }
    }

    fn end_turn(&mut self, core: &mut Core<Epoll, NoFacts>, began_us: u64) {
        if self.should_stop(began_us) && self.under_way == 0 && !self.finished {
            self.finish(core);
        }
    }

    fn finished(&self) -> bool {
        self.finished
    }

    fn message(&mut self, _core: &mut Core<Epoll, NoFacts>, (): ()) {}

    fn accept(&mut self, _core: &mut Core<Epoll, NoFacts>, _number: u32) {
        unreachable!("there is no listener");
    }

    fn wake(&mut self, _core: &mut Core<Epoll, NoFacts>, _token: Token<NoFacts>) {
        unreachable!("nothing is parked");
    }

    fn parked_due(&mut self, _core: &mut Core<Epoll, NoFacts>, _key: Key) {
        unreachable!("nothing is parked");
    }

    fn local_ready(&mut self, _core: &mut Core<Epoll, NoFacts>, _key: Key, _ready: Ready) {
        unreachable!("nothing is parked");
    }

    fn is_local(&self, _record: &Parked<NoFacts>) -> bool {
        true
    }
}
