//! A whole engine on one thread: coordinator and shards, with messages in random order.

use bytes::Bytes;

use super::disk::Disk;
use super::{Defect, DiskConfig, Random};
use crate::auth::Authorized;
use crate::command::*;
use crate::compaction::{COLLECT_BELOW_PERCENT, Maintained};
use crate::coordinator::{Coordinator, CoordinatorConfig, CoordinatorOutput, Published};
use crate::entry::EntryError;
use crate::read::{
    EventRead, HashRead, LeaseKeysRead, ListEnd, ListOrder, ListRead, ListValues, Listed,
    OutlineRead, RangeRead, resolve_revision, sort_outline,
};
use crate::shard::{Damage, EventsRequest, PinId, Shard, ShardReply, ShardRequest};
use crate::step::{Need, Step};
use crate::store::{CompactionWay, EventChunk, MissingHook, StoreConfig};
use crate::txn::ReadTxn;

/// Far more attempts than any request of these tests takes.
const ATTEMPTS_MAX: usize = 50_000;

/// Shape of a [`Node`].
#[derive(Clone, Copy, Debug)]
pub struct NodeConfig {
    /// Shards.
    pub shards: u16,
    /// Seed of the order of messages.
    pub seed: u64,
    /// Makes values missing, and with a disk clean pages too.
    pub missing: Option<MissingHook>,
    /// Broken rule.
    pub defect: Defect,
}

/// The engine of one member without a shell.
///
/// With a disk it takes checkpoints while it executes entries, and pages and values leave its memory.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    disk: Option<Disk>,
    pub(super) coordinator: Coordinator,
    shards: Vec<Shard>,
    /// Requests on their way.
    pending: Vec<(u16, ShardRequest)>,
    random: Random,
    index: u64,
    defect: Defect,
    /// Times that something was missing.
    needs: u64,
    /// Does background work between any two messages.
    maintains: bool,
    slices: u64,
    /// Attempts since a shard last answered.
    fruitless: usize,
    pub(super) last_pin: u64,
}

/// A range that is read in pieces, at a revision that is held for it.
#[derive(Debug)]
pub struct List {
    range: Authorized<Range>,
    at: i64,
    pin: PinId,
    asked: Vec<(u16, ShardRequest)>,
    outline: Vec<Listed>,
    stage: ListStage,
    kvs: Vec<KeyValue>,
}

#[derive(Debug)]
enum ListStage {
    Outline(ListRead),
    Values(ListValues, ListEnd),
}

impl Node {
    /// An empty node that keeps everything in memory.
    pub fn new(config: NodeConfig) -> Self {
        Node::start(config, None)
    }

    /// An empty node with an empty disk.
    pub fn with_disk(config: NodeConfig, disk: DiskConfig) -> Self {
        Node::start(config, Some(Disk::new(disk)))
    }

