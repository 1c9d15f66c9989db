//! A process that has run out of descriptors: it neither spins nor stops, it tells, and goes on when there
//! are descriptors again.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use common::{Asker, Moorgate};

/// Descriptors the process may have.
const LIMIT: u32 = 64;
/// Clients that come.
const CLIENTS: usize = 2 * LIMIT as usize;

/// Answers every request at once.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut asked = [0; 4096];
                while stream.read(&mut asked).is_ok_and(|n| n > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

fn configuration(front: SocketAddr, upstream: SocketAddr) -> String {
    let (front, upstream) = (front.port(), upstream.port());
    format!(
        r#"
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: ADMIN }} }} }}
static_resources:
  listeners:
  - name: web
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {front} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [ {{ match: {{ prefix: "/" }}, route: {{ cluster: web }} }} ]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: web
    type: STATIC
    load_assignment:
      cluster_name: web
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream} }} }} }}
"#
    )
}

fn status(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        match client.read(&mut piece).expect("an answer") {
            0 => panic!("closed after {:?}", String::from_utf8_lossy(&answer)),
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
    String::from_utf8_lossy(&answer[9..12]).into_owned()
}

fn turns_of(asker: &mut Asker) -> u64 {
    asker.stat("moorgate.worker_0.turns") + asker.stat("moorgate.worker_1.turns")
}

#[test]
fn out_of_descriptors_it_neither_spins_nor_stops() {
    let front = common::free_addr();
    let config = configuration(front, upstream());
    let gateway = Moorgate::start("exhausted", &config, &["--concurrency", "2"], Some(LIMIT));
    let mut asker = gateway.asker();
    // Each is in the middle of a head, so that none can be closed to make room.
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = TcpStream::connect(front).expect("connect");
            let patience = Some(Duration::from_secs(60));
            client.set_read_timeout(patience).expect("a timeout");
            client.write_all(b"GET / HTTP/1.1\r\nho").expect("a part");
            client
        })
        .collect();

    common::wait_until("all descriptors are used", || {
        gateway.descriptors() >= LIMIT as usize
    });
    // While it goes on, the workers look again from time to time, which is a few turns each time.
    let rests = asker.stat("moorgate.out_of_descriptors");
    let turns = turns_of(&mut asker);
    let mut more = 0;
    common::wait_until("further looks", || {
        more = asker.stat("moorgate.out_of_descriptors") - rests;
        more >= 5
    });
    let turns = turns_of(&mut asker) - turns;
    // One look more may be under way, on each worker.
    let most = 10 * (more + 2);
    assert!(turns <= most, "{turns} turns for {more} looks");

    // A client finishes its request, for which there is no upstream.
    let mut refused = clients.remove(0);
    refused.write_all(b"st: x\r\n\r\n").expect("the rest");
    assert_eq!(status(&mut refused), "503");
    assert_eq!(asker.stat("cluster.web.upstream_cx_connect_fail"), 1);
    drop(refused);

    // Clients that waited in the accept queue are served as those before them go.
    while clients.len() > 20 {
        let mut client = clients.remove(0);
        client.write_all(b"st: x\r\n\r\n").expect("the rest");
        let status = status(&mut client);
        assert!(["200", "503"].contains(&status.as_str()), "{status}");
    }
    for client in &mut clients {
        client.write_all(b"st: x\r\n\r\n").expect("the rest");
        assert_eq!(status(client), "200");
    }
}
