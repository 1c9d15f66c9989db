//! Writing JSON as Envoy's admin interface does: one space of indentation, fields in the order of
//! their message.

use crate::telemetry::format::write_json_string;

/// A JSON value to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(&'static str, Self)>),
    /// JSON already, indented or not.
    Raw(String),
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Writes a string with its quotes.
pub(super) fn string(text: &str, out: &mut String) {
    let mut bytes = Vec::with_capacity(text.len() + 2);
    write_json_string(text, &mut bytes);
    out.push_str(&String::from_utf8_lossy(&bytes));
}

impl Json {
    /// The document, with an end of line.
    pub(super) fn document(&self) -> String {
        let mut out = String::new();
        self.write(0, &mut out);
        out.push('\n');
        out
    }

    fn write(&self, depth: usize, out: &mut String) {
        match self {
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(number) => out.push_str(&number.to_string()),
            Self::Text(text) => string(text, out),
            // A line break in JSON is never inside a string, so this only indents.
            Self::Raw(text) => {
                let mut lines = text.trim_end().lines();
                out.push_str(lines.next().unwrap_or("null"));
                for line in lines {
                    indent(depth, out);
                    out.push_str(line);
                }
            }
            Self::List(list) if list.is_empty() => out.push_str("[]"),
            Self::Object(fields) if fields.is_empty() => out.push_str("{}"),
            Self::List(list) => {
                out.push('[');
                for (at, value) in list.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    indent(depth + 1, out);
                    value.write(depth + 1, out);
                }
                indent(depth, out);
                out.push(']');
            }
            Self::Object(fields) => {
                out.push('{');
                for (at, (name, value)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    indent(depth + 1, out);
                    string(name, out);
                    out.push_str(": ");
                    value.write(depth + 1, out);
                }
                indent(depth, out);
                out.push('}');
            }
        }
    }
}

fn indent(depth: usize, out: &mut String) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_indented_by_one() {
        let document = Json::Object(vec![
            ("a", Json::List(vec![Json::Number(1), "x\"y".into()])),
            ("b", Json::Raw("{\n \"c\": []\n}\n".to_owned())),
            ("e", Json::Object(vec![])),
            ("t", Json::Bool(true)),
        ]);
        assert_eq!(
            document.document(),
            "{\n \"a\": [\n  1,\n  \"x\\\"y\"\n ],\n \"b\": {\n  \"c\": []\n },\n \"e\": {},\n \
             \"t\": true\n}\n"
        );
    }
}
