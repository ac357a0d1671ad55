//! Those who wait for the outcomes of one entry's requests, and since when.
//!
//! No look at the clock is spent on a request: whoever looks for time-outs marks how many had come by then.

use std::collections::VecDeque;

use super::sequencer::{WriteError, WriteOutcome, WriteResponder};
use crate::metrics::ApplyKind;

/// See the module.
///
/// Invariants: `marks` rise in both parts; of the first `ended` requests nobody waits any more.
#[derive(Default)]
pub(super) struct Waiters {
    /// By position in the entry.
    responders: Vec<Option<WriteResponder>>,
    /// What they asked for, in the same places.
    kinds: Vec<ApplyKind>,
    /// At a time in nanoseconds so many had come.
    marks: VecDeque<(u64, usize)>,
    ended: usize,
}

impl Waiters {
    /// Whoever waits for the next request.
    pub(super) fn push(&mut self, responder: WriteResponder, kind: ApplyKind) {
        self.responders.push(Some(responder));
        self.kinds.push(kind);
    }

    /// What the request at `position` asks for.
    pub(super) fn kind(&self, position: u32) -> Option<ApplyKind> {
        self.kinds.get(position as usize).copied()
    }

    /// Requests without an outcome. Counts them.
    pub(super) fn waiting(&self) -> usize {
        self.responders.iter().flatten().count()
    }

    /// Requests, answered ones too.
    pub(super) fn len(&self) -> usize {
        self.responders.len()
    }

    /// Whether there is no request.
    pub(super) fn is_empty(&self) -> bool {
        self.responders.is_empty()
    }

    /// Answers the request at `position`, if somebody waits for it.
    pub(super) fn answer(&mut self, position: u32, outcome: WriteOutcome) {
        let waiter = self.responders.get_mut(position as usize);
        if let Some(responder) = waiter.and_then(Option::take) {
            responder.answer(Ok(outcome));
        }
    }

    /// Answers everybody who still waits, and how many they were.
    pub(super) fn fail(self, error: &WriteError) -> u64 {
        let mut ended = 0;
        for responder in self.responders.into_iter().flatten() {
            responder.answer(Err(error.clone()));
            ended += 1;
        }
        ended
    }

    /// Notes that all of them had come by now.
    pub(super) fn mark(&mut self, now_nanos: u64) {
        let seen = self.marks.back().map_or(self.ended, |(_, count)| *count);
        if self.len() > seen {
            self.marks.push_back((now_nanos, self.len()));
        }
    }

    /// When the oldest mark was made.
    pub(super) fn marked_nanos(&self) -> Option<u64> {
        self.marks.front().map(|(nanos, _)| *nanos)
    }

    /// Ends the wait for requests that had come before `deadline_nanos` by the marks; answers for how many.
    pub(super) fn time_out(&mut self, deadline_nanos: u64) -> u64 {
        let mut ended = 0;
        while let Some(&(nanos, count)) = self.marks.front()
            && nanos < deadline_nanos
        {
            self.marks.pop_front();
            for waiter in &mut self.responders[self.ended..count] {
                if let Some(responder) = waiter.take() {
                    responder.answer(Err(WriteError::TimedOut));
                    ended += 1;
                }
            }
            self.ended = count;
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{Waiting, one_shot};

    type Outcome = Result<WriteOutcome, WriteError>;

    fn push(waiters: &mut Waiters) -> Waiting<Outcome> {
        let (responder, waiting) = one_shot();
        waiters.push(WriteResponder::Here(responder), ApplyKind::Put);
        waiting
    }

    fn has_timed_out(waiting: &mut Waiting<Outcome>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(waiting).poll(&mut context) {
            std::task::Poll::Ready(outcome) => {
                assert!(matches!(outcome, Some(Err(WriteError::TimedOut))));
                true
            }
            std::task::Poll::Pending => false,
        }
    }

    #[test]
    fn each_request_waits_its_own_time() {
        let mut waiters = Waiters::default();
        let mut early = push(&mut waiters);
        waiters.mark(1000);
        waiters.mark(1500);
        let mut late = push(&mut waiters);
        waiters.mark(2000);
        let mut unmarked = push(&mut waiters);
        waiters.time_out(1000);
        assert!(!has_timed_out(&mut early));
        assert_eq!(waiters.waiting(), 3);
        assert_eq!(waiters.time_out(1001), 1);
        assert_eq!(waiters.waiting(), 2);
        assert!(has_timed_out(&mut early));
        assert!(!has_timed_out(&mut late));
        waiters.time_out(9000);
        assert!(has_timed_out(&mut late));
        assert!(!has_timed_out(&mut unmarked), "it may have come just now");
        waiters.mark(9000);
        waiters.time_out(9001);
        assert!(has_timed_out(&mut unmarked));
        assert_eq!(waiters.len(), 3, "positions stay");
    }
}
