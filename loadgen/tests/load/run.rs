//! `run` against `serve`, over real sockets.

use crate::support::{Scratch, Server, established, number, program, report, said};
use serde_json::Value;

fn errors(report: &Value) -> u64 {
    ["connect", "timeout", "reset", "status", "protocol"]
        .iter()
        .map(|kind| number(report, &format!("/errors/{kind}")))
        .sum()
}

#[test]
fn a_closed_loop_of_so_many_requests() {
    let server = Server::start("http --threads 2 --size 300");
    let report = report("closed", "run", &server.http(), "-n 5001 -c 20 -t 2");
    assert_eq!(number(&report, "/answers"), 5001);
    assert_eq!(number(&report, "/latency/count"), 5001);
    assert_eq!(number(&report, "/connects"), 20);
    assert_eq!(errors(&report), 0);
    assert!(number(&report, "/bytes_in") > 5001 * 300);
    let in_series: f64 = report["series"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["rate"].as_f64().unwrap())
        .sum();
    assert!(in_series > 0.0);
}

#[test]
fn messages_of_websockets_come_back() {
    let server = Server::start("ws --threads 2");
    for line in [
        "-n 500 -c 9",
        "-n 20 -c 3 --size 200000",
        "-n 50 -c 5 --no-keep-alive",
    ] {
        let report = report("ws", "run", &server.ws(), line);
        assert_eq!(errors(&report), 0, "{line}");
        assert!(number(&report, "/answers") >= 20, "{line}");
    }
    // Who does not become a WebSocket has no answers.
    let server = Server::start("http");
    let refused = report("no-ws", "run", &server.ws(), "-n 3 -c 1");
    assert_eq!(number(&refused, "/answers"), 0);
    assert!(errors(&refused) > 0);
}

#[test]
fn a_new_connection_for_each_request() {
    let server = Server::start("http");
    let report = report(
        "close",
        "run",
        &server.http(),
        "-n 200 -c 5 --no-keep-alive",
    );
    assert_eq!(number(&report, "/answers"), 200);
    assert_eq!(number(&report, "/connects"), 200);
    assert_eq!(errors(&report), 0);
}

#[test]
fn an_open_loop_starts_what_is_due() {
    let server = Server::start("http");
    let line = "-n 300 -c 10 --rate 1000";
    let kept = report("open", "run", &server.http(), line);
    assert_eq!(number(&kept, "/answers"), 300);
    assert_eq!(number(&kept, "/service/count"), 300);
    let closed = report(
        "open-close",
        "run",
        &server.http(),
        &format!("{line} --no-keep-alive"),
    );
    assert_eq!(number(&closed, "/answers"), 300);
    assert_eq!(number(&closed, "/connects"), 300);
}

#[test]
fn a_slow_server_shows_in_the_latency_from_the_intended_start() {
    // One connection and 20 ms for an answer, where 200 requests are due in a second: each waits
    // for all before it.
    let server = Server::start("http --delay 20ms");
    let report = report("corrected", "run", &server.http(), "-n 20 -c 1 --rate 200");
    let (latency, service) = (
        number(&report, "/latency/max_us"),
        number(&report, "/service/min_us"),
    );
    assert!(service >= 19_000, "{service}");
    // The last was due at 95 ms and starts after 19 others.
    assert!(latency >= 19 * 20_000 + 20_000 - 95_000 - 1000, "{latency}");
}

#[test]
fn requests_that_were_due_and_never_sent_are_told() {
    let server = Server::start("http --delay 60ms");
    let report = report("unsent", "run", &server.http(), "-d 300ms -c 1 --rate 100");
    let sent = number(&report, "/answers");
    assert_eq!(errors(&report), 0);
    assert_eq!(sent + number(&report, "/unsent"), 30);
    // No two answers are less than 59 ms apart.
    assert!(sent <= 6, "{sent}");
}

#[test]
fn bodies_of_every_size_come_and_go() {
    let server = Server::start("http --echo");
    let file = Scratch::new("body");
    std::fs::write(&file.0, vec![b'x'; 1 << 20]).unwrap();
    let line = format!("-n 20 -c 3 -X POST --body @{}", file.0.display());
    let large = report("large", "run", &server.http(), &line);
    assert_eq!(number(&large, "/answers"), 20);
    assert_eq!(errors(&large), 0);
    assert!(number(&large, "/bytes_in") > 20 << 20);
    let small = report(
        "small",
        "run",
        &server.http(),
        "-n 20 -c 3 -X PUT --body abc",
    );
    assert_eq!(errors(&small), 0);

    let server = Server::start("http --size 3000000");
    let generated = report("generated", "run", &server.http(), "-n 10 -c 2");
    assert_eq!(number(&generated, "/answers"), 10);
    assert!(number(&generated, "/bytes_in") > 10 * 3_000_000);
    let head = report("head", "run", &server.http(), "-n 10 -c 2 -X HEAD");
    assert_eq!(number(&head, "/answers"), 10);
    assert!(number(&head, "/bytes_in") < 10_000);
}

