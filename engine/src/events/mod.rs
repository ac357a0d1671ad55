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
mod dead;
mod disk;
mod held;
mod load;
mod loc;
mod passing;
mod record;
mod segment;
mod space;
mod stream;
mod table;
mod tail;
#[cfg(test)]
pub(crate) mod tests;
mod walk;

use std::collections::BTreeMap;

use bytes::Bytes;

pub(crate) use disk::{Completed, FrozenTable};
pub(crate) use held::Holder;
pub use loc::{Loc, SegmentClass, SegmentId};
pub(crate) use passing::Reader;
pub use record::{RECORD_ALIGNMENT, RECORD_HEADER_BYTES, Record, RecordError};
pub(crate) use segment::SegmentKind;

use crate::planted::{Bug, planted};
use crate::revision::Revision;
use crate::step::{Need, Step, ready};
use crate::store::{MissingHook, StoreConfig};
use crate::tree::Draws;
use cache::Cache;
use disk::Disk;
use held::Held;
use passing::Passing;
use record::padded;
use segment::{PIECE_ALIGNMENT, Piece, Place, SEGMENT_BYTES_LIMIT, Segment};
use stream::{Growth, Stream};
use tail::HotPiece;

/// The part of the memory for what is read back that goes to whole pieces.
const WINDOWS_PART: u64 = 4;

/// The part of the memory for the newest pieces that goes to settled ones.
const SETTLED_PART: u64 = 8;

/// What the memory of dead records may take: half a percent of some gigabytes of segments.
const DEAD_BYTES_MAX: u64 = 8 << 20;

