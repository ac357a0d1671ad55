//! What exists once per member: the pipeline, and what depends on being the only one.
//!
//! Lives on the core where the sequencer is. It alone changes the member's state and what is visible, and
//! tells the other cores: the board first, then answers, then wakes.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use engine::auth::Authorized;
use engine::command::{AlarmKind, Command};
use engine::coordinator::Published;
use engine::lease_clock::LeaseClock;
use reactor::Class;

use super::dispatch::Dispatch;
use super::leases::wait_for;
use super::sequencer::{Moment, Sequencer, TurnEffects, WriteResponder};
use super::{
    Failure, Node, State, Status, WriteError, WriteOutcome, checkpoints, moves, scrub, slow, space,
    upkeep,
};
use crate::cores::call::{Call, CallAnswer, Notice, Response, Waiter};
use crate::cores::publication_fence;
use crate::local::{Flag, one_shot};
use crate::planted::{Bug, planted};

/// How often requests without an outcome are looked for.
const TIMEOUT_SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// A request that waited this long for its outcome is worth a line in the log.
const SLOW_REQUEST: Duration = Duration::from_secs(1);

/// See the module. A node on the home core, with the parts that are only there.
#[derive(Clone)]
pub struct Home {
    node: Node,
    pub(super) parts: Rc<HomeParts>,
}

/// The parts of a member that exist once.
pub(super) struct HomeParts {
    pub(super) sequencer: RefCell<Sequencer>,
    pub(super) dispatch: Rc<Dispatch>,
    /// Raised when a request waits for an entry.
    pub(super) submitted: Flag,
    pub(super) leases: RefCell<LeaseClock>,
    pub(super) lease_work: Flag,
    pub(super) checkpoints: checkpoints::Checkpoints,
    pub(super) space: space::Space,
    pub(super) reclaim: upkeep::Reclaim,
    pub(super) scrub: scrub::Scrub,
    pub(super) moves: moves::Moves,
    pub(super) slow_entries: slow::SlowEntries,
    /// By core: whether it is being told of what became visible.
    pub(super) heralds: Vec<Cell<Herald>>,
}

/// How far the telling of one core is. It is told once at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Herald {
    /// It was told of everything, or nobody watches there.
    #[default]
    Idle,
    /// It is being told.
    UnderWay,
    /// It is being told, and more became visible since.
    Again,
}

impl Deref for Home {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Home {
    pub(super) fn new(node: &Node, parts: &Rc<HomeParts>) -> Home {
        Home {
            node: node.clone(),
            parts: parts.clone(),
        }
    }

    /// Starts the tasks that only home has.
    pub(super) fn start(&self) {
        self.spawn_home(
            Class::Consensus,
            |home| async move { home.run_pipeline().await },
        );
        self.spawn_home(
            Class::Request,
            |home| async move { home.run_batches().await },
        );
        self.spawn_home(Class::Background, |home| async move {
            home.run_timeouts().await
        });
        self.spawn_home(
            Class::Request,
            |home| async move { home.run_leases().await },
        );
        self.spawn_home(Class::Background, |home| async move {
            home.run_checkpoints().await
        });
        self.spawn_home(
            Class::Background,
            |home| async move { home.run_scrub().await },
        );
        self.spawn_home(
            Class::Request,
            |home| async move { home.run_placement().await },
        );
        self.spawn_home(Class::Background, |home| async move {
            home.run_auto_compaction().await
        });
    }

    fn spawn_home<F: Future<Output = ()> + 'static>(
        &self,
        class: Class,
        task: impl FnOnce(Home) -> F,
    ) {
        drop(self.world().spawn(class, task(self.clone())));
    }

    /// Takes a client's command and waits for its outcome.
    pub(super) async fn write(
        &self,
        command: &Authorized<Command>,
    ) -> Result<WriteOutcome, WriteError> {
        let (responder, waiting) = one_shot();
        self.take(command, WriteResponder::Here(responder));
        waiting.await.ok_or(WriteError::Stopped)?
    }

    /// Takes a client's command from another core; its outcome is the answer.
    pub(super) fn write_for(&self, command: &Authorized<Command>, answer: CallAnswer) {
        self.take(command, WriteResponder::There(answer));
    }

