//! Entries that took long from their proposal to their answers, phase by phase.

use std::time::Duration;

use super::Home;
use crate::config::duration::text_of;
use crate::log::limit::LineLimit;

/// When an entry reached each phase, in nanoseconds of the core's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// Raft gave it its index.
    pub(super) proposed: u64,
    /// It was durable here.
    pub(super) durable: u64,
    /// It was committed, and the state machine has got it.
    pub(super) given: u64,
}

/// An entry whose requests are all answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    /// Its index.
    pub(super) index: u64,
    /// So many requests of this member.
    pub(super) requests: usize,
    /// When it was where.
    pub(super) times: Times,
}

/// The lines about slow entries: at most one a second.
#[derive(Debug, Default)]
pub(super) struct SlowEntries(LineLimit);

impl Home {
    /// Says which entries took longer than they should.
    pub(super) fn warn_of_slow_entries(&self, finished: &[Finished]) {
        if finished.is_empty() {
            return;
        }
        let now = self.0.world.now().nanos();
        let expected = self.0.options.slow_apply;
        for entry in finished {
            let took = Duration::from_nanos(now.saturating_sub(entry.times.proposed));
            if took > expected
                && let Some(left_out) = self.parts.slow_entries.0.take(now)
            {
                self.warn_of(entry, now, left_out);
            }
        }
    }

    fn warn_of(&self, entry: &Finished, now: u64, left_out: u64) {
        let Times {
            proposed,
            durable,
            given,
        } = entry.times;
        let between = |from: u64, to: u64| text_of(Duration::from_nanos(to.saturating_sub(from)));
        let request = format!("entry {} with {} requests", entry.index, entry.requests);
        let fields = [
            ("took", between(proposed, now).into()),
            (
                "expected-duration",
                text_of(self.0.options.slow_apply).into(),
            ),
            ("prefix", "".into()),
            ("request", request.into()),
            ("response", "".into()),
            ("phase-log", between(proposed, durable).into()),
            ("phase-commit", between(durable, given).into()),
            ("phase-apply", between(given, now).into()),
            ("left-out-before", left_out.into()),
        ];
        self.0.logger.warn("apply request took too long", &fields);
    }
}
