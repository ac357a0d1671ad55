//! Bugs that the simulator must find: a judge that has never convicted proves nothing.

use reactor::sim::DiskOperation;
use reactor::sim::{Crash, Rate};
use ringd::cores::placement::Placement;
use ringd::planted::{Bug, with_planted};
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
    let what = convicted(10, |seed| {
        let mut plan = cutting(seed);
        plan.simulation.disk.synced_write_lost = Rate::percent(30);
        run(&plan)
    });
    println!("{what:?}");
}

#[test]
fn a_disk_that_drops_writes() {
    let what = convicted(10, |seed| {
        let mut plan = cutting(seed);
        plan.simulation.disk.write_vanished = Rate::percent(5);
        run(&plan)
    });
    println!("{what:?}");
}

#[test]
fn an_answer_before_the_entry_is_durable() {
    let what = convicted(10, |seed| {
        with_planted(Bug::AnswerBeforeDurable, || {
            let mut plan = cutting(seed);
            plan.ends = vec![
                End::Load {
                    operations: 150,
                    steps: 0,
                    crash: Crash::PowerCutAllLost
                };
                4
            ];
            run(&plan)
        })
    });
    println!("{what:?}");
}

#[test]
fn an_answer_after_a_failed_flush() {
    let what = convicted(20, |seed| {
        with_planted(Bug::AnswerAfterFailure, || {
            let mut plan = cutting(seed);
            let fault = |after| End::Fault {
                operation: DiskOperation::Sync,
                after,
                power_cut: true,
            };
            plan.ends = vec![fault(60), fault(90), fault(40)];
            run(&plan)
        })
    });
    println!("{what:?}");
}

#[test]
fn a_recovery_that_ignores_the_tail() {
    let what = convicted(10, |seed| {
        with_planted(Bug::IgnoreTail, || run(&cutting(seed)))
    });
    println!("{what:?}");
}

#[test]
fn a_revision_that_is_announced_before_it_is_applied() {
    let what = convicted(5, |seed| {
        with_planted(Bug::AnnounceBeforeApplied, || run(&cutting(seed)))
    });
    println!("{what:?}");
}

#[test]
fn a_lease_that_is_not_renewed() {
    let what = convicted(30, |seed| {
        with_planted(Bug::ForgetRenewal, || {
            run(&Plan::with_wire(seed, Length::FULL, false))
        })
    });
    println!("{what:?}");
}

#[test]
fn an_answer_before_other_cores_can_see_it() {
    let what = convicted(10, |seed| {
        with_planted(Bug::AnswerBeforeVisible, || {
            let mut plan = cutting(seed);
            plan.cores = 2;
            run(&plan)
        })
    });
    println!("{what:?}");
}

#[test]
#[should_panic(expected = "calls under way on a link")]
fn a_call_without_a_slot_for_its_response() {
    with_planted(Bug::UnreservedResponse, || {
        for seed in 1..=10 {
            let mut plan = cutting(seed);
            plan.cores = 2;
            plan.link_capacity = 1;
            plan.options.placement = Placement::Spread;
            run(&plan);
        }
    });
}
