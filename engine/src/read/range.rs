//! A range over all shards, merged by key.

use std::collections::VecDeque;

use bytes::Bytes;

use super::counting::Counting;
use super::lane::{LaneState, next_lane};
use super::{drop_values, reply_of_one, wants_value};
use crate::auth::Authorized;
use crate::command::*;
use crate::key::End;
use crate::shard::{
    CountRequest, Get, RevisionBounds, ScanReply, ScanRequest, ShardReply, ShardRequest, shard_of,
};

/// Bytes of keys and values that one shard answers at once.
const CHUNK_BYTES: usize = 128 << 10;

/// Keys asked for beyond a shard's fair part of a limit, because hashing spreads unevenly.
const LIMIT_SLACK_KEYS: usize = 8;

/// One range at one revision.
///
/// Invariants: at most one request per shard is under way; `merged` is in key order and holds
/// every admitted key below the smallest key that a shard may still bring.
#[derive(Debug)]
pub struct RangeRead {
    range: Range,
    at: i64,
    /// Keys needed before sorting and cutting; one more than the limit tells whether there are more.
    wanted: usize,
    lanes: Vec<Lane>,
    merged: Vec<KeyValue>,
    /// Bytes of keys and values that were brought.
    bytes: usize,
    scanned: i64,
    count: i64,
    single: bool,
    count_ends_at_limit: bool,
    refused: bool,
}

/// What is known of one shard.
#[derive(Debug)]
struct Lane {
    shard: u16,
    buffer: VecDeque<KeyValue>,
    state: LaneState,
    counting: Counting,
}

impl RangeRead {
    /// Reads `range` at main revision `at`, which `resolve_revision` gave, over `shards` shards.
    pub fn new(range: &Authorized<Range>, at: i64, shards: u16) -> Self {
        RangeRead::over(Range::clone(range), at, shards)
    }

    pub(crate) fn over(range: Range, at: i64, shards: u16) -> Self {
        let single = range.range.end == End::Single;
        let count_only = range.count_only && !single;
        let concerned = if single {
            let shard = shard_of(&range.range.start, shards);
            shard..shard + 1
        } else if range.range.is_empty() {
            0..0
        } else {
            0..shards
        };
        let lanes = concerned.map(|shard| Lane {
            shard,
            buffer: VecDeque::new(),
            state: match count_only {
                true => LaneState::Through,
                false => LaneState::Resume(None),
            },
            counting: match count_only {
                true => Counting::From(None),
                false => Counting::Through,
            },
        });
        RangeRead {
            wanted: wanted(&range),
            lanes: lanes.collect(),
            merged: Vec::new(),
            bytes: 0,
            scanned: 0,
            count: 0,
            single,
            count_ends_at_limit: false,
            refused: false,
            range,
            at,
        }
    }

    /// Breaks the count on purpose.
    #[cfg(feature = "testing")]
    pub fn plant(&mut self, defect: crate::defect::Defect) {
        self.count_ends_at_limit = defect == crate::defect::Defect::CountEndsAtLimit;
    }

    /// The next request to send, if any can be sent now.
    pub fn poll(&mut self) -> Option<(u16, ShardRequest)> {
        if self.refused {
            return None;
        }
        for lane in &mut self.lanes {
            if lane.state != LaneState::Asked
                && let Some(from) = lane.counting.ask()
            {
                let count = CountRequest {
                    range: self.range.range.clone(),
                    at: self.at,
                    from,
                    pin: None,
                };
                return Some((lane.shard, ShardRequest::Count(count)));
            }
        }
        if self.has_enough() {
            return None;
        }
        let lanes = self.lanes.len();
        let free = |lane: &&mut Lane| {
            lane.buffer.is_empty()
                && lane.counting != Counting::Asked
                && matches!(lane.state, LaneState::Resume(_))
        };
        let lane = self.lanes.iter_mut().find(free)?;
        let LaneState::Resume(after) = std::mem::replace(&mut lane.state, LaneState::Asked) else {
            unreachable!("the lane was found resumable");
        };
        let shard = lane.shard;
        let request = if self.single {
            ShardRequest::Get(Get {
                key: self.range.range.start.clone(),
                at: self.at,
                values: wants_value(&self.range),
                pin: None,
            })
        } else {
            ShardRequest::Scan(Box::new(self.scan(after, lanes)))
        };
        Some((shard, request))
    }

    fn scan(&self, after: Option<Bytes>, lanes: usize) -> ScanRequest {
        let missing = self.wanted - self.merged.len();
        let limit = if self.wanted == usize::MAX || lanes == 1 {
            missing
        } else {
            (missing / lanes)
                .saturating_add(missing / 4 + LIMIT_SLACK_KEYS)
                .min(missing)
        };
        ScanRequest {
            range: self.range.range.clone(),
            count: after.is_none() && self.wanted != usize::MAX,
            after,
            at: self.at,
            limit,
            bytes_max: CHUNK_BYTES,
            values: wants_value(&self.range),
            lengths: false,
            pin: None,
            bounds: RevisionBounds::of(&self.range),
        }
    }

