//! What compaction and relocation make of one list: of a cell or of a run of an overflow page.
//!
//! ```text
//! newest ──────────────── oldest          h = horizon
//!   9     7     5     4     2
//!               └ newest with main ≤ h    5 stays, 4 and 2 go;
//!                                         5 goes too if it is a tombstone below the compact revision
//! ```
//! Only the end of the whole list of a key ever goes, so what stays decodes as before: create
//! revision and version of an entry follow from its newer neighbour alone.

use super::{Entry, List, list, newest_flag, put_newest, put_older};
use crate::events::Loc;
use crate::page::Swip;
use crate::planted::{Bug, planted};
use crate::store::Version;

/// Down to where versions are needed.
///
/// Invariant: `horizon ≤ compact_revision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Horizon {
    /// Versions older than the newest one with main ≤ this go.
    pub(crate) horizon: i64,
    /// If that newest one is a tombstone with main < this, it goes as well.
    pub(crate) compact_revision: i64,
}

impl Horizon {
    /// Whether the newest entry that is old enough goes with those behind it.
    fn takes(&self, entry: &Entry) -> bool {
        let last = match planted(Bug::TombstoneAtCompactionDropped) {
            true => self.compact_revision,
            false => self.compact_revision - 1,
        };
        entry.tombstone && entry.version.modified.main <= last
    }
}

/// What becomes of one list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every entry is newer than the horizon: what goes is found in older lists, if at all.
    TooNew,
    /// The list stays as it is; all older lists go.
    Kept,
    /// The shorter list that was written stays; all older lists go.
    Shortened,
    /// The list goes, and all older ones.
    Gone,
}

/// The entries of a list, newest to oldest.
pub(crate) fn entries<'a>(list: &List<'a>) -> impl Iterator<Item = Entry> + use<'a> {
    std::iter::once(list.newest).chain(list.older())
}

/// Whether [`compact`] takes nothing from the cell of a key, whatever stands in its overflow pages.
pub(crate) fn is_settled(payload: &[u8], horizon: &Horizon) -> bool {
    let list = list(payload);
    let is_alone = list.older.is_empty() && list.overflow == Swip::Absent;
    let newest = &list.newest;
    is_alone && (newest.version.modified.main > horizon.horizon || !horizon.takes(newest))
}

/// Applies `horizon` to a list. A list that stays shorter is written to `kept`, without a reference
/// to older versions; what goes is appended to `dropped`.
pub(crate) fn compact(
    payload: &[u8],
    horizon: &Horizon,
    kept: &mut Vec<u8>,
    dropped: &mut Vec<Version>,
) -> Outcome {
    assert!(horizon.horizon <= horizon.compact_revision, "{horizon:?}");
    let list = list(payload);
    let mut older = list.older();
    let mut kept_bytes = 0;
    let mut entry = list.newest;
    // Behind the loop `entry` is the newest that is old enough and `kept_bytes` ends before it.
    while entry.version.modified.main > horizon.horizon {
        kept_bytes = list.older.len() - older.rest.len();
        match older.next() {
            Some(next) => entry = next,
            None => return Outcome::TooNew,
        }
    }
    let is_newest = older.rest.len() == list.older.len();
    if horizon.takes(&entry) {
        dropped.push(entry.version);
        if is_newest {
            dropped.extend(older.map(|entry| entry.version));
            return Outcome::Gone;
        }
    } else {
        kept_bytes = list.older.len() - older.rest.len();
        if older.rest.is_empty() && list.overflow == Swip::Absent {
            return Outcome::Kept;
        }
    }
    dropped.extend(older.map(|entry| entry.version));
    kept.clear();
    put_newest(kept, &list.newest, Swip::Absent);
    kept.extend_from_slice(&list.older[..kept_bytes]);
    Outcome::Shortened
}

/// Writes the list with the places that `moved` gives to `out`; `false` if it gave none.
pub(crate) fn relocate(
    payload: &[u8],
    mut moved: impl FnMut(&Entry) -> Option<Loc>,
    out: &mut Vec<u8>,
) -> bool {
    let list = list(payload);
    let mut changed = false;
    let mut place = |mut entry: Entry| {
        if let Some(loc) = moved(&entry) {
            entry.version.loc = loc;
            changed = true;
        }
        entry
    };
    let mut newer = place(list.newest);
    out.clear();
    put_newest(out, &newer, list.overflow);
    for entry in list.older() {
        let entry = place(entry);
        put_older(out, &newer, &entry);
        newer = entry;
    }
    changed
}

