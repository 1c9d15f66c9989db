//! The simulator: workers, network and clock of a whole process in one thread, ordered by a seed.
//!
//! A [`SimWorld`] holds everything; each virtual worker has a [`SimReactor`], scripted clients and
//! servers are [`SimPeer`] and [`SimListener`]. Nothing moves by itself: a driver runs workers that
//! [`pick`](SimWorld::pick) names, in an order drawn from the seed, and time moves only when none of them
//! can go on. The same seed gives the same run.
//!
//! It must never do what a kernel would not: each fault is one that the rules of the contract allow,
//! above all an edge for whatever a call was refused. It follows Linux' TCP, Unix sockets and epoll; the
//! conformance suite compares it with them. What it does not know: socket options, packet filters that
//! redirect, half-open connections that died silently, urgent data.

mod config;
mod delivery;
mod interest;
mod network;
mod peer;
mod stream;
#[cfg(test)]
mod tests;
mod trace;
mod world;

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use config::{Config, Faults};
pub use peer::{SimListener, SimPeer};

use self::stream::{Kind, State};
use self::world::{Action, Id, Object, World};
use super::random::Random;
use super::{Addr, Event, Interest, ListenOptions, Reactor, Remote, Sock, SocketOptions, Tag};

/// A simulated process and everything it talks to. Clones name the same world.
#[derive(Clone, Debug)]
pub struct SimWorld(Arc<Mutex<World>>);

impl SimWorld {
    /// A world at time 0.
    ///
    /// # Panics
    /// When `config.workers` is not 1 to 8.
    #[must_use]
    pub fn new(seed: u64, config: Config) -> Self {
        Self(Arc::new(Mutex::new(World::new(seed, config))))
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        // A failed oracle panics with the lock held; its report must still be readable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reactor of a worker. Several of one worker would be one epoll set shared: make one.
    ///
    /// # Panics
    /// When there is no such worker.
    #[must_use]
    pub fn reactor(&self, worker: usize) -> SimReactor {
        let mut world = self.lock();
        assert!(worker < world.sets.len(), "no worker {worker}");
        let random = Random::from_seed(world.random.next_u64());
        drop(world);
        SimReactor {
            world: self.clone(),
            worker,
            random,
        }
    }

    /// Connects a scripted client; the connection may still be on its way, or be refused.
    ///
    /// # Errors
    /// Unix sockets only: ENOENT, ECONNREFUSED, EAGAIN at once.
    pub fn connect_client(&self, addr: &Addr) -> io::Result<SimPeer> {
        let done = self.lock().connect(addr, None, false);
        let (id, _) = done.map_err(failed)?;
        Ok(SimPeer::new(self.clone(), id))
    }

    /// Listens as a scripted server.
    ///
    /// # Errors
    /// EADDRINUSE.
    pub fn listen_peer(&self, addr: &Addr) -> io::Result<SimListener> {
        let done = self.lock().listen(addr, 4096, true, false);
        let (id, _) = done.map_err(failed)?;
        Ok(SimListener::new(self.clone(), id))
    }

    /// Microseconds since the world began.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.lock().now_us
    }

    /// Moves time on; what becomes due on the way happens in its order.
    pub fn advance(&self, us: u64) {
        let mut world = self.lock();
        let to = world.now_us.saturating_add(us);
        world.advance_to(to);
    }

    /// When something happens next: a delivery, or the end of a worker's sleep.
    #[must_use]
    pub fn next_us(&self) -> Option<u64> {
        self.lock().next_us()
    }

    /// The worker can go on: it runs, was woken, has events, or its sleep is over.
    #[must_use]
    pub fn runnable(&self, worker: usize) -> bool {
        let mut world = self.lock();
        world.run_due();
        world.runnable(worker)
    }

    /// A wait of the worker would report something.
    #[must_use]
    pub fn has_events(&self, worker: usize) -> bool {
        let mut world = self.lock();
        world.run_due();
        world.has_events(worker)
    }

    /// A worker that can go on, drawn from the seed. Time moves, at most to `until_us`, only while
    /// there is none. `None`: nothing happens until then.
    #[must_use]
    pub fn pick(&self, until_us: u64) -> Option<usize> {
        let mut world = self.lock();
        loop {
            world.run_due();
            let mut runnable = [0; 8];
            let mut count = 0;
            for worker in 0..world.sets.len() {
                if world.runnable(worker) {
                    runnable[count] = worker;
                    count += 1;
                }
            }
            if count > 0 {
                let drawn = world.random.below(count as u64) as usize;
                return Some(runnable[drawn]);
            }
            match world.next_us() {
                Some(at) if at <= until_us => world.advance_to(at),
                _ => return None,
            }
        }
    }

