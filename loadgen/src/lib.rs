//! Load for proxies and servers, and the servers to put behind a proxy.
//!
//! Three programs in one: [`serve`] answers, [`run`] measures throughput and latency, [`hold`] keeps
//! many connections that are almost always silent. All three drive the proxy's own engine, `serve`
//! from the server's side and the others from the client's. Nothing here may become a second
//! engine: sockets, registrations, timers and parking belong to `moorgate::engine`, bytes and frames
//! to `moorgate-codecs`.

pub mod cli;
pub mod exchange;
pub mod fleet;
pub mod histogram;
pub mod hold;
pub mod mux;
pub mod pacer;
pub mod reader;
pub mod report;
pub mod run;
pub mod secure;
pub mod serve;
pub mod signal;
pub mod sse;
pub mod target;
pub mod tls;
