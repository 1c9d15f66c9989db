//! Blocks by other encoders. `vectors.txt` is made by `vectors.py` with Python's `hpack`;
//! `MOORGATE_HPACK_VECTORS` names a further file of the same form, such as the cases of
//! `http2jp/hpack-test-case` converted by the same script.

use super::{decode, hex};
use crate::hpack::{Decoder, Encoder};

/// Lines: `story NAME` begins a connection, `size N` is a `SETTINGS_HEADER_TABLE_SIZE` from there on,
/// `block HEX` a header block, `field HEX HEX` each field it holds (`secret` one never indexed).
fn check(text: &str) -> usize {
    let mut decoder = Decoder::new(4096);
    let (mut ours, mut back) = (Encoder::new(), Decoder::new(4096));
    let (mut story, mut pending, mut blocks) = ("", Vec::new().into_iter(), 0);
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "story" => {
                assert_eq!(pending.next(), None, "{story}");
                story = rest;
                // The sizes of the stories are chosen by their encoders, before any block.
                (decoder, ours, back) = (Decoder::new(16_384), Encoder::new(), Decoder::new(4096));
            }
            "size" => decoder.set_max_table_size(rest.parse().unwrap()),
            "block" => {
                assert_eq!(pending.next(), None, "{story}");
                let fields = decode(&mut decoder, &hex(rest)).unwrap_or_else(|error| {
                    panic!("{story}, block {blocks}: {error}");
                });
                let mut out = Vec::new();
                ours.begin(&mut out);
                for (name, value, never) in &fields {
                    ours.encode(name, value, *never, &mut out);
                }
                let again = decode(&mut back, &out).unwrap();
                assert!(
                    again
                        .iter()
                        .map(|(n, v, _)| (n, v))
                        .eq(fields.iter().map(|(n, v, _)| (n, v)))
                );
                pending = fields.into_iter();
                blocks += 1;
            }
            "field" | "secret" => {
                let (name, value) = rest.split_once(' ').unwrap();
                let got = pending
                    .next()
                    .unwrap_or_else(|| panic!("{story}: a field is missing"));
                assert_eq!(
                    (&got.0, &got.1),
                    (&hex(name), &hex(value)),
                    "{story}, block {blocks}"
                );
                assert!(got.2 || word == "field", "{story}, block {blocks}");
            }
            _ => panic!("{line}"),
        }
    }
    assert_eq!(pending.next(), None, "{story}");
    blocks
}

#[test]
fn blocks_of_other_encoders() {
    assert!(check(include_str!("vectors.txt")) > 90);
    if let Ok(path) = std::env::var("MOORGATE_HPACK_VECTORS") {
        let blocks = check(&std::fs::read_to_string(path).unwrap());
        assert!(blocks > 0);
    }
}
