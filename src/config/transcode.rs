//! A document ([`Value`]) to the wire form of a message, by descriptor.
//!
//! Follows protobuf's JSON mapping as Envoy's loader applies it: names in both cases, numbers in
//! strings, a single value where a list is due. Every refusal names the field. Knows nothing of
//! what Moorgate supports.

use moorgate_protos::schema::{FieldSchema, Kind, MessageSchema, Schema};
use moorgate_protos::wire::{WireValue, put_field, put_varint};

use super::error::{ConfigError, FieldPath};
use super::value::{MAX_DEPTH, Value};
use super::{base64, well_known};

/// What happens to a field that the message does not have.
#[derive(Debug)]
pub(crate) enum UnknownFields {
    /// It is an error.
    Refuse,
    /// It is skipped; its path is added here.
    Skip(Vec<String>),
}

/// Encodes documents as messages.
#[derive(Debug)]
pub(crate) struct Transcoder<'s> {
    schema: &'s Schema,
    pub(crate) unknown: UnknownFields,
}

/// The URL prefix that Envoy and everybody else put before type names.
pub(crate) const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

/// Messages that carry a typed message as a `google.protobuf.Struct`.
const TYPED_STRUCTS: [&str; 2] = ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"];

/// Whether `name` is one of the two `TypedStruct`s.
pub(crate) fn is_typed_struct(name: &str) -> bool {
    TYPED_STRUCTS.contains(&name)
}

/// The full message name in a type URL.
pub(crate) fn type_name(url: &str) -> Option<&str> {
    url.rsplit_once('/')
        .map(|(_, name)| name)
        .filter(|name| !name.is_empty())
}

type Outcome = Result<(), ConfigError>;

impl<'s> Transcoder<'s> {
    pub(crate) fn new(schema: &'s Schema, unknown: UnknownFields) -> Self {
        Self { schema, unknown }
    }

    /// Appends the encoding of `value` as the message called `name`.
    ///
    /// # Errors
    /// The first thing in `value` that is not as the message wants it.
    pub(crate) fn message(
        &mut self,
        name: &str,
        value: &Value,
        path: &FieldPath<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        match name {
            "google.protobuf.Any" => self.any(value, path, out),
            "google.protobuf.Duration" => seconds_and_nanos(
                value,
                path,
                out,
                well_known::parse_duration,
                "a duration like \"1.5s\"",
            ),
            "google.protobuf.Timestamp" => seconds_and_nanos(
                value,
                path,
                out,
                well_known::parse_timestamp,
                "a time like \"2026-01-02T03:04:05Z\"",
            ),
            "google.protobuf.FieldMask" => field_mask(value, path, out),
            "google.protobuf.Struct" => struct_fields(value, path, 0, out),
            "google.protobuf.ListValue" => list_items(value, path, 0, out),
            "google.protobuf.Value" => any_value(value, path, 0, out),
            _ => {
                let message = self.known(name, path)?;
                if is_wrapper(name) {
                    let field = message
                        .field_by_number(1)
                        .ok_or_else(|| unknown_type(name, path))?;
                    return self.field_value(field, value, path, out);
                }
                let Value::Map(entries) = value else {
                    return Err(expected("a map", value, path));
                };
                self.fields(
                    &message,
                    entries.iter().map(|(k, v)| (k.as_str(), v)),
                    path,
                    out,
                )
            }
        }
    }

    fn known(
        &self,
        name: &str,
        path: &FieldPath<'_>,
    ) -> Result<std::rc::Rc<MessageSchema>, ConfigError> {
        self.schema
            .message(name)
            .ok_or_else(|| unknown_type(name, path))
    }

