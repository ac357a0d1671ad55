//! A disk in memory that keeps what a real one promises, and nothing more.
//!
//! Completed writes are visible at once and durable after a completed sync of the file. Until then each of
//! them, and each write in flight, may be kept, lost or torn per 512-byte sector at a power cut, in any
//! combination. Creations, renames and deletions are durable after a sync of the directory; until then a
//! suffix of them may be undone. A killed process leaves completed writes visible and un-synced. One request
//! may be told to fail, and the room for files may be limited.
//!
//! A million states are made from copies of this disk, so copies share everything that they do not change.

use crate::{
    BLOCK_BYTES, Directory, FileName, IoFailure, IoId, IoOperation, IoOutput, IoRequest, Machine,
    Target,
};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const BLOCK: usize = BLOCK_BYTES as usize;
const SECTOR: usize = 512;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// What became of an un-synced write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It reached the medium.
    Kept,
    /// It did not.
    Lost,
    /// Only the sectors of the mask did (sector `i` by bit `i % 64`).
    Torn(u64),
}

#[derive(Clone, Debug)]
struct Write {
    /// Position in the order of completion, over the whole disk.
    sequence: u64,
    offset: u64,
    data: Rc<Vec<u8>>,
}

/// One block: a piece of what was written.
#[derive(Clone, Debug)]
struct Block {
    data: Rc<Vec<u8>>,
    at: usize,
}

impl Block {
    fn bytes(&self) -> &[u8] {
        &self.data[self.at..self.at + BLOCK]
    }
}

/// Blocks by number; an absent block reads as zeros. Copies share them.
#[derive(Clone, Debug, Default)]
struct Blocks(Rc<Vec<Option<Block>>>);

impl Blocks {
    fn apply(&mut self, write: &Write, fate: Fate) {
        if fate == Fate::Lost {
            return;
        }
        let first = (write.offset / BLOCK_BYTES) as usize;
        let count = write.data.len() / BLOCK;
        let blocks = Rc::make_mut(&mut self.0);
        if blocks.len() < first + count {
            blocks.resize(first + count, None);
        }
        for (position, block) in blocks[first..first + count].iter_mut().enumerate() {
            let at = position * BLOCK;
            let piece = &write.data[at..at + BLOCK];
            *block = match fate {
                Fate::Torn(mask) => Some(torn(block.as_ref(), piece, position, mask)),
                _ if piece == ZEROS => None,
                _ => Some(Block {
                    data: write.data.clone(),
                    at,
                }),
            };
        }
    }

    fn read(&self, offset: u64, len: u64, end: u64) -> Vec<u8> {
        let len = len.min(end.saturating_sub(offset)) as usize;
        let mut bytes = Vec::with_capacity(len);
        let mut number = (offset / BLOCK_BYTES) as usize;
        while bytes.len() < len {
            let count = BLOCK.min(len - bytes.len());
            let block = self.0.get(number).and_then(Option::as_ref);
            bytes.extend_from_slice(&block.map_or(&ZEROS[..], Block::bytes)[..count]);
            number += 1;
        }
        bytes
    }
}

/// `old` with those sectors of `piece` that the mask selects.
fn torn(old: Option<&Block>, piece: &[u8], position: usize, mask: u64) -> Block {
    let mut bytes = old.map_or(&ZEROS[..], Block::bytes).to_vec();
    for sector in 0..BLOCK / SECTOR {
        let bit = (position * (BLOCK / SECTOR) + sector) % 64;
        if mask >> bit & 1 == 1 {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            bytes[range.clone()].copy_from_slice(&piece[range]);
        }
    }
    Block {
        data: Rc::new(bytes),
        at: 0,
    }
}

#[derive(Clone, Debug, Default)]
struct File {
    stable: Blocks,
    stable_length: u64,
    length: u64,
    /// Completed, not synced, in order of completion.
    unsynced: Vec<Write>,
    /// Content as a reader sees it, kept in step.
    visible: Blocks,
}

impl File {
    fn settle(&mut self, through: u64) {
        let count = self
            .unsynced
            .partition_point(|write| write.sequence <= through);
        for write in self.unsynced.drain(..count) {
            self.stable.apply(&write, Fate::Kept);
        }
        self.stable_length = self.length;
    }

    fn is_settled(&self) -> bool {
        self.unsynced.is_empty() && self.stable_length == self.length
    }
}

type Inode = u64;

