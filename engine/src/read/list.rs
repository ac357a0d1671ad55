//! A large range over all shards, merged by key and handed out piece by piece.
//!
//! Its answer is too large to be held. So it is read twice at one pinned revision: the outline (keys,
//! versions, lengths of values) tells how long the answer is going to be, then the values come. Either walk
//! holds a few pieces of each shard and nothing of what was taken. Which pin is held, and for how long, is
//! for the caller to say.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::counting::Counting;
use super::lane::{LaneState, next_lane};
use super::range::{sort_by, wanted};
use crate::auth::Authorized;
use crate::command::*;
use crate::key::End;
use crate::shard::{
    CountRequest, Get, PinId, RevisionBounds, ScanReply, ScanRequest, ShardReply, ShardRequest,
    shard_of,
};

/// Bytes that all shards together bring at once.
const PIECES_BYTES: usize = 512 << 10;
/// Bounds of what one shard brings at once.
const PIECE_BYTES_MIN: usize = 16 << 10;
const PIECE_BYTES_MAX: usize = 128 << 10;
/// What a key-value takes beside key and value.
const KEY_VALUE_BYTES: usize = size_of::<Listed>();

/// One key of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The key-value; in an outline without its value.
    pub kv: KeyValue,
    /// Bytes of the value.
    pub value_bytes: u32,
}

/// In which order a large answer can be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListOrder {
    /// As the keys are: nothing has to be held.
    Keys,
    /// Sorted by something that the outline shows, which has to be held.
    Outline,
}

impl ListOrder {
    /// The order of the answer to `range`; none if only the whole answer tells it, or if it is not long.
    pub fn of(range: &Range) -> Option<ListOrder> {
        if range.count_only || range.range.end == End::Single {
            return None;
        }
        match (range.sort_target, range.sort_order) {
            (SortTarget::Value, _) => None,
            (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => Some(ListOrder::Keys),
            _ => Some(ListOrder::Outline),
        }
    }
}

/// Sorts the outline of a whole list as its answer is sorted, and cuts it at the limit.
pub fn sort_outline(range: &Range, outline: &mut Vec<Listed>) {
    sort_by(range, outline, |listed| &listed.kv);
    if let Some(limit) = limit_of(range) {
        outline.truncate(limit);
    }
}

fn limit_of(range: &Range) -> Option<usize> {
    usize::try_from(range.limit).ok().filter(|limit| *limit > 0)
}

/// A walk over a range in key order.
///
/// Invariants: at most one request per shard is under way; `merged` is in key order and behind everything
/// that was taken.
#[derive(Debug)]
pub struct ListRead {
    range: Range,
    at: i64,
    pin: PinId,
    values: bool,
    outline: bool,
    /// Keys after which it ends.
    wanted: usize,
    /// Keys merged so far.
    passed: usize,
    piece_bytes: usize,
    lanes: Vec<Lane>,
    merged: Vec<Listed>,
    /// Of an outline: the last key of the answer so far.
    last: Option<Bytes>,
    scanned: i64,
    count: i64,
    refused: bool,
}

/// What is known of one shard.
#[derive(Debug)]
struct Lane {
    buffer: VecDeque<Listed>,
    bytes: usize,
    state: LaneState,
    counting: Counting,
}

/// What the outline of a list tells about its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListEnd {
    /// Keys of the answer.
    pub keys: usize,
    /// There are more than the limit.
    pub more: bool,
    /// Keys in the whole range.
    pub count: i64,
}

impl ListRead {
    /// The walk over the outline of `range` at main revision `at`, held by `pin`, over `shards` shards.
    ///
    /// It goes on to the end of what decides `more` and the count, which may be behind the last key of
    /// the answer.
    pub fn outline(range: &Authorized<Range>, at: i64, pin: PinId, shards: u16) -> Self {
        let wanted = wanted(range);
        ListRead::over(range, at, pin, shards, wanted, true)
    }