    fn fields<'v>(
        &mut self,
        message: &MessageSchema,
        entries: impl Iterator<Item = (&'v str, &'v Value)>,
        path: &FieldPath<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let mut seen: Vec<u32> = Vec::new();
        let mut members: Vec<Option<&str>> = vec![None; message.oneofs.len()];
        for (key, value) in entries {
            let Some(field) = message.field_by_key(key) else {
                let path = path.field(key);
                match &mut self.unknown {
                    UnknownFields::Refuse => {
                        return Err(path.error(format!("no such field in {}", message.name)));
                    }
                    UnknownFields::Skip(skipped) => skipped.push(path.to_string()),
                }
                continue;
            };
            let path_of_field = path.field(field.name);
            if seen.contains(&field.number) {
                return Err(path_of_field.error("is set twice, in both its spellings"));
            }
            seen.push(field.number);
            if *value == Value::Null && !takes_null(field) {
                continue;
            }
            if let Some(member) = field.oneof.and_then(|index| members.get_mut(index))
                && let Some(other) = member.replace(field.name)
            {
                return Err(path_of_field.error(format!(
                    "cannot be set together with '{other}': only one of them may be"
                )));
            }
            self.field(field, value, &path_of_field, out)?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &FieldSchema,
        value: &Value,
        path: &FieldPath<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        if !field.repeated {
            let start = out.len();
            self.field_value(field, value, path, out)?;
            if !field.explicit_presence && ends_in_default(&out[start..]) {
                out.truncate(start);
            }
            return Ok(());
        }
        if let Kind::Message(name) = field.kind {
            let entry = self.known(name, path)?;
            if entry.map_entry {
                return self.map(field, &entry, value, path, out);
            }
        }
        match value {
            Value::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    let path = path.index(i);
                    if *item == Value::Null && !takes_null(field) {
                        return Err(path.error("null stands in a list"));
                    }
                    self.field_value(field, item, &path, out)?;
                }
                Ok(())
            }
            // Envoy's loader takes a single value for a list of one.
            single => self.field_value(field, single, &path.index(0), out),
        }
    }

    fn map(
        &mut self,
        field: &FieldSchema,
        entry: &MessageSchema,
        value: &Value,
        path: &FieldPath<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let (Some(key_field), Some(value_field)) =
            (entry.field_by_number(1), entry.field_by_number(2))
        else {
            return Err(unknown_type(&entry.name, path));
        };
        let Value::Map(entries) = value else {
            return Err(expected("a map", value, path));
        };
        for (key, value) in entries {
            let path = path.key(key);
            if *value == Value::Null && !takes_null(value_field) {
                return Err(path.error("null stands in a map"));
            }
            let mut body = Vec::new();
            // Numbers and bools are valid keys in quotes.
            self.field_value(key_field, &Value::String(key.clone()), &path, &mut body)?;
            self.field_value(value_field, value, &path, &mut body)?;
            put_field(field.number, WireValue::Bytes(&body), out);
        }
        Ok(())
    }

    /// One value of `field`, with its key.
    fn field_value(
        &mut self,
        field: &FieldSchema,
        value: &Value,
        path: &FieldPath<'_>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let wire = match field.kind {
            Kind::Message(name) => {
                let mut body = Vec::new();
                self.message(name, value, path, &mut body)?;
                put_field(field.number, WireValue::Bytes(&body), out);
                return Ok(());
            }
            Kind::String => match value {
                Value::String(text) => WireValue::Bytes(text.as_bytes()),
                other => return Err(expected("a string", other, path)),
            },
            Kind::Bytes => {
                let Value::String(text) = value else {
                    return Err(expected("a string in base64", value, path));
                };
                let bytes = base64::decode(text)
                    .ok_or_else(|| expected("a string in base64", value, path))?;
                put_field(field.number, WireValue::Bytes(&bytes), out);
                return Ok(());
            }
            Kind::Bool => WireValue::Varint(u64::from(boolean(value, path)?)),
            Kind::Enum("google.protobuf.NullValue") => WireValue::Varint(0),
            Kind::Enum(name) => WireValue::Varint(self.enum_number(name, value, path)? as u64),
            Kind::Double => WireValue::Fixed64(float(value, path)?.to_bits()),
            Kind::Float => WireValue::Fixed32(single(value, path)?.to_bits()),
            Kind::Int32 => {
                WireValue::Varint(integer(value, path, i32::MIN.into(), i32::MAX.into())? as u64)
            }
            Kind::Int64 => {
                WireValue::Varint(integer(value, path, i64::MIN.into(), i64::MAX.into())? as u64)
            }
            Kind::Uint32 => WireValue::Varint(integer(value, path, 0, u32::MAX.into())? as u64),
            Kind::Uint64 => WireValue::Varint(integer(value, path, 0, u64::MAX.into())? as u64),
            Kind::Sint32 => {
                let n = integer(value, path, i32::MIN.into(), i32::MAX.into())? as i64;
                WireValue::Varint(((n << 1) ^ (n >> 63)) as u64)
            }
            Kind::Sint64 => {
                let n = integer(value, path, i64::MIN.into(), i64::MAX.into())? as i64;
                WireValue::Varint(((n << 1) ^ (n >> 63)) as u64)
            }
            Kind::Fixed32 => WireValue::Fixed32(integer(value, path, 0, u32::MAX.into())? as u32),
            Kind::Sfixed32 => {
                WireValue::Fixed32(integer(value, path, i32::MIN.into(), i32::MAX.into())? as u32)
            }
            Kind::Fixed64 => WireValue::Fixed64(integer(value, path, 0, u64::MAX.into())? as u64),
            Kind::Sfixed64 => {
                WireValue::Fixed64(integer(value, path, i64::MIN.into(), i64::MAX.into())? as u64)
            }
        };
        put_field(field.number, wire, out);
        Ok(())
    }

    fn enum_number(
        &self,
        name: &str,
        value: &Value,
        path: &FieldPath<'_>,
    ) -> Result<i64, ConfigError> {
        let known = self
            .schema
            .enumeration(name)
            .ok_or_else(|| unknown_type(name, path))?;
        let number = match value {
            Value::String(text) => known.number_of(text).or_else(|| text.parse().ok()),
            Value::Number(text) => text.parse().ok(),
            _ => None,
        };
        match number.filter(|&number| known.name_of(number).is_some()) {
            Some(number) => Ok(number.into()),
            None => {
                let names: Vec<&str> = known.values.iter().map(|(name, _)| *name).collect();
                Err(expected(
                    &format!("one of {}", names.join(", ")),
                    value,
                    path,
                ))
            }
        }
    }

    /// A map with `@type`, as `google.protobuf.Any`. A `TypedStruct` becomes the message it is
    /// about when that is known, so that nobody behind has to know both forms.
    fn any(&mut self, value: &Value, path: &FieldPath<'_>, out: &mut Vec<u8>) -> Outcome {
        let Value::Map(entries) = value else {
            return Err(expected("a map with '@type'", value, path));
        };
        if entries.is_empty() {
            return Ok(());
        }
        let type_path = path.field("@type");
        let url = match value.get("@type") {
            Some(Value::String(url)) => url,
            Some(other) => return Err(expected("a string", other, &type_path)),
            None => return Err(path.error("has no '@type'")),
        };
        let name = type_name(url)
            .ok_or_else(|| type_path.error(format!("'{url}' is no type URL, which has a '/'")))?;
        if is_typed_struct(name)
            && let Some(Value::String(inner_url)) =
                value.get("type_url").or_else(|| value.get("typeUrl"))
            && let Some(inner) = type_name(inner_url)
            && self.schema.message(inner).is_some()
        {
            let mut body = Vec::new();
            for (key, value) in entries {
                match key.as_str() {
                    "@type" | "type_url" | "typeUrl" => {}
                    "value" => self.message(inner, value, &path.field("value"), &mut body)?,
                    _ => return Err(path.field(key).error(format!("no such field in {name}"))),
                }
            }
            put_any(inner, &body, out);
            return Ok(());
        }
        let message = self
            .schema
            .message(name)
            .ok_or_else(|| type_path.error(format!("'{name}' is not a known type")))?;
        let mut body = Vec::new();
        if has_own_json(name) {
            for (key, value) in entries {
                match key.as_str() {
                    "@type" => {}
                    "value" => self.message(name, value, &path.field("value"), &mut body)?,
                    _ => return Err(path.field(key).error(format!("no such field in {name}"))),
                }
            }
        } else {
            let entries = entries.iter().filter(|(key, _)| key != "@type");
            self.fields(
                &message,
                entries.map(|(k, v)| (k.as_str(), v)),
                path,
                &mut body,
            )?;
        }
        put_any(name, &body, out);
        Ok(())
    }
}

