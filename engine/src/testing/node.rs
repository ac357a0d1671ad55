//! A whole engine on one thread: coordinator and shards, with messages in random order.

use bytes::Bytes;

use super::{Defect, Random};
use crate::auth::Authorized;
use crate::command::*;
use crate::coordinator::{Coordinator, CoordinatorConfig, CoordinatorOutput, Published};
use crate::entry::EntryError;
use crate::read::{EventRead, LeaseKeysRead, RangeRead, resolve_revision};
use crate::shard::{EventsRequest, Shard, ShardReply, ShardRequest};
use crate::step::Step;
use crate::store::{EventChunk, MissingHook, StoreConfig};
use crate::txn::ReadTxn;

/// Shape of a [`Node`].
#[derive(Clone, Copy, Debug)]
pub struct NodeConfig {
    /// Shards.
    pub shards: u16,
    /// Seed of the order of messages.
    pub seed: u64,
    /// Makes pages and values missing.
    pub missing: Option<MissingHook>,
    /// Broken rule.
    pub defect: Defect,
}

/// The engine of one member without a shell.
#[derive(Debug)]
pub struct Node {
    coordinator: Coordinator,
    shards: Vec<Shard>,
    /// Requests on their way.
    pending: Vec<(u16, ShardRequest)>,
    random: Random,
    index: u64,
    defect: Defect,
    /// Times that something was missing.
    needs: u64,
}

impl Node {
    /// An empty node.
    pub fn new(config: NodeConfig) -> Self {
        let mut coordinator = Coordinator::new(CoordinatorConfig {
            shards: config.shards,
        });
        coordinator.plant(config.defect);
        let shards = (0..config.shards).map(|number| {
            let mut store = StoreConfig::new(number, config.seed);
            store.segment_bytes_first = 1 << 14;
            store.segment_bytes_max = 1 << 16;
            store.missing = config.missing.map(|missing| MissingHook {
                seed: missing.seed ^ u64::from(number),
                ..missing
            });
            let mut shard = Shard::new(store);
            shard.plant(config.defect);
            shard
        });
        Node {
            shards: shards.collect(),
            coordinator,
            pending: Vec::new(),
            random: Random::new(config.seed),
            index: 0,
            defect: config.defect,
            needs: 0,
        }
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// Times that a page or a value was missing.
    pub fn needs(&self) -> u64 {
        self.needs
    }

    /// Asserts every shard's invariants.
    pub fn check(&self) {
        self.shards.iter().for_each(Shard::check);
    }

    /// Hands over the next committed entry.
    ///
    /// # Errors
    /// The entry cannot be read.
    pub fn push(&mut self, entry: Bytes) -> Result<(), EntryError> {
        self.index += 1;
        self.coordinator.push_entry(self.index, entry)
    }

    /// Moves one message; answers what was published by that. `None` also while work is left:
    /// see [`is_idle`](Self::is_idle).
    pub fn turn(&mut self) -> Option<Published> {
        while let Some(output) = self.coordinator.poll() {
            match output {
                CoordinatorOutput::Shard { shard, request } => self.pending.push((shard, request)),
                CoordinatorOutput::Published(published) => return Some(published),
                CoordinatorOutput::Frozen(_) => unreachable!("nobody asked for a freeze"),
            }
        }
        if !self.pending.is_empty() {
            let chosen = self.random.index(self.pending.len());
            let (shard, request) = &self.pending[chosen];
            let shard = *shard;
            if let Some(reply) = attempt(&mut self.shards, shard, request, &mut self.needs) {
                self.pending.swap_remove(chosen);
                self.coordinator.on_reply(shard, reply);
            }
        }
        None
    }

    /// Whether every entry is published.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.coordinator.waiting() == 0
    }

    /// Executes one entry to its end.
    ///
    /// # Errors
    /// The entry cannot be read.
    pub fn apply(&mut self, entry: Bytes) -> Result<Published, EntryError> {
        self.push(entry)?;
        loop {
            if let Some(published) = self.turn() {
                return Ok(published);
            }
        }
    }

    /// Reads a range at the published revision.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn range(&mut self, range: &Authorized<Range>) -> Result<RangeReply, CommandError> {
        let current = self.coordinator.applied().revision;
        let mut compacted = self.coordinator.compact_revision();
        if self.defect == Defect::CompactionOffByOne {
            compacted += 1;
        }
        let at = resolve_revision(range, current, compacted)?;
        let mut read = RangeRead::new(range, at, self.coordinator.shards());
        read.plant(self.defect);
        let mut asked = Vec::new();
        while !read.is_done() {
            while let Some(request) = read.poll() {
                asked.push(request);
            }
            let (shard, reply) = self.answer(&mut asked);
            read.on_reply(shard, reply);
        }
        read.finish()
    }

    /// Executes a transaction without writes at the published revision.
    ///
    /// # Errors
    /// As for a range.
    pub fn read_txn(&mut self, txn: &Authorized<Txn>) -> Result<TxnReply, CommandError> {
        let current = self.coordinator.applied().revision;
        let compacted = self.coordinator.compact_revision();
        let mut read = ReadTxn::new(txn, current, compacted, self.coordinator.shards());
        let mut asked = Vec::new();
        while !read.is_done() {
            while let Some(request) = read.poll() {
                asked.push(request);
            }
            let (shard, reply) = self.answer(&mut asked);
            read.on_reply(shard, reply);
        }
        read.finish()
    }

    /// Reads a chunk of history.
    ///
    /// # Errors
    /// `Compacted`.
    pub fn events(&mut self, request: EventsRequest) -> Result<EventChunk, CommandError> {
        let mut read = EventRead::new(request, self.coordinator.shards());
        let mut asked = Vec::new();
        while let Some(request) = read.poll() {
            asked.push(request);
        }
        while !read.is_done() {
            let (shard, reply) = self.answer(&mut asked);
            read.on_reply(shard, reply);
        }
        read.finish()
    }

    /// Reads the keys of a lease.
    pub fn lease_keys(&mut self, lease: LeaseId) -> Vec<Bytes> {
        let mut read = LeaseKeysRead::new(lease, self.coordinator.shards());
        let mut asked = Vec::new();
        while let Some(request) = read.poll() {
            asked.push(request);
        }
        while !read.is_done() {
            let (shard, reply) = self.answer(&mut asked);
            read.on_reply(shard, reply);
        }
        read.finish()
    }

    /// Lets some shard answer one of the requests in `asked`.
    fn answer(&mut self, asked: &mut Vec<(u16, ShardRequest)>) -> (u16, ShardReply) {
        let chosen = self.random.index(asked.len());
        let (shard, request) = asked.swap_remove(chosen);
        loop {
            if let Some(reply) = attempt(&mut self.shards, shard, &request, &mut self.needs) {
                return (shard, reply);
            }
        }
    }
}

/// One attempt of a request; brings what is missing.
fn attempt(
    shards: &mut [Shard],
    number: u16,
    request: &ShardRequest,
    needs: &mut u64,
) -> Option<ShardReply> {
    let shard = &mut shards[usize::from(number)];
    match shard.handle(request) {
        Step::Ready(reply) => Some(reply),
        Step::Need(need) => {
            *needs += 1;
            let loaded = shard.load(&need, None);
            loaded.expect("what was only declared missing can be loaded");
            None
        }
    }
}
