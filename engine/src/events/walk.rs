//! Walking over the log in revision order, and finding where to begin.

use bytes::Bytes;

use super::cache::ENTRY_BYTES;
use super::record::padded;
use super::segment::{Piece, Segment, SegmentKind};
use super::{EventLog, Loc, RECORD_HEADER_BYTES, Reader, Record, SegmentId, need_of};
use crate::revision::Revision;
use crate::step::{Need, Step, ready};

/// Most needs that are hinted at beside the one that is answered.
const HINTS_MAX: usize = 64;
/// Hinted bytes take at most this part of a cache, so that the first are still there when the last came.
const HINTED_PART: u64 = 2;

/// With so many hints a scan waits for one in their middle.
const WAITED_HINTS_MIN: usize = 4;

/// From so many records on that are wanted of a piece it is read as a whole: random reads of 4 KiB take
/// about a quarter of the time of one of 128 KiB each.
const RECORDS_MERGED_MIN: usize = 4;

/// Where the walk over the log stands: at a record or at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    kind: SegmentKind,
    segment: usize,
    piece: usize,
    offset: u32,
}

impl EventLog {
    /// The first record of history that is not below `revision`.
    pub(crate) fn seek(&self, revision: Revision) -> Step<Cursor> {
        let history = &self.history;
        let segment = history
            .segments
            .partition_point(|segment| segment.last() < revision);
        let mut cursor = Cursor {
            kind: SegmentKind::History,
            segment,
            piece: 0,
            offset: 0,
        };
        let Some(found) = history.segments.get(segment) else {
            return Step::Ready(cursor);
        };
        cursor.piece = found.pieces.partition_point(|piece| piece.last < revision);
        let piece = &found.pieces[cursor.piece];
        cursor.offset = piece.offset;
        if piece.first >= revision {
            return Step::Ready(cursor);
        }
        if let Some(hot) = self.hot(found, cursor.piece) {
            cursor.offset += hot.seek(revision);
        }
        while let Some((loc, record)) = self.at(cursor) {
            if record.revision >= revision {
                break;
            }
            cursor = self.behind(cursor, loc);
        }
        match self.missing_at(cursor) {
            Some(need) => Step::Need(need),
            None => Step::Ready(cursor),
        }
    }

    /// The record at `offset` of a segment of either kind; nothing at its end.
    pub(crate) fn cursor_at(&self, segment: SegmentId, offset: u32) -> Option<Cursor> {
        let (kind, index) = self.segment_index(segment)?;
        let piece = self.stream(kind).segments[index].piece_at(offset)?;
        Some(Cursor {
            kind,
            segment: index,
            piece,
            offset,
        })
    }

    /// The cursor's offset, if it stands in this segment.
    pub(crate) fn offset_in(&self, segment: SegmentId, cursor: Cursor) -> Option<u32> {
        let (holder, _) = self.piece_of(cursor)?;
        (holder.id == segment).then_some(cursor.offset)
    }

    /// The record at the cursor, or what has to be loaded to read it; `None` at the end. The walk is meant
    /// to go up to the main revision `to`.
    pub(crate) fn read(&mut self, cursor: Cursor, to: i64) -> Step<Option<(Loc, Record<'_>)>> {
        if let Some(need) = self.missing_at(cursor) {
            self.hint_walk(cursor, to);
            return Step::Need(need);
        }
        if self.missing.is_some()
            && let Some((loc, _)) = self.at(cursor)
        {
            ready!(self.enter(loc));
        }
        Step::Ready(self.at(cursor))
    }

    fn piece_of(&self, cursor: Cursor) -> Option<(&Segment, &Piece)> {
        let segment = self.stream(cursor.kind).segments.get(cursor.segment)?;
        Some((segment, &segment.pieces[cursor.piece]))
    }

