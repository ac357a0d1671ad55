//! What large scans read back: it passes by.
//!
//! A list of everything would push out of the caches what point reads use, and fill them where they are
//! empty. So what is loaded for a scan goes to a small memory of its own, first in, first out.

use std::collections::BTreeSet;

use super::cache::Cache;
use super::segment::Place;
use crate::step::Need;

/// Records that pass by in memory.
const RECORDS_BYTES_MAX: u64 = 1 << 20;
/// Pieces that pass by in memory.
const WINDOWS_BYTES_MAX: u64 = 1 << 20;
/// Loads under way that are known to be for a scan; of more, some are kept like any other.
const WANTED_MAX: usize = 1024;

/// Who reads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Somebody who may come again: what is loaded for it stays for a while.
    Point,
    /// A large scan.
    Passing,
}

/// Bytes that were read back for scans.
#[derive(Debug)]
pub(super) struct Passing {
    pub(super) records: Cache,
    pub(super) windows: Cache,
    wanted: BTreeSet<Need>,
}

impl Passing {
    /// Beside caches of these sizes.
    pub(super) fn beside(records_bytes_max: u64, windows_bytes_max: u64) -> Self {
        Passing {
            records: Cache::new(records_bytes_max.min(RECORDS_BYTES_MAX)),
            windows: Cache::new(windows_bytes_max.min(WINDOWS_BYTES_MAX)),
            wanted: BTreeSet::new(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.records.bytes() + self.windows.bytes()
    }

    /// Notes that `need` is asked for by a scan.
    pub(super) fn want(&mut self, need: Need) {
        if self.wanted.len() >= WANTED_MAX {
            self.wanted.pop_first();
        }
        self.wanted.insert(need);
    }

    /// Whether `need` is asked for by a scan.
    pub(super) fn is_wanted(&self, need: &Need) -> bool {
        !self.wanted.is_empty() && self.wanted.contains(need)
    }

    /// Whether what was loaded for `need` was for a scan.
    pub(super) fn take_wanted(&mut self, need: &Need) -> bool {
        !self.wanted.is_empty() && self.wanted.remove(need)
    }

    /// Forgets the record at `place`.
    pub(super) fn remove(&mut self, place: Place) {
        self.records.remove(place);
    }
}
