//! Further cores of the process: their start, their end, what goes wrong with either, and what changes its core.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use reactor::mailbox::{self, Receiver};
use reactor::{
    AlignedBuffer, Class, CoreThread, DetachedFile, DetachedStream, DriverChoice, File, Listener,
    OpenOptions, RunOptions, Stream, World, spawn_core,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Scratch, both, options, same_driver};

both!(
    a_further_core_runs_beside_the_first,
    a_core_that_cannot_start_says_so,
    a_panic_comes_out_of_join,
    a_file_changes_its_core_with_its_lock,
    a_file_in_use_stays_where_it_is,
    a_dropped_detached_file_is_closed,
    accepted_here_and_served_elsewhere,
    streams_cross_between_the_drivers,
    a_stream_in_use_stays_where_it_is,
    a_dropped_detached_stream_is_closed,
);

async fn a_further_core_runs_beside_the_first(world: World) {
    let kind = world.driver_kind();
    let (to_other, mut at_other) = mailbox::channel::<u32>(1);
    let (to_here, mut at_here) = mailbox::channel::<(u32, String)>(1);
    let core = spawn_core("second", options(same_driver(&world)), move |other| {
        assert_eq!(other.driver_kind(), kind);
        // Not `Send`: it is made where it is used.
        let name = std::rc::Rc::new(thread::current().name().unwrap().to_owned());
        async move {
            while let Some(number) = at_other.receive().await {
                let answer = (number + 1, String::clone(&name));
                to_here.send(answer).await.unwrap();
            }
        }
    })
    .unwrap();
    for number in 0..100 {
        to_other.send(number).await.unwrap();
        let answer = at_here.receive().await;
        assert_eq!(answer, Some((number + 1, "second".to_owned())));
    }
    assert!(!core.is_finished());
    drop(to_other);
    assert_eq!(at_here.receive().await, None);
    core.join();
}

async fn a_core_that_cannot_start_says_so(world: World) {
    let began = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&began);
    let nowhere = RunOptions {
        pin_to: Some(usize::MAX),
        ..options(same_driver(&world))
    };
    let error = spawn_core("nowhere", nowhere, move |_| async move {
        flag.store(true, Ordering::Relaxed);
    })
    .err()
    .unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(!began.load(Ordering::Relaxed));
}

async fn a_panic_comes_out_of_join(world: World) {
    let started = Arc::new(Barrier::new(2));
    let there = Arc::clone(&started);
    let core = spawn_core(
        "doomed",
        options(same_driver(&world)),
        move |_| async move {
            there.wait();
            panic!("as planned");
        },
    )
    .unwrap();
    started.wait();
    let panic = catch_unwind(AssertUnwindSafe(|| core.join())).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"as planned"));
}

fn locked(create_new: bool) -> OpenOptions {
    OpenOptions {
        read: true,
        write: true,
        direct: true,
        lock: true,
        create_new,
        ..OpenOptions::default()
    }
}

fn block(byte: u8) -> AlignedBuffer {
    AlignedBuffer::padded_from(&[byte; 4096])
}

async fn is_locked(world: &World, path: &Path) -> bool {
    match world.open(path, locked(false)).await {
        Ok(_) => false,
        Err(error) if error.kind() == ErrorKind::ResourceBusy => true,
        Err(error) => panic!("{error}"),
    }
}

