//! Terms, votes and roles.
//!
//! Owns who may lead. A vote is cast at most once per term, and counts or leaves only when it is
//! durable. Source: Raft paper §5.2 and §5.4.1, thesis §9.6 (pre-vote) and §6.2 (check quorum).

use crate::interface::StepError;
use crate::message::{CampaignCause, Message, MessageBody};
use crate::node::Raft;
use crate::quorum::VoteResult;
use crate::trace::{Trace, VoteRequest};
use crate::types::{
    EntryKind, EntryMeta, HardState, LogIndex, MemberId, Position, Role, Term, Vote,
};

/// Terms and indexes of messages above this are no honest ones: counting up must not overflow.
const NUMBER_MAX: u64 = u64::MAX / 2;

impl Raft {
    // ---- time ----

    pub(crate) fn tick(&mut self, now_nanos: u64) {
        self.now_nanos = self.now_nanos.max(now_nanos);
        let silent = self.now_nanos - self.election_since;
        if self.role != Role::Leader {
            if self.promotable() && silent >= self.election_timeout_drawn {
                self.election_since = self.now_nanos;
                self.campaign_on_timeout();
            }
            return;
        }
        if self.is_alone() {
            return;
        }
        if silent >= self.config.election_timeout_nanos {
            self.election_since = self.now_nanos;
            if self.config.check_quorum {
                self.check_quorum();
            }
            self.transfer = None;
        }
        if self.role == Role::Leader && self.disk_is_stalled() {
            // Heartbeats of a leader that cannot write would keep the group waiting for it.
            self.note(Trace::DiskStalled {
                durable: self.log.durable(),
                last: self.log.last().index,
            });
            self.become_follower(self.term, None);
        }
        let since_heartbeat = self.now_nanos - self.heartbeat_since;
        if self.role == Role::Leader && since_heartbeat >= self.config.heartbeat_interval_nanos {
            self.broadcast_heartbeat();
        }
    }

    fn check_quorum(&mut self) {
        let own = self.config.id;
        let progress = &self.membership.progress;
        let active = self.membership.configuration.voters.vote(|member| {
            let heard = progress.of(member).is_some_and(|it| it.recently_active);
            Some(heard || member == own)
        });
        if active != VoteResult::Won {
            self.note(Trace::QuorumLost);
            self.become_follower(self.term, None);
        }
        for (member, progress) in self.membership.progress.iter_mut() {
            if member != own {
                progress.recently_active = false;
            }
        }
    }

    fn draw_election_timeout(&mut self) {
        let base = self.config.election_timeout_nanos;
        self.election_timeout_drawn = base + self.random.below(base);
    }

    // ---- roles ----

