//! One request and its response.
//!
//! A stream names its connections by key and owns what is in flight between them: two lanes, one for
//! each direction, with what a peer's window or a missing upstream holds back. It never touches a
//! socket.

use std::sync::Arc;

use moorgate_codecs::{Head, StreamId};

use super::config::Http;
use super::facts::Endpoint;
use super::http::retry::RetryState;
use super::http::router_rules::Timeouts;
use crate::cluster::breaker::Permit;
use crate::engine::chunk::ByteQueue;
use crate::engine::reactor::Addr;
use crate::engine::slab::{Key, PagedSlab};
use crate::engine::wheel::{TimerLink, TimerStore};
use crate::filter::{Filter, Token};
use crate::route::{Action, Route};

/// Directions of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the client to the upstream.
    Request,
    /// From the upstream to the client.
    Response,
}

/// One direction of a stream.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// What cannot be passed on yet.
    pub(super) buffer: ByteQueue,
    /// Trailers that wait behind the buffer.
    pub(super) trailers: Option<Box<Head>>,
    /// Body bytes whose credit was not given back to the source.
    pub(super) unreleased: usize,
    /// The source has said all.
    pub(super) done: bool,
    /// The head went to the destination.
    pub(super) head_sent: bool,
    /// All of it went to the destination.
    pub(super) sent: bool,
    /// Body bytes received.
    pub(super) bytes: u64,
}

/// Where a stream's client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// A resident connection.
    Resident(Key),
    /// Nobody: the peer went, the stream only waits to be cleaned up.
    Gone,
}

/// A filter call that has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingCall {
    pub(super) token: Token,
    pub(super) way: Way,
    /// Next filter in that direction.
    pub(super) next: usize,
}

/// When things happened, ms on the worker's clock (0: not yet).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) request_end: u64,
    pub(super) upstream_start: u64,
    pub(super) upstream_end: u64,
    pub(super) response_start: u64,
    pub(super) response_end: u64,
}

