//! Sockets and timers of health checks, on the control thread.
//!
//! One session per host of a cluster that is checked. A session either waits for its next check or is
//! in one, so it has one timer.

use std::collections::{HashMap, HashSet};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::Interest;
use mio::unix::SourceFd;

use super::probe::{Probe, Step};
use super::secured::Secured;
use super::verdict::{self, Outcome, Tally};
use crate::cluster::dice::Dice;
use crate::cluster::manager::{ClusterState, Manager};
use crate::cluster::{Cluster, ClusterId, HealthCheck, HealthCheckKind, Host, HostId, UpstreamTls};
use crate::engine::reactor::Addr;
use crate::engine::reactor::epoll::sockets;
use crate::server::control::{Cx, Readiness, Source};
use crate::telemetry::stats::{HealthCheckStats, Recorder};
use crate::tls::TlsError;

/// Bytes read from one connection in one turn; more waits for the next.
const READ_BUDGET: usize = 64 * 1024;

/// Checks the hosts of all clusters that want it.
#[derive(Debug)]
pub struct Health {
    sessions: HashMap<u32, Session>,
    by_host: HashMap<(ClusterId, HostId), u32>,
    next_key: u32,
    /// Clusters that ever had a connection: the others are checked less often.
    traffic: HashSet<ClusterId>,
    stats: HashMap<Arc<str>, HealthCheckStats>,
    revision: Option<u64>,
    dice: Dice,
}

#[derive(Debug)]
struct Session {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    check: HealthCheck,
    addr: Addr,
    authority: String,
    stats: HealthCheckStats,
    tally: Tally,
    /// A check is under way.
    checking: bool,
    connection: Option<Connection>,
    /// What the gauges say of this host: healthy, degraded.
    shown: (bool, bool),
}

#[derive(Debug)]
struct Connection {
    fd: OwnedFd,
    connected: bool,
    /// Not to be kept for another check.
    last: bool,
    /// Between the socket and the probe, where the cluster has it. Made when the socket is connected.
    tls: Option<Box<Secured>>,
    probe: Probe,
    /// What the probe wants to send.
    out: Vec<u8>,
}

