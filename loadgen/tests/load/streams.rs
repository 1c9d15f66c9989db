//! HTTP/2 and gRPC at both ends, in the clear and over TLS.

use serde_json::Value;

use crate::support::{Certificate, Scratch, Server, number, program, report, said};

fn errors(report: &Value) -> u64 {
    let kinds = report["errors"].as_object().unwrap();
    kinds.values().map(|number| number.as_u64().unwrap()).sum()
}

#[test]
fn streams_of_one_connection_and_of_many() {
    let server = Server::start("http --threads 2 --size 300");
    for (line, connects) in [
        ("-n 3000 -c 1 -m 1", 1),
        ("-n 3001 -c 3 -m 100", 3),
        ("-n 2000 -c 4 -m 10 -t 2 --rate 20000", 4),
    ] {
        let line = format!("{line} --http2");
        let report = report("h2", "run", &server.http(), &line);
        let wanted: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(number(&report, "/answers"), wanted, "{report:#}");
        assert_eq!(
            (errors(&report), number(&report, "/connects")),
            (0, connects)
        );
        assert!(number(&report, "/bytes_in") > wanted * 300);
    }
    let timed = report(
        "h2-time",
        "run",
        &server.http(),
        "-d 300ms -c 2 -m 20 --protocol http2",
    );
    assert_eq!(errors(&timed), 0);
    assert!(number(&timed, "/answers") > 0);
}

#[test]
fn bodies_larger_than_any_window_come_and_go() {
    let server = Server::start("http --echo");
    let file = Scratch::new("h2-body");
    std::fs::write(&file.0, vec![b'x'; 1 << 20]).unwrap();
    let line = format!(
        "-n 40 -c 2 -m 5 --http2 -X POST --body @{}",
        file.0.display()
    );
    let echoed = report("h2-echo", "run", &server.http(), &line);
    assert_eq!((number(&echoed, "/answers"), errors(&echoed)), (40, 0));
    assert!(number(&echoed, "/bytes_in") > 40 << 20);
    assert!(number(&echoed, "/bytes_out") > 40 << 20);

    let server = Server::start("http --size 3000000");
    let line = "-n 30 -c 2 -m 6 --http2";
    let large = report("h2-large", "run", &server.http(), line);
    assert_eq!((number(&large, "/answers"), errors(&large)), (30, 0));
    assert!(number(&large, "/bytes_in") > 30 * 3_000_000);
    let head = report("h2-head", "run", &server.http(), &format!("{line} -X HEAD"));
    assert_eq!((number(&head, "/answers"), errors(&head)), (30, 0));
    assert!(number(&head, "/bytes_in") < 10_000);
}

#[test]
fn both_versions_over_tls_by_alpn() {
    let certificate = Certificate::new("h2-alpn");
    let server = Server::start(&format!("http {}", certificate.words()));
    for (line, alpn) in [
        ("-n 200 -c 3 -m 7 -k --http2", "h2"),
        ("-n 200 -c 3 -k", "http/1.1"),
    ] {
        let report = report("h2-tls", "run", &server.url("https"), line);
        assert_eq!((number(&report, "/answers"), errors(&report)), (200, 0));
        assert_eq!(report["tls"]["alpn"], alpn);
    }
    let line = "-n 60 -c 3 -k --http2 --reconnect-every 1";
    let each = report("h2-each", "run", &server.url("https"), line);
    assert_eq!((number(&each, "/answers"), errors(&each)), (60, 0));
    // Connections are opened before there is a request for them.
    assert!((60..63).contains(&number(&each, "/connects")), "{each:#}");
    assert!(number(&each, "/tls/resumed") >= 57, "{each:#}");
    // Who does not agree to HTTP/2 is not spoken to.
    let old = Server::start(&format!("ws {}", certificate.words()));
    let refused = report("h2-no", "run", &old.url("https"), "-n 3 -c 1 -k --http2");
    assert_eq!(number(&refused, "/errors/tls"), 3);
}

#[test]
fn calls_and_messages_of_grpc() {
    let certificate = Certificate::new("grpc");
    let clear = Server::start("grpc --threads 2");
    let secure = Server::start(&format!("grpc {}", certificate.words()));
    for (server, scheme, more) in [(&clear, "grpc", ""), (&secure, "grpcs", " -k")] {
        for line in [
            "-n 2000 -c 2 -m 10",
            "-n 2000 -c 2 -m 10 --bidi",
            "-n 20 -c 2 -m 3 --size 300000",
            "-n 20 -c 1 -m 3 --size 300000 --bidi",
            "-n 300 -c 2 -m 3 --bidi --rate 3000",
            "-n 40 -c 2 --bidi --reconnect-every 10",
        ] {
            let report = report("grpc", "run", &server.url(scheme), &format!("{line}{more}"));
            let wanted: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
            assert_eq!(number(&report, "/answers"), wanted, "{line}: {report:#}");
            assert_eq!(errors(&report), 0, "{line}: {report:#}");
        }
    }
}

