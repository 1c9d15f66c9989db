//! The application of one worker of `run` whose connections carry streams: HTTP/2 and gRPC.
//!
//! What `load` does with one exchange after the other, for as many at a time as streams were asked for.
//! All that a connection has to say in a turn goes out with one write.

mod app;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use moorgate::engine::core::Core;
use moorgate::engine::reactor::epoll::Epoll;
use moorgate::engine::reactor::{Interest, Reactor, Sock, SocketOptions};
use moorgate::engine::slab::Key;
use moorgate_codecs::{Events, Out};

use super::load::{NO_KEY, OPENING, READS_PER_TURN};
use super::orders::{NoFacts, Orders};
use super::schedule::{Next, Schedule};
use super::tally::Tally;
use crate::mux::{Answer, Call, Client, Done};
use crate::reader::Failure;
use crate::secure::{self, Input, Secure};

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;

type LoadCore = Core<Epoll, NoFacts>;

/// State of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No socket.
    Absent,
    Connecting,
    /// Connected; TLS shakes hands.
    Shaking,
    Open,
}

#[derive(Debug)]
struct Conn {
    key: Key,
    sock: Sock,
    tls: Option<Box<Secure>>,
    client: Option<Box<Client>>,
    /// An unfinished frame.
    rest: Vec<u8>,
    /// Output that the socket did not take.
    queue: Vec<u8>,
    phase: Phase,
    /// When it began to be opened.
    began_us: u64,
    /// Requests that were started on it.
    carried: u32,
    /// Has carried an answer.
    proven: bool,
    /// It is in the list of the free.
    listed: bool,
}

/// The application of one worker.
#[derive(Debug)]
pub struct MuxLoad {
    orders: Orders,
    call: Arc<Call>,
    conns: Vec<Conn>,
    /// The first that was never opened.
    unopened: u32,
    connecting: u32,
    /// What was started and has not ended.
    under_way: u64,
    /// Open loop: those that can take a request. An entry may be stale.
    free: VecDeque<u32>,
    schedule: Schedule,
    /// Stopped reading before their socket was empty.
    unread: Vec<u32>,
    events: Events,
    out: Out,
    done: Vec<Done>,
    /// Room for what is sealed and written at once.
    sealed: Vec<u8>,
    wound_down: bool,
    finished: bool,
    tally: Tally,
}

impl MuxLoad {
    /// Begins to open connections.
    ///
    /// # Errors
    /// No descriptor for the alarm.
    pub fn new(orders: Orders, call: Arc<Call>, core: &mut LoadCore) -> io::Result<Self> {
        let conns = (0..orders.connections).map(|_| Conn {
            key: NO_KEY,
            sock: Sock(-1),
            tls: None,
            client: None,
            rest: Vec::new(),
            queue: Vec::new(),
            phase: Phase::Absent,
            began_us: 0,
            carried: 0,
            proven: false,
            listed: false,
        });
        let mut load = Self {
            conns: conns.collect(),
            schedule: Schedule::new(&orders, core)?,
            tally: Tally::new(orders.start_us, orders.interval_us, orders.pacer.is_some()),
            orders,
            call,
            unopened: 0,
            connecting: 0,
            under_way: 0,
            free: VecDeque::new(),
            unread: Vec::new(),
            events: Events::default(),
            out: Out::default(),
            done: Vec::new(),
            sealed: Vec::new(),
            wound_down: false,
            finished: false,
        };
        load.open_more(core);
        Ok(load)
    }

    /// What was counted.
    #[must_use]
    pub fn into_tally(self) -> Tally {
        self.tally
    }

    fn open_more(&mut self, core: &mut LoadCore) {
        while self.connecting < OPENING && (self.unopened as usize) < self.conns.len() {
            let number = self.unopened;
            self.unopened += 1;
            self.open(core, number);
        }
    }

    fn open(&mut self, core: &mut LoadCore, number: u32) {
        let now_us = core.reactor.clock_us();
        if self.schedule.check(now_us) {
            return;
        }
        let opened = core
            .reactor
            .connect(&self.orders.addr, &SocketOptions::default())
            .and_then(|sock| {
                let key = core.open(sock, number, Interest::Edge { write: true });
                key.map(|key| (sock, key))
                    .inspect_err(|_| core.reactor.close(sock, true))
            });
        let conn = &mut self.conns[number as usize];
        conn.began_us = now_us;
        conn.carried = 0;
        conn.proven = false;
        conn.phase = Phase::Connecting;
        self.connecting += 1;
        match opened {
            Ok((sock, key)) => {
                (conn.sock, conn.key) = (sock, key);
                core.schedule(key, (now_us + self.orders.timeout_us).div_ceil(1000));
            }
            Err(_) => self.lost(core, number, Failure::Connect),
        }
    }

    fn connected(&mut self, core: &mut LoadCore, number: u32) {
        let Some(context) = &self.orders.tls else {
            return self.begin(core, number);
        };
        let conn = &mut self.conns[number as usize];
        conn.phase = Phase::Shaking;
        match context.begin(&mut core.reactor, conn.sock) {
            Ok(tls) => conn.tls = Some(tls),
            Err(failure) => self.lost(core, number, failure),
        }
    }

