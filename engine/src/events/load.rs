//! Taking in what was read back from the disk, believing nothing of it.

use bytes::Bytes;
use diskio::FileName;

use super::record::padded;
use super::segment::{PIECE_ALIGNMENT, Piece, Place, SegmentKind};
use super::{EventLog, Holder, Loc, Reader, Record, RecordError, need_of};
use crate::image::PassingBytes;
use crate::revision::Revision;
use crate::step::Need;
use crate::store::LoadError;

/// Revisions that are kept for records to come. One too many costs a check, nothing else: the reader
/// compares again.
const EXPECTATIONS_MAX: usize = 1024;

/// What is wrong with a record that is sound but not this one.
const OTHER_LENGTH: &str = "the record of another place: its length";
const OTHER_REVISION: &str = "the record of another place: its revision";
const OTHER_END: &str = "the record of another place: where it ends";

/// Bytes that were read back, from the place on that was asked for.
struct Brought {
    bytes: Bytes,
    /// Bytes that were read before these, and stay in memory as long as they.
    before: u64,
}

/// How far bytes are the records of a piece.
pub(super) struct Checked {
    /// Bytes of the records that are right.
    pub(super) len: usize,
    /// What is wrong behind them.
    pub(super) error: Option<RecordError>,
}

/// Checks that `bytes` begin with the records of `piece`.
pub(super) fn check_records(piece: &Piece, bytes: &[u8], salt: u64) -> Checked {
    let end = piece.len as usize;
    let (mut len, mut records) = (0, 0);
    let mut former: Option<Revision> = None;
    while len < end {
        let rest = bytes.get(len..).unwrap_or_default();
        let error = match Record::decode(rest, salt) {
            Err(error) => error,
            Ok(record) => {
                let revision = record.revision;
                let next = len + padded(record.encoded_len());
                let in_order = match former {
                    None => revision == piece.first,
                    Some(former) => {
                        piece.kind == SegmentKind::Settled
                            || former < revision && revision <= piece.last
                    }
                };
                records += 1;
                let all = records == piece.records && revision == piece.last;
                if !in_order {
                    wrong(OTHER_REVISION)
                } else if next > end || (next == end) != all {
                    wrong(OTHER_END)
                } else {
                    (len, former) = (next, Some(revision));
                    continue;
                }
            }
        };
        let error = Some(error);
        return Checked { len, error };
    }
    Checked { len, error: None }
}

impl EventLog {
    /// Which aligned bytes of which file to read for `need`; nothing if it names no place of this log.
    pub(crate) fn read_of(&self, need: &Need) -> Option<(FileName, u64, u64)> {
        let Need::Bytes {
            segment,
            offset,
            len,
        } = *need
        else {
            return None;
        };
        self.locate(segment, offset, len)?;
        let start = aligned(offset);
        let end = u64::from(offset + len).next_multiple_of(u64::from(PIECE_ALIGNMENT));
        let start = u64::from(start);
        Some((self.file(segment.number()), start, end - start))
    }

    /// What of those bytes is wanted, if that is a large scan.
    pub(crate) fn passing_bytes_of(&self, need: &Need) -> Option<PassingBytes> {
        match *need {
            Need::Bytes { offset, len, .. } if self.passing.is_wanted(need) => Some(PassingBytes {
                skip: offset - aligned(offset),
                len,
            }),
            _ => None,
        }
    }

    pub(super) fn file(&self, number: u64) -> FileName {
        FileName::Events {
            shard: self.shard,
            number,
        }
    }

    /// Takes the bytes that were read for `need` by [`EventLog::read_of`]. None: test mode declared missing
    /// what is in memory.
    ///
    /// # Errors
    /// They are not what was written there; nothing is kept, and the next attempt needs the same. If a whole
    /// piece was asked for, what stands before its first damage is taken without an error; who walks on to the
    /// damage needs the piece again and meets the error then.
    pub(crate) fn load(&mut self, need: &Need, bytes: Option<Bytes>) -> Result<(), LoadError> {
        let start = match *need {
            Need::Bytes { offset, .. } => (offset - aligned(offset)) as usize,
            Need::Page(_) => 0,
        };
        let from_place = |bytes: Bytes| Brought {
            bytes: bytes.slice(start.min(bytes.len())..),
            before: start as u64,
        };
        self.load_brought(need, bytes.map(from_place))
    }

