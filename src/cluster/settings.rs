//! What a configuration says of a cluster: how a host is chosen and found, how connections to it begin, what
//! limits them and how its health is asked. Plain values; nothing here may change once a snapshot is made.

use std::net::SocketAddr;
use std::sync::Arc;

use moorgate_codecs::Head;
use moorgate_codecs::preface::proxy;

use super::host::{HealthTarget, Host};
use crate::engine::reactor::{Addr, SocketOptions};

/// Settings of a cluster that do not change with its hosts.
#[derive(Debug)]
pub struct ClusterConfig {
    /// How to choose a host.
    pub balancer: BalancerKind,
    /// Milliseconds to connect, default 5000.
    pub connect_timeout_ms: u64,
    /// An idle pooled connection is closed after this; 0 never. Default 1 h.
    pub idle_timeout_ms: u64,
    /// A connection is closed after this age; 0 never.
    pub max_connection_duration_ms: u64,
    /// Requests per connection; 0 is unlimited.
    pub max_requests_per_connection: u32,
    /// Pending bytes towards a peer at which the source is no longer read. Default 1 MiB.
    pub buffer_limit: u32,
    /// Options of upstream sockets.
    pub socket: SocketOptions,
    /// Thresholds: default priority, high priority.
    pub thresholds: [Thresholds; 2],
    /// HTTP/1 settings of the upstream side.
    pub http1: Arc<moorgate_codecs::http1::Settings>,
    /// Below this share of healthy hosts (per cent) all are used. Default 50; 0 is never.
    pub panic_threshold: u32,
    /// Below the panic threshold no host is used (`fail_traffic_on_panic`).
    pub fail_traffic_on_panic: bool,
    /// How much more than its share a priority can carry before the next one is used, in per cent
    /// (`overprovisioning_factor`). Default 140.
    pub overprovisioning: u32,
    /// Hosts not checked yet count neither as healthy nor as unhealthy
    /// (`ignore_new_hosts_until_first_hc`).
    pub ignore_new_hosts: bool,
    /// `ignore_health_on_host_removal`.
    pub drop_unhealthy_on_removal: bool,
    /// Active health checks. Like Envoy we have one per cluster: the first.
    pub health_checks: Vec<HealthCheck>,
    /// Where hosts come from.
    pub discovery: Discovery,
    /// Codec other than HTTP/1, for protocols that bring their own.
    pub codec: Option<Arc<dyn CodecFactory>>,
    /// What requests that came by HTTP/2 are sent by, beside the codec of all others
    /// (`use_downstream_protocol_config`).
    pub http2: Option<Arc<dyn CodecFactory>>,
    /// TLS towards its hosts.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Connections begin with a header that says whose they are.
    pub proxy_header: Option<ProxyHeader>,
}

/// Envoy's `upstream_proxy_protocol`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// How it is written.
    pub version: proxy::Version,
    /// `added_tlvs`, for version 2.
    pub tlvs: Vec<(u8, Box<[u8]>)>,
}

impl ProxyHeader {
    /// Appends a header for the connection of a client: its address, and what it connected to. Without that
    /// it says that we speak for ourselves.
    pub fn write(&self, client: Option<(SocketAddr, SocketAddr)>, out: &mut Vec<u8>) {
        let with_tlvs = self.version == proxy::Version::V2
            && !self.tlvs.is_empty()
            && proxy::write_v2_with(client, &self.tlvs, out);
        if !with_tlvs {
            proxy::write(self.version, client, out);
        }
    }
}

/// Envoy's `UpstreamTlsContext`.
#[derive(Debug)]
pub struct UpstreamTls {
    /// Certificates and rules.
    pub context: crate::tls::Live<crate::tls::ClientContext>,
    /// `auto_host_sni`: a host that has a name is asked for by it.
    pub by_host_name: bool,
    /// `auto_sni`: a host is asked for by the name that the request brought.
    pub auto_sni: Option<AutoSni>,
    /// The protocol offered by ALPN is that of the traffic; the configuration names none.
    pub alpn_is_implied: bool,
    /// Counters, `cluster.<name>.ssl.*`.
    pub stats: crate::telemetry::stats::TlsStats,
}

