//! The pages that a compaction has to look at: those that changed since the one before.
//!
//! When the pass to T is through, a key has at most one version at or below T, and that is no tombstone
//! unless it stands exactly at T. A page is *settled* if that one version is all that its keys have: no
//! compaction to any later revision takes something from it. Each page on disk has the generation of the
//! checkpoint that froze it, and the shard knew at the freeze that no version is above some revision R. So a
//! page of a generation with R < T, not changed since, is settled; and as a change marks all pages above as
//! well, so is everything below a settled inner page. What remains is visited in key order, each leaf
//! once, without reading a single event.

use std::collections::VecDeque;

use super::{KEYS_PER_SLICE, LEAVES_PER_SLICE, Parts};
use crate::mvcc::versions::{self, compact::Horizon};
use crate::planted::{Bug, planted};
use crate::step::Step;
use crate::tree::Pages;

/// Freezes that are remembered. With more between two compactions the oldest go, and pages are visited that
/// need not be.
const FREEZES_MAX: usize = 1024;

/// A checkpoint's freeze.
#[derive(Clone, Copy, Debug)]
struct Freeze {
    generation: u32,
    /// No version was above this main revision.
    newest: i64,
    /// Pages that had changed since the one before.
    pages: u64,
}

/// What is known of generations of pages.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Pages of this generation and older ones are settled; 0: none is.
    settled: u32,
    /// Those of later generations, ascending.
    freezes: VecDeque<Freeze>,
}

/// A slice of the walk over changed leaves.
#[derive(Debug)]
pub(super) struct Walked {
    /// Keys that may have something to drop, in key order.
    pub(super) keys: VecDeque<Vec<u8>>,
    /// Where the next slice begins; none: there is none.
    pub(super) next: Option<Vec<u8>>,
}

impl Changed {
    /// See [`super::Pass::frozen`].
    pub(super) fn frozen(&mut self, generation: u32, newest: i64, pages: u64) {
        if self.freezes.len() == FREEZES_MAX {
            self.freezes.pop_front();
        }
        self.freezes.push_back(Freeze {
            generation,
            newest,
            pages,
        });
    }

    /// The pass to `target` is through.
    pub(super) fn compacted(&mut self, target: i64) {
        let last = match planted(Bug::ChangedAtTargetSettled) {
            true => target,
            false => target - 1,
        };
        while let Some(freeze) = self.freezes.front() {
            if freeze.newest > last {
                break;
            }
            self.settled = freeze.generation;
            self.freezes.pop_front();
        }
    }

    /// About how many pages are not settled.
    pub(super) fn pages(&self, pages: &Pages) -> u64 {
        let all = pages.sums().pages;
        match self.settled {
            0 => all,
            _ => {
                let frozen = self.freezes.iter().map(|freeze| freeze.pages);
                all.min(pages.unwritten() as u64 + frozen.sum::<u64>())
            }
        }
    }

    /// Keys of the next changed leaves from `begin` on from which a compaction to `goal` may take something.
    /// After a need `beyond` is where the keys behind the needed page begin.
    pub(super) fn keys(
        &self,
        parts: &mut Parts<'_>,
        begin: &[u8],
        goal: i64,
        beyond: &mut Option<Vec<u8>>,
    ) -> Step<Walked> {
        let horizon = Horizon {
            horizon: goal,
            compact_revision: goal,
        };
        let mut keys = VecDeque::new();
        let mut from = begin.to_vec();
        for leaves in 0..LEAVES_PER_SLICE {
            let found = match parts
                .tree
                .changed_leaf(parts.pages, &from, self.settled, beyond)
            {
                Step::Ready(found) => found,
                // What was found is a slice.
                Step::Need(_) if leaves > 0 => break,
                Step::Need(need) => return Step::Need(need),
            };
            let Some((leaf, cell)) = found else {
                return Step::Ready(Walked { keys, next: None });
            };
            let page = &parts.pages[leaf];
            for cell in cell..page.len() {
                if !versions::compact::is_settled(page.payload(cell), &horizon) {
                    keys.push_back(page.key(cell));
                }
            }
            match page.high() {
                Some(high) => from = high.to_vec(),
                None => return Step::Ready(Walked { keys, next: None }),
            }
            if keys.len() >= KEYS_PER_SLICE {
                break;
            }
        }
        let next = Some(from);
        Step::Ready(Walked { keys, next })
    }
}
