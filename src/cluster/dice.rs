//! Random numbers that a stranger cannot guess: ids of queries, and jitter.

use std::hash::{BuildHasher, RandomState};

/// A keyed hash (SipHash with a key from the operating system) of a counter.
#[derive(Debug)]
pub(crate) struct Dice {
    key: RandomState,
    rolls: u64,
}

impl Dice {
    /// New dice, with a key of their own.
    pub(crate) fn new() -> Self {
        Self {
            key: RandomState::new(),
            rolls: 0,
        }
    }

    /// The next number.
    pub(crate) fn roll(&mut self) -> u64 {
        self.rolls = self.rolls.wrapping_add(1);
        self.key.hash_one(self.rolls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rolls_do_not_repeat() {
        let (mut one, mut two) = (Dice::new(), Dice::new());
        let rolls: HashSet<_> = (0..1_000).flat_map(|_| [one.roll(), two.roll()]).collect();
        assert_eq!(rolls.len(), 2_000);
    }
}