#[test]
fn errors_are_told_apart() {
    let failing = Server::start("grpc --error-rate 1");
    for more in ["", " --bidi"] {
        let line = format!("-n 20 -c 2 -m 2{more}");
        let status = report("grpc-status", "run", &failing.url("grpc"), &line);
        assert_eq!(number(&status, "/answers"), 20, "{status:#}");
        assert_eq!(number(&status, "/errors/grpc"), 20);
    }
    let http = Server::start("http --error-rate 1 --error-status 404");
    let status = report("h2-status", "run", &http.http(), "-n 50 -c 5 -m 3 --http2");
    assert_eq!(number(&status, "/answers"), 50);
    assert_eq!(number(&status, "/errors/status"), 50);
    // An answer of another protocol than gRPC has no status of gRPC.
    let http = Server::start("http");
    let none = report("not-grpc", "run", &http.url("grpc"), "-n 5 -c 1");
    assert_eq!(number(&none, "/errors/protocol"), 5, "{none:#}");
    let slow = Server::start("long-poll");
    let line = "-n 4 -c 2 -m 2 --http2 --timeout 50ms";
    let timeout = report("h2-timeout", "run", &slow.http(), line);
    assert_eq!(number(&timeout, "/errors/timeout"), 4, "{timeout:#}");
    let echo = Server::start("tcp");
    let line = "-n 3 -c 1 --http2";
    let protocol = report("h2-echoed", "run", &echo.http(), line);
    assert_eq!(number(&protocol, "/errors/protocol"), 3, "{protocol:#}");
}

#[test]
fn answers_that_wait_and_events_that_come() {
    let server = Server::start("http --delay 30ms");
    let waited = report(
        "h2-delay",
        "run",
        &server.http(),
        "-n 40 -c 2 -m 10 --http2",
    );
    assert_eq!((number(&waited, "/answers"), errors(&waited)), (40, 0));
    assert!(number(&waited, "/latency/min_us") >= 29_000);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for words in [
        "run http://127.0.0.1:9/ --streams 3",
        "run tcp://127.0.0.1:9 --http2",
        "run http://127.0.0.1:9/ --http2 --bidi",
        "run http://127.0.0.1:9/ --http2 --no-keep-alive",
        "run grpc://127.0.0.1:9/a/b -X GOT",
        "serve grpc --size 5",
    ] {
        let output = program().args(words.split(' ')).output().unwrap();
        assert!(!output.status.success(), "{words}");
        assert!(said(&output).starts_with("moorgate-load: "), "{words}");
    }
}

#[test]
fn silent_connections_and_streams_are_held_and_used() {
    let certificate = Certificate::new("hold-h2");
    let words = certificate.words();
    for (serve, scheme, more, streams) in [
        ("http".to_owned(), "http", "--http2", 0),
        (format!("http {words}"), "https", "--http2 -k", 0),
        ("grpc".to_owned(), "grpc", "", 0),
        ("grpc".to_owned(), "grpc", "--bidi", 1),
        ("grpc".to_owned(), "grpc", "--bidi -m 7", 7),
        // More than are assumed to be allowed before the server says how many are.
        ("grpc".to_owned(), "grpc", "--bidi -m 300", 300),
        (format!("grpc {words}"), "grpcs", "--bidi -m 3 -k", 3),
    ] {
        let server = Server::start(&serve);
        let line = format!("-c 40 --rate 3000 --every 400ms -d 1500ms {more}");
        let report = report("hold-h2", "hold", &server.url(scheme), line.trim_end());
        let count = |name: &str| number(&report, &format!("/counts/{name}"));
        assert_eq!(count("connected"), 40, "{serve} {more}: {report:#}");
        for none in ["failed", "dropped", "reconnected"] {
            assert_eq!(count(none), 0, "{none} of {serve} {more}: {report:#}");
        }
        assert_eq!(errors(&report["counts"]), 0, "{serve} {more}");
        // Each stream answered once at the beginning, and now and then one of each connection.
        assert!(count("answers") > 40 * streams.max(1), "{serve} {more}");
    }
    let server = Server::start("http");
    let words = format!("hold {} --http2 -m 3", server.http());
    let output = program().args(words.split(' ')).output().unwrap();
    assert!(said(&output).contains("--bidi"));
}
