//! What goes into the machine and what comes out of it.

use std::fmt;

use crate::membership::Configuration;
use crate::message::{Message, ReadTicket, SnapshotMeta};
use crate::types::{EntryMeta, LogIndex, MemberId, Position, Role, Term, Vote};

/// When the leader lets a membership change into the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConfChangeGate {
    /// Nothing earlier is unapplied and an entry of the own term is committed. The only rule
    /// for a real member.
    #[default]
    OwnTermCommitted,
    /// Nothing earlier is unapplied: etcd's rule, which its test files pin.
    EarlierApplied,
    /// Anything goes: etcd's `DisableConfChangeValidation`.
    Unchecked,
}

/// How a member behaves. Times are in the unit of `Input::Tick` (nanoseconds in the server).
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this member is.
    pub id: MemberId,
    /// How long without a leader before a campaign; the drawn timeout lies in `[1, 2)` of it.
    pub election_timeout_nanos: u64,
    /// How often a leader shows that it lives; below the election timeout.
    pub heartbeat_interval_nanos: u64,
    /// Seed of the timeouts; different on each member.
    pub seed: u64,
    /// Ask before raising the term.
    pub pre_vote: bool,
    /// A leader that hears from no quorum for an election timeout steps down, and followers of a
    /// live leader ignore candidates.
    pub check_quorum: bool,
    /// A sole voter campaigns when it is created, without waiting for a timeout.
    pub campaign_at_start: bool,
    /// A leader that is no longer a voter becomes a follower when it applies the change.
    pub step_down_on_removal: bool,
    /// When membership changes are let in.
    pub conf_change_gate: ConfChangeGate,
    /// Bound of the payload bytes that are proposed and not committed.
    pub uncommitted_bytes_max: u64,
    /// Bound of the payload bytes in one append; one entry always fits.
    pub message_bytes_max: u64,
    /// Bound of the unanswered appends with entries per follower.
    pub in_flight_messages_max: usize,
    /// Bound of their payload bytes per follower.
    pub in_flight_bytes_max: u64,
    /// A checkpoint of a newer term than the saved one raises the term, as entries do. Off only
    /// under etcd's test files, whose members start in term 0 with a snapshot of term 1.
    pub checkpoint_raises_term: bool,
    /// Record transitions (`Raft::drain_traces`).
    pub trace: bool,
}

impl Config {
    /// The settings of a real member.
    #[must_use]
    pub fn new(id: MemberId, seed: u64) -> Config {
        Config {
            id,
            election_timeout_nanos: 1_000_000_000,
            heartbeat_interval_nanos: 100_000_000,
            seed,
            pre_vote: true,
            check_quorum: true,
            campaign_at_start: true,
            step_down_on_removal: true,
            conf_change_gate: ConfChangeGate::OwnTermCommitted,
            uncommitted_bytes_max: 64 << 20,
            message_bytes_max: 1 << 20,
            in_flight_messages_max: 64,
            in_flight_bytes_max: 16 << 20,
            checkpoint_raises_term: true,
            trace: false,
        }
    }
}

/// How a snapshot transfer ended, as its sender saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotOutcome {
    /// The follower has it.
    Delivered,
    /// It has to be sent again.
    Failed,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Time passed. `now_nanos` never goes back.
    Tick {
        /// Monotonic time.
        now_nanos: u64,
    },
    /// A message arrived.
    Message {
        /// The message.
        message: Message,
        /// The entries of an `Append`; empty for everything else.
        entries: &'a [EntryMeta],
    },
    /// The log is durable up to the entry `(index, term)`, without gaps.
    ///
    /// The report must describe the log as of all `Append` actions drained so far: after a
    /// truncating append, completions of the old suffix are stale and must not be reported.
    Durable {
        /// Last durable entry.
        index: LogIndex,
        /// Its term; a report whose term does not match the log is ignored.
        term: Term,
    },
    /// A `SaveHardState` reached the disk.
    HardStateDurable {
        /// As saved.
        term: Term,
        /// As saved.
        vote: Vote,
    },
    /// The state machine contains everything up to `index`.
    Applied {
        /// Last applied entry; at most the last `Commit`.
        index: LogIndex,
    },
    /// The snapshot of an `InstallSnapshot` is durable and the state machine stands on it.
    SnapshotInstalled {
        /// Its position.
        position: Position,
    },
    /// A durable checkpoint covers the log up to `index`: its entries may be forgotten.
    Compact {
        /// At most the applied index.
        index: LogIndex,
    },
    /// Campaign now.
    Campaign,
    /// Treat the current leader as gone without changing term or timer.
    ForgetLeader,
    /// Hand the leadership to `target`.
    TransferLeader {
        /// A voter.
        target: MemberId,
    },
    /// A message to `member` could not be delivered.
    Unreachable {
        /// The receiver.
        member: MemberId,
    },
    /// A snapshot transfer ended.
    SnapshotReport {
        /// The receiver.
        member: MemberId,
        /// How.
        outcome: SnapshotOutcome,
    },
}

