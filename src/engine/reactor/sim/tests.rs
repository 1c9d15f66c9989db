//! The simulator by itself: its faults are legal, its oracles bite, the same seed gives the same run.
//!
//! Whether it behaves as the kernel does is the conformance suite's part.

mod echo;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::engine::reactor::Ready;

const EDGE: Interest = Interest::Edge { write: false };

fn quiet(workers: usize) -> SimWorld {
    SimWorld::new(1, Config::quiet(workers))
}

fn addr(port: u16) -> Addr {
    Addr::Ip(([127, 0, 0, 1], port).into())
}

fn listen(reactor: &mut SimReactor, port: u16) -> Sock {
    reactor
        .listen(&addr(port), &ListenOptions::default())
        .unwrap()
}

fn accept(reactor: &mut SimReactor, listener: Sock) -> Sock {
    reactor
        .accept(listener, &SocketOptions::default())
        .unwrap()
        .0
}

fn events(reactor: &mut SimReactor) -> Vec<(u64, Ready)> {
    let mut events = Vec::new();
    reactor.wait(Some(0), &mut events).unwrap();
    events
        .iter()
        .map(|event| (event.tag.0, event.ready))
        .collect()
}

/// What the panic of `call` says.
fn misuse(call: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

#[test]
fn misuse_ends_the_test() {
    let world = quiet(2);
    let mut r = world.reactor(0);
    let mut other = world.reactor(1);
    let listener = listen(&mut r, 80);
    let _client = world.connect_client(&addr(80)).unwrap();
    let sock = accept(&mut r, listener);
    r.add(sock, Tag(1), EDGE).unwrap();
    assert!(misuse(|| other.add(sock, Tag(1), EDGE).unwrap()).contains("another one"));
    let _ = other.remove(sock);
    assert!(misuse(|| r.close(sock, false)).contains("still registered"));
    r.remove(sock).unwrap();
    r.close(sock, false);
    assert!(misuse(|| r.close(sock, false)).contains("closed"));
    assert!(misuse(|| drop(r.write(sock, &[]))).contains("closed"));
    assert!(misuse(|| drop(r.remote().remove(sock))).contains("closed"));
    let report = misuse(|| drop(r.read(sock, &mut [0])));
    // The report has what led to it.
    assert!(
        report.contains("seed 1") && report.contains("accept"),
        "{report}"
    );
}

#[test]
fn a_worker_that_spins_ends_the_test() {
    let world = quiet(1);
    let mut r = world.reactor(0);
    let listener = listen(&mut r, 80);
    r.add(listener, Tag(9), Interest::Listen).unwrap();
    let _client = world.connect_client(&addr(80)).unwrap();
    let report = misuse(|| {
        loop {
            events(&mut r);
        }
    });
    assert!(report.contains("spins"));
}

#[test]
fn the_lowest_number_is_used_again_and_the_limit_holds() {
    let world = quiet(1);
    let mut r = world.reactor(0);
    let listener = listen(&mut r, 80);
    let clients: Vec<_> = (0..5)
        .map(|_| world.connect_client(&addr(80)).unwrap())
        .collect();
    let socks: Vec<_> = (0..3).map(|_| accept(&mut r, listener)).collect();
    r.close(socks[2], false);
    r.close(socks[0], false);
    assert_eq!(accept(&mut r, listener), socks[0]);
    world.set_descriptor_limit(3);
    let full = r.accept(listener, &SocketOptions::default()).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::EMFILE));
    let full = r.connect(&addr(80), &SocketOptions::default()).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::EMFILE));
    world.set_descriptor_limit(4);
    // Refused for want of a number, the connection still waits.
    assert_eq!(accept(&mut r, listener), socks[2]);
    drop(clients);
    assert_eq!(world.open_descriptors().len(), 4);
    for sock in world.open_descriptors() {
        r.close(sock, false);
    }
    assert_eq!(world.open_descriptors(), []);
    assert_eq!(world.objects(), 0);
}

#[test]
fn a_wait_that_would_sleep_says_so_until_there_is_a_reason() {
    let world = quiet(2);
    let mut r = world.reactor(0);
    let mut idle = world.reactor(1);
    let sleep = |r: &mut SimReactor, ms| r.wait(ms, &mut Vec::new()).unwrap_err().kind();
    assert_eq!(sleep(&mut idle, None), ErrorKind::WouldBlock);
    assert_eq!(sleep(&mut r, Some(5)), ErrorKind::WouldBlock);
    assert!(!world.runnable(0));
    assert_eq!(world.next_us(), Some(5000));
    // Its time.
    assert_eq!(world.pick(10_000), Some(0));
    assert_eq!((world.now_us(), r.clock_us()), (5000, 5000));
    r.wait(Some(5), &mut Vec::new()).unwrap();
    // A wake-up, also one given before the wait.
    assert_eq!(sleep(&mut r, None), ErrorKind::WouldBlock);
    assert_eq!(world.pick(u64::MAX), None);
    r.remote().wake();
    assert_eq!(world.pick(u64::MAX), Some(0));
    r.wait(None, &mut Vec::new()).unwrap();
    r.remote().wake();
    r.wait(None, &mut Vec::new()).unwrap();
    assert_eq!(sleep(&mut r, None), ErrorKind::WouldBlock);
    // An event.
    let listener = listen(&mut r, 80);
    r.add(listener, Tag(9), Interest::Listen).unwrap();
    assert!(!world.runnable(0));
    let _client = world.connect_client(&addr(80)).unwrap();
    assert!(world.has_events(0));
    assert_eq!(world.pick(u64::MAX), Some(0));
    assert_eq!(events(&mut r), [(9, Ready::READ)]);
}

