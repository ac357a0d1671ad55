//! Background work of a shard: dropping versions that a compaction made unreadable, getting the space of
//! event segments back, summing the hashes of what is readable, and reading the disk for damage.
//!
//! Owns the order of that work and how far it is; each call does a slice of it. It refuses to know when it
//! is due, how much of a core it may take, and what became of the space. The steps are described in
//! `docs/internals/compaction.md`.
//!
//! ```text
//! Compact(C) ─▶ pass over what changed since C_old ─▶ versions dropped ─▶ live bytes of segments fall
//!                                                                              │
//!          files deleted ◀─ image without it published ◀─ freeze ◀─ segment empty ◀─ live records copied
//! ```
//!
//! # Why nobody needs what is dropped
//!
//! A compaction to C drops, of each key, the versions that are older than the newest with main ≤ C, and
//! that newest one too if it is a tombstone below C. A read at `at` takes the newest version with
//! main ≤ `at`. For `at` ≥ C that is the newest with main ≤ C or a later one, which stays; or it is a
//! tombstone, and without it nothing is found: absent either way. So what is dropped shows in reads at
//! revisions below C only. Those never reach the store once `ShardRequest::Compact` has: every request that
//! names a revision is compared with the compact revision when it is handled, also each further chunk of a
//! read that began before, and answered `Refused`. A pass starts in the shard after that request, on the
//! same thread, so there is no reader in between.
//!
//! The exception are large lists, which take many requests at one revision: they pin it in the shard while it
//! is still readable (`ShardRequest::Pin`), and requests that name the pin are answered below C too. So the
//! shard lets a pass go only to the horizon H = min(C, lowest pinned revision), and what was said of C holds
//! for H; with the last pin below C the rest of the pass becomes due. Collection moves records whose versions
//! stay and needs no horizon of its own. In particular:
//!
//! - A watch from exactly C reads events at C and later. Events are read from history segments, of which
//!   none goes that has an event at C or later. The key-value before an event at C stands below C and is
//!   not looked up (`Store::events`).
//! - A count at an old revision takes the live count of now and the events since, all above C; or it
//!   scans at that revision.
//! - A transaction reads at its explicit revisions against the compact revision that its wave carries. A
//!   compaction is a wave of its own, so that is the shard's own during the whole wave, and the view before
//!   the wave is at C or later.
//! - Changing requests look at the newest version only, which goes only if it is a tombstone: no key.

mod chain;
mod changed;
mod collect;
mod cut;
mod hash;
mod pass;
mod scrub;
mod settle;

pub use hash::{HashPart, HashRequest};
pub(crate) use hash::{fold, slice as hash_slice};
pub use scrub::ScrubTarget;

pub(crate) use collect::Collector;
pub(crate) use pass::Pass;
pub(crate) use scrub::{Scrubbed, Scrubber};

use crate::events::EventLog;
use crate::mvcc::versions;
use crate::store::Version;
use crate::tree::{Pages, Tree};

/// Segments with a smaller part of live bytes than this are collected, in percent.
pub const COLLECT_BELOW_PERCENT: u64 = 50;
/// The same while requests need the disk.
pub const COLLECT_UNDER_PRESSURE_PERCENT: u64 = 20;
/// The same on demand.
pub const COLLECT_ON_DEMAND_PERCENT: u64 = 90;

/// Leaves that one slice enters at most.
pub(crate) const LEAVES_PER_SLICE: usize = 32;
/// Keys that one slice looks up at most.
pub(crate) const KEYS_PER_SLICE: usize = 128;
/// Event records that one slice reads at most.
pub(crate) const RECORDS_PER_SLICE: usize = 512;

/// What a slice of background work left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintained {
    /// Nothing is to be done until the next compaction, write or published checkpoint.
    Idle,
    /// Something was done; there is more.
    Working,
    /// Copied records wait for the disk; go on after the next completion.
    Blocked,
}

/// What the background work changes.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) pages: &'a mut Pages,
    pub(crate) log: &'a mut EventLog,
    /// Sum of the event hashes of all versions in the tree.
    pub(crate) event_hashes: &'a mut u64,
}

impl Parts<'_> {
    /// Notes that these versions are not in the tree any more.
    fn release(&mut self, dropped: &[Version]) {
        for version in dropped {
            self.log.release(version.loc);
            *self.event_hashes = self.event_hashes.wrapping_sub(u64::from(version.hash));
        }
    }
}

/// The versions of a list, newest to oldest.
fn versions_of(payload: &[u8]) -> impl Iterator<Item = Version> {
    versions::compact::entries(&versions::list(payload)).map(|entry| entry.version)
}
