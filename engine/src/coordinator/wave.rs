//! Requests whose keys lie in one shard each, evaluated, numbered and applied together.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::{Coordinator, EntryRun, Outcome, Stage};
use crate::command::*;
use crate::defect::Defect;
use crate::entry::EntryRequest;
use crate::key::{End, KeyRange};
use crate::shard::{Applied, Batch, Item, ShardReply, ShardRequest, Verdict, Work, key_hash};
use crate::txn::{self, Touched};

/// Most requests in one wave: bounds what a shard does in one go.
const WAVE_REQUESTS_MAX: usize = 1024;

/// The wave under way. Its memory is used again by the next one.
#[derive(Debug)]
pub(super) struct Wave {
    /// One per request, in the order of the entry.
    steps: Vec<Step>,
    /// One per shard.
    lanes: Vec<Lane>,
    phase: Phase,
    /// Some request touches what an earlier one writes, or reads at the wave's own revisions: only
    /// the one shard that holds all keys can execute it.
    bound: bool,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    /// Place in the entry.
    position: u32,
    kind: StepKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepKind {
    /// The outcome is known.
    Settled,
    /// Takes a revision in this shard.
    Certain(u16),
    /// This shard evaluates it.
    Guarded(u16),
}

/// A wave's part in one shard.
#[derive(Debug, Default)]
struct Lane {
    /// Collected here, until they are sent.
    items: Vec<Item>,
    batch: Option<Arc<Batch>>,
    guarded: bool,
    /// One for each guarded item, in order.
    verdicts: std::vec::IntoIter<(u32, Verdict)>,
    /// One for each item; 0: takes none.
    mains: Vec<i64>,
    applied: Option<Applied>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Evaluating,
    Applying,
    /// One shard evaluates, numbers and applies.
    Executing,
}

/// How a request is executed.
enum Class {
    /// Here and at once.
    Here,
    /// In this shard, taking a revision for certain; the hash of its key.
    Certain(u16, u64),
    /// In this shard, which evaluates it first; `Router::touched` has its keys.
    Guarded(u16),
    /// With nothing beside it.
    Alone,
}

/// Scratch memory for classifying requests, kept from wave to wave.
#[derive(Debug, Default)]
pub(super) struct Router {
    /// Key hashes of the request in hand; whether it may write the key.
    touched: Vec<(u64, bool)>,
    /// Hashes of keys that the wave may write and that are not in `written` yet.
    fresh: Vec<u64>,
    written: HashSet<u64, BuildHasherDefault<HashOfHash>>,
}

/// Key hashes are hashes already.
#[derive(Debug, Default)]
struct HashOfHash(u64);

impl Hasher for HashOfHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only u64 are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Router {
    fn start_wave(&mut self) {
        self.fresh.clear();
        self.written.clear();
    }

    /// Whether the request in hand touches a key that the wave may write.
    fn meets_written(&mut self) -> bool {
        self.written.extend(self.fresh.drain(..));
        let mut touched = self.touched.iter();
        !self.written.is_empty() && touched.any(|(hash, _)| self.written.contains(hash))
    }

    fn note_written(&mut self) {
        let written = self.touched.iter().filter(|(_, writes)| *writes);
        self.fresh.extend(written.map(|(hash, _)| *hash));
    }

    fn touch(&mut self, key: &[u8], writes: bool) {
        self.touched.push((key_hash(key), writes));
    }

    /// Notes the keys of `range`; `false` if it may be more than one.
    fn touch_range(&mut self, range: &KeyRange, writes: bool) -> bool {
        self.touch(&range.start, writes);
        range.end == End::Single
    }

    /// Notes the keys of `txn`; `false` if some range may be more than one key.
    fn touch_txn(&mut self, txn: &Txn) -> bool {
        self.touched.clear();
        let mut single = true;
        txn::for_each_compare(txn, &mut |compare| {
            single &= self.touch_range(&compare.range, false);
        });
        txn::for_each_operation(txn, &mut |operation| {
            let writes = !matches!(operation, TxnOperation::Range(_));
            match txn::operation_range(operation) {
                Touched::Key(key) => self.touch(key, writes),
                Touched::Range(range) => single &= self.touch_range(range, writes),
            }
        });
        single
    }

