//! Everything that a store at one revision consists of, over all shards, in the order of revisions: what a
//! snapshot file holds.
//!
//! At a compact revision C and a revision R ≥ C this is what is alive at C and was changed before it, and then
//! the history from C to R. The first part stands in the shards in no such order, so it is read twice: the
//! outline (where which revision's record is), then the records at those places. An outline of everything may be
//! larger than memory, so as many of the lowest revisions are kept as fit, and the outline is read again for the
//! others. The history is read as a watch reads it, from all shards side by side.
//!
//! All of it under a pin at C that leaves records where they are. Which pin that is, and for how long it is held,
//! is for the caller to say.

use std::collections::VecDeque;

use bytes::Bytes;

use super::places::Places;
use crate::events::RECORD_HEADER_BYTES;
use crate::revision::Revision;
use crate::shard::{
    EventsRequest, OutlinePart, OutlineRequest, PinId, RecordPlace, RecordsRequest, ShardReply,
    ShardRequest,
};
use crate::store::{Event, EventChunk};

/// Places that are held at a time, of 28 bytes: 32 MiB.
const PLACES_MAX: usize = (32 << 20) / 28;
/// Bytes of records that are asked for together, and such batches at a time.
const BATCH_BYTES: usize = 512 << 10;
const BATCHES_MAX: usize = 2;
/// Records of a batch.
const BATCH_RECORDS_MAX: usize = 2048;
/// Bytes of history that all shards together bring at once.
const HISTORY_BYTES: usize = 512 << 10;
/// Bounds of what one shard brings at once.
const CHUNK_BYTES_MIN: usize = 32 << 10;
const CHUNK_BYTES_MAX: usize = 128 << 10;

/// How large a snapshot is at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Versions and deletions.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// The read of a snapshot.
///
/// Invariants: at most one request per shard is under way; what was merged is behind everything taken before.
#[derive(Debug)]
pub struct SnapshotRead {
    at: i64,
    to: i64,
    pin: PinId,
    shards: u16,
    places_max: usize,
    stage: Stage,
    /// Shards that have said how much history they have.
    extents: Vec<Extent>,
    measure: Measure,
    /// The whole outline was passed once.
    is_counted: bool,
    merged: Vec<Event>,
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    ToAsk,
    Asked,
    Known,
}

#[derive(Debug)]
enum Stage {
    Outline(Outline),
    Records(Records),
    History(History),
}

/// A walk over the outline.
#[derive(Debug)]
struct Outline {
    low: Revision,
    lanes: Vec<OutlineLane>,
    places: Places,
}

#[derive(Debug, PartialEq, Eq)]
enum OutlineLane {
    Resume(Bytes),
    Asked,
    Through,
}

/// The records of an outline.
#[derive(Debug)]
struct Records {
    places: Places,
    /// Next to be merged first.
    batches: VecDeque<Batch>,
    /// By shard, whether it was asked.
    asked: Vec<bool>,
}

/// Records that are merged when all of them have come.
#[derive(Debug)]
struct Batch {
    /// The shard of each record, in order.
    order: Vec<u16>,
    /// By shard.
    parts: Vec<Part>,
}

#[derive(Debug, Default)]
struct Part {
    places: Vec<RecordPlace>,
    events: VecDeque<Event>,
}

/// The history from the compact revision on.
#[derive(Debug)]
struct History {
    lanes: Vec<HistoryLane>,
    chunk_bytes: usize,
}

#[derive(Debug)]
struct HistoryLane {
    events: VecDeque<Event>,
    bytes: usize,
    /// The first revision that has not come.
    next: i64,
    asked: bool,
}

impl SnapshotRead {
    /// Reads what `shards` shards have at `revision`, which is published. `compacted`, the compact revision (0 or
    /// below for none), is held by `pin`, which leaves records where they are.
    pub fn new(compacted: i64, revision: i64, pin: PinId, shards: u16) -> Self {
        SnapshotRead::holding(compacted, revision, pin, shards, PLACES_MAX)
    }

    /// As [`SnapshotRead::new`] with about `places_max` places in memory.
    pub(crate) fn holding(
        compacted: i64,
        revision: i64,
        pin: PinId,
        shards: u16,
        places_max: usize,
    ) -> Self {
        let at = compacted.max(0);
        let mut read = SnapshotRead {
            at,
            to: revision,
            pin,
            shards,
            places_max,
            stage: Stage::History(History::new(at, shards)),
            extents: vec![Extent::ToAsk; usize::from(shards)],
            measure: Measure::default(),
            is_counted: at == 0,
            merged: Vec::new(),
            refused: false,
        };
        if at > 0 {
            read.stage = Stage::Outline(read.outline_from(Revision::default()));
        }
        read
    }

    fn outline_from(&self, low: Revision) -> Outline {
        let lanes = (0..self.shards).map(|_| OutlineLane::Resume(Bytes::new()));
        let end = Revision {
            main: self.at,
            sub: 0,
        };
        Outline {
            low,
            lanes: lanes.collect(),
            places: Places::below(end, self.places_max),
        }
    }

