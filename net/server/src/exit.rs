//! How the process ends: a code that scripts can tell apart, and a sentence.
//!
//! The codes are those of BSD's sysexits, documented in `docs/OPERATIONS.md`.

use engine::image::ShardOpenError;
use wal::OpenError;

use crate::node::{Failure, StartError};

/// An end that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code of the process.
    pub code: i32,
    /// What happened, where, and what to do.
    pub message: String,
}

/// `ringd check-config` has found mistakes.
pub const REFUSED: i32 = 1;
/// Wrong flags or configuration.
pub const USAGE: i32 = 64;
/// Damaged or foreign data: nothing was changed.
pub const DATA: i32 = 65;
/// An address or a directory is in use.
pub const UNAVAILABLE: i32 = 69;
/// A bug.
pub const INTERNAL: i32 = 70;
/// The system refuses a resource.
pub const SYSTEM: i32 = 71;
/// A write or flush failed: what was acknowledged is durable, and nothing more was acknowledged.
pub const IO: i32 = 74;

impl Exit {
    /// Wrong flags.
    pub fn config(message: impl Into<String>) -> Exit {
        Exit {
            code: USAGE,
            message: message.into(),
        }
    }

    /// Something is in use.
    pub fn unavailable(message: impl Into<String>) -> Exit {
        Exit {
            code: UNAVAILABLE,
            message: message.into(),
        }
    }

    /// Damaged or foreign data.
    pub fn data(message: impl Into<String>) -> Exit {
        Exit {
            code: DATA,
            message: message.into(),
        }
    }

    /// The system refuses a resource.
    pub fn system(message: impl Into<String>) -> Exit {
        Exit {
            code: SYSTEM,
            message: message.into(),
        }
    }

    /// A bug.
    pub fn internal(message: impl Into<String>) -> Exit {
        Exit {
            code: INTERNAL,
            message: message.into(),
        }
    }

    /// A write or flush of the log failed.
    pub fn log_failed(what: String) -> Exit {
        Exit {
            code: IO,
            message: format!(
                "the log failed: {what}. Nothing has been acknowledged since. Check the disk, then start \
                 again: the start reads back what is durable"
            ),
        }
    }
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Exit {
        match failure {
            Failure::Log(what) => Exit::log_failed(what),
            Failure::Store(what) => Exit {
                code: IO,
                message: format!(
                    "the store failed: {what}. Nothing has been acknowledged since, and nothing that was is \
                     lost. Check the disk, then start again: the start replays the log"
                ),
            },
            Failure::Damaged(damage) => Exit {
                code: DATA,
                message: format!(
                    "stored data is damaged: {damage}. A request in the log needs it, so this member cannot \
                     go on; restore it from another one"
                ),
            },
        }
    }
}

impl From<StartError> for Exit {
    fn from(error: StartError) -> Exit {
        let code = match &error {
            StartError::Directory { .. } => SYSTEM,
            StartError::Locked { .. }
            | StartError::Shard {
                error: ShardOpenError::Locked { .. },
                ..
            } => UNAVAILABLE,
            StartError::Shard {
                error: ShardOpenError::Io { .. },
                ..
            } => IO,
            StartError::Foreign { .. }
            | StartError::Checkpoint { .. }
            | StartError::ShardCount { .. }
            | StartError::Shard { .. } => DATA,
            StartError::Log {
                error: OpenError::Io { .. },
                ..
            } => IO,
            StartError::Log { .. } => DATA,
        };
        Exit {
            code,
            message: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::shard::Damage;

    #[test]
    fn failures_end_with_the_documented_codes() {
        let damage = Damage {
            file: "shard-00/pages".to_owned(),
            offset: 4096,
            what: "checksum".to_owned(),
        };
        for (failure, code, part) in [
            (Failure::Log("wal: EIO".to_owned()), 74, "wal: EIO"),
            (
                Failure::Store("shard-01/pages: EIO".to_owned()),
                74,
                "shard-01/pages",
            ),
            (
                Failure::Damaged(damage),
                65,
                "shard-00/pages at offset 4096: checksum",
            ),
        ] {
            let exit = Exit::from(failure);
            assert_eq!(exit.code, code);
            assert!(exit.message.contains(part), "{}", exit.message);
        }
    }
}
