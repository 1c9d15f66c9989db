//! What streams and sessions tell their access logs.

use std::sync::Arc;

use moorgate_codecs::Version;

use super::config::TcpProxy;
use super::facts::Endpoint;
use super::gateway::{Core, Gateway};
use super::stream::Stream;
use super::tunnel;
use crate::cluster::Cluster;
use crate::engine::reactor::Reactor;
use crate::engine::slab::Key;
use crate::telemetry::record::{Record, Timings, TlsRecord};
use crate::tls::{Agreed, suite_name};

impl Gateway {
    /// Writes a stream that ends to its connection manager's logs.
    pub(super) fn log_stream<R: Reactor>(&mut self, core: &mut Core<R>, key: Key) {
        let now = core.now();
        let wall = self.clock.wall_us(now);
        let Some(stream) = self.streams.0.get_key(key) else {
            return;
        };
        let since = |at: u64| (at > 0).then(|| at.saturating_sub(stream.started_ms) * 1000);
        let timings = Timings {
            request_end: since(stream.times.request_end),
            upstream_tx_start: since(stream.times.upstream_start),
            upstream_tx_end: since(stream.times.upstream_end),
            upstream_rx_start: since(stream.times.response_start),
            upstream_rx_end: since(stream.times.response_end),
            downstream_tx_start: since(stream.times.response_start),
            downstream_tx_end: since(stream.times.response_end),
            end: since(now).or(Some(0)),
        };
        let endpoint = stream.endpoint.as_deref();
        let agreed = stream
            .client_key()
            .and_then(|key| self.conns.get_key(key)?.tls.as_ref())
            .map(|tls| tls.agreed());
        let cluster = stream
            .cluster
            .and_then(|id| self.snapshot.clusters.get(&id));
        // What could not be read as a request had no version of its own.
        let spoken = || stream.http.codec.is_none().then_some(Version::Http11);
        let record = Record {
            request: stream.head.as_deref(),
            response: stream.response_head.as_deref(),
            trailers: stream.response.trailers.as_deref(),
            protocol: stream
                .head
                .as_ref()
                .map(|head| head.version)
                .or_else(spoken),
            status: stream.status,
            details: stream.details,
            flags: stream.flags,
            bytes_received: stream.request.bytes,
            bytes_sent: stream.response.bytes,
            start_us: wall.saturating_sub((now - stream.started_ms) * 1000),
            timings,
            downstream_remote: stream.remote.as_ref(),
            downstream_direct_remote: stream.direct_remote.as_ref(),
            downstream_local: stream.local.as_ref(),
            downstream_direct_local: stream.direct_local.as_deref().or(stream.local.as_ref()),
            connection: stream.stream_number,
            route: stream.route.as_ref().map_or("", |route| &route.name),
            attempts: stream.attempts,
            tls: agreed.map(Self::tls_record),
            ..Self::upstream_record(endpoint, cluster.map(|cluster| &**cluster))
        };
        for log in &stream.http.access_logs {
            self.logs.write(log, &record);
        }
    }

    fn tls_record(agreed: &Agreed) -> TlsRecord<'_> {
        TlsRecord {
            version: agreed.version_name(),
            cipher: suite_name(agreed.suite),
            peer: agreed.peer.as_deref().map(|peer| peer as _),
        }
    }

    fn upstream_record<'a>(
        endpoint: Option<&'a Endpoint>,
        cluster: Option<&'a Cluster>,
    ) -> Record<'a> {
        let cluster = endpoint.map(|endpoint| &*endpoint.cluster).or(cluster);
        Record {
            upstream_host: endpoint.map(|endpoint| &endpoint.host.addr),
            upstream_hostname: endpoint.map_or("", |endpoint| &endpoint.host.hostname),
            upstream_cluster: cluster.map_or("", |cluster| &cluster.stat_name),
            upstream_cluster_raw: cluster.map_or("", |cluster| &cluster.name),
            ..Record::default()
        }
    }

    /// Writes a session that ends to its TCP proxy's logs.
    pub(super) fn log_session(
        &mut self,
        tcp: &Arc<TcpProxy>,
        facts: &tunnel::Facts,
        endpoint: Option<&Endpoint>,
        agreed: Option<&Agreed>,
        now: u64,
    ) {
        let ends = facts.addresses.as_deref();
        let wall = self.clock.wall_us(now);
        let lasted = now.saturating_sub(facts.started_ms) * 1000;
        let record = Record {
            flags: facts.flags,
            bytes_received: facts.received,
            bytes_sent: facts.sent,
            start_us: wall.saturating_sub(lasted),
            timings: Timings {
                end: Some(lasted),
                ..Timings::default()
            },
            downstream_remote: ends.map(|ends| &ends.remote),
            downstream_direct_remote: ends.map(|ends| &ends.direct_remote),
            downstream_local: ends.map(|ends| &ends.local),
            downstream_direct_local: ends.map(|ends| &ends.direct_local),
            server_name: ends
                .and_then(|ends| ends.server_name.as_deref())
                .unwrap_or_default(),
            tls: agreed.map(Self::tls_record),
            connection: facts.number,
            attempts: facts.attempts,
            ..Self::upstream_record(endpoint, None)
        };
        for log in &tcp.access_logs {
            self.logs.write(log, &record);
        }
    }

    /// A tunnel whose record ended while it was parked.
    pub(super) fn account_parked_tunnel<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        mut facts: Box<tunnel::Facts>,
        endpoint: Option<&Endpoint>,
        agreed: Option<&Agreed>,
    ) {
        let now = core.now();
        match &facts.origin {
            tunnel::Origin::Tcp(tcp) => {
                let tcp = Arc::clone(tcp);
                self.log_session(&tcp, &facts, endpoint, agreed, now);
            }
            tunnel::Origin::Upgrade(http) => {
                self.stats
                    .gauge(http.stats.downstream_cx_upgrades_active, -1);
                self.account_upgraded_close(http);
            }
        }
        if let Some(stream) = facts.stream.take() {
            self.end_upgraded(core, *stream, facts.payload());
        }
    }

    /// The exchange that became a tunnel was open all the time; it ends with its session.
    pub(super) fn end_upgraded<R: Reactor>(
        &mut self,
        core: &mut Core<R>,
        mut stream: Stream,
        (received, sent): (u64, u64),
    ) {
        stream.request.bytes += received;
        stream.response.bytes += sent;
        stream.times.response_end = core.now();
        let key = self.streams.0.insert(stream);
        self.end_stream(core, key);
    }
}
