//! Rules that a test can break on purpose, to see the model find it.
//!
//! Without the feature `testing` nothing but [`Defect::None`] can be set.

/// Which rule is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Defect {
    /// None.
    #[default]
    None,
    /// A delete that finds no key takes a revision.
    EmptyDeleteTakesRevision,
    /// Guards of nested transactions see writes of the outer one.
    NestedGuardSeesWrites,
    /// The keys of a range delete are numbered shard by shard instead of in key order.
    SubsByShard,
    /// Overwriting a key without a lease leaves it on its former lease.
    LeaseKept,
    /// A wave goes on although a request touches what an earlier one of it writes.
    WaveNotCut,
    /// Reads at exactly the compact revision are refused.
    CompactionOffByOne,
    /// All leases of one expiry share a revision.
    ExpirySharesRevision,
    /// A range of a transaction at a revision of the future reads the present.
    FutureReadInTxn,
    /// The count of a range ends at its limit.
    CountEndsAtLimit,
    /// Every answer of a wave carries the wave's last revision.
    HeaderOfWave,
    /// A put that keeps its value loses the lease rule: it takes over the former lease too.
    IgnoreValueKeepsLease,
    /// The pass of a compaction drops what a long read has pinned.
    PassIgnoresPins,
    /// The apply hash counts what each shard did apart.
    HashPerShard,
}
