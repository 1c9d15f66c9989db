//! One TLS connection, without a socket: ciphertext in, plaintext out, and back.
//!
//! Until the handshake is over a session is a `rustls` connection through its unbuffered interface. Then
//! that is taken apart: what stays is the key schedule's end (for KeyUpdate and tickets) and two [`Half`]s,
//! whose expanded keys go while the connection is parked. Bytes are opened and sealed in the caller's
//! buffers, and none are kept: an unfinished record is the caller's to keep, too.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls::unbuffered::ConnectionState;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};

use super::hello;
use super::open::{Kernel, MAX_EMPTY, Open};
use super::record::{self, Alert, HEADER, Half, MAX_PLAIN, content};
use super::{ClientContext, PeerCertificate, ServerContext, TlsError};

/// Most bytes of a handshake that may wait for the rest of a message.
const MAX_HANDSHAKE: usize = 96 * 1024;
/// Silence after which records start small again, ms.
const IDLE_MS: u64 = 1000;
/// Content of a small record: with its overhead it fits one segment of an ordinary path.
const SMALL: usize = 1369;
/// Bytes that go out in small records after a silence.
const SMALL_BYTES: u64 = 4 * SMALL as u64;
/// Content of a record of middle size, and the bytes up to which they are sent.
const MIDDLE: usize = 4096;
const MIDDLE_BYTES: u64 = 64 * 1024;

/// What a connection agreed on.
#[derive(Clone, Debug, Default)]
pub struct Agreed {
    /// Protocol version.
    pub version: Option<ProtocolVersion>,
    /// Cipher suite, as IANA numbers it.
    pub suite: u16,
    /// The handshake continued an earlier session.
    pub resumed: bool,
    /// Protocol chosen by ALPN.
    pub alpn: Option<Box<[u8]>>,
    /// Name the client asked for.
    pub server_name: Option<Box<str>>,
    /// The peer's certificate, when it was asked for and shown.
    pub peer: Option<Arc<PeerCertificate>>,
}

impl Agreed {
    /// `TLSv1.3` and the like; empty before the handshake is over.
    #[must_use]
    pub fn version_name(&self) -> &'static str {
        match self.version {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "",
        }
    }
}

/// What [`Session::open`] did.
#[derive(Debug, Default)]
pub struct Opened {
    /// Bytes of the input that were used up. The rest is an unfinished record.
    pub consumed: usize,
    /// Bytes of plaintext, now at the start of the input.
    pub plain: usize,
    /// The handshake ended with this input.
    pub established: bool,
    /// The peer will send no more.
    pub closed: bool,
    /// The connection is broken; an alert was written when there is one to send.
    pub error: Option<TlsError>,
}

/// What a client asks for, where that is not its context's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Name of the server.
    pub name: Option<&'a str>,
    /// The name was brought by a request.
    pub by_request: bool,
    /// Protocols for ALPN.
    pub alpn: Option<&'a [Vec<u8>]>,
    /// Secrets go to the context's key log.
    pub logged: bool,
}

enum Shaking {
    /// With what it was made from, until the hello is seen.
    Server(UnbufferedServerConnection, Option<Arc<ServerConfig>>),
    Client(UnbufferedClientConnection),
}

impl Shaking {
    fn common(&self) -> &CommonState {
        match self {
            Self::Server(connection, _) => connection,
            Self::Client(connection) => connection,
        }
    }
}

enum State {
    Shaking(Box<Shaking>),
    Open(Box<Open>),
    /// Broken, or never to be used again.
    Dead,
}

/// One TLS connection; see the module. It can be moved, and never copied.
pub struct Session {
    state: State,
    agreed: Agreed,
    /// Bytes sealed since it was last silent, and when the last were.
    burst: u64,
    last_ms: u64,
    close_sent: bool,
    peer_closed: bool,
    hello_seen: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            State::Shaking(_) => "shaking hands",
            State::Open(_) => self.agreed.version_name(),
            State::Dead => "dead",
        };
        write!(f, "Session({state})")
    }
}

/// For a client that knows none of our protocols: the handshake goes on as if it had named none, as Envoy
/// lets it. `rustls` would end it (RFC 7301 section 3.2), with clients that say `http/1.0` among others.
fn without_alpn(config: &ServerConfig) -> Result<UnbufferedServerConnection, TlsError> {
    let mut config = config.clone();
    config.alpn_protocols.clear();
    UnbufferedServerConnection::new(Arc::new(config)).map_err(|error| TlsError::of(&error))
}

