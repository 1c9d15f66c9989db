//! What the proxy keeps with connections and what its workers send each other.

use std::net::SocketAddr;
use std::sync::Arc;

use moorgate_codecs::{Compact, StreamId};

use super::config::{ListenerId, Snapshot};
use super::moving::Bundle;
use super::silent::{Exchange, Upgraded};
use crate::cluster::{Cluster, CodecFactory, Host, PoolId};
use crate::engine::parked::Facts;
use crate::engine::reactor::{Addr, Sock};
use crate::engine::slab::Key;
use crate::filter::Token;

/// An upstream host with the cluster it was chosen from. Old ones stay valid for the connections
/// that use them; no snapshot is pinned by them.
#[derive(Debug)]
pub struct Endpoint {
    /// Host.
    pub host: Arc<Host>,
    /// Its cluster.
    pub cluster: Arc<Cluster>,
    /// Whose connections are alike: the host's own number, or one for this host and what follows.
    pub pool: PoolId,
    /// The name that requests brought and TLS asks for (`auto_sni`).
    pub name: Option<Box<str>>,
    /// The client that connections tell of, and where it wanted to go (`upstream_proxy_protocol`).
    pub client: Option<(SocketAddr, SocketAddr)>,
    /// It is sent what came by HTTP/2, in HTTP/2 (`use_downstream_protocol_config`).
    pub http2: bool,
}

impl Endpoint {
    /// What makes codecs for its connections; `None`: they speak HTTP/1.
    #[must_use]
    pub fn codec(&self) -> Option<&Arc<dyn CodecFactory>> {
        let config = &self.cluster.config;
        match self.http2 {
            true => config.http2.as_ref(),
            false => config.codec.as_ref(),
        }
    }
}

/// What the kernel cannot be asked again about a parked connection.
#[derive(Debug)]
pub enum Cold {
    /// A client without streams whose codec has a remainder.
    Codec(Compact),
    /// An open, silent one-to-one exchange.
    Exchange(Box<Exchange>),
    /// A tunnel with facts for its access log.
    Tunnel(Box<super::tunnel::Facts>),
    /// A tunnel that was an HTTP exchange.
    Upgraded(Box<Upgraded>),
    /// A multiplexed client with open streams.
    Mux(Box<ParkedMux>),
    /// A client of which more is known than its socket says, and what else there is to keep.
    Named(Box<Ends>, Option<Box<Cold>>),
    /// A connection with TLS, and what else there is of it.
    Tls(Box<super::secure::ParkedTls>),
}

impl Cold {
    /// It names streams that are in the table of its worker.
    pub(super) fn is_mux(&self) -> bool {
        match self {
            Self::Mux(_) => true,
            Self::Named(_, rest) => rest.as_ref().is_some_and(|rest| rest.is_mux()),
            Self::Tls(tls) => tls.inner.as_ref().is_some_and(|rest| rest.is_mux()),
            Self::Codec(_) | Self::Exchange(_) | Self::Tunnel(_) | Self::Upgraded(_) => false,
        }
    }

    /// It is a session whose ends can be told that the gateway leaves.
    pub(super) fn is_websocket(&self) -> bool {
        match self {
            Self::Upgraded(session) => session.frames().is_some(),
            Self::Named(_, rest) => rest.as_ref().is_some_and(|rest| rest.is_websocket()),
            Self::Tls(tls) => tls.inner.as_ref().is_some_and(|rest| rest.is_websocket()),
            Self::Codec(_) | Self::Exchange(_) | Self::Tunnel(_) | Self::Mux(_) => false,
        }
    }

    /// Takes apart what is known of the client and the rest.
    pub(super) fn split(cold: Option<Box<Self>>) -> (Option<Box<Ends>>, Option<Self>) {
        match cold.map(|cold| *cold) {
            Some(Self::Named(ends, rest)) => (Some(ends), rest.map(|rest| *rest)),
            rest => (None, rest),
        }
    }

    /// The counterpart of [`split`](Self::split).
    pub(super) fn join(ends: Option<Box<Ends>>, rest: Option<Box<Self>>) -> Option<Box<Self>> {
        match ends {
            Some(ends) => Some(Box::new(Self::Named(ends, rest))),
            None => rest,
        }
    }
}

/// Who a client is and where it wanted to go, where a listener filter told (a PROXY header, the packet
/// filter) or a log wants to know: the kernel cannot be asked, or not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub remote: Addr,
    /// What it connected to.
    pub local: Addr,
    /// The other end of the socket.
    pub direct_remote: Addr,
    /// Our end of it.
    pub direct_local: Addr,
    /// Server name of its TLS hello.
    pub server_name: Option<Box<str>>,
}

/// Remainder of a multiplexed client's codec, and its open streams, which stay in the table of their
/// worker.
#[derive(Debug)]
pub struct ParkedMux {
    /// Remainder of the codec.
    pub codec: Compact,
    /// Stream numbers and their keys.
    pub streams: Vec<(StreamId, Key)>,
}

/// Marks the types for the engine.
#[derive(Debug)]
pub enum ProxyFacts {}

impl Facts for ProxyFacts {
    type Cold = Cold;
    type Peer = Arc<Endpoint>;
    type Message = Message;
}

/// What is sent to a worker.
#[derive(Debug)]
pub enum Message {
    /// A connection that another worker accepted for this one.
    Accepted {
        sock: Sock,
        peer: Addr,
        listener: ListenerId,
        /// Not 0: there are too many clients, and it may take the place of the one that is idle longest.
        /// So many workers may still look whether they have one.
        looks: u16,
    },
    /// There are no descriptors left: close the client that is idle longest.
    Reclaim,
    /// A new configuration.
    Snapshot(Arc<Snapshot>),
    /// A connection that moves here with all that belongs to it.
    Moved(Box<Bundle>),
    /// A filter's pending call is to go on.
    Resume(Token),
    /// Accept from these sockets, and no others.
    Listeners(Vec<super::listen::ListenSock>),
    /// Stop accepting; close idle clients within so many ms and tell the others.
    Drain {
        /// All idle clients are gone by then.
        within_ms: u64,
        /// The worker ends when nobody is left, or when the time is over.
        exit: bool,
        /// Listening sockets are left at once.
        close: bool,
    },
    /// Accept no more, leave connections alone.
    CloseListeners,
    /// To be dropped: sockets that are closed when every worker has done what was sent before.
    Release(Arc<Vec<std::os::fd::OwnedFd>>),
    /// Close everything and end.
    Stop,
}

/// A parked connection fits a cache line, and its slot does not grow unnoticed.
const _: () = assert!(size_of::<crate::engine::parked::Parked<ProxyFacts>>() <= 64);
const _: () = assert!(size_of::<crate::engine::parked::Slot<ProxyFacts>>() <= 80);
const _: () = assert!(size_of::<Cold>() <= 24);