    /// [`EventLog::load`] with what [`EventLog::passing_bytes_of`] names.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn load_passing(&mut self, need: &Need, bytes: Bytes) -> Result<(), LoadError> {
        self.load_brought(need, Some(Brought { bytes, before: 0 }))
    }

    fn load_brought(&mut self, need: &Need, brought: Option<Brought>) -> Result<(), LoadError> {
        let refused = |error| LoadError::Record { need: *need, error };
        let Need::Bytes {
            segment,
            offset,
            len,
        } = *need
        else {
            return Err(LoadError::Nothing { need: *need });
        };
        let loc = Loc {
            segment,
            offset,
            len,
        };
        let expected = self.expectations.remove(&(segment.raw(), offset));
        let reader = match self.passing.take_wanted(need) {
            true => Reader::Passing,
            false => Reader::Point,
        };
        let Some((holder, index)) = self.locate(segment, offset, len) else {
            // The record may have been copied and its segment be gone since it was asked for. Whoever
            // wants it asks again; twice for the same is no such case.
            return match self.dropped.replace(*need) == Some(*need) {
                false => Ok(()),
                true => Err(refused(wrong("no place of the event log"))),
            };
        };
        let piece = holder.pieces[index];
        let in_tail = self.hot(holder, index).is_some();
        match brought {
            None if !self.is_resident(loc) => return Err(LoadError::Nothing { need: *need }),
            None => self.keep_record_as_piece(loc, &piece),
            Some(brought) => self.take(reader, loc, &piece, brought, expected)?,
        }
        if in_tail {
            self.check_tail(loc, expected).map_err(refused)?;
        }
        self.absent.remove(&(segment.raw(), offset));
        if let Some(draws) = &mut self.missing {
            draws.loaded((segment.raw(), offset));
        }
        Ok(())
    }

    /// Takes what was brought for `loc`: one record, or all records of `piece`.
    fn take(
        &mut self,
        reader: Reader,
        loc: Loc,
        piece: &Piece,
        brought: Brought,
        expected: Option<Revision>,
    ) -> Result<(), LoadError> {
        let bytes = &brought.bytes;
        let refused = |offset, error| {
            let place = Loc {
                offset,
                len: loc.len - (offset - loc.offset),
                ..loc
            };
            let need = need_of(place);
            LoadError::Record { need, error }
        };
        let record = Record::parse(bytes).map(|record| record.encoded_len());
        let is_record = record == Ok(loc.len as usize);
        let is_piece = (loc.offset, loc.len) == (piece.offset, piece.len);
        if is_record {
            Record::decode(bytes, self.salt)
                .and_then(|record| check_place(&record, loc, piece, expected))
                .map_err(|error| refused(loc.offset, error))?;
            self.keep_record(reader, loc, &brought);
        } else if !is_piece {
            let error = record.map_or_else(|error| error, |_| wrong(OTHER_LENGTH));
            return Err(refused(loc.offset, error));
        }
        if is_piece {
            let checked = check_records(piece, bytes, self.salt);
            let place = (loc.segment.raw(), piece.offset);
            let former = self.window(place).map_or(0, Bytes::len);
            if let Some(error) = checked.error
                && checked.len <= former
            {
                return Err(refused(piece.offset + checked.len as u32, error));
            }
            let memory = u64::from(piece.padded_end() - piece.offset);
            let window = bytes.slice(..checked.len);
            for holder in [Holder::Wave, Holder::Favoured] {
                self.held_mut(holder).bring_window(place, &window);
            }
            match reader {
                Reader::Point => self.windows.insert(place, window, memory),
                Reader::Passing => self.passing.windows.insert_passing(place, window, memory),
            }
        }
        Ok(())
    }

    /// Where a piece is wanted that is one record, and only the record is in memory: a walk looks for pieces.
    fn keep_record_as_piece(&mut self, loc: Loc, piece: &Piece) {
        let place = (loc.segment.raw(), loc.offset);
        if (loc.offset, loc.len) == (piece.offset, piece.len)
            && self.window(place).is_none()
            && let Some(record) = self.records.peek(place).cloned()
        {
            let memory = u64::from(piece.padded_end() - piece.offset);
            self.windows.insert(place, record, memory);
        }
    }

    /// Keeps a checked record; copied if the bytes around it would take much more memory.
    fn keep_record(&mut self, reader: Reader, loc: Loc, brought: &Brought) {
        let Brought { bytes, before } = brought;
        let len = loc.len as usize;
        let around = bytes.len() as u64 + before;
        let place: Place = (loc.segment.raw(), loc.offset);
        let (record, memory) = match around - u64::from(loc.len) <= u64::from(loc.len) / 8 {
            true => (bytes.slice(..len), around),
            false => (Bytes::copy_from_slice(&bytes[..len]), len as u64),
        };
        for holder in [Holder::Wave, Holder::Favoured] {
            self.held_mut(holder).bring_record(place, &record);
        }
        match reader {
            Reader::Point => self.records.insert(place, record, memory),
            Reader::Passing => self.passing.records.insert_passing(place, record, memory),
        }
    }

    /// Keeps what `need` names for `holder`, once it is brought, until [`EventLog::release_held`].
    pub(crate) fn hold(&mut self, holder: Holder, need: &Need) {
        let Need::Bytes {
            segment,
            offset,
            len,
        } = *need
        else {
            return;
        };
        let located = self.locate(segment, offset, len);
        let is_piece = located.is_some_and(|(segment, index)| {
            let piece = &segment.pieces[index];
            (piece.offset, piece.len) == (offset, len)
        });
        let place = (segment.raw(), offset);
        let held = self.held_mut(holder);
        held.want_record(place);
        if is_piece {
            held.want_window(place);
        }
    }

    /// Leaves what `holder` held to the caches.
    pub(crate) fn release_held(&mut self, holder: Holder) {
        self.held_mut(holder).clear();
    }

    /// Checks that a place in the tail, which was declared missing or never was a record's, is a record's.
    fn check_tail(&self, loc: Loc, expected: Option<Revision>) -> Result<(), RecordError> {
        let record = self.verified_record(loc)?;
        let (segment, index) = self
            .locate(loc.segment, loc.offset, loc.len)
            .ok_or(wrong("no place of the event log"))?;
        check_place(&record, loc, &segment.pieces[index], expected)
    }

    /// Notes which record a reader asks for.
    pub(super) fn expect(&mut self, loc: Loc, revision: Revision) {
        let place: Place = (loc.segment.raw(), loc.offset);
        // What is kept there now was not the one.
        self.records.remove(place);
        self.passing.remove(place);
        if self.expectations.len() >= EXPECTATIONS_MAX {
            self.expectations.pop_first();
        }
        self.expectations.insert(place, revision);
    }
}

/// Checks a record against what is known of its place.
fn check_place(
    record: &Record<'_>,
    loc: Loc,
    piece: &Piece,
    expected: Option<Revision>,
) -> Result<(), RecordError> {
    if record.encoded_len() != loc.len as usize {
        return Err(wrong(OTHER_LENGTH));
    }
    let revision = record.revision;
    let first = loc.offset == piece.offset;
    let last = loc.offset + padded(loc.len as usize) as u32 == piece.end();
    let here = piece.may_hold(revision)
        && first == (revision == piece.first)
        && last == (revision == piece.last)
        && expected.is_none_or(|expected| expected == revision);
    match here {
        true => Ok(()),
        false => Err(wrong(OTHER_REVISION)),
    }
}

fn wrong(what: &'static str) -> RecordError {
    RecordError::Field { what }
}

/// The start of the block that holds `offset`.
fn aligned(offset: u32) -> u32 {
    offset / PIECE_ALIGNMENT * PIECE_ALIGNMENT
}
