//! How busy this worker is, who should have a new connection, and what is worth moving away.
//!
//! Load is counted in windows: how much of the window the worker worked, and which clients made it
//! work. Only an overloaded worker gives away, and only to one that is clearly less busy, so that
//! connections do not travel back and forth.

use super::conn::Role;
use super::gateway::{Core, Gateway};
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;

/// Load of the current window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// When the window began, µs.
    began_us: u64,
    /// Time worked in it, µs.
    worked_us: u64,
    /// Clients that had work in the last window.
    pub(super) busy_clients: u32,
    /// Share of the last window that was worked, per cent.
    percent: u64,
    /// The last window was one of overload.
    overloaded: bool,
}

/// Published load: busy clients weigh more than the time share, connections least.
fn published(busy_clients: u32, percent: u64) -> u32 {
    busy_clients.saturating_mul(1000) + percent as u32
}

impl Gateway {
    /// The worker of a new connection: the less loaded of this one and one other.
    pub(super) fn place<R: Reactor>(&mut self, core: &mut Core<R>) -> usize {
        let me = usize::from(core.id());
        let count = core.siblings().members.len();
        if count < 2 {
            return me;
        }
        let step = 1 + (core.reactor.random() % (count as u64 - 1)) as usize;
        let other = (me + step) % count;
        let members = &core.siblings().members;
        if !members[other].has_left() && members[other].load() < members[me].load() {
            other
        } else {
            me
        }
    }

    /// Counts a turn's work; at the end of a window publishes the load and gives away what should go.
    pub(super) fn weigh<R: Reactor>(&mut self, core: &mut Core<R>, turn_began_us: u64) {
        let now = core.reactor.clock_us();
        self.load.worked_us += now.saturating_sub(turn_began_us);
        let window = now.saturating_sub(self.load.began_us);
        if window < self.tuning.load_window_ms * 1000 {
            return;
        }
        let percent = (self.load.worked_us * 100 / window.max(1)).min(100);
        let stale = window > 4 * self.tuning.load_window_ms * 1000;
        let overloaded = percent >= self.tuning.overload_percent && !stale;
        let was = std::mem::replace(&mut self.load.overloaded, overloaded);
        let (busy, worked) = (self.load.busy_clients, self.load.percent);
        let busiest = self.count_busy();
        self.load.percent = percent;
        let stats = self.worker_stats;
        if percent != worked {
            self.stats.gauge(stats.load, percent as i64 - worked as i64);
        }
        if self.load.busy_clients != busy {
            let change = i64::from(self.load.busy_clients) - i64::from(busy);
            self.stats.gauge(stats.busy_clients, change);
        }
        self.load.began_us = now;
        self.load.worked_us = 0;
        core.publish_load(published(self.load.busy_clients, percent));
        if overloaded && was {
            self.give_away(core, busiest);
        }
    }

    /// Clients with work in the window, and the one to give away: not the busiest, which would only
    /// carry the overload elsewhere, but the second.
    fn count_busy(&mut self) -> Option<Key> {
        let mut busy = 0;
        let mut first: Option<(u32, Key)> = None;
        let mut second: Option<(u32, Key)> = None;
        let mut at = self.conns.first_index();
        while let Some(index) = at {
            at = self.conns.next_index(index);
            let key = self.conns.key(index);
            let Some(conn) = self.conns.get_mut(index) else {
                continue;
            };
            let work = std::mem::take(&mut conn.work);
            let client = match &conn.role {
                Role::Down(_) => true,
                Role::Tunnel(end) => end.client,
                Role::Up(_) | Role::Detecting(_) | Role::Waking => false,
            };
            let Some(key) = key.filter(|_| client && work > 1) else {
                continue;
            };
            busy += 1;
            if first.is_none_or(|(most, _)| work > most) {
                second = first;
                first = Some((work, key));
            } else if second.is_none_or(|(most, _)| work > most) {
                second = Some((work, key));
            }
        }
        self.load.busy_clients = busy;
        second.map(|(_, key)| key)
    }

    fn give_away<R: Reactor>(&mut self, core: &mut Core<R>, client: Option<Key>) {
        let Some(client) = client else { return };
        if self.drain.is_some_and(super::drain::Drain::is_whole) {
            // Whoever has nobody left ends, and could not take anyone in any more.
            return;
        }
        let me = usize::from(core.id());
        let mine = core.siblings().members[me].load();
        let members = core.siblings().members.iter().enumerate();
        let idlest = members
            .filter(|(id, member)| *id != me && !member.has_left())
            .min_by_key(|(_, member)| member.load());
        let Some((target, load)) = idlest.map(|(id, member)| (id, member.load())) else {
            return;
        };
        // One client more there, one less here, must still be better than now.
        let (ours, theirs) = (mine / 1000, load / 1000);
        if ours < theirs + 2 || u64::from(ours) * 4 < u64::from(theirs) * 5 {
            return;
        }
        if !self.move_client(core, client, target) {
            self.prepare_move(client);
            self.load.overloaded = true;
        }
    }
}
