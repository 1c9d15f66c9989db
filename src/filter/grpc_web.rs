//! gRPC-Web (`envoy.filters.http.grpc_web`): a browser's call, binary or text, becomes gRPC, and its
//! answer becomes what a browser can read: trailers are the last frame of the body, and text is Base64.
//!
//! Works on what passes and keeps at most three bytes of it; it must never hold a message back. The one
//! exception is an answer that is no gRPC: its beginning becomes the `grpc-message`.

use moorgate_codecs::Head;

use super::{Filter, FilterFactory, Reply, Verdict};
use crate::grpc;

const WEB_PROTO: &[u8] = b"application/grpc-web+proto";
const TEXT_PROTO: &[u8] = b"application/grpc-web-text+proto";

/// How much of an answer that is no gRPC becomes the message.
const MOST_PLAIN: usize = 16 * 1024;

/// First byte of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;

/// The filter as configured; it has no settings.
#[derive(Debug, Default)]
pub struct GrpcWeb;

impl FilterFactory for GrpcWeb {
    fn name(&self) -> &str {
        "envoy.filters.http.grpc_web"
    }

    fn make(&self) -> Box<dyn Filter> {
        Box::new(Call::default())
    }
}

/// One call.
#[derive(Debug, Default)]
struct Call {
    /// It is gRPC-Web; all others pass.
    web: bool,
    text_request: bool,
    text_response: bool,
    from_text: Decoder,
    to_text: Encoder,
}

fn is_web(content_type: &[u8]) -> bool {
    content_type == b"application/grpc-web" || content_type == WEB_PROTO || is_text(content_type)
}

fn is_text(content_type: &[u8]) -> bool {
    content_type == b"application/grpc-web-text" || content_type == TEXT_PROTO
}

/// An answer with a body speaks gRPC, or gRPC-Web already.
fn is_grpc_answer(head: &Head) -> bool {
    let web = || head.get(b"content-type").is_some_and(is_web);
    head.status == 200 && grpc::is_grpc(head) || web()
}

/// Makes an answer that is no gRPC one that consists of its head.
fn make_status(head: &mut Head, body: &[u8]) {
    let mut message = Vec::new();
    grpc::push_message(&mut message, &body[..body.len().min(MOST_PLAIN)]);
    head.set(b"grpc-message", &message);
    let status = grpc::status_of_http(head.status).to_string();
    head.set(b"grpc-status", status.as_bytes());
    head.content_length = Some(0);
}

impl Call {
    fn show(&self, head: &mut Head) {
        let content_type = if self.text_response {
            TEXT_PROTO
        } else {
            WEB_PROTO
        };
        head.set(b"content-type", content_type);
    }
}

impl Filter for Call {
    fn request_head(&mut self, head: &mut Head, _end: bool) -> Verdict {
        let content_type = head.get(b"content-type").unwrap_or_default();
        if !is_web(content_type) {
            return Verdict::Continue;
        }
        self.web = true;
        self.text_request = is_text(content_type);
        self.text_response = head.get(b"accept").is_some_and(is_text);
        // It counts what the browser sends.
        head.content_length = None;
        head.set(b"content-type", grpc::CONTENT_TYPE);
        head.set(b"te", b"trailers");
        head.set(b"grpc-accept-encoding", b"identity");
        Verdict::Continue
    }

    fn request_data(&mut self, data: &mut Vec<u8>, end: bool) -> Verdict {
        if !self.text_request {
            return Verdict::Continue;
        }
        let text = std::mem::take(data);
        let details = match self.from_text.decode(&text, data) {
            Err(()) => "grpc_base_64_decode_failed",
            Ok(()) if end && self.from_text.digits > 0 => "grpc_base_64_decode_failed_bad_size",
            Ok(()) => return Verdict::Continue,
        };
        Verdict::Reply(Reply {
            status: 400,
            body: b"Bad gRPC-web request, invalid base64 data.".to_vec(),
            headers: Vec::new(),
            details,
        })
    }

    fn response_head(&mut self, head: &mut Head, end: bool) -> Verdict {
        if !self.web {
            return Verdict::Continue;
        }
        let plain = !end && !is_grpc_answer(head);
        self.show(head);
        if plain {
            return Verdict::StopAndBuffer(MOST_PLAIN);
        }
        if !end {
            head.content_length = None;
        }
        Verdict::Continue
    }

    fn response_held(&mut self, head: &mut Head, body: &[u8]) {
        make_status(head, body);
    }

    fn response_data(&mut self, data: &mut Vec<u8>, end: bool) {
        if self.text_response {
            let bytes = std::mem::take(data);
            self.to_text.encode(&bytes, data);
            if end {
                self.to_text.finish(data);
            }
        }
    }

