//! Connections that carry streams: HTTP/2 and gRPC.
//!
//! A connection counts as open when it has answered once; of gRPC with streams that stay open, when each of
//! them has. From then on it is silent but for a message now and then, which goes to the streams in turn.

use std::io::ErrorKind;

use moorgate::engine::reactor::{Interest, Reactor};

use super::{HoldCore, Holder, Phase};
use crate::mux::{Answer, Client};
use crate::reader::Failure;
use crate::secure;

impl Holder {
    /// Bytes can be sent: the first requests go out.
    pub(super) fn begin_streams(&mut self, core: &mut HoldCore, number: u32) {
        if let Some(call) = &self.orders.call
            && let Some(conn) = self.conns.get_mut(number)
        {
            conn.client = Some(Box::new(Client::new(call)));
            self.send_messages(core, number, self.orders.streams);
        }
    }

    /// Starts so many requests, or messages.
    pub(super) fn send_messages(&mut self, core: &mut HoldCore, number: u32, count: u32) {
        let now_us = core.reactor.clock_us();
        let (Some(call), Some(conn)) = (&self.orders.call, self.conns.get_mut(number)) else {
            return;
        };
        let Some(client) = &mut conn.client else {
            return;
        };
        conn.phase = Phase::Busy;
        conn.began_us = now_us;
        let (most, now) = (self.orders.streams as usize, (now_us, now_us));
        for _ in 0..count {
            let started = if conn.established {
                client.can_start(most) && client.start(call, now, &mut self.out)
            } else {
                client.can_open(most) && client.start_new(call, now, &mut self.out)
            };
            if !started {
                break;
            }
            self.counts.messages += 1;
        }
        core.schedule(conn.key, (now_us + self.orders.timeout_us).div_ceil(1000));
        self.write_streams(core, number);
    }

    /// Writes what was made. False: the connection is gone.
    pub(super) fn write_streams(&mut self, core: &mut HoldCore, number: u32) -> bool {
        let now_ms = core.now();
        let Some(conn) = self.conns.get_mut(number) else {
            self.out.bytes.clear();
            return false;
        };
        conn.queue.extend_from_slice(&self.out.bytes);
        self.out.bytes.clear();
        let mut at = 0;
        let written = loop {
            if at == conn.queue.len() {
                break Ok(true);
            }
            match secure::write(
                &mut conn.tls,
                &mut core.reactor,
                conn.sock,
                &[std::io::IoSlice::new(&conn.queue[at..])],
                &mut self.sealed,
                now_ms,
            ) {
                Ok(n) => at += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(false),
                Err(error) => break Err(error),
            }
        };
        conn.queue.drain(..at);
        if conn.queue.is_empty() {
            // A silent connection is to hold no buffer.
            conn.queue = Vec::new();
        }
        let registered = match (written, &mut conn.client) {
            (Ok(true), Some(client)) => {
                client.written();
                Ok(())
            }
            (Ok(true), None) => Ok(()),
            (Ok(false), _) => core.arm(conn.key, conn.sock, Interest::Edge { write: true }),
            (Err(error), _) => Err(error),
        };
        if registered.is_err() {
            self.lost(core, number, Failure::Reset);
            return false;
        }
        true
    }

    /// The rest and the `n` bytes behind it in the arena came. False: there is no more to do here.
    pub(super) fn read_streams(&mut self, core: &mut HoldCore, number: u32, n: usize) -> bool {
        let now_ms = core.now();
        let (Some(call), Some(conn)) = (&self.orders.call, self.conns.get_mut(number)) else {
            return false;
        };
        let Some(client) = &mut conn.client else {
            return false;
        };
        let kept = conn.rest.len();
        let input = &mut core.arena.tail_mut()[..kept + n];
        input[..kept].copy_from_slice(&conn.rest);
        let (used, open) = client.feed(
            (call, now_ms),
            input,
            &mut self.events,
            &mut self.out,
            &mut self.done,
        );
        conn.rest = input[used..].to_vec();
        let over = !open || client.is_finished();
        let failed = self.count(core, number);
        if !self.write_streams(core, number) {
            return false;
        }
        match failed {
            // What cannot even begin is no open connection.
            Some(failure) => self.lost(core, number, failure),
            None if !open => self.lost(core, number, Failure::Protocol),
            None if over => self.lost(core, number, Failure::GoAway),
            None => self.rest_or_go_on(core, number),
        }
        self.conns.get(number).is_some()
    }

    /// Counts what ended; gives a failure when the connection was not open before.
    fn count(&mut self, core: &HoldCore, number: u32) -> Option<Failure> {
        let now_us = core.reactor.clock_us();
        let established = self.conns.get(number)?.established;
        let mut failed = None;
        for done in self.done.drain(..) {
            match done.result {
                Ok(Answer::Ended) => continue,
                Ok(Answer::Status(status)) => {
                    self.counts.errors.status += u64::from(status >= 400);
                }
                Ok(Answer::Grpc(_)) => self.counts.errors.grpc += 1,
                Err(failure) if established => {
                    self.counts.errors.count(failure);
                    continue;
                }
                Err(failure) => {
                    failed = Some(failure);
                    continue;
                }
            }
            self.counts.answers += 1;
            self.latencies.record(now_us.saturating_sub(done.began_us));
        }
        failed
    }

    /// After what was read: nothing is under way and the connection falls silent, or it is to have more
    /// streams than it could open before the server said how many.
    fn rest_or_go_on(&mut self, core: &mut HoldCore, number: u32) {
        let Some(conn) = self.conns.get(number) else {
            return;
        };
        let (established, due_ms, busy) =
            (conn.established, conn.due_ms, conn.phase == Phase::Busy);
        let Some(client) = &conn.client else {
            return;
        };
        let keeps = self
            .orders
            .call
            .as_ref()
            .is_some_and(|call| call.keeps_streams());
        let wanted = self.orders.streams as usize;
        let missing = if keeps && !established {
            wanted.saturating_sub(client.streams())
        } else {
            0
        };
        if missing > 0 && client.can_open(wanted) {
            #[allow(clippy::cast_possible_truncation)] // Not more than are wanted.
            return self.send_messages(core, number, missing as u32);
        }
        if !client.is_idle() {
            return;
        }
        if missing > 0 {
            // The server allows fewer, and has told so.
            return self.lost(core, number, Failure::Protocol);
        }
        if !busy {
            // It was woken for nothing; the next message is due when it was.
            let due_ms = Some(due_ms).filter(|due_ms| *due_ms != u64::MAX);
            return self.park(core, number, due_ms, None);
        }
        let wait_ms = if established {
            let random = core.reactor.random();
            self.orders.wait_ms(random)
        } else {
            self.established(number);
            // The first message comes at any time within the period, so that they are spread.
            (self.orders.every_ms * (core.reactor.random() >> 32)) >> 32
        };
        self.park(core, number, Some(core.now() + wait_ms), None);
    }
}
