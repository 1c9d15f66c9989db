//! Listening sockets of the process: opened here, accepted from by the workers.
//!
//! A socket stays open over a reload when its address stays; one that went is closed only after the
//! workers were told to leave it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::reactor::epoll::sockets;
use crate::engine::reactor::{Addr, Sock};
use crate::proxy::ListenSock;
use crate::proxy::config::{Listener, ListenerId};

/// How long the workers have to leave a socket before it is closed.
const LEAVING: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Open {
    listener: ListenerId,
    configured: Addr,
    actual: Addr,
    fd: OwnedFd,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: Vec<Open>,
    leaving: Vec<(Instant, OwnedFd)>,
}

/// A socket could not be opened.
#[derive(Debug)]
pub(super) struct CannotListen {
    pub(super) listener: String,
    pub(super) address: Addr,
    pub(super) error: io::Error,
}

impl std::fmt::Display for CannotListen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            listener,
            address,
            error,
        } = self;
        write!(
            f,
            "listener {listener}: cannot listen on {address}: {error}"
        )
    }
}

impl Sockets {
    /// Opens what is new and gives the sockets to accept from. On an error nothing has changed.
    pub(super) fn update(
        &mut self,
        listeners: &[Arc<Listener>],
    ) -> Result<Vec<ListenSock>, CannotListen> {
        let mut fresh = Vec::new();
        for listener in listeners {
            for address in &listener.addresses {
                if self.position(listener.id, address).is_some() {
                    continue;
                }
                let opened = sockets::listen(address, &listener.options).and_then(|fd| {
                    let actual = sockets::local_addr(fd.as_raw_fd())?;
                    Ok(Open {
                        listener: listener.id,
                        configured: address.clone(),
                        actual,
                        fd,
                    })
                });
                fresh.push(opened.map_err(|error| CannotListen {
                    listener: listener.name.clone(),
                    address: address.clone(),
                    error,
                })?);
            }
        }
        let wanted = |open: &Open| {
            listeners.iter().any(|listener| {
                listener.id == open.listener && listener.addresses.contains(&open.configured)
            })
        };
        let (kept, gone): (Vec<_>, Vec<_>) = self.open.drain(..).partition(wanted);
        self.open = kept;
        self.open.extend(fresh);
        let now = Instant::now();
        self.leaving
            .extend(gone.into_iter().map(|open| (now, open.fd)));
        Ok(self.socks())
    }

    fn position(&self, id: ListenerId, address: &Addr) -> Option<usize> {
        self.open
            .iter()
            .position(|open| open.listener == id && open.configured == *address)
    }

    fn socks(&self) -> Vec<ListenSock> {
        self.open
            .iter()
            .map(|open| ListenSock {
                sock: Sock(open.fd.as_raw_fd()),
                listener: open.listener,
            })
            .collect()
    }

    /// Closes sockets that the workers have left by now.
    pub(super) fn sweep(&mut self) {
        self.leaving.retain(|(since, _)| since.elapsed() < LEAVING);
    }

    /// The workers were told to leave all of them.
    pub(super) fn leave_all(&mut self) {
        let now = Instant::now();
        self.leaving
            .extend(self.open.drain(..).map(|open| (now, open.fd)));
    }

    /// Addresses that a listener is bound to; ports are the actual ones.
    pub(super) fn addresses(&self, id: ListenerId) -> Vec<Addr> {
        let open = self.open.iter().filter(|open| open.listener == id);
        open.map(|open| open.actual.clone()).collect()
    }
}
