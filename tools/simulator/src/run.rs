//! One run: the lives of a member from one seed, and the judgement over them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use engine::command::Command;
use engine::testing::Workload;
use reactor::sim::{
    Coverage, Crash, CrashPoint, DiskFault, DiskImage, DiskOperation, FaultKind, HostId,
    PlannedFault, Random, Simulation, Step,
};
use ringd::cores::seats;

use crate::checker;
use crate::clients::ClientState;
use crate::history::{History, Outcome};
use crate::member::{Phase, Shared, run_further_core, run_member};
use crate::met::Met;
use crate::plan::{DATA_DIR, End, Plan, Scarce, Shortage};
use crate::truth::{self, LogEntry};
use crate::watchers::WatcherState;
use crate::wire;

/// Simulated time without any progress after which a life counts as stuck.
const STUCK_AFTER: u64 = 120_000_000_000;
/// Steps without any progress after which a life counts as stuck, should time stand still.
const STUCK_STEPS: u64 = 400_000;
const EIO: i32 = 5;
const EMFILE: i32 = 24;

/// What one run showed.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Operations asked for.
    pub operations: u64,
    /// Operations answered.
    pub answered: u64,
    /// Writes whose outcome nobody knew.
    pub unknown: u64,
    /// Of those, writes that had happened.
    pub unknown_happened: u64,
    /// Crashes: kills, power cuts and deaths by a failed disk.
    pub crashes: u64,
    /// Crashes before the member served again.
    pub crashes_in_recovery: u64,
    /// Log entries at the end.
    pub entries: u64,
    /// Events shown to watchers.
    pub events: u64,
    /// Leases whose end was checked.
    pub leases: u64,
    /// Faults that took effect.
    pub coverage: Coverage,
    /// What the store went through.
    pub met: Met,
    /// Fingerprint of the whole run.
    pub hash: u64,
    /// The last lines of the member's log.
    pub last_lines: Vec<String>,
    /// What was wrong.
    pub violations: Vec<String>,
}

/// Runs a plan to its end and judges it.
pub fn run(plan: &Plan) -> Report {
    Run::new(plan).run()
}

/// How a life ended.
enum Ended {
    Crashed,
    Planned,
    Failed,
    Stopped,
    Stuck,
}

struct Run {
    simulation: Simulation,
    host: HostId,
    clients_host: HostId,
    shared: Rc<Shared>,
    random: Random,
    crashes: u64,
    crashes_in_recovery: u64,
    /// The entries that checkpoints cover, by index: the log drops them.
    covered: BTreeMap<u64, LogEntry>,
    met: Met,
    shortage: Scarcity,
}

/// Where the shortage of a life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scarcity {
    /// The plan has none, or it is over.
    Over,
    /// Until this many operations were asked for.
    After(usize),
    /// Until this moment.
    Until(u64),
}

impl Run {
    fn new(plan: &Plan) -> Run {
        let mut simulation = Simulation::new(plan.seed, plan.simulation.clone());
        let host = simulation.add_host("member");
        let clients_host = simulation.add_host("clients");
        let mut random = simulation.fork_random();
        let mut client = || ClientState {
            workload: Workload::new(random.next_u64(), plan.keys).with_long_keys(plan.key_bytes),
            random: random.fork(),
        };
        let clients = (0..plan.clients + plan.lease_keepers)
            .map(|_| client())
            .collect();
        let mut watcher = || WatcherState {
            workload: Workload::new(random.next_u64(), plan.keys).with_long_keys(plan.key_bytes),
            random: random.fork(),
            live: Vec::new(),
        };
        let watchers = (0..plan.watchers).map(|_| watcher()).collect();
        let shared = Rc::new(Shared {
            plan: plan.clone(),
            history: RefCell::new(History::new()),
            phase: Cell::new(Phase::Opening),
            heard: RefCell::default(),
            failure: RefCell::default(),
            operations: Cell::new(0),
            operations_limit: Cell::new(0),
            busy: Cell::new(0),
            clock_offset: Cell::new(0),
            clients: RefCell::new(clients),
            watchers: RefCell::new(watchers),
            next_lease: Cell::new(1_000),
            next_nonce: Cell::new(1),
        });
        Run {
            simulation,
            host,
            clients_host,
            shared,
            random,
            crashes: 0,
            crashes_in_recovery: 0,
            covered: BTreeMap::new(),
            met: Met::default(),
            shortage: Scarcity::Over,
        }
    }

