//! What the first bytes of a connection say: a TLS hello, an HTTP request, a PROXY header.
//!
//! These parsers read what is there and keep nothing: each call is given everything that has arrived
//! so far, from the first byte on, and says either what it found or that it has to see more. They never
//! ask for more than a fixed number of bytes, and what they say of a prefix they also say of everything
//! that begins with it, unless they asked for more.

pub mod client_hello;
pub mod http;
pub mod proxy;
#[cfg(test)]
mod tests;
