//! Files: the meaning of each operation, and trouble that the caller must not notice.

use std::io::ErrorKind;

use super::*;
use crate::WriteError;

#[test]
fn names_behave() {
    let (mut simulation, host) = single(1, SimulationOptions::calm());
    run_on(&mut simulation, host, |world| async move {
        world.create_dir_all("/data/wal").await.unwrap();
        world.create_dir_all("/data/wal").await.unwrap();
        let file = world.open("/data/wal/one", create()).await.unwrap();
        let again = world
            .open("/data/wal/one", create())
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        let missing = world
            .open("/data/wal/two", existing())
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        file.write_at(block(1), 4096).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 8192);
        let reserved = OpenOptions {
            len_to_reserve: Some(65_536),
            ..create()
        };
        world.open("/data/wal/three", reserved).await.unwrap();
        let names = world.list_dir("/data/wal").await.unwrap();
        assert_eq!(
            names,
            [("one".to_owned(), 8192), ("three".to_owned(), 65_536)]
        );
        world
            .rename("/data/wal/one", "/data/wal/three")
            .await
            .unwrap();
        let names = world.list_dir("/data/wal").await.unwrap();
        assert_eq!(names, [("three".to_owned(), 8192)]);
        world.remove_file("/data/wal/three").await.unwrap();
        let gone = world.remove_file("/data/wal/three").await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        // An open file outlives its name.
        assert_eq!(file.read_at(4096, 4096).await.unwrap(), [1; 4096]);
        assert_eq!(
            world.list_dir("/none").await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
    });
    assert!(
        simulation.coverage().missing().len() == FaultKind::ALL.len(),
        "calm is calm"
    );
}

#[test]
fn reads_end_at_the_end_of_the_file() {
    let (mut simulation, host) = single(2, SimulationOptions::rough(2));
    run_on(&mut simulation, host, |world| async move {
        let file = world
            .open(
                "/file",
                OpenOptions {
                    direct: false,
                    ..create()
                },
            )
            .await
            .unwrap();
        let mut buffer = AlignedBuffer::zeroed(5_000);
        buffer.fill(3);
        file.write_at(buffer, 0).await.unwrap();
        assert_eq!(file.read_at(8192, 4096).await.unwrap(), [3; 904]);
        assert_eq!(file.read_at(8192, 8192).await.unwrap(), []);
    });
}

