//! Starts the gateway and upstreams, and ends what it started.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long to wait for what has to come: only a broken program takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `done`; `what` is said when it does not come.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}: did not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A directory that goes away.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("moorgate-process-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a file holds; empty when there is none.
pub(crate) fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The program.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_moorgate"))
}

/// A running gateway; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) dir: Scratch,
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// Starts with this configuration and waits until it is ready. `ADMIN` stands for an admin
    /// interface, `DIR` for a directory of its own.
    pub(crate) fn start(config: &str) -> Self {
        Self::with(config, &[])
    }

    /// The same, with further arguments.
    pub(crate) fn with(config: &str, arguments: &[&str]) -> Self {
        let gateway = Self::early(config, arguments);
        until("ready", || gateway.get("/ready").1 == "LIVE\n");
        gateway
    }

    /// The same, without waiting for clusters.
    pub(crate) fn early(config: &str, arguments: &[&str]) -> Self {
        let dir = Scratch::new();
        let log = std::fs::File::create(dir.path("log")).expect("a file");
        let address = dir.path("admin");
        write_config(&dir, config);
        let mut child = program()
            .arg("-c")
            .arg(dir.path("gateway.yaml"))
            .arg("--admin-address-path")
            .arg(&address)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut admin = None;
        until("the admin address", || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("ended with {status}: {}", text(&dir.path("log")));
            }
            admin = text(&address).parse().ok();
            admin.is_some()
        });
        let admin = admin.expect("an address");
        Self { child, dir, admin }
    }

    /// Writes another configuration.
    pub(crate) fn configure(&self, config: &str) {
        write_config(&self.dir, config);
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("it runs");
    }

    /// Reloads, and waits until that was done, one way or the other.
    pub(crate) fn reload(&self) {
        let done = || {
            let count = |name| self.stat(&format!("moorgate.config.reload_{name}"));
            count("success") + count("rejected")
        };
        let before = done();
        self.signal(Signal::SIGHUP);
        until("a reload", || done() > before);
    }

    /// Waits for the end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the end", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("a status")
    }

    /// Asks the admin interface.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(self.admin, path)
    }

    /// Tells the admin interface.
    pub(crate) fn post(&self, path: &str) -> (u16, String) {
        exchange(self.admin, &format!("POST {path} HTTP/1.1"))
    }

    /// A counter or gauge; 0 when there is none.
    pub(crate) fn stat(&self, name: &str) -> i64 {
        let pattern = name.replace('.', "\\.");
        let (_, text) = self.get(&format!("/stats?filter=^{pattern}$"));
        let value = text.trim().rsplit(' ').next().unwrap_or_default();
        value.parse().unwrap_or(0)
    }

    /// The first address of a listener.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        let (_, text) = self.get("/listeners");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let addr = line.and_then(|rest| rest.strip_prefix("::"));
        addr.and_then(|addr| addr.parse().ok())
            .unwrap_or_else(|| panic!("no listener {name} in {text}"))
    }

    /// A fact of a host in `/clusters`.
    pub(crate) fn host(&self, cluster: &str, host: SocketAddr, fact: &str) -> String {
        let (_, text) = self.get("/clusters");
        let start = format!("{cluster}::{host}::{fact}::");
        let found = text.lines().find_map(|line| line.strip_prefix(&start));
        found
            .unwrap_or_else(|| panic!("no {start} in {text}"))
            .to_owned()
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        text(&self.dir.path("log"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the gateway's log:\n{}", self.log());
        }
    }
}

fn write_config(dir: &Scratch, config: &str) {
    let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }";
    let config = config.replace("ADMIN", admin);
    let config = config.replace("DIR", &dir.0.display().to_string());
    // A file is replaced whole: a reload never sees half of it.
    std::fs::write(dir.path("new.yaml"), config).expect("a file");
    std::fs::rename(dir.path("new.yaml"), dir.path("gateway.yaml")).expect("a file");
}

/// Status and body of a GET; status 0 when there is no answer.
pub(crate) fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    exchange(addr, &format!("GET {path} HTTP/1.1"))
}

