//! History and lease keys over all shards.

use std::sync::Arc;

use bytes::Bytes;

use crate::command::{CommandError, LeaseId};
use crate::shard::{EventsRequest, ShardReply, ShardRequest};
use crate::store::{Event, EventChunk, RangeSet};

/// One chunk of the change history of all shards, in (main, sub) order.
///
/// Each shard is asked once. The chunk covers whole revisions up to where the first shard stopped.
#[derive(Debug)]
pub struct EventRead {
    request: EventsRequest,
    shards: u16,
    asked: u16,
    answered: u16,
    events: Vec<Event>,
    next: i64,
    refused: bool,
}

impl EventRead {
    /// Reads `request` (whose `bytes_max` is for all shards together) over `shards` shards.
    pub fn new(mut request: EventsRequest, shards: u16) -> Self {
        request.bytes_max = (request.bytes_max / usize::from(shards)).max(1);
        EventRead {
            next: request.to + 1,
            request,
            shards,
            asked: 0,
            answered: 0,
            events: Vec::new(),
            refused: false,
        }
    }

    /// The keys that were asked for.
    pub fn ranges(&self) -> Option<&Arc<RangeSet>> {
        self.request.ranges.as_ref()
    }

    /// The next request to send, if any.
    pub fn poll(&mut self) -> Option<(u16, ShardRequest)> {
        if self.asked == self.shards {
            return None;
        }
        self.asked += 1;
        Some((self.asked - 1, ShardRequest::Events(self.request.clone())))
    }

    /// Takes the answer of `shard`.
    pub fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        assert!(shard < self.asked, "shard {shard} was not asked");
        self.answered += 1;
        match reply {
            ShardReply::Events(chunk) => {
                self.next = self.next.min(chunk.next);
                self.events.extend(chunk.events);
            }
            ShardReply::Refused => self.refused = true,
            reply => unreachable!("history never gets {reply:?}"),
        }
    }

    /// Whether all shards have answered.
    pub fn is_done(&self) -> bool {
        self.answered == self.shards
    }

    /// The chunk; only when [`is_done`](Self::is_done).
    ///
    /// # Errors
    /// `Compacted` if the history no longer goes back that far.
    pub fn finish(self) -> Result<EventChunk, CommandError> {
        assert!(self.is_done(), "history is finished once it is done");
        if self.refused {
            return Err(CommandError::Compacted);
        }
        let mut events = self.events;
        events.retain(|event| event.revision.main < self.next);
        events.sort_by_key(|event| event.revision);
        Ok(EventChunk {
            events,
            next: self.next,
        })
    }
}

/// The keys that hang on one lease, over all shards, sorted.
#[derive(Debug)]
pub struct LeaseKeysRead {
    lease: LeaseId,
    shards: u16,
    asked: u16,
    answered: u16,
    keys: Vec<Bytes>,
}

impl LeaseKeysRead {
    /// Reads the keys of `lease` over `shards` shards.
    pub fn new(lease: LeaseId, shards: u16) -> Self {
        LeaseKeysRead {
            lease,
            shards,
            asked: 0,
            answered: 0,
            keys: Vec::new(),
        }
    }

    /// The next request to send, if any.
    pub fn poll(&mut self) -> Option<(u16, ShardRequest)> {
        if self.asked == self.shards {
            return None;
        }
        self.asked += 1;
        Some((self.asked - 1, ShardRequest::LeaseKeys(vec![self.lease])))
    }

    /// Takes the answer of `shard`.
    pub fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        assert!(shard < self.asked, "shard {shard} was not asked");
        let ShardReply::LeaseKeys(keys) = reply else {
            unreachable!("lease keys never get {reply:?}");
        };
        self.answered += 1;
        self.keys.extend(keys.into_iter().flatten());
    }

    /// Whether all shards have answered.
    pub fn is_done(&self) -> bool {
        self.answered == self.shards
    }

    /// The keys; only when [`is_done`](Self::is_done).
    pub fn finish(mut self) -> Vec<Bytes> {
        assert!(self.is_done(), "lease keys are finished once they are done");
        self.keys.sort();
        self.keys
    }
}
