//! Every known shape by which two parsers come to see different messages, and what each gets.
//!
//! The outcome is written down in `docs/smuggling.md`, which this test checks; run it with
//! `MOORGATE_BLESS=1` to write the file anew. Whatever is forwarded is checked to be one message that
//! cannot be read in another way.

use std::fmt::Write as _;

use super::shapes::{REQUESTS, RESPONSES};
use super::*;

const HOST: &str = "Host: h\r\n";

/// Sends on what came in, as the proxy does without filters.
struct Relay {
    out: Out,
    bytes: Vec<u8>,
}

impl Relay {
    fn data(&mut self, codec: &mut impl Codec, stream: StreamId, data: &[u8], end: bool) {
        let sent = codec.send_data(stream, data.len(), end, &mut self.out);
        assert_eq!(sent, Ok(data.len()));
        self.flush(data);
    }

    fn flush(&mut self, data: &[u8]) {
        self.bytes
            .extend(render(&std::mem::take(&mut self.out), data));
    }
}

/// What goes on to the other side: every message, and how it ended.
fn relay<I: Codec, O: Codec>(
    mut from: I,
    bytes: &[u8],
    mut open: impl FnMut() -> (O, StreamId),
) -> (Vec<String>, String) {
    let mut messages: Vec<String> = Vec::new();
    let mut events = Events::default();
    let mut input = bytes;
    let mut current: Option<(O, StreamId, Relay)> = None;
    let mut replies = Out::default();
    loop {
        let consumed = from.decode(0, input, &mut events, &mut replies);
        let mut answered = None;
        for event in std::mem::take(&mut events.list) {
            let mut finish = false;
            match event {
                Event::Head { head, end, stream } => {
                    let (mut to, to_stream) = open();
                    let mut relay = Relay {
                        out: Out::default(),
                        bytes: Vec::new(),
                    };
                    to.send_head(to_stream, &head, end, &mut relay.out)
                        .expect("what came in can go out");
                    relay.flush(b"");
                    current = Some((to, to_stream, relay));
                    finish = end;
                    answered = Some(stream);
                }
                Event::Data { range, end, .. } => {
                    let (to, stream, relay) = current.as_mut().expect("after a head");
                    relay.data(to, *stream, &input[range], end);
                    finish = end;
                }
                Event::Trailers { head, .. } => {
                    let (to, stream, relay) = current.as_mut().expect("after a head");
                    to.send_trailers(*stream, &head, &mut relay.out)
                        .expect("what came in can go out");
                    relay.flush(b"");
                    finish = true;
                }
                _ => {}
            }
            if finish && let Some((_, _, relay)) = current.take() {
                messages.push(relay.bytes.escape_ascii().to_string());
            }
        }
        input = &input[consumed.bytes..];
        let end = match consumed.why {
            Why::Closed(Some(error)) => format!("{} `{}`", error.status, error.detail),
            Why::Closed(None) => "closed".into(),
            Why::Upgraded | Why::Http2 => "tunnel".into(),
            Why::Paused | Why::NeedMore => {
                if let Some(stream) = answered
                    && from.send_head(stream, &ok(), true, &mut replies).is_ok()
                {
                    continue;
                }
                if current.is_some() {
                    "waits for more".into()
                } else {
                    String::new()
                }
            }
        };
        if current.is_some() {
            messages.push("(cut off)".into());
        }
        return (messages, end);
    }
}

fn request_row(bytes: &str) -> (Vec<String>, String) {
    relay(Server::new(settings()), bytes.as_bytes(), || {
        let mut client = Client::new(settings());
        let stream = client.open().expect("fresh");
        (client, stream)
    })
}

fn response_row(bytes: &str) -> (Vec<String>, String) {
    let mut from = Client::new(settings());
    let stream = from.open().expect("fresh");
    let mut out = Out::default();
    from.send_head(stream, &request("GET", "/"), true, &mut out)
        .expect("head");
    relay(from, bytes.as_bytes(), || {
        let mut server = Server::new(settings());
        let get = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";
        server.decode(0, get, &mut Events::default(), &mut Out::default());
        (server, 1)
    })
}

