//! Whole bootstraps, from text to what is served.

mod listener;
mod tls;
mod upstream;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::cluster::{BalancerKind, Discovery, HealthCheckKind, Thresholds};
use crate::config::{ParseOptions, Source, parse_bootstrap};
use crate::engine::reactor::ListenOptions;
use crate::proxy::config::{Http, NetworkFilter, Rules, TcpProxy};
use crate::route::{Action, Target};
use crate::telemetry::registry::Registry;

/// What outlives a configuration.
struct Process {
    names: Arc<dyn Names + Send + Sync>,
    ids: Interner,
    clusters: Arc<ClusterIds>,
    logs: Logs,
}

impl Process {
    fn new() -> Self {
        let registry = Registry::new();
        Self {
            logs: Logs::dry(&registry),
            names: registry,
            ids: Interner::default(),
            clusters: Arc::default(),
        }
    }

    fn build(&self, source: &Source) -> Result<Built, ConfigError> {
        let parsed = parse_bootstrap(source, &ParseOptions::default())?;
        let builder = Builder {
            names: &self.names,
            ids: &self.ids,
            clusters: &self.clusters,
            logs: &self.logs,
            options: Options {
                file: &parsed.file,
                hostname: "test",
                ..Options::default()
            },
        };
        build(&parsed.bootstrap, &builder)
    }

    fn yaml(&self, yaml: &str) -> Result<Built, ConfigError> {
        self.build(&Source {
            path: None,
            yaml: Some(yaml.to_owned()),
        })
    }

    fn file(&self, path: &Path) -> Result<Built, ConfigError> {
        self.build(&Source {
            path: Some(path.to_owned()),
            yaml: None,
        })
    }
}

fn built(yaml: &str) -> Built {
    Process::new().yaml(yaml).expect("a valid configuration")
}

/// The error without the name of its file.
fn refusal(yaml: &str) -> String {
    let error = Process::new().yaml(yaml).expect_err(yaml);
    assert_eq!(error.file, "--config-yaml");
    format!("{}: {}", error.path, error.reason)
}

fn in_repository(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), path].iter().collect()
}

fn http_of(built: &Built) -> &Arc<Http> {
    match &built.listeners[0].chains[0].filter {
        NetworkFilter::Http(http) => http,
        NetworkFilter::Tcp(_) => panic!("no connection manager"),
    }
}

fn tcp_of(built: &Built, listener: usize) -> &Arc<TcpProxy> {
    match &built.listeners[listener].chains[0].filter {
        NetworkFilter::Tcp(tcp) => tcp,
        NetworkFilter::Http(_) => panic!("no tcp_proxy"),
    }
}

const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// A listener with one connection manager, and a cluster `a`. `manager` and `route` are further
/// fields of the connection manager and of its one route.
fn http(manager: &str, route: &str) -> String {
    format!(
        r#"{{static_resources: {{
          listeners: [{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 8080}}}},
            filter_chains: [{{filters: [{{name: hcm, typed_config: {{"@type": {HCM}, stat_prefix: s,
              {manager}
              route_config: {{name: r, virtual_hosts: [{{name: v, domains: ["*"], routes: [
                {{match: {{prefix: "/"}}, {route} }}]}}]}},
              http_filters: [{{name: router, typed_config: {{"@type": {ROUTER}}}}}]
            }}}}]}}]}}],
          clusters: [{{name: a, load_assignment: {{cluster_name: a}}}}]}}}}"#
    )
}

/// A listener with `tcp_proxy`; `fields` are its own besides `stat_prefix`.
fn tcp(fields: &str) -> String {
    format!(
        r#"{{static_resources: {{
          listeners: [{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}},
            filter_chains: [{{filters: [{{name: tcp, typed_config: {{"@type": {TCP}, stat_prefix: s,
              {fields} }}}}]}}]}}],
          clusters: [{{name: a, load_assignment: {{cluster_name: a}}}}]}}}}"#
    )
}

/// A cluster `a` with an empty load assignment and these fields.
fn cluster(fields: &str) -> String {
    format!(
        "{{static_resources: {{clusters: [{{name: a, load_assignment: {{cluster_name: a}}, {fields} }}]}}}}"
    )
}

