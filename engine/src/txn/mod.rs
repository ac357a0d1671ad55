//! What a transaction means, apart from where its keys are.
//!
//! Owns the order of things: all guards of all levels are decided on the state before the outermost
//! transaction, then every operation of the branches taken is checked, then they run one behind the
//! other. An error found by a check leaves everything untouched. Reads inside see the writes before
//! them; all writes share one main revision and are numbered by `sub` in the order of execution.
//! That no key is written twice in one branch is checked at the edge.
//!
//! `resolve` serves two callers: a shard that holds all keys looks them up at once; [`TxnRun`]
//! collects the answers of several shards first and takes them by number.

mod run;

use crate::command::*;
use crate::key::KeyRange;
use crate::step::{Step, ready};

pub use run::ReadTxn;
pub(crate) use run::{TxnRun, delete_as_txn};

/// Branches taken: whether the guards of each transaction held, in the order in which the
/// transactions are met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    outer: bool,
    nested: Vec<bool>,
}

impl Path {
    /// Whether the outermost guards held.
    pub(crate) fn outer_held(&self) -> bool {
        self.outer
    }
}

/// One question about the state before a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Probe<'a> {
    /// Does the guard hold?
    Compare(&'a Compare),
    /// Is there such a key?
    Exists(&'a [u8]),
}

/// What the checks know beside the keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checks<'a> {
    /// Revision before the transaction.
    pub current: i64,
    /// Compact revision, −1 for none.
    pub compacted: i64,
    /// Leases of the transaction that do not exist.
    pub missing_leases: &'a [LeaseId],
}

/// A transaction whose branches are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolution {
    pub path: Path,
    /// The transaction fails with this and changes nothing.
    pub error: Option<CommandError>,
    /// A put will run.
    pub puts: bool,
    /// A range delete will run.
    pub deletes: bool,
}

/// Decides every guard and checks every operation on the way.
///
/// `probe` gets the number of the question among all of the transaction (`for_each_probe` counts
/// the same way) and the question.
pub(crate) fn resolve(
    txn: &Txn,
    checks: Checks<'_>,
    probe: &mut dyn FnMut(usize, Probe<'_>) -> Step<bool>,
) -> Step<Resolution> {
    let mut resolver = Resolver {
        checks,
        probe,
        number: 0,
        held: Vec::new(),
        error: None,
        puts: false,
        deletes: false,
    };
    let outer = ready!(resolver.txn(txn));
    Step::Ready(Resolution {
        path: Path {
            outer,
            nested: resolver.held,
        },
        error: resolver.error,
        puts: resolver.puts,
        deletes: resolver.deletes,
    })
}

struct Resolver<'a, 'p> {
    checks: Checks<'a>,
    probe: &'p mut dyn FnMut(usize, Probe<'_>) -> Step<bool>,
    number: usize,
    /// Guards of nested transactions, in the order met.
    held: Vec<bool>,
    /// Of the first operation that fails.
    error: Option<CommandError>,
    puts: bool,
    deletes: bool,
}

impl Resolver<'_, '_> {
    /// Walks the branch taken; answers which one it is.
    fn txn(&mut self, txn: &Txn) -> Step<bool> {
        let mut held = true;
        for (index, compare) in txn.compare.iter().enumerate() {
            held = ready!((self.probe)(self.number + index, Probe::Compare(compare)));
            if !held {
                break;
            }
        }
        self.number += txn.compare.len();
        if held {
            ready!(self.operations(&txn.success));
            self.number += count_probes(&txn.failure);
        } else {
            self.number += count_probes(&txn.success);
            ready!(self.operations(&txn.failure));
        }
        Step::Ready(held)
    }

    fn operations(&mut self, operations: &[TxnOperation]) -> Step<()> {
        for operation in operations {
            match operation {
                TxnOperation::Range(range) => {
                    let checked = check_revision(range.revision, self.checks);
                    self.error = self.error.or(checked.err());
                }
                TxnOperation::Put(put) => {
                    self.puts = true;
                    let checked = ready!(self.put(put));
                    self.error = self.error.or(checked.err());
                }
                TxnOperation::DeleteRange(_) => self.deletes = true,
                TxnOperation::Txn(nested) => {
                    let place = self.held.len();
                    self.held.push(false);
                    self.held[place] = ready!(self.txn(nested));
                }
            }
        }
        Step::Ready(())
    }