async fn a_file_changes_its_core_with_its_lock(world: World) {
    let scratch = Scratch::new();
    let path = scratch.join("data");
    let (to_other, mut at_other) = mailbox::channel::<DetachedFile>(1);
    let (to_here, mut at_here) = mailbox::channel::<DetachedFile>(1);
    let core = spawn_core("second", options(same_driver(&world)), |world| async move {
        let mut round = 0;
        while let Some(file) = at_other.receive().await {
            let file = world.attach_file(file);
            assert_eq!(file.read_at(4096, 0).await.unwrap(), [round; 4096]);
            round += 1;
            file.write_at_and_sync(block(round), 0).await.unwrap();
            to_here.send(file.detach().ok().unwrap()).await.unwrap();
        }
    })
    .unwrap();
    let file = world.open(&path, locked(true)).await.unwrap();
    let direct = file.is_direct();
    file.write_at(block(0), 0).await.unwrap();
    let mut file = file.detach().ok().unwrap();
    for round in 1..=20 {
        to_other.send(file).await.unwrap();
        file = at_here.receive().await.unwrap();
        let here = world.attach_file(file);
        assert_eq!(here.is_direct(), direct);
        assert_eq!(here.read_at(4096, 0).await.unwrap(), [round; 4096]);
        file = here.detach().ok().unwrap();
    }
    assert!(is_locked(&world, &path).await);
    drop(world.attach_file(file));
    assert!(!is_locked(&world, &path).await);
    drop(to_other);
    core.join();
}

/// Detaches as soon as what is under way has ended.
async fn detach_later(world: &World, file: File) -> DetachedFile {
    let mut file = file;
    loop {
        match file.detach() {
            Ok(detached) => return detached,
            Err(same) => file = same,
        }
        world.sleep(Duration::from_micros(100)).await;
    }
}