    fn run(mut self) -> Report {
        for end in self.shared.plan.ends.clone() {
            self.live(end);
            // What follows a loss says nothing new.
            if !self.shared.history.borrow().violations.is_empty() {
                return self.judge();
            }
        }
        // Planned faults do not always find their operation.
        while self.crashes < self.shared.plan.crashes as u64 {
            let steps = self.random.below(300);
            self.live(End::Load {
                operations: 100,
                steps,
                crash: Crash::PowerCut,
            });
            if !self.shared.history.borrow().violations.is_empty() {
                return self.judge();
            }
        }
        // The last life does what is left, is drained and stopped.
        let left = self
            .shared
            .plan
            .operations
            .saturating_sub(self.shared.operations.get());
        let mut attempts = 0;
        while !self.live(End::Stop {
            operations: left.max(20),
        }) {
            attempts += 1;
            if attempts == 5 {
                let failure = self.shared.failure.borrow().clone().unwrap_or_default();
                self.violation(format!(
                    "the last life does not come to a clean stop: {failure}"
                ));
                break;
            }
        }
        self.judge()
    }

    fn violation(&self, what: String) {
        self.shared.history.borrow_mut().violation(what);
    }

    /// One life; true if it ended with a clean stop.
    fn live(&mut self, end: End) -> bool {
        self.begin_life();
        self.plan_end(end);
        let errors_before = self.disk_errors();
        let shared = self.shared.clone();
        let plan = &shared.plan;
        let mut seats = seats(plan.cores, plan.link_capacity).into_iter();
        let home = seats.next().expect("a member has a core");
        let shared = self.shared.clone();
        self.simulation.start_core(self.host, |world| {
            let offset = shared.clock_offset.get() - world.now().nanos() as i64;
            shared.clock_offset.set(offset);
            run_member(world, home, shared)
        });
        for seat in seats {
            let shared = self.shared.clone();
            self.simulation
                .start_core(self.host, |world| run_further_core(world, seat, shared));
        }
        if self.shared.plan.wire {
            let shared = self.shared.clone();
            let clients = self.clients_host;
            self.simulation
                .start_core(clients, |world| wire::run_clients(world, shared));
        }
        let heard = self.heard();
        let ended = self.run_life(end);
        self.end_shortage();
        self.met
            .life(&heard, &self.heard(), matches!(ended, Ended::Stopped));
        let was_serving = self.shared.phase.get() != Phase::Opening;
        if matches!(ended, Ended::Stuck) {
            let waits = self.shared.history.borrow().unanswered();
            self.violation(format!(
                "no progress in phase {:?} until step {}, {} tasks busy: {waits}",
                self.shared.phase.get(),
                self.simulation.steps(),
                self.shared.busy.get(),
            ));
        }
        if matches!(ended, Ended::Failed) && self.disk_errors() == errors_before {
            let failure = self.shared.failure.borrow().clone().unwrap_or_default();
            self.violation(format!(
                "the member failed on a disk without faults: {failure}"
            ));
        }
        self.end_process(end, &ended);
        if !matches!(ended, Ended::Stopped) {
            self.crashes += 1;
            self.crashes_in_recovery += u64::from(!was_serving);
        }
        matches!(ended, Ended::Stopped)
    }

    fn begin_life(&mut self) {
        let mut history = self.shared.history.borrow_mut();
        history.life += 1;
        self.shared.phase.set(Phase::Opening);
        self.shared.busy.set(0);
        *self.shared.failure.borrow_mut() = None;
        self.shared.clock_offset.set(self.simulation.now() as i64);
    }

    fn plan_end(&mut self, end: End) {
        let asked = self.shared.operations.get();
        let operations = match end {
            End::Load { operations, .. } => operations * 2,
            End::Idle { operations, .. } | End::Stop { operations } => operations,
            // Until the crash or the fault comes, but not for ever.
            End::Submission { .. } | End::Fault { .. } => 600,
        };
        self.shared.operations_limit.set(asked + operations);
        self.shortage = match self.shared.plan.shortage {
            // The end of a shortage takes planned faults back.
            Some(shortage) if !matches!(end, End::Fault { .. }) => {
                Scarcity::After(asked + shortage.after)
            }
            _ => Scarcity::Over,
        };
        match end {
            End::Submission {
                after,
                at_completion,
                crash,
            } => {
                let point = if at_completion {
                    let completed = self.simulation.operations_completed(self.host);
                    CrashPoint::Completion(completed + after + 1)
                } else {
                    let submitted = self.simulation.operations_submitted(self.host);
                    CrashPoint::Submission(submitted + after + 1)
                };
                self.simulation.plan_crash(self.host, point, crash);
            }
            End::Fault {
                operation, after, ..
            } => {
                let fault = PlannedFault {
                    operation,
                    path_contains: String::new(),
                    after,
                    repeat: false,
                    fault: DiskFault::Error(EIO),
                };
                self.simulation.plan_fault(self.host, fault);
            }
            End::Load { .. } | End::Idle { .. } | End::Stop { .. } => {}
        }
    }

