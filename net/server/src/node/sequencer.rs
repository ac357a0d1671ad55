//! The sequencer: makes log entries of waiting requests, runs consensus and the log, and drives
//! committed entries through the shards.
//!
//! One straight pipeline, run in [`Sequencer::turn`] until nothing moves any more:
//!
//! ```text
//! waiting requests → entry → raft → log → disk
//! disk → log (durable) → raft (commit) → coordinator ⇄ shards → published → answers
//! ```
//!
//! Knows no sockets, and decides by no clock but the `now` it is given; it reads one to say how long an entry was where.

mod shown;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use engine::auth::Authorized;
use engine::command::{Command, CommandError, Reply};
use engine::coordinator::{Coordinator, CoordinatorOutput, FrozenState, Published};
use engine::entry::{EntryBuilder, RequestHead};
use engine::shard::Damage;
use raft::{Action, EntryKind, Input, LogIndex, ProposeError, Raft, Role, Term};
use reactor::World;
use wal::io::IoRequest;
use wal::{Wal, WalEvent};

pub(super) use shown::{Moment, Queues};

use super::dispatch::Dispatch;
use super::slow::{Finished, Times};
use super::waiters::Waiters;
use crate::cores::Board;
use crate::cores::call::{CallAnswer, Response};
use crate::disk::Disk;
use crate::local::Responder;
use crate::metrics::member::SLOW_APPLY_NANOS;
use crate::metrics::{ApplyKind, MemberMetrics, Phase};
use crate::planted::{Bug, planted};

/// An entry is closed when its requests reach this many bytes.
pub(super) const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// Most bytes of requests that wait for an entry; more are refused.
pub(super) const WAITING_BYTES_MAX: usize = 64 << 20;
/// Most requests that wait for an answer; more are refused.
pub(super) const WAITING_REQUESTS_MAX: usize = 256 << 10;

/// Most bytes of committed entries that one turn gives to the coordinator: other tasks run in between.
const COMMITTED_BYTES_PER_TURN: u64 = 4 << 20;
/// Most entries that the coordinator has and is not through with.
const ENTRIES_APPLYING_MAX: usize = 64;
/// The same while it is looked ahead for pages that they will need: many small entries hide the time of their loads
/// from each other.
const ENTRIES_AHEAD_MAX: usize = 1024;
/// Most keys of these entries; the last entry may go beyond. What was given is applied even if the disk falls behind
/// meanwhile, so this also bounds the pages that it may change then.
const KEYS_AHEAD_MAX: usize = 4096;

/// What became of a write.
pub struct WriteOutcome {
    /// Store revision for the answer's header.
    pub revision: i64,
    /// The answer, or an error that is an answer.
    pub result: Result<Reply, CommandError>,
}

/// Why an operation has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The state machine's own answer.
    Command(CommandError),
    /// Too much waits already.
    TooManyRequests,
    /// Nobody leads.
    NoLeader,
    /// No answer within the request timeout; whether it takes effect is unknown.
    TimedOut,
    /// The node stops.
    Stopped,
    /// Bytes that a read needs are damaged.
    Damaged(Damage),
}

/// Who waits for the answer to one request.
pub(super) enum WriteResponder {
    /// A task of this core.
    Here(Responder<Result<WriteOutcome, WriteError>>),
    /// Another core.
    There(CallAnswer),
}

impl WriteResponder {
    pub(super) fn answer(self, outcome: Result<WriteOutcome, WriteError>) {
        match self {
            WriteResponder::Here(responder) => responder.answer(outcome),
            WriteResponder::There(answer) => answer.answer(Response::Written(outcome)),
        }
    }
}

/// A closed or growing entry with those who wait for its requests, by position.
struct PendingEntry {
    builder: EntryBuilder,
    waiters: Waiters,
    /// When its first request came.
    began_nanos: u64,
}

impl PendingEntry {
    fn new() -> PendingEntry {
        PendingEntry {
            builder: EntryBuilder::new(),
            waiters: Waiters::default(),
            began_nanos: 0,
        }
    }
}

/// A proposed entry whose requests are not all answered.
struct Flight {
    index: u64,
    times: Times,
    waiters: Waiters,
}

