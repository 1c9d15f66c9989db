//! What the rules for heads cost for each request and response.
//!
//! A head is changed by what is measured, so each round starts with a copy of it; the row "copy" is
//! what that alone costs.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use moorgate::engine::reactor::Addr;
use moorgate::proxy::config::Rules;
use moorgate::proxy::http::request_rules::{Connection, prepare};
use moorgate::proxy::http::response_rules::{finish, from_upstream};
use moorgate::route::formatter::Facts;
use moorgate::route::{AppendAction, HeaderOps, Scratch};
use moorgate::text::http_date;
use moorgate_codecs::{Head, HeadKind, Version};

fn request(path: &str, forwarded: bool) -> Head {
    let mut head = Head::new();
    head.set_method(b"GET");
    head.set_authority(b"api.example.com");
    head.set_path(path.as_bytes());
    head.push(b"user-agent", b"bench/1.0");
    head.push(b"accept", b"*/*");
    head.push(b"accept-encoding", b"gzip, br");
    head.push(b"cookie", b"session=0123456789abcdef");
    if forwarded {
        head.push(b"x-forwarded-for", b"203.0.113.9, 198.51.100.7");
        head.push(b"x-forwarded-proto", b"https");
        head.push(b"x-request-id", b"0d9f7a5e-52b1-4b47-8a59-d7a3d0a4b6f1");
        head.push(b"x-envoy-expected-rq-timeout-ms", b"15000");
    }
    head
}

fn requests(criterion: &mut Criterion) {
    let peer = Addr::Ip("203.0.113.9:40000".parse().expect("address"));
    let local = Addr::Ip("198.51.100.1:443".parse().expect("address"));
    let connection = Connection {
        peer: &peer,
        local: &local,
        is_tls: false,
        certificates: None,
        local_ip: None,
    };
    let edge = Rules {
        use_remote_address: true,
        normalize_path: true,
        merge_slashes: true,
        ..Rules::default()
    };
    let mut group = criterion.benchmark_group("request rules");
    let (mut head, mut buffer) = (Head::new(), Vec::new());
    let plain = request("/api/v1/items?page=2", false);
    group.bench_function("copy", |bench| {
        bench.iter(|| head.copy_from(black_box(&plain)));
    });
    let inner = Rules::default();
    for (name, rules, source) in [
        ("inner", &inner, request("/api/v1/items?page=2", false)),
        ("inner, forwarded", &inner, request("/api/v1/items", true)),
        ("edge", &edge, request("/api/v1/items?page=2", false)),
        ("edge, forwarded", &edge, request("/api/v1/items", true)),
        (
            "edge, odd path",
            &edge,
            request("/api/./v1//%41/../items", false),
        ),
    ] {
        let mut seed = 0_u64;
        group.bench_function(name, |bench| {
            bench.iter(|| {
                head.copy_from(black_box(&source));
                let random = || {
                    seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    seed
                };
                prepare(&mut head, rules, &connection, random, &mut buffer).is_ok()
            });
        });
    }
    group.finish();
}

fn responses(criterion: &mut Criterion) {
    let mut source = Head::new();
    source.kind = HeadKind::Response;
    source.status = 200;
    source.push(b"content-type", b"application/json");
    source.push(b"content-length", b"128");
    source.push(b"server", b"upstream/2");
    source.push(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT");
    let rules = Rules::default();
    let date = http_date(0);
    let (mut head, mut buffer) = (Head::new(), Vec::new());
    criterion.bench_function("response rules", |bench| {
        bench.iter(|| {
            head.copy_from(black_box(&source));
            from_upstream(&mut head, &rules, 12, &mut buffer);
            finish(&mut head, &rules, &date, None, &mut buffer);
        });
    });
}

fn header_operations(criterion: &mut Criterion) {
    let peer = Addr::Ip("203.0.113.9:40000".parse().expect("address"));
    let facts = Facts {
        remote: &peer,
        direct_remote: &peer,
        local: &peer,
        start_unix_us: 1_700_000_000_000_000,
        hostname: "host",
        response_code: 0,
        route_name: "",
        upstream_host: None,
        upstream_cluster: "",
        protocol: Version::Http11,
    };
    let mut ops = HeaderOps::default();
    let literal = ops.add("x-zone", "eu-1", AppendAction::default(), false);
    let formatted = ops.add(
        "x-client",
        "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %REQ(user-agent)%",
        AppendAction::OverwriteIfExistsOrAdd,
        false,
    );
    let removed = ops.remove("cookie");
    literal.and(formatted).and(removed).expect("operations");
    let source = request("/", false);
    let (mut head, mut scratch) = (Head::new(), Scratch::default());
    criterion.bench_function("header operations", |bench| {
        bench.iter(|| {
            head.copy_from(black_box(&source));
            ops.apply_request(&mut head, &facts, &mut scratch);
        });
    });
}

criterion_group!(benches, requests, responses, header_operations);
criterion_main!(benches);
