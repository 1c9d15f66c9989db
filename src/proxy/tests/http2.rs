//! HTTP/2 on both sides of a gateway that the test turns itself: sessions that leave HTTP, streams that are
//! open and silent, and how streams share a connection. The peers are codecs on sockets.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use moorgate_codecs::http2::{Connection, Role, Settings};
use moorgate_codecs::{Codec, Event, Events, Head, HeadKind, Out, StreamId};

use super::accounting::{held, live};
use super::bench::Bench;
use super::{Bed, HttpPlan, stats_of};
use crate::cluster::{ClusterConfig, CodecFactory};
use crate::engine::parked::Slot;
use crate::proxy::facts::ProxyFacts;
use crate::proxy::http2::Http2;
use crate::proxy::resting::REST_BYTES;
use crate::telemetry::stats::Http2Stats;

fn settings() -> Settings {
    Settings {
        allow_connect: true,
        stream_window: 65_535,
        connection_window: 65_535,
        ..Settings::default()
    }
}

fn factory(bed: &Bed, role: Role) -> Arc<dyn CodecFactory> {
    let prefix = match role {
        Role::Server => "http2.",
        Role::Client => "cluster.web.http2.",
    };
    Arc::new(Http2 {
        role,
        settings: Arc::new(settings()),
        stats: Http2Stats::new(stats_of(&bed.registry), prefix),
    })
}

/// A gateway whose clients speak HTTP/2, and its upstream too if `both`.
fn gateway(both: bool) -> Bench {
    gateway_with(both, HttpPlan::default().stream_idle_timeout_ms)
}

fn gateway_with(both: bool, stream_idle_timeout_ms: u64) -> Bench {
    let cluster = |bed: &Bed| ClusterConfig {
        codec: both.then(|| factory(bed, Role::Client)),
        ..ClusterConfig::default()
    };
    Bench::build(1, usize::MAX, 0, cluster, |bed, front| {
        let http = HttpPlan {
            codec: Some(factory(bed, Role::Server)),
            upgrades: vec![("websocket".to_owned(), true)],
            stream_idle_timeout_ms,
            ..HttpPlan::default()
        };
        (vec![(front, http, "web")], Vec::new())
    })
}

/// One end of an HTTP/2 connection.
struct Peer {
    sock: TcpStream,
    codec: Connection,
    unread: Vec<u8>,
    unsent: Vec<u8>,
    /// Bytes of body that came, by stream; those of a stream that is not there are not taken.
    got: BTreeMap<StreamId, usize>,
    ended: Vec<StreamId>,
    heads: Vec<(StreamId, u16)>,
    reset: Vec<StreamId>,
}

impl Peer {
    fn new(sock: TcpStream, role: Role) -> Self {
        sock.set_nonblocking(true).expect("non-blocking");
        let mut peer = Self {
            sock,
            codec: Connection::new(role, Arc::new(settings())),
            unread: Vec::new(),
            unsent: Vec::new(),
            got: BTreeMap::new(),
            ended: Vec::new(),
            heads: Vec::new(),
            reset: Vec::new(),
        };
        peer.say(Codec::begin);
        peer
    }

    fn say<T>(&mut self, write: impl FnOnce(&mut Connection, &mut Out) -> T) -> T {
        let mut out = Out::default();
        let result = write(&mut self.codec, &mut out);
        self.queue(&out);
        result
    }

    fn queue(&mut self, out: &Out) {
        let mut from = 0;
        for part in &out.payloads {
            self.unsent.extend_from_slice(&out.bytes[from..part.at]);
            self.unsent
                .resize(self.unsent.len() + part.end - part.start, b'x');
            from = part.at;
        }
        self.unsent.extend_from_slice(&out.bytes[from..]);
    }

    /// Opens a stream with a request.
    fn ask(&mut self, method: &str, websocket: bool) -> StreamId {
        let id = self.codec.open().expect("room");
        let mut head = Head::new();
        head.set_method(method.as_bytes());
        head.set_scheme(b"http");
        head.set_authority(b"a");
        head.set_path(b"/");
        if websocket {
            head.upgrade = true;
            head.push(b"upgrade", b"websocket");
        }
        self.say(|codec, out| codec.send_head(id, &head, false, out))
            .expect("a request");
        id
    }

