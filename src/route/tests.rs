//! Route tables as a whole: lookup, order of operations, picking clusters.

use super::StreamLimits;
use super::formatter::tests::with_facts;
use super::matcher::ValueMatch;
use super::*;

fn get(authority: &str, path: &str) -> moorgate_codecs::Head {
    let mut head = moorgate_codecs::Head::new();
    head.set_method(b"GET");
    head.set_scheme(b"http");
    head.set_authority(authority.as_bytes());
    head.set_path(path.as_bytes());
    head
}

fn cluster(id: u32) -> ClusterName {
    ClusterName {
        id: ClusterId(id),
        name: format!("c{id}").into(),
    }
}

fn forward(target: Target) -> Forward {
    Forward {
        target,
        cluster_not_found_status: 503,
        path_rewrite: PathRewrite::None,
        host_rewrite: None,
        auto_host_rewrite: false,
        append_x_forwarded_host: false,
        timeout_ms: 15_000,
        idle_timeout_ms: None,
        retry: None,
        high_priority: false,
        upgrades: Vec::new(),
        terminate_connect: false,
        limits: StreamLimits::default(),
    }
}

fn new_route(name: &str, action: Action) -> NewRoute {
    NewRoute {
        name: name.into(),
        action,
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
    }
}

fn named(name: &str) -> NewRoute {
    new_route(name, Action::Forward(forward(Target::Cluster(cluster(1)))))
}

fn host(name: &str) -> VirtualHost {
    VirtualHost {
        name: name.into(),
        ..VirtualHost::default()
    }
}

/// A table with one virtual host per entry, each with one route that bears its name.
fn table(hosts: &[(&str, &[&str])], ignore_port: bool) -> RouteTable {
    let mut builder = RouteTable::builder("t");
    builder.ignore_port_in_host_matching(ignore_port);
    for (name, domains) in hosts {
        let key = builder.virtual_host(host(name), domains).unwrap();
        builder
            .route(key, Matcher::prefix("/"), named(name))
            .unwrap();
    }
    builder.build()
}

fn found<'a>(table: &'a RouteTable, head: &moorgate_codecs::Head) -> Option<&'a str> {
    table
        .route(head, 0, false)
        .map(|found| found.route.name.as_str())
}

#[test]
fn virtual_hosts() {
    let table = table(
        &[
            ("exact", &["www.Foo.com", "foo.com:8080"]),
            ("suffix", &["*.foo.com"]),
            ("dash", &["*-bar.foo.com"]),
            ("com", &["*.com"]),
            ("prefix", &["foo.*", "www.foo.*"]),
            ("short", &["f*"]),
            ("default", &["*"]),
        ],
        false,
    );
    for (authority, expected) in [
        ("www.foo.com", "exact"),
        ("WWW.FOO.COM", "exact"),
        ("foo.com:8080", "exact"),
        ("a.foo.com", "suffix"),
        ("a.b.foo.com", "suffix"),
        ("x-bar.foo.com", "dash"),
        ("-bar.foo.com", "suffix"),
        (".foo.com", "com"),
        ("bar.com", "com"),
        ("foo.com", "com"),
        ("foo.org", "prefix"),
        ("foo.", "short"),
        ("www.foo.com:80", "prefix"),
        ("f", "default"),
        ("other:80", "default"),
    ] {
        assert_eq!(
            found(&table, &get(authority, "/")),
            Some(expected),
            "{authority}"
        );
    }
    // Without an authority only a table that has nothing but `*` matches.
    assert_eq!(found(&table, &get("", "/")), None);
    let long = format!("{}.foo.com", "a".repeat(400));
    assert_eq!(found(&table, &get(&long, "/")), Some("suffix"));
}

#[test]
fn only_the_default_host() {
    let table = table(&[("all", &["*"])], false);
    assert_eq!(found(&table, &get("", "/")), Some("all"));
    assert_eq!(found(&table, &get("x", "/")), Some("all"));
}

#[test]
fn ports_in_authorities() {
    let hosts: &[(&str, &[&str])] = &[("a", &["a.com", "[::1]"]), ("b", &["*.b.com"])];
    let (kept, ignored) = (table(hosts, false), table(hosts, true));
    for (authority, expected) in [
        ("a.com:80", Some("a")),
        ("x.b.com:80", Some("b")),
        ("[::1]:80", Some("a")),
    ] {
        assert_eq!(found(&ignored, &get(authority, "/")), expected);
        assert_eq!(found(&kept, &get(authority, "/")), None);
    }
    for table in [&kept, &ignored] {
        assert_eq!(found(table, &get("a.com", "/")), Some("a"));
        assert_eq!(found(table, &get("[::1]", "/")), Some("a"));
    }
}