/// `auto_sni` of `upstream_http_protocol_options`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoSni {
    /// `override_auto_sni_header`; empty: the request's host.
    pub header: Box<[u8]>,
    /// `auto_san_validation`: the certificate has to have the name.
    pub verify: bool,
}

impl AutoSni {
    /// The name that this request asks for: without its port, and no address unless that is to be verified.
    /// Where names are verified, a request that has none may not be sent at all.
    #[must_use]
    pub fn name(&self, head: &Head) -> Option<Box<str>> {
        let own = if self.header.is_empty() {
            None
        } else {
            // One without a value is as good as none.
            head.get(&self.header).filter(|value| !value.is_empty())
        };
        let authority = std::str::from_utf8(own.unwrap_or_else(|| head.authority())).ok()?;
        let (host, is_address) = match authority.strip_prefix('[') {
            Some(rest) => (rest.split_once(']')?.0, true),
            None => {
                let host = authority.split(':').next().unwrap_or_default();
                (host, host.parse::<std::net::Ipv4Addr>().is_ok())
            }
        };
        let usable = !host.is_empty() && (self.verify || !is_address);
        usable.then(|| host.to_ascii_lowercase().into())
    }
}

impl UpstreamTls {
    /// The name to ask a host for; `None` is the context's own.
    #[must_use]
    pub fn server_name<'a>(&self, host: &'a Host) -> Option<&'a str> {
        let name = host.hostname.as_str();
        (self.by_host_name && !name.is_empty()).then_some(name)
    }
}

impl Default for ClusterConfig {
    /// Envoy's defaults, a static cluster.
    fn default() -> Self {
        Self {
            balancer: BalancerKind::RoundRobin,
            connect_timeout_ms: 5_000,
            idle_timeout_ms: 3_600_000,
            max_connection_duration_ms: 0,
            max_requests_per_connection: 0,
            buffer_limit: 1 << 20,
            socket: SocketOptions::default(),
            thresholds: [Thresholds::default(); 2],
            http1: Arc::default(),
            panic_threshold: 50,
            fail_traffic_on_panic: false,
            overprovisioning: 140,
            ignore_new_hosts: false,
            drop_unhealthy_on_removal: false,
            health_checks: Vec::new(),
            discovery: Discovery::Static,
            codec: None,
            http2: None,
            tls: None,
            proxy_header: None,
        }
    }
}

/// Makes codecs for connections of one protocol.
pub trait CodecFactory: Send + Sync + std::fmt::Debug {
    /// A codec for a new connection.
    fn make(&self) -> Box<dyn moorgate_codecs::Codec>;
    /// A codec for a connection that was parked.
    fn unpark(&self, compact: &[u8]) -> Box<dyn moorgate_codecs::Codec>;
    /// Its connections speak HTTP/2, and count so.
    fn http2(&self) -> Option<&crate::telemetry::stats::Http2Stats> {
        None
    }
}

/// Load balancing policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalancerKind {
    RoundRobin,
    /// Power of N choices by active requests; by weight when weights differ.
    LeastRequest {
        choices: u32,
    },
    Random,
}

/// Where a cluster's hosts come from.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// Given addresses.
    Static,
    /// Every address of every name.
    StrictDns(Arc<DnsSource>),
    /// The first address of one name; established connections stay when it changes.
    LogicalDns(Arc<DnsSource>),
}

