//! Any bytes as header blocks of one connection: whole, in pieces, and to another decoder.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moorgate_codecs::hpack::{Decoder, Error};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

const SIZE: u32 = 256;

fn pieces(decoder: &mut Decoder, block: &[u8], step: usize) -> Result<Fields, Error> {
    let (mut fields, mut scratch, mut from, mut to) = (Vec::new(), Vec::new(), 0, 0);
    while to < block.len() {
        to = (to + step).min(block.len());
        from += decoder.decode_part(&block[from..to], &mut scratch, |name, value, _| {
            fields.push((name.to_vec(), value.to_vec()));
        })?;
    }
    if from < block.len() {
        return Err(Error::Truncated);
    }
    decoder.end_block()?;
    Ok(fields)
}

fuzz_target!(|bytes: &[u8]| {
    // The first octet of each block is its length, so that blocks end where the input says.
    let mut whole = Decoder::with_agreed_size(SIZE);
    let mut cut = Decoder::with_agreed_size(SIZE);
    let mut other = loona_hpack::Decoder::new();
    other.set_max_table_size(SIZE as usize);
    other.set_max_allowed_table_size(SIZE as usize);
    let mut rest = bytes;
    while let Some((&len, tail)) = rest.split_first() {
        let (block, tail) = tail.split_at(tail.len().min(usize::from(len)));
        rest = tail;
        let mut fields = Vec::new();
        let result = whole.decode(block, |name, value, _| {
            fields.push((name.to_vec(), value.to_vec()));
        });
        let result = result.map(|()| fields);
        assert_eq!(result, pieces(&mut cut, block, 1 + usize::from(len) % 7));
        let Ok(fields) = result else { return };
        assert!(whole.octets() <= SIZE as usize && whole.held() <= 1024);
        assert_eq!(whole.octets(), cut.octets());
        // The other one refuses blocks that end with a size update, and integers of more octets.
        match other.decode(block) {
            Ok(theirs) => assert_eq!(theirs, fields),
            Err(_) => return,
        }
    }
});
