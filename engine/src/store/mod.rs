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
mod count;
mod history;
mod interrupted;
mod maintain;
mod outline;
mod read;
mod restoring;
#[cfg(test)]
mod tests;
mod types;
mod write;

use bytes::Bytes;
use diskio::{FileName, IoFailure, IoId, IoOutput, IoRequest};

pub use types::{
    CompactionWay, CountCursor, Counted, Event, EventChunk, EventQuery, LoadError, MissingHook,
    RangeSet, Scan, ScanChunk, Sizes, StoreConfig, Version,
};

use crate::compaction::{Collector, Pass, Scrubber};
use crate::events::{EventLog, Holder};
use crate::image::{Attachment, Dirty, Frozen, Image, ReadRequest, ShardEvent};
use crate::page::{BLOCK_BYTES, PAGE_BYTES, Page, PageError, PageKind, PageRef, Swip};
use crate::revision::Revision;
use crate::shard::Damage;
use crate::step::Need;
use crate::tree::{Pages, Place, Tree};
use interrupted::Interrupted;
pub(crate) use write::write_cell;

/// Changed pages below this never make changes wait, however small the cache.
const BEHIND_BYTES_MIN: u64 = 1 << 20;

/// One shard's tree, event log and lease tree. Owned by the core that the shard lives on.
///
/// Invariants, asserted by [`Store::check`]:
/// - Every version's `Loc` names the event record that says the same; the live bytes of a segment are
///   the sum over the versions that name it.
/// - The versions of a key are strictly descending, generations and tombstones alternate, and version
///   is the number of changes since the creation.
/// - The lease tree has `lease ‖ key` exactly for the live keys with a lease.
/// - Events are strictly ascending in (main, sub); no version is newer than the newest event.
/// - The images of pages, of the tree as it is now and of the image under way, are disjoint and in use.
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
    /// Sum of the event hashes of all versions in the tree.
    event_hashes: u64,
    /// The cell under construction, kept for its capacity.
    scratch: Vec<u8>,
    interrupted: Interrupted,
    pass: Pass,
    collector: Collector,
    scrubber: Scrubber,
    /// Whether the next slice is the pass's.
    pass_turn: bool,
    image: Image,
    shard: u16,
    /// The last page that was loaded and had no place.
    dropped: Option<PageRef>,
}

/// Pages that leave memory for one that comes, and for one call of [`Store::poll`] or [`Store::maintain`].
const EVICTED_PER_LOAD: usize = 2;
const EVICTED_PER_POLL: usize = 32;

impl Store {
    /// An empty store that nothing on the disk belongs to.
    pub fn new(config: StoreConfig) -> Self {
        let image = Image::new(config.shard, config.salt);
        Store::empty(&config, image)
    }

    pub(crate) fn empty(config: &StoreConfig, image: Image) -> Self {
        let mut pages = Pages::new(config);
        let tree = Tree::new(&mut pages, PageKind::Leaf);
        let leases = Tree::new(&mut pages, PageKind::KeySet);
        Store {
            pages,
            tree,
            leases,
            log: EventLog::new(config),
            compact_revision: 0,
            live_keys: 0,
            event_hashes: 0,
            scratch: Vec::new(),
            interrupted: Interrupted::default(),
            pass: Pass::new(config.compaction_way),
            collector: Collector::new(config.collection_bytes_max),
            scrubber: Scrubber::default(),
            pass_turn: true,
            image,
            shard: config.shard,
            dropped: None,
        }
    }

    /// The store of a published image.
    pub(crate) fn restore(
        config: &StoreConfig,
        frozen: &Frozen,
        log: EventLog,
        image: Image,
    ) -> Self {
        Store {
            pages: Pages::restore(config, frozen.sums),
            tree: Tree::restore(frozen.root),
            leases: Tree::restore(frozen.lease_root),
            log,
            compact_revision: frozen.compacted,
            live_keys: frozen.keys,
            event_hashes: frozen.event_hashes,
            scratch: Vec::new(),
            interrupted: Interrupted::default(),
            pass: Pass::restore(
                frozen.compacted,
                frozen.compaction_next,
                config.compaction_way,
            ),
            collector: Collector::new(config.collection_bytes_max),
            scrubber: Scrubber::default(),
            pass_turn: true,
            image,
            shard: config.shard,
            dropped: None,
        }
    }

