//! The proxy of one worker: everything it holds, and the few things all its rooms need.
//!
//! Connections and streams live in slabs and name each other by key. No room keeps a reference into
//! another's object across a call, so anything may be closed, parked or moved between two steps.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use moorgate_codecs::{Codec, Events, Out};

use super::config::{ChainId, FilterChain, Listener, Snapshot};
use super::conn::Conn;
use super::facts::{Endpoint, ProxyFacts};
use super::listen::OpenListener;
use super::stream::{Stream, Streams};
use super::upstream::Pool;
use crate::cluster::balance::Balancer;
use crate::cluster::{ClusterId, HostId, PoolId};
use crate::engine;
use crate::engine::arena::Span;
use crate::engine::reactor::Reactor;
use crate::engine::slab::{Key, PagedSlab};
use crate::engine::wheel::Wheel;
use crate::filter::Token;
use crate::telemetry::access_log::LogWriter;
use crate::telemetry::recorder::Recorder;
use crate::telemetry::stats::{EngineStats, WorkerStats};

/// A worker's share of the engine, as the proxy uses it.
pub(super) type Core<R> = engine::core::Core<R, ProxyFacts>;

/// What all workers of the process share: one padded atomic each.
#[derive(Debug, Default)]
pub struct Shared {
    /// Downstream connections of the process.
    pub connections: crossbeam_utils::CachePadded<AtomicU64>,
    /// Numbers of connections.
    pub next_connection: crossbeam_utils::CachePadded<AtomicU64>,
    /// The largest holder of buffered bytes that any worker found at the end of the memory budget.
    pub largest_holder: crossbeam_utils::CachePadded<super::pressure::LargestHolder>,
    /// `x-envoy-immediate-health-check-fail` and `/healthcheck/fail`: health filters answer 503.
    pub health_failed: std::sync::atomic::AtomicBool,
}

/// How the worker behaves; the values are measured ones, tests and chaos runs choose others.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// A resident connection on which nothing happened for so long is parked, ms.
    pub quiet_ms: u64,
    /// Bytes read from one connection in one turn.
    pub read_budget: usize,
    /// Length of the window in which load is counted, ms.
    pub load_window_ms: u64,
    /// Share of a window (per cent) that a worker must have worked to give connections away.
    pub overload_percent: u64,
    /// Clients of a filter chain that the configuration no longer has are gone after this, ms
    /// (`--drain-time-s`).
    pub drain_ms: u64,
    /// In a drain idle clients are closed one after the other, not all at once
    /// (`--drain-strategy`).
    pub drain_gradually: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            quiet_ms: 250,
            read_budget: 256 * 1024,
            load_window_ms: 50,
            overload_percent: 40,
            drain_ms: 600_000,
            drain_gradually: true,
        }
    }
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    /// Process-wide.
    pub shared: Arc<Shared>,
    /// First configuration.
    pub snapshot: Arc<Snapshot>,
    /// This worker's counters.
    pub recorder: Arc<Recorder>,
    /// Names of the engine's counters.
    pub engine_stats: EngineStats,
    /// Names of this worker's own counters.
    pub worker_stats: WorkerStats,
    /// This worker's end of the access log.
    pub logs: LogWriter,
    /// Behaviour.
    pub tuning: Tuning,
    /// Name of this machine.
    pub hostname: String,
    /// How the wall clock is asked.
    pub wall_clock: super::WallClock,
    /// The address by which others know this machine.
    pub local_ip: Option<IpAddr>,
}

/// A chain that the current configuration does not have any more.
#[derive(Clone, Debug)]
pub(super) struct ChainRef {
    pub(super) listener: Arc<Listener>,
    pub(super) chain: Arc<FilterChain>,
}

