//! The event log of one shard: every change in revision order, and with it every value.
//!
//! Owns the records, their places, the index from revisions to places, and which part of all that is in
//! memory: new records go to pieces of 128 KiB that are sealed, written once, and forgotten from the front;
//! what is read back goes to caches. Refuses to know what is in the tree, which revisions may still be
//! read, and who executes its requests. Append only. The format is described in
//! `docs/internals/event-log.md`.
//!
//! ```text
//! append → open piece → sealed → written → forgotten   ← loaded: single records, whole pieces
//!          '------- tail, in memory ------'              '---------- caches ----------------'
//! ```

mod cache;
mod disk;
mod load;
mod loc;
mod record;
mod segment;
mod table;
mod tail;
#[cfg(test)]
pub(crate) mod tests;
mod walk;

use std::collections::BTreeMap;

use bytes::Bytes;

pub(crate) use disk::Completed;
pub use loc::{Loc, SegmentClass, SegmentId};
pub use record::{RECORD_ALIGNMENT, RECORD_HEADER_BYTES, Record, RecordError};

use crate::planted::{Bug, planted};
use crate::revision::Revision;
use crate::step::{Need, Step, ready};
use crate::store::{MissingHook, StoreConfig};
use crate::tree::Draws;
use cache::Cache;
use disk::Disk;
use record::padded;
use segment::{PIECE_ALIGNMENT, Piece, Place, SEGMENT_BYTES_LIMIT, Segment};
use tail::{HotPiece, Tail};

/// The part of the memory for what is read back that goes to whole pieces.
const WINDOWS_PART: u64 = 4;

/// The event log.
///
/// Invariants: segment numbers ascend; revisions ascend strictly over all records; every piece is in the
/// tail or written; what stands in a cache has passed its checks.
#[derive(Debug)]
pub(crate) struct EventLog {
    shard: u16,
    salt: u64,
    segment_bytes_first: u32,
    segment_bytes_max: u32,
    piece_bytes: u32,
    tail_bytes_max: u64,
    segments: Vec<Segment>,
    tail: Tail,
    /// Records appended.
    count: u64,
    last: Revision,
    /// Sums over the segments.
    valid_bytes: u64,
    live_bytes: u64,
    /// Records that were read back.
    records: Cache,
    /// Pieces that were read back, up to their first damage.
    windows: Cache,
    /// Revisions of records that are being read back, where the reader knows them.
    expectations: BTreeMap<Place, Revision>,
    /// What else a reader will need soon.
    hints: Vec<Need>,
    hinted_bytes: u64,
    disk: Disk,
    /// Test mode: records that have to be loaded before they are read.
    missing: Option<Draws<Place>>,
    /// Records that were declared missing and not loaded since.
    absent: std::collections::BTreeSet<Place>,
}

impl EventLog {
    /// An empty log that nothing on the disk belongs to.
    pub(crate) fn new(config: &StoreConfig) -> Self {
        assert!(
            config.segment_bytes_first <= config.segment_bytes_max
                && config.segment_bytes_max <= SEGMENT_BYTES_LIMIT,
            "segments grow from {} to {} bytes",
            config.segment_bytes_first,
            config.segment_bytes_max
        );
        let hook = config.missing.map(|hook| MissingHook {
            rearm_after: u32::MAX,
            ..hook
        });
        let windows_bytes = config.value_cache_bytes / WINDOWS_PART;
        EventLog {
            shard: config.shard,
            salt: config.salt,
            segment_bytes_first: config.segment_bytes_first.next_multiple_of(PIECE_ALIGNMENT),
            segment_bytes_max: config.segment_bytes_max.next_multiple_of(PIECE_ALIGNMENT),
            piece_bytes: config.piece_bytes.next_multiple_of(PIECE_ALIGNMENT),
            tail_bytes_max: config.tail_bytes_max,
            segments: Vec::new(),
            tail: Tail::default(),
            count: 0,
            last: Revision::default(),
            valid_bytes: 0,
            live_bytes: 0,
            records: Cache::new(config.value_cache_bytes - windows_bytes),
            windows: Cache::new(windows_bytes),
            expectations: BTreeMap::new(),
            hints: Vec::new(),
            hinted_bytes: 0,
            disk: Disk::default(),
            missing: hook.map(Draws::new),
            absent: std::collections::BTreeSet::new(),
        }
    }

