//! Checkpoints of a member: when one begins, and what its steps mean here.
//!
//! Their order is that of [`engine::checkpoint::Sequence`]: this module reports to it what happened and
//! executes what it asks for. The shards write their images in slices of background work; a full disk
//! delays a checkpoint and ends nothing.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use engine::checkpoint::{Action, SECTION_BYTES_MAX, Sequence};
use engine::image::{Dirty, ShardEvent};
use engine::page::PAGE_BYTES;
use reactor::Timestamp;

use super::sequencer::{CheckpointStep, Volume};
use super::{Failure, Home, Node, State};
use crate::cores::HOME;
use crate::cores::call::{Call, Notice, Waiter};

/// Ids that one write of the superblock reserves.
const IDS_PER_RESERVATION: u64 = 64;
/// How often idle time is looked at, and a full disk tried again.
const TICK: Duration = Duration::from_secs(1);
/// A clean stop waits this long for a checkpoint: the process has to end within two seconds.
const STOP_WAIT: Duration = Duration::from_millis(500);

const _: () = assert!(SECTION_BYTES_MAX <= wal::superblock::SECTION_BYTES_MAX);

/// Changes wait at 75 %: only a checkpoint lets them go on.
const DIRTY_PERCENT_MAX: u64 = 60;

/// A replay reads each page back that was changed, unless it is new, and a page counts as so many operations. It costs
/// more, but each checkpoint that comes earlier writes pages again.
const OPERATIONS_PER_PAGE: u64 = 4;

/// However little memory there is, checkpoints are at least this many bytes of entries apart.
const LOG_BYTES_MIN: u64 = 32 << 20;

/// When a checkpoint begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// When executing again what came after the last one costs as much as so many operations on pages in memory.
    pub operations: u64,
    /// This many bytes of entries after the last one.
    pub log_bytes: u64,
    /// When dirty pages take more than this part of a shard's page cache, in percent.
    pub dirty_percent: u64,
    /// When nothing was asked for so long and something is dirty.
    pub idle: Duration,
    /// At a clean stop, if no more than this is dirty; 0 is never.
    pub stop_dirty_bytes_max: u64,
    /// When a collection of segments may have freed so many bytes: they go from the disk with it.
    pub reclaim_bytes: u64,
}

impl Default for CheckpointOptions {
    fn default() -> Self {
        CheckpointOptions {
            operations: 330_000,
            log_bytes: 512 << 20,
            dirty_percent: 40,
            idle: Duration::from_secs(600),
            stop_dirty_bytes_max: 0,
            reclaim_bytes: 16 << 20,
        }
    }
}

impl CheckpointOptions {
    /// For a process that may use so much memory: a start holds the log since the last checkpoint.
    pub fn for_memory(memory_bytes: u64) -> CheckpointOptions {
        let options = CheckpointOptions::default();
        let log_bytes = (memory_bytes / 8).clamp(LOG_BYTES_MIN, options.log_bytes);
        CheckpointOptions {
            log_bytes,
            ..options
        }
    }

    /// Whether so much has gathered since the last checkpoint that another one is worth its writes. `pages` of all
    /// shards were changed; `fullest` is the shard with the most of them.
    fn is_due(&self, since: Volume, pages: u64, fullest: Dirty) -> bool {
        self.replay_cost(since.operations, pages) >= self.operations
            || since.bytes >= self.log_bytes
            || self.fills_cache(fullest)
    }

    /// Whether changed pages take more of a cache than they should.
    fn fills_cache(&self, dirty: Dirty) -> bool {
        dirty.dirty_bytes * 100 > dirty.cache_bytes * self.dirty_percent.min(DIRTY_PERCENT_MAX)
    }

    /// What it costs to execute `operations` again that changed `pages`, in operations. Pages make up at most half
    /// of what there may be: where each operation changes a page of its own, a checkpoint writes one for each, and
    /// the shorter the distance the more of them are written.
    fn replay_cost(&self, operations: u64, pages: u64) -> u64 {
        let reads = pages.saturating_mul(OPERATIONS_PER_PAGE);
        operations.saturating_add(reads.min(self.operations / 2))
    }
}

/// The latest checkpoint that the superblock names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStatus {
    /// Its id; 0 is none.
    pub id: u64,
    /// The log starts after this index.
    pub index: u64,
    /// How many were published in this life.
    pub count: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Checkpoints {
    sequence: RefCell<Sequence>,
    status: Cell<CheckpointStatus>,
    /// What had been applied at the last freeze.
    frozen_at: Cell<Volume>,
    /// What had been applied when it was last looked at, and since when it is the same.
    quiet_since: Cell<(Volume, u64)>,
    /// Some shard found no room since the last retry.
    disk_full: Cell<bool>,
    /// When the one under way began.
    began: Cell<Timestamp>,
    /// Dirty bytes of the one under way when it began.
    bytes: Cell<u64>,
}

