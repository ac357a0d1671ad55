//! The result of a scenario: named figures of one or two servers in one table.

use std::io;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::process;
use crate::server::{Server, ServerCommand, Surroundings};
use crate::statistics::median;

/// What is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The lower figure.
    Lower,
    /// The higher figure.
    Higher,
    /// Neither: the figure describes the run.
    Neither,
}

/// What is wanted of server B.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// B's own figure.
    AtMost(f64),
    /// B's own figure.
    AtLeast(f64),
    /// How many times better than A it is.
    Times(f64),
}

/// One figure of one server.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
    better: Better,
    goal: Option<Goal>,
}

/// The figures of one run, in the order of the table; a repeated name is an error of the scenario.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Figures {
    /// Adds a figure; not a number is shown as missing.
    pub fn add(&mut self, name: &str, unit: &'static str, value: f64, better: Better) {
        assert!(
            self.figures.iter().all(|figure| figure.name != name),
            "{name} is measured twice"
        );
        self.figures.push(Figure {
            name: name.to_owned(),
            unit,
            value,
            better,
            goal: None,
        });
    }

    /// Adds a figure of which something is wanted.
    pub fn add_with_goal(
        &mut self,
        name: &str,
        unit: &'static str,
        value: f64,
        better: Better,
        goal: Goal,
    ) {
        self.add(name, unit, value, better);
        self.want(name, goal);
    }

    /// Sets what is wanted of a figure that was added.
    pub fn want(&mut self, name: &str, goal: Goal) {
        let figure = self.figures.iter_mut().find(|figure| figure.name == name);
        figure.expect("the figure was added before").goal = Some(goal);
    }

    /// Adds a sentence that is printed below the table.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn value(&self, name: &str) -> f64 {
        let figure = self.figures.iter().find(|figure| figure.name == name);
        figure.map_or(f64::NAN, |figure| figure.value)
    }
}

/// The servers of a scenario and how they are started.
#[derive(Args, Debug, Clone)]
pub struct Sides {
    /// Command of the server that is measured.
    #[arg(long)]
    pub b: String,
    /// Command of the yardstick, measured in the same way and shown beside it.
    #[arg(long)]
    pub a: Option<String>,
    /// Rounds; the order changes from round to round, medians are shown.
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// Bind nothing: the server uses all processors, beside the client.
    #[arg(long)]
    pub no_pin: bool,
    /// Where the data directories are made: the disk that is measured.
    #[arg(long, default_value = "target/bench")]
    pub directory: PathBuf,
    /// Size at which a store refuses writes, given to both servers unless their command has it.
    #[arg(long, default_value_t = 100 << 30)]
    pub quota_bytes: u64,
    /// Seed of keys, values and schedules.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print JSON instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// One server of a scenario before its start.
#[derive(Debug, Clone)]
pub struct Launch {
    command: ServerCommand,
    directory: PathBuf,
    /// What it is given beside its command.
    pub surroundings: Surroundings,
}

impl Launch {
    /// Starts it on an empty directory and waits until it serves.
    ///
    /// # Errors
    /// It does not start or does not answer.
    pub fn start(&self) -> io::Result<Server> {
        let mut server = self.command.start_in(&self.directory, &self.surroundings)?;
        server.wait_until_ready()?;
        Ok(server)
    }

    /// The program's name.
    pub fn name(&self) -> String {
        self.command.name()
    }
}

/// What all runs of a scenario have shown.
#[derive(Debug)]
pub struct Table {
    title: String,
    /// The yardstick, if there is one, then the measured server.
    sides: Vec<(String, Vec<Figures>)>,
}

impl Sides {
    /// Measures each server in each round; `title` heads the table.
    ///
    /// # Errors
    /// Whatever `measure` returns, with the server's name.
    pub fn run(
        &self,
        title: impl Into<String>,
        mut measure: impl FnMut(&Launch) -> io::Result<Figures>,
    ) -> io::Result<Table> {
        std::fs::create_dir_all(&self.directory)?;
        if !self.no_pin {
            process::bind(1)?;
        }
        let launches: Vec<Launch> = self
            .a
            .iter()
            .chain([&self.b])
            .map(|command| Launch {
                command: ServerCommand::new(command),
                directory: self.directory.clone(),
                surroundings: Surroundings {
                    processor: (!self.no_pin).then_some(0),
                    memory_limit: None,
                    quota_bytes: Some(self.quota_bytes),
                },
            })
            .collect();
        let mut sides: Vec<(String, Vec<Figures>)> = launches
            .iter()
            .map(|launch| (launch.name(), Vec::new()))
            .collect();
        for round in 0..self.rounds.max(1) {
            let mut order: Vec<usize> = (0..launches.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let launch = &launches[index];
                eprintln!("round {}: {}", round + 1, launch.name());
                let figures = measure(launch).map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", launch.name()))
                })?;
                sides[index].1.push(figures);
            }
        }
        Ok(Table {
            title: title.into(),
            sides,
        })
    }

    /// Prints a table in the form that was asked for.
    pub fn print(&self, table: &Table) {
        if self.json {
            println!("{:#}", table.json());
        } else {
            println!("{}", table.text());
        }
    }
}

impl Table {
    fn middle(&self, side: usize, name: &str) -> f64 {
        let runs = &self.sides[side].1;
        let values: Vec<f64> = runs
            .iter()
            .map(|figures| figures.value(name))
            .filter(|value| !value.is_nan())
            .collect();
        median(&values)
    }

