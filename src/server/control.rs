//! The control thread's loop: everything that is not traffic.
//!
//! Name resolution, health checks, admin, signals and configuration plug in as [`Source`]s: they own
//! sockets and timers, and share one [`State`] that the loop passes to each of them in turn. Other
//! threads reach the state through a [`Handle`]. The loop must never do a worker's work, and a source
//! must never block: while one runs, no other does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Registry, Token, Waker};

/// Milliseconds since the loop was made. Only differences mean anything.
pub type Millis = u64;

/// What the sources of one loop share: the cluster manager, the published snapshot, the flags of the
/// process.
pub trait State: Sized {
    /// Called once at the end of every turn, after all sources: the place to publish what changed.
    fn turn_ended(&mut self, turn: &mut Turn) {
        let _ = turn;
    }
}

impl State for () {}

/// Something that lives on the control thread: sockets, timers, or both.
///
/// Sockets are edge-triggered: read or write until `WouldBlock`. Events may be spurious (a key that
/// was used again within a turn may see one of its predecessor), so `WouldBlock` is never an error.
pub trait Source<S> {
    /// For logs.
    fn name(&self) -> &'static str;

    /// Called once, when the source is added.
    ///
    /// # Errors
    /// What keeps the source from working at all; the loop does not take it then.
    fn start(&mut self, state: &mut S, cx: &mut Cx<'_>) -> io::Result<()> {
        let (_, _) = (state, cx);
        Ok(())
    }

    /// Something happened to the socket registered under `key`.
    fn ready(&mut self, state: &mut S, cx: &mut Cx<'_>, key: usize, ready: Readiness) {
        let (_, _, _, _) = (state, cx, key, ready);
    }

    /// The timer set under `key` expired (and is gone).
    fn timer(&mut self, state: &mut S, cx: &mut Cx<'_>, key: u64) {
        let (_, _, _) = (state, cx, key);
    }

    /// Called once per turn after all events: the place to catch up with what others changed in the
    /// state. Must be cheap when nothing did (compare a revision number).
    fn turn(&mut self, state: &mut S, cx: &mut Cx<'_>) {
        let (_, _) = (state, cx);
    }
}

/// What happened to a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes, a connection, or the end of stream can be read.
    pub readable: bool,
    /// Bytes can be written, or the connect ended.
    pub writable: bool,
    /// The peer sends no more.
    pub read_closed: bool,
    /// An error waits to be fetched.
    pub error: bool,
}

impl Readiness {
    fn of(event: &mio::event::Event) -> Self {
        Self {
            readable: event.is_readable(),
            writable: event.is_writable(),
            read_closed: event.is_read_closed(),
            error: event.is_error(),
        }
    }
}

/// One turn of the loop, as state and messages see it.
#[derive(Debug)]
pub struct Turn {
    now: Millis,
    again: bool,
    stop: bool,
}

impl Turn {
    /// The time at the start of the turn.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.now
    }

    /// Asks for another turn without waiting: something was changed that sources watch.
    pub fn again(&mut self) {
        self.again = true;
    }

    /// Ends the loop after this turn.
    pub fn stop(&mut self) {
        self.stop = true;
    }
}

/// What a source may do to the loop. Keys are the source's own: two sources may use the same.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The turn.
    pub turn: &'a mut Turn,
    registry: &'a Registry,
    timers: &'a mut Timers,
    source: usize,
}

