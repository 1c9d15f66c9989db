//! A paged slab: slots that never move, and memory that goes back when they empty.
//!
//! A worker keeps its parked and resident connections here. Pages are taken from the system one at a
//! time and hold at most 16 KiB; growing adds a page and copies no value, so a million connections
//! arriving cause no pause. The lowest free index is used first, so that after a burst the upper
//! pages empty, and an empty page is unmapped (one is kept, so that a slot that comes and goes at a
//! page boundary costs no system call each time).
//!
//! A value must never be reached by an index that was kept across its removal without comparing the
//! generation: use [`Key`] and the `*_key` methods for anything that outlives the current turn.

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ptr::NonNull;

use super::mem;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 16 * 1024;

/// Indices stay below this, so that a tag has a bit left for the side of a pair.
const INDEX_END: usize = 1 << 31;

/// Empty pages that are kept: what is busy empties and refills its pages all the time, and must not
/// call the kernel for it.
const SPARE_PAGES: usize = 8;

/// Most slots of a page, however small a value is; bounds the search of a page's bitmap.
const MAX_SLOTS: usize = 2048;

/// Names one value in one slab, for as long as it stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Slot; below 2^31.
    pub index: u32,
    /// Which of the values that lived in the slot. Never 0. One counter serves the whole slab, so the
    /// same pair comes again only after 2^32 inserts.
    pub generation: u32,
}

/// A page: a bitmap of the slots in use, a generation per slot (0: vacant), then the values. All
/// zeroes is a valid empty page, which is what the system hands out.
type Page = NonNull<u64>;

/// Slab of `T` in pages; see the module.
pub struct PagedSlab<T> {
    /// Page by number; `None` where a page emptied and went back.
    pages: Vec<Option<Page>>,
    /// Bit per page number below `pages.len()`, set when an insert can go there (free slot, or no
    /// memory yet).
    room: BitTree,
    /// An empty page kept for the next growth.
    /// Empty pages kept for the next inserts, at most [`SPARE_PAGES`].
    spare: Vec<Page>,
    /// Mapped pages that hold a value.
    live_pages: usize,
    len: usize,
    /// Generation of the last insert.
    generation: u32,
    _owns: PhantomData<T>,
}

// SAFETY: the slab owns its pages and values alone; nothing about them is tied to a thread.
unsafe impl<T: Send> Send for PagedSlab<T> {}
// SAFETY: a shared slab hands out only shared references.
unsafe impl<T: Sync> Sync for PagedSlab<T> {}

impl<T> PagedSlab<T> {
    /// Slots of a page.
    const SLOTS: usize = {
        assert!(
            align_of::<T>() <= mem::OS_PAGE,
            "alignment beyond a page of the system"
        );
        let mut n = PAGE_BYTES / (size_of::<T>() + size_of::<u32>());
        if n > MAX_SLOTS {
            n = MAX_SLOTS;
        }
        while n > 0 && Self::values_at(n) + n * size_of::<T>() > PAGE_BYTES {
            n -= 1;
        }
        assert!(n > 0, "a value larger than a page");
        n
    };
    const WORDS: usize = Self::SLOTS.div_ceil(64);
    const VALUES_AT: usize = Self::values_at(Self::SLOTS);

    const fn values_at(slots: usize) -> usize {
        (slots.div_ceil(64) * size_of::<u64>() + slots * size_of::<u32>())
            .next_multiple_of(align_of::<T>())
    }

