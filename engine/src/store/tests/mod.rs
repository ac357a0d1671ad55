//! The store against a plain map, with everything missing at times, and with broken rules.

mod model;
mod planted;
mod random;
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

/// Loads what is needed until the call answers; a call that needs something changes nothing.
fn settle<T>(store: &mut Store, mut call: impl FnMut(&mut Store) -> Step<T>) -> T {
    for _ in 0..100_000 {
        let before = (store.sizes(), store.log.last());
        match call(store) {
            Step::Ready(value) => return value,
            Step::Need(need) => {
                assert_eq!(
                    before,
                    (store.sizes(), store.log.last()),
                    "changed before {need:?}"
                );
                store.load(&need, None).expect("an image that was kept");
            }
        }
    }
    panic!("a call that never ends");
}

/// How much more work than by default `RINGD_TEST_BUDGET` asks for.
fn budget() -> u64 {
    std::env::var("RINGD_TEST_BUDGET")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}
