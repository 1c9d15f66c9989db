//! The application of one worker of `hold`.
//!
//! A connection on which nothing happens is parked: it has the engine's slot and record, and nothing
//! here. It is resident from when its message is due until the answer came. What a record cannot say
//! (which connection it is) is its owner number; what a lost one needs is in the list of retries.

mod app;
mod parking;
mod streams;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use moorgate::engine::core::Core;
use moorgate::engine::parked::Facts;
use moorgate::engine::reactor::epoll::Epoll;
use moorgate::engine::reactor::{Interest, Reactor, Sock, SocketOptions};
use moorgate::engine::slab::{Key, PagedSlab};
use moorgate_codecs::{Compact, Events, Out};

use super::Orders;
use super::counts::{Board, Counts};
use crate::exchange::Answer;
use crate::histogram::Latencies;
use crate::mux::{Client, Done, Silent};
use crate::pacer::Pacer;
use crate::reader::{Failure, Outcome, Progress, Reader};
use crate::secure::{self, Input, Secure};
use crate::sse::Subscription;
use crate::tls;

/// Connections opened in one turn.
const OPENS_PER_TURN: usize = 64;
/// Reads of one connection in one turn.
const READS_PER_TURN: usize = 8;
/// Milliseconds before a connection is tried again.
const RETRY_MS: u64 = 1000;
/// Milliseconds between two publications of the numbers.
const TICK_MS: u64 = 100;

/// What is kept with parked connections.
#[derive(Debug)]
pub struct HoldFacts;

/// The codec of a subscription or of streams, the streams, and TLS.
#[derive(Debug)]
pub struct Remains {
    codec: Option<Compact>,
    silent: Silent,
    tls: Option<Box<Secure>>,
}

impl Facts for HoldFacts {
    type Cold = Remains;
    type Peer = ();
    type Message = ();
}

type HoldCore = Core<Epoll, HoldFacts>;

/// What a resident connection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// Connected; TLS shakes hands.
    Shaking,
    /// Connected; it is becoming a WebSocket.
    Opening,
    /// A message was sent, or part of it; of a subscription the request.
    Busy,
    /// Subscribed: in the middle of an event, or just woken.
    Listening,
}

#[derive(Debug)]
struct Conn {
    key: Key,
    sock: Sock,
    tls: Option<Box<Secure>>,
    /// Which of this worker's connections.
    seat: u32,
    phase: Phase,
    /// It was open before, or has failed before.
    again: bool,
    /// It is open, and answered where it had to be.
    established: bool,
    progress: Progress,
    /// Of HTTP/2 and gRPC.
    client: Option<Box<Client>>,
    /// Of those, an unfinished frame, and what the socket did not take.
    rest: Vec<u8>,
    queue: Vec<u8>,
    subscription: Option<Box<Subscription>>,
    sent: usize,
    began_us: u64,
    /// Woken before its next message was due, which is then.
    due_ms: u64,
}

/// A connection that is to be tried again.
#[derive(Clone, Copy, Debug)]
struct Retry {
    due_ms: u64,
    seat: u32,
}

/// The application of one worker.
#[derive(Debug)]
pub struct Holder {
    orders: Arc<Orders>,
    /// Number of its first connection among those of all workers.
    first: u32,
    /// Connections of this worker.
    count: u32,
    opening: Pacer,
    opened: u32,
    retries: VecDeque<Retry>,
    conns: PagedSlab<Conn>,
    /// Stopped reading before their socket was empty.
    unread: Vec<u32>,
    reader: Reader,
    tls: Option<tls::Client>,
    /// Room for what is sealed and written at once.
    sealed: Vec<u8>,
    events: Events,
    out: Out,
    done: Vec<Done>,
    board: Arc<Board>,
    stop: Arc<AtomicBool>,
    counts: Counts,
    latencies: Latencies,
    next_tick_ms: u64,
    finished: bool,
}