/// The proxy of one worker.
#[derive(Debug)]
pub struct Gateway {
    pub(super) shared: Arc<Shared>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) chains: FxHashMap<ChainId, ChainRef>,
    pub(super) retired: FxHashMap<ChainId, ChainRef>,
    pub(super) stats: Arc<Recorder>,
    pub(super) engine_stats: EngineStats,
    pub(super) worker_stats: WorkerStats,
    pub(super) logs: LogWriter,
    pub(super) tuning: Tuning,
    pub(super) conns: PagedSlab<Conn>,
    pub(super) streams: Streams,
    /// Streams whose clients are parked.
    pub(super) packed: super::resting::Resting,
    pub(super) stream_wheel: Wheel,
    pub(super) due_streams: Vec<u32>,
    pub(super) pools: FxHashMap<PoolId, Pool>,
    /// Endpoints that are in use, so that sessions with one host share what they say of it.
    pub(super) endpoints: FxHashMap<HostId, Weak<Endpoint>>,
    /// The same for hosts whose connections are not all alike: `Endpoint::pool` is not the host's own.
    pub(super) named: super::named::Named,
    pub(super) balancers: FxHashMap<ClusterId, Balancer>,
    pub(super) listeners: Vec<Option<OpenListener>>,
    /// Listeners out of descriptors, and when they accept again, ms.
    pub(super) resting: Vec<(u32, u64)>,
    pub(super) events: Events,
    pub(super) out: Out,
    /// Sealed records on their way from a session to a socket.
    pub(super) sealed: Vec<u8>,
    /// Steps of handshakes that may still be taken in this turn.
    pub(super) handshakes: usize,
    /// Connections with output of this turn.
    pub(super) dirty: Vec<Key>,
    /// Connections to serve without an event.
    pub(super) ready: VecDeque<Key>,
    /// Streams whose filter call goes on somewhere else.
    pub(super) suspended: HashMap<Token, Key>,
    pub(super) clock: super::clock::Clock,
    pub(super) load: super::balance::Load,
    pub(super) sweep_ms: u64,
    pub(super) sweep_at: Option<u32>,
    /// The sweep that is under way met a connection that was active lately.
    pub(super) sweep_again: bool,
    pub(super) drain: Option<super::drain::Drain>,
    pub(super) stopped: bool,
    /// Bytes in the arena are being decoded, so it must not be reset.
    pub(super) decoding: bool,
    /// Output is being written.
    pub(super) flushing: bool,
    /// Connections with room for more, whose lanes move when the turn's buffers are free.
    pub(super) drained: Vec<Key>,
    /// At the limit of the memory budget when last looked.
    pub(super) relieving: bool,
    pub(super) published: engine::core::Tally,
    pub(super) scratch: crate::route::headers::Scratch,
    /// Name of this machine, for header values.
    pub(super) hostname: String,
    /// What stands for clients on the loopback in `x-forwarded-for`.
    pub(super) local_ip: Option<IpAddr>,
}

impl Gateway {
    /// A worker's proxy. Listeners are opened by the caller and handed over with
    /// [`adopt_listeners`](Self::adopt_listeners).
    #[must_use]
    pub fn new(parts: Parts, now_ms: u64) -> Self {
        let mut gateway = Self {
            shared: parts.shared,
            snapshot: Arc::clone(&parts.snapshot),
            chains: FxHashMap::default(),
            retired: FxHashMap::default(),
            stats: parts.recorder,
            engine_stats: parts.engine_stats,
            worker_stats: parts.worker_stats,
            logs: parts.logs,
            tuning: parts.tuning,
            conns: PagedSlab::new(),
            streams: Streams::default(),
            packed: super::resting::Resting::default(),
            stream_wheel: Wheel::new(now_ms),
            due_streams: Vec::new(),
            pools: FxHashMap::default(),
            endpoints: FxHashMap::default(),
            named: super::named::Named::default(),
            balancers: FxHashMap::default(),
            listeners: Vec::new(),
            resting: Vec::new(),
            events: Events::default(),
            out: Out::default(),
            sealed: Vec::new(),
            handshakes: super::secure::HANDSHAKES_PER_TURN,
            dirty: Vec::new(),
            ready: VecDeque::new(),
            suspended: HashMap::new(),
            clock: super::clock::Clock::new(parts.wall_clock),
            load: super::balance::Load::default(),
            sweep_ms: u64::MAX,
            sweep_at: None,
            sweep_again: false,
            drain: None,
            stopped: false,
            decoding: false,
            flushing: false,
            drained: Vec::new(),
            relieving: false,
            published: engine::core::Tally::default(),
            scratch: crate::route::headers::Scratch::default(),
            hostname: parts.hostname,
            local_ip: parts.local_ip,
        };
        gateway.index_chains();
        gateway
    }

