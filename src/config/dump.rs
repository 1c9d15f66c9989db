//! The wire form of a message to JSON, by descriptor: what `/config_dump` shows.
//!
//! Names are those of the proto files, as in Envoy's dumps; all text and bytes within fields marked
//! sensitive are shown as `[redacted]`, in their place, so that a dump can be read again. Unset fields are left out, and so is what the descriptors do not know.

use std::cell::Cell;
use std::collections::BTreeMap;

use moorgate_protos::schema::{FieldSchema, Kind, MessageSchema, Schema};
use moorgate_protos::wire::{Malformed, WireValue, fields, get_fixed32, get_fixed64, get_varint};
use moorgate_protos::{Message, Name};

use super::transcode::{is_wrapper, type_name};
use super::value::{MAX_DEPTH, Value};
use super::{base64, json, well_known};

const REDACTED: &str = "[redacted]";

/// `message` as JSON, indented.
///
/// Costs milliseconds and some megabytes while it runs: for admin requests, not for traffic.
///
/// # Errors
/// None for a message that was built or decoded as `M`, except for an `Any` inside whose bytes are
/// not the message it says.
pub fn to_json<M: Message + Name>(message: &M) -> Result<String, Malformed> {
    JsonWriter::open().write(message)
}

/// Writes many messages with one look at the descriptors.
pub struct JsonWriter(Schema);

impl JsonWriter {
    /// Costs what [`to_json`] costs, once.
    #[must_use]
    pub fn open() -> Self {
        Self(Schema::open())
    }

    /// `message` as JSON, indented.
    ///
    /// # Errors
    /// Those of [`to_json`].
    pub fn write<M: Message + Name>(&self, message: &M) -> Result<String, Malformed> {
        let value = to_value(&self.0, &M::full_name(), &message.encode_to_vec())?;
        let mut out = String::new();
        json::write(&value, &mut out);
        Ok(out)
    }
}

impl std::fmt::Debug for JsonWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JsonWriter")
    }
}

/// The message called `name` as a document.
pub(crate) fn to_value(schema: &Schema, name: &str, bytes: &[u8]) -> Result<Value, Malformed> {
    let hidden = Cell::new(false);
    Dump { schema, hidden }.message(name, bytes, 0)
}

struct Dump<'s> {
    schema: &'s Schema,
    /// Within a sensitive field.
    hidden: Cell<bool>,
}

/// The occurrences of a field, in wire order.
type Occurrences<'a> = BTreeMap<u32, Vec<WireValue<'a>>>;

