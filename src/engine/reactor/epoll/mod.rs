//! The epoll backend: the wait loop and the registrations of one worker.
//!
//! It makes the system calls and keeps no state per socket: the kernel has it all. It must never
//! block but in [`Reactor::wait`], never raise SIGPIPE, and never read into a tag.

pub mod sockets;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{self, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::clock::Clock;
use super::random::Random;
use super::{
    Addr, Event, Interest, ListenOptions, Reactor, Ready, Remote, Sock, SocketOptions, Tag,
};

/// Events taken by the first call of a wait; small, since most workers stay quiet.
const FIRST_BATCH: usize = 64;
/// Most events taken by one wait.
const MAX_BATCH: usize = 1024;

/// epoll set, wake-up, and clock of one worker.
pub struct Epoll {
    shared: Arc<Shared>,
    clock: Clock,
    random: Random,
    /// What the kernel writes into; doubles when a call fills it, up to [`MAX_BATCH`].
    batch: Vec<EpollEvent>,
}

/// The descriptors, kept open while a worker or any handle of another thread lives.
struct Shared {
    epoll: epoll::Epoll,
    wake: EventFd,
}

/// Handle of an [`Epoll`] for other threads.
#[derive(Clone)]
pub struct EpollRemote(Arc<Shared>);

impl Epoll {
    /// A new epoll set. `clock` is the one of the process.
    ///
    /// # Errors
    /// EMFILE, ENFILE or ENOMEM; ENOSYS when getrandom(2) is forbidden.
    pub fn new(clock: Clock) -> io::Result<Self> {
        let epoll = epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // Edge-triggered: each write is one edge, and the counter need never be read.
        epoll.add(
            &wake,
            EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Tag::WAKE.0),
        )?;
        Ok(Self {
            shared: Arc::new(Shared { epoll, wake }),
            clock,
            random: Random::from_os()?,
            batch: vec![EpollEvent::empty(); FIRST_BATCH],
        })
    }
}

impl Remote for EpollRemote {
    fn wake(&self) {
        // The counter overflows after 2^64 - 2 wake-ups: no error is possible.
        let _ = self.0.wake.write(1);
    }

    fn remove(&self, sock: Sock) -> io::Result<()> {
        Ok(self.0.epoll.delete(borrow(sock)?)?)
    }
}

impl Reactor for Epoll {
    type Remote = EpollRemote;

    fn remote(&self) -> EpollRemote {
        EpollRemote(Arc::clone(&self.shared))
    }

    fn clock_us(&self) -> u64 {
        self.clock.now_us()
    }

    fn random(&mut self) -> u64 {
        self.random.next_u64()
    }

    fn wait(&mut self, timeout_ms: Option<u64>, events: &mut Vec<Event>) -> io::Result<()> {
        let timeout = timeout_ms.map_or(EpollTimeout::NONE, |ms| {
            let ms = i32::try_from(ms).unwrap_or(i32::MAX);
            EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::MAX)
        });
        let count = match self.shared.epoll.wait(&mut self.batch, timeout) {
            Ok(count) => count,
            // A signal's handler ran on this thread. The worker looks at its inbox and comes back.
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        for event in &self.batch[..count] {
            let tag = Tag(event.data());
            if tag != Tag::WAKE {
                events.push(Event {
                    tag,
                    ready: ready(event.events()),
                });
            }
        }
        if count == self.batch.len() && count < MAX_BATCH {
            self.batch.resize(count * 2, EpollEvent::empty());
        }
        Ok(())
    }

    fn add(&mut self, sock: Sock, tag: Tag, interest: Interest) -> io::Result<()> {
        let event = EpollEvent::new(flags(interest), tag.0);
        Ok(self.shared.epoll.add(borrow(sock)?, event)?)
    }