    fn take(&self, command: &Authorized<Command>, responder: WriteResponder) {
        if !self.has_room_for(command) {
            self.refuse_for_space(responder);
        } else if let Err((error, responder)) = self.submit(command, responder) {
            responder.answer(Err(error));
        }
    }

    /// Takes a command, whatever the quota says.
    pub(super) async fn write_anyhow(
        &self,
        command: &Authorized<Command>,
    ) -> Result<WriteOutcome, WriteError> {
        let (responder, waiting) = one_shot();
        if let Err((error, _responder)) = self.submit(command, WriteResponder::Here(responder)) {
            return Err(error);
        }
        waiting.await.ok_or(WriteError::Stopped)?
    }

    fn submit(
        &self,
        command: &Authorized<Command>,
        responder: WriteResponder,
    ) -> Result<(), (WriteError, WriteResponder)> {
        if self.state() > State::Serving {
            return Err((WriteError::Stopped, responder));
        }
        let mut sequencer = self.parts.sequencer.borrow_mut();
        sequencer.submit(command, responder)?;
        self.parts.submitted.raise();
        Ok(())
    }

    pub(super) fn set_state(&self, state: State) {
        self.0.board.visible.set_state(state);
        self.0.links.tell_all(Notice::State);
    }

    /// Ends the node: nothing is taken or acknowledged any more.
    pub(super) fn fail(&self, failure: Failure) {
        self.parts.sequencer.borrow_mut().fail();
        self.end_failed(failure);
    }

    fn end_failed(&self, failure: Failure) {
        self.0.board.visible.set_failure(failure);
        self.set_state(State::Failed);
        self.0.watches.wake_all();
        self.0.changed.notify();
        // The pipeline's task ends.
        self.0.work.raise();
    }

    /// Finishes what was taken, closes the log and returns once it is durable.
    pub(super) async fn stop(&self) {
        if self.state() < State::Stopping {
            self.set_state(State::Stopping);
        }
        self.0.watches.wake_all();
        let idle = || self.state() == State::Failed || !self.parts.sequencer.borrow().is_busy();
        self.0.work.raise();
        self.0.changed.until(idle).await;
        self.checkpoint_before_stop().await;
        if self.state() == State::Failed {
            return;
        }
        self.parts.sequencer.borrow_mut().stop();
        self.0.work.raise();
        self.reached(State::Stopped).await;
    }

