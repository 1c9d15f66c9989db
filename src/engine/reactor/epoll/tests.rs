//! What is the kernel's alone: options, paths and wake-ups. The registration rules are in the
//! conformance suite.

use std::io::{ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use nix::sys::socket::{getsockopt, sockopt};

use super::*;
use crate::engine::reactor::{Keepalive, OptionTime, RawOption};

fn reactor() -> Epoll {
    Epoll::new(Clock::start()).unwrap()
}

fn loopback() -> Addr {
    Addr::Ip("127.0.0.1:0".parse().unwrap())
}

fn int_option(sock: Sock, level: i32, name: i32) -> i32 {
    let mut value = 0i32;
    let mut len = 4;
    // SAFETY: the value is four writable bytes, as the length says.
    let done =
        unsafe { libc::getsockopt(sock.0, level, name, (&raw mut value).cast(), &raw mut len) };
    assert_eq!(done, 0);
    value
}

/// A listening socket, its accepted connection and the connecting end.
fn triple(r: &mut Epoll, addr: &Addr, listen: &ListenOptions) -> (Sock, Sock, Sock, Addr) {
    let listener = r.listen(addr, listen).unwrap();
    r.add(listener, Tag(1), Interest::Listen).unwrap();
    let local = r.local_addr(listener).unwrap();
    let client = r.connect(&local, &SocketOptions::default()).unwrap();
    let mut events = Vec::new();
    while events.is_empty() {
        r.wait(None, &mut events).unwrap();
    }
    let (server, peer) = r.accept(listener, &SocketOptions::default()).unwrap();
    r.remove(listener).unwrap();
    (listener, server, client, peer)
}

#[test]
fn accepted_sockets_inherit_the_listeners_options() {
    let mut r = reactor();
    let mut listen = ListenOptions::default();
    listen.socket.keepalive = Some(Keepalive {
        idle_s: Some(111),
        interval_s: Some(22),
        probes: Some(3),
    });
    listen.socket.user_timeout_ms = Some(4567);
    listen.socket.raw.push(RawOption {
        level: libc::SOL_SOCKET,
        name: libc::SO_PRIORITY,
        value: 5i32.to_ne_bytes().to_vec(),
        when: OptionTime::Bound,
    });
    let (listener, server, client, peer) = triple(&mut r, &loopback(), &listen);
    assert_eq!(int_option(listener, libc::SOL_SOCKET, libc::SO_PRIORITY), 5);
    for (level, name, value) in [
        (libc::SOL_TCP, libc::TCP_NODELAY, 1),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::SOL_TCP, libc::TCP_KEEPIDLE, 111),
        (libc::SOL_TCP, libc::TCP_KEEPINTVL, 22),
        (libc::SOL_TCP, libc::TCP_KEEPCNT, 3),
        (libc::SOL_TCP, libc::TCP_USER_TIMEOUT, 4567),
    ] {
        assert_eq!(int_option(server, level, name), value);
    }
    assert_eq!(int_option(client, libc::SOL_TCP, libc::TCP_NODELAY), 1);
    assert_eq!(peer, r.local_addr(client).unwrap());
    assert_eq!(r.peer_addr(client).unwrap(), r.local_addr(server).unwrap());
    for sock in [listener, server, client] {
        r.close(sock, false);
    }
}

#[test]
fn connections_on_the_loopback_do_without_pacing() {
    let mut r = reactor();
    let (listener, server, client, _) = triple(&mut r, &loopback(), &ListenOptions::default());
    for sock in [server, client] {
        // SAFETY: the test holds the socket open.
        let fd = unsafe { BorrowedFd::borrow_raw(sock.0) };
        let control = getsockopt(&fd, sockopt::TcpCongestion).unwrap();
        let control = control.to_string_lossy();
        assert_eq!(control.trim_end_matches('\0'), "reno");
    }
    for sock in [listener, server, client] {
        r.close(sock, false);
    }
}

#[test]
fn connects_from_the_bound_address_with_its_options() {
    let mut r = reactor();
    let listener = r.listen(&loopback(), &ListenOptions::default()).unwrap();
    let addr = r.local_addr(listener).unwrap();
    let options = SocketOptions {
        bind: Some("127.0.0.7:0".parse().unwrap()),
        keepalive: Some(Keepalive {
            idle_s: Some(77),
            interval_s: Some(11),
            probes: Some(4),
        }),
        user_timeout_ms: Some(8901),
        ..SocketOptions::default()
    };
    let client = r.connect(&addr, &options).unwrap();
    for (level, name, value) in [
        (libc::SOL_TCP, libc::TCP_NODELAY, 1),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::SOL_TCP, libc::TCP_KEEPIDLE, 77),
        (libc::SOL_TCP, libc::TCP_KEEPINTVL, 11),
        (libc::SOL_TCP, libc::TCP_KEEPCNT, 4),
        (libc::SOL_TCP, libc::TCP_USER_TIMEOUT, 8901),
    ] {
        assert_eq!(int_option(client, level, name), value);
    }
    let Addr::Ip(local) = r.local_addr(client).unwrap() else {
        panic!("not an IP address")
    };
    assert_eq!(local.ip().to_string(), "127.0.0.7");
    assert_ne!(local.port(), 0);
    r.close(client, true);
    r.close(listener, false);
}

