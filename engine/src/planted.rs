//! Switches for deliberately broken rules: tests turn one on and expect to see it caught.
//!
//! In a build without tests every switch is constantly off.

/// A rule that can be broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(unreachable_pub)]
pub enum Bug {
    /// A version search takes `main < at` for `main ≤ at`.
    VersionSearchOffByOne,
    /// A delete leaves the live counts as they are.
    TombstoneKeepsCount,
    /// A leaf split drops the first key of the right half.
    SplitLosesMiddleKey,
    /// A page image of another checkpoint passes.
    StaleGenerationAccepted,
    /// A record goes to the first segment with room instead of the last.
    EventsOutOfOrder,
    /// A put keeps the key attached to its former lease.
    FormerLeaseKept,
    /// Moving older versions to an overflow page drops the oldest of them.
    OverflowLosesOldest,
    /// A merge forgets the right page's live keys.
    MergeForgetsCount,
    /// The syncs of a checkpoint leave out the page file.
    PagesNotSynced,
    /// The syncs of a checkpoint leave out the event segments.
    UnsyncedSegments,
    /// The syncs of a checkpoint leave out the directories.
    NoDirectorySync,
    /// A freeze gives the older image's extents out at once.
    EarlyExtentFree,
    /// A page that is being flushed changes before its image is encoded.
    NoCopyBeforeWrite,
    /// The manifest is written and synced while pages are still on their way.
    ManifestBeforePages,
    /// The block map of an image has the manifest's own blocks free.
    AllocatorForgetsManifest,
    /// A compaction drops a tombstone that stands exactly at its revision.
    TombstoneAtCompactionDropped,
    /// A pass begins behind the former compaction's revision instead of at it.
    CompactionSkipsOldTarget,
    /// A page that was frozen with versions exactly at a pass's target counts as settled by it.
    ChangedAtTargetSettled,
    /// A page counts as settled although it changed after its image.
    ChangedSinceImageSettled,
    /// A dropped version's record is released twice.
    ReleaseTwice,
    /// The copy of one record is taken for every version of its key.
    CollectionForgetsPlace,
    /// A segment's file goes although the durable image still names it.
    VictimDeletedEarly,
    /// The hash counts superseded versions that no pass has dropped yet.
    HashCountsCompacted,
    /// A life begins with the id behind the last checkpoint, whatever was reserved.
    CheckpointIdReused,
    /// An id is used before its reservation is durable.
    IdBeforeReservation,
    /// The superblock names a checkpoint when its first image is durable; the other shards' references
    /// are those of the checkpoint before.
    SuperblockBeforeImages,
    /// A checkpoint is published when the superblock's write is submitted.
    PublishedBeforeSuperblock,
}

#[cfg(any(test, feature = "testing"))]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether `bug` is turned on, on this thread.
    #[inline]
    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Runs `body` with one rule broken, on this thread only.
    #[allow(unreachable_pub)]
    pub fn with_planted<T>(bug: Option<Bug>, body: impl FnOnce() -> T) -> T {
        struct Restore(Option<Bug>);
        impl Drop for Restore {
            fn drop(&mut self) {
                PLANTED.set(self.0);
            }
        }
        let _restore = Restore(PLANTED.replace(bug));
        body()
    }
}

#[cfg(any(test, feature = "testing"))]
#[allow(unused_imports)]
pub use switch::with_planted;

#[cfg(any(test, feature = "testing"))]
pub(crate) use switch::planted;

/// Whether `bug` is turned on: never outside tests.
#[cfg(not(any(test, feature = "testing")))]
#[inline(always)]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}

/// Runs `test` with `bug` turned on.
#[cfg(test)]
pub(crate) fn with<T>(bug: Bug, test: impl FnOnce() -> T) -> T {
    with_planted(Some(bug), test)
}