    /// The walk over the first `keys` keys, with their values if the answer shows them.
    ///
    /// If [`last`](Self::last) of the outline is known, nothing behind that key is looked at, whatever became of
    /// the values there. Each shard alone would go on until it has `keys` keys.
    pub fn values(
        range: &Authorized<Range>,
        at: i64,
        pin: PinId,
        shards: u16,
        keys: usize,
        last: Option<Bytes>,
    ) -> Self {
        let mut read = ListRead::over(range, at, pin, shards, keys, false);
        if let Some(last) = last {
            let behind = [last.as_ref(), &[0]].concat();
            read.range.range.end = End::Before(Bytes::from(behind));
        }
        read
    }

    fn over(
        range: &Authorized<Range>,
        at: i64,
        pin: PinId,
        shards: u16,
        wanted: usize,
        outline: bool,
    ) -> Self {
        let range = Range::clone(range);
        let shards = match range.range.is_empty() {
            true => 0,
            false => usize::from(shards),
        };
        let lane = |_| Lane {
            buffer: VecDeque::new(),
            bytes: 0,
            state: LaneState::Resume(None),
            counting: Counting::Through,
        };
        ListRead {
            at,
            pin,
            values: !outline && !range.keys_only,
            outline,
            wanted,
            passed: 0,
            piece_bytes: (PIECES_BYTES / shards.max(1)).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX),
            lanes: (0..shards).map(lane).collect(),
            merged: Vec::new(),
            last: None,
            scanned: 0,
            count: 0,
            refused: false,
            range,
        }
    }

    /// The next request to send, if any can be sent now. A shard is asked before what it has brought is
    /// used up.
    pub fn poll(&mut self) -> Option<(u16, ShardRequest)> {
        if self.is_done() {
            return None;
        }
        for (shard, lane) in (0..).zip(&mut self.lanes) {
            if lane.state != LaneState::Asked
                && let Some(from) = lane.counting.ask()
            {
                let count = CountRequest {
                    range: self.range.range.clone(),
                    at: self.at,
                    from,
                    pin: Some(self.pin),
                };
                return Some((shard, ShardRequest::Count(count)));
            }
        }
        if self.has_enough() {
            return None;
        }
        let low = self.piece_bytes / 2;
        let wanting = |lane: &Lane| {
            lane.bytes <= low
                && lane.counting != Counting::Asked
                && matches!(lane.state, LaneState::Resume(_))
        };
        let shard = self.lanes.iter().position(wanting)?;
        let state = std::mem::replace(&mut self.lanes[shard].state, LaneState::Asked);
        let LaneState::Resume(after) = state else {
            unreachable!("the lane was found resumable");
        };
        Some((shard as u16, ShardRequest::Scan(Box::new(self.scan(after)))))
    }

    fn scan(&self, after: Option<Bytes>) -> ScanRequest {
        ScanRequest {
            range: self.range.range.clone(),
            count: self.outline && after.is_none() && self.wanted != usize::MAX,
            after,
            at: self.at,
            limit: self.wanted - self.passed,
            bytes_max: self.piece_bytes,
            values: self.values,
            lengths: self.outline && !self.range.keys_only,
            pin: Some(self.pin),
            bounds: RevisionBounds::of(&self.range),
        }
    }

    /// Takes the answer of `shard`.
    pub fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        let lane = &mut self.lanes[usize::from(shard)];
        if lane.counting == Counting::Asked {
            match reply {
                ShardReply::Count(counted) => self.count += lane.counting.take(counted),
                ShardReply::Refused => self.refused = true,
                reply => unreachable!("a count never gets {reply:?}"),
            }
            return;
        }
        assert_eq!(lane.state, LaneState::Asked, "shard {shard} was not asked");
        lane.state = LaneState::Through;
        match reply {
            ShardReply::Chunk(chunk) => {
                self.scanned += chunk.scanned;
                if let Some(counted) = chunk.count.clone() {
                    self.count += lane.counting.take(counted);
                }
                lane.take(chunk, self.range.keys_only);
                self.merge();
            }
            ShardReply::Refused => self.refused = true,
            reply => unreachable!("a list never gets {reply:?}"),
        }
    }

    /// Moves keys into `merged` as long as the smallest one is certain.
    fn merge(&mut self) {
        let limit = limit_of(&self.range).unwrap_or(0);
        while self.passed < self.wanted {
            let lanes = self.lanes.iter();
            let firsts =
                lanes.map(|lane| (lane.buffer.front().map(|first| &first.kv.key), &lane.state));
            let Some(index) = next_lane(firsts) else {
                return;
            };
            self.merged.extend(self.lanes[index].pop());
            self.passed += 1;
            if self.outline && self.passed <= limit {
                self.last = self.merged.last().map(|listed| listed.kv.key.clone());
            }
        }
    }

    /// Of an outline: the last key that the answer shows if it has a limit and is in key order.
    pub fn last(&self) -> Option<Bytes> {
        self.last.clone()
    }

    /// What was merged since the last call.
    pub fn take(&mut self) -> Vec<Listed> {
        std::mem::take(&mut self.merged)
    }

    /// Whether something was merged that is not taken.
    pub fn has_some(&self) -> bool {
        !self.merged.is_empty()
    }

    /// Whether nothing more will be merged. Answers under way are not needed then.
    pub fn is_done(&self) -> bool {
        let counts = |lane: &Lane| lane.counting != Counting::Through;
        self.refused || self.has_enough() && !self.lanes.iter().any(counts)
    }

    /// Whether all keys are there that are wanted.
    fn has_enough(&self) -> bool {
        let is_through = |lane: &Lane| lane.buffer.is_empty() && lane.state == LaneState::Through;
        self.passed >= self.wanted || self.lanes.iter().all(is_through)
    }

    /// What the outline tells; only when [`is_done`](Self::is_done).
    ///
    /// # Errors
    /// `Compacted` if a compaction overtook the read, which then has no pin.
    pub fn finish(&self) -> Result<ListEnd, CommandError> {
        assert!(self.is_done(), "a list is finished once it is done");
        if self.refused {
            return Err(CommandError::Compacted);
        }
        let limit = limit_of(&self.range).unwrap_or(usize::MAX);
        Ok(ListEnd {
            keys: self.passed.min(limit),
            more: self.passed > limit,
            count: match self.wanted {
                usize::MAX => self.scanned,
                _ => self.count,
            },
        })
    }
}

