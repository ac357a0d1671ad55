//! One member through its public interface: start, proposals, membership, reads, refusals.

use raft::{
    Action, CampaignCause, Change, ChangeKind, ConfChange, Config, Configuration, EntryKind,
    EntryMeta, Input, LogIndex, MemberId, Message, MessageBody, Position, ProposeError, Raft,
    ReadError, ReadRound, ReadStart, ReadTicket, Restored, Role, SnapshotMeta, StepError, Term,
    Vote,
};

fn config(id: u64) -> Config {
    let mut config = Config::new(MemberId(id), id);
    config.election_timeout_nanos = 20;
    config.heartbeat_interval_nanos = 4;
    config.pre_vote = false;
    config
}

fn group(voters: u64) -> Restored {
    let voters: Vec<MemberId> = (1..=voters).map(MemberId).collect();
    Restored {
        configuration: Configuration::new(&voters, &[]),
        ..Restored::default()
    }
}

fn entry(index: u64, term: u64, kind: EntryKind) -> EntryMeta {
    EntryMeta {
        index: LogIndex(index),
        term: Term(term),
        kind,
        bytes: 1,
    }
}

fn drain(raft: &mut Raft) -> Vec<Action> {
    raft.check();
    let mut actions = Vec::new();
    raft.drain_actions(&mut actions);
    actions
}

/// Carries out writes and applies commits until nothing is left; returns all actions.
fn run(raft: &mut Raft) -> Vec<Action> {
    let mut all = Vec::new();
    loop {
        let actions = drain(raft);
        if actions.is_empty() {
            return all;
        }
        for action in &actions {
            match action {
                Action::SaveHardState { term, vote } => {
                    let (term, vote) = (*term, *vote);
                    raft.step(Input::HardStateDurable { term, vote })
                        .expect("saved");
                }
                Action::Append { last, .. } => {
                    // Replaced since: the write is stale.
                    if let Some(term) = raft.log().term_at(*last) {
                        let index = *last;
                        raft.step(Input::Durable { index, term }).expect("written");
                    }
                }
                Action::Commit { index } => {
                    raft.step(Input::Applied { index: *index })
                        .expect("applied");
                }
                _ => {}
            }
        }
        all.extend(actions);
    }
}

fn message(from: u64, term: u64, body: MessageBody) -> Message {
    Message {
        from: MemberId(from),
        to: MemberId(1),
        term: Term(term),
        body,
    }
}

fn receive(raft: &mut Raft, from: u64, term: u64, body: MessageBody) {
    let input = Input::Message {
        message: message(from, term, body),
        entries: &[],
    };
    raft.step(input).expect("taken");
}

fn alone() -> Raft {
    let mut raft = Raft::new(config(1), group(1)).expect("empty");
    run(&mut raft);
    raft
}

/// Member 1 leads three voters in term 1; its no-op is at 1, on its own disk only.
fn leader_of_three() -> Raft {
    let mut raft = Raft::new(config(1), group(3)).expect("empty");
    raft.step(Input::Campaign).expect("taken");
    run(&mut raft);
    receive(&mut raft, 2, 1, MessageBody::VoteReply { granted: true });
    run(&mut raft);
    assert!(raft.is_leader());
    raft
}

fn accept(raft: &mut Raft, from: u64, index: u64) {
    let matched = LogIndex(index);
    receive(raft, from, 1, MessageBody::AppendAccepted { matched });
    run(raft);
}

