//! Two servers side by side on one machine.
//!
//! A round runs A, B, B, A: each on a fresh data directory, with the same requests, so that slow drift
//! of the machine falls on both. The two runs of A in a round also make the control: their ratio says
//! what a ratio is worth. Rounds in which others used the machine are repeated.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::{self, Outcome, Pacing, Plan};
use crate::process;
use crate::report;
use crate::server::ServerCommand;
use crate::statistics::{Ratio, bootstrap, geometric_mean, median};
use crate::workload::{KeySpace, Kind, Workload};

/// Connections and streams that fill the key space before the first cell.
const LOAD_CONNECTIONS: usize = 4;
const LOAD_STREAMS: usize = 64;
const LOAD_LIMIT: Duration = Duration::from_secs(300);

/// What is compared of an outcome; smaller is better except for rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Median latency.
    P50,
    /// 99th percentile of the latency.
    P99,
    /// Server processor time per call.
    ServerCpu,
    /// Calls per second.
    Rate,
    /// Resident memory of the server at the end of the cell.
    Memory,
}

impl Metric {
    const ALL: [Self; 5] = [
        Self::P50,
        Self::P99,
        Self::ServerCpu,
        Self::Rate,
        Self::Memory,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::ServerCpu => "server CPU µs/call",
            Self::Rate => "calls/s",
            Self::Memory => "server MiB",
        }
    }

    fn of(self, outcome: &Outcome) -> f64 {
        match self {
            Self::P50 => outcome.latency_micros(50.0),
            Self::P99 => outcome.latency_micros(99.0),
            Self::ServerCpu => outcome.server_micros_per_operation().unwrap_or(f64::NAN),
            Self::Rate => outcome.rate(),
            Self::Memory => outcome
                .server_memory
                .map_or(f64::NAN, |memory| memory.resident_bytes as f64 / 1048576.0),
        }
    }

    /// How many times better B is than A.
    fn advantage(self, a: f64, b: f64) -> f64 {
        if self == Self::Rate { b / a } else { a / b }
    }
}

/// One load shape and what is wanted of it.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// Name in the table.
    pub name: &'static str,
    kind: Kind,
    connections: usize,
    streams: usize,
    goal: Option<(Metric, f64)>,
}

const GET: Kind = Kind::Get {
    serializable: false,
};
const COMPARE_AND_SET: Kind = Kind::CompareAndSet {
    conflicts_percent: 5,
};

/// The cells of a comparison, with the goals of ringd over etcd.
pub const CELLS: [Cell; 8] = [
    cell("put 1×1", Kind::Put, 1, 1, Some((Metric::P50, 2.0))),
    cell("put 64×1", Kind::Put, 64, 1, Some((Metric::ServerCpu, 5.0))),
    cell("put 64×8", Kind::Put, 64, 8, Some((Metric::ServerCpu, 6.0))),
    cell(
        "put 1×512",
        Kind::Put,
        1,
        512,
        Some((Metric::ServerCpu, 6.0)),
    ),
    cell("get 1×1", GET, 1, 1, Some((Metric::P50, 2.0))),
    cell("get 64×1", GET, 64, 1, Some((Metric::ServerCpu, 4.0))),
    cell(
        "cas 64×1",
        COMPARE_AND_SET,
        64,
        1,
        Some((Metric::ServerCpu, 5.0)),
    ),
    cell(
        "cas 64×8",
        COMPARE_AND_SET,
        64,
        8,
        Some((Metric::ServerCpu, 5.0)),
    ),
];

const fn cell(
    name: &'static str,
    kind: Kind,
    connections: usize,
    streams: usize,
    goal: Option<(Metric, f64)>,
) -> Cell {
    Cell {
        name,
        kind,
        connections,
        streams,
        goal,
    }
}

/// A comparison to run.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The yardstick.
    pub a: ServerCommand,
    /// The server that is measured against it.
    pub b: ServerCommand,
    /// Rounds of A, B, B, A.
    pub rounds: usize,
    /// Recorded time of one cell of one run.
    pub duration: Duration,
    /// Time before recording.
    pub warm_up: Duration,
    /// Keys in the key space.
    pub key_count: usize,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Server on processor 0 and client on processor 1, or everything everywhere.
    pub pinned: bool,
    /// A round in which others used more of the machine than this is repeated.
    pub foreign_percent_max: f64,
    /// Cells whose name holds one of these; all if empty.
    pub cells: Vec<String>,
    /// Where the data directories are made.
    pub directory: PathBuf,
    /// Seed of keys and schedules.
    pub seed: u64,
}

/// The outcomes of one round: for each cell the four runs A, B, B, A.
type Round = Vec<[Outcome; 4]>;

/// All rounds of a comparison.
#[derive(Debug)]
pub struct Comparative {
    names: [String; 2],
    cells: Vec<Cell>,
    rounds: Vec<Round>,
    repeated: usize,
    noisy: usize,
}