    /// How much there is at most, once that is known. Ask for nothing but [`SnapshotRead::poll`] before.
    pub fn measure(&self) -> Option<Measure> {
        let known = self.extents.iter().all(|extent| *extent == Extent::Known);
        (known && self.is_counted).then_some(self.measure)
    }

    /// The next request to send, if any can be sent now.
    pub fn poll(&mut self) -> Option<(u16, ShardRequest)> {
        if self.refused {
            return None;
        }
        let to_ask = |extent: &Extent| *extent == Extent::ToAsk;
        if let Some(shard) = self.extents.iter().position(to_ask) {
            self.extents[shard] = Extent::Asked;
            let (from, to) = (self.at, self.to);
            return Some((shard as u16, ShardRequest::Extent { from, to }));
        }
        if self.extents.contains(&Extent::Asked) {
            return None;
        }
        match &mut self.stage {
            Stage::Outline(outline) => outline.poll(self.at, self.pin),
            Stage::Records(records) => records.poll(self.at, self.pin),
            Stage::History(history) => history.poll(self.to, self.pin),
        }
    }

    /// Takes the answer of `shard`.
    pub fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        match (reply, &mut self.stage) {
            (ShardReply::Refused, _) => self.refused = true,
            (ShardReply::Extent { records, bytes }, _) => {
                self.extents[usize::from(shard)] = Extent::Known;
                self.measure.records += records;
                self.measure.bytes += bytes;
            }
            (ShardReply::Outline(part), Stage::Outline(outline)) => {
                if !self.is_counted {
                    self.measure.records += part.records;
                    self.measure.bytes += part.bytes;
                }
                outline.take(shard, part);
            }
            (ShardReply::Records(events), Stage::Records(records)) => {
                records.take(shard, events);
                records.merge(&mut self.merged);
            }
            (ShardReply::Events(chunk), Stage::History(history)) => {
                history.take(shard, chunk);
                history.merge(&mut self.merged);
            }
            (reply, stage) => unreachable!("a snapshot in {stage:?} never gets {reply:?}"),
        }
        self.advance();
    }

    /// Goes on with the next stage if one is over.
    fn advance(&mut self) {
        let next = match &mut self.stage {
            Stage::Outline(outline) if outline.is_through() => {
                self.is_counted = true;
                let none = Places::below(Revision::default(), 0);
                let mut places = std::mem::replace(&mut outline.places, none);
                places.seal();
                let mut records = Records {
                    places,
                    batches: VecDeque::new(),
                    asked: vec![false; usize::from(self.shards)],
                };
                records.fill();
                Stage::Records(records)
            }
            _ => match &self.stage {
                Stage::Records(records) if records.is_through() => self.behind(records),
                _ => return,
            },
        };
        self.stage = next;
        // There may be no record at all.
        if let Stage::Records(records) = &self.stage
            && records.is_through()
        {
            self.stage = self.behind(records);
        }
    }

    /// What follows the records of an outline: the rest of it, or the history.
    fn behind(&self, records: &Records) -> Stage {
        let high = records.places.high();
        match high.main < self.at {
            true => Stage::Outline(self.outline_from(high)),
            false => Stage::History(History::new(self.at, self.shards)),
        }
    }

    /// Whether something was merged that is not taken.
    pub fn has_some(&self) -> bool {
        !self.merged.is_empty()
    }

    /// What was merged since the last call, in the order of revisions.
    pub fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.merged)
    }

    /// Whether nothing more will come than what is to be taken.
    pub fn is_done(&self) -> bool {
        self.refused
            || match &self.stage {
                Stage::History(history) => history.is_through(self.to),
                Stage::Outline(_) | Stage::Records(_) => false,
            }
    }

    /// Whether the pin was lost.
    pub fn is_overtaken(&self) -> bool {
        self.refused
    }
}

impl Outline {
    fn poll(&mut self, at: i64, pin: PinId) -> Option<(u16, ShardRequest)> {
        let resumable = |lane: &OutlineLane| matches!(lane, OutlineLane::Resume(_));
        let shard = self.lanes.iter().position(resumable)?;
        let lane = std::mem::replace(&mut self.lanes[shard], OutlineLane::Asked);
        let OutlineLane::Resume(from) = lane else {
            unreachable!("the lane was found resumable");
        };
        let request = OutlineRequest {
            from,
            at,
            pin,
            low: self.low,
            high: self.places.high(),
        };
        Some((shard as u16, ShardRequest::Outline(Box::new(request))))
    }

    fn take(&mut self, shard: u16, part: OutlinePart) {
        let lane = &mut self.lanes[usize::from(shard)];
        assert_eq!(*lane, OutlineLane::Asked, "shard {shard} was not asked");
        *lane = match part.resume {
            Some(from) => OutlineLane::Resume(from),
            None => OutlineLane::Through,
        };
        self.places.add(shard, &part.places);
    }