/// The list without its reference to older versions, written to `out`.
pub(crate) fn without_overflow(payload: &[u8], out: &mut Vec<u8>) {
    let list = list(payload);
    assert_ne!(
        payload[0] & newest_flag::OVERFLOW,
        0,
        "a list without overflow"
    );
    out.clear();
    put_newest(out, &list.newest, Swip::Absent);
    out.extend_from_slice(list.older);
}

#[cfg(test)]
mod tests {
    use super::super::{check_list, check_neighbours};
    use super::*;
    use crate::command::LeaseId;
    use crate::events::SegmentId;
    use crate::page::SlotId;
    use crate::revision::Revision;
    use crate::testing::Random;

    /// All versions of a key, newest to oldest.
    type History = Vec<Entry>;

    /// Puts with lease 0 or 1 (steps 0 and 1) and deletes (step 2), `gap` revisions apart.
    fn history(steps: &[u8], gap: i64) -> Option<History> {
        let mut history: History = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let main = 2 + index as i64 * gap;
            let live = history.first().and_then(|entry| entry.live());
            if *step == 2 && live.is_none() {
                return None;
            }
            let tombstone = *step == 2;
            let version = Version {
                create: live.map_or(main, |live| live.create),
                modified: Revision {
                    main,
                    sub: index as u32,
                },
                version: live.map_or(1, |live| live.version + i64::from(!tombstone)),
                lease: LeaseId(i64::from(*step == 1)),
                loc: Loc {
                    segment: SegmentId::event(3),
                    offset: 64 * index as u32,
                    len: 50,
                },
                hash: index as u32,
            };
            history.insert(0, Entry { tombstone, version });
        }
        Some(history)
    }

    fn encode(entries: &[Entry], overflow: Swip) -> Vec<u8> {
        let mut payload = Vec::new();
        put_newest(&mut payload, &entries[0], overflow);
        for pair in entries.windows(2) {
            put_older(&mut payload, &pair[0], &pair[1]);
        }
        payload
    }

    fn versions(entries: &[Entry]) -> Vec<Version> {
        entries.iter().map(|entry| entry.version).collect()
    }

    /// What stays, and what goes.
    fn naive(history: &History, horizon: &Horizon) -> (History, Vec<Version>) {
        let old_enough = |entry: &Entry| entry.version.modified.main <= horizon.horizon;
        let Some(first) = history.iter().position(old_enough) else {
            return (history.clone(), Vec::new());
        };
        let newest = &history[first];
        let goes = newest.tombstone && newest.version.modified.main < horizon.compact_revision;
        let kept = first + usize::from(!goes);
        (history[..kept].to_vec(), versions(&history[kept..]))
    }

    /// Applies the horizon to a history that stands in several lists, the first of them a cell.
    fn by_lists(lists: &[Vec<u8>], horizon: &Horizon) -> (History, Vec<Version>) {
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        let mut through = false;
        for payload in lists {
            if through {
                dropped.extend(entries(&list(payload)).map(|entry| entry.version));
                continue;
            }
            let mut shortened = Vec::new();
            let outcome = compact(payload, horizon, &mut shortened, &mut dropped);
            through = outcome != Outcome::TooNew;
            let stays = match outcome {
                Outcome::TooNew | Outcome::Kept => payload,
                Outcome::Shortened => &shortened,
                Outcome::Gone => continue,
            };
            let stays = check_list(stays).expect("a valid list");
            assert!(outcome != Outcome::Shortened || stays.overflow == Swip::Absent);
            kept.extend(entries(&stays));
        }
        for pair in kept.windows(2) {
            check_neighbours(&pair[0], &pair[1]).expect("valid neighbours");
        }
        (kept, dropped)
    }

    /// Splits a history behind each entry whose bit is set in `cuts`.
    fn split(history: &History, cuts: u64) -> Vec<Vec<u8>> {
        let mut lists = Vec::new();
        let mut start = 0;
        for index in 0..history.len() {
            if index + 1 == history.len() || cuts & 1 << index != 0 {
                let more = index + 1 < history.len();
                let overflow = match lists.is_empty() && more {
                    true => Swip::Resident(SlotId(1)),
                    false => Swip::Absent,
                };
                lists.push(encode(&history[start..=index], overflow));
                start = index + 1;
            }
        }
        lists
    }

    fn compare(history: &History, cuts: u64) {
        let lists = split(history, cuts);
        let newest = history[0].version.modified.main;
        for horizon in 1..=newest + 1 {
            for compact_revision in horizon..=newest + 2 {
                let horizon = Horizon {
                    horizon,
                    compact_revision,
                };
                let expected = naive(history, &horizon);
                assert_eq!(
                    by_lists(&lists, &horizon),
                    expected,
                    "{history:?} {horizon:?}"
                );
            }
        }
    }

    #[test]
    fn every_short_history_is_compacted_like_a_plain_list() {
        for len in 1..=6 {
            for number in 0..3u32.pow(len) {
                let steps: Vec<u8> = (0..len)
                    .map(|at| (number / 3u32.pow(at) % 3) as u8)
                    .collect();
                let Some(history) = history(&steps, 2) else {
                    continue;
                };
                for cuts in 0..1 << (len - 1) {
                    compare(&history, cuts);
                }
            }
        }
    }

    #[test]
    fn long_histories_are_compacted_like_a_plain_list() {
        let mut random = Random::new(5);
        for _ in 0..60 {
            let mut live = false;
            let steps: Vec<u8> = (0..1 + random.below(60))
                .map(|_| {
                    let deletes = live && random.one_in(4);
                    live = !deletes;
                    if deletes { 2 } else { random.below(2) as u8 }
                })
                .collect();
            let history = history(&steps, 1 + random.below(3) as i64).expect("a valid history");
            let cuts = random.bits() & random.bits();
            compare(&history, cuts);
        }
    }

    #[test]
    fn a_compaction_again_changes_nothing() {
        let history = history(&[0, 1, 2, 0, 0, 2], 1).expect("a valid history");
        for horizon in 1..9 {
            let horizon = Horizon {
                horizon,
                compact_revision: horizon,
            };
            let (kept, _) = naive(&history, &horizon);
            if !kept.is_empty() {
                let again = by_lists(&[encode(&kept, Swip::Absent)], &horizon);
                assert_eq!(again, (kept, Vec::new()));
            }
        }
    }

    #[test]
    fn a_dropped_tombstone_at_the_compaction_is_noticed() {
        let caught = std::panic::catch_unwind(|| {
            crate::planted::with(Bug::TombstoneAtCompactionDropped, || {
                every_short_history_is_compacted_like_a_plain_list();
            });
        });
        assert!(caught.is_err());
    }

    #[test]
    fn relocation_changes_only_places() {
        let history = history(&[0, 1, 1, 2, 0, 1, 0], 3).expect("a valid history");
        let moved_to = Loc {
            segment: SegmentId::event(1 << 40),
            offset: 1 << 30,
            len: 50,
        };
        for moved in 0..1u32 << history.len() {
            let payload = encode(&history, Swip::Resident(SlotId(9)));
            let mut index = 0;
            let mut out = Vec::new();
            let changed = relocate(
                &payload,
                |_| {
                    index += 1;
                    (moved & 1 << (index - 1) != 0).then_some(moved_to)
                },
                &mut out,
            );
            assert_eq!(changed, moved != 0);
            let mut expected = history.clone();
            for (index, entry) in expected.iter_mut().enumerate() {
                if moved & 1 << index != 0 {
                    entry.version.loc = moved_to;
                }
            }
            let list = check_list(&out).expect("a valid list");
            assert_eq!(entries(&list).collect::<Vec<_>>(), expected);
            assert_eq!(list.overflow, Swip::Resident(SlotId(9)));
            without_overflow(&out.clone(), &mut out);
            assert_eq!(out, encode(&expected, Swip::Absent));
        }
    }
}
