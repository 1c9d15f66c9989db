//! Listeners, filter chains and `tcp_proxy`.

use std::collections::HashSet;
use std::sync::Arc;

use moorgate_protos::Name;
use moorgate_protos::envoy::config::listener::v3::filter::ConfigType;
use moorgate_protos::envoy::config::listener::v3::{
    FilterChain as FilterChainMessage, Listener as Message,
};
use moorgate_protos::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use moorgate_protos::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy as TcpMessage;
use moorgate_protos::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;

use super::address::{self, Local};
use super::intern::{ChainName, FilterKind};
use super::{
    Context, Outcome, access_log, chain_match, http, listener_filters, present, required, time, tls,
};
use crate::config::{FieldPath, packed_type, unpack};
use crate::engine::reactor::{ListenOptions, SocketOptions};
use crate::proxy::config::{FilterChain, Listener, ListenerId, NetworkFilter, TcpProxy};
use crate::route::ClusterName;
use crate::telemetry::stats::{ListenerStats, TcpStats};

/// `per_connection_buffer_limit_bytes` where it is not set.
const BUFFER_LIMIT: u32 = 1 << 20;

pub(super) fn build(
    message: &Message,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Listener> {
    let locals = addresses(message, path)?;
    let first = locals.first().map(|local| local.addr.to_string());
    let first = first.unwrap_or_default();
    let name = match message.name.as_str() {
        // Named by its address, so that it is the same after a reload.
        "" => first.clone(),
        name => name.to_owned(),
    };
    let id = context.builder.ids.listener(&name);
    let stat_prefix = match message.stat_prefix.as_str() {
        "" => first.replace(':', "_"),
        prefix => prefix.to_owned(),
    };
    let keepalive =
        address::keepalive(message.tcp_keepalive.as_ref(), &path.field("tcp_keepalive"))?;
    Ok(Listener {
        id,
        options: listen_options(message, &locals, path)?,
        socket: SocketOptions {
            keepalive,
            ..SocketOptions::default()
        },
        buffer_limit: message
            .per_connection_buffer_limit_bytes
            .unwrap_or(BUFFER_LIMIT),
        ignore_global_conn_limit: message.ignore_global_conn_limit,
        chains: chains(message, id, &stat_prefix, context, path)?,
        chooser: chain_match::build(message, path)?,
        filters: listener_filters::build(message, context, path)?,
        stats: ListenerStats::new(
            &**context.builder.names,
            &format!("listener.{stat_prefix}."),
        ),
        addresses: locals.into_iter().map(|local| local.addr).collect(),
        name,
    })
}

fn addresses(message: &Message, path: &FieldPath<'_>) -> Outcome<Vec<Local>> {
    let mut locals = vec![address::local(
        message.address.as_ref(),
        &path.field("address"),
    )?];
    let path = path.field("additional_addresses");
    for (index, additional) in message.additional_addresses.iter().enumerate() {
        let path = path.index(index);
        let path = path.field("address");
        let local = address::local(additional.address.as_ref(), &path)?;
        if locals.iter().any(|other| other.addr == local.addr) {
            return Err(path.error("is an address of this listener already"));
        }
        // A listener has one set of options for all of its sockets.
        let differs = |of: fn(&Local) -> Option<u32>| {
            let mine = of(&local);
            let other = locals.iter().find_map(of);
            mine.is_some() && other.is_some() && mine != other
        };
        if differs(|local| local.ipv4_compat.map(u32::from)) {
            return Err(path
                .field("socket_address")
                .field("ipv4_compat")
                .error("has to be the same on all addresses of a listener"));
        }
        if differs(|local| local.unix_mode) {
            return Err(path
                .field("pipe")
                .field("mode")
                .error("has to be the same on all addresses of a listener"));
        }
        locals.push(local);
    }
    Ok(locals)
}

fn listen_options(
    message: &Message,
    locals: &[Local],
    path: &FieldPath<'_>,
) -> Outcome<ListenOptions> {
    let defaults = ListenOptions::default();
    let raw = address::socket_options(&message.socket_options, &path.field("socket_options"))?;
    Ok(ListenOptions {
        backlog: message.tcp_backlog_size.unwrap_or(defaults.backlog),
        reuse_port: message.enable_reuse_port.unwrap_or(true) || message.reuse_port,
        ipv4_compat: locals.iter().any(|local| local.ipv4_compat == Some(true)),
        unix_mode: locals.iter().find_map(|local| local.unix_mode),
        socket: SocketOptions {
            raw,
            ..SocketOptions::default()
        },
    })
}

fn chains(
    message: &Message,
    listener: ListenerId,
    stat_prefix: &str,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Vec<Arc<FilterChain>>> {
    let list = path.field("filter_chains");
    let mut chains = Vec::new();
    let mut named = HashSet::new();
    for (index, chain) in message.filter_chains.iter().enumerate() {
        let path = list.index(index);
        // Envoy lets two chains have one name. Connections are told apart by it, so only the first has it.
        let place = match chain.name.as_str() {
            name if !name.is_empty() && named.insert(name) => ChainName::Named(name.to_owned()),
            _ => ChainName::At(index),
        };
        chains.push(build_chain(
            chain,
            place,
            (listener, stat_prefix),
            context,
            &path,
        )?);
    }
    if let Some(chain) = &message.default_filter_chain {
        let path = path.field("default_filter_chain");
        let place = match chain.name.as_str() {
            name if !name.is_empty() && named.insert(name) => ChainName::Named(name.to_owned()),
            _ => ChainName::Default,
        };
        chains.push(build_chain(
            chain,
            place,
            (listener, stat_prefix),
            context,
            &path,
        )?);
    }
    if chains.is_empty() {
        return Err(list.error("a listener has to have a filter chain"));
    }
    Ok(chains)
}

fn build_chain(
    message: &FilterChainMessage,
    place: ChainName,
    (listener, stat_prefix): (ListenerId, &str),
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Arc<FilterChain>> {
    let timeout = time::or(
        message.transport_socket_connect_timeout.as_ref(),
        0,
        &path.field("transport_socket_connect_timeout"),
    )?;
    let tls = tls::downstream(
        message.transport_socket.as_ref(),
        timeout,
        &format!("listener.{stat_prefix}."),
        context,
        &path.field("transport_socket"),
    )?;
    let filters = path.field("filters");
    let [filter] = message.filters.as_slice() else {
        return Err(filters.error("has to have one filter, and that ends the chain"));
    };
    let path = filters.index(0);
    required(&filter.name, &path.field("name"))?;
    let path = path.field("typed_config");
    let any = match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        _ => return Err(path.error("is required")),
    };
    let (filter, kind) = if packed_type(any, &path)? == TcpMessage::full_name() {
        let tcp = tcp_proxy(&unpack(any, &path)?, context, &path)?;
        (NetworkFilter::Tcp(Arc::new(tcp)), FilterKind::Tcp)
    } else {
        let manager: HttpConnectionManager = unpack(any, &path)?;
        let http = http::build(&manager, tls.is_some(), context, &path)?;
        (NetworkFilter::Http(Arc::new(http)), FilterKind::Http)
    };
    Ok(Arc::new(FilterChain {
        id: context.builder.ids.chain(listener, place, kind),
        name: message.name.clone(),
        tls,
        filter,
    }))
}

fn tcp_proxy(
    message: &TcpMessage,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<TcpProxy> {
    let stat_prefix = required(&message.stat_prefix, &path.field("stat_prefix"))?;
    let max_connect_attempts = message.max_connect_attempts.unwrap_or(1);
    if max_connect_attempts == 0 {
        return Err(path
            .field("max_connect_attempts")
            .error("has to be 1 or more"));
    }
    Ok(TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        clusters: tcp_clusters(message, context, path)?,
        idle_timeout_ms: time::or(
            message.idle_timeout.as_ref(),
            3_600_000,
            &path.field("idle_timeout"),
        )?,
        max_connect_attempts,
        max_connection_duration_ms: match time::optional(
            message.max_downstream_connection_duration.as_ref(),
            &path.field("max_downstream_connection_duration"),
        )? {
            Some(0) => {
                return Err(path
                    .field("max_downstream_connection_duration")
                    .error("has to be greater than 0 s"));
            }
            duration => duration.unwrap_or(0),
        },
        stats: TcpStats::new(&**context.builder.names, &format!("tcp.{stat_prefix}.")),
        access_logs: access_log::build(&message.access_log, context, &path.field("access_log"))?,
    })
}

/// Clusters with cumulative weights.
fn tcp_clusters(
    message: &TcpMessage,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Vec<(ClusterName, u64)>> {
    match present(message.cluster_specifier.as_ref(), &path.field("cluster"))? {
        ClusterSpecifier::Cluster(name) => {
            let path = path.field("cluster");
            Ok(vec![(
                context.known_cluster(required(name, &path)?, &path)?,
                1,
            )])
        }
        ClusterSpecifier::WeightedClusters(weighted) => {
            let path = path.field("weighted_clusters");
            let path = path.field("clusters");
            if weighted.clusters.is_empty() {
                return Err(path.error("is empty"));
            }
            let mut total = 0;
            let clusters = weighted.clusters.iter().enumerate();
            let clusters = clusters.map(|(index, cluster)| {
                let path = path.index(index);
                if cluster.weight == 0 {
                    return Err(path.field("weight").error("has to be 1 or more"));
                }
                total += u64::from(cluster.weight);
                let path = path.field("name");
                let name = context.known_cluster(required(&cluster.name, &path)?, &path)?;
                Ok((name, total))
            });
            clusters.collect()
        }
    }
}
