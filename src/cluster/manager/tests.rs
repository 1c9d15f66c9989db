use super::*;
use crate::cluster::Usable;
use crate::cluster::testing::{counted, definition, dns_name, endpoint, manager, manager_with};
use crate::cluster::{DnsSource, HealthCheck};
use crate::telemetry::registry::Registry;
use std::sync::atomic::Ordering;

fn dns(names: Vec<DnsName>) -> Discovery {
    Discovery::StrictDns(Arc::new(DnsSource {
        names,
        ..DnsSource::default()
    }))
}

fn config(discovery: Discovery, checks: usize) -> ClusterConfig {
    ClusterConfig {
        discovery,
        health_checks: vec![HealthCheck::default(); checks],
        ..ClusterConfig::default()
    }
}

fn ips(list: &[[u8; 4]]) -> Resolution {
    Resolution::Addresses(list.iter().map(|ip| IpAddr::from(*ip)).collect())
}

fn hosts(manager: &Manager, id: ClusterId) -> Vec<Arc<Host>> {
    let cluster = manager.get(id).unwrap();
    cluster.hosts.iter().cloned().collect()
}

fn addrs(manager: &Manager, id: ClusterId) -> Vec<String> {
    let mut list: Vec<_> = hosts(manager, id)
        .iter()
        .map(|host| host.addr.to_string())
        .collect();
    list.sort();
    list
}

#[test]
fn a_reload_keeps_hosts_breakers_and_ids() {
    let mut manager = manager();
    let make = |ports: &[u16]| {
        let endpoints = ports.iter().map(|port| endpoint(*port)).collect();
        definition("a", ClusterConfig::default(), endpoints)
    };
    manager.set(vec![make(&[1, 2])]);
    assert!(manager.take_dirty());
    assert!(!manager.take_dirty());
    let id = manager.ids().id("a");
    let before = Arc::clone(manager.get(id).unwrap());
    before.hosts.priorities[0][1].change_flags(Host::FAILED_OUTLIER_CHECK, 0);
    before.hosts.priorities[0][1]
        .active_requests
        .store(3, Ordering::Relaxed);

    manager.set(vec![make(&[2, 3])]);
    assert!(manager.take_dirty());
    let after = Arc::clone(manager.get(id).unwrap());
    assert_eq!(after.id, before.id);
    assert!(Arc::ptr_eq(&after.breakers, &before.breakers));
    assert!(Arc::ptr_eq(
        &after.hosts.priorities[0][0],
        &before.hosts.priorities[0][1]
    ));
    assert_ne!(after.hosts.version(), before.hosts.version());
    assert_eq!(addrs(&manager, id), ["127.0.0.1:2", "127.0.0.1:3"]);

    manager.set(vec![]);
    assert!(manager.get(id).is_none());
    assert!(manager.take_dirty());
    manager.set(vec![make(&[2])]);
    let again = manager.get(id).unwrap();
    assert!(Arc::ptr_eq(&again.breakers, &before.breakers));
    assert_eq!(
        again.hosts.priorities[0][0].id, before.hosts.priorities[0][1].id,
        "an address has one id for ever"
    );
}

#[test]
fn nothing_of_an_old_cluster_is_kept() {
    let mut manager = manager();
    for port in 1..50 {
        manager.set(vec![definition(
            "a",
            ClusterConfig::default(),
            vec![endpoint(port)],
        )]);
    }
    let id = manager.ids().id("a");
    let cluster = manager.get(id).unwrap();
    assert_eq!(Arc::strong_count(cluster), 1);
    assert_eq!(Arc::strong_count(&cluster.hosts), 1);
    assert_eq!(Arc::strong_count(&cluster.hosts.priorities[0][0]), 2);
}