    fn response_trailers(&mut self, trailers: &mut Head, data: &mut Vec<u8>) -> bool {
        if !self.web {
            return false;
        }
        let mut frame = vec![TRAILERS, 0, 0, 0, 0];
        for (name, value) in trailers.fields() {
            frame.extend_from_slice(name);
            frame.push(b':');
            frame.extend_from_slice(value);
            frame.extend_from_slice(b"\r\n");
        }
        // Trailers are bounded by the codec, far below 4 GiB.
        let len = (frame.len() - 5) as u32;
        frame[1..5].copy_from_slice(&len.to_be_bytes());
        if self.text_response {
            self.to_text.finish(data);
            self.to_text.encode(&frame, data);
        } else {
            data.extend_from_slice(&frame);
        }
        true
    }

    fn local_reply(&mut self, head: &mut Head, body: &mut Vec<u8>) {
        if !self.web {
            return;
        }
        if !body.is_empty() {
            make_status(head, body);
            body.clear();
        }
        self.show(head);
    }

    fn wants_body(&self) -> bool {
        self.web
    }

    fn wants_response(&self) -> bool {
        self.web
    }
}

/// Base64 that comes in pieces, padded wherever its writer padded it.
#[derive(Debug, Default)]
struct Decoder {
    bits: u32,
    /// Digits of the group that has begun, padding included.
    digits: u8,
    padding: u8,
}

impl Decoder {
    fn decode(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), ()> {
        out.reserve(text.len() / 4 * 3 + 3);
        for &digit in text {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' if self.digits >= 2 => 0,
                _ => return Err(()),
            };
            if digit == b'=' {
                self.padding += 1;
            } else if self.padding > 0 {
                return Err(());
            }
            self.bits = self.bits << 6 | u32::from(value);
            self.digits += 1;
            if self.digits == 4 {
                let [_, bytes @ ..] = self.bits.to_be_bytes();
                out.extend_from_slice(&bytes[..3 - usize::from(self.padding)]);
                *self = Self::default();
            }
        }
        Ok(())
    }
}

/// Base64 of gRPC frames, each padded by itself, however its bytes come.
#[derive(Debug, Default)]
struct Encoder {
    held: [u8; 3],
    holds: u8,
    /// The frame's prefix, as far as it came: a flag and the length of what follows.
    prefix: [u8; 5],
    has: u8,
    /// What is left of the frame.
    left: u32,
}

