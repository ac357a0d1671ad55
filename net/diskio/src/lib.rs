//! Requests to a disk, with explicit dependencies, and the names of a data directory.
//!
//! Owns the vocabulary between the pure machines (the log, the shards) and whoever executes them; under
//! the feature `testing` also the simulated disk of the proofs. It holds no file and knows no format. The executor orders nothing
//! by itself: a request starts when all requests in `after` have **succeeded**, and not before. If one of
//! them failed, the request is dropped without an answer; the failed one is reported and the machine
//! stops. A [`IoOperation::Write`] that is directly followed by a [`IoOperation::Sync`] of the same file
//! which depends on it alone may be executed as one linked pair.

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "testing"))]
pub mod sim;

use std::fmt;

/// Alignment of every offset and length, in bytes.
pub const BLOCK_BYTES: u64 = 4096;

/// Who emits requests: machines of one member have different numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Machine(u16);

impl Machine {
    /// Superblock and log.
    pub const LOG: Machine = Machine(0);

    /// The machine of shard `shard`.
    pub fn shard(shard: u16) -> Machine {
        Machine(shard + 1)
    }

    /// The shard, unless this is the log.
    pub fn as_shard(self) -> Option<u16> {
        self.0.checked_sub(1)
    }
}

/// Identifies one request of one machine: the machine in the upper 16 bits, its count below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(u64);

impl IoId {
    const COUNT_BITS: u32 = 48;

    /// Who emitted the request.
    pub fn machine(self) -> Machine {
        Machine((self.0 >> Self::COUNT_BITS) as u16)
    }

    /// Number of the request in the life of its machine, from 1.
    pub fn count(self) -> u64 {
        self.0 & ((1 << Self::COUNT_BITS) - 1)
    }
}

/// Hands out a machine's [`IoId`]s; moves from its opening to its running form, so that no id is used
/// twice.
#[derive(Debug, Default)]
pub struct IoIds {
    machine: Machine,
    last: u64,
}

impl IoIds {
    /// Ids of a machine that has used none.
    pub fn new(machine: Machine) -> IoIds {
        IoIds { machine, last: 0 }
    }

    /// An id that was not used before.
    pub fn next_id(&mut self) -> IoId {
        self.last += 1;
        IoId(u64::from(self.machine.0) << IoId::COUNT_BITS | self.last)
    }
}

/// A file of the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// The superblock, four copies in one file.
    Superblock,
    /// The superblock while it is created, before the rename.
    SuperblockTemporary,
    /// One segment of a lane.
    Segment {
        /// Lane that owns it.
        lane: u16,
        /// Number in the lane; a segment keeps its name when it is recycled.
        number: u64,
    },
    /// The page file of a shard.
    Pages {
        /// Shard that owns it.
        shard: u16,
    },
    /// A segment of a shard's event log.
    Events {
        /// Shard that owns it.
        shard: u16,
        /// Number in the shard.
        number: u64,
    },
}

impl FileName {
    /// Path relative to the data directory.
    pub fn path(&self) -> String {
        match self {
            FileName::Superblock => "superblock".to_owned(),
            FileName::SuperblockTemporary => "superblock.new".to_owned(),
            FileName::Segment { lane, number } => {
                format!("wal/lane-{lane:02}/{number:016x}.seg")
            }
            FileName::Pages { shard } => format!("shard-{shard:02}/pages"),
            FileName::Events { shard, number } => {
                format!("shard-{shard:02}/{number:016x}.events")
            }
        }
    }

    /// Name without its directory.
    pub fn name(&self) -> String {
        match self {
            FileName::Segment { number, .. } => format!("{number:016x}.seg"),
            FileName::Events { number, .. } => format!("{number:016x}.events"),
            FileName::Pages { .. } => "pages".to_owned(),
            FileName::Superblock | FileName::SuperblockTemporary => self.path(),
        }
    }

    /// Directory that holds it.
    pub fn directory(&self) -> Directory {
        match self {
            FileName::Superblock | FileName::SuperblockTemporary => Directory::Root,
            FileName::Segment { lane, .. } => Directory::Lane(*lane),
            FileName::Pages { shard } | FileName::Events { shard, .. } => Directory::Shard(*shard),
        }
    }

