//! What it costs to choose a host, and to notice that the hosts changed.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use moorgate::cluster::balance::Balancer;
use moorgate::cluster::breaker::{Priority, Resource};
use moorgate::cluster::manager::{ClusterIds, Definition, Manager};
use moorgate::cluster::{
    BalancerKind, Cluster, ClusterConfig, Endpoint, HealthTarget, Host, Thresholds,
};
use moorgate::engine::reactor::Addr;
use moorgate::telemetry::registry::Registry;

fn cluster(balancer: BalancerKind, hosts: u16, weighted: bool) -> Arc<Cluster> {
    let registry = Registry::new();
    let recorder = registry.recorder();
    let mut manager = Manager::new(Arc::<ClusterIds>::default(), registry, recorder);
    let endpoint = |port: u16| Endpoint {
        addr: Addr::Ip(([127, 0, 0, 1], port).into()),
        hostname: String::new(),
        weight: if weighted { u32::from(port % 7) + 1 } else { 1 },
        priority: 0,
        flags: 0,
        health_target: HealthTarget::default(),
    };
    manager.set(vec![Definition {
        name: "a".into(),
        stat_name: "a".into(),
        config: Arc::new(ClusterConfig {
            balancer,
            ..ClusterConfig::default()
        }),
        endpoints: (1..=hosts).map(endpoint).collect(),
    }]);
    let cluster = manager.iter().next().map(Arc::clone);
    cluster.expect("one cluster")
}

/// Xorshift: as cheap as the workers' own.
fn dice() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn picking(c: &mut Criterion) {
    let mut group = c.benchmark_group("balance");
    let least = BalancerKind::LeastRequest { choices: 2 };
    for hosts in [3, 100, 10_000] {
        for (name, kind, weighted) in [
            ("round robin", BalancerKind::RoundRobin, false),
            ("round robin, weighted", BalancerKind::RoundRobin, true),
            ("least request", least, false),
            ("least request, weighted", least, true),
            ("random", BalancerKind::Random, false),
        ] {
            let cluster = cluster(kind, hosts, weighted);
            let mut balancer = Balancer::new();
            let mut random = dice();
            group.bench_function(format!("{name}, {hosts} hosts"), |b| {
                b.iter(|| {
                    let picked = balancer.pick(black_box(&cluster), &mut random, &[]);
                    black_box(picked.host().is_some())
                });
            });
        }
    }
    let changing = cluster(BalancerKind::RoundRobin, 100, false);
    let mut balancer = Balancer::new();
    let mut random = dice();
    let host = Arc::clone(changing.hosts.iter().next().expect("a host"));
    group.bench_function("rebuild after a change of health, 100 hosts", |b| {
        b.iter(|| {
            host.change_flags(Host::FAILED_OUTLIER_CHECK, 0);
            host.change_flags(0, Host::FAILED_OUTLIER_CHECK);
            black_box(balancer.pick(&changing, &mut random, &[]).host().is_some())
        });
    });
    group.finish();
}

fn permits(c: &mut Criterion) {
    let cluster = cluster(BalancerKind::RoundRobin, 1, false);
    let thresholds = [Thresholds::default(); 2];
    c.bench_function("breaker: acquire and release", |b| {
        b.iter(|| {
            let breakers = black_box(&cluster.breakers);
            let permit = breakers.acquire(Resource::Requests, Priority::Default, &thresholds);
            black_box(permit.is_some())
        });
    });
}

criterion_group!(benches, picking, permits);
criterion_main!(benches);
