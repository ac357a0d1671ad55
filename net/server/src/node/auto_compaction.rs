//! Compactions that nobody asks for: by age or by number of revisions, in etcd's intervals.
//!
//! By age, the revision is noted ten times in each interval (the period, at most an hour), and that of a
//! period ago is compacted once in each; the first time after a whole period. By number, every five minutes.

use std::collections::VecDeque;
use std::time::Duration;

use engine::command::{Command, CommandError};
use reactor::Timestamp;

use super::{Home, State, WriteError};
use crate::config::AutoCompaction;

const INTERVAL_MAX: Duration = Duration::from_secs(3600);
const NOTES_PER_INTERVAL: u32 = 10;
/// Notes are not taken more often, however short the period.
const NOTE_DISTANCE_MIN: Duration = Duration::from_millis(1);
const BY_REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// The revisions of the last period.
#[derive(Debug)]
struct Notes {
    revisions: VecDeque<i64>,
    revisions_max: usize,
    distance: Duration,
    /// How long after the last success the next compaction comes.
    wait: Duration,
    interval: Duration,
    last_success: Timestamp,
    last_revision: i64,
}

impl Notes {
    fn new(period: Duration, now: Timestamp) -> Notes {
        let interval = period.min(INTERVAL_MAX);
        let distance = (interval / NOTES_PER_INTERVAL).max(NOTE_DISTANCE_MIN);
        Notes {
            revisions: VecDeque::new(),
            revisions_max: (period.as_nanos() / distance.as_nanos()) as usize + 1,
            distance,
            wait: period,
            interval,
            last_success: now,
            last_revision: 0,
        }
    }

    fn note(&mut self, revision: i64) {
        self.revisions.push_back(revision);
        if self.revisions.len() > self.revisions_max {
            self.revisions.pop_front();
        }
    }

    /// What is to be compacted now.
    fn due(&mut self, now: Timestamp) -> Option<i64> {
        let revision = *self.revisions.front()?;
        if now.since(self.last_success) < self.wait || revision == self.last_revision {
            return None;
        }
        self.wait = self.interval;
        Some(revision)
    }

    fn succeeded(&mut self, revision: i64, now: Timestamp) {
        self.last_revision = revision;
        self.last_success = now;
    }
}

impl Home {
    /// The task of automatic compactions, if they are on.
    pub(super) async fn run_auto_compaction(&self) {
        self.reached(State::Serving).await;
        match self.0.options.auto_compaction {
            None => {}
            Some(AutoCompaction::Periodic(period)) => self.compact_by_age(period).await,
            Some(AutoCompaction::Revision(kept)) => self.compact_by_number(kept).await,
        }
    }

    async fn compact_by_age(&self, period: Duration) {
        let mut notes = Notes::new(period, self.0.world.now());
        while self.state() == State::Serving {
            notes.note(self.applied().revision);
            self.0.world.sleep(notes.distance).await;
            if let Some(revision) = notes.due(self.0.world.now())
                && self.compact_by_itself("periodic", revision).await
            {
                notes.succeeded(revision, self.0.world.now());
            }
        }
    }

    async fn compact_by_number(&self, kept: i64) {
        let mut last = 0;
        while self.state() == State::Serving {
            self.0.world.sleep(BY_REVISION_INTERVAL).await;
            let revision = self.applied().revision - kept;
            if revision > 0
                && revision != last
                && self.compact_by_itself("revision", revision).await
            {
                last = revision;
            }
        }
    }

    /// Whether everything up to `revision` is compacted now.
    async fn compact_by_itself(&self, mode: &str, revision: i64) -> bool {
        if self.state() != State::Serving || !self.has_leader() {
            return false;
        }
        let fields = [("mode", mode.into()), ("revision", revision.into())];
        match self.write_as_member(Command::Compact { revision }).await {
            Ok(_) | Err(WriteError::Command(CommandError::Compacted)) => {
                self.0.logger.info("auto compaction is done", &fields);
                true
            }
            Err(error) => {
                let [mode, revision] = fields;
                let error = ("error", format!("{error:?}").into());
                let fields = [mode, revision, error];
                let message = "auto compaction failed and is tried again";
                self.0.logger.warn(message, &fields);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When, in minutes, what is compacted if the revision is the minute and 1.
    fn compactions(period: Duration, minutes: u64) -> Vec<(u64, i64)> {
        let mut now = Timestamp(0);
        let mut notes = Notes::new(period, now);
        let mut done = Vec::new();
        let minute = |at: Timestamp| at.0 / 60_000_000_000;
        while minute(now) <= minutes {
            notes.note(minute(now) as i64 + 1);
            now = now + notes.distance;
            if let Some(revision) = notes.due(now) {
                notes.succeeded(revision, now);
                done.push((minute(now), revision));
            }
        }
        done
    }

    #[test]
    fn a_period_up_to_an_hour_is_the_interval() {
        let half = Duration::from_secs(30 * 60);
        assert_eq!(compactions(half, 95), [(30, 1), (60, 28), (90, 58)]);
    }

    #[test]
    fn a_longer_period_is_compacted_every_hour() {
        let hours = Duration::from_secs(3 * 3600);
        assert_eq!(compactions(hours, 320), [(180, 1), (240, 55), (300, 115)]);
    }
}
