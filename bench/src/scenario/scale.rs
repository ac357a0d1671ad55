//! A store larger than the memory: loaded, read, listed, watched, compacted, killed, restarted.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::churn::CHECKPOINT_RULE;
use super::{KeyOptions, MEBIBYTE, SETTLE, fill_plan, payload_bytes, sample, seconds};
use crate::cgroup::{MemoryGroup, MemoryLimit};
use crate::client::{Client, malformed};
use crate::figures::{Better, Figures, Goal, Launch, Sides, Table};
use crate::fill::{Fill, Overwrite, Stop};
use crate::keys::{Content, Keys};
use crate::load;
use crate::marks::{LogMarks, Rule};
use crate::message::{self, ListKind, WatchRequest};
use crate::process;
use crate::random::Random;
use crate::server::Server;
use crate::statistics::percentile;
use crate::timeline::Mark;

const EXAMPLES: &str = "Examples:
  4 GB of values, then 10 million keys, under 1 GiB (if etcd dies in it, its column is without):
    ringbench scale --b target/release/ringd --a bench/etcd/bin/etcd --keys 4000000
    ringbench scale --b target/release/ringd --a bench/etcd/bin/etcd --keys 10000000 --value-bytes 16 \\
        --naming kubernetes --batch 64
  memory per key and restart with everything resident, killed just before a checkpoint is due:
    ringbench scale --b target/release/ringd --a bench/etcd/bin/etcd --memory-limit 0 --resident \\
        --naming kubernetes --value-bytes 16 --overwrite-percent 0 --before-checkpoint";

/// How etcd's log shows what bounds its replay.
const SNAPSHOT_RULE: &str = "checkpoint=triggering snapshot..saved snapshot";
/// A restart that takes longer is given up.
const RESTART_LIMIT: Duration = Duration::from_secs(1800);
/// Puts of each step of the search for the next checkpoint.
const STEP_PUTS: u64 = 2000;
/// Share of the puts between two checkpoints after which the server is killed.
const KILL_AT: f64 = 0.95;
/// The distance of the first is not a whole one, that of the second may hold the load's rest.
const CHECKPOINTS_SEEN: u32 = 3;
const MARKER: &[u8] = b"ringbench/marker";

/// A store larger than the memory: load, cold reads, lists, an old watch, compaction, kill -9, restart.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Scale {
    #[command(flatten)]
    sides: Sides,
    #[command(flatten)]
    keys: KeyOptions,
    /// The server's memory in MiB, page cache included; 0 sets no limit.
    #[arg(long, default_value_t = 1024)]
    memory_limit: u64,
    /// The control group to make the limited one in; this process's own if not given.
    #[arg(long)]
    memory_group: Option<PathBuf>,
    /// Seconds after which a load is given up: a server can also die in its limit by standing still.
    #[arg(long, default_value_t = 7200.0)]
    give_up: f64,
    /// Random reads, one after the other, before and after the restart.
    #[arg(long, default_value_t = 10_000)]
    samples: u64,
    /// Lists of a random group of keys (a namespace, or a thousand sequential keys).
    #[arg(long, default_value_t = 50)]
    lists: u64,
    /// Events that a watcher from the middle of the load's revisions reads.
    #[arg(long, default_value_t = 100_000)]
    watch_events: u64,
    /// Random overwrites before the compaction, in percent of the keys.
    #[arg(long, default_value_t = 10)]
    overwrite_percent: u64,
    /// Puts after the compaction, right before the kill.
    #[arg(long, default_value_t = 0)]
    tail_puts: u64,
    /// Kill when 95 % of the way to the next checkpoint are gone, as the server's log shows them.
    #[arg(long)]
    before_checkpoint: bool,
    /// Where a server's log shows checkpoints, as LABEL=BEGIN..END; may be given several times.
    #[arg(long, default_values = [CHECKPOINT_RULE, SNAPSHOT_RULE])]
    checkpoint_mark: Vec<Rule>,
    /// Judge memory per key and restart by the goals for a resident store.
    #[arg(long)]
    resident: bool,
}

