//! The way from one core to another and back, through two mailboxes.

use std::io;
use std::time::{Duration, Instant};

use clap::Args;
use reactor::mailbox::{self, Receiver, Sender};
use reactor::{Class, RunOptions, World, run, spawn_core, usable_processors};

use super::{Driver, TIMES_HEADER, Times};
use crate::process;

const EXAMPLES: &str = "Examples:
  ringbench hop
  ringbench hop --driver fallback --spin-micros 50
  ringbench hop --processors 0,1 --json";

/// Messages that a mailbox holds while they stream in one direction.
const STREAM_CAPACITY: usize = 1024;
const STREAM_BATCH_MAX: usize = 256;

/// Round trips that are not recorded.
const WARM_UP: u64 = 100;

/// Measure a mailbox between two cores: round trips of sleeping, spinning and busy cores, and messages in a stream.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Hop {
    /// Driver of both cores.
    #[arg(long, value_enum, default_value_t = Driver::Auto)]
    driver: Driver,
    /// Bind the two cores to these processors.
    #[arg(long, value_delimiter = ',')]
    processors: Vec<usize>,
    /// Longest look for work before a sleep, where a row spins.
    #[arg(long, default_value_t = 20)]
    spin_micros: u64,
    /// Pause between the round trips of a row that pauses.
    #[arg(long, default_value_t = 1000)]
    pause_micros: u64,
    /// Round trips of each row.
    #[arg(long, default_value_t = 20_000)]
    round_trips: u64,
    /// Messages of the stream.
    #[arg(long, default_value_t = 5_000_000)]
    messages: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One way of asking.
struct Row {
    name: String,
    spin: Duration,
    pause: Duration,
    /// Both cores always have something else to do, and so never sleep.
    busy: bool,
    round_trips: u64,
}

struct Trips {
    times: Times,
    /// Processor time of both cores, per round trip.
    processor_micros: f64,
    /// Of both cores together, in processors.
    load: f64,
}

impl Hop {
    /// Measures and prints.
    ///
    /// # Errors
    /// A core cannot be started.
    pub fn run(&self) -> io::Result<()> {
        if self.round_trips == 0 || self.messages == 0 {
            return Err(io::Error::other("round trips and messages must be above 0"));
        }
        if !matches!(self.processors.len(), 0 | 2) {
            return Err(io::Error::other("there are two cores to bind"));
        }
        // Asked before this thread is bound to one of them.
        let processors = usable_processors();
        let driver = run(&self.options(0, Duration::ZERO), |world| async move {
            world.driver_kind()
        })?;
        let mut rows = Vec::new();
        for row in self.rows() {
            let trips = self.round_trips(&row)?;
            rows.push((row.name, trips));
        }
        let rate = self.stream()?;
        if self.json {
            let rows: Vec<_> = rows
                .iter()
                .map(|(name, trips)| {
                    serde_json::json!({
                        "name": name,
                        "times": trips.times.json(),
                        "processor_micros": trips.processor_micros,
                        "processors": trips.load,
                    })
                })
                .collect();
            let result = serde_json::json!({
                "driver": driver.to_string(),
                "usable_processors": processors,
                "round_trips": rows,
                "messages_per_second": rate,
            });
            println!("{result:#}");
            return Ok(());
        }
        println!("hop: round trip between two cores on {driver}, {processors} usable processors");
        println!("  {:<34}{TIMES_HEADER}    CPU µs  CPUs", "");
        for (name, trips) in rows {
            println!(
                "  {name:<34}{}{:>10.2}{:>6.2}",
                trips.times, trips.processor_micros, trips.load
            );
        }
        println!("  stream of messages one way: {:.1} M/s", rate / 1e6);
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        let micros = self.spin_micros;
        let spin = Duration::from_micros(micros);
        let pause = Duration::from_micros(self.pause_micros);
        let rest = format!("every {} µs", self.pause_micros);
        let row = |name: String, spin, pause: Duration, busy| {
            // A row that pauses would take long.
            let round_trips = if pause.is_zero() {
                self.round_trips
            } else {
                self.round_trips.div_ceil(10)
            };
            Row {
                name,
                spin,
                pause,
                busy,
                round_trips,
            }
        };
        let none = Duration::ZERO;
        vec![
            row(format!("asleep, {rest}"), none, pause, false),
            row("asleep, one after another".into(), none, none, false),
            row(format!("spin {micros} µs, {rest}"), spin, pause, false),
            row(
                format!("spin {micros} µs, one after another"),
                spin,
                none,
                false,
            ),
            row("busy with other tasks".into(), none, none, true),
        ]
    }

