//! Header blocks to fields (RFC 7541, section 3). Work is bounded by the block; memory by the table
//! size and by one decoded string pair.

use std::ops::Range;

use super::static_table::TABLE;
use super::table::Table;
use super::{DEFAULT_TABLE_SIZE, ENTRY_OVERHEAD, Error, MAX_TABLE_SIZE, huffman, integer};

/// The receiving side's table, and how far the present block has come.
#[derive(Debug)]
pub struct Decoder {
    pub(super) table: Option<Box<Table>>,
    /// The size that the encoder chose last.
    pub(super) size: u32,
    /// The largest size it may choose.
    pub(super) limit: u32,
    /// The next block has to begin with an update to at most this; `u32::MAX` when it need not.
    pub(super) required: u32,
    /// Size updates at the beginning of the present block; [`IN_FIELDS`] once a field was seen.
    pub(super) updates: u8,
}

/// Two updates at most: the smallest size since the last block, and the final one (section 4.2).
const MAX_UPDATES: u8 = 2;
const IN_FIELDS: u8 = MAX_UPDATES + 1;

/// One representation (section 6), its strings not yet decoded.
enum Field {
    Indexed(usize),
    Literal {
        /// 0 when the name is spelled out.
        name_index: usize,
        name: Text,
        value: Text,
        index: bool,
        never: bool,
    },
    Update(u32),
}

/// A string literal's place in the block (section 5.2).
#[derive(Clone, Default)]
struct Text {
    range: Range<usize>,
    huffman: bool,
}

impl Decoder {
    /// A decoder whose settings allow `max_table_size` octets. The table begins with the 4,096 that an
    /// encoder may assume before it has seen any settings. A smaller maximum takes effect by
    /// [`set_max_table_size`](Self::set_max_table_size), once the peer has acknowledged it.
    #[must_use]
    pub fn new(max_table_size: u32) -> Self {
        Self {
            table: None,
            size: DEFAULT_TABLE_SIZE,
            limit: max_table_size.clamp(DEFAULT_TABLE_SIZE, MAX_TABLE_SIZE),
            required: u32::MAX,
            updates: 0,
        }
    }

    /// A decoder of a connection on which both sides have agreed on `size` already.
    #[must_use]
    pub fn with_agreed_size(size: u32) -> Self {
        let size = size.min(MAX_TABLE_SIZE);
        Self {
            size,
            limit: size,
            ..Self::new(size)
        }
    }

    /// The peer has acknowledged a `SETTINGS_HEADER_TABLE_SIZE` of `size`. If the table is larger, the
    /// next block has to begin by making it smaller (section 4.2).
    pub fn set_max_table_size(&mut self, size: u32) {
        self.limit = size.min(MAX_TABLE_SIZE);
        if size < self.size {
            self.required = self.required.min(size);
        }
    }

    /// Decodes one whole header block: `field(name, value, never_indexed)` is called for each field in
    /// order. What the caller makes of them changes nothing here, so that a head which is refused
    /// leaves the table right.
    ///
    /// # Errors
    /// The block cannot be decoded: the connection has to end.
    pub fn decode(
        &mut self,
        block: &[u8],
        field: impl FnMut(&[u8], &[u8], bool),
    ) -> Result<(), Error> {
        self.decode_with(block, &mut Vec::new(), field)
    }