#[test]
fn weights_and_priorities_follow_the_configuration() {
    let mut manager = manager();
    let mut far = endpoint(2);
    far.priority = 2;
    let mut heavy = endpoint(1);
    heavy.weight = 5;
    manager.set(vec![definition(
        "a",
        ClusterConfig::default(),
        vec![heavy.clone(), heavy, far.clone()],
    )]);
    let id = manager.ids().id("a");
    let levels = &manager.get(id).unwrap().hosts.priorities;
    assert_eq!(levels.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 1]);
    assert_eq!(levels[0][0].weight(), 10, "named twice");
    far.priority = 0;
    far.flags = Host::EDS_STATUS_DRAINING;
    manager.set(vec![definition("a", ClusterConfig::default(), vec![far])]);
    let host = &hosts(&manager, id)[0];
    assert_eq!((host.priority, host.usable()), (0, Usable::Unhealthy));
}

#[test]
fn strict_dns_uses_every_address_of_every_name() {
    let mut manager = manager();
    let names = vec![dns_name("one.test", 80), dns_name("two.test", 81)];
    manager.set(vec![definition("a", config(dns(names), 0), vec![])]);
    let id = manager.ids().id("a");
    assert!(!manager.is_warm());
    manager.take_dirty();
    manager.resolved(id, "one.test", ips(&[[127, 0, 0, 1], [127, 0, 0, 2]]));
    assert!(!manager.is_warm());
    assert!(manager.take_dirty());
    manager.resolved(id, "two.test", ips(&[[127, 0, 0, 1]]));
    assert!(manager.is_warm());
    assert_eq!(
        addrs(&manager, id),
        ["127.0.0.1:80", "127.0.0.1:81", "127.0.0.2:80"]
    );
    assert_eq!(hosts(&manager, id)[0].hostname, "one.test");
    manager.take_dirty();
    manager.resolved(id, "one.test", ips(&[[127, 0, 0, 2], [127, 0, 0, 1]]));
    assert!(
        !manager.take_dirty(),
        "the order of addresses means nothing"
    );
    manager.resolved(id, "one.test", Resolution::Failed);
    assert!(!manager.take_dirty(), "a failure changes nothing");
    manager.resolved(id, "one.test", ips(&[]));
    assert!(manager.take_dirty());
    assert_eq!(addrs(&manager, id), ["127.0.0.1:81"]);
    manager.resolved(id, "gone.test", ips(&[[127, 0, 0, 9]]));
    manager.resolved(ClusterId(99), "one.test", ips(&[]));
    assert!(!manager.take_dirty(), "late answers are dropped");
}

#[test]
fn a_reload_keeps_what_was_resolved() {
    let mut manager = manager();
    let make = |names: &[&str]| {
        let names = names.iter().map(|name| dns_name(name, 80)).collect();
        definition("a", config(dns(names), 0), vec![])
    };
    manager.set(vec![make(&["one.test", "two.test"])]);
    let id = manager.ids().id("a");
    manager.resolved(id, "one.test", ips(&[[127, 0, 0, 1]]));
    manager.resolved(id, "two.test", ips(&[[127, 0, 0, 2]]));
    let kept = hosts(&manager, id)[1].clone();
    manager.set(vec![make(&["two.test", "new.test"])]);
    assert_eq!(addrs(&manager, id), ["127.0.0.2:80"]);
    assert!(Arc::ptr_eq(&kept, &hosts(&manager, id)[0]));
    assert!(!manager.is_warm());
    manager.resolved(id, "new.test", Resolution::Failed);
    assert!(manager.is_warm(), "a failure is an outcome");
}

#[test]
fn a_logical_host_moves_with_its_name_and_survives_empty_answers() {
    let mut manager = manager();
    let source = DnsSource {
        names: vec![dns_name("one.test", 80)],
        ..DnsSource::default()
    };
    let discovery = Discovery::LogicalDns(Arc::new(source));
    manager.set(vec![definition("a", config(discovery, 0), vec![])]);
    let id = manager.ids().id("a");
    manager.resolved(id, "one.test", ips(&[[127, 0, 0, 1], [127, 0, 0, 2]]));
    let first = hosts(&manager, id);
    assert_eq!(addrs(&manager, id), ["127.0.0.1:80"]);
    manager.resolved(id, "one.test", ips(&[]));
    assert_eq!(addrs(&manager, id), ["127.0.0.1:80"]);
    manager.take_dirty();
    manager.resolved(id, "one.test", ips(&[[127, 0, 0, 3]]));
    assert!(manager.take_dirty());
    assert_eq!(addrs(&manager, id), ["127.0.0.3:80"]);
    assert_eq!(first[0].id, hosts(&manager, id)[0].id);
}

