//! A stub resolver for the control thread.
//!
//! `getaddrinfo` gives no TTL and blocks, and the known asynchronous resolvers bring a runtime, so
//! this asks the servers of `/etc/resolv.conf` itself. Everything that decides is sans-IO and takes
//! the time as an argument; [`source`] holds the sockets.
//!
//! Nothing a server sends is trusted: an answer must come from the server asked (the socket is
//! connected), to a port and id that were random, and repeat the question.

mod hosts;
mod message;
mod refresh;
mod resolv_conf;
mod resolver;
pub mod source;

pub use source::Dns;
