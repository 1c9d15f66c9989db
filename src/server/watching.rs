//! Directories that are watched for new certificates, on the control thread.
//!
//! A move into a watched directory, or within it, is what counts, as in Envoy: whoever writes a file in
//! place is seen half done, whoever moves one is not. The contexts that belong to the directory are then
//! made anew from their files; those that are no good are logged and counted, and change nothing.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use mio::Interest;
use mio::unix::SourceFd;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::control::{Cx, Readiness, Source};
use super::process::Process;
use crate::config::build::{Checked, Watch};

/// A directory that went away is looked for again after so many ms.
const AGAIN_MS: u64 = 2_000;

/// Watches of the configuration that is in force.
#[derive(Debug, Default)]
pub(super) struct Watches {
    list: Vec<Watch>,
    /// Counts up whenever the list is another.
    revision: u64,
}

impl Watches {
    /// The watches of a new configuration.
    pub(super) fn set(&mut self, list: Vec<Watch>) {
        self.list = list;
        self.revision += 1;
    }
}

impl Process {
    /// Looks at the files of all contexts that watch one of these directories.
    fn check_watches(&mut self, concerns: impl Fn(&PathBuf) -> bool) {
        let recorder = &self.recorder;
        self.watches.list.retain_mut(|watch| {
            if !watch.directories().iter().any(&concerns) {
                return true;
            }
            let (updated, rejected) = watch.counters();
            match watch.check() {
                Checked::Same => {}
                Checked::Updated => {
                    tracing::info!("{}: new certificates are in use", watch.place());
                    recorder.inc(updated);
                }
                Checked::Rejected(error) => {
                    tracing::error!("certificates not changed: {error}");
                    recorder.inc(rejected);
                }
                Checked::Gone => return false,
            }
            true
        });
    }
}

/// Tells the watches of the process what happens in their directories.
#[derive(Debug, Default)]
pub(super) struct Directories {
    inotify: Option<Inotify>,
    /// One directory may be known by several names, which share a descriptor.
    watched: HashMap<WatchDescriptor, Vec<PathBuf>>,
    missing: Vec<PathBuf>,
    revision: u64,
}

impl Directories {
    /// Begins to watch what the configuration names now.
    fn restart(&mut self, process: &mut Process, cx: &mut Cx<'_>) {
        if let Some(inotify) = self.inotify.take() {
            cx.deregister(&mut SourceFd(&inotify.as_fd().as_raw_fd()));
        }
        self.watched.clear();
        self.missing.clear();
        let watches = process.watches.list.iter();
        let mut directories: Vec<_> = watches
            .flat_map(|watch| watch.directories().iter().cloned())
            .collect();
        directories.sort();
        directories.dedup();
        if directories.is_empty() {
            return;
        }
        match Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK) {
            Ok(inotify) => self.inotify = Some(inotify),
            Err(error) => {
                tracing::error!("directories cannot be watched: {error}");
                return;
            }
        }
        for directory in directories {
            self.watch(directory);
        }
        if let Some(inotify) = &self.inotify {
            let fd = inotify.as_fd().as_raw_fd();
            if let Err(error) = cx.register(&mut SourceFd(&fd), 0, Interest::READABLE) {
                tracing::error!("directories cannot be watched: {error}");
            }
        }
        self.look_again_later(cx);
        // What changed after it was read and before it was watched.
        process.check_watches(|_| true);
    }

    fn watch(&mut self, directory: PathBuf) {
        let Some(inotify) = &self.inotify else { return };
        let what = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        match inotify.add_watch(&directory, what) {
            Ok(number) => {
                self.watched.entry(number).or_default().push(directory);
            }
            Err(error) => {
                tracing::warn!("{} cannot be watched: {error}", directory.display());
                self.missing.push(directory);
            }
        }
    }

    /// What happened: the directories that something was moved into, and whether that may be all of them.
    fn read(&mut self) -> (Vec<PathBuf>, bool) {
        let mut touched = Vec::new();
        let mut all = false;
        let gone = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_IGNORED;
        while let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    all = true;
                }
                if event.mask.intersects(gone) {
                    // What is known no more was seen to go before: each of these may follow another.
                    if let Some(directories) = self.watched.remove(&event.wd) {
                        // One that was moved is still watched, under a name that nobody gave.
                        if let Some(inotify) = &self.inotify {
                            let _ = inotify.rm_watch(event.wd);
                        }
                        self.missing.extend(directories);
                    }
                } else if let Some(directories) = self.watched.get(&event.wd) {
                    touched.extend_from_slice(directories);
                }
            }
        }
        (touched, all)
    }

    fn look_again_later(&self, cx: &mut Cx<'_>) {
        if !self.missing.is_empty() {
            cx.set_timer(0, cx.now() + AGAIN_MS);
        }
    }
}

impl Source<Process> for Directories {
    fn name(&self) -> &'static str {
        "watched directories"
    }

    fn ready(&mut self, process: &mut Process, cx: &mut Cx<'_>, _: usize, _: Readiness) {
        let (touched, all) = self.read();
        self.look_again_later(cx);
        if all || !touched.is_empty() {
            process.check_watches(|directory| all || touched.contains(directory));
        }
    }

    fn timer(&mut self, process: &mut Process, cx: &mut Cx<'_>, _: u64) {
        let missing = std::mem::take(&mut self.missing);
        for directory in missing {
            // Quietly: it was said when it went.
            if directory.is_dir() {
                self.watch(directory.clone());
                process.check_watches(|other| *other == directory);
            } else {
                self.missing.push(directory);
            }
        }
        self.look_again_later(cx);
    }

    fn turn(&mut self, process: &mut Process, cx: &mut Cx<'_>) {
        if self.revision != process.watches.revision {
            self.revision = process.watches.revision;
            self.restart(process, cx);
        }
    }

    fn start(&mut self, process: &mut Process, cx: &mut Cx<'_>) -> io::Result<()> {
        self.turn(process, cx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_directory_is_told() {
        let root = std::env::temp_dir().join(format!("moorgate-watching-{}", std::process::id()));
        let (directory, link) = (root.join("directory"), root.join("link"));
        std::fs::create_dir_all(&directory).expect("a directory");
        std::os::unix::fs::symlink(&directory, &link).expect("a link");
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let mut directories = Directories {
            inotify: Some(Inotify::init(flags).expect("inotify")),
            ..Directories::default()
        };
        directories.watch(directory.clone());
        directories.watch(link.clone());
        let both = vec![directory.clone(), link];
        std::fs::write(root.join("new"), "").expect("a file");
        std::fs::rename(root.join("new"), directory.join("file")).expect("a move");
        assert_eq!(directories.read(), (both.clone(), false));
        // A watch that ended without its directory's end, as when a file system goes.
        let number = *directories.watched.keys().next().expect("a watch");
        let inotify = directories.inotify.as_ref().expect("inotify");
        inotify.rm_watch(number).expect("no watch");
        assert_eq!(directories.read(), (Vec::new(), false));
        assert_eq!(directories.missing, both);
        std::fs::remove_dir_all(&root).expect("nothing left");
    }
}
