//! The read arena: where a worker's sockets are read into during one turn.
//!
//! One region per worker. Each read goes to the tail and stays where it is until the flush at the
//! turn's end, so that bytes can pass from one socket to another without a copy. The region is mapped
//! with the first read and takes memory only for what was read at most in one turn. Nothing in it
//! outlives the turn: what must, is copied into chunks first.

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;

use super::mem;

/// Bytes of an arena unless said otherwise.
pub const DEFAULT_BYTES: usize = 256 * 1024;

/// Bytes that were read in this turn. It means nothing after [`Arena::reset`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
}

impl Span {
    /// Offset behind the last byte.
    #[must_use]
    pub fn end(self) -> u32 {
        self.start + self.len
    }

    /// There is no byte in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// The arena; see the module.
pub struct Arena {
    /// `size` initialised bytes, once mapped.
    base: Option<NonNull<u8>>,
    size: usize,
    used: usize,
    /// Most that was in use since the last release.
    high: usize,
}

// SAFETY: an arena owns its mapping alone, and it can be used and unmapped on any thread.
unsafe impl Send for Arena {}

impl Arena {
    /// An arena of `size` bytes, rounded up to pages of the system; holds no memory until used.
    ///
    /// # Panics
    /// When `size` is 0 or does not fit an offset of 32 bits.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let size = size.next_multiple_of(mem::OS_PAGE);
        assert!(size > 0 && u32::try_from(size).is_ok(), "size of an arena");
        Self {
            base: None,
            size,
            used: 0,
            high: 0,
        }
    }

    /// Bytes it can take in one turn.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes taken in this turn.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// Bytes it can still take in this turn. When that is little, flush and reset.
    #[must_use]
    pub fn room(&self) -> usize {
        self.size - self.used
    }

    /// The free end, to be read into and then [`commit`](Self::commit)ted.
    #[inline]
    pub fn tail_mut(&mut self) -> &mut [u8] {
        self.map();
        let used = self.used;
        &mut self.memory_mut()[used..]
    }

    /// Takes the first `n` bytes of the tail into use.
    ///
    /// # Panics
    /// When the tail is shorter.
    #[inline]
    pub fn commit(&mut self, n: usize) -> Span {
        assert!(n <= self.room(), "more committed than there was room");
        // Both are at most `size`, which fits.
        #[allow(clippy::cast_possible_truncation)]
        let span = Span {
            start: self.used as u32,
            len: n as u32,
        };
        self.used += n;
        self.high = self.high.max(self.used);
        span
    }

    /// Gives the end of what is in use back to the tail, down to `span`'s end: for the last read of
    /// this turn when its bytes were consumed or copied. Nothing happens when something came after.
    pub fn uncommit(&mut self, span: Span) {
        if span.end() as usize == self.used {
            self.used = span.start as usize;
        }
    }

    /// The bytes of a span.
    ///
    /// # Panics
    /// When the span is not of this turn and lies beyond what is in use.
    #[must_use]
    #[inline]
    pub fn get(&self, span: Span) -> &[u8] {
        &self.memory()[..self.used][span.range()]
    }

    /// The bytes of a span, and the tail to read or write more while they are looked at.
    ///
    /// # Panics
    /// As [`get`](Self::get).
    #[inline]
    pub fn split(&mut self, span: Span) -> (&[u8], &mut [u8]) {
        self.map();
        let used = self.used;
        let (taken, tail) = self.memory_mut().split_at_mut(used);
        (&taken[span.range()], tail)
    }

    /// Ends the turn: everything is tail again. The memory stays.
    #[inline]
    pub fn reset(&mut self) {
        self.used = 0;
    }

    /// Ends the turn and gives the memory back to the system; for a worker that has long been idle.
    pub fn release(&mut self) {
        self.used = 0;
        if let Some(base) = self.base.filter(|_| self.high > 0) {
            // SAFETY: the whole mapping, which nobody refers to while `self` is borrowed mutably.
            unsafe { mem::discard(base, self.size) };
        }
        self.high = 0;
    }

