//! B+trees over a shard's pages.
//!
//! Owns the pool of pages, descent, insertion, removal, splits, merges and live counts; which pages are
//! dirty, their frozen images, and which pages leave memory. Knows keys and opaque payloads; what a
//! payload means is up to [`crate::mvcc`], except whether its key is live and which overflow page it
//! names. Knows nothing of files: runs of images go out, pages come in.
//!
//! Invariants:
//! - The parent of a resident page is resident: pages leave from the leaves up and return from the
//!   root down.
//! - A page's fences are the separators beside its reference in the parent; together the pages of a
//!   level cover every key once.
//! - The live count beside a child reference is the number of live keys below it.
//! - [`Step::Need`](crate::step::Step) comes out of descents only, before anything was changed.

mod edit;
mod evict;
mod flush;
mod frame;
mod missing;
mod pool;

pub(crate) use flush::RUN_BLOCKS_MAX;
pub(crate) use missing::Draws;
pub(crate) use pool::{PageSums, Pages, Place};

use crate::page::{PageKind, SlotId, Swip};
use crate::step::{Step, ready};

/// More levels than any tree has: four keys per page at worst, two after a split.
const HEIGHT_MAX: usize = 24;

/// The inner pages from the root to a leaf, each with the child that was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    steps: [(SlotId, u16); HEIGHT_MAX],
    len: usize,
}

impl Path {
    fn new() -> Self {
        Path {
            steps: [(SlotId(0), 0); HEIGHT_MAX],
            len: 0,
        }
    }

    fn push(&mut self, slot: SlotId, child: usize) {
        self.steps[self.len] = (slot, child as u16);
        self.len += 1;
    }

    fn steps(&self) -> &[(SlotId, u16)] {
        &self.steps[..self.len]
    }

    /// The page above the leaf.
    fn parent(&self) -> Option<SlotId> {
        self.steps().last().map(|&(slot, _)| slot)
    }
}

/// A key's leaf and the way to it. Valid until the tree changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) path: Path,
    pub(crate) leaf: SlotId,
    /// Cell of the key, or where it would stand.
    pub(crate) cell: Result<usize, usize>,
}

/// A page on the way to a key that has to be loaded first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Missing {
    pub(crate) reference: crate::page::PageRef,
    /// It is the last one; of a root that is not known.
    pub(crate) is_leaf: bool,
}

/// One tree.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Swip,
}

impl Tree {
    /// A tree of one empty leaf.
    pub(crate) fn new(pages: &mut Pages, leaves: PageKind) -> Self {
        Tree {
            root: Swip::Resident(pages.add(crate::page::Page::new(leaves, 0, b"", None), None)),
        }
    }

    /// The tree whose root stands there.
    pub(crate) fn restore(root: crate::page::PageRef) -> Self {
        Tree {
            root: Swip::Disk(root),
        }
    }

    /// The image of the root that was given at the last freeze.
    pub(crate) fn root_image(&self, pages: &Pages) -> crate::page::PageRef {
        match self.root {
            Swip::Resident(slot) => pages.image(slot).expect("a frozen root has a place"),
            Swip::Disk(image) => image,
            Swip::Absent => panic!("a tree without root"),
        }
    }

    pub(crate) fn root(&self) -> Swip {
        self.root
    }

    pub(crate) fn set_root(&mut self, root: Swip) {
        self.root = root;
    }

    /// Finds `key`, or the page that has to be loaded first.
    pub(crate) fn find(&mut self, pages: &mut Pages, key: &[u8]) -> Step<Position> {
        let mut path = Path::new();
        let mut slot = ready!(self.enter_root(pages));
        while pages[slot].level() > 0 {
            let child = pages[slot].child_of(key);
            path.push(slot, child);
            slot = ready!(pages.follow(Place::Child { slot, child }));
        }
        let cell = pages[slot].search(key);
        Step::Ready(Position {
            path,
            leaf: slot,
            cell,
        })
    }

    /// The first page on the way to `key` that is not in memory. Enters none.
    pub(crate) fn missing_on_the_way(&self, pages: &Pages, key: &[u8]) -> Option<Missing> {
        let mut swip = self.root;
        let mut is_leaf = false;
        loop {
            match swip {
                Swip::Disk(reference) => return Some(Missing { reference, is_leaf }),
                Swip::Resident(slot) if pages[slot].level() > 0 => {
                    is_leaf = pages[slot].level() == 1;
                    swip = pages[slot].child(pages[slot].child_of(key));
                }
                Swip::Resident(_) | Swip::Absent => return None,
            }
        }
    }

