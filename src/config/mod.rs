//! From YAML, JSON or discovery responses to Envoy v3 messages, and from them to a snapshot.
//!
//! Every rejection is a [`ConfigError`] that names file, field and reason. What the configuration
//! says and Moorgate does not do is refused, or is on the list of ignored fields; it must never be
//! accepted silently. Runs at start and on the control thread, never on a worker.

mod base64;
pub mod build;
mod dump;
mod error;
mod json;
mod loader;
mod support;
mod supported;
mod transcode;
mod unpack;
mod value;
mod well_known;
mod yaml;

#[cfg(test)]
mod tests;

pub use dump::{JsonWriter, to_json};
pub use error::{ConfigError, FieldPath};
pub use loader::{ParseOptions, ParsedBootstrap, Source, parse_bootstrap, parse_bootstrap_text};
pub use supported::check;
pub use unpack::{packed_type, unpack};