/// A stream.
pub(super) struct Stream {
    pub(super) timer: TimerLink,
    pub(super) client: Client,
    pub(super) client_id: StreamId,
    /// Upstream connection and stream number there.
    pub(super) upstream: Option<(Key, StreamId)>,
    /// Waits in this host's queue for a connection.
    pub(super) waiting: Option<crate::cluster::PoolId>,
    pub(super) http: Arc<Http>,
    pub(super) request: Lane,
    pub(super) response: Lane,
    /// Kept until the request cannot be tried again, and for the access log.
    pub(super) head: Option<Box<Head>>,
    /// Response head, kept for the access log when that wants it or while a filter is pending.
    pub(super) response_head: Option<Box<Head>>,
    pub(super) route: Option<Arc<Route>>,
    pub(super) weighted: Option<u32>,
    pub(super) cluster: Option<crate::cluster::ClusterId>,
    /// Hosts that were tried, when a retry is to avoid them.
    pub(super) tried: Vec<crate::cluster::HostId>,
    pub(super) auto_host_rewrite: bool,
    /// Counted in the breaker's active requests.
    pub(super) permit: Option<Permit>,
    /// The connection it was sent on had carried requests before.
    pub(super) on_used_connection: bool,
    /// The filter whose body is held back.
    pub(super) held_at: usize,
    pub(super) is_connect: bool,
    /// It wants to become a WebSocket.
    pub(super) websocket: bool,
    /// The request was all said with its head.
    pub(super) bodiless: bool,
    /// `x-envoy-*` fields came with the request.
    pub(super) envoy_headers: bool,
    pub(super) wants_request_id: bool,
    /// Kept for the response.
    pub(super) request_id: Option<Box<[u8]>>,
    /// Counted among active retries.
    pub(super) retry_permit: Option<Permit>,
    pub(super) internal_client: bool,
    /// Addresses for logs: client as told, peer, our end.
    pub(super) remote: Option<Addr>,
    pub(super) direct_remote: Option<Addr>,
    pub(super) local: Option<Addr>,
    /// Our end of the socket, where a PROXY header tells another: 8 bytes, seldom more.
    pub(super) direct_local: Option<Box<Addr>>,
    pub(super) endpoint: Option<Arc<Endpoint>>,
    pub(super) retry: Option<Box<RetryState>>,
    /// Body kept for another try.
    pub(super) replay: Option<ByteQueue>,
    /// Try again then, ms.
    pub(super) retry_at: Option<u64>,
    /// A connection that turned out dead was replaced once already.
    pub(super) replaced_dead: bool,
    pub(super) filters: Vec<Box<dyn Filter>>,
    pub(super) pending: Option<PendingCall>,
    /// Body bytes are held back for a filter, up to so many.
    pub(super) hold_body: Option<usize>,
    pub(super) attempts: u32,
    pub(super) started_ms: u64,
    pub(super) active_ms: u64,
    pub(super) idle_timeout_ms: u64,
    pub(super) timeouts: Timeouts,
    pub(super) try_started_ms: u64,
    pub(super) times: Times,
    pub(super) status: u16,
    pub(super) flags: u64,
    pub(super) details: &'static str,
    /// The request asks to leave HTTP and the route lets it.
    pub(super) upgrade: bool,
    /// It left HTTP and stays a stream, because one of its connections has others.
    pub(super) tunnel: bool,
    pub(super) high_priority: bool,
    pub(super) one_way: bool,
    /// The upstream opened this stream towards the client.
    pub(super) reverse: bool,
    /// Its client speaks HTTP/2.
    pub(super) http2: bool,
    /// It did not come as gRPC, whatever a filter made of it.
    pub(super) not_grpc: bool,
    /// It came as gRPC, whatever a filter made of it.
    pub(super) was_grpc: bool,
    /// The answer is gRPC over HTTP/2, which ends with a status.
    pub(super) grpc_answer: bool,
    pub(super) stream_number: u64,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("client", &self.client)
            .field("client_id", &self.client_id)
            .field("upstream", &self.upstream)
            .field("waiting", &self.waiting)
            .field("request", &self.request)
            .field("response", &self.response)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(client: Key, client_id: StreamId, http: Arc<Http>, now: u64) -> Self {
        let stream_ms = http.max_stream_duration_ms;
        Self {
            timer: TimerLink::default(),
            client: Client::Resident(client),
            client_id,
            upstream: None,
            waiting: None,
            idle_timeout_ms: http.stream_idle_timeout_ms,
            http,
            request: Lane::default(),
            response: Lane::default(),
            head: None,
            response_head: None,
            route: None,
            weighted: None,
            cluster: None,
            tried: Vec::new(),
            auto_host_rewrite: false,
            permit: None,
            on_used_connection: false,
            held_at: 0,
            is_connect: false,
            websocket: false,
            bodiless: false,
            remote: None,
            direct_remote: None,
            local: None,
            direct_local: None,
            endpoint: None,
            retry: None,
            replay: None,
            retry_at: None,
            replaced_dead: false,
            filters: Vec::new(),
            pending: None,
            hold_body: None,
            attempts: 0,
            started_ms: now,
            active_ms: now,
            timeouts: Timeouts {
                stream_ms,
                ..Timeouts::default()
            },
            envoy_headers: false,
            wants_request_id: false,
            internal_client: false,
            request_id: None,
            retry_permit: None,
            try_started_ms: 0,
            times: Times::default(),
            status: 0,
            flags: 0,
            details: "",
            upgrade: false,
            tunnel: false,
            high_priority: false,
            one_way: false,
            reverse: false,
            http2: false,
            not_grpc: false,
            was_grpc: false,
            grpc_answer: false,
            stream_number: 0,
        }
    }

    /// Its answer has begun and can be ended by a gRPC status in trailers.
    pub(super) fn ends_with_status(&self) -> bool {
        self.grpc_answer && self.response.head_sent && !self.response.done
    }

