//! The machine: its state, its inputs, and the order in which actions leave it.

use crate::interface::{
    Action, ConfChangeGate, Config, EntryId, Input, ProposeError, Status, StepError,
};
use crate::log::{Log, NotALog};
use crate::membership::{ChangeError, ConfChange, Configuration, Membership};
use crate::message::{Message, MessageBody};
use crate::progress::Progress;
use crate::random::Random;
use crate::read_index::Reads;
use crate::trace::Trace;
use crate::types::{
    EntryKind, EntryMeta, HardState, LogIndex, MemberId, Position, Restored, Role, Term, Vote,
};

/// A reply that must not leave before what it promises is durable.
#[derive(Clone, Debug)]
struct Held {
    message: Message,
    hard_state: HardState,
    entry: Option<Position>,
}

/// One member of one consensus group. Owned by the core that sequences.
///
/// Invariants (`check`):
/// - `term` is at least the term of every entry;
/// - a leader knows itself as leader; candidates know no leader;
/// - the own vote of a candidate is in the count only if the durable hard state covers it;
/// - a leader's own match index is at most the durable index;
/// - the log's and the membership's own invariants hold.
#[derive(Debug)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) term: Term,
    pub(crate) vote: Vote,
    pub(crate) role: Role,
    pub(crate) leader: Option<MemberId>,
    pub(crate) log: Log,
    pub(crate) membership: Membership,
    /// Answers to the present campaign.
    pub(crate) votes: Vec<(MemberId, bool)>,
    /// As handed out for saving.
    saved: HardState,
    /// As reported durable.
    pub(crate) durable_state: HardState,
    held: Vec<Held>,
    pub(crate) actions: Vec<Action>,
    commit_announced: LogIndex,
    announced: (Role, Term, Option<MemberId>),
    pub(crate) now_nanos: u64,
    pub(crate) election_since: u64,
    pub(crate) heartbeat_since: u64,
    pub(crate) election_timeout_drawn: u64,
    pub(crate) random: Random,
    /// While a change up to this index may be unapplied, no other is let in.
    pub(crate) pending_conf_index: LogIndex,
    pub(crate) uncommitted_bytes: u64,
    pub(crate) transfer: Option<MemberId>,
    pub(crate) reads: Reads,
    /// When the durable prefix last grew, or began to lag.
    durable_since: u64,
    /// A sole voter that could not campaign when it was created.
    campaign_when_applied: bool,
    traces: Vec<Trace>,
    #[cfg(test)]
    pub(crate) planted: Option<crate::simulation::PlantedBug>,
}

impl Raft {
    /// A member as restored from disk. Actions may be waiting at once.
    ///
    /// # Errors
    /// `NotALog` if the restored entries are none.
    ///
    /// # Panics
    /// If the configuration is impossible: id 0, or a heartbeat interval that is not below the
    /// election timeout.
    pub fn new(config: Config, restored: Restored) -> Result<Raft, NotALog> {
        assert!(config.id.0 != 0, "member 0 is nobody");
        assert!(
            config.id.0 != u64::MAX,
            "this id stands for an unknown vote"
        );
        assert!(config.heartbeat_interval_nanos > 0, "heartbeats need time");
        assert!(
            config.heartbeat_interval_nanos < config.election_timeout_nanos,
            "a heartbeat per election timeout at least"
        );
        let mut log = Log::restore(restored.checkpoint, &restored.entries)?;
        let last = log.last();
        let commit = restored.commit.max(restored.applied).min(last.index);
        log.set_commit(commit);
        log.set_applied(restored.applied.min(commit));
        // Entries newer than the saved term say that a vote in their term may be forgotten.
        let raises = config.checkpoint_raises_term || last != restored.checkpoint;
        let (term, vote) = if raises && last.term > restored.term {
            (last.term, Vote::Unknown)
        } else {
            (restored.term, restored.vote)
        };
        let membership = Membership::new(
            restored.configuration,
            last.index,
            config.in_flight_messages_max,
            config.in_flight_bytes_max,
        );
        // A term that only entries prove must be saved before anything is said in it: a
        // truncation may remove those entries.
        let hard_state = if vote == Vote::Unknown {
            HardState::default()
        } else {
            HardState { term, vote }
        };
        let mut raft = Raft {
            term,
            vote,
            role: Role::Follower,
            leader: None,
            commit_announced: log.applied(),
            log,
            membership,
            votes: Vec::new(),
            saved: hard_state,
            durable_state: hard_state,
            held: Vec::new(),
            actions: Vec::new(),
            announced: (Role::Follower, term, None),
            now_nanos: 0,
            election_since: 0,
            heartbeat_since: 0,
            election_timeout_drawn: 0,
            random: Random::new(config.seed),
            pending_conf_index: LogIndex(0),
            uncommitted_bytes: 0,
            transfer: None,
            reads: Reads::default(),
            durable_since: 0,
            campaign_when_applied: false,
            traces: Vec::new(),
            #[cfg(test)]
            planted: None,
            config,
        };
        raft.note_configuration();
        raft.become_follower(term, None);
        if raft.config.campaign_at_start
            && raft.membership.configuration.is_sole_voter(raft.config.id)
        {
            raft.campaign_when_applied = true;
            raft.campaign_if_sole_voter();
        }
        raft.finish_step();
        Ok(raft)
    }

