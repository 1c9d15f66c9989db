//! The Huffman code of RFC 7541, appendix B. The code is canonical, so the lengths of its words say
//! everything; all tables below are computed from them by the compiler.
//!
//! Must never accept a word that is no symbol, the EOS symbol, or padding other than up to seven bits
//! of ones (section 5.2).

use super::Error;

/// End of string: its word pads, and is an error when it appears whole.
const EOS: usize = 256;

/// Bits of the word of each symbol, EOS last.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The longest word.
const MAX_BITS: usize = 30;

/// Words up to this length are found by one look into [`QUICK`]: all that text uses often.
const QUICK_BITS: usize = 10;

/// Everything that follows from [`LENGTHS`].
struct Code {
    /// The word of each symbol, in the low bits.
    words: [u32; 257],
    /// Symbols in the order of their words.
    sorted: [u16; 257],
    /// By length: the first word that is too large for it, left-aligned in 32 bits.
    limits: [u64; MAX_BITS + 1],
    /// By length: what to add to a word to get its place in `sorted`.
    offsets: [i64; MAX_BITS + 1],
    /// By the next [`QUICK_BITS`] bits: symbol, and above it the bits of its word, 0 when it is longer.
    quick: [u16; 1 << QUICK_BITS],
}

const fn build() -> Code {
    let mut code = Code {
        words: [0; 257],
        sorted: [0; 257],
        limits: [0; MAX_BITS + 1],
        offsets: [0; MAX_BITS + 1],
        quick: [0; 1 << QUICK_BITS],
    };
    let mut next: u32 = 0;
    let mut place = 0;
    let mut bits = 1;
    while bits <= MAX_BITS {
        next <<= 1;
        code.offsets[bits] = place as i64 - next as i64;
        let mut symbol = 0;
        while symbol <= EOS {
            if LENGTHS[symbol] as usize == bits {
                code.words[symbol] = next;
                code.sorted[place] = symbol as u16;
                if bits <= QUICK_BITS {
                    let low = (next as usize) << (QUICK_BITS - bits);
                    let mut at = low;
                    while at < low + (1 << (QUICK_BITS - bits)) {
                        code.quick[at] = (bits as u16) << 8 | symbol as u16;
                        at += 1;
                    }
                }
                next += 1;
                place += 1;
            }
            symbol += 1;
        }
        code.limits[bits] = (next as u64) << (32 - bits);
        bits += 1;
    }
    assert!(place == 257 && code.limits[MAX_BITS] == 1 << 32);
    code
}

static CODE: Code = build();

/// Octets that `text` takes in Huffman code.
#[inline]
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text
        .iter()
        .map(|&byte| usize::from(LENGTHS[usize::from(byte)]))
        .sum();
    bits.div_ceil(8)
}

/// Appends `text` in Huffman code, padded with ones.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let mut held: u64 = 0;
    let mut bits: u32 = 0;
    for &byte in text {
        let symbol = usize::from(byte);
        let len = u32::from(LENGTHS[symbol]);
        held = held << len | u64::from(CODE.words[symbol]);
        bits += len;
        if bits >= 32 {
            bits -= 32;
            out.extend_from_slice(&((held >> bits) as u32).to_be_bytes());
        }
    }
    while bits >= 8 {
        bits -= 8;
        out.push((held >> bits) as u8);
    }
    if bits > 0 {
        out.push((held << (8 - bits)) as u8 | 0xff >> bits);
    }
}

/// Appends what `code` says to `out`: at most 8/5 of its length.
///
/// # Errors
/// [`Error::Huffman`]; what was decoded up to there stays in `out`.
pub(super) fn decode(code: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    // The shortest word has five bits: there is room for every symbol, so that none asks for it.
    out.resize(start + code.len() * 8 / 5, 0);
    let mut room = out[start..].iter_mut();
    let decoded = decode_into(code, &mut room);
    let unused = room.len();
    out.truncate(out.len() - unused);
    decoded
}

fn decode_into(code: &[u8], room: &mut std::slice::IterMut<'_, u8>) -> Result<(), Error> {
    // The next bits, from the top down; below `bits` of them there are zeros.
    let mut window: u64 = 0;
    let mut bits: usize = 0;
    let mut rest = code;
    loop {
        while bits <= 32 {
            if let Some((four, tail)) = rest.split_first_chunk::<4>() {
                window |= u64::from(u32::from_be_bytes(*four)) << (32 - bits);
                bits += 32;
                rest = tail;
            } else if let Some((&octet, tail)) = rest.split_first() {
                window |= u64::from(octet) << (56 - bits);
                bits += 8;
                rest = tail;
            } else {
                return finish(window, bits, room);
            }
        }
        // More than 32 bits are there, so that every word is whole.
        while bits > 32 {
            let (symbol, len) = next(window);
            put(symbol, room)?;
            window <<= len;
            bits -= len;
        }
    }
}

/// The last bits of a string: words as long as they are whole, then padding.
fn finish(
    mut window: u64,
    mut bits: usize,
    room: &mut std::slice::IterMut<'_, u8>,
) -> Result<(), Error> {
    loop {
        let ones = window.leading_ones() as usize;
        if bits < 8 && ones >= bits {
            return Ok(());
        }
        let (symbol, len) = next(window);
        if len > bits {
            return Err(Error::Huffman);
        }
        put(symbol, room)?;
        window <<= len;
        bits -= len;
    }
}

/// Writes a symbol; EOS is none.
#[inline]
fn put(symbol: u16, room: &mut std::slice::IterMut<'_, u8>) -> Result<(), Error> {
    if symbol == EOS as u16 {
        return Err(Error::Huffman);
    }
    *room.next().ok_or(Error::Huffman)? = symbol as u8;
    Ok(())
}

/// The symbol that `window` begins with, and the bits of its word.
#[inline]
fn next(window: u64) -> (u16, usize) {
    let quick = CODE.quick[(window >> (64 - QUICK_BITS)) as usize];
    if quick != 0 {
        return (quick & 0xff, usize::from(quick >> 8));
    }
    let top = window >> 32;
    let mut len = QUICK_BITS + 1;
    while len < MAX_BITS && top >= CODE.limits[len] {
        len += 1;
    }
    let place = (top >> (32 - len)) as i64 + CODE.offsets[len];
    // The code is complete: every place below 257 exists, and none beyond is named by 30 bits.
    let symbol = CODE.sorted.get(place as usize).copied();
    (symbol.unwrap_or(EOS as u16), len)
}

#[cfg(test)]
pub(super) fn word(symbol: u8) -> (u32, u8) {
    (
        CODE.words[usize::from(symbol)],
        LENGTHS[usize::from(symbol)],
    )
}
