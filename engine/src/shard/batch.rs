//! Evaluating and applying the requests of a wave.

use std::borrow::Cow;

use bytes::Bytes;

use crate::command::*;
use crate::defect::Defect;
use crate::read;
use crate::revision::Revision;
use crate::shard::request::*;
use crate::shard::{Shard, ShardReply, Tally};
use crate::step::{Need, Step, ready};
use crate::store::{Event, Store};
use crate::txn::{self, Checks, Path, Probe, Stored};

/// Where a changing request stands.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Next request of the batch, or next write.
    item: usize,
    /// Next operation of its transaction.
    leaf: usize,
    /// Next number inside its main revision.
    sub: u32,
    /// Answers of the transaction's operations so far.
    leaves: Vec<Reply>,
    /// The request was evaluated and writes, with these branches (`execute` only).
    writes: Option<Path>,
    /// Revision given last (`execute` only).
    main: i64,
    verdicts: Vec<(u32, Verdict)>,
    applied: Applied,
}

impl Progress {
    /// The next request, and the next operation of its transaction.
    pub(super) fn operation(&self) -> (usize, usize) {
        (self.item, self.leaf)
    }
}

/// What evaluation of one request found.
enum Judgement {
    Writes(Path),
    Settled(Result<Reply, CommandError>),
}

impl Shard {
    /// Runs `step` on the progress of the request under way until it is through, or keeps the
    /// progress for the next attempt.
    fn resume<T>(
        &mut self,
        fresh: impl FnOnce() -> Progress,
        step: impl FnOnce(&mut Self, &mut Progress) -> Step<T>,
    ) -> Result<Progress, Need> {
        let mut progress = self.progress.take().unwrap_or_else(fresh);
        match step(self, &mut progress) {
            Step::Ready(_) => Ok(progress),
            Step::Need(need) => {
                self.progress = Some(progress);
                Err(need)
            }
        }
    }

    /// Takes over changes of another store.
    pub(super) fn restore(&mut self, events: &[Event]) -> Step<Result<(), String>> {
        while let Some(event) = events.get(self.restored) {
            if let Err(what) = ready!(self.store.restore_event(event)) {
                self.restored = 0;
                let Revision { main, sub } = event.revision;
                let key = event.kv.key.escape_ascii();
                let fault = format!("the change of \"{key}\" at revision {main} {sub}: {what}");
                return Step::Ready(Err(fault));
            }
            self.restored += 1;
        }
        self.restored = 0;
        Step::Ready(Ok(()))
    }

    pub(super) fn evaluate(&mut self, batch: &Batch) -> Step<ShardReply> {
        let done = self.resume(Progress::default, |shard, progress| {
            while let Some(item) = batch.items.get(progress.item) {
                if let Some(judgement) = ready!(shard.judge(item, batch.base, batch.compacted)) {
                    let verdict = match judgement {
                        Judgement::Writes(path) => {
                            if matches!(item.work, Work::Txn { .. }) {
                                shard.paths.push_back(path);
                            }
                            Verdict::Writes
                        }
                        Judgement::Settled(answer) => Verdict::Settled(answer),
                    };
                    progress.verdicts.push((item.position, verdict));
                }
                progress.item += 1;
            }
            Step::Ready(())
        });
        match done {
            Ok(progress) => Step::Ready(ShardReply::Evaluated(progress.verdicts)),
            Err(need) => Step::Need(need),
        }
    }

    pub(super) fn apply(&mut self, batch: &Batch, mains: &[i64]) -> Step<ShardReply> {
        assert_eq!(batch.items.len(), mains.len());
        let done = self.resume(Progress::default, |shard, progress| {
            while let Some(item) = batch.items.get(progress.item) {
                let main = mains[progress.item];
                if main != 0 {
                    ready!(shard.apply_item(progress, item, main));
                }
                progress.item += 1;
            }
            assert!(shard.paths.is_empty(), "every evaluated transaction ran");
            Step::Ready(())
        });
        match done {
            Ok(progress) => Step::Ready(ShardReply::Applied(progress.applied)),
            Err(need) => Step::Need(need),
        }
    }

