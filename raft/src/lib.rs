//! Consensus as a pure state machine: Raft with asynchronous storage as its only mode.
//!
//! ```text
//!   Input: tick, message, durable, applied ─▶ Raft ─▶ Action: save, append, send, commit
//!                                  propose ─▶      ─▶ EntryId
//! ```
//!
//! Owns terms, votes, roles, the log's metadata, the membership and what a leader knows of its
//! followers. It refuses to know payloads (they stay with the caller, keyed by index), clocks,
//! disks, sockets and randomness (times and a seed are given).
//!
//! The two orders everything rests on:
//! - term and vote are durable before a vote reply leaves, before the own vote counts, and before
//!   an entry is acknowledged in that term;
//! - an entry is durable before it is acknowledged, on the leader before it counts itself.
//!
//! `docs/internals/consensus.md` says where each rule comes from.

#![forbid(unsafe_code)]

mod election;
mod interface;
mod log;
mod membership;
mod message;
mod node;
mod progress;
mod quorum;
mod random;
mod read_index;
mod replication;
#[cfg(test)]
mod simulation;
mod trace;
mod types;

pub use interface::{
    Action, ConfChangeGate, Config, EntryId, Input, ProposeError, ReadError, ReadStart,
    SnapshotOutcome, Status, StepError,
};
pub use log::{Log, NotALog};
pub use membership::{
    CHANGES_MAX, Change, ChangeError, ChangeKind, ConfChange, ConfChangeCorrupt, Configuration,
    Membership, Transition,
};
pub use message::{CampaignCause, Message, MessageBody, ReadRound, ReadTicket, SnapshotMeta};
pub use node::Raft;
pub use progress::{Progress, ProgressState, ProgressTable};
pub use quorum::{Joint, Majority, VoteResult};
pub use trace::{Trace, VoteRequest};
pub use types::{
    EntryKind, EntryMeta, HardState, LogIndex, MemberId, Position, Restored, Role, Term, Vote,
};
