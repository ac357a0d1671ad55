//! Deterministic MVCC state machine.
#![forbid(unsafe_code)]

pub mod auth;
pub mod command;
pub mod entry;
pub mod events;
pub mod key;
pub mod lease_clock;
mod mvcc;
pub mod page;
mod planted;
pub mod revision;
pub mod step;
pub mod store;
mod tree;
pub mod watch;