    /// Notes that reads below `revision` are refused from here on. What they alone needed is dropped by
    /// [`Store::maintain`].
    pub fn compact(&mut self, revision: i64) {
        self.refuse_below(revision);
        self.drop_below(revision);
    }

    /// Notes that reads below `revision` are refused from here on, but for those that the caller knows.
    pub(crate) fn refuse_below(&mut self, revision: i64) {
        self.compact_revision = self.compact_revision.max(revision);
    }

    /// Nobody reads below `revision` any more, which is at most the compact revision: what was needed there
    /// alone may go. Answers whether there may be something.
    pub(crate) fn drop_below(&mut self, revision: i64) -> bool {
        assert!(
            revision <= self.compact_revision,
            "{revision} is readable above {}",
            self.compact_revision
        );
        self.pass.extend(revision)
    }

    /// The highest revision that [`Store::compact`] was told, 0 for none.
    pub(crate) fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// The newest event.
    pub(crate) fn newest_event(&self) -> Revision {
        self.log.last()
    }

    /// How large the shard is.
    pub fn sizes(&self) -> Sizes {
        let sums = self.pages.sums();
        Sizes {
            bytes: sums.blocks * BLOCK_BYTES as u64 + self.log.valid_bytes(),
            bytes_in_use: sums.used_bytes + self.log.live_bytes(),
            keys: self.live_keys,
        }
    }

    /// How much of the page cache only a checkpoint can free.
    pub fn dirty(&self) -> Dirty {
        Dirty {
            dirty_bytes: (self.pages.unwritten() * PAGE_BYTES) as u64,
            cache_bytes: self.pages.cache_bytes(),
        }
    }

    /// Whether changes outrun the disk: what only it can free takes more than is meant for it. More
    /// changes should wait until requests complete.
    pub fn is_behind(&self) -> bool {
        let Dirty {
            dirty_bytes,
            cache_bytes,
        } = self.dirty();
        dirty_bytes > (cache_bytes / 4 * 3).max(BEHIND_BYTES_MIN) || self.log.is_behind()
    }

    /// Fixes the image of checkpoint `id`: all that was changed up to here. [`Store::poll`] writes it.
    ///
    /// Costs a few nanoseconds per page that was changed since the last one.
    ///
    /// # Panics
    /// While another checkpoint is under way, or if `id` is not above all before.
    pub fn freeze(&mut self, id: u32, attachment: Attachment) {
        self.log.freeze();
        let table = self.log.begin_frozen_table();
        let (tree, leases) = (&self.tree, &self.leases);
        let (keys, compacted) = (self.live_keys, self.compact_revision);
        let event_hashes = self.event_hashes;
        let compaction_next = self.pass.next();
        // Of events whose segments have gone, none was above the compact revision.
        let newest = self.log.last().main.max(compacted);
        self.pass.frozen(id, newest, self.pages.unwritten() as u64);
        self.image
            .freeze(id, attachment, table, &mut self.pages, |pages| Frozen {
                root: tree.root_image(pages),
                lease_root: leases.root_image(pages),
                keys,
                sums: pages.sums(),
                compacted,
                compaction_next,
                event_hashes,
            });
    }

    /// Emits background requests that may start now, a slice of work at a time. As long as something
    /// comes, or the answer is `true`, call again; otherwise after the next completion or request.
    pub fn poll(&mut self, out: &mut Vec<IoRequest>) -> bool {
        self.pages.shrink(EVICTED_PER_POLL);
        self.image.poll(&mut self.pages, &mut self.log, out)
    }

    /// Handles the completion of a background request.
    pub fn complete(&mut self, id: IoId, result: Result<IoOutput, IoFailure>) {
        self.image
            .complete(&mut self.pages, &mut self.log, id, result);
    }

    /// What happened to the files.
    pub fn next_event(&mut self) -> Option<ShardEvent> {
        self.image.next_event()
    }

    /// The superblock names the image of checkpoint `id`: what only the older one had may be used again.
    ///
    /// # Panics
    /// If that image is not durable.
    pub fn published(&mut self, id: u32) {
        self.image.published(id, &mut self.log);
    }

    /// Emits again what found no space.
    pub fn retry_space(&mut self) {
        self.image.retry_space(&mut self.log);
    }

