//! Timers of one worker: a hierarchical timing wheel of intrusive lists.
//!
//! A timer is a [`TimerLink`] of 12 bytes inside the record it belongs to; the wheel itself is at
//! most 2 KiB, whatever the number of timers. Scheduling and cancelling are O(1). The tick is a
//! millisecond. Level `n` has 64 buckets of 64^n ms; a timer sits at the level of the highest digit
//! (base 64) in which its due time differs from the wheel's, and sinks one or more levels when the
//! wheel reaches its bucket. So the lowest level that is not empty always holds the next timers, and
//! time without any is skipped in one step.
//!
//! Nothing here knows what a timer means. A deadline that only moves away is not rescheduled by the
//! owner: it lets the timer fire and schedules the rest. A record must be cancelled before its slot
//! is freed or its index changes, and a linked [`TimerLink`] must not be overwritten or moved.

use std::fmt;

/// Bits of a digit.
const DIGIT: u32 = 6;
const BUCKETS: usize = 1 << DIGIT;
const LEVELS: usize = 7;
/// Last millisecond the wheel knows, counted from its start: 139 years. The most that a coarse `due`
/// can say, and less than the levels span.
const END: u64 = u32::MAX as u64 * 1024;
const _: () = assert!(END < 1 << (DIGIT * LEVELS as u32));
/// List of the timers that are due. Numbered after the buckets.
const DUE: u32 = (LEVELS * BUCKETS) as u32;

/// In `prev`: this is the first of a list, whose number is in the other bits.
const FIRST: u32 = 1 << 31;
/// In `prev`: not scheduled.
const UNLINKED: u32 = u32::MAX;
/// In `next`: `due` counts units of 1024 ms.
const COARSE: u32 = 1 << 31;
/// In `next`: the last of its list. As a head: an empty list.
const NONE: u32 = COARSE - 1;

/// A record's place in the wheel. The default is not scheduled.
pub struct TimerLink {
    prev: u32,
    next: u32,
    due: u32,
}

const _: () = assert!(size_of::<TimerLink>() == 12);

impl TimerLink {
    /// It is in a wheel.
    #[must_use]
    #[inline]
    pub fn is_scheduled(&self) -> bool {
        self.prev != UNLINKED
    }
}

impl Default for TimerLink {
    fn default() -> Self {
        Self {
            prev: UNLINKED,
            next: NONE,
            due: 0,
        }
    }
}

impl fmt::Debug for TimerLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_scheduled() {
            "TimerLink(scheduled)"
        } else {
            "TimerLink(idle)"
        })
    }
}

/// Where the wheel finds the links of the indices it was given.
pub trait TimerStore {
    /// The link of a record. The wheel asks only for indices that are scheduled, or being scheduled.
    fn link(&mut self, index: u32) -> &mut TimerLink;
}

/// The wheel; see the module. Indices are below 2^31 - 1.
pub struct Wheel {
    /// Clock at the start; the wheel counts from there.
    origin: u64,
    /// All timers due before this are expired or in the due list.
    now: u64,
    /// Bit per bucket that is not empty.
    occupied: [u64; LEVELS],
    /// First of each bucket's list; made with the first timer.
    heads: Option<Box<[u32; LEVELS * BUCKETS]>>,
    /// First of the due list.
    due: u32,
    /// A bucket whose timers are sinking. Nothing below it is reached before it is empty.
    sinking: Option<u32>,
    len: usize,
}

