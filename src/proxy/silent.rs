//! What is kept of an exchange that is open and silent.
//!
//! A resident [`Stream`] is made for speed: wide, with room for everything a stream may ever need. Very
//! many of them are silent (event streams, long polls), so a parked one is packed: times as distances
//! from its start, what is rarely there behind one pointer, and no buffers, because nothing of a silent
//! stream is held anywhere. Packing must never lose what the rest of the exchange or its access log
//! depends on; a field that is added to `Stream` does not compile until it is dealt with here.

use std::sync::Arc;

use moorgate_codecs::websocket::{Follower, Role};
use moorgate_codecs::{Compact, Head, StreamId};

use super::config::Http;
use super::facts::Endpoint;
use super::http::retry::RetryState;
use super::http::router_rules::Timeouts;
use super::stream::{Client, Lane, Stream, Times};
use crate::cluster::breaker::Permit;
use crate::engine::chunk::ByteQueue;
use crate::engine::parked::Deci;
use crate::engine::reactor::Addr;
use crate::engine::wheel::TimerLink;
use crate::filter::Filter;
use crate::route::Route;
use crate::telemetry::flags::NAMES;

/// A parked exchange: both codecs' remainders and the stream between them.
#[derive(Debug)]
pub struct Exchange {
    /// When the upstream connection was opened.
    pub(super) up_opened: Deci,
    /// Stream number on the upstream connection.
    pub(super) up_id: StreamId,
    /// Requests the upstream connection has carried.
    pub(super) up_requests: u32,
    /// Remainders of the downstream codec, then of the upstream one, when they fit.
    codecs: [u8; REMAINDERS],
    /// Lengths of the two.
    lengths: [u8; 2],
    stream: Silent,
}

/// Room for both codecs' remainders: two of HTTP/1.
const REMAINDERS: usize = 48;

/// With the slot and the cold block this is what a silent exchange costs. 224 is a size class of the
/// allocator.
const _: () = assert!(size_of::<Exchange>() <= 224);

impl Exchange {
    /// Packs an exchange. The stream must be silent: nothing of it is held.
    pub(super) fn of(
        stream: Stream,
        codecs: (&Compact, &Compact),
        (up_id, up_requests, up_opened_ms): (StreamId, u32, u64),
    ) -> Box<Self> {
        let mut exchange = Box::new(Self {
            up_opened: Deci::from_ms(up_opened_ms),
            up_id,
            up_requests,
            codecs: [0; REMAINDERS],
            lengths: [0; 2],
            stream: Silent::of(stream),
        });
        let (down, up) = (codecs.0.len(), codecs.1.len());
        if down + up <= REMAINDERS {
            exchange.codecs[..down].copy_from_slice(codecs.0);
            exchange.codecs[down..down + up].copy_from_slice(codecs.1);
            // Both are at most `REMAINDERS`.
            exchange.lengths = [down as u8, up as u8];
        } else {
            let rare = exchange.stream.rare.get_or_insert_default();
            rare.long_codecs = Some((codecs.0.clone(), codecs.1.clone()));
        }
        exchange
    }

    /// Remainders of the downstream and the upstream codec.
    pub(super) fn codecs(&self) -> (&[u8], &[u8]) {
        let rare = self.stream.rare.as_ref();
        if let Some((down, up)) = rare.and_then(|rare| rare.long_codecs.as_ref()) {
            return (down, up);
        }
        let [down, up] = self.lengths.map(usize::from);
        (&self.codecs[..down], &self.codecs[down..down + up])
    }

    /// Stream number on the downstream connection.
    pub(super) fn client_id(&self) -> StreamId {
        self.stream.client_id
    }

    /// The stream, wide again. It has neither client nor upstream yet.
    pub(super) fn into_stream(self, endpoint: Option<&Arc<Endpoint>>) -> Stream {
        self.stream.into_stream(endpoint)
    }
}

/// A parked session that an HTTP exchange was upgraded to: its stream waits for the log and the counters
/// of its end.
#[derive(Debug)]
pub struct Upgraded(Silent);

/// With slot and cold block at most 300 bytes, whatever the allocator rounds up: 160 is a size class of it.
const _: () = assert!(size_of::<Upgraded>() <= 160);

