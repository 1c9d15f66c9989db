//! What HTTP/2 connections need of the proxy beyond what every protocol gets: who makes their codecs,
//! how a connection becomes one, signs of life, and counters.
//!
//! Nothing here looks at frames; the codec knows them, and says by name what happened.

use std::sync::Arc;

use moorgate_codecs::http2::{Connection, Role, Settings};
use moorgate_codecs::{Codec, Shape};

use super::config::Http;
use super::conn::{Conn, Role as ConnRole};
use super::facts::Endpoint;
use super::gateway::{Core, Gateway};
use crate::cluster::CodecFactory;
use crate::engine::arena::Span;
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;
use crate::telemetry::stats::{Counter, Http2Stats};

/// Makes HTTP/2 codecs for the connections of one listener or cluster.
#[derive(Debug)]
pub struct Http2 {
    /// Which side.
    pub role: Role,
    /// Settings and limits.
    pub settings: Arc<Settings>,
    /// Counters.
    pub stats: Http2Stats,
}

impl CodecFactory for Http2 {
    fn make(&self) -> Box<dyn Codec> {
        Box::new(Connection::new(self.role, Arc::clone(&self.settings)))
    }

    fn unpark(&self, compact: &[u8]) -> Box<dyn Codec> {
        let settings = Arc::clone(&self.settings);
        Box::new(Connection::unpark(self.role, settings, compact))
    }

    fn http2(&self) -> Option<&Http2Stats> {
        Some(&self.stats)
    }
}

/// The counter of what a codec noticed.
fn counter(stats: &Http2Stats, name: &str) -> Option<Counter> {
    Some(match name {
        "http2.trailers" => stats.trailers,
        "http2.rx_reset" => stats.rx_reset,
        "http2.goaway_sent" => stats.goaway_sent,
        "http2.stream_refused" => stats.stream_refused_errors,
        "http2.headers_too_large" | "http2.too_many_headers" => stats.header_overflow,
        "http2.outbound_frames_flood" => stats.outbound_flood,
        "http2.outbound_control_frames_flood" => stats.outbound_control_flood,
        "http2.inbound_empty_frames_flood" => stats.inbound_empty_frames_flood,
        "http2.inbound_priority_frames_flood" => stats.inbound_priority_frames_flood,
        "http2.inbound_window_update_frames_flood" => stats.inbound_window_update_frames_flood,
        "http2.inbound_reset_frames_flood" => stats.inbound_reset_frames_flood,
        "http2.continuation_flood" => stats.continuation_flood,
        "http2.too_many_premature_resets" => stats.too_many_premature_resets,
        "http2.truncated_frame" => return None,
        _ => stats.rx_messaging_error,
    })
}

impl Http {
    /// Counters of its clients that speak HTTP/2.
    pub(super) fn http2_stats(&self) -> Option<&Http2Stats> {
        self.codec.as_ref().or(self.http2.as_ref())?.http2()
    }
}

impl Endpoint {
    /// Counters of a stream towards it, if HTTP/2 is spoken for that.
    pub(super) fn http2_stats(&self, raw: bool) -> Option<&Http2Stats> {
        self.codec().filter(|_| !raw)?.http2()
    }
}

impl Gateway {
    fn http2_stats(&self, key: Key) -> Option<&Http2Stats> {
        match &self.conn(key)?.role {
            ConnRole::Down(down) => down.http.http2_stats(),
            ConnRole::Up(up) => up.endpoint.codec()?.http2(),
            ConnRole::Tunnel(_) | ConnRole::Detecting(_) | ConnRole::Waking => None,
        }
    }

    /// Counts what a codec noticed in its last call.
    pub(super) fn count_notes(&mut self, key: Key) {
        let mut notes = std::mem::take(&mut self.events.notes);
        if let Some(stats) = self.http2_stats(key) {
            for name in &notes {
                if let Some(counter) = counter(stats, name) {
                    self.stats.inc(counter);
                }
            }
        }
        notes.clear();
        self.events.notes = notes;
    }

