//! The machine that opens a data directory.
//!
//! ```text
//! Look ─ no superblock ─> LookForLanes ─> Create ┐
//!   └───> ReadCopies ──────────────────────> ListLanes ─> Scan ─ decide ─> Settle ─> Commit ─> Opened
//! ```
//! Each stage emits its requests and goes on when all of them are done. *Settle* syncs everything that was
//! read: it may be un-synced writes of a killed process, and nothing may be built on them before.

use super::decide::{Decision, Findings};
use super::error::OpenError;
use super::scan::{Find, Scanner};
use crate::BLOCK_BYTES;
use crate::config::{Config, LANES_MAX, NewDirectory};
use crate::entry::{Entry, EpochMark, Index, Term, Vote};
use crate::io::{
    Directory, FileName, IoFailure, IoId, IoIds, IoOperation, IoOutput, IoRequest, Requests,
    Target, segment_number,
};
use crate::lane::{Head, Lane};
use crate::planted::{Bug, planted};
use crate::record::{Kind, Salt};
use crate::segment::Segment;
use crate::superblock::{
    self, COPY_BYTES, COPY_OFFSETS, CopyError, FILE_BYTES, LaneState, Salvaged, Superblock,
    SuperblockMachine,
};
use crate::tail::Tail;
use crate::writer::{Restored, Wal};
use std::collections::BTreeMap;

/// A loss that an operator accepts by name after a faulty outcome (`ringd salvage`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedLoss {
    /// First missing index, as reported.
    pub first_missing: Index,
    /// Last missing index, as reported.
    pub last_missing: Index,
}

/// What recovery did, for the log and for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Superblock copies that differed from the newest one and were rewritten.
    pub copies_repaired: u32,
    /// Segments read.
    pub segments: u64,
    /// Intact records found.
    pub records: u64,
    /// Entries after the checkpoint.
    pub entries: u64,
    /// Highest index that durable evidence spoke about.
    pub watermark: Index,
    /// The log's end.
    pub end: Index,
    /// The term was raised by a record, so the vote in it is unknown.
    pub term_raised: bool,
    /// The accepted loss, if this opening accepted one.
    pub accepted: Option<AcceptedLoss>,
}

/// A running log and what it restored.
pub struct Opened {
    /// The log.
    pub wal: Wal,
    /// The directory was created by this opening.
    pub created: bool,
    /// The durable superblock.
    pub superblock: Superblock,
    /// Current term.
    pub term: Term,
    /// Vote in it.
    pub vote: Vote,
    /// Entries after the checkpoint, contiguous and durable.
    pub entries: Vec<Entry>,
    /// Committed at least up to here, as far as the log knows.
    pub commit_hint: Index,
    /// What recovery did.
    pub report: RecoveryReport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    Look,
    LookForLanes,
    Create,
    ReadCopies,
    ListLanes,
    Scan,
    Settle,
    Commit,
    Done,
}

/// What a request in flight is for.
#[derive(Clone, Debug)]
enum Purpose {
    Plain,
    ListRoot,
    ListLane(u16),
    ReadCopy(usize),
    OpenSegment(usize),
    ReadSegment(usize),
    Superblock,
}

#[derive(Clone, Debug)]
struct InFlight {
    id: IoId,
    purpose: Purpose,
    target: Target,
    offset: u64,
    verb: &'static str,
}

/// One segment while it is read.
struct SegmentScan {
    lane: u16,
    number: u64,
    length: u64,
    generation: u32,
    /// Dead as a whole: only opened, for the lock.
    skip: bool,
    scanner: Scanner,
    read_to: u64,
    fed_to: u64,
    arrived: BTreeMap<u64, Vec<u8>>,
    highest: Index,
    /// Sequence number and end of the newest record.
    newest: Option<(u64, u64)>,
    footer: bool,
}

