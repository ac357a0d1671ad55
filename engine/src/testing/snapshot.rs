//! Snapshots of a node on one thread.

use super::Node;
use crate::read::{Measure, SnapshotRead};
use crate::shard::{PinId, ShardReply, ShardRequest};
use crate::store::Event;

impl Node {
    /// Everything at the published revision with `places_max` places in memory, and how much was measured.
    pub fn snapshot(&mut self, places_max: usize) -> (Measure, Vec<Event>) {
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
        let mut read = SnapshotRead::holding(compacted, revision, id, shards, places_max);
        let (mut asked, mut events) = (Vec::new(), Vec::new());
        let mut measure = None;
        while !read.is_done() {
            while let Some(request) = read.poll() {
                asked.push(request);
            }
            let (shard, reply) = self.answer(&mut asked);
            read.on_reply(shard, reply);
            measure = measure.or(read.measure());
            if read.has_some() {
                assert!(measure.is_some(), "something came before it was measured");
            }
            events.extend(read.take());
        }
        assert!(!read.is_overtaken(), "the pin was lost");
        self.unpin(id);
        (measure.expect("it was measured"), events)
    }
}