    fn apply_item(&mut self, progress: &mut Progress, item: &Item, main: i64) -> Step<()> {
        if !matches!(item.work, Work::Txn { .. }) {
            return self.apply_one(progress, item, main, &Path::default());
        }
        let path = self.paths.pop_front().expect("evaluated before");
        let step = self.apply_one(progress, item, main, &path);
        if let Step::Need(_) = step {
            self.paths.push_front(path);
        }
        step
    }

    pub(super) fn execute(&mut self, batch: &Batch) -> Step<ShardReply> {
        let fresh = || Progress {
            main: batch.base,
            ..Progress::default()
        };
        let done = self.resume(fresh, |shard, progress| {
            while let Some(item) = batch.items.get(progress.item) {
                ready!(shard.execute_item(progress, item, batch.compacted));
                progress.item += 1;
            }
            Step::Ready(())
        });
        match done {
            Ok(progress) => Step::Ready(ShardReply::Executed {
                verdicts: progress.verdicts,
                applied: progress.applied,
            }),
            Err(need) => Step::Need(need),
        }
    }

    fn execute_item(&mut self, progress: &mut Progress, item: &Item, compacted: i64) -> Step<()> {
        if progress.writes.is_none() {
            match ready!(self.judge(item, progress.main, compacted)) {
                None => progress.writes = Some(Path::default()),
                Some(Judgement::Writes(path)) => {
                    progress.verdicts.push((item.position, Verdict::Writes));
                    progress.writes = Some(path);
                }
                Some(Judgement::Settled(answer)) => {
                    let verdict = Verdict::Settled(answer);
                    progress.verdicts.push((item.position, verdict));
                    return Step::Ready(());
                }
            }
        }
        let path = progress.writes.take().expect("just set");
        let step = self.apply_one(progress, item, progress.main + 1, &path);
        match step {
            Step::Ready(()) => progress.main += 1,
            Step::Need(_) => progress.writes = Some(path),
        }
        step
    }

    pub(super) fn write(&mut self, writes: &[Write]) -> Step<ShardReply> {
        let done = self.resume(Progress::default, |shard, progress| {
            while let Some(write) = writes.get(progress.item) {
                let tally = &mut progress.applied.tally;
                let reply = match &write.change {
                    Change::Put(put) => ready!(shard.put(put, write.revision, tally)),
                    Change::Delete { key, prev_kv } => {
                        ready!(shard.delete(key, *prev_kv, write.revision, tally))
                    }
                };
                progress.applied.replies.push((write.slot, reply));
                progress.item += 1;
            }
            Step::Ready(())
        });
        match done {
            Ok(progress) => Step::Ready(ShardReply::Written(progress.applied)),
            Err(need) => Step::Need(need),
        }
    }

    /// Evaluates one request on the state at `current`; nothing for a certain put.
    fn judge(&mut self, item: &Item, current: i64, compacted: i64) -> Step<Option<Judgement>> {
        let judgement = match &item.work {
            Work::Put(_) => return Step::Ready(None),
            Work::Update(put) => match ready!(self.store.get(&put.key, current)) {
                Some(_) => Judgement::Writes(Path::default()),
                None => Judgement::Settled(Err(CommandError::KeyNotFound)),
            },
            Work::Delete { key, .. } => {
                let there = ready!(self.store.get(key, current)).is_some();
                if there || self.defect == Defect::EmptyDeleteTakesRevision {
                    Judgement::Writes(Path::default())
                } else {
                    Judgement::Settled(Ok(no_deletes()))
                }
            }
            Work::Txn {
                txn,
                missing_leases,
            } => {
                let mut checks = Checks {
                    current,
                    compacted,
                    missing_leases,
                };
                if self.defect == Defect::FutureReadInTxn {
                    checks.current = i64::MAX;
                }
                ready!(self.judge_txn(txn, checks, current))
            }
        };
        Step::Ready(Some(judgement))
    }

