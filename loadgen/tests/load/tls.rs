//! TLS at both ends: handshakes in full and resumed, and what is refused.

use serde_json::Value;

use crate::support::{Certificate, Server, number, program, report, said};

fn errors(report: &Value) -> u64 {
    let kinds = report["errors"].as_object().unwrap();
    kinds.values().map(|number| number.as_u64().unwrap()).sum()
}

#[test]
fn requests_over_both_versions() {
    let certificate = Certificate::new("versions");
    let server = Server::start(&format!("http --size 40000 {}", certificate.words()));
    let authority = certificate.cert.0.display();
    for version in ["1.2", "1.3"] {
        let line = format!("-n 500 -c 7 --cacert {authority} --tls-version {version}");
        let report = report("tls", "run", &server.url("https"), &line);
        assert_eq!(number(&report, "/answers"), 500);
        assert_eq!(errors(&report), 0, "{report:#}");
        assert_eq!(number(&report, "/connects"), 7);
        let made = number(&report, "/tls/full") + number(&report, "/tls/resumed");
        assert_eq!(made, 7);
        assert_eq!(report["tls"]["version"], format!("TLSv{version}"));
        assert_eq!(report["tls"]["alpn"], "http/1.1");
        assert!(number(&report, "/bytes_in") > 500 * 40_000);
    }
}

#[test]
fn a_handshake_for_each_request_full_or_resumed() {
    let certificate = Certificate::new("each");
    let server = Server::start(&format!("http {}", certificate.words()));
    for version in ["1.2", "1.3"] {
        let line = format!("-n 60 -c 3 -k --reconnect-every 1 --tls-version {version}");
        let resumed = report("resumed", "run", &server.url("https"), &line);
        assert_eq!(errors(&resumed), 0, "{resumed:#}");
        assert_eq!(number(&resumed, "/connects"), 60);
        // Each connection has a session to continue but the first of them.
        assert!(number(&resumed, "/tls/full") <= 3, "{resumed:#}");
        assert!(number(&resumed, "/tls/resumed") >= 57);

        let line = format!("{line} --no-resume");
        let full = report("full", "run", &server.url("https"), &line);
        assert_eq!(errors(&full), 0, "{full:#}");
        assert_eq!(number(&full, "/tls/full"), 60);
        assert_eq!(number(&full, "/tls/resumed"), 0);
    }
    let line = "-n 60 -c 1 -k --reconnect-every 20";
    let some = report("some", "run", &server.url("https"), line);
    assert_eq!(number(&some, "/connects"), 3);
    let line = "-n 60 -c 4 -k --no-keep-alive --rate 2000";
    let open = report("open-tls", "run", &server.url("https"), line);
    assert_eq!((number(&open, "/connects"), errors(&open)), (60, 0));
}

#[test]
fn messages_of_every_size_and_of_websockets() {
    let certificate = Certificate::new("messages");
    let tcp = Server::start(&format!("tcp {}", certificate.words()));
    for (count, line) in [(300, "-n 300 -c 5 -k"), (6, "-n 6 -c 2 -k --size 3000000")] {
        let report = report("tls-tcp", "run", &tcp.url("tls"), line);
        assert_eq!(number(&report, "/answers"), count, "{report:#}");
        assert_eq!(errors(&report), 0, "{report:#}");
    }
    let ws = Server::start(&format!("ws {}", certificate.words()));
    let line = "-n 300 -c 5 -k --size 20000";
    let report = report("wss", "run", &ws.url("wss"), line);
    assert_eq!((number(&report, "/answers"), errors(&report)), (300, 0));
}

#[test]
fn who_is_not_trusted_or_speaks_no_tls_fails() {
    let certificate = Certificate::new("trust");
    let other = Certificate::new("other");
    let server = Server::start(&format!("http {}", certificate.words()));
    let authority = other.cert.0.display();
    let line = format!("-n 3 -c 1 --cacert {authority}");
    let untrusted = report("untrusted", "run", &server.url("https"), &line);
    assert_eq!(number(&untrusted, "/errors/tls"), 3);
    let why = untrusted["tls"]["refused"].as_str().unwrap();
    assert!(why.contains("certificate"), "{why}");
    let authority = certificate.cert.0.display();
    let named = |name: &str| {
        let line = format!("-n 3 -c 1 --cacert {authority} --sni {name}");
        report("named", "run", &server.url("https"), &line)
    };
    assert_eq!(errors(&named("load.test")), 0);
    assert_eq!(number(&named("other.test"), "/errors/tls"), 3);
    // A server that knows none of the protocols goes on without one, as Envoy does.
    let line = "-n 3 -c 1 -k --alpn acme/1";
    assert_eq!(
        errors(&report("alpn", "run", &server.url("https"), line)),
        0
    );
    let plain = Server::start("http");
    let line = "-n 3 -c 1 -k";
    let none = report("plain", "run", &plain.url("https"), line);
    assert_eq!(number(&none, "/errors/tls"), 3);
}

#[test]
fn silent_connections_are_held_and_used() {
    let certificate = Certificate::new("hold");
    for (service, scheme) in [("http", "https"), ("ws", "wss"), ("tcp", "tls")] {
        let server = Server::start(&format!("{service} {}", certificate.words()));
        let line = "-c 60 --rate 3000 --every 300ms -d 1s -k";
        let report = report("hold-tls", "hold", &server.url(scheme), line);
        let count = |name: &str| number(&report, &format!("/counts/{name}"));
        assert_eq!(count("connected"), 60, "{report:#}");
        for none in ["failed", "dropped", "reconnected"] {
            assert_eq!(count(none), 0, "{none} of {scheme}: {report:#}");
        }
        assert!(count("answers") > 0);
    }
    let server = Server::start(&format!("sse --interval 200ms {}", certificate.words()));
    let line = "-c 20 --rate 3000 -d 1s --sse -k";
    let report = report("hold-sse-tls", "hold", &server.url("https"), line);
    assert_eq!(number(&report, "/counts/connected"), 20, "{report:#}");
    assert!(number(&report, "/counts/events") > 20);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let told = |words: &str| {
        let output = program().args(words.split(' ')).output().unwrap();
        assert!(!output.status.success(), "{words}");
        said(&output)
    };
    assert!(told("run https://127.0.0.1:9/").contains("--cacert"));
    assert!(told("run http://127.0.0.1:9/ -k").contains("TLS"));
    assert!(told("hold tcp://127.0.0.1:9 --no-resume").contains("TLS"));
    assert!(told("run https://127.0.0.1:9/ --cacert /nonexistent").contains("/nonexistent"));
    assert!(told("serve http --cert /nonexistent --key /nonexistent").contains("/nonexistent"));
}
