//! A running member: its pipeline, its reads, its leases and its watches, behind one handle.
//!
//! The handle is what the services of the edge and the simulator call. The only way in for a
//! client's request is [`Node::execute`], which takes nothing but an [`Authorized`] operation.

mod auto_compaction;
mod checkpoints;
mod hash;
mod leases;
mod lists;
mod members;
mod open;
mod reads;
mod scrub;
mod sequencer;
mod space;
mod upkeep;
mod watches;

pub use checkpoints::{CheckpointOptions, CheckpointStatus};
pub use hash::StoreHash;
pub use leases::LeaseStatus;
pub use lists::{List, ListBody, Ranged};
pub use members::Member;
pub(crate) use open::run_opening;
pub use open::{NodeOptions, StartError, StoreSizes};
pub use sequencer::{WriteError, WriteOutcome};
pub use watches::WatchStream;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use engine::auth::{Authorized, AuthorizedOperation};
use engine::command::{AlarmKind, Command, Operation, Reply};
use engine::coordinator::{Applied, Published};
use engine::lease_clock::LeaseClock;
use engine::shard::Damage;
use reactor::{Class, World};

use crate::disk::Disk;
use crate::identity::Identity;
use crate::local::{Changed, Flag, one_shot};
use crate::log::Logger;
use crate::planted::{Bug, planted};
use crate::shards::Shards;
use leases::wait_for;
use sequencer::{Sequencer, TurnEffects};

/// How often requests without an outcome are looked for.
const TIMEOUT_SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// A running member; cheap to clone, lives on its core.
#[derive(Clone)]
pub struct Node(Rc<Inner>);

struct Inner {
    world: World,
    options: NodeOptions,
    identity: Identity,
    logger: Rc<Logger>,
    disk: Disk,
    shards: Rc<Shards>,
    sequencer: RefCell<Sequencer>,
    /// Raised when the pipeline has something to do.
    work: Rc<Flag>,
    /// Raised when a request waits for an entry.
    submitted: Flag,
    applied: Cell<Applied>,
    compact_revision: Cell<i64>,
    raft_term: Cell<u64>,
    leads: Cell<bool>,
    state: Cell<State>,
    changed: Changed,
    failure: RefCell<Option<Failure>>,
    leases: RefCell<LeaseClock>,
    lease_work: Flag,
    watches: watches::Watches,
    lists: lists::Lists,
    checkpoints: checkpoints::Checkpoints,
    space: space::Space,
    upkeep: upkeep::Upkeep,
    scrub: scrub::Scrub,
    /// How many requests clients have made in this life.
    requests: Cell<u64>,
}

/// A request that waited this long for its outcome is worth a line in the log.
const SLOW_REQUEST: Duration = Duration::from_secs(1);

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Replaying and electing.
    Starting,
    /// Answering.
    Serving,
    /// Finishing what was taken.
    Stopping,
    /// The log is closed.
    Stopped,
    /// A write or flush failed.
    Failed,
}

/// What ended a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A write or flush of the log failed: the file and the system's words.
    Log(String),
    /// One of a shard's files failed: the file and the system's words.
    Store(String),
    /// What has to be applied needs bytes that are damaged.
    Damaged(Damage),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Log(what) | Failure::Store(what) => f.write_str(what),
            Failure::Damaged(damage) => write!(f, "damaged bytes in {damage}"),
        }
    }
}

/// What goes into every answer's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Cluster id.
    pub cluster_id: u64,
    /// Member id.
    pub member_id: u64,
    /// Store revision.
    pub revision: i64,
    /// Raft term.
    pub raft_term: u64,
}

/// An operation's answer.
pub struct Answer {
    /// Its header.
    pub header: Header,
    /// The answer proper.
    pub reply: Reply,
}

