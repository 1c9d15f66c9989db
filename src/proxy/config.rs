//! What the data path needs to know of the configuration: plain, immutable types.
//!
//! `config/` builds them; nothing here knows protobuf, YAML or files.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use moorgate_codecs::http1;

use super::chain_match::Chooser;
use crate::cluster::{Cluster, ClusterId, CodecFactory};
use crate::engine::reactor::{Addr, ListenOptions, SocketOptions};
use crate::route::{ClusterName, RouteTable};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::stats::{
    Counter, HttpInspectorStats, HttpStats, ListenerStats, ProxyProtocolStats, ProxyVersionStats,
    TcpStats, TlsInspectorStats, TlsStats,
};

/// One immutable configuration. Workers swap to a new one between turns.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with every publication.
    pub version: u64,
    /// Listeners by id.
    pub listeners: Vec<Arc<Listener>>,
    /// Clusters by id.
    pub clusters: FxHashMap<ClusterId, Arc<Cluster>>,
    /// Clusters by name.
    pub names: HashMap<Box<[u8]>, ClusterId>,
    /// Limit on downstream connections of the whole process; 0 is none.
    pub max_connections: u64,
}

impl Snapshot {
    /// The cluster of this name, for routes that take it from a header.
    #[must_use]
    pub fn cluster_named(&self, name: &[u8]) -> Option<ClusterId> {
        self.names.get(name).copied()
    }
}

/// Names a listener for the life of the process: an interned name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u32);

/// Names a filter chain (by listener and chain content) for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChainId(pub u32);

/// A listener.
#[derive(Debug)]
pub struct Listener {
    /// Id.
    pub id: ListenerId,
    /// Name.
    pub name: String,
    /// `address` and `additional_addresses`.
    pub addresses: Vec<Addr>,
    /// How to open it.
    pub options: ListenOptions,
    /// Options of accepted connections.
    pub socket: SocketOptions,
    /// Pending bytes towards a peer at which the source is no longer read. Default 1 MiB.
    pub buffer_limit: u32,
    /// Counts neither against the connection limit nor is it refused by it.
    pub ignore_global_conn_limit: bool,
    /// Filter chains, the default one among them; without a chooser the first one serves.
    pub chains: Vec<Arc<FilterChain>>,
    /// Chooses among the chains, where there is something to choose.
    pub chooser: Option<Box<Chooser>>,
    /// What looks at a connection's first bytes before its chain is chosen.
    pub filters: Option<Box<ListenerFilters>>,
    /// Counters.
    pub stats: ListenerStats,
}

/// `listener_filters`, and how long they may take.
#[derive(Debug)]
pub struct ListenerFilters {
    /// The filters, in order; at least one.
    pub list: Vec<ListenerFilter>,
    /// `listener_filters_timeout`; 0 never. Default 15 s.
    pub timeout_ms: u64,
    /// `continue_on_listener_filters_timeout`: with what is known by then.
    pub continue_on_timeout: bool,
}

/// What looks at a connection before its chain is chosen.
#[derive(Debug)]
pub enum ListenerFilter {
    /// `envoy.filters.listener.tls_inspector`.
    Tls {
        /// `max_client_hello_size`.
        max_hello: usize,
        /// `close_connection_on_client_hello_parsing_errors`.
        close_on_errors: bool,
        /// Counters.
        stats: TlsInspectorStats,
    },
    /// `envoy.filters.listener.http_inspector`.
    Http {
        /// Counters.
        stats: HttpInspectorStats,
    },
    /// `envoy.filters.listener.proxy_protocol`.
    Proxy(ProxyProtocol),
    /// `envoy.filters.listener.original_dst`.
    OriginalDst,
}

/// Envoy's `ProxyProtocol` listener filter.
#[derive(Debug)]
pub struct ProxyProtocol {
    /// `allow_requests_without_proxy_protocol`.
    pub optional: bool,
    /// Versions 1 and 2 are taken (`disallowed_versions`).
    pub versions: [bool; 2],
    /// Counters.
    pub stats: ProxyProtocolStats,
    /// Counters of versions 1 and 2.
    pub version_stats: [ProxyVersionStats; 2],
    /// `downstream_cx_proxy_proto_error`.
    pub errors: Counter,
}