impl Encoder {
    fn encode(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        out.reserve(bytes.len() / 3 * 4 + 8);
        while let Some((&first, rest)) = bytes.split_first() {
            if usize::from(self.has) < self.prefix.len() {
                self.prefix[usize::from(self.has)] = first;
                self.has += 1;
                self.push(&[first], out);
                bytes = rest;
                let [_, len @ ..] = self.prefix;
                self.left = u32::from_be_bytes(len);
            } else {
                let (now, later) = bytes.split_at(bytes.len().min(self.left as usize));
                self.push(now, out);
                // At most what was left.
                self.left -= now.len() as u32;
                bytes = later;
            }
            if usize::from(self.has) == self.prefix.len() && self.left == 0 {
                self.finish(out);
            }
        }
    }

    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            self.held[usize::from(self.holds)] = byte;
            self.holds += 1;
            if self.holds == 3 {
                self.group(out);
            }
        }
    }

    fn group(&mut self, out: &mut Vec<u8>) {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let [a, b, c] = self.held;
        let bits = u32::from_be_bytes([0, a, b, c]);
        for digit in 0..4 {
            out.push(if digit <= self.holds {
                ALPHABET[(bits >> (18 - 6 * digit)) as usize & 63]
            } else {
                b'='
            });
        }
        (self.held, self.holds) = ([0; 3], 0);
    }

    /// The frame ends, or will not.
    fn finish(&mut self, out: &mut Vec<u8>) {
        if self.holds > 0 {
            self.group(out);
        }
        (self.has, self.left) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(content_type: &str, accept: &str) -> (Box<dyn Filter>, Head) {
        let mut head = Head::new();
        head.push(b"content-type", content_type.as_bytes());
        head.push(b"accept", accept.as_bytes());
        head.content_length = Some(8);
        let mut call = GrpcWeb.make();
        assert!(matches!(
            call.request_head(&mut head, false),
            Verdict::Continue
        ));
        (call, head)
    }

    fn answer(status: u16, content_type: &str) -> Head {
        let mut head = Head::new();
        head.status = status;
        head.push(b"content-type", content_type.as_bytes());
        head.content_length = Some(5);
        head
    }

    #[test]
    fn requests_become_grpc() {
        for (content_type, web) in [
            ("application/grpc-web", true),
            ("application/grpc-web+proto", true),
            ("application/grpc-web-text", true),
            ("application/grpc-web-text+proto", true),
            ("application/grpc", false),
            ("application/grpc-web+json", false),
            ("text/plain", false),
        ] {
            let (call, head) = call(content_type, "");
            assert_eq!(call.wants_body(), web, "{content_type}");
            assert_eq!(head.content_length.is_none(), web);
            let expected = if web {
                "application/grpc"
            } else {
                content_type
            };
            assert_eq!(head.get(b"content-type"), Some(expected.as_bytes()));
            assert_eq!(head.get(b"te"), web.then_some(&b"trailers"[..]));
        }
    }

    #[test]
    fn text_is_decoded_however_it_is_cut() {
        // Three messages, each padded by itself.
        let text = b"AAAAAAFhAAAAAAJiYw==AAAAAAA=";
        let bytes = b"\0\0\0\0\x01a\0\0\0\0\x02bc\0\0\0\0\0";
        for cut in 0..=text.len() {
            let (mut call, _) = call("application/grpc-web-text", "");
            let mut whole = Vec::new();
            for (piece, end) in [(&text[..cut], false), (&text[cut..], true)] {
                let mut data = piece.to_vec();
                assert!(matches!(
                    call.request_data(&mut data, end),
                    Verdict::Continue
                ));
                whole.extend(data);
            }
            assert_eq!(whole, bytes);
        }
        for (bad, details) in [
            (&b"AAA"[..], "grpc_base_64_decode_failed_bad_size"),
            (b"A===", "grpc_base_64_decode_failed"),
            (b"AA=A", "grpc_base_64_decode_failed"),
            (b"A-AA", "grpc_base_64_decode_failed"),
        ] {
            let (mut call, _) = call("application/grpc-web-text", "");
            let Verdict::Reply(reply) = call.request_data(&mut bad.to_vec(), true) else {
                panic!("{bad:?} was taken");
            };
            assert_eq!((reply.status, reply.details), (400, details));
        }
    }

    #[test]
    fn trailers_are_the_last_frame() {
        let mut trailers = Head::new();
        trailers.push(b"grpc-status", b"0");
        trailers.push(b"x-a", b"b");
        let body = b"\0\0\0\0\x01a\0\0\0\0\x02bc";
        let last = b"\x80\0\0\0\x16grpc-status:0\r\nx-a:b\r\n";
        for cut in 0..=body.len() {
            let (mut binary, _) = call("application/grpc-web", "*/*");
            let (mut text, _) = call("application/grpc-web", "application/grpc-web-text");
            let (mut plain, mut coded) = (Vec::new(), Vec::new());
            for (call, out) in [(&mut binary, &mut plain), (&mut text, &mut coded)] {
                let mut head = answer(200, "application/grpc");
                assert!(matches!(
                    call.response_head(&mut head, false),
                    Verdict::Continue
                ));
                assert_eq!(head.content_length, None);
                for piece in [&body[..cut], &body[cut..]] {
                    let mut data = piece.to_vec();
                    call.response_data(&mut data, false);
                    out.extend(data);
                }
                assert!(call.response_trailers(&mut trailers, out));
            }
            assert_eq!(plain, [&body[..], last].concat());
            let mut back = Vec::new();
            Decoder::default().decode(&coded, &mut back).unwrap();
            assert_eq!(back, plain);
            assert!(coded.starts_with(b"AAAAAAFhAAAAAAJiYw==gAAA"));
        }
    }

    #[test]
    fn what_is_no_grpc_becomes_a_status() {
        let (mut call, _) = call("application/grpc-web", "");
        let mut head = answer(503, "text/plain");
        assert!(matches!(
            call.response_head(&mut head, false),
            Verdict::StopAndBuffer(16_384)
        ));
        call.response_held(&mut head, b"100% full");
        assert_eq!((head.status, head.content_length), (503, Some(0)));
        assert_eq!(head.get(b"grpc-status"), Some(&b"14"[..]));
        assert_eq!(head.get(b"grpc-message"), Some(&b"100%25 full"[..]));
        assert_eq!(head.get(b"content-type"), Some(WEB_PROTO));
        // The proxy's own answer likewise; without a body there is nothing to tell.
        let (mut head, mut body) = (answer(404, "text/plain"), b"none".to_vec());
        call.local_reply(&mut head, &mut body);
        assert_eq!(head.get(b"grpc-status"), Some(&b"12"[..]));
        assert!(body.is_empty());
        let mut head = answer(404, "");
        call.local_reply(&mut head, &mut body);
        assert_eq!(head.get(b"grpc-status"), None);
        assert_eq!(head.get(b"content-type"), Some(WEB_PROTO));
        // Trailers-only is gRPC, whatever its type.
        let mut head = answer(200, "application/grpc");
        head.push(b"grpc-status", b"5");
        assert!(matches!(
            call.response_head(&mut head, true),
            Verdict::Continue
        ));
        assert_eq!(head.get(b"content-type"), Some(WEB_PROTO));
        assert_eq!(head.get(b"grpc-status"), Some(&b"5"[..]));
    }
}
