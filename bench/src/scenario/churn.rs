//! The same keys overwritten for long: whether compaction, space reclaim and checkpoints are noticed,
//! whether disk and memory stay flat, and how many bytes reach the device.

use std::io;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::{MEBIBYTE, fill, payload_bytes, seconds};
use crate::client::Client;
use crate::figures::{Better, Figures, Goal, Launch, Sides};
use crate::fill::{Overwrite, Stop, StopOnDrop};
use crate::keys::{Content, Keys, Naming};
use crate::load::{self, Outcome, Pacing, Plan};
use crate::marks::{LogMarks, Rule};
use crate::process;
use crate::server::Server;
use crate::statistics::{Ratio, bootstrap, median};
use crate::timeline::{Mark, Span, Timeline, is_control, is_marked};

const EXAMPLES: &str = "Examples:
  flat disk and memory: 100 k keys for 10 minutes, a compaction each minute
    ringbench churn --b target/release/ringd --a bench/etcd/bin/etcd
  a 15 GB store at saturation, then at 70 % of it, six windows of each:
    ringbench churn --b target/release/ringd --a bench/etcd/bin/etcd --resting-keys 13000000 \\
        --keys 1000000 --duration 420 --pacing both
  device bytes per payload byte, 1 KiB × 1 M keys:
    ringbench churn --b target/release/ringd --a bench/etcd/bin/etcd --keys 1000000";

/// How the log of ringd shows a checkpoint.
pub(super) const CHECKPOINT_RULE: &str = "checkpoint=checkpoint begins..checkpoint ends";
/// How it shows that space is reclaimed.
const COLLECTION_RULE: &str = "gc=segment collection begins..segment collection ends";
/// The label of compactions, which the client asks for and so needs no log.
const COMPACTION: &str = "compaction";

const SLICE: Duration = Duration::from_millis(100);
/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Space counts as settled when it has not changed for this long.
const STEADY: Duration = Duration::from_secs(5);

/// Overwrites the same keys with a compaction each minute: rate and p99 in the windows of background work,
/// flatness of disk and memory, bytes written to the device.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Churn {
    #[command(flatten)]
    sides: Sides,
    /// Keys that are overwritten.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// More keys, loaded first and never written again.
    #[arg(long, default_value_t = 0)]
    resting_keys: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 600.0)]
    duration: f64,
    /// Seconds between two compactions.
    #[arg(long, default_value_t = 60.0)]
    compact_each: f64,
    /// Which phases: as fast as the server takes it, at a share of that, or both one after the other.
    #[arg(long, value_enum, default_value_t = Phases::Closed)]
    pacing: Phases,
    /// Puts per second of the open phase; without it `--open-share` of the closed phase's control.
    #[arg(long)]
    rate: Option<f64>,
    /// Share of the closed phase's control rate in the open phase.
    #[arg(long, default_value_t = 0.7)]
    open_share: f64,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Calls in flight on each connection.
    #[arg(long, default_value_t = 8)]
    streams: usize,
    /// Seconds between two looks at disk and memory.
    #[arg(long, default_value_t = 5.0)]
    sample_each: f64,
    /// Where a server's log shows background work, as LABEL=BEGIN..END; may be given several times.
    #[arg(long, default_values = [CHECKPOINT_RULE, COLLECTION_RULE])]
    mark: Vec<Rule>,
    /// Seconds that space gets to come back after the last compaction.
    #[arg(long, default_value_t = 60.0)]
    settle: f64,
}

/// The phases of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Phases {
    Closed,
    Open,
    Both,
}

/// One look at the server from outside.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    disk: u64,
    resident: u64,
    written: u64,
    device: Option<u64>,
}

impl Look {
    fn take(server: &Server) -> io::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            disk: server.disk_bytes()?,
            resident: process::memory(server.pid())?.resident_bytes,
            written: process::written_bytes(server.pid())?,
            device: process::device_written_bytes(&server.data_directory()),
        })
    }
}

/// What one phase has shown.
struct Phase {
    outcome: Outcome,
    timeline: Timeline,
    marks: Vec<Mark>,
    /// The begins of the compactions.
    compactions: Vec<Instant>,
    looks: Vec<Look>,
}

