//! Deliberate bugs that the simulator must find. In every other build [`planted`] is constant `false`.

/// One rule taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An entry counts as durable once it was handed to the log.
    AnswerBeforeDurable,
    /// After a failed write or flush, what was handed to the log counts as durable.
    AnswerAfterFailure,
    /// Recovery leaves out the last entry of the log.
    IgnoreTail,
    /// A revision is announced before it is applied.
    AnnounceBeforeApplied,
    /// A lease is not renewed although the client is told so.
    ForgetRenewal,
    /// Answers leave before what they tell of is visible to other cores.
    AnswerBeforeVisible,
    /// A call leaves before there is a slot for its response.
    UnreservedResponse,
}

#[cfg(feature = "testing")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Runs `body` with one rule taken away, on this thread only.
    pub fn with_planted<T>(bug: Bug, body: impl FnOnce() -> T) -> T {
        struct Restore(Option<Bug>);
        impl Drop for Restore {
            fn drop(&mut self) {
                PLANTED.set(self.0);
            }
        }
        let _restore = Restore(PLANTED.replace(Some(bug)));
        body()
    }
}

#[cfg(feature = "testing")]
pub(crate) use switch::planted;
#[cfg(feature = "testing")]
pub use switch::with_planted;

#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}