/// The values of a list whose outline is sorted already, piece by piece.
///
/// Invariants: `piece` has the next keys of the answer; `places` those of them whose value was asked for and
/// has not come, by key.
#[derive(Debug)]
pub struct OutlineRead {
    at: i64,
    pin: PinId,
    shards: u16,
    values: bool,
    rest: std::vec::IntoIter<Listed>,
    piece: Vec<Listed>,
    /// Of these the values were asked for.
    asked: usize,
    places: BTreeMap<Bytes, usize>,
    refused: bool,
}

impl OutlineRead {
    /// The values of `outline`, which [`sort_outline`] has sorted, at main revision `at`, held by `pin`.
    pub fn new(
        range: &Authorized<Range>,
        at: i64,
        pin: PinId,
        shards: u16,
        outline: Vec<Listed>,
    ) -> Self {
        OutlineRead {
            at,
            pin,
            shards,
            values: !range.keys_only,
            rest: outline.into_iter(),
            piece: Vec::new(),
            asked: 0,
            places: BTreeMap::new(),
            refused: false,
        }
    }

    fn poll(&mut self) -> Option<(u16, ShardRequest)> {
        if self.piece.is_empty() {
            let mut bytes = 0;
            while bytes < PIECES_BYTES / 2
                && let Some(listed) = self.rest.next()
            {
                bytes += listed.memory() + listed.value_bytes as usize;
                self.piece.push(listed);
            }
            self.asked = 0;
        }
        if !self.values || self.refused {
            return None;
        }
        let key = self.piece.get(self.asked)?.kv.key.clone();
        self.places.insert(key.clone(), self.asked);
        self.asked += 1;
        let shard = shard_of(&key, self.shards);
        let request = ShardRequest::Get(Get {
            key,
            at: self.at,
            values: true,
            pin: Some(self.pin),
        });
        Some((shard, request))
    }