/// Finds or creates the superblock, repairs its copies, scans the lanes, decides.
///
/// Invariant: no request that writes is emitted before the decision, except repairs of superblock copies and
/// the creation of a directory that holds nothing.
pub struct Opening {
    config: Config,
    create: Option<NewDirectory>,
    accepted: Option<AcceptedLoss>,
    ids: IoIds,
    stage: Stage,
    queue: Vec<IoRequest>,
    in_flight: Vec<InFlight>,
    root: Vec<(String, u64)>,
    lanes: BTreeMap<u16, Vec<(String, u64)>>,
    copies: [Vec<u8>; 4],
    created: bool,
    newest: Option<Superblock>,
    segments: Vec<SegmentScan>,
    reading: usize,
    findings: Option<Findings>,
    newer_record: Option<OpenError>,
    decision: Option<Decision>,
    machine: Option<SuperblockMachine>,
    report: RecoveryReport,
    outcome: Option<Result<Opened, OpenError>>,
    /// Only a planted bug sets this: the fault to report after the epoch was opened anyway.
    faulty_after_commit: Option<OpenError>,
}

impl Opening {
    /// Opens an existing directory, or creates one if `create` is given and nothing is there.
    pub fn new(config: Config, create: Option<NewDirectory>) -> Opening {
        config.check();
        Opening {
            config,
            create,
            accepted: None,
            ids: IoIds::new(crate::io::Machine::LOG),
            stage: Stage::Start,
            queue: Vec::new(),
            in_flight: Vec::new(),
            root: Vec::new(),
            lanes: BTreeMap::new(),
            copies: Default::default(),
            created: false,
            newest: None,
            segments: Vec::new(),
            reading: 0,
            findings: None,
            newer_record: None,
            decision: None,
            machine: None,
            report: RecoveryReport::default(),
            outcome: None,
            faulty_after_commit: None,
        }
    }

    /// Accepts exactly this loss if the log turns out to be faulty: the log then ends before it, an epoch is
    /// opened there and the superblock keeps a record of it. Any other loss is still refused.
    pub fn accept(mut self, loss: AcceptedLoss) -> Opening {
        self.accepted = Some(loss);
        self
    }

    /// Emits what can be done now.
    pub fn poll(&mut self, out: &mut Vec<IoRequest>) {
        if self.stage == Stage::Start {
            self.advance();
        }
        out.append(&mut self.queue);
    }

    /// Takes the result of a request.
    pub fn complete(&mut self, id: IoId, result: Result<IoOutput, IoFailure>) {
        let Some(position) = self.in_flight.iter().position(|request| request.id == id) else {
            return;
        };
        let request = self.in_flight.swap_remove(position);
        if self.stage == Stage::Done {
            return;
        }
        match result {
            Ok(output) => self.succeeded(request, output),
            Err(failure) => self.failed(request, failure),
        }
        if self.stage == Stage::Scan {
            self.read_more();
        }
        while self.in_flight.is_empty() && !matches!(self.stage, Stage::Commit | Stage::Done) {
            self.advance();
        }
    }

    /// The outcome, once.
    pub fn outcome(&mut self) -> Option<Result<Opened, OpenError>> {
        self.outcome.take()
    }

    fn succeeded(&mut self, request: InFlight, output: IoOutput) {
        match (request.purpose, output) {
            (Purpose::ListRoot, IoOutput::Listing(names)) => self.root = names,
            (Purpose::ListLane(lane), IoOutput::Listing(names)) => {
                self.lanes.insert(lane, names);
            }
            (Purpose::ReadCopy(copy), IoOutput::Bytes(bytes)) => self.copies[copy] = bytes,
            (Purpose::OpenSegment(position), IoOutput::Length(length)) => {
                self.segment_opened(position, length);
            }
            (Purpose::ReadSegment(position), IoOutput::Bytes(bytes)) => {
                self.segment_read(position, request.offset, bytes);
            }
            (Purpose::Superblock, _) => {
                let durable = self
                    .machine
                    .as_mut()
                    .is_some_and(|machine| machine.complete(request.id));
                if durable {
                    self.finish();
                }
            }
            _ => {}
        }
    }

