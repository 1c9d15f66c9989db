//! An echo server on one to four workers, under every fault, with each way to register.
//!
//! It trusts what it may trust of a kernel and no more: a read that gives less than asked has emptied
//! the socket (but for an end of stream that was already reported), and whatever was refused is told by an event. So it hangs, or loses a byte, when a fault
//! is not legal.

use std::collections::BTreeMap;
use std::io::{ErrorKind, IoSlice};

use super::*;
use crate::engine::reactor::random::Random;

/// Bytes a connection may hold.
const QUEUE: usize = 300;
const LISTENER: u64 = u64::MAX - 1;

struct Connection {
    sock: Sock,
    queue: Vec<u8>,
    /// The socket may have more than was read.
    readable: bool,
    /// The end of stream was reported: no edge will come for it again.
    end_near: bool,
    read_closed: bool,
    wants_room: bool,
    /// Rests under a one-shot; otherwise edge-triggered.
    parks: bool,
    /// What it is registered for; `None`: a one-shot that fired.
    armed: Option<Interest>,
}

struct Worker {
    reactor: SimReactor,
    listener: Sock,
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

impl Worker {
    fn turn(&mut self) {
        let mut events = Vec::new();
        let busy = self.connections.values().any(Connection::can_go_on);
        let timeout = if busy { Some(0) } else { None };
        match self.reactor.wait(timeout, &mut events) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return;
            }
        }
        let mut go_on: Vec<u64> = Vec::new();
        for event in events {
            if event.tag.0 == LISTENER {
                self.accept();
            } else {
                let connection = self.connections.get_mut(&event.tag.0).expect("a live tag");
                if connection.armed == Some(Interest::ReadOnce) {
                    connection.armed = None;
                }
                if event.ready.has(Ready::READ) {
                    connection.readable = true;
                }
                connection.end_near |= event.ready.has(Ready::READ_CLOSED);
                if event.ready.has(Ready::WRITE) {
                    connection.wants_room = false;
                }
                go_on.push(event.tag.0);
            }
        }
        let ready = self.connections.iter().filter(|(_, c)| c.can_go_on());
        go_on.extend(ready.map(|(tag, _)| *tag));
        go_on.sort_unstable();
        go_on.dedup();
        for tag in go_on {
            let Some(mut connection) = self.connections.remove(&tag) else {
                continue;
            };
            if connection.serve(&mut self.reactor, tag) {
                self.connections.insert(tag, connection);
            } else {
                self.reactor.remove(connection.sock).unwrap();
                self.reactor.close(connection.sock, false);
            }
        }
    }

    fn accept(&mut self) {
        // One connection a turn: the level brings the next.
        let Ok((sock, _)) = self
            .reactor
            .accept(self.listener, &SocketOptions::default())
        else {
            return;
        };
        let tag = self.next;
        self.next += 1;
        let parks = self.reactor.random() & 1 == 0;
        let interest = if parks { Interest::ReadOnce } else { EDGE };
        self.reactor.add(sock, Tag(tag), interest).unwrap();
        let connection = Connection {
            sock,
            queue: Vec::new(),
            readable: false,
            end_near: false,
            read_closed: false,
            wants_room: false,
            parks,
            armed: Some(interest),
        };
        self.connections.insert(tag, connection);
    }
}

impl Connection {
    fn can_go_on(&self) -> bool {
        self.readable && !self.read_closed && self.queue.len() < QUEUE
    }