/// What a connection came to.
enum Progress {
    Wait,
    /// The budget is used up: look again.
    More,
    Step(Step),
    /// Closed by the peer between checks.
    Gone,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Checks nothing until the manager has clusters to check.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sessions: HashMap::new(),
            by_host: HashMap::new(),
            next_key: 0,
            traffic: HashSet::new(),
            stats: HashMap::new(),
            revision: None,
            dice: Dice::new(),
        }
    }

    /// Begins sessions for new hosts, ends those of hosts that went, and moves the others on to the
    /// cluster and host as they are now.
    fn sync(&mut self, manager: &Manager, cx: &mut Cx<'_>) {
        let recorder = manager.recorder();
        let mut ended = std::mem::take(&mut self.by_host);
        for cluster in manager.iter() {
            let Some(check) = cluster.config.health_checks.first() else {
                continue;
            };
            for host in cluster.hosts.iter() {
                if host.health_target.disabled {
                    continue;
                }
                let place = (cluster.id, host.id);
                let kept = ended.remove(&place).filter(|key| {
                    let session = self.sessions.get_mut(key);
                    session.is_some_and(|session| session.follow(*key, cluster, host, check, cx))
                });
                let key = match kept {
                    Some(key) => key,
                    None => self.begin(cluster, host, check, manager, cx),
                };
                self.by_host.insert(place, key);
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.show(recorder);
                }
            }
        }
        let live: HashSet<_> = self.by_host.values().copied().collect();
        let gone: Vec<_> = self
            .sessions
            .keys()
            .filter(|key| !live.contains(key))
            .copied()
            .collect();
        for key in gone {
            cx.clear_timer(key.into());
            if let Some(mut session) = self.sessions.remove(&key) {
                session.disconnect(cx);
                session.hide(recorder);
            }
        }
        self.traffic.retain(|id| manager.get(*id).is_some());
    }

    fn begin(
        &mut self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        check: &HealthCheck,
        manager: &Manager,
        cx: &mut Cx<'_>,
    ) -> u32 {
        let stats = *self
            .stats
            .entry(Arc::clone(&cluster.stat_name))
            .or_insert_with(|| {
                let prefix = format!("cluster.{}.health_check.", cluster.stat_name);
                HealthCheckStats::new(&**manager.names(), &prefix)
            });
        let mut key = self.next_key;
        while self.sessions.contains_key(&key) {
            key = key.wrapping_add(1);
        }
        self.next_key = key.wrapping_add(1);
        let wait = verdict::initial_wait(check, &mut || self.dice.roll());
        cx.set_timer(key.into(), cx.now() + wait);
        self.sessions.insert(
            key,
            Session {
                addr: address(host),
                authority: authority(cluster, host, check),
                cluster: Arc::clone(cluster),
                host: Arc::clone(host),
                check: check.clone(),
                stats,
                tally: Tally::default(),
                checking: false,
                connection: None,
                shown: (false, false),
            },
        );
        key
    }

    /// A check of this session ended.
    fn conclude(&mut self, key: u32, outcome: Outcome, manager: &mut Manager, cx: &mut Cx<'_>) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        session.checking = false;
        let recorder = Arc::clone(manager.recorder());
        let stats = session.stats;
        let host = &session.host;
        let result = session
            .tally
            .conclude(&session.check, host.flags(), outcome);
        if host.change_flags(result.set, result.clear) {
            tracing::info!(
                "cluster {}: host {} is {:?} ({outcome:?})",
                session.cluster.name,
                host.addr,
                host.usable()
            );
        }
        if result.success {
            recorder.inc(stats.success);
        } else {
            recorder.inc(stats.failure);
        }
        if matches!(outcome, Outcome::Network | Outcome::Timeout) {
            recorder.inc(stats.network_failure);
        }
        session.show(&recorder);
        let id = session.cluster.id;
        if result.first {
            manager.checked(id, session.host.id);
        }
        let busy = |host: &Arc<Host>| host.totals.cx_total.load(Ordering::Relaxed) > 0;
        let traffic = self.traffic.contains(&id) || session.cluster.hosts.iter().any(busy);
        if traffic {
            self.traffic.insert(id);
        }
        let dice = &mut || self.dice.roll();
        let wait = verdict::interval(&session.check, result, traffic, dice);
        cx.set_timer(key.into(), cx.now() + wait);
        cx.turn.again();
    }

    /// Acts on what a connection came to.
    fn progress(&mut self, key: u32, progress: Progress, manager: &mut Manager, cx: &mut Cx<'_>) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        match progress {
            Progress::Wait => {}
            Progress::More => {
                // Registering again reports again what is still there, in the next turn.
                if let Some(connection) = &session.connection {
                    let fd = connection.fd.as_raw_fd();
                    let both = Interest::READABLE | Interest::WRITABLE;
                    if cx
                        .reregister(&mut SourceFd(&fd), key as usize, both)
                        .is_err()
                    {
                        session.disconnect(cx);
                        self.conclude(key, Outcome::Network, manager, cx);
                    }
                }
            }
            Progress::Step(Step::Wait) => {}
            Progress::Step(Step::Done { outcome, keep }) => {
                let last = session.connection.as_ref().is_some_and(|one| one.last);
                if !keep || last {
                    session.disconnect(cx);
                }
                self.conclude(key, outcome, manager, cx);
            }
            Progress::Gone => {
                let outcome = session
                    .connection
                    .as_ref()
                    .and_then(|connection| connection.probe.closed_while_idle());
                session.disconnect(cx);
                if let Some(outcome) = outcome {
                    self.conclude(key, outcome, manager, cx);
                }
            }
        }
    }
}

impl Connection {
    /// Sends what there is to send, as far as the socket takes it.
    fn flush(&mut self) -> Result<(), Progress> {
        let fd = self.fd.as_raw_fd();
        let out = match &mut self.tls {
            Some(tls) => {
                tls.seal(&mut self.out).map_err(|_| Progress::Gone)?;
                &mut tls.wire
            }
            None => &mut self.out,
        };
        flush(fd, out).map_err(|_| Progress::Gone)
    }
}

