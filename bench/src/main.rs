//! The command line of `ringbench`.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use ringbench::compare::{self, Comparison};
use ringbench::http2::Address;
use ringbench::load::{self, Pacing, Plan};
use ringbench::machine::{Cores, Disk, Hop};
use ringbench::scenario::{
    Churn, Leases, List, Load, LoadVerify, Mixed, Scale, Snapshot, Watchers,
};
use ringbench::server::ServerCommand;
use ringbench::statistics::median;
use ringbench::workload::{KeySpace, Kind, Workload};
use ringbench::{process, report, start};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "Examples:
  ringbench put --connections 64 --streams 8 --server-pid $(pidof ringd)
  ringbench get --rate 5000 --duration 30
  ringbench load --keys 1000000 --server-pid $(pidof ringd)
  ringbench start --server target/release/ringd
  ringbench scale --help
  ringbench compare --a bench/etcd/bin/etcd --b target/release/ringd";

#[derive(Parser)]
#[command(name = "ringbench", version, about = "Load generator for any etcd v3 server", after_help = EXAMPLES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put random keys.
    Put(LoadOptions),
    /// Read random keys.
    Get {
        #[command(flatten)]
        load: LoadOptions,
        /// Accept stale answers.
        #[arg(long)]
        serializable: bool,
    },
    /// Update random keys as Kubernetes does: put if the key was last changed at a known revision, else read it.
    Cas {
        #[command(flatten)]
        load: LoadOptions,
        /// Share of updates sent with an outdated revision.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=100))]
        conflicts: u8,
    },
    /// Put many keys as fast as the server takes them.
    Load(Load),
    /// Read random keys of a load and check what they hold.
    Verify(LoadVerify),
    /// Measure a cold start: first answered linearizable read, idle memory, empty directory.
    Start(StartOptions),
    /// Run two servers in alternating rounds and print how many times better B is.
    #[command(visible_alias = "side-by-side")]
    Compare(CompareOptions),
    /// Measure a store larger than its memory: reads, lists, an old watch, compaction, kill -9, restart.
    Scale(Scale),
    /// Measure counts and large lists.
    List(List),
    /// Measure a snapshot of a large store beside puts.
    Snapshot(Snapshot),
    /// Measure leases that fall due together.
    Leases(Leases),
    /// Measure many watchers of one key.
    Watchers(Watchers),
    /// Measure long overwriting with compactions: windows, flatness, device bytes.
    Churn(Churn),
    /// Measure linearizable gets beside saturating writers.
    Mixed(Mixed),
    /// Measure a member on one core and on several, with requests made in its own process.
    Cores(Cores),
    /// Measure mailboxes between two cores, without a server.
    Hop(Hop),
    /// Measure the device below a directory, without a server.
    Disk(Disk),
}

#[derive(Args)]
struct LoadOptions {
    /// Where the server listens: HOST:PORT, http://HOST:PORT or unix:///PATH.
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoint: Address,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Calls in flight on each connection.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Keys in the key space.
    #[arg(long, default_value_t = 100_000)]
    keys: usize,
    /// Bytes of each value.
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Recorded seconds.
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds before recording.
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// Open loop: calls per second that are due; without it each stream waits for its last answer.
    #[arg(long)]
    rate: Option<f64>,
    /// Process whose processor time and memory are measured.
    #[arg(long)]
    server_pid: Option<u32>,
    /// Bind the client to this processor.
    #[arg(long)]
    processor: Option<usize>,
    /// Poll the sockets without sleeping.
    #[arg(long)]
    spin: bool,
    /// Do not put every key once before reads and updates.
    #[arg(long)]
    no_fill: bool,
    /// Seed of keys and schedule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct StartOptions {
    /// Command of a server; may be given several times.
    #[arg(long, required = true)]
    server: Vec<String>,
    /// Cold starts of each server.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Seconds between the first answer and the look at memory and disk.
    #[arg(long, default_value_t = 1.0)]
    idle: f64,
    /// Do not bind the server to processor 0.
    #[arg(long)]
    no_pin: bool,
    /// Where the data directories are made.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct CompareOptions {
    /// Command of the yardstick.
    #[arg(long)]
    a: String,
    /// Command of the server that is measured against it.
    #[arg(long)]
    b: String,
    /// Rounds of A, B, B, A.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Recorded seconds of each cell.
    #[arg(long, default_value_t = 3.0)]
    duration: f64,
    /// Seconds before recording.
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// Keys in the key space.
    #[arg(long, default_value_t = 100_000)]
    keys: usize,
    /// Bytes of each value.
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Bind nothing: the server uses all processors, beside the client.
    #[arg(long)]
    no_pin: bool,
    /// Repeat a round in which others used more than this share of the machine, in percent.
    #[arg(long, default_value_t = 10.0)]
    foreign_max: f64,
    /// Only cells whose name holds this text; may be given several times.
    #[arg(long)]
    cell: Vec<String>,
    /// Where the data directories are made.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Seed of keys.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// End with status 1 if a goal is missed.
    #[arg(long)]
    assert: bool,
}

