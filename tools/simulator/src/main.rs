//! Runs simulated members from many seeds, and the sweep of storage faults.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use simulator::campaign::{Campaign, run_campaign};
use simulator::plan::{Length, Plan};
use simulator::run::run;
use simulator::sweep::{BASE_KINDS, Base, DAMAGES, sweep};

/// The real server on simulated hardware.
#[derive(Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run one seed and print all about it.
    #[arg(long)]
    trace: Option<u64>,
    /// Sweep storage faults over three small data directories instead.
    #[arg(long)]
    sweep: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.trace {
        return trace(seed);
    }
    if arguments.sweep {
        return sweep_all(arguments.threads);
    }
    let campaign = Campaign {
        from: arguments.from,
        seeds: arguments.seeds,
        threads: arguments.threads,
        length: Length::FULL,
    };
    let summary = run_campaign(campaign, |report| {
        for what in &report.violations {
            println!("seed {}: {what}", report.seed);
        }
    });
    println!("{summary}");
    for (seed, _) in summary.violations.iter().take(1) {
        println!("repeat: cargo run --release -p simulator -- --trace {seed}");
    }
    exit(summary.violations.is_empty())
}

fn trace(seed: u64) -> ExitCode {
    let plan = Plan::new(seed, Length::FULL);
    println!("{plan:#?}");
    let report = run(&plan);
    println!("{}", report.coverage);
    println!("{}", report.last_lines.join("\n"));
    println!("{:#?}", report.violations);
    println!(
        "{} operations, {} crashes, {} entries, {} events, hash {:016x}",
        report.operations, report.crashes, report.entries, report.events, report.hash
    );
    exit(report.violations.is_empty())
}

fn sweep_all(threads: usize) -> ExitCode {
    let mut wrong = 0;
    for kind in BASE_KINDS {
        let base = Base::make(kind);
        println!("{kind:?}: {} KiB", base.bytes() >> 10);
        for damage in DAMAGES {
            let started = Instant::now();
            let counts = sweep(&base, damage, threads, 1);
            println!(
                "  {damage:?}: {counts}, {:.1} s",
                started.elapsed().as_secs_f64()
            );
            for what in counts.wrong.iter().take(10) {
                println!("    {what}");
            }
            wrong += counts.wrong.len();
        }
    }
    exit(wrong == 0)
}

fn exit(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