    /// The one shard of all touched keys; a request without keys fits anywhere.
    fn shard(&self, shards: u16) -> Option<u16> {
        let shard_of = |hash: u64| (hash & u64::from(shards - 1)) as u16;
        let first = self.touched.first().map_or(0, |(hash, _)| shard_of(*hash));
        let mut touched = self.touched.iter();
        touched
            .all(|(hash, _)| shard_of(*hash) == first)
            .then_some(first)
    }
}

impl Wave {
    fn new(shards: u16) -> Self {
        let mut lanes = Vec::new();
        lanes.resize_with(usize::from(shards), Lane::default);
        Wave {
            steps: Vec::new(),
            lanes,
            phase: Phase::Evaluating,
            bound: false,
        }
    }

    /// Whether a request for `shard` may join although the wave is bound to one shard.
    fn fits_one_shard(&self, shard: u16) -> bool {
        let others = (0..)
            .zip(&self.lanes)
            .filter(|(number, _)| *number != shard);
        others.into_iter().all(|(_, lane)| lane.items.is_empty())
    }

    fn add(&mut self, position: u32, kind: StepKind, work: Option<Work>) {
        if let (StepKind::Certain(shard) | StepKind::Guarded(shard), Some(work)) = (kind, work) {
            let lane = &mut self.lanes[usize::from(shard)];
            lane.items.push(Item { position, work });
            lane.guarded |= matches!(kind, StepKind::Guarded(_));
        }
        self.steps.push(Step { position, kind });
    }

    pub(super) fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        let lane = &mut self.lanes[usize::from(shard)];
        match (self.phase, reply) {
            (Phase::Evaluating, ShardReply::Evaluated(verdicts)) => {
                lane.verdicts = verdicts.into_iter();
            }
            (Phase::Applying, ShardReply::Applied(applied)) => lane.applied = Some(applied),
            (Phase::Executing, ShardReply::Executed { verdicts, applied }) => {
                lane.verdicts = verdicts.into_iter();
                lane.applied = Some(applied);
            }
            (phase, reply) => unreachable!("{phase:?} never gets {reply:?}"),
        }
    }

    /// Gives out main revisions behind `revision` and settles what takes none; answers the last
    /// revision given.
    fn number(&mut self, mut revision: i64, outcomes: &mut [Outcome]) -> i64 {
        for step in &self.steps {
            let outcome = &mut outcomes[step.position as usize];
            match step.kind {
                StepKind::Settled => {}
                StepKind::Certain(shard) => {
                    revision += 1;
                    self.lanes[usize::from(shard)].mains.push(revision);
                }
                StepKind::Guarded(shard) => {
                    let Lane {
                        verdicts, mains, ..
                    } = &mut self.lanes[usize::from(shard)];
                    let (position, verdict) =
                        verdicts.next().expect("a verdict per guarded request");
                    assert_eq!(position, step.position);
                    match verdict {
                        Verdict::Writes => {
                            revision += 1;
                            mains.push(revision);
                        }
                        Verdict::Settled(result) => {
                            outcome.result = result;
                            mains.push(0);
                        }
                    }
                }
            }
            outcome.revision = revision;
        }
        revision
    }
}

impl Coordinator {
    /// Starts the next wave of the entry, or the request that runs alone.
    pub(super) fn start(&mut self) {
        let mut entry = self.entry.take().expect("an entry is under way");
        self.router.start_wave();
        let spare = self.spare_wave.take();
        let mut wave = spare.unwrap_or_else(|| Wave::new(self.shards));
        while wave.steps.len() < WAVE_REQUESTS_MAX
            && let Some(request) = entry.requests.front()
        {
            let class = self.classify(&request.command);
            if self.must_cut(&mut wave, &class, &request.command) {
                break;
            }
            let request = entry.requests.pop_front().expect("just seen");
            entry.expect_outcome(&request);
            if let Class::Alone = class {
                let alone = self.start_alone(&mut entry, request);
                self.entry = Some(entry);
                self.spare_wave = Some(wave);
                self.stage = Stage::Alone(alone);
                return;
            }
            self.join(&mut wave, &mut entry, class, request);
        }
        self.entry = Some(entry);
        self.launch(wave);
    }

    /// Whether the wave must end before the request in hand.
    fn must_cut(&mut self, wave: &mut Wave, class: &Class, command: &Command) -> bool {
        let (shard, depends) = match class {
            Class::Here => return false,
            Class::Alone => return !wave.steps.is_empty(),
            Class::Certain(shard, _) => (*shard, false),
            Class::Guarded(shard) => {
                let reads_wave =
                    !wave.steps.is_empty() && reads_from(command) >= Some(self.meta.revision);
                (*shard, reads_wave || self.router.meets_written())
            }
        };
        if !(depends || wave.bound) || self.defect == Defect::WaveNotCut {
            return false;
        }
        wave.bound = wave.fits_one_shard(shard);
        !wave.bound
    }

