//! Test mode: pages and values leave memory at random and come back only through `load`.

use std::collections::BTreeMap;

use crate::store::MissingHook;

/// Seeded draws over named things.
///
/// A thing that was loaded is spared for a while, each time for twice as long, so that a call of any
/// length ends.
#[derive(Debug)]
pub(crate) struct Draws<K> {
    hook: MissingHook,
    state: u64,
    accesses: u64,
    /// Access count when the thing was last loaded, and how often it was.
    loaded_at: BTreeMap<K, (u64, u32)>,
}

impl<K: Ord> Draws<K> {
    pub(crate) fn new(hook: MissingHook) -> Self {
        let state = hook.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Draws {
            hook,
            state,
            accesses: 0,
            loaded_at: BTreeMap::new(),
        }
    }

    /// Whether this access finds `key` missing.
    pub(crate) fn draw(&mut self, key: &K) -> bool {
        self.accesses += 1;
        // xorshift64*, Vigna 2016.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        if !random.is_multiple_of(u64::from(self.hook.one_in.max(1))) {
            return false;
        }
        let spared = self.loaded_at.get(key).is_some_and(|&(loaded, times)| {
            let rearm_after = u64::from(self.hook.rearm_after) << times.min(31);
            self.accesses - loaded < rearm_after
        });
        !spared
    }

    /// Notes that `key` was loaded.
    pub(crate) fn loaded(&mut self, key: K) {
        let (loaded, times) = self.loaded_at.entry(key).or_default();
        (*loaded, *times) = (self.accesses, *times + 1);
    }
}

/// The draws over pages, named by the addresses of their images.
pub(super) type MissingPages = Draws<u64>;
