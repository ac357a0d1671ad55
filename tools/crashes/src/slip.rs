//! Mistakes of the composition that the proofs must find.

/// One rule of the composition taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slip {
    /// The real composition.
    #[default]
    None,
    /// A shard's syncs are answered before they are executed, so the superblock comes before the pages.
    SuperblockBeforePages,
    /// A life takes the checkpoint for the last id that was reserved.
    ReusedCheckpointId,
    /// A start executes all that stands in the log, committed or not.
    ReplayPastCommit,
    /// The checkpoint's index is that of its publication instead of its freeze.
    IndexOfPublication,
}
