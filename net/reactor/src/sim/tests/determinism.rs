//! One seed, one run.

use super::*;
use crate::{Address, Class};

/// Everything at once: two hosts, three cores, files, sockets, timers, crashes.
fn storm(seed: u64) -> (u64, u64, Coverage) {
    let mut options = SimulationOptions::rough(seed);
    options.network.reset = Rate::per_mille(5);
    options.disk.read_error = Rate::per_mille(2);
    let mut simulation = Simulation::new(seed, options);
    let (client, server) = (simulation.add_host("client"), simulation.add_host("server"));
    let address = Address::Tcp((simulation.host_address(server), 1).into());
    for life in 0..4 {
        let listen = address.clone();
        let (sender, receiver) = crate::mailbox::channel::<u64>(4);
        simulation.start_core(server, |world| async move {
            let mut receiver = receiver;
            let options = OpenOptions {
                lock: true,
                create_new: life == 0,
                ..create()
            };
            let Ok(file) = world.open("/log", options).await else {
                return;
            };
            let mut offset = 0;
            while let Some(number) = receiver.receive().await {
                if file
                    .write_at_and_sync(block(number as u8), offset)
                    .await
                    .is_err()
                {
                    return;
                }
                if file.read_at(4096, offset).await.is_err() {
                    return;
                }
                offset = (offset + 4096) % 65_536;
            }
        });
        simulation.start_core(server, |world| async move {
            let Ok(listener) = world.listen(&listen).await else {
                return;
            };
            loop {
                if listener.accept().await.is_err()
                    || sender.send(world.random_u64()).await.is_err()
                {
                    return;
                }
            }
        });
        let target = address.clone();
        simulation.start_core(client, |world| async move {
            for _ in 0..100 {
                let (inner, target) = (world.clone(), target.clone());
                world.spawn(Class::Background, async move {
                    if inner.connect(&target).await.is_err() {
                        inner.sleep(micros(500)).await;
                    }
                });
                world.sleep(micros(100)).await;
            }
        });
        simulation.run_for(Duration::from_millis(8));
        let crash = if life % 2 == 0 {
            Crash::Kill
        } else {
            Crash::PowerCut
        };
        simulation.crash(server, crash);
        simulation.restart(server);
    }
    (
        simulation.trace_hash(),
        simulation.steps(),
        simulation.coverage(),
    )
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..25 {
        let first = storm(seed);
        assert_eq!(first, storm(seed), "seed {seed}");
        assert!(first.1 > 1_000, "{} steps", first.1);
    }
}

#[test]
fn different_seeds_give_different_runs() {
    let hashes: std::collections::BTreeSet<u64> = (0..50).map(|seed| storm(seed).0).collect();
    assert_eq!(hashes.len(), 50);
}

#[test]
fn a_run_does_not_depend_on_what_ran_before_on_the_thread() {
    let here = storm(77);
    storm(78);
    let elsewhere = std::thread::spawn(|| storm(77)).join().unwrap();
    assert_eq!(here, elsewhere);
}

#[test]
fn what_the_test_traces_is_part_of_the_hash() {
    let hash = |text: &[u8]| {
        let mut simulation = Simulation::new(1, SimulationOptions::calm());
        simulation.trace(text);
        simulation.trace_hash()
    };
    assert_ne!(hash(b"one"), hash(b"other"));
}
