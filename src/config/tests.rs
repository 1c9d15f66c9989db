//! Whole bootstraps through the loader, and what it says about wrong ones.

use std::path::PathBuf;

use moorgate_protos::Any;
use moorgate_protos::envoy::config::bootstrap::v3::Bootstrap;
use moorgate_protos::envoy::config::core::v3::address::Address;
use moorgate_protos::envoy::config::listener::v3::filter;
use moorgate_protos::envoy::extensions::filters::http::router::v3::Router;
use moorgate_protos::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager, http_filter,
};

use super::*;

fn data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/data/config", name]
        .iter()
        .collect()
}

fn parse(yaml: &str) -> Result<ParsedBootstrap, ConfigError> {
    let source = Source {
        path: None,
        yaml: Some(yaml.to_owned()),
    };
    parse_bootstrap(&source, &ParseOptions::default())
}

/// The error without the name of its file.
fn refusal(yaml: &str) -> String {
    let error = parse(yaml).expect_err(yaml).to_string();
    error
        .strip_prefix("--config-yaml: ")
        .unwrap_or(&error)
        .to_owned()
}

fn connection_manager(bootstrap: &Bootstrap) -> HttpConnectionManager {
    let resources = bootstrap.static_resources.as_ref().expect("resources");
    let filter = &resources.listeners[0].filter_chains[0].filters[0];
    let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        panic!("no typed_config")
    };
    unpack(any, &FieldPath::root("test")).expect("a connection manager")
}

#[test]
fn a_whole_bootstrap_is_read() {
    let source = Source {
        path: Some(data("gateway.yaml")),
        yaml: None,
    };
    let parsed = parse_bootstrap(&source, &ParseOptions::default()).expect("valid");
    assert_eq!(
        parsed.ignored,
        [
            "envoy.config.bootstrap.v3.RuntimeLayer.admin_layer",
            "envoy.config.listener.v3.Listener.traffic_direction",
            "envoy.config.overload.v3.OverloadManager.refresh_interval",
            "runtime key re2.max_program_size.error_level",
        ]
    );
    let resources = parsed
        .bootstrap
        .static_resources
        .as_ref()
        .expect("resources");
    let Some(Address::Pipe(pipe)) = resources.listeners[0].additional_addresses[0]
        .address
        .as_ref()
        .and_then(|address| address.address.as_ref())
    else {
        panic!("no pipe")
    };
    assert_eq!(pipe.mode, 0o644);
    let Some(Address::SocketAddress(socket)) = resources.listeners[0]
        .address
        .as_ref()
        .and_then(|address| address.address.as_ref())
    else {
        panic!("no socket address")
    };
    assert!(socket.ipv4_compat && socket.address == "::");

    let manager = connection_manager(&parsed.bootstrap);
    assert_eq!(manager.use_remote_address, Some(true));
    let Some(http_connection_manager::RouteSpecifier::RouteConfig(routes)) =
        &manager.route_specifier
    else {
        panic!("no route_config")
    };
    // A single value where a list is due, as Envoy takes it.
    assert_eq!(routes.virtual_hosts[1].domains, ["*"]);
    let Some(http_filter::ConfigType::TypedConfig(any)) = &manager.http_filters[0].config_type
    else {
        panic!("no typed_config")
    };
    let router: Router = unpack(any, &FieldPath::root("test")).expect("a router");
    assert!(router.suppress_envoy_headers);
}

#[test]
fn a_dump_reads_back_as_the_same_bootstrap() {
    let source = Source {
        path: Some(data("gateway.yaml")),
        yaml: None,
    };
    let parsed = parse_bootstrap(&source, &ParseOptions::default()).expect("valid");
    let json = to_json(&parsed.bootstrap).expect("dumps");
    assert!(json.contains("\"path_redirect\": \"/new\""), "{json}");
    let again = parse(&json).expect("the dump is valid");
    // Compared as dumps: the order of map entries on the wire may differ.
    assert_eq!(to_json(&again.bootstrap).expect("dumps"), json);
    assert_eq!(again.ignored, parsed.ignored);
}

