//! One shard as the coordinator sees it: requests in, answers out.
//!
//! Owns the shard's [`Store`] and the work it is in the middle of. It knows nothing of the other
//! shards, of leases or of the log; revisions come with the requests, except that a wave for this
//! shard alone is numbered here.
//!
//! Invariants:
//! - A request that meets missing bytes answers `Need`, and the same request comes again after
//!   `load`. Work that was done stays done; of the operation that stopped nothing was done.
//! - Between the first and the last attempt of a changing request only reads are served.
//! - `paths` holds the branches of the wave's writing transactions from evaluation to application.

mod batch;
mod request;
mod serve;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::defect::Defect;
use crate::step::{Need, Step};
use crate::store::{LoadError, Store, StoreConfig};
use crate::txn::Path;

pub use request::{
    Applied, Batch, Damage, EventsRequest, Finding, Get, Question, ScanReply, ScanRequest,
    ShardReply, ShardRequest, Verdict, Write,
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
    paths: VecDeque<Path>,
    progress: Option<batch::Progress>,
    defect: Defect,
}

impl Shard {
    /// An empty shard.
    pub fn new(config: StoreConfig) -> Self {
        Shard {
            store: Store::new(config),
            compacted: -1,
            paths: VecDeque::new(),
            progress: None,
            defect: Defect::None,
        }
    }

    /// Breaks a rule on purpose.
    #[cfg(feature = "testing")]
    pub fn plant(&mut self, defect: Defect) {
        self.defect = defect;
    }

    /// Executes `request`. After a `Need` the same request comes again.
    pub fn handle(&mut self, request: &ShardRequest) -> Step<ShardReply> {
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
                self.store.compact(*revision);
                Step::Ready(ShardReply::Compacted)
            }
            ShardRequest::Get(get) => self.get(get),
            ShardRequest::Scan(scan) => self.scan(scan),
            ShardRequest::Count { range, at } if *at >= self.compacted => {
                self.store.count(range, *at).map(ShardReply::Count)
            }
            ShardRequest::Count { .. } => Step::Ready(ShardReply::Refused),
            ShardRequest::Events(events) if events.from >= self.compacted => {
                self.store.events(&events.query()).map(ShardReply::Events)
            }
            ShardRequest::Events(_) => Step::Ready(ShardReply::Refused),
            ShardRequest::Freeze { .. } => Step::Ready(ShardReply::Frozen),
            ShardRequest::Sizes => Step::Ready(ShardReply::Sizes(self.store.sizes())),
        }
    }

    /// Takes what the shell brings for `need`.
    ///
    /// # Errors
    /// The bytes are not what stands there.
    pub fn load(&mut self, need: &Need, bytes: Option<Bytes>) -> Result<(), LoadError> {
        self.store.load(need, bytes)
    }

    /// Asserts every invariant.
    pub fn check(&self) {
        self.store.check();
    }
}
