//! Crash enumeration over the real machines: every submission and completion is cut, recovery is cut again.

use wal::testing::{Style, World, enumerate};

/// Multiplier of every budget, for longer runs.
fn budget() -> u64 {
    let text = std::env::var("RINGD_TEST_BUDGET").unwrap_or_default();
    text.parse().unwrap_or(1)
}

#[test]
fn no_crash_state_loses_an_acknowledged_entry() {
    let counts = enumerate(1, 1_000_000 * budget()).unwrap();
    println!("{counts:?}");
    assert!(counts.states_in_recovery > 10_000);
    assert!(counts.truncations > 0);
    assert!(counts.checkpoints > 0);
    assert!(counts.snapshots > 0);
    assert!(counts.lane_changes > 0);
}

#[test]
fn no_random_life_loses_an_acknowledged_entry() {
    let styles = [Style::Single, Style::Member, Style::Conflicts, Style::Stuck];
    for seed in 0..4000 * budget() {
        let style = styles[seed as usize % 4];
        let mut world = World::new(seed, style, false);
        world
            .run(4)
            .unwrap_or_else(|error| panic!("seed {seed} {style:?}: {error}"));
    }
}
