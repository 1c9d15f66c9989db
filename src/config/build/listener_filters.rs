//! `listener_filters`: what looks at a connection before its filter chain is chosen.

use moorgate_protos::Name;
use moorgate_protos::envoy::config::core::v3::proxy_protocol_config::Version;
use moorgate_protos::envoy::config::listener::v3::listener_filter::ConfigType;
use moorgate_protos::envoy::config::listener::v3::{Listener as Message, ListenerFilter as Filter};
use moorgate_protos::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use moorgate_protos::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use moorgate_protos::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol as Proxy;
use moorgate_protos::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;

use super::{Context, Outcome, required, time};
use crate::config::{FieldPath, packed_type, unpack};
use crate::proxy::config::{ListenerFilter, ListenerFilters, ProxyProtocol};
use crate::telemetry::stats::{
    HttpInspectorStats, ProxyProtocolStats, ProxyVersionStats, TlsInspectorStats,
};

/// `max_client_hello_size` where it is not set, and the most it may be.
const MAX_HELLO: u32 = 16 * 1024;
/// `listener_filters_timeout` where it is not set.
const TIMEOUT_MS: u64 = 15_000;

pub(super) fn build(
    message: &Message,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Option<Box<ListenerFilters>>> {
    let at = path.field("listener_filters");
    let filters = message.listener_filters.iter().enumerate();
    let list = filters
        .map(|(index, filter)| one(filter, context, &at.index(index)))
        .collect::<Outcome<Vec<_>>>()?;
    let timeout_ms = time::or(
        message.listener_filters_timeout.as_ref(),
        TIMEOUT_MS,
        &path.field("listener_filters_timeout"),
    )?;
    Ok((!list.is_empty()).then(|| {
        Box::new(ListenerFilters {
            list,
            timeout_ms,
            continue_on_timeout: message.continue_on_listener_filters_timeout,
        })
    }))
}

fn one(message: &Filter, context: &Context<'_>, path: &FieldPath<'_>) -> Outcome<ListenerFilter> {
    required(&message.name, &path.field("name"))?;
    let path = path.field("typed_config");
    let any = match &message.config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        _ => return Err(path.error("is required")),
    };
    let name = packed_type(any, &path)?;
    if name == TlsInspector::full_name() {
        tls(&unpack(any, &path)?, context, &path)
    } else if name == HttpInspector::full_name() {
        let HttpInspector {} = unpack(any, &path)?;
        let stats = HttpInspectorStats::new(&**context.builder.names, "http_inspector.");
        Ok(ListenerFilter::Http { stats })
    } else if name == OriginalDst::full_name() {
        let OriginalDst {} = unpack(any, &path)?;
        Ok(ListenerFilter::OriginalDst)
    } else {
        let proxy = proxy(&unpack(any, &path)?, context, &path)?;
        Ok(ListenerFilter::Proxy(proxy))
    }
}

fn tls(
    message: &TlsInspector,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<ListenerFilter> {
    let max_hello = message.max_client_hello_size.unwrap_or(MAX_HELLO);
    if !(1..=MAX_HELLO).contains(&max_hello) {
        return Err(path
            .field("max_client_hello_size")
            .error(format!("has to be between 1 and {MAX_HELLO}")));
    }
    Ok(ListenerFilter::Tls {
        max_hello: max_hello as usize,
        close_on_errors: message.close_connection_on_client_hello_parsing_errors,
        stats: TlsInspectorStats::new(&**context.builder.names, "tls_inspector."),
    })
}

fn proxy(message: &Proxy, context: &Context<'_>, path: &FieldPath<'_>) -> Outcome<ProxyProtocol> {
    let names = &**context.builder.names;
    let prefix = match message.stat_prefix.as_str() {
        "" => "proxy_proto.".to_owned(),
        prefix => format!("proxy_proto.{prefix}."),
    };
    let mut versions = [true; 2];
    let path = path.field("disallowed_versions");
    for (index, version) in message.disallowed_versions.iter().enumerate() {
        match Version::try_from(*version) {
            Ok(Version::V1) => versions[0] = false,
            Ok(Version::V2) => versions[1] = false,
            Err(_) => return Err(path.index(index).error("is not known")),
        }
    }
    let of = |version: &str| ProxyVersionStats::new(names, &format!("{prefix}versions.{version}."));
    Ok(ProxyProtocol {
        optional: message.allow_requests_without_proxy_protocol,
        versions,
        stats: ProxyProtocolStats::new(names, &prefix),
        version_stats: [of("v1"), of("v2")],
        errors: names.counter("downstream_cx_proxy_proto_error"),
    })
}
