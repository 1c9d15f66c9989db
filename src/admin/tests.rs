use std::sync::Arc;
use std::time::Duration;

use super::testing::{Fake, with_stats};
use super::*;
use crate::cluster::manager::{ClusterIds, Definition, Manager};
use crate::cluster::{ClusterConfig, Endpoint, Host, Thresholds};
use crate::server::control::ControlLoop;
use crate::server::log::level::ComponentLevels;
use crate::server::log::pattern::Pattern;
use crate::server::log::{self, level::Level};
use crate::telemetry::stats::Names;

/// What a server answers to one request.
fn ask_with(backend: Fake, method: &str, target: &str) -> (Response, Fake) {
    let mut control = ControlLoop::new((backend, None)).unwrap();
    let request = Request::new(method.as_bytes(), target.as_bytes());
    control.handle().send(move |state: &mut Asked, turn| {
        state.1 = Some(handle(&request, &mut state.0, turn));
    });
    for _ in 0..2 {
        control.turn(Some(Duration::ZERO)).unwrap();
    }
    let (backend, response) = control.state;
    (response.unwrap(), backend)
}

type Asked = (Fake, Option<Response>);

impl crate::server::control::State for Asked {}

fn get(target: &str) -> Response {
    ask_with(Fake::new(), "GET", target).0
}

fn post(target: &str) -> (Response, Fake) {
    ask_with(Fake::new(), "POST", target)
}

#[test]
fn readiness_follows_the_state() {
    assert_eq!(get("/ready"), Response::text("LIVE\n"));
    assert_eq!(get("//ready?x").status, 200);
    let mut fake = Fake::new();
    fake.state = ServerState::PreInitializing;
    let (response, _) = ask_with(fake, "GET", "/ready");
    assert_eq!(response, Response::error(503, "PRE_INITIALIZING\n"));
    let (response, fake) = post("/healthcheck/fail");
    assert_eq!(response, Response::text("OK\n"));
    assert_eq!(
        ask_with(fake, "GET", "/ready").0,
        Response::error(503, "DRAINING\n")
    );
}

#[test]
fn what_changes_something_needs_post() {
    for path in [
        "/drain_listeners",
        "/healthcheck/fail",
        "/healthcheck/ok",
        "/logging",
        "/quitquitquit",
        "/reopen_logs",
        "/reset_counters",
    ] {
        let (response, fake) = ask_with(Fake::new(), "PUT", path);
        assert_eq!(
            response,
            Response::error(405, "Method PUT not allowed, POST required."),
            "{path}"
        );
        assert!(fake.done.is_empty());
        assert_eq!(fake.state, ServerState::Live);
    }
}

#[test]
fn actions_reach_the_server() {
    let (response, fake) = post("/drain_listeners?graceful&inboundonly");
    assert_eq!(response, Response::text("OK\n"));
    assert_eq!(
        fake.done,
        ["Drain { graceful: true, skip_exit: false, inbound_only: true }"]
    );
    assert_eq!(post("/quitquitquit").1.done, ["quit"]);
    assert_eq!(post("/reopen_logs").1.done, ["reopen"]);
    let fake = Fake::new();
    let counter = fake.registry.counter("c");
    fake.registry.recorder().inc(counter);
    let (_, fake) = ask_with(fake, "POST", "/reset_counters");
    assert_eq!(fake.registry.value("c"), Some(0));
}

#[test]
fn an_unknown_path_lists_the_commands() {
    let response = get("/nosuch");
    assert_eq!(response.status, 404);
    let commands = response.body.strip_prefix("invalid path. ").unwrap();
    assert_eq!(get("/help").body, commands);
    assert!(commands.starts_with("admin commands are:\n  /: Admin home page\n"));
    assert!(commands.contains("\n  /quitquitquit (POST): exit the server\n"));
    let paths: Vec<&str> = commands
        .lines()
        .filter_map(|line| line.strip_prefix("  /")?.split([':', ' ']).next())
        .collect();
    assert!(paths.is_sorted(), "{paths:?}");
    assert!(get("/").body.contains("<a href=\"stats/prometheus\">"));
}

fn stats(target: &str) -> Response {
    ask_with(with_stats(), "GET", target).0
}

