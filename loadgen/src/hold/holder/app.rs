//! What the engine asks of [`Holder`]: events, timers and turns.

use std::sync::atomic::Ordering;

use moorgate::engine::parked::{Parked, Token};
use moorgate::engine::reactor::epoll::Epoll;
use moorgate::engine::reactor::{Reactor, Ready};
use moorgate::engine::slab::Key;
use moorgate::engine::worker::App;

use super::{HoldCore, HoldFacts, Holder, Phase, TICK_MS};
use crate::reader::Failure;

impl App<Epoll> for Holder {
    type Facts = HoldFacts;

    fn ready(&mut self, core: &mut HoldCore, number: u32, ready: Ready) {
        let Some(conn) = self.conns.get_mut(number) else {
            return;
        };
        let closed = ready.has(Ready::READ_CLOSED | Ready::HUP | Ready::ERROR);
        match conn.phase {
            Phase::Connecting => match core.reactor.take_error(conn.sock) {
                Ok(()) if ready.has(Ready::WRITE) => self.connected(core, number),
                Ok(()) if !ready.has(Ready::HUP) => {}
                _ => self.lost(core, number, Failure::Connect),
            },
            Phase::Shaking | Phase::Opening | Phase::Busy | Phase::Listening => {
                if let Some(tls) = &mut conn.tls
                    && tls.is_blocked()
                {
                    // What breaks here is seen when it is read.
                    let _ = tls.flush(&mut core.reactor, conn.sock);
                }
                if !conn.queue.is_empty() {
                    self.write_streams(core, number);
                }
                let Some(conn) = self.conns.get(number) else {
                    return;
                };
                if conn.client.is_none()
                    && conn.phase == Phase::Busy
                    && conn.sent < self.orders.exchange.bytes.len()
                {
                    self.send_rest(core, number);
                }
                if closed || ready.has(Ready::READ) {
                    self.receive(core, number, closed);
                }
            }
        }
    }

    fn resident_due(&mut self, core: &mut HoldCore, number: u32) {
        let Some(conn) = self.conns.get(number) else {
            return;
        };
        if conn.phase == Phase::Listening {
            if conn.due_ms <= core.now() {
                self.send(core, number);
            }
        } else {
            let due_ms = (conn.began_us + self.orders.timeout_us) / 1000;
            if due_ms <= core.now() {
                self.lost(core, number, Failure::Timeout);
            } else {
                core.schedule(conn.key, due_ms + 1);
            }
        }
    }

    fn parked_due(&mut self, core: &mut HoldCore, key: Key) {
        if let Some(number) = self.unpark(core, key) {
            self.send(core, number);
        }
    }

    fn local_ready(&mut self, core: &mut HoldCore, key: Key, ready: Ready) {
        if let Some(number) = self.unpark(core, key) {
            let subscribed = self.may_be_woken()
                || self
                    .conns
                    .get(number)
                    .is_some_and(|conn| conn.subscription.is_some());
            if subscribed {
                self.ready(core, number, ready);
            } else {
                // Nothing was asked: it is the end of the connection, or a breach.
                let closed = ready.has(Ready::READ_CLOSED | Ready::HUP | Ready::ERROR);
                let failure = if closed {
                    Failure::Reset
                } else {
                    Failure::Protocol
                };
                self.lost(core, number, failure);
            }
        }
    }

    fn has_ready(&self) -> bool {
        !self.unread.is_empty()
    }

    fn serve_ready(&mut self, core: &mut HoldCore) {
        for number in std::mem::take(&mut self.unread) {
            let open = self
                .conns
                .get(number)
                .is_some_and(|conn| conn.phase != Phase::Connecting);
            if open {
                self.receive(core, number, false);
            }
        }
    }

    fn expire(&mut self, core: &mut HoldCore) -> Option<u64> {
        let now_ms = core.now();
        if now_ms >= self.next_tick_ms {
            self.next_tick_ms = now_ms + TICK_MS;
            self.board.publish(&self.counts, &mut self.latencies, false);
            if self.stop.load(Ordering::Relaxed) {
                self.finish(core);
                return Some(now_ms);
            }
        }
        let due_ms = self.open_due(core);
        Some(due_ms.map_or(self.next_tick_ms, |due_ms| due_ms.min(self.next_tick_ms)))
    }

    fn is_local(&self, _record: &Parked<HoldFacts>) -> bool {
        true
    }

    fn finished(&self) -> bool {
        self.finished
    }

    fn end_turn(&mut self, _core: &mut HoldCore, _began_us: u64) {}

    fn message(&mut self, _core: &mut HoldCore, (): ()) {}

    fn accept(&mut self, _core: &mut HoldCore, _number: u32) {
        unreachable!("there is no listener");
    }

    fn wake(&mut self, _core: &mut HoldCore, _token: Token<HoldFacts>) {
        unreachable!("every record is local");
    }
}
