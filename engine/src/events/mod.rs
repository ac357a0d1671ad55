//! The event log of one shard: every change in revision order, and with it every value.

mod loc;

pub use loc::{Loc, SegmentClass, SegmentId};
