//! A small generator for choices that are no secret: hosts, jitter, simulated faults.
//!
//! Must never make keys, identifiers an attacker must not guess, or anything else that is a secret.

use std::io;

/// Wyrand: 64 bits of state, one multiplication a number.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded by the kernel.
    ///
    /// # Errors
    /// What getrandom(2) reports, for instance ENOSYS under a strict seccomp filter.
    pub fn from_os() -> io::Result<Self> {
        let mut seed = [0u8; 8];
        // SAFETY: the buffer is ours, writable, and as long as stated.
        let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
        match got {
            8 => Ok(Self(u64::from_ne_bytes(seed))),
            -1 => Err(io::Error::last_os_error()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xa076_1d64_78bd_642f);
        let wide = u128::from(self.0) * u128::from(self.0 ^ 0xe703_7ed1_a0b4_28db);
        (wide >> 64) as u64 ^ wide as u64
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True with probability `per_mille` in a thousand.
    pub fn chance(&mut self, per_mille: u16) -> bool {
        per_mille != 0 && self.below(1000) < u64::from(per_mille)
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn same_seed_same_numbers() {
        let (mut a, mut b) = (Random::from_seed(7), Random::from_seed(7));
        for _ in 0..100 {
            assert_eq!(a.next_u64(), b.next_u64());
        }
    }

    #[test]
    fn below_covers_its_range_and_nothing_else() {
        let mut random = Random::from_os().unwrap();
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[random.below(10) as usize] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(random.below(0), 0);
        assert!(!random.chance(0));
        assert!(random.chance(1000));
    }
}