fn put_any(name: &str, body: &[u8], out: &mut Vec<u8>) {
    put_field(
        1,
        WireValue::Bytes(format!("{TYPE_URL_PREFIX}{name}").as_bytes()),
        out,
    );
    if !body.is_empty() {
        put_field(2, WireValue::Bytes(body), out);
    }
}

/// Whether the encoding of one scalar field holds the value that an unset one has.
fn ends_in_default(encoded: &[u8]) -> bool {
    let field = moorgate_protos::wire::fields(encoded).next();
    matches!(
        field,
        Some(Ok((
            _,
            WireValue::Varint(0)
                | WireValue::Fixed32(0)
                | WireValue::Fixed64(0)
                | WireValue::Bytes([])
        )))
    )
}

/// Messages whose JSON form is not a map of their fields.
pub(crate) fn has_own_json(name: &str) -> bool {
    is_wrapper(name)
        || matches!(
            name,
            "google.protobuf.Any"
                | "google.protobuf.Duration"
                | "google.protobuf.Timestamp"
                | "google.protobuf.FieldMask"
                | "google.protobuf.Struct"
                | "google.protobuf.ListValue"
                | "google.protobuf.Value"
        )
}

/// `google.protobuf.BoolValue` and its like.
pub(crate) fn is_wrapper(name: &str) -> bool {
    name.strip_prefix("google.protobuf.").is_some_and(|name| {
        matches!(
            name,
            "BoolValue"
                | "BytesValue"
                | "DoubleValue"
                | "FloatValue"
                | "Int32Value"
                | "Int64Value"
                | "StringValue"
                | "UInt32Value"
                | "UInt64Value"
        )
    })
}

