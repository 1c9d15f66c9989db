//! Answers at every split, and what is none.

use super::*;
use crate::exchange::Request;
use crate::target::Target;

fn reader(method: &str) -> Reader {
    let target = Target::parse("http://127.0.0.1:81/", false).unwrap();
    let request = Request {
        method,
        headers: &[],
        body: b"",
        keep_alive: true,
    };
    Reader::new(Arc::new(Exchange::request(&target, &request).unwrap()))
}

/// Feeds in pieces of at most `size` until the outcome is known.
fn fed(reader: &mut Reader, text: &[u8], size: usize) -> Outcome {
    let mut progress = Progress::Start;
    for piece in text.chunks(size) {
        match reader.feed(&mut progress, piece) {
            Outcome::More => {}
            outcome => return outcome,
        }
    }
    Outcome::More
}

const OK: Outcome = Outcome::Done {
    status: 200,
    reusable: true,
};
const FIXED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";

#[test]
fn every_split_is_one_answer_known_or_not() {
    for text in [FIXED, CHUNKED] {
        let mut reader = reader("GET");
        for size in 1..=text.len() {
            for _ in 0..2 {
                assert_eq!(fed(&mut reader, text, size), OK, "pieces of {size}");
            }
        }
    }
}

#[test]
fn a_known_head_needs_no_codec() {
    let mut reader = reader("GET");
    assert_eq!(fed(&mut reader, FIXED, 1000), OK);
    let mut progress = Progress::Start;
    let head = FIXED.len() - 5;
    assert_eq!(
        reader.feed(&mut progress, &FIXED[..head + 2]),
        Outcome::More
    );
    assert!(matches!(progress, Progress::Body { left: 3, .. }));
    assert_eq!(reader.feed(&mut progress, &FIXED[head + 2..]), OK);
    assert!(matches!(progress, Progress::Start));
}

#[test]
fn a_head_that_differs_is_parsed() {
    let mut reader = reader("GET");
    assert_eq!(fed(&mut reader, FIXED, 1000), OK);
    let longer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello!";
    assert_eq!(fed(&mut reader, longer, 1000), OK);
    let failed = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
    for _ in 0..2 {
        assert_eq!(
            fed(&mut reader, failed, 1000),
            Outcome::Done {
                status: 503,
                reusable: true
            }
        );
    }
    assert_eq!(fed(&mut reader, FIXED, 7), OK);
}

#[test]
fn a_response_that_closes_is_never_known() {
    let mut reader = reader("GET");
    let text = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx";
    for _ in 0..2 {
        assert_eq!(
            fed(&mut reader, text, 1000),
            Outcome::Done {
                status: 200,
                reusable: false
            }
        );
    }
}

#[test]
fn head_and_interim_responses() {
    let mut for_head = reader("HEAD");
    let text = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(fed(&mut for_head, text, 1000), OK);
    assert_eq!(fed(&mut for_head, text, 1000), OK);
    let mut for_get = reader("GET");
    let text = [b"HTTP/1.1 103 Early Hints\r\n\r\n", FIXED].concat();
    for _ in 0..2 {
        assert_eq!(fed(&mut for_get, &text, 1000), OK);
    }
}

#[test]
fn bytes_nobody_asked_for_are_a_breach() {
    let breach = Outcome::Failed(Failure::Protocol);
    let twice = [FIXED, FIXED].concat();
    let mut reader = reader("GET");
    assert_eq!(fed(&mut reader, b"220 hello\r\n\r\n", 1000), breach);
    assert_eq!(fed(&mut reader, FIXED, 1000), OK);
    assert_eq!(fed(&mut reader, &twice, 1000), breach);
}

#[test]
fn the_end_of_the_connection() {
    let mut reader = reader("GET");
    let cut = Outcome::Failed(Failure::Reset);
    let mut progress = Progress::Start;
    assert_eq!(reader.eof(&mut progress), cut);
    reader.feed(&mut progress, &FIXED[..FIXED.len() - 1]);
    assert_eq!(reader.eof(&mut progress), cut);
    reader.feed(&mut progress, b"HTTP/1.1 200 OK\r\n\r\nuntil the end");
    assert_eq!(
        reader.eof(&mut progress),
        Outcome::Done {
            status: 200,
            reusable: false
        }
    );
}

#[test]
fn an_echo_is_compared() {
    let mut reader = Reader::new(Arc::new(Exchange::echo(b"abcdef".to_vec(), true)));
    let done = Outcome::Done {
        status: 0,
        reusable: true,
    };
    for size in 1..=6 {
        assert_eq!(fed(&mut reader, b"abcdef", size), done);
    }
    let breach = Outcome::Failed(Failure::Protocol);
    assert_eq!(fed(&mut reader, b"abcdeX", 3), breach);
    assert_eq!(fed(&mut reader, b"abcdefg", 10), breach);
}

/// A WebSocket's messages at every split, in one frame and in several, with pings between.
#[test]
fn websocket_messages_at_every_split() {
    let target = Target::parse("ws://127.0.0.1:81/", false).unwrap();
    let exchange = Exchange::websocket(&target, &[], b"abcdef".to_vec(), true).unwrap();
    let mut reader = Reader::new(Arc::new(exchange));
    let frame = |last, opcode, payload: &[u8]| {
        let mut bytes = Vec::new();
        websocket::write_frame(last, opcode, payload, None, &mut bytes);
        bytes
    };
    let whole = frame(true, Opcode::Text, b"abcdef");
    let parts = [
        frame(true, Opcode::Ping, b"?"),
        frame(false, Opcode::Text, b"abc"),
        frame(true, Opcode::Ping, b"!"),
        frame(true, Opcode::Continuation, b"def"),
    ];
    for bytes in [whole, parts.concat()] {
        for cut in 0..bytes.len() {
            let mut progress = Progress::Start;
            let mut outcome = Outcome::More;
            for part in [&bytes[..cut], &bytes[cut..]] {
                assert_eq!(outcome, Outcome::More);
                if !part.is_empty() {
                    outcome = reader.feed(&mut progress, part);
                }
            }
            let done = Outcome::Done {
                status: 0,
                reusable: true,
            };
            assert_eq!(outcome, done, "cut at {cut}");
            assert!(matches!(progress, Progress::Start));
        }
    }
    assert!(!reader.replies.is_empty(), "pings are answered");
    let mut feed = |bytes: &[u8]| reader.feed(&mut Progress::Start, bytes);
    let failed = Outcome::Failed(Failure::Protocol);
    assert_eq!(feed(&frame(true, Opcode::Text, b"abcdeX")), failed);
    assert_eq!(feed(&frame(true, Opcode::Text, b"abc")), failed);
    assert_eq!(feed(&frame(true, Opcode::Text, b"abcdefg")), failed);
    assert_eq!(feed(&frame(true, Opcode::Close, b"")), failed);
    // A ping alone leaves nothing behind.
    let mut progress = Progress::Start;
    let ping = frame(true, Opcode::Ping, b"");
    assert_eq!(reader.feed(&mut progress, &ping), Outcome::More);
    assert!(matches!(progress, Progress::Start));
}