/// One filter chain.
#[derive(Clone, Debug)]
pub struct FilterChain {
    /// Id.
    pub id: ChainId,
    /// Name.
    pub name: String,
    /// TLS of its connections.
    pub tls: Option<Arc<DownstreamTls>>,
    /// The terminal network filter.
    pub filter: NetworkFilter,
}

/// Envoy's `DownstreamTlsContext`, and what belongs to the chain's transport.
#[derive(Debug)]
pub struct DownstreamTls {
    /// Certificates and rules.
    pub context: crate::tls::Live<crate::tls::ServerContext>,
    /// `transport_socket_connect_timeout`; 0 never.
    pub handshake_timeout_ms: u64,
    /// Counters, `listener.<address>.ssl.*`.
    pub stats: TlsStats,
}

/// Terminal network filters.
#[derive(Clone, Debug)]
pub enum NetworkFilter {
    /// `envoy.filters.network.tcp_proxy`.
    Tcp(Arc<TcpProxy>),
    /// `envoy.filters.network.http_connection_manager`.
    Http(Arc<Http>),
}

impl FilterChain {
    /// The same chain for one worker alone. Each request counts itself in what it uses; were that the
    /// other workers' too, its cache line would go from core to core with every request.
    #[must_use]
    pub fn own(&self) -> Self {
        let mut own = self.clone();
        if let NetworkFilter::Http(http) = &mut own.filter {
            *http = Arc::new(Http::clone(http));
        }
        own
    }
}

/// Envoy's `TcpProxy`.
#[derive(Debug)]
pub struct TcpProxy {
    /// `stat_prefix`.
    pub stat_prefix: String,
    /// Clusters with cumulative weights.
    pub clusters: Vec<(ClusterName, u64)>,
    /// Both directions silent; 0 never. Default 1 h.
    pub idle_timeout_ms: u64,
    /// Tries to connect. Default 1.
    pub max_connect_attempts: u32,
    /// 0 never.
    pub max_connection_duration_ms: u64,
    /// Counters.
    pub stats: TcpStats,
    /// Access logs.
    pub access_logs: Vec<Arc<AccessLog>>,
}

/// Envoy's `HttpConnectionManager`.
#[derive(Clone, Debug)]
pub struct Http {
    /// `stat_prefix`.
    pub stat_prefix: String,
    /// Codec settings.
    pub http1: Arc<http1::Settings>,
    /// A codec other than HTTP/1, for protocols that bring their own.
    pub codec: Option<Arc<dyn CodecFactory>>,
    /// The codec of clients that begin with the preface of HTTP/2, where either is spoken (`AUTO`).
    pub http2: Option<Arc<dyn CodecFactory>>,
    /// Routes.
    pub routes: Arc<RouteTable>,
    /// HTTP filters before the router, in order.
    pub filters: Vec<Arc<dyn crate::filter::FilterFactory>>,
    /// How heads are judged and changed.
    pub rules: Rules,
    /// Connection idle timeout; 0 never. Default 1 h.
    pub idle_timeout_ms: u64,
    /// Connection age at which it is drained; 0 never.
    pub max_connection_duration_ms: u64,
    /// Requests per connection; 0 is unlimited.
    pub max_requests_per_connection: u32,
    /// From the first byte of a head to its end; 0 never.
    pub request_headers_timeout_ms: u64,
    /// From the first byte of a request to its end; 0 never.
    pub request_timeout_ms: u64,
    /// A stream on which nothing moves; 0 never. Default 5 min.
    pub stream_idle_timeout_ms: u64,
    /// A stream's whole life; 0 never.
    pub max_stream_duration_ms: u64,
    /// After the last byte, how long the client may take to close. Default 1 s.
    pub delayed_close_timeout_ms: u64,
    /// Forward `expect: 100-continue` instead of answering it.
    pub proxy_100_continue: bool,
    /// `upgrade_configs`: (token in lower case, enabled). "connect" is CONNECT.
    pub upgrades: Vec<(String, bool)>,
    /// Access logs.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// Counters.
    pub stats: HttpStats,
}

