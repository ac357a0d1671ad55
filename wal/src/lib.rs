//! The write-ahead log and the superblock of one member, as machines that emit I/O.
//!
//! This crate decides **what** is written, **where** and **in which order** it becomes durable. It never
//! touches a file: every machine returns [`io::IoRequest`]s with explicit dependencies and is told what
//! finished. It knows Raft indexes and terms, epochs and checksums; it does not know what an entry means,
//! what the engine's section of the superblock contains, nor who commits.
//!
//! ```text
//! Opening ── Opened ──> Wal ── append, save_hard_state, checkpoint ──> IoRequest … complete ──> WalEvent
//!    │                   ├─ superblock::SuperblockMachine   one writer, four copies
//!    └─ recovery         └─ lane::Lane                      segments, head, spares
//! ```
//!
//! Invariants of absence: no clock (time arrives as `now_nanos`), no randomness (the salt is an argument),
//! no thread, no file, no iteration over an unordered map.
//!
//! The formats are described in `docs/internals/superblock.md` and `docs/internals/log.md`.
#![forbid(unsafe_code)]

mod config;
mod entry;
pub mod inspect;
mod lane;
mod planted;
pub mod record;
mod recovery;
mod segment;
pub mod superblock;
mod tail;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod writer;

pub use diskio as io;
pub use diskio::BLOCK_BYTES;

pub use config::{Config, LANES_MAX, NewDirectory};
pub use entry::{Checkpoint, Entry, EpochMark, Index, Snapshot, Term, Vote, Watermark};
pub use recovery::{AcceptedLoss, Faulty, OpenError, Opened, Opening, RecoveryReport};
pub use superblock::Superblock;
pub use writer::{Wal, WalEvent};

/// `bytes` rounded up to whole blocks.
pub(crate) fn whole_blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}