    /// Handles one input. The caller drains the actions before the next one.
    ///
    /// # Errors
    /// `StepError`; nothing has changed.
    pub fn step(&mut self, input: Input<'_>) -> Result<(), StepError> {
        match input {
            Input::Tick { now_nanos } => self.tick(now_nanos),
            Input::Message { message, entries } => self.receive(message, entries)?,
            Input::Durable { index, term } => self.durable(Position { index, term }),
            Input::HardStateDurable { term, vote } => self.hard_state_durable(term, vote)?,
            Input::Applied { index } => self.applied(index)?,
            Input::SnapshotInstalled { position } => {
                if self.log.installed(position) {
                    self.release_held();
                }
            }
            Input::Compact { index } => {
                let max = self.log.applied();
                if index > max {
                    return Err(StepError::OutOfRange {
                        name: "compaction",
                        index,
                        max,
                    });
                }
                self.log.compact(index);
            }
            Input::Campaign => self.campaign_on_timeout(),
            Input::ForgetLeader => self.forget_leader(),
            Input::TransferLeader { target } => self.transfer_leader(target),
            Input::Unreachable { member } => self.unreachable(member),
            Input::SnapshotReport { member, outcome } => self.snapshot_report(member, outcome),
        }
        self.finish_step();
        Ok(())
    }

    /// Appends one entry on the leader. The payload of `bytes` bytes stays with the caller under
    /// the returned index.
    ///
    /// # Errors
    /// `ProposeError`; nothing has changed.
    pub fn propose(&mut self, kind: EntryKind, bytes: u64) -> Result<EntryId, ProposeError> {
        if kind != EntryKind::Normal {
            return Err(ProposeError::KindReserved);
        }
        self.may_propose(bytes)?;
        let position = self.append_own(kind, bytes);
        self.broadcast_append();
        self.finish_step();
        Ok(EntryId {
            index: position.index,
            term: position.term,
        })
    }

    /// Appends a membership change on the leader; `bytes` is the length of its payload.
    ///
    /// A change of one member without a joint configuration may use either kind.
    ///
    /// # Errors
    /// `ProposeError`; nothing has changed.
    pub fn propose_conf_change(
        &mut self,
        kind: EntryKind,
        change: &ConfChange,
        bytes: u64,
    ) -> Result<EntryId, ProposeError> {
        if !kind.changes_membership() {
            return Err(ProposeError::KindReserved);
        }
        self.may_propose(bytes)?;
        if let Err(error) = self.may_change_membership(change) {
            if self.config.trace {
                self.note(Trace::ConfChangeRefused {
                    configuration: self.membership.configuration.clone(),
                    error,
                });
            }
            return Err(error);
        }
        let position = self.append_own(kind, bytes);
        self.pending_conf_index = position.index;
        self.broadcast_append();
        self.finish_step();
        Ok(EntryId {
            index: position.index,
            term: position.term,
        })
    }

    /// Puts a membership change into force. The caller does so when it applies the entry, before
    /// it reports the entry as applied.
    ///
    /// # Errors
    /// `ChangeError` if the change does not fit the configuration; nothing has changed.
    pub fn apply_conf_change(&mut self, change: &ConfChange) -> Result<(), ChangeError> {
        let next = self.log.last().index;
        self.membership.apply(change, next)?;
        self.configuration_switched();
        self.finish_step();
        Ok(())
    }

    /// Moves the waiting actions to the end of `out`, in order.
    pub fn drain_actions(&mut self, out: &mut Vec<Action>) {
        out.append(&mut self.actions);
    }

    /// Moves the recorded transitions to the end of `out`.
    pub fn drain_traces(&mut self, out: &mut Vec<Trace>) {
        out.append(&mut self.traces);
    }

