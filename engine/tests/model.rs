//! The engine against a naive sequential etcd: random requests in random entries, random shard
//! counts, messages in random order, missing pages, restarts. Outcomes, header revisions, reads and
//! events are equal, and the apply hash does not depend on how the member is built.

mod harness;

use std::time::{Duration, Instant};

use engine::testing::Defect;

use harness::{Counts, run};

/// Runs `seeds` until `budget` is used up.
fn run_for(first_seed: u64, budget: Duration) -> Counts {
    let started = Instant::now();
    let mut counts = Counts::default();
    let mut seed = first_seed;
    while started.elapsed() < budget {
        match run(seed, Defect::None) {
            Ok(run) => counts.add(&run),
            Err(difference) => panic!("seed {seed}: {difference}"),
        }
        seed += 1;
    }
    counts
}

fn budget() -> f64 {
    let multiplier = std::env::var("RINGD_TEST_BUDGET").ok();
    multiplier.and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

#[test]
fn the_engine_is_a_sequential_etcd() {
    let counts = run_for(1, Duration::from_secs_f64(40.0 * budget()));
    let operations = counts.requests + counts.reads + counts.replayed;
    println!("model: {operations} operations: {counts:?}");
    assert!(counts.needs > 0, "nothing was ever missing");
    assert!(counts.replayed > 0, "nothing was ever replayed");
    assert!(counts.checkpoints > 0, "no checkpoint was ever taken");
    assert!(counts.crashes > 0, "nothing ever crashed");
    assert!(counts.slices > 0, "no background work was ever done");
    assert!(counts.hashes > 0, "no hash was ever compared");
    assert!(counts.snapshots > 0, "no snapshot was ever compared");
    assert!(counts.lists > 0, "no list ever came to its end");
    assert!(
        counts.lists_compacted > 0,
        "no compaction ever overtook a list"
    );
    assert!(counts.scrubbed > 0, "nothing was ever scrubbed");
    assert!(counts.followed > 0, "nobody followed the history");
    assert!(counts.overtaken > 0, "no compaction overtook a follower");
    assert!(counts.unanswered > 0, "every replay had answers");
    let every = counts.shards.iter().all(|runs| *runs > 0);
    assert!(every, "{:?} runs by shards", counts.shards);
}

/// Every broken rule is found within a bounded number of runs.
fn finds(defect: Defect) {
    const RUNS_MAX: u64 = 400;
    for seed in 1..=RUNS_MAX {
        if let Err(difference) = run(seed, defect) {
            println!(
                "{defect:?}: found by seed {seed}: {}",
                first_line(&difference)
            );
            return;
        }
    }
    panic!("{defect:?} was not found in {RUNS_MAX} runs");
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}

macro_rules! planted {
    ($($name:ident: $defect:ident,)*) => {
        $(#[test]
        fn $name() {
            finds(Defect::$defect);
        })*
    };
}

planted! {
    an_empty_delete_that_takes_a_revision_is_found: EmptyDeleteTakesRevision,
    a_nested_guard_that_sees_writes_is_found: NestedGuardSeesWrites,
    subs_by_shard_are_found: SubsByShard,
    a_lease_kept_on_overwrite_is_found: LeaseKept,
    a_wave_that_is_not_cut_is_found: WaveNotCut,
    a_compaction_off_by_one_is_found: CompactionOffByOne,
    an_expiry_in_one_revision_is_found: ExpirySharesRevision,
    a_future_read_in_a_transaction_is_found: FutureReadInTxn,
    a_count_that_ends_at_the_limit_is_found: CountEndsAtLimit,
    a_header_of_the_wave_is_found: HeaderOfWave,
    an_ignored_value_that_keeps_the_lease_is_found: IgnoreValueKeepsLease,
    a_pass_that_ignores_pins_is_found: PassIgnoresPins,
    a_hash_per_shard_is_found: HashPerShard,
}