#[derive(Clone, Copy, Debug)]
enum Change {
    Link(Target, Inode),
    Unlink(Target),
    Rename(Target, Target),
}

#[derive(Clone, Debug, Default)]
struct Names {
    stable: BTreeMap<Target, Inode>,
    visible: BTreeMap<Target, Inode>,
    unsynced: Vec<(u64, Change)>,
}

fn apply(names: &mut BTreeMap<Target, Inode>, change: Change) {
    match change {
        Change::Link(name, inode) => {
            names.insert(name, inode);
        }
        Change::Unlink(name) => {
            names.remove(&name);
        }
        Change::Rename(from, to) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
    }
}

impl Names {
    fn change(&mut self, sequence: u64, change: Change) {
        apply(&mut self.visible, change);
        self.unsynced.push((sequence, change));
    }

    fn settle(&mut self, count: usize) {
        for (_, change) in self.unsynced.drain(..count) {
            apply(&mut self.stable, change);
        }
    }

    fn settle_through(&mut self, through: u64) {
        let count = self
            .unsynced
            .partition_point(|(sequence, _)| *sequence <= through);
        self.settle(count);
    }
}

/// A submitted request.
#[derive(Clone, Debug)]
struct Submitted {
    id: IoId,
    /// Without the data of a write, which stands beside it.
    operation: IoOperation,
    data: Option<Rc<Vec<u8>>>,
    /// What completed up to here is covered, if it is a sync.
    covers: u64,
}

/// A request that is to fail.
#[derive(Clone, Copy, Debug)]
struct Failing {
    /// Requests that still succeed.
    after: u64,
    /// What becomes of its data, if it is a write.
    fate: Fate,
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The machine loses power. One fate per [`SimDisk::unsynced`] write, and per directory how many of its
    /// un-synced changes survive.
    Power {
        /// Fates, in the order of [`SimDisk::unsynced`].
        fates: Vec<Fate>,
        /// Number of un-synced changes kept, per directory with such changes.
        changes: Vec<usize>,
    },
    /// The process is killed: completed writes stay visible and un-synced, those in flight meet a fate.
    Kill {
        /// Fates of the writes in flight.
        fates: Vec<Fate>,
    },
}

/// The disk and the requests in flight.
///
/// Invariants: `visible` is `stable` with all un-synced writes applied in order; a request is submitted
/// only after everything it depends on succeeded, and dropped if something it depends on failed.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    files: BTreeMap<Inode, Rc<File>>,
    directories: BTreeMap<Directory, Rc<Names>>,
    inode_next: Inode,
    sequence: u64,
    changes: u64,
    queued: Vec<IoRequest>,
    submitted: Vec<Submitted>,
    /// By machine and count; counts go up from 1 in the life of a process.
    done: BTreeMap<Machine, Vec<bool>>,
    dropped: BTreeSet<IoId>,
    failing: Option<Failing>,
    failed: Option<&'static str>,
    room_bytes: Option<u64>,
}

impl SimDisk {
    /// An empty disk; the data directory exists and is empty.
    pub fn new() -> SimDisk {
        let mut disk = SimDisk::default();
        disk.directories
            .insert(Directory::Root, Rc::new(Names::default()));
        disk
    }

    /// Takes requests from a machine.
    pub fn accept(&mut self, requests: Vec<IoRequest>) {
        self.queued.extend(requests);
        self.start_ready();
    }

    /// Lets one request fail with an I/O error after `after` more succeeded, whatever it is. If it is a
    /// write, `fate` says what became of its data.
    pub fn fail_after(&mut self, after: u64, fate: Fate) {
        self.failing = Some(Failing { after, fate });
        self.failed = None;
    }

    /// Lets nothing fail any more.
    pub fn heal(&mut self) {
        self.failing = None;
    }