    pub(super) fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Request => &self.request,
            Way::Response => &self.response,
        }
    }

    pub(super) fn lane_mut(&mut self, way: Way) -> &mut Lane {
        match way {
            Way::Request => &mut self.request,
            Way::Response => &mut self.response,
        }
    }

    /// The client's connection, when it is resident.
    pub(super) fn client_key(&self) -> Option<Key> {
        match self.client {
            Client::Resident(key) => Some(key),
            Client::Gone => None,
        }
    }

    /// Connection and stream number that a lane's bytes come from.
    pub(super) fn source(&self, way: Way) -> Option<(Key, StreamId)> {
        self.end(way == Way::Request)
    }

    /// Connection and stream number that a lane's bytes go to.
    pub(super) fn destination(&self, way: Way) -> Option<(Key, StreamId)> {
        self.end(way == Way::Response)
    }

    fn end(&self, client: bool) -> Option<(Key, StreamId)> {
        if client != self.reverse {
            self.client_key().map(|key| (key, self.client_id))
        } else {
            self.upstream
        }
    }

    /// It is a CONNECT that ends here: its payload is what the upstream gets.
    pub(super) fn terminates(&self) -> bool {
        self.is_connect
            && self.route.as_ref().is_some_and(|route| {
                matches!(&route.action, Action::Forward(forward) if forward.terminate_connect)
            })
    }

    /// It asks to leave HTTP with more than a CONNECT: whom it is sent to has to take that.
    pub(super) fn leaves_http(&self) -> bool {
        self.upgrade && !self.is_connect
    }

    /// When the time of the try that is under way began, ms: its connection was there and the request
    /// had come in.
    pub(super) fn try_since(&self) -> Option<u64> {
        (self.try_under_way() && self.asked_all())
            .then(|| self.try_started_ms.max(self.times.request_end))
    }

    /// A filter holds the head of the response back.
    pub(super) fn holds_response(&self) -> bool {
        self.hold_body.is_some() && self.response_head.is_some()
    }

    /// The client has said all, and no tunnel is asked for: from then on the router's timeouts run.
    pub(super) fn asked_all(&self) -> bool {
        self.request.done && !self.upgrade
    }

    fn try_under_way(&self) -> bool {
        self.try_started_ms > 0 && !self.response.done
    }

    /// The earliest of this stream's deadlines; `u64::MAX` when there is none.
    pub(super) fn deadline(&self) -> u64 {
        let mut due = u64::MAX;
        let mut at = |since: u64, timeout: u64| {
            if timeout > 0 {
                due = due.min(since + timeout);
            }
        };
        at(self.active_ms, self.idle_timeout_ms);
        at(self.started_ms, self.timeouts.stream_ms);
        if self.request.done {
            if self.asked_all() && !self.response.sent {
                at(self.times.request_end, self.timeouts.global_ms);
            }
        } else if !self.upgrade {
            at(self.started_ms, self.http.request_timeout_ms);
        }
        if let Some(since) = self.try_since() {
            if !self.response.head_sent {
                at(since, self.timeouts.per_try_ms);
            }
            at(since.max(self.active_ms), self.timeouts.per_try_idle_ms);
        }
        if self.try_under_way() {
            at(self.try_started_ms, self.timeouts.max_stream_ms);
        }
        if let Some(retry_at) = self.retry_at {
            due = due.min(retry_at);
        }
        due
    }
}

/// What a single try ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TryLimit {
    /// No response within the timeout of a try.
    Time,
    /// Nothing came for its idle timeout.
    Idle,
    /// The upstream's stream lived as long as it may.
    Duration,
}

impl Stream {
    /// The limit of the try under way that has passed.
    pub(super) fn try_limit_passed(&self, now: u64) -> Option<TryLimit> {
        let passed = |since: u64, timeout: u64| timeout > 0 && since + timeout <= now;
        let timeouts = &self.timeouts;
        if self.try_under_way() && passed(self.try_started_ms, timeouts.max_stream_ms) {
            return Some(TryLimit::Duration);
        }
        let since = self.try_since()?;
        if !self.response.head_sent && passed(since, timeouts.per_try_ms) {
            Some(TryLimit::Time)
        } else if passed(since.max(self.active_ms), timeouts.per_try_idle_ms) {
            Some(TryLimit::Idle)
        } else {
            None
        }
    }
}

/// The streams of a worker.
#[derive(Debug, Default)]
pub(super) struct Streams(pub(super) PagedSlab<Stream>);

impl TimerStore for Streams {
    fn link(&mut self, index: u32) -> &mut TimerLink {
        // The wheel only names streams that it linked, and a stream is unlinked before it is freed.
        &mut self
            .0
            .get_mut(index)
            .expect("timer of a freed stream")
            .timer
    }
}
