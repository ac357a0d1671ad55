//! Loads ahead: while the first missing leaf of a wave is read, so are those that come after it; and the shell
//! may ask for what entries to come will need.

use super::request::{Batch, Change, Item, Work, Write};
use super::{Shard, ShardRequest};
use crate::step::Need;
use crate::txn::{self, Touched};

/// Most requests behind the one that waits whose leaves are asked for. They are looked at again with each
/// need: what there was no room for is asked for then.
const ITEMS_AHEAD_MAX: usize = 32;

/// What a key of an entry to come needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing: its leaf is in memory.
    Resident,
    /// Its leaf.
    Leaf(Need),
    /// A page above its leaf: look for the key again behind the load.
    Inner(Need),
    /// Nothing more may be loaded ahead until some of what was loaded is used.
    NoRoom,
}

impl Shard {
    pub(super) fn look_for_key(&self, key: &[u8], on_their_way: usize) -> Ahead {
        match self.store.missing_for(key) {
            None => Ahead::Resident,
            Some(_) if self.store.room_ahead() <= on_their_way => Ahead::NoRoom,
            Some(missing) if missing.is_leaf => Ahead::Leaf(Need::Page(missing.reference)),
            Some(missing) => Ahead::Inner(Need::Page(missing.reference)),
        }
    }

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
