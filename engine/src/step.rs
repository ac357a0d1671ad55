//! How the pure engine asks for bytes that are not in memory.
//!
//! A call that meets an absent page or value answers [`Step::Need`] and has changed nothing. The
//! shell brings the bytes, hands them to `load` and repeats the whole call. Nothing here knows
//! where the bytes come from.

use crate::events::SegmentId;
use crate::page::PageRef;

/// Outcome of one attempt: the answer, or what has to be loaded before trying again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step<T> {
    /// The answer.
    Ready(T),
    /// Nothing was changed; load this and call again.
    Need(Need),
}

/// Bytes that are not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// A tree page.
    Page(PageRef),
    /// An event record, or a part of an event segment.
    Bytes {
        /// Segment that holds it.
        segment: SegmentId,
        /// Where it starts, in bytes.
        offset: u32,
        /// How many bytes.
        len: u32,
    },
}

impl<T> Step<T> {
    /// Applies `f` to the answer.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Step<U> {
        match self {
            Step::Ready(value) => Step::Ready(f(value)),
            Step::Need(need) => Step::Need(need),
        }
    }

    /// The answer, if there is one.
    pub fn ready(self) -> Option<T> {
        match self {
            Step::Ready(value) => Some(value),
            Step::Need(_) => None,
        }
    }
}

/// Unwraps a [`Step`], returning early with the need.
macro_rules! ready {
    ($step:expr) => {
        match $step {
            $crate::step::Step::Ready(value) => value,
            $crate::step::Step::Need(need) => return $crate::step::Step::Need(need),
        }
    };
}
pub(crate) use ready;
