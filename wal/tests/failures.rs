//! A device that fails a request or is full.

use wal::testing::{FailureCounts, Style, budget, failing_request, scarce_space};

const STYLES: [Style; 4] = [Style::Single, Style::Member, Style::Conflicts, Style::Stuck];

#[test]
fn nothing_is_reported_durable_after_a_failed_request() {
    let mut counts = FailureCounts::default();
    for seed in 0..budget(1000) {
        let style = STYLES[seed as usize % 4];
        let enumerate = seed % 250 < 4;
        failing_request(seed, style, enumerate, &mut counts)
            .unwrap_or_else(|violation| panic!("seed {seed} {style:?}: {violation}"));
    }
    let failed = |verb| counts.verbs.iter().filter(|one| **one == verb).count();
    let verbs = [
        "write",
        "sync",
        "create",
        "read",
        "sync directory",
        "rename",
    ];
    let by_verb = verbs.map(|verb| (verb, failed(verb)));
    println!(
        "{} failed, {} in the running log: {by_verb:?}",
        counts.failures, counts.poisoned
    );
    assert!(by_verb.iter().all(|(_, count)| *count > 0));
    assert!(counts.poisoned > 100);
}

#[test]
fn a_full_device_only_delays() {
    let mut counts = FailureCounts::default();
    for seed in 0..budget(1000) {
        let style = STYLES[seed as usize % 4];
        scarce_space(seed, style, &mut counts)
            .unwrap_or_else(|violation| panic!("seed {seed} {style:?}: {violation}"));
    }
    println!("{} times no space", counts.no_space);
    assert!(counts.no_space > 100);
}
