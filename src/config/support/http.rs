//! The HTTP connection manager, HTTP filters, HTTP protocol options of both sides.

use super::Rule::{As, Ignored, Off, Types, Values, Yes};
use super::Support;
use super::access_log::ACCESS_LOGS;

/// HTTP filters; the router ends the chain.
const HTTP_FILTERS: &[&str] = &[
    "envoy.extensions.filters.http.grpc_http1_reverse_bridge.v3.FilterConfig",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    "envoy.extensions.filters.http.router.v3.Router",
];

const REQUEST_IDS: &[&str] = &["envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"];

/// `HttpProtocolOptions` of a cluster: what concerns requests that come in is not for it.
pub(super) static UPSTREAM_COMMON: Support = Support {
    message: "envoy.config.core.v3.HttpProtocolOptions",
    fields: &[
        ("idle_timeout", Yes),
        ("max_connection_duration", Yes),
        ("max_headers_count", Yes),
        ("max_response_headers_kb", Yes),
        ("max_requests_per_connection", Yes),
    ],
};

/// `Http1ProtocolOptions` of a cluster.
pub(super) static UPSTREAM_HTTP1: Support = Support {
    message: "envoy.config.core.v3.Http1ProtocolOptions",
    fields: &[
        ("header_key_format", Yes),
        ("enable_trailers", Yes),
        ("allow_chunked_length", Off),
        ("send_fully_qualified_url", Off),
        ("use_balsa_parser", Ignored),
    ],
};

static EXPLICIT_UPSTREAM: Support = Support {
    message: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig",
    fields: &[
        ("http_protocol_options", As(&UPSTREAM_HTTP1)),
        ("http2_protocol_options", Yes),
    ],
};

static DOWNSTREAM_UPSTREAM: Support = Support {
    message: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig",
    fields: &[
        ("http_protocol_options", As(&UPSTREAM_HTTP1)),
        ("http2_protocol_options", Yes),
    ],
};