    fn options(&self, core: usize, spin: Duration) -> RunOptions {
        RunOptions {
            driver: self.driver.into(),
            pin_to: self.processors.get(core).copied(),
            spin,
            ..RunOptions::default()
        }
    }

    fn round_trips(&self, row: &Row) -> io::Result<Trips> {
        let (to_other, at_other) = mailbox::channel(1);
        let (to_here, at_here) = mailbox::channel(1);
        let (busy, pause, count) = (row.busy, row.pause, row.round_trips);
        let other = spawn_core("other", self.options(1, row.spin), move |world| {
            keep_busy(&world, busy);
            echo(at_other, to_here)
        })?;
        let began = (Instant::now(), process::cpu_time(std::process::id())?);
        let times = run(&self.options(0, row.spin), |world| {
            keep_busy(&world, busy);
            ask(world, to_other, at_here, pause, count)
        })?;
        other.join();
        let elapsed = began.0.elapsed();
        let used = process::cpu_time(std::process::id())?.saturating_sub(began.1);
        Ok(Trips {
            processor_micros: used.as_secs_f64() * 1e6 / (count + WARM_UP) as f64,
            load: used.as_secs_f64() / elapsed.as_secs_f64(),
            times,
        })
    }

    /// Messages per second in one direction, taken in batches.
    fn stream(&self) -> io::Result<f64> {
        let (sender, mut receiver) = mailbox::channel(STREAM_CAPACITY);
        let messages = self.messages;
        let other = spawn_core(
            "other",
            self.options(1, Duration::ZERO),
            move |_| async move {
                for number in 0..messages {
                    if sender.send(number).await.is_err() {
                        return;
                    }
                }
            },
        )?;
        let rate = run(&self.options(0, Duration::ZERO), move |_| async move {
            let mut batch = Vec::with_capacity(STREAM_BATCH_MAX);
            let began = Instant::now();
            while receiver.receive_batch(&mut batch, STREAM_BATCH_MAX).await > 0 {
                batch.clear();
            }
            messages as f64 / began.elapsed().as_secs_f64()
        })?;
        other.join();
        Ok(rate)
    }
}

/// Gives the core a task that is always runnable.
fn keep_busy(world: &World, busy: bool) {
    if busy {
        let yielding = world.clone();
        world.spawn(Class::Background, async move {
            loop {
                yielding.yield_now().await;
            }
        });
    }
}

async fn echo(mut receiver: Receiver<u64>, sender: Sender<u64>) {
    while let Some(number) = receiver.receive().await {
        if sender.send(number).await.is_err() {
            return;
        }
    }
}

async fn ask(
    world: World,
    sender: Sender<u64>,
    mut receiver: Receiver<u64>,
    pause: Duration,
    count: u64,
) -> Times {
    let mut times = Times::new();
    for number in 0..count + WARM_UP {
        if !pause.is_zero() {
            world.sleep(pause).await;
        }
        let began = world.now();
        if sender.send(number).await.is_err() || receiver.receive().await != Some(number) {
            panic!("the other core went away");
        }
        if number >= WARM_UP {
            times.record(world.now().since(began).as_nanos() as u64);
        }
    }
    times
}
