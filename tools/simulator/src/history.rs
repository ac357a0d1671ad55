//! What clients asked, what they were told, and in which order: the evidence that the checker judges.
//!
//! Lives outside the simulated processes and survives their crashes. One counter numbers all
//! invocations and completions; the simulation runs on one thread, so that order is real time.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::command::{Command, CommandError, KeyValue, LeaseId, Range, Reply, Txn};
use engine::key::KeyRange;
use engine::testing::Oracle;

/// What a client asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A command for the log.
    Write(Command),
    /// A range.
    Range(Range),
    /// A transaction without writes.
    ReadTxn(Txn),
    /// The keys attached to a lease.
    LeaseKeys(LeaseId),
}

/// What a client knows about the effect of its operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// No answer, or one that does not say: it may have happened, or may still.
    Unknown,
    /// Refused before anything happened.
    Refused,
    /// Answered at this header revision.
    Answered {
        /// Revision of the header.
        revision: i64,
        /// The answer.
        reply: Reply,
    },
    /// Answered with an error of the state machine; such answers carry no header.
    Failed(CommandError),
    /// The keys of a lease.
    Keys(Vec<Bytes>),
}

/// One operation of one client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who asked.
    pub client: usize,
    /// In which life of the member.
    pub life: u32,
    /// When it was asked for, on the history's counter.
    pub invoked: u64,
    /// When the answer came, on the same counter; `None` without an answer.
    pub completed: Option<u64>,
    /// Applied index of the member when it was asked for. Only narrows the search for its place in
    /// the log: 0 is always right.
    pub applied_before: u64,
    /// The same when the answer came; `u64::MAX` is always right.
    pub applied_after: u64,
    /// What was asked for.
    pub action: Action,
    /// What came of it.
    pub outcome: Outcome,
}

/// One event as a watcher was shown it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Main revision.
    pub revision: i64,
    /// A deletion.
    pub tombstone: bool,
    /// Key-value after the change.
    pub kv: KeyValue,
    /// Key-value before it.
    pub prev_kv: Option<KeyValue>,
    /// Number of the answer that brought it, unique per watcher.
    pub answer: u64,
}

/// A part of history that compaction took from a watcher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    /// First revision that was not shown.
    pub from: i64,
    /// First revision that is shown again: the compact revision.
    pub to: i64,
    /// Events shown before.
    pub position: usize,
}

/// Everything one watcher saw, over crashes and resumptions.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Keys.
    pub range: KeyRange,
    /// Previous key-values were asked for.
    pub prev_kv: bool,
    /// Puts are left out.
    pub no_put: bool,
    /// Deletions are left out.
    pub no_delete: bool,
    /// First revision to be shown.
    pub start: i64,
    /// The client resumes here: one above the last event or progress note.
    pub next: i64,
    /// What was shown.
    pub events: Vec<Shown>,
    /// What compaction took.
    pub gaps: Vec<Gap>,
    /// Progress notes: (events shown before, revision).
    pub progress: Vec<(usize, i64)>,
    /// Answers so far.
    pub answers: u64,
    /// The client has cancelled it.
    pub cancelled: bool,
}

/// A lease whose times are checked. All times in nanoseconds on the history's clock.
#[derive(Clone, Debug)]
pub struct TrackedLease {
    /// Time to live, seconds.
    pub ttl: i64,
    /// It may not end before.
    pub not_before: u64,
    /// When the last grant, renewal or start was certainly over.
    pub renewed_by: u64,
    /// A client has asked to revoke it.
    pub revoke_asked: bool,
    /// Somebody was told that it is gone.
    pub gone: bool,
}