impl Scale {
    /// Measures and prints.
    ///
    /// # Errors
    /// A server fails otherwise than by its memory limit, or answers wrongly.
    pub fn run(&self) -> io::Result<()> {
        let table = self.measure()?;
        self.sides.print(&table);
        Ok(())
    }

    fn measure(&self) -> io::Result<Table> {
        let keys = self.keys.keys()?;
        let limit = match self.memory_limit {
            0 => "no limit".to_owned(),
            mebibytes => format!("limit {mebibytes} MiB"),
        };
        let title = format!(
            "scale: {} keys ({:?}) × {} bytes, {limit}",
            keys.count, self.keys.naming, self.keys.value_bytes
        );
        self.sides.run(title, |launch| {
            let mut limited = launch.clone();
            if self.memory_limit > 0 {
                limited.surroundings.memory_limit = Some(MemoryLimit {
                    bytes: self.memory_limit << 20,
                    parent: self.memory_group.clone(),
                });
            }
            match self.attempt(&limited, keys)? {
                Ok(figures) => Ok(figures),
                Err(reason) => {
                    eprintln!("  it did not survive its limit: {reason}");
                    let mut figures = self.attempt(launch, keys)?.map_err(io::Error::other)?;
                    figures.note(format!(
                        "without the limit, because in it: {}",
                        reason.lines().next().unwrap_or_default()
                    ));
                    Ok(figures)
                }
            }
        })
    }

    /// One run; the inner error says how the server died of its limit.
    fn attempt(&self, launch: &Launch, keys: Keys) -> io::Result<Result<Figures, String>> {
        let limited = launch.surroundings.memory_limit.is_some();
        let mut run = Run {
            scale: self,
            keys,
            content: self.keys.content(self.sides.seed),
            server: launch.start()?,
            figures: Figures::default(),
        };
        let Err(error) = run.all() else {
            run.server.stop()?;
            return Ok(Ok(run.figures));
        };
        // The connection breaks a moment before the process is gone.
        std::thread::sleep(Duration::from_millis(200));
        let killed = run.server.memory_group().map_or(0, MemoryGroup::killed);
        let ended = run.server.has_ended()?;
        if limited && (killed > 0 || ended || error.kind() == io::ErrorKind::TimedOut) {
            let text = format!("killed by the kernel {killed} times ({error})");
            return Ok(Err(text));
        }
        Err(error)
    }
}

struct Run<'a> {
    scale: &'a Scale,
    keys: Keys,
    content: Content,
    server: Server,
    figures: Figures,
}

