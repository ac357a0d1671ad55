//! Upkeep of a member's store: who gets the core when, and when freed space is worth a checkpoint.
//!
//! Each core keeps up the shards that live on it; home looks at what all of them show on the board. Runs in
//! the background class, a slice at a time. While requests come in it takes a twentieth of the core, and more
//! the more dead bytes there are beside the live ones, up to two fifths of it; otherwise all that is left. What is freed goes from the
//! disk with the next checkpoint, so a member where nothing else asks for one makes one for it.

use std::cell::Cell;
use std::time::Duration;

use engine::compaction::{
    COLLECT_BELOW_PERCENT, COLLECT_ON_DEMAND_PERCENT, COLLECT_UNDER_PRESSURE_PERCENT,
};
use engine::store::Sizes;
use reactor::Timestamp;

use super::{Home, Node, State, WriteError};
use crate::cores::HOME;
use crate::cores::call::{Call, Notice};
use crate::shards::Upkept;

/// What upkeep takes of a busy core, in percent: so much for each time that the dead bytes are as many as the live ones,
/// and at most.
const SHARE_MIN: u32 = 5;
const SHARE_MAX: u32 = 40;
/// With so many times the live bytes dead, what is collected is worth more than what it costs.
const DEAD_TIMES_MAX: u64 = 4;
/// What a slice is taken for at least.
const SLICE_MIN: Duration = Duration::from_micros(50);
/// Checkpoints for the sake of space keep this distance from the one before.
const RECLAIM_INTERVAL: Duration = Duration::from_secs(5);
/// A collection that goes on is worth a checkpoint when it may free so many times the least worth one.
const RECLAIM_MEANWHILE: u64 = 4;

/// What the upkeep of one core knows.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// Requests when it was last looked.
    requests_seen: Cell<u64>,
    /// Home was told that a checkpoint is due, and it has been since.
    told_due: Cell<bool>,
}

/// What the upkeep of all shards is doing, as home sees it.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    passing_since: Cell<Option<Timestamp>>,
    collecting_since: Cell<Option<Timestamp>>,
    /// A collection has ended after the last freeze.
    collected: Cell<bool>,
    last_freeze: Cell<Option<Timestamp>>,
    /// Somebody waits for the end of all passes.
    awaited: Cell<bool>,
}

impl Reclaim {
    /// A checkpoint begins: what comes free later needs another one.
    pub(super) fn frozen(&self, now: Timestamp) {
        self.last_freeze.set(Some(now));
        self.collected.set(false);
    }
}

impl Node {
    /// The task of this core's upkeep.
    pub(super) async fn run_upkeep(&self) {
        self.reached(State::Serving).await;
        loop {
            self.0.shards.upkeep_work().await;
            loop {
                let Some(worked) = self.upkeep_round().await else {
                    return;
                };
                self.show_upkeep();
                if !worked {
                    break;
                }
            }
        }
    }

    /// A slice of each shard that lives here, and whether one did something; none when the node ends.
    async fn upkeep_round(&self) -> Option<bool> {
        let mut worked = false;
        for shard in 0..self.0.shards.count() {
            if self.state() > State::Serving {
                return None;
            }
            if !self.0.shards.is_here(shard) {
                continue;
            }
            let sizes = self.sizes();
            let busy = self.is_busy();
            let percent = match self.0.board.visible.is_short_of_space() {
                true => COLLECT_ON_DEMAND_PERCENT,
                false => percent_at(sizes, busy),
            };
            let began = self.0.world.now();
            let upkept = self.0.shards.maintain(shard, percent);
            worked |= matches!(upkept, Upkept::Passing | Upkept::Collecting);
            let took = self.0.world.now().since(began);
            match pause_after(took, sizes, busy) {
                pause if pause > Duration::ZERO && worked => self.0.world.sleep(pause).await,
                _ => self.0.world.yield_now().await,
            }
        }
        Some(worked)
    }

    /// Whether a request came since the last call.
    fn is_busy(&self) -> bool {
        let requests = self.0.requests.get();
        self.0.upkeep.requests_seen.replace(requests) != requests
    }