    /// The file with this relative path; `None` if the path is not one of ours.
    pub fn parse(path: &str) -> Option<FileName> {
        match path {
            "superblock" => return Some(FileName::Superblock),
            "superblock.new" => return Some(FileName::SuperblockTemporary),
            _ => {}
        }
        let file = match path.strip_prefix("wal/lane-") {
            Some(rest) => {
                let (lane, name) = rest.split_once('/')?;
                FileName::Segment {
                    lane: lane.parse().ok()?,
                    number: segment_number(name)?,
                }
            }
            None => {
                let (shard, name) = path.strip_prefix("shard-")?.split_once('/')?;
                FileName::in_shard(shard.parse().ok()?, name)?
            }
        };
        (file.path() == path).then_some(file)
    }

    /// The file called `name` in the directory of `shard`; `None` if the name is not one of ours.
    pub fn in_shard(shard: u16, name: &str) -> Option<FileName> {
        if name == "pages" {
            return Some(FileName::Pages { shard });
        }
        let number = number_before(name, ".events")?;
        Some(FileName::Events { shard, number })
    }
}

/// Number of the log segment called `name` (without directory); `None` if it is not a segment's name.
pub fn segment_number(name: &str) -> Option<u64> {
    number_before(name, ".seg")
}

fn number_before(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let ours = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 16 || !digits.bytes().all(ours) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// A directory below the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Directory {
    /// The data directory itself.
    Root,
    /// `wal`, which holds the lanes.
    Log,
    /// One lane's directory.
    Lane(u16),
    /// One shard's directory.
    Shard(u16),
}

impl Directory {
    /// Path relative to the data directory; `.` for the root.
    pub fn path(&self) -> String {
        match self {
            Directory::Root => ".".to_owned(),
            Directory::Log => "wal".to_owned(),
            Directory::Lane(lane) => format!("wal/lane-{lane:02}"),
            Directory::Shard(shard) => format!("shard-{shard:02}"),
        }
    }
}

/// What a request concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A file.
    File(FileName),
    /// A directory.
    Directory(Directory),
}

