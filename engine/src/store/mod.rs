//! The MVCC store of one shard.

mod naive;
mod types;

pub use naive::Store;
pub use types::{
    Event, EventChunk, EventQuery, LoadError, MissingHook, RangeSet, Scan, ScanChunk, Sizes,
    StoreConfig, Version,
};
