//! Power cuts while the real binary makes checkpoints, drops versions and empties segments.
//!
//! Small distances make these frequent, and cuts are armed when the log says that one begins, at a drawn write
//! of any file after that. `RINGD_TEST_BUDGET` multiplies the number of cuts (30 at budget 1, both drivers
//! together).

mod bench;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bench::{Bench, KINDS, SMALL_DISTANCES, budget, note_under_way};
use faultdisk::disk::Faults;
use faultdisk::member::{IoDriver, Member};
use faultdisk::model::Model;
use ringbench::random::Random;

/// Cuts of one data directory.
const CUTS_PER_DIRECTORY: u64 = 5;
/// A life that no cut has ended is cut after so long.
const LIFE_MAX: Duration = Duration::from_secs(4);
/// Answers that come so long after the power went would be lies.
const AFTERMATH: Duration = Duration::from_millis(30);
/// Each life runs on as many cores as are drawn, between which its shards move all the time.
const CORES_MAX: u64 = 3;

/// When the power goes.
#[derive(Clone, Copy, Debug)]
enum Strike {
    /// At the n-th write of the life.
    Write(u64),
    /// At an instant.
    Instant(Duration),
    /// At the n-th write after the log has said that this begins, once it has said so this many times.
    During {
        kind: &'static str,
        times: usize,
        writes: u64,
    },
}

fn draw(random: &mut Random, cut: u64) -> Strike {
    match cut % 6 {
        0 => Strike::Write(1 + random.below(1_500)),
        1 => Strike::Instant(Duration::from_micros(2_000 + random.below(800_000))),
        other => Strike::During {
            kind: KINDS[(other as usize - 2) % KINDS.len()],
            times: 1 + random.below(4) as usize,
            writes: 1 + random.below(if other == 3 { 3 } else { 12 }),
        },
    }
}

fn arm(bench: &Bench, writes: u64) {
    let faults = Faults {
        cut_after_write: Some(writes),
        ..Faults::default()
    };
    bench.mount.disk().lock().set_faults(faults);
}

/// One life: works until the power goes, and cuts it at the latest at the end of a life's time.
fn live(bench: &Bench, model: &mut Model, member: &Member, strike: Strike) -> std::io::Result<()> {
    if let Strike::Write(number) = strike {
        arm(bench, number);
    }
    let begun = Instant::now();
    let (mut off_at, mut armed, mut looked) = (None, false, begun);
    model.work(member, || {
        let due = match strike {
            Strike::Instant(at) => begun.elapsed() >= at,
            _ => begun.elapsed() >= LIFE_MAX,
        };
        if let Strike::During {
            kind,
            times,
            writes,
        } = strike
            && !armed
            && looked.elapsed() > Duration::from_micros(500)
        {
            looked = Instant::now();
            let begins = format!("\"msg\":\"{kind} begins\"");
            if member.logged().matches(&begins).count() >= times {
                armed = true;
                arm(bench, writes);
            }
        }
        if off_at.is_none() && due {
            bench.mount.power_off();
        }
        if off_at.is_none() && !bench.mount.disk().lock().is_powered() {
            off_at = Some(Instant::now());
        }
        off_at.is_some_and(|at| at.elapsed() > AFTERMATH)
    })
}

/// Cuts one directory again and again; notes what was under way.
fn cut_repeatedly(
    bench: &mut Bench,
    cuts: std::ops::Range<u64>,
    seed: u64,
    met: &mut BTreeMap<&'static str, u64>,
) -> (i64, u64) {
    let mut model = Model::new(seed);
    let mut random = Random::new(seed ^ 0x6375_7473);
    for cut in cuts {
        let cores = 1 + random.below(CORES_MAX);
        let mut member = bench.start_on(cores);
        let strike = draw(&mut random, cut);
        model
            .verify(&member)
            .and_then(|()| live(bench, &mut model, &member, strike))
            .unwrap_or_else(|error| {
                panic!("seed {seed}, cut {cut} ({strike:?}) on {cores} cores: {error}")
            });
        bench.mount.power_off();
        // What is logged from here on was done without power.
        let log = member.logged();
        member.kill().expect("the server ends");
        note_under_way(&log, met);
        bench
            .mount
            .power_on()
            .unwrap_or_else(|error| panic!("seed {seed}, cut {cut}: {error}"));
    }
    let member = bench.start();
    model
        .verify(&member)
        .unwrap_or_else(|error| panic!("seed {seed}, after the last cut: {error}"));
    model.counts()
}

fn store_cuts(driver: IoDriver, seed: u64) {
    let mut bench = Bench::with_flags(&format!("store-{driver:?}"), driver, seed, SMALL_DISTANCES);
    let mut met = BTreeMap::new();
    let (cuts, mut done) = (15 * budget(), 0);
    let (mut changes, mut hashes) = (0, 0);
    while done < cuts {
        // A directory serves several cuts, so that what was recovered is cut again.
        let next = cuts.min(done + CUTS_PER_DIRECTORY);
        let (more, equal) = cut_repeatedly(&mut bench, done..next, seed + done, &mut met);
        changes += more;
        hashes += equal;
        done = next;
        bench.fresh_data();
    }
    let counts = bench.mount.disk().lock().counts();
    println!(
        "{driver:?}: {cuts} cuts, under way: {met:?}; {changes} changes kept, {hashes} hashes equal; {counts:?}"
    );
    assert!(counts.sectors_lost > 0, "no cut lost anything");
    assert!(hashes > 0, "no hash was compared");
    for kind in KINDS {
        assert!(met[kind] > 0, "no cut met a {kind}: {met:?}");
    }
}

#[test]
fn no_acknowledged_change_is_lost_by_cuts_in_checkpoints_and_compactions_on_io_uring() {
    store_cuts(IoDriver::Uring, 1);
}

#[test]
fn no_acknowledged_change_is_lost_by_cuts_in_checkpoints_and_compactions_on_the_fallback() {
    store_cuts(IoDriver::Fallback, 1_000);
}