#[test]
fn a_sole_voter_leads_as_soon_as_its_disk_allows() {
    let mut raft = Raft::new(config(1), group(1)).expect("empty");
    let (term, vote) = (Term(1), Vote::For(MemberId(1)));
    assert!(drain(&mut raft).contains(&Action::SaveHardState { term, vote }));
    assert!(!raft.is_leader(), "the vote is not durable");
    raft.step(Input::HardStateDurable { term, vote })
        .expect("saved");
    let actions = drain(&mut raft);
    let (first, last, truncates) = (LogIndex(1), LogIndex(1), false);
    let append = Action::Append {
        first,
        last,
        truncates,
    };
    assert_eq!(actions[0], append);
    assert!(raft.is_leader());
    assert_eq!(
        raft.log().entry(first).map(|it| it.kind),
        Some(EntryKind::NoOp)
    );
    assert_eq!(raft.log().commit(), LogIndex(0), "nothing is durable");
    raft.step(Input::Durable { index: first, term })
        .expect("written");
    assert_eq!(drain(&mut raft), [Action::Commit { index: first }]);
    assert_eq!(raft.next_deadline(), None, "alone, nothing is due");
}

#[test]
fn proposals_commit_when_durable_and_writes_are_joined() {
    let mut raft = alone();
    let first = raft.propose(EntryKind::Normal, 10).expect("taken");
    let second = raft.propose(EntryKind::Normal, 10).expect("taken");
    assert_eq!((first.index, second.index), (LogIndex(2), LogIndex(3)));
    let append = Action::Append {
        first: first.index,
        last: second.index,
        truncates: false,
    };
    assert_eq!(drain(&mut raft), [append]);
    let stale = Input::Durable {
        index: second.index,
        term: Term(9),
    };
    raft.step(stale).expect("ignored");
    assert_eq!(drain(&mut raft), [], "another term's report");
    let (index, term) = (second.index, second.term);
    raft.step(Input::Durable { index, term }).expect("written");
    assert_eq!(drain(&mut raft), [Action::Commit { index }]);
    assert_eq!(
        raft.propose(EntryKind::NoOp, 0),
        Err(ProposeError::KindReserved)
    );
}

#[test]
fn the_steady_path_does_not_grow_its_buffers() {
    let mut raft = alone();
    let mut actions = Vec::with_capacity(8);
    let capacity = actions.capacity();
    for round in 0..20_000_u64 {
        let id = raft.propose(EntryKind::Normal, 64).expect("taken");
        raft.drain_actions(&mut actions);
        let (index, term) = (id.index, id.term);
        raft.step(Input::Durable { index, term }).expect("written");
        raft.drain_actions(&mut actions);
        raft.step(Input::Applied { index }).expect("applied");
        assert_eq!(actions.len(), 2, "one append, one commit");
        actions.clear();
        if round % 32 == 0 {
            raft.step(Input::Compact { index }).expect("compacted");
        }
    }
    assert_eq!(actions.capacity(), capacity);
    assert_eq!(raft.status().uncommitted_bytes, 0);
}

#[test]
fn a_restart_takes_the_term_of_newer_entries_without_its_vote() {
    let restored = Restored {
        term: Term(3),
        vote: Vote::For(MemberId(1)),
        entries: vec![entry(1, 1, EntryKind::NoOp), entry(2, 5, EntryKind::NoOp)],
        ..group(3)
    };
    let raft = Raft::new(config(1), restored).expect("a log");
    let status = raft.status();
    assert_eq!((status.term, status.vote), (Term(5), Vote::Unknown));
    assert_eq!(status.role, Role::Follower);
}

