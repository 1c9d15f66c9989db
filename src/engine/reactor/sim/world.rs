//! The simulated process and network: its objects, descriptors, time, and wake-ups.
//!
//! A misuse that the kernel would let pass silently, or punish much later, panics here: using or
//! closing a closed descriptor, closing one that is still registered, registering a connection with
//! two workers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::config::Config;
use super::interest::{Set, Trigger};
use super::stream::{Kind, Owner, Stream};
use super::trace::{Entry, Trace};
use crate::engine::reactor::random::Random;
use crate::engine::reactor::{Addr, Event, Ready, Sock};

/// Waits of one worker without time moving after which it is taken to spin.
const SPIN_LIMIT: u32 = 1_000_000;
/// Most events of one wait, as the epoll backend's largest batch.
const MAX_BATCH: u64 = 1024;
/// First descriptor of a connection: 0 to 2 are taken.
const FIRST_SOCK: i32 = 3;

/// Name of an object; never names a later one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    index: u32,
    serial: u32,
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) addr: Addr,
    pub(super) backlog: usize,
    pub(super) reuse_port: bool,
    /// Server ends of connections not yet accepted.
    pub(super) queue: VecDeque<Id>,
    /// Descriptor, or `None` for a scripted peer's.
    pub(super) sock: Option<i32>,
}

/// What a descriptor or peer handle names. Streams are most of them, and boxing would cost each one.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub(super) enum Object {
    Stream(Stream),
    Listener(Listener),
}

#[derive(Debug, Default)]
struct Slot {
    serial: u32,
    /// Workers with which it is registered, a bit each.
    watchers: u8,
    object: Option<Object>,
}

/// What happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    /// Bytes (and FIN) of this end arrive.
    Pump(Id),
    /// Hidden bytes show.
    Reveal(Id),
    /// Room shows again.
    GiveBack(Id),
    /// A RST arrives at this end.
    Reset(Id),
    /// The network breaks the connection of this end.
    Break(Id),
    /// The SYN of this end arrives, for the n-th time.
    Connect(Id, u8),
    /// The connect of this end fails.
    Fail(Id, i32),
    /// A wake-up arrives.
    Wake(u8),
}

/// The world; [`SimWorld`](super::SimWorld) holds it behind a lock.
#[derive(Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) config: Config,
    pub(super) random: Random,
    pub(super) now_us: u64,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    socks: Vec<Option<Id>>,
    free_socks: BinaryHeap<Reverse<i32>>,
    pub(super) open_socks: usize,
    actions: BinaryHeap<Reverse<(u64, u64, Action)>>,
    action_serial: u64,
    pub(super) sets: Vec<Set>,
    pub(super) listeners: HashMap<Addr, Vec<Id>>,
    /// Paths of Unix sockets that were once listened on.
    pub(super) unix_paths: std::collections::HashSet<Addr>,
    pub(super) next_port: u16,
    trace: Trace,
}

impl World {
    pub(super) fn new(seed: u64, config: Config) -> Self {
        assert!((1..=8).contains(&config.workers), "1 to 8 workers");
        let trace = Trace::new(config.trace);
        Self {
            seed,
            random: Random::from_seed(seed),
            now_us: 0,
            slots: Vec::new(),
            free_slots: Vec::new(),
            socks: Vec::new(),
            free_socks: BinaryHeap::new(),
            open_socks: 0,
            actions: BinaryHeap::new(),
            action_serial: 0,
            sets: (0..config.workers).map(|_| Set::default()).collect(),
            listeners: HashMap::new(),
            unix_paths: std::collections::HashSet::new(),
            next_port: 32_768,
            trace,
            config,
        }
    }

    // Objects and descriptors.

    pub(super) fn insert(&mut self, object: Object) -> Id {
        let index = self.free_slots.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.object = Some(object);
        Id {
            index,
            serial: slot.serial,
        }
    }