#[test]
fn checked_hosts_wait_for_their_first_check() {
    let mut manager = manager();
    manager.set(vec![definition(
        "a",
        config(Discovery::Static, 1),
        vec![endpoint(1)],
    )]);
    let id = manager.ids().id("a");
    let host = hosts(&manager, id)[0].clone();
    assert_eq!(host.usable(), Usable::Unhealthy);
    assert!(!manager.is_warm());
    host.change_flags(0, Host::FAILED_ACTIVE_HC);
    manager.checked(id, host.id);
    assert!(manager.is_warm());
    host.change_flags(Host::FAILED_ACTIVE_HC, 0);
    manager.set(vec![definition(
        "a",
        config(Discovery::Static, 0),
        vec![endpoint(1)],
    )]);
    assert_eq!(host.flags(), 0, "without checks nothing can fail");
}

#[test]
fn an_endpoint_that_is_not_checked_is_healthy() {
    let mut manager = manager();
    let mut unchecked = endpoint(1);
    unchecked.health_target.disabled = true;
    let make = |endpoint| definition("a", config(Discovery::Static, 1), vec![endpoint]);
    manager.set(vec![make(unchecked.clone())]);
    let id = manager.ids().id("a");
    assert!(manager.is_warm());
    assert_eq!(hosts(&manager, id)[0].usable(), Usable::Healthy);
    manager.set(vec![make(endpoint(2))]);
    assert!(!manager.is_warm());
    unchecked.addr = endpoint(2).addr;
    manager.set(vec![make(unchecked)]);
    assert_eq!(hosts(&manager, id)[0].usable(), Usable::Healthy);
    assert!(manager.is_warm());
}

#[test]
fn healthy_hosts_outlive_their_dns_record_until_a_check_fails() {
    let mut manager = manager();
    manager.set(vec![definition(
        "a",
        config(dns(vec![dns_name("one.test", 80)]), 1),
        vec![],
    )]);
    let id = manager.ids().id("a");
    manager.resolved(id, "one.test", ips(&[[127, 0, 0, 1], [127, 0, 0, 2]]));
    let all = hosts(&manager, id);
    all[0].change_flags(0, Host::FAILED_ACTIVE_HC);
    manager.checked(id, all[0].id);
    manager.resolved(id, "one.test", ips(&[[127, 0, 0, 3]]));
    assert_eq!(addrs(&manager, id), ["127.0.0.1:80", "127.0.0.3:80"]);
    assert_eq!(all[0].flags(), Host::PENDING_DYNAMIC_REMOVAL);
    manager.settle();
    manager.take_dirty();

    all[0].change_flags(Host::FAILED_ACTIVE_HC, 0);
    manager.settle();
    assert!(manager.take_dirty());
    assert_eq!(addrs(&manager, id), ["127.0.0.3:80"]);

    manager.resolved(id, "one.test", ips(&[[127, 0, 0, 1]]));
    let back = hosts(&manager, id)
        .into_iter()
        .find(|host| host.id == all[0].id);
    assert_eq!(back.unwrap().flags() & Host::PENDING_DYNAMIC_REMOVAL, 0);
}

#[test]
fn a_host_that_comes_back_is_not_pending_any_more() {
    let mut manager = manager();
    manager.set(vec![definition(
        "a",
        config(dns(vec![dns_name("one.test", 80)]), 1),
        vec![],
    )]);
    let id = manager.ids().id("a");
    manager.resolved(id, "one.test", ips(&[[127, 0, 0, 1]]));
    let host = hosts(&manager, id)[0].clone();
    host.change_flags(0, Host::FAILED_ACTIVE_HC);
    manager.resolved(id, "one.test", ips(&[]));
    assert_eq!(host.flags(), Host::PENDING_DYNAMIC_REMOVAL);
    manager.resolved(id, "one.test", ips(&[[127, 0, 0, 1]]));
    assert_eq!(host.flags(), 0);
    assert!(Arc::ptr_eq(&host, &hosts(&manager, id)[0]));
}

