//! Several members on a lossy network with slow disks and crashes, from one seed; and the bugs
//! that it has to find.
//!
//! A member's disk has two queues, as the server's has: the superblock (term and vote) and the
//! log. A crash keeps any prefix of each. A superblock may also fall back to its copy before, if
//! entries of the lost term are in the log, because then the loss is noticed.

use std::collections::{BTreeMap, VecDeque};

use crate::interface::{Action, Config, Input};
use crate::membership::Configuration;
use crate::message::{Message, MessageBody};
use crate::node::Raft;
use crate::random::Random;
use crate::types::{
    EntryKind, EntryMeta, HardState, LogIndex, MemberId, Position, Restored, Role, Term, Vote,
};

/// Deviations that the simulation must notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PlantedBug {
    VoteBeforeDurable,
    OwnVoteBeforeDurable,
    LeadWithoutOwnVote,
    AcknowledgeBeforeDurable,
    CountWithoutDurable,
    CommitOldTerm,
    UnknownVoteAsNone,
}

struct LogWrite {
    first: LogIndex,
    entries: Vec<EntryMeta>,
    version: u64,
}

/// What survives, and what is on its way.
#[derive(Default)]
struct Disk {
    hard: HardState,
    hard_before: HardState,
    log: Vec<EntryMeta>,
    hard_queue: VecDeque<HardState>,
    log_queue: VecDeque<LogWrite>,
    /// Raised by each truncation; completions of earlier writes are stale.
    version: u64,
}

impl Disk {
    fn write_log(&mut self, write: &LogWrite, count: usize) {
        self.log.truncate(write.first.0 as usize - 1);
        self.log.extend_from_slice(&write.entries[..count]);
    }

    fn write_hard(&mut self, hard: HardState) {
        self.hard_before = self.hard;
        self.hard = hard;
    }

    fn holds(&self, entry: &EntryMeta) -> bool {
        self.log.get(entry.index.0 as usize - 1) == Some(entry)
    }

    /// Cuts the power.
    fn crash(&mut self, random: &mut Random) {
        while let Some(write) = self.log_queue.pop_front() {
            if random.below(2) == 0 {
                let torn = random.below(write.entries.len() as u64 + 1) as usize;
                if torn > 0 {
                    self.write_log(&write, torn);
                }
                break;
            }
            self.write_log(&write, write.entries.len());
        }
        self.log_queue.clear();
        while let Some(hard) = self.hard_queue.pop_front() {
            if random.below(2) == 0 {
                break;
            }
            self.write_hard(hard);
        }
        self.hard_queue.clear();
        let noticed = self
            .log
            .last()
            .is_some_and(|last| last.term == self.hard.term);
        if noticed && self.hard_before.term < self.hard.term && random.below(3) == 0 {
            self.hard = self.hard_before;
        }
    }
}

struct Member {
    raft: Option<Raft>,
    disk: Disk,
    life: u64,
    applied: LogIndex,
}

type Violation = String;

struct World {
    members: Vec<Member>,
    network: Vec<(Message, Vec<EntryMeta>)>,
    random: Random,
    planted: Option<PlantedBug>,
    pre_vote: bool,
    one_by_one: bool,
    now: u64,
    proposals: u64,
    leaders: BTreeMap<Term, (MemberId, u64)>,
    votes: BTreeMap<(MemberId, Term), MemberId>,
    created: BTreeMap<(LogIndex, Term), EntryMeta>,
    committed: BTreeMap<LogIndex, EntryMeta>,
    crashes: u64,
}

impl World {
    fn new(seed: u64, planted: Option<PlantedBug>) -> World {
        let mut random = Random::new(seed);
        let count = [1, 3, 3, 5][random.below(4) as usize];
        let mut world = World {
            members: Vec::new(),
            network: Vec::new(),
            pre_vote: random.below(2) == 0,
            one_by_one: random.below(2) == 0,
            random,
            planted,
            now: 0,
            proposals: 0,
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            created: BTreeMap::new(),
            committed: BTreeMap::new(),
            crashes: 0,
        };
        for _ in 0..count {
            world.members.push(Member {
                raft: None,
                disk: Disk::default(),
                life: 0,
                applied: LogIndex(0),
            });
        }
        world
    }