impl Comparison {
    /// Runs all rounds, telling `progress` what is under way.
    ///
    /// # Errors
    /// A server does not start, or a connection is lost.
    pub fn run(&self, mut progress: impl FnMut(&str)) -> io::Result<Comparative> {
        let cells: Vec<Cell> = CELLS
            .into_iter()
            .filter(|cell| {
                self.cells.is_empty() || self.cells.iter().any(|part| cell.name.contains(part))
            })
            .collect();
        if cells.is_empty() {
            let text = format!("no cell is named like {:?}", self.cells);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if self.pinned {
            process::bind(1)?;
        }
        let mut result = Comparative {
            names: [self.a.name(), self.b.name()],
            cells,
            rounds: Vec::new(),
            repeated: 0,
            noisy: 0,
        };
        while result.rounds.len() < self.rounds {
            let number = result.rounds.len() + 1;
            let round = self.round(number, &result.cells, &mut progress)?;
            let foreign = round
                .iter()
                .flatten()
                .map(report::foreign_percent)
                .fold(0.0, f64::max);
            if foreign > self.foreign_percent_max {
                progress(&format!(
                    "round {number}: others used {foreign:.1} % of the machine"
                ));
                if result.repeated < self.rounds {
                    result.repeated += 1;
                    continue;
                }
                result.noisy += 1;
            }
            result.rounds.push(round);
        }
        Ok(result)
    }

    fn round(
        &self,
        number: usize,
        cells: &[Cell],
        progress: &mut impl FnMut(&str),
    ) -> io::Result<Round> {
        let mut runs = Vec::with_capacity(4);
        for (position, command) in [&self.a, &self.b, &self.b, &self.a].into_iter().enumerate() {
            progress(&format!(
                "round {number} of {}, run {} of 4: {}",
                self.rounds,
                position + 1,
                command.name()
            ));
            runs.push(self.one_server(command, cells)?);
        }
        let mut runs = runs.into_iter();
        let mut next = || runs.next().unwrap_or_default().into_iter();
        let (first, second, third, fourth) = (next(), next(), next(), next());
        Ok(first
            .zip(second)
            .zip(third)
            .zip(fourth)
            .map(|(((first, second), third), fourth)| [first, second, third, fourth])
            .collect())
    }

    /// All cells, one after the other, on one fresh server.
    fn one_server(&self, command: &ServerCommand, cells: &[Cell]) -> io::Result<Vec<Outcome>> {
        let processor = self.pinned.then_some(0);
        let mut server = command.start(&self.directory, processor)?;
        server.wait_until_ready()?;
        let plan = |connections, streams| Plan {
            address: server.address().clone(),
            connections,
            streams,
            warm_up: self.warm_up,
            duration: self.duration,
            pacing: Pacing::Closed,
            spin: self.pinned,
            server_pid: Some(server.pid()),
            seed: self.seed,
        };
        let mut keys = KeySpace::new(self.key_count, self.value_bytes, self.seed);
        fill(plan(LOAD_CONNECTIONS, LOAD_STREAMS), &mut keys)?;
        let outcomes = cells
            .iter()
            .map(|cell| {
                let plan = plan(cell.connections, cell.streams);
                let mut workload = Workload::new(cell.kind, &mut keys, plan.slots(), self.seed);
                let outcome = load::run(&plan, &mut workload)?;
                refuse_failures(command, cell.name, &outcome)?;
                Ok(outcome)
            })
            .collect::<io::Result<Vec<Outcome>>>()?;
        server.stop()?;
        Ok(outcomes)
    }
}

/// Puts every key once.
///
/// # Errors
/// The connection is lost or a put fails.
pub fn fill(plan: Plan, keys: &mut KeySpace) -> io::Result<()> {
    let plan = Plan {
        warm_up: Duration::ZERO,
        duration: LOAD_LIMIT,
        pacing: Pacing::Closed,
        ..plan
    };
    let mut workload = Workload::new(Kind::Load, keys, plan.slots(), plan.seed);
    let outcome = load::run(&plan, &mut workload)?;
    match outcome.failures.iter().next() {
        None => Ok(()),
        Some(((code, message), _)) => Err(io::Error::other(format!(
            "filling the key space failed with code {code}: {message}"
        ))),
    }
}

/// A ratio over failed calls would be worthless.
fn refuse_failures(command: &ServerCommand, cell: &str, outcome: &Outcome) -> io::Result<()> {
    match outcome.failures.iter().next() {
        None if outcome.operations > 0 => Ok(()),
        None => Err(io::Error::other(format!(
            "{} answered no call of {cell}",
            command.name()
        ))),
        Some(((code, message), count)) => Err(io::Error::other(format!(
            "{} failed {count} calls of {cell} with code {code}: {message}",
            command.name()
        ))),
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
struct Row {
    cell: &'static str,
    metric: Metric,
    a: f64,
    b: f64,
    ratio: Ratio,
    control: Ratio,
    goal: Option<f64>,
}

impl Comparative {
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (index, cell) in self.cells.iter().enumerate() {
            for metric in Metric::ALL {
                let runs: Vec<[f64; 4]> = self
                    .rounds
                    .iter()
                    .map(|round| round[index].each_ref().map(|outcome| metric.of(outcome)))
                    .collect();
                let samples = |positions: [usize; 2]| -> Vec<f64> {
                    runs.iter()
                        .flat_map(|run| positions.map(|position| run[position]))
                        .collect()
                };
                let ratios: Vec<f64> = runs
                    .iter()
                    .map(|[a, b, c, d]| {
                        metric.advantage(geometric_mean(&[*a, *d]), geometric_mean(&[*b, *c]))
                    })
                    .collect();
                let controls: Vec<f64> = runs
                    .iter()
                    .map(|run| metric.advantage(run[0], run[3]))
                    .collect();
                rows.push(Row {
                    cell: cell.name,
                    metric,
                    a: median(&samples([0, 3])),
                    b: median(&samples([1, 2])),
                    ratio: bootstrap(&ratios),
                    control: bootstrap(&controls),
                    goal: cell
                        .goal
                        .filter(|(goal, _)| *goal == metric)
                        .map(|(_, goal)| goal),
                });
            }
        }
        rows
    }

    /// Whether every goal is met by the mean ratio.
    pub fn meets_goals(&self) -> bool {
        self.rows()
            .iter()
            .all(|row| row.goal.is_none_or(|goal| row.ratio.mean >= goal))
    }

    /// The tables: first the rows with goals, then everything.
    pub fn text(&self) -> String {
        let [a, b] = &self.names;
        let heading = format!(
            "| load (connections × streams) | measure | A: {a} | B: {b} | B better, times (95 %) | A/A control | goal |\n\
             |---|---|---|---|---|---|---|\n"
        );
        let rows = self.rows();
        let line = |row: &Row| {
            let goal = match row.goal {
                None => String::new(),
                Some(goal) if row.ratio.mean >= goal => format!("≥ {goal} met"),
                Some(goal) => format!("≥ {goal} **missed**"),
            };
            format!(
                "| {} | {} | {:.1} | {:.1} | {} | {} | {goal} |\n",
                row.cell,
                row.metric.name(),
                row.a,
                row.b,
                interval(row.ratio),
                interval(row.control),
            )
        };
        let goals: String = rows
            .iter()
            .filter(|row| row.goal.is_some())
            .map(line)
            .collect();
        let others: String = rows
            .iter()
            .filter(|row| row.goal.is_none())
            .map(line)
            .collect();
        format!(
            "{} rounds of A, B, B, A; {} repeated and {} kept although others used the machine.\n\n\
             {heading}{goals}\nEverything else:\n\n{heading}{others}",
            self.rounds.len(),
            self.repeated,
            self.noisy,
        )
    }

    /// The same as JSON, with every single outcome.
    pub fn json(&self) -> Value {
        let ratio =
            |ratio: Ratio| json!({"mean": ratio.mean, "low": ratio.low, "high": ratio.high});
        let rows: Vec<Value> = self
            .rows()
            .iter()
            .map(|row| {
                json!({
                    "cell": row.cell, "metric": row.metric.name(), "a": row.a, "b": row.b,
                    "advantage": ratio(row.ratio), "control": ratio(row.control), "goal": row.goal,
                })
            })
            .collect();
        let runs: Vec<Value> = self
            .rounds
            .iter()
            .map(|round| self.json_of(round))
            .collect();
        json!({
            "a": self.names[0], "b": self.names[1], "rows": rows, "rounds": runs,
            "rounds_repeated": self.repeated, "rounds_noisy": self.noisy,
        })
    }

    fn json_of(&self, round: &Round) -> Value {
        round
            .iter()
            .zip(&self.cells)
            .map(|(runs, cell)| {
                let runs: Vec<Value> = runs
                    .iter()
                    .map(|outcome| {
                        json!({
                            "p50": Metric::P50.of(outcome), "p99": Metric::P99.of(outcome),
                            "server_cpu": Metric::ServerCpu.of(outcome), "rate": Metric::Rate.of(outcome),
                            "resident_bytes": outcome.server_memory.map(|memory| memory.resident_bytes),
                            "foreign_percent": report::foreign_percent(outcome),
                        })
                    })
                    .collect();
                json!({"cell": cell.name, "a_b_b_a": runs})
            })
            .collect()
    }
}

fn interval(ratio: Ratio) -> String {
    format!("{:.2} ({:.2}–{:.2})", ratio.mean, ratio.low, ratio.high)
}
