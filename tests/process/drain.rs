//! SIGTERM: listeners close, clients leave, the process ends with 0.

use std::net::TcpStream;
use std::sync::atomic::Ordering;

use nix::sys::signal::Signal;

use crate::support::{
    Client, Gateway, Upstream, cluster, config, http_listener, tcp_listener, until,
};

fn gateway(a: &Upstream, drain_time: &str) -> Gateway {
    let text = config(
        &[http_listener("web", "a", ""), tcp_listener("tcp", "a")],
        &[cluster("a", &[a.addr], "")],
    );
    Gateway::with(&text, &["--drain-time-s", drain_time])
}

#[test]
fn without_clients_it_ends_at_once() {
    let a = Upstream::start("a");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut gateway = gateway(&a, "600");
        gateway.signal(signal);
        assert_eq!(gateway.ended().code(), Some(0));
        assert!(gateway.log().contains("] ended\n"));
    }
}

#[test]
fn idle_clients_are_closed_and_open_requests_answered() {
    let a = Upstream::start("a");
    let mut gateway = gateway(&a, "2");
    let web = gateway.listener("web");
    let mut idle: Vec<_> = (0..5).map(|_| Client::connect(web)).collect();
    for client in &mut idle {
        assert_eq!(client.get("/").1, "a");
    }
    let mut open = Client::connect(web);
    open.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    until("it is on its way", || a.served() == 6);
    gateway.signal(Signal::SIGTERM);
    until("nobody listens", || TcpStream::connect(web).is_err());
    assert_eq!(gateway.get("/ready"), (503, "DRAINING\n".to_owned()));
    for client in &mut idle {
        assert_eq!(client.closed(), "");
    }
    a.conduct.release.store(true, Ordering::SeqCst);
    let (head, body) = open.answer();
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(body, "a");
    assert_eq!(open.closed(), "");
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn who_stays_longer_than_the_drain_time_is_closed() {
    let a = Upstream::start("a");
    let mut gateway = gateway(&a, "1");
    let mut open = Client::connect(gateway.listener("web"));
    open.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    let mut tunnel = Client::connect(gateway.listener("tcp"));
    assert_eq!(tunnel.get("/").1, "a");
    until("both are there", || a.served() == 2);
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.ended().code(), Some(0));
    open.closed();
    tunnel.closed();
}

#[test]
fn a_second_signal_ends_at_once() {
    let a = Upstream::start("a");
    let mut gateway = gateway(&a, "600");
    let mut tunnel = Client::connect(gateway.listener("tcp"));
    assert_eq!(tunnel.get("/").1, "a");
    gateway.signal(Signal::SIGTERM);
    until("it drains", || gateway.get("/ready").0 == 503);
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.ended().code(), Some(0));
    tunnel.closed();
}

#[test]
fn the_admin_interface_ends_it_too() {
    let a = Upstream::start("a");
    let mut gateway = gateway(&a, "600");
    assert_eq!(gateway.get("/quitquitquit").0, 405);
    assert_eq!(gateway.post("/quitquitquit"), (200, "OK\n".to_owned()));
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn listeners_can_be_drained_without_ending() {
    let a = Upstream::start("a");
    let gateway = gateway(&a, "600");
    let web = gateway.listener("web");
    let mut held = Client::connect(web);
    assert_eq!(held.get("/").1, "a");
    assert_eq!(gateway.post("/drain_listeners").0, 200);
    until("nobody listens", || TcpStream::connect(web).is_err());
    assert_eq!(held.get("/").1, "a", "connections stay");
    assert_eq!(gateway.get("/ready").0, 200);
}

#[test]
fn health_can_be_failed_by_hand() {
    let a = Upstream::start("a");
    let gateway = gateway(&a, "600");
    assert_eq!(gateway.post("/healthcheck/fail").0, 200);
    assert_eq!(gateway.get("/ready"), (503, "DRAINING\n".to_owned()));
    assert_eq!(gateway.post("/healthcheck/ok").0, 200);
    assert_eq!(gateway.get("/ready"), (200, "LIVE\n".to_owned()));
}
