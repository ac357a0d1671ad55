//! How entries, commit indexes and snapshots reach followers, and how answers come back.
//!
//! Owns what is sent when. An entry is acknowledged only when it is durable; the leader counts
//! itself by its durable index; only entries of the own term are committed by counting.
//! Source: Raft paper §5.3, §5.4.2 and §7; thesis §10.2 (pipelining, parallel disk writes).

use crate::interface::{Action, SnapshotOutcome, StepError};
use crate::membership::Membership;
use crate::message::{Message, MessageBody, SnapshotMeta};
use crate::node::Raft;
use crate::progress::ProgressState;
use crate::trace::Trace;
use crate::types::{EntryMeta, LogIndex, MemberId, Position, Role, Term, Vote};

impl Raft {
    // ---- leader: sending ----

    pub(crate) fn broadcast_append(&mut self) {
        for place in 0..self.membership.progress.count() {
            let member = self.membership.progress.member_at(place);
            self.send_append(member, true);
        }
    }

    pub(crate) fn send_append_if_any(&mut self, member: MemberId) {
        self.send_append(member, false);
    }

    /// Sends what the follower lacks; nothing if it is paused, and nothing without entries
    /// unless `even_if_empty`. True if something was sent.
    fn send_append(&mut self, to: MemberId, even_if_empty: bool) -> bool {
        if to == self.config.id {
            return false;
        }
        let Some(progress) = self.membership.progress.of(to) else {
            return false;
        };
        if progress.is_paused() {
            return false;
        }
        let before = progress.next.previous();
        let Some(term) = self.log.term_at(before) else {
            return self.send_snapshot(to);
        };
        let previous = Position {
            index: before,
            term,
        };
        let (mut count, mut bytes) = (0, 0);
        if progress.takes_entries() {
            for entry in self.entries(before.next(), self.log.last().index) {
                if count > 0 && bytes + entry.bytes > self.config.message_bytes_max {
                    break;
                }
                count += 1;
                bytes += entry.bytes;
            }
        }
        if count == 0 && !even_if_empty {
            return false;
        }
        let commit = self.log.commit();
        self.send(
            to,
            MessageBody::Append {
                previous,
                count,
                commit,
            },
        );
        if let Some(progress) = self.membership.progress.of_mut(to) {
            progress.entries_sent(count, bytes);
            progress.commit_sent(commit);
        }
        true
    }

    fn send_snapshot(&mut self, to: MemberId) -> bool {
        let position = Position {
            index: self.log.applied(),
            term: self.log.term_at(self.log.applied()).unwrap_or(Term(0)),
        };
        let configuration = self.membership.configuration.clone();
        let first_index = self.log.first_index();
        let commit = self.log.commit();
        let Some(progress) = self.membership.progress.of_mut(to) else {
            return false;
        };
        if !progress.recently_active {
            self.note(Trace::SnapshotWithheld { member: to });
            return false;
        }
        let before = Box::new(progress.clone());
        progress.become_snapshot(position.index);
        let after = Box::new(progress.clone());
        self.note(Trace::SnapshotSent {
            member: to,
            first_index,
            commit,
            position,
            before,
            after,
        });
        let snapshot = SnapshotMeta {
            position,
            configuration,
        };
        self.send(to, MessageBody::Snapshot(Box::new(snapshot)));
        true
    }

    pub(crate) fn broadcast_heartbeat(&mut self) {
        self.heartbeat_since = self.now_nanos;
        let round = self.reads.round();
        for place in 0..self.membership.progress.count() {
            let to = self.membership.progress.member_at(place);
            if to == self.config.id {
                continue;
            }
            let own_commit = self.log.commit();
            let Some(progress) = self.membership.progress.of_mut(to) else {
                continue;
            };
            // It may not know more than it holds.
            let commit = own_commit.min(progress.matched);
            progress.commit_sent(commit);
            self.send(to, MessageBody::Heartbeat { commit, round });
        }
    }

    // ---- leader: counting ----

    /// The leader's own disk went further.
    pub(crate) fn count_own_durable(&mut self) {
        let durable = self.log.durable();
        let Some(own) = self.membership.progress.of_mut(self.config.id) else {
            return;
        };
        if own.accepted(durable) && self.advance_commit() {
            self.broadcast_append();
        }
    }