#[test]
fn camel_case_json_is_the_same_as_snake_case_yaml() {
    let yaml = "
static_resources:
  clusters:
  - name: a
    connect_timeout: 0.5s
    lb_policy: 3
    circuit_breakers: {thresholds: [{priority: HIGH, max_requests: '7'}]}
";
    let json = r#"{"staticResources": {"clusters": [{"name": "a", "connectTimeout": "0.500s",
        "lbPolicy": "RANDOM", "circuitBreakers":
        {"thresholds": [{"priority": 1, "maxRequests": 7.0},]},}]}}"#;
    let (yaml, json) = (parse(yaml).expect("yaml"), parse(json).expect("json"));
    assert!(yaml.bootstrap == json.bootstrap);
}

#[test]
fn a_typed_struct_becomes_the_message_it_is_about() {
    let plain = |config: &str| {
        format!(
            "static_resources: {{listeners: [{{filter_chains: [{{filters: [{{name: t, \
             typed_config: {{{config}}}}}]}}]}}]}}"
        )
    };
    let tcp = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    let direct = format!("'@type': type.googleapis.com/{tcp}, stat_prefix: x, cluster: c");
    let direct = parse(&plain(&direct)).expect("direct");
    for outer in ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"] {
        let wrapped = format!(
            "'@type': type.googleapis.com/{outer}, type_url: type.googleapis.com/{tcp}, \
             value: {{statPrefix: x, cluster: c}}"
        );
        assert!(parse(&plain(&wrapped)).expect(outer).bootstrap == direct.bootstrap);
    }
    let wrong =
        format!("'@type': x/udpa.type.v1.TypedStruct, type_url: x/{tcp}, value: {{stat_prefx: x}}");
    assert_eq!(
        refusal(&plain(&wrong)),
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.value.stat_prefx: \
         no such field in envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    );
}

#[test]
fn text_is_merged_over_the_file() {
    let overlay = "
node: {id: other}
admin: {address: {pipe: {path: /run/admin.sock}}}
static_resources: {clusters: [{name: extra}]}
";
    let source = Source {
        path: Some(data("gateway.yaml")),
        yaml: Some(overlay.to_owned()),
    };
    let parsed = parse_bootstrap(&source, &ParseOptions::default()).expect("valid");
    let node = parsed.bootstrap.node.as_ref().expect("a node");
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("other", "edge"));
    let admin = parsed
        .bootstrap
        .admin
        .as_ref()
        .and_then(|admin| admin.address.as_ref());
    assert!(matches!(
        admin.and_then(|address| address.address.as_ref()),
        Some(Address::Pipe(pipe)) if pipe.path == "/run/admin.sock"
    ));
    let resources = parsed
        .bootstrap
        .static_resources
        .as_ref()
        .expect("resources");
    let names: Vec<&str> = resources.clusters.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["api", "canary", "db", "extra"]);
}

#[test]
fn unknown_fields_are_refused_or_named() {
    let yaml = "static_resources: {listeners: [{nmae: x, name: web, stats: {}}]}";
    assert_eq!(
        refusal(yaml),
        "static_resources.listeners[0].nmae: no such field in envoy.config.listener.v3.Listener"
    );
    let source = Source {
        path: None,
        yaml: Some(yaml.to_owned()),
    };
    let options = ParseOptions {
        allow_unknown_static_fields: true,
    };
    let parsed = parse_bootstrap(&source, &options).expect("allowed");
    assert_eq!(
        parsed.unknown,
        [
            "static_resources.listeners[0].nmae",
            "static_resources.listeners[0].stats"
        ]
    );
}