#[test]
fn builder_refuses() {
    let try_hosts = |hosts: &[(&str, &[&str])]| {
        let mut builder = RouteTable::builder("t");
        hosts
            .iter()
            .try_for_each(|(name, domains)| builder.virtual_host(host(name), domains).map(drop))
            .unwrap_err()
    };
    assert!(matches!(
        try_hosts(&[("a", &["x.com"]), ("b", &["X.com"])]),
        BuildError::DuplicateDomain { domain, host } if domain == "X.com" && host == "b"
    ));
    assert!(matches!(
        try_hosts(&[("a", &["*.x"]), ("b", &["*.x"])]),
        BuildError::DuplicateDomain { .. }
    ));
    assert!(matches!(
        try_hosts(&[("a", &["*"]), ("b", &["*"])]),
        BuildError::DuplicateDefault { .. }
    ));
    assert!(matches!(
        try_hosts(&[("a", &["x"]), ("a", &["y"])]),
        BuildError::DuplicateHost { .. }
    ));
    assert!(matches!(
        try_hosts(&[("a", &[])]),
        BuildError::NoDomains { .. }
    ));
    for domain in ["", "a.*.b", "*a*", "**"] {
        assert!(
            matches!(
                try_hosts(&[("a", &[domain])]),
                BuildError::InvalidDomain { .. }
            ),
            "{domain}"
        );
    }
    let mut builder = RouteTable::builder("t");
    let key = builder.virtual_host(host("a"), &["*"]).unwrap();
    let redirect = Action::Redirect(Redirect {
        scheme: None,
        https: true,
        host: None,
        port: None,
        path: PathRewrite::None,
        status: 200,
        strip_query: false,
        keep_port: false,
    });
    assert!(matches!(
        builder.route(key, Matcher::prefix("/"), new_route("", redirect)),
        Err(BuildError::Status { status: 200 })
    ));
    let weightless = Action::Forward(forward(Target::Weighted(Vec::new())));
    assert!(matches!(
        builder.route(key, Matcher::prefix("/"), new_route("", weightless)),
        Err(BuildError::Weights { total: 0 })
    ));
}

#[test]
fn first_route_wins() {
    let mut builder = RouteTable::builder("t");
    let key = builder.virtual_host(host("h"), &["*"]).unwrap();
    let post = HeaderMatch::new(":method", ValueMatch::Exact(b"POST".into()), false, false);
    let routes = [
        (Matcher::prefix("/api").header(post.unwrap()), "post"),
        (Matcher::prefix("/api/v1"), "v1"),
        (Matcher::prefix("/api"), "api"),
        (Matcher::new(PathMatch::Connect).unwrap(), "connect"),
    ];
    for (matcher, name) in routes {
        builder.route(key, matcher, named(name)).unwrap();
    }
    let table = builder.build();
    assert_eq!(found(&table, &get("x", "/api/v1/a")), Some("v1"));
    assert_eq!(found(&table, &get("x", "/api/v2")), Some("api"));
    assert_eq!(found(&table, &get("x", "/none")), None);
    let mut head = get("x", "/api/v1");
    head.set_method(b"POST");
    assert_eq!(found(&table, &head), Some("post"));
    let mut head = get("x:443", "x:443");
    head.set_method(b"CONNECT");
    assert_eq!(found(&table, &head), Some("connect"));
    assert_eq!(table.routes().count(), 4);
}

#[test]
fn tls_is_required() {
    for (require_tls, proto, internal, redirected) in [
        (RequireTls::None, Some("http"), false, false),
        (RequireTls::All, Some("http"), false, true),
        (RequireTls::All, Some("http"), true, true),
        (RequireTls::All, Some("https"), false, false),
        (RequireTls::All, None, false, true),
        (RequireTls::ExternalOnly, Some("http"), false, true),
        (RequireTls::ExternalOnly, Some("http"), true, false),
    ] {
        let mut builder = RouteTable::builder("t");
        let key = builder
            .virtual_host(
                VirtualHost {
                    require_tls,
                    ..host("h")
                },
                &["*"],
            )
            .unwrap();
        builder
            .route(key, Matcher::prefix("/"), named("plain"))
            .unwrap();
        let table = builder.build();
        let mut head = get("a:80", "/x?y");
        if let Some(proto) = proto {
            head.push(b"x-forwarded-proto", proto.as_bytes());
        }
        if internal {
            head.push(b"x-envoy-internal", b"true");
        }
        let route = table.route(&head, 0, false).unwrap().route;
        match &route.action {
            Action::Redirect(redirect) if redirected => {
                let mut location = Vec::new();
                route.write_location(redirect, &head, &mut location);
                assert_eq!(location, b"https://a:80/x?y");
            }
            Action::Forward(_) if !redirected => {}
            other => panic!("{require_tls:?} {proto:?} {internal}: {other:?}"),
        }
    }
}