/// How the heads of requests and responses are judged and changed: the part of Envoy's
/// `HttpConnectionManager` (and router filter) that needs no stream and no connection.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The peer's address is the client's; edge sanitising of `x-envoy-*`.
    pub use_remote_address: bool,
    /// Trusted proxies in front.
    pub xff_num_trusted_hops: u32,
    /// Networks whose clients are internal (`internal_address_config`); none by default.
    pub internal_networks: Vec<Network>,
    /// Clients on Unix sockets are internal.
    pub unix_sockets_internal: bool,
    /// Set `x-forwarded-port` to the listener's port.
    pub append_x_forwarded_port: bool,
    /// Leave `x-forwarded-for` alone.
    pub skip_xff_append: bool,
    /// Append ourselves to `via`.
    pub via: String,
    /// Make an `x-request-id` where there is none. Default true.
    pub generate_request_id: bool,
    /// Keep the client's `x-request-id` on edge requests.
    pub preserve_external_request_id: bool,
    /// Answer with `x-request-id` always.
    pub always_set_request_id_in_response: bool,
    /// RFC 3986 path normalisation.
    pub normalize_path: bool,
    /// `a//b` becomes `a/b`.
    pub merge_slashes: bool,
    /// What happens to `%2F` and the like in paths.
    pub escaped_slashes: EscapedSlashes,
    /// Strip the port from the authority before matching.
    pub strip_port: StripPort,
    /// Strip a trailing dot of the host.
    pub strip_trailing_host_dot: bool,
    /// `headers_with_underscores_action`.
    pub underscores: Underscores,
    /// Scheme to set whatever the request says.
    pub scheme_overwrite: Option<String>,
    /// `forward_client_cert_details` and `set_current_client_cert_details`.
    pub client_cert: super::http::client_cert::ClientCertRules,
    /// Router filter: `suppress_envoy_headers`.
    pub suppress_envoy_headers: bool,
    /// Router filter: `x-envoy-expected-rq-timeout-ms` of a proxy before us is the route's timeout.
    pub respect_expected_rq_timeout: bool,
    /// `server_name`, default "envoy"; ours says "moorgate" unless set.
    pub server_name: String,
    /// `server_header_transformation`.
    pub server_header: ServerHeader,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            use_remote_address: false,
            xff_num_trusted_hops: 0,
            internal_networks: Vec::new(),
            unix_sockets_internal: false,
            append_x_forwarded_port: false,
            skip_xff_append: false,
            via: String::new(),
            generate_request_id: true,
            preserve_external_request_id: false,
            always_set_request_id_in_response: false,
            normalize_path: false,
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::Keep,
            strip_port: StripPort::Keep,
            strip_trailing_host_dot: false,
            underscores: Underscores::Allow,
            scheme_overwrite: None,
            client_cert: super::http::client_cert::ClientCertRules::default(),
            suppress_envoy_headers: false,
            respect_expected_rq_timeout: false,
            server_name: "moorgate".to_owned(),
            server_header: ServerHeader::Overwrite,
        }
    }
}

/// An IP network: `address/bits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// A network; `None` when the prefix is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (bits <= longest).then_some(Self { address, bits })
    }

    /// The address as it was written: its last bits may be set.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Length of the prefix.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The address is inside. An IPv4 address written as IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

/// `server_header_transformation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerHeader {
    #[default]
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}

/// `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    #[default]
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

/// `strip_matching_host_port` and `strip_any_host_port`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    #[default]
    Keep,
    Matching,
    Any,
}

/// `headers_with_underscores_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    #[default]
    Allow,
    RejectRequest,
    DropHeader,
}
