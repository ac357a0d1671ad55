//! A whole member on one and on more cores, with requests made in its own process: what the engine and the
//! pipeline carry without sockets and encodings.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use engine::auth::{Identity as Caller, Policy, authorize};
use engine::command::{Command, LeaseId, Operation, Put, Range};
use engine::key::KeyRange;
use reactor::{Class, RunOptions, World, run, spawn_core};
use ringd::cores::placement::Placement;
use ringd::cores::{LINK_CAPACITY, Seat, seats};
use ringd::identity::Identity;
use ringd::log::Logger;
use ringd::node::{CheckpointOptions, Node, NodeOptions, StoreSizes};

use super::Driver;
use crate::process;
use crate::random::Random;
use crate::statistics::{geometric_mean, median};

const EXAMPLES: &str = "Examples:
  ringbench cores
  ringbench cores --cores 2 --tasks 512 --rounds 7 --directory /data/bench";

/// How often a core looks whether another phase has begun.
const PHASE_PAUSE: Duration = Duration::from_millis(1);
/// Memory that the store may plan with.
const STORE_BYTES: u64 = 4 << 30;

/// Measure a member on one core and on several, with requests made in its own process.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Cores {
    /// Cores of the member that is compared with one of a single core.
    #[arg(long, default_value_t = 2)]
    cores: u16,
    /// Requests in flight, over all cores together.
    #[arg(long, default_value_t = 512)]
    tasks: usize,
    /// Keys.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 64)]
    value_bytes: usize,
    /// Recorded seconds of each phase.
    #[arg(long, default_value_t = 3.0)]
    duration: f64,
    /// Rounds of one, several, several, one.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Driver of all cores.
    #[arg(long, value_enum, default_value_t = Driver::Auto)]
    driver: Driver,
    /// Where the data directories are made.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a member's cores do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pause,
    Fill,
    Put,
    Get,
    End,
}

impl Phase {
    fn of(number: u8) -> Phase {
        let all = [
            Phase::Pause,
            Phase::Fill,
            Phase::Put,
            Phase::Get,
            Phase::End,
        ];
        all[usize::from(number)]
    }
}

/// What the cores of one life share.
struct Shared {
    phase: AtomicU8,
    /// Calls answered, by core.
    answered: Vec<AtomicU64>,
    failed: AtomicBool,
    keys: u64,
    value_bytes: usize,
    tasks_per_core: usize,
}