fn weighted(entries: &[(u32, u64)]) -> Target {
    let mut total = 0;
    Target::Weighted(
        entries
            .iter()
            .map(|(id, weight)| {
                total += weight;
                WeightedCluster {
                    cluster: cluster(*id),
                    cumulative_weight: total,
                    request_headers: HeaderOps::default(),
                    response_headers: HeaderOps::default(),
                    host_rewrite: None,
                }
            })
            .collect(),
    )
}

#[test]
fn picks() {
    let head = get("x", "/");
    let forward_by = |target| forward(target);
    let plain = forward_by(Target::Cluster(cluster(7)));
    assert_eq!(plain.pick(&head, 3), Pick::Cluster(&cluster(7)));

    let split = forward_by(weighted(&[(1, 20), (2, 0), (3, 80)]));
    let mut counts = [0; 4];
    for random in 0..1000 {
        match split.pick(&head, random) {
            Pick::Weighted(index, cluster) => {
                assert_eq!(split.weighted(index).unwrap().cluster, *cluster);
                counts[cluster.id.0 as usize] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(counts, [0, 200, 0, 800]);

    let by_header = forward_by(Target::Header("x-cluster".into()));
    assert_eq!(by_header.pick(&head, 0), Pick::None);
    let mut head = head;
    head.push(b"x-cluster", b"c9");
    assert_eq!(by_header.pick(&head, 0), Pick::Named(b"c9"));
}

fn adding(name: &str, value: &str) -> HeaderOps {
    let mut ops = HeaderOps::default();
    ops.add(name, value, AppendAction::OverwriteIfExistsOrAdd, false)
        .unwrap();
    ops
}

#[test]
fn order_of_header_operations() {
    for (specific_wins, expected) in [(false, "table"), (true, "route")] {
        let mut builder = RouteTable::builder("t");
        builder
            .most_specific_header_mutations_wins(specific_wins)
            .headers(adding("x", "table"), adding("x", "table"));
        let key = builder
            .virtual_host(
                VirtualHost {
                    request_headers: adding("x", "host"),
                    response_headers: adding("x", "host"),
                    ..host("h")
                },
                &["*"],
            )
            .unwrap();
        let mut target = weighted(&[(1, 1)]);
        if let Target::Weighted(entries) = &mut target {
            entries[0].request_headers = adding("x", "weighted");
            entries[0].response_headers = adding("y", "%REQ(x)%");
            entries[0].host_rewrite = Some("w".into());
        }
        builder
            .route(
                key,
                Matcher::prefix("/old"),
                NewRoute {
                    request_headers: adding("x", "route"),
                    response_headers: adding("x", "route"),
                    ..new_route(
                        "r",
                        Action::Forward(Forward {
                            path_rewrite: PathRewrite::Prefix("/new".into()),
                            host_rewrite: Some("rewritten".into()),
                            append_x_forwarded_host: true,
                            ..forward(target)
                        }),
                    )
                },
            )
            .unwrap();
        let table = builder.build();
        let mut head = get("a", "/old/x?y");
        let route = table.route(&head, 0, false).unwrap().route;
        let Action::Forward(action) = &route.action else {
            panic!("{route:?}");
        };
        let entry = action.weighted(0);
        let mut scratch = Scratch::default();
        assert!(table.response_needs_request(route, entry));
        with_facts(|facts| {
            table.finalize_request(route, entry, &mut head, true, facts, &mut scratch);
            assert_eq!(head.get(b"x"), Some(expected.as_bytes()));
            assert_eq!(head.path(), b"/new/x?y");
            assert_eq!(head.authority(), b"rewritten");
            assert_eq!(head.get(b"x-forwarded-host"), Some(&b"w"[..]));
            assert_eq!(head.get(b"x-envoy-original-path"), Some(&b"/old/x?y"[..]));

            let mut response = moorgate_codecs::Head::new();
            response.status = 200;
            table.finalize_response(
                route,
                entry,
                &mut response,
                Some(&head),
                facts,
                &mut scratch,
            );
            assert_eq!(response.get(b"x"), Some(expected.as_bytes()));
            assert_eq!(response.get(b"y"), Some(expected.as_bytes()));
        });
    }
}
