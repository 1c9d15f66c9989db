//! The floor under every figure in perf/: a bare copy loop.
//!
//! `floor LISTEN UPSTREAM [WORKERS]` accepts on `LISTEN` and opens one upstream connection for each
//! client. Each worker is one thread with its own listener (SO_REUSEPORT) and its own epoll set, and
//! does per message what no proxy on epoll can do without: epoll_wait, recv, send, recv, send.
//!
//! It parses nothing, adds no header, shares no upstream connection, keeps no timer and does not
//! handle a peer that stops reading (it closes the pair). It must never grow a feature: what a proxy
//! spends above this program is what that proxy's work costs.

use std::mem::{size_of, zeroed};
use std::net::SocketAddrV4;
use std::os::fd::RawFd;

/// Bytes one recv may take.
const BUFFER_BYTES: usize = 16 * 1024;
/// Events one epoll_wait may return.
const BATCH: usize = 256;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (listen, upstream, workers) = match args.as_slice() {
        [listen, upstream] => (listen.parse(), upstream.parse(), Ok(1)),
        [listen, upstream, workers] => (listen.parse(), upstream.parse(), workers.parse()),
        _ => {
            eprintln!("usage: floor LISTEN_IPV4:PORT UPSTREAM_IPV4:PORT [WORKERS]");
            std::process::exit(2);
        }
    };
    let (Ok(listen), Ok(upstream), Ok(workers)) = (listen, upstream, workers) else {
        eprintln!("floor: addresses are IPV4:PORT, workers is a number");
        std::process::exit(2);
    };
    raise_descriptor_limit();
    let threads: Vec<_> = (0..workers)
        .map(|_: usize| std::thread::spawn(move || Worker::new(listen, upstream).run()))
        .collect();
    for thread in threads {
        if thread.join().is_err() {
            std::process::exit(1);
        }
    }
}

struct Worker {
    epoll: RawFd,
    listener: RawFd,
    upstream: libc::sockaddr_in,
    /// The other side of each descriptor, indexed by descriptor; -1 where there is none.
    peer: Vec<RawFd>,
}

impl Worker {
    fn new(listen: SocketAddrV4, upstream: SocketAddrV4) -> Self {
        // SAFETY: creates a descriptor; no memory is passed.
        let epoll = check("epoll_create1", unsafe {
            libc::epoll_create1(libc::EPOLL_CLOEXEC)
        });
        let listener = socket();
        set_option(listener, libc::SOL_SOCKET, libc::SO_REUSEADDR);
        set_option(listener, libc::SOL_SOCKET, libc::SO_REUSEPORT);
        let address = sockaddr(listen);
        // SAFETY: `address` is a valid sockaddr_in of the length given.
        check("bind", unsafe {
            libc::bind(listener, (&raw const address).cast(), length())
        });
        // SAFETY: a bound descriptor of ours.
        check("listen", unsafe { libc::listen(listener, 4096) });
        let worker = Self {
            epoll,
            listener,
            upstream: sockaddr(upstream),
            peer: Vec::new(),
        };
        worker.watch(listener);
        worker
    }

    fn run(mut self) {
        // SAFETY: epoll_event is plain data; all-zero is a valid value.
        let mut events: [libc::epoll_event; BATCH] = unsafe { zeroed() };
        let mut buffer = vec![0_u8; BUFFER_BYTES];
        loop {
            // SAFETY: `events` has room for BATCH events.
            let count = unsafe {
                libc::epoll_wait(self.epoll, events.as_mut_ptr(), BATCH as libc::c_int, -1)
            };
            for event in events.iter().take(usize::try_from(count).unwrap_or(0)) {
                let fd = event.u64 as RawFd;
                if fd == self.listener {
                    self.accept();
                } else {
                    self.copy(fd, &mut buffer);
                }
            }
        }
    }

    fn accept(&mut self) {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        loop {
            // SAFETY: null address pointers are allowed and mean "not wanted".
            let client = unsafe {
                libc::accept4(
                    self.listener,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    flags,
                )
            };
            if client < 0 {
                return;
            }
            let upstream = socket();
            // SAFETY: `self.upstream` is a valid sockaddr_in of the length given. The connection is
            // not finished when this returns; a send before that would be refused, and the pair
            // closed, but on loopback the handshake is done inside the call.
            unsafe { libc::connect(upstream, (&raw const self.upstream).cast(), length()) };
            let highest = client.max(upstream) as usize;
            if self.peer.len() <= highest {
                self.peer.resize(highest + 1, -1);
            }
            for (fd, other) in [(client, upstream), (upstream, client)] {
                set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY);
                self.peer[fd as usize] = other;
                self.watch(fd);
            }
        }
    }

    fn copy(&mut self, fd: RawFd, buffer: &mut [u8]) {
        let other = self.peer[fd as usize];
        if other < 0 {
            return; // closed by an earlier event of this batch
        }
        // SAFETY: `buffer` is writable for its whole length.
        let got = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if got < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock {
            return;
        }
        if got > 0 {
            // SAFETY: the first `got` bytes of `buffer` were just written by recv.
            let sent = unsafe {
                libc::send(
                    other,
                    buffer.as_ptr().cast(),
                    got as usize,
                    libc::MSG_NOSIGNAL,
                )
            };
            if sent == got {
                return;
            }
        }
        for fd in [fd, other] {
            self.peer[fd as usize] = -1;
            // SAFETY: both descriptors are ours and open; closing also removes them from epoll.
            unsafe { libc::close(fd) };
        }
    }

    fn watch(&self, fd: RawFd) {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: fd as u64,
        };
        // SAFETY: `event` outlives the call; both descriptors are open.
        check("epoll_ctl", unsafe {
            libc::epoll_ctl(self.epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event)
        });
    }
}

fn socket() -> RawFd {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: creates a descriptor; no memory is passed.
    check("socket", unsafe { libc::socket(libc::AF_INET, kind, 0) })
}

fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int) {
    let on: libc::c_int = 1;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `on` is a c_int and `size` is its size.
    check("setsockopt", unsafe {
        libc::setsockopt(fd, level, name, (&raw const on).cast(), size)
    });
}

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    // SAFETY: sockaddr_in is plain data; all-zero is a valid value.
    let mut raw: libc::sockaddr_in = unsafe { zeroed() };
    raw.sin_family = libc::AF_INET as libc::sa_family_t;
    raw.sin_port = address.port().to_be();
    raw.sin_addr.s_addr = u32::from(*address.ip()).to_be();
    raw
}

fn length() -> libc::socklen_t {
    size_of::<libc::sockaddr_in>() as libc::socklen_t
}

fn raise_descriptor_limit() {
    // SAFETY: rlimit is plain data; both calls get a valid pointer to it.
    unsafe {
        let mut limit: libc::rlimit = zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Ends the process with the system's message if a call of the set-up failed.
fn check(call: &str, result: libc::c_int) -> libc::c_int {
    if result < 0 {
        eprintln!("floor: {call}: {}", std::io::Error::last_os_error());
        std::process::exit(1);
    }
    result
}
