//! Every rule taken away is noticed, and by the promise that it protects: the proofs can fail.
//!
//! Bugs that random lives meet too seldom are found by `scripts.rs`: the floor, the pause at a snapshot, the
//! term of a watermark. An assertion of the machines or a standstill is no find: the search goes on behind it.

use wal::testing::{
    Bug, FaultCounts, Promise, Style, Violation, World, budget, enumerate, random_fault,
    with_planted,
};

const STYLES: [Style; 4] = [Style::Conflicts, Style::Stuck, Style::Member, Style::Single];

/// One attempt of a search: the seed, then what it broke.
type Attempt = fn(u64) -> Result<(), Violation>;

fn life(seed: u64) -> Result<(), Violation> {
    World::new(seed, STYLES[seed as usize % 4], false).run(4)
}

fn cut(seed: u64) -> Result<(), Violation> {
    enumerate(seed, 400).map(drop)
}

fn fault(seed: u64) -> Result<(), Violation> {
    let style = STYLES[seed as usize % 4];
    random_fault(seed, style, &mut FaultCounts::default())
}

/// Tries seed after seed until one of `promises` is broken.
fn found(bug: Bug, attempt: Attempt, seeds: u64, promises: &[Promise]) {
    let mut others = Vec::new();
    let hit = with_planted(Some(bug), || {
        (1..=budget(seeds)).find_map(|seed| {
            let run = std::panic::catch_unwind(|| attempt(seed));
            match run.unwrap_or(Ok(())) {
                Ok(()) => None,
                Err(violation) if promises.contains(&violation.promise) => Some((seed, violation)),
                Err(violation) => {
                    others.push(violation.promise);
                    None
                }
            }
        })
    });
    let Some((seed, violation)) = hit else {
        panic!("{bug:?} was not found, but broke {others:?}");
    };
    let text = violation.to_string();
    println!("{bug:?} at seed {seed}: {}", &text[..text.len().min(140)]);
}

macro_rules! planted {
    ($attempt:ident($seeds:expr): $($name:ident $bug:ident [$($promise:ident),+]),* $(,)?) => {
        $(#[test] fn $name() { found(Bug::$bug, $attempt, $seeds, &[$(Promise::$promise),+]); })*
    };
}

planted!(cut(2000):
    one_copy OneCopy [OpensAfterCrash],
    single_phase SinglePhase [OpensAfterCrash],
    overlapping_writes OverlappingWrites [OpensAfterCrash, TermKept, VoteKept],
    repair_over_good_copies RepairOverGoodCopies [OpensAfterCrash],
    create_in_place CreateInPlace [OpensAfterCrash],
    act_before_flush ActBeforeFlush [VoteKept],
    vote_before_durable VoteBeforeDurable [VoteKept],
    acknowledge_before_term_durable AcknowledgeBeforeTermDurable [TermKept],
    early_recycling EarlyRecycling [AcknowledgedKept, NoFalseAlarm],
    no_directory_sync NoDirectorySync [AcknowledgedKept],
);

planted!(life(40000):
    recycle_under_write RecycleUnderWrite [AcknowledgedKept, NoFalseAlarm],
    per_record_filters PerRecordFilters [AcknowledgedKept],
    unscoped_watermark UnscopedWatermark [NoFalseAlarm],
    commit_hint_in_watermark CommitHintInWatermark [NoFalseAlarm],
    replaced_epoch_start ReplacedEpochStart [AcknowledgedKept, NoFalseAlarm, TermsChain],
    no_lane_sync_at_recovery NoLaneSyncAtRecovery [AcknowledgedKept, NoFalseAlarm],
    reused_wseq ReusedWseq [SequenceUnique],
    stale_completion StaleCompletion [AcknowledgedKept],
    acknowledge_past_hole AcknowledgePastHole [AcknowledgedKept],
    no_term_chain NoTermChain [TermsChain],
    no_salt NoSalt [NoFalseAlarm],
);

planted!(fault(3000):
    no_watermark NoWatermark [LossReported],
    beacon_ignored BeaconIgnored [LossReported],
    epoch_opened_while_faulty EpochOpenedWhileFaulty [FaultRemembered],
);
