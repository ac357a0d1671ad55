//! The overflow pages of one key.

use crate::page::{Page, PageKind, SlotId, Swip};
use crate::step::{Step, ready};
use crate::tree::{Pages, Place};

/// The overflow pages of the cell, newest first; all of them are in memory then.
pub(super) fn enter_all(pages: &mut Pages, leaf: SlotId, cell: usize) -> Step<Vec<SlotId>> {
    let mut chain = Vec::new();
    let mut place = Place::Cell { slot: leaf, cell };
    while pages.swip(place) != Swip::Absent {
        let slot = ready!(pages.follow(place));
        chain.push(slot);
        place = Place::Link { slot };
    }
    Step::Ready(chain)
}

/// Removes overflow pages from the oldest up to and including `chain[from]`. What referred to that one
/// must drop the reference.
pub(super) fn remove_from(pages: &mut Pages, chain: &[SlotId], from: usize) {
    for &slot in chain[from..].iter().rev() {
        pages.remove(slot);
    }
}

/// Puts `payload` in place of run `run` of the overflow page in `slot`. `false`: it did not fit, and the
/// older half of the page's runs moved to a page of their own behind it; look again.
pub(super) fn replace_run(pages: &mut Pages, slot: SlotId, run: usize, payload: &[u8]) -> bool {
    if pages[slot].fits_replacement(run, payload.len()) {
        pages.edit(slot, |page| page.replace(run, payload));
        return true;
    }
    let page = &pages[slot];
    let moved = page.len() / 2;
    assert!(moved > 0, "a run that does not fit a page");
    let mut older = Page::new(PageKind::Overflow, 0, page.low(), None);
    older.set_link(page.link());
    older.append_from(page, 0..moved);
    let older = pages.add(older, Some(slot));
    pages.adopt(older);
    pages.edit(slot, |page| {
        (0..moved).for_each(|_| page.remove(0));
        page.set_link(Swip::Resident(older));
    });
    false
}
