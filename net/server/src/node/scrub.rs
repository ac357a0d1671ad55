//! Scrub of a member: everything that it stores is read once in an interval, so that damage is found while
//! there are still copies elsewhere.
//!
//! Damage is logged with file and offset and told by `Status` until a whole round no longer meets it. It
//! refuses nobody anything: requests that need the damaged bytes fail, all others go on. The scrub reads
//! at most a tenth of the time, and pauses as long as the size of the store and the interval allow.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use engine::shard::Damage;
use reactor::Timestamp;

use super::{Home, State};
use crate::cores::HOME;
use crate::cores::call::{Call, Response};
use crate::shards::Scrubbed;

/// Steps of the clock in one interval.
const TICKS_PER_INTERVAL: u32 = 256;
const TICK_MIN: Duration = Duration::from_millis(10);
const TICK_MAX: Duration = Duration::from_secs(60);
/// A step that took long is followed by a pause so many times longer.
const PAUSE_PER_READ: u32 = 9;
/// A step of a small store costs no more than this part of the interval.
const STEPS_PER_INTERVAL_MIN: u32 = 24;
/// Damaged places that are remembered.
const PLACES_MAX: usize = 1024;

/// What the scrub has found.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    /// Damaged places of the last whole round, by file and offset.
    found_last: RefCell<BTreeSet<(String, u64)>>,
    /// Those of the round under way.
    found_now: RefCell<BTreeSet<(String, u64)>>,
}

/// A round under way.
struct Round {
    began: Timestamp,
    bytes: u64,
    first_shard: u16,
    shards_done: u16,
}

/// Time that may be spent: each tick earns, each byte costs.
///
/// Invariant: never further from zero than a step of the smallest store or a few ticks.
struct Budget {
    interval: Duration,
    tick: Duration,
    nanos: i128,
}

impl Budget {
    fn new(interval: Duration) -> Budget {
        let tick = (interval / TICKS_PER_INTERVAL).clamp(TICK_MIN, TICK_MAX);
        Budget {
            interval,
            tick,
            nanos: 0,
        }
    }

    fn earn(&mut self) {
        let tick = self.tick.as_nanos() as i128;
        self.nanos = (self.nanos + tick).min(4 * tick);
    }

    /// Pays for `bytes` of a store of `of_bytes`.
    fn spend(&mut self, bytes: u64, of_bytes: u64) {
        let interval = self.interval.as_nanos() as i128;
        let cost = interval * i128::from(bytes) / i128::from(of_bytes.max(1));
        let most = interval / i128::from(STEPS_PER_INTERVAL_MIN);
        self.nanos -= cost.min(most);
    }

    fn is_spent(&self) -> bool {
        self.nanos <= 0
    }
}

impl Home {
    /// The scrub's task.
    pub(super) async fn run_scrub(&self) {
        if self.0.options.scrub_interval.is_zero() {
            return;
        }
        let mut budget = Budget::new(self.0.options.scrub_interval);
        let mut round = self.next_scrub_round();
        while self.state() <= State::Serving {
            self.0.world.sleep(budget.tick).await;
            budget.earn();
            while self.state() == State::Serving && !budget.is_spent() {
                if !self.scrub_step(&mut round, &mut budget).await {
                    break;
                }
            }
        }
    }

    /// Each life begins with another shard, so that all have their turn where lives are short.
    fn next_scrub_round(&self) -> Round {
        let shards = u64::from(self.0.shards.count());
        Round {
            began: self.0.world.now(),
            bytes: 0,
            first_shard: (self.0.world.random_u64() % shards) as u16,
            shards_done: 0,
        }
    }

    /// Does a step; whether another one may follow in this tick.
    async fn scrub_step(&self, round: &mut Round, budget: &mut Budget) -> bool {
        let shards = self.0.shards.count();
        let shard = (round.first_shard + round.shards_done) % shards;
        let began = self.0.world.now();
        let (bytes, damage) = match self.scrub_shard(shard).await {
            Scrubbed::Read { bytes, damage } => (bytes, damage),
            Scrubbed::Through => {
                round.shards_done += 1;
                if round.shards_done < shards {
                    return true;
                }
                let ended = std::mem::replace(round, self.next_scrub_round());
                self.end_scrub_round(&ended);
                return false;
            }
            Scrubbed::Crowded | Scrubbed::Elsewhere | Scrubbed::Ended => return false,
        };
        round.bytes += bytes;
        budget.spend(bytes, self.sizes().bytes);
        if let Some(damage) = damage {
            self.note_scrub_damage(&damage);
        }
        let took = self.0.world.now().since(began);
        self.0.world.sleep(took * PAUSE_PER_READ).await;
        true
    }

    /// A step of `shard`, wherever it lives.
    async fn scrub_shard(&self, shard: u16) -> Scrubbed {
        match self.0.board.owner(shard) {
            HOME => self.0.shards.scrub(shard).await,
            core => match self.call(core, Call::Scrub { shard }).await {
                Some(Response::Scrubbed(scrubbed)) => scrubbed,
                Some(_) => unreachable!("a scrub is answered by what was found"),
                None => Scrubbed::Ended,
            },
        }
    }

    fn note_scrub_damage(&self, damage: &Damage) {
        let mut found = self.parts.scrub.found_now.borrow_mut();
        let place = (damage.file.clone(), damage.offset);
        if found.len() >= PLACES_MAX || !found.insert(place) {
            return;
        }
        self.0.logger.error(
            "stored data is damaged; only requests that need it fail",
            &[
                ("file", damage.file.as_str().into()),
                ("offset", damage.offset.into()),
                ("error", damage.what.as_str().into()),
            ],
        );
    }

    fn end_scrub_round(&self, round: &Round) {
        let found = self.parts.scrub.found_now.take();
        if round.bytes > 0 {
            let took = self.0.world.now().since(round.began);
            let fields = [
                ("bytes", round.bytes.into()),
                ("seconds", took.as_secs_f64().into()),
                ("damaged", found.len().into()),
            ];
            self.0.logger.info("scrub ends", &fields);
        }
        *self.parts.scrub.found_last.borrow_mut() = found;
    }

    /// Places with damaged bytes that the scrub knows of.
    pub(super) fn damaged_places(&self) -> usize {
        let now = self.parts.scrub.found_now.borrow().len();
        now.max(self.parts.scrub.found_last.borrow().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks until a store of `store` bytes was read in pieces of `piece`.
    fn ticks(interval: Duration, store: u64, piece: u64) -> u64 {
        let mut budget = Budget::new(interval);
        let (mut ticks, mut read) = (0, 0);
        while read < store {
            ticks += 1;
            budget.earn();
            while !budget.is_spent() && read < store {
                budget.spend(piece, store);
                read += piece;
            }
        }
        ticks
    }

    #[test]
    fn a_round_takes_about_the_interval_and_a_small_store_less() {
        let day = Duration::from_secs(24 * 3600);
        let minutes = ticks(day, 15 << 30, 128 << 10);
        assert!((1430..=1450).contains(&minutes), "{minutes}");
        let minutes = ticks(day, 1 << 20, 16 << 10);
        assert!((1300..=1450).contains(&minutes), "{minutes}");
        let minutes = ticks(day, 100, 100);
        assert!(minutes <= 61, "{minutes}");
        let short = ticks(Duration::from_secs(1), 1 << 20, 16 << 10);
        assert!((90..=110).contains(&short), "{short}");
    }
}
