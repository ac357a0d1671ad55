//! The event log's part of an image: which segments there are, and what stands in them.

use thiserror::Error;

use super::SegmentId;
use super::record::RECORD_HEADER_BYTES;
use super::segment::{
    PIECE_ALIGNMENT, Piece, SEGMENT_BYTES_LIMIT, Segment, SegmentFile, SegmentKind,
};
use crate::mvcc::varint;
use crate::revision::Revision;

/// First byte of a table.
const VERSION: u64 = 1;
/// Segment numbers are below this.
const NUMBER_LIMIT: u64 = 1 << 48;
/// A piece takes at least this many bytes of the table.
const PIECE_BYTES_MIN: u64 = 7;

/// Why bytes are not a table of event segments.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("table of event segments, byte {at}: {what}")]
pub(crate) struct TableError {
    /// Where the reading stopped, bytes from the table's start.
    pub(crate) at: usize,
    /// What is wrong.
    pub(crate) what: &'static str,
}

/// Sums over all segments of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) pieces: u64,
    pub(super) records: u64,
    pub(super) valid_bytes: u64,
    pub(super) live_bytes: u64,
}

/// A table that was read.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) history: Vec<Segment>,
    pub(super) settled: Vec<Segment>,
    /// Number of the next segment.
    pub(super) next_number: u64,
    pub(super) totals: Totals,
}

/// Writes a segment table.
#[derive(Debug)]
pub(super) struct TableWriter {
    out: Vec<u8>,
    /// Of the last segment.
    number: u64,
    /// Of the last record of history.
    last: Revision,
    totals: Totals,
}

impl TableWriter {
    pub(super) fn new(next_number: u64) -> Self {
        let mut out = Vec::new();
        varint::put(&mut out, VERSION);
        varint::put(&mut out, next_number);
        TableWriter {
            out,
            number: 0,
            last: Revision::default(),
            totals: Totals::default(),
        }
    }

    /// Begins the segments of the next kind: history, then settled.
    pub(super) fn begin(&mut self, segments: usize) {
        varint::put(&mut self.out, segments as u64);
        self.number = 0;
    }

    /// Adds a segment, whose `pieces` follow.
    pub(super) fn push(&mut self, segment: &Segment, pieces: usize, live_bytes: u64) {
        let number = segment.id.number();
        let capacity = segment.capacity / PIECE_ALIGNMENT;
        for field in [
            number - self.number,
            capacity.into(),
            live_bytes,
            pieces as u64,
        ] {
            varint::put(&mut self.out, field);
        }
        self.number = number;
        self.totals.live_bytes += live_bytes;
    }

    /// Adds the next piece of the last segment.
    pub(super) fn push_piece(&mut self, piece: &Piece) {
        let out = &mut self.out;
        let padded = piece.padded_end() - piece.offset;
        let unused = (padded - piece.len) / 8;
        varint::put(out, u64::from(padded / PIECE_ALIGNMENT));
        varint::put(out, u64::from(unused));
        varint::put(out, u64::from(piece.records));
        let ordered = piece.kind == SegmentKind::History;
        for (revision, before) in [(piece.first, self.last), (piece.last, piece.first)] {
            let before = if ordered { before.main } else { 0 };
            varint::put(out, (revision.main - before) as u64);
            varint::put(out, u64::from(revision.sub));
        }
        if ordered {
            self.last = piece.last;
        }
        self.totals.pieces += 1;
        self.totals.records += u64::from(piece.records);
        self.totals.valid_bytes += u64::from(piece.len);
    }

    /// Ends the table.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for sum in [
            self.totals.pieces,
            self.totals.records,
            self.totals.valid_bytes,
            self.totals.live_bytes,
        ] {
            varint::put(&mut self.out, sum);
        }
        self.out
    }
}

/// Reads a table, believing nothing.
pub(super) fn read(table: &[u8]) -> Result<Table, TableError> {
    let mut reader = Reader {
        rest: table,
        len: table.len(),
        totals: Totals::default(),
        pieces: 0,
        records: 0,
        last: Revision::default(),
    };
    let version = reader.number("version")?;
    reader.require(
        version == VERSION,
        "a version that this program does not know",
    )?;
    let next_number = reader.number("number of the next segment")?;
    reader.require(
        (1..=NUMBER_LIMIT).contains(&next_number),
        "number of the next segment",
    )?;
    let history = reader.segments(SegmentKind::History, next_number)?;
    let settled = reader.segments(SegmentKind::Settled, next_number)?;
    let mut numbers = settled.iter().map(|segment| segment.id);
    let twice = numbers.any(|id| history.binary_search_by_key(&id, |found| found.id).is_ok());
    reader.require(!twice, "two segments of one number")?;
    let totals = reader.totals;
    for (sum, what) in [
        (totals.pieces, "sum of pieces"),
        (totals.records, "sum of records"),
        (totals.valid_bytes, "sum of record bytes"),
        (totals.live_bytes, "sum of live bytes"),
    ] {
        let stored = reader.number(what)?;
        reader.require(stored == sum, what)?;
    }
    reader.require(reader.rest.is_empty(), "bytes behind the end")?;
    Ok(Table {
        history,
        settled,
        next_number,
        totals,
    })
}

struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
    totals: Totals,
    /// Pieces and records of the kind that is being read.
    pieces: u64,
    records: u64,
    /// Of the last record of history.
    last: Revision,
}

impl Reader<'_> {
    fn error(&self, what: &'static str) -> TableError {
        TableError {
            at: self.len - self.rest.len(),
            what,
        }
    }

    fn require(&self, holds: bool, what: &'static str) -> Result<(), TableError> {
        match holds {
            true => Ok(()),
            false => Err(self.error(what)),
        }
    }

    fn number(&mut self, what: &'static str) -> Result<u64, TableError> {
        varint::take(&mut self.rest).ok_or_else(|| self.error(what))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, TableError> {
        let number = self.number(what)?;
        u32::try_from(number).map_err(|_| self.error(what))
    }

    fn segments(
        &mut self,
        kind: SegmentKind,
        next_number: u64,
    ) -> Result<Vec<Segment>, TableError> {
        let count = self.number("number of segments")?;
        (self.pieces, self.records) = (0, 0);
        let mut segments: Vec<Segment> = Vec::new();
        for _ in 0..count {
            let former = segments.last().map_or(0, |segment| segment.id.number());
            let segment = self.segment(kind, former)?;
            self.require(segment.id.number() < next_number, "segment number")?;
            segments.push(segment);
        }
        Ok(segments)
    }

    fn segment(&mut self, kind: SegmentKind, former: u64) -> Result<Segment, TableError> {
        let number = former.checked_add(self.number("segment number")?);
        let number = number.filter(|number| *number > former);
        let number = number.ok_or_else(|| self.error("segment number"))?;
        let capacity = self.number("capacity")?;
        let capacity = capacity.saturating_mul(u64::from(PIECE_ALIGNMENT));
        self.require(
            (1..=u64::from(SEGMENT_BYTES_LIMIT)).contains(&capacity),
            "capacity",
        )?;
        let live_bytes = self.number("live bytes")?;
        let count = self.number("number of pieces")?;
        let room = self.rest.len() as u64 / PIECE_BYTES_MIN;
        self.require((1..=room).contains(&count), "number of pieces")?;

        let mut segment =
            Segment::new(SegmentId::event(number), kind, capacity as u32, self.pieces);
        segment.file = SegmentFile::There;
        segment.pieces.reserve_exact(count as usize);
        let before = self.totals.valid_bytes;
        for _ in 0..count {
            let piece = self.piece(&segment)?;
            segment.pieces.push(piece);
        }
        let valid = self.totals.valid_bytes - before;
        self.require(live_bytes <= valid, "more live bytes than records")?;
        segment.live_bytes = live_bytes;
        segment.valid_bytes = valid;
        self.totals.live_bytes += live_bytes;
        Ok(segment)
    }

    fn piece(&mut self, segment: &Segment) -> Result<Piece, TableError> {
        let offset = segment.padded_end();
        let blocks = self.number("blocks of a piece")?;
        let padded = blocks.saturating_mul(u64::from(PIECE_ALIGNMENT));
        let fits = (1..=u64::from(segment.capacity - offset)).contains(&padded);
        self.require(fits, "a piece beyond the end of its segment")?;
        let unused = self.number("padding of a piece")?;
        self.require(
            unused < u64::from(PIECE_ALIGNMENT) / 8,
            "padding of a piece",
        )?;
        let len = (padded - unused * 8) as u32;
        let records = self.u32("records of a piece")?;
        let least = u64::from(records) * RECORD_HEADER_BYTES as u64;
        self.require(
            records >= 1 && least <= u64::from(len),
            "more records than bytes",
        )?;
        let ordered = segment.kind == SegmentKind::History;
        let former = self.last;
        let (first, last) = match ordered {
            true => {
                let first = self.revision(former)?;
                (first, self.revision(first)?)
            }
            false => {
                let origin = Revision::default();
                (self.revision(origin)?, self.revision(origin)?)
            }
        };
        self.require(!ordered || first > former, "revisions that do not ascend")?;
        let single = records == 1;
        self.require(
            (!ordered || last >= first) && single == (first == last),
            "last revision of a piece",
        )?;
        let piece = Piece {
            kind: segment.kind,
            offset,
            len,
            records,
            ordinal: self.records,
            first,
            last,
        };
        self.totals.pieces += 1;
        self.totals.records += u64::from(records);
        self.totals.valid_bytes += u64::from(len);
        self.pieces += 1;
        self.records += u64::from(records);
        if ordered {
            self.last = last;
        }
        Ok(piece)
    }

    fn revision(&mut self, before: Revision) -> Result<Revision, TableError> {
        let step = self.number("main revision")?;
        let main = i64::try_from(step)
            .ok()
            .and_then(|step| before.main.checked_add(step));
        let main = main.ok_or_else(|| self.error("main revision"))?;
        let sub = self.u32("sub revision")?;
        Ok(Revision { main, sub })
    }
}
