//! Counting a million keys, and lists that are large beside the server's memory.

use std::io;
use std::time::{Duration, Instant};

use clap::Args;

use super::{MEBIBYTE, SETTLE, fill};
use crate::client::{Client, malformed};
use crate::figures::{Better, Figures, Goal, Launch, Sides};
use crate::keys::{Content, Keys, Naming};
use crate::message::{self, ListKind};
use crate::process;
use crate::server::Server;
use crate::statistics::percentile;

const EXAMPLES: &str = "Examples:
  ringbench list --b target/release/ringd --a bench/etcd/bin/etcd --rounds 3
  ringbench list --b target/release/ringd --keys 20000 --items 500 --lists 3";

/// A start that takes longer is given up.
const RESTART_LIMIT: Duration = Duration::from_secs(600);
const COUNTED_VALUE_BYTES: usize = 16;
const MEMORY_MEBIBYTES_MAX: f64 = 32.0;

/// `count_only` over many keys, and lists of large values: latency, server CPU, memory beyond idle.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct List {
    #[command(flatten)]
    sides: Sides,
    /// Keys that are counted; their values have 16 bytes.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Counts, one after the other.
    #[arg(long, default_value_t = 200)]
    counts: u64,
    /// Keys of the list.
    #[arg(long, default_value_t = 10_000)]
    items: u64,
    /// Bytes of each value of the list.
    #[arg(long, default_value_t = 10_240)]
    item_bytes: usize,
    /// Lists of each kind, one after the other.
    #[arg(long, default_value_t = 10)]
    lists: u64,
}

/// How a list's answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Whole,
    Stream,
}

/// What one list took.
struct Taken {
    first: Duration,
    all: Duration,
    key_values: u64,
}

impl List {
    /// Measures and prints.
    ///
    /// # Errors
    /// A server fails or answers wrongly.
    pub fn run(&self) -> io::Result<()> {
        let title = format!(
            "list: count of {} keys; list of {} × {} bytes",
            self.keys, self.items, self.item_bytes
        );
        let table = self.sides.run(title, |launch| self.measure(launch))?;
        self.sides.print(&table);
        Ok(())
    }

    fn counted(&self) -> Keys {
        Keys {
            naming: Naming::Sequential,
            count: self.keys,
        }
    }

    fn listed(&self) -> (Keys, Content) {
        let keys = Keys {
            naming: Naming::Kubernetes,
            count: self.items,
        };
        let content = Content {
            bytes: self.item_bytes,
            seed: self.sides.seed,
        };
        (keys, content)
    }

    fn measure(&self, launch: &Launch) -> io::Result<Figures> {
        let mut figures = Figures::default();
        let mut server = launch.start()?;
        let small = Content {
            bytes: COUNTED_VALUE_BYTES,
            seed: self.sides.seed,
        };
        eprintln!("  load");
        fill(&server, self.counted(), small, 1)?;
        let (keys, content) = self.listed();
        fill(&server, keys, content, 1)?;
        eprintln!("  count");
        self.count(&server, &mut figures)?;
        for answer in [Answer::Stream, Answer::Whole] {
            // What a load leaves in a heap would hide what a list needs.
            server.end()?;
            server.start_again()?;
            server.wait_until_ready_within(RESTART_LIMIT)?;
            std::thread::sleep(SETTLE);
            eprintln!("  list ({answer:?})");
            self.list(&server, answer, &mut figures)?;
        }
        server.stop()?;
        Ok(figures)
    }

