//! Random requests, dense enough that they meet each other.

use bytes::Bytes;

use super::{Oracle, Random};
use crate::auth::{AuthorizedOperation, Identity, Policy, authorize};
use crate::command::*;
use crate::key::KeyRange;

/// Draws requests over a small set of keys.
#[derive(Clone, Debug)]
pub struct Workload {
    random: Random,
    keys: u64,
    key_bytes: usize,
    leases: u64,
}

/// Passes an operation through authorisation with authentication off.
pub fn authorized(operation: Operation) -> AuthorizedOperation {
    authorize(operation, &Identity::Anonymous, &Policy::Disabled)
        .expect("authentication is off")
        .split()
}

impl Workload {
    /// Draws from `seed` over about `keys` keys.
    pub fn new(seed: u64, keys: u64) -> Self {
        Workload {
            random: Random::new(seed),
            keys: keys.max(2),
            key_bytes: 0,
            leases: 6,
        }
    }

    /// The same over keys of at least `key_bytes`, so that the tree has more leaves.
    pub fn with_long_keys(self, key_bytes: usize) -> Self {
        Workload { key_bytes, ..self }
    }

    /// The draws beside the requests.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// A command; `state` makes revisions and guards that matter likely.
    pub fn command(&mut self, state: &Oracle) -> Command {
        let alarmed = state.alarms().first().copied();
        match self.random.below(1000) {
            0..400 => Command::Put(self.put(true)),
            400..520 => Command::DeleteRange(self.delete()),
            520..850 => Command::Txn(self.txn(state, 1)),
            850..870 => Command::Compact {
                revision: self
                    .random
                    .between(state.compact_revision() - 1, state.revision() + 1),
            },
            870..900 => Command::LeaseGrant {
                id: self.lease(),
                ttl: self.random.between(1, 100),
            },
            900..920 => Command::LeaseRevoke { id: self.lease() },
            920..930 => Command::LeaseExpire {
                ids: (0..self.random.below(4)).map(|_| self.lease()).collect(),
            },
            930..933 => Command::Alarm {
                activate: true,
                member: self.random.below(3),
                alarm: self.alarm(),
            },
            933..940 => Command::MemberAttributes(MemberAttributes {
                member: self.random.below(3),
                name: format!("m{}", self.random.below(5)),
                client_urls: vec![format!("http://host:{}", self.random.below(9))],
            }),
            940..945 => Command::ClusterVersion(format!("3.{}.0", self.random.below(8))),
            _ if let Some((member, _)) = alarmed => Command::Alarm {
                activate: false,
                member,
                alarm: None,
            },
            945..950 => Command::Alarm {
                activate: false,
                member: self.random.below(3),
                alarm: self.alarm(),
            },
            _ => Command::Put(self.plain_put()),
        }
    }

    fn alarm(&mut self) -> Option<AlarmKind> {
        match self.random.below(3) {
            0 => None,
            1 => Some(AlarmKind::NoSpace),
            _ => Some(AlarmKind::Corrupt),
        }
    }

    /// A key.
    pub fn key(&mut self) -> Bytes {
        let number = self.random.below(self.keys);
        let directory = ["a/", "b/", "b/c/"][(number % 3) as usize];
        let mut key = format!("{directory}{number:02}").into_bytes();
        key.resize(key.len().max(self.key_bytes), b'.');
        Bytes::from(key)
    }

    /// A lease id that may exist.
    pub fn lease(&mut self) -> LeaseId {
        LeaseId(1 + self.random.below(self.leases) as i64)
    }

    fn value(&mut self) -> Bytes {
        let len = [0, 1, 1, 2, 3, 40][self.random.index(6)];
        let first = b'a' + self.random.below(3) as u8;
        Bytes::from(vec![first; len])
    }

    fn plain_put(&mut self) -> Put {
        Put {
            key: self.key(),
            value: self.value(),
            lease: LeaseId::NONE,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        }
    }

    fn put(&mut self, with_lease: bool) -> Put {
        let mut put = self.plain_put();
        put.prev_kv = self.random.one_in(4);
        if with_lease && self.random.one_in(3) {
            put.lease = self.lease();
        }
        if self.random.one_in(8) {
            put.ignore_value = true;
            put.value = Bytes::new();
        }
        if self.random.one_in(8) {
            put.ignore_lease = true;
            put.lease = LeaseId::NONE;
        }
        put
    }

