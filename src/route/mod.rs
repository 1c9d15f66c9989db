//! Which cluster: from a request head to a route and its action.
//!
//! Everything here is immutable once built and knows neither connections nor hosts. It must never
//! allocate while matching, and a lookup must not depend on the number of virtual hosts.

use std::sync::Arc;

use crate::cluster::ClusterId;

/// A route table, as Envoy's `RouteConfiguration`. See `table.rs` for the lookup.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Name of the configuration (`route_config_name`).
    pub name: String,
    /// Virtual hosts and their lookup structures.
    pub(crate) hosts: table::VirtualHosts,
    /// Applied to every request after route and virtual host.
    pub request_headers: HeaderOps,
    /// Applied to every response after route and virtual host.
    pub response_headers: HeaderOps,
    /// Header operations go from most to least specific unless this is set.
    pub most_specific_header_mutations_wins: bool,
}

/// A virtual host's own settings, shared by its routes.
#[derive(Debug, Default)]
pub struct VirtualHost {
    /// Name.
    pub name: String,
    /// All plain HTTP requests are redirected.
    pub require_tls: RequireTls,
    /// Applied after those of the route.
    pub request_headers: HeaderOps,
    /// Applied after those of the route.
    pub response_headers: HeaderOps,
    /// Used by routes that have none.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Send `x-envoy-attempt-count` upstream.
    pub include_request_attempt_count: bool,
    /// Send `x-envoy-attempt-count` downstream.
    pub include_attempt_count_in_response: bool,
}

/// Envoy's `TlsRequirementType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequireTls {
    #[default]
    None,
    ExternalOnly,
    All,
}

/// One route: what it matches is private to the table, what it does is here.
#[derive(Debug)]
pub struct Route {
    /// Name, for `%ROUTE_NAME%`.
    pub name: String,
    /// Virtual host it belongs to.
    pub host: Arc<VirtualHost>,
    /// Where the request goes.
    pub action: Action,
    /// Applied first.
    pub request_headers: HeaderOps,
    /// Applied first.
    pub response_headers: HeaderOps,
    pub(crate) matcher: matcher::Matcher,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Action {
    /// Forward it.
    Forward(Forward),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with fixed status and body.
    Direct(Direct),
}

/// Envoy's `RouteAction`.
#[derive(Debug)]
pub struct Forward {
    /// Cluster, or how to choose one.
    pub target: Target,
    /// Status when the cluster is not there (503 by default, 404 on request).
    pub cluster_not_found_status: u16,
    /// Replaces the matched prefix, or what a regex matches, or the whole path.
    pub path_rewrite: PathRewrite,
    /// Replaces the authority.
    pub host_rewrite: Option<String>,
    /// Replaces the authority by the host name of the chosen endpoint.
    pub auto_host_rewrite: bool,
    /// Keep the original authority in `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
    /// Whole response, in ms; 0 is unlimited. Envoy's default: 15 s.
    pub timeout_ms: u64,
    /// Overrides the stream idle timeout of the connection manager.
    pub idle_timeout_ms: Option<u64>,
    /// Overrides the virtual host's.
    pub retry: Option<Arc<RetryPolicy>>,
    /// High priority uses the other set of breaker thresholds.
    pub high_priority: bool,
    /// `upgrade_configs` of the route: (token in lower case, enabled).
    pub upgrades: Vec<(String, bool)>,
    /// CONNECT is terminated here and its payload forwarded (`connect_config`).
    pub terminate_connect: bool,
    /// How long a stream may live, and what gRPC clients have to say about it.
    pub limits: StreamLimits,
}

/// `max_stream_duration` of a route, and the older `max_grpc_timeout`. Times are in ms; a maximum of 0
/// is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// `max_stream_duration` is set, whatever it says: the route's timeout does not hold.
    pub bounds_stream: bool,
    /// Life of a stream, in place of the connection manager's.
    pub max_stream_ms: Option<u64>,
    /// `grpc-timeout` of the request is its life, up to this.
    pub max_grpc_stream_ms: Option<u64>,
    /// Subtracted from that.
    pub grpc_stream_offset_ms: u64,
    /// `grpc-timeout` of a gRPC request is the timeout of its response, up to this.
    pub max_grpc_ms: Option<u64>,
    /// Subtracted from that.
    pub grpc_offset_ms: u64,
}

