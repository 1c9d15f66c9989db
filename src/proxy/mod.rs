//! A stream's life: downstream, filters, route, host, upstream, and back.
//!
//! Written against streams, never against connections or one protocol. It must never block, and it
//! must never hold a pointer from one connection to another: resident objects name each other by key.

mod app;
mod attaching;
mod balance;
pub mod chain_match;
mod clock;
mod closing;
pub mod config;
mod conn;
mod connecting;
mod deadlines;
mod detecting;
mod drain;
pub mod facts;
mod filtering;
mod gateway;
pub mod http;
pub mod http2;
mod io;
mod leaving;
mod listen;
mod logging;
mod moving;
mod named;
mod output;
mod parking;
mod pipeline;
mod pressure;
mod reply;
mod requests;
mod responses;
mod resting;
mod retries;
mod rules;
mod secure;
mod silent;
mod stream;
mod tunnel;
mod upgrading;
mod upstream;
mod waking;

pub use clock::WallClock;
pub use gateway::{Gateway, Parts, Shared, Tuning};
pub use listen::ListenSock;

#[cfg(test)]
mod tests;
