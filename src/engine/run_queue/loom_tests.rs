//! The protocol between workers under every interleaving, over a model of the kernel's part.
//!
//! The gate is the real one. Queues are a word or a locked list, weaker than the real ones where that
//! matters: the only order the sleep protocol may rely on is that of the gate itself. The model of a
//! one-shot registration keeps the rules of the reactor: it reports once, reports at once when armed
//! over waiting bytes, and says nothing after removal, except for what was harvested before.

use std::collections::VecDeque;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::*;

fn explore(test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(test);
}

/// What the reactor waits on: a wake-up is kept until a wait takes it, like an eventfd's.
struct Waiter {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Waiter {
    fn new() -> Self {
        Self {
            woken: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    fn wake(&self) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

/// Waits in the gate until `ready`.
fn sleep_until(gate: &SleepGate, waiter: &Waiter, ready: impl Fn() -> bool) {
    while !ready() {
        gate.sleep_begin();
        if !ready() {
            waiter.wait();
        }
        gate.sleep_end();
    }
}

#[test]
fn no_wake_up_is_lost() {
    explore(|| {
        struct Shared {
            gate: SleepGate,
            waiter: Waiter,
            messages: AtomicUsize,
        }
        let shared = Arc::new(Shared {
            gate: SleepGate::new(),
            waiter: Waiter::new(),
            messages: AtomicUsize::new(0),
        });
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.messages.fetch_add(1, Ordering::Relaxed);
                    if shared.gate.needs_wake() {
                        shared.waiter.wake();
                    }
                })
            })
            .collect();
        for seen in 1..=2 {
            // A lost wake-up leaves the wait without an end, which the model reports.
            sleep_until(&shared.gate, &shared.waiter, || {
                shared.messages.load(Ordering::Relaxed) >= seen
            });
        }
        senders
            .into_iter()
            .for_each(|sender| sender.join().unwrap());
    });
}

#[test]
fn a_worker_awake_is_not_woken() {
    explore(|| {
        let gate = Arc::new(SleepGate::new());
        let other = Arc::clone(&gate);
        let waker = thread::spawn(move || other.needs_wake());
        assert!(!gate.needs_wake());
        assert!(!waker.join().unwrap());
    });
}

#[test]
fn one_of_several_callers_wakes() {
    explore(|| {
        let gate = Arc::new(SleepGate::new());
        gate.sleep_begin();
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let gate = Arc::clone(&gate);
                thread::spawn(move || gate.needs_wake())
            })
            .collect();
        let wakes: Vec<_> = wakers
            .into_iter()
            .map(|waker| waker.join().unwrap())
            .collect();
        assert_eq!(wakes.iter().filter(|woke| **woke).count(), 1);
    });
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Token {
    home: usize,
    generation: u32,
}

/// One of the two sockets of the model's connection, a pair, and its registration.
struct Socket(Mutex<SocketState>);

struct SocketState {
    readable: usize,
    /// Worker, generation of the tag, armed.
    registration: Option<(usize, u32, bool)>,
    /// What each worker's wait will report, as generations of the tag.
    events: [VecDeque<u32>; 2],
}

impl Socket {
    fn new() -> Self {
        Self(Mutex::new(SocketState {
            readable: 0,
            registration: None,
            events: [VecDeque::new(), VecDeque::new()],
        }))
    }

    fn receive(&self) {
        let mut socket = self.0.lock().unwrap();
        socket.readable += 1;
        socket.report();
    }

    fn arm(&self, worker: usize, generation: u32) {
        let mut socket = self.0.lock().unwrap();
        socket.registration = Some((worker, generation, true));
        socket.report();
    }

    fn remove(&self) {
        self.0.lock().unwrap().registration = None;
    }

    fn read(&self) -> usize {
        std::mem::take(&mut self.0.lock().unwrap().readable)
    }

    fn events(&self, worker: usize) -> VecDeque<u32> {
        std::mem::take(&mut self.0.lock().unwrap().events[worker])
    }
}

