//! What clients ask for, decoded and checked: the vocabulary between the edge and the engine.
//!
//! The edge parses bytes into these types once ([`crate::auth::authorize`] then turns an
//! [`Operation`] into an `Authorized<Operation>`, the only thing the executor takes); inside nothing
//! re-validates. Keys are 1..=`KEY_BYTES_MAX` bytes. Revisions are `i64` as on etcd's wire; a
//! request revision `0` means "current".

use bytes::Bytes;

use crate::key::KeyRange;

/// Longest key that is stored, in bytes. Longer keys are refused at the edge.
pub const KEY_BYTES_MAX: usize = 2048;

/// Identity of a lease. Chosen by the proposer, never 0 for an existing lease; 0 means "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// The absent lease.
    pub const NONE: LeaseId = LeaseId(0);
}

/// Stores `value` under `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Key, not empty.
    pub key: Bytes,
    /// New value; empty and unused with `ignore_value`.
    pub value: Bytes,
    /// Lease to attach; `LeaseId::NONE` detaches.
    pub lease: LeaseId,
    /// Answer with the previous key-value.
    pub prev_kv: bool,
    /// Keep the current value; an error if the key is absent.
    pub ignore_value: bool,
    /// Keep the current lease; an error if the key is absent.
    pub ignore_lease: bool,
}

/// Deletes every key of `range`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRange {
    /// Keys to delete.
    pub range: KeyRange,
    /// Answer with the deleted key-values.
    pub prev_kv: bool,
}

/// Order of a range answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// Key order; with a target other than the key: ascending, but the limit was applied before.
    #[default]
    None,
    /// Ascending.
    Ascend,
    /// Descending.
    Descend,
}

/// What a range answer is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// The version.
    Version,
    /// The create revision.
    Create,
    /// The mod revision.
    Mod,
    /// The value's bytes.
    Value,
}

/// Reads the keys of `range` at `revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Keys to read.
    pub range: KeyRange,
    /// Most key-values to answer; 0 is no limit. Negative values behave as 0.
    pub limit: i64,
    /// Revision to read at; ≤ 0 is the current one.
    pub revision: i64,
    /// Order of the answer.
    pub sort_order: SortOrder,
    /// What to order by.
    pub sort_target: SortTarget,
    /// Served locally without confirming leadership.
    pub serializable: bool,
    /// Drop values.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Inclusive lower bound of the mod revision; 0 is off.
    pub min_mod_revision: i64,
    /// Inclusive upper bound of the mod revision; 0 is off.
    pub max_mod_revision: i64,
    /// Inclusive lower bound of the create revision; 0 is off.
    pub min_create_revision: i64,
    /// Inclusive upper bound of the create revision; 0 is off.
    pub max_create_revision: i64,
}

impl Range {
    /// All of `range` at the current revision, every option at its default.
    pub fn all(range: KeyRange) -> Self {
        Range {
            range,
            limit: 0,
            revision: 0,
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            serializable: false,
            keys_only: false,
            count_only: false,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }
}

/// Relation of a compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Stored = given.
    Equal,
    /// Stored > given.
    Greater,
    /// Stored < given.
    Less,
    /// Stored ≠ given.
    NotEqual,
}

/// What a compare looks at, with the value it compares to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// Version of the key; 0 for an absent key.
    Version(i64),
    /// Create revision; 0 for an absent key.
    Create(i64),
    /// Mod revision; 0 for an absent key.
    Mod(i64),
    /// Value; an absent key never matches.
    Value(Bytes),
    /// Lease; 0 for an absent key.
    Lease(i64),
}

/// One guard of a transaction. Over a range every key must match; an empty range compares as one
/// absent key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Keys to look at.
    pub range: KeyRange,
    /// Required relation of the stored side to the given one.
    pub relation: Relation,
    /// What is compared, and with what.
    pub target: CompareTarget,
}

/// One operation inside a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOperation {
    /// A read; sees earlier writes of the same transaction.
    Range(Range),
    /// A put.
    Put(Put),
    /// A range delete.
    DeleteRange(DeleteRange),
    /// A nested transaction; its guards are evaluated before any write of the outermost one.
    Txn(Txn),
}

/// Guards, and what to do when all hold or one does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// Guards, all evaluated on the state before the outermost transaction.
    pub compare: Vec<Compare>,
    /// Run when every guard holds.
    pub success: Vec<TxnOperation>,
    /// Run otherwise.
    pub failure: Vec<TxnOperation>,
}

/// Kind of alarm; the discriminants are etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum AlarmKind {
    /// The quota or the disk is exhausted.
    NoSpace = 1,
    /// Replicas differ.
    Corrupt = 2,
}

