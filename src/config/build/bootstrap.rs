//! The bootstrap: static resources, admin, node, limits, DNS.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use moorgate_protos::envoy::config::bootstrap::v3::Bootstrap;
use moorgate_protos::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use moorgate_protos::envoy::config::core::v3::{Address, DnsResolutionConfig, DnsResolverOptions};
use moorgate_protos::envoy::config::core::v3::{Node as NodeMessage, TypedExtensionConfig};
use moorgate_protos::envoy::config::overload::v3::OverloadManager;
use moorgate_protos::envoy::config::overload::v3::resource_monitor::ConfigType;
use moorgate_protos::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use moorgate_protos::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use moorgate_protos::prost_types::value::Kind;

use super::{Admin, Builder, Built, Context, Dns, Node, Outcome, access_log, address, present};
use crate::config::{FieldPath, to_json, unpack};
use crate::engine::reactor::Addr;

/// The runtime key that limits downstream connections.
const MAX_CONNECTIONS: &str = "overload.global_downstream_max_connections";

pub(super) fn build(
    bootstrap: &Bootstrap,
    builder: &Builder<'_>,
    root: &FieldPath<'_>,
) -> Outcome<Built> {
    let nothing = Default::default();
    let resources = bootstrap.static_resources.as_ref().unwrap_or(&nothing);
    let path = root.field("static_resources");
    let mut context = Context {
        builder,
        clusters: HashSet::new(),
        dns: dns(
            &DnsFields {
                typed: bootstrap.typed_dns_resolver_config.as_ref(),
                config: bootstrap.dns_resolution_config.as_ref(),
                resolvers: &[],
                tcp_only: bootstrap.use_tcp_for_dns_lookups,
            },
            &Dns::default(),
            root,
        )?,
        watches: RefCell::default(),
    };
    let clusters = path.field("clusters");
    for (index, cluster) in resources.clusters.iter().enumerate() {
        let path = clusters.index(index);
        let name = super::required(&cluster.name, &path.field("name"))?;
        if !context.clusters.insert(name) {
            return Err(path
                .field("name")
                .error(format!("there are two clusters '{name}'")));
        }
    }
    let definitions = resources.clusters.iter().enumerate();
    let definitions = definitions
        .map(|(index, cluster)| super::cluster::build(cluster, &context, &clusters.index(index)))
        .collect::<Outcome<Vec<_>>>()?;
    let path = path.field("listeners");
    let mut names = HashSet::new();
    let mut addresses: HashMap<Addr, String> = HashMap::new();
    let mut listeners = Vec::new();
    for (index, listener) in resources.listeners.iter().enumerate() {
        let path = path.index(index);
        let listener = super::listener::build(listener, &context, &path)?;
        if !names.insert(listener.name.clone()) {
            let name = &listener.name;
            return Err(path
                .field("name")
                .error(format!("there are two listeners '{name}'")));
        }
        for addr in &listener.addresses {
            // Port 0 is another port each time.
            if matches!(addr, Addr::Ip(addr) if addr.port() == 0) {
                continue;
            }
            if let Some(other) = addresses.insert(addr.clone(), listener.name.clone()) {
                return Err(path
                    .field("address")
                    .error(format!("{addr} is also an address of listener '{other}'")));
            }
        }
        listeners.push(std::sync::Arc::new(listener));
    }
    let admin = match &bootstrap.admin {
        Some(admin) if admin.address.is_some() => {
            let path = root.field("admin");
            let local = address::local(admin.address.as_ref(), &path.field("address"))?;
            let mut access_logs =
                access_log::build(&admin.access_log, &context, &path.field("access_log"))?;
            if !admin.access_log_path.is_empty() {
                let path = path.field("access_log_path");
                access_logs.push(access_log::plain(&admin.access_log_path, &context, &path)?);
            }
            Some(Admin {
                addr: local.addr,
                unix_mode: local.unix_mode,
                access_logs,
            })
        }
        _ => None,
    };
    Ok(Built {
        definitions,
        listeners,
        admin,
        max_connections: max_connections(bootstrap, root)?,
        node: node(bootstrap.node.as_ref(), builder, root)?,
        watches: context.watches.into_inner(),
    })
}

fn node(node: Option<&NodeMessage>, builder: &Builder<'_>, root: &FieldPath<'_>) -> Outcome<Node> {
    let or = |text: &str, other: &str| if text.is_empty() { other } else { text }.to_owned();
    let mut message = node.cloned().unwrap_or_default();
    message.id = or(&message.id, builder.options.service_node);
    message.cluster = or(&message.cluster, builder.options.service_cluster);
    let zone = message.locality.as_ref().map_or("", |at| at.zone.as_str());
    if zone.is_empty() && !builder.options.service_zone.is_empty() {
        let zone = builder.options.service_zone.to_owned();
        message.locality.get_or_insert_default().zone = zone;
    }
    let is_there = node.is_some() || message != NodeMessage::default();
    let json = match is_there {
        true => Some(to_json(&message).map_err(|_| root.field("node").error("is malformed"))?),
        false => None,
    };
    Ok(Node {
        id: message.id,
        cluster: message.cluster,
        json,
    })
}