    fn start(config: NodeConfig, disk: Option<Disk>) -> Self {
        let mut coordinator = Coordinator::new(CoordinatorConfig {
            shards: config.shards,
        });
        coordinator.plant(config.defect);
        let disk_config = disk.as_ref().map(|disk| disk.config);
        let shards = (0..config.shards).map(|number| {
            let mut shard = Shard::new(store_config(&config, disk_config, number));
            shard.plant(config.defect);
            shard
        });
        Node {
            config,
            shards: shards.collect(),
            disk,
            coordinator,
            pending: Vec::new(),
            random: Random::new(config.seed),
            index: 0,
            defect: config.defect,
            needs: 0,
            maintains: true,
            slices: 0,
            fruitless: 0,
            last_pin: 0,
        }
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// Nobody waits for the answers to the entries up to `index`.
    pub fn skip_answers(&mut self, index: u64) {
        self.coordinator.skip_answers(index);
    }

    /// Times that a page or a value was missing.
    pub fn needs(&self) -> u64 {
        self.needs
    }

    /// Leaves versions that nobody can read where they are from here on, and dead records too.
    pub fn stop_maintenance(&mut self) {
        self.maintains = false;
    }

    /// Slices of background work that did something.
    pub fn slices(&self) -> u64 {
        self.slices
    }

    /// Does a slice of some shard's background work.
    fn maintain(&mut self) {
        if !self.maintains {
            return;
        }
        let percent = [30, 50, 90, 100][self.random.index(4)];
        let number = self.random.index(self.shards.len());
        let shard = &mut self.shards[number];
        match shard.maintain(percent) {
            Step::Ready(left) => self.slices += u64::from(left == Maintained::Working),
            Step::Need(need) => bring(shard, self.disk.as_ref(), &need, &mut self.needs),
        }
    }

    /// Does all the background work that is due.
    pub fn maintain_all(&mut self) {
        for shard in &mut self.shards {
            loop {
                match shard.maintain(COLLECT_BELOW_PERCENT) {
                    Step::Ready(Maintained::Working) => self.slices += 1,
                    Step::Ready(_) => break,
                    Step::Need(need) => bring(shard, self.disk.as_ref(), &need, &mut self.needs),
                }
            }
        }
    }

    /// Checks all that is on the disk; answers how many pages and pieces that were, or the first damage.
    ///
    /// # Errors
    /// Something is damaged.
    pub fn scrub(&mut self) -> Result<u64, Damage> {
        let mut count = 0;
        let Some(disk) = &self.disk else {
            return Ok(0);
        };
        for shard in &mut self.shards {
            loop {
                match shard.scrub_next() {
                    Step::Ready(Some(target)) => {
                        count += 1;
                        let bytes = disk.read(shard.read_of(target.need()));
                        if let Some(damage) = shard.scrub_check(&target, &bytes) {
                            return Err(damage);
                        }
                    }
                    Step::Ready(None) => break,
                    Step::Need(need) => bring(shard, Some(disk), &need, &mut self.needs),
                }
            }
        }
        Ok(count)
    }

    /// The hash of what is readable at `at`.
    ///
    /// # Errors
    /// `Compacted`.
    pub fn hash(&mut self, at: i64) -> Result<u32, CommandError> {
        let compacted = self.coordinator.compact_revision();
        if at < compacted {
            return Err(CommandError::Compacted);
        }
        let mut read = HashRead::new(at, compacted, self.coordinator.shards());
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

    /// Number of checkpoints that came to count.
    pub fn checkpoints(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.checkpoints)
    }

    /// Asserts every shard's invariants, on disk too.
    pub fn check(&self) {
        for shard in &self.shards {
            match &self.disk {
                None => shard.check(),
                Some(disk) => shard.check_all(&mut |request| disk.read(request)),
            }
        }
    }

    /// Ends the process wherever it is, opens the files again and goes on from there. Answers the index
    /// of the last entry that is executed; those behind it have to be pushed again.
    ///
    /// Without a disk nothing is left.
    pub fn crash(&mut self) -> u64 {
        self.pending.clear();
        let config = self.config;
        let named = match &mut self.disk {
            None => None,
            Some(disk) => {
                disk.crash(&mut self.random);
                disk.named.clone()
            }
        };
        let mut attachment = Bytes::new();
        for number in (0..config.shards).rev() {
            let store = store_config(&config, self.disk.as_ref().map(|disk| disk.config), number);
            let mut shard = match &mut self.disk {
                None => Shard::new(store),
                Some(disk) => {
                    let (shard, attached) = disk.open(store, &mut self.random);
                    // The first shard's comes last.
                    attachment = attached;
                    shard
                }
            };
            shard.plant(config.defect);
            self.shards[usize::from(number)] = shard;
        }
        let coordinator = CoordinatorConfig {
            shards: config.shards,
        };
        self.coordinator = match &named {
            None => Coordinator::new(coordinator),
            Some(named) => {
                Coordinator::restore(coordinator, named.index, &named.section, &attachment)
                    .expect("an attachment that was written here")
            }
        };
        self.coordinator.plant(config.defect);
        self.index = named.map_or(0, |named| named.index);
        self.index
    }

    /// Hands over the next committed entry.
    ///
    /// # Errors
    /// The entry cannot be read.
    pub fn push(&mut self, entry: Bytes) -> Result<(), EntryError> {
        self.index += 1;
        let shards = self.shards.len();
        if let Some(id) = self.disk.as_mut().and_then(|disk| disk.entry(shards)) {
            self.coordinator.freeze(id);
        }
        self.coordinator.push_entry(self.index, entry)
    }

    /// Moves one message; answers what was published by that. `None` also while work is left:
    /// see [`is_idle`](Self::is_idle).
    pub fn turn(&mut self) -> Option<Published> {
        while let Some(output) = self.coordinator.poll() {
            match output {
                CoordinatorOutput::Shard { shard, request } => self.pending.push((shard, request)),
                CoordinatorOutput::Published(published) => return Some(published),
                CoordinatorOutput::Frozen(frozen) => {
                    let disk = self.disk.as_mut().expect("only a disk asks for a freeze");
                    disk.frozen(frozen);
                }
            }
        }
        if let Some(disk) = &mut self.disk
            && self.random.one_in(2)
        {
            disk.turn(&mut self.shards, &mut self.random);
        }
        if self.random.one_in(2) {
            self.maintain();
        }
        if !self.pending.is_empty() {
            let chosen = self.random.index(self.pending.len());
            let (shard, request) = &self.pending[chosen];
            let shard = *shard;
            let disk = self.disk.as_ref();
            let reply = attempt(&mut self.shards, disk, (shard, request), &mut self.needs);
            self.fruitless = if reply.is_some() {
                0
            } else {
                self.fruitless + 1
            };
            assert!(
                self.fruitless < ATTEMPTS_MAX,
                "{request:?} never has all it needs"
            );
            if let Some(reply) = reply {
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

    /// Begins to read a range in pieces; none if its answer cannot come so.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn list(&mut self, range: Authorized<Range>) -> Result<Option<List>, CommandError> {
        if ListOrder::of(&range).is_none() {
            return Ok(None);
        }
        let current = self.coordinator.applied().revision;
        let compacted = self.coordinator.compact_revision();
        let at = resolve_revision(&range, current, compacted)?;
        self.last_pin += 1;
        let pin = PinId(self.last_pin);
        let shards = self.coordinator.shards();
        for shard in 0..shards {
            let mut asked = vec![(
                shard,
                ShardRequest::Pin {
                    id: pin,
                    at,
                    still: false,
                },
            )];
            if let (_, ShardReply::Refused) = self.answer(&mut asked) {
                self.unpin(pin);
                return Err(CommandError::Compacted);
            }
        }
        let outline = ListRead::outline(&range, at, pin, shards);
        Ok(Some(List {
            range,
            at,
            pin,
            asked: Vec::new(),
            outline: Vec::new(),
            stage: ListStage::Outline(outline),
            kvs: Vec::new(),
        }))
    }

    pub(super) fn unpin(&mut self, pin: PinId) {
        for shard in 0..self.coordinator.shards() {
            self.answer(&mut vec![(shard, ShardRequest::Unpin(pin))]);
        }
    }

    /// Lets a shard answer one of the list's requests; its reply when that was the last one.
    ///
    /// # Errors
    /// `Compacted`, although its revision is held.
    pub fn go_on(&mut self, list: &mut List) -> Option<Result<RangeReply, CommandError>> {
        let done = match &mut list.stage {
            ListStage::Outline(read) => {
                while let Some(request) = read.poll() {
                    list.asked.push(request);
                }
                if !read.is_done() {
                    let (shard, reply) = self.answer(&mut list.asked);
                    read.on_reply(shard, reply);
                }
                list.outline.extend(read.take());
                read.is_done()
            }
            ListStage::Values(read, _) => {
                while let Some(request) = read.poll() {
                    list.asked.push(request);
                }
                if !read.has_some() && !read.is_done() {
                    let (shard, reply) = self.answer(&mut list.asked);
                    read.on_reply(shard, reply);
                }
                list.kvs
                    .extend(read.take().into_iter().map(|listed| listed.kv));
                read.is_done()
            }
        };
        if !done {
            return None;
        }
        list.asked.clear();
        match self.end_stage(list) {
            Ok(None) => None,
            Ok(Some(reply)) => Some(Ok(reply)),
            Err(error) => Some(Err(error)),
        }
    }

    fn end_stage(&mut self, list: &mut List) -> Result<Option<RangeReply>, CommandError> {
        let (range, shards) = (&list.range, self.coordinator.shards());
        let (end, last) = match &list.stage {
            ListStage::Outline(read) => (read.finish()?, read.last()),
            ListStage::Values(read, _) if read.is_overtaken() => {
                return Err(CommandError::Compacted);
            }
            ListStage::Values(_, end) => {
                let reply = RangeReply {
                    kvs: std::mem::take(&mut list.kvs),
                    more: end.more,
                    count: end.count,
                };
                sort_outline(range, &mut list.outline);
                for (listed, kv) in list.outline.iter().zip(&reply.kvs) {
                    let len = match range.keys_only {
                        true => 0,
                        false => listed.value_bytes as usize,
                    };
                    // A broken rule shows as a difference from the oracle.
                    let right = kv.value.len() == len || self.defect != Defect::None;
                    assert!(right, "{len} bytes by the outline of {:?}", kv.key);
                }
                let right = list.outline.len() == reply.kvs.len() || self.defect != Defect::None;
                assert!(right, "{} keys by the outline", list.outline.len());
                self.unpin(list.pin);
                return Ok(Some(reply));
            }
        };
        let values = match ListOrder::of(range) {
            Some(ListOrder::Outline) => {
                let mut outline = list.outline.clone();
                sort_outline(range, &mut outline);
                let read = OutlineRead::new(range, list.at, list.pin, shards, outline);
                ListValues::Outline(read)
            }
            _ => {
                let read = ListRead::values(range, list.at, list.pin, shards, end.keys, last);
                ListValues::Keys(read)
            }
        };
        list.stage = ListStage::Values(values, end);
        Ok(None)
    }

    /// Lets go of a list before its end.
    pub fn leave_list(&mut self, list: List) {
        self.unpin(list.pin);
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
    pub(super) fn answer(&mut self, asked: &mut Vec<(u16, ShardRequest)>) -> (u16, ShardReply) {
        let chosen = self.random.index(asked.len());
        let (shard, request) = asked.swap_remove(chosen);
        if self.random.one_in(3) {
            self.maintain();
        }
        for _ in 0..ATTEMPTS_MAX {
            let (disk, asked) = (self.disk.as_ref(), (shard, &request));
            if let Some(reply) = attempt(&mut self.shards, disk, asked, &mut self.needs) {
                return (shard, reply);
            }
        }
        panic!("{request:?} never has all it needs");
    }
}

fn store_config(config: &NodeConfig, disk: Option<DiskConfig>, number: u16) -> StoreConfig {
    let mut store = StoreConfig::new(number, config.seed);
    store.segment_bytes_first = 1 << 14;
    store.segment_bytes_max = 1 << 16;
    store.compaction_way = match (config.seed + u64::from(number)) % 3 {
        0 => CompactionWay::Cheaper,
        1 => CompactionWay::Events,
        _ => CompactionWay::Pages,
    };
    store.missing = config.missing.map(|missing| MissingHook {
        seed: missing.seed ^ u64::from(number),
        ..missing
    });
    if let Some(disk) = disk {
        store.page_cache_bytes = disk.page_cache_bytes;
        store.tail_bytes_max = disk.tail_bytes_max;
        store.value_cache_bytes = disk.value_cache_bytes;
        store.piece_bytes = disk.piece_bytes;
        store.segment_bytes_first = 4096;
        store.segment_bytes_max = 1 << 14;
        store.collection_bytes_max = disk.value_cache_bytes;
    }
    store
}

/// One attempt of a request; brings what is missing.
fn attempt(
    shards: &mut [Shard],
    disk: Option<&Disk>,
    (number, request): (u16, &ShardRequest),
    needs: &mut u64,
) -> Option<ShardReply> {
    let shard = &mut shards[usize::from(number)];
    match shard.handle(request) {
        Step::Ready(reply) => Some(reply),
        Step::Need(need) => {
            bring(shard, disk, &need, needs);
            None
        }
    }
}

/// Brings what is missing.
fn bring(shard: &mut Shard, disk: Option<&Disk>, need: &Need, needs: &mut u64) {
    *needs += 1;
    match disk {
        Some(disk) => disk.load(shard, need),
        None => {
            let loaded = shard.load(need, None);
            loaded.expect("what was only declared missing can be loaded");
        }
    }
}
