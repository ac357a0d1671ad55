//! What crashes leave behind.

use super::*;
use crate::Class;

const RECORDS: u64 = 64;

/// A log of one-block records: what was acknowledged, in order.
#[derive(Clone, Default)]
struct Log {
    acknowledged: Rc<RefCell<Vec<u64>>>,
}

impl Log {
    /// Writes each record to its own block, several at once, and acknowledges it when it is synced.
    async fn write(self, world: World) {
        world.create_dir_all("/data").await.unwrap();
        world.sync_dir("/").await.unwrap();
        let reserved = OpenOptions {
            len_to_reserve: Some(RECORDS * 4096),
            lock: true,
            ..create()
        };
        let file = world.open("/data/log", reserved).await.unwrap();
        file.sync_data().await.unwrap();
        world.sync_dir("/data").await.unwrap();
        for lane in 0..4 {
            let (log, file) = (self.clone(), file.clone());
            world.spawn(Class::Consensus, async move {
                for record in (lane..RECORDS).step_by(4) {
                    file.write_at_and_sync(block(record as u8 + 1), record * 4096)
                        .await
                        .unwrap();
                    log.acknowledged.borrow_mut().push(record);
                }
            });
        }
    }

    /// The first acknowledged record that is not on the disk.
    fn missing(&self, simulation: &Simulation, host: HostId) -> Option<u64> {
        let image = simulation
            .disk_image(host)
            .read("/data/log")
            .unwrap_or_default();
        let intact = |record: u64| {
            image
                .get(record as usize * 4096..)
                .and_then(|rest| rest.first_chunk::<4096>())
                .is_some_and(|block| block.iter().all(|&byte| byte == record as u8 + 1))
        };
        self.acknowledged
            .borrow()
            .iter()
            .copied()
            .find(|&record| !intact(record))
    }
}

/// Runs the log, crashes it at a random moment, and says what is missing.
fn crash_log(seed: u64, options: SimulationOptions, crash: Crash) -> (Option<u64>, Coverage) {
    let (mut simulation, host) = single(seed, options);
    let log = Log::default();
    let writer = log.clone();
    simulation.start_core(host, |world| writer.write(world));
    let moment = simulation.fork_random().below(4_000_000);
    simulation.run_until(moment, || false);
    simulation.crash(host, crash);
    let missing = log.missing(&simulation, host);
    (missing, simulation.coverage())
}

#[test]
fn acknowledged_records_survive_every_crash() {
    let mut coverage = Coverage::default();
    for seed in 0..300 {
        for crash in [
            Crash::Kill,
            Crash::PowerCut,
            Crash::PowerCutAllLost,
            Crash::PowerCutAllKept,
        ] {
            let (missing, seen) = crash_log(seed, SimulationOptions::rough(seed), crash);
            assert_eq!(missing, None, "seed {seed}, {crash:?}");
            coverage.merge(&seen);
        }
    }
    for kind in [
        FaultKind::Kill,
        FaultKind::PowerCut,
        FaultKind::SectorKept,
        FaultKind::SectorLost,
        FaultKind::SectorTorn,
        FaultKind::LengthLost,
        FaultKind::EntryKept,
        FaultKind::EntryLost,
        FaultKind::WriteCutInFlight,
        FaultKind::WriteDropped,
    ] {
        assert!(coverage.count(kind) > 0, "{} never happened", kind.name());
    }
}

#[test]
fn planted_a_disk_that_forgets_synced_writes_is_caught() {
    let lying = |rate| {
        let mut options = SimulationOptions::calm();
        options.disk.synced_write_lost = rate;
        options
    };
    let caught = |seed, rate| crash_log(seed, lying(rate), Crash::PowerCut).0.is_some();
    let always = (0..50).filter(|&seed| caught(seed, Rate::ALWAYS)).count();
    assert!(always > 25, "caught in {always} of 50 seeds");
    assert!(
        (0..200).any(|seed| caught(seed, Rate::percent(2))),
        "one lie in fifty syncs"
    );
    // Nothing else would have noticed.
    let (missing, _) = crash_log(1, lying(Rate::ALWAYS), Crash::Kill);
    assert_eq!(missing, None);
}

#[test]
fn planted_a_writer_that_does_not_sync_is_caught() {
    let lost = (0..50).filter(|&seed| {
        let (mut simulation, host) = single(seed, SimulationOptions::calm());
        run_on(&mut simulation, host, |world| async move {
            let file = world.open("/log", create()).await.unwrap();
            file.sync_data().await.unwrap();
            world.sync_dir("/").await.unwrap();
            file.write_at(block(1), 0).await.unwrap();
        });
        simulation.crash(host, Crash::PowerCut);
        simulation.disk_image(host).read("/log").unwrap() != [1; 4096]
    });
    assert!(lost.count() > 20);
}

#[test]
fn planted_a_directory_that_is_not_synced_is_caught() {
    let lost = (0..50).filter(|&seed| {
        let (mut simulation, host) = single(seed, SimulationOptions::calm());
        run_on(&mut simulation, host, |world| async move {
            let file = world.open("/log", create()).await.unwrap();
            file.write_at_and_sync(block(1), 0).await.unwrap();
        });
        simulation.crash(host, Crash::PowerCut);
        simulation.disk_image(host).length("/log").is_none()
    });
    assert!((10..40).contains(&lost.count()));
}

