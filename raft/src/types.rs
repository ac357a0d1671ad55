//! The words of the crate: terms, positions in the log, members, and what one
//! entry looks like without its payload.

use std::fmt;

/// Election epoch. Zero is the epoch before the first election.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Term(pub u64);

impl Term {
    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0.saturating_add(1))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of an entry in the Raft log. The first entry is at 1; 0 is "before everything".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogIndex(pub u64);

impl LogIndex {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> LogIndex {
        LogIndex(self.0.saturating_add(1))
    }

    /// The position before this one; 0 stays 0.
    #[must_use]
    pub fn previous(self) -> LogIndex {
        LogIndex(self.0.saturating_sub(1))
    }
}

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of one server in the cluster. Zero is nobody and never a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// An entry named without doubt: two logs that hold the same position are equal up to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Position {
    /// Where.
    pub index: LogIndex,
    /// The term in which the entry was created.
    pub term: Term,
}

impl Position {
    /// True if a log that ends here is at least as complete as one that ends at `other`.
    ///
    /// Source: Raft paper §5.4.1 (the later last term wins, then the longer log).
    #[must_use]
    pub fn is_at_least(self, other: Position) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }
}

/// The vote of a member in its current term.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Vote {
    /// No vote was cast; one may be.
    #[default]
    None,
    /// Cast for this member.
    For(MemberId),
    /// A vote may have been cast and is not remembered: none may be cast in this term.
    ///
    /// This is how a member starts when its log holds entries of a newer term than its saved
    /// term and vote.
    Unknown,
}

/// What a member must remember about elections over a restart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HardState {
    /// The newest term seen.
    pub term: Term,
    /// The vote in that term.
    pub vote: Vote,
}

impl HardState {
    /// True if this saved state rules out everything that `needed` rules out.
    ///
    /// A later term covers any vote of an earlier one, because no vote can be cast in the past.
    #[must_use]
    pub fn covers(self, needed: HardState) -> bool {
        if self.term != needed.term {
            return self.term > needed.term;
        }
        self.vote == needed.vote || needed.vote == Vote::None
    }
}

/// What an entry carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// Nothing: the entry with which a leader opens its term. It has no payload.
    NoOp = 0,
    /// A batch of client requests; opaque here.
    Normal = 1,
    /// One membership change of one member (etcd's first form).
    ConfChange = 2,
    /// A membership change that may pass through a joint configuration; an empty payload leaves one.
    ConfChangeJoint = 3,
}

impl EntryKind {
    /// The kind stored as `byte`, if it is one.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<EntryKind> {
        match byte {
            0 => Some(EntryKind::NoOp),
            1 => Some(EntryKind::Normal),
            2 => Some(EntryKind::ConfChange),
            3 => Some(EntryKind::ConfChangeJoint),
            _ => None,
        }
    }

    /// The byte that stores this kind in the log.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        self as u8
    }

    /// True for the kinds that change the membership when applied.
    #[must_use]
    pub fn changes_membership(self) -> bool {
        matches!(self, EntryKind::ConfChange | EntryKind::ConfChangeJoint)
    }
}

/// All that consensus knows about an entry. The payload stays with the caller, keyed by `index`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EntryMeta {
    /// Position in the log.
    pub index: LogIndex,
    /// Term in which it was created.
    pub term: Term,
    /// What it carries.
    pub kind: EntryKind,
    /// Length of the payload.
    pub bytes: u64,
}

impl EntryMeta {
    /// Index and term.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            index: self.index,
            term: self.term,
        }
    }
}

/// What a member does in its term.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Takes entries from a leader.
    Follower,
    /// Asks whether it could win an election, without raising its term.
    PreCandidate,
    /// Asks for votes in its term.
    Candidate,
    /// Orders entries for the cluster.
    Leader,
    /// A follower without a voice in its own configuration.
    Learner,
}

/// What the caller found on its disk at start.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Newest term found: in the saved hard state or in any entry.
    pub term: Term,
    /// The vote in that term; `Unknown` if entries raised the term.
    pub vote: Vote,
    /// The position up to which the log is replaced by a checkpoint; the default if there is none.
    pub checkpoint: Position,
    /// The entries after the checkpoint, without gaps; all durable.
    pub entries: Vec<EntryMeta>,
    /// Highest index known to be committed; at least the checkpoint's.
    pub commit: LogIndex,
    /// Highest index the state machine contains; at least the checkpoint's.
    pub applied: LogIndex,
    /// The configuration as of `applied`.
    pub configuration: crate::membership::Configuration,
}