    fn failed(&mut self, request: InFlight, failure: IoFailure) {
        let missing = failure == IoFailure::NotFound;
        match request.purpose {
            Purpose::ListRoot if missing && self.create.is_none() => {}
            Purpose::ListLane(_) if missing => {}
            // An unreadable copy is a damaged copy: the others hold.
            Purpose::ReadCopy(_) => {}
            _ if failure == IoFailure::Locked => {
                let file = request.target.path();
                self.end(Err(OpenError::Locked { file }));
            }
            _ => self.end(Err(OpenError::Io {
                file: request.target.path(),
                offset: request.offset,
                verb: request.verb,
                failure,
            })),
        }
    }

    fn end(&mut self, outcome: Result<Opened, OpenError>) {
        self.outcome = Some(outcome);
        self.stage = Stage::Done;
        self.queue.clear();
    }

    fn request(&mut self, after: Vec<IoId>, operation: IoOperation, purpose: Purpose) -> IoId {
        let (verb, target, offset) = describe(&operation);
        let id = Requests::urgent(&mut self.ids, &mut self.queue).push(after, operation);
        let request = InFlight {
            id,
            purpose,
            target,
            offset,
            verb,
        };
        self.in_flight.push(request);
        id
    }

    fn plain(&mut self, after: Vec<IoId>, operation: IoOperation) -> IoId {
        self.request(after, operation, Purpose::Plain)
    }

    fn advance(&mut self) {
        match self.stage {
            Stage::Start => self.look(),
            Stage::Look => self.looked(),
            Stage::LookForLanes => self.create(),
            Stage::Create => self.created(),
            Stage::ReadCopies => self.choose_copy(),
            Stage::ListLanes => self.open_segments(),
            Stage::Scan => self.decide(),
            Stage::Settle => self.commit(),
            Stage::Commit | Stage::Done => {}
        }
    }

    fn look(&mut self) {
        self.stage = Stage::Look;
        let mut after = Vec::new();
        if self.create.is_some() {
            after.push(self.plain(Vec::new(), IoOperation::CreateDirectory(Directory::Root)));
        }
        self.request(after, IoOperation::List(Directory::Root), Purpose::ListRoot);
    }

    fn has(&self, file: FileName) -> bool {
        self.root.iter().any(|(name, _)| *name == file.name())
    }

    fn looked(&mut self) {
        if self.has(FileName::Superblock) {
            self.stage = Stage::ReadCopies;
            let file = FileName::Superblock;
            let open = self.plain(Vec::new(), IoOperation::Open { file });
            for (copy, offset) in COPY_OFFSETS.into_iter().enumerate() {
                let len = COPY_BYTES;
                let read = IoOperation::Read { file, offset, len };
                self.request(vec![open], read, Purpose::ReadCopy(copy));
            }
            return;
        }
        self.stage = Stage::LookForLanes;
        for lane in 0..LANES_MAX {
            let list = IoOperation::List(Directory::Lane(lane));
            self.request(Vec::new(), list, Purpose::ListLane(lane));
        }
    }

