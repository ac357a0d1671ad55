//! What others may see of the pipeline.

use engine::command::{AlarmKind, MemberAttributes};
use engine::coordinator::{Applied, Coordinator};
use engine::lease::LeaseTable;
use raft::LogIndex;

use super::Sequencer;
use crate::node::waiters::Waiters;

/// What is replicated beside the keys, as of the end of an entry.
#[derive(Clone, Debug)]
pub(in crate::node) struct Moment {
    /// Up to here.
    pub(in crate::node) applied: Applied,
    /// The term of that entry.
    pub(in crate::node) term: u64,
    /// 0 or below: nothing was compacted.
    pub(in crate::node) compact_revision: i64,
    /// The leases; shared with the state machine.
    pub(in crate::node) leases: LeaseTable,
    /// Raised alarms.
    pub(in crate::node) alarms: Vec<(u64, AlarmKind)>,
    /// Published attributes.
    pub(in crate::node) members: Vec<MemberAttributes>,
    /// The cluster version, once it is set.
    pub(in crate::node) cluster_version: Option<String>,
}

/// Where the pipeline stands while a request waits.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Backlog {
    /// When the oldest request without an outcome was proposed, or was waiting for that.
    pub(in crate::node) since_nanos: u64,
    /// Its entry, if it was proposed.
    pub(in crate::node) index: Option<u64>,
    /// Durable up to here.
    pub(in crate::node) durable: u64,
    /// Committed up to here.
    pub(in crate::node) committed: u64,
    /// Applied up to here.
    pub(in crate::node) applied: u64,
    /// Records written and not yet synced.
    pub(in crate::node) records_in_flight: u32,
    /// Bytes that wait for a record.
    pub(in crate::node) log_bytes_waiting: u64,
    /// Requests that wait for an entry.
    pub(in crate::node) requests_waiting: usize,
}

/// What waits in the pipeline.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Queues {
    /// Requests without an outcome.
    pub(in crate::node) pending: u64,
    /// Those of them that wait for an entry.
    pub(in crate::node) waiting_requests: u64,
    /// Their bytes.
    pub(in crate::node) waiting_bytes: u64,
    /// Records written and not yet synced.
    pub(in crate::node) records_in_flight: u64,
    /// Bytes that wait for a record.
    pub(in crate::node) log_bytes_waiting: u64,
}

impl Sequencer {
    /// Where the pipeline stands, if a request waits for its outcome.
    pub(in crate::node) fn backlog(&self) -> Option<Backlog> {
        let proposed = self.flights.front();
        let waiting = self.closed.front().unwrap_or(&self.growing);
        let since_nanos = match proposed {
            Some(flight) => flight.times.proposed,
            None => waiting.waiters.marked_nanos()?,
        };
        Some(Backlog {
            since_nanos,
            index: proposed.map(|flight| flight.index),
            durable: self.durable,
            committed: self.committed,
            applied: self.coordinator.applied().index,
            records_in_flight: self.wal.records_in_flight(),
            log_bytes_waiting: self.wal.waiting_bytes(),
            requests_waiting: self.waiting_requests,
        })
    }

    /// What waits where.
    pub(in crate::node) fn queues(&self) -> Queues {
        let flights = self.flights.iter().map(|flight| &flight.waiters);
        let entries = self.closed.iter().chain([&self.growing]);
        let waiting = entries.map(|entry| &entry.waiters);
        let pending = flights.chain(waiting).map(Waiters::waiting);
        Queues {
            pending: pending.sum::<usize>() as u64,
            waiting_requests: self.waiting_requests as u64,
            waiting_bytes: self.waiting_bytes as u64,
            records_in_flight: self.wal.records_in_flight().into(),
            log_bytes_waiting: self.wal.waiting_bytes(),
        }
    }

    /// Whether requests wait for their outcome.
    pub(in crate::node) fn is_busy(&self) -> bool {
        !self.flights.is_empty() || !self.closed.is_empty() || !self.growing.waiters.is_empty()
    }

    /// The state machine's sequencer side.
    pub(in crate::node) fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// What is replicated beside the keys, if no entry is under way. Else ask again: it is kept when the entry ends.
    pub(in crate::node) fn moment(&mut self) -> Option<Moment> {
        if self.coordinator.is_between_entries() {
            self.moment = None;
            return Some(self.moment_now());
        }
        let kept = self.moment.take();
        self.moment_wanted = kept.is_none();
        kept
    }

    pub(super) fn moment_now(&self) -> Moment {
        let coordinator = &self.coordinator;
        let applied = coordinator.applied();
        let term = self.raft.log().term_at(LogIndex(applied.index));
        Moment {
            applied,
            term: term.map_or(0, |term| term.0),
            compact_revision: coordinator.compact_revision(),
            leases: coordinator.leases().clone(),
            alarms: coordinator.alarms().iter().collect(),
            members: coordinator.members().cloned().collect(),
            cluster_version: coordinator.cluster_version().map(str::to_owned),
        }
    }

    /// What is visible.
    pub(in crate::node) fn applied(&self) -> Applied {
        self.coordinator.applied()
    }

    /// The consensus machine's state.
    pub(in crate::node) fn raft_status(&self) -> raft::Status {
        self.raft.status()
    }
}