    /// Reads and writes once each; false when the connection is over.
    fn serve(&mut self, reactor: &mut SimReactor, tag: u64) -> bool {
        if self.can_go_on() {
            let mut buffer = [0; QUEUE];
            let room = &mut buffer[..QUEUE - self.queue.len()];
            let asked = room.len();
            match reactor.read(self.sock, room) {
                Ok(0) => self.read_closed = true,
                Ok(count) => {
                    self.queue.extend_from_slice(&buffer[..count]);
                    self.readable = count == asked || self.end_near;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(_) => return false,
            }
        }
        let mut room_now = self.wants_room;
        if !self.queue.is_empty() && !self.wants_room {
            let half = self.queue.len() / 2;
            let slices = [&self.queue[..half], &self.queue[half..]].map(IoSlice::new);
            match reactor.write(self.sock, &slices) {
                Ok(count) => {
                    self.queue.drain(..count);
                    room_now = !self.queue.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => room_now = true,
                Err(_) => return false,
            }
        }
        self.wants_room = room_now;
        if self.queue.is_empty() && self.read_closed {
            return false;
        }
        let wanted = if self.wants_room {
            Interest::Edge { write: true }
        } else if self.parks {
            Interest::ReadOnce
        } else {
            EDGE
        };
        // Arming polls anew and, after FIN, reports each time: only what changes is armed.
        if self.armed != Some(wanted) && (self.wants_room || !self.can_go_on()) {
            reactor.modify(self.sock, Tag(tag), wanted).unwrap();
            self.armed = Some(wanted);
        }
        true
    }
}

struct Client {
    peer: SimPeer,
    sends: Vec<u8>,
    sent: usize,
    got: Vec<u8>,
    ended: bool,
    broken: bool,
}

impl Client {
    /// Says whether anything moved.
    fn step(&mut self, random: &mut Random) -> bool {
        if self.ended {
            return false;
        }
        let before = (self.sent, self.got.len());
        let most = 1 + random.below(500) as usize;
        let until = self.sends.len().min(self.sent + most);
        let rest = &self.sends[self.sent..until];
        let mut failed = false;
        if !rest.is_empty() {
            match self.peer.write(rest) {
                Ok(count) => self.sent += count,
                Err(error) => failed |= error.kind() != ErrorKind::WouldBlock,
            }
            if self.sent == self.sends.len() {
                failed |= self.peer.shutdown_write().is_err();
            }
        }
        let mut buffer = vec![0; 1 + random.below(2000) as usize];
        match self.peer.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(count) => self.got.extend_from_slice(&buffer[..count]),
            Err(error) => failed |= error.kind() != ErrorKind::WouldBlock,
        }
        if failed {
            assert!(
                self.peer.was_broken(),
                "nothing but the network may break it"
            );
            self.broken = true;
            self.ended = true;
        }
        self.ended || before != (self.sent, self.got.len())
    }
}

fn run(seed: u64) -> (String, u64) {
    let mut random = Random::from_seed(seed);
    let workers = 1 + random.below(4) as usize;
    let world = SimWorld::new(seed, Config::swarm(workers, seed));
    let mut first = world.reactor(0);
    let listener = listen(&mut first, 80);
    let mut servers = vec![first];
    servers.extend((1..workers).map(|worker| world.reactor(worker)));
    let mut workers: Vec<_> = servers
        .into_iter()
        .map(|mut reactor| {
            reactor
                .add(listener, Tag(LISTENER), Interest::Listen)
                .unwrap();
            Worker {
                reactor,
                listener,
                connections: BTreeMap::new(),
                next: 0,
            }
        })
        .collect();
    let mut clients: Vec<_> = (0..1 + random.below(8))
        .map(|_| Client {
            peer: world.connect_client(&addr(80)).unwrap(),
            sends: (0..1 + random.below(3000))
                .map(|_| random.next_u64() as u8)
                .collect(),
            sent: 0,
            got: Vec::new(),
            ended: false,
            broken: false,
        })
        .collect();
    loop {
        let mut moved = false;
        for client in &mut clients {
            moved |= random.chance(300) && client.step(&mut random);
        }
        match world.pick(u64::MAX) {
            Some(worker) => workers[worker].turn(),
            // Nothing will happen by itself: every client has its chance, then it is over.
            None if clients.iter_mut().any(|client| client.step(&mut random)) => {}
            None if !moved => break,
            None => {}
        }
    }
    for client in clients {
        assert!(
            client.ended,
            "seed {seed}: a client waits for ever\n{}",
            world.trace()
        );
        if !client.broken && !client.peer.was_broken() {
            assert_eq!(client.got, client.sends, "seed {seed}");
        }
    }
    // Ends that the network broke are noticed by their workers.
    while let Some(worker) = world.pick(u64::MAX) {
        workers[worker].turn();
    }
    for worker in &mut workers {
        assert!(
            worker.connections.is_empty(),
            "seed {seed}: left over\n{}",
            world.trace()
        );
        worker.reactor.remove(listener).unwrap();
    }
    workers[0].reactor.close(listener, false);
    assert_eq!(world.open_descriptors(), []);
    assert_eq!(world.objects(), 0, "seed {seed}");
    (world.trace(), world.now_us())
}

#[test]
fn every_byte_comes_back() {
    let seeds = std::env::var("MOORGATE_SEEDS");
    let seeds = seeds
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(300);
    for seed in 0..seeds {
        run(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}
