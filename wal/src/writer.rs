//! The running log: groups entries into records, keeps several writes in flight, reports what is durable.
//!
//! Owns the order in which entries, epochs, watermarks and superblock facts become durable, and what may
//! be acknowledged when. It does not know who leads, what is committed or what an entry means.
//!
//! ```text
//! append ─> waiting ─ poll ─> record (lane, offset, wseq) ─> write → sync ─> Tail::complete ─> Durable
//!              └ a record is closed when a slot is free; what waits meanwhile grows into the next one
//! ```

use crate::config::{Config, LANES_MAX};
use crate::entry::{Checkpoint, Entry, EpochMark, Index, Snapshot, Term, Vote, Watermark};
use crate::io::{
    FileName, IoFailure, IoId, IoIds, IoOperation, IoOutput, IoRequest, Requests, Target,
};
use crate::lane::Lane;
use crate::planted::{Bug, planted};
use crate::record::{self, HEADER_BYTES, Header, Kind, Place, Salt};
use crate::superblock::{LaneState, Superblock, SuperblockMachine};
use crate::tail::Tail;
use crate::whole_blocks;
use std::collections::VecDeque;

/// What the log reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// Every entry up to `index` is durable, and so is every term up to `term`, that of the entry.
    Durable {
        /// End of the contiguous durable prefix.
        index: Index,
        /// Term of that entry.
        term: Term,
    },
    /// Term and vote are durable.
    HardStateDurable {
        /// Durable term.
        term: Term,
        /// Durable vote in it.
        vote: Vote,
    },
    /// A checkpoint or a received snapshot is published; the log starts after `index`.
    CheckpointDurable {
        /// Its id.
        id: u64,
        /// Its index.
        index: Index,
    },
    /// Checkpoint ids up to `through` may be used.
    CheckpointIdsReserved {
        /// Last id that may be used.
        through: u64,
    },
    /// No space for another segment; it is tried again later. Appending goes on while spares last.
    NoSpace {
        /// The file that could not be created.
        file: String,
    },
    /// The clean stop is durable; the log takes nothing more.
    Stopped,
    /// A write failed: nothing is reported durable any more until a restart.
    Poisoned {
        /// File of the failed request.
        file: String,
        /// What failed, with the system's words.
        what: String,
    },
}

/// What a request in flight is for.
#[derive(Clone, Debug)]
enum Purpose {
    Superblock,
    Record,
    RecordSync(Flight),
    Lane,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    wseq: u64,
    place: Place,
    watermark: Watermark,
    has_entries: bool,
}

#[derive(Clone, Debug)]
struct InFlight {
    id: IoId,
    target: Target,
    verb: &'static str,
    purpose: Purpose,
}

/// What changes once a superblock write is durable.
#[derive(Clone, Debug)]
enum Publication {
    Checkpoint { id: u64, index: Index },
    Snapshot(Box<Snapshot>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    Running,
    Requested,
    Writing,
    Stopped,
}

/// What recovery hands to the running log.
pub(crate) struct Restored {
    pub(crate) config: Config,
    pub(crate) ids: IoIds,
    pub(crate) superblock: SuperblockMachine,
    /// Superblock requests that are still on their way.
    pub(crate) superblock_requests: Vec<IoId>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) tail: Tail,
    pub(crate) epochs: Vec<EpochMark>,
    pub(crate) wseq_next: u64,
    pub(crate) commit_hint: Index,
    /// Highest index that durable evidence speaks about.
    pub(crate) evidence: Index,
}

