//! One member: log, coordinator and shards, composed as `net/server` composes them.
//!
//! The order of a checkpoint is the server's own, `engine::checkpoint::Sequence`; that of the pipeline is
//! a second writing of the server's `node::sequencer`, without clocks, clients and consensus: who leads
//! and what is committed is said from outside.

use std::collections::VecDeque;

use bytes::Bytes;
use diskio::sim::SimDisk;
use diskio::{IoId, IoOperation, IoRequest};
use engine::checkpoint::{Action, Sequence};
use engine::coordinator::{Applied, Coordinator, CoordinatorOutput};
use engine::image::ShardEvent;
use engine::shard::{Shard, ShardRequest};
use wal::{Checkpoint, Entry, Index, Term, Vote, Wal, WalEvent};

use crate::opening::Found;
use crate::promise::{Checked, Promise, broken};
use crate::reader::{Unread, maintain, serve};
use crate::settings::Shape;
use crate::slip::Slip;

/// Ids that one write of the superblock reserves.
const IDS_PER_RESERVATION: u64 = 3;
/// This member's number.
const MEMBER: u64 = 2;

/// An entry was executed and its effects are visible.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Executed {
    pub(crate) applied: Applied,
    pub(crate) apply_hash: u64,
}

/// A running member.
pub(crate) struct Member {
    wal: Wal,
    pub(crate) coordinator: Coordinator,
    pub(crate) shards: Vec<Shard>,
    shape: Shape,
    slip: Slip,
    sequence: Sequence,
    /// Index of the checkpoint that counts.
    pub(crate) checkpoint: u64,
    /// Terms of the log from entry `terms_base` on.
    terms_base: u64,
    terms: Vec<u64>,
    /// In the log and not handed to the coordinator.
    uncommitted: VecDeque<Entry>,
    committed: u64,
    durable: u64,
    term: u64,
    pending: VecDeque<(u16, ShardRequest)>,
    /// Completions of requests that were never executed.
    answered: VecDeque<IoId>,
    now: u64,
    /// Since the last look.
    executed: Vec<Executed>,
    frozen_ids: Vec<u32>,
    /// Checkpoints published in this life.
    pub(crate) checkpoints: u64,
    /// Slices of background work that did something.
    pub(crate) slices: u64,
}

impl Member {
    /// A member that stands where the directory stands; it has not joined anything.
    pub(crate) fn new(found: Found, shape: Shape, slip: Slip) -> Member {
        let Found {
            opened,
            coordinator,
            shards,
        } = found;
        let superblock = &opened.superblock;
        let checkpoint = superblock.checkpoint_index.0;
        let (id, reserved) = (superblock.checkpoint_id, superblock.checkpoint_ids_reserved);
        let sequence = match slip {
            Slip::ReusedCheckpointId => {
                let mut sequence = Sequence::new(id, id, IDS_PER_RESERVATION);
                sequence.ids_reserved(reserved);
                sequence
            }
            _ => Sequence::new(id, reserved, IDS_PER_RESERVATION),
        };
        let terms = std::iter::once(superblock.checkpoint_term.0);
        let terms = terms.chain(opened.entries.iter().map(|entry| entry.term.0));
        let last = checkpoint + opened.entries.len() as u64;
        Member {
            wal: opened.wal,
            coordinator,
            shards,
            shape,
            slip,
            sequence,
            checkpoint,
            terms_base: checkpoint,
            terms: terms.collect(),
            uncommitted: opened.entries.into(),
            committed: checkpoint,
            durable: last,
            term: opened.term.0,
            pending: VecDeque::new(),
            answered: VecDeque::new(),
            now: 0,
            executed: Vec::new(),
            frozen_ids: Vec::new(),
            checkpoints: 0,
            slices: 0,
        }
    }

    /// Index of the last entry of the log.
    pub(crate) fn last(&self) -> u64 {
        self.terms_base + self.terms.len() as u64 - 1
    }

    /// Durable up to here, as far as the log said.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Handed to the coordinator up to here.
    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    /// The current term.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// Entries found behind the checkpoint or appended, not executed.
    pub(crate) fn uncommitted(&self) -> impl Iterator<Item = &Entry> {
        self.uncommitted.iter()
    }