fn row(shape: &str, bytes: &str, messages: &[String], end: &str) -> String {
    let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
    let mut cells: Vec<String> = messages.iter().map(|message| code(message)).collect();
    if !end.is_empty() {
        cells.push(end.into());
    }
    let bytes = code(&bytes.escape_default().to_string());
    format!("| {shape} | {bytes} | {} |\n", cells.join(", then "))
}

fn table() -> String {
    let mut text = String::from(
        "# What ambiguous messages get\n\n\
         Checked by the test `http1::tests::smuggling` of the codecs, which also writes this file\n\
         (`MOORGATE_BLESS=1 cargo test -p moorgate-codecs smuggling`). `accept_http_10`, trailers and\n\
         CONNECT are on here.\n\n\
         The result is what the other side is sent, or the status that the sender of the shape gets; a\n\
         refusal always ends the connection. \"cut off\" is a message whose beginning was passed on before\n\
         its body broke: the connection to the other side is closed before the end that was promised.\n\
         An upstream whose response is refused gives its client a 502.\n\n\
         Envoy 1.40 was given the same bytes. It refuses the same two lengths, lengths and transfer\n\
         codings with the same status, and is more lenient elsewhere: it takes bare LF as a line end, joins\n\
         obs-fold, drops bare CR, takes several spaces and tabs in the request line, HTTP/1.2, chunked in\n\
         HTTP/1.0, NUL in and spaces after chunk sizes, data beyond a chunk's size (skipped), two hosts\n\
         (joined by a comma), empty hosts, hosts with a user or a port that is no number, absolute targets\n\
         without host, and a 101 nobody asked for. It is stricter with a host named by connection (400).\n",
    );
    let mut last = "";
    let rows = REQUESTS
        .iter()
        .map(|row| (row, true))
        .chain(RESPONSES.iter().map(|row| (row, false)));
    for ((group, shape, bytes), is_request) in rows {
        if *group != last {
            last = group;
            write!(
                text,
                "\n## {group}\n\n| Shape | Bytes | Result |\n|---|---|---|\n"
            )
            .expect("a string");
        }
        let bytes = bytes.replace("{H}", HOST);
        let (messages, end) = if is_request {
            request_row(&bytes)
        } else {
            response_row(&bytes)
        };
        text += &row(shape, &bytes, &messages, &end);
    }
    text
}

#[test]
fn the_table_is_what_happens() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/smuggling.md");
    let now = table();
    if std::env::var_os("MOORGATE_BLESS").is_some() {
        std::fs::write(path, &now).expect("docs/smuggling.md");
    }
    let then = std::fs::read_to_string(path).expect("docs/smuggling.md");
    assert!(
        then == now,
        "docs/smuggling.md is not what happens; see how to write it anew in its head"
    );
}

#[test]
fn what_is_forwarded_is_read_the_same_way_again() {
    for (_, shape, bytes) in REQUESTS {
        let bytes = bytes.replace("{H}", HOST);
        for message in request_row(&bytes).0 {
            if message == "(cut off)" || message.starts_with("CONNECT") {
                continue;
            }
            let again = request_row(&unescape(&message));
            assert_eq!(again.0, [message.as_str()], "{shape}");
            // A refused upgrade ends the connection, here as there.
            let end = if message.contains("upgrade: ") {
                "closed"
            } else {
                ""
            };
            assert_eq!(again.1, end, "{shape}");
        }
    }
}

/// No shape is refused or taken depending on how it was cut.
#[test]
fn shapes_in_pieces() {
    for (_, _, bytes) in REQUESTS {
        serve(&settings(), bytes.replace("{H}", HOST).as_bytes());
    }
    for (_, _, bytes) in RESPONSES {
        receive(&request("GET", "/"), bytes.as_bytes(), false);
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\r", "\r")
        .replace("\\n", "\n")
        .replace("\\t", "\t")
        .replace("\\\"", "\"")
        .replace("\\xc3\\xa9", "\u{e9}")
        .replace("\\xc2\\xa0", "\u{a0}")
}
