//! Clusters: settings, endpoints, where hosts come from.

use std::sync::Arc;

use moorgate_codecs::http2::Role;
use moorgate_protos::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use moorgate_protos::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, LbConfig, LbPolicy,
};
use moorgate_protos::envoy::config::cluster::v3::{CircuitBreakers, Cluster, LoadBalancingPolicy};
use moorgate_protos::envoy::config::core::v3::{HealthStatus, RoutingPriority};
use moorgate_protos::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use moorgate_protos::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EndpointMessage, LbEndpoint,
};
use moorgate_protos::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use moorgate_protos::envoy::extensions::load_balancing_policies::random::v3::Random;
use moorgate_protos::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use moorgate_protos::{Message, Name};

use super::address::{self, Remote};
use super::bootstrap::{DnsFields, dns};
use super::{Context, Outcome, health, present, proxy_header, time, tls, upstream};
use crate::cluster::manager::Definition;
use crate::cluster::{
    BalancerKind, ClusterConfig, CodecFactory, Discovery, DnsFamily, DnsName, DnsSource, Endpoint,
    HealthTarget, Host, Thresholds,
};
use crate::config::{FieldPath, packed_type, unpack};
use crate::engine::reactor::SocketOptions;
use crate::proxy::http2::Http2;
use crate::telemetry::stats::Http2Stats;

/// Priorities there can be: Envoy's limit.
const MAX_PRIORITY: u32 = 128;

/// The definition of a cluster whose name was checked.
pub(super) fn build(
    cluster: &Cluster,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Definition> {
    let name: Arc<str> = cluster.name.as_str().into();
    let stat_name: Arc<str> = match cluster.alt_stat_name.as_str() {
        "" => Arc::clone(&name),
        other => other.into(),
    };
    let kind = match &cluster.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(*kind).map_err(|_| path.field("type").error("is not known"))?
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            return Err(path
                .field("cluster_type")
                .error("is not supported by Moorgate"));
        }
    };
    let assignment = present(
        cluster.load_assignment.as_ref(),
        &path.field("load_assignment"),
    )?;
    let (discovery, endpoints) = discovery(cluster, kind, assignment, context, path)?;
    let config = config(cluster, assignment, discovery, &stat_name, context, path)?;
    Ok(Definition {
        name,
        stat_name,
        config: Arc::new(config),
        endpoints,
    })
}

fn config(
    cluster: &Cluster,
    assignment: &ClusterLoadAssignment,
    discovery: Discovery,
    stat_name: &str,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<ClusterConfig> {
    let at = path.field("transport_socket");
    let behind = proxy_header::of(cluster.transport_socket.as_ref(), &at)?;
    if behind.is_some() && !cluster.health_checks.is_empty() {
        return Err(path
            .field("health_checks")
            .error("are not supported by Moorgate together with a PROXY header"));
    }
    let (proxy_header, inner) = behind.unzip();
    let transport = match &inner {
        Some(inner) => inner.as_ref(),
        None => cluster.transport_socket.as_ref(),
    };
    let typed = at.field("typed_config");
    let below = typed.field("transport_socket");
    let at = if inner.is_some() { below } else { at };
    let secured = tls::is_upstream(transport, &at)?;
    if !secured {
        speaks_no_tls(cluster, path)?;
    }
    let protocol = upstream::build(cluster, secured, path)?;
    // Where requests choose, what is offered is that of the connection.
    let spoken = (protocol.http2.is_some() && !protocol.as_downstream).then_some("h2");
    let tls = tls::upstream(
        transport,
        spoken,
        protocol.auto_sni,
        &format!("cluster.{stat_name}."),
        context,
        &at,
    )?;
    let defaults = ClusterConfig::default();
    let http2 = protocol.http2.map(|settings| {
        let prefix = format!("cluster.{stat_name}.http2.");
        Arc::new(Http2 {
            role: Role::Client,
            settings: Arc::new(settings),
            stats: Http2Stats::new(&**context.builder.names, &prefix),
        }) as Arc<dyn CodecFactory>
    });
    let (codec, http2) = match protocol.as_downstream {
        true => (None, http2),
        false => (http2, None),
    };
    let mut panic_threshold = defaults.panic_threshold;
    let mut fail_traffic_on_panic = false;
    let mut ignore_new_hosts = false;
    if let Some(common) = &cluster.common_lb_config {
        if let Some(percent) = &common.healthy_panic_threshold {
            if !(0.0..=100.0).contains(&percent.value) {
                return Err(path
                    .field("common_lb_config")
                    .field("healthy_panic_threshold")
                    .field("value")
                    .error("has to be between 0 and 100"));
            }
            panic_threshold = percent.value as u32;
        }
        if let Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) =
            &common.locality_config_specifier
        {
            fail_traffic_on_panic = zones.fail_traffic_on_panic;
        }
        ignore_new_hosts = common.ignore_new_hosts_until_first_hc;
    }
    let mut overprovisioning = defaults.overprovisioning;
    if let Some(policy) = &assignment.policy
        && let Some(factor) = policy.overprovisioning_factor
    {
        if factor == 0 {
            return Err(path
                .field("load_assignment")
                .field("policy")
                .field("overprovisioning_factor")
                .error("has to be greater than 0"));
        }
        overprovisioning = factor;
    }
    let buffer_limit = cluster.per_connection_buffer_limit_bytes;
    Ok(ClusterConfig {
        balancer: balancer(cluster, path)?,
        connect_timeout_ms: time::positive_or(
            cluster.connect_timeout.as_ref(),
            defaults.connect_timeout_ms,
            &path.field("connect_timeout"),
        )?,
        idle_timeout_ms: protocol.idle_timeout_ms,
        max_connection_duration_ms: protocol.max_connection_duration_ms,
        max_requests_per_connection: protocol.max_requests_per_connection,
        buffer_limit: buffer_limit.unwrap_or(defaults.buffer_limit),
        socket: socket(cluster, path)?,
        thresholds: thresholds(cluster.circuit_breakers.as_ref(), path)?,
        http1: Arc::new(protocol.http1),
        panic_threshold,
        fail_traffic_on_panic,
        overprovisioning,
        ignore_new_hosts,
        drop_unhealthy_on_removal: cluster.ignore_health_on_host_removal,
        health_checks: health::checks(&cluster.health_checks, &path.field("health_checks"))?,
        discovery,
        codec,
        http2,
        tls,
        proxy_header,
    })
}