    /// [`decode`](Self::decode) with a buffer for Huffman-coded strings that the caller keeps between
    /// blocks. It is left empty and grows to 8/5 of the longest name and value.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_with(
        &mut self,
        block: &[u8],
        scratch: &mut Vec<u8>,
        field: impl FnMut(&[u8], &[u8], bool),
    ) -> Result<(), Error> {
        let taken = self.decode_part(block, scratch, field)?;
        if taken < block.len() {
            return Err(Error::Truncated);
        }
        self.end_block()
    }

    /// Decodes what is whole of a block that arrives in pieces, and returns how many octets that took;
    /// the rest is to be offered again with what follows it. Then comes [`end_block`](Self::end_block).
    /// A field that is not whole yet costs no more than reading its lengths.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), but never [`Error::Truncated`].
    pub fn decode_part(
        &mut self,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
        mut field: impl FnMut(&[u8], &[u8], bool),
    ) -> Result<usize, Error> {
        let mut at = 0;
        while at < bytes.len() {
            let (next, end) = match parse(bytes, at) {
                Ok(parsed) => parsed,
                Err(Error::Truncated) => break,
                Err(error) => return Err(error),
            };
            if let Field::Update(size) = next {
                self.update(size)?;
            } else {
                self.begin_fields()?;
                self.field(bytes, next, scratch, &mut field)?;
            }
            at = end;
        }
        scratch.clear();
        Ok(at)
    }

    /// The block that was given to [`decode_part`](Self::decode_part) is complete.
    ///
    /// # Errors
    /// [`Error::UpdateMissing`]: it was empty and should have begun with a size update.
    pub fn end_block(&mut self) -> Result<(), Error> {
        self.begin_fields()?;
        self.updates = 0;
        Ok(())
    }

    /// Octets in the table by the RFC's count (section 4.1).
    #[must_use]
    pub fn octets(&self) -> usize {
        self.table.as_ref().map_or(0, |table| table.size())
    }

    /// Octets allocated.
    #[must_use]
    pub fn held(&self) -> usize {
        self.table.as_ref().map_or(0, |table| table.held())
    }

    /// Gives back what is allocated and not used: everything when the table is empty.
    pub fn shrink(&mut self) {
        match &mut self.table {
            Some(table) if table.size() > 0 => table.shrink(),
            _ => self.table = None,
        }
    }

    #[inline]
    fn begin_fields(&mut self) -> Result<(), Error> {
        if self.required != u32::MAX {
            return Err(Error::UpdateMissing);
        }
        self.updates = IN_FIELDS;
        Ok(())
    }

    /// A dynamic table size update (section 6.3).
    fn update(&mut self, size: u32) -> Result<(), Error> {
        if self.updates >= MAX_UPDATES {
            return Err(Error::UpdatePlace);
        }
        if size > self.limit.min(self.required) {
            return Err(Error::TableSize);
        }
        self.updates += 1;
        self.required = u32::MAX;
        self.size = size;
        if let Some(table) = &mut self.table {
            table.evict(size as usize);
            if size == 0 {
                self.table = None;
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        bytes: &[u8],
        next: Field,
        scratch: &mut Vec<u8>,
        field: &mut impl FnMut(&[u8], &[u8], bool),
    ) -> Result<(), Error> {
        let (name_index, name, value, index, never) = match next {
            Field::Indexed(at) => {
                let (name, value) = self.lookup(at)?;
                field(name, value, false);
                return Ok(());
            }
            Field::Literal {
                name_index,
                name,
                value,
                index,
                never,
            } => (name_index, name, value, index, never),
            Field::Update(_) => return Ok(()),
        };
        // What is Huffman-coded, and a name that its own insertion may evict, goes through the scratch.
        scratch.clear();
        if name_index > TABLE.len() {
            let (name, _) = self.lookup(name_index)?;
            scratch.extend_from_slice(name);
        } else if name.huffman {
            huffman::decode(&bytes[name.range.clone()], scratch)?;
        }
        let split = scratch.len();
        if value.huffman {
            huffman::decode(&bytes[value.range.clone()], scratch)?;
        }
        let (name_text, value_text) = scratch.split_at(split);
        let name_text = match name_index {
            0 if name.huffman => name_text,
            0 => &bytes[name.range],
            1..=61 => TABLE[name_index - 1].0.as_bytes(),
            _ => name_text,
        };
        let value_text = if value.huffman {
            value_text
        } else {
            &bytes[value.range]
        };
        field(name_text, value_text, never);
        if index {
            self.insert(name_text, value_text);
        }
        Ok(())
    }

    #[inline]
    fn lookup(&self, index: usize) -> Result<(&[u8], &[u8]), Error> {
        if let Some((name, value)) = TABLE.get(index.wrapping_sub(1)) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let index = index.checked_sub(TABLE.len() + 1).ok_or(Error::Index)?;
        self.table
            .as_ref()
            .and_then(|table| table.get(index))
            .ok_or(Error::Index)
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        if name.len() + value.len() + ENTRY_OVERHEAD > self.size as usize {
            // Larger than the table: it empties it, and that is no error (section 4.4).
            if let Some(table) = &mut self.table {
                table.evict(0);
            }
            return;
        }
        let table = self.table.get_or_insert_default();
        table.insert(name, value, 0, self.size as usize);
    }
}

/// Reads one representation at `at` without decoding its strings. Returns where it ends.
#[inline]
fn parse(bytes: &[u8], at: usize) -> Result<(Field, usize), Error> {
    let first = bytes[at];
    if first & 0x80 != 0 {
        let (index, taken) = integer::decode(&bytes[at..], 7)?;
        return Ok((Field::Indexed(index as usize), at + taken));
    }
    if first & 0xe0 == 0x20 {
        let (size, taken) = integer::decode(&bytes[at..], 5)?;
        return Ok((Field::Update(size), at + taken));
    }
    let index = first & 0x40 != 0;
    let (name_index, taken) = integer::decode(&bytes[at..], if index { 6 } else { 4 })?;
    let mut end = at + taken;
    let mut name = Text::default();
    if name_index == 0 {
        (name, end) = text(bytes, end)?;
    }
    let (value, end) = text(bytes, end)?;
    let literal = Field::Literal {
        name_index: name_index as usize,
        name,
        value,
        index,
        never: first & 0xf0 == 0x10,
    };
    Ok((literal, end))
}

/// Reads a string literal's length at `at` (section 5.2). Returns where the string ends.
#[inline]
fn text(bytes: &[u8], at: usize) -> Result<(Text, usize), Error> {
    let rest = &bytes[at..];
    let (len, taken) = integer::decode(rest, 7)?;
    if rest.len() - taken < len as usize {
        return Err(Error::Truncated);
    }
    let range = at + taken..at + taken + len as usize;
    let end = range.end;
    Ok((
        Text {
            range,
            huffman: rest[0] & 0x80 != 0,
        },
        end,
    ))
}