impl Cx<'_> {
    /// The time at the start of the turn.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.turn.now
    }

    /// Registers a socket under `key` (below 2^32).
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn register(
        &mut self,
        io: &mut impl mio::event::Source,
        key: usize,
        interest: Interest,
    ) -> io::Result<()> {
        self.registry
            .register(io, token(self.source, key)?, interest)
    }

    /// Changes what a registered socket waits for; reports again what is already there.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn reregister(
        &mut self,
        io: &mut impl mio::event::Source,
        key: usize,
        interest: Interest,
    ) -> io::Result<()> {
        self.registry
            .reregister(io, token(self.source, key)?, interest)
    }

    /// Ends a registration, before the socket is dropped.
    pub fn deregister(&mut self, io: &mut impl mio::event::Source) {
        // Fails only for a socket that is not registered, which is what was asked for.
        let _ = self.registry.deregister(io);
    }

    /// Sets (or moves) the timer `key` to the time `at`.
    pub fn set_timer(&mut self, key: u64, at: Millis) {
        self.timers.set((self.source, key), at);
    }

    /// Ends the timer `key`, if it is set.
    pub fn clear_timer(&mut self, key: u64) {
        self.timers.clear((self.source, key));
    }
}

/// Sockets of the loop itself: the waker.
const OWN: usize = 0;

fn token(source: usize, key: usize) -> io::Result<Token> {
    if key >= 1 << 32 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(Token((source + 1) << 32 | key))
}

/// Timers of all sources, by time. Control-plane sizes: ordered maps are fast enough and exact.
#[derive(Debug, Default)]
struct Timers {
    by_time: BTreeMap<(Millis, u64), (usize, u64)>,
    by_key: HashMap<(usize, u64), (Millis, u64)>,
    sequence: u64,
}

impl Timers {
    fn set(&mut self, key: (usize, u64), at: Millis) {
        self.clear(key);
        self.sequence += 1;
        self.by_time.insert((at, self.sequence), key);
        self.by_key.insert(key, (at, self.sequence));
    }

    fn clear(&mut self, key: (usize, u64)) {
        if let Some(place) = self.by_key.remove(&key) {
            self.by_time.remove(&place);
        }
    }

    fn next(&self) -> Option<Millis> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next timer due at `now` that was set before `sequence`: one that is set again for "now"
    /// while timers run waits for the next turn, so that no source can hold the loop.
    fn pop(&mut self, now: Millis, sequence: u64) -> Option<(usize, u64)> {
        let place = self
            .by_time
            .range(..=(now, u64::MAX))
            .map(|(place, _)| *place)
            .find(|(_, set)| *set <= sequence)?;
        let key = self.by_time.remove(&place)?;
        self.by_key.remove(&key);
        Some(key)
    }
}

type Message<S> = Box<dyn FnOnce(&mut S, &mut Turn) + Send>;

/// Reaches the loop from other threads.
pub struct Handle<S> {
    sender: Sender<Message<S>>,
    waker: Arc<Waker>,
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            waker: Arc::clone(&self.waker),
        }
    }
}

impl<S> std::fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl<S> Handle<S> {
    /// Runs `message` on the control thread in its next turn. Never blocks. For rare things: the
    /// queue has no bound of its own. False when the loop is gone.
    pub fn send(&self, message: impl FnOnce(&mut S, &mut Turn) + Send + 'static) -> bool {
        self.sender.send(Box::new(message)).is_ok() && self.waker.wake().is_ok()
    }
}

/// Messages run in one turn; the rest waits for the next.
const MESSAGES_PER_TURN: usize = 256;

/// The loop.
pub struct ControlLoop<S> {
    poll: Poll,
    events: Events,
    timers: Timers,
    sources: Vec<Box<dyn Source<S>>>,
    inbox: Receiver<Message<S>>,
    handle: Handle<S>,
    epoch: Instant,
    again: bool,
    /// What sources share.
    pub state: S,
}

impl<S> std::fmt::Debug for ControlLoop<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.sources.iter().map(|source| source.name()))
            .finish()
    }
}