impl Upgraded {
    /// Packs a session's stream. The session left HTTP at `started_ms`. `frames`: those of a WebSocket's client
    /// and of its upstream.
    pub(super) fn of(stream: Stream, started_ms: u64, frames: Option<[Follower; 2]>) -> Box<Self> {
        let start = stream.started_ms;
        let mut silent = Silent {
            session_start: Since::of(started_ms, start),
            ..Silent::of(stream)
        };
        for (frames, bit) in frames.iter().flatten().zip(FRAMES_OVER) {
            if frames.is_over() {
                silent.more_bits |= bit;
            }
        }
        // Silence within a frame is rare.
        let within = |frames: &Follower| !frames.is_over() && !frames.is_at_boundary();
        if frames.iter().flatten().any(within) {
            silent.rare.get_or_insert_default().frames = frames;
        }
        Box::new(Self(silent))
    }

    /// Where the frames of a WebSocket's client and of its upstream end.
    pub(super) fn frames(&self) -> Option<[Follower; 2]> {
        if self.0.more_bits & more::WEBSOCKET == 0 {
            return None;
        }
        let within = self.0.rare.as_ref().and_then(|rare| rare.frames);
        within.or_else(|| {
            let [client, upstream] = FRAMES_OVER.map(|bit| self.0.more_bits & bit != 0);
            Some([
                Follower::resumed(Role::Server, client),
                Follower::resumed(Role::Client, upstream),
            ])
        })
    }

    /// When it left HTTP, ms.
    pub(super) fn started_ms(&self) -> u64 {
        self.0.session_start.at(self.0.started_ms)
    }

    /// The stream, wide again.
    pub(super) fn into_stream(self, endpoint: Option<&Arc<Endpoint>>) -> Stream {
        self.0.into_stream(endpoint)
    }
}

/// Bits of [`Silent::bits`].
mod bit {
    pub(super) const REQUEST_DONE: u16 = 1;
    pub(super) const REQUEST_HEAD_SENT: u16 = 1 << 1;
    pub(super) const REQUEST_SENT: u16 = 1 << 2;
    pub(super) const RESPONSE_DONE: u16 = 1 << 3;
    pub(super) const RESPONSE_HEAD_SENT: u16 = 1 << 4;
    pub(super) const RESPONSE_SENT: u16 = 1 << 5;
    pub(super) const AUTO_HOST_REWRITE: u16 = 1 << 6;
    pub(super) const ON_USED_CONNECTION: u16 = 1 << 7;
    pub(super) const IS_CONNECT: u16 = 1 << 8;
    pub(super) const ENVOY_HEADERS: u16 = 1 << 9;
    pub(super) const WANTS_REQUEST_ID: u16 = 1 << 10;
    pub(super) const INTERNAL_CLIENT: u16 = 1 << 11;
    pub(super) const REPLACED_DEAD: u16 = 1 << 12;
    pub(super) const UPGRADE: u16 = 1 << 13;
    pub(super) const HIGH_PRIORITY: u16 = 1 << 14;
    pub(super) const HAS_ENDPOINT: u16 = 1 << 15;
}

/// Bits of [`Silent::more_bits`].
mod more {
    pub(super) const ALT_RESPONSE: u16 = 1;
    /// The details are the ones of an answer that came from an upstream.
    pub(super) const VIA_UPSTREAM: u16 = 1 << 1;
    pub(super) const BODILESS: u16 = 1 << 2;
    pub(super) const WEBSOCKET: u16 = 1 << 3;
    pub(super) const NOT_GRPC: u16 = 1 << 4;
    pub(super) const TUNNEL: u16 = 1 << 5;
    pub(super) const REVERSE: u16 = 1 << 6;
    pub(super) const HTTP2: u16 = 1 << 7;
    pub(super) const WAS_GRPC: u16 = 1 << 8;
    pub(super) const GRPC_ANSWER: u16 = 1 << 9;
    /// The frames of a WebSocket's client, and of its upstream, are not followed any more.
    pub(super) const CLIENT_FRAMES_OVER: u16 = 1 << 10;
    pub(super) const UPSTREAM_FRAMES_OVER: u16 = 1 << 11;
}

