//! From a `google.protobuf.Any` to the message a place in the configuration expects.

use moorgate_protos::schema::Schema;
use moorgate_protos::wire::{Malformed, WireValue, fields};
use moorgate_protos::{Any, Message, Name};

use super::dump;
use super::error::{ConfigError, FieldPath};
use super::transcode::{Transcoder, UnknownFields, is_typed_struct, type_name};
use super::value::Value;

/// The full name of the message in `any`; of the message a `TypedStruct` is about, if it is one.
///
/// # Errors
/// `path` holds no type, or a `TypedStruct` that is broken.
pub fn packed_type(any: &Any, path: &FieldPath<'_>) -> Result<String, ConfigError> {
    let name = type_name(&any.type_url)
        .ok_or_else(|| path.error(format!("'{}' is no type URL", any.type_url)))?;
    if !is_typed_struct(name) {
        return Ok(name.to_owned());
    }
    let (url, _) = typed_struct(&any.value).map_err(|e| path.error(e.to_string()))?;
    let inner = type_name(url).ok_or_else(|| path.error(format!("'{url}' is no type URL")))?;
    Ok(inner.to_owned())
}

/// The message of type `M` that `any` holds, as itself or as a `TypedStruct`.
///
/// # Errors
/// `any` is empty, of another type, or its bytes are not a message of that type.
pub fn unpack<M: Message + Name + Default>(
    any: &Any,
    path: &FieldPath<'_>,
) -> Result<M, ConfigError> {
    let expected = M::full_name();
    if any.type_url.is_empty() {
        return Err(path.error(format!("is empty; expected {expected}")));
    }
    let found = packed_type(any, path)?;
    if found != expected {
        return Err(path.error(format!("expected {expected}, found {found}")));
    }
    let malformed = |_| path.error(format!("does not hold a valid {expected}"));
    if type_name(&any.type_url) == Some(expected.as_str()) {
        return M::decode(any.value.as_slice()).map_err(malformed);
    }
    let (_, body) = typed_struct(&any.value).map_err(|e| path.error(e.to_string()))?;
    let schema = Schema::open();
    let document = struct_document(&schema, body, path)?;
    let mut bytes = Vec::new();
    let mut transcoder = Transcoder::new(&schema, UnknownFields::Refuse);
    transcoder.message(&expected, &document, &path.field("value"), &mut bytes)?;
    M::decode(bytes.as_slice()).map_err(malformed)
}

fn struct_document(
    schema: &Schema,
    body: &[u8],
    path: &FieldPath<'_>,
) -> Result<Value, ConfigError> {
    dump::to_value(schema, "google.protobuf.Struct", body)
        .map_err(|e| path.field("value").error(e.to_string()))
}

/// Type URL and encoded `Struct` of an encoded `TypedStruct`.
fn typed_struct(bytes: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let mut url = "";
    let mut body: &[u8] = &[];
    for field in fields(bytes) {
        match field? {
            (1, WireValue::Bytes(bytes)) => {
                url = std::str::from_utf8(bytes).map_err(|_| Malformed)?;
            }
            (2, WireValue::Bytes(bytes)) => body = bytes,
            _ => {}
        }
    }
    Ok((url, body))
}

#[cfg(test)]
mod tests {
    use moorgate_protos::envoy::extensions::filters::http::router::v3::Router;

    use super::*;

    fn typed_struct_of_router(value: &Value) -> Any {
        let schema = Schema::open();
        let document = Value::Map(vec![
            (
                "type_url".into(),
                Value::String(format!("x/{}", Router::full_name())),
            ),
            ("value".into(), value.clone()),
        ]);
        let mut bytes = Vec::new();
        Transcoder::new(&schema, UnknownFields::Refuse)
            .message(
                "xds.type.v3.TypedStruct",
                &document,
                &FieldPath::root("t"),
                &mut bytes,
            )
            .expect("a TypedStruct");
        Any {
            type_url: "type.googleapis.com/xds.type.v3.TypedStruct".into(),
            value: bytes,
        }
    }

    #[test]
    fn a_message_is_unpacked_plain_or_from_a_typed_struct() {
        let path = FieldPath::root("f");
        let router = Router {
            suppress_envoy_headers: true,
            ..Default::default()
        };
        let any = Any::from_msg(&router).expect("encodes");
        assert!(unpack::<Router>(&any, &path) == Ok(router.clone()));
        let flag = vec![("suppressEnvoyHeaders".to_owned(), Value::Bool(true))];
        assert!(unpack::<Router>(&typed_struct_of_router(&Value::Map(flag)), &path) == Ok(router));
    }

    #[test]
    fn errors_name_the_place_and_both_types() {
        let root = FieldPath::root("f");
        let path = root.field("typed_config");
        let reason = |any: &Any| unpack::<Router>(any, &path).err().map(|e| e.to_string());
        let name = "envoy.extensions.filters.http.router.v3.Router";
        assert_eq!(
            reason(&Any::default()),
            Some(format!("f: typed_config: is empty; expected {name}"))
        );
        let other = Any {
            type_url: "x/a.B".into(),
            value: Vec::new(),
        };
        assert_eq!(
            reason(&other),
            Some(format!("f: typed_config: expected {name}, found a.B"))
        );
        let broken = Any {
            type_url: format!("x/{name}"),
            value: vec![0x0b],
        };
        assert_eq!(
            reason(&broken),
            Some(format!("f: typed_config: does not hold a valid {name}"))
        );
        let unknown = Value::Map(vec![("no".to_owned(), Value::Bool(true))]);
        assert_eq!(
            reason(&typed_struct_of_router(&unknown)),
            Some(format!("f: typed_config.value.no: no such field in {name}"))
        );
    }
}
