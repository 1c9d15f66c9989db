//! Active health checks: who gets requests, and what is said about it.

use std::net::TcpListener;

use crate::support::{Gateway, Upstream, cluster, config, get, http_listener, until};

const HTTP: &str = "health_checks: [ { timeout: 5s, interval: 0.03s, no_traffic_interval: 0.03s, \
                    unhealthy_threshold: 1, healthy_threshold: 2, \
                    http_health_check: { path: /healthz } } ]";
const TCP: &str = "health_checks: [ { timeout: 5s, interval: 0.03s, no_traffic_interval: 0.03s, \
                   unhealthy_threshold: 2, healthy_threshold: 1, tcp_health_check: {} } ]";

fn gateway(hosts: &[&Upstream], extra: &str) -> Gateway {
    let hosts: Vec<_> = hosts.iter().map(|host| host.addr).collect();
    Gateway::start(&config(
        &[http_listener("web", "hosts", "")],
        &[cluster("hosts", &hosts, extra)],
    ))
}

/// Who answers so many requests, each on a connection of its own.
fn answers(gateway: &Gateway, count: usize) -> Vec<String> {
    let addr = gateway.listener("web");
    let answers = (0..count).map(|_| get(addr, "/"));
    answers
        .map(|(status, body)| format!("{status} {body}"))
        .collect()
}

#[test]
fn an_unhealthy_host_gets_no_requests_and_comes_back() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let gateway = gateway(&[&a, &b], HTTP);
    let healthy = || gateway.stat("cluster.hosts.membership_healthy");
    let flags = |host: &Upstream| gateway.host("hosts", host.addr, "health_flags");
    assert_eq!(healthy(), 2);
    assert_eq!(flags(&b), "healthy");
    let all = answers(&gateway, 8);
    assert!(all.contains(&"200 a".to_owned()) && all.contains(&"200 b".to_owned()));

    b.set_health(500);
    until("b is unhealthy", || flags(&b) == "/failed_active_hc");
    until("it shows", || healthy() == 1);
    assert_eq!(flags(&a), "healthy");
    assert_eq!(gateway.stat("cluster.hosts.membership_total"), 2);
    assert_eq!(gateway.stat("cluster.hosts.health_check.healthy"), 1);
    assert!(gateway.stat("cluster.hosts.health_check.failure") > 0);
    assert_eq!(
        gateway.stat("cluster.hosts.health_check.network_failure"),
        0
    );
    let (_, json) = gateway.get("/clusters?format=json");
    assert!(
        json.contains("\"failed_active_health_check\": true"),
        "{json}"
    );
    // Half of the hosts are healthy, which is not below the panic threshold.
    let before = b.served();
    assert!(answers(&gateway, 20).iter().all(|answer| answer == "200 a"));
    assert_eq!(b.served(), before);
    assert_eq!(gateway.stat("cluster.hosts.lb_healthy_panic"), 0);

    b.set_health(200);
    until("b is healthy again", || flags(&b) == "healthy");
    until("it shows", || healthy() == 2);
    assert!(answers(&gateway, 8).contains(&"200 b".to_owned()));
    let attempts = gateway.stat("cluster.hosts.health_check.attempt");
    assert!(attempts >= gateway.stat("cluster.hosts.health_check.success"));
    assert!(gateway.stat("cluster.hosts.health_check.success") > 0);
}

#[test]
fn a_host_that_died_is_found_by_connecting() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let gateway = gateway(&[&a, &b], TCP);
    let place = b.addr;
    let flags = || gateway.host("hosts", place, "health_flags");
    assert_eq!(flags(), "healthy");
    drop(b);
    until("b is unhealthy", || flags() == "/failed_active_hc");
    assert!(gateway.stat("cluster.hosts.health_check.network_failure") > 0);
    assert!(answers(&gateway, 20).iter().all(|answer| answer == "200 a"));
    let b = Upstream::at("b", place);
    until("b is healthy again", || flags() == "healthy");
    until("it is used", || {
        answers(&gateway, 4).contains(&"200 b".to_owned())
    });
    drop(b);
}

#[test]
fn below_the_panic_threshold_all_hosts_are_used() {
    let hosts = ["a", "b", "c"].map(Upstream::start);
    let [a, b, c] = &hosts;
    let gateway = gateway(&[a, b, c], HTTP);
    a.set_health(503);
    b.set_health(503);
    let healthy = || gateway.stat("cluster.hosts.membership_healthy");
    until("two are unhealthy", || healthy() == 1);
    let all = answers(&gateway, 12);
    for name in ["200 a", "200 b", "200 c"] {
        assert!(all.contains(&name.to_owned()), "{name}: {all:?}");
    }
    assert!(gateway.stat("cluster.hosts.lb_healthy_panic") > 0);
}

#[test]
fn without_panic_there_is_no_healthy_upstream() {
    let a = Upstream::start("a");
    let extra =
        format!("common_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}\n    {HTTP}");
    let gateway = gateway(&[&a], &extra);
    a.set_health(404);
    let healthy = || gateway.stat("cluster.hosts.membership_healthy");
    until("it is unhealthy", || healthy() == 0);
    assert_eq!(answers(&gateway, 1), ["503 no healthy upstream"]);
    assert_eq!(gateway.stat("cluster.hosts.upstream_cx_none_healthy"), 1);
    a.set_health(200);
    until("it is healthy again", || healthy() == 1);
    assert_eq!(answers(&gateway, 1), ["200 a"]);
}

/// Nothing is accepted before the first check of every host has a result.
#[test]
fn clients_wait_for_the_first_checks() {
    // Takes connections and says nothing, until it is closed.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let a = Upstream::start("a");
    let extra = HTTP.replace("timeout: 5s", "timeout: 0.3s");
    let hosts = [silent.local_addr().expect("an address"), a.addr];
    let text = config(
        &[http_listener("web", "hosts", "")],
        &[cluster("hosts", &hosts, &extra)],
    );
    let gateway = Gateway::early(&text, &[]);
    // The connection waits in the kernel's queue; its answer comes from the host that is healthy.
    assert_eq!(answers(&gateway, 1), ["200 a"]);
    assert_eq!(gateway.get("/ready"), (200, "LIVE\n".to_owned()));
    assert_eq!(
        gateway.host("hosts", hosts[0], "health_flags"),
        "/failed_active_hc/active_hc_timeout"
    );
    assert!(answers(&gateway, 6).iter().all(|answer| answer == "200 a"));
}
