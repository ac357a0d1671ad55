//! The background I/O of one shard.
//!
//! One phase follows the other: a request is emitted when everything that it must come after is
//! complete, so a write that finds the device full can be emitted again later.

use std::collections::{BTreeMap, VecDeque};

use diskio::{
    BLOCK_BYTES, Directory, FileName, IoFailure, IoId, IoIds, IoOperation, IoOutput, IoRequest,
    Machine, Requests,
};

use super::allocator::{Allocator, Extent};
use super::attachment::Attachment;
use super::manifest::{Frozen, Manifest, encoded_len};
use super::types::ShardEvent;
use super::writer::{Contents, ManifestWriter};
use crate::checkpoint::ManifestRef;
use crate::events::{Completed, EventLog, FrozenTable};
use crate::planted::{Bug, planted};
use crate::tree::{Pages, RUN_BLOCKS_MAX};

/// Most writes that a shard has in flight.
const WRITES_IN_FLIGHT_MAX: usize = 8;
/// How many of them may be the image's pages.
const PAGE_WRITES_IN_FLIGHT_MAX: usize = 4;
/// Files that are removed at once: each may take the file system a while.
const DELETIONS_IN_FLIGHT_MAX: usize = 2;
/// Length of a new page file.
const PAGE_FILE_BYTES: u64 = 64 << 10;
/// Most bytes of one write.
const WRITE_BYTES_MAX: usize = RUN_BLOCKS_MAX as usize * BLOCK_BYTES as usize;
/// Pieces and segments that one call adds to the segment table.
const TABLE_STEPS_PER_POLL: usize = 1024;

/// What exists of the shard's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    /// Nothing was asked for yet.
    Absent,
    /// The directory is being created.
    Directory,
    /// The page file is being created.
    PageFile,
    Ready,
}

/// What a request in flight is for.
#[derive(Clone, Copy, Debug)]
enum Work {
    Directory,
    PageFile,
    Run(usize),
    Manifest,
    Sync,
    Delete,
}

/// A request in flight, with all that is needed to emit it again.
#[derive(Clone, Debug)]
struct Job {
    work: Work,
    operation: IoOperation,
}

/// How far the checkpoint under way is.
#[derive(Debug)]
enum Phase {
    /// Pages and events are being written.
    Flush,
    /// The manifest is being encoded and written.
    Manifest(Box<ManifestWriter>),
    /// Files and directories are being synced.
    Sync,
    /// All is durable but does not count yet.
    Durable,
}

/// The segment table of the manifest.
#[derive(Debug)]
enum Table {
    Growing(FrozenTable),
    Whole(Vec<u8>),
}

#[derive(Debug)]
struct Checkpoint {
    id: u32,
    frozen: Frozen,
    table: Table,
    attachment: Attachment,
    /// Extents of the older image that this one does not have.
    dead: Vec<Extent>,
    phase: Phase,
    /// Place of the manifest, once it has one, and its checksum, once it is known.
    manifest: Option<(Extent, Option<u64>)>,
}

/// A shard's files and the checkpoint under way.
///
/// Invariants:
/// - The blocks of the durable image, of the image under way, and free ones are disjoint: a block is
///   given out only if the map has it free, and freed only when an image without it is published.
/// - The manifest is emitted when every page and every event of the image is written, a sync when the
///   manifest is, `ImageDurable` when all syncs are complete.
/// - After a failed request nothing is emitted.
#[derive(Debug)]
pub(crate) struct Image {
    shard: u16,
    salt: u64,
    ids: IoIds,
    files: Files,
    /// The page file or the directories are new since the last image.
    created: bool,
    allocator: Allocator,
    /// Where the manifest of the published image stands.
    manifest: Option<Extent>,
    /// The last checkpoint that was begun.
    last_id: u32,
    checkpoint: Option<Checkpoint>,
    jobs: BTreeMap<IoId, Job>,
    /// Requests that found no space.
    starved: VecDeque<Job>,
    /// Nothing is emitted until there may be space.
    waits_for_space: bool,
    /// Files of the older image that no image needs any more.
    deletions: VecDeque<FileName>,
    events: VecDeque<ShardEvent>,
    failed: bool,
}

impl Image {
    /// Of a shard that has nothing on disk.
    pub(crate) fn new(shard: u16, salt: u64) -> Image {
        let ids = IoIds::new(Machine::shard(shard));
        Image::with_ids(shard, salt, ids)
    }

