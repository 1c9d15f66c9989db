//! The admin interface's sockets: HTTP/1 over TCP or a Unix socket, on the control thread.
//!
//! A connection has one request at a time and is not read while its answer is being sent. How many
//! there are, how long they may do nothing and how much is buffered for them is bounded, and none is
//! served for long in one turn.

mod connection;
mod socket;

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use mio::Interest;

use super::{AdminBackend, Response, handlers};
use crate::engine::reactor::Addr;
use crate::server::control::{Cx, Millis, Readiness, Source};
use crate::telemetry::access_log::{AccessLog, LogWriter};
use crate::telemetry::stats::{HttpStats, ListenerStats, Names, Recorder};
use connection::{Connection, Step};
use socket::{Listener, Stream};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 128;
/// Bytes of answers that wait for their clients; beyond, further requests get 503.
const MAX_PENDING: usize = 64 * 1024 * 1024;
/// A connection without a request is closed after this.
const IDLE_MS: Millis = 300_000;
/// A connection whose request or answer does not move is closed after this.
const STALLED_MS: Millis = 30_000;
/// After an error in accept, for instance too many open files, it is tried again after this.
const ACCEPT_RETRY_MS: Millis = 1_000;
/// A connection that did nothing for so long makes room for a new one when there are too many.
const REPLACEABLE_MS: Millis = 1_000;
/// Steps of one connection in one turn.
const BUDGET: usize = 32;

/// Key of the listening socket.
const LISTENER: usize = 0;

/// How the admin interface is set up.
#[derive(Debug)]
pub struct Settings {
    /// Where it listens.
    pub address: Addr,
    /// Permission bits of a Unix socket's path.
    pub unix_mode: Option<u32>,
    /// File that the actual address is written to (`--admin-address-path`).
    pub address_path: Option<PathBuf>,
    /// Access logs.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// Writes them.
    pub writer: Option<LogWriter>,
}

/// Counters, and who counts.
#[derive(Debug)]
struct Stats {
    recorder: Arc<Recorder>,
    http: HttpStats,
    listener: ListenerStats,
}

/// The admin interface.
#[derive(Debug)]
pub struct Admin {
    listener: Listener,
    address: Addr,
    access_logs: Vec<Arc<AccessLog>>,
    writer: Option<LogWriter>,
    stats: Stats,
    connections: HashMap<usize, Connection>,
    next_key: usize,
    accepted: u64,
}

impl Admin {
    /// Opens the address and writes it to `address_path`.
    ///
    /// # Errors
    /// It cannot be opened, or the file not be written.
    pub fn open(
        settings: Settings,
        names: &dyn Names,
        recorder: Arc<Recorder>,
    ) -> io::Result<Self> {
        let listener = Listener::bind(&settings.address, settings.unix_mode)?;
        let address = listener.address(&settings.address);
        if let Some(path) = &settings.address_path {
            fs::write(path, address.to_string())?;
        }
        tracing::info!("admin address: {address}");
        Ok(Self {
            listener,
            address,
            access_logs: settings.access_logs,
            writer: settings.writer,
            stats: Stats {
                recorder,
                http: HttpStats::new(names, "http.admin."),
                listener: ListenerStats::new(names, "listener.admin."),
            },
            connections: HashMap::new(),
            next_key: LISTENER + 1,
            accepted: 0,
        })
    }

    /// The address it listens on: the port is the actual one.
    #[must_use]
    pub fn address(&self) -> &Addr {
        &self.address
    }

