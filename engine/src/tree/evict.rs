//! Which pages leave memory, and how.
//!
//! Clean leaves and overflow pages leave when more pages are in memory than may be; inner pages stay. A
//! clock hand passes over the slots and takes pages that were not entered while a quarter of the cache was
//! replaced, or where none is, during many turns of the hand. So a request that comes again after each load finds what it entered before, as long as it
//! needs no more pages than that.

use super::frame::State;
use super::pool::{Pages, Place};
use crate::page::{PageKind, PageRef, SlotId, Swip};

/// Pages that were entered among the last so many replacements stay, however small the cache.
const KEPT_PAGES_MIN: u32 = 16;
/// Where no page comes, one that was not entered stays for so many turns of the hand.
const TURNS_KEPT: u32 = 16;
/// Slots that the hand passes for one page that it is to find.
const SLOTS_PASSED_PER_PAGE: usize = 16;

impl Pages {
    /// Lets up to `most` pages leave memory, if there are too many.
    pub(crate) fn shrink(&mut self, most: usize) {
        let mut passed = 0;
        let passed_max = (most * SLOTS_PASSED_PER_PAGE).min(self.slots.len());
        let mut left = most;
        while self.resident > self.resident_max && left > 0 && passed < passed_max {
            passed += 1;
            self.hand += 1;
            if self.hand >= self.slots.len() {
                self.hand = 0;
                self.end_turn();
            }
            let slot = SlotId(self.hand as u32);
            if self.may_leave(slot)
                && let Some(place) = self.place_in_parent(slot)
            {
                let image = self.evict(slot);
                self.represent(place, Swip::Disk(image));
                left -= 1;
            }
        }
    }

    /// The hand has passed over all slots. If no page came meanwhile there is nothing to tell the age of
    /// the others by but the turns.
    fn end_turn(&mut self) {
        if self.placed == self.placed_before_turn {
            self.placed = self.placed.wrapping_add((self.kept() / TURNS_KEPT).max(1));
        }
        self.placed_before_turn = self.placed;
    }

    /// So many replacements after it was entered a page may leave.
    pub(crate) fn kept(&self) -> u32 {
        (self.resident_max / 4).max(KEPT_PAGES_MIN as usize) as u32
    }

    fn may_leave(&self, slot: SlotId) -> bool {
        let Some(page) = &self.slots[slot.0 as usize] else {
            return false;
        };
        let frame = self.frame(slot);
        if frame.state != State::Clean
            || page.kind() == PageKind::Inner
            || self.placed.wrapping_sub(frame.used_at) < self.kept()
        {
            return false;
        }
        let mut children = Vec::new();
        self.push_resident_children(slot, &mut children);
        children.is_empty()
    }

    /// Where the parent refers to the page in `slot`; `None` for a root.
    fn place_in_parent(&self, slot: SlotId) -> Option<Place> {
        let parent = self.frame(slot).parent()?;
        let (above, key) = (&self[parent], self[slot].low());
        let place = match above.kind() {
            PageKind::Inner => Place::Child {
                slot: parent,
                child: above.child_of(key),
            },
            PageKind::Leaf => Place::Cell {
                slot: parent,
                cell: above.search(key).expect("the key of an overflow page"),
            },
            PageKind::Overflow => Place::Link { slot: parent },
            PageKind::KeySet => panic!("a page below a key set"),
        };
        assert_eq!(self.swip(place), Swip::Resident(slot), "at {place:?}");
        Some(place)
    }

    /// Gives up the memory of a clean page without pages in memory below it. The caller puts its image
    /// in place of the slot.
    fn evict(&mut self, slot: SlotId) -> PageRef {
        let frame = self.frame(slot);
        assert_eq!(frame.state, State::Clean, "{frame:?} is evicted");
        let image = frame.image.expect("a clean page has an image");
        self.vacate(slot);
        image
    }

    /// Lets the page in `slot` and all below it leave memory if all of them are clean. The caller puts
    /// the image in place of the slot.
    pub(super) fn evict_subtree(&mut self, slot: SlotId) -> Option<PageRef> {
        let mut below = vec![(Place::Root, slot)];
        let mut next = 0;
        while next < below.len() {
            let page = below[next].1;
            if self.frame(page).state != State::Clean {
                return None;
            }
            self.push_resident_children(page, &mut below);
            next += 1;
        }
        let mut last = None;
        for (place, slot) in below.into_iter().rev() {
            let image = self.evict(slot);
            if place != Place::Root {
                self.represent(place, Swip::Disk(image));
            }
            last = Some(image);
        }
        last
    }
}
