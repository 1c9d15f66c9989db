//! Bytes that must be kept: chunks from a worker's pool, and queues of them.
//!
//! Only what a socket refused and the unfinished rest of a message lives here; what is merely passing
//! through stays in the read arena. Every byte of a chunk in use counts against one process-wide
//! [`Budget`], from [`ChunkPool::get`] until the chunk is put back or dropped, whichever worker does
//! it. A queue never grows on its own account: the owner compares its length with the connection's
//! watermark and the budget's pressure, and stops reading the source.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use super::mem;

/// How near the process is to its limit of buffered bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Below 75 %.
    Normal,
    /// From 75 %: watermarks shrink.
    Shrink,
    /// From 90 %: nothing is read for a writer that is full, and new requests are refused.
    Refuse,
    /// From 100 %: the largest holder is reset.
    Full,
}

/// Limit of the bytes buffered in the whole process, and how many are. One for all workers.
#[derive(Debug)]
pub struct Budget {
    used: CachePadded<AtomicUsize>,
    limit: usize,
    /// Bytes from which the pressure is [`Pressure::Shrink`], and [`Pressure::Refuse`].
    shrink: usize,
    refuse: usize,
}

impl Budget {
    /// A budget of `limit` bytes; `usize::MAX` is no limit.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            used: CachePadded::new(AtomicUsize::new(0)),
            limit,
            shrink: limit - limit / 4,
            refuse: limit - limit / 10,
        }
    }

    /// Bytes of the chunks in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes at which the pressure is [`Pressure::Full`].
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that may still be taken.
    #[must_use]
    pub fn left(&self) -> usize {
        self.limit.saturating_sub(self.used())
    }

    /// How near `used` is to the limit.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let used = self.used();
        if used < self.shrink {
            Pressure::Normal
        } else if used < self.refuse {
            Pressure::Shrink
        } else if used < self.limit {
            Pressure::Refuse
        } else {
            Pressure::Full
        }
    }

    // Only a sum is kept, and nothing else is published by it.
    fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more given back than taken");
    }
}

/// Bytes held elsewhere than in chunks, counted in a budget while this exists.
#[derive(Debug, Default)]
pub struct Charge {
    budget: Option<Arc<Budget>>,
    bytes: usize,
}

impl Charge {
    /// So many are held now.
    pub fn set(&mut self, budget: &Arc<Budget>, bytes: usize) {
        self.clear();
        budget.take(bytes);
        self.bytes = bytes;
        self.budget = Some(Arc::clone(budget));
    }

