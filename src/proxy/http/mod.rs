//! What the HTTP connection manager and the router do to heads, and what they answer by themselves.
//!
//! Everything here is a pure function of heads, settings and facts handed in: it does no I/O, looks
//! at no clock and knows neither workers nor connections. It runs for every request, so it writes
//! into buffers that are reused.

pub mod client_address;
pub mod client_cert;
pub mod local_reply;
pub mod path;
pub mod request_rules;
pub mod response_rules;
pub mod retry;
pub mod router_rules;
