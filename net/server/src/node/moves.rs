//! Moves of shards between cores. Home decides and carries them, one at a time.
//!
//! ```text
//! Prepare ─► (owner: reads end) ─► hold its requests ─► nothing under way ─► Give ─► (owner: files detached)
//!                                            └─► Take ─► (new owner: files attached, board) ─► release
//! ```
//!
//! Changes wait only while the shard is held. One whose reads or files do not come to rest in time stays.
//!
//! No checkpoint begins while a shard travels, and no shard leaves while a checkpoint is under way: whatever
//! is told to all shards at once meets each of them somewhere.

use std::cell::Cell;
use std::time::Duration;

use reactor::Timestamp;

use super::{Home, State};
use crate::cores::HOME;
use crate::cores::call::{Call, Response};
use crate::cores::placement::{ByLoad, IDLE_INTERVAL, Placement, SAMPLE_INTERVAL, Sample, spread};
use crate::shards::TravellingShard;

/// How often a core tells how much it works while it has something to do for the member.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);
/// How long a move is put off that cannot begin now.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long moves go before checkpoints, after one has ended.
const PRECEDENCE: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Moves {
    under_way: Cell<bool>,
    /// Since when shards could move but for a checkpoint that begins: one that can wait lets them for a while.
    wanted_since: Cell<Option<Timestamp>>,
    done: Cell<u64>,
}

impl Moves {
    /// Whether a checkpoint that can wait should. Never for long: a shard that does not come to rest must not
    /// keep the log from being cut.
    pub(super) fn come_first(&self, now: Timestamp) -> bool {
        let since = self.wanted_since.get();
        since.is_some_and(|since| now.since(since) < PRECEDENCE)
    }

    /// Whether a shard is travelling.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.get()
    }
}

impl Home {
    /// Moves `shard` to `core`, and returns when it is there. False if it was there already, or cannot move
    /// now: the member does not serve, another shard travels, a checkpoint is under way, or the shard does not
    /// come to rest.
    ///
    /// # Panics
    /// If there is no such core.
    pub async fn move_shard(&self, shard: u16, core: u16) -> bool {
        assert!(core < self.0.board.cores(), "core {core}");
        let from = self.0.board.owner(shard);
        let moves = &self.parts.moves;
        if from == core
            || moves.is_under_way()
            || self.state() != State::Serving
            || self.checkpoint_is_under_way()
        {
            return false;
        }
        moves.under_way.set(true);
        let moved = self.carry(shard, from, core).await;
        moves.under_way.set(false);
        // A checkpoint may have had to wait, and a stop for it.
        self.0.shards.wake_background();
        self.0.changed.notify();
        self.0.work.raise();
        moved
    }

    async fn carry(&self, shard: u16, from: u16, core: u16) -> bool {
        let is_prepared = match from {
            HOME => self.0.shards.prepare(shard).await,
            _ => {
                let prepared = self.call(from, Call::Prepare { shard }).await;
                matches!(prepared, Some(Response::Prepared(true)))
            }
        };
        if !is_prepared {
            return false;
        }
        let moves = &self.parts.moves;
        self.parts.dispatch.hold(shard).await;
        if let Some(travelling) = self.fetch_shard(shard, from).await
            && self.bring_shard(travelling, core).await
        {
            self.parts.dispatch.release(shard);
            moves.done.set(moves.done.get() + 1);
        }
        true
    }

    /// Where `shard` lives.
    pub fn owner(&self, shard: u16) -> u16 {
        self.0.board.owner(shard)
    }

    /// Moves that were done in this life.
    pub fn moves(&self) -> u64 {
        self.parts.moves.done.get()
    }

    /// Nothing if the core is gone, and the member with it.
    async fn fetch_shard(&self, shard: u16, from: u16) -> Option<Box<TravellingShard>> {
        if from == HOME {
            return Some(self.0.shards.give(shard).await);
        }
        match self.call(from, Call::Give { shard }).await? {
            Response::Given(travelling) => Some(travelling),
            _ => unreachable!("a shard is given when it is asked for"),
        }
    }

    async fn bring_shard(&self, travelling: Box<TravellingShard>, to: u16) -> bool {
        if to == HOME {
            self.0.shards.take(travelling);
            return true;
        }
        self.call(to, Call::Take(travelling)).await.is_some()
    }

