//! Reads: each has a place in the log where the naive etcd gives the same answer.
//!
//! The place lies at a boundary between entries, not before anything that was answered when the read
//! was asked for (unless it is serializable), and not after anything that was asked for when the read
//! was answered. Only the keys of a lease may be those between two commands of one entry.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use engine::command::{LeaseId, Reply};
use engine::testing::Oracle;

use super::Replay;
use crate::history::{Action, History, Operation, Outcome};
use crate::truth::LogEntry;

/// A read with the boundaries where it may have happened, both included.
struct Window {
    operation: usize,
    last: usize,
    explained: bool,
    /// For the keys of a lease: those that were attached after some command, and after every one so far.
    ever: BTreeSet<Bytes>,
    always: Option<BTreeSet<Bytes>>,
}

pub(super) fn check(
    history: &History,
    entries: &[LogEntry],
    replay: &Replay,
    wrong: &mut Vec<String>,
) {
    let mut windows = windows(history, replay, wrong);
    let mut open: Vec<Window> = Vec::new();
    let mut oracle = Oracle::new();
    for boundary in 0..replay.boundaries.len() {
        if boundary > 0 {
            for command in &entries[boundary - 1].commands {
                let _known_already = oracle.apply(command);
                // A read of them has no revision: it may stand between two commands of an entry.
                for window in &mut open {
                    if let Action::LeaseKeys(id) = history.operations[window.operation].action {
                        note_keys(id, window, &oracle);
                    }
                }
            }
        }
        open.extend(windows.remove(&boundary).unwrap_or_default());
        for window in &mut open {
            look(&history.operations[window.operation], window, &oracle);
        }
        open.retain(|window| {
            let over = window.last <= boundary;
            if over && !is_explained(&history.operations[window.operation], window) {
                report(&history.operations[window.operation], boundary, wrong);
            }
            !over && !window.explained
        });
    }
}

/// Windows by their first boundary.
fn windows(
    history: &History,
    replay: &Replay,
    wrong: &mut Vec<String>,
) -> BTreeMap<usize, Vec<Window>> {
    let floors = floors(history, replay);
    let mut windows: BTreeMap<usize, Vec<Window>> = BTreeMap::new();
    for (at, operation) in history.operations.iter().enumerate() {
        let (Some(completed), false) = (
            operation.completed,
            matches!(operation.action, Action::Write(_)),
        ) else {
            continue;
        };
        let boundaries = &replay.boundaries;
        let mut last = boundaries.partition_point(|b| b.invoked < completed) - 1;
        let mut first = floors[at];
        if let Outcome::Answered { revision, .. } = operation.outcome {
            first = first.max(boundaries.partition_point(|b| b.revision < revision));
            last = last.min(boundaries.partition_point(|b| b.revision <= revision) - 1);
        }
        if first > last {
            wrong.push(format!(
                "no place in the log between entries {first} and {last} for what client {} was told in \
                 life {}: {:?} → {:?}",
                operation.client, operation.life, operation.action, operation.outcome
            ));
            continue;
        }
        windows.entry(first).or_default().push(Window {
            operation: at,
            last,
            explained: false,
            ever: BTreeSet::new(),
            always: None,
        });
    }
    windows
}

/// The first boundary at which each operation may have happened.
fn floors(history: &History, replay: &Replay) -> Vec<usize> {
    let mut moments: Vec<(u64, usize, bool)> = Vec::new();
    for (at, operation) in history.operations.iter().enumerate() {
        moments.push((operation.invoked, at, false));
        if let Some(completed) = operation.completed {
            moments.push((completed, at, true));
        }
    }
    moments.sort_unstable();
    let mut known = 0;
    let mut floors = vec![0; history.operations.len()];
    for (_, at, completes) in moments {
        let operation = &history.operations[at];
        if !completes {
            let serializable =
                matches!(&operation.action, Action::Range(range) if range.serializable);
            floors[at] = if serializable { 0 } else { known };
            continue;
        }
        if let Some(&(_, boundary)) = replay.places.get(&at) {
            known = known.max(boundary);
        } else if let Outcome::Answered { revision, .. } = operation.outcome {
            known = known.max(replay.boundaries.partition_point(|b| b.revision < revision));
        }
    }
    floors
}

/// Compares a read with the naive etcd at the present boundary.
fn look(operation: &Operation, window: &mut Window, oracle: &Oracle) {
    if window.explained {
        return;
    }
    let answer = match &operation.action {
        Action::Write(_) => return,
        Action::Range(range) => oracle.range(range).map(Reply::Range),
        Action::ReadTxn(txn) => oracle.read_txn(txn).map(Reply::Txn),
        Action::LeaseKeys(id) => return note_keys(*id, window, oracle),
    };
    window.explained = match (&operation.outcome, answer) {
        (Outcome::Answered { reply, .. }, Ok(right)) => *reply == right,
        (Outcome::Failed(told), Err(right)) => *told == right,
        _ => false,
    };
}

/// Notes which keys hang on a lease at present.
fn note_keys(id: LeaseId, window: &mut Window, oracle: &Oracle) {
    let keys: BTreeSet<Bytes> = oracle.keys_of_lease(id).into_iter().collect();
    window.ever.extend(keys.iter().cloned());
    window.always = Some(match window.always.take() {
        Some(always) => always.intersection(&keys).cloned().collect(),
        None => keys,
    });
}

fn is_explained(operation: &Operation, window: &Window) -> bool {
    let Outcome::Keys(keys) = &operation.outcome else {
        return window.explained;
    };
    let keys: BTreeSet<Bytes> = keys.iter().cloned().collect();
    let always = window
        .always
        .as_ref()
        .is_none_or(|always| always.is_subset(&keys));
    always && keys.is_subset(&window.ever)
}

fn report(operation: &Operation, boundary: usize, wrong: &mut Vec<String>) {
    wrong.push(format!(
        "no state up to entry {boundary} explains what client {} was told in life {}: {:?} → {:?}",
        operation.client, operation.life, operation.action, operation.outcome
    ));
}
