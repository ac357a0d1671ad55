//! The lowest revisions of an outline, as many as fit into a bounded memory, in order.
//!
//! Shards bring places in the order of keys. They are kept as sorted runs; when there are too many, about the
//! upper half is forgotten, and nothing above it is taken any more. Whoever needs the rest reads the outline
//! again from there on. Nothing here takes long: a run is short, and forgetting cuts each at one place.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::events::{Loc, SegmentId};
use crate::revision::Revision;
use crate::shard::RecordPlace;

/// Places of a run: sorted in about a tenth of a millisecond.
const RUN_PLACES_MAX: usize = 2048;

/// Where a shard's number stands in the first word of a segment's.
const SHARD_SHIFT: u32 = 56;

/// A place and its shard in 28 bytes, ordered by revision: main revision, sub revision, shard and segment, offset,
/// length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packed([u32; 7]);

impl Packed {
    fn new(shard: u16, place: &RecordPlace) -> Self {
        let main = place.revision.main as u64;
        let segment = place.loc.segment.raw() | u64::from(shard) << SHARD_SHIFT;
        Packed([
            (main >> 32) as u32,
            main as u32,
            place.revision.sub,
            (segment >> 32) as u32,
            segment as u32,
            place.loc.offset,
            place.loc.len,
        ])
    }

    fn revision(&self) -> Revision {
        Revision {
            main: word(self.0[0], self.0[1]) as i64,
            sub: self.0[2],
        }
    }

    fn unpack(&self) -> (u16, RecordPlace) {
        let segment = word(self.0[3], self.0[4]);
        let place = RecordPlace {
            revision: self.revision(),
            loc: Loc {
                segment: SegmentId::from_raw(segment & ((1 << SHARD_SHIFT) - 1)),
                offset: self.0[5],
                len: self.0[6],
            },
        };
        ((segment >> SHARD_SHIFT) as u16, place)
    }
}

fn word(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Places that are gathered and then taken in order.
///
/// Invariants: runs are sorted and not empty, all below `high`; nothing below `high` was forgotten.
#[derive(Debug)]
pub(super) struct Places {
    places_max: usize,
    high: Revision,
    runs: Vec<Vec<Packed>>,
    count: usize,
    /// Of each run the lowest place that was not taken; built when the first is taken.
    heads: BinaryHeap<Reverse<(Packed, usize)>>,
    /// Of each run, how many were taken.
    taken: Vec<usize>,
}

impl Places {
    /// Keeps about `places_max` places at most, of revisions below `high`.
    pub(super) fn below(high: Revision, places_max: usize) -> Self {
        Places {
            places_max,
            high,
            runs: Vec::new(),
            count: 0,
            heads: BinaryHeap::new(),
            taken: Vec::new(),
        }
    }

    /// Nothing at or above this is kept.
    pub(super) fn high(&self) -> Revision {
        self.high
    }

    /// Takes what `shard` has brought.
    pub(super) fn add(&mut self, shard: u16, places: &[RecordPlace]) {
        for places in places.chunks(RUN_PLACES_MAX) {
            let below = places.iter().filter(|place| place.revision < self.high);
            let mut run: Vec<Packed> = below.map(|place| Packed::new(shard, place)).collect();
            if run.is_empty() {
                continue;
            }
            run.sort_unstable();
            run.shrink_to_fit();
            self.count += run.len();
            self.runs.push(run);
            if self.count > self.places_max {
                self.forget_upper_half();
            }
        }
    }

    /// Forgets what is at or above about the middle: between a quarter and three quarters of all.
    fn forget_upper_half(&mut self) {
        let middle = |run: &Vec<Packed>| (run[run.len() / 2].revision(), run.len());
        let mut middles: Vec<(Revision, usize)> = self.runs.iter().map(middle).collect();
        middles.sort_unstable();
        let mut passed = 0;
        let heaviest = middles.iter().find(|(_, places)| {
            passed += places;
            passed * 2 >= self.count
        });
        let lowest = self.runs.iter().map(|run| run[0].revision()).min();
        let (Some((high, _)), Some(lowest)) = (heaviest, lowest) else {
            return;
        };
        if *high <= lowest {
            // So few that nothing would be left.
            return;
        }
        self.high = *high;
        for run in &mut self.runs {
            run.truncate(run.partition_point(|place| place.revision() < self.high));
            run.shrink_to_fit();
        }
        self.runs.retain(|run| !run.is_empty());
        self.count = self.runs.iter().map(Vec::len).sum();
    }

    /// Ends the gathering; places can be taken now.
    pub(super) fn seal(&mut self) {
        let heads = self.runs.iter().enumerate();
        self.heads = heads.map(|(index, run)| Reverse((run[0], index))).collect();
        self.taken = vec![0; self.runs.len()];
    }

    /// The next place in the order of revisions, and its shard.
    pub(super) fn next(&mut self) -> Option<(u16, RecordPlace)> {
        let Reverse((place, index)) = self.heads.pop()?;
        self.taken[index] += 1;
        let run = &mut self.runs[index];
        match run.get(self.taken[index]) {
            Some(next) => self.heads.push(Reverse((*next, index))),
            None => *run = Vec::new(),
        }
        Some(place.unpack())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn place(main: i64) -> RecordPlace {
        RecordPlace {
            revision: Revision {
                main,
                sub: (main % 7) as u32,
            },
            loc: Loc {
                segment: SegmentId::event((1 << 40) + main as u64),
                offset: main as u32 * 8,
                len: 48 + main as u32,
            },
        }
    }

    #[test]
    fn places_come_in_order_however_many_passes_it_takes() {
        let mut random = Random::new(7);
        let mut mains: Vec<i64> = (1..=20_000).collect();
        for index in (1..mains.len()).rev() {
            mains.swap(index, random.below(index as u64 + 1) as usize);
        }
        let end = Revision {
            main: i64::MAX,
            sub: 0,
        };
        for places_max in [3, 100, 7000, 50_000] {
            let few = match places_max {
                3 => &mains[..40],
                _ => &mains[..],
            };
            let (mut low, mut taken, mut passes) = (Revision::default(), Vec::new(), 0);
            while low < end {
                let mut places = Places::below(end, places_max);
                for (number, part) in few.chunks(300).enumerate() {
                    let part: Vec<RecordPlace> = part.iter().map(|main| place(*main)).collect();
                    let part: Vec<RecordPlace> =
                        part.into_iter().filter(|p| p.revision >= low).collect();
                    places.add(number as u16 % 64, &part);
                    assert!(places.count <= places_max.max(RUN_PLACES_MAX));
                }
                places.seal();
                while let Some((shard, place)) = places.next() {
                    assert!(shard < 64);
                    taken.push(place);
                }
                assert!(places.high() > low, "a pass without progress");
                low = places.high();
                passes += 1;
            }
            let mut expected: Vec<RecordPlace> = few.iter().map(|main| place(*main)).collect();
            expected.sort_unstable();
            assert_eq!(taken, expected, "{places_max}");
            assert_eq!(passes == 1, places_max == 50_000, "{places_max}: {passes}");
        }
    }
}
