//! The segments of one kind: where records are appended, and what of it is in memory.

use std::collections::BTreeSet;

use super::record::padded;
use super::segment::{
    PIECE_ALIGNMENT, Piece, SEGMENT_BYTES_LIMIT, Segment, SegmentFile, SegmentKind,
};
use super::tail::{HotPiece, Tail, Writing};
use super::{Loc, Record, SegmentId, load};
use crate::revision::Revision;

/// How large segments and pieces are, and which number the next segment gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    pub(super) salt: u64,
    pub(super) segment_bytes_first: u32,
    pub(super) segment_bytes_max: u32,
    pub(super) piece_bytes: u32,
    /// Above the numbers of all segments of either kind.
    pub(super) next_number: u64,
}

/// What an image holds of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frozen {
    pub(super) pieces: usize,
    pub(super) live_bytes: u64,
}

/// Segments of one kind.
///
/// Invariants: segment numbers ascend; the pieces in the tail are those of the last segments; pieces before
/// `written` are written, none from `issued` on is requested; `again` is below `issued`.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) kind: SegmentKind,
    pub(super) segments: Vec<Segment>,
    pub(super) tail: Tail,
    pub(super) tail_bytes_max: u64,
    /// Records appended, those of segments that have gone too.
    pub(super) count: u64,
    /// Revision of the last record.
    pub(super) last: Revision,
    /// The last segment takes no more records.
    pub(super) closed: bool,
    pub(super) written: u64,
    pub(super) issued: u64,
    /// Pieces whose write found no room.
    pub(super) again: BTreeSet<u64>,
    /// The image, by position of the segment, and the position behind its pieces.
    pub(super) frozen: Vec<Frozen>,
    pub(super) frozen_pieces: u64,
}

impl Stream {
    pub(super) fn new(kind: SegmentKind, tail_bytes_max: u64) -> Self {
        Stream {
            kind,
            segments: Vec::new(),
            tail: Tail::default(),
            tail_bytes_max,
            count: 0,
            last: Revision::default(),
            closed: false,
            written: 0,
            issued: 0,
            again: BTreeSet::new(),
            frozen: Vec::new(),
            frozen_pieces: 0,
        }
    }

    /// The stream whose segments a table names, all of them written.
    pub(super) fn restore(kind: SegmentKind, tail_bytes_max: u64, segments: Vec<Segment>) -> Self {
        let last = segments.last().and_then(|segment| segment.pieces.last());
        let count = last.map_or(0, |piece| piece.ordinal + u64::from(piece.records));
        let pieces = segments.last().map_or(0, |segment| {
            segment.pieces_before + segment.pieces.len() as u64
        });
        let mut stream = Stream {
            tail: Tail::behind(pieces),
            count,
            last: last.map_or(Revision::default(), |piece| piece.last),
            written: pieces,
            issued: pieces,
            segments,
            ..Stream::new(kind, tail_bytes_max)
        };
        stream.fix();
        stream
    }

    /// Appends a record. Answers its place, and whether that took a new segment.
    pub(super) fn append(&mut self, record: &Record<'_>, growth: Growth) -> (Loc, bool) {
        let len = record.encoded_len();
        let mut opened = false;
        if self.closed || !self.tail.has_room(len) {
            opened = self.open_piece(len, growth);
        }
        let at = self.tail.append(record, growth.salt);
        let ordinal = self.count;
        let segment = self.segments.last_mut().expect("the open piece's segment");
        if at == 0 {
            let offset = segment.padded_end();
            segment.pieces.push(Piece {
                kind: self.kind,
                offset,
                len: 0,
                records: 0,
                ordinal,
                first: record.revision,
                last: record.revision,
            });
        }
        let piece = segment.pieces.last_mut().expect("the open piece");
        piece.len += padded(len) as u32;
        piece.records += 1;
        piece.last = record.revision;
        segment.live_bytes += len as u64;
        segment.valid_bytes += padded(len) as u64;
        self.count += 1;
        self.last = record.revision;
        let loc = Loc {
            segment: segment.id,
            offset: piece.offset + at,
            len: len as u32,
        };
        (loc, opened)
    }

    /// Seals the open piece and begins another one, large enough for a record of `len` bytes. Answers
    /// whether that took a new segment.
    fn open_piece(&mut self, len: usize, growth: Growth) -> bool {
        self.seal();
        let last = self.segments.last();
        let opens = self.closed || last.is_none_or(|segment| !segment.fits(len));
        if opens {
            self.open_segment(len, growth);
        }
        let segment = self.segments.last().expect("just opened");
        let offset = segment.padded_end();
        let least = padded(len).next_multiple_of(PIECE_ALIGNMENT as usize);
        let room = (segment.capacity - offset) as usize;
        let limit = least.max(growth.piece_bytes as usize).min(room);
        self.tail.open(segment.id, offset, limit);
        opens
    }

