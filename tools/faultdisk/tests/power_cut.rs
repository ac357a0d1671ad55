//! Power cuts and failing operations under the real binary with its real drivers.
//!
//! `RINGD_TEST_BUDGET` multiplies the number of cuts (20 at budget 1, both drivers together).

mod bench;

use std::time::{Duration, Instant};

use bench::{Bench, budget};
use faultdisk::disk::Faults;
use faultdisk::member::{IoDriver, Promises};

/// Cuts the power under load, `cuts` times on one directory: in turn at an instant, and right
/// after the n-th write, because a fast disk has nothing in its cache at most instants.
fn cut_repeatedly(bench: &mut Bench, cuts: u64, seed: u64) -> usize {
    let mut promises = Promises::default();
    for cut in 0..cuts {
        let mut member = bench.start();
        promises
            .verify(&member)
            .unwrap_or_else(|error| panic!("cut {cut}: {error}"));
        let wait = Duration::from_micros(2_000 + (seed + cut) * 7_919 % 150_000);
        let after_write = cut % 2 == 0;
        if after_write {
            let faults = Faults {
                cut_after_write: Some(1 + (seed + cut) * 7_919 % 400),
                ..Faults::default()
            };
            bench.mount.disk().lock().set_faults(faults);
        }
        let begun = Instant::now();
        let mut off_at = None;
        promises
            .put_until(&member, 16, 700, |_| {
                if off_at.is_none() && begun.elapsed() >= wait && !after_write {
                    bench.mount.power_off();
                }
                if off_at.is_none() && !bench.mount.disk().lock().is_powered() {
                    off_at = Some(Instant::now());
                }
                // Whatever is still acknowledged now would be a lie that the next check finds.
                off_at.is_some_and(|at| at.elapsed() > Duration::from_millis(30))
            })
            .unwrap_or_else(|error| panic!("cut {cut}: {error}"));
        bench.mount.power_off();
        member.kill().expect("the server ends");
        bench
            .mount
            .power_on()
            .unwrap_or_else(|error| panic!("cut {cut}: {error}"));
    }
    let member = bench.start();
    promises.verify(&member).expect("the last check");
    promises.count()
}

fn power_cuts(driver: IoDriver, seed: u64) {
    let mut bench = Bench::new(&format!("cut-{driver:?}"), driver, seed);
    let mut left = 10 * budget();
    while left > 0 {
        // A directory serves several cuts, so that recovered logs are cut again.
        let cuts = left.min(5);
        left -= cuts;
        let acknowledged = cut_repeatedly(&mut bench, cuts, seed + left);
        let counts = bench.mount.disk().lock().counts();
        println!("{driver:?}: {cuts} cuts, {acknowledged} acknowledged puts kept, {counts:?}");
        bench.fresh_data();
    }
    let counts = bench.mount.disk().lock().counts();
    assert!(
        counts.sectors_lost > 0,
        "no cut lost anything: the test does not test"
    );
}

#[test]
fn no_acknowledged_write_is_lost_by_power_cuts_on_io_uring() {
    power_cuts(IoDriver::Uring, 1);
}

#[test]
fn no_acknowledged_write_is_lost_by_power_cuts_on_the_fallback() {
    power_cuts(IoDriver::Fallback, 2);
}

/// Fails one operation while puts run; the server must end with its code, acknowledge nothing after
/// the failure that is not durable, and come back with everything it promised.
fn fail_one(bench: &mut Bench, faults: Faults) -> bool {
    bench.fresh_data();
    let mut promises = Promises::default();
    let mut member = bench.start();
    promises
        .put_until(&member, 8, 700, |done| done >= 20)
        .expect("warm up");
    let failures = bench.mount.disk().lock().counts().failures;
    bench.mount.disk().lock().set_faults(faults);
    let begun = Instant::now();
    promises
        .put_until(&member, 8, 700, |done| {
            done >= 3_000 || begun.elapsed() > Duration::from_secs(10)
        })
        .expect("answers that can be");
    let struck = bench.mount.disk().lock().counts().failures > failures;
    // A failed operation of the file system's own journal need not reach the log.
    let ended = member.has_ended().expect("the process")
        || member.wait_for_end(Duration::from_secs(2)).is_ok();
    if ended {
        let status = member
            .wait_for_end(Duration::from_secs(1))
            .expect("the process");
        assert_eq!(
            status.code(),
            Some(74),
            "{faults:?}: {}",
            member.last_words()
        );
    } else {
        member.kill().expect("the server ends");
    }
    bench.mount.power_off();
    bench
        .mount
        .power_on()
        .expect("a file system that can be mounted");
    let member = bench.start();
    promises
        .verify(&member)
        .unwrap_or_else(|error| panic!("{faults:?}: {error}"));
    struck && ended
}

fn failing_operations(driver: IoDriver) {
    let mut ended = 0;
    for n in (1..=3 * budget()).map(|n| n * n) {
        // A fresh disk: what a failed journal leaves behind in one would fill it after some rounds.
        let mut bench = Bench::new(&format!("eio-{driver:?}"), driver, n);
        let write = Faults {
            fail_write: Some(n),
            ..Faults::default()
        };
        let flush = Faults {
            fail_flush: Some(n),
            ..Faults::default()
        };
        ended += u64::from(fail_one(&mut bench, write));
        ended += u64::from(fail_one(&mut bench, flush));
    }
    println!(
        "{driver:?}: {ended} of {} failures ended the server with its code",
        6 * budget()
    );
    assert!(
        ended > 0,
        "no failure reached the log: the test does not test"
    );
}

#[test]
fn a_failed_write_or_flush_ends_acknowledgement_on_io_uring() {
    failing_operations(IoDriver::Uring);
}

#[test]
fn a_failed_write_or_flush_ends_acknowledgement_on_the_fallback() {
    failing_operations(IoDriver::Fallback);
}

#[test]
fn a_slow_disk_only_slows() {
    let bench = Bench::new("slow", IoDriver::Uring, 4);
    let mut promises = Promises::default();
    let member = bench.start();
    let slow = Faults {
        flush_delay: Duration::from_millis(30),
        ..Faults::default()
    };
    bench.mount.disk().lock().set_faults(slow);
    promises
        .put_until(&member, 32, 300, |done| done >= 500)
        .expect("answers");
    promises
        .verify(&member)
        .expect("everything acknowledged is there");
}
