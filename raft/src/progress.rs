//! What a leader knows about one follower, and how fast it may send to it.
//!
//! ```text
//!            accepted                 needs entries that are gone
//!   Probe ─────────────▶ Replicate    Probe ────────────────────▶ Snapshot
//!     ▲                     │           ▲                            │
//!     └── rejected, lost ───┘           └──── delivered or failed ───┘
//! ```

use std::collections::VecDeque;
use std::fmt;

use crate::types::{LogIndex, MemberId};

/// How a follower is fed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressState {
    /// One append at a time, to find where the logs agree.
    Probe,
    /// Appends are sent ahead of the answers.
    Replicate,
    /// A snapshot is on its way.
    Snapshot {
        /// Where it stands.
        pending: LogIndex,
    },
}

/// Appends with entries that are sent and not answered, oldest first.
#[derive(Clone, Debug)]
struct InFlight {
    sent: VecDeque<(LogIndex, u64)>,
    bytes: u64,
    messages_max: usize,
    bytes_max: u64,
}

impl InFlight {
    fn new(messages_max: usize, bytes_max: u64) -> InFlight {
        InFlight {
            sent: VecDeque::new(),
            bytes: 0,
            messages_max,
            bytes_max,
        }
    }

    fn is_full(&self) -> bool {
        self.sent.len() >= self.messages_max || (self.bytes >= self.bytes_max)
    }

    fn push(&mut self, last: LogIndex, bytes: u64) {
        self.sent.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn answered(&mut self, matched: LogIndex) {
        while let Some((last, bytes)) = self.sent.front().copied() {
            if last > matched {
                break;
            }
            self.bytes -= bytes;
            self.sent.pop_front();
        }
    }

    fn clear(&mut self) {
        self.sent.clear();
        self.bytes = 0;
    }
}

/// One follower as its leader sees it.
///
/// Invariants: `matched < next`; `sent_commit` is what the follower was told at most;
/// nothing is in flight outside `Replicate`.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Known to be durable there and equal to this log.
    pub matched: LogIndex,
    /// What is sent next.
    pub next: LogIndex,
    /// How it is fed.
    pub state: ProgressState,
    /// It answered since the last quorum check.
    pub recently_active: bool,
    /// It has no vote.
    pub is_learner: bool,
    /// Nothing may be sent until an answer arrives.
    pub(crate) paused: bool,
    sent_commit: LogIndex,
    in_flight: InFlight,
}

impl Progress {
    /// A follower of which nothing is known, to be probed before `next`.
    #[must_use]
    pub fn new(next: LogIndex, is_learner: bool, messages_max: usize, bytes_max: u64) -> Progress {
        Progress {
            matched: LogIndex(0),
            next,
            state: ProgressState::Probe,
            recently_active: true,
            is_learner,
            paused: false,
            sent_commit: LogIndex(0),
            in_flight: InFlight::new(messages_max, bytes_max),
        }
    }

    /// Forgets what an earlier leadership knew; `last` is the end of the leader's log.
    pub(crate) fn restart(&mut self, last: LogIndex) {
        self.matched = LogIndex(0);
        self.next = last.next();
        self.recently_active = false;
        self.sent_commit = LogIndex(0);
        self.enter(ProgressState::Probe);
    }

    fn enter(&mut self, state: ProgressState) {
        self.state = state;
        self.paused = false;
        self.in_flight.clear();
    }

    pub(crate) fn become_probe(&mut self) {
        let behind_snapshot = match self.state {
            ProgressState::Snapshot { pending } => pending.next(),
            _ => LogIndex(0),
        };
        self.enter(ProgressState::Probe);
        self.next = self.matched.next().max(behind_snapshot);
        self.sent_commit = self.sent_commit.min(self.next.previous());
    }

    pub(crate) fn become_replicate(&mut self) {
        self.enter(ProgressState::Replicate);
        self.next = self.matched.next();
    }

    pub(crate) fn become_snapshot(&mut self, position: LogIndex) {
        self.enter(ProgressState::Snapshot { pending: position });
        self.next = position.next();
        self.sent_commit = position;
    }

    /// A transfer failed: what was thought to arrive will not.
    pub(crate) fn abort_snapshot(&mut self) {
        if matches!(self.state, ProgressState::Snapshot { .. }) {
            self.state = ProgressState::Snapshot {
                pending: LogIndex(0),
            };
        }
    }

