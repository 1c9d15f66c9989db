//! One worker's epoll set: registrations, the ready list, and what a wait takes from it.
//!
//! This follows the kernel's `eventpoll` step by step: a registration is put on the ready list by a
//! wake-up whose key meets its mask; only a wait looks at what the socket is really ready for, drops
//! what is not, disarms one-shots, and puts level-triggered ones back.

use std::collections::VecDeque;

use crate::engine::reactor::{Interest, Ready, Tag};

/// Events that are always in a mask.
const ALWAYS: u8 = Ready::HUP.0 | Ready::ERROR.0;

/// How often a registration reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    Level,
    Edge,
    Once,
}

/// One registration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registration {
    pub(super) tag: Tag,
    /// What it waits for; 0 is a one-shot that fired.
    pub(super) mask: u8,
    pub(super) trigger: Trigger,
    pub(super) exclusive: bool,
    /// On the ready list.
    queued: bool,
    /// Tells this registration from an earlier one of the same number.
    serial: u32,
}

impl Registration {
    fn set(&mut self, tag: Tag, interest: Interest) {
        let read = Ready::READ.0 | Ready::READ_CLOSED.0;
        let (mask, trigger) = match interest {
            Interest::Silent => (0, Trigger::Once),
            Interest::ReadOnce => (read, Trigger::Once),
            Interest::Edge { write: false } => (read, Trigger::Edge),
            Interest::Edge { write: true } => (read | Ready::WRITE.0, Trigger::Edge),
            Interest::Listen => (Ready::READ.0, Trigger::Level),
        };
        self.tag = tag;
        self.mask = mask | ALWAYS;
        self.trigger = trigger;
        self.exclusive = interest == Interest::Listen;
    }
}

/// Registrations and ready list of one worker, and whether it sleeps.
#[derive(Debug, Default)]
pub(super) struct Set {
    registrations: Vec<Option<Registration>>,
    ready: VecDeque<(i32, u32)>,
    serial: u32,
    /// [`Remote::wake`](crate::engine::reactor::Remote::wake) was called.
    pub(super) woken: bool,
    /// When the wait that found nothing ends; `None` while the worker runs.
    pub(super) sleeps_until: Option<u64>,
    /// Waits since time last moved.
    pub(super) waits_now: u32,
}

impl Set {
    pub(super) fn get(&self, fd: i32) -> Option<&Registration> {
        self.registrations.get(fd as usize)?.as_ref()
    }

    /// Registers; false when it is registered already.
    pub(super) fn insert(&mut self, fd: i32, tag: Tag, interest: Interest) -> bool {
        let at = fd as usize;
        if self.registrations.len() <= at {
            self.registrations.resize(at + 1, None);
        }
        if self.registrations[at].is_some() {
            return false;
        }
        self.serial += 1;
        let mut registration = Registration {
            tag,
            mask: 0,
            trigger: Trigger::Once,
            exclusive: false,
            queued: false,
            serial: self.serial,
        };
        registration.set(tag, interest);
        self.registrations[at] = Some(registration);
        true
    }

    /// Changes; false when it is not registered.
    pub(super) fn change(&mut self, fd: i32, tag: Tag, interest: Interest) -> bool {
        let found = self.registrations.get_mut(fd as usize);
        match found.and_then(Option::as_mut) {
            Some(registration) => {
                registration.set(tag, interest);
                true
            }
            None => false,
        }
    }

    /// Ends a registration; false when there is none.
    pub(super) fn delete(&mut self, fd: i32) -> bool {
        self.registrations
            .get_mut(fd as usize)
            .is_some_and(|slot| slot.take().is_some())
    }

    /// A wake-up of the socket with `key` (0: of any kind).
    pub(super) fn wake(&mut self, fd: i32, key: u8) {
        let found = self.registrations.get_mut(fd as usize);
        if let Some(registration) = found.and_then(Option::as_mut)
            && registration.mask != 0
            && (key == 0 || key & registration.mask != 0)
            && !registration.queued
        {
            registration.queued = true;
            self.ready.push_back((fd, registration.serial));
        }
    }

    /// Registrations there are, in the order of their numbers.
    pub(super) fn registered(&self) -> impl Iterator<Item = i32> + '_ {
        let used = |(fd, slot): (usize, &Option<Registration>)| slot.map(|_| fd as i32);
        self.registrations.iter().enumerate().filter_map(used)
    }

    /// Numbers the table has room for.
    pub(super) fn capacity(&self) -> usize {
        self.registrations.len()
    }

    /// Entries of the ready list, stale ones too.
    pub(super) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// Number and mask of an entry of the ready list; `None` for a stale one.
    pub(super) fn ready_at(&self, at: usize) -> Option<(i32, u8)> {
        let (fd, serial) = *self.ready.get(at)?;
        let registration = self.get(fd)?;
        (registration.serial == serial).then_some((fd, registration.mask))
    }

    /// Brings the ready list into another order: `choose(n)` gives a number below n.
    pub(super) fn shuffle(&mut self, mut choose: impl FnMut(usize) -> usize) {
        let ready = self.ready.make_contiguous();
        for i in (1..ready.len()).rev() {
            ready.swap(i, choose(i + 1));
        }
    }

    /// Takes the first of the ready list; `None` in place of a stale entry.
    pub(super) fn pop(&mut self) -> Option<i32> {
        let (fd, serial) = self.ready.pop_front()?;
        let found = self.registrations.get_mut(fd as usize);
        match found.and_then(Option::as_mut) {
            Some(registration) if registration.serial == serial => {
                registration.queued = false;
                Some(fd)
            }
            _ => None,
        }
    }

    /// What a popped registration reports when its socket is ready for `polled`.
    pub(super) fn report(&mut self, fd: i32, polled: u8) -> Option<(Tag, Ready)> {
        let registration = self.registrations.get_mut(fd as usize)?.as_mut()?;
        let ready = polled & registration.mask;
        if ready == 0 {
            return None;
        }
        match registration.trigger {
            Trigger::Once => registration.mask = 0,
            Trigger::Edge => {}
            Trigger::Level => {
                registration.queued = true;
                self.ready.push_back((fd, registration.serial));
            }
        }
        Some((registration.tag, Ready(ready)))
    }
}