    /// Bytes from the record at the cursor to the end of what is in memory of its piece.
    fn bytes_at(&self, cursor: Cursor) -> Option<&[u8]> {
        let (segment, piece) = self.piece_of(cursor)?;
        let at = (cursor.offset - piece.offset) as usize;
        let bytes = match self.hot(segment, cursor.piece) {
            Some(hot) => hot.bytes(),
            None => self.window((segment.id.raw(), piece.offset))?,
        };
        bytes.get(at..).filter(|bytes| !bytes.is_empty())
    }

    /// The record at the cursor, if its bytes are in memory.
    fn at(&self, cursor: Cursor) -> Option<(Loc, Record<'_>)> {
        let (segment, _) = self.piece_of(cursor)?;
        let record = Record::parse(self.bytes_at(cursor)?);
        let record = record.expect("a record that was appended or checked here");
        let loc = Loc {
            segment: segment.id,
            offset: cursor.offset,
            len: record.encoded_len() as u32,
        };
        Some((loc, record))
    }

    /// What to load for the record at the cursor, if there is one and it is not in memory: its piece.
    fn missing_at(&self, cursor: Cursor) -> Option<Need> {
        let (segment, piece) = self.piece_of(cursor)?;
        let need = Need::Bytes {
            segment: segment.id,
            offset: piece.offset,
            len: piece.len,
        };
        self.bytes_at(cursor).is_none().then_some(need)
    }

    /// The cursor behind the record at `loc`, where `cursor` stands.
    pub(crate) fn behind(&self, cursor: Cursor, loc: Loc) -> Cursor {
        let segment = &self.stream(cursor.kind).segments[cursor.segment];
        let offset = cursor.offset + padded(loc.len as usize) as u32;
        if offset < segment.pieces[cursor.piece].end() {
            return Cursor { offset, ..cursor };
        }
        match segment.pieces.get(cursor.piece + 1) {
            Some(next) => Cursor {
                piece: cursor.piece + 1,
                offset: next.offset,
                ..cursor
            },
            None => Cursor {
                segment: cursor.segment + 1,
                piece: 0,
                offset: 0,
                ..cursor
            },
        }
    }

    /// Key and value of the record with `key_len` bytes of key at `loc`, where `cursor` stands and which
    /// was just read.
    pub(crate) fn key_and_value(&self, cursor: Cursor, loc: Loc, key_len: usize) -> (Bytes, Bytes) {
        let (segment, piece) = self.piece_of(cursor).expect("a record was read there");
        let at = (cursor.offset - piece.offset) as usize;
        let range = at + RECORD_HEADER_BYTES..at + loc.len as usize;
        let body = match self.hot(segment, cursor.piece) {
            Some(hot) => hot.slice(range),
            None => self
                .window((segment.id.raw(), piece.offset))
                .map(|window| window.slice(range)),
        };
        let body = body.expect("a record was read there");
        (body.slice(..key_len), body.slice(key_len..))
    }

    /// Hints at the piece behind the cursor's, if a walk up to `to` gets there and it is not in memory.
    fn hint_walk(&mut self, cursor: Cursor, to: i64) {
        let Some((segment, piece)) = self.piece_of(cursor) else {
            return;
        };
        let following = match segment.pieces.get(cursor.piece + 1) {
            Some(next) => Some((segment, cursor.piece + 1, next)),
            None => self
                .stream(cursor.kind)
                .segments
                .get(cursor.segment + 1)
                .map(|segment| (segment, 0, &segment.pieces[0])),
        };
        let Some((segment, index, next)) = following else {
            return;
        };
        let resident = self.hot(segment, index).is_some()
            || self.window((segment.id.raw(), next.offset)).is_some();
        let both = u64::from(piece.padded_end() - piece.offset)
            + u64::from(next.padded_end() - next.offset);
        if next.first.main <= to && !resident && both <= self.windows.bytes_max() / HINTED_PART {
            let need = Need::Bytes {
                segment: segment.id,
                offset: next.offset,
                len: next.len,
            };
            self.hint(need);
        }
    }