    /// What the shell reads for `need`.
    pub fn read_of(&self, need: &Need) -> ReadRequest {
        match need {
            Need::Page(reference) => ReadRequest {
                file: self.page_file(),
                offset: reference.address * BLOCK_BYTES as u64,
                len: u64::from(reference.blocks) * BLOCK_BYTES as u64,
                passing: None,
            },
            Need::Bytes {
                segment, offset, ..
            } => {
                // A place that is none of the log's is refused when its bytes come.
                let nothing = FileName::Events {
                    shard: self.shard,
                    number: segment.number(),
                };
                let start = u64::from(*offset / BLOCK_BYTES as u32 * BLOCK_BYTES as u32);
                let read = self.log.read_of(need);
                let (file, offset, len) = read.unwrap_or((nothing, start, BLOCK_BYTES as u64));
                let passing = read.and_then(|_| self.log.passing_bytes_of(need));
                ReadRequest {
                    file,
                    offset,
                    len,
                    passing,
                }
            }
        }
    }

    /// Where the bytes stand that a load refused.
    pub fn damage(&self, error: &LoadError) -> Damage {
        let need = error.need();
        let place = self.read_of(&need);
        let offset = match need {
            Need::Page(_) => place.offset,
            Need::Bytes { offset, .. } => u64::from(offset),
        };
        Damage {
            file: place.file.path(),
            offset,
            what: error.to_string(),
        }
    }

    fn page_file(&self) -> FileName {
        FileName::Pages { shard: self.shard }
    }

    /// Keeps what `need` names for `holder`, once it is brought, until [`Store::release_held`].
    pub(crate) fn hold(&mut self, holder: Holder, need: &Need) {
        self.log.hold(holder, need);
    }

    /// Leaves what `holder` held to the caches.
    pub(crate) fn release_held(&mut self, holder: Holder) {
        self.log.release_held(holder);
    }

    /// Takes what the shell brings for `need`: the bytes of [`Store::read_of`]. What was only declared
    /// missing comes without.
    ///
    /// Bytes for a page that is resident again, or that nothing refers to any more, are dropped.
    ///
    /// # Errors
    /// The bytes are not what was asked for; nothing is kept, and the next attempt needs the same.
    pub fn load(&mut self, need: &Need, bytes: Option<Bytes>) -> Result<(), LoadError> {
        match *need {
            Need::Page(reference) => self.load_page(reference, bytes),
            Need::Bytes { .. } => self.log.load(need, bytes),
        }
    }

    /// Takes the [`ReadRequest::passing`] bytes that the shell has read for `need`, and only those.
    ///
    /// # Errors
    /// The bytes are not what stands there.
    pub fn load_passing(&mut self, need: &Need, bytes: Bytes) -> Result<(), LoadError> {
        self.log.load_passing(need, bytes)
    }

    fn load_page(&mut self, reference: PageRef, bytes: Option<Bytes>) -> Result<(), LoadError> {
        let bytes = bytes.ok_or(LoadError::Nothing {
            need: Need::Page(reference),
        })?;
        let damaged = |error| LoadError::Page { reference, error };
        let page = match Page::decode(&bytes, &self.pages.expectation(reference)) {
            Ok(page) => page,
            // Its blocks may have got another page since it was asked for.
            Err(_) if !self.refers_to(reference) => return Ok(()),
            Err(error) => return Err(damaged(error)),
        };
        let in_tree = self.tree.place_of(&self.pages, reference, page.low());
        let in_leases = || self.leases.place_of(&self.pages, reference, page.low());
        let (place, in_main) = match in_tree {
            Some(place) => (place, true),
            None => match in_leases() {
                Some(place) => (place, false),
                // Usually another request loaded it meanwhile; twice in a row is worth a closer look.
                None if self.dropped.replace(reference) != Some(reference) => return Ok(()),
                None if !self.refers_to(reference) => return Ok(()),
                None => {
                    let what = "keys of another place";
                    return Err(damaged(PageError::Parent { what }));
                }
            },
        };
        self.check_against_parent(place, in_main, &page)
            .map_err(damaged)?;
        let slot = self.pages.install(page, reference, place);
        match place {
            Place::Root if in_main => self.tree.set_root(Swip::Resident(slot)),
            Place::Root => self.leases.set_root(Swip::Resident(slot)),
            _ => {}
        }
        self.pages.shrink(EVICTED_PER_LOAD);
        Ok(())
    }

    /// Whether the store still has use for the page behind `reference`. Walks all pages in memory.
    fn refers_to(&self, reference: PageRef) -> bool {
        let wanted = Swip::Disk(reference);
        self.tree.root() == wanted
            || self.leases.root() == wanted
            || self.pages.refers_to(reference)
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