const HCM_PATH: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
const ROUTE_PATH: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0]";

#[test]
fn every_example_builds() {
    let mut count = 0;
    for entry in std::fs::read_dir(in_repository("examples")).expect("examples") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let built = Process::new().file(&path).unwrap_or_else(|e| panic!("{e}"));
            assert!(!built.listeners.is_empty() && !built.definitions.is_empty());
            count += 1;
        }
    }
    assert!(count > 0);
}

#[test]
fn what_is_not_said_is_as_in_envoy() {
    let built = built(&http("", "route: {cluster: a}"));
    assert!(built.admin.is_none());
    assert_eq!(built.max_connections, 0);
    assert_eq!(built.node, Node::default());
    let listener = &built.listeners[0];
    assert_eq!(listener.buffer_limit, 1 << 20);
    assert_eq!(listener.options.backlog, ListenOptions::default().backlog);
    assert!(listener.options.reuse_port && !listener.ignore_global_conn_limit);
    let http = http_of(&built);
    assert_eq!(http.stat_prefix, "s");
    let times = [
        http.idle_timeout_ms,
        http.max_connection_duration_ms,
        http.request_headers_timeout_ms,
        http.request_timeout_ms,
        http.stream_idle_timeout_ms,
        http.max_stream_duration_ms,
        http.delayed_close_timeout_ms,
    ];
    assert_eq!(times, [3_600_000, 0, 0, 0, 300_000, 0, 1_000]);
    assert_eq!(http.max_requests_per_connection, 0);
    assert_eq!(http.http1.max_head_bytes, 60 * 1024);
    assert_eq!(http.http1.max_fields, 100);
    assert!(http.http1.allow_absolute_url && !http.http1.accept_http_10);
    assert!(!http.http1.allow_connect && http.http1.upgrades.is_empty());
    let rules = format!("{:?}", Rules::default());
    assert_eq!(format!("{:?}", http.rules), rules);
    let route = http.routes.routes().next().expect("a route");
    let Action::Forward(forward) = &route.action else {
        panic!("not forwarded")
    };
    assert_eq!(forward.timeout_ms, 15_000);
    assert!(forward.idle_timeout_ms.is_none() && forward.retry.is_none());
    assert_eq!(forward.cluster_not_found_status, 503);
    assert!(!forward.terminate_connect);

    let definition = &built.definitions[0];
    assert_eq!(&*definition.stat_name, "a");
    let defaults = format!("{:?}", crate::cluster::ClusterConfig::default());
    assert_eq!(format!("{:?}", definition.config), defaults);

    let built = self::built(&super::tests::tcp("cluster: a"));
    let tcp = tcp_of(&built, 0);
    assert_eq!(tcp.idle_timeout_ms, 3_600_000);
    assert_eq!(tcp.max_connect_attempts, 1);
    assert_eq!(tcp.max_connection_duration_ms, 0);
}