    /// How many are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// None are held any more.
    pub fn clear(&mut self) {
        if let Some(budget) = self.budget.take() {
            budget.give(std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Sizes of chunks in bytes.
pub const CLASSES: [usize; 5] = [256, 1024, 4 << 10, 16 << 10, 64 << 10];

/// Capacity of the largest chunk.
pub const LARGEST: usize = CLASSES[CLASSES.len() - 1];

/// Classes from this on are mapped, so that giving one back reaches the system at once; the smaller
/// ones come from the allocator.
const MAPPED_FROM: usize = 3;

/// Chunks of each class that a pool keeps for the next use: 16 KiB to 128 KiB of each, 320 KiB in all.
const KEPT: [usize; CLASSES.len()] = [64, 32, 16, 4, 2];

/// The smallest class that holds `len`, or the largest there is.
fn class_for(len: usize) -> usize {
    CLASSES
        .iter()
        .position(|size| *size >= len)
        .unwrap_or(CLASSES.len() - 1)
}

/// Initialised memory of one class.
struct Block {
    at: NonNull<u8>,
    class: u8,
    mapped: bool,
}

// SAFETY: a block owns its memory alone; both ways of giving it back work on any thread.
unsafe impl Send for Block {}
// SAFETY: a shared block is only read.
unsafe impl Sync for Block {}

impl Block {
    fn new(class: usize) -> Self {
        #[allow(clippy::cast_possible_truncation)] // There are five.
        let number = class as u8;
        if class >= MAPPED_FROM
            && let Some(at) = mem::map(CLASSES[class])
        {
            return Self {
                at,
                class: number,
                mapped: true,
            };
        }
        // Also when the kernel will map no more areas: the allocator may still have room.
        let memory = vec![0u8; CLASSES[class]].into_boxed_slice();
        let at = NonNull::from(Box::leak(memory)).cast();
        Self {
            at,
            class: number,
            mapped: false,
        }
    }

    fn class(&self) -> usize {
        usize::from(self.class)
    }

    fn len(&self) -> usize {
        CLASSES[self.class()]
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `at` points to `len` initialised bytes that the block owns.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the block is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: made by `map` with this length; the block is gone.
            unsafe { mem::unmap(self.at, self.len()) };
        } else {
            let memory = NonNull::slice_from_raw_parts(self.at, self.len());
            // SAFETY: leaked from a box of this length in `new`.
            drop(unsafe { Box::from_raw(memory.as_ptr()) });
        }
    }
}

/// A block with the budget it belongs to; not counted.
struct Lease {
    block: Block,
    budget: Arc<Budget>,
}

/// A buffer of one of the [`CLASSES`], counted in its budget while it exists.
///
/// It derefs to its whole memory, all of it initialised (what a former user wrote may still be
/// there). `filled` tells how much from the start has a meaning to the owner.
pub struct Chunk {
    lease: ManuallyDrop<Lease>,
    filled: u32,
}

impl Chunk {
    fn new(lease: Lease) -> Self {
        lease.budget.take(lease.block.len());
        Self {
            lease: ManuallyDrop::new(lease),
            filled: 0,
        }
    }

    /// Ends the use, which is what the budget counts.
    fn into_lease(self) -> Lease {
        let mut chunk = ManuallyDrop::new(self);
        // SAFETY: the chunk is never touched again, its own drop included.
        let lease = unsafe { ManuallyDrop::take(&mut chunk.lease) };
        lease.budget.give(lease.block.len());
        lease
    }

    /// Bytes it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.lease.block.len()
    }

    /// The bytes up to the cursor.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self[..self.filled as usize]
    }

    /// Number of bytes up to the cursor.
    #[must_use]
    pub fn filled_len(&self) -> usize {
        self.filled as usize
    }

    /// Bytes behind the cursor.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity() - self.filled as usize
    }

    /// The memory behind the cursor, to be written and then [`advance`](Self::advance)d over.
    pub fn unfilled_mut(&mut self) -> &mut [u8] {
        let filled = self.filled as usize;
        &mut self[filled..]
    }

    /// Moves the cursor over `n` bytes that were written behind it.
    ///
    /// # Panics
    /// When there is less room.
    pub fn advance(&mut self, n: usize) {
        self.set_filled(self.filled as usize + n);
    }

    /// Puts the cursor at `n`.
    ///
    /// # Panics
    /// When that is beyond the capacity.
    pub fn set_filled(&mut self, n: usize) {
        assert!(n <= self.capacity(), "cursor beyond the chunk");
        #[allow(clippy::cast_possible_truncation)] // At most `LARGEST`.
        let filled = n as u32;
        self.filled = filled;
    }

    /// Copies as much as there is room for behind the cursor, and tells how much.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let room = self.unfilled_mut();
        let n = room.len().min(bytes.len());
        room[..n].copy_from_slice(&bytes[..n]);
        self.advance(n);
        n
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.lease.block.bytes()
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.lease.block.bytes_mut()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: dropped once, here; `into_lease` takes it only from a chunk that is not dropped.
        let lease = unsafe { ManuallyDrop::take(&mut self.lease) };
        lease.budget.give(lease.block.len());
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} of {})", self.filled, self.capacity())
    }
}

/// Chunks of one worker: a short free list of each class.
pub struct ChunkPool {
    budget: Arc<Budget>,
    // What was put back keeps its reference to the budget, so that a reuse touches the shared
    // counter and nothing else that is shared.
    free: [Vec<Lease>; CLASSES.len()],
}

