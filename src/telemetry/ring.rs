//! A bounded ring of log entries between one worker and the log thread.
//!
//! An entry is formatted straight into the ring and becomes visible as a whole, or not at all when
//! there is no room. Neither side ever waits for the other.

use std::cell::UnsafeCell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;

use super::format::Out;

/// Target and length in front of every entry.
const HEADER: u64 = 8;

struct Shared {
    /// Allocated with the first entry: a worker that logs nothing pays nothing.
    buffer: OnceLock<Box<[UnsafeCell<u8>]>>,
    capacity: usize,
    /// Bytes ever published; only the writer stores it.
    tail: CachePadded<AtomicU64>,
    /// Bytes ever taken; only the reader stores it.
    head: CachePadded<AtomicU64>,
}

// SAFETY: the buffer is the only part that is not Sync. The bytes between `head` and `tail` are read
// by the one `Reader` and written by nobody; the others are written by the one `Writer` and read by
// nobody. `tail` is stored with Release after the bytes were written and loaded with Acquire before
// they are read, and so is `head` the other way round.
unsafe impl Sync for Shared {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Shared {}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("capacity", &self.capacity)
            .field("tail", &self.tail)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Where the bytes at `position` lie, and how many of `len` follow each other there.
    fn run(&self, position: u64, len: usize) -> (usize, usize) {
        let at = (position % self.capacity as u64) as usize;
        (at, len.min(self.capacity - at))
    }
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
}

/// The log thread's end.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
}

/// A ring of `capacity` bytes.
pub(super) fn ring(capacity: usize) -> (Writer, Reader) {
    let shared = Arc::new(Shared {
        buffer: OnceLock::new(),
        capacity: capacity.max(64),
        tail: CachePadded::new(AtomicU64::new(0)),
        head: CachePadded::new(AtomicU64::new(0)),
    });
    let writer = Writer {
        shared: Arc::clone(&shared),
    };
    (writer, Reader { shared })
}

impl Writer {
    /// Begins an entry; it is dropped unless [`Entry::publish`] succeeds.
    pub(super) fn entry(&mut self) -> Entry<'_> {
        let shared = &*self.shared;
        let tail = shared.tail.load(Ordering::Relaxed);
        let used = tail - shared.head.load(Ordering::Acquire);
        let free = shared.capacity - used as usize;
        let buffer = shared
            .buffer
            .get_or_init(|| (0..shared.capacity).map(|_| UnsafeCell::new(0)).collect());
        Entry {
            shared,
            buffer,
            start: tail,
            at: tail + HEADER,
            end: tail + free as u64,
            overflow: (free as u64) < HEADER,
        }
    }

    /// Bytes that wait for the reader.
    pub(super) fn used(&self) -> usize {
        let shared = &*self.shared;
        (shared.tail.load(Ordering::Relaxed) - shared.head.load(Ordering::Relaxed)) as usize
    }

    /// Bytes that may wait.
    pub(super) fn capacity(&self) -> usize {
        self.shared.capacity
    }
}

/// An entry that is being written.
pub(super) struct Entry<'a> {
    shared: &'a Shared,
    buffer: &'a [UnsafeCell<u8>],
    start: u64,
    at: u64,
    end: u64,
    overflow: bool,
}

impl Entry<'_> {
    fn write(&self, mut position: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (at, len) = self.shared.run(position, bytes.len());
            let cells = &self.buffer[at..at + len];
            // SAFETY: `cells` are `len` bytes that lie behind `tail` and before `head` of the next
            // round (`put` keeps to that), so only this writer touches them now; the source is no
            // part of the ring.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    UnsafeCell::raw_get(cells.as_ptr()),
                    len,
                );
            }
            position += len as u64;
            bytes = &bytes[len..];
        }
    }

    /// Makes the entry visible; false when it did not fit.
    pub(super) fn publish(self, target: u32) -> bool {
        if self.overflow {
            return false;
        }
        let len = (self.at - self.start - HEADER) as u32;
        self.write(self.start, &target.to_le_bytes());
        self.write(self.start + 4, &len.to_le_bytes());
        self.shared.tail.store(self.at, Ordering::Release);
        true
    }
}

impl Out for Entry<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if self.overflow || bytes.len() as u64 > self.end - self.at {
            self.overflow = true;
            return;
        }
        self.write(self.at, bytes);
        self.at += bytes.len() as u64;
    }
}

