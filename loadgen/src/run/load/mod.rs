//! The application of one worker of `run`: its connections, and what is sent on them when, one exchange
//! after the other. Those that carry streams are in `mux`.
//!
//! An exchange costs one write, one read and its share of a wait: no registration changes while a
//! connection lives, deadlines are one timer per connection that is moved only when it fires, and
//! what is sent lies ready. Nothing that is allocated may depend on the number of requests.

mod app;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use moorgate::engine::core::Core;
use moorgate::engine::reactor::epoll::Epoll;
use moorgate::engine::reactor::{Interest, Reactor, Sock, SocketOptions};
use moorgate::engine::slab::Key;

use super::orders::{NoFacts, Orders};
use super::schedule::{Next, Schedule};
use super::tally::Tally;
use crate::exchange::Exchange;
use crate::reader::{Failure, Outcome, Progress, Reader};
use crate::secure::{self, Input, Secure};

/// Connections being opened at the same time by one worker.
pub(super) const OPENING: u32 = 256;
/// Reads of one connection in one turn.
pub(super) const READS_PER_TURN: usize = 8;

/// State of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No socket.
    Absent,
    /// Being opened; a request that was to start at `intended_us` waits for it when `pending`.
    Connecting,
    /// Connected; TLS shakes hands.
    Shaking,
    /// It is becoming a WebSocket.
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
    tls: Option<Box<Secure>>,
    progress: Progress,
    /// Requests that it has carried.
    carried: u32,
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

/// The key of what has no slot.
pub(super) const NO_KEY: Key = Key {
    index: u32::MAX,
    generation: 0,
};

/// The application of one worker.
#[derive(Debug)]
pub struct Load {
    orders: Orders,
    exchange: Arc<Exchange>,
    reader: Reader,
    conns: Vec<Conn>,
    /// The first that was never opened.
    unopened: u32,
    connecting: u32,
    /// Requests under way.
    under_way: u32,
    /// Open loop: those that can take a request. An entry may be stale.
    free: VecDeque<u32>,
    schedule: Schedule,
    /// Stopped reading before their socket was empty.
    unread: Vec<u32>,
    /// Room for what is sealed and written at once.
    sealed: Vec<u8>,
    finished: bool,
    tally: Tally,
}

