//! The event log's part of an image: which segments there are, and what stands in them.

use thiserror::Error;

use super::SegmentId;
use super::record::RECORD_HEADER_BYTES;
use super::segment::{PIECE_ALIGNMENT, Piece, SEGMENT_BYTES_LIMIT, Segment, SegmentFile};
use crate::mvcc::varint;
use crate::revision::Revision;

/// First byte of a table.
const VERSION: u64 = 1;
/// A segment whose records are in revision order.
const HISTORY: u64 = 1;
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
    pub(super) last: Revision,
}

/// Writes a segment table.
pub(super) struct TableWriter<'a> {
    out: &'a mut Vec<u8>,
    number: u64,
    totals: Totals,
}

impl<'a> TableWriter<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>, segments: usize) -> Self {
        varint::put(out, VERSION);
        varint::put(out, segments as u64);
        TableWriter {
            out,
            number: 0,
            totals: Totals::default(),
        }
    }

    /// Adds a segment of which `pieces` are in the table.
    pub(super) fn push(&mut self, segment: &Segment, pieces: &[Piece], live_bytes: u64) {
        let number = segment.id.number();
        varint::put(self.out, number - self.number);
        varint::put(self.out, HISTORY);
        varint::put(self.out, u64::from(segment.capacity / PIECE_ALIGNMENT));
        varint::put(self.out, live_bytes);
        varint::put(self.out, pieces.len() as u64);
        self.number = number;
        self.totals.live_bytes += live_bytes;
        for piece in pieces {
            self.push_piece(piece);
        }
    }

    fn push_piece(&mut self, piece: &Piece) {
        let padded = piece.padded_end() - piece.offset;
        let unused = (padded - piece.len) / 8;
        varint::put(self.out, u64::from(padded / PIECE_ALIGNMENT));
        varint::put(self.out, u64::from(unused));
        varint::put(self.out, u64::from(piece.records));
        for (revision, before) in [
            (piece.first, self.totals.last.main),
            (piece.last, piece.first.main),
        ] {
            varint::put(self.out, (revision.main - before) as u64);
            varint::put(self.out, u64::from(revision.sub));
        }
        self.totals.pieces += 1;
        self.totals.records += u64::from(piece.records);
        self.totals.valid_bytes += u64::from(piece.len);
        self.totals.last = piece.last;
    }

    /// Ends the table.
    pub(super) fn finish(self) {
        for sum in [
            self.totals.pieces,
            self.totals.records,
            self.totals.valid_bytes,
            self.totals.live_bytes,
        ] {
            varint::put(self.out, sum);
        }
    }
}

/// Reads a table, believing nothing.
pub(super) fn read(table: &[u8]) -> Result<(Vec<Segment>, Totals), TableError> {
    let mut reader = Reader {
        rest: table,
        len: table.len(),
        totals: Totals::default(),
    };
    let version = reader.number("version")?;
    reader.require(
        version == VERSION,
        "a version that this program does not know",
    )?;
    let count = reader.number("number of segments")?;
    let mut segments: Vec<Segment> = Vec::new();
    for _ in 0..count {
        let former = segments.last().map_or(0, |segment| segment.id.number());
        segments.push(reader.segment(former)?);
    }
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
    Ok((segments, totals))
}

struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
    totals: Totals,
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

    fn segment(&mut self, former: u64) -> Result<Segment, TableError> {
        let number = former.checked_add(self.number("segment number")?);
        let number = number.filter(|number| *number > former && *number < NUMBER_LIMIT);
        let number = number.ok_or_else(|| self.error("segment number"))?;
        let kind = self.number("kind of segment")?;
        self.require(
            kind == HISTORY,
            "a kind of segment that this program does not know",
        )?;
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

        let mut segment = Segment::new(
            SegmentId::event(number),
            capacity as u32,
            self.totals.pieces,
        );
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
        let former = self.totals.last;
        let first = self.revision(former)?;
        let last = self.revision(first)?;
        self.require(first > former, "revisions that do not ascend")?;
        let single = records == 1;
        self.require(
            last >= first && single == (first == last),
            "last revision of a piece",
        )?;
        let piece = Piece {
            offset,
            len,
            records,
            ordinal: self.totals.records,
            first,
            last,
        };
        self.totals.pieces += 1;
        self.totals.records += u64::from(records);
        self.totals.valid_bytes += u64::from(len);
        self.totals.last = last;
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
