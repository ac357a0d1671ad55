//! How the program ends.

use crate::client::Failure;

/// The server refused, or anything without a number of its own.
pub(crate) const ERROR: u8 = 1;
/// A client could not be set up, or a lease could not be asked for.
pub(crate) const CONNECTION: u8 = 2;
/// What was typed into `txn` or `watch` is wrong.
pub(crate) const INPUT: u8 = 3;
/// A flag has a value that is not supported.
pub(crate) const FEATURE: u8 = 4;
/// A watch or a snapshot ended early.
pub(crate) const INTERRUPTED: u8 = 5;
/// Standard output or a file failed.
pub(crate) const IO: u8 = 6;
/// No server can be reached (`ringctl` only).
pub(crate) const UNREACHABLE: u8 = 69;
/// The arguments are wrong.
pub(crate) const ARGUMENTS: u8 = 128;

/// An end that is no success.
#[derive(Debug)]
pub(crate) struct Exit {
    /// The exit code.
    pub(crate) code: u8,
    /// What is printed behind `Error: `.
    pub(crate) text: Option<String>,
}

impl Exit {
    /// With a text.
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        let text = Some(text.into());
        Self { code, text }
    }

    /// Everything is said already.
    pub(crate) fn silent(code: u8) -> Self {
        Self { code, text: None }
    }

    /// A call failed: `code`, unless there is no server at all.
    pub(crate) fn failed(code: u8, failure: &Failure) -> Self {
        match failure {
            Failure::Unreachable(_) => Self::new(UNREACHABLE, failure.to_string()),
            _ => Self::new(code, failure.to_string()),
        }
    }
}

/// Wrong arguments.
pub(crate) fn arguments<T>(text: impl Into<String>) -> Result<T, Exit> {
    Err(Exit::new(ARGUMENTS, text))
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Self {
        Self::failed(ERROR, &failure)
    }
}
