//! Real time: what was answered before something was asked for stands before it in the log, and no
//! answer is of an earlier revision than one that was there when it was asked for.

use super::Replay;
use crate::history::{Action, History, Outcome};

pub(super) fn check(history: &History, replay: &Replay, wrong: &mut Vec<String>) {
    let mut moments: Vec<(u64, usize, bool)> = Vec::new();
    for (at, operation) in history.operations.iter().enumerate() {
        moments.push((operation.invoked, at, false));
        if let Some(completed) = operation.completed {
            moments.push((completed, at, true));
        }
    }
    moments.sort_unstable();
    // The furthest position in the log, and the highest revision, that anybody was told of.
    let (mut position, mut revision) = (None, 0);
    let mut floors = vec![(None, 0); history.operations.len()];
    for (_, at, completes) in moments {
        if !completes {
            floors[at] = (position, revision);
            continue;
        }
        let operation = &history.operations[at];
        if let Some(&(place, _)) = replay.places.get(&at) {
            position = position.max(Some(place));
        }
        let Outcome::Answered { revision: told, .. } = operation.outcome else {
            continue;
        };
        let serializable = matches!(&operation.action, Action::Range(range) if range.serializable);
        if told < floors[at].1 && !serializable {
            wrong.push(format!(
                "client {} was answered revision {told} in life {}, but {} was known before it asked: {:?}",
                operation.client, operation.life, floors[at].1, operation.action
            ));
        }
        revision = revision.max(told);
    }
    for (at, &(place, _)) in &replay.places {
        let floor = floors[*at].0;
        if floor.is_some_and(|floor| place <= floor) {
            let operation = &history.operations[*at];
            wrong.push(format!(
                "the log has client {}'s operation of life {} at position {place}, but position \
                 {floor:?} was answered before it was asked for: {:?}",
                operation.client, operation.life, operation.action
            ));
        }
    }
}
