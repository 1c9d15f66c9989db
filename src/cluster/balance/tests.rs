use std::collections::HashMap;

use super::*;
use crate::cluster::testing::dice;
use crate::cluster::{Breakers, ClusterId, HealthEpoch};
use crate::engine::reactor::Addr;
use crate::telemetry::registry::Registry;
use crate::telemetry::stats::ClusterStats;

/// A cluster with this many hosts per priority; host ids count up from 0.
fn cluster(kind: BalancerKind, sizes: &[usize]) -> Cluster {
    let epoch = Arc::<HealthEpoch>::default();
    let mut next = 0;
    let priorities = sizes
        .iter()
        .enumerate()
        .map(|(priority, size)| {
            (0..*size)
                .map(|_| {
                    let addr = Addr::Ip(([127, 0, 0, 1], next as u16 + 1).into());
                    let id = HostId(next);
                    next += 1;
                    Arc::new(Host::new(
                        id,
                        addr,
                        String::new(),
                        priority as u32,
                        Arc::clone(&epoch),
                    ))
                })
                .collect()
        })
        .collect();
    Cluster {
        id: ClusterId(0),
        name: "c".into(),
        stat_name: "c".into(),
        config: Arc::new(ClusterConfig {
            balancer: kind,
            ..ClusterConfig::default()
        }),
        hosts: Arc::new(HostSet::new(priorities, epoch)),
        stats: ClusterStats::new(&*Registry::new(), "cluster.c."),
        breakers: Arc::new(Breakers::default()),
    }
}

fn host(cluster: &Cluster, id: u32) -> &Arc<Host> {
    cluster.hosts.iter().find(|host| host.id.0 == id).unwrap()
}

fn fail(cluster: &Cluster, ids: impl IntoIterator<Item = u32>) {
    for id in ids {
        host(cluster, id).change_flags(Host::FAILED_ACTIVE_HC, 0);
    }
}

fn tally(cluster: &Cluster, picks: usize) -> HashMap<u32, usize> {
    let mut balancer = Balancer::new();
    let mut random = dice(7);
    let mut counts = HashMap::new();
    for _ in 0..picks {
        let host = balancer.pick(cluster, &mut random, &[]).host().unwrap();
        *counts.entry(host.id.0).or_default() += 1;
    }
    counts
}

fn near(count: usize, expected: usize) -> bool {
    count.abs_diff(expected) * 20 <= expected.max(20)
}

#[test]
fn round_robin_visits_all_in_turn() {
    let cluster = cluster(BalancerKind::RoundRobin, &[3]);
    let mut balancer = Balancer::new();
    let mut random = dice(1);
    let ids: Vec<_> = (0..9)
        .map(|_| {
            balancer
                .pick(&cluster, &mut random, &[])
                .host()
                .unwrap()
                .id
                .0
        })
        .collect();
    for window in ids.windows(3) {
        let mut sorted = window.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2]);
    }
}

#[test]
fn workers_begin_with_different_hosts() {
    let cluster = cluster(BalancerKind::RoundRobin, &[8]);
    let first: std::collections::HashSet<_> = (0..64)
        .map(|seed| {
            Balancer::new()
                .pick(&cluster, dice(seed), &[])
                .host()
                .unwrap()
                .id
        })
        .collect();
    assert!(first.len() > 4);
}

#[test]
fn weighted_round_robin_is_smooth() {
    let cluster = cluster(BalancerKind::RoundRobin, &[3]);
    for (id, weight) in [(0, 5), (1, 1), (2, 2)] {
        host(&cluster, id).set_weight(weight);
    }
    let mut balancer = Balancer::new();
    let mut random = dice(3);
    let ids: Vec<_> = (0..800)
        .map(|_| {
            balancer
                .pick(&cluster, &mut random, &[])
                .host()
                .unwrap()
                .id
                .0
        })
        .collect();
    // In any stretch every host has its share, give or take one turn at each end.
    for window in [8, 40, 80] {
        for stretch in ids.windows(window) {
            for (id, weight) in [(0, 5), (1, 1), (2, 2)] {
                let count = stretch.iter().filter(|picked| **picked == id).count();
                assert!(
                    count.abs_diff(window * weight / 8) <= 2,
                    "{id}: {count} of {window}"
                );
            }
        }
    }
}

#[test]
fn a_changed_weight_is_noticed() {
    let cluster = cluster(BalancerKind::RoundRobin, &[2]);
    let mut balancer = Balancer::new();
    let mut random = dice(3);
    balancer.pick(&cluster, &mut random, &[]);
    host(&cluster, 0).set_weight(9);
    let heavy = (0..1000)
        .filter(|_| {
            balancer
                .pick(&cluster, &mut random, &[])
                .host()
                .unwrap()
                .id
                .0
                == 0
        })
        .count();
    assert!(heavy.abs_diff(900) <= 1, "{heavy}");
}

