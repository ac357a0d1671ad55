//! The judge: replays the member's log on a naive etcd and compares everything anybody was told.
//!
//! 1. Each log position gets the client operation that made it. Every answered write must be there,
//!    once, with the answer it was given; one without an answer at most once; nothing else may be
//!    there but the member's own commands.
//! 2. The order of the log respects real time: what was answered before something was asked for
//!    stands before it.
//! 3. Each read is replayed at a place in the log that real time admits and that has its revision.
//! 4. Watchers, leases and apply hashes are compared with the replay.

mod order;
mod reads;
mod watches;

use std::collections::BTreeMap;

use engine::command::{Command, CommandError, KeyValue, Reply};
use engine::testing::{Node, NodeConfig, Oracle};

use crate::history::{Action, History, Operation, Outcome};
use crate::plan::Plan;
use crate::run::is_own_command;
use crate::truth::LogEntry;

/// A change as the naive etcd made it.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: i64,
    pub(crate) tombstone: bool,
    pub(crate) kv: KeyValue,
    pub(crate) prev_kv: Option<KeyValue>,
}

/// The state of the world after one entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boundary {
    pub(crate) revision: i64,
    /// Latest invocation among the client operations up to here.
    pub(crate) invoked: u64,
}

/// What the replay of the log found.
pub(crate) struct Replay {
    /// After each entry; the first stands for the empty log.
    pub(crate) boundaries: Vec<Boundary>,
    /// All changes by revision.
    pub(crate) changes: Vec<Change>,
    /// Position in the log (over all entries) and boundary of each operation that is in it.
    pub(crate) places: BTreeMap<usize, (usize, usize)>,
    pub(crate) compact_revision: i64,
}

/// Checks a history against the log; answers how many writes of unknown outcome had happened.
pub fn check(history: &mut History, entries: &[LogEntry], plan: &Plan) -> u64 {
    let mut wrong = Vec::new();
    let replay = replay(history, entries, plan, &mut wrong);
    order::check(history, &replay, &mut wrong);
    reads::check(history, entries, &replay, &mut wrong);
    watches::check(history, &replay, &mut wrong);
    check_hashes(history, entries, &mut wrong);
    for what in wrong {
        history.violation(what);
    }
    let unknown = |operation: &&usize| history.operations[**operation].outcome == Outcome::Unknown;
    replay.places.keys().filter(unknown).count() as u64
}

type Answer = Result<Reply, CommandError>;

/// Client operations that may stand at a log position, by the text of their command.
type Candidates = BTreeMap<String, Vec<usize>>;

fn candidates(history: &History) -> Candidates {
    let mut candidates = Candidates::new();
    for (at, operation) in history.operations.iter().enumerate() {
        if let Action::Write(command) = &operation.action
            && operation.outcome != Outcome::Refused
        {
            candidates
                .entry(format!("{command:?}"))
                .or_default()
                .push(at);
        }
    }
    candidates
}

fn replay(history: &History, entries: &[LogEntry], plan: &Plan, wrong: &mut Vec<String>) -> Replay {
    let mut oracle = Oracle::new();
    let mut candidates = candidates(history);
    let mut replay = Replay {
        boundaries: vec![Boundary {
            revision: 1,
            invoked: 0,
        }],
        changes: Vec::new(),
        places: BTreeMap::new(),
        compact_revision: 0,
    };
    let mut position = 0;
    let mut invoked = 0;
    for (at, entry) in entries.iter().enumerate() {
        if entry.index != at as u64 + 1 {
            wrong.push(format!(
                "the log has entry {} at place {}",
                entry.index,
                at + 1
            ));
        }
        for command in &entry.commands {
            let before = oracle.revision();
            let (revision, answer) = oracle.apply(command);
            collect_changes(&oracle, before, &mut replay.changes);
            let taken = take(
                history,
                &mut candidates,
                entry.index,
                command,
                revision,
                &answer,
            );
            match taken {
                Some(operation) => {
                    replay.places.insert(operation, (position, at + 1));
                    invoked = invoked.max(history.operations[operation].invoked);
                }
                None if is_own_command(command, plan) => {}
                None => {
                    let told = told(history, &candidates, command);
                    wrong.push(format!(
                        "entry {} at revision {revision} holds what nobody asked for, or who asked \
                         was told something else than {answer:?}: {told}: {command:?}",
                        entry.index
                    ));
                }
            }
            position += 1;
        }
        let revision = oracle.revision();
        replay.boundaries.push(Boundary { revision, invoked });
    }
    replay.compact_revision = oracle.compact_revision();
    report_lost(history, &candidates, wrong);
    replay
}