    /// A number from the seed, for the script of a test.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.lock().random.next_u64()
    }

    /// Changes the probabilities from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().config.faults = faults;
    }

    /// Changes how many descriptors the process may have.
    pub fn set_descriptor_limit(&self, limit: usize) {
        self.lock().config.descriptor_limit = limit;
    }

    /// Descriptors the process has open, ascending.
    #[must_use]
    pub fn open_descriptors(&self) -> Vec<Sock> {
        self.lock().open()
    }

    /// Ends of connections and listening sockets that exist, also those of peers and those that are
    /// closed but still send.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.lock().objects()
    }

    /// Descriptors registered with a worker, ascending.
    #[must_use]
    pub fn registered(&self, worker: usize) -> Vec<Sock> {
        self.lock().sets[worker].registered().map(Sock).collect()
    }

    /// A number made of every call and event so far: equal for two runs that were the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.lock().digest()
    }

    /// The last calls and events, a line each.
    #[must_use]
    pub fn trace(&self) -> String {
        self.lock().trace()
    }
}

/// One virtual worker's backend.
///
/// Its [`wait`](Reactor::wait) never blocks: when nothing is there it notes how long the worker sleeps
/// and fails with `WouldBlock`. The worker's turn ends there, still asleep for everybody who looks, and
/// the same wait is made again when [`SimWorld::runnable`] says so.
#[derive(Debug)]
pub struct SimReactor {
    world: SimWorld,
    worker: usize,
    random: Random,
}

/// Handle of a [`SimReactor`] for others.
#[derive(Clone, Debug)]
pub struct SimRemote {
    world: SimWorld,
    worker: usize,
}

impl SimReactor {
    fn run<T>(
        &self,
        what: &'static str,
        sock: Sock,
        value: impl Fn(&T) -> i64,
        call: impl FnOnce(&mut World, Id) -> Result<T, i32>,
    ) -> io::Result<T> {
        let mut world = self.world.lock();
        let id = world.by_sock(sock, what);
        let done = call(&mut world, id);
        world.now_us += world.config.call_us;
        let value = match &done {
            Ok(done) => value(done),
            Err(errno) => -i64::from(*errno),
        };
        world.log(Some(self.worker), what, sock.0, value);
        done.map_err(failed)
    }
}

impl Remote for SimRemote {
    fn wake(&self) {
        let mut world = self.world.lock();
        let late = world.config.faults.late_wake;
        if world.random.chance(late) {
            let after = world.delay();
            world.schedule(after, Action::Wake(self.worker as u8));
        } else {
            world.sets[self.worker].woken = true;
        }
    }

    fn remove(&self, sock: Sock) -> io::Result<()> {
        remove(&mut self.world.lock(), self.worker, sock).map_err(failed)
    }
}

fn remove(world: &mut World, worker: usize, sock: Sock) -> Result<(), i32> {
    let id = world.by_sock(sock, "remove");
    if !world.sets[worker].delete(sock.0) {
        return Err(libc::ENOENT);
    }
    world.watch(worker, sock, id, false);
    world.log(Some(worker), "remove", sock.0, 0);
    Ok(())
}

impl Reactor for SimReactor {
    type Remote = SimRemote;

    fn remote(&self) -> SimRemote {
        SimRemote {
            world: self.world.clone(),
            worker: self.worker,
        }
    }

    fn clock_us(&self) -> u64 {
        self.world.now_us()
    }

    fn random(&mut self) -> u64 {
        self.random.next_u64()
    }

