//! The memory budget: what each of its steps does, and the watermarks of a single connection.
//!
//! Every buffered byte counts in one budget of the process. From 75 % watermarks shrink. From 90 % nothing
//! is read for a writer that is full, what is still read comes in small pieces, and new requests are
//! refused. At 100 % the largest holders are reset, whichever worker has them. Each step has a counter that
//! says how often it did something. Nothing here may drop bytes of a connection that goes on.

use std::sync::atomic::{AtomicU64, Ordering};

use moorgate_codecs::Shape;

use super::conn::{Conn, Role, pause};
use super::gateway::{Core, Gateway};
use super::stream::Way;
use crate::engine::chunk::Pressure;
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;

/// The least that may wait for one peer under pressure.
const LEAST: usize = 4096;
/// Bytes of one read call when the budget is nearly used up.
const SMALL_READ: usize = 4096;
/// Holders reset in one turn.
const RESETS_PER_TURN: usize = 64;

/// Size of the largest holder of the process and the worker that has it, so that a worker does not reset a
/// small one of its own while another has a large one.
#[derive(Debug, Default)]
pub struct LargestHolder(AtomicU64);

/// Bits for the worker's number.
const WORKER_BITS: u32 = 16;

impl LargestHolder {
    /// Worker `me` has one of so many bytes. Names another worker that has a larger one.
    fn compare(&self, me: u16, bytes: usize) -> Option<u16> {
        let mine = (bytes as u64) << WORKER_BITS | u64::from(me);
        let known = self.0.load(Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation)] // The low bits are the number.
        let owner = known as u16;
        if owner != me && known >> WORKER_BITS > bytes as u64 {
            return Some(owner);
        }
        // A lost race costs one holder of the wrong worker.
        self.0.store(mine, Ordering::Relaxed);
        None
    }

    /// Worker `me` has none any more that would have to go.
    fn forget(&self, me: u16) {
        let known = self.0.load(Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation)] // The low bits are the number.
        if known != 0 && known as u16 == me {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

impl Gateway {
    /// Bytes that may wait for one peer: what is configured, less under memory pressure.
    fn limit<R: Reactor>(core: &Core<R>, configured: usize) -> usize {
        match core.chunks.budget().pressure() {
            Pressure::Normal => configured,
            Pressure::Shrink => (configured / 4).max(LEAST),
            Pressure::Refuse | Pressure::Full => LEAST,
        }
    }

    fn configured_limit(&self, key: Key) -> usize {
        let limit = match self.conn(key).map(|conn| &conn.role) {
            Some(Role::Down(down)) => down.listener.buffer_limit,
            Some(Role::Up(up)) => up.endpoint.cluster.config.buffer_limit,
            Some(Role::Tunnel(end)) => end.buffer_limit(),
            Some(Role::Detecting(_) | Role::Waking) | None => 1 << 20,
        };
        limit as usize
    }

    /// The limit of a connection's own output.
    pub(super) fn output_limit<R: Reactor>(&self, core: &Core<R>, key: Key) -> usize {
        Self::limit(core, self.configured_limit(key))
    }

    /// A source is stopped because so much waits for `to`: counts it when the budget made it so.
    pub(super) fn note_stop<R: Reactor>(&self, core: &Core<R>, to: Key, waiting: usize) {
        if waiting > self.configured_limit(to) {
            return;
        }
        let stats = &self.engine_stats;
        self.stats.inc(match core.chunks.budget().pressure() {
            Pressure::Normal | Pressure::Shrink => stats.buffers_shrunk,
            Pressure::Refuse | Pressure::Full => stats.buffers_reads_paused,
        });
    }

    /// Bytes that may be read from one connection in a turn. What is read counts only when its writer
    /// turns out to be full, at the turn's end: so no connection reads more than a share of what is left,
    /// lest a few of them jump over the steps in one turn.
    pub(super) fn read_budget<R: Reactor>(core: &Core<R>, usual: usize) -> usize {
        usual.min((core.chunks.budget().left() / 16).max(SMALL_READ))
    }

    /// Looks whether a connection may be read now: not while its own peer takes no answers, and not for a
    /// full writer when the budget is nearly used up. If not, it is paused until that drains.
    pub(super) fn may_read<R: Reactor>(&mut self, core: &Core<R>, key: Key) -> bool {
        let pressed = core.chunks.budget().pressure() >= Pressure::Refuse;
        let Some(conn) = self.conn(key) else {
            return false;
        };
        // Whoever sends requests and takes no answers is not read on: each answer may be small, but
        // there is no end of them.
        if conn.blocked && conn.down().is_some() && conn.output.len() > self.configured_limit(key) {
            if let Some(conn) = self.conn_mut(key) {
                conn.paused |= pause::OUTPUT;
                conn.throttles = true;
            }
            return false;
        }
        if !pressed {
            return true;
        }
        let Some(full) = self.full_writer(key) else {
            return true;
        };
        if let Some(writer) = full.and_then(|writer| self.conn_mut(writer)) {
            writer.throttles = true;
        }
        if let Some(conn) = self.conn_mut(key) {
            conn.paused |= pause::FULL;
        }
        self.stats.inc(self.engine_stats.buffers_reads_paused);
        false
    }

    /// A client was answered so much at once that it has to take some of it before it is heard further.
    pub(super) fn must_drain(&self, key: Key) -> bool {
        self.conn(key)
            .is_some_and(|conn| conn.output.len() > self.configured_limit(key))
    }

    /// Whether whom this connection's bytes go to is full, and who that is when it is a connection.
    ///
    /// A multiplexed source has many destinations and is stopped by the credit it does not get: were it
    /// not read for one of them, it could not give us credit for the others.
    fn full_writer(&self, key: Key) -> Option<Option<Key>> {
        let conn = self.conn(key)?;
        if let Role::Tunnel(end) = &conn.role {
            let peer = end.peer?;
            return self.conn(peer).filter(|c| c.blocked).map(|_| Some(peer));
        }
        let (shape, down) = match &conn.role {
            Role::Down(down) => (down.codec.shape(), true),
            Role::Up(up) => (up.codec.shape(), false),
            Role::Tunnel(_) | Role::Detecting(_) | Role::Waking => return None,
        };
        if shape == Shape::Multiplex {
            return None;
        }
        let streams = conn.streams()?;
        streams.entries().iter().find_map(|(_, stream)| {
            let stream = self.stream(*stream)?;
            let way = if down != stream.reverse {
                Way::Request
            } else {
                Way::Response
            };
            // What a filter wants to see whole goes on coming. A lane that is through has no source any
            // more: nobody would let it go on.
            if stream.pending.is_some() || stream.hold_body.is_some() || stream.lane(way).sent {
                return None;
            }
            let to = stream.destination(way).map(|(to, _)| to);
            let blocked = to
                .and_then(|to| self.conn(to))
                .is_some_and(|conn| conn.blocked);
            (blocked || !stream.lane(way).buffer.is_empty()).then_some(to)
        })
    }

    /// The third step: at the limit the largest holders are reset until it is no longer reached.
    pub(super) fn relieve<R: Reactor>(&mut self, core: &mut Core<R>) {
        let me = core.id();
        if core.chunks.budget().pressure() < Pressure::Full {
            if self.relieving {
                self.relieving = false;
                self.shared.largest_holder.forget(me);
            }
            return;
        }
        self.relieving = true;
        let mut holders: Vec<(usize, Key)> = self
            .conns
            .iter()
            .filter_map(|(index, conn)| Some((self.held_for(conn), self.conns.key(index)?)))
            .filter(|(held, _)| *held > 0)
            .collect();
        holders.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        for (held, key) in holders.into_iter().take(RESETS_PER_TURN) {
            if core.chunks.budget().pressure() < Pressure::Full {
                break;
            }
            if let Some(other) = self.shared.largest_holder.compare(me, held) {
                // It may sleep, and would not notice.
                if let Some(member) = core.siblings().members.get(usize::from(other)) {
                    member.nudge();
                }
                return;
            }
            // A reset before it may have taken this one along.
            if self.conn(key).is_none() {
                continue;
            }
            self.stats.inc(self.engine_stats.buffers_holders_reset);
            self.close(core, key, true);
        }
        if core.chunks.budget().pressure() < Pressure::Full {
            self.relieving = false;
        }
        // The next look says what is the largest then.
        self.shared.largest_holder.forget(me);
    }

    /// Bytes that go when this connection is reset: its own, and for a client those of its streams.
    fn held_for(&self, conn: &Conn) -> usize {
        let streams = match &conn.role {
            Role::Down(down) => down.streams.entries(),
            Role::Up(_) | Role::Tunnel(_) | Role::Detecting(_) | Role::Waking => &[],
        };
        let held: usize = streams
            .iter()
            .filter_map(|(_, stream)| self.stream(*stream))
            .map(|stream| {
                stream.request.buffer.held()
                    + stream.response.buffer.held()
                    + stream.replay.as_ref().map_or(0, |replay| replay.held())
                    + (stream.filters.iter())
                        .map(|filter| filter.held())
                        .sum::<usize>()
            })
            .sum();
        conn.held() + held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_with_the_largest_holder_goes_first() {
        let largest = LargestHolder::default();
        assert_eq!(largest.compare(1, 1000), None);
        assert_eq!(largest.compare(2, 500), Some(1), "1 has a larger one");
        assert_eq!(largest.compare(1, 400), None, "1 knows itself best");
        assert_eq!(largest.compare(2, 500), None);
        largest.forget(1);
        assert_eq!(largest.compare(1, 499), Some(2), "only 2 forgets its own");
        largest.forget(2);
        assert_eq!(largest.compare(1, 1), None);
    }
}
