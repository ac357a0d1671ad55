//! What a shard is asked and what it answers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::command::*;
use crate::compaction::{HashPart, HashRequest};
use crate::events::Loc;
use crate::image::Attachment;
use crate::key::KeyRange;
use crate::revision::Revision;
use crate::shard::PinId;
use crate::store::{CountCursor, Counted, Event, EventChunk, EventQuery, RangeSet, Sizes, Version};

/// One message to a shard. Requests that change it must reach it one at a time, in the order in
/// which the coordinator gave them out; reads may come at any time.
#[derive(Clone, Debug)]
pub enum ShardRequest {
    /// Say which requests of the wave will write; change nothing.
    Evaluate(Arc<Batch>),
    /// Execute the requests of the wave under these main revisions; 0 passes one over.
    Apply {
        /// The requests; those that are not certain were evaluated before.
        batch: Arc<Batch>,
        /// One main revision for each request.
        mains: Vec<i64>,
    },
    /// The wave concerns this shard alone: evaluate, number and apply one request after the other.
    Execute(Arc<Batch>),
    /// Changes with revisions already given.
    Write(Vec<Write>),
    /// Questions about the state at a revision.
    Probe {
        /// Main revision.
        at: i64,
        /// What to ask.
        questions: Vec<Question>,
    },
    /// Which keys hang on each lease?
    LeaseKeys(Vec<LeaseId>),
    /// Reads below this revision are refused from here on.
    Compact(i64),
    /// Keep what is readable at a revision for the reads that name this pin, until `Unpin`.
    Pin {
        /// Its name.
        id: PinId,
        /// Main revision.
        at: i64,
        /// Leave all records where they are as long as there is such a pin: the read keeps their places.
        still: bool,
    },
    /// That read is over. Without that pin nothing happens.
    Unpin(PinId),
    /// One key.
    Get(Get),
    /// A chunk of keys. Boxed, because all requests would be as large, and they travel between cores.
    Scan(Box<ScanRequest>),
    /// How many keys? A slice of the answer.
    Count(CountRequest),
    /// A chunk of history.
    Events(EventsRequest),
    /// A slice of the hash of what is readable.
    Hash(HashRequest),
    /// A slice of what is alive at a revision, without keys and values.
    Outline(Box<OutlineRequest>),
    /// The records at these places.
    Records(Box<RecordsRequest>),
    /// The most that the history of these revisions has.
    Extent {
        /// First main revision.
        from: i64,
        /// Last main revision.
        to: i64,
    },
    /// How large are you?
    Sizes,
    /// Take over changes of another store, as they were made there.
    Restore(Arc<[Event]>),
    /// Fix the image of a checkpoint: all that was changed up to here, nothing after it. Comes
    /// between two entries and is written in the background.
    Freeze {
        /// Number of the checkpoint, not 0 and used once.
        id: u32,
        /// Kept with the image, opaque to the shard.
        attachment: Attachment,
    },
}

impl ShardRequest {
    /// Whether there is something worth loading while its answer is on its way.
    pub fn reads_ahead(&self) -> bool {
        match self {
            ShardRequest::Scan(scan) => scan.pin.is_some() && scan.values,
            ShardRequest::Events(events) => events.pin.is_some(),
            ShardRequest::Records(_) => true,
            _ => false,
        }
    }

    /// Whether nobody waits for the answers.
    pub(crate) fn is_unanswered(&self) -> bool {
        match self {
            ShardRequest::Evaluate(batch)
            | ShardRequest::Apply { batch, .. }
            | ShardRequest::Execute(batch) => batch.unanswered,
            _ => false,
        }
    }

    /// Whether it executes or evaluates operations of a wave; then only one comes at a time.
    pub(crate) fn is_of_wave(&self) -> bool {
        matches!(
            self,
            ShardRequest::Evaluate(_)
                | ShardRequest::Apply { .. }
                | ShardRequest::Execute(_)
                | ShardRequest::Write(_)
        )
    }
}

