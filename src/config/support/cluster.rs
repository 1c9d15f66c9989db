//! Clusters, endpoints, load balancing, health checks, circuit breakers.

use super::Rule::{As, Ignored, Off, Types, Values, Yes};
use super::Support;
use super::bootstrap::DNS_RESOLVERS;
use super::http::{UPSTREAM_COMMON, UPSTREAM_HTTP1};

const BALANCERS: &[&str] = &[
    "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
    "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    "envoy.extensions.load_balancing_policies.random.v3.Random",
];

const PROTOCOL_OPTIONS: &[&str] = &["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];

pub(super) static TABLES: &[Support] = &[
    Support {
        message: "envoy.config.cluster.v3.Cluster",
        fields: &[
            ("name", Yes),
            ("alt_stat_name", Yes),
            ("type", Values(&["STATIC", "STRICT_DNS", "LOGICAL_DNS"])),
            ("connect_timeout", Yes),
            ("per_connection_buffer_limit_bytes", Yes),
            (
                "lb_policy",
                Values(&[
                    "ROUND_ROBIN",
                    "LEAST_REQUEST",
                    "RANDOM",
                    "LOAD_BALANCING_POLICY_CONFIG",
                ]),
            ),
            ("load_balancing_policy", Types(BALANCERS)),
            ("least_request_lb_config", Yes),
            ("round_robin_lb_config", Yes),
            ("common_lb_config", Yes),
            ("load_assignment", Yes),
            ("health_checks", Yes),
            ("ignore_health_on_host_removal", Yes),
            ("circuit_breakers", Yes),
            ("max_requests_per_connection", Yes),
            ("common_http_protocol_options", As(&UPSTREAM_COMMON)),
            ("http_protocol_options", As(&UPSTREAM_HTTP1)),
            ("upstream_http_protocol_options", Yes),
            ("http2_protocol_options", Yes),
            ("typed_extension_protocol_options", Types(PROTOCOL_OPTIONS)),
            ("protocol_selection", Values(&["USE_CONFIGURED_PROTOCOL"])),
            ("dns_refresh_rate", Yes),
            ("dns_failure_refresh_rate", Yes),
            ("dns_jitter", Yes),
            ("respect_dns_ttl", Yes),
            ("dns_lookup_family", Yes),
            ("dns_resolvers", Yes),
            ("dns_resolution_config", Yes),
            ("typed_dns_resolver_config", Types(DNS_RESOLVERS)),
            ("use_tcp_for_dns_lookups", Yes),
            ("upstream_bind_config", Yes),
            ("upstream_connection_options", Yes),
            ("transport_socket", Types(super::tls::UPSTREAM)),
            ("close_connections_on_host_health_failure", Off),
            ("connection_pool_per_downstream_connection", Off),
            ("track_timeout_budgets", Off),
            ("metadata", Ignored),
            // Only clusters of type ORIGINAL_DST have something to clean up.
            ("cleanup_interval", Ignored),
        ],
    },
    Support {
        message: "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig",
        fields: &[("choice_count", Yes)],
    },
    Support {
        message: "envoy.config.cluster.v3.Cluster.RoundRobinLbConfig",
        fields: &[],
    },
    Support {
        message: "envoy.config.cluster.v3.Cluster.CommonLbConfig",
        fields: &[
            ("healthy_panic_threshold", Yes),
            ("zone_aware_lb_config", Yes),
            ("ignore_new_hosts_until_first_hc", Yes),
            ("close_connections_on_host_set_change", Off),
            // Hosts change as they are resolved; there is nothing to merge.
            ("update_merge_window", Ignored),
        ],
    },
    Support {
        message: "envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig",
        fields: &[("fail_traffic_on_panic", Yes)],
    },
    Support {
        message: "envoy.config.cluster.v3.Cluster.RefreshRate",
        fields: &[("base_interval", Yes), ("max_interval", Yes)],
    },
    Support {
        message: "envoy.config.cluster.v3.LoadBalancingPolicy",
        fields: &[("policies", Types(BALANCERS))],
    },
    Support {
        message: "envoy.config.cluster.v3.LoadBalancingPolicy.Policy",
        fields: &[("typed_extension_config", Types(BALANCERS))],
    },
    Support {
        message: "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
        fields: &[],
    },
    Support {
        message: "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        fields: &[
            ("choice_count", Yes),
            ("selection_method", Values(&["N_CHOICES"])),
        ],
    },
    Support {
        message: "envoy.extensions.load_balancing_policies.random.v3.Random",
        fields: &[],
    },
    Support {
        message: "envoy.config.core.v3.BindConfig",
        fields: &[
            ("source_address", Yes),
            ("socket_options", Yes),
            ("freebind", Off),
        ],
    },
    Support {
        message: "envoy.config.cluster.v3.UpstreamConnectionOptions",
        fields: &[
            ("tcp_keepalive", Yes),
            ("set_local_interface_name_on_upstream_connections", Off),
        ],
    },
    Support {
        message: "envoy.config.cluster.v3.CircuitBreakers",
        fields: &[("thresholds", Yes)],
    },
    Support {
        message: "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
        fields: &[
            ("priority", Yes),
            ("max_connections", Yes),
            ("max_pending_requests", Yes),
            ("max_requests", Yes),
            ("max_retries", Yes),
            ("track_remaining", Yes),
        ],
    },
    Support {
        message: "envoy.config.endpoint.v3.ClusterLoadAssignment",
        fields: &[("cluster_name", Yes), ("endpoints", Yes), ("policy", Yes)],
    },
    Support {
        message: "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy",
        fields: &[
            ("overprovisioning_factor", Yes),
            ("weighted_priority_health", Off),
        ],
    },
    Support {
        message: "envoy.config.endpoint.v3.LocalityLbEndpoints",
        fields: &[
            ("lb_endpoints", Yes),
            ("priority", Yes),
            // Localities weigh nothing without locality-weighted or zone-aware balancing.
            ("locality", Ignored),
            ("load_balancing_weight", Ignored),
            ("metadata", Ignored),
        ],
    },
    Support {
        message: "envoy.config.endpoint.v3.LbEndpoint",
        fields: &[
            ("endpoint", Yes),
            ("health_status", Yes),
            ("load_balancing_weight", Yes),
            // Chooses subsets and transport sockets, which there are none of.
            ("metadata", Ignored),
        ],
    },
    Support {
        message: "envoy.config.endpoint.v3.Endpoint",
        fields: &[
            ("address", Yes),
            ("health_check_config", Yes),
            ("hostname", Yes),
        ],
    },
    Support {
        message: "envoy.config.endpoint.v3.Endpoint.HealthCheckConfig",
        fields: &[
            ("port_value", Yes),
            ("hostname", Yes),
            ("address", Yes),
            ("disable_active_health_check", Yes),
        ],
    },
    Support {
        message: "envoy.config.core.v3.HealthCheck",
        fields: &[
            ("timeout", Yes),
            ("interval", Yes),
            ("initial_jitter", Yes),
            ("interval_jitter", Yes),
            ("interval_jitter_percent", Yes),
            ("unhealthy_threshold", Yes),
            ("healthy_threshold", Yes),
            ("reuse_connection", Yes),
            ("http_health_check", Yes),
            ("tcp_health_check", Yes),
            ("no_traffic_interval", Yes),
            ("no_traffic_healthy_interval", Yes),
            ("unhealthy_interval", Yes),
            ("unhealthy_edge_interval", Yes),
            ("healthy_edge_interval", Yes),
            ("tls_options", Yes),
            ("always_log_health_check_failures", Off),
            ("always_log_health_check_success", Off),
        ],
    },
    Support {
        message: "envoy.config.core.v3.HealthCheck.TlsOptions",
        fields: &[("alpn_protocols", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.HealthCheck.HttpHealthCheck",
        fields: &[
            ("host", Yes),
            ("path", Yes),
            ("receive", Yes),
            ("request_headers_to_add", Yes),
            ("expected_statuses", Yes),
            ("retriable_statuses", Yes),
            ("codec_client_type", Values(&["HTTP1"])),
            ("method", Yes),
        ],
    },
    Support {
        message: "envoy.config.core.v3.HealthCheck.TcpHealthCheck",
        fields: &[("send", Yes), ("receive", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.HealthCheck.Payload",
        fields: &[("text", Yes), ("binary", Yes)],
    },
];