    /// Adds the request in hand to the wave.
    fn join(&mut self, wave: &mut Wave, entry: &mut EntryRun, class: Class, request: EntryRequest) {
        let position = request.position;
        match class {
            Class::Here => {
                let result = self.execute_here(request.command);
                entry.outcomes[position as usize].result = result;
                wave.add(position, StepKind::Settled, None);
            }
            Class::Certain(shard, hash) => {
                self.router.fresh.push(hash);
                let work = self.work_of(request.command, false);
                wave.add(position, StepKind::Certain(shard), Some(work));
            }
            Class::Guarded(shard) => {
                self.router.note_written();
                let work = self.work_of(request.command, true);
                wave.add(position, StepKind::Guarded(shard), Some(work));
            }
            Class::Alone => unreachable!("runs outside of waves"),
        }
    }

    /// Sends the wave off in the shortest way that it admits.
    fn launch(&mut self, mut wave: Wave) {
        let unanswered = self.is_unanswered();
        let mut busy = 0;
        let mut guarded = false;
        for lane in wave.lanes.iter_mut().filter(|lane| !lane.items.is_empty()) {
            busy += 1;
            guarded |= lane.guarded;
            lane.batch = Some(Arc::new(Batch {
                base: self.meta.revision,
                compacted: self.meta.compacted,
                unanswered,
                items: std::mem::take(&mut lane.items),
            }));
        }
        if !guarded {
            self.number_and_apply(wave);
            return;
        }
        wave.phase = if busy == 1 {
            Phase::Executing
        } else {
            Phase::Evaluating
        };
        for (shard, lane) in (0..).zip(&wave.lanes) {
            let Some(batch) = lane.batch.as_ref().filter(|_| lane.guarded) else {
                continue;
            };
            let batch = Arc::clone(batch);
            let request = match wave.phase {
                Phase::Executing => ShardRequest::Execute(batch),
                _ => ShardRequest::Evaluate(batch),
            };
            self.send(shard, request);
        }
        self.stage = Stage::Wave(wave);
    }

    pub(super) fn advance_wave(&mut self, wave: Wave) -> bool {
        if self.under_way > 0 {
            self.stage = Stage::Wave(wave);
            return false;
        }
        match wave.phase {
            Phase::Evaluating => self.number_and_apply(wave),
            Phase::Applying => self.collect(wave),
            Phase::Executing => {
                let mut wave = wave;
                self.number(&mut wave);
                self.collect(wave);
            }
        }
        true
    }

    fn number(&mut self, wave: &mut Wave) {
        let entry = self.entry.as_mut().expect("an entry is under way");
        let last = wave.number(self.meta.revision, &mut entry.outcomes);
        self.meta.revision = last;
        if self.defect == Defect::HeaderOfWave {
            for step in &wave.steps {
                entry.outcomes[step.position as usize].revision = last;
            }
        }
    }

    fn number_and_apply(&mut self, mut wave: Wave) {
        self.number(&mut wave);
        wave.phase = Phase::Applying;
        for (shard, lane) in (0..).zip(&mut wave.lanes) {
            if lane.mains.iter().any(|main| *main != 0) {
                let batch = lane.batch.take().expect("numbered items were batched");
                let mains = std::mem::take(&mut lane.mains);
                self.send(shard, ShardRequest::Apply { batch, mains });
            }
        }
        self.stage = Stage::Wave(wave);
    }

    /// Takes the shards' answers into the outcomes of the entry.
    fn collect(&mut self, mut wave: Wave) {
        let entry = self.entry.as_mut().expect("an entry is under way");
        for (shard, lane) in (0..).zip(&mut wave.lanes) {
            lane.batch = None;
            lane.guarded = false;
            lane.mains.clear();
            let Some(applied) = lane.applied.take() else {
                continue;
            };
            for (position, reply) in applied.replies {
                entry.outcomes[position as usize].result = Ok(reply);
            }
            let mut tally = applied.tally;
            if self.defect == Defect::HashPerShard {
                tally.sum = tally.sum.rotate_left(shard);
            }
            entry.tally.add(tally);
        }
        wave.steps.clear();
        wave.bound = false;
        self.spare_wave = Some(wave);
    }

