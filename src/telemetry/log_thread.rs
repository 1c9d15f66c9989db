//! The log thread: takes entries out of the workers' rings and writes them to files.
//!
//! It is the only thread that waits for a disk. When it cannot keep up, rings fill and workers drop
//! entries; a write that fails is counted and its entries are gone. It sleeps while nothing is
//! logged.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use nix::unistd;

use super::access_log::LogWriter;
use super::registry::Registry;
use super::ring;
use super::stats::{AccessLogStats, FilesystemStats, Recorder};

/// How the log thread works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an entry may wait to be written. `--file-flush-interval-msec`.
    pub flush_interval: Duration,
    /// A file is written at once when so much waits for it. `--file-flush-min-size-kb`.
    pub flush_bytes: usize,
    /// Size of a worker's ring, allocated with its first entry.
    pub ring_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(10),
            flush_bytes: 64 * 1024,
            ring_bytes: 128 * 1024,
        }
    }
}

/// Where entries go.
#[derive(Debug)]
enum Destination {
    File(PathBuf, File),
    Stdout,
    Stderr,
    /// Read back with [`LogTarget::take`].
    Memory(Arc<Mutex<Vec<u8>>>),
}

/// An open target. The file is closed when the last log that writes to it is gone.
#[derive(Clone, Debug)]
pub struct LogTarget(Arc<Target>);

#[derive(Debug)]
struct Target {
    number: u32,
    /// Tells the log thread that no entry follows.
    retired: Arc<AtomicBool>,
    memory: Option<Arc<Mutex<Vec<u8>>>>,
    wake: Wake,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.retired.store(true, Ordering::Release);
        self.wake.0.wake();
    }
}

impl LogTarget {
    pub(super) fn number(&self) -> u32 {
        self.0.number
    }

    /// What was written to a target in memory since the last call; empty for others.
    #[must_use]
    pub fn take(&self) -> String {
        let bytes = self.0.memory.as_ref().map(|memory| {
            std::mem::take(&mut *memory.lock().unwrap_or_else(PoisonError::into_inner))
        });
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }
}

/// What comes to the log thread from elsewhere.
#[derive(Debug, Default)]
struct Inbox {
    rings: Vec<ring::Reader>,
    targets: Vec<(u32, Open)>,
    files: HashMap<PathBuf, Weak<Target>>,
    next: u32,
    /// Calls of [`Logs::flush`] made, and served.
    asked: u64,
    served: u64,
    ended: bool,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    thread: OnceLock<Thread>,
    /// The thread waits for a first entry, without a time limit.
    idle: AtomicBool,
    /// A ring was seen half full since the thread last looked at them.
    urgent: AtomicBool,
    reopen: AtomicBool,
    stop: AtomicBool,
    inbox: Mutex<Inbox>,
    flushed: Condvar,
    stats: AccessLogStats,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Wakes the log thread for a worker.
#[derive(Clone, Debug)]
pub(super) struct Wake(Arc<Shared>);

impl Wake {
    /// An entry was published. `urgent`: the ring is half full, do not wait for the flush interval.
    pub(super) fn written(&self, urgent: bool) {
        // Pairs with the fences of the thread: either it sees the entry, or this sees that it is
        // idle, or that it has not looked since.
        fence(Ordering::SeqCst);
        let shared = &*self.0;
        if shared.idle.load(Ordering::Relaxed) || (urgent && !shared.urgent.load(Ordering::Relaxed))
        {
            shared.idle.store(false, Ordering::Relaxed);
            shared.urgent.store(true, Ordering::Relaxed);
            shared.wake();
        }
    }
}

/// Opens targets and writers: the rest of the process sees the log thread through this.
#[derive(Clone, Debug)]
pub struct Logs {
    shared: Arc<Shared>,
    /// Files are checked for nothing and never opened.
    dry: bool,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)
}

impl Logs {
    fn new(settings: Settings, registry: &Registry) -> Self {
        let shared = Shared {
            settings,
            thread: OnceLock::new(),
            idle: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            inbox: Mutex::default(),
            flushed: Condvar::new(),
            stats: AccessLogStats::new(registry, "access_log."),
        };
        Self {
            shared: Arc::new(shared),
            dry: false,
        }
    }

    /// Logs whose files are never opened and to which nothing is written: to validate
    /// configuration with.
    #[must_use]
    pub fn dry(registry: &Registry) -> Self {
        Self {
            dry: true,
            ..Self::new(Settings::default(), registry)
        }
    }

    /// Logs without a thread: the caller drains them with [`Collector::collect`].
    #[must_use]
    pub fn collected(settings: Settings, registry: &Registry) -> (Self, Collector) {
        let logs = Self::new(settings, registry);
        let collector = Collector::new(Arc::clone(&logs.shared), registry);
        (logs, collector)
    }

    /// A worker's way to write. `seed` is for drawing lots when sampling.
    #[must_use]
    pub fn writer(&self, recorder: Arc<Recorder>, seed: u64) -> LogWriter {
        let (writer, reader) = ring::ring(self.shared.settings.ring_bytes);
        if !self.dry {
            self.shared.inbox().rings.push(reader);
        }
        let wake = Wake(Arc::clone(&self.shared));
        LogWriter::new(writer, wake, recorder, self.shared.stats, seed)
    }