    fn judge_txn(&mut self, txn: &Txn, checks: Checks<'_>, at: i64) -> Step<Judgement> {
        let store = &mut self.store;
        let resolution = ready!(txn::resolve(txn, checks, &mut |_, probe| look(
            store, probe, at
        )));
        if let Some(error) = resolution.error {
            return Step::Ready(Judgement::Settled(Err(error)));
        }
        let path = resolution.path;
        if resolution.puts || (resolution.deletes && ready!(self.deletes_a_key(txn, &path, at))) {
            return Step::Ready(Judgement::Writes(path));
        }
        let mut leaves = Vec::new();
        while let Some(operation) = txn::leaf(txn, &path, leaves.len()) {
            leaves.push(match operation {
                TxnOperation::Range(range) => ready!(self.range(range, at)),
                _ => no_deletes(),
            });
        }
        let reply = txn::assemble(txn, &path, leaves);
        Step::Ready(Judgement::Settled(Ok(Reply::Txn(reply))))
    }

    fn deletes_a_key(&mut self, txn: &Txn, path: &Path, at: i64) -> Step<bool> {
        let mut number = 0;
        while let Some(operation) = txn::leaf(txn, path, number) {
            number += 1;
            let TxnOperation::DeleteRange(delete) = operation else {
                continue;
            };
            if ready!(self.store.get(&delete.range.start, at)).is_some() {
                return Step::Ready(true);
            }
        }
        Step::Ready(false)
    }

    /// Executes one request that takes `main`.
    fn apply_one(
        &mut self,
        progress: &mut Progress,
        item: &Item,
        main: i64,
        path: &Path,
    ) -> Step<()> {
        let revision = Revision { main, sub: 0 };
        let tally = &mut progress.applied.tally;
        let reply = match &item.work {
            Work::Put(put) | Work::Update(put) => ready!(self.put(put, revision, tally)),
            Work::Delete { key, prev_kv } => ready!(self.delete(key, *prev_kv, revision, tally)),
            Work::Txn { txn, .. } => {
                let mut path = Cow::Borrowed(path);
                while let Some(operation) = txn::leaf(txn, &path, progress.leaf) {
                    let reply = ready!(self.operation(progress, operation, main));
                    progress.leaves.push(reply);
                    progress.leaf += 1;
                    if self.defect == Defect::NestedGuardSeesWrites && path.outer_held() {
                        path = Cow::Owned(ready!(self.path_by_now(txn, main)));
                    }
                }
                progress.leaf = 0;
                progress.sub = 0;
                let leaves = std::mem::take(&mut progress.leaves);
                Reply::Txn(txn::assemble(txn, &path, leaves))
            }
        };
        if reply != (Reply::Put { prev_kv: None }) {
            progress.applied.replies.push((item.position, reply));
        }
        Step::Ready(())
    }

    fn operation(
        &mut self,
        progress: &mut Progress,
        operation: &TxnOperation,
        main: i64,
    ) -> Step<Reply> {
        let revision = Revision {
            main,
            sub: progress.sub,
        };
        let tally = &mut progress.applied.tally;
        let events = tally.events;
        let reply = match operation {
            TxnOperation::Range(range) => ready!(self.range(range, main)),
            TxnOperation::Put(put) => ready!(self.put(put, revision, tally)),
            TxnOperation::DeleteRange(delete) => {
                let key = &delete.range.start;
                ready!(self.delete(key, delete.prev_kv, revision, tally))
            }
            TxnOperation::Txn(_) => unreachable!("leaf operations only"),
        };
        progress.sub += (progress.applied.tally.events - events) as u32;
        Step::Ready(reply)
    }

    /// A range of one key inside a transaction whose newest state is `newest`.
    fn range(&mut self, range: &Range, newest: i64) -> Step<Reply> {
        if self.unanswered {
            return Step::Ready(Reply::Range(read::reply_of_one(range, None)));
        }
        let at = if range.revision > 0 {
            range.revision
        } else {
            newest
        };
        let values = read::wants_value(range);
        let found = ready!(read_key(&mut self.store, &range.range.start, at, values));
        Step::Ready(Reply::Range(read::reply_of_one(range, found)))
    }