    /// The figures in the order of the measured server, then those that only the yardstick has.
    fn names(&self) -> Vec<&Figure> {
        let mut all: Vec<&Figure> = Vec::new();
        for figures in self.sides.iter().rev().flat_map(|(_, runs)| runs) {
            for figure in &figures.figures {
                if all.iter().all(|known| known.name != figure.name) {
                    all.push(figure);
                }
            }
        }
        all
    }

    /// A and B of one figure, and how many times better B is; not numbers where they are missing.
    fn row(&self, figure: &Figure) -> (f64, f64, f64) {
        let b = self.middle(self.sides.len() - 1, &figure.name);
        if self.sides.len() == 1 {
            return (f64::NAN, b, f64::NAN);
        }
        let a = self.middle(0, &figure.name);
        let times = match figure.better {
            Better::Lower => a / b,
            Better::Higher => b / a,
            Better::Neither => f64::NAN,
        };
        (a, b, times)
    }

    /// The table for people.
    pub fn text(&self) -> String {
        let both = self.sides.len() == 2;
        let mut text = format!("{}\n\n| measure | unit |", self.title);
        for (name, _) in &self.sides {
            text += &format!(" {name} |");
        }
        text += if both {
            " B better, times | goal |\n"
        } else {
            " goal |\n"
        };
        text += "|---|---|---|";
        text += if both { "---|---|---|\n" } else { "---|\n" };
        for figure in self.names() {
            let (a, b, times) = self.row(figure);
            text += &format!("| {} | {} |", figure.name, figure.unit);
            if both {
                text += &format!(" {} | {} | {} |", number(a), number(b), number(times));
            } else {
                text += &format!(" {} |", number(b));
            }
            text += &format!(" {} |\n", verdict(figure.goal, b, times));
        }
        for (name, runs) in &self.sides {
            let mut notes: Vec<&String> = runs.iter().flat_map(|run| &run.notes).collect();
            notes.dedup();
            for note in notes {
                text += &format!("\n{name}: {note}");
            }
        }
        text
    }

    /// The same as JSON, with every single figure.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .names()
            .into_iter()
            .map(|figure| {
                let (a, b, times) = self.row(figure);
                let runs: Vec<Vec<f64>> = self
                    .sides
                    .iter()
                    .map(|(_, runs)| runs.iter().map(|run| run.value(&figure.name)).collect())
                    .collect();
                json!({
                    "measure": figure.name, "unit": figure.unit, "a": a, "b": b, "times": times,
                    "goal": verdict(figure.goal, b, times), "runs": runs,
                })
            })
            .collect();
        let notes: Vec<Value> = self
            .sides
            .iter()
            .map(|(name, runs)| {
                let notes: Vec<&String> = runs.iter().flat_map(|run| &run.notes).collect();
                json!({"server": name, "notes": notes})
            })
            .collect();
        json!({"title": self.title, "rows": rows, "servers": notes})
    }
}

fn verdict(goal: Option<Goal>, value: f64, times: f64) -> String {
    let (sign, bound, measured, unit, met) = match goal {
        None => return String::new(),
        Some(Goal::AtMost(bound)) => ("≤", bound, value, "", value <= bound),
        Some(Goal::AtLeast(bound)) => ("≥", bound, value, "", value >= bound),
        Some(Goal::Times(bound)) => ("≥", bound, times, " times", times >= bound),
    };
    let word = match met {
        _ if measured.is_nan() => "not measured",
        true => "met",
        false => "**missed**",
    };
    format!("{sign} {bound}{unit}: {word}")
}

fn number(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() {
        "–".to_owned()
    } else if magnitude >= 1000.0 || magnitude == 0.0 {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(read: f64, rate: f64) -> Figures {
        let mut figures = Figures::default();
        figures.add_with_goal("read", "µs", read, Better::Lower, Goal::Times(2.0));
        figures.add_with_goal("rate", "1/s", rate, Better::Higher, Goal::AtLeast(50.0));
        figures
    }

    #[test]
    fn two_servers_stand_side_by_side() {
        let mut only_yardstick = figures(300.0, 10.0);
        only_yardstick.add("pauses", "", 4.0, Better::Neither);
        only_yardstick.note("ran without the limit");
        let table = Table {
            title: "reads".to_owned(),
            sides: vec![
                ("etcd".to_owned(), vec![only_yardstick]),
                (
                    "ringd".to_owned(),
                    vec![
                        figures(90.0, 20.0),
                        figures(100.0, 40.0),
                        figures(110.0, 60.0),
                    ],
                ),
            ],
        };
        let text = table.text();
        assert!(
            text.contains("| read | µs | 300.0 | 100.0 | 3.000 | ≥ 2 times: met |"),
            "{text}"
        );
        assert!(
            text.contains("| rate | 1/s | 10.0 | 40.0 | 4.000 | ≥ 50: **missed** |"),
            "{text}"
        );
        assert!(text.contains("| pauses |  | 4.000 | – | – |  |"), "{text}");
        assert!(text.ends_with("etcd: ran without the limit"), "{text}");
    }

    #[test]
    fn a_ratio_without_yardstick_is_not_measured() {
        let table = Table {
            title: "reads".to_owned(),
            sides: vec![("ringd".to_owned(), vec![figures(90.0, 60.0)])],
        };
        let text = table.text();
        assert!(
            text.contains("| read | µs | 90.0 | ≥ 2 times: not measured |"),
            "{text}"
        );
        assert!(text.contains("| rate | 1/s | 60.0 | ≥ 50: met |"), "{text}");
    }
}
