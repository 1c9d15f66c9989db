//! The application log: what the process says about itself.
//!
//! Messages come through `tracing`; their target is a component's name or a module. A message is
//! formatted by the thread that has it and written by another: a worker never waits for a terminal
//! or a disk, and what finds no room is dropped and counted.

pub mod level;
pub mod pattern;

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

use level::{Level, Levels};
use pattern::{Line, Pattern};

/// Lines that may wait to be written.
const WAITING: usize = 4096;

enum Message {
    Line(String),
    /// Look at the notes.
    Reopen,
    /// Everything before it is to be written, then this is dropped.
    Flush(SyncSender<()>),
}

#[derive(Debug)]
struct Shared {
    levels: Levels,
    pattern: Pattern,
    escaped: bool,
    sender: SyncSender<Message>,
    notes: Arc<Notes>,
}

/// What the writing thread is told beside its queue, which may be full.
#[derive(Debug, Default)]
struct Notes {
    dropped: AtomicU64,
    reopen: AtomicBool,
}

/// The log of this process.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

/// How to log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Level of all components.
    pub level: Level,
    /// Levels of some.
    pub components: level::ComponentLevels,
    /// File; standard error when `None`.
    pub path: Option<PathBuf>,
    /// Pattern of lines.
    pub pattern: Pattern,
    /// Line breaks in messages are escaped.
    pub escaped: bool,
}

impl Settings {
    /// Those of the command line.
    ///
    /// # Errors
    /// The pattern is wrong.
    pub fn new(options: &super::cli::Options) -> Result<Self, String> {
        Ok(Self {
            level: options.log_level,
            components: options.component_log_level.clone(),
            path: options.log_path.clone(),
            pattern: Pattern::parse(&options.log_format)?,
            escaped: options.log_format_escaped,
        })
    }
}

/// Where lines go.
enum Sink {
    Stderr,
    File(PathBuf, File),
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) {
        // There is nobody left to tell that the log cannot be written.
        let _ = match self {
            Self::Stderr => io::stderr().lock().write_all(bytes),
            Self::File(_, file) => file.write_all(bytes),
        };
    }

    fn reopen(&mut self) {
        if let Self::File(path, file) = self
            && let Ok(new) = open(path)
        {
            *file = new;
        }
    }
}

/// The writing thread: ends with the last [`Log`].
fn write_lines(receiver: &Receiver<Message>, mut sink: Sink, notes: &Notes) {
    let mut lines = String::new();
    while let Ok(first) = receiver.recv() {
        let mut flushed = None;
        if notes.reopen.swap(false, Ordering::Relaxed) {
            sink.reopen();
        }
        // Lines that came meanwhile are written together, up to a bound.
        for message in std::iter::once(first).chain(receiver.try_iter().take(256)) {
            match message {
                Message::Line(line) => {
                    lines.push_str(&line);
                    lines.push('\n');
                }
                Message::Reopen => {}
                Message::Flush(done) => flushed = Some(done),
            }
        }
        let lost = notes.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(lines, "({lost} log lines were dropped)");
        }
        sink.write(lines.as_bytes());
        lines.clear();
        lines.shrink_to(64 * 1024);
        drop(flushed);
    }
}