#[test]
fn wrong_values_are_refused_by_path() {
    let cases = [
        ("node: {id: 123}", "node.id: expected a string, found 123"),
        ("node: [a]", "node: expected a map, found a list"),
        (
            "admin: {address: {socket_address: {port_value: -1}}}",
            "admin.address.socket_address.port_value: expected a whole number from 0 to 4294967295, found -1",
        ),
        (
            "stats_flush_interval: 5ms",
            "stats_flush_interval: expected a duration like \"1.5s\", found the string \"5ms\"",
        ),
        (
            "stats_flush_interval: 5",
            "stats_flush_interval: expected a duration like \"1.5s\", found 5",
        ),
        (
            "static_resources: {clusters: [{name: a}, {type: strict_dns}]}",
            "static_resources.clusters[1].type: expected one of STATIC, STRICT_DNS, LOGICAL_DNS, EDS, \
          ORIGINAL_DST, found the string \"strict_dns\"",
        ),
        (
            "static_resources: {clusters: [{respect_dns_ttl: maybe}]}",
            "static_resources.clusters[0].respect_dns_ttl: expected true or false, found the string \"maybe\"",
        ),
        (
            "static_resources: {clusters: [null]}",
            "static_resources.clusters[0]: null stands in a list",
        ),
        (
            "admin: {address: {pipe: {path: a}, socket_address: {}}}",
            "admin.address.socket_address: cannot be set together with 'pipe': only one of them may be",
        ),
        (
            "{'staticResources': {}, 'static_resources': {}}",
            "static_resources: is set twice, in both its spellings",
        ),
        (
            "static_resources: {listeners: [{filter_chains: [{filters: [{typed_config: {a: 1}}]}]}]}",
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config: has no '@type'",
        ),
        (
            "static_resources: {clusters: [{typed_extension_protocol_options: {k: {'@type': a/b.C}}}]}",
            "static_resources.clusters[0].typed_extension_protocol_options[\"k\"].@type: 'b.C' is not a known type",
        ),
        (
            "static_resources: {clusters: [{typed_extension_protocol_options: {k: {'@type': b.C}}}]}",
            "static_resources.clusters[0].typed_extension_protocol_options[\"k\"].@type: 'b.C' is no \
          type URL, which has a '/'",
        ),
        ("a: [", "line 2, column 1: "),
    ];
    for (yaml, reason) in cases {
        let found = refusal(yaml);
        assert!(
            found == reason || (reason.ends_with(": ") && found.starts_with(reason)),
            "{found}"
        );
    }
}