impl Run<'_> {
    fn all(&mut self) -> io::Result<()> {
        std::thread::sleep(SETTLE);
        let empty = self.resident()?;
        self.load(empty)?;
        self.read("cold read", 1)?;
        self.lists()?;
        self.watch()?;
        self.overwrite()?;
        self.compact()?;
        self.tail()?;
        self.restart()?;
        self.read("read after restart", 2)?;
        self.figures.add(
            "RSS after the reads",
            "MiB",
            self.resident()? as f64 / MEBIBYTE,
            Better::Lower,
        );
        if let Some(bytes) = self.server.memory_group().and_then(MemoryGroup::bytes_max) {
            let mebibytes = bytes as f64 / MEBIBYTE;
            self.figures
                .add("group's memory, most", "MiB", mebibytes, Better::Neither);
        }
        Ok(())
    }

    fn resident(&self) -> io::Result<u64> {
        Ok(process::memory(self.server.pid())?.resident_bytes)
    }

    fn client(&self) -> io::Result<Client> {
        Client::open(self.server.address())
    }

    fn add_directory(&mut self, name: &str) -> io::Result<()> {
        let mebibytes = self.server.disk_bytes()? as f64 / MEBIBYTE;
        self.figures.add(name, "MiB", mebibytes, Better::Lower);
        Ok(())
    }

    fn load(&mut self, empty: u64) -> io::Result<()> {
        eprintln!("  load");
        let limit = seconds(self.scale.give_up)?;
        let fill = Fill::new(self.keys, self.content, self.scale.keys.batch);
        let outcome = fill.run(&fill_plan(&self.server, self.scale.keys.batch), limit)?;
        std::thread::sleep(SETTLE);
        let count = self.keys.count as f64;
        let rate = count / outcome.elapsed.as_secs_f64();
        self.figures.add("load", "keys/s", rate, Better::Higher);
        if let Some(cpu) = outcome.server_cpu {
            let micros = cpu.as_secs_f64() * 1e6 / count;
            self.figures
                .add("load, server CPU", "µs/key", micros, Better::Lower);
        }
        let loaded = self.resident()?;
        let mebibytes = |bytes: u64| bytes as f64 / MEBIBYTE;
        let figures = &mut self.figures;
        figures.add("RSS empty", "MiB", mebibytes(empty), Better::Lower);
        figures.add("RSS loaded", "MiB", mebibytes(loaded), Better::Lower);
        let per_key = loaded.saturating_sub(empty) as f64 / count;
        if self.scale.resident {
            let goal = Goal::AtMost(150.0);
            figures.add_with_goal("RSS per key", "bytes", per_key, Better::Lower, goal);
        } else {
            figures.add("RSS per key", "bytes", per_key, Better::Lower);
        }
        let payload = payload_bytes(self.keys, self.content) as f64 / MEBIBYTE;
        figures.add("payload", "MiB", payload, Better::Neither);
        self.add_directory("directory loaded")
    }

    fn read(&mut self, name: &str, seed: u64) -> io::Result<()> {
        eprintln!("  {name}s");
        let scale = self.scale;
        let seed = scale.sides.seed + seed;
        let outcome = sample(&self.server, self.keys, self.content, scale.samples, seed)?;
        for percent in [50.0, 99.0] {
            self.figures.add(
                &format!("{name}, p{percent}"),
                "µs",
                outcome.latency_micros(percent),
                Better::Lower,
            );
        }
        Ok(())
    }

    fn lists(&mut self) -> io::Result<()> {
        if self.scale.lists == 0 {
            return Ok(());
        }
        eprintln!("  lists");
        let mut client = self.client()?;
        let mut random = Random::new(self.scale.sides.seed);
        let (mut millis, mut listed_keys) = (Vec::new(), 0);
        for _ in 0..self.scale.lists {
            let (prefix, count) = self.keys.group(random.below(self.keys.group_count()));
            let begin = Instant::now();
            let body = client.call(message::RANGE, |request| {
                message::list(&prefix, ListKind::Full, request);
            })?;
            millis.push(begin.elapsed().as_secs_f64() * 1e3);
            let listed = message::read_list(&body, |_, _| {}).ok_or_else(malformed)?;
            if listed.key_values != count {
                return Err(io::Error::other(format!(
                    "a list of {} has {} keys instead of {count}",
                    String::from_utf8_lossy(&prefix),
                    listed.key_values
                )));
            }
            listed_keys += count;
        }
        let figures = &mut self.figures;
        let mean = listed_keys as f64 / self.scale.lists as f64;
        figures.add("keys of a prefix", "", mean, Better::Neither);
        for percent in [50.0, 99.0] {
            let value = percentile(&millis, percent);
            figures.add(
                &format!("list of a prefix, p{percent}"),
                "ms",
                value,
                Better::Lower,
            );
        }
        Ok(())
    }

    /// Reads events of the middle of the load, long since out of every cache.
    fn watch(&mut self) -> io::Result<()> {
        if self.scale.watch_events == 0 {
            return Ok(());
        }
        eprintln!("  watch");
        let mut client = self.client()?;
        let newest = client.revision()?;
        let request = WatchRequest {
            key: self.keys.prefix(),
            prefix: true,
            from_revision: (newest / 2).max(1),
        };
        let begin = Instant::now();
        let mut watch = client.watch(request)?;
        let (mut events, mut reached, mut first) = (0, 0, None);
        while events < self.scale.watch_events && reached < newest {
            let body = watch
                .next(RESTART_LIMIT)?
                .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "no events came"))?;
            let answer = message::read_watch(&body, |event| reached = event.modified)
                .filter(|answer| !answer.canceled)
                .ok_or_else(malformed)?;
            first.get_or_insert_with(|| begin.elapsed());
            events += answer.events;
            watch.recycle(body);
        }
        let elapsed = begin.elapsed().as_secs_f64();
        let figures = &mut self.figures;
        let first = first.unwrap_or_default().as_secs_f64() * 1e3;
        figures.add("old watch, first events after", "ms", first, Better::Lower);
        figures.add(
            "old watch",
            "events/s",
            events as f64 / elapsed,
            Better::Higher,
        );
        Ok(())
    }

    fn put(&self, count: u64) -> io::Result<load::Outcome> {
        let seed = self.scale.sides.seed;
        let mut overwrite =
            Overwrite::new(self.keys, self.content, seed, &Stop::default()).at_most(count);
        let outcome = load::run(&fill_plan(&self.server, 1), &mut overwrite)?;
        outcome.refuse_failures("overwriting")?;
        Ok(outcome)
    }

    fn overwrite(&mut self) -> io::Result<()> {
        let count = self.keys.count * self.scale.overwrite_percent / 100;
        if count == 0 {
            return Ok(());
        }
        eprintln!("  overwrite");
        let outcome = self.put(count)?;
        self.figures
            .add("overwrite", "puts/s", outcome.rate(), Better::Higher);
        Ok(())
    }

    fn compact(&mut self) -> io::Result<()> {
        eprintln!("  compact");
        let mut client = self.client()?;
        let revision = client.revision()?;
        let begin = Instant::now();
        client.compact(revision)?;
        let elapsed = begin.elapsed().as_secs_f64();
        self.figures.add("compaction", "s", elapsed, Better::Lower);
        std::thread::sleep(SETTLE);
        self.add_directory("directory compacted")
    }

    /// Writes what a restart has to replay.
    fn tail(&mut self) -> io::Result<()> {
        if self.scale.before_checkpoint {
            self.approach_checkpoint()?;
        }
        if self.scale.tail_puts > 0 {
            self.put(self.scale.tail_puts)?;
        }
        let mut client = self.client()?;
        client.call(message::PUT, |request| {
            message::put(MARKER, MARKER, request)
        })?;
        Ok(())
    }

    /// Counts the puts between two checkpoints and stops shortly before a third.
    fn approach_checkpoint(&mut self) -> io::Result<()> {
        eprintln!("  approach the next checkpoint");
        let rules = &self.scale.checkpoint_mark;
        let mut log = LogMarks::open(&self.server.log_path(), rules)?;
        let mut marks: Vec<Mark> = Vec::new();
        let search_max = self.keys.count.max(STEP_PUTS) * 4;
        let (mut seen, mut since, mut distance) = (0, 0, 0);
        while seen < CHECKPOINTS_SEEN && since < search_max {
            self.put(STEP_PUTS)?;
            since += STEP_PUTS;
            // The last put may have been what the checkpoint waited for.
            std::thread::sleep(Duration::from_millis(20));
            log.poll(Instant::now(), &mut marks)?;
            if !marks.is_empty() {
                marks.clear();
                (distance, since) = (since, 0);
                seen += 1;
            }
        }
        if seen < CHECKPOINTS_SEEN {
            self.figures.note(format!(
                "its log showed {seen} checkpoints, the last {since} puts before the search ended; \
                 killed anywhere"
            ));
            return Ok(());
        }
        let puts = (distance as f64 * KILL_AT) as u64;
        self.put(puts.max(1))?;
        self.figures
            .note(format!("killed {puts} puts after a checkpoint"));
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        eprintln!("  kill and restart");
        self.server.kill()?;
        self.server.start_again()?;
        let taken = self.server.wait_until_ready_within(RESTART_LIMIT)?;
        let mut client = self.client()?;
        let body = client.call(message::RANGE, |request| {
            message::range(MARKER, false, request);
        })?;
        if message::first_value(&body) != Some(MARKER) {
            return Err(io::Error::other("the last put before the kill is gone"));
        }
        let millis = taken.as_secs_f64() * 1e3;
        let goal = match self.scale.resident {
            true => Goal::Times(2.5),
            false => Goal::AtMost(1500.0),
        };
        self.figures.add_with_goal(
            "restart to the first linearizable read",
            "ms",
            millis,
            Better::Lower,
            goal,
        );
        let resident = self.resident()? as f64 / MEBIBYTE;
        self.figures
            .add("RSS after restart", "MiB", resident, Better::Lower);
        Ok(())
    }
}
