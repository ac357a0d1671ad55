//! What a member counts where its sequencer is, and what any core counts for it.

use std::sync::atomic::{AtomicBool, Ordering};

use engine::command::{Command, Reply};

use super::core::RANGES;
use super::instrument::{Bounds, Counter, Gauge, Histogram, SharedCounter, doubling};

/// How long the phases of a write take. Shorter than etcd's first bucket each, on a good disk.
pub static PHASES: Bounds = Bounds {
    upper: &doubling::<20>(12_500),
    per_unit: 1_000_000_000,
};
/// How many requests share an entry.
pub static ENTRY_REQUESTS: Bounds = Bounds {
    upper: &doubling::<14>(1),
    per_unit: 1,
};
/// Times to live of leases, in seconds: etcd's bounds.
pub static LEASE_SECONDS: Bounds = Bounds {
    upper: &doubling::<24>(1),
    per_unit: 1,
};
/// How long work behind the requests takes: checkpoints, compactions, collections.
pub static UPKEEP: Bounds = Bounds {
    upper: &doubling::<16>(10_000_000),
    per_unit: 1_000_000_000,
};

/// An apply that takes longer is slow, in nanoseconds: etcd's default.
pub const SLOW_APPLY_NANOS: u64 = 100_000_000;

/// Where a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From its arrival at the sequencer to its entry's leaving.
    Queue,
    /// From there until the entry is committed: written, flushed and, with other members, acknowledged by a quorum.
    Log,
    /// From there until it is visible and answered.
    Apply,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 3] = [Phase::Queue, Phase::Log, Phase::Apply];

    /// As a label says it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Queue => "queue",
            Phase::Log => "log",
            Phase::Apply => "apply",
        }
    }
}

/// Kinds of requests that are applied, as etcd tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyKind {
    /// A put.
    Put,
    /// A range delete.
    DeleteRange,
    /// A transaction.
    Txn,
    /// A compaction.
    Compaction,
    /// A lease begins.
    LeaseGrant,
    /// Leases end, by a client or by their time.
    LeaseRevoke,
    /// An alarm is raised or cleared.
    Alarm,
    /// A member tells of itself.
    ClusterMemberAttrSet,
    /// The cluster version is set.
    ClusterVersionSet,
}

impl ApplyKind {
    /// All of them.
    pub const ALL: [ApplyKind; 9] = [
        ApplyKind::Put,
        ApplyKind::DeleteRange,
        ApplyKind::Txn,
        ApplyKind::Compaction,
        ApplyKind::LeaseGrant,
        ApplyKind::LeaseRevoke,
        ApplyKind::Alarm,
        ApplyKind::ClusterMemberAttrSet,
        ApplyKind::ClusterVersionSet,
    ];

    /// As a label says it.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// What `command` is.
    pub fn of(command: &Command) -> ApplyKind {
        match command {
            Command::Put(_) => ApplyKind::Put,
            Command::DeleteRange(_) => ApplyKind::DeleteRange,
            Command::Txn(_) => ApplyKind::Txn,
            Command::Compact { .. } => ApplyKind::Compaction,
            Command::LeaseGrant { .. } => ApplyKind::LeaseGrant,
            Command::LeaseRevoke { .. } | Command::LeaseExpire { .. } => ApplyKind::LeaseRevoke,
            Command::Alarm { .. } => ApplyKind::Alarm,
            Command::MemberAttributes(_) => ApplyKind::ClusterMemberAttrSet,
            Command::ClusterVersion(_) => ApplyKind::ClusterVersionSet,
        }
    }
}

/// The checks of `/livez` and `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// `/livez`: this member reads.
    LiveSerializableRead,
    /// `/readyz`: no alarm of damage is raised.
    ReadyDataCorruption,
    /// `/readyz`: this member reads.
    ReadySerializableRead,
    /// `/readyz`: the cluster reads.
    ReadyLinearizableRead,
    /// `/readyz`: this member votes.
    ReadyNonLearner,
}

