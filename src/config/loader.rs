//! Reads a bootstrap: files and command-line text to one `Bootstrap` message.
//!
//! Blocks on files; must only run at start and on the control thread.

use std::fmt;
use std::path::{Path, PathBuf};

use moorgate_protos::envoy::config::bootstrap::v3::Bootstrap;
use moorgate_protos::schema::Schema;
use moorgate_protos::{Message, Name};

use super::error::{ConfigError, FieldPath};
use super::transcode::{Transcoder, UnknownFields};
use super::value::Value;
use super::{json, supported, yaml};

/// What stands for a file in errors about `--config-yaml`.
const YAML_OPTION: &str = "--config-yaml";

/// Where a bootstrap comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `--config-path`: YAML or JSON.
    pub path: Option<PathBuf>,
    /// `--config-yaml`: YAML text, merged over the file. JSON is YAML, too.
    pub yaml: Option<String>,
}

/// How strict reading is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParseOptions {
    /// `--allow-unknown-static-fields`: fields that Envoy's API does not have are skipped.
    pub allow_unknown_static_fields: bool,
}

/// A bootstrap, and what of it has no effect.
#[derive(Clone, PartialEq)]
pub struct ParsedBootstrap {
    /// The message; it has no field set that is not supported or listed in `ignored`.
    pub bootstrap: Bootstrap,
    /// Fields that are set and accepted without effect, as `message.field`, each once.
    pub ignored: Vec<String>,
    /// Paths of the fields that were skipped because Envoy's API does not have them.
    pub unknown: Vec<String>,
    /// Where it was read from, for errors about it.
    pub file: String,
}

/// Reads `source`.
///
/// Where it has a file and text, the text is merged over the file as protobuf's `MergeFrom` does:
/// single fields are replaced, messages merged, lists appended.
///
/// # Errors
/// The first thing that cannot be read, is not what the API says, or is not supported.
pub fn parse_bootstrap(
    source: &Source,
    options: &ParseOptions,
) -> Result<ParsedBootstrap, ConfigError> {
    let mut texts = Vec::new();
    if let Some(path) = &source.path {
        texts.push((path.display().to_string(), read(path)?, is_json(path)));
    }
    if let Some(yaml) = &source.yaml {
        texts.push((YAML_OPTION.to_owned(), yaml.clone(), Some(false)));
    }
    parse(&texts, options)
}

/// Reads a bootstrap that is in no file; errors name `file`. Text whose format is not given is JSON
/// if it starts with a brace.
///
/// # Errors
/// Those of [`parse_bootstrap`].
pub fn parse_bootstrap_text(
    file: &str,
    text: &str,
    json: Option<bool>,
    options: &ParseOptions,
) -> Result<ParsedBootstrap, ConfigError> {
    parse(&[(file.to_owned(), text.to_owned(), json)], options)
}

/// Files (or what stands for them), their texts, and whether they are JSON, as far as that is known.
fn parse(
    texts: &[(String, String, Option<bool>)],
    options: &ParseOptions,
) -> Result<ParsedBootstrap, ConfigError> {
    let schema = Schema::open();
    let unknown = if options.allow_unknown_static_fields {
        UnknownFields::Skip(Vec::new())
    } else {
        UnknownFields::Refuse
    };
    let mut transcoder = Transcoder::new(&schema, unknown);
    let mut merged = Vec::new();
    let mut ignored = Vec::new();
    for (file, text, json) in texts {
        let root = FieldPath::root(file);
        let document = parse_text(text, *json).map_err(|reason| root.error(reason))?;
        let mut bytes = Vec::new();
        transcoder.message(&Bootstrap::full_name(), &document, &root, &mut bytes)?;
        ignored.extend(supported::check(
            &schema,
            &Bootstrap::full_name(),
            &bytes,
            &root,
        )?);
        // One encoding after the other decodes as the merge of both.
        merged.extend_from_slice(&bytes);
    }
    if texts.is_empty() {
        let nothing = "no configuration: neither --config-path nor --config-yaml is given";
        return Err(FieldPath::root("command line").error(nothing));
    }
    let files: Vec<_> = texts.iter().map(|(file, ..)| file.as_str()).collect();
    let file = files.join(" and ");
    let bootstrap = Bootstrap::decode(merged.as_slice())
        .map_err(|e| FieldPath::root(&file).error(format!("cannot be decoded: {e}")))?;
    let unknown = match transcoder.unknown {
        UnknownFields::Skip(skipped) => skipped,
        UnknownFields::Refuse => Vec::new(),
    };
    Ok(ParsedBootstrap {
        bootstrap,
        ignored,
        unknown,
        file,
    })
}

impl fmt::Debug for ParsedBootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParsedBootstrap")
            .field("ignored", &self.ignored)
            .field("unknown", &self.unknown)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let file = path.display().to_string();
    let error = |reason: String| FieldPath::root(&file).error(reason);
    let bytes = std::fs::read(path).map_err(|e| error(format!("cannot be read: {e}")))?;
    String::from_utf8(bytes).map_err(|_| error("is not UTF-8 text".to_owned()))
}

/// What the extension says about the format, if anything.
fn is_json(path: &Path) -> Option<bool> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "json" => Some(true),
        "yaml" | "yml" => Some(false),
        _ => None,
    }
}

/// Text whose format is not given is JSON if it starts with a brace.
fn parse_text(text: &str, json: Option<bool>) -> Result<Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if json.unwrap_or_else(|| text.trim_start().starts_with('{')) {
        json::parse(text)
    } else {
        yaml::parse(text)
    }
}
