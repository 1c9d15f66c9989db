//! Files of TLS contexts that are read again when something is moved into a directory
//! (`watched_directory`).
//!
//! A [`Watch`] knows its directories, and how to make a context anew from the message it was made from. It
//! opens no descriptor and has no thread: whoever watches the directories calls [`Watch::check`]. It holds
//! no context alive: where the configuration it belongs to is gone, it says so.

use std::path::PathBuf;
use std::sync::Arc;

use moorgate_protos::envoy::config::core::v3::data_source::Specifier;
use moorgate_protos::envoy::config::core::v3::{DataSource, WatchedDirectory};
use moorgate_protos::envoy::extensions::transport_sockets::tls::v3::CommonTlsContext;
use moorgate_protos::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;

use super::{Outcome, required};
use crate::config::{ConfigError, FieldPath};
use crate::telemetry::stats::{Counter, TlsStats};
use crate::tls::{Live, fingerprint};

/// What became of a look at the files.
#[derive(Debug, PartialEq, Eq)]
pub enum Checked {
    /// They are as they were.
    Same,
    /// New connections are made with what is in them now.
    Updated,
    /// They are no good, and what was in them before stays.
    Rejected(ConfigError),
    /// Nobody uses the context any more.
    Gone,
}

/// The files of one context, and the directories that tell of changes.
pub struct Watch {
    sources: Sources,
    place: String,
    stats: TlsStats,
    again: Box<dyn Fn() -> Option<Outcome<()>> + Send>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({})", self.place)
    }
}

impl Watch {
    /// A watch of what `live` was made from; `make` makes it anew.
    pub(super) fn new<O, T>(
        sources: Sources,
        stats: TlsStats,
        owner: &Arc<O>,
        live: fn(&O) -> &Live<T>,
        path: &FieldPath<'_>,
        make: impl Fn(&FieldPath<'_>) -> Outcome<T> + Send + 'static,
    ) -> Self
    where
        O: Send + Sync + 'static,
        T: 'static,
    {
        let (file, place) = (path.file().to_owned(), path.to_string());
        let owner = Arc::downgrade(owner);
        Self {
            sources,
            place: place.clone(),
            stats,
            again: Box::new(move || {
                let owner = owner.upgrade()?;
                let root = FieldPath::root(&file);
                let made = make(&root.field(&place));
                Some(made.map(|next| live(&owner).set(next)))
            }),
        }
    }

    /// Directories to watch.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.sources.directories
    }

    /// Where in the configuration the context stands.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Counters of contexts that were taken, and of those that were not.
    #[must_use]
    pub fn counters(&self) -> (Counter, Counter) {
        (
            self.stats.context_updated,
            self.stats.context_update_rejected,
        )
    }

    /// Looks at the files, and takes what is new in them.
    pub fn check(&mut self) -> Checked {
        // Before they are read: what changes in between is seen by the next look.
        let seen = self.sources.look();
        if seen == self.sources.seen {
            return Checked::Same;
        }
        match (self.again)() {
            None => Checked::Gone,
            Some(Ok(())) => {
                self.sources.seen = seen;
                Checked::Updated
            }
            Some(Err(error)) => Checked::Rejected(error),
        }
    }
}

/// The files of a context, what was in them, and the directories that are watched for them.
#[derive(Debug)]
pub(super) struct Sources {
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
    seen: [u8; 32],
}

impl Sources {
    /// `None` where no directory is watched. To be asked before the files are read.
    pub(super) fn of(common: &CommonTlsContext, path: &FieldPath<'_>) -> Outcome<Option<Self>> {
        let mut sources = Self {
            directories: Vec::new(),
            files: Vec::new(),
            seen: [0; 32],
        };
        let certificates = path.field("tls_certificates");
        for (index, certificate) in common.tls_certificates.iter().enumerate() {
            sources.directory(
                certificate.watched_directory.as_ref(),
                &certificates.index(index),
            )?;
            sources.file(certificate.certificate_chain.as_ref());
            sources.file(certificate.private_key.as_ref());
            sources.file(certificate.ocsp_staple.as_ref());
        }
        if let Some(ValidationContextType::ValidationContext(validation)) =
            &common.validation_context_type
        {
            sources.directory(
                validation.watched_directory.as_ref(),
                &path.field("validation_context"),
            )?;
            sources.file(validation.trusted_ca.as_ref());
            sources.file(validation.crl.as_ref());
        }
        if sources.directories.is_empty() {
            return Ok(None);
        }
        sources.seen = sources.look();
        Ok(Some(sources))
    }

    fn directory(
        &mut self,
        watched: Option<&WatchedDirectory>,
        path: &FieldPath<'_>,
    ) -> Outcome<()> {
        let Some(watched) = watched else {
            return Ok(());
        };
        let path = path.field("watched_directory");
        let path = path.field("path");
        let directory = PathBuf::from(required(&watched.path, &path)?);
        if !directory.is_dir() {
            return Err(path.error(format!("'{}' is no directory", watched.path)));
        }
        if !self.directories.contains(&directory) {
            self.directories.push(directory);
        }
        Ok(())
    }

    fn file(&mut self, source: Option<&DataSource>) {
        if let Some(Specifier::Filename(file)) = source.and_then(|source| source.specifier.as_ref())
        {
            self.files.push(PathBuf::from(file));
        }
    }

    fn look(&self) -> [u8; 32] {
        let contents: Vec<_> = self
            .files
            .iter()
            .map(|file| zeroize::Zeroizing::new(std::fs::read(file).unwrap_or_default()))
            .collect();
        fingerprint(contents.iter().map(|bytes| bytes.as_slice()))
    }
}
