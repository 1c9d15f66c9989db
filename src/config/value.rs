//! A parsed YAML or JSON document, before anything is known about its meaning.

use std::collections::HashSet;

/// How deep lists and maps may nest in a document. Keeps every walk over a document off the end of
/// the stack.
pub(crate) const MAX_DEPTH: usize = 200;

/// One node of a document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// As written, because 64-bit integers and doubles must both survive.
    Number(String),
    String(String),
    List(Vec<Value>),
    /// In the order of the document; keys differ.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// The value of `key` if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries
                .iter()
                .find(|(k, _)| k == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// What this is, in words that fit behind "found".
    pub(crate) fn describe(&self) -> String {
        /// Long strings (certificates, bodies) are cut; an error message is one line.
        const SHOWN: usize = 60;
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(text) => text.clone(),
            Self::String(text) if text.chars().count() <= SHOWN => format!("the string {text:?}"),
            Self::String(text) => {
                let start: String = text.chars().take(SHOWN).collect();
                format!("the string {start:?}…")
            }
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a map".to_owned(),
        }
    }
}

/// The first key that stands twice among `entries`.
pub(crate) fn duplicate_key(entries: &[(String, Value)]) -> Option<&str> {
    let mut seen = HashSet::with_capacity(entries.len());
    entries
        .iter()
        .map(|(key, _)| key.as_str())
        .find(|key| !seen.insert(*key))
}