    /// Logs damage, and has home look if something has begun or ended.
    fn show_upkeep(&self) {
        for damage in self.0.shards.take_upkeep_damage() {
            self.0.logger.error(
                "stored data is damaged; compaction and collection leave it alone",
                &[
                    ("file", damage.file.as_str().into()),
                    ("offset", damage.offset.into()),
                    ("error", damage.what.as_str().into()),
                ],
            );
        }
        self.tell_lacked_descriptors();
        let news = self.0.shards.take_upkeep_news();
        match self.home() {
            Some(home) => home.upkeep_changed(),
            None if news => self.0.links.tell(HOME, Notice::UpkeepChanged),
            None => {}
        }
    }

    /// Logs that files could not be created here.
    pub(super) fn tell_lacked_descriptors(&self) {
        match self.0.shards.take_lacked_descriptors() {
            0 => {}
            attempts => self.0.logger.error(
                "no file can be created: too many are open",
                &[("attempts", attempts.into())],
            ),
        }
    }

    /// On every core but home: tells home when a checkpoint becomes due by what was changed here.
    pub(super) fn tell_if_due(&self) {
        let is_due = self.dirty_is_due();
        if !self.0.upkeep.told_due.replace(is_due) && is_due {
            self.0.links.tell(HOME, Notice::Dirty);
        }
    }

    /// Sizes of all shards of the member together.
    pub(super) fn sizes(&self) -> Sizes {
        self.0.board.sizes(self.0.shards.count())
    }

    /// Waits until the passes of all compactions so far are through.
    ///
    /// # Errors
    /// `Stopped` when the node ends before.
    pub async fn compacted(&self) -> Result<(), WriteError> {
        match self.home() {
            Some(home) => home.passes_end().await,
            None => match self.call(HOME, Call::Compacted).await {
                Some(_) => Ok(()),
                None => Err(WriteError::Stopped),
            },
        }
    }
}

impl Home {
    /// Lets the upkeep of all cores look again.
    pub(super) fn wake_upkeep(&self) {
        self.0.shards.wake_upkeep();
        for core in self.0.links.others() {
            // Nobody wakes a core for nothing.
            if self.0.board.has_shards(core, self.0.shards.count()) {
                self.0.links.tell(core, Notice::Upkeep);
            }
        }
    }

    fn passes_are_done(&self) -> bool {
        self.0.board.passes_are_done(self.0.shards.count())
    }

    /// The upkeep of some shard has begun or ended something.
    pub(super) fn upkeep_changed(&self) {
        let now = self.0.world.now();
        let reclaim = &self.parts.reclaim;
        match (reclaim.passing_since.get(), self.passes_are_done()) {
            (None, false) => {
                reclaim.passing_since.set(Some(now));
                let revision = self.compact_revision();
                let fields = [("compact-revision", revision.into())];
                self.0.logger.info("compaction begins", &fields);
            }
            (Some(since), true) => {
                reclaim.passing_since.set(None);
                let metrics = &self.0.board.metrics.member;
                metrics.compactions.observe_time(now.since(since));
                metrics.compacted_at.set(self.0.world.unix_time().as_secs());
                let seconds = now.since(since).as_secs_f64();
                let fields = [("seconds", seconds.into())];
                self.0.logger.info("compaction ends", &fields);
            }
            _ => {}
        }
        if self.passes_are_done() && reclaim.awaited.replace(false) {
            self.0.changed.notify();
        }
        let collecting = self.0.board.is_collecting(self.0.shards.count());
        match reclaim.collecting_since.get() {
            None if collecting => {
                reclaim.collecting_since.set(Some(now));
                let fields = self.space_fields();
                self.0.logger.info("segment collection begins", &fields);
            }
            Some(since) if !collecting => {
                reclaim.collecting_since.set(None);
                reclaim.collected.set(true);
                let metrics = &self.0.board.metrics.member;
                metrics.collections.observe_time(now.since(since));
                let [bytes, in_use] = self.space_fields();
                let seconds = ("seconds", now.since(since).as_secs_f64().into());
                let fields = [bytes, in_use, seconds];
                self.0.logger.info("segment collection ends", &fields);
            }
            _ => {}
        }
        self.consider_reclaim();
    }

