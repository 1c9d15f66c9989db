//! The memory allocator of the program.
//!
//! What a connection needs while it is resident comes from many small allocations. After a burst over
//! many connections glibc's allocator keeps that memory: one long-lived block in a heap of thousands
//! of free ones holds everything below it. jemalloc groups blocks by size and gives pages that fell
//! free back after a moment, so that a silent connection costs its record and nothing else
//! (`perf/run_memory.py` measures it).
//!
//! Only the program sets an allocator; the library must not, so that its tests can count.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by the allocator before `main`. Free pages go back within half a second, by a thread of the
/// allocator that sleeps while there are none; large blocks bypass the thread caches.
// SAFETY: the name and the type (a pointer to a C string) are the allocator's documented interface,
// and nothing else in the program defines it.
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONFIGURATION: &[u8; 76] =
    b"background_thread:true,dirty_decay_ms:500,muzzy_decay_ms:0,lg_tcache_max:12\0";