    /// Commits what quorums hold, if it ends in the own term. True if the commit index rose.
    pub(crate) fn advance_commit(&mut self) -> bool {
        let progress = &self.membership.progress;
        let voters = &self.membership.configuration.voters;
        let reached =
            voters.committed(|member| progress.of(member).map_or(LogIndex(0), |it| it.matched));
        let Some(index) = reached else {
            return false;
        };
        let before = self.log.commit();
        let foreign = self.log.term_at(index) != Some(self.term);
        #[cfg(test)]
        let foreign = foreign && self.planted != Some(crate::simulation::PlantedBug::CommitOldTerm);
        if index <= before || foreign {
            return false;
        }
        let committed: u64 = self
            .entries(before.next(), index)
            .map(|entry| {
                if entry.term == self.term {
                    entry.bytes
                } else {
                    0
                }
            })
            .sum();
        self.uncommitted_bytes -= committed;
        self.log.set_commit(index);
        self.start_waiting_reads();
        true
    }

    // ---- messages ----

    pub(crate) fn receive_replication(&mut self, message: Message, entries: &[EntryMeta]) {
        let from = message.from;
        if message.body.proves_leader() {
            return self.on_leader_message(message, entries);
        }
        match message.body {
            MessageBody::ReadIndexReply { ticket, index } => {
                self.on_read_reply(ticket, index);
            }
            MessageBody::TransferLeader { target } => self.transfer_leader(target),
            body if self.role == Role::Leader => self.on_follower_message(from, &body),
            _ => {}
        }
    }

    fn on_follower_message(&mut self, from: MemberId, body: &MessageBody) {
        if self.membership.progress.of(from).is_none() {
            return;
        }
        match body {
            MessageBody::AppendAccepted { matched } => self.on_accepted(from, *matched),
            MessageBody::AppendRejected { rejected, hint } => {
                self.on_rejected(from, *rejected, *hint);
            }
            MessageBody::HeartbeatReply { round } => {
                self.on_heartbeat_reply(from);
                self.on_round_acknowledged(from, *round);
            }
            MessageBody::ReadIndex { ticket } => self.on_read_request(from, *ticket),
            _ => {}
        }
    }