    fn space_fields(&self) -> [(&'static str, serde_json::Value); 2] {
        let sizes = self.sizes();
        [
            ("bytes", sizes.bytes.into()),
            ("bytes-in-use", sizes.bytes_in_use.into()),
        ]
    }

    /// Begins a checkpoint if a collection has freed enough that it is worth one.
    pub(super) fn consider_reclaim(&self) {
        let reclaim = &self.parts.reclaim;
        let now = self.0.world.now();
        let recently = |last: Timestamp| now.since(last) < RECLAIM_INTERVAL;
        if self.state() != State::Serving || reclaim.last_freeze.get().is_some_and(recently) {
            return;
        }
        let worth = match self.0.board.visible.is_short_of_space() {
            true => 1,
            false => self.0.options.checkpoints.reclaim_bytes,
        };
        // Of these only the emptied segments go; an emptied one is large, or the store is small.
        let freed = dead_bytes(self.sizes());
        let collecting = reclaim.collecting_since.get().is_some();
        if reclaim.collected.get() && freed >= worth
            || collecting && freed >= worth.saturating_mul(RECLAIM_MEANWHILE)
        {
            self.begin_checkpoint_for_space();
        }
    }

    async fn passes_end(&self) -> Result<(), WriteError> {
        let settled = || {
            let done = self.passes_are_done();
            if !done {
                self.parts.reclaim.awaited.set(true);
                self.wake_upkeep();
            }
            done || self.state() > State::Serving
        };
        self.0.changed.until(settled).await;
        match self.passes_are_done() {
            true => Ok(()),
            false => Err(WriteError::Stopped),
        }
    }
}

fn dead_bytes(sizes: Sizes) -> u64 {
    sizes.bytes.saturating_sub(sizes.bytes_in_use)
}

/// How little of a segment may live that it is emptied. While requests come it is worth waiting until nearly all of
/// it has died by itself: what lives has to be copied.
fn percent_at(sizes: Sizes, busy: bool) -> u64 {
    match busy && dead_bytes(sizes) / DEAD_TIMES_MAX < sizes.bytes_in_use {
        true => COLLECT_UNDER_PRESSURE_PERCENT,
        false => COLLECT_BELOW_PERCENT,
    }
}

/// How long others have the core after a slice.
fn pause_after(slice: Duration, sizes: Sizes, busy: bool) -> Duration {
    match busy {
        false => Duration::ZERO,
        true => {
            let percent = share(sizes);
            slice.max(SLICE_MIN) * (100 - percent) / percent
        }
    }
}

/// Percent of a busy core that upkeep takes: the more is dead beside what lives, the more of it.
fn share(sizes: Sizes) -> u32 {
    let live = sizes.bytes_in_use.max(1);
    let percent = dead_bytes(sizes).saturating_mul(SHARE_MIN.into()) / live;
    u32::try_from(percent)
        .unwrap_or(SHARE_MAX)
        .clamp(SHARE_MIN, SHARE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_first_and_upkeep_gets_more_the_more_is_dead() {
        let millisecond = Duration::from_millis(1);
        let sizes = |bytes, bytes_in_use| Sizes {
            bytes,
            bytes_in_use,
            keys: 0,
        };
        let share = |sizes, busy| {
            let pause = pause_after(millisecond, sizes, busy);
            millisecond.as_micros() * 100 / (millisecond + pause).as_micros()
        };
        assert_eq!(share(sizes(100, 60), false), 100);
        assert_eq!(share(sizes(100, 90), true), 5);
        assert_eq!(share(sizes(100, 50), true), 5);
        assert_eq!(share(sizes(100, 20), true), 20);
        assert_eq!(share(sizes(1000, 100), true), 40);
        assert_eq!(share(sizes(1000, 0), true), 40);
        assert_eq!(percent_at(sizes(100, 30), true), 20);
        assert_eq!(percent_at(sizes(100, 30), false), 50);
        assert_eq!(percent_at(sizes(100, 20), true), 50);
        assert!(pause_after(Duration::ZERO, sizes(1, 1), true) > Duration::ZERO);
    }
}
