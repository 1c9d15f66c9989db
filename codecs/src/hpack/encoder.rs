//! Fields to header blocks (RFC 7541, section 2). Decides what the peer is made to remember: what
//! comes again. Secrets never enter a table, ours or that of a hop beyond (section 7.1).

use super::table::{self, Table};
use super::{DEFAULT_TABLE_SIZE, ENTRY_OVERHEAD, MAX_TABLE_SIZE, huffman, integer, static_table};

/// The sending side's table, and the size changes that the next block has to begin with.
#[derive(Debug)]
pub struct Encoder {
    table: Option<Box<Table>>,
    /// The size that the peer knows of.
    pub(super) size: u32,
    /// The size from the next block on.
    pub(super) next: u32,
    /// The smallest size since the last block.
    pub(super) lowest: u32,
    /// What we use at most, whatever the peer allows.
    own_limit: u32,
    /// Where the table probably has the next field: behind the last one that was found or inserted.
    guess: u32,
    /// Where it had the first one of the present block; none yet when it is `u32::MAX`.
    block_guess: u32,
}

/// What is done with a field that no table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// Literal with incremental indexing.
    Index,
    /// Literal without indexing: it is not worth a place, its value changes from message to message.
    Pass,
    /// Never indexed, here or beyond.
    Never,
}