    /// Hints at the record at `loc` if it is not in memory; `false` if no further hint is taken.
    pub(crate) fn hint_value(&mut self, loc: Loc) -> bool {
        let is_resident = self.is_resident(loc);
        let room = match self.hinting {
            Reader::Point if is_resident => return true,
            Reader::Point => {
                self.hinted_bytes += u64::from(loc.len);
                self.records.bytes_max() / HINTED_PART
            }
            // What is there already counts: it must not go for what is wanted later.
            Reader::Passing => {
                self.hinted_bytes += u64::from(loc.len) + ENTRY_BYTES;
                self.passing.records.bytes_max() / HINTED_PART
            }
        };
        self.hinted_bytes <= room && (is_resident || self.hint(need_of(loc)))
    }

    /// For a scan that has nothing yet: what to wait for instead of `need`, which becomes a hint. When that
    /// has come, what stands before it has probably come too, and the scan goes on with more than one.
    ///
    /// All of the hints fit into memory together; each that comes makes them fewer.
    pub(crate) fn need_ahead(&mut self, need: Need) -> Need {
        let middle = self.hints.get(self.hints.len() / 2);
        match middle {
            Some(ahead @ Need::Bytes { .. })
                if self.hinting == Reader::Passing && self.hints.len() >= WAITED_HINTS_MIN =>
            {
                let ahead = *ahead;
                if !self.hints.contains(&need) {
                    self.hints.push(need);
                }
                self.passing.want(ahead);
                ahead
            }
            _ => need,
        }
    }

    /// Notes what else a reader will need; `false` if no further hint is taken.
    pub(crate) fn hint(&mut self, need: Need) -> bool {
        if self.hints.len() < HINTS_MAX {
            self.hints.push(need);
        }
        self.hints.len() < HINTS_MAX
    }

    /// Forgets the hints of former calls; those to come are of `reader`.
    pub(crate) fn begin_hints(&mut self, reader: Reader) {
        self.hints.clear();
        self.hinted_bytes = 0;
        self.hinting = reader;
    }

    /// Forgets a hint: it is what is answered.
    pub(crate) fn remove_hint(&mut self, need: Need) {
        self.hints.retain(|hint| *hint != need);
    }

    /// The hints noted since they were cleared, in the order of their places. Many records of one piece are
    /// one read of the piece.
    pub(crate) fn take_hints(&mut self) -> Vec<Need> {
        if self.hints.is_empty() {
            return Vec::new();
        }
        let mut hints = std::mem::take(&mut self.hints);
        self.hinted_bytes = 0;
        hints.sort_unstable();
        hints.dedup();
        let windows = match self.hinting {
            Reader::Point => &self.windows,
            Reader::Passing => &self.passing.windows,
        };
        let mut room = windows.bytes_max() / HINTED_PART;
        let mut merged = Vec::with_capacity(hints.len());
        for group in hints.chunk_by(|a, b| {
            let (a, b) = (self.piece_of_need(a), self.piece_of_need(b));
            a.is_some() && a == b
        }) {
            let piece = self.piece_of_need(&group[0]);
            match piece.filter(|_| group.len() >= RECORDS_MERGED_MIN) {
                Some(Need::Bytes { len, .. }) if u64::from(len) <= room => {
                    room -= u64::from(len);
                    merged.extend(piece);
                }
                _ => merged.extend_from_slice(group),
            }
        }
        if self.hinting == Reader::Passing {
            merged.iter().for_each(|need| self.passing.want(*need));
        }
        merged
    }

    /// The need of the whole piece that `need` is a part of.
    fn piece_of_need(&self, need: &Need) -> Option<Need> {
        let Need::Bytes {
            segment,
            offset,
            len,
        } = *need
        else {
            return None;
        };
        let (holder, index) = self.locate(segment, offset, len)?;
        let piece = &holder.pieces[index];
        Some(Need::Bytes {
            segment,
            offset: piece.offset,
            len: piece.len,
        })
    }
}
