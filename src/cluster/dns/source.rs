//! The resolver's sockets, on the control thread.
//!
//! One socket per query: a new random port each time, connected, so that the kernel drops what comes
//! from elsewhere. Nothing is kept open between queries.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::SystemTime;

use mio::Interest;
use mio::net::{TcpStream, UdpSocket};

use super::hosts::Hosts;
use super::refresh::Refresh;
use super::resolv_conf::ResolvConf;
use super::resolver::{Action, Answer, Resolver};
use crate::cluster::dice::Dice;
use crate::cluster::manager::{ClusterState, Resolution, dns_source};
use crate::server::control::{Cx, Millis, Readiness, Source};

/// Files are looked at for changes at most this often.
const FILE_CHECK_MS: u64 = 1_000;
/// Larger files are not read.
const MAX_FILE: u64 = 4 << 20;
/// The one timer.
const TIMER: u64 = 0;

/// Keeps the names of all DNS clusters resolved.
#[derive(Debug)]
pub struct Dns {
    resolver: Resolver,
    refresh: Refresh,
    sockets: HashMap<u32, Socket>,
    hosts: Watched,
    resolv_conf: Watched,
    files_checked: Option<Millis>,
    file_check_ms: u64,
    revision: Option<u64>,
    dice: Dice,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Tcp(Box<Tcp>),
}

/// A message over TCP: a length of two bytes before each (RFC 1035, 4.2.2).
#[derive(Debug)]
struct Tcp {
    stream: TcpStream,
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
}

/// A file that is read again when it changed.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    seen: Option<(SystemTime, u64)>,
}

impl Watched {
    fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            seen: None,
        }
    }

    /// The text, when it is not the one seen last. A file that went counts as empty.
    fn changed(&mut self, first: bool) -> Option<String> {
        let meta = fs::metadata(&self.path).ok();
        let stamp = meta.as_ref().and_then(|meta| {
            let modified = meta.modified().ok()?;
            (meta.len() <= MAX_FILE).then_some((modified, meta.len()))
        });
        if stamp == self.seen && !first {
            return None;
        }
        self.seen = stamp;
        if stamp.is_none() {
            return Some(String::new());
        }
        let bytes = fs::read(&self.path).unwrap_or_default();
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self::new()
    }
}

impl Dns {
    /// Resolves as `/etc/hosts` and `/etc/resolv.conf` say.
    #[must_use]
    pub fn new() -> Self {
        Self::with_files("/etc/hosts", "/etc/resolv.conf")
    }

    /// Resolves as these files say.
    #[must_use]
    pub fn with_files(hosts: impl Into<PathBuf>, resolv_conf: impl Into<PathBuf>) -> Self {
        Self {
            resolver: Resolver::default(),
            refresh: Refresh::default(),
            sockets: HashMap::new(),
            hosts: Watched::new(hosts),
            resolv_conf: Watched::new(resolv_conf),
            files_checked: None,
            file_check_ms: FILE_CHECK_MS,
            revision: None,
            dice: Dice::new(),
        }
    }

    fn check_files(&mut self, now: Millis) {
        let first = self.files_checked.is_none();
        if self
            .files_checked
            .is_some_and(|at| now - at < self.file_check_ms)
        {
            return;
        }
        self.files_checked = Some(now);
        if let Some(text) = self.hosts.changed(first) {
            self.resolver.set_hosts(Hosts::parse(&text));
        }
        if let Some(text) = self.resolv_conf.changed(first) {
            self.resolver.set_conf(ResolvConf::parse(&text));
        }
    }

    /// Starts what is due and carries out what the resolver wants, until nothing is left to do now.
    fn pump(&mut self, state: &mut impl ClusterState, cx: &mut Cx<'_>) {
        let now = cx.now();
        loop {
            if let Some(action) = self.resolver.next_action() {
                self.act(action, state, cx);
            } else if let Some(due) = self.refresh.pop_due(now) {
                self.check_files(now);
                state.clusters().resolving(due.cluster);
                let dice = &mut || self.dice.roll();
                self.resolver.start(due.number, due.request, now, dice);
            } else {
                break;
            }
        }
        let next = self.resolver.next_deadline();
        match next.into_iter().chain(self.refresh.next_deadline()).min() {
            Some(at) => cx.set_timer(TIMER, at),
            None => cx.clear_timer(TIMER),
        }
    }

