//! Which segments are worth emptying, copies of their records, and the end of segments.

use super::segment::Segment;
use super::stream::Stream;
use super::{EventLog, Loc, Record, SegmentId, SegmentKind, load};
use crate::step::Need;

/// Kind, segment and offset of a piece.
pub(crate) type PiecePlace = (SegmentKind, SegmentId, u32);

/// Copies wait for the disk while this many pieces of them are not written.
const PIECES_BEHIND_MAX: u64 = 16;

impl EventLog {
    /// Segments that may be emptied, with their live bytes and all bytes of their records, both with padding:
    /// settled ones, and history whose events are all below main revision `floor`. All of them is written and nothing more
    /// comes to them.
    pub(crate) fn collectable(&self, floor: i64) -> impl Iterator<Item = (SegmentId, u64, u64)> {
        let of = move |stream: &'_ Stream, segment: &Segment| {
            let old = segment.kind == SegmentKind::Settled || segment.last().main < floor;
            old && !segment.retired && stream.is_complete(segment)
        };
        [&self.history, &self.settled]
            .into_iter()
            .flat_map(move |stream| {
                let segments = stream.segments.iter();
                segments.filter(move |segment| of(stream, segment))
            })
            .map(|segment| (segment.id, segment.live_bytes_padded(), segment.valid_bytes))
    }

    /// Live bytes of a segment of this log.
    pub(crate) fn live_bytes_of(&self, id: SegmentId) -> u64 {
        self.segment(id).expect("a segment of this log").live_bytes
    }

    /// Whether the version that named the record at `loc` is known to be gone.
    pub(crate) fn is_dead(&self, loc: Loc) -> bool {
        self.segment(loc.segment)
            .is_some_and(|segment| segment.dead.has(loc.offset))
    }

    /// Bytes of the record at `loc`, if they are in memory.
    pub(crate) fn bytes_of(&self, loc: Loc) -> Option<&[u8]> {
        self.bytes_in_memory(loc)
    }

    /// Appends a copy of a record to the settled segments.
    pub(crate) fn settle(&mut self, record: &Record<'_>) -> Loc {
        let growth = self.growth();
        let (loc, opened) = self.settled.append(record, growth);
        self.count_appended(loc, opened)
    }

    /// Bytes of the settled records.
    #[cfg(test)]
    pub(crate) fn settled_bytes(&self) -> u64 {
        self.settled.sums().0
    }

    /// Whether more of the history waits to be written than the tail is meant to hold twice.
    pub(crate) fn is_behind(&self) -> bool {
        let least = PIECES_BEHIND_MAX * u64::from(self.piece_bytes);
        self.history.unwritten_bytes() > least.max(2 * self.history.tail_bytes_max)
    }

    /// Whether copies were made faster than the disk takes them.
    pub(crate) fn is_settling_behind(&self) -> bool {
        self.settled.unwritten_bytes() > PIECES_BEHIND_MAX * u64::from(self.piece_bytes)
    }

    /// Lets the last settled segment take no more records if less than `percent` of it is live, so that it
    /// may be emptied too.
    pub(crate) fn close_settled(&mut self, percent: u64) {
        let dead =
            |segment: &Segment| segment.live_bytes_padded() * 100 < segment.valid_bytes * percent;
        if self.settled.segments.last().is_some_and(dead) {
            self.settled.seal();
            self.settled.closed = true;
        }
    }

    /// No version names a record of this segment any more, and none will.
    pub(crate) fn retire(&mut self, id: SegmentId) {
        let mut room = self.dead_room;
        let segment = self.segment_mut(id).expect("a segment of this log");
        assert_eq!(segment.live_bytes, 0, "{id:?} retires");
        segment.retired = true;
        segment.dead.clear(&mut room);
        self.dead_room = room;
    }

    /// The first written piece behind this one, in the order of kinds, segments and offsets; and its need.
    pub(crate) fn written_piece_behind(
        &self,
        former: Option<PiecePlace>,
    ) -> Option<(PiecePlace, Need)> {
        let streams = [&self.history, &self.settled].into_iter();
        let pieces = streams.flat_map(|stream| {
            let first = former.map(|(kind, id, _)| (kind, id));
            let segments = stream.segments.iter();
            let segments = segments.filter(move |segment| Some((stream.kind, segment.id)) >= first);
            segments.flat_map(move |segment| {
                let pieces = segment.pieces.iter().enumerate();
                pieces
                    .filter(move |(index, _)| stream.is_written(segment, *index))
                    .map(move |(_, piece)| ((stream.kind, segment.id, piece.offset), piece.len))
            })
        });
        let mut behind = pieces.skip_while(|(place, _)| Some(*place) <= former);
        let (place, len) = behind.next()?;
        let (_, segment, offset) = place;
        let need = Need::Bytes {
            segment,
            offset,
            len,
        };
        Some((place, need))
    }

    /// Offset and kind of the first damage in what was read of a whole piece; nothing of one that has gone.
    pub(crate) fn damage_in_piece(
        &self,
        segment: SegmentId,
        offset: u32,
        bytes: &[u8],
    ) -> Option<(u32, super::RecordError)> {
        let segment = self.segment(segment)?;
        let piece = &segment.pieces[segment.piece_at(offset)?];
        let checked = load::check_records(piece, bytes, self.salt);
        let error = checked.error?;
        Some((piece.offset + checked.len as u32, error))
    }

    /// Revision of the last record of the piece that holds a place.
    pub(crate) fn last_of_piece(
        &self,
        id: SegmentId,
        offset: u32,
    ) -> Option<crate::revision::Revision> {
        let segment = self.segment(id)?;
        Some(segment.pieces[segment.piece_at(offset)?].last)
    }
}
