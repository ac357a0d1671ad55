//! The log's way to the disk: which pieces are written, and what a checkpoint holds.

use std::collections::{BTreeMap, BTreeSet};

use diskio::{FileName, IoFailure, IoId, IoOperation, Requests};

use super::segment::{SegmentFile, SegmentKind};
use super::stream::Stream;
use super::table::{self, TableError, TableWriter};
use super::tail::Writing;
use super::{EventLog, SegmentId};
use crate::planted::{Bug, planted};
use crate::store::StoreConfig;

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// Creates the file of a segment.
    Create(SegmentId),
    /// Writes the piece at this position of the log.
    Write(SegmentKind, u64),
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

/// What is requested of the disk, and what was done.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// There is somebody who executes requests.
    attached: bool,
    in_flight: BTreeMap<IoId, Work>,
    /// Whose turn it is when both kinds have pieces to write.
    settled_first: bool,
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
}

/// A table under construction: what comes next.
#[derive(Debug)]
pub(crate) struct FrozenTable {
    writer: TableWriter,
    kind: SegmentKind,
    /// Position of the segment among those of its kind.
    segment: usize,
    piece: usize,
}

impl Disk {
    pub(super) fn is_attached(&self) -> bool {
        self.attached
    }
}

impl EventLog {
    /// The log as the image's table describes it: nothing of it in memory, all of it on the disk.
    ///
    /// # Errors
    /// The bytes are no table.
    pub(crate) fn restore(config: &StoreConfig, table: &[u8]) -> Result<EventLog, TableError> {
        let found = table::read(table)?;
        let log = EventLog::new(config);
        let history_max = log.history.tail_bytes_max;
        let settled_max = log.settled.tail_bytes_max;
        Ok(EventLog {
            history: Stream::restore(SegmentKind::History, history_max, found.history),
            settled: Stream::restore(SegmentKind::Settled, settled_max, found.settled),
            next_number: found.next_number,
            valid_bytes: found.totals.valid_bytes,
            live_bytes: found.totals.live_bytes,
            disk: Disk {
                attached: true,
                ..Disk::default()
            },
            ..log
        })
    }

    /// Fixes the log of an image: everything appended up to here, and the live bytes as they are now.
    /// Segments that are retired are not in it any more; their files stay for the image before.
    pub(crate) fn freeze(&mut self) {
        self.remove_retired();
        for stream in [&mut self.history, &mut self.settled] {
            stream.seal();
            stream.fix();
        }
    }

    /// Begins the table of the log as of the last freeze.
    pub(crate) fn begin_frozen_table(&self) -> FrozenTable {
        let mut writer = TableWriter::new(self.next_number);
        writer.begin(self.history.frozen.len());
        FrozenTable {
            writer,
            kind: SegmentKind::History,
            segment: 0,
            piece: 0,
        }
    }

    /// Adds up to `steps` pieces and segments to the table; answers the bytes when it is whole. Nothing of
    /// what the last freeze has changes before the next one.
    pub(crate) fn continue_frozen_table(
        &self,
        table: &mut FrozenTable,
        steps: usize,
    ) -> Option<Vec<u8>> {
        for _ in 0..steps {
            let stream = self.stream(table.kind);
            let Some(frozen) = stream.frozen.get(table.segment) else {
                if table.kind == SegmentKind::History {
                    table.kind = SegmentKind::Settled;
                    (table.segment, table.piece) = (0, 0);
                    table.writer.begin(self.settled.frozen.len());
                    continue;
                }
                let writer = std::mem::replace(&mut table.writer, TableWriter::new(0));
                return Some(writer.finish());
            };
            let segment = &stream.segments[table.segment];
            if table.piece == 0 {
                table.writer.push(segment, frozen.pieces, frozen.live_bytes);
            }
            if let Some(piece) = segment.pieces[..frozen.pieces].get(table.piece) {
                table.writer.push_piece(piece);
                table.piece += 1;
            }
            if table.piece >= frozen.pieces {
                table.segment += 1;
                table.piece = 0;
            }
        }
        None
    }

    /// The table of the log as of the last freeze, at once.
    #[cfg(test)]
    pub(crate) fn frozen_table(&self) -> Vec<u8> {
        let mut table = self.begin_frozen_table();
        std::iter::repeat_with(|| self.continue_frozen_table(&mut table, 3))
            .find_map(|table| table)
            .expect("a table has an end")
    }

