//! Bugs that the simulator must find: a judge that has never convicted proves nothing.

use reactor::sim::{Crash, Rate};
use simulator::plan::{End, Length, Plan};
use simulator::run::{Report, run};

const LENGTH: Length = Length {
    operations: 800,
    crashes: 3,
};

/// Runs seeds until one is convicted; answers how many it took and the first charge.
fn convicted(seeds: u64, run: impl Fn(u64) -> Report) -> (u64, String) {
    for seed in 1..=seeds {
        let report = run(seed);
        if let Some(what) = report.violations.first() {
            return (seed, what.clone());
        }
    }
    panic!("{seeds} seeds passed with a planted bug");
}

fn cutting(seed: u64) -> Plan {
    let mut plan = Plan::with_wire(seed, LENGTH, false);
    let cut = End::Load {
        operations: 150,
        steps: 20,
        crash: Crash::PowerCut,
    };
    plan.ends = vec![cut; 4];
    plan
}

#[test]
fn a_disk_that_forgets_synced_writes() {
    let (_, what) = convicted(10, |seed| {
        let mut plan = cutting(seed);
        plan.simulation.disk.synced_write_lost = Rate::percent(30);
        run(&plan)
    });
    println!("{what}");
}

#[test]
fn a_disk_that_drops_writes() {
    let (_, what) = convicted(10, |seed| {
        let mut plan = cutting(seed);
        plan.simulation.disk.write_vanished = Rate::percent(5);
        run(&plan)
    });
    println!("{what}");
}
