//! Reading the configuration again, and ending.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::control::Turn;
use super::dump::Dump;
use super::process::{Process, build_with, load, tell_ignored};
use crate::proxy::facts::Message;

impl Process {
    /// Reads the configuration again. When it is good it takes effect; when not, nothing changes.
    pub(super) fn reload(&mut self) {
        if self.draining {
            tracing::warn!("configuration not read again: the process is ending");
            return;
        }
        let outcome = self.try_reload();
        self.published.reloaded(outcome.is_ok());
        match outcome {
            Ok(()) => {
                let version = self.published.version();
                tracing::info!("configuration reloaded, version {version}");
            }
            Err(why) => tracing::error!("configuration not changed: {why}"),
        }
    }

    fn try_reload(&mut self) -> Result<(), String> {
        let parsed = load(&self.options).map_err(|error| error.to_string())?;
        let built = build_with(
            &parsed,
            &self.registry,
            &self.interner,
            &self.cluster_ids,
            &self.logs,
            &self.options,
        )
        .map_err(|error| error.to_string())?;
        let leaving = self
            .sockets
            .update(&built.listeners)
            .map_err(|error| format!("{}: {error}", parsed.file))?;
        // From here on nothing fails.
        tell_ignored(&parsed);
        self.listeners = built.listeners;
        self.max_connections = self
            .options
            .max_connections
            .unwrap_or(built.max_connections);
        self.node = built.node.json;
        self.watches.set(built.watches);
        let dump = Dump::new(&parsed.bootstrap);
        self.published.listeners(&self.dump, &dump);
        self.dump = dump;
        self.manager.set(built.definitions);
        self.manager.take_dirty();
        self.publish();
        if self.accepting {
            let socks = self.sockets.socks();
            self.tell(|| Message::Listeners(socks.clone()));
        }
        self.tell(|| Message::Release(Arc::clone(&leaving)));
        Ok(())
    }

    /// Ends in order; a second request ends at once.
    pub(super) fn terminate(&mut self, turn: &mut Turn) {
        let _ = turn;
        if self.draining {
            self.tell(|| Message::Stop);
            return;
        }
        self.draining = true;
        let within_ms = self.options.drain_time().as_millis() as u64;
        tracing::info!("draining for at most {within_ms} ms");
        self.tell(|| Message::Drain {
            within_ms,
            exit: true,
            close: true,
        });
        self.leave_listeners();
    }

    /// Sets the gauges that are only known when asked for.
    pub(super) fn refresh_gauges(&mut self) {
        self.manager.show();
        let connections = self.shared.connections.load(Ordering::Relaxed);
        let state = crate::admin::AdminBackend::state(self);
        self.facts.refresh(state.gauge(), connections);
        self.published.show(self.accepting);
        let bytes = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let stats = &self.engine_stats;
        self.recorder
            .set(stats.buffers_bytes, bytes(self.budget.used()));
        self.recorder
            .set(stats.buffers_limit_bytes, bytes(self.budget.limit()));
    }
}
