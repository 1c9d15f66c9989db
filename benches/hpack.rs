//! Header blocks through HPACK, both ways: the first block of a connection, and one whose fields are
//! all in the tables.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use moorgate_codecs::hpack::{Decoder, Encoder};

const H2LOAD: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "127.0.0.1:8080"),
    (":path", "/"),
    ("user-agent", "h2load nghttp2/1.52.0"),
];

const BROWSER: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "www.example.com"),
    (":path", "/products/42?ref=home"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0",
    ),
    (
        "accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    ),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-language", "en-GB,en;q=0.9,de;q=0.8"),
    (
        "cookie",
        "session=0123456789abcdef0123456789abcdef; theme=dark",
    ),
];

const RESPONSE: &[(&str, &str)] = &[
    (":status", "200"),
    ("server", "envoy"),
    ("date", "Sat, 21 Nov 2026 12:00:00 GMT"),
    ("content-type", "text/plain"),
    ("content-length", "1024"),
];

fn encode(encoder: &mut Encoder, fields: &[(&str, &str)], out: &mut Vec<u8>) {
    encoder.begin(out);
    for (name, value) in fields {
        encoder.encode(name.as_bytes(), value.as_bytes(), false, out);
    }
}

fn hpack(c: &mut Criterion) {
    for (name, fields) in [
        ("h2load", H2LOAD),
        ("browser", BROWSER),
        ("response", RESPONSE),
    ] {
        let text: usize = fields
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let mut encoder = Encoder::new();
        let (mut first, mut again) = (Vec::new(), Vec::new());
        encode(&mut encoder, fields, &mut first);
        encode(&mut encoder, fields, &mut again);

        let mut group = c.benchmark_group(format!("hpack/{name}"));
        group.throughput(Throughput::Bytes(text as u64));
        let mut out = Vec::new();
        group.bench_function("encode_first", |b| {
            b.iter(|| {
                out.clear();
                encode(&mut Encoder::new(), black_box(fields), &mut out);
                out.len()
            });
        });
        group.bench_function("encode_again", |b| {
            b.iter(|| {
                out.clear();
                encode(&mut encoder, black_box(fields), &mut out);
                out.len()
            });
        });
        let mut scratch = Vec::new();
        group.bench_function("decode_first", |b| {
            b.iter(|| {
                let mut octets = 0;
                Decoder::new(4096)
                    .decode_with(black_box(&first), &mut scratch, |n, v, _| {
                        octets += n.len() + v.len()
                    })
                    .expect("our own block");
                octets
            });
        });
        let mut decoder = Decoder::new(4096);
        decoder.decode(&first, |_, _, _| {}).expect("our own block");
        group.bench_function("decode_again", |b| {
            b.iter(|| {
                let mut octets = 0;
                decoder
                    .decode_with(black_box(&again), &mut scratch, |n, v, _| {
                        octets += n.len() + v.len()
                    })
                    .expect("our own block");
                octets
            });
        });
        group.finish();
    }
}

criterion_group!(benches, hpack);
criterion_main!(benches);
