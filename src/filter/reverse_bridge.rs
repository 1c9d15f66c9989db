//! gRPC for servers that do not speak it (`envoy.filters.http.grpc_http1_reverse_bridge`): a call becomes a
//! plain request of another content type, and the answer a call's.
//!
//! With `withhold_grpc_frames` the server sees messages without their prefix, so that a call has one message
//! each way. An answer whose length is told passes as it comes; another is held until its end, up to a limit,
//! and counted in the memory budget meanwhile.

use std::sync::Arc;

use moorgate_codecs::Head;

use super::{Filter, FilterFactory, Reply, Verdict};
use crate::engine::chunk::{Budget, Charge};
use crate::grpc;
use crate::text;

/// Prefix of a message: a flag and four bytes of length.
const PREFIX: usize = 5;

/// An answer without a length is held up to this; gRPC clients take no larger ones by default.
const MOST_HELD: usize = 4 << 20;

/// gRPC's `UNKNOWN`, `RESOURCE_EXHAUSTED` and `INTERNAL`.
const UNKNOWN: u8 = 2;
const RESOURCE_EXHAUSTED: u8 = 8;
const INTERNAL: u8 = 13;

/// The filter as configured.
#[derive(Clone, Debug)]
pub struct ReverseBridge {
    /// What the server gets and is to answer with.
    pub content_type: Vec<u8>,
    /// It does not see the prefixes of messages.
    pub withhold_grpc_frames: bool,
    /// The field in which it tells the size of its answer.
    pub response_size_header: Option<Vec<u8>>,
}

/// Makes filters of one configuration.
#[derive(Debug)]
pub struct ReverseBridges(Arc<ReverseBridge>);

impl ReverseBridges {
    /// A factory.
    #[must_use]
    pub fn new(bridge: ReverseBridge) -> Self {
        Self(Arc::new(bridge))
    }
}

impl FilterFactory for ReverseBridges {
    fn name(&self) -> &str {
        "envoy.filters.http.grpc_http1_reverse_bridge"
    }

    fn make(&self) -> Box<dyn Filter> {
        Box::new(Call {
            bridge: Arc::clone(&self.0),
            on: false,
            content_type: Vec::new(),
            stripped: 0,
            status: 0,
            size: None,
            has_body: false,
            framed: false,
            held: Vec::new(),
            charge: Charge::default(),
            too_large: false,
            passed: 0,
        })
    }
}

/// One call.
#[derive(Debug)]
struct Call {
    bridge: Arc<ReverseBridge>,
    /// It is gRPC; all others pass.
    on: bool,
    /// As the client said it.
    content_type: Vec<u8>,
    /// Bytes of the prefix that were taken off.
    stripped: usize,
    status: u8,
    /// What the answer's message will have, when that is told.
    size: Option<u64>,
    /// The answer has a body.
    has_body: bool,
    /// Its prefix is written.
    framed: bool,
    held: Vec<u8>,
    charge: Charge,
    too_large: bool,
    passed: u64,
}

fn refuse(status: u8, text: Vec<u8>, details: &'static str) -> Verdict {
    Verdict::Reply(Reply {
        status: 200,
        body: text,
        headers: vec![(b"grpc-status".to_vec(), status.to_string().into_bytes())],
        details,
    })
}

fn set_status(trailers: &mut Head, status: u8) {
    trailers.set(b"grpc-status", status.to_string().as_bytes());
}

impl Call {
    fn withholds(&self) -> bool {
        self.bridge.withhold_grpc_frames
    }

    fn push_prefix(out: &mut Vec<u8>, len: u64) {
        out.push(0);
        // A message has no more; a server that says otherwise is told so at the end.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        out.extend_from_slice(&len.to_be_bytes());
    }

    /// What was held, as one message.
    fn release(&mut self, data: &mut Vec<u8>) {
        if !self.too_large {
            Self::push_prefix(data, self.held.len() as u64);
            data.append(&mut self.held);
            self.held = Vec::new();
            self.charge.clear();
        }
    }

    /// The answer ends: its status, and what was wrong with it.
    fn conclude(&self, trailers: &mut Head) {
        if self.too_large {
            set_status(trailers, RESOURCE_EXHAUSTED);
            trailers.set(b"grpc-message", b"the answer is too large to be held");
        } else if self.size.is_some_and(|size| size != self.passed) {
            set_status(trailers, INTERNAL);
            let message = b"envoy reverse bridge: upstream set incorrect content length";
            trailers.set(b"grpc-message", message);
        } else {
            set_status(trailers, self.status);
        }
    }
}

impl Filter for Call {
    fn request_head(&mut self, head: &mut Head, end: bool) -> Verdict {
        if end || !grpc::is_grpc(head) {
            return Verdict::Continue;
        }
        self.on = true;
        self.content_type = head.get(b"content-type").unwrap_or_default().to_vec();
        head.set(b"content-type", &self.bridge.content_type);
        head.set(b"accept", &self.bridge.content_type);
        if self.withholds()
            && let Some(len) = head.content_length
        {
            head.content_length = Some(len.saturating_sub(PREFIX as u64));
        }
        Verdict::Continue
    }