#[test]
fn tcp_messages_come_back() {
    let server = Server::start("tcp --threads 2");
    let small = report("tcp", "run", &server.tcp(), "-n 1000 -c 10");
    assert_eq!(number(&small, "/answers"), 1000);
    assert_eq!(number(&small, "/bytes_in"), 64_000);
    let large = report(
        "tcp-large",
        "run",
        &server.tcp(),
        "-n 10 -c 2 --size 5000000",
    );
    assert_eq!(number(&large, "/answers"), 10);
    assert_eq!(number(&large, "/bytes_in"), 50_000_000);
    assert_eq!(errors(&large), 0);
}

#[test]
fn errors_are_told_apart() {
    let server = Server::start("http --error-rate 1 --error-status 404");
    let status = report("status", "run", &server.http(), "-n 50 -c 5");
    assert_eq!(number(&status, "/answers"), 50);
    assert_eq!(number(&status, "/errors/status"), 50);

    let silent = Server::start("long-poll");
    let timeout = report("timeout", "run", &silent.http(), "-n 4 -c 4 --timeout 50ms");
    assert_eq!(number(&timeout, "/errors/timeout"), 4);
    assert_eq!(number(&timeout, "/answers"), 0);

    let echo = Server::start("tcp");
    let protocol = report("protocol", "run", &echo.http(), "-n 3 -c 1");
    assert_eq!(number(&protocol, "/errors/protocol"), 3);

    let http = Server::start("http");
    let tcp = report(
        "not-echo",
        "run",
        &http.tcp(),
        "-n 3 -c 1 --body GARBAGE\r\n\r\n",
    );
    assert_eq!(number(&tcp, "/answers"), 0);
    assert_eq!(errors(&tcp), 3);

    let addr = http.addr.clone();
    drop(http);
    let refused = report("connect", "run", &format!("http://{addr}/"), "-n 3 -c 3");
    assert_eq!(number(&refused, "/errors/connect"), 3);
}

#[test]
fn a_report_for_every_reader() {
    let server = Server::start("http");
    let page = Scratch::new("page");
    let output = program()
        .args([
            "run",
            &server.http(),
            "-n",
            "100",
            "--rate",
            "1000",
            "--html",
        ])
        .arg(&page.0)
        .output()
        .unwrap();
    let text = said(&output);
    for part in [
        "answers    100",
        "p99 ",
        "from intended start",
        "errors     0",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let html = std::fs::read_to_string(&page.0).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>"), "{html}");
    assert!(html.matches("<svg").count() >= 2);
    assert!(!html.contains("http-equiv") && !html.contains("src="));
}

#[test]
fn other_hosts_are_refused_unless_meant() {
    for command in ["run", "hold"] {
        let output = program()
            .args([command, "http://192.0.2.1/"])
            .output()
            .unwrap();
        assert!(!output.status.success());
        assert!(said(&output).contains("--allow-remote"));
    }
}

#[test]
fn a_restart_of_the_server_is_survived() {
    let mut server = Server::start("http");
    let file = Scratch::new("run-restart");
    let mut child = program()
        .args(["run", &server.http()])
        .args("-c 8 -d 2s --json".split(' '))
        .arg(&file.0)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mark = format!(":{}", server.addr.rsplit(':').next().unwrap());
    while established(&mark) < 8 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    server.restart("http");
    assert!(child.wait().unwrap().success());
    let report = file.json();
    // All eight were cut, came back, and went on.
    assert!(errors(&report) >= 8, "{report:#}");
    assert!(number(&report, "/connects") >= 16, "{report:#}");
    assert!(number(&report, "/answers") > 0);
}

#[test]
fn too_few_descriptors_are_told_with_a_way_out() {
    let limited = |words: &str| {
        let binary = env!("CARGO_BIN_EXE_moorgate-load");
        let script = format!("ulimit -n 70 && exec {binary} {words}");
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert!(!output.status.success());
        said(&output)
    };
    let told = limited("run http://127.0.0.1:9/ -c 500 -d 1s");
    assert!(
        told.contains("ulimit -n") && told.contains("-c 6"),
        "{told}"
    );
    let told = limited("hold tcp://127.0.0.1:9 -c 500 -d 1s");
    assert!(told.contains("--tables"), "{told}");
}
