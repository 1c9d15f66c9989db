//! Route lookup: by number of virtual hosts, by kind of domain, by place of the route.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use moorgate::route::{
    Action, Direct, HeaderMatch, HeaderOps, Matcher, NewRoute, PathMatch, Pattern, RouteTable,
    VirtualHost, matcher::ValueMatch,
};
use moorgate_codecs::Head;

fn head(authority: &str, path: &str) -> Head {
    let mut head = Head::new();
    head.set_method(b"GET");
    head.set_scheme(b"http");
    head.set_authority(authority.as_bytes());
    head.set_path(path.as_bytes());
    head.push(b"user-agent", b"bench/1.0");
    head.push(b"accept", b"*/*");
    head.push(b"x-tenant", b"blue");
    head.push(b"x-request-id", b"0d9f7a5e-52b1-4b47-8a59-d7a3d0a4b6f1");
    head
}

fn direct() -> NewRoute {
    NewRoute {
        name: String::new(),
        action: Action::Direct(Direct {
            status: 200,
            body: std::sync::Arc::default(),
        }),
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
    }
}

fn hosts(count: usize) -> RouteTable {
    let mut builder = RouteTable::builder("bench");
    for index in 0..count {
        let host = VirtualHost {
            name: format!("host{index}"),
            ..VirtualHost::default()
        };
        let domains = [
            format!("host{index}.example.com"),
            format!("*.tenant{index}.example.com"),
        ];
        let key = builder.virtual_host(host, &domains).expect("domains");
        let matcher = Matcher::prefix("/");
        builder.route(key, matcher, direct()).expect("route");
    }
    builder.build()
}

fn virtual_hosts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("virtual hosts");
    for count in [1, 100, 10_000] {
        let table = hosts(count);
        let last = count - 1;
        for (kind, authority) in [
            ("exact", format!("Host{last}.example.com")),
            ("suffix", format!("a.b.tenant{last}.example.com")),
            ("none", "www.example.org".to_owned()),
        ] {
            let head = head(&authority, "/api/v1/items?page=2");
            group.bench_function(BenchmarkId::new(kind, count), |bench| {
                bench.iter(|| table.route(black_box(&head), 7, false).is_some());
            });
        }
    }
    group.finish();
}

fn routes(criterion: &mut Criterion) {
    let mut builder = RouteTable::builder("bench");
    let key = builder
        .virtual_host(VirtualHost::default(), &["*"])
        .expect("domain");
    for index in 0..100 {
        let matcher = Matcher::prefix(&format!("/service{index}/"));
        builder.route(key, matcher, direct()).expect("route");
    }
    let tenant = HeaderMatch::new("x-tenant", ValueMatch::Exact(b"blue".into()), false, false);
    let matcher = Matcher::prefix("/header").header(tenant.expect("name"));
    builder.route(key, matcher, direct()).expect("route");
    let pattern = Pattern::new("/items/[0-9]+/[a-z]+").expect("pattern");
    let matcher = Matcher::new(PathMatch::Regex(pattern)).expect("path");
    builder.route(key, matcher, direct()).expect("route");
    let table = builder.build();

    let mut group = criterion.benchmark_group("routes");
    for (kind, path) in [
        ("first of 102", "/service0/a"),
        ("100th of 102", "/service99/a"),
        ("header, 101st", "/header"),
        ("regex, last", "/items/123456/name"),
    ] {
        let head = head("example.com", path);
        group.bench_function(kind, |bench| {
            bench.iter(|| table.route(black_box(&head), 7, false).is_some());
        });
    }
    group.finish();
}

criterion_group!(benches, virtual_hosts, routes);
criterion_main!(benches);
