//! The walk of a compaction: which keys are looked at, in which order, and how far it is.

use std::collections::VecDeque;

use super::changed::{Changed, Walked};
use super::cut::compact_key;
use super::{KEYS_PER_SLICE, LEAVES_PER_SLICE, Parts, RECORDS_PER_SLICE};
use crate::mvcc::versions::compact::Horizon;
use crate::planted::{Bug, planted};
use crate::revision::Revision;
use crate::step::{Step, ready};
use crate::store::CompactionWay;

/// How far the shard's compaction is.
///
/// A walk to C compacts every key that has an event in [C_old, C]. C_old is included because of a tombstone
/// exactly there, which the pass before had to leave. It finds these keys in one of two ways: by the events
/// themselves, or by the pages that have changed since; `changed` says why those are all.
///
/// Invariants:
/// - Every key with an event before `next` that the compaction to `target` concerns is compacted to it, and
///   what an earlier one concerned too.
/// - `batch` is empty or has keys that are still to be compacted, in key order, before the walk goes on behind
///   them.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    target: i64,
    next: Revision,
    done: bool,
    batch: VecDeque<Vec<u8>>,
    walk: Option<Walk>,
    changed: Changed,
    way: CompactionWay,
}

/// A walk under way.
#[derive(Debug)]
enum Walk {
    /// By the events from `next` to the target.
    Events {
        /// Behind those whose keys are in the batch.
        behind: Revision,
    },
    /// By the changed pages, to a revision of its own.
    Pages {
        goal: i64,
        /// Behind the leaves whose keys are in the batch; none: those were the last.
        from: Option<Vec<u8>>,
        /// The same behind a page that could not be had.
        beyond: Option<Vec<u8>>,
    },
}

impl Pass {
    /// The pass of an empty shard.
    pub(crate) fn new(way: CompactionWay) -> Self {
        Pass::restore(0, Revision::default(), way)
    }

    /// The pass of a shard whose image says that the compaction to `target` is at `next`.
    ///
    /// One that was through is walked again over the events of its last revision: it finds nothing. One that was
    /// at a revision of many events begins with the first of them: the pass before may have gone no further than to
    /// that revision, and left its tombstones.
    pub(crate) fn restore(target: i64, next: Revision, way: CompactionWay) -> Self {
        Pass {
            target,
            next: Revision {
                main: next.main,
                sub: 0,
            },
            done: target == 0,
            way,
            ..Pass::default()
        }
    }

    /// Where a walk that knows nothing else has to go on.
    pub(crate) fn next(&self) -> Revision {
        self.next
    }

    /// Whether the last compaction is through.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Events below this main revision are not walked any more.
    pub(crate) fn floor(&self) -> i64 {
        self.next.main
    }

    /// A checkpoint freezes: no version of the shard is above `newest`, and `pages` have changed since the
    /// one before.
    pub(crate) fn frozen(&mut self, generation: u32, newest: i64, pages: u64) {
        self.changed.frozen(generation, newest, pages);
    }

    /// A compaction to `revision` is due; the pass under way goes on to there. `false` if it goes there
    /// already.
    pub(crate) fn extend(&mut self, revision: i64) -> bool {
        if revision <= self.target {
            return false;
        }
        let former = first_event_after(self.target);
        if self.done {
            self.next = former;
        }
        if !matches!(self.walk, Some(Walk::Pages { .. })) {
            // Keys of events at the former target may have been compacted to that one only. What is cheaper from
            // here on is weighed again.
            self.next = self.next.min(former);
            self.batch.clear();
            self.walk = None;
        }
        self.target = revision;
        self.done = false;
        true
    }

    /// Does a slice of the walk.
    pub(crate) fn slice(&mut self, parts: &mut Parts<'_>) -> Step<()> {
        if self.batch.is_empty() {
            ready!(self.fill(parts));
        }
        let goal = match self.walk {
            Some(Walk::Pages { goal, .. }) => goal,
            _ => self.target,
        };
        let horizon = Horizon {
            horizon: goal,
            compact_revision: goal,
        };
        let (mut leaves, mut keys, mut last) = (0, 0, None);
        while let Some(key) = self.batch.front() {
            let (leaf, through) = match compact_key(parts, key, &horizon) {
                Step::Ready(outcome) => outcome,
                // What was compacted is a slice.
                Step::Need(_) if last.is_some() => return Step::Ready(()),
                Step::Need(need) => return Step::Need(need),
            };
            if !through {
                return Step::Ready(());
            }
            self.batch.pop_front();
            keys += 1;
            leaves += usize::from(last.replace(leaf) != Some(leaf));
            let is_slice = leaves >= LEAVES_PER_SLICE || keys >= KEYS_PER_SLICE;
            if is_slice && !self.batch.is_empty() {
                return Step::Ready(());
            }
        }
        self.leave_batch();
        Step::Ready(())
    }

