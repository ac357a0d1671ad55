//! One member of a simulated cluster on the simulated disk, with an oracle beside it.
//!
//! The world appends, truncates, votes, checkpoints, installs snapshots and stops in random order, completes
//! requests in random order, and asks at every submission and completion: if the process ended here, in any
//! way the disk allows, would the next one find everything that was acknowledged, and no false alarm?

use super::promise::{Checked, Promise, broken};
use super::{Bug, Random};
use crate::io::{IoOperation, IoRequest};
use crate::planted::planted;
use crate::record::{Header, Kind, Place, Probe, Salt};
use crate::{
    Checkpoint, Config, Entry, Index, NewDirectory, OpenError, Opened, Opening, Term, Vote, Wal,
    WalEvent, record,
};
use bytes::Bytes;
use diskio::sim::{Crash, Fate, SimDisk};
use std::collections::BTreeMap;

/// What a run looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A single voter: its own log is the truth.
    Single,
    /// A member among others, leaders change now and then.
    Member,
    /// Leaders change all the time, logs conflict.
    Conflicts,
    /// Long lives with a stuck write and many checkpoints.
    Stuck,
}

/// What an enumeration went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Crash states that were recovered from and checked.
    pub states: u64,
    /// Those inside a recovery.
    pub states_in_recovery: u64,
    /// Points at which the world was cut.
    pub points: u64,
    /// Lives of the world itself.
    pub lives: u64,
    /// Conflict truncations of submitted entries.
    pub truncations: u64,
    /// Checkpoints published.
    pub checkpoints: u64,
    /// Snapshots that replaced a log.
    pub snapshots: u64,
    /// Lives that began with another number of lanes.
    pub lane_changes: u64,
}

/// What the rest of the cluster knows, and what this member promised.
#[derive(Clone, Debug, Default)]
pub(super) struct Oracle {
    /// Term before `(term, index)`: a leader creates an entry once.
    before: BTreeMap<(u64, u64), u64>,
    /// Bytes of the entries that this member was given, by `(term, index)`.
    payloads: BTreeMap<(u64, u64), Bytes>,
    /// Highest record sequence number that was ever submitted.
    wseq_max: u64,
    committed: Vec<u64>,
    leader_logs: Vec<Vec<u64>>,
    leader_log: Vec<u64>,
    leader_term: u64,
    term_max: u64,
    pub(super) acknowledged: usize,
    pub(super) log: Vec<u64>,
    promise: (u64, Option<u64>),
    acknowledged_term: u64,
    pub(super) checkpoint: u64,
    pub(super) evidence: u64,
}

/// The member, its disk and the oracle.
pub struct World {
    random: Random,
    style: Style,
    pub(super) disk: SimDisk,
    pub(super) config: Config,
    wal: Option<Wal>,
    pub(super) oracle: Oracle,
    /// The member's log as terms.
    log: Vec<u64>,
    commit: usize,
    durable: usize,
    term: u64,
    term_durable: u64,
    vote: Option<u64>,
    contact: bool,
    replacing: Option<Checkpoint>,
    checkpointing: bool,
    ids_next: u64,
    ids_reserved: u64,
    now: u64,
    stopped: bool,
    /// The log reported a failed request.
    pub(super) poisoned: bool,
    /// Times that the log found no space.
    pub(super) no_space: u64,
    /// Lives end without a clean stop.
    pub(super) never_stops: bool,
    stuck: bool,
    /// Cuts at every point if set; otherwise the world only lives and crashes.
    enumerate: bool,
    /// State of the disk and of the promises at the last cut.
    cut_last: (u64, Promised),
    counts: Counts,
}

/// Acknowledged entries, term and vote, checkpoint.
type Promised = (usize, (u64, Option<u64>), u64);

pub(super) fn new_directory() -> NewDirectory {
    NewDirectory {
        cluster_id: 1,
        member_id: 2,
        salt: 0x5EED_0F5A_1701,
        shards: 4,
    }
}

pub(super) fn payload(index: u64, term: u64) -> Bytes {
    let hash = index.wrapping_mul(0x9E37_79B9) ^ term.wrapping_mul(0x85EB_CA6B);
    let bytes = match hash >> 3 & 7 {
        0..=4 => 20,
        5 | 6 => 1400,
        _ => return forged(index),
    };
    Bytes::from(vec![(hash & 0xff) as u8; bytes])
}