fn exchange(addr: SocketAddr, line: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(addr) else {
        return (0, String::new());
    };
    let request = format!("{line}\r\nhost: test\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).is_err() || stream.read_to_end(&mut answer).is_err() {
        return (0, String::new());
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        unchunked(body)
    } else {
        body.to_owned()
    };
    (status.unwrap_or(0), body)
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// A client that keeps its connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let stream = BufReader::new(stream);
        Self { stream }
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, text: &str) {
        let stream = self.stream.get_mut();
        stream.write_all(text.as_bytes()).expect("it is open");
    }

    /// A GET on this connection: head and body.
    pub(crate) fn get(&mut self, path: &str) -> (String, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
        self.answer()
    }

    /// Reads an answer with a `content-length`.
    pub(crate) fn answer(&mut self) -> (String, String) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.stream.read_line(&mut head).expect("an answer");
            assert!(read > 0, "closed after {head:?}");
        }
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.stream.read_exact(&mut body).expect("a body");
        (head, String::from_utf8(body).expect("text"))
    }

    /// Waits for the end of the connection; what came before it.
    pub(crate) fn closed(&mut self) -> String {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("not closed: {error}"),
        }
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// What an upstream does, and has done.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    /// Status of `/healthz`.
    pub(crate) health: AtomicU16,
    /// Requests for anything else.
    pub(crate) served: AtomicU64,
    /// Requests for `/slow` wait until this is set.
    pub(crate) release: AtomicBool,
    stop: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

/// A small HTTP/1.1 server that answers everything with its name.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    pub(crate) conduct: Arc<Conduct>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    pub(crate) fn start(name: &'static str) -> Self {
        Self::at(name, ([127, 0, 0, 1], 0).into())
    }

    /// At an address where one was before.
    pub(crate) fn at(name: &'static str, addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).expect("an address");
        let addr = listener.local_addr().expect("an address");
        let conduct = Arc::new(Conduct::default());
        conduct.health.store(200, Ordering::Relaxed);
        let shared = Arc::clone(&conduct);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let kept = stream.try_clone().expect("a descriptor");
                shared.streams.lock().expect("no panic").push(kept);
                let conduct = Arc::clone(&shared);
                thread::spawn(move || conduct.serve(stream, name));
            }
        });
        Self {
            addr,
            conduct,
            thread: Some(thread),
        }
    }

    pub(crate) fn served(&self) -> u64 {
        self.conduct.served.load(Ordering::SeqCst)
    }

    pub(crate) fn set_health(&self, status: u16) {
        self.conduct.health.store(status, Ordering::SeqCst);
    }
}

impl Drop for Upstream {
    /// It dies: its listener and all of its connections.
    fn drop(&mut self) {
        self.conduct.stop.store(true, Ordering::SeqCst);
        self.conduct.release.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for stream in self.conduct.streams.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Conduct {
    fn serve(&self, stream: TcpStream, name: &str) {
        let Ok(mut writer) = stream.try_clone() else {
            return;
        };
        let mut reader = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                match reader.read_line(&mut head) {
                    Ok(read) if read > 0 => {}
                    _ => return,
                }
            }
            let path = head.split(' ').nth(1).unwrap_or_default();
            let status = if path == "/healthz" {
                self.health.load(Ordering::SeqCst)
            } else {
                self.served.fetch_add(1, Ordering::SeqCst);
                200
            };
            while path == "/slow" && !self.release.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(2));
            }
            let answer = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{name}",
                name.len()
            );
            if writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// A listener with a connection manager whose requests all go to `cluster`.
pub(crate) fn http_listener(name: &str, cluster: &str, extra: &str) -> String {
    format!(
        r#"
  - name: {name}
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          {extra}
          route_config:
            name: routes
            virtual_hosts:
            - name: all
              domains: [ "*" ]
              routes: [ {{ match: {{ prefix: "/" }}, route: {{ cluster: {cluster} }} }} ]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"#
    )
}

/// A listener with a TCP proxy.
pub(crate) fn tcp_listener(name: &str, cluster: &str) -> String {
    format!(
        r#"
  - name: {name}
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: {name}
          cluster: {cluster}
"#
    )
}

/// A static cluster of these hosts.
pub(crate) fn cluster(name: &str, hosts: &[SocketAddr], extra: &str) -> String {
    let endpoints: String = hosts
        .iter()
        .map(|host| {
            format!(
                "\n        - endpoint: {{ address: {{ socket_address: \
                 {{ address: \"{}\", port_value: {} }} }} }}",
                host.ip(),
                host.port()
            )
        })
        .collect();
    format!(
        r"
  - name: {name}
    connect_timeout: 5s
    {extra}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:{endpoints}
"
    )
}

/// A whole configuration.
pub(crate) fn config(listeners: &[String], clusters: &[String]) -> String {
    format!(
        "ADMIN\nstatic_resources:\n  listeners:{}\n  clusters:{}\n",
        listeners.concat(),
        clusters.concat()
    )
}