/// Names to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSource {
    /// The names.
    pub names: Vec<DnsName>,
    /// Time between look-ups (`dns_refresh_rate`), default 5 s.
    pub refresh_ms: u64,
    /// Back-off after failures (`dns_failure_refresh_rate`): base and maximum. `None`: as
    /// [`refresh_ms`](Self::refresh_ms).
    pub failure_refresh_ms: Option<(u64, u64)>,
    /// A random time below this is added to each wait (`dns_jitter`).
    pub jitter_ms: u64,
    /// Use the records' TTL instead of the refresh rate (`respect_dns_ttl`).
    pub respect_ttl: bool,
    /// A TTL below this counts as this (`dns_min_refresh_rate`), default 1 s.
    pub min_refresh_ms: u64,
    /// Address families wanted.
    pub family: DnsFamily,
    /// Resolvers given in the configuration, instead of /etc/resolv.conf.
    pub resolvers: Vec<std::net::SocketAddr>,
    /// Ask over TCP only (`use_tcp_for_dns_lookups`).
    pub tcp_only: bool,
    /// Take names as they are, without the search list (`no_default_search_domain`).
    pub no_search: bool,
}

impl Default for DnsSource {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            refresh_ms: 5_000,
            failure_refresh_ms: None,
            jitter_ms: 0,
            respect_ttl: false,
            min_refresh_ms: 1_000,
            family: DnsFamily::Auto,
            resolvers: Vec::new(),
            tcp_only: false,
            no_search: false,
        }
    }
}

/// One name of a DNS cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsName {
    /// Host name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Load balancing weight.
    pub weight: u32,
    /// Priority, 0 is first.
    pub priority: u32,
    /// `hostname` of the endpoint; empty: the host name.
    pub hostname: String,
    /// `health_check_config` of the endpoint.
    pub health_target: HealthTarget,
}

/// An endpoint of a static cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub addr: Addr,
    /// `hostname`.
    pub hostname: String,
    /// Load balancing weight.
    pub weight: u32,
    /// Priority, 0 is first.
    pub priority: u32,
    /// `health_status` as [`Host`] flags: [`Host::FAILED_EDS_HEALTH`],
    /// [`Host::EDS_STATUS_DRAINING`], [`Host::DEGRADED_EDS_HEALTH`] or 0.
    pub flags: u32,
    /// `health_check_config`.
    pub health_target: HealthTarget,
}

/// `dns_lookup_family`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFamily {
    #[default]
    Auto,
    V4Only,
    V6Only,
    V4Preferred,
    All,
}

/// Circuit breaker thresholds of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Default 1024.
    pub max_connections: u32,
    /// Default 1024.
    pub max_pending_requests: u32,
    /// Default 1024.
    pub max_requests: u32,
    /// Default 3.
    pub max_retries: u32,
    /// Report what remains as gauges.
    pub track_remaining: bool,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            track_remaining: false,
        }
    }
}

/// An active health check (Envoy's `HealthCheck`). Times are in ms; where 0 means "not set" the
/// interval that applies instead is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// A check without a result by then has failed.
    pub timeout_ms: u64,
    /// From the end of one check to the start of the next.
    pub interval_ms: u64,
    /// The first check of a host waits a random time up to this.
    pub initial_jitter_ms: u64,
    /// Each wait is longer by a random time up to this.
    pub interval_jitter_ms: u64,
    /// Each wait is longer by a random share of it up to this many per cent.
    pub interval_jitter_percent: u32,
    /// Failures in a row that make a healthy host unhealthy. A status that is not retriable does so
    /// at once.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make an unhealthy host healthy. The first check of a host counts alone.
    pub healthy_threshold: u32,
    /// Interval while the cluster has never had a connection. Default 60 s.
    pub no_traffic_interval_ms: u64,
    /// The same for healthy hosts; 0: [`no_traffic_interval_ms`](Self::no_traffic_interval_ms).
    pub no_traffic_healthy_interval_ms: u64,
    /// Interval for unhealthy hosts; 0: [`interval_ms`](Self::interval_ms).
    pub unhealthy_interval_ms: u64,
    /// Interval while a healthy host fails but not often enough yet; 0: the one for unhealthy hosts.
    pub unhealthy_edge_interval_ms: u64,
    /// Interval while an unhealthy host succeeds but not often enough yet; 0:
    /// [`interval_ms`](Self::interval_ms).
    pub healthy_edge_interval_ms: u64,
    /// Keep the connection between checks. Default true.
    pub reuse_connection: bool,
    /// Protocols offered by ALPN where the cluster has TLS (`tls_options`); empty: the cluster's.
    pub alpn: Vec<Vec<u8>>,
    /// What a check does.
    pub kind: HealthCheckKind,
}