impl Session {
    fn new(state: Shaking) -> Self {
        Self {
            state: State::Shaking(Box::new(state)),
            agreed: Agreed::default(),
            burst: 0,
            last_ms: 0,
            close_sent: false,
            peer_closed: false,
            hello_seen: false,
        }
    }

    /// The server's end of a new connection. `logged`: its secrets go to the context's key log.
    ///
    /// # Errors
    /// What `rustls` refuses; a context that was built does not lead to any.
    pub fn server(context: &ServerContext, logged: bool) -> Result<Self, TlsError> {
        let config = context.config(logged);
        let connection = UnbufferedServerConnection::new(Arc::clone(&config))
            .map_err(|error| TlsError::of(&error))?;
        Ok(Self::new(Shaking::Server(connection, Some(config))))
    }

    /// The client's end of a new connection; its first flight is appended to `wire`.
    ///
    /// # Errors
    /// As [`server`](Self::server), and a host name that is none.
    pub fn client(
        context: &ClientContext,
        asked: &Asked<'_>,
        wire: &mut Vec<u8>,
    ) -> Result<Self, TlsError> {
        let connection = context.connect(asked)?;
        let mut session = Self::new(Shaking::Client(connection));
        let opened = session.open(&mut [], wire);
        opened.error.map_or(Ok(session), Err)
    }

    /// The handshake is not over.
    #[must_use]
    pub fn is_shaking(&self) -> bool {
        matches!(self.state, State::Shaking(_))
    }

    /// What was agreed on.
    #[must_use]
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// We said that we send no more.
    #[must_use]
    pub fn close_sent(&self) -> bool {
        self.close_sent
    }

    /// The peer said that it sends no more.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Gives up what can be made again when the next byte comes.
    pub fn park(&mut self) {
        if let State::Open(open) = &mut self.state {
            open.read.park();
            open.write.park();
            open.partial.shrink_to_fit();
        }
    }

    /// Takes what came from the peer. Plaintext is moved to the start of `input`; what the connection
    /// itself has to say is appended to `wire`.
    pub fn open(&mut self, input: &mut [u8], wire: &mut Vec<u8>) -> Opened {
        let mut opened = Opened::default();
        if matches!(self.state, State::Shaking(_)) {
            match self.shake(input, wire) {
                Ok(consumed) => opened.consumed = consumed,
                Err(error) => {
                    self.state = State::Dead;
                    opened.error = Some(error);
                    return opened;
                }
            }
            if self.is_shaking() {
                return opened;
            }
            opened.established = true;
        }
        if let Err(alert) = self.open_records(input, wire, &mut opened) {
            if let Some(alert) = alert {
                self.say(alert, wire);
                opened.error = Some(TlsError::Protocol);
            } else {
                opened.error = Some(TlsError::PeerAlert);
            }
            self.state = State::Dead;
        }
        opened
    }

    /// Goes on with the handshake, one record at a time, so that none behind its end is taken with it.
    fn shake(&mut self, input: &mut [u8], wire: &mut Vec<u8>) -> Result<usize, TlsError> {
        let mut consumed = 0;
        // Bytes from `consumed` that are shown: whole records.
        let mut shown = 0;
        loop {
            let State::Shaking(shaking) = &mut self.state else {
                return Ok(consumed);
            };
            let window = input
                .get_mut(consumed..consumed + shown)
                .unwrap_or_default();
            let (discard, step) = match &mut **shaking {
                Shaking::Server(connection, config) => {
                    if !self.hello_seen && !window.is_empty() {
                        self.agreed.server_name = hello::server_name(window);
                        if let Some(strange) = config
                            .take_if(|config| hello::speaks_none_of(window, &config.alpn_protocols))
                        {
                            *connection = without_alpn(&strange)?;
                        }
                    }
                    let status = connection.process_tls_records(window);
                    (status.discard, step(status.state, wire))
                }
                Shaking::Client(connection) => {
                    let status = connection.process_tls_records(window);
                    (status.discard, step(status.state, wire))
                }
            };
            // Once the first message is taken, what comes is no hello.
            self.hello_seen |= discard > 0;
            consumed += discard;
            shown -= discard.min(shown);
            match step {
                Step::Again => {}
                Step::More => {
                    let rest = input.get(consumed + shown..).unwrap_or_default();
                    match record::record_len(rest) {
                        Ok(Some(len)) if len <= rest.len() => shown += len,
                        Ok(_) if rest.len() + shown > MAX_HANDSHAKE => {
                            return Err(TlsError::Protocol);
                        }
                        Ok(_) => return Ok(consumed),
                        // No TLS at all: rustls says what it is.
                        Err(_) if shown < rest.len() => shown += rest.len(),
                        Err(_) => return Err(TlsError::Protocol),
                    }
                }
                Step::Done => {
                    self.establish()?;
                    return Ok(consumed);
                }
                Step::Failed(error) => {
                    // It knows what it has seen by where it was: the same bytes again, less what it gave back.
                    let window = input.get_mut(consumed..consumed + shown);
                    self.last_words(window.unwrap_or_default(), wire);
                    return Err(error);
                }
            }
        }
    }