    fn on_accepted(&mut self, from: MemberId, matched: LogIndex) {
        let last = self.log.last().index;
        let first_index = self.log.first_index();
        let tracing = self.config.trace;
        let Some(progress) = self.membership.progress.of_mut(from) else {
            return;
        };
        progress.recently_active = true;
        if matched > last {
            // It acknowledges what was never sent in this term: an answer to somebody else.
            return;
        }
        let found = progress.state == ProgressState::Probe && progress.matched == matched;
        if !progress.accepted(matched) && !found {
            return;
        }
        let mut recovered = None;
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            // Any index from which the log here continues will do, not only the snapshot's.
            ProgressState::Snapshot { .. } if progress.matched.next() >= first_index => {
                recovered = tracing.then(|| Box::new(progress.clone()));
                progress.become_probe();
                progress.become_replicate();
            }
            ProgressState::Snapshot { .. } => {}
            ProgressState::Replicate => progress.free_in_flight(matched),
        }
        let commit = self.log.commit();
        let can_learn = progress.can_learn_commit(commit);
        if let Some(progress) = recovered {
            let member = from;
            self.note(Trace::SnapshotRecovered { member, progress });
        }
        if self.advance_commit() {
            self.broadcast_append();
        } else if can_learn {
            self.send_append(from, true);
        }
        while self.send_append(from, false) {}
        if self.transfer == Some(from) && matched == last {
            self.send(from, MessageBody::TimeoutNow);
        }
    }

    fn on_rejected(&mut self, from: MemberId, rejected: LogIndex, hint: Position) {
        self.note(Trace::RejectionReceived {
            from,
            rejected,
            hint,
        });
        // Entries of a term that both sides know may agree; newer ones of ours cannot.
        let probe = if hint.term.0 > 0 {
            self.log.find_conflict(hint.index, hint.term).index
        } else {
            hint.index
        };
        let tracing = self.config.trace;
        let Some(progress) = self.membership.progress.of_mut(from) else {
            return;
        };
        progress.recently_active = true;
        if !progress.rejected(rejected, probe) {
            return;
        }
        let shown = tracing.then(|| Box::new(progress.clone()));
        if progress.state == ProgressState::Replicate {
            progress.become_probe();
        }
        if let Some(progress) = shown {
            let member = from;
            self.note(Trace::ProgressDecreased { member, progress });
        }
        self.send_append(from, true);
    }

    fn on_heartbeat_reply(&mut self, from: MemberId) {
        let last = self.log.last().index;
        let Some(progress) = self.membership.progress.of_mut(from) else {
            return;
        };
        progress.recently_active = true;
        progress.paused = false;
        // A probe, or a whole window, may have been lost: an append finds out.
        if progress.matched < last || progress.state == ProgressState::Probe {
            self.send_append(from, true);
        }
    }

    pub(crate) fn unreachable(&mut self, member: MemberId) {
        let tracing = self.config.trace && self.role == Role::Leader;
        let Some(progress) = self.membership.progress.of_mut(member) else {
            return;
        };
        if progress.state == ProgressState::Replicate {
            progress.become_probe();
        }
        if tracing {
            let progress = Box::new(progress.clone());
            self.note(Trace::Unreachable { member, progress });
        }
    }

    pub(crate) fn snapshot_report(&mut self, member: MemberId, outcome: SnapshotOutcome) {
        let Some(progress) = self.membership.progress.of_mut(member) else {
            return;
        };
        if !matches!(progress.state, ProgressState::Snapshot { .. }) {
            return;
        }
        if outcome == SnapshotOutcome::Failed {
            progress.abort_snapshot();
        }
        progress.become_probe();
        let shown = Box::new(progress.clone());
        // Wait for its answer, or for a heartbeat, before probing.
        progress.paused = true;
        self.note(Trace::SnapshotReported {
            member,
            delivered: outcome == SnapshotOutcome::Delivered,
            progress: shown,
        });
    }

    pub(crate) fn transfer_leader(&mut self, target: MemberId) {
        if self.role != Role::Leader {
            if let Some(leader) = self.leader {
                self.send(leader, MessageBody::TransferLeader { target });
            }
            return;
        }
        let voter = self.membership.configuration.voters.contains(target);
        if !voter || target == self.config.id || self.transfer == Some(target) {
            return;
        }
        let Some(progress) = self.membership.progress.of(target) else {
            return;
        };
        let ready = progress.matched == self.log.last().index;
        // It has one election timeout; then proposals are taken again.
        self.election_since = self.now_nanos;
        self.transfer = Some(target);
        if ready {
            self.send(target, MessageBody::TimeoutNow);
        } else {
            self.send_append(target, true);
        }
    }

    // ---- follower ----

    fn on_leader_message(&mut self, message: Message, entries: &[EntryMeta]) {
        match self.role {
            Role::Candidate | Role::PreCandidate => {
                self.become_follower(message.term, Some(message.from));
            }
            _ => {
                self.election_since = self.now_nanos;
                self.leader = Some(message.from);
            }
        }
        match message.body {
            MessageBody::Append {
                previous, commit, ..
            } => self.on_append(message.from, previous, commit, entries),
            MessageBody::Heartbeat { commit, round } => {
                self.log.set_commit(commit);
                self.send(message.from, MessageBody::HeartbeatReply { round });
            }
            MessageBody::Snapshot(snapshot) => self.on_snapshot(message.from, snapshot),
            _ => {}
        }
    }

    /// A leader that contradicts what is committed here, or relies on what is not here any more,
    /// shows that one of the two has lost acknowledged entries.
    pub(crate) fn refuse_damage(
        &self,
        message: &Message,
        entries: &[EntryMeta],
    ) -> Result<(), StepError> {
        let own_commit = self.log.commit();
        match message.body {
            MessageBody::Append { previous, .. } if self.log.holds(previous) => {
                let conflict = entries.iter().find(|entry| {
                    entry.index <= own_commit
                        && self
                            .log
                            .term_at(entry.index)
                            .is_some_and(|term| term != entry.term)
                });
                conflict.map_or(Ok(()), |entry| {
                    Err(StepError::ConflictsWithCommitted {
                        index: entry.index,
                        commit: own_commit,
                    })
                })
            }
            MessageBody::Heartbeat { commit, .. } if commit > self.log.last().index => {
                Err(StepError::CommitBeyondLog {
                    commit,
                    last: self.log.last().index,
                })
            }
            _ => Ok(()),
        }
    }

    fn on_append(
        &mut self,
        from: MemberId,
        previous: Position,
        commit: LogIndex,
        entries: &[EntryMeta],
    ) {
        if previous.index < self.log.commit() {
            self.acknowledge(from, self.log.commit());
            return;
        }
        if !self.log.holds(previous) {
            self.note(Trace::AppendRefused {
                own: self.log.term_at(previous.index).unwrap_or(Term(0)),
                previous,
                from,
            });
            let upto = previous.index.min(self.log.last().index);
            let body = MessageBody::AppendRejected {
                rejected: previous.index,
                hint: self.log.find_conflict(upto, previous.term),
            };
            self.send_when_durable(from, body, Vote::None, None);
            return;
        }
        self.take_entries(entries);
        let end = entries.last().map_or(previous.index, |entry| entry.index);
        self.log.set_commit(commit.min(end));
        self.acknowledge(from, end);
    }

    /// Appends what is new, replacing a conflicting suffix.
    fn take_entries(&mut self, entries: &[EntryMeta]) {
        let fresh = entries
            .iter()
            .position(|entry| !self.log.holds(entry.position()));
        let Some(fresh) = fresh else {
            return;
        };
        let first = entries[fresh].index;
        let truncates = first <= self.log.last().index;
        if truncates {
            let existing = Position {
                index: first,
                term: self.log.term_at(first).unwrap_or(Term(0)),
            };
            self.note(Trace::ConflictFound {
                existing,
                term: entries[fresh].term,
            });
            self.log.truncate(first);
            self.void_held_from(first);
        }
        self.lag_begins();
        for entry in &entries[fresh..] {
            self.log.push(entry.term, entry.kind, entry.bytes);
        }
        self.order_write(first, self.log.last().index, truncates);
    }

    fn acknowledge(&mut self, from: MemberId, matched: LogIndex) {
        let entry = self.log.term_at(matched).map(|term| Position {
            index: matched,
            term,
        });
        let body = MessageBody::AppendAccepted { matched };
        self.send_when_durable(from, body, Vote::None, entry);
    }

    fn on_snapshot(&mut self, from: MemberId, snapshot: Box<SnapshotMeta>) {
        let position = snapshot.position;
        if self.restore_snapshot(snapshot) {
            self.acknowledge(from, self.log.last().index);
        } else {
            self.note(Trace::SnapshotIgnored {
                commit: self.log.commit(),
                position,
            });
            self.acknowledge(from, self.log.commit());
        }
    }

    /// Replaces the log by the snapshot; false if it brings nothing.
    fn restore_snapshot(&mut self, snapshot: Box<SnapshotMeta>) -> bool {
        let position = snapshot.position;
        let wanted =
            position.index > self.log.commit() && snapshot.configuration.contains(self.config.id);
        if !wanted {
            return false;
        }
        if self.log.holds(position) {
            self.note(Trace::SnapshotMatched {
                commit: self.log.commit(),
                last: self.log.last(),
                position,
            });
            self.log.set_commit(position.index);
            return false;
        }
        self.note(Trace::SnapshotRestoring {
            commit: self.log.commit(),
            applied: self.log.applied(),
            durable: self.log.durable(),
            undurable_count: self.log.last().index.0 - self.log.durable().0,
            position,
        });
        self.log.install(position);
        self.void_held_from(LogIndex(0));
        self.snapshot_adopted(position);
        self.membership = Membership::new(
            snapshot.configuration.clone(),
            position.index,
            self.config.in_flight_messages_max,
            self.config.in_flight_bytes_max,
        );
        self.role = self.passive_role();
        self.note_configuration();
        self.note(Trace::SnapshotRestored {
            commit: self.log.commit(),
            last: self.log.last(),
            position,
        });
        self.save_hard_state();
        self.actions.push(Action::InstallSnapshot(snapshot));
        true
    }
}