#[test]
fn ipv6_takes_ipv4_only_when_asked() {
    let mut r = reactor();
    for compat in [false, true] {
        let options = ListenOptions {
            ipv4_compat: compat,
            ..ListenOptions::default()
        };
        let Ok(listener) = r.listen(&Addr::Ip("[::]:0".parse().unwrap()), &options) else {
            return; // A host without IPv6.
        };
        let only = int_option(listener, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
        assert_eq!(only == 0, compat);
        r.close(listener, false);
    }
}

#[test]
fn unix_paths_are_given_a_mode_and_taken_over_only_when_nobody_listens() {
    use std::os::unix::fs::PermissionsExt;
    let dir = std::env::temp_dir().join(format!("moorgate-unix-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path: PathBuf = dir.join("socket");
    let addr = Addr::Unix(Arc::from(path.as_path()));
    let mut r = reactor();
    let options = ListenOptions {
        unix_mode: Some(0o640),
        ..ListenOptions::default()
    };
    let (first, server, client, peer) = triple(&mut r, &addr, &options);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(r.local_addr(first).unwrap(), addr);
    assert_eq!(peer, sockets_unnamed());
    let busy = r.listen(&addr, &options).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::AddrInUse);
    r.close(first, false);
    let second = r.listen(&addr, &options).unwrap();
    for sock in [second, server, client] {
        r.close(sock, false);
    }
    // A file that is no socket is never removed.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"precious").unwrap();
    let file = r.listen(&addr, &options).unwrap_err();
    assert_eq!(file.kind(), ErrorKind::AddrInUse);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_dir_all(&dir).unwrap();
}

fn sockets_unnamed() -> Addr {
    Addr::Unix(Arc::from(std::path::Path::new("")))
}

#[test]
fn abstract_unix_sockets_keep_their_name() {
    let mut r = reactor();
    let name = format!("\0moorgate-{}", std::process::id());
    let addr = Addr::Unix(Arc::from(std::path::Path::new(&name)));
    let (listener, server, client, _) = triple(&mut r, &addr, &ListenOptions::default());
    assert_eq!(r.local_addr(listener).unwrap(), addr);
    assert_eq!(r.peer_addr(client).unwrap(), addr);
    for sock in [listener, server, client] {
        r.close(sock, false);
    }
}

#[test]
fn writes_many_slices_and_never_raises_a_signal() {
    let mut r = reactor();
    let (listener, server, client, _) = triple(&mut r, &loopback(), &ListenOptions::default());
    let slices = vec![IoSlice::new(b"ab"); 1500];
    assert_eq!(r.write(client, &slices).unwrap(), 2 * 1024);
    assert_eq!(r.write(client, &[]).unwrap(), 0);
    assert_eq!(r.write(client, &[IoSlice::new(b"z")]).unwrap(), 1);
    let mut buf = [0; 4096];
    let mut got = 0;
    while got < 2049 {
        match r.read(server, &mut buf) {
            Ok(n) => got += n,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert_eq!(got, 2049);
    r.shutdown_write(client).unwrap();
    for slices in [
        &[IoSlice::new(b"x")][..],
        &[IoSlice::new(b"x"), IoSlice::new(b"y")],
    ] {
        let error = r.write(client, slices).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
    for sock in [listener, server, client] {
        r.close(sock, true);
    }
}

#[test]
fn a_wake_from_another_thread_ends_the_wait_and_is_no_event() {
    let mut r = reactor();
    let remote = r.remote();
    let mut events = Vec::new();
    for _ in 0..3 {
        let remote = remote.clone();
        let thread = std::thread::spawn(move || remote.wake());
        r.wait(None, &mut events).unwrap();
        thread.join().unwrap();
        assert!(events.is_empty());
    }
    // One given before the wait counts too, and two are one.
    remote.wake();
    remote.wake();
    r.wait(None, &mut events).unwrap();
    assert!(events.is_empty());
}

#[test]
fn a_full_batch_grows_and_the_rest_comes_with_the_next_wait() {
    let mut r = reactor();
    let listeners: Vec<_> = (0..150)
        .map(|i| {
            let sock = r.listen(&loopback(), &ListenOptions::default()).unwrap();
            r.add(sock, Tag(i), Interest::Listen).unwrap();
            sock
        })
        .collect();
    let clients: Vec<_> = listeners
        .iter()
        .map(|sock| {
            let addr = r.local_addr(*sock).unwrap();
            r.connect(&addr, &SocketOptions::default()).unwrap()
        })
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    let mut events = Vec::new();
    while seen.len() < 150 {
        events.clear();
        r.wait(None, &mut events).unwrap();
        assert!(events.len() <= MAX_BATCH);
        seen.extend(events.iter().map(|event| event.tag.0));
    }
    assert!(r.batch.len() > FIRST_BATCH);
    for sock in listeners.into_iter().chain(clients) {
        r.close(sock, true);
    }
}

#[test]
fn a_negative_number_is_no_descriptor() {
    let mut r = reactor();
    let error = r.add(Sock(-1), Tag(1), Interest::Silent).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    r.close(Sock(-1), true);
}