#[test]
fn of_sleeping_workers_one_is_woken_to_accept() {
    for seed in 0..20 {
        let world = SimWorld::new(seed, Config::quiet(4));
        let mut workers: Vec<_> = (0..4).map(|worker| world.reactor(worker)).collect();
        let listener = listen(&mut workers[0], 80);
        for (worker, reactor) in workers.iter_mut().enumerate() {
            reactor
                .add(listener, Tag(worker as u64), Interest::Listen)
                .unwrap();
            let asleep = reactor.wait(None, &mut Vec::new()).unwrap_err();
            assert_eq!(asleep.kind(), ErrorKind::WouldBlock);
        }
        let woken = || (0..4).filter(|worker| world.runnable(*worker)).count();
        let _first = world.connect_client(&addr(80)).unwrap();
        assert_eq!(woken(), 1);
        let _second = world.connect_client(&addr(80)).unwrap();
        assert_eq!(woken(), 2);
    }
}

#[test]
fn a_full_accept_queue_delays_and_then_ends_a_connect() {
    let world = quiet(1);
    let mut r = world.reactor(0);
    let options = ListenOptions {
        backlog: 1,
        ..ListenOptions::default()
    };
    let listener = r.listen(&addr(80), &options).unwrap();
    let clients: Vec<_> = (0..4)
        .map(|_| world.connect_client(&addr(80)).unwrap())
        .collect();
    let open = || clients.iter().filter(|client| client.is_open()).count();
    assert_eq!(open(), 2);
    accept(&mut r, listener);
    world.advance(1_000_000);
    assert_eq!(open(), 3);
    assert!(clients[3].is_connecting() || clients[2].is_connecting());
    world.advance(200_000_000);
    assert_eq!(open(), 3);
    let ended = clients.iter().find(|client| !client.is_open()).unwrap();
    let error = ended.read(&mut [0]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
}

#[test]
fn connects_fail_as_the_faults_say() {
    let kinds = [
        (
            Faults {
                connect_refused: 1000,
                ..Faults::default()
            },
            libc::ECONNREFUSED,
        ),
        (
            Faults {
                connect_timeout: 1000,
                ..Faults::default()
            },
            libc::ETIMEDOUT,
        ),
    ];
    for (faults, errno) in kinds {
        let world = SimWorld::new(
            3,
            Config {
                faults,
                ..Config::quiet(1)
            },
        );
        let mut r = world.reactor(0);
        let _server = world.listen_peer(&addr(80)).unwrap();
        let sock = r.connect(&addr(80), &SocketOptions::default()).unwrap();
        r.add(sock, Tag(1), Interest::Edge { write: true }).unwrap();
        assert_eq!(events(&mut r), []);
        world.advance(130_000_000);
        let ready = events(&mut r)[0].1;
        assert!(ready.has(Ready::ERROR) && ready.has(Ready::WRITE));
        assert_eq!(r.take_error(sock).unwrap_err().raw_os_error(), Some(errno));
    }
    let faults = Faults {
        connect_error: 1000,
        ..Faults::default()
    };
    let world = SimWorld::new(
        3,
        Config {
            faults,
            ..Config::quiet(1)
        },
    );
    assert!(
        world
            .reactor(0)
            .connect(&addr(80), &SocketOptions::default())
            .is_err()
    );
    assert_eq!(world.open_descriptors(), []);
}

#[test]
fn latency_delays_bytes_and_their_end() {
    let faults = Faults {
        latency: 1000,
        connect_delay: 1000,
        ..Faults::default()
    };
    let world = SimWorld::new(
        5,
        Config {
            faults,
            latency_us: 1000,
            ..Config::quiet(1)
        },
    );
    let server = world.listen_peer(&addr(80)).unwrap();
    let client = world.connect_client(&addr(80)).unwrap();
    assert!(client.is_connecting());
    assert_eq!(
        client.write(b"early").unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    world.advance(1000);
    assert_eq!((client.is_open(), server.waiting()), (true, 1));
    let accepted = server.accept().unwrap();
    assert_eq!(client.write(b"hello").unwrap(), 5);
    client.shutdown_write().unwrap();
    assert_eq!(accepted.readable(), 0);
    assert_eq!(accepted.poll(), Ready::WRITE);
    world.advance(10_000);
    let mut got = Vec::new();
    assert!(accepted.read_available(&mut got).unwrap());
    assert_eq!(got, b"hello");
    accepted.reset();
    assert!(client.is_open());
    world.advance(10_000);
    assert!(!client.is_open() && !client.was_broken());
}

#[test]
fn a_late_wake_up_arrives() {
    let faults = Faults {
        late_wake: 1000,
        ..Faults::default()
    };
    let world = SimWorld::new(
        5,
        Config {
            faults,
            latency_us: 1000,
            ..Config::quiet(1)
        },
    );
    let mut r = world.reactor(0);
    assert!(r.wait(None, &mut Vec::new()).is_err());
    r.remote().wake();
    assert!(!world.runnable(0));
    assert_eq!(world.pick(1000), Some(0));
    r.wait(None, &mut Vec::new()).unwrap();
}
