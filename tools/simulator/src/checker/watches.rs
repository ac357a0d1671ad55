//! Watchers: what each was shown is exactly what the log says, in order, once, whole revisions at a
//! time; nothing is missing but what compaction took; progress is never ahead.

use super::{Change, Replay};
use crate::history::{Gap, History, Shown, Watched};

pub(super) fn check(history: &History, replay: &Replay, wrong: &mut Vec<String>) {
    for watched in &history.watches {
        if let Some(what) = first_error(watched, replay) {
            let Watched {
                range,
                start,
                prev_kv,
                no_put,
                no_delete,
                ..
            } = watched;
            wrong.push(format!(
                "watcher of {range:?} from {start} (prev_kv {prev_kv}, no_put {no_put}, no_delete \
                 {no_delete}): {what}"
            ));
        }
    }
}

fn first_error(watched: &Watched, replay: &Replay) -> Option<String> {
    let wanted: Vec<&Change> = replay
        .changes
        .iter()
        .filter(|change| change.revision >= watched.start && watched.range.contains(&change.kv.key))
        .filter(|change| !watched.no_put || change.tombstone)
        .filter(|change| !(watched.no_delete && change.tombstone))
        .filter(|change| !in_gap(&watched.gaps, change.revision))
        .collect();
    for (at, shown) in watched.events.iter().enumerate() {
        let Some(change) = wanted.get(at) else {
            return Some(format!("event {at} never happened: {shown:?}"));
        };
        if let Some(what) = difference(shown, change, watched, replay) {
            return Some(format!("event {at} is {shown:?}, not {change:?}: {what}"));
        }
    }
    check_whole(watched).or_else(|| check_missing(watched, &wanted, replay))
}

fn in_gap(gaps: &[Gap], revision: i64) -> bool {
    gaps.iter()
        .any(|gap| (gap.from..gap.to).contains(&revision))
}

fn difference(
    shown: &Shown,
    change: &Change,
    watched: &Watched,
    replay: &Replay,
) -> Option<&'static str> {
    if shown.revision != change.revision {
        return Some("another revision");
    }
    if shown.tombstone != change.tombstone {
        return Some("another kind");
    }
    if shown.kv != change.kv {
        return Some("another key-value");
    }
    let wanted = change.prev_kv.as_ref().filter(|_| watched.prev_kv);
    let taken_by_compaction = shown.prev_kv.is_none() && change.revision <= replay.compact_revision;
    if shown.prev_kv.as_ref() != wanted && !taken_by_compaction {
        return Some("another previous key-value");
    }
    None
}

/// The events of one revision come in one answer.
fn check_whole(watched: &Watched) -> Option<String> {
    let split = watched
        .events
        .windows(2)
        .find(|pair| pair[0].revision == pair[1].revision && pair[0].answer != pair[1].answer)?;
    Some(format!(
        "revision {} came in two answers",
        split[0].revision
    ))
}

/// Everything below the position of the watcher was shown, and progress was not ahead of it.
fn check_missing(watched: &Watched, wanted: &[&Change], replay: &Replay) -> Option<String> {
    let shown = watched.events.len();
    if let Some(change) = wanted
        .get(shown)
        .filter(|change| change.revision < watched.next)
    {
        return Some(format!(
            "{change:?} was left out, the position is {}",
            watched.next
        ));
    }
    let last = replay
        .boundaries
        .last()
        .map_or(1, |boundary| boundary.revision);
    for (shown, revision) in &watched.progress {
        if *revision > last {
            return Some(format!(
                "progress {revision} is beyond the last revision {last}"
            ));
        }
        if let Some(change) = wanted
            .get(*shown)
            .filter(|change| change.revision <= *revision)
        {
            return Some(format!("progress {revision} is ahead of {change:?}"));
        }
    }
    for gap in &watched.gaps {
        if gap.to > replay.compact_revision {
            return Some(format!(
                "{gap:?}, but the log compacts at {}",
                replay.compact_revision
            ));
        }
    }
    None
}
