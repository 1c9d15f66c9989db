//! Where in a configuration something stands, and what is wrong with it.
//!
//! Every rejection of a configuration is a [`ConfigError`]; one that does not name its field must
//! not exist.

use std::fmt;

/// The path of a field, from the file down: `static_resources.listeners[0].name`.
///
/// A linked list on the stack: extending it costs nothing, and only an error writes it out.
///
/// ```
/// use moorgate::config::FieldPath;
///
/// let root = FieldPath::root("envoy.yaml");
/// let resources = root.field("static_resources");
/// let listeners = resources.field("listeners");
/// let third = listeners.index(2);
/// assert_eq!(third.field("name").to_string(), "static_resources.listeners[2].name");
/// ```
#[derive(Clone, Copy)]
pub struct FieldPath<'a> {
    parent: Option<&'a FieldPath<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    /// The name of the file, or what stands for one.
    Root(&'a str),
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> FieldPath<'a> {
    /// The top of the message that `file` holds. For a configuration that is in no file, say in
    /// words where it comes from: `--config-yaml`, `resource 'x' of type …`.
    pub fn root(file: &'a str) -> Self {
        Self {
            parent: None,
            segment: Segment::Root(file),
        }
    }

    /// The field `name` of this message.
    pub fn field<'b>(&'b self, name: &'b str) -> FieldPath<'b> {
        FieldPath {
            parent: Some(self),
            segment: Segment::Field(name),
        }
    }

    /// An element of this repeated field.
    pub fn index(&self, index: usize) -> FieldPath<'_> {
        FieldPath {
            parent: Some(self),
            segment: Segment::Index(index),
        }
    }

    /// An entry of this map field.
    pub fn key<'b>(&'b self, key: &'b str) -> FieldPath<'b> {
        FieldPath {
            parent: Some(self),
            segment: Segment::Key(key),
        }
    }

    /// The file this path starts in.
    pub fn file(&self) -> &'a str {
        let mut path = self;
        loop {
            match (path.parent, path.segment) {
                (Some(parent), _) => path = parent,
                (None, Segment::Root(file)) => return file,
                (None, _) => return "",
            }
        }
    }

    /// What stands here is rejected.
    pub fn error(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file().to_owned(),
            path: self.to_string(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_top = match self.parent {
            Some(parent) => {
                parent.fmt(f)?;
                parent.parent.is_none()
            }
            None => true,
        };
        match self.segment {
            Segment::Root(_) => Ok(()),
            Segment::Field(name) if at_top => f.write_str(name),
            Segment::Field(name) => write!(f, ".{name}"),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}

impl fmt::Debug for FieldPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.file())
    }
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, or what stands for one.
    pub file: String,
    /// The full path of the field, in proto names; empty when the file as a whole is meant.
    pub path: String,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, path, reason } = self;
        if path.is_empty() {
            write!(f, "{file}: {reason}")
        } else {
            write!(f, "{file}: {path}: {reason}")
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_file_path_and_reason() {
        let root = FieldPath::root("a.yaml");
        let error = root.field("m").key("k.1").field("x").error("is bad");
        assert_eq!(error.to_string(), r#"a.yaml: m["k.1"].x: is bad"#);
        assert_eq!(root.error("is empty").to_string(), "a.yaml: is empty");
    }
}
