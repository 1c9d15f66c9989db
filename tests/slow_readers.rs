//! Ten thousand clients that ask for something and do not read the answer, against a memory budget that
//! holds a tenth of it: the process stays within its budget, each step of it is seen, and whoever is not
//! reset gets every byte.

mod common;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::Moorgate;
use mio::net::{TcpListener as MioListener, TcpStream as MioStream};
use mio::{Events, Interest, Poll, Token, Waker};
use moorgate::engine::reactor::epoll::sockets;
use moorgate::engine::reactor::{Addr, OptionTime, RawOption, SocketOptions};

/// Clients, where the limit on descriptors allows.
const READERS: usize = 10_000;
/// Bytes of each answer.
const BODY: usize = 32 * 1024;
/// Bytes of it that are sent before anybody reads.
const PART: usize = 12 * 1024;
/// The memory budget: a tenth of what all the answers are.
const BUDGET: u64 = 32 << 20;
/// What may come on top before the budget is looked at again: what each worker has in hand in one turn.
const OVERSHOOT: u64 = 4 << 20;
/// Memory of a resident exchange beyond what it is parked, beside its buffers.
const PER_EXCHANGE: u64 = 2 * 1024;

fn body() -> Vec<u8> {
    (0..BODY).map(|at| (at % 251) as u8).collect()
}

/// Begins every answer at once, and sends the bulk of all only when it is told to, in two parts.
struct Upstream {
    addr: SocketAddr,
    /// Answers that were begun.
    begun: Arc<AtomicUsize>,
    go: Waker,
}

const LISTENER: Token = Token(usize::MAX);
const GO: Token = Token(usize::MAX - 1);

/// A connection of the upstream: its socket, what came, and how much of its answer went.
struct Answering {
    stream: MioStream,
    asked: Vec<u8>,
    sent: Option<usize>,
}

impl Answering {
    /// Sends up to `end` bytes of the answer as long as they are taken.
    fn push(&mut self, answer: &[u8], end: usize) {
        while let Some(sent) = self.sent.filter(|sent| *sent < end) {
            match self.stream.write(&answer[sent..end]) {
                Ok(n) => self.sent = Some(sent + n),
                Err(_) => return,
            }
        }
        if self.sent == Some(answer.len()) {
            self.sent = None;
        }
    }
}

impl Upstream {
    fn start() -> Self {
        let mut poll = Poll::new().expect("a poll");
        let mut listener =
            MioListener::bind("127.0.0.1:0".parse().expect("an address")).expect("bind");
        let addr = listener.local_addr().expect("its address");
        let registry = poll.registry();
        registry
            .register(&mut listener, LISTENER, Interest::READABLE)
            .expect("register");
        let go = Waker::new(registry, GO).expect("a waker");
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        thread::spawn(move || Self::serve(&mut poll, &listener, &count));
        Self { addr, begun, go }
    }

    fn serve(poll: &mut Poll, listener: &MioListener, begun: &AtomicUsize) -> ! {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n");
        let mut answer = head.into_bytes();
        let beginning = answer.len() + 1;
        answer.extend(body());
        let mut end = beginning;
        let mut open: HashMap<usize, Answering> = HashMap::new();
        let mut next = 0;
        let mut events = Events::with_capacity(1024);
        loop {
            poll.poll(&mut events, None).expect("poll");
            for event in &events {
                match event.token() {
                    LISTENER => {
                        while let Ok((mut stream, _)) = listener.accept() {
                            let interest = Interest::READABLE | Interest::WRITABLE;
                            poll.registry()
                                .register(&mut stream, Token(next), interest)
                                .expect("register");
                            let answering = Answering {
                                stream,
                                asked: Vec::new(),
                                sent: None,
                            };
                            open.insert(next, answering);
                            next += 1;
                        }
                    }
                    GO => {
                        // At first a part, so that the sources are not through when they are stopped.
                        end = if end == beginning {
                            beginning + PART
                        } else {
                            answer.len()
                        };
                        for answering in open.values_mut() {
                            answering.push(&answer, end);
                        }
                    }
                    Token(number) => {
                        let Some(answering) = open.get_mut(&number) else {
                            continue;
                        };
                        let mut piece = [0; 2048];
                        let ended = loop {
                            match answering.stream.read(&mut piece) {
                                Ok(0) => break true,
                                Ok(n) => answering.asked.extend_from_slice(&piece[..n]),
                                Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
                            }
                        };
                        if ended {
                            open.remove(&number);
                            continue;
                        }
                        if answering.asked.ends_with(b"\r\n\r\n") {
                            answering.asked.clear();
                            answering.sent = Some(0);
                            begun.fetch_add(1, Ordering::Relaxed);
                        }
                        answering.push(&answer, end);
                    }
                }
            }
        }
    }
}

/// A client whose socket takes as little as the kernel allows.
fn reader(front: SocketAddr) -> TcpStream {
    let small = RawOption {
        level: libc::SOL_SOCKET,
        name: libc::SO_RCVBUF,
        value: 2048i32.to_ne_bytes().to_vec(),
        when: OptionTime::PreBind,
    };
    let options = SocketOptions {
        raw: vec![small],
        ..SocketOptions::default()
    };
    let socket = sockets::connect(&Addr::Ip(front), &options).expect("connect");
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(false).expect("a blocking socket");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a timeout");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: slow\r\n\r\n")
        .expect("a request");
    stream
}

