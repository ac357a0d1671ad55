//! A count that a shard answers in slices.

use crate::store::{CountCursor, Counted};

/// How far the count of one shard is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Counting {
    /// To be asked for, from there on.
    From(Option<CountCursor>),
    Asked,
    /// Known, or not wanted.
    Through,
}

impl Counting {
    /// Where to go on, if it has to be asked for; it is then.
    pub(super) fn ask(&mut self) -> Option<Option<CountCursor>> {
        match std::mem::replace(self, Counting::Asked) {
            Counting::From(from) => Some(from),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Takes an answer; how much the count is, once it is known.
    pub(super) fn take(&mut self, counted: Counted) -> i64 {
        match counted {
            Counted::Whole(count) => {
                *self = Counting::Through;
                count
            }
            Counted::Part(cursor) => {
                *self = Counting::From(Some(cursor));
                0
            }
        }
    }
}