impl Default for HealthCheck {
    /// Envoy's defaults and a plain TCP connect. Timeout, interval and thresholds are required there;
    /// here they are 1 s, 5 s, 3 and 2.
    fn default() -> Self {
        Self {
            timeout_ms: 1_000,
            interval_ms: 5_000,
            initial_jitter_ms: 0,
            interval_jitter_ms: 0,
            interval_jitter_percent: 0,
            unhealthy_threshold: 3,
            healthy_threshold: 2,
            no_traffic_interval_ms: 60_000,
            no_traffic_healthy_interval_ms: 0,
            unhealthy_interval_ms: 0,
            unhealthy_edge_interval_ms: 0,
            healthy_edge_interval_ms: 0,
            reuse_connection: true,
            alpn: Vec::new(),
            kind: HealthCheckKind::Tcp {
                send: Vec::new(),
                receive: Vec::new(),
            },
        }
    }
}

/// What a health check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// Connect; optionally send bytes and look for others, in order, in the answer.
    Tcp {
        send: Vec<u8>,
        receive: Vec<Vec<u8>>,
    },
    /// A request that wants one of these statuses.
    Http {
        /// `host`; empty: the cluster's name.
        host: String,
        path: String,
        method: String,
        /// Empty: 200.
        expected: Vec<std::ops::Range<u16>>,
        /// Statuses that count towards the threshold instead of failing the host at once.
        retriable: Vec<std::ops::Range<u16>>,
        /// `request_headers_to_add`.
        headers: Vec<(String, String)>,
        /// The first 1024 bytes of the body must contain these, in order.
        receive: Vec<Vec<u8>>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_request_is_its_host_without_port() {
        let auto = |header: &[u8], verify| AutoSni {
            header: header.into(),
            verify,
        };
        let name = |auto: &AutoSni, authority: &str| {
            let mut head = Head::new();
            head.set_authority(authority.as_bytes());
            auto.name(&head).map(String::from)
        };
        let own = auto(b"", false);
        for (authority, expected) in [
            ("A.test", Some("a.test")),
            ("a.test:80", Some("a.test")),
            ("127.0.0.1:80", None),
            ("[::1]:80", None),
            ("[::1", None),
            ("", None),
            (":80", None),
        ] {
            assert_eq!(name(&own, authority).as_deref(), expected, "{authority}");
        }
        let verified = auto(b"", true);
        assert_eq!(
            name(&verified, "127.0.0.1:80").as_deref(),
            Some("127.0.0.1")
        );
        assert_eq!(name(&verified, "[::1]:80").as_deref(), Some("::1"));
        let mut head = Head::new();
        head.set_authority(b"a.test");
        let header = auto(b"x-sni", false);
        assert_eq!(header.name(&head).as_deref(), Some("a.test"));
        head.push(b"x-sni", b"b.test");
        assert_eq!(header.name(&head).as_deref(), Some("b.test"));
        for (value, expected) in [
            (&b""[..], Some("a.test")),
            (b":", None),
            (b"[", None),
            (b"[]", None),
            (b"\xff", None),
        ] {
            head.set(b"x-sni", value);
            let name = auto(b"x-sni", true).name(&head);
            assert_eq!(name.as_deref(), expected, "{value:?}");
        }
    }
}