#[test]
fn a_sole_voter_goes_on_behind_its_checkpoint() {
    let restored = Restored {
        term: Term(3),
        vote: Vote::For(MemberId(1)),
        checkpoint: Position {
            index: LogIndex(7),
            term: Term(2),
        },
        commit: LogIndex(7),
        applied: LogIndex(7),
        entries: vec![entry(8, 2, EntryKind::Normal), entry(9, 3, EntryKind::NoOp)],
        ..group(1)
    };
    let mut raft = Raft::new(config(1), restored).expect("a log");
    assert_eq!(raft.status().first_index, LogIndex(8));
    let actions = run(&mut raft);
    // Its own no-op commits everything before it; the checkpoint is not applied again.
    let committed: Vec<LogIndex> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Commit { index } => Some(*index),
            _ => None,
        })
        .collect();
    assert_eq!(committed.last(), Some(&LogIndex(10)));
    assert_eq!(raft.status().applied, LogIndex(10));
    let index = LogIndex(9);
    raft.step(Input::Compact { index }).expect("applied");
    raft.check();
    assert_eq!(raft.log().term_at(index), Some(Term(3)));
    assert_eq!(raft.log().term_at(LogIndex(8)), None);
    let refused = raft.step(Input::Compact {
        index: LogIndex(11),
    });
    assert!(matches!(refused, Err(StepError::OutOfRange { .. })));
    // Cutting where it was cut already changes nothing.
    raft.step(Input::Compact { index }).expect("as before");
    assert_eq!(raft.status().first_index, LogIndex(10));
}

#[test]
fn uncommitted_bytes_are_bounded() {
    let mut small = config(1);
    small.uncommitted_bytes_max = 100;
    let mut raft = Raft::new(small, group(1)).expect("empty");
    run(&mut raft);
    raft.propose(EntryKind::Normal, 1_000)
        .expect("the first is always taken");
    let refused = ProposeError::TooManyUncommitted {
        uncommitted_bytes: 1_000,
        uncommitted_bytes_max: 100,
    };
    assert_eq!(raft.propose(EntryKind::Normal, 1), Err(refused));
    raft.propose(EntryKind::Normal, 0).expect("costs nothing");
    run(&mut raft);
    raft.propose(EntryKind::Normal, 60).expect("room again");
    raft.propose(EntryKind::Normal, 40).expect("exactly full");
    assert!(raft.propose(EntryKind::Normal, 1).is_err());
}

#[test]
fn membership_changes_wait_for_the_own_term_and_for_each_other() {
    let mut raft = leader_of_three();
    let add = ConfChange::single(ChangeKind::AddLearner, MemberId(4));
    let kind = EntryKind::ConfChange;
    let early = ProposeError::TermNotCommitted { term: Term(1) };
    assert_eq!(raft.propose_conf_change(kind, &add, 13), Err(early));
    accept(&mut raft, 2, 1);
    let id = raft.propose_conf_change(kind, &add, 13).expect("taken");
    let pending = ProposeError::ConfChangePending {
        pending: id.index,
        applied: LogIndex(1),
    };
    assert_eq!(raft.propose_conf_change(kind, &add, 13), Err(pending));
    assert!(
        !raft.configuration().contains(MemberId(4)),
        "active when applied"
    );
    raft.apply_conf_change(&add).expect("fits");
    accept(&mut raft, 2, 2);
    assert!(raft.configuration().contains(MemberId(4)));
    let leave = ConfChange::default();
    let joint = EntryKind::ConfChangeJoint;
    let nothing = raft.propose_conf_change(joint, &leave, 0);
    assert_eq!(nothing, Err(ProposeError::NotJoint));
}

#[test]
fn a_joint_configuration_is_left_by_the_leader() {
    let mut raft = alone();
    let change = ConfChange {
        changes: [2, 3]
            .map(|id| Change {
                kind: ChangeKind::AddVoter,
                member: MemberId(id),
            })
            .to_vec(),
        ..ConfChange::default()
    };
    let kind = EntryKind::ConfChangeJoint;
    let id = raft.propose_conf_change(kind, &change, 22).expect("taken");
    let (index, term) = (id.index, id.term);
    drain(&mut raft);
    raft.step(Input::Durable { index, term }).expect("written");
    raft.apply_conf_change(&change).expect("fits");
    assert!(raft.configuration().is_joint());
    raft.step(Input::Applied { index }).expect("applied");
    let leave = raft.log().entry(index.next()).expect("appended by itself");
    assert_eq!((leave.kind, leave.bytes), (EntryKind::ConfChangeJoint, 0));
}