impl SocketState {
    fn report(&mut self) {
        if self.readable > 0
            && let Some((worker, generation, armed)) = &mut self.registration
            && std::mem::take(armed)
        {
            self.events[*worker].push_back(*generation);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Free,
    Parked,
    Queued,
    Resident,
}

/// One slot of a worker's slab. Only its worker touches `state` and `generation`; the record belongs
/// to whoever owns the connection. The model finds any access that is not ordered.
struct Slot {
    state: UnsafeCell<State>,
    generation: UnsafeCell<u32>,
    record: UnsafeCell<u32>,
}

impl Slot {
    fn new(state: State, generation: u32, record: u32) -> Self {
        Self {
            state: UnsafeCell::new(state),
            generation: UnsafeCell::new(generation),
            record: UnsafeCell::new(record),
        }
    }

    fn state(&self) -> State {
        // SAFETY: called on the slot's own worker.
        self.state.with(|state| unsafe { *state })
    }

    fn set(&self, new: State) {
        // SAFETY: called on the slot's own worker.
        self.state.with_mut(|state| unsafe { *state = new });
    }

    fn generation(&self) -> u32 {
        // SAFETY: called on the slot's own worker.
        self.generation.with(|generation| unsafe { *generation })
    }

    /// Frees the slot and gives it to another connection at once.
    fn reuse(&self) {
        // SAFETY: called on the slot's own worker, to which the slot was returned.
        self.generation
            .with_mut(|generation| unsafe { *generation += 1 });
        self.write_record(OTHER_RECORD);
        self.set(State::Parked);
    }

    fn read_record(&self) -> u32 {
        // SAFETY: the caller owns the connection.
        self.record.with(|record| unsafe { *record })
    }

    fn write_record(&self, new: u32) {
        // SAFETY: the caller owns the connection.
        self.record.with_mut(|record| unsafe { *record = new });
    }
}

const HOME: usize = 0;
const THIEF: usize = 1;
const RECORD: u32 = 77;
/// Of a silent connection that takes the place of the stolen one.
const OTHER_RECORD: u32 = 88;

struct Workers {
    sockets: [Socket; 2],
    /// The home worker's run queue.
    queue: Mutex<VecDeque<Token>>,
    /// Slots given back to the home worker, by generation.
    inbox: Mutex<VecDeque<u32>>,
    gate: SleepGate,
    waiter: Waiter,
    slots: [Slot; 2],
    served: AtomicUsize,
}

// SAFETY: the cells are accessed as the protocol under test says; the model checks that it suffices.
unsafe impl Sync for Workers {}
// SAFETY: nothing in it is tied to a thread.
unsafe impl Send for Workers {}

impl Workers {
    fn new() -> Self {
        let workers = Self {
            sockets: [Socket::new(), Socket::new()],
            queue: Mutex::new(VecDeque::new()),
            inbox: Mutex::new(VecDeque::new()),
            gate: SleepGate::new(),
            waiter: Waiter::new(),
            slots: [
                Slot::new(State::Parked, 1, RECORD),
                Slot::new(State::Free, 10, 0),
            ],
            served: AtomicUsize::new(0),
        };
        workers
            .sockets
            .iter()
            .for_each(|socket| socket.arm(HOME, 1));
        workers
    }

    /// Serves what is there and parks again, in a slot of `worker`.
    fn serve_and_park(&self, worker: usize) {
        let slot = &self.slots[worker];
        slot.set(State::Resident);
        assert_eq!(slot.read_record(), RECORD);
        let bytes = self.sockets.iter().map(Socket::read).sum();
        self.served.fetch_add(bytes, Ordering::Relaxed);
        slot.set(State::Parked);
        self.sockets
            .iter()
            .for_each(|socket| socket.arm(worker, slot.generation()));
    }

    /// Takes the events of one wait; true when a connection was queued.
    fn harvest(&self, worker: usize) -> bool {
        let slot = &self.slots[worker];
        let mut queued = false;
        for generation in self.sockets.iter().flat_map(|socket| socket.events(worker)) {
            // A stale tag, or a connection that is already on its way, is passed over: both sides of
            // a pair may report before its owner has disarmed the other.
            if generation == slot.generation() && slot.state() == State::Parked {
                slot.set(State::Queued);
                let token = Token {
                    home: worker,
                    generation,
                };
                self.queue.lock().unwrap().push_back(token);
                queued = true;
            }
        }
        queued
    }

    fn pop(&self) -> Option<Token> {
        self.queue.lock().unwrap().pop_front()
    }

    fn steal(&self) -> bool {
        let Some(token) = self.pop() else {
            return false;
        };
        assert_eq!(token.home, HOME);
        let record = self.slots[HOME].read_record();
        self.sockets.iter().for_each(Socket::remove);
        self.inbox.lock().unwrap().push_back(token.generation);
        if self.gate.needs_wake() {
            self.waiter.wake();
        }
        self.slots[THIEF].write_record(record);
        self.serve_and_park(THIEF);
        true
    }

    /// One turn of the home worker from its events on; waits for its slot when that was stolen.
    fn home_turn(&self) {
        if self.harvest(HOME) {
            // A timer or drain meets Queued and leaves it alone: `state` is all it looks at.
            assert_eq!(self.slots[HOME].state(), State::Queued);
            if let Some(token) = self.pop() {
                assert_eq!(token.generation, self.slots[HOME].generation());
                self.serve_and_park(HOME);
            } else {
                sleep_until(&self.gate, &self.waiter, || {
                    !self.inbox.lock().unwrap().is_empty()
                });
                let returned = self.inbox.lock().unwrap().pop_front();
                assert_eq!(returned, Some(self.slots[HOME].generation()));
                self.slots[HOME].reuse();
            }
        }
    }
}

/// Runs a home worker of `turns` turns, a thief, and a peer that sends `bytes`, one to each side in
/// turn; then checks that one worker holds the connection, and that every byte was served or will be.
fn hand_off(turns: usize, bytes: usize) {
    let workers = Arc::new(Workers::new());
    workers.sockets[0].receive();
    let peer = Arc::clone(&workers);
    let peer = thread::spawn(move || (1..bytes).for_each(|n| peer.sockets[n % 2].receive()));
    let thief = Arc::clone(&workers);
    let thief = thread::spawn(move || thief.steal());
    for _ in 0..turns {
        workers.home_turn();
    }
    let stolen = thief.join().unwrap();
    peer.join().unwrap();

    // What came last is still to be harvested by the worker that holds it, and by no other.
    let (holder, other) = if stolen { (THIEF, HOME) } else { (HOME, THIEF) };
    assert!(!workers.harvest(other));
    let (home, thief) = (&workers.slots[HOME], &workers.slots[THIEF]);
    assert_eq!(home.state(), State::Parked);
    assert_eq!(
        home.read_record(),
        if stolen { OTHER_RECORD } else { RECORD }
    );
    assert_eq!(
        thief.state(),
        if stolen { State::Parked } else { State::Free }
    );
    if workers.harvest(holder) {
        assert!(workers.pop().is_some());
        workers.serve_and_park(holder);
    }
    assert!(workers.pop().is_none());
    assert_eq!(workers.served.load(Ordering::Relaxed), bytes);
}

#[test]
fn a_queued_connection_has_one_owner() {
    explore(|| hand_off(1, 1));
}

#[test]
fn no_byte_is_lost_when_it_comes_during_a_steal() {
    explore(|| hand_off(2, 2));
}
