//! The log's way to the disk: which pieces are written, and what a checkpoint holds.

use std::collections::{BTreeMap, BTreeSet};

use diskio::{FileName, IoFailure, IoId, IoOperation, Requests};

use super::segment::SegmentFile;
use super::table::{self, TableError, TableWriter};
use super::tail::{Tail, Writing};
use super::{EventLog, SegmentId};
use crate::store::StoreConfig;

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// Creates the file of a segment.
    Create(SegmentId),
    /// Writes the piece at this position of the log.
    Write(u64),
}

/// What became of a completed request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Completed {
    /// Somebody else's request.
    NotMine,
    /// It is done.
    Done,
    /// There was no room. It comes again after [`EventLog::retry_space`].
    NoSpace,
    /// It failed for good. Nothing is requested any more.
    Failed {
        /// File concerned.
        file: FileName,
        /// What was attempted and how it failed.
        what: String,
    },
}

/// What the image holds of a segment.
#[derive(Clone, Copy, Debug)]
struct Frozen {
    pieces: usize,
    live_bytes: u64,
}

/// What is requested of the disk, and what was done.
///
/// Invariants: pieces before `written` are written, none from `issued` on is requested; `again` is below
/// `issued`.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// There is somebody who executes requests.
    attached: bool,
    in_flight: BTreeMap<IoId, Work>,
    written: u64,
    issued: u64,
    /// Pieces whose write found no room.
    again: BTreeSet<u64>,
    /// No room: waits for [`EventLog::retry_space`].
    stalled: bool,
    failed: bool,
    /// Segments written to since they were last given out for a sync; those given out for one.
    unsynced: BTreeSet<SegmentId>,
    syncing: BTreeSet<SegmentId>,
    /// Files created in this life: all; before the last round of syncs; before the last image.
    created: u64,
    created_syncing: u64,
    created_published: u64,
    /// The image, by position of the segment, and its number of pieces.
    frozen: Vec<Frozen>,
    frozen_pieces: u64,
}

impl Disk {
    pub(super) fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether the piece at position `sequence` and all before it are written.
    pub(super) fn is_written(&self, sequence: u64) -> bool {
        sequence < self.written
    }
}

impl EventLog {
    /// The log as the image's table describes it: nothing of it in memory, all of it on the disk.
    ///
    /// # Errors
    /// The bytes are no table.
    pub(crate) fn restore(config: &StoreConfig, table: &[u8]) -> Result<EventLog, TableError> {
        let (segments, totals) = table::read(table)?;
        let frozen = segments.iter().map(|segment| Frozen {
            pieces: segment.pieces.len(),
            live_bytes: segment.live_bytes,
        });
        let disk = Disk {
            attached: true,
            written: totals.pieces,
            issued: totals.pieces,
            frozen: frozen.collect(),
            frozen_pieces: totals.pieces,
            ..Disk::default()
        };
        Ok(EventLog {
            segments,
            tail: Tail::behind(totals.pieces),
            count: totals.records,
            last: totals.last,
            valid_bytes: totals.valid_bytes,
            live_bytes: totals.live_bytes,
            disk,
            ..EventLog::new(config)
        })
    }

    /// Fixes the log of an image: everything appended up to here, and the live bytes as they are now.
    pub(crate) fn freeze(&mut self) {
        self.seal();
        let frozen = self.segments.iter().map(|segment| Frozen {
            pieces: segment.pieces.len(),
            live_bytes: segment.live_bytes,
        });
        self.disk.frozen = frozen.collect();
        self.disk.frozen_pieces = self.tail.next();
    }

    /// Appends the table of the log as of the last freeze.
    pub(crate) fn frozen_table(&self, out: &mut Vec<u8>) {
        let frozen = &self.disk.frozen;
        let mut writer = TableWriter::new(out, frozen.len());
        for (segment, frozen) in self.segments.iter().zip(frozen) {
            writer.push(segment, &segment.pieces[..frozen.pieces], frozen.live_bytes);
        }
        writer.finish();
    }

    /// Whether everything that the frozen table names is written.
    pub(crate) fn is_frozen_written(&self) -> bool {
        self.disk.written >= self.disk.frozen_pieces
    }

    /// Requests at most `slots` creations and writes. The shard's directory is there.
    pub(crate) fn poll(&mut self, io: &mut Requests<'_>, slots: usize) {
        self.disk.attached = true;
        for _ in 0..slots {
            if self.disk.stalled || self.disk.failed || !self.request_next(io) {
                return;
            }
        }
    }