    fn delete(&mut self) -> DeleteRange {
        let range = if self.random.one_in(3) {
            self.keys_of_some()
        } else {
            KeyRange::single(self.key())
        };
        DeleteRange {
            range,
            prev_kv: self.random.one_in(2),
        }
    }

    /// One key, several, all or none.
    pub fn keys(&mut self) -> KeyRange {
        if self.random.one_in(2) {
            KeyRange::single(self.key())
        } else {
            self.keys_of_some()
        }
    }

    fn keys_of_some(&mut self) -> KeyRange {
        let zero = Bytes::from_static(b"\0");
        match self.random.below(20) {
            0 => KeyRange::from_wire(zero.clone(), zero),
            1 => KeyRange::from_wire(self.key(), zero),
            2 => KeyRange::from_wire(Bytes::from_static(b"b/"), Bytes::from_static(b"b0")),
            3 => KeyRange::from_wire(Bytes::from_static(b"b/c/"), Bytes::from_static(b"b/c0")),
            _ => {
                let (first, second) = (self.key(), self.key());
                let ordered = self.random.below(8) > 0;
                if ordered && second < first {
                    KeyRange::from_wire(second, first)
                } else {
                    KeyRange::from_wire(first, second)
                }
            }
        }
    }

    fn revision(&mut self, state: &Oracle) -> i64 {
        match self.random.below(12) {
            0..7 => 0,
            7 => self.random.between(-2, 1),
            8 => state.revision() + self.random.between(-1, 2),
            9 => state.compact_revision() + self.random.between(-1, 1),
            _ => self
                .random
                .between(state.compact_revision().max(1), state.revision()),
        }
    }

    /// A range with any options.
    pub fn range(&mut self, state: &Oracle) -> Range {
        let mut range = Range {
            revision: self.revision(state),
            ..Range::all(self.keys())
        };
        if self.random.one_in(2) {
            return range;
        }
        range.limit = [0, 0, 1, 2, 3, 10, i64::MAX, -1][self.random.index(8)];
        range.sort_order =
            [SortOrder::None, SortOrder::Ascend, SortOrder::Descend][self.random.index(3)];
        range.sort_target = [
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ][self.random.index(5)];
        range.serializable = self.random.one_in(4);
        range.keys_only = self.random.one_in(4);
        range.count_only = self.random.one_in(8);
        for bound in [
            &mut range.min_mod_revision,
            &mut range.max_mod_revision,
            &mut range.min_create_revision,
            &mut range.max_create_revision,
        ] {
            if self.random.one_in(10) {
                *bound = self.random.between(-1, state.revision() + 1);
            }
        }
        range
    }

    fn compare(&mut self, state: &Oracle) -> Compare {
        let range = if self.random.one_in(5) {
            self.keys()
        } else {
            KeyRange::single(self.key())
        };
        let newest = state.range(&Range::all(range.clone()));
        let newest = newest.ok().and_then(|reply| reply.kvs.into_iter().next());
        let kv = newest
            .filter(|_| self.random.below(4) > 0)
            .unwrap_or_default();
        let target = match self.random.below(5) {
            0 => CompareTarget::Version(kv.version),
            1 => CompareTarget::Create(kv.create_revision),
            2 => CompareTarget::Mod(kv.mod_revision),
            3 => CompareTarget::Value(kv.value),
            _ => CompareTarget::Lease(kv.lease.0),
        };
        let relation = [
            Relation::Equal,
            Relation::Equal,
            Relation::Equal,
            Relation::NotEqual,
            Relation::Greater,
            Relation::Less,
        ][self.random.index(6)];
        Compare {
            range,
            relation,
            target,
        }
    }

    /// A compare-and-set of one key as Kubernetes sends it, or a transaction of any shape.
    pub fn txn(&mut self, state: &Oracle, depth: u32) -> Txn {
        if depth == 1 && self.random.one_in(2) {
            let mut txn = self.compare_and_set(state);
            if self.random.one_in(4) {
                let nested = self.guarded_read(&txn, state);
                txn.success.push(TxnOperation::Txn(nested));
            }
            return txn;
        }
        loop {
            let txn = Txn {
                compare: (0..self.random.below(3))
                    .map(|_| self.compare(state))
                    .collect(),
                success: self.operations(state, depth),
                failure: self.operations(state, depth),
            };
            if depth > 1 || has_no_duplicates(&txn) {
                return txn;
            }
        }
    }