fn takes_null(field: &FieldSchema) -> bool {
    matches!(
        field.kind,
        Kind::Message("google.protobuf.Value") | Kind::Enum("google.protobuf.NullValue")
    )
}

fn expected(what: &str, found: &Value, path: &FieldPath<'_>) -> ConfigError {
    path.error(format!("expected {what}, found {}", found.describe()))
}

fn unknown_type(name: &str, path: &FieldPath<'_>) -> ConfigError {
    path.error(format!("'{name}' is not a known type"))
}

fn boolean(value: &Value, path: &FieldPath<'_>) -> Result<bool, ConfigError> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" => Ok(false),
        other => Err(expected("true or false", other, path)),
    }
}

fn integer(value: &Value, path: &FieldPath<'_>, min: i128, max: i128) -> Result<i128, ConfigError> {
    let number = match value {
        Value::Number(text) | Value::String(text) => whole_number(text),
        _ => None,
    };
    number
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| expected(&format!("a whole number from {min} to {max}"), value, path))
}

/// Also takes `1e3` and `2.0`, which are whole.
fn whole_number(text: &str) -> Option<i128> {
    /// Above it a double no longer tells neighbours apart.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if text.starts_with('+') {
        return None;
    }
    text.parse().ok().or_else(|| {
        let number = finite(text)?;
        (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i128)
    })
}

/// Rust takes `inf`, `nan` and the like; JSON has no such numbers.
fn finite(text: &str) -> Option<f64> {
    let plain = text.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let number = plain.then(|| text.parse::<f64>().ok()).flatten();
    number.filter(|number| number.is_finite())
}

