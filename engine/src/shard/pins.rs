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
    pins: BTreeMap<PinId, Pinned>,
}

/// What a pin holds.
#[derive(Debug)]
struct Pinned {
    at: i64,
    /// Records stay where they are.
    still: bool,
}

impl Pins {
    /// Takes a pin; `false` if there are too many.
    pub(super) fn insert(&mut self, id: PinId, at: i64, still: bool) -> bool {
        let room = self.pins.len() < PINS_MAX;
        if room {
            self.pins.insert(id, Pinned { at, still });
        }
        room
    }

    pub(super) fn remove(&mut self, id: PinId) {
        self.pins.remove(&id);
    }

    /// Whether the pin `id` is there and holds `at`.
    pub(super) fn hold(&self, id: Option<PinId>, at: i64) -> bool {
        let held = id.and_then(|id| self.pins.get(&id));
        held.is_some_and(|held| held.at == at)
    }

    /// Whether the pin `id` is there and holds all that came at or after `from`.
    pub(super) fn hold_from(&self, id: Option<PinId>, from: i64) -> bool {
        let held = id.and_then(|id| self.pins.get(&id));
        held.is_some_and(|held| held.at <= from)
    }

    /// Whether the pin `id` is there, holds `at`, and leaves records where they are.
    pub(super) fn hold_still(&self, id: PinId, at: i64) -> bool {
        let held = self.pins.get(&id);
        held.is_some_and(|held| held.at == at && held.still)
    }

    /// Whether a pin leaves records where they are.
    pub(super) fn are_still(&self) -> bool {
        self.pins.values().any(|pinned| pinned.still)
    }

    /// The lowest revision that is held.
    pub(super) fn lowest(&self) -> Option<i64> {
        self.pins.values().map(|pinned| pinned.at).min()
    }
}