    /// The lease is looked at before the key.
    fn put(&mut self, put: &Put) -> Step<Result<(), CommandError>> {
        let mut there = true;
        if keeps_something(put) {
            there = ready!((self.probe)(self.number, Probe::Exists(&put.key)));
            self.number += 1;
        }
        Step::Ready(if self.checks.missing_leases.contains(&put.lease) {
            Err(CommandError::LeaseNotFound)
        } else if there {
            Ok(())
        } else {
            Err(CommandError::KeyNotFound)
        })
    }
}

/// Whether a put takes its value or its lease from the version before it.
pub(crate) fn keeps_something(put: &Put) -> bool {
    put.ignore_value || put.ignore_lease
}

/// Checks the revision of a range inside a transaction. Unlike for a range on its own, a negative
/// revision is not the current one: it counts as compacted, unless nothing was compacted and it is
/// −1, as in etcd.
fn check_revision(revision: i64, checks: Checks<'_>) -> Result<(), CommandError> {
    if revision == 0 {
        Ok(())
    } else if revision > checks.current {
        Err(CommandError::FutureRevision)
    } else if revision < checks.compacted {
        Err(CommandError::Compacted)
    } else {
        Ok(())
    }
}

/// Calls `each` with every question of `txn`, of both branches and all levels, in a fixed order.
pub(crate) fn for_each_probe<'a>(txn: &'a Txn, each: &mut dyn FnMut(Probe<'a>)) {
    for compare in &txn.compare {
        each(Probe::Compare(compare));
    }
    for operation in txn.success.iter().chain(&txn.failure) {
        match operation {
            TxnOperation::Put(put) if keeps_something(put) => each(Probe::Exists(&put.key)),
            TxnOperation::Txn(nested) => for_each_probe(nested, each),
            TxnOperation::Range(_) | TxnOperation::Put(_) | TxnOperation::DeleteRange(_) => {}
        }
    }
}

fn count_probes(operations: &[TxnOperation]) -> usize {
    let mut count = 0;
    for operation in operations {
        match operation {
            TxnOperation::Put(put) => count += usize::from(keeps_something(put)),
            TxnOperation::Txn(nested) => for_each_probe(nested, &mut |_| count += 1),
            TxnOperation::Range(_) | TxnOperation::DeleteRange(_) => {}
        }
    }
    count
}

/// Calls `each` with every leaf operation of both branches and all levels.
pub(crate) fn for_each_operation<'a>(txn: &'a Txn, each: &mut dyn FnMut(&'a TxnOperation)) {
    for operation in txn.success.iter().chain(&txn.failure) {
        match operation {
            TxnOperation::Txn(nested) => for_each_operation(nested, each),
            leaf => each(leaf),
        }
    }
}

/// Calls `each` with every guard of both branches and all levels.
pub(crate) fn for_each_compare<'a>(txn: &'a Txn, each: &mut dyn FnMut(&'a Compare)) {
    txn.compare.iter().for_each(&mut *each);
    for operation in txn.success.iter().chain(&txn.failure) {
        if let TxnOperation::Txn(nested) = operation {
            for_each_compare(nested, each);
        }
    }
}

fn branch(txn: &Txn, held: bool) -> &[TxnOperation] {
    if held { &txn.success } else { &txn.failure }
}

/// The `number`-th operation that runs, transactions themselves not counted.
pub(crate) fn leaf<'a>(txn: &'a Txn, path: &Path, number: usize) -> Option<&'a TxnOperation> {
    if path.nested.is_empty() {
        return branch(txn, path.outer).get(number);
    }
    let mut left = number;
    let mut nested = path.nested.iter();
    nth_leaf(branch(txn, path.outer), &mut nested, &mut left)
}

