//! Access logs and their formats.

use super::Rule::{Ignored, Types, Yes};
use super::Support;

/// Where access logs go.
pub(super) const ACCESS_LOGS: &[&str] = &[
    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
];

pub(super) static TABLES: &[Support] = &[
    Support {
        message: "envoy.config.accesslog.v3.AccessLog",
        fields: &[
            ("name", Yes),
            ("filter", Yes),
            ("typed_config", Types(ACCESS_LOGS)),
        ],
    },
    Support {
        message: "envoy.config.accesslog.v3.AccessLogFilter",
        fields: &[
            ("status_code_filter", Yes),
            ("duration_filter", Yes),
            ("not_health_check_filter", Yes),
            ("and_filter", Yes),
            ("or_filter", Yes),
            ("header_filter", Yes),
            ("response_flag_filter", Yes),
        ],
    },
    Support {
        message: "envoy.config.accesslog.v3.StatusCodeFilter",
        fields: &[("comparison", Yes)],
    },
    Support {
        message: "envoy.config.accesslog.v3.DurationFilter",
        fields: &[("comparison", Yes)],
    },
    Support {
        message: "envoy.config.accesslog.v3.ComparisonFilter",
        fields: &[("op", Yes), ("value", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.RuntimeUInt32",
        fields: &[
            ("default_value", Yes),
            // No runtime layer may set it: a key that is not known is refused there.
            ("runtime_key", Ignored),
        ],
    },
    Support {
        message: "envoy.config.accesslog.v3.NotHealthCheckFilter",
        fields: &[],
    },
    Support {
        message: "envoy.config.accesslog.v3.AndFilter",
        fields: &[("filters", Yes)],
    },
    Support {
        message: "envoy.config.accesslog.v3.OrFilter",
        fields: &[("filters", Yes)],
    },
    Support {
        message: "envoy.config.accesslog.v3.HeaderFilter",
        fields: &[("header", Yes)],
    },
    Support {
        message: "envoy.config.accesslog.v3.ResponseFlagFilter",
        fields: &[("flags", Yes)],
    },
    Support {
        message: "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        fields: &[
            ("path", Yes),
            ("format", Yes),
            ("json_format", Yes),
            ("typed_json_format", Yes),
            ("log_format", Yes),
        ],
    },
    Support {
        message: "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        fields: &[("log_format", Yes)],
    },
    Support {
        message: "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
        fields: &[("log_format", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.SubstitutionFormatString",
        fields: &[
            ("text_format", Yes),
            ("text_format_source", Yes),
            ("json_format", Yes),
            ("omit_empty_values", Yes),
            // Only bodies of local replies have a type.
            ("content_type", Ignored),
        ],
    },
];
