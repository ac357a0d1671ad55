//! A transaction over several shards: gather, decide, then one operation after the other.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Checks, Path, Probe, assemble, for_each_probe, holds_for_absent, leaf, resolve};
use crate::auth::Authorized;
use crate::command::*;
use crate::defect::Defect;
use crate::key::End;
use crate::read::RangeRead;
use crate::revision::Revision;
use crate::shard::{
    Change, Finding, Question, QuestionKind, ShardReply, ShardRequest, Tally, Write, shard_of,
};
use crate::step::Step;

/// What a transaction left behind.
#[derive(Debug)]
pub(crate) struct TxnOutcome {
    pub result: Result<TxnReply, CommandError>,
    /// It took the main revision after the current one.
    pub wrote: bool,
    pub tally: Tally,
}

/// One transaction while no other request changes the shards.
///
/// Invariants: at most one request per shard is under way; `leaves` holds the answers of the
/// operations before the ones in flight.
#[derive(Debug)]
pub(crate) struct TxnRun {
    txn: Txn,
    current: i64,
    compacted: i64,
    shards: u16,
    missing_leases: Vec<LeaseId>,
    path: Path,
    error: Option<CommandError>,
    /// A shard had compacted what was still to be read.
    overtaken: bool,
    leaves: Vec<Reply>,
    /// Writes so far: the next one's number inside the main revision.
    sub: u32,
    tally: Tally,
    stage: Stage,
    outbox: VecDeque<(u16, ShardRequest)>,
    under_way: u16,
    defect: Defect,
}

#[derive(Debug)]
enum Stage {
    /// Questions are out. A slot per question: a key was seen, all keys satisfy.
    Probing(Vec<(bool, bool)>),
    /// Puts, or a delete of one key, are out; the answers by slot.
    Writing(Vec<Option<Reply>>),
    /// A range is being read.
    Reading(RangeRead),
    /// The keys of a range delete are being read.
    Gathering {
        read: RangeRead,
        prev_kv: bool,
    },
    /// The keys of a range delete are being deleted.
    Deleting(Reply),
    Done,
}

impl TxnRun {
    pub(crate) fn new(
        txn: Txn,
        current: i64,
        compacted: i64,
        missing_leases: Vec<LeaseId>,
        shards: u16,
        defect: Defect,
    ) -> Self {
        let mut run = TxnRun {
            current,
            compacted,
            shards,
            missing_leases,
            path: Path::default(),
            error: None,
            overtaken: false,
            leaves: Vec::new(),
            sub: 0,
            tally: Tally::default(),
            stage: Stage::Done,
            outbox: VecDeque::new(),
            under_way: 0,
            defect,
            txn,
        };
        run.ask();
        run
    }

    pub(crate) fn poll(&mut self) -> Option<(u16, ShardRequest)> {
        if let Stage::Reading(read) | Stage::Gathering { read, .. } = &mut self.stage {
            return read.poll();
        }
        let request = self.outbox.pop_front()?;
        self.under_way += 1;
        Some(request)
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    pub(crate) fn finish(self) -> TxnOutcome {
        assert!(self.is_done(), "a transaction is finished once it is done");
        let result = match self.error {
            Some(error) => Err(error),
            None => Ok(assemble(&self.txn, &self.path, self.leaves)),
        };
        TxnOutcome {
            result,
            wrote: self.sub > 0,
            tally: self.tally,
        }
    }

    pub(crate) fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        match &mut self.stage {
            Stage::Reading(read) | Stage::Gathering { read, .. } => {
                read.on_reply(shard, reply);
                if read.is_done() {
                    self.read_done();
                }
                return;
            }
            Stage::Probing(answers) => match reply {
                ShardReply::Probed(findings) => {
                    for Finding { slot, seen, holds } in findings {
                        let answer = &mut answers[slot as usize];
                        answer.0 |= seen;
                        answer.1 &= holds;
                    }
                }
                ShardReply::Refused => self.overtake(CommandError::Compacted),
                reply => unreachable!("questions never get {reply:?}"),
            },
            Stage::Writing(slots) => {
                let applied = written(reply);
                self.tally.add(applied.tally);
                for (slot, reply) in applied.replies {
                    slots[slot as usize] = Some(reply);
                }
            }
            Stage::Deleting(_) => {
                let applied = written(reply);
                self.tally.add(applied.tally);
            }
            Stage::Done => unreachable!("a finished transaction gets no answer"),
        }
        self.under_way -= 1;
        if self.under_way == 0 && self.outbox.is_empty() {
            self.round_done();
        }
    }