#[test]
fn what_is_not_supported_is_refused_by_path() {
    let cases = [
        (
            "dynamic_resources: {}",
            "dynamic_resources: is not supported by Moorgate",
        ),
        (
            "static_resources: {secrets: [{name: a}]}",
            "static_resources.secrets[0]: is not supported by Moorgate",
        ),
        (
            "static_resources: {clusters: [{name: a}, {type: EDS}]}",
            "static_resources.clusters[1].type: EDS is not supported by Moorgate; supported: STATIC, \
          STRICT_DNS, LOGICAL_DNS",
        ),
        (
            "static_resources: {clusters: [{outlier_detection: {}}]}",
            "static_resources.clusters[0].outlier_detection: is not supported by Moorgate",
        ),
        (
            "static_resources: {listeners: [{transparent: true}]}",
            "static_resources.listeners[0].transparent: switching it on is not supported by Moorgate",
        ),
        (
            "static_resources: {listeners: [{bind_to_port: off}]}",
            "static_resources.listeners[0].bind_to_port: switching it off is not supported by Moorgate",
        ),
        (
            "static_resources: {listeners: [{filter_chains: [{}, {filter_chain_match: {address_suffix: a}}]}]}",
            "static_resources.listeners[0].filter_chains[1].filter_chain_match.address_suffix: is not \
          supported by Moorgate",
        ),
        (
            "static_resources: {listeners: [{filter_chains: [{transport_socket: {typed_config: \
          {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}}]}]}",
            "static_resources.listeners[0].filter_chains[0].transport_socket.typed_config: \
          envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext is not supported by Moorgate \
          here; supported: envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer, \
          envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        ),
        (
            "layered_runtime: {layers: [{static_layer: {upstream.healthy_panic_threshold: 0}}]}",
            "layered_runtime.layers[0].static_layer[\"upstream.healthy_panic_threshold\"]: is not \
          supported by Moorgate",
        ),
        // What concerns incoming requests is not for a cluster, though the message has it.
        (
            "static_resources: {clusters: [{common_http_protocol_options: {max_stream_duration: 1s}}]}",
            "static_resources.clusters[0].common_http_protocol_options.max_stream_duration: is not \
          supported by Moorgate",
        ),
    ];
    for (yaml, reason) in cases {
        assert_eq!(refusal(yaml), reason);
    }
    for harmless in [
        "static_resources: {listeners: [{transparent: false, bind_to_port: true}]}",
        "static_resources: {listeners: [{filter_chains: [{filter_chain_match: {}}]}]}",
        "static_resources: {listeners: [{filter_chains: [{filter_chain_match: {server_names: [a]}}]}]}",
        "static_resources: {clusters: [{type: STATIC, outlier_detection: null}]}",
        "layered_runtime: {layers: [{static_layer: {overload.global_downstream_max_connections: 9}}]}",
    ] {
        parse(harmless).expect(harmless);
    }
}

#[test]
fn an_error_deep_in_nested_types_has_the_whole_path() {
    let text = std::fs::read_to_string(data("gateway.yaml")).expect("readable");
    let broken = text.replace("prefix_rewrite: /v0/", "hash_policy: [{terminal: true}]");
    assert_ne!(broken, text);
    assert_eq!(
        refusal(&broken),
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.\
         virtual_hosts[1].routes[0].route.hash_policy[0]: is not supported by Moorgate"
    );
}

#[test]
fn files_are_told_apart_by_name_then_by_content() {
    let dir = std::env::temp_dir().join(format!("moorgate-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let read = |name: &str, text: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("written");
        let source = Source {
            path: Some(path.clone()),
            yaml: None,
        };
        parse_bootstrap(&source, &ParseOptions::default())
            .map(|parsed| parsed.bootstrap.node.unwrap_or_default().id)
            .map_err(|e| e.to_string().replace(&path.display().to_string(), "F"))
    };
    let json = br#"{"node": {"id": "on"}}"#;
    let yaml = b"node: {id: 'on'}";
    assert_eq!(read("a.json", json), Ok("on".to_owned()));
    assert_eq!(read("b.conf", json), Ok("on".to_owned()));
    assert_eq!(read("c.conf", yaml), Ok("on".to_owned()));
    assert_eq!(read("d.yml", json), Ok("on".to_owned()));
    assert_eq!(
        read("e.json", yaml),
        Err("F: line 1, column 1: expected a value".to_owned())
    );
    assert_eq!(
        read("f.yaml", b"\xff"),
        Err("F: is not UTF-8 text".to_owned())
    );
    let missing = Source {
        path: Some(dir.join("no.yaml")),
        yaml: None,
    };
    let error = parse_bootstrap(&missing, &ParseOptions::default()).expect_err("no file");
    assert!(error.reason.starts_with("cannot be read: "), "{error}");
    std::fs::remove_dir_all(&dir).expect("removed");
    let nothing = parse_bootstrap(&Source::default(), &ParseOptions::default());
    assert_eq!(
        nothing.expect_err("nothing").to_string(),
        "command line: no configuration: neither --config-path nor --config-yaml is given"
    );
}

#[test]
fn an_unknown_any_is_dumped_as_bytes() {
    let mut bootstrap = Bootstrap::default();
    bootstrap.bootstrap_extensions.push(
        moorgate_protos::envoy::config::core::v3::TypedExtensionConfig {
            name: "n".into(),
            typed_config: Some(Any {
                type_url: "t/not.Known".into(),
                value: vec![1, 2],
            }),
        },
    );
    assert_eq!(
        to_json(&bootstrap).expect("dumps"),
        "{\n \"bootstrap_extensions\": [\n  {\n   \"name\": \"n\",\n   \"typed_config\": {\n    \
         \"@type\": \"t/not.Known\",\n    \"value\": \"AQI=\"\n   }\n  }\n ]\n}"
    );
}

#[test]
fn secrets_are_not_dumped() {
    use moorgate_protos::envoy::config::core::v3::{DataSource, data_source::Specifier};
    use moorgate_protos::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;
    for (specifier, shown) in [
        (
            Specifier::InlineString("hidden".into()),
            "\"inline_string\": \"[redacted]\"",
        ),
        (
            Specifier::InlineBytes("hidden".into()),
            "\"inline_bytes\": \"W3JlZGFjdGVkXQ==\"",
        ),
    ] {
        let certificate = TlsCertificate {
            private_key: Some(DataSource {
                specifier: Some(specifier),
                watched_directory: None,
            }),
            certificate_chain: Some(DataSource {
                specifier: Some(Specifier::InlineString("shown".into())),
                watched_directory: None,
            }),
            ..Default::default()
        };
        // In its place, so that a dump is still a configuration, and what stands beside it is shown.
        assert_eq!(
            to_json(&certificate).expect("dumps"),
            format!(
                "{{\n \"certificate_chain\": {{\n  \"inline_string\": \"shown\"\n }},\n \
                 \"private_key\": {{\n  {shown}\n }}\n}}"
            )
        );
    }
}
