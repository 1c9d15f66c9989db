//! What the tests of the proxy share: configurations made in plain Rust, and workers to run them.

mod accounting;
mod balance;
mod bench;
mod detecting;
mod filtering;
mod http2;
mod leaving;
mod limits;
mod named;
mod peers;
mod secure;
mod sim;
mod smoke;
mod storm;

use std::collections::HashMap;
use std::sync::Arc;

use moorgate_codecs::http1;

use super::config::{
    ChainId, FilterChain, Http, Listener, ListenerId, NetworkFilter, Rules, Snapshot, TcpProxy,
};
use super::{Gateway, ListenSock, Parts, Shared, Tuning};
use crate::cluster::manager::{ClusterIds, Definition, Manager};
use crate::cluster::{ClusterConfig, Endpoint, HealthTarget};
use crate::engine::chunk::Budget;
use crate::engine::core::Core;
use crate::engine::reactor::{Addr, ListenOptions, Reactor, SocketOptions};
use crate::engine::worker::Worker;
use crate::filter::FilterFactory;
use crate::proxy::facts::ProxyFacts;
use crate::route::headers::HeaderOps;
use crate::route::matcher::Matcher;
use crate::route::table::NewRoute;
use crate::route::{Action, ClusterName, Forward, PathRewrite, RouteTable, Target, VirtualHost};
use crate::telemetry::log_thread::Logs;
use crate::telemetry::registry::Registry;
use crate::telemetry::stats::{
    EngineStats, HttpStats, ListenerStats, Names, TcpStats, WorkerStats,
};