    /// TLS has answered. False: the connection is gone.
    fn shaken(&mut self, core: &mut LoadCore, number: u32) -> bool {
        let conn = &self.conns[number as usize];
        let (Some(tls), Some(context)) = (&conn.tls, &self.orders.tls) else {
            return true;
        };
        if !context.agrees(tls) {
            self.lost(core, number, Failure::Tls);
            return false;
        }
        self.tally.shook_hands(tls.agreed());
        self.begin(core, number);
        self.conns[number as usize].phase == Phase::Open
    }

    /// A connection takes requests.
    fn begin(&mut self, core: &mut LoadCore, number: u32) {
        self.tally.connects += 1;
        self.connecting -= 1;
        let conn = &mut self.conns[number as usize];
        conn.phase = Phase::Open;
        conn.client = Some(Box::new(Client::new(&self.call)));
        self.fill(core, number);
        self.settle(core, number);
        self.open_more(core);
    }

    /// Starts what there is to start on a connection.
    fn fill(&mut self, core: &mut LoadCore, number: u32) {
        let now_us = core.reactor.clock_us();
        let conn = &mut self.conns[number as usize];
        let Some(client) = &mut conn.client else {
            return;
        };
        let most = self.orders.reconnect_every.unwrap_or(u32::MAX);
        // Who does not take what was sent gets no more.
        while conn.queue.is_empty()
            && conn.carried < most
            && client.can_start(self.orders.streams as usize)
        {
            match self.schedule.next(now_us) {
                Next::Start { intended_us } => {
                    self.schedule.started();
                    conn.carried += 1;
                    self.under_way += 1;
                    if !client.start(&self.call, (intended_us, now_us), &mut self.out) {
                        self.under_way -= 1;
                        self.tally.failure(Failure::Protocol, now_us);
                    }
                }
                Next::Wait => {
                    if !conn.listed {
                        conn.listed = true;
                        self.free.push_back(number);
                    }
                    return;
                }
                Next::Over => {
                    self.under_way += client.end_idle(now_us, &mut self.out) as u64;
                    return;
                }
            }
        }
        if conn.carried >= most {
            self.under_way += client.end_idle(now_us, &mut self.out) as u64;
        }
    }

    /// Open loop: starts what is due, while there are connections for it.
    fn start_due(&mut self, core: &mut LoadCore) {
        self.schedule.alarmed();
        while let Some(number) = self.free.pop_front() {
            let conn = &mut self.conns[number as usize];
            conn.listed = false;
            if conn.phase != Phase::Open {
                continue;
            }
            let before = self.free.len();
            self.fill(core, number);
            self.settle(core, number);
            if self.free.len() > before || self.schedule.is_over() {
                // Listed again: nothing more is due.
                return;
            }
        }
    }

    fn receive(&mut self, core: &mut LoadCore, number: u32, closed: bool) {
        for _ in 0..READS_PER_TURN {
            let conn = &mut self.conns[number as usize];
            let shaking = conn.phase == Phase::Shaking;
            let kept = conn.rest.len();
            let buffer = &mut core.arena.tail_mut()[kept..kept + READ_BYTES];
            let (n, more) = match secure::read(&mut conn.tls, &mut core.reactor, conn.sock, buffer)
            {
                Input::Bytes { n, more } => (n, more || closed),
                Input::Blocked => break,
                Input::End | Input::Broken => {
                    let failure = if shaking {
                        Failure::Tls
                    } else {
                        Failure::Reset
                    };
                    return self.lost(core, number, failure);
                }
            };
            if shaking
                && conn.tls.as_ref().is_some_and(|tls| !tls.is_shaking())
                && !self.shaken(core, number)
            {
                return;
            }
            self.tally.bytes_in += n as u64;
            if n > 0 && !self.decode(core, number, n) {
                return self.lost(core, number, Failure::Protocol);
            }
            if !more {
                self.fill(core, number);
                return self.settle(core, number);
            }
        }
        self.unread.push(number);
        self.fill(core, number);
        self.settle(core, number);
    }

    /// Decodes the rest and the `n` bytes behind it in the arena. False: that was the connection's end.
    fn decode(&mut self, core: &mut LoadCore, number: u32, n: usize) -> bool {
        let now_ms = core.now();
        let conn = &mut self.conns[number as usize];
        let Some(client) = &mut conn.client else {
            return false;
        };
        let kept = conn.rest.len();
        let input = &mut core.arena.tail_mut()[..kept + n];
        input[..kept].copy_from_slice(&conn.rest);
        let (used, open) = client.feed(
            (&self.call, now_ms),
            input,
            &mut self.events,
            &mut self.out,
            &mut self.done,
        );
        conn.rest.clear();
        conn.rest.extend_from_slice(&input[used..]);
        self.count(core, number);
        open
    }

