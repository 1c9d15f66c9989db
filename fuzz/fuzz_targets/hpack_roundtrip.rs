//! Fields and changes of the table's size through an encoder, back through two decoders.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moorgate_codecs::hpack::{Decoder, Encoder};

/// Takes a string whose length is in the low six bits of the first octet.
fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let Some((&len, tail)) = rest.split_first() else { return &[] };
    let (text, tail) = tail.split_at(tail.len().min(usize::from(len & 0x3f)));
    *rest = tail;
    text
}

fuzz_target!(|bytes: &[u8]| {
    const OWN: u32 = 2048;
    let (mut encoder, mut decoder) = (Encoder::with_limit(OWN), Decoder::new(4096));
    let mut other = loona_hpack::Decoder::new();
    other.set_max_allowed_table_size(4096);
    let mut rest = bytes;
    let (mut fields, mut block) = (Vec::new(), Vec::new());
    encoder.begin(&mut block);
    while let Some((&op, tail)) = rest.split_first() {
        rest = tail;
        match op {
            0..=3 if !fields.is_empty() => {
                let mut got = Vec::new();
                decoder
                    .decode(&block, |name, value, _| got.push((name.to_vec(), value.to_vec())))
                    .expect("what we encode can be decoded");
                assert_eq!(got, fields);
                assert_eq!(other.decode(&block).expect("by others too"), fields);
                assert_eq!(encoder.octets(), decoder.octets());
                assert!(encoder.octets() <= OWN as usize);
                match op {
                    0 => encoder.release(),
                    1 => {
                        encoder.shrink();
                        decoder.shrink();
                    }
                    2 => {
                        for &octet in take(&mut rest) {
                            encoder.set_max_table_size(u32::from(octet) * 16);
                            decoder.set_max_table_size(u32::from(octet) * 16);
                        }
                    }
                    _ => {}
                }
                fields.clear();
                block.clear();
                encoder.begin(&mut block);
            }
            _ => {
                let name = take(&mut rest);
                let value = take(&mut rest).repeat(usize::from(op >> 4));
                encoder.encode(name, &value, op & 1 == 1, &mut block);
                fields.push((name.to_vec(), value));
            }
        }
    }
});
