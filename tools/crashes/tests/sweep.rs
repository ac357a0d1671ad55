//! Storage faults over the files of a whole member.

use crashes::{FaultCounts, Slip, SweepImage, budget, lost_writes, sweep};

fn image(tail: bool) -> SweepImage {
    SweepImage::new(5, tail).unwrap_or_else(|violation| panic!("{violation}"))
}

/// Both halves of an image on two threads.
fn swept(tail: bool) -> FaultCounts {
    let (bytes, files) = (image(tail).bytes(), image(tail).files().len());
    assert!(bytes <= 2 << 20);
    let part = |part| {
        let counts = sweep(&image(tail), part, 2);
        counts.unwrap_or_else(|violation| panic!("part {part}: {violation}"))
    };
    let counts = std::thread::scope(|scope| {
        let other = scope.spawn(|| part(1));
        let mut counts = part(0);
        counts.add(other.join().expect("the other half finds nothing"));
        counts
    });
    println!("{bytes} bytes in {files} files: {counts:#?}");
    assert!(counts.refused > 0, "the superblock and manifests");
    assert!(counts.intact > 0, "what is not in use");
    assert!(counts.one_value > 0, "values");
    assert!(counts.one_leaf > 0, "leaves");
    assert!(counts.history_only > 0, "superseded values");
    counts
}

#[test]
fn no_damage_changes_an_answer() {
    let counts = swept(false);
    assert!(counts.inner_page > 0, "pages above the leaves");
}

#[test]
fn no_damage_changes_an_answer_or_what_is_replayed() {
    let counts = swept(true);
    assert!(counts.stopped > 0, "what the replay needs");
}

#[test]
fn no_lost_write_changes_an_answer() {
    let mut counts = FaultCounts::default();
    for seed in 0..budget(60) {
        let found = lost_writes(seed, Slip::None);
        counts.add(found.unwrap_or_else(|violation| panic!("seed {seed}: {violation}")));
    }
    println!("{counts:#?}");
    assert!(counts.refused > 0);
    assert!(counts.partly > 0);
}
