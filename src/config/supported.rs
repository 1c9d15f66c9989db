//! Refuses, by name, what a configuration says and Moorgate does not do.
//!
//! Walks the wire form of a message beside the tables in [`support`](super::support), so that a
//! bootstrap and a discovery response go through the same gate.

use std::collections::{BTreeSet, HashMap};

use moorgate_protos::schema::{FieldSchema, Kind, MessageSchema, Schema};
use moorgate_protos::wire::{WireValue, fields};

use super::error::{ConfigError, FieldPath};
use super::support::{FOREIGN_RUNTIME_KEYS, Rule, Support, tables};
use super::transcode::{is_wrapper, type_name};

/// Checks an encoded message of type `name` that stands at `path`.
///
/// Returns the fields that are set and have no effect, as `message.field`, each once.
///
/// # Errors
/// The first field that is set and not supported.
pub fn check(
    schema: &Schema,
    name: &str,
    bytes: &[u8],
    path: &FieldPath<'_>,
) -> Result<BTreeSet<String>, ConfigError> {
    let mut checker = Checker {
        schema,
        tables: tables().map(|table| (table.message, table)).collect(),
        ignored: BTreeSet::new(),
    };
    checker.message(name, bytes, path, &[])?;
    Ok(checker.ignored)
}

struct Checker<'s> {
    schema: &'s Schema,
    tables: HashMap<&'static str, &'static Support>,
    ignored: BTreeSet<String>,
}

type Outcome = Result<(), ConfigError>;

/// The types that the field around allows in an `Any` below it; empty where there is none.
type Slot = &'static [&'static str];