/// Figures of a member, for Status and health.
#[derive(Clone, Debug)]
pub struct Status {
    /// Who leads; 0 if unknown.
    pub leader: u64,
    /// Committed index.
    pub raft_index: u64,
    /// Applied index.
    pub applied_index: u64,
    /// Bytes of the database.
    pub size_bytes: u64,
    /// Bytes that are live.
    pub size_in_use_bytes: u64,
    /// The quota, if there is one.
    pub quota_bytes: Option<u64>,
    /// Raised alarms.
    pub alarms: Vec<(u64, AlarmKind)>,
    /// Places with damaged bytes that the scrub knows of.
    pub damaged_places: usize,
}

impl Node {
    /// The core this node lives on.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// Settings.
    pub fn options(&self) -> &NodeOptions {
        &self.0.options
    }

    /// Ids of the member and its cluster.
    pub fn identity(&self) -> Identity {
        self.0.identity
    }

    /// Where to log.
    pub fn logger(&self) -> &Rc<Logger> {
        &self.0.logger
    }

    /// A header at the newest visible revision.
    pub fn header(&self) -> Header {
        self.header_at(self.0.applied.get().revision)
    }

    fn header_at(&self, revision: i64) -> Header {
        Header {
            cluster_id: self.0.identity.cluster_id,
            member_id: self.0.identity.member_id,
            revision,
            raft_term: self.0.raft_term.get(),
        }
    }

    /// Executes an operation.
    ///
    /// # Errors
    /// See [`WriteError`]; a write that timed out may still take effect.
    pub async fn execute(&self, operation: Authorized<Operation>) -> Result<Answer, WriteError> {
        self.0.requests.set(self.0.requests.get() + 1);
        match operation.split() {
            AuthorizedOperation::Write(command) => {
                self.check_quota(&command)?;
                self.write(&command).await
            }
            AuthorizedOperation::Range(range) => self.range(&range).await,
            AuthorizedOperation::ReadTxn(txn) => self.read_txn(&txn).await,
        }
    }

    /// Sends a command through the log and waits for its outcome.
    async fn write(&self, command: &Authorized<Command>) -> Result<Answer, WriteError> {
        if self.0.state.get() > State::Serving {
            return Err(WriteError::Stopped);
        }
        let (responder, waiting) = one_shot();
        let submitted = self.0.sequencer.borrow_mut().submit(command, responder);
        if let Err((error, _responder)) = submitted {
            return Err(error);
        }
        self.0.submitted.raise();
        let outcome = waiting.await.ok_or(WriteError::Stopped)??;
        match outcome.result {
            Ok(reply) => Ok(Answer {
                header: self.header_at(outcome.revision),
                reply,
            }),
            Err(error) => Err(WriteError::Command(error)),
        }
    }

    /// Waits until the node answers, or has failed.
    ///
    /// # Errors
    /// What failed.
    pub async fn ready(&self) -> Result<(), String> {
        self.0
            .changed
            .until(|| self.0.state.get() >= State::Serving)
            .await;
        match self.failure() {
            Some(failure) => Err(failure.to_string()),
            None => Ok(()),
        }
    }

    /// Why the node has failed, if it has.
    pub fn failure(&self) -> Option<Failure> {
        self.0.failure.borrow().clone()
    }

    /// Waits until the node has failed, and says why.
    pub async fn failed(&self) -> String {
        self.0
            .changed
            .until(|| self.0.state.get() == State::Failed)
            .await;
        let failure = self.failure();
        failure.map_or_else(String::new, |failure| failure.to_string())
    }

    /// Ends the node: nothing is taken or acknowledged any more.
    fn fail(&self, failure: Failure) {
        self.0.sequencer.borrow_mut().fail();
        self.end_failed(failure);
    }

    fn end_failed(&self, failure: Failure) {
        self.0.failure.borrow_mut().get_or_insert(failure);
        self.0.state.set(State::Failed);
        self.0.watches.wake_all();
        self.0.changed.notify();
        // The pipeline's task ends.
        self.0.work.raise();
    }

