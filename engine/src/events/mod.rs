//! The event log of one shard: every change in revision order, and with it every value.
//!
//! Owns the records, their places, and the sparse index from revisions to places. Refuses to know
//! what is in the tree, and which revisions may still be read. Append only; in memory. The format is
//! described in `docs/internals/event-log.md`.

mod loc;
mod record;
mod segment;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use loc::{Loc, SegmentClass, SegmentId};
pub use record::{RECORD_ALIGNMENT, RECORD_HEADER_BYTES, Record, RecordError};

use crate::planted::{Bug, planted};
use crate::revision::Revision;
use crate::step::{Need, Step, ready};
use crate::store::{MissingHook, StoreConfig};
use crate::tree::Draws;
use record::padded;
use segment::Segment;

/// The event log.
///
/// Invariants: segments are numbered from 1 without gaps; revisions ascend strictly over all records;
/// each segment's capacity is twice that of the one before, up to the maximum, or what its single
/// record takes.
#[derive(Debug)]
pub(crate) struct EventLog {
    segments: Vec<Segment>,
    salt: u64,
    segment_bytes_first: u32,
    segment_bytes_max: u32,
    /// Records appended.
    count: u64,
    /// Test mode: records that have to be loaded before they are read.
    missing: Option<Draws<(u64, u32)>>,
    /// Records that were declared missing and not loaded since.
    absent: std::collections::BTreeSet<(u64, u32)>,
}

/// Where the walk over the log stands: at a record or at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    segment: usize,
    offset: u32,
}

