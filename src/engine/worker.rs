//! The worker's turn.
//!
//! Wait, hand events to residents, queue the parked that woke, serve what can be served, expire
//! timers, read the inbox, let the application flush and park; with nothing to do steal, else sleep.
//! Every loop here has a budget.

use super::core::{Core, Post};
use super::parked::{Facts, Parked, State, Token};
use super::reactor::{Event, Reactor, Ready};
use super::slab::Key;

/// Queued connections served before the kernel is asked again: only what was harvested can be stolen.
const SERVED_PER_POLL: usize = 64;
/// The same bound in time.
const SERVING_US_PER_POLL: u64 = 500;
/// Queued connections beyond which a sleeping sibling is woken.
const QUEUE_BEFORE_WAKE: usize = 4;
/// Timers expired in one turn.
const TIMERS_PER_TURN: usize = 256;
/// Messages read in one turn.
const POSTS_PER_TURN: usize = 1024;
/// When to look again at a slot whose connection is queued.
const QUEUED_RETRY_MS: u64 = 10;

/// What runs on the engine: the proxy, the load generator, the tests.
pub trait App<R: Reactor>: Sized {
    /// What it keeps with connections.
    type Facts: Facts;

    /// A resident connection has something. `number` is the one it was registered with.
    fn ready(&mut self, core: &mut Core<R, Self::Facts>, number: u32, ready: Ready);

    /// A parked connection woke and is this worker's now; see [`Core::adopt`].
    fn wake(&mut self, core: &mut Core<R, Self::Facts>, token: Token<Self::Facts>);

    /// Connections can be accepted from this listening socket.
    fn accept(&mut self, core: &mut Core<R, Self::Facts>, number: u32);

    /// The timer of a resident connection fired. It stays unscheduled until scheduled again.
    fn resident_due(&mut self, core: &mut Core<R, Self::Facts>, number: u32);

    /// The deadline of a parked connection passed. The application closes it or moves its deadline.
    fn parked_due(&mut self, core: &mut Core<R, Self::Facts>, key: Key);

    /// A parked connection that is never stolen (see [`is_local`](Self::is_local)) has something.
    fn local_ready(&mut self, core: &mut Core<R, Self::Facts>, key: Key, ready: Ready);

    /// A record must be served by its home worker (it names things there).
    fn is_local(&self, record: &Parked<Self::Facts>) -> bool;

    /// A message from another thread.
    fn message(
        &mut self,
        core: &mut Core<R, Self::Facts>,
        message: <Self::Facts as Facts>::Message,
    );

    /// Residents that stopped before their socket was empty are waiting for their next share.
    fn has_ready(&self) -> bool;

    /// Gives each of them its share.
    fn serve_ready(&mut self, core: &mut Core<R, Self::Facts>);

    /// Expires the application's own timers; returns when the next one is due.
    fn expire(&mut self, core: &mut Core<R, Self::Facts>) -> Option<u64>;

    /// End of turn: flush, park the quiet, move what should move.
    /// `began_us`: when the wait before it ended.
    fn end_turn(&mut self, core: &mut Core<R, Self::Facts>, began_us: u64);

    /// Nothing left to do. The thread ends when those of all workers of the group have come to that;
    /// what they still sent this one is handed to the application before.
    fn finished(&self) -> bool;
}

/// One worker: its core and what runs on it.
#[derive(Debug)]
pub struct Worker<R: Reactor, A: App<R>> {
    /// The engine's part.
    pub core: Core<R, A::Facts>,
    /// The application's part.
    pub app: A,
    events: Vec<Event>,
    due: Vec<u32>,
    woken: Vec<(Key, bool, Ready)>,
}

impl<R: Reactor, A: App<R>> Worker<R, A> {
    /// A worker.
    pub fn new(core: Core<R, A::Facts>, app: A) -> Self {
        Self {
            core,
            app,
            events: Vec::new(),
            due: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// Turns until the applications of all workers of the group have finished.
    pub fn run(&mut self) -> std::io::Result<()> {
        while !self.is_over() {
            let turned = self.turn();
            if turned.is_err() {
                self.core.leave();
                return turned;
            }
        }
        Ok(())
    }

    /// There is nothing more to do and nobody left who could give it work.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.app.finished() && self.core.is_over()
    }

    /// One turn.
    pub fn turn(&mut self) -> std::io::Result<()> {
        let timeout = self.timeout();
        let sleepy = timeout != Some(0);
        // Flag first, look second: whoever pushes after the look sees the flag.
        let timeout =
            if sleepy && (!self.core.sleep_begin() || self.core.can_steal() || self.is_over()) {
                Some(0)
            } else {
                timeout
            };
        let waited = self.core.reactor.wait(timeout, &mut self.events);
        if let Err(error) = &waited
            && error.kind() == std::io::ErrorKind::WouldBlock
        {
            // The simulator's sleep: the flag stays set, so that others still wake this worker.
            return Ok(());
        }
        if sleepy {
            self.core.sleep_end();
        }
        waited?;
        self.core.tally.turns += 1;
        let began_us = self.core.reactor.clock_us();
        self.core.now_ms = began_us / 1000;
        self.dispatch();
        if self.app.has_ready() {
            self.app.serve_ready(&mut self.core);
        }
        self.serve_queue();
        self.expire();
        self.read_inbox();
        self.app.end_turn(&mut self.core, began_us);
        if self.app.finished() {
            self.core.leave();
        }
        Ok(())
    }

    /// How long the next wait may last, ms.
    pub(crate) fn timeout(&mut self) -> Option<u64> {
        if self.app.has_ready() || !self.core.queue.is_empty() {
            return Some(0);
        }
        let app_due = self.app.expire(&mut self.core);
        let due = match (self.core.wheel.next_due(), app_due) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        due.map(|due| due.saturating_sub(self.core.now_ms))
    }

    fn dispatch(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            let key = Key {
                index: event.tag.index(),
                generation: event.tag.generation(),
            };
            // A stale tag belongs to a slot that was freed since the kernel noted the event.
            let Some(slot) = self.core.slots.0.get_key(key) else {
                continue;
            };
            match &slot.state {
                State::Resident(number) => {
                    let number = *number;
                    self.app.ready(&mut self.core, number, event.ready);
                }
                State::Listener(number) => {
                    let number = *number;
                    self.app.accept(&mut self.core, number);
                }
                State::Parked(_) => self.woken.push((key, event.tag.side(), event.ready)),
                // The other side of a pair that is being taken.
                State::Queued => {}
            }
        }
        self.events = events;
        self.queue_woken();
    }

