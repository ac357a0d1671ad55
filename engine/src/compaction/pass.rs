//! The walk of a compaction over the events of its window.

use std::collections::VecDeque;

use super::{LEAVES_PER_SLICE, Parts, RECORDS_PER_SLICE, chain, versions_of};
use crate::mvcc::versions::{
    self,
    compact::{Horizon, Outcome},
};
use crate::page::{SlotId, Swip};
use crate::planted::{Bug, planted};
use crate::revision::Revision;
use crate::step::{Step, ready};
use crate::store::Version;
use crate::tree::Position;

/// Overflow pages that are dropped in one go.
const CHAIN_PAGES_PER_SLICE: usize = 16;

/// How far the shard's compaction is.
///
/// The pass to C walks the events of [C_old, C] and compacts the key of each. C_old is included because of
/// a tombstone exactly there, which the pass before had to leave. The first version of a generation is
/// passed over: what could go behind it is a tombstone, whose own event is in the window as well.
///
/// Invariants:
/// - Every key with an event before `next` that the compaction to `target` concerns is compacted to it, and
///   what an earlier one concerned too.
/// - `batch` is empty or has the keys of events from `next` to before `behind` that are still to be
///   compacted, in key order.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    target: i64,
    next: Revision,
    done: bool,
    batch: VecDeque<Vec<u8>>,
    behind: Revision,
}