/// See the module.
pub struct History {
    sequence: u64,
    /// All operations, by their tickets.
    pub operations: Vec<Operation>,
    /// All watchers.
    pub watches: Vec<Watched>,
    /// Leases with checked times.
    pub leases: BTreeMap<i64, TrackedLease>,
    /// Apply hash by applied index, as seen in any life.
    pub hashes: BTreeMap<u64, u64>,
    /// What was found wrong on the way.
    pub violations: Vec<String>,
    /// The present life of the member, from 1.
    pub life: u32,
    /// A rough copy of the store, fed with answered writes, from which clients draw revisions and
    /// guards that matter.
    pub shadow: Oracle,
    /// Highest revision in any answer.
    pub revision_seen: i64,
}

/// Names an operation that was invoked.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(usize);

impl Default for History {
    fn default() -> Self {
        History::new()
    }
}

impl History {
    /// Nothing happened yet.
    pub fn new() -> Self {
        History {
            sequence: 0,
            operations: Vec::new(),
            watches: Vec::new(),
            leases: BTreeMap::new(),
            hashes: BTreeMap::new(),
            violations: Vec::new(),
            life: 0,
            shadow: Oracle::new(),
            revision_seen: 1,
        }
    }

    /// The next number of the common counter.
    fn tick(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Notes that a client asks.
    pub fn invoke(&mut self, client: usize, action: Action, applied: u64) -> Ticket {
        let invoked = self.tick();
        self.operations.push(Operation {
            client,
            life: self.life,
            invoked,
            completed: None,
            applied_before: applied,
            applied_after: u64::MAX,
            action,
            outcome: Outcome::Unknown,
        });
        Ticket(self.operations.len() - 1)
    }

    /// Notes an answer.
    pub fn complete(&mut self, ticket: Ticket, outcome: Outcome, applied: u64) {
        let completed = self.tick();
        let operation = &mut self.operations[ticket.0];
        if outcome != Outcome::Unknown {
            operation.completed = Some(completed);
            operation.applied_after = applied;
        }
        if let Outcome::Answered { revision, .. } = outcome {
            self.revision_seen = self.revision_seen.max(revision);
            if let Action::Write(command) = &operation.action {
                let _roughly_the_same = self.shadow.apply(command);
            }
        }
        operation.outcome = outcome;
    }

    /// The last requests of this life that have no answer.
    pub fn unanswered(&self) -> String {
        let unanswered = self.operations.iter().rev();
        let unanswered = unanswered.filter(|operation| operation.completed.is_none());
        let of_life = unanswered.take_while(|operation| operation.life == self.life);
        let texts = of_life.take(4).map(|operation| {
            let Operation { client, action, .. } = operation;
            format!("client {client} waits for {action:?}")
        });
        texts.collect::<Vec<_>>().join("; ")
    }

    /// Notes the apply hash at an applied index; it is the same whenever that index is reached.
    pub fn saw_hash(&mut self, index: u64, hash: u64) {
        let before = *self.hashes.entry(index).or_insert(hash);
        if before != hash {
            self.violation(format!(
                "apply hash {hash:016x} at index {index}, but it was {before:016x} before"
            ));
        }
    }

    /// Notes that something is wrong.
    pub fn violation(&mut self, what: String) {
        // One cause makes many consequences; the first ones tell most.
        if self.violations.len() < 20 {
            self.violations.push(format!("life {}: {what}", self.life));
        }
    }

    /// Notes that somebody was told that a lease is gone.
    pub fn lease_is_gone(&mut self, id: i64, now: u64, told_by: &str) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        if lease.gone {
            return;
        }
        lease.gone = true;
        if !lease.revoke_asked && now < lease.not_before {
            let early = lease.not_before - now;
            let ttl = lease.ttl;
            self.violation(format!(
                "lease {id} of {ttl} s ended at least {early} ns early (told by {told_by})"
            ));
        }
    }

    /// Notes a successful renewal that was asked for at `asked` and answered at `answered`.
    pub fn lease_renewed(&mut self, id: i64, asked: u64, answered: u64) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        lease.not_before = lease
            .not_before
            .max(asked + lease.ttl as u64 * 1_000_000_000);
        lease.renewed_by = lease.renewed_by.max(answered);
        if lease.gone {
            self.violation(format!("lease {id} was renewed after it had ended"));
        }
    }
}