    /// Revision of the newest record.
    pub(crate) fn last(&self) -> Revision {
        self.last
    }

    /// Bytes of all records.
    pub(crate) fn valid_bytes(&self) -> u64 {
        self.valid_bytes
    }

    /// Bytes of the records that some version refers to.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Live bytes of each segment, in order.
    pub(crate) fn live_bytes_of_segments(&self) -> impl Iterator<Item = (SegmentId, u64)> {
        self.segments
            .iter()
            .map(|segment| (segment.id, segment.live_bytes))
    }

    /// Memory that tail, caches and index take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let pieces: usize = self
            .segments
            .iter()
            .map(|segment| segment.pieces.len())
            .sum();
        let index = (pieces * size_of::<Piece>()) as u64;
        self.tail.memory_bytes() + self.records.bytes() + self.windows.bytes() + index
    }

    /// Appends `record`, whose revision is above all others.
    pub(crate) fn append(&mut self, record: &Record<'_>) -> Loc {
        if !planted(Bug::EventsOutOfOrder) {
            assert!(
                record.revision > self.last,
                "event {:?} behind {:?}",
                record.revision,
                self.last
            );
        }
        #[cfg(test)]
        if planted(Bug::EventsOutOfOrder)
            && let Some(loc) = self.append_out_of_order(record)
        {
            return loc;
        }
        let len = record.encoded_len();
        if !self.tail.has_room(len) {
            self.open_piece(len);
        }
        let at = self.tail.append(record, self.salt);
        let segment = self.segments.last_mut().expect("the open piece's segment");
        let ordinal = self.count;
        if at == 0 {
            let offset = segment.padded_end();
            segment.pieces.push(Piece {
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
        self.live_bytes += len as u64;
        self.valid_bytes += padded(len) as u64;
        self.count += 1;
        self.last = record.revision;
        Loc {
            segment: segment.id,
            offset: piece.offset + at,
            len: len as u32,
        }
    }

    /// Seals the open piece and begins another one, large enough for a record of `len` bytes.
    fn open_piece(&mut self, len: usize) {
        self.seal();
        if self
            .segments
            .last()
            .is_none_or(|segment| !segment.fits(len))
        {
            self.open_segment(len);
        }
        let segment = self.segments.last().expect("just opened");
        let offset = segment.padded_end();
        let least = padded(len).next_multiple_of(PIECE_ALIGNMENT as usize);
        let room = (segment.capacity - offset) as usize;
        let limit = least.max(self.piece_bytes as usize).min(room);
        self.tail.open(segment.id, offset, limit);
    }

    fn open_segment(&mut self, len: usize) {
        let (number, capacity) = match self.segments.last() {
            None => (1, self.segment_bytes_first),
            Some(segment) => {
                let double = segment.capacity.saturating_mul(2);
                (segment.id.number() + 1, double.min(self.segment_bytes_max))
            }
        };
        let least = padded(len).next_multiple_of(PIECE_ALIGNMENT as usize);
        let least = u32::try_from(least).expect("a record below 2 GiB");
        assert!(least <= SEGMENT_BYTES_LIMIT, "a record of {len} bytes");
        self.segments.push(Segment::new(
            SegmentId::event(number),
            capacity.max(least),
            self.tail.next(),
        ));
    }

    /// Ends filling the open piece.
    fn seal(&mut self) {
        self.tail.seal();
        self.tail.trim(self.tail_bytes_max);
    }

    /// A version that named the record at `loc` is gone.
    pub(crate) fn release(&mut self, loc: Loc) {
        let live = self
            .segment_index(loc.segment)
            .map(|index| &mut self.segments[index].live_bytes)
            .expect("a segment that a version named");
        let len = u64::from(loc.len);
        assert!(*live >= len, "{live} live bytes, {loc:?} released");
        *live -= len;
        self.live_bytes -= len;
    }

    /// Position of a segment of this log.
    fn segment_index(&self, id: SegmentId) -> Option<usize> {
        if id.class() != SegmentClass::Event {
            return None;
        }
        let first = self.segments.first()?.id.number();
        let guess = usize::try_from(id.number().checked_sub(first)?).ok()?;
        if self.segments.get(guess).is_some_and(|found| found.id == id) {
            return Some(guess);
        }
        self.segments
            .binary_search_by_key(&id, |found| found.id)
            .ok()
    }

    /// Segment and piece that have `len` bytes at `offset`.
    fn locate(&self, id: SegmentId, offset: u32, len: u32) -> Option<(&Segment, usize)> {
        let segment = &self.segments[self.segment_index(id)?];
        let piece = segment.piece_at(offset)?;
        let end = offset.checked_add(len)?;
        (end <= segment.pieces[piece].end()).then_some((segment, piece))
    }

    /// A piece, if it is in the tail.
    fn hot(&self, segment: &Segment, piece: usize) -> Option<&HotPiece> {
        self.tail.get(segment.pieces_before + piece as u64)
    }

    /// Value of the record at `loc`, in memory or to be loaded.
    ///
    /// If `revision` is known, the value of another record is not given.
    pub(crate) fn value(&mut self, loc: Loc, revision: Option<Revision>) -> Step<Bytes> {
        ready!(self.enter(loc));
        match self.value_in_memory(loc, revision) {
            Some(value) => Step::Ready(value),
            None => {
                if let Some(revision) = revision {
                    self.expect(loc, revision);
                }
                Step::Need(need_of(loc))
            }
        }
    }

    fn value_in_memory(&mut self, loc: Loc, revision: Option<Revision>) -> Option<Bytes> {
        let (segment, index) = self.locate(loc.segment, loc.offset, loc.len)?;
        let piece = segment.pieces[index];
        let at = (loc.offset - piece.offset) as usize;
        if let Some(hot) = self.hot(segment, index) {
            let range = value_range(hot.bytes().get(at..)?, loc, revision)?;
            return hot.slice(at + range.start..at + range.end);
        }
        if let Some(window) = self.windows.get((loc.segment.raw(), piece.offset))
            && let Some(bytes) = window.get(at..)
            && let Some(range) = value_range(bytes, loc, revision)
        {
            return Some(window.slice(at + range.start..at + range.end));
        }
        let record = self.records.get((loc.segment.raw(), loc.offset))?;
        let range = value_range(record, loc, revision)?;
        Some(record.slice(range))
    }

    /// Whether the record at `loc` can be read without loading.
    pub(crate) fn is_resident(&self, loc: Loc) -> bool {
        self.bytes_in_memory(loc).is_some()
    }

    fn bytes_in_memory(&self, loc: Loc) -> Option<&[u8]> {
        let (segment, index) = self.locate(loc.segment, loc.offset, loc.len)?;
        let piece = segment.pieces[index];
        let at = (loc.offset - piece.offset) as usize;
        let range = at..at + loc.len as usize;
        if let Some(hot) = self.hot(segment, index) {
            return hot.bytes().get(range);
        }
        let window = self.windows.peek((loc.segment.raw(), piece.offset));
        if let Some(bytes) = window.and_then(|window| window.get(range)) {
            return Some(bytes);
        }
        let record = self.records.peek((loc.segment.raw(), loc.offset))?;
        record.get(..loc.len as usize)
    }

    /// The record at `loc`, which is in memory, with its checksum verified.
    pub(crate) fn verified_record(&self, loc: Loc) -> Result<Record<'_>, RecordError> {
        let bytes = self.bytes_in_memory(loc).ok_or(RecordError::Field {
            what: "not a record in memory",
        })?;
        Record::decode(bytes, self.salt)
    }

    /// Test mode: draws whether the record at `loc` has to be loaded first.
    ///
    /// Once there is a disk only what is written there can be loaded.
    fn enter(&mut self, loc: Loc) -> Step<()> {
        if self.missing.is_none() {
            return Step::Ready(());
        }
        let loadable = !self.disk.is_attached()
            || self
                .locate(loc.segment, loc.offset, loc.len)
                .is_some_and(|(segment, piece)| {
                    self.disk.is_written(segment.pieces_before + piece as u64)
                });
        let Some(draws) = &mut self.missing else {
            return Step::Ready(());
        };
        let name = (loc.segment.raw(), loc.offset);
        if loadable && (self.absent.contains(&name) || draws.draw(&name)) {
            self.absent.insert(name);
            return Step::Need(need_of(loc));
        }
        Step::Ready(())
    }

    /// Records with main > `at`, to within the records of one piece.
    pub(crate) fn estimate_after(&self, at: i64) -> u64 {
        let behind = self
            .segments
            .partition_point(|segment| segment.last().main <= at);
        let Some(segment) = self.segments.get(behind) else {
            return 0;
        };
        let piece = segment
            .pieces
            .partition_point(|piece| piece.last.main <= at);
        self.count - segment.pieces[piece].ordinal
    }

    /// Checks the index, and every record that is in the tail: checksum, order, no gaps.
    pub(crate) fn verify(&self) -> Result<(), String> {
        let mut last = Revision::default();
        let (mut count, mut valid, mut live) = (0, 0, 0);
        let mut sequence = 0;
        for segment in &self.segments {
            segment.verify()?;
            if segment.pieces_before != sequence {
                return Err(format!("{:?}: not behind {sequence} pieces", segment.id));
            }
            for (index, piece) in segment.pieces.iter().enumerate() {
                if piece.first <= last || piece.ordinal != count {
                    return Err(format!("{:?}: {piece:?} behind {last:?}", segment.id));
                }
                match self.hot(segment, index) {
                    Some(hot) => self.verify_piece(piece, hot.bytes())?,
                    None if sequence >= self.tail.next() => {
                        return Err(format!("{piece:?} is nowhere"));
                    }
                    None => {}
                }
                (last, count) = (piece.last, count + u64::from(piece.records));
                valid += u64::from(piece.len);
                sequence += 1;
            }
            live += segment.live_bytes;
        }
        let sums = (last, count, valid, live, sequence);
        let kept = (
            self.last,
            self.count,
            self.valid_bytes,
            self.live_bytes,
            self.tail.next(),
        );
        if sums != kept {
            return Err(format!("{sums:?} events found, {kept:?} counted"));
        }
        Ok(())
    }

    /// Checks that `bytes` begin with the records of `piece`.
    fn verify_piece(&self, piece: &Piece, bytes: &[u8]) -> Result<(), String> {
        let checked = load::check_records(piece, bytes, self.salt);
        match checked.error {
            Some(error) => Err(format!("{piece:?} at {}: {error}", checked.len)),
            None => Ok(()),
        }
    }

    #[cfg(test)]
    fn append_out_of_order(&mut self, record: &Record<'_>) -> Option<Loc> {
        let pieces = &mut self.segments.last_mut()?.pieces;
        let index = pieces.len().checked_sub(2)?;
        let end = pieces[index].end();
        let (segment, offset) = self.tail.append_before(record, self.salt, end)?;
        let len = record.encoded_len();
        pieces[index].len += padded(len) as u32;
        let segment_index = self.segment_index(segment)?;
        self.segments[segment_index].live_bytes += len as u64;
        self.live_bytes += len as u64;
        self.valid_bytes += padded(len) as u64;
        self.last = record.revision;
        let len = len as u32;
        Some(Loc {
            segment,
            offset,
            len,
        })
    }
}

fn need_of(loc: Loc) -> Need {
    Need::Bytes {
        segment: loc.segment,
        offset: loc.offset,
        len: loc.len,
    }
}

/// Where in `bytes` the value of the record at their start is; nothing if it is not the record of `loc`.
fn value_range(
    bytes: &[u8],
    loc: Loc,
    revision: Option<Revision>,
) -> Option<std::ops::Range<usize>> {
    let record = Record::parse(bytes).ok()?;
    let same = revision.is_none_or(|revision| revision == record.revision);
    let range = RECORD_HEADER_BYTES + record.key.len()..record.encoded_len();
    (same && range.end == loc.len as usize).then_some(range)
}
