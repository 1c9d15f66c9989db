//! How bytes, FIN and RST get from one end of a simulated connection to the other.
//!
//! Each change wakes whoever the kernel would wake, with the kernel's key, and no one else.

use super::stream::{Kind, Owner, State};
use super::world::{Action, Id, World};
use crate::engine::reactor::Ready;

impl World {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Pump(id) => {
                if let Some(stream) = self.stream(id) {
                    stream.pump_due = false;
                    self.pump(id);
                }
            }
            Action::Reveal(id) => {
                if let Some(stream) = self.stream(id)
                    && stream.hidden > 0
                {
                    stream.hidden = 0;
                    self.wake(id, Ready::READ.0);
                }
            }
            Action::GiveBack(id) => {
                if let Some(stream) = self.stream(id) {
                    stream.held_back = false;
                    self.tell_room(id);
                }
            }
            Action::Reset(id) => self.reset(id, libc::ECONNRESET),
            Action::Break(id) => self.break_connection(id),
            Action::Connect(id, attempt) => self.connect_arrives(id, attempt),
            Action::Fail(id, errno) => self.fail_connect(id, errno),
            Action::Wake(worker) => self.sets[usize::from(worker)].woken = true,
        }
    }

    /// Lets what was written on `id` travel: now, or after its latency.
    pub(super) fn send_off(&mut self, id: Id) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        if stream.latency_us == 0 {
            self.pump(id);
        } else if !stream.pump_due {
            stream.pump_due = true;
            let after = stream.latency_us;
            self.schedule(after, Action::Pump(id));
        }
    }

    /// Delivers what `id` has sent as far as the other end has room, then its FIN.
    fn pump(&mut self, id: Id) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        if stream.state != State::Open {
            return;
        }
        let (waiting, latency) = (stream.send.len(), stream.latency_us);
        let peer = stream.peer;
        let Some((peer, space)) = peer.and_then(|peer| {
            let end = self.stream(peer)?;
            (end.owner != Owner::Nobody).then(|| (peer, end.receive_space()))
        }) else {
            self.pump_to_nobody(id, waiting);
            return;
        };
        let mut count = waiting.min(space);
        if latency > 0 && count > 1 && self.random.chance(500) {
            count = 1 + self.random.below(count as u64) as usize;
        }
        if count > 0 {
            self.carry(id, peer, count);
            self.wake(peer, Ready::READ.0);
        }
        let left = waiting - count;
        if left > 0 {
            if space > count {
                self.send_off(id);
            }
        } else {
            self.deliver_fin(id);
        }
        self.tell_room(id);
    }

    /// Moves `count` bytes from the send buffer of `from` to the receive buffer of `to`.
    fn carry(&mut self, from: Id, to: Id, count: usize) {
        let Some(sender) = self.stream(from) else {
            return;
        };
        let mut send = std::mem::take(&mut sender.send);
        if let Some(receiver) = self.stream(to) {
            let (front, back) = send.as_slices();
            let first = count.min(front.len());
            receiver.receive.extend(&front[..first]);
            receiver.receive.extend(&back[..count - first]);
            receiver.hidden = 0;
        }
        send.drain(..count);
        if let Some(sender) = self.stream(from) {
            sender.send = send;
        }
    }

    /// The other end is closed. Bytes are answered with RST; a FIN is just acknowledged.
    fn pump_to_nobody(&mut self, id: Id, waiting: usize) {
        if waiting == 0 {
            self.deliver_fin(id);
            return;
        }
        if let Some(peer) = self.stream(id).and_then(|stream| stream.peer) {
            self.unlink(peer);
            self.free(peer);
        }
        self.reset(id, libc::ECONNRESET);
    }

    /// The FIN of `id` arrives, if it was asked for.
    fn deliver_fin(&mut self, id: Id) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        if !stream.shut_write || stream.fin_sent {
            return;
        }
        stream.fin_sent = true;
        let orphan = stream.owner == Owner::Nobody;
        let both = stream.fin_received;
        let peer = stream.peer;
        if both {
            stream.state = State::Closed;
        }
        if let Some(peer) = peer
            && let Some(end) = self.stream(peer)
            && end.state == State::Open
        {
            end.fin_received = true;
            end.shut_read = true;
            end.hidden = 0;
            if end.fin_sent {
                end.state = State::Closed;
            }
            self.wake(peer, 0);
        }
        self.wake(id, 0);
        if orphan {
            self.unlink(id);
            self.free(id);
        }
    }

    /// A RST (or the failure of a connect) arrives at `id`.
    pub(super) fn reset(&mut self, id: Id, errno: i32) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        if stream.owner == Owner::Nobody {
            self.unlink(id);
            self.free(id);
            return;
        }
        if stream.state == State::Closed {
            return;
        }
        // What the kernel's tcp_reset does: after a FIN the writer is told EPIPE.
        let errno = if stream.fin_received {
            libc::EPIPE
        } else {
            errno
        };
        stream.error = Some(errno);
        stream.state = State::Closed;
        stream.shut_read = true;
        stream.shut_write = true;
        stream.hidden = 0;
        stream.held_back = false;
        stream.send.clear();
        let sock = match stream.owner {
            Owner::Sock(fd) => fd,
            _ => -1,
        };
        self.unlink(id);
        self.log(None, "reset", sock, i64::from(errno));
        self.wake(id, Ready::ERROR.0);
        self.wake(id, 0);
    }

    /// The network breaks a connection: both ends see a reset.
    fn break_connection(&mut self, id: Id) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        stream.broken = true;
        let peer = stream.peer;
        if let Some(peer) = peer
            && let Some(end) = self.stream(peer)
        {
            end.broken = true;
        }
        self.reset(id, libc::ECONNRESET);
        if let Some(peer) = peer {
            self.reset(peer, libc::ECONNRESET);
        }
    }

    /// Neither end reaches the other any more.
    fn unlink(&mut self, id: Id) {
        if let Some(peer) = self.stream(id).and_then(|stream| stream.peer.take())
            && let Some(end) = self.stream(peer)
        {
            end.peer = None;
        }
    }

    /// Tells the writer of `id` of room, if it had asked for it.
    pub(super) fn tell_room(&mut self, id: Id) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        let room = match stream.kind {
            Kind::Tcp => stream.tcp_writable(),
            Kind::Unix => !stream.held_back,
        };
        if stream.no_space && room {
            stream.no_space = false;
            self.wake(id, Ready::WRITE.0);
        }
    }

    /// Bytes were read from `id`: the other end may send on.
    pub(super) fn made_space(&mut self, id: Id) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        let Some(peer) = stream.peer else { return };
        if stream.kind == Kind::Unix {
            // A Unix socket tells its writer of every buffer that is read, asked or not.
            if self.poll(peer) & Ready::WRITE.0 != 0 {
                self.wake(peer, Ready::WRITE.0);
            }
            return;
        }
        if self.stream(peer).is_some_and(|end| !end.send.is_empty()) {
            self.send_off(peer);
        }
    }

    /// The owner of a stream closes it.
    pub(super) fn close_stream(&mut self, id: Id, reset: bool) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        let unread = !stream.receive.is_empty();
        let latency = stream.latency_us;
        let peer = stream.peer;
        if stream.kind == Kind::Unix {
            self.unlink(id);
            self.free(id);
            if let Some(peer) = peer
                && let Some(end) = self.stream(peer)
            {
                if unread {
                    end.error = Some(libc::ECONNRESET);
                }
                end.shut_read = true;
                end.shut_write = true;
                end.hidden = 0;
                self.wake(peer, 0);
            }
            return;
        }
        if stream.state != State::Open {
            self.unlink(id);
            self.free(id);
        } else if reset || unread {
            self.unlink(id);
            self.free(id);
            match peer {
                Some(peer) if latency > 0 => self.schedule(latency, Action::Reset(peer)),
                Some(peer) => self.reset(peer, libc::ECONNRESET),
                None => {}
            }
        } else {
            stream.owner = Owner::Nobody;
            stream.shut_write = true;
            if stream.fin_sent {
                self.unlink(id);
                self.free(id);
            } else {
                self.send_off(id);
            }
        }
    }
}
