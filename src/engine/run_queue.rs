//! Work between workers: the run queue others may steal from, the sleep gate, and the inbox.
//!
//! A token in a [`RunQueue`] is ownership: whoever pops or steals it, and nobody else, owns what it
//! names. A worker that finds nothing to do sleeps behind its [`SleepGate`]; whoever gives it work
//! asks the gate whether it must be woken, so that a worker that is awake costs no system call.
//! Nothing here blocks or waits: the waiting is the reactor's.

use std::fmt;

use crossbeam_deque::{Steal, Worker};
use crossbeam_utils::CachePadded;

#[cfg(not(all(loom, test)))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

#[cfg(all(loom, test))]
use loom::sync::atomic::{AtomicBool, Ordering, fence};

/// Ready work of one worker, first in first out. Only the owner pushes and pops.
pub struct RunQueue<T: Send> {
    queue: Worker<T>,
}

impl<T: Send> RunQueue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self {
            queue: Worker::new_fifo(),
        }
    }

    /// The end that other workers hold.
    #[must_use]
    pub fn stealer(&self) -> Stealer<T> {
        Stealer {
            queue: self.queue.stealer(),
        }
    }

    /// Appends.
    #[inline]
    pub fn push(&self, token: T) {
        self.queue.push(token);
    }

    /// Takes the oldest.
    #[inline]
    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// How many there are; thieves may change it at once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// There is none; only the owner can change that.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl<T: Send> Default for RunQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send> fmt::Debug for RunQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunQueue({})", self.len())
    }
}

/// Other workers' end of a [`RunQueue`].
pub struct Stealer<T> {
    queue: crossbeam_deque::Stealer<T>,
}

impl<T: Send> Stealer<T> {
    /// Takes the oldest; `None` when there is none.
    #[must_use]
    pub fn steal(&self) -> Option<T> {
        // A retry means that the owner or another thief took one meanwhile, so this ends.
        loop {
            match self.queue.steal() {
                Steal::Success(token) => return Some(token),
                Steal::Empty => return None,
                Steal::Retry => std::hint::spin_loop(),
            }
        }
    }

    /// How many there were a moment ago.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// There was none a moment ago.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl<T> Clone for Stealer<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl<T> fmt::Debug for Stealer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stealer({})", self.queue.len())
    }
}

/// Tells those who give work to a worker whether it must be woken.
///
/// The worker: [`sleep_begin`](Self::sleep_begin), look into the inbox and every run queue it may
/// steal from once more, wait only if all are empty, [`sleep_end`](Self::sleep_end). The others:
/// first push, then wake the worker's reactor if [`needs_wake`](Self::needs_wake). Either the worker
/// sees the push when it looks again, or the pusher sees the flag.
pub struct SleepGate {
    sleeping: CachePadded<AtomicBool>,
}

impl SleepGate {
    /// The gate of a worker that is awake.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sleeping: CachePadded::new(AtomicBool::new(false)),
        }
    }

    /// The worker is about to wait. It must look for work once more after this.
    pub fn sleep_begin(&self) {
        // A swap and not a store: it is then certainly later than the swap of a waker that came before.
        self.sleeping.swap(true, Ordering::Relaxed);
        // Orders the flag before the looks that follow, against the fence in `needs_wake`.
        fence(Ordering::SeqCst);
    }

    /// The worker waits no more, or did not wait after all. A wake-up may still be under way; it then
    /// ends the next wait at once, which does no harm.
    pub fn sleep_end(&self) {
        // Only ever a hint in this direction: a stale true costs one needless wake-up.
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// The caller must wake the worker. Of several callers one is told so for each sleep. Call it
    /// after the work was pushed.
    #[must_use]
    pub fn needs_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed)
    }

    /// The worker was waiting a moment ago; to choose one to be woken.
    #[must_use]
    pub fn is_sleeping(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed)
    }
}

impl Default for SleepGate {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SleepGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_sleeping() {
            "SleepGate(sleeping)"
        } else {
            "SleepGate(awake)"
        })
    }
}

/// Messages to one worker from any thread, in the order of their pushes.
pub struct Inbox<T> {
    queue: crossbeam_queue::SegQueue<T>,
}

impl<T> Inbox<T> {
    /// An empty inbox; holds no memory until used.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue: crossbeam_queue::SegQueue::new(),
        }
    }

    /// Appends. The worker is then woken if its [`SleepGate`] says so.
    pub fn push(&self, message: T) {
        self.queue.push(message);
    }

    /// Takes the oldest.
    #[must_use]
    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// There was none a moment ago.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many there were a moment ago.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbox({})", self.len())
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
