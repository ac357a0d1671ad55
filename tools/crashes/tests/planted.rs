//! Every rule taken away is noticed, and by the promise that it protects: the proofs can fail.
//!
//! A panic of a machine is no find: the search goes on behind it.

use crashes::{Promise, Shape, Slip, Violation, World, budget, lost_writes};
use engine::testing::Bug;

/// One attempt of a search: the seed and the slip, then what was broken.
type Attempt = fn(u64, Slip) -> Result<(), Violation>;

/// Lives with random crashes between them.
fn life(seed: u64, slip: Slip) -> Result<(), Violation> {
    World::new(seed, slip).run(4)
}

/// The same, of a member that follows.
fn follow(seed: u64, slip: Slip) -> Result<(), Violation> {
    World::new(seed, slip).of_shape(Shape::Follower).run(4)
}

/// One life, cut at every point.
fn cut(seed: u64, slip: Slip) -> Result<(), Violation> {
    let mut world = World::new(seed, slip);
    world.run(1)?;
    world.enumerate(true);
    world.run(1)
}

/// One life, then writes of its last checkpoint are lost one by one.
fn lost(seed: u64, slip: Slip) -> Result<(), Violation> {
    lost_writes(seed, slip).map(drop)
}

/// Tries seed after seed until one of `promises` is broken.
fn search(name: &str, attempt: Attempt, seeds: u64, slip: Slip, promises: &[Promise]) {
    let mut others = Vec::new();
    for seed in 1..=budget(seeds) {
        let run = std::panic::catch_unwind(|| attempt(seed, slip));
        match run.unwrap_or(Ok(())) {
            Ok(()) => {}
            Err(violation) if promises.contains(&violation.promise) => {
                let text = violation.to_string();
                let text: String = text.chars().take(160).collect();
                println!("{name} at seed {seed}: {text}");
                return;
            }
            Err(violation) => others.push(violation.to_string()),
        }
    }
    panic!("{name} was not found, but broke {others:#?}");
}

macro_rules! of_the_engine {
    ($($name:ident $bug:ident $attempt:ident($seeds:expr) [$($promise:ident),+]),* $(,)?) => {
        $(#[test] fn $name() {
            engine::testing::with_planted(Some(Bug::$bug), || {
                search(stringify!($bug), $attempt, $seeds, Slip::None, &[$(Promise::$promise),+]);
            });
        })*
    };
}

macro_rules! of_the_composition {
    ($($name:ident $slip:ident $attempt:ident($seeds:expr) [$($promise:ident),+]),* $(,)?) => {
        $(#[test] fn $name() {
            search(stringify!($slip), $attempt, $seeds, Slip::$slip, &[$(Promise::$promise),+]);
        })*
    };
}

of_the_engine! {
    pages_without_a_sync_are_found PagesNotSynced life(300) [OpensAfterCrash, ReadableAfterCrash],
    segments_without_a_sync_are_found UnsyncedSegments life(300) [OpensAfterCrash, ReadableAfterCrash],
    directories_without_a_sync_are_found NoDirectorySync life(300) [OpensAfterCrash],
    extents_freed_early_are_found EarlyExtentFree life(300) [OpensAfterCrash, ReadableAfterCrash],
    a_change_before_the_copy_is_found NoCopyBeforeWrite cut(300) [ImageIsItsIndex],
    a_manifest_before_its_pages_is_found ManifestBeforePages cut(300) [OpensAfterCrash, ReadableAfterCrash],
    a_forgotten_manifest_is_found AllocatorForgetsManifest life(300) [OpensAfterCrash],
    a_segment_deleted_early_is_found VictimDeletedEarly cut(300) [OpensAfterCrash],
    a_stale_generation_is_found StaleGenerationAccepted lost(300) [NoSilentDifference],
    a_superblock_before_all_images_is_found SuperblockBeforeImages cut(300) [OpensAfterCrash],
    publishing_before_the_superblock_is_durable_is_found PublishedBeforeSuperblock cut(300) [OpensAfterCrash, ReadableAfterCrash],
    an_id_used_twice_is_found CheckpointIdReused life(300) [IdUsedOnce],
    an_id_used_before_it_is_reserved_is_found IdBeforeReservation life(300) [IdUsedOnce],
}

of_the_composition! {
    a_superblock_before_the_pages_is_found SuperblockBeforePages life(300) [OpensAfterCrash, ReadableAfterCrash],
    an_id_used_twice_passes_old_pages_for_new ReusedCheckpointId lost(300) [NoSilentDifference],
    a_replay_past_the_commit_is_found ReplayPastCommit follow(300) [OnlyCommittedIsExecuted],
    the_index_of_the_publication_is_found IndexOfPublication life(300) [ImageIsItsIndex],
}

/// The control: the same searches find nothing where nothing is broken.
#[test]
fn without_a_bug_nothing_is_found() {
    for seed in 1..=budget(25) {
        for attempt in [life, follow, cut, lost] {
            let found = attempt(seed, Slip::None);
            found.unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        }
    }
}

#[test]
fn a_log_recycled_early_is_found() {
    wal::testing::with_planted(Some(wal::testing::Bug::EarlyRecycling), || {
        let promises = [Promise::OpensAfterCrash, Promise::AcknowledgedKept];
        search("EarlyRecycling", cut, 300, Slip::None, &promises);
    });
}
