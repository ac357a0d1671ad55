//! A naive etcd: one request after the other, everything kept, nothing clever.
//!
//! Written from etcd's rules and not from the engine, whose code it shares only in the types of
//! requests and answers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::command::*;
use crate::key::KeyRange;
use crate::revision::Revision;
use crate::store::Event;

/// The naive etcd.
#[derive(Clone, Debug)]
pub struct Oracle {
    revision: i64,
    compacted: i64,
    /// Every version of every key, oldest first; nothing for a deletion.
    history: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    log: Vec<(Revision, Bytes, Option<KeyValue>)>,
    leases: BTreeMap<LeaseId, i64>,
    alarms: BTreeSet<(u64, AlarmKind)>,
    members: BTreeMap<u64, MemberAttributes>,
    cluster_version: Option<String>,
}

impl Default for Oracle {
    fn default() -> Self {
        Oracle::new()
    }
}

type Answer = Result<Reply, CommandError>;

impl Oracle {
    /// An empty store.
    pub fn new() -> Self {
        Oracle {
            revision: 1,
            compacted: -1,
            history: BTreeMap::new(),
            log: Vec::new(),
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            members: BTreeMap::new(),
            cluster_version: None,
        }
    }

    /// The current revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The compact revision, −1 for none.
    pub fn compact_revision(&self) -> i64 {
        self.compacted
    }

    /// Leases with their times to live.
    pub fn leases(&self) -> Vec<(LeaseId, i64)> {
        self.leases.iter().map(|(id, ttl)| (*id, *ttl)).collect()
    }

    /// Keys attached to `lease`.
    pub fn keys_of_lease(&self, lease: LeaseId) -> Vec<Bytes> {
        let attached = self.live_at(&everything(), self.revision).into_iter();
        let attached = attached.filter(|kv| lease != LeaseId::NONE && kv.lease == lease);
        attached.map(|kv| kv.key).collect()
    }

    /// Alarms raised.
    pub fn alarms(&self) -> Vec<(u64, AlarmKind)> {
        self.alarms.iter().copied().collect()
    }

    /// Published members.
    pub fn members(&self) -> Vec<MemberAttributes> {
        self.members.values().cloned().collect()
    }

    /// The cluster version.
    pub fn cluster_version(&self) -> Option<&str> {
        self.cluster_version.as_deref()
    }

    /// Executes `command`; answers with the revision right after it.
    pub fn apply(&mut self, command: &Command) -> (i64, Answer) {
        let answer = self.execute(command);
        (self.revision, answer)
    }

    fn execute(&mut self, command: &Command) -> Answer {
        let raised = |kind| self.alarms.iter().any(|alarm| alarm.1 == kind);
        let (corrupt, full) = (raised(AlarmKind::Corrupt), raised(AlarmKind::NoSpace));
        match command {
            Command::Alarm { .. } | Command::MemberAttributes(_) | Command::ClusterVersion(_) => {}
            _ if corrupt => return Err(CommandError::Corrupt),
            Command::Put(_) | Command::LeaseGrant { .. } if full => {
                return Err(CommandError::NoSpace);
            }
            Command::Txn(txn) if full && grows(txn) => return Err(CommandError::NoSpace),
            _ => {}
        }
        match command {
            Command::Put(put) => {
                self.check_lease(put)?;
                self.check_kept(put)?;
                let mut changes = 0;
                let reply = self.put(put, &mut changes);
                self.commit(changes);
                Ok(reply)
            }
            Command::DeleteRange(delete) => {
                let mut changes = 0;
                let reply = self.delete(delete, &mut changes);
                self.commit(changes);
                Ok(reply)
            }
            Command::Txn(txn) => self.txn(txn).map(Reply::Txn),
            Command::Compact { revision } => self.compact(*revision),
            Command::LeaseGrant { id, ttl } => self.grant(*id, *ttl),
            Command::LeaseRevoke { id } => {
                self.revoke(*id)?;
                Ok(Reply::LeaseRevoke)
            }
            Command::LeaseExpire { ids } => {
                for id in ids {
                    let _gone_already = self.revoke(*id);
                }
                Ok(Reply::Done)
            }
            Command::Alarm {
                activate,
                member,
                alarm,
            } => Ok(self.alarm(*activate, *member, *alarm)),
            Command::MemberAttributes(attributes) => {
                self.members.insert(attributes.member, attributes.clone());
                Ok(Reply::Done)
            }
            Command::ClusterVersion(version) => {
                self.cluster_version = Some(version.clone());
                Ok(Reply::Done)
            }
        }
    }

