//! Listener filters in the simulator: whatever the pieces in which a client's first bytes arrive, it gets
//! the filter chain they ask for, every byte reaches the upstream, and waiting costs no turn.

use std::sync::Arc;

use moorgate_codecs::preface::proxy;

use super::sim::addr;
use super::{Bed, HttpPlan, Plan, stats_of};
use crate::cluster::ClusterConfig;
use crate::engine::reactor::sim::{Config, Faults, SimListener, SimPeer, SimReactor, SimWorld};
use crate::engine::reactor::{Addr, Reactor as _};
use crate::engine::worker::Worker;
use crate::proxy::chain_match::{Chooser, Match, SourceType};
use crate::proxy::config::{
    Listener, ListenerFilter, ListenerFilters, NetworkFilter, ProxyProtocol, Rules,
};
use crate::proxy::facts::Message;
use crate::proxy::{Gateway, Tuning};
use crate::telemetry::stats::{
    HttpInspectorStats, ProxyProtocolStats, ProxyVersionStats, TlsInspectorStats,
};

const CLUSTERS: [&str; 4] = ["tls", "http", "told", "rest"];
const TLS: usize = 0;
const HTTP: usize = 1;
const TOLD: usize = 2;
const REST: usize = 3;

/// A client of this network is told by a PROXY header.
const TOLD_CLIENT: &str = "203.0.113.7:4711";

fn filters(bed: &Bed, optional: bool, continue_on_timeout: bool) -> Box<ListenerFilters> {
    let names = stats_of(&bed.registry);
    let of =
        |version: &str| ProxyVersionStats::new(names, &format!("proxy_proto.versions.{version}."));
    Box::new(ListenerFilters {
        list: vec![
            ListenerFilter::OriginalDst,
            ListenerFilter::Proxy(ProxyProtocol {
                optional,
                versions: [true; 2],
                stats: ProxyProtocolStats::new(names, "proxy_proto."),
                version_stats: [of("v1"), of("v2")],
                errors: names.counter("downstream_cx_proxy_proto_error"),
            }),
            ListenerFilter::Tls {
                max_hello: 400,
                close_on_errors: false,
                stats: TlsInspectorStats::new(names, "tls_inspector."),
            },
            ListenerFilter::Http {
                stats: HttpInspectorStats::new(names, "http_inspector."),
            },
        ],
        timeout_ms: 15_000,
        continue_on_timeout,
    })
}

/// A process with one listener, whose chains are TCP proxies to a cluster each.
struct Run {
    sim: SimWorld,
    bed: Bed,
    workers: Vec<Worker<SimReactor, Gateway>>,
    upstreams: Vec<SimListener>,
    turns: u64,
}

impl Run {
    fn new(sim: SimWorld, optional: bool, continue_on_timeout: bool) -> Self {
        let change = |bed: &Bed, listener: &mut Listener| {
            let tls = Match {
                server_names: vec!["*.example".to_owned()],
                transport: "tls".to_owned(),
                ..Match::default()
            };
            let http = Match {
                protocols: vec!["http/1.1".to_owned(), "h2c".to_owned()],
                ..Match::default()
            };
            let told = Match {
                source_type: SourceType::External,
                ..Match::default()
            };
            let chooser = Chooser::new(&[tls, http, told], Some(REST)).expect("no overlap");
            listener.chooser = Some(Box::new(chooser));
            listener.filters = Some(filters(bed, optional, continue_on_timeout));
        };
        Self::with(sim, change)
    }

    fn with(sim: SimWorld, change: impl FnOnce(&Bed, &mut Listener)) -> Self {
        let mut bed = Bed::new(1 << 26);
        let back = |at: usize| addr(9000 + at as u16);
        let numbered = || CLUSTERS.iter().enumerate();
        let snapshot = bed.snapshot(Plan {
            clusters: numbered()
                .map(|(at, name)| (*name, ClusterConfig::default(), vec![back(at)]))
                .collect(),
            http: Vec::new(),
            tcp: numbered()
                .map(|(at, name)| (addr(80 + at as u16), *name, 0))
                .collect(),
            max_connections: 0,
        });
        let mut snapshot = Arc::into_inner(snapshot).expect("nobody else has it");
        let mut listeners = std::mem::take(&mut snapshot.listeners).into_iter();
        let first = listeners.next().expect("a listener");
        let mut listener = Arc::into_inner(first).expect("nobody else has it");
        for other in listeners {
            listener.chains.extend(other.chains.iter().cloned());
        }
        change(&bed, &mut listener);
        snapshot.listeners.push(Arc::new(listener));
        let upstreams = numbered()
            .map(|(at, _)| sim.listen_peer(&back(at)).expect("a free address"))
            .collect();
        let reactors = (0..2).map(|at| sim.reactor(at)).collect();
        let workers = bed.workers(reactors, &Arc::new(snapshot), Tuning::default());
        Self {
            sim,
            bed,
            workers,
            upstreams,
            turns: 0,
        }
    }

