//! Loads ahead of a wave: while its first missing leaf is read, so are those that come after it.

use super::request::{Batch, Change, Item, Work, Write};
use super::{Shard, ShardRequest};
use crate::txn::{self, Touched};

/// Most requests behind the one that waits whose leaves are asked for. They are looked at again with each
/// need: what there was no room for is asked for then.
const ITEMS_AHEAD_MAX: usize = 32;

impl Shard {
    /// Hints at the leaves that the rest of a wave needs, which stopped for want of one.
    pub(super) fn look_ahead(&mut self, request: &ShardRequest) {
        let Some(progress) = &self.progress else {
            return;
        };
        let (item, _) = progress.operation();
        self.store.begin_hints();
        let most = self.store.leaves_ahead().min(ITEMS_AHEAD_MAX);
        match request {
            ShardRequest::Evaluate(batch)
            | ShardRequest::Execute(batch)
            | ShardRequest::Apply { batch, .. } => self.look_ahead_in(batch, item, most),
            ShardRequest::Write(writes) => {
                for write in writes.iter().skip(item).take(most) {
                    self.store.hint_leaf(key_of(write));
                }
            }
            _ => {}
        }
    }

    fn look_ahead_in(&mut self, batch: &Batch, item: usize, most: usize) {
        for Item { work, .. } in batch.items.iter().skip(item).take(most) {
            match work {
                Work::Put(put) | Work::Update(put) => {
                    self.store.hint_leaf(&put.key);
                }
                Work::Delete { key, .. } => {
                    self.store.hint_leaf(key);
                }
                Work::Txn { txn, .. } => {
                    let store = &mut self.store;
                    txn::for_each_compare(txn, &mut |compare| {
                        store.hint_leaf(&compare.range.start);
                    });
                    txn::for_each_operation(txn, &mut |operation| {
                        store.hint_leaf(match txn::operation_range(operation) {
                            Touched::Key(key) => key,
                            Touched::Range(range) => &range.start,
                        });
                    });
                }
            }
        }
    }
}

fn key_of(write: &Write) -> &[u8] {
    match &write.change {
        Change::Put(put) => &put.key,
        Change::Delete { key, .. } => key,
    }
}
