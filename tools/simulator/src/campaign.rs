//! Many seeds, over the cores of the machine, and what they add up to.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use reactor::sim::Coverage;

use crate::met::Met;
use crate::plan::{Length, Plan};
use crate::run::{Report, run};

/// One seed in this many is run twice.
pub const TWICE_EVERY: u64 = 100;

/// Which seeds, and how.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// First seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// Threads; each runs one simulation at a time.
    pub threads: usize,
    /// How long each run is.
    pub length: Length,
}

/// What a campaign adds up to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds run.
    pub seeds: u64,
    /// Seeds whose clients spoke gRPC.
    pub wire_seeds: u64,
    /// Seeds run twice.
    pub twice: u64,
    /// Operations.
    pub operations: u64,
    /// Operations answered.
    pub answered: u64,
    /// Operations of unknown outcome.
    pub unknown: u64,
    /// Of those, writes that had happened.
    pub unknown_happened: u64,
    /// Crashes.
    pub crashes: u64,
    /// Crashes before the member served again.
    pub crashes_in_recovery: u64,
    /// Fewest operations of a seed.
    pub operations_least: u64,
    /// Fewest crashes of a seed.
    pub crashes_least: u64,
    /// Events shown to watchers.
    pub events: u64,
    /// Leases whose end was checked.
    pub leases: u64,
    /// Log entries.
    pub entries: u64,
    /// Faults.
    pub coverage: Coverage,
    /// What the stores went through.
    pub met: Met,
    /// Sum over the fingerprints of all seeds.
    pub hash: u64,
    /// (seed, what).
    pub violations: Vec<(u64, String)>,
    /// Real seconds.
    pub seconds: f64,
}

/// Runs a campaign; `progress` hears of each seed.
pub fn run_campaign(campaign: Campaign, progress: impl Fn(&Report) + Sync) -> Summary {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let summary = Mutex::new(Summary {
        operations_least: u64::MAX,
        crashes_least: u64::MAX,
        ..Summary::default()
    });
    std::thread::scope(|scope| {
        for _ in 0..campaign.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= campaign.seeds {
                        return;
                    }
                    let plan = Plan::new(campaign.from + number, campaign.length);
                    let report = run(&plan);
                    let again = number.is_multiple_of(TWICE_EVERY).then(|| run(&plan).hash);
                    progress(&report);
                    let mut summary = summary.lock().expect("no thread panics with it");
                    summary.add(report, again, plan.wire);
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("no thread panics with it");
    summary.seconds = started.elapsed().as_secs_f64();
    summary.violations.sort();
    summary
}

impl Summary {
    fn add(&mut self, report: Report, again: Option<u64>, wire: bool) {
        self.seeds += 1;
        self.wire_seeds += u64::from(wire);
        self.operations += report.operations;
        self.answered += report.answered;
        self.unknown += report.unknown;
        self.unknown_happened += report.unknown_happened;
        self.crashes += report.crashes;
        self.crashes_in_recovery += report.crashes_in_recovery;
        self.operations_least = self.operations_least.min(report.operations);
        self.crashes_least = self.crashes_least.min(report.crashes);
        self.events += report.events;
        self.leases += report.leases;
        self.entries += report.entries;
        self.coverage.merge(&report.coverage);
        self.met.merge(&report.met);
        // A sum does not depend on which thread was faster.
        self.hash = self.hash.wrapping_add(report.hash);
        let seed = report.seed;
        self.violations
            .extend(report.violations.into_iter().map(|what| (seed, what)));
        if let Some(again) = again {
            self.twice += 1;
            if again != report.hash {
                let hash = report.hash;
                let what = format!("two runs differ: {hash:016x} and {again:016x}");
                self.violations.push((seed, what));
            }
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "faults that took effect:\n{}", self.coverage)?;
        writeln!(f, "stores went through:\n{}", self.met)?;
        writeln!(
            f,
            "{} seeds ({} over gRPC, {} run twice), {} operations (≥ {} a seed), {} answered, {} unknown of which \
             {} had happened",
            self.seeds,
            self.wire_seeds,
            self.twice,
            self.operations,
            self.operations_least,
            self.answered,
            self.unknown,
            self.unknown_happened
        )?;
        writeln!(
            f,
            "{} crashes (≥ {} a seed), {} of them before the member served again; {} log entries, {} events, \
             {} leases ended",
            self.crashes,
            self.crashes_least,
            self.crashes_in_recovery,
            self.entries,
            self.events,
            self.leases
        )?;
        write!(
            f,
            "hash {:016x}, {:.1} s, {} violations",
            self.hash,
            self.seconds,
            self.violations.len()
        )
    }
}