    /// Lets time pass until the life is over or its process is to be ended.
    fn run_life(&mut self, end: End) -> Ended {
        let operations_before = self.shared.operations.get();
        let mut steps_left = None;
        let mut progress = (0, Phase::Opening);
        let mut progress_at = (self.simulation.now(), self.simulation.steps());
        let mut quiet_until = None;
        loop {
            match self.simulation.step() {
                Step::Crashed(_) => return Ended::Crashed,
                Step::Idle => return Ended::Stuck,
                Step::Ran(_) | Step::Happened => {}
            }
            let frozen = self.shared.heard.borrow_mut().frozen.take();
            if let Some(index) = frozen {
                self.collect_covered(index);
            }
            let now = self.simulation.now();
            let phase = self.shared.phase.get();
            let asked = self.shared.operations.get();
            if progress != (asked, phase) {
                (progress, progress_at) = ((asked, phase), (now, self.simulation.steps()));
            } else if now - progress_at.0 > STUCK_AFTER
                || self.simulation.steps() - progress_at.1 > STUCK_STEPS
            {
                return Ended::Stuck;
            }
            self.move_shortage(phase, asked);
            match phase {
                Phase::Failed => return Ended::Failed,
                Phase::Stopped => return Ended::Stopped,
                Phase::Serving | Phase::Quiet => {}
                Phase::Opening | Phase::Stopping => continue,
            }
            if let End::Load {
                operations, steps, ..
            } = end
                && asked - operations_before >= operations
            {
                let left = steps_left.get_or_insert(steps);
                if *left == 0 {
                    return Ended::Planned;
                }
                *left -= 1;
            }
            if phase == Phase::Serving && asked >= self.shared.operations_limit.get() {
                self.shared.phase.set(Phase::Quiet);
            }
            if phase == Phase::Quiet && self.shared.busy.get() == 0 {
                match end {
                    // Long enough for a beacon.
                    End::Idle { .. } => {
                        let until = *quiet_until.get_or_insert(now + 60_000_000);
                        if now >= until {
                            return Ended::Planned;
                        }
                    }
                    _ => self.shared.phase.set(Phase::Stopping),
                }
            }
        }
    }

    fn end_process(&mut self, end: End, ended: &Ended) {
        self.simulation.clear_planned_faults(self.host);
        let crash = match (ended, end) {
            (Ended::Crashed, _) => None,
            (Ended::Planned, End::Load { crash, .. } | End::Idle { crash, .. }) => Some(crash),
            // What a failed sync covered is visible and will never be durable. A process that is
            // started again on it cannot know; only the loss of power tells.
            (
                Ended::Failed,
                End::Fault {
                    operation,
                    power_cut,
                    ..
                },
            ) if power_cut
                || matches!(
                    operation,
                    DiskOperation::Sync | DiskOperation::SyncDirectory
                ) =>
            {
                Some(Crash::PowerCut)
            }
            _ => Some(Crash::Kill),
        };
        if let Some(crash) = crash {
            self.simulation.crash(self.host, crash);
        }
        self.simulation.crash(self.clients_host, Crash::Kill);
        if !self.simulation.is_up(self.host) {
            self.simulation.run_for(Duration::from_millis(10));
            self.simulation.restart(self.host);
        }
        if self.random.below(8) == 0 {
            let nanos = self.random.below(7_200_000_000_000) as i64 - 3_600_000_000_000;
            self.simulation.jump_wall_clock(self.host, nanos);
        }
        self.simulation
            .run_for(Duration::from_micros(self.random.below(2_000_000)));
    }

    fn disk_errors(&self) -> u64 {
        let coverage = self.simulation.coverage();
        [
            FaultKind::ReadError,
            FaultKind::WriteError,
            FaultKind::SyncError,
            FaultKind::NoSpace,
        ]
        .into_iter()
        .map(|kind| coverage.count(kind))
        .sum()
    }

    fn heard(&self) -> BTreeMap<String, u64> {
        self.shared.heard.borrow().lines.clone()
    }

    /// A checkpoint of the entries up to `index` has begun; soon the log will be without them.
    fn collect_covered(&mut self, index: u64) {
        let image = self.simulation.disk_image(self.host);
        match truth::read_log(&image, DATA_DIR, &self.shared.plan.options.log) {
            Ok(entries) => {
                let entries = entries.into_iter().filter(|entry| entry.index <= index);
                for entry in entries {
                    let (at, data) = (entry.index, entry.data.clone());
                    let before = self.covered.insert(at, entry);
                    if before.is_some_and(|before| before.data != data) {
                        self.violation(format!("entry {at} has changed after it was applied"));
                    }
                }
            }
            Err(error) => {
                self.violation(format!("the log of a checkpoint cannot be read: {error}"))
            }
        }
    }

