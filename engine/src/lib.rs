//! Deterministic MVCC state machine.
#![forbid(unsafe_code)]

pub mod command;
pub mod key;
pub mod revision;