    /// Runs until nothing happens any more within so many ms.
    fn settle(&mut self, ms: u64) {
        let until = self.sim.now_us() + ms * 1000;
        while let Some(at) = self.sim.pick(until) {
            self.turns += 1;
            let worker = &mut self.workers[at];
            if worker.is_over() {
                let _ = worker.core.reactor.wait(None, &mut Vec::new());
            } else {
                worker.turn().expect("a turn");
            }
        }
        let now = self.sim.now_us();
        self.sim.advance(until.saturating_sub(now));
    }

    fn value(&self, name: &str) -> i64 {
        self.bed.registry.value(name).unwrap_or(0)
    }

    fn listener(&self, name: &str) -> i64 {
        self.value(&format!("listener.{}.{name}", addr(80)))
    }

    fn client(&self) -> SimPeer {
        self.sim.connect_client(&addr(80)).expect("a client")
    }

    /// The cluster that a connection arrived at, and what it has received.
    fn arrived(&self) -> Option<(usize, SimPeer, Vec<u8>)> {
        let at = self.upstreams.iter().position(|up| up.waiting() > 0)?;
        let peer = self.upstreams[at].accept()?;
        let mut got = Vec::new();
        peer.read_available(&mut got).expect("bytes");
        Some((at, peer, got))
    }

    fn stop(mut self) {
        let group = Arc::clone(self.workers[0].core.siblings());
        for member in &group.members {
            member.post(Message::Stop);
        }
        self.settle(60_000);
        assert!(self.workers.iter().all(Worker::is_over));
        assert_eq!(self.listener("downstream_cx_active"), 0);
        assert_eq!(self.listener("downstream_pre_cx_active"), 0);
        assert_eq!(self.value("moorgate.resident"), 0);
        let open = self
            .bed
            .shared
            .connections
            .load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(open, 0);
    }
}

fn pieces(bytes: &[u8], at: usize) -> [&[u8]; 2] {
    [&bytes[..at], &bytes[at..]]
}

/// A hello for a name, spread over two records.
fn hello(name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    let length = |n: usize| (n as u16).to_be_bytes();
    let mut list = vec![0];
    list.extend(length(name.len()));
    list.extend(name);
    let mut extension = vec![0, 0];
    extension.extend(length(list.len() + 2));
    extension.extend(length(list.len()));
    extension.extend(list);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(length(extension.len()));
    body.extend(extension);
    let mut handshake = vec![1, 0];
    handshake.extend(length(body.len()));
    handshake.extend(body);
    let mut bytes = Vec::new();
    for part in handshake.chunks(50) {
        bytes.extend([22, 3, 1]);
        bytes.extend(length(part.len()));
        bytes.extend(part);
    }
    bytes
}

fn header(version: proxy::Version, source: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let addresses = (source.parse().unwrap(), "192.0.2.1:443".parse().unwrap());
    proxy::write(version, Some(addresses), &mut bytes);
    bytes
}

/// (header, what follows it, the chain that is to serve it)
fn openings() -> Vec<(Vec<u8>, Vec<u8>, usize)> {
    let mut openings = Vec::new();
    for header in [
        Vec::new(),
        header(proxy::Version::V1, TOLD_CLIENT),
        header(proxy::Version::V2, TOLD_CLIENT),
    ] {
        let rest = if header.is_empty() { REST } else { TOLD };
        for (bytes, chain) in [
            (hello("www.example"), TLS),
            (hello("other.name"), rest),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), HTTP),
            (b"GET / HTTP/1.0\r\n\r\n".to_vec(), rest),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), HTTP),
            (b"something, else".to_vec(), rest),
        ] {
            openings.push((header.clone(), bytes, chain));
        }
    }
    openings
}

