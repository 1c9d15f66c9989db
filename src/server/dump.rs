//! The configuration in force, as `/config_dump` shows it.
//!
//! It is kept as its encoded bytes: a dump is rare, and a decoded one of many clusters is large.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use moorgate_protos::envoy::config::bootstrap::v3::Bootstrap;
use moorgate_protos::envoy::config::listener::v3::Listener;
use moorgate_protos::envoy::config::listener::v3::filter::ConfigType;
use moorgate_protos::envoy::config::route::v3::RouteConfiguration;
use moorgate_protos::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use moorgate_protos::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use moorgate_protos::prost_types::{Any, Timestamp};
use moorgate_protos::{Message, Name};

use crate::admin::{Field, Item, Section};
use crate::config::{FieldPath, JsonWriter, unpack};

/// One configuration.
#[derive(Debug, Default)]
pub(super) struct Dump {
    bytes: Vec<u8>,
    loaded: Timestamp,
}

impl Dump {
    /// The configuration that takes effect now.
    pub(super) fn new(bootstrap: &Bootstrap) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = since.unwrap_or_default();
        Self {
            bytes: bootstrap.encode_to_vec(),
            loaded: Timestamp {
                seconds: since.as_secs() as i64,
                // Envoy's have milliseconds.
                nanos: (since.subsec_millis() * 1_000_000) as i32,
            },
        }
    }

    fn bootstrap(&self) -> Bootstrap {
        // They were encoded from such a message.
        Bootstrap::decode(self.bytes.as_slice()).unwrap_or_default()
    }

    /// The listeners, encoded, by their names; one without a name goes by its address.
    pub(super) fn listeners(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let resources = self.bootstrap().static_resources.unwrap_or_default();
        let pairs = resources.listeners.iter().map(|listener| {
            let name = match &listener.address {
                Some(address) if listener.name.is_empty() => address.encode_to_vec(),
                _ => listener.name.clone().into_bytes(),
            };
            (name, listener.encode_to_vec())
        });
        pairs.collect()
    }

    /// The sections that Envoy has for it, in Envoy's order.
    pub(super) fn sections(&self) -> Vec<Section> {
        let bootstrap = self.bootstrap();
        let writer = JsonWriter::open();
        let loaded = writer.write(&self.loaded).unwrap_or_default();
        let loaded = loaded.trim();
        let resources = bootstrap.static_resources.clone().unwrap_or_default();
        let item = |name: &str, field: &str, any: Any| Item {
            name: name.to_owned(),
            json: format!(
                "{{\"{field}\": {}, \"last_updated\": {loaded}}}",
                writer.write(&any).unwrap_or_default()
            ),
        };
        let clusters = resources.clusters.iter();
        let clusters = clusters.map(|cluster| item(&cluster.name, "cluster", packed(cluster)));
        let listeners = resources.listeners.iter();
        let listeners = listeners.map(|it| item(&it.name, "listener", packed(it)));
        let routes = resources.listeners.iter().flat_map(route_configs);
        let routes = routes.map(|routes| item(&routes.name, "route_config", packed(&routes)));
        let many = |message, field, element, items: Vec<Item>| Section {
            message,
            fields: vec![(field, Field::Many { element, items })],
        };
        vec![
            Section {
                message: "envoy.admin.v3.BootstrapConfigDump",
                fields: vec![
                    (
                        "bootstrap",
                        Field::One(writer.write(&bootstrap).unwrap_or_default()),
                    ),
                    ("last_updated", Field::One(loaded.to_owned())),
                ],
            },
            many(
                "envoy.admin.v3.ClustersConfigDump",
                "static_clusters",
                "StaticCluster",
                clusters.collect(),
            ),
            many(
                "envoy.admin.v3.ListenersConfigDump",
                "static_listeners",
                "StaticListener",
                listeners.collect(),
            ),
            Section {
                message: "envoy.admin.v3.ScopedRoutesConfigDump",
                fields: Vec::new(),
            },
            many(
                "envoy.admin.v3.RoutesConfigDump",
                "static_route_configs",
                "StaticRouteConfig",
                routes.collect(),
            ),
            Section {
                message: "envoy.admin.v3.SecretsConfigDump",
                fields: Vec::new(),
            },
        ]
    }
}

fn packed<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// The routes in a listener's connection managers.
fn route_configs(listener: &Listener) -> Vec<RouteConfiguration> {
    let chains = listener.filter_chains.iter();
    let filters = chains
        .chain(&listener.default_filter_chain)
        .flat_map(|chain| &chain.filters);
    let managers = filters.filter_map(|filter| match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => {
            unpack::<HttpConnectionManager>(any, &FieldPath::root("")).ok()
        }
        _ => None,
    });
    managers
        .filter_map(|manager| match manager.route_specifier {
            Some(RouteSpecifier::RouteConfig(routes)) => Some(routes),
            _ => None,
        })
        .collect()
}
