//! What log and shards promise together, each with a name for being broken.

use std::fmt;

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// A crash alone never makes a directory unusable.
    OpensAfterCrash,
    /// An acknowledged entry is found again, in the image or in the log.
    AcknowledgedKept,
    /// The checkpoint that counted counts, and none beyond the commit.
    CheckpointKept,
    /// The image holds exactly the entries up to the checkpoint's index.
    ImageIsItsIndex,
    /// What no image names is gone after a start.
    LeftoversGo,
    /// Replay leads to the state of the entries: effects, revision, leases.
    ReplayLeadsToTheState,
    /// After a crash alone, everything can be read.
    ReadableAfterCrash,
    /// Reads answer what was written.
    ReadsAreRight,
    /// Only committed entries are executed.
    OnlyCommittedIsExecuted,
    /// A checkpoint id is frozen once in the life of a directory.
    IdUsedOnce,
    /// Damage shows as an error or not at all; it never changes an answer.
    NoSilentDifference,
    /// An error says in which file and where.
    ErrorNamesPlace,
    /// Damage to one value or leaf concerns nobody else.
    OthersStayReadable,
    /// What was asked for happens some day.
    Progress,
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
    /// Adds where it happened.
    #[must_use]
    pub fn after(mut self, what: impl fmt::Display) -> Violation {
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

pub(crate) type Checked<T> = Result<T, Violation>;

pub(crate) fn broken<T>(promise: Promise, what: impl Into<String>) -> Checked<T> {
    let what = what.into();
    Err(Violation { promise, what })
}
