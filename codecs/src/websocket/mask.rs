//! Masking (section 5.3): payload exclusive-or a key of four bytes, over and over.

/// Masks or unmasks `bytes`, of which the first is at `offset` of its frame's payload.
///
/// Eight bytes at a time, which the compiler widens to what the machine has.
pub fn apply(bytes: &mut [u8], key: [u8; 4], offset: u64) {
    // The key as it is at the first byte.
    let turned = u32::from_ne_bytes(key).rotate_left_bytes((offset % 4) as u32);
    let word = u64::from(turned) | u64::from(turned) << 32;
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(word.to_ne_bytes()) {
        *byte ^= key;
    }
}

trait RotateBytes {
    fn rotate_left_bytes(self, count: u32) -> Self;
}

impl RotateBytes for u32 {
    /// Turns the bytes, in the order of memory, so that number `count` comes first.
    fn rotate_left_bytes(self, count: u32) -> Self {
        if cfg!(target_endian = "little") {
            self.rotate_right(8 * count)
        } else {
            self.rotate_left(8 * count)
        }
    }
}