    /// Sends every question to the shards that can answer it.
    fn ask(&mut self) {
        let mut by_shard: Vec<Vec<Question>> = vec![Vec::new(); usize::from(self.shards)];
        let mut count = 0;
        for_each_probe(&self.txn, &mut |probe| {
            let slot = count as u32;
            count += 1;
            let (kind, key) = match probe {
                Probe::Compare(compare) => {
                    let key =
                        (compare.range.end == End::Single).then_some(&compare.range.start[..]);
                    (QuestionKind::Compare(compare.clone()), key)
                }
                Probe::Exists(key) => {
                    (QuestionKind::Exists(Bytes::copy_from_slice(key)), Some(key))
                }
            };
            let question = Question { slot, kind };
            match key {
                Some(key) => by_shard[usize::from(shard_of(key, self.shards))].push(question),
                None => by_shard
                    .iter_mut()
                    .for_each(|questions| questions.push(question.clone())),
            }
        });
        for (shard, questions) in (0..).zip(by_shard) {
            if !questions.is_empty() {
                let at = self.current;
                self.outbox
                    .push_back((shard, ShardRequest::Probe { at, questions }));
            }
        }
        self.stage = Stage::Probing(vec![(false, true); count]);
        if self.outbox.is_empty() {
            self.round_done();
        }
    }

    fn round_done(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Probing(_) if self.error.is_some() => {}
            Stage::Probing(answers) => self.decide(&answers),
            Stage::Writing(slots) => {
                for slot in slots {
                    let reply = slot.expect("every write is answered");
                    if matches!(reply, Reply::DeleteRange { deleted: 1, .. }) {
                        self.sub += 1;
                    }
                    self.leaves.push(reply);
                }
                self.next_operation();
            }
            Stage::Deleting(reply) => {
                self.leaves.push(reply);
                self.next_operation();
            }
            Stage::Reading(_) | Stage::Gathering { .. } | Stage::Done => {
                unreachable!("not a round")
            }
        }
    }

    fn decide(&mut self, answers: &[(bool, bool)]) {
        let mut checks = Checks {
            current: self.current,
            compacted: self.compacted,
            missing_leases: &self.missing_leases,
        };
        if self.defect == Defect::FutureReadInTxn {
            checks.current = i64::MAX;
        }
        let resolution = resolve(&self.txn, checks, &mut |number, probe| {
            let (seen, holds) = answers[number];
            Step::Ready(match probe {
                Probe::Exists(_) => seen,
                Probe::Compare(compare) if !seen => holds_for_absent(compare),
                Probe::Compare(_) => holds,
            })
        });
        let resolution = resolution.ready().expect("all answers are here");
        self.path = resolution.path;
        self.error = resolution.error;
        if self.error.is_none() {
            self.next_operation();
        }
    }

    /// Revision that reads inside see: with the transaction's own writes once there are some.
    fn newest(&self) -> i64 {
        self.current + i64::from(self.sub > 0)
    }

    fn revision(&self) -> Revision {
        Revision {
            main: self.current + 1,
            sub: self.sub,
        }
    }

    /// Starts the next operation, or as many puts as follow one another.
    fn next_operation(&mut self) {
        let number = self.leaves.len();
        match leaf(&self.txn, &self.path, number).cloned() {
            None => self.stage = Stage::Done,
            Some(TxnOperation::Put(_)) => self.start_puts(number),
            Some(TxnOperation::Range(range)) => {
                let at = if range.revision > 0 {
                    range.revision
                } else {
                    self.newest()
                };
                let read = RangeRead::over(range, at, self.shards);
                self.start_read(Stage::Reading(read));
            }
            Some(TxnOperation::DeleteRange(delete)) => self.start_delete(delete),
            Some(TxnOperation::Txn(_)) => unreachable!("leaf operations only"),
        }
    }

    fn start_read(&mut self, stage: Stage) {
        self.stage = stage;
        if let Stage::Reading(read) | Stage::Gathering { read, .. } = &self.stage
            && read.is_done()
        {
            self.read_done();
        }
    }

    /// A compaction took what was still to be read.
    fn overtake(&mut self, error: CommandError) {
        self.error = Some(error);
        self.overtaken = true;
    }

    fn read_done(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Reading(read) => match read.finish() {
                Ok(reply) => {
                    self.leaves.push(Reply::Range(reply));
                    self.next_operation();
                }
                Err(error) => self.overtake(error),
            },
            Stage::Gathering { read, prev_kv } => {
                let found = read.finish().expect("compaction waits for transactions");
                self.start_deletes(found.kvs, prev_kv);
            }
            _ => unreachable!("not a read"),
        }
    }

    fn start_puts(&mut self, first: usize) {
        let mut slots = 0;
        let mut by_shard: Vec<Vec<Write>> = vec![Vec::new(); usize::from(self.shards)];
        while let Some(TxnOperation::Put(put)) = leaf(&self.txn, &self.path, first + slots) {
            by_shard[usize::from(shard_of(&put.key, self.shards))].push(Write {
                slot: slots as u32,
                revision: self.revision(),
                change: Change::Put(put.clone()),
            });
            self.sub += 1;
            slots += 1;
        }
        self.scatter(by_shard);
        self.stage = Stage::Writing(vec![None; slots]);
    }

    fn start_delete(&mut self, delete: DeleteRange) {
        if delete.range.end == End::Single {
            let shard = shard_of(&delete.range.start, self.shards);
            let write = Write {
                slot: 0,
                revision: self.revision(),
                change: Change::Delete {
                    key: delete.range.start,
                    prev_kv: delete.prev_kv,
                },
            };
            self.outbox
                .push_back((shard, ShardRequest::Write(vec![write])));
            self.stage = Stage::Writing(vec![None]);
            return;
        }
        let range = Range {
            keys_only: !delete.prev_kv,
            ..Range::all(delete.range)
        };
        self.start_read(Stage::Gathering {
            read: RangeRead::over(range, self.newest(), self.shards),
            prev_kv: delete.prev_kv,
        });
    }

    /// Deletes what was found, numbered in key order.
    fn start_deletes(&mut self, mut found: Vec<KeyValue>, prev_kv: bool) {
        if self.defect == Defect::SubsByShard {
            found.sort_by_key(|kv| shard_of(&kv.key, self.shards));
        }
        let mut by_shard: Vec<Vec<Write>> = vec![Vec::new(); usize::from(self.shards)];
        for kv in &found {
            by_shard[usize::from(shard_of(&kv.key, self.shards))].push(Write {
                slot: 0,
                revision: self.revision(),
                change: Change::Delete {
                    key: kv.key.clone(),
                    prev_kv: false,
                },
            });
            self.sub += 1;
        }
        self.scatter(by_shard);
        self.stage = Stage::Deleting(Reply::DeleteRange {
            deleted: found.len() as i64,
            prev_kvs: if prev_kv { found } else { Vec::new() },
        });
        if self.outbox.is_empty() {
            self.round_done();
        }
    }

    fn scatter(&mut self, by_shard: Vec<Vec<Write>>) {
        for (shard, writes) in (0..).zip(by_shard) {
            if !writes.is_empty() {
                self.outbox.push_back((shard, ShardRequest::Write(writes)));
            }
        }
    }
}

