//! SIGHUP: the file is read again, and either all of it takes effect or nothing.

use std::net::TcpStream;

use crate::support::{
    Client, Gateway, Upstream, cluster, config, get, http_listener, tcp_listener, until,
};

fn snapshots(gateway: &Gateway) -> i64 {
    gateway.stat("moorgate.config.snapshots_alive")
}

#[test]
fn a_valid_change_takes_effect_on_open_connections() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let text = |cluster_of_web: &str| {
        config(
            &[
                http_listener("web", cluster_of_web, ""),
                tcp_listener("tcp", "a"),
            ],
            &[cluster("a", &[a.addr], ""), cluster("b", &[b.addr], "")],
        )
    };
    let gateway = Gateway::start(&text("a"));
    let (web, tcp) = (gateway.listener("web"), gateway.listener("tcp"));
    let mut client = Client::connect(web);
    let mut tunnel = Client::connect(tcp);
    assert_eq!(client.get("/").1, "a");
    assert_eq!(tunnel.get("/").1, "a");

    gateway.configure(&text("b"));
    gateway.reload();
    assert_eq!(gateway.stat("moorgate.config.reload_success"), 1);
    assert_eq!(gateway.listener("web"), web, "the socket stays");
    assert_eq!(
        client.get("/").1,
        "b",
        "the next request, on the same connection"
    );
    assert_eq!(tunnel.get("/").1, "a", "a tunnel stays where it is");
    assert_eq!(gateway.stat("listener_manager.listener_modified"), 1);
    assert_eq!(gateway.stat("listener_manager.total_listeners_active"), 2);
    assert_eq!(
        gateway.stat("listener.127.0.0.1_0.downstream_cx_destroy"),
        0
    );
    until("the old snapshot is gone", || snapshots(&gateway) == 1);
}

#[test]
fn after_many_reloads_one_snapshot_is_alive() {
    let a = Upstream::start("a");
    let text = |timeout: u32| {
        let extra = format!("per_connection_buffer_limit_bytes: {timeout}");
        config(
            &[http_listener("web", "a", "")],
            &[cluster("a", &[a.addr], &extra)],
        )
    };
    let gateway = Gateway::with(&text(1000), &["--concurrency", "2"]);
    let mut clients: Vec<_> = (0..10)
        .map(|_| Client::connect(gateway.listener("web")))
        .collect();
    for round in 0..20 {
        for client in clients.iter_mut().take(5) {
            assert_eq!(client.get("/").1, "a");
        }
        gateway.configure(&text(1001 + round));
        gateway.reload();
    }
    assert_eq!(gateway.stat("moorgate.config.reload_success"), 20);
    until("one snapshot is left", || snapshots(&gateway) == 1);
    for client in &mut clients {
        assert_eq!(client.get("/").1, "a");
    }
    assert_eq!(gateway.stat("cluster_manager.cluster_modified"), 20);
}

#[test]
fn an_invalid_change_changes_nothing_and_says_why() {
    let a = Upstream::start("a");
    let good = config(
        &[http_listener("web", "a", "")],
        &[cluster("a", &[a.addr], "")],
    );
    let gateway = Gateway::start(&good);
    let web = gateway.listener("web");
    let (_, before) = gateway.get("/config_dump?resource=static_clusters");
    let bad = [
        (
            good.replace("cluster: a ", "cluster: nobody "),
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config\
             .route_config.virtual_hosts[0].routes[0].route.cluster: there is no cluster 'nobody'",
        ),
        (
            good.replace("connect_timeout: 5s", "connect_timeout: soon"),
            "static_resources.clusters[0].connect_timeout: expected a duration",
        ),
        (
            good.replace(
                "connect_timeout: 5s",
                "connect_timeout: 5s\n    lb_policy: MAGLEV",
            ),
            "static_resources.clusters[0].lb_policy: MAGLEV is not supported by Moorgate",
        ),
        ("static_resources: [".to_owned(), "line 2, column 1"),
    ];
    for (number, (text, why)) in bad.iter().enumerate() {
        gateway.configure(text);
        gateway.reload();
        let rejected = gateway.stat("moorgate.config.reload_rejected");
        assert_eq!(rejected, number as i64 + 1);
        let why = format!("gateway.yaml: {why}");
        until(&why, || gateway.log().contains(&why));
    }
    // An address that cannot be had is found before anything is changed.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let listener = http_listener("late", "a", "");
    let listener = listener.replace("port_value: 0", &format!("port_value: {port}"));
    gateway.configure(&config(&[listener], &[cluster("a", &[a.addr], "")]));
    gateway.reload();
    let why = "gateway.yaml: static_resources.listeners[0].address: cannot listen on 127.0.0.1";
    until(why, || gateway.log().contains(why));
    assert_eq!(gateway.stat("moorgate.config.reload_success"), 0);
    assert_eq!(gateway.stat("moorgate.config.reload_rejected"), 5);

    let (_, after) = gateway.get("/config_dump?resource=static_clusters");
    assert_eq!(before, after);
    assert_eq!(gateway.listener("web"), web);
    assert_eq!(get(web, "/"), (200, "a".to_owned()));
    assert_eq!(snapshots(&gateway), 1);

    gateway.configure(&good);
    gateway.reload();
    assert_eq!(gateway.stat("moorgate.config.reload_success"), 1);
    assert_eq!(gateway.stat("listener_manager.listener_modified"), 0);
}

#[test]
fn listeners_come_and_go() {
    let a = Upstream::start("a");
    let clusters = [cluster("a", &[a.addr], "")];
    let (one, two) = (http_listener("one", "a", ""), http_listener("two", "a", ""));
    let tcp = tcp_listener("tcp", "a");
    let gateway = Gateway::with(
        &config(&[one.clone(), tcp.clone()], &clusters),
        &["--drain-time-s", "1"],
    );
    let first = gateway.listener("one");
    let mut held = Client::connect(first);
    assert_eq!(held.get("/").1, "a");
    let mut tunnel = Client::connect(gateway.listener("tcp"));
    assert_eq!(tunnel.get("/").1, "a");
    let mut open = Client::connect(first);
    open.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    until("it is on its way", || a.served() == 3);

    gateway.configure(&config(&[one, tcp, two.clone()], &clusters));
    gateway.reload();
    assert_eq!(gateway.listener("one"), first);
    let second = gateway.listener("two");
    let mut other = Client::connect(second);
    assert_eq!(other.get("/").1, "a");
    assert_eq!(gateway.stat("listener_manager.listener_added"), 3);

    gateway.configure(&config(&[two], &clusters));
    gateway.reload();
    assert_eq!(gateway.listener("two"), second);
    until("nobody listens there", || {
        TcpStream::connect(first).is_err()
    });
    assert_eq!(gateway.stat("listener_manager.listener_removed"), 2);
    // The others do not notice.
    for _ in 0..3 {
        let (head, body) = other.get("/");
        assert!(!head.contains("connection: close") && body == "a", "{head}");
    }
    // Its clients are asked to leave within the drain time, and closed when it is over.
    assert_eq!(held.closed(), "");
    assert_eq!(tunnel.closed(), "");
    assert_eq!(open.closed(), "");
    until("the old snapshots are gone", || snapshots(&gateway) == 1);
}