/// Cookies shorter than this could be guessed one by one (section 7.1.3).
const SHORT_COOKIE: usize = 20;

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder that uses a table of at most 4,096 octets.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(DEFAULT_TABLE_SIZE)
    }

    /// An encoder that uses a table of at most `own_limit` octets, even if the peer allows more. 0
    /// keeps no table at all.
    #[must_use]
    pub fn with_limit(own_limit: u32) -> Self {
        let own_limit = own_limit.min(MAX_TABLE_SIZE);
        let next = DEFAULT_TABLE_SIZE.min(own_limit);
        Self {
            table: None,
            size: DEFAULT_TABLE_SIZE,
            next,
            lowest: next,
            own_limit,
            guess: 0,
            block_guess: u32::MAX,
        }
    }

    /// The peer's `SETTINGS_HEADER_TABLE_SIZE` is `peer_limit`. The table follows at the beginning of
    /// the next block, which says so (section 4.2).
    pub fn set_max_table_size(&mut self, peer_limit: u32) {
        self.next = peer_limit.min(self.own_limit);
        self.lowest = self.lowest.min(self.next);
    }

    /// Forgets the table and gives its memory back; the next block tells the peer to do the same.
    pub fn release(&mut self) {
        if self.table.take().is_some() {
            self.lowest = 0;
        }
    }

    /// Begins a block: size updates, if there are any.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if self.lowest < self.size {
            self.resize(self.lowest, out);
        }
        if self.next != self.size {
            self.resize(self.next, out);
        }
        self.lowest = self.size;
        // The same fields come in the same order, message after message.
        if self.block_guess != u32::MAX {
            self.guess = self.block_guess;
        }
        self.block_guess = u32::MAX;
    }

    /// Appends one field. `never_index` is for what must not enter any table; `authorization`,
    /// `proxy-authorization` and short cookies are treated so anyway.
    pub fn encode(&mut self, name: &[u8], value: &[u8], never_index: bool, out: &mut Vec<u8>) {
        if !never_index
            && let Some(table) = &self.table
            && let Some(index) = table.index_of(self.guess as usize, name, value)
        {
            self.found(self.guess);
            integer::encode(static_table::TABLE.len() + 1 + index, 7, 0x80, out);
            return;
        }
        let known = static_table::find(name, value);
        let mut name_index = match known {
            static_table::Found::Name(index) | static_table::Found::Whole(index) => index,
            static_table::Found::Nothing => 0,
        };
        let policy = if never_index {
            Policy::Never
        } else {
            self.policy(name_index, name, value)
        };
        if let (static_table::Found::Whole(index), true) = (known, policy != Policy::Never) {
            integer::encode(index, 7, 0x80, out);
            return;
        }
        let mut tag = 0;
        // A field that is not worth a place may be in the table for its name at best, and a static
        // name is as good.
        if policy == Policy::Index || name_index == 0 {
            tag = table::tag(name, value);
            let found = self
                .table
                .as_ref()
                .map(|table| table.find(name, value, tag));
            match found {
                Some(table::Found::Whole(index)) if policy == Policy::Index => {
                    let place = self.table.as_ref().map_or(0, |table| table.place(index));
                    self.found(place);
                    integer::encode(static_table::TABLE.len() + 1 + index, 7, 0x80, out);
                    return;
                }
                Some(table::Found::Whole(index) | table::Found::Name(index)) if name_index == 0 => {
                    name_index = static_table::TABLE.len() + 1 + index;
                }
                _ => {}
            }
        }
        match policy {
            Policy::Index => integer::encode(name_index, 6, 0x40, out),
            Policy::Pass => integer::encode(name_index, 4, 0x00, out),
            Policy::Never => integer::encode(name_index, 4, 0x10, out),
        }
        if name_index == 0 {
            text(name, out);
        }
        text(value, out);
        if policy == Policy::Index {
            let table = self.table.get_or_insert_default();
            table.insert(name, value, tag, self.size as usize);
            let place = table.place(0);
            self.found(place);
        }
    }

    /// The table has the present field at `place`.
    fn found(&mut self, place: u32) {
        if self.block_guess == u32::MAX {
            self.block_guess = place;
        }
        self.guess = place + 1;
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

    fn resize(&mut self, size: u32, out: &mut Vec<u8>) {
        self.size = size;
        integer::encode(size as usize, 5, 0x20, out);
        if size == 0 {
            self.table = None;
        } else if let Some(table) = &mut self.table {
            table.evict(size as usize);
        }
    }

    /// `name_index` is the name's place in the static table, 0 if it has none.
    fn policy(&self, name_index: usize, name: &[u8], value: &[u8]) -> Policy {
        use static_table::at;
        const AUTHORIZATION: usize = at("authorization");
        const PROXY_AUTHORIZATION: usize = at("proxy-authorization");
        const COOKIE: usize = at("cookie");
        const PATH: usize = at(":path");
        const INDEX_HTML: usize = PATH + 1;
        const AGE: usize = at("age");
        const CONTENT_LENGTH: usize = at("content-length");
        const CONTENT_RANGE: usize = at("content-range");
        const ETAG: usize = at("etag");
        const IF_MATCH: usize = at("if-match");
        const IF_MODIFIED_SINCE: usize = at("if-modified-since");
        const IF_NONE_MATCH: usize = at("if-none-match");
        const IF_RANGE: usize = at("if-range");
        const LOCATION: usize = at("location");
        const RANGE: usize = at("range");
        const SET_COOKIE: usize = at("set-cookie");
        match name_index {
            AUTHORIZATION | PROXY_AUTHORIZATION => return Policy::Never,
            COOKIE if value.len() < SHORT_COOKIE => return Policy::Never,
            PATH | INDEX_HTML | AGE | CONTENT_LENGTH | CONTENT_RANGE | ETAG | IF_MATCH
            | IF_MODIFIED_SINCE | IF_NONE_MATCH | IF_RANGE | LOCATION | RANGE | SET_COOKIE => {
                return Policy::Pass;
            }
            0 if matches!(
                name,
                b"grpc-timeout"
                    | b"traceparent"
                    | b"tracestate"
                    | b"x-request-id"
                    | b"x-envoy-upstream-service-time"
            ) =>
            {
                return Policy::Pass;
            }
            _ => {}
        }
        // What would push most of the others out is not worth it.
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        if size > self.size as usize / 4 * 3 {
            Policy::Pass
        } else {
            Policy::Index
        }
    }
}

/// Appends a string literal (section 5.2), in Huffman code if that is shorter.
fn text(text: &[u8], out: &mut Vec<u8>) {
    let coded = huffman::encoded_len(text);
    if coded < text.len() {
        integer::encode(coded, 7, 0x80, out);
        huffman::encode(text, out);
    } else {
        integer::encode(text.len(), 7, 0x00, out);
        out.extend_from_slice(text);
    }
}
