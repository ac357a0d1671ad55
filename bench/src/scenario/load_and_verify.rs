//! Filling a server that already runs, and checking it later.

use std::io;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{FILL_CONNECTIONS, FILL_STREAMS, KeyOptions, MEBIBYTE, seconds};
use crate::fill::{Fill, Stop, Verify};
use crate::http2::Address;
use crate::load::{self, Outcome, Plan};
use crate::server::disk_bytes;

const LOAD_EXAMPLES: &str = "Examples:
  ringbench load --keys 4000000 --value-bytes 1024 --server-pid $(pidof ringd)
  ringbench load --keys 10000000 --value-bytes 16 --naming kubernetes --batch 64 --data-dir default.etcd
  ringbench verify --keys 10000000 --value-bytes 16 --naming kubernetes --samples 100000";

/// Puts every key once, as fast as the server takes them, with constant memory here.
#[derive(Args, Debug)]
#[command(after_help = LOAD_EXAMPLES)]
pub struct Load {
    #[command(flatten)]
    keys: KeyOptions,
    #[command(flatten)]
    target: Target,
    /// Connections.
    #[arg(long, default_value_t = FILL_CONNECTIONS)]
    connections: usize,
    /// Calls in flight on each connection.
    #[arg(long, default_value_t = FILL_STREAMS)]
    streams: usize,
    /// Seconds after which the load is given up.
    #[arg(long, default_value_t = 14400.0)]
    give_up: f64,
    /// The server's data directory, to tell its size.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// Reads random keys of a load and checks every byte of them.
#[derive(Args, Debug)]
#[command(after_help = LOAD_EXAMPLES)]
pub struct LoadVerify {
    #[command(flatten)]
    keys: KeyOptions,
    #[command(flatten)]
    target: Target,
    /// Keys to read.
    #[arg(long, default_value_t = 10_000)]
    samples: u64,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Calls in flight on each connection.
    #[arg(long, default_value_t = 1)]
    streams: usize,
}

#[derive(Args, Debug)]
struct Target {
    /// Where the server listens: HOST:PORT, http://HOST:PORT or unix:///PATH.
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoint: Address,
    /// Process whose processor time and memory are measured.
    #[arg(long)]
    server_pid: Option<u32>,
    /// Seed of the values and of the sample; verify with the seed of the load.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Target {
    fn plan(&self, connections: usize, streams: usize) -> io::Result<Plan> {
        if connections == 0 || streams == 0 {
            return Err(io::Error::other(
                "connections and streams must be at least 1",
            ));
        }
        Ok(Plan {
            server_pid: self.server_pid,
            seed: self.seed,
            ..Plan::new(&self.endpoint, connections, streams)
        })
    }
}

impl Load {
    /// Loads and prints what it took.
    ///
    /// # Errors
    /// The connection is lost or a put fails.
    pub fn run(&self) -> io::Result<()> {
        let keys = self.keys.keys()?;
        let content = self.keys.content(self.target.seed);
        let plan = self.target.plan(self.connections, self.streams)?;
        let fill = Fill::new(keys, content, self.keys.batch);
        let outcome = fill.run(&plan, seconds(self.give_up)?)?;
        let disk = self.data_dir.as_deref().map(disk_bytes).transpose()?;
        let rate = keys.count as f64 / outcome.elapsed.as_secs_f64();
        let cpu = outcome
            .server_cpu
            .map(|cpu| cpu.as_secs_f64() * 1e6 / keys.count as f64);
        if self.target.json {
            println!(
                "{:#}",
                json!({
                    "keys": keys.count, "seconds": outcome.elapsed.as_secs_f64(), "keys_per_second": rate,
                    "server_cpu_micros_per_key": cpu,
                    "server_resident_bytes": outcome.server_memory.map(|memory| memory.resident_bytes),
                    "directory_bytes": disk, "latency_micros": latencies(&outcome),
                })
            );
            return Ok(());
        }
        println!(
            "{} keys in {:.1} s, {rate:.0} keys/s",
            keys.count,
            outcome.elapsed.as_secs_f64()
        );
        print_latencies(&outcome);
        if let (Some(cpu), Some(memory)) = (cpu, outcome.server_memory) {
            let mebibytes = memory.resident_bytes as f64 / MEBIBYTE;
            println!("  server     {cpu:.1} µs processor time/key, {mebibytes:.0} MiB resident");
        }
        if let Some(bytes) = disk {
            println!("  directory  {:.0} MiB", bytes as f64 / MEBIBYTE);
        }
        Ok(())
    }
}

impl LoadVerify {
    /// Reads the sample and prints what it took.
    ///
    /// # Errors
    /// The connection is lost, or a key is missing or holds something else.
    pub fn run(&self) -> io::Result<()> {
        let keys = self.keys.keys()?;
        let content = self.keys.content(self.target.seed);
        let plan = self.target.plan(self.connections, self.streams)?;
        let mut verify = Verify::new(
            keys,
            content,
            self.target.seed,
            plan.slots(),
            &Stop::default(),
        )
        .at_most(self.samples);
        let outcome = load::run(&plan, &mut verify)?;
        outcome.refuse_failures("verifying")?;
        if self.target.json {
            println!(
                "{:#}",
                json!({
                    "read": outcome.operations, "wrong": 0, "rate": outcome.rate(),
                    "latency_micros": latencies(&outcome),
                })
            );
        } else {
            println!(
                "{} keys hold what was written, {:.0} reads/s",
                outcome.operations,
                outcome.rate()
            );
            print_latencies(&outcome);
        }
        Ok(())
    }
}

fn latencies(outcome: &Outcome) -> Value {
    json!({
        "p50": outcome.latency_micros(50.0), "p99": outcome.latency_micros(99.0),
        "p99.9": outcome.latency_micros(99.9), "max": outcome.latencies.max() as f64 / 1e3,
    })
}

fn print_latencies(outcome: &Outcome) {
    println!(
        "  latency    p50 {:.0} µs  p99 {:.0} µs  p99.9 {:.0} µs  max {:.0} µs",
        outcome.latency_micros(50.0),
        outcome.latency_micros(99.0),
        outcome.latency_micros(99.9),
        outcome.latencies.max() as f64 / 1e3,
    );
}
