//! What etcd 3.7 keeps in a database, and the snapshot file around it.
//!
//! ```text
//! State ── SnapshotPlan ── SnapshotWriter: push_version…, push_lease…, finish ──> take: database, then its sum
//! Snapshot::open ──> check_sum, status, state, leases, versions
//! ```
//!
//! | bucket | key | value |
//! |---|---|---|
//! | `alarm` | message `AlarmMember` | nothing |
//! | `auth` | `authEnabled`, `authRevision` | one byte, u64 |
//! | `authRoles`, `authUsers` | name | messages, passed on as they are |
//! | `cluster` | `clusterVersion`, `downgrade` | text, JSON |
//! | `key` | [`RevisionKey`] | [`KeyValue`] |
//! | `lease` | id, u64 | [`Lease`] |
//! | `members`, `members_removed` | id in hexadecimal digits | JSON, `removed` |
//! | `meta` | see [`State`] | |
//!
//! Numbers are big-endian.

mod message;
mod revision;
mod shown;
mod snapshot;
mod state;
mod status;
mod stream;

pub use message::{AlarmMember, KeyValue, Lease};
pub use revision::RevisionKey;
pub use shown::StatusFormat;
pub use snapshot::{Leases, SUM_BYTES, Snapshot, SumError, Versions};
pub use state::{ConfState, Downgrade, Member, State};
pub use status::Status;
pub use stream::{SnapshotPlan, SnapshotWriter};

/// The names of etcd's buckets, in their order.
mod name {
    pub(super) const ALARM: &[u8] = b"alarm";
    pub(super) const AUTH: &[u8] = b"auth";
    pub(super) const AUTH_ROLES: &[u8] = b"authRoles";
    pub(super) const AUTH_USERS: &[u8] = b"authUsers";
    pub(super) const CLUSTER: &[u8] = b"cluster";
    pub(super) const KEY: &[u8] = b"key";
    pub(super) const LEASE: &[u8] = b"lease";
    pub(super) const MEMBERS: &[u8] = b"members";
    pub(super) const MEMBERS_REMOVED: &[u8] = b"members_removed";
    pub(super) const META: &[u8] = b"meta";
    pub(super) const ALL: [&[u8]; 10] = [
        ALARM,
        AUTH,
        AUTH_ROLES,
        AUTH_USERS,
        CLUSTER,
        KEY,
        LEASE,
        MEMBERS,
        MEMBERS_REMOVED,
        META,
    ];
}
