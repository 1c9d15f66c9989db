//! Descriptors of the messages, read out of [`crate::DESCRIPTORS`] as they are asked for.
//!
//! Opening a [`Schema`] only notes where each message stands; a message is taken apart on first
//! use. Meant to live for the length of one parse or one dump and be dropped after it, so that a
//! running process keeps none of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::wire::{Malformed, WireValue, fields};

/// All known messages and enums by full name.
#[derive(Debug)]
pub struct Schema {
    bodies: HashMap<Box<str>, Body>,
    messages: RefCell<HashMap<Box<str>, Rc<MessageSchema>>>,
    enums: RefCell<HashMap<Box<str>, Rc<EnumSchema>>>,
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Message(&'static [u8]),
    Enum(&'static [u8]),
}

/// One message type.
#[derive(Debug)]
pub struct MessageSchema {
    /// Full name without leading dot.
    pub name: Box<str>,
    /// In the order of declaration.
    pub fields: Vec<FieldSchema>,
    /// The oneofs, those that proto3 makes up for `optional` included.
    pub oneofs: Vec<OneofSchema>,
    /// The entry type of a map field: `key` is field 1, `value` field 2.
    pub map_entry: bool,
    /// protoc-gen-validate is told not to look at this message.
    pub validation_disabled: bool,
}

/// A oneof of a message.
#[derive(Clone, Copy, Debug)]
pub struct OneofSchema {
    pub name: &'static str,
    /// The validation rules demand that one member is set.
    pub required: bool,
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub struct FieldSchema {
    /// As declared: snake_case.
    pub name: &'static str,
    pub number: u32,
    pub kind: Kind,
    pub repeated: bool,
    /// Index into [`MessageSchema::oneofs`]; `None` for the made-up oneof of `optional`.
    pub oneof: Option<usize>,
    /// Presence is tracked: `optional`, member of a oneof, or a message.
    pub explicit_presence: bool,
    pub deprecated: bool,
    /// Not to be shown to people (`udpa.annotations.sensitive`).
    pub sensitive: bool,
    /// The encoded `validate.FieldRules`, if there are any.
    pub rules: Option<&'static [u8]>,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    /// Full name of the enum.
    Enum(&'static str),
    /// Full name of the message.
    Message(&'static str),
}

/// One enum type.
#[derive(Debug)]
pub struct EnumSchema {
    /// Full name without leading dot.
    pub name: Box<str>,
    pub values: Vec<(&'static str, i32)>,
}

impl Schema {
    /// Notes where every message of [`crate::DESCRIPTORS`] stands.
    pub fn open() -> Self {
        let mut schema = Self {
            bodies: HashMap::new(),
            messages: RefCell::default(),
            enums: RefCell::default(),
        };
        // The set is part of the program; a test reads all of it.
        let indexed = schema.index(crate::DESCRIPTORS);
        debug_assert_eq!(indexed, Ok(()));
        schema
    }

    /// The message called `name` (without leading dot).
    pub fn message(&self, name: &str) -> Option<Rc<MessageSchema>> {
        if let Some(message) = self.messages.borrow().get(name) {
            return Some(Rc::clone(message));
        }
        let Body::Message(body) = *self.bodies.get(name)? else {
            return None;
        };
        let message = Rc::new(MessageSchema::read(name, body).ok()?);
        self.messages
            .borrow_mut()
            .insert(name.into(), Rc::clone(&message));
        Some(message)
    }

    /// The enum called `name` (without leading dot).
    pub fn enumeration(&self, name: &str) -> Option<Rc<EnumSchema>> {
        if let Some(known) = self.enums.borrow().get(name) {
            return Some(Rc::clone(known));
        }
        let Body::Enum(body) = *self.bodies.get(name)? else {
            return None;
        };
        let found = Rc::new(EnumSchema::read(name, body).ok()?);
        self.enums
            .borrow_mut()
            .insert(name.into(), Rc::clone(&found));
        Some(found)
    }

    /// The full names of all messages, map entries included, in no order.
    pub fn message_names(&self) -> impl Iterator<Item = &str> {
        self.bodies
            .iter()
            .filter(|(_, body)| matches!(body, Body::Message(_)))
            .map(|(name, _)| &**name)
    }

    fn index(&mut self, set: &'static [u8]) -> Result<(), Malformed> {
        for field in fields(set) {
            let (1, WireValue::Bytes(file)) = field? else {
                continue;
            };
            let mut package = "";
            // The package stands before what it contains, but only by habit.
            for field in fields(file) {
                if let (2, WireValue::Bytes(name)) = field? {
                    package = text(name)?;
                }
            }
            for field in fields(file) {
                match field? {
                    (4, WireValue::Bytes(body)) => self.index_message(package, body)?,
                    (5, WireValue::Bytes(body)) => self.index_enum(package, body)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn index_message(&mut self, scope: &str, body: &'static [u8]) -> Result<(), Malformed> {
        let name = qualified(scope, name_of(body)?);
        for field in fields(body) {
            match field? {
                (3, WireValue::Bytes(nested)) => self.index_message(&name, nested)?,
                (4, WireValue::Bytes(nested)) => self.index_enum(&name, nested)?,
                _ => {}
            }
        }
        self.bodies.insert(name.into(), Body::Message(body));
        Ok(())
    }

    fn index_enum(&mut self, scope: &str, body: &'static [u8]) -> Result<(), Malformed> {
        self.bodies
            .insert(qualified(scope, name_of(body)?).into(), Body::Enum(body));
        Ok(())
    }
}

impl MessageSchema {
    /// The field with this declared name or its lowerCamelCase form.
    pub fn field_by_key(&self, key: &str) -> Option<&FieldSchema> {
        self.fields
            .iter()
            .find(|field| field.name == key || is_camel_case_of(key, field.name))
    }

    /// The field with this number.
    pub fn field_by_number(&self, number: u32) -> Option<&FieldSchema> {
        self.fields.iter().find(|field| field.number == number)
    }

    fn read(name: &str, body: &'static [u8]) -> Result<Self, Malformed> {
        let mut message = Self {
            name: name.into(),
            fields: Vec::new(),
            oneofs: Vec::new(),
            map_entry: false,
            validation_disabled: false,
        };
        for field in fields(body) {
            match field? {
                (2, WireValue::Bytes(body)) => message.fields.push(FieldSchema::read(body)?),
                (7, WireValue::Bytes(options)) => {
                    for option in fields(options) {
                        match option? {
                            (7, WireValue::Varint(1)) => message.map_entry = true,
                            (1071 | 1072, WireValue::Varint(1)) => {
                                message.validation_disabled = true;
                            }
                            _ => {}
                        }
                    }
                }
                (8, WireValue::Bytes(body)) => message.oneofs.push(OneofSchema::read(body)?),
                _ => {}
            }
        }
        Ok(message)
    }
}

impl OneofSchema {
    fn read(body: &'static [u8]) -> Result<Self, Malformed> {
        let mut required = false;
        for field in fields(body) {
            if let (2, WireValue::Bytes(options)) = field? {
                for option in fields(options) {
                    required |= option? == (1071, WireValue::Varint(1));
                }
            }
        }
        Ok(Self {
            name: name_of(body)?,
            required,
        })
    }
}

impl FieldSchema {
    fn read(body: &'static [u8]) -> Result<Self, Malformed> {
        let mut kind = 0;
        let mut type_name = "";
        let mut optional = false;
        let mut field = Self {
            name: name_of(body)?,
            number: 0,
            kind: Kind::Bool,
            repeated: false,
            oneof: None,
            explicit_presence: false,
            deprecated: false,
            sensitive: false,
            rules: None,
        };
        for part in fields(body) {
            match part? {
                (3, WireValue::Varint(number)) => {
                    field.number = u32::try_from(number).map_err(|_| Malformed)?;
                }
                (4, WireValue::Varint(label)) => field.repeated = label == 3,
                (5, WireValue::Varint(number)) => kind = number,
                (6, WireValue::Bytes(name)) => type_name = text(name)?.trim_start_matches('.'),
                (8, WireValue::Bytes(options)) => field.read_options(options)?,
                (9, WireValue::Varint(index)) => {
                    field.oneof = Some(usize::try_from(index).map_err(|_| Malformed)?);
                }
                (17, WireValue::Varint(flag)) => optional = flag == 1,
                _ => {}
            }
        }
        field.kind = Kind::from_number(kind, type_name).ok_or(Malformed)?;
        field.explicit_presence =
            field.oneof.is_some() || (matches!(field.kind, Kind::Message(_)) && !field.repeated);
        if optional {
            field.oneof = None;
        }
        Ok(field)
    }

    fn read_options(&mut self, options: &'static [u8]) -> Result<(), Malformed> {
        for option in fields(options) {
            match option? {
                (3, WireValue::Varint(flag)) => self.deprecated = flag == 1,
                (1071, WireValue::Bytes(rules)) => self.rules = Some(rules),
                (76_569_463, WireValue::Varint(flag)) => self.sensitive = flag == 1,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Kind {
    /// `FieldDescriptorProto.Type`; groups do not occur.
    fn from_number(number: u64, type_name: &'static str) -> Option<Self> {
        Some(match number {
            1 => Self::Double,
            2 => Self::Float,
            3 => Self::Int64,
            4 => Self::Uint64,
            5 => Self::Int32,
            6 => Self::Fixed64,
            7 => Self::Fixed32,
            8 => Self::Bool,
            9 => Self::String,
            11 => Self::Message(type_name),
            12 => Self::Bytes,
            13 => Self::Uint32,
            14 => Self::Enum(type_name),
            15 => Self::Sfixed32,
            16 => Self::Sfixed64,
            17 => Self::Sint32,
            18 => Self::Sint64,
            _ => return None,
        })
    }
}

impl EnumSchema {
    /// The number of the value called `name`; case matters.
    pub fn number_of(&self, name: &str) -> Option<i32> {
        self.values
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, number)| *number)
    }

    /// The (first) name of the value `number`.
    pub fn name_of(&self, number: i32) -> Option<&'static str> {
        self.values
            .iter()
            .find(|(_, known)| *known == number)
            .map(|(name, _)| *name)
    }

    fn read(name: &str, body: &'static [u8]) -> Result<Self, Malformed> {
        let mut values = Vec::new();
        for field in fields(body) {
            if let (2, WireValue::Bytes(value)) = field? {
                let mut number = 0;
                for part in fields(value) {
                    if let (2, WireValue::Varint(n)) = part? {
                        // A negative number stands sign-extended to 64 bits.
                        number = n as i32;
                    }
                }
                values.push((name_of(value)?, number));
            }
        }
        Ok(Self {
            name: name.into(),
            values,
        })
    }
}

/// Whether `key` is what protobuf's JSON mapping makes of the field name `name`: each underscore
/// goes and the letter after it is capitalised.
fn is_camel_case_of(key: &str, name: &str) -> bool {
    let mut key = key.bytes();
    let mut capital = false;
    for byte in name.bytes() {
        if byte == b'_' {
            capital = true;
            continue;
        }
        let expected = if capital {
            byte.to_ascii_uppercase()
        } else {
            byte
        };
        capital = false;
        if key.next() != Some(expected) {
            return false;
        }
    }
    key.next().is_none()
}

/// Field 1 of every kind of descriptor.
fn name_of(body: &'static [u8]) -> Result<&'static str, Malformed> {
    for field in fields(body) {
        if let (1, WireValue::Bytes(name)) = field? {
            return text(name);
        }
    }
    Err(Malformed)
}

fn text(bytes: &'static [u8]) -> Result<&'static str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

fn qualified(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_and_every_type_it_names_can_be_read() {
        let schema = Schema::open();
        let names: Vec<&str> = schema.message_names().collect();
        assert!(names.len() > 1000);
        for name in names {
            let message = schema.message(name).expect(name);
            for field in &message.fields {
                match field.kind {
                    Kind::Message(name) => assert!(schema.message(name).is_some(), "{name}"),
                    Kind::Enum(name) => assert!(schema.enumeration(name).is_some(), "{name}"),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn a_field_is_found_by_both_its_names() {
        let schema = Schema::open();
        let listener = schema
            .message("envoy.config.listener.v3.Listener")
            .expect("known");
        let by_snake = listener.field_by_key("filter_chains").expect("declared");
        assert_eq!(
            listener.field_by_key("filterChains").map(|f| f.number),
            Some(by_snake.number)
        );
        assert!(by_snake.repeated);
        assert!(listener.field_by_key("FilterChains").is_none());
        assert!(listener.field_by_key("filterchains").is_none());
    }

    #[test]
    fn presence_oneofs_rules_and_marks_are_kept() {
        let schema = Schema::open();
        let address = schema
            .message("envoy.config.core.v3.Address")
            .expect("known");
        let socket = address.field_by_key("socket_address").expect("declared");
        let oneof = address.oneofs[socket.oneof.expect("member")];
        assert_eq!((oneof.name, oneof.required), ("address", true));
        let socket = schema
            .message("envoy.config.core.v3.SocketAddress")
            .expect("known");
        let host = socket.field_by_key("address").expect("declared");
        assert!(host.rules.is_some() && !host.explicit_presence && !host.sensitive);
        let tls = schema
            .message("envoy.extensions.transport_sockets.tls.v3.TlsCertificate")
            .expect("known");
        assert!(tls.field_by_key("private_key").is_some_and(|f| f.sensitive));
        let node = schema.message("envoy.config.core.v3.Node").expect("known");
        let params = node.field_by_key("dynamic_parameters").expect("declared");
        let Kind::Message(entry) = params.kind else {
            panic!("a map")
        };
        assert!(schema.message(entry).is_some_and(|entry| entry.map_entry));
    }
}
