//! YAML text to [`Value`], with the scalars of Envoy's dialect.
//!
//! Envoy decides about a plain scalar without knowing the field: null, then bool (YAML 1.1, so
//! `on` and `yes` too), then integer (octal with a leading 0, hexadecimal with 0x), else string.
//! Floats stay strings; the field they are for turns them into numbers. A quoted or block scalar
//! is always a string. A map key tagged `!ignore` is dropped with its value, which is how anchors
//! are kept out of the way.
//!
//! Stricter than Envoy in one thing: a key that stands twice in a map is refused.

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::value::{MAX_DEPTH, Value, duplicate_key};

/// How many nodes aliases may add to a document; a few lines can ask for billions.
const MAX_ALIASED_NODES: usize = 1_000_000;

/// Parses one document; an empty one is an empty map.
///
/// # Errors
/// Says line, column and what is wrong.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| at(e.marker(), e.info()))?;
        builder
            .take(event)
            .map_err(|reason| at(&span.start, &reason))?;
    }
    match builder.document {
        None | Some(Value::Null) => Ok(Value::Map(Vec::new())),
        Some(document) => Ok(document),
    }
}

fn at(marker: &saphyr_parser::Marker, reason: &str) -> String {
    format!(
        "line {}, column {}: {reason}",
        marker.line(),
        marker.col() + 1
    )
}

/// Puts nodes together from the parser's events, without recursion.
#[derive(Default)]
struct Builder {
    document: Option<Value>,
    open: Vec<Open>,
    anchors: Vec<(usize, Value)>,
    aliased_nodes: usize,
}

/// A list or map whose end has not come yet.
struct Open {
    anchor: usize,
    ignore: bool,
    node: Node,
}

enum Node {
    List(Vec<Value>),
    /// The key, and whether it is to be ignored, once it has come and its value has not.
    Map(Vec<(String, Value)>, Option<(String, bool)>),
}

impl Builder {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = match style {
                    ScalarStyle::Plain => plain_scalar(&text),
                    _ => Value::String(text.clone().into_owned()),
                };
                // As a key, a scalar is its text: `on: 1` has the key "on".
                self.close(value, anchor, is_ignore(tag.as_deref()), Some(&text))
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(anchor, tag.as_deref(), Node::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.open(anchor, tag.as_deref(), Node::Map(Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let value = self
                    .anchors
                    .iter()
                    .rev()
                    .find(|(known, _)| *known == anchor);
                let value = value.map(|(_, value)| value.clone());
                let value = value.ok_or("the alias stands inside what it names")?;
                self.aliased_nodes += count(&value);
                if self.aliased_nodes > MAX_ALIASED_NODES {
                    return Err("aliases make the document too large".to_owned());
                }
                let text = match &value {
                    Value::String(text) | Value::Number(text) => Some(text.clone()),
                    _ => None,
                };
                self.close(value, 0, false, text.as_deref())
            }
            Event::DocumentStart(_) if self.document.is_some() => {
                Err("a second document; one file holds one configuration".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, anchor: usize, tag: Option<&Tag>, node: Node) -> Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err("nested too deep".to_owned());
        }
        self.open.push(Open {
            anchor,
            ignore: is_ignore(tag),
            node,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(Open {
            anchor,
            ignore,
            node,
        }) = self.open.pop()
        else {
            return Err("an end without a start".to_owned());
        };
        let value = match node {
            Node::List(items) => Value::List(items),
            Node::Map(entries, _) => {
                if let Some(key) = duplicate_key(&entries) {
                    return Err(format!("the map that ends here has the key '{key}' twice"));
                }
                Value::Map(entries)
            }
        };
        self.close(value, anchor, ignore, None)
    }

    /// A node is whole: it goes where it belongs.
    fn close(
        &mut self,
        value: Value,
        anchor: usize,
        ignore: bool,
        text: Option<&str>,
    ) -> Result<(), String> {
        if anchor != 0 {
            self.anchors.push((anchor, value.clone()));
        }
        match self.open.last_mut().map(|open| &mut open.node) {
            None => self.document = Some(value),
            Some(Node::List(items)) => items.push(value),
            Some(Node::Map(entries, key)) => match key.take() {
                Some((_, true)) => {}
                Some((key, false)) => entries.push((key, value)),
                None => {
                    let text = text.ok_or("the key of a map has to be a scalar")?;
                    *key = Some((text.to_owned(), ignore));
                }
            },
        }
        Ok(())
    }
}

fn is_ignore(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| tag.handle == "!" && tag.suffix == "ignore")
}

fn count(value: &Value) -> usize {
    match value {
        Value::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, value)| count(value)).sum::<usize>(),
        _ => 1,
    }
}