    /// Of a shard whose opening used ids and left nothing on disk.
    pub(super) fn with_ids(shard: u16, salt: u64, ids: IoIds) -> Image {
        Image {
            shard,
            salt,
            ids,
            files: Files::Absent,
            created: false,
            allocator: Allocator::default(),
            manifest: None,
            last_id: 0,
            checkpoint: None,
            jobs: BTreeMap::new(),
            starved: VecDeque::new(),
            waits_for_space: false,
            deletions: VecDeque::new(),
            events: VecDeque::new(),
            failed: false,
        }
    }

    /// Of a shard whose files are those of a published image.
    pub(super) fn restore(
        salt: u64,
        ids: IoIds,
        manifest: &Manifest,
        reference: ManifestRef,
    ) -> Image {
        let extent = extent_of(reference);
        Image {
            files: Files::Ready,
            allocator: Allocator::restore(manifest.map.clone()),
            manifest: Some(extent),
            last_id: manifest.id,
            ..Image::with_ids(manifest.shard, salt, ids)
        }
    }

    pub(crate) fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// Fixes the pages; their images, `frozen` and the events of `table` belong to checkpoint `id`.
    ///
    /// # Panics
    /// While another checkpoint is under way, or if `id` is not above all before.
    pub(crate) fn freeze(
        &mut self,
        id: u32,
        attachment: Attachment,
        table: FrozenTable,
        pages: &mut Pages,
        frozen: impl FnOnce(&Pages) -> Frozen,
    ) {
        assert!(self.checkpoint.is_none(), "two checkpoints at once");
        assert!(id > self.last_id, "checkpoint {id} after {}", self.last_id);
        self.last_id = id;
        let mut dead = pages.freeze(id, &mut self.allocator);
        dead.extend(self.manifest.take());
        self.checkpoint = Some(Checkpoint {
            id,
            frozen: frozen(pages),
            table: Table::Growing(table),
            attachment,
            dead,
            phase: Phase::Flush,
            manifest: None,
        });
    }

    /// Emits what may be emitted now: at most one run of pages, and no more writes than may be in flight.
    /// As long as something comes, or the answer is `true`, call again.
    pub(crate) fn poll(
        &mut self,
        pages: &mut Pages,
        log: &mut EventLog,
        out: &mut Vec<IoRequest>,
    ) -> bool {
        if self.failed {
            return false;
        }
        // Deletions make room, so they do not wait for it.
        let deleting = |job: &&Job| matches!(job.work, Work::Delete);
        let mut deletions = self.jobs.values().filter(deleting).count();
        while deletions < DELETIONS_IN_FLIGHT_MAX
            && let Some(file) = self.deletions.pop_front()
        {
            self.emit(Work::Delete, IoOperation::Delete { file }, out);
            deletions += 1;
        }
        if self.waits_for_space {
            return false;
        }
        while let Some(job) = self.starved.pop_front() {
            self.emit(job.work, job.operation, out);
        }
        if !self.has_files(out) {
            return false;
        }
        let goes_on = self.poll_checkpoint(pages, log, out);
        let slots = self.slots(log);
        log.poll(&mut Requests::background(&mut self.ids, out), slots);
        goes_on
    }

    /// Requests that may be emitted now.
    fn slots(&self, log: &EventLog) -> usize {
        WRITES_IN_FLIGHT_MAX.saturating_sub(self.jobs.len() + log.in_flight())
    }

    fn emit(&mut self, work: Work, operation: IoOperation, out: &mut Vec<IoRequest>) {
        let job = Job {
            work,
            operation: operation.clone(),
        };
        let id = Requests::background(&mut self.ids, out).push(Vec::new(), operation);
        self.jobs.insert(id, job);
    }

    /// Whether directory and page file exist; asks for them.
    fn has_files(&mut self, out: &mut Vec<IoRequest>) -> bool {
        if self.files == Files::Absent {
            self.files = Files::Directory;
            let directory = Directory::Shard(self.shard);
            self.emit(
                Work::Directory,
                IoOperation::CreateDirectory(directory),
                out,
            );
        } else if self.files == Files::PageFile && self.jobs.is_empty() && self.starved.is_empty() {
            let create = IoOperation::Create {
                file: self.page_file(),
                len: PAGE_FILE_BYTES,
            };
            self.emit(Work::PageFile, create, out);
        }
        self.files == Files::Ready
    }

    fn page_file(&self) -> FileName {
        FileName::Pages { shard: self.shard }
    }

