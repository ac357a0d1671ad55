//! Watchers as a shard sees them: somebody who reads the history bit by bit while entries are executed and
//! compactions go on.

use std::sync::Arc;

use engine::command::CommandError;
use engine::key::KeyRange;
use engine::shard::EventsRequest;
use engine::store::RangeSet;

use super::{Checked, Run, equal};

/// Most of them at a time.
const FOLLOWERS_MAX: usize = 4;

/// One of them.
pub(super) struct Follower {
    /// The first revision that it has not seen.
    next: i64,
    ranges: Option<Vec<KeyRange>>,
    prev_kv: bool,
    bytes_max: usize,
}

impl Run {
    /// Begins to follow, or lets some of those who do read on.
    pub(super) fn follow(&mut self) -> Checked {
        let (first, newest) = (
            self.oracle.compact_revision().max(1),
            self.oracle.revision(),
        );
        if self.followers.len() < FOLLOWERS_MAX && self.random.one_in(6) {
            let ranges = self.random.one_in(2);
            let ranges = ranges.then(|| (0..2).map(|_| self.workload.keys()).collect());
            self.followers.push(Follower {
                next: self.random.between(first, newest),
                ranges,
                prev_kv: self.random.one_in(2),
                bytes_max: [1, 100, 1000][self.random.index(3)],
            });
        }
        for _ in 0..self.random.below(4) {
            if self.followers.is_empty() {
                return Ok(());
            }
            let chosen = self.random.index(self.followers.len());
            let follower = self.followers.swap_remove(chosen);
            self.follow_on(follower)?;
        }
        Ok(())
    }

    /// One chunk; who was overtaken by a compaction is told so, and is gone.
    fn follow_on(&mut self, follower: Follower) -> Checked {
        let newest = self.oracle.revision();
        let Follower {
            next,
            ranges,
            prev_kv,
            bytes_max,
        } = follower;
        if next > newest {
            self.followers.push(Follower {
                next,
                ranges,
                prev_kv,
                bytes_max,
            });
            return Ok(());
        }
        let set = ranges.clone().map(|ranges| Arc::new(RangeSet::new(ranges)));
        let found = self.node.events(EventsRequest {
            from: next,
            to: newest,
            ranges: set,
            prev_kv,
            bytes_max,
            pin: None,
        });
        if next < self.oracle.compact_revision() {
            self.counts.overtaken += 1;
            let refused = found.map(|chunk| chunk.next);
            return equal("overtaken", &refused, &Err(CommandError::Compacted));
        }
        let chunk = found.map_err(|error| format!("following from {next}: {error:?}"))?;
        if chunk.next <= next {
            return Err(format!("a follower stands still at {next}"));
        }
        let to = chunk.next - 1;
        let expected = self
            .oracle
            .events(next, to.min(newest), ranges.as_deref(), prev_kv);
        self.counts.followed += expected.len() as u64;
        equal("followed events", &chunk.events, &expected)?;
        self.followers.push(Follower {
            next: chunk.next,
            ranges,
            prev_kv,
            bytes_max,
        });
        Ok(())
    }
}