    /// Stores one key. Where the key that should give its value or its lease was deleted earlier in
    /// the same transaction (which the edge refuses), it gives an empty value and no lease.
    fn put(&mut self, put: &Put, revision: Revision, tally: &mut Tally) -> Step<Reply> {
        let keep_lease = put.ignore_lease
            || (put.ignore_value && self.defect == Defect::IgnoreValueKeepsLease)
            || (put.lease == LeaseId::NONE && self.defect == Defect::LeaseKept);
        let mut previous = None;
        let prev_kv = put.prev_kv && !self.unanswered;
        if prev_kv || put.ignore_value || keep_lease {
            let values = prev_kv || put.ignore_value;
            previous = ready!(read_key(&mut self.store, &put.key, revision.main, values));
        }
        let before = previous.as_ref();
        let value: &[u8] = match (put.ignore_value, before) {
            (true, Some(before)) => &before.value,
            _ => &put.value,
        };
        let lease = match (keep_lease, before) {
            (true, Some(before)) => before.lease,
            (true, None) => LeaseId::NONE,
            (false, _) => put.lease,
        };
        let version = ready!(self.store.put(revision, &put.key, value, lease));
        tally.put(&version);
        Step::Ready(Reply::Put {
            prev_kv: previous.filter(|_| prev_kv),
        })
    }

    fn delete(
        &mut self,
        key: &Bytes,
        prev_kv: bool,
        revision: Revision,
        tally: &mut Tally,
    ) -> Step<Reply> {
        let mut prev_kvs = Vec::new();
        if prev_kv && !self.unanswered {
            prev_kvs.extend(ready!(read_key(&mut self.store, key, revision.main, true)));
        }
        let deleted = ready!(self.store.delete(revision, key));
        if deleted {
            tally.delete(key, revision);
        }
        Step::Ready(Reply::DeleteRange {
            deleted: deleted.into(),
            prev_kvs,
        })
    }

    /// The branches inside the outer success branch as they would be taken by now.
    fn path_by_now(&mut self, txn: &Txn, main: i64) -> Step<Path> {
        let held = Txn {
            compare: Vec::new(),
            ..txn.clone()
        };
        let checks = Checks {
            current: main,
            compacted: -1,
            missing_leases: &[],
        };
        let store = &mut self.store;
        txn::resolve(&held, checks, &mut |_, probe| look(store, probe, main))
            .map(|resolution| resolution.path)
    }
}

fn no_deletes() -> Reply {
    Reply::DeleteRange {
        deleted: 0,
        prev_kvs: Vec::new(),
    }
}

/// Reads one key; without `values` the value stays empty.
pub(super) fn read_key(
    store: &mut Store,
    key: &Bytes,
    at: i64,
    values: bool,
) -> Step<Option<KeyValue>> {
    let Some(version) = ready!(store.get(key, at)) else {
        return Step::Ready(None);
    };
    let value = if values {
        ready!(store.value_of(&version))
    } else {
        Bytes::new()
    };
    Step::Ready(Some(KeyValue {
        key: key.clone(),
        value,
        create_revision: version.create,
        mod_revision: version.modified.main,
        version: version.version,
        lease: version.lease,
    }))
}

/// Answers one question of a transaction whose keys are all here.
fn look(store: &mut Store, probe: Probe<'_>, at: i64) -> Step<bool> {
    match probe {
        Probe::Exists(key) => store.get(key, at).map(|version| version.is_some()),
        Probe::Compare(compare) => {
            let Some(version) = ready!(store.get(&compare.range.start, at)) else {
                return Step::Ready(txn::holds_for_absent(compare));
            };
            let value = if matches!(compare.target, CompareTarget::Value(_)) {
                ready!(store.value_of(&version))
            } else {
                Bytes::new()
            };
            let stored = Stored {
                version: version.version,
                create: version.create,
                modified: version.modified.main,
                lease: version.lease,
                value: &value,
            };
            Step::Ready(txn::satisfies(compare, stored))
        }
    }
}
