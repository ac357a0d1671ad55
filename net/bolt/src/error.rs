//! What can be wrong with a file, and with the order of calls of a writer.

use std::io;

/// Why a file is not read any further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("cannot read the database at offset {offset}: {error}")]
    Io {
        /// Where, in bytes from the beginning.
        offset: u64,
        /// What the source said.
        error: io::Error,
    },
    /// Neither of the two meta pages is one.
    #[error(
        "not a bbolt database: meta page 0 at offset {first_offset}: {first}; meta page 1: {second}"
    )]
    NoMeta {
        /// Where in the first meta page.
        first_offset: u64,
        /// What is wrong with the first.
        first: String,
        /// What is wrong with the second.
        second: String,
    },
    /// The file is shorter than its meta page says.
    #[error("the database is cut off: it has {bytes} bytes, its meta page tells of {expected}")]
    Cut {
        /// Bytes that are there.
        bytes: u64,
        /// Bytes that should be there.
        expected: u64,
    },
    /// A rule of the format is broken.
    #[error("page {page} is damaged at offset {offset} of the file: {what}")]
    Damaged {
        /// The page, or the first of a run of pages.
        page: u64,
        /// Where, in bytes from the beginning of the file.
        offset: u64,
        /// The rule and the numbers.
        what: String,
    },
    /// An entry is not what etcd puts there.
    #[error("bucket {bucket:?}, key {key}: {what}")]
    Content {
        /// The bucket's name.
        bucket: String,
        /// The key, in hexadecimal digits.
        key: String,
        /// What is wrong.
        what: String,
    },
}

/// Why a writer refuses a call. The writer is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A bucket that is not in the plan.
    #[error("bucket {bucket:?} is not in the plan")]
    NotPlanned {
        /// Its name.
        bucket: String,
    },
    /// A plan with a name or a number of buckets that no file can have.
    #[error("bucket {bucket:?} cannot be planned: {what}")]
    BadPlan {
        /// The bucket's name.
        bucket: String,
        /// Why not.
        what: &'static str,
    },
    /// Buckets and their keys come in ascending order.
    #[error("{what} {name} does not come after the one before it")]
    Order {
        /// A bucket or a key.
        what: &'static str,
        /// Its name, escaped.
        name: String,
    },
    /// A key or a value of a length that no file can have.
    #[error("bucket {bucket:?}: a key of {key_bytes} and a value of {value_bytes} bytes")]
    Length {
        /// The bucket's name.
        bucket: String,
        /// Bytes of the key.
        key_bytes: usize,
        /// Bytes of the value.
        value_bytes: usize,
    },
    /// More than was planned.
    #[error("bucket {bucket:?} has more {what} than the {planned} that were planned")]
    MoreThanPlanned {
        /// The bucket's name.
        bucket: String,
        /// Records, bytes, or bytes of a key.
        what: &'static str,
        /// The plan's number.
        planned: u64,
    },
    /// A record before the first bucket or after the last.
    #[error("a record belongs to no bucket")]
    NoBucket,
}

/// Bytes that may be text, for a message.
pub(crate) fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
