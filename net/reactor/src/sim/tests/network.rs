//! Connections between and within hosts.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::{Address, Class, Stream};

fn address(simulation: &Simulation, host: HostId, port: u16) -> Address {
    Address::Tcp(SocketAddr::new(simulation.host_address(host), port))
}

async fn read(stream: &mut Stream, most: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; most];
    let mut buffer = ReadBuf::new(&mut bytes);
    std::future::poll_fn(|context| {
        std::pin::Pin::new(&mut *stream).poll_read(context, &mut buffer)
    })
    .await?;
    let count = buffer.filled().len();
    bytes.truncate(count);
    Ok(bytes)
}

async fn write_all(stream: &mut Stream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = std::future::poll_fn(|context| {
            std::pin::Pin::new(&mut *stream).poll_write(context, bytes)
        })
        .await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Sends back whatever arrives.
async fn echo(world: World, address: Address) {
    let listener = world.listen(&address).await.unwrap();
    loop {
        let Ok(mut stream) = listener.accept().await else {
            return;
        };
        world.spawn(Class::Request, async move {
            while let Ok(bytes) = read(&mut stream, 10_000).await {
                if bytes.is_empty() || write_all(&mut stream, &bytes).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// Connects, sends `bytes` and returns what came back.
async fn ask(world: &World, address: &Address, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = world.connect(address).await?;
    write_all(&mut stream, bytes).await?;
    let mut answer = Vec::new();
    while answer.len() < bytes.len() {
        let more = read(&mut stream, 3_000).await?;
        if more.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        answer.extend(more);
    }
    Ok(answer)
}

fn pair(seed: u64, options: SimulationOptions) -> (Simulation, HostId, HostId) {
    let mut simulation = Simulation::new(seed, options);
    let (client, server) = (simulation.add_host("client"), simulation.add_host("server"));
    (simulation, client, server)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}

#[test]
fn bytes_arrive_in_order_in_spite_of_everything() {
    let mut coverage = Coverage::default();
    for seed in 0..30 {
        let (mut simulation, client, server) = pair(seed, SimulationOptions::rough(seed));
        let target = address(&simulation, server, 2379);
        let listen = target.clone();
        simulation.start_core(server, |world| echo(world, listen));
        simulation.run_for(Duration::from_millis(1));
        run_on(&mut simulation, client, |world| async move {
            let tasks: Vec<_> = (1..6)
                .map(|task| {
                    let (inner, target) = (world.clone(), target.clone());
                    world.spawn_joinable(Class::Request, async move {
                        let bytes = pattern(task * 50_000);
                        assert_eq!(ask(&inner, &target, &bytes).await.unwrap(), bytes);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        coverage.merge(&simulation.coverage());
    }
    for kind in [
        FaultKind::ShortSend,
        FaultKind::ShortReceive,
        FaultKind::Interrupted,
        FaultKind::NetworkSlow,
    ] {
        assert!(coverage.count(kind) > 0, "{} never happened", kind.name());
    }
}

#[test]
fn addresses_decide_who_is_reached() {
    let (mut simulation, client, server) = pair(1, SimulationOptions::calm());
    let public = address(&simulation, server, 0);
    let nobody = address(&simulation, server, 9);
    let nowhere = Address::Tcp("10.9.9.9:1".parse().unwrap());
    let bound = Rc::new(RefCell::new(Vec::new()));
    let slot = Rc::clone(&bound);
    simulation.start_core(server, |world| async move {
        let loopback = Address::Tcp("127.0.0.1:2379".parse().unwrap());
        let unix = Address::Unix("/run/socket".into());
        let mut listeners = Vec::new();
        for address in [&loopback, &public, &unix] {
            listeners.push(world.listen(address).await.unwrap());
        }
        let taken = world.listen(&loopback).await.map(drop).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        let foreign = Address::Tcp("10.0.0.1:1".parse().unwrap());
        assert_eq!(
            world.listen(&foreign).await.map(drop).unwrap_err().kind(),
            ErrorKind::AddrNotAvailable
        );
        for listener in &listeners {
            let address = listener.local_address().clone();
            slot.borrow_mut().push(address.clone());
            let stream = world.connect(&address).await.unwrap();
            assert_eq!(stream.peer_address(), &address);
            listener.accept().await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    // An address in use is tried again for a second.
    simulation.run_for(Duration::from_secs(3));
    let bound = bound.take();
    assert_eq!(bound.len(), 3);
    run_on(&mut simulation, client, |world| async move {
        world.connect(&bound[1]).await.unwrap();
        for (address, kind) in [
            (&bound[0], ErrorKind::ConnectionRefused),
            (&bound[2], ErrorKind::NotFound),
            (&nobody, ErrorKind::ConnectionRefused),
            (&nowhere, ErrorKind::TimedOut),
        ] {
            let refused = world.connect(address).await.map(drop).unwrap_err();
            assert_eq!(refused.kind(), kind, "{address}");
        }
    });
    let coverage = simulation.coverage();
    assert_eq!(coverage.count(FaultKind::ConnectRefused), 3);
    assert_eq!(coverage.count(FaultKind::ConnectTimedOut), 1);
}

#[test]
fn a_full_window_stops_the_sender() {
    let mut options = SimulationOptions::calm();
    options.network.window_bytes = 10_000;
    let (mut simulation, client, server) = pair(2, options);
    let target = address(&simulation, server, 1);
    let listen = target.clone();
    let open = Rc::new(RefCell::new(false));
    let gate = Rc::clone(&open);
    let received = Rc::new(RefCell::new(0));
    let slot = Rc::clone(&received);
    simulation.start_core(server, |world| async move {
        let listener = world.listen(&listen).await.unwrap();
        let mut stream = listener.accept().await.unwrap();
        while !*gate.borrow() {
            world.sleep(Duration::from_secs(1)).await;
        }
        loop {
            let count = read(&mut stream, 4096).await.unwrap().len();
            *slot.borrow_mut() += count;
            if count == 0 {
                break;
            }
        }
    });
    simulation.run_for(Duration::from_millis(1));
    let sent = Rc::new(RefCell::new(0));
    let counter = Rc::clone(&sent);
    simulation.start_core(client, |world| async move {
        let mut stream = world.connect(&target).await.unwrap();
        for _ in 0..400 {
            write_all(&mut stream, &[1; 1_000]).await.unwrap();
            *counter.borrow_mut() += 1_000;
        }
        stream.close().await.unwrap();
    });
    simulation.run_for(Duration::from_secs(10));
    let stopped = *sent.borrow();
    assert!(
        stopped < 300_000,
        "{stopped} bytes went into a window of 10,000 and the stream's own buffer"
    );
    *open.borrow_mut() = true;
    simulation.run_for(Duration::from_secs(100));
    assert_eq!(*received.borrow(), 400_000);
}

#[test]
fn a_partition_holds_bytes_until_it_heals() {
    let (mut simulation, client, server) = pair(3, SimulationOptions::calm());
    let target = address(&simulation, server, 1);
    let listen = target.clone();
    simulation.start_core(server, |world| echo(world, listen));
    simulation.run_for(Duration::from_millis(1));
    let answer = Rc::new(RefCell::new(None));
    let (slot, connect_to) = (Rc::clone(&answer), target.clone());
    simulation.start_core(client, |world| async move {
        let mut stream = world.connect(&connect_to).await.unwrap();
        world.sleep(Duration::from_secs(1)).await;
        write_all(&mut stream, b"hello").await.unwrap();
        *slot.borrow_mut() = Some(read(&mut stream, 100).await.unwrap());
    });
    simulation.run_for(Duration::from_millis(100));
    simulation.block(server, client);
    simulation.run_for(Duration::from_secs(20));
    assert_eq!(
        *answer.borrow(),
        None,
        "the question arrives, the answer does not"
    );
    assert_eq!(simulation.coverage().count(FaultKind::PartitionHeld), 1);
    let other = target.clone();
    run_on(&mut simulation, client, |world| async move {
        assert_eq!(
            world.connect(&other).await.map(drop).unwrap_err().kind(),
            ErrorKind::TimedOut
        );
    });
    simulation.heal_all();
    simulation.run_for(Duration::from_millis(100));
    assert_eq!(answer.borrow().as_deref(), Some(&b"hello"[..]));
    run_on(&mut simulation, client, |world| async move {
        ask(&world, &target, b"again").await.unwrap()
    });
}

#[test]
fn peers_of_a_dead_process_find_out() {
    for (crash, most) in [(Crash::Kill, 1), (Crash::PowerCut, 11)] {
        for seed in 0..10 {
            let (mut simulation, client, server) = pair(seed, SimulationOptions::calm());
            let target = address(&simulation, server, 1);
            let listen = target.clone();
            simulation.start_core(server, |world| echo(world, listen));
            simulation.run_for(Duration::from_millis(1));
            let end = Rc::new(RefCell::new(None));
            let (slot, connect_to) = (Rc::clone(&end), target.clone());
            simulation.start_core(client, |world| async move {
                let mut stream = world.connect(&connect_to).await.unwrap();
                write_all(&mut stream, b"x").await.unwrap();
                read(&mut stream, 10).await.unwrap();
                let last = read(&mut stream, 10).await;
                *slot.borrow_mut() = Some(last.map_err(|error| error.kind()));
            });
            simulation.run_for(Duration::from_millis(100));
            assert_eq!(*end.borrow(), None);
            simulation.crash(server, crash);
            simulation.run_for(Duration::from_secs(most));
            match end.take().expect("the client noticed") {
                Ok(bytes) => assert_eq!(bytes, []),
                Err(kind) => assert_eq!(kind, ErrorKind::ConnectionReset),
            }
            let expected = if crash == Crash::Kill {
                ErrorKind::ConnectionRefused
            } else {
                ErrorKind::TimedOut
            };
            run_on(&mut simulation, client, |world| async move {
                assert_eq!(
                    world.connect(&target).await.map(drop).unwrap_err().kind(),
                    expected
                );
            });
        }
    }
}

#[test]
fn resets_hit_both_ends() {
    let mut options = SimulationOptions::calm();
    options.network.reset = Rate::percent(20);
    let (mut simulation, client, server) = pair(5, options);
    let target = address(&simulation, server, 1);
    let listen = target.clone();
    simulation.start_core(server, |world| echo(world, listen));
    simulation.run_for(Duration::from_millis(1));
    let (good, bad) = run_on(&mut simulation, client, |world| async move {
        let (mut good, mut bad) = (0, 0);
        for _ in 0..200 {
            match ask(&world, &target, b"hello").await {
                Ok(_) => good += 1,
                Err(_) => bad += 1,
            }
        }
        (good, bad)
    });
    assert!(good > 80 && bad > 40, "{good} good, {bad} bad");
}

#[test]
fn a_cancelled_accept_loses_no_connection() {
    let (mut simulation, client, server) = pair(6, SimulationOptions::calm());
    let target = address(&simulation, server, 1);
    let listen = target.clone();
    let accepted = Rc::new(RefCell::new(0));
    let slot = Rc::clone(&accepted);
    simulation.start_core(server, |world| async move {
        let listener = world.listen(&listen).await.unwrap();
        loop {
            if let Ok(stream) = world.timeout(micros(30), listener.accept()).await {
                stream.unwrap();
                *slot.borrow_mut() += 1;
            }
        }
    });
    simulation.run_for(Duration::from_millis(1));
    run_on(&mut simulation, client, |world| async move {
        for _ in 0..100 {
            world.connect(&target).await.unwrap();
        }
    });
    simulation.run_for(Duration::from_secs(1));
    assert_eq!(*accepted.borrow(), 100);
}