impl HealthCheck {
    /// All of them.
    pub const ALL: [HealthCheck; 5] = [
        HealthCheck::LiveSerializableRead,
        HealthCheck::ReadyDataCorruption,
        HealthCheck::ReadySerializableRead,
        HealthCheck::ReadyLinearizableRead,
        HealthCheck::ReadyNonLearner,
    ];

    /// The question it belongs to: `livez` or `readyz`.
    pub fn question(self) -> &'static str {
        match self {
            HealthCheck::LiveSerializableRead => "livez",
            _ => "readyz",
        }
    }

    /// Its name in it.
    pub fn name(self) -> &'static str {
        match self {
            HealthCheck::ReadyDataCorruption => "data_corruption",
            HealthCheck::LiveSerializableRead | HealthCheck::ReadySerializableRead => {
                "serializable_read"
            }
            HealthCheck::ReadyLinearizableRead => "linearizable_read",
            HealthCheck::ReadyNonLearner => "non_learner",
        }
    }
}

/// What came of one health check so far. Any core writes it.
#[derive(Debug, Default)]
pub struct CheckResults {
    /// It went well.
    pub succeeded: SharedCounter,
    /// It did not.
    pub failed: SharedCounter,
    /// It went well the last time.
    pub last: AtomicBool,
}

/// What is counted once per member. Its sequencer's core writes, unless a field says otherwise.
#[derive(Debug)]
pub struct MemberMetrics {
    /// Requests that got no outcome from the log: refused, or not in time.
    pub proposals_failed: Counter,
    /// The leader is another one than before.
    pub leader_changes: Counter,
    /// Who led last; 0 before anybody did.
    leader: Gauge,
    /// By phase, for each entry.
    phases: [Histogram; Phase::ALL.len()],
    /// Requests by entry.
    pub entry_requests: Histogram,
    /// By kind: failed requests and others.
    applies: [[Histogram; 2]; ApplyKind::ALL.len()],
    /// Entries that took long to apply.
    pub slow_applies: Counter,
    /// Puts, those in transactions among them.
    pub puts: Counter,
    /// Range deletes, those in transactions among them.
    pub deletes: Counter,
    /// Ranges in transactions that write.
    pub ranges: Counter,
    /// Transactions of more than one operation.
    pub txns: Counter,
    /// Leases granted.
    pub leases_granted: Counter,
    /// Their times to live.
    pub lease_seconds: Histogram,
    /// Leases that ended.
    pub leases_revoked: Counter,
    /// Those of them whose time was over.
    pub leases_expired: Counter,
    /// Renewals.
    pub leases_renewed: Counter,
    /// Checkpoints.
    pub checkpoints: Histogram,
    /// Bytes of pages that they wrote.
    pub checkpoint_bytes: Counter,
    /// Passes of compactions over the shards.
    pub compactions: Histogram,
    /// When the last one ended, in seconds since 1970; 0 is never.
    pub compacted_at: Gauge,
    /// Collections of event segments.
    pub collections: Histogram,
    /// `/health` said yes. Any core writes it.
    pub health_successes: SharedCounter,
    /// `/health` said no. Any core writes it.
    pub health_failures: SharedCounter,
    checks: [CheckResults; HealthCheck::ALL.len()],
}

impl Default for MemberMetrics {
    fn default() -> Self {
        MemberMetrics {
            proposals_failed: Counter::default(),
            leader_changes: Counter::default(),
            leader: Gauge::default(),
            phases: std::array::from_fn(|_| Histogram::new(&PHASES)),
            entry_requests: Histogram::new(&ENTRY_REQUESTS),
            applies: std::array::from_fn(|_| std::array::from_fn(|_| Histogram::new(&RANGES))),
            slow_applies: Counter::default(),
            puts: Counter::default(),
            deletes: Counter::default(),
            ranges: Counter::default(),
            txns: Counter::default(),
            leases_granted: Counter::default(),
            lease_seconds: Histogram::new(&LEASE_SECONDS),
            leases_revoked: Counter::default(),
            leases_expired: Counter::default(),
            leases_renewed: Counter::default(),
            checkpoints: Histogram::new(&UPKEEP),
            checkpoint_bytes: Counter::default(),
            compactions: Histogram::new(&UPKEEP),
            compacted_at: Gauge::default(),
            collections: Histogram::new(&UPKEEP),
            health_successes: SharedCounter::default(),
            health_failures: SharedCounter::default(),
            checks: std::array::from_fn(|_| CheckResults::default()),
        }
    }
}