    /// True if nothing may be sent now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        match self.state {
            ProgressState::Probe | ProgressState::Replicate => self.paused,
            ProgressState::Snapshot { .. } => true,
        }
    }

    /// True if an append may carry entries.
    pub(crate) fn takes_entries(&self) -> bool {
        self.state != ProgressState::Replicate || !self.in_flight.is_full()
    }

    pub(crate) fn entries_sent(&mut self, count: u64, bytes: u64) {
        match self.state {
            ProgressState::Replicate => {
                if count > 0 {
                    self.next = LogIndex(self.next.0 + count);
                    self.in_flight.push(self.next.previous(), bytes);
                }
                self.paused = self.in_flight.is_full();
            }
            ProgressState::Probe => self.paused |= count > 0,
            ProgressState::Snapshot { .. } => {
                panic!("entries sent to a follower that waits for a snapshot")
            }
        }
    }

    pub(crate) fn commit_sent(&mut self, commit: LogIndex) {
        self.sent_commit = commit;
    }

    /// True if an empty append would tell the follower of a commit index it can use.
    pub(crate) fn can_learn_commit(&self, commit: LogIndex) -> bool {
        commit > self.sent_commit && self.sent_commit < self.next.previous()
    }

    /// The follower holds everything up to `matched`; false if that is old news.
    pub(crate) fn accepted(&mut self, matched: LogIndex) -> bool {
        if matched <= self.matched {
            return false;
        }
        self.matched = matched;
        self.next = self.next.max(matched.next());
        self.paused = false;
        true
    }

    /// An append after `rejected` did not fit; `hint` is where it may. False if that is old news.
    pub(crate) fn rejected(&mut self, rejected: LogIndex, hint: LogIndex) -> bool {
        if self.state == ProgressState::Replicate {
            if rejected <= self.matched {
                return false;
            }
            self.next = self.matched.next();
        } else {
            if self.next.previous() != rejected {
                return false;
            }
            self.next = rejected.min(hint.next()).max(self.matched.next());
            self.paused = false;
        }
        self.sent_commit = self.sent_commit.min(self.next.previous());
        true
    }

    pub(crate) fn free_in_flight(&mut self, matched: LogIndex) {
        self.in_flight.answered(matched);
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        assert!(self.matched < self.next, "progress {self}");
        if self.state != ProgressState::Replicate {
            assert!(self.in_flight.sent.is_empty(), "progress {self}");
        }
        let bytes: u64 = self.in_flight.sent.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(bytes, self.in_flight.bytes, "bytes in flight");
    }
}

/// The form of etcd's status lines, so that its test files can be compared.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.state {
            ProgressState::Probe => "StateProbe",
            ProgressState::Replicate => "StateReplicate",
            ProgressState::Snapshot { .. } => "StateSnapshot",
        };
        write!(f, "{name} match={} next={}", self.matched, self.next)?;
        if self.is_learner {
            write!(f, " learner")?;
        }
        if self.is_paused() {
            write!(f, " paused")?;
        }
        if let ProgressState::Snapshot { pending } = self.state
            && pending.0 > 0
        {
            write!(f, " pendingSnap={pending}")?;
        }
        if !self.recently_active {
            write!(f, " inactive")?;
        }
        if !self.in_flight.sent.is_empty() {
            write!(f, " inflight={}", self.in_flight.sent.len())?;
            if self.in_flight.is_full() {
                write!(f, "[full]")?;
            }
        }
        Ok(())
    }
}

/// The followers of a leader and the leader itself, in ascending order of id.
#[derive(Clone, Debug, Default)]
pub struct ProgressTable {
    slots: Vec<(MemberId, Progress)>,
}

impl ProgressTable {
    fn place(&self, member: MemberId) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&member, |(id, _)| *id)
    }

    /// What is known about `member`.
    #[must_use]
    pub fn of(&self, member: MemberId) -> Option<&Progress> {
        self.place(member).ok().map(|place| &self.slots[place].1)
    }

    pub(crate) fn of_mut(&mut self, member: MemberId) -> Option<&mut Progress> {
        match self.place(member) {
            Ok(place) => Some(&mut self.slots[place].1),
            Err(_) => None,
        }
    }

    /// All, in ascending order of id.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, &Progress)> {
        self.slots.iter().map(|(id, progress)| (*id, progress))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (MemberId, &mut Progress)> {
        self.slots.iter_mut().map(|(id, progress)| (*id, progress))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// The id in place `place`, to walk the table while it is being changed.
    pub(crate) fn member_at(&self, place: usize) -> MemberId {
        self.slots[place].0
    }

    /// Adds or replaces.
    pub fn insert(&mut self, member: MemberId, progress: Progress) {
        match self.place(member) {
            Ok(place) => self.slots[place].1 = progress,
            Err(place) => self.slots.insert(place, (member, progress)),
        }
    }

    pub(crate) fn remove(&mut self, member: MemberId) {
        if let Ok(place) = self.place(member) {
            self.slots.remove(place);
        }
    }
}