impl Wheel {
    /// A wheel that starts at `now_ms` of the caller's clock; holds no memory until used.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self {
            origin: now_ms,
            now: 0,
            occupied: [0; LEVELS],
            heads: None,
            due: NONE,
            sinking: None,
            len: 0,
        }
    }

    /// Number of scheduled timers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing is scheduled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The link is in a wheel.
    #[must_use]
    #[inline]
    pub fn is_scheduled(link: &TimerLink) -> bool {
        link.is_scheduled()
    }

    /// When a scheduled link fires, on the caller's clock. A due time that had passed when it was
    /// scheduled reads as that moment's; one more than 49 days away is rounded up to 1024 ms.
    #[must_use]
    pub fn due(&self, link: &TimerLink) -> Option<u64> {
        link.is_scheduled().then(|| self.origin + self.decode(link))
    }

    /// Schedules a record, which may be scheduled already. A due time that has passed fires with the
    /// next [`expire`](Self::expire); one beyond 139 years fires then; one more than 2^32 ms (49
    /// days) away fires up to 1024 ms late; every other fires in its millisecond.
    pub fn schedule(&mut self, store: &mut impl TimerStore, index: u32, due_ms: u64) {
        debug_assert!(index < NONE);
        if store.link(index).is_scheduled() {
            self.unlink(store, index);
        }
        let due = due_ms.saturating_sub(self.origin).clamp(self.now, END);
        self.place(store, index, due);
    }

    /// Takes a record out of the wheel; nothing happens when it is not in.
    pub fn cancel(&mut self, store: &mut impl TimerStore, index: u32) {
        if store.link(index).is_scheduled() {
            self.unlink(store, index);
        }
    }

    /// When [`expire`](Self::expire) has something to do next, `None` when nothing is scheduled. No
    /// timer fires earlier. Exact within the next 64 ms; further away it may be the moment at which
    /// timers sink to a lower level.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        if self.due != NONE || self.sinking.is_some() {
            return Some(self.origin + self.now);
        }
        self.next_bucket().map(|(_, at)| self.origin + at)
    }

    /// Takes timers that are due at `now_ms` out of the wheel and appends them, earlier milliseconds
    /// first. Touches at most `max` timers, those that only sink included; returns whether it has to
    /// be called again at the same time.
    pub fn expire(
        &mut self,
        store: &mut impl TimerStore,
        now_ms: u64,
        out: &mut Vec<u32>,
        max: usize,
    ) -> bool {
        let now = now_ms.saturating_sub(self.origin).min(END).max(self.now);
        let mut left = max;
        loop {
            while self.due != NONE {
                if left == 0 {
                    return true;
                }
                left -= 1;
                let index = self.due;
                self.unlink(store, index);
                out.push(index);
            }
            if let Some(list) = self.sinking {
                while let Some(index) = self.head(list) {
                    if left == 0 {
                        return true;
                    }
                    left -= 1;
                    let due = self.decode(store.link(index));
                    self.unlink(store, index);
                    self.place(store, index, due);
                }
                self.sinking = None;
                continue;
            }
            match self.next_bucket() {
                Some((list, at)) if at <= now => {
                    self.now = at;
                    if (list as usize) < BUCKETS {
                        self.bucket_is_due(store, list);
                    } else {
                        self.sinking = Some(list);
                    }
                }
                _ => {
                    self.now = now;
                    return false;
                }
            }
        }
    }

    /// The bucket the wheel reaches next, and when.
    fn next_bucket(&self) -> Option<(u32, u64)> {
        let level = self.occupied.iter().position(|bits| *bits != 0)?;
        let bucket = self.occupied[level].trailing_zeros();
        // All buckets of a level that are in use lie in the turn of it that the wheel is in.
        let shift = DIGIT * level as u32;
        let turn = self.now >> (shift + DIGIT) << (shift + DIGIT);
        Some((
            level as u32 * BUCKETS as u32 + bucket,
            turn | u64::from(bucket) << shift,
        ))
    }

    /// Makes a whole bucket of the lowest level the due list, which is empty.
    fn bucket_is_due(&mut self, store: &mut impl TimerStore, list: u32) {
        debug_assert_eq!(self.due, NONE);
        if let Some(index) = self.head(list) {
            store.link(index).prev = FIRST | DUE;
            self.due = index;
        }
        self.set_head(list, NONE);
    }

    /// Links a record by its due time, which is not before the wheel's.
    fn place(&mut self, store: &mut impl TimerStore, index: u32, due: u64) {
        let differs = due ^ self.now;
        let list = if differs == 0 {
            DUE
        } else {
            let level = differs.ilog2() / DIGIT;
            level * BUCKETS as u32 + (due >> (DIGIT * level)) as u32 % BUCKETS as u32
        };
        let first = self.head(list).unwrap_or(NONE);
        if first != NONE {
            store.link(first).prev = index;
        }
        let link = store.link(index);
        link.prev = FIRST | list;
        link.next = first;
        if due - self.now <= u64::from(u32::MAX) {
            #[allow(clippy::cast_possible_truncation)] // The rest is told by the wheel's time.
            let low = due as u32;
            link.due = low;
        } else {
            #[allow(clippy::cast_possible_truncation)] // By the choice of `END`.
            let coarse = due.div_ceil(1024) as u32;
            link.due = coarse;
            link.next |= COARSE;
        }
        self.set_head(list, index);
        self.len += 1;
    }

    fn unlink(&mut self, store: &mut impl TimerStore, index: u32) {
        let link = store.link(index);
        let (prev, next) = (link.prev, link.next & NONE);
        *link = TimerLink::default();
        if next != NONE {
            store.link(next).prev = prev;
        }
        if prev & FIRST != 0 {
            self.set_head(prev & !FIRST, next);
        } else {
            let before = store.link(prev);
            before.next = before.next & COARSE | next;
        }
        self.len -= 1;
    }

    /// Due time of a linked timer.
    fn decode(&self, link: &TimerLink) -> u64 {
        if link.next & COARSE != 0 {
            return u64::from(link.due) * 1024;
        }
        // The one value with these low bits in the 2^32 ms from now on.
        #[allow(clippy::cast_possible_truncation)]
        let ahead = link.due.wrapping_sub(self.now as u32);
        self.now + u64::from(ahead)
    }

    fn head(&self, list: u32) -> Option<u32> {
        let first = if list == DUE {
            self.due
        } else {
            self.heads
                .as_ref()
                .map_or(NONE, |heads| heads[list as usize])
        };
        (first != NONE).then_some(first)
    }

    fn set_head(&mut self, list: u32, first: u32) {
        if list == DUE {
            self.due = first;
            return;
        }
        let (level, bit) = (list as usize / BUCKETS, 1u64 << (list as usize % BUCKETS));
        let heads = self
            .heads
            .get_or_insert_with(|| Box::new([NONE; LEVELS * BUCKETS]));
        heads[list as usize] = first;
        if first == NONE {
            self.occupied[level] &= !bit;
        } else {
            self.occupied[level] |= bit;
        }
    }
}

impl fmt::Debug for Wheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("len", &self.len)
            .field("next_due", &self.next_due())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
