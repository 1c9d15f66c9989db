//! The admin interface: what the process tells and does when an operator asks over HTTP.
//!
//! It runs on the control thread, never on a worker, and asks the server through [`AdminBackend`].
//! Paths, parameters and answers are Envoy's. What changes something needs POST. No client can hold
//! memory without a bound or keep the control thread from its other work.

mod clusters;
mod config_dump;
mod handlers;
mod info;
mod json;
mod logging;
mod prometheus;
mod request;
mod response;
mod server;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::engine::reactor::Addr;
use crate::server::cli::Options;
use crate::server::control::Turn;
use crate::server::log::Log;
use crate::telemetry::memory::Memory;
use crate::telemetry::registry::Registry;

pub use config_dump::{Field, Item, Section};
pub use handlers::handle;
pub use request::Request;
pub use response::Response;
pub use server::{Admin, Settings};

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// It serves.
    Live,
    /// It drains, or was told to fail health checks.
    Draining,
    /// Clusters are not ready.
    PreInitializing,
    /// Listeners are not ready.
    Initializing,
}

impl ServerState {
    /// The name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }

    /// The value of the gauge `server.state`.
    #[must_use]
    pub fn gauge(self) -> i64 {
        match self {
            Self::Live => 0,
            Self::Draining => 1,
            Self::PreInitializing => 2,
            Self::Initializing => 3,
        }
    }
}

/// A listener as `/listeners` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerInfo {
    /// Name.
    pub name: String,
    /// The addresses it is bound to, the main one first.
    pub addresses: Vec<Addr>,
}

/// What to drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Listeners stay open for the drain time, while clients are asked to leave.
    pub graceful: bool,
    /// Listeners stay open for ever; only clients are asked to leave.
    pub skip_exit: bool,
    /// Only listeners whose traffic direction is inbound.
    pub inbound_only: bool,
}

/// What the admin interface asks of the server.
pub trait AdminBackend {
    /// Names and values. Facts that are only known when asked for (uptime, memory) are set first.
    fn registry(&mut self) -> Arc<Registry>;

    /// Where the server is in its life.
    fn state(&self) -> ServerState;

    /// Time since the start.
    fn uptime(&self) -> Duration;

    /// The command line.
    fn options(&self) -> &Options;

    /// `node` of the configuration as JSON, when there is one.
    fn node(&self) -> Option<String>;

    /// All clusters there are.
    fn clusters(&self) -> Vec<Arc<Cluster>>;

    /// All listeners that are open.
    fn listeners(&self) -> Vec<ListenerInfo>;

    /// The configuration, in Envoy's sections and order.
    fn config(&self, include_eds: bool) -> Vec<Section>;

    /// Memory of the process.
    fn memory(&self) -> Memory;

    /// The application log, when there is one.
    fn log(&self) -> Option<&Log>;

    /// Readiness fails (or no longer does) whatever the state is.
    fn fail_health_checks(&mut self, fail: bool);

    /// Drains listeners.
    fn drain_listeners(&mut self, drain: Drain, turn: &mut Turn);

    /// Log files are closed and opened again.
    fn reopen_logs(&mut self);

    /// Ends the process.
    fn quit(&mut self, turn: &mut Turn);
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
