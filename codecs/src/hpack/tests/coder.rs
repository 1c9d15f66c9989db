//! Integers, Huffman code, size updates, policy: case by case.

use std::collections::HashMap;

use super::{decode, hex};
use crate::hpack::{Decoder, Encoder, Error, MAX_TABLE_SIZE, huffman, integer, static_table};

fn encode(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        encoder.encode(name.as_bytes(), value.as_bytes(), false, &mut out);
    }
    out
}

#[test]
fn coders_are_a_few_words_until_something_is_inserted() {
    assert!(size_of::<Decoder>() <= 24);
    assert!(size_of::<Encoder>() <= 32);
    let (mut decoder, mut encoder) = (Decoder::new(65_536), Encoder::new());
    let block = encode(
        &mut encoder,
        &[(":method", "GET"), (":path", "/secret"), ("cookie", "a")],
    );
    decode(&mut decoder, &block).unwrap();
    assert_eq!((decoder.held(), encoder.held()), (0, 0));
    let block = encode(
        &mut encoder,
        &[(":authority", "example.com"), ("user-agent", "h2load")],
    );
    decode(&mut decoder, &block).unwrap();
    assert_eq!((decoder.octets(), encoder.octets()), (53 + 48, 53 + 48));
    decoder.shrink();
    encoder.shrink();
    // The table, 37 octets of text, twelve for each of two entries.
    assert!(decoder.held() <= 72 + 37 + 24, "{}", decoder.held());
    assert_eq!(decoder.held(), encoder.held());
    encoder.release();
    assert_eq!(encoder.held(), 0);
    let block = encode(&mut encoder, &[]);
    assert_eq!(
        block,
        hex("20 3fe11f"),
        "down to nothing and up to 4,096 again"
    );
    decode(&mut decoder, &block).unwrap();
    assert_eq!(decoder.held(), 0);
}

#[test]
fn integers_have_32_bits_and_no_needless_octets() {
    for value in [
        0,
        1,
        30,
        31,
        32,
        126,
        127,
        128,
        254,
        255,
        1 << 14,
        1 << 21,
        u32::MAX,
    ] {
        for prefix in 4..=7 {
            let mut out = Vec::new();
            integer::encode(value as usize, prefix, 0, &mut out);
            assert_eq!(integer::decode(&out, prefix), Ok((value, out.len())));
            for cut in 0..out.len() {
                assert_eq!(integer::decode(&out[..cut], prefix), Err(Error::Truncated));
            }
        }
    }
    for bad in [
        "7f 818080 8010",
        "7f ffffffff 0f",
        "7f 8080808080",
        "7f 808080808000",
    ] {
        assert_eq!(integer::decode(&hex(bad), 7), Err(Error::Integer), "{bad}");
    }
    assert_eq!(integer::decode(&hex("7f 80808080 00"), 7), Ok((127, 6)));
    assert_eq!(
        integer::decode(&hex("7f 80808080"), 7),
        Err(Error::Truncated)
    );
}

#[test]
fn every_symbol_there_and_back() {
    // Three words of appendix B, of the shortest, a middle and the longest length.
    assert_eq!(huffman::word(b'0'), (0x0, 5));
    assert_eq!(huffman::word(b'\\'), (0x7fff0, 19));
    assert_eq!(huffman::word(10), (0x3fff_fffc, 30));
    for first in 0..=255u8 {
        for second in 0..=255u8 {
            let text = [first, second, first];
            let mut code = Vec::new();
            huffman::encode(&text, &mut code);
            assert_eq!(code.len(), huffman::encoded_len(&text));
            let mut back = Vec::new();
            huffman::decode(&code, &mut back).unwrap();
            assert_eq!(back, text);
        }
    }
}

/// Bit by bit, from nothing but the words: what [`huffman::decode`] has to agree with.
fn decode_slowly(words: &HashMap<(u32, u8), u8>, code: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut word, mut len, mut ones) = (Vec::new(), 0u32, 0u8, true);
    for at in 0..code.len() * 8 {
        let bit = code[at / 8] >> (7 - at % 8) & 1;
        word = word << 1 | u32::from(bit);
        len += 1;
        ones &= bit == 1;
        if len == 30 && ones {
            return None;
        }
        if let Some(&symbol) = words.get(&(word, len)) {
            out.push(symbol);
            (word, len, ones) = (0, 0, true);
        }
    }
    (len < 8 && ones).then_some(out)
}

