//! The one writer of the superblock.
//!
//! A write is copies 0 and 1, a flush (now it is durable), copies 2 and 3, a flush. The next write starts
//! after the second flush: at every moment two of the four copies are at rest and equal. So a torn write
//! of `seq` leaves `seq − 1`, and a completed one survives any single damaged copy.

use super::{COPY_OFFSETS, Superblock, encode};
use crate::io::{FileName, IoId, IoOperation, Requests};
use crate::planted::{Bug, planted};

#[derive(Debug)]
struct Write {
    content: Superblock,
    durable_at: IoId,
    done_at: IoId,
    durable: bool,
}

/// Writes what is wanted, one write at a time.
///
/// Invariants: `durable.seq` is the newest write whose first flush completed; at most one write is on its
/// way; its `seq` is `durable.seq + 1` until its first flush, `durable.seq` afterwards.
#[derive(Debug)]
pub(crate) struct SuperblockMachine {
    durable: Superblock,
    wanted: Superblock,
    write: Option<Write>,
}

impl SuperblockMachine {
    /// Starts from a superblock that stands durable in all four copies.
    pub(crate) fn new(durable: Superblock) -> Self {
        SuperblockMachine {
            wanted: durable.clone(),
            durable,
            write: None,
        }
    }

    pub(crate) fn durable(&self) -> &Superblock {
        &self.durable
    }

    pub(crate) fn wanted(&self) -> &Superblock {
        &self.wanted
    }

    /// Facts to be made durable by the next write; `seq` is the machine's own.
    pub(crate) fn wanted_mut(&mut self) -> &mut Superblock {
        &mut self.wanted
    }

    /// Nothing on its way and nothing wanted.
    pub(crate) fn is_idle(&self) -> bool {
        self.write.is_none() && self.wanted == self.durable
    }

    /// Starts the next write if one is wanted and none is on its way. True if the new content counts as
    /// durable at once, which only a planted bug does.
    pub(crate) fn poll(&mut self, requests: &mut Requests<'_>) -> bool {
        if self.write.is_some() || self.wanted == self.durable {
            return false;
        }
        self.wanted.seq = self.durable.seq + 1;
        let bytes = encode(&self.wanted);
        let (durable_at, done_at) = if planted(Bug::OneCopy) {
            let done = write_copies(requests, &bytes, &COPY_OFFSETS[..1], None);
            (done, done)
        } else if planted(Bug::SinglePhase) {
            let done = write_copies(requests, &bytes, &COPY_OFFSETS, None);
            (done, done)
        } else {
            let first = write_copies(requests, &bytes, &COPY_OFFSETS[..2], None);
            let second = write_copies(requests, &bytes, &COPY_OFFSETS[2..], Some(first));
            (first, second)
        };
        let mut write = Write {
            content: self.wanted.clone(),
            durable_at,
            done_at,
            durable: false,
        };
        if planted(Bug::ActBeforeFlush) {
            self.durable = write.content.clone();
            write.durable = true;
        }
        let early = write.durable;
        self.write = Some(write);
        early
    }

    /// Takes a completed request; true if the content just became durable.
    pub(crate) fn complete(&mut self, id: IoId) -> bool {
        let Some(write) = &mut self.write else {
            return false;
        };
        let mut became_durable = false;
        if id == write.durable_at && !write.durable {
            write.durable = true;
            self.durable = write.content.clone();
            became_durable = true;
        }
        let done_at = if planted(Bug::OverlappingWrites) {
            write.durable_at
        } else {
            write.done_at
        };
        if id == done_at {
            // The wanted content keeps the number of the last write, so that equality means "nothing to do".
            self.wanted.seq = self.durable.seq;
            self.write = None;
        }
        became_durable
    }
}

/// Writes some copies and one flush behind them; returns the flush.
fn write_copies(
    requests: &mut Requests<'_>,
    bytes: &[u8],
    offsets: &[u64],
    after: Option<IoId>,
) -> IoId {
    let file = FileName::Superblock;
    let writes = offsets
        .iter()
        .map(|&offset| {
            let data = bytes.to_vec();
            requests.push(
                after.into_iter().collect(),
                IoOperation::Write { file, offset, data },
            )
        })
        .collect();
    requests.push(writes, IoOperation::Sync { file })
}

/// Requests that make all four copies equal to `bytes` and durable, rewriting only those that `differ`.
/// Copies 0 and 1 first, a flush, then 2 and 3, a flush: rewriting good copies could tear the last good pair.
/// Returns the last flush.
pub(crate) fn repair(requests: &mut Requests<'_>, bytes: &[u8], differ: [bool; 4]) -> IoId {
    if planted(Bug::RepairOverGoodCopies) {
        return write_copies(requests, bytes, &COPY_OFFSETS, None);
    }
    let select = |range: std::ops::Range<usize>| -> Vec<u64> {
        range
            .filter(|&copy| differ[copy])
            .map(|copy| COPY_OFFSETS[copy])
            .collect()
    };
    // The first flush is needed even if nothing differs: the newest copies may be un-synced writes of a
    // killed process.
    let first = write_copies(requests, bytes, &select(0..2), None);
    let second = select(2..4);
    if second.is_empty() || planted(Bug::OneCopy) {
        return first;
    }
    write_copies(requests, bytes, &second, Some(first))
}
