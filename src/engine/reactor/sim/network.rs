//! The calls on sockets: listen, connect, accept, read, write, shutdown.
//!
//! Answers and error numbers are the kernel's, in the kernel's order of checks. Faults are drawn only
//! for sockets of workers; scripted peers see what the network does to them.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::stream::{Kind, Owner, State, Stream};
use super::world::{Action, Id, Listener, Object, World};
use crate::engine::reactor::{Addr, Ready, Sock};

/// A failing call's error number.
pub(super) type Errno = i32;

/// Between two SYNs of a connect that is not answered.
const SYN_RETRY_US: u64 = 1_000_000;
/// SYNs before a connect times out.
const SYN_LIMIT: u8 = 7;
/// When a connect that nobody answers fails.
const CONNECT_TIMEOUT_US: u64 = 127_000_000;

impl World {
    /// Listens for a worker (`sock`: take a descriptor) or a scripted peer.
    pub(super) fn listen(
        &mut self,
        addr: &Addr,
        backlog: u32,
        reuse_port: bool,
        sock: bool,
    ) -> Result<(Id, Option<Sock>), Errno> {
        let addr = self.with_port(addr);
        let others = self.listeners.get(&addr).cloned().unwrap_or_default();
        let shared = reuse_port && matches!(addr, Addr::Ip(_));
        for other in others {
            if !shared || self.listener(other).is_some_and(|found| !found.reuse_port) {
                return Err(libc::EADDRINUSE);
            }
        }
        if matches!(addr, Addr::Unix(_)) {
            self.unix_paths.insert(addr.clone());
        }
        let id = self.insert(Object::Listener(Listener {
            addr: addr.clone(),
            backlog: backlog as usize,
            reuse_port,
            queue: std::collections::VecDeque::new(),
            sock: None,
        }));
        let mut taken = None;
        if sock {
            let Some(opened) = self.open_sock(id) else {
                self.free(id);
                return Err(libc::EMFILE);
            };
            taken = Some(opened);
            if let Some(listener) = self.listener(id) {
                listener.sock = Some(opened.0);
            }
        }
        self.listeners.entry(addr).or_default().push(id);
        Ok((id, taken))
    }

