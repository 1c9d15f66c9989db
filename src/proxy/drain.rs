//! Leaving in order: listeners close, idle clients go one after the other, open ones are told.

use std::sync::atomic::Ordering;

use moorgate_codecs::Shape;

use super::config::ChainId;
use super::conn::{Conn, Role};
use super::gateway::{Core, Gateway};
use crate::engine::parked::{Kind, flags};
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;

/// Time between two steps of a drain, ms.
const STEP_MS: u64 = 50;
/// Records looked at in one step at the most.
const LOOKED_AT: usize = 4096;

/// A drain that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    /// All idle clients are gone by then, ms.
    until_ms: u64,
    next_ms: u64,
    at: Option<u32>,
    /// Only clients of chains that the configuration no longer has.
    retired_only: bool,
    /// The worker ends with it.
    exit: bool,
}

impl Drain {
    pub(super) fn is_whole(self) -> bool {
        !self.retired_only
    }
}

impl Gateway {
    /// Begins to drain everything.
    pub(super) fn start_drain<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        within_ms: u64,
        exit: bool,
        close: bool,
    ) {
        if close {
            self.close_listeners(core);
        }
        let now = core.now();
        self.drain = Some(Drain {
            until_ms: now + within_ms,
            next_ms: now,
            at: None,
            retired_only: false,
            exit,
        });
    }

    /// Begins to drain the clients of chains that the configuration no longer has.
    pub(super) fn start_retirement<R: Reactor>(&mut self, core: &mut Core<R>) {
        let now = core.now();
        // One that is under way gets the time of the later.
        if self.drain.is_none_or(|drain| drain.retired_only) {
            self.drain = Some(Drain {
                until_ms: now + self.tuning.drain_ms,
                next_ms: now,
                at: None,
                retired_only: true,
                exit: false,
            });
        }
    }

    /// The next step: closes a share of the idle clients. Gives when the one after is due.
    pub(super) fn drain_step<R: Reactor>(&mut self, core: &mut Core<R>) -> Option<u64> {
        let now = core.now();
        let mut drain = self.drain?;
        if now < drain.next_ms {
            return Some(drain.next_ms);
        }
        let left_ms = drain.until_ms.saturating_sub(now);
        let clients =
            core.tally.parked[Kind::Idle as usize] + core.tally.parked[Kind::Mux as usize];
        let steps = (left_ms / STEP_MS).max(1);
        let mut share = if self.tuning.drain_gradually {
            clients.div_ceil(steps)
        } else {
            clients
        };
        for _ in 0..LOOKED_AT {
            if share == 0 {
                break;
            }
            let Some((slot, record)) = core.next_parked(drain.at) else {
                drain.at = None;
                break;
            };
            drain.at = Some(slot.index);
            let mine = drain.is_whole() || self.retired.contains_key(&ChainId(record.chain));
            match record.kind {
                Kind::Idle if mine => {
                    share -= 1;
                    if let Some(record) = self.close_record(core, slot) {
                        self.forget_record(core, record);
                    }
                }
                Kind::Mux if mine && record.flags & flags::DRAINING == 0 => {
                    share -= 1;
                    if let Some(key) = self.wake_record(core, slot) {
                        self.say_farewell(core, key);
                    }
                }
                _ => {}
            }
        }
        self.drain_residents(core, drain.is_whole());
        drain.next_ms = now + STEP_MS;
        let over = drain.retired_only && now >= drain.until_ms;
        self.drain = if over { None } else { Some(drain) };
        if over {
            self.end_retirement(core);
        }
        self.drain.map(|drain| drain.next_ms)
    }

    /// Resident clients: idle ones are closed, the others end with their next answer.
    fn drain_residents<R: Reactor>(&mut self, core: &mut Core<R>, whole: bool) {
        let mut at = self.conns.first_index();
        while let Some(index) = at {
            at = self.conns.next_index(index);
            let Some(key) = self.conns.key(index) else {
                continue;
            };
            let retired = &self.retired;
            let Some(down) = self.conns.get_mut(index).and_then(Conn::down_mut) else {
                continue;
            };
            if down.draining || !(whole || retired.contains_key(&down.chain.id)) {
                continue;
            }
            self.say_farewell(core, key);
        }
    }

    /// Tells a client that this connection takes no more requests.
    fn say_farewell<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) else {
            return;
        };
        down.draining = true;
        let counter = down.http.stats.downstream_cx_drain_close;
        let multiplexed = down.codec.shape() == Shape::Multiplex;
        let idle = down.streams.is_empty();
        self.stats.inc(counter);
        if multiplexed {
            let none = crate::engine::arena::Span { start: 0, len: 0 };
            self.encode(key, none, |codec, out| codec.go_away(out));
            self.rearm_client_timer(core, key);
        }
        if idle {
            self.client_quiet(core, key);
        }
    }

    /// The time is over: who still uses a chain that went is closed, and the chain forgotten.
    fn end_retirement<R: Reactor>(&mut self, core: &mut Core<R>) {
        let mut at = None;
        while let Some((slot, record)) = core.next_parked(at) {
            at = Some(slot.index);
            if record.kind == Kind::Pooled || !self.retired.contains_key(&ChainId(record.chain)) {
                continue;
            }
            if record.kind == Kind::Mux {
                if let Some(key) = self.wake_record(core, slot) {
                    self.close(core, key, false);
                }
            } else {
                self.close_parked_leaving(core, slot);
            }
        }
        let mut at = self.conns.first_index();
        while let Some(index) = at {
            at = self.conns.next_index(index);
            let Some(key) = self.conns.key(index) else {
                continue;
            };
            let chain = match self.conn(key).map(|conn| &conn.role) {
                Some(Role::Down(down)) => down.chain.id,
                Some(Role::Tunnel(end)) => match &end.facts {
                    Some(facts) => ChainId(facts.chain),
                    None => continue,
                },
                _ => continue,
            };
            if self.retired.contains_key(&chain) {
                self.close_leaving(core, key);
            }
        }
        self.retired.clear();
    }

    /// No client is left in the process, or the drain's time is over. Those of other workers count: one
    /// of them may be on its way here.
    pub(super) fn drain_is_over<R: Reactor>(&self, core: &Core<R>) -> bool {
        let Some(drain) = self.drain else {
            return false;
        };
        let left = self.shared.connections.load(Ordering::Relaxed);
        drain.exit && (left == 0 || core.now() >= drain.until_ms)
    }
}