    fn term_at(&self, index: u64) -> u64 {
        self.terms[(index - self.terms_base) as usize]
    }

    /// Begins a term: as its leader, which appends an empty entry, or as one who follows.
    pub(crate) fn begin_term(&mut self) {
        self.term += 1;
        let vote = match self.shape {
            Shape::Alone => Vote::For(MEMBER),
            Shape::Follower => Vote::None,
        };
        self.wal.save_hard_state(Term(self.term), vote);
        if self.slip == Slip::ReplayPastCommit {
            self.commit(self.last());
        }
    }

    /// Appends an entry of the current term at `index`; what stood there and behind goes.
    pub(crate) fn append(&mut self, index: u64, data: Bytes) {
        self.terms.truncate((index - self.terms_base) as usize);
        self.terms.push(self.term);
        self.uncommitted.retain(|entry| entry.index.0 < index);
        self.durable = self.durable.min(index - 1);
        let entry = Entry {
            index: Index(index),
            term: Term(self.term),
            kind: 0,
            data,
        };
        self.uncommitted.push_back(entry.clone());
        self.wal.append(vec![entry]);
    }

    /// Gives committed entries to the coordinator, in order.
    pub(crate) fn commit(&mut self, index: u64) {
        while self.committed < index {
            let Some(entry) = self.uncommitted.pop_front() else {
                return;
            };
            self.committed = entry.index.0;
            let pushed = self.coordinator.push_entry(entry.index.0, entry.data);
            pushed.expect("an entry that was built here");
        }
        self.wal.set_commit_hint(Index(index));
    }

    /// What was executed since the last call.
    pub(crate) fn take_executed(&mut self) -> Vec<Executed> {
        std::mem::take(&mut self.executed)
    }