/// What would have no effect without TLS is not there.
fn speaks_no_tls(cluster: &Cluster, path: &FieldPath<'_>) -> Outcome<()> {
    let path = path.field("health_checks");
    for (index, check) in cluster.health_checks.iter().enumerate() {
        let mut options = check.tls_options.iter();
        if options.any(|options| !options.alpn_protocols.is_empty()) {
            let path = path.index(index);
            let path = path.field("tls_options");
            return Err(path
                .field("alpn_protocols")
                .error("does nothing for a cluster without TLS"));
        }
    }
    Ok(())
}

fn socket(cluster: &Cluster, path: &FieldPath<'_>) -> Outcome<SocketOptions> {
    let mut socket = SocketOptions::default();
    if let Some(options) = &cluster.upstream_connection_options {
        let path = path.field("upstream_connection_options");
        socket.keepalive =
            address::keepalive(options.tcp_keepalive.as_ref(), &path.field("tcp_keepalive"))?;
    }
    if let Some(bind) = &cluster.upstream_bind_config {
        let path = path.field("upstream_bind_config");
        if let Some(source) = &bind.source_address {
            let source = address::socket_addr(source, &path.field("source_address"))?;
            socket.bind = Some(source);
        }
        socket.raw = address::socket_options(&bind.socket_options, &path.field("socket_options"))?;
    }
    Ok(socket)
}

fn thresholds(
    breakers: Option<&CircuitBreakers>,
    path: &FieldPath<'_>,
) -> Outcome<[Thresholds; 2]> {
    let mut thresholds = [Thresholds::default(); 2];
    let Some(breakers) = breakers else {
        return Ok(thresholds);
    };
    let path = path.field("circuit_breakers");
    let path = path.field("thresholds");
    let mut given = [false; 2];
    for (index, message) in breakers.thresholds.iter().enumerate() {
        let path = path.index(index);
        let place = match RoutingPriority::try_from(message.priority) {
            Ok(RoutingPriority::Default) => 0,
            Ok(RoutingPriority::High) => 1,
            Err(_) => return Err(path.field("priority").error("is not known")),
        };
        if std::mem::replace(&mut given[place], true) {
            return Err(path
                .field("priority")
                .error("there are thresholds of this priority already"));
        }
        let defaults = Thresholds::default();
        thresholds[place] = Thresholds {
            max_connections: message.max_connections.unwrap_or(defaults.max_connections),
            max_pending_requests: message
                .max_pending_requests
                .unwrap_or(defaults.max_pending_requests),
            max_requests: message.max_requests.unwrap_or(defaults.max_requests),
            max_retries: message.max_retries.unwrap_or(defaults.max_retries),
            track_remaining: message.track_remaining,
        };
    }
    Ok(thresholds)
}

