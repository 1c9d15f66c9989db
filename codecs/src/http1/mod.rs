//! HTTP/1.0 and HTTP/1.1 (RFC 9110, RFC 9112): [`Server`] reads requests, [`Client`] reads responses.
//!
//! The head's fields are found by `httparse`; where a message begins and ends is decided here and
//! strictly. A message whose end two implementations could see in different places is refused, never
//! repaired by guessing; `docs/smuggling.md` lists the shapes and what each gets. In particular a line
//! ends in CRLF only, and obs-fold is refused in both directions.
//!
//! Hop-by-hop fields never reach a [`Head`](crate::Head): `connection` and what it names,
//! `keep-alive`, `proxy-connection`, `transfer-encoding`, `te` but for `trailers`, `upgrade` but where
//! [`Head::upgrade`](crate::Head::upgrade) is set. Neither do `host` (it is the authority) and
//! `content-length` (it is [`Head::content_length`](crate::Head::content_length)). On sending they are
//! made anew from those members; a field of such a name among the others is not sent.
//!
//! An exchange that leaves HTTP (101, or 2xx to CONNECT) ends with [`Why::Upgraded`](crate::Why) on
//! both sides; a server says so at the next `decode` after its response head was sent, even when the
//! input is empty. The `end` of the heads involved speaks of the HTTP message, not of the tunnel.

mod body;
pub(crate) mod chars;
mod client;
mod compact;
pub(crate) mod encode;
pub(crate) mod fields;
mod parse;
mod scan;
mod server;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use server::Server;

use crate::codec::{ProtocolError, StreamId};

/// Why a message is not taken: the status that says so, and a stable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal {
    status: u16,
    detail: &'static str,
}

impl Refusal {
    const fn new(status: u16, detail: &'static str) -> Self {
        Self { status, detail }
    }

    const fn of(self, stream: StreamId) -> ProtocolError {
        ProtocolError {
            stream: Some(stream),
            status: self.status,
            detail: self.detail,
        }
    }
}

/// Limits and leniencies of one side, taken from configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of a request line or status line with all its fields. Envoy: max_request_headers_kb.
    pub max_head_bytes: usize,
    /// Number of fields. Envoy: max_headers_count.
    pub max_fields: usize,
    /// Accept HTTP/1.0 requests (Envoy: accept_http_10); without it they get 426.
    pub accept_http_10: bool,
    /// Authority given to an HTTP/1.0 request without host.
    pub default_host_for_http_10: Option<String>,
    /// Accept methods beyond the registered ones (Envoy: allow_custom_methods).
    pub custom_methods: bool,
    /// Accept absolute-form targets (Envoy: allow_absolute_url, default true).
    pub allow_absolute_url: bool,
    /// The connection is encrypted: only then may a target begin with `https://`.
    pub over_tls: bool,
    /// Forward trailers; otherwise they are read and dropped (Envoy: enable_trailers).
    pub enable_trailers: bool,
    /// `upgrade` tokens (compared without case) that a server may answer with 101. Every well-formed
    /// upgrade is reported by [`Head::upgrade`](crate::Head::upgrade); whoever answers one that is not
    /// listed with 101 gets an error instead of a tunnel.
    pub upgrades: Vec<String>,
    /// A server may answer CONNECT with 2xx; likewise checked when the answer is sent.
    pub allow_connect: bool,
    /// The preface of HTTP/2 instead of a first request is reported ([`Why::Http2`](crate::Why)), not
    /// refused (Envoy: codec_type AUTO).
    pub detect_http2: bool,
    /// Capitalise field names on the wire (Envoy: header_key_format proper_case_words).
    pub proper_case: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_head_bytes: 60 * 1024,
            max_fields: 100,
            accept_http_10: false,
            default_host_for_http_10: None,
            custom_methods: false,
            allow_absolute_url: true,
            over_tls: false,
            enable_trailers: false,
            upgrades: Vec::new(),
            allow_connect: false,
            detect_http2: false,
            proper_case: false,
        }
    }
}