#[test]
fn stats_as_text() {
    let used = stats("/stats?usedonly");
    assert_eq!(
        used,
        Response::text(
            "cluster.up.upstream_rq_200: 1\nhttp.ingress.downstream_rq_2xx: 2\n\
             listener.127.0.0.1_80.downstream_cx_active: 0\nserver.state: 0\n\
             http.ingress.downstream_rq_time: P0(3,3) P25(3,3) P50(3,3) P75(3,7) P90(3,7) \
             P95(3,7) P99(3,7) P99.5(3,7) P99.9(3,7) P100(3,7)\n"
        )
    );
    assert_eq!(
        stats(r"/stats?usedonly&filter=^(server\.state|listener_manager\.workers_started)").body,
        "server.state: 0\n"
    );
    assert_eq!(
        stats("/stats?filter=upstream_rq_time$").body,
        "cluster.up.upstream_rq_time: No recorded values\n"
    );
    assert!(
        stats("/stats?type=Gauges")
            .body
            .lines()
            .all(|line| !line.contains("_2xx"))
    );
    assert_eq!(
        stats("/stats?usedonly&filter=^[hcl]&invert_filter").body,
        "server.state: 0\n"
    );
    assert!(
        stats("/stats?filter=ingress.downstream_rq_time$&histogram_buckets=cumulative")
            .body
            .starts_with("http.ingress.downstream_rq_time: B0.5(0,0) B1(0,0) B5(1,1) B10(1,2) ")
    );
    assert!(
        stats("/stats?filter=ingress.downstream_rq_time$&histogram_buckets=disjoint")
            .body
            .ends_with(
                " B5(1,1) B10(0,1) B25(0,0) B50(0,0) B100(0,0) B250(0,0) B500(0,0) \
                        B1000(0,0) B2500(0,0) B5000(0,0) B10000(0,0) B30000(0,0) B60000(0,0) \
                        B300000(0,0) B600000(0,0) B1.8e+06(0,0) B3.6e+06(0,0)\n"
            )
    );
}

#[test]
fn stats_as_json() {
    assert_eq!(
        stats("/stats?format=json&filter=^server.state"),
        Response::json("{\"stats\":[{\"name\":\"server.state\",\"value\":0}]}")
    );
    let quantiles = stats("/stats?format=json&filter=ingress.downstream_rq_time$").body;
    assert!(quantiles.starts_with(
        "{\"stats\":[{\"histograms\":{\"supported_quantiles\":[0,25,50,75,90,95,99,99.5,99.9,100],\
         \"computed_quantiles\":[{\"name\":\"http.ingress.downstream_rq_time\",\"values\":\
         [{\"cumulative\":3,\"interval\":3},"
    ));
    assert!(quantiles.ends_with("{\"cumulative\":7,\"interval\":3}]}]}}]}"));
    let unused = stats("/stats?format=json&filter=upstream_rq_time$").body;
    assert!(unused.contains("{\"cumulative\":null,\"interval\":null}"));
    let buckets =
        stats("/stats?format=json&filter=downstream_rq_time$&histogram_buckets=cumulative").body;
    assert!(buckets.starts_with(
        "{\"stats\":[{\"histograms\":[{\"name\":\"http.ingress.downstream_rq_time\",\"buckets\":\
         [{\"upper_bound\":0.5,\"interval\":0,\"cumulative\":0},"
    ));
}

#[test]
fn stats_for_prometheus() {
    let body = stats("/stats/prometheus?usedonly").body;
    let start = "# TYPE envoy_cluster_upstream_rq counter\n\
        envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"up\"} 1\n\
        # TYPE envoy_http_downstream_rq_xx counter\n\
        envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",\
        envoy_http_conn_manager_prefix=\"ingress\"} 2\n\
        # TYPE envoy_listener_downstream_cx_active gauge\n\
        envoy_listener_downstream_cx_active{envoy_listener_address=\"127.0.0.1_80\"} 0\n\
        # TYPE envoy_server_state gauge\n\
        envoy_server_state{} 0\n\
        # TYPE envoy_http_downstream_rq_time histogram\n\
        envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"ingress\",\
        le=\"0.5\"} 0\n";
    assert!(body.starts_with(start), "{body}");
    let end = "{envoy_http_conn_manager_prefix=\"ingress\",le=\"+Inf\"} 2\n\
        envoy_http_downstream_rq_time_sum{envoy_http_conn_manager_prefix=\"ingress\"} 10\n\
        envoy_http_downstream_rq_time_count{envoy_http_conn_manager_prefix=\"ingress\"} 2\n";
    assert!(body.ends_with(end), "{body}");
    assert_eq!(stats("/stats?format=prometheus&usedonly").body, body);
    let fake = Fake::new();
    fake.registry.gauge("moorgate.parked.idle");
    let (response, _) = ask_with(fake, "GET", "/stats/prometheus");
    assert_eq!(
        response.body,
        "# TYPE moorgate_parked_idle gauge\nmoorgate_parked_idle{} 0\n"
    );
}