    /// The task that places the shards.
    pub(super) async fn run_placement(&self) {
        if self.0.board.cores() == 1 {
            return;
        }
        self.reached(State::Serving).await;
        match self.0.options.placement {
            Placement::Gathered => {}
            Placement::Spread => self.place(true).await,
            Placement::ByLoad => self.place_by_load().await,
            Placement::Random { pause_max } => self.place_at_random(pause_max).await,
        }
    }

    /// Moves every shard to where it belongs.
    async fn place(&self, spread_out: bool) {
        self.want_moves();
        for shard in 0..self.0.shards.count() {
            let core = match spread_out {
                true => spread(shard, self.0.board.cores()),
                false => HOME,
            };
            while self.state() <= State::Serving && self.0.board.owner(shard) != core {
                if self.checkpoint_is_under_way() {
                    self.want_moves();
                }
                if !self.move_shard(shard, core).await {
                    self.0.world.sleep(RETRY_PAUSE).await;
                }
            }
        }
        self.parts.moves.wanted_since.set(None);
        // A checkpoint may have waited.
        self.0.shards.wake_background();
    }

    fn want_moves(&self) {
        let now = self.0.world.now();
        self.parts.moves.wanted_since.set(Some(now));
    }

    async fn place_by_load(&self) {
        let mut by_load = ByLoad::default();
        let mut is_spread = false;
        let mut seen = (self.0.world.now(), self.busy_nanos());
        let mut pause = IDLE_INTERVAL;
        while self.state() == State::Serving {
            self.0.world.sleep(pause).await;
            let now = (self.0.world.now(), self.busy_nanos());
            let sample = Sample {
                time: now.0.since(seen.0),
                home_nanos: now.1.0 - seen.1.0,
                all_nanos: now.1.1 - seen.1.1,
            };
            seen = now;
            pause = match sample.is_idle() && !is_spread {
                true => IDLE_INTERVAL,
                false => SAMPLE_INTERVAL,
            };
            let spread_out = by_load.sample(sample);
            if spread_out != is_spread {
                is_spread = spread_out;
                let message = match spread_out {
                    true => "the shards are spread over the cores",
                    false => "the shards are gathered on the first core",
                };
                self.place(spread_out).await;
                self.0.logger.info(message, &[]);
            }
        }
    }

    /// Work of home, and of all cores, since they started.
    fn busy_nanos(&self) -> (u64, u64) {
        let home = self.0.world.busy_nanos();
        let others = self.0.links.others();
        let others: u64 = others
            .map(|core| self.0.board.core(core).busy_nanos())
            .sum();
        (home, home + others)
    }

    async fn place_at_random(&self, pause_max: Duration) {
        let most = (pause_max.as_nanos() as u64).max(1);
        while self.state() == State::Serving {
            let pause = Duration::from_nanos(self.0.world.random_u64() % most);
            self.0.world.sleep(pause).await;
            let shard = self.0.world.random_u64() % u64::from(self.0.shards.count());
            let core = self.0.world.random_u64() % u64::from(self.0.board.cores());
            self.move_shard(shard as u16, core as u16).await;
        }
    }
}

impl super::Node {
    /// The task that tells home how much this core works, while shards live or connections are served here.
    pub(super) async fn run_report(&self) {
        while self.state() < State::Stopped {
            self.0.load.wait().await;
            let gauges = self.0.board.core(self.0.core);
            while self.state() < State::Stopped
                && (self.0.shards.is_populated() || gauges.connections() > 0)
            {
                gauges.set_busy_nanos(self.0.world.busy_nanos());
                self.0.world.sleep(REPORT_INTERVAL).await;
            }
            gauges.set_busy_nanos(self.0.world.busy_nanos());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_that_never_come_about_hold_no_checkpoint_up_for_long() {
        let moves = Moves::default();
        let at = |millis: u64| Timestamp(millis * 1_000_000);
        assert!(!moves.come_first(at(5)), "nothing is to move");
        moves.wanted_since.set(Some(at(1000)));
        assert!(moves.come_first(at(1000)));
        assert!(moves.come_first(at(1199)));
        assert!(!moves.come_first(at(1200)));
        assert!(!moves.come_first(at(60_000)));
    }
}
