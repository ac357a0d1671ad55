//! The resident pages of one shard and the references between them.

use std::ops::Index;

use super::flush::Flush;
use super::frame::{Frame, State, raw};
use super::missing::MissingPages;
use crate::mvcc::versions;
use crate::page::{Expectation, PAGE_BYTES, Page, PageKind, PageRef, SlotId, Swip, blocks_of};
use crate::planted::{Bug, planted};
use crate::step::{Need, Step};
use crate::store::StoreConfig;

/// Where a page reference stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the tree itself.
    Root,
    /// Child `child` of the inner page in `slot`.
    Child { slot: SlotId, child: usize },
    /// The overflow reference of cell `cell` of the leaf in `slot`.
    Cell { slot: SlotId, cell: usize },
    /// The link of the overflow page in `slot`.
    Link { slot: SlotId },
}

impl Place {
    /// Slot of the page in which the reference stands.
    pub(super) fn holder(self) -> Option<SlotId> {
        match self {
            Place::Root => None,
            Place::Child { slot, .. } | Place::Cell { slot, .. } | Place::Link { slot } => {
                Some(slot)
            }
        }
    }
}

/// Sums over all pages, in memory or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageSums {
    /// Number of pages.
    pub(crate) pages: u64,
    /// Sum of [`Page::used`].
    pub(crate) used_bytes: u64,
    /// Blocks that images of all pages would take.
    pub(crate) blocks: u64,
}

/// The pages of a shard: both trees and all overflow pages.
///
/// Invariants:
/// - A slot is either in `free` or holds a page; `resident` counts the latter, `unentered` those of them
///   that nobody has entered.
/// - The parent of a page in memory is in memory, and its frame names it.
/// - Every change of a page goes through [`Pages::edit`], [`Pages::replace`], [`Pages::add`] or
///   [`Pages::remove`]. They mark it and its ancestors dirty, and encode what a flush still needs of
///   them before the first byte changes. Putting a slot in place of a reference on disk or the
///   reverse is no change.
/// - `dirty` has exactly the dirty pages.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(super) slots: Vec<Option<Page>>,
    pub(super) frames: Vec<Frame>,
    free: Vec<SlotId>,
    pub(super) resident: usize,
    /// Pages in memory that were loaded and not entered since.
    unentered: usize,
    pub(super) dirty: Vec<SlotId>,
    /// Images that the tree as it is now does not need any more, the durable one may.
    pub(super) dead: Vec<PageRef>,
    pub(super) flush: Flush,
    shard: u16,
    pub(super) salt: u64,
    sums: PageSums,
    /// Pages that were placed in a slot, modulo 2^32: the clock of the cache.
    pub(super) placed: u32,
    /// `placed` when the hand began its turn.
    pub(super) placed_before_turn: u32,
    /// Where the search for a page to evict goes on.
    pub(super) hand: usize,
    /// Pages that may stay in memory.
    pub(super) resident_max: usize,
    missing: Option<MissingPages>,
}

impl Index<SlotId> for Pages {
    type Output = Page;

    fn index(&self, slot: SlotId) -> &Page {
        self.slots[slot.0 as usize]
            .as_ref()
            .expect("a reference to a page in memory")
    }
}