    fn on_reply(&mut self, reply: ShardReply) {
        match reply {
            ShardReply::Value(Some(kv)) => {
                let place = self.places.remove(&kv.key);
                let place = place.expect("only keys that were asked for are answered");
                self.piece[place].kv = kv;
            }
            // A key of the outline is there as long as its revision is held.
            ShardReply::Value(None) | ShardReply::Refused => self.refused = true,
            reply => unreachable!("a list never gets {reply:?}"),
        }
    }

    fn has_some(&self) -> bool {
        let asked = !self.values || self.asked == self.piece.len();
        !self.piece.is_empty() && asked && self.places.is_empty()
    }

    fn take(&mut self) -> Vec<Listed> {
        match self.has_some() {
            true => std::mem::take(&mut self.piece),
            false => Vec::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.refused || self.piece.is_empty() && self.rest.len() == 0
    }
}

/// The values of a list, in the order of its answer.
#[derive(Debug)]
pub enum ListValues {
    /// In key order.
    Keys(ListRead),
    /// In the order of an outline that is held.
    Outline(OutlineRead),
}

impl ListValues {
    /// The next request to send, if any can be sent now.
    pub fn poll(&mut self) -> Option<(u16, ShardRequest)> {
        match self {
            ListValues::Keys(read) => read.poll(),
            ListValues::Outline(read) => read.poll(),
        }
    }

    /// Takes the answer of `shard`.
    pub fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        match self {
            ListValues::Keys(read) => read.on_reply(shard, reply),
            ListValues::Outline(read) => read.on_reply(reply),
        }
    }

    /// Whether there is something to take.
    pub fn has_some(&self) -> bool {
        match self {
            ListValues::Keys(read) => read.has_some(),
            ListValues::Outline(read) => read.has_some(),
        }
    }

    /// The next keys that are complete.
    pub fn take(&mut self) -> Vec<Listed> {
        match self {
            ListValues::Keys(read) => read.take(),
            ListValues::Outline(read) => read.take(),
        }
    }

    /// Whether nothing more will come than what is to be taken.
    pub fn is_done(&self) -> bool {
        match self {
            ListValues::Keys(read) => read.is_done(),
            ListValues::Outline(read) => read.is_done(),
        }
    }

    /// Whether a compaction overtook the read, which then has lost its pin.
    pub fn is_overtaken(&self) -> bool {
        match self {
            ListValues::Keys(read) => read.refused,
            ListValues::Outline(read) => read.refused,
        }
    }
}

impl Lane {
    fn take(&mut self, chunk: ScanReply, keys_only: bool) {
        let mut lengths = chunk.value_bytes.into_iter();
        for mut kv in chunk.kvs {
            // As etcd, whose index knows no leases.
            if keys_only {
                kv.lease = LeaseId::NONE;
            }
            let value_bytes = lengths.next().unwrap_or(kv.value.len() as u32);
            let listed = Listed { kv, value_bytes };
            self.bytes += listed.memory();
            self.buffer.push_back(listed);
        }
        if chunk.resume.is_some() {
            self.state = LaneState::Resume(chunk.resume);
        }
    }

    fn pop(&mut self) -> Option<Listed> {
        let listed = self.buffer.pop_front()?;
        self.bytes -= listed.memory();
        Some(listed)
    }
}

impl Listed {
    /// What it takes while it is held.
    pub fn memory(&self) -> usize {
        KEY_VALUE_BYTES + self.kv.key.len() + self.kv.value.len()
    }
}