impl Checker<'_> {
    fn message(&mut self, name: &str, bytes: &[u8], path: &FieldPath<'_>, slot: Slot) -> Outcome {
        match name {
            "google.protobuf.Any" => self.any(bytes, path, slot),
            // Scalars, times and free-form data: all of it belongs to the field it is in.
            _ if name.starts_with("google.protobuf.") => Ok(()),
            _ => match self.tables.get(name) {
                Some(table) => self.fields(table, bytes, path, slot),
                None => Err(unsupported(path)),
            },
        }
    }

    fn fields(
        &mut self,
        table: &Support,
        bytes: &[u8],
        path: &FieldPath<'_>,
        slot: Slot,
    ) -> Outcome {
        let message = self
            .schema
            .message(table.message)
            .ok_or_else(|| malformed(path))?;
        let mut indices: HashMap<u32, usize> = HashMap::new();
        for part in fields(bytes) {
            let (number, value) = part.map_err(|_| malformed(path))?;
            let Some(field) = message.field_by_number(number) else {
                // A newer API has it; what it would mean is not known to anybody here.
                self.ignored
                    .insert(format!("{} field {number}", message.name));
                continue;
            };
            let path = path.field(field.name);
            if !field.repeated {
                self.field(&message, table, field, value, &path, slot)?;
                continue;
            }
            if let Some(entry) = self.map_entry(field) {
                let key = map_key(value).map_err(|()| malformed(&path))?;
                let path = path.key(&key);
                self.map_value(&message, table, field, &entry, value, &path)?;
                continue;
            }
            let index = indices.entry(number).or_default();
            let path = path.index(*index);
            *index += 1;
            self.field(&message, table, field, value, &path, slot)?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        message: &MessageSchema,
        table: &Support,
        field: &FieldSchema,
        value: WireValue<'_>,
        path: &FieldPath<'_>,
        slot: Slot,
    ) -> Outcome {
        let Some(rule) = table.rule(field.name) else {
            return Err(unsupported(path));
        };
        let slot = match rule {
            Rule::Ignored => {
                self.ignored
                    .insert(format!("{}.{}", message.name, field.name));
                return Ok(());
            }
            Rule::Off | Rule::On => {
                let on = is_on(field, value);
                return if on == matches!(rule, Rule::On) {
                    Ok(())
                } else {
                    let said = if on { "on" } else { "off" };
                    Err(path.error(format!("switching it {said} is not supported by Moorgate")))
                };
            }
            Rule::Values(supported) => return self.value(field, value, supported, path),
            Rule::As(table) => {
                let bytes = body(value).ok_or_else(|| malformed(path))?;
                return self.fields(table, bytes, path, slot);
            }
            Rule::Runtime(keys) => return self.runtime(keys, value, path),
            // The table of a message that is used in many places leaves the types to those.
            Rule::Types([]) | Rule::Yes => slot,
            Rule::Types(types) => types,
        };
        match field.kind {
            Kind::Message(name) => {
                let bytes = body(value).ok_or_else(|| malformed(path))?;
                self.message(name, bytes, path, slot)
            }
            _ => Ok(()),
        }
    }

    fn value(
        &self,
        field: &FieldSchema,
        value: WireValue<'_>,
        supported: &[&str],
        path: &FieldPath<'_>,
    ) -> Outcome {
        let (Kind::Enum(name), WireValue::Varint(number)) = (field.kind, value) else {
            return Err(malformed(path));
        };
        let known = self
            .schema
            .enumeration(name)
            .and_then(|e| e.name_of(number as i32));
        if known.is_some_and(|name| supported.contains(&name)) {
            return Ok(());
        }
        let said = known.map_or_else(|| number.to_string(), str::to_owned);
        Err(path.error(format!(
            "{said} is not supported by Moorgate; supported: {}",
            supported.join(", ")
        )))
    }

    fn any(&mut self, bytes: &[u8], path: &FieldPath<'_>, slot: Slot) -> Outcome {
        let mut url: &[u8] = &[];
        let mut inner: &[u8] = &[];
        for part in fields(bytes) {
            match part.map_err(|_| malformed(path))? {
                (1, WireValue::Bytes(bytes)) => url = bytes,
                (2, WireValue::Bytes(bytes)) => inner = bytes,
                _ => {}
            }
        }
        if url.is_empty() && inner.is_empty() {
            return Ok(());
        }
        let url = std::str::from_utf8(url).map_err(|_| malformed(path))?;
        let name = type_name(url).unwrap_or(url);
        if !slot.contains(&name) {
            return Err(path.error(format!(
                "{name} is not supported by Moorgate here; supported: {}",
                slot.join(", ")
            )));
        }
        self.message(name, inner, path, &[])
    }

    fn map_entry(&self, field: &FieldSchema) -> Option<std::rc::Rc<MessageSchema>> {
        let Kind::Message(name) = field.kind else {
            return None;
        };
        self.schema.message(name).filter(|entry| entry.map_entry)
    }

    /// The rule of a map field is the rule of its values.
    fn map_value(
        &mut self,
        message: &MessageSchema,
        table: &Support,
        field: &FieldSchema,
        entry: &MessageSchema,
        value: WireValue<'_>,
        path: &FieldPath<'_>,
    ) -> Outcome {
        let value_field = entry.field_by_number(2).ok_or_else(|| malformed(path))?;
        let described = FieldSchema {
            name: field.name,
            ..*value_field
        };
        for part in fields(body(value).ok_or_else(|| malformed(path))?) {
            if let (2, value) = part.map_err(|_| malformed(path))? {
                self.field(message, table, &described, value, path, &[])?;
            }
        }
        Ok(())
    }

    fn runtime(&mut self, keys: &[&str], value: WireValue<'_>, path: &FieldPath<'_>) -> Outcome {
        for entry in fields(body(value).ok_or_else(|| malformed(path))?) {
            let (_, entry) = entry.map_err(|_| malformed(path))?;
            let key = map_key(entry).map_err(|()| malformed(path))?;
            if FOREIGN_RUNTIME_KEYS
                .iter()
                .any(|start| key.starts_with(start))
            {
                self.ignored.insert(format!("runtime key {key}"));
            } else if !keys.contains(&key.as_str()) {
                return Err(unsupported(&path.key(&key)));
            }
        }
        Ok(())
    }
}

