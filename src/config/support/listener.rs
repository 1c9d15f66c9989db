//! Listeners, filter chains, tcp_proxy.

use super::Rule::{Ignored, Off, On, Types, Values, Yes};
use super::Support;
use super::access_log::ACCESS_LOGS;

/// Terminal network filters; there are no others yet.
const NETWORK_FILTERS: &[&str] = &[
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
];

const LISTENER_FILTERS: &[&str] = &[
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
];

pub(super) static TABLES: &[Support] = &[
    Support {
        message: "envoy.config.listener.v3.Listener",
        fields: &[
            ("name", Yes),
            ("address", Yes),
            ("additional_addresses", Yes),
            ("stat_prefix", Yes),
            ("filter_chains", Yes),
            ("default_filter_chain", Yes),
            ("per_connection_buffer_limit_bytes", Yes),
            ("drain_type", Values(&["DEFAULT"])),
            ("socket_options", Yes),
            ("enable_reuse_port", Yes),
            ("reuse_port", Yes),
            ("tcp_backlog_size", Yes),
            ("tcp_keepalive", Yes),
            ("ignore_global_conn_limit", Yes),
            ("bind_to_port", On),
            ("use_original_dst", Off),
            ("transparent", Off),
            ("freebind", Off),
            ("enable_mptcp", Off),
            ("bypass_overload_manager", Off),
            ("metadata", Ignored),
            ("traffic_direction", Ignored),
            ("listener_filters", Yes),
            ("listener_filters_timeout", Yes),
            ("continue_on_listener_filters_timeout", Yes),
            // Connections are always placed by load, and accepted within a budget.
            ("connection_balance_config", Ignored),
            ("max_connections_to_accept_per_socket_event", Ignored),
        ],
    },
    Support {
        message: "envoy.config.listener.v3.AdditionalAddress",
        fields: &[("address", Yes)],
    },
    Support {
        message: "envoy.config.listener.v3.FilterChain",
        fields: &[
            ("name", Yes),
            ("filter_chain_match", Yes),
            ("filters", Yes),
            ("transport_socket", Types(super::tls::DOWNSTREAM)),
            ("use_proxy_proto", Off),
            ("metadata", Ignored),
            ("transport_socket_connect_timeout", Yes),
        ],
    },
    Support {
        message: "envoy.config.listener.v3.FilterChainMatch",
        fields: &[
            ("destination_port", Yes),
            ("prefix_ranges", Yes),
            ("direct_source_prefix_ranges", Yes),
            ("source_type", Yes),
            ("source_prefix_ranges", Yes),
            ("source_ports", Yes),
            ("server_names", Yes),
            ("transport_protocol", Yes),
            ("application_protocols", Yes),
        ],
    },
    Support {
        message: "envoy.config.listener.v3.ListenerFilter",
        fields: &[("name", Yes), ("typed_config", Types(LISTENER_FILTERS))],
    },
    Support {
        message: "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        fields: &[
            ("enable_ja3_fingerprinting", Off),
            ("enable_ja4_fingerprinting", Off),
            ("close_connection_on_client_hello_parsing_errors", Yes),
            ("max_client_hello_size", Yes),
            // Nothing is read into a buffer.
            ("initial_read_buffer_size", Ignored),
        ],
    },
    Support {
        message: "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
        fields: &[],
    },
    Support {
        message: "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        fields: &[],
    },
    // `rules` and `pass_through_tlvs` would keep fields of the header for metadata that nothing reads.
    Support {
        message: "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        fields: &[
            ("allow_requests_without_proxy_protocol", Yes),
            ("disallowed_versions", Yes),
            ("stat_prefix", Yes),
        ],
    },
    Support {
        message: "envoy.config.listener.v3.Filter",
        fields: &[("name", Yes), ("typed_config", Types(NETWORK_FILTERS))],
    },
    Support {
        message: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        fields: &[
            ("stat_prefix", Yes),
            ("cluster", Yes),
            ("weighted_clusters", Yes),
            ("idle_timeout", Yes),
            ("access_log", Types(ACCESS_LOGS)),
            ("max_connect_attempts", Yes),
            ("max_downstream_connection_duration", Yes),
        ],
    },
    Support {
        message: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster",
        fields: &[("clusters", Yes)],
    },
    Support {
        message: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
        fields: &[("name", Yes), ("weight", Yes)],
    },
];
