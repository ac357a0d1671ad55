//! Which keys an entry will touch, before it is executed.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::command::{Command, Txn, TxnOperation};
use crate::entry::EntryRequest;
use crate::shard::shard_of;
use crate::txn;

/// Calls `each` with the keys of `requests` and their shards.
pub(super) fn for_each_key(
    requests: &VecDeque<EntryRequest>,
    shards: u16,
    each: &mut dyn FnMut(u16, &Bytes),
) {
    let mut name = |key: &Bytes| each(shard_of(key, shards), key);
    for request in requests {
        match &request.command {
            Command::Put(put) => name(&put.key),
            Command::DeleteRange(delete) => name(&delete.range.start),
            Command::Txn(txn) => for_each_key_of(txn, &mut name),
            Command::Compact { .. }
            | Command::LeaseGrant { .. }
            | Command::LeaseRevoke { .. }
            | Command::LeaseExpire { .. }
            | Command::Alarm { .. }
            | Command::MemberAttributes(_)
            | Command::ClusterVersion(_) => {}
        }
    }
}

fn for_each_key_of(txn: &Txn, name: &mut dyn FnMut(&Bytes)) {
    txn::for_each_compare(txn, &mut |compare| name(&compare.range.start));
    txn::for_each_operation(txn, &mut |operation| match operation {
        TxnOperation::Put(put) => name(&put.key),
        TxnOperation::Range(range) => name(&range.range.start),
        TxnOperation::DeleteRange(delete) => name(&delete.range.start),
        TxnOperation::Txn(_) => {}
    });
}
