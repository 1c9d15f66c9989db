//! Listener filters and `filter_chain_match`.

use super::*;
use crate::proxy::config::{ListenerFilter, ProxyProtocol};

/// A listener with these fields and a chain for each of `matches`.
fn chains(fields: &str, matches: &[&str]) -> String {
    let filter = format!(
        r#"filters: [{{name: tcp, typed_config: {{"@type": {TCP}, stat_prefix: s, cluster: a}}}}]"#
    );
    let chains = matches
        .iter()
        .map(|one| format!("{{filter_chain_match: {{{one}}}, {filter}}}"));
    let chains = chains.collect::<Vec<_>>().join(", ");
    format!(
        r#"{{static_resources: {{
          listeners: [{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}},
            {fields} default_filter_chain: {{{filter}}}, filter_chains: [{chains}]}}],
          clusters: [{{name: a, load_assignment: {{cluster_name: a}}}}]}}}}"#
    )
}

#[test]
fn filter_chain_matches() {
    let plain = built(&chains("", &[""]));
    assert!(plain.listeners[0].chooser.is_none() && plain.listeners[0].filters.is_none());
    assert_eq!(plain.listeners[0].chains.len(), 2);
    let by_port = built(&chains(
        "",
        &["destination_port: 80", "destination_port: 81"],
    ));
    assert!(by_port.listeners[0].chooser.is_some() && by_port.listeners[0].filters.is_none());
    let said = |matches: &[&str]| refusal(&chains("", matches));
    let at = "static_resources.listeners[0].filter_chains";
    for (matches, why) in [
        (
            &["", ""][..],
            "[1].filter_chain_match: filter chain '' has the same matching rules as '' (filter_chains[0])",
        ),
        (
            &["server_names: [a, b]", "server_names: [b]"],
            "[1].filter_chain_match: overlaps with the matching rules of filter_chains[0]",
        ),
        (
            &["destination_port: 0"],
            "[0].filter_chain_match.destination_port: has to be between 1 and 65535",
        ),
        (
            &["source_ports: [1, 65536]"],
            "[0].filter_chain_match.source_ports[1]: has to be between 1 and 65535",
        ),
        (
            &["server_names: [a, '*b.example']"],
            "[0].filter_chain_match.server_names[1]: partial wildcards are not supported: only '*.' in \
             front is one",
        ),
        (
            &["prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 33}]"],
            "[0].filter_chain_match.prefix_ranges[0].prefix_len: is longer than the address",
        ),
    ] {
        let said = said(matches);
        assert!(said.ends_with(&format!("{at}{why}")), "{said}");
    }
}

#[test]
fn listener_filters() {
    let filter = |kind: &str, fields: &str| {
        format!(
            r#"{{name: f, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.listener.{kind}, {fields}}}}}"#
        )
    };
    let of = |filters: &[String], matches: &[&str]| {
        let fields = format!(
            "listener_filters_timeout: 3s, continue_on_listener_filters_timeout: true, \
             listener_filters: [{}],",
            filters.join(", ")
        );
        chains(&fields, matches)
    };
    let proxy = "proxy_protocol.v3.ProxyProtocol";
    let tls = "tls_inspector.v3.TlsInspector";
    let all = [
        filter(
            proxy,
            "allow_requests_without_proxy_protocol: true, disallowed_versions: [V1], stat_prefix: x",
        ),
        filter("original_dst.v3.OriginalDst", ""),
        filter("http_inspector.v3.HttpInspector", ""),
        filter(tls, "max_client_hello_size: 900"),
    ];
    let whole = built(&of(&all, &["server_names: [a]"]));
    let filters = whole.listeners[0].filters.as_ref().expect("filters");
    assert!(filters.timeout_ms == 3_000 && filters.continue_on_timeout);
    assert!(matches!(
        &filters.list[..],
        [
            ListenerFilter::Proxy(ProxyProtocol {
                optional: true,
                versions: [false, true],
                ..
            }),
            ListenerFilter::OriginalDst,
            ListenerFilter::Http { .. },
            ListenerFilter::Tls { max_hello: 900, .. }
        ]
    ));
    // What only a hello tells does not bring its inspector: neither does Envoy.
    let without = built(&of(&[], &["server_names: [a]"]));
    assert!(without.listeners[0].filters.is_none());
    let at = "static_resources.listeners[0].listener_filters[0].typed_config.";
    for (kind, fields, why) in [
        (
            proxy,
            "rules: [{tlv_type: 2}]",
            "rules[0]: is not supported by Moorgate",
        ),
        (
            proxy,
            "pass_through_tlvs: {match_type: INCLUDE_ALL}",
            "pass_through_tlvs: is not supported by Moorgate",
        ),
        (
            tls,
            "max_client_hello_size: 16385",
            "max_client_hello_size: has to be between 1 and 16384",
        ),
        (
            tls,
            "enable_ja3_fingerprinting: true",
            "enable_ja3_fingerprinting: switching it on is not supported by Moorgate",
        ),
    ] {
        let said = refusal(&of(&[filter(kind, fields)], &[""]));
        assert!(said.ends_with(&format!("{at}{why}")), "{said}");
    }
}
