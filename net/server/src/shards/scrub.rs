//! Reading what the shards have on the disk in search of damage, a page or a piece of events at a time.
//!
//! Never begun by itself: the node asks for each step and sets the pace. Bytes that look damaged are read once
//! more before anybody is told.

use std::rc::Rc;

use bytes::Bytes;
use engine::compaction::ScrubTarget;
use engine::image::ReadRequest;
use engine::shard::Damage;
use engine::step::{Need, Step};
use wal::io::IoFailure;

use super::{Host, Shards, Waiter};
use crate::local::{Responder, Waiting, one_shot};

/// A step gives up after so many loads on its way: the cache is too small for all who read now.
const LOADS_PER_STEP_MAX: usize = 32;

/// The load that the scrub of a shard waits for.
#[derive(Default)]
pub(super) struct Scrub {
    /// A step is under way.
    steps: bool,
    loaded: Option<Responder<Result<(), Damage>>>,
    /// What was damaged once.
    suspects: Option<Need>,
}

/// What a step of the scrub found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scrubbed {
    /// So many bytes were read, and this is wrong with them.
    Read {
        /// How many.
        bytes: u64,
        /// The first damage in them.
        damage: Option<Damage>,
    },
    /// The way to the next page did not stay in memory.
    Crowded,
    /// The shard does not live here, or is about to leave.
    Elsewhere,
    /// All of the shard was looked at; the next step begins anew.
    Through,
    /// The node ends.
    Ended,
}

impl Shards {
    /// Looks at what comes next in `shard`. One step at a time.
    pub async fn scrub(self: &Rc<Self>, shard: u16) -> Scrubbed {
        match self.host(shard) {
            Some(mut host) if !host.leaving => host.scrub.steps = true,
            _ => return Scrubbed::Elsewhere,
        }
        let scrubbed = self.scrub_step(shard).await;
        let mut host = self.busy_host(shard);
        host.scrub.steps = false;
        self.stir(&host);
        scrubbed
    }

    async fn scrub_step(self: &Rc<Self>, shard: u16) -> Scrubbed {
        for _ in 0..LOADS_PER_STEP_MAX {
            match self.next_target(shard) {
                Step::Ready(None) => return Scrubbed::Through,
                Step::Ready(Some(target)) => return self.scrub_target(shard, &target).await,
                Step::Need(need) => match self.load_for_scrub(shard, need).await {
                    Some(Ok(())) => {}
                    Some(Err(damage)) => {
                        self.busy_host(shard).shard.scrub_without();
                        let damage = Some(damage);
                        return Scrubbed::Read { bytes: 0, damage };
                    }
                    None => return Scrubbed::Ended,
                },
            }
        }
        Scrubbed::Crowded
    }

    fn next_target(&self, shard: u16) -> Step<Option<ScrubTarget>> {
        self.busy_host(shard).shard.scrub_next()
    }

    fn load_for_scrub(self: &Rc<Self>, shard: u16, need: Need) -> Waiting<Result<(), Damage>> {
        let (responder, waiting) = one_shot();
        let mut host = self.busy_host(shard);
        host.scrub.loaded = Some(responder);
        self.want(shard, &mut host, need, Waiter::Scrub);
        waiting
    }

    async fn scrub_target(self: &Rc<Self>, shard: u16, target: &ScrubTarget) -> Scrubbed {
        let read = self.busy_host(shard).shard.read_of(target.need());
        let bytes = read.len;
        let mut damage = self.scrub_read(shard, target, &read).await;
        if damage.is_some() {
            damage = self.scrub_read(shard, target, &read).await;
        }
        Scrubbed::Read { bytes, damage }
    }

    async fn scrub_read(
        self: &Rc<Self>,
        shard: u16,
        target: &ScrubTarget,
        read: &ReadRequest,
    ) -> Option<Damage> {
        let ReadRequest {
            file, offset, len, ..
        } = read;
        match self.disk.read(file, *offset, *len).await {
            Ok(bytes) => {
                let mut host = self.busy_host(shard);
                host.shard.scrub_check(target, &Bytes::from(bytes))
            }
            // Deleted since: a segment that was emptied.
            Err(IoFailure::NotFound) => None,
            Err(failure) => Some(Damage {
                file: file.path(),
                offset: *offset,
                what: format!("reading {len} bytes failed: {failure}"),
            }),
        }
    }
}

impl Scrub {
    pub(super) fn is_under_way(&self) -> bool {
        self.steps
    }
}

impl Host {
    /// The load for the scrub is done.
    pub(super) fn scrub_loaded(&mut self, need: Need, damage: Option<&Damage>, lost: bool) {
        self.scrub.suspects = damage.filter(|_| !lost).map(|_| need);
        let result = match damage.filter(|_| lost) {
            Some(damage) => Err(damage.clone()),
            None => Ok(()),
        };
        if let Some(responder) = self.scrub.loaded.take() {
            responder.answer(result);
        }
    }

    pub(super) fn scrub_suspects(&self) -> Option<Need> {
        self.scrub.suspects
    }
}