/// The write-ahead log and the superblock of a running member.
///
/// Invariants:
/// - a record's first index is at or above the start of its epoch;
/// - an epoch is opened only over submitted entries, and its start does not change once a record of it
///   was submitted;
/// - `Durable` names an entry only while its term is durable in the superblock;
/// - nothing is submitted while a replacing snapshot is on its way;
/// - `wseq_next` is below `wseq_reserved` of the durable superblock whenever a record is submitted;
/// - after the first failure no request is emitted and no event but `Poisoned` is reported.
pub struct Wal {
    config: Config,
    salt: Salt,
    ids: IoIds,
    superblock: SuperblockMachine,
    lanes: Vec<Lane>,
    tail: Tail,
    /// Entries not yet submitted, and the bytes they take in a record.
    waiting: VecDeque<Entry>,
    waiting_bytes: u64,
    records_in_flight: u32,
    in_flight: Vec<InFlight>,
    epochs: Vec<EpochMark>,
    wseq_next: u64,
    commit_hint: Index,
    evidence: Index,
    beacon_at: Option<u64>,
    reported_durable: Index,
    reported_hard_state: (Term, Vote),
    reported_ids: u64,
    publication: Option<Publication>,
    publication_queue: VecDeque<Publication>,
    replacing: bool,
    retain_from: Index,
    stopping: Stopping,
    poisoned: bool,
    events: VecDeque<WalEvent>,
}

impl Wal {
    pub(crate) fn new(restored: Restored) -> Wal {
        let durable = restored.superblock.durable().clone();
        let mut wal = Wal {
            salt: Salt::new(durable.salt),
            config: restored.config,
            ids: restored.ids,
            superblock: restored.superblock,
            lanes: restored.lanes,
            reported_durable: restored.tail.durable(),
            tail: restored.tail,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            records_in_flight: 0,
            in_flight: Vec::new(),
            epochs: restored.epochs,
            wseq_next: restored.wseq_next,
            commit_hint: restored.commit_hint,
            evidence: restored.evidence,
            beacon_at: None,
            reported_hard_state: (durable.term, durable.vote),
            reported_ids: durable.checkpoint_ids_reserved,
            publication: None,
            publication_queue: VecDeque::new(),
            replacing: false,
            retain_from: Index(u64::MAX),
            stopping: Stopping::Running,
            poisoned: false,
            events: VecDeque::new(),
        };
        for id in restored.superblock_requests {
            wal.in_flight.push(InFlight {
                id,
                target: Target::File(FileName::Superblock),
                verb: "write",
                purpose: Purpose::Superblock,
            });
        }
        wal
    }