    fn accept<S: AdminBackend>(&mut self, state: &mut S, cx: &mut Cx<'_>) {
        for _ in 0..BUDGET {
            match self.listener.accept() {
                Ok((stream, peer)) => self.connect(stream, peer, state, cx),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        tracing::warn!("admin: cannot accept a connection: {error}");
                        self.stats.recorder.inc(self.stats.listener.accept_errors);
                        cx.set_timer(LISTENER as u64, cx.now() + ACCEPT_RETRY_MS);
                        return;
                    }
                },
            }
        }
        // There may be more; the edge was used up.
        cx.set_timer(LISTENER as u64, cx.now());
    }

    fn connect<S: AdminBackend>(
        &mut self,
        mut stream: Stream,
        peer: Addr,
        state: &mut S,
        cx: &mut Cx<'_>,
    ) {
        if self.connections.len() >= MAX_CONNECTIONS && !self.make_room(cx) {
            self.stats
                .recorder
                .inc(self.stats.listener.downstream_cx_overflow);
            return;
        }
        while self.next_key == LISTENER || self.connections.contains_key(&self.next_key) {
            self.next_key = (self.next_key + 1) & 0x7fff_ffff;
        }
        let key = self.next_key;
        self.next_key = (self.next_key + 1) & 0x7fff_ffff;
        if let Err(error) = stream.register(cx, key, Interest::READABLE | Interest::WRITABLE) {
            tracing::warn!("admin: cannot wait for a connection: {error}");
            return;
        }
        self.accepted += 1;
        let Stats {
            recorder,
            http,
            listener,
        } = &self.stats;
        recorder.inc(http.downstream_cx_total);
        recorder.inc(http.downstream_cx_http1_total);
        recorder.gauge(http.downstream_cx_active, 1);
        recorder.inc(listener.downstream_cx_total);
        recorder.gauge(listener.downstream_cx_active, 1);
        let connection = Connection::new(stream, peer, self.accepted, cx.now());
        self.connections.insert(key, connection);
        self.serve(key, state, cx);
    }

    /// Closes the connection that did nothing for the longest time.
    fn make_room(&mut self, cx: &mut Cx<'_>) -> bool {
        let oldest = self
            .connections
            .iter()
            .min_by_key(|(_, connection)| connection.moved_ms)
            .filter(|(_, connection)| connection.moved_ms + REPLACEABLE_MS <= cx.now())
            .map(|(key, _)| *key);
        if let Some(key) = oldest {
            self.close(key, cx);
        }
        oldest.is_some()
    }

    fn close(&mut self, key: usize, cx: &mut Cx<'_>) {
        if let Some(mut connection) = self.connections.remove(&key) {
            connection.stream.deregister(cx);
            cx.clear_timer(key as u64);
            let Stats {
                recorder,
                http,
                listener,
            } = &self.stats;
            recorder.inc(http.downstream_cx_destroy);
            recorder.gauge(http.downstream_cx_active, -1);
            recorder.inc(listener.downstream_cx_destroy);
            recorder.gauge(listener.downstream_cx_active, -1);
            let length = cx.now().saturating_sub(connection.opened_ms);
            recorder.record(http.downstream_cx_length_ms, length);
            recorder.record(listener.downstream_cx_length_ms, length);
        }
    }

    /// Takes a connection as far as it goes now, within its budget.
    fn serve<S: AdminBackend>(&mut self, key: usize, state: &mut S, cx: &mut Cx<'_>) {
        for _ in 0..BUDGET {
            let pending: usize = self.connections.values().map(Connection::pending).sum();
            let Some(connection) = self.connections.get_mut(&key) else {
                return;
            };
            match connection.step(cx.now()) {
                Step::Wait => {
                    let patience = if connection.is_idle() {
                        IDLE_MS
                    } else {
                        STALLED_MS
                    };
                    cx.set_timer(key as u64, connection.moved_ms + patience);
                    return;
                }
                Step::Moved => {}
                Step::Request(request) => {
                    self.stats.recorder.inc(self.stats.http.downstream_rq_total);
                    let response = if pending > MAX_PENDING {
                        Response::error(503, "too much is being sent already\n")
                    } else {
                        handlers::handle(&request, state, cx.turn)
                    };
                    let sent = connection.respond(&response);
                    count(&self.stats, response.status);
                    if let Some(writer) = &mut self.writer {
                        let addresses = (&connection.peer, &self.address);
                        connection::log(writer, &self.access_logs, &sent, addresses);
                    }
                }
                Step::Refused(status) => count(&self.stats, status),
                Step::Close => {
                    self.close(key, cx);
                    return;
                }
            }
        }
        cx.set_timer(key as u64, cx.now());
    }
}

fn count(stats: &Stats, status: u16) {
    let Stats { recorder, http, .. } = stats;
    recorder.inc(http.downstream_rq_completed);
    match status / 100 {
        2 => recorder.inc(http.downstream_rq_2xx),
        4 => recorder.inc(http.downstream_rq_4xx),
        5 => recorder.inc(http.downstream_rq_5xx),
        _ => {}
    }
}

impl<S: AdminBackend> Source<S> for Admin {
    fn name(&self) -> &'static str {
        "admin"
    }

    fn start(&mut self, _: &mut S, cx: &mut Cx<'_>) -> io::Result<()> {
        self.listener.register(cx, LISTENER)
    }

    fn ready(&mut self, state: &mut S, cx: &mut Cx<'_>, key: usize, _: Readiness) {
        if key == LISTENER {
            self.accept(state, cx);
        } else {
            self.serve(key, state, cx);
        }
    }

    fn timer(&mut self, state: &mut S, cx: &mut Cx<'_>, key: u64) {
        let key = key as usize;
        if key == LISTENER {
            self.accept(state, cx);
            return;
        }
        let Some(connection) = self.connections.get(&key) else {
            return;
        };
        let patience = if connection.is_idle() {
            IDLE_MS
        } else {
            STALLED_MS
        };
        if connection.moved_ms + patience <= cx.now() {
            if connection.is_idle() {
                self.stats
                    .recorder
                    .inc(self.stats.http.downstream_cx_idle_timeout);
            }
            self.close(key, cx);
        } else {
            self.serve(key, state, cx);
        }
    }
}

#[cfg(test)]
mod tests;
