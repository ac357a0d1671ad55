//! Snapshots of a node on one thread.

use super::Node;
use crate::read::{Measure, SnapshotRead};
use crate::shard::{PinId, ShardReply, ShardRequest};
use crate::store::Event;

/// A snapshot that is read step by step, while the node goes on.
#[derive(Debug)]
pub struct Snapshot {
    id: PinId,
    read: SnapshotRead,
    asked: Vec<(u16, ShardRequest)>,
    measure: Option<Measure>,
    events: Vec<Event>,
}

impl Node {
    /// Begins to read everything at the published revision with `places_max` places in memory.
    pub fn begin_snapshot(&mut self, places_max: usize) -> Snapshot {
        let compacted = self.coordinator.compact_revision();
        let revision = self.coordinator.applied().revision;
        let (at, shards) = (compacted.max(0), self.coordinator.shards());
        self.last_pin += 1;
        let id = PinId(self.last_pin);
        for shard in 0..shards {
            let request = ShardRequest::Pin {
                id,
                at,
                still: true,
            };
            let (_, reply) = self.answer(&mut vec![(shard, request)]);
            assert!(matches!(reply, ShardReply::Pinned(true)), "{reply:?}");
        }
        Snapshot {
            id,
            read: SnapshotRead::holding(compacted, revision, id, shards, places_max),
            asked: Vec::new(),
            measure: None,
            events: Vec::new(),
        }
    }

    /// Lets a shard answer one of the snapshot's requests. When that was the last one: how much was measured, and
    /// what there is.
    pub fn go_on_with_snapshot(
        &mut self,
        snapshot: &mut Snapshot,
    ) -> Option<(Measure, Vec<Event>)> {
        let read = &mut snapshot.read;
        while let Some(request) = read.poll() {
            snapshot.asked.push(request);
        }
        if !read.is_done() {
            let (shard, reply) = self.answer(&mut snapshot.asked);
            read.on_reply(shard, reply);
            snapshot.measure = snapshot.measure.or(read.measure());
            let is_measured = snapshot.measure.is_some() || !read.has_some();
            assert!(is_measured, "something came before it was measured");
            snapshot.events.extend(read.take());
        }
        if !read.is_done() {
            return None;
        }
        assert!(!read.is_overtaken(), "the pin was lost");
        self.unpin(snapshot.id);
        let measure = snapshot.measure.expect("it was measured");
        Some((measure, std::mem::take(&mut snapshot.events)))
    }
}