impl Target {
    /// Path relative to the data directory.
    pub fn path(&self) -> String {
        match self {
            Target::File(file) => file.path(),
            Target::Directory(directory) => directory.path(),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoOperation {
    /// Creates the directory if it is not there (parents are requested separately). → `None`
    CreateDirectory(Directory),
    /// Names in the directory, subdirectories included, each with its length. → `Listing`
    List(Directory),
    /// New file, exclusively locked, read-write, direct, `len` bytes reserved and reading as zeros. → `None`
    Create {
        /// File to create; it must not exist.
        file: FileName,
        /// Its length in bytes.
        len: u64,
    },
    /// Existing file, exclusively locked, read-write, direct. → `Length`
    Open {
        /// File to open.
        file: FileName,
    },
    /// Reads from an open file. A short answer means that the file ends there. → `Bytes`
    Read {
        /// Open file.
        file: FileName,
        /// Aligned offset.
        offset: u64,
        /// Aligned length.
        len: u64,
    },
    /// Writes all of `data` to an open file. → `None`
    Write {
        /// Open file.
        file: FileName,
        /// Aligned offset.
        offset: u64,
        /// Aligned length.
        data: Vec<u8>,
    },
    /// Makes every completed write of the file durable, its length too. → `None`
    Sync {
        /// Open file.
        file: FileName,
    },
    /// Makes creations, renames and deletions in the directory durable. → `None`
    SyncDirectory(Directory),
    /// Renames within one directory; an open file is afterwards known by its new name. → `None`
    Rename {
        /// Name now.
        from: FileName,
        /// Name afterwards; replaced if it exists.
        to: FileName,
    },
    /// Closes and removes a file. → `None`
    Delete {
        /// File to remove.
        file: FileName,
    },
}

impl IoOperation {
    /// What is attempted, for error texts.
    pub fn verb(&self) -> &'static str {
        match self {
            IoOperation::CreateDirectory(_) => "create directory",
            IoOperation::List(_) => "list",
            IoOperation::Create { .. } => "create",
            IoOperation::Open { .. } => "open",
            IoOperation::Read { .. } => "read",
            IoOperation::Write { .. } => "write",
            IoOperation::Sync { .. } => "sync",
            IoOperation::SyncDirectory(_) => "sync directory",
            IoOperation::Rename { .. } => "rename",
            IoOperation::Delete { .. } => "delete",
        }
    }

    /// The file or directory concerned.
    pub fn target(&self) -> Target {
        match self {
            IoOperation::CreateDirectory(directory)
            | IoOperation::List(directory)
            | IoOperation::SyncDirectory(directory) => Target::Directory(*directory),
            IoOperation::Create { file, .. }
            | IoOperation::Open { file }
            | IoOperation::Read { file, .. }
            | IoOperation::Write { file, .. }
            | IoOperation::Sync { file }
            | IoOperation::Rename { from: file, .. }
            | IoOperation::Delete { file } => Target::File(*file),
        }
    }

    /// Relative path of the file or directory concerned.
    pub fn path(&self) -> String {
        self.target().path()
    }
}

/// How soon a request matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for it.
    Urgent,
    /// Preparation beside serving; may be delayed behind urgent requests.
    Background,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoRequest {
    /// Identity, reported back.
    pub id: IoId,
    /// Requests that must have succeeded before this one starts.
    pub after: Vec<IoId>,
    /// How soon it matters.
    pub priority: Priority,
    /// What is to be done.
    pub operation: IoOperation,
}

/// What a successful request brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoOutput {
    /// Nothing but success.
    None,
    /// Bytes read.
    Bytes(Vec<u8>),
    /// Length of the opened file.
    Length(u64),
    /// Names in a directory with their lengths.
    Listing(Vec<(String, u64)>),
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoFailure {
    /// No such file or directory.
    NotFound,
    /// The file exists already.
    Exists,
    /// Another process holds the lock.
    Locked,
    /// The device is full.
    NoSpace,
    /// Anything else.
    Other {
        /// The system's number.
        errno: i32,
        /// The system's text.
        text: String,
    },
}

impl fmt::Display for IoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IoFailure::NotFound => f.write_str("not found"),
            IoFailure::Exists => f.write_str("exists already"),
            IoFailure::Locked => f.write_str("locked by another process"),
            IoFailure::NoSpace => f.write_str("no space left on the device"),
            IoFailure::Other { errno, text } => write!(f, "{text} (errno {errno})"),
        }
    }
}

/// Collects requests while handing out their ids.
pub struct Requests<'a> {
    ids: &'a mut IoIds,
    out: &'a mut Vec<IoRequest>,
    priority: Priority,
}

impl<'a> Requests<'a> {
    /// Requests that somebody waits for.
    pub fn urgent(ids: &'a mut IoIds, out: &'a mut Vec<IoRequest>) -> Self {
        let priority = Priority::Urgent;
        Requests { ids, out, priority }
    }

    /// Requests beside serving.
    pub fn background(ids: &'a mut IoIds, out: &'a mut Vec<IoRequest>) -> Self {
        let priority = Priority::Background;
        Requests { ids, out, priority }
    }

    /// Emits a request that waits for those in `after`.
    pub fn push(&mut self, after: Vec<IoId>, operation: IoOperation) -> IoId {
        let id = self.ids.next_id();
        self.out.push(IoRequest {
            id,
            after,
            priority: self.priority,
            operation,
        });
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_round_trip() {
        for file in [
            FileName::Superblock,
            FileName::SuperblockTemporary,
            FileName::Segment { lane: 0, number: 1 },
            FileName::Segment {
                lane: 15,
                number: u64::MAX,
            },
            FileName::Pages { shard: 63 },
            FileName::Events {
                shard: 3,
                number: 9,
            },
        ] {
            assert_eq!(FileName::parse(&file.path()), Some(file));
        }
        for path in [
            "",
            "wal/lane-0/0000000000000001.seg",
            "wal/lane-00/1.seg",
            "wal/lane-00/000000000000000A.seg",
            "wal/lane-00/+00000000000000a.seg",
            "shard-1/pages",
            "shard-01/0000000000000009.seg",
            "lock",
        ] {
            assert_eq!(FileName::parse(path), None, "{path}");
        }
    }
}
