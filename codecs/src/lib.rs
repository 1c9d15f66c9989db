//! Protocol codecs: bytes to events and back.
//!
//! Everything here is sans-IO. A codec never sees a socket, a clock, a thread or a global: bytes and
//! the time come in as arguments, events and bytes go out. That is what makes every codec testable at
//! any split of its input and usable by the proxy, the admin server and the load generator alike.
//!
//! Nothing in this crate may panic on bytes from the network, and nothing may grow without a bound
//! that its caller set.

#![forbid(unsafe_code)]

mod codec;
mod head;
pub mod hpack;
pub mod http1;
pub mod http2;
pub mod preface;
#[cfg(any(test, feature = "testmux"))]
pub mod testmux;
pub mod websocket;

pub use codec::{
    Codec, Compact, Consumed, Event, Events, Millis, Out, Payload, ProtocolError, ResetReason,
    SendError, Shape, StreamId, Why,
};
pub use head::{Field, Head, HeadKind, Version};
