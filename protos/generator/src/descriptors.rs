//! Strips a `FileDescriptorSet` down to what reading a configuration needs.
//!
//! Works on the wire bytes, because decoding into `prost_types` would lose the extension options
//! (validation rules, `sensitive`). The result is still a valid `FileDescriptorSet`: only optional
//! parts with a sensible default are left out.

use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};

use crate::Result;

/// Which fields of a message survive, and how its sub-messages are treated.
struct Keep {
    scalars: &'static [u32],
    messages: &'static [(u32, &'static Keep)],
    /// (field, value) pairs left out because a reader assumes the value anyway.
    defaults: &'static [(u32, u64)],
}

static FILE_SET: Keep = Keep {
    scalars: &[],
    messages: &[(1, &FILE)],
    defaults: &[],
};
/// name, package, dependency, public_dependency; messages, enums; syntax. No services, no options.
static FILE: Keep = Keep {
    scalars: &[1, 2, 3, 10, 12],
    messages: &[(4, &MESSAGE), (5, &ENUM)],
    defaults: &[],
};
static MESSAGE: Keep = Keep {
    scalars: &[1],
    messages: &[
        (2, &FIELD),
        (3, &MESSAGE),
        (4, &ENUM),
        (7, &MESSAGE_OPTIONS),
        (8, &ONEOF),
    ],
    defaults: &[],
};
/// map_entry, deprecated, validate.disabled.
static MESSAGE_OPTIONS: Keep = Keep {
    scalars: &[7, 3, 1071, 1072],
    messages: &[],
    defaults: &[],
};
/// name, number, label unless optional, type, type_name, oneof_index, proto3_optional.
static FIELD: Keep = Keep {
    scalars: &[1, 3, 4, 5, 6, 9, 17],
    messages: &[(8, &FIELD_OPTIONS)],
    defaults: &[(4, 1)],
};
/// packed, deprecated, validate.rules, udpa.annotations.sensitive.
static FIELD_OPTIONS: Keep = Keep {
    scalars: &[2, 3, 1071, 76_569_463],
    messages: &[],
    defaults: &[],
};
/// name; validate.required.
static ONEOF: Keep = Keep {
    scalars: &[1],
    messages: &[(2, &ONEOF_OPTIONS)],
    defaults: &[],
};
static ONEOF_OPTIONS: Keep = Keep {
    scalars: &[1071],
    messages: &[],
    defaults: &[],
};
static ENUM: Keep = Keep {
    scalars: &[1],
    messages: &[(2, &ENUM_VALUE), (3, &ENUM_OPTIONS)],
    defaults: &[],
};
static ENUM_OPTIONS: Keep = Keep {
    scalars: &[2],
    messages: &[],
    defaults: &[],
};
static ENUM_VALUE: Keep = Keep {
    scalars: &[1, 2],
    messages: &[(3, &ENUM_VALUE_OPTIONS)],
    defaults: &[],
};
static ENUM_VALUE_OPTIONS: Keep = Keep {
    scalars: &[1],
    messages: &[],
    defaults: &[],
};

/// The stripped form of an encoded `FileDescriptorSet`.
pub fn strip(set: &[u8]) -> Result<Vec<u8>> {
    filter(set, &FILE_SET)
}

fn filter(mut input: &[u8], keep: &Keep) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(input.len());
    while !input.is_empty() {
        let field_start = input;
        let (number, wire_type) = decode_key(&mut input).map_err(invalid)?;
        if let Some((_, inner)) = keep.messages.iter().find(|(n, _)| *n == number) {
            let len = decode_varint(&mut input).map_err(invalid)? as usize;
            let (body, rest) = input
                .split_at_checked(len)
                .ok_or("descriptor set: cut short")?;
            input = rest;
            let body = filter(body, inner)?;
            // An empty options message says nothing; everything else has a name.
            if !body.is_empty() {
                encode_key(number, WireType::LengthDelimited, &mut out);
                encode_varint(body.len() as u64, &mut out);
                out.extend_from_slice(&body);
            }
            continue;
        }
        let value_start = input;
        skip_field(wire_type, number, &mut input, DecodeContext::default()).map_err(invalid)?;
        let is_default = wire_type == WireType::Varint
            && keep.defaults.contains(&(
                number,
                decode_varint(&mut &value_start[..]).map_err(invalid)?,
            ));
        if keep.scalars.contains(&number) && !is_default {
            out.extend_from_slice(&field_start[..field_start.len() - input.len()]);
        }
    }
    Ok(out)
}

fn invalid(error: prost::DecodeError) -> String {
    format!("descriptor set: {error}")
}