    /// An empty slab; holds no memory.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pages: Vec::new(),
            room: BitTree::default(),
            spare: Vec::new(),
            live_pages: 0,
            len: 0,
            generation: 0,
            _owns: PhantomData,
        }
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// No value is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Pages that hold a value.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.live_pages
    }

    /// Bytes held: pages, the spare ones too, and the tables that find them. Upper bound of what is
    /// resident, since a page that was never touched costs nothing.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (self.live_pages + self.spare.len()) * PAGE_BYTES + self.table_bytes()
    }

    /// Bytes of the tables that find the pages.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        self.pages.capacity() * size_of::<Option<Page>>()
            + self.spare.capacity() * size_of::<Page>()
            + self.room.bytes()
    }

    /// Puts a value into the lowest free slot.
    ///
    /// # Panics
    /// When 2^31 slots are in use.
    pub fn insert(&mut self, value: T) -> Key {
        let number = match self.room.first() {
            Some(number) => number,
            None => {
                let number = self.pages.len();
                assert!((number + 1) * Self::SLOTS <= INDEX_END, "slab is full");
                self.pages.push(None);
                self.room.set(number);
                number
            }
        };
        let page = match self.pages[number] {
            Some(page) => page,
            None => {
                let page = self.spare.pop().unwrap_or_else(new_page);
                self.pages[number] = Some(page);
                self.live_pages += 1;
                page
            }
        };
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        // SAFETY: `page` is a live page of ours and `self` is borrowed mutably.
        let taken = unsafe { Self::taken_mut(page) };
        let slot = lowest_clear(taken);
        assert!(slot < Self::SLOTS, "a page in the tree of room has room");
        taken[slot / 64] |= 1 << (slot % 64);
        if lowest_clear(taken) >= Self::SLOTS {
            self.room.clear(number);
        }
        // SAFETY: `slot` is below `SLOTS`, so both places lie in the page; the slot is vacant.
        unsafe {
            Self::generation_at(page, slot).write(self.generation);
            Self::value_at(page, slot).write(value);
        }
        self.len += 1;
        // Below 2^31, checked when the page number was made.
        #[allow(clippy::cast_possible_truncation)]
        let index = (number * Self::SLOTS + slot) as u32;
        Key {
            index,
            generation: self.generation,
        }
    }

    /// Takes a value out. The slot is free for the next insert; a page that this empties is unmapped.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let (page, slot) = self.find(index)?;
        let number = index as usize / Self::SLOTS;
        // SAFETY: `find` gives only slots that hold a value; it is read once, and marked vacant.
        let value = unsafe {
            Self::generation_at(page, slot).write(0);
            Self::value_at(page, slot).read()
        };
        // SAFETY: a live page of ours, and `self` is borrowed mutably.
        let taken = unsafe { Self::taken_mut(page) };
        taken[slot / 64] &= !(1 << (slot % 64));
        let empty = taken.iter().all(|word| *word == 0);
        self.len -= 1;
        self.room.set(number);
        if empty {
            self.release(number);
        }
        Some(value)
    }

    /// Gives the spare pages back: nothing is expected to come soon.
    pub fn trim(&mut self) {
        for page in std::mem::take(&mut self.spare) {
            // SAFETY: made by `new_page`, holds no value, and is in no table any more.
            unsafe { mem::unmap(page.cast(), PAGE_BYTES) };
        }
    }

    /// Takes the memory away from an empty page, and forgets page numbers at the end of the table.
    fn release(&mut self, number: usize) {
        if let Some(page) = self.pages[number].take() {
            self.live_pages -= 1;
            // An emptied page is all vacant again, so it can serve any page number as it is.
            if self.spare.len() < SPARE_PAGES {
                self.spare.push(page);
            } else {
                // SAFETY: made by `new_page`, holds no value, and is in no table any more.
                unsafe { mem::unmap(page.cast(), PAGE_BYTES) };
            }
        }
        while let Some(None) = self.pages.last() {
            self.pages.pop();
            self.room.clear(self.pages.len());
        }
        if self.pages.capacity() > 64 && self.pages.len() < self.pages.capacity() / 4 {
            self.pages.shrink_to(self.pages.len() * 2);
            self.room.shrink_to(self.pages.capacity());
        }
    }

    /// The value at an index.
    #[must_use]
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        let (page, slot) = self.find(index)?;
        // SAFETY: `find` gives only slots that hold a value; shared by the borrow of `self`.
        Some(unsafe { &*Self::value_at(page, slot) })
    }

    /// The value at an index, to be changed.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (page, slot) = self.find(index)?;
        // SAFETY: `find` gives only slots that hold a value; exclusive by the borrow of `self`.
        Some(unsafe { &mut *Self::value_at(page, slot) })
    }

    /// The key of the value at an index.
    #[must_use]
    #[inline]
    pub fn key(&self, index: u32) -> Option<Key> {
        let (page, slot) = self.find(index)?;
        // SAFETY: `slot` lies in the page.
        let generation = unsafe { Self::generation_at(page, slot).read() };
        Some(Key { index, generation })
    }

    /// The value that a key names, unless it was removed.
    #[must_use]
    #[inline]
    pub fn get_key(&self, key: Key) -> Option<&T> {
        let (page, slot) = self.find_key(key)?;
        // SAFETY: `find_key` gives only slots that hold a value; shared by the borrow of `self`.
        Some(unsafe { &*Self::value_at(page, slot) })
    }

    /// The value that a key names, to be changed, unless it was removed.
    #[inline]
    pub fn get_key_mut(&mut self, key: Key) -> Option<&mut T> {
        let (page, slot) = self.find_key(key)?;
        // SAFETY: `find_key` gives only slots that hold a value; exclusive by the borrow of `self`.
        Some(unsafe { &mut *Self::value_at(page, slot) })
    }

    /// The value that a key names is still here.
    #[must_use]
    #[inline]
    pub fn contains(&self, key: Key) -> bool {
        self.find_key(key).is_some()
    }

    /// The lowest index in use.
    #[must_use]
    pub fn first_index(&self) -> Option<u32> {
        self.index_from(0)
    }

    /// The lowest index in use that is above `after`; the slab may change between two steps of such a
    /// walk. `u32::MAX` starts from the beginning.
    #[must_use]
    pub fn next_index(&self, after: u32) -> Option<u32> {
        self.index_from(after.wrapping_add(1))
    }

    fn index_from(&self, from: u32) -> Option<u32> {
        let (first, slot) = (from as usize / Self::SLOTS, from as usize % Self::SLOTS);
        let mut floor = slot;
        for (number, page) in self.pages.iter().enumerate().skip(first) {
            if let Some(page) = page {
                // SAFETY: a live page of ours, shared by the borrow of `self`.
                let taken = unsafe { Self::taken(*page) };
                if let Some(slot) = lowest_set(taken, floor) {
                    #[allow(clippy::cast_possible_truncation)] // Below 2^31 by `insert`.
                    return Some((number * Self::SLOTS + slot) as u32);
                }
            }
            floor = 0;
        }
        None
    }

    /// All values by rising index.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, T> {
        Iter {
            slab: self,
            next: self.first_index(),
        }
    }

    /// All values by rising index, to be changed.
    pub fn iter_mut(&mut self) -> IterMut<'_, T> {
        IterMut {
            next: self.first_index(),
            slab: self,
        }
    }

    /// Page and slot of an index that holds a value.
    #[inline]
    fn find(&self, index: u32) -> Option<(Page, usize)> {
        let (number, slot) = (index as usize / Self::SLOTS, index as usize % Self::SLOTS);
        let page = (*self.pages.get(number)?)?;
        // SAFETY: `slot` lies in the page, and every generation in it is initialised (0 at first).
        let generation = unsafe { Self::generation_at(page, slot).read() };
        (generation != 0).then_some((page, slot))
    }

    /// Page and slot of the value that a key names. A vacant slot has generation 0, which no key of a
    /// value has; a made-up key with it finds nothing either.
    #[inline]
    fn find_key(&self, key: Key) -> Option<(Page, usize)> {
        let (page, slot) = self.find(key.index)?;
        // SAFETY: `slot` lies in the page.
        let generation = unsafe { Self::generation_at(page, slot).read() };
        (generation == key.generation).then_some((page, slot))
    }

    /// # Safety
    /// `page` is a page of this slab and stays it for `'a`, in which its bitmap does not change.
    unsafe fn taken<'a>(page: Page) -> &'a [u64] {
        // SAFETY: every page starts with `WORDS` words, zero at first.
        unsafe { std::slice::from_raw_parts(page.as_ptr(), Self::WORDS) }
    }

    /// # Safety
    /// As [`taken`](Self::taken), and nothing else refers to the bitmap for `'a`.
    unsafe fn taken_mut<'a>(page: Page) -> &'a mut [u64] {
        // SAFETY: every page starts with `WORDS` words, zero at first.
        unsafe { std::slice::from_raw_parts_mut(page.as_ptr(), Self::WORDS) }
    }

    /// # Safety
    /// `page` is a page of this slab and `slot` is below `SLOTS`.
    #[inline]
    unsafe fn generation_at(page: Page, slot: usize) -> *mut u32 {
        // SAFETY: `SLOTS` generations follow the bitmap, inside the page.
        unsafe { page.as_ptr().add(Self::WORDS).cast::<u32>().add(slot) }
    }

    /// # Safety
    /// `page` is a page of this slab and `slot` is below `SLOTS`.
    #[inline]
    unsafe fn value_at(page: Page, slot: usize) -> *mut T {
        // SAFETY: `SLOTS` values fit from `VALUES_AT` to the end of the page, aligned for `T`, since
        // a page starts at a page of the system.
        unsafe {
            page.as_ptr()
                .cast::<u8>()
                .add(Self::VALUES_AT)
                .cast::<T>()
                .add(slot)
        }
    }
}

