//! How far long answers got that had to stop for something to be loaded.
//!
//! The same request comes again after each load. One that looks at more than memory holds would never end
//! if it began anew each time.

use std::collections::VecDeque;

/// Most answers that are kept. More at once make each other begin anew.
const KEPT_MAX: usize = 64;

/// Parts of answers, oldest first. What is left by requests that nobody repeats is pushed out.
#[derive(Debug)]
pub(super) struct Interrupted<Q, P> {
    kept: VecDeque<(Q, P)>,
}

impl<Q, P> Default for Interrupted<Q, P> {
    fn default() -> Self {
        Interrupted {
            kept: VecDeque::new(),
        }
    }
}

impl<Q: PartialEq, P> Interrupted<Q, P> {
    /// How far the answer to `question` got.
    pub(super) fn take(&mut self, is_question: impl Fn(&Q) -> bool) -> Option<P> {
        let index = self.kept.iter().position(|(kept, _)| is_question(kept))?;
        self.kept.remove(index).map(|(_, part)| part)
    }

    /// Keeps how far the answer to `question` got.
    pub(super) fn keep(&mut self, question: Q, part: P) {
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back((question, part));
    }
}