fn written(reply: ShardReply) -> crate::shard::Applied {
    match reply {
        ShardReply::Written(applied) => applied,
        reply => unreachable!("writes never get {reply:?}"),
    }
}

/// A transaction without writes, at the published revision and beside the log.
#[derive(Debug)]
pub struct ReadTxn {
    run: TxnRun,
}

impl ReadTxn {
    /// Runs `txn` on the state at `current`, the published revision, with `compacted` the compact
    /// revision, over `shards` shards.
    pub fn new(txn: &Authorized<Txn>, current: i64, compacted: i64, shards: u16) -> Self {
        assert!(!super::has_writes(txn), "writes go through the log");
        let txn = Txn::clone(txn);
        ReadTxn {
            run: TxnRun::new(txn, current, compacted, Vec::new(), shards, Defect::None),
        }
    }

    /// The next request to send, if any can be sent now.
    pub fn poll(&mut self) -> Option<(u16, ShardRequest)> {
        self.run.poll()
    }

    /// Takes the answer of `shard`.
    pub fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        self.run.on_reply(shard, reply);
    }

    /// Whether the answer is known.
    pub fn is_done(&self) -> bool {
        self.run.is_done()
    }

    /// Whether a compaction overtook the read: its answer is an error that says nothing of the
    /// transaction, which is to be read again at what was published since.
    pub fn is_overtaken(&self) -> bool {
        self.run.overtaken
    }

    /// The answer; only when [`is_done`](Self::is_done).
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`: of a range inside, or because the read
    /// [was overtaken](Self::is_overtaken).
    pub fn finish(self) -> Result<TxnReply, CommandError> {
        self.run.finish().result
    }
}

/// A range delete as a transaction of one operation.
pub(crate) fn delete_as_txn(delete: DeleteRange) -> Txn {
    Txn {
        compare: Vec::new(),
        success: vec![TxnOperation::DeleteRange(delete)],
        failure: Vec::new(),
    }
}
