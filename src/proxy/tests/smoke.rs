//! The gateway over real sockets, against plain blocking peers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::{Bed, HttpPlan, Plan};
use crate::cluster::ClusterConfig;
use crate::engine::reactor::Addr;
use crate::engine::reactor::clock::Clock;
use crate::engine::reactor::epoll::Epoll;
use crate::proxy::Tuning;
use crate::proxy::facts::Message;

/// An HTTP server that answers `count` connections, each with as many requests as come.
pub(super) fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("addr");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    addr
}

fn answer(mut stream: TcpStream) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).into_owned();
            seen.drain(..end + 4);
            let line = head.lines().next().unwrap_or_default().to_owned();
            let text = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}",
                line.len()
            );
            if stream.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => seen.extend_from_slice(&buffer[..n]),
        }
    }
}

pub(super) fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
}

fn read_response(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse::<usize>().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return text;
            }
        }
        let n = stream.read(&mut buffer).expect("a response");
        assert!(n > 0, "closed after {text:?}");
        seen.extend_from_slice(&buffer[..n]);
    }
}

#[test]
fn requests_pass_and_connections_park() {
    let web = upstream();
    let front = free_addr();
    let mut bed = Bed::new(1 << 26);
    let snapshot = bed.snapshot(Plan {
        clusters: vec![("web", ClusterConfig::default(), vec![Addr::Ip(web)])],
        http: vec![(Addr::Ip(front), HttpPlan::default(), "web")],
        tcp: Vec::new(),
        max_connections: 0,
    });
    let clock = Clock::start();
    let reactors = vec![
        Epoll::new(clock).expect("epoll"),
        Epoll::new(clock).expect("epoll"),
    ];
    let tuning = Tuning {
        quiet_ms: 20,
        ..Tuning::default()
    };
    let workers = bed.workers(reactors, &snapshot, tuning);
    let group = std::sync::Arc::clone(workers[0].core.siblings());
    let threads: Vec<_> = workers
        .into_iter()
        .map(|mut worker| {
            thread::spawn(move || {
                worker.run().expect("a worker");
                (worker.core.slot_count(), worker.core.tally)
            })
        })
        .collect();
    let mut clients: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(front).expect("connect"))
        .collect();
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            let request = format!("GET /{round}/{number} HTTP/1.1\r\nhost: x\r\n\r\n");
            client.write_all(request.as_bytes()).expect("write");
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let response = read_response(client);
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            assert!(
                response.ends_with(&format!("GET /{round}/{number} HTTP/1.1")),
                "{response}"
            );
        }
        // Wait until all are parked, by the gauge and not by time.
        let mut turns = 0;
        while bed.registry.value("moorgate.parked.idle") != Some(8) {
            turns += 1;
            assert!(
                turns < 10_000,
                "never parked: {:?}",
                bed.registry.value("moorgate.resident")
            );
            thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    drop(clients);
    for member in &group.members {
        member.post(Message::Stop);
    }
    for thread in threads {
        let (slots, tally) = thread.join().expect("ends");
        assert_eq!((slots, tally.resident, tally.parked), (0, 0, [0; 4]));
    }
    for name in [
        "http.test.downstream_cx_active",
        "http.test.downstream_rq_active",
        "cluster.web.upstream_cx_active",
        "cluster.web.upstream_rq_active",
    ] {
        assert_eq!(bed.registry.value(name), Some(0), "{name}");
    }
}