/// A member's published attributes (not its raft role).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAttributes {
    /// Member id.
    pub member: u64,
    /// Human name.
    pub name: String,
    /// URLs announced to clients.
    pub client_urls: Vec<String>,
}

/// A command that changes replicated state: what a log entry carries.
///
/// Everything that is not deterministic (lease ids, times) was chosen by the proposer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Store a key.
    Put(Put),
    /// Delete a range.
    DeleteRange(DeleteRange),
    /// Guarded group; read-only transactions do not come this way unless they nest.
    Txn(Txn),
    /// Refuse reads below `revision` from here on; superseded versions may be dropped.
    Compact {
        /// New compact revision.
        revision: i64,
    },
    /// Create a lease of `ttl` seconds (already raised to the minimum by the proposer).
    LeaseGrant {
        /// Chosen id.
        id: LeaseId,
        /// Time to live, seconds.
        ttl: i64,
    },
    /// Delete a lease and its keys; the keys of one lease share one revision.
    LeaseRevoke {
        /// Lease to revoke.
        id: LeaseId,
    },
    /// Leases found expired by the leader, at most `LEASES_PER_EXPIRE_MAX`; each takes its own
    /// revision if it has keys; unknown ids are passed over.
    LeaseExpire {
        /// Expired leases.
        ids: Vec<LeaseId>,
    },
    /// Raise or clear an alarm of a member.
    Alarm {
        /// `true` raises.
        activate: bool,
        /// Member concerned.
        member: u64,
        /// Kind; `None` with `activate == false` clears every kind of the member.
        alarm: Option<AlarmKind>,
    },
    /// Publish a member's attributes.
    MemberAttributes(MemberAttributes),
    /// Set the cluster version, e.g. `3.7.0`.
    ClusterVersion(String),
}

/// Most leases in one [`Command::LeaseExpire`].
pub const LEASES_PER_EXPIRE_MAX: usize = 512;

/// What a client asks for, as the edge hands it to the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Goes through the log.
    Write(Command),
    /// A read.
    Range(Range),
    /// A transaction without writes: runs as a read. `serializable` only if all its ranges are.
    ReadTxn(Txn),
}

/// A stored key-value at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// Key.
    pub key: Bytes,
    /// Value; empty in keys-only answers and tombstones.
    pub value: Bytes,
    /// Revision of the key's creation.
    pub create_revision: i64,
    /// Revision of its last change.
    pub mod_revision: i64,
    /// Changes since creation, 1 at creation.
    pub version: i64,
    /// Attached lease.
    pub lease: LeaseId,
}

/// Answer to a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// Key-values in the asked order.
    pub kvs: Vec<KeyValue>,
    /// More keys than the limit were there.
    pub more: bool,
    /// Keys in the whole range at that revision, whatever the limit and the filters.
    pub count: i64,
}

/// Answer to a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnReply {
    /// All guards held.
    pub succeeded: bool,
    /// One answer per operation of the branch that ran.
    pub responses: Vec<Reply>,
}

/// Answer to an operation, without the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a put.
    Put {
        /// Previous key-value, if asked for and there.
        prev_kv: Option<KeyValue>,
    },
    /// To a range delete.
    DeleteRange {
        /// Keys deleted.
        deleted: i64,
        /// Deleted key-values in key order, if asked for.
        prev_kvs: Vec<KeyValue>,
    },
    /// To a range.
    Range(RangeReply),
    /// To a transaction.
    Txn(TxnReply),
    /// To a compaction.
    Compact,
    /// To a lease grant.
    LeaseGrant {
        /// Lease granted.
        id: LeaseId,
        /// Its time to live, seconds.
        ttl: i64,
    },
    /// To a lease revoke.
    LeaseRevoke,
    /// To an expiry, an attribute or a version change.
    Done,
    /// To an alarm change: the alarms that were changed.
    Alarm {
        /// (member, kind) pairs.
        alarms: Vec<(u64, AlarmKind)>,
    },
}

/// An error that depends only on the command and the replicated state: it is an answer.
///
/// The texts and codes on the wire are in `grpc::status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// Revision below the compact revision.
    Compacted,
    /// Revision above the current one.
    FutureRevision,
    /// `ignore_value`/`ignore_lease` on an absent key, or an empty txn operation.
    KeyNotFound,
    /// Lease to attach, revoke or use does not exist.
    LeaseNotFound,
    /// Lease id in use.
    LeaseExists,
    /// NOSPACE alarm is raised.
    NoSpace,
    /// CORRUPT alarm is raised.
    Corrupt,
}
