use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::testing::{Fake, with_stats};
use super::*;
use crate::server::control::ControlLoop;
use crate::telemetry::format::{Environment, Format};
use crate::telemetry::log_thread::{self, Logs};

/// A control thread with an admin interface; it ends with `/quitquitquit`.
fn start(address: Addr) -> (Addr, JoinHandle<Fake>) {
    let fake = with_stats();
    let registry = Arc::clone(&fake.registry);
    let settings = Settings {
        address,
        unix_mode: None,
        address_path: None,
        access_logs: Vec::new(),
        writer: None,
    };
    let admin = Admin::open(settings, &*registry, registry.recorder()).unwrap();
    let address = admin.address().clone();
    (address, run(fake, admin))
}

fn run(fake: Fake, admin: Admin) -> JoinHandle<Fake> {
    thread::spawn(move || {
        let mut control = ControlLoop::new(fake).unwrap();
        control.add(Box::new(admin)).unwrap();
        control.run().unwrap()
    })
}

fn loopback() -> Addr {
    Addr::Ip("127.0.0.1:0".parse().unwrap())
}

fn connect(address: &Addr) -> TcpStream {
    let Addr::Ip(address) = address else {
        panic!("no TCP address");
    };
    let address: SocketAddr = *address;
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Sends a request that is to be the last, and reads all there is.
fn last(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const CLOSE: &str = "HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

fn quit(address: &Addr, control: JoinHandle<Fake>) -> Fake {
    let answer = last(connect(address), &format!("POST /quitquitquit {CLOSE}"));
    assert!(answer.ends_with("\r\n\r\nOK\n"), "{answer}");
    control.join().unwrap()
}

#[test]
fn requests_over_tcp() {
    let (address, control) = start(loopback());
    let answer = last(connect(&address), &format!("GET /ready {CLOSE}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "LIVE\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for field in [
        "content-type: text/plain; charset=UTF-8",
        "cache-control: no-cache, max-age=0",
        "x-content-type-options: nosniff",
        "content-length: 5",
    ] {
        assert!(head.contains(field), "{head}");
    }
    // Raw, as some clients send it.
    let target = r"/stats?usedonly&filter=^(server\.state|listener_manager\.workers_started)$";
    let answer = last(connect(&address), &format!("GET {target} {CLOSE}"));
    assert!(answer.ends_with("\r\n\r\nserver.state: 0\n"), "{answer}");
    // Pipelined, with a body that nobody reads, and a HEAD.
    let requests = format!(
        "POST /healthcheck/fail HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc\
         HEAD /ready HTTP/1.1\r\nhost: a\r\n\r\nGET /ready {CLOSE}"
    );
    let answers = last(connect(&address), &requests);
    let statuses: Vec<&str> = answers
        .lines()
        .filter(|line| line.starts_with("HTTP/1.1 "))
        .collect();
    assert_eq!(
        statuses,
        [
            "HTTP/1.1 200 OK",
            "HTTP/1.1 503 Service Unavailable",
            "HTTP/1.1 503 Service Unavailable"
        ]
    );
    assert!(answers.ends_with("\r\n\r\nDRAINING\n"), "{answers}");
    let fake = quit(&address, control);
    assert_eq!(fake.done, ["quit"]);
    assert_eq!(
        fake.registry.value("http.admin.downstream_cx_total"),
        Some(4)
    );
    assert_eq!(
        fake.registry.value("http.admin.downstream_rq_total"),
        Some(6)
    );
}

#[test]
fn what_is_no_request_is_refused() {
    let (address, control) = start(loopback());
    let answer = last(connect(&address), "GET / HTTP/1.1\r\nbad line\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let long = "x".repeat(70_000);
    let answer = last(
        connect(&address),
        &format!("GET / HTTP/1.1\r\nhost: a\r\na: {long}\r\n\r\n"),
    );
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = last(
        connect(&address),
        "POST /nosuch HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let fake = quit(&address, control);
    assert_eq!(fake.registry.value("http.admin.downstream_rq_4xx"), Some(3));
}

#[test]
fn a_slow_reader_gets_all_of_a_large_answer() {
    let (address, control) = start(loopback());
    let mut stream = connect(&address);
    // More than the sockets hold, and then silence.
    let one = "GET /stats/prometheus HTTP/1.1\r\nhost: a\r\n\r\n";
    stream.write_all(one.repeat(200).as_bytes()).unwrap();
    stream
        .write_all(format!("GET /ready {CLOSE}").as_bytes())
        .unwrap();
    let other = last(connect(&address), &format!("GET /ready {CLOSE}"));
    assert!(other.ends_with("LIVE\n"));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 201);
    assert!(answer.ends_with("\r\n\r\nLIVE\n"));
    quit(&address, control);
}

#[test]
fn too_many_connections_do_not_lock_the_operator_out() {
    let (address, control) = start(loopback());
    let idle: Vec<_> = (0..128).map(|_| connect(&address)).collect();
    // The oldest gives way, once it did nothing for a second.
    let answer = (0..100).find_map(|_| {
        thread::sleep(Duration::from_millis(100));
        let mut stream = connect(&address);
        stream
            .write_all(format!("GET /ready {CLOSE}").as_bytes())
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    });
    assert!(answer.unwrap().ends_with("LIVE\n"));
    drop(idle);
    quit(&address, control);
}

#[test]
fn requests_over_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("moorgate-admin-{}", std::process::id()));
    // A socket that nobody listens on any more is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (_, control) = start(Addr::Unix(path.as_path().into()));
    let answer = last(
        UnixStream::connect(&path).unwrap(),
        &format!("POST /quitquitquit {CLOSE}"),
    );
    assert!(answer.ends_with("OK\n"), "{answer}");
    control.join().unwrap();
    fs::remove_file(&path).unwrap();
}

#[test]
fn address_and_access_log_are_written() {
    let fake = Fake::new();
    let registry = Arc::clone(&fake.registry);
    let (logs, mut collector) = Logs::collected(log_thread::Settings::default(), &registry);
    let target = logs.memory();
    let environment = Environment {
        hostname: "box",
        variable: |_| None,
    };
    let format = Format::text(
        "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %BYTES_SENT%\n",
        false,
        &environment,
    )
    .unwrap();
    let path = std::env::temp_dir().join(format!("moorgate-address-{}", std::process::id()));
    let settings = Settings {
        address: loopback(),
        unix_mode: None,
        address_path: Some(path.clone()),
        access_logs: vec![Arc::new(AccessLog::new(None, format, target.clone()))],
        writer: Some(logs.writer(registry.recorder(), 1)),
    };
    let admin = Admin::open(settings, &*registry, registry.recorder()).unwrap();
    let address = admin.address().clone();
    assert_eq!(fs::read_to_string(&path).unwrap(), address.to_string());
    fs::remove_file(&path).unwrap();
    let control = run(fake, admin);
    quit(&address, control);
    collector.collect(true);
    assert_eq!(target.take(), "POST /quitquitquit 200 3\n");
}
