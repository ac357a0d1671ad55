//! The promises of the log and the superblock, each with a name for being broken.

use std::fmt;

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// An acknowledged entry is missing or another one stands in its place, after a crash alone.
    AcknowledgedKept,
    /// A crash alone never makes a log faulty.
    NoFalseAlarm,
    /// A crash alone never makes a directory unusable.
    OpensAfterCrash,
    /// A durable vote is never forgotten or changed.
    VoteKept,
    /// A durable or acknowledged term never falls.
    TermKept,
    /// A published checkpoint is never forgotten, an unpublished one beyond the commit never appears.
    CheckpointKept,
    /// Entries stand in an order that some leader gave them.
    TermsChain,
    /// An entry has the bytes that were appended.
    BytesKept,
    /// A record sequence number is never used twice in the life of a directory.
    SequenceUnique,
    /// Damage that takes acknowledged entries is reported, as far as evidence reaches.
    LossReported,
    /// A reported loss stays reported until it is accepted.
    FaultRemembered,
    /// An error says file, offset and what is missing.
    ErrorNamesPlace,
    /// An accepted loss opens the directory for good and is recorded.
    AcceptedLossOpens,
    /// After a failed request nothing is written or reported durable any more.
    PoisonedForGood,
    /// What was asked for happens some day.
    Progress,
    /// Not the log's: the world itself is not consistent.
    WorldConsistent,
}

/// A broken promise and how it showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The promise.
    pub promise: Promise,
    /// What was promised and what was found.
    pub what: String,
}

impl Violation {
    pub(super) fn after(mut self, what: impl fmt::Display) -> Violation {
        self.what = format!("{} ({what})", self.what);
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} broken: {}", self.promise, self.what)
    }
}

impl std::error::Error for Violation {}

pub(super) type Checked<T> = Result<T, Violation>;

pub(super) fn broken<T>(promise: Promise, what: impl Into<String>) -> Checked<T> {
    let what = what.into();
    Err(Violation { promise, what })
}