    /// Emits the next request of the checkpoint under way; goes through phases that emit nothing. Answers
    /// whether it could do more that needs no completion.
    fn poll_checkpoint(
        &mut self,
        pages: &mut Pages,
        log: &mut EventLog,
        out: &mut Vec<IoRequest>,
    ) -> bool {
        let Some(checkpoint) = &mut self.checkpoint else {
            return false;
        };
        if matches!(checkpoint.phase, Phase::Flush) {
            if let Table::Growing(table) = &mut checkpoint.table
                && let Some(whole) = log.continue_frozen_table(table, TABLE_STEPS_PER_POLL)
            {
                checkpoint.table = Table::Whole(whole);
            }
            let has_table = matches!(checkpoint.table, Table::Whole(_));
            self.poll_flush(pages, log, out);
            let pages_done = match planted(Bug::ManifestBeforePages) {
                true => pages.is_handed_out(),
                false => pages.is_flushed(),
            };
            if !pages_done || !log.is_frozen_written() {
                return false;
            }
            if !has_table {
                return true;
            }
            self.begin_manifest();
        }
        if self.poll_manifest(out) {
            self.begin_sync(log, out);
        }
        self.poll_sync();
        false
    }

    fn poll_flush(&mut self, pages: &mut Pages, log: &EventLog, out: &mut Vec<IoRequest>) {
        // The other slots are the event log's: its tail grows while its pieces wait.
        if self.slots(log) > 0
            && self.jobs.len() < PAGE_WRITES_IN_FLIGHT_MAX
            && let Some(run) = pages.next_run()
        {
            let write = IoOperation::Write {
                file: self.page_file(),
                offset: run.address * BLOCK_BYTES,
                data: run.bytes,
            };
            self.emit(Work::Run(run.number), write, out);
        }
    }

    /// Emits the next part of the manifest; answers whether all of it has just been written.
    fn poll_manifest(&mut self, out: &mut Vec<IoRequest>) -> bool {
        let Some(checkpoint) = &mut self.checkpoint else {
            return false;
        };
        let Phase::Manifest(writer) = &mut checkpoint.phase else {
            return false;
        };
        let (extent, sum) = checkpoint
            .manifest
            .as_mut()
            .expect("a manifest with a place");
        if let Some((at, data)) = writer.next_part() {
            *sum = writer.sum();
            let offset = extent.block * BLOCK_BYTES + at as u64;
            let file = self.page_file();
            let write = IoOperation::Write { file, offset, data };
            self.emit(Work::Manifest, write, out);
            return false;
        }
        !self.has_jobs(|work| matches!(work, Work::Manifest)) && self.starved.is_empty()
    }

    fn poll_sync(&mut self) {
        let syncing = self.has_jobs(|work| matches!(work, Work::Sync));
        if let Some(checkpoint) = &mut self.checkpoint
            && matches!(checkpoint.phase, Phase::Sync)
            && !syncing
        {
            checkpoint.phase = Phase::Durable;
            let manifest = checkpoint.manifest.and_then(|(extent, sum)| {
                Some(ManifestRef {
                    block: extent.block,
                    bytes: (extent.blocks * BLOCK_BYTES) as u32,
                    sum: sum?,
                })
            });
            let manifest = manifest.expect("a manifest that was written");
            let id = checkpoint.id;
            self.events
                .push_back(ShardEvent::ImageDurable { id, manifest });
        }
    }

    fn has_jobs(&self, which: impl Fn(&Work) -> bool) -> bool {
        self.jobs.values().any(|job| which(&job.work))
    }

    /// Gives the manifest its place.
    fn begin_manifest(&mut self) {
        let checkpoint = self.checkpoint.as_mut().expect("a checkpoint under way");
        let table = match &mut checkpoint.table {
            Table::Whole(table) => std::mem::take(table),
            Table::Growing(_) => panic!("a manifest before its segment table"),
        };
        let without_map = encoded_len(0, table.len(), checkpoint.attachment.len()) as u64;
        // Its own blocks may lie behind all others and lengthen the map that it contains.
        let blocks_of = |words: u64| (without_map + 8 * words).div_ceil(BLOCK_BYTES);
        let mut words = self.allocator.words().len() as u64;
        loop {
            let end = self.allocator.words().len() as u64 * 64 + blocks_of(words);
            if end.div_ceil(64) <= words {
                break;
            }
            words = end.div_ceil(64);
        }
        let mut image = match planted(Bug::AllocatorForgetsManifest) {
            true => Some(self.allocator.clone()),
            false => None,
        };
        let extent = self.allocator.allocate(blocks_of(words));
        let image = image.get_or_insert_with(|| self.allocator.clone());
        checkpoint
            .dead
            .iter()
            .for_each(|&extent| image.free(extent));
        let mut map = image.words().to_vec();
        map.resize(words as usize, 0);
        let contents = Contents {
            shard: self.shard,
            id: checkpoint.id,
            frozen: checkpoint.frozen,
            map,
            table,
            attachment: std::mem::take(&mut checkpoint.attachment),
        };
        let writer = ManifestWriter::new(contents, self.salt, extent.block, WRITE_BYTES_MAX);
        assert_eq!(writer.len() as u64, extent.blocks * BLOCK_BYTES);
        checkpoint.manifest = Some((extent, None));
        checkpoint.phase = Phase::Manifest(Box::new(writer));
    }