#[test]
fn huffman_padding_is_short_and_ones_and_never_eos() {
    let words = (0..=255)
        .map(|symbol| (huffman::word(symbol), symbol))
        .collect();
    for (code, good) in [
        ("", true),
        ("ff", false),
        ("07", true),
        ("00", false),
        ("06", false),
        ("07ff", false),
        ("fffffffc", false),
        ("ffffffff", false),
        ("07fffffffe", false),
        ("fffffff3", true),
    ] {
        let bytes = hex(code);
        let mut out = Vec::new();
        let got = huffman::decode(&bytes, &mut out).is_ok();
        assert_eq!(got, decode_slowly(&words, &bytes).is_some(), "{code}");
        assert_eq!(got, good, "{code}");
    }
    // Two octets each way, and behind the longest words.
    for head in ["", "fffffff3", "ffffffff", "07", "fffe"] {
        for tail in (0..=u16::MAX).step_by(3) {
            let mut bytes = hex(head);
            bytes.extend_from_slice(&tail.to_be_bytes());
            let mut out = Vec::new();
            let got = huffman::decode(&bytes, &mut out).ok().map(|()| out);
            assert_eq!(got, decode_slowly(&words, &bytes), "{bytes:02x?}");
        }
    }
}

#[test]
fn every_static_entry_is_found() {
    for (at, (name, value)) in static_table::TABLE.iter().enumerate() {
        let found = static_table::find(name.as_bytes(), value.as_bytes());
        assert_eq!(found, static_table::Found::Whole(at + 1));
        let first = static_table::TABLE
            .iter()
            .position(|(other, _)| other == name)
            .unwrap();
        let found = static_table::find(name.as_bytes(), b"something else");
        assert_eq!(found, static_table::Found::Name(first + 1));
    }
    assert_eq!(
        static_table::find(b"x-other", b""),
        static_table::Found::Nothing
    );
}

#[test]
fn hostile_blocks_are_refused() {
    for (block, error) in [
        ("80", Error::Index),
        ("be", Error::Index),
        ("7e 00", Error::Index),
        ("0f 2f 00", Error::Index),
        ("ff ffffffff0f", Error::Integer),
        ("40", Error::Truncated),
        ("40 01", Error::Truncated),
        ("40 01 61", Error::Truncated),
        ("40 01 61 7f ffffff7f", Error::Truncated),
        ("40 81 ff 00", Error::Huffman),
        ("00 01 61 81 00", Error::Huffman),
        ("82 20", Error::UpdatePlace),
        ("20 20 20", Error::UpdatePlace),
        ("3f e2 1f", Error::TableSize),
        ("3f ffffffff0f", Error::Integer),
    ] {
        assert_eq!(
            decode(&mut Decoder::new(4096), &hex(block)),
            Err(error),
            "{block}"
        );
    }
    // An empty name is for the caller to refuse.
    let fields = decode(&mut Decoder::new(4096), &hex("40 00 00")).unwrap();
    assert_eq!(fields, [(Vec::new(), Vec::new(), false)]);
}

#[test]
fn a_smaller_table_has_to_be_acknowledged_by_the_encoder() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &hex("4001610162")).unwrap();
    assert_eq!(decoder.octets(), 34);
    decoder.set_max_table_size(100);
    decoder.set_max_table_size(4096);
    assert_eq!(decode(&mut decoder, &hex("82")), Err(Error::UpdateMissing));
    assert_eq!(decode(&mut decoder, &hex("")), Err(Error::UpdateMissing));
    // 101 is more than it was in between.
    assert_eq!(decode(&mut decoder, &hex("3f46")), Err(Error::TableSize));
    decode(&mut decoder, &hex("21 3fe11f be")).unwrap_err();
    let mut decoder = Decoder::new(8192);
    decode(&mut decoder, &hex("3fe13f 4001610162")).unwrap();
    decoder.set_max_table_size(100);
    decode(&mut decoder, &hex("3f45 be")).unwrap();
    decoder.set_max_table_size(u32::MAX);
    let mut block = Vec::new();
    integer::encode(MAX_TABLE_SIZE as usize, 5, 0x20, &mut block);
    decode(&mut decoder, &block).unwrap();
    let mut block = Vec::new();
    integer::encode(MAX_TABLE_SIZE as usize + 1, 5, 0x20, &mut block);
    assert_eq!(decode(&mut decoder, &block), Err(Error::TableSize));
}