impl Reader {
    /// `len` published bytes at `position`, in up to two parts.
    fn bytes(&self, position: u64, len: usize) -> (&[u8], &[u8]) {
        let Some(buffer) = self.shared.buffer.get() else {
            return (&[], &[]);
        };
        let part = |position, len| {
            let (at, run) = self.shared.run(position, len);
            let cells = &buffer[at..at + run];
            // SAFETY: `cells` are `run` initialised bytes between `head` and the `tail` that `drain`
            // loaded with Acquire; the writer does not touch them until `head` moves, which needs
            // `&mut self`.
            unsafe {
                std::slice::from_raw_parts(UnsafeCell::raw_get(cells.as_ptr()).cast_const(), run)
            }
        };
        let first = part(position, len);
        let second = part(position + first.len() as u64, len - first.len());
        (first, second)
    }

    /// Takes the entries that are there now: calls `each` with target and bytes (in two parts) of
    /// every one. Returns how many there were.
    pub(super) fn drain(&mut self, mut each: impl FnMut(u32, (&[u8], &[u8]))) -> usize {
        let tail = self.shared.tail.load(Ordering::Acquire);
        let mut head = self.shared.head.load(Ordering::Relaxed);
        let mut entries = 0;
        while head < tail {
            let mut header = [0; HEADER as usize];
            let (first, second) = self.bytes(head, header.len());
            header[..first.len()].copy_from_slice(first);
            header[first.len()..].copy_from_slice(second);
            let header = u64::from_le_bytes(header);
            let (target, len) = (header as u32, (header >> 32) as usize);
            each(target, self.bytes(head + HEADER, len));
            head += HEADER + len as u64;
            self.shared.head.store(head, Ordering::Release);
            entries += 1;
        }
        entries
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.shared.tail.load(Ordering::Acquire) == self.shared.head.load(Ordering::Relaxed)
    }

    /// The writer is gone, and what it wrote was taken.
    pub(super) fn is_finished(&self) -> bool {
        if Arc::strong_count(&self.shared) > 1 {
            return false;
        }
        // The writer's last entry came before its end; see it too.
        fence(Ordering::Acquire);
        self.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn put(writer: &mut Writer, target: u32, bytes: &[u8]) -> bool {
        let mut entry = writer.entry();
        for piece in bytes.chunks(3) {
            entry.put(piece);
        }
        entry.publish(target)
    }

    fn take(reader: &mut Reader) -> Vec<(u32, Vec<u8>)> {
        let mut all = Vec::new();
        reader.drain(|target, (first, second)| all.push((target, [first, second].concat())));
        all
    }

    #[test]
    fn entries_are_whole_or_not_there() {
        let (mut writer, mut reader) = ring(64);
        assert!(reader.is_empty());
        assert!(put(&mut writer, 7, b"hello"));
        assert!(!put(&mut writer, 7, &[b'x'; 60]));
        assert_eq!(writer.used(), 13);
        assert_eq!(take(&mut reader), [(7, b"hello".to_vec())]);
        assert!(reader.is_empty());
        assert!(put(&mut writer, 7, &[b'x'; 56]));
        assert!(!put(&mut writer, 7, b""));
    }

    #[test]
    fn an_entry_wraps_around() {
        let (mut writer, mut reader) = ring(64);
        for round in 0..200_u8 {
            let entry = vec![round; usize::from(round) % 50];
            assert!(put(&mut writer, 1, &entry));
            assert_eq!(take(&mut reader), [(1, entry)]);
        }
    }

    #[test]
    fn an_abandoned_entry_leaves_nothing() {
        let (mut writer, mut reader) = ring(64);
        writer.entry().put(b"abc");
        assert!(put(&mut writer, 1, b"d"));
        assert_eq!(take(&mut reader), [(1, b"d".to_vec())]);
        assert!(!reader.is_finished());
        drop(writer);
        assert!(reader.is_finished());
    }

    #[test]
    fn bytes_arrive_in_order_between_threads() {
        let (mut writer, mut reader) = ring(256);
        let sender = thread::spawn(move || {
            for n in 0..5000_u32 {
                let entry = n.to_le_bytes();
                while !put(&mut writer, n, &entry) {
                    thread::yield_now();
                }
            }
        });
        let mut next = 0_u32;
        while next < 5000 {
            for (target, bytes) in take(&mut reader) {
                assert_eq!((target, &bytes[..]), (next, &next.to_le_bytes()[..]));
                next += 1;
            }
            thread::yield_now();
        }
        sender.join().unwrap();
        assert!(reader.is_empty());
    }
}
