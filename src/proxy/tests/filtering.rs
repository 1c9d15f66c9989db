//! Bodies that a filter changes, in whatever pieces they come, from a client and an upstream that the
//! test plays itself.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use super::HttpPlan;
use super::bench::Bench;
use crate::filter::grpc_web::GrpcWeb;

const COMPLETED: &str = "http.test.downstream_rq_completed";

fn bench() -> Bench {
    let http = HttpPlan {
        filters: vec![Arc::new(GrpcWeb)],
        ..HttpPlan::default()
    };
    Bench::new(1, usize::MAX, http, 0)
}

/// Reads what is there; false when the peer is gone.
fn take(stream: &mut TcpStream, into: &mut Vec<u8>) -> bool {
    let mut some = [0; 4096];
    loop {
        match stream.read(&mut some) {
            Ok(0) => return false,
            Ok(n) => into.extend_from_slice(&some[..n]),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

fn ends_with(seen: &[u8], end: &[u8]) -> bool {
    seen.ends_with(end)
}

/// Chunked pieces without their framing.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(at) = body.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(str::from_utf8(&body[..at]).unwrap(), 16).unwrap();
        out.extend_from_slice(&body[at + 2..at + 2 + size]);
        body = &body[(at + 4 + size).min(body.len())..];
    }
    out
}

fn body_of(message: &[u8]) -> &[u8] {
    let at = message
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head");
    &message[at + 4..]
}

fn head_of(message: &[u8]) -> String {
    let len = message.len() - body_of(message).len();
    String::from_utf8_lossy(&message[..len]).into_owned()
}

/// Sends the request of a browser that speaks text, and gives the upstream's connection with what came.
fn call(bench: &mut Bench, client: &mut TcpStream, pieces: &[&[u8]]) -> (TcpStream, Vec<u8>) {
    client
        .write_all(
            b"POST /s/m HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web-text\r\n\
              accept: application/grpc-web-text\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .expect("a head");
    let (mut upstream, mut seen) = (None, Vec::new());
    bench.turn_until("the request's head", |bench| {
        if let Ok((stream, _)) = bench.upstream.accept() {
            stream.set_nonblocking(true).expect("non-blocking");
            upstream = Some(stream);
        }
        upstream
            .as_mut()
            .is_some_and(|upstream| take(upstream, &mut seen) && !seen.is_empty())
    });
    let mut upstream = upstream.expect("a connection");
    for piece in pieces {
        write!(client, "{:x}\r\n", piece.len()).expect("a size");
        client.write_all(piece).expect("a piece");
        client.write_all(b"\r\n").expect("its end");
        for _ in 0..4 {
            bench.turn(0);
            take(&mut upstream, &mut seen);
        }
    }
    client.write_all(b"0\r\n\r\n").expect("the end");
    bench.turn_until("the request's end", |_| {
        take(&mut upstream, &mut seen);
        ends_with(&seen, b"0\r\n\r\n")
    });
    (upstream, seen)
}

#[test]
fn text_in_single_bytes_both_ways() {
    let mut bench = bench();
    let mut client = bench.client();
    let text: Vec<&[u8]> = b"AAAAAAFhAAAAAAJiYw==".chunks(1).collect();
    let (mut upstream, seen) = call(&mut bench, &mut client, &text);
    assert!(
        head_of(&seen).contains("content-type: application/grpc\r\n"),
        "{}",
        head_of(&seen)
    );
    assert_eq!(unchunked(body_of(&seen)), b"\0\0\0\0\x01a\0\0\0\0\x02bc");

    upstream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: 13\r\n\r\n",
        )
        .expect("a head");
    let mut answer = Vec::new();
    for byte in b"\0\0\0\0\x01a\0\0\0\0\x02bc" {
        upstream.write_all(&[*byte]).expect("a byte");
        for _ in 0..4 {
            bench.turn(0);
            take(&mut client, &mut answer);
        }
    }
    bench.turn_until("the answer", |_| {
        take(&mut client, &mut answer);
        ends_with(&answer, b"0\r\n\r\n")
    });
    let head = head_of(&answer);
    assert!(
        head.contains("content-type: application/grpc-web-text+proto\r\n"),
        "{head}"
    );
    assert!(!head.contains("content-length"), "{head}");
    assert_eq!(unchunked(body_of(&answer)), b"AAAAAAFhAAAAAAJiYw==");
    assert_eq!(bench.value(COMPLETED), 1);
}

#[test]
fn an_answer_that_is_no_grpc_is_told_by_its_head() {
    for (length, complete) in [(5, true), (0, true), (100_000, false)] {
        let mut bench = bench();
        let mut client = bench.client();
        let (mut upstream, _) = call(&mut bench, &mut client, &[b"AAAAAAFh"]);
        write!(
            upstream,
            "HTTP/1.1 503 Busy\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n"
        )
        .expect("a head");
        let mut rest = vec![b'x'; length];
        if !complete {
            // Half of it is more than enough.
            rest.truncate(length / 2);
        }
        let mut answer = Vec::new();
        bench.turn_until("the answer", |bench| {
            if let Ok(n) = upstream.write(&rest) {
                rest.drain(..n);
            }
            take(&mut client, &mut answer);
            bench.value(COMPLETED) == 1 && ends_with(&answer, b"\r\n\r\n")
        });
        let head = head_of(&answer);
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert!(head.contains("content-length: 0\r\n"), "{head}");
        assert_eq!(head.contains("grpc-status: 14\r\n"), length > 0, "{head}");
        let message = format!("grpc-message: {}\r\n", "x".repeat(length.min(16_384)));
        assert_eq!(head.contains(&message), length > 0);
        assert!(body_of(&answer).is_empty());
    }
}

#[test]
fn text_that_is_none_is_refused_within_the_body() {
    let mut bench = bench();
    let mut client = bench.client();
    let text: [&[u8]; 2] = [b"AAAA", b"!"];
    client
        .write_all(
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web-text\r\n\
              content-length: 20\r\n\r\n",
        )
        .expect("a head");
    let mut answer = Vec::new();
    for piece in text {
        client.write_all(piece).expect("a piece");
        for _ in 0..4 {
            bench.turn(0);
        }
    }
    bench.turn_until("a close", |_| !take(&mut client, &mut answer));
    let head = head_of(&answer);
    assert!(
        head.starts_with("HTTP/1.1 400 ") && head.contains("grpc-status: 13\r\n"),
        "{head}"
    );
    assert_eq!(bench.value(COMPLETED), 1);
}