#[test]
fn wrong_parameters_are_refused() {
    for (target, start) in [
        ("/stats?filter=(", "Invalid re2 regex: "),
        ("/stats?filter=a(?=b)", "Invalid re2 regex: "),
        ("/stats?format=html", "usage: /stats?format="),
        ("/stats?type=foo", "invalid &type= param"),
        ("/stats?histogram_buckets=foo", "usage: "),
        ("/stats/prometheus?histogram_buckets=foo", "usage: "),
        ("/clusters?filter=(", "Invalid re2 regex"),
        ("/config_dump?mask=bootstrap", "the parameter mask"),
        (
            "/config_dump?name_regex=(",
            "Error while parsing name_regex",
        ),
    ] {
        let response = get(target);
        assert_eq!(response.status, 400, "{target}");
        assert!(response.body.starts_with(start), "{}", response.body);
    }
}

fn with_clusters() -> Fake {
    let mut fake = Fake::new();
    let registry = Arc::clone(&fake.registry);
    let recorder = registry.recorder();
    let names: Arc<dyn Names + Send + Sync> = registry;
    let mut manager = Manager::new(Arc::<ClusterIds>::default(), names, recorder);
    let mut config = ClusterConfig::default();
    config.thresholds[0] = Thresholds {
        max_connections: 77,
        ..Thresholds::default()
    };
    manager.set(vec![Definition {
        name: "up".into(),
        stat_name: "up_stat".into(),
        config: Arc::new(config),
        endpoints: vec![Endpoint {
            addr: Addr::Ip("127.0.0.1:29082".parse().unwrap()),
            ..endpoint()
        }],
    }]);
    fake.clusters = manager.clusters().into_values().collect();
    fake
}

#[test]
fn clusters_as_text() {
    let (response, fake) = ask_with(with_clusters(), "GET", "/clusters");
    let expected = "up::observability_name::up_stat\n\
        up::default_priority::max_connections::77\n\
        up::default_priority::max_pending_requests::1024\n\
        up::default_priority::max_requests::1024\nup::default_priority::max_retries::3\n\
        up::high_priority::max_connections::1024\n\
        up::high_priority::max_pending_requests::1024\n\
        up::high_priority::max_requests::1024\nup::high_priority::max_retries::3\n\
        up::added_via_api::false\nup::127.0.0.1:29082::cx_active::0\n";
    assert!(response.body.starts_with(expected), "{}", response.body);
    assert!(response.body.contains("::health_flags::healthy\n"));
    let host = Arc::clone(fake.clusters[0].hosts.iter().next().unwrap());
    host.change_flags(Host::FAILED_ACTIVE_HC | Host::FAILED_EDS_HEALTH, 0);
    let (response, fake) = ask_with(fake, "GET", "/clusters?filter=^u");
    assert!(
        response
            .body
            .contains("::health_flags::/failed_active_hc/failed_eds_health\n")
    );
    assert_eq!(ask_with(fake, "GET", "/clusters?filter=^v").0.body, "");
}

#[test]
fn clusters_as_json() {
    let (response, fake) = ask_with(with_clusters(), "GET", "/clusters?format=json");
    let start = "{\n \"cluster_statuses\": [\n  {\n   \"name\": \"up\",\n   \"host_statuses\": [\n    \
        {\n     \"address\": {\n      \"socket_address\": {\n       \
        \"address\": \"127.0.0.1\",\n       \"port_value\": 29082\n      }\n     },\n     \
        \"stats\": [\n      {\n       \"name\": \"cx_connect_fail\"\n      },\n";
    assert!(response.body.starts_with(start), "{}", response.body);
    let health = "\"health_status\": {\n      \"eds_health_status\": \"HEALTHY\"\n     },\n     \
        \"weight\": 1,\n     \"locality\": {}\n    }\n   ],\n   \"circuit_breakers\": {\n";
    assert!(response.body.contains(health), "{}", response.body);
    let host = Arc::clone(fake.clusters[0].hosts.iter().next().unwrap());
    host.change_flags(Host::FAILED_ACTIVE_HC | Host::PENDING_ACTIVE_HC, 0);
    let (response, _) = ask_with(fake, "GET", "/clusters?format=json");
    let health = "\"health_status\": {\n      \"failed_active_health_check\": true,\n      \
        \"eds_health_status\": \"HEALTHY\",\n      \"pending_active_hc\": true\n     },\n";
    assert!(response.body.contains(health), "{}", response.body);
}

#[test]
fn listeners() {
    assert_eq!(
        get("/listeners").body,
        "l_http::127.0.0.1:29080\nl_tcp::127.0.0.1:29081\nl_tcp::[::1]:29081\n"
    );
    let json = get("/listeners?format=json").body;
    let end = "   \"additional_local_addresses\": [\n    {\n     \"socket_address\": {\n      \
        \"address\": \"::1\",\n      \"port_value\": 29081\n     }\n    }\n   ]\n  }\n ]\n}\n";
    assert!(json.starts_with("{\n \"listener_statuses\": [\n  {\n   \"name\": \"l_http\",\n"));
    assert!(json.ends_with(end), "{json}");
}