#[test]
fn an_unapplied_change_keeps_a_member_from_campaigning() {
    let restored = Restored {
        term: Term(1),
        entries: vec![
            entry(1, 1, EntryKind::NoOp),
            entry(2, 1, EntryKind::ConfChange),
        ],
        commit: LogIndex(2),
        ..group(1)
    };
    let mut raft = Raft::new(config(1), restored).expect("a log");
    assert_eq!(drain(&mut raft), [Action::Commit { index: LogIndex(2) }]);
    raft.step(Input::Campaign).expect("refused quietly");
    assert_eq!(raft.status().role, Role::Follower);
    let add = ConfChange::single(ChangeKind::AddLearner, MemberId(9));
    raft.apply_conf_change(&add).expect("fits");
    let index = LogIndex(2);
    raft.step(Input::Applied { index }).expect("applied");
    assert_eq!(
        raft.status().role,
        Role::Candidate,
        "the sole voter goes on"
    );
}

#[test]
fn reads_alone_are_ready_once_the_own_term_is_committed() {
    let mut raft = Raft::new(config(1), group(1)).expect("empty");
    assert_eq!(raft.read_index(), Err(ReadError::NoLeader));
    let (term, vote) = (Term(1), Vote::For(MemberId(1)));
    raft.step(Input::HardStateDurable { term, vote })
        .expect("saved");
    let waiting = raft.read_index();
    let ticket = ReadTicket(1);
    assert_eq!(waiting, Ok(ReadStart::Pending(ticket)));
    let index = LogIndex(1);
    let actions = run(&mut raft);
    assert!(
        actions.contains(&Action::ReadReady { ticket, index }),
        "{actions:?}"
    );
    assert_eq!(raft.read_index(), Ok(ReadStart::Ready(index)));
}

#[test]
fn reads_share_rounds_and_old_answers_prove_nothing() {
    let mut raft = leader_of_three();
    accept(&mut raft, 2, 1);
    let rounds = |actions: &[Action]| -> Vec<u64> {
        let rounds = actions.iter().filter_map(|action| match action {
            Action::Send(message) if message.to == MemberId(2) => match message.body {
                MessageBody::Heartbeat { round, .. } => Some(round.0),
                _ => None,
            },
            _ => None,
        });
        rounds.collect()
    };
    assert_eq!(raft.read_index(), Ok(ReadStart::Pending(ReadTicket(1))));
    assert_eq!(rounds(&drain(&mut raft)), [1]);
    raft.read_index().expect("waits for the next round");
    raft.read_index().expect("shares it");
    assert_eq!(rounds(&drain(&mut raft)), [], "a round is under way");
    let answer = |round| MessageBody::HeartbeatReply {
        round: ReadRound(round),
    };
    receive(&mut raft, 2, 1, answer(0));
    assert_eq!(drain(&mut raft), [], "a heartbeat from before the read");
    receive(&mut raft, 2, 1, answer(1));
    let actions = drain(&mut raft);
    let ready = |ticket| Action::ReadReady {
        ticket: ReadTicket(ticket),
        index: LogIndex(1),
    };
    assert_eq!(actions[0], ready(1));
    assert_eq!(rounds(&actions), [2], "the next round starts");
    receive(&mut raft, 3, 1, answer(2));
    assert!(drain(&mut raft).contains(&ready(3)));
    raft.read_index().expect("pending");
    drain(&mut raft);
    let commit = LogIndex(0);
    let round = ReadRound(0);
    receive(&mut raft, 3, 2, MessageBody::Heartbeat { commit, round });
    let aborted = Action::ReadsAborted {
        ticket: ReadTicket(4),
    };
    assert!(drain(&mut raft).contains(&aborted), "another leader");
}