    /// Counts what ended.
    fn count(&mut self, core: &LoadCore, number: u32) {
        if self.done.is_empty() {
            return;
        }
        let now_us = core.reactor.clock_us();
        for done in self.done.drain(..) {
            self.under_way -= 1;
            let (status, grpc) = match done.result {
                Ok(Answer::Status(status)) => (status, 0),
                Ok(Answer::Grpc(code)) => (200, code),
                Ok(Answer::Ended) => continue,
                Err(failure) => {
                    self.tally.failure(failure, now_us);
                    continue;
                }
            };
            self.conns[number as usize].proven = true;
            self.tally
                .answer(status, done.intended_us, done.began_us, now_us);
            if grpc != 0 {
                self.tally.grpc_failed(now_us);
            }
            if self.schedule.is_over_by_time() {
                self.tally.late += 1;
            }
        }
    }

    /// The socket may take more.
    fn resume(&mut self, core: &mut LoadCore, number: u32) {
        self.settle(core, number);
        // What was not begun for want of room is begun now.
        if self.conns[number as usize].phase == Phase::Open {
            self.fill(core, number);
            self.settle(core, number);
        }
    }

    /// Writes what was made, and ends the connection if it has nothing more to do.
    fn settle(&mut self, core: &mut LoadCore, number: u32) {
        if !self.write(core, number) {
            return self.lost(core, number, Failure::Reset);
        }
        let conn = &mut self.conns[number as usize];
        let Some(client) = &conn.client else {
            return;
        };
        let worn = self
            .orders
            .reconnect_every
            .is_some_and(|most| conn.carried >= most);
        if client.is_finished() || worn && client.streams() == 0 {
            let proven = conn.proven;
            self.close(core, number, false);
            self.again(core, number, proven);
        }
    }

    /// False: the connection broke.
    fn write(&mut self, core: &mut LoadCore, number: u32) -> bool {
        let now_ms = core.now();
        let conn = &mut self.conns[number as usize];
        let queued = !conn.queue.is_empty();
        if queued {
            conn.queue.extend_from_slice(&self.out.bytes);
        }
        let bytes: &[u8] = if queued { &conn.queue } else { &self.out.bytes };
        let mut at = 0;
        let whole = loop {
            if at == bytes.len() {
                break match &mut conn.tls {
                    Some(tls) => tls.flush(&mut core.reactor, conn.sock).unwrap_or(false),
                    None => true,
                };
            }
            match secure::write(
                &mut conn.tls,
                &mut core.reactor,
                conn.sock,
                &[IoSlice::new(&bytes[at..])],
                &mut self.sealed,
                now_ms,
            ) {
                Ok(n) => at += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(_) => {
                    self.out.bytes.clear();
                    return false;
                }
            }
        };
        self.tally.bytes_out += at as u64;
        if whole
            && at > 0
            && let Some(client) = &mut conn.client
        {
            client.written();
        }
        if queued {
            conn.queue.drain(..at);
        } else {
            conn.queue.extend_from_slice(&self.out.bytes[at..]);
        }
        self.out.bytes.clear();
        true
    }

    /// A connection came to an end, or never came about.
    fn lost(&mut self, core: &mut LoadCore, number: u32, failure: Failure) {
        let now_us = core.reactor.clock_us();
        self.out.bytes.clear();
        let conn = &mut self.conns[number as usize];
        let proven = conn.proven;
        if let (Failure::Tls, Some(tls)) = (failure, &conn.tls) {
            self.tally.shook_no_hands(tls.error());
        }
        match (conn.phase, &mut conn.client) {
            (Phase::Absent, _) => return,
            (Phase::Open, Some(client)) => {
                // Idle connections may be closed between two requests.
                client.cut(failure, &mut self.done);
                self.count(core, number);
            }
            _ => {
                self.schedule.gave_up();
                self.tally.failure(failure, now_us);
            }
        }
        self.close(core, number, true);
        self.again(core, number, proven);
    }

    /// Opens a connection that was closed once more, at once if it was good for something.
    fn again(&mut self, core: &mut LoadCore, number: u32, at_once: bool) {
        if at_once {
            self.open(core, number);
        } else if !self.schedule.check(core.reactor.clock_us()) {
            self.schedule.retry(core.now(), number);
        }
    }

    fn close(&mut self, core: &mut LoadCore, number: u32, reset: bool) {
        let conn = &mut self.conns[number as usize];
        if matches!(conn.phase, Phase::Connecting | Phase::Shaking) {
            self.connecting -= 1;
        }
        conn.phase = Phase::Absent;
        conn.client = None;
        conn.rest.clear();
        conn.queue.clear();
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

    /// Nothing new is sent: streams that wait for messages are ended, and judged by how they end.
    fn wind_down(&mut self, core: &mut LoadCore) {
        self.wound_down = true;
        for number in 0..self.unopened {
            if self.conns[number as usize].phase == Phase::Open {
                self.fill(core, number);
                self.settle(core, number);
            }
        }
    }

    fn finish(&mut self, core: &mut LoadCore) {
        self.finished = true;
        for number in 0..self.unopened {
            self.close(core, number, false);
        }
        let (stopped_us, unsent) = self.schedule.finish(core);
        (self.tally.stopped_us, self.tally.unsent) = (stopped_us, unsent);
    }
}
