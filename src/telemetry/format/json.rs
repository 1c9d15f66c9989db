//! JSON formats: a template whose strings are text formats.
//!
//! A string that is one operator alone keeps the operator's type: numbers stay numbers, and what is
//! absent is `null`.

use super::operator::Operator;
use super::{Environment, Out, Piece, Record, TextFormat};

/// `json_format` as configured.
#[derive(Clone, Debug, PartialEq)]
pub enum JsonTemplate {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number that is no format.
    Number(f64),
    /// A text format.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// An object.
    Object(Vec<(String, Self)>),
}

/// A compiled template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// Encoded already.
    Raw(Box<[u8]>),
    /// One operator: typed.
    Value(Piece),
    /// Anything else: a string.
    Text(TextFormat),
    List(Vec<Self>),
    /// Keys are encoded, with quotes and colon.
    Object(Vec<(Box<[u8]>, Self)>),
}

impl Node {
    pub(super) fn compile(
        template: &JsonTemplate,
        environment: &Environment<'_>,
    ) -> Result<Self, String> {
        Ok(match template {
            JsonTemplate::Null => Self::Raw(b"null"[..].into()),
            JsonTemplate::Bool(true) => Self::Raw(b"true"[..].into()),
            JsonTemplate::Bool(false) => Self::Raw(b"false"[..].into()),
            JsonTemplate::Number(number) if number.is_finite() => {
                Self::Raw(number.to_string().into_bytes().into())
            }
            JsonTemplate::Number(_) => Self::Raw(b"null"[..].into()),
            JsonTemplate::Text(text) => {
                let mut format = TextFormat::parse(text, environment)?;
                match &mut format.pieces[..] {
                    [Piece::Operator { .. }] => Self::Value(format.pieces.remove(0)),
                    _ => Self::Text(format),
                }
            }
            JsonTemplate::List(list) => Self::List(
                list.iter()
                    .map(|node| Self::compile(node, environment))
                    .collect::<Result<_, _>>()?,
            ),
            JsonTemplate::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                let compile = |(key, node): &(String, JsonTemplate)| {
                    let mut encoded = Vec::new();
                    string(key.as_bytes(), &mut encoded);
                    encoded.push(b':');
                    Self::compile(node, environment).map(|node| (encoded.into(), node))
                };
                Self::Object(fields.into_iter().map(compile).collect::<Result<_, _>>()?)
            }
        })
    }

    pub(super) fn visit(&self, with: &mut dyn FnMut(&Operator)) {
        match self {
            Self::Raw(_) | Self::Value(Piece::Literal(_)) => {}
            Self::Value(Piece::Operator { operator, .. }) => with(operator),
            Self::Text(text) => text.operators().for_each(with),
            Self::List(list) => list.iter().for_each(|node| node.visit(with)),
            Self::Object(fields) => fields.iter().for_each(|(_, node)| node.visit(with)),
        }
    }

    /// The value would be `null`.
    fn is_null(&self, record: &Record<'_>) -> bool {
        match self {
            Self::Value(piece) => !piece.write(record, 0, &mut Nothing),
            _ => false,
        }
    }

    pub(super) fn write(
        &self,
        record: &Record<'_>,
        now_us: u64,
        omit_empty: bool,
        out: &mut dyn Out,
    ) {
        match self {
            Self::Raw(text) => out.put(text),
            Self::Value(_) if self.is_null(record) => out.put(b"null"),
            Self::Value(piece) => {
                let number = match piece {
                    Piece::Operator { operator, .. } => operator.number(record).is_some(),
                    Piece::Literal(_) => false,
                };
                if number {
                    piece.write(record, now_us, out);
                } else {
                    out.put(b"\"");
                    piece.write(record, now_us, &mut Escaped(out));
                    out.put(b"\"");
                }
            }
            Self::Text(text) => {
                let missing: &[u8] = if omit_empty { b"" } else { b"-" };
                out.put(b"\"");
                text.write(record, now_us, missing, &mut Escaped(out));
                out.put(b"\"");
            }
            Self::List(list) => {
                out.put(b"[");
                let mut first = true;
                for node in list {
                    if omit_empty && node.is_null(record) {
                        continue;
                    }
                    if !first {
                        out.put(b",");
                    }
                    node.write(record, now_us, omit_empty, out);
                    first = false;
                }
                out.put(b"]");
            }
            Self::Object(fields) => {
                out.put(b"{");
                let mut first = true;
                for (key, node) in fields {
                    if omit_empty && node.is_null(record) {
                        continue;
                    }
                    if !first {
                        out.put(b",");
                    }
                    out.put(key);
                    node.write(record, now_us, omit_empty, out);
                    first = false;
                }
                out.put(b"}");
            }
        }
    }
}

/// Takes everything and keeps nothing.
struct Nothing;

impl Out for Nothing {
    fn put(&mut self, _: &[u8]) {}
}

/// Escapes what is inside a JSON string.
struct Escaped<'a>(&'a mut dyn Out);

impl Out for Escaped<'_> {
    fn put(&mut self, bytes: &[u8]) {
        escape(bytes, self.0);
    }
}

/// Writes a JSON string with its quotes.
pub(crate) fn string(bytes: &[u8], out: &mut dyn Out) {
    out.put(b"\"");
    escape(bytes, out);
    out.put(b"\"");
}

/// Writes the inside of a JSON string. What is no UTF-8 becomes U+FFFD.
fn escape(bytes: &[u8], out: &mut dyn Out) {
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        let mut from = 0;
        for (at, &byte) in valid.iter().enumerate() {
            let escaped: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                0x08 => b"\\b",
                0x0c => b"\\f",
                0..=0x1f | 0x7f => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    out.put(&valid[from..at]);
                    from = at + 1;
                    let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                    out.put(&[b'\\', b'u', b'0', b'0', HEX[high], HEX[low]]);
                    continue;
                }
                _ => continue,
            };
            out.put(&valid[from..at]);
            out.put(escaped);
            from = at + 1;
        }
        out.put(&valid[from..]);
        if !chunk.invalid().is_empty() {
            out.put("\u{fffd}".as_bytes());
        }
    }
}