    /// The entries `first..=last`, as far as the log has them.
    pub fn entries(&self, first: LogIndex, last: LogIndex) -> impl Iterator<Item = EntryMeta> + '_ {
        (first.0..=last.0).map_while(|index| self.log.entry(LogIndex(index)))
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The members.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.membership.configuration
    }

    /// What the leader knows of each member, in ascending order of id.
    pub fn progress(&self) -> impl Iterator<Item = (MemberId, &Progress)> {
        self.membership.progress.iter()
    }

    /// Replies that wait for something to become durable, oldest first.
    pub fn held(&self) -> impl Iterator<Item = &Message> {
        self.held.iter().map(|held| &held.message)
    }

    /// True if this member leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    /// The newest term seen.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Who leads, if known.
    #[must_use]
    pub fn leader(&self) -> Option<MemberId> {
        self.leader
    }

    /// The state at this moment, copied; the hot path asks `is_leader`, `term` and `log`.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            role: self.role,
            term: self.term,
            vote: self.vote,
            leader: self.leader,
            last: self.log.last(),
            first_index: self.log.first_index(),
            commit: self.log.commit(),
            applied: self.log.applied(),
            durable: self.log.durable(),
            configuration: self.membership.configuration.clone(),
            uncommitted_bytes: self.uncommitted_bytes,
            transfer: self.transfer,
        }
    }

    /// When the next tick has something to do, if no other input comes before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if self.role != Role::Leader {
            return self.promotable().then(|| {
                self.election_since
                    .saturating_add(self.election_timeout_drawn)
            });
        }
        if self.is_alone() {
            return None;
        }
        let heartbeat = self.heartbeat_since + self.config.heartbeat_interval_nanos;
        let quorum_check = self.election_since + self.config.election_timeout_nanos;
        Some(heartbeat.min(quorum_check))
    }

    /// Replaces the drawn election timeout until the next draw. For scripts that need to know it.
    pub fn set_election_timeout(&mut self, timeout_nanos: u64) {
        self.election_timeout_drawn = timeout_nanos;
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        self.log.check();
        self.membership.check();
        let newest = self.log.last();
        if self.config.checkpoint_raises_term || newest != self.log.base() {
            assert!(newest.term <= self.term, "entries of the future");
        }
        match self.role {
            Role::Leader => {
                assert_eq!(self.leader, Some(self.config.id), "a leader knows itself");
                #[cfg(test)]
                if self.planted.is_some() {
                    return;
                }
                if let Some(own) = self.membership.progress.of(self.config.id) {
                    assert!(own.matched <= self.log.durable(), "own match not durable");
                }
            }
            Role::Candidate | Role::PreCandidate => {
                assert_eq!(self.leader, None, "a candidate knows no leader");
            }
            Role::Follower | Role::Learner => {}
        }
        #[cfg(test)]
        if self.planted.is_some() {
            return;
        }
        if self.role == Role::Candidate && self.has_own_vote() {
            let needed = HardState {
                term: self.term,
                vote: Vote::For(self.config.id),
            };
            assert!(self.durable_state.covers(needed), "own vote not durable");
        }
        assert!(
            self.commit_announced <= self.log.commit(),
            "announced more than committed"
        );
    }

    // ---- inputs about the own disk and state machine ----

    fn durable(&mut self, position: Position) {
        if !self.log.set_durable(position) {
            return;
        }
        self.durable_since = self.now_nanos;
        self.release_held();
        if self.role == Role::Leader {
            self.count_own_durable();
        }
    }

    fn hard_state_durable(&mut self, term: Term, vote: Vote) -> Result<(), StepError> {
        if term > self.saved.term {
            let saved = self.saved.term;
            return Err(StepError::NeverSaved { term, saved });
        }
        let reported = HardState { term, vote };
        if !self.durable_state.covers(reported) {
            self.durable_state = reported;
            self.release_held();
            self.count_own_vote();
        }
        Ok(())
    }

    fn applied(&mut self, index: LogIndex) -> Result<(), StepError> {
        let max = self.log.commit();
        if index > max {
            return Err(StepError::OutOfRange {
                name: "applied index",
                index,
                max,
            });
        }
        self.log.set_applied(index);
        self.leave_joint_when_applied();
        self.campaign_if_sole_voter();
        Ok(())
    }

    fn campaign_if_sole_voter(&mut self) {
        if !self.campaign_when_applied || self.has_unapplied_conf_change() {
            return;
        }
        self.campaign_when_applied = false;
        if self.membership.configuration.is_sole_voter(self.config.id) {
            self.campaign_at_once();
        }
    }

    // ---- proposals ----

    fn may_propose(&self, bytes: u64) -> Result<(), ProposeError> {
        if self.role != Role::Leader {
            return Err(ProposeError::NotLeader {
                leader: self.leader,
            });
        }
        if self.membership.progress.of(self.config.id).is_none() {
            return Err(ProposeError::Removed);
        }
        if let Some(target) = self.transfer {
            return Err(ProposeError::TransferInProgress { target });
        }
        // One proposal is always let in, and an empty one costs nothing.
        let uncommitted = self.uncommitted_bytes;
        if uncommitted > 0 && bytes > 0 && uncommitted + bytes > self.config.uncommitted_bytes_max {
            return Err(ProposeError::TooManyUncommitted {
                uncommitted_bytes: uncommitted,
                uncommitted_bytes_max: self.config.uncommitted_bytes_max,
            });
        }
        Ok(())
    }

    fn may_change_membership(&self, change: &ConfChange) -> Result<(), ProposeError> {
        let gate = self.config.conf_change_gate;
        if gate == ConfChangeGate::Unchecked {
            return Ok(());
        }
        if gate == ConfChangeGate::OwnTermCommitted && !self.own_term_committed() {
            return Err(ProposeError::TermNotCommitted { term: self.term });
        }
        if self.pending_conf_index > self.log.applied() {
            return Err(ProposeError::ConfChangePending {
                pending: self.pending_conf_index,
                applied: self.log.applied(),
            });
        }
        let joint = self.membership.configuration.is_joint();
        let leaves = change.changes.is_empty();
        if joint && !leaves {
            return Err(ProposeError::JointNotLeft);
        }
        if !joint && leaves {
            return Err(ProposeError::NotJoint);
        }
        Ok(())
    }

    fn leave_joint_when_applied(&mut self) {
        let due = self.membership.configuration.auto_leave
            && self.log.applied() >= self.pending_conf_index
            && self.role == Role::Leader;
        if !due || self.may_propose(0).is_err() {
            return;
        }
        let leave = ConfChange::default();
        if self.may_change_membership(&leave).is_err() {
            return;
        }
        let position = self.append_own(EntryKind::ConfChangeJoint, 0);
        self.pending_conf_index = position.index;
        if self.config.trace {
            self.note(Trace::AutoLeave(self.membership.configuration.clone()));
        }
        self.broadcast_append();
    }

    /// Appends an entry of the own term to the own log.
    pub(crate) fn append_own(&mut self, kind: EntryKind, bytes: u64) -> Position {
        assert!(self.role == Role::Leader, "only a leader creates entries");
        self.uncommitted_bytes += bytes;
        self.lag_begins();
        let position = self.log.push(self.term, kind, bytes);
        #[cfg(test)]
        if self.planted == Some(crate::simulation::PlantedBug::CountWithoutDurable) {
            let own = self.membership.progress.of_mut(self.config.id);
            own.expect("a leader is a member").accepted(position.index);
        }
        self.order_write(position.index, position.index, false);
        position
    }

    /// Asks for a write, joined with the one before if they touch.
    pub(crate) fn order_write(&mut self, first: LogIndex, last: LogIndex, truncates: bool) {
        self.save_hard_state();
        if !truncates
            && let Some(Action::Append { last: end, .. }) = self.actions.last_mut()
            && end.next() == first
        {
            *end = last;
            return;
        }
        self.actions.push(Action::Append {
            first,
            last,
            truncates,
        });
    }

    /// Remembers since when something waits for the disk.
    pub(crate) fn lag_begins(&mut self) {
        if self.log.durable() == self.log.last().index {
            self.durable_since = self.now_nanos;
        }
    }

    /// True if entries have waited for the own disk longer than an election timeout.
    pub(crate) fn disk_is_stalled(&self) -> bool {
        self.log.durable() < self.log.last().index
            && self.now_nanos.saturating_sub(self.durable_since)
                > self.config.election_timeout_nanos
    }

    // ---- configuration ----

    pub(crate) fn note_configuration(&mut self) {
        if self.config.trace {
            let configuration = self.membership.configuration.clone();
            self.note(Trace::ConfigurationSwitched(configuration));
        }
    }

    fn configuration_switched(&mut self) {
        self.note_configuration();
        if self.role != Role::Leader {
            self.role = match self.role {
                Role::Follower | Role::Learner => self.passive_role(),
                other => other,
            };
            return;
        }
        let own = self.membership.progress.of(self.config.id);
        if own.is_none_or(|progress| progress.is_learner) {
            if self.config.step_down_on_removal {
                self.become_follower(self.term, None);
            }
            return;
        }
        if self.advance_commit() {
            self.broadcast_append();
        } else {
            for place in 0..self.membership.progress.count() {
                let member = self.membership.progress.member_at(place);
                self.send_append_if_any(member);
            }
        }
        if let Some(target) = self.transfer
            && !self.membership.configuration.voters.contains(target)
        {
            self.transfer = None;
        }
    }

    // ---- replies and the order of actions ----

    pub(crate) fn message(&self, to: MemberId, term: Term, body: MessageBody) -> Message {
        Message {
            from: self.config.id,
            to,
            term,
            body,
        }
    }

    pub(crate) fn send(&mut self, to: MemberId, body: MessageBody) {
        let message = self.message(to, self.term, body);
        self.actions.push(Action::Send(message));
    }

    /// Sends a reply of the present term as soon as term, `vote` and `entry` are durable.
    pub(crate) fn send_when_durable(
        &mut self,
        to: MemberId,
        body: MessageBody,
        vote: Vote,
        entry: Option<Position>,
    ) {
        let held = Held {
            message: self.message(to, self.term, body),
            hard_state: HardState {
                term: self.term,
                vote,
            },
            entry,
        };
        if self.may_leave(&held) {
            self.actions.push(Action::Send(held.message));
        } else {
            if self.config.trace {
                self.note(Trace::ReplyHeld(Box::new(held.message.clone())));
            }
            self.held.push(held);
        }
    }

    fn may_leave(&self, held: &Held) -> bool {
        #[cfg(test)]
        match self.planted {
            Some(crate::simulation::PlantedBug::VoteBeforeDurable) if held.entry.is_none() => {
                return true;
            }
            Some(crate::simulation::PlantedBug::AcknowledgeBeforeDurable) => {
                return self.durable_state.covers(held.hard_state);
            }
            _ => {}
        }
        self.durable_state.covers(held.hard_state)
            && held.entry.is_none_or(|entry| self.log.is_durable(entry))
    }

    fn release_held(&mut self) {
        let mut place = 0;
        while place < self.held.len() {
            if self.may_leave(&self.held[place]) {
                let message = self.held.remove(place).message;
                self.actions.push(Action::Send(message));
            } else {
                place += 1;
            }
        }
    }

    /// Drops acknowledgements of entries from `index` on, which are being replaced.
    pub(crate) fn void_held_from(&mut self, index: LogIndex) {
        self.held
            .retain(|held| held.entry.is_none_or(|entry| entry.index < index));
    }

    pub(crate) fn save_hard_state(&mut self) {
        let current = HardState {
            term: self.term,
            vote: self.vote,
        };
        if current != self.saved {
            self.saved = current;
            self.actions.push(Action::SaveHardState {
                term: current.term,
                vote: current.vote,
            });
        }
    }

    pub(crate) fn snapshot_adopted(&mut self, position: Position) {
        self.commit_announced = position.index;
    }

    fn finish_step(&mut self) {
        self.save_hard_state();
        let applicable = self.log.applicable();
        if applicable > self.commit_announced {
            self.commit_announced = applicable;
            self.actions.push(Action::Commit { index: applicable });
        }
        let now = (self.role, self.term, self.leader);
        if now != self.announced {
            self.announced = now;
            self.actions.push(Action::RoleChanged {
                role: self.role,
                term: self.term,
                leader: self.leader,
            });
        }
    }

    // ---- small questions ----

    pub(crate) fn note(&mut self, trace: Trace) {
        if self.config.trace {
            self.traces.push(trace);
        }
    }

    /// True if an entry of the own term is committed.
    pub(crate) fn own_term_committed(&self) -> bool {
        self.log.term_at(self.log.commit()) == Some(self.term)
    }

    /// True if nobody else is a member.
    pub(crate) fn is_alone(&self) -> bool {
        self.membership.progress.count() == 1
            && self.membership.progress.of(self.config.id).is_some()
    }

    pub(crate) fn passive_role(&self) -> Role {
        let configuration = &self.membership.configuration;
        if configuration.learners.contains(&self.config.id) {
            Role::Learner
        } else {
            Role::Follower
        }
    }

    pub(crate) fn has_unapplied_conf_change(&self) -> bool {
        self.entries(self.log.applied().next(), self.log.commit())
            .any(|entry| entry.kind.changes_membership())
    }
}