impl EventLog {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        assert!(
            config.segment_bytes_first <= config.segment_bytes_max,
            "segments grow"
        );
        EventLog {
            segments: Vec::new(),
            salt: config.salt,
            segment_bytes_first: config.segment_bytes_first,
            segment_bytes_max: config.segment_bytes_max,
            count: 0,
            missing: config.missing.map(|hook| {
                Draws::new(MissingHook {
                    rearm_after: u32::MAX,
                    ..hook
                })
            }),
            absent: std::collections::BTreeSet::new(),
        }
    }

    /// Revision of the newest record.
    pub(crate) fn last(&self) -> Revision {
        self.segments
            .last()
            .map_or(Revision::default(), |segment| segment.last)
    }

    /// Bytes of all valid records.
    pub(crate) fn valid_bytes(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| u64::from(segment.valid_len))
            .sum()
    }

    /// Bytes of the records that some version refers to.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.live_bytes).sum()
    }

    /// Live bytes of each segment, in order.
    pub(crate) fn live_bytes_of_segments(&self) -> impl Iterator<Item = (SegmentId, u64)> {
        self.segments
            .iter()
            .map(|segment| (segment.id, segment.live_bytes))
    }

    /// Appends `record`, whose revision is above all others.
    pub(crate) fn append(&mut self, record: &Record<'_>) -> Loc {
        if !planted(Bug::EventsOutOfOrder) {
            assert!(
                record.revision > self.last(),
                "event {:?} behind {:?}",
                record.revision,
                self.last()
            );
        }
        let len = record.encoded_len();
        if self
            .segments
            .last()
            .is_none_or(|segment| !segment.fits(len))
        {
            self.roll(record.revision, len);
        }
        let ordinal = self.count;
        self.count += 1;
        let first_fit = planted(Bug::EventsOutOfOrder)
            .then(|| self.segments.iter().position(|segment| segment.fits(len)))
            .flatten();
        let index = first_fit.unwrap_or(self.segments.len() - 1);
        let segment = &mut self.segments[index];
        segment.append(record, self.salt, ordinal)
    }

    /// Opens the next segment, large enough for a record of `len` bytes.
    fn roll(&mut self, first: Revision, len: usize) {
        let capacity = match self.segments.last_mut() {
            None => self.segment_bytes_first,
            Some(segment) => {
                segment.seal();
                segment
                    .capacity
                    .saturating_mul(2)
                    .min(self.segment_bytes_max)
            }
        };
        let least =
            u32::try_from(padded(len).next_multiple_of(4096)).expect("a record below 4 GiB");
        let id = SegmentId::event(self.segments.len() as u64 + 1);
        self.segments
            .push(Segment::new(id, capacity.max(least), first));
    }

    fn segment(&self, id: SegmentId) -> Option<&Segment> {
        match id.class() {
            SegmentClass::Event => self.segments.get((id.number() as usize).checked_sub(1)?),
            SegmentClass::WriteAhead => None,
        }
    }

    /// The record at `loc`; `None` if no record of that length stands there.
    pub(crate) fn record(&self, loc: Loc) -> Option<Record<'_>> {
        let bytes = self.segment(loc.segment)?.bytes_at(loc.offset)?;
        Record::parse(bytes.get(..loc.len as usize)?).ok()
    }

    /// The record at `loc` with its checksum verified.
    pub(crate) fn verified_record(&self, loc: Loc) -> Result<Record<'_>, RecordError> {
        let bytes = self
            .segment(loc.segment)
            .and_then(|segment| segment.bytes_at(loc.offset));
        let bytes = bytes.and_then(|bytes| bytes.get(..loc.len as usize));
        let bytes = bytes.ok_or(RecordError::Field {
            what: "behind the end of the segment",
        })?;
        Record::decode(bytes, self.salt)
    }

    /// Checks that `bytes` are the record at `loc`.
    pub(crate) fn verify_loaded(&self, bytes: &[u8]) -> Result<(), RecordError> {
        Record::decode(bytes, self.salt).map(|_| ())
    }

    /// Makes sure that the record at `loc` can be read.
    pub(crate) fn enter(&mut self, loc: Loc) -> Step<()> {
        let Some(draws) = &mut self.missing else {
            return Step::Ready(());
        };
        let name = (loc.segment.raw(), loc.offset);
        if self.absent.contains(&name) || draws.draw(&name) {
            self.absent.insert(name);
            let Loc {
                segment,
                offset,
                len,
            } = loc;
            return Step::Need(Need::Bytes {
                segment,
                offset,
                len,
            });
        }
        Step::Ready(())
    }

    /// Notes that the record at `offset` of `segment` was brought.
    pub(crate) fn loaded(&mut self, segment: SegmentId, offset: u32) {
        self.absent.remove(&(segment.raw(), offset));
        if let Some(draws) = &mut self.missing {
            draws.loaded((segment.raw(), offset));
        }
    }

    /// Value of the record at `loc`, which was entered.
    pub(crate) fn value(&self, loc: Loc) -> Option<Bytes> {
        let record = self.record(loc)?;
        let start = RECORD_HEADER_BYTES + record.key.len();
        self.segment(loc.segment)?
            .slice(loc.offset, start..loc.len as usize)
    }

    /// Key and value of a record of `key_len` bytes of key at `loc`, which was entered.
    pub(crate) fn key_and_value(&self, loc: Loc, key_len: usize) -> Option<(Bytes, Bytes)> {
        let segment = self.segment(loc.segment)?;
        let body = segment.slice(loc.offset, RECORD_HEADER_BYTES..loc.len as usize)?;
        Some((body.slice(..key_len), body.slice(key_len..)))
    }

    /// The record at the cursor, or what has to be loaded to read it; `None` at the end.
    pub(crate) fn read(&mut self, cursor: Cursor) -> Step<Option<(Loc, Record<'_>)>> {
        if self.missing.is_some()
            && let Some((loc, _)) = self.at(cursor)
        {
            ready!(self.enter(loc));
        }
        Step::Ready(self.at(cursor))
    }

    /// Records with main > `at`, to within the records of one index stride.
    pub(crate) fn estimate_after(&self, at: i64) -> u64 {
        let behind = self
            .segments
            .partition_point(|segment| segment.last.main <= at);
        let Some(segment) = self.segments.get(behind) else {
            return 0;
        };
        let point = segment
            .index
            .partition_point(|point| point.revision.main <= at);
        self.count
            - point
                .checked_sub(1)
                .map_or(segment.index[0], |i| segment.index[i])
                .ordinal
    }

    /// The first record with main ≥ `main`.
    pub(crate) fn seek(&self, main: i64) -> Cursor {
        let segment = self
            .segments
            .partition_point(|segment| segment.last.main < main);
        let mut cursor = Cursor { segment, offset: 0 };
        if let Some(found) = self.segments.get(segment) {
            cursor.offset = found.seek(main);
            while let Some((loc, record)) = self.at(cursor) {
                if record.revision.main >= main {
                    break;
                }
                cursor = self.behind(cursor, loc);
            }
        }
        cursor
    }

    /// The record at the cursor; `None` at the end.
    pub(crate) fn at(&self, cursor: Cursor) -> Option<(Loc, Record<'_>)> {
        let segment = self.segments.get(cursor.segment)?;
        let bytes = segment.bytes_at(cursor.offset)?;
        let record = Record::parse(bytes).expect("a record that was appended here");
        let len = record.encoded_len() as u32;
        Some((
            Loc {
                segment: segment.id,
                offset: cursor.offset,
                len,
            },
            record,
        ))
    }

    /// The cursor behind the record at `loc`, where `cursor` stands.
    pub(crate) fn behind(&self, cursor: Cursor, loc: Loc) -> Cursor {
        let offset = cursor.offset + padded(loc.len as usize) as u32;
        match offset < self.segments[cursor.segment].valid_len {
            true => Cursor { offset, ..cursor },
            false => Cursor {
                segment: cursor.segment + 1,
                offset: 0,
            },
        }
    }

    /// Checks every record: checksum, order, no gaps, index.
    pub(crate) fn verify(&self) -> Result<(), String> {
        let mut cursor = Cursor {
            segment: 0,
            offset: 0,
        };
        let mut last = Revision::default();
        let mut count = 0;
        while let Some((loc, _)) = self.at(cursor) {
            let record = self
                .verified_record(loc)
                .map_err(|error| format!("{loc:?}: {error}"))?;
            if record.revision <= last {
                return Err(format!(
                    "{loc:?}: event {:?} behind {last:?}",
                    record.revision
                ));
            }
            (last, count) = (record.revision, count + 1);
            cursor = self.behind(cursor, loc);
        }
        if (last, count) != (self.last(), self.count) {
            return Err(format!(
                "{count} events up to {last:?}, {} counted",
                self.count
            ));
        }
        for segment in &self.segments {
            self.verify_index(segment)?;
        }
        Ok(())
    }

    fn verify_index(&self, segment: &Segment) -> Result<(), String> {
        let id = segment.id;
        if segment.valid_len > segment.capacity || segment.index.is_empty() {
            return Err(format!(
                "{id:?}: {} of {} bytes",
                segment.valid_len, segment.capacity
            ));
        }
        for point in &segment.index {
            let record = segment.bytes_at(point.offset).map(Record::parse);
            match record {
                Some(Ok(record)) if record.revision == point.revision => {}
                other => return Err(format!("{id:?}: {point:?} names {other:?}")),
            }
        }
        let first = segment.index[0];
        if (first.offset, first.revision) != (0, segment.first) {
            return Err(format!(
                "{id:?}: begins at {:?}, indexed {first:?}",
                segment.first
            ));
        }
        Ok(())
    }
}
