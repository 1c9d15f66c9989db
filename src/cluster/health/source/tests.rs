//! Health checks on real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32};
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::cluster::testing::{counted, definition, endpoint, manager_with};
use crate::cluster::{ClusterConfig, Endpoint, Usable};
use crate::server::control::{ControlLoop, State};
use crate::telemetry::registry::Registry;
use crate::telemetry::stats::TlsStats;
use crate::tls::tests::{Authority, client_plan, server_plan};
use crate::tls::{ClientContext, Live, ServerContext};

struct Shared {
    manager: Manager,
}

impl State for Shared {}

impl ClusterState for Shared {
    fn clusters(&mut self) -> &mut Manager {
        &mut self.manager
    }
}

/// Serves each connection by a function until it stops itself.
struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(serve: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicU32::new(0));
        let thread = std::thread::spawn({
            let (stop, connections) = (Arc::clone(&stop), Arc::clone(&connections));
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    connections.fetch_add(1, Ordering::Relaxed);
                    let stream = stream.unwrap();
                    stream
                        .set_read_timeout(Some(Duration::from_secs(10)))
                        .unwrap();
                    serve(stream);
                }
            }
        });
        Self {
            addr,
            connections,
            stop,
            thread: Some(thread),
        }
    }

    /// Answers requests on one connection with the status in `status`.
    fn http(status: &Arc<AtomicU16>) -> Self {
        let status = Arc::clone(status);
        Self::new(move |mut stream| {
            let mut input = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(length) = stream.read(&mut buffer) {
                if length == 0 {
                    break;
                }
                input.extend_from_slice(&buffer[..length]);
                if input.ends_with(b"\r\n\r\n") {
                    input.clear();
                    let status = status.load(Ordering::Relaxed);
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok");
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.addr));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn http_check() -> HealthCheck {
    HealthCheck {
        interval_ms: 5,
        no_traffic_interval_ms: 5,
        timeout_ms: 5_000,
        kind: HealthCheckKind::Http {
            host: String::new(),
            path: "/".to_owned(),
            method: "GET".to_owned(),
            expected: Vec::new(),
            retriable: Vec::new(),
            headers: Vec::new(),
            receive: Vec::new(),
        },
        ..HealthCheck::default()
    }
}

fn tcp_check(send: &[u8], receive: &[&[u8]]) -> HealthCheck {
    HealthCheck {
        kind: HealthCheckKind::Tcp {
            send: send.to_vec(),
            receive: receive.iter().map(|part| part.to_vec()).collect(),
        },
        ..http_check()
    }
}

struct Bench {
    control: ControlLoop<Shared>,
    registry: Arc<Registry>,
}

impl Bench {
    fn new(check: HealthCheck, endpoints: Vec<Endpoint>) -> Self {
        let registry = Registry::new();
        let manager = manager_with(&registry);
        let mut control = ControlLoop::new(Shared { manager }).unwrap();
        control.add(Box::new(Health::new())).unwrap();
        let mut bench = Self { control, registry };
        bench.configure(check, endpoints);
        bench
    }

    fn configure(&mut self, check: HealthCheck, endpoints: Vec<Endpoint>) {
        self.configure_with(check, endpoints, None);
    }

    fn configure_with(
        &mut self,
        check: HealthCheck,
        endpoints: Vec<Endpoint>,
        tls: Option<Arc<UpstreamTls>>,
    ) {
        let config = ClusterConfig {
            health_checks: vec![check],
            tls,
            ..ClusterConfig::default()
        };
        self.control
            .state
            .manager
            .set(vec![definition("a", config, endpoints)]);
    }

    fn host(&self) -> Arc<Host> {
        let manager = &self.control.state.manager;
        let cluster = manager.iter().next().unwrap();
        Arc::clone(cluster.hosts.iter().next().unwrap())
    }

    fn stat(&self, name: &str) -> i64 {
        let found = counted(&self.registry, &format!("cluster.a.{name}"));
        found.first().map_or(0, |(_, value)| *value)
    }

    /// Turns until it is so; gives up after very many turns.
    fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        for _ in 0..3_000 {
            if so(self) {
                return;
            }
            self.control.turn(Some(Duration::from_millis(10))).unwrap();
        }
        assert!(so(self), "{what}");
    }
}

fn at(addr: SocketAddr) -> Vec<Endpoint> {
    vec![endpoint(addr.port())]
}

#[test]
fn http_hosts_come_and_go_with_their_status() {
    let status = Arc::new(AtomicU16::new(200));
    let server = Server::http(&status);
    let mut bench = Bench::new(http_check(), at(server.addr));
    assert_eq!(bench.host().usable(), Usable::Unhealthy, "not checked yet");
    assert!(!bench.control.state.manager.is_warm());
    bench.until("healthy", |bench| bench.host().usable() == Usable::Healthy);
    assert!(bench.control.state.manager.is_warm());
    bench.until("gauges", |bench| bench.stat("membership_healthy") == 1);
    assert_eq!(bench.stat("health_check.healthy"), 1);
    status.store(503, Ordering::Relaxed);
    bench.until("failed", |bench| bench.host().usable() == Usable::Unhealthy);
    bench.until("gauges", |bench| bench.stat("membership_healthy") == 0);
    assert_eq!(bench.stat("health_check.healthy"), 0);
    assert_eq!(bench.stat("health_check.network_failure"), 0);
    status.store(200, Ordering::Relaxed);
    bench.until("back", |bench| bench.host().usable() == Usable::Healthy);
    assert_eq!(server.connections.load(Ordering::Relaxed), 1, "kept");
    let ended = bench.stat("health_check.success") + bench.stat("health_check.failure");
    assert!(bench.stat("health_check.attempt") - ended <= 1);
    bench.control.state.manager.set(vec![]);
    bench.until("gone", |bench| bench.stat("health_check.healthy") == 0);
}

#[test]
fn a_connection_per_check_when_it_is_not_kept() {
    let server = Server::http(&Arc::new(AtomicU16::new(200)));
    let check = HealthCheck {
        reuse_connection: false,
        ..http_check()
    };
    let mut bench = Bench::new(check, at(server.addr));
    bench.until("checks", |bench| bench.stat("health_check.success") >= 3);
    assert!(server.connections.load(Ordering::Relaxed) >= 3);
}

#[test]
fn a_port_that_is_closed_fails_the_host_after_the_threshold() {
    let server = Server::new(|_| {});
    let mut bench = Bench::new(tcp_check(b"", &[]), at(server.addr));
    bench.until("healthy", |bench| bench.host().usable() == Usable::Healthy);
    drop(server);
    bench.until("failed", |bench| bench.host().usable() == Usable::Unhealthy);
    assert!(bench.stat("health_check.network_failure") >= 3);
}

#[test]
fn tcp_answers_are_matched() {
    let server = Server::new(|mut stream| {
        let mut buffer = [0; 4];
        while stream.read_exact(&mut buffer).is_ok() {
            let _ = stream.write_all(if &buffer == b"PING" { b"PONG" } else { b"????" });
        }
    });
    let mut bench = Bench::new(tcp_check(b"PING", &[b"PONG"]), at(server.addr));
    bench.until("checks", |bench| bench.stat("health_check.success") >= 3);
    assert_eq!(server.connections.load(Ordering::Relaxed), 1, "kept");
    assert_eq!(bench.stat("health_check.failure"), 0);
}

#[test]
fn silence_is_a_timeout() {
    let server = Server::new(|mut stream| {
        // Until the checker closes.
        let _ = stream.read(&mut [0; 16]);
        let _ = stream.read(&mut [0; 16]);
    });
    let check = HealthCheck {
        timeout_ms: 20,
        ..tcp_check(b"PING", &[b"PONG"])
    };
    let mut bench = Bench::new(check, at(server.addr));
    bench.until("timeouts", |bench| bench.stat("health_check.failure") >= 2);
    let flags = bench.host().flags();
    assert_eq!(flags, Host::FAILED_ACTIVE_HC | Host::ACTIVE_HC_TIMEOUT);
    assert!(
        bench.control.state.manager.is_warm(),
        "an outcome is an outcome"
    );
}

/// Opens TLS and answers each record with `answer`, until the client closes.
fn serve_tls(context: &ServerContext, answer: &[u8], mut stream: TcpStream) {
    let mut session = crate::tls::Session::server(context, false).unwrap();
    let (mut unread, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(length) = stream.read(&mut buffer) {
        unread.extend_from_slice(&buffer[..length]);
        let mut wire = Vec::new();
        let opened = session.open(&mut unread, &mut wire);
        unread.drain(..opened.consumed);
        if opened.plain > 0 {
            let slices = std::iter::once(answer);
            session.seal(0, slices, usize::MAX, &mut wire).unwrap();
        }
        if stream.write_all(&wire).is_err() || opened.closed || length == 0 {
            break;
        }
    }
}

#[test]
fn hosts_are_checked_through_the_clusters_tls() {
    let authority = Authority::new("root");
    let context = server_plan(&authority.issue(&["moorgate.test"], 1));
    let context = Arc::new(ServerContext::build(context).unwrap());
    let answer = &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..];
    let server = Server::new(move |stream| serve_tls(&context, answer, stream));
    let stranger = Authority::new("another");
    let tls = |bench: &Bench, authority: &Authority| {
        let client = ClientContext::build(client_plan(authority)).unwrap();
        Some(Arc::new(UpstreamTls {
            context: Live::new(client),
            by_host_name: false,
            auto_sni: None,
            alpn_is_implied: true,
            stats: TlsStats::new(&*bench.registry, "cluster.a."),
        }))
    };
    let connect = tcp_check(b"", &[]);
    let bytes = tcp_check(b"?", &[b"200"]);
    for (check, kept) in [(http_check(), true), (bytes, true), (connect, false)] {
        let mut bench = Bench::new(http_check(), Vec::new());
        let trusting = tls(&bench, &authority);
        let before = server.connections.load(Ordering::Relaxed);
        bench.configure_with(check.clone(), at(server.addr), trusting);
        bench.until("healthy", |bench| bench.host().usable() == Usable::Healthy);
        bench.until("three", |bench| bench.stat("health_check.success") >= 3);
        let shaken = bench.stat("ssl.handshake");
        assert_eq!(shaken == 1, kept, "{shaken}");
        if kept {
            assert_eq!(server.connections.load(Ordering::Relaxed), before + 1);
        }
        let distrusting = tls(&bench, &stranger);
        bench.configure_with(check, at(server.addr), distrusting);
        bench.until("failed", |bench| bench.host().usable() == Usable::Unhealthy);
        assert!(bench.stat("ssl.fail_verify_error") >= 1);
        assert!(bench.stat("health_check.network_failure") >= 1);
    }
}

#[test]
fn a_host_without_tls_fails_checks_through_it() {
    let server = Server::new(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let mut bench = Bench::new(http_check(), Vec::new());
    let client = ClientContext::build(client_plan(&Authority::new("root"))).unwrap();
    let tls = Arc::new(UpstreamTls {
        context: Live::new(client),
        by_host_name: false,
        auto_sni: None,
        alpn_is_implied: true,
        stats: TlsStats::new(&*bench.registry, "cluster.a."),
    });
    bench.configure_with(http_check(), at(server.addr), Some(tls));
    bench.until("failures", |bench| {
        bench.stat("health_check.network_failure") >= 2
    });
    assert_eq!(bench.host().usable(), Usable::Unhealthy);
    assert_eq!(bench.stat("ssl.handshake"), 0);
}

#[test]
fn an_endpoint_may_be_checked_elsewhere() {
    let server = Server::http(&Arc::new(AtomicU16::new(200)));
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut elsewhere = endpoint(closed.port());
    elsewhere.health_target.port = Some(server.addr.port());
    let mut bench = Bench::new(http_check(), vec![elsewhere]);
    bench.until("healthy", |bench| bench.host().usable() == Usable::Healthy);
}

#[test]
fn a_reload_goes_on_checking_without_a_break() {
    let server = Server::http(&Arc::new(AtomicU16::new(200)));
    let mut bench = Bench::new(http_check(), at(server.addr));
    bench.until("healthy", |bench| bench.host().usable() == Usable::Healthy);
    for _ in 0..20 {
        bench.configure(http_check(), at(server.addr));
        let before = bench.stat("health_check.success");
        bench.until("checks", |bench| {
            bench.stat("health_check.success") > before
        });
        assert_eq!(bench.host().usable(), Usable::Healthy);
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    let id = bench.control.state.manager.ids().id("a");
    let cluster = Arc::clone(bench.control.state.manager.get(id).unwrap());
    // Here, in the manager, and in the session: no older one is alive.
    assert_eq!(Arc::strong_count(&cluster), 3);
    assert_eq!(bench.stat("health_check.healthy"), 1);
}

#[test]
fn unix_sockets_are_checked_too() {
    let dir = std::env::temp_dir().join(format!("moorgate-hc-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut local = endpoint(1);
    local.addr = Addr::Unix(path.as_path().into());
    let mut bench = Bench::new(tcp_check(b"", &[]), vec![local]);
    bench.until("healthy", |bench| bench.host().usable() == Usable::Healthy);
    drop(listener);
    std::fs::remove_dir_all(&dir).unwrap();
    bench.until("failed", |bench| bench.host().usable() == Usable::Unhealthy);
}

#[test]
fn a_check_follows_its_host_to_another_place() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::http(&Arc::new(AtomicU16::new(200)));
    let target = |port: u16| {
        let mut endpoint = endpoint(1);
        endpoint.health_target.port = Some(port);
        vec![endpoint]
    };
    let first = silent.local_addr().unwrap().port();
    let mut bench = Bench::new(http_check(), target(first));
    bench.until("under way", |bench| bench.stat("health_check.attempt") == 1);
    bench.configure(http_check(), target(server.addr.port()));
    bench.until("healthy", |bench| bench.host().usable() == Usable::Healthy);
    assert_eq!(bench.stat("health_check.failure"), 0);
}
