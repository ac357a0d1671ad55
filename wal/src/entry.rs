//! The few value types that the log shares with consensus.
//!
//! Owns nothing; it only gives numbers a name, so that an index cannot be passed where a term is meant.

use bytes::Bytes;
use std::fmt;

/// Position of an entry in the Raft log; the first entry has index 1, 0 means "nothing".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// Raft term; 0 is the term of "nothing".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl Index {
    /// The index after this one.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    pub fn previous(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whom this member voted for in the stored term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vote {
    /// No vote was given in this term.
    #[default]
    None,
    /// The vote went to this member.
    For(u64),
    /// Recovery raised the term from a record: a vote may have been given, so none is given again.
    Unknown,
}

/// One Raft log entry. Its bytes are opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the log.
    pub index: Index,
    /// Term of the leader that created it.
    pub term: Term,
    /// Kind, opaque to the log.
    pub kind: u8,
    /// Payload.
    pub data: Bytes,
}

/// "The log was durable up to `index`, whose entry had `term`, as seen in `epoch`."
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    /// Last durable index.
    pub index: Index,
    /// Term of the entry at `index`.
    pub term: Term,
    /// Epoch in which this was true.
    pub epoch: u64,
}

/// An epoch and the first index it governs: entries of older epochs are dead from `start` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochMark {
    /// Number of the epoch; higher is newer.
    pub epoch: u64,
    /// First index that belongs to it.
    pub start: Index,
}

/// A durable image of the state at one index, to be published in the superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Checkpoint id (K), from [`crate::Wal::reserve_checkpoint_ids`]; never used twice.
    pub id: u64,
    /// Every entry up to here is contained in the image.
    pub index: Index,
    /// Term of the entry at `index`.
    pub term: Term,
    /// The engine's section, opaque here; at most [`crate::superblock::SECTION_BYTES_MAX`] bytes.
    pub section: Vec<u8>,
}

/// A received state that may replace the log; the same fields as a [`Checkpoint`].
pub type Snapshot = Checkpoint;