impl Session {
    /// Goes on with the cluster and host as they are now. False when the check is another one, so
    /// that everything begins anew.
    fn follow(
        &mut self,
        key: u32,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        check: &HealthCheck,
        cx: &mut Cx<'_>,
    ) -> bool {
        if self.check != *check || self.cluster.stat_name != cluster.stat_name {
            return false;
        }
        let (addr, authority) = (address(host), authority(cluster, host, check));
        if addr != self.addr || authority != self.authority {
            self.addr = addr;
            self.authority = authority;
            self.disconnect(cx);
            if self.checking {
                // What is under way would tell of the old place: check the new one instead.
                self.checking = false;
                cx.set_timer(key.into(), cx.now());
            }
        }
        let tls = |cluster: &Cluster| cluster.config.tls.as_ref().map(Arc::as_ptr);
        if tls(&self.cluster) != tls(cluster) {
            // What its peer was judged by may be another.
            match &mut self.connection {
                Some(connection) if self.checking => connection.last = true,
                _ => self.disconnect(cx),
            }
        }
        self.cluster = Arc::clone(cluster);
        self.host = Arc::clone(host);
        true
    }

    /// Begins a check: over the kept connection, or a new one.
    fn start(&mut self, key: u32, recorder: &Recorder, cx: &mut Cx<'_>) -> Progress {
        self.checking = true;
        recorder.inc(self.stats.attempt);
        cx.set_timer(key.into(), cx.now() + self.check.timeout_ms.max(1));
        if let Some(connection) = &mut self.connection {
            connection.out.clear();
            if connection.probe.begin(&self.check, &mut connection.out) {
                return self.drive(recorder, cx);
            }
            self.disconnect(cx);
        }
        match self.connect(key, cx) {
            Ok(()) => self.drive(recorder, cx),
            Err(_) => failed(),
        }
    }