impl Checkpoints {
    /// After `status`, with ids up to `reserved` used up or lost.
    pub(super) fn new(status: CheckpointStatus, reserved: u64) -> Checkpoints {
        Checkpoints {
            sequence: RefCell::new(Sequence::new(status.id, reserved, IDS_PER_RESERVATION)),
            status: Cell::new(status),
            frozen_at: Cell::default(),
            quiet_since: Cell::default(),
            disk_full: Cell::new(false),
            began: Cell::new(Timestamp(0)),
            bytes: Cell::new(0),
        }
    }

    fn is_idle(&self) -> bool {
        self.sequence.borrow().is_idle()
    }
}

impl Home {
    /// The latest checkpoint.
    pub fn checkpoint_status(&self) -> CheckpointStatus {
        self.parts.checkpoints.status.get()
    }

    /// Begins a checkpoint if it is time.
    pub(super) fn consider_checkpoint(&self) {
        if !self.parts.checkpoints.is_idle() || self.state() > State::Stopping {
            return;
        }
        let since = self.volume_since_checkpoint();
        let options = &self.0.options.checkpoints;
        let fullest = self.0.board.fullest(self.0.shards.count());
        let pages = self.dirty().dirty_bytes / PAGE_BYTES as u64;
        if self.dirty_is_due() {
            // Upkeep changes pages too, on a member that takes no requests.
            self.begin_checkpoint_at_any_index();
        } else if since.requests > 0 && options.is_due(since, pages, fullest) {
            self.begin_checkpoint();
        }
    }

    fn volume_since_checkpoint(&self) -> Volume {
        let now = self.parts.sequencer.borrow().volume();
        let then = self.parts.checkpoints.frozen_at.get();
        Volume {
            requests: now.requests - then.requests,
            operations: now.operations - then.operations,
            bytes: now.bytes - then.bytes,
        }
    }

    /// Begins a checkpoint, unless nothing was applied since the last one or the log is closed.
    fn begin_checkpoint(&self) {
        let applied = self.parts.sequencer.borrow().applied().index;
        if applied > self.parts.checkpoints.status.get().index {
            self.begin_checkpoint_at_any_index();
        }
    }

    /// Begins a checkpoint so that files go which it does without, if none is under way.
    pub(super) fn begin_checkpoint_for_space(&self) {
        if self.parts.checkpoints.is_idle() {
            self.begin_checkpoint_at_any_index();
        }
    }

    /// Whether none is under way.
    pub(super) fn checkpoint_is_idle(&self) -> bool {
        self.parts.checkpoints.is_idle()
    }

    /// Whether a shard has found no room since it was last tried.
    pub(super) fn is_disk_full(&self) -> bool {
        self.parts.checkpoints.disk_full.get()
    }

    /// Whether no shard may leave: what all shards are told must meet each of them.
    pub(super) fn checkpoint_is_under_way(&self) -> bool {
        !self.parts.checkpoints.is_idle()
    }

    /// Whether shards may move first: no changes will soon have to wait for the checkpoint.
    fn checkpoint_can_wait(&self) -> bool {
        let dirty = self.0.board.fullest(self.0.shards.count());
        let is_near = dirty.dirty_bytes * 100 > dirty.cache_bytes * DIRTY_PERCENT_MAX;
        self.state() == State::Serving && !is_near
    }

    fn begin_checkpoint_at_any_index(&self) {
        let moves = &self.parts.moves;
        let first = moves.come_first(self.0.world.now());
        if moves.is_under_way() || first && self.checkpoint_can_wait() {
            return;
        }
        self.advance_checkpoint(|sequence| {
            sequence.begin();
        });
    }

    /// Tells the order of a checkpoint what happened, and does what comes next.
    fn advance_checkpoint(&self, happened: impl FnOnce(&mut Sequence)) {
        let mut sequence = self.parts.checkpoints.sequence.borrow_mut();
        if !self.parts.sequencer.borrow().is_open() {
            sequence.close();
        }
        happened(&mut sequence);
        while let Some(action) = sequence.next_action() {
            self.execute_checkpoint_action(action);
        }
    }