    /// No superblock: creates one, unless there is a log that belonged to one.
    fn create(&mut self) {
        let holding = self
            .lanes
            .iter()
            .find(|(_, names)| names.iter().any(|(name, _)| segment_number(name).is_some()));
        if let Some((lane, _)) = holding {
            let what = format!(
                "the superblock is missing, but {} holds segments of a log",
                Directory::Lane(*lane).path()
            );
            self.refuse(
                FileName::Superblock.path(),
                0,
                what,
                "restore `superblock` from a copy of this directory, or move the directory away and let the member join anew",
            );
            return;
        }
        let Some(directory) = self.create.clone() else {
            let file = FileName::Superblock.path();
            self.end(Err(OpenError::Missing { file }));
            return;
        };
        self.stage = Stage::Create;
        let superblock = Superblock::new(&directory);
        let bytes = superblock::encode(&superblock);
        self.newest = Some(superblock);
        let file = if planted(Bug::CreateInPlace) {
            FileName::Superblock
        } else {
            FileName::SuperblockTemporary
        };
        let mut after = Vec::new();
        if self.has(FileName::SuperblockTemporary) {
            // Opened first, so that one which another process is just writing is locked and not removed.
            let open = self.plain(Vec::new(), IoOperation::Open { file });
            after.push(self.plain(vec![open], IoOperation::Delete { file }));
        }
        let len = FILE_BYTES;
        let create = self.plain(after, IoOperation::Create { file, len });
        let writes = COPY_OFFSETS
            .into_iter()
            .map(|offset| {
                let data = bytes.clone();
                self.plain(vec![create], IoOperation::Write { file, offset, data })
            })
            .collect();
        let mut last = self.plain(writes, IoOperation::Sync { file });
        if file == FileName::SuperblockTemporary {
            let to = FileName::Superblock;
            last = self.plain(vec![last], IoOperation::Rename { from: file, to });
        }
        self.plain(vec![last], IoOperation::SyncDirectory(Directory::Root));
    }

    fn created(&mut self) {
        self.created = true;
        self.lanes.clear();
        self.stage = Stage::ListLanes;
    }

    /// The highest valid copy holds; the others are made equal to it before anything is built on it.
    fn choose_copy(&mut self) {
        let considered = if planted(Bug::OneCopy) { 1 } else { 4 };
        let mut decoded: Vec<Result<Superblock, CopyError>> = Vec::with_capacity(4);
        for (position, copy) in self.copies.iter().enumerate() {
            // Mostly all four are equal, so that one checksum is enough.
            let equal = self.copies[..position].iter().position(|one| one == copy);
            decoded.push(match equal {
                Some(equal) => decoded[equal].clone(),
                None => superblock::decode(copy),
            });
        }
        let newer = decoded
            .iter()
            .zip(COPY_OFFSETS)
            .filter_map(|(copy, offset)| match copy {
                Err(CopyError::Newer { version, seq, .. }) => Some((*seq, offset, *version)),
                _ => None,
            });
        let newer = newer.max();
        let newest = decoded[..considered]
            .iter()
            .zip(&self.copies)
            .filter_map(|(copy, bytes)| copy.as_ref().ok().zip(Some(bytes)))
            .max_by_key(|(superblock, _)| superblock.seq)
            .map(|(superblock, bytes)| (superblock.clone(), bytes.clone()));
        if let Some((seq, offset, version)) = newer
            && newest.as_ref().is_none_or(|(newest, _)| newest.seq < seq)
        {
            self.end(Err(OpenError::NewerFormat {
                file: FileName::Superblock.path(),
                offset,
                version,
                supported: superblock::VERSION,
            }));
            return;
        }
        let Some((newest, bytes)) = newest else {
            self.refuse_copies(&decoded);
            return;
        };
        let differ = [0, 1, 2, 3].map(|copy| self.copies[copy] != bytes);
        self.report.copies_repaired = differ.iter().filter(|differs| **differs).count() as u32;
        let mut requests = Requests::urgent(&mut self.ids, &mut self.queue);
        superblock::repair(&mut requests, &bytes, differ);
        self.track_queued(Purpose::Plain);
        self.newest = Some(newest);
        self.list_lanes();
    }

    fn refuse_copies(&mut self, decoded: &[Result<Superblock, CopyError>]) {
        let mut what = "no valid copy of the superblock is left".to_owned();
        for (copy, offset) in decoded.iter().zip(COPY_OFFSETS) {
            if let Err(error) = copy {
                what.push_str(&format!("; at byte {offset}: {error}"));
            }
        }
        self.refuse(
            FileName::Superblock.path(),
            0,
            what,
            "term, vote and checkpoint are lost, so `ringd salvage` cannot help: restore the file from a copy of this \
             directory, or move the directory away and let the member join anew",
        );
    }