#[test]
fn the_encoder_says_the_lowest_size_and_the_last() {
    let mut encoder = Encoder::new();
    let field: &[(&str, &str)] = &[("a", "b")];
    assert_eq!(encode(&mut encoder, field), hex("40 0161 0162"));
    encoder.set_max_table_size(4096);
    encoder.set_max_table_size(65_536);
    assert_eq!(
        encode(&mut encoder, field),
        hex("be"),
        "our own limit is what it was"
    );
    encoder.set_max_table_size(30);
    encoder.set_max_table_size(1000);
    encoder.set_max_table_size(500);
    assert_eq!(encode(&mut encoder, field), hex("3e 3fd503 40 0161 0162"));
    assert_eq!(encode(&mut encoder, field), hex("be"));
    encoder.set_max_table_size(0);
    assert_eq!(encode(&mut encoder, field), hex("20 00 0161 0162"));
    assert_eq!(encoder.held(), 0);
    encoder.set_max_table_size(4096);
    assert_eq!(encode(&mut encoder, &[]), hex("3fe11f"));

    let mut small = Encoder::with_limit(64);
    assert_eq!(encode(&mut small, field), hex("3f21 40 0161 0162"));
    let mut large = Encoder::with_limit(65_536);
    assert_eq!(
        encode(&mut large, field),
        hex("40 0161 0162"),
        "4,096 until the peer allows more"
    );
    large.set_max_table_size(8192);
    assert_eq!(encode(&mut large, field), hex("3fe13f be"));
}

#[test]
fn what_enters_the_table() {
    let mut encoder = Encoder::new();
    let mut out = Vec::new();
    encoder.encode(b"x-token", b"never mind", true, &mut out);
    assert_eq!(out[0], 0x10);
    for (name, value, first) in [
        ("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", 0x1f),
        ("proxy-authorization", "Basic x", 0x1f),
        ("cookie", "short", 0x1f),
        ("cookie", "long enough that it is not guessed", 0x60),
        ("set-cookie", "a=b", 0x0f),
        (":path", "/a/b?c=d", 0x04),
        ("content-length", "1234", 0x0f),
        ("x-request-id", "9f2d6c1c-8a3c-4f7a-9bd1-8f3d2f1f8b21", 0x00),
        ("user-agent", "curl/8", 0x7a),
        ("x-tenant", "blue", 0x40),
    ] {
        assert_eq!(
            encode(&mut encoder, &[(name, value)])[0],
            first,
            "{name}: {value}"
        );
    }
    assert_eq!(encode(&mut encoder, &[("x-tenant", "blue")]), hex("be"));
    // A value that changes still uses the name, and what is never indexed too.
    assert_eq!(encode(&mut encoder, &[("x-tenant", "7")]), hex("7e 0137"));
    let mut out = Vec::new();
    encoder.encode(b"x-tenant", b"7", true, &mut out);
    assert_eq!(out, hex("1f2f 0137"));
    // What fills three quarters of the table does not push the rest out.
    let long = "z".repeat(3100);
    assert_eq!(encode(&mut encoder, &[("x-long", &long)])[0], 0x00);
    assert_eq!(encode(&mut encoder, &[("x-tenant", "7")]), hex("be"));
}

#[test]
fn a_field_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::with_agreed_size(64);
    decode(&mut decoder, &hex("4001610162")).unwrap();
    assert_eq!(decoder.octets(), 34);
    let mut block = hex("4001621f");
    block[3] = 33;
    block.extend_from_slice(&[b'x'; 33]);
    decode(&mut decoder, &block).unwrap();
    assert_eq!(decoder.octets(), 0);
    assert_eq!(decode(&mut decoder, &hex("be")), Err(Error::Index));
}

#[test]
fn a_name_may_come_from_the_entry_that_it_evicts() {
    let mut decoder = Decoder::with_agreed_size(64);
    decode(&mut decoder, &hex("40 0a 61626364656667686a6b 01 62")).unwrap();
    let fields = decode(&mut decoder, &hex("7e 02 6364 be")).unwrap();
    let field = (b"abcdefghjk".to_vec(), b"cd".to_vec(), false);
    assert_eq!(fields, [field.clone(), field]);
}