    fn count(&self, server: &Server, figures: &mut Figures) -> io::Result<()> {
        let mut client = Client::open(server.address())?;
        let mut micros = Vec::new();
        for _ in 0..self.counts {
            let begin = Instant::now();
            let body = client.call(message::RANGE, |request| {
                message::list(self.counted().prefix(), ListKind::Count, request);
            })?;
            micros.push(begin.elapsed().as_secs_f64() * 1e6);
            let listed = message::read_list(&body, |_, _| {}).ok_or_else(malformed)?;
            if listed.count != self.keys as i64 {
                let text = format!("{} keys were counted, not {}", listed.count, self.keys);
                return Err(io::Error::other(text));
            }
        }
        figures.add_with_goal(
            "count_only, p50",
            "µs",
            percentile(&micros, 50.0),
            Better::Lower,
            Goal::AtMost(150.0),
        );
        let slow = percentile(&micros, 99.0);
        figures.add("count_only, p99", "µs", slow, Better::Lower);
        Ok(())
    }

    fn list(&self, server: &Server, answer: Answer, figures: &mut Figures) -> io::Result<()> {
        let name = match answer {
            Answer::Whole => "list",
            Answer::Stream => "streamed list",
        };
        let idle = process::memory(server.pid())?.resident_bytes;
        process::forget_memory_max(server.pid())?;
        let cpu_before = process::cpu_time(server.pid())?;
        let mut client = Client::open(server.address())?;
        let (mut first, mut all) = (Vec::new(), Vec::new());
        for _ in 0..self.lists {
            let taken = match self.list_once(&mut client, answer) {
                Ok(taken) => taken,
                Err(error) if answer == Answer::Stream && all.is_empty() => {
                    figures.note(format!("no streamed lists: {error}"));
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if taken.key_values != self.items {
                let text = format!("a list has {} keys, not {}", taken.key_values, self.items);
                return Err(io::Error::other(text));
            }
            first.push(taken.first.as_secs_f64() * 1e3);
            all.push(taken.all.as_secs_f64() * 1e3);
        }
        let cpu = process::cpu_time(server.pid())? - cpu_before;
        let most = process::memory(server.pid())?.resident_bytes_max;
        if answer == Answer::Stream {
            let value = percentile(&first, 50.0);
            figures.add(
                &format!("{name}, first part, p50"),
                "ms",
                value,
                Better::Lower,
            );
        }
        figures.add_with_goal(
            &format!("{name}, p50"),
            "ms",
            percentile(&all, 50.0),
            Better::Lower,
            Goal::Times(2.0),
        );
        let slowest = percentile(&all, 100.0);
        figures.add(&format!("{name}, slowest"), "ms", slowest, Better::Lower);
        let each = cpu.as_secs_f64() * 1e3 / self.lists.max(1) as f64;
        figures.add(&format!("{name}, server CPU"), "ms", each, Better::Lower);
        figures.add_with_goal(
            &format!("{name}, memory over idle"),
            "MiB",
            most.saturating_sub(idle) as f64 / MEBIBYTE,
            Better::Lower,
            Goal::AtMost(MEMORY_MEBIBYTES_MAX),
        );
        Ok(())
    }

    fn list_once(&self, client: &mut Client, answer: Answer) -> io::Result<Taken> {
        let (keys, _) = self.listed();
        let write = |request: &mut Vec<u8>| message::list(keys.prefix(), ListKind::Full, request);
        let begin = Instant::now();
        let mut first = None;
        let mut key_values = 0;
        match answer {
            Answer::Whole => {
                let body = client.call(message::RANGE, write)?;
                let all = begin.elapsed();
                let listed = message::read_list(&body, |_, _| {}).ok_or_else(malformed)?;
                Ok(Taken {
                    first: all,
                    all,
                    key_values: listed.key_values,
                })
            }
            Answer::Stream => {
                client.call_for_stream(message::RANGE_STREAM, write, |part| {
                    first.get_or_insert_with(|| begin.elapsed());
                    let listed = message::read_list_part(part, |_, _| {});
                    key_values += listed.map_or(0, |listed| listed.key_values);
                })?;
                Ok(Taken {
                    first: first.unwrap_or_default(),
                    all: begin.elapsed(),
                    key_values,
                })
            }
        }
    }
}
