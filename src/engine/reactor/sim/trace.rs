//! The last calls and events of a world, for the report of a failing seed.
//!
//! Recording must cost next to nothing: fixed-size entries in a ring, formatted only when asked for.

use std::collections::VecDeque;
use std::fmt;

/// One call of a worker or event of the world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) at_us: u64,
    /// Worker that called, or `None` for the world itself.
    pub(super) worker: Option<u8>,
    pub(super) what: &'static str,
    pub(super) sock: i32,
    /// Bytes, error number (negative), ready bits: depends on `what`.
    pub(super) value: i64,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10} us  ", self.at_us)?;
        match self.worker {
            Some(worker) => write!(f, "worker {worker}  ")?,
            None => f.write_str("world     ")?,
        }
        write!(f, "{:<12} sock {:<5} {}", self.what, self.sock, self.value)
    }
}

/// A bounded ring of entries.
#[derive(Debug, Default)]
pub(super) struct Trace {
    entries: VecDeque<Entry>,
    limit: usize,
    /// Of every entry there was, also of those no longer kept: two runs with the same are the same.
    digest: u64,
}

impl Trace {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            limit,
            digest: 0,
        }
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let worker = entry.worker.map_or(u64::MAX, u64::from);
        let sock = u64::from(entry.sock.cast_unsigned());
        let value = entry.value.cast_unsigned();
        for part in [entry.at_us, worker, entry.what.len() as u64, sock, value] {
            let mixed = (self.digest ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.digest = mixed ^ (mixed >> 32);
        }
        if self.limit == 0 {
            return;
        }
        if self.entries.len() == self.limit {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// One line an entry, oldest first.
    pub(super) fn format(&self) -> String {
        use fmt::Write as _;
        let mut out = String::new();
        for entry in &self.entries {
            let _ = writeln!(out, "{entry}");
        }
        out
    }
}