/// One thing to do. Do them in order; nothing has to be awaited before the next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Write term and vote, then report `HardStateDurable`.
    SaveHardState {
        /// Newest term.
        term: Term,
        /// Vote in it.
        vote: Vote,
    },
    /// Write the entries `first..=last` (`Raft::entries`), then report `Durable`. What the log
    /// held at `first` and after it is void.
    ///
    /// Entries the caller did not propose have no payload: no-ops and automatic leaves.
    Append {
        /// First entry to write.
        first: LogIndex,
        /// Last entry to write.
        last: LogIndex,
        /// True if entries at or after `first` were written before.
        truncates: bool,
    },
    /// Send a message. For an `Append` the entries are `Raft::entries` after its `previous`,
    /// read before the next input.
    Send(Message),
    /// Everything up to `index` is committed and durable here: apply it.
    Commit {
        /// Last entry to apply.
        index: LogIndex,
    },
    /// Role, term or known leader changed.
    RoleChanged {
        /// New role.
        role: Role,
        /// Current term.
        term: Term,
        /// Who leads, if known.
        leader: Option<MemberId>,
    },
    /// Reads up to `ticket` may be served once `index` is applied.
    ReadReady {
        /// The newest of them.
        ticket: ReadTicket,
        /// What they wait for.
        index: LogIndex,
    },
    /// Pending reads up to `ticket` will not be answered: ask again.
    ReadsAborted {
        /// The newest of them.
        ticket: ReadTicket,
    },
    /// Replace log and state by the snapshot that came with the message, then report
    /// `SnapshotInstalled`.
    InstallSnapshot(Box<SnapshotMeta>),
}

/// Where a proposal went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryId {
    /// Position in the log.
    pub index: LogIndex,
    /// Term of the leader that took it.
    pub term: Term,
}

/// Why a proposal was not taken. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProposeError {
    /// Ask the leader, if one is known.
    NotLeader {
        /// Who leads.
        leader: Option<MemberId>,
    },
    /// This leader is no longer a member: wait for the next one.
    Removed,
    /// The leadership is being handed over: ask again.
    TransferInProgress {
        /// The successor.
        target: MemberId,
    },
    /// Too much is waiting to be committed: ask again later.
    TooManyUncommitted {
        /// Bytes waiting.
        uncommitted_bytes: u64,
        /// The bound.
        uncommitted_bytes_max: u64,
    },
    /// An earlier change, or the opening entry of the term, is not applied yet: ask again.
    ConfChangePending {
        /// What has to be applied first.
        pending: LogIndex,
        /// What is applied.
        applied: LogIndex,
    },
    /// No entry of the own term is committed yet: ask again.
    TermNotCommitted {
        /// The own term.
        term: Term,
    },
    /// The joint configuration has to be left first.
    JointNotLeft,
    /// There is no joint configuration to leave.
    NotJoint,
    /// Membership changes go through `propose_conf_change`, no-ops are the leader's own.
    KindReserved,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProposeError::NotLeader { leader: Some(id) } => {
                write!(f, "not the leader; member {id} leads")
            }
            ProposeError::NotLeader { leader: None } => write!(f, "no leader is known"),
            ProposeError::Removed => write!(f, "this leader is no longer a member"),
            ProposeError::TransferInProgress { target } => {
                write!(f, "leadership is being handed to member {target}")
            }
            ProposeError::TooManyUncommitted {
                uncommitted_bytes,
                uncommitted_bytes_max,
            } => write!(
                f,
                "{uncommitted_bytes} bytes wait to be committed (at most {uncommitted_bytes_max})"
            ),
            ProposeError::ConfChangePending { pending, applied } => write!(
                f,
                "possible unapplied conf change at index {pending} (applied to {applied})"
            ),
            ProposeError::TermNotCommitted { term } => {
                write!(f, "no entry of term {term} is committed yet")
            }
            ProposeError::JointNotLeft => write!(f, "must transition out of joint config first"),
            ProposeError::NotJoint => {
                write!(f, "not in joint state; refusing empty conf change")
            }
            ProposeError::KindReserved => write!(f, "this entry kind cannot be proposed"),
        }
    }
}

