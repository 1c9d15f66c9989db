//! What the engine asks of [`Load`]: events, timers and turns.

use moorgate::engine::core::Core;
use moorgate::engine::parked::{Parked, Token};
use moorgate::engine::reactor::epoll::Epoll;
use moorgate::engine::reactor::{Reactor, Ready};
use moorgate::engine::slab::Key;
use moorgate::engine::worker::App;

use super::super::orders::NoFacts;
use super::super::schedule::ALARM;
use super::{Load, Phase};
use crate::reader::Failure;

impl App<Epoll> for Load {
    type Facts = NoFacts;

    fn ready(&mut self, core: &mut Core<Epoll, NoFacts>, number: u32, ready: Ready) {
        if number == ALARM {
            return self.start_due(core);
        }
        let Some(conn) = self.conns.get_mut(number as usize) else {
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
            Phase::Shaking | Phase::Opening if readable => self.receive(core, number, closed),
            Phase::Busy => {
                if let Some(tls) = &mut conn.tls
                    && tls.is_blocked()
                {
                    // What breaks here is seen when it is read.
                    let _ = tls.flush(&mut core.reactor, conn.sock);
                }
                if conn.sent < self.exchange.bytes.len() {
                    self.send_rest(core, number);
                }
                if readable && self.conns[number as usize].phase == Phase::Busy {
                    self.receive(core, number, closed);
                }
            }
            Phase::Idle if closed => self.left(core, number),
            // A WebSocket may be pinged at any time, and TLS has messages of its own; whatever else comes was
            // not asked for.
            Phase::Idle if readable && (self.exchange.opening.is_some() || conn.tls.is_some()) => {
                self.receive(core, number, closed);
            }
            Phase::Idle if readable => self.fail(core, number, Failure::Protocol),
            Phase::Shaking | Phase::Opening | Phase::Idle | Phase::Absent => {}
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
            Phase::Connecting | Phase::Shaking | Phase::Opening | Phase::Busy => {
                conn.began_us + timeout_us
            }
        };
        if due_us / 1000 <= core.now() {
            self.fail(core, number, Failure::Timeout);
        } else {
            core.schedule(conn.key, due_us.div_ceil(1000));
        }
    }

    fn expire(&mut self, core: &mut Core<Epoll, NoFacts>) -> Option<u64> {
        while let Some(number) = self.schedule.due_retry(core.now()) {
            self.launch(core, number);
        }
        Some(self.schedule.tick(core))
    }

    fn has_ready(&self) -> bool {
        !self.unread.is_empty()
    }

    fn serve_ready(&mut self, core: &mut Core<Epoll, NoFacts>) {
        for number in std::mem::take(&mut self.unread) {
            // It may have been closed, or even replaced, since; a read too many does no harm.
            if matches!(
                self.conns[number as usize].phase,
                Phase::Shaking | Phase::Opening | Phase::Busy
            ) {
                self.receive(core, number, false);
            }
        }
    }

    fn end_turn(&mut self, core: &mut Core<Epoll, NoFacts>, began_us: u64) {
        if self.schedule.check(began_us) && self.under_way == 0 && !self.finished {
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
