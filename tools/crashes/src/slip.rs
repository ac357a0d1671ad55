//! Mistakes of the composition that the proofs must find.

/// One rule of the composition taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slip {
    /// The real composition.
    #[default]
    None,
    /// The superblock names the checkpoint when the first image is durable; the other shards' references
    /// are those of the checkpoint before.
    FirstImageCounts,
    /// A shard's syncs are answered before they are executed, so the superblock comes before the pages.
    SuperblockBeforePages,
    /// The shards are told that the checkpoint counts when the superblock's write is submitted.
    PublishedBeforeDurable,
    /// A life begins with the id behind the checkpoint, whatever was reserved.
    ReusedCheckpointId,
    /// Ids are used before their reservation is durable.
    ReservationNotAwaited,
    /// A start executes all that stands in the log, committed or not.
    ReplayPastCommit,
    /// The checkpoint's index is that of its publication instead of its freeze.
    IndexOfPublication,
}
