//! Transactions: counting, keys written twice, conversion.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use engine::command::{Command, Compare, CompareTarget, Operation, Relation, Txn, TxnOperation};

use super::request::{
    check_delete_range, check_put, check_range, delete_range, invalid, key_range, put, range,
};
use crate::proto::etcdserverpb::{
    Compare as CompareMessage, DeleteRangeRequest, RequestOp, TxnRequest, compare, request_op,
};
use crate::status::{DUPLICATE_KEY, EMPTY_KEY, KEY_NOT_FOUND, Status, TOO_MANY_OPS};

/// Most levels of transactions inside each other, the outermost one counted.
pub const TXN_DEPTH_MAX: usize = 8;

/// Checks a transaction and turns it into a write, or into a read if it has no writes. Nested
/// transactions always count as writes.
pub(super) fn operation(request: TxnRequest, operations_max: usize) -> Result<Operation, Status> {
    check_txn(&request, operations_max, TXN_DEPTH_MAX)?;
    Writes::of(&request.success)?;
    Writes::of(&request.failure)?;
    let is_read = |operation: &RequestOp| {
        matches!(
            operation.request,
            Some(request_op::Request::RequestRange(_))
        )
    };
    let read_only = request.success.iter().chain(&request.failure).all(is_read);
    let txn = convert(request)?;
    Ok(if read_only {
        Operation::ReadTxn(txn)
    } else {
        Operation::Write(Command::Txn(txn))
    })
}

