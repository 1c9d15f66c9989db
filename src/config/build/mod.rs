//! From Envoy's messages to the plain types that the data path reads.
//!
//! Everything that can be wrong with a configuration comes out here, as a [`ConfigError`] that names
//! the field; what is built can be served. It opens files (access logs, bodies), but no socket, and
//! it changes nothing of a process that already serves: a configuration that is refused leaves no
//! trace but interned names.

#![allow(
    deprecated,
    reason = "fields that Envoy deprecates are in use, and mean what they meant"
)]

mod access_filter;
mod access_log;
mod address;
mod bootstrap;
mod chain_match;
mod cluster;
mod data;
mod headers;
mod health;
mod http;
mod http2;
mod intern;
mod listener;
mod listener_filters;
mod proxy_header;
mod route;
mod time;
mod tls;
mod upstream;
mod watch;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use moorgate_protos::envoy::config::bootstrap::v3::Bootstrap;

pub use intern::Interner;
pub use watch::{Checked, Watch};

use super::error::{ConfigError, FieldPath};
use crate::cluster::manager::{ClusterIds, Definition};
use crate::engine::reactor::Addr;
use crate::proxy::config::Listener;
use crate::route::ClusterName;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log_thread::Logs;
use crate::telemetry::stats::Names;

/// What a configuration is built with: the parts of the process that outlive it.
#[derive(Clone, Copy)]
pub struct Builder<'a> {
    /// Names of counters.
    pub names: &'a Arc<dyn Names + Send + Sync>,
    /// Numbers of listeners and filter chains.
    pub ids: &'a Interner,
    /// Numbers of clusters.
    pub clusters: &'a Arc<ClusterIds>,
    /// Opens the targets of access logs.
    pub logs: &'a Logs,
    /// What the command line adds.
    pub options: Options<'a>,
}

impl std::fmt::Debug for Builder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What a configuration is built with that no part of the process gives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// The file that errors name: [`ParsedBootstrap::file`](super::ParsedBootstrap::file).
    pub file: &'a str,
    /// `%HOSTNAME%` of access logs.
    pub hostname: &'a str,
    /// `--service-node`, in place of `node.id` when that is empty.
    pub service_node: &'a str,
    /// `--service-cluster`, in place of `node.cluster` when that is empty.
    pub service_cluster: &'a str,
    /// `--service-zone`, in place of `node.locality.zone` when that is empty.
    pub service_zone: &'a str,
    /// It is only looked at (`--mode validate`): nothing is written for it.
    pub dry: bool,
}

/// A configuration in the types of those who carry it out.
#[derive(Debug)]
pub struct Built {
    /// For [`Manager::set`](crate::cluster::manager::Manager::set), in the order of the file.
    pub definitions: Vec<Definition>,
    /// For the snapshot, in the order of the file.
    pub listeners: Vec<Arc<Listener>>,
    /// `None`: no admin interface.
    pub admin: Option<Admin>,
    /// Limit on downstream connections of the whole process; 0 is none.
    pub max_connections: u64,
    /// Who we are.
    pub node: Node,
    /// Files that are read again when something is moved into a directory.
    pub watches: Vec<Watch>,
}

/// The admin interface.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Address.
    pub addr: Addr,
    /// Permission bits of a Unix socket's path.
    pub unix_mode: Option<u32>,
    /// Access logs.
    pub access_logs: Vec<Arc<AccessLog>>,
}

/// `node`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `id`.
    pub id: String,
    /// `cluster`.
    pub cluster: String,
    /// The whole message as JSON, metadata and locality included; `None` when there is none.
    pub json: Option<String>,
}

/// Resolver settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Dns {
    /// Servers in place of those of /etc/resolv.conf, when there are any.
    resolvers: Vec<SocketAddr>,
    /// Ask over TCP only.
    tcp_only: bool,
    /// Take names as they are, without the search list.
    no_search: bool,
}

/// Builds a configuration.
///
/// # Errors
/// The first thing that cannot be served, by its field.
pub fn build(bootstrap: &Bootstrap, builder: &Builder<'_>) -> Result<Built, ConfigError> {
    let root = FieldPath::root(builder.options.file);
    bootstrap::build(bootstrap, builder, &root)
}

/// What is known while the parts of one configuration are built.
struct Context<'a> {
    builder: &'a Builder<'a>,
    /// Names of the clusters that this configuration defines.
    clusters: HashSet<&'a str>,
    /// How names are resolved where a cluster does not say otherwise.
    dns: Dns,
    watches: RefCell<Vec<Watch>>,
}

impl Context<'_> {
    /// The cluster of this name, which need not exist.
    fn cluster_name(&self, name: &str) -> ClusterName {
        ClusterName {
            id: self.builder.clusters.id(name),
            name: name.into(),
        }
    }

    /// The cluster of this name, which this configuration has to define.
    fn known_cluster(&self, name: &str, path: &FieldPath<'_>) -> Result<ClusterName, ConfigError> {
        if self.clusters.contains(name) {
            Ok(self.cluster_name(name))
        } else {
            Err(path.error(format!("there is no cluster '{name}'")))
        }
    }
}

type Outcome<T> = Result<T, ConfigError>;

/// Text that has to be there.
fn required<'t>(text: &'t str, path: &FieldPath<'_>) -> Outcome<&'t str> {
    if text.is_empty() {
        Err(path.error("is required"))
    } else {
        Ok(text)
    }
}

/// A message that has to be there.
fn present<'m, M>(message: Option<&'m M>, path: &FieldPath<'_>) -> Outcome<&'m M> {
    message.ok_or_else(|| path.error("is required"))
}