    fn refuse(&mut self, file: String, offset: u64, what: String, remedy: &str) {
        self.end(Err(OpenError::Refused {
            file,
            offset,
            what,
            remedy: remedy.to_owned(),
        }));
    }

    /// Registers requests that were queued without [`Opening::request`].
    fn track_queued(&mut self, purpose: Purpose) {
        for request in &self.queue {
            if self.in_flight.iter().any(|known| known.id == request.id) {
                continue;
            }
            let (verb, target, offset) = describe(&request.operation);
            self.in_flight.push(InFlight {
                id: request.id,
                purpose: purpose.clone(),
                target,
                offset,
                verb,
            });
        }
    }

    fn list_lanes(&mut self) {
        self.stage = Stage::ListLanes;
        let table = self.newest().lanes;
        for lane in 0..LANES_MAX {
            if table[usize::from(lane)].generation > 0 || lane < self.config.lanes {
                let list = IoOperation::List(Directory::Lane(lane));
                self.request(Vec::new(), list, Purpose::ListLane(lane));
            }
        }
    }

    fn newest(&self) -> &Superblock {
        self.newest
            .as_ref()
            .expect("a copy was chosen before this stage")
    }

    fn open_segments(&mut self) {
        let (table, salt) = (self.newest().lanes, Salt::new(self.newest().salt));
        for (lane, slot) in table.iter().enumerate() {
            let lane = lane as u16;
            if slot.state != LaneState::Retired && !self.lanes.contains_key(&lane) {
                self.refuse(
                    Directory::Lane(lane).path(),
                    0,
                    format!("the directory of lane {lane} is missing; it held part of the log"),
                    "mount or restore the directory, then start again",
                );
                return;
            }
        }
        self.stage = Stage::Scan;
        self.findings = Some(Findings::new(self.newest()));
        for (lane, names) in std::mem::take(&mut self.lanes) {
            let slot = table[usize::from(lane)];
            let mut numbers: Vec<u64> = names
                .iter()
                .filter_map(|(name, _)| segment_number(name))
                .collect();
            numbers.sort_unstable();
            for number in numbers {
                self.segments.push(SegmentScan {
                    lane,
                    number,
                    length: 0,
                    generation: slot.generation,
                    skip: slot.state == LaneState::Retired,
                    scanner: Scanner::new(lane, number, salt, 0),
                    read_to: 0,
                    fed_to: 0,
                    arrived: BTreeMap::new(),
                    highest: Index(0),
                    newest: None,
                    footer: false,
                });
            }
            self.lanes.insert(lane, names);
        }
        for position in 0..self.segments.len() {
            let file = self.segments[position].file();
            let open = IoOperation::Open { file };
            self.request(Vec::new(), open, Purpose::OpenSegment(position));
        }
    }

    fn segment_opened(&mut self, position: usize, length: u64) {
        let salt = Salt::new(self.newest().salt);
        let segment = &mut self.segments[position];
        segment.length = length;
        let end = segment.scan_end();
        segment.scanner = Scanner::new(segment.lane, segment.number, salt, end);
    }

    /// Keeps the configured number of reads in flight, segment after segment.
    fn read_more(&mut self) {
        let is_open = |request: &InFlight| matches!(request.purpose, Purpose::OpenSegment(_));
        if self.in_flight.iter().any(is_open) {
            return;
        }
        while self.reading < self.segments.len()
            && self.in_flight.len() < self.config.scan_reads_in_flight_max as usize
        {
            let position = self.reading;
            let segment = &mut self.segments[position];
            let (file, offset) = (segment.file(), segment.read_to);
            let len = (segment.scan_end() - offset).min(self.config.scan_read_bytes);
            if len == 0 || segment.skip {
                self.reading += 1;
                continue;
            }
            segment.read_to += len;
            let read = IoOperation::Read { file, offset, len };
            self.request(Vec::new(), read, Purpose::ReadSegment(position));
        }
    }

