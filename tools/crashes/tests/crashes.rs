//! Crash enumeration over log and shards: every submission and completion is cut, recovery is cut again.

use crashes::{Slip, budget, enumerate};

#[test]
fn no_crash_state_loses_or_changes_anything() {
    // Two halves on two threads, each with seeds of its own.
    let states = budget(2_000_000);
    let half = |seed| {
        let counts = enumerate(seed, states.div_ceil(2), Slip::None);
        counts.unwrap_or_else(|violation| panic!("{violation}"))
    };
    let counts = std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1_000_001));
        let mut counts = half(1);
        counts.add(other.join().expect("the other half finds nothing"));
        counts
    });
    println!("{counts:#?}");
    assert!(counts.states >= states);
    assert!(counts.states_in_recovery * 200 > states);
    assert!(counts.deep * 20 > states);
    assert!(counts.checkpoints > 0);
    assert!(counts.segments_created > 0);
    assert!(counts.segments_deleted > 0);
    assert!(counts.log_segments_recycled > 0);
    assert!(counts.slices > 0);
}
