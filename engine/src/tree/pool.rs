//! The resident pages of one shard and the references between them.

use std::ops::Index;

use super::missing::MissingPages;
use crate::mvcc::versions;
use crate::page::{Expectation, Page, PageKind, PageRef, SlotId, Swip, self_address};
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

/// The pages of a shard: both trees and all overflow pages.
///
/// Invariants: a slot is either in `free` or holds a page; `used_bytes` is the sum of
/// [`Page::used`] over resident and absent pages, `total` their number.
#[derive(Debug)]
pub(crate) struct Pages {
    slots: Vec<Option<Page>>,
    free: Vec<SlotId>,
    shard: u16,
    salt: u64,
    /// Next unused block.
    next_address: u64,
    total: u64,
    used_bytes: u64,
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
        Pages {
            slots: Vec::new(),
            free: Vec::new(),
            shard: config.shard,
            salt: config.salt,
            next_address: 0,
            total: 0,
            used_bytes: 0,
            missing: config.missing.map(MissingPages::new),
        }
    }

    /// Number of pages.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Sum of the used bytes of all pages.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(crate) fn expectation(&self, reference: PageRef) -> Expectation {
        Expectation {
            shard: self.shard,
            salt: self.salt,
            reference,
        }
    }

    /// Takes in a new page, giving it an address.
    pub(crate) fn add(&mut self, mut page: Page) -> SlotId {
        page.set_identity(self_address(self.shard, self.next_address), 0);
        self.next_address += u64::from(crate::page::BLOCKS_MAX);
        self.total += 1;
        self.used_bytes += page.used() as u64;
        self.place(page)
    }

    fn place(&mut self, page: Page) -> SlotId {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot.0 as usize] = Some(page);
                slot
            }
            None => {
                self.slots.push(Some(page));
                SlotId(u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 pages"))
            }
        }
    }

    fn vacate(&mut self, slot: SlotId) -> Page {
        let page = self.slots[slot.0 as usize]
            .take()
            .expect("a page in memory");
        self.free.push(slot);
        page
    }

    /// Gives up a page that nothing refers to any more.
    pub(crate) fn remove(&mut self, slot: SlotId) {
        let page = self.vacate(slot);
        self.total -= 1;
        self.used_bytes -= page.used() as u64;
    }

    /// Changes a page.
    pub(crate) fn edit<T>(&mut self, slot: SlotId, change: impl FnOnce(&mut Page) -> T) -> T {
        let page = self.slots[slot.0 as usize]
            .as_mut()
            .expect("a page in memory");
        let before = page.used() as u64;
        let result = change(page);
        self.used_bytes = self.used_bytes - before + page.used() as u64;
        result
    }

    /// Puts `page` in place of the one in `slot`, whose identity it takes.
    pub(crate) fn replace(&mut self, slot: SlotId, mut page: Page) {
        self.edit(slot, |old| {
            page.set_identity(old.address(), old.generation());
            *old = page;
        });
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

    /// Changes the reference at `place`, which is not the root.
    pub(crate) fn set_swip(&mut self, place: Place, swip: Swip) {
        match place {
            Place::Root => panic!("the root's reference stands in the tree"),
            Place::Child { slot, child } => self.edit(slot, |page| page.set_child(child, swip)),
            Place::Cell { slot, cell } => {
                self.edit(slot, |page| {
                    versions::set_overflow(page.payload_mut(cell), swip)
                });
            }
            Place::Link { slot } => self.edit(slot, |page| page.set_link(swip)),
        }
    }

    /// Enters the page behind a reference; `Err` if it is not in memory.
    pub(crate) fn enter(&mut self, swip: Swip) -> Result<SlotId, PageRef> {
        match swip {
            Swip::Resident(slot) => match self.declare_missing(slot) {
                Some(reference) => Err(reference),
                None => Ok(slot),
            },
            Swip::Disk(reference) => Err(reference),
            Swip::Absent => panic!("an absent page was entered"),
        }
    }

    /// Enters the page behind the reference at `place`.
    pub(crate) fn follow(&mut self, place: Place) -> Step<SlotId> {
        match self.enter(self.swip(place)) {
            Ok(slot) => Step::Ready(slot),
            Err(reference) => {
                self.set_swip(place, Swip::Disk(reference));
                Step::Need(Need::Page(reference))
            }
        }
    }

    /// Installs a loaded page behind the reference at `place` and returns its slot.
    pub(crate) fn install(&mut self, page: Page) -> SlotId {
        if let Some(missing) = &mut self.missing {
            missing.loaded(page.address());
        }
        self.place(page)
    }

    /// The image that test mode keeps of an absent page.
    pub(crate) fn kept_image(&self, reference: PageRef) -> Option<&[u8]> {
        self.missing
            .as_ref()?
            .image(self_address(self.shard, reference.address))
    }

    /// Test mode: encodes the page and all below it away, if the dice say so.
    fn declare_missing(&mut self, slot: SlotId) -> Option<PageRef> {
        let address = self.slots[slot.0 as usize].as_ref()?.address();
        if !self.missing.as_mut()?.draw(address) {
            return None;
        }
        Some(self.evict(slot))
    }

    /// Encodes the page in `slot` and every resident page below it, and vacates their slots. The
    /// caller puts the reference in place of the slot.
    fn evict(&mut self, slot: SlotId) -> PageRef {
        let mut below = vec![(Place::Root, slot)];
        let mut next = 0;
        while next < below.len() {
            let parent = below[next].1;
            self.push_resident_children(parent, &mut below);
            next += 1;
        }
        let mut last = None;
        for (place, slot) in below.into_iter().rev() {
            let reference = self.write_out(slot);
            if place != Place::Root {
                self.set_swip(place, Swip::Disk(reference));
            }
            last = Some(reference);
        }
        last.expect("at least the page itself")
    }

    fn push_resident_children(&self, slot: SlotId, out: &mut Vec<(Place, SlotId)>) {
        let page = &self[slot];
        let places: Vec<Place> = match page.kind() {
            PageKind::Inner => (0..page.children())
                .map(|child| Place::Child { slot, child })
                .collect(),
            PageKind::Leaf => (0..page.len())
                .filter(|&cell| versions::list(page.payload(cell)).overflow != Swip::Absent)
                .map(|cell| Place::Cell { slot, cell })
                .collect(),
            PageKind::Overflow => vec![Place::Link { slot }],
            PageKind::KeySet => Vec::new(),
        };
        for place in places {
            if let Swip::Resident(child) = self.swip(place) {
                out.push((place, child));
            }
        }
    }

    fn write_out(&mut self, slot: SlotId) -> PageRef {
        let mut page = self.vacate(slot);
        let address = page.address();
        let generation = page.generation() + 1;
        page.set_identity(address, generation);
        let reference = PageRef {
            address: address & crate::page::ADDRESS_MAX,
            blocks: page.blocks(),
            generation,
        };
        let image = page.encode(self.salt);
        self.missing
            .as_mut()
            .expect("only test mode evicts")
            .keep(address, image);
        reference
    }
}
