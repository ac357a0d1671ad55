//! Crash enumeration over the real machines: every submission and completion is cut, recovery is cut again.

use wal::testing::{Style, World, budget, enumerate};

#[test]
fn no_crash_state_loses_an_acknowledged_entry() {
    // Two halves on two threads, each with seeds of its own.
    let states = budget(1_000_000);
    let half = |seed| {
        let counts = enumerate(seed, states.div_ceil(2));
        counts.unwrap_or_else(|violation| panic!("{violation}"))
    };
    let counts = std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1_000_001));
        let mut counts = half(1);
        counts.add(other.join().expect("the other half finds nothing"));
        counts
    });
    println!("{counts:?}");
    assert!(counts.states >= states);
    assert!(counts.states_in_recovery > 10_000);
    assert!(counts.truncations > 0);
    assert!(counts.checkpoints > 0);
    assert!(counts.snapshots > 0);
    assert!(counts.lane_changes > 0);
}

#[test]
fn no_random_life_loses_an_acknowledged_entry() {
    let styles = [Style::Single, Style::Member, Style::Conflicts, Style::Stuck];
    for seed in 0..budget(4000) {
        let style = styles[seed as usize % 4];
        let mut world = World::new(seed, style, false);
        world
            .run(4)
            .unwrap_or_else(|error| panic!("seed {seed} {style:?}: {error}"));
    }
}