    pub(super) fn free(&mut self, id: Id) -> Option<Object> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.serial != id.serial {
            return None;
        }
        let object = slot.object.take();
        slot.serial = slot.serial.wrapping_add(1);
        slot.watchers = 0;
        self.free_slots.push(id.index);
        object
    }

    pub(super) fn object(&mut self, id: Id) -> Option<&mut Object> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.serial != id.serial {
            return None;
        }
        slot.object.as_mut()
    }

    pub(super) fn stream(&mut self, id: Id) -> Option<&mut Stream> {
        match self.object(id) {
            Some(Object::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    pub(super) fn listener(&mut self, id: Id) -> Option<&mut Listener> {
        match self.object(id) {
            Some(Object::Listener(listener)) => Some(listener),
            _ => None,
        }
    }

    /// Objects that are not freed: connections' ends (also of peers) and listening sockets.
    pub(super) fn objects(&self) -> usize {
        self.slots.len() - self.free_slots.len()
    }

    /// The lowest free descriptor, or `None` at the limit.
    pub(super) fn open_sock(&mut self, id: Id) -> Option<Sock> {
        if self.open_socks >= self.config.descriptor_limit {
            return None;
        }
        self.open_socks += 1;
        let fd = match self.free_socks.pop() {
            Some(Reverse(fd)) => {
                self.socks[(fd - FIRST_SOCK) as usize] = Some(id);
                fd
            }
            None => {
                self.socks.push(Some(id));
                FIRST_SOCK + self.socks.len() as i32 - 1
            }
        };
        Some(Sock(fd))
    }

    /// The object behind a descriptor; panics when it is not open.
    pub(super) fn by_sock(&self, sock: Sock, what: &str) -> Id {
        let at = sock.0.wrapping_sub(FIRST_SOCK) as usize;
        match self.socks.get(at) {
            Some(Some(id)) => *id,
            _ => self.misuse(&format!("{what} on descriptor {}, which is closed", sock.0)),
        }
    }

    /// Gives a descriptor back; panics when it is closed or still registered.
    pub(super) fn close_sock(&mut self, sock: Sock) -> Id {
        let id = self.by_sock(sock, "close");
        let watchers = self.slots[id.index as usize].watchers;
        if watchers != 0 {
            self.misuse(&format!(
                "close of descriptor {}, which is still registered (workers {watchers:#b})",
                sock.0
            ));
        }
        self.socks[(sock.0 - FIRST_SOCK) as usize] = None;
        self.free_socks.push(Reverse(sock.0));
        self.open_socks -= 1;
        id
    }

    /// Open descriptors, ascending.
    pub(super) fn open(&self) -> Vec<Sock> {
        let open = |(at, id): (usize, &Option<Id>)| id.map(|_| Sock(at as i32 + FIRST_SOCK));
        self.socks.iter().enumerate().filter_map(open).collect()
    }

    /// Ends the test: the code under test broke a rule.
    pub(super) fn misuse(&self, what: &str) -> ! {
        panic!(
            "simulated world, seed {}: {what}\n{}",
            self.seed,
            self.trace.format()
        )
    }

    // Trace.

    pub(super) fn log(&mut self, worker: Option<usize>, what: &'static str, sock: i32, value: i64) {
        self.trace.push(Entry {
            at_us: self.now_us,
            worker: worker.map(|worker| worker as u8),
            what,
            sock,
            value,
        });
    }

    pub(super) fn digest(&self) -> u64 {
        self.trace.digest()
    }

    pub(super) fn trace(&self) -> String {
        self.trace.format()
    }

    // Time.

    /// A seeded delay: 1 to the configured latency.
    pub(super) fn delay(&mut self) -> u64 {
        1 + self.random.below(self.config.latency_us.max(1))
    }

    pub(super) fn schedule(&mut self, after_us: u64, action: Action) {
        self.action_serial += 1;
        let at = self.now_us.saturating_add(after_us);
        self.actions.push(Reverse((at, self.action_serial, action)));
    }

    /// Does what is due.
    pub(super) fn run_due(&mut self) {
        while let Some(Reverse((at, _, _))) = self.actions.peek()
            && *at <= self.now_us
            && let Some(Reverse((_, _, action))) = self.actions.pop()
        {
            self.act(action);
        }
    }

    /// Moves time forward, doing what becomes due in its order.
    pub(super) fn advance_to(&mut self, to_us: u64) {
        self.run_due();
        while let Some(Reverse((at, _, _))) = self.actions.peek()
            && *at <= to_us
        {
            self.now_us = *at;
            self.run_due();
        }
        if to_us > self.now_us {
            self.now_us = to_us;
        }
        for set in &mut self.sets {
            set.waits_now = 0;
        }
    }

    /// When something happens next: an action of the world or the end of a worker's sleep.
    pub(super) fn next_us(&self) -> Option<u64> {
        let action = self.actions.peek().map(|Reverse((at, _, _))| *at);
        let sleeps = self.sets.iter().filter_map(|set| set.sleeps_until);
        let sleep = sleeps.filter(|at| *at != u64::MAX).min();
        match (action, sleep) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    // Registrations and wake-ups.

    pub(super) fn watch(&mut self, worker: usize, sock: Sock, id: Id, watch: bool) {
        let bit = 1 << worker;
        let slot = &mut self.slots[id.index as usize];
        if watch {
            let others = slot.watchers & !bit;
            slot.watchers |= bit;
            if others != 0 && matches!(slot.object, Some(Object::Stream(_))) {
                self.misuse(&format!(
                    "worker {worker} registers descriptor {}, which another one has registered",
                    sock.0
                ));
            }
        } else {
            slot.watchers &= !bit;
        }
    }

    /// A wake-up of whoever waits on `id`, with the kernel's key (0: of any kind).
    pub(super) fn wake(&mut self, id: Id, key: u8) {
        let Some(slot) = self.slots.get(id.index as usize) else {
            return;
        };
        if slot.serial != id.serial || slot.watchers == 0 {
            return;
        }
        let watchers = slot.watchers;
        let (fd, listens) = match &slot.object {
            Some(Object::Stream(Stream {
                owner: Owner::Sock(fd),
                ..
            })) => (*fd, false),
            Some(Object::Listener(Listener { sock: Some(fd), .. })) => (*fd, true),
            _ => return,
        };
        let workers = self.sets.len();
        let first = if listens {
            self.random.below(workers as u64) as usize
        } else {
            0
        };
        for worker in (0..workers).map(|i| (first + i) % workers) {
            if watchers >> worker & 1 == 0 {
                continue;
            }
            let set = &mut self.sets[worker];
            let idle = set.sleeps_until.is_some() && set.ready_len() == 0 && !set.woken;
            set.wake(fd, key);
            // Exclusive: the first that sleeps takes it, the rest is not told.
            if listens && idle && set.get(fd).is_some_and(|found| found.exclusive) {
                return;
            }
        }
    }

    /// What the socket is ready for now.
    pub(super) fn poll(&mut self, id: Id) -> u8 {
        match self.object(id) {
            None => 0,
            Some(Object::Listener(listener)) => {
                if listener.queue.is_empty() {
                    0
                } else {
                    Ready::READ.0
                }
            }
            Some(Object::Stream(stream)) => {
                let peer = match (stream.kind, stream.peer) {
                    (Kind::Unix, Some(peer)) => peer,
                    _ => return stream.poll(true),
                };
                let room = self
                    .stream(peer)
                    .is_none_or(|peer| peer.receive.len().saturating_mul(4) <= peer.receive_limit);
                self.stream(id).map_or(0, |stream| stream.poll(room))
            }
        }
    }

    /// Polls a newly armed registration.
    pub(super) fn poll_new(&mut self, worker: usize, sock: Sock, id: Id) {
        let polled = self.poll(id);
        if polled != 0 {
            self.sets[worker].wake(sock.0, polled);
        }
    }

    /// The worker can go on: it runs, was woken, has events, or its time is over.
    pub(super) fn runnable(&mut self, worker: usize) -> bool {
        let set = &self.sets[worker];
        match set.sleeps_until {
            None => true,
            Some(at) => set.woken || at <= self.now_us || self.has_events(worker),
        }
    }

    /// A wait of this worker would report something.
    pub(super) fn has_events(&mut self, worker: usize) -> bool {
        for at in 0..self.sets[worker].ready_len() {
            let Some((fd, mask)) = self.sets[worker].ready_at(at) else {
                continue;
            };
            let open = self.socks.get((fd - FIRST_SOCK) as usize);
            if let Some(id) = open.copied().flatten()
                && self.poll(id) & mask != 0
            {
                return true;
            }
        }
        false
    }

    /// One wait of a worker; false when it would sleep now.
    pub(super) fn wait(
        &mut self,
        worker: usize,
        timeout_ms: Option<u64>,
        out: &mut Vec<Event>,
    ) -> bool {
        self.run_due();
        let set = &mut self.sets[worker];
        set.waits_now += 1;
        if set.waits_now > SPIN_LIMIT {
            self.misuse(&format!("worker {worker} spins"));
        }
        if self.random.chance(self.config.faults.spurious_edge) {
            self.spurious_edge(worker);
        }
        if self.random.chance(self.config.faults.shuffle) {
            let Self { sets, random, .. } = self;
            sets[worker].shuffle(|n| random.below(n as u64) as usize);
        }
        let mut most = MAX_BATCH;
        if self.random.chance(self.config.faults.subset) {
            most = 1 + self.random.below(4);
        }
        // Level-triggered ones go back to the end of the list: only what is there now is looked at.
        let mut left = self.sets[worker].ready_len();
        let mut found = 0;
        while left > 0 && found < most {
            left -= 1;
            let Some(fd) = self.sets[worker].pop() else {
                continue;
            };
            let id = self.by_sock(Sock(fd), "registration");
            let polled = self.poll(id);
            if let Some((tag, ready)) = self.sets[worker].report(fd, polled) {
                out.push(Event { tag, ready });
                found += 1;
                self.log(Some(worker), "event", fd, i64::from(ready.0));
            }
        }
        let set = &mut self.sets[worker];
        let woken = std::mem::take(&mut set.woken);
        let was_asleep = set.sleeps_until.take();
        if found != 0 {
            if self.random.chance(self.config.faults.stall) {
                self.now_us += self.delay();
            }
        } else if !woken && was_asleep.is_none_or(|until| until > self.now_us) {
            let sleeps_us = timeout_ms.map_or(u64::MAX, |ms| ms.saturating_mul(1000));
            if sleeps_us != 0 {
                set.sleeps_until = Some(self.now_us.saturating_add(sleeps_us));
                self.log(Some(worker), "sleep", -1, (sleeps_us / 1000) as i64);
                return false;
            }
        }
        true
    }

    fn spurious_edge(&mut self, worker: usize) {
        let set = &mut self.sets[worker];
        let count = set.capacity() as u64;
        let fd = self.random.below(count) as i32;
        if set
            .get(fd)
            .is_some_and(|found| found.trigger == Trigger::Edge)
        {
            set.wake(fd, 0);
        }
    }
}
