//! One shard as the coordinator sees it: requests in, answers out.
//!
//! Owns the shard's [`Store`] and the work it is in the middle of. It knows nothing of the other
//! shards, of leases or of the log; revisions come with the requests, except that a wave for this
//! shard alone is numbered here. Its files are written in the background: requests come out of
//! [`Shard::poll`], and whoever executes them reports back.
//!
//! Invariants:
//! - A request that meets missing bytes answers `Need`, and the same request comes again after
//!   `load`. Work that was done stays done; of the operation that stopped nothing was done.
//! - Between the first and the last attempt of a changing request only reads are served.
//! - `paths` holds the branches of the wave's writing transactions from evaluation to application.

mod ahead;
mod batch;
mod interrupted;
mod pins;
mod request;
mod serve;

use std::collections::VecDeque;

use bytes::Bytes;
use diskio::{IoFailure, IoId, IoOutput, IoRequest};

use crate::command::{Compare, LeaseId};
use crate::compaction::{Maintained, ScrubTarget};
use crate::defect::Defect;
use crate::events::Holder;
use crate::image::{Dirty, ReadRequest, ShardEvent};
use crate::revision::Revision;
use crate::step::{Need, Step};
use crate::store::{LoadError, Store, StoreConfig};
use crate::txn::Path;
use interrupted::Interrupted;
use pins::Pins;

pub use ahead::Ahead;
pub use pins::{PINS_MAX, PinId};
pub use request::{
    Applied, Batch, CountRequest, Damage, EventsRequest, Finding, Get, OutlinePart, OutlineRequest,
    Question, RecordPlace, RecordsRequest, ScanReply, ScanRequest, ShardReply, ShardRequest,
    Verdict, Write,
};
pub(crate) use request::{Change, Item, QuestionKind, RevisionBounds, Tally, Work};

/// Most shards of a data directory.
pub const SHARDS_MAX: u16 = 64;

/// The shard that holds `key`, of `shards` (a power of two).
pub fn shard_of(key: &[u8], shards: u16) -> u16 {
    (key_hash(key) & u64::from(shards - 1)) as u16
}

pub(crate) fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// One slice of the key space.
#[derive(Debug)]
pub struct Shard {
    store: Store,
    compacted: i64,
    pins: Pins,
    paths: VecDeque<Path>,
    progress: Option<batch::Progress>,
    /// Nobody waits for the answers of the request under way.
    unanswered: bool,
    /// Operation of the request under way that the store holds records for.
    held_for: Option<(usize, usize)>,
    /// Guards over ranges at a revision: the last key that was looked at.
    compares: Interrupted<(Compare, i64), Bytes>,
    /// Questions at a revision: the answers to the first ones.
    findings: Interrupted<(Vec<Question>, i64), Vec<Finding>>,
    /// Keys of leases as of an event: those of the first leases.
    lease_keys: Interrupted<(Vec<LeaseId>, Revision), Vec<Vec<Bytes>>>,
    /// Changes of the restore request under way that were taken.
    restored: usize,
    defect: Defect,
}

impl Shard {
    /// An empty shard that nothing on the disk belongs to. Its directory and files come with its first
    /// background requests.
    pub fn new(config: StoreConfig) -> Self {
        Shard::with_store(Store::new(config))
    }

    /// A shard that continues from a store.
    pub(crate) fn with_store(store: Store) -> Self {
        let compacted = match store.compact_revision() {
            0 => -1,
            revision => revision,
        };
        Shard {
            store,
            compacted,
            pins: Pins::default(),
            paths: VecDeque::new(),
            progress: None,
            unanswered: false,
            held_for: None,
            compares: Interrupted::default(),
            findings: Interrupted::default(),
            lease_keys: Interrupted::default(),
            restored: 0,
            defect: Defect::None,
        }
    }

    /// The shard's store.
    #[cfg(test)]
    pub(crate) fn into_store(self) -> Store {
        self.store
    }

    /// Breaks a rule on purpose.
    #[cfg(feature = "testing")]
    pub fn plant(&mut self, defect: Defect) {
        self.defect = defect;
    }

    /// Executes `request`. After a `Need` the same request comes again.
    pub fn handle(&mut self, request: &ShardRequest) -> Step<ShardReply> {
        if request.is_of_wave() {
            self.unanswered = request.is_unanswered();
        }
        let step = self.attempt(request);
        if request.is_of_wave() {
            // One operation may want more values at once than the cache holds.
            let operation = self.progress.as_ref().map(batch::Progress::operation);
            if operation != self.held_for {
                self.store.release_held(Holder::Wave);
                self.held_for = operation;
            }
            if let Step::Need(need) = &step {
                self.store.hold(Holder::Wave, need);
                self.look_ahead(request);
            }
        }
        step
    }

