//! Every rule taken away is noticed: the proofs can fail.

use wal::testing::{Bug, FaultCounts, Style, World, enumerate, random_fault, with_planted};

const STYLES: [Style; 4] = [Style::Conflicts, Style::Stuck, Style::Member, Style::Single];

fn crash_hunt(seeds: u64) -> Option<String> {
    if let Err(error) = caught(|| enumerate(1, 20_000).map(drop)) {
        return Some(error);
    }
    (0..seeds).find_map(|seed| {
        let style = STYLES[seed as usize % 4];
        caught(|| World::new(seed, style, false).run(4)).err()
    })
}

fn fault_hunt(seeds: u64) -> Option<String> {
    (0..seeds).find_map(|seed| {
        let style = STYLES[seed as usize % 4];
        caught(|| random_fault(seed, style, &mut FaultCounts::default())).err()
    })
}

/// An assertion of the machines is a find as well.
fn caught(run: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let run = std::panic::AssertUnwindSafe(run);
    std::panic::catch_unwind(run).unwrap_or_else(|_| Err("an assertion failed".to_owned()))
}

fn found(bug: Bug, hunt: impl FnOnce() -> Option<String>) {
    let found = with_planted(Some(bug), hunt);
    let text = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
    println!("{bug:?}: {}", &text[..text.len().min(100)]);
}

macro_rules! planted {
    ($hunt:ident($seeds:expr): $($name:ident $bug:ident),* $(,)?) => {
        $(#[test] fn $name() { found(Bug::$bug, || $hunt($seeds)); })*
    };
}

planted!(crash_hunt(20_000):
    one_copy OneCopy,
    single_phase SinglePhase,
    overlapping_writes OverlappingWrites,
    repair_over_good_copies RepairOverGoodCopies,
    create_in_place CreateInPlace,
    act_before_flush ActBeforeFlush,
    vote_before_durable VoteBeforeDurable,
    acknowledge_before_term_durable AcknowledgeBeforeTermDurable,
    early_recycling EarlyRecycling,
    recycle_under_write RecycleUnderWrite,
    per_record_filters PerRecordFilters,
    unscoped_watermark UnscopedWatermark,
    no_floor NoFloor,
    commit_hint_in_watermark CommitHintInWatermark,
    replaced_epoch_start ReplacedEpochStart,
    no_lane_sync_at_recovery NoLaneSyncAtRecovery,
    reused_wseq ReusedWseq,
    stale_completion StaleCompletion,
    acknowledge_past_hole AcknowledgePastHole,
    no_term_chain NoTermChain,
    no_salt NoSalt,
    no_directory_sync NoDirectorySync,
    no_submission_pause_at_snapshot NoSubmissionPauseAtSnapshot,
);

planted!(fault_hunt(3_000):
    no_watermark NoWatermark,
    watermark_without_term WatermarkWithoutTerm,
    beacon_ignored BeaconIgnored,
    epoch_opened_while_faulty EpochOpenedWhileFaulty,
);
