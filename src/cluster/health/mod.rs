//! Active health checks, on the control thread.
//!
//! [`verdict`] decides what a result means, [`probe`] what is said on a connection; both are sans-IO.
//! [`source`] holds the sockets and timers, `secured` the TLS in between. Nothing here is reached from a worker: they see the
//! flags of the hosts.

mod probe;
mod secured;
pub mod source;
mod verdict;

pub use source::Health;