/// A client's value that looks like a record to somebody who does not know the salt.
fn forged(index: u64) -> Bytes {
    let header = Header {
        kind: Kind::Beacon,
        place: Place::default(),
        lane_generation: 1,
        wseq: 1,
        epoch: 1 << 40,
        epoch_start: Index(1 << 40),
        first_index: Index(0),
        count: 0,
        body_bytes: 0,
        prev_term: Term(0),
        last_term: Term(0),
        durable_index: Index(index + 1000),
        durable_term: Term(1),
        commit_hint: Index(0),
        body_sum: 0,
    };
    let fake = record::encode(header, &[], Salt::unsalted());
    let lead = crate::BLOCK_BYTES as usize - record::HEADER_BYTES - record::ENTRY_HEADER_BYTES;
    let mut bytes = vec![1; lead + 2 * record::HEADER_BYTES];
    bytes[lead..lead + record::HEADER_BYTES].copy_from_slice(&fake[..record::HEADER_BYTES]);
    Bytes::from(bytes)
}

impl World {
    /// A world of `seed`. Nothing is created yet.
    pub fn new(seed: u64, style: Style, enumerate: bool) -> World {
        let mut random = Random::new(seed);
        let lanes = if random.percent(30) { 2 } else { 1 };
        let config = Config {
            lanes,
            segment_bytes: 4096 * (6 + random.below(5)),
            spare_segments: 1,
            free_segments_max: 4,
            batch_bytes_target: 4096,
            record_bytes_max: 4096 * 4,
            writes_in_flight_max: 2 + random.below(3) as u32,
            busy_bytes_min: 0,
            beacon_delay_nanos: 10,
            space_retry_nanos: 100,
            wseq_reserve: 12,
            prewrite_bytes: 4096 * 16,
            prewrite_gap_bytes: 4096 * 2,
            scan_read_bytes: 4096 * 16,
            scan_reads_in_flight_max: 4,
        };
        World {
            random,
            style,
            disk: SimDisk::new(),
            config,
            wal: None,
            oracle: Oracle {
                leader_logs: vec![Vec::new()],
                ..Oracle::default()
            },
            log: Vec::new(),
            commit: 0,
            durable: 0,
            term: 0,
            term_durable: 0,
            vote: None,
            contact: false,
            replacing: None,
            checkpointing: false,
            ids_next: 1,
            ids_reserved: 0,
            now: 0,
            stopped: false,
            poisoned: false,
            no_space: 0,
            never_stops: false,
            stuck: false,
            enumerate,
            cut_last: Default::default(),
            counts: Counts::default(),
        }
    }