#[test]
fn random_spreads_evenly() {
    let counts = tally(&cluster(BalancerKind::Random, &[4]), 40_000);
    assert!(
        counts.values().all(|count| near(*count, 10_000)),
        "{counts:?}"
    );
}

#[test]
fn least_request_prefers_the_idler_of_two() {
    let cluster = cluster(BalancerKind::LeastRequest { choices: 2 }, &[3]);
    host(&cluster, 0)
        .active_requests
        .store(10, Ordering::Relaxed);
    let counts = tally(&cluster, 9_000);
    // The busy one wins only when it is drawn twice.
    assert!(counts[&0].abs_diff(1_000) < 150, "{counts:?}");
    let all = super::tests::cluster(BalancerKind::LeastRequest { choices: 40 }, &[3]);
    for id in [0, 1] {
        host(&all, id).active_requests.store(1, Ordering::Relaxed);
    }
    assert_eq!(tally(&all, 1_000)[&2], 1_000);
}

#[test]
fn weighted_least_request_divides_weight_by_load() {
    let cluster = cluster(BalancerKind::LeastRequest { choices: 2 }, &[2]);
    host(&cluster, 0).set_weight(2);
    let counts = tally(&cluster, 3_000);
    assert!(near(counts[&0], 2_000), "{counts:?}");
    host(&cluster, 0)
        .active_requests
        .store(3, Ordering::Relaxed);
    let counts = tally(&cluster, 3_000);
    assert!(near(counts[&0], 1_000), "{counts:?}");
}

#[test]
fn unhealthy_hosts_get_nothing_and_come_back() {
    let cluster = cluster(BalancerKind::RoundRobin, &[4]);
    fail(&cluster, [1]);
    let mut balancer = Balancer::new();
    let mut random = dice(5);
    for _ in 0..100 {
        let picked = balancer.pick(&cluster, &mut random, &[]).host().unwrap();
        assert_ne!(picked.id.0, 1);
        assert!(!balancer.in_panic());
    }
    assert!(host(&cluster, 1).change_flags(0, Host::FAILED_ACTIVE_HC));
    assert!(tally(&cluster, 100).contains_key(&1));
    assert!((0..4).any(|_| {
        balancer
            .pick(&cluster, &mut random, &[])
            .host()
            .unwrap()
            .id
            .0
            == 1
    }));
}

#[test]
fn below_half_healthy_all_are_used() {
    let healthy_half = cluster(BalancerKind::RoundRobin, &[4]);
    fail(&healthy_half, [0, 1]);
    assert_eq!(tally(&healthy_half, 100).len(), 2, "half is not below half");
    let cluster = cluster(BalancerKind::RoundRobin, &[4]);
    fail(&cluster, [0, 1, 2]);
    let mut balancer = Balancer::new();
    balancer.pick(&cluster, dice(1), &[]);
    assert!(balancer.in_panic());
    assert_eq!(tally(&cluster, 100).len(), 4);
}

#[test]
fn panic_can_be_forbidden() {
    let mut none = cluster(BalancerKind::RoundRobin, &[2, 2]);
    none.config = Arc::new(ClusterConfig {
        panic_threshold: 0,
        ..ClusterConfig::default()
    });
    fail(&none, 0..4);
    let mut balancer = Balancer::new();
    assert!(balancer.pick(&none, dice(1), &[]).host().is_none());
    assert!(!balancer.in_panic());

    let mut refuse = cluster(BalancerKind::RoundRobin, &[2]);
    refuse.config = Arc::new(ClusterConfig {
        fail_traffic_on_panic: true,
        ..ClusterConfig::default()
    });
    fail(&refuse, 0..2);
    let mut balancer = Balancer::new();
    assert!(balancer.pick(&refuse, dice(1), &[]).host().is_none());
    assert!(balancer.in_panic());
}

#[test]
fn an_empty_cluster_has_no_host() {
    for sizes in [&[][..], &[0], &[0, 0]] {
        for kind in [
            BalancerKind::RoundRobin,
            BalancerKind::Random,
            BalancerKind::LeastRequest { choices: 2 },
        ] {
            let cluster = cluster(kind, sizes);
            assert!(
                Balancer::new()
                    .pick(&cluster, dice(1), &[])
                    .host()
                    .is_none()
            );
        }
    }
}