impl Dump<'_> {
    fn message(&self, name: &str, bytes: &[u8], depth: usize) -> Result<Value, Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed);
        }
        let parts = occurrences(bytes)?;
        Ok(match name {
            "google.protobuf.Any" => self.any(&parts, depth)?,
            "google.protobuf.Duration" => {
                let (seconds, nanos) = seconds_and_nanos(&parts);
                Value::String(well_known::format_duration(seconds, nanos))
            }
            "google.protobuf.Timestamp" => {
                let (seconds, nanos) = seconds_and_nanos(&parts);
                Value::String(well_known::format_timestamp(seconds, nanos))
            }
            "google.protobuf.FieldMask" => {
                let paths: Result<Vec<&str>, _> = all(&parts, 1).map(text).collect();
                Value::String(well_known::format_field_mask(paths?.into_iter()))
            }
            "google.protobuf.Struct" => {
                let mut entries = Vec::new();
                for entry in all(&parts, 1) {
                    let entry = occurrences(body(entry)?)?;
                    let key = last(&entry, 1).map(text).transpose()?.unwrap_or_default();
                    let value = last(&entry, 2).map(body).transpose()?.unwrap_or_default();
                    let value = self.message("google.protobuf.Value", value, depth + 1)?;
                    entries.push((key.to_owned(), value));
                }
                Value::Map(entries)
            }
            "google.protobuf.ListValue" => {
                self.list(all(&parts, 1), "google.protobuf.Value", depth)?
            }
            "google.protobuf.Value" => self.any_value(&parts, depth)?,
            _ => {
                let message = self.schema.message(name).ok_or(Malformed)?;
                if is_wrapper(name) {
                    let field = message.field_by_number(1).ok_or(Malformed)?;
                    return match last(&parts, 1) {
                        Some(value) => self.single(field, value, depth),
                        None => Ok(default_of(field.kind)),
                    };
                }
                Value::Map(self.fields(&message, &parts, depth)?)
            }
        })
    }

    fn fields(
        &self,
        message: &MessageSchema,
        parts: &Occurrences<'_>,
        depth: usize,
    ) -> Result<Vec<(String, Value)>, Malformed> {
        let mut entries = Vec::new();
        for field in &message.fields {
            let Some(values) = parts.get(&field.number) else {
                continue;
            };
            let outside = self.hidden.replace(self.hidden.get() || field.sensitive);
            let value = self.field(field, values, depth);
            self.hidden.set(outside);
            if let Some(value) = value? {
                entries.push((field.name.to_owned(), value));
            }
        }
        Ok(entries)
    }

    fn field(
        &self,
        field: &FieldSchema,
        values: &[WireValue<'_>],
        depth: usize,
    ) -> Result<Option<Value>, Malformed> {
        Ok(if field.repeated {
            Some(self.repeated(field, values, depth)?)
        } else if let (Kind::Message(name), [_, _, ..]) = (field.kind, values) {
            // A message that stands more than once is merged: the bytes in a row.
            let bodies: Result<Vec<&[u8]>, _> = values.iter().copied().map(body).collect();
            Some(self.message(name, &bodies?.concat(), depth + 1)?)
        } else {
            let last = values.last();
            last.map(|value| self.single(field, *value, depth))
                .transpose()?
        })
    }

    fn text(&self, text: &str) -> Value {
        let shown = if self.hidden.get() { REDACTED } else { text };
        Value::String(shown.to_owned())
    }

    fn bytes(&self, bytes: &[u8]) -> Value {
        let hidden = self.hidden.get();
        let shown = if hidden { REDACTED.as_bytes() } else { bytes };
        Value::String(base64::encode(shown))
    }

    fn repeated(
        &self,
        field: &FieldSchema,
        values: &[WireValue<'_>],
        depth: usize,
    ) -> Result<Value, Malformed> {
        if let Kind::Message(name) = field.kind {
            let entry = self.schema.message(name).ok_or(Malformed)?;
            if entry.map_entry {
                return self.map(&entry, values, depth);
            }
            return self.list(values.iter().copied(), name, depth);
        }
        let mut items = Vec::new();
        for &value in values {
            match (field.kind, value) {
                (Kind::String | Kind::Bytes, _) => items.push(self.single(field, value, depth)?),
                (kind, WireValue::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        let value = unpack_one(kind, &mut packed).ok_or(Malformed)?;
                        items.push(self.single(field, value, depth)?);
                    }
                }
                (_, value) => items.push(self.single(field, value, depth)?),
            }
        }
        Ok(Value::List(items))
    }

    fn list<'a>(
        &self,
        values: impl Iterator<Item = WireValue<'a>>,
        name: &str,
        depth: usize,
    ) -> Result<Value, Malformed> {
        values
            .map(|value| self.message(name, body(value)?, depth + 1))
            .collect::<Result<_, _>>()
            .map(Value::List)
    }

    fn map(
        &self,
        entry: &MessageSchema,
        values: &[WireValue<'_>],
        depth: usize,
    ) -> Result<Value, Malformed> {
        let key_field = entry.field_by_number(1).ok_or(Malformed)?;
        let value_field = entry.field_by_number(2).ok_or(Malformed)?;
        // Sorted, because the order on the wire means nothing; the last one of a key counts.
        let mut entries = BTreeMap::new();
        for &value in values {
            let parts = occurrences(body(value)?)?;
            let key = match last(&parts, 1) {
                Some(key) => self.single(key_field, key, depth)?,
                None => default_of(key_field.kind),
            };
            let key = match key {
                Value::String(key) | Value::Number(key) => key,
                other => other.describe(),
            };
            let value = match (last(&parts, 2), value_field.kind) {
                (Some(value), _) => self.single(value_field, value, depth)?,
                (None, Kind::Message(name)) => self.message(name, &[], depth + 1)?,
                (None, kind) => default_of(kind),
            };
            entries.insert(key, value);
        }
        Ok(Value::Map(entries.into_iter().collect()))
    }

    fn single(
        &self,
        field: &FieldSchema,
        value: WireValue<'_>,
        depth: usize,
    ) -> Result<Value, Malformed> {
        Ok(match (field.kind, value) {
            (Kind::Message(name), WireValue::Bytes(bytes)) => {
                self.message(name, bytes, depth + 1)?
            }
            (Kind::String, value) => self.text(text(value)?),
            (Kind::Bytes, WireValue::Bytes(bytes)) => self.bytes(bytes),
            (Kind::Bool, WireValue::Varint(n)) => Value::Bool(n != 0),
            (Kind::Enum(name), WireValue::Varint(n)) => {
                let number = n as i32;
                let known = self.schema.enumeration(name).ok_or(Malformed)?;
                known.name_of(number).map_or_else(
                    || Value::Number(number.to_string()),
                    |name| Value::String(name.to_owned()),
                )
            }
            (Kind::Int32, WireValue::Varint(n)) => Value::Number((n as i32).to_string()),
            (Kind::Uint32, WireValue::Varint(n)) => Value::Number((n as u32).to_string()),
            (Kind::Sint32, WireValue::Varint(n)) => Value::Number((zigzag(n) as i32).to_string()),
            (Kind::Fixed32, WireValue::Fixed32(n)) => Value::Number(n.to_string()),
            (Kind::Sfixed32, WireValue::Fixed32(n)) => Value::Number((n as i32).to_string()),
            // 64-bit integers are strings in JSON: a double would round them.
            (Kind::Int64, WireValue::Varint(n)) => Value::String((n as i64).to_string()),
            (Kind::Uint64, WireValue::Varint(n)) => Value::String(n.to_string()),
            (Kind::Sint64, WireValue::Varint(n)) => Value::String(zigzag(n).to_string()),
            (Kind::Fixed64, WireValue::Fixed64(n)) => Value::String(n.to_string()),
            (Kind::Sfixed64, WireValue::Fixed64(n)) => Value::String((n as i64).to_string()),
            (Kind::Float, WireValue::Fixed32(n)) => {
                let number = f32::from_bits(n);
                float(number.into(), number.to_string())
            }
            (Kind::Double, WireValue::Fixed64(n)) => {
                let number = f64::from_bits(n);
                float(number, number.to_string())
            }
            _ => return Err(Malformed),
        })
    }

    fn any(&self, parts: &Occurrences<'_>, depth: usize) -> Result<Value, Malformed> {
        let url = last(parts, 1).map(text).transpose()?.unwrap_or_default();
        let bytes = last(parts, 2).map(body).transpose()?.unwrap_or_default();
        if url.is_empty() && bytes.is_empty() {
            return Ok(Value::Map(Vec::new()));
        }
        let mut entries = vec![("@type".to_owned(), Value::String(url.to_owned()))];
        match type_name(url).filter(|name| self.schema.message(name).is_some()) {
            Some(name) => match self.message(name, bytes, depth + 1)? {
                Value::Map(inner) if !super::transcode::has_own_json(name) => entries.extend(inner),
                other => entries.push(("value".to_owned(), other)),
            },
            // Cannot be shown otherwise, and must not be hidden.
            None => entries.push(("value".to_owned(), self.bytes(bytes))),
        }
        Ok(Value::Map(entries))
    }

    fn any_value(&self, parts: &Occurrences<'_>, depth: usize) -> Result<Value, Malformed> {
        let Some((&number, values)) = parts.last_key_value() else {
            return Ok(Value::Null);
        };
        Ok(match (number, values.last()) {
            (2, Some(&WireValue::Fixed64(n))) => {
                let number = f64::from_bits(n);
                float(number, number.to_string())
            }
            (3, Some(&value)) => self.text(text(value)?),
            (4, Some(&WireValue::Varint(n))) => Value::Bool(n != 0),
            (5, Some(&value)) => self.message("google.protobuf.Struct", body(value)?, depth + 1)?,
            (6, Some(&value)) => {
                self.message("google.protobuf.ListValue", body(value)?, depth + 1)?
            }
            _ => Value::Null,
        })
    }
}