    /// Finishes what was taken, closes the log and returns once it is durable.
    pub async fn stop(&self) {
        if self.0.state.get() < State::Stopping {
            self.0.state.set(State::Stopping);
        }
        self.0.watches.wake_all();
        let idle = || self.0.state.get() == State::Failed || !self.0.sequencer.borrow().is_busy();
        self.0.work.raise();
        self.0.changed.until(idle).await;
        self.checkpoint_before_stop().await;
        if self.0.state.get() == State::Failed {
            return;
        }
        self.0.sequencer.borrow_mut().stop();
        self.0.work.raise();
        self.0
            .changed
            .until(|| self.0.state.get() >= State::Stopped)
            .await;
    }

    /// Whether the node finishes or has ended.
    pub fn is_stopping(&self) -> bool {
        self.0.state.get() >= State::Stopping
    }

    /// What is visible.
    pub fn applied(&self) -> Applied {
        self.0.applied.get()
    }

    /// Reads below this revision are refused; 0 before the first compaction.
    pub fn compact_revision(&self) -> i64 {
        self.0.compact_revision.get()
    }

    /// Chain over the effects of all applied entries.
    pub fn apply_hash(&self) -> u64 {
        self.0.sequencer.borrow().coordinator().apply_hash()
    }

    /// Figures.
    pub fn status(&self) -> Status {
        let sizes = self.0.shards.sizes();
        let sequencer = self.0.sequencer.borrow();
        let raft = sequencer.raft_status();
        Status {
            leader: raft.leader.map_or(0, |member| member.0),
            raft_index: raft.commit.0,
            applied_index: sequencer.applied().index,
            size_bytes: sizes.bytes,
            size_in_use_bytes: sizes.bytes_in_use,
            quota_bytes: self.0.options.quota_bytes,
            alarms: sequencer.coordinator().alarms().iter().collect(),
            damaged_places: self.damaged_places(),
        }
    }

