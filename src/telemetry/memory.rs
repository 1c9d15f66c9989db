//! How much memory the process uses, as the allocator and the kernel tell it.

use std::fs;

/// Memory of the process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Handed out by the allocator.
    pub allocated: u64,
    /// Taken by the allocator from the system.
    pub heap_size: u64,
    /// Taken from the system and not handed out.
    pub free: u64,
    /// Resident in memory, everything included.
    pub physical: u64,
}

impl Memory {
    /// Memory now. Reads a file of /proc and takes the allocator's locks: for the control thread.
    /// What cannot be found out is 0.
    #[must_use]
    pub fn now() -> Self {
        let physical = resident_bytes();
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            // SAFETY: the call takes nothing and only reads the allocator's books under its locks.
            let info = unsafe { libc::mallinfo2() };
            let bytes = |value: usize| value as u64;
            Self {
                allocated: bytes(info.uordblks) + bytes(info.hblkhd),
                heap_size: bytes(info.arena) + bytes(info.hblkhd),
                free: bytes(info.fordblks),
                physical,
            }
        }
        #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
        Self {
            allocated: physical,
            heap_size: physical,
            free: 0,
            physical,
        }
    }
}

/// The second number of /proc/self/statm, in pages.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1);
    let pages: u64 = pages.and_then(|pages| pages.parse().ok()).unwrap_or(0);
    // SAFETY: sysconf reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_block_shows() {
        let before = Memory::now();
        let block = std::hint::black_box(vec![1_u8; 32 * 1024 * 1024]);
        let with = Memory::now();
        assert!(before.physical > 0);
        assert!(with.allocated >= before.allocated + 16 * 1024 * 1024);
        assert!(with.heap_size >= with.allocated);
        drop(block);
    }
}
