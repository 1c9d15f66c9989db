//! One thread's life: wait, read, serve, write, park.
//!
//! The engine knows sockets, timers, buffers and the two states of a connection, parked and resident.
//! It knows nothing of any protocol, and nothing here may block, take a lock that another thread
//! holds across a system call, or loop over one connection without a budget.

pub mod arena;
#[cfg(chaos)]
pub mod chaos;
pub mod chunk;
pub mod core;
pub mod limits;
mod mem;
pub mod parked;
pub mod reactor;
pub mod run_queue;
pub mod slab;
pub mod wheel;
pub mod worker;
