//! What a compaction takes from one key.

use super::{Parts, chain, versions_of};
use crate::mvcc::versions::{
    self,
    compact::{Horizon, Outcome},
};
use crate::page::{SlotId, Swip};
use crate::planted::{Bug, planted};
use crate::step::{Step, ready};
use crate::store::Version;
use crate::tree::Position;

/// Overflow pages that are dropped in one go.
const CHAIN_PAGES_PER_SLICE: usize = 16;

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
pub(super) fn compact_key(
    parts: &mut Parts<'_>,
    key: &[u8],
    horizon: &Horizon,
) -> Step<(SlotId, bool)> {
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