/// A level may have as many operations as the levels above left over.
fn check_txn(
    request: &TxnRequest,
    operations_max: usize,
    levels_left: usize,
) -> Result<(), Status> {
    let operations = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if operations > operations_max {
        return Err(TOO_MANY_OPS);
    }
    if levels_left == 0 {
        return Err(invalid(format!(
            "etcdserver: transactions are nested too deeply, at most {TXN_DEPTH_MAX} levels"
        )));
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(EMPTY_KEY);
    }
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(request_op::Request::RequestRange(range)) => check_range(range)?,
            Some(request_op::Request::RequestPut(put)) => check_put(put)?,
            Some(request_op::Request::RequestDeleteRange(delete)) => check_delete_range(delete)?,
            Some(request_op::Request::RequestTxn(txn)) => {
                check_txn(txn, operations_max - operations, levels_left - 1)?;
            }
            None => return Err(KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// What a branch writes, nested transactions included.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Intervals<'a>,
}

impl<'a> Writes<'a> {
    /// Collects what `branch` writes, in etcd's order: its deletes, then its nested transactions one
    /// by one, then its puts. A put of a key that is already put, or covered by the deletes known so
    /// far, is refused.
    fn of(branch: &'a [RequestOp]) -> Result<Self, Status> {
        let mut writes = Writes::default();
        // One operation cannot collide with itself.
        if let [
            RequestOp {
                request: Some(request_op::Request::RequestPut(put)),
            },
        ] = branch
        {
            writes.puts.insert(&put.key);
            return Ok(writes);
        }
        for operation in branch {
            if let Some(request_op::Request::RequestDeleteRange(delete)) = &operation.request {
                writes.deletes.insert(delete);
            }
        }
        for operation in branch {
            if let Some(request_op::Request::RequestTxn(txn)) = &operation.request {
                writes.nest(txn)?;
            }
        }
        for operation in branch {
            if let Some(request_op::Request::RequestPut(put)) = &operation.request {
                writes.put(&put.key)?;
            }
        }
        Ok(writes)
    }

    fn put(&mut self, key: &'a [u8]) -> Result<(), Status> {
        if self.deletes.contains(key) || !self.puts.insert(key) {
            return Err(DUPLICATE_KEY);
        }
        Ok(())
    }

    fn nest(&mut self, txn: &'a TxnRequest) -> Result<(), Status> {
        let success = Writes::of(&txn.success)?;
        let failure = Writes::of(&txn.failure)?;
        for key in &success.puts {
            self.put(key)?;
        }
        for key in &failure.puts {
            // Only one of the branches runs, so both may put one key.
            if !success.puts.contains(key) {
                self.put(key)?;
            }
        }
        self.deletes.absorb(success.deletes);
        self.deletes.absorb(failure.deletes);
        Ok(())
    }
}

/// A union of half-open intervals: start → end, disjoint and not touching.
#[derive(Default)]
struct Intervals<'a>(BTreeMap<&'a [u8], IntervalEnd<'a>>);

/// End of an interval.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum IntervalEnd<'a> {
    /// Exclusive.
    Before(&'a [u8]),
    /// Inclusive: the key itself, as in a delete of one key.
    Through(&'a [u8]),
}

impl<'a> IntervalEnd<'a> {
    fn covers(self, key: &[u8]) -> bool {
        match self {
            IntervalEnd::Before(end) => key < end,
            IntervalEnd::Through(last) => key <= last,
        }
    }

    /// Position in key order: `Through(k)` ends just behind `k`.
    fn position(self) -> (&'a [u8], bool) {
        match self {
            IntervalEnd::Before(end) => (end, false),
            IntervalEnd::Through(last) => (last, true),
        }
    }
}

impl<'a> Intervals<'a> {
    /// An end at or below the start covers nothing. That includes `"\0"`, "from the key on": etcd
    /// compares it as the plain string, so such a delete never collides with a put.
    fn insert(&mut self, delete: &'a DeleteRangeRequest) {
        if delete.range_end.is_empty() {
            self.add(&delete.key, IntervalEnd::Through(&delete.key));
        } else if delete.range_end > delete.key {
            self.add(&delete.key, IntervalEnd::Before(&delete.range_end));
        }
    }

    fn absorb(&mut self, other: Intervals<'a>) {
        for (start, end) in other.0 {
            self.add(start, end);
        }
    }

    fn add(&mut self, start: &'a [u8], end: IntervalEnd<'a>) {
        let (mut start, mut end) = (start, end);
        if let Some((&before, &before_end)) = self.0.range(..=start).next_back()
            && before_end.position().0 >= start
        {
            start = before;
        }
        // Whatever starts inside the widened interval becomes a part of it.
        while let Some((&inner, &inner_end)) = self.0.range(start..).next()
            && inner <= end.position().0
        {
            self.0.remove(inner);
            end = later(end, inner_end);
        }
        self.0.insert(start, end);
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.0
            .range(..=key)
            .next_back()
            .is_some_and(|(_, end)| end.covers(key))
    }
}

fn later<'a>(left: IntervalEnd<'a>, right: IntervalEnd<'a>) -> IntervalEnd<'a> {
    if left.position() >= right.position() {
        left
    } else {
        right
    }
}

fn convert(request: TxnRequest) -> Result<Txn, Status> {
    let branch = |operations: Vec<RequestOp>| {
        operations
            .into_iter()
            .map(convert_operation)
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(Txn {
        compare: request
            .compare
            .into_iter()
            .map(convert_compare)
            .collect::<Result<_, _>>()?,
        success: branch(request.success)?,
        failure: branch(request.failure)?,
    })
}

fn convert_operation(operation: RequestOp) -> Result<TxnOperation, Status> {
    Ok(match operation.request {
        Some(request_op::Request::RequestRange(request)) => TxnOperation::Range(range(request)?),
        Some(request_op::Request::RequestPut(request)) => TxnOperation::Put(put(request)?),
        Some(request_op::Request::RequestDeleteRange(request)) => {
            TxnOperation::DeleteRange(delete_range(request)?)
        }
        Some(request_op::Request::RequestTxn(request)) => TxnOperation::Txn(convert(request)?),
        None => return Err(KEY_NOT_FOUND),
    })
}

/// A guard whose value is absent, or of another target's type, compares with zero or the empty
/// value.
fn convert_compare(message: CompareMessage) -> Result<Compare, Status> {
    use compare::{CompareResult, CompareTarget as Target, TargetUnion};

    let relation = match CompareResult::try_from(message.result) {
        Ok(CompareResult::Equal) => Relation::Equal,
        Ok(CompareResult::Greater) => Relation::Greater,
        Ok(CompareResult::Less) => Relation::Less,
        Ok(CompareResult::NotEqual) => Relation::NotEqual,
        Err(_) => {
            return Err(invalid(format!(
                "etcdserver: unknown relation {} in a compare",
                message.result
            )));
        }
    };
    let given = message.target_union;
    let target = match Target::try_from(message.target) {
        Ok(Target::Version) => CompareTarget::Version(match given {
            Some(TargetUnion::Version(version)) => version,
            _ => 0,
        }),
        Ok(Target::Create) => CompareTarget::Create(match given {
            Some(TargetUnion::CreateRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(Target::Mod) => CompareTarget::Mod(match given {
            Some(TargetUnion::ModRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(Target::Value) => CompareTarget::Value(match given {
            Some(TargetUnion::Value(value)) => value,
            _ => Bytes::new(),
        }),
        Ok(Target::Lease) => CompareTarget::Lease(match given {
            Some(TargetUnion::Lease(lease)) => lease,
            _ => 0,
        }),
        Err(_) => {
            return Err(invalid(format!(
                "etcdserver: unknown target {} in a compare",
                message.target
            )));
        }
    };
    Ok(Compare {
        range: key_range(message.key, message.range_end),
        relation,
        target,
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        vec(0u8..3, 0..3).prop_map(Bytes::from)
    }

    fn covers(delete: &DeleteRangeRequest, key: &[u8]) -> bool {
        if delete.range_end.is_empty() {
            return delete.key == key;
        }
        delete.key <= key && key < delete.range_end.as_ref()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn a_union_covers_what_its_parts_cover(
            first in vec((key(), key()), 0..6),
            second in vec((key(), key()), 0..6),
            keys in vec(key(), 20),
        ) {
            let deletes = |parts: Vec<(Bytes, Bytes)>| -> Vec<DeleteRangeRequest> {
                let delete = |(key, range_end)| DeleteRangeRequest { key, range_end, prev_kv: false };
                parts.into_iter().map(delete).collect()
            };
            let (first, second) = (deletes(first), deletes(second));
            let mut union = Intervals::default();
            first.iter().for_each(|delete| union.insert(delete));
            let mut other = Intervals::default();
            second.iter().for_each(|delete| other.insert(delete));
            union.absorb(other);
            for key in keys {
                let expected = first.iter().chain(&second).any(|delete| covers(delete, &key));
                prop_assert_eq!(union.contains(&key), expected);
            }
            let ends: Vec<_> = union.0.iter().collect();
            prop_assert!(ends.windows(2).all(|pair| pair[0].1.position().0 < *pair[1].0));
        }
    }
}