#[test]
fn at_every_split_the_chain_is_the_same() {
    for (header, payload, chain) in openings() {
        let mut run = Run::new(SimWorld::new(1, Config::quiet(2)), true, false);
        let bytes = [&header[..], &payload].concat();
        for at in 0..bytes.len() {
            let client = run.client();
            let [first, second] = pieces(&bytes, at);
            if !first.is_empty() {
                assert_eq!(client.write(first).expect("room"), first.len());
            }
            run.settle(100);
            let turns = run.turns;
            run.settle(5_000);
            // The sweep for quiet connections, and nothing else.
            assert!(
                run.turns <= turns + 16,
                "{} turns of waiting",
                run.turns - turns
            );
            assert_eq!(client.write(second).expect("room"), second.len());
            run.settle(100);
            let (found, _upstream, got) = run.arrived().expect("a connection upstream");
            assert_eq!((found, &got), (chain, &payload), "{at} of {bytes:?}");
            drop(client);
        }
        run.stop();
    }
}

#[test]
fn whatever_the_network_does_the_chain_is_the_same() {
    let openings = openings();
    for seed in 0..150 {
        let config = Config {
            latency_us: 2_000,
            receive_buffer: (2048, 4096),
            faults: Faults {
                short_read: 300,
                again_read: 300,
                short_write: 200,
                again_write: 200,
                latency: 500,
                accept_again: 100,
                shuffle: 500,
                spurious_edge: 200,
                late_wake: 200,
                ..Faults::default()
            },
            ..Config::quiet(2)
        };
        let sim = SimWorld::new(seed, config);
        let (header, payload, chain) = &openings[seed as usize % openings.len()];
        let mut run = Run::new(sim.clone(), true, false);
        let bytes = [&header[..], payload].concat();
        let client = run.client();
        let mut sent = 0;
        while sent < bytes.len() {
            let most = bytes.len() - sent;
            let end = sent + 1 + (sim.random() as usize % most).min(sim.random() as usize % 40);
            run.settle(sim.random() % 3);
            sent += client.write(&bytes[sent..end]).unwrap_or(0);
        }
        run.settle(3_000);
        let (found, _upstream, got) = run.arrived().expect("a connection upstream");
        assert_eq!(
            (found, &got),
            (*chain, payload),
            "seed {seed}\n{}",
            sim.trace()
        );
        drop(client);
        run.stop();
    }
}

fn quiet(optional: bool, continue_on_timeout: bool) -> Run {
    Run::new(
        SimWorld::new(1, Config::quiet(2)),
        optional,
        continue_on_timeout,
    )
}

