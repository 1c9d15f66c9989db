//! A server that only pretends, for the tests of this room.

use std::sync::Arc;
use std::time::Duration;

use super::{AdminBackend, Drain, Field, Item, ListenerInfo, Section, ServerState};
use crate::cluster::Cluster;
use crate::engine::reactor::Addr;
use crate::server::cli::{Command, Options};
use crate::server::control::{State, Turn};
use crate::server::log::Log;
use crate::telemetry::memory::Memory;
use crate::telemetry::registry::Registry;
use crate::telemetry::stats::{ClusterStats, HttpStats, ListenerStats, ServerStats};

pub(super) struct Fake {
    pub(super) registry: Arc<Registry>,
    pub(super) state: ServerState,
    pub(super) options: Box<Options>,
    pub(super) clusters: Vec<Arc<Cluster>>,
    pub(super) log: Option<Log>,
    pub(super) done: Vec<String>,
}

impl Fake {
    pub(super) fn new() -> Self {
        let arguments = [
            "moorgate",
            "-c",
            "e.yaml",
            "--file-flush-interval-msec",
            "500",
        ];
        let Command::Run(options) = Options::read(arguments.map(Into::into)) else {
            panic!("the command line was refused");
        };
        Self {
            registry: Registry::new(),
            state: ServerState::Live,
            options,
            clusters: Vec::new(),
            log: None,
            done: Vec::new(),
        }
    }
}

impl State for Fake {}

impl AdminBackend for Fake {
    fn registry(&mut self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    fn state(&self) -> ServerState {
        self.state
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(9500)
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn node(&self) -> Option<String> {
        Some("{\n \"id\": \"n1\"\n}".to_owned())
    }

    fn clusters(&self) -> Vec<Arc<Cluster>> {
        self.clusters.clone()
    }

    fn listeners(&self) -> Vec<ListenerInfo> {
        let ip = |text: &str| Addr::Ip(text.parse().unwrap());
        vec![
            ListenerInfo {
                name: "l_http".to_owned(),
                addresses: vec![ip("127.0.0.1:29080")],
            },
            ListenerInfo {
                name: "l_tcp".to_owned(),
                addresses: vec![ip("127.0.0.1:29081"), ip("[::1]:29081")],
            },
        ]
    }

    fn config(&self, include_eds: bool) -> Vec<Section> {
        let item = |name: &str| Item {
            name: name.to_owned(),
            json: format!("{{\n \"cluster\": {{\n  \"name\": \"{name}\"\n }}\n}}\n"),
        };
        let mut sections = vec![
            Section {
                message: "envoy.admin.v3.BootstrapConfigDump",
                fields: vec![("bootstrap", Field::One("{}".to_owned()))],
            },
            Section {
                message: "envoy.admin.v3.ClustersConfigDump",
                fields: vec![(
                    "static_clusters",
                    Field::Many {
                        element: "StaticCluster",
                        items: vec![item("loc"), item("up")],
                    },
                )],
            },
        ];
        if include_eds {
            sections.push(Section {
                message: "envoy.admin.v3.EndpointsConfigDump",
                fields: Vec::new(),
            });
        }
        sections
    }

    fn memory(&self) -> Memory {
        Memory {
            allocated: 1000,
            heap_size: 3000,
            free: 2000,
            physical: 4000,
        }
    }

    fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    fn fail_health_checks(&mut self, fail: bool) {
        self.state = match fail {
            true => ServerState::Draining,
            false => ServerState::Live,
        };
    }

    fn drain_listeners(&mut self, drain: Drain, _: &mut Turn) {
        self.done.push(format!("{drain:?}"));
    }

    fn reopen_logs(&mut self) {
        self.done.push("reopen".to_owned());
    }

    fn quit(&mut self, turn: &mut Turn) {
        self.done.push("quit".to_owned());
        turn.stop();
    }
}

/// A server that counted a little.
pub(super) fn with_stats() -> Fake {
    let fake = Fake::new();
    let registry = Arc::clone(&fake.registry);
    let recorder = registry.recorder();
    let http = HttpStats::new(&*registry, "http.ingress.");
    let cluster = ClusterStats::new(&*registry, "cluster.up.");
    let listener = ListenerStats::new(&*registry, "listener.127.0.0.1_80.");
    let server = ServerStats::new(&*registry, "server.");
    recorder.add(http.downstream_rq_2xx, 2);
    recorder.code(cluster.upstream_rq, 200);
    recorder.gauge(listener.downstream_cx_active, 1);
    recorder.gauge(listener.downstream_cx_active, -1);
    recorder.set(server.state, 0);
    recorder.record(http.downstream_rq_time, 3);
    registry.flush();
    recorder.record(http.downstream_rq_time, 7);
    fake
}