    fn modify(&mut self, sock: Sock, tag: Tag, interest: Interest) -> io::Result<()> {
        let mut event = EpollEvent::new(flags(interest), tag.0);
        Ok(self.shared.epoll.modify(borrow(sock)?, &mut event)?)
    }

    fn remove(&mut self, sock: Sock) -> io::Result<()> {
        Ok(self.shared.epoll.delete(borrow(sock)?)?)
    }

    fn listen(&mut self, addr: &Addr, options: &ListenOptions) -> io::Result<Sock> {
        sockets::listen(addr, options).map(release)
    }

    fn accept(&mut self, listener: Sock, options: &SocketOptions) -> io::Result<(Sock, Addr)> {
        sockets::accept(listener.0, options).map(|(fd, peer)| (release(fd), peer))
    }

    fn connect(&mut self, addr: &Addr, options: &SocketOptions) -> io::Result<Sock> {
        sockets::connect(addr, options).map(release)
    }

    fn take_error(&mut self, sock: Sock) -> io::Result<()> {
        sockets::take_error(borrow(sock)?)
    }

    #[inline]
    fn read(&mut self, sock: Sock, into: &mut [u8]) -> io::Result<usize> {
        sockets::read(sock.0, into)
    }

    fn peek(&mut self, sock: Sock, into: &mut [u8]) -> io::Result<usize> {
        sockets::peek(sock.0, into)
    }

    fn original_dst(&self, sock: Sock) -> Option<Addr> {
        sockets::original_dst(borrow(sock).ok()?)
    }

    #[inline]
    fn write(&mut self, sock: Sock, from: &[IoSlice<'_>]) -> io::Result<usize> {
        sockets::write(sock.0, from)
    }

    fn shutdown_write(&mut self, sock: Sock) -> io::Result<()> {
        sockets::shutdown_write(sock.0)
    }

    fn close(&mut self, sock: Sock, reset: bool) {
        let Ok(fd) = borrow(sock) else { return };
        if reset {
            // Only a socket that has no such option refuses: it is closed plainly.
            let _ = sockets::reset_on_close(fd);
        }
        // SAFETY: by the contract only the owner of the connection closes its socket, and once.
        drop(unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) });
    }

    fn local_addr(&self, sock: Sock) -> io::Result<Addr> {
        sockets::local_addr(sock.0)
    }

    fn peer_addr(&self, sock: Sock) -> io::Result<Addr> {
        sockets::peer_addr(sock.0)
    }
}

/// The descriptor by its number.
///
/// # Errors
/// EBADF for a negative number.
fn borrow<'a>(sock: Sock) -> io::Result<BorrowedFd<'a>> {
    if sock.0 < 0 {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: not -1; the owner keeps the descriptor open during every call made on its socket.
    Ok(unsafe { BorrowedFd::borrow_raw(sock.0) })
}

/// Hands the descriptor over to the caller of the reactor, who closes it through it.
fn release(fd: OwnedFd) -> Sock {
    Sock(fd.into_raw_fd())
}

fn flags(interest: Interest) -> EpollFlags {
    let read = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
    match interest {
        Interest::Silent => EpollFlags::EPOLLONESHOT,
        Interest::ReadOnce => read | EpollFlags::EPOLLONESHOT,
        Interest::Edge { write: false } => read | EpollFlags::EPOLLET,
        Interest::Edge { write: true } => read | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET,
        Interest::Listen => EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE,
    }
}

fn ready(flags: EpollFlags) -> Ready {
    let pairs = [
        (EpollFlags::EPOLLIN, Ready::READ),
        (EpollFlags::EPOLLOUT, Ready::WRITE),
        (EpollFlags::EPOLLRDHUP, Ready::READ_CLOSED),
        (EpollFlags::EPOLLHUP, Ready::HUP),
        (EpollFlags::EPOLLERR, Ready::ERROR),
    ];
    let mut ready = Ready::default();
    for (flag, bit) in pairs {
        if flags.contains(flag) {
            ready |= bit;
        }
    }
    ready
}