    /// What the world went through.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Lives through `lives` lives, each ended by a crash or a clean stop.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn run(&mut self, lives: u64) -> Checked<()> {
        for _ in 0..lives {
            self.life()?;
            let crash = self.random_crash();
            self.end_life(&crash);
        }
        self.open()?;
        let crash = self.random_crash();
        self.disk.crash(&crash);
        Ok(())
    }

    /// One life, without its end.
    pub(super) fn life(&mut self) -> Checked<()> {
        let opened = self.open()?;
        self.restore(opened);
        self.counts.lives += 1;
        self.stuck = self.style == Style::Stuck || self.random.percent(20);
        let steps = match self.style {
            Style::Stuck => 80 + self.random.below(150),
            _ => 10 + self.random.below(60),
        };
        if self.style == Style::Single {
            self.new_leader()?;
        }
        for _ in 0..steps {
            self.step()?;
        }
        if self.random.percent(15) && !self.poisoned && !self.never_stops {
            self.stop()?;
        }
        Ok(())
    }

    /// Everything in flight completes; the member falls idle and writes its beacon.
    pub(super) fn settle(&mut self) -> Checked<()> {
        if self.stopped {
            return Ok(());
        }
        for _ in 0..3 {
            self.now += 1000;
            self.poll()?;
            while self.disk.in_flight() > 0 {
                self.complete(0)?;
            }
        }
        Ok(())
    }

    /// Stops cleanly.
    pub(super) fn stop(&mut self) -> Checked<()> {
        while (self.replacing.is_some() || self.checkpointing) && !self.poisoned {
            if self.disk.in_flight() == 0 {
                self.poll()?;
            }
            self.complete(0)?;
        }
        self.wal_mut().stop();
        self.poll()?;
        while !self.stopped && !self.poisoned {
            if self.disk.in_flight() == 0 {
                return broken(Promise::Progress, "the clean stop does not end");
            }
            self.complete(0)?;
        }
        Ok(())
    }

    /// Stops cleanly, unless the life already ended so.
    pub(super) fn stop_once(&mut self) -> Checked<()> {
        if self.stopped {
            return Ok(());
        }
        self.stop()
    }

    /// Whether everything that was appended is durable.
    pub(super) fn all_is_durable(&self) -> bool {
        let wal = self.wal.as_ref().expect("the member runs");
        wal.durable_index() == wal.last_index()
    }

    /// The log that an opening restored, as terms.
    pub(super) fn found_log(&self, opened: &Opened) -> Vec<u64> {
        let checkpoint = opened.superblock.checkpoint_index.0 as usize;
        let covered = self.oracle.committed.iter().take(checkpoint).copied();
        covered
            .chain(opened.entries.iter().map(|entry| entry.term.0))
            .collect()
    }

    pub(super) fn end_life(&mut self, crash: &Crash) {
        self.disk.crash(crash);
        self.oracle.log.clone_from(&self.log);
        self.wal = None;
    }

    /// Ends the life in a random way.
    pub(super) fn crash_at_random(&mut self) {
        let crash = self.random_crash();
        self.end_life(&crash);
    }

    /// Cuts at every point from now on, or not.
    pub(super) fn enumerate(&mut self, enumerate: bool) {
        self.enumerate = enumerate;
    }

    fn wal_mut(&mut self) -> &mut Wal {
        self.wal.as_mut().expect("the member runs")
    }

    fn open(&mut self) -> Checked<Opened> {
        let lanes = 1 + u16::from(self.random.percent(30));
        self.counts.lane_changes += u64::from(lanes != self.config.lanes);
        self.config.lanes = lanes;
        // Recovery is cut now and then in the world's own time line too.
        while self.random.percent(25) {
            let cut = self.random.below(40);
            let mut opening = Opening::new(self.config.clone(), Some(new_directory()));
            for _ in 0..cut {
                step_opening(&mut opening, &mut self.disk, &mut self.random);
            }
            let crash = self.random_crash();
            self.disk.crash(&crash);
        }
        let mut disk = std::mem::take(&mut self.disk);
        let depth = u32::from(self.enumerate);
        let opened = self.recover(&mut disk, depth);
        self.disk = disk;
        opened
    }

    /// Opens the directory on `disk` and checks what comes out against the oracle.
    fn recover(&mut self, disk: &mut SimDisk, depth: u32) -> Checked<Opened> {
        let mut opening = Opening::new(self.config.clone(), Some(new_directory()));
        loop {
            if let Some(outcome) = opening.outcome() {
                let opened = match outcome {
                    Ok(opened) => opened,
                    Err(OpenError::Io { .. }) if disk.failed().is_some() => {
                        // The one request that had to fail; the next attempt meets a healthy disk.
                        let fates = disk.writes_in_flight().map(|_| Fate::Kept).collect();
                        disk.crash(&Crash::Kill { fates });
                        return self.recover(disk, depth);
                    }
                    Err(error @ OpenError::Faulty(_)) => {
                        return broken(Promise::NoFalseAlarm, error.to_string());
                    }
                    Err(error) => return broken(Promise::OpensAfterCrash, error.to_string()),
                };
                let mut requests = Vec::new();
                opening.poll(&mut requests);
                disk.accept(requests);
                self.check(&opened)?;
                return Ok(opened);
            }
            if !step_opening(&mut opening, disk, &mut self.random) {
                return broken(Promise::Progress, "the opening waits for nothing");
            }
            if depth > 0 {
                self.cut_recovery(disk, depth)?;
            }
        }
    }

    fn cut_recovery(&mut self, disk: &SimDisk, depth: u32) -> Checked<()> {
        if disk.unsynced().is_empty() && disk.unsynced_changes().is_empty() {
            return Ok(());
        }
        for _ in 0..2 {
            let crash = random_crash(disk, &mut self.random);
            let mut cut = disk.crashed(&crash);
            self.counts.states += 1;
            self.counts.states_in_recovery += 1;
            self.recover(&mut cut, depth - 1)
                .map_err(|violation| violation.after(format!("{crash:?} in recovery")))?;
        }
        Ok(())
    }

    fn random_crash(&mut self) -> Crash {
        random_crash(&self.disk, &mut self.random)
    }

    pub(super) fn check(&self, opened: &Opened) -> Checked<()> {
        let oracle = &self.oracle;
        let (term, promise) = (opened.term.0, oracle.promise);
        let same_vote = match (promise.1, opened.vote) {
            (_, Vote::Unknown) | (None, _) => true,
            (Some(vote), Vote::For(member)) => vote == member,
            (Some(_), Vote::None) => false,
        };
        if term < promise.0 && promise.1.is_none() {
            return broken(
                Promise::TermKept,
                format!("term fell: promised {}, found {term}", promise.0),
            );
        }
        if term < promise.0 || term == promise.0 && !same_vote {
            return broken(
                Promise::VoteKept,
                format!(
                    "vote lost: promised {promise:?}, found {term} {:?}",
                    opened.vote
                ),
            );
        }
        if term < oracle.acknowledged_term {
            return broken(
                Promise::TermKept,
                format!(
                    "term fell: acknowledged {}, found {term}",
                    oracle.acknowledged_term
                ),
            );
        }
        let checkpoint = opened.superblock.checkpoint_index.0;
        if checkpoint < oracle.checkpoint || checkpoint as usize > oracle.committed.len() {
            return broken(
                Promise::CheckpointKept,
                format!(
                    "checkpoint {checkpoint}, published {}, committed {}",
                    oracle.checkpoint,
                    oracle.committed.len()
                ),
            );
        }
        let mut log = oracle.committed[..checkpoint as usize].to_vec();
        for entry in &opened.entries {
            let previous = log.last().copied().unwrap_or(0);
            let key = (entry.term.0, entry.index.0);
            if entry.index.0 != log.len() as u64 + 1 || oracle.before.get(&key) != Some(&previous) {
                return broken(
                    Promise::TermsChain,
                    format!("log matching broken at {}", entry.index),
                );
            }
            if oracle.payloads.get(&key) != Some(&entry.data) {
                return broken(
                    Promise::BytesKept,
                    format!(
                        "entry {} of term {} has other bytes: {} of {:?}",
                        entry.index,
                        entry.term,
                        entry.data.len(),
                        entry.data.first()
                    ),
                );
            }
            log.push(entry.term.0);
        }
        let current = if self.wal.is_some() {
            &self.log
        } else {
            &oracle.log
        };
        let promised = &current[..oracle.acknowledged];
        if log.len() < promised.len() || log[..promised.len()] != *promised {
            return broken(
                Promise::AcknowledgedKept,
                format!("acknowledged entries lost: {promised:?} promised, {log:?} found"),
            );
        }
        Ok(())
    }

    fn restore(&mut self, opened: Opened) {
        let checkpoint = opened.superblock.checkpoint_index.0 as usize;
        self.log = self.oracle.committed[..checkpoint].to_vec();
        self.log
            .extend(opened.entries.iter().map(|entry| entry.term.0));
        self.commit = checkpoint;
        self.durable = self.log.len();
        self.term = opened.term.0;
        self.term_durable = self.term;
        self.vote = match opened.vote {
            Vote::None => None,
            Vote::For(member) => Some(member),
            Vote::Unknown => Some(u64::MAX),
        };
        self.contact = false;
        self.replacing = None;
        self.checkpointing = false;
        self.ids_reserved = opened.superblock.checkpoint_ids_reserved;
        self.ids_next = self.ids_reserved + 1;
        self.stopped = false;
        self.poisoned = false;
        self.oracle.checkpoint = self.oracle.checkpoint.max(checkpoint as u64);
        self.oracle.term_max = self.oracle.term_max.max(self.term);
        self.wal = Some(opened.wal);
    }

    // The cluster.

    fn matching(&self) -> usize {
        let pairs = self.log.iter().zip(&self.oracle.leader_log);
        pairs.take_while(|(own, leader)| own == leader).count()
    }

    fn grow(&mut self, entries: u64) {
        let oracle = &mut self.oracle;
        for _ in 0..entries {
            let previous = oracle.leader_log.last().copied().unwrap_or(0);
            let key = (oracle.leader_term, oracle.leader_log.len() as u64 + 1);
            oracle.before.insert(key, previous);
            oracle.leader_log.push(oracle.leader_term);
        }
    }

    fn new_leader(&mut self) -> Checked<()> {
        if self.replacing.is_some() {
            return Ok(());
        }
        let single = self.style == Style::Single;
        self.oracle.term_max = self.oracle.term_max.max(self.term) + 1;
        self.oracle.leader_term = self.oracle.term_max;
        let committed = &self.oracle.committed;
        let extends = |log: &Vec<u64>| log.starts_with(committed);
        let pick = self.random.below(self.oracle.leader_logs.len() as u64) as usize;
        let other = &self.oracle.leader_logs[pick];
        let base = if single || self.random.percent(20) && extends(&self.log) {
            self.contact = true;
            self.log.clone()
        } else if extends(other) {
            let more = (other.len() - committed.len()) as u64;
            let keep = committed.len() + self.random.below(more + 1) as usize;
            self.contact = false;
            other[..keep].to_vec()
        } else {
            self.contact = false;
            committed.clone()
        };
        self.oracle.leader_log = base;
        let entries = 1 + self.random.below(2);
        self.grow(entries);
        self.remember_leader_log();
        if self.contact {
            self.follow();
        }
        if single {
            self.append_from_leader(u64::MAX)?;
        }
        Ok(())
    }

    fn remember_leader_log(&mut self) {
        if self.oracle.leader_logs.len() > 5 {
            self.oracle.leader_logs.remove(0);
        }
        self.oracle.leader_logs.push(self.oracle.leader_log.clone());
    }

    fn follow(&mut self) {
        if self.oracle.leader_term > self.term {
            self.term = self.oracle.leader_term;
            self.vote = (self.style == Style::Single).then_some(2);
            self.save_hard_state();
        }
    }

    fn save_hard_state(&mut self) {
        let vote = self.vote.map_or(Vote::None, |vote| match vote {
            u64::MAX => Vote::Unknown,
            vote => Vote::For(vote),
        });
        let term = Term(self.term);
        self.wal_mut().save_hard_state(term, vote);
    }

    fn append_from_leader(&mut self, max: u64) -> Checked<()> {
        if self.replacing.is_some() || self.oracle.leader_term < self.term {
            return Ok(());
        }
        self.follow();
        self.contact = true;
        let matching = self.matching();
        let end = (matching as u64).saturating_add(max);
        let end = end.min(self.oracle.leader_log.len() as u64) as usize;
        let mut from = matching;
        // What is there already is not appended again.
        while from < end && from < self.log.len() && self.log[from] == self.oracle.leader_log[from]
        {
            from += 1;
        }
        if from >= end {
            return Ok(());
        }
        if from < self.log.len() {
            self.counts.truncations += 1;
            if from < self.commit {
                return broken(
                    Promise::WorldConsistent,
                    "the world truncates committed entries",
                );
            }
        }
        self.log.truncate(from);
        self.durable = self.durable.min(from);
        self.oracle.acknowledged = self.oracle.acknowledged.min(from);
        self.oracle.evidence = self.oracle.evidence.min(from as u64);
        let mut entries = Vec::new();
        for position in from..end {
            let term = self.oracle.leader_log[position];
            let index = position as u64 + 1;
            self.log.push(term);
            let payloads = &mut self.oracle.payloads;
            let data = payloads.entry((term, index));
            let data = data.or_insert_with(|| payload(index, term)).clone();
            entries.push(Entry {
                index: Index(index),
                term: Term(term),
                kind: 1,
                data,
            });
        }
        self.wal_mut().append(entries);
        Ok(())
    }

    fn acknowledge(&mut self) {
        let ready = self.contact
            && self.replacing.is_none()
            && self.term == self.oracle.leader_term
            && (self.term_durable >= self.term || planted(Bug::AcknowledgeBeforeTermDurable));
        if !ready {
            return;
        }
        let index = self.durable.min(self.matching());
        self.oracle.acknowledged = self.oracle.acknowledged.max(index);
        self.oracle.acknowledged_term = self.oracle.acknowledged_term.max(self.term);
        if self.style == Style::Single {
            self.commit_to(index);
        }
    }

    fn commit_to(&mut self, index: usize) {
        while self.oracle.committed.len() < index {
            let position = self.oracle.committed.len();
            self.oracle.committed.push(self.oracle.leader_log[position]);
        }
        let index = self.oracle.committed.len().min(self.matching());
        if self.contact && self.replacing.is_none() && index > self.commit {
            self.commit = index;
            self.wal_mut().set_commit_hint(Index(index as u64));
        }
    }

    // Steps.

    fn step(&mut self) -> Checked<()> {
        let conflicts = self.style == Style::Conflicts;
        match self.random.below(34) {
            0 if self.style != Style::Single => self.new_leader()?,
            1 | 2 if conflicts => {
                self.new_leader()?;
                let count = 1 + self.random.below(6);
                self.append_from_leader(count)?;
            }
            3..=8 => {
                if self.oracle.leader_term > 0 {
                    let count = 1 + self.random.below(3);
                    self.grow(count);
                    self.remember_leader_log();
                    let max = 1 + self.random.below(5);
                    self.append_from_leader(max)?;
                }
            }
            9 | 10 => self.commit_some(),
            11 | 12 => self.checkpoint()?,
            13 if self.style != Style::Single && self.random.percent(80) => self.snapshot(),
            14 if self.style != Style::Single && self.random.percent(50) => self.vote(),
            15 => self.now += 20,
            16 => self.acknowledge(),
            17 => {}
            _ => return self.complete_some(),
        }
        self.poll()
    }

    fn commit_some(&mut self) {
        let oracle = &self.oracle;
        if self.style != Style::Single && oracle.leader_term > 0 {
            let index = oracle.committed.len() + 1 + self.random.below(4) as usize;
            if oracle.leader_log.get(index - 1) == Some(&oracle.leader_term) {
                self.commit_to(index);
            }
        }
        let known = self.oracle.committed.len();
        self.commit_to(known);
    }

    fn take_id(&mut self) -> Option<u64> {
        if self.ids_next <= self.ids_reserved {
            self.ids_next += 1;
            return Some(self.ids_next - 1);
        }
        let through = self.ids_next + 3;
        self.wal_mut().reserve_checkpoint_ids(through);
        None
    }

    fn checkpoint(&mut self) -> Checked<()> {
        let present = self.wal_mut().superblock().checkpoint_index.0 as usize;
        if self.checkpointing || self.replacing.is_some() || self.commit <= present {
            return Ok(());
        }
        let Some(id) = self.take_id() else {
            return Ok(());
        };
        let ahead = (self.commit - present) as u64;
        let index = present + 1 + self.random.below(ahead) as usize;
        self.checkpointing = true;
        let checkpoint = Checkpoint {
            id,
            index: Index(index as u64),
            term: Term(self.log[index - 1]),
            section: id.to_le_bytes().to_vec(),
        };
        self.wal_mut().checkpoint(checkpoint);
        Ok(())
    }

    fn snapshot(&mut self) {
        let index = self.oracle.committed.len();
        if self.checkpointing || self.replacing.is_some() || index <= self.commit + 1 {
            return;
        }
        let Some(id) = self.take_id() else { return };
        let term = self.oracle.committed[index - 1];
        let snapshot = Checkpoint {
            id,
            index: Index(index as u64),
            term: Term(term),
            section: id.to_le_bytes().to_vec(),
        };
        let contained = self.log.get(index - 1) == Some(&term);
        if contained {
            self.checkpointing = true;
        } else {
            let pairs = self.log.iter().zip(&self.oracle.committed);
            let common = pairs.take_while(|(own, other)| own == other).count();
            self.oracle.acknowledged = self.oracle.acknowledged.min(common);
            self.oracle.evidence = self.oracle.evidence.min(common as u64);
            self.replacing = Some(snapshot.clone());
            self.counts.snapshots += 1;
        }
        self.wal_mut().install_snapshot(snapshot);
        if !contained && planted(Bug::NoSubmissionPauseAtSnapshot) {
            // The member goes on at once, but the snapshot itself is acknowledged only when it is durable.
            let (acknowledged, evidence) = (self.oracle.acknowledged, self.oracle.evidence);
            self.snapshot_installed();
            self.oracle.acknowledged = acknowledged;
            self.oracle.evidence = evidence;
        }
    }

    fn snapshot_installed(&mut self) {
        if let Some(snapshot) = self.replacing.take() {
            let index = snapshot.index.0 as usize;
            self.log = self.oracle.committed[..index].to_vec();
            self.oracle.acknowledged = index;
            self.oracle.evidence = index as u64;
            self.commit = index;
            self.durable = index;
            self.contact = false;
        }
    }

    fn vote(&mut self) {
        if self.random.percent(50) || self.vote.is_some() || self.term == 0 {
            self.oracle.term_max = self.oracle.term_max.max(self.term) + 1;
            self.term = self.oracle.term_max;
            self.contact = false;
        }
        self.vote = Some(3 + self.random.below(2));
        self.save_hard_state();
    }

    fn poll(&mut self) -> Checked<()> {
        let now = self.now;
        let mut requests = Vec::new();
        let wal = self.wal_mut();
        wal.poll(now, &mut requests);
        wal.check();
        if let Some(at) = wal.next_deadline().filter(|at| *at <= now) {
            let what = format!("at {now} the deadline is {at}, and polling does not help");
            return broken(Promise::Progress, what);
        }
        let submitted = !requests.is_empty();
        if self.poisoned && submitted {
            return broken(
                Promise::PoisonedForGood,
                format!("requests after a failure: {requests:?}"),
            );
        }
        self.note_sequences(&requests)?;
        self.disk.accept(requests);
        self.take_events()?;
        if submitted {
            self.cut()?;
        }
        Ok(())
    }

    /// Every record that goes out has a number above all before it.
    fn note_sequences(&mut self, requests: &[IoRequest]) -> Checked<()> {
        let salt = Salt::new(new_directory().salt);
        for request in requests {
            let IoOperation::Write { data, .. } = &request.operation else {
                continue;
            };
            let Probe::Header(header) = record::probe(data, salt) else {
                continue;
            };
            if header.kind == Kind::Footer {
                continue;
            }
            let last = self.oracle.wseq_max;
            if header.wseq <= last {
                return broken(
                    Promise::SequenceUnique,
                    format!("record {} goes out after record {last}", header.wseq),
                );
            }
            self.oracle.wseq_max = header.wseq;
        }
        Ok(())
    }

    fn complete_some(&mut self) -> Checked<()> {
        let count = self.disk.in_flight() as u64;
        if count == 0 {
            return self.poll();
        }
        let mut position = self.random.below(count) as usize;
        if self.stuck && count > 1 && position == 0 {
            position = 1;
        }
        self.complete(position)
    }

    fn complete(&mut self, position: usize) -> Checked<()> {
        let now = self.now;
        let (id, result) = self.disk.complete(position);
        self.wal_mut().complete(now, id, result);
        self.take_events()?;
        self.cut()?;
        self.poll()
    }

    fn take_events(&mut self) -> Checked<()> {
        while let Some(event) = self.wal_mut().next_event() {
            if self.poisoned {
                return broken(
                    Promise::PoisonedForGood,
                    format!("{event:?} after a failure"),
                );
            }
            match event {
                WalEvent::Durable { index, .. } => {
                    self.durable = index.0 as usize;
                    self.acknowledge();
                }
                WalEvent::HardStateDurable { term, vote } => {
                    self.term_durable = self.term_durable.max(term.0);
                    if let Vote::For(member) = vote {
                        if (term.0, Some(member)) != self.oracle.promise
                            && term.0 >= self.oracle.promise.0
                        {
                            self.oracle.promise = (term.0, Some(member));
                        }
                    } else if term.0 > self.oracle.promise.0 {
                        self.oracle.promise = (term.0, None);
                    }
                    self.acknowledge();
                }
                WalEvent::CheckpointDurable { index, .. } => {
                    self.oracle.checkpoint = index.0;
                    self.counts.checkpoints += 1;
                    self.checkpointing = false;
                    self.snapshot_installed();
                    self.durable = self.durable.max(index.0 as usize);
                    self.commit = self.commit.max(index.0 as usize);
                }
                WalEvent::CheckpointIdsReserved { through } => self.ids_reserved = through,
                WalEvent::Stopped => self.stopped = true,
                WalEvent::NoSpace { .. } => self.no_space += 1,
                WalEvent::Poisoned { .. } => self.poisoned = true,
            }
        }
        let wal = self.wal.as_ref().expect("the member runs");
        self.oracle.evidence = self.oracle.evidence.max(wal.evidence_index().0);
        Ok(())
    }

    /// Cuts here in every way for up to two un-synced writes, in sampled ways beyond.
    fn cut(&mut self) -> Checked<()> {
        let oracle = &self.oracle;
        let promised = (oracle.acknowledged, oracle.promise, oracle.checkpoint);
        let point = (self.disk.changes(), promised);
        if !self.enumerate || point == self.cut_last {
            return Ok(());
        }
        self.cut_last = point;
        self.counts.points += 1;
        for crash in crashes(&self.disk, &mut self.random) {
            let mut disk = self.disk.crashed(&crash);
            self.counts.states += 1;
            let depth = u32::from(self.random.percent(2));
            let opened = self.recover(&mut disk, depth);
            opened.map_err(|violation| violation.after(format!("{crash:?}")))?;
        }
        Ok(())
    }
}

