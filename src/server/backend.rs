//! What the admin interface, the signals and the sources of the control thread ask of the process.

use std::sync::Arc;
use std::time::Duration;

use super::control::{State, Turn};
use super::log::Log;
use super::process::Process;
use super::signals::{Request, SignalState};
use crate::admin::{AdminBackend, Drain, ListenerInfo, Section, ServerState};
use crate::cluster::Cluster;
use crate::cluster::manager::{ClusterState, Manager};
use crate::proxy::facts::Message;
use crate::server::cli::Options;
use crate::telemetry::memory::Memory;
use crate::telemetry::registry::Registry;

impl State for Process {
    fn turn_ended(&mut self, turn: &mut Turn) {
        if self.manager.take_dirty() {
            self.publish();
        }
        self.accept_when_warm();
        if self.workers_left == 0 {
            turn.stop();
        }
    }
}

impl ClusterState for Process {
    fn clusters(&mut self) -> &mut Manager {
        &mut self.manager
    }
}

impl SignalState for Process {
    fn signalled(&mut self, request: Request, turn: &mut Turn) {
        match request {
            Request::Terminate => self.terminate(turn),
            Request::Reload => self.reload(),
            Request::Reopen => self.reopen_logs(),
        }
    }
}

impl AdminBackend for Process {
    fn registry(&mut self) -> Arc<Registry> {
        self.refresh_gauges();
        Arc::clone(&self.registry)
    }

    fn state(&self) -> ServerState {
        if self.draining || self.health_failed {
            ServerState::Draining
        } else if !self.accepting {
            ServerState::PreInitializing
        } else {
            ServerState::Live
        }
    }

    fn uptime(&self) -> Duration {
        self.facts.uptime()
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn node(&self) -> Option<String> {
        self.node.clone()
    }

    fn clusters(&self) -> Vec<Arc<Cluster>> {
        let mut clusters: Vec<_> = self.manager.iter().cloned().collect();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        clusters
    }

    fn listeners(&self) -> Vec<ListenerInfo> {
        self.listeners
            .iter()
            .map(|listener| ListenerInfo {
                name: listener.name.clone(),
                addresses: self.sockets.addresses(listener.id),
            })
            .collect()
    }

    fn config(&self, include_eds: bool) -> Vec<Section> {
        let _ = include_eds;
        self.dump.sections()
    }

    fn memory(&self) -> Memory {
        Memory::now()
    }

    fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    fn fail_health_checks(&mut self, fail: bool) {
        self.health_failed = fail;
        self.shared
            .health_failed
            .store(fail, std::sync::atomic::Ordering::Relaxed);
    }

    fn drain_listeners(&mut self, drain: Drain, turn: &mut Turn) {
        let _ = turn;
        if drain.inbound_only {
            tracing::warn!("no listener has a traffic direction: all of them are drained");
        }
        if drain.graceful {
            let within_ms = self.options.drain_time().as_millis() as u64;
            self.tell(|| Message::Drain {
                within_ms,
                exit: false,
                close: !drain.skip_exit,
            });
            if !drain.skip_exit {
                self.leave_listeners();
            }
        } else {
            self.tell(|| Message::CloseListeners);
            self.leave_listeners();
        }
    }

    fn reopen_logs(&mut self) {
        self.logs.logs().reopen();
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    fn quit(&mut self, turn: &mut Turn) {
        let _ = turn;
        self.tell(|| Message::Stop);
    }
}
