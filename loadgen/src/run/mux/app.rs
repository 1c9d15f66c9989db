//! What the engine asks of [`MuxLoad`]: events, timers and turns.

use moorgate::engine::parked::{Parked, Token};
use moorgate::engine::reactor::epoll::Epoll;
use moorgate::engine::reactor::{Reactor, Ready};
use moorgate::engine::slab::Key;
use moorgate::engine::worker::App;

use super::super::orders::NoFacts;
use super::super::schedule::ALARM;
use super::{LoadCore, MuxLoad, Phase};
use crate::reader::Failure;

impl App<Epoll> for MuxLoad {
    type Facts = NoFacts;

    fn ready(&mut self, core: &mut LoadCore, number: u32, ready: Ready) {
        if number == ALARM {
            return self.start_due(core);
        }
        let Some(conn) = self.conns.get(number as usize) else {
            return;
        };
        let closed = ready.has(Ready::READ_CLOSED | Ready::HUP | Ready::ERROR);
        match conn.phase {
            Phase::Absent => {}
            Phase::Connecting => match core.reactor.take_error(conn.sock) {
                Ok(()) if ready.has(Ready::WRITE) => self.connected(core, number),
                Ok(()) if !ready.has(Ready::HUP) => {}
                _ => self.lost(core, number, Failure::Connect),
            },
            Phase::Shaking | Phase::Open => {
                if closed || ready.has(Ready::READ) {
                    return self.receive(core, number, closed);
                }
                let blocked = conn.tls.as_ref().is_some_and(|tls| tls.is_blocked());
                if blocked || !conn.queue.is_empty() {
                    self.resume(core, number);
                }
            }
        }
    }

    fn resident_due(&mut self, core: &mut LoadCore, number: u32) {
        let now_us = core.now() * 1000;
        let timeout_us = self.orders.timeout_us;
        let Some(conn) = self.conns.get_mut(number as usize) else {
            return;
        };
        match (conn.phase, &mut conn.client) {
            (Phase::Absent, _) => {}
            (Phase::Open, Some(client)) => {
                if let Some(until_us) = now_us.checked_sub(timeout_us) {
                    client.expire(until_us, &mut self.out, &mut self.done);
                }
                // Moved only here: sending a request costs no timer.
                let oldest_us = client.oldest_us().unwrap_or(now_us);
                core.schedule(conn.key, (oldest_us + timeout_us).div_ceil(1000));
                self.count(core, number);
                self.fill(core, number);
                self.settle(core, number);
            }
            _ if conn.began_us + timeout_us <= now_us => {
                self.lost(core, number, Failure::Timeout);
            }
            _ => core.schedule(conn.key, (conn.began_us + timeout_us).div_ceil(1000)),
        }
    }

    fn expire(&mut self, core: &mut LoadCore) -> Option<u64> {
        while let Some(number) = self.schedule.due_retry(core.now()) {
            self.open(core, number);
        }
        Some(self.schedule.tick(core))
    }

    fn has_ready(&self) -> bool {
        !self.unread.is_empty()
    }

    fn serve_ready(&mut self, core: &mut LoadCore) {
        for number in std::mem::take(&mut self.unread) {
            // It may have been closed, or even replaced, since; a read too many does no harm.
            let phase = self.conns[number as usize].phase;
            if matches!(phase, Phase::Shaking | Phase::Open) {
                self.receive(core, number, false);
            }
        }
    }

    fn end_turn(&mut self, core: &mut LoadCore, began_us: u64) {
        if !self.schedule.check(began_us) || self.finished {
            return;
        }
        if !self.wound_down {
            self.wind_down(core);
        }
        if self.under_way == 0 {
            self.finish(core);
        }
    }

    fn finished(&self) -> bool {
        self.finished
    }

    fn message(&mut self, _core: &mut LoadCore, (): ()) {}

    fn accept(&mut self, _core: &mut LoadCore, _number: u32) {
        unreachable!("there is no listener");
    }

    fn wake(&mut self, _core: &mut LoadCore, _token: Token<NoFacts>) {
        unreachable!("nothing is parked");
    }

    fn parked_due(&mut self, _core: &mut LoadCore, _key: Key) {
        unreachable!("nothing is parked");
    }

    fn local_ready(&mut self, _core: &mut LoadCore, _key: Key, _ready: Ready) {
        unreachable!("nothing is parked");
    }

    fn is_local(&self, _record: &Parked<NoFacts>) -> bool {
        true
    }
}