/// Whether a bool, `BoolValue` or number is anything but zero.
fn is_on(field: &FieldSchema, value: WireValue<'_>) -> bool {
    match (field.kind, value) {
        (Kind::Message(name), WireValue::Bytes(bytes)) if is_wrapper(name) => {
            fields(bytes).any(|part| matches!(part, Ok((1, WireValue::Varint(1..)))))
        }
        (_, value) => value != WireValue::Varint(0),
    }
}

fn map_key(entry: WireValue<'_>) -> Result<String, ()> {
    let mut key = String::new();
    for part in fields(body(entry).ok_or(())?) {
        match part.map_err(|_| ())? {
            (1, WireValue::Bytes(bytes)) => {
                key = std::str::from_utf8(bytes).map_err(|_| ())?.to_owned();
            }
            (1, WireValue::Varint(number)) => key = number.to_string(),
            _ => {}
        }
    }
    Ok(key)
}

fn body<'a>(value: WireValue<'a>) -> Option<&'a [u8]> {
    match value {
        WireValue::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

fn unsupported(path: &FieldPath<'_>) -> ConfigError {
    path.error("is not supported by Moorgate")
}

fn malformed(path: &FieldPath<'_>) -> ConfigError {
    path.error("is not a valid protobuf message")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table that names what does not exist, or lets in a message that has no table, would be a
    /// hole or a refusal nobody meant.
    #[test]
    fn the_tables_agree_with_the_descriptors_and_are_closed() {
        let schema = Schema::open();
        let known: HashMap<&str, &Support> = tables().map(|t| (t.message, t)).collect();
        assert_eq!(known.len(), tables().count(), "a message has two tables");
        for table in tables() {
            check_table(&schema, &known, table);
        }
    }

    fn check_table(schema: &Schema, known: &HashMap<&str, &Support>, table: &Support) {
        let message = schema.message(table.message).expect(table.message);
        for (name, rule) in table.fields {
            let place = format!("{}.{name}", table.message);
            let field = message.fields.iter().find(|f| f.name == *name);
            let field = field.unwrap_or_else(|| panic!("{place} does not exist"));
            assert_eq!(
                table.fields.iter().filter(|(n, _)| n == name).count(),
                1,
                "{place}"
            );
            match (rule, field.kind) {
                (Rule::Yes | Rule::Types(_), Kind::Message("google.protobuf.Any")) => {
                    assert!(matches!(rule, Rule::Types(_)), "{place} says no types");
                }
                (Rule::Yes, Kind::Message(name)) => {
                    let open = name.starts_with("google.protobuf.") || known.contains_key(name);
                    assert!(open, "{place}: {name} has no table");
                }
                (Rule::Types(_), Kind::Message(_)) | (Rule::Yes | Rule::Ignored, _) => {}
                (Rule::Off | Rule::On, kind) => {
                    let wrapped = Kind::Message("google.protobuf.BoolValue");
                    assert!(
                        kind == Kind::Bool || kind == wrapped,
                        "{place} is no switch"
                    );
                }
                (Rule::Values(values), Kind::Enum(name)) => {
                    let known = schema.enumeration(name).expect(name);
                    for value in *values {
                        assert!(
                            known.number_of(value).is_some(),
                            "{place}: no value {value}"
                        );
                    }
                }
                (Rule::As(inner), Kind::Message(name)) => {
                    assert_eq!(inner.message, name, "{place}");
                    check_table(schema, known, inner);
                }
                (Rule::Runtime(_), kind) => {
                    assert_eq!(kind, Kind::Message("google.protobuf.Struct"), "{place}");
                }
                (rule, kind) => panic!("{place}: {rule:?} does not fit {kind:?}"),
            }
            if let Rule::Types(types) = rule {
                for name in *types {
                    assert!(known.contains_key(name), "{place}: {name} has no table");
                }
            }
        }
    }
}
