//! One storage fault at every 64 bytes of every file, and random ones.

use wal::testing::{FaultCounts, Image, Style, budget, random_fault, sweep};

#[test]
fn no_damage_is_silent() {
    for image in [Image::CleanStop, Image::IdleKill, Image::LoadedKill] {
        let mut counts = FaultCounts::default();
        for (seed, style) in [(1, Style::Single), (2, Style::Member)] {
            counts.add(sweep(seed, style, image).unwrap());
        }
        println!("{image:?}: {counts:?}");
        assert!(counts.image_bytes <= 2 << 20);
        assert!(counts.faults > 1000);
    }
}

#[test]
fn no_random_fault_is_silent() {
    let styles = [Style::Single, Style::Member, Style::Conflicts, Style::Stuck];
    let mut counts = FaultCounts::default();
    for seed in 0..budget(600) {
        let style = styles[seed as usize % 4];
        random_fault(seed, style, &mut counts)
            .unwrap_or_else(|error| panic!("seed {seed} {style:?}: {error}"));
    }
    println!("{counts:?}");
}
