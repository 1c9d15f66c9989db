//! Both coders of a silent connection in few octets.
//!
//! A decoder's table belongs to the peer and is kept, entry by entry, a name of the static table as its
//! index. An encoder's table is ours: it is dropped, and the next block tells the peer to do the same.

use super::static_table::{self, TABLE};
use super::table::Table;
use super::{Decoder, ENTRY_OVERHEAD, Encoder, MAX_TABLE_SIZE};

/// Appends a number in groups of seven bits.
fn write(mut number: u32, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return number.try_into().ok();
        }
    }
    None
}

fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = read(bytes)? as usize;
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(text)
}

impl Decoder {
    /// Appends what is to be kept while no byte moves. Only between blocks.
    pub fn pack(&self, out: &mut Vec<u8>) {
        write(self.size, out);
        write(self.limit, out);
        write(self.required, out);
        let count = self.table.as_ref().map_or(0, |table| table.len());
        write(count as u32, out);
        let Some(table) = &self.table else { return };
        for index in (0..count).rev() {
            let (name, value) = table.get(index).unwrap_or_default();
            match static_table::find(name, b"") {
                static_table::Found::Whole(index) | static_table::Found::Name(index) => {
                    write(index as u32, out);
                }
                static_table::Found::Nothing => {
                    write(0, out);
                    write(name.len() as u32, out);
                    out.extend_from_slice(name);
                }
            }
            write(value.len() as u32, out);
            out.extend_from_slice(value);
        }
    }

    /// The opposite of [`pack`](Self::pack); takes its part off the front. `None` when it is not from
    /// there.
    #[must_use]
    pub fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let (size, limit, required) = (read(bytes)?, read(bytes)?, read(bytes)?);
        let fits = |number: u32| number <= MAX_TABLE_SIZE;
        if !fits(size) || !fits(limit) {
            return None;
        }
        let mut decoder = Self::with_agreed_size(size);
        decoder.limit = limit;
        decoder.required = required;
        let count = read(bytes)?;
        let mut table = Table::default();
        for _ in 0..count {
            let name = match read(bytes)? as usize {
                0 => text(bytes)?,
                index => TABLE.get(index - 1)?.0.as_ref(),
            };
            let value = text(bytes)?;
            let len = name.len() + value.len() + ENTRY_OVERHEAD;
            if table.size() + len > size as usize {
                return None;
            }
            table.insert(name, value, 0, size as usize);
        }
        if count > 0 {
            table.shrink();
            decoder.table = Some(Box::new(table));
        }
        Some(decoder)
    }
}

impl Encoder {
    /// Appends what is to be kept while no byte moves: sizes, not the table.
    pub fn pack(&self, out: &mut Vec<u8>) {
        write(self.size, out);
        write(self.next, out);
        let emptied = self.octets() > 0;
        write(if emptied { 0 } else { self.lowest }, out);
    }

    /// The opposite of [`pack`](Self::pack); takes its part off the front. `None` when it is not from
    /// there.
    #[must_use]
    pub fn unpack(own_limit: u32, bytes: &mut &[u8]) -> Option<Self> {
        let mut encoder = Self::with_limit(own_limit);
        (encoder.size, encoder.next, encoder.lowest) = (read(bytes)?, read(bytes)?, read(bytes)?);
        Some(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
        let fields: [(&[u8], &[u8]); 3] = [
            (b":authority", b"example.com"),
            (b"user-agent", b"test/1"),
            (b"x-own", b"some value"),
        ];
        for round in 0..4 {
            let mut block = Vec::new();
            encoder.begin(&mut block);
            for (name, value) in fields {
                encoder.encode(name, value, false, &mut block);
            }
            let mut got = Vec::new();
            let field = |name: &[u8], value: &[u8], _| got.push((name.to_vec(), value.to_vec()));
            decoder.decode(&block, field).unwrap();
            let want: Vec<_> = fields
                .iter()
                .map(|(n, v)| (n.to_vec(), v.to_vec()))
                .collect();
            assert_eq!(got, want);
            let mut kept = Vec::new();
            decoder.pack(&mut kept);
            let octets = decoder.octets();
            assert!(kept.len() < octets, "{} for {octets}", kept.len());
            if round > 1 {
                encoder.pack(&mut kept);
            }
            let mut rest = &kept[..];
            decoder = Decoder::unpack(&mut rest).unwrap();
            assert_eq!(decoder.octets(), octets);
            if round > 1 {
                // Its table is gone, and the next block says so.
                encoder = Encoder::unpack(4096, &mut rest).unwrap();
                assert_eq!(encoder.octets(), 0);
            }
            assert_eq!(rest, b"");
            for cut in 0..kept.len() {
                let _ = Decoder::unpack(&mut &kept[..cut]);
            }
        }
    }
}