#[test]
fn a_gateway_as_operators_write_it() {
    let process = Process::new();
    let path = in_repository("tests/data/config/gateway.yaml");
    let built = process.file(&path).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(built.max_connections, 15_000);
    assert_eq!(built.node.id, "gateway-7f9c");
    assert!(
        built
            .node
            .json
            .as_ref()
            .is_some_and(|json| json.contains("eu-1"))
    );
    let admin = built.admin.as_ref().map(|admin| admin.addr.to_string());
    assert_eq!(admin.as_deref(), Some("127.0.0.1:9901"));
    let web = &built.listeners[0];
    let addresses: Vec<_> = web.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["[::]:8080", "/run/moorgate/web.sock"]);
    assert!(web.options.ipv4_compat);
    assert_eq!(web.options.unix_mode, Some(0o644));
    assert_eq!(web.buffer_limit, 32_768);
    assert_eq!(web.socket.keepalive.and_then(|k| k.idle_s), Some(60));
    let http = http_of(&built);
    assert!(http.rules.use_remote_address && http.rules.suppress_envoy_headers);
    assert_eq!(http.http1.upgrades, ["websocket"]);
    assert_eq!(http.access_logs.len(), 1);
    assert_eq!(http.routes.routes().count(), 4);
    let weighted = http.routes.routes().next().expect("a route");
    let Action::Forward(forward) = &weighted.action else {
        panic!("not forwarded")
    };
    let Target::Weighted(clusters) = &forward.target else {
        panic!("not weighted")
    };
    assert_eq!(clusters[1].cumulative_weight, 100);
    assert_eq!(forward.timeout_ms, 0);
    assert_eq!(
        forward.retry.as_ref().map(|r| r.per_try_timeout_ms),
        Some(250)
    );
    assert_eq!(tcp_of(&built, 1).idle_timeout_ms, 1500);

    let [api, canary, db] = &built.definitions[..] else {
        panic!("not three clusters")
    };
    assert_eq!(
        api.config.balancer,
        BalancerKind::LeastRequest { choices: 2 }
    );
    let Discovery::StrictDns(source) = &api.config.discovery else {
        panic!("not by DNS")
    };
    assert_eq!(
        (source.names[0].host.as_str(), source.names[0].port),
        ("api.internal", 80)
    );
    assert_eq!(api.config.idle_timeout_ms, 60_000);
    let HealthCheckKind::Http { expected, .. } = &api.config.health_checks[0].kind else {
        panic!("not over HTTP")
    };
    assert_eq!(expected.len(), 1);
    assert_eq!(expected[0], 200..300);
    let limits = api.config.thresholds;
    assert_eq!(
        (limits[0].max_connections, limits[0].max_retries),
        (u32::MAX, 10)
    );
    assert_eq!(limits[1], Thresholds::default());
    assert_eq!(canary.endpoints[0].weight, 3);
    assert_eq!(db.endpoints[0].addr.to_string(), "/run/db.sock");
}

#[test]
fn a_chain_is_the_same_after_its_routes_changed() {
    let process = Process::new();
    let chain = |yaml: &str| {
        let built = process.yaml(yaml).expect("valid");
        (built.listeners[0].id, built.listeners[0].chains[0].id)
    };
    let first = chain(&http("", "route: {cluster: a}"));
    assert_eq!(chain(&http("", "direct_response: {status: 204}")), first);
    let other = chain(&tcp("cluster: a"));
    assert!(other.0 == first.0 && other.1 != first.1);
}

