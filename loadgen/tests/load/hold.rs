//! `hold` against `serve`.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Scratch, Server, established, number, program, report, said};

/// The count of this name in a hold's report.
fn count(report: &Value, name: &str) -> u64 {
    number(report, &format!("/counts/{name}"))
}

#[test]
fn http_connections_are_held_and_used() {
    let server = Server::start("http --threads 2");
    let line = "-c 300 --rate 3000 --every 300ms -d 1s --threads 2 --sources 7";
    let report = report("hold-http", "hold", &server.http(), line);
    assert_eq!(count(&report, "connected"), 300);
    for none in ["failed", "dropped", "reconnected"] {
        assert_eq!(count(&report, none), 0, "{none}");
    }
    assert!(count(&report, "answers") > 0);
    assert!(count(&report, "answers") <= count(&report, "messages"));
    assert_eq!(number(&report, "/sources"), 7);
    assert_eq!(number(&report, "/latency/count"), count(&report, "answers"));
}

#[test]
fn tcp_connections_in_tables_of_their_own() {
    let server = Server::start("tcp --threads 2 --private-tables");
    let line = "-c 200 --rate 5000 --every 200ms --jitter 1 -d 1s --tables 3";
    let report = report("hold-tcp", "hold", &server.tcp(), line);
    assert_eq!(count(&report, "connected"), 200);
    assert_eq!(count(&report, "dropped"), 0);
    assert!(count(&report, "answers") > 0);
    assert_eq!(report["private_tables"], Value::Bool(true));
}

#[test]
fn websockets_are_held_and_used() {
    let server = Server::start("ws");
    let line = "-c 100 --rate 5000 --every 200ms -d 1s";
    let report = report("hold-ws", "hold", &server.ws(), line);
    assert_eq!(count(&report, "connected"), 100);
    for none in ["failed", "dropped", "reconnected"] {
        assert_eq!(count(&report, none), 0, "{none}");
    }
    assert!(count(&report, "answers") > 0);
}

#[test]
fn subscriptions_get_their_events() {
    let server = Server::start("sse --interval 200ms");
    let line = "-c 50 --rate 5000 -d 1s --sse";
    let often = report("hold-sse", "hold", &server.http(), line);
    assert_eq!(count(&often, "connected"), 50);
    // The first comes at once, and another one at some time.
    assert!(count(&often, "events") > 50);
    assert_eq!(number(&often, "/latency/count"), count(&often, "events"));

    let server = Server::start("sse --silent-after-first");
    let once = report("hold-silent", "hold", &server.http(), line);
    assert_eq!(count(&once, "connected"), 50);
    assert_eq!(count(&once, "events"), 50);
    assert_eq!(count(&once, "dropped"), 0);
}

#[test]
fn what_the_server_drops_is_told() {
    let server = Server::start("http");
    let target = server.http();
    let child = program()
        .args([
            "hold", &target, "-c", "40", "--rate", "10000", "-d", "1500ms",
        ])
        .args(["--no-reconnect", "--every", "60s"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Until all are there.
    let until = Instant::now() + Duration::from_secs(5);
    let mark = format!(":{}", server.addr.rsplit(':').next().unwrap());
    while established(&mark) < 40 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(server);
    let output = child.wait_with_output().unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("dropped     40"), "{text}");
    assert!(text.contains("connected   0"), "{text}");
}

#[test]
fn a_restart_of_the_server_is_survived() {
    let mut server = Server::start("http");
    let file = Scratch::new("hold-restart");
    let line = "-c 40 --rate 10000 -d 3s --every 100ms --json";
    let child = program()
        .args(["hold", &server.http()])
        .args(line.split(' '))
        .arg(&file.0)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    let mark = format!(":{}", server.addr.rsplit(':').next().unwrap());
    while established(&mark) < 40 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    server.restart("http");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let report = file.json();
    assert_eq!(count(&report, "connected"), 40);
    assert_eq!(count(&report, "dropped"), 40);
    assert_eq!(count(&report, "reconnected"), 40);
}

#[test]
fn nobody_listening_is_a_failure_of_each() {
    let server = Server::start("tcp");
    let target = server.tcp();
    drop(server);
    let line = "-c 5 --rate 1000 -d 100ms --no-reconnect";
    let report = report("hold-refused", "hold", &target, line);
    assert_eq!(count(&report, "connected"), 0);
    assert_eq!(count(&report, "failed"), 5);
}