    fn is_through(&self) -> bool {
        self.lanes.iter().all(|lane| *lane == OutlineLane::Through)
    }
}

impl Records {
    /// Begins batches while there is room.
    fn fill(&mut self) {
        while self.batches.len() < BATCHES_MAX {
            let shards = self.asked.len();
            let mut batch = Batch {
                order: Vec::new(),
                parts: (0..shards).map(|_| Part::default()).collect(),
            };
            let mut bytes = 0;
            while bytes < BATCH_BYTES
                && batch.order.len() < BATCH_RECORDS_MAX
                && let Some((shard, place)) = self.places.next()
            {
                bytes += place.loc.len as usize;
                batch.order.push(shard);
                batch.parts[usize::from(shard)].places.push(place);
            }
            if batch.order.is_empty() {
                return;
            }
            self.batches.push_back(batch);
        }
    }

    fn poll(&mut self, at: i64, pin: PinId) -> Option<(u16, ShardRequest)> {
        for batch in &self.batches {
            for (shard, part) in batch.parts.iter().enumerate() {
                let rest = &part.places[part.events.len()..];
                if rest.is_empty() || self.asked[shard] {
                    continue;
                }
                self.asked[shard] = true;
                let request = RecordsRequest {
                    places: rest.to_vec(),
                    at,
                    pin,
                };
                return Some((shard as u16, ShardRequest::Records(Box::new(request))));
            }
        }
        None
    }

    fn take(&mut self, shard: u16, events: Vec<Event>) {
        let index = usize::from(shard);
        assert!(self.asked[index], "shard {shard} was not asked");
        self.asked[index] = false;
        // A shard is asked for the first batch that lacks something.
        let mut parts = self.batches.iter_mut().map(|batch| &mut batch.parts[index]);
        let part = parts.find(|part| part.events.len() < part.places.len());
        part.expect("records that were asked for")
            .events
            .extend(events);
    }

    fn merge(&mut self, merged: &mut Vec<Event>) {
        while let Some(batch) = self.batches.front_mut() {
            let complete = |part: &Part| part.events.len() == part.places.len();
            if !batch.parts.iter().all(complete) {
                break;
            }
            for shard in &batch.order {
                merged.extend(batch.parts[usize::from(*shard)].events.pop_front());
            }
            self.batches.pop_front();
        }
        self.fill();
    }

    fn is_through(&self) -> bool {
        self.batches.is_empty()
    }
}

impl History {
    fn new(from: i64, shards: u16) -> Self {
        let shards = usize::from(shards);
        let lane = |_| HistoryLane {
            events: VecDeque::new(),
            bytes: 0,
            next: from,
            asked: false,
        };
        History {
            lanes: (0..shards).map(lane).collect(),
            chunk_bytes: (HISTORY_BYTES / shards).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX),
        }
    }

    fn poll(&mut self, to: i64, pin: PinId) -> Option<(u16, ShardRequest)> {
        let low = self.chunk_bytes / 2;
        let wanting = |lane: &HistoryLane| !lane.asked && lane.next <= to && lane.bytes <= low;
        let shard = self.lanes.iter().position(wanting)?;
        let lane = &mut self.lanes[shard];
        lane.asked = true;
        let request = EventsRequest {
            from: lane.next,
            to,
            ranges: None,
            prev_kv: false,
            bytes_max: self.chunk_bytes,
            pin: Some(pin),
        };
        Some((shard as u16, ShardRequest::Events(request)))
    }

    fn take(&mut self, shard: u16, chunk: EventChunk) {
        let lane = &mut self.lanes[usize::from(shard)];
        assert!(lane.asked, "shard {shard} was not asked");
        lane.asked = false;
        lane.next = chunk.next;
        lane.bytes += chunk.events.iter().map(memory).sum::<usize>();
        lane.events.extend(chunk.events);
    }

    /// Moves events as long as the first one is certain.
    fn merge(&mut self, merged: &mut Vec<Event>) {
        let certain = self.lanes.iter().map(|lane| lane.next).min().unwrap_or(0);
        loop {
            let firsts = self.lanes.iter().enumerate();
            let firsts =
                firsts.filter_map(|(index, lane)| Some((lane.events.front()?.revision, index)));
            let Some((revision, index)) = firsts.min() else {
                return;
            };
            if revision.main >= certain {
                return;
            }
            let lane = &mut self.lanes[index];
            let event = lane.events.pop_front().expect("it was just seen");
            lane.bytes -= memory(&event);
            merged.push(event);
        }
    }

    fn is_through(&self, to: i64) -> bool {
        let through = |lane: &HistoryLane| lane.next > to && lane.events.is_empty();
        self.lanes.iter().all(through)
    }
}

/// What an event takes while it is held.
fn memory(event: &Event) -> usize {
    RECORD_HEADER_BYTES + size_of::<Event>() + event.kv.key.len() + event.kv.value.len()
}