fn is_closed(client: &SimPeer) -> bool {
    matches!(client.read(&mut [0; 16]), Ok(0) | Err(_))
        && !matches!(
            client.read(&mut [0; 16]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock
        )
}

#[test]
fn who_says_too_little_is_closed_when_the_time_is_over() {
    let hello = hello("www.example");
    for first in [&b""[..], &hello[..70], b"PROXY TCP4 ", b"GET / HTTP"] {
        let mut run = quiet(true, false);
        let client = run.client();
        client.write(first).expect("room");
        run.settle(14_000);
        assert!(!is_closed(&client), "{first:?}");
        assert_eq!(run.listener("downstream_pre_cx_active"), 1);
        run.settle(2_000);
        assert!(is_closed(&client), "{first:?}");
        assert_eq!(run.listener("downstream_pre_cx_timeout"), 1);
        assert!(run.arrived().is_none());
        run.stop();
    }
}

#[test]
fn or_goes_on_with_what_is_known() {
    for (first, chain) in [(&b"\x16\x03"[..], REST), (b"GET / HTTP", REST), (b"", REST)] {
        let mut run = quiet(true, true);
        let client = run.client();
        client.write(first).expect("room");
        run.settle(16_000);
        assert_eq!(run.listener("downstream_pre_cx_timeout"), 1);
        client.write(b" and more").expect("room");
        run.settle(100);
        let (found, _upstream, got) = run.arrived().expect("a connection upstream");
        assert_eq!((found, got), (chain, [first, b" and more"].concat()));
        drop(client);
        run.stop();
    }
}

#[test]
fn who_leaves_in_the_middle_is_not_waited_for() {
    let hello = hello("www.example");
    for first in [&b""[..], &hello[..70], b"PROXY TCP4 "] {
        let mut run = quiet(true, false);
        let client = run.client();
        client.write(first).expect("room");
        client.shutdown_write().expect("open");
        run.settle(100);
        assert!(is_closed(&client), "{first:?}");
        assert_eq!(run.listener("downstream_listener_filter_remote_close"), 1);
        assert_eq!(run.listener("downstream_cx_total"), 0);
        drop(client);
        let client = run.client();
        client.write(first).expect("room");
        run.settle(100);
        client.reset();
        run.settle(100);
        assert_eq!(run.listener("downstream_pre_cx_active"), 0);
        run.stop();
    }
}

#[test]
fn headers_that_are_missing_malformed_or_too_much_close() {
    for (first, counter) in [
        (
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            "proxy_proto.not_found_disallowed",
        ),
        (b"PROXY TCP4 1 2 3 4\r\n", "proxy_proto.versions.v1.error"),
        (b"\r\n\r\n\0\r\nQUIT\n\x41", "proxy_proto.versions.v2.error"),
    ] {
        let mut run = quiet(false, false);
        let client = run.client();
        client.write(first).expect("room");
        run.settle(100);
        assert!(is_closed(&client), "{first:?}");
        assert_eq!(
            (
                run.value(counter),
                run.value("downstream_cx_proxy_proto_error")
            ),
            (1, 1)
        );
        run.stop();
    }
    // A hello of which 400 bytes are not all.
    let mut run = quiet(true, false);
    let client = run.client();
    let mut large = vec![22, 3, 1, 2, 0, 1, 0, 9, 9];
    large.resize(600, 0);
    client.write(&large).expect("room");
    run.settle(100);
    assert!(is_closed(&client));
    assert_eq!(run.value("tls_inspector.client_hello_too_large"), 1);
    run.stop();
}

#[test]
fn a_connection_that_fits_no_chain_is_closed() {
    let mut run = Run::with(SimWorld::new(1, Config::quiet(2)), |_, listener| {
        let only = Match {
            destination_port: Some(81),
            ..Match::default()
        };
        listener.chooser = Chooser::new(&[only], None).ok().map(Box::new);
    });
    let client = run.client();
    run.settle(100);
    assert!(is_closed(&client));
    assert_eq!(run.listener("no_filter_chain_match"), 1);
    assert_eq!(run.listener("downstream_cx_total"), 0);
    run.stop();
}

/// The client of a PROXY header is the client of every request, also after the connection was parked.
#[test]
fn the_told_client_stays_the_client() {
    let told = header(proxy::Version::V2, TOLD_CLIENT);
    let mut run = Run::with(SimWorld::new(1, Config::quiet(2)), |bed, listener| {
        let mut http = bed.http(HttpPlan::default(), "http");
        http.rules = Rules {
            use_remote_address: true,
            append_x_forwarded_port: true,
            ..Rules::default()
        };
        let chain = Arc::get_mut(&mut listener.chains[0]).expect("nobody else has it");
        chain.filter = NetworkFilter::Http(Arc::new(http));
        listener.filters = Some(filters(bed, false, false));
    });
    let client = run.client();
    client.write(&told).expect("room");
    let mut upstream: Option<SimPeer> = None;
    for round in 0..3 {
        client
            .write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("room");
        run.settle(100);
        let peer = upstream
            .get_or_insert_with(|| run.upstreams[HTTP].accept().expect("a connection upstream"));
        let mut request = Vec::new();
        peer.read_available(&mut request).expect("a request");
        let request = String::from_utf8(request).expect("text").to_lowercase();
        for field in [
            "x-forwarded-for: 203.0.113.7\r\n",
            "x-forwarded-port: 443\r\n",
        ] {
            assert!(request.contains(field), "round {round}: {request}");
        }
        // In the second round the exchange is parked while it is open.
        if round == 1 {
            run.settle(5_000);
            assert_eq!(run.value("moorgate.parked.pair"), 1);
        }
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .expect("room");
        run.settle(5_000);
        assert_eq!(run.value("moorgate.parked.idle"), 1, "round {round}");
    }
    let addr = client.local_addr();
    assert!(matches!(addr, Some(Addr::Ip(_))));
    drop(client);
    run.stop();
}
