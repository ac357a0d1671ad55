//! A snapshot of a large store beside writes.

use std::io;
use std::time::{Duration, Instant};

use clap::Args;

use super::{KeyOptions, MEBIBYTE, SETTLE, fill, payload_bytes, seconds};
use crate::client::Client;
use crate::figures::{Better, Figures, Goal, Launch, Sides};
use crate::fill::{Overwrite, Stop, StopOnDrop};
use crate::keys::{Content, Keys};
use crate::load::{self, Outcome, Pacing, Plan};
use crate::message;
use crate::process;
use crate::server::Server;

const EXAMPLES: &str = "Examples:
  ringbench snapshot --b target/release/ringd --a bench/etcd/bin/etcd --keys 4000000 --batch 64
  ringbench snapshot --b target/release/ringd --keys 4000000 --batch 64 --overwrite-percent 25";

/// Connections and streams of the puts; few calls are ever in flight on them.
const PUT_CONNECTIONS: usize = 4;
const PUT_STREAMS: usize = 16;
/// Puts go on for this long before a snapshot begins and before they are recorded.
const WARM_UP: Duration = Duration::from_secs(1);
/// Bytes of the sum behind the file.
const SUM_BYTES: u64 = 32;
const MEBIBYTES_PER_SECOND_MIN: f64 = 300.0;
const PUT_TIMES_MAX: f64 = 1.3;
const MEMORY_MEBIBYTES_MAX: f64 = 64.0;

/// A snapshot while puts go on: its rate, what the puts feel, memory beyond what the puts alone take.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Snapshot {
    #[command(flatten)]
    sides: Sides,
    #[command(flatten)]
    keys: KeyOptions,
    /// Puts per second that are due, at random distances.
    #[arg(long, default_value_t = 1000.0)]
    put_rate: f64,
    /// Recorded seconds of the puts alone.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Snapshots, one after the other.
    #[arg(long, default_value_t = 3)]
    snapshots: usize,
    /// Overwrite so many of each hundred keys and compact before, so that not everything is history.
    #[arg(long, default_value_t = 0)]
    overwrite_percent: u64,
}

/// What one snapshot took.
struct Taken {
    seconds: f64,
    bytes: u64,
}

impl Snapshot {
    /// Measures and prints.
    ///
    /// # Errors
    /// A server fails, or what it sends is no snapshot.
    pub fn run(&self) -> io::Result<()> {
        if self.put_rate <= 0.0 || self.snapshots == 0 {
            return Err(io::Error::other(
                "the rate of puts and the snapshots must be above 0",
            ));
        }
        let payload = payload_bytes(self.keys.keys()?, self.keys.content(0)) as f64;
        let title = format!(
            "snapshot: {:.0} MiB of keys and values beside {} puts/s",
            payload / MEBIBYTE,
            self.put_rate
        );
        let table = self.sides.run(title, |launch| self.measure(launch))?;
        self.sides.print(&table);
        Ok(())
    }

