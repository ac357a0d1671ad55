//! Long reads that had to stop for something to be loaded.
//!
//! A call that needs something is repeated as a whole. One that walks over more than memory holds would
//! never end if it began anew each time: what it read first is gone when the last comes. So it leaves here
//! how far it got, and the repeated call goes on from there. What is left by calls that nobody repeats is
//! pushed out by later ones.

use std::collections::VecDeque;

use bytes::Bytes;

use super::history::Found;
use super::{EventQuery, RangeSet};
use crate::command::LeaseId;
use crate::revision::Revision;

/// Most reads that are kept. More at once make each other begin anew.
const KEPT_MAX: usize = 16;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The history, of which one revision did not come whole.
    Events {
        from: i64,
        to: i64,
        ranges: Option<RangeSet>,
        prev_kv: bool,
        bytes_max: usize,
    },
    /// The keys of a lease while the newest event was this one.
    Lease { lease: LeaseId, newest: Revision },
}

impl Question {
    pub(super) fn events(query: &EventQuery<'_>) -> Self {
        Question::Events {
            from: query.from,
            to: query.to,
            ranges: query.ranges.cloned(),
            prev_kv: query.prev_kv,
            bytes_max: query.bytes_max,
        }
    }
}

/// How far the answer got.
#[derive(Debug)]
pub(super) enum Progress {
    Events(Found),
    /// The keys below this member of the lease tree.
    Lease(Vec<Bytes>, Vec<u8>),
}

/// The reads that were interrupted, oldest first.
#[derive(Debug, Default)]
pub(super) struct Interrupted {
    reads: VecDeque<(Question, Progress)>,
}

impl Interrupted {
    /// How far `question` got, if it was interrupted.
    pub(super) fn take(&mut self, question: &Question) -> Option<Progress> {
        let index = self.reads.iter().position(|(kept, _)| kept == question)?;
        self.reads.remove(index).map(|(_, progress)| progress)
    }

    /// Keeps how far `question` got.
    pub(super) fn keep(&mut self, question: Question, progress: Progress) {
        if self.reads.len() == KEPT_MAX {
            self.reads.pop_front();
        }
        self.reads.push_back((question, progress));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }
}
