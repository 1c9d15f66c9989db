//! A connection falls silent, and wakes.

use moorgate::engine::parked::{Deci, Kind, Parked};
use moorgate::engine::reactor::Sock;
use moorgate::engine::slab::Key;
use moorgate_codecs::Compact;

use super::{Conn, HoldCore, Holder, Phase, Remains};
use crate::exchange::Answer;
use crate::mux::{Client, Silent};
use crate::reader::{Failure, Progress};
use crate::sse::Subscription;

impl Holder {
    /// Whether a silent connection may be spoken to: a WebSocket and HTTP/2 may be pinged at any time, and TLS
    /// has messages of its own.
    pub(super) fn may_be_woken(&self) -> bool {
        let exchange = &self.orders.exchange;
        exchange.opening.is_some() || self.orders.call.is_some() || self.tls.is_some()
    }

    /// Parks a subscription, or what was woken for nothing, unless it is in the middle of something.
    pub(super) fn park_listener(&mut self, core: &mut HoldCore, number: u32) {
        let may_be_woken = self.may_be_woken();
        let Some(conn) = self.conns.get(number) else {
            return;
        };
        if conn.phase != Phase::Listening {
            return;
        }
        if let Some(subscription) = &conn.subscription {
            if let Some(compact) = subscription.park() {
                self.park(core, number, None, Some(compact));
            }
        } else if may_be_woken && matches!(conn.progress, Progress::Start) {
            let due_ms = Some(conn.due_ms).filter(|due_ms| *due_ms != u64::MAX);
            self.park(core, number, due_ms, None);
        }
    }

    pub(super) fn park(
        &mut self,
        core: &mut HoldCore,
        number: u32,
        due_ms: Option<u64>,
        codec: Option<Compact>,
    ) {
        let Some(conn) = self.conns.get_mut(number) else {
            return;
        };
        conn.phase = Phase::Listening;
        conn.due_ms = due_ms.unwrap_or(u64::MAX);
        let quiet = conn.tls.as_ref().is_none_or(|tls| tls.is_quiet());
        let kept = match &conn.client {
            Some(client) if quiet && conn.rest.is_empty() && conn.queue.is_empty() => {
                client.park().map(|(codec, silent)| (Some(codec), silent))
            }
            None if quiet => Some((codec, Silent::default())),
            _ => None,
        };
        let Some((codec, silent)) = kept else {
            // The rest of something is to come, or to be taken.
            if let Some(due_ms) = due_ms {
                core.schedule(conn.key, due_ms);
            }
            return;
        };
        let tls = conn.tls.take().map(|mut tls| {
            tls.park();
            tls
        });
        let record = Parked {
            socks: [conn.sock, Sock(-1)],
            owner: conn.seat,
            chain: 0,
            opened: Deci(0),
            deadline: due_ms.map_or(Deci::NEVER, Deci::from_ms),
            requests: 0,
            kind: if codec.is_some() {
                Kind::Mux
            } else {
                Kind::Idle
            },
            flags: 0,
            peer: None,
            cold: (codec.is_some() || tls.is_some())
                .then(|| Box::new(Remains { codec, silent, tls })),
        };
        if core.park(conn.key, record).is_ok() {
            self.conns.remove(number);
        } else {
            self.lost(core, number, Failure::Reset);
        }
    }

    pub(super) fn unpark(&mut self, core: &mut HoldCore, key: Key) -> Option<u32> {
        let place = self.conns.insert(Conn {
            key,
            sock: Sock(-1),
            tls: None,
            seat: 0,
            phase: Phase::Listening,
            again: true,
            established: true,
            progress: Progress::Start,
            client: None,
            rest: Vec::new(),
            queue: Vec::new(),
            subscription: None,
            sent: 0,
            began_us: 0,
            due_ms: u64::MAX,
        });
        let Some(record) = core.unpark(key, place.index) else {
            self.conns.remove(place.index);
            return None;
        };
        let conn = self.conns.get_mut(place.index)?;
        conn.sock = record.socks[0];
        conn.seat = record.owner;
        conn.due_ms = record.deadline.ms();
        if let Some(remains) = record.cold {
            conn.tls = remains.tls;
            if let Some(call) = &self.orders.call {
                let codec = remains.codec.unwrap_or_default();
                let client = Client::unpark(call, &codec, &remains.silent);
                conn.client = Some(Box::new(client));
            } else if let (Some(compact), Answer::Http { settings, .. }) =
                (remains.codec, &self.orders.exchange.answer)
            {
                conn.subscription = Some(Box::new(Subscription::new(settings, &compact)));
            }
        }
        Some(place.index)
    }
}