#[test]
fn direct_transfers_are_aligned() {
    let (mut simulation, host) = single(3, SimulationOptions::calm());
    run_on(&mut simulation, host, |world| async move {
        let file = world.open("/file", create()).await.unwrap();
        assert!(file.is_direct());
        let refused = file.write_at(block(1), 512).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert_eq!(
            file.read_at(512, 0).await.unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        let only_read = OpenOptions {
            write: false,
            ..existing()
        };
        let file = world.open("/file", only_read).await.unwrap();
        assert!(file.write_at(block(1), 0).await.is_err());
    });
}

/// Random writes and reads of any length, by several tasks at once, against a plain array.
fn random_transfers(seed: u64, direct: bool) -> Coverage {
    let (mut simulation, host) = single(seed, SimulationOptions::rough(seed));
    run_on(&mut simulation, host, |world| async move {
        let file = world
            .open("/file", OpenOptions { direct, ..create() })
            .await
            .unwrap();
        let tasks: Vec<_> = (0..4u64)
            .map(|task| {
                let (file, inner) = (file.clone(), world.clone());
                let base = task * 65_536;
                world.spawn_joinable(crate::Class::Request, async move {
                    let mut model = vec![0u8; 65_536];
                    for round in 0..12 {
                        let unit = if direct { 4096 } else { 1 };
                        let offset = inner.random_u64() as usize % 32_768 / unit * unit;
                        let length =
                            (1 + inner.random_u64() as usize % 32_767).next_multiple_of(unit);
                        let mut buffer = AlignedBuffer::zeroed(length);
                        buffer.fill(round * 4 + task as u8 + 1);
                        model[offset..offset + length].copy_from_slice(&buffer);
                        if round % 2 == 0 {
                            file.write_at(buffer, base + offset as u64).await.unwrap();
                        } else {
                            file.write_at_and_sync(buffer, base + offset as u64)
                                .await
                                .unwrap();
                        }
                        let read = file.read_at(65_536, base).await.unwrap();
                        assert_eq!(read, model[..read.len()]);
                        assert!(read.len() >= offset + length);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    simulation.coverage()
}

#[test]
fn short_interrupted_and_slow_transfers_are_not_noticed() {
    let mut coverage = Coverage::default();
    for seed in 0..40 {
        coverage.merge(&random_transfers(seed, seed % 2 == 0));
    }
    for kind in [
        FaultKind::ShortRead,
        FaultKind::ShortWrite,
        FaultKind::Interrupted,
        FaultKind::TryAgain,
        FaultKind::DiskSlow,
        FaultKind::DiskStall,
        FaultKind::CoreStall,
    ] {
        assert!(coverage.count(kind) > 0, "{} never happened", kind.name());
    }
}

/// A direct read goes on at a whole block: only the file's length tells one that was cut short in its first
/// block from one that met the end of the file.
#[test]
fn direct_reads_cut_short_in_one_block_are_whole() {
    let mut coverage = Coverage::default();
    for seed in 0..20 {
        let mut options = SimulationOptions::calm();
        options.disk.short_read = Rate::percent(40);
        let (mut simulation, host) = single(seed, options);
        run_on(&mut simulation, host, |world| async move {
            let file = world
                .open(
                    "/file",
                    OpenOptions {
                        direct: false,
                        ..create()
                    },
                )
                .await
                .unwrap();
            let mut buffer = AlignedBuffer::zeroed(13_000);
            buffer.fill(3);
            file.write_at(buffer, 0).await.unwrap();
            let file = world.open("/file", existing()).await.unwrap();
            for (len, offset, expected) in [
                (4096, 0, 4096),
                (16_384, 0, 13_000),
                (8192, 12_288, 712),
                (4096, 16_384, 0),
            ] {
                let read = file.read_at(len, offset).await.unwrap();
                assert_eq!(read.len(), expected, "{len} bytes at {offset}");
                assert!(read.iter().all(|byte| *byte == 3));
            }
        });
        coverage.merge(&simulation.coverage());
    }
    assert!(coverage.count(FaultKind::ShortRead) > 20);
}

fn plan(operation: DiskOperation, after: u64, fault: DiskFault) -> PlannedFault {
    PlannedFault {
        operation,
        path_contains: "file".to_owned(),
        after,
        repeat: false,
        fault,
    }
}

#[test]
fn planned_errors_hit_the_nth_operation() {
    let (mut simulation, host) = single(4, SimulationOptions::calm());
    let eio = DiskFault::Error(libc::EIO);
    simulation.plan_fault(host, plan(DiskOperation::Write, 2, eio));
    simulation.plan_fault(host, plan(DiskOperation::Read, 1, eio));
    simulation.plan_fault(host, plan(DiskOperation::Sync, 0, eio));
    simulation.plan_fault(host, plan(DiskOperation::SyncDirectory, 0, eio));
    run_on(&mut simulation, host, |world| async move {
        let eio = Some(libc::EIO);
        let file = world.open("/file", create()).await.unwrap();
        let other = world.open("/other", create()).await.unwrap();
        file.write_at(block(1), 0).await.unwrap();
        for _ in 0..5 {
            other.write_at(block(1), 0).await.unwrap();
        }
        match file.write_at_and_sync(block(2), 0).await {
            Err(WriteError::Sync { error, .. }) => assert_eq!(error.raw_os_error(), eio),
            other => panic!("{other:?}"),
        }
        match file.write_at_and_sync(block(3), 0).await {
            Err(WriteError::Write { error, .. }) => assert_eq!(error.raw_os_error(), eio),
            other => panic!("{other:?}"),
        }
        file.write_at_and_sync(block(3), 0).await.unwrap();
        file.read_at(4096, 0).await.unwrap();
        assert_eq!(file.read_at(4096, 0).await.unwrap_err().raw_os_error(), eio);
        file.read_at(4096, 0).await.unwrap();
        world.create_dir_all("/file-directory").await.unwrap();
        assert!(world.sync_dir("/file-directory").await.is_err());
        world.sync_dir("/file-directory").await.unwrap();
    });
    let coverage = simulation.coverage();
    for (kind, count) in [
        (FaultKind::WriteError, 1),
        (FaultKind::ReadError, 1),
        (FaultKind::SyncError, 2),
    ] {
        assert_eq!(coverage.count(kind), count, "{}", kind.name());
    }
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let (mut simulation, host) = single(5, SimulationOptions::calm());
    simulation.set_disk_capacity(host, 32_768);
    run_on(&mut simulation, host, |world| async move {
        let reserved = OpenOptions {
            len_to_reserve: Some(24_576),
            ..create()
        };
        let file = world.open("/file", reserved.clone()).await.unwrap();
        let full = world
            .open("/file-two", reserved)
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        file.write_at(block(1), 20_480).await.unwrap();
        file.write_at(block(1), 28_672).await.unwrap();
        assert_eq!(
            file.write_at(block(1), 32_768).await.unwrap_err().kind(),
            ErrorKind::StorageFull
        );
        // What found no room leaves no name behind, as with the real drivers.
        let gone = world.remove_file("/file-two").await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    });
    assert_eq!(simulation.coverage().count(FaultKind::NoSpace), 2);
}

#[test]
fn lies_of_the_disk_are_what_they_say() {
    let (mut simulation, host) = single(6, SimulationOptions::calm());
    let reserved = OpenOptions {
        len_to_reserve: Some(65_536),
        ..create()
    };
    simulation.plan_fault(host, plan(DiskOperation::Write, 1, DiskFault::Vanish));
    simulation.plan_fault(host, plan(DiskOperation::Write, 2, DiskFault::Misdirect));
    simulation.plan_fault(host, plan(DiskOperation::Read, 2, DiskFault::BitRot));
    run_on(&mut simulation, host, |world| async move {
        let file = world.open("/file", reserved).await.unwrap();
        file.write_at(block(1), 0).await.unwrap();
        file.write_at_and_sync(block(2), 0).await.unwrap();
        assert_eq!(
            file.read_at(4096, 0).await.unwrap(),
            [1; 4096],
            "the second write vanished"
        );
        file.write_at(block(3), 4096).await.unwrap();
        let all = file.read_at(65_536, 0).await.unwrap();
        let hit: Vec<usize> = (0..16)
            .filter(|&index| all[index * 4096..][..4096] == [3; 4096])
            .collect();
        assert_eq!(hit.len(), 1, "written once, wherever");
        assert_ne!(hit[0], 1, "but not where it belongs");
        let rotten = file.read_at(65_536, 0).await.unwrap();
        let bits: u32 = all
            .iter()
            .zip(&rotten)
            .map(|(one, other)| (one ^ other).count_ones())
            .sum();
        assert_eq!(bits, 1);
        assert_eq!(file.read_at(65_536, 0).await.unwrap(), rotten, "for good");
    });
}

#[test]
fn a_file_is_locked_by_one_process_only() {
    let (mut simulation, host) = single(7, SimulationOptions::calm());
    let other_host = simulation.add_host("two");
    let locked = OpenOptions {
        lock: true,
        ..create()
    };
    let relock = OpenOptions {
        lock: true,
        ..existing()
    };
    let (first, second) = (locked.clone(), relock.clone());
    run_on(&mut simulation, host, |world| async move {
        let file = world.open("/file", first).await.unwrap();
        let busy = world
            .open("/file", second.clone())
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
        drop(file);
        world.sleep(micros(10)).await;
        let file = world.open("/file", second).await.unwrap();
        world.spawn(crate::Class::Background, async move {
            std::future::pending::<()>().await;
            drop(file);
        });
    });
    // Another process of the same host, while the first one lives.
    run_on(&mut simulation, host, |world| async move {
        assert_eq!(
            world
                .open("/file", relock)
                .await
                .map(drop)
                .unwrap_err()
                .kind(),
            ErrorKind::ResourceBusy
        );
    });
    run_on(&mut simulation, other_host, |world| async move {
        world.open("/file", locked).await.unwrap();
    });
    assert_eq!(simulation.coverage().count(FaultKind::Locked), 2);
}

#[test]
fn a_dropped_future_leaves_its_write_to_the_disk() {
    let (mut simulation, host) = single(8, SimulationOptions::calm());
    run_on(&mut simulation, host, |world| async move {
        let file = world.open("/file", create()).await.unwrap();
        let early = world
            .timeout(Duration::from_nanos(100), file.write_at(block(9), 0))
            .await;
        assert!(early.is_err());
        world.sleep(Duration::from_millis(1)).await;
        assert_eq!(file.read_at(4096, 0).await.unwrap(), [9; 4096]);
    });
}
