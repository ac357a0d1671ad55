//! Between protobuf and the engine's vocabulary.
//!
//! [`request`] and [`txn`] turn decoded messages into `engine::command` values and refuse what etcd
//! refuses, in etcd's order and words; whatever passes needs no further check. [`reply`], [`list`] and
//! [`watch`] write answers straight into their wire form, without building protobuf structs:
//! `tests/mapping.rs` compares every byte with what prost would have written.
//!
//! Knows nothing of connections, streams and shards.

pub mod list;
pub mod reply;
pub mod request;
pub mod txn;
pub mod watch;
mod wire;

pub use reply::{Header, encode_reply};
pub use request::{AlarmOperation, RequestLimits, operation};
pub use watch::{WatchAnswer, WatchAnswers, WatchRequest, encode_event};
