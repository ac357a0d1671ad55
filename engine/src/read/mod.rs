//! Reads over all shards at one fixed revision.
//!
//! A read is a small machine: [`RangeRead::poll`] hands out requests for shards until there is
//! nothing more to ask for now, [`RangeRead::on_reply`] takes the answers in any order. The caller
//! fixes the revision (`resolve_revision`) and carries the messages; nothing here waits or knows
//! which revision is current. One key costs one request to one shard.

mod counting;
mod events;
mod hash;
mod lane;
mod list;
mod places;
mod range;
mod snapshot;

use bytes::Bytes;

use crate::command::*;

pub use events::{EventRead, LeaseKeysRead};
pub use hash::HashRead;
pub use list::{ListEnd, ListOrder, ListRead, ListValues, Listed, OutlineRead, sort_outline};
pub use range::RangeRead;
pub use snapshot::{Measure, SnapshotRead};

/// The main revision at which `range` reads, given the published and the compact revision.
///
/// # Errors
/// `FutureRevision`, `Compacted`.
pub fn resolve_revision(range: &Range, current: i64, compacted: i64) -> Result<i64, CommandError> {
    if range.revision > current {
        Err(CommandError::FutureRevision)
    } else if range.revision <= 0 {
        Ok(current)
    } else if range.revision < compacted {
        Err(CommandError::Compacted)
    } else {
        Ok(range.revision)
    }
}

/// Whether the value of a key must be read to answer `range`.
pub(crate) fn wants_value(range: &Range) -> bool {
    !range.count_only && (!range.keys_only || range.sort_target == SortTarget::Value)
}

/// Answers a range of one key from what was found there.
pub(crate) fn reply_of_one(range: &Range, found: Option<KeyValue>) -> RangeReply {
    let count = i64::from(found.is_some());
    let mut kvs = Vec::new();
    if !range.count_only {
        let bounds = crate::shard::RevisionBounds::of(range);
        kvs.extend(found.filter(|kv| bounds.admit(kv.create_revision, kv.mod_revision)));
        drop_values(range, &mut kvs);
    }
    RangeReply {
        kvs,
        more: false,
        count,
    }
}

/// Strips what a keys-only answer does not show. etcd 3.7 answers it from its index, which knows no
/// lease, unless it has to sort by value.
fn drop_values(range: &Range, kvs: &mut [KeyValue]) {
    if !range.keys_only {
        return;
    }
    for kv in kvs {
        kv.value = Bytes::new();
        if range.sort_target != SortTarget::Value {
            kv.lease = LeaseId::NONE;
        }
    }
}