impl Shared {
    fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Relaxed))
    }

    fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn answered(&self) -> u64 {
        let answered = self.answered.iter();
        answered.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Rates of one life.
#[derive(Clone, Copy, Debug)]
struct Rates {
    puts: Rate,
    gets: Rate,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: f64,
    /// Processor time of the whole process.
    micros: f64,
}

impl Cores {
    /// Measures and prints.
    ///
    /// # Errors
    /// The member cannot be started, or a call failed.
    pub fn run(&self) -> io::Result<()> {
        if self.cores < 2 || self.rounds == 0 || self.keys == 0 {
            let text = "at least two cores, one round and one key are needed";
            return Err(io::Error::other(text));
        }
        let mut one = Vec::new();
        let mut several = Vec::new();
        for round in 0..self.rounds {
            eprintln!("round {} of {}", round + 1, self.rounds);
            one.push(self.life(1)?);
            several.push(self.life(self.cores)?);
            several.push(self.life(self.cores)?);
            one.push(self.life(1)?);
        }
        let rows = [
            self.row("put", &one, &several, |rates| rates.puts),
            self.row("get", &one, &several, |rates| rates.gets),
        ];
        if self.json {
            println!("{:#}", serde_json::Value::from(rows.to_vec()));
            return Ok(());
        }
        println!(
            "cores: requests made in process, {} in flight, {} keys, {} bytes",
            self.tasks, self.keys, self.value_bytes
        );
        for row in rows {
            println!("{}", row["text"].as_str().unwrap_or_default());
        }
        Ok(())
    }

    fn row(
        &self,
        name: &str,
        one: &[Rates],
        several: &[Rates],
        rate: impl Fn(&Rates) -> Rate,
    ) -> serde_json::Value {
        let of = |lives: &[Rates], figure: fn(Rate) -> f64| -> Vec<f64> {
            lives.iter().map(|rates| figure(rate(rates))).collect()
        };
        let rates = |lives: &[Rates]| of(lives, |rate| rate.per_second);
        let micros = |lives: &[Rates]| of(lives, |rate| rate.micros);
        // Both lives of a round are one sample of each side; the two of one core are the control.
        let ratio = |above: &[f64], below: &[f64]| {
            let ratios = above.iter().zip(below).map(|(above, below)| above / below);
            geometric_mean(&ratios.collect::<Vec<f64>>())
        };
        let (slow, fast) = (rates(one), rates(several));
        let spread: Vec<f64> = slow.chunks(2).map(|pair| pair[1] / pair[0]).collect();
        let times = ratio(&fast, &slow);
        let cost = ratio(&micros(several), &micros(one));
        let control = (
            spread.iter().copied().fold(f64::INFINITY, f64::min),
            spread.iter().copied().fold(0.0, f64::max),
        );
        let text = format!(
            "  {name}: {:.0}/s on one core, {:.0}/s on {}: {times:.2} times; {:.2} and {:.2} µs of processor, \
             {cost:.2} times; control {:.2}–{:.2}",
            median(&slow),
            median(&fast),
            self.cores,
            median(&micros(one)),
            median(&micros(several)),
            control.0,
            control.1,
        );
        serde_json::json!({
            "name": name,
            "one_per_second": slow,
            "several_per_second": fast,
            "rate_times": times,
            "processor_times": cost,
            "control": [control.0, control.1],
            "text": text,
        })
    }

    /// One member's life on an empty directory.
    fn life(&self, cores: u16) -> io::Result<Rates> {
        let data_dir = self.directory.join(format!("cores-{}", std::process::id()));
        let shared = Arc::new(Shared {
            phase: AtomicU8::new(Phase::Pause as u8),
            answered: (0..cores).map(|_| AtomicU64::new(0)).collect(),
            failed: AtomicBool::new(false),
            keys: self.keys,
            value_bytes: self.value_bytes,
            tasks_per_core: self.tasks.div_ceil(usize::from(cores)),
        });
        let options = RunOptions {
            driver: self.driver.into(),
            ..RunOptions::default()
        };
        let mut seats = seats(cores, LINK_CAPACITY).into_iter();
        let Some(home) = seats.next() else {
            unreachable!("there is at least one core")
        };
        let mut threads = Vec::new();
        for seat in seats {
            let (shared, path) = (shared.clone(), data_dir.clone());
            let name = format!("core-{}", seat.core());
            threads.push(spawn_core(&name, options.clone(), move |world| {
                serve(world, seat, path, shared)
            })?);
        }
        let duration = Duration::from_secs_f64(self.duration);
        let (shared_too, path) = (shared.clone(), data_dir.clone());
        let rates = run(&options, move |world| async move {
            lead(world, home, path, shared_too, duration).await
        })?;
        for thread in threads {
            thread.join();
        }
        std::fs::remove_dir_all(&data_dir)?;
        if shared.failed.load(Ordering::Relaxed) {
            return Err(io::Error::other("a call failed"));
        }
        rates.map_err(io::Error::other)
    }
}

fn node_options(path: &Path) -> NodeOptions {
    let identity = Identity {
        cluster_id: 1,
        member_id: 1,
    };
    NodeOptions {
        store: StoreSizes::for_memory(STORE_BYTES),
        checkpoints: CheckpointOptions::for_memory(STORE_BYTES),
        placement: Placement::Spread,
        ..NodeOptions::new(path.to_path_buf(), identity)
    }
}

/// A further core.
async fn serve(world: World, seat: Seat, path: PathBuf, shared: Arc<Shared>) {
    let core = seat.core();
    let logger = Rc::new(Logger::silent());
    let Some(node) = Node::join(world.clone(), seat, node_options(&path), logger).await else {
        return;
    };
    drop(world.spawn(
        Class::Request,
        inject(world.clone(), node.clone(), core, shared),
    ));
    node.ended().await;
}

/// The first core: opens the member and says what is done when.
async fn lead(
    world: World,
    seat: Seat,
    path: PathBuf,
    shared: Arc<Shared>,
    duration: Duration,
) -> Result<Rates, String> {
    let logger = Rc::new(Logger::silent());
    let opened = Node::open_home(world.clone(), seat, node_options(&path), logger);
    let node = opened.await.map_err(|error| error.to_string())?;
    node.ready().await?;
    let work = inject(world.clone(), node.clone(), 0, shared.clone());
    drop(world.spawn(Class::Request, work));
    shared.set_phase(Phase::Fill);
    while shared.answered() < shared.keys && !shared.failed.load(Ordering::Relaxed) {
        world.sleep(PHASE_PAUSE).await;
    }
    let puts = measured(&world, &shared, Phase::Put, duration).await;
    let gets = measured(&world, &shared, Phase::Get, duration).await;
    shared.set_phase(Phase::End);
    node.stop().await;
    Ok(Rates { puts, gets })
}

/// Calls per second of a phase, after a sixth of its time.
async fn measured(world: &World, shared: &Shared, phase: Phase, duration: Duration) -> Rate {
    shared.set_phase(phase);
    world.sleep(duration / 6).await;
    let processor = || process::cpu_time(std::process::id()).unwrap_or_default();
    let (answered, used, began) = (shared.answered(), processor(), Instant::now());
    world.sleep(duration).await;
    let calls = (shared.answered() - answered) as f64;
    let (used, took) = (processor() - used, began.elapsed());
    shared.set_phase(Phase::Pause);
    world.sleep(duration / 6).await;
    Rate {
        per_second: calls / took.as_secs_f64(),
        micros: used.as_secs_f64() * 1e6 / calls.max(1.0),
    }
}

/// Makes a core's share of the requests of each phase.
async fn inject(world: World, node: Node, core: u16, shared: Arc<Shared>) {
    loop {
        let phase = shared.phase();
        match phase {
            Phase::Pause => {}
            Phase::End => return,
            _ => {
                let tasks: Vec<_> = (0..shared.tasks_per_core)
                    .map(|task| {
                        let work = ask(node.clone(), core, task, phase, shared.clone());
                        world.spawn_joinable(Class::Request, work)
                    })
                    .collect();
                for task in tasks {
                    task.await;
                }
            }
        }
        world.sleep(PHASE_PAUSE).await;
    }
}

/// One request after the other, as long as the phase lasts.
async fn ask(node: Node, core: u16, task: usize, phase: Phase, shared: Arc<Shared>) {
    let mut random = Random::new(u64::from(core) << 32 | task as u64);
    let cores = shared.answered.len();
    let stride = (shared.tasks_per_core * cores) as u64;
    let mut next = (task * cores + usize::from(core)) as u64;
    while shared.phase() == phase {
        let number = match phase {
            Phase::Fill if next >= shared.keys => return,
            Phase::Fill => next,
            _ => random.below(shared.keys),
        };
        next += stride;
        let key = format!("/ringbench/{number:016}").into();
        let operation = match phase {
            Phase::Get => Operation::Range(Range::all(KeyRange::single(key))),
            _ => Operation::Write(Command::Put(Put {
                key,
                value: vec![b'v'; shared.value_bytes].into(),
                lease: LeaseId::NONE,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            })),
        };
        let answer = match authorize(operation, &Caller::Anonymous, &Policy::Disabled) {
            Ok(operation) => node.execute(operation).await.is_ok(),
            Err(_) => false,
        };
        if !answer {
            shared.failed.store(true, Ordering::Relaxed);
            return;
        }
        shared.answered[usize::from(core)].fetch_add(1, Ordering::Relaxed);
    }
}
