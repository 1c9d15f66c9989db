//! Envoy's access-log format language: text with `%OPERATOR(arguments):length%`, and JSON of it.
//!
//! A format is compiled when configuration is built, and refused there when anything in it is not
//! known. Writing never fails, and allocates only for parts of a client's certificate.

mod json;
mod operator;
pub mod time;

use std::fmt;

use operator::{Operator, Source};

pub use json::JsonTemplate;

use super::record::Record;

/// What a format writes into.
pub trait Out {
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Out for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Lets `write!` write into an [`Out`].
struct Utf8Writer<'a>(&'a mut dyn Out);

impl fmt::Write for Utf8Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.put(text.as_bytes());
        Ok(())
    }
}

/// Passes on at most so many bytes.
struct Truncated<'a> {
    out: &'a mut dyn Out,
    left: usize,
}

impl Out for Truncated<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(self.left);
        self.left -= len;
        self.out.put(&bytes[..len]);
    }
}

/// Writes text as a JSON string, with its quotes.
pub fn write_json_string(text: &str, out: &mut dyn Out) {
    json::string(text.as_bytes(), out);
}

/// What operators need to know of the process when they are compiled.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// `%HOSTNAME%`
    pub hostname: &'a str,
    /// `%ENVIRONMENT(X)%`
    pub variable: fn(&str) -> Option<String>,
}

impl fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("hostname", &self.hostname)
            .finish_non_exhaustive()
    }
}

/// Envoy's default format.
pub const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
    %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// A piece of a text format.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<[u8]>),
    Operator {
        operator: Operator,
        max_len: Option<usize>,
    },
}

impl Piece {
    /// Writes the value of an operator; false when there is none.
    fn write(&self, record: &Record<'_>, now_us: u64, out: &mut dyn Out) -> bool {
        match self {
            Self::Literal(text) => {
                out.put(text);
                true
            }
            Self::Operator {
                operator,
                max_len: None,
            } => operator.write(record, now_us, out),
            Self::Operator {
                operator,
                max_len: Some(left),
            } => operator.write(record, now_us, &mut Truncated { out, left: *left }),
        }
    }
}

/// A compiled text format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextFormat {
    pieces: Vec<Piece>,
}

impl TextFormat {
    pub(crate) fn parse(text: &str, environment: &Environment<'_>) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push(b'%');
                rest = after;
                continue;
            }
            let (piece, after) = Self::operator(rest, environment)?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
            }
            pieces.push(piece);
            rest = after;
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Ok(Self { pieces })
    }

    /// What follows a `%`: `NAME`, `(arguments)`, `:length`, `%`.
    fn operator<'a>(
        text: &'a str,
        environment: &Environment<'_>,
    ) -> Result<(Piece, &'a str), String> {
        let start: String = text.chars().take(32).collect();
        let broken = || format!("'%{start}' is no operator");
        let end = text
            .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .filter(|end| *end > 0)
            .ok_or_else(broken)?;
        let (name, mut rest) = text.split_at(end);
        let mut arguments = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let (inner, after) = inner.split_once(')').ok_or_else(broken)?;
            arguments = Some(inner);
            rest = after;
        }
        let mut max_len = None;
        if let Some(after) = rest.strip_prefix(':') {
            let (len, _) = after.split_once('%').ok_or_else(broken)?;
            max_len = Some(
                len.parse()
                    .map_err(|_| format!("%{name}%: '{len}' is no length"))?,
            );
            rest = &after[len.len()..];
        }
        let rest = rest.strip_prefix('%').ok_or_else(broken)?;
        let operator = operator::parse(name, arguments, environment)?;
        Ok((Piece::Operator { operator, max_len }, rest))
    }

    fn write(&self, record: &Record<'_>, now_us: u64, missing: &[u8], out: &mut dyn Out) {
        for piece in &self.pieces {
            if !piece.write(record, now_us, out) {
                out.put(missing);
            }
        }
    }

    fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Operator { operator, .. } => Some(operator),
        })
    }
}

