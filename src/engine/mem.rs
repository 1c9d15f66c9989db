//! Anonymous memory taken from the operating system and given back to it.
//!
//! The rooms that must return memory (slab pages, big chunks, the read arena) take it here and not
//! from the allocator, whose free lists keep what was freed. Nothing here may be used for small
//! objects: the unit is a page of the system.

use std::ptr::NonNull;

/// What the kernel hands out at least, and what a page of resident memory is counted in.
pub(super) const OS_PAGE: usize = 4096;

/// Maps `len` zeroed bytes, aligned to [`OS_PAGE`] and untouched (no memory is held until used).
/// `None` when the kernel refuses.
#[cfg(not(miri))]
pub(super) fn map(len: usize) -> Option<NonNull<u8>> {
    // SAFETY: a new private anonymous mapping at an address of the kernel's choice touches no
    // memory that anything else uses.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        None
    } else {
        NonNull::new(at.cast())
    }
}

/// Gives a mapping back.
///
/// # Safety
/// `at` and `len` are those of one [`map`] call, and nothing refers to the mapping any more.
#[cfg(not(miri))]
pub(super) unsafe fn unmap(at: NonNull<u8>, len: usize) {
    // SAFETY: the caller owns the whole mapping and gives it up.
    let failed = unsafe { libc::munmap(at.as_ptr().cast(), len) } != 0;
    if failed {
        // Splitting an area can exceed the kernel's count of areas (vm.max_map_count). The address
        // range is then lost to us, but its memory is not.
        // SAFETY: as above; the range stays mapped and is never used again.
        unsafe { discard(at, len) };
    }
}

/// Gives the memory behind a mapping back and keeps the mapping; it reads as zeroes afterwards.
///
/// # Safety
/// `at` and `len` describe whole pages of a live mapping of [`map`], and no reference into it exists.
#[cfg(not(miri))]
pub(super) unsafe fn discard(at: NonNull<u8>, len: usize) {
    // SAFETY: the caller owns the range exclusively; private anonymous memory becomes zeroes.
    let failed = unsafe { libc::madvise(at.as_ptr().cast(), len, libc::MADV_DONTNEED) } != 0;
    debug_assert!(!failed, "madvise on a mapping of ours");
}

#[cfg(miri)]
fn layout(len: usize) -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(len, OS_PAGE).expect("a length that fits the address space")
}

#[cfg(miri)]
pub(super) fn map(len: usize) -> Option<NonNull<u8>> {
    // SAFETY: callers map at least one byte.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout(len)) })
}

#[cfg(miri)]
pub(super) unsafe fn unmap(at: NonNull<u8>, len: usize) {
    // SAFETY: made by `map` with the same layout.
    unsafe { std::alloc::dealloc(at.as_ptr(), layout(len)) };
}

#[cfg(miri)]
pub(super) unsafe fn discard(at: NonNull<u8>, len: usize) {
    // SAFETY: the caller owns the range exclusively.
    unsafe { at.as_ptr().write_bytes(0, len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discarded_mapping_reads_as_zeroes() {
        let at = map(2 * OS_PAGE).expect("memory");
        // SAFETY: the mapping is ours, and two pages long.
        unsafe {
            at.as_ptr().write_bytes(7, 2 * OS_PAGE);
            discard(at, 2 * OS_PAGE);
            assert_eq!(*at.as_ptr().add(OS_PAGE), 0);
            unmap(at, 2 * OS_PAGE);
        }
    }
}