impl Load {
    /// Begins to open connections.
    ///
    /// # Errors
    /// No descriptor for the alarm.
    pub fn new(
        orders: Orders,
        exchange: Arc<Exchange>,
        core: &mut Core<Epoll, NoFacts>,
    ) -> io::Result<Self> {
        let count = orders.connections;
        let schedule = Schedule::new(&orders, core)?;
        let tally = Tally::new(orders.start_us, orders.interval_us, orders.pacer.is_some());
        let conns = (0..count)
            .map(|_| Conn {
                key: NO_KEY,
                sock: Sock(-1),
                tls: None,
                progress: Progress::Start,
                carried: 0,
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
            reader: Reader::new(Arc::clone(&exchange)),
            exchange,
            orders,
            conns,
            unopened: 0,
            connecting: 0,
            under_way: 0,
            free: VecDeque::new(),
            schedule,
            unread: Vec::new(),
            sealed: Vec::new(),
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

    /// A connection is opened for a request, and not before there is one.
    fn on_demand(&self) -> bool {
        !self.exchange.keep_alive || self.orders.reconnect_every.is_some()
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
        if self.schedule.is_over() {
            return;
        }
        if self.on_demand() {
            let now_us = core.reactor.clock_us();
            self.next(core, number, now_us);
        } else {
            self.conns[number as usize].pending = false;
            self.open(core, number);
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
        conn.carried = 0;
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
        let Some(context) = &self.orders.tls else {
            return self.transport_ready(core, number);
        };
        let conn = &mut self.conns[number as usize];
        conn.phase = Phase::Shaking;
        match context.begin(&mut core.reactor, conn.sock) {
            Ok(tls) => conn.tls = Some(tls),
            Err(failure) => self.fail(core, number, failure),
        }
    }

    /// TLS has answered. False: the connection is gone.
    fn shaken(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32) -> bool {
        let conn = &self.conns[number as usize];
        let (Some(tls), Some(context)) = (&conn.tls, &self.orders.tls) else {
            return true;
        };
        if !context.agrees(tls) {
            self.fail(core, number, Failure::Tls);
            return false;
        }
        self.tally.shook_hands(tls.agreed());
        self.transport_ready(core, number);
        self.conns[number as usize].phase != Phase::Absent
    }

    /// Bytes can be sent.
    fn transport_ready(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32) {
        let now_ms = core.now();
        let conn = &mut self.conns[number as usize];
        let Some(opening) = self.reader.open(&mut conn.progress) else {
            return self.begin(core, number);
        };
        conn.phase = Phase::Opening;
        // A new socket takes more than an opening.
        match secure::write(
            &mut conn.tls,
            &mut core.reactor,
            conn.sock,
            &[IoSlice::new(&opening)],
            &mut self.sealed,
            now_ms,
        ) {
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
        match self.schedule.next(now_us) {
            Next::Start { intended_us } => self.start(core, number, intended_us, now_us),
            Next::Wait => {
                let conn = &mut self.conns[number as usize];
                if !conn.listed {
                    conn.listed = true;
                    self.free.push_back(number);
                }
            }
            Next::Over => {}
        }
    }

    /// Open loop: starts what is due, while there are connections for it.
    fn start_due(&mut self, core: &mut Core<Epoll, NoFacts>) {
        self.schedule.alarmed();
        let now_us = core.reactor.clock_us();
        while let Some(number) = self.free.pop_front() {
            let conn = &mut self.conns[number as usize];
            conn.listed = false;
            let phase = conn.phase;
            let free = match phase {
                Phase::Idle => true,
                Phase::Absent => self.on_demand(),
                Phase::Connecting | Phase::Shaking | Phase::Opening | Phase::Busy => false,
            };
            if !free {
                continue;
            }
            let before = self.free.len();
            self.next(core, number, now_us);
            if self.free.len() > before || self.schedule.is_over() {
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
        self.schedule.started();
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
        let now_ms = core.now();
        let conn = &mut self.conns[number as usize];
        let bytes = &self.exchange.bytes;
        while conn.sent < bytes.len() {
            match secure::write(
                &mut conn.tls,
                &mut core.reactor,
                conn.sock,
                &[IoSlice::new(&bytes[conn.sent..])],
                &mut self.sealed,
                now_ms,
            ) {
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
        let now_ms = core.now();
        for _ in 0..READS_PER_TURN {
            let conn = &mut self.conns[number as usize];
            let buffer = core.arena.tail_mut();
            let outcome = match secure::read(&mut conn.tls, &mut core.reactor, conn.sock, buffer) {
                Input::Bytes { n, more } => {
                    if conn.phase == Phase::Shaking
                        && conn.tls.as_ref().is_some_and(|tls| !tls.is_shaking())
                        && !self.shaken(core, number)
                    {
                        return;
                    }
                    let conn = &mut self.conns[number as usize];
                    self.tally.bytes_in += n as u64;
                    // TLS reads its own messages.
                    let outcome = if n == 0 && conn.tls.is_some() {
                        Outcome::More
                    } else {
                        let input = &core.arena.tail_mut()[..n];
                        self.reader.feed(&mut conn.progress, input)
                    };
                    if !self.reader.replies.is_empty() {
                        // A message that is under way is first: whoever pings gets this too late, or not.
                        if conn.sent == self.exchange.bytes.len() {
                            let _ = secure::write(
                                &mut conn.tls,
                                &mut core.reactor,
                                conn.sock,
                                &[IoSlice::new(&self.reader.replies)],
                                &mut self.sealed,
                                now_ms,
                            );
                        }
                        self.reader.replies.clear();
                    }
                    if outcome == Outcome::More && !more && !closed {
                        return;
                    }
                    outcome
                }
                Input::End if conn.phase == Phase::Shaking => Outcome::Failed(Failure::Tls),
                // TLS says that it ends before the socket does.
                Input::End if conn.phase == Phase::Idle => return self.left(core, number),
                Input::End => self.reader.eof(&mut conn.progress),
                Input::Blocked => return,
                Input::Broken if conn.phase == Phase::Shaking => Outcome::Failed(Failure::Tls),
                Input::Broken => Outcome::Failed(Failure::Reset),
            };
            let conn = &self.conns[number as usize];
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

    /// The peer closed the connection between two requests, as it may.
    fn left(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32) {
        let proven = self.conns[number as usize].proven;
        self.close(core, number, false);
        if proven {
            self.launch(core, number);
        } else {
            self.schedule.retry(core.now(), number);
        }
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
        let whole = conn.sent == self.exchange.bytes.len();
        self.tally
            .answer(status, conn.intended_us, conn.began_us, now_us);
        if self.schedule.is_over_by_time() {
            self.tally.late += 1;
        }
        self.under_way -= 1;
        conn.phase = Phase::Idle;
        conn.proven = true;
        conn.carried += 1;
        let worn = (self.orders.reconnect_every).is_some_and(|most| conn.carried >= most);
        if reusable && whole && !worn && self.exchange.keep_alive {
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
            Phase::Connecting | Phase::Shaking | Phase::Opening if conn.pending => {
                self.under_way -= 1;
            }
            Phase::Connecting | Phase::Shaking | Phase::Opening => self.schedule.gave_up(),
            Phase::Absent | Phase::Idle => {}
        }
        let again_at_once = conn.proven;
        if let (Failure::Tls, Some(tls)) = (failure, &conn.tls) {
            self.tally.shook_no_hands(tls.error());
        }
        self.tally.failure(failure, now_us);
        self.close(core, number, true);
        if self.schedule.check(now_us) {
            return;
        }
        if again_at_once {
            self.launch(core, number);
        } else {
            self.schedule.retry(now_us / 1000, number);
        }
    }

    fn close(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32, reset: bool) {
        let conn = &mut self.conns[number as usize];
        if matches!(
            conn.phase,
            Phase::Connecting | Phase::Shaking | Phase::Opening
        ) {
            self.connecting -= 1;
        }
        conn.phase = Phase::Absent;
        conn.pending = false;
        conn.progress = Progress::Start;
        let sock = std::mem::replace(&mut conn.sock, Sock(-1));
        if sock.0 >= 0 {
            if let Some(mut tls) = conn.tls.take()
                && !reset
            {
                tls.farewell(&mut core.reactor, sock);
            }
            core.close(conn.key, sock, reset);
        }
    }

    fn finish(&mut self, core: &mut Core<Epoll, NoFacts>) {
        self.finished = true;
        for number in 0..self.unopened {
            self.close(core, number, false);
        }
        let (stopped_us, unsent) = self.schedule.finish(core);
        (self.tally.stopped_us, self.tally.unsent) = (stopped_us, unsent);
    }
}
