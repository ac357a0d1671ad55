//! The MVCC store of one shard: what each key was at each revision, and what changed in between.
//!
//! Joins the revision tree, the event log and the lease tree. Synchronous and pure: a call that
//! needs a page or a value which is not in memory answers [`Step::Need`](crate::step::Step::Need)
//! and has changed nothing. Refuses to know other shards, who may read which revision, and whether a
//! lease exists.
//!
//! ```text
//! put → find leaf, overflow page, lease leaves   (may need a load)
//!     → append event → rewrite cell, live counts → lease tree   (cannot fail)
//! ```

mod check;
mod history;
mod read;
#[cfg(test)]
mod tests;
mod types;
mod write;

use bytes::Bytes;

pub use types::{
    Event, EventChunk, EventQuery, LoadError, MissingHook, RangeSet, Scan, ScanChunk, Sizes,
    StoreConfig, Version,
};

use crate::events::{EventLog, SegmentId};
use crate::page::{PAGE_BYTES, Page, PageError, PageKind, PageRef, Swip};
use crate::step::Need;
use crate::tree::{Pages, Place, Tree};

/// One shard's tree, event log and lease tree. Owned by the core that the shard lives on.
///
/// Invariants, asserted by [`Store::check`]:
/// - Every version's `Loc` names the event record that says the same; the live bytes of a segment are
///   the sum over the versions that name it.
/// - The versions of a key are strictly descending, generations and tombstones alternate, and version
///   is the number of changes since the creation.
/// - The lease tree has `lease ‖ key` exactly for the live keys with a lease.
/// - Events are strictly ascending in (main, sub); no version is newer than the newest event.
#[derive(Debug)]
pub struct Store {
    pages: Pages,
    tree: Tree,
    /// Members are lease id (big-endian) ‖ key.
    leases: Tree,
    log: EventLog,
    /// Reads below are refused by the caller.
    compact_revision: i64,
    /// Live keys at the newest revision.
    live_keys: u64,
    /// The cell under construction, kept for its capacity.
    scratch: Vec<u8>,
}

impl Store {
    /// An empty store.
    pub fn new(config: StoreConfig) -> Self {
        let mut pages = Pages::new(&config);
        let tree = Tree::new(&mut pages, PageKind::Leaf);
        let leases = Tree::new(&mut pages, PageKind::KeySet);
        Store {
            pages,
            tree,
            leases,
            log: EventLog::new(&config),
            compact_revision: 0,
            live_keys: 0,
            scratch: Vec::new(),
        }
    }

    /// Notes that reads below `revision` are refused from here on. Drops nothing by itself.
    pub fn compact(&mut self, revision: i64) {
        self.compact_revision = self.compact_revision.max(revision);
    }

    /// How large the shard is.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            bytes: self.pages.total() * PAGE_BYTES as u64 + self.log.valid_bytes(),
            bytes_in_use: self.pages.used_bytes() + self.log.live_bytes(),
            keys: self.live_keys,
        }
    }

    /// Takes what the shell brings for `need`. Without `bytes`, test mode uses the image that it kept.
    ///
    /// Bytes for a page that is resident again, or that nothing refers to any more, are dropped.
    ///
    /// # Errors
    /// The bytes are not what was asked for; nothing is kept, and the next attempt needs the same.
    pub fn load(&mut self, need: &Need, bytes: Option<Bytes>) -> Result<(), LoadError> {
        match *need {
            Need::Page(reference) => self.load_page(reference, bytes),
            Need::Bytes {
                segment, offset, ..
            } => self.load_record(need, segment, offset, bytes),
        }
    }

    fn load_record(
        &mut self,
        need: &Need,
        segment: SegmentId,
        offset: u32,
        bytes: Option<Bytes>,
    ) -> Result<(), LoadError> {
        if let Some(bytes) = bytes {
            self.log
                .verify_loaded(&bytes)
                .map_err(|error| LoadError::Record { need: *need, error })?;
        }
        self.log.loaded(segment, offset);
        Ok(())
    }

    fn load_page(&mut self, reference: PageRef, bytes: Option<Bytes>) -> Result<(), LoadError> {
        let expectation = self.pages.expectation(reference);
        let decoded = match &bytes {
            Some(bytes) => Page::decode(bytes, &expectation),
            None => match self.pages.kept_image(reference) {
                Some(image) => Page::decode(image, &expectation),
                None => {
                    return Err(LoadError::Nothing {
                        need: Need::Page(reference),
                    });
                }
            },
        };
        let damaged = |error| LoadError::Page { reference, error };
        let page = decoded.map_err(damaged)?;
        let in_tree = self.tree.place_of(&self.pages, reference, page.low());
        let in_leases = || self.leases.place_of(&self.pages, reference, page.low());
        let (place, in_main) = match in_tree {
            Some(place) => (place, true),
            None => match in_leases() {
                Some(place) => (place, false),
                None => return Ok(()),
            },
        };
        self.check_against_parent(place, in_main, &page)
            .map_err(damaged)?;
        let resident = Swip::Resident(self.pages.install(page));
        match place {
            Place::Root if in_main => self.tree.set_root(resident),
            Place::Root => self.leases.set_root(resident),
            _ => self.pages.set_swip(place, resident),
        }
        Ok(())
    }

    /// Checks kind, level and fences against the reference's holder.
    fn check_against_parent(&self, place: Place, main: bool, page: &Page) -> Result<(), PageError> {
        let require = |holds: bool, what: &'static str| {
            if holds {
                Ok(())
            } else {
                Err(PageError::Parent { what })
            }
        };
        let leaves = if main {
            PageKind::Leaf
        } else {
            PageKind::KeySet
        };
        let in_tree = page.kind() == PageKind::Inner || page.kind() == leaves;
        match place {
            Place::Root => {
                require(in_tree, "no page of this tree")?;
                require(
                    page.low().is_empty() && page.high().is_none(),
                    "a root with fences",
                )
            }
            Place::Child { slot, child } => {
                let parent = &self.pages[slot];
                require(in_tree, "no page of this tree")?;
                require(page.level() + 1 == parent.level(), "level")?;
                let (low, high) = parent.fences_of_child(child);
                require(
                    page.low() == low && page.high() == high.as_deref(),
                    "fences",
                )
            }
            Place::Cell { slot, cell } => {
                require(page.kind() == PageKind::Overflow, "no overflow page")?;
                require(
                    page.low() == self.pages[slot].key(cell),
                    "versions of another key",
                )
            }
            Place::Link { slot } => {
                require(page.kind() == PageKind::Overflow, "no overflow page")?;
                require(
                    page.low() == self.pages[slot].low(),
                    "versions of another key",
                )
            }
        }
    }
}
