//! A member that lives at random and is cut at every step.

use std::collections::BTreeSet;

use bytes::Bytes;
use diskio::sim::{Crash, Fate, SimDisk};
use diskio::{FileName, IoOperation};
use engine::command::Command;
use engine::testing::{Random, Workload};

use crate::enumerate::{Counts, crashes, random_crash};
use crate::judge::{
    Promised, check_executed, check_found, check_leftovers, check_pages, check_reads, replay,
};
use crate::member::Member;
use crate::opening::{Found, open};
use crate::promise::{Checked, Promise, broken};
use crate::settings::{Settings, Shape};
use crate::slip::Slip;
use crate::truth::{Truth, entry_of};

/// Entries that may wait for their execution.
const WAITING_MAX: u64 = 5;
/// One recovery in this many is cut itself.
const RECOVERY_CUT_ONE_IN: u64 = 120;
/// One recovered state in this many is read in full depth.
const DEEP_ONE_IN: u64 = 16;

/// A member, its disk and the truth.
pub struct World {
    pub(crate) random: Random,
    pub(crate) settings: Settings,
    pub(crate) shape: Shape,
    pub(crate) slip: Slip,
    pub(crate) disk: SimDisk,
    pub(crate) truth: Truth,
    pub(crate) promised: Promised,
    workload: Workload,
    /// Keys are long, so that the tree has several levels.
    long: bool,
    frozen_ids: BTreeSet<u32>,
    enumerate: bool,
    cut_last: (u64, Promised),
    pub(crate) counts: Counts,
}

impl World {
    /// A world of `seed`; nothing is created yet.
    pub fn new(seed: u64, slip: Slip) -> World {
        let mut random = Random::new(seed);
        let settings = Settings::tiny(&mut random);
        let shape = match random.below(3) {
            0 => Shape::Follower,
            _ => Shape::Alone,
        };
        let keys = 6 + random.below(20);
        World {
            settings,
            shape,
            slip,
            disk: SimDisk::new(),
            truth: Truth::new(seed),
            promised: Promised::default(),
            workload: Workload::new(seed ^ 0x57, keys),
            long: random.one_in(3),
            frozen_ids: BTreeSet::new(),
            enumerate: false,
            cut_last: Default::default(),
            counts: Counts::default(),
            random,
        }
    }

    /// A world of this shape.
    #[must_use]
    pub fn of_shape(mut self, shape: Shape) -> World {
        self.shape = shape;
        self
    }

    /// Appends these commands as one entry.
    pub(crate) fn command(&mut self, member: &mut Member, commands: Vec<Command>) {
        self.give(member, entry_of(&commands), commands);
    }

    /// Cuts at every point from now on, or not.
    pub fn enumerate(&mut self, enumerate: bool) {
        self.enumerate = enumerate;
    }