impl ChunkPool {
    /// A pool that counts in `budget`; holds no memory.
    #[must_use]
    pub fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            free: Default::default(),
        }
    }

    /// The budget it counts in.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// A chunk of the smallest class that holds `min_len`; of the largest, [`LARGEST`] bytes, when
    /// none does. Its cursor is at the start. The budget is counted, not enforced: whoever asks looks
    /// at [`Budget::pressure`] first.
    pub fn get(&mut self, min_len: usize) -> Chunk {
        let class = class_for(min_len);
        let lease = self.free[class].pop().unwrap_or_else(|| Lease {
            block: Block::new(class),
            budget: Arc::clone(&self.budget),
        });
        Chunk::new(lease)
    }

    /// Takes a chunk back, of this worker or another; frees its memory when enough are kept.
    pub fn put(&mut self, chunk: Chunk) {
        let lease = chunk.into_lease();
        let class = lease.block.class();
        if self.free[class].len() < KEPT[class] && Arc::ptr_eq(&lease.budget, &self.budget) {
            self.free[class].push(lease);
        }
    }

    /// Frees everything that is kept. Chunks of 16 KiB and more go straight back to the system; the
    /// smaller ones to the allocator.
    pub fn trim(&mut self) {
        self.free = Default::default();
    }

    /// Bytes kept for the next use, which no budget counts.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.free
            .iter()
            .zip(CLASSES)
            .map(|(list, size)| list.len() * size)
            .sum()
    }
}

impl std::fmt::Debug for ChunkPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkPool({} bytes free)", self.free_bytes())
    }
}

/// A queue of bytes over chunks. Empty, it is one null pointer and holds no memory.
///
/// It can move to another worker with its connection. Dropping it gives its chunks up; handing them
/// to a pool with [`clear`](Self::clear) is cheaper.
#[derive(Default)]
pub struct ByteQueue {
    inner: Option<Box<Inner>>,
}

const _: () = assert!(size_of::<ByteQueue>() <= 32);

/// Never empty: the last byte consumed takes the box with it.
struct Inner {
    /// Each holds at least one byte.
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that were consumed.
    start: usize,
    len: usize,
}

impl ByteQueue {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { inner: None }
    }

    /// Bytes in the queue.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.len)
    }

    /// No byte is in the queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    /// Bytes of its chunks, as the budget counts them.
    #[must_use]
    pub fn held(&self) -> usize {
        self.inner
            .as_ref()
            .map_or(0, |inner| inner.chunks.iter().map(Chunk::capacity).sum())
    }

    /// Appends a copy of `bytes`. What is left after filling the last chunk goes to a chunk of its
    /// size, or of a quarter of the queue's when that is more, so that many small pushes do not make
    /// many small chunks.
    pub fn push(&mut self, pool: &mut ChunkPool, mut bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let inner = self.inner.get_or_insert_with(|| {
            Box::new(Inner {
                chunks: VecDeque::with_capacity(1),
                start: 0,
                len: 0,
            })
        });
        if let Some(last) = inner.chunks.back_mut() {
            let n = last.append(bytes);
            inner.len += n;
            bytes = &bytes[n..];
        }
        while !bytes.is_empty() {
            let mut chunk = pool.get(bytes.len().max(inner.len / 4));
            let n = chunk.append(bytes);
            inner.len += n;
            bytes = &bytes[n..];
            inner.chunks.push_back(chunk);
        }
    }

    /// The bytes in order, in as few pieces as there are chunks; no piece is empty.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.inner.iter().flat_map(|inner| {
            let mut start = inner.start;
            inner
                .chunks
                .iter()
                .map(move |chunk| &chunk.filled()[std::mem::take(&mut start)..])
        })
    }

    /// Appends the pieces to `out` for a vectored write.
    pub fn slices<'a>(&'a self, out: &mut Vec<IoSlice<'a>>) {
        out.extend(self.chunks().map(IoSlice::new));
    }

    /// Copies from the front as much as `to` takes, consuming nothing; tells how much.
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in self.chunks() {
            let n = piece.len().min(to.len() - done);
            to[done..done + n].copy_from_slice(&piece[..n]);
            done += n;
        }
        done
    }

    /// Takes `n` bytes off the front, or all when there are fewer. Emptied chunks go to `pool`.
    pub fn consume(&mut self, pool: &mut ChunkPool, n: usize) {
        let Some(inner) = &mut self.inner else { return };
        if n >= inner.len {
            self.clear(pool);
            return;
        }
        inner.len -= n;
        inner.start += n;
        while let Some(first) = inner.chunks.front()
            && inner.start >= first.filled_len()
        {
            inner.start -= first.filled_len();
            if let Some(first) = inner.chunks.pop_front() {
                pool.put(first);
            }
        }
    }

    /// Takes everything off; chunks go to `pool`.
    pub fn clear(&mut self, pool: &mut ChunkPool) {
        if let Some(inner) = self.inner.take() {
            for chunk in inner.chunks {
                pool.put(chunk);
            }
        }
    }
}

impl std::fmt::Debug for ByteQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ByteQueue({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests;