fn main() -> ExitCode {
    let outcome = match CommandLine::parse().command {
        Command::Put(options) => run_load("put", Kind::Put, &options),
        Command::Get { load, serializable } => {
            let name = if serializable {
                "get, serializable"
            } else {
                "get"
            };
            run_load(name, Kind::Get { serializable }, &load)
        }
        Command::Cas { load, conflicts } => {
            let kind = Kind::CompareAndSet {
                conflicts_percent: conflicts,
            };
            run_load("compare-and-set", kind, &load)
        }
        Command::Start(options) => run_start(&options),
        Command::Compare(options) => run_compare(&options),
        Command::Load(load) => done(load.run()),
        Command::Verify(verify) => done(verify.run()),
        Command::Scale(scale) => done(scale.run()),
        Command::List(list) => done(list.run()),
        Command::Snapshot(snapshot) => done(snapshot.run()),
        Command::Leases(leases) => done(leases.run()),
        Command::Watchers(watchers) => done(watchers.run()),
        Command::Churn(churn) => done(churn.run()),
        Command::Mixed(mixed) => done(mixed.run()),
        Command::Cores(cores) => done(cores.run()),
        Command::Hop(hop) => done(hop.run()),
        Command::Disk(disk) => done(disk.run()),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringbench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn done(outcome: io::Result<()>) -> io::Result<ExitCode> {
    outcome.map(|()| ExitCode::SUCCESS)
}

fn run_load(name: &str, kind: Kind, options: &LoadOptions) -> io::Result<ExitCode> {
    if options.connections == 0 || options.streams == 0 || options.keys == 0 {
        return Err(io::Error::other(
            "connections, streams and keys must be at least 1",
        ));
    }
    if let Some(processor) = options.processor {
        process::bind(processor)?;
    }
    let pacing = match options.rate {
        None => Pacing::Closed,
        Some(rate) if rate > 0.0 => Pacing::Open { rate },
        Some(rate) => return Err(io::Error::other(format!("a rate of {rate} sends nothing"))),
    };
    let plan = Plan {
        address: options.endpoint.clone(),
        connections: options.connections,
        streams: options.streams,
        warm_up: seconds(options.warm_up)?,
        duration: seconds(options.duration)?,
        pacing,
        spin: options.spin,
        server_pid: options.server_pid,
        seed: options.seed,
    };
    let mut keys = KeySpace::new(options.keys, options.value_bytes, options.seed);
    if kind != Kind::Put && !options.no_fill {
        let fill_plan = Plan {
            connections: 4,
            streams: 64,
            ..plan.clone()
        };
        compare::fill(fill_plan, &mut keys)?;
    }
    let mut workload = Workload::new(kind, &mut keys, plan.slots(), options.seed);
    let outcome = load::run(&plan, &mut workload)?;
    if options.json {
        println!("{:#}", report::json(name, &plan, &outcome));
    } else {
        println!("{}", report::text(name, &plan, &outcome));
    }
    Ok(if outcome.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_start(options: &StartOptions) -> io::Result<ExitCode> {
    let processor = (!options.no_pin).then_some(0);
    let idle = seconds(options.idle)?;
    let mut servers = Vec::new();
    for text in &options.server {
        let command = ServerCommand::new(text);
        let starts = (0..options.rounds.max(1))
            .map(|_| start::measure(&command, &options.directory, processor, idle))
            .collect::<io::Result<Vec<_>>>()?;
        let middle =
            |of: fn(&start::Start) -> f64| median(&starts.iter().map(of).collect::<Vec<f64>>());
        let first_read = middle(|start| start.first_read.as_secs_f64() * 1e3);
        let idle_mib = middle(|start| start.idle_bytes as f64 / 1048576.0);
        let disk_mib = middle(|start| start.disk_bytes as f64 / 1048576.0);
        if !options.json {
            println!(
                "{:<12} first linearizable read {first_read:.1} ms, idle {idle_mib:.1} MiB, empty directory {disk_mib:.1} MiB (medians of {})",
                command.name(),
                starts.len(),
            );
        }
        servers.push(serde_json::json!({
            "server": command.name(), "first_read_millis": first_read,
            "idle_mebibytes": idle_mib, "directory_mebibytes": disk_mib,
        }));
    }
    if options.json {
        println!("{:#}", serde_json::Value::from(servers));
    }
    Ok(ExitCode::SUCCESS)
}

fn run_compare(options: &CompareOptions) -> io::Result<ExitCode> {
    let comparison = Comparison {
        a: ServerCommand::new(&options.a),
        b: ServerCommand::new(&options.b),
        rounds: options.rounds.max(1),
        duration: seconds(options.duration)?,
        warm_up: seconds(options.warm_up)?,
        key_count: options.keys.max(1),
        value_bytes: options.value_bytes,
        pinned: !options.no_pin,
        foreign_percent_max: options.foreign_max,
        cells: options.cell.clone(),
        directory: options.directory.clone(),
        seed: options.seed,
    };
    let result = comparison.run(|what| eprintln!("{what}"))?;
    if options.json {
        println!("{:#}", result.json());
    } else {
        println!("{}", result.text());
    }
    Ok(if options.assert && !result.meets_goals() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn seconds(value: f64) -> io::Result<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
}