    fn request_data(&mut self, data: &mut Vec<u8>, end: bool) -> Verdict {
        if self.on && self.withholds() && self.stripped < PREFIX {
            let strip = data.len().min(PREFIX - self.stripped);
            data.drain(..strip);
            self.stripped += strip;
            if end && self.stripped < PREFIX {
                let text = b"invalid request body".to_vec();
                return refuse(UNKNOWN, text, "grpc_bridge_data_too_small");
            }
        }
        Verdict::Continue
    }

    fn response_head(&mut self, head: &mut Head, end: bool) -> Verdict {
        if !self.on {
            return Verdict::Continue;
        }
        let content_type = head.get(b"content-type").unwrap_or_default();
        if content_type != self.bridge.content_type {
            let mut message = b"envoy reverse bridge: upstream responded with ".to_vec();
            if content_type.is_empty() {
                message.extend_from_slice(b"no content-type header");
            } else {
                message.extend_from_slice(b"unsupported content-type ");
                message.extend_from_slice(content_type);
            }
            message.extend_from_slice(format!(", status code {}", head.status).as_bytes());
            return refuse(UNKNOWN, message, "grpc_bridge_content_type_wrong");
        }
        let content_type = std::mem::take(&mut self.content_type);
        head.set(b"content-type", &content_type);
        if self.withholds() {
            if let Some(name) = &self.bridge.response_size_header {
                let value = head.get(name).unwrap_or_default();
                let first = value.split(|&byte| byte == b',').next().unwrap_or_default();
                let Some(size) = text::parse_decimal(first) else {
                    let text = b"envoy reverse bridge: upstream did not set content length";
                    let details = "grpc_bridge_content_length_missing";
                    return refuse(INTERNAL, text.to_vec(), details);
                };
                self.size = Some(size);
            } else {
                self.size = head.content_length;
            }
            if end {
                self.size = None;
            }
            head.content_length = match self.size {
                _ if end => Some(PREFIX as u64),
                Some(size) => Some(size.saturating_add(PREFIX as u64)),
                None => None,
            };
        }
        // An answer of 200 is a success, which no mapping for gRPC servers says.
        self.status = match head.status {
            200 => 0,
            status => grpc::status_of_http(status),
        };
        head.status = 200;
        Verdict::Continue
    }

    fn response_data(&mut self, data: &mut Vec<u8>, _end: bool) {
        self.has_body = true;
        if !self.on || !self.withholds() {
            return;
        }
        self.passed += data.len() as u64;
        if let Some(size) = self.size {
            if !self.framed {
                self.framed = true;
                let mut framed = Vec::with_capacity(data.len() + PREFIX);
                Self::push_prefix(&mut framed, size);
                framed.append(data);
                *data = framed;
            }
        } else if self.too_large || self.held.len() + data.len() > MOST_HELD {
            self.too_large = true;
            self.held = Vec::new();
            self.charge.clear();
            data.clear();
        } else {
            self.held.append(data);
        }
    }

    fn charge(&mut self, budget: &Arc<Budget>) {
        let held = self.held.capacity();
        if held != self.charge.bytes() {
            self.charge.set(budget, held);
        }
    }

    fn held(&self) -> usize {
        self.charge.bytes()
    }

    fn response_end(&mut self, data: &mut Vec<u8>, trailers: &mut Head) -> bool {
        if !self.on || !self.has_body && !self.withholds() {
            return false;
        }
        if self.withholds() && self.size.is_none() {
            self.release(data);
        }
        self.conclude(trailers);
        true
    }

    fn response_trailers(&mut self, trailers: &mut Head, data: &mut Vec<u8>) -> bool {
        if self.on {
            if self.withholds() && self.size.is_none() {
                self.release(data);
            }
            self.conclude(trailers);
        }
        false
    }

    fn wants_body(&self) -> bool {
        self.on
    }

