//! Whether what a directory gives is what was promised.

use diskio::Directory;
use diskio::sim::SimDisk;
use engine::command::{LeaseId, Range};
use engine::key::KeyRange;
use engine::testing::Random;

use crate::member::{Executed, Member};
use crate::opening::{Found, StartError};
use crate::promise::{Checked, Promise, broken};
use crate::reader::{Reader, Unread, everything};
use crate::settings::Shape;
use crate::slip::Slip;
use crate::truth::{LEASES, State, Truth};

/// More revisions than a life has.
const LATER: i64 = 1_000_000;

/// What the member promised before it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promised {
    /// Entries up to here were answered.
    pub(crate) acknowledged: u64,
    /// A checkpoint at this index counts.
    pub(crate) checkpoint: u64,
}

/// Compares what was found with what was given, before anything is executed.
pub(crate) fn check_found(
    found: &Result<Found, StartError>,
    truth: &Truth,
    promised: Promised,
    shape: Shape,
) -> Checked<()> {
    let found = match found {
        Ok(found) => found,
        Err(error @ StartError::Standstill) => {
            return broken(Promise::Progress, error.to_string());
        }
        Err(error) => return broken(Promise::OpensAfterCrash, error.to_string()),
    };
    let checkpoint = found.opened.superblock.checkpoint_index.0;
    if checkpoint < promised.checkpoint || checkpoint > truth.stated() {
        return broken(
            Promise::CheckpointKept,
            format!(
                "found a checkpoint at {checkpoint}, {} counted, {} is committed",
                promised.checkpoint,
                truth.stated()
            ),
        );
    }
    let mut last = checkpoint;
    for entry in &found.opened.entries {
        let index = entry.index.0;
        // What is not committed may be an older leader's.
        let binding = shape == Shape::Alone || index <= promised.acknowledged;
        let given = truth.given(index);
        let same =
            given.is_some_and(|given| given.term == entry.term.0 && given.data == entry.data);
        if index != last + 1 || binding && !same {
            return broken(
                Promise::AcknowledgedKept,
                format!("entry {index} behind {last} is not what was given"),
            );
        }
        last = index;
    }
    if last < promised.acknowledged {
        return broken(
            Promise::AcknowledgedKept,
            format!("the log ends at {last}, {promised:?}"),
        );
    }
    let Some(state) = truth.state(checkpoint) else {
        return broken(Promise::CheckpointKept, "a checkpoint of no state");
    };
    check_image(found, state)
}

/// A member without a checkpoint has no file of a shard.
pub(crate) fn check_leftovers(found: &Result<Found, StartError>, disk: &SimDisk) -> Checked<()> {
    let fresh = |found: &Found| found.opened.superblock.checkpoint_id == 0;
    if !found.as_ref().is_ok_and(fresh) {
        return Ok(());
    }
    let mut files = disk.file_list().into_iter();
    let left = files.find(|(file, _)| matches!(file.directory(), Directory::Shard(_)));
    match left {
        None => Ok(()),
        Some((file, _)) => broken(Promise::LeftoversGo, file.path()),
    }
}

/// The coordinator's part of the image is that of its index.
fn check_image(found: &Found, state: &State) -> Checked<()> {
    let coordinator = &found.coordinator;
    let is = (
        coordinator.apply_hash(),
        coordinator.applied().revision,
        coordinator.compact_revision(),
        coordinator.leases().iter().collect::<Vec<_>>(),
    );
    let should = (
        state.apply_hash,
        state.oracle.revision(),
        state.oracle.compact_revision(),
        state.oracle.leases(),
    );
    if is == should {
        return Ok(());
    }
    let index = coordinator.applied().index;
    broken(
        Promise::ImageIsItsIndex,
        format!("at {index}: {is:?}, should be {should:?}"),
    )
}

/// What was executed leads to the states of the truth.
pub(crate) fn check_executed(executed: &[Executed], truth: &Truth) -> Checked<()> {
    for executed in executed {
        let index = executed.applied.index;
        let Some(state) = truth.state(index) else {
            return broken(
                Promise::OnlyCommittedIsExecuted,
                format!(
                    "entry {index} was executed, {} is committed",
                    truth.stated()
                ),
            );
        };
        let is = (executed.apply_hash, executed.applied.revision);
        let should = (state.apply_hash, state.oracle.revision());
        if is != should {
            return broken(
                Promise::ReplayLeadsToTheState,
                format!("entry {index} gives {is:x?}, should give {should:x?}"),
            );
        }
    }
    Ok(())
}