    /// The alert that belongs to an error.
    fn last_words(&mut self, window: &mut [u8], wire: &mut Vec<u8>) {
        let State::Shaking(shaking) = &mut self.state else {
            return;
        };
        match &mut **shaking {
            Shaking::Server(connection, _) => {
                step(connection.process_tls_records(window).state, wire);
            }
            Shaking::Client(connection) => {
                step(connection.process_tls_records(window).state, wire);
            }
        }
    }

    /// Takes the connection apart: the handshake is over.
    fn establish(&mut self) -> Result<(), TlsError> {
        let State::Shaking(shaking) = std::mem::replace(&mut self.state, State::Dead) else {
            return Ok(());
        };
        let common = shaking.common();
        let version = common.protocol_version();
        let tls13 = version == Some(ProtocolVersion::TLSv1_3);
        self.agreed = Agreed {
            version,
            suite: common
                .negotiated_cipher_suite()
                .map_or(0, |suite| u16::from(suite.suite())),
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            alpn: common.alpn_protocol().map(Into::into),
            server_name: self.agreed.server_name.take(),
            peer: match &*shaking {
                Shaking::Server(..) => PeerCertificate::of(common.peer_certificates()),
                // Nobody asks for an upstream's, and it would stay in memory.
                Shaking::Client(_) => None,
            },
        };
        let (secrets, kernel) = match *shaking {
            Shaking::Server(connection, _) => connection
                .dangerous_into_kernel_connection()
                .map(|(secrets, kernel)| (secrets, Kernel::Server(kernel))),
            Shaking::Client(connection) => connection
                .dangerous_into_kernel_connection()
                .map(|(secrets, kernel)| (secrets, Kernel::Client(kernel))),
        }
        .map_err(|error| TlsError::of(&error))?;
        let read = Half::new(secrets.rx, tls13);
        let write = Half::new(secrets.tx, tls13);
        let (Some(read), Some(write)) = (read, write) else {
            return Err(TlsError::Protocol);
        };
        self.state = State::Open(Box::new(Open {
            kernel,
            read,
            write,
            tls13,
            partial: Vec::new(),
            empty: 0,
            key_updates: 0,
        }));
        Ok(())
    }

    /// Opens all whole records. An error without an alert is the peer's own.
    fn open_records(
        &mut self,
        input: &mut [u8],
        wire: &mut Vec<u8>,
        opened: &mut Opened,
    ) -> Result<(), Option<Alert>> {
        let State::Open(open) = &mut self.state else {
            return Err(None);
        };
        loop {
            if self.peer_closed {
                // Nothing it says counts any more (RFC 8446 section 6.1).
                opened.consumed = input.len();
                opened.closed = true;
                return Ok(());
            }
            let rest = input.get_mut(opened.consumed..).unwrap_or_default();
            let Some(len) = record::record_len(rest)? else {
                return Ok(());
            };
            let Some(record) = rest.get_mut(..len) else {
                return Ok(());
            };
            let (kind, range) = open.read.open(record)?;
            let at = opened.consumed + range.start..opened.consumed + range.end;
            opened.consumed += len;
            open.empty = if at.is_empty() { open.empty + 1 } else { 0 };
            if open.empty > MAX_EMPTY {
                return Err(Alert::UnexpectedMessage.into());
            }
            match kind {
                content::DATA if open.partial.is_empty() => {
                    open.key_updates = 0;
                    let len = at.len();
                    // Plaintext is shorter than its record, so that it never overtakes what is unread.
                    input.copy_within(at, opened.plain);
                    opened.plain += len;
                }
                content::HANDSHAKE => open.handshake(&input[at], wire)?,
                content::ALERT => match input[at] {
                    [_, 0] => self.peer_closed = true,
                    // user_canceled comes before a close_notify.
                    [_, 90] => {}
                    [1, 100] if !open.tls13 => {}
                    _ => return Err(None),
                },
                _ => return Err(Alert::UnexpectedMessage.into()),
            }
        }
    }