/// What a client got in the end.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Everything,
    Refused,
    Reset,
}

fn read_all(stream: &mut TcpStream, body: &[u8]) -> Got {
    let mut seen = Vec::new();
    let mut piece = [0; 16 * 1024];
    let head = loop {
        if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut piece) {
            Ok(0) => return Got::Reset,
            Ok(n) => seen.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("forgotten"),
            Err(_) => return Got::Reset,
        }
    };
    if seen.starts_with(b"HTTP/1.1 503") {
        return Got::Refused;
    }
    assert!(seen.starts_with(b"HTTP/1.1 200"), "{:?}", &seen[..head]);
    while seen.len() < head + body.len() {
        match stream.read(&mut piece) {
            Ok(0) => return Got::Reset,
            Ok(n) => seen.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("forgotten"),
            Err(_) => return Got::Reset,
        }
    }
    assert!(seen[head..] == *body, "other bytes than were sent");
    Got::Everything
}

fn configuration(front: SocketAddr, upstream: SocketAddr) -> String {
    let (front, upstream) = (front.port(), upstream.port());
    format!(
        r#"
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: ADMIN }} }} }}
static_resources:
  listeners:
  - name: slow
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {front} }} }}
    # More than the upstream sends at first: what stops a source then is the budget.
    per_connection_buffer_limit_bytes: 16384
    socket_options: [ {{ level: 1, name: 7, int_value: 2048 }} ]
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: slow
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [ {{ match: {{ prefix: "/" }}, route: {{ cluster: big, timeout: 0s }} }} ]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: big
    type: STATIC
    connect_timeout: 30s
    circuit_breakers:
      thresholds: [ {{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }} ]
    load_assignment:
      cluster_name: big
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream} }} }} }}
"#
    )
}

#[test]
fn slow_readers_stay_within_the_budget() {
    // Each client is two descriptors for the gateway, and two for this process, which is both peers.
    let room = common::descriptors().saturating_sub(200) / 2;
    let readers = READERS.min(usize::try_from(room).expect("a count"));
    if readers < READERS {
        eprintln!("only {readers} clients: the limit on descriptors is in the way");
    }
    let upstream = Upstream::start();
    let body = body();
    let front = common::free_addr();
    let config = configuration(front, upstream.addr);
    let budget = BUDGET.to_string();
    let arguments = ["--concurrency", "2", "--max-buffer-bytes", &budget];
    let gateway = Moorgate::start("slow", &config, &arguments, None);
    let mut asker = gateway.asker();

    let mut clients = Vec::new();
    for wanted in 1..=readers {
        clients.push(reader(front));
        // Not more at once than the accept queue takes.
        if wanted % 1000 == 0 || wanted == readers {
            common::wait_until("answers that begin", || {
                upstream.begun.load(Ordering::Relaxed) >= wanted
            });
        }
    }
    let open = "http.slow.downstream_rq_active";
    assert_eq!(asker.stat(open), readers as u64);
    let before = gateway.memory("VmRSS");

    // Parts of all answers at once, and nobody reads.
    upstream.go.wake().expect("go");
    let mut most = 0;
    common::wait_until("the last two steps of the budget", || {
        most = most.max(asker.stat("moorgate.buffers.bytes"));
        ["shrunk", "reads_paused", "holders_reset"]
            .iter()
            .all(|step| asker.stat(&format!("moorgate.buffers.{step}")) > 0)
    });
    // Whoever comes now is told to come later.
    assert_eq!(read_all(&mut reader(front), &body), Got::Refused);
    assert!(asker.stat("moorgate.buffers.requests_refused") > 0);

    // Now the rest comes and they read, and get every byte, but for those that were reset.
    upstream.go.wake().expect("go");
    let (mut whole, mut reset) = (0, 0);
    for (number, client) in clients.iter_mut().enumerate() {
        match read_all(client, &body) {
            Got::Everything => whole += 1,
            Got::Reset => reset += 1,
            Got::Refused => panic!("refused after its answer began"),
        }
        if number % 500 == 0 {
            most = most.max(asker.stat("moorgate.buffers.bytes"));
        }
    }
    assert_eq!(whole + reset, readers);
    assert_eq!(asker.stat("moorgate.buffers.holders_reset"), reset as u64);
    assert!(whole > readers / 2, "{reset} of {readers} were reset");
    assert!(most <= BUDGET + OVERSHOOT, "{most} bytes in buffers");
    let grown = gateway.memory("VmHWM") - before;
    let allowed = BUDGET + OVERSHOOT + readers as u64 * PER_EXCHANGE;
    assert!(
        grown <= allowed,
        "{grown} bytes of memory, {allowed} allowed"
    );

    // And it was as if nothing had been.
    drop(clients);
    common::wait_until("no byte in any buffer", || {
        asker.stat("moorgate.buffers.bytes") == 0 && asker.stat(open) == 0
    });
    assert_eq!(read_all(&mut reader(front), &body), Got::Everything);
}