    fn begin_sync(&mut self, log: &mut EventLog, out: &mut Vec<IoRequest>) {
        let mut syncs = Vec::new();
        if !planted(Bug::PagesNotSynced) {
            let file = self.page_file();
            syncs.push(IoOperation::Sync { file });
        }
        let segments = log.files_to_sync();
        if !planted(Bug::UnsyncedSegments) {
            syncs.extend(segments.into_iter().map(|file| IoOperation::Sync { file }));
        }
        let created = log.created_files() || self.created;
        if created && !planted(Bug::NoDirectorySync) {
            syncs.push(IoOperation::SyncDirectory(Directory::Shard(self.shard)));
        }
        if self.created && !planted(Bug::NoDirectorySync) {
            syncs.push(IoOperation::SyncDirectory(Directory::Root));
        }
        for sync in syncs {
            self.emit(Work::Sync, sync, out);
        }
        let checkpoint = self.checkpoint.as_mut().expect("a checkpoint under way");
        checkpoint.phase = Phase::Sync;
    }

    /// Handles a completion.
    pub(crate) fn complete(
        &mut self,
        pages: &mut Pages,
        log: &mut EventLog,
        id: IoId,
        result: Result<IoOutput, IoFailure>,
    ) {
        if self.failed {
            return;
        }
        let Some(job) = self.jobs.remove(&id) else {
            return self.complete_log(log, id, result);
        };
        match result {
            Ok(_) => self.succeeded(job.work, pages),
            Err(IoFailure::NotFound) if matches!(job.work, Work::Delete) => {}
            Err(IoFailure::NoSpace) if may_come_again(&job.operation) => {
                self.starved.push_back(job);
                self.wait_for_space();
            }
            Err(failure) => {
                let what = format!("could not {}: {failure}", job.operation.verb());
                self.fail(job.operation.path(), what);
            }
        }
    }

    fn complete_log(&mut self, log: &mut EventLog, id: IoId, result: Result<IoOutput, IoFailure>) {
        match log.complete(id, result.map(|_| ())) {
            Completed::NotMine | Completed::Done => {}
            Completed::NoSpace => self.wait_for_space(),
            Completed::Failed { file, what } => self.fail(file.path(), what),
        }
    }

    fn succeeded(&mut self, work: Work, pages: &mut Pages) {
        match work {
            Work::Directory => self.files = Files::PageFile,
            Work::PageFile => {
                self.files = Files::Ready;
                self.created = true;
            }
            Work::Run(number) => pages.run_written(number),
            Work::Manifest | Work::Sync | Work::Delete => {}
        }
    }

    fn wait_for_space(&mut self) {
        if !self.waits_for_space {
            self.waits_for_space = true;
            self.events.push_back(ShardEvent::NoSpace);
        }
    }

    fn fail(&mut self, file: String, what: String) {
        self.failed = true;
        self.events.push_back(ShardEvent::Failed { file, what });
    }

    /// There may be space again.
    pub(crate) fn retry_space(&mut self, log: &mut EventLog) {
        self.waits_for_space = false;
        log.retry_space();
    }

    pub(crate) fn next_event(&mut self) -> Option<ShardEvent> {
        self.events.pop_front()
    }

    /// The superblock names the image of checkpoint `id`: what only the older one had is free.
    ///
    /// # Panics
    /// If that image is not durable.
    pub(crate) fn published(&mut self, id: u32, log: &mut EventLog) {
        let checkpoint = self.checkpoint.take().expect("a checkpoint under way");
        assert_eq!(checkpoint.id, id, "another checkpoint is published");
        assert!(
            matches!(checkpoint.phase, Phase::Durable),
            "an image is published that is not durable"
        );
        for extent in checkpoint.dead {
            self.allocator.free(extent);
        }
        self.manifest = checkpoint.manifest.map(|(extent, _)| extent);
        self.created = false;
        self.deletions.extend(log.published());
    }
}

/// Whether a request that found no space may be repeated. A failed sync may not: what it lost is unknown.
fn may_come_again(operation: &IoOperation) -> bool {
    matches!(
        operation,
        IoOperation::Write { .. } | IoOperation::Create { .. } | IoOperation::CreateDirectory(_)
    )
}

pub(super) fn extent_of(reference: ManifestRef) -> Extent {
    Extent {
        block: reference.block,
        blocks: u64::from(reference.bytes).div_ceil(BLOCK_BYTES),
    }
}
