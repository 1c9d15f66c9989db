//! Secrets of sessions in a file, so that a capture of them can be read: for debugging alone (Envoy's
//! `key_log`; the format is that of NSS).
//!
//! Lines go through a bounded queue to a thread of the file's own, so that no worker waits for a disk; when
//! the queue is full a line is lost, which the thread says in the file. Who can read the file can read the
//! traffic: it is made for its owner alone.

use std::fmt;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nix::fcntl::OFlag;
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
        let file = Self::file(path, true)?;
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

    /// Whether [`KeyLog::open`] would do, as far as that can be said with nothing changed.
    ///
    /// # Errors
    /// The file cannot be opened, or there is no directory to make it in.
    pub fn check(path: &Path) -> io::Result<()> {
        match Self::file(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => {
                    std::fs::read_dir(parent).map(drop)
                }
                _ => Ok(()),
            },
            done => done.map(drop),
        }
    }

    /// No link is followed, nor is a pipe's reader waited for: what the file becomes is for its owner alone,
    /// also where it was there before. `make`: it may be made, and changed.
    fn file(path: &Path, make: bool) -> io::Result<File> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = OpenOptions::new()
            .create(make)
            .append(true)
            .mode(0o600)
            .custom_flags(flags.bits())
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        if make && metadata.mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(file)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_for_its_owner_alone() {
        let root = std::env::temp_dir().join(format!("moorgate-keys-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("a directory");
        let (file, link) = (root.join("keys"), root.join("link"));
        KeyLog::check(&file).expect("it can be made");
        assert!(!file.exists(), "a check makes nothing");
        assert!(KeyLog::check(&root.join("none/keys")).is_err());
        assert!(KeyLog::open(Path::new("/dev/null"), |_, _| true).is_err());
        let mode = || file.metadata().expect("a file").mode() & 0o777;
        std::fs::write(&file, "").expect("a file");
        let wide = Permissions::from_mode(0o644);
        std::fs::set_permissions(&file, wide).expect("its mode");
        KeyLog::check(&file).expect("it can be opened");
        assert_eq!(mode(), 0o644);
        KeyLog::open(&file, |_, _| true).expect("a log");
        assert_eq!(mode(), 0o600);
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert!(KeyLog::open(&link, |_, _| true).is_err());
        assert!(KeyLog::check(&link).is_err());
        std::fs::remove_dir_all(&root).expect("nothing left");
    }
}