impl Churn {
    /// Measures and prints.
    ///
    /// # Errors
    /// A server fails or answers wrongly.
    pub fn run(&self) -> io::Result<()> {
        if self.keys == 0 || self.connections == 0 || self.streams == 0 {
            return Err(io::Error::other(
                "keys, connections and streams must be at least 1",
            ));
        }
        if self.pacing == Phases::Open && self.rate.is_none() {
            return Err(io::Error::other(
                "an open phase alone needs --rate; --pacing both finds it",
            ));
        }
        let title = format!(
            "churn: {} of {} keys × {} bytes overwritten for {} s, a compaction each {} s",
            self.keys,
            self.keys + self.resting_keys,
            self.value_bytes,
            self.duration,
            self.compact_each,
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
        let resting = Keys {
            naming: Naming::Kubernetes,
            count: self.resting_keys,
        };
        eprintln!("  load");
        if resting.count > 0 {
            fill(&server, resting, content, 1)?;
        }
        fill(&server, keys, content, 1)?;
        let mut rate = self.rate;
        if self.pacing != Phases::Open {
            eprintln!("  closed loop");
            let phase = self.phase(&server, keys, content, Pacing::Closed)?;
            let control = self.add_windows(&phase, "closed", &mut figures)?;
            self.add_course(&phase, "closed", &mut figures);
            rate = rate.or(Some(control * self.open_share));
        }
        if self.pacing != Phases::Closed {
            let rate = rate.filter(|rate| *rate > 0.0).ok_or_else(|| {
                io::Error::other("no control window was long enough to tell a rate: choose --rate")
            })?;
            eprintln!("  open loop, {rate:.0} puts/s");
            let phase = self.phase(&server, keys, content, Pacing::Open { rate })?;
            figures.add("open: rate due", "1/s", rate, Better::Neither);
            self.add_windows(&phase, "open", &mut figures)?;
            self.add_course(&phase, "open", &mut figures);
        }
        eprintln!("  settle");
        let live = payload_bytes(keys, content) + payload_bytes(resting, content);
        self.add_settled(&server, live as f64, &mut figures)?;
        server.stop()?;
        Ok(figures)
    }

    fn phase(
        &self,
        server: &Server,
        keys: Keys,
        content: Content,
        pacing: Pacing,
    ) -> io::Result<Phase> {
        let duration = seconds(self.duration)?;
        let stop = Stop::default();
        let mut log = LogMarks::open(&server.log_path(), &self.mark)?;
        let mut marks = Vec::new();
        let mut looks = Vec::new();
        std::thread::scope(|scope| {
            let puts = scope.spawn(|| {
                let plan = Plan {
                    duration,
                    pacing,
                    server_pid: Some(server.pid()),
                    ..Plan::new(server.address(), self.connections, self.streams)
                };
                let mut calls = Overwrite::new(keys, content, self.sides.seed, &stop)
                    .with_timeline(Timeline::new(SLICE));
                let outcome = load::run(&plan, &mut calls);
                stop.ask();
                let outcome = outcome?;
                outcome.refuse_failures("overwriting")?;
                Ok::<_, io::Error>((outcome, calls.into_timeline()))
            });
            let compactor = scope.spawn(|| {
                let _stopper = StopOnDrop(&stop);
                self.compact(server, &stop)
            });
            let observed = (|| {
                let _stopper = StopOnDrop(&stop);
                let sample_each = seconds(self.sample_each)?;
                let mut next_look = Instant::now();
                while !stop.is_asked() {
                    let now = Instant::now();
                    log.poll(now, &mut marks)?;
                    if now >= next_look {
                        looks.push(Look::take(server)?);
                        next_look = now + sample_each;
                    }
                    std::thread::sleep(LOOK);
                }
                looks.push(Look::take(server)?);
                log.finish(Instant::now(), &mut marks);
                Ok::<_, io::Error>(())
            })();
            let panicked = |_| io::Error::other("a thread panicked");
            let (outcome, timeline) = puts.join().map_err(panicked)??;
            let compactions = compactor.join().map_err(panicked)??;
            observed?;
            marks.extend(compactions.iter().map(|span| Mark {
                label: COMPACTION.to_owned(),
                span: *span,
            }));
            Ok(Phase {
                outcome,
                timeline,
                marks,
                compactions: compactions.iter().map(|span| span.begin).collect(),
                looks,
            })
        })
    }

    /// Compacts at the newest revision, again and again, and tells when.
    fn compact(&self, server: &Server, stop: &Stop) -> io::Result<Vec<Span>> {
        let each = seconds(self.compact_each)?;
        let mut client = Client::open(server.address())?;
        let mut spans = Vec::new();
        let mut due = Instant::now() + each;
        while !stop.is_asked() {
            if Instant::now() < due {
                std::thread::sleep(LOOK);
                continue;
            }
            let revision = client.revision()?;
            let begin = Instant::now();
            client.compact(revision)?;
            due = begin + each;
            spans.push(Span {
                begin,
                end: Instant::now(),
            });
        }
        Ok(spans)
    }

    /// Rate and p99 of each kind of window against the control of the same cycle; a cycle has a
    /// compaction in its middle. Returns the control's rate over all cycles.
    fn add_windows(&self, phase: &Phase, name: &str, figures: &mut Figures) -> io::Result<f64> {
        let marks = &phase.marks;
        let half = seconds(self.compact_each)? / 2;
        let cycles: Vec<(Instant, Instant)> = phase
            .compactions
            .iter()
            .map(|begin| (begin.checked_sub(half).unwrap_or(*begin), *begin + half))
            .collect();
        let whole = Span {
            begin: phase
                .looks
                .first()
                .map_or_else(Instant::now, |look| look.at),
            end: phase.looks.last().map_or_else(Instant::now, |look| look.at),
        };
        let control = phase
            .timeline
            .window(whole.begin, whole.end, |span| is_control(marks, span));
        figures.add(
            &format!("{name}: cycles"),
            "",
            cycles.len() as f64,
            Better::Neither,
        );
        figures.add(
            &format!("{name}: put rate, control"),
            "1/s",
            control.rate(),
            Better::Higher,
        );
        figures.add(
            &format!("{name}: put p99, control"),
            "µs",
            control.micros(99.0),
            Better::Lower,
        );
        let mut labels = vec![COMPACTION];
        for rule in &self.mark {
            // Several rules may tell of the same activity, each in another server's words.
            if !labels.contains(&rule.label.as_str()) {
                labels.push(&rule.label);
            }
        }
        for label in labels {
            let windows = Windows::of(&phase.timeline, marks, label, &cycles);
            let shown = |what: &str| format!("{name}: {what}");
            figures.add(
                &shown(&format!("time in {label}")),
                "s",
                windows.seconds,
                Better::Neither,
            );
            let (rate, tail) = (ratio(&windows.rates), ratio(&windows.tails));
            let rate_name = shown(&format!("put rate in {label} / control"));
            let tail_name = shown(&format!("put p99 in {label} / control"));
            figures.add(&rate_name, "times", rate.mean, Better::Higher);
            figures.add(&tail_name, "times", tail.mean, Better::Lower);
            // A closed loop shows what capacity is left, an open one what a given load notices.
            if name == "closed" {
                figures.want(&rate_name, Goal::AtLeast(0.95));
            } else {
                figures.want(&tail_name, Goal::AtMost(1.3));
            }
            if !windows.rates.is_empty() {
                figures.note(shown(&format!(
                    "{label}: rate {:.3} to {:.3}, p99 {:.2} to {:.2} of the control (95 %, {} cycles)",
                    rate.low,
                    rate.high,
                    tail.low,
                    tail.high,
                    windows.rates.len()
                )));
            }
        }
        Ok(control.rate())
    }

    /// Disk, memory and device bytes over the phase.
    fn add_course(&self, phase: &Phase, name: &str, figures: &mut Figures) {
        // The first cycle fills what later ones reuse.
        let steady_begin = phase.compactions.first().copied();
        let steady: Vec<&Look> = phase
            .looks
            .iter()
            .filter(|look| steady_begin.is_none_or(|begin| look.at >= begin))
            .collect();
        let (first, second) = steady.split_at(steady.len() / 2);
        let most = |looks: &[&Look], of: fn(&Look) -> u64| {
            looks
                .iter()
                .map(|look| of(look))
                .max()
                .map_or(f64::NAN, |bytes| bytes as f64)
        };
        for (what, of) in [
            ("disk", (|look| look.disk) as fn(&Look) -> u64),
            ("RSS", |look| look.resident),
        ] {
            let all: Vec<f64> = steady
                .iter()
                .map(|look| of(look) as f64 / MEBIBYTE)
                .collect();
            figures.add(
                &format!("{name}: {what}, median"),
                "MiB",
                median(&all),
                Better::Lower,
            );
            let largest = most(&steady, of) / MEBIBYTE;
            figures.add(
                &format!("{name}: {what}, most"),
                "MiB",
                largest,
                Better::Lower,
            );
            let growth = most(second, of) / most(first, of);
            let growth_name = format!("{name}: {what}, most in second half / first");
            figures.add(&growth_name, "times", growth, Better::Lower);
            figures.want(&growth_name, Goal::AtMost(1.1));
        }
        if let (Some(begin), Some(end)) = (steady.first(), steady.last()) {
            let window = phase.timeline.window(begin.at, end.at, |_| true);
            let payload = (window.operations() * self.value_bytes as u64) as f64;
            let bytes_name = format!("{name}: device bytes per value byte");
            let bytes = (end.written - begin.written) as f64 / payload;
            figures.add(&bytes_name, "", bytes, Better::Lower);
            figures.want(&bytes_name, Goal::AtMost(3.0));
            let device = begin
                .device
                .zip(end.device)
                .map_or(f64::NAN, |(begin, end)| (end - begin) as f64);
            figures.add(
                &format!("{name}: the same by the device's own count"),
                "",
                device / payload,
                Better::Lower,
            );
        }
        if let Some(cpu) = phase.outcome.server_micros_per_operation() {
            figures.add(&format!("{name}: server CPU"), "µs/put", cpu, Better::Lower);
        }
    }

    /// How much space is left once everything old was dropped.
    fn add_settled(&self, server: &Server, live: f64, figures: &mut Figures) -> io::Result<()> {
        let mut client = Client::open(server.address())?;
        let revision = client.revision()?;
        client.compact(revision)?;
        let compacted = Instant::now();
        let limit = seconds(self.settle)?;
        let (mut disk, mut changed) = (server.disk_bytes()?, compacted);
        while compacted.elapsed() < limit && changed.elapsed() < STEADY.min(limit) {
            std::thread::sleep(SLICE);
            let now = server.disk_bytes()?;
            if now != disk {
                (disk, changed) = (now, Instant::now());
            }
        }
        figures.add("live bytes", "MiB", live / MEBIBYTE, Better::Neither);
        let mebibytes = disk as f64 / MEBIBYTE;
        figures.add("disk, settled", "MiB", mebibytes, Better::Lower);
        figures.add_with_goal(
            "disk, settled / live",
            "times",
            disk as f64 / live,
            Better::Lower,
            Goal::AtMost(1.5),
        );
        let seconds = (changed - compacted).as_secs_f64();
        figures.add("space settled after", "s", seconds, Better::Lower);
        Ok(())
    }
}

/// One kind of window against the control of the same cycle, for each cycle that has both.
#[derive(Debug, Default)]
struct Windows {
    seconds: f64,
    rates: Vec<f64>,
    tails: Vec<f64>,
}

impl Windows {
    fn of(timeline: &Timeline, marks: &[Mark], label: &str, cycles: &[(Instant, Instant)]) -> Self {
        let mut windows = Self::default();
        for (from, to) in cycles {
            let window = |wanted: &dyn Fn(Span) -> bool| timeline.window(*from, *to, wanted);
            let marked = window(&|span| is_marked(marks, label, span));
            let control = window(&|span| is_control(marks, span));
            windows.seconds += marked.seconds;
            let rate = marked.rate() / control.rate();
            let tail = marked.micros(99.0) / control.micros(99.0);
            // A window in which nothing was put at all has a rate, but no latencies.
            if rate.is_finite() {
                windows.rates.push(rate);
            }
            if tail.is_finite() {
                windows.tails.push(tail);
            }
        }
        windows
    }
}

fn ratio(cycles: &[f64]) -> Ratio {
    if cycles.is_empty() {
        return Ratio {
            mean: f64::NAN,
            low: f64::NAN,
            high: f64::NAN,
        };
    }
    bootstrap(cycles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_without_any_put_counts_as_lost() {
        let mut timeline = Timeline::new(SLICE);
        let begin = Instant::now();
        let at = |slices: u32| begin + SLICE * slices;
        // Ten puts in each slice but the twentieth, which is marked.
        for slice in (1..40).filter(|slice| *slice != 20) {
            for _ in 0..10 {
                let due = at(slice) + SLICE / 2;
                timeline.record(due, Duration::from_micros(50));
            }
        }
        let marks = [Mark {
            label: COMPACTION.to_owned(),
            span: Span {
                begin: at(20) + SLICE / 3,
                end: at(20) + SLICE / 2,
            },
        }];
        let cycles = [(at(5), at(35))];
        let windows = Windows::of(&timeline, &marks, COMPACTION, &cycles);
        assert_eq!(windows.rates, [0.0]);
        assert!(windows.tails.is_empty());
        assert_eq!(ratio(&windows.rates).mean, 0.0);
        let none = Windows::of(&timeline, &marks, "gc", &cycles);
        assert!(none.rates.is_empty() && ratio(&none.rates).mean.is_nan());
    }
}