    /// A nested transaction on the key of `outer`, which may have changed it before.
    fn guarded_read(&mut self, outer: &Txn, state: &Oracle) -> Txn {
        let range = outer.compare[0].range.clone();
        let read = Range {
            revision: self.revision(state),
            ..Range::all(range.clone())
        };
        Txn {
            compare: vec![Compare {
                range,
                ..outer.compare[0].clone()
            }],
            success: vec![TxnOperation::Range(read.clone())],
            failure: vec![TxnOperation::Range(read.clone()), TxnOperation::Range(read)],
        }
    }

    fn compare_and_set(&mut self, state: &Oracle) -> Txn {
        let key = self.key();
        let stored = state.range(&Range::all(KeyRange::single(key.clone())));
        let stored = stored.ok().and_then(|reply| reply.kvs.into_iter().next());
        let mut revision = stored.map_or(0, |kv| kv.mod_revision);
        if self.random.one_in(4) {
            revision = self.random.between(0, state.revision());
        }
        let change = if self.random.one_in(5) {
            TxnOperation::DeleteRange(DeleteRange {
                range: KeyRange::single(key.clone()),
                prev_kv: false,
            })
        } else {
            let lease = if self.random.one_in(4) {
                self.lease()
            } else {
                LeaseId::NONE
            };
            TxnOperation::Put(Put {
                key: key.clone(),
                lease,
                ..self.plain_put()
            })
        };
        let failure = if self.random.one_in(3) {
            Vec::new()
        } else {
            vec![TxnOperation::Range(Range::all(KeyRange::single(
                key.clone(),
            )))]
        };
        Txn {
            compare: vec![Compare {
                range: KeyRange::single(key),
                relation: Relation::Equal,
                target: CompareTarget::Mod(revision),
            }],
            success: vec![change],
            failure,
        }
    }

    fn operations(&mut self, state: &Oracle, depth: u32) -> Vec<TxnOperation> {
        let count = self.random.below(4);
        let operation = |workload: &mut Self| match workload.random.below(10) {
            0..4 => TxnOperation::Put(workload.put(true)),
            4..6 => TxnOperation::DeleteRange(workload.delete()),
            6..9 if depth > 2 => TxnOperation::Range(workload.range(state)),
            6..8 => TxnOperation::Range(workload.range(state)),
            _ if depth > 2 => TxnOperation::Put(workload.plain_put()),
            _ => TxnOperation::Txn(workload.txn(state, depth + 1)),
        };
        (0..count).map(|_| operation(self)).collect()
    }

    /// A transaction without writes.
    pub fn read_txn(&mut self, state: &Oracle) -> Txn {
        let ranges = |workload: &mut Self| -> Vec<TxnOperation> {
            (0..workload.random.below(3))
                .map(|_| TxnOperation::Range(workload.range(state)))
                .collect()
        };
        Txn {
            compare: (0..self.random.below(3))
                .map(|_| self.compare(state))
                .collect(),
            success: ranges(self),
            failure: ranges(self),
        }
    }
}

/// The edge's rule: in one branch no key is put twice, or put and deleted.
fn has_no_duplicates(txn: &Txn) -> bool {
    let branch_is_clean = |operations: &[TxnOperation]| {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        collect(operations, &mut puts, &mut deletes);
        let mut sorted = puts.clone();
        sorted.sort();
        sorted.dedup();
        let covered = |key: &Bytes| deletes.iter().any(|range| range.contains(key));
        sorted.len() == puts.len() && !puts.iter().any(covered)
    };
    branch_is_clean(&txn.success) && branch_is_clean(&txn.failure)
}

fn collect(operations: &[TxnOperation], puts: &mut Vec<Bytes>, deletes: &mut Vec<KeyRange>) {
    for operation in operations {
        match operation {
            TxnOperation::Put(put) => puts.push(put.key.clone()),
            TxnOperation::DeleteRange(delete) => deletes.push(delete.range.clone()),
            TxnOperation::Txn(nested) => {
                collect(&nested.success, puts, deletes);
                collect(&nested.failure, puts, deletes);
            }
            TxnOperation::Range(_) => {}
        }
    }
}