async fn a_file_in_use_stays_where_it_is(world: World) {
    let scratch = Scratch::new();
    let file = world
        .open(scratch.join("data"), locked(true))
        .await
        .unwrap();
    let clone = file.clone();
    let file = file.detach().err().unwrap();
    drop(clone);
    // A write whose future is gone, and which has not completed.
    let write = file.write_at(block(7), 0);
    let mut write = Box::pin(write);
    poll_fn(|context| {
        assert!(write.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    drop(write);
    let file = file.detach().err().unwrap();
    let file = world.attach_file(detach_later(&world, file).await);
    assert_eq!(file.read_at(4096, 0).await.unwrap(), [7; 4096]);
}

async fn a_dropped_detached_file_is_closed(world: World) {
    let scratch = Scratch::new();
    let path = scratch.join("data");
    let file = world.open(&path, locked(true)).await.unwrap();
    drop(file.detach().ok().unwrap());
    assert!(!is_locked(&world, &path).await);

    let file = world.open(&path, locked(false)).await.unwrap();
    let (sender, receiver) = mailbox::channel(1);
    sender.try_send(file.detach().ok().unwrap()).ok().unwrap();
    assert!(is_locked(&world, &path).await);
    drop(receiver);
    assert!(!is_locked(&world, &path).await);
}

async fn listen(world: &World) -> Listener {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    world.listen(&any.into()).await.unwrap()
}

/// A core on this driver that answers every connection it is given with its own bytes, in capitals.
fn start_server(driver: DriverChoice, mut connections: Receiver<DetachedStream>) -> CoreThread {
    let serve = |mut stream: Stream| async move {
        let mut buffer = [0; 512];
        loop {
            let count = stream.read(&mut buffer).await.unwrap();
            if count == 0 {
                return stream.close().await.unwrap();
            }
            buffer.make_ascii_uppercase();
            stream.write_all(&buffer[..count]).await.unwrap();
        }
    };
    let core = spawn_core("server", options(driver), move |world| async move {
        let mut tasks = Vec::new();
        while let Some(stream) = connections.receive().await {
            let stream = world.attach_stream(stream).unwrap();
            tasks.push(world.spawn_joinable(Class::Request, serve(stream)));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    core.unwrap()
}

/// More than two sockets' buffers hold, towards a client that reads late: the server must wait for space, and its
/// core must not.
async fn check_large_answer(world: &World, driver: DriverChoice) {
    const BYTES: usize = 16 << 20;
    let (sender, receiver) = mailbox::channel(2);
    let server = start_server(driver, receiver);
    let listener = listen(world).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(world.connect(listener.local_address()).await.unwrap());
        let stream = listener.accept().await.unwrap();
        sender.send(stream.detach().ok().unwrap()).await.unwrap();
    }
    drop(sender);
    let (mut small, large) = (clients.pop().unwrap(), clients.pop().unwrap());
    let (mut reading, mut writing) = tokio::io::split(large);
    let writer = world.spawn_joinable(Class::Request, async move {
        writing.write_all(&vec![b'x'; BYTES]).await.unwrap();
        writing.shutdown().await.unwrap();
    });
    // Until neither side can go on.
    world.sleep(Duration::from_millis(50)).await;
    small.write_all(b"small").await.unwrap();
    let mut answer = [0; 5];
    small.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"SMALL");
    let mut bytes = Vec::new();
    reading.read_to_end(&mut bytes).await.unwrap();
    assert!(bytes.len() == BYTES && bytes.iter().all(|&byte| byte == b'X'));
    writer.await.unwrap();
    small.shutdown().await.unwrap();
    assert_eq!(small.read(&mut answer).await.unwrap(), 0);
    server.join();
}

async fn check_served_elsewhere(world: &World, driver: DriverChoice) {
    const CLIENTS: usize = 50;
    let (sender, receiver) = mailbox::channel(1);
    let server = start_server(driver, receiver);
    let listener = listen(world).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = world.connect(listener.local_address()).await.unwrap();
        // Every other one has spoken before its connection changes the core.
        if number % 2 == 0 {
            client.write_all(b"early ").await.unwrap();
            world.sleep(Duration::from_micros(100)).await;
        }
        let stream = listener.accept().await.unwrap();
        let peer = stream.peer_address().clone();
        let stream = stream.detach().ok().unwrap();
        assert_eq!(stream.peer_address(), &peer);
        sender.send(stream).await.unwrap();
        clients.push(client);
    }
    drop(sender);
    for (number, client) in clients.iter_mut().enumerate() {
        let expected: &[u8] = if number % 2 == 0 {
            b"EARLY BIRD"
        } else {
            b"BIRD"
        };
        client.write_all(b"bird").await.unwrap();
        let mut answer = vec![0; expected.len()];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, expected);
    }
    for mut client in clients {
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
    }
    server.join();
}

async fn accepted_here_and_served_elsewhere(world: World) {
    check_served_elsewhere(&world, same_driver(&world)).await;
}

async fn streams_cross_between_the_drivers(world: World) {
    let other = match same_driver(&world) {
        DriverChoice::Uring => DriverChoice::Fallback,
        _ => DriverChoice::Uring,
    };
    check_served_elsewhere(&world, other).await;
    check_large_answer(&world, other).await;
}

async fn a_stream_in_use_stays_where_it_is(world: World) {
    let listener = listen(&world).await;
    let mut client = world.connect(listener.local_address()).await.unwrap();
    let mut stream = listener.accept().await.unwrap();
    // A read under way, which began before there was anything to read.
    let mut buffer = [0; 4];
    let read = world.timeout(Duration::from_millis(1), stream.read_exact(&mut buffer));
    assert!(read.await.is_err());
    let mut stream = stream.detach().err().unwrap();
    client.write_all(b"12345").await.unwrap();
    assert_eq!(stream.read_exact(&mut buffer).await.unwrap(), 4);
    // A byte is here that nobody has read.
    let mut stream = stream.detach().err().unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'5');
    // Bytes that have not been sent.
    stream.write_all(b"67").await.unwrap();
    let stream = stream.detach().err().unwrap();
    client.read_exact(&mut buffer[..2]).await.unwrap();
    // Idle again: nothing hinders it.
    let mut stream = world.attach_stream(stream.detach().ok().unwrap()).unwrap();
    client.write_all(b"89").await.unwrap();
    stream.read_exact(&mut buffer[..2]).await.unwrap();
    assert_eq!(&buffer, b"8934");
    client.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
    assert!(stream.detach().is_err(), "it has ended");
}

async fn a_dropped_detached_stream_is_closed(world: World) {
    let listener = listen(&world).await;
    for in_mailbox in [false, true] {
        let mut client = world.connect(listener.local_address()).await.unwrap();
        let stream = listener.accept().await.unwrap().detach().ok().unwrap();
        if in_mailbox {
            let (sender, receiver) = mailbox::channel(1);
            sender.try_send(stream).ok().unwrap();
            drop(receiver);
        } else {
            drop(stream);
        }
        assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
    }
}