/// Takes the opening one step further; false if nothing is left to do.
pub(super) fn step_opening(opening: &mut Opening, disk: &mut SimDisk, random: &mut Random) -> bool {
    let mut requests = Vec::new();
    opening.poll(&mut requests);
    disk.accept(requests);
    let count = disk.in_flight() as u64;
    if count == 0 {
        return false;
    }
    let (id, result) = disk.complete(random.below(count) as usize);
    opening.complete(id, result);
    true
}

/// Opens whatever is on `disk`, without a check.
pub(super) fn open_disk(disk: &mut SimDisk, opening: Opening) -> Result<Opened, OpenError> {
    let (mut opening, mut random) = (opening, Random::new(1));
    // The process before is gone; what it had in flight lands.
    let fates = disk.writes_in_flight().map(|_| Fate::Kept).collect();
    disk.crash(&Crash::Kill { fates });
    while step_opening(&mut opening, disk, &mut random) {
        if let Some(outcome) = opening.outcome() {
            return outcome;
        }
    }
    opening.outcome().expect("an opening ends with an outcome")
}

const FATES: [Fate; 6] = [
    Fate::Kept,
    Fate::Lost,
    Fate::Torn(1),
    Fate::Torn(!1),
    Fate::Torn(0x0f0f_0f0f_0f0f_0f0f),
    Fate::Torn(0xff),
];

