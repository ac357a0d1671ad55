//! One file of a lane, as the lane sees it.
//!
//! Owns the geometry of a segment and what is known about its blocks: how far they have been written once
//! (an unwritten extent costs a journal commit per record), which indexes it speaks about, whether a write
//! is on its way. A segment keeps its name for life; recycling changes nothing on disk.

use crate::BLOCK_BYTES;
use crate::entry::Index;
use crate::io::{FileName, IoId};

/// Zeros on their way into a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prewrite {
    pub(crate) write: IoId,
    pub(crate) sync: IoId,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Invariants: a free segment is not the lane's head; records end at or before `capacity`; `highest` is at
/// least every index that any record in it speaks about since it was last free.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    /// The file and its directory entry are durable.
    pub(crate) usable: bool,
    /// Nothing in it is needed.
    pub(crate) free: bool,
    pub(crate) highest: Index,
    pub(crate) writes_in_flight: u32,
    /// Blocks from here to the footer have not been written once, as far as is known.
    pub(crate) written_to: u64,
    pub(crate) footer: bool,
    pub(crate) prewrite: Option<Prewrite>,
}

impl Segment {
    pub(crate) fn new(number: u64, bytes: u64) -> Segment {
        Segment {
            number,
            bytes,
            usable: false,
            free: true,
            highest: Index(0),
            writes_in_flight: 0,
            written_to: 0,
            footer: false,
            prewrite: None,
        }
    }

    /// Bytes that records may use: all but the footer's block.
    pub(crate) fn capacity(&self) -> u64 {
        self.bytes - BLOCK_BYTES
    }

    pub(crate) fn file(&self, lane: u16) -> FileName {
        FileName::Segment {
            lane,
            number: self.number,
        }
    }

    /// The prewrite that a record at `[offset, offset + bytes)` must wait for.
    pub(crate) fn blocked_by(&self, offset: u64, bytes: u64) -> Option<IoId> {
        self.prewrite
            .filter(|prewrite| offset < prewrite.to && prewrite.from < offset + bytes)
            .map(|prewrite| prewrite.write)
    }
}