    /// The batch is done: the walk goes on behind it.
    fn leave_batch(&mut self) {
        match &self.walk {
            Some(Walk::Events { behind }) => {
                self.next = *behind;
                if self.next.main > self.target {
                    self.finish(self.target);
                }
            }
            Some(Walk::Pages { goal, from, .. }) if from.is_none() => self.finish(*goal),
            Some(Walk::Pages { .. }) | None => {}
        }
    }

    fn finish(&mut self, goal: i64) {
        self.walk = None;
        self.changed.compacted(goal);
        self.done = goal == self.target;
        self.next = match self.done {
            true => Revision { main: goal, sub: 0 },
            false => first_event_after(goal),
        };
    }

    /// Collects the next keys.
    fn fill(&mut self, parts: &mut Parts<'_>) -> Step<()> {
        let target = self.target;
        let by_pages = self.walk.is_none() && self.prefers_pages(parts);
        let walk = self.walk.get_or_insert_with(|| match by_pages {
            true => Walk::Pages {
                goal: target,
                from: Some(Vec::new()),
                beyond: None,
            },
            false => Walk::Events { behind: self.next },
        });
        match walk {
            Walk::Events { behind } => {
                let (keys, end) = ready!(keys_of_events(parts, self.next, target));
                (self.batch, *behind) = (keys, end);
            }
            Walk::Pages { goal, from, beyond } => {
                let begin = from.as_deref().unwrap_or_default();
                let step = self.changed.keys(parts, begin, *goal, beyond);
                let Walked { keys, next } = ready!(step);
                (self.batch, *from) = (keys, next);
            }
        }
        Step::Ready(())
    }

    fn prefers_pages(&self, parts: &Parts<'_>) -> bool {
        let events = || {
            let after = |at| parts.log.estimate_after(at);
            after(self.next.main - 1) - after(self.target)
        };
        match self.way {
            CompactionWay::Cheaper => self.changed.pages(parts.pages) <= events(),
            CompactionWay::Events => false,
            CompactionWay::Pages => true,
        }
    }

    /// Goes on behind what cannot be read: a piece of events that begins at or holds `next` and ends with
    /// `last`, a page of the tree, or the first key of the batch. What it would have dropped stays.
    pub(crate) fn skip(&mut self, last_of_piece: Option<Revision>) {
        if self.batch.pop_front().is_some() {
            if self.batch.is_empty() {
                self.leave_batch();
            }
            return;
        }
        match (&mut self.walk, last_of_piece) {
            (Some(Walk::Pages { from, beyond, .. }), _) => {
                *from = beyond.take();
                self.leave_batch();
            }
            (Some(Walk::Events { behind }), Some(last)) => {
                *behind = self.next.max(Revision {
                    sub: last.sub + 1,
                    ..last
                });
                self.leave_batch();
            }
            (Some(Walk::Events { .. }) | None, _) => {}
        }
    }
}

/// Where a walk begins after a compaction to `target`.
fn first_event_after(target: i64) -> Revision {
    Revision {
        main: match planted(Bug::CompactionSkipsOldTarget) {
            true => target + 1,
            false => target,
        },
        sub: 0,
    }
}

/// Keys of the next events from `next` to `target`, sorted, and where the ones behind them begin.
///
/// The first version of a generation is passed over: what could go behind it is a tombstone, whose own event
/// is in the window as well.
fn keys_of_events(
    parts: &mut Parts<'_>,
    next: Revision,
    target: i64,
) -> Step<(VecDeque<Vec<u8>>, Revision)> {
    let log = &mut *parts.log;
    let mut cursor = ready!(log.seek(next));
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut read = 0;
    let mut behind = next;
    loop {
        let (loc, record) = match log.read(cursor, target) {
            Step::Ready(Some(found)) if found.1.revision.main <= target => found,
            Step::Ready(_) => {
                behind = Revision {
                    main: target + 1,
                    sub: 0,
                };
                break;
            }
            // What was collected is a slice; the rest is loaded by the next one.
            Step::Need(_) if read > 0 => break,
            Step::Need(need) => return Step::Need(need),
        };
        if read == RECORDS_PER_SLICE {
            break;
        }
        read += 1;
        if record.tombstone || record.version > 1 {
            keys.push(record.key.to_vec());
        }
        behind = Revision {
            sub: record.revision.sub + 1,
            ..record.revision
        };
        cursor = log.behind(cursor, loc);
    }
    keys.sort_unstable();
    keys.dedup();
    Step::Ready((keys.into(), behind))
}
