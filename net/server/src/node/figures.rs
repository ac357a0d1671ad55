//! What metrics tell of a member beside what its cores count: how things are at home now.

use engine::command::AlarmKind;
use raft::Role;

use super::sequencer::Queues;
use super::{Home, Node, WriteError};

/// How a member is now, as its home sees it.
#[derive(Clone, Debug)]
pub struct MemberFigures {
    /// It leads.
    pub is_leader: bool,
    /// It receives and does not vote.
    pub is_learner: bool,
    /// Committed up to here.
    pub committed_index: u64,
    /// Applied up to here.
    pub applied_index: u64,
    /// Requests without an outcome.
    pub pending: u64,
    /// Those of them that wait for an entry.
    pub queue_requests: u64,
    /// Their bytes.
    pub queue_bytes: u64,
    /// Records of the log that are written and not yet flushed.
    pub log_records_in_flight: u64,
    /// Bytes of entries that wait for a record.
    pub log_queue_bytes: u64,
    /// Raised alarms.
    pub alarms: Vec<(u64, AlarmKind)>,
    /// Leases there are.
    pub leases: u64,
    /// Index of the last entry in the last checkpoint.
    pub checkpoint_index: u64,
    /// Damaged places that the scrub knows of.
    pub damaged_places: u64,
    /// The version that the cluster has agreed on.
    pub cluster_version: Option<String>,
    /// Time that home's core has not slept.
    pub busy_nanos: u64,
}

impl Node {
    /// How the member is now.
    ///
    /// # Errors
    /// `Stopped` if home is gone.
    pub async fn figures(&self) -> Result<MemberFigures, WriteError> {
        self.at_home(Home::figures).await
    }
}

impl Home {
    fn figures(&self) -> MemberFigures {
        let sequencer = self.parts.sequencer.borrow();
        let raft = sequencer.raft_status();
        let coordinator = sequencer.coordinator();
        let Queues {
            pending,
            waiting_requests,
            waiting_bytes,
            records_in_flight,
            log_bytes_waiting,
        } = sequencer.queues();
        MemberFigures {
            is_leader: raft.role == Role::Leader,
            is_learner: raft.configuration.learners.contains(&raft.id),
            committed_index: raft.commit.0,
            applied_index: sequencer.applied().index,
            pending,
            queue_requests: waiting_requests,
            queue_bytes: waiting_bytes,
            log_records_in_flight: records_in_flight,
            log_queue_bytes: log_bytes_waiting,
            alarms: coordinator.alarms().iter().collect(),
            leases: self.parts.leases.borrow().len() as u64,
            checkpoint_index: self.checkpoint_status().index,
            damaged_places: self.damaged_places() as u64,
            cluster_version: coordinator.cluster_version().map(str::to_owned),
            busy_nanos: self.world().busy_nanos(),
        }
    }
}
