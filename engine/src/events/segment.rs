//! One segment of the event log: what is known of it without its bytes.

use super::SegmentId;
use super::dead::DeadRecords;
use super::record::padded;
use crate::revision::Revision;

/// Pieces begin at multiples of this and are written whole multiples of it.
pub(super) const PIECE_ALIGNMENT: u32 = diskio::BLOCK_BYTES as u32;
/// No segment is larger.
pub(super) const SEGMENT_BYTES_LIMIT: u32 = 1 << 31;

/// Most bytes of padding behind a record.
const PADDING_BYTES_MAX: u64 = super::RECORD_ALIGNMENT as u64 - 1;

/// Where a record stands: raw segment id and offset.
pub(super) type Place = (u64, u32);

/// What order the records of a segment have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SegmentKind {
    /// Revision order: the history of changes.
    History,
    /// None in particular; usually that of the keys, in batches. Records that were copied from elsewhere.
    Settled,
}

/// A run of records that is written at once and read back at once. Records never straddle two pieces.
///
/// Invariants: `offset` is a multiple of 4096, `len` of 8; there is at least one record; of history,
/// `first` ≤ `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// That of its segment.
    pub(super) kind: SegmentKind,
    pub(super) offset: u32,
    /// Bytes of its records with the padding of each, without that of the piece.
    pub(super) len: u32,
    pub(super) records: u32,
    /// Records of its kind before this piece.
    pub(super) ordinal: u64,
    /// Revisions of the first and the last record.
    pub(super) first: Revision,
    pub(super) last: Revision,
}

impl Piece {
    /// Whether a record of this revision may stand in it.
    pub(super) fn may_hold(&self, revision: Revision) -> bool {
        self.kind == SegmentKind::Settled || (self.first..=self.last).contains(&revision)
    }

    /// Where its last record ends.
    pub(super) fn end(&self) -> u32 {
        self.offset + self.len
    }

    /// Where the next piece may begin.
    pub(super) fn padded_end(&self) -> u32 {
        self.end().next_multiple_of(PIECE_ALIGNMENT)
    }
}

/// Whether there is a file for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentFile {
    Absent,
    Creating,
    There,
}

/// A segment.
///
/// Invariants: it has at least one piece; pieces stand one behind the other, each at the former's padded
/// end, from 0 up to at most `capacity`; of history their records are in strictly ascending (main, sub) order.
/// A retired one has no live bytes.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) kind: SegmentKind,
    /// Length of its file, a multiple of 4096.
    pub(super) capacity: u32,
    /// Record bytes, without padding, that some version refers to.
    pub(super) live_bytes: u64,
    /// Bytes of all its records with their padding.
    pub(super) valid_bytes: u64,
    pub(super) pieces: Vec<Piece>,
    /// Pieces of its kind before this segment.
    pub(super) pieces_before: u64,
    pub(super) file: SegmentFile,
    /// No version names it and none will: the next image does without it.
    pub(super) retired: bool,
    /// Records that versions named and do not any more.
    pub(super) dead: DeadRecords,
}

impl Segment {
    /// A segment that gets its first piece next.
    pub(super) fn new(id: SegmentId, kind: SegmentKind, capacity: u32, pieces_before: u64) -> Self {
        Segment {
            id,
            kind,
            capacity,
            live_bytes: 0,
            valid_bytes: 0,
            pieces: Vec::new(),
            pieces_before,
            file: SegmentFile::Absent,
            retired: false,
            dead: DeadRecords::default(),
        }
    }

    /// Revision of its newest record.
    pub(super) fn last(&self) -> Revision {
        self.pieces
            .last()
            .map_or(Revision::default(), |piece| piece.last)
    }

    /// Where the next piece begins.
    pub(super) fn padded_end(&self) -> u32 {
        self.pieces.last().map_or(0, Piece::padded_end)
    }

    /// Live bytes with their padding, so that they compare with `valid_bytes`. How much padding the live
    /// records have is not counted: that of an average record is taken for each, which is exact enough for
    /// a segment of nothing but live records never to look as if a tenth of it were dead.
    pub(super) fn live_bytes_padded(&self) -> u64 {
        let records = match (self.pieces.first(), self.pieces.last()) {
            (Some(first), Some(last)) => last.ordinal + u64::from(last.records) - first.ordinal,
            _ => return 0,
        };
        let padding = records * PADDING_BYTES_MAX / 2;
        let of_live =
            u128::from(self.live_bytes) * u128::from(padding) / u128::from(self.valid_bytes);
        (self.live_bytes + of_live as u64).min(self.valid_bytes)
    }

    /// Whether a further piece with a record of `len` bytes fits.
    pub(super) fn fits(&self, len: usize) -> bool {
        self.padded_end() as usize + padded(len) <= self.capacity as usize
    }

    /// The piece that holds the byte at `offset` of a record.
    ///
    /// Nearly all pieces have the same length, so arithmetic finds it; a search would touch a cache line of
    /// each piece that it looks at.
    pub(super) fn piece_at(&self, offset: u32) -> Option<usize> {
        let index = match self.guess(offset) {
            Some(index) => index,
            None => {
                let behind = self.pieces.partition_point(|piece| piece.offset <= offset);
                behind.checked_sub(1)?
            }
        };
        (offset < self.pieces[index].end()).then_some(index)
    }

    /// The piece that begins last before `offset`, if it stands where pieces of one length would have it.
    pub(super) fn guess(&self, offset: u32) -> Option<usize> {
        let first = self.pieces.first()?;
        let index = (offset / (first.padded_end() - first.offset)) as usize;
        let piece = self.pieces.get(index)?;
        let next = self.pieces.get(index + 1);
        let is_it = piece.offset <= offset && next.is_none_or(|next| offset < next.offset);
        is_it.then_some(index)
    }

    /// Checks the pieces against each other.
    pub(super) fn verify(&self) -> Result<(), String> {
        let id = self.id;
        if self.pieces.is_empty() || self.padded_end() > self.capacity {
            let end = self.padded_end();
            return Err(format!("{id:?}: {end} of {} bytes", self.capacity));
        }
        let mut offset = 0;
        for piece in &self.pieces {
            let ordered = piece.may_hold(piece.first);
            if piece.offset != offset || piece.records == 0 || !ordered || piece.kind != self.kind {
                return Err(format!("{id:?}: {piece:?} at {offset}"));
            }
            offset = piece.padded_end();
        }
        let ordered = |pair: &[Piece]| pair[0].last < pair[1].first;
        if self.kind == SegmentKind::History && !self.pieces.windows(2).all(ordered) {
            return Err(format!("{id:?}: pieces out of order"));
        }
        let valid: u64 = self.pieces.iter().map(|piece| u64::from(piece.len)).sum();
        if valid != self.valid_bytes {
            return Err(format!(
                "{id:?}: {valid} bytes, {} counted",
                self.valid_bytes
            ));
        }
        if self.live_bytes > valid || self.retired && self.live_bytes > 0 {
            return Err(format!("{id:?}: {} of {valid} bytes live", self.live_bytes));
        }
        Ok(())
    }
}