    /// What the world went through.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Lives through `lives` lives, each ended by a crash.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn run(&mut self, lives: u64) -> Checked<()> {
        for _ in 0..lives {
            let steps = 200 + self.random.below(500);
            let mut member = self.start()?;
            self.live(&mut member, steps)?;
            self.end(&member);
            let crash = random_crash(&self.disk, &mut self.random);
            self.disk.crash(&crash);
        }
        let mut disk = self.disk.clone();
        self.recover(&mut disk, 0).map(drop)
    }

    /// Opens the directory and joins.
    pub(crate) fn start(&mut self) -> Checked<Member> {
        let mut disk = std::mem::take(&mut self.disk);
        let found = self.find(&mut disk, u32::from(self.enumerate));
        self.disk = disk;
        let mut member = Member::new(found?, self.shape, self.slip);
        self.counts.lives += 1;
        let committed = self.truth.stated();
        // What stands in the log behind the commit and is what was given.
        let mut kept = member.committed().max(committed.min(member.last()));
        for entry in member.uncommitted() {
            let index = entry.index.0;
            let given = self.truth.given(index);
            if index == kept + 1
                && given.is_some_and(|it| it.term == entry.term.0 && it.data == entry.data)
            {
                kept = index;
            }
        }
        match self.shape {
            Shape::Alone => self.truth.cut(member.last()),
            Shape::Follower => {
                kept = committed + self.random.below(kept.saturating_sub(committed) + 1);
                self.truth.cut(kept.max(committed));
            }
        }
        member.begin_term();
        match self.shape {
            // A leader begins with an entry of its own.
            Shape::Alone => self.give(&mut member, Bytes::new(), Vec::new()),
            Shape::Follower => self.append(&mut member),
        }
        Ok(member)
    }

    fn append(&mut self, member: &mut Member) {
        let (data, commands) = self.truth.entry(&mut self.workload, self.long);
        self.give(member, data, commands);
    }

    fn give(&mut self, member: &mut Member, data: Bytes, commands: Vec<Command>) {
        let index = self.truth.len() + 1;
        self.truth
            .give(index, member.term(), data.clone(), commands);
        member.append(index, data);
        if self.shape == Shape::Alone {
            self.truth.execute(index);
        }
    }

    /// Lives `steps` steps.
    pub(crate) fn live(&mut self, member: &mut Member, steps: u64) -> Checked<()> {
        for _ in 0..steps {
            self.step(member)?;
        }
        Ok(())
    }

    /// Everything in flight completes, and what follows from it.
    pub(crate) fn settle(&mut self, member: &mut Member) -> Checked<()> {
        for _ in 0..3 {
            loop {
                member.pass(1000);
                member.poll_log(&mut self.disk)?;
                if self.shape == Shape::Follower {
                    self.commit(member, member.durable());
                }
                while member.step_engine(&self.disk)? {}
                for shard in 0..member.shards.len() {
                    member.poll_shard(&mut self.disk, shard)?;
                }
                self.note(member)?;
                if self.disk.in_flight() == 0 {
                    break;
                }
                while self.disk.in_flight() > 0 {
                    self.complete(member, 0)?;
                }
            }
        }
        Ok(())
    }

    /// Makes a checkpoint, to its end.
    pub(crate) fn checkpoint(&mut self, member: &mut Member) -> Checked<()> {
        self.settle(member)?;
        member.begin_checkpoint();
        self.settle(member)?;
        if !member.is_idle() {
            return broken(Promise::Progress, "a checkpoint does not end");
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, member: &Member) {
        self.counts.checkpoints += member.checkpoints;
        self.counts.slices += member.slices;
    }

    fn step(&mut self, member: &mut Member) -> Checked<()> {
        let (disk, random) = (&mut self.disk, &mut self.random);
        let waiting = self.truth.len() - member.coordinator.applied().index;
        let executed_since = member.coordinator.applied().index - member.checkpoint;
        let begins = executed_since > 2 + random.below(6);
        match random.below(100) {
            0..10 if waiting < WAITING_MAX && (member.is_idle() || random.one_in(3)) => {
                self.append(member);
            }
            10..20 => {
                member.pass(random.below(8));
                member.poll_log(disk)?;
            }
            20..44 => {
                let shard = random.index(member.shards.len());
                member.poll_shard(disk, shard)?;
            }
            44..48 => {
                let shard = random.index(member.shards.len());
                member.maintain(disk, shard);
            }
            48..54 if begins => member.begin_checkpoint(),
            54..66 => {
                if self.shape == Shape::Follower && random.one_in(2) {
                    let committed = member.committed();
                    let room = member.durable().saturating_sub(committed);
                    let through = committed + random.below(room + 1);
                    self.commit(member, through);
                }
                member.step_engine(&self.disk)?;
            }
            _ if disk.in_flight() > 0 => {
                let position = random.index(disk.in_flight());
                self.complete(member, position)?;
            }
            _ => {}
        }
        self.note(member)?;
        self.cut()
    }

    fn commit(&mut self, member: &mut Member, through: u64) {
        self.truth.execute(through);
        member.commit(through);
    }

    fn complete(&mut self, member: &mut Member, position: usize) -> Checked<()> {
        let counts = &mut self.counts;
        match self.disk.operation(position) {
            IoOperation::Create {
                file: FileName::Events { .. },
                ..
            } => counts.segments_created += 1,
            IoOperation::Delete {
                file: FileName::Events { .. },
            } => counts.segments_deleted += 1,
            IoOperation::Rename {
                from: FileName::Segment { .. },
                ..
            }
            | IoOperation::Delete {
                file: FileName::Segment { .. },
            } => counts.log_segments_recycled += 1,
            _ => {}
        }
        member.complete(&mut self.disk, position)
    }

    /// Takes what the member did and promised.
    fn note(&mut self, member: &mut Member) -> Checked<()> {
        for id in member.take_frozen_ids() {
            if !self.frozen_ids.insert(id) && self.slip != Slip::ReusedCheckpointId {
                return broken(Promise::IdUsedOnce, format!("checkpoint {id} again"));
            }
        }
        let executed = member.take_executed();
        check_executed(&executed, &self.truth)?;
        if let Some(last) = executed.last() {
            let applied = last.applied.index;
            self.promised.acknowledged = self.promised.acknowledged.max(applied);
        }
        if self.shape == Shape::Alone {
            let durable = member.durable().min(self.truth.len());
            self.promised.acknowledged = self.promised.acknowledged.max(durable);
        }
        self.promised.checkpoint = member.checkpoint;
        Ok(())
    }

    // ---- crashes ----

    fn cut(&mut self) -> Checked<()> {
        let point = (self.disk.changes(), self.promised);
        if !self.enumerate || point == self.cut_last {
            return Ok(());
        }
        self.cut_last = point;
        self.counts.points += 1;
        for crash in crashes(&self.disk, &mut self.random) {
            let mut disk = self.disk.crashed(&crash);
            self.counts.states += 1;
            let depth = u32::from(self.random.one_in(RECOVERY_CUT_ONE_IN));
            self.recover(&mut disk, depth)
                .map_err(|violation| violation.after(format!("{crash:?}")))?;
        }
        Ok(())
    }

    /// Opens, executes and reads what is on `disk`, and checks all of it.
    pub(crate) fn recover(&mut self, disk: &mut SimDisk, depth: u32) -> Checked<()> {
        let found = self.find(disk, depth)?;
        let mut member = Member::new(found, self.shape, self.slip);
        let deep = self.random.one_in(DEEP_ONE_IN);
        if deep {
            check_pages(&mut member, disk, &self.truth)?;
        }
        replay(&mut member, disk, &self.truth, self.shape, self.slip)?;
        self.counts.deep += u64::from(deep);
        check_reads(&mut member, disk, &self.truth, deep, &mut self.random)
    }

    /// Opens what is on `disk`; with a `depth` the opening is cut too.
    fn find(&mut self, disk: &mut SimDisk, depth: u32) -> Checked<Found> {
        let settings = self.settings.clone();
        let mut random = Random::new(self.random.bits());
        let mut changes = disk.changes();
        let found = open(disk, &settings, &mut random, &mut |disk| {
            if depth == 0 || disk.changes() == changes {
                return Ok(());
            }
            changes = disk.changes();
            self.cut_opening(disk, depth)
        })?;
        check_found(&found, &self.truth, self.promised, self.shape)?;
        check_leftovers(&found, disk)?;
        match found {
            Ok(found) => Ok(found),
            Err(error) => broken(Promise::OpensAfterCrash, error.to_string()),
        }
    }

    fn cut_opening(&mut self, disk: &SimDisk, depth: u32) -> Checked<()> {
        if disk.unsynced().is_empty() && disk.unsynced_changes().is_empty() {
            return Ok(());
        }
        for _ in 0..2 {
            let crash = random_crash(disk, &mut self.random);
            let mut cut = disk.crashed(&crash);
            self.counts.states += 1;
            self.counts.states_in_recovery += 1;
            self.recover(&mut cut, depth - 1)
                .map_err(|violation| violation.after(format!("{crash:?} in recovery")))?;
        }
        Ok(())
    }

    /// The process is killed when all is durable.
    pub(crate) fn kill(&mut self) {
        let fates = self.disk.writes_in_flight().map(|_| Fate::Kept).collect();
        self.disk.crash(&Crash::Kill { fates });
        self.disk.settle_all();
    }
}