fn nth_leaf<'a>(
    operations: &'a [TxnOperation],
    nested: &mut std::slice::Iter<'_, bool>,
    left: &mut usize,
) -> Option<&'a TxnOperation> {
    for operation in operations {
        if let TxnOperation::Txn(txn) = operation {
            let held = *nested.next().expect("the path covers what was taken");
            let found = nth_leaf(branch(txn, held), nested, left);
            if found.is_some() {
                return found;
            }
        } else if *left == 0 {
            return Some(operation);
        } else {
            *left -= 1;
        }
    }
    None
}

/// Puts the answers of the leaf operations, in the order in which they ran, into the shape of the
/// transaction.
pub(crate) fn assemble(txn: &Txn, path: &Path, leaves: Vec<Reply>) -> TxnReply {
    if path.nested.is_empty() {
        return TxnReply {
            succeeded: path.outer,
            responses: leaves,
        };
    }
    assemble_nested(
        txn,
        path.outer,
        &mut path.nested.iter(),
        &mut leaves.into_iter(),
    )
}

fn assemble_nested(
    txn: &Txn,
    held: bool,
    nested: &mut std::slice::Iter<'_, bool>,
    leaves: &mut std::vec::IntoIter<Reply>,
) -> TxnReply {
    let responses = branch(txn, held).iter().map(|operation| match operation {
        TxnOperation::Txn(inner) => {
            let held = *nested.next().expect("the path covers what was taken");
            Reply::Txn(assemble_nested(inner, held, nested, leaves))
        }
        _ => leaves.next().expect("every leaf that ran has an answer"),
    });
    let responses = responses.collect();
    TxnReply {
        succeeded: held,
        responses,
    }
}

/// The stored side of a guard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stored<'a> {
    pub version: i64,
    pub create: i64,
    pub modified: i64,
    pub lease: LeaseId,
    /// Only looked at for a value.
    pub value: &'a [u8],
}

/// Whether one stored key-value satisfies `compare`.
pub(crate) fn satisfies(compare: &Compare, stored: Stored<'_>) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(given) => stored.version.cmp(given),
        CompareTarget::Create(given) => stored.create.cmp(given),
        CompareTarget::Mod(given) => stored.modified.cmp(given),
        CompareTarget::Lease(given) => stored.lease.0.cmp(given),
        CompareTarget::Value(given) => stored.value.cmp(given.as_ref()),
    };
    match compare.relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Greater => order.is_gt(),
        Relation::Less => order.is_lt(),
    }
}

/// Whether `compare` holds where its range has no key at all: as one key-value of zeros, except
/// that a value that is not there matches nothing.
pub(crate) fn holds_for_absent(compare: &Compare) -> bool {
    match compare.target {
        CompareTarget::Value(_) => false,
        _ => satisfies(compare, Stored::default()),
    }
}

/// Whether `txn` can change anything, whatever its guards say.
pub fn has_writes(txn: &Txn) -> bool {
    let mut writes = false;
    for_each_operation(txn, &mut |operation| {
        writes |= !matches!(operation, TxnOperation::Range(_));
    });
    writes
}

/// Whether `txn` can store anything, whatever its guards say: what a NOSPACE alarm refuses.
pub(crate) fn has_puts(txn: &Txn) -> bool {
    let mut puts = false;
    for_each_operation(txn, &mut |operation| {
        puts |= matches!(operation, TxnOperation::Put(_));
    });
    puts
}

/// The keys that an operation of a transaction touches.
pub(crate) fn operation_range(operation: &TxnOperation) -> Touched<'_> {
    match operation {
        TxnOperation::Range(range) => Touched::Range(&range.range),
        TxnOperation::DeleteRange(delete) => Touched::Range(&delete.range),
        TxnOperation::Put(put) => Touched::Key(&put.key),
        TxnOperation::Txn(_) => unreachable!("leaf operations only"),
    }
}

/// A key or a range of keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Touched<'a> {
    Key(&'a [u8]),
    Range(&'a KeyRange),
}
