//! Pools that clients make up: how many connections they may have, and whose these are.

use std::io::{Read, Write};
use std::sync::Arc;

use super::HttpPlan;
use super::bench::{Bench, REQUEST};
use crate::cluster::{ClusterConfig, ProxyHeader};
use moorgate_codecs::preface::proxy::Version;

const ACTIVE: &str = "cluster.web.upstream_cx_active";
const OVERFLOW: &str = "cluster.web.upstream_cx_overflow";

/// Whose cluster tells upstreams of each client.
fn bench(workers: usize, max_connections: u32) -> Bench {
    let cluster = |_: &super::Bed| {
        let mut config = ClusterConfig {
            proxy_header: Some(ProxyHeader {
                version: Version::V1,
                tlvs: Vec::new(),
            }),
            ..ClusterConfig::default()
        };
        config.thresholds[0].max_connections = max_connections;
        config
    };
    Bench::build(workers, usize::MAX, 0, cluster, |_, front| {
        (vec![(front, HttpPlan::default(), "web")], Vec::new())
    })
}

#[test]
fn an_idle_connection_of_another_client_makes_room() {
    let mut bench = bench(1, 2);
    let mut clients: Vec<_> = (0..6).map(|_| bench.client()).collect();
    for _ in 0..2 {
        for client in &mut clients {
            bench.exchange(client, 0);
            assert!(bench.value(ACTIVE) <= 2);
        }
    }
    assert_eq!(bench.value("cluster.web.upstream_cx_total"), 12);
    assert_eq!(bench.value("cluster.web.upstream_cx_destroy_local"), 10);
    assert_eq!(bench.value(OVERFLOW), 0);
    // The last two have theirs.
    bench.exchange(&mut clients[4], 0);
    bench.exchange(&mut clients[5], 0);
    assert_eq!(bench.value("cluster.web.upstream_cx_total"), 12);
    assert_eq!(bench.workers[0].app.pools.len(), 2);
}

#[test]
fn where_all_are_busy_one_more_client_is_refused() {
    let mut bench = bench(1, 1);
    let mut first = bench.client();
    first.write_all(REQUEST).expect("a request");
    bench.turn_until("an open request", |bench| bench.value(ACTIVE) == 1);
    let mut second = bench.client();
    second.write_all(REQUEST).expect("a request");
    bench.turn_until("a refusal", |bench| {
        bench.value("http.test.downstream_rq_5xx") == 1
    });
    let mut answer = [0; 4096];
    let n = second.read(&mut answer).expect("an answer");
    assert!(answer[..n].starts_with(b"HTTP/1.1 503 "));
    assert_eq!((bench.value(ACTIVE), bench.value(OVERFLOW)), (1, 1));
    assert_eq!(bench.workers[0].app.pools.len(), 1);
}

#[test]
fn pools_of_a_host_that_refuses_are_forgotten() {
    let mut bench = bench(1, 100);
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    drop(std::mem::replace(&mut bench.upstream, gone));
    for number in 1..=3 {
        let mut client = bench.client();
        client.write_all(REQUEST).expect("a request");
        bench.turn_until("a refusal", |bench| {
            bench.value("http.test.downstream_rq_5xx") == number
        });
    }
    assert_eq!(bench.workers[0].app.pools.len(), 0);
}

#[test]
fn a_connection_that_comes_from_another_worker_is_in_the_pool_that_is_asked_for() {
    let mut bench = bench(2, 100);
    let cluster = {
        let mut all = bench.workers[0].app.snapshot.clusters.values();
        Arc::clone(all.next().expect("a cluster"))
    };
    let host = Arc::clone(cluster.hosts.iter().next().expect("a host"));
    let client = Some(([127, 0, 0, 1], 1).into()).zip(Some(([127, 0, 0, 1], 2).into()));
    // A name from a header may be anything.
    let odd = Some("a 127.0.0.1:1 127.0.0.1:2".into());
    let asked = [(None, client), (Some("a".into()), client), (odd, None)];
    let [here, there] = [0, 1].map(|worker| {
        let app = &mut bench.workers[worker].app;
        asked
            .clone()
            .map(|(name, client)| app.named_endpoint(&host, &cluster, name, client, false))
    });
    for (number, (one, other)) in here.iter().zip(&there).enumerate() {
        assert_ne!(one.pool, other.pool);
        let adopted = bench.workers[1].app.adopt_endpoint(Arc::clone(one));
        assert!(Arc::ptr_eq(&adopted, other));
        assert!(here[..number].iter().all(|before| before.pool != one.pool));
    }
}
