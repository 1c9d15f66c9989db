//! The dynamic table (RFC 7541, section 2.3.2): entries in the order they came, newest first by index.
//!
//! All octets are in one buffer, entry after entry; what is live is its end. Evicting moves the start,
//! and when the buffer is full the live part slides to its front. Slack of a third keeps that to two
//! moved octets for one inserted. A second vector has twelve octets per entry. Must never hold more
//! than `max` by the RFC's count (name, value and 32 for each entry).

use super::ENTRY_OVERHEAD;

/// Where an entry is. Offsets count from the beginning of the buffer.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    name_len: u32,
    /// Low half: hash of the name. High half: hash of name and value. Zero in decoders.
    tag: u32,
}

/// The table itself. Behind a box in both coders, and only while it has entries.
#[derive(Debug, Default)]
pub(super) struct Table {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// The oldest entry that is alive.
    first: usize,
    /// Octets by the RFC's count.
    size: usize,
}

/// What a table has for a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Name and value, at this index (0 is the newest).
    Whole(usize),
    /// The name.
    Name(usize),
    Nothing,
}

impl Table {
    /// Octets by the RFC's count.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.first
    }

    /// Octets allocated, the table itself included.
    pub(super) fn held(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Name and value of the entry at `index` (0 is the newest).
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let at = self
            .entries
            .len()
            .checked_sub(index + 1)
            .filter(|&at| at >= self.first)?;
        let entry = self.entries[at];
        let end = self
            .entries
            .get(at + 1)
            .map_or(self.bytes.len(), |next| next.start as usize);
        Some(self.bytes[entry.start as usize..end].split_at(entry.name_len as usize))
    }

    /// Inserts a field whose size is at most `max`, evicting what has to go. `tag` is zero or from [`tag`].
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8], tag: u32, max: usize) {
        let len = name.len() + value.len();
        debug_assert!(len + ENTRY_OVERHEAD <= max);
        self.evict(max - ENTRY_OVERHEAD - len);
        if self.bytes.len() + len > self.bytes.capacity() {
            self.make_room(len);
        }
        if self.entries.len() == self.entries.capacity() {
            self.make_place();
        }
        self.entries.push(Entry {
            // The buffer is at most half as large again as the table, and that is at most 1 GiB.
            start: self.bytes.len() as u32,
            name_len: name.len() as u32,
            tag,
        });
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.size += len + ENTRY_OVERHEAD;
    }

    /// Evicts the oldest entries until at most `max` octets are left.
    pub(super) fn evict(&mut self, max: usize) {
        while self.size > max {
            let end = self.start_of(self.first + 1);
            self.size -= end - self.start_of(self.first) + ENTRY_OVERHEAD;
            self.first += 1;
        }
        if self.first == self.entries.len() {
            self.first = 0;
            self.entries.clear();
            self.bytes.clear();
        }
    }

    /// Gives back what is allocated and not used.
    pub(super) fn shrink(&mut self) {
        self.slide();
        self.bytes.shrink_to_fit();
        self.compact();
        self.entries.shrink_to_fit();
    }

    /// Where the entry at `index` is in the vector. It stays there until entries are compacted.
    pub(super) fn place(&self, index: usize) -> u32 {
        // Entries count 32 octets each of a table of at most 1 GiB.
        (self.entries.len() - 1 - index) as u32
    }

    /// The index of the entry at `place`, if it is this field.
    #[inline]
    pub(super) fn index_of(&self, place: usize, name: &[u8], value: &[u8]) -> Option<usize> {
        let entry = self.entries.get(place).filter(|_| place >= self.first)?;
        if entry.name_len as usize != name.len() {
            return None;
        }
        let index = self.entries.len() - 1 - place;
        let (its_name, its_value) = self.get(index)?;
        (its_value == value && its_name == name).then_some(index)
    }

    /// Looks a field up. The newest entry wins: its index is the shortest to write.
    pub(super) fn find(&self, name: &[u8], value: &[u8], tag: u32) -> Found {
        let mut found = Found::Nothing;
        for (index, entry) in self.entries[self.first..].iter().rev().enumerate() {
            if (entry.tag ^ tag) & 0xffff != 0 {
                continue;
            }
            let Some((its_name, its_value)) = self.get(index) else {
                break;
            };
            if its_name != name {
                continue;
            }
            if entry.tag == tag && its_value == value {
                return Found::Whole(index);
            }
            if found == Found::Nothing {
                found = Found::Name(index);
            }
        }
        found
    }

    fn start_of(&self, at: usize) -> usize {
        self.entries
            .get(at)
            .map_or(self.bytes.len(), |entry| entry.start as usize)
    }

    /// Makes place for `len` more octets: slides the live ones to the front if that frees a third of
    /// the buffer, else takes a larger one.
    fn make_room(&mut self, len: usize) {
        let live = self.bytes.len() - self.start_of(self.first);
        self.slide();
        let need = live + len;
        if need > self.bytes.capacity() / 3 * 2 {
            // The first buffer fits the first field; later ones have slack.
            let want = if live == 0 { need } else { need + need / 2 };
            self.bytes.reserve_exact(want - live);
        }
    }

    /// Makes place for one more entry, as [`make_room`](Self::make_room) does.
    fn make_place(&mut self) {
        self.compact();
        let len = self.entries.len();
        if len >= self.entries.capacity() / 3 * 2 {
            self.entries.reserve_exact(len / 2 + 2);
        }
    }

    fn slide(&mut self) {
        let from = self.start_of(self.first);
        if from > 0 {
            self.bytes.drain(..from);
            for entry in &mut self.entries[self.first..] {
                entry.start -= from as u32;
            }
        }
    }

    fn compact(&mut self) {
        self.entries.drain(..self.first);
        self.first = 0;
    }
}

/// What [`Table::find`] compares before it compares octets.
pub(super) fn tag(name: &[u8], value: &[u8]) -> u32 {
    let name = hash(0, name);
    let pair = hash(name, value);
    ((pair >> 48) as u32) << 16 | (name >> 48) as u32
}

/// A quick hash; a collision costs a comparison, and a table has a bounded number of entries.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = (seed ^ bytes.len() as u64).wrapping_mul(FACTOR);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        state = (state.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
    }
    let mut last = 0;
    for &byte in rest {
        last = last << 8 | u64::from(byte);
    }
    (state.rotate_left(23) ^ last).wrapping_mul(FACTOR)
}