#[test]
fn gauges_follow_members_and_health_and_end_at_zero() {
    let registry = Registry::new();
    let mut manager = manager_with(&registry);
    let make = |ports: &[u16], stat_name: &str| {
        let endpoints = ports.iter().map(|port| endpoint(*port)).collect();
        Definition {
            stat_name: stat_name.into(),
            ..definition("a", ClusterConfig::default(), endpoints)
        }
    };
    let members = |prefix: &str| counted(&registry, &format!("{prefix}.membership_"));
    let own = |list: &[(&str, i64)]| -> Vec<_> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    };
    manager.set(vec![make(&[1, 2, 3], "a")]);
    let expected = own(&[("change", 1), ("healthy", 3), ("total", 3)]);
    assert_eq!(members("cluster.a"), expected);
    let all = hosts(&manager, manager.ids().id("a"));
    all[0].change_flags(Host::FAILED_OUTLIER_CHECK, 0);
    all[1].change_flags(Host::DEGRADED_EDS_HEALTH, 0);
    manager.settle();
    let expected = own(&[("change", 1), ("degraded", 1), ("healthy", 1), ("total", 3)]);
    assert_eq!(members("cluster.a"), expected);
    manager.set(vec![make(&[1], "b")]);
    assert_eq!(members("cluster.a"), own(&[("change", 2)]));
    assert_eq!(members("cluster.b"), own(&[("total", 1)]));
    manager.set(vec![]);
    assert_eq!(members("cluster.b"), []);
    manager.show();
    assert_eq!(
        counted(&registry, "cluster_manager."),
        own(&[
            ("cluster_added", 1),
            ("cluster_modified", 1),
            ("cluster_removed", 1)
        ])
    );
}

#[test]
fn breaker_gauges_are_shown_when_asked_for() {
    use crate::cluster::breaker::{Priority, Resource};
    let registry = Registry::new();
    let mut manager = manager_with(&registry);
    let mut config = ClusterConfig::default();
    config.thresholds[0].max_connections = 1;
    config.thresholds[0].track_remaining = true;
    manager.set(vec![definition("a", config, vec![endpoint(1)])]);
    let cluster = Arc::clone(manager.iter().next().unwrap());
    let take = |resource| {
        cluster
            .breakers
            .acquire(resource, Priority::Default, &cluster.config.thresholds)
            .unwrap()
    };
    let held = (take(Resource::Connections), take(Resource::Retries));
    manager.show();
    let shown: HashMap<_, _> = counted(&registry, "cluster.a.circuit_breakers.")
        .into_iter()
        .collect();
    assert_eq!(shown["default.cx_open"], 1);
    assert!(!shown.contains_key("default.remaining_cx"), "it is zero");
    assert_eq!(shown["default.remaining_retries"], 2);
    assert_eq!(shown["default.remaining_rq"], 1024);
    assert_eq!(shown.len(), 4);
    drop(held);
    manager.show();
    let shown = counted(&registry, "cluster.a.circuit_breakers.default.cx_open");
    assert_eq!(shown, []);
    manager.set(vec![]);
    assert_eq!(counted(&registry, "cluster.a.circuit_breakers."), []);
}

#[test]
fn updates_are_counted() {
    let registry = Registry::new();
    let mut manager = manager_with(&registry);
    let names = vec![dns_name("one.test", 80)];
    manager.set(vec![definition("a", config(dns(names), 0), vec![])]);
    let id = manager.ids().id("a");
    for resolution in [
        ips(&[[127, 0, 0, 1]]),
        ips(&[[127, 0, 0, 1]]),
        Resolution::Failed,
        ips(&[]),
    ] {
        manager.resolving(id);
        manager.resolved(id, "one.test", resolution);
    }
    let expected: Vec<_> = [
        ("attempt", 4),
        ("failure", 1),
        ("no_rebuild", 1),
        ("success", 3),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    assert_eq!(counted(&registry, "cluster.a.update_"), expected);
}