    /// Bytes of memory it holds: whole pages up to the most that was in use since the last
    /// [`release`](Self::release). What is written to the tail and not committed is not seen.
    #[must_use]
    pub fn touched(&self) -> usize {
        self.high.next_multiple_of(mem::OS_PAGE)
    }

    #[inline]
    fn map(&mut self) {
        if self.base.is_none() {
            self.base = Some(map_or_abort(self.size));
        }
    }

    fn memory(&self) -> &[u8] {
        match self.base {
            // SAFETY: `size` bytes are mapped there, zeroed, and owned by the arena.
            Some(base) => unsafe { std::slice::from_raw_parts(base.as_ptr(), self.size) },
            None => &[],
        }
    }

    fn memory_mut(&mut self) -> &mut [u8] {
        match self.base {
            // SAFETY: as in `memory`, and the arena is borrowed mutably.
            Some(base) => unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), self.size) },
            None => &mut [],
        }
    }
}

#[cold]
fn map_or_abort(size: usize) -> NonNull<u8> {
    match (mem::map(size), Layout::from_size_align(size, mem::OS_PAGE)) {
        (Some(base), _) => base,
        (None, Ok(layout)) => handle_alloc_error(layout),
        (None, Err(_)) => unreachable!("a size below 2^32"),
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new(DEFAULT_BYTES)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(base) = self.base {
            // SAFETY: made by `map` with this size; the arena is gone.
            unsafe { mem::unmap(base, self.size) };
        }
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arena({} of {})", self.used, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mapped_before_the_first_read() {
        let mut arena = Arena::default();
        assert_eq!((arena.room(), arena.touched()), (DEFAULT_BYTES, 0));
        assert!(arena.base.is_none());
        assert_eq!(arena.get(Span::default()), b"");
        arena.reset();
        arena.release();
        assert!(arena.base.is_none());
        assert_eq!(arena.tail_mut().len(), DEFAULT_BYTES);
    }

    #[test]
    fn spans_stay_until_the_turn_ends() {
        let mut arena = Arena::new(10_000);
        assert_eq!(arena.size(), 12_288);
        arena.tail_mut()[..5].copy_from_slice(b"hello");
        let hello = arena.commit(5);
        arena.tail_mut()[..6].copy_from_slice(b" world");
        let world = arena.commit(6);
        assert_eq!(arena.get(hello), b"hello");
        let (bytes, tail) = arena.split(world);
        assert_eq!(bytes, b" world");
        tail[0] = b'!';
        assert_eq!(tail.len(), 12_288 - 11);
        let mark = arena.commit(1);
        assert_eq!(
            arena.get(Span {
                start: 0,
                len: mark.end()
            }),
            b"hello world!"
        );
        arena.uncommit(hello);
        assert_eq!(arena.used(), 12);
        arena.uncommit(mark);
        assert_eq!(arena.used(), 11);
        arena.reset();
        assert_eq!(arena.room(), 12_288);
        assert_eq!(arena.touched(), mem::OS_PAGE);
    }

    #[test]
    fn memory_goes_back_and_comes_again() {
        let size = 2 * mem::OS_PAGE;
        let mut arena = Arena::new(size);
        arena.tail_mut().fill(1);
        let all = arena.commit(size);
        assert_eq!((arena.room(), arena.touched()), (0, size));
        assert!(arena.tail_mut().is_empty());
        assert!(arena.get(all).iter().all(|byte| *byte == 1));
        arena.release();
        assert_eq!((arena.room(), arena.touched()), (size, 0));
        assert!(arena.tail_mut().iter().all(|byte| *byte == 0));
    }

    #[test]
    #[should_panic(expected = "room")]
    fn a_commit_beyond_the_room_is_a_bug() {
        let mut arena = Arena::new(4096);
        arena.commit(4097);
    }

    #[test]
    #[should_panic(expected = "range end")]
    fn a_span_of_a_former_turn_is_a_bug() {
        let mut arena = Arena::new(4096);
        arena.tail_mut();
        let span = arena.commit(10);
        arena.reset();
        let _ = arena.get(span);
    }
}
