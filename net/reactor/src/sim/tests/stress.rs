//! Everything at once on three hosts, for the machinery itself: no panic, no fault that cannot happen, one seed one run.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::{Address, Class, File, Stream};

const HOSTS: u64 = 3;
const CORES: u64 = 2;

async fn read(stream: &mut Stream) -> std::io::Result<usize> {
    let mut bytes = [0; 5_000];
    let mut buffer = ReadBuf::new(&mut bytes);
    std::future::poll_fn(|context| Pin::new(&mut *stream).poll_read(context, &mut buffer)).await?;
    Ok(buffer.filled().len())
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> std::io::Result<usize> {
    std::future::poll_fn(|context| Pin::new(&mut *stream).poll_write(context, bytes)).await
}

/// A number below `bound` from the world's own stream.
fn draw(world: &World, bound: u64) -> u64 {
    world.random_u64() % bound
}

/// Opens, uses and loses files for ever. Errors are expected everywhere.
async fn use_files(world: World) {
    world.create_dir_all("/data/log").await.ok();
    loop {
        let name = format!("/data/log/{}", draw(&world, 4));
        let create_new = draw(&world, 2) == 0;
        let options = OpenOptions {
            create_new,
            lock: draw(&world, 2) == 0,
            len_to_reserve: create_new.then_some(65_536),
            ..existing()
        };
        let opened = world
            .timeout(Duration::from_secs(1), world.open(&name, options))
            .await;
        match opened {
            Ok(Ok(file)) => use_file(&world, file).await,
            _ => match draw(&world, 8) {
                0 => world.rename(&name, "/data/other").await.unwrap_or_default(),
                1 => world.remove_file(&name).await.unwrap_or_default(),
                2 => world.sync_dir("/data/log").await.unwrap_or_default(),
                3 => drop(world.list_dir("/data").await),
                _ => world.sleep(micros(draw(&world, 300))).await,
            },
        }
    }
}

async fn use_file(world: &World, file: File) {
    for _ in 0..draw(world, 20) {
        let length = 4096 * (1 + draw(world, 3) as usize);
        let offset = 4096 * draw(world, 16);
        let buffer = AlignedBuffer::zeroed(length);
        match draw(world, 5) {
            0 => drop(file.read_at(length, offset).await),
            1 => drop(file.sync_data().await),
            2 => drop(file.write_at_and_sync(buffer, offset).await),
            3 => {
                let hurried = micros(draw(world, 60));
                drop(world.timeout(hurried, file.write_at(buffer, offset)).await);
            }
            _ => drop(file.write_at(buffer, offset).await),
        }
    }
}

/// Sends back what arrives, on every connection.
async fn answer(world: World, port: u16) {
    let address = Address::Tcp(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port));
    let Ok(listener) = world.listen(&address).await else {
        return;
    };
    while let Ok(mut stream) = listener.accept().await {
        world.spawn(Class::Request, async move {
            while let Ok(count @ 1..) = read(&mut stream).await {
                if write(&mut stream, &vec![1; count]).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Talks to anybody, for a while.
async fn talk(world: World, hosts: Vec<IpAddr>) {
    let port = 7 + draw(&world, CORES) as u16;
    let address = Address::Tcp(SocketAddr::new(hosts[draw(&world, HOSTS) as usize], port));
    let Ok(mut stream) = world.connect(&address).await else {
        return;
    };
    for _ in 0..draw(&world, 10) {
        if write(&mut stream, &vec![2; 1 + draw(&world, 9_000) as usize])
            .await
            .is_err()
        {
            return;
        }
        if draw(&world, 3) > 0 {
            let heard = world
                .timeout(Duration::from_millis(50), read(&mut stream))
                .await;
            if !matches!(heard, Ok(Ok(1..))) {
                return;
            }
        }
    }
    if draw(&world, 2) == 0 {
        stream.close().await.ok();
    }
}

fn every_fault(seed: u64) -> SimulationOptions {
    let mut options = SimulationOptions::rough(seed);
    let disk = &mut options.disk;
    for rate in [
        &mut disk.read_error,
        &mut disk.write_error,
        &mut disk.sync_error,
        &mut disk.synced_write_lost,
        &mut disk.write_vanished,
        &mut disk.write_misdirected,
        &mut disk.bit_rot,
    ] {
        *rate = Rate::per_mille(3);
    }
    options.network.reset = Rate::percent(1);
    options.network.window_bytes = 20_000;
    options.network.backlog_max = 3;
    options
}

fn start(simulation: &mut Simulation, host: HostId, addresses: &[IpAddr]) {
    simulation.restart(host);
    for core in 0..CORES {
        let hosts = addresses.to_vec();
        simulation.start_core(host, |world| async move {
            world.spawn(Class::Consensus, use_files(world.clone()));
            world.spawn(Class::Request, answer(world.clone(), 7 + core as u16));
            loop {
                world.spawn(Class::Background, talk(world.clone(), hosts.clone()));
                world.sleep(micros(draw(&world, 900))).await;
            }
        });
    }
}

fn disturb(simulation: &mut Simulation, random: &mut Random, host: HostId, other: HostId) {
    match random.below(9) {
        0 => simulation.crash(host, Crash::Kill),
        1 => simulation.crash(host, Crash::PowerCut),
        2 => simulation.crash(host, Crash::PowerCutAllLost),
        3 => {
            let submission = simulation.operations_submitted(host) + 1 + random.below(300);
            simulation.plan_crash(host, CrashPoint::Submission(submission), Crash::PowerCut);
        }
        4 => {
            let completion = simulation.operations_completed(host) + 1 + random.below(300);
            simulation.plan_crash(host, CrashPoint::Completion(completion), Crash::Kill);
        }
        5 => simulation.partition(host, other),
        6 => simulation.heal_all(),
        7 => simulation.set_disk_capacity(host, 100_000 + random.below(400_000)),
        _ => simulation.jump_wall_clock(host, 5_000_000_000 - random.below(10_000_000_000) as i64),
    }
}

fn run(seed: u64) -> (u64, Coverage) {
    let mut simulation = Simulation::new(seed, every_fault(seed));
    let hosts: Vec<HostId> = (0..HOSTS)
        .map(|host| simulation.add_host(&format!("host-{host}")))
        .collect();
    let addresses: Vec<IpAddr> = hosts
        .iter()
        .map(|&host| simulation.host_address(host))
        .collect();
    let mut random = simulation.fork_random();
    for _ in 0..40 {
        let (host, other) = (
            hosts[random.index(hosts.len())],
            hosts[random.index(hosts.len())],
        );
        if simulation.has_process(host) {
            disturb(&mut simulation, &mut random, host, other);
        } else {
            start(&mut simulation, host, &addresses);
        }
        let until = simulation.now() + random.below(10_000_000);
        simulation.run_until(until, || false);
        simulation.check();
    }
    (simulation.trace_hash(), simulation.coverage())
}

#[test]
fn every_fault_can_happen_and_none_breaks_the_simulation() {
    let budget = std::env::var("RINGD_TEST_BUDGET")
        .ok()
        .and_then(|text| text.parse::<f64>().ok());
    let seeds = (30.0 * budget.unwrap_or(1.0)) as u64;
    let mut coverage = Coverage::default();
    for seed in 0..seeds {
        let (hash, seen) = run(seed);
        coverage.merge(&seen);
        if seed % 20 == 0 {
            assert_eq!(
                run(seed).0,
                hash,
                "seed {seed} ran differently the second time"
            );
        }
    }
    println!("{coverage}");
    assert_eq!(coverage.missing(), []);
}
