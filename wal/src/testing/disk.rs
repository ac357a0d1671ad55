//! A disk in memory that keeps what a real one promises, and nothing more.
//!
//! Completed writes are visible at once and durable after a completed sync of the file. Until then each of
//! them, and each write in flight, may be kept, lost or torn per 512-byte sector at a power cut, in any
//! combination. Creations, renames and deletions are durable after a sync of the directory; until then a
//! suffix of them may be undone. A killed process leaves completed writes visible and un-synced.

use crate::BLOCK_BYTES;
use crate::io::{Directory, FileName, IoFailure, IoId, IoOperation, IoOutput, IoRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const BLOCK: usize = BLOCK_BYTES as usize;
const SECTOR: usize = 512;

type Block = Rc<Vec<u8>>;

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

/// Blocks by number; an absent block reads as zeros.
#[derive(Clone, Debug, Default)]
struct Blocks(BTreeMap<u64, Block>);

impl Blocks {
    fn apply(&mut self, write: &Write, fate: Fate) {
        if fate == Fate::Lost {
            return;
        }
        for (position, piece) in write.data.chunks(BLOCK).enumerate() {
            let block = write.offset / BLOCK_BYTES + position as u64;
            match fate {
                Fate::Kept if piece.iter().all(|byte| *byte == 0) => {
                    self.0.remove(&block);
                }
                Fate::Kept => {
                    self.0.insert(block, Rc::new(piece.to_vec()));
                }
                Fate::Torn(mask) => {
                    let old = self.0.get(&block);
                    let mut bytes = old.map_or_else(|| vec![0; BLOCK], |old| old.to_vec());
                    for sector in 0..BLOCK / SECTOR {
                        let bit = (position * (BLOCK / SECTOR) + sector) % 64;
                        if mask >> bit & 1 == 1 {
                            let range = sector * SECTOR..(sector + 1) * SECTOR;
                            bytes[range.clone()].copy_from_slice(&piece[range]);
                        }
                    }
                    self.0.insert(block, Rc::new(bytes));
                }
                Fate::Lost => {}
            }
        }
    }

    fn read(&self, offset: u64, len: u64, end: u64) -> Vec<u8> {
        let len = len.min(end.saturating_sub(offset)) as usize;
        let mut bytes = vec![0; len];
        let blocks = offset / BLOCK_BYTES..(offset + len as u64).div_ceil(BLOCK_BYTES);
        for (number, block) in self.0.range(blocks) {
            let start = (number * BLOCK_BYTES - offset) as usize;
            let count = BLOCK.min(len - start);
            bytes[start..start + count].copy_from_slice(&block[..count]);
        }
        bytes
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
}

type Inode = u64;

#[derive(Clone, Debug)]
enum Change {
    Link(String, Inode),
    Unlink(String),
    Rename(String, String),
}

#[derive(Clone, Debug, Default)]
struct Names {
    stable: BTreeMap<String, Inode>,
    visible: BTreeMap<String, Inode>,
    unsynced: Vec<(u64, Change)>,
}

fn apply(names: &mut BTreeMap<String, Inode>, change: &Change) {
    match change {
        Change::Link(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        Change::Unlink(name) => {
            names.remove(name);
        }
        Change::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

impl Names {
    fn change(&mut self, sequence: u64, change: Change) {
        apply(&mut self.visible, &change);
        self.unsynced.push((sequence, change));
    }

    fn settle(&mut self, count: usize) {
        for (_, change) in self.unsynced.drain(..count) {
            apply(&mut self.stable, &change);
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
    request: Rc<IoRequest>,
    data: Option<Rc<Vec<u8>>>,
    /// What completed up to here is covered, if it is a sync.
    covers: u64,
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
/// only after everything it depends on succeeded.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    files: BTreeMap<Inode, Rc<File>>,
    directories: BTreeMap<Directory, Names>,
    inode_next: Inode,
    sequence: u64,
    queued: Vec<Rc<IoRequest>>,
    submitted: Vec<Submitted>,
    done: BTreeSet<IoId>,
}

impl SimDisk {
    /// An empty disk; the data directory exists and is empty.
    pub fn new() -> SimDisk {
        let mut disk = SimDisk::default();
        disk.directories.insert(Directory::Root, Names::default());
        disk
    }

    /// Takes requests from a machine.
    pub fn accept(&mut self, requests: Vec<IoRequest>) {
        self.queued.extend(requests.into_iter().map(Rc::new));
        self.start_ready();
    }

    /// Submits queued requests whose dependencies are done.
    fn start_ready(&mut self) {
        let queued = std::mem::take(&mut self.queued);
        for request in queued {
            if !request.after.iter().all(|id| self.done.contains(id)) {
                self.queued.push(request);
                continue;
            }
            let covers = self.sequence;
            let data = match &request.operation {
                IoOperation::Write { data, .. } => Some(Rc::new(data.clone())),
                _ => None,
            };
            self.submitted.push(Submitted {
                request,
                data,
                covers,
            });
        }
    }

    /// Number of submitted, not completed requests.
    pub fn in_flight(&self) -> usize {
        self.submitted.len()
    }

    /// Whether the submitted request at `position` may change what a crash leaves behind.
    pub fn changes_state(&self, position: usize) -> bool {
        !matches!(
            self.submitted[position].request.operation,
            IoOperation::Read { .. } | IoOperation::Open { .. } | IoOperation::List(_)
        )
    }

    /// Completes the submitted request at `position`.
    pub fn complete(&mut self, position: usize) -> (IoId, Result<IoOutput, IoFailure>) {
        let submitted = self.submitted.remove(position);
        let id = submitted.request.id;
        let result = self.execute(&submitted);
        if result.is_ok() {
            self.done.insert(id);
        }
        self.start_ready();
        (id, result)
    }

    fn inode(&self, file: FileName) -> Option<Inode> {
        let names = self.directories.get(&file.directory())?;
        names.visible.get(&file.name()).copied()
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
        self.directories
            .get_mut(&directory)
            .ok_or(IoFailure::NotFound)
    }

    fn execute(&mut self, submitted: &Submitted) -> Result<IoOutput, IoFailure> {
        self.sequence += 1;
        let sequence = self.sequence;
        match &submitted.request.operation {
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
                let change = Change::Rename(from.name(), to.name());
                self.names_mut(from.directory())?.change(sequence, change);
            }
            IoOperation::Delete { file } => {
                self.inode(*file).ok_or(IoFailure::NotFound)?;
                let change = Change::Unlink(file.name());
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
        let change = Change::Link(directory_name(directory), 0);
        self.names_mut(parent)?.change(sequence, change);
        self.directories.insert(directory, Names::default());
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
                .map(|(name, inode)| (name.clone(), length(inode)))
                .collect(),
        ))
    }

    fn create(&mut self, file: FileName, length: u64) -> Result<(), IoFailure> {
        if self.inode(file).is_some() {
            return Err(IoFailure::Exists);
        }
        self.inode_next += 1;
        let (sequence, inode) = (self.sequence, self.inode_next);
        let change = Change::Link(file.name(), inode);
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
        let in_flight: Vec<Submitted> = std::mem::take(&mut self.submitted);
        self.queued.clear();
        self.done.clear();
        match crash {
            Crash::Power { fates, changes } => {
                let mut fates = fates.iter().copied();
                for file in self.files.values_mut() {
                    if file.unsynced.is_empty() && file.stable_length == file.length {
                        continue;
                    }
                    let file = Rc::make_mut(file);
                    for write in std::mem::take(&mut file.unsynced) {
                        file.stable
                            .apply(&write, fates.next().unwrap_or(Fate::Lost));
                    }
                }
                self.land(in_flight, &mut fates, true);
                self.undo_changes(changes);
                for file in self.files.values_mut() {
                    let file = Rc::make_mut(file);
                    file.length = file.stable_length;
                    file.visible = file.stable.clone();
                }
            }
            Crash::Kill { fates } => {
                self.land(in_flight, &mut fates.iter().copied(), false);
            }
        }
    }

    fn land(
        &mut self,
        in_flight: Vec<Submitted>,
        fates: &mut impl Iterator<Item = Fate>,
        stable: bool,
    ) {
        for submitted in in_flight {
            let IoOperation::Write { file, offset, .. } = &submitted.request.operation else {
                continue;
            };
            let fate = fates.next().unwrap_or(Fate::Lost);
            let write = Write {
                sequence: self.sequence,
                offset: *offset,
                data: submitted.data.expect("a write has data"),
            };
            let Ok(file) = self.file_mut(*file) else {
                continue;
            };
            if stable {
                file.stable.apply(&write, fate);
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
            let count = kept.next().unwrap_or(0).min(names.unsynced.len());
            names.settle(count);
            names.unsynced.clear();
            names.visible = names.stable.clone();
        }
        let mut linked: BTreeSet<Inode> = BTreeSet::new();
        let mut directories = vec![Directory::Root];
        while let Some(directory) = directories.pop() {
            let Some(names) = self.directories.get(&directory) else {
                continue;
            };
            linked.extend(names.stable.values());
            let below = self.directories.keys().filter(|below| {
                **below != Directory::Root
                    && parent(**below) == directory
                    && names.stable.contains_key(&directory_name(**below))
            });
            directories.extend(below);
        }
        self.files.retain(|inode, _| linked.contains(inode));
        let lost: Vec<Directory> = self
            .directories
            .keys()
            .copied()
            .filter(|directory| !self.is_linked(*directory))
            .collect();
        for directory in lost {
            self.directories.remove(&directory);
        }
    }

    fn is_linked(&self, directory: Directory) -> bool {
        directory == Directory::Root
            || self.is_linked(parent(directory))
                && self
                    .directories
                    .get(&parent(directory))
                    .is_some_and(|names| names.stable.contains_key(&directory_name(directory)))
    }

    /// Everything durable and visible: the base of a storage fault.
    pub fn settle_all(&mut self) {
        for names in self.directories.values_mut() {
            let changes = names.unsynced.len();
            names.settle(changes);
        }
        for file in self.files.values_mut() {
            let file = Rc::make_mut(file);
            file.settle(u64::MAX);
        }
    }

    /// Files that exist, with their lengths.
    pub fn file_list(&self) -> Vec<(FileName, u64)> {
        let mut files = Vec::new();
        for (directory, names) in &self.directories {
            for (name, inode) in &names.visible {
                let path = match directory {
                    Directory::Root => name.clone(),
                    other => format!("{}/{name}", other.path()),
                };
                if let (Some(file), Some(content)) = (FileName::parse(&path), self.files.get(inode))
                {
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
        Directory::Root | Directory::Log => Directory::Root,
        Directory::Lane(_) => Directory::Log,
    }
}

fn directory_name(directory: Directory) -> String {
    match directory {
        Directory::Root => String::new(),
        Directory::Log => "wal".to_owned(),
        Directory::Lane(lane) => format!("lane-{lane:02}"),
    }
}
