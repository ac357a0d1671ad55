//! What the background work of `compaction` sees of a store.

use bytes::Bytes;

use super::{EVICTED_PER_POLL, Store};
use crate::compaction::{self, HashPart, HashRequest, Maintained, Parts, ScrubTarget, Scrubbed};
use crate::shard::Damage;
use crate::step::{Need, Step, ready};

impl Store {
    /// Does a slice of background work. After a `Need` call again; nothing was changed then.
    pub fn maintain(&mut self, percent: u64) -> Step<Maintained> {
        self.pages.shrink(EVICTED_PER_POLL);
        let parts = &mut Parts {
            tree: &mut self.tree,
            pages: &mut self.pages,
            log: &mut self.log,
            event_hashes: &mut self.event_hashes,
        };
        let pass_is_due = !self.pass.is_done();
        if pass_is_due && self.pass_turn {
            ready!(self.pass.slice(parts));
            self.pass_turn = false;
            return Step::Ready(Maintained::Working);
        }
        let floor = self.pass.floor();
        let left = ready!(self.collector.slice(parts, floor, percent));
        self.pass_turn = true;
        Step::Ready(match pass_is_due {
            true => Maintained::Working,
            false => left,
        })
    }

    /// As [`Store::maintain`], but leaves all records where they are.
    pub(crate) fn maintain_still(&mut self) -> Step<Maintained> {
        self.pages.shrink(EVICTED_PER_POLL);
        if self.pass.is_done() {
            return Step::Ready(Maintained::Idle);
        }
        self.pass_turn = true;
        ready!(self.pass.slice(&mut Parts {
            tree: &mut self.tree,
            pages: &mut self.pages,
            log: &mut self.log,
            event_hashes: &mut self.event_hashes,
        }));
        Step::Ready(Maintained::Working)
    }

    /// Leaves alone what the background work needs and cannot get.
    pub(crate) fn maintain_without(&mut self, need: &Need) {
        if self.pass.is_done() || !self.pass_turn {
            self.collector.skip();
            return;
        }
        self.pass.skip(match *need {
            Need::Page(_) => None,
            Need::Bytes {
                segment, offset, ..
            } => self.log.last_of_piece(segment, offset),
        });
    }

    /// A slice of the hash of what is readable.
    pub(crate) fn hash(&mut self, request: &HashRequest) -> Step<HashPart> {
        compaction::hash_slice(&mut self.tree, &mut self.pages, request)
    }

    fn scrubbed(&mut self) -> (&mut compaction::Scrubber, Scrubbed<'_>) {
        let parts = Scrubbed {
            tree: &mut self.tree,
            leases: &mut self.leases,
            pages: &mut self.pages,
            log: &self.log,
            shard: self.shard,
        };
        (&mut self.scrubber, parts)
    }

    /// What to check next for damage.
    pub(crate) fn scrub_next(&mut self) -> Step<Option<ScrubTarget>> {
        let (scrubber, mut parts) = self.scrubbed();
        scrubber.next(&mut parts)
    }

    /// Checks what was read for a scrub target.
    pub(crate) fn scrub_check(&mut self, target: &ScrubTarget, bytes: &Bytes) -> Option<Damage> {
        let (scrubber, mut parts) = self.scrubbed();
        scrubber.check(&mut parts, target, bytes)
    }

    /// Goes on with the next part of the round.
    pub(crate) fn scrub_without(&mut self) {
        self.scrubber.skip();
    }
}