/// The limit of the overload manager; without one, that of the runtime.
fn max_connections(bootstrap: &Bootstrap, root: &FieldPath<'_>) -> Outcome<u64> {
    let by_overload = match &bootstrap.overload_manager {
        Some(manager) => by_overload_manager(manager, &root.field("overload_manager"))?,
        None => None,
    };
    let by_runtime = by_runtime(bootstrap, root)?;
    Ok(by_overload.or(by_runtime).unwrap_or(0))
}

fn by_overload_manager(manager: &OverloadManager, path: &FieldPath<'_>) -> Outcome<Option<u64>> {
    let path = path.field("resource_monitors");
    let mut limit = None;
    for (index, monitor) in manager.resource_monitors.iter().enumerate() {
        let path = path.index(index);
        super::required(&monitor.name, &path.field("name"))?;
        if limit.is_some() {
            return Err(path.error("there is one of this kind already"));
        }
        let path = path.field("typed_config");
        let ConfigType::TypedConfig(any) = present(monitor.config_type.as_ref(), &path)?;
        let config: DownstreamConnectionsConfig = unpack(any, &path)?;
        let value = config.max_active_downstream_connections;
        match u64::try_from(value) {
            Ok(value) if value > 0 => limit = Some(value),
            _ => {
                return Err(path
                    .field("max_active_downstream_connections")
                    .error("has to be greater than 0"));
            }
        }
    }
    Ok(limit)
}

/// Later layers go before earlier ones.
fn by_runtime(bootstrap: &Bootstrap, root: &FieldPath<'_>) -> Outcome<Option<u64>> {
    let Some(runtime) = &bootstrap.layered_runtime else {
        return Ok(None);
    };
    let path = root.field("layered_runtime");
    let path = path.field("layers");
    let mut limit = None;
    let mut names = HashSet::new();
    for (index, layer) in runtime.layers.iter().enumerate() {
        let path = path.index(index);
        let name = super::required(&layer.name, &path.field("name"))?;
        if !names.insert(name) {
            return Err(path
                .field("name")
                .error(format!("there are two layers '{name}'")));
        }
        let Some(LayerSpecifier::StaticLayer(layer)) = &layer.layer_specifier else {
            continue;
        };
        let path = path.field("static_layer");
        let Some(value) = layer.fields.get(MAX_CONNECTIONS) else {
            continue;
        };
        let number = match &value.kind {
            Some(Kind::NumberValue(number)) => Some(*number),
            Some(Kind::StringValue(text)) => text.parse::<f64>().ok(),
            _ => None,
        };
        // Exact up to 2^53, which is more connections than there can be.
        match number {
            Some(number) if number >= 0.0 && number.fract() == 0.0 && number < 9e15 => {
                limit = Some(number as u64);
            }
            _ => {
                return Err(path
                    .key(MAX_CONNECTIONS)
                    .error("is no number of connections"));
            }
        }
    }
    Ok(limit)
}

/// The fields about DNS that the bootstrap and clusters share.
pub(super) struct DnsFields<'a> {
    pub(super) typed: Option<&'a TypedExtensionConfig>,
    pub(super) config: Option<&'a DnsResolutionConfig>,
    pub(super) resolvers: &'a [Address],
    pub(super) tcp_only: bool,
}

/// Resolver settings: the newest field that is set wins, as in Envoy; without any, those around.
pub(super) fn dns(fields: &DnsFields<'_>, around: &Dns, path: &FieldPath<'_>) -> Outcome<Dns> {
    let servers = |list: &[Address], path: &FieldPath<'_>| {
        let list = list.iter().enumerate();
        list.map(|(index, server)| {
            let mut server = address::ip(server, &path.index(index))?;
            if server.port() == 0 {
                server.set_port(53);
            }
            Ok(server)
        })
        .collect::<Outcome<Vec<_>>>()
    };
    let of = |resolvers, options: Option<&DnsResolverOptions>| Dns {
        resolvers,
        tcp_only: options.is_some_and(|options| options.use_tcp_for_dns_lookups),
        no_search: options.is_some_and(|options| options.no_default_search_domain),
    };
    if let Some(typed) = fields.typed {
        let path = path.field("typed_dns_resolver_config");
        let path = path.field("typed_config");
        let any = present(typed.typed_config.as_ref(), &path)?;
        let config: CaresDnsResolverConfig = unpack(any, &path)?;
        let servers = servers(&config.resolvers, &path.field("resolvers"))?;
        return Ok(of(servers, config.dns_resolver_options.as_ref()));
    }
    if let Some(config) = fields.config {
        let path = path.field("dns_resolution_config");
        let path = path.field("resolvers");
        let servers = servers(&config.resolvers, &path)?;
        return Ok(of(servers, config.dns_resolver_options.as_ref()));
    }
    if !fields.resolvers.is_empty() || fields.tcp_only {
        return Ok(Dns {
            resolvers: servers(fields.resolvers, &path.field("dns_resolvers"))?,
            tcp_only: fields.tcp_only,
            no_search: false,
        });
    }
    Ok(around.clone())
}