/// Reads the image before anything is executed: it holds what was there at its index, and nothing later.
pub(crate) fn check_pages(member: &mut Member, disk: &SimDisk, truth: &Truth) -> Checked<()> {
    let state = truth.state(member.coordinator.applied().index);
    let state = state.expect("a checkpoint that was checked");
    let revision = state.oracle.revision();
    let shards = &mut member.shards;
    let mut reader = Reader { shards, disk };
    let kvs = readable(reader.range(everything(), revision))?;
    same("all keys of the image", &kvs, &state.kvs)?;
    // At a revision that is still to come, whatever is too new shows.
    let later = reader.range(everything(), revision + LATER);
    if later.as_ref() == Ok(&state.kvs) {
        return Ok(());
    }
    broken(
        Promise::ImageIsItsIndex,
        format!(
            "behind revision {revision} the image reads {}",
            text(&later)
        ),
    )
}

/// Executes what is committed, all of it, and nothing more.
pub(crate) fn replay(
    member: &mut Member,
    disk: &SimDisk,
    truth: &Truth,
    shape: Shape,
    slip: Slip,
) -> Checked<()> {
    let through = match (shape, slip) {
        (Shape::Alone, _) | (_, Slip::ReplayPastCommit) => member.last(),
        (Shape::Follower, _) => member.last().min(truth.stated()),
    };
    member.commit(through);
    while member.step_engine(disk)? {}
    check_executed(&member.take_executed(), truth)?;
    let applied = member.coordinator.applied().index;
    if applied != through {
        return broken(
            Promise::Progress,
            format!("replay stops at {applied} of {through}"),
        );
    }
    Ok(())
}

/// Reads everything, and with `deep` history too, and compares.
pub(crate) fn check_reads(
    member: &mut Member,
    disk: &SimDisk,
    truth: &Truth,
    deep: bool,
    random: &mut Random,
) -> Checked<()> {
    let index = member.coordinator.applied().index;
    let state = truth.state(index).expect("an executed entry has a state");
    let (oracle, revision) = (&state.oracle, state.oracle.revision());
    let compacted = oracle.compact_revision();
    let shards = &mut member.shards;
    let mut reader = Reader { shards, disk };
    let kvs = readable(reader.range(everything(), revision))?;
    same("all keys", &kvs, &state.kvs)?;
    let hash = readable(reader.hash(revision, compacted))?;
    same("hash of all", &hash, &state.hash)?;
    if !deep {
        return Ok(());
    }
    for kv in &state.kvs {
        let found = readable(reader.range(KeyRange::single(kv.key.clone()), revision))?;
        same("one key", &found, &vec![kv.clone()])?;
    }
    for _ in 0..4 {
        let at = random.between(compacted.max(1), revision);
        let range = Range {
            revision: at,
            ..Range::all(everything())
        };
        let should = oracle.range(&range).expect("a readable revision").kvs;
        same(
            "an older revision",
            &readable(reader.range(everything(), at))?,
            &should,
        )?;
    }
    for lease in 1..=LEASES {
        let keys = readable(reader.lease_keys(LeaseId(lease)))?;
        same(
            "keys of a lease",
            &keys,
            &oracle.keys_of_lease(LeaseId(lease)),
        )?;
    }
    let from = compacted.max(1);
    let (events, unread) = reader.events(from, revision);
    if let Some(unread) = unread {
        return readable(Err(unread));
    }
    same(
        "history",
        &events,
        &oracle.events(from, revision, None, false),
    )
}

fn readable<T>(read: Result<T, Unread>) -> Checked<T> {
    read.or_else(|unread| broken(Promise::ReadableAfterCrash, unread.to_string()))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, should: &T) -> Checked<()> {
    if is == should {
        return Ok(());
    }
    broken(
        Promise::ReadsAreRight,
        format!("{what}: {} should be {}", text(is), text(should)),
    )
}

fn text(it: &impl std::fmt::Debug) -> String {
    format!("{it:?}").chars().take(300).collect()
}
