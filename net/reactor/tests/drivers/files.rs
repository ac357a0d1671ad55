//! Files: whole operations, durability calls, locks, buffers of operations that nobody waits for any more.

use std::future::Future;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use reactor::{AlignedBuffer, BLOCK_BYTES, Class, OpenOptions, World};

use crate::{Scratch, both};

both!(
    writes_and_reads_back,
    reads_stop_at_the_end_of_the_file,
    linked_writes_are_whole,
    many_writes_at_once,
    a_failed_write_is_told_from_a_failed_sync,
    path_operations,
    reserves_space,
    a_dropped_write_still_lands,
    a_dropped_read_keeps_its_buffer,
    direct_files_refuse_misaligned_work,
    a_file_system_in_memory_is_not_direct,
    a_file_locked_here_is_refused,
    a_closed_file_can_be_locked_again,
);

fn new_file() -> OpenOptions {
    OpenOptions {
        read: true,
        write: true,
        create_new: true,
        ..OpenOptions::default()
    }
}

fn direct_file() -> OpenOptions {
    OpenOptions {
        direct: true,
        lock: true,
        ..new_file()
    }
}

/// A buffer whose bytes tell their place.
fn pattern(len: usize, seed: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(len);
    for (index, byte) in buffer.iter_mut().enumerate() {
        *byte = (index / 7) as u8 ^ (index % 251) as u8 ^ seed;
    }
    buffer
}

async fn writes_and_reads_back(world: World) {
    let scratch = Scratch::new();
    let file = world
        .open(scratch.join("data"), direct_file())
        .await
        .unwrap();
    let buffer = file.write_at(pattern(64 << 10, 1), 4096).await.unwrap();
    assert_eq!(buffer.len(), 64 << 10);
    file.sync_data().await.unwrap();
    assert_eq!(file.len().await.unwrap(), (64 << 10) + 4096);
    assert_eq!(
        file.read_at(64 << 10, 4096).await.unwrap(),
        &*pattern(64 << 10, 1)
    );
    assert_eq!(file.read_at(4096, 0).await.unwrap(), vec![0; 4096]);
}

async fn reads_stop_at_the_end_of_the_file(world: World) {
    let scratch = Scratch::new();
    std::fs::write(scratch.join("odd"), vec![7; 5000]).unwrap();
    for direct in [false, true] {
        let options = OpenOptions {
            read: true,
            direct,
            ..OpenOptions::default()
        };
        let file = world.open(scratch.join("odd"), options).await.unwrap();
        assert_eq!(file.read_at(16384, 0).await.unwrap(), vec![7; 5000]);
        assert_eq!(file.read_at(4096, 4096).await.unwrap(), vec![7; 904]);
        assert_eq!(file.read_at(4096, 8192).await.unwrap(), vec![]);
    }
}

async fn linked_writes_are_whole(world: World) {
    let scratch = Scratch::new();
    let file = world
        .open(scratch.join("log"), direct_file())
        .await
        .unwrap();
    for block in 0..20u64 {
        let buffer = pattern(BLOCK_BYTES, block as u8);
        let buffer = file.write_at_and_sync(buffer, block * 4096).await.unwrap();
        world.recycle(buffer);
    }
    for block in 0..20u64 {
        let bytes = file.read_at(BLOCK_BYTES, block * 4096).await.unwrap();
        assert_eq!(bytes, &*pattern(BLOCK_BYTES, block as u8));
    }
}