    /// Reads `range` at the current state.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn range(&self, range: &Range) -> Result<RangeReply, CommandError> {
        self.range_at(range, self.revision)
    }

    /// Executes a transaction without writes.
    ///
    /// # Errors
    /// As for a range.
    pub fn read_txn(&self, txn: &Txn) -> Result<TxnReply, CommandError> {
        let mut path = Vec::new();
        self.decide(txn, &mut path);
        self.check(txn, &mut path.iter())?;
        self.read(txn, &mut path.iter())
    }

    fn read(
        &self,
        txn: &Txn,
        path: &mut std::slice::Iter<'_, bool>,
    ) -> Result<TxnReply, CommandError> {
        let succeeded = path.as_slice()[0];
        let responses = taken(txn, path).iter().map(|operation| match operation {
            TxnOperation::Txn(nested) => self.read(nested, path).map(Reply::Txn),
            TxnOperation::Range(range) => self.range(range).map(Reply::Range),
            _ => panic!("a transaction without writes"),
        });
        Ok(TxnReply {
            succeeded,
            responses: responses.collect::<Result<_, _>>()?,
        })
    }

    /// Changes of the keys of `ranges` (none: of all) with main revisions `from..=to`.
    pub fn events(
        &self,
        from: i64,
        to: i64,
        ranges: Option<&[KeyRange]>,
        prev_kv: bool,
    ) -> Vec<Event> {
        let start = self
            .log
            .partition_point(|(revision, ..)| revision.main < from);
        let within = self.log[start..]
            .iter()
            .take_while(|(revision, ..)| revision.main <= to)
            .filter(|(_, key, _)| {
                ranges.is_none_or(|ranges| ranges.iter().any(|range| range.contains(key)))
            });
        let events = within.map(|(revision, key, kv)| Event {
            tombstone: kv.is_none(),
            revision: *revision,
            kv: kv.clone().unwrap_or_else(|| KeyValue {
                key: key.clone(),
                mod_revision: revision.main,
                ..KeyValue::default()
            }),
            prev_kv: (prev_kv && revision.main > self.compacted)
                .then(|| self.at(key, revision.main - 1))
                .flatten(),
        });
        events.collect()
    }

    /// What a snapshot holds: what is alive at the compact revision, then all changes from there on.
    pub fn snapshot(&self) -> Vec<Event> {
        let compacted = self.compacted.max(0);
        let mut events = self.events(1, self.revision, None, false);
        events.retain(|event| {
            let alive = || self.at(&event.kv.key, compacted);
            event.revision.main >= compacted || alive().as_ref() == Some(&event.kv)
        });
        events
    }

    fn at(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let versions = self.history.get(key)?;
        let version = versions.iter().rev().find(|(main, _)| *main <= revision)?;
        version.1.clone()
    }

    fn live_at(&self, range: &KeyRange, revision: i64) -> Vec<KeyValue> {
        let keys = self.history.range(range.start.clone()..);
        let keys = keys.map(|(key, _)| key).take_while(|key| {
            range.contains(key) || matches!(range.end, crate::key::End::Unbounded)
        });
        keys.filter_map(|key| self.at(key, revision)).collect()
    }

    fn range_at(&self, range: &Range, current: i64) -> Result<RangeReply, CommandError> {
        if range.revision > current {
            return Err(CommandError::FutureRevision);
        }
        let revision = if range.revision <= 0 {
            current
        } else {
            range.revision
        };
        if revision < self.compacted {
            return Err(CommandError::Compacted);
        }
        let mut kvs = self.live_at(&range.range, revision);
        let count = kvs.len() as i64;
        if range.count_only {
            return Ok(RangeReply {
                kvs: Vec::new(),
                more: false,
                count,
            });
        }
        let bounded = [
            range.min_mod_revision,
            range.max_mod_revision,
            range.min_create_revision,
            range.max_create_revision,
        ];
        if range.limit > 0 && range.sort_order == SortOrder::None && bounded == [0; 4] {
            kvs.truncate(range.limit as usize + 1);
        }
        let [min_mod, max_mod, min_create, max_create] = bounded;
        kvs.retain(|kv| {
            (max_mod == 0 || kv.mod_revision <= max_mod)
                && (min_mod == 0 || kv.mod_revision >= min_mod)
                && (max_create == 0 || kv.create_revision <= max_create)
                && (min_create == 0 || kv.create_revision >= min_create)
        });
        if range.sort_order != SortOrder::None || range.sort_target != SortTarget::Key {
            kvs.sort_by(|left, right| {
                let (a, b) = match range.sort_order {
                    SortOrder::Descend => (right, left),
                    _ => (left, right),
                };
                match range.sort_target {
                    SortTarget::Key => a.key.cmp(&b.key),
                    SortTarget::Version => a.version.cmp(&b.version),
                    SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                    SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                    SortTarget::Value => a.value.cmp(&b.value),
                }
            });
        }
        let mut more = false;
        if range.limit > 0 && kvs.len() as i64 > range.limit {
            kvs.truncate(range.limit as usize);
            more = true;
        }
        if range.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if range.sort_target != SortTarget::Value {
                    kv.lease = LeaseId::NONE;
                }
            }
        }
        Ok(RangeReply { kvs, more, count })
    }

    fn check_lease(&self, put: &Put) -> Result<(), CommandError> {
        if put.lease != LeaseId::NONE && !self.leases.contains_key(&put.lease) {
            return Err(CommandError::LeaseNotFound);
        }
        Ok(())
    }

    fn check_kept(&self, put: &Put) -> Result<(), CommandError> {
        if (put.ignore_value || put.ignore_lease) && self.at(&put.key, self.revision).is_none() {
            return Err(CommandError::KeyNotFound);
        }
        Ok(())
    }

    fn record(&mut self, key: Bytes, kv: Option<KeyValue>, changes: &mut u32) {
        let revision = Revision {
            main: self.revision + 1,
            sub: *changes,
        };
        *changes += 1;
        self.log.push((revision, key.clone(), kv.clone()));
        self.history
            .entry(key)
            .or_default()
            .push((revision.main, kv));
    }

    fn commit(&mut self, changes: u32) {
        self.revision += i64::from(changes > 0);
    }

    fn put(&mut self, put: &Put, changes: &mut u32) -> Reply {
        let main = self.revision + 1;
        let before = self.at(&put.key, main);
        let kept = before.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            value: if put.ignore_value {
                kept.value
            } else {
                put.value.clone()
            },
            create_revision: before.as_ref().map_or(main, |kv| kv.create_revision),
            mod_revision: main,
            version: kept.version + 1,
            lease: if put.ignore_lease {
                kept.lease
            } else {
                put.lease
            },
        };
        self.record(put.key.clone(), Some(kv), changes);
        Reply::Put {
            prev_kv: before.filter(|_| put.prev_kv),
        }
    }

    fn delete(&mut self, delete: &DeleteRange, changes: &mut u32) -> Reply {
        let gone = self.live_at(&delete.range, self.revision + 1);
        for kv in &gone {
            self.record(kv.key.clone(), None, changes);
        }
        Reply::DeleteRange {
            deleted: gone.len() as i64,
            prev_kvs: if delete.prev_kv { gone } else { Vec::new() },
        }
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnReply, CommandError> {
        let mut path = Vec::new();
        self.decide(txn, &mut path);
        self.check(txn, &mut path.iter())?;
        let mut changes = 0;
        let reply = self.run(txn, &mut path.iter(), &mut changes);
        self.commit(changes);
        Ok(reply)
    }

    fn decide(&self, txn: &Txn, path: &mut Vec<bool>) {
        let held = txn.compare.iter().all(|compare| self.compare(compare));
        path.push(held);
        for operation in if held { &txn.success } else { &txn.failure } {
            if let TxnOperation::Txn(nested) = operation {
                self.decide(nested, path);
            }
        }
    }

    fn compare(&self, compare: &Compare) -> bool {
        let mut kvs = self.live_at(&compare.range, self.revision);
        if kvs.is_empty() {
            if matches!(compare.target, CompareTarget::Value(_)) {
                return false;
            }
            kvs.push(KeyValue::default());
        }
        kvs.iter().all(|kv| {
            let difference = match &compare.target {
                CompareTarget::Version(number) => kv.version.cmp(number),
                CompareTarget::Create(number) => kv.create_revision.cmp(number),
                CompareTarget::Mod(number) => kv.mod_revision.cmp(number),
                CompareTarget::Lease(number) => kv.lease.0.cmp(number),
                CompareTarget::Value(value) => kv.value.cmp(value),
            } as i8;
            match compare.relation {
                Relation::Equal => difference == 0,
                Relation::NotEqual => difference != 0,
                Relation::Greater => difference == 1,
                Relation::Less => difference == -1,
            }
        })
    }

    /// The first operation of the branches taken that fails names the error.
    fn check(&self, txn: &Txn, path: &mut std::slice::Iter<'_, bool>) -> Result<(), CommandError> {
        for operation in taken(txn, path) {
            match operation {
                TxnOperation::Txn(nested) => self.check(nested, path)?,
                TxnOperation::Put(put) => {
                    self.check_lease(put)?;
                    self.check_kept(put)?;
                }
                TxnOperation::Range(range) if range.revision > self.revision => {
                    return Err(CommandError::FutureRevision);
                }
                TxnOperation::Range(range)
                    if range.revision != 0 && range.revision < self.compacted =>
                {
                    return Err(CommandError::Compacted);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        txn: &Txn,
        path: &mut std::slice::Iter<'_, bool>,
        changes: &mut u32,
    ) -> TxnReply {
        let succeeded = path.as_slice()[0];
        let mut responses = Vec::new();
        for operation in taken(txn, path) {
            responses.push(match operation {
                TxnOperation::Txn(nested) => Reply::Txn(self.run(nested, path, changes)),
                TxnOperation::Put(put) => self.put(put, changes),
                TxnOperation::DeleteRange(delete) => self.delete(delete, changes),
                TxnOperation::Range(range) => {
                    let current = self.revision + i64::from(*changes > 0);
                    let reply = self.range_at(range, current);
                    Reply::Range(reply.expect("ranges were checked"))
                }
            });
        }
        TxnReply {
            succeeded,
            responses,
        }
    }

    fn compact(&mut self, revision: i64) -> Answer {
        if revision <= self.compacted {
            return Err(CommandError::Compacted);
        }
        if revision > self.revision {
            return Err(CommandError::FutureRevision);
        }
        self.compacted = revision;
        Ok(Reply::Compact)
    }

    fn grant(&mut self, id: LeaseId, ttl: i64) -> Answer {
        if id == LeaseId::NONE {
            return Err(CommandError::LeaseNotFound);
        }
        if self.leases.contains_key(&id) {
            return Err(CommandError::LeaseExists);
        }
        self.leases.insert(id, ttl);
        Ok(Reply::LeaseGrant { id, ttl })
    }

    fn revoke(&mut self, id: LeaseId) -> Result<(), CommandError> {
        if self.leases.remove(&id).is_none() {
            return Err(CommandError::LeaseNotFound);
        }
        let mut changes = 0;
        for key in self.keys_of_lease(id) {
            self.record(key, None, &mut changes);
        }
        self.commit(changes);
        Ok(())
    }

    fn alarm(&mut self, activate: bool, member: u64, kind: Option<AlarmKind>) -> Reply {
        let mut changed = Vec::new();
        for each in [AlarmKind::NoSpace, AlarmKind::Corrupt] {
            if activate && kind == Some(each) {
                self.alarms.insert((member, each));
                changed.push((member, each));
            }
        }
        if !activate {
            changed.extend(
                self.alarms.iter().copied().filter(|(id, raised)| {
                    *id == member && (kind.is_none() || kind == Some(*raised))
                }),
            );
            self.alarms.retain(|alarm| !changed.contains(alarm));
        }
        Reply::Alarm { alarms: changed }
    }
}

fn everything() -> KeyRange {
    KeyRange::from_wire(Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))
}

/// The operations of the branch that `path` names next.
fn taken<'a>(txn: &'a Txn, path: &mut std::slice::Iter<'_, bool>) -> &'a [TxnOperation] {
    if *path.next().expect("one turn for each transaction") {
        &txn.success
    } else {
        &txn.failure
    }
}

fn grows(txn: &Txn) -> bool {
    let operations = txn.success.iter().chain(&txn.failure);
    operations.into_iter().any(|operation| match operation {
        TxnOperation::Put(_) => true,
        TxnOperation::Txn(nested) => grows(nested),
        _ => false,
    })
}