#[test]
fn configuration_is_dumped_in_sections() {
    assert_eq!(
        get("/config_dump").body,
        "{\n \"configs\": [\n  {\n   \
         \"@type\": \"type.googleapis.com/envoy.admin.v3.BootstrapConfigDump\",\n   \
         \"bootstrap\": {}\n  },\n  {\n   \
         \"@type\": \"type.googleapis.com/envoy.admin.v3.ClustersConfigDump\",\n   \
         \"static_clusters\": [\n    {\n     \"cluster\": {\n      \"name\": \"loc\"\n     }\n    },\n    \
         {\n     \"cluster\": {\n      \"name\": \"up\"\n     }\n    }\n   ]\n  }\n ]\n}\n"
    );
    assert_eq!(
        get("/config_dump?resource=static_clusters&name_regex=^u").body,
        "{\n \"configs\": [\n  {\n   \
         \"@type\": \"type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster\",\n   \
         \"cluster\": {\n    \"name\": \"up\"\n   }\n  }\n ]\n}\n"
    );
    let missing = get("/config_dump?resource=foo");
    assert_eq!(
        missing,
        Response::error(404, "foo not found in config dump")
    );
    assert_eq!(get("/config_dump?resource=bootstrap").status, 400);
    assert!(
        get("/config_dump?include_eds")
            .body
            .contains("EndpointsConfigDump")
    );
}

#[test]
fn the_server_tells_of_itself() {
    let info = get("/server_info");
    assert_eq!(info.content_type, "application/json");
    assert!(
        info.body
            .contains("\n \"state\": \"LIVE\",\n \"uptime_current_epoch\": \"9s\",\n")
    );
    assert!(info.body.contains("\n  \"config_path\": \"e.yaml\",\n"));
    assert!(
        info.body
            .contains("\n  \"file_flush_interval\": \"0.500s\",\n")
    );
    assert!(info.body.contains("\n  \"drain_strategy\": \"Gradual\",\n"));
    assert!(
        info.body
            .ends_with("\n \"node\": {\n  \"id\": \"n1\"\n }\n}\n")
    );
    let memory = get("/memory").body;
    assert!(memory.starts_with("{\n \"allocated\": \"1000\",\n \"heap_size\": \"3000\",\n"));
    assert_eq!(get("/hot_restart_version").body, "disabled");
    assert_eq!(get("/certs").body, "{\n \"certificates\": []\n}\n");
}

#[test]
fn levels_can_be_changed() {
    let mut fake = Fake::new();
    fake.log = Some(
        log::Log::start(log::Settings {
            level: Level::Info,
            components: ComponentLevels::default(),
            path: Some("/dev/null".into()),
            pattern: Pattern::parse("%v").unwrap(),
            escaped: false,
        })
        .unwrap(),
    );
    let mut fake = Some(fake);
    let mut ask = |target: &str| {
        let (response, back) = ask_with(fake.take().unwrap(), "POST", target);
        fake = Some(back);
        response
    };
    let all = ask("/logging");
    assert!(all.body.starts_with("active loggers:\n  admin: info\n"));
    assert!(all.body.ends_with("\n\n"));
    assert!(
        ask("/logging?upstream=debug")
            .body
            .contains("\n  upstream: debug\n")
    );
    let response = ask("/logging?paths=upstream:error,dns:trace");
    assert!(response.body.contains("\n  dns: trace\n"));
    assert!(response.body.contains("\n  upstream: error\n"));
    assert!(!ask("/logging?level=warning").body.contains("info"));
    for (target, why) in [
        (
            "/logging?nosuch=debug",
            "error: unknown logger name\n\nusage: ",
        ),
        (
            "/logging?level=xx",
            "error: unknown logger level\n\nusage: ",
        ),
        (
            "/logging?paths=dns:info,nosuch:info",
            "error: unknown logger name\n",
        ),
        ("/logging?a=b&c=d", "error: invalid number of parameters\n"),
    ] {
        let response = ask(target);
        assert_eq!(response.status, 400);
        assert!(response.body.starts_with(why), "{}", response.body);
        assert!(response.body.contains("  dns: warning\n"), "{target}");
    }
    assert_eq!(get("/certs?x").status, 200);
    assert_eq!(post("/logging").0.status, 503);
}

fn endpoint() -> Endpoint {
    Endpoint {
        addr: Addr::Ip("127.0.0.1:1".parse().unwrap()),
        hostname: String::new(),
        weight: 1,
        priority: 0,
        flags: 0,
        health_target: crate::cluster::HealthTarget::default(),
    }
}
