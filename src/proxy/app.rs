//! The proxy as an application of the engine: each of the worker's calls goes to its room.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::config::{NetworkFilter, Snapshot};
use super::conn::{Conn, Role};
use super::facts::{Cold, Message, ProxyFacts};
use super::gateway::{Core, Gateway};
use crate::engine::parked::{Kind, Parked, Token};
use crate::engine::reactor::{Reactor, Ready};
use crate::engine::slab::Key;
use crate::engine::worker::App;

/// Residents served from the ready list in one turn.
const READY_PER_TURN: usize = 256;

impl<R: Reactor> App<R> for Gateway {
    type Facts = ProxyFacts;

    fn ready(&mut self, core: &mut Core<R>, number: u32, ready: Ready) {
        if let Some(key) = self.conns.key(number) {
            self.resident_ready(core, key, ready);
        }
    }

    fn wake(&mut self, core: &mut Core<R>, token: Token<ProxyFacts>) {
        self.woken(core, token);
    }

    fn accept(&mut self, core: &mut Core<R>, number: u32) {
        self.accept_some(core, number);
    }

    fn resident_due(&mut self, core: &mut Core<R>, number: u32) {
        if let Some(key) = self.conns.key(number) {
            self.conn_due(core, key);
        }
    }

    fn parked_due(&mut self, core: &mut Core<R>, key: Key) {
        self.record_due(core, key);
    }

    fn local_ready(&mut self, core: &mut Core<R>, key: Key, ready: Ready) {
        match core.parked(key).map(|record| record.kind) {
            Some(Kind::Pooled) => self.parked_upstream_ready(core, key, ready),
            Some(_) => {
                if let Some(key) = self.wake_record(core, key) {
                    self.resident_ready(core, key, ready);
                }
            }
            None => {}
        }
    }

    fn is_local(&self, record: &Parked<ProxyFacts>) -> bool {
        record.kind == Kind::Pooled || record.cold.as_deref().is_some_and(Cold::is_mux)
    }

