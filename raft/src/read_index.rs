//! Linearizable reads without a log entry: prove leadership after the read arrived, then wait
//! until the commit index of that moment is applied.
//!
//! Owns which reads wait for which round of heartbeats. All reads that arrive while a round is
//! under way share the next one. Rounds are numbered by this core, never by what a client sent,
//! so an old answer cannot confirm a new read. Source: Raft thesis §6.4.

use std::collections::VecDeque;

use crate::interface::{Action, ReadError, ReadStart};
use crate::message::{MessageBody, ReadRound, ReadTicket};
use crate::node::Raft;
use crate::types::{LogIndex, MemberId, Role};

#[derive(Clone, Copy, Debug)]
struct PendingRead {
    /// The follower that asked; none for an own read.
    origin: Option<MemberId>,
    ticket: ReadTicket,
    /// The round that confirms it.
    round: ReadRound,
    index: LogIndex,
}

/// Reads that wait.
///
/// Invariants: `confirmed ≤ round`; pending reads are ordered by round, none is beyond
/// `round + 1`; one read per origin and round stands for all of them, so no more wait than
/// twice the members; reads wait in `early` only until an entry of the own term is committed.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    last_ticket: ReadTicket,
    /// The newest round that was sent.
    round: ReadRound,
    confirmed: ReadRound,
    acknowledged: Vec<(MemberId, ReadRound)>,
    pending: VecDeque<PendingRead>,
    early: VecDeque<(Option<MemberId>, ReadTicket)>,
    /// An own read was sent to the leader and not answered.
    forwarded: bool,
}

impl Reads {
    pub(crate) fn round(&self) -> ReadRound {
        self.round
    }

    fn acknowledge(&mut self, from: MemberId, round: ReadRound) {
        match self.acknowledged.iter_mut().find(|(id, _)| *id == from) {
            Some(known) => known.1 = known.1.max(round),
            None => self.acknowledged.push((from, round)),
        }
    }
}

impl Raft {
    /// Asks for an index that a linearizable read has to wait for.
    ///
    /// A follower's wish travels in a message, which can be lost: ask again after a while.
    ///
    /// # Errors
    /// `NoLeader`; ask again.
    pub fn read_index(&mut self) -> Result<ReadStart, ReadError> {
        if self.role != Role::Leader {
            let leader = self.leader.ok_or(ReadError::NoLeader)?;
            let ticket = self.next_ticket();
            self.reads.forwarded = true;
            self.send(leader, MessageBody::ReadIndex { ticket });
            return Ok(ReadStart::Pending(ticket));
        }
        if self.own_term_committed() && self.leads_without_asking() {
            return Ok(ReadStart::Ready(self.log.commit()));
        }
        let ticket = self.next_ticket();
        self.queue_read(None, ticket);
        Ok(ReadStart::Pending(ticket))
    }

    fn next_ticket(&mut self) -> ReadTicket {
        self.reads.last_ticket.0 += 1;
        self.reads.last_ticket
    }

    /// True if no other member could have elected another leader.
    fn leads_without_asking(&self) -> bool {
        self.membership.configuration.is_sole_voter(self.config.id)
    }

    pub(crate) fn on_read_request(&mut self, from: MemberId, ticket: ReadTicket) {
        if self.own_term_committed() && self.leads_without_asking() {
            let index = self.log.commit();
            self.send(from, MessageBody::ReadIndexReply { ticket, index });
        } else {
            self.queue_read(Some(from), ticket);
        }
    }

    fn queue_read(&mut self, origin: Option<MemberId>, ticket: ReadTicket) {
        if !self.own_term_committed() {
            // The commit index may still lag behind what an earlier leader answered.
            match self.reads.early.iter_mut().find(|it| it.0 == origin) {
                Some(waiting) => waiting.1 = ticket,
                None => self.reads.early.push_back((origin, ticket)),
            }
            return;
        }
        let under_way = self.reads.round > self.reads.confirmed;
        let read = PendingRead {
            origin,
            ticket,
            round: ReadRound(self.reads.round.0 + 1),
            index: self.log.commit(),
        };
        // The newest of one origin stands for all before it in the same round.
        let same =
            |waiting: &&mut PendingRead| waiting.origin == origin && waiting.round == read.round;
        match self.reads.pending.iter_mut().find(same) {
            Some(waiting) => *waiting = read,
            None => self.reads.pending.push_back(read),
        }
        if !under_way {
            self.start_round();
        }
    }

    fn start_round(&mut self) {
        self.reads.round.0 += 1;
        self.broadcast_heartbeat();
    }

    /// An entry of the own term is committed: what waited for it starts.
    pub(crate) fn start_waiting_reads(&mut self) {
        while let Some((origin, ticket)) = self.reads.early.pop_front() {
            if self.leads_without_asking() {
                self.answer_read(origin, ticket, self.log.commit());
            } else {
                self.queue_read(origin, ticket);
            }
        }
    }

    pub(crate) fn on_round_acknowledged(&mut self, from: MemberId, round: ReadRound) {
        if round > self.reads.round || self.reads.pending.is_empty() {
            return;
        }
        self.reads.acknowledge(from, round);
        let (own, newest) = (self.config.id, self.reads.round);
        let acknowledged = &self.reads.acknowledged;
        let reached = self.membership.configuration.voters.committed(|member| {
            if member == own {
                return LogIndex(newest.0);
            }
            let known = acknowledged.iter().find(|(id, _)| *id == member);
            LogIndex(known.map_or(0, |(_, round)| round.0))
        });
        let confirmed = ReadRound(reached.map_or(0, |index| index.0));
        if confirmed <= self.reads.confirmed {
            return;
        }
        self.reads.confirmed = confirmed;
        while let Some(read) = self.reads.pending.front().copied() {
            if read.round > confirmed {
                break;
            }
            self.reads.pending.pop_front();
            self.answer_read(read.origin, read.ticket, read.index);
        }
        if !self.reads.pending.is_empty() && confirmed == self.reads.round {
            self.start_round();
        }
    }

    fn answer_read(&mut self, origin: Option<MemberId>, ticket: ReadTicket, index: LogIndex) {
        match origin {
            None => self.actions.push(Action::ReadReady { ticket, index }),
            Some(member) => self.send(member, MessageBody::ReadIndexReply { ticket, index }),
        }
    }

    pub(crate) fn on_read_reply(&mut self, ticket: ReadTicket, index: LogIndex) {
        if !self.reads.forwarded || ticket > self.reads.last_ticket {
            return;
        }
        self.reads.forwarded = ticket < self.reads.last_ticket;
        self.actions.push(Action::ReadReady { ticket, index });
    }

    /// Term, leader or role changed: no read of before can be confirmed.
    pub(crate) fn abort_reads(&mut self) {
        let reads = &mut self.reads;
        let own_waits = reads.forwarded
            || reads.pending.iter().any(|read| read.origin.is_none())
            || reads.early.iter().any(|(origin, _)| origin.is_none());
        reads.pending.clear();
        reads.early.clear();
        reads.acknowledged.clear();
        reads.confirmed = reads.round;
        reads.forwarded = false;
        if own_waits {
            let ticket = reads.last_ticket;
            self.actions.push(Action::ReadsAborted { ticket });
        }
    }
}