/// Cluster of a route.
#[derive(Debug)]
pub enum Target {
    /// One.
    Cluster(ClusterName),
    /// By weight: (cluster, cumulative weight), with header operations of their own. The total is
    /// the last cumulative weight.
    Weighted(Vec<WeightedCluster>),
    /// Named by a request header.
    Header(String),
}

/// Which cluster a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick<'a> {
    /// The one of the route.
    Cluster(&'a ClusterName),
    /// One of several, with its place among them for [`Forward::weighted`].
    Weighted(u32, &'a ClusterName),
    /// One that a request header named; it may not exist.
    Named(&'a [u8]),
    /// None: the header is not there. Answered as a cluster that does not exist.
    None,
}

/// One entry of `weighted_clusters`.
#[derive(Debug)]
pub struct WeightedCluster {
    /// Cluster.
    pub cluster: ClusterName,
    /// Weights up to and including this one.
    pub cumulative_weight: u64,
    /// Applied before those of the route.
    pub request_headers: HeaderOps,
    /// Applied before those of the route.
    pub response_headers: HeaderOps,
    /// Replaces the authority.
    pub host_rewrite: Option<String>,
}

/// A cluster by name, with its process-wide id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName {
    /// Id; stable for a name as long as the process lives.
    pub id: ClusterId,
    /// Name.
    pub name: Arc<str>,
}

/// Path rewriting of a route or redirect.
#[derive(Debug, Default)]
pub enum PathRewrite {
    #[default]
    None,
    /// Replace the matched prefix or path.
    Prefix(String),
    /// Replace what the expression matches in the path without query.
    Regex(RegexRewrite),
    /// Replace the whole path and keep the query. In a redirect (`path_redirect`) its own query, if
    /// it has one, takes the place of the request's.
    Full(String),
}

/// Envoy's `RedirectAction`.
#[derive(Debug)]
pub struct Redirect {
    /// Scheme to change to.
    pub scheme: Option<String>,
    /// `https_redirect`.
    pub https: bool,
    /// Host to change to.
    pub host: Option<String>,
    /// Port to change to.
    pub port: Option<u16>,
    /// New path.
    pub path: PathRewrite,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Drop the query.
    pub strip_query: bool,
    /// The port stays even when it is the default of the scheme that is left (`require_tls`).
    pub keep_port: bool,
}

/// Envoy's `DirectResponseAction`.
#[derive(Debug)]
pub struct Direct {
    /// Status.
    pub status: u16,
    /// Body, possibly read from a file when the configuration was loaded.
    pub body: Arc<[u8]>,
}

/// Envoy's `RetryPolicy`.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Conditions.
    pub on: RetryOn,
    /// `retriable_status_codes`.
    pub statuses: Vec<u16>,
    /// Tries after the first. Default 1.
    pub max_retries: u32,
    /// 0: no per-try limit.
    pub per_try_timeout_ms: u64,
    /// 0: no per-try idle limit.
    pub per_try_idle_timeout_ms: u64,
    /// Base of the exponential back-off, default 25 ms.
    pub base_interval_ms: u64,
    /// Its ceiling, default 10 times the base.
    pub max_interval_ms: u64,
    /// `host_selection_retry_max_attempts` with the previous_hosts predicate: try that many picks.
    pub avoid_previous_hosts: u32,
    /// `retriable_headers`: a response that meets one of them, with [`RetryOn::HEADERS`].
    pub response_headers: Vec<HeaderMatch>,
    /// `retriable_request_headers`: when there are any, the request has to meet one of them.
    pub request_headers: Vec<HeaderMatch>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            on: RetryOn::default(),
            statuses: Vec::new(),
            max_retries: 1,
            per_try_timeout_ms: 0,
            per_try_idle_timeout_ms: 0,
            base_interval_ms: 25,
            max_interval_ms: 250,
            avoid_previous_hosts: 0,
            response_headers: Vec::new(),
            request_headers: Vec::new(),
        }
    }
}

/// `retry_on` as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(pub u16);