    fn start(&mut self, place: usize) -> Result<(), Violation> {
        let voters: Vec<MemberId> = (1..=self.members.len() as u64).map(MemberId).collect();
        let mut config = Config::new(voters[place], self.random.next());
        config.election_timeout_nanos = 20;
        config.heartbeat_interval_nanos = 4;
        config.pre_vote = self.pre_vote;
        config.check_quorum = self.pre_vote;
        // Half of the groups send one entry at a time, so that old terms are acknowledged alone.
        config.message_bytes_max = if self.one_by_one { 1 } else { 1 << 40 };
        config.uncommitted_bytes_max = 1 << 40;
        config.in_flight_messages_max = 3;
        config.in_flight_bytes_max = 1 << 40;
        let member = &mut self.members[place];
        member.life += 1;
        member.applied = LogIndex(0);
        let restored = Restored {
            term: member.disk.hard.term,
            vote: member.disk.hard.vote,
            entries: member.disk.log.clone(),
            configuration: Configuration::new(&voters, &[]),
            ..Restored::default()
        };
        let mut raft = Raft::new(config, restored).map_err(|error| format!("{error:?}"))?;
        raft.planted = self.planted;
        raft.step(Input::Tick {
            now_nanos: self.now,
        })
        .map_err(|error| error.to_string())?;
        member.raft = Some(raft);
        self.absorb(place)
    }

    fn step(&mut self, place: usize, input: Input<'_>) -> Result<(), Violation> {
        let Some(raft) = &mut self.members[place].raft else {
            return Ok(());
        };
        raft.step(input)
            .map_err(|error| format!("member {} refuses: {error}", place + 1))?;
        raft.check();
        self.absorb(place)
    }