/// An answer of a shard.
#[derive(Clone, Debug)]
pub enum ShardReply {
    /// To `Evaluate`: a verdict for each request that was not certain, by position.
    Evaluated(Vec<(u32, Verdict)>),
    /// To `Apply`.
    Applied(Applied),
    /// To `Execute`.
    Executed {
        /// As for `Evaluate`.
        verdicts: Vec<(u32, Verdict)>,
        /// As for `Apply`.
        applied: Applied,
    },
    /// To `Write`; the numbers are the writes' slots.
    Written(Applied),
    /// To `Probe`, one for each question.
    Probed(Vec<Finding>),
    /// To `LeaseKeys`, sorted keys for each lease.
    LeaseKeys(Vec<Vec<Bytes>>),
    /// To `Compact`.
    Compacted,
    /// To `Pin`. Without it, because there are too many, the read may go on until a compaction overtakes it.
    Pinned(bool),
    /// To `Unpin`.
    Unpinned {
        /// The pin has held back the pass of a compaction, or the emptying of segments, which may go on.
        pass_is_due: bool,
    },
    /// To `Get`.
    Value(Option<KeyValue>),
    /// To `Scan`.
    Chunk(ScanReply),
    /// To `Count`.
    Count(Counted),
    /// To `Events`.
    Events(EventChunk),
    /// To `Hash`.
    Hash(HashPart),
    /// To `Outline`.
    Outline(OutlinePart),
    /// To `Records`: the first of them, at least one.
    Records(Vec<Event>),
    /// To `Extent`.
    Extent {
        /// Records.
        records: u64,
        /// Bytes of their keys and values.
        bytes: u64,
    },
    /// To `Sizes`.
    Sizes(Sizes),
    /// To `Restore`; else what is wrong with a change. Those before it were taken.
    Restored(Result<(), String>),
    /// To `Freeze`.
    Frozen,
    /// To a read below the compact revision.
    Refused,
    /// To a request that needs bytes which are damaged; it changed nothing more.
    Damaged(Damage),
}

/// Bytes on the disk that are not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Path of the file in the data directory.
    pub file: String,
    /// Where the bytes stand in it.
    pub offset: u64,
    /// What is wrong with them.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { file, offset, what } = self;
        write!(f, "{file} at offset {offset}: {what}")
    }
}

/// The requests of one wave that concern one shard, in log order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Revision before the wave.
    pub(crate) base: i64,
    /// Compact revision, −1 for none.
    pub(crate) compacted: i64,
    /// Nobody waits for the answers: what only they need is not read.
    pub(crate) unanswered: bool,
    pub(crate) items: Vec<Item>,
}

/// One request of a wave.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Place in the entry.
    pub position: u32,
    pub work: Work,
}

/// What a request of a wave does; all its keys are in one shard.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A put that certainly takes a revision.
    Put(Put),
    /// A put that keeps the value or the lease, so the key must exist.
    Update(Put),
    /// A delete of a single key.
    Delete { key: Bytes, prev_kv: bool },
    /// A transaction on single keys.
    Txn {
        txn: Txn,
        missing_leases: Vec<LeaseId>,
    },
}

/// What evaluation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Takes a main revision.
    Writes,
    /// Changes nothing: this is the answer.
    Settled(Result<Reply, CommandError>),
}

/// What an execution left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Answers by position; a put that answers nothing has none.
    pub(crate) replies: Vec<(u32, Reply)>,
    pub(crate) tally: Tally,
}

/// The logical effect of changes, whatever their order and wherever they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Sum of the events' hashes.
    pub sum: u64,
    /// Events.
    pub events: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.events += other.events;
    }

    pub(crate) fn put(&mut self, version: &Version) {
        self.event(u64::from(version.hash), version.modified);
    }

    pub(crate) fn delete(&mut self, key: &[u8], revision: Revision) {
        self.event(u64::from(crc32c::crc32c(key)) | 1 << 32, revision);
    }

    fn event(&mut self, content: u64, revision: Revision) {
        let place = (revision.main as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ u64::from(revision.sub).wrapping_mul(0xd6e8_feb8_6659_fd93);
        self.sum = self.sum.wrapping_add(mix(content ^ mix(place)));
        self.events += 1;
    }
}

/// Spreads every bit over all others (the finisher of SplitMix64).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// One change whose revision is given.
#[derive(Clone, Debug)]
pub struct Write {
    /// Number of its answer.
    pub(crate) slot: u32,
    pub(crate) revision: Revision,
    pub(crate) change: Change,
}

/// What a [`Write`] does.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(Put),
    /// Answers as a range delete of one key.
    Delete {
        key: Bytes,
        prev_kv: bool,
    },
}

/// One question about a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Number of its answer.
    pub(crate) slot: u32,
    pub(crate) kind: QuestionKind,
}

/// What a [`Question`] asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QuestionKind {
    Compare(Compare),
    Exists(Bytes),
}

/// This shard's part of the answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    pub(crate) slot: u32,
    /// There is a key here.
    pub(crate) seen: bool,
    /// All keys here satisfy the guard.
    pub(crate) holds: bool,
}

/// A read of one key.
#[derive(Clone, Debug)]
pub struct Get {
    pub(crate) key: Bytes,
    pub(crate) at: i64,
    pub(crate) values: bool,
    /// The pin that holds `at`.
    pub(crate) pin: Option<PinId>,
}

