//! Conditions on one text: Envoy's `StringMatcher` and expressions.
//!
//! Compiled when the table is built; matching never allocates.

use regex::bytes::Regex;

use super::error::BuildError;

/// An expression that has to match a whole text.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// [`BuildError::Regex`] when it does not compile.
    pub fn new(pattern: &str) -> Result<Self, BuildError> {
        // Compiled alone first: `a)|(b` would otherwise become valid inside the group.
        compile(pattern)?;
        compile(&format!(r"\A(?:{pattern})\z")).map(Self)
    }

    /// The whole text matches.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }
}

/// Compiles an expression with the limits that all of them have.
pub(super) fn compile(pattern: &str) -> Result<Regex, BuildError> {
    Regex::new(pattern).map_err(|error| BuildError::Regex {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    })
}

/// Envoy's `StringMatcher`.
#[derive(Clone, Debug)]
pub enum StringMatch {
    Exact { text: Vec<u8>, ignore_case: bool },
    Prefix { text: Vec<u8>, ignore_case: bool },
    Suffix { text: Vec<u8>, ignore_case: bool },
    Contains { text: Vec<u8>, ignore_case: bool },
    Regex(Pattern),
}

impl StringMatch {
    /// The value fulfils the condition.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact { text, ignore_case } => equal(value, text, *ignore_case),
            Self::Prefix { text, ignore_case } => starts_with(value, text, *ignore_case),
            Self::Suffix { text, ignore_case } => value
                .len()
                .checked_sub(text.len())
                .is_some_and(|start| equal(&value[start..], text, *ignore_case)),
            Self::Contains { text, ignore_case } => {
                text.is_empty()
                    || value
                        .windows(text.len())
                        .any(|window| equal(window, text, *ignore_case))
            }
            Self::Regex(pattern) => pattern.matches(value),
        }
    }
}

pub(super) fn equal(value: &[u8], text: &[u8], ignore_case: bool) -> bool {
    if ignore_case {
        value.eq_ignore_ascii_case(text)
    } else {
        value == text
    }
}

pub(super) fn starts_with(value: &[u8], text: &[u8], ignore_case: bool) -> bool {
    value
        .get(..text.len())
        .is_some_and(|start| equal(start, text, ignore_case))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_the_whole_text() {
        let pattern = Pattern::new("a|ab").unwrap();
        assert!(pattern.matches(b"ab") && pattern.matches(b"a"));
        assert!(!pattern.matches(b"abc") && !pattern.matches(b"xa") && !pattern.matches(b"a\n"));
        assert!(Pattern::new("a)|(b").is_err());
        assert!(Pattern::new("(").is_err());
    }
}