    fn reset(&mut self, term: Term) {
        if term != self.term {
            assert!(term > self.term, "terms never fall");
            self.term = term;
            self.vote = Vote::None;
        }
        self.leader = None;
        self.election_since = self.now_nanos;
        self.heartbeat_since = self.now_nanos;
        self.draw_election_timeout();
        self.transfer = None;
        self.votes.clear();
        self.pending_conf_index = LogIndex(0);
        self.uncommitted_bytes = 0;
        self.abort_reads();
        let last = self.log.last().index;
        let durable = self.log.durable();
        for (member, progress) in self.membership.progress.iter_mut() {
            progress.restart(last);
            if member == self.config.id {
                progress.matched = durable;
            }
        }
    }

    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<MemberId>) {
        self.reset(term);
        self.leader = leader;
        self.role = self.passive_role();
        self.note(Trace::Became {
            role: self.role,
            term,
        });
    }

    fn become_pre_candidate(&mut self) {
        assert!(self.role != Role::Leader, "a leader does not campaign");
        self.role = Role::PreCandidate;
        self.leader = None;
        self.votes.clear();
        self.draw_election_timeout();
        self.abort_reads();
        self.note(Trace::Became {
            role: self.role,
            term: self.term,
        });
    }

    fn become_candidate(&mut self) {
        assert!(self.role != Role::Leader, "a leader does not campaign");
        self.reset(self.term.next());
        self.vote = Vote::For(self.config.id);
        self.role = Role::Candidate;
        self.note(Trace::Became {
            role: self.role,
            term: self.term,
        });
    }

    fn become_leader(&mut self) {
        assert!(self.role == Role::Candidate, "only a candidate is elected");
        let last = self.log.last().index;
        self.reset(self.term);
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        if let Some(own) = self.membership.progress.of_mut(self.config.id) {
            own.become_replicate();
            own.next = last.next();
            own.recently_active = true;
        }
        // Any change in the log of an earlier leader may be unapplied here.
        self.pending_conf_index = last;
        self.note(Trace::Became {
            role: self.role,
            term: self.term,
        });
        self.append_own(EntryKind::NoOp, 0);
        self.broadcast_append();
    }

    pub(crate) fn forget_leader(&mut self) {
        let passive = matches!(self.role, Role::Follower | Role::Learner);
        if passive && let Some(leader) = self.leader {
            self.note(Trace::LeaderForgotten {
                leader,
                term: self.term,
            });
            self.leader = None;
            self.abort_reads();
        }
    }

    // ---- campaigns ----

    /// True if this member may ask for votes.
    pub(crate) fn promotable(&self) -> bool {
        self.log.pending_snapshot().is_none()
            && self
                .membership
                .progress
                .of(self.config.id)
                .is_some_and(|own| !own.is_learner)
    }

    pub(crate) fn campaign_on_timeout(&mut self) {
        if !self.may_campaign() {
            return;
        }
        if self.config.pre_vote {
            self.ask_whether_to_campaign();
        } else {
            self.campaign(CampaignCause::Timeout);
        }
    }

    /// Campaigns without asking first.
    pub(crate) fn campaign_at_once(&mut self) {
        if self.may_campaign() {
            self.campaign(CampaignCause::Timeout);
        }
    }

    fn campaign_after_transfer(&mut self) {
        if self.may_campaign() {
            self.campaign(CampaignCause::Transfer);
        }
    }

    fn may_campaign(&mut self) -> bool {
        if self.role == Role::Leader {
            return false;
        }
        if !self.promotable() {
            self.note(Trace::Unpromotable);
            return false;
        }
        if self.has_unapplied_conf_change() {
            // It would count votes by a configuration that the group has already left.
            self.note(Trace::CampaignBlocked { term: self.term });
            return false;
        }
        self.note(Trace::ElectionStarted { term: self.term });
        true
    }

    fn ask_whether_to_campaign(&mut self) {
        self.become_pre_candidate();
        let last = self.log.last();
        let cause = CampaignCause::Timeout;
        self.request_votes(self.term.next(), MessageBody::PreVote { last, cause });
        self.count_vote(self.config.id, true, "MsgPreVoteResp");
    }

    fn campaign(&mut self, cause: CampaignCause) {
        self.become_candidate();
        let last = self.log.last();
        self.request_votes(self.term, MessageBody::Vote { last, cause });
        // The own vote counts once it is durable.
        #[cfg(test)]
        if self.planted == Some(crate::simulation::PlantedBug::OwnVoteBeforeDurable) {
            self.count_vote(self.config.id, true, "MsgVoteResp");
        }
    }

    fn request_votes(&mut self, term: Term, body: MessageBody) {
        for place in 0..self.membership.progress.count() {
            let to = self.membership.progress.member_at(place);
            if to == self.config.id || !self.membership.configuration.voters.contains(to) {
                continue;
            }
            self.note(Trace::VoteRequested {
                name: body.name(),
                to,
                term: self.term,
                last: self.log.last(),
            });
            let message = self.message(to, term, body.clone());
            self.actions.push(crate::interface::Action::Send(message));
        }
    }

    pub(crate) fn has_own_vote(&self) -> bool {
        self.votes.contains(&(self.config.id, true))
    }

    /// Counts the own vote of a candidate once the hard state that holds it is durable.
    pub(crate) fn count_own_vote(&mut self) {
        let needed = HardState {
            term: self.term,
            vote: Vote::For(self.config.id),
        };
        if self.role == Role::Candidate && !self.has_own_vote() && self.durable_state == needed {
            self.count_vote(self.config.id, true, "MsgVoteResp");
        }
    }

    fn count_vote(&mut self, from: MemberId, granted: bool, name: &'static str) {
        self.note(Trace::VoteReceived {
            name,
            from,
            granted,
            term: self.term,
        });
        if !self.votes.iter().any(|(member, _)| *member == from) {
            self.votes.push((from, granted));
        }
        let voters = &self.membership.configuration.voters;
        let cast = |member| {
            let vote = self.votes.iter().find(|(voter, _)| *voter == member)?;
            Some(vote.1)
        };
        let result = voters.vote(cast);
        let said = |answer: bool| {
            let matching = self.votes.iter().filter(|(_, granted)| *granted == answer);
            matching
                .filter(|(voter, _)| voters.contains(*voter))
                .count()
        };
        let (granted, refused) = (said(true), said(false));
        self.note(Trace::VotesCounted {
            name,
            granted,
            refused,
        });
        match result {
            VoteResult::Won if self.role == Role::PreCandidate => {
                self.campaign(CampaignCause::Timeout);
            }
            // Without its own durable vote it could lead, crash, forget the term and lead it again.
            VoteResult::Won if self.has_own_vote() => self.become_leader(),
            #[cfg(test)]
            VoteResult::Won
                if self.planted == Some(crate::simulation::PlantedBug::LeadWithoutOwnVote) =>
            {
                self.become_leader();
            }
            VoteResult::Won | VoteResult::Pending => {}
            VoteResult::Lost => self.become_follower(self.term, None),
        }
    }

    // ---- messages ----

    /// Handles a message: terms first, then its content.
    pub(crate) fn receive(
        &mut self,
        message: Message,
        entries: &[EntryMeta],
    ) -> Result<(), StepError> {
        self.validate(&message, entries)?;
        if message.term < self.term {
            self.receive_from_the_past(&message);
            return Ok(());
        }
        if message.term > self.term && !self.enter_term_of(&message) {
            return Ok(());
        }
        match &message.body {
            MessageBody::Vote { last, cause: _ } => self.on_vote_request(&message, *last, false),
            MessageBody::PreVote { last, cause: _ } => self.on_vote_request(&message, *last, true),
            MessageBody::VoteReply { granted } => {
                if self.role == Role::Candidate {
                    self.count_vote(message.from, *granted, "MsgVoteResp");
                }
            }
            MessageBody::PreVoteReply { granted } => {
                let term = if *granted {
                    self.term.next()
                } else {
                    self.term
                };
                if self.role == Role::PreCandidate && message.term == term {
                    self.count_vote(message.from, *granted, "MsgPreVoteResp");
                }
            }
            MessageBody::TimeoutNow => {
                if matches!(self.role, Role::Follower | Role::Learner) {
                    self.campaign_after_transfer();
                }
            }
            _ => self.receive_replication(message, entries),
        }
        Ok(())
    }

    fn validate(&self, message: &Message, entries: &[EntryMeta]) -> Result<(), StepError> {
        let name = message.body.name();
        if message.to != self.config.id {
            return Err(StepError::Misdelivered { to: message.to });
        }
        if let MessageBody::Propose = message.body {
            return Err(StepError::Unsupported { name });
        }
        let term_fits = (1..=NUMBER_MAX).contains(&message.term.0);
        if !term_fits || message.from.0 == 0 || message.from == self.config.id {
            return Err(StepError::MalformedMessage { name });
        }
        if let MessageBody::Snapshot(snapshot) = &message.body {
            let Position { index, term } = snapshot.position;
            if index.0 > NUMBER_MAX || term > message.term {
                return Err(StepError::MalformedMessage { name });
            }
        }
        let from = message.from;
        if message.body.is_reply() && self.membership.progress.of(from).is_none() {
            return Err(StepError::UnknownSender { from });
        }
        let MessageBody::Append {
            previous, count, ..
        } = message.body
        else {
            if !entries.is_empty() {
                return Err(StepError::MalformedMessage { name });
            }
            return self.validate_leader(message, entries);
        };
        let mut before = previous;
        let mut fits = entries.len() as u64 == count && previous.term <= message.term;
        fits &= previous.index.0 <= NUMBER_MAX;
        for entry in entries {
            fits &= entry.index == before.index.next();
            fits &= entry.term >= before.term && entry.term <= message.term;
            before = entry.position();
        }
        if !fits {
            return Err(StepError::MalformedAppend {
                previous: previous.index,
                count,
                received: entries.len() as u64,
            });
        }
        self.validate_leader(message, entries)
    }

    /// Two leaders of one term, or one that contradicts what is committed here.
    fn validate_leader(&self, message: &Message, entries: &[EntryMeta]) -> Result<(), StepError> {
        if message.term < self.term || !message.body.proves_leader() {
            return Ok(());
        }
        if message.term == self.term && self.role == Role::Leader {
            return Err(StepError::MalformedMessage {
                name: message.body.name(),
            });
        }
        self.refuse_damage(message, entries)
    }

    fn receive_from_the_past(&mut self, message: &Message) {
        let guarded = self.config.check_quorum || self.config.pre_vote;
        match &message.body {
            // The sender is cut off in an old term and learns of ours by the answer.
            MessageBody::Append { .. } | MessageBody::Heartbeat { .. } if guarded => {
                let matched = LogIndex(0);
                let body = MessageBody::AppendAccepted { matched };
                self.send_when_durable(message.from, body, Vote::None, None);
            }
            MessageBody::PreVote { last, .. } => {
                self.note(Trace::VoteRefused(self.judged(message, *last)));
                self.send(message.from, MessageBody::PreVoteReply { granted: false });
            }
            body => self.note(Trace::LowerTermIgnored {
                own: self.term,
                name: body.name(),
                from: message.from,
                term: message.term,
            }),
        }
    }

    /// Moves to the term of a message; false if the message must be ignored instead.
    fn enter_term_of(&mut self, message: &Message) -> bool {
        if let MessageBody::Vote { last, cause } | MessageBody::PreVote { last, cause } =
            message.body
        {
            let silent = self.now_nanos - self.election_since;
            let protected = self.config.check_quorum
                && self.leader.is_some()
                && silent < self.config.election_timeout_nanos;
            if protected && cause != CampaignCause::Transfer {
                self.note(Trace::LeaderProtected {
                    request: self.judged(message, last),
                    remaining_nanos: self.config.election_timeout_nanos - silent,
                });
                return false;
            }
        }
        match message.body {
            // A question about a term does not open it, and neither does a yes.
            MessageBody::PreVote { .. } | MessageBody::PreVoteReply { granted: true } => {}
            _ => {
                self.note(Trace::HigherTermSeen {
                    own: self.term,
                    name: message.body.name(),
                    from: message.from,
                    term: message.term,
                });
                let leader = message.body.proves_leader().then_some(message.from);
                self.become_follower(message.term, leader);
            }
        }
        true
    }

    fn judged(&self, message: &Message, theirs: Position) -> VoteRequest {
        VoteRequest {
            name: message.body.name(),
            from: message.from,
            theirs,
            own: self.log.last(),
            vote: self.vote,
            term: self.term,
        }
    }

    fn on_vote_request(&mut self, message: &Message, theirs: Position, asks_only: bool) {
        let free = match self.vote {
            Vote::For(member) => member == message.from,
            Vote::None => self.leader.is_none(),
            #[cfg(test)]
            Vote::Unknown
                if self.planted == Some(crate::simulation::PlantedBug::UnknownVoteAsNone) =>
            {
                self.leader.is_none()
            }
            Vote::Unknown => false,
        };
        let may = free || (asks_only && message.term > self.term);
        let judged = self.judged(message, theirs);
        let granted = may && theirs.is_at_least(self.log.last());
        if granted {
            self.note(Trace::VoteCast(judged));
        } else {
            self.note(Trace::VoteRefused(judged));
        }
        if asks_only {
            let term = if granted { message.term } else { self.term };
            let body = MessageBody::PreVoteReply { granted };
            let reply = self.message(message.from, term, body);
            self.actions.push(crate::interface::Action::Send(reply));
            return;
        }
        let body = MessageBody::VoteReply { granted };
        if granted {
            self.election_since = self.now_nanos;
            self.vote = Vote::For(message.from);
            self.send_when_durable(message.from, body, self.vote, None);
        } else {
            self.send_when_durable(message.from, body, Vote::None, None);
        }
    }
}
