//! What is sent again and again: one request, or one message to be echoed, over TCP or WebSocket.
//!
//! A request is encoded once, by the codec, and sent as it is from then on. Hop-by-hop fields are the
//! codec's: asking for one is an error, so that no header is dropped in silence.

use std::sync::Arc;

use moorgate_codecs::http1::{Client, Settings};
use moorgate_codecs::websocket::{self, Opcode};
use moorgate_codecs::{Codec, Compact, Head, HeadKind, Out};

use crate::target::{Scheme, Target};

/// Fields that the codec makes itself.
const MADE_BY_CODEC: [&str; 7] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// A message and how its answer is read.
#[derive(Debug)]
pub struct Exchange {
    /// What is sent.
    pub bytes: Vec<u8>,
    /// How the answer is read.
    pub answer: Answer,
    /// The connection carries another exchange after this one.
    pub keep_alive: bool,
    /// What a connection begins with: a request to become a WebSocket.
    pub opening: Option<Box<Head>>,
}

/// Key of every opening handshake: that of RFC 6455 section 1.3. It proves nothing that a load generator
/// would need proved.
pub const WEBSOCKET_KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";
/// Key that frames are masked with, so that each is the same bytes again.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// How an answer is read.
#[derive(Debug)]
pub enum Answer {
    /// The same bytes again.
    Echo,
    /// A response. The codec of a connection that has sent the request, in its parked form.
    Http {
        settings: Arc<Settings>,
        awaiting: Compact,
    },
    /// A message with the same payload.
    WebSocket {
        /// The payload.
        payload: Vec<u8>,
        /// The message in one frame, as most servers send it.
        frame: Vec<u8>,
    },
}

/// Parts of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method.
    pub method: &'a str,
    /// Fields, each `name: value`.
    pub headers: &'a [String],
    /// Body; none when empty.
    pub body: &'a [u8],
    /// Without it the request says `connection: close`.
    pub keep_alive: bool,
}

impl Exchange {
    /// A message of `bytes` that comes back.
    #[must_use]
    pub fn echo(bytes: Vec<u8>, keep_alive: bool) -> Self {
        Self {
            bytes,
            answer: Answer::Echo,
            keep_alive,
            opening: None,
        }
    }

    /// A message over a WebSocket that comes back. Text where it is.
    ///
    /// # Errors
    /// A header that cannot be sent, in words for the command line.
    pub fn websocket(
        target: &Target,
        headers: &[String],
        payload: Vec<u8>,
        keep_alive: bool,
    ) -> Result<Self, String> {
        let mut head = Head::new();
        head.kind = HeadKind::Request;
        head.set_method(b"GET");
        head.set_scheme(target.http_scheme().as_bytes());
        head.set_authority(target.authority.as_bytes());
        head.set_path(target.path.as_bytes());
        head.upgrade = true;
        head.push(b"upgrade", b"websocket");
        head.push(b"sec-websocket-version", b"13");
        head.push(b"sec-websocket-key", WEBSOCKET_KEY);
        add_headers(&mut head, headers)?;
        let opcode = match std::str::from_utf8(&payload) {
            Ok(_) => Opcode::Text,
            Err(_) => Opcode::Binary,
        };
        let (mut bytes, mut frame) = (Vec::new(), Vec::new());
        websocket::write_frame(true, opcode, &payload, Some(MASK), &mut bytes);
        websocket::write_frame(true, opcode, &payload, None, &mut frame);
        let exchange = Self {
            bytes,
            answer: Answer::WebSocket { payload, frame },
            keep_alive,
            opening: Some(Box::new(head)),
        };
        exchange.open().ok_or("the opening cannot be sent")?;
        Ok(exchange)
    }

    /// The codec of a new connection, and the bytes that it begins with, where it begins with any.
    #[must_use]
    pub fn open(&self) -> Option<(Client, Vec<u8>)> {
        let head = self.opening.as_ref()?;
        let mut client = Client::new(Arc::default());
        let mut out = Out::default();
        let stream = client.open()?;
        client.send_head(stream, head, true, &mut out).ok()?;
        Some((client, out.bytes))
    }

    /// A message of `size` bytes, no two neighbours alike, that comes back.
    #[must_use]
    pub fn echo_of(size: usize, keep_alive: bool) -> Self {
        let bytes = (b'!'..=b'~').cycle().take(size).collect();
        Self::echo(bytes, keep_alive)
    }