impl RetryOn {
    /// Any 5xx, and no answer at all.
    pub const SERVER_ERROR: u16 = 1;
    /// 502, 503, 504.
    pub const GATEWAY_ERROR: u16 = 2;
    /// No answer: disconnect, reset, read timeout.
    pub const RESET: u16 = 4;
    /// Could not connect.
    pub const CONNECT_FAILURE: u16 = 8;
    /// 409.
    pub const RETRIABLE_4XX: u16 = 16;
    /// The upstream refused the stream.
    pub const REFUSED_STREAM: u16 = 32;
    /// Statuses of the policy or of `x-envoy-retriable-status-codes`.
    pub const STATUS_CODES: u16 = 64;
    /// Reset before the request was sent.
    pub const RESET_BEFORE_REQUEST: u16 = 128;
    /// The response has `x-envoy-ratelimited`; without this bit such a response is never retried.
    pub const ENVOY_RATELIMITED: u16 = 256;
    /// Response headers of the policy or of `x-envoy-retriable-header-names`.
    pub const HEADERS: u16 = 512;
    /// gRPC status 1.
    pub const GRPC_CANCELLED: u16 = 1 << 10;
    /// gRPC status 4.
    pub const GRPC_DEADLINE_EXCEEDED: u16 = 1 << 11;
    /// gRPC status 8.
    pub const GRPC_RESOURCE_EXHAUSTED: u16 = 1 << 12;
    /// gRPC status 13.
    pub const GRPC_INTERNAL: u16 = 1 << 13;
    /// gRPC status 14.
    pub const GRPC_UNAVAILABLE: u16 = 1 << 14;

    /// Parses a comma-separated list of conditions, those of HTTP and of gRPC; false when it has
    /// others too.
    #[must_use]
    pub fn parse(text: &[u8]) -> (Self, bool) {
        let (mut on, mut valid) = (Self::default(), true);
        for condition in crate::text::list(text) {
            on.0 |= match condition {
                b"5xx" => Self::SERVER_ERROR,
                b"gateway-error" => Self::GATEWAY_ERROR,
                b"reset" => Self::RESET,
                b"reset-before-request" => Self::RESET_BEFORE_REQUEST,
                b"connect-failure" => Self::CONNECT_FAILURE,
                b"envoy-ratelimited" => Self::ENVOY_RATELIMITED,
                b"retriable-4xx" => Self::RETRIABLE_4XX,
                b"refused-stream" => Self::REFUSED_STREAM,
                b"retriable-status-codes" => Self::STATUS_CODES,
                b"retriable-headers" => Self::HEADERS,
                b"cancelled" => Self::GRPC_CANCELLED,
                b"deadline-exceeded" => Self::GRPC_DEADLINE_EXCEEDED,
                b"resource-exhausted" => Self::GRPC_RESOURCE_EXHAUSTED,
                b"internal" => Self::GRPC_INTERNAL,
                b"unavailable" => Self::GRPC_UNAVAILABLE,
                _ => {
                    valid = false;
                    0
                }
            };
        }
        (on, valid)
    }

    /// Any of the bits is set.
    #[must_use]
    pub fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }
}

impl Action {
    /// The action can be carried out.
    fn check(&self) -> Result<(), BuildError> {
        match self {
            Self::Forward(forward) => {
                if let Target::Weighted(clusters) = &forward.target {
                    let total = clusters.last().map_or(0, |last| last.cumulative_weight);
                    if total == 0 || total > u64::from(u32::MAX) {
                        return Err(BuildError::Weights { total });
                    }
                }
                Ok(())
            }
            Self::Redirect(redirect) => match redirect.status {
                301 | 302 | 303 | 307 | 308 => Ok(()),
                status => Err(BuildError::Status { status }),
            },
            Self::Direct(direct) => match direct.status {
                200..=599 => Ok(()),
                status => Err(BuildError::Status { status }),
            },
        }
    }
}

pub mod error;
pub mod formatter;
pub mod headers;
pub mod matcher;
mod mutate;
pub mod query;
pub mod rewrite;
pub mod strings;
pub mod table;
#[cfg(test)]
mod tests;

pub use error::BuildError;
pub use headers::{AppendAction, HeaderOps, Scratch};
pub use matcher::{HeaderMatch, Matcher, PathMatch};
pub use query::{QueryCondition, QueryMatch};
pub use rewrite::RegexRewrite;
pub use strings::{Pattern, StringMatch};
pub use table::{HostKey, NewRoute, RouteMatch, RouteTableBuilder};