pub(super) static TABLES: &[Support] = &[
    Support {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails",
        fields: &[
            ("subject", Yes),
            ("cert", Yes),
            ("chain", Yes),
            ("uri", Yes),
            ("dns", Yes),
        ],
    },
    Support {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        fields: &[
            ("codec_type", Values(&["AUTO", "HTTP1", "HTTP2"])),
            ("stat_prefix", Yes),
            ("route_config", Yes),
            ("http_filters", Yes),
            ("common_http_protocol_options", Yes),
            ("http_protocol_options", Yes),
            ("http2_protocol_options", Yes),
            ("server_name", Yes),
            ("server_header_transformation", Yes),
            ("scheme_header_transformation", Yes),
            ("max_request_headers_kb", Yes),
            ("stream_idle_timeout", Yes),
            ("request_timeout", Yes),
            ("request_headers_timeout", Yes),
            // The time between the two farewells of a multiplexed connection: ours follows when the
            // client says that it knows, 5 s at the latest.
            ("drain_timeout", Ignored),
            ("delayed_close_timeout", Yes),
            ("access_log", Types(ACCESS_LOGS)),
            ("use_remote_address", Yes),
            ("xff_num_trusted_hops", Yes),
            ("internal_address_config", Yes),
            ("skip_xff_append", Yes),
            ("via", Yes),
            ("generate_request_id", Yes),
            ("preserve_external_request_id", Yes),
            ("always_set_request_id_in_response", Yes),
            ("request_id_extension", Types(REQUEST_IDS)),
            // Without TLS the header is never trusted and always taken away.
            ("forward_client_cert_details", Yes),
            ("set_current_client_cert_details", Yes),
            ("proxy_100_continue", Yes),
            ("upgrade_configs", Yes),
            ("normalize_path", Yes),
            ("merge_slashes", Yes),
            ("path_with_escaped_slashes_action", Yes),
            ("strip_matching_host_port", Yes),
            ("strip_any_host_port", Yes),
            ("strip_trailing_host_dot", Yes),
            ("stream_error_on_invalid_http_message", Off),
            ("add_user_agent", Off),
            ("append_x_forwarded_port", Yes),
            ("append_local_overload", Off),
            ("represent_ipv4_remote_address_as_ipv4_mapped_ipv6", Off),
            // Nothing reads the PROXY protocol, so there is no state of it to add.
            ("add_proxy_protocol_connection_state", Ignored),
        ],
    },
    Support {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        fields: &[
            ("name", Yes),
            ("typed_config", Types(HTTP_FILTERS)),
            // Says what to do when the filter is not known; here it is.
            ("is_optional", Ignored),
            ("disabled", Off),
        ],
    },
    Support {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig",
        fields: &[("upgrade_type", Yes), ("enabled", Yes)],
    },
    Support {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.InternalAddressConfig",
        fields: &[("unix_sockets", Yes), ("cidr_ranges", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.CidrRange",
        fields: &[("address_prefix", Yes), ("prefix_len", Yes)],
    },
    Support {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.RequestIDExtension",
        fields: &[("typed_config", Types(REQUEST_IDS))],
    },
    Support {
        message: "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
        // Both are about tracing, which there is none of.
        fields: &[
            ("pack_trace_reason", Ignored),
            ("use_request_id_for_trace_sampling", Ignored),
        ],
    },
    Support {
        message: "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
        fields: &[],
    },
    Support {
        message: "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        fields: &[
            ("emit_filter_state", Off),
            ("individual_method_stats_allowlist", Yes),
            ("stats_for_all_methods", Yes),
            ("enable_upstream_stats", Yes),
            ("replace_dots_in_grpc_service_name", Yes),
        ],
    },
    Support {
        message: "envoy.config.core.v3.GrpcMethodList",
        fields: &[("services", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.GrpcMethodList.Service",
        fields: &[("name", Yes), ("method_names", Yes)],
    },
    Support {
        message: "envoy.extensions.filters.http.grpc_http1_reverse_bridge.v3.FilterConfig",
        fields: &[
            ("content_type", Yes),
            ("withhold_grpc_frames", Yes),
            ("response_size_header", Yes),
        ],
    },
    Support {
        message: "envoy.extensions.filters.http.router.v3.Router",
        fields: &[
            ("suppress_envoy_headers", Yes),
            ("respect_expected_rq_timeout", Yes),
            ("dynamic_stats", Ignored),
            ("start_child_span", Ignored),
        ],
    },
    Support {
        message: "envoy.config.core.v3.HttpProtocolOptions",
        fields: &[
            ("idle_timeout", Yes),
            ("max_connection_duration", Yes),
            ("max_headers_count", Yes),
            ("max_stream_duration", Yes),
            ("headers_with_underscores_action", Yes),
            ("max_requests_per_connection", Yes),
        ],
    },
    Support {
        message: "envoy.config.core.v3.Http1ProtocolOptions",
        fields: &[
            ("allow_absolute_url", Yes),
            ("accept_http_10", Yes),
            ("default_host_for_http_10", Yes),
            ("header_key_format", Yes),
            ("enable_trailers", Yes),
            ("override_stream_error_on_invalid_http_message", Off),
            ("allow_custom_methods", Yes),
            ("allow_chunked_length", Off),
            ("send_fully_qualified_url", Off),
            ("use_balsa_parser", Ignored),
        ],
    },
    Support {
        message: "envoy.config.core.v3.Http2ProtocolOptions",
        fields: &[
            ("hpack_table_size", Yes),
            ("max_concurrent_streams", Yes),
            ("initial_stream_window_size", Yes),
            ("initial_connection_window_size", Yes),
            ("allow_connect", Yes),
            ("allow_metadata", Off),
            ("max_outbound_frames", Yes),
            ("max_outbound_control_frames", Yes),
            ("max_consecutive_inbound_frames_with_empty_payload", Yes),
            ("max_inbound_priority_frames_per_stream", Yes),
            ("max_inbound_window_update_frames_per_data_frame_sent", Yes),
            ("stream_error_on_invalid_http_messaging", Yes),
            ("override_stream_error_on_invalid_http_message", Yes),
            ("connection_keepalive", Yes),
            ("use_oghttp2_codec", Ignored),
        ],
    },
    Support {
        message: "envoy.config.core.v3.KeepaliveSettings",
        fields: &[
            ("interval", Yes),
            ("timeout", Yes),
            ("interval_jitter", Yes),
        ],
    },
    Support {
        message: "envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat",
        fields: &[("proper_case_words", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat.ProperCaseWords",
        fields: &[],
    },
    Support {
        message: "envoy.config.core.v3.SchemeHeaderTransformation",
        fields: &[("scheme_to_overwrite", Yes), ("match_upstream", Off)],
    },
    Support {
        message: "envoy.config.core.v3.UpstreamHttpProtocolOptions",
        fields: &[
            ("auto_sni", Yes),
            ("auto_san_validation", Yes),
            ("override_auto_sni_header", Yes),
        ],
    },
    Support {
        message: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        fields: &[
            ("common_http_protocol_options", As(&UPSTREAM_COMMON)),
            ("upstream_http_protocol_options", Yes),
            ("explicit_http_config", As(&EXPLICIT_UPSTREAM)),
            ("use_downstream_protocol_config", As(&DOWNSTREAM_UPSTREAM)),
        ],
    },
];