/// What the last turn brought.
#[derive(Default)]
pub(super) struct TurnEffects {
    /// What became visible, in order.
    pub published: Vec<Published>,
    /// Entries of this member whose requests are all answered.
    pub finished: Vec<Finished>,
    /// A write or flush failed: nothing is acknowledged any more.
    pub poisoned: Option<String>,
    /// The log was closed cleanly.
    pub stopped: bool,
    /// Role, term or leader changed.
    pub role_changed: bool,
    /// The disk had no room for another log segment.
    pub disk_full: bool,
    /// More is committed than one turn may apply.
    pub goes_on: bool,
    /// The state machine needs bytes that are damaged: it cannot go on.
    pub damaged: Option<Damage>,
    /// What happened to a checkpoint, in order.
    pub checkpoints: Vec<CheckpointStep>,
}

/// A step of a checkpoint that the pipeline reports.
pub(super) enum CheckpointStep {
    /// Ids up to this one may be used.
    Reserved(u64),
    /// Every shard has fixed its image; the term of the last entry in it.
    Frozen(FrozenState, Term),
    /// The superblock names this checkpoint, and the log was cut at it.
    Durable(u64),
}

/// What was applied in this life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Volume {
    /// Requests.
    pub requests: u64,
    /// Operations of these: see [`Published::operations`].
    pub operations: u64,
    /// Bytes of their entries.
    pub bytes: u64,
}

/// See the module.
pub(super) struct Sequencer {
    raft: Raft,
    wal: Wal,
    coordinator: Coordinator,
    dispatch: Rc<Dispatch>,
    board: Arc<Board>,
    disk: Disk,
    clock: World,
    member_id: u64,
    growing: PendingEntry,
    closed: VecDeque<PendingEntry>,
    waiting_bytes: usize,
    waiting_requests: usize,
    flights: VecDeque<Flight>,
    /// Entries in the log that the coordinator has not been given yet, by ascending index.
    uncommitted: VecDeque<wal::Entry>,
    /// Given to the coordinator up to here, committed up to the next.
    given: u64,
    committed: u64,
    /// Entries that the coordinator has and is not through with, and for which it was looked ahead: index and keys.
    ahead: VecDeque<(u64, usize)>,
    /// Sum of their keys.
    keys_ahead: usize,
    durable: u64,
    last_request_id: u64,
    entries_in_flight_max: u64,
    requests: Vec<IoRequest>,
    actions: Vec<Action>,
    poisoned: bool,
    read_only: bool,
    volume: Volume,
    /// Somebody waits for the state behind the entry under way.
    moment_wanted: bool,
    moment: Option<Moment>,
}

/// What a sequencer is made of.
pub(super) struct Parts {
    /// Consensus, restored.
    pub raft: Raft,
    /// The opened log.
    pub wal: Wal,
    /// Entries found in the log after the checkpoint.
    pub entries: Vec<wal::Entry>,
    /// The state machine's sequencer side, at the checkpoint.
    pub coordinator: Coordinator,
    /// The way to its shards.
    pub dispatch: Rc<Dispatch>,
    /// Where what becomes visible is stored.
    pub board: Arc<Board>,
    /// The disk that executes the log's requests.
    pub disk: Disk,
    /// What says how long something took.
    pub clock: World,
    /// This member.
    pub member_id: u64,
    /// First request id of this life; ids are unique in a member's life.
    pub first_request_id: u64,
    /// Entries that may be on their way to the disk before the next one grows instead.
    pub entries_in_flight_max: u64,
}

impl Sequencer {
    /// A sequencer that has done nothing yet: [`Sequencer::turn`] starts it.
    pub(super) fn new(parts: Parts) -> Sequencer {
        let committed = parts.coordinator.applied().index;
        let durable = parts
            .entries
            .last()
            .map_or(committed, |entry| entry.index.0);
        let mut coordinator = parts.coordinator;
        // Whoever asked for what stands in the log has gone with the former life.
        coordinator.skip_answers(durable);
        Sequencer {
            raft: parts.raft,
            wal: parts.wal,
            coordinator,
            dispatch: parts.dispatch,
            board: parts.board,
            disk: parts.disk,
            clock: parts.clock,
            member_id: parts.member_id,
            growing: PendingEntry::new(),
            closed: VecDeque::new(),
            waiting_bytes: 0,
            waiting_requests: 0,
            flights: VecDeque::new(),
            uncommitted: parts.entries.into(),
            given: committed,
            committed,
            ahead: VecDeque::new(),
            keys_ahead: 0,
            durable,
            last_request_id: parts.first_request_id,
            entries_in_flight_max: parts.entries_in_flight_max,
            requests: Vec::new(),
            actions: Vec::new(),
            poisoned: false,
            read_only: false,
            volume: Volume::default(),
            moment_wanted: false,
            moment: None,
        }
    }