    fn execute_checkpoint_action(&self, action: Action) {
        match action {
            Action::ReserveIds { through } => {
                let mut sequencer = self.parts.sequencer.borrow_mut();
                sequencer.reserve_checkpoint_ids(through);
            }
            Action::Freeze { id } => self.freeze(id),
            Action::WriteSuperblock {
                id,
                index,
                term,
                section,
            } => self
                .parts
                .sequencer
                .borrow_mut()
                .checkpoint(wal::Checkpoint {
                    id: id.into(),
                    index: wal::Index(index),
                    term: wal::Term(term),
                    section: section.encode(),
                }),
            Action::Publish { id, index } => return self.published(id, index),
        }
        self.0.work.raise();
    }

    fn freeze(&self, id: u32) {
        let checkpoints = &self.parts.checkpoints;
        let mut sequencer = self.parts.sequencer.borrow_mut();
        checkpoints.frozen_at.set(sequencer.volume());
        let now = self.0.world.now();
        checkpoints.began.set(now);
        checkpoints.bytes.set(self.dirty().dirty_bytes);
        self.parts.reclaim.frozen(now);
        sequencer.freeze(id);
    }

    /// Takes what the pipeline reports.
    pub(super) fn take_checkpoint_step(&self, step: CheckpointStep) {
        match step {
            CheckpointStep::Reserved(through) => {
                self.advance_checkpoint(|sequence| sequence.ids_reserved(through));
            }
            CheckpointStep::Frozen(frozen, term) => {
                let (id, index) = (frozen.id.into(), frozen.applied.index);
                let fields = self.checkpoint_fields(id, index);
                self.0.logger.info("checkpoint begins", &fields);
                let shards = self.0.shards.count();
                self.advance_checkpoint(|sequence| sequence.frozen(frozen, term.0, shards));
                self.0.shards.wake_background();
            }
            CheckpointStep::Durable(id) => {
                self.advance_checkpoint(|sequence| sequence.superblock_durable(id));
            }
        }
    }

    fn published(&self, id: u32, index: u64) {
        let checkpoints = &self.parts.checkpoints;
        let status = CheckpointStatus {
            id: id.into(),
            index,
            count: checkpoints.status.get().count + 1,
        };
        checkpoints.status.set(status);
        self.0.shards.published(id);
        self.0.links.tell_all(Notice::Published(id));
        let [id, index, pages, bytes] = self.checkpoint_fields(id.into(), index);
        let took = self.0.world.now().since(checkpoints.began.get());
        let metrics = &self.0.board.metrics.member;
        metrics.checkpoints.observe_time(took);
        metrics.checkpoint_bytes.add(checkpoints.bytes.get());
        let seconds = ("seconds", took.as_secs_f64().into());
        let fields = [id, index, pages, bytes, seconds];
        self.0.logger.info("checkpoint ends", &fields);
        self.wake_upkeep();
        self.0.changed.notify();
    }