    fn measure(&self, launch: &Launch) -> io::Result<Figures> {
        let mut figures = Figures::default();
        let server = launch.start()?;
        let (keys, content) = (self.keys.keys()?, self.keys.content(self.sides.seed));
        eprintln!("  load");
        fill(&server, keys, content, self.keys.batch)?;
        if self.overwrite_percent > 0 {
            eprintln!("  overwrite and compact");
            let count = keys.count * self.overwrite_percent / 100;
            let plan = Plan::new(server.address(), PUT_CONNECTIONS, PUT_STREAMS);
            let mut calls = Overwrite::new(keys, content, self.sides.seed, &Stop::default());
            calls = calls.at_most(count);
            load::run(&plan, &mut calls)?.refuse_failures("overwriting")?;
            let mut client = Client::open(server.address())?;
            let revision = client.revision()?;
            client.compact(revision)?;
        }
        std::thread::sleep(SETTLE);
        eprintln!("  puts alone");
        process::forget_memory_max(server.pid())?;
        let alone = self.puts(
            &server,
            keys,
            content,
            &Stop::default(),
            seconds(self.duration)?,
        )?;
        let memory_alone = process::memory(server.pid())?.resident_bytes_max;
        eprintln!("  puts beside snapshots");
        process::forget_memory_max(server.pid())?;
        let cpu_before = process::cpu_time(server.pid())?;
        let (beside, taken) = self.beside(&server, keys, content)?;
        let cpu = process::cpu_time(server.pid())? - cpu_before;
        let memory_beside = process::memory(server.pid())?.resident_bytes_max;
        let (all_seconds, all_bytes) = taken.iter().fold((0.0, 0), |(seconds, bytes), taken| {
            (seconds + taken.seconds, bytes + taken.bytes)
        });
        figures.add_with_goal(
            "snapshot",
            "MiB/s",
            all_bytes as f64 / MEBIBYTE / all_seconds,
            Better::Higher,
            Goal::AtLeast(MEBIBYTES_PER_SECOND_MIN),
        );
        let payload = payload_bytes(keys, content) as f64 * taken.len() as f64;
        figures.add(
            "payload in it",
            "MiB/s",
            payload / MEBIBYTE / all_seconds,
            Better::Higher,
        );
        let size = all_bytes as f64 / taken.len() as f64 / MEBIBYTE;
        figures.add("file", "MiB", size, Better::Lower);
        let share = cpu.as_secs_f64() / all_seconds * 100.0;
        figures.add("server CPU", "% of a core", share, Better::Lower);
        for (name, outcome) in [("put alone", &alone), ("put beside", &beside)] {
            for percent in [50.0, 99.0, 99.9] {
                let micros = outcome.latency_micros(percent);
                figures.add(&format!("{name}, p{percent}"), "µs", micros, Better::Lower);
            }
        }
        figures.add_with_goal(
            "put p99 beside / alone",
            "times",
            beside.latency_micros(99.0) / alone.latency_micros(99.0),
            Better::Lower,
            Goal::AtMost(PUT_TIMES_MAX),
        );
        figures.add_with_goal(
            "memory over puts alone",
            "MiB",
            memory_beside.saturating_sub(memory_alone) as f64 / MEBIBYTE,
            Better::Lower,
            Goal::AtMost(MEMORY_MEBIBYTES_MAX),
        );
        server.stop()?;
        Ok(figures)
    }

    /// Takes the snapshots while puts go on.
    fn beside(
        &self,
        server: &Server,
        keys: Keys,
        content: Content,
    ) -> io::Result<(Outcome, Vec<Taken>)> {
        let stop = Stop::default();
        std::thread::scope(|scope| {
            let putting = scope.spawn(|| {
                let no_end = Duration::from_secs(24 * 3600);
                self.puts(server, keys, content, &stop, no_end)
            });
            let stopper = StopOnDrop(&stop);
            std::thread::sleep(WARM_UP);
            let taken: io::Result<Vec<Taken>> = (0..self.snapshots).map(|_| take(server)).collect();
            drop(stopper);
            let beside = putting
                .join()
                .map_err(|_| io::Error::other("the puts panicked"))??;
            Ok((beside, taken?))
        })
    }

    fn puts(
        &self,
        server: &Server,
        keys: Keys,
        content: Content,
        stop: &Stop,
        duration: Duration,
    ) -> io::Result<Outcome> {
        let plan = Plan {
            warm_up: WARM_UP,
            duration,
            pacing: Pacing::Open {
                rate: self.put_rate,
            },
            ..Plan::new(server.address(), PUT_CONNECTIONS, PUT_STREAMS)
        };
        let mut calls = Overwrite::new(keys, content, self.sides.seed + 1, stop);
        let outcome = load::run(&plan, &mut calls)?;
        outcome.refuse_failures("putting")?;
        Ok(outcome)
    }
}

/// Takes one snapshot and forgets it.
fn take(server: &Server) -> io::Result<Taken> {
    let mut client = Client::open(server.address())?;
    let begin = Instant::now();
    let (mut bytes, mut last) = (0, 0);
    client.call_for_stream(message::SNAPSHOT, message::nothing, |part| {
        last = message::snapshot_bytes(part);
        bytes += last;
    })?;
    if last != SUM_BYTES {
        let text = format!("a snapshot of {bytes} bytes ends with {last} bytes, not with its sum");
        return Err(io::Error::other(text));
    }
    Ok(Taken {
        seconds: begin.elapsed().as_secs_f64(),
        bytes,
    })
}