    /// Port 0 becomes a free one.
    fn with_port(&mut self, addr: &Addr) -> Addr {
        match addr {
            Addr::Ip(ip) if ip.port() == 0 => Addr::Ip(SocketAddr::new(ip.ip(), self.port())),
            other => other.clone(),
        }
    }

    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = if port == 60_999 { 32_768 } else { port + 1 };
        port
    }

    /// Closes a listening socket; connections in its queue are reset.
    pub(super) fn close_listener(&mut self, id: Id) {
        let Some(Object::Listener(listener)) = self.free(id) else {
            return;
        };
        if let Some(found) = self.listeners.get_mut(&listener.addr) {
            found.retain(|other| *other != id);
        }
        for end in listener.queue {
            if let Some(stream) = self.stream(end)
                && stream.kind == Kind::Unix
                && let Some(peer) = stream.peer
                && let Some(peer) = self.stream(peer)
            {
                peer.error = Some(libc::ECONNRESET);
            }
            self.close_stream(end, true);
        }
    }

    /// Whoever listens on `addr`, also through the unspecified address.
    fn listener_for(&mut self, addr: &Addr) -> Option<Id> {
        let mut found = self.listeners.get(addr).filter(|list| !list.is_empty());
        if found.is_none()
            && let Addr::Ip(ip) = addr
        {
            let any = match ip.ip() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let any = Addr::Ip(SocketAddr::new(any, ip.port()));
            found = self.listeners.get(&any).filter(|list| !list.is_empty());
        }
        let list = found?;
        Some(list[self.random.below(list.len() as u64) as usize])
    }

    fn new_stream(&mut self, kind: Kind, owner: Owner, local: Addr, remote: Addr) -> Stream {
        let (low, high) = self.config.send_buffer;
        let send_limit = low + self.random.below((high - low + 1) as u64) as usize;
        let (low, high) = self.config.receive_buffer;
        let receive_limit = low + self.random.below((high - low + 1) as u64) as usize;
        let slow = kind == Kind::Tcp && self.random.chance(self.config.faults.latency);
        Stream {
            kind,
            state: State::Connecting,
            owner,
            peer: None,
            local,
            remote,
            send: std::collections::VecDeque::new(),
            send_limit,
            receive: std::collections::VecDeque::new(),
            receive_limit,
            writes: std::collections::VecDeque::new(),
            hidden: 0,
            shut_write: false,
            shut_read: false,
            fin_sent: false,
            fin_received: false,
            error: None,
            no_space: false,
            peeked: 0,
            held_back: false,
            latency_us: if slow { self.delay() } else { 0 },
            pump_due: false,
            broken: false,
        }
    }

    /// Connects for a worker (`sock`: take a descriptor) or a scripted peer.
    pub(super) fn connect(
        &mut self,
        addr: &Addr,
        bind: Option<SocketAddr>,
        sock: bool,
    ) -> Result<(Id, Option<Sock>), Errno> {
        let faults = self.config.faults;
        if let Addr::Unix(_) = addr {
            let known = self.unix_paths.contains(addr);
            match self.listener_for(addr).and_then(|id| self.listener(id)) {
                None if known => return Err(libc::ECONNREFUSED),
                None => return Err(libc::ENOENT),
                Some(found) if found.queue.len() > found.backlog => return Err(libc::EAGAIN),
                Some(_) => {}
            }
        } else if sock && self.random.chance(faults.connect_error) {
            let errors = [libc::EADDRNOTAVAIL, libc::ENETUNREACH];
            return Err(errors[self.random.below(2) as usize]);
        }
        let (kind, local) = match addr {
            Addr::Unix(_) => (Kind::Unix, Addr::Unix(Arc::from(Path::new("")))),
            Addr::Ip(to) => {
                let loopback = match to.ip() {
                    IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
                };
                let local = bind.unwrap_or_else(|| SocketAddr::new(loopback, 0));
                (Kind::Tcp, self.with_port(&Addr::Ip(local)))
            }
        };
        let stream = self.new_stream(kind, Owner::Peer, local, addr.clone());
        let id = self.insert(Object::Stream(stream));
        let mut taken = None;
        if sock {
            let Some(opened) = self.open_sock(id) else {
                self.free(id);
                return Err(libc::EMFILE);
            };
            taken = Some(opened);
            if let Some(stream) = self.stream(id) {
                stream.owner = Owner::Sock(opened.0);
            }
        }
        if kind == Kind::Unix {
            self.connect_arrives(id, 0);
        } else if sock && self.random.chance(faults.connect_timeout) {
            self.schedule(CONNECT_TIMEOUT_US, Action::Fail(id, libc::ETIMEDOUT));
        } else if sock && self.random.chance(faults.connect_refused) {
            let after = self.delay();
            self.schedule(after, Action::Fail(id, libc::ECONNREFUSED));
        } else if self.random.chance(faults.connect_delay) {
            let after = self.delay();
            self.schedule(after, Action::Connect(id, 0));
        } else {
            self.connect_arrives(id, 0);
        }
        Ok((id, taken))
    }

    pub(super) fn fail_connect(&mut self, id: Id, errno: Errno) {
        if let Some(stream) = self.stream(id)
            && stream.state == State::Connecting
        {
            stream.broken = true;
            self.reset(id, errno);
        }
    }

    /// A SYN arrives: a connection is made and queued, or it is refused, or dropped and sent again.
    pub(super) fn connect_arrives(&mut self, id: Id, attempt: u8) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        if stream.state != State::Connecting {
            return;
        }
        let (kind, local, remote) = (stream.kind, stream.local.clone(), stream.remote.clone());
        let Some(to) = self.listener_for(&remote) else {
            self.reset(id, libc::ECONNREFUSED);
            return;
        };
        let full = |found: &mut Listener| found.queue.len() > found.backlog;
        if self.listener(to).is_some_and(full) {
            if attempt + 1 == SYN_LIMIT {
                self.reset(id, libc::ETIMEDOUT);
            } else {
                let after = SYN_RETRY_US << attempt;
                self.schedule(after, Action::Connect(id, attempt + 1));
            }
            return;
        }
        let mut server = self.new_stream(kind, Owner::Queue, remote, local);
        server.state = State::Open;
        server.peer = Some(id);
        let server = self.insert(Object::Stream(server));
        if let Some(stream) = self.stream(id) {
            stream.state = State::Open;
            stream.peer = Some(server);
        }
        if let Some(listener) = self.listener(to) {
            listener.queue.push_back(server);
        }
        self.wake(to, Ready::READ.0);
        self.wake(id, 0);
    }

    /// Takes a connection for a worker.
    pub(super) fn accept(&mut self, listener: Id) -> Result<(Sock, Addr), Errno> {
        let faults = self.config.faults;
        if self.open_socks >= self.config.descriptor_limit {
            return Err(libc::EMFILE);
        }
        if self.random.chance(faults.accept_limit) {
            let errors = [libc::EMFILE, libc::ENFILE];
            return Err(errors[self.random.below(2) as usize]);
        }
        if self.random.chance(faults.accept_again) {
            return Err(libc::EAGAIN);
        }
        let end = self.accept_end(listener).ok_or(libc::EAGAIN)?;
        if self.random.chance(faults.accept_aborted) {
            if let Some(stream) = self.stream(end)
                && let Some(peer) = stream.peer
                && let Some(peer) = self.stream(peer)
            {
                peer.broken = true;
            }
            self.close_stream(end, true);
            return Err(libc::ECONNABORTED);
        }
        let sock = self.open_sock(end).ok_or(libc::EMFILE)?;
        let stream = self.stream(end).ok_or(libc::ECONNABORTED)?;
        stream.owner = Owner::Sock(sock.0);
        Ok((sock, stream.remote.clone()))
    }

    /// Takes the first of a listening socket's queue.
    pub(super) fn accept_end(&mut self, listener: Id) -> Option<Id> {
        self.listener(listener)?.queue.pop_front()
    }

    /// Reads without faults.
    pub(super) fn read_plain(&mut self, id: Id, into: &mut [u8]) -> Result<usize, Errno> {
        let stream = self.stream(id).ok_or(libc::EINVAL)?;
        if stream.visible() > 0 {
            let count = stream.take(into);
            if stream.gives_room(count) {
                self.made_space(id);
            }
            return Ok(count);
        }
        if stream.fin_received {
            return Ok(0);
        }
        if let Some(errno) = stream.error.take() {
            return Err(errno);
        }
        if stream.shut_read {
            return Ok(0);
        }
        Err(libc::EAGAIN)
    }

    /// Reads for a worker.
    pub(super) fn read(&mut self, id: Id, into: &mut [u8]) -> Result<usize, Errno> {
        self.maybe_break(id);
        let (short, again) = (self.config.faults.short_read, self.config.faults.again_read);
        let stream = self.stream(id).ok_or(libc::EINVAL)?;
        let visible = stream.visible();
        // After FIN or RST everything has arrived: nothing can be late any more.
        if visible == 0 || stream.shut_read {
            return self.read_plain(id, into);
        }
        let peeked = stream.peeked;
        if peeked == 0 && self.random.chance(again) {
            self.hide(id);
            return Err(libc::EAGAIN);
        }
        let most = into.len().min(visible);
        if most > peeked.max(1) && self.random.chance(short) {
            let least = peeked.max(1);
            let count = least + self.random.below((most - least) as u64) as usize;
            let count = self.read_plain(id, &mut into[..count])?;
            self.hide(id);
            return Ok(count);
        }
        self.read_plain(id, into)
    }

    /// Reads for a worker without taking anything.
    pub(super) fn peek(&mut self, id: Id, into: &mut [u8]) -> Result<usize, Errno> {
        self.maybe_break(id);
        let (short, again) = (self.config.faults.short_read, self.config.faults.again_read);
        let stream = self.stream(id).ok_or(libc::EINVAL)?;
        let visible = stream.visible();
        if visible == 0 {
            // There is nothing that a read could take.
            return self.read_plain(id, into);
        }
        let (late, peeked) = (!stream.shut_read, stream.peeked);
        if late && peeked == 0 && self.random.chance(again) {
            self.hide(id);
            return Err(libc::EAGAIN);
        }
        let mut most = into.len().min(visible);
        let least = peeked.max(1);
        if late && most > least && self.random.chance(short) {
            most = least + self.random.below((most - least) as u64) as usize;
            self.peeked(id, most);
            self.hide(id);
        }
        if let Some(stream) = self.stream(id) {
            stream.copy(&mut into[..most]);
        }
        self.peeked(id, most);
        Ok(most)
    }

    fn peeked(&mut self, id: Id, count: usize) {
        if let Some(stream) = self.stream(id) {
            stream.peeked = stream.peeked.max(count);
        }
    }

    /// What is not yet read has, it turns out, not yet arrived.
    fn hide(&mut self, id: Id) {
        let after = self.delay();
        if let Some(stream) = self.stream(id)
            && !stream.shut_read
            && stream.receive.len() > stream.peeked
        {
            stream.hidden = stream.receive.len() - stream.peeked;
            self.schedule(after, Action::Reveal(id));
        }
    }

    /// Writes without faults, at most `most` bytes.
    pub(super) fn write_plain(
        &mut self,
        id: Id,
        from: &[IoSlice<'_>],
        most: usize,
    ) -> Result<usize, Errno> {
        let stream = self.stream(id).ok_or(libc::EINVAL)?;
        if stream.state == State::Connecting {
            return Err(libc::EAGAIN);
        }
        if stream.kind == Kind::Unix {
            return self.write_unix(id, from, most);
        }
        if stream.shut_write || stream.error.is_some() {
            return Err(stream.error.take().unwrap_or(libc::EPIPE));
        }
        if stream.held_back {
            stream.no_space = true;
            return Err(libc::EAGAIN);
        }
        let mut slices = Slices { from, at: 0, most };
        let mut count = 0;
        // The quiet network: straight into the other end's buffer.
        if stream.latency_us == 0
            && stream.send.is_empty()
            && let Some(peer) = stream.peer
            && let Some(end) = self.stream(peer)
            && end.owner != Owner::Nobody
        {
            let space = end.receive_space();
            count = slices.take(space, |bytes| end.receive.extend(bytes));
            if count > 0 {
                end.hidden = 0;
                self.wake(peer, Ready::READ.0);
            }
        }
        let stream = self.stream(id).ok_or(libc::EINVAL)?;
        let room = stream.send_limit.saturating_sub(stream.send.len());
        let queued = slices.take(room, |bytes| stream.send.extend(bytes));
        count += queued;
        if slices.left() > 0 {
            stream.no_space = true;
        }
        if queued > 0 {
            self.send_off(id);
        }
        if count == 0 && slices.left() > 0 {
            return Err(libc::EAGAIN);
        }
        Ok(count)
    }

    fn write_unix(&mut self, id: Id, from: &[IoSlice<'_>], most: usize) -> Result<usize, Errno> {
        let stream = self.stream(id).ok_or(libc::EINVAL)?;
        let (held_back, error) = (stream.held_back, stream.error);
        let peer = match stream.peer {
            Some(peer) if !stream.shut_write => peer,
            _ => return Err(libc::EPIPE),
        };
        if error.is_some() {
            return Err(stream.error.take().unwrap_or(libc::EPIPE));
        }
        let mut slices = Slices { from, at: 0, most };
        let mut count = 0;
        if !held_back && let Some(end) = self.stream(peer) {
            let space = end.receive_space();
            count = slices.take(space, |bytes| end.receive.extend(bytes));
            if count > 0 {
                end.hidden = 0;
                end.writes.push_back(count);
                self.wake(peer, Ready::READ.0);
            }
        }
        if slices.left() > 0
            && let Some(stream) = self.stream(id)
        {
            stream.no_space = true;
            if count == 0 {
                return Err(libc::EAGAIN);
            }
        }
        Ok(count)
    }

    /// Writes for a worker.
    pub(super) fn write(&mut self, id: Id, from: &[IoSlice<'_>]) -> Result<usize, Errno> {
        self.maybe_break(id);
        let (short, again) = (
            self.config.faults.short_write,
            self.config.faults.again_write,
        );
        let asked: usize = from.iter().map(|slice| slice.len()).sum();
        let stream = self.stream(id).ok_or(libc::EINVAL)?;
        if stream.state != State::Open || stream.shut_write || stream.error.is_some() {
            return self.write_plain(id, from, asked);
        }
        if asked > 0 && self.random.chance(again) {
            self.hold_back(id);
            return Err(libc::EAGAIN);
        }
        if asked > 1 && self.random.chance(short) {
            let most = 1 + self.random.below(asked as u64 - 1) as usize;
            let count = self.write_plain(id, from, most)?;
            self.hold_back(id);
            return Ok(count);
        }
        self.write_plain(id, from, asked)
    }

    /// There is no room after all, for a while.
    fn hold_back(&mut self, id: Id) {
        let after = self.delay();
        if let Some(stream) = self.stream(id)
            && stream.state == State::Open
        {
            stream.no_space = true;
            if !stream.held_back {
                stream.held_back = true;
                self.schedule(after, Action::GiveBack(id));
            }
        }
    }

    fn maybe_break(&mut self, id: Id) {
        if self.random.chance(self.config.faults.reset) {
            let after = self.delay() - 1;
            self.schedule(after, Action::Break(id));
        }
    }

    /// Ends the write direction.
    pub(super) fn shutdown_write(&mut self, id: Id) -> Result<(), Errno> {
        let stream = self.stream(id).ok_or(libc::EINVAL)?;
        match (stream.kind, stream.state) {
            (Kind::Tcp, State::Closed) => {
                stream.shut_write = true;
                self.wake(id, 0);
                Err(libc::ENOTCONN)
            }
            (Kind::Tcp, State::Connecting) => {
                // The kernel gives the connect up.
                stream.state = State::Closed;
                stream.shut_read = true;
                stream.shut_write = true;
                self.wake(id, 0);
                Ok(())
            }
            (Kind::Tcp, State::Open) => {
                stream.shut_write = true;
                self.wake(id, 0);
                self.send_off(id);
                Ok(())
            }
            (Kind::Unix, _) => {
                stream.shut_write = true;
                let peer = stream.peer;
                self.wake(id, 0);
                if let Some(peer) = peer
                    && let Some(end) = self.stream(peer)
                {
                    end.shut_read = true;
                    end.hidden = 0;
                    self.wake(peer, 0);
                }
                Ok(())
            }
        }
    }
}

/// Bytes of several slices, taken in order, `most` at the most.
struct Slices<'a, 'b> {
    from: &'a [IoSlice<'b>],
    /// Offset in the first slice.
    at: usize,
    most: usize,
}

impl Slices<'_, '_> {
    fn left(&self) -> usize {
        self.most
    }

    /// Gives at most `room` bytes to `sink`; says how many.
    fn take(&mut self, room: usize, mut sink: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while let [first, rest @ ..] = self.from {
            let want = (room - count).min(self.most);
            if want == 0 {
                break;
            }
            let bytes = &first[self.at..];
            if bytes.len() <= want {
                sink(bytes);
                count += bytes.len();
                self.most -= bytes.len();
                self.from = rest;
                self.at = 0;
            } else {
                sink(&bytes[..want]);
                count += want;
                self.most -= want;
                self.at += want;
            }
        }
        count
    }
}
