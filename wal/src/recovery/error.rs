//! Why a data directory is not opened, in words an operator can act on.

use crate::entry::{Index, Term};
use crate::io::IoFailure;
use std::fmt;

/// Acknowledged entries are missing or differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faulty {
    /// First missing index.
    pub first_missing: Index,
    /// Last index that durable evidence says was there.
    pub last_missing: Index,
    /// Where the missing entries should stand: the damaged record, or the end of the last good one.
    pub file: String,
    /// Offset in that file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
    /// Where the evidence stands.
    pub evidence_file: String,
    /// Offset of the evidence in its file, in bytes.
    pub evidence_offset: u64,
    /// Term that the evidence gives for `last_missing`.
    pub evidence_term: Term,
    /// Entries up to here stay if the loss is accepted.
    pub keeps: Index,
}

/// Why opening failed. Nothing was changed except repaired superblock copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// There is no superblock, and none was to be created.
    Missing {
        /// The file that is not there.
        file: String,
    },
    /// The files do not add up to a data directory; nothing can be concluded about the log.
    Refused {
        /// File that is damaged or missing.
        file: String,
        /// Offset in it, in bytes.
        offset: u64,
        /// What is wrong or missing.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// Acknowledged entries are missing.
    Faulty(Box<Faulty>),
    /// Written by a newer build.
    NewerFormat {
        /// File in the newer format.
        file: String,
        /// Offset in it, in bytes.
        offset: u64,
        /// Its format version.
        version: u32,
        /// The newest version that this build reads.
        supported: u32,
    },
    /// Another process holds a file of the directory.
    Locked {
        /// The locked file.
        file: String,
    },
    /// A request failed.
    Io {
        /// File of the request.
        file: String,
        /// Offset of the request, in bytes.
        offset: u64,
        /// What was attempted.
        verb: &'static str,
        /// How it failed.
        failure: IoFailure,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Missing { file } => write!(
                f,
                "{file} at byte 0: the file is missing, so this is not a ringd data directory; check the path"
            ),
            OpenError::Refused {
                file,
                offset,
                what,
                remedy,
            } => write!(f, "{file} at byte {offset}: {what}; {remedy}"),
            OpenError::Faulty(faulty) => faulty.fmt(f),
            OpenError::NewerFormat {
                file,
                offset,
                version,
                supported,
            } => write!(
                f,
                "{file} at byte {offset}: format version {version} is newer than {supported}, the newest this build \
                 reads; start the build that wrote it"
            ),
            OpenError::Locked { file } => {
                write!(
                    f,
                    "{file}: another process holds it; stop that process first"
                )
            }
            OpenError::Io {
                file,
                offset,
                verb,
                failure,
            } => write!(
                f,
                "{file} at byte {offset}: {verb} failed: {failure}; check the device, then start again"
            ),
        }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at byte {}: {}; acknowledged entries {} to {} are missing ({} at byte {} proves that entry {} of term {} \
             was durable); restore the file from a copy, or accept the loss of everything after entry {} with \
             `ringd salvage`",
            self.file,
            self.offset,
            self.what,
            self.first_missing,
            self.last_missing,
            self.evidence_file,
            self.evidence_offset,
            self.last_missing,
            self.evidence_term,
            self.keeps
        )
    }
}

impl std::error::Error for OpenError {}
