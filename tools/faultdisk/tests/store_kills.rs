//! kill -9 while the real binary makes checkpoints, drops versions and empties segments, on the machine's own
//! file system. `RINGD_TEST_BUDGET` multiplies the number of kills (40 at budget 1, both drivers together).

mod bench;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bench::{KINDS, SMALL_DISTANCES, Scratch, budget, note_under_way, on_cores};
use faultdisk::member::{IoDriver, Member};
use faultdisk::model::Model;
use ringbench::random::Random;

/// Each life runs on as many cores as are drawn, between which its shards move all the time.
const CORES_MAX: u64 = 3;
/// A life that met nothing ends after so long.
const LIFE_MAX: Duration = Duration::from_secs(2);

/// Works until a drawn moment after the log has said that `kind` begins, for the `times`th time.
fn live(
    model: &mut Model,
    member: &Member,
    (kind, times): (&str, usize),
    pause: Duration,
) -> std::io::Result<()> {
    let begun = Instant::now();
    let begins = format!("\"msg\":\"{kind} begins\"");
    let (mut looked, mut seen) = (begun, None);
    model.work(member, || {
        if seen.is_none() && looked.elapsed() > Duration::from_micros(200) {
            looked = Instant::now();
            seen = (member.logged().matches(&begins).count() >= times).then_some(looked);
        }
        seen.is_some_and(|at| at.elapsed() >= pause) || begun.elapsed() > LIFE_MAX
    })
}

fn store_kills(driver: IoDriver, seed: u64) {
    let scratch = Scratch::new(&format!("kills-{driver:?}"));
    let (data, log) = (scratch.0.join("data"), scratch.0.join("ringd.log"));
    let start = |cores: u64| {
        let on_cores = on_cores(cores);
        let more = on_cores.iter().map(String::as_str);
        let flags: Vec<&str> = SMALL_DISTANCES.iter().copied().chain(more).collect();
        let member = Member::start_with(&bench::binary(), &data, &log, driver, &flags);
        member.unwrap_or_else(|error| panic!("start: {error}"))
    };
    let mut model = Model::new(seed);
    let mut random = Random::new(seed ^ 0x6b69_6c6c);
    let mut met = BTreeMap::new();
    let kills = 20 * budget();
    for kill in 0..kills {
        let cores = 1 + random.below(CORES_MAX);
        let mut member = start(cores);
        let kind = KINDS[kill as usize % KINDS.len()];
        let times = 1 + random.below(4) as usize;
        let pause = Duration::from_micros(random.below(2_000));
        model
            .verify(&member)
            .and_then(|()| live(&mut model, &member, (kind, times), pause))
            .unwrap_or_else(|error| {
                panic!("seed {seed}, kill {kill} in a {kind} on {cores} cores: {error}")
            });
        member.kill().expect("the server ends");
        note_under_way(&member.logged(), &mut met);
    }
    model
        .verify(&start(1))
        .unwrap_or_else(|error| panic!("seed {seed}, after the last kill: {error}"));
    let (changes, hashes) = model.counts();
    println!(
        "{driver:?}: {kills} kills, under way: {met:?}; {changes} changes kept, {hashes} hashes equal"
    );
    for kind in ["checkpoint", "segment collection"] {
        assert!(met[kind] > 0, "no kill met a {kind}: {met:?}");
    }
}

#[test]
fn no_acknowledged_change_is_lost_by_kills_in_checkpoints_and_compactions_on_io_uring() {
    store_kills(IoDriver::Uring, 1);
}

#[test]
fn no_acknowledged_change_is_lost_by_kills_in_checkpoints_and_compactions_on_the_fallback() {
    store_kills(IoDriver::Fallback, 2);
}