    /// Takes a request; it travels with the next entry.
    ///
    /// # Errors
    /// Nothing is kept when too much waits already or the log is closed.
    pub(super) fn submit(
        &mut self,
        command: &Authorized<Command>,
        responder: WriteResponder,
    ) -> Result<(), (WriteError, WriteResponder)> {
        if self.poisoned || self.read_only {
            self.metrics().proposals_failed.increment();
            return Err((WriteError::Stopped, responder));
        }
        if self.waiting_bytes >= WAITING_BYTES_MAX || self.waiting_requests >= WAITING_REQUESTS_MAX
        {
            self.metrics().proposals_failed.increment();
            return Err((WriteError::TooManyRequests, responder));
        }
        if self.growing.builder.len_bytes() >= ENTRY_BYTES_TARGET {
            self.close_entry();
        }
        self.last_request_id += 1;
        let before = self.growing.builder.len_bytes();
        let head = RequestHead {
            request_id: self.last_request_id,
            origin_member: self.member_id,
        };
        if self.growing.waiters.is_empty() {
            self.growing.began_nanos = self.clock.now().nanos();
        }
        self.growing.builder.push(head, command);
        self.growing.waiters.push(responder, ApplyKind::of(command));
        self.waiting_bytes += self.growing.builder.len_bytes() - before;
        self.waiting_requests += 1;
        Ok(())
    }

    fn close_entry(&mut self) {
        let entry = std::mem::replace(&mut self.growing, PendingEntry::new());
        self.closed.push_back(entry);
    }

    /// Runs the pipeline until nothing moves.
    pub(super) fn turn(&mut self, now_nanos: u64) -> TurnEffects {
        let mut effects = TurnEffects::default();
        let mut room = COMMITTED_BYTES_PER_TURN;
        loop {
            let mut moved = self.take_completions(now_nanos);
            moved |= self.take_log_events(now_nanos, &mut effects);
            moved |= self.propose();
            moved |= self.take_actions(&mut effects);
            moved |= self.give_committed(&mut room);
            moved |= self.run_coordinator(&mut effects);
            self.wal.poll(now_nanos, &mut self.requests);
            if !self.requests.is_empty() {
                self.disk.submit(&mut self.requests);
                moved = true;
            }
            if !moved {
                effects.goes_on = room == 0 && self.given < self.committed;
                return effects;
            }
        }
    }

