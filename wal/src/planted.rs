//! Deliberate bugs that the proofs must find. In every other build [`planted`] is constant `false`.

/// One rule taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, unreachable_pub)]
pub enum Bug {
    OneCopy,
    SinglePhase,
    OverlappingWrites,
    RepairOverGoodCopies,
    CreateInPlace,
    ActBeforeFlush,
    VoteBeforeDurable,
    AcknowledgeBeforeTermDurable,
    EarlyRecycling,
    RecycleUnderWrite,
    PerRecordFilters,
    UnscopedWatermark,
    NoFloor,
    CommitHintInWatermark,
    ReplacedEpochStart,
    NoLaneSyncAtRecovery,
    ReusedWseq,
    StaleCompletion,
    AcknowledgePastHole,
    NoTermChain,
    NoSalt,
    NoDirectorySync,
    NoSubmissionPauseAtSnapshot,
    NoWatermark,
    WatermarkWithoutTerm,
    BeaconIgnored,
    EpochOpenedWhileFaulty,
}

#[cfg(any(test, feature = "testing"))]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Runs `body` with one rule taken away, on this thread only.
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
pub use switch::with_planted;

#[cfg(any(test, feature = "testing"))]
pub(crate) use switch::planted;

#[cfg(not(any(test, feature = "testing")))]
#[inline(always)]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}