    fn say(&mut self, alert: Alert, wire: &mut Vec<u8>) {
        let level = if alert == Alert::CloseNotify { 1 } else { 2 };
        if let State::Open(open) = &mut self.state {
            let start = open.write.begin(wire);
            wire.extend_from_slice(&[level, alert as u8]);
            // What cannot be sealed is not said.
            let _ = open.write.finish(content::ALERT, start, wire);
        }
    }

    /// Says that no more is sent from here; once.
    pub fn close(&mut self, wire: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.close_sent, true) {
            self.say(Alert::CloseNotify, wire);
        }
    }

    /// Seals up to `most` bytes of what the slices hold, one behind the other, and tells how many.
    ///
    /// # Errors
    /// The keys have sealed as much as they may, or the connection is dead.
    pub fn seal<'a>(
        &mut self,
        now_ms: u64,
        slices: impl Iterator<Item = &'a [u8]>,
        most: usize,
        wire: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        if now_ms.saturating_sub(self.last_ms) >= IDLE_MS {
            self.burst = 0;
        }
        self.last_ms = now_ms;
        let State::Open(open) = &mut self.state else {
            return Err(TlsError::Protocol);
        };
        let mut left = most;
        let mut start = None;
        let mut room = 0;
        let mut size = 0;
        for mut slice in slices {
            while !slice.is_empty() && left > 0 {
                if start.is_none() {
                    open.renew(wire)?;
                    size = match self.burst {
                        sent if sent < SMALL_BYTES => SMALL,
                        sent if sent < MIDDLE_BYTES => MIDDLE,
                        _ => MAX_PLAIN,
                    };
                    room = size;
                    start = Some(open.write.begin(wire));
                }
                let n = slice.len().min(room).min(left);
                let (now, later) = slice.split_at(n);
                wire.extend_from_slice(now);
                slice = later;
                room -= n;
                left -= n;
                self.burst += n as u64;
                if room == 0
                    && let Some(start) = start.take()
                {
                    let sealed = open.write.finish(content::DATA, start, wire);
                    sealed.ok_or(TlsError::Protocol)?;
                }
            }
        }
        if let Some(start) = start {
            let sealed = open.write.finish(content::DATA, start, wire);
            sealed.ok_or(TlsError::Protocol)?;
        }
        debug_assert!(size <= MAX_PLAIN);
        Ok(most - left)
    }

    /// Bytes that sealing so much may take at most.
    #[must_use]
    pub fn sealed_len(&self, plain: usize) -> usize {
        let State::Open(open) = &self.state else {
            return 0;
        };
        plain + (plain / SMALL + 2) * (open.write.overhead() + HEADER)
    }

    #[cfg(test)]
    pub(super) fn numbers(&self) -> Option<(u64, u64)> {
        match &self.state {
            State::Open(open) => Some((open.read.sequence(), open.write.sequence())),
            _ => None,
        }
    }

    /// Makes the peer believe that our keys are used up.
    #[cfg(test)]
    pub(super) fn update_keys(&mut self, wire: &mut Vec<u8>, ask: bool) {
        if let State::Open(open) = &mut self.state {
            open.update_write(u8::from(ask), wire).expect("TLS 1.3");
        }
    }
}

enum Step {
    /// Something was done; ask again.
    Again,
    /// It wants the next record.
    More,
    Done,
    Failed(TlsError),
}

fn step<Data>(
    state: Result<ConnectionState<'_, '_, Data>, rustls::Error>,
    wire: &mut Vec<u8>,
) -> Step {
    match state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = wire.len();
            let needed = match data.encode(&mut []) {
                Err(rustls::unbuffered::EncodeError::InsufficientSize(size)) => size.required_size,
                _ => 0,
            };
            wire.resize(start + needed, 0);
            match data.encode(&mut wire[start..]) {
                Ok(written) => wire.truncate(start + written),
                Err(_) => wire.truncate(start),
            }
            Step::Again
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Step::Again
        }
        Ok(ConnectionState::BlockedHandshake) => Step::More,
        Ok(ConnectionState::WriteTraffic(_)) => Step::Done,
        // Early data is not switched on, and records behind the handshake are not shown to it.
        Ok(_) => Step::Failed(TlsError::Protocol),
        Err(error) => Step::Failed(TlsError::of(&error)),
    }
}