    /// Figures.
    pub fn status(&self) -> Status {
        let sizes = self.sizes();
        let sequencer = self.parts.sequencer.borrow();
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

    /// What is replicated beside the keys; none while an entry is under way, then ask again.
    pub(super) fn moment(&self) -> Option<Moment> {
        self.parts.sequencer.borrow_mut().moment()
    }

    /// Raised alarms.
    pub fn alarms(&self) -> Vec<(u64, AlarmKind)> {
        let sequencer = self.parts.sequencer.borrow();
        sequencer.coordinator().alarms().iter().collect()
    }

    /// Wakes the pipeline behind the requests that are runnable now, so that they travel together.
    async fn run_batches(&self) {
        while self.state() <= State::Stopping {
            self.parts.submitted.wait().await;
            self.0.work.raise();
        }
    }

    /// The pipeline's task: runs it whenever there is something to do.
    async fn run_pipeline(&self) {
        loop {
            let (effects, deadline) = {
                let mut sequencer = self.parts.sequencer.borrow_mut();
                let effects = sequencer.turn(self.0.world.now().nanos());
                (effects, sequencer.next_deadline())
            };
            let goes_on = effects.goes_on;
            self.take_effects(effects);
            self.0.links.flush();
            if matches!(self.state(), State::Stopped | State::Failed) {
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
        let state = self.state();
        let something_is_visible = !effects.published.is_empty();
        for published in effects.published {
            self.take_published(published);
        }
        if something_is_visible {
            self.tell_watchers();
        }
        self.warn_of_slow_entries(&effects.finished);
        if effects.role_changed {
            let status = self.parts.sequencer.borrow().raft_status();
            let visible = &self.0.board.visible;
            visible.set_role(status.term.0, status.leader.is_some());
            let leader = status.leader.map(|member| member.0);
            self.0.board.metrics.member.note_leader(leader);
        }
        if effects.disk_full {
            self.note_disk_full("the log".to_owned());
        }
        for step in effects.checkpoints {
            self.take_checkpoint_step(step);
        }
        if self.state() == State::Failed {
            return;
        }
        if let Some(what) = effects.poisoned {
            self.end_failed(Failure::Log(what));
        } else if let Some(damage) = effects.damaged {
            self.end_failed(Failure::Damaged(damage));
        } else if effects.stopped {
            self.set_state(State::Stopped);
            self.0.watches.wake_all();
        } else if state == State::Starting && self.is_caught_up() {
            self.set_state(State::Serving);
            let now = self.0.world.now().nanos();
            self.parts.leases.borrow_mut().start(now);
            self.parts.lease_work.raise();
            self.take_over_alarm();
            self.0.shards.wake_upkeep();
        }
        if state != State::Serving || self.state() != state {
            self.0.changed.notify();
        }
    }

    /// Leads, has committed an entry of its own term, and everything committed is visible.
    fn is_caught_up(&self) -> bool {
        let mut sequencer = self.parts.sequencer.borrow_mut();
        sequencer
            .read_index()
            .is_some_and(|index| sequencer.applied().index >= index)
    }

    /// What follows from a publication; the sequencer has stored it on the board.
    fn take_published(&self, published: Published) {
        if planted(Bug::AnswerBeforeVisible) {
            self.publish_late(&published);
        }
        if published.compacted.is_some() {
            self.0.shards.wake_upkeep();
        }
        self.take_lease_changes(&published.lease_changes);
    }

    /// A planted bug: what is visible is stored a while after its answers have left.
    fn publish_late(&self, published: &Published) {
        let (applied, compacted) = (published.applied, published.compacted);
        let hash = self.parts.sequencer.borrow().coordinator().apply_hash();
        let home = self.clone();
        drop(self.world().spawn(Class::Consensus, async move {
            home.world().sleep(Duration::from_micros(20)).await;
            let visible = &home.board().visible;
            visible.publish(applied, hash);
            if let Some(revision) = compacted {
                visible.set_compact_revision(revision);
            }
        }));
    }

    /// Wakes the watches of all cores that have any.
    fn tell_watchers(&self) {
        self.0.watches.published();
        if self.parts.heralds.len() == 1 {
            return;
        }
        publication_fence();
        for core in self.0.links.others() {
            if self.0.board.core(core).has_streams() {
                self.tell_watchers_of(core);
            }
        }
    }

    fn tell_watchers_of(&self, core: u16) {
        let herald = &self.parts.heralds[usize::from(core)];
        if herald.get() == Herald::Idle {
            herald.set(Herald::UnderWay);
            let call = Call::Notice(Notice::Visible);
            self.0.links.call(core, Waiter::Herald(core), call);
        } else {
            herald.set(Herald::Again);
        }
    }

    /// A core was told of what was visible a moment ago.
    pub(super) fn herald_is_back(&self, core: u16) {
        let herald = &self.parts.heralds[usize::from(core)];
        if herald.replace(Herald::Idle) == Herald::Again {
            self.tell_watchers_of(core);
        }
    }

    /// Answers a call for home.
    pub(super) fn look(&self, look: crate::cores::call::HomeCall, answer: CallAnswer) {
        answer.answer(Response::Home(look(self)));
    }

    /// Says where the pipeline stands when a request has waited long.
    fn warn_of_backlog(&self, now_nanos: u64) {
        let Some(backlog) = self.parts.sequencer.borrow().backlog() else {
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
        while self.state() <= State::Serving {
            self.0.world.sleep(TIMEOUT_SWEEP_INTERVAL).await;
            let now = self.0.world.now().nanos();
            self.warn_of_backlog(now);
            let timeout = self.0.options.request_timeout.as_nanos() as u64;
            let deadline = now.saturating_sub(timeout);
            self.parts.sequencer.borrow_mut().time_out(now, deadline);
        }
    }
}