fn balancer(cluster: &Cluster, path: &FieldPath<'_>) -> Outcome<BalancerKind> {
    if let Some(policy) = &cluster.load_balancing_policy {
        return by_policy(policy, &path.field("load_balancing_policy"));
    }
    match LbPolicy::try_from(cluster.lb_policy) {
        Ok(LbPolicy::RoundRobin) => Ok(BalancerKind::RoundRobin),
        Ok(LbPolicy::Random) => Ok(BalancerKind::Random),
        Ok(LbPolicy::LeastRequest) => {
            let count = match &cluster.lb_config {
                Some(LbConfig::LeastRequestLbConfig(config)) => config.choice_count,
                _ => None,
            };
            least_request(count, &path.field("least_request_lb_config"))
        }
        Ok(LbPolicy::LoadBalancingPolicyConfig) => {
            Err(path.field("load_balancing_policy").error("is required"))
        }
        _ => Err(path
            .field("lb_policy")
            .error("is not supported by Moorgate")),
    }
}

/// The first policy of the list: every one that gets here is supported.
fn by_policy(policy: &LoadBalancingPolicy, path: &FieldPath<'_>) -> Outcome<BalancerKind> {
    let path = path.field("policies");
    let Some(policy) = policy.policies.first() else {
        return Err(path.error("is empty"));
    };
    let path = path.index(0);
    let path = path.field("typed_extension_config");
    let config = present(policy.typed_extension_config.as_ref(), &path)?;
    let path = path.field("typed_config");
    let any = present(config.typed_config.as_ref(), &path)?;
    let found = packed_type(any, &path)?;
    if found == LeastRequest::full_name() {
        let config: LeastRequest = unpack(any, &path)?;
        return least_request(config.choice_count, &path);
    }
    if found == Random::full_name() {
        return check::<Random>(any, &path).map(|()| BalancerKind::Random);
    }
    check::<RoundRobin>(any, &path).map(|()| BalancerKind::RoundRobin)
}

/// The value is a message of this type.
fn check<M: Message + Name + Default>(
    any: &moorgate_protos::Any,
    path: &FieldPath<'_>,
) -> Outcome<()> {
    unpack::<M>(any, path).map(drop)
}

fn least_request(choice_count: Option<u32>, path: &FieldPath<'_>) -> Outcome<BalancerKind> {
    match choice_count.unwrap_or(2) {
        0 | 1 => Err(path.field("choice_count").error("has to be 2 or more")),
        choices => Ok(BalancerKind::LeastRequest { choices }),
    }
}