    fn connect(&mut self, key: u32, cx: &mut Cx<'_>) -> io::Result<()> {
        let config = &self.cluster.config;
        let fd = sockets::connect(&self.addr, &config.socket)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        cx.register(&mut SourceFd(&fd.as_raw_fd()), key as usize, both)?;
        let mut probe = Probe::new(&self.check, &self.authority, &config.http1);
        let mut out = Vec::new();
        let begun = probe.begin(&self.check, &mut out);
        self.connection = Some(Connection {
            fd,
            connected: false,
            last: false,
            tls: None,
            probe,
            out,
        });
        if begun {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    fn disconnect(&mut self, cx: &mut Cx<'_>) {
        if let Some(mut connection) = self.connection.take() {
            if let Some(tls) = &mut connection.tls {
                tls.close(connection.fd.as_raw_fd());
            }
            cx.deregister(&mut SourceFd(&connection.fd.as_raw_fd()));
        }
    }

    /// Connects, writes and reads as far as possible.
    fn drive(&mut self, recorder: &Recorder, cx: &Cx<'_>) -> Progress {
        let checking = self.checking;
        let Some(connection) = &mut self.connection else {
            return Progress::Wait;
        };
        let fd = connection.fd.as_raw_fd();
        if !connection.connected {
            if sockets::take_error(connection.fd.as_fd()).is_err() {
                return failed();
            }
            if sockets::peer_addr(fd).is_err() {
                return Progress::Wait;
            }
            connection.connected = true;
            match &self.cluster.config.tls {
                Some(tls) => match Secured::new(tls, &self.host, &self.check) {
                    Ok(secured) => connection.tls = Some(Box::new(secured)),
                    Err(error) => return broken(recorder, tls, error),
                },
                None => match connection.probe.connected(&self.check) {
                    Step::Wait => {}
                    step => return Progress::Step(step),
                },
            }
        }
        let mut buffer = [0; 8 * 1024];
        let mut budget = READ_BUDGET;
        loop {
            if let Err(progress) = connection.flush() {
                return if checking { failed() } else { progress };
            }
            if budget == 0 {
                return Progress::More;
            }
            let length = match sockets::read(fd, &mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) if checking => return failed(),
                Err(_) => return Progress::Gone,
            };
            budget = budget.saturating_sub(buffer.len());
            let step = match (&mut connection.tls, &self.cluster.config.tls) {
                (Some(tls), Some(config)) if length > 0 => {
                    let opened = tls.open(&buffer[..length]);
                    if opened.established {
                        config.stats.shaken(recorder, tls.session.agreed(), false);
                    }
                    if let Some(error) = opened.error {
                        let _ = flush(fd, &mut tls.wire);
                        return broken(recorder, config, error);
                    }
                    if !checking && opened.plain == 0 && !opened.closed {
                        // A ticket, or new keys.
                        continue;
                    }
                    if !checking {
                        return Progress::Gone;
                    }
                    let mut step = Step::Wait;
                    if opened.established {
                        step = connection.probe.connected(&self.check);
                    }
                    if step == Step::Wait && opened.plain > 0 {
                        let plain = &tls.unread[..opened.plain];
                        let out = &mut connection.out;
                        step = connection.probe.received(&self.check, plain, cx.now(), out);
                    }
                    tls.unread.drain(..opened.consumed);
                    if step == Step::Wait && opened.closed {
                        step = connection.probe.closed(&self.check);
                    }
                    step
                }
                // Nobody asked: the end, or bytes that would be taken for the next answer.
                _ if !checking => return Progress::Gone,
                (Some(tls), _) if tls.session.is_shaking() => return failed(),
                _ if length == 0 => {
                    return Progress::Step(connection.probe.closed(&self.check));
                }
                _ => connection.probe.received(
                    &self.check,
                    &buffer[..length],
                    cx.now(),
                    &mut connection.out,
                ),
            };
            if step != Step::Wait {
                return Progress::Step(step);
            }
        }
    }

    /// Makes the gauges say what the flags say.
    fn show(&mut self, recorder: &Recorder) {
        let flags = self.host.flags();
        let now = (
            flags & Host::FAILED_ACTIVE_HC == 0,
            flags & Host::DEGRADED_ACTIVE_HC != 0,
        );
        self.show_as(now, recorder);
    }

    fn hide(&mut self, recorder: &Recorder) {
        self.show_as((false, false), recorder);
    }

    fn show_as(&mut self, now: (bool, bool), recorder: &Recorder) {
        let difference = |new: bool, old: bool| i64::from(new) - i64::from(old);
        recorder.gauge(self.stats.healthy, difference(now.0, self.shown.0));
        recorder.gauge(self.stats.degraded, difference(now.1, self.shown.1));
        self.shown = now;
    }
}

fn failed() -> Progress {
    Progress::Step(Step::Done {
        outcome: Outcome::Network,
        keep: false,
    })
}

fn broken(recorder: &Recorder, tls: &UpstreamTls, error: TlsError) -> Progress {
    tls.stats.broken(recorder, error);
    failed()
}

/// Writes what the socket takes.
pub(super) fn flush(fd: i32, out: &mut Vec<u8>) -> io::Result<()> {
    let mut written = 0;
    while written < out.len() {
        match sockets::write(fd, &[IoSlice::new(&out[written..])]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => written += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    out.drain(..written);
    Ok(())
}

/// Where a host is checked.
fn address(host: &Host) -> Addr {
    match &host.addr {
        Addr::Ip(addr) => {
            let mut addr = *addr;
            if let Some(ip) = host.health_target.addr {
                addr.set_ip(ip);
            }
            if let Some(port) = host.health_target.port {
                addr.set_port(port);
            }
            Addr::Ip(addr)
        }
        Addr::Unix(path) => Addr::Unix(Arc::clone(path)),
    }
}

/// The host of HTTP checks: the endpoint's, else the check's, else the cluster's name.
fn authority(cluster: &Cluster, host: &Host, check: &HealthCheck) -> String {
    let own = &host.health_target.hostname;
    match &check.kind {
        _ if !own.is_empty() => own.clone(),
        HealthCheckKind::Http { host, .. } if !host.is_empty() => host.clone(),
        _ => cluster.name.to_string(),
    }
}

impl<S: ClusterState> Source<S> for Health {
    fn name(&self) -> &'static str {
        "health"
    }

    fn ready(&mut self, state: &mut S, cx: &mut Cx<'_>, key: usize, _ready: Readiness) {
        let Ok(key) = u32::try_from(key) else {
            return;
        };
        let manager = state.clusters();
        if let Some(session) = self.sessions.get_mut(&key) {
            let progress = session.drive(manager.recorder(), cx);
            self.progress(key, progress, manager, cx);
        }
    }

    fn timer(&mut self, state: &mut S, cx: &mut Cx<'_>, key: u64) {
        let Ok(key) = u32::try_from(key) else {
            return;
        };
        let manager = state.clusters();
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        if session.checking {
            session.disconnect(cx);
            self.conclude(key, Outcome::Timeout, manager, cx);
        } else {
            let progress = session.start(key, manager.recorder(), cx);
            self.progress(key, progress, manager, cx);
        }
    }

    fn turn(&mut self, state: &mut S, cx: &mut Cx<'_>) {
        let manager = state.clusters();
        manager.settle();
        if self.revision == Some(manager.revision()) {
            return;
        }
        self.revision = Some(manager.revision());
        self.sync(manager, cx);
    }
}

#[cfg(test)]
mod tests;