impl Pages {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        Pages::restore(config, PageSums::default())
    }

    /// Pages that are all on disk.
    pub(crate) fn restore(config: &StoreConfig, sums: PageSums) -> Self {
        Pages {
            slots: Vec::new(),
            frames: Vec::new(),
            free: Vec::new(),
            resident: 0,
            unentered: 0,
            dirty: Vec::new(),
            dead: Vec::new(),
            flush: Flush::default(),
            shard: config.shard,
            salt: config.salt,
            sums,
            placed: 0,
            placed_before_turn: 0,
            hand: 0,
            resident_max: (config.page_cache_bytes / PAGE_BYTES as u64) as usize,
            missing: config.missing.map(MissingPages::new),
        }
    }

    /// Sums over all pages.
    pub(crate) fn sums(&self) -> PageSums {
        self.sums
    }

    /// Number of pages in memory.
    #[cfg(test)]
    pub(crate) fn resident(&self) -> usize {
        self.resident
    }

    /// Whether some page is not in memory.
    pub(crate) fn lacks_pages(&self) -> bool {
        self.sums.pages > self.resident as u64
    }

    /// Number of pages in memory that were loaded for somebody who did not enter them yet.
    pub(crate) fn unentered(&self) -> usize {
        self.unentered
    }

    /// Memory that pages may take.
    pub(crate) fn cache_bytes(&self) -> u64 {
        (self.resident_max * PAGE_BYTES) as u64
    }

    /// Number of pages that no durable image has as they are.
    pub(crate) fn unwritten(&self) -> usize {
        self.dirty.len() + self.flush.unwritten()
    }

    pub(crate) fn expectation(&self, reference: PageRef) -> Expectation {
        Expectation {
            shard: self.shard,
            salt: self.salt,
            reference,
        }
    }

    pub(crate) fn salt(&self) -> u64 {
        self.salt
    }

    pub(super) fn shard(&self) -> u16 {
        self.shard
    }

    pub(super) fn frame(&self, slot: SlotId) -> &Frame {
        &self.frames[slot.0 as usize]
    }

    pub(super) fn frame_mut(&mut self, slot: SlotId) -> &mut Frame {
        &mut self.frames[slot.0 as usize]
    }

    /// Whether the page behind a reference is as the freeze of `generation` or an older one found it, and with
    /// it all pages below. Enters none.
    pub(crate) fn is_unchanged_since(&self, swip: Swip, generation: u32) -> bool {
        let image = match swip {
            Swip::Resident(slot) => {
                let frame = self.frame(slot);
                let counts = frame.state != State::Dirty || planted(Bug::ChangedSinceImageSettled);
                frame.image.filter(|_| counts)
            }
            Swip::Disk(image) => Some(image),
            Swip::Absent => return true,
        };
        image.is_some_and(|image| image.generation <= generation)
    }

    /// Takes in a new page, which `parent` is about to refer to.
    pub(crate) fn add(&mut self, page: Page, parent: Option<SlotId>) -> SlotId {
        if let Some(parent) = parent {
            self.mark(parent);
        }
        let blocks = page.blocks();
        self.sums.pages += 1;
        self.sums.used_bytes += page.used() as u64;
        self.sums.blocks += u64::from(blocks);
        let position = self.dirty.len() as u32;
        let slot = self.place(
            page,
            Frame {
                image: None,
                parent: raw(parent),
                position,
                used_at: self.placed,
                state: State::Dirty,
                entered: true,
                blocks,
            },
        );
        self.dirty.push(slot);
        slot
    }

    fn place(&mut self, page: Page, frame: Frame) -> SlotId {
        self.resident += 1;
        self.placed = self.placed.wrapping_add(1);
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot.0 as usize] = Some(page);
                self.frames[slot.0 as usize] = frame;
                slot
            }
            None => {
                self.slots.push(Some(page));
                self.frames.push(frame);
                SlotId(u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 pages"))
            }
        }
    }

    /// Gives a slot and its memory back.
    pub(super) fn vacate(&mut self, slot: SlotId) -> Page {
        let page = self.slots[slot.0 as usize]
            .take()
            .expect("a page in memory");
        self.resident -= 1;
        self.unentered -= usize::from(!self.frame(slot).entered);
        self.free.push(slot);
        page
    }

    /// Marks the page and its ancestors dirty, and keeps what a flush still needs of them.
    #[inline]
    fn mark(&mut self, slot: SlotId) {
        if self.frame(slot).state != State::Dirty {
            self.mark_path(slot);
        }
    }

    #[cold]
    fn mark_path(&mut self, slot: SlotId) {
        let mut next = Some(slot);
        while let Some(slot) = next {
            match self.frame(slot).state {
                State::Dirty => return,
                State::Flushing => self.capture(slot),
                State::Clean | State::Writing => {}
            }
            let position = self.dirty.len() as u32;
            self.dirty.push(slot);
            let frame = self.frame_mut(slot);
            (frame.state, frame.position) = (State::Dirty, position);
            next = frame.parent();
        }
    }

    /// Gives up a page; the page that refers to it drops the reference.
    pub(crate) fn remove(&mut self, slot: SlotId) {
        self.mark(slot);
        let frame = *self.frame(slot);
        let position = frame.position as usize;
        self.dirty.swap_remove(position);
        if let Some(&moved) = self.dirty.get(position) {
            self.frame_mut(moved).position = position as u32;
        }
        self.dead.extend(frame.image);
        let page = self.vacate(slot);
        self.sums.pages -= 1;
        self.sums.used_bytes -= page.used() as u64;
        self.sums.blocks -= u64::from(frame.blocks);
    }

    /// Changes a page.
    pub(crate) fn edit<T>(&mut self, slot: SlotId, change: impl FnOnce(&mut Page) -> T) -> T {
        self.mark(slot);
        let page = self.slots[slot.0 as usize]
            .as_mut()
            .expect("a page in memory");
        let before = page.used();
        let result = change(page);
        let used = page.used();
        if used != before {
            self.sums.used_bytes = self.sums.used_bytes - before as u64 + used as u64;
            let frame = &mut self.frames[slot.0 as usize];
            let blocks = blocks_of(used);
            self.sums.blocks = self.sums.blocks - u64::from(frame.blocks) + u64::from(blocks);
            frame.blocks = blocks;
        }
        result
    }

    /// Puts `page` in place of the one in `slot`.
    pub(crate) fn replace(&mut self, slot: SlotId, page: Page) {
        self.edit(slot, |old| *old = page);
    }

    /// Notes that `child` is referred to by `parent` from now on.
    pub(crate) fn set_parent(&mut self, child: SlotId, parent: Option<SlotId>) {
        self.frame_mut(child).parent = raw(parent);
    }

    /// Notes that all pages in memory that the page in `slot` refers to are its children.
    pub(crate) fn adopt(&mut self, slot: SlotId) {
        let mut children = Vec::new();
        self.push_resident_children(slot, &mut children);
        for (_, child) in children {
            self.set_parent(child, Some(slot));
        }
    }

    /// The reference at `place`, which is not the root.
    pub(crate) fn swip(&self, place: Place) -> Swip {
        match place {
            Place::Root => panic!("the root's reference stands in the tree"),
            Place::Child { slot, child } => self[slot].child(child),
            Place::Cell { slot, cell } => versions::list(self[slot].payload(cell)).overflow,
            Place::Link { slot } => self[slot].link(),
        }
    }

    /// Names the page behind `place`, which is not the root, in another way: by its slot or by its
    /// image. What is referred to stays the same.
    pub(crate) fn represent(&mut self, place: Place, swip: Swip) {
        let slot = place.holder();
        let slot = slot.expect("the root's reference stands in the tree");
        let page = self.slots[slot.0 as usize].as_mut();
        set_reference(page.expect("a page in memory"), place, swip);
    }

    /// Enters the page behind a reference; `Err` if it is not in memory.
    pub(crate) fn enter(&mut self, swip: Swip) -> Result<SlotId, PageRef> {
        match swip {
            Swip::Resident(slot) => {
                if self.missing.is_some()
                    && let Some(reference) = self.declare_missing(slot)
                {
                    return Err(reference);
                }
                let now = self.placed;
                let frame = self.frame_mut(slot);
                frame.used_at = now;
                if !frame.entered {
                    frame.entered = true;
                    self.unentered -= 1;
                }
                Ok(slot)
            }
            Swip::Disk(reference) => Err(reference),
            Swip::Absent => panic!("an absent page was entered"),
        }
    }

    /// Enters the page behind the reference at `place`.
    pub(crate) fn follow(&mut self, place: Place) -> Step<SlotId> {
        match self.enter(self.swip(place)) {
            Ok(slot) => Step::Ready(slot),
            Err(reference) => {
                self.represent(place, Swip::Disk(reference));
                Step::Need(Need::Page(reference))
            }
        }
    }

    /// Takes in a page that was loaded from `reference`, which stands at `place`.
    pub(crate) fn install(&mut self, page: Page, reference: PageRef, place: Place) -> SlotId {
        if let Some(missing) = &mut self.missing {
            missing.loaded(reference.address);
        }
        let frame = Frame {
            image: Some(reference),
            parent: raw(place.holder()),
            position: 0,
            used_at: self.placed,
            state: State::Clean,
            entered: false,
            blocks: reference.blocks,
        };
        self.unentered += 1;
        let slot = self.place(page, frame);
        if place != Place::Root {
            self.represent(place, Swip::Resident(slot));
        }
        slot
    }

    /// Test mode: lets the page and all below it leave memory, if they are clean and the dice say so.
    fn declare_missing(&mut self, slot: SlotId) -> Option<PageRef> {
        let image = self.frame(slot).image?;
        if self.frame(slot).state != State::Clean || !self.missing.as_mut()?.draw(&image.address) {
            return None;
        }
        self.evict_subtree(slot)
    }

    /// Places in the page in `slot` that refer to pages in memory, with these.
    pub(super) fn push_resident_children(&self, slot: SlotId, out: &mut Vec<(Place, SlotId)>) {
        let page = &self[slot];
        let mut push = |place| {
            if let Swip::Resident(child) = self.swip(place) {
                out.push((place, child));
            }
        };
        match page.kind() {
            PageKind::Inner => {
                (0..page.children()).for_each(|child| push(Place::Child { slot, child }))
            }
            PageKind::Leaf => (0..page.len())
                .filter(|&cell| versions::has_overflow(page.payload(cell)))
                .for_each(|cell| push(Place::Cell { slot, cell })),
            PageKind::Overflow => push(Place::Link { slot }),
            PageKind::KeySet => {}
        }
    }

    /// Checks frames against the references between pages in memory, of the page in `slot`.
    pub(crate) fn verify_frame(&self, slot: SlotId, parent: Option<SlotId>) -> Result<(), String> {
        let frame = self.frame(slot);
        if frame.parent() != parent {
            return Err(format!("{frame:?} is below {parent:?}"));
        }
        let page = &self[slot];
        if frame.blocks != page.blocks() {
            return Err(format!("{frame:?} of {} blocks", page.blocks()));
        }
        let listed = match frame.state {
            State::Dirty => self.dirty.get(frame.position as usize) == Some(&slot),
            State::Flushing | State::Writing => self.flush.has(frame.position, frame.image),
            State::Clean => frame.image.is_some(),
        };
        if !listed {
            return Err(format!("{frame:?} is not listed"));
        }
        let above = parent.map(|parent| self.frame(parent).state);
        if frame.state == State::Dirty && above.is_some_and(|state| state != State::Dirty) {
            return Err(format!("{frame:?} below a page that is {above:?}"));
        }
        Ok(())
    }

    /// Checks the count of pages that nobody entered.
    pub(crate) fn verify_counts(&self) -> Result<(), String> {
        let slots = self.slots.iter().zip(&self.frames);
        let unentered = slots.filter(|(page, frame)| page.is_some() && !frame.entered);
        match unentered.count() {
            count if count == self.unentered => Ok(()),
            count => Err(format!(
                "{count} pages are not entered, not {}",
                self.unentered
            )),
        }
    }

    /// The image that a checkpoint would refer to for the page in `slot` if it is not dirty.
    pub(crate) fn image(&self, slot: SlotId) -> Option<PageRef> {
        self.frame(slot).image
    }

    /// The image of the page in `slot`, if it is written and equal.
    pub(crate) fn clean_image(&self, slot: SlotId) -> Option<PageRef> {
        let frame = self.frame(slot);
        frame.image.filter(|_| frame.state == State::Clean)
    }

    /// Whether any page in memory refers to `reference`. Walks all of them.
    pub(crate) fn refers_to(&self, reference: PageRef) -> bool {
        let wanted = Swip::Disk(reference);
        self.slots.iter().flatten().any(|page| match page.kind() {
            PageKind::Inner => (0..page.children()).any(|child| page.child(child) == wanted),
            PageKind::Leaf => (0..page.len()).any(|cell| {
                let payload = page.payload(cell);
                versions::has_overflow(payload) && versions::list(payload).overflow == wanted
            }),
            PageKind::Overflow => page.link() == wanted,
            PageKind::KeySet => false,
        })
    }
}

/// Puts `swip` at `place` of `page`, whatever slot the place names.
pub(super) fn set_reference(page: &mut Page, place: Place, swip: Swip) {
    match place {
        Place::Root => panic!("the root's reference stands in the tree"),
        Place::Child { child, .. } => page.set_child(child, swip),
        Place::Cell { cell, .. } => versions::set_overflow(page.payload_mut(cell), swip),
        Place::Link { .. } => page.set_link(swip),
    }
}