async fn many_writes_at_once(world: World) {
    let scratch = Scratch::new();
    let file = world
        .open(scratch.join("log"), direct_file())
        .await
        .unwrap();
    let mut tasks = Vec::new();
    // More than the submission queue holds.
    for block in 0..600u64 {
        let file = file.clone();
        tasks.push(world.spawn_joinable(Class::Consensus, async move {
            let buffer = pattern(BLOCK_BYTES, block as u8);
            let sync = block % 50 == 0;
            match sync {
                true => file.write_at_and_sync(buffer, block * 4096).await.unwrap(),
                false => file.write_at(buffer, block * 4096).await.unwrap(),
            };
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let all = file.read_at(600 * BLOCK_BYTES, 0).await.unwrap();
    for (block, bytes) in all.chunks(BLOCK_BYTES).enumerate() {
        assert_eq!(bytes, &*pattern(BLOCK_BYTES, block as u8), "block {block}");
    }
}

async fn a_failed_write_is_told_from_a_failed_sync(world: World) {
    // Every write to /dev/full fails; fdatasync on /dev/null fails after a write that succeeds.
    let options = OpenOptions {
        write: true,
        ..OpenOptions::default()
    };
    let full = world.open("/dev/full", options.clone()).await.unwrap();
    let error = full
        .write_at_and_sync(pattern(4096, 0), 8192)
        .await
        .unwrap_err();
    assert!(
        matches!(error, reactor::WriteError::Write { offset: 8192, .. }),
        "{error:?}"
    );
    let null = world.open("/dev/null", options).await.unwrap();
    let error = null
        .write_at_and_sync(pattern(4096, 0), 4096)
        .await
        .unwrap_err();
    assert!(
        matches!(error, reactor::WriteError::Sync { offset: 4096, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("sync"), "{error}");
}

async fn path_operations(world: World) {
    let scratch = Scratch::new();
    let directory = scratch.join("a/b/c");
    world.create_dir_all(&directory).await.unwrap();
    world.create_dir_all(&directory).await.unwrap();
    for name in ["two", "one"] {
        let file = world.open(directory.join(name), new_file()).await.unwrap();
        file.write_at(pattern(10, 0), 0).await.unwrap();
    }
    world.sync_dir(&directory).await.unwrap();
    let listed = world.list_dir(&directory).await.unwrap();
    assert_eq!(listed, [("one".into(), 10), ("two".into(), 10)]);
    world
        .rename(directory.join("one"), directory.join("two"))
        .await
        .unwrap();
    assert_eq!(world.list_dir(&directory).await.unwrap().len(), 1);
    world.remove_file(directory.join("two")).await.unwrap();
    assert!(world.list_dir(&directory).await.unwrap().is_empty());

    let missing = world.remove_file(directory.join("two")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let error = world.open(
        directory.join("none"),
        OpenOptions {
            read: true,
            ..OpenOptions::default()
        },
    );
    let error = error.await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("none"), "{error}");
    let file = world.open(directory.join("x"), new_file()).await.unwrap();
    drop(file);
    let again = world
        .open(directory.join("x"), new_file())
        .await
        .err()
        .unwrap();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
}

async fn reserves_space(world: World) {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new();
    let options = OpenOptions {
        len_to_reserve: Some(1 << 20),
        ..direct_file()
    };
    let file = world.open(scratch.join("segment"), options).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 1 << 20);
    let status = std::fs::metadata(scratch.join("segment")).unwrap();
    assert!(
        status.blocks() * 512 >= 1 << 20,
        "{} blocks",
        status.blocks()
    );

    let too_much = OpenOptions {
        len_to_reserve: Some(1 << 50),
        ..new_file()
    };
    let error = world
        .open(scratch.join("huge"), too_much)
        .await
        .err()
        .unwrap();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::StorageFull | ErrorKind::FileTooLarge
        ),
        "{error:?}"
    );
    assert!(
        !scratch.join("huge").exists(),
        "what could not be reserved is removed"
    );
}

async fn a_dropped_write_still_lands(world: World) {
    let scratch = Scratch::new();
    let file = world
        .open(scratch.join("data"), direct_file())
        .await
        .unwrap();
    for block in 0..8u64 {
        let mut write = Box::pin(file.write_at(pattern(BLOCK_BYTES, 9), block * 4096));
        // Polled once, so that it is in the driver, and dropped with its buffer in flight.
        std::future::poll_fn(|context| {
            assert!(write.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        drop(write);
    }
    drop(file);
    // The file closes, and its lock goes, only after the writes have landed.
    let options = OpenOptions {
        read: true,
        lock: true,
        ..OpenOptions::default()
    };
    let file = world.open(scratch.join("data"), options).await.unwrap();
    for block in 0..8u64 {
        assert_eq!(
            file.read_at(BLOCK_BYTES, block * 4096).await.unwrap(),
            &*pattern(BLOCK_BYTES, 9)
        );
    }
}

async fn a_dropped_read_keeps_its_buffer(world: World) {
    let scratch = Scratch::new();
    std::fs::write(scratch.join("data"), vec![3; 1 << 20]).unwrap();
    let options = OpenOptions {
        read: true,
        ..OpenOptions::default()
    };
    let file = world.open(scratch.join("data"), options).await.unwrap();
    for _ in 0..50 {
        let mut read = Box::pin(file.read_at(1 << 20, 0));
        std::future::poll_fn(|context| {
            assert!(read.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        drop(read);
        // Memory that the kernel might still write to must not be handed out again.
        let mut buffer = world.buffer(1 << 20);
        buffer.fill(0xEE);
        world.yield_now().await;
        assert!(buffer.iter().all(|&byte| byte == 0xEE));
        world.recycle(buffer);
    }
    assert_eq!(file.read_at(1 << 20, 0).await.unwrap(), vec![3; 1 << 20]);
}

async fn direct_files_refuse_misaligned_work(world: World) {
    let scratch = Scratch::new();
    let file = world
        .open(scratch.join("data"), direct_file())
        .await
        .unwrap();
    assert!(file.is_direct(), "the scratch directory is on a disk");
    let error = file.write_at(pattern(100, 0), 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = file.read_at(4096, 512).await.unwrap_err();
    assert!(error.to_string().contains("512"), "{error}");
}

async fn a_file_system_in_memory_is_not_direct(world: World) {
    let scratch = Scratch::in_dir(Path::new("/dev/shm"));
    let file = world
        .open(scratch.join("data"), direct_file())
        .await
        .unwrap();
    assert!(!file.is_direct());
    file.write_at_and_sync(pattern(5000, 5), 3).await.unwrap();
    assert_eq!(file.read_at(5000, 3).await.unwrap(), &*pattern(5000, 5));
}

async fn a_file_locked_here_is_refused(world: World) {
    let scratch = Scratch::new();
    let path = scratch.join("data");
    let _file = world.open(&path, direct_file()).await.unwrap();
    let began = world.now();
    let again = OpenOptions {
        create_new: false,
        ..direct_file()
    };
    let error = world.open(&path, again).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    assert!(world.now().since(began) < Duration::from_secs(5));
}

async fn a_closed_file_can_be_locked_again(world: World) {
    let scratch = Scratch::new();
    let path = scratch.join("data");
    drop(world.open(&path, direct_file()).await.unwrap());
    for _ in 0..20 {
        let again = OpenOptions {
            create_new: false,
            ..direct_file()
        };
        drop(world.open(&path, again).await.unwrap());
    }
}