const FRAMES_OVER: [u16; 2] = [more::CLIENT_FRAMES_OVER, more::UPSTREAM_FRAMES_OVER];

/// What the log says of a response that an upstream gave.
const VIA_UPSTREAM: &str = "via_upstream";

/// The highest flag fits in what is kept of them.
const _: () = assert!(NAMES.len() <= 32);

/// No number.
const NONE: u32 = u32::MAX;

/// A moment as its distance from the stream's start, ms, plus one; 0: not yet. What is further away than
/// 49 days is kept as that.
#[derive(Clone, Copy, Debug, Default)]
struct Since(u32);

impl Since {
    fn of(at: u64, start: u64) -> Self {
        if at == 0 {
            return Self(0);
        }
        let distance = at.saturating_sub(start).saturating_add(1);
        Self(u32::try_from(distance).unwrap_or(u32::MAX))
    }

    fn at(self, start: u64) -> u64 {
        match self.0 {
            0 => 0,
            distance => start + u64::from(distance) - 1,
        }
    }
}

/// What few exchanges have.
#[derive(Default)]
struct Rare {
    response_head: Option<Box<Head>>,
    retry_permit: Option<Permit>,
    request_id: Option<Box<[u8]>>,
    remote: Option<Addr>,
    direct_remote: Option<Addr>,
    local: Option<Addr>,
    direct_local: Option<Box<Addr>>,
    replay: Option<ByteQueue>,
    filters: Vec<Box<dyn Filter>>,
    held_at: usize,
    one_way: bool,
    tried: Vec<crate::cluster::HostId>,
    /// Why it ended as it will, where that is known already and not the usual.
    details: &'static str,
    response_end: u64,
    /// Remainders of codecs that keep more than HTTP/1 does.
    long_codecs: Option<(Compact, Compact)>,
    /// Timeouts and the idle timeout, where one does not fit in 32 bits or is the route's own.
    long_timeouts: Option<(Timeouts, u64)>,
    /// Of a WebSocket that is silent within a frame: its client's and its upstream's.
    frames: Option<[Follower; 2]>,
}

impl std::fmt::Debug for Rare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rare").finish_non_exhaustive()
    }
}

impl Rare {
    fn is_empty(&self) -> bool {
        self.response_head.is_none()
            && self.retry_permit.is_none()
            && self.request_id.is_none()
            && self.remote.is_none()
            && self.direct_remote.is_none()
            && self.local.is_none()
            && self.direct_local.is_none()
            && self.replay.is_none()
            && self.filters.is_empty()
            && self.held_at == 0
            && !self.one_way
            && self.tried.is_empty()
            && self.details.is_empty()
            && self.response_end == 0
            && self.long_timeouts.is_none()
            && self.frames.is_none()
    }
}

/// A packed stream.
#[derive(Debug)]
pub(super) struct Silent {
    client_id: StreamId,
    http: Arc<Http>,
    route: Option<Arc<Route>>,
    head: Option<Box<Head>>,
    retry: Option<Box<RetryState>>,
    rare: Option<Box<Rare>>,
    permit: Option<Permit>,
    request_bytes: u64,
    response_bytes: u64,
    started_ms: u64,
    stream_number: u64,
    /// Response flags: they fit.
    flags: u32,
    /// [`NONE`] when there is none.
    weighted: u32,
    /// [`NONE`] when there is none.
    cluster: u32,
    /// Saturates.
    attempts: u16,
    /// Global, per try, per try idle, whole upstream stream; ms.
    timeouts: [u32; 4],
    idle_timeout: u32,
    active: Since,
    try_started: Since,
    request_end: Since,
    upstream_start: Since,
    upstream_end: Since,
    response_start: Since,
    /// Of a session: when it left HTTP.
    session_start: Since,
    status: u16,
    bits: u16,
    more_bits: u16,
}