#[test]
fn election_timeouts_are_drawn_anew_for_each_campaign() {
    let mut raft = Raft::new(config(1), group(3)).expect("empty");
    let (mut now, mut waits) = (0, Vec::new());
    for _ in 0..50 {
        let due = raft.next_deadline().expect("a follower waits");
        waits.push(due - now);
        now = due;
        raft.step(Input::Tick { now_nanos: now }).expect("taken");
        drain(&mut raft);
    }
    assert_eq!(raft.status().term, Term(50));
    assert!(
        waits.iter().all(|wait| (20..40).contains(wait)),
        "{waits:?}"
    );
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 10, "{waits:?}");
}

#[test]
fn a_leader_without_a_quorum_or_a_disk_steps_down() {
    let mut raft = leader_of_three();
    accept(&mut raft, 2, 1);
    raft.step(Input::Tick { now_nanos: 21 }).expect("taken");
    assert!(raft.is_leader(), "member 2 was heard of");
    raft.step(Input::Tick { now_nanos: 42 }).expect("taken");
    assert!(!raft.is_leader());

    let mut raft = leader_of_three();
    accept(&mut raft, 2, 1);
    raft.propose(EntryKind::Normal, 1).expect("taken");
    for now_nanos in 1..=20 {
        let round = ReadRound(0);
        receive(&mut raft, 2, 1, MessageBody::HeartbeatReply { round });
        raft.step(Input::Tick { now_nanos }).expect("taken");
        assert!(raft.is_leader(), "at {now_nanos}");
    }
    raft.step(Input::Tick { now_nanos: 21 }).expect("taken");
    assert!(!raft.is_leader(), "its disk stands still");
}

#[test]
fn the_leadership_is_handed_over() {
    let mut raft = leader_of_three();
    accept(&mut raft, 2, 1);
    let target = MemberId(2);
    raft.step(Input::TransferLeader { target }).expect("taken");
    let refused = ProposeError::TransferInProgress { target };
    assert_eq!(raft.propose(EntryKind::Normal, 1), Err(refused));
    let told = drain(&mut raft).into_iter().any(
        |action| matches!(action, Action::Send(message) if message.body == MessageBody::TimeoutNow),
    );
    assert!(told, "it is up to date");
    receive(
        &mut raft,
        2,
        1,
        MessageBody::HeartbeatReply {
            round: ReadRound(0),
        },
    );
    raft.step(Input::Tick { now_nanos: 20 }).expect("taken");
    raft.propose(EntryKind::Normal, 1)
        .expect("given up after an election timeout");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let mut raft = leader_of_three();
    accept(&mut raft, 2, 1);
    let step = |raft: &mut Raft, message: Message, entries: &[EntryMeta]| {
        let before = format!("{:?}", raft.status());
        let outcome = raft.step(Input::Message { message, entries });
        if outcome.is_err() {
            assert_eq!(
                before,
                format!("{:?}", raft.status()),
                "a refusal changed the state"
            );
        }
        outcome.err()
    };
    let propose = message(2, 1, MessageBody::Propose);
    let unsupported = StepError::Unsupported { name: "MsgProp" };
    assert_eq!(step(&mut raft, propose, &[]), Some(unsupported));
    let stranger = message(9, 1, MessageBody::VoteReply { granted: true });
    let from = MemberId(9);
    assert_eq!(
        step(&mut raft, stranger, &[]),
        Some(StepError::UnknownSender { from })
    );
    let mut elsewhere = message(2, 1, MessageBody::TimeoutNow);
    elsewhere.to = MemberId(7);
    let to = MemberId(7);
    assert_eq!(
        step(&mut raft, elsewhere, &[]),
        Some(StepError::Misdelivered { to })
    );
    let heartbeat = MessageBody::Heartbeat {
        commit: LogIndex(50),
        round: ReadRound(0),
    };
    let missing = StepError::CommitBeyondLog {
        commit: LogIndex(50),
        last: LogIndex(1),
    };
    assert_eq!(
        step(&mut raft, message(2, 2, heartbeat), &[]),
        Some(missing)
    );
    let append = |count| MessageBody::Append {
        previous: Position::default(),
        count,
        commit: LogIndex(0),
    };
    let gap = [entry(2, 2, EntryKind::Normal)];
    let malformed = step(&mut raft, message(2, 2, append(1)), &gap);
    assert!(matches!(malformed, Some(StepError::MalformedAppend { .. })));
    let other = [entry(1, 2, EntryKind::Normal)];
    let conflict = StepError::ConflictsWithCommitted {
        index: LogIndex(1),
        commit: LogIndex(1),
    };
    assert_eq!(
        step(&mut raft, message(2, 2, append(1)), &other),
        Some(conflict)
    );
    let applied = raft.step(Input::Applied { index: LogIndex(9) });
    assert!(matches!(applied, Err(StepError::OutOfRange { .. })));
}

