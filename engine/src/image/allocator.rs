//! Which blocks of the page file are in use.

use crate::page::PageRef;

/// Free runs of at least this many blocks (64 KiB) are filled first, so that images are written in runs.
const LONG_RUN_BLOCKS: u64 = 16;
const WORD_BITS: u64 = 64;

/// Neighbouring blocks of the page file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) block: u64,
    pub(crate) blocks: u64,
}

impl Extent {
    pub(crate) fn of(image: PageRef) -> Extent {
        Extent {
            block: image.address,
            blocks: u64::from(image.blocks),
        }
    }
}

/// The blocks of one shard's page file.
///
/// A block is in use if the durable image, the image under way or the tree as it is now has it; the rest
/// is free, everything behind the last word of the map too. Nothing here is done per change: extents are
/// given out at a freeze and come back when an image is durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allocator {
    /// Bit set: in use.
    words: Vec<u64>,
    used: u64,
    /// Where the search for long runs goes on.
    cursor: u64,
}

impl Allocator {
    /// Blocks of an image: bit set is in use.
    pub(crate) fn restore(words: Vec<u64>) -> Allocator {
        let used = words.iter().map(|word| u64::from(word.count_ones())).sum();
        Allocator {
            words,
            used,
            cursor: 0,
        }
    }

    /// Number of blocks in use.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// The map up to its last block in use.
    pub(crate) fn words(&self) -> &[u64] {
        let last = self.words.iter().rposition(|&word| word != 0);
        &self.words[..last.map_or(0, |last| last + 1)]
    }

    pub(crate) fn is_used(&self, block: u64) -> bool {
        let word = self.words.get((block / WORD_BITS) as usize);
        word.is_some_and(|word| word >> (block % WORD_BITS) & 1 == 1)
    }

    /// Takes an extent that is free.
    pub(crate) fn take(&mut self, extent: Extent) {
        let words = (extent.block + extent.blocks).div_ceil(WORD_BITS) as usize;
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        for block in extent.block..extent.block + extent.blocks {
            assert!(!self.is_used(block), "block {block} is given out twice");
            self.words[(block / WORD_BITS) as usize] |= 1 << (block % WORD_BITS);
        }
        self.used += extent.blocks;
    }

    /// Gives an extent back.
    pub(crate) fn free(&mut self, extent: Extent) {
        for block in extent.block..extent.block + extent.blocks {
            assert!(self.is_used(block), "block {block} is freed twice");
            self.words[(block / WORD_BITS) as usize] &= !(1 << (block % WORD_BITS));
        }
        self.used -= extent.blocks;
    }

    /// The first free run of at least `least` blocks that starts in `from..end`, up to `limit`.
    fn free_run(&self, from: u64, end: u64, least: u64, limit: u64) -> Option<Extent> {
        let mut block = from;
        while block < end {
            let start = self.next(block, false);
            if start >= end {
                return None;
            }
            let stop = self.next(start, true).min(limit);
            if stop - start >= least {
                return Some(Extent {
                    block: start,
                    blocks: stop - start,
                });
            }
            block = stop;
        }
        None
    }

    /// The first block at or behind `from` that is in use, or free; `u64::MAX` if there is no more in use.
    fn next(&self, from: u64, used: bool) -> u64 {
        let mut word = (from / WORD_BITS) as usize;
        let mut mask = u64::MAX << (from % WORD_BITS);
        while let Some(&bits) = self.words.get(word) {
            let bits = if used { bits } else { !bits } & mask;
            if bits != 0 {
                return word as u64 * WORD_BITS + u64::from(bits.trailing_zeros());
            }
            word += 1;
            mask = u64::MAX;
        }
        match used {
            true => u64::MAX,
            false => from.max(word as u64 * WORD_BITS),
        }
    }

    /// The block behind the last one in use.
    fn end(&self) -> u64 {
        let words = self.words();
        let last = words
            .last()
            .map_or(0, |word| u64::from(word.leading_zeros()));
        words.len() as u64 * WORD_BITS - last
    }

    /// An extent of `blocks` blocks, taken.
    pub(crate) fn allocate(&mut self, blocks: u64) -> Extent {
        let run = self.free_run(0, u64::MAX, blocks, u64::MAX);
        let run = run.expect("the file may grow");
        let extent = Extent {
            block: run.block,
            blocks,
        };
        self.take(extent);
        extent
    }

