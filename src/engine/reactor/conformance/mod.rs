//! The conformance suite: one script, every backend, the same trace.
//!
//! Each script runs on the simulator first, then on epoll; what the calls answered and what was
//! reported must agree. The kernel is right by definition: a difference is a bug of the simulator, or
//! of what we believe about the kernel. Events between two steps of a script are one set: their order
//! and how many waits they took do not count.

mod random;
mod scripts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::epoll::Epoll;
use super::sim::{Config, SimReactor, SimWorld};
use super::{
    Addr, Event, Interest, ListenOptions, Reactor, Ready, Remote, Sock, SocketOptions, Tag,
};

/// Reactors of one process.
const REACTORS: usize = 2;
/// After this an event that has not come will not come.
const LOST: Duration = Duration::from_secs(5);
/// How long the kernel is watched for events that should not come.
const WATCH_MS: u64 = 2;

/// Family of the sockets of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Tcp,
    Unix,
}

/// What a script saw, step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// What a call answered.
    Call(String),
    /// What was reported: reactor and tag, ready bits.
    Events(BTreeMap<(usize, u64), Bits>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Bits(u8);

impl Debug for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ready(self.0).fmt(f)
    }
}

/// A script's hands: reactors, open sockets, and the trace.
struct Bench<R: Reactor> {
    family: Family,
    reactors: Vec<R>,
    open: Vec<Sock>,
    steps: Vec<Step>,
    /// Tags of edge-triggered registrations whose FIN is on its way. The kernel may delay the
    /// acknowledgement, which is one more edge at a time we cannot know.
    unsteady: BTreeSet<u64>,
    /// The simulator's trace, while the kernel is compared with it.
    expected: Option<Vec<Step>>,
}

impl<R: Reactor> Bench<R> {
    fn new(family: Family, reactors: Vec<R>, expected: Option<Vec<Step>>) -> Self {
        Self {
            family,
            reactors,
            open: Vec::new(),
            steps: Vec::new(),
            unsteady: BTreeSet::new(),
            expected,
        }
    }

    /// Ends the script: closes what is open.
    fn finish(mut self) -> Vec<Step> {
        for sock in std::mem::take(&mut self.open) {
            for reactor in &mut self.reactors {
                let _ = reactor.remove(sock);
            }
            self.reactors[0].close(sock, true);
        }
        self.steps
    }

    fn note<T: Debug>(&mut self, what: &str, done: io::Result<T>) {
        let done = done.map_err(|error| error.raw_os_error().map(nix::errno::Errno::from_raw));
        self.steps.push(Step::Call(format!("{what}: {done:?}")));
    }

    // Sockets.

    fn addr(&self) -> Addr {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        match self.family {
            Family::Tcp => Addr::Ip("127.0.0.1:0".parse().unwrap()),
            Family::Unix => {
                let (pid, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
                let name = format!("\0moorgate-conformance-{pid}-{next}");
                Addr::Unix(Arc::from(Path::new(&name)))
            }
        }
    }

    fn listen(&mut self) -> (Sock, Addr) {
        let addr = self.addr();
        let options = ListenOptions::default();
        let sock = self.reactors[0].listen(&addr, &options).unwrap();
        self.open.push(sock);
        (sock, self.reactors[0].local_addr(sock).unwrap())
    }

    fn connect(&mut self, addr: &Addr) -> Sock {
        let options = SocketOptions::default();
        let sock = self.reactors[0].connect(addr, &options).unwrap();
        self.open.push(sock);
        sock
    }

    fn accept(&mut self, listener: Sock) -> Sock {
        let deadline = Instant::now() + LOST;
        loop {
            match self.reactors[0].accept(listener, &SocketOptions::default()) {
                Ok((sock, _)) => {
                    self.open.push(sock);
                    return sock;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    assert!(Instant::now() < deadline, "no connection to accept");
                }
            }
        }
    }

    /// A connection: the end that connected, the end that was accepted.
    fn pair(&mut self) -> (Sock, Sock) {
        let (listener, addr) = self.listen();
        let client = self.connect(&addr);
        let server = self.accept(listener);
        self.close(listener, false);
        (client, server)
    }

    fn close(&mut self, sock: Sock, reset: bool) {
        self.open.retain(|other| *other != sock);
        self.reactors[0].close(sock, reset);
    }

    /// Removes a registration and closes.
    fn end(&mut self, sock: Sock, reset: bool) {
        self.remove(sock);
        self.close(sock, reset);
    }

    // Calls that are noted.

    fn add(&mut self, sock: Sock, tag: u64, interest: Interest) {
        let done = self.reactors[0].add(sock, Tag(tag), interest);
        self.note("add", done);
    }

    fn modify(&mut self, sock: Sock, tag: u64, interest: Interest) {
        let done = self.reactors[0].modify(sock, Tag(tag), interest);
        self.note("modify", done);
    }

    fn remove(&mut self, sock: Sock) {
        let done = self.reactors[0].remove(sock);
        self.note("remove", done);
    }

    fn write(&mut self, sock: Sock, bytes: &[u8]) {
        let done = self.reactors[0].write(sock, &[IoSlice::new(bytes)]);
        self.note("write", done);
    }

    fn read(&mut self, sock: Sock, most: usize) {
        let mut buffer = vec![0; most];
        let done = self.reactors[0].read(sock, &mut buffer);
        let done = done.map(|count| {
            buffer.truncate(count);
            String::from_utf8(buffer).unwrap()
        });
        self.note("read", done);
    }

    fn peek(&mut self, sock: Sock, most: usize) {
        let mut buffer = vec![0; most];
        let done = self.reactors[0].peek(sock, &mut buffer);
        let done = done.map(|count| {
            buffer.truncate(count);
            String::from_utf8(buffer).unwrap()
        });
        self.note("peek", done);
    }

    fn shutdown(&mut self, sock: Sock) {
        let done = self.reactors[0].shutdown_write(sock);
        self.note("shutdown", done);
    }

    fn take_error(&mut self, sock: Sock) {
        let done = self.reactors[0].take_error(sock);
        self.note("take_error", done);
    }

    /// The other end's address is known.
    fn peer_addr(&mut self, sock: Sock) {
        let done = self.reactors[0].peer_addr(sock).map(|_| ());
        self.note("peer_addr", done);
    }

    /// Writes until nothing is taken any more; not noted, since sizes differ.
    fn fill(&mut self, sock: Sock) -> usize {
        let chunk = [b'x'; 32 << 10];
        let mut count = 0;
        let mut refused = 0;
        // The kernel moves bytes on while we write: room may come once more.
        while refused < 3 {
            match self.reactors[0].write(sock, &[IoSlice::new(&chunk)]) {
                Ok(written) => count += written,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    refused += 1;
                }
            }
        }
        count
    }

