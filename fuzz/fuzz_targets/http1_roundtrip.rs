//! Whatever a server accepts can be sent on, and the next server sees the same messages: nothing is
//! added, lost or split on the way.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use moorgate_codecs::http1::{Client, Server, Settings};
use moorgate_codecs::{Codec, Event, Events, Head, Out, StreamId, Why};
use moorgate_fuzz::{describe, render, response};

/// One request as a server saw it.
#[derive(Debug, Default)]
struct Message {
    head: Head,
    body: Vec<u8>,
    trailers: Option<Head>,
    /// It had a body, perhaps an empty one.
    open: bool,
}

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        accept_http_10: true,
        allow_connect: true,
        custom_methods: true,
        enable_trailers: true,
        ..Settings::default()
    })
}

/// The next server has room for the fields of the connection that a client writes itself, and for the
/// space after a colon: a head at our limits may be a little beyond the same limits one hop later.
fn next_hop() -> Arc<Settings> {
    let here = settings();
    Arc::new(Settings {
        max_fields: here.max_fields + 4,
        max_head_bytes: here.max_head_bytes * 2,
        ..Settings::clone(&here)
    })
}

/// The complete messages in the bytes, and whether nothing was left over or refused. A request to
/// switch protocols that is not granted ends the connection, in order.
fn read(bytes: &[u8], settings: Arc<Settings>) -> (Vec<Message>, bool) {
    let mut server = Server::new(settings);
    let mut events = Events::default();
    let mut out = Out::default();
    let mut messages = Vec::new();
    let mut current: Option<Message> = None;
    let mut input = bytes;
    loop {
        let consumed = server.decode(0, input, &mut events, &mut out);
        let mut ended: Option<StreamId> = None;
        for event in std::mem::take(&mut events.list) {
            let (stream, end) = match event {
                Event::Head { stream, head, end } => {
                    let head = *head;
                    current = Some(Message {
                        head,
                        open: !end,
                        ..Message::default()
                    });
                    (stream, end)
                }
                Event::Data { stream, range, end } => {
                    if let Some(message) = &mut current {
                        message.body.extend_from_slice(&input[range]);
                    }
                    (stream, end)
                }
                Event::Trailers { stream, head } => {
                    if let Some(message) = &mut current {
                        message.trailers = Some(*head);
                    }
                    (stream, true)
                }
                other => panic!("a server said {other:?}"),
            };
            if end {
                messages.extend(current.take());
                ended = Some(stream);
            }
        }
        input = &input[consumed.bytes..];
        let over = matches!(consumed.why, Why::Closed(_) | Why::Upgraded);
        let refused = matches!(consumed.why, Why::Closed(Some(_)));
        match ended {
            Some(stream) if !over => {
                let sent = server.send_head(stream, &response(200), true, &mut out);
                assert_eq!(sent, Ok(()));
            }
            _ => return (messages, input.is_empty() && current.is_none() && !refused),
        }
    }
}

fn send(message: &Message) -> Vec<u8> {
    let mut client = Client::new(settings());
    let stream = client.open().expect("an idle connection");
    let mut out = Out::default();
    client
        .send_head(stream, &message.head, !message.open, &mut out)
        .expect("what was accepted can be sent");
    let mut bytes = render(&std::mem::take(&mut out), b"");
    if message.open {
        let end = message.trailers.is_none();
        let sent = client.send_data(stream, message.body.len(), end, &mut out);
        assert_eq!(sent, Ok(message.body.len()));
        bytes.extend(render(&std::mem::take(&mut out), &message.body));
        if let Some(trailers) = &message.trailers {
            client
                .send_trailers(stream, trailers, &mut out)
                .expect("what was accepted can be sent");
            bytes.extend(render(&out, b""));
        }
    }
    bytes
}

fn same(a: &Message, b: &Message) {
    let fields = |head: &Head| -> Vec<(Vec<u8>, Vec<u8>)> {
        // Where "te", "expect" and "upgrade" stand among the others is the codec's choice.
        let mut fields: Vec<_> = head
            .fields()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
        fields.sort_by_key(|(name, _)| matches!(&name[..], b"te" | b"upgrade"));
        fields
    };
    assert_eq!(a.head.method(), b.head.method());
    assert_eq!(a.head.authority(), b.head.authority());
    assert_eq!(a.head.path(), b.head.path());
    assert_eq!(a.head.upgrade, b.head.upgrade);
    assert_eq!(a.head.expect_continue, b.head.expect_continue);
    let mut left = fields(&a.head);
    let mut right = fields(&b.head);
    left.sort();
    right.sort();
    assert_eq!(left, right);
    assert_eq!(a.body, b.body);
    let trailers = |message: &Message| message.trailers.as_ref().map(describe);
    assert_eq!(trailers(a), trailers(b));
}

fuzz_target!(|bytes: &[u8]| {
    for message in &read(bytes, settings()).0 {
        let forwarded = send(message);
        let (again, clean) = read(&forwarded, next_hop());
        let [copy] = &again[..] else {
            panic!(
                "one message became {}: {}",
                again.len(),
                forwarded.escape_ascii()
            );
        };
        assert!(clean, "left over or refused: {}", forwarded.escape_ascii());
        same(message, copy);
    }
});