    /// Ids that were frozen since the last call.
    pub(crate) fn take_frozen_ids(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.frozen_ids)
    }

    // ---- pipeline ----

    /// Time passes: beacons go out.
    pub(crate) fn pass(&mut self, nanos: u64) {
        self.now += nanos;
    }

    /// Lets the log emit what it wants and takes its events.
    pub(crate) fn poll_log(&mut self, disk: &mut SimDisk) -> Checked<()> {
        let mut requests = Vec::new();
        self.wal.poll(self.now, &mut requests);
        disk.accept(requests);
        while let Some(event) = self.wal.next_event() {
            match event {
                WalEvent::Durable { index, term } => {
                    self.durable = index.0;
                    if self.shape == Shape::Alone && term.0 == self.term {
                        self.commit(index.0);
                    }
                }
                WalEvent::HardStateDurable { .. } | WalEvent::Stopped => {}
                WalEvent::CheckpointIdsReserved { through } => {
                    self.sequence.ids_reserved(through);
                    self.follow_sequence();
                }
                WalEvent::CheckpointDurable { id, index } => {
                    self.checkpoint = index.0;
                    self.checkpoints += 1;
                    self.sequence.superblock_durable(id);
                    self.follow_sequence();
                }
                WalEvent::NoSpace { file } | WalEvent::Poisoned { file, .. } => {
                    return broken(Promise::Progress, format!("the log gives up on {file}"));
                }
            }
        }
        Ok(())
    }

    /// Lets a shard emit a slice of its background work and takes its events.
    pub(crate) fn poll_shard(&mut self, disk: &mut SimDisk, shard: usize) -> Checked<()> {
        let mut requests: Vec<IoRequest> = Vec::new();
        self.shards[shard].poll(&mut requests);
        if self.slip == Slip::SuperblockBeforePages {
            requests.retain(|request| {
                let sync = matches!(
                    request.operation,
                    IoOperation::Sync { .. } | IoOperation::SyncDirectory(_)
                );
                self.answered.extend(sync.then_some(request.id));
                !sync
            });
        }
        disk.accept(requests);
        self.take_shard_events(shard)
    }

    fn take_shard_events(&mut self, shard: usize) -> Checked<()> {
        while let Some(event) = self.shards[shard].next_event() {
            match event {
                ShardEvent::ImageDurable { id, manifest } => {
                    self.sequence.image_durable(shard as u16, id, manifest);
                    self.follow_sequence();
                }
                ShardEvent::NoSpace => {
                    return broken(Promise::Progress, format!("shard {shard} finds no space"));
                }
                ShardEvent::Failed { file, what } => {
                    return broken(Promise::Progress, format!("{file}: {what}"));
                }
            }
        }
        Ok(())
    }

    /// Completes the request at `position`.
    pub(crate) fn complete(&mut self, disk: &mut SimDisk, position: usize) -> Checked<()> {
        let (id, result) = disk.complete(position);
        match id.machine().as_shard() {
            Some(shard) => {
                let shard = usize::from(shard);
                self.shards[shard].complete(id, result);
                self.take_shard_events(shard)
            }
            None => {
                self.wal.complete(self.now, id, result);
                Ok(())
            }
        }
    }

    /// Moves the coordinator's messages: all it says, and the answer of one shard. `false` if nothing moved.
    pub(crate) fn step_engine(&mut self, disk: &SimDisk) -> Checked<bool> {
        let moved = self.step_engine_or_damage(disk);
        moved.or_else(|unread| broken(Promise::ReadableAfterCrash, format!("executing: {unread}")))
    }

    /// The same; the damage that a request met.
    pub(crate) fn step_engine_or_damage(&mut self, disk: &SimDisk) -> Result<bool, Unread> {
        let mut moved = self.answer_early();
        while let Some(output) = self.coordinator.poll() {
            moved = true;
            match output {
                CoordinatorOutput::Shard { shard, request } => {
                    self.pending.push_back((shard, request));
                }
                CoordinatorOutput::Published(published) => self.executed.push(Executed {
                    applied: published.applied,
                    apply_hash: self.coordinator.apply_hash(),
                }),
                CoordinatorOutput::Frozen(frozen) => {
                    let term = self.term_at(frozen.applied.index);
                    let shards = self.shards.len() as u16;
                    self.sequence.frozen(frozen, term, shards);
                }
            }
        }
        if let Some((shard, request)) = self.pending.pop_front() {
            moved = true;
            let reply = serve(&mut self.shards[usize::from(shard)], disk, &request)?;
            self.coordinator.on_reply(shard, reply);
        }
        Ok(moved)
    }

    fn answer_early(&mut self) -> bool {
        let Some(id) = self.answered.pop_front() else {
            return false;
        };
        let shard = id.machine().as_shard().map_or(0, usize::from);
        self.shards[shard].complete(id, Ok(diskio::IoOutput::None));
        true
    }

    /// Does a slice of background work of a shard.
    pub(crate) fn maintain(&mut self, disk: &SimDisk, shard: usize) {
        self.slices += u64::from(maintain(&mut self.shards[shard], disk));
    }

    // ---- checkpoints ----

    /// Begins a checkpoint, unless one is under way or nothing was executed since the last one.
    pub(crate) fn begin_checkpoint(&mut self) {
        if self.coordinator.applied().index > self.checkpoint {
            self.sequence.begin();
            self.follow_sequence();
        }
    }

    /// Whether no checkpoint is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.sequence.is_idle()
    }

    fn follow_sequence(&mut self) {
        while let Some(action) = self.sequence.next_action() {
            match action {
                Action::ReserveIds { through } => self.wal.reserve_checkpoint_ids(through),
                Action::Freeze { id } => {
                    self.frozen_ids.push(id);
                    self.coordinator.freeze(id);
                }
                Action::WriteSuperblock {
                    id,
                    mut index,
                    mut term,
                    section,
                } => {
                    if self.slip == Slip::IndexOfPublication {
                        index = self.coordinator.applied().index;
                        term = self.term_at(index);
                    }
                    self.wal.checkpoint(Checkpoint {
                        id: id.into(),
                        index: Index(index),
                        term: Term(term),
                        section: section.encode(),
                    });
                }
                Action::Publish { id, .. } => {
                    for shard in &mut self.shards {
                        shard.published(id);
                    }
                }
            }
        }
    }
}