    /// Begins and ends the life's shortage.
    fn move_shortage(&mut self, phase: Phase, asked: usize) {
        match self.shortage {
            Scarcity::After(operations) if phase == Phase::Serving && asked >= operations => {
                let Some(shortage) = self.shared.plan.shortage else {
                    return;
                };
                self.shortage =
                    Scarcity::Until(self.simulation.now() + shortage.time.as_nanos() as u64);
                match shortage.of {
                    Scarce::Space(left) => {
                        let used = used_bytes(&self.simulation.disk_image(self.host));
                        self.simulation.set_disk_capacity(self.host, used + left);
                    }
                    Scarce::Files => {
                        let fault = PlannedFault {
                            operation: DiskOperation::Open,
                            path_contains: String::new(),
                            after: 0,
                            repeat: true,
                            fault: DiskFault::Error(EMFILE),
                        };
                        self.simulation.plan_fault(self.host, fault);
                    }
                }
            }
            Scarcity::Until(end) if self.simulation.now() >= end || phase != Phase::Serving => {
                self.end_shortage();
            }
            _ => {}
        }
    }

    fn end_shortage(&mut self) {
        if let Scarcity::Until(_) = self.shortage {
            self.simulation.set_disk_capacity(self.host, u64::MAX);
            if let Some(Shortage {
                of: Scarce::Files, ..
            }) = self.shared.plan.shortage
            {
                self.simulation.clear_planned_faults(self.host);
            }
        }
        self.shortage = Scarcity::Over;
    }

    /// Reads the log and checks everything against it.
    fn judge(mut self) -> Report {
        self.simulation.run_for(Duration::from_secs(5));
        let image = self.simulation.disk_image(self.host);
        let plan = &self.shared.plan;
        let mut history = self.shared.history.borrow_mut();
        let mut entries = Vec::new();
        let mut happened = 0;
        match truth::read_log(&image, DATA_DIR, &plan.options.log) {
            Ok(log) => {
                self.covered
                    .extend(log.into_iter().map(|entry| (entry.index, entry)));
                entries.extend(std::mem::take(&mut self.covered).into_values());
                happened = checker::check(&mut history, &entries, plan);
            }
            Err(error) => history.violation(format!("the log cannot be read: {error}")),
        }
        let events: usize = history
            .watches
            .iter()
            .map(|watched| watched.events.len())
            .sum();
        let summary = format!(
            "{} {} {events} {:?}",
            history.operations.len(),
            entries.len(),
            history.hashes.last_key_value()
        );
        self.simulation.trace(summary.as_bytes());
        let writes = |outcome: fn(&Outcome) -> bool| {
            let writes = history.operations.iter();
            writes.filter(|op| outcome(&op.outcome)).count() as u64
        };
        Report {
            seed: plan.seed,
            operations: history.operations.len() as u64,
            answered: writes(|outcome| *outcome != Outcome::Unknown),
            unknown: writes(|outcome| *outcome == Outcome::Unknown),
            unknown_happened: happened,
            crashes: self.crashes,
            crashes_in_recovery: self.crashes_in_recovery,
            entries: entries.len() as u64,
            events: events as u64,
            leases: history.leases.values().filter(|lease| lease.gone).count() as u64,
            coverage: self.simulation.coverage(),
            met: self.met,
            hash: self.simulation.trace_hash(),
            last_lines: self.shared.heard.borrow().last.iter().cloned().collect(),
            violations: history.violations.clone(),
        }
    }
}

/// Blocks that the files of a disk take.
fn used_bytes(image: &DiskImage) -> u64 {
    const BLOCK_BYTES: u64 = 4096;
    let lengths = image.paths().map(|path| image.length(path).unwrap_or(0));
    lengths
        .map(|bytes| bytes.next_multiple_of(BLOCK_BYTES))
        .sum()
}

/// Whether a command may come from the member itself.
pub fn is_own_command(command: &Command, plan: &Plan) -> bool {
    match command {
        Command::LeaseExpire { .. } | Command::MemberAttributes(_) | Command::ClusterVersion(_) => {
            true
        }
        Command::Alarm { member, .. } => *member == plan.options.identity.member_id,
        Command::Compact { .. } => plan.options.auto_compaction.is_some(),
        _ => false,
    }
}
