//! Anything at all: round trips, cuts, the table beside a naive one, and another implementation.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Field, decode};
use crate::hpack::table::{self, Table};
use crate::hpack::{DEFAULT_TABLE_SIZE, Decoder, Encoder, Error, integer};

const KNOWN: [&str; 10] = [
    ":status",
    ":path",
    "200",
    "/",
    "cookie",
    "x-a",
    "x-b",
    "date",
    "",
    "a longer value, of text",
];

/// Names and values that come again, beside some that never do.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(&KNOWN[..]).prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..40),
        1 => "[a-z0-9-]{1,200}".prop_map(String::into_bytes),
    ]
}

fn block(least: usize) -> impl Strategy<Value = Vec<Field>> {
    vec((text(), text(), any::<bool>()), least..12)
}

/// What happens to an encoder between blocks.
#[derive(Clone, Debug)]
enum Between {
    Nothing,
    Settings(Vec<u32>),
    Shrink,
    Release,
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        3 => Just(Between::Nothing),
        1 => vec(0..6000u32, 1..4).prop_map(Between::Settings),
        1 => Just(Between::Shrink),
        1 => Just(Between::Release),
    ]
}

/// Representations as an encoder with any policy might choose them.
#[derive(Clone, Debug)]
enum Op {
    Indexed(u32),
    Literal {
        pattern: u8,
        name: Result<u32, Vec<u8>>,
        value: Vec<u8>,
        huffman: bool,
    },
    Size(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let name = prop_oneof![(1..70u32).prop_map(Ok), text().prop_map(Err)];
    prop_oneof![
        (1..70u32).prop_map(Op::Indexed),
        (
            prop_oneof![Just(0x40u8), Just(0), Just(0x10)],
            name,
            text(),
            any::<bool>()
        )
            .prop_map(|(pattern, name, value, huffman)| Op::Literal {
                pattern,
                name,
                value,
                huffman
            }),
    ]
}

fn string(text: &[u8], huffman: bool, out: &mut Vec<u8>) {
    if huffman {
        let mut code = Vec::new();
        crate::hpack::huffman::encode(text, &mut code);
        integer::encode(code.len(), 7, 0x80, out);
        out.extend_from_slice(&code);
    } else {
        integer::encode(text.len(), 7, 0, out);
        out.extend_from_slice(text);
    }
}

fn write(ops: &[Op]) -> Vec<u8> {
    let mut out = Vec::new();
    for op in ops {
        match op {
            Op::Indexed(index) => integer::encode(*index as usize, 7, 0x80, &mut out),
            Op::Size(size) => integer::encode(*size as usize, 5, 0x20, &mut out),
            Op::Literal {
                pattern,
                name,
                value,
                huffman,
            } => {
                let prefix = if *pattern == 0x40 { 6 } else { 4 };
                match name {
                    Ok(index) => integer::encode(*index as usize, prefix, *pattern, &mut out),
                    Err(name) => {
                        integer::encode(0, prefix, *pattern, &mut out);
                        string(name, *huffman, &mut out);
                    }
                }
                string(value, *huffman, &mut out);
            }
        }
    }
    out
}

proptest! {
    #[test]
    // The other decoder takes no block of size updates alone.
    fn what_is_encoded_comes_back(blocks in vec((between(), block(1)), 1..8)) {
        let (mut encoder, mut decoder) = (Encoder::with_limit(5000), Decoder::new(6000));
        let mut other = loona_hpack::Decoder::new();
        other.set_max_allowed_table_size(6000);
        for (between, fields) in blocks {
            match between {
                Between::Nothing => {}
                Between::Settings(sizes) => {
                    for size in sizes {
                        encoder.set_max_table_size(size);
                        decoder.set_max_table_size(size);
                    }
                }
                Between::Shrink => {
                    encoder.shrink();
                    decoder.shrink();
                }
                Between::Release => encoder.release(),
            }
            let mut out = Vec::new();
            encoder.begin(&mut out);
            for (name, value, never) in &fields {
                encoder.encode(name, value, *never, &mut out);
            }
            let got = decode(&mut decoder, &out).unwrap();
            prop_assert_eq!(got.len(), fields.len());
            for ((name, value, never), (got_name, got_value, got_never)) in fields.iter().zip(&got) {
                prop_assert_eq!((name, value), (got_name, got_value));
                prop_assert!(got_never | !never);
            }
            prop_assert_eq!(encoder.octets(), decoder.octets());
            prop_assert!(encoder.octets() <= 5000);
            let theirs = other.decode(&out).unwrap();
            let ours: Vec<_> = got.into_iter().map(|(name, value, _)| (name, value)).collect();
            prop_assert_eq!(theirs, ours);
        }
    }

    #[test]
    fn another_encoder_is_understood(blocks in vec(block(0), 1..8)) {
        let (mut encoder, mut decoder) = (loona_hpack::Encoder::new(), Decoder::new(4096));
        for fields in blocks {
            let pairs = fields.iter().map(|(name, value, _)| (&name[..], &value[..]));
            let got = decode(&mut decoder, &encoder.encode(pairs)).unwrap();
            let got = got.iter().map(|(name, value, _)| (&name[..], &value[..]));
            prop_assert!(got.eq(fields.iter().map(|(name, value, _)| (&name[..], &value[..]))));
        }
    }

    #[test]
    fn two_decoders_agree(
        size in 0..400u32,
        blocks in vec(vec(op(), 1..12), 1..8),
    ) {
        let mut decoder = Decoder::new(DEFAULT_TABLE_SIZE);
        let mut other = loona_hpack::Decoder::new();
        other.set_max_allowed_table_size(DEFAULT_TABLE_SIZE as usize);
        for (at, ops) in blocks.iter().enumerate() {
            let mut bytes = if at == 0 { write(&[Op::Size(size)]) } else { Vec::new() };
            bytes.extend_from_slice(&write(ops));
            let ours = decode(&mut decoder, &bytes);
            match (ours, other.decode(&bytes)) {
                (Ok(ours), Ok(theirs)) => {
                    let ours: Vec<_> = ours.into_iter().map(|(name, value, _)| (name, value)).collect();
                    prop_assert_eq!(ours, theirs);
                }
                (Err(error), Err(_)) => {
                    prop_assert_eq!(error, Error::Index);
                    break;
                }
                (ours, theirs) => prop_assert!(false, "{ours:?} but {theirs:?}"),
            }
            prop_assert!(decoder.octets() <= size as usize);
        }
    }

    #[test]
    fn cut_anywhere_it_is_the_same_or_truncated(
        ops in vec(op(), 1..12),
        cuts in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let bytes = write(&ops);
        let whole = decode(&mut Decoder::new(4096), &bytes);
        for cut in 0..bytes.len() {
            let mut seen = 0;
            let mut decoder = Decoder::new(4096);
            let part = decoder.decode(&bytes[..cut], |_, _, _| seen += 1);
            match (&part, &whole) {
                (Ok(()), Ok(fields)) => prop_assert!(seen < fields.len()),
                (Err(error), Ok(_)) => prop_assert_eq!(*error, Error::Truncated),
                _ => {}
            }
        }
        // In pieces, what is left over offered again.
        let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        places.push(bytes.len());
        places.sort_unstable();
        let (mut decoder, mut scratch) = (Decoder::new(4096), Vec::new());
        let (mut fields, mut from, mut result) = (Vec::new(), 0, Ok(()));
        for to in places {
            match decoder.decode_part(&bytes[from..to], &mut scratch, |name, value, never| {
                fields.push((name.to_vec(), value.to_vec(), never));
            }) {
                Ok(taken) => from += taken,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let pieces = result.and_then(|()| decoder.end_block()).map(|()| fields);
        prop_assert_eq!(pieces, whole);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(blocks in vec(vec(any::<u8>(), 0..200), 1..6)) {
        let mut decoder = Decoder::new(300);
        for block in blocks {
            let mut decoded = 0;
            let result = decoder.decode(&block, |name, value, _| decoded += name.len() + value.len());
            prop_assert!(decoder.octets() <= 4096);
            prop_assert!(decoded <= block.len() * 4096);
            if result.is_err() {
                break;
            }
        }
    }

    #[test]
    fn the_table_is_what_a_naive_one_is(
        max in 32..600usize,
        steps in vec((text(), text(), 0..20u8), 1..200),
    ) {
        let mut table = Table::default();
        let mut naive: VecDeque<(Vec<u8>, Vec<u8>)> = VecDeque::new();
        let size = |naive: &VecDeque<(Vec<u8>, Vec<u8>)>| {
            naive.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>()
        };
        let mut most = 0;
        for (name, value, step) in steps {
            match step {
                0 => table.shrink(),
                1 => {
                    table.evict(max / 2);
                    while size(&naive) > max / 2 {
                        naive.pop_back();
                    }
                }
                _ if name.len() + value.len() + 32 > max => {}
                _ => {
                    naive.push_front((name.clone(), value.clone()));
                    while size(&naive) > max {
                        naive.pop_back();
                    }
                    table.insert(&name, &value, table::tag(&name, &value), max);
                }
            }
            most = most.max(table.held());
            prop_assert_eq!(table.size(), size(&naive));
            for (index, (name, value)) in naive.iter().enumerate() {
                prop_assert_eq!(table.get(index), Some((&name[..], &value[..])));
            }
            prop_assert_eq!(table.get(naive.len()), None);
            let whole = naive.iter().position(|(n, v)| (n, v) == (&name, &value));
            let only = naive.iter().position(|(n, _)| *n == name);
            let expected = match (whole, only) {
                (Some(index), _) => table::Found::Whole(index),
                (None, Some(index)) => table::Found::Name(index),
                (None, None) => table::Found::Nothing,
            };
            prop_assert_eq!(table.find(&name, &value, table::tag(&name, &value)), expected);
        }
        // Slack and twelve octets an entry are within half of the size again.
        prop_assert!(most <= size_of::<Table>() + max * 2 + 48, "{most} for {max}");
        table.evict(0);
        table.shrink();
        prop_assert_eq!(table.held(), size_of::<Table>());
    }
}