    fn checkpoint_fields(&self, id: u64, index: u64) -> [(&'static str, serde_json::Value); 4] {
        let bytes = self.parts.checkpoints.bytes.get();
        [
            ("checkpoint-id", id.into()),
            ("index", index.into()),
            ("pages", (bytes / PAGE_BYTES as u64).into()),
            ("bytes", bytes.into()),
        ]
    }

    /// What a shard reports of its files, wherever it lives.
    pub(super) fn take_shard_event(&self, shard: u16, event: ShardEvent) {
        match event {
            ShardEvent::ImageDurable { id, manifest } => {
                self.advance_checkpoint(|sequence| sequence.image_durable(shard, id, manifest));
            }
            ShardEvent::NoSpace => {
                self.parts.checkpoints.disk_full.set(true);
                self.note_disk_full(format!("shard-{shard:02}"));
            }
            ShardEvent::Failed { file, what } => {
                self.fail(Failure::Store(format!("{file}: {what}")));
            }
        }
    }

    fn dirty(&self) -> Dirty {
        self.0.board.dirty(self.0.shards.count())
    }

    /// Looks once a second whether a full disk has room again, whether the node is idle, and what the
    /// upkeep has to do.
    pub(super) async fn run_checkpoints(&self) {
        while self.state() <= State::Serving {
            self.0.world.sleep(TICK).await;
            if self.parts.checkpoints.disk_full.replace(false) {
                self.0.shards.retry_space();
                self.0.links.tell_all(Notice::RetrySpace);
            }
            self.consider_space();
            // Shards of other cores change pages too.
            self.consider_checkpoint();
            self.consider_idle_checkpoint();
            self.consider_reclaim();
            self.wake_upkeep();
        }
    }

    fn consider_idle_checkpoint(&self) {
        let checkpoints = &self.parts.checkpoints;
        let now = self.0.world.now().nanos();
        let volume = self.parts.sequencer.borrow().volume();
        let (seen, since) = checkpoints.quiet_since.get();
        if seen != volume {
            checkpoints.quiet_since.set((volume, now));
            return;
        }
        let idle_nanos = self.0.options.checkpoints.idle.as_nanos();
        if u128::from(now.saturating_sub(since)) >= idle_nanos
            && checkpoints.is_idle()
            && self.state() == State::Serving
            && self.volume_since_checkpoint().requests > 0
        {
            self.begin_checkpoint();
        }
    }

    /// Before a clean stop: makes a checkpoint if that is cheap, so that the next start has little to
    /// replay, and gives up waiting for it in time.
    pub(super) async fn checkpoint_before_stop(&self) {
        let dirty = self.dirty().dirty_bytes;
        let most = self.0.options.checkpoints.stop_dirty_bytes_max;
        if most == 0 || dirty > most {
            return;
        }
        let settled = || {
            let idle = self.parts.checkpoints.is_idle() && !self.parts.moves.is_under_way();
            self.state() == State::Failed || idle
        };
        let checkpoint = async {
            // One that is under way does not cover what came after its freeze.
            self.0.changed.until(settled).await;
            if self.volume_since_checkpoint().requests > 0 && self.state() != State::Failed {
                self.begin_checkpoint();
                self.0.changed.until(settled).await;
            }
        };
        if self.0.world.timeout(STOP_WAIT, checkpoint).await.is_err() {
            self.0
                .logger
                .info("stopping without waiting for the checkpoint", &[]);
        }
    }
}

impl Node {
    /// The background task of the shards that live here: polls them for I/O in turn, a slice each, and takes
    /// their events home.
    pub(super) async fn run_shards(&self) {
        let mut requests = Vec::new();
        loop {
            self.0.shards.background_work().await;
            loop {
                let mut emitted = false;
                for shard in 0..self.0.shards.count() {
                    if self.state() >= State::Stopped {
                        return;
                    }
                    emitted |= self.0.shards.poll(shard, &mut requests);
                    while let Some(event) = self.0.shards.next_event(shard) {
                        self.report(shard, event);
                    }
                    self.0.world.yield_if_due().await;
                }
                if !emitted {
                    break;
                }
            }
            match self.home() {
                Some(home) => home.consider_checkpoint(),
                None => self.tell_if_due(),
            }
        }
    }

    /// Whether a page cache holds so much that only a checkpoint can free that one should begin.
    pub(super) fn dirty_is_due(&self) -> bool {
        let dirty = self.0.board.fullest(self.0.shards.count());
        let options = &self.0.options.checkpoints;
        options.fills_cache(dirty)
    }

    fn report(&self, shard: u16, event: ShardEvent) {
        match self.home() {
            Some(home) => home.take_shard_event(shard, event),
            None => {
                let call = Call::ShardEvent { shard, event };
                self.0.links.call(HOME, Waiter::Nobody, call);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_by_replay_by_bytes_or_by_dirty_pages() {
        let options = CheckpointOptions {
            operations: 10,
            log_bytes: 1000,
            dirty_percent: 40,
            ..CheckpointOptions::default()
        };
        let due = |operations, bytes, dirty_bytes| {
            let dirty = Dirty {
                dirty_bytes,
                cache_bytes: 100,
            };
            let since = Volume {
                requests: 1,
                operations,
                bytes,
            };
            options.is_due(since, 0, dirty)
        };
        assert!(!due(9, 999, 40));
        assert!(due(10, 0, 0));
        assert!(due(0, 1000, 0));
        assert!(due(0, 0, 41));
    }

    #[test]
    fn pages_bring_a_checkpoint_forward_by_half_its_distance_at_most() {
        let options = CheckpointOptions {
            operations: 1000,
            ..CheckpointOptions::default()
        };
        let due = |operations, pages| {
            let since = Volume {
                requests: operations,
                operations,
                bytes: 0,
            };
            options.is_due(since, pages, Dirty::default())
        };
        assert!(!due(959, 10));
        assert!(due(960, 10));
        assert!(!due(499, 1_000_000));
        assert!(due(500, 1_000_000));
        assert!(due(1000, 0));
        let never = CheckpointOptions {
            operations: u64::MAX,
            ..options
        };
        assert!(!never.is_due(Volume::default(), u64::MAX, Dirty::default()));
    }
}
