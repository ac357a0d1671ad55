//! Revisions that long reads hold on to.
//!
//! A read that takes many requests pins its revision: what is readable there stays, although a compaction
//! has made it unreadable for everybody else. How long a pin may last is for the caller to say.

use std::collections::BTreeMap;

/// Most pins of a shard at a time.
pub const PINS_MAX: usize = 1024;

/// Names a pin; used once in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinId(pub u64);

/// The pins of a shard.
///
/// Invariant: at most [`PINS_MAX`], none below the compact revision at the time when it came.
#[derive(Debug, Default)]
pub(super) struct Pins {
    revisions: BTreeMap<PinId, i64>,
}

impl Pins {
    /// Takes a pin; `false` if there are too many.
    pub(super) fn insert(&mut self, id: PinId, at: i64) -> bool {
        let room = self.revisions.len() < PINS_MAX;
        if room {
            self.revisions.insert(id, at);
        }
        room
    }

    pub(super) fn remove(&mut self, id: PinId) {
        self.revisions.remove(&id);
    }

    /// Whether the pin `id` is there and holds `at`.
    pub(super) fn hold(&self, id: Option<PinId>, at: i64) -> bool {
        let held = id.and_then(|id| self.revisions.get(&id));
        held == Some(&at)
    }

    /// The lowest revision that is held.
    pub(super) fn lowest(&self) -> Option<i64> {
        self.revisions.values().min().copied()
    }
}