/// Kills a process with writes in flight, opens its file in a new one, and says whether the file changed after that.
fn changes_after_reopening(seed: u64, lock: bool) -> (bool, Coverage) {
    let (mut simulation, host) = single(seed, SimulationOptions::calm());
    let started = Rc::new(RefCell::new(false));
    let flag = Rc::clone(&started);
    simulation.start_core(host, |world| async move {
        let reserved = OpenOptions {
            len_to_reserve: Some(65_536),
            lock,
            ..create()
        };
        let file = world.open("/log", reserved).await.unwrap();
        for number in 0..16 {
            let file = file.clone();
            world.spawn(Class::Request, async move {
                file.write_at(block(number + 1), u64::from(number) * 4096)
                    .await
                    .unwrap();
            });
        }
        world.sleep(micros(20)).await;
        *flag.borrow_mut() = true;
        std::future::pending::<()>().await;
    });
    simulation.run_until(FOREVER, || *started.borrow());
    simulation.crash(host, Crash::Kill);
    run_on(&mut simulation, host, |world| async move {
        world
            .open("/log", OpenOptions { lock, ..existing() })
            .await
            .unwrap();
    });
    let at_opening = simulation.disk_image(host);
    simulation.run_for(Duration::from_secs(10));
    (
        !simulation.disk_image(host).same_bytes(&at_opening),
        simulation.coverage(),
    )
}

#[test]
fn late_writes_of_a_killed_process_land_before_its_lock_is_free() {
    let mut coverage = Coverage::default();
    for seed in 0..100 {
        let (changed, seen) = changes_after_reopening(seed, true);
        assert!(!changed, "seed {seed}");
        coverage.merge(&seen);
    }
    for kind in [
        FaultKind::WriteLandedLate,
        FaultKind::WriteLandedPartly,
        FaultKind::WriteDropped,
        FaultKind::Locked,
    ] {
        assert!(coverage.count(kind) > 0, "{} never happened", kind.name());
    }
    let unlocked = (0..100)
        .filter(|&seed| changes_after_reopening(seed, false).0)
        .count();
    assert!(
        unlocked > 50,
        "planted: without the lock, late writes hit the new process ({unlocked} of 100)"
    );
}

#[test]
fn a_crash_can_be_put_at_every_submission_and_completion() {
    let run = |point, crash| {
        let (mut simulation, host) = single(9, SimulationOptions::calm());
        let log = Log::default();
        let writer = log.clone();
        simulation.start_core(host, |world| writer.write(world));
        if let Some(point) = point {
            simulation.plan_crash(host, point, crash);
        }
        let mut crashed = false;
        loop {
            match simulation.step() {
                Step::Idle => break,
                Step::Crashed(_) => crashed = true,
                _ => {}
            }
        }
        assert_eq!(crashed, point.is_some());
        assert_eq!(log.missing(&simulation, host), None, "{point:?}, {crash:?}");
        let counts = (
            simulation.operations_submitted(host),
            simulation.operations_completed(host),
        );
        (counts, log.acknowledged.borrow().len())
    };
    let ((submissions, completions), all) = run(None, Crash::Kill);
    assert_eq!(all as u64, RECORDS);
    assert!(submissions >= RECORDS + 6 && completions >= RECORDS + 6);
    for crash in [Crash::Kill, Crash::PowerCut] {
        let mut acknowledged = 0;
        for submission in 1..=submissions {
            let ((submitted, _), count) = run(Some(CrashPoint::Submission(submission)), crash);
            assert_eq!(submitted, submission);
            assert!(count >= acknowledged, "the same run, cut later");
            acknowledged = count;
        }
        for completion in 1..=completions {
            let ((_, completed), _) = run(Some(CrashPoint::Completion(completion)), crash);
            assert_eq!(completed, completion);
        }
    }
}

#[test]
fn a_restarted_host_has_its_disk_and_a_new_clock() {
    let (mut simulation, host) = single(10, SimulationOptions::calm());
    run_on(&mut simulation, host, |world| async move {
        let file = world.open("/log", create()).await.unwrap();
        file.write_at_and_sync(block(5), 0).await.unwrap();
        world.sync_dir("/").await.unwrap();
        world.sleep(Duration::from_secs(100)).await;
        std::mem::forget(file);
    });
    simulation.crash(host, Crash::PowerCut);
    simulation.restart(host);
    let uptime = run_on(&mut simulation, host, |world| async move {
        let file = world
            .open(
                "/log",
                OpenOptions {
                    lock: true,
                    ..existing()
                },
            )
            .await
            .unwrap();
        assert_eq!(file.read_at(4096, 0).await.unwrap(), [5; 4096]);
        world.now().nanos()
    });
    assert!(uptime < 1_000_000_000);
}

#[test]
fn a_disk_is_saved_damaged_and_restored() {
    let (mut simulation, host) = single(11, SimulationOptions::calm());
    run_on(&mut simulation, host, |world| async move {
        world.create_dir_all("/data").await.unwrap();
        let file = world.open("/data/log", create()).await.unwrap();
        file.write_at(block(5), 0).await.unwrap();
    });
    assert!(simulation.has_unsynced_changes(host));
    simulation.crash(host, Crash::PowerCutAllKept);
    assert!(!simulation.has_unsynced_changes(host));
    let mut image = simulation.disk_image(host);
    assert_eq!(image.paths().collect::<Vec<_>>(), ["/data/log"]);
    image.write_at("/data/log", 100, &[6]);
    let mut fresh = Simulation::new(12, SimulationOptions::calm());
    let other = fresh.add_host("other");
    fresh.restore_disk(other, &image);
    assert!(fresh.damage(other, "/data/log", 200, &[7]));
    let bytes = run_on(&mut fresh, other, |world| async move {
        let file = world.open("/data/log", existing()).await.unwrap();
        file.read_at(4096, 0).await.unwrap()
    });
    assert_eq!((bytes[99], bytes[100], bytes[200]), (5, 6, 7));
    assert_eq!(
        simulation.disk_image(host).read("/data/log").unwrap(),
        [5; 4096]
    );
}