impl<T> Default for PagedSlab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for PagedSlab<T> {
    fn drop(&mut self) {
        if std::mem::needs_drop::<T>() {
            let mut next = self.first_index();
            while let Some(index) = next {
                next = self.next_index(index);
                drop(self.remove(index));
            }
        }
        for page in self.pages.drain(..).flatten().chain(self.spare.drain(..)) {
            // SAFETY: made by `new_page`; its values are gone or need no drop.
            unsafe { mem::unmap(page.cast(), PAGE_BYTES) };
        }
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for PagedSlab<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn new_page() -> Page {
    match mem::map(PAGE_BYTES) {
        Some(page) => page.cast(),
        None => handle_alloc_error(Layout::new::<[u8; PAGE_BYTES]>()),
    }
}

/// Walk over a slab, made by [`PagedSlab::iter`].
pub struct Iter<'a, T> {
    slab: &'a PagedSlab<T>,
    next: Option<u32>,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = (u32, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next?;
        self.next = self.slab.next_index(index);
        Some((index, self.slab.get(index)?))
    }
}

impl<'a, T> IntoIterator for &'a PagedSlab<T> {
    type Item = (u32, &'a T);
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

/// Walk over a slab that can change values, made by [`PagedSlab::iter_mut`].
pub struct IterMut<'a, T> {
    slab: &'a mut PagedSlab<T>,
    next: Option<u32>,
}

impl<'a, T> Iterator for IterMut<'a, T> {
    type Item = (u32, &'a mut T);

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next?;
        self.next = self.slab.next_index(index);
        let (page, slot) = self.slab.find(index)?;
        // SAFETY: the slot holds a value; each index is given once, so the references do not overlap,
        // and the walk holds the slab for `'a`.
        Some((index, unsafe { &mut *PagedSlab::<T>::value_at(page, slot) }))
    }
}

impl<'a, T> IntoIterator for &'a mut PagedSlab<T> {
    type Item = (u32, &'a mut T);
    type IntoIter = IterMut<'a, T>;

    fn into_iter(self) -> IterMut<'a, T> {
        self.iter_mut()
    }
}

fn lowest_clear(words: &[u64]) -> usize {
    let word = words
        .iter()
        .position(|word| *word != u64::MAX)
        .unwrap_or(words.len());
    word * 64
        + words
            .get(word)
            .map_or(0, |bits| bits.trailing_ones() as usize)
}

fn lowest_set(words: &[u64], floor: usize) -> Option<usize> {
    let first = floor / 64;
    let mut mask = u64::MAX << (floor % 64);
    for (number, word) in words.iter().enumerate().skip(first) {
        let bits = word & mask;
        if bits != 0 {
            return Some(number * 64 + bits.trailing_zeros() as usize);
        }
        mask = u64::MAX;
    }
    None
}

/// A set of small numbers that finds its lowest in one step per level of 64: each word of a level
/// has a bit in the level above, set while the word is not zero.
#[derive(Default)]
struct BitTree {
    levels: Vec<Vec<u64>>,
}

impl BitTree {
    fn set(&mut self, number: usize) {
        let mut at = number;
        let mut level = 0;
        loop {
            if level == self.levels.len() {
                // A new top: it must know the words that are already below it.
                let below = level.checked_sub(1).map_or(0, |l| {
                    u64::from(self.levels[l].first().is_some_and(|word| *word != 0))
                });
                self.levels.push(vec![below]);
            }
            let words = &mut self.levels[level];
            if at / 64 >= words.len() {
                words.resize(at / 64 + 1, 0);
            }
            words[at / 64] |= 1 << (at % 64);
            if words.len() == 1 && level + 1 == self.levels.len() {
                return;
            }
            at /= 64;
            level += 1;
        }
    }