fn float(value: &Value, path: &FieldPath<'_>) -> Result<f64, ConfigError> {
    let number = match value {
        Value::String(text) if text == "NaN" => Some(f64::NAN),
        Value::String(text) if text == "Infinity" => Some(f64::INFINITY),
        Value::String(text) if text == "-Infinity" => Some(f64::NEG_INFINITY),
        Value::Number(text) | Value::String(text) => finite(text),
        _ => None,
    };
    number.ok_or_else(|| expected("a number", value, path))
}

fn single(value: &Value, path: &FieldPath<'_>) -> Result<f32, ConfigError> {
    let number = float(value, path)?;
    let narrow = number as f32;
    if number.is_finite() && !narrow.is_finite() {
        return Err(expected("a number of 32 bits", value, path));
    }
    Ok(narrow)
}

/// `Duration` and `Timestamp` have the same two fields.
fn seconds_and_nanos(
    value: &Value,
    path: &FieldPath<'_>,
    out: &mut Vec<u8>,
    parse: fn(&str) -> Option<(i64, i32)>,
    what: &str,
) -> Outcome {
    let parsed = match value {
        Value::String(text) => parse(text),
        _ => None,
    };
    let (seconds, nanos) = parsed.ok_or_else(|| expected(what, value, path))?;
    if seconds != 0 {
        put_field(1, WireValue::Varint(seconds as u64), out);
    }
    if nanos != 0 {
        put_field(2, WireValue::Varint(i64::from(nanos) as u64), out);
    }
    Ok(())
}

fn field_mask(value: &Value, path: &FieldPath<'_>, out: &mut Vec<u8>) -> Outcome {
    let parsed = match value {
        Value::String(text) => well_known::parse_field_mask(text),
        _ => None,
    };
    for mask in parsed.ok_or_else(|| expected("field names with commas between", value, path))? {
        put_field(1, WireValue::Bytes(mask.as_bytes()), out);
    }
    Ok(())
}

fn struct_fields(value: &Value, path: &FieldPath<'_>, depth: usize, out: &mut Vec<u8>) -> Outcome {
    let Value::Map(entries) = value else {
        return Err(expected("a map", value, path));
    };
    for (key, value) in entries {
        let mut body = Vec::new();
        any_value(value, &path.key(key), depth + 1, &mut body)?;
        let mut entry = Vec::with_capacity(key.len() + body.len() + 8);
        put_field(1, WireValue::Bytes(key.as_bytes()), &mut entry);
        put_field(2, WireValue::Bytes(&body), &mut entry);
        put_field(1, WireValue::Bytes(&entry), out);
    }
    Ok(())
}

fn list_items(value: &Value, path: &FieldPath<'_>, depth: usize, out: &mut Vec<u8>) -> Outcome {
    let Value::List(items) = value else {
        return Err(expected("a list", value, path));
    };
    for (i, item) in items.iter().enumerate() {
        let mut body = Vec::new();
        any_value(item, &path.index(i), depth + 1, &mut body)?;
        put_field(1, WireValue::Bytes(&body), out);
    }
    Ok(())
}

/// `google.protobuf.Value`: null_value 1, number 2, string 3, bool 4, struct 5, list 6.
fn any_value(value: &Value, path: &FieldPath<'_>, depth: usize, out: &mut Vec<u8>) -> Outcome {
    if depth > MAX_DEPTH {
        return Err(path.error("nested too deep"));
    }
    match value {
        Value::Null => put_field(1, WireValue::Varint(0), out),
        Value::Bool(value) => put_field(4, WireValue::Varint(u64::from(*value)), out),
        Value::Number(_) => put_field(2, WireValue::Fixed64(float(value, path)?.to_bits()), out),
        Value::String(text) => put_field(3, WireValue::Bytes(text.as_bytes()), out),
        Value::Map(_) | Value::List(_) => {
            let mut body = Vec::new();
            let number = if matches!(value, Value::Map(_)) {
                struct_fields(value, path, depth, &mut body)?;
                5
            } else {
                list_items(value, path, depth, &mut body)?;
                6
            };
            put_varint(number << 3 | 2, out);
            put_varint(body.len() as u64, out);
            out.extend_from_slice(&body);
        }
    }
    Ok(())
}