/// A count of the keys of a range.
#[derive(Clone, Debug)]
pub struct CountRequest {
    pub(crate) range: KeyRange,
    pub(crate) at: i64,
    /// Where the answer before it ended.
    pub(crate) from: Option<CountCursor>,
    /// The pin that holds `at`.
    pub(crate) pin: Option<PinId>,
}

/// A read of the next keys of a range.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    pub(crate) range: KeyRange,
    pub(crate) after: Option<Bytes>,
    pub(crate) at: i64,
    pub(crate) limit: usize,
    pub(crate) bytes_max: usize,
    pub(crate) values: bool,
    /// Bring the lengths of the values, which do not come themselves.
    pub(crate) lengths: bool,
    /// The pin that holds `at`; only large reads have one.
    pub(crate) pin: Option<PinId>,
    pub(crate) bounds: RevisionBounds,
    /// Count the whole range as well.
    pub(crate) count: bool,
}

/// Answer to a [`ScanRequest`].
#[derive(Clone, Debug, Default)]
pub struct ScanReply {
    /// Keys within the revision bounds.
    pub(crate) kvs: Vec<KeyValue>,
    /// Length of each one's value, if lengths were asked for.
    pub(crate) value_bytes: Vec<u32>,
    /// Keys passed, within the bounds or not.
    pub(crate) scanned: i64,
    /// The last key passed, if the range goes on behind it.
    pub(crate) resume: Option<Bytes>,
    pub(crate) count: Option<Counted>,
}

/// Inclusive bounds on a key-value's revisions; 0 is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RevisionBounds {
    pub min_mod: i64,
    pub max_mod: i64,
    pub min_create: i64,
    pub max_create: i64,
}

impl RevisionBounds {
    pub(crate) fn of(range: &Range) -> Self {
        RevisionBounds {
            min_mod: range.min_mod_revision,
            max_mod: range.max_mod_revision,
            min_create: range.min_create_revision,
            max_create: range.max_create_revision,
        }
    }

    pub(crate) fn are_off(self) -> bool {
        self == RevisionBounds::default()
    }

    pub(crate) fn admit(self, create: i64, modified: i64) -> bool {
        let within = |min: i64, number: i64, max: i64| {
            (min == 0 || number >= min) && (max == 0 || number <= max)
        };
        within(self.min_mod, modified, self.max_mod)
            && within(self.min_create, create, self.max_create)
    }
}

/// A read of the change history of one shard.
#[derive(Clone, Debug)]
pub struct EventsRequest {
    /// First main revision.
    pub from: i64,
    /// Last main revision, inclusive; at most the published one.
    pub to: i64,
    /// Only events of these keys.
    pub ranges: Option<Arc<RangeSet>>,
    /// Bring the key-value before each event.
    pub prev_kv: bool,
    /// The chunk ends with the revision that brings it to this many bytes.
    pub bytes_max: usize,
    /// A pin that holds a revision at or below `from`: everything is read, and nothing of it kept for others.
    pub pin: Option<PinId>,
}

/// A read of what is alive at a revision, in key order, without keys and values: where the records are.
#[derive(Clone, Debug)]
pub struct OutlineRequest {
    /// Keys from this one on.
    pub from: Bytes,
    /// Main revision at which they are alive.
    pub at: i64,
    /// The pin that holds it, and leaves records where they are.
    pub pin: PinId,
    /// Only versions changed at or above this.
    pub low: Revision,
    /// Only places of versions changed below this are brought; those between it and main revision `at` are counted.
    pub high: Revision,
}

/// Answer to an [`OutlineRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutlinePart {
    /// Where the records are.
    pub places: Vec<RecordPlace>,
    /// Versions passed, between `low` and main revision `at`.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Where the next slice begins, if there is one.
    pub resume: Option<Bytes>,
}

/// Where the record of a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordPlace {
    /// When the version came.
    pub revision: Revision,
    /// Its record.
    pub loc: Loc,
}

/// A read of records whose places an [`OutlineRequest`] has brought.
#[derive(Clone, Debug)]
pub struct RecordsRequest {
    /// Which; at least one.
    pub places: Vec<RecordPlace>,
    /// Main revision of the outline.
    pub at: i64,
    /// The pin that holds it.
    pub pin: PinId,
}

impl EventsRequest {
    pub(crate) fn query(&self) -> EventQuery<'_> {
        EventQuery {
            from: self.from,
            to: self.to,
            ranges: self.ranges.as_deref(),
            prev_kv: self.prev_kv,
            bytes_max: self.bytes_max,
            passing: self.pin.is_some(),
        }
    }
}