impl MemberMetrics {
    /// How long `phase` takes.
    pub fn phase(&self, phase: Phase) -> &Histogram {
        &self.phases[phase as usize]
    }

    /// How long applying `kind` takes, when it fails or succeeds.
    pub fn applies(&self, kind: ApplyKind, success: bool) -> &Histogram {
        &self.applies[kind as usize][usize::from(success)]
    }

    /// Results of a health check.
    pub fn check(&self, check: HealthCheck) -> &CheckResults {
        &self.checks[check as usize]
    }

    /// `leader` leads, or nobody that is known.
    pub fn note_leader(&self, leader: Option<u64>) {
        if let Some(leader) = leader
            && leader != self.leader.value()
        {
            self.leader.set(leader);
            self.leader_changes.increment();
        }
    }

    /// Takes in what was done for a request.
    pub fn note_reply(&self, reply: &Reply) {
        // As in etcd, a single operation is none.
        if self.count_writes(reply) > 1 {
            self.txns.increment();
        }
    }

    /// Counts the writes in a reply; answers how many operations it has.
    fn count_writes(&self, reply: &Reply) -> u64 {
        match reply {
            Reply::Put { .. } => self.puts.increment(),
            Reply::DeleteRange { .. } => self.deletes.increment(),
            Reply::Range(_) => self.ranges.increment(),
            Reply::Txn(txn) => return txn.responses.iter().map(|r| self.count_writes(r)).sum(),
            _ => {}
        }
        1
    }
}

impl CheckResults {
    /// Takes in a result.
    pub fn note(&self, succeeded: bool) {
        self.last.store(succeeded, Ordering::Relaxed);
        match succeeded {
            true => self.succeeded.increment(),
            false => self.failed.increment(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::command::TxnReply;

    #[test]
    fn kinds_and_checks_stand_at_their_number() {
        for (number, kind) in ApplyKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
        for (number, check) in HealthCheck::ALL.into_iter().enumerate() {
            assert_eq!(check as usize, number);
        }
        for (number, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, number);
        }
    }

    #[test]
    fn writes_of_transactions_count_each() {
        let put = || Reply::Put { prev_kv: None };
        let delete = || Reply::DeleteRange {
            deleted: 0,
            prev_kvs: Vec::new(),
        };
        let txn = |responses| {
            Reply::Txn(TxnReply {
                succeeded: true,
                responses,
            })
        };
        let check = |reply: Reply, expected: (u64, u64, u64)| {
            let metrics = MemberMetrics::default();
            metrics.note_reply(&reply);
            let (puts, deletes) = (metrics.puts.value(), metrics.deletes.value());
            assert_eq!((puts, deletes, metrics.txns.value()), expected, "{reply:?}");
        };
        check(put(), (1, 0, 0));
        check(delete(), (0, 1, 0));
        check(txn(vec![put()]), (1, 0, 0));
        check(txn(vec![put(), delete()]), (1, 1, 1));
        check(txn(vec![txn(vec![put(), put()])]), (2, 0, 1));
        check(Reply::Compact, (0, 0, 0));
    }

    #[test]
    fn a_leader_that_stays_is_no_change() {
        let metrics = MemberMetrics::default();
        for leader in [None, Some(7), None, Some(7), Some(8)] {
            metrics.note_leader(leader);
        }
        assert_eq!(metrics.leader_changes.value(), 2);
    }
}
