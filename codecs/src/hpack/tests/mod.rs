//! What HPACK has to hold: the examples of the RFC, hostile blocks, a naive model of the table.

mod appendix_c;
mod coder;
mod model;
mod vectors;

use super::{Decoder, Error};

type Field = (Vec<u8>, Vec<u8>, bool);

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, Error> {
    let mut fields = Vec::new();
    decoder.decode(block, |name, value, never| {
        fields.push((name.to_vec(), value.to_vec(), never));
    })?;
    Ok(fields)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}
