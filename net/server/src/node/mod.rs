//! A running member on one of its cores: reads, watches and the way home, behind one handle.
//!
//! The handle is what the services of the edge and the simulator call; each core of a member has its own. The only
//! way in for a client's request is [`Node::execute`], which takes nothing but an [`Authorized`] operation.
//! What exists once per member, the sequencer before all, is behind [`Home`], on one of the cores.

mod auto_compaction;
mod calls;
mod checkpoints;
mod connections;
mod dispatch;
mod figures;
mod hash;
mod home;
mod leases;
mod lists;
mod members;
mod moves;
mod open;
mod reads;
mod restoring;
mod scrub;
mod sequencer;
mod slow;
mod snapshots;
mod space;
mod upkeep;
mod waiters;
mod watches;

pub use checkpoints::{CheckpointOptions, CheckpointStatus};
pub use figures::MemberFigures;
pub use hash::StoreHash;
pub use home::Home;
pub use leases::LeaseStatus;
pub use lists::{LISTS_MAX, List, ListBody, Ranged};
pub use members::Member;
pub(crate) use open::run_opening;
pub use open::{NodeOptions, StartError, StoreSizes};
pub use sequencer::{WriteError, WriteOutcome};
pub use snapshots::{Snapshot, SnapshotError};
pub use watches::WatchStream;

use std::any::Any;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use engine::auth::{Authorized, AuthorizedOperation};
use engine::command::{AlarmKind, Command, Operation, Reply};
use engine::coordinator::Applied;
use engine::shard::Damage;
use reactor::{Class, World};

use crate::cores::call::{Call, Links, Response, Waiter};
use crate::cores::{Board, HOME};
use crate::identity::Identity;
use crate::local::{Changed, Flag, one_shot};
use crate::log::Logger;
use crate::metrics::CoreMetrics;
use crate::shards::Shards;
use home::HomeParts;

/// A running member on one core; cheap to clone, lives on its core.
#[derive(Clone)]
pub struct Node(Rc<Inner>);

struct Inner {
    world: World,
    options: NodeOptions,
    identity: Identity,
    logger: Rc<Logger>,
    core: u16,
    board: Arc<Board>,
    links: Rc<Links>,
    /// The shards that live here.
    shards: Rc<Shards>,
    /// Raised when a completion waits, and at home when the pipeline has something to do.
    work: Rc<Flag>,
    /// Raised when a shard or a connection has come to this core.
    load: Rc<Flag>,
    /// Notified when the member's state may have changed.
    changed: Changed,
    connections: connections::Connections,
    watches: watches::Watches,
    lists: lists::Lists,
    snapshots: snapshots::Snapshots,
    upkeep: upkeep::Upkeep,
    /// Requests that came to this core and to its shards in this life.
    requests: Cell<u64>,
    /// What exists once per member, on one core.
    home: Option<Rc<HomeParts>>,
}

/// Where a member is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
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

impl State {
    /// The state whose discriminant this is.
    pub(crate) fn from_number(number: u8) -> State {
        match number {
            0 => State::Starting,
            1 => State::Serving,
            2 => State::Stopping,
            3 => State::Stopped,
            _ => State::Failed,
        }
    }
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

    /// Its number among the cores of the member; 0 is home.
    pub fn core(&self) -> u16 {
        self.0.core
    }

    /// What all cores of the member may read.
    pub fn board(&self) -> &Arc<Board> {
        &self.0.board
    }

    /// What this core counts.
    pub fn metrics(&self) -> &CoreMetrics {
        self.0.board.metrics.core(self.0.core)
    }

    /// How many shards the member has.
    pub fn shards(&self) -> u16 {
        self.0.shards.count()
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
        self.header_at(self.0.board.visible.revision())
    }

    fn header_at(&self, revision: i64) -> Header {
        Header {
            cluster_id: self.0.identity.cluster_id,
            member_id: self.0.identity.member_id,
            revision,
            raft_term: self.0.board.visible.raft_term(),
        }
    }

    /// What exists once per member, if this is the core where it is.
    pub fn home(&self) -> Option<Home> {
        let parts = self.0.home.as_ref()?;
        Some(Home::new(self, parts))
    }

    /// Executes an operation.
    ///
    /// # Errors
    /// See [`WriteError`]; a write that timed out may still take effect.
    pub async fn execute(&self, operation: Authorized<Operation>) -> Result<Answer, WriteError> {
        self.note_request();
        match operation.split() {
            AuthorizedOperation::Write(command) => self.write(command).await,
            AuthorizedOperation::Range(range) => self.range(&range).await,
            AuthorizedOperation::ReadTxn(txn) => self.read_txn(&txn).await,
        }
    }

    fn note_request(&self) {
        self.0.requests.set(self.0.requests.get() + 1);
    }

    /// Sends a client's command through the log and waits for its outcome.
    async fn write(&self, command: Authorized<Command>) -> Result<Answer, WriteError> {
        let outcome = match self.home() {
            Some(home) => home.write(&command).await?,
            None if self.state() > State::Serving => return Err(WriteError::Stopped),
            None => match self.call(HOME, Call::Write(command)).await {
                Some(Response::Written(written)) => written?,
                Some(_) => unreachable!("a write is answered by its outcome"),
                None => return Err(WriteError::Stopped),
            },
        };
        self.answer_of(outcome)
    }