/// Which fields of which heads are asked for: what has to be kept once a head was forwarded.
/// Names are lower case; pseudo-headers begin with a colon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Of the request head.
    pub request: Vec<Box<str>>,
    /// Of the response head.
    pub response: Vec<Box<str>>,
    /// Of the response trailers.
    pub trailers: Vec<Box<str>>,
}

impl Keeps {
    fn add(&mut self, operator: &Operator) {
        if let Operator::Header(source, main, alternative) = operator {
            for name in std::iter::once(main).chain(alternative) {
                self.add_name(*source, name);
            }
        }
    }

    fn add_name(&mut self, source: Source, name: &str) {
        let names = match source {
            Source::Request => &mut self.request,
            Source::Response => &mut self.response,
            Source::Trailers => &mut self.trailers,
        };
        if !names.iter().any(|known| &**known == name) {
            names.push(name.into());
        }
    }

    /// Also keeps this field of the request head.
    pub fn add_request(&mut self, name: &str) {
        self.add_name(Source::Request, &name.to_ascii_lowercase());
    }

    /// Also keeps what `other` keeps.
    pub fn merge(&mut self, other: &Self) {
        let sources = [
            (Source::Request, &other.request),
            (Source::Response, &other.response),
            (Source::Trailers, &other.trailers),
        ];
        for (source, names) in sources {
            for name in names {
                self.add_name(source, name);
            }
        }
    }

    /// Makes `into` what has to be kept of a request head.
    pub fn reduce_request(&self, head: &moorgate_codecs::Head, into: &mut moorgate_codecs::Head) {
        into.clear();
        into.kind = head.kind;
        into.version = head.version;
        for name in &self.request {
            match &**name {
                ":method" => into.set_method(head.method()),
                ":path" => into.set_path(head.path()),
                ":authority" => into.set_authority(head.authority()),
                ":scheme" => into.set_scheme(head.scheme()),
                name => {
                    if let Some(value) = head.get(name.as_bytes()) {
                        into.push(name.as_bytes(), value);
                    }
                }
            }
        }
    }
}

/// A compiled format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    kind: Kind,
    omit_empty: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Text(TextFormat),
    Json(json::Node),
}

impl Format {
    /// Compiles `text_format_source`. Nothing is appended: a line break is part of the text.
    pub fn text(
        text: &str,
        omit_empty: bool,
        environment: &Environment<'_>,
    ) -> Result<Self, String> {
        Ok(Self {
            kind: Kind::Text(TextFormat::parse(text, environment)?),
            omit_empty,
        })
    }

    /// Compiles `json_format`. Entries are objects on a line each, their keys sorted.
    pub fn json(
        template: &JsonTemplate,
        omit_empty: bool,
        environment: &Environment<'_>,
    ) -> Result<Self, String> {
        Ok(Self {
            kind: Kind::Json(json::Node::compile(template, environment)?),
            omit_empty,
        })
    }

    /// Writes one entry. `now_us` is the wall clock in microseconds since the Unix epoch.
    pub fn write(&self, record: &Record<'_>, now_us: u64, out: &mut dyn Out) {
        match &self.kind {
            Kind::Text(text) => {
                let missing: &[u8] = if self.omit_empty { b"" } else { b"-" };
                text.write(record, now_us, missing, out);
            }
            Kind::Json(node) => {
                node.write(record, now_us, self.omit_empty, out);
                out.put(b"\n");
            }
        }
    }

    /// Which fields of heads it asks for.
    #[must_use]
    pub fn keeps(&self) -> Keeps {
        let mut keeps = Keeps::default();
        match &self.kind {
            Kind::Text(text) => text.operators().for_each(|operator| keeps.add(operator)),
            Kind::Json(node) => node.visit(&mut |operator| keeps.add(operator)),
        }
        keeps
    }
}

#[cfg(test)]
mod tests;
