//! Files and streams that change their core, and what a crash does to them on the way.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{Address, Class, DetachedFile, DetachedStream, mailbox};

fn locked() -> OpenOptions {
    OpenOptions {
        lock: true,
        ..existing()
    }
}

/// Two cores of one process hand a locked file to and fro.
fn hand_over(seed: u64) -> u64 {
    const ROUNDS: u8 = 20;
    let (mut simulation, host) = single(seed, SimulationOptions::default());
    let (to_other, mut at_other) = mailbox::channel::<DetachedFile>(1);
    let (to_here, mut at_here) = mailbox::channel::<DetachedFile>(1);
    simulation.start_core(host, |world| async move {
        while let Some(file) = at_other.receive().await {
            let file = world.attach_file(file);
            let bytes = file.read_at(4096, 0).await.unwrap();
            file.write_at_and_sync(block(bytes[0] + 1), 0)
                .await
                .unwrap();
            to_here.send(file.detach().ok().unwrap()).await.unwrap();
        }
    });
    run_on(&mut simulation, host, |world| async move {
        let reserved = OpenOptions {
            create_new: true,
            len_to_reserve: Some(4096),
            ..locked()
        };
        let file = world.open("/data", reserved).await.unwrap();
        let mut file = file.detach().ok().unwrap();
        for round in 1..=ROUNDS {
            to_other.send(file).await.unwrap();
            let here = world.attach_file(at_here.receive().await.unwrap());
            assert_eq!(here.read_at(4096, 0).await.unwrap(), [round; 4096]);
            file = here.detach().ok().unwrap();
        }
        assert!(world.open("/data", locked()).await.is_err());
        drop(file);
        world.open("/data", locked()).await.unwrap();
    });
    simulation.trace_hash()
}

#[test]
fn a_file_changes_its_core_with_its_lock() {
    for seed in 0..20 {
        assert_eq!(hand_over(seed), hand_over(seed), "seed {seed}");
    }
}

#[test]
fn a_file_in_use_stays_where_it_is() {
    let (mut simulation, host) = single(1, SimulationOptions::calm());
    run_on(&mut simulation, host, |world| async move {
        let file = world.open("/data", create()).await.unwrap();
        let clone = file.clone();
        let file = file.detach().err().unwrap();
        drop(clone);
        let write = world.timeout(Duration::ZERO, file.write_at(block(7), 0));
        assert!(write.await.is_err(), "the disk takes time");
        let mut file = file.detach().err().unwrap();
        let detached = loop {
            match file.detach() {
                Ok(detached) => break detached,
                Err(same) => file = same,
            }
            world.sleep(micros(1)).await;
        };
        let file = world.attach_file(detached);
        assert_eq!(file.read_at(4096, 0).await.unwrap(), [7; 4096]);
    });
}

/// A file that waits in a mailbox when its process is killed is closed as if it were open.
#[test]
fn a_crash_releases_what_travels() {
    for crash in [Crash::Kill, Crash::PowerCut] {
        let (mut simulation, host) = single(3, SimulationOptions::calm());
        let (sender, receiver) = mailbox::channel::<DetachedFile>(1);
        run_on(&mut simulation, host, |world| async move {
            let options = OpenOptions {
                create_new: true,
                ..locked()
            };
            let file = world.open("/data", options).await.unwrap();
            file.write_at_and_sync(block(1), 0).await.unwrap();
            world.sync_dir("/").await.unwrap();
            sender.try_send(file.detach().ok().unwrap()).ok().unwrap();
            // The sender stays with the process.
            world.clone().spawn(Class::Request, async move {
                world.sleep(Duration::from_secs(3600)).await;
                drop(sender);
            });
        });
        simulation.crash(host, crash);
        simulation.restart(host);
        run_on(&mut simulation, host, |world| async move {
            let file = world.open("/data", locked()).await.unwrap();
            // What is dropped late does not close what another process has opened since.
            drop(receiver);
            world.sleep(micros(50)).await;
            assert!(world.open("/data", locked()).await.is_err());
            assert_eq!(file.read_at(4096, 0).await.unwrap(), [1; 4096]);
        });
        assert!(simulation.has_process(host));
    }
}

/// Attaches a file of the first host on the second, or on the first after a crash.
fn attach_elsewhere(crash: bool) {
    let (mut simulation, host) = single(4, SimulationOptions::calm());
    let other = simulation.add_host("two");
    let file = run_on(&mut simulation, host, |world| async move {
        let file = world.open("/data", create()).await.unwrap();
        file.detach().ok().unwrap()
    });
    let there = if crash {
        simulation.crash(host, Crash::Kill);
        host
    } else {
        other
    };
    run_on(&mut simulation, there, |world| async move {
        world.attach_file(file);
    });
}