    /// What the request that [`SimDisk::fail_after`] let fail wanted to do, if it was reached.
    pub fn failed(&self) -> Option<&'static str> {
        self.failed
    }

    /// Limits the length of all files together; creating more fails for want of space.
    pub fn limit_room(&mut self, bytes: Option<u64>) {
        self.room_bytes = bytes;
    }

    /// Submits queued requests whose dependencies are done, drops those that will never be ready.
    fn start_ready(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        let covers = self.sequence;
        for mut request in std::mem::take(&mut self.queued) {
            let hopeless = |id: &IoId| self.dropped.contains(id);
            if !self.dropped.is_empty() && request.after.iter().any(hopeless) {
                self.dropped.insert(request.id);
                continue;
            }
            if !request.after.iter().all(|id| self.is_done(*id)) {
                self.queued.push(request);
                continue;
            }
            let data = match &mut request.operation {
                IoOperation::Write { data, .. } => Some(Rc::new(std::mem::take(data))),
                _ => None,
            };
            self.changes += u64::from(data.is_some());
            self.submitted.push(Submitted {
                id: request.id,
                operation: request.operation,
                data,
                covers,
            });
        }
    }

    fn is_done(&self, id: IoId) -> bool {
        let of_machine = self.done.get(&id.machine());
        of_machine.is_some_and(|done| done.get(id.count() as usize).copied().unwrap_or(false))
    }

    /// Number of submitted, not completed requests.
    pub fn in_flight(&self) -> usize {
        self.submitted.len()
    }

    /// Rises with everything that changes what a crash may leave behind.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What the submitted request at `position` does; the data of a write is left out.
    pub fn operation(&self, position: usize) -> &IoOperation {
        &self.submitted[position].operation
    }

    /// Completes the submitted request at `position`.
    pub fn complete(&mut self, position: usize) -> (IoId, Result<IoOutput, IoFailure>) {
        let submitted = self.submitted.remove(position);
        let reads = matches!(
            submitted.operation,
            IoOperation::Read { .. } | IoOperation::Open { .. } | IoOperation::List(_)
        );
        self.changes += u64::from(!reads);
        let result = match self.failing_now() {
            Some(fate) => Err(self.fail(&submitted, fate)),
            None => self.execute(&submitted),
        };
        if result.is_ok() {
            let position = submitted.id.count() as usize;
            let done = self.done.entry(submitted.id.machine()).or_default();
            let length = done.len().max(position + 1);
            done.resize(length, false);
            done[position] = true;
        } else {
            self.dropped.insert(submitted.id);
        }
        self.start_ready();
        (submitted.id, result)
    }

    fn failing_now(&mut self) -> Option<Fate> {
        let failing = self.failing.as_mut()?;
        if failing.after > 0 {
            failing.after -= 1;
            return None;
        }
        self.failing.take().map(|failing| failing.fate)
    }

    /// The request fails. What it was to sync stays un-synced, what it was to write meets its fate.
    fn fail(&mut self, submitted: &Submitted, fate: Fate) -> IoFailure {
        self.failed = Some(submitted.operation.verb());
        if matches!(submitted.operation, IoOperation::Write { .. }) {
            self.land(
                std::slice::from_ref(submitted),
                &mut [fate].into_iter(),
                false,
            );
        }
        IoFailure::Other {
            errno: 5,
            text: "Input/output error".to_owned(),
        }
    }

    fn inode(&self, file: FileName) -> Option<Inode> {
        let names = self.directories.get(&file.directory())?;
        names.visible.get(&Target::File(file)).copied()
    }

    fn file(&self, file: FileName) -> Option<&File> {
        self.files.get(&self.inode(file)?).map(Rc::as_ref)
    }

    fn file_mut(&mut self, file: FileName) -> Result<&mut File, IoFailure> {
        let inode = self.inode(file).ok_or(IoFailure::NotFound)?;
        let file = self.files.get_mut(&inode).ok_or(IoFailure::NotFound)?;
        Ok(Rc::make_mut(file))
    }

    fn names_mut(&mut self, directory: Directory) -> Result<&mut Names, IoFailure> {
        let names = self.directories.get_mut(&directory);
        names.map(Rc::make_mut).ok_or(IoFailure::NotFound)
    }

    fn execute(&mut self, submitted: &Submitted) -> Result<IoOutput, IoFailure> {
        self.sequence += 1;
        let sequence = self.sequence;
        match &submitted.operation {
            IoOperation::CreateDirectory(directory) => self.create_directory(*directory)?,
            IoOperation::List(directory) => return self.list(*directory),
            IoOperation::Create { file, len } => self.create(*file, *len)?,
            IoOperation::Open { file } => {
                let file = self.file(*file).ok_or(IoFailure::NotFound)?;
                return Ok(IoOutput::Length(file.length));
            }
            IoOperation::Read { file, offset, len } => {
                let file = self.file(*file).ok_or(IoFailure::NotFound)?;
                let bytes = file.visible.read(*offset, *len, file.length);
                return Ok(IoOutput::Bytes(bytes));
            }
            IoOperation::Write { file, offset, .. } => {
                let write = Write {
                    sequence: self.sequence,
                    offset: *offset,
                    data: submitted.data.clone().expect("a write has data"),
                };
                let file = self.file_mut(*file)?;
                file.visible.apply(&write, Fate::Kept);
                file.length = file.length.max(offset + write.data.len() as u64);
                file.unsynced.push(write);
            }
            IoOperation::Sync { file } => {
                self.file_mut(*file)?.settle(submitted.covers);
            }
            IoOperation::SyncDirectory(directory) => {
                self.names_mut(*directory)?.settle_through(submitted.covers);
            }
            IoOperation::Rename { from, to } => {
                self.inode(*from).ok_or(IoFailure::NotFound)?;
                let change = Change::Rename(Target::File(*from), Target::File(*to));
                self.names_mut(from.directory())?.change(sequence, change);
            }
            IoOperation::Delete { file } => {
                self.inode(*file).ok_or(IoFailure::NotFound)?;
                let change = Change::Unlink(Target::File(*file));
                self.names_mut(file.directory())?.change(sequence, change);
            }
        }
        Ok(IoOutput::None)
    }

    fn create_directory(&mut self, directory: Directory) -> Result<(), IoFailure> {
        if self.directories.contains_key(&directory) {
            return Ok(());
        }
        let (sequence, parent) = (self.sequence, parent(directory));
        let change = Change::Link(Target::Directory(directory), 0);
        self.names_mut(parent)?.change(sequence, change);
        self.directories
            .insert(directory, Rc::new(Names::default()));
        Ok(())
    }

    fn list(&self, directory: Directory) -> Result<IoOutput, IoFailure> {
        let names = self
            .directories
            .get(&directory)
            .ok_or(IoFailure::NotFound)?;
        let length = |inode: &Inode| self.files.get(inode).map_or(0, |file| file.length);
        let names = names.visible.iter();
        Ok(IoOutput::Listing(
            names
                .map(|(name, inode)| (name_of(*name), length(inode)))
                .collect(),
        ))
    }

    fn create(&mut self, file: FileName, length: u64) -> Result<(), IoFailure> {
        if self.inode(file).is_some() {
            return Err(IoFailure::Exists);
        }
        let used: u64 = self.file_list().iter().map(|(_, length)| length).sum();
        if self.room_bytes.is_some_and(|room| used + length > room) {
            return Err(IoFailure::NoSpace);
        }
        self.inode_next += 1;
        let (sequence, inode) = (self.sequence, self.inode_next);
        let change = Change::Link(Target::File(file), inode);
        self.names_mut(file.directory())?.change(sequence, change);
        let content = File {
            length,
            ..File::default()
        };
        self.files.insert(inode, Rc::new(content));
        Ok(())
    }

    /// Lengths in bytes of the un-synced writes that a power cut may lose: completed ones file by file, then
    /// those in flight.
    pub fn unsynced(&self) -> Vec<u64> {
        let completed = self
            .files
            .values()
            .flat_map(|file| file.unsynced.iter())
            .map(|write| write.data.len() as u64);
        completed.chain(self.writes_in_flight()).collect()
    }

    /// Lengths in bytes of the writes in flight.
    pub fn writes_in_flight(&self) -> impl Iterator<Item = u64> + '_ {
        let data = self.submitted.iter().filter_map(|s| s.data.as_ref());
        data.map(|data| data.len() as u64)
    }

    /// Number of un-synced changes, per directory that has some.
    pub fn unsynced_changes(&self) -> Vec<usize> {
        let counts = self.directories.values().map(|names| names.unsynced.len());
        counts.filter(|count| *count > 0).collect()
    }

    /// The process ends; what is left is what the next one finds.
    pub fn crash(&mut self, crash: &Crash) {
        *self = self.crashed(crash);
    }

    /// The disk that the next process finds if this one ends here.
    pub fn crashed(&self, crash: &Crash) -> SimDisk {
        let mut disk = SimDisk {
            files: self.files.clone(),
            directories: self.directories.clone(),
            inode_next: self.inode_next,
            sequence: self.sequence,
            failing: self.failing,
            failed: self.failed,
            room_bytes: self.room_bytes,
            ..SimDisk::default()
        };
        match crash {
            Crash::Power { fates, changes } => {
                let mut fates = fates.iter().copied();
                for file in disk.files.values_mut().filter(|file| !file.is_settled()) {
                    let file = Rc::make_mut(file);
                    for write in std::mem::take(&mut file.unsynced) {
                        let fate = fates.next().unwrap_or(Fate::Lost);
                        file.stable.apply(&write, fate);
                    }
                    file.length = file.stable_length;
                    file.visible = file.stable.clone();
                }
                disk.land(&self.submitted, &mut fates, true);
                disk.undo_changes(changes);
            }
            Crash::Kill { fates } => {
                disk.land(&self.submitted, &mut fates.iter().copied(), false);
            }
        }
        disk
    }

    fn land(
        &mut self,
        in_flight: &[Submitted],
        fates: &mut impl Iterator<Item = Fate>,
        stable: bool,
    ) {
        for submitted in in_flight {
            let IoOperation::Write { file, offset, .. } = &submitted.operation else {
                continue;
            };
            let fate = fates.next().unwrap_or(Fate::Lost);
            let write = Write {
                sequence: self.sequence,
                offset: *offset,
                data: submitted.data.clone().expect("a write has data"),
            };
            let Ok(file) = self.file_mut(*file) else {
                continue;
            };
            if stable {
                file.stable.apply(&write, fate);
                file.visible = file.stable.clone();
                continue;
            }
            if fate == Fate::Lost {
                continue;
            }
            file.visible.apply(&write, fate);
            // What landed in part is, from now on, an un-synced write of exactly that content.
            let bytes = file
                .visible
                .read(write.offset, write.data.len() as u64, u64::MAX);
            file.unsynced.push(Write {
                data: Rc::new(bytes),
                ..write
            });
        }
    }

    fn undo_changes(&mut self, kept: &[usize]) {
        let mut kept = kept.iter().copied();
        for names in self.directories.values_mut() {
            if names.unsynced.is_empty() {
                continue;
            }
            let names = Rc::make_mut(names);
            let count = kept.next().unwrap_or(0).min(names.unsynced.len());
            names.settle(count);
            names.unsynced.clear();
            names.visible = names.stable.clone();
        }
        let directories: Vec<Directory> = self.directories.keys().copied().collect();
        for directory in directories {
            if !self.is_linked(directory) {
                self.directories.remove(&directory);
            }
        }
        let linked: BTreeSet<Inode> = self
            .directories
            .values()
            .flat_map(|names| names.stable.values().copied())
            .collect();
        self.files.retain(|inode, _| linked.contains(inode));
    }

    fn is_linked(&self, directory: Directory) -> bool {
        directory == Directory::Root
            || self.is_linked(parent(directory))
                && self
                    .directories
                    .get(&parent(directory))
                    .is_some_and(|names| names.stable.contains_key(&Target::Directory(directory)))
    }

    /// Everything durable and visible: the base of a storage fault.
    pub fn settle_all(&mut self) {
        for names in self.directories.values_mut() {
            let changes = names.unsynced.len();
            Rc::make_mut(names).settle(changes);
        }
        for file in self.files.values_mut() {
            Rc::make_mut(file).settle(u64::MAX);
        }
    }

    /// Files that exist, with their lengths.
    pub fn file_list(&self) -> Vec<(FileName, u64)> {
        let mut files = Vec::new();
        for names in self.directories.values() {
            for (name, inode) in &names.visible {
                if let (Target::File(file), Some(content)) = (*name, self.files.get(inode)) {
                    files.push((file, content.length));
                }
            }
        }
        files
    }

    /// Bytes of a file as a reader sees them.
    pub fn bytes(&self, file: FileName, offset: u64, len: u64) -> Vec<u8> {
        self.file(file)
            .map(|file| file.visible.read(offset, len, file.length))
            .unwrap_or_default()
    }

    /// Damages a file behind everybody's back; `data` is whole blocks.
    pub fn overwrite(&mut self, file: FileName, offset: u64, data: Vec<u8>) {
        let write = Write {
            sequence: self.sequence,
            offset,
            data: Rc::new(data),
        };
        if let Ok(file) = self.file_mut(file) {
            file.stable.apply(&write, Fate::Kept);
            file.visible.apply(&write, Fate::Kept);
        }
    }
}

fn parent(directory: Directory) -> Directory {
    match directory {
        Directory::Root | Directory::Log | Directory::Shard(_) => Directory::Root,
        Directory::Lane(_) => Directory::Log,
    }
}

/// Name within the directory that holds it.
fn name_of(target: Target) -> String {
    match target {
        Target::File(file) => file.name(),
        Target::Directory(directory) => {
            let path = directory.path();
            path.rsplit('/').next().unwrap_or_default().to_owned()
        }
    }
}