fn discovery(
    cluster: &Cluster,
    kind: DiscoveryType,
    assignment: &ClusterLoadAssignment,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<(Discovery, Vec<Endpoint>)> {
    let by_name = match kind {
        DiscoveryType::Static => false,
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => true,
        _ => return Err(path.field("type").error("is not supported by Moorgate")),
    };
    let at = path.field("load_assignment");
    super::required(&assignment.cluster_name, &at.field("cluster_name"))?;
    let hosts = hosts(assignment, by_name, &at)?;
    if !by_name {
        let endpoints = hosts.into_iter().filter_map(Found::endpoint).collect();
        return Ok((Discovery::Static, endpoints));
    }
    let names: Vec<_> = hosts.into_iter().filter_map(Found::name).collect();
    if kind == DiscoveryType::LogicalDns && names.len() != 1 {
        return Err(at
            .field("endpoints")
            .error("a cluster of type LOGICAL_DNS has one endpoint"));
    }
    let source = Arc::new(dns_source(cluster, names, context, path)?);
    let discovery = match kind {
        DiscoveryType::LogicalDns => Discovery::LogicalDns(source),
        _ => Discovery::StrictDns(source),
    };
    Ok((discovery, Vec::new()))
}

fn dns_source(
    cluster: &Cluster,
    names: Vec<DnsName>,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<DnsSource> {
    let defaults = DnsSource::default();
    let fields = DnsFields {
        typed: cluster.typed_dns_resolver_config.as_ref(),
        config: cluster.dns_resolution_config.as_ref(),
        resolvers: &cluster.dns_resolvers,
        tcp_only: cluster.use_tcp_for_dns_lookups,
    };
    let dns = dns(&fields, &context.dns, path)?;
    let failure_refresh_ms = match &cluster.dns_failure_refresh_rate {
        None => None,
        Some(rate) => {
            let path = path.field("dns_failure_refresh_rate");
            let base = time::required(rate.base_interval.as_ref(), &path.field("base_interval"))?;
            let path = path.field("max_interval");
            let max =
                time::positive_or(rate.max_interval.as_ref(), base.saturating_mul(10), &path)?;
            if max < base {
                return Err(path.error("is less than base_interval"));
            }
            Some((base, max))
        }
    };
    Ok(DnsSource {
        names,
        refresh_ms: time::positive_or(
            cluster.dns_refresh_rate.as_ref(),
            defaults.refresh_ms,
            &path.field("dns_refresh_rate"),
        )?,
        failure_refresh_ms,
        jitter_ms: time::or(
            cluster.dns_jitter.as_ref(),
            defaults.jitter_ms,
            &path.field("dns_jitter"),
        )?,
        respect_ttl: cluster.respect_dns_ttl,
        min_refresh_ms: defaults.min_refresh_ms,
        family: match DnsLookupFamily::try_from(cluster.dns_lookup_family) {
            Ok(DnsLookupFamily::Auto) => DnsFamily::Auto,
            Ok(DnsLookupFamily::V4Only) => DnsFamily::V4Only,
            Ok(DnsLookupFamily::V6Only) => DnsFamily::V6Only,
            Ok(DnsLookupFamily::V4Preferred) => DnsFamily::V4Preferred,
            Ok(DnsLookupFamily::All) => DnsFamily::All,
            Err(_) => return Err(path.field("dns_lookup_family").error("is not known")),
        },
        resolvers: dns.resolvers,
        tcp_only: dns.tcp_only,
        no_search: dns.no_search,
    })
}

/// A host of a load assignment.
struct Found {
    remote: Remote,
    hostname: String,
    weight: u32,
    priority: u32,
    flags: u32,
    health_target: HealthTarget,
}

impl Found {
    fn endpoint(self) -> Option<Endpoint> {
        match self.remote {
            Remote::Addr(addr) => Some(Endpoint {
                addr,
                hostname: self.hostname,
                weight: self.weight,
                priority: self.priority,
                flags: self.flags,
                health_target: self.health_target,
            }),
            Remote::Name(..) => None,
        }
    }

    fn name(self) -> Option<DnsName> {
        match self.remote {
            Remote::Name(host, port) => Some(DnsName {
                host,
                port,
                weight: self.weight,
                priority: self.priority,
                hostname: self.hostname,
                health_target: self.health_target,
            }),
            Remote::Addr(_) => None,
        }
    }
}

fn hosts(
    assignment: &ClusterLoadAssignment,
    by_name: bool,
    path: &FieldPath<'_>,
) -> Outcome<Vec<Found>> {
    let path = path.field("endpoints");
    let mut found = Vec::new();
    for (index, locality) in assignment.endpoints.iter().enumerate() {
        let path = path.index(index);
        if locality.priority > MAX_PRIORITY {
            return Err(path
                .field("priority")
                .error(format!("is above {MAX_PRIORITY}")));
        }
        let path = path.field("lb_endpoints");
        for (index, endpoint) in locality.lb_endpoints.iter().enumerate() {
            let path = path.index(index);
            found.push(host(endpoint, locality.priority, by_name, &path)?);
        }
    }
    Ok(found)
}

fn host(
    message: &LbEndpoint,
    priority: u32,
    by_name: bool,
    path: &FieldPath<'_>,
) -> Outcome<Found> {
    let weight = message.load_balancing_weight.unwrap_or(1);
    if weight == 0 {
        return Err(path.field("load_balancing_weight").error("is 0"));
    }
    let status = path.field("health_status");
    let flags = match HealthStatus::try_from(message.health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => 0,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => Host::FAILED_EDS_HEALTH,
        Ok(HealthStatus::Draining) => Host::EDS_STATUS_DRAINING,
        Ok(HealthStatus::Degraded) => Host::DEGRADED_EDS_HEALTH,
        Err(_) => return Err(status.error("is not known")),
    };
    if by_name && flags != 0 {
        return Err(status.error("is for clusters of type STATIC"));
    }
    let path = path.field("endpoint");
    let endpoint = match &message.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        _ => return Err(path.error("is required")),
    };
    Ok(Found {
        remote: address::remote(endpoint.address.as_ref(), by_name, &path.field("address"))?,
        hostname: endpoint.hostname.clone(),
        weight,
        priority,
        flags,
        health_target: health_target(endpoint, &path)?,
    })
}

fn health_target(endpoint: &EndpointMessage, path: &FieldPath<'_>) -> Outcome<HealthTarget> {
    let Some(config) = &endpoint.health_check_config else {
        return Ok(HealthTarget::default());
    };
    let path = path.field("health_check_config");
    let mut port = match config.port_value {
        0 => None,
        port => Some(
            u16::try_from(port)
                .map_err(|_| path.field("port_value").error(format!("{port} is no port")))?,
        ),
    };
    let addr = match &config.address {
        None => None,
        Some(address) => {
            let path = path.field("address");
            let addr = address::ip(address, &path)?;
            if addr.port() != 0 {
                if port.is_some_and(|port| port != addr.port()) {
                    return Err(path.error("has another port than port_value"));
                }
                port = Some(addr.port());
            }
            Some(addr.ip())
        }
    };
    Ok(HealthTarget {
        port,
        addr,
        hostname: config.hostname.clone(),
        disabled: config.disable_active_health_check,
    })
}
