//! Header compression for HTTP/2 (RFC 7541): header blocks to fields and back.
//!
//! What it must never do: read past the block it was given, let a table outgrow the size that both
//! sides agreed on, or keep memory for a connection that never sent a field worth remembering. A
//! [`Decoder`] and an [`Encoder`] are a few words each until the first insertion.
//!
//! After an [`Error`] the two tables no longer agree: the connection ends with `COMPRESSION_ERROR`
//! (RFC 9113, section 4.3).

mod decoder;
mod encoder;
mod huffman;
mod integer;
mod park;
mod static_table;
mod table;

use std::fmt;

pub use decoder::Decoder;
pub use encoder::Encoder;

/// The size that both tables have before any SETTINGS frame says otherwise (RFC 9113, section 6.5.2).
pub const DEFAULT_TABLE_SIZE: u32 = 4096;

/// The largest table that is kept, whatever the settings say. A `SETTINGS_HEADER_TABLE_SIZE` above it
/// must not be offered.
pub const MAX_TABLE_SIZE: u32 = 1 << 30;

/// What every entry costs besides its octets (RFC 7541, section 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// Why a header block cannot be decoded. Each of them ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The block ends within a field (section 6).
    Truncated,
    /// An integer of more than 32 bits, or padded with needless octets (section 5.1).
    Integer,
    /// An index of zero or beyond both tables (section 2.3.3).
    Index,
    /// A Huffman code that is no symbol, is EOS, or is badly padded (section 5.2).
    Huffman,
    /// A table size above what our settings allow (section 6.3).
    TableSize,
    /// A table size update after the first field, or a third one (section 4.2).
    UpdatePlace,
    /// Our settings made the table smaller, and the block does not begin by saying so (section 4.2).
    UpdateMissing,
}

impl Error {
    /// Stable snake_case name, for counters and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Truncated => "hpack_truncated",
            Self::Integer => "hpack_integer",
            Self::Index => "hpack_index",
            Self::Huffman => "hpack_huffman",
            Self::TableSize => "hpack_table_size",
            Self::UpdatePlace => "hpack_update_place",
            Self::UpdateMissing => "hpack_update_missing",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests;
