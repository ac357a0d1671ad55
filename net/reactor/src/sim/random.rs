//! The simulation's own generator: small, fast, the same on every machine.
//!
//! xoshiro256++ seeded through splitmix64 (Blackman and Vigna, "Scrambled linear pseudorandom number
//! generators", 2021). It is no source of secrets.

/// A seeded stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

/// One step of splitmix64: also a good mixing function for single numbers.
pub(crate) fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

impl Random {
    /// The stream of `seed`. Neighbouring seeds give unrelated streams.
    pub fn new(seed: u64) -> Random {
        let mut mixer = seed;
        Random {
            state: std::array::from_fn(|_| splitmix64(&mut mixer)),
        }
    }

    /// An independent stream, so that draws on one side do not shift the other.
    pub fn fork(&mut self) -> Random {
        Random::new(self.next_u64())
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let state = &mut self.state;
        let result = state[0]
            .wrapping_add(state[3])
            .rotate_left(23)
            .wrapping_add(state[0]);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }

    /// A number below `bound`; 0 if `bound` is 0. The bias is below 2⁻⁶⁴ × `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    ///
    /// # Panics
    /// If `low` is above `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "empty range {low}..={high}");
        match (high - low).checked_add(1) {
            Some(width) => low + self.below(width),
            None => self.next_u64(),
        }
    }

    /// True with the given probability. Draws nothing for a rate of zero.
    pub fn hits(&mut self, rate: Rate) -> bool {
        rate.0 > 0 && self.below(1_000_000) < u64::from(rate.0)
    }

    /// A position in a collection of `len` elements.
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        assert!(len > 0, "no element to choose from");
        self.below(len as u64) as usize
    }

    /// Fills `bytes` with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}

/// A probability in parts per million.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Rate(pub u32);

impl Rate {
    /// Never.
    pub const NEVER: Rate = Rate(0);
    /// Always.
    pub const ALWAYS: Rate = Rate(1_000_000);

    /// So many per thousand.
    pub const fn per_mille(count: u32) -> Rate {
        Rate(count * 1_000)
    }

    /// So many per hundred.
    pub const fn percent(count: u32) -> Rate {
        Rate(count * 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        // Reference: the authors' C code, state 1, 2, 3, 4.
        let mut random = Random {
            state: [1, 2, 3, 4],
        };
        let first: Vec<u64> = (0..4).map(|_| random.next_u64()).collect();
        assert_eq!(
            first,
            [41943041, 58720359, 3588806011781223, 3591011842654386]
        );
    }

    #[test]
    fn ranges_and_rates_keep_their_bounds() {
        let mut random = Random::new(7);
        let mut seen = [0u32; 5];
        for _ in 0..5_000 {
            seen[random.between(10, 14) as usize - 10] += 1;
        }
        assert!(
            seen.iter().all(|&count| (800..1_200).contains(&count)),
            "{seen:?}"
        );
        assert_eq!((0..1_000).filter(|_| random.hits(Rate::NEVER)).count(), 0);
        assert_eq!(
            (0..1_000).filter(|_| random.hits(Rate::ALWAYS)).count(),
            1_000
        );
        let hits = (0..10_000)
            .filter(|_| random.hits(Rate::percent(10)))
            .count();
        assert!((850..1_150).contains(&hits), "{hits}");
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn neighbouring_seeds_differ() {
        assert_ne!(Random::new(1).next_u64(), Random::new(2).next_u64());
        let mut parent = Random::new(1);
        assert_ne!(parent.fork().next_u64(), parent.fork().next_u64());
    }
}
