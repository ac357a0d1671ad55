//! The proofs and what they stand on: a simulated disk, a world that drives the real machines on it with an
//! oracle beside it, the crash enumeration and the storage-fault sweep.

mod failures;
mod faults;
mod promise;
mod script;
mod world;

pub use crate::planted::{Bug, with_planted};
pub use diskio::sim::{Crash, Fate, SimDisk};
pub use failures::{FailureCounts, failing_request, scarce_space};
pub use faults::{FaultCounts, Image, random_fault, sweep};
pub use promise::{Promise, Violation};
pub use script::{Found, Script};
pub use world::{Counts, Style, World, enumerate};

/// `base` times the multiplier `RINGD_TEST_BUDGET` (default 1, fractions allowed), at least 1.
pub fn budget(base: u64) -> u64 {
    let text = std::env::var("RINGD_TEST_BUDGET").unwrap_or_default();
    let factor: f64 = text.parse().unwrap_or(1.0);
    ((base as f64 * factor) as u64).max(1)
}

/// A small deterministic generator (xorshift64*), so that every run is named by its seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Generator of `seed`.
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..3 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    /// True in `percent` of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