    fn segment_read(&mut self, position: usize, offset: u64, bytes: Vec<u8>) {
        let segment = &mut self.segments[position];
        let expected = (segment.scan_end() - offset).min(self.config.scan_read_bytes);
        if bytes.len() as u64 != expected {
            let what = format!("only {} of {expected} bytes could be read", bytes.len());
            let file = segment.file().path();
            self.refuse(file, offset, what, "check the device, then start again");
            return;
        }
        segment.arrived.insert(offset, bytes);
        let findings = self.findings.as_mut().expect("set before the first read");
        let generation = segment.generation;
        while let Some(bytes) = segment.arrived.remove(&segment.fed_to) {
            segment.fed_to += bytes.len() as u64;
            let mut finds = Vec::new();
            segment.scanner.feed(
                &bytes,
                |header| header.lane_generation == generation && findings.keeps(header),
                |find| finds.push(find),
            );
            for find in finds {
                self.newer_record = self.newer_record.take().or(newer(&find, segment.file()));
                segment.note(&find);
                findings.add(find, generation);
            }
        }
    }

    fn decide(&mut self) {
        if let Some(error) = self.newer_record.take() {
            self.end(Err(error));
            return;
        }
        let findings = self.findings.take().expect("set before the first read");
        self.report.segments = self.segments.len() as u64;
        self.report.records = findings.records_seen;
        let mut decision = findings.decide(self.newest());
        self.report.watermark = decision.watermark;
        if let Some(faulty) = decision.faulty.take() {
            let found = AcceptedLoss {
                first_missing: faulty.first_missing,
                last_missing: faulty.last_missing,
            };
            if self.accepted == Some(found) {
                self.report.accepted = Some(found);
                decision.truncate(faulty.keeps, self.newest());
            } else if planted(Bug::EpochOpenedWhileFaulty) {
                decision.truncate(faulty.keeps, self.newest());
                self.faulty_after_commit = Some(OpenError::Faulty(Box::new(faulty)));
            } else {
                self.end(Err(OpenError::Faulty(Box::new(faulty))));
                return;
            }
        }
        self.report.entries = decision.entries.len() as u64;
        self.report.end = decision.end;
        self.decision = Some(decision);
        self.settle();
    }

    /// Syncs what was read and creates the directories of new lanes.
    fn settle(&mut self) {
        self.stage = Stage::Settle;
        if self.has(FileName::SuperblockTemporary) && !self.created {
            let file = FileName::SuperblockTemporary;
            let open = self.plain(Vec::new(), IoOperation::Open { file });
            self.plain(vec![open], IoOperation::Delete { file });
        }
        let mut settled = Vec::new();
        let unsynced = if planted(Bug::NoLaneSyncAtRecovery) {
            0
        } else {
            self.segments.len()
        };
        for position in 0..unsynced {
            let file = self.segments[position].file();
            self.plain(Vec::new(), IoOperation::Sync { file });
        }
        for lane in 0..LANES_MAX {
            if self.lanes.contains_key(&lane) {
                let sync = IoOperation::SyncDirectory(Directory::Lane(lane));
                self.plain(Vec::new(), sync);
            } else if lane < self.config.lanes {
                let log = self.plain(Vec::new(), IoOperation::CreateDirectory(Directory::Log));
                let create = IoOperation::CreateDirectory(Directory::Lane(lane));
                settled.push(self.plain(vec![log], create));
            }
        }
        let log = self.plain(settled, IoOperation::SyncDirectory(Directory::Log));
        self.plain(vec![log], IoOperation::SyncDirectory(Directory::Root));
    }

