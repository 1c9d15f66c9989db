//! HTTP/1 heads and bodies through the codecs: reading requests and responses, writing both.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use moorgate_codecs::http1::{Client, Server, Settings};
use moorgate_codecs::{Codec, Event, Events, Head, HeadKind, Out};

const SMALL: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

const BROWSER: &[u8] = b"GET /products/42?ref=home HTTP/1.1\r\nHost: www.example.com\r\n\
    Connection: keep-alive\r\nCache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/126.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n";

const CHUNKED: &[u8] = b"POST /in HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
    40\r\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n\
    40\r\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n0\r\n\r\n";

const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\n\
    Content-Type: text/plain\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok";

fn response() -> Head {
    let mut head = Head::new();
    head.kind = HeadKind::Response;
    head.status = 200;
    head.content_length = Some(2);
    head.push(b"server", b"envoy");
    head.push(b"date", b"Sat, 21 Nov 2026 12:00:00 GMT");
    head.push(b"content-type", b"text/plain");
    head.push(b"x-envoy-upstream-service-time", b"3");
    head
}

fn request() -> Head {
    let mut head = Head::new();
    head.set_method(b"GET");
    head.set_path(b"/products/42?ref=home");
    head.set_authority(b"www.example.com");
    head.push(b"user-agent", b"curl/8.5.0");
    head.push(b"accept", b"*/*");
    head.push(b"x-forwarded-proto", b"http");
    head.push(b"x-request-id", b"0b0c2b5e-5c7e-4a5e-9d3c-0c9a9d6e7f10");
    head
}

fn give_back(events: &mut Events) {
    while let Some(event) = events.list.pop() {
        if let Event::Head { head, .. } | Event::Trailers { head, .. } = event {
            events.give_head(head);
        }
    }
}

fn server(c: &mut Criterion) {
    let settings = Arc::new(Settings::default());
    let answer = response();
    let mut group = c.benchmark_group("http1/server");
    for (name, input) in [("small", SMALL), ("browser", BROWSER), ("chunked", CHUNKED)] {
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(format!("{name}/decode_and_answer"), |b| {
            let mut server = Server::new(Arc::clone(&settings));
            let mut events = Events::default();
            let mut out = Out::default();
            let mut stream = 0u32;
            b.iter(|| {
                let consumed = server.decode(0, black_box(input), &mut events, &mut out);
                assert_eq!(consumed.bytes, input.len());
                give_back(&mut events);
                stream = stream.wrapping_add(1);
                server
                    .send_head(stream, black_box(&answer), false, &mut out)
                    .expect("a good head");
                server
                    .send_data(stream, 2, true, &mut out)
                    .expect("an open stream");
                black_box(&out.bytes);
                out.bytes.clear();
                out.payloads.clear();
            });
        });
    }
    group.finish();
}

fn client(c: &mut Criterion) {
    let settings = Arc::new(Settings::default());
    let asked = request();
    let mut group = c.benchmark_group("http1/client");
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("encode_and_decode", |b| {
        let mut client = Client::new(Arc::clone(&settings));
        let mut events = Events::default();
        let mut out = Out::default();
        b.iter(|| {
            let stream = client.open().expect("an idle connection");
            client
                .send_head(stream, black_box(&asked), true, &mut out)
                .expect("a good head");
            black_box(&out.bytes);
            out.bytes.clear();
            let consumed = client.decode(0, black_box(RESPONSE), &mut events, &mut out);
            assert_eq!(consumed.bytes, RESPONSE.len());
            give_back(&mut events);
        });
    });
    group.finish();
}

/// A head that arrives byte by byte is scanned once.
fn dribble(c: &mut Criterion) {
    let settings = Arc::new(Settings::default());
    c.bench_function("http1/server/browser/byte_by_byte", |b| {
        let mut events = Events::default();
        let mut out = Out::default();
        b.iter(|| {
            let mut server = Server::new(Arc::clone(&settings));
            for end in 1..=BROWSER.len() {
                server.decode(0, black_box(&BROWSER[..end]), &mut events, &mut out);
            }
            give_back(&mut events);
        });
    });
}

criterion_group!(benches, server, client, dribble);
criterion_main!(benches);
