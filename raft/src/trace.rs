//! What the machine did and why, one event per transition, recorded only if asked for.
//!
//! The events carry the state a trace checker needs. Texts are made elsewhere.

use crate::interface::ProposeError;
use crate::membership::Configuration;
use crate::message::Message;
use crate::progress::Progress;
use crate::types::{LogIndex, MemberId, Position, Role, Term, Vote};

/// One transition or refusal.
#[derive(Clone, Debug)]
pub enum Trace {
    /// A configuration came into force.
    ConfigurationSwitched(Configuration),
    /// A new role, or the same one again in this term.
    Became {
        /// The role.
        role: Role,
        /// The term.
        term: Term,
    },
    /// An election begins.
    ElectionStarted {
        /// Term before it.
        term: Term,
    },
    /// A campaign was refused: this member has no vote here, or waits for a snapshot.
    Unpromotable,
    /// A campaign was refused: a committed membership change is not applied.
    CampaignBlocked {
        /// The term.
        term: Term,
    },
    /// A vote was asked for.
    VoteRequested {
        /// `MsgVote` or `MsgPreVote`.
        name: &'static str,
        /// From whom.
        to: MemberId,
        /// Own term.
        term: Term,
        /// Own last entry.
        last: Position,
    },
    /// A message raised the term.
    HigherTermSeen {
        /// Own term before.
        own: Term,
        /// The message.
        name: &'static str,
        /// Its sender.
        from: MemberId,
        /// Its term.
        term: Term,
    },
    /// A message of the past was ignored.
    LowerTermIgnored {
        /// Own term.
        own: Term,
        /// The message.
        name: &'static str,
        /// Its sender.
        from: MemberId,
        /// Its term.
        term: Term,
    },
    /// A vote request was ignored because a leader lives.
    LeaderProtected {
        /// The request.
        request: VoteRequest,
        /// Time until that protection ends.
        remaining_nanos: u64,
    },
    /// A vote was cast, or would be.
    VoteCast(VoteRequest),
    /// A vote was refused.
    VoteRefused(VoteRequest),
    /// An answer to the own request arrived.
    VoteReceived {
        /// `MsgVoteResp` or `MsgPreVoteResp`.
        name: &'static str,
        /// From whom; the own id for the own vote.
        from: MemberId,
        /// What it says.
        granted: bool,
        /// Own term.
        term: Term,
    },
    /// The count after an answer.
    VotesCounted {
        /// `MsgVoteResp` or `MsgPreVoteResp`.
        name: &'static str,
        /// Votes for this member.
        granted: usize,
        /// Votes against.
        refused: usize,
    },
    /// A reply waits until what it promises is durable.
    ReplyHeld(Box<Message>),
    /// A leader lost its quorum.
    QuorumLost,
    /// A leader's own disk made no progress for an election timeout.
    DiskStalled {
        /// End of the durable prefix.
        durable: LogIndex,
        /// End of the log.
        last: LogIndex,
    },
    /// The leader is treated as gone.
    LeaderForgotten {
        /// It.
        leader: MemberId,
        /// The term.
        term: Term,
    },
    /// An append did not fit.
    AppendRefused {
        /// Own term at its `previous`; 0 if unknown.
        own: Term,
        /// Its `previous`.
        previous: Position,
        /// Its sender.
        from: MemberId,
    },
    /// An append replaces entries.
    ConflictFound {
        /// First replaced entry.
        existing: Position,
        /// Term of the replacement.
        term: Term,
    },
    /// A follower refused an append.
    RejectionReceived {
        /// The follower.
        from: MemberId,
        /// The `previous` it refused.
        rejected: LogIndex,
        /// Its hint.
        hint: Position,
    },
    /// Its progress was set back.
    ProgressDecreased {
        /// The follower.
        member: MemberId,
        /// New progress.
        progress: Box<Progress>,
    },
    /// A snapshot is sent instead of entries.
    SnapshotSent {
        /// The follower.
        member: MemberId,
        /// First entry of the own log.
        first_index: LogIndex,
        /// Own commit index.
        commit: LogIndex,
        /// The snapshot.
        position: Position,
        /// Progress before.
        before: Box<Progress>,
        /// Progress after.
        after: Box<Progress>,
    },
    /// A snapshot would be needed, but the follower has not been heard of.
    SnapshotWithheld {
        /// The follower.
        member: MemberId,
    },
    /// A follower no longer needs its snapshot.
    SnapshotRecovered {
        /// The follower.
        member: MemberId,
        /// Its progress before.
        progress: Box<Progress>,
    },
    /// The transfer of a snapshot ended.
    SnapshotReported {
        /// The follower.
        member: MemberId,
        /// Whether it arrived.
        delivered: bool,
        /// Progress after.
        progress: Box<Progress>,
    },
    /// A follower could not be reached.
    Unreachable {
        /// The follower.
        member: MemberId,
        /// Progress after.
        progress: Box<Progress>,
    },
    /// A snapshot replaces the log.
    SnapshotRestoring {
        /// Commit index before.
        commit: LogIndex,
        /// Applied index before.
        applied: LogIndex,
        /// Durable index before.
        durable: LogIndex,
        /// Entries before that were not durable.
        undurable_count: u64,
        /// The snapshot.
        position: Position,
    },
    /// It did.
    SnapshotRestored {
        /// Commit index after.
        commit: LogIndex,
        /// Last entry after.
        last: Position,
        /// The snapshot.
        position: Position,
    },
    /// The log already held the snapshot's last entry.
    SnapshotMatched {
        /// Commit index before.
        commit: LogIndex,
        /// Last entry.
        last: Position,
        /// The snapshot.
        position: Position,
    },
    /// A snapshot changed nothing.
    SnapshotIgnored {
        /// Commit index.
        commit: LogIndex,
        /// The snapshot.
        position: Position,
    },
    /// The leader leaves a joint configuration.
    AutoLeave(Configuration),
    /// A membership change was refused.
    ConfChangeRefused {
        /// The configuration in force.
        configuration: Configuration,
        /// Why.
        error: ProposeError,
    },
}

/// A request for a vote and the state it was judged against.
#[derive(Clone, Copy, Debug)]
pub struct VoteRequest {
    /// `MsgVote` or `MsgPreVote`.
    pub name: &'static str,
    /// Who asks.
    pub from: MemberId,
    /// Its last entry.
    pub theirs: Position,
    /// The own last entry.
    pub own: Position,
    /// The own vote before.
    pub vote: Vote,
    /// The own term.
    pub term: Term,
}