    /// Requests what comes next, if anything can be requested now.
    fn request_next(&mut self, io: &mut Requests<'_>) -> bool {
        let again = self.disk.again.first().copied();
        let sequence = again.unwrap_or(self.disk.issued);
        let Some(piece) = self.tail.get(sequence).filter(|piece| piece.is_sealed()) else {
            return false;
        };
        let id = piece.segment;
        let file = self.file(id.number());
        let index = self.segment_index(id).expect("the piece's segment");
        let segment = &mut self.segments[index];
        match segment.file {
            SegmentFile::Creating => false,
            SegmentFile::Absent => {
                segment.file = SegmentFile::Creating;
                let len = u64::from(segment.capacity);
                let operation = IoOperation::Create { file, len };
                let request = io.push(Vec::new(), operation);
                self.disk.in_flight.insert(request, Work::Create(id));
                true
            }
            SegmentFile::There => {
                let piece = self.tail.get_mut(sequence).expect("just seen");
                piece.writing = Writing::InFlight;
                let operation = IoOperation::Write {
                    file,
                    offset: u64::from(piece.offset),
                    data: piece.bytes().to_vec(),
                };
                let request = io.push(Vec::new(), operation);
                self.disk.in_flight.insert(request, Work::Write(sequence));
                self.disk.again.remove(&sequence);
                self.disk.issued = self.disk.issued.max(sequence + 1);
                true
            }
        }
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.disk.in_flight.len()
    }

    /// Takes the result of a request.
    pub(crate) fn complete(&mut self, id: IoId, result: Result<(), IoFailure>) -> Completed {
        let Some(work) = self.disk.in_flight.remove(&id) else {
            return Completed::NotMine;
        };
        match (work, result) {
            (Work::Create(segment), Ok(())) => {
                self.set_file(segment, SegmentFile::There);
                self.disk.created += 1;
                Completed::Done
            }
            (Work::Write(sequence), Ok(())) => {
                self.piece_written(sequence);
                Completed::Done
            }
            (Work::Create(segment), Err(IoFailure::NoSpace)) => {
                self.set_file(segment, SegmentFile::Absent);
                self.disk.stalled = true;
                Completed::NoSpace
            }
            (Work::Write(sequence), Err(IoFailure::NoSpace)) => {
                let piece = self.tail.get_mut(sequence).expect("not written yet");
                piece.writing = Writing::Waiting;
                self.disk.again.insert(sequence);
                self.disk.stalled = true;
                Completed::NoSpace
            }
            (work, Err(failure)) => {
                self.disk.failed = true;
                self.failure(work, &failure)
            }
        }
    }

    fn set_file(&mut self, id: SegmentId, file: SegmentFile) {
        let index = self
            .segment_index(id)
            .expect("a segment that was requested");
        self.segments[index].file = file;
    }

    fn piece_written(&mut self, sequence: u64) {
        let piece = self.tail.get_mut(sequence).expect("not written yet");
        piece.writing = Writing::Written;
        let segment = piece.segment;
        self.disk.unsynced.insert(segment);
        let is_written = |tail: &Tail, sequence| {
            let piece = tail.get(sequence);
            piece.is_some_and(|piece| piece.writing == Writing::Written)
        };
        while is_written(&self.tail, self.disk.written) {
            self.disk.written += 1;
        }
        self.tail.trim(self.tail_bytes_max);
    }

    fn failure(&self, work: Work, failure: &IoFailure) -> Completed {
        let (id, verb) = match work {
            Work::Create(id) => (id, "create".to_owned()),
            Work::Write(sequence) => {
                let piece = self.tail.get(sequence).expect("not written yet");
                let len = piece.bytes().len();
                let verb = format!("write {len} bytes at offset {}", piece.offset);
                (piece.segment, verb)
            }
        };
        Completed::Failed {
            file: self.file(id.number()),
            what: format!("{verb}: {failure}"),
        }
    }

    /// Tries again what found no room.
    pub(crate) fn retry_space(&mut self) {
        self.disk.stalled = false;
    }

    /// The files that must be synced before an image that holds what is written now is durable: written to
    /// since the last image. They are named again until [`EventLog::published`].
    pub(crate) fn files_to_sync(&mut self) -> Vec<FileName> {
        let unsynced = std::mem::take(&mut self.disk.unsynced);
        self.disk.syncing.extend(unsynced);
        self.disk.created_syncing = self.disk.created;
        let syncing = self.disk.syncing.iter();
        syncing.map(|id| self.file(id.number())).collect()
    }

    /// Whether files were created whose names no durable image relies on yet: the directory must be synced.
    pub(crate) fn created_files(&self) -> bool {
        self.disk.created > self.disk.created_published
    }

    /// The image whose files were given out for syncs is durable.
    pub(crate) fn published(&mut self) {
        self.disk.syncing.clear();
        self.disk.created_published = self.disk.created_syncing;
    }

    /// The files that the log needs, each with the least length that it must have.
    pub(crate) fn files(&self) -> impl Iterator<Item = (FileName, u64)> {
        self.segments.iter().map(|segment| {
            let file = self.file(segment.id.number());
            (file, u64::from(segment.padded_end()))
        })
    }
}
