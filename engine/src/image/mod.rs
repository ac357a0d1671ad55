//! The durable image of a shard: where its pages stand on disk, and the order in which it gets there.
//!
//! Owns the block map of the page file, the manifest, and the machine that turns a frozen store into
//! requests: pages and pieces of the event log, then the manifest, then the syncs. It refuses to know
//! what pages and events say, when a checkpoint is due, and what the superblock is; nobody here waits.
//!
//! ```text
//! freeze ─▶ pages, event pieces ─▶ manifest ─▶ syncs ─▶ ImageDurable ─▶ (superblock) ─▶ published
//!           in runs of 128 KiB                                                       free the older image
//! ```
//!
//! The formats and the reasons for the order are in `docs/internals/checkpoint.md`.

mod allocator;
mod attachment;
mod inspect;
mod machine;
mod manifest;
mod opening;
mod types;
mod writer;

pub(crate) use allocator::{Allocator, Extent};
pub use attachment::Attachment;
pub use inspect::{ImageReport, SegmentReport, read_manifest};
pub(crate) use machine::Image;
pub(crate) use manifest::Frozen;
pub use opening::ShardOpening;
pub use types::{Dirty, PassingBytes, ReadRequest, ShardEvent, ShardOpenError};