/// A small generator of hostile messages.
struct Hostile(u64);

impl Hostile {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }

    fn number(&mut self) -> u64 {
        match self.below(12) {
            0 => u64::MAX,
            1 => u64::MAX / 2,
            _ => self.below(7),
        }
    }

    fn position(&mut self) -> Position {
        Position {
            index: LogIndex(self.number()),
            term: Term(self.number()),
        }
    }

    fn body(&mut self) -> MessageBody {
        let granted = self.below(2) == 0;
        let (last, cause) = (self.position(), CampaignCause::Timeout);
        let (index, round) = (LogIndex(self.number()), ReadRound(self.number()));
        match self.below(14) {
            0 => MessageBody::Propose,
            1 => MessageBody::Append {
                previous: last,
                count: self.below(3),
                commit: index,
            },
            2 => MessageBody::AppendAccepted { matched: index },
            3 => MessageBody::AppendRejected {
                rejected: index,
                hint: last,
            },
            4 => MessageBody::Vote { last, cause },
            5 => MessageBody::VoteReply { granted },
            6 => MessageBody::PreVote { last, cause },
            7 => MessageBody::PreVoteReply { granted },
            8 => MessageBody::Snapshot(Box::new(SnapshotMeta {
                position: last,
                configuration: group(3).configuration,
            })),
            9 => MessageBody::Heartbeat {
                commit: index,
                round,
            },
            10 => MessageBody::HeartbeatReply { round },
            11 => MessageBody::ReadIndex {
                ticket: ReadTicket(self.number()),
            },
            12 => MessageBody::TransferLeader {
                target: MemberId(self.number()),
            },
            _ => MessageBody::TimeoutNow,
        }
    }
}

#[test]
fn no_message_panics() {
    let budget: u64 = std::env::var("RINGD_TEST_BUDGET")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let mut refusals = 0;
    for seed in 0..3_000 * budget {
        let mut hostile = Hostile(seed);
        let mut config = config(1);
        config.pre_vote = hostile.below(2) == 0;
        let mut raft = Raft::new(config, group(3)).expect("empty");
        for step in 0..100 {
            let body = hostile.body();
            let mut entries = Vec::new();
            if let MessageBody::Append {
                previous, count, ..
            } = body
            {
                for offset in 1..=count {
                    let index = previous.index.0.saturating_add(offset);
                    let term = previous.term.0.saturating_add(hostile.below(2));
                    entries.push(entry(index, term, EntryKind::Normal));
                }
            }
            let (from, term) = (hostile.below(5), hostile.number());
            let message = message(from, term, body);
            let entries = &entries;
            let refused = raft.step(Input::Message { message, entries }).is_err();
            refusals += u64::from(refused);
            if hostile.below(4) == 0 {
                raft.step(Input::Tick { now_nanos: step }).expect("taken");
            }
            if hostile.below(2) == 0 {
                run(&mut raft);
            }
            raft.check();
        }
    }
    assert!(refusals > 1_000, "only {refusals} refusals");
}