    fn wants_response(&self) -> bool {
        self.on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "application/x-protobuf";

    fn call(withhold: bool, size: Option<&str>) -> (Box<dyn Filter>, Head) {
        let bridge = ReverseBridge {
            content_type: KIND.into(),
            withhold_grpc_frames: withhold,
            response_size_header: size.map(|name| name.as_bytes().to_vec()),
        };
        let mut call = ReverseBridges::new(bridge).make();
        let mut head = Head::new();
        head.push(b"content-type", b"application/grpc+proto");
        head.content_length = Some(7);
        assert!(matches!(
            call.request_head(&mut head, false),
            Verdict::Continue
        ));
        (call, head)
    }

    fn answer(status: u16, content_type: &str, len: Option<u64>) -> Head {
        let mut head = Head::new();
        head.status = status;
        head.push(b"content-type", content_type.as_bytes());
        head.content_length = len;
        head
    }

    /// Sends an answer's body in two pieces; what the client gets, and its status.
    fn finish(call: &mut dyn Filter, body: &[u8], cut: usize) -> (Vec<u8>, Vec<u8>) {
        let mut whole = Vec::new();
        let mut trailers = Head::new();
        let (first, last) = body.split_at(cut);
        let mut data = first.to_vec();
        call.response_data(&mut data, false);
        whole.append(&mut data);
        data = last.to_vec();
        call.response_data(&mut data, true);
        assert!(call.response_end(&mut data, &mut trailers));
        whole.append(&mut data);
        let status = trailers.get(b"grpc-status").unwrap().to_vec();
        (whole, status)
    }

    #[test]
    fn prefixes_go_and_come_back_however_bodies_are_cut() {
        let sent = b"\0\0\0\0\x02ab";
        for cut in 0..=sent.len() {
            let (mut call, head) = call(true, None);
            assert_eq!(head.get(b"content-type"), Some(KIND.as_bytes()));
            assert_eq!(head.get(b"accept"), Some(KIND.as_bytes()));
            assert_eq!(head.content_length, Some(2));
            let mut got = Vec::new();
            for (piece, end) in [(&sent[..cut], false), (&sent[cut..], true)] {
                let mut data = piece.to_vec();
                assert!(matches!(
                    call.request_data(&mut data, end),
                    Verdict::Continue
                ));
                got.extend(data);
            }
            assert_eq!(got, b"ab");
        }
        for len in [None, Some(3)] {
            for cut in 0..=3 {
                let (mut call, _) = call(true, None);
                let mut head = answer(200, KIND, len);
                assert!(matches!(
                    call.response_head(&mut head, false),
                    Verdict::Continue
                ));
                let client = head.get(b"content-type").unwrap();
                assert_eq!(client, b"application/grpc+proto");
                assert_eq!(head.content_length, len.map(|len| len + 5));
                let (body, status) = finish(&mut *call, b"xyz", cut);
                assert_eq!(body, b"\0\0\0\0\x03xyz");
                assert_eq!(status, b"0");
            }
        }
    }

    #[test]
    fn statuses_and_sizes() {
        // An error keeps its body, and says what it is behind it.
        let (mut call_, _) = call(false, None);
        let mut head = answer(503, KIND, Some(2));
        call_.response_head(&mut head, false);
        assert_eq!(head.status, 200);
        let (body, status) = finish(&mut *call_, b"no", 1);
        assert_eq!((&body[..], &status[..]), (&b"no"[..], &b"14"[..]));
        // An answer without a body is an empty message.
        let (mut call_, _) = call(true, None);
        let mut head = answer(200, KIND, Some(0));
        call_.response_head(&mut head, true);
        assert_eq!(head.content_length, Some(5));
        let (mut data, mut trailers) = (Vec::new(), Head::new());
        assert!(call_.response_end(&mut data, &mut trailers));
        assert_eq!(data, [0; 5]);
        // A told size is believed until the end.
        for (size, expected) in [("3, 9", "0"), ("4", "13")] {
            let (mut call, _) = call(true, Some("x-size"));
            let mut head = answer(200, KIND, None);
            head.push(b"x-size", size.as_bytes());
            call.response_head(&mut head, false);
            let (_, status) = finish(&mut *call, b"xyz", 2);
            assert_eq!(status, expected.as_bytes());
        }
        // What is held has a limit.
        let (mut call_, _) = call(true, None);
        call_.response_head(&mut answer(200, KIND, None), false);
        let (body, status) = finish(&mut *call_, &vec![0; MOST_HELD + 1], MOST_HELD);
        assert_eq!((&body[..], &status[..]), (&b""[..], &b"8"[..]));
    }

    #[test]
    fn what_is_held_counts_in_the_budget() {
        let budget = Arc::new(Budget::new(usize::MAX));
        let hold = || {
            let (mut call, _) = call(true, None);
            call.response_head(&mut answer(200, KIND, None), false);
            for _ in 0..10 {
                call.response_data(&mut vec![0; 1000], false);
                call.charge(&budget);
            }
            assert!(call.held() >= 10_000);
            assert_eq!(budget.used(), call.held());
            call
        };
        drop(hold());
        assert_eq!(budget.used(), 0, "a stream that is reset gives it back");
        let (mut data, mut trailers) = (Vec::new(), Head::new());
        let mut ended = hold();
        assert!(ended.response_end(&mut data, &mut trailers));
        assert_eq!((data.len(), budget.used()), (10_005, 0));
        let mut too_large = hold();
        too_large.response_data(&mut vec![0; MOST_HELD], false);
        assert_eq!((too_large.held(), budget.used()), (0, 0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (withhold, content_type, size, expected) in [
            (false, "text/html", None, "grpc_bridge_content_type_wrong"),
            (
                true,
                KIND,
                Some("x-size"),
                "grpc_bridge_content_length_missing",
            ),
        ] {
            let (mut call, _) = call(withhold, size);
            let verdict = call.response_head(&mut answer(200, content_type, None), false);
            let Verdict::Reply(reply) = verdict else {
                panic!("{content_type} was taken");
            };
            assert_eq!((reply.status, reply.details), (200, expected));
        }
        let (mut call, _) = call(true, None);
        let Verdict::Reply(reply) = call.request_data(&mut b"\0\0\0\0".to_vec(), true) else {
            panic!("half a prefix was taken");
        };
        assert_eq!(reply.details, "grpc_bridge_data_too_small");
    }
}
