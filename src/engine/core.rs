//! What one worker has: slots, timers, the run queue, buffers, and its place in the group.
//!
//! The core carries out the ownership rules. Only this worker writes its slots; a token in the run
//! queue is the connection, and whoever pops it owns it. A descriptor leaves the registrations
//! before it is closed, and only its owner closes it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::arena::Arena;
use super::chunk::{Budget, ChunkPool};
use super::parked::{Facts, KINDS, Kind, NIL, Parked, Slot, State, Token, flags};
use super::reactor::{Interest, Reactor, Remote, Sock, Tag};
use super::run_queue::{Inbox, RunQueue, SleepGate, Stealer};
use super::slab::{Key, PagedSlab};
use super::wheel::{TimerLink, TimerStore, Wheel};

/// What workers send each other.
#[derive(Debug)]
pub enum Post<F: Facts> {
    /// A thief took this queued connection away; the slot is free.
    Release(Key),
    /// For the application.
    App(F::Message),
}

/// What the others see of a worker.
pub struct Member<R: Remote, F: Facts> {
    remote: R,
    inbox: Inbox<Post<F>>,
    gate: SleepGate,
    stealer: Stealer<Token<F>>,
    /// How busy it is, in the application's units.
    load: CachePadded<AtomicU32>,
    /// When the deadline of the client that is idle longest is, ms; `u64::MAX` when there is none.
    oldest_idle_ms: CachePadded<AtomicU64>,
    /// It has finished, and stays only for what others send it before they have.
    left: AtomicBool,
}

impl<R: Remote, F: Facts> Member<R, F> {
    /// Sends a message; wakes the worker when it sleeps.
    pub fn post(&self, message: F::Message) {
        self.inbox.push(Post::App(message));
        self.nudge();
    }

    /// Wakes the worker when it sleeps.
    pub fn nudge(&self) {
        if self.gate.needs_wake() {
            self.remote.wake();
        }
    }

    /// It has finished: nothing more should be given to it.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// How busy it says it is.
    pub fn load(&self) -> u32 {
        self.load.load(Ordering::Relaxed)
    }

    /// How long ago its longest-idle client fell silent, as far as that is to be compared: the lower, the
    /// longer. `u64::MAX` when it has none.
    pub fn oldest_idle(&self) -> u64 {
        self.oldest_idle_ms.load(Ordering::Relaxed)
    }
}

impl<R: Remote, F: Facts> std::fmt::Debug for Member<R, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}

/// Workers that share a descriptor table and may take each other's connections.
pub struct Group<R: Remote, F: Facts> {
    /// In order of worker number.
    pub members: Vec<Member<R, F>>,
}

impl<R: Remote, F: Facts> std::fmt::Debug for Group<R, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.members).finish()
    }
}

/// Numbers of one worker, for its application to publish.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Parked connections by kind.
    pub parked: [u64; KINDS],
    /// Resident ones.
    pub resident: u64,
    /// Connections taken from other workers.
    pub steals: u64,
    /// Times it woke a sleeping sibling to steal.
    pub wakes: u64,
    /// Turns it took. A worker that sleeps takes none.
    pub turns: u64,
}

pub(super) struct Slots<F: Facts>(pub(super) PagedSlab<Slot<F>>);

impl<F: Facts> TimerStore for Slots<F> {
    fn link(&mut self, index: u32) -> &mut TimerLink {
        // The wheel only names slots that it linked, and a slot is unlinked before it is freed.
        &mut self.0.get_mut(index).expect("timer of a free slot").timer
    }
}

/// One worker's share of the engine.
pub struct Core<R: Reactor, F: Facts> {
    /// Sockets and clock.
    pub reactor: R,
    /// Read arena of the turn.
    pub arena: Arena,
    /// Buffers for what cannot be passed on at once.
    pub chunks: ChunkPool,
    /// Numbers to publish.
    pub tally: Tally,
    /// Where it parks, steals and moves without need.
    #[cfg(chaos)]
    pub chaos: super::chaos::Chaos,
    pub(super) id: u16,
    pub(super) group: Arc<Group<R::Remote, F>>,
    pub(super) slots: Slots<F>,
    pub(super) wheel: Wheel,
    pub(super) queue: RunQueue<Token<F>>,
    pub(super) now_ms: u64,
    oldest_idle: u32,
    newest_idle: u32,
}

