//! Sessions against each other, without sockets.

mod certificates;
mod contexts;
mod sessions;

pub(crate) use certificates::{Authority, Issued};

use super::client::ClientPlan;
use super::identity::Identity;
use super::server::ServerPlan;
use super::verify::Validation;
use super::{Asked, ClientContext, Opened, Parameters, ServerContext, Session};

pub(crate) fn parameters(tls12: bool, tls13: bool) -> Parameters {
    Parameters {
        tls12,
        tls13,
        suites: Vec::new(),
        groups: Vec::new(),
    }
}

pub(crate) fn server_plan(issued: &Issued) -> ServerPlan {
    ServerPlan {
        parameters: parameters(true, true),
        identities: vec![issued.identity()],
        alpn: Vec::new(),
        validation: None,
        require_certificate: false,
        ticket_keys: Vec::new(),
        no_tickets: false,
        no_sessions: false,
        lifetime_s: None,
        key_log: None,
        scope: [0; 32],
        client_order: false,
        require_name: false,
        full_scan: false,
    }
}

pub(crate) fn client_plan(authority: &Authority) -> ClientPlan {
    ClientPlan {
        parameters: parameters(true, true),
        identities: Vec::<Identity>::new(),
        alpn: Vec::new(),
        validation: Validation {
            anchors: Some(authority.anchors()),
            ..Validation::default()
        },
        match_server_name: true,
        match_requested_name: false,
        server_name: Some("moorgate.test".to_owned()),
        max_sessions: 1,
        key_log: None,
    }
}

/// One end with what its caller keeps: what has arrived and was not used up, and what came out.
pub(crate) struct End {
    pub(crate) session: Session,
    unread: Vec<u8>,
    pub(crate) plain: Vec<u8>,
    pub(crate) wire: Vec<u8>,
    pub(crate) last: Opened,
}

impl End {
    pub(crate) fn new(session: Session, wire: Vec<u8>) -> Self {
        Self {
            session,
            unread: Vec::new(),
            plain: Vec::new(),
            wire,
            last: Opened::default(),
        }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        let opened = self.session.open(&mut self.unread, &mut self.wire);
        self.plain.extend_from_slice(&self.unread[..opened.plain]);
        self.unread.drain(..opened.consumed);
        let closed = self.last.closed;
        self.last = opened;
        self.last.closed |= closed;
    }

    pub(crate) fn send(&mut self, now: u64, bytes: &[u8]) {
        let slices = std::iter::once(bytes);
        let sealed = self.session.seal(now, slices, usize::MAX, &mut self.wire);
        assert_eq!(sealed, Ok(bytes.len()));
    }
}

/// A client and a server; `pump` carries what they say in pieces of so many bytes.
pub(crate) struct Pair {
    pub(crate) client: End,
    pub(crate) server: End,
}

impl Pair {
    pub(crate) fn new(client: &ClientContext, server: &ServerContext) -> Self {
        let mut wire = Vec::new();
        let client = Session::client(client, &Asked::default(), &mut wire).expect("a client");
        Self {
            client: End::new(client, wire),
            server: End::new(
                Session::server(server, false).expect("a server"),
                Vec::new(),
            ),
        }
    }

    pub(crate) fn pump(&mut self, piece: usize) {
        while !self.client.wire.is_empty() || !self.server.wire.is_empty() {
            for bytes in std::mem::take(&mut self.client.wire).chunks(piece) {
                self.server.take(bytes);
            }
            for bytes in std::mem::take(&mut self.server.wire).chunks(piece) {
                self.client.take(bytes);
            }
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.client.session.is_shaking()
            && !self.server.session.is_shaking()
            && self.client.last.error.is_none()
            && self.server.last.error.is_none()
    }
}
