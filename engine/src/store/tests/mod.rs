//! The store against a plain map, with everything missing at times, and with broken rules.

mod host;
mod maintain;
mod model;
mod planted;
mod random;
mod slices;
mod unit;

use super::*;
use crate::step::Step;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// The answer of a call that finds everything in memory.
fn settle<T>(store: &mut Store, mut call: impl FnMut(&mut Store) -> Step<T>) -> T {
    match call(store) {
        Step::Ready(value) => value,
        Step::Need(need) => panic!("{need:?} is in memory"),
    }
}

/// How much more work than by default `RINGD_TEST_BUDGET` asks for.
fn budget() -> u64 {
    std::env::var("RINGD_TEST_BUDGET")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}
