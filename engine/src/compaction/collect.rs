//! Emptying event segments that are mostly dead, so that their space comes back.

use std::collections::{BTreeSet, VecDeque};

use super::settle::{Candidate, may_be_live, settle_key};
use super::{COLLECT_ON_DEMAND_PERCENT, LEAVES_PER_SLICE, Maintained, Parts, RECORDS_PER_SLICE};
use crate::events::SegmentId;
use crate::step::{Step, ready};

/// Lookups of one slice.
const LOOKUPS_PER_SLICE: usize = RECORDS_PER_SLICE / 2;
/// Records of one key that are copied in one go.
const RECORDS_PER_KEY: usize = 128;

/// What is being emptied.
#[derive(Debug)]
struct Victim {
    segment: SegmentId,
    /// The next record to look at; none: all of them were.
    offset: Option<u32>,
    /// Records that may be live, unsorted while records are looked at, then in (key, revision) order.
    batch: VecDeque<Candidate>,
    batch_bytes: u64,
    settling: bool,
}

/// Empties one segment after the other.
///
/// The victim is read from front to end; what may be live is kept until there is a batch of it, which is
/// sorted by key and copied, so that settled records stand in key order within a batch. Whether a version
/// names a record is looked at again when it is copied: only that counts.
///
/// Invariant: everything of the victim before `offset` that is live is in `batch`.
#[derive(Debug)]
pub(crate) struct Collector {
    batch_bytes_max: u64,
    victim: Option<Victim>,
    /// Segments with damage: they stay, and what is readable in them stays readable.
    damaged: BTreeSet<SegmentId>,
}

impl Collector {
    pub(crate) fn new(batch_bytes_max: u64) -> Self {
        Collector {
            batch_bytes_max,
            victim: None,
            damaged: BTreeSet::new(),
        }
    }

    /// Does a slice. Segments with less than `percent` live bytes are worth it; of history only those whose
    /// events are all below main revision `floor`.
    pub(crate) fn slice(
        &mut self,
        parts: &mut Parts<'_>,
        floor: i64,
        percent: u64,
    ) -> Step<Maintained> {
        let Some(victim) = &mut self.victim else {
            self.victim = self.choose(parts, floor, percent);
            return Step::Ready(match self.victim {
                Some(_) => Maintained::Working,
                None => Maintained::Idle,
            });
        };
        let through = match parts.log.live_bytes_of(victim.segment) {
            0 => true,
            _ if victim.settling => {
                if parts.log.is_settling_behind() {
                    return Step::Ready(Maintained::Blocked);
                }
                ready!(settle(victim, parts))
            }
            _ => {
                ready!(gather(victim, parts, self.batch_bytes_max));
                false
            }
        };
        if through {
            let segment = victim.segment;
            let live_bytes = parts.log.live_bytes_of(segment);
            assert_eq!(live_bytes, 0, "{segment:?} is emptied");
            parts.log.retire(segment);
            self.victim = None;
        }
        Step::Ready(Maintained::Working)
    }

    /// The victim with the smallest part of live bytes.
    fn choose(&self, parts: &mut Parts<'_>, floor: i64, percent: u64) -> Option<Victim> {
        let worth = |(_, live, valid): &(SegmentId, u64, u64)| live * 100 < valid * percent;
        let segments = parts.log.collectable(floor);
        let chosen = segments
            .filter(|(segment, ..)| !self.damaged.contains(segment))
            .filter(worth)
            .min_by_key(|(segment, live, valid)| (live * 1000 / valid, *segment));
        if let Some((segment, ..)) = chosen {
            return Some(Victim {
                segment,
                offset: Some(0),
                batch: VecDeque::new(),
                batch_bytes: 0,
                settling: false,
            });
        }
        if percent >= COLLECT_ON_DEMAND_PERCENT {
            parts.log.close_settled(percent);
        }
        None
    }

    /// Leaves the victim alone: part of it, or of what it takes to empty it, cannot be read.
    pub(crate) fn skip(&mut self) {
        if let Some(victim) = self.victim.take() {
            self.damaged.insert(victim.segment);
        }
    }
}

/// Looks at the next records.
fn gather(victim: &mut Victim, parts: &mut Parts<'_>, batch_bytes_max: u64) -> Step<()> {
    let mut lookups = 0;
    while let Some(offset) = victim.offset {
        if victim.batch_bytes >= batch_bytes_max {
            break;
        }
        if lookups == LOOKUPS_PER_SLICE {
            return Step::Ready(());
        }
        lookups += 1;
        let Some(cursor) = parts.log.cursor_at(victim.segment, offset) else {
            victim.offset = None;
            break;
        };
        let (candidate, next) = match ready!(parts.log.read(cursor, i64::MAX)) {
            Some((loc, record)) => (
                Candidate {
                    key: record.key.to_vec(),
                    revision: record.revision,
                    loc,
                    bytes: Vec::new(),
                },
                parts.log.behind(cursor, loc),
            ),
            None => panic!("{:?} ends at {offset}", victim.segment),
        };
        let Candidate {
            key, revision, loc, ..
        } = &candidate;
        if ready!(may_be_live(parts, key, *revision, *loc)) {
            let bytes = parts.log.bytes_of(*loc).expect("a record that was read");
            let bytes = bytes.to_vec();
            victim.batch_bytes += (bytes.len() + key.len()) as u64;
            victim.batch.push_back(Candidate { bytes, ..candidate });
        }
        victim.offset = parts.log.offset_in(victim.segment, next);
    }
    victim
        .batch
        .make_contiguous()
        .sort_unstable_by(|a, b| (&a.key, a.revision).cmp(&(&b.key, b.revision)));
    victim.settling = true;
    Step::Ready(())
}

/// Copies the next records of the batch. Answers whether that was the last of the victim.
fn settle(victim: &mut Victim, parts: &mut Parts<'_>) -> Step<bool> {
    let (mut leaves, mut last, mut records) = (0, None, 0);
    while !victim.batch.is_empty() {
        let batch = &*victim.batch.make_contiguous();
        let same_key = batch.partition_point(|candidate| candidate.key == batch[0].key);
        let taken = same_key.min(RECORDS_PER_KEY);
        let leaf = match settle_key(parts, &batch[..taken]) {
            Step::Ready(leaf) => leaf,
            // What was copied is a slice.
            Step::Need(_) if last.is_some() => return Step::Ready(false),
            Step::Need(need) => return Step::Need(need),
        };
        victim.batch.drain(..taken);
        records += taken;
        if last.replace(leaf) != Some(leaf) {
            leaves += 1;
        }
        if leaves >= LEAVES_PER_SLICE || records >= LOOKUPS_PER_SLICE {
            break;
        }
    }
    if !victim.batch.is_empty() {
        return Step::Ready(false);
    }
    victim.batch_bytes = 0;
    victim.settling = false;
    Step::Ready(victim.offset.is_none())
}
