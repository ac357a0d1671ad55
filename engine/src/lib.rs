//! Deterministic MVCC state machine.
#![forbid(unsafe_code)]

pub mod auth;
pub mod command;
pub mod entry;
pub mod events;
pub mod key;
mod mvcc;
pub mod lease_clock;
pub mod page;
mod planted;
pub mod revision;
pub mod step;
pub mod store;
pub mod watch;
mod tree;