#[test]
fn errors_name_the_exact_field() {
    let both = |yaml: String, path: &str, reason: &str| {
        assert_eq!(refusal(&yaml), format!("{path}: {reason}"), "{yaml}");
    };
    let route = |action: &str, path: &str, reason: &str| {
        both(http("", action), &format!("{ROUTE_PATH}{path}"), reason);
    };
    route(
        "route: {cluster: b}",
        ".route.cluster",
        "there is no cluster 'b'",
    );
    route("route: {cluster: ''}", ".route.cluster", "is required");
    route(
        "route: {}",
        ".route",
        "has to have a cluster, a cluster_header or weighted_clusters",
    );
    route(
        "name: x",
        "",
        "has to have a route, a redirect or a direct_response",
    );
    route(
        "route: {weighted_clusters: {clusters: [{name: a}]}}",
        ".route.weighted_clusters.clusters[0].weight",
        "is required",
    );
    route(
        "route: {cluster: a, retry_policy: {retry_on: often}}",
        ".route.retry_policy.retry_on",
        "'often' has an unknown condition",
    );
    route(
        "route: {cluster: a, upgrade_configs: [{upgrade_type: websocket, connect_config: {}}]}",
        ".route.upgrade_configs[0].connect_config",
        "is for the upgrade type CONNECT",
    );
    route(
        "route: {cluster: a, retry_policy: {retry_back_off: {base_interval: 1s, max_interval: 0.5s}}}",
        ".route.retry_policy.retry_back_off.max_interval",
        "is less than base_interval",
    );
    route(
        "route: {cluster: a, max_stream_duration: {grpc_timeout_header_max: -1s}}",
        ".route.max_stream_duration.grpc_timeout_header_max",
        "is no duration of 0 s or more",
    );
    route(
        "direct_response: {status: 99}",
        ".direct_response.status",
        "has to be between 200 and 599",
    );
    let manager = |fields: &str, path: &str, reason: &str| {
        let yaml = http(fields, "route: {cluster: a}");
        both(yaml, &format!("{HCM_PATH}{path}"), reason);
    };
    manager(
        "upgrade_configs: [{upgrade_type: WebSocket}, {upgrade_type: websocket}],",
        ".upgrade_configs[1].upgrade_type",
        "'websocket' is in the list already",
    );
    manager(
        "max_request_headers_kb: 0,",
        ".max_request_headers_kb",
        "has to be between 1 and 8192",
    );
    both(
        tcp("cluster: b"),
        &format!("{HCM_PATH}.cluster"),
        "there is no cluster 'b'",
    );
    both(
        tcp("cluster: a, max_connect_attempts: 0"),
        &format!("{HCM_PATH}.max_connect_attempts"),
        "has to be 1 or more",
    );
    let of_cluster = |fields: &str, path: &str, reason: &str| {
        both(
            cluster(fields),
            &format!("static_resources.clusters[0].{path}"),
            reason,
        );
    };
    of_cluster(
        "connect_timeout: 0s",
        "connect_timeout",
        "has to be greater than 0 s",
    );
    of_cluster(
        "health_checks: [{timeout: 1s}]",
        "health_checks[0].interval",
        "is required",
    );
    of_cluster(
        "lb_policy: LEAST_REQUEST, least_request_lb_config: {choice_count: 1}",
        "least_request_lb_config.choice_count",
        "has to be 2 or more",
    );
    of_cluster(
        "circuit_breakers: {thresholds: [{}, {priority: DEFAULT}]}",
        "circuit_breakers.thresholds[1].priority",
        "there are thresholds of this priority already",
    );
    both(
        "{static_resources: {clusters: [{name: a, load_assignment: {cluster_name: a}}, {name: a}]}}"
            .to_owned(),
        "static_resources.clusters[1].name",
        "there are two clusters 'a'",
    );
    both(
        "{static_resources: {clusters: [{name: a}]}}".to_owned(),
        "static_resources.clusters[0].load_assignment",
        "is required",
    );
    both(
        "{static_resources: {listeners: [{name: l}]}}".to_owned(),
        "static_resources.listeners[0].address",
        "is required",
    );
}

#[test]
fn the_runtime_limits_connections_where_the_overload_manager_does_not() {
    let runtime = "layered_runtime: {layers: [{name: s, static_layer: \
        {overload.global_downstream_max_connections: 7}}]}";
    assert_eq!(built(&format!("{{{runtime}}}")).max_connections, 7);
    let monitor = "overload_manager: {resource_monitors: [{name: m, typed_config: {'@type': \
        type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, \
        max_active_downstream_connections: 9}}]}";
    assert_eq!(
        built(&format!("{{{runtime}, {monitor}}}")).max_connections,
        9
    );
}

#[test]
fn a_cluster_that_is_not_there_may_be_named_where_nobody_validates() {
    let yaml = http("", "route: {cluster: b}").replace(
        "{name: r, virtual_hosts",
        "{name: r, validate_clusters: false, virtual_hosts",
    );
    assert_eq!(http_of(&built(&yaml)).routes.routes().count(), 1);
}

/// A listener whose connection manager has this field beside the others.
fn with_manager_field(field: &str) -> String {
    format!(
        r#"
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: 1 }} }}
    filter_chains:
    - filters:
      - name: a
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          {field}
          route_config: {{ virtual_hosts: [ {{ name: a, domains: [ "*" ] }} ] }}
          http_filters:
          - name: r
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"#
    )
}

