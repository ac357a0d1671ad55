//! What the shell of a shard sees of its files.

use diskio::{FileName, IoFailure};
use thiserror::Error;

use crate::checkpoint::ManifestRef;

/// What happened to a shard's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardEvent {
    /// Every byte of the image is durable. It counts once the superblock names the manifest.
    ImageDurable {
        /// The checkpoint that froze it.
        id: u32,
        /// Where its manifest stands.
        manifest: ManifestRef,
    },
    /// The device is full. Nothing is lost; the writes go on after `retry_space`.
    NoSpace,
    /// A request failed, and with it the shard's files: nothing is written any more.
    Failed {
        /// Path of the file or directory in the data directory.
        file: String,
        /// What was attempted and how it failed.
        what: String,
    },
}

/// Bytes of a file to read: a whole number of 4 KiB blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadRequest {
    /// File of the shard.
    pub file: FileName,
    /// Aligned offset in bytes.
    pub offset: u64,
    /// Aligned length in bytes.
    pub len: u64,
    /// For a large scan, which wants these bytes alone and keeps them only while they pass by. They are to be
    /// brought with [`Shard::load_passing`](crate::shard::Shard::load_passing).
    pub passing: Option<PassingBytes>,
}

/// Bytes inside of those that a [`ReadRequest`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PassingBytes {
    /// Bytes before them.
    pub skip: u32,
    /// Their number.
    pub len: u32,
}

/// How much of the page cache only a checkpoint can free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Memory of pages that no durable image has as they are.
    pub dirty_bytes: u64,
    /// Memory that pages may take.
    pub cache_bytes: u64,
}

/// What to do about an image that cannot be used.
const REMEDY: &str =
    "restore this member from another one, or save what is readable with `ringd salvage`";

/// Why a shard cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ShardOpenError {
    /// The manifest that the superblock names is damaged.
    #[error(
        "{file} at byte {offset}: the manifest of checkpoint {id} is damaged: {what}; {REMEDY}"
    )]
    Manifest {
        /// The page file.
        file: FileName,
        /// Where the manifest, or the part of it that is wrong, stands.
        offset: u64,
        /// Checkpoint that wrote it.
        id: u32,
        /// What is wrong.
        what: String,
    },
    /// The manifest was written by a newer build.
    #[error(
        "{file} at byte {offset}: the manifest has format version {version}, this build reads up to {supported}; start a newer ringd"
    )]
    NewerFormat {
        /// The page file.
        file: FileName,
        /// Where the manifest stands.
        offset: u64,
        /// Its format version.
        version: u8,
        /// The newest version that this build reads.
        supported: u8,
    },
    /// A file that the image needs is not there.
    #[error("{file} at byte 0: the file is missing and checkpoint {id} needs it; {REMEDY}")]
    Missing {
        /// The file.
        file: FileName,
        /// The checkpoint.
        id: u32,
    },
    /// A file ends before the bytes that the image has in it.
    #[error(
        "{file} at byte {length}: the file ends, checkpoint {id} has {least} bytes in it; {REMEDY}"
    )]
    Short {
        /// The file.
        file: FileName,
        /// Its length in bytes.
        length: u64,
        /// Bytes that the image needs.
        least: u64,
        /// The checkpoint.
        id: u32,
    },
    /// Another process holds a file.
    #[error("{file} is locked by another process; stop it first")]
    Locked {
        /// The file.
        file: FileName,
    },
    /// A request failed.
    #[error("{path}: could not {verb}: {failure}; check the device and its file system")]
    Io {
        /// Path of the file or directory in the data directory.
        path: String,
        /// What was attempted.
        verb: &'static str,
        /// How it failed.
        failure: IoFailure,
    },
}
