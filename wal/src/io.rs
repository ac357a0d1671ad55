//! Requests to the outside world, with explicit dependencies.
//!
//! Owns the vocabulary between the pure machines and whoever executes them. The executor orders nothing
//! by itself: a request starts when all requests in `after` have **succeeded**, and not before. If one of
//! them failed, the request is dropped without an answer; the failed one is reported and the machine
//! stops. A [`IoOperation::Write`] that is directly followed by a [`IoOperation::Sync`] of the same file
//! which depends on it alone may be executed as one linked pair.

use std::fmt;

/// Identifies one request of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(pub u64);

/// Hands out [`IoId`]s; moves from the opening machine to the log, so that no id is used twice.
#[derive(Debug, Default)]
pub(crate) struct IoIds {
    last: u64,
}

impl IoIds {
    pub(crate) fn next(&mut self) -> IoId {
        self.last += 1;
        IoId(self.last)
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
        }
    }

    /// Name without its directory.
    pub fn name(&self) -> String {
        match self {
            FileName::Segment { number, .. } => format!("{number:016x}.seg"),
            FileName::Superblock | FileName::SuperblockTemporary => self.path(),
        }
    }

    /// Directory that holds it.
    pub fn directory(&self) -> Directory {
        match self {
            FileName::Superblock | FileName::SuperblockTemporary => Directory::Root,
            FileName::Segment { lane, .. } => Directory::Lane(*lane),
        }
    }

    /// The file with this relative path; `None` if the path is not one of ours.
    pub fn parse(path: &str) -> Option<FileName> {
        match path {
            "superblock" => return Some(FileName::Superblock),
            "superblock.new" => return Some(FileName::SuperblockTemporary),
            _ => {}
        }
        let (lane, name) = path.strip_prefix("wal/lane-")?.split_once('/')?;
        let number = segment_number(name)?;
        let file = FileName::Segment {
            lane: lane.parse().ok()?,
            number,
        };
        (file.path() == path).then_some(file)
    }
}

/// Number of the segment called `name` (without directory); `None` if it is not a segment's name.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
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
}

impl Directory {
    /// Path relative to the data directory; `.` for the root.
    pub fn path(&self) -> String {
        match self {
            Directory::Root => ".".to_owned(),
            Directory::Log => "wal".to_owned(),
            Directory::Lane(lane) => format!("wal/lane-{lane:02}"),
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
pub(crate) struct Requests<'a> {
    pub(crate) ids: &'a mut IoIds,
    pub(crate) out: &'a mut Vec<IoRequest>,
    pub(crate) priority: Priority,
}

impl<'a> Requests<'a> {
    pub(crate) fn urgent(ids: &'a mut IoIds, out: &'a mut Vec<IoRequest>) -> Self {
        Requests {
            ids,
            out,
            priority: Priority::Urgent,
        }
    }

    pub(crate) fn background(ids: &'a mut IoIds, out: &'a mut Vec<IoRequest>) -> Self {
        Requests {
            ids,
            out,
            priority: Priority::Background,
        }
    }

    pub(crate) fn push(&mut self, after: Vec<IoId>, operation: IoOperation) -> IoId {
        let id = self.ids.next();
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
        ] {
            assert_eq!(FileName::parse(&file.path()), Some(file));
        }
        for path in [
            "",
            "wal/lane-0/0000000000000001.seg",
            "wal/lane-00/1.seg",
            "wal/lane-00/000000000000000A.seg",
            "wal/lane-00/+00000000000000a.seg",
            "lock",
        ] {
            assert_eq!(FileName::parse(path), None, "{path}");
        }
    }
}