/// What a test configuration consists of. Every listener has one chain.
pub(crate) struct Plan {
    /// (name, settings, addresses of hosts).
    pub(crate) clusters: Vec<(&'static str, ClusterConfig, Vec<Addr>)>,
    /// (address, connection manager settings, cluster) of HTTP listeners.
    pub(crate) http: Vec<(Addr, HttpPlan, &'static str)>,
    /// (address, cluster, idle timeout) of TCP listeners.
    pub(crate) tcp: Vec<(Addr, &'static str, u64)>,
    pub(crate) max_connections: u64,
}

/// Settings of a connection manager in a test.
pub(crate) struct HttpPlan {
    pub(crate) codec: Option<Arc<dyn crate::cluster::CodecFactory>>,
    pub(crate) http2: Option<Arc<dyn crate::cluster::CodecFactory>>,
    pub(crate) filters: Vec<Arc<dyn FilterFactory>>,
    pub(crate) idle_timeout_ms: u64,
    pub(crate) stream_idle_timeout_ms: u64,
    pub(crate) route_timeout_ms: u64,
    pub(crate) retry: Option<Arc<crate::route::RetryPolicy>>,
    pub(crate) buffer_limit: u32,
    pub(crate) upgrades: Vec<(String, bool)>,
    pub(crate) limits: crate::route::StreamLimits,
}

impl Default for HttpPlan {
    fn default() -> Self {
        Self {
            codec: None,
            http2: None,
            filters: Vec::new(),
            idle_timeout_ms: 3_600_000,
            stream_idle_timeout_ms: 300_000,
            route_timeout_ms: 15_000,
            retry: None,
            buffer_limit: 1 << 20,
            upgrades: Vec::new(),
            limits: crate::route::StreamLimits::default(),
        }
    }
}

/// Process-wide parts of a test gateway.
pub(crate) struct Bed {
    pub(crate) registry: Arc<Registry>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) manager: Manager,
    /// Addresses of listeners that speak TLS.
    pub(crate) secure: Vec<Addr>,
    logs: Logs,
    ids: Arc<ClusterIds>,
    version: u64,
}

fn stats_of(registry: &Arc<Registry>) -> &dyn Names {
    &**registry
}

impl Bed {
    pub(crate) fn new(max_buffer_bytes: usize) -> Self {
        let registry = Registry::new();
        let ids = Arc::<ClusterIds>::default();
        let manager = Manager::new(
            Arc::clone(&ids),
            Arc::clone(&registry) as Arc<dyn Names + Send + Sync>,
            registry.recorder(),
        );
        Self {
            logs: Logs::dry(&registry),
            shared: Arc::default(),
            budget: Arc::new(Budget::new(max_buffer_bytes)),
            manager,
            registry,
            secure: Vec::new(),
            ids,
            version: 0,
        }
    }

    /// A snapshot of a plan.
    pub(crate) fn snapshot(&mut self, plan: Plan) -> Arc<Snapshot> {
        let definitions = plan
            .clusters
            .into_iter()
            .map(|(name, config, addrs)| Definition {
                name: name.into(),
                stat_name: name.into(),
                config: Arc::new(config),
                endpoints: addrs
                    .into_iter()
                    .map(|addr| Endpoint {
                        addr,
                        hostname: String::new(),
                        weight: 1,
                        priority: 0,
                        flags: 0,
                        health_target: HealthTarget::default(),
                    })
                    .collect(),
            })
            .collect();
        self.manager.set(definitions);
        let clusters = self.manager.clusters();
        let mut listeners = Vec::new();
        for (addr, http, cluster) in plan.http {
            let buffer_limit = http.buffer_limit;
            let filter = NetworkFilter::Http(Arc::new(self.http(http, cluster)));
            listeners.push(self.listener(listeners.len(), addr, filter, buffer_limit));
        }
        for (addr, cluster, idle_timeout_ms) in plan.tcp {
            let tcp = TcpProxy {
                stat_prefix: "tcp".to_owned(),
                clusters: vec![(self.cluster_name(cluster), 1)],
                idle_timeout_ms,
                max_connect_attempts: 2,
                max_connection_duration_ms: 0,
                stats: TcpStats::new(stats_of(&self.registry), "tcp.test."),
                access_logs: Vec::new(),
            };
            let filter = NetworkFilter::Tcp(Arc::new(tcp));
            listeners.push(self.listener(listeners.len(), addr, filter, 1 << 20));
        }
        self.version += 1;
        let names: HashMap<_, _> = clusters
            .values()
            .map(|cluster| (cluster.name.as_bytes().into(), cluster.id))
            .collect();
        Arc::new(Snapshot {
            version: self.version,
            listeners,
            clusters,
            names,
            max_connections: plan.max_connections,
        })
    }

    fn cluster_name(&self, name: &str) -> ClusterName {
        ClusterName {
            id: self.ids.id(name),
            name: name.into(),
        }
    }

    fn listener(
        &self,
        number: usize,
        addr: Addr,
        filter: NetworkFilter,
        buffer_limit: u32,
    ) -> Arc<Listener> {
        let chain = FilterChain {
            id: ChainId(number as u32),
            name: String::new(),
            tls: self
                .secure
                .contains(&addr)
                .then(|| secure::downstream(stats_of(&self.registry))),
            filter,
        };
        Arc::new(Listener {
            id: ListenerId(number as u32),
            name: format!("l{number}"),
            stats: ListenerStats::new(stats_of(&self.registry), &format!("listener.{addr}.")),
            addresses: vec![addr],
            options: ListenOptions::default(),
            socket: SocketOptions::default(),
            buffer_limit,
            ignore_global_conn_limit: false,
            chains: vec![Arc::new(chain)],
            chooser: None,
            filters: None,
        })
    }

    pub(crate) fn http(&self, plan: HttpPlan, cluster: &str) -> Http {
        let mut table = RouteTable::builder("test");
        let host = VirtualHost {
            name: "all".to_owned(),
            ..VirtualHost::default()
        };
        let host = table.virtual_host(host, &["*"]).expect("a host for all");
        let forward = Forward {
            target: Target::Cluster(self.cluster_name(cluster)),
            cluster_not_found_status: 503,
            path_rewrite: PathRewrite::None,
            host_rewrite: None,
            auto_host_rewrite: false,
            append_x_forwarded_host: false,
            timeout_ms: plan.route_timeout_ms,
            idle_timeout_ms: None,
            retry: plan.retry,
            high_priority: false,
            upgrades: Vec::new(),
            terminate_connect: false,
            limits: plan.limits,
        };
        let route = NewRoute {
            name: "r".to_owned(),
            action: Action::Forward(forward),
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
        };
        table
            .route(host, Matcher::prefix("/"), route)
            .expect("a route for all");
        Http {
            stat_prefix: "test".to_owned(),
            http1: Arc::new(http1::Settings {
                upgrades: plan.upgrades.iter().map(|(name, _)| name.clone()).collect(),
                detect_http2: plan.http2.is_some(),
                ..http1::Settings::default()
            }),
            codec: plan.codec,
            http2: plan.http2,
            routes: Arc::new(table.build()),
            filters: plan.filters,
            rules: Rules::default(),
            idle_timeout_ms: plan.idle_timeout_ms,
            max_connection_duration_ms: 0,
            max_requests_per_connection: 0,
            request_headers_timeout_ms: 0,
            request_timeout_ms: 0,
            stream_idle_timeout_ms: plan.stream_idle_timeout_ms,
            max_stream_duration_ms: 0,
            delayed_close_timeout_ms: 1000,
            proxy_100_continue: false,
            upgrades: plan.upgrades,
            access_logs: Vec::new(),
            stats: HttpStats::new(stats_of(&self.registry), "http.test."),
        }
    }

    /// Workers that serve a snapshot, all listening on each of its addresses.
    pub(crate) fn workers<R: Reactor>(
        &self,
        mut reactors: Vec<R>,
        snapshot: &Arc<Snapshot>,
        tuning: Tuning,
    ) -> Vec<Worker<R, Gateway>> {
        let mut socks = Vec::new();
        for listener in &snapshot.listeners {
            for addr in &listener.addresses {
                let sock = reactors[0]
                    .listen(addr, &listener.options)
                    .expect("a free address");
                socks.push(ListenSock {
                    sock,
                    listener: listener.id,
                });
            }
        }
        let engine_stats = EngineStats::new(stats_of(&self.registry), "moorgate.");
        Core::<R, ProxyFacts>::group(reactors, &self.budget)
            .into_iter()
            .map(|mut core| {
                let recorder = self.registry.recorder();
                let parts = Parts {
                    shared: Arc::clone(&self.shared),
                    snapshot: Arc::clone(snapshot),
                    logs: self
                        .logs
                        .writer(Arc::clone(&recorder), u64::from(core.id())),
                    recorder,
                    engine_stats,
                    worker_stats: WorkerStats::new(
                        stats_of(&self.registry),
                        &format!("moorgate.worker_{}.", core.id()),
                    ),
                    tuning,
                    hostname: "test".to_owned(),
                    // 2001-09-09: the same in every run.
                    wall_clock: || 1_000_000_000_000_000,
                    local_ip: None,
                };
                let mut gateway = Gateway::new(parts, core.now());
                gateway
                    .adopt_listeners(&mut core, &socks)
                    .expect("listeners");
                Worker::new(core, gateway)
            })
            .collect()
    }
}