    fn wait(&mut self, timeout_ms: Option<u64>, events: &mut Vec<Event>) -> io::Result<()> {
        if self.world.lock().wait(self.worker, timeout_ms, events) {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    fn add(&mut self, sock: Sock, tag: Tag, interest: Interest) -> io::Result<()> {
        let worker = self.worker;
        self.run(
            "add",
            sock,
            |()| tag.0 as i64,
            |world, id| {
                if !world.sets[worker].insert(sock.0, tag, interest) {
                    return Err(libc::EEXIST);
                }
                world.watch(worker, sock, id, true);
                world.poll_new(worker, sock, id);
                Ok(())
            },
        )
    }

    fn modify(&mut self, sock: Sock, tag: Tag, interest: Interest) -> io::Result<()> {
        let worker = self.worker;
        self.run(
            "modify",
            sock,
            |()| tag.0 as i64,
            |world, id| {
                let set = &mut world.sets[worker];
                match set.get(sock.0) {
                    None => return Err(libc::ENOENT),
                    Some(found) if found.exclusive || interest == Interest::Listen => {
                        return Err(libc::EINVAL);
                    }
                    Some(_) => set.change(sock.0, tag, interest),
                };
                world.poll_new(worker, sock, id);
                Ok(())
            },
        )
    }

    fn remove(&mut self, sock: Sock) -> io::Result<()> {
        remove(&mut self.world.lock(), self.worker, sock).map_err(failed)
    }

    fn listen(&mut self, addr: &Addr, options: &ListenOptions) -> io::Result<Sock> {
        let mut world = self.world.lock();
        let done = world.listen(addr, options.backlog, options.reuse_port, true);
        opened(&mut world, self.worker, "listen", done)
    }

    fn accept(&mut self, listener: Sock, _: &SocketOptions) -> io::Result<(Sock, Addr)> {
        self.run(
            "accept",
            listener,
            |(sock, _): &(Sock, Addr)| i64::from(sock.0),
            |world, id| world.accept(id),
        )
    }

    fn connect(&mut self, addr: &Addr, options: &SocketOptions) -> io::Result<Sock> {
        let mut world = self.world.lock();
        let done = world.connect(addr, options.bind, true);
        opened(&mut world, self.worker, "connect", done)
    }

    fn take_error(&mut self, sock: Sock) -> io::Result<()> {
        self.run(
            "take_error",
            sock,
            |()| 0,
            |world, id| {
                let error = world.stream(id).and_then(|stream| stream.error.take());
                error.map_or(Ok(()), Err)
            },
        )
    }

    fn read(&mut self, sock: Sock, into: &mut [u8]) -> io::Result<usize> {
        assert!(
            !into.is_empty(),
            "a read into nothing looks like the end of stream"
        );
        self.run(
            "read",
            sock,
            |count: &usize| *count as i64,
            |world, id| world.read(id, into),
        )
    }

    fn peek(&mut self, sock: Sock, into: &mut [u8]) -> io::Result<usize> {
        assert!(
            !into.is_empty(),
            "a peek into nothing looks like the end of stream"
        );
        self.run(
            "peek",
            sock,
            |count: &usize| *count as i64,
            |world, id| world.peek(id, into),
        )
    }

    fn original_dst(&self, _: Sock) -> Option<Addr> {
        None
    }

    fn write(&mut self, sock: Sock, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.run(
            "write",
            sock,
            |count: &usize| *count as i64,
            |world, id| world.write(id, from),
        )
    }

    fn shutdown_write(&mut self, sock: Sock) -> io::Result<()> {
        self.run("shutdown", sock, |()| 0, World::shutdown_write)
    }

    fn close(&mut self, sock: Sock, reset: bool) {
        let mut world = self.world.lock();
        let id = world.close_sock(sock);
        world.log(Some(self.worker), "close", sock.0, i64::from(reset));
        match world.object(id) {
            Some(Object::Stream(_)) => world.close_stream(id, reset),
            Some(Object::Listener(_)) => world.close_listener(id),
            None => {}
        }
    }

    fn local_addr(&self, sock: Sock) -> io::Result<Addr> {
        let mut world = self.world.lock();
        let id = world.by_sock(sock, "local_addr");
        match world.object(id) {
            Some(Object::Stream(stream)) => Ok(stream.local.clone()),
            Some(Object::Listener(listener)) => Ok(listener.addr.clone()),
            None => Err(failed(libc::EBADF)),
        }
    }

    fn peer_addr(&self, sock: Sock) -> io::Result<Addr> {
        let mut world = self.world.lock();
        let id = world.by_sock(sock, "peer_addr");
        match world.object(id) {
            Some(Object::Stream(stream))
                if stream.kind == Kind::Unix || stream.state == State::Open =>
            {
                Ok(stream.remote.clone())
            }
            _ => Err(failed(libc::ENOTCONN)),
        }
    }
}

fn opened(
    world: &mut World,
    worker: usize,
    what: &'static str,
    done: Result<(Id, Option<Sock>), i32>,
) -> io::Result<Sock> {
    let done = done.and_then(|(_, sock)| sock.ok_or(libc::EMFILE));
    let (sock, value) = match done {
        Ok(sock) => (sock.0, 0),
        Err(errno) => (-1, -i64::from(errno)),
    };
    world.log(Some(worker), what, sock, value);
    done.map_err(failed)
}

fn failed(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
