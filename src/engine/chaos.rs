//! Dice of the chaos build (`--cfg chaos`): a worker parks, leaves work to thieves, steals and gives
//! away wherever it may, not only where it should.
//!
//! Nothing here may do what the engine could not do by itself; it only chooses the moment.
//! `MOORGATE_CHAOS_SEED` seeds the choices; threads still run as the kernel lets them, so that a seed
//! repeats the choices, not the run.

use super::reactor::random::Random;

/// One worker's dice.
#[derive(Debug)]
pub struct Chaos(Random);

impl Chaos {
    pub(super) fn new(worker: u16) -> Self {
        let seed = std::env::var("MOORGATE_CHAOS_SEED");
        let seed = seed.ok().and_then(|seed| seed.parse().ok()).unwrap_or(1u64);
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(worker);
        Self(Random::from_seed(mixed))
    }

    /// True with this probability in a thousand.
    pub fn chance(&mut self, per_mille: u16) -> bool {
        self.0.chance(per_mille)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u64) as usize
    }

    /// Lets other threads in, now and then, where a hand-over is half done.
    pub fn stumble(&mut self) {
        for _ in 0..self.0.below(4) {
            std::thread::yield_now();
        }
    }
}