impl Holder {
    /// A worker for `count` connections, the first of which is number `first` of all.
    #[must_use]
    pub fn new(
        orders: Arc<Orders>,
        tls: Option<tls::Client>,
        (first, count): (u32, u32),
        opening: Pacer,
        board: Arc<Board>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            reader: Reader::new(Arc::clone(&orders.exchange)),
            orders,
            tls,
            sealed: Vec::new(),
            first,
            count,
            opening,
            opened: 0,
            retries: VecDeque::new(),
            conns: PagedSlab::new(),
            unread: Vec::new(),
            events: Events::default(),
            out: Out::default(),
            done: Vec::new(),
            board,
            stop,
            counts: Counts::default(),
            latencies: Latencies::fine(),
            next_tick_ms: 0,
            finished: false,
        }
    }

    fn open(&mut self, core: &mut HoldCore, seat: u32, again: bool) {
        let options = SocketOptions {
            bind: self.orders.source(self.first + seat),
            ..SocketOptions::default()
        };
        let Ok(sock) = core.reactor.connect(&self.orders.addr, &options) else {
            return self.attempt_failed(core, seat, again, Failure::Connect);
        };
        let began_us = core.reactor.clock_us();
        let place = self.conns.insert(Conn {
            key: Key {
                index: u32::MAX,
                generation: 0,
            },
            sock,
            tls: None,
            seat,
            phase: Phase::Connecting,
            again,
            established: false,
            progress: Progress::Start,
            client: None,
            rest: Vec::new(),
            queue: Vec::new(),
            subscription: None,
            sent: 0,
            began_us,
            due_ms: u64::MAX,
        });
        match core.open(sock, place.index, Interest::Edge { write: true }) {
            Ok(key) => {
                core.schedule(key, (began_us + self.orders.timeout_us).div_ceil(1000));
                if let Some(conn) = self.conns.get_mut(place.index) {
                    conn.key = key;
                }
            }
            Err(_) => {
                core.reactor.close(sock, true);
                self.conns.remove(place.index);
                self.attempt_failed(core, seat, again, Failure::Connect);
            }
        }
    }

    fn attempt_failed(&mut self, core: &HoldCore, seat: u32, again: bool, failure: Failure) {
        self.counts.failed += 1;
        self.counts.settled += u64::from(!again);
        self.counts.errors.count(failure);
        self.retry(core, seat);
    }

    fn retry(&mut self, core: &HoldCore, seat: u32) {
        if self.orders.reconnect {
            let due_ms = core.now() + RETRY_MS;
            self.retries.push_back(Retry { due_ms, seat });
        }
    }

    /// The connection is open, and a subscription answered.
    fn established(&mut self, number: u32) {
        if let Some(conn) = self.conns.get_mut(number) {
            self.counts.connected += 1;
            self.counts.settled += u64::from(!conn.again);
            self.counts.reconnected += u64::from(conn.again);
            // From now on its loss is the loss of an open connection.
            conn.again = true;
            conn.established = true;
        }
    }

    fn connected(&mut self, core: &mut HoldCore, number: u32) {
        let Some(context) = &self.tls else {
            return self.transport_ready(core, number);
        };
        let Some(conn) = self.conns.get_mut(number) else {
            return;
        };
        conn.phase = Phase::Shaking;
        match context.begin(&mut core.reactor, conn.sock) {
            Ok(tls) => conn.tls = Some(tls),
            Err(failure) => self.lost(core, number, failure),
        }
    }

    /// TLS has answered.
    fn shaken(&mut self, core: &mut HoldCore, number: u32) {
        let agreed = match (self.conns.get(number).map(|conn| &conn.tls), &self.tls) {
            (Some(Some(tls)), Some(context)) => context.agrees(tls),
            _ => false,
        };
        if agreed {
            self.transport_ready(core, number);
        } else {
            self.lost(core, number, Failure::Tls);
        }
    }

    /// Bytes can be sent.
    fn transport_ready(&mut self, core: &mut HoldCore, number: u32) {
        if self.orders.call.is_some() {
            return self.begin_streams(core, number);
        }
        let Some(conn) = self.conns.get_mut(number) else {
            return;
        };
        let Some(opening) = self.reader.open(&mut conn.progress) else {
            return self.begin(core, number);
        };
        conn.phase = Phase::Opening;
        // A new socket takes more than an opening.
        let written = self.write(core, number, &opening);
        if !matches!(written, Ok(n) if n == opening.len()) {
            self.lost(core, number, Failure::Connect);
        }
    }

    fn write(&mut self, core: &mut HoldCore, number: u32, bytes: &[u8]) -> io::Result<usize> {
        let now_ms = core.now();
        let Some(conn) = self.conns.get_mut(number) else {
            return Ok(0);
        };
        secure::write(
            &mut conn.tls,
            &mut core.reactor,
            conn.sock,
            &[IoSlice::new(bytes)],
            &mut self.sealed,
            now_ms,
        )
    }

    /// A connection takes messages.
    fn begin(&mut self, core: &mut HoldCore, number: u32) {
        if self.orders.sse {
            return self.send(core, number);
        }
        self.established(number);
        // The first message comes at any time within the period, so that they are spread from the
        // start, however fast the connections were opened.
        let share = core.reactor.random() >> 32;
        let wait_ms = (self.orders.every_ms * share) >> 32;
        self.park(core, number, Some(core.now() + wait_ms), None);
    }

    fn send(&mut self, core: &mut HoldCore, number: u32) {
        if self.orders.call.is_some() {
            return self.send_messages(core, number, 1);
        }
        let now_us = core.reactor.clock_us();
        let Some(conn) = self.conns.get_mut(number) else {
            return;
        };
        conn.phase = Phase::Busy;
        conn.progress = Progress::Start;
        conn.sent = 0;
        conn.began_us = now_us;
        if self.orders.sse
            && let Answer::Http { settings, awaiting } = &self.orders.exchange.answer
        {
            conn.subscription = Some(Box::new(Subscription::new(settings, awaiting)));
        } else {
            self.counts.messages += 1;
        }
        core.schedule(conn.key, (now_us + self.orders.timeout_us).div_ceil(1000));
        self.send_rest(core, number);
    }

    fn send_rest(&mut self, core: &mut HoldCore, number: u32) {
        let now_ms = core.now();
        let Some(conn) = self.conns.get_mut(number) else {
            return;
        };
        let bytes = &self.orders.exchange.bytes;
        while conn.sent < bytes.len() {
            let rest = [IoSlice::new(&bytes[conn.sent..])];
            let written = secure::write(
                &mut conn.tls,
                &mut core.reactor,
                conn.sock,
                &rest,
                &mut self.sealed,
                now_ms,
            );
            match written {
                Ok(n) => conn.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let interest = Interest::Edge { write: true };
                    if core.arm(conn.key, conn.sock, interest).is_err() {
                        self.lost(core, number, Failure::Reset);
                    }
                    return;
                }
                Err(_) => return self.lost(core, number, Failure::Reset),
            }
        }
    }

    fn receive(&mut self, core: &mut HoldCore, number: u32, closed: bool) {
        for _ in 0..READS_PER_TURN {
            let Some(conn) = self.conns.get_mut(number) else {
                return;
            };
            let shaking = conn.phase == Phase::Shaking;
            let buffer = core.arena.tail_mut();
            let (n, more) = match secure::read(&mut conn.tls, &mut core.reactor, conn.sock, buffer)
            {
                Input::Bytes { n, more } => (n, more || closed),
                Input::Blocked => return self.park_listener(core, number),
                Input::End | Input::Broken => {
                    let failure = if shaking {
                        Failure::Tls
                    } else {
                        Failure::Reset
                    };
                    return self.lost(core, number, failure);
                }
            };
            if shaking && conn.tls.as_ref().is_some_and(|tls| !tls.is_shaking()) {
                self.shaken(core, number);
            }
            // TLS has messages of its own, in which there is nothing for anybody else.
            if n > 0 && !self.read_on(core, number, n, closed) {
                return;
            }
            if !more {
                return self.park_listener(core, number);
            }
        }
        self.unread.push(number);
    }

    /// The first `n` bytes of the arena came. False: there is no more to do here.
    fn read_on(&mut self, core: &mut HoldCore, number: u32, n: usize, closed: bool) -> bool {
        let Some(conn) = self.conns.get_mut(number) else {
            return false;
        };
        if conn.subscription.is_some() {
            return self.received(core, number, n);
        }
        if conn.client.is_some() {
            return self.read_streams(core, number, n);
        }
        let input = &core.arena.tail_mut()[..n];
        let outcome = self.reader.feed(&mut conn.progress, input);
        let whole = conn.phase != Phase::Busy || conn.sent == self.orders.exchange.bytes.len();
        let phase = conn.phase;
        let replies = std::mem::take(&mut self.reader.replies);
        if !replies.is_empty() && whole {
            // Who pings gets it at once, or not at all.
            let _ = self.write(core, number, &replies);
        }
        match outcome {
            Outcome::More => return true,
            Outcome::Done { .. } if phase == Phase::Opening => self.begin(core, number),
            Outcome::Done { .. } if phase == Phase::Listening => {
                self.lost(core, number, Failure::Protocol);
            }
            Outcome::Done { status, reusable } => {
                self.answered(core, number, status, reusable && whole && !closed);
            }
            Outcome::Failed(failure) => self.lost(core, number, failure),
        }
        false
    }

    /// The first `n` bytes of the arena are for a subscription. False: the connection is gone.
    fn received(&mut self, core: &mut HoldCore, number: u32, n: usize) -> bool {
        let Some(conn) = self.conns.get_mut(number) else {
            return false;
        };
        let Some(subscription) = &mut conn.subscription else {
            return true;
        };
        let input = &core.arena.tail_mut()[..n];
        let received = subscription.feed(input, &mut self.events, &mut self.out);
        self.counts.events += received.events;
        for sent_us in received.numbers {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now_us = now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(0));
            // Something else than a time of this machine would be far off.
            if now_us >= sent_us && now_us - sent_us < 3_600_000_000 {
                self.latencies.record(now_us - sent_us);
            }
        }
        if let Some(status) = received.status
            && conn.phase == Phase::Busy
        {
            if status != 200 {
                self.counts.errors.status += 1;
                self.lost(core, number, Failure::Protocol);
                return false;
            }
            conn.phase = Phase::Listening;
            self.established(number);
        }
        if received.ended {
            self.lost(core, number, Failure::Reset);
        }
        !received.ended
    }

    fn answered(&mut self, core: &mut HoldCore, number: u32, status: u16, reusable: bool) {
        let now_us = core.reactor.clock_us();
        let Some(conn) = self.conns.get(number) else {
            return;
        };
        self.counts.answers += 1;
        self.counts.errors.status += u64::from(status >= 400);
        self.latencies.record(now_us.saturating_sub(conn.began_us));
        if !reusable {
            return self.lost(core, number, Failure::Reset);
        }
        let random = core.reactor.random();
        let next_ms = core.now() + self.orders.wait_ms(random);
        self.park(core, number, Some(next_ms), None);
    }

    /// The connection came to an end, or never came about.
    fn lost(&mut self, core: &mut HoldCore, number: u32, failure: Failure) {
        let Some(conn) = self.conns.remove(number) else {
            return;
        };
        core.close(conn.key, conn.sock, true);
        if !conn.established {
            return self.attempt_failed(core, conn.seat, conn.again, failure);
        }
        self.counts.connected -= 1;
        self.counts.dropped += 1;
        self.counts.errors.count(failure);
        self.retry(core, conn.seat);
    }

    /// Opens what is due; returns when the next one is.
    fn open_due(&mut self, core: &mut HoldCore) -> Option<u64> {
        let now_us = core.reactor.clock_us();
        let now_ms = now_us / 1000;
        for _ in 0..OPENS_PER_TURN {
            if let Some(&Retry { due_ms, seat }) = self.retries.front()
                && due_ms <= now_ms
            {
                self.retries.pop_front();
                self.open(core, seat, true);
            } else if self.opened < self.count && self.opening.next_us() <= now_us {
                let seat = self.opened;
                self.opened += 1;
                self.opening.advance();
                self.open(core, seat, false);
            } else {
                break;
            }
        }
        let retry_ms = self.retries.front().map(|retry| retry.due_ms);
        let open_ms = (self.opened < self.count).then(|| self.opening.next_us().div_ceil(1000));
        match (retry_ms, open_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn finish(&mut self, core: &mut HoldCore) {
        self.finished = true;
        self.board.publish(&self.counts, &mut self.latencies, true);
        while let Some(number) = self.conns.first_index() {
            if let Some(conn) = self.conns.remove(number) {
                core.close(conn.key, conn.sock, false);
            }
        }
        while let Some((key, _)) = core.next_parked(None) {
            core.close_parked(key, false);
        }
    }
}
