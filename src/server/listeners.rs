//! Listening sockets of the process: opened here, accepted from by the workers.
//!
//! A socket stays open over a reload when its address stays; one that went is closed when the last
//! worker has left it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use crate::engine::reactor::epoll::sockets;
use crate::engine::reactor::{Addr, Sock};
use crate::proxy::ListenSock;
use crate::proxy::config::{Listener, ListenerId};

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
}

/// Sockets that are closed when the last of those who hold this has dropped it.
pub(super) type Leaving = Arc<Vec<OwnedFd>>;

/// A socket could not be opened.
#[derive(Debug)]
pub(super) struct CannotListen {
    /// Place of the listener in the configuration.
    pub(super) index: usize,
    pub(super) address: Addr,
    pub(super) error: io::Error,
}

impl std::fmt::Display for CannotListen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            index,
            address,
            error,
        } = self;
        write!(
            f,
            "static_resources.listeners[{index}].address: cannot listen on {address}: {error}"
        )
    }
}

impl Sockets {
    /// Opens what is new and gives the sockets to leave. On an error nothing has changed.
    pub(super) fn update(&mut self, listeners: &[Arc<Listener>]) -> Result<Leaving, CannotListen> {
        let mut fresh = Vec::new();
        for (index, listener) in listeners.iter().enumerate() {
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
                    index,
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
        Ok(Arc::new(gone.into_iter().map(|open| open.fd).collect()))
    }

    fn position(&self, id: ListenerId, address: &Addr) -> Option<usize> {
        self.open
            .iter()
            .position(|open| open.listener == id && open.configured == *address)
    }

    /// The sockets to accept from.
    pub(super) fn socks(&self) -> Vec<ListenSock> {
        self.open
            .iter()
            .map(|open| ListenSock {
                sock: Sock(open.fd.as_raw_fd()),
                listener: open.listener,
            })
            .collect()
    }

    /// All of them are to be left.
    pub(super) fn leave_all(&mut self) -> Leaving {
        Arc::new(self.open.drain(..).map(|open| open.fd).collect())
    }

    /// Addresses that a listener is bound to; ports are the actual ones.
    pub(super) fn addresses(&self, id: ListenerId) -> Vec<Addr> {
        let open = self.open.iter().filter(|open| open.listener == id);
        open.map(|open| open.actual.clone()).collect()
    }
}
