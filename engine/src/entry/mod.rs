//! What one log entry holds: a batch of client requests in a layout of our own.
//!
//! Owns the bytes (see `docs/internals/entry.md`); knows nothing of the log that carries them and
//! nothing of what a request does. [`EntryBuilder`] appends requests straight into one buffer,
//! [`EntryReader`] hands them out as slices of it.
//!
//! Everything that is not deterministic (lease ids, times) was chosen before encoding, so that
//! equal entries have equal effects everywhere. A member that meets a version or a kind that it
//! does not know stops: guessing would make replicas differ.

mod decode;
mod encode;

use bytes::Bytes;
use thiserror::Error;

use crate::command::Command;

pub use decode::EntryReader;
pub use encode::EntryBuilder;

/// Layout version that is written.
pub const ENTRY_VERSION: u16 = 1;

/// Bytes before the first request: version, reserved, count.
pub const ENTRY_HEADER_BYTES: usize = 8;

/// Fixed bytes of one request before its user and body.
pub const REQUEST_HEADER_BYTES: usize = 32;

/// Deepest nesting of transactions, the outermost being 1. The edge refuses deeper ones.
pub const TXN_DEPTH_MAX: usize = 128;

/// Who asked, and how to find the caller again: the part of a request beside its command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// The proposer's number for the request; comes back in its outcome.
    pub request_id: u64,
    /// Member that proposed it.
    pub origin_member: u64,
}

/// One decoded request of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRequest {
    /// Place in the entry, from 0.
    pub position: u32,
    /// Who asked.
    pub head: RequestHead,
    /// Name of the authenticated user; empty without authentication.
    pub user: Bytes,
    /// Revision of the auth store under which the request was authorised; 0 without one.
    pub auth_revision: u64,
    /// What to do.
    pub command: Command,
}

/// Why an entry cannot be read. The member stops: the entry is committed, so it must be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    /// A layout that this build does not know.
    #[error(
        "entry version {version} is unknown to this build, which reads up to {ENTRY_VERSION}; run a newer ringd"
    )]
    UnknownVersion {
        /// Version found.
        version: u16,
    },
    /// A request that this build does not know.
    #[error("request {position} has the unknown kind {kind}; run a newer ringd")]
    UnknownKind {
        /// Place of the request in the entry.
        position: u32,
        /// Kind found.
        kind: u8,
    },
    /// The entry ends inside something.
    #[error("request {position} ends at byte {offset} inside its {what}")]
    Truncated {
        /// Place of the request in the entry.
        position: u32,
        /// Byte of the entry.
        offset: usize,
        /// What was being read.
        what: &'static str,
    },
    /// A field has a value that is never written.
    #[error("request {position} has an invalid {what} ({value}) at byte {offset}")]
    Invalid {
        /// Place of the request in the entry.
        position: u32,
        /// Byte of the entry, behind the field.
        offset: usize,
        /// Which field.
        what: &'static str,
        /// What stands there.
        value: u64,
    },
    /// Bytes behind the last request, or behind the body of one.
    #[error("{count} bytes too many at byte {offset}, behind request {position}")]
    Trailing {
        /// Place of the request in the entry.
        position: u32,
        /// Byte of the entry.
        offset: usize,
        /// How many.
        count: usize,
    },
}

/// Numbers that name things in the bytes. Never reused, never renumbered.
mod code {
    pub(super) const PUT: u8 = 1;
    pub(super) const DELETE_RANGE: u8 = 2;
    pub(super) const TXN: u8 = 3;
    pub(super) const COMPACT: u8 = 4;
    pub(super) const LEASE_GRANT: u8 = 5;
    pub(super) const LEASE_REVOKE: u8 = 6;
    pub(super) const LEASE_EXPIRE: u8 = 7;
    pub(super) const ALARM: u8 = 8;
    pub(super) const MEMBER_ATTRIBUTES: u8 = 9;
    pub(super) const CLUSTER_VERSION: u8 = 10;

    pub(super) const OPERATION_RANGE: u8 = 1;
    pub(super) const OPERATION_PUT: u8 = 2;
    pub(super) const OPERATION_DELETE_RANGE: u8 = 3;
    pub(super) const OPERATION_TXN: u8 = 4;

    pub(super) const END_SINGLE: u8 = 0;
    pub(super) const END_BEFORE: u8 = 1;
    pub(super) const END_UNBOUNDED: u8 = 2;

    pub(super) const PUT_PREV_KV: u8 = 1;
    pub(super) const PUT_IGNORE_VALUE: u8 = 2;
    pub(super) const PUT_IGNORE_LEASE: u8 = 4;
    pub(super) const PUT_LEASE: u8 = 8;

    pub(super) const DELETE_PREV_KV: u8 = 1;

    pub(super) const RANGE_LIMIT: u16 = 1;
    pub(super) const RANGE_REVISION: u16 = 1 << 1;
    pub(super) const RANGE_SORT: u16 = 1 << 2;
    pub(super) const RANGE_MIN_MOD: u16 = 1 << 3;
    pub(super) const RANGE_MAX_MOD: u16 = 1 << 4;
    pub(super) const RANGE_MIN_CREATE: u16 = 1 << 5;
    pub(super) const RANGE_MAX_CREATE: u16 = 1 << 6;
    pub(super) const RANGE_SERIALIZABLE: u16 = 1 << 7;
    pub(super) const RANGE_KEYS_ONLY: u16 = 1 << 8;
    pub(super) const RANGE_COUNT_ONLY: u16 = 1 << 9;
    pub(super) const RANGE_ALL: u16 = (1 << 10) - 1;

    pub(super) const TARGET_VERSION: u8 = 0;
    pub(super) const TARGET_CREATE: u8 = 1;
    pub(super) const TARGET_MOD: u8 = 2;
    pub(super) const TARGET_VALUE: u8 = 3;
    pub(super) const TARGET_LEASE: u8 = 4;
}

#[cfg(test)]
mod tests;