/// The worked examples of Envoy's documentation on priority levels: healthy per cent of two
/// priorities, and the share of load each gets.
#[test]
fn load_spills_to_the_next_priority() {
    for (healthy, share) in [
        ((100, 100), (100, 0)),
        ((72, 72), (100, 0)),
        ((71, 71), (99, 1)),
        ((50, 50), (70, 30)),
        ((25, 100), (35, 65)),
        ((25, 25), (50, 50)),
    ] {
        let cluster = cluster(BalancerKind::Random, &[100, 100]);
        fail(&cluster, healthy.0..100);
        fail(&cluster, 100 + healthy.1..200);
        let mut balancer = Balancer::new();
        balancer.pick(&cluster, dice(1), &[]);
        let loads = (
            balancer.levels[0].healthy_load,
            balancer.levels[1].healthy_load,
        );
        assert_eq!(loads, share, "{healthy:?}");
    }
}

/// The documentation's table of panic: per priority in panic or not.
#[test]
fn panic_is_decided_by_priority_but_not_while_the_sum_suffices() {
    for (healthy, panic, share) in [
        ((72, 72), (false, false), (100, 0)),
        ((71, 71), (false, false), (99, 1)),
        ((50, 60), (false, false), (70, 30)),
        ((25, 100), (false, false), (35, 65)),
        ((25, 25), (true, true), (50, 50)),
        ((5, 65), (true, false), (8, 92)),
    ] {
        let cluster = cluster(BalancerKind::Random, &[100, 100]);
        fail(&cluster, healthy.0..100);
        fail(&cluster, 100 + healthy.1..200);
        let mut balancer = Balancer::new();
        balancer.pick(&cluster, dice(1), &[]);
        let (first, second) = (&balancer.levels[0], &balancer.levels[1]);
        assert_eq!((first.panic, second.panic), panic, "{healthy:?}");
        assert_eq!(
            (first.healthy_load, second.healthy_load),
            share,
            "{healthy:?}"
        );
    }
}

#[test]
fn in_total_panic_load_goes_by_size() {
    let cluster = cluster(BalancerKind::Random, &[3, 1]);
    fail(&cluster, 0..4);
    let counts = tally(&cluster, 40_000);
    assert!(
        counts.values().all(|count| near(*count, 10_000)),
        "{counts:?}"
    );
}

#[test]
fn degraded_hosts_serve_what_healthy_ones_cannot() {
    let cluster = cluster(BalancerKind::RoundRobin, &[4]);
    for id in [0, 1] {
        host(&cluster, id).change_flags(Host::DEGRADED_ACTIVE_HC, 0);
    }
    let mut balancer = Balancer::new();
    balancer.pick(&cluster, dice(1), &[]);
    let level = &balancer.levels[0];
    // 2 of 4, times 1.4.
    assert_eq!((level.healthy_load, level.degraded_load), (70, 30));
    fail(&cluster, [2, 3]);
    assert_eq!(tally(&cluster, 100).len(), 2);
}

#[test]
fn new_hosts_can_be_left_out_of_the_count() {
    let cluster = cluster(BalancerKind::RoundRobin, &[4]);
    fail(&cluster, 1..4);
    assert_eq!(tally(&cluster, 100).len(), 4, "one of four is panic");
    for id in 1..4 {
        host(&cluster, id).change_flags(Host::PENDING_ACTIVE_HC, 0);
    }
    assert_eq!(tally(&cluster, 100).len(), 1);
}

#[test]
fn excluded_hosts_are_avoided_but_not_at_any_price() {
    let cluster = cluster(BalancerKind::RoundRobin, &[3]);
    let mut balancer = Balancer::new();
    let mut random = dice(9);
    for _ in 0..20 {
        let picked = balancer
            .pick(&cluster, &mut random, &[HostId(0), HostId(1)])
            .host()
            .unwrap();
        assert_eq!(picked.id.0, 2);
    }
    let all = [HostId(0), HostId(1), HostId(2)];
    assert!(balancer.pick(&cluster, &mut random, &all).host().is_some());
}

#[test]
fn a_new_host_set_is_noticed() {
    let mut cluster = cluster(BalancerKind::RoundRobin, &[3]);
    let mut balancer = Balancer::new();
    let mut random = dice(2);
    balancer.pick(&cluster, &mut random, &[]);
    let epoch = Arc::clone(cluster.hosts.epoch());
    let one = Arc::clone(host(&cluster, 2));
    cluster.hosts = Arc::new(HostSet::new(vec![vec![one]], epoch));
    for _ in 0..5 {
        assert_eq!(
            balancer
                .pick(&cluster, &mut random, &[])
                .host()
                .unwrap()
                .id
                .0,
            2
        );
    }
}