fn random_fate(random: &mut Random) -> Fate {
    FATES[[0, 0, 0, 0, 1, 1, 1, 2, 3, 4][random.below(10) as usize]]
}

fn random_crash(disk: &SimDisk, random: &mut Random) -> Crash {
    if random.percent(35) {
        let fates = disk.writes_in_flight().map(|_| random_fate(random));
        return Crash::Kill {
            fates: fates.collect(),
        };
    }
    let fates = disk
        .unsynced()
        .iter()
        .map(|_| random_fate(random))
        .collect();
    let changes = disk.unsynced_changes();
    let changes = changes
        .iter()
        .map(|count| random.below(*count as u64 + 1) as usize);
    Crash::Power {
        fates,
        changes: changes.collect(),
    }
}

fn combinations(writes: usize) -> Vec<Vec<Fate>> {
    let mut all = vec![Vec::new()];
    for _ in 0..writes {
        all = all
            .iter()
            .flat_map(|fates: &Vec<Fate>| {
                FATES.iter().map(|fate| {
                    let mut fates = fates.clone();
                    fates.push(*fate);
                    fates
                })
            })
            .collect();
    }
    all
}

fn crashes(disk: &SimDisk, random: &mut Random) -> Vec<Crash> {
    let writes = disk.unsynced().len();
    let changes = disk.unsynced_changes();
    let mut crashes = Vec::new();
    if writes <= 2 {
        for fates in combinations(writes) {
            crashes.push(Crash::Power {
                fates: fates.clone(),
                changes: changes.clone(),
            });
            if !changes.is_empty() {
                crashes.push(Crash::Power {
                    fates,
                    changes: vec![0; changes.len()],
                });
            }
        }
    } else {
        crashes.extend((0..24).map(|_| random_crash(disk, random)));
    }
    let in_flight = disk.writes_in_flight().count();
    if in_flight <= 1 {
        let kills = combinations(in_flight).into_iter();
        crashes.extend(kills.map(|fates| Crash::Kill { fates }));
    } else {
        crashes.extend((0..8).map(|_| Crash::Kill {
            fates: (0..in_flight).map(|_| random_fate(random)).collect(),
        }));
    }
    crashes
}