    /// Residents went first; now the parked ones become tokens.
    fn queue_woken(&mut self) {
        let mut woken = std::mem::take(&mut self.woken);
        for (key, side, ready) in woken.drain(..) {
            // A resident served before may have taken or closed it, or its other side came first.
            let Some(record) = self.core.parked(key) else {
                continue;
            };
            let kind = record.kind;
            if self.app.is_local(record) {
                self.app.local_ready(&mut self.core, key, ready);
                continue;
            }
            if let State::Parked(record) = self.core.set_state(key, State::Queued) {
                self.core.left_parked(key.index, kind);
                let home = self.core.id;
                self.core.queue.push(Token {
                    home,
                    key,
                    ready,
                    side,
                    record,
                });
            }
        }
        self.woken = woken;
        let enough = if cfg!(chaos) { 0 } else { QUEUE_BEFORE_WAKE };
        if self.core.queue.len() > enough {
            self.core.wake_thief();
        }
    }

    fn serve_queue(&mut self) {
        #[cfg(chaos)]
        if self.core.chaos.chance(500) {
            // Whoever steals may have it all; the next turn comes at once.
            self.core.chaos.stumble();
            return self.steal_anyway();
        }
        let mut served = 0;
        let began = self.core.reactor.clock_us();
        while let Some(token) = self.core.queue.pop() {
            self.app.wake(&mut self.core, token);
            served += 1;
            if served >= SERVED_PER_POLL
                || (served % 8 == 0 && self.core.reactor.clock_us() - began > SERVING_US_PER_POLL)
            {
                if self.core.queue.len() > QUEUE_BEFORE_WAKE {
                    self.core.wake_thief();
                }
                return;
            }
        }
        // Its own work is done: help whoever has more than it can serve.
        if served == 0
            && !self.app.has_ready()
            && let Some(token) = self.core.steal()
        {
            self.app.wake(&mut self.core, token);
        }
    }

    #[cfg(chaos)]
    fn steal_anyway(&mut self) {
        if let Some(token) = self.core.steal() {
            self.app.wake(&mut self.core, token);
        }
    }

    fn expire(&mut self) {
        let now = self.core.now_ms;
        if self.core.wheel.next_due().is_none_or(|due| due > now) {
            return;
        }
        let mut due = std::mem::take(&mut self.due);
        self.core
            .wheel
            .expire(&mut self.core.slots, now, &mut due, TIMERS_PER_TURN);
        for index in due.drain(..) {
            let Some(key) = self.core.slots.0.key(index) else {
                continue;
            };
            match &self.core.slots.0.get(index).map(|slot| &slot.state) {
                Some(State::Resident(number)) => {
                    let number = *number;
                    self.app.resident_due(&mut self.core, number);
                }
                Some(State::Parked(record)) => {
                    let deadline = record.deadline.ms();
                    if deadline > now {
                        // Re-armed lazily: activity only stored the new deadline.
                        if deadline != u64::MAX {
                            self.core.schedule(key, deadline);
                        }
                    } else {
                        self.app.parked_due(&mut self.core, key);
                    }
                }
                Some(State::Queued) => self.core.schedule(key, now + QUEUED_RETRY_MS),
                Some(State::Listener(_)) => {
                    // A listener that had run out of descriptors tries again.
                    if let Some(State::Listener(number)) =
                        self.core.slots.0.get(index).map(|slot| &slot.state)
                    {
                        let number = *number;
                        self.app.accept(&mut self.core, number);
                    }
                }
                None => {}
            }
        }
        self.due = due;
    }

    fn read_inbox(&mut self) {
        for _ in 0..POSTS_PER_TURN {
            match self.core.next_post() {
                Some(Post::Release(key)) => self.core.free(key),
                Some(Post::App(message)) => self.app.message(&mut self.core, message),
                None => return,
            }
        }
    }
}