impl Log {
    /// Opens the log and starts the thread that writes it.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread not be made.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let sink = match settings.path {
            None => Sink::Stderr,
            Some(path) => {
                let file = open(&path)?;
                Sink::File(path, file)
            }
        };
        let (sender, receiver) = sync_channel(WAITING);
        let notes = Arc::new(Notes::default());
        thread::Builder::new().name("app-log".to_owned()).spawn({
            let notes = Arc::clone(&notes);
            move || write_lines(&receiver, sink, &notes)
        })?;
        let levels = Levels::new(settings.level);
        for (component, level) in &settings.components.0 {
            if let Some(component) = level::by_name(component) {
                levels.set(component, *level);
            }
        }
        Ok(Self {
            shared: Arc::new(Shared {
                levels,
                pattern: settings.pattern,
                escaped: settings.escaped,
                sender,
                notes,
            }),
        })
    }

    /// Makes this the log of the process. Only the first call of a process has an effect; false for
    /// later ones.
    pub fn install(&self) -> bool {
        tracing::subscriber::set_global_default(self.clone()).is_ok()
    }

    /// Levels by component.
    #[must_use]
    pub fn levels(&self) -> Vec<(&'static str, Level)> {
        self.shared.levels.all()
    }

    /// Sets the level of all components.
    pub fn set_all(&self, level: Level) {
        self.shared.levels.set_all(level);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Sets the level of a component; false when there is none of that name.
    pub fn set(&self, component: &str, level: Level) -> bool {
        let Some(component) = level::by_name(component) else {
            return false;
        };
        self.shared.levels.set(component, level);
        tracing::callsite::rebuild_interest_cache();
        true
    }

    /// The file is closed and opened again by path.
    pub fn reopen(&self) {
        self.shared.notes.reopen.store(true, Ordering::Relaxed);
        // When the queue is full, the thread has something to do and will see the note.
        let _ = self.shared.sender.try_send(Message::Reopen);
    }

    /// Waits until what was logged before is written, at most for a second. For the end of the
    /// process.
    pub fn flush(&self) {
        let (sender, receiver) = sync_channel(0);
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut message = Message::Flush(sender);
        while let Err(TrySendError::Full(back)) = self.shared.sender.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            thread::sleep(Duration::from_millis(1));
        }
        // The thread drops its end when it is done.
        let _ = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    fn is_enabled(&self, metadata: &Metadata<'_>) -> bool {
        let component = level::of_target(metadata.target());
        metadata.is_event() && Level::of(*metadata.level()) >= self.shared.levels.get(component)
    }

    fn line(&self, line: &Line<'_>) {
        let text = self.shared.pattern.format(line);
        if let Err(TrySendError::Full(_)) = self.shared.sender.try_send(Message::Line(text)) {
            self.shared.notes.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Puts a message and its fields together.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String never fails.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.is_enabled(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.is_enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        use tracing::level_filters::LevelFilter;
        Some(match self.shared.levels.lowest() {
            Level::Trace => LevelFilter::TRACE,
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warning => LevelFilter::WARN,
            Level::Error => LevelFilter::ERROR,
            Level::Critical | Level::Off => LevelFilter::OFF,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut text = Text::default();
        event.record(&mut text);
        text.message.push_str(&text.fields);
        if self.shared.escaped {
            text.message = pattern::escape(&text.message);
        }
        let since_epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.line(&Line {
            time_us: u64::try_from(since_epoch.as_micros()).unwrap_or(0),
            level: Level::of(*metadata.level()),
            component: level::name(level::of_target(metadata.target())),
            file: metadata.file().unwrap_or("-"),
            line: metadata.line().unwrap_or(0),
            thread: nix::unistd::gettid().as_raw(),
            process: std::process::id(),
            message: &text.message,
        });
    }

    // Spans are not used.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn messages_reach_the_file_by_level_and_component() {
        let path = std::env::temp_dir().join(format!("moorgate-app-log-{}", std::process::id()));
        let log = Log::start(Settings {
            level: Level::Warning,
            components: level::ComponentLevels::parse("dns:debug").unwrap(),
            path: Some(path.clone()),
            pattern: Pattern::parse("[%l][%n] %v").unwrap(),
            escaped: true,
        })
        .unwrap();
        tracing::subscriber::with_default(log.clone(), || {
            tracing::info!("not said");
            tracing::warn!(host = "a\nb", "said {}", 1);
            tracing::debug!(target: "dns", "looked up");
            tracing::debug!(target: "moorgate::cluster::dns", "looked up too");
            tracing::trace!(target: "dns", "not this");
            log.set_all(Level::Off);
            tracing::error!("nor this");
            assert!(log.set("upstream", Level::Error));
            assert!(!log.set("nosuch", Level::Error));
            tracing::error!(target: "upstream", "but this");
        });
        log.flush();
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(
            text,
            "[warning][main] said 1 host=\"a\\\\nb\"\n[debug][dns] looked up\n\
             [debug][dns] looked up too\n[error][upstream] but this\n"
        );
        assert!(log.levels().contains(&("upstream", Level::Error)));
    }

    #[test]
    fn a_file_is_reopened() {
        let path = std::env::temp_dir().join(format!("moorgate-reopen-{}", std::process::id()));
        let log = Log::start(Settings {
            level: Level::Info,
            components: level::ComponentLevels::default(),
            path: Some(path.clone()),
            pattern: Pattern::parse("%v").unwrap(),
            escaped: false,
        })
        .unwrap();
        let say = |message: &str| {
            log.line(&Line {
                time_us: 0,
                level: Level::Info,
                component: "main",
                file: "",
                line: 0,
                thread: 0,
                process: 0,
                message,
            });
        };
        say("one");
        log.flush();
        fs::remove_file(&path).unwrap();
        log.reopen();
        say("two");
        log.flush();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let settings = Settings {
            level: Level::Info,
            components: level::ComponentLevels::default(),
            path: Some("/no/such/directory/log".into()),
            pattern: Pattern::parse("%v").unwrap(),
            escaped: false,
        };
        assert!(Log::start(settings).is_err());
    }
}