    fn act(&mut self, action: Action, state: &mut impl ClusterState, cx: &mut Cx<'_>) {
        match action {
            Action::Udp(key, server, bytes) => {
                let opened = open_udp(server).and_then(|mut socket| {
                    cx.register(&mut socket, key as usize, Interest::READABLE)?;
                    socket.send(&bytes)?;
                    Ok(socket)
                });
                self.opened(key, opened.map(Socket::Udp), cx.now());
            }
            Action::Tcp(key, server, bytes) => {
                let opened = TcpStream::connect(server).and_then(|mut stream| {
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    cx.register(&mut stream, key as usize, interest)?;
                    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
                    let mut out = length.to_be_bytes().to_vec();
                    out.extend_from_slice(&bytes);
                    Ok(Socket::Tcp(Box::new(Tcp {
                        stream,
                        out,
                        written: 0,
                        input: Vec::new(),
                    })))
                });
                self.opened(key, opened, cx.now());
            }
            Action::Close(key) => match self.sockets.remove(&key) {
                Some(Socket::Udp(mut socket)) => cx.deregister(&mut socket),
                Some(Socket::Tcp(mut tcp)) => cx.deregister(&mut tcp.stream),
                None => {}
            },
            Action::Done(number, answer) => {
                let dice = &mut || self.dice.roll();
                if let Some((cluster, host)) = self.refresh.done(number, &answer, cx.now(), dice) {
                    tracing::debug!("{host}: {answer:?}");
                    let resolution = match answer {
                        Answer::Found { ips, .. } => Resolution::Addresses(ips),
                        Answer::Nothing { .. } => Resolution::Addresses(Vec::new()),
                        Answer::Failed => Resolution::Failed,
                    };
                    state.clusters().resolved(cluster, &host, resolution);
                    cx.turn.again();
                }
            }
        }
    }

    fn opened(&mut self, key: u32, socket: io::Result<Socket>, now: Millis) {
        match socket {
            Ok(socket) => {
                self.sockets.insert(key, socket);
            }
            Err(_) => self.broken(key, now),
        }
    }

    fn broken(&mut self, key: u32, now: Millis) {
        self.resolver.broken(key, now, &mut || self.dice.roll());
    }

    fn read_udp(&mut self, key: u32, now: Millis) {
        // Longer than what we say we take, to see that it is too long: such a one does not parse.
        let mut buffer = [0; 4096];
        while let Some(Socket::Udp(socket)) = self.sockets.get(&key) {
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let dice = &mut || self.dice.roll();
                    self.resolver.received(key, &buffer[..length], now, dice);
                    // Whatever it wants to do now begins with closing this socket.
                    if self.resolver.has_actions() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // ICMP told that nobody listens there.
                Err(_) => return self.broken(key, now),
            }
        }
    }

    fn drive_tcp(&mut self, key: u32, now: Millis) {
        let Some(Socket::Tcp(tcp)) = self.sockets.get_mut(&key) else {
            return;
        };
        match tcp.drive() {
            Ok(None) => {}
            Ok(Some(message)) => {
                let dice = &mut || self.dice.roll();
                self.resolver.received(key, &message, now, dice);
            }
            Err(_) => self.broken(key, now),
        }
    }
}

impl Tcp {
    /// Writes and reads what is possible; a message when one is whole.
    fn drive(&mut self) -> io::Result<Option<Vec<u8>>> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.written += length,
                // Not connected yet looks like this too.
                Err(error) if is_transient(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; 4096];
        loop {
            if let Some(length) = self.input.first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if let Some(message) = self.input.get(2..2 + length) {
                    return Ok(Some(message.to_vec()));
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_transient(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NotConnected
    )
}

fn open_udp(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(server)?;
    Ok(socket)
}

impl<S: ClusterState> Source<S> for Dns {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn ready(&mut self, state: &mut S, cx: &mut Cx<'_>, key: usize, _ready: Readiness) {
        let Ok(key) = u32::try_from(key) else {
            return;
        };
        match self.sockets.get(&key) {
            Some(Socket::Udp(_)) => self.read_udp(key, cx.now()),
            Some(Socket::Tcp(_)) => self.drive_tcp(key, cx.now()),
            None => {}
        }
        self.pump(state, cx);
    }

    fn timer(&mut self, state: &mut S, cx: &mut Cx<'_>, _key: u64) {
        let dice = &mut || self.dice.roll();
        self.resolver.expire(cx.now(), dice);
        self.pump(state, cx);
    }

    fn turn(&mut self, state: &mut S, cx: &mut Cx<'_>) {
        let manager = state.clusters();
        if self.revision == Some(manager.revision()) {
            return;
        }
        self.revision = Some(manager.revision());
        let clusters: Vec<_> = manager
            .iter()
            .filter_map(|cluster| Some((cluster.id, dns_source(&cluster.config)?.clone())))
            .collect();
        for number in self.refresh.sync(&clusters, cx.now()) {
            let dice = &mut || self.dice.roll();
            self.resolver.cancel(number, cx.now(), dice);
        }
        self.pump(state, cx);
    }
}

#[cfg(test)]
mod tests;