fn occurrences(bytes: &[u8]) -> Result<Occurrences<'_>, Malformed> {
    let mut parts = Occurrences::new();
    for field in fields(bytes) {
        let (number, value) = field?;
        parts.entry(number).or_default().push(value);
    }
    Ok(parts)
}

fn all<'p, 'a>(
    parts: &'p Occurrences<'a>,
    number: u32,
) -> impl Iterator<Item = WireValue<'a>> + use<'p, 'a> {
    parts.get(&number).into_iter().flatten().copied()
}

fn last<'a>(parts: &Occurrences<'a>, number: u32) -> Option<WireValue<'a>> {
    parts.get(&number)?.last().copied()
}

fn body(value: WireValue<'_>) -> Result<&[u8], Malformed> {
    match value {
        WireValue::Bytes(bytes) => Ok(bytes),
        _ => Err(Malformed),
    }
}

fn text(value: WireValue<'_>) -> Result<&str, Malformed> {
    std::str::from_utf8(body(value)?).map_err(|_| Malformed)
}

fn seconds_and_nanos(parts: &Occurrences<'_>) -> (i64, i32) {
    let part = |number| match last(parts, number) {
        Some(WireValue::Varint(n)) => n as i64,
        _ => 0,
    };
    (part(1), part(2) as i32)
}

fn unpack_one<'a>(kind: Kind, packed: &mut &'a [u8]) -> Option<WireValue<'a>> {
    Some(match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireValue::Fixed64(get_fixed64(packed)?),
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireValue::Fixed32(get_fixed32(packed)?),
        _ => WireValue::Varint(get_varint(packed)?),
    })
}

fn zigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

fn float(number: f64, shortest: String) -> Value {
    if number.is_nan() {
        Value::String("NaN".to_owned())
    } else if number.is_infinite() {
        let name = if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        };
        Value::String(name.to_owned())
    } else {
        Value::Number(shortest)
    }
}

fn default_of(kind: Kind) -> Value {
    match kind {
        Kind::Bool => Value::Bool(false),
        Kind::String | Kind::Bytes => Value::String(String::new()),
        Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => {
            Value::String("0".to_owned())
        }
        Kind::Message(_) => Value::Map(Vec::new()),
        _ => Value::Number("0".to_owned()),
    }
}
