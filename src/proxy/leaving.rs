//! A drain closes WebSocket sessions with 1001 Going Away, at both ends.
//!
//! A close frame may stand only between two frames, so each end of such a tunnel follows the frames it
//! sends. Where it is within one, or not followed any more, nothing may be said: it would become part of
//! somebody's message.

use moorgate_codecs::websocket::{close, write_close};

use super::facts::Cold;
use super::gateway::{Core, Gateway};
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;

impl Gateway {
    /// Closes a parked client as its worker or its chain leaves.
    pub(super) fn close_parked_leaving<R: Reactor>(&mut self, core: &mut Core<R>, slot: Key) {
        let websocket = core
            .parked(slot)
            .and_then(|record| record.cold.as_deref())
            .is_some_and(Cold::is_websocket);
        if websocket {
            if let Some(key) = self.wake_record(core, slot) {
                self.close_leaving(core, key);
            }
        } else if let Some(record) = self.close_record(core, slot) {
            self.forget_record(core, record);
        }
    }

    /// Closes a client or a tunnel as its worker or its chain leaves.
    pub(super) fn close_leaving<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let peer = self
            .tunnel_end(key)
            .filter(|end| end.frames.is_some())
            .and_then(|end| end.peer);
        if let Some(peer) = peer {
            let told = [
                self.say_going_away(core, key, peer),
                self.say_going_away(core, peer, key),
            ];
            self.stats.inc(if told == [true; 2] {
                self.engine_stats.websockets_told
            } else {
                self.engine_stats.websockets_untold
            });
        }
        self.close(core, key, false);
    }

    /// Says 1001 to one end of a session behind all that the other one sent. False when it cannot be said.
    fn say_going_away<R: Reactor>(&mut self, core: &mut Core<R>, to: Key, from: Key) -> bool {
        let between = self
            .tunnel_end(from)
            .and_then(|end| end.frames)
            .is_some_and(|frames| frames.is_at_boundary());
        let client = self.tunnel_end(to).is_some_and(|end| end.client);
        let Some(conn) = self.conns.get_key_mut(to).filter(|_| between) else {
            return false;
        };
        if conn.blocked || conn.write_closed || conn.fin_after_flush {
            return false;
        }
        // Only a client masks (section 5.1): here that is us, towards the upstream.
        let mask = (!client).then(|| (core.reactor.random() as u32).to_ne_bytes());
        let start = self.out.bytes.len();
        write_close(close::GOING_AWAY, "", mask, &mut self.out.bytes);
        let none = crate::engine::arena::Span { start: 0, len: 0 };
        conn.output.take(&mut self.out, start, none);
        self.flush_last(core, to);
        let told = self.conn(to).is_some_and(|conn| conn.output.is_empty());
        if told {
            // Nothing refers to it any more, and very many may be told in one turn.
            self.out.bytes.truncate(start);
        }
        told
    }
}
