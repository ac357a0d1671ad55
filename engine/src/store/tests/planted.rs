//! Each broken rule is found: by the model, by an assertion, or by the full check.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::random::{self, Around, Keys};
use crate::planted::{Bug, with};

/// Runs some seeds with `bug` planted until one fails.
fn is_found(bug: Bug, keys: Keys) {
    let found = (0..5).any(|seed| {
        let around = match seed % 2 {
            0 => Around::Nothing,
            _ => Around::DiskAndMissing,
        };
        let run = AssertUnwindSafe(|| random::run(seed, keys, around, 4_000));
        with(bug, || catch_unwind(run)).is_err()
    });
    assert!(found, "{bug:?} was not found");
}

/// The same for a rule of the disk.
fn is_found_on_disk(bug: Bug) {
    let found = (0..20).any(|seed| {
        let run = AssertUnwindSafe(|| random::run(seed, Keys::Paths, Around::Disk, 4_000));
        with(bug, || catch_unwind(run)).is_err()
    });
    assert!(found, "{bug:?} was not found");
}

#[test]
fn pages_not_synced() {
    is_found_on_disk(Bug::PagesNotSynced);
}

#[test]
fn unsynced_segments() {
    is_found_on_disk(Bug::UnsyncedSegments);
}

#[test]
fn no_directory_sync() {
    is_found_on_disk(Bug::NoDirectorySync);
}

#[test]
fn early_extent_free() {
    is_found_on_disk(Bug::EarlyExtentFree);
}

#[test]
fn no_copy_before_write() {
    is_found_on_disk(Bug::NoCopyBeforeWrite);
}

#[test]
fn manifest_before_pages() {
    is_found_on_disk(Bug::ManifestBeforePages);
}

#[test]
fn allocator_forgets_manifest() {
    is_found_on_disk(Bug::AllocatorForgetsManifest);
}

#[test]
fn compaction_skips_old_target() {
    is_found_on_disk(Bug::CompactionSkipsOldTarget);
}

#[test]
fn changed_since_image_settled() {
    is_found_on_disk(Bug::ChangedSinceImageSettled);
}

#[test]
fn tombstone_at_compaction_dropped() {
    is_found_on_disk(Bug::TombstoneAtCompactionDropped);
}

#[test]
fn release_twice() {
    is_found_on_disk(Bug::ReleaseTwice);
}

#[test]
fn collection_forgets_place() {
    is_found_on_disk(Bug::CollectionForgetsPlace);
}

#[test]
fn victim_deleted_early() {
    is_found_on_disk(Bug::VictimDeletedEarly);
}

#[test]
fn hash_counts_compacted() {
    is_found_on_disk(Bug::HashCountsCompacted);
}

#[test]
fn version_search_off_by_one() {
    is_found(Bug::VersionSearchOffByOne, Keys::Paths);
}

#[test]
fn tombstone_keeps_count() {
    is_found(Bug::TombstoneKeepsCount, Keys::Paths);
}

#[test]
fn split_loses_middle_key() {
    is_found(Bug::SplitLosesMiddleKey, Keys::Paths);
}

#[test]
fn events_out_of_order() {
    is_found(Bug::EventsOutOfOrder, Keys::Hot);
}

#[test]
fn former_lease_kept() {
    is_found(Bug::FormerLeaseKept, Keys::Paths);
}

#[test]
fn overflow_loses_oldest() {
    is_found(Bug::OverflowLosesOldest, Keys::Hot);
}

#[test]
fn merge_forgets_count() {
    is_found(Bug::MergeForgetsCount, Keys::Long);
}

#[test]
fn the_same_runs_pass_unbroken() {
    for seed in 0..5 {
        for keys in [Keys::Paths, Keys::Hot, Keys::Long] {
            random::run(seed, keys, Around::Nothing, 4_000);
            random::run(seed, keys, Around::Disk, 4_000);
        }
    }
}