/// The event log.
///
/// Invariants: numbers of segments are above those of all before, of either kind; revisions ascend strictly
/// over all records of history; every piece is in a tail or written; what stands in a cache has passed its
/// checks.
#[derive(Debug)]
pub(crate) struct EventLog {
    shard: u16,
    salt: u64,
    segment_bytes_first: u32,
    segment_bytes_max: u32,
    piece_bytes: u32,
    history: Stream,
    settled: Stream,
    next_number: u64,
    /// Sums over the segments.
    valid_bytes: u64,
    live_bytes: u64,
    /// Bytes that may still be taken to remember which records are dead.
    dead_room: u64,
    /// Segments that the image under way does without and the published one has, with their bytes.
    leaving: Vec<(SegmentId, u64)>,
    /// The last need that named a segment which has gone.
    dropped: Option<Need>,
    /// Records that were read back.
    records: Cache,
    /// Pieces that were read back, up to their first damage.
    windows: Cache,
    /// What was read back for large scans.
    passing: Passing,
    /// What an operation of a wave wants all at once.
    held_for_wave: Held,
    /// What a favoured read wants all at once.
    held_for_favoured: Held,
    /// Revisions of records that are being read back, where the reader knows them.
    expectations: BTreeMap<Place, Revision>,
    /// What else a reader will need soon.
    hints: Vec<Need>,
    hinted_bytes: u64,
    /// Whose hints those are.
    hinting: Reader,
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
        let records_bytes = config.value_cache_bytes - windows_bytes;
        EventLog {
            shard: config.shard,
            salt: config.salt,
            segment_bytes_first: config.segment_bytes_first.next_multiple_of(PIECE_ALIGNMENT),
            segment_bytes_max: config.segment_bytes_max.next_multiple_of(PIECE_ALIGNMENT),
            piece_bytes: config.piece_bytes.next_multiple_of(PIECE_ALIGNMENT),
            history: Stream::new(SegmentKind::History, config.tail_bytes_max),
            settled: Stream::new(SegmentKind::Settled, config.tail_bytes_max / SETTLED_PART),
            next_number: 1,
            valid_bytes: 0,
            live_bytes: 0,
            dead_room: DEAD_BYTES_MAX,
            leaving: Vec::new(),
            dropped: None,
            records: Cache::new(records_bytes),
            windows: Cache::new(windows_bytes),
            passing: Passing::beside(records_bytes, windows_bytes),
            held_for_wave: Held::default(),
            held_for_favoured: Held::default(),
            expectations: BTreeMap::new(),
            hints: Vec::new(),
            hinted_bytes: 0,
            hinting: Reader::Point,
            disk: Disk::default(),
            missing: hook.map(Draws::new),
            absent: std::collections::BTreeSet::new(),
        }
    }

    /// Revision of the newest record.
    pub(crate) fn last(&self) -> Revision {
        self.history.last
    }

    /// Bytes of all records, those of segments that leave with the image under way too.
    pub(crate) fn valid_bytes(&self) -> u64 {
        self.valid_bytes
    }

    /// Bytes of the records that some version refers to.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// All segments, kind by kind in the order of their numbers.
    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.history.segments.iter().chain(&self.settled.segments)
    }

    /// Live bytes of each segment.
    pub(crate) fn live_bytes_of_segments(&self) -> impl Iterator<Item = (SegmentId, u64)> {
        self.segments()
            .map(|segment| (segment.id, segment.live_bytes))
    }

    /// Memory that tail, caches and index take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let pieces: usize = self.segments().map(|segment| segment.pieces.len()).sum();
        let index = (pieces * size_of::<Piece>()) as u64;
        self.history.tail.memory_bytes()
            + self.settled.tail.memory_bytes()
            + self.records.bytes()
            + self.windows.bytes()
            + self.passing.bytes()
            + self.held().map(Held::bytes).sum::<u64>()
            + index
    }

    /// Appends `record`, whose revision is above all others.
    pub(crate) fn append(&mut self, record: &Record<'_>) -> Loc {
        if !planted(Bug::EventsOutOfOrder) {
            assert!(
                record.revision > self.history.last,
                "event {:?} behind {:?}",
                record.revision,
                self.history.last
            );
        }
        #[cfg(test)]
        if planted(Bug::EventsOutOfOrder)
            && let Some(loc) = self.append_out_of_order(record)
        {
            return loc;
        }
        let growth = self.growth();
        let (loc, opened) = self.history.append(record, growth);
        self.count_appended(loc, opened)
    }

    /// The version of the record at `loc` is not its key's newest any more.
    pub(crate) fn supersede(&mut self, loc: Loc) {
        let Some((segment, index)) = self.locate(loc.segment, loc.offset, loc.len) else {
            return;
        };
        let sequence = segment.pieces_before + index as u64;
        let (kind, at) = (segment.kind, loc.offset - segment.pieces[index].offset);
        match self.stream_mut(kind).tail.get_mut(sequence) {
            Some(piece) => piece.supersede(at),
            None => self.records.remove((loc.segment.raw(), loc.offset)),
        }
    }

    /// Keeps the newest values of pieces that have left the tail, where they are worth their memory.
    fn keep_newest(&mut self) {
        for stream in [&mut self.history, &mut self.settled] {
            for (place, bytes) in stream.tail.take_worth_keeping() {
                self.records.insert_unused(place, bytes);
            }
        }
    }

    fn growth(&self) -> Growth {
        Growth {
            salt: self.salt,
            segment_bytes_first: self.segment_bytes_first,
            segment_bytes_max: self.segment_bytes_max,
            piece_bytes: self.piece_bytes,
            next_number: self.next_number,
        }
    }

    fn count_appended(&mut self, loc: Loc, opened: bool) -> Loc {
        self.next_number += u64::from(opened);
        self.live_bytes += u64::from(loc.len);
        self.valid_bytes += padded(loc.len as usize) as u64;
        loc
    }

    /// A version that named the record at `loc` is gone.
    pub(crate) fn release(&mut self, loc: Loc) {
        let mut room = self.dead_room;
        let segment = self
            .segment_mut(loc.segment)
            .expect("a segment that a version named");
        let (live, len) = (&mut segment.live_bytes, u64::from(loc.len));
        assert!(*live >= len, "{live} live bytes, {loc:?} released");
        *live -= len;
        segment.dead.note(loc.offset, segment.capacity, &mut room);
        self.dead_room = room;
        self.live_bytes -= len;
        self.records.remove((loc.segment.raw(), loc.offset));
        self.passing.remove((loc.segment.raw(), loc.offset));
    }

    fn stream(&self, kind: SegmentKind) -> &Stream {
        match kind {
            SegmentKind::History => &self.history,
            SegmentKind::Settled => &self.settled,
        }
    }

    fn stream_mut(&mut self, kind: SegmentKind) -> &mut Stream {
        match kind {
            SegmentKind::History => &mut self.history,
            SegmentKind::Settled => &mut self.settled,
        }
    }

    /// Kind and position of a segment of this log.
    fn segment_index(&self, id: SegmentId) -> Option<(SegmentKind, usize)> {
        if id.class() != SegmentClass::Event {
            return None;
        }
        let streams = [&self.history, &self.settled].into_iter();
        let mut found = streams.map(|stream| Some((stream.kind, stream.index_of(id)?)));
        found.find_map(|found| found)
    }

    fn segment(&self, id: SegmentId) -> Option<&Segment> {
        let (kind, index) = self.segment_index(id)?;
        Some(&self.stream(kind).segments[index])
    }

    fn segment_mut(&mut self, id: SegmentId) -> Option<&mut Segment> {
        let (kind, index) = self.segment_index(id)?;
        Some(&mut self.stream_mut(kind).segments[index])
    }

    /// Segment and piece that have `len` bytes at `offset`.
    fn locate(&self, id: SegmentId, offset: u32, len: u32) -> Option<(&Segment, usize)> {
        let segment = self.segment(id)?;
        let piece = segment.piece_at(offset)?;
        let end = offset.checked_add(len)?;
        (end <= segment.pieces[piece].end()).then_some((segment, piece))
    }

    /// The piece at an index of a segment, if it is in a tail.
    fn hot(&self, segment: &Segment, piece: usize) -> Option<&HotPiece> {
        self.stream(segment.kind).hot(segment, piece)
    }

    /// Value of the record at `loc`, in memory or to be loaded.
    ///
    /// If `revision` is known, the value of another record is not given.
    pub(crate) fn value(&mut self, loc: Loc, revision: Option<Revision>) -> Step<Bytes> {
        self.value_for(Reader::Point, loc, revision)
    }

    /// [`EventLog::value`] for whom it may concern.
    pub(crate) fn value_for(
        &mut self,
        reader: Reader,
        loc: Loc,
        revision: Option<Revision>,
    ) -> Step<Bytes> {
        self.part_for(Part::Value, reader, loc, revision)
    }

    /// All bytes of the record at `loc`, which a large scan reads.
    pub(crate) fn record_passing(&mut self, loc: Loc, revision: Revision) -> Step<Bytes> {
        self.part_for(Part::Whole, Reader::Passing, loc, Some(revision))
    }

    fn part_for(
        &mut self,
        part: Part,
        reader: Reader,
        loc: Loc,
        revision: Option<Revision>,
    ) -> Step<Bytes> {
        ready!(self.enter(loc));
        if let Some(bytes) = self.in_memory(part, reader, loc, revision) {
            return Step::Ready(bytes);
        }
        if let Some(bytes) = self.in_passing(part, reader, loc, revision) {
            return Step::Ready(bytes);
        }
        if let Some(revision) = revision {
            self.expect(loc, revision);
        }
        if reader == Reader::Passing {
            self.passing.want(need_of(loc));
        }
        Step::Need(need_of(loc))
    }

    /// The value of a record that was read back for a scan. Who is no scan makes it stay.
    fn in_passing(
        &mut self,
        part: Part,
        reader: Reader,
        loc: Loc,
        revision: Option<Revision>,
    ) -> Option<Bytes> {
        if self.passing.bytes() == 0 {
            return None;
        }
        let (segment, index) = self.locate(loc.segment, loc.offset, loc.len)?;
        let piece = segment.pieces[index];
        let at = (loc.offset - piece.offset) as usize;
        let place = (loc.segment.raw(), loc.offset);
        let window = self.passing.windows.peek((loc.segment.raw(), piece.offset));
        let in_window = window.and_then(|window| (at < window.len()).then(|| window.slice(at..)));
        let bytes = in_window.or_else(|| self.passing.records.peek(place).cloned())?;
        let range = part.range(&bytes, loc, revision)?;
        if reader == Reader::Point {
            let record = Bytes::copy_from_slice(&bytes[..loc.len as usize]);
            self.records.insert(place, record, u64::from(loc.len));
        }
        Some(bytes.slice(range))
    }

    fn in_memory(
        &mut self,
        part: Part,
        reader: Reader,
        loc: Loc,
        revision: Option<Revision>,
    ) -> Option<Bytes> {
        let (segment, index) = self.locate(loc.segment, loc.offset, loc.len)?;
        let piece = segment.pieces[index];
        let at = (loc.offset - piece.offset) as usize;
        if let Some(hot) = self.hot(segment, index) {
            let range = part.range(hot.bytes().get(at..)?, loc, revision)?;
            return hot.slice(at + range.start..at + range.end);
        }
        // A scan is no sign that something will be used again.
        let window_place = (loc.segment.raw(), piece.offset);
        let window = match reader {
            Reader::Point => self.windows.get(window_place),
            Reader::Passing => self.windows.peek(window_place),
        };
        if let Some(window) = window
            && let Some(bytes) = window.get(at..)
            && let Some(range) = part.range(bytes, loc, revision)
        {
            return Some(window.slice(at + range.start..at + range.end));
        }
        let place = (loc.segment.raw(), loc.offset);
        let record = match reader {
            Reader::Point => self.records.get(place),
            Reader::Passing => self.records.peek(place),
        };
        let kept = record.and_then(|record| {
            let range = part.range(record, loc, revision)?;
            Some(record.slice(range))
        });
        kept.or_else(|| {
            let record = self.held().find_map(|held| held.record(place))?;
            let range = part.range(record, loc, revision)?;
            Some(record.slice(range))
        })
    }

    /// Whether the record at `loc` can be read without loading.
    pub(crate) fn is_resident(&self, loc: Loc) -> bool {
        self.bytes_in_memory(loc).is_some()
    }

    /// The piece at `place` as far as it was read back and is sound.
    fn window(&self, place: Place) -> Option<&Bytes> {
        let kept = self.windows.peek(place);
        kept.or_else(|| self.passing.windows.peek(place))
            .or_else(|| self.held().find_map(|held| held.window(place)))
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        [&self.held_for_wave, &self.held_for_favoured].into_iter()
    }

    fn held_mut(&mut self, holder: Holder) -> &mut Held {
        match holder {
            Holder::Wave => &mut self.held_for_wave,
            Holder::Favoured => &mut self.held_for_favoured,
        }
    }

    fn bytes_in_memory(&self, loc: Loc) -> Option<&[u8]> {
        let (segment, index) = self.locate(loc.segment, loc.offset, loc.len)?;
        let piece = segment.pieces[index];
        let at = (loc.offset - piece.offset) as usize;
        let range = at..at + loc.len as usize;
        if let Some(hot) = self.hot(segment, index) {
            return hot.bytes().get(range);
        }
        let window = self.window((loc.segment.raw(), piece.offset));
        if let Some(bytes) = window.and_then(|window| window.get(range)) {
            return Some(bytes);
        }
        let place = (loc.segment.raw(), loc.offset);
        let kept = self.records.peek(place);
        let passing = || self.passing.records.peek(place);
        let held = || self.held().find_map(|held| held.record(place));
        let record = kept.or_else(passing).or_else(held)?;
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
                    self.stream(segment.kind).is_written(segment, piece)
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
        let history = &self.history;
        let behind = history
            .segments
            .partition_point(|segment| segment.last().main <= at);
        let Some(segment) = history.segments.get(behind) else {
            return 0;
        };
        let piece = segment
            .pieces
            .partition_point(|piece| piece.last.main <= at);
        history.count - segment.pieces[piece].ordinal
    }

    /// The most records of history with `from` ≤ main ≤ `to`, and the most bytes of their keys and values: those of
    /// all pieces that have some.
    pub(crate) fn extent(&self, from: i64, to: i64) -> (u64, u64) {
        let (mut records, mut bytes) = (0, 0);
        let segments = &self.history.segments;
        let first = segments.partition_point(|segment| segment.last().main < from);
        for segment in &segments[first..] {
            let behind = segment
                .pieces
                .partition_point(|piece| piece.last.main < from);
            let pieces = segment.pieces[behind..].iter();
            for piece in pieces.take_while(|piece| piece.first.main <= to) {
                let headers = u64::from(piece.records) * RECORD_HEADER_BYTES as u64;
                records += u64::from(piece.records);
                bytes += u64::from(piece.len).saturating_sub(headers);
            }
        }
        (records, bytes)
    }

    /// Notes that `need` is asked for by a large scan.
    pub(crate) fn want_passing(&mut self, need: Need) {
        if matches!(need, Need::Bytes { .. }) {
            self.passing.want(need);
        }
    }

    /// Checks the index, and every record that is in a tail: checksum, order, no gaps.
    pub(crate) fn verify(&self) -> Result<(), String> {
        self.history.verify(self.salt)?;
        self.settled.verify(self.salt)?;
        let (history, settled) = (self.history.sums(), self.settled.sums());
        let leaving: u64 = self.leaving.iter().map(|(_, bytes)| bytes).sum();
        let sums = (history.0 + settled.0 + leaving, history.1 + settled.1);
        if sums != (self.valid_bytes, self.live_bytes) {
            let kept = (self.valid_bytes, self.live_bytes);
            return Err(format!("{sums:?} bytes found, {kept:?} counted"));
        }
        match self
            .segments()
            .find(|segment| segment.id.number() >= self.next_number)
        {
            Some(segment) => Err(format!("{:?} before {}", segment.id, self.next_number)),
            None => Ok(()),
        }
    }

    #[cfg(test)]
    fn append_out_of_order(&mut self, record: &Record<'_>) -> Option<Loc> {
        let history = &mut self.history;
        let pieces = &mut history.segments.last_mut()?.pieces;
        let index = pieces.len().checked_sub(2)?;
        let end = pieces[index].end();
        let (segment, offset) = history.tail.append_before(record, self.salt, end)?;
        let len = record.encoded_len();
        pieces[index].len += padded(len) as u32;
        history.last = record.revision;
        let holder = self.segment_mut(segment)?;
        holder.live_bytes += len as u64;
        holder.valid_bytes += padded(len) as u64;
        self.live_bytes += len as u64;
        self.valid_bytes += padded(len) as u64;
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

/// What of a record is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Value,
    Whole,
}

impl Part {
    /// Where in `bytes` it is, of the record at their start; nothing if that is not the record of `loc`.
    fn range(
        self,
        bytes: &[u8],
        loc: Loc,
        revision: Option<Revision>,
    ) -> Option<std::ops::Range<usize>> {
        let record = Record::parse(bytes).ok()?;
        let same = revision.is_none_or(|revision| revision == record.revision);
        let start = match self {
            Part::Value => RECORD_HEADER_BYTES + record.key.len(),
            Part::Whole => 0,
        };
        let range = start..record.encoded_len();
        (same && range.end == loc.len as usize).then_some(range)
    }
}