impl<R: Reactor, F: Facts> std::fmt::Debug for Core<R, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("id", &self.id)
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

impl<R: Reactor, F: Facts> Core<R, F> {
    /// Memory of the slots: pages in use, and bytes of the tables that find them.
    #[must_use]
    pub fn slot_memory(&self) -> (usize, usize) {
        (self.slots.0.pages(), self.slots.0.table_bytes())
    }

    /// Gives back what only the busy need.
    pub fn trim(&mut self) {
        self.chunks.trim();
        self.arena.release();
        self.slots.0.trim();
    }

    /// One core for each reactor; together they are a group.
    pub fn group(reactors: Vec<R>, budget: &Arc<Budget>) -> Vec<Self> {
        let queues: Vec<RunQueue<Token<F>>> = reactors.iter().map(|_| RunQueue::new()).collect();
        let members = reactors
            .iter()
            .zip(&queues)
            .map(|(reactor, queue)| Member {
                remote: reactor.remote(),
                inbox: Inbox::new(),
                gate: SleepGate::new(),
                stealer: queue.stealer(),
                load: CachePadded::new(AtomicU32::new(0)),
                oldest_idle_ms: CachePadded::new(AtomicU64::new(u64::MAX)),
                left: AtomicBool::new(false),
            })
            .collect();
        let group = Arc::new(Group { members });
        (0u16..)
            .zip(reactors.into_iter().zip(queues))
            .map(|(id, (reactor, queue))| {
                let now_ms = reactor.clock_us() / 1000;
                Self {
                    reactor,
                    arena: Arena::default(),
                    chunks: ChunkPool::new(Arc::clone(budget)),
                    tally: Tally::default(),
                    #[cfg(chaos)]
                    chaos: super::chaos::Chaos::new(id),
                    id,
                    group: Arc::clone(&group),
                    slots: Slots(PagedSlab::new()),
                    wheel: Wheel::new(now_ms),
                    queue,
                    now_ms,
                    oldest_idle: NIL,
                    newest_idle: NIL,
                }
            })
            .collect()
    }

    /// Number of this worker in its group.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The group.
    #[must_use]
    pub fn siblings(&self) -> &Arc<Group<R::Remote, F>> {
        &self.group
    }