    /// Carries out the actions and checks what they promise.
    fn absorb(&mut self, place: usize) -> Result<(), Violation> {
        let mut actions = Vec::new();
        let Some(raft) = &mut self.members[place].raft else {
            return Ok(());
        };
        raft.drain_actions(&mut actions);
        for action in actions {
            match action {
                Action::SaveHardState { term, vote } => {
                    let disk = &mut self.members[place].disk;
                    disk.hard_queue.push_back(HardState { term, vote });
                }
                Action::Append {
                    first,
                    last,
                    truncates,
                } => self.write(place, first, last, truncates)?,
                Action::Send(message) => self.send(place, message)?,
                Action::Commit { index } => self.commit(place, index)?,
                Action::RoleChanged {
                    role: Role::Leader,
                    term,
                    ..
                } => self.leads(place, term)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        place: usize,
        first: LogIndex,
        last: LogIndex,
        truncates: bool,
    ) -> Result<(), Violation> {
        let member = &mut self.members[place];
        let raft = member.raft.as_ref().expect("running");
        let entries: Vec<EntryMeta> = raft.entries(first, last).collect();
        for entry in &entries {
            let known = self
                .created
                .entry((entry.index, entry.term))
                .or_insert(*entry);
            if known != entry {
                return Err(format!("two entries at one position: {known:?}, {entry:?}"));
            }
        }
        member.disk.version += u64::from(truncates);
        member.disk.log_queue.push_back(LogWrite {
            first,
            entries,
            version: member.disk.version,
        });
        Ok(())
    }

    fn send(&mut self, place: usize, message: Message) -> Result<(), Violation> {
        let disk = &self.members[place].disk;
        let mut entries = Vec::new();
        match message.body {
            MessageBody::Append {
                previous, count, ..
            } => {
                let raft = self.members[place].raft.as_ref().expect("running");
                let last = LogIndex(previous.index.0 + count);
                entries.extend(raft.entries(previous.index.next(), last));
            }
            MessageBody::VoteReply { granted: true } => {
                self.cast(message.from, message.term, message.to)?;
            }
            MessageBody::AppendAccepted { matched } => {
                if disk.log.len() < matched.0 as usize {
                    return Err(format!("{matched} acknowledged and not durable"));
                }
                if disk.hard.term < message.term {
                    return Err(format!(
                        "acknowledged in {} before it is saved",
                        message.term
                    ));
                }
            }
            _ => {}
        }
        self.network.push((message, entries));
        Ok(())
    }

    fn cast(&mut self, voter: MemberId, term: Term, candidate: MemberId) -> Result<(), Violation> {
        let known = *self.votes.entry((voter, term)).or_insert(candidate);
        if known != candidate {
            return Err(format!(
                "{voter} voted for {known} and {candidate} in term {term}"
            ));
        }
        Ok(())
    }

    fn leads(&mut self, place: usize, term: Term) -> Result<(), Violation> {
        let id = MemberId(place as u64 + 1);
        let this = (id, self.members[place].life);
        let known = *self.leaders.entry(term).or_insert(this);
        if known != this {
            return Err(format!("{known:?} and {this:?} lead term {term}"));
        }
        self.cast(id, term, id)?;
        let log = self.members[place].raft.as_ref().expect("running").log();
        for (index, entry) in &self.committed {
            if log.entry(*index) != Some(*entry) {
                return Err(format!("leader {id} of {term} lacks committed {entry:?}"));
            }
        }
        Ok(())
    }

    fn commit(&mut self, place: usize, index: LogIndex) -> Result<(), Violation> {
        let member = &mut self.members[place];
        let raft = member.raft.as_ref().expect("running");
        let fresh: Vec<EntryMeta> = raft.entries(member.applied.next(), index).collect();
        member.applied = index;
        for entry in fresh {
            if let Some(known) = self.committed.insert(entry.index, entry)
                && known != entry
            {
                return Err(format!("committed {known:?} and {entry:?}"));
            }
            let holders = self
                .members
                .iter()
                .filter(|it| it.disk.holds(&entry))
                .count();
            if holders * 2 <= self.members.len() {
                return Err(format!("{entry:?} committed on {holders} disks"));
            }
        }
        let raft = self.members[place].raft.as_mut().expect("running");
        raft.step(Input::Applied { index })
            .map_err(|error| error.to_string())
    }

    // ---- faults and progress ----

    fn deliver(&mut self, lossy: bool) -> Result<(), Violation> {
        if self.network.is_empty() {
            return Ok(());
        }
        let choice = self.random.below(self.network.len() as u64) as usize;
        let (message, entries) = if lossy && self.random.below(20) == 0 {
            self.network[choice].clone()
        } else {
            self.network.swap_remove(choice)
        };
        if lossy && self.random.below(10) == 0 {
            return Ok(());
        }
        let place = message.to.0 as usize - 1;
        let input = Input::Message {
            message,
            entries: &entries,
        };
        self.step(place, input)
    }

    fn finish_log_write(&mut self, place: usize) -> Result<(), Violation> {
        let disk = &mut self.members[place].disk;
        let Some(write) = disk.log_queue.pop_front() else {
            return Ok(());
        };
        disk.write_log(&write, write.entries.len());
        if write.version != disk.version {
            return Ok(());
        }
        let Position { index, term } = write.entries.last().expect("not empty").position();
        self.step(place, Input::Durable { index, term })
    }

    fn finish_hard_write(&mut self, place: usize) -> Result<(), Violation> {
        let disk = &mut self.members[place].disk;
        let Some(hard) = disk.hard_queue.pop_front() else {
            return Ok(());
        };
        disk.write_hard(hard);
        let HardState { term, vote } = hard;
        self.step(place, Input::HardStateDurable { term, vote })
    }

    fn tick(&mut self) -> Result<(), Violation> {
        self.now += 1;
        for place in 0..self.members.len() {
            let now_nanos = self.now;
            self.step(place, Input::Tick { now_nanos })?;
        }
        Ok(())
    }

    fn propose(&mut self, place: usize) -> Result<(), Violation> {
        self.proposals += 1;
        let bytes = self.proposals;
        if let Some(raft) = &mut self.members[place].raft
            && raft.propose(EntryKind::Normal, bytes).is_ok()
        {
            return self.absorb(place);
        }
        Ok(())
    }

    fn crash(&mut self, place: usize) {
        if self.members[place].raft.take().is_some() {
            self.crashes += 1;
            self.members[place].disk.crash(&mut self.random);
        }
    }

    fn run(&mut self, steps: u64) -> Result<(), Violation> {
        for place in 0..self.members.len() {
            self.start(place)?;
        }
        let (disk_pace, crash_pace) = (1 + self.random.below(30), 50 + self.random.below(400));
        for _ in 0..steps {
            let place = self.random.below(self.members.len() as u64) as usize;
            match self.random.below(60) {
                0..25 => self.deliver(true)?,
                25..32 if self.random.below(3) == 0 => self.tick()?,
                32..40 => self.propose(place)?,
                40..50 if self.random.below(disk_pace) < 3 => self.finish_log_write(place)?,
                50..60 if self.random.below(disk_pace) < 3 => self.finish_hard_write(place)?,
                _ => {}
            }
            if self.random.below(crash_pace) == 0 {
                self.crash(place);
            }
            if self.members[place].raft.is_none() && self.random.below(20) == 0 {
                self.start(place)?;
            }
        }
        Ok(())
    }

    /// Without faults a leader emerges and everything proposed to it is committed everywhere.
    fn settle(&mut self) -> Result<(), Violation> {
        for place in 0..self.members.len() {
            if self.members[place].raft.is_none() {
                self.start(place)?;
            }
        }
        let before = self.committed.len();
        for round in 0..4_000 {
            self.tick()?;
            for _ in 0..4 * self.members.len() {
                self.deliver(false)?;
            }
            for place in 0..self.members.len() {
                self.finish_log_write(place)?;
                self.finish_hard_write(place)?;
                if round % 20 == 0 {
                    self.propose(place)?;
                }
            }
            let slowest = self.members.iter().map(|it| it.applied).min();
            if slowest > Some(LogIndex(before as u64 + 3)) {
                return Ok(());
            }
        }
        Err(format!("no progress beyond {before} after the faults"))
    }
}

fn budget() -> u64 {
    std::env::var("RINGD_TEST_BUDGET")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

#[test]
fn safety_always_and_progress_without_faults() {
    let (mut crashes, mut elections, mut committed) = (0, 0, 0);
    for seed in 0..600 * budget() {
        let mut world = World::new(seed, None);
        let outcome = world.run(3_000).and_then(|()| world.settle());
        if let Err(violation) = outcome {
            panic!("seed {seed}: {violation}");
        }
        crashes += world.crashes;
        elections += world.leaders.len();
        committed += world.committed.len();
    }
    println!("{crashes} crashes, {elections} terms with a leader, {committed} entries committed");
    assert!(crashes > 1_000, "crashes {crashes}");
    assert!(elections > 2_000, "elections {elections}");
    assert!(committed > 20_000, "committed {committed}");
}

#[test]
fn one_seed_is_one_history() {
    let history = || {
        let mut world = World::new(11, None);
        world.run(3_000).expect("safe");
        (world.votes, world.committed, world.now)
    };
    assert_eq!(history(), history());
}

fn finds(bug: PlantedBug) {
    for seed in 0..20_000 {
        let mut world = World::new(seed, Some(bug));
        if let Err(violation) = world.run(3_000) {
            println!("{bug:?}: seed {seed}: {violation}");
            return;
        }
    }
    panic!("{bug:?} was not found");
}

#[test]
fn finds_votes_that_leave_before_they_are_durable() {
    finds(PlantedBug::VoteBeforeDurable);
}

#[test]
fn finds_own_votes_that_count_before_they_are_durable() {
    finds(PlantedBug::OwnVoteBeforeDurable);
}

#[test]
fn finds_leaders_whose_own_vote_is_not_durable() {
    finds(PlantedBug::LeadWithoutOwnVote);
}

#[test]
fn finds_acknowledgements_of_entries_that_are_not_durable() {
    finds(PlantedBug::AcknowledgeBeforeDurable);
}

#[test]
fn finds_leaders_that_count_themselves_without_durability() {
    finds(PlantedBug::CountWithoutDurable);
}

#[test]
fn finds_commits_of_older_terms_by_counting() {
    finds(PlantedBug::CommitOldTerm);
}

/// A voter of a group of three whose log ends with one entry of term 2.
fn restored_voter(term: u64, vote: Vote, planted: Option<PlantedBug>) -> Raft {
    let mut config = Config::new(MemberId(1), 1);
    config.pre_vote = false;
    config.check_quorum = false;
    let entry = |index, term| EntryMeta {
        index: LogIndex(index),
        term: Term(term),
        kind: EntryKind::Normal,
        bytes: 1,
    };
    let restored = Restored {
        term: Term(term),
        vote,
        entries: vec![entry(1, 1), entry(2, 2)],
        configuration: Configuration::new(&[MemberId(1), MemberId(2), MemberId(3)], &[]),
        ..Restored::default()
    };
    let mut raft = Raft::new(config, restored).expect("a log");
    raft.planted = planted;
    raft
}

fn receive(raft: &mut Raft, from: u64, term: u64, body: MessageBody) {
    let message = Message {
        from: MemberId(from),
        to: MemberId(1),
        term: Term(term),
        body,
    };
    let entries = &[];
    raft.step(Input::Message { message, entries })
        .expect("taken");
}

fn make_durable(raft: &mut Raft) -> Vec<Action> {
    let mut all = Vec::new();
    loop {
        let from = all.len();
        raft.drain_actions(&mut all);
        if all.len() == from {
            return all;
        }
        for action in all[from..].iter().cloned() {
            match action {
                Action::SaveHardState { term, vote } => {
                    raft.step(Input::HardStateDurable { term, vote })
                        .expect("taken");
                }
                Action::Append { last, .. } => {
                    let term = raft.log().term_at(last).expect("appended");
                    raft.step(Input::Durable { index: last, term })
                        .expect("taken");
                }
                _ => {}
            }
        }
    }
}

/// Whether a member that forgot its vote in term 2, as its log shows, votes in it again.
fn votes_again(planted: Option<PlantedBug>) -> bool {
    let mut raft = restored_voter(1, Vote::None, planted);
    assert_eq!(raft.status().term, Term(2), "entries raise the term");
    assert_eq!(raft.status().vote, Vote::Unknown);
    let last = raft.log().last();
    let cause = crate::message::CampaignCause::Timeout;
    receive(&mut raft, 2, 2, MessageBody::Vote { last, cause });
    let actions = make_durable(&mut raft);
    let saved = Action::SaveHardState {
        term: Term(2),
        vote: Vote::Unknown,
    };
    assert!(planted.is_some() || actions.contains(&saved), "{actions:?}");
    actions.iter().any(|action| {
        matches!(action, Action::Send(message)
            if message.body == (MessageBody::VoteReply { granted: true }))
    })
}

#[test]
fn an_unknown_vote_is_no_free_vote() {
    assert!(!votes_again(None));
    assert!(
        votes_again(Some(PlantedBug::UnknownVoteAsNone)),
        "not noticed"
    );
}

/// What a leader of term 3 commits when a second disk holds the entry of term 2, and then its own.
fn commits_of_term_three(planted: Option<PlantedBug>) -> (LogIndex, LogIndex) {
    let mut raft = restored_voter(2, Vote::None, planted);
    raft.step(Input::Campaign).expect("taken");
    make_durable(&mut raft);
    receive(&mut raft, 2, 3, MessageBody::VoteReply { granted: true });
    make_durable(&mut raft);
    assert!(raft.is_leader());
    let accept = |raft: &mut Raft, index| {
        let matched = LogIndex(index);
        receive(raft, 2, 3, MessageBody::AppendAccepted { matched });
        raft.log().commit()
    };
    (accept(&mut raft, 2), accept(&mut raft, 3))
}

#[test]
fn older_terms_are_not_committed_by_counting() {
    assert_eq!(commits_of_term_three(None), (LogIndex(0), LogIndex(3)));
    let planted = commits_of_term_three(Some(PlantedBug::CommitOldTerm));
    assert_eq!(planted.0, LogIndex(2), "not noticed");
}
