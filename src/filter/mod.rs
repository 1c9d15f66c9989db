//! What may look at a stream, change it, or answer it.
//!
//! A filter sees one stream and never a connection, a socket or a cluster. It must not block: work
//! that takes time is handed elsewhere and the filter answers [`Verdict::Pending`].

use std::sync::Arc;

use moorgate_codecs::Head;

use crate::engine::chunk::Budget;
use crate::telemetry::recorder::Recorder;

pub mod grpc_stats;
pub mod grpc_web;
pub mod reverse_bridge;

/// Makes one filter for each stream.
pub trait FilterFactory: Send + Sync + std::fmt::Debug {
    /// Name as configured.
    fn name(&self) -> &str;
    /// A filter for a new stream.
    fn make(&self) -> Box<dyn Filter>;
}

/// Names a suspended filter call; the one who finishes the work hands it back to the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// What a filter wants done with what it was shown.
#[derive(Debug)]
pub enum Verdict {
    /// Go on to the next filter.
    Continue,
    /// Keep body bytes back, at most so many. A request is shown whole when it is there, and gets 413
    /// above the limit; the head of a response goes on with [`Filter::response_held`].
    StopAndBuffer(usize),
    /// Wait until the token is resumed; nothing of this stream moves on meanwhile.
    Pending(Token),
    /// Answer the client now.
    Reply(Reply),
}

/// An answer of our own.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Body, sent as text/plain.
    pub body: Vec<u8>,
    /// Further fields.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: &'static str,
}

/// One filter of one stream. Methods that a filter does not care for do nothing.
pub trait Filter: Send {
    /// The request head, before routing.
    fn request_head(&mut self, head: &mut Head, end: bool) -> Verdict {
        let (_, _) = (head, end);
        Verdict::Continue
    }

    /// Request body bytes: with `StopAndBuffer` all of them, at the end; with
    /// [`wants_body`](Self::wants_body) as they come, in pieces of any size.
    fn request_data(&mut self, data: &mut Vec<u8>, end: bool) -> Verdict {
        let (_, _) = (data, end);
        Verdict::Continue
    }

    /// The response head.
    fn response_head(&mut self, head: &mut Head, end: bool) -> Verdict {
        let (_, _) = (head, end);
        Verdict::Continue
    }

    /// The beginning of a response that was held back, or all of it. It has no body any more.
    fn response_held(&mut self, head: &mut Head, body: &[u8]) {
        let (_, _) = (head, body);
    }

    /// Response body bytes as they come, in pieces of any size.
    fn response_data(&mut self, data: &mut Vec<u8>, end: bool) {
        let (_, _) = (data, end);
    }

    /// What this filter holds of a body is to be counted in the budget of the process. Asked after each piece
    /// of a response.
    fn charge(&mut self, budget: &Arc<Budget>) {
        let _ = budget;
    }

    /// Bytes that are counted so, which go when the stream is reset.
    fn held(&self) -> usize {
        0
    }

    /// Response trailers. True: they are not sent, but the body goes on with `data` and ends.
    fn response_trailers(&mut self, trailers: &mut Head, data: &mut Vec<u8>) -> bool {
        let (_, _) = (trailers, data);
        false
    }

    /// The response ends without trailers; `data` is the last of its body. True: it ends with these
    /// trailers.
    fn response_end(&mut self, data: &mut Vec<u8>, trailers: &mut Head) -> bool {
        let (_, _) = (data, trailers);
        false
    }

    /// The proxy answers by itself.
    fn local_reply(&mut self, head: &mut Head, body: &mut Vec<u8>) {
        let (_, _) = (head, body);
    }

    /// The request goes to a cluster; this is the one's name in statistics.
    fn routed(&mut self, cluster: &str) {
        let _ = cluster;
    }

    /// Bytes of a body on their way, for a filter that [watches](Self::watches_body) them.
    fn body_passes(&mut self, of_request: bool, data: &[u8]) {
        let (_, _) = (of_request, data);
    }

    /// The stream is over. `upstream_ms`: from the request's way to the upstream to the end of the
    /// response, if there was one.
    fn ended(&mut self, upstream_ms: Option<u64>) {
        let _ = upstream_ms;
    }

    /// What was seen since the last time is to be added to the worker's counters. Asked after each of the
    /// other calls that a counting filter needs; a stream may have another worker at each.
    fn count(&mut self, worker: &Recorder) {
        let _ = worker;
    }

    /// A pending call is to go on: `Continue`, or `Reply`.
    fn resumed(&mut self, token: Token) -> Verdict {
        let _ = token;
        Verdict::Continue
    }

    /// This filter looks at body bytes, of which each is then copied; without it they pass by. Asked
    /// again for each piece.
    fn wants_body(&self) -> bool {
        false
    }

    /// This filter looks at body bytes and changes none: they are shown to it where they are.
    fn watches_body(&self) -> bool {
        false
    }

    /// This filter looks at the response; without it nothing is kept for it while parked.
    fn wants_response(&self) -> bool {
        false
    }
}