    fn answer(&mut self, id: StreamId) {
        let mut head = Head::new();
        head.kind = HeadKind::Response;
        head.status = 200;
        self.say(|codec, out| codec.send_head(id, &head, false, out))
            .expect("an answer");
    }

    fn send(&mut self, id: StreamId, len: usize, end: bool) -> usize {
        self.say(|codec, out| codec.send_data(id, len, end, out))
            .expect("an open stream")
    }

    /// Reads and writes what there is.
    fn turn(&mut self) {
        let mut piece = [0; 16 * 1024];
        while let Ok(n) = self.sock.read(&mut piece) {
            if n == 0 {
                break;
            }
            self.unread.extend_from_slice(&piece[..n]);
        }
        let (mut events, mut out) = (Events::default(), Out::default());
        let input = std::mem::take(&mut self.unread);
        let used = self.codec.decode(0, &input, &mut events, &mut out).bytes;
        self.unread = input[used..].to_vec();
        for event in events.list {
            match event {
                Event::Head { stream, head, end } => {
                    self.heads.push((stream, head.status));
                    self.ended.extend(end.then_some(stream));
                }
                Event::Data { stream, range, end } => {
                    if let Some(got) = self.got.get_mut(&stream) {
                        *got += range.len();
                        self.codec.release(stream, range.len(), &mut out);
                    }
                    self.ended.extend(end.then_some(stream));
                }
                Event::Reset { stream, .. } => self.reset.push(stream),
                Event::Trailers { .. }
                | Event::Writable { .. }
                | Event::GoAway { .. }
                | Event::Settled => {}
            }
        }
        self.queue(&out);
        match self.sock.write(&self.unsent) {
            Ok(n) => drop(self.unsent.drain(..n)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

/// The next connection that the gateway makes.
fn accepted(bench: &mut Bench, client: &mut Peer) -> TcpStream {
    let mut found = None;
    bench.turn_until("an upstream connection", |bench| {
        client.turn();
        found = bench.upstream.accept().ok().map(|(sock, _)| sock);
        found.is_some()
    });
    let sock = found.expect("one came");
    sock.set_nonblocking(true).expect("non-blocking");
    sock
}

/// What came on a socket until `done`.
fn read_until(
    bench: &mut Bench,
    client: &mut Peer,
    sock: &mut TcpStream,
    done: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let mut got = Vec::new();
    bench.turn_until("bytes", |_| {
        client.turn();
        let mut piece = [0; 4096];
        if let Ok(n) = sock.read(&mut piece) {
            got.extend_from_slice(&piece[..n]);
        }
        done(&got)
    });
    got
}

#[test]
fn a_websocket_over_http2_is_a_stream_towards_http1() {
    let mut bench = gateway(false);
    let mut client = Peer::new(bench.client(), Role::Client);
    let plain = client.ask("GET", false);
    bench.turn_until("settings", |_| {
        client.turn();
        client.codec.takes_upgrades() == Some(true)
    });
    let id = client.ask("GET", true);
    client.got.insert(id, 0);
    // What comes before the answer waits for it.
    assert_eq!(client.send(id, 5, false), 5);
    let mut others = [
        accepted(&mut bench, &mut client),
        accepted(&mut bench, &mut client),
    ];
    let mut heads = Vec::new();
    for sock in &mut others {
        heads.push(read_until(&mut bench, &mut client, sock, |got| {
            got.ends_with(b"\r\n\r\n")
        }));
    }
    let asks = |head: &[u8]| String::from_utf8_lossy(head).contains("upgrade: websocket");
    let at = usize::from(asks(&heads[1]));
    assert!(asks(&heads[at]), "{heads:?}");
    let text = String::from_utf8_lossy(&heads[at]);
    assert!(
        text.contains("sec-websocket-key: ") && !text.contains("chunked"),
        "{text}"
    );
    let upstream = &mut others[at];
    upstream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nfirst")
        .expect("an answer");
    let got = read_until(&mut bench, &mut client, upstream, |got| got.len() >= 5);
    assert_eq!(got, b"xxxxx");
    bench.turn_until("the first bytes", |_| {
        client.turn();
        client.got[&id] == 5
    });
    assert!(client.heads.contains(&(id, 101)));
    assert_eq!(bench.value("http.test.downstream_cx_upgrades_active"), 1);
    // One end, and what still comes from the other.
    client.send(id, 3, true);
    let got = read_until(&mut bench, &mut client, upstream, |got| got.len() >= 3);
    assert_eq!(got, b"xxx");
    bench.turn_until("the upstream's end", |_| {
        matches!(upstream.read(&mut [0; 1]), Ok(0))
    });
    upstream.write_all(b"last").expect("the last bytes");
    upstream
        .shutdown(std::net::Shutdown::Write)
        .expect("an end");
    bench.turn_until("the end", |bench| {
        client.turn();
        client.ended.contains(&id) && bench.value("http.test.downstream_cx_upgrades_active") == 0
    });
    assert_eq!(client.got[&id], 9);
    assert!(client.reset.is_empty(), "{:?}", client.reset);
    client.say(|codec, out| codec.reset(plain, moorgate_codecs::ResetReason::Cancel, out));
    bench.turn_until("nothing", |bench| {
        client.turn();
        bench.value("cluster.web.upstream_rq_active") == 0
    });
    assert_eq!(bench.value("http.test.downstream_cx_upgrades_total"), 1);
}

#[test]
fn who_waits_for_settings_that_never_come_is_answered() {
    for says in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let mut bench = gateway(true);
        let mut client = Peer::new(bench.client(), Role::Client);
        bench.turn_until("settings", |_| {
            client.turn();
            client.codec.takes_upgrades() == Some(true)
        });
        let id = client.ask("GET", true);
        let mut upstream = accepted(&mut bench, &mut client);
        read_until(&mut bench, &mut client, &mut upstream, |got| {
            got.starts_with(b"PRI * HTTP/2.0")
        });
        assert_eq!(bench.value("cluster.web.upstream_rq_pending_active"), 1);
        upstream.write_all(says).expect("no settings");
        drop(upstream);
        bench.turn_until("an answer", |bench| {
            client.turn();
            client.heads.contains(&(id, 503))
                && bench.value("cluster.web.upstream_rq_pending_active") == 0
        });
    }
}

#[test]
fn a_silent_session_is_parked_on_both_sides_and_wakes_from_either() {
    let mut bench = gateway(false);
    let mut client = Peer::new(bench.client(), Role::Client);
    bench.turn_until("settings", |_| {
        client.turn();
        client.codec.takes_upgrades() == Some(true)
    });
    let id = client.ask("GET", true);
    client.got.insert(id, 0);
    let mut upstream = accepted(&mut bench, &mut client);
    read_until(&mut bench, &mut client, &mut upstream, |got| {
        got.ends_with(b"\r\n\r\n")
    });
    upstream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .expect("an answer");
    let active = |bench: &Bench| {
        (
            bench.value("http2.streams_active"),
            bench.value("cluster.web.upstream_rq_active"),
        )
    };
    for round in 1..=3 {
        bench.turn_until("silence", |bench| {
            client.turn();
            bench.value("moorgate.resident") == 0 && client.heads.len() == 1
        });
        assert_eq!(bench.value("moorgate.parked.mux"), 1);
        assert_eq!(bench.value("moorgate.parked.pooled"), 1);
        assert_eq!(active(&bench), (1, 1));
        upstream.write_all(b"news").expect("news");
        bench.turn_until("news", |_| {
            client.turn();
            client.got[&id] == 4 * round
        });
        bench.turn_until("silence", |bench| bench.value("moorgate.resident") == 0);
        client.send(id, 6, false);
        read_until(&mut bench, &mut client, &mut upstream, |got| got.len() >= 6);
    }
    // It leaves while its session is parked.
    bench.turn_until("silence", |bench| {
        client.turn();
        bench.value("moorgate.resident") == 0
    });
    drop(client);
    bench.turn_until("its end", |bench| {
        bench.value("http.test.downstream_cx_upgrades_active") == 0
            && bench.value("cluster.web.upstream_cx_active") == 0
    });
    assert_eq!(active(&bench), (0, 0));
}

#[test]
fn a_window_that_stays_shut_costs_its_stream_alone() {
    const LENGTH: usize = 200_000;
    let mut bench = gateway_with(false, 20);
    let mut client = Peer::new(bench.client(), Role::Client);
    // What comes on it is not taken, so that its window never opens again.
    let stalled = client.ask("GET", false);
    client
        .say(|codec, out| codec.send_data(stalled, 0, true, out))
        .expect("an end");
    let mut upstream = accepted(&mut bench, &mut client);
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + LENGTH, b'x');
    bench.turn_until("a reset", |_| {
        client.turn();
        if let Ok(n) = upstream.write(&answer) {
            answer.drain(..n);
        }
        client.reset == [stalled]
    });
    assert_eq!(bench.value("http2.tx_flush_timeout"), 1);
    assert_eq!(bench.value("http.test.downstream_cx_active"), 1);
}

/// Bytes that a client with `streams` open and silent streams costs, HTTP/2 on both sides.
fn cost(streams: usize) -> usize {
    const FEW: usize = 10;
    const MANY: usize = 40;
    let mut bench = gateway(true);
    let mut server: Option<Peer> = None;
    let mut clients: Vec<Peer> = Vec::with_capacity(MANY);
    // What the peers hold is not the gateway's.
    let mut peers = 0;
    let mut before = 0;
    for number in 0..MANY {
        if number == FEW {
            before = held(&bench) - peers;
        }
        let sock = bench.client();
        let since = live();
        let mut client = Peer::new(sock, Role::Client);
        let ids: Vec<_> = (0..streams).map(|_| client.ask("GET", false)).collect();
        peers += live() - since;
        bench.turn_until("silence", |bench| {
            let since = live();
            client.turn();
            if server.is_none() {
                server = bench
                    .upstream
                    .accept()
                    .ok()
                    .map(|(sock, _)| Peer::new(sock, Role::Server));
            }
            if let Some(server) = &mut server {
                server.turn();
                for (id, _) in std::mem::take(&mut server.heads) {
                    server.answer(id);
                }
                server.turn();
            }
            let answered = client.heads.len() == ids.len();
            peers += live() - since;
            answered && bench.value("moorgate.resident") == 0
        });
        let since = live();
        clients.push(client);
        drop(ids);
        // The vector had room, and the list of numbers was the test's.
        peers += live() - since;
    }
    let grown = held(&bench) - peers - before;
    let each = usize::try_from(grown).expect("more than before") / (MANY - FEW);
    assert_eq!(bench.value("moorgate.parked.mux"), MANY as i64);
    assert_eq!(bench.value("moorgate.parked.pooled"), 1);
    // Streams that rest and slots have tables of their own.
    each + streams * REST_BYTES + size_of::<Slot<ProxyFacts>>() + 5
}

#[test]
fn an_open_and_silent_stream_costs_little_on_both_sides() {
    let one = cost(1);
    let ten = cost(10);
    assert!(one <= 600, "{one} bytes");
    let each = (ten - one) / 9;
    assert!(each <= 256, "{each} bytes a stream");
}

#[test]
fn what_happens_to_a_resting_stream_reaches_its_client() {
    let mut bench = gateway(true);
    let mut client = Peer::new(bench.client(), Role::Client);
    let (one, two) = (client.ask("GET", false), client.ask("GET", false));
    client.got.extend([(one, 0), (two, 0)]);
    let sock = accepted(&mut bench, &mut client);
    let mut server = Peer::new(sock, Role::Server);
    bench.turn_until("silence", |bench| {
        client.turn();
        server.turn();
        for (id, _) in std::mem::take(&mut server.heads) {
            server.answer(id);
        }
        client.heads.len() == 2 && bench.value("moorgate.resident") == 0
    });
    server.send(3, 10, false);
    bench.turn_until("a message", |_| {
        server.turn();
        client.turn();
        client.got[&two] == 10
    });
    bench.turn_until("silence", |bench| bench.value("moorgate.resident") == 0);
    // Another client takes the parked upstream's room, and leaves again.
    let mut other = Peer::new(bench.client(), Role::Client);
    let third = other.ask("GET", false);
    bench.turn_until("an answer", |_| {
        other.turn();
        server.turn();
        for (id, _) in std::mem::take(&mut server.heads) {
            server.answer(id);
        }
        other.heads == [(third, 200)]
    });
    assert_eq!(bench.value("cluster.web.upstream_cx_total"), 1);
    drop(other);
    bench.turn_until("silence", |bench| {
        server.turn();
        server.reset == [5] && bench.value("moorgate.resident") == 0
    });
    // The upstream goes while everything rests.
    drop(server);
    bench.turn_until("resets", |_| {
        client.turn();
        client.reset.len() == 2
    });
    bench.turn_until("nothing", |bench| {
        bench.value("cluster.web.upstream_cx_active") == 0
    });
    for gauge in ["http2.streams_active", "cluster.web.http2.streams_active"] {
        assert_eq!(bench.value(gauge), 0);
    }
}

/// Turns until the client has `total` bytes, while both upstreams of two streams send as much as is taken.
/// Gives what each stream had by then.
fn shares(total: usize, loud: usize, quiet: usize) -> (usize, usize) {
    let mut bench = gateway(false);
    let mut client = Peer::new(bench.client(), Role::Client);
    let ids = [client.ask("GET", false), client.ask("GET", false)];
    client.got.extend(ids.map(|id| (id, 0)));
    let mut socks = [
        accepted(&mut bench, &mut client),
        accepted(&mut bench, &mut client),
    ];
    let mut left = [loud, quiet];
    let mut unsent: [Vec<u8>; 2] = Default::default();
    let mut order = Vec::new();
    for (sock, unsent) in socks.iter_mut().zip(&mut unsent) {
        let head = read_until(&mut bench, &mut client, sock, |got| {
            got.ends_with(b"\r\n\r\n")
        });
        assert!(head.starts_with(b"GET "));
        unsent.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
    }
    let page = [b'x'; 64 * 1024];
    bench.turn_until("all of it", |_| {
        for ((sock, unsent), left) in socks.iter_mut().zip(&mut unsent).zip(&mut left) {
            while unsent.len() < page.len() && *left > 0 {
                let more = page.len().min(*left);
                unsent.extend_from_slice(&page[..more]);
                *left -= more;
            }
            if let Ok(n) = sock.write(unsent) {
                unsent.drain(..n);
            }
        }
        client.turn();
        if order.is_empty() && client.heads.len() == 2 {
            order = client.got.values().copied().collect();
        }
        client.got.values().sum::<usize>() >= total
    });
    let mut got: Vec<usize> = client.got.values().copied().collect();
    got.sort_unstable();
    (got[1], got[0])
}

#[test]
fn two_streams_that_have_much_share_a_connection() {
    let (most, least) = shares(8 << 20, usize::MAX, usize::MAX);
    assert!(least * 3 > most, "{most} bytes and {least}");
}

#[test]
fn a_loud_stream_does_not_starve_a_quiet_one() {
    // A megabyte of the loud one at most goes by before the quiet one has all of its own.
    let (loud, quiet) = shares(1 << 20, usize::MAX, 20_000);
    assert_eq!(quiet, 20_000, "beside {loud}");
}

#[test]
fn requests_go_on_by_the_protocol_they_came_by() {
    let cluster = |bed: &Bed| ClusterConfig {
        http2: Some(factory(bed, Role::Client)),
        ..ClusterConfig::default()
    };
    let mut bench = Bench::build(1, usize::MAX, 0, cluster, |bed, front| {
        let http = HttpPlan {
            http2: Some(factory(bed, Role::Server)),
            ..HttpPlan::default()
        };
        (vec![(front, http, "web")], Vec::new())
    });
    let mut plain = bench.client();
    let mut client = Peer::new(bench.client(), Role::Client);
    let mut server: Option<Peer> = None;
    for round in 1..=3 {
        // Each finds an idle connection of the other protocol, and from the second round on one of its own.
        bench.exchange(&mut plain, 0);
        let id = client.ask("GET", false);
        client.send(id, 0, true);
        let server = server.get_or_insert_with(|| {
            let sock = accepted(&mut bench, &mut client);
            Peer::new(sock, Role::Server)
        });
        bench.turn_until("an answer", |bench| {
            client.turn();
            server.turn();
            for (id, _) in std::mem::take(&mut server.heads) {
                server.answer(id);
                server.send(id, 0, true);
            }
            client.ended.contains(&id) && bench.value("moorgate.resident") == 0
        });
        assert_eq!(client.heads.last(), Some(&(id, 200)));
        for (name, count) in [
            ("upstream_cx_http1_total", 1),
            ("upstream_cx_http2_total", 1),
            ("upstream_cx_active", 2),
            ("upstream_rq_total", 2 * round),
            ("http2.streams_active", 0),
        ] {
            assert_eq!(bench.value(&format!("cluster.web.{name}")), count, "{name}");
        }
        // Both were parked, and woke as what they were.
        assert_eq!(bench.value("moorgate.parked.pooled"), 2);
    }
}