    /// Whether everything that the frozen table names is written.
    pub(crate) fn is_frozen_written(&self) -> bool {
        [&self.history, &self.settled]
            .iter()
            .all(|stream| stream.written >= stream.frozen_pieces)
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
        let mut kinds = [SegmentKind::History, SegmentKind::Settled];
        if self.disk.settled_first {
            kinds.reverse();
        }
        for kind in kinds {
            if self.request_next_of(kind, io) {
                self.disk.settled_first = kind == SegmentKind::History;
                return true;
            }
        }
        false
    }

    fn request_next_of(&mut self, kind: SegmentKind, io: &mut Requests<'_>) -> bool {
        let stream = self.stream(kind);
        let again = stream.again.first().copied();
        let sequence = again.unwrap_or(stream.issued);
        let piece = stream.tail.get(sequence).filter(|piece| piece.is_sealed());
        let Some(piece) = piece else {
            return false;
        };
        let id = piece.segment;
        let file = self.file(id.number());
        let index = stream.index_of(id).expect("the piece's segment");
        let stream = self.stream_mut(kind);
        let segment = &mut stream.segments[index];
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
                let piece = stream.tail.get_mut(sequence).expect("just seen");
                piece.writing = Writing::InFlight;
                let operation = IoOperation::Write {
                    file,
                    offset: u64::from(piece.offset),
                    data: piece.bytes().to_vec(),
                };
                let request = io.push(Vec::new(), operation);
                stream.again.remove(&sequence);
                stream.issued = stream.issued.max(sequence + 1);
                let work = Work::Write(kind, sequence);
                self.disk.in_flight.insert(request, work);
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
            (Work::Write(kind, sequence), Ok(())) => {
                let segment = self.stream_mut(kind).piece_written(sequence);
                self.disk.unsynced.insert(segment);
                self.keep_newest();
                Completed::Done
            }
            (Work::Create(segment), Err(IoFailure::NoSpace)) => {
                self.set_file(segment, SegmentFile::Absent);
                self.disk.stalled = true;
                Completed::NoSpace
            }
            (Work::Write(kind, sequence), Err(IoFailure::NoSpace)) => {
                let stream = self.stream_mut(kind);
                let piece = stream.tail.get_mut(sequence).expect("not written yet");
                piece.writing = Writing::Waiting;
                stream.again.insert(sequence);
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
        let segment = self.segment_mut(id).expect("a segment that was requested");
        segment.file = file;
    }

    fn failure(&self, work: Work, failure: &IoFailure) -> Completed {
        let (id, verb) = match work {
            Work::Create(id) => (id, "create".to_owned()),
            Work::Write(kind, sequence) => {
                let piece = self
                    .stream(kind)
                    .tail
                    .get(sequence)
                    .expect("not written yet");
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

    /// The image whose files were given out for syncs is durable and counts. Answers the files of segments
    /// that it does without.
    pub(crate) fn published(&mut self) -> Vec<FileName> {
        self.disk.syncing.clear();
        self.disk.created_published = self.disk.created_syncing;
        if planted(Bug::VictimDeletedEarly) {
            self.remove_retired();
        }
        let leaving = std::mem::take(&mut self.leaving);
        for (_, bytes) in &leaving {
            self.valid_bytes -= bytes;
        }
        let files = leaving.iter().map(|(id, _)| self.file(id.number()));
        files.collect()
    }

    /// Takes the retired segments out of the log.
    fn remove_retired(&mut self) {
        for stream in [&mut self.history, &mut self.settled] {
            for segment in stream.segments.extract_if(.., |segment| segment.retired) {
                self.leaving.push((segment.id, segment.valid_bytes));
                self.disk.unsynced.remove(&segment.id);
                self.disk.syncing.remove(&segment.id);
            }
        }
    }

    /// The files that the log needs, each with the least length that it must have.
    pub(crate) fn files(&self) -> impl Iterator<Item = (FileName, u64)> {
        self.segments().map(|segment| {
            let file = self.file(segment.id.number());
            (file, u64::from(segment.padded_end()))
        })
    }
}