    /// A client opened a stream.
    pub(super) fn note_http2_stream(&mut self, key: Key) {
        let Some(stream) = self.streams.0.get_key_mut(key) else {
            return;
        };
        if let Some(stats) = stream.http.http2_stats() {
            self.stats.gauge(stats.streams_active, 1);
            stream.http2 = true;
        }
    }

    /// Counts the breach of protocol that ended a connection.
    pub(super) fn count_breach(&self, key: Key, name: &str) {
        if let Some(stats) = self.http2_stats(key)
            && let Some(counter) = counter(stats, name)
        {
            self.stats.inc(counter);
        }
    }

    /// Counts a stream that we gave up.
    pub(super) fn count_tx_reset(&self, key: Key) {
        if let Some(stats) = self.http2_stats(key)
            && self.is_multiplexed(key)
        {
            self.stats.inc(stats.tx_reset);
        }
    }

    pub(super) fn is_multiplexed(&self, key: Key) -> bool {
        self.conn(key).is_some_and(|conn| match &conn.role {
            ConnRole::Down(down) => down.codec.shape() == Shape::Multiplex,
            ConnRole::Up(up) => up.codec.shape() == Shape::Multiplex,
            ConnRole::Tunnel(_) | ConnRole::Detecting(_) | ConnRole::Waking => false,
        })
    }

    /// A stream has a multiplexed connection on either side.
    pub(super) fn is_shared(&self, stream: Key) -> bool {
        let Some(stream) = self.stream(stream) else {
            return false;
        };
        let upstream = stream.upstream.map(|(key, _)| key);
        let ends = stream.client_key().into_iter().chain(upstream);
        ends.into_iter().any(|key| self.is_multiplexed(key))
    }

    /// A client began with the preface of HTTP/2, and may. False: nobody speaks it here.
    pub(super) fn switch_to_http2<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) -> bool {
        let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) else {
            return false;
        };
        let Some(factory) = down.http.http2.clone() else {
            return false;
        };
        down.codec = factory.make();
        let stats = down.http.stats;
        self.stats.gauge(stats.downstream_cx_http1_active, -1);
        self.stats.gauge(stats.downstream_cx_http2_active, 1);
        self.stats.inc(stats.downstream_cx_http2_total);
        self.rearm_client_timer(core, key);
        true
    }

    /// Tells a client that its connection takes no more requests; it ends with those that are open.
    pub(super) fn leave<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let Some(down) = self.conn_mut(key).and_then(Conn::down_mut) else {
            return;
        };
        down.draining = true;
        if down.codec.shape() == Shape::Multiplex {
            let none = Span { start: 0, len: 0 };
            self.encode(key, none, |codec, out| codec.go_away(out));
            // A peer that does not say that it knows is not waited for without end.
            self.rearm_client_timer(core, key);
        }
        self.client_quiet(core, key);
    }

    /// The time of a codec has come: it asks for a sign of life, or gives up. False: the connection is
    /// gone.
    pub(super) fn codec_due<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) -> bool {
        let now = core.now();
        let codec = self.conn_mut(key).and_then(Conn::codec_mut);
        if codec.is_none_or(|codec| codec.next_deadline().is_none_or(|due| due > now)) {
            return true;
        }
        let none = Span { start: 0, len: 0 };
        let alive = self.encode(key, none, |codec, out| codec.on_deadline(now, out));
        if alive == Some(false) {
            if let Some(stats) = self.http2_stats(key) {
                self.stats.inc(stats.keepalive_timeout);
            }
            self.peer_gone(core, key, true);
            return false;
        }
        if let Some(down) = self.conn(key).and_then(Conn::down)
            && down.draining
        {
            self.client_quiet(core, key);
        }
        self.conn(key).is_some()
    }
}