    fn attempt(&mut self, request: &ShardRequest) -> Step<ShardReply> {
        match request {
            ShardRequest::Evaluate(batch) => self.evaluate(batch),
            ShardRequest::Apply { batch, mains } => self.apply(batch, mains),
            ShardRequest::Execute(batch) => self.execute(batch),
            ShardRequest::Write(writes) => self.write(writes),
            ShardRequest::Probe { at, questions } if *at >= self.compacted => {
                self.probe(*at, questions)
            }
            ShardRequest::Probe { .. } => Step::Ready(ShardReply::Refused),
            ShardRequest::LeaseKeys(leases) => self.lease_keys(leases),
            ShardRequest::Compact(revision) => {
                self.compacted = self.compacted.max(*revision);
                self.store.refuse_below(*revision);
                self.store.drop_below(self.horizon());
                Step::Ready(ShardReply::Compacted)
            }
            ShardRequest::Pin { at, .. } if *at < self.compacted => {
                Step::Ready(ShardReply::Refused)
            }
            ShardRequest::Pin { id, at, still } => {
                Step::Ready(ShardReply::Pinned(self.pins.insert(*id, *at, *still)))
            }
            ShardRequest::Unpin(id) => {
                let was_still = self.pins.are_still();
                self.pins.remove(*id);
                let moves_again = was_still && !self.pins.are_still();
                let pass_is_due = self.store.drop_below(self.horizon()) || moves_again;
                Step::Ready(ShardReply::Unpinned { pass_is_due })
            }
            ShardRequest::Get(get) => self.get(get),
            ShardRequest::Scan(scan) => self.scan(scan),
            ShardRequest::Count(count) if self.is_readable(count.at, count.pin) => {
                let CountRequest {
                    range, at, from, ..
                } = count;
                let counted = self.store.count(range, *at, from.as_ref());
                counted.map(ShardReply::Count)
            }
            ShardRequest::Count(_) => Step::Ready(ShardReply::Refused),
            ShardRequest::Events(events)
                if events.from >= self.compacted
                    || self.pins.hold_from(events.pin, events.from) =>
            {
                self.store.events(&events.query()).map(ShardReply::Events)
            }
            ShardRequest::Events(_) => Step::Ready(ShardReply::Refused),
            ShardRequest::Hash(hash) if hash.compacted.max(0) == self.compacted.max(0) => {
                self.store.hash(hash).map(ShardReply::Hash)
            }
            ShardRequest::Hash(_) => Step::Ready(ShardReply::Refused),
            ShardRequest::Outline(outline) if self.pins.hold_still(outline.pin, outline.at) => {
                self.store.outline(outline).map(ShardReply::Outline)
            }
            ShardRequest::Records(records) if self.pins.hold_still(records.pin, records.at) => {
                let found = self.store.records(&records.places);
                found.map(ShardReply::Records)
            }
            ShardRequest::Outline(_) | ShardRequest::Records(_) => Step::Ready(ShardReply::Refused),
            ShardRequest::Extent { from, to } => {
                let (records, bytes) = self.store.extent(*from, *to);
                Step::Ready(ShardReply::Extent { records, bytes })
            }
            ShardRequest::Freeze { id, attachment } => {
                self.store.freeze(*id, attachment.clone());
                Step::Ready(ShardReply::Frozen)
            }
            ShardRequest::Restore(events) => self.restore(events).map(ShardReply::Restored),
            ShardRequest::Sizes => Step::Ready(ShardReply::Sizes(self.store.sizes())),
        }
    }

    /// Versions that only reads below this revision see are dropped: the compact revision, or the lowest
    /// pinned one below it.
    fn horizon(&self) -> i64 {
        if self.defect == Defect::PassIgnoresPins {
            return self.compacted;
        }
        let pinned = self.pins.lowest().unwrap_or(i64::MAX);
        self.compacted.min(pinned)
    }

    /// Whether a read at `at` may begin or go on.
    fn is_readable(&self, at: i64, pin: Option<PinId>) -> bool {
        at >= self.compacted || self.pins.hold(pin, at)
    }

    /// What the shell reads for `need`.
    pub fn read_of(&self, need: &Need) -> ReadRequest {
        self.store.read_of(need)
    }

    /// What the request that answered `Need` last will need beside it, in the order of places: worth
    /// loading at the same time. An error of `load` for one of these concerns nobody yet.
    pub fn take_hints(&mut self) -> Vec<Need> {
        self.store.take_hints()
    }

    /// Keeps what `need` names in memory, once it is brought, until [`Shard::release_held`]: for a request beside
    /// those of waves that needs again what was loaded for it. The caches hold less than it needs at once.
    pub fn hold(&mut self, need: &Need) {
        self.store.hold(Holder::Favoured, need);
    }