    /// When the pipeline wants to be run again although nothing happens.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.wal.next_deadline()
    }

    fn take_completions(&mut self, now_nanos: u64) -> bool {
        let mut moved = false;
        while let Some((id, result)) = self.disk.next_completion() {
            match id.machine().as_shard() {
                Some(shard) => self.dispatch.complete(shard, id, result),
                None => self.wal.complete(now_nanos, id, result),
            }
            moved = true;
        }
        moved
    }

    fn take_log_events(&mut self, now_nanos: u64, effects: &mut TurnEffects) -> bool {
        let mut moved = false;
        while let Some(event) = self.wal.next_event() {
            moved = true;
            match event {
                WalEvent::Durable { index, term } => {
                    for flight in &mut self.flights {
                        if flight.index > self.durable && flight.index <= index.0 {
                            flight.times.durable = now_nanos;
                        }
                    }
                    self.durable = index.0;
                    let durable = Input::Durable {
                        index: LogIndex(index.0),
                        term: Term(term.0),
                    };
                    self.step(durable);
                }
                WalEvent::HardStateDurable { term, vote } => {
                    let durable = Input::HardStateDurable {
                        term: Term(term.0),
                        vote: raft_vote(vote),
                    };
                    self.step(durable);
                }
                WalEvent::Poisoned { file, what } => {
                    self.poisoned = true;
                    effects.poisoned = Some(format!("{file}: {what}"));
                    match self.uncommitted.back() {
                        Some(last) if planted(Bug::AnswerAfterFailure) => {
                            self.call_durable(LogIndex(last.index.0));
                        }
                        _ => self.fail_everyone(WriteError::Stopped),
                    }
                }
                WalEvent::NoSpace { .. } => effects.disk_full = true,
                WalEvent::Stopped => effects.stopped = true,
                WalEvent::CheckpointIdsReserved { through } => {
                    effects.checkpoints.push(CheckpointStep::Reserved(through));
                }
                WalEvent::CheckpointDurable { id, index } => {
                    self.step(Input::Compact {
                        index: LogIndex(index.0),
                    });
                    effects.checkpoints.push(CheckpointStep::Durable(id));
                }
            }
        }
        moved
    }

    /// An input of our own making can only be refused by a bug.
    fn step(&mut self, input: Input<'_>) {
        if let Err(error) = self.raft.step(input) {
            panic!("consensus refused a report of this member: {error}");
        }
    }

    /// Proposes what waits while there is room in flight; what does not fit grows.
    fn propose(&mut self) -> bool {
        let mut moved = false;
        while !self.poisoned {
            if !self.may_propose() || self.dispatch.hold_back() {
                break;
            }
            if self.closed.is_empty() {
                if self.growing.waiters.is_empty() {
                    break;
                }
                self.close_entry();
            }
            let Some(mut entry) = self.closed.pop_front() else {
                break;
            };
            self.waiting_requests -= entry.waiters.len();
            self.waiting_bytes -= self.waiting_bytes.min(entry.builder.len_bytes());
            let data = entry.builder.finish();
            match self.raft.propose(EntryKind::Normal, data.len() as u64) {
                Ok(id) => self.take_flight(id, data, entry.waiters, entry.began_nanos),
                Err(error) => self.refuse(entry.waiters, error),
            }
            moved = true;
        }
        moved
    }

    fn refuse(&self, waiters: Waiters, error: ProposeError) {
        let error = match error {
            ProposeError::TooManyUncommitted { .. } => WriteError::TooManyRequests,
            _ => WriteError::NoLeader,
        };
        let ended = waiters.fail(&error);
        self.metrics().proposals_failed.add(ended);
    }

    /// Whether the next entry should go now rather than grow. While entries are on their way to the
    /// disk a further one goes only if it carries as much as they do: many clients then share one
    /// flush instead of splitting over two, and a slow disk still gets the next write early.
    fn may_propose(&self) -> bool {
        let on_their_way = self
            .flights
            .iter()
            .rev()
            .take_while(|f| f.index > self.durable);
        let (entries, requests) =
            on_their_way.fold((0, 0), |(n, r), flight| (n + 1, r + flight.waiters.len()));
        let carries_as_much = !self.closed.is_empty() || self.waiting_requests >= requests;
        entries == 0 || (entries < self.entries_in_flight_max && carries_as_much)
    }

    fn take_flight(
        &mut self,
        id: raft::EntryId,
        data: Bytes,
        mut waiters: Waiters,
        began_nanos: u64,
    ) {
        let now_nanos = self.clock.now().nanos();
        waiters.mark(now_nanos);
        let metrics = self.metrics();
        metrics.entry_requests.observe(waiters.len() as u64);
        let queued = now_nanos.saturating_sub(began_nanos);
        metrics.phase(Phase::Queue).observe(queued);
        self.flights.push_back(Flight {
            index: id.index.0,
            times: Times {
                proposed: now_nanos,
                ..Times::default()
            },
            waiters,
        });
        self.uncommitted.push_back(wal::Entry {
            index: wal::Index(id.index.0),
            term: wal::Term(id.term.0),
            kind: EntryKind::Normal.to_byte(),
            data,
        });
    }

    fn take_actions(&mut self, effects: &mut TurnEffects) -> bool {
        let mut actions = std::mem::take(&mut self.actions);
        self.raft.drain_actions(&mut actions);
        let moved = !actions.is_empty();
        for action in actions.drain(..) {
            match action {
                Action::SaveHardState { term, vote } => {
                    self.wal.save_hard_state(wal::Term(term.0), log_vote(vote));
                }
                Action::Append {
                    first,
                    last,
                    truncates,
                } => self.append(first, last, truncates),
                Action::Commit { index } => self.commit(index),
                Action::RoleChanged { role, .. } => {
                    effects.role_changed = true;
                    if role != Role::Leader {
                        self.fail_everyone(WriteError::NoLeader);
                    }
                }
                // Reads ask again by themselves when something was applied.
                Action::ReadReady { .. } | Action::ReadsAborted { .. } => {}
                Action::Send(_) | Action::InstallSnapshot(_) => {
                    panic!("a member without peers was asked to {action:?}");
                }
            }
        }
        self.actions = actions;
        moved
    }

    /// Hands the entries `first..=last` to the log. Entries nobody proposed here are the machine's
    /// own and have no payload.
    fn append(&mut self, first: LogIndex, last: LogIndex, truncates: bool) {
        assert!(!truncates, "a sole voter never replaces entries");
        let mut entries = Vec::new();
        for meta in self.raft.entries(first, last) {
            let at = self
                .uncommitted
                .iter()
                .rposition(|entry| entry.index.0 <= meta.index.0);
            let known = at.map(|at| (at, self.uncommitted[at].index.0 == meta.index.0));
            let entry = match known {
                Some((at, true)) => self.uncommitted[at].clone(),
                _ => {
                    let entry = wal::Entry {
                        index: wal::Index(meta.index.0),
                        term: wal::Term(meta.term.0),
                        kind: meta.kind.to_byte(),
                        data: Bytes::new(),
                    };
                    self.uncommitted
                        .insert(at.map_or(0, |at| at + 1), entry.clone());
                    entry
                }
            };
            entries.push(entry);
        }
        self.wal.append(entries);
        if planted(Bug::AnswerBeforeDurable) {
            self.call_durable(last);
        }
    }

    /// A planted bug: calls durable what only was handed to the log.
    fn call_durable(&mut self, index: LogIndex) {
        let term = self.raft.status().term;
        self.step(Input::Durable { index, term });
    }

    fn commit(&mut self, index: LogIndex) {
        self.committed = self.committed.max(index.0);
        self.wal.set_commit_hint(wal::Index(index.0));
    }

    /// Gives committed entries to the coordinator, in order, while it and the disk keep up and `room` bytes
    /// are not used up.
    fn give_committed(&mut self, room: &mut u64) -> bool {
        let mut moved = false;
        let looks_ahead = self.given < self.committed && self.dispatch.looks_ahead();
        let entries_max = match looks_ahead {
            true => ENTRIES_AHEAD_MAX,
            false => ENTRIES_APPLYING_MAX,
        };
        while self.given < self.committed
            && *room > 0
            && self.coordinator.waiting() < entries_max
            && self.keys_ahead < KEYS_AHEAD_MAX
            && !self.dispatch.hold_back()
        {
            moved = true;
            let Some(entry) = self.uncommitted.pop_front() else {
                panic!(
                    "entry {} is committed but its payload is not here",
                    self.given + 1
                );
            };
            assert_eq!(entry.index.0, self.given + 1, "payloads are in index order");
            self.given = entry.index.0;
            self.note_given();
            *room = room.saturating_sub(entry.data.len() as u64 + 1);
            self.volume.bytes += entry.data.len() as u64;
            // A change of membership means nothing to the state machine.
            let normal = entry.kind == EntryKind::Normal.to_byte();
            let data = if normal { entry.data } else { Bytes::new() };
            if let Err(error) = self.coordinator.push_entry(entry.index.0, data) {
                panic!("entry {} cannot be applied: {error}", entry.index.0);
            }
            if looks_ahead {
                self.look_ahead(entry.index.0);
            }
        }
        if moved && looks_ahead {
            self.dispatch.load_ahead(self.coordinator.applied().index);
        }
        moved
    }

    /// The entry that was given last was committed just now.
    fn note_given(&mut self) {
        let flights = &mut self.flights;
        // Entries of a former life have none.
        if let Ok(at) = flights.binary_search_by_key(&self.given, |flight| flight.index) {
            let now_nanos = self.clock.now().nanos();
            let flight = &mut flights[at];
            flight.times.given = now_nanos;
            let logged = now_nanos.saturating_sub(flight.times.proposed);
            self.metrics().phase(Phase::Log).observe(logged);
        }
    }

    /// How long the entry at `index`, which is applied, took since it was committed; 0 if nobody waits for it.
    fn note_applied(&self, index: u64) -> u64 {
        let found = self
            .flights
            .binary_search_by_key(&index, |flight| flight.index);
        let Ok(at) = found else {
            return 0;
        };
        let given_nanos = self.flights[at].times.given;
        let took = self.clock.now().nanos().saturating_sub(given_nanos);
        let metrics = self.metrics();
        metrics.phase(Phase::Apply).observe(took);
        if took > SLOW_APPLY_NANOS {
            metrics.slow_applies.increment();
        }
        took
    }

    fn metrics(&self) -> &MemberMetrics {
        &self.board.metrics.member
    }

    /// Tells the shards which keys entry `index`, which was given last, will touch.
    fn look_ahead(&mut self, index: u64) {
        let dispatch = &self.dispatch;
        let mut keys = 0;
        self.coordinator.for_each_key_ahead(&mut |shard, key| {
            dispatch.note_ahead(shard, index, key);
            keys += 1;
        });
        self.ahead.push_back((index, keys));
        self.keys_ahead += keys;
    }

    fn run_coordinator(&mut self, effects: &mut TurnEffects) -> bool {
        let mut moved = false;
        loop {
            while let Some(output) = self.coordinator.poll() {
                moved = true;
                match output {
                    CoordinatorOutput::Shard { shard, request } => {
                        self.dispatch.send(shard, request)
                    }
                    CoordinatorOutput::Published(published) => {
                        self.publish(published, effects);
                    }
                    CoordinatorOutput::Frozen(frozen) => {
                        let index = LogIndex(frozen.applied.index);
                        let Some(term) = self.raft.log().term_at(index) else {
                            panic!("entry {index:?} is applied and not in the log");
                        };
                        let step = CheckpointStep::Frozen(frozen, term);
                        effects.checkpoints.push(step);
                    }
                }
            }
            self.dispatch.begin();
            if !self.poisoned
                && let Some(damage) = self.dispatch.damage()
            {
                self.fail();
                effects.damaged = Some(damage);
                return true;
            }
            let mut replied = false;
            while let Some((shard, reply)) = self.dispatch.next_reply() {
                self.coordinator.on_reply(shard, reply);
                replied = true;
            }
            if !replied {
                return moved;
            }
            moved = true;
        }
    }

    fn publish(&mut self, mut published: Published, effects: &mut TurnEffects) {
        let applied = published.applied.index;
        while let Some(&(index, keys)) = self.ahead.front()
            && index <= applied
        {
            self.ahead.pop_front();
            self.keys_ahead -= keys;
        }
        // Before any answer leaves: an answer on another core is as fast as its reader.
        self.make_visible(&published);
        if std::mem::take(&mut self.moment_wanted) {
            self.moment = Some(self.moment_now());
        }
        self.volume.requests += u64::from(published.requests);
        self.volume.operations += published.operations;
        let took = self.note_applied(applied);
        let board = Arc::clone(&self.board);
        let metrics = &board.metrics.member;
        for outcome in published.outcomes.drain(..) {
            let Some(at) = self
                .flights
                .iter()
                .position(|flight| flight.index == outcome.index)
            else {
                continue;
            };
            let waiters = &mut self.flights[at].waiters;
            if let Some(kind) = waiters.kind(outcome.position) {
                let success = outcome.result.is_ok();
                metrics.applies(kind, success).observe(took);
            }
            if let Ok(reply) = &outcome.result {
                metrics.note_reply(reply);
            }
            waiters.answer(
                outcome.position,
                WriteOutcome {
                    revision: outcome.revision,
                    result: outcome.result,
                },
            );
        }
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.index <= applied) {
            effects.finished.push(Finished {
                index: flight.index,
                requests: flight.waiters.len(),
                times: flight.times,
            });
        }
        self.step(Input::Applied {
            index: LogIndex(applied),
        });
        effects.published.push(published);
    }

    fn make_visible(&self, published: &Published) {
        if planted(Bug::AnswerBeforeVisible) {
            return;
        }
        let visible = &self.board.visible;
        let mut applied = published.applied;
        if planted(Bug::AnnounceBeforeApplied) {
            applied.revision += 1;
        }
        visible.publish(applied, self.coordinator.apply_hash());
        if let Some(revision) = published.compacted {
            visible.set_compact_revision(revision);
        }
    }

    /// Answers requests that came before `deadline_nanos`, seen from marks of earlier calls, and have no
    /// outcome yet, whether they were proposed or not. One that was not keeps its place in its entry and may still take effect.
    pub(super) fn time_out(&mut self, now_nanos: u64, deadline_nanos: u64) {
        let mut ended = 0;
        for flight in &mut self.flights {
            ended += flight.waiters.time_out(deadline_nanos);
        }
        for entry in self.closed.iter_mut().chain([&mut self.growing]) {
            entry.waiters.mark(now_nanos);
            ended += entry.waiters.time_out(deadline_nanos);
        }
        self.metrics().proposals_failed.add(ended);
    }

    fn fail_everyone(&mut self, error: WriteError) {
        let mut ended = 0;
        for flight in self.flights.drain(..) {
            ended += flight.waiters.fail(&error);
        }
        self.close_entry();
        for entry in self.closed.drain(..) {
            ended += entry.waiters.fail(&error);
        }
        self.metrics().proposals_failed.add(ended);
        self.waiting_bytes = 0;
        self.waiting_requests = 0;
    }

    /// Takes and acknowledges nothing more.
    pub(super) fn fail(&mut self) {
        self.poisoned = true;
        self.fail_everyone(WriteError::Stopped);
    }

    /// Asks for checkpoint ids up to `through`.
    pub(super) fn reserve_checkpoint_ids(&mut self, through: u64) {
        self.wal.reserve_checkpoint_ids(through);
    }

    /// Freezes all shards before the next entry.
    pub(super) fn freeze(&mut self, id: u32) {
        self.coordinator.freeze(id);
    }

    /// Publishes a checkpoint whose images are durable.
    pub(super) fn checkpoint(&mut self, checkpoint: wal::Checkpoint) {
        self.wal.checkpoint(checkpoint);
    }

    /// What was applied in this life.
    pub(super) fn volume(&self) -> Volume {
        self.volume
    }

    /// Whether the log takes something.
    pub(super) fn is_open(&self) -> bool {
        !self.poisoned && !self.read_only
    }

    /// Closes the log: what is submitted is finished, nothing new is taken.
    pub(super) fn stop(&mut self) {
        self.read_only = true;
        self.wal.stop();
    }

    /// Whether changes of a restore may come: nothing is under way, and the disk keeps up.
    pub(super) fn may_restore(&self) -> bool {
        self.coordinator.is_idle() && !self.dispatch.hold_back()
    }

    /// Changes the state machine beside the log. The pipeline has to run then.
    pub(super) fn restore(&mut self, change: impl FnOnce(&mut Coordinator)) {
        change(&mut self.coordinator);
    }

    /// What is wrong with a restored change.
    pub(super) fn take_restore_fault(&mut self) -> Option<String> {
        self.coordinator.take_restore_fault()
    }

    /// The index a linearizable read has to wait for; `None` while nobody leads.
    pub(super) fn read_index(&mut self) -> Option<u64> {
        match self.raft.read_index() {
            Ok(raft::ReadStart::Ready(index)) => Some(index.0),
            Ok(raft::ReadStart::Pending(_)) | Err(_) => None,
        }
    }
}

fn raft_vote(vote: wal::Vote) -> raft::Vote {
    match vote {
        wal::Vote::None => raft::Vote::None,
        wal::Vote::For(member) => raft::Vote::For(raft::MemberId(member)),
        wal::Vote::Unknown => raft::Vote::Unknown,
    }
}

fn log_vote(vote: raft::Vote) -> wal::Vote {
    match vote {
        raft::Vote::None => wal::Vote::None,
        raft::Vote::For(member) => wal::Vote::For(member.0),
        raft::Vote::Unknown => wal::Vote::Unknown,
    }
}
