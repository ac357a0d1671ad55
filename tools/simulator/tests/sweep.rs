//! Storage faults on three small data directories. The release binary takes every place (`--sweep`);
//! here every few are enough to notice a rule that is gone.

use simulator::sweep::{BASE_KINDS, Base, Counts, DAMAGES, sweep};

fn budget() -> usize {
    std::env::var("RINGD_TEST_BUDGET")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

#[test]
fn no_damage_goes_unnoticed() {
    // An odd stride meets every offset within a block.
    let stride = (7 / budget()).max(1);
    for kind in BASE_KINDS {
        let base = Base::make(kind);
        assert!(base.bytes() <= 2 << 20, "{} bytes", base.bytes());
        for damage in DAMAGES {
            let counts = sweep(&base, damage, 2, stride);
            println!("{kind:?} {damage:?}: {counts}");
            assert_eq!(counts.wrong, Vec::<String>::new());
            let Counts {
                intact, refused, ..
            } = counts;
            assert!(
                intact > 0 && refused > 0,
                "{intact} intact, {refused} refused"
            );
        }
    }
}