    fn commit(&mut self) {
        self.stage = Stage::Commit;
        let decision = self.decision.as_ref().expect("decided before settling");
        let mut machine = SuperblockMachine::new(self.newest().clone());
        let stored = self.newest().clone();
        let lanes = self.lane_table(&stored);
        let wanted = machine.wanted_mut();
        wanted.lanes = lanes;
        wanted.epoch = decision.epoch_max + 1;
        wanted.epoch_start = decision.end.next();
        wanted.epoch_start_term = decision.end_term;
        wanted.clean = None;
        wanted.wseq_reserved = self.wseq_next(&stored) + self.config.wseq_reserve;
        if decision.term_max > stored.term {
            wanted.term = decision.term_max;
            wanted.vote = Vote::Unknown;
            self.report.term_raised = true;
        }
        if let Some(accepted) = self.report.accepted {
            wanted.salvaged = Some(Salvaged {
                count: stored.salvaged.map_or(0, |salvaged| salvaged.count) + 1,
                first: decision.end.next(),
                last: accepted.last_missing,
            });
        }
        let mut requests = Requests::urgent(&mut self.ids, &mut self.queue);
        let early = machine.poll(&mut requests);
        self.machine = Some(machine);
        self.track_queued(Purpose::Superblock);
        if early {
            self.finish();
        }
    }

    fn wseq_next(&self, stored: &Superblock) -> u64 {
        let seen = self
            .decision
            .as_ref()
            .map_or(0, |decision| decision.wseq_max)
            + 1;
        if planted(Bug::ReusedWseq) {
            return seen;
        }
        stored.wseq_reserved.max(seen)
    }

    /// The lane table of this life: configured lanes are active, others are drained or given up.
    fn lane_table(&self, stored: &Superblock) -> [superblock::LaneSlot; LANES_MAX as usize] {
        let mut table = stored.lanes;
        for (lane, slot) in table.iter_mut().enumerate() {
            let needed = self.segments.iter().any(|segment| {
                usize::from(segment.lane) == lane && segment.highest > stored.checkpoint_index
            });
            if lane < usize::from(self.config.lanes) {
                slot.generation += u32::from(slot.state == LaneState::Retired);
                slot.state = LaneState::Active;
            } else if slot.state != LaneState::Retired {
                slot.state = if needed {
                    LaneState::Draining
                } else {
                    LaneState::Retired
                };
            }
        }
        table
    }

    /// The new epoch is durable: builds the running log.
    fn finish(&mut self) {
        if let Some(error) = self.faulty_after_commit.take() {
            self.end(Err(error));
            return;
        }
        let machine = self.machine.take().expect("a superblock was written");
        let stored = self.newest().clone();
        let superblock = machine.durable().clone();
        let wseq_next = self.wseq_next(&stored);
        let decision = self.decision.take().expect("decided before committing");
        let mut tail = Tail::new(stored.checkpoint_index, stored.checkpoint_term);
        for entry in &decision.entries {
            tail.restore(entry.index, entry.term);
        }
        let mut epochs = decision.epochs;
        epochs.retain(|mark| mark.epoch >= superblock.epoch_floor);
        epochs.dedup_by_key(|mark| mark.epoch);
        epochs.push(EpochMark {
            epoch: superblock.epoch,
            start: superblock.epoch_start,
        });
        let wal = Wal::new(Restored {
            config: self.config.clone(),
            ids: std::mem::take(&mut self.ids),
            superblock_requests: self.in_flight.iter().map(|request| request.id).collect(),
            superblock: machine,
            lanes: self.lanes_of(&superblock),
            tail,
            epochs,
            wseq_next,
            commit_hint: decision.commit_hint,
            evidence: decision.end,
        });
        let opened = Opened {
            wal,
            created: self.created,
            term: superblock.term,
            vote: superblock.vote,
            superblock,
            entries: decision.entries,
            commit_hint: decision.commit_hint,
            report: std::mem::take(&mut self.report),
        };
        let queue = std::mem::take(&mut self.queue);
        self.end(Ok(opened));
        // Second-phase requests may not have been taken yet.
        self.queue = queue;
    }