    fn open_segment(&mut self, len: usize, growth: Growth) {
        let capacity = match self.segments.last() {
            None => growth.segment_bytes_first,
            Some(segment) => {
                let double = segment.capacity.saturating_mul(2);
                double.min(growth.segment_bytes_max)
            }
        };
        let least = padded(len).next_multiple_of(PIECE_ALIGNMENT as usize);
        let least = u32::try_from(least).expect("a record below 2 GiB");
        assert!(least <= SEGMENT_BYTES_LIMIT, "a record of {len} bytes");
        self.closed = false;
        self.segments.push(Segment::new(
            SegmentId::event(growth.next_number),
            self.kind,
            capacity.max(least),
            self.tail.next(),
        ));
    }

    /// Ends filling the open piece.
    pub(super) fn seal(&mut self) {
        self.tail.seal();
        self.tail.trim(self.tail_bytes_max);
    }

    /// Fixes what an image holds: all that is there.
    pub(super) fn fix(&mut self) {
        let frozen = self.segments.iter().map(|segment| Frozen {
            pieces: segment.pieces.len(),
            live_bytes: segment.live_bytes,
        });
        self.frozen = frozen.collect();
        self.frozen_pieces = self.tail.next();
    }

    /// Position of a segment.
    pub(super) fn index_of(&self, id: SegmentId) -> Option<usize> {
        let first = self.segments.first()?.id.number();
        let guess = usize::try_from(id.number().checked_sub(first)?).ok()?;
        if self.segments.get(guess).is_some_and(|found| found.id == id) {
            return Some(guess);
        }
        self.segments
            .binary_search_by_key(&id, |found| found.id)
            .ok()
    }

    /// The piece at an index of a segment, if it is in memory.
    pub(super) fn hot(&self, segment: &Segment, piece: usize) -> Option<&HotPiece> {
        self.tail.get(segment.pieces_before + piece as u64)
    }

    /// Whether a piece is on the disk.
    pub(super) fn is_written(&self, segment: &Segment, piece: usize) -> bool {
        segment.file == SegmentFile::There && segment.pieces_before + (piece as u64) < self.written
    }

    /// Whether nothing comes to a segment any more and all of it is written.
    pub(super) fn is_complete(&self, segment: &Segment) -> bool {
        let last = self
            .segments
            .last()
            .is_some_and(|last| last.id == segment.id);
        (!last || self.closed) && self.is_written(segment, segment.pieces.len() - 1)
    }

    /// Bytes of sealed pieces that are not written yet.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        (self.written..self.tail.next())
            .filter_map(|sequence| self.tail.get(sequence))
            .filter(|piece| piece.is_sealed())
            .map(|piece| piece.bytes().len() as u64)
            .sum()
    }

    /// Notes that the piece at position `sequence` is written; answers its segment.
    pub(super) fn piece_written(&mut self, sequence: u64) -> SegmentId {
        let piece = self.tail.get_mut(sequence).expect("not written yet");
        piece.writing = Writing::Written;
        let segment = piece.segment;
        let is_written = |tail: &Tail, sequence| {
            let piece = tail.get(sequence);
            piece.is_some_and(|piece| piece.writing == Writing::Written)
        };
        while is_written(&self.tail, self.written) {
            self.written += 1;
        }
        self.tail.trim(self.tail_bytes_max);
        segment
    }

    /// Sums of records' bytes and of live bytes.
    pub(super) fn sums(&self) -> (u64, u64) {
        let segments = self.segments.iter();
        segments.fold((0, 0), |(valid, live), segment| {
            (valid + segment.valid_bytes, live + segment.live_bytes)
        })
    }

    /// Checks the index, and every record that is in the tail: checksum, order, no gaps but those that
    /// segments left which have gone.
    pub(super) fn verify(&self, salt: u64) -> Result<(), String> {
        let ordered = self.kind == SegmentKind::History;
        let mut last = Revision::default();
        let (mut count, mut sequence) = (0, 0);
        for segment in &self.segments {
            segment.verify()?;
            if segment.pieces_before < sequence || segment.kind != self.kind {
                return Err(format!("{:?}: not behind {sequence} pieces", segment.id));
            }
            sequence = segment.pieces_before;
            count = count.max(segment.pieces[0].ordinal);
            for (index, piece) in segment.pieces.iter().enumerate() {
                if ordered && piece.first <= last || piece.ordinal != count {
                    return Err(format!("{:?}: {piece:?} behind {last:?}", segment.id));
                }
                match self.hot(segment, index) {
                    Some(hot) => verify_piece(piece, hot.bytes(), salt)?,
                    None if sequence >= self.tail.next() => {
                        return Err(format!("{piece:?} is nowhere"));
                    }
                    None => {}
                }
                (last, count) = (piece.last, count + u64::from(piece.records));
                sequence += 1;
            }
        }
        let found = (last, count, sequence);
        let kept = (self.last, self.count, self.tail.next());
        if ordered && found != kept {
            return Err(format!("{found:?} events found, {kept:?} counted"));
        }
        Ok(())
    }
}

/// Checks that `bytes` begin with the records of `piece`.
fn verify_piece(piece: &Piece, bytes: &[u8], salt: u64) -> Result<(), String> {
    let checked = load::check_records(piece, bytes, salt);
    match checked.error {
        Some(error) => Err(format!("{piece:?} at {}: {error}", checked.len)),
        None => Ok(()),
    }
}
