//! One life of the member: the real node with its clients around it, as tasks of its simulated cores.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use engine::command::{AlarmKind, LeaseId};
use reactor::{Class, World};
use ringd::cores::Seat;
use ringd::log::Logger;
use ringd::node::Node;

use crate::clients::{ClientState, run_client};
use crate::history::History;
use crate::leases::{run_lease_keeper, run_lease_monitor};
use crate::plan::Plan;
use crate::watchers::{WatcherState, run_watcher};
use crate::wire;

/// A member that has room again clears its alarm in this time.
const ALARM_CLEARED_WITHIN: Duration = Duration::from_secs(20);

/// Where a life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Opening and replaying.
    Opening,
    /// Clients work.
    Serving,
    /// Clients finish what they have begun and watchers catch up.
    Quiet,
    /// The node closes its log.
    Stopping,
    /// It is closed.
    Stopped,
    /// It did not start, or a write or flush failed.
    Failed,
}

/// What the member's log told, over all lives.
#[derive(Debug, Default)]
pub struct Heard {
    /// How often each line was written.
    pub lines: BTreeMap<String, u64>,
    /// A checkpoint of everything up to this index has begun.
    pub frozen: Option<u64>,
    /// The last lines.
    pub last: VecDeque<String>,
}

impl Heard {
    fn take(&mut self, line: &str) {
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.trim_end().to_owned());
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
            return;
        };
        let message = line["msg"].as_str().unwrap_or_default();
        if message == CHECKPOINT_BEGINS {
            self.frozen = line["index"].as_u64();
        }
        *self.lines.entry(message.to_owned()).or_default() += 1;
    }

    /// How often a line was written.
    pub fn count(&self, message: &str) -> u64 {
        self.lines.get(message).copied().unwrap_or(0)
    }
}

/// So many of the member's last lines are kept.
const LAST_LINES: usize = 40;

/// The line of a member whose checkpoint has just been frozen.
pub const CHECKPOINT_BEGINS: &str = "checkpoint begins";

/// What the run and the tasks of all lives share.
pub struct Shared {
    /// The plan.
    pub plan: Plan,
    /// The evidence.
    pub history: RefCell<History>,
    /// Where this life is.
    pub phase: Cell<Phase>,
    /// What the member logged.
    pub heard: RefCell<Heard>,
    /// Why it failed.
    pub failure: RefCell<Option<String>>,
    /// Operations that were asked for, in all lives.
    pub operations: Cell<usize>,
    /// Clients stop when this many were asked for.
    pub operations_limit: Cell<usize>,
    /// Tasks of clients that have work left in this life.
    pub busy: Cell<usize>,
    /// Nanoseconds to add to the member's clock for the history's.
    pub clock_offset: Cell<i64>,
    /// Clients, over all lives.
    pub clients: RefCell<Vec<ClientState>>,
    /// Watch streams, over all lives.
    pub watchers: RefCell<Vec<WatcherState>>,
    /// Next id of a tracked lease.
    pub next_lease: Cell<i64>,
    /// Next number that makes a command unlike all others.
    pub next_nonce: Cell<i64>,
}

impl Shared {
    /// The history's clock, read on the member's core.
    pub fn now(&self, world: &World) -> u64 {
        (world.now().nanos() as i64 + self.clock_offset.get()) as u64
    }

    /// Whether clients may begin another operation.
    pub fn wants_more(&self) -> bool {
        self.phase.get() == Phase::Serving && self.operations.get() < self.operations_limit.get()
    }

    /// A number nobody had before.
    pub fn nonce(&self) -> i64 {
        let nonce = self.next_nonce.get();
        self.next_nonce.set(nonce + 1);
        nonce
    }

    /// Notes the apply hash the node has now.
    pub fn sample_hash(&self, node: &Node) {
        let (index, hash) = (node.applied().index, node.apply_hash());
        self.history.borrow_mut().saw_hash(index, hash);
    }
}

/// A task of a client counts as busy until it is dropped.
pub struct Busy(Rc<Shared>);

