//! How many keys there are.

use super::history::behind;
use super::read::Bounds;
use super::{CountCursor, Counted, Store};
use crate::key::{End, KeyRange};
use crate::revision::Revision;
use crate::step::{Step, ready};

/// An older count walks the events since, unless the range has fewer keys than this part of them.
const EVENTS_PER_KEY_SCANNED: u64 = 2;
/// Leaves that one call enters.
pub(super) const LEAVES_PER_CALL: usize = 16;
/// Events that one call reads.
pub(super) const EVENTS_PER_CALL: usize = 1024;

/// Where a count goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// With the leaf of this key; those before it were counted.
    Leaf(Vec<u8>),
    /// With the events from this one on; what those before it changed was added up.
    Event(Revision),
}

impl Store {
    /// Number of live keys of `range` at `at`; a part of it if that is much work, which goes on `from` there.
    ///
    /// At the newest revision two descents; at an older one corrected by the events since, or a scan
    /// of the range where that is shorter.
    pub fn count(
        &mut self,
        range: &KeyRange,
        at: i64,
        from: Option<&CountCursor>,
    ) -> Step<Counted> {
        let bounds = Bounds::new(range, None);
        if bounds.is_empty() {
            return Step::Ready(Counted::Whole(0));
        }
        if range.end == End::Single {
            return self
                .get(&range.start, at)
                .map(|version| Counted::Whole(i64::from(version.is_some())));
        }
        let mut cursor = match from {
            Some(cursor) => cursor.clone(),
            None => {
                let newest = ready!(self.count_newest(&bounds));
                if at >= self.log.last().main {
                    return Step::Ready(Counted::Whole(newest as i64));
                }
                self.begin_count(&bounds, at, newest)
            }
        };
        let before = cursor.next.clone();
        let step = match &mut cursor.next {
            Next::Leaf(next) => self.count_leaves(&bounds, at, &mut cursor.counted, next),
            Next::Event(next) => self.count_changes(range, &bounds, &mut cursor.counted, next),
        };
        match step {
            Step::Ready(true) => Step::Ready(Counted::Whole(cursor.counted)),
            // What was counted is an answer; the caller comes back for the rest.
            _ if cursor.next != before => Step::Ready(Counted::Part(cursor)),
            Step::Ready(false) => unreachable!("a slice gets on"),
            Step::Need(need) => Step::Need(need),
        }
    }

    /// Decides how to count at an older revision.
    fn begin_count(&self, bounds: &Bounds, at: i64, newest: u64) -> CountCursor {
        let events = self.log.estimate_after(at);
        let worth = newest.saturating_mul(EVENTS_PER_KEY_SCANNED);
        let next = match events > worth.saturating_add(64) {
            true => Next::Leaf(bounds.start.clone()),
            false => Next::Event(Revision {
                main: at.saturating_add(1),
                sub: 0,
            }),
        };
        CountCursor { counted: 0, next }
    }

    fn count_newest(&mut self, bounds: &Bounds) -> Step<u64> {
        let before_end = match &bounds.end {
            Some(end) => ready!(self.tree.count_before(&mut self.pages, end)),
            None => self.live_keys,
        };
        let before_start = match bounds.start.is_empty() {
            true => 0,
            false => ready!(self.tree.count_before(&mut self.pages, &bounds.start)),
        };
        assert!(
            before_end >= before_start,
            "{before_end} keys before the end, {before_start}"
        );
        Step::Ready(before_end - before_start)
    }

    /// Adds the live keys leaf by leaf; `from` is where the next leaf begins. Answers whether that was all.
    fn count_leaves(
        &mut self,
        bounds: &Bounds,
        at: i64,
        count: &mut i64,
        from: &mut Vec<u8>,
    ) -> Step<bool> {
        for _ in 0..LEAVES_PER_CALL {
            let position = ready!(self.tree.find(&mut self.pages, from));
            let leaf = position.leaf;
            let first = position.cell.unwrap_or_else(|cell| cell);
            let mut live = 0;
            for cell in first..bounds.end_in(&self.pages[leaf]) {
                live += i64::from(ready!(self.version_at(leaf, cell, at)).is_some());
            }
            *count += live;
            match bounds.next_leaf(&self.pages[leaf]) {
                Some(next) => *from = next,
                None => return Step::Ready(true),
            }
        }
        Step::Ready(false)
    }

    /// Takes from `count` the keys of `range` created and adds those deleted by the events from `from` on,
    /// which is moved behind them. At the end of the events it adds the keys that there are now, and answers
    /// that this was all.
    fn count_changes(
        &mut self,
        range: &KeyRange,
        bounds: &Bounds,
        count: &mut i64,
        from: &mut Revision,
    ) -> Step<bool> {
        let mut cursor = ready!(self.log.seek(*from));
        for _ in 0..EVENTS_PER_CALL {
            let Some((loc, record)) = ready!(self.log.read(cursor, i64::MAX)) else {
                *count += ready!(self.count_newest(bounds)) as i64;
                return Step::Ready(true);
            };
            if range.contains(record.key) {
                *count -= match (record.tombstone, record.version) {
                    (true, _) => -1,
                    (false, 1) => 1,
                    (false, _) => 0,
                };
            }
            *from = behind(record.revision);
            cursor = self.log.behind(cursor, loc);
        }
        Step::Ready(false)
    }
}