fn collect_changes(oracle: &Oracle, before: i64, changes: &mut Vec<Change>) {
    let now = oracle.revision();
    if now == before {
        return;
    }
    for event in oracle.events(before + 1, now, None, true) {
        changes.push(Change {
            revision: event.revision.main,
            tombstone: event.tombstone,
            kv: event.kv,
            prev_kv: event.prev_kv,
        });
    }
}

/// Finds who asked for a command of the log: with the right answer and the earliest deadline first,
/// else one without an answer.
fn take(
    history: &History,
    candidates: &mut Candidates,
    index: u64,
    command: &Command,
    revision: i64,
    answer: &Answer,
) -> Option<usize> {
    let list = candidates.get_mut(&format!("{command:?}"))?;
    let fits = |at: usize| {
        let operation = &history.operations[at];
        if operation.applied_before >= index || operation.applied_after < index {
            return None;
        }
        match (&operation.outcome, answer) {
            (Outcome::Unknown, _) => Some(u64::MAX),
            (
                Outcome::Answered {
                    revision: told,
                    reply,
                },
                Ok(right),
            ) => (*told == revision && (reply == right)).then_some(operation.applied_after),
            (Outcome::Failed(told), Err(right)) if told == right => Some(operation.applied_after),
            _ => None,
        }
    };
    let best = (0..list.len())
        .filter_map(|i| Some((fits(list[i])?, i)))
        .min()?;
    Some(list.remove(best.1))
}

/// What those were told who sent this command and are not accounted for.
fn told(history: &History, candidates: &Candidates, command: &Command) -> String {
    let asked = candidates
        .get(&format!("{command:?}"))
        .into_iter()
        .flatten();
    let told = asked.map(|at| {
        let Operation {
            life,
            applied_before,
            applied_after,
            outcome,
            ..
        } = &history.operations[*at];
        format!("life {life}, indexes {applied_before} to {applied_after}: {outcome:?}")
    });
    told.collect::<Vec<_>>().join("; ")
}

/// Answered writes that are not in the log.
fn report_lost(history: &History, candidates: &Candidates, wrong: &mut Vec<String>) {
    for at in candidates.values().flatten() {
        let operation = &history.operations[*at];
        match &operation.outcome {
            Outcome::Unknown | Outcome::Refused => {}
            // Refused by the edge before it came to the log.
            Outcome::Failed(CommandError::NoSpace) => {}
            outcome => wrong.push(format!(
                "lost: client {} was answered in life {}, and the log does not have it so: {:?} → {outcome:?}",
                operation.client, operation.life, operation.action
            )),
        }
    }
}

/// Runs the entries through an engine of its own and compares the apply hashes.
fn check_hashes(history: &History, entries: &[LogEntry], wrong: &mut Vec<String>) {
    let config = NodeConfig {
        shards: 4,
        seed: 1,
        missing: None,
        defect: engine::testing::Defect::None,
    };
    let mut node = Node::new(config);
    let mut hashes = BTreeMap::new();
    for entry in entries {
        if let Err(error) = node.apply(entry.data.clone()) {
            wrong.push(format!("entry {}: {error}", entry.index));
            return;
        }
        hashes.insert(entry.index, node.coordinator().apply_hash());
    }
    for (index, seen) in history.hashes.iter().filter(|(index, _)| **index > 0) {
        match hashes.get(index) {
            Some(right) if right == seen => {}
            Some(right) => wrong.push(format!(
                "apply hash {seen:016x} at index {index}; the log gives {right:016x}"
            )),
            None => wrong.push(format!(
                "index {index} was applied, and the log ends before it"
            )),
        }
    }
}