    /// Reads `count` bytes; not noted.
    fn drain(&mut self, sock: Sock, mut count: usize) {
        let mut buffer = vec![0; 256 << 10];
        let deadline = Instant::now() + LOST;
        while count > 0 {
            match self.reactors[0].read(sock, &mut buffer) {
                Ok(read) => count -= read,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            assert!(Instant::now() < deadline, "bytes are lost");
        }
    }

    // Events.

    /// Everything that is reported now, as one step.
    fn settle(&mut self) {
        let expected = match self
            .expected
            .as_ref()
            .map(|steps| steps.get(self.steps.len()))
        {
            Some(Some(Step::Events(expected))) => Some(expected.clone()),
            _ => None,
        };
        let mut found = BTreeMap::new();
        if let Some(expected) = expected {
            let deadline = Instant::now() + LOST;
            while found != expected && Instant::now() < deadline {
                let before = found.clone();
                self.collect(Some(0), &mut found);
                if before == found {
                    self.collect(Some(1), &mut found);
                }
                found
                    .retain(|key, _| expected.contains_key(key) || !self.unsteady.contains(&key.1));
                if found.keys().any(|key| !expected.contains_key(key)) {
                    break;
                }
            }
            self.collect(Some(WATCH_MS), &mut found);
            found.retain(|key, _| expected.contains_key(key) || !self.unsteady.contains(&key.1));
        } else {
            // Each wait of the simulator gives all there is; a second finds what the first caused.
            self.collect(Some(0), &mut found);
            self.collect(Some(0), &mut found);
        }
        self.steps.push(Step::Events(found));
    }

    fn collect(&mut self, timeout_ms: Option<u64>, into: &mut BTreeMap<(usize, u64), Bits>) {
        for (at, reactor) in self.reactors.iter_mut().enumerate() {
            // One long look is enough: the other reactors have no sockets in most scripts.
            let timeout = if at == 0 { timeout_ms } else { Some(0) };
            for event in poll(reactor, timeout) {
                into.entry((at, event.tag.0)).or_insert(Bits(0)).0 |= event.ready.0;
            }
        }
    }

    /// One wait of the first reactor that does not sleep, as one step.
    fn poll_once(&mut self) {
        let events = poll(&mut self.reactors[0], Some(0));
        let found = events
            .iter()
            .map(|event| ((0, event.tag.0), Bits(event.ready.0)));
        self.steps.push(Step::Events(found.collect()));
    }
}

fn poll<R: Reactor>(reactor: &mut R, timeout_ms: Option<u64>) -> Vec<Event> {
    let mut events = Vec::new();
    match reactor.wait(timeout_ms, &mut events) {
        Ok(()) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    events
}

fn on_sim(family: Family, script: impl FnOnce(&mut Bench<SimReactor>)) -> Vec<Step> {
    let world = SimWorld::new(1, Config::quiet(REACTORS));
    let reactors = (0..REACTORS).map(|worker| world.reactor(worker)).collect();
    let mut bench = Bench::new(family, reactors, None);
    script(&mut bench);
    let steps = bench.finish();
    assert_eq!(world.open_descriptors(), []);
    assert_eq!(world.objects(), 0);
    steps
}

fn on_epoll(
    family: Family,
    expected: &[Step],
    script: impl FnOnce(&mut Bench<Epoll>),
) -> Vec<Step> {
    let clock = Clock::start();
    let reactors = (0..REACTORS).map(|_| Epoll::new(clock).unwrap()).collect();
    let mut bench = Bench::new(family, reactors, Some(expected.to_vec()));
    script(&mut bench);
    bench.finish()
}

/// Fails at the first step where the traces part.
fn compare(name: &str, family: Family, sim: Vec<Step>, kernel: Vec<Step>) {
    let mut before = VecDeque::new();
    let longest = sim.len().max(kernel.len());
    for at in 0..longest {
        let (sim, kernel) = (sim.get(at), kernel.get(at));
        if sim != kernel {
            let before: Vec<_> = before.into_iter().collect();
            panic!(
                "{name} over {family:?}, step {at}\n  before: {before:?}\n  \
                 simulator: {sim:?}\n  kernel:    {kernel:?}"
            );
        }
        before.push_back(kernel);
        if before.len() > 12 {
            before.pop_front();
        }
    }
}