    fn answer_of(&self, outcome: WriteOutcome) -> Result<Answer, WriteError> {
        match outcome.result {
            Ok(reply) => Ok(Answer {
                header: self.header_at(outcome.revision),
                reply,
            }),
            Err(error) => Err(WriteError::Command(error)),
        }
    }

    /// Calls another core; `None` if that is gone.
    async fn call(&self, core: u16, call: Call) -> Option<Response> {
        let (responder, waiting) = one_shot();
        self.0.links.call(core, Waiter::Task(responder), call);
        waiting.await
    }

    /// What `look` finds at home.
    ///
    /// # Errors
    /// `Stopped` if home is gone.
    pub async fn at_home<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Home) -> T + Send + 'static,
    ) -> Result<T, WriteError> {
        if let Some(home) = self.home() {
            return Ok(look(&home));
        }
        let carried = move |home: &Home| -> Box<dyn Any + Send> { Box::new(look(home)) };
        match self.call(HOME, Call::Home(Box::new(carried))).await {
            Some(Response::Home(found)) => match found.downcast() {
                Ok(found) => Ok(*found),
                Err(_) => unreachable!("home answers what it was asked"),
            },
            Some(_) => unreachable!("home answers what it was asked"),
            None => Err(WriteError::Stopped),
        }
    }

    fn state(&self) -> State {
        self.0.board.visible.state()
    }

    /// Waits until the member is in `state` or a later one.
    async fn reached(&self, state: State) {
        self.0.changed.until(|| self.state() >= state).await;
    }

    /// Waits until the node answers, or has failed.
    ///
    /// # Errors
    /// What failed.
    pub async fn ready(&self) -> Result<(), String> {
        self.reached(State::Serving).await;
        match self.failure() {
            Some(failure) => Err(failure.to_string()),
            None => Ok(()),
        }
    }

    /// Why the node has failed, if it has.
    pub fn failure(&self) -> Option<Failure> {
        self.0.board.visible.failure().cloned()
    }

    /// Waits until the node has failed, and says why.
    pub async fn failed(&self) -> String {
        self.0.changed.until(|| self.state() == State::Failed).await;
        let failure = self.failure();
        failure.map_or_else(String::new, |failure| failure.to_string())
    }

    /// Finishes what was taken, closes the log and returns once it is durable.
    pub async fn stop(&self) {
        match self.home() {
            Some(home) => home.stop().await,
            None => {
                let stop = |home: &Home| {
                    let home = home.clone();
                    let world = home.world().clone();
                    drop(world.spawn(Class::Request, async move { home.stop().await }));
                };
                // A home that is gone has stopped.
                if self.at_home(stop).await.is_ok() {
                    self.reached(State::Stopped).await;
                }
            }
        }
    }

    /// Waits until the log is closed, or the node has failed: nothing is left to do on this core.
    pub async fn ended(&self) {
        self.reached(State::Stopped).await;
    }

    /// Whether the node finishes or has ended.
    pub fn is_stopping(&self) -> bool {
        self.state() >= State::Stopping
    }

    /// What is visible.
    pub fn applied(&self) -> Applied {
        self.0.board.visible.applied()
    }

    /// Reads below this revision are refused; 0 before the first compaction.
    pub fn compact_revision(&self) -> i64 {
        self.0.board.visible.compact_revision()
    }

    /// Chain over the effects of all applied entries.
    pub fn apply_hash(&self) -> u64 {
        self.0.board.visible.apply_hash()
    }

    /// Figures.
    ///
    /// # Errors
    /// `Stopped` if home is gone.
    pub async fn status(&self) -> Result<Status, WriteError> {
        self.at_home(Home::status).await
    }

    /// Raised alarms.
    ///
    /// # Errors
    /// `Stopped` if home is gone.
    pub async fn alarms(&self) -> Result<Vec<(u64, AlarmKind)>, WriteError> {
        self.at_home(Home::alarms).await
    }

    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        self.0.board.visible.has_leader()
    }

    /// The latest checkpoint.
    ///
    /// # Errors
    /// `Stopped` if home is gone.
    pub async fn checkpoint_status(&self) -> Result<CheckpointStatus, WriteError> {
        self.at_home(Home::checkpoint_status).await
    }

    /// Starts the tasks that every core has.
    fn start(&self) {
        self.spawn(
            Class::Request,
            |node| async move { node.run_watches().await },
        );
        self.spawn(Class::Request, |node| async move { node.run_lists().await });
        self.spawn(Class::Background, |node| async move {
            node.run_progress().await
        });
        self.spawn(
            Class::Background,
            |node| async move { node.run_shards().await },
        );
        self.spawn(
            Class::Background,
            |node| async move { node.run_upkeep().await },
        );
        match self.home() {
            Some(home) => home.start(),
            None => {
                self.spawn(
                    Class::Consensus,
                    |node| async move { node.run_disk().await },
                );
                self.spawn(
                    Class::Background,
                    |node| async move { node.run_report().await },
                );
            }
        }
        self.0.work.raise();
    }

    /// Starts a task of the node; it ends with the node's core.
    fn spawn<F: Future<Output = ()> + 'static>(&self, class: Class, task: impl FnOnce(Node) -> F) {
        drop(self.0.world.spawn(class, task(self.clone())));
    }
}