    fn clear(&mut self, number: usize) {
        let mut at = number;
        for words in &mut self.levels {
            let Some(word) = words.get_mut(at / 64) else {
                return;
            };
            *word &= !(1 << (at % 64));
            if *word != 0 {
                return;
            }
            at /= 64;
        }
    }

    fn first(&self) -> Option<usize> {
        let mut at = 0;
        for words in self.levels.iter().rev() {
            let word = *words.get(at)?;
            if word == 0 {
                return None;
            }
            at = at * 64 + word.trailing_zeros() as usize;
        }
        (!self.levels.is_empty()).then_some(at)
    }

    /// Gives memory back after numbers from `end` on are no longer used (all clear).
    fn shrink_to(&mut self, end: usize) {
        let mut words_needed = end.div_ceil(64);
        for words in &mut self.levels {
            words.truncate(words_needed);
            words.shrink_to_fit();
            words_needed = words_needed.div_ceil(64);
        }
        // A level above a single word says nothing that the word does not.
        while let [.., below, _] = &self.levels[..]
            && below.len() <= 1
        {
            self.levels.pop();
        }
    }

    fn bytes(&self) -> usize {
        self.levels.capacity() * size_of::<Vec<u64>>()
            + self
                .levels
                .iter()
                .map(|words| words.capacity() * 8)
                .sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