    /// Gives every item a place: those in `queues[n]` of `n + 1` blocks each.
    ///
    /// Fills long free runs from the cursor on, once around, then whatever is free from the start of the
    /// file, then grows the file.
    pub(crate) fn place<T>(&mut self, mut queues: [Vec<T>; 4], mut placed: impl FnMut(T, Extent)) {
        let end = self.end();
        let cursor = self.cursor.min(end);
        let passes = [
            (cursor, end, LONG_RUN_BLOCKS),
            (0, cursor, LONG_RUN_BLOCKS),
            (0, end, 1),
        ];
        for (mut from, to, least) in passes {
            while queues.iter().any(|queue| !queue.is_empty())
                && let Some(run) = self.free_run(from, to, least, end)
            {
                let filled = self.fill(run, &mut queues, &mut placed);
                if least == LONG_RUN_BLOCKS {
                    self.cursor = filled;
                }
                // What is left of a run is too small for everything that is still waiting.
                from = run.block + run.blocks;
            }
        }
        let end = self.end();
        let behind = Extent {
            block: end,
            blocks: u64::MAX - end,
        };
        self.fill(behind, &mut queues, &mut placed);
    }

    /// Fills `run` with the largest items that fit; returns where it ends.
    fn fill<T>(
        &mut self,
        run: Extent,
        queues: &mut [Vec<T>; 4],
        placed: &mut impl FnMut(T, Extent),
    ) -> u64 {
        let mut next = run;
        while let Some((item, blocks)) = largest(queues, next.blocks) {
            let extent = Extent {
                block: next.block,
                blocks,
            };
            self.take(extent);
            placed(item, extent);
            next.block += blocks;
            next.blocks -= blocks;
        }
        next.block
    }
}

/// An item of the longest queue length that is at most `blocks`.
fn largest<T>(queues: &mut [Vec<T>; 4], blocks: u64) -> Option<(T, u64)> {
    let most = blocks.min(4) as usize;
    (0..most).rev().find_map(|queue| {
        let item = queues[queue].pop()?;
        Some((item, queue as u64 + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(state: &mut u64, bound: u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % bound
    }

    fn place(allocator: &mut Allocator, sizes: &[u64]) -> Vec<Extent> {
        let mut queues: [Vec<u64>; 4] = Default::default();
        for &size in sizes {
            queues[size as usize - 1].push(size);
        }
        let mut extents = Vec::new();
        allocator.place(queues, |size, extent| {
            assert_eq!(size, extent.blocks);
            extents.push(extent);
        });
        extents
    }

    #[test]
    fn extents_never_overlap_and_everything_is_used_again() {
        for seed in 0..20 {
            let mut state = seed;
            let mut allocator = Allocator::default();
            let mut held: Vec<Extent> = Vec::new();
            let mut most = 0;
            for _ in 0..200 {
                let count = random(&mut state, 60);
                let sizes: Vec<u64> = (0..count).map(|_| 1 + random(&mut state, 4)).collect();
                let got = place(&mut allocator, &sizes);
                assert_eq!(got.len(), sizes.len());
                held.extend(got);
                if random(&mut state, 3) == 0 {
                    held.push(allocator.allocate(1 + random(&mut state, 30)));
                }
                let mut sorted = held.clone();
                sorted.sort_by_key(|extent| extent.block);
                for pair in sorted.windows(2) {
                    assert!(pair[0].block + pair[0].blocks <= pair[1].block, "{pair:?}");
                }
                let used: u64 = held.iter().map(|extent| extent.blocks).sum();
                assert_eq!(allocator.used(), used);
                most = used.max(most);
                while held.len() > 100 {
                    let chosen = random(&mut state, held.len() as u64) as usize;
                    allocator.free(held.swap_remove(chosen));
                }
            }
            let restored = Allocator::restore(allocator.words().to_vec());
            assert_eq!(restored.used(), allocator.used());
            let end = held.iter().map(|extent| extent.block + extent.blocks);
            let end = end.max().unwrap_or_default();
            assert!(end <= 2 * most, "{most} blocks at most, the file has {end}");
        }
    }

    #[test]
    fn long_runs_come_first_and_small_holes_before_growth() {
        let mut allocator = Allocator::default();
        allocator.take(Extent {
            block: 0,
            blocks: 128,
        });
        allocator.free(Extent {
            block: 3,
            blocks: 3,
        });
        allocator.free(Extent {
            block: 40,
            blocks: 20,
        });
        let first = place(&mut allocator, &[3]);
        assert_eq!(
            first,
            [Extent {
                block: 40,
                blocks: 3
            }]
        );
        let rest = place(&mut allocator, &[4, 4, 4, 4, 3, 1]);
        let blocks: Vec<u64> = rest.iter().map(|extent| extent.block).collect();
        assert_eq!(blocks, [43, 47, 51, 55, 59, 3]);
        assert_eq!(place(&mut allocator, &[4])[0].block, 128);
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_free_extent_is_not_freed() {
        let mut allocator = Allocator::default();
        allocator.free(Extent {
            block: 1,
            blocks: 1,
        });
    }
}