    /// A request to `target`.
    ///
    /// # Errors
    /// What cannot be said in HTTP/1.1, in words for the command line.
    pub fn request(target: &Target, request: &Request<'_>) -> Result<Self, String> {
        debug_assert_eq!(target.scheme, Scheme::Http);
        let settings = Arc::new(Settings::default());
        let mut head = Head::new();
        head.kind = HeadKind::Request;
        head.set_method(request.method.as_bytes());
        head.set_authority(target.authority.as_bytes());
        head.set_path(target.path.as_bytes());
        add_headers(&mut head, request.headers)?;
        if !request.body.is_empty() {
            head.content_length = Some(request.body.len() as u64);
        }

        let unencodable = |error| format!("the request cannot be sent: {error:?}");
        let mut client = Client::new(Arc::clone(&settings));
        let mut out = Out::default();
        let stream = client.open().ok_or("a new connection takes no request")?;
        if !request.keep_alive {
            client.go_away(&mut out);
        }
        let end = request.body.is_empty();
        client
            .send_head(stream, &head, end, &mut out)
            .map_err(unencodable)?;
        if !end {
            client
                .send_data(stream, request.body.len(), true, &mut out)
                .map_err(unencodable)?;
        }
        let awaiting = client.park().ok_or("the request cannot be repeated")?;
        Ok(Self {
            bytes: joined(&out, request.body),
            answer: Answer::Http { settings, awaiting },
            keep_alive: request.keep_alive,
            opening: None,
        })
    }
}

/// Fields from the command line, each `name: value`.
pub(crate) fn add_headers(head: &mut Head, headers: &[String]) -> Result<(), String> {
    for header in headers {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| format!("header {header:?} is not of the form name: value"))?;
        let name = name.trim().to_ascii_lowercase();
        if MADE_BY_CODEC.contains(&name.as_str()) {
            return Err(format!("header {name} follows from the other options"));
        }
        match name.as_str() {
            "host" => head.set_authority(value.trim().as_bytes()),
            "expect" => return Err("header expect is not supported".to_owned()),
            _ => head.push(name.as_bytes(), value.trim().as_bytes()),
        }
    }
    Ok(())
}

/// The output with the payload in its places.
fn joined(out: &Out, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(out.bytes.len() + payload.len());
    let mut at = 0;
    for place in &out.payloads {
        bytes.extend_from_slice(&out.bytes[at..place.at]);
        bytes.extend_from_slice(&payload[place.start..place.end]);
        at = place.at;
    }
    bytes.extend_from_slice(&out.bytes[at..]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target::parse("http://127.0.0.1:81/x", false).unwrap()
    }

    fn encoded(request: &Request<'_>) -> String {
        let exchange = Exchange::request(&target(), request).unwrap();
        String::from_utf8(exchange.bytes).unwrap()
    }

    const GET: Request<'static> = Request {
        method: "GET",
        headers: &[],
        body: b"",
        keep_alive: true,
    };

    #[test]
    fn a_plain_request_is_short() {
        assert_eq!(
            encoded(&GET),
            "GET /x HTTP/1.1\r\nhost: 127.0.0.1:81\r\n\r\n"
        );
    }

    #[test]
    fn headers_body_and_close() {
        let headers = ["Host: other".to_owned(), "X-A:  b ".to_owned()];
        let text = encoded(&Request {
            method: "POST",
            headers: &headers,
            body: b"12345",
            keep_alive: false,
        });
        assert!(
            text.starts_with("POST /x HTTP/1.1\r\nhost: other\r\n"),
            "{text}"
        );
        assert!(text.contains("content-length: 5\r\n"), "{text}");
        assert!(text.contains("x-a: b\r\n"), "{text}");
        assert!(text.contains("connection: close\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n12345"), "{text}");
    }

    #[test]
    fn what_would_be_dropped_or_break_the_request_is_refused() {
        for header in [
            "Connection: close",
            "Content-Length: 3",
            "no colon",
            "a: b\r\nc: d",
            " : x",
        ] {
            let headers = [header.to_owned()];
            let request = Request {
                headers: &headers,
                ..GET
            };
            assert!(
                Exchange::request(&target(), &request).is_err(),
                "{header:?}"
            );
        }
        let request = Request {
            method: "GET /y",
            ..GET
        };
        assert!(Exchange::request(&target(), &request).is_err());
    }

    #[test]
    fn an_echo_has_its_size() {
        assert_eq!(Exchange::echo_of(1000, true).bytes.len(), 1000);
    }
}
