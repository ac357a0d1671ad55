//! Reads beside saturating writes: whether a linearizable get waits for other people's disk.

use std::io;
use std::time::Duration;

use clap::Args;

use super::{fill, seconds};
use crate::figures::{Better, Figures, Goal, Launch, Sides};
use crate::fill::{Overwrite, Stop, StopOnDrop, Verify};
use crate::keys::{Content, Keys, Naming};
use crate::load::{self, Outcome, Pacing, Plan};
use crate::server::Server;

const EXAMPLES: &str = "Examples:
  ringbench mixed --b target/release/ringd --a bench/etcd/bin/etcd --directory /mnt/slow
  ringbench mixed --b target/release/ringd --duration 3 --keys 2000";

/// Connections and streams of the reads; few calls are ever in flight on them.
const READ_CONNECTIONS: usize = 4;
const READ_STREAMS: usize = 64;
/// The writers write for this long before reads are recorded.
const WARM_UP: Duration = Duration::from_secs(1);

/// Linearizable gets while writers saturate the disk, against the same gets on the idle server.
///
/// Give `--directory` on a slow disk: the data directories are made there.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Mixed {
    #[command(flatten)]
    sides: Sides,
    /// Writers: connections with one put in flight each.
    #[arg(long, default_value_t = 64)]
    writers: usize,
    /// Gets per second that are due, at random distances.
    #[arg(long, default_value_t = 500.0)]
    get_rate: f64,
    /// Recorded seconds, idle and beside the writers.
    #[arg(long, default_value_t = 20.0)]
    duration: f64,
    /// Keys.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
}

impl Mixed {
    /// Measures and prints.
    ///
    /// # Errors
    /// A server fails or answers wrongly.
    pub fn run(&self) -> io::Result<()> {
        if self.writers == 0 || self.keys == 0 || self.get_rate <= 0.0 {
            return Err(io::Error::other(
                "writers, keys and the rate of gets must be above 0",
            ));
        }
        let title = format!(
            "mixed: {} linearizable gets/s, idle and beside {} writers, below {}",
            self.get_rate,
            self.writers,
            self.sides.directory.display()
        );
        let table = self.sides.run(title, |launch| self.measure(launch))?;
        self.sides.print(&table);
        Ok(())
    }

    fn measure(&self, launch: &Launch) -> io::Result<Figures> {
        let mut figures = Figures::default();
        let server = launch.start()?;
        let keys = Keys {
            naming: Naming::Sequential,
            count: self.keys,
        };
        let content = Content {
            bytes: self.value_bytes,
            seed: self.sides.seed,
        };
        eprintln!("  load");
        fill(&server, keys, content, 1)?;
        eprintln!("  idle gets");
        let idle = self.gets(&server, keys, content)?;
        eprintln!("  gets beside writers");
        let stop = Stop::default();
        let (busy, puts) = std::thread::scope(|scope| {
            let writers = scope.spawn(|| {
                let plan = Plan::new(server.address(), self.writers, 1);
                let mut calls = Overwrite::new(keys, content, self.sides.seed, &stop);
                let outcome = load::run(&plan, &mut calls)?;
                outcome.refuse_failures("putting")?;
                Ok::<_, io::Error>(outcome)
            });
            let stopper = StopOnDrop(&stop);
            let busy = self.gets(&server, keys, content);
            drop(stopper);
            let puts = writers
                .join()
                .map_err(|_| io::Error::other("the writers panicked"))??;
            Ok::<_, io::Error>((busy?, puts))
        })?;
        for (name, outcome) in [("get idle", &idle), ("get beside writers", &busy)] {
            for percent in [50.0, 99.0, 99.9] {
                let micros = outcome.latency_micros(percent);
                figures.add(&format!("{name}, p{percent}"), "µs", micros, Better::Lower);
            }
        }
        figures.add_with_goal(
            "get p99 beside writers / idle",
            "times",
            busy.latency_micros(99.0) / idle.latency_micros(99.0),
            Better::Lower,
            Goal::AtMost(2.0),
        );
        figures.add("gets beside writers", "1/s", busy.rate(), Better::Higher);
        figures.add("puts", "1/s", puts.rate(), Better::Higher);
        for percent in [50.0, 99.0] {
            let millis = puts.latency_micros(percent) / 1e3;
            figures.add(&format!("put, p{percent}"), "ms", millis, Better::Lower);
        }
        server.stop()?;
        Ok(figures)
    }

    fn gets(&self, server: &Server, keys: Keys, content: Content) -> io::Result<Outcome> {
        let plan = Plan {
            warm_up: WARM_UP,
            duration: seconds(self.duration)?,
            pacing: Pacing::Open {
                rate: self.get_rate,
            },
            ..Plan::new(server.address(), READ_CONNECTIONS, READ_STREAMS)
        };
        let seed = self.sides.seed + 1;
        let mut calls = Verify::new(keys, content, seed, plan.slots(), &Stop::default());
        let outcome = load::run(&plan, &mut calls)?;
        outcome.refuse_failures("reading")?;
        Ok(outcome)
    }
}