    /// Appends `entries`, contiguous among themselves. If the first index is not after the last known one,
    /// the log is cut there first: the entries from there on are gone and their completions count no more.
    ///
    /// # Panics
    /// If the entries leave a hole, cut into the checkpoint, or one exceeds the longest record.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else {
            return;
        };
        assert_eq!(self.stopping, Stopping::Running, "append after stop");
        assert!(
            !self.replacing || planted(Bug::NoSubmissionPauseAtSnapshot),
            "append while a snapshot replaces the log"
        );
        if first.index <= self.tail.last() {
            self.truncate(first.index);
        }
        for entry in entries {
            let bytes = record::entry_bytes(entry.data.len());
            assert!(
                whole_blocks(HEADER_BYTES as u64 + bytes) <= self.config.record_bytes_max,
                "an entry of {bytes} bytes exceeds the record maximum of {}",
                self.config.record_bytes_max
            );
            self.tail.push(entry.index, entry.term);
            self.waiting_bytes += bytes;
            self.waiting.push_back(entry);
        }
    }

    fn truncate(&mut self, from: Index) {
        let submitted = self.tail.submitted();
        while self.waiting.back().is_some_and(|entry| entry.index >= from) {
            let entry = self.waiting.pop_back().expect("just seen");
            self.waiting_bytes -= record::entry_bytes(entry.data.len());
        }
        self.tail.truncate(from);
        self.reported_durable = self.reported_durable.min(from.previous());
        self.evidence = self.evidence.min(from.previous());
        // Entries that were never submitted leave nothing behind that an epoch would have to kill.
        if from <= submitted {
            self.open_epoch(from);
        } else if planted(Bug::ReplacedEpochStart) {
            self.replace_epoch_start(from);
        }
    }

    fn open_epoch(&mut self, start: Index) {
        let epoch = self.epoch().epoch + 1;
        self.epochs.push(EpochMark { epoch, start });
    }

    /// Only a planted bug calls this: the epoch's start moves although older entries below it must stay dead.
    fn replace_epoch_start(&mut self, start: Index) {
        let epoch = self.epoch().epoch;
        if epoch > self.superblock.durable().epoch
            && let Some(mark) = self.epochs.last_mut()
        {
            mark.start = start;
        }
    }

    fn epoch(&self) -> EpochMark {
        *self.epochs.last().expect("recovery opens the first epoch")
    }

    /// Makes term and vote durable; reported by [`WalEvent::HardStateDurable`].
    ///
    /// # Panics
    /// If the term falls.
    pub fn save_hard_state(&mut self, term: Term, vote: Vote) {
        let wanted = self.superblock.wanted_mut();
        assert!(term >= wanted.term, "term {term} after {}", wanted.term);
        wanted.term = term;
        wanted.vote = vote;
    }

    /// What the next records say about the commit index. A hint, never evidence.
    pub fn set_commit_hint(&mut self, index: Index) {
        self.commit_hint = self.commit_hint.max(index);
    }

    /// Keeps segments that hold entries from `index` on, for slow followers, whatever the checkpoint covers.
    pub fn set_retention(&mut self, index: Index) {
        self.retain_from = index;
    }

    /// Publishes an image whose pages, segments and directories are already durable. Entries up to its index
    /// are no longer needed once [`WalEvent::CheckpointDurable`] is reported.
    ///
    /// # Panics
    /// If the index falls, is beyond the log, or the id was not reserved.
    pub fn checkpoint(&mut self, checkpoint: Checkpoint) {
        assert!(!self.replacing, "checkpoint while a snapshot is installed");
        assert!(
            checkpoint.index <= self.tail.last(),
            "checkpoint at {} beyond the log's end {}",
            checkpoint.index,
            self.tail.last()
        );
        let floor = self.floor_at(checkpoint.index);
        self.want_image(&checkpoint, floor);
        let index = checkpoint.index;
        if planted(Bug::EarlyRecycling) {
            self.recycle(index);
        }
        let id = checkpoint.id;
        self.publication_queue
            .push_back(Publication::Checkpoint { id, index });
    }

    /// Installs a received state. If the log does not contain its last entry, it is replaced: everything in
    /// it is dead once the superblock is durable, and nothing is submitted before.
    ///
    /// # Panics
    /// If the index is not above the present checkpoint, or another installation is on its way.
    pub fn install_snapshot(&mut self, snapshot: Snapshot) {
        assert!(!self.replacing, "two snapshots at once");
        assert!(
            snapshot.index > self.superblock.wanted().checkpoint_index,
            "snapshot at {} is not above the checkpoint",
            snapshot.index
        );
        let contained = snapshot.index <= self.tail.last()
            && snapshot.index >= self.tail.base()
            && self.tail.term_at(snapshot.index) == snapshot.term;
        if contained {
            let floor = self.floor_at(snapshot.index);
            self.want_image(&snapshot, floor);
            let (id, index) = (snapshot.id, snapshot.index);
            self.publication_queue
                .push_back(Publication::Checkpoint { id, index });
            return;
        }
        let epoch = self.epoch().epoch + 1;
        let floor = if planted(Bug::NoFloor) { 0 } else { epoch };
        self.want_image(&snapshot, floor);
        let wanted = self.superblock.wanted_mut();
        wanted.epoch = epoch;
        wanted.epoch_start = snapshot.index.next();
        wanted.epoch_start_term = snapshot.term;
        wanted.clean = None;
        self.replacing = true;
        if planted(Bug::NoSubmissionPauseAtSnapshot) {
            self.replace_log(&snapshot);
        }
        self.publication_queue
            .push_back(Publication::Snapshot(Box::new(snapshot)));
    }

    fn want_image(&mut self, image: &Checkpoint, floor: u64) {
        let wanted = self.superblock.wanted_mut();
        assert!(
            image.index >= wanted.checkpoint_index,
            "checkpoint at {} after {}",
            image.index,
            wanted.checkpoint_index
        );
        assert!(
            image.id <= wanted.checkpoint_ids_reserved,
            "checkpoint id {} was not reserved",
            image.id
        );
        wanted.checkpoint_id = image.id;
        wanted.checkpoint_index = image.index;
        wanted.checkpoint_term = image.term;
        wanted.section.clone_from(&image.section);
        if !planted(Bug::NoFloor) {
            wanted.epoch_floor = wanted.epoch_floor.max(floor);
        }
    }

    /// The newest epoch whose start is at most `index + 1`.
    fn floor_at(&self, index: Index) -> u64 {
        let admitted = self.epochs.iter().filter(|mark| mark.start <= index.next());
        admitted.map(|mark| mark.epoch).max().unwrap_or(0)
    }

    /// Reserves checkpoint ids up to `through`; reported by [`WalEvent::CheckpointIdsReserved`]. The first
    /// page of a checkpoint is written only after that, and an id is never used again.
    pub fn reserve_checkpoint_ids(&mut self, through: u64) {
        let wanted = self.superblock.wanted_mut();
        wanted.checkpoint_ids_reserved = wanted.checkpoint_ids_reserved.max(through);
    }

    /// Stops cleanly: writes out what waits, then the `clean` mark; reported by [`WalEvent::Stopped`].
    pub fn stop(&mut self) {
        if self.stopping == Stopping::Running {
            self.stopping = Stopping::Requested;
        }
    }

    /// The durable superblock.
    pub fn superblock(&self) -> &Superblock {
        self.superblock.durable()
    }

    /// Last index known here, submitted or not.
    pub fn last_index(&self) -> Index {
        self.tail.last()
    }

    /// End of the contiguous durable prefix.
    pub fn durable_index(&self) -> Index {
        self.tail.durable()
    }

    /// Highest index that durable evidence (a watermark, a beacon, an epoch's start) speaks about.
    pub fn evidence_index(&self) -> Index {
        self.evidence
    }

    /// Records written and not yet synced.
    pub fn records_in_flight(&self) -> u32 {
        self.records_in_flight
    }

    /// Bytes of entries that wait for a record.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// Emits everything that can be written now.
    pub fn poll(&mut self, now_nanos: u64, out: &mut Vec<IoRequest>) {
        if self.poisoned || self.stopping == Stopping::Stopped {
            return;
        }
        let emitted = out.len();
        self.reserve_wseq();
        self.submit_entries(now_nanos, out);
        self.submit_beacon(now_nanos, out);
        self.want_clean();
        self.write_superblock(now_nanos, out);
        self.prepare_lanes(now_nanos, out);
        debug_assert!(self.in_flight.len() >= out.len() - emitted);
    }

    /// The next time at which [`Wal::poll`] has something to do by itself. What waits for a completion has
    /// no time: right after a poll the answer lies in the future.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.poisoned || !self.prepares_lanes() {
            return None;
        }
        let space = self.lanes.iter().filter_map(Lane::space_retry_at).min();
        let beacon = self.beacon_at.filter(|_| self.beacon_is_possible());
        [space, beacon].into_iter().flatten().min()
    }

    /// The next thing to report.
    pub fn next_event(&mut self) -> Option<WalEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if self.poisoned {
            return None;
        }
        if let Some(event) = self.hard_state_event() {
            return Some(event);
        }
        let ids = self.superblock.durable().checkpoint_ids_reserved;
        if ids > self.reported_ids {
            self.reported_ids = ids;
            return Some(WalEvent::CheckpointIdsReserved { through: ids });
        }
        let index = self.acknowledgeable();
        if index > self.reported_durable {
            self.reported_durable = index;
            let term = self.tail.term_at(index);
            return Some(WalEvent::Durable { index, term });
        }
        None
    }

    fn hard_state_event(&mut self) -> Option<WalEvent> {
        let source = if planted(Bug::VoteBeforeDurable) {
            self.superblock.wanted()
        } else {
            self.superblock.durable()
        };
        let (term, vote) = (source.term, source.vote);
        if (term, vote) == self.reported_hard_state {
            return None;
        }
        self.reported_hard_state = (term, vote);
        Some(WalEvent::HardStateDurable { term, vote })
    }

    /// End of the durable prefix whose terms are durable too: no acknowledgement of a term leaves before.
    fn acknowledgeable(&self) -> Index {
        let mut index = self.tail.durable();
        if planted(Bug::AcknowledgeBeforeTermDurable) {
            return index;
        }
        let term = self.superblock.durable().term;
        while index > self.reported_durable && self.tail.term_at(index) > term {
            index = index.previous();
        }
        index
    }

    // Submission.

    fn reserve_wseq(&mut self) {
        let reserve = self.config.wseq_reserve;
        let (next, wanted) = (self.wseq_next, self.superblock.wanted_mut());
        if next + reserve / 2 >= wanted.wseq_reserved {
            wanted.wseq_reserved = wanted.wseq_reserved.max(next + reserve);
        }
    }

    fn may_submit(&self) -> bool {
        let reserved = self.superblock.durable().wseq_reserved;
        let paused = self.replacing && !planted(Bug::NoSubmissionPauseAtSnapshot);
        !paused && (self.wseq_next < reserved || planted(Bug::ReusedWseq))
    }

    fn submit_entries(&mut self, now_nanos: u64, out: &mut Vec<IoRequest>) {
        while !self.waiting.is_empty()
            && self.records_in_flight < self.config.writes_in_flight_max
            && self.may_submit()
        {
            if self.records_in_flight > 0 && self.waiting_bytes < self.config.busy_bytes_min {
                return;
            }
            let (count, bytes) = self.next_group();
            let highest = self.waiting[count - 1].index;
            let record_bytes = whole_blocks(HEADER_BYTES as u64 + bytes);
            let Some((lane, placed)) = self.place(record_bytes, highest) else {
                return;
            };
            self.waiting_bytes -= bytes;
            let group: Vec<Entry> = self.waiting.drain(..count).collect();
            let first = group[0].index;
            let mut header = self.header(Kind::Entries, lane, placed.place);
            header.prev_term = self.tail.term_at(first.previous());
            assert!(
                first >= header.epoch_start || planted(Bug::ReplacedEpochStart),
                "record at {first} below the start {} of its epoch",
                header.epoch_start
            );
            let data = record::encode(header, &group, self.salt);
            self.tail.submit(header.wseq, highest);
            self.submit(header, placed.after, data, true, out);
            self.beacon_at = Some(now_nanos + self.config.beacon_delay_nanos);
        }
    }

    /// Entries of the next record and the bytes they take: up to the target, at least one.
    fn next_group(&self) -> (usize, u64) {
        let room = self.config.record_bytes_max - HEADER_BYTES as u64;
        let mut bytes = 0;
        for (count, entry) in self.waiting.iter().enumerate() {
            let more = bytes + record::entry_bytes(entry.data.len());
            if count > 0 && (bytes >= self.config.batch_bytes_target || more > room) {
                return (count, bytes);
            }
            bytes = more;
        }
        (self.waiting.len(), bytes)
    }

    /// A place in the active lane with the fewest records in flight.
    fn place(&mut self, bytes: u64, highest: Index) -> Option<(usize, crate::lane::Placed)> {
        let mut order = [0; LANES_MAX as usize];
        let mut count = 0;
        for (position, lane) in self.lanes.iter().enumerate() {
            if lane.active {
                order[count] = position;
                count += 1;
            }
        }
        let turn = self.wseq_next;
        order[..count].sort_unstable_by_key(|&position| {
            let in_flight = self.lanes[position].records_in_flight;
            (in_flight, (position as u64 + turn) % count as u64)
        });
        order[..count].iter().find_map(|&position| {
            let placed = self.lanes[position].place(bytes, highest)?;
            Some((position, placed))
        })
    }

    fn header(&mut self, kind: Kind, lane: usize, place: Place) -> Header {
        let wseq = self.wseq_next;
        self.wseq_next += 1;
        let (mark, durable) = (self.epoch(), self.tail.durable());
        let durable_term = self.tail.term_at(durable);
        Header {
            kind,
            place,
            lane_generation: self.lanes[lane].generation,
            wseq,
            epoch: mark.epoch,
            epoch_start: mark.start,
            first_index: Index(0),
            count: 0,
            body_bytes: 0,
            prev_term: Term(0),
            last_term: durable_term,
            durable_index: durable,
            durable_term,
            commit_hint: self.commit_hint,
            body_sum: 0,
        }
    }

    fn submit(
        &mut self,
        header: Header,
        after: Option<IoId>,
        data: Vec<u8>,
        has_entries: bool,
        out: &mut Vec<IoRequest>,
    ) {
        let flight = Flight {
            wseq: header.wseq,
            place: header.place,
            watermark: Watermark {
                index: header.durable_index,
                term: header.durable_term,
                epoch: header.epoch,
            },
            has_entries,
        };
        let file = FileName::Segment {
            lane: header.place.lane,
            number: header.place.segment,
        };
        let offset = header.place.offset;
        let mut requests = Requests::urgent(&mut self.ids, out);
        let write = requests.push(
            after.into_iter().collect(),
            IoOperation::Write { file, offset, data },
        );
        let sync = requests.push(vec![write], IoOperation::Sync { file });
        self.records_in_flight += 1;
        let target = Target::File(file);
        self.in_flight.push(InFlight {
            id: write,
            target,
            verb: "write",
            purpose: Purpose::Record,
        });
        self.in_flight.push(InFlight {
            id: sync,
            target,
            verb: "sync",
            purpose: Purpose::RecordSync(flight),
        });
    }

    /// Whether the durable prefix reaches beyond everything that durable evidence speaks about.
    fn beacon_is_due(&self) -> bool {
        self.records_in_flight == 0
            && self.waiting.is_empty()
            && self.stopping == Stopping::Running
            && self.tail.durable() > self.evidence
    }

    /// Whether a beacon that is due could be written now; what hinders it ends with a completion, or with
    /// the next try to find space.
    fn beacon_is_possible(&self) -> bool {
        let has_room = |lane: &Lane| lane.active && lane.has_room(crate::BLOCK_BYTES);
        self.beacon_is_due() && self.may_submit() && self.lanes.iter().any(has_room)
    }

    fn submit_beacon(&mut self, now_nanos: u64, out: &mut Vec<IoRequest>) {
        if self.beacon_at.is_none_or(|at| now_nanos < at) || !self.beacon_is_possible() {
            return;
        }
        let highest = self.tail.durable();
        let Some((lane, placed)) = self.place(crate::BLOCK_BYTES, highest) else {
            return;
        };
        let header = self.header(Kind::Beacon, lane, placed.place);
        let data = record::encode(header, &[], self.salt);
        self.beacon_at = Some(now_nanos + self.config.beacon_delay_nanos);
        self.submit(header, placed.after, data, false, out);
    }

    fn want_clean(&mut self) {
        if self.stopping != Stopping::Requested
            || !self.waiting.is_empty()
            || self.records_in_flight > 0
            || self.replacing
            || !self.publication_queue.is_empty()
            || self.publication.is_some()
        {
            return;
        }
        let index = self.tail.durable();
        let (term, epoch) = (self.tail.term_at(index), self.epoch().epoch);
        self.superblock.wanted_mut().clean = Some(Watermark { index, term, epoch });
        self.stopping = Stopping::Writing;
    }

    fn write_superblock(&mut self, now_nanos: u64, out: &mut Vec<IoRequest>) {
        let from = out.len();
        let mut requests = Requests::urgent(&mut self.ids, out);
        let early = self.superblock.poll(&mut requests);
        if out.len() > from && self.publication.is_none() {
            // One write carries the newest of all that waits; the ones before it are contained in it.
            self.publication = self.publication_queue.drain(..).next_back();
        }
        for request in &out[from..] {
            self.in_flight.push(InFlight {
                id: request.id,
                target: Target::File(FileName::Superblock),
                verb: request.operation.verb(),
                purpose: Purpose::Superblock,
            });
        }
        if early {
            self.published(now_nanos);
        }
    }

    fn prepares_lanes(&self) -> bool {
        matches!(self.stopping, Stopping::Running | Stopping::Requested)
    }

    fn prepare_lanes(&mut self, now_nanos: u64, out: &mut Vec<IoRequest>) {
        if !self.prepares_lanes() {
            return;
        }
        let from = out.len();
        for lane in &mut self.lanes {
            let mut requests = if lane.head.is_none() {
                Requests::urgent(&mut self.ids, out)
            } else {
                Requests::background(&mut self.ids, out)
            };
            lane.prepare(now_nanos, &self.config, self.salt, &mut requests);
            lane.delete_unneeded(&self.config, &mut requests);
        }
        for request in &out[from..] {
            self.in_flight.push(InFlight {
                id: request.id,
                target: request.operation.target(),
                verb: request.operation.verb(),
                purpose: Purpose::Lane,
            });
        }
    }

    // Completion.

    /// Takes the result of a request.
    pub fn complete(&mut self, now_nanos: u64, id: IoId, result: Result<IoOutput, IoFailure>) {
        if self.poisoned {
            return;
        }
        let Some(position) = self.in_flight.iter().position(|request| request.id == id) else {
            return;
        };
        let request = self.in_flight.swap_remove(position);
        if let Err(failure) = result {
            self.failed(now_nanos, request, &failure);
            return;
        }
        match request.purpose {
            Purpose::Record => {}
            Purpose::RecordSync(flight) => self.record_durable(now_nanos, flight),
            Purpose::Superblock => {
                if self.superblock.complete(id) {
                    self.published(now_nanos);
                }
                self.check_stopped();
            }
            Purpose::Lane => {
                for lane in &mut self.lanes {
                    if lane.complete(id) {
                        break;
                    }
                }
            }
        }
    }

    fn failed(&mut self, now_nanos: u64, request: InFlight, failure: &IoFailure) {
        if *failure == IoFailure::NoSpace {
            let retry_at = now_nanos + self.config.space_retry_nanos;
            for lane in &mut self.lanes {
                if lane.creation_failed(request.id, retry_at).is_some() {
                    self.forget_dependents(request.target);
                    let file = request.target.path();
                    self.events.push_back(WalEvent::NoSpace { file });
                    return;
                }
            }
        }
        if matches!(request.purpose, Purpose::Lane)
            && request.verb == "delete"
            && *failure == IoFailure::NotFound
        {
            return;
        }
        self.poisoned = true;
        self.events.clear();
        self.events.push_back(WalEvent::Poisoned {
            what: format!("{} failed: {failure}", request.verb),
            file: request.target.path(),
        });
    }

    /// The executor drops what depends on a failed creation; only its own file and directory are concerned.
    fn forget_dependents(&mut self, failed: Target) {
        let directory = match failed {
            Target::File(file) => file.directory(),
            Target::Directory(directory) => directory,
        };
        let directory = Target::Directory(directory);
        self.in_flight.retain(|request| {
            !matches!(request.purpose, Purpose::Lane)
                || request.target != failed
                    && !(request.target == directory && request.verb == "sync directory")
        });
    }

    fn record_durable(&mut self, now_nanos: u64, flight: Flight) {
        self.records_in_flight -= 1;
        if let Some(lane) = self
            .lanes
            .iter_mut()
            .find(|lane| lane.id == flight.place.lane)
        {
            lane.landed(flight.place);
        }
        if flight.has_entries {
            self.tail.complete(flight.wseq);
        }
        if flight.watermark.epoch >= self.superblock.durable().epoch_floor {
            self.witness(flight.watermark);
        }
        if self.beacon_at.is_some() {
            self.beacon_at = Some(now_nanos + self.config.beacon_delay_nanos);
        }
    }

    /// A watermark is durable. A later epoch limits what it still says.
    fn witness(&mut self, watermark: Watermark) {
        let newer = self
            .epochs
            .iter()
            .filter(|mark| mark.epoch > watermark.epoch);
        let limit = newer.map(|mark| mark.start.previous()).min();
        let index = limit.map_or(watermark.index, |limit| limit.min(watermark.index));
        self.evidence = self.evidence.max(index);
    }

    /// A superblock write became durable.
    fn published(&mut self, _now_nanos: u64) {
        match self.publication.take() {
            None => {}
            Some(Publication::Checkpoint { id, index }) => {
                let term = self.superblock.durable().checkpoint_term;
                self.tail.rebase(index, term);
                self.reported_durable = self.reported_durable.max(index);
                self.drop_waiting_to(index);
                self.recycle(index);
                self.events
                    .push_back(WalEvent::CheckpointDurable { id, index });
            }
            Some(Publication::Snapshot(snapshot)) => {
                let (id, index) = (snapshot.id, snapshot.index);
                if !planted(Bug::NoSubmissionPauseAtSnapshot) {
                    self.replace_log(&snapshot);
                }
                self.replacing = false;
                self.recycle(index);
                self.events
                    .push_back(WalEvent::CheckpointDurable { id, index });
            }
        }
        self.forget_epochs();
    }

    /// Entries that an image covers need no record any more.
    fn drop_waiting_to(&mut self, index: Index) {
        while self
            .waiting
            .front()
            .is_some_and(|entry| entry.index <= index)
        {
            let entry = self.waiting.pop_front().expect("just seen");
            self.waiting_bytes -= record::entry_bytes(entry.data.len());
        }
    }

    fn replace_log(&mut self, snapshot: &Snapshot) {
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.tail = Tail::new(snapshot.index, snapshot.term);
        self.open_epoch(snapshot.index.next());
        self.reported_durable = snapshot.index;
        self.evidence = snapshot.index;
        for lane in &mut self.lanes {
            lane.replaced(snapshot.index);
        }
    }

    fn recycle(&mut self, covered: Index) {
        let covered = covered.min(self.retain_from.previous());
        for lane in &mut self.lanes {
            lane.recycle(covered);
        }
        let table = &mut self.superblock.wanted_mut().lanes;
        for lane in self.lanes.iter().filter(|lane| !lane.active) {
            if lane.is_drained() {
                table[usize::from(lane.id)].state = LaneState::Retired;
            }
        }
    }

    /// Epochs below the floor govern nothing any more; the newest one always stays.
    fn forget_epochs(&mut self) {
        let floor = self.superblock.durable().epoch_floor;
        let newest = self.epoch().epoch;
        self.epochs
            .retain(|mark| mark.epoch >= floor || mark.epoch == newest);
    }

    fn check_stopped(&mut self) {
        if self.stopping == Stopping::Writing
            && self.superblock.is_idle()
            && self.superblock.durable().clean.is_some()
        {
            self.stopping = Stopping::Stopped;
            self.events.push_back(WalEvent::Stopped);
        }
    }

    /// Tests call this after every step.
    pub fn check(&self) {
        self.tail.check();
        for lane in &self.lanes {
            lane.check();
        }
        assert_eq!(
            self.tail.submitted().0 + self.waiting.len() as u64,
            self.tail.last().0,
            "what was not submitted waits"
        );
        let bytes: u64 = self
            .waiting
            .iter()
            .map(|entry| record::entry_bytes(entry.data.len()))
            .sum();
        assert_eq!(bytes, self.waiting_bytes);
        let in_lanes: u32 = self.lanes.iter().map(|lane| lane.records_in_flight).sum();
        assert_eq!(in_lanes, self.records_in_flight);
        assert!(self.records_in_flight <= self.config.writes_in_flight_max);
        assert!(
            self.epochs
                .windows(2)
                .all(|pair| pair[0].epoch < pair[1].epoch)
        );
    }
}