#[test]
#[should_panic(expected = "a handle of another (host, process) is attached")]
fn no_file_leaves_its_host() {
    attach_elsewhere(false);
}

#[test]
#[should_panic(expected = "a handle of another (host, process) is attached")]
fn no_file_outlives_its_process() {
    attach_elsewhere(true);
}

/// Where the first host listens.
fn address() -> Address {
    Address::Tcp(SocketAddr::from(([10, 0, 0, 1], 2379)))
}

#[test]
fn a_connection_is_accepted_here_and_served_elsewhere() {
    let run = |seed| {
        let (mut simulation, host) = single(seed, SimulationOptions::default());
        let client = simulation.add_host("client");
        let (sender, mut receiver) = mailbox::channel::<DetachedStream>(1);
        simulation.start_core(host, |world| async move {
            let listener = world.listen(&address()).await.unwrap();
            loop {
                let stream = listener.accept().await.unwrap().detach().ok().unwrap();
                sender.send(stream).await.unwrap();
            }
        });
        simulation.start_core(host, |world| async move {
            while let Some(stream) = receiver.receive().await {
                let mut stream = world.attach_stream(stream).unwrap();
                world.spawn(Class::Request, async move {
                    let mut bytes = [0; 4];
                    while stream.read_exact(&mut bytes).await.is_ok() {
                        bytes.reverse();
                        stream.write_all(&bytes).await.ok();
                    }
                });
            }
        });
        let answers = run_on(&mut simulation, client, |world| async move {
            let mut answers = 0;
            for _ in 0..30 {
                // Refused before the server listens, and reset by the network's whim.
                let Ok(mut stream) = world.connect(&address()).await else {
                    world.sleep(micros(100)).await;
                    continue;
                };
                let mut bytes = *b"abcd";
                let written = stream.write_all(&bytes).await;
                if written.is_ok() && stream.read_exact(&mut bytes).await.is_ok() {
                    assert_eq!(&bytes, b"dcba");
                    answers += 1;
                }
            }
            answers
        });
        (answers, simulation.trace_hash())
    };
    for seed in 0..10 {
        let (answers, hash) = run(seed);
        assert!(answers > 10, "seed {seed}: {answers} answers");
        assert_eq!(run(seed), (answers, hash), "seed {seed}");
    }
}

#[test]
fn a_stream_in_use_stays_where_it_is() {
    let (mut simulation, host) = single(5, SimulationOptions::calm());
    run_on(&mut simulation, host, |world| async move {
        let listener = world.listen(&address()).await.unwrap();
        let mut client = world.connect(&address()).await.unwrap();
        let mut stream = listener.accept().await.unwrap();
        let read = world.timeout(micros(500), stream.read_u8());
        assert!(read.await.is_err());
        let mut stream = stream.detach().err().unwrap();
        client.write_all(b"1").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'1');
        let mut stream = world.attach_stream(stream.detach().ok().unwrap()).unwrap();
        client.write_all(b"2").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'2');
    });
}

/// Accepts a connection, leaves it in a mailbox, and tells what the client reads then.
fn leave_in_mailbox(end: impl FnOnce(&mut Simulation, HostId)) -> std::io::Result<usize> {
    let (mut simulation, host) = single(6, SimulationOptions::calm());
    let other = simulation.add_host("client");
    let (sender, receiver) = mailbox::channel::<DetachedStream>(1);
    simulation.start_core(host, |world| async move {
        // The process holds both ends of the mailbox.
        let (_receiver, listener) = (receiver, world.listen(&address()).await.unwrap());
        let stream = listener.accept().await.unwrap().detach().ok().unwrap();
        sender.try_send(stream).ok().unwrap();
        world.sleep(Duration::from_secs(1)).await;
        drop(_receiver);
        world.sleep(Duration::from_secs(3600)).await;
    });
    let client = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&client);
    simulation.start_core(other, |world| async move {
        world.sleep(micros(5_000)).await;
        let mut stream = world.connect(&address()).await.unwrap();
        let result = stream.read(&mut [0; 10]).await;
        *slot.borrow_mut() = Some(result);
    });
    simulation.run_for(micros(500_000));
    assert!(
        client.borrow().is_none(),
        "the connection waits in the mailbox"
    );
    end(&mut simulation, host);
    simulation.run_for(Duration::from_secs(60));
    client.take().expect("the client hears of the end")
}

#[test]
fn a_dropped_detached_stream_is_closed() {
    assert_eq!(leave_in_mailbox(|_, _| {}).unwrap(), 0);
}

#[test]
fn a_crash_ends_a_stream_that_travels() {
    for crash in [Crash::Kill, Crash::PowerCut] {
        let result = leave_in_mailbox(|simulation, host| simulation.crash(host, crash));
        match result {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}