    /// A file, opened for appending and made when it is not there. The same path gives the same
    /// target. `/dev/stdout` and `/dev/stderr` are the process's own, whatever they are.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn file(&self, path: &Path) -> io::Result<LogTarget> {
        match path.to_str() {
            Some("/dev/stdout") => return Ok(self.stdout()),
            Some("/dev/stderr") => return Ok(self.stderr()),
            _ => {}
        }
        let known = |inbox: &Inbox| inbox.files.get(path).and_then(Weak::upgrade);
        if let Some(target) = known(&self.shared.inbox()) {
            return Ok(LogTarget(target));
        }
        if self.dry {
            return Ok(self.add(None, None));
        }
        let file = open(path)?;
        let target = self.add(Some(Destination::File(path.to_owned(), file)), None);
        let mut inbox = self.shared.inbox();
        inbox.files.retain(|_, target| target.strong_count() > 0);
        inbox
            .files
            .insert(path.to_owned(), Arc::downgrade(&target.0));
        Ok(target)
    }

    /// Standard output.
    #[must_use]
    pub fn stdout(&self) -> LogTarget {
        self.add(Some(Destination::Stdout), None)
    }

    /// Standard error.
    #[must_use]
    pub fn stderr(&self) -> LogTarget {
        self.add(Some(Destination::Stderr), None)
    }

    /// Memory, read back with [`LogTarget::take`]: for tests.
    #[must_use]
    pub fn memory(&self) -> LogTarget {
        let memory = Arc::new(Mutex::default());
        let destination = Destination::Memory(Arc::clone(&memory));
        self.add(Some(destination), Some(memory))
    }

    fn add(
        &self,
        destination: Option<Destination>,
        memory: Option<Arc<Mutex<Vec<u8>>>>,
    ) -> LogTarget {
        let retired = Arc::new(AtomicBool::new(false));
        let mut inbox = self.shared.inbox();
        let number = inbox.next;
        inbox.next += 1;
        if let Some(destination) = destination {
            let open = Open {
                destination,
                buffer: Vec::new(),
                retired: Arc::clone(&retired),
            };
            inbox.targets.push((number, open));
        }
        drop(inbox);
        LogTarget(Arc::new(Target {
            number,
            retired,
            memory,
            wake: Wake(Arc::clone(&self.shared)),
        }))
    }

    /// Files are closed and opened again by path, once what waits for them is written.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.shared.wake();
    }

    /// Writes everything that was published before the call, and waits for it. Not for workers.
    pub fn flush(&self) {
        let mut inbox = self.shared.inbox();
        inbox.asked += 1;
        let turn = inbox.asked;
        drop(inbox);
        self.shared.wake();
        let inbox = self.shared.inbox();
        let waited = self.shared.flushed.wait_while(inbox, |inbox| {
            inbox.served < turn && !inbox.ended && self.shared.thread.get().is_some()
        });
        drop(waited);
    }
}

/// The running thread.
#[derive(Debug)]
pub struct LogThread {
    logs: Logs,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Starts it.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(settings: Settings, registry: &Registry) -> io::Result<Self> {
        let (logs, mut collector) = Logs::collected(settings, registry);
        let thread = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || collector.run())?;
        // Before this, nobody has a handle to wake it with.
        let _ = logs.shared.thread.set(thread.thread().clone());
        Ok(Self {
            logs,
            thread: Some(thread),
        })
    }

    /// For everyone else.
    #[must_use]
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    fn end(&mut self) {
        self.logs.shared.stop.store(true, Ordering::Release);
        self.logs.shared.wake();
        if let Some(thread) = self.thread.take() {
            // It ends by itself; a panic there was already reported.
            let _ = thread.join();
        }
    }

    /// Writes what waits, and ends the thread.
    pub fn stop(mut self) {
        self.end();
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.end();
    }
}

/// A target with what waits for it.
#[derive(Debug)]
struct Open {
    destination: Destination,
    buffer: Vec<u8>,
    retired: Arc<AtomicBool>,
}

/// The work of the log thread.
#[derive(Debug)]
pub struct Collector {
    shared: Arc<Shared>,
    recorder: Arc<Recorder>,
    stats: FilesystemStats,
    rings: Vec<ring::Reader>,
    targets: HashMap<u32, Open>,
}

/// A standard stream that takes nothing for so long loses what waits for it.
const STREAM_PATIENCE: Duration = Duration::from_secs(1);