    /// Leaves to the caches what was held by [`Shard::hold`].
    pub fn release_held(&mut self) {
        self.store.release_held(Holder::Favoured);
    }

    /// Whether there may be something to load ahead: some page is not in memory.
    pub fn lacks_pages(&self) -> bool {
        self.store.lacks_pages()
    }

    /// What a request on `key` that is to come would have to wait for, as far as it is known now, while
    /// `on_their_way` pages are being loaded. An error of `load` for one of these concerns nobody yet.
    pub fn look_for(&self, key: &[u8], on_their_way: usize) -> Ahead {
        self.look_for_key(key, on_their_way)
    }

    /// Takes what the shell brings for `need`: the bytes of [`Shard::read_of`]. What was only declared
    /// missing by the test mode comes without.
    ///
    /// # Errors
    /// The bytes are not what stands there.
    pub fn load(&mut self, need: &Need, bytes: Option<Bytes>) -> Result<(), LoadError> {
        self.store.load(need, bytes)
    }

    /// As [`Shard::load`] with the [`ReadRequest::passing`] bytes alone.
    ///
    /// # Errors
    /// The bytes are not what stands there.
    pub fn load_passing(&mut self, need: &Need, bytes: Bytes) -> Result<(), LoadError> {
        self.store.load_passing(need, bytes)
    }

    /// What to tell whoever asked for bytes that [`Shard::load`] refused: file, offset and what is wrong.
    pub fn damage(&self, error: &LoadError) -> Damage {
        self.store.damage(error)
    }

    /// Emits background requests that may start now: a small slice of work, so that nobody who asks
    /// waits long. As long as something comes, or the answer is `true`, call again; otherwise after the next
    /// request or completion.
    pub fn poll(&mut self, out: &mut Vec<IoRequest>) -> bool {
        self.store.poll(out)
    }

    /// Handles the completion of a background request.
    pub fn complete(&mut self, id: IoId, result: Result<IoOutput, IoFailure>) {
        self.store.complete(id, result);
    }

    /// What happened to the shard's files.
    pub fn next_event(&mut self) -> Option<ShardEvent> {
        self.store.next_event()
    }

    /// The superblock names the image of checkpoint `id`: what only the older one had may be used again.
    ///
    /// # Panics
    /// If that image is not durable.
    pub fn published(&mut self, id: u32) {
        self.store.published(id);
    }

    /// Emits again what found no space; about once a second after [`ShardEvent::NoSpace`].
    pub fn retry_space(&mut self) {
        self.store.retry_space();
    }

    /// Does a slice of background work of at most about a millisecond: the pass of a compaction, or emptying
    /// event segments of which less than `percent` is live (see `compaction::COLLECT_BELOW_PERCENT`). After a
    /// `Need` call again.
    pub fn maintain(&mut self, percent: u64) -> Step<Maintained> {
        // A changing request that waits for a load goes on where it stopped; nothing comes in between. And a
        // pass dirties pages faster than the disk takes them.
        if self.progress.is_some() || self.store.is_behind() {
            return Step::Ready(Maintained::Blocked);
        }
        match self.pins.are_still() {
            true => self.store.maintain_still(),
            false => self.store.maintain(percent),
        }
    }

    /// What [`Shard::maintain`] needs cannot be read: it leaves that alone and goes on with the rest. What it
    /// would have dropped or moved there stays.
    pub fn maintain_without(&mut self, need: &Need) {
        self.store.maintain_without(need);
    }

    /// What to read and check next for damage; none at the end of a round. After a `Need` call again.
    pub fn scrub_next(&mut self) -> Step<Option<ScrubTarget>> {
        self.store.scrub_next()
    }

    /// Checks the bytes of [`Shard::read_of`] for a scrub target.
    pub fn scrub_check(&mut self, target: &ScrubTarget, bytes: &Bytes) -> Option<Damage> {
        self.store.scrub_check(target, bytes)
    }

    /// What [`Shard::scrub_next`] needs cannot be read: the round goes on with the next part.
    pub fn scrub_without(&mut self) {
        self.store.scrub_without();
    }

    /// How much of the page cache only a checkpoint can free.
    pub fn dirty(&self) -> Dirty {
        self.store.dirty()
    }

    /// Whether changes outrun the disk; more of them should wait until requests complete.
    pub fn is_behind(&self) -> bool {
        self.store.is_behind()
    }

    /// Asserts every invariant of what is in memory.
    pub fn check(&self) {
        self.store.check();
    }

    /// Asserts every invariant; `read` brings what is on disk.
    pub fn check_all(&self, read: &mut dyn FnMut(ReadRequest) -> Bytes) {
        self.store.check_all(read);
    }
}