impl Busy {
    /// One more.
    pub fn new(shared: &Rc<Shared>) -> Busy {
        shared.busy.set(shared.busy.get() + 1);
        Busy(shared.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
    }
}

/// The first task of one of the member's further cores.
pub async fn run_further_core(world: World, seat: Seat, shared: Rc<Shared>) {
    let options = shared.plan.options.clone();
    let listener = shared.clone();
    let logger = Logger::with(move |line| listener.heard.borrow_mut().take(line));
    let logger = Rc::new(logger);
    let Some(node) = Node::join(world.clone(), seat, options, logger).await else {
        return;
    };
    if node.ready().await.is_err() {
        return;
    }
    while shared.phase.get() == Phase::Opening {
        world.sleep(Duration::from_micros(100)).await;
    }
    let shutdown = grpc::Shutdown::default();
    start_tasks(&world, &node, &shared, &shutdown);
    if shared.plan.wire {
        let service = wire::service(&node, &shutdown);
        while let Some(stream) = node.next_connection().await {
            wire::serve_stream(&world, &node, stream, &service, &shutdown);
        }
    }
}

/// The first task of the member's first core.
pub async fn run_member(world: World, seat: Seat, shared: Rc<Shared>) {
    let opened_at = shared.now(&world);
    let options = shared.plan.options.clone();
    let listener = shared.clone();
    let logger = Logger::with(move |line| listener.heard.borrow_mut().take(line));
    let node = match Node::open_home(world.clone(), seat, options, Rc::new(logger)).await {
        Ok(node) => node,
        Err(error) => return fail(&shared, error.to_string()),
    };
    if let Err(failure) = node.ready().await {
        return fail(&shared, failure);
    }
    shared.sample_hash(&node);
    begin_leases_anew(&shared, &node, opened_at, shared.now(&world));
    check_nothing_is_lost(&shared, &node);
    shared.phase.set(Phase::Serving);
    let shutdown = grpc::Shutdown::default();
    start_tasks(&world, &node, &shared, &shutdown);
    loop {
        world.sleep(Duration::from_millis(1)).await;
        shared.sample_hash(&node);
        if shared.phase.get() == Phase::Stopping {
            break;
        }
    }
    check_alarm_clears(&world, &node, &shared).await;
    shutdown.begin();
    node.begin_drain();
    node.stop().await;
    shared.phase.set(Phase::Stopped);
}

fn fail(shared: &Shared, failure: String) {
    *shared.failure.borrow_mut() = Some(failure);
    shared.phase.set(Phase::Failed);
}

/// Revisions never go back, a restart included.
fn check_nothing_is_lost(shared: &Shared, node: &Node) {
    let revision = node.applied().revision;
    let mut history = shared.history.borrow_mut();
    let seen = history.revision_seen;
    if revision < seen {
        history.violation(format!(
            "restarted at revision {revision}, {seen} was answered before"
        ));
    }
}

/// Where the disk was full and is not any more, the member's own alarm goes by itself.
async fn check_alarm_clears(world: &World, node: &Node, shared: &Shared) {
    let own = (shared.plan.options.identity.member_id, AlarmKind::NoSpace);
    let home = node.home().expect("the first core is home");
    let raised = || home.alarms().contains(&own) && shared.phase.get() != Phase::Failed;
    for _ in 0..ALARM_CLEARED_WITHIN.as_millis() / 50 {
        if !raised() {
            return;
        }
        world.sleep(Duration::from_millis(50)).await;
    }
    if raised() {
        let mut history = shared.history.borrow_mut();
        history.violation(format!(
            "the disk has room, and after {ALARM_CLEARED_WITHIN:?} the alarm is still raised: {:?}",
            home.status()
        ));
    }
}

/// A lease has its full time to live again when its leader starts, unless its end was in the log.
fn begin_leases_anew(shared: &Shared, node: &Node, opened_at: u64, ready_at: u64) {
    let mut history = shared.history.borrow_mut();
    let ids: Vec<i64> = history.leases.keys().copied().collect();
    for id in ids {
        let home = node.home().expect("the first core is home");
        if home.lease_status(LeaseId(id)).is_none() {
            history.lease_is_gone(id, opened_at, "the restart");
        } else if let Some(lease) = history.leases.get_mut(&id) {
            lease.not_before = lease
                .not_before
                .max(opened_at + lease.ttl as u64 * 1_000_000_000);
            lease.renewed_by = lease.renewed_by.max(ready_at);
        }
    }
}

fn start_tasks(world: &World, node: &Node, shared: &Rc<Shared>, shutdown: &grpc::Shutdown) {
    let (watched, shared_too) = (node.clone(), shared.clone());
    drop(world.spawn(Class::Consensus, async move {
        let failure = watched.failed().await;
        fail(&shared_too, failure);
    }));
    // Clients, watchers and lease keepers are dealt out over the cores.
    let cores = usize::from(shared.plan.cores);
    let here = |number: &usize| number % cores == usize::from(node.core());
    if !shared.plan.wire {
        for client in (0..shared.plan.clients).filter(here) {
            let run = run_client(world.clone(), node.clone(), shared.clone(), client);
            drop(world.spawn(Class::Request, run));
        }
    } else if node.home().is_some() {
        wire::serve(world, node, shutdown);
    }
    for watcher in (0..shared.plan.watchers).filter(here) {
        let run = run_watcher(world.clone(), node.clone(), shared.clone(), watcher);
        drop(world.spawn(Class::Request, run));
    }
    // Not where the clients begin.
    let last = |number: &usize| here(&(cores - 1 - number % cores));
    for keeper in (0..shared.plan.lease_keepers).filter(last) {
        let client = shared.plan.clients + keeper;
        let run = run_lease_keeper(world.clone(), node.clone(), shared.clone(), client);
        drop(world.spawn(Class::Request, run));
    }
    if node.home().is_some() {
        let run = run_lease_monitor(world.clone(), node.clone(), shared.clone());
        drop(world.spawn(Class::Request, run));
    }
}
