//! Bootstrap, node, admin, overload manager, and what everything shares: addresses and sockets.

use super::Rule::{Ignored, Off, On, Runtime, Types, Values, Yes};
use super::Support;
use super::access_log::ACCESS_LOGS;

/// Resolver settings; the resolver itself is always our own.
pub(super) const DNS_RESOLVERS: &[&str] =
    &["envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"];

const REGEX_ENGINES: &[&str] = &["envoy.extensions.regex_engines.v3.GoogleRE2"];

const RESOURCE_MONITORS: &[&str] =
    &["envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"];

pub(super) static TABLES: &[Support] = &[
    Support {
        message: "envoy.config.bootstrap.v3.Bootstrap",
        fields: &[
            ("node", Yes),
            ("static_resources", Yes),
            ("admin", Yes),
            ("overload_manager", Yes),
            ("layered_runtime", Yes),
            ("cluster_manager", Yes),
            ("typed_dns_resolver_config", Types(DNS_RESOLVERS)),
            ("dns_resolution_config", Yes),
            ("use_tcp_for_dns_lookups", Yes),
            ("default_regex_engine", Types(REGEX_ENGINES)),
            ("stats_flush_interval", Ignored),
            ("stats_flush_on_admin", Ignored),
            ("enable_dispatcher_stats", Ignored),
            ("watchdog", Ignored),
            ("watchdogs", Ignored),
            ("inline_headers", Ignored),
            ("memory_allocator_manager", Ignored),
            ("perf_tracing_file_path", Ignored),
        ],
    },
    Support {
        message: "envoy.config.bootstrap.v3.Bootstrap.StaticResources",
        fields: &[("listeners", Yes), ("clusters", Yes)],
    },
    Support {
        message: "envoy.config.bootstrap.v3.Admin",
        fields: &[
            ("address", Yes),
            ("access_log", Types(ACCESS_LOGS)),
            ("access_log_path", Yes),
            ("profile_path", Ignored),
            // Connections to the admin interface never count against the limit.
            ("ignore_global_conn_limit", Ignored),
        ],
    },
    Support {
        message: "envoy.config.bootstrap.v3.ClusterManager",
        fields: &[("enable_deferred_cluster_creation", Ignored)],
    },
    Support {
        message: "envoy.config.bootstrap.v3.LayeredRuntime",
        fields: &[("layers", Yes)],
    },
    Support {
        message: "envoy.config.bootstrap.v3.RuntimeLayer",
        fields: &[
            ("name", Yes),
            (
                "static_layer",
                Runtime(&["overload.global_downstream_max_connections"]),
            ),
            // There is no /runtime_modify, so this layer stays empty.
            ("admin_layer", Ignored),
        ],
    },
    Support {
        message: "envoy.config.overload.v3.OverloadManager",
        fields: &[
            ("resource_monitors", Yes),
            // The connection limit is checked at each accept, not polled.
            ("refresh_interval", Ignored),
        ],
    },
    Support {
        message: "envoy.config.overload.v3.ResourceMonitor",
        fields: &[("name", Yes), ("typed_config", Types(RESOURCE_MONITORS))],
    },
    Support {
        message: "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        fields: &[("max_active_downstream_connections", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.Node",
        fields: &[
            ("id", Yes),
            ("cluster", Yes),
            ("metadata", Yes),
            ("locality", Yes),
            ("dynamic_parameters", Ignored),
            ("user_agent_name", Ignored),
            ("user_agent_version", Ignored),
            ("user_agent_build_version", Ignored),
            ("extensions", Ignored),
            ("client_features", Ignored),
            ("listening_addresses", Ignored),
        ],
    },
    Support {
        message: "envoy.config.core.v3.Locality",
        fields: &[("region", Yes), ("zone", Yes), ("sub_zone", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.Address",
        fields: &[("socket_address", Yes), ("pipe", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.SocketAddress",
        fields: &[
            ("protocol", Values(&["TCP"])),
            ("address", Yes),
            ("port_value", Yes),
            ("ipv4_compat", Yes),
        ],
    },
    Support {
        message: "envoy.config.core.v3.Pipe",
        fields: &[("path", Yes), ("mode", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.SocketOption",
        fields: &[
            ("description", Ignored),
            ("level", Yes),
            ("name", Yes),
            ("int_value", Yes),
            ("buf_value", Yes),
            ("state", Yes),
        ],
    },
    Support {
        message: "envoy.config.core.v3.TcpKeepalive",
        fields: &[
            ("keepalive_probes", Yes),
            ("keepalive_time", Yes),
            ("keepalive_interval", Yes),
        ],
    },
    Support {
        message: "envoy.config.core.v3.TypedExtensionConfig",
        // What may be in it depends on where it stands.
        fields: &[("name", Yes), ("typed_config", Types(&[]))],
    },
    Support {
        message: "envoy.extensions.regex_engines.v3.GoogleRE2",
        fields: &[],
    },
    Support {
        message: "envoy.config.core.v3.DataSource",
        fields: &[
            ("filename", Yes),
            ("inline_bytes", Yes),
            ("inline_string", Yes),
            ("environment_variable", Yes),
        ],
    },
    Support {
        message: "envoy.config.core.v3.RuntimeFractionalPercent",
        // No runtime layer can set the key, so the default is the value.
        fields: &[("default_value", Yes), ("runtime_key", Ignored)],
    },
    Support {
        message: "envoy.type.v3.FractionalPercent",
        fields: &[("numerator", Yes), ("denominator", Yes)],
    },
    Support {
        message: "envoy.type.v3.Percent",
        fields: &[("value", Yes)],
    },
    Support {
        message: "envoy.type.v3.Int64Range",
        fields: &[("start", Yes), ("end", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.DnsResolutionConfig",
        fields: &[("resolvers", Yes), ("dns_resolver_options", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.DnsResolverOptions",
        fields: &[
            ("use_tcp_for_dns_lookups", Yes),
            ("no_default_search_domain", Yes),
        ],
    },
    Support {
        message: "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
        fields: &[
            ("resolvers", Yes),
            ("dns_resolver_options", Yes),
            ("use_resolvers_as_fallback", Off),
            ("filter_unroutable_families", Off),
            ("rotate_nameservers", Off),
            ("reinit_channel_on_timeout", On),
        ],
    },
];