#[test]
fn access_log_filters_that_cannot_be_carried_out_are_refused() {
    let refused = |filter: &str| {
        let log = format!(
            "access_log: [ {{ name: l, filter: {filter}, typed_config: {{ \"@type\": \
             type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog }} }} ]"
        );
        let said = refusal(&with_manager_field(&log));
        let rest = said.split_once("access_log[0].filter.").expect(&said).1;
        rest.to_owned()
    };
    for (filter, why) in [
        (
            "{ runtime_filter: { runtime_key: a, percent_sampled: { numerator: 5 } } }",
            "runtime_filter: is not supported by Moorgate",
        ),
        (
            "{ traceable_filter: {} }",
            "traceable_filter: is not supported by Moorgate",
        ),
        (
            "{ grpc_status_filter: {} }",
            "grpc_status_filter: is not supported by Moorgate",
        ),
        (
            "{ response_flag_filter: { flags: [ UF, XX ] } }",
            "response_flag_filter.flags[1]: 'XX' is no response flag",
        ),
        (
            "{ and_filter: { filters: [ { not_health_check_filter: {} } ] } }",
            "and_filter.filters: has to have two filters or more",
        ),
        (
            "{ status_code_filter: { comparison: { op: GE } } }",
            "status_code_filter.comparison.value: is required",
        ),
        (
            "{ or_filter: { filters: [ { not_health_check_filter: {} }, { header_filter: {} } ] } }",
            "or_filter.filters[1].header_filter.header: is required",
        ),
    ] {
        assert_eq!(refused(filter), why);
    }
}

#[test]
fn internal_addresses() {
    let text = "internal_address_config: { unix_sockets: true, cidr_ranges: [ \
                { address_prefix: 10.0.0.0, prefix_len: 8 }, { address_prefix: \"fd00::\", prefix_len: 7 } ] }";
    let built = built(&with_manager_field(text));
    let rules = &http_of(&built).rules;
    assert!(rules.unix_sockets_internal && rules.internal_networks.len() == 2);
    let inside = |address: &str| {
        let address = address.parse().expect("an address");
        rules
            .internal_networks
            .iter()
            .any(|network| network.contains(address))
    };
    assert!(inside("10.1.2.3") && inside("fd12::1") && !inside("11.0.0.1"));
    for (range, why) in [
        (
            "{ address_prefix: here }",
            "address_prefix: 'here' is no IP address",
        ),
        (
            "{ address_prefix: 10.0.0.0, prefix_len: 33 }",
            "prefix_len: is longer than the address",
        ),
    ] {
        let text = format!("internal_address_config: {{ cidr_ranges: [ {range} ] }}");
        let said = refusal(&with_manager_field(&text));
        assert!(
            said.ends_with(&format!("internal_address_config.cidr_ranges[0].{why}")),
            "{said}"
        );
    }
}

#[test]
fn what_has_no_effect_on_http_1_is_off_or_named() {
    let said = refusal(&with_manager_field(
        "stream_error_on_invalid_http_message: true",
    ));
    assert!(
        said.contains("stream_error_on_invalid_http_message: switching it on"),
        "{said}"
    );
}

#[test]
fn who_speaks_http2() {
    let spoken = |fields: &str| {
        let built = built(&with_manager_field(fields));
        let http = http_of(&built);
        let http2 = |codec: &Option<Arc<dyn crate::cluster::CodecFactory>>| {
            codec.as_ref().is_some_and(|codec| codec.http2().is_some())
        };
        (http2(&http.codec), http2(&http.http2))
    };
    assert_eq!(spoken(""), (false, true));
    assert_eq!(spoken("codec_type: HTTP1"), (false, false));
    assert_eq!(spoken("codec_type: HTTP2"), (true, false));
    for (options, field) in [
        (
            "initial_stream_window_size: 65534",
            "initial_stream_window_size: has to be between",
        ),
        (
            "max_concurrent_streams: 0",
            "max_concurrent_streams: has to be between",
        ),
        ("allow_metadata: true", "allow_metadata: switching it on"),
        (
            "connection_keepalive: {interval: 1s}",
            "connection_keepalive.timeout: is required",
        ),
    ] {
        let said = refusal(&with_manager_field(&format!(
            "http2_protocol_options: {{{options}}}"
        )));
        assert!(said.contains(field), "{said}");
    }
}