/// Enumerates worlds of rising seeds until `states` crash states are checked. Half of the worlds live two
/// lives before the first cut, so that there is something to recycle and to replace.
///
/// # Errors
/// Seed, style and the first broken promise.
pub fn enumerate(seed: u64, states: u64) -> Checked<Counts> {
    let styles = [Style::Single, Style::Member, Style::Conflicts, Style::Stuck];
    let mut total = Counts::default();
    let mut run = seed;
    while total.states < states {
        let style = styles[(run % 4) as usize];
        let mut world = World::new(run, style, run % 8 < 4);
        let lives = 2 + run % 3;
        let seasoned = if run % 8 < 4 { Ok(()) } else { world.run(2) };
        world.enumerate(true);
        seasoned
            .and_then(|()| world.run(lives))
            .map_err(|violation| violation.after(format!("seed {run} {style:?}")))?;
        total.add(world.counts());
        run += 1;
    }
    Ok(total)
}

impl Counts {
    /// Adds another count.
    pub fn add(&mut self, other: Counts) {
        self.states += other.states;
        self.states_in_recovery += other.states_in_recovery;
        self.points += other.points;
        self.lives += other.lives;
        self.truncations += other.truncations;
        self.checkpoints += other.checkpoints;
        self.snapshots += other.snapshots;
        self.lane_changes += other.lane_changes;
    }
}