    fn message(&mut self, core: &mut Core<R>, message: Message) {
        match message {
            Message::Accepted {
                sock,
                peer,
                listener,
                looks,
            } => match self.listener(listener) {
                Some(listener) => self.accepted_elsewhere(core, &listener, sock, peer, looks),
                None => {
                    self.shared.connections.fetch_sub(1, Ordering::Relaxed);
                    core.reactor.close(sock, true);
                }
            },
            Message::Reclaim => {
                self.reclaim(core);
            }
            Message::Snapshot(snapshot) => self.swap(core, snapshot),
            Message::Listeners(socks) => {
                if self.drain.is_none_or(|drain| !drain.is_whole())
                    && self.adopt_listeners(core, &socks).is_err()
                {
                    self.stats.inc(self.engine_stats.listener_errors);
                }
            }
            Message::Moved(bundle) => self.moved_in(core, *bundle),
            Message::Resume(token) => self.resume(core, token),
            Message::Drain {
                within_ms,
                exit,
                close,
            } => self.start_drain(core, within_ms, exit, close),
            Message::CloseListeners => self.close_listeners(core),
            Message::Release(sockets) => drop(sockets),
            Message::Stop => self.stop(core),
        }
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn serve_ready(&mut self, core: &mut Core<R>) {
        let count = self.ready.len().min(READY_PER_TURN);
        for _ in 0..count {
            let Some(key) = self.ready.pop_front() else {
                return;
            };
            let now = core.now();
            let Some(conn) = self.conns.get_key_mut(key) else {
                continue;
            };
            conn.queued = false;
            conn.active_ms = now;
            conn.work += 1;
            self.serve(core, key);
        }
    }

    fn expire(&mut self, core: &mut Core<R>) -> Option<u64> {
        let mut next = self.expire_streams(core);
        let mut at = |due: Option<u64>| {
            if let Some(due) = due {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        };
        at(self.drain_step(core));
        at(self.wake_listeners(core));
        if self.sweep_ms != u64::MAX {
            at(Some(self.sweep_ms));
        }
        if !self.dirty.is_empty() {
            self.flush_all(core);
        }
        if !self.ready.is_empty() {
            at(Some(core.now()));
        }
        next
    }

    fn end_turn(&mut self, core: &mut Core<R>, began_us: u64) {
        self.handshakes = super::secure::HANDSHAKES_PER_TURN;
        self.flush_all(core);
        self.relieve(core);
        #[cfg(chaos)]
        self.move_at_random(core);
        self.sweep(core);
        if !self.dirty.is_empty() {
            self.flush_all(core);
        }
        self.weigh(core, began_us);
        self.publish(core);
        // Others may have sent connections here before they saw that this worker ended.
        if self.stopped || self.drain_is_over(core) {
            self.stop(core);
        }
    }

    fn finished(&self) -> bool {
        self.stopped
    }
}

impl Gateway {
    /// Makes a parked connection resident on its home worker without an event.
    pub(super) fn wake_record<R: Reactor>(&mut self, core: &mut Core<R>, slot: Key) -> Option<Key> {
        self.unpark_mux(core, slot)
    }

    /// The new configuration takes effect: for accepting, routing and choosing hosts at once; clients
    /// of chains that went are drained.
    fn swap<R: Reactor>(&mut self, core: &mut Core<R>, snapshot: Arc<Snapshot>) {
        let old = std::mem::take(&mut self.chains);
        self.snapshot = snapshot;
        self.index_chains();
        for (id, chain) in old {
            if !self.chains.contains_key(&id) {
                self.retired.insert(id, chain);
            }
        }
        // One that came back is as good as new.
        let chains = &self.chains;
        self.retired.retain(|id, _| !chains.contains_key(id));
        let clusters = &self.snapshot.clusters;
        self.balancers.retain(|id, _| clusters.contains_key(id));
        let mut at = self.conns.first_index();
        while let Some(index) = at {
            at = self.conns.next_index(index);
            let chains = &self.chains;
            let Some(down) = self.conns.get_mut(index).and_then(Conn::down_mut) else {
                continue;
            };
            if let Some(chain) = chains.get(&down.chain.id)
                && let NetworkFilter::Http(http) = &chain.chain.filter
            {
                // The next request finds the new routes; the connection itself is untouched.
                down.http = Arc::clone(http);
                down.listener = Arc::clone(&chain.listener);
                down.chain = Arc::clone(&chain.chain);
            }
        }
        self.drop_lost_hosts(core);
        if !self.retired.is_empty() {
            self.start_retirement(core);
        }
    }

    /// Idle connections to hosts that are no longer in their cluster are closed.
    fn drop_lost_hosts<R: Reactor>(&mut self, core: &mut Core<R>) {
        let lost: Vec<_> = self
            .pools
            .keys()
            .copied()
            .filter(|host| !self.host_is_current(*host))
            .collect();
        for host in lost {
            let idle = self
                .pools
                .get_mut(&host)
                .map(|pool| std::mem::take(&mut pool.idle));
            for slot in idle.unwrap_or_default() {
                if let Some(record) = core.parked(slot) {
                    if record.cold.as_deref().is_some_and(Cold::is_mux) {
                        // It has open streams: it is closed when they have ended.
                        continue;
                    }
                    self.close_parked_upstream(core, slot);
                } else if let Some(number) = core.resident(slot)
                    && let Some(key) = self.conns.key(number)
                    && self.conn(key).and_then(Conn::up).is_some_and(|up| up.idle)
                {
                    self.upstream_gone(core, key, false);
                }
            }
        }
    }

    /// Publishes the engine's numbers.
    fn publish<R: Reactor>(&mut self, core: &mut Core<R>) {
        let (now, was) = (core.tally, self.published);
        let stats = &self.engine_stats;
        let gauges = [
            stats.parked_idle,
            stats.parked_pair,
            stats.parked_mux,
            stats.parked_pooled,
        ];
        for (kind, gauge) in gauges.into_iter().enumerate() {
            if now.parked[kind] != was.parked[kind] {
                self.stats
                    .gauge(gauge, now.parked[kind] as i64 - was.parked[kind] as i64);
            }
        }
        if now.resident != was.resident {
            self.stats
                .gauge(stats.resident, now.resident as i64 - was.resident as i64);
        }
        if now.steals != was.steals {
            self.stats.add(stats.steals, now.steals - was.steals);
        }
        if now.wakes != was.wakes {
            self.stats.add(stats.wakeups, now.wakes - was.wakes);
        }
        self.stats
            .add(self.worker_stats.turns, now.turns - was.turns);
        self.published = now;
        if self.snapshot.max_connections > 0 {
            core.publish_oldest_idle();
        }
    }

    /// Closes everything.
    pub(super) fn stop<R: Reactor>(&mut self, core: &mut Core<R>) {
        self.close_listeners(core);
        while let Some(record) = core.close_queued(false) {
            self.forget_record(core, record);
        }
        while let Some((slot, record)) = core.next_parked(None) {
            if record.kind == Kind::Pooled {
                self.close_parked_upstream(core, slot);
            } else {
                self.close_parked_leaving(core, slot);
            }
        }
        while let Some(key) = self
            .conns
            .first_index()
            .and_then(|index| self.conns.key(index))
        {
            match self.conn(key).map(|conn| matches!(conn.role, Role::Up(_))) {
                Some(true) => self.upstream_gone(core, key, false),
                _ => self.close_leaving(core, key),
            }
        }
        self.publish(core);
        self.stopped = true;
    }
}