impl Silent {
    /// Packs a stream of which nothing is held.
    pub(super) fn of(stream: Stream) -> Self {
        let Stream {
            timer: _,
            client: _,
            client_id,
            upstream: _,
            waiting: _,
            http,
            request,
            response,
            head,
            response_head,
            route,
            weighted,
            cluster,
            tried,
            auto_host_rewrite,
            permit,
            on_used_connection,
            held_at,
            is_connect,
            websocket,
            bodiless,
            envoy_headers,
            wants_request_id,
            request_id,
            retry_permit,
            internal_client,
            remote,
            direct_remote,
            local,
            direct_local,
            endpoint,
            retry,
            replay,
            retry_at: _,
            replaced_dead,
            filters,
            pending: _,
            hold_body: _,
            attempts,
            started_ms,
            active_ms,
            idle_timeout_ms,
            timeouts,
            try_started_ms,
            times,
            status,
            flags,
            details,
            upgrade,
            tunnel,
            high_priority,
            one_way,
            reverse,
            http2,
            not_grpc,
            was_grpc,
            grpc_answer,
            stream_number,
        } = stream;
        let wide = [
            timeouts.global_ms,
            timeouts.per_try_ms,
            timeouts.per_try_idle_ms,
            timeouts.max_stream_ms,
            idle_timeout_ms,
        ];
        let narrow = wide.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX));
        // Few routes have a duration of their own: the others' is the connection manager's.
        let fits = wide.iter().all(|ms| u32::try_from(*ms).is_ok())
            && timeouts.stream_ms == http.max_stream_duration_ms;
        let mut bits = 0;
        for (on, bit) in [
            (request.done, bit::REQUEST_DONE),
            (request.head_sent, bit::REQUEST_HEAD_SENT),
            (request.sent, bit::REQUEST_SENT),
            (response.done, bit::RESPONSE_DONE),
            (response.head_sent, bit::RESPONSE_HEAD_SENT),
            (response.sent, bit::RESPONSE_SENT),
            (auto_host_rewrite, bit::AUTO_HOST_REWRITE),
            (on_used_connection, bit::ON_USED_CONNECTION),
            (is_connect, bit::IS_CONNECT),
            (envoy_headers, bit::ENVOY_HEADERS),
            (wants_request_id, bit::WANTS_REQUEST_ID),
            (internal_client, bit::INTERNAL_CLIENT),
            (replaced_dead, bit::REPLACED_DEAD),
            (upgrade, bit::UPGRADE),
            (high_priority, bit::HIGH_PRIORITY),
            (endpoint.is_some(), bit::HAS_ENDPOINT),
        ] {
            if on {
                bits |= bit;
            }
        }
        let via_upstream = details == VIA_UPSTREAM;
        let mut more_bits = 0;
        if timeouts.alt_response {
            more_bits |= more::ALT_RESPONSE;
        }
        if bodiless {
            more_bits |= more::BODILESS;
        }
        if websocket {
            more_bits |= more::WEBSOCKET;
        }
        if not_grpc {
            more_bits |= more::NOT_GRPC;
        }
        if was_grpc {
            more_bits |= more::WAS_GRPC;
        }
        if grpc_answer {
            more_bits |= more::GRPC_ANSWER;
        }
        if via_upstream {
            more_bits |= more::VIA_UPSTREAM;
        }
        if tunnel {
            more_bits |= more::TUNNEL;
        }
        if reverse {
            more_bits |= more::REVERSE;
        }
        if http2 {
            more_bits |= more::HTTP2;
        }
        let rare = Rare {
            response_head,
            retry_permit,
            request_id,
            remote,
            direct_remote,
            local,
            direct_local,
            replay,
            filters,
            held_at,
            one_way,
            tried,
            details: if via_upstream { "" } else { details },
            response_end: times.response_end,
            long_codecs: None,
            long_timeouts: (!fits).then_some((timeouts, idle_timeout_ms)),
            frames: None,
        };
        let since = |at| Since::of(at, started_ms);
        Self {
            client_id,
            http,
            route,
            head,
            retry,
            rare: (!rare.is_empty()).then(|| Box::new(rare)),
            permit,
            request_bytes: request.bytes,
            response_bytes: response.bytes,
            started_ms,
            stream_number,
            flags: flags as u32,
            weighted: weighted.unwrap_or(NONE),
            cluster: cluster.map_or(NONE, |cluster| cluster.0),
            attempts: u16::try_from(attempts).unwrap_or(u16::MAX),
            timeouts: [narrow[0], narrow[1], narrow[2], narrow[3]],
            idle_timeout: narrow[4],
            active: since(active_ms),
            try_started: since(try_started_ms),
            request_end: since(times.request_end),
            upstream_start: since(times.upstream_start),
            upstream_end: since(times.upstream_end),
            response_start: since(times.response_start),
            session_start: Since::default(),
            status,
            bits,
            more_bits,
        }
    }

    /// The stream, wide again. It has neither client nor upstream yet.
    pub(super) fn into_stream(self, endpoint: Option<&Arc<Endpoint>>) -> Stream {
        let rare = self.rare.map(|rare| *rare).unwrap_or_default();
        let has = |bit: u16| self.bits & bit != 0;
        let start = self.started_ms;
        let [global, per_try, per_try_idle, max_stream] = self.timeouts.map(u64::from);
        let (timeouts, idle_timeout_ms) = rare.long_timeouts.unwrap_or_else(|| {
            (
                Timeouts {
                    global_ms: global,
                    per_try_ms: per_try,
                    per_try_idle_ms: per_try_idle,
                    max_stream_ms: max_stream,
                    stream_ms: self.http.max_stream_duration_ms,
                    alt_response: self.more_bits & more::ALT_RESPONSE != 0,
                },
                u64::from(self.idle_timeout),
            )
        });
        Stream {
            timer: TimerLink::default(),
            client: Client::Gone,
            client_id: self.client_id,
            upstream: None,
            waiting: None,
            http: self.http,
            request: Lane {
                done: has(bit::REQUEST_DONE),
                head_sent: has(bit::REQUEST_HEAD_SENT),
                sent: has(bit::REQUEST_SENT),
                bytes: self.request_bytes,
                ..Lane::default()
            },
            response: Lane {
                done: has(bit::RESPONSE_DONE),
                head_sent: has(bit::RESPONSE_HEAD_SENT),
                sent: has(bit::RESPONSE_SENT),
                bytes: self.response_bytes,
                ..Lane::default()
            },
            head: self.head,
            response_head: rare.response_head,
            route: self.route,
            weighted: Some(self.weighted).filter(|index| *index != NONE),
            cluster: Some(self.cluster)
                .filter(|id| *id != NONE)
                .map(crate::cluster::ClusterId),
            tried: rare.tried,
            auto_host_rewrite: has(bit::AUTO_HOST_REWRITE),
            permit: self.permit,
            on_used_connection: has(bit::ON_USED_CONNECTION),
            held_at: rare.held_at,
            is_connect: has(bit::IS_CONNECT),
            websocket: self.more_bits & more::WEBSOCKET != 0,
            bodiless: self.more_bits & more::BODILESS != 0,
            envoy_headers: has(bit::ENVOY_HEADERS),
            wants_request_id: has(bit::WANTS_REQUEST_ID),
            request_id: rare.request_id,
            retry_permit: rare.retry_permit,
            internal_client: has(bit::INTERNAL_CLIENT),
            remote: rare.remote,
            direct_remote: rare.direct_remote,
            local: rare.local,
            direct_local: rare.direct_local,
            endpoint: endpoint.filter(|_| has(bit::HAS_ENDPOINT)).cloned(),
            retry: self.retry,
            replay: rare.replay,
            retry_at: None,
            replaced_dead: has(bit::REPLACED_DEAD),
            filters: rare.filters,
            pending: None,
            hold_body: None,
            attempts: u32::from(self.attempts),
            started_ms: start,
            active_ms: self.active.at(start),
            idle_timeout_ms,
            timeouts,
            try_started_ms: self.try_started.at(start),
            times: Times {
                request_end: self.request_end.at(start),
                upstream_start: self.upstream_start.at(start),
                upstream_end: self.upstream_end.at(start),
                response_start: self.response_start.at(start),
                response_end: rare.response_end,
            },
            status: self.status,
            flags: u64::from(self.flags),
            details: if self.more_bits & more::VIA_UPSTREAM == 0 {
                rare.details
            } else {
                VIA_UPSTREAM
            },
            upgrade: has(bit::UPGRADE),
            tunnel: self.more_bits & more::TUNNEL != 0,
            high_priority: has(bit::HIGH_PRIORITY),
            one_way: rare.one_way,
            reverse: self.more_bits & more::REVERSE != 0,
            http2: self.more_bits & more::HTTP2 != 0,
            not_grpc: self.more_bits & more::NOT_GRPC != 0,
            was_grpc: self.more_bits & more::WAS_GRPC != 0,
            grpc_answer: self.more_bits & more::GRPC_ANSWER != 0,
            stream_number: self.stream_number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_as_a_distance() {
        for (at, start) in [(0, 77), (77, 77), (78, 77), (77 + 40 * 86_400_000, 77)] {
            assert_eq!(Since::of(at, start).at(start), at);
        }
        let far = 77 + 60 * 86_400_000;
        assert_eq!(Since::of(far, 77).at(77), 77 + u64::from(u32::MAX) - 1);
    }

    #[test]
    fn nothing_of_a_stream_is_lost() {
        let bed = crate::proxy::tests::Bed::new(1 << 20);
        let http = Arc::new(bed.http(crate::proxy::tests::HttpPlan::default(), "c"));
        let key = crate::engine::slab::Key {
            index: 1,
            generation: 1,
        };
        let mut stream = Stream::new(key, 7, http, 1_000);
        stream.request.done = true;
        stream.request.sent = true;
        stream.request.bytes = 3;
        stream.response.head_sent = true;
        stream.response.bytes = 1 << 40;
        stream.weighted = Some(2);
        stream.status = 200;
        stream.flags = 1 << (NAMES.len() - 1);
        stream.details = "via_upstream";
        stream.attempts = 2;
        stream.active_ms = 1_500;
        stream.idle_timeout_ms = 300_000;
        stream.timeouts.global_ms = 1 << 40;
        stream.times.response_start = 1_200;
        stream.times.upstream_end = 1_100;
        stream.request_id = Some((*b"an id").into());
        stream.stream_number = 99;
        stream.upgrade = true;
        // Its usual state needs nothing but the block itself.
        stream.timeouts.global_ms = 15_000;
        stream.request_id = None;
        let usual = Silent::of(stream);
        assert!(usual.rare.is_none(), "{usual:?}");
        let mut stream = usual.into_stream(None);
        stream.timeouts.global_ms = 1 << 40;
        stream.request_id = Some((*b"an id").into());
        let exchange = Exchange::of(
            stream,
            (&Compact::from(*b"down"), &Compact::from(*b"up")),
            (9, 5, 900),
        );
        assert_eq!(exchange.codecs(), (&b"down"[..], &b"up"[..]));
        assert_eq!((exchange.up_id, exchange.up_requests), (9, 5));
        assert_eq!(exchange.up_opened.ms(), 900);
        let long = Compact::from([7; REMAINDERS]);
        let keeps_much = Exchange::of(
            exchange.into_stream(None),
            (&long, &Compact::from(*b"up")),
            (9, 5, 900),
        );
        assert_eq!(keeps_much.codecs(), (&*long, &b"up"[..]));
        let exchange = keeps_much;
        assert_eq!(exchange.client_id(), 7);
        let back = exchange.into_stream(None);
        assert!(back.request.done && back.request.sent && !back.request.head_sent);
        assert!(back.response.head_sent && !back.response.done && back.upgrade);
        assert_eq!((back.request.bytes, back.response.bytes), (3, 1 << 40));
        assert_eq!(
            (back.weighted, back.status, back.flags),
            (Some(2), 200, 1 << (NAMES.len() - 1))
        );
        assert_eq!((back.details, back.attempts), ("via_upstream", 2));
        assert_eq!((back.active_ms, back.idle_timeout_ms), (1_500, 300_000));
        assert_eq!(back.timeouts.global_ms, 1 << 40);
        assert_eq!(
            (back.times.response_start, back.times.response_end),
            (1_200, 0)
        );
        assert_eq!(back.request_id.as_deref(), Some(&b"an id"[..]));
        assert_eq!(back.times.upstream_end, 1_100);
        assert_eq!((back.started_ms, back.stream_number), (1_000, 99));
    }
}
