//! TLS between a socket and whoever reads and writes it, at either end of a connection.
//!
//! A session works in the caller's buffers. What is kept here is the unfinished record of the peer and
//! what the socket did not take of one batch; both are empty when nothing moves, so that a silent
//! connection can be parked with its session alone.

use std::io::{self, ErrorKind, IoSlice};

use moorgate::engine::reactor::{Reactor, Sock};
use moorgate::tls::{Agreed, Asked, ClientContext, ServerContext, Session, TlsError};

/// Plaintext sealed for one write; the most that is sealed and not taken.
const BATCH: usize = 64 * 1024;

/// The TLS of one connection.
#[derive(Debug)]
pub struct Secure {
    session: Session,
    /// Unfinished record of the peer.
    rest: Vec<u8>,
    /// Sealed, and not taken by the socket.
    wire: Vec<u8>,
    /// Why it is broken.
    error: Option<TlsError>,
}

/// What a read came to.
#[derive(Debug)]
pub enum Input {
    /// So many bytes, which lie at the start of the buffer: none when they were TLS's own. Without
    /// `more` the socket is empty.
    Bytes { n: usize, more: bool },
    /// The peer sends no more.
    End,
    /// There is nothing to read now.
    Blocked,
    /// The connection broke.
    Broken,
}

/// Reads what there is, in the clear or through TLS. The buffer is to have room for more than a record.
#[inline]
pub fn read<R: Reactor>(
    tls: &mut Option<Box<Secure>>,
    reactor: &mut R,
    sock: Sock,
    buffer: &mut [u8],
) -> Input {
    match tls {
        None => match reactor.read(sock, buffer) {
            Ok(0) => Input::End,
            Ok(n) => Input::Bytes {
                n,
                more: n == buffer.len(),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => Input::Blocked,
            Err(_) => Input::Broken,
        },
        Some(tls) => tls.read(reactor, sock, buffer),
    }
}

/// Writes what is taken, in the clear or through TLS. `WouldBlock` when that is nothing.
///
/// # Errors
/// What the socket says; `InvalidData` when TLS is broken.
#[inline]
pub fn write<R: Reactor>(
    tls: &mut Option<Box<Secure>>,
    reactor: &mut R,
    sock: Sock,
    slices: &[IoSlice<'_>],
    scratch: &mut Vec<u8>,
    now_ms: u64,
) -> io::Result<usize> {
    match tls {
        None => reactor.write(sock, slices),
        Some(tls) => tls.write(reactor, sock, slices, scratch, now_ms),
    }
}

impl Secure {
    fn new(session: Session) -> Box<Self> {
        Box::new(Self {
            session,
            rest: Vec::new(),
            wire: Vec::new(),
            error: None,
        })
    }

    /// The client's end of a new connection. Its first flight goes out with [`flush`](Self::flush).
    ///
    /// # Errors
    /// A name that is none.
    pub fn client(context: &ClientContext, name: Option<&str>) -> Result<Box<Self>, TlsError> {
        let mut wire = Vec::new();
        let asked = Asked {
            name,
            ..Asked::default()
        };
        let mut tls = Self::new(Session::client(context, &asked, &mut wire)?);
        tls.wire = wire;
        Ok(tls)
    }

    /// The server's end of a new connection.
    ///
    /// # Errors
    /// A context that was built leads to none.
    pub fn server(context: &ServerContext) -> Result<Box<Self>, TlsError> {
        Session::server(context, false).map(Self::new)
    }

    /// The handshake is not over.
    #[must_use]
    pub fn is_shaking(&self) -> bool {
        self.session.is_shaking()
    }

    /// What was agreed on.
    #[must_use]
    pub fn agreed(&self) -> &Agreed {
        self.session.agreed()
    }

    /// Why it is broken, where TLS knows.
    #[must_use]
    pub fn error(&self) -> Option<TlsError> {
        self.error
    }

    /// Nothing is kept but the session, so that the connection may be parked.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.is_shaking() && self.rest.is_empty() && self.wire.is_empty()
    }

    /// The socket did not take everything.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.wire.is_empty()
    }

    /// Gives up what can be made again.
    pub fn park(&mut self) {
        self.session.park();
        self.rest = Vec::new();
        self.wire = Vec::new();
    }

    fn read<R: Reactor>(&mut self, reactor: &mut R, sock: Sock, buffer: &mut [u8]) -> Input {
        if self.session.peer_closed() {
            return Input::End;
        }
        let kept = self.rest.len();
        let Some((head, room)) = buffer.split_at_mut_checked(kept) else {
            return Input::Broken;
        };
        let n = match reactor.read(sock, room) {
            Ok(0) => return Input::End,
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Input::Blocked,
            Err(_) => return Input::Broken,
        };
        let more = n == room.len();
        head.copy_from_slice(&self.rest);
        let input = &mut buffer[..kept + n];
        let opened = self.session.open(input, &mut self.wire);
        self.rest.clear();
        self.rest.extend_from_slice(&input[opened.consumed..]);
        let flushed = self.flush(reactor, sock);
        self.error = opened.error;
        if opened.error.is_some() || flushed.is_err() {
            return Input::Broken;
        }
        Input::Bytes {
            n: opened.plain,
            more: more || opened.closed,
        }
    }

    fn write<R: Reactor>(
        &mut self,
        reactor: &mut R,
        sock: Sock,
        slices: &[IoSlice<'_>],
        scratch: &mut Vec<u8>,
        now_ms: u64,
    ) -> io::Result<usize> {
        if !self.flush(reactor, sock)? || self.is_shaking() {
            return Err(ErrorKind::WouldBlock.into());
        }
        scratch.clear();
        let plain = slices.iter().map(|slice| &**slice);
        let n = self
            .session
            .seal(now_ms, plain, BATCH, scratch)
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        let taken = match reactor.write(sock, &[IoSlice::new(scratch)]) {
            Ok(taken) => taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.wire.extend_from_slice(&scratch[taken..]);
        Ok(n)
    }

    /// Writes what was sealed and not taken. True when nothing is left of it.
    ///
    /// # Errors
    /// What the socket says.
    pub fn flush<R: Reactor>(&mut self, reactor: &mut R, sock: Sock) -> io::Result<bool> {
        while !self.wire.is_empty() {
            match reactor.write(sock, &[IoSlice::new(&self.wire)]) {
                Ok(taken) => drop(self.wire.drain(..taken)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Says that nothing more is sent, if that can be said at once.
    pub fn farewell<R: Reactor>(&mut self, reactor: &mut R, sock: Sock) {
        if !self.is_shaking() && self.wire.is_empty() {
            self.session.close(&mut self.wire);
            // Nobody waits for the outcome.
            let _ = self.flush(reactor, sock);
        }
    }
}