impl std::error::Error for ProposeError {}

/// Why an input was refused. The machine is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepError {
    /// The message is for another member.
    Misdelivered {
        /// Whom it names.
        to: MemberId,
    },
    /// This core does not take such messages.
    Unsupported {
        /// Name of the message.
        name: &'static str,
    },
    /// The entries do not follow `previous` without gaps, or their number is wrong.
    MalformedAppend {
        /// Index after which they should stand.
        previous: LogIndex,
        /// Number announced.
        count: u64,
        /// Number received.
        received: u64,
    },
    /// A reply from somebody who is no member here.
    UnknownSender {
        /// Who.
        from: MemberId,
    },
    /// Term zero, or a sender that cannot be.
    MalformedMessage {
        /// Name of the message.
        name: &'static str,
    },
    /// The sender wants to replace a committed entry: one of the two logs is damaged.
    ConflictsWithCommitted {
        /// Where.
        index: LogIndex,
        /// What is committed here.
        commit: LogIndex,
    },
    /// A commit index beyond the end of the log: entries that were acknowledged are missing.
    CommitBeyondLog {
        /// What the leader says.
        commit: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// A term was reported durable that was never handed out for saving.
    NeverSaved {
        /// As reported.
        term: Term,
        /// As handed out last.
        saved: Term,
    },
    /// The state machine or log reported something that cannot be.
    OutOfRange {
        /// Which report.
        name: &'static str,
        /// What it said.
        index: LogIndex,
        /// The highest value possible.
        max: LogIndex,
    },
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepError::Misdelivered { to } => write!(f, "message for member {to}"),
            StepError::Unsupported { name } => write!(f, "{name} is not taken by this core"),
            StepError::MalformedAppend {
                previous,
                count,
                received,
            } => write!(
                f,
                "append after {previous} announced {count} entries and brought {received}, or they do not fit"
            ),
            StepError::UnknownSender { from } => {
                write!(f, "reply from {from}, who is no member here")
            }
            StepError::MalformedMessage { name } => write!(f, "{name} with impossible fields"),
            StepError::ConflictsWithCommitted { index, commit } => write!(
                f,
                "append conflicts at {index} although {commit} is committed; stop this member and compare the logs"
            ),
            StepError::CommitBeyondLog { commit, last } => write!(
                f,
                "leader says {commit} is committed but this log ends at {last}; acknowledged entries are missing"
            ),
            StepError::NeverSaved { term, saved } => {
                write!(
                    f,
                    "term {term} reported durable, but only {saved} was to be saved"
                )
            }
            StepError::OutOfRange { name, index, max } => {
                write!(f, "{name} reported {index}, beyond {max}")
            }
        }
    }
}

impl std::error::Error for StepError {}

/// Why a read index was not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// No leader is known: ask again.
    NoLeader,
}

/// Answer to a wish for a read index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadStart {
    /// Serve the read once this index is applied.
    Ready(LogIndex),
    /// Wait for `ReadReady` or `ReadsAborted` with this ticket or a later one.
    Pending(ReadTicket),
}

/// The state of the machine at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// This member.
    pub id: MemberId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Its vote in the term.
    pub vote: Vote,
    /// Who leads, if known.
    pub leader: Option<MemberId>,
    /// Last entry.
    pub last: Position,
    /// First entry still in the log.
    pub first_index: LogIndex,
    /// Committed on a quorum.
    pub commit: LogIndex,
    /// In the state machine.
    pub applied: LogIndex,
    /// End of the durable prefix.
    pub durable: LogIndex,
    /// The members.
    pub configuration: Configuration,
    /// Payload bytes proposed and not committed.
    pub uncommitted_bytes: u64,
    /// To whom the leadership is being handed.
    pub transfer: Option<MemberId>,
}
