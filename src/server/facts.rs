//! `server.*`: what the process says about itself in its statistics.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::{Cx, Source};
use super::version;
use crate::telemetry::memory::Memory;
use crate::telemetry::registry::Registry;
use crate::telemetry::stats::{Recorder, ServerStats};

/// Sets the gauges of the process. One thread's: the control thread's.
#[derive(Debug)]
pub struct ServerFacts {
    recorder: Arc<Recorder>,
    stats: ServerStats,
    started: Instant,
}

impl ServerFacts {
    /// The process starts now. `state` is left unset until [`refresh`](Self::refresh) is called, as
    /// those who wait for it to appear expect.
    #[must_use]
    pub fn new(registry: &Registry, concurrency: u32) -> Self {
        let facts = Self {
            recorder: registry.recorder(),
            stats: ServerStats::new(registry, "server."),
            started: Instant::now(),
        };
        let set = |gauge, value| facts.recorder.set(gauge, value);
        set(facts.stats.concurrency, i64::from(concurrency));
        set(facts.stats.version, version::gauge());
        set(facts.stats.hot_restart_epoch, 0);
        set(facts.stats.parent_connections, 0);
        facts
    }

    /// Everything is loaded and workers run.
    pub fn initialized(&self) {
        let took = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.recorder
            .record(self.stats.initialization_time_ms, took);
    }

    /// Time since the start.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Brings the gauges up to date. `state` as `server.state` has it (0 is live); `connections` are
    /// those of clients.
    pub fn refresh(&self, state: i64, connections: u64) {
        let memory = Memory::now();
        let stats = &self.stats;
        let set = |gauge, value| self.recorder.set(gauge, value);
        let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        set(stats.state, state);
        set(stats.live, i64::from(state == 0));
        set(stats.uptime, bytes(self.uptime().as_secs()));
        set(stats.total_connections, bytes(connections));
        set(stats.memory_allocated, bytes(memory.allocated));
        set(stats.memory_heap_size, bytes(memory.heap_size));
        set(stats.memory_physical_size, bytes(memory.physical));
    }
}

/// Ends an interval of histograms every so often (`stats_flush_interval`).
#[derive(Debug)]
pub struct StatsFlush {
    registry: Arc<Registry>,
    interval_ms: u64,
}

impl StatsFlush {
    /// Flushes `registry` every `interval`; Envoy's default is 5 s.
    #[must_use]
    pub fn new(registry: Arc<Registry>, interval: Duration) -> Self {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        Self {
            registry,
            interval_ms: interval_ms.max(1),
        }
    }

    fn arm(&self, cx: &mut Cx<'_>) {
        cx.set_timer(0, cx.now().saturating_add(self.interval_ms));
    }
}

impl<S> Source<S> for StatsFlush {
    fn name(&self) -> &'static str {
        "stats flush"
    }

    fn start(&mut self, _: &mut S, cx: &mut Cx<'_>) -> io::Result<()> {
        self.arm(cx);
        Ok(())
    }

    fn timer(&mut self, _: &mut S, cx: &mut Cx<'_>, _: u64) {
        self.registry.flush();
        self.arm(cx);
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::ControlLoop;
    use super::*;
    use crate::telemetry::stats::Names;

    #[test]
    fn gauges_appear_with_the_first_refresh() {
        let registry = Registry::new();
        let facts = ServerFacts::new(&registry, 3);
        let used = |name: &str| {
            let reading = registry.read_where(|candidate| candidate == name);
            reading.gauges[0].used
        };
        assert!(!used("server.state"));
        assert!(used("server.concurrency"));
        facts.refresh(1, 7);
        facts.initialized();
        assert_eq!(registry.value("server.state"), Some(1));
        assert_eq!(registry.value("server.live"), Some(0));
        assert_eq!(registry.value("server.concurrency"), Some(3));
        assert_eq!(registry.value("server.total_connections"), Some(7));
        assert!(registry.value("server.memory_physical_size") > Some(0));
    }

    #[test]
    fn intervals_end_by_themselves() {
        let registry = Registry::new();
        let recorder = registry.recorder();
        recorder.record(registry.histogram("h"), 1);
        let mut control = ControlLoop::new(()).unwrap();
        let flush = StatsFlush::new(Arc::clone(&registry), Duration::from_millis(1));
        control.add(Box::new(flush)).unwrap();
        while registry.read().histograms[0].interval.count == 0 {
            control.turn(Some(Duration::from_millis(10))).unwrap();
        }
    }
}
