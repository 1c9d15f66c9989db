//! A sparse array that one thread grows while others read it.
//!
//! Two levels of lazily allocated pages below a small root, so an empty table costs almost nothing
//! and an entry never moves. It must never block a reader, and a lookup must never allocate.

use std::fmt;
use std::sync::OnceLock;

/// Pages in a directory.
const FANOUT: usize = 256;
/// Directories in the root.
const ROOTS: usize = 32;

type Page<T, const PAGE: usize> = Box<[T; PAGE]>;
type Directory<T, const PAGE: usize> = Box<[OnceLock<Page<T, PAGE>>; FANOUT]>;

/// Entries by number, `PAGE` of them to a page.
pub(crate) struct Table<T, const PAGE: usize> {
    roots: [OnceLock<Directory<T, PAGE>>; ROOTS],
}

impl<T: Default, const PAGE: usize> Table<T, PAGE> {
    /// Number of entries a table can hold; higher numbers have no entry.
    pub(crate) const CAPACITY: usize = PAGE * FANOUT * ROOTS;

    /// The entry, when its page was ever touched.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (root, directory, entry) = Self::split(index)?;
        Some(&self.roots[root].get()?[directory].get()?[entry])
    }

    /// The entry; its page is allocated when this is the first touch. `None` beyond
    /// [`CAPACITY`](Self::CAPACITY).
    #[inline]
    pub(crate) fn touch(&self, index: u32) -> Option<&T> {
        match self.get(index) {
            Some(entry) => Some(entry),
            None => self.grow(index),
        }
    }

    #[cold]
    fn grow(&self, index: u32) -> Option<&T> {
        let (root, directory, entry) = Self::split(index)?;
        let pages =
            self.roots[root].get_or_init(|| Box::new(std::array::from_fn(|_| OnceLock::new())));
        let page = pages[directory].get_or_init(|| Box::new(std::array::from_fn(|_| T::default())));
        Some(&page[entry])
    }

    #[inline]
    fn split(index: u32) -> Option<(usize, usize, usize)> {
        let index = index as usize;
        let page = index / PAGE;
        let root = page / FANOUT;
        (root < ROOTS).then_some((root, page % FANOUT, index % PAGE))
    }

    /// Bytes of pages and directories allocated, without what entries own.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.roots
            .iter()
            .filter_map(OnceLock::get)
            .map(|pages| {
                let used = pages.iter().filter(|page| page.get().is_some()).count();
                size_of::<[OnceLock<Page<T, PAGE>>; FANOUT]>() + used * size_of::<[T; PAGE]>()
            })
            .sum()
    }

    /// All entries whose page was touched.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &T> {
        self.roots
            .iter()
            .filter_map(OnceLock::get)
            .flat_map(|pages| pages.iter().filter_map(OnceLock::get))
            .flat_map(|page| page.iter())
    }
}

impl<T, const PAGE: usize> Default for Table<T, PAGE> {
    fn default() -> Self {
        Self {
            roots: [const { OnceLock::new() }; ROOTS],
        }
    }
}

impl<T, const PAGE: usize> fmt::Debug for Table<T, PAGE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn pages_come_with_the_first_touch_and_stay() {
        let table: Table<AtomicU64, 16> = Table::default();
        assert!(table.get(40).is_none());
        assert_eq!(table.heap_bytes(), 0);
        table.touch(40).unwrap().store(7, Ordering::Relaxed);
        assert_eq!(table.get(40).unwrap().load(Ordering::Relaxed), 7);
        assert_eq!(table.get(47).unwrap().load(Ordering::Relaxed), 0);
        assert!(table.get(48).is_none());
        assert_eq!(table.entries().count(), 16);
    }

    #[test]
    fn numbers_beyond_the_capacity_have_no_entry() {
        let table: Table<AtomicU64, 16> = Table::default();
        let last = Table::<AtomicU64, 16>::CAPACITY as u32 - 1;
        assert!(table.touch(last).is_some());
        assert!(table.touch(last + 1).is_none());
        assert!(table.touch(u32::MAX).is_none());
    }
}