    /// Takes the answer of `shard`.
    pub fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        let lane = self.lanes.iter_mut().find(|lane| lane.shard == shard);
        let lane = lane.expect("only shards that were asked answer");
        if lane.counting == Counting::Asked {
            match reply {
                ShardReply::Count(counted) => self.count += lane.counting.take(counted),
                ShardReply::Refused => {
                    lane.counting = Counting::Through;
                    self.refused = true;
                }
                reply => unreachable!("a count never gets {reply:?}"),
            }
            return;
        }
        assert_eq!(lane.state, LaneState::Asked, "shard {shard} answered twice");
        lane.state = LaneState::Through;
        match reply {
            ShardReply::Value(found) => {
                self.count = i64::from(found.is_some());
                self.merged.extend(found);
            }
            ShardReply::Chunk(chunk) => {
                self.scanned += chunk.scanned;
                if let Some(counted) = chunk.count.clone() {
                    self.count += lane.counting.take(counted);
                }
                let len = |kv: &KeyValue| kv.key.len() + kv.value.len();
                self.bytes += chunk.kvs.iter().map(len).sum::<usize>();
                lane.take(chunk);
                self.merge();
            }
            ShardReply::Refused => self.refused = true,
            reply => unreachable!("a range never gets {reply:?}"),
        }
    }

    /// Bytes of keys and values that the shards have brought so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn has_enough(&self) -> bool {
        self.refused || self.merged.len() >= self.wanted
    }

    /// Moves keys into `merged` as long as the smallest one is certain.
    fn merge(&mut self) {
        if let [lane] = &mut self.lanes[..] {
            self.merged.extend(lane.buffer.drain(..));
            return;
        }
        while self.merged.len() < self.wanted {
            let lanes = self.lanes.iter();
            let firsts =
                lanes.map(|lane| (lane.buffer.front().map(|first| &first.key), &lane.state));
            let Some(index) = next_lane(firsts) else {
                return;
            };
            self.merged.extend(self.lanes[index].buffer.pop_front());
        }
    }

    /// Whether nothing is under way and nothing is left to ask.
    pub fn is_done(&self) -> bool {
        let asked =
            |lane: &Lane| lane.state == LaneState::Asked || lane.counting == Counting::Asked;
        let left = |lane: &Lane| lane.buffer.is_empty() && lane.state != LaneState::Through;
        let counting = |lane: &Lane| lane.counting != Counting::Through;
        let counted = self.refused || !self.lanes.iter().any(counting);
        counted
            && !self.lanes.iter().any(asked)
            && (self.has_enough() || !self.lanes.iter().any(left))
    }

    /// The answer; only when [`is_done`](Self::is_done).
    ///
    /// # Errors
    /// `Compacted` if a compaction overtook the read; one of the current revision may be repeated
    /// at the revision published since.
    pub fn finish(self) -> Result<RangeReply, CommandError> {
        assert!(self.is_done(), "a range read is finished once it is done");
        if self.refused {
            return Err(CommandError::Compacted);
        }
        let range = &self.range;
        if self.single {
            return Ok(reply_of_one(range, self.merged.into_iter().next()));
        }
        let mut count = self.count;
        if !range.count_only && self.wanted == usize::MAX {
            count = self.scanned;
        }
        let mut kvs = self.merged;
        sort_by(range, &mut kvs, |kv| kv);
        let limit = usize::try_from(range.limit).unwrap_or(0);
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if self.count_ends_at_limit {
            count = kvs.len() as i64;
        }
        drop_values(range, &mut kvs);
        Ok(RangeReply { kvs, more, count })
    }
}

impl Lane {
    fn take(&mut self, chunk: ScanReply) {
        self.buffer.extend(chunk.kvs);
        if chunk.resume.is_some() {
            self.state = LaneState::Resume(chunk.resume);
        }
    }
}

/// How many keys are needed. Only key order is read in order: any other order, and revision bounds,
/// need everything. As in etcd an order of none cuts before it sorts by another target.
pub(super) fn wanted(range: &Range) -> usize {
    let by_key = range.sort_target == SortTarget::Key && range.sort_order == SortOrder::Ascend;
    let in_order = range.sort_order == SortOrder::None || by_key;
    if range.limit <= 0 || !in_order || !RevisionBounds::of(range).are_off() {
        return usize::MAX;
    }
    usize::try_from(range.limit)
        .unwrap_or(usize::MAX)
        .saturating_add(1)
}

/// Sorts what is in key order; equal ones keep that order.
pub(super) fn sort_by<T>(range: &Range, items: &mut [T], kv_of: impl Fn(&T) -> &KeyValue) {
    let descending = range.sort_order == SortOrder::Descend;
    if range.sort_target == SortTarget::Key {
        if descending {
            items.reverse();
        }
        return;
    }
    items.sort_by(|a, b| {
        let (a, b) = (kv_of(a), kv_of(b));
        let order = match range.sort_target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if descending { order.reverse() } else { order }
    });
}