    /// Says how `command` is executed; for a guarded one `router.touched` has its keys.
    fn classify(&mut self, command: &Command) -> Class {
        if self.meta.admit(command).is_err() {
            return Class::Here;
        }
        match command {
            Command::Put(put) => self.classify_put(put),
            Command::DeleteRange(delete) if delete.range.end == End::Single => {
                self.router.touched.clear();
                self.router.touch(&delete.range.start, true);
                self.guarded()
            }
            Command::Txn(txn) => {
                if self.router.touch_txn(txn) {
                    self.guarded()
                } else {
                    Class::Alone
                }
            }
            Command::LeaseRevoke { id } if !self.meta.leases.contains(*id) => Class::Here,
            Command::DeleteRange(_)
            | Command::Compact { .. }
            | Command::LeaseRevoke { .. }
            | Command::LeaseExpire { .. } => Class::Alone,
            Command::LeaseGrant { .. }
            | Command::Alarm { .. }
            | Command::MemberAttributes(_)
            | Command::ClusterVersion(_) => Class::Here,
        }
    }

    fn classify_put(&mut self, put: &Put) -> Class {
        if put.lease != LeaseId::NONE && !self.meta.leases.contains(put.lease) {
            return Class::Here;
        }
        if txn::keeps_something(put) {
            self.router.touched.clear();
            self.router.touch(&put.key, true);
            return self.guarded();
        }
        let hash = key_hash(&put.key);
        Class::Certain((hash & u64::from(self.shards - 1)) as u16, hash)
    }

    fn guarded(&self) -> Class {
        match self.router.shard(self.shards) {
            Some(shard) => Class::Guarded(shard),
            None => Class::Alone,
        }
    }

    /// Executes what needs no shard, or says why it is refused.
    fn execute_here(&mut self, command: Command) -> Result<Reply, CommandError> {
        self.meta.admit(&command)?;
        match command {
            Command::Put(_) | Command::LeaseRevoke { .. } => Err(CommandError::LeaseNotFound),
            Command::LeaseGrant { id, ttl } => self.meta.grant(id, ttl),
            Command::Alarm {
                activate,
                member,
                alarm,
            } => Ok(self.meta.alarm(activate, member, alarm)),
            Command::MemberAttributes(attributes) => Ok(self.meta.publish_member(attributes)),
            Command::ClusterVersion(version) => Ok(self.meta.set_cluster_version(version)),
            Command::DeleteRange(_)
            | Command::Txn(_)
            | Command::Compact { .. }
            | Command::LeaseExpire { .. } => unreachable!("needs the shards"),
        }
    }

    fn work_of(&self, command: Command, guarded: bool) -> Work {
        match command {
            Command::Put(put) if guarded => Work::Update(put),
            Command::Put(put) => Work::Put(put),
            Command::DeleteRange(delete) => Work::Delete {
                key: delete.range.start,
                prev_kv: delete.prev_kv,
            },
            Command::Txn(txn) => Work::Txn {
                missing_leases: self.missing_leases(&txn),
                txn,
            },
            command => unreachable!("{command:?} is not of one shard"),
        }
    }

    /// Leases that `txn` would attach and that do not exist.
    pub(super) fn missing_leases(&self, txn: &Txn) -> Vec<LeaseId> {
        let mut missing = Vec::new();
        txn::for_each_operation(txn, &mut |operation| {
            if let TxnOperation::Put(put) = operation
                && put.lease != LeaseId::NONE
                && !self.meta.leases.contains(put.lease)
            {
                missing.push(put.lease);
            }
        });
        missing
    }
}

impl EntryRun {
    /// Appends the outcome of `request`, to be filled in: a put that answers nothing needs no more.
    fn expect_outcome(&mut self, request: &EntryRequest) {
        assert_eq!(self.outcomes.len(), request.position as usize);
        self.outcomes.push(Outcome {
            index: self.index,
            position: request.position,
            request_id: request.head.request_id,
            origin_member: request.head.origin_member,
            revision: 0,
            result: Ok(Reply::Put { prev_kv: None }),
        });
    }
}

/// The highest explicit revision that a transaction reads at.
fn reads_from(command: &Command) -> Option<i64> {
    let Command::Txn(txn) = command else {
        return None;
    };
    let mut highest = None;
    txn::for_each_operation(txn, &mut |operation| {
        if let TxnOperation::Range(range) = operation
            && range.revision != 0
        {
            highest = highest.max(Some(range.revision));
        }
    });
    highest
}