    /// Finds `key`, whose path is resident.
    fn find_resident(&self, pages: &Pages, key: &[u8]) -> Position {
        let resident = |swip| match swip {
            Swip::Resident(slot) => slot,
            other => panic!("{other:?} on a path that was just walked"),
        };
        let mut path = Path::new();
        let mut slot = resident(self.root);
        while pages[slot].level() > 0 {
            let child = pages[slot].child_of(key);
            path.push(slot, child);
            slot = resident(pages[slot].child(child));
        }
        Position {
            path,
            leaf: slot,
            cell: pages[slot].search(key),
        }
    }

    /// Level of the root.
    pub(crate) fn root_level(&mut self, pages: &mut Pages) -> Step<u8> {
        let slot = ready!(self.enter_root(pages));
        Step::Ready(pages[slot].level())
    }

    /// The page of a level that covers `key`, and where the next one of the level begins.
    ///
    /// Absent if the tree is not that high.
    pub(crate) fn page_at(
        &mut self,
        pages: &mut Pages,
        level: u8,
        key: &[u8],
    ) -> Step<(Swip, Option<Vec<u8>>)> {
        let mut slot = ready!(self.enter_root(pages));
        if pages[slot].level() <= level {
            let swip = match pages[slot].level() == level {
                true => self.root,
                false => Swip::Absent,
            };
            return Step::Ready((swip, None));
        }
        loop {
            let child = pages[slot].child_of(key);
            if pages[slot].level() == level + 1 {
                let (_, high) = pages[slot].fences_of_child(child);
                return Step::Ready((pages[slot].child(child), high));
            }
            slot = ready!(pages.follow(Place::Child { slot, child }));
        }
    }

    /// The first leaf with keys from `from` on that has changed after the freeze of `generation`, and its first
    /// such cell.
    ///
    /// After a need `beyond` is where the keys behind the needed page begin, if there are more.
    pub(crate) fn changed_leaf(
        &mut self,
        pages: &mut Pages,
        from: &[u8],
        generation: u32,
        beyond: &mut Option<Vec<u8>>,
    ) -> Step<Option<(SlotId, usize)>> {
        let mut from = from.to_vec();
        *beyond = None;
        if pages.is_unchanged_since(self.root, generation) {
            return Step::Ready(None);
        }
        let mut slot = ready!(self.enter_root(pages));
        while pages[slot].level() > 0 {
            let page = &pages[slot];
            let first = page.child_of(&from);
            let mut children = first..page.children();
            let changed =
                children.find(|&child| !pages.is_unchanged_since(page.child(child), generation));
            let Some(child) = changed else {
                let Some(high) = page.high() else {
                    return Step::Ready(None);
                };
                // Down again from the root, to what is behind this page.
                from = high.to_vec();
                slot = ready!(self.enter_root(pages));
                continue;
            };
            let (low, high) = page.fences_of_child(child);
            if child > first {
                from = low;
            }
            *beyond = high;
            slot = ready!(pages.follow(Place::Child { slot, child }));
        }
        let cell = pages[slot].search(&from).unwrap_or_else(|cell| cell);
        Step::Ready(Some((slot, cell)))
    }

    fn enter_root(&mut self, pages: &mut Pages) -> Step<SlotId> {
        match pages.enter(self.root) {
            Ok(slot) => Step::Ready(slot),
            Err(entered) => {
                self.root = Swip::Disk(entered);
                Step::Need(crate::step::Need::Page(entered))
            }
        }
    }

    /// Live keys below `key`.
    pub(crate) fn count_before(&mut self, pages: &mut Pages, key: &[u8]) -> Step<u64> {
        let position = ready!(self.find(pages, key));
        let mut count = 0;
        for &(slot, child) in position.path.steps() {
            let page = &pages[slot];
            let lives = (0..usize::from(child)).map(|index| u64::from(page.child_live(index)));
            count += lives.sum::<u64>();
        }
        let cell = position.cell.unwrap_or_else(|cell| cell);
        count += u64::from(pages[position.leaf].live_before(cell));
        Step::Ready(count)
    }

    /// Looks for the reference to `wanted` on the way to `key`, the lower fence of that page.
    pub(crate) fn place_of(
        &self,
        pages: &Pages,
        wanted: crate::page::PageRef,
        key: &[u8],
    ) -> Option<Place> {
        let mut place = Place::Root;
        let mut swip = self.root;
        loop {
            let slot = match swip {
                Swip::Disk(page) if page == wanted => return Some(place),
                Swip::Resident(slot) => slot,
                Swip::Disk(_) | Swip::Absent => return None,
            };
            let page = &pages[slot];
            if page.kind() == PageKind::Overflow {
                place = Place::Link { slot };
            } else if !page.covers(key) {
                return None;
            } else if page.level() > 0 {
                place = Place::Child {
                    slot,
                    child: page.child_of(key),
                };
            } else if page.kind() == PageKind::Leaf {
                place = Place::Cell {
                    slot,
                    cell: page.search(key).ok()?,
                };
            } else {
                return None;
            }
            swip = pages.swip(place);
        }
    }
}