impl Pass {
    /// The pass of a shard whose image says that the compaction to `target` is at `next`.
    ///
    /// One that was through is walked again over the events of its last revision: it finds nothing.
    pub(crate) fn restore(target: i64, next: Revision) -> Self {
        Pass {
            target,
            next,
            done: target == 0,
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

    /// A compaction to `revision` is due; the pass under way goes on to there. `false` if it goes there
    /// already.
    pub(crate) fn extend(&mut self, revision: i64) -> bool {
        if revision <= self.target {
            return false;
        }
        // Keys of events at the former target may have been compacted to that one only.
        let former = Revision {
            main: match planted(Bug::CompactionSkipsOldTarget) {
                true => self.target + 1,
                false => self.target,
            },
            sub: 0,
        };
        if self.done {
            self.next = former;
        }
        self.next = self.next.min(former);
        self.batch.clear();
        self.target = revision;
        self.done = false;
        true
    }

    /// Does a slice of the walk.
    pub(crate) fn slice(&mut self, parts: &mut Parts<'_>) -> Step<()> {
        if self.batch.is_empty() {
            ready!(self.fill(parts));
        }
        let horizon = Horizon {
            horizon: self.target,
            compact_revision: self.target,
        };
        let (mut leaves, mut last) = (0, None);
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
            leaves += usize::from(last.replace(leaf) != Some(leaf));
            if leaves >= LEAVES_PER_SLICE && !self.batch.is_empty() {
                return Step::Ready(());
            }
        }
        self.leave_batch();
        Step::Ready(())
    }

    /// The batch is done: the walk goes on behind its events.
    fn leave_batch(&mut self) {
        self.next = self.behind;
        if self.next.main > self.target {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.done = true;
        self.next = Revision {
            main: self.target,
            sub: 0,
        };
    }

    /// Collects the keys of the next events.
    fn fill(&mut self, parts: &mut Parts<'_>) -> Step<()> {
        let log = &mut *parts.log;
        let mut cursor = ready!(log.seek(self.next));
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut read = 0;
        self.behind = self.next;
        loop {
            let (loc, record) = match log.read(cursor, self.target) {
                Step::Ready(Some(found)) if found.1.revision.main <= self.target => found,
                Step::Ready(_) => {
                    self.behind = Revision {
                        main: self.target + 1,
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
            self.behind = Revision {
                sub: record.revision.sub + 1,
                ..record.revision
            };
            cursor = log.behind(cursor, loc);
        }
        keys.sort_unstable();
        keys.dedup();
        self.batch = keys.into();
        Step::Ready(())
    }

    /// Goes on behind what cannot be read: a piece of events that begins at or holds `next` and ends with
    /// `last`, or the first key of the batch. What it would have dropped stays.
    pub(crate) fn skip(&mut self, last_of_piece: Option<Revision>) {
        if let Some(last) = last_of_piece {
            self.batch.clear();
            self.next = self.next.max(Revision {
                sub: last.sub + 1,
                ..last
            });
            if self.next.main > self.target {
                self.finish();
            }
        } else if self.batch.pop_front().is_some() && self.batch.is_empty() {
            self.leave_batch();
        }
    }
}

/// What goes of a key.
struct Cut {
    /// What stays of the cell; none: all of it goes.
    cell: Option<Vec<u8>>,
    /// Overflow pages from this one on go.
    pages: usize,
    /// Of the page before those: run `.0` and all older ones go, and this stands for run `.0`.
    run: Option<(usize, Option<Vec<u8>>)>,
    dropped: Vec<Version>,
}

/// Compacts one key. Answers its leaf as it was, and whether nothing is left to do.
fn compact_key(parts: &mut Parts<'_>, key: &[u8], horizon: &Horizon) -> Step<(SlotId, bool)> {
    let position = ready!(parts.tree.find(parts.pages, key));
    let leaf = position.leaf;
    let Ok(cell) = position.cell else {
        return Step::Ready((leaf, true));
    };
    let payload = parts.pages[leaf].payload(cell);
    let mut kept = Vec::new();
    let mut dropped = Vec::new();
    let outcome = versions::compact::compact(payload, horizon, &mut kept, &mut dropped);
    let overflows = versions::has_overflow(payload);
    if outcome == Outcome::Kept || outcome == Outcome::TooNew && !overflows {
        return Step::Ready((leaf, true));
    }
    let chain = match overflows {
        true => ready!(chain::enter_all(parts.pages, leaf, cell)),
        false => Vec::new(),
    };
    let cut = match outcome {
        Outcome::Gone => Cut {
            cell: None,
            pages: 0,
            run: None,
            dropped,
        },
        Outcome::Shortened => Cut {
            cell: Some(kept),
            pages: 0,
            run: None,
            dropped,
        },
        Outcome::TooNew | Outcome::Kept => match cut_of_chain(parts, &position, &chain, horizon) {
            Some(cut) => cut,
            None => return Step::Ready((leaf, true)),
        },
    };
    if chain.len() - cut.pages > CHAIN_PAGES_PER_SLICE {
        drop_oldest(parts, &chain);
        return Step::Ready((leaf, false));
    }
    apply(parts, &position, &chain, cut);
    Step::Ready((leaf, true))
}

/// What goes of the overflow pages of a cell that stays; nothing if all of it stays.
fn cut_of_chain(
    parts: &Parts<'_>,
    position: &Position,
    chain: &[SlotId],
    horizon: &Horizon,
) -> Option<Cut> {
    let cell = position.cell.expect("a cell with overflow pages");
    let payload = parts.pages[position.leaf].payload(cell);
    for (index, &slot) in chain.iter().enumerate() {
        let page = &parts.pages[slot];
        for run in (0..page.len()).rev() {
            let (mut kept, mut dropped) = (Vec::new(), Vec::new());
            let list = page.payload(run);
            let stays = match versions::compact::compact(list, horizon, &mut kept, &mut dropped) {
                Outcome::TooNew => continue,
                Outcome::Kept => Some(list.to_vec()),
                Outcome::Shortened => Some(kept),
                Outcome::Gone => None,
            };
            let last = index + 1 == chain.len() && run == 0;
            if last && dropped.is_empty() {
                return None;
            }
            // A page whose newest run goes has nothing left.
            let whole = stays.is_none() && run + 1 == page.len();
            let mut cell = payload.to_vec();
            if whole && index == 0 {
                versions::compact::without_overflow(payload, &mut cell);
            }
            if whole {
                dropped.clear();
            }
            return Some(Cut {
                cell: Some(cell),
                pages: index + usize::from(!whole),
                run: (!whole).then_some((run, stays)),
                dropped,
            });
        }
    }
    None
}

/// Drops the last overflow pages of a key, of which more go.
fn drop_oldest(parts: &mut Parts<'_>, chain: &[SlotId]) {
    let from = chain.len() - CHAIN_PAGES_PER_SLICE;
    let dropped = versions_of_pages(parts, &chain[from..]);
    parts.release(&dropped);
    chain::remove_from(parts.pages, chain, from);
    parts
        .pages
        .edit(chain[from - 1], |page| page.set_link(Swip::Absent));
}

fn versions_of_pages(parts: &Parts<'_>, chain: &[SlotId]) -> Vec<Version> {
    let pages = chain.iter().map(|&slot| &parts.pages[slot]);
    pages
        .flat_map(|page| (0..page.len()).flat_map(|run| versions_of(page.payload(run))))
        .collect()
}

fn apply(parts: &mut Parts<'_>, position: &Position, chain: &[SlotId], mut cut: Cut) {
    let first = cut.pages;
    cut.dropped
        .extend(versions_of_pages(parts, &chain[first..]));
    if let Some((run, _)) = cut.run {
        let page = &parts.pages[chain[first - 1]];
        let older = (0..run).flat_map(|run| versions_of(page.payload(run)));
        cut.dropped.extend(older);
    }
    parts.release(&cut.dropped);
    if planted(Bug::ReleaseTwice)
        && let Some(dropped) = cut.dropped.first()
    {
        parts.log.release(dropped.loc);
    }
    chain::remove_from(parts.pages, chain, first);
    if let Some((run, stays)) = cut.run {
        parts.pages.edit(chain[first - 1], |page| {
            match &stays {
                Some(list) => page.replace(run, list),
                None => page.remove(run),
            }
            (0..run).for_each(|_| page.remove(0));
            page.set_link(Swip::Absent);
        });
        return;
    }
    match first.checked_sub(1) {
        Some(before) => parts
            .pages
            .edit(chain[before], |page| page.set_link(Swip::Absent)),
        None => {
            let payload = cut.cell.as_deref();
            parts.tree.shrink(parts.pages, position, payload);
        }
    }
}
