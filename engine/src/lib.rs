//! Deterministic MVCC state machine.
#![forbid(unsafe_code)]

pub mod auth;
pub mod checkpoint;
pub mod command;
pub mod compaction;
pub mod coordinator;
pub mod defect;
pub mod entry;
pub mod events;
pub mod image;
pub mod key;
pub mod lease;
pub mod lease_clock;
mod mvcc;
pub mod page;
mod planted;
pub mod read;
pub mod revision;
pub mod shard;
pub mod step;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod tree;
pub mod txn;
pub mod watch;
