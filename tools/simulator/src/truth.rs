//! The member's log as it is on the disk after the run: the order in which everything happened.
//!
//! Reads an image with the log's own opening machine, executed at once on the image's bytes.

use std::collections::BTreeMap;

use engine::command::Command;
use engine::entry::EntryReader;
use reactor::sim::DiskImage;
use wal::io::{Directory, FileName, IoFailure, IoOperation, IoOutput, IoRequest};
use wal::{Config, Opened, Opening, inspect};

/// One log entry with its commands.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// Log index.
    pub index: u64,
    /// Its bytes.
    pub data: bytes::Bytes,
    /// What it carries; nothing for one that consensus made for itself.
    pub commands: Vec<Command>,
}

/// Reads all entries of the data directory `root` in `image`.
///
/// # Errors
/// What the opening machine says, or an entry that cannot be read.
pub fn read_log(image: &DiskImage, root: &str, config: &Config) -> Result<Vec<LogEntry>, String> {
    let opened = open(image, root, config)?;
    let mut entries = Vec::new();
    for entry in opened.entries {
        let mut commands = Vec::new();
        if !entry.data.is_empty() {
            let cannot = |error| format!("entry {}: {error}", entry.index.0);
            for request in EntryReader::new(entry.data.clone()).map_err(cannot)? {
                commands.push(request.map_err(cannot)?.command);
            }
        }
        entries.push(LogEntry {
            index: entry.index.0,
            data: entry.data,
            commands,
        });
    }
    Ok(entries)
}

/// Opens the log of an image; the image stays as it is.
///
/// # Errors
/// What the opening machine says.
pub fn open(image: &DiskImage, root: &str, config: &Config) -> Result<Opened, String> {
    let mut disk = Disk {
        image: image.clone(),
        root: root.to_owned(),
    };
    let mut opening = Opening::new(config.clone(), None);
    let mut requests: Vec<IoRequest> = Vec::new();
    loop {
        opening.poll(&mut requests);
        if let Some(outcome) = opening.outcome() {
            return outcome.map_err(|error| error.to_string());
        }
        assert!(
            !requests.is_empty(),
            "the opening machine waits for nothing"
        );
        // The machine lists requests after those they wait for.
        for request in std::mem::take(&mut requests) {
            let result = disk.execute(request.operation);
            opening.complete(request.id, result);
        }
    }
}

struct Disk {
    image: DiskImage,
    root: String,
}

impl Disk {
    fn path(&self, file: &FileName) -> String {
        format!("{}/{}", self.root, file.path())
    }

    fn execute(&mut self, operation: IoOperation) -> Result<IoOutput, IoFailure> {
        match operation {
            IoOperation::List(directory) => Ok(IoOutput::Listing(self.list(directory))),
            IoOperation::Open { file } => {
                let length = self.image.length(&self.path(&file));
                length.map(IoOutput::Length).ok_or(IoFailure::NotFound)
            }
            IoOperation::Read { file, offset, len } => {
                let path = self.path(&file);
                let length = self.image.length(&path).ok_or(IoFailure::NotFound)?;
                let mut bytes = vec![0; length.saturating_sub(offset).min(len) as usize];
                self.image.read_at(&path, offset, &mut bytes);
                Ok(IoOutput::Bytes(bytes))
            }
            IoOperation::Write { file, offset, data } => {
                let path = self.path(&file);
                self.image.write_at(&path, offset, &data);
                Ok(IoOutput::None)
            }
            IoOperation::Create { file, len } => {
                let path = self.path(&file);
                self.image.insert(&path, &vec![0; len as usize]);
                Ok(IoOutput::None)
            }
            IoOperation::Delete { file } => {
                let path = self.path(&file);
                self.image.remove(&path);
                Ok(IoOutput::None)
            }
            IoOperation::Rename { from, to } => {
                let bytes = self
                    .image
                    .read(&self.path(&from))
                    .ok_or(IoFailure::NotFound)?;
                let (from, to) = (self.path(&from), self.path(&to));
                self.image.remove(&from);
                self.image.insert(&to, &bytes);
                Ok(IoOutput::None)
            }
            IoOperation::CreateDirectory(_)
            | IoOperation::Sync { .. }
            | IoOperation::SyncDirectory(_) => Ok(IoOutput::None),
        }
    }

    /// Names in a directory, subdirectories included.
    fn list(&self, directory: Directory) -> Vec<(String, u64)> {
        let prefix = match directory {
            Directory::Root => format!("{}/", self.root),
            other => format!("{}/{}/", self.root, other.path()),
        };
        let mut names = BTreeMap::new();
        for path in self.image.paths() {
            let Some(rest) = path.strip_prefix(&prefix) else {
                continue;
            };
            match rest.split_once('/') {
                Some((subdirectory, _)) => names.insert(subdirectory.to_owned(), 0),
                None => names.insert(rest.to_owned(), self.image.length(path).unwrap_or(0)),
            };
        }
        names.into_iter().collect()
    }
}

/// Highest index that durable evidence in the image speaks of: a record's watermark, or the mark of a
/// clean stop.
pub fn evidence(image: &DiskImage, root: &str) -> u64 {
    let superblock = image
        .read(&format!("{root}/superblock"))
        .unwrap_or_default();
    let copies = inspect::superblock_copies(&superblock);
    let Some(superblock) = inspect::newest(&copies) else {
        return 0;
    };
    let mut highest = superblock.clean.map_or(0, |clean| clean.index.0);
    for path in image.paths() {
        let relative = path
            .strip_prefix(root)
            .unwrap_or(path)
            .trim_start_matches('/');
        let Some(FileName::Segment { lane, number }) = FileName::parse(relative) else {
            continue;
        };
        let bytes = image.read(path).unwrap_or_default();
        for record in inspect::segment_records(lane, number, &bytes, superblock.salt) {
            highest = highest.max(record.header.map_or(0, |header| header.durable_index.0));
        }
    }
    highest
}