fn plain_scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    match plain_integer(text) {
        // Envoy passes larger ones on as strings, which matters inside a Struct.
        Some(number) if i32::try_from(number).is_ok() => Value::Number(number.to_string()),
        Some(number) => Value::String(number.to_string()),
        None => Value::String(text.to_owned()),
    }
}

fn plain_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = if let Some(hex) = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        (16, hex)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    };
    // from_str_radix would take another sign.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str) -> Value {
        match parse(&format!("k: {text}")).expect(text) {
            Value::Map(mut entries) => entries.remove(0).1,
            other => other,
        }
    }

    fn number(text: &str) -> Value {
        Value::Number(text.to_owned())
    }

    fn string(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn scalars_are_those_of_envoys_dialect() {
        assert_eq!(scalar("0644"), number("420"));
        assert_eq!(scalar("0x1F"), number("31"));
        assert_eq!(scalar("-12"), number("-12"));
        assert_eq!(scalar("+5"), number("5"));
        assert_eq!(scalar("0"), number("0"));
        assert_eq!(scalar("08"), string("08"));
        assert_eq!(scalar("1_000"), string("1_000"));
        assert_eq!(scalar("1e3"), string("1e3"));
        assert_eq!(scalar("1.5"), string("1.5"));
        assert_eq!(scalar("4294967296"), string("4294967296"));
        assert_eq!(
            scalar("18446744073709551615"),
            string("18446744073709551615")
        );
        assert_eq!(scalar("0.25s"), string("0.25s"));
        for text in ["on", "Yes", "TRUE", "y"] {
            assert_eq!(scalar(text), Value::Bool(true), "{text}");
        }
        for text in ["off", "No", "FALSE", "n"] {
            assert_eq!(scalar(text), Value::Bool(false), "{text}");
        }
        assert_eq!(scalar("oN"), string("oN"));
        for text in ["", "~", "null", "NULL"] {
            assert_eq!(scalar(text), Value::Null, "{text}");
        }
        for text in ["\"0644\"", "'0644'", "|-\n  0644"] {
            assert_eq!(scalar(text), string("0644"), "{text}");
        }
    }

    #[test]
    fn anchors_aliases_and_ignored_keys() {
        let text = "!ignore base: &a {x: 1}\nk: *a\non: [*a]\n";
        let one = Value::Map(vec![("x".to_owned(), number("1"))]);
        assert_eq!(
            parse(text),
            Ok(Value::Map(vec![
                ("k".to_owned(), one.clone()),
                ("on".to_owned(), Value::List(vec![one])),
            ]))
        );
    }

    #[test]
    fn an_empty_document_is_an_empty_map() {
        for text in ["", "---\n", "# nothing\n", "~"] {
            assert_eq!(parse(text), Ok(Value::Map(Vec::new())), "{text:?}");
        }
    }

    #[test]
    fn errors_say_where() {
        let cases = [
            (
                "a: 1\na: 2\n",
                "line 3, column 1: the map that ends here has the key 'a' twice",
            ),
            (
                "a: 1\n---\nb: 2\n",
                "line 2, column 1: a second document; one file holds one configuration",
            ),
            (
                "? [x]\n: 1\n",
                "line 1, column 5: the key of a map has to be a scalar",
            ),
        ];
        for (text, reason) in cases {
            assert_eq!(parse(text), Err(reason.to_owned()), "{text}");
        }
        let unclosed = parse("a: [1, 2\nb: 3").expect_err("unclosed");
        assert!(unclosed.starts_with("line 2, column "), "{unclosed}");
    }

    #[test]
    fn depth_and_aliases_are_bounded() {
        let list = "- ".repeat(220);
        assert_eq!(
            parse(&list).expect_err("deep"),
            "line 1, column 401: nested too deep"
        );
        let flow = "[".repeat(100_000);
        assert!(parse(&flow).is_err(), "the parser has a limit of its own");
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let alias = format!("*a{}", i - 1);
            bomb += &format!("a{i}: &a{i} [{}]\n", [alias.as_str(); 10].join(", "));
        }
        let refused = parse(&bomb).expect_err("a bomb");
        assert!(
            refused.ends_with("aliases make the document too large"),
            "{refused}"
        );
    }
}
