//! HTTP/2 (RFC 9113) with HPACK (RFC 7541) and extended CONNECT (RFC 8441), both sides.
//!
//! One [`Connection`] per connection; [`Role`] says which side. A head that comes in is the same
//! [`Head`](crate::Head) that HTTP/1 makes, held to the same character rules: whatever could not be
//! written as HTTP/1 without being read in two ways is malformed here too (section 10.3), so that a
//! request crosses from one version to the other and stays one request. Fields that belong to a
//! connection are malformed (section 8.2.2) and never sent.
//!
//! Flow control is the back-pressure of the pipeline: credit goes back as
//! [`release`](crate::Codec::release) is told, for the stream and for the connection. Bytes of a stream
//! that left the books return to the connection at once, so that one forgotten stream never stalls the
//! others.
//!
//! It must never hold more than one header block of bounded size, never grow with what the peer sends
//! but by streams that the settings allow, and never answer without counting: each way to make this side
//! work for nothing has a limit and a name (`http2.*`), see [`limits`].
//!
//! Extended CONNECT is shown as what HTTP/1 calls an upgrade: `GET` with [`Head::upgrade`]
//! (crate::Head::upgrade) and an `upgrade` field, answered by 101. Server push is refused.

mod codec;
mod connection;
mod fields;
mod flow;
mod frame;
mod inbound;
mod limits;
mod outbound;
mod park;
mod peer;
mod settings;
mod stream;
#[cfg(test)]
mod tests;

pub use connection::{Connection, Role};
pub use frame::PREFACE;
pub use settings::{Keepalive, Settings};
