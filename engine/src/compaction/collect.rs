//! Emptying event segments that are mostly dead, so that their space comes back.

use std::collections::{BTreeMap, BTreeSet};

use super::settle::{Candidate, may_be_live, settle_key};
use super::{
    COLLECT_ON_DEMAND_PERCENT, KEYS_PER_SLICE, LEAVES_PER_SLICE, Maintained, Parts,
    RECORDS_PER_SLICE,
};
use crate::events::{Loc, Record, SegmentId};
use crate::revision::Revision;
use crate::step::{Step, ready};

/// Records of one key that are copied in one go.
const RECORDS_PER_KEY: usize = 128;

/// What is being emptied.
#[derive(Debug)]
struct Victim {
    segment: SegmentId,
    /// The next record to look at; none: all of them were.
    offset: Option<u32>,
    /// Records that may be live. A map, because sorting all of them at once would be a long slice.
    batch: BTreeMap<(Vec<u8>, Revision), (Loc, Vec<u8>)>,
    batch_bytes: u64,
    /// Those of one key that are copied next.
    current: Vec<Candidate>,
    settling: bool,
}

/// Empties one segment after the other.
///
/// The victim is read from front to end; what may be live is kept until there is a batch of it, which is
/// sorted by key and copied, so that settled records stand in key order within a batch. Whether a version
/// names a record is looked at again when it is copied: only that counts.
///
/// Invariant: everything of the victim before `offset` that is live is in `batch` or `current`.
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
                batch: BTreeMap::new(),
                batch_bytes: 0,
                current: Vec::new(),
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
    let (mut records, mut lookups) = (0, 0);
    while let Some(offset) = victim.offset {
        if victim.batch_bytes >= batch_bytes_max {
            break;
        }
        if records == RECORDS_PER_SLICE || lookups == KEYS_PER_SLICE {
            return Step::Ready(());
        }
        records += 1;
        let Some(cursor) = parts.log.cursor_at(victim.segment, offset) else {
            victim.offset = None;
            break;
        };
        let Some((loc, record)) = ready!(parts.log.read(cursor, i64::MAX)) else {
            panic!("{:?} ends at {offset}", victim.segment);
        };
        let revision = record.revision;
        let next = parts.log.behind(cursor, loc);
        if !parts.log.is_dead(loc) {
            lookups += 1;
            let bytes = parts.log.bytes_of(loc).expect("a record that was read");
            let bytes = bytes.to_vec();
            let record = Record::parse(&bytes).expect("a record that was read");
            if ready!(may_be_live(parts, record.key, revision, loc)) {
                let key = record.key.to_vec();
                victim.batch_bytes += (bytes.len() + key.len()) as u64;
                victim.batch.insert((key, revision), (loc, bytes));
            }
        }
        victim.offset = parts.log.offset_in(victim.segment, next);
    }
    victim.settling = true;
    Step::Ready(())
}

/// Copies the next records of the batch. Answers whether that was the last of the victim.
fn settle(victim: &mut Victim, parts: &mut Parts<'_>) -> Step<bool> {
    let (mut leaves, mut last, mut records) = (0, None, 0);
    while take_next(victim) {
        let leaf = match settle_key(parts, &victim.current) {
            Step::Ready(leaf) => leaf,
            // What was copied is a slice.
            Step::Need(_) if last.is_some() => return Step::Ready(false),
            Step::Need(need) => return Step::Need(need),
        };
        records += victim.current.len();
        victim.current.clear();
        leaves += usize::from(last.replace(leaf) != Some(leaf));
        if leaves >= LEAVES_PER_SLICE || records >= KEYS_PER_SLICE {
            return Step::Ready(false);
        }
    }
    victim.batch_bytes = 0;
    victim.settling = false;
    Step::Ready(victim.offset.is_none())
}

/// Takes records of the next key out of the batch, unless some are taken; answers whether there are any.
fn take_next(victim: &mut Victim) -> bool {
    while victim.current.len() < RECORDS_PER_KEY
        && let Some(first) = victim.batch.first_entry()
        && victim
            .current
            .first()
            .is_none_or(|taken| taken.key == first.key().0)
    {
        let ((key, revision), (loc, bytes)) = first.remove_entry();
        victim.current.push(Candidate {
            key,
            revision,
            loc,
            bytes,
        });
    }
    !victim.current.is_empty()
}
