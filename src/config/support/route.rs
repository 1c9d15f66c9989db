//! Route configurations: virtual hosts, matches, actions, retries, header operations.

use super::Rule::{Ignored, Off, Types, Yes};
use super::Support;

const HOST_PREDICATES: &[&str] =
    &["envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"];

pub(super) static TABLES: &[Support] = &[
    Support {
        message: "envoy.config.route.v3.RouteConfiguration",
        fields: &[
            ("name", Yes),
            ("virtual_hosts", Yes),
            ("request_headers_to_add", Yes),
            ("request_headers_to_remove", Yes),
            ("response_headers_to_add", Yes),
            ("response_headers_to_remove", Yes),
            ("most_specific_header_mutations_wins", Yes),
            ("validate_clusters", Yes),
            ("max_direct_response_body_size_bytes", Yes),
            ("ignore_port_in_host_matching", Yes),
            ("ignore_path_parameters_in_path_matching", Off),
            ("metadata", Ignored),
        ],
    },
    Support {
        message: "envoy.config.route.v3.VirtualHost",
        fields: &[
            ("name", Yes),
            ("domains", Yes),
            ("routes", Yes),
            ("require_tls", Yes),
            ("request_headers_to_add", Yes),
            ("request_headers_to_remove", Yes),
            ("response_headers_to_add", Yes),
            ("response_headers_to_remove", Yes),
            ("include_request_attempt_count", Yes),
            ("include_attempt_count_in_response", Yes),
            ("retry_policy", Yes),
            ("include_is_timeout_retry_header", Off),
            ("metadata", Ignored),
        ],
    },
    Support {
        message: "envoy.config.route.v3.Route",
        fields: &[
            ("name", Yes),
            ("match", Yes),
            ("route", Yes),
            ("redirect", Yes),
            ("direct_response", Yes),
            ("request_headers_to_add", Yes),
            ("request_headers_to_remove", Yes),
            ("response_headers_to_add", Yes),
            ("response_headers_to_remove", Yes),
            ("metadata", Ignored),
            // Both name and sample traces, which there are none of.
            ("decorator", Ignored),
            ("tracing", Ignored),
        ],
    },
    Support {
        message: "envoy.config.route.v3.RouteMatch",
        fields: &[
            ("prefix", Yes),
            ("path", Yes),
            ("safe_regex", Yes),
            ("path_separated_prefix", Yes),
            ("connect_matcher", Yes),
            ("case_sensitive", Yes),
            ("runtime_fraction", Yes),
            ("headers", Yes),
            ("query_parameters", Yes),
        ],
    },
    Support {
        message: "envoy.config.route.v3.RouteMatch.ConnectMatcher",
        fields: &[],
    },
    Support {
        message: "envoy.config.route.v3.HeaderMatcher",
        fields: &[
            ("name", Yes),
            ("exact_match", Yes),
            ("safe_regex_match", Yes),
            ("range_match", Yes),
            ("present_match", Yes),
            ("prefix_match", Yes),
            ("suffix_match", Yes),
            ("contains_match", Yes),
            ("string_match", Yes),
            ("invert_match", Yes),
            ("treat_missing_header_as_empty", Yes),
        ],
    },
    Support {
        message: "envoy.config.route.v3.QueryParameterMatcher",
        fields: &[("name", Yes), ("string_match", Yes), ("present_match", Yes)],
    },
    Support {
        message: "envoy.type.matcher.v3.StringMatcher",
        fields: &[
            ("exact", Yes),
            ("prefix", Yes),
            ("suffix", Yes),
            ("safe_regex", Yes),
            ("contains", Yes),
            ("ignore_case", Yes),
        ],
    },
    Support {
        message: "envoy.type.matcher.v3.RegexMatcher",
        // The other field names the engine, and there is one.
        fields: &[("regex", Yes), ("google_re2", Ignored)],
    },
    Support {
        message: "envoy.type.matcher.v3.RegexMatchAndSubstitute",
        fields: &[("pattern", Yes), ("substitution", Yes)],
    },
    Support {
        message: "envoy.config.route.v3.RouteAction",
        fields: &[
            ("cluster", Yes),
            ("cluster_header", Yes),
            ("weighted_clusters", Yes),
            ("cluster_not_found_response_code", Yes),
            ("prefix_rewrite", Yes),
            ("regex_rewrite", Yes),
            ("host_rewrite_literal", Yes),
            ("auto_host_rewrite", Yes),
            ("append_x_forwarded_host", Yes),
            ("timeout", Yes),
            ("idle_timeout", Yes),
            ("retry_policy", Yes),
            ("priority", Yes),
            ("upgrade_configs", Yes),
            ("max_stream_duration", Yes),
            ("max_grpc_timeout", Yes),
            ("grpc_timeout_offset", Yes),
        ],
    },
    Support {
        message: "envoy.config.route.v3.RouteAction.MaxStreamDuration",
        fields: &[
            ("max_stream_duration", Yes),
            ("grpc_timeout_header_max", Yes),
            ("grpc_timeout_header_offset", Yes),
        ],
    },
    Support {
        message: "envoy.config.route.v3.RouteAction.UpgradeConfig",
        fields: &[
            ("upgrade_type", Yes),
            ("enabled", Yes),
            ("connect_config", Yes),
        ],
    },
    Support {
        message: "envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig",
        fields: &[],
    },
    Support {
        message: "envoy.config.route.v3.WeightedCluster",
        fields: &[
            ("clusters", Yes),
            // No runtime layer can set the weights.
            ("runtime_key_prefix", Ignored),
        ],
    },
    Support {
        message: "envoy.config.route.v3.WeightedCluster.ClusterWeight",
        fields: &[
            ("name", Yes),
            ("weight", Yes),
            ("request_headers_to_add", Yes),
            ("request_headers_to_remove", Yes),
            ("response_headers_to_add", Yes),
            ("response_headers_to_remove", Yes),
            ("host_rewrite_literal", Yes),
        ],
    },
    Support {
        message: "envoy.config.route.v3.RedirectAction",
        fields: &[
            ("https_redirect", Yes),
            ("scheme_redirect", Yes),
            ("host_redirect", Yes),
            ("port_redirect", Yes),
            ("path_redirect", Yes),
            ("prefix_rewrite", Yes),
            ("regex_rewrite", Yes),
            ("response_code", Yes),
            ("strip_query", Yes),
        ],
    },
    Support {
        message: "envoy.config.route.v3.DirectResponseAction",
        fields: &[("status", Yes), ("body", Yes)],
    },
    Support {
        message: "envoy.config.route.v3.RetryPolicy",
        fields: &[
            ("retry_on", Yes),
            ("num_retries", Yes),
            ("per_try_timeout", Yes),
            ("per_try_idle_timeout", Yes),
            ("retry_host_predicate", Types(HOST_PREDICATES)),
            ("host_selection_retry_max_attempts", Yes),
            ("retriable_status_codes", Yes),
            ("retry_back_off", Yes),
            ("retriable_headers", Yes),
            ("retriable_request_headers", Yes),
        ],
    },
    Support {
        message: "envoy.config.route.v3.RetryPolicy.RetryBackOff",
        fields: &[("base_interval", Yes), ("max_interval", Yes)],
    },
    Support {
        message: "envoy.config.route.v3.RetryPolicy.RetryHostPredicate",
        fields: &[("name", Yes), ("typed_config", Types(HOST_PREDICATES))],
    },
    Support {
        message: "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        fields: &[],
    },
    Support {
        message: "envoy.config.core.v3.HeaderValueOption",
        fields: &[
            ("header", Yes),
            ("append", Yes),
            ("append_action", Yes),
            ("keep_empty_value", Yes),
        ],
    },
    Support {
        message: "envoy.config.core.v3.HeaderValue",
        fields: &[("key", Yes), ("value", Yes), ("raw_value", Yes)],
    },
];