impl<S: State> ControlLoop<S> {
    /// A loop without sources.
    ///
    /// # Errors
    /// When the kernel gives no poll set.
    pub fn new(state: S) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(OWN))?);
        let (sender, inbox) = channel();
        Ok(Self {
            poll,
            events: Events::with_capacity(256),
            timers: Timers::default(),
            sources: Vec::new(),
            inbox,
            handle: Handle { sender, waker },
            epoch: Instant::now(),
            again: true,
            state,
        })
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        self.handle.clone()
    }

    fn clock(&self) -> Millis {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Adds a source and starts it.
    ///
    /// # Errors
    /// Those of [`Source::start`].
    pub fn add(&mut self, mut source: Box<dyn Source<S>>) -> io::Result<()> {
        let mut turn = self.new_turn();
        source.start(
            &mut self.state,
            &mut Cx {
                turn: &mut turn,
                registry: self.poll.registry(),
                timers: &mut self.timers,
                source: self.sources.len(),
            },
        )?;
        self.sources.push(source);
        self.again = true;
        Ok(())
    }

    fn new_turn(&self) -> Turn {
        Turn {
            now: self.clock(),
            again: false,
            stop: false,
        }
    }

    /// Turns until something calls [`Turn::stop`]; gives the state back.
    ///
    /// # Errors
    /// When waiting itself fails.
    pub fn run(mut self) -> io::Result<S> {
        while self.turn(None)? {}
        Ok(self.state)
    }

    /// One turn: waits for events, timers and messages (at most `limit`), then serves them.
    /// False when the loop was asked to stop.
    ///
    /// # Errors
    /// When waiting itself fails.
    pub fn turn(&mut self, limit: Option<Duration>) -> io::Result<bool> {
        let timeout = self.timeout(limit);
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            other => other?,
        }
        let mut turn = self.new_turn();
        for event in &self.events {
            let Token(packed) = event.token();
            let (owner, key) = (packed >> 32, packed & 0xffff_ffff);
            if owner == OWN {
                continue;
            }
            let source = owner - 1;
            let mut cx = Cx {
                turn: &mut turn,
                registry: self.poll.registry(),
                timers: &mut self.timers,
                source,
            };
            if let Some(target) = self.sources.get_mut(source) {
                target.ready(&mut self.state, &mut cx, key, Readiness::of(event));
            }
        }
        for served in 0.. {
            if served == MESSAGES_PER_TURN {
                turn.again = true;
                break;
            }
            match self.inbox.try_recv() {
                Ok(message) => message(&mut self.state, &mut turn),
                Err(_) => break,
            }
        }
        let sequence = self.timers.sequence;
        while let Some((source, key)) = self.timers.pop(turn.now, sequence) {
            let mut cx = Cx {
                turn: &mut turn,
                registry: self.poll.registry(),
                timers: &mut self.timers,
                source,
            };
            if let Some(target) = self.sources.get_mut(source) {
                target.timer(&mut self.state, &mut cx, key);
            }
        }
        for (source, target) in self.sources.iter_mut().enumerate() {
            let mut cx = Cx {
                turn: &mut turn,
                registry: self.poll.registry(),
                timers: &mut self.timers,
                source,
            };
            target.turn(&mut self.state, &mut cx);
        }
        self.state.turn_ended(&mut turn);
        self.again = turn.again;
        Ok(!turn.stop)
    }

    fn timeout(&self, limit: Option<Duration>) -> Option<Duration> {
        if self.again {
            return Some(Duration::ZERO);
        }
        let timer = self
            .timers
            .next()
            .map(|at| Duration::from_millis(at.saturating_sub(self.clock())));
        match (timer, limit) {
            (Some(timer), Some(limit)) => Some(timer.min(limit)),
            (timer, limit) => timer.or(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::net::{TcpListener, TcpStream};
    use std::io::{Read, Write};

    #[derive(Default)]
    struct Shared {
        log: Vec<String>,
        turns_ended: usize,
    }

    impl State for Shared {
        fn turn_ended(&mut self, _turn: &mut Turn) {
            self.turns_ended += 1;
        }
    }

    struct Ticker;

    impl Source<Shared> for Ticker {
        fn name(&self) -> &'static str {
            "ticker"
        }

        fn start(&mut self, _state: &mut Shared, cx: &mut Cx<'_>) -> io::Result<()> {
            cx.set_timer(1, cx.now() + 5);
            cx.set_timer(2, cx.now() + 10);
            cx.set_timer(3, cx.now() + 7);
            cx.clear_timer(3);
            Ok(())
        }

        fn timer(&mut self, state: &mut Shared, cx: &mut Cx<'_>, key: u64) {
            state.log.push(format!("timer {key}"));
            if key == 2 {
                cx.turn.stop();
            }
        }
    }

    #[test]
    fn timers_run_in_order_and_stop_ends_the_loop() {
        let mut control = ControlLoop::new(Shared::default()).unwrap();
        control.add(Box::new(Ticker)).unwrap();
        let state = control.run().unwrap();
        assert_eq!(state.log, ["timer 1", "timer 2"]);
        assert!(state.turns_ended >= 1);
    }

    #[test]
    fn a_timer_set_for_now_waits_for_the_next_turn() {
        let mut timers = Timers::default();
        timers.set((0, 1), 5);
        let sequence = timers.sequence;
        assert_eq!(timers.pop(5, sequence), Some((0, 1)));
        timers.set((0, 1), 5);
        assert_eq!(timers.pop(5, sequence), None);
        assert_eq!(timers.pop(5, timers.sequence), Some((0, 1)));
        assert!(timers.by_key.is_empty());
        timers.set((0, 1), 9);
        timers.set((0, 1), 3);
        assert_eq!(timers.next(), Some(3));
        assert_eq!(timers.by_time.len(), 1);
    }

    #[test]
    fn messages_from_other_threads_are_run() {
        let control = ControlLoop::new(Shared::default()).unwrap();
        let handle = control.handle();
        let thread = std::thread::spawn(move || {
            for n in 0..1000 {
                assert!(handle.send(move |state: &mut Shared, _| state.log.push(n.to_string())));
            }
            assert!(handle.send(|_, turn| turn.stop()));
            handle
        });
        let state = control.run().unwrap();
        assert_eq!(state.log.len(), 1000);
        let handle = thread.join().unwrap();
        assert!(!handle.send(|_, _| ()), "the loop is gone");
    }

    /// Answers one byte by its successor.
    struct Echo {
        listener: TcpListener,
        peers: Vec<TcpStream>,
    }

    impl Source<Shared> for Echo {
        fn name(&self) -> &'static str {
            "echo"
        }

        fn start(&mut self, _state: &mut Shared, cx: &mut Cx<'_>) -> io::Result<()> {
            cx.register(&mut self.listener, 0, Interest::READABLE)
        }

        fn ready(&mut self, _state: &mut Shared, cx: &mut Cx<'_>, key: usize, _ready: Readiness) {
            if key == 0 {
                while let Ok((mut peer, _)) = self.listener.accept() {
                    let key = self.peers.len() + 1;
                    cx.register(&mut peer, key, Interest::READABLE).unwrap();
                    self.peers.push(peer);
                }
                return;
            }
            let mut byte = [0];
            let mut peer = &self.peers[key - 1];
            while let Ok(1) = peer.read(&mut byte) {
                peer.write_all(&[byte[0] + 1]).unwrap();
            }
        }
    }

    #[test]
    fn sockets_of_a_source_are_served() {
        let mut control = ControlLoop::new(Shared::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        control.add(Box::new(Ticker2)).unwrap();
        control
            .add(Box::new(Echo {
                listener,
                peers: Vec::new(),
            }))
            .unwrap();
        let handle = control.handle();
        let client = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(addr).unwrap();
            let mut byte = [41];
            stream.write_all(&byte).unwrap();
            stream.read_exact(&mut byte).unwrap();
            handle.send(|_, turn| turn.stop());
            byte[0]
        });
        control.run().unwrap();
        assert_eq!(client.join().unwrap(), 42);
    }

    /// Has the same keys as another source, and must not see its events.
    struct Ticker2;

    impl Source<Shared> for Ticker2 {
        fn name(&self) -> &'static str {
            "other"
        }

        fn ready(&mut self, _: &mut Shared, _: &mut Cx<'_>, _: usize, _: Readiness) {
            panic!("an event of another source");
        }
    }
}
