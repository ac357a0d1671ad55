//! What members say to each other: etcd's message set with typed fields.
//!
//! Entries travel as metadata beside the message (`Input::Message`) and their payloads outside
//! this crate, so a message is small and copying it costs nothing.

use crate::membership::Configuration;
use crate::types::{LogIndex, MemberId, Position, Term};

/// One message between two members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Sender.
    pub from: MemberId,
    /// Receiver.
    pub to: MemberId,
    /// Term of the sender; a pre-vote and its grant carry the term that is asked about.
    pub term: Term,
    /// What it says.
    pub body: MessageBody,
}

/// Why a candidate asks for votes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CampaignCause {
    /// It heard from no leader for an election timeout.
    Timeout,
    /// The leader handed over: voters must not protect that leader.
    Transfer,
}

/// Number of a round of heartbeats; proof of leadership for the reads that wait for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ReadRound(pub u64);

/// Number of a read on the member that asked for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ReadTicket(pub u64);

/// Where a snapshot stands and who the members are at that point. Its data travels outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotMeta {
    /// The last entry that is part of it.
    pub position: Position,
    /// The configuration after that entry.
    pub configuration: Configuration,
}

/// The message set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MessageBody {
    /// A proposal on its way to the leader. Refused by this core: the server sends requests to
    /// the leader's sequencer, where they are batched.
    Propose,
    /// The `count` entries after `previous`; none carries a commit index or probes.
    Append {
        /// The entry before the first one sent.
        previous: Position,
        /// How many entries come along.
        count: u64,
        /// The leader's commit index.
        commit: LogIndex,
    },
    /// The log agrees with the leader's and is durable up to `matched`.
    AppendAccepted {
        /// Last durable entry in agreement.
        matched: LogIndex,
    },
    /// The entry before the append does not exist here, or has another term.
    AppendRejected {
        /// Index of the `previous` that was refused.
        rejected: LogIndex,
        /// Where the logs may agree; its term is 0 if unknown.
        hint: Position,
    },
    /// Asks for a vote in `term`.
    Vote {
        /// Last entry of the candidate.
        last: Position,
        /// Why it campaigns.
        cause: CampaignCause,
    },
    /// Answer to `Vote`.
    VoteReply {
        /// True if the vote was cast.
        granted: bool,
    },
    /// Asks whether a vote in `term` would be cast.
    PreVote {
        /// Last entry of the asker.
        last: Position,
        /// Why it wants to campaign.
        cause: CampaignCause,
    },
    /// Answer to `PreVote`.
    PreVoteReply {
        /// True if the vote would be cast.
        granted: bool,
    },
    /// A snapshot for a follower that needs entries the leader no longer has.
    Snapshot(Box<SnapshotMeta>),
    /// The leader lives.
    Heartbeat {
        /// Commit index, as far as the receiver is known to hold the log.
        commit: LogIndex,
        /// The round of reads it may confirm.
        round: ReadRound,
    },
    /// Answer to `Heartbeat`.
    HeartbeatReply {
        /// The round of the heartbeat.
        round: ReadRound,
    },
    /// A follower asks for a read index.
    ReadIndex {
        /// The follower's number for it.
        ticket: ReadTicket,
    },
    /// Answer to `ReadIndex`.
    ReadIndexReply {
        /// The follower's number.
        ticket: ReadTicket,
        /// What the read must wait to be applied.
        index: LogIndex,
    },
    /// A follower asks the leader to hand over to `to`.
    TransferLeader {
        /// The wanted leader.
        target: MemberId,
    },
    /// The leader tells its successor to campaign at once.
    TimeoutNow,
}

impl MessageBody {
    /// The name under which traces and refusals mention it (etcd's).
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            MessageBody::Propose => "MsgProp",
            MessageBody::Append { .. } => "MsgApp",
            MessageBody::AppendAccepted { .. } | MessageBody::AppendRejected { .. } => "MsgAppResp",
            MessageBody::Vote { .. } => "MsgVote",
            MessageBody::VoteReply { .. } => "MsgVoteResp",
            MessageBody::PreVote { .. } => "MsgPreVote",
            MessageBody::PreVoteReply { .. } => "MsgPreVoteResp",
            MessageBody::Snapshot(_) => "MsgSnap",
            MessageBody::Heartbeat { .. } => "MsgHeartbeat",
            MessageBody::HeartbeatReply { .. } => "MsgHeartbeatResp",
            MessageBody::ReadIndex { .. } => "MsgReadIndex",
            MessageBody::ReadIndexReply { .. } => "MsgReadIndexResp",
            MessageBody::TransferLeader { .. } => "MsgTransferLeader",
            MessageBody::TimeoutNow => "MsgTimeoutNow",
        }
    }

    /// True for what only a member that was asked sends.
    #[must_use]
    pub(crate) fn is_reply(&self) -> bool {
        matches!(
            self,
            MessageBody::AppendAccepted { .. }
                | MessageBody::AppendRejected { .. }
                | MessageBody::VoteReply { .. }
                | MessageBody::PreVoteReply { .. }
                | MessageBody::HeartbeatReply { .. }
        )
    }

    /// True for what only a leader of the message's term sends.
    #[must_use]
    pub(crate) fn proves_leader(&self) -> bool {
        matches!(
            self,
            MessageBody::Append { .. } | MessageBody::Heartbeat { .. } | MessageBody::Snapshot(_)
        )
    }
}