    /// Milliseconds on the process's clock, as of this turn.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now_ms
    }

    /// Tells the others how busy this worker is.
    pub fn publish_load(&self, load: u32) {
        self.me().load.store(load, Ordering::Relaxed);
    }

    /// Tells the others how long this worker's longest-idle client has been silent.
    pub fn publish_oldest_idle(&self) {
        let told = &self.me().oldest_idle_ms;
        let now = self.oldest_idle_ms();
        if told.load(Ordering::Relaxed) != now {
            told.store(now, Ordering::Relaxed);
        }
    }

    /// What [`Member::oldest_idle`] tells the others.
    #[must_use]
    pub fn oldest_idle_ms(&self) -> u64 {
        let oldest = self.oldest_idle().and_then(|key| self.parked(key));
        // One that never times out still can be told from none.
        oldest.map_or(u64::MAX, |record| record.deadline.ms().min(u64::MAX - 1))
    }

    /// Bytes held for slots.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.slots.0.bytes()
    }

    /// Slots in use, listeners included.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.slots.0.len()
    }

    /// Registers a listening socket.
    pub fn add_listener(&mut self, sock: Sock, number: u32) -> io::Result<Key> {
        let key = self.slots.0.insert(Slot::new(State::Listener(number)));
        let tag = Tag::new(key.generation, false, key.index);
        if let Err(error) = self.reactor.add(sock, tag, Interest::Listen) {
            self.free(key);
            return Err(error);
        }
        Ok(key)
    }

    /// Takes a listening socket out of the registrations; it is not closed.
    pub fn remove_listener(&mut self, key: Key, sock: Sock) {
        // The descriptor is open and registered, so this cannot fail in a way that matters.
        let _ = self.reactor.remove(sock);
        self.free(key);
    }

    /// Registers a new connection as resident under the application's number.
    pub fn open(&mut self, sock: Sock, number: u32, interest: Interest) -> io::Result<Key> {
        let key = self.slots.0.insert(Slot::new(State::Resident(number)));
        let tag = Tag::new(key.generation, false, key.index);
        if let Err(error) = self.reactor.add(sock, tag, interest) {
            self.free(key);
            return Err(error);
        }
        self.tally.resident += 1;
        Ok(key)
    }

    /// Changes what a resident connection waits for; polls anew.
    pub fn arm(&mut self, key: Key, sock: Sock, interest: Interest) -> io::Result<()> {
        self.reactor
            .modify(sock, Tag::new(key.generation, false, key.index), interest)
    }

    /// The application's number of a resident connection.
    #[must_use]
    pub fn resident(&self, key: Key) -> Option<u32> {
        match self.slots.0.get_key(key)?.state {
            State::Resident(number) => Some(number),
            _ => None,
        }
    }

    /// A parked connection's record.
    #[must_use]
    pub fn parked(&self, key: Key) -> Option<&Parked<F>> {
        match &self.slots.0.get_key(key)?.state {
            State::Parked(record) => Some(record),
            _ => None,
        }
    }

    /// Changes a parked record's own fields (not its kind or descriptors).
    pub fn parked_mut(&mut self, key: Key) -> Option<&mut Parked<F>> {
        match &mut self.slots.0.get_key_mut(key)?.state {
            State::Parked(record) => Some(record),
            _ => None,
        }
    }

    /// Schedules the slot's timer. A later call replaces the earlier.
    pub fn schedule(&mut self, key: Key, due_ms: u64) {
        if self.slots.0.contains(key) {
            self.wheel.schedule(&mut self.slots, key.index, due_ms);
        }
    }

    /// Parks a resident connection: stores the record, then arms. On error the record comes back and
    /// the connection is still resident.
    pub fn park(&mut self, key: Key, record: Parked<F>) -> Result<(), (io::Error, Parked<F>)> {
        let Some(State::Resident(number)) = self.slots.0.get_key(key).map(|slot| &slot.state)
        else {
            return Err((io::ErrorKind::NotFound.into(), record));
        };
        let number = *number;
        let (socks, bits, kind) = (record.socks, record.flags, record.kind);
        let deadline = record.deadline;
        // Stored before it is armed: an event may come at once.
        self.set_state(key, State::Parked(record));
        let sides = [(false, flags::READ_CLOSED_A), (true, flags::READ_CLOSED_B)];
        for (sock, (side, closed)) in socks.into_iter().zip(sides) {
            if sock.0 < 0 {
                continue;
            }
            let interest = if bits & closed == 0 {
                Interest::ReadOnce
            } else {
                Interest::Silent
            };
            let tag = Tag::new(key.generation, side, key.index);
            if let Err(error) = self.reactor.modify(sock, tag, interest) {
                let State::Parked(record) = self.set_state(key, State::Resident(number)) else {
                    unreachable!("the state was stored above");
                };
                return Err((error, record));
            }
        }
        self.tally.resident -= 1;
        self.tally.parked[kind as usize] += 1;
        if kind == Kind::Idle {
            self.link_idle(key.index);
        }
        if deadline.ms() != u64::MAX {
            self.wheel
                .schedule(&mut self.slots, key.index, deadline.ms());
        }
        Ok(())
    }

    /// Joins the second connection of a pair into the first one's slot: its own slot is freed, its
    /// registration stays until [`park`](Self::park) gives it the first one's tag.
    pub fn join(&mut self, second: Key) {
        self.free(second);
        self.tally.resident -= 1;
    }

    /// The counterpart of [`join`](Self::join): gives a descriptor of a woken pair a slot of its own.
    /// `registered`: it still is in this worker's registrations.
    pub fn split(&mut self, sock: Sock, number: u32, registered: bool) -> io::Result<Key> {
        let key = self.slots.0.insert(Slot::new(State::Resident(number)));
        let tag = Tag::new(key.generation, false, key.index);
        let interest = Interest::Edge { write: false };
        let done = if registered {
            self.reactor.modify(sock, tag, interest)
        } else {
            self.reactor.add(sock, tag, interest)
        };
        if let Err(error) = done {
            self.free(key);
            return Err(error);
        }
        self.tally.resident += 1;
        Ok(key)
    }

    /// Takes a parked connection out of its slot on this, its home worker: it is resident under the
    /// application's number, with its first descriptor armed for that.
    pub fn unpark(&mut self, key: Key, number: u32) -> Option<Parked<F>> {
        if !matches!(self.slots.0.get_key(key)?.state, State::Parked(_)) {
            return None;
        }
        let State::Parked(record) = self.set_state(key, State::Resident(number)) else {
            return None;
        };
        self.left_parked(key.index, record.kind);
        self.tally.resident += 1;
        self.arm_resident(key, &record);
        Some(record)
    }

    /// Gives a popped token's connection its slot: the same one at home, a new one on a thief, which
    /// takes the descriptors out of the home registrations first. The first descriptor is armed; the
    /// second one of a pair wants [`split`](Self::split), registered only when this says so.
    ///
    /// # Errors
    /// The kernel refused to register the descriptor (no memory, no room for watches): its descriptors
    /// are closed, and the record is given back to be counted as ended.
    pub fn adopt(
        &mut self,
        token: Token<F>,
        number: u32,
    ) -> Result<(Key, Parked<F>, bool), Parked<F>> {
        let Token {
            home, key, record, ..
        } = token;
        self.tally.resident += 1;
        if home == self.id {
            self.set_state(key, State::Resident(number));
            self.arm_resident(key, &record);
            return Ok((key, record, true));
        }
        self.tally.steals += 1;
        #[cfg(chaos)]
        self.chaos.stumble();
        self.leave_home(home, key, &record);
        #[cfg(chaos)]
        self.chaos.stumble();
        let key = self.slots.0.insert(Slot::new(State::Resident(number)));
        let tag = Tag::new(key.generation, false, key.index);
        let edge = Interest::Edge { write: false };
        if self.reactor.add(record.socks[0], tag, edge).is_err() {
            self.free(key);
            self.tally.resident -= 1;
            for sock in record.descriptors() {
                self.reactor.close(sock, true);
            }
            return Err(record);
        }
        Ok((key, record, false))
    }

    fn leave_home(&mut self, home: u16, key: Key, record: &Parked<F>) {
        let member = &self.group.members[usize::from(home)];
        for sock in record.descriptors() {
            // Registered there and owned by us, so only a programming error could make it fail.
            let _ = member.remote.remove(sock);
        }
        member.inbox.push(Post::Release(key));
    }

    fn arm_resident(&mut self, key: Key, record: &Parked<F>) {
        let tag = Tag::new(key.generation, false, key.index);
        // A registered open descriptor can be modified; were it not so, the read that follows reports
        // the connection's end.
        let _ = self
            .reactor
            .modify(record.socks[0], tag, Interest::Edge { write: false });
    }

    /// Frees the slot of a resident connection and takes its descriptor out of the registrations. The
    /// descriptor stays open: it moves to another worker.
    pub fn detach(&mut self, key: Key, sock: Sock) {
        let _ = self.reactor.remove(sock);
        self.free(key);
        self.tally.resident -= 1;
    }

    /// Closes a resident connection.
    pub fn close(&mut self, key: Key, sock: Sock, reset: bool) {
        self.detach(key, sock);
        self.reactor.close(sock, reset);
    }

    /// Closes a parked connection and gives back its record.
    pub fn close_parked(&mut self, key: Key, reset: bool) -> Option<Parked<F>> {
        self.parked(key)?;
        let State::Parked(record) = self.set_state(key, State::Queued) else {
            return None;
        };
        self.left_parked(key.index, record.kind);
        for sock in record.descriptors() {
            let _ = self.reactor.remove(sock);
            self.reactor.close(sock, reset);
        }
        self.free(key);
        Some(record)
    }

    /// Closes a connection that waits in this worker's run queue and gives back its record.
    pub fn close_queued(&mut self, reset: bool) -> Option<Parked<F>> {
        let Token { key, record, .. } = self.queue.pop()?;
        for sock in record.descriptors() {
            let _ = self.reactor.remove(sock);
            self.reactor.close(sock, reset);
        }
        self.free(key);
        Some(record)
    }

    /// The parked client that has been silent longest.
    #[must_use]
    pub fn oldest_idle(&self) -> Option<Key> {
        (self.oldest_idle != NIL)
            .then(|| self.slots.0.key(self.oldest_idle))
            .flatten()
    }

    /// Parked connections from `after` on, for incremental walks (drain, reload).
    #[must_use]
    pub fn next_parked(&self, after: Option<u32>) -> Option<(Key, &Parked<F>)> {
        let mut at = match after {
            None => self.slots.0.first_index(),
            Some(index) => self.slots.0.next_index(index),
        };
        while let Some(index) = at {
            if let Some(Slot {
                state: State::Parked(record),
                ..
            }) = self.slots.0.get(index)
            {
                return self.slots.0.key(index).map(|key| (key, record));
            }
            at = self.slots.0.next_index(index);
        }
        None
    }

    pub(super) fn set_state(&mut self, key: Key, state: State<F>) -> State<F> {
        match self.slots.0.get_key_mut(key) {
            Some(slot) => std::mem::replace(&mut slot.state, state),
            None => State::Queued,
        }
    }

    pub(super) fn left_parked(&mut self, index: u32, kind: Kind) {
        self.tally.parked[kind as usize] -= 1;
        if kind == Kind::Idle {
            self.unlink_idle(index);
        }
    }

    pub(super) fn free(&mut self, key: Key) {
        if self.slots.0.contains(key) {
            self.wheel.cancel(&mut self.slots, key.index);
            self.slots.0.remove(key.index);
        }
    }

    fn link_idle(&mut self, index: u32) {
        let older = std::mem::replace(&mut self.newest_idle, index);
        if let Some(slot) = self.slots.0.get_mut(index) {
            slot.older = older;
            slot.newer = NIL;
        }
        match self.slots.0.get_mut(older) {
            Some(slot) if older != NIL => slot.newer = index,
            _ => self.oldest_idle = index,
        }
    }

    fn unlink_idle(&mut self, index: u32) {
        let Some(slot) = self.slots.0.get_mut(index) else {
            return;
        };
        let (older, newer) = (slot.older, slot.newer);
        (slot.older, slot.newer) = (NIL, NIL);
        match self.slots.0.get_mut(older) {
            Some(slot) if older != NIL => slot.newer = newer,
            _ => self.oldest_idle = newer,
        }
        match self.slots.0.get_mut(newer) {
            Some(slot) if newer != NIL => slot.older = older,
            _ => self.newest_idle = older,
        }
    }

    pub(super) fn me(&self) -> &Member<R::Remote, F> {
        &self.group.members[usize::from(self.id)]
    }

    pub(super) fn next_post(&self) -> Option<Post<F>> {
        self.me().inbox.pop()
    }

    pub(super) fn sleep_begin(&self) -> bool {
        self.me().gate.sleep_begin();
        self.me().inbox.is_empty()
    }

    pub(super) fn sleep_end(&self) {
        self.me().gate.sleep_end();
    }

    /// This worker has finished: the others see it, and those that wait for it look again.
    pub(super) fn leave(&self) {
        let me = self.me();
        if me.has_left() {
            return;
        }
        // What it sent before is seen by whoever sees that it left.
        me.left.store(true, Ordering::Release);
        for (id, member) in self.group.members.iter().enumerate() {
            if id != usize::from(self.id) {
                member.nudge();
            }
        }
    }

    /// Every worker of the group has finished, and nothing waits for this one.
    pub(super) fn is_over(&self) -> bool {
        let mut members = self.group.members.iter();
        members.all(|member| member.left.load(Ordering::Acquire))
            && self.me().inbox.is_empty()
            && self.queue.is_empty()
    }

    /// Takes a queued connection from another worker, beginning with the next in number.
    pub(super) fn steal(&mut self) -> Option<Token<F>> {
        if self.me().has_left() {
            return None;
        }
        let count = self.group.members.len();
        (1..count).find_map(|step| {
            let victim = (usize::from(self.id) + step) % count;
            self.group.members[victim].stealer.steal()
        })
    }

    /// Another worker has connections in its run queue.
    pub(super) fn can_steal(&self) -> bool {
        let me = usize::from(self.id);
        !self.group.members[me].has_left()
            && self
                .group
                .members
                .iter()
                .enumerate()
                .any(|(id, m)| id != me && !m.stealer.is_empty())
    }

    /// Wakes one sleeping sibling so that it steals.
    pub(super) fn wake_thief(&mut self) {
        let count = self.group.members.len();
        for step in 1..count {
            let member = &self.group.members[(usize::from(self.id) + step) % count];
            if !member.has_left() && member.gate.needs_wake() {
                member.remote.wake();
                self.tally.wakes += 1;
                return;
            }
        }
    }
}