    pub(super) fn index_chains(&mut self) {
        self.chains.clear();
        for listener in &self.snapshot.listeners {
            for chain in &listener.chains {
                let entry = ChainRef {
                    listener: Arc::clone(listener),
                    chain: Arc::new(chain.own()),
                };
                self.chains.insert(chain.id, entry);
            }
        }
    }

    /// A chain by its id, current or retired.
    pub(super) fn chain(&self, id: ChainId) -> Option<ChainRef> {
        self.chains
            .get(&id)
            .or_else(|| self.retired.get(&id))
            .cloned()
    }

    pub(super) fn conn(&self, key: Key) -> Option<&Conn> {
        self.conns.get_key(key)
    }

    pub(super) fn conn_mut(&mut self, key: Key) -> Option<&mut Conn> {
        self.conns.get_key_mut(key)
    }

    pub(super) fn stream(&self, key: Key) -> Option<&Stream> {
        self.streams.0.get_key(key)
    }

    pub(super) fn stream_mut(&mut self, key: Key) -> Option<&mut Stream> {
        self.streams.0.get_key_mut(key)
    }

    /// Lets a connection's codec write, and queues what it wrote.
    pub(super) fn encode<T>(
        &mut self,
        key: Key,
        payload: Span,
        write: impl FnOnce(&mut dyn Codec, &mut Out) -> T,
    ) -> Option<T> {
        let conn = self.conns.get_key_mut(key)?;
        let start = self.out.bytes.len();
        let result = write(conn.codec_mut()?, &mut self.out);
        conn.output.take(&mut self.out, start, payload);
        if !conn.dirty && !conn.output.is_empty() {
            conn.dirty = true;
            self.dirty.push(key);
        }
        Some(result)
    }

    pub(super) fn mark_dirty(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_key_mut(key)
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(key);
        }
    }

    /// Serves a connection again without waiting for an event.
    pub(super) fn queue(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_key_mut(key)
            && !conn.queued
        {
            conn.queued = true;
            self.ready.push_back(key);
        }
    }

    /// Makes sure that a connection's slot timer fires no later than `due`.
    pub(super) fn due_by<R: Reactor>(&mut self, core: &mut Core<R>, key: Key, due: u64) {
        let Some(conn) = self.conns.get_key_mut(key) else {
            return;
        };
        if due < conn.timer_ms {
            conn.timer_ms = due;
            let slot = conn.slot;
            core.schedule(slot, due);
        }
    }

    /// Makes sure that a stream's timer fires no later than its earliest deadline. One that fires
    /// before only looks again, so a deadline that moved away costs nothing here.
    pub(super) fn schedule_stream(&mut self, key: Key) {
        let Some(stream) = self.stream(key) else {
            return;
        };
        let due = stream.deadline();
        let scheduled = self.stream_wheel.due(&stream.timer);
        if scheduled.is_none_or(|scheduled| due < scheduled) && due != u64::MAX {
            self.stream_wheel
                .schedule(&mut self.streams, key.index, due);
        }
    }

    /// The client's connection of a stream.
    pub(super) fn client_of(&self, key: Key) -> Option<Key> {
        self.stream(key)?.client_key()
    }

    /// Number for `%CONNECTION_ID%` and streams.
    pub(super) fn next_number(&self) -> u64 {
        self.shared.next_connection.fetch_add(1, Ordering::Relaxed)
    }
}
