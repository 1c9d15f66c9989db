//! A message head (or trailers) in one arena: bytes and offsets, reused from message to message.
//!
//! The form is protocol-neutral: request line and pseudo-headers are the same fields here, and names
//! are lower case. What belongs to a hop (`connection`, `transfer-encoding`, `keep-alive` …) stays in
//! the codec and never appears.

use std::fmt;

/// Which kind of head this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadKind {
    #[default]
    Request,
    Response,
    Trailers,
}

/// The protocol version a head came in with, as access logs print it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
    Other,
}

/// A byte range of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slice {
    start: u32,
    len: u32,
}

/// One header field. A removed field keeps its place and is skipped.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    name: Slice,
    value: Slice,
    removed: bool,
    /// Name and value were checked byte by byte when they were read off a message, so they may stand in
    /// another.
    read: bool,
}

/// A section of a message that was copied into a head as a whole: what is named in it is not copied
/// again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied<'a> {
    section: &'a [u8],
    base: u32,
}

impl Copied<'_> {
    /// Where a part of the section is in the head; `None` for bytes from elsewhere.
    fn find(self, part: &[u8]) -> Option<Slice> {
        let start = (part.as_ptr() as usize).checked_sub(self.section.as_ptr() as usize)?;
        let inside = start
            .checked_add(part.len())
            .is_some_and(|end| end <= self.section.len());
        inside.then(|| Slice {
            start: self.base + start as u32,
            len: part.len() as u32,
        })
    }
}

/// Fields that most heads have no more of, with those that are added on the way.
const USUAL_FIELDS: usize = 24;

/// A message head. Lookups are linear: heads have tens of fields, and a scan of lengths is cheaper
/// than a table.
#[derive(Default)]
pub struct Head {
    bytes: Vec<u8>,
    fields: Vec<Field>,
    method: Slice,
    scheme: Slice,
    authority: Slice,
    path: Slice,
    /// Response status, 0 in requests.
    pub status: u16,
    /// Request, response or trailers.
    pub kind: HeadKind,
    /// Version the head came in with.
    pub version: Version,
    /// The message asks to leave HTTP (`connection: upgrade` with an `upgrade` field, or CONNECT).
    pub upgrade: bool,
    /// The client waits for a 100 before it sends the body.
    pub expect_continue: bool,
    /// A request that gets no response.
    pub one_way: bool,
    /// Declared body length, when there is one.
    pub content_length: Option<u64>,
}

impl Head {
    /// An empty request head.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes it empty, keeping its memory.
    pub fn clear(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let fields = std::mem::take(&mut self.fields);
        *self = Self {
            bytes,
            fields,
            ..Self::default()
        };
        self.bytes.clear();
        self.fields.clear();
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity() + self.fields.capacity() * size_of::<Field>()
    }

    /// Bytes of names and values, as header limits count them.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.fields()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }

    /// Number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.iter().filter(|field| !field.removed).count()
    }

    /// No fields at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn at(&self, slice: Slice) -> &[u8] {
        self.bytes
            .get(slice.start as usize..(slice.start + slice.len) as usize)
            .unwrap_or_default()
    }

    /// Copies a section whose parts will be named with the `*_in` methods.
    pub(crate) fn copy_section<'a>(&mut self, section: &'a [u8]) -> Copied<'a> {
        let base = self.store(section).start;
        Copied { section, base }
    }

    /// Sets the method to a part of a copied section.
    pub(crate) fn set_method_in(&mut self, copied: Copied<'_>, method: &[u8]) {
        self.method = copied.find(method).unwrap_or_else(|| self.store(method));
    }

    /// Sets the authority to a part of a copied section.
    pub(crate) fn set_authority_in(&mut self, copied: Copied<'_>, authority: &[u8]) {
        self.authority = copied
            .find(authority)
            .unwrap_or_else(|| self.store(authority));
    }

    /// Sets path and query to a part of a copied section.
    pub(crate) fn set_path_in(&mut self, copied: Copied<'_>, path: &[u8]) {
        self.path = copied.find(path).unwrap_or_else(|| self.store(path));
    }

    /// Adds a field that was read off an HTTP/1 message, by its parts in a copied section.
    pub(crate) fn push_in(&mut self, copied: Copied<'_>, name: &[u8], value: &[u8]) {
        let (Some(name_at), Some(value_at)) = (copied.find(name), copied.find(value)) else {
            self.push(name, value);
            return;
        };
        let range = name_at.start as usize..(name_at.start + name_at.len) as usize;
        self.bytes[range].make_ascii_lowercase();
        self.fields.push(Field {
            name: name_at,
            value: value_at,
            removed: false,
            read: true,
        });
    }

    /// Adds a field that was read off a message and checked: the name is a token in lower case, the value
    /// has no control character but the tab and no white space around it.
    pub(crate) fn push_read(&mut self, name: &[u8], value: &[u8]) {
        self.add(name, value, true);
    }

    /// Appends a field as it is; gives where its name is.
    fn add(&mut self, name: &[u8], value: &[u8], read: bool) -> Slice {
        self.bytes.reserve(name.len() + value.len());
        let name = self.store(name);
        let value = self.store(value);
        self.fields.push(Field {
            name,
            value,
            removed: false,
            read,
        });
        name
    }

    /// Makes room at once for a head of that many bytes, and of as many fields as heads usually have, so
    /// that a fresh one does not grow field by field.
    pub(crate) fn expect(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
        self.fields.reserve(USUAL_FIELDS);
    }

    /// All fields in order; the flag says that a field is as it was read off a message, and checked.
    pub(crate) fn fields_read(&self) -> impl Iterator<Item = (&[u8], &[u8], bool)> {
        self.fields
            .iter()
            .filter(|field| !field.removed)
            .map(|field| (self.at(field.name), self.at(field.value), field.read))
    }

    /// The field is there and has this (lower-case) name.
    fn is(&self, field: Field, name: &[u8]) -> bool {
        !field.removed && field.name.len as usize == name.len() && self.at(field.name) == name
    }

    fn store(&mut self, bytes: &[u8]) -> Slice {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        Slice {
            start,
            len: bytes.len() as u32,
        }
    }

    /// Request method.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        self.at(self.method)
    }

    /// Request scheme (`http`, `https`); empty when not known yet.
    #[must_use]
    pub fn scheme(&self) -> &[u8] {
        self.at(self.scheme)
    }

    /// Request authority (the `host` of HTTP/1).
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        self.at(self.authority)
    }

    /// Request target: path and query, or the authority form of CONNECT's target.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.at(self.path)
    }

    /// Sets the method.
    pub fn set_method(&mut self, method: &[u8]) {
        self.method = self.store(method);
    }

    /// Sets the scheme.
    pub fn set_scheme(&mut self, scheme: &[u8]) {
        self.scheme = self.store(scheme);
    }

    /// Sets the authority.
    pub fn set_authority(&mut self, authority: &[u8]) {
        self.authority = self.store(authority);
    }

    /// Sets path and query.
    pub fn set_path(&mut self, path: &[u8]) {
        self.path = self.store(path);
    }

    /// Sets the path to `/` followed by `rest` (a query without a path).
    pub fn set_path_after_slash(&mut self, rest: &[u8]) {
        let start = self.store(b"/").start;
        let len = self.store(rest).len + 1;
        self.path = Slice { start, len };
    }

    /// Adds a field. The name is stored in lower case.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let name = self.add(name, value, false);
        let range = name.start as usize..(name.start + name.len) as usize;
        self.bytes[range].make_ascii_lowercase();
    }

    /// All fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields
            .iter()
            .filter(|field| !field.removed)
            .map(|field| (self.at(field.name), self.at(field.value)))
    }

    /// Value of the first field of this (lower-case) name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|field| self.is(**field, name))
            .map(|field| self.at(field.value))
    }

    /// Values of all fields of this (lower-case) name.
    pub fn get_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.fields
            .iter()
            .filter(move |field| self.is(**field, name))
            .map(|field| self.at(field.value))
    }

    /// Removes all fields of this (lower-case) name; true when there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let mut found = false;
        for index in 0..self.fields.len() {
            if self.is(self.fields[index], name) {
                self.fields[index].removed = true;
                found = true;
            }
        }
        found
    }

    /// Removes the fields that `drop` names, by (name, value).
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        for index in 0..self.fields.len() {
            let field = self.fields[index];
            if !field.removed && !keep(self.at(field.name), self.at(field.value)) {
                self.fields[index].removed = true;
            }
        }
    }

    /// Replaces all fields of this (lower-case) name by one; keeps the place of the first.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let mut place = None;
        for index in 0..self.fields.len() {
            if self.is(self.fields[index], name) {
                if place.is_none() {
                    place = Some(index);
                } else {
                    self.fields[index].removed = true;
                }
            }
        }
        match place {
            Some(index) => {
                self.fields[index].value = self.store(value);
                self.fields[index].read = false;
            }
            None => self.push(name, value),
        }
    }

    /// Makes this a copy of `other`.
    pub fn copy_from(&mut self, other: &Self) {
        self.clear();
        self.status = other.status;
        self.kind = other.kind;
        self.version = other.version;
        self.upgrade = other.upgrade;
        self.expect_continue = other.expect_continue;
        self.one_way = other.one_way;
        self.content_length = other.content_length;
        self.method = self.store(other.method());
        self.scheme = self.store(other.scheme());
        self.authority = self.store(other.authority());
        self.path = self.store(other.path());
        for (name, value, read) in other.fields_read() {
            self.add(name, value, read);
        }
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut out = f.debug_struct("Head");
        match self.kind {
            HeadKind::Request => out
                .field("method", &text(self.method()))
                .field("authority", &text(self.authority()))
                .field("path", &text(self.path())),
            HeadKind::Response => out.field("status", &self.status),
            HeadKind::Trailers => &mut out,
        };
        for (name, value) in self.fields() {
            out.field(&text(name), &text(value));
        }
        out.finish()
    }
}
