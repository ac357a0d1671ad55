//! The one superblock: what it says, how a copy looks, and the machine that writes it.
//!
//! Owns every durable fact that is not in the log: identity, term and vote, lanes, epoch, watermarks,
//! the checkpoint and the engine's section, which is opaque here. It does not know what the facts imply;
//! [`crate::Opening`] and [`crate::Wal`] decide.

mod codec;
mod machine;

pub use codec::{CopyError, decode, encode};
pub(crate) use machine::{SuperblockMachine, repair};

use crate::config::{LANES_MAX, NewDirectory};
use crate::entry::{Index, Term, Vote, Watermark};

/// Offsets of the four copies, in bytes. Far apart, so that one failing area does not take two.
pub const COPY_OFFSETS: [u64; 4] = [0, 64 << 10, 128 << 10, 192 << 10];

/// Length of one copy, in bytes.
pub const COPY_BYTES: u64 = crate::BLOCK_BYTES;

/// Length of the superblock file, in bytes.
pub const FILE_BYTES: u64 = 256 << 10;

/// Longest engine section that fits a copy, in bytes.
pub const SECTION_BYTES_MAX: usize = codec::SECTION_BYTES_MAX;

/// Version of the layout that this build writes.
pub const VERSION: u32 = 1;

/// State of one lane in the lane table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LaneState {
    /// Never used, or given up: its files, if any, are dead.
    #[default]
    Retired,
    /// Records are written to it.
    Active,
    /// Holds records that are still needed; nothing new is written.
    Draining,
}

/// One line of the lane table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneSlot {
    /// Rises each time the lane becomes active again; records of other generations are dead.
    pub generation: u32,
    /// Whether it is written, read or neither.
    pub state: LaneState,
}

/// An explicitly accepted loss, kept for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// How many losses were accepted in the life of this directory.
    pub count: u32,
    /// First index of the latest one.
    pub first: Index,
    /// Last index of the latest one.
    pub last: Index,
}

/// The content of the superblock.
///
/// Invariants: `seq` rises by one with each write; `epoch_floor` and `checkpoint_index` never fall;
/// `clean` is never from an epoch newer than `epoch` or `epoch_floor` admits; `wseq_reserved` is above
/// every sequence number that was ever written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Number of this write; the highest valid one holds.
    pub seq: u64,
    /// Cluster of this member.
    pub cluster_id: u64,
    /// This member.
    pub member_id: u64,
    /// Secret start of every record and page header checksum.
    pub salt: u64,
    /// Number of engine shards.
    pub shards: u8,
    /// Current term.
    pub term: Term,
    /// Vote in that term.
    pub vote: Vote,
    /// The lane table.
    pub lanes: [LaneSlot; LANES_MAX as usize],
    /// Epoch opened by the latest recovery or replacing snapshot.
    pub epoch: u64,
    /// First index of that epoch.
    pub epoch_start: Index,
    /// Term of the entry before `epoch_start`.
    pub epoch_start_term: Term,
    /// Records of older epochs are dead, as data and as evidence.
    pub epoch_floor: u64,
    /// Record sequence numbers below this one may have been used.
    pub wseq_reserved: u64,
    /// The log's end at a clean stop; `None` otherwise.
    pub clean: Option<Watermark>,
    /// Id of the checkpoint (K); 0 is "none".
    pub checkpoint_id: u64,
    /// The log starts after this index.
    pub checkpoint_index: Index,
    /// Term of the entry at `checkpoint_index`.
    pub checkpoint_term: Term,
    /// Checkpoint ids up to here may have been used.
    pub checkpoint_ids_reserved: u64,
    /// The latest accepted loss.
    pub salvaged: Option<Salvaged>,
    /// The engine's section.
    pub section: Vec<u8>,
}

impl Superblock {
    /// The first superblock of a new directory. No lane exists yet.
    pub fn new(directory: &NewDirectory) -> Superblock {
        Superblock {
            seq: 1,
            cluster_id: directory.cluster_id,
            member_id: directory.member_id,
            salt: directory.salt,
            shards: directory.shards,
            term: Term(0),
            vote: Vote::None,
            lanes: [LaneSlot::default(); LANES_MAX as usize],
            epoch: 0,
            epoch_start: Index(1),
            epoch_start_term: Term(0),
            epoch_floor: 0,
            wseq_reserved: 1,
            clean: None,
            checkpoint_id: 0,
            checkpoint_index: Index(0),
            checkpoint_term: Term(0),
            checkpoint_ids_reserved: 0,
            salvaged: None,
            section: Vec::new(),
        }
    }
}
