//! JSON text (RFC 8259) to [`Value`] and back.
//!
//! A comma before a closing bracket is tolerated, because Envoy's loader does. Nothing else is.

use std::fmt::Write as _;

use super::value::{MAX_DEPTH, Value, duplicate_key};

/// Parses one document.
///
/// # Errors
/// Says line, column and what is wrong.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { text, at: 0 };
    let value = parser.skip_blank().value(0).and_then(|value| {
        parser.skip_blank();
        match parser.peek() {
            None => Ok(value),
            Some(_) => Err("something follows the document"),
        }
    });
    value.map_err(|reason| {
        let before = &text[..parser.at];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        format!("line {line}, column {column}: {reason}")
    })
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_blank(&mut self) -> &mut Self {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self
    }

    fn value(&mut self, depth: usize) -> Result<Value, &'static str> {
        if depth > MAX_DEPTH {
            return Err("nested too deep");
        }
        match self.peek() {
            Some(b'{') => self.map(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => {
                for (word, value) in [
                    ("true", Value::Bool(true)),
                    ("false", Value::Bool(false)),
                    ("null", Value::Null),
                ] {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                Err("expected a value")
            }
            None => Err("the document ends too early"),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, &'static str> {
        self.at += 1;
        let mut entries = Vec::new();
        while !self.skip_blank().take(b'}') {
            if self.peek() != Some(b'"') {
                return Err("expected a key in quotes or '}'");
            }
            let key = self.string()?;
            if !self.skip_blank().take(b':') {
                return Err("expected ':'");
            }
            let value = self.skip_blank().value(depth + 1)?;
            entries.push((key, value));
            if !self.skip_blank().take(b',') && self.peek() != Some(b'}') {
                return Err("expected ',' or '}'");
            }
        }
        match duplicate_key(&entries) {
            Some(_) => Err("the map that ends here has a key twice"),
            None => Ok(Value::Map(entries)),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, &'static str> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.skip_blank().take(b']') {
            items.push(self.value(depth + 1)?);
            if !self.skip_blank().take(b',') && self.peek() != Some(b']') {
                return Err("expected ',' or ']'");
            }
        }
        Ok(Value::List(items))
    }

    fn number(&mut self) -> Result<Value, &'static str> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') && self.digits() == 0 {
            return Err("expected a digit");
        }
        if self.take(b'.') && self.digits() == 0 {
            return Err("expected a digit after '.'");
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            let _ = self.take(b'+') || self.take(b'-');
            if self.digits() == 0 {
                return Err("expected a digit in the exponent");
            }
        }
        if matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err("a number does not start with 0");
        }
        Ok(Value::Number(self.text[start..self.at].to_owned()))
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn string(&mut self) -> Result<String, &'static str> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest
                .find(|c: char| c == '"' || c == '\\' || c.is_ascii_control())
                .ok_or("the string does not end")?;
            out.push_str(&rest[..plain]);
            self.at += plain;
            if self.take(b'"') {
                return Ok(out);
            }
            if !self.take(b'\\') {
                return Err("a control character stands in the string unescaped");
            }
            out.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char, &'static str> {
        let escape = self.peek().ok_or("the string does not end")?;
        let c = match escape {
            b'"' | b'\\' | b'/' => char::from(escape),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.unicode_escape();
            }
            _ => return Err("unknown escape"),
        };
        self.at += 1;
        Ok(c)
    }

    fn unicode_escape(&mut self) -> Result<char, &'static str> {
        const LONE: &str = "a lone surrogate is no character";
        let high = self.hex4()?;
        if !(0xd800..0xe000).contains(&high) {
            return char::from_u32(high).ok_or(LONE);
        }
        if high >= 0xdc00 || !self.take(b'\\') || !self.take(b'u') {
            return Err(LONE);
        }
        let low = self.hex4()?;
        if !(0xdc00..0xe000).contains(&low) {
            return Err(LONE);
        }
        char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)).ok_or(LONE)
    }

    fn hex4(&mut self) -> Result<u32, &'static str> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let value = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4 * usize::from(value.is_some());
        value.ok_or("expected four hexadecimal digits")
    }
}

/// Appends `value` as JSON, indented by one space a level as Envoy's admin interface does.
pub(crate) fn write(value: &Value, out: &mut String) {
    write_indented(value, 0, out);
}

fn write_indented(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(text) => out.push_str(text),
        Value::String(text) => write_string(text, out),
        Value::List(items) if items.is_empty() => out.push_str("[]"),
        Value::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "\n" } else { ",\n" });
                indent(depth + 1, out);
                write_indented(item, depth + 1, out);
            }
            out.push('\n');
            indent(depth, out);
            out.push(']');
        }
        Value::Map(entries) if entries.is_empty() => out.push_str("{}"),
        Value::Map(entries) => {
            out.push('{');
            for (i, (key, value)) in entries.iter().enumerate() {
                out.push_str(if i == 0 { "\n" } else { ",\n" });
                indent(depth + 1, out);
                write_string(key, out);
                out.push_str(": ");
                write_indented(value, depth + 1, out);
            }
            out.push('\n');
            indent(depth, out);
            out.push('}');
        }
    }
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', depth));
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' || c == '\u{7f}' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) -> String {
        let mut out = String::new();
        write(&parse(text).expect(text), &mut out);
        out
    }

    #[test]
    fn documents_survive_a_round_trip() {
        let text =
            "{\n \"a\": [\n  1,\n  -2.5e3,\n  true,\n  null\n ],\n \"b\": {},\n \"c\": []\n}";
        assert_eq!(round_trip(text), text);
        assert_eq!(
            round_trip(r#""\"\\\/\b\n\u00e9\ud83d\ude00""#),
            "\"\\\"\\\\/\\u0008\\né😀\""
        );
    }

    #[test]
    fn trailing_commas_are_tolerated_and_nothing_else() {
        assert_eq!(parse("[1,]"), parse("[1]"));
        assert_eq!(parse(r#"{"a":1,}"#), parse(r#"{"a":1}"#));
        let cases = [
            ("", "line 1, column 1: the document ends too early"),
            ("[,]", "line 1, column 2: expected a value"),
            ("[1 2]", "line 1, column 4: expected ',' or ']'"),
            ("{a:1}", "line 1, column 2: expected a key in quotes or '}'"),
            (
                "{\"a\":1,\n\"a\":2}",
                "line 2, column 7: the map that ends here has a key twice",
            ),
            ("\n 01", "line 2, column 3: a number does not start with 0"),
            ("[1.]", "line 1, column 4: expected a digit after '.'"),
            (
                "\"\\ud800x\"",
                "line 1, column 8: a lone surrogate is no character",
            ),
            ("\"é\\x\"", "line 1, column 4: unknown escape"),
            ("\"a", "line 1, column 2: the string does not end"),
            ("{} {}", "line 1, column 4: something follows the document"),
        ];
        for (text, reason) in cases {
            assert_eq!(parse(text), Err(reason.to_owned()), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(100_000);
        assert_eq!(
            parse(&deep),
            Err("line 1, column 202: nested too deep".to_owned())
        );
    }
}