    /// Raised alarms.
    pub fn alarms(&self) -> Vec<(u64, AlarmKind)> {
        self.0
            .sequencer
            .borrow()
            .coordinator()
            .alarms()
            .iter()
            .collect()
    }

    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        self.0.leads.get()
    }

    /// Starts the tasks of a node that was put together.
    fn start(&self) {
        self.spawn(
            Class::Consensus,
            |node| async move { node.run_pipeline().await },
        );
        self.spawn(
            Class::Request,
            |node| async move { node.run_batches().await },
        );
        self.spawn(Class::Background, |node| async move {
            node.run_timeouts().await
        });
        self.spawn(
            Class::Request,
            |node| async move { node.run_leases().await },
        );
        self.spawn(
            Class::Request,
            |node| async move { node.run_watches().await },
        );
        self.spawn(
            Class::Request,
            |node| async move { node.run_lists().await },
        );
        self.spawn(Class::Background, |node| async move {
            node.run_progress().await
        });
        self.spawn(
            Class::Background,
            |node| async move { node.run_shards().await },
        );
        self.spawn(Class::Background, |node| async move {
            node.run_checkpoints().await
        });
        self.spawn(
            Class::Background,
            |node| async move { node.run_upkeep().await },
        );
        self.spawn(
            Class::Background,
            |node| async move { node.run_scrub().await },
        );
        self.spawn(Class::Background, |node| async move {
            node.run_auto_compaction().await
        });
        self.0.work.raise();
    }

    /// Starts a task of the node; it ends with the node's core.
    fn spawn<F: Future<Output = ()> + 'static>(&self, class: Class, task: impl FnOnce(Node) -> F) {
        drop(self.0.world.spawn(class, task(self.clone())));
    }

    /// Wakes the pipeline behind the requests that are runnable now, so that they travel together.
    async fn run_batches(&self) {
        while self.0.state.get() <= State::Stopping {
            self.0.submitted.wait().await;
            self.0.work.raise();
        }
    }

    /// The pipeline's task: runs it whenever there is something to do.
    async fn run_pipeline(&self) {
        loop {
            let (effects, deadline) = {
                let mut sequencer = self.0.sequencer.borrow_mut();
                let effects = sequencer.turn(self.0.world.now().nanos());
                (effects, sequencer.next_deadline())
            };
            let goes_on = effects.goes_on;
            self.take_effects(effects);
            if matches!(self.0.state.get(), State::Stopped | State::Failed) {
                return;
            }
            if goes_on {
                self.0.world.yield_now().await;
                continue;
            }
            wait_for(&self.0.world, &self.0.work, deadline).await;
        }
    }

    fn take_effects(&self, effects: TurnEffects) {
        let state = self.0.state.get();
        for published in effects.published {
            self.take_published(published);
        }
        if effects.role_changed {
            let status = self.0.sequencer.borrow().raft_status();
            self.0.raft_term.set(status.term.0);
            self.0.leads.set(status.leader.is_some());
        }
        if effects.disk_full {
            self.note_disk_full("the log".to_owned());
        }
        for step in effects.checkpoints {
            self.take_checkpoint_step(step);
        }
        if self.0.state.get() == State::Failed {
            return;
        }
        if let Some(what) = effects.poisoned {
            self.end_failed(Failure::Log(what));
        } else if let Some(damage) = effects.damaged {
            self.end_failed(Failure::Damaged(damage));
        } else if effects.stopped {
            self.0.state.set(State::Stopped);
        } else if state == State::Starting && self.is_caught_up() {
            self.0.state.set(State::Serving);
            self.0.leases.borrow_mut().start(self.0.world.now().nanos());
            self.0.lease_work.raise();
            self.take_over_alarm();
            self.0.shards.wake_upkeep();
        }
        if state != State::Serving || self.0.state.get() != state {
            self.0.changed.notify();
        }
    }

    /// Leads, has committed an entry of its own term, and everything committed is visible.
    fn is_caught_up(&self) -> bool {
        let mut sequencer = self.0.sequencer.borrow_mut();
        sequencer
            .read_index()
            .is_some_and(|index| sequencer.applied().index >= index)
    }

    fn take_published(&self, published: Published) {
        self.0.applied.set(published.applied);
        if planted(Bug::AnnounceBeforeApplied) {
            let Applied { index, revision } = published.applied;
            let announced = Applied {
                index,
                revision: revision + 1,
            };
            self.0.applied.set(announced);
        }
        if let Some(revision) = published.compacted {
            self.0.compact_revision.set(revision);
            self.0.shards.wake_upkeep();
        }
        self.take_lease_changes(&published.lease_changes);
        self.0.watches.published(&published);
    }

    /// Says where the pipeline stands when a request has waited long.
    fn warn_of_backlog(&self, now_nanos: u64) {
        let Some(backlog) = self.0.sequencer.borrow().backlog() else {
            return;
        };
        let waited = Duration::from_nanos(now_nanos.saturating_sub(backlog.since_nanos));
        if waited < SLOW_REQUEST {
            return;
        }
        let waited_ms = waited.as_millis() as u64;
        let fields = [
            ("waited-ms", waited_ms.into()),
            ("oldest-index", backlog.index.into()),
            ("durable-index", backlog.durable.into()),
            ("commit-index", backlog.committed.into()),
            ("applied-index", backlog.applied.into()),
            ("records-in-flight", backlog.records_in_flight.into()),
            ("log-bytes-waiting", backlog.log_bytes_waiting.into()),
            ("requests-waiting", backlog.requests_waiting.into()),
        ];
        self.0.logger.warn("a request waits for the log", &fields);
    }

    /// Ends the wait of requests that have no outcome after the request timeout.
    async fn run_timeouts(&self) {
        while self.0.state.get() <= State::Serving {
            self.0.world.sleep(TIMEOUT_SWEEP_INTERVAL).await;
            let now = self.0.world.now().nanos();
            self.warn_of_backlog(now);
            let timeout = self.0.options.request_timeout.as_nanos() as u64;
            self.0
                .sequencer
                .borrow_mut()
                .time_out(now.saturating_sub(timeout));
        }
    }
}
