//! The durable image of a shard: where its pages stand on disk and how they get there.

mod types;

pub use types::{Dirty, ReadRequest, ShardEvent, ShardOpenError};
