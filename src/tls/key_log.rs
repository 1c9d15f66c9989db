//! Secrets of sessions in a file, so that a capture of them can be read: for debugging alone (Envoy's
//! `key_log`; the format is that of NSS).
//!
//! Lines go through a bounded queue to a thread of the file's own, so that no worker waits for a disk; when
//! the queue is full a line is lost, which the thread says in the file. Who can read the file can read the
//! traffic: it is made for its owner alone.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use zeroize::Zeroizing;

use super::x509::hex;

/// Lines that wait for the file.
const WAITING: usize = 1024;

type Filter = Box<dyn Fn(Option<IpAddr>, Option<IpAddr>) -> bool + Send + Sync>;

/// A key log and the connections that it is for.
pub struct KeyLog {
    pub(super) lines: Arc<Lines>,
    filter: Filter,
}

impl fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyLog")
    }
}

/// What `rustls` writes to.
#[derive(Debug)]
pub(super) struct Lines {
    queue: SyncSender<Zeroizing<String>>,
    lost: Arc<AtomicU64>,
}

impl KeyLog {
    /// Opens a file to append to. `filter` gets a connection's local and remote address and tells whether it
    /// is logged.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread not be started.
    pub fn open(
        path: &Path,
        filter: impl Fn(Option<IpAddr>, Option<IpAddr>) -> bool + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let (queue, lines) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        std::thread::Builder::new()
            .name("key log".to_owned())
            .spawn(move || write(file, &lines, &counted))?;
        Ok(Self {
            lines: Arc::new(Lines { queue, lost }),
            filter: Box::new(filter),
        })
    }

    /// Whether the connection between these is logged.
    #[must_use]
    pub fn wants(&self, local: Option<IpAddr>, remote: Option<IpAddr>) -> bool {
        (self.filter)(local, remote)
    }
}

/// Until nobody is left who writes.
fn write(mut file: File, lines: &Receiver<Zeroizing<String>>, lost: &AtomicU64) {
    for line in lines {
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            // Whoever reads the file skips what begins so.
            let _ = writeln!(file, "# {lost} lines lost");
        }
        // A disk that is full is no reason to end.
        let _ = file.write_all(line.as_bytes());
    }
}

impl rustls::KeyLog for Lines {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let secret = Zeroizing::new(hex(secret));
        let line = format!("{label} {} {}\n", hex(client_random), *secret);
        if self.queue.try_send(Zeroizing::new(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