    fn lanes_of(&self, superblock: &Superblock) -> Vec<Lane> {
        let mut lanes = Vec::new();
        for (id, slot) in superblock.lanes.iter().enumerate() {
            let id = id as u16;
            let active = slot.state == LaneState::Active;
            let mut lane = Lane::new(id, slot.generation, active);
            for scan in self.segments.iter().filter(|scan| scan.lane == id) {
                lane.number_next = lane.number_next.max(scan.number + 1);
                lane.segments
                    .push(scan.segment(superblock.checkpoint_index));
            }
            if active {
                lane.head = self.head_of(id, &mut lane);
            }
            if active || !lane.segments.is_empty() {
                lanes.push(lane);
            }
        }
        lanes
    }

    /// Writing goes on after the lane's newest record, unless its segment is free.
    fn head_of(&self, id: u16, lane: &mut Lane) -> Option<Head> {
        let newest = self
            .segments
            .iter()
            .filter(|scan| scan.lane == id && scan.newest.is_some())
            .max_by_key(|scan| scan.newest)?;
        let (_, end) = newest.newest?;
        let segment = lane.segment_mut(newest.number)?;
        if segment.free || segment.capacity() < end {
            return None;
        }
        segment.written_to = segment.written_to.max(end);
        Some(Head {
            segment: newest.number,
            offset: end,
        })
    }
}

impl SegmentScan {
    fn file(&self) -> FileName {
        FileName::Segment {
            lane: self.lane,
            number: self.number,
        }
    }

    fn scan_end(&self) -> u64 {
        self.length / BLOCK_BYTES * BLOCK_BYTES
    }

    fn note(&mut self, find: &Find) {
        let Find::Record { header, .. } = find else {
            return;
        };
        if header.lane_generation != self.generation {
            return;
        }
        if header.kind == Kind::Footer {
            self.footer = header.place.offset + BLOCK_BYTES == self.length;
            return;
        }
        let end = header.place.offset + header.record_bytes();
        self.highest = self.highest.max(header.highest_index());
        self.newest = self.newest.max(Some((header.wseq, end)));
    }

    fn segment(&self, checkpoint_index: Index) -> Segment {
        // A creation that was cut leaves a short file: it holds nothing and is removed when it is free.
        let mut segment = Segment::new(self.number, self.scan_end().max(BLOCK_BYTES));
        segment.usable = true;
        segment.highest = self.highest;
        segment.free = self.highest <= checkpoint_index;
        segment.footer = self.footer;
        segment.written_to = if self.footer { self.length } else { 0 };
        segment
    }
}

impl Decision {
    /// The log ends after `keeps`, by an accepted loss.
    fn truncate(&mut self, keeps: Index, superblock: &Superblock) {
        self.entries.retain(|entry| entry.index <= keeps);
        (self.end, self.end_term) = self.entries.last().map_or(
            (superblock.checkpoint_index, superblock.checkpoint_term),
            |entry| (entry.index, entry.term),
        );
        self.commit_hint = self.commit_hint.min(self.end);
    }
}

fn newer(find: &Find, file: FileName) -> Option<OpenError> {
    let Find::Newer { version, at } = find else {
        return None;
    };
    Some(OpenError::NewerFormat {
        file: file.path(),
        offset: at.offset,
        version: u32::from(*version),
        supported: u32::from(crate::record::VERSION),
    })
}

/// Verb, target and offset of a request, for error texts.
fn describe(operation: &IoOperation) -> (&'static str, Target, u64) {
    let offset = match operation {
        IoOperation::Read { offset, .. } | IoOperation::Write { offset, .. } => *offset,
        _ => 0,
    };
    (operation.verb(), operation.target(), offset)
}