/// Writes all of it; `write` is one attempt.
fn write_patiently(
    mut bytes: &[u8],
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut waited = Duration::ZERO;
    while !bytes.is_empty() {
        match write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares the stream made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock && waited < STREAM_PATIENCE => {
                let step = Duration::from_millis(5);
                thread::sleep(step);
                waited += step;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Open {
    fn write(&mut self) -> io::Result<()> {
        match &mut self.destination {
            Destination::File(_, file) => write_patiently(&self.buffer, |bytes| file.write(bytes)),
            Destination::Stdout => {
                let stream = io::stdout().lock();
                write_patiently(&self.buffer, |bytes| Ok(unistd::write(&stream, bytes)?))
            }
            Destination::Stderr => {
                let stream = io::stderr().lock();
                write_patiently(&self.buffer, |bytes| Ok(unistd::write(&stream, bytes)?))
            }
            Destination::Memory(memory) => {
                let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.extend_from_slice(&self.buffer);
                Ok(())
            }
        }
    }
}

impl Collector {
    fn new(shared: Arc<Shared>, registry: &Registry) -> Self {
        Self {
            shared,
            recorder: registry.recorder(),
            stats: FilesystemStats::new(registry, "filesystem."),
            rings: Vec::new(),
            targets: HashMap::new(),
        }
    }

    /// Takes what is in the rings; writes what is enough for a write, or everything.
    pub fn collect(&mut self, everything: bool) {
        let mut inbox = self.shared.inbox();
        self.rings.append(&mut inbox.rings);
        self.targets.extend(inbox.targets.drain(..));
        let asked = inbox.asked;
        drop(inbox);
        let everything = everything || asked > self.shared.inbox().served;
        // Asked before the rings are drained: a retired target gets no entries after that.
        let retired: Vec<u32> = self
            .targets
            .iter()
            .filter(|(_, open)| open.retired.load(Ordering::Acquire))
            .map(|(number, _)| *number)
            .collect();
        let (recorder, stats, flush_bytes) = (
            &*self.recorder,
            self.stats,
            self.shared.settings.flush_bytes,
        );
        let targets = &mut self.targets;
        for ring in &mut self.rings {
            let entries = ring.drain(|number, (first, second)| {
                let Some(open) = targets.get_mut(&number) else {
                    return;
                };
                // Here too, so that no buffer grows beyond a write and an entry.
                if open.buffer.len() >= flush_bytes {
                    write(open, recorder, stats);
                }
                open.buffer.extend_from_slice(first);
                open.buffer.extend_from_slice(second);
            });
            recorder.add(stats.write_buffered, entries as u64);
        }
        for open in targets.values_mut() {
            if open.buffer.len() >= flush_bytes || (everything && !open.buffer.is_empty()) {
                write(open, recorder, stats);
            }
        }
        for number in retired {
            if let Some(mut open) = targets.remove(&number) {
                write(&mut open, recorder, stats);
            }
        }
        self.rings.retain(|ring| !ring.is_finished());
        recorder.set(stats.write_total_buffered, self.buffered() as i64);
        if asked > 0 {
            let mut inbox = self.shared.inbox();
            inbox.served = inbox.served.max(asked);
            self.shared.flushed.notify_all();
        }
    }

    fn buffered(&self) -> usize {
        self.targets.values().map(|open| open.buffer.len()).sum()
    }

    fn reopen(&mut self) {
        for target in self.targets.values_mut() {
            write(target, &self.recorder, self.stats);
            if let Destination::File(path, file) = &mut target.destination {
                match open(path) {
                    Ok(new) => *file = new,
                    Err(_) => self.recorder.inc(self.stats.reopen_failed),
                }
            }
        }
    }

    fn run(&mut self) {
        let interval = self.shared.settings.flush_interval;
        let mut due: Option<Instant> = None;
        loop {
            let stop = self.shared.stop.load(Ordering::Acquire);
            let reopen = self.shared.reopen.swap(false, Ordering::AcqRel);
            let late = due.is_some_and(|due| due <= Instant::now());
            self.shared.urgent.store(false, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            // What is still in the rings goes to the new files.
            if reopen {
                self.reopen();
            }
            self.collect(stop || late);
            if late {
                self.recorder.inc(self.stats.flushed_by_timer);
            }
            if stop {
                break;
            }
            if self.buffered() > 0 {
                let at = match due {
                    Some(at) if !late => at,
                    _ => Instant::now() + interval,
                };
                due = Some(at);
                thread::park_timeout(at.saturating_duration_since(Instant::now()));
                continue;
            }
            due = None;
            self.shared.idle.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.rings.iter().all(ring::Reader::is_empty) && !self.has_mail() {
                thread::park();
            }
            self.shared.idle.store(false, Ordering::Relaxed);
        }
        let mut inbox = self.shared.inbox();
        inbox.ended = true;
        drop(inbox);
        self.shared.flushed.notify_all();
    }

    fn has_mail(&self) -> bool {
        let inbox = self.shared.inbox();
        !inbox.rings.is_empty() || !inbox.targets.is_empty() || inbox.asked > inbox.served
    }
}

fn write(open: &mut Open, recorder: &Recorder, stats: FilesystemStats) {
    if open.buffer.is_empty() {
        return;
    }
    match open.write() {
        Ok(()) => recorder.inc(stats.write_completed),
        Err(_) => recorder.inc(stats.write_failed),
    }
    open.buffer.clear();
    // A burst must not pin memory.
    open.buffer.shrink_to(2 * 64 * 1024);
}
