//! Where shards and connections should be: a pure machine, fed with how much the cores work.
//!
//! A sleeping core costs tens of microseconds to wake, a hundred times a message to a core that is awake. So
//! while one core can carry the load everything is *gathered* at home and nothing crosses cores; once home is
//! busy the shards are *spread*, and they gather again when all cores together do little.

use std::time::Duration;

use super::HOME;

/// How the shards of a member are placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// As the load asks for.
    #[default]
    ByLoad,
    /// All at home.
    Gathered,
    /// Over all cores.
    Spread,
    /// Anywhere, and moved again and again after random pauses of up to so long: for tests.
    Random {
        /// The longest pause.
        pause_max: Duration,
    },
}

/// How often the load is looked at while there is some.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);
/// How often it is looked at while there is none.
pub const IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// Home is busy above this part of a sample, in percent.
const BUSY_PERCENT: u64 = 70;
/// So many busy samples in a row spread the shards.
const BUSY_SAMPLES: u32 = 2;
/// All cores together do little below this part of one core, in percent.
const QUIET_PERCENT: u64 = 40;
/// Doing little for so long gathers the shards.
const QUIET_TIME: Duration = Duration::from_secs(2);
/// No more than this part of a sample is work worth another look soon, in percent.
const IDLE_PERCENT: u64 = 5;

/// Where a shard belongs among `cores` cores when they are spread.
pub fn spread(shard: u16, cores: u16) -> u16 {
    shard % cores
}

/// The core for the next connection, by the connections that each has. Home counts as empty until it has a few,
/// so that what few clients ask for crosses no cores.
pub fn core_for_connection(connections: impl Iterator<Item = usize>) -> u16 {
    let weight = |(core, count): (usize, usize)| match core == usize::from(HOME) {
        true if count < HOME_CONNECTIONS_MIN => (0, core),
        _ => (count, core),
    };
    let least = connections.enumerate().map(weight).min();
    least.map_or(HOME, |(_, core)| core as u16)
}

/// Connections that home takes before another core gets one.
const HOME_CONNECTIONS_MIN: usize = 4;

/// Decides between gathered and spread.
///
/// Invariant: between two changes of mind lie at least [`BUSY_SAMPLES`] samples or [`QUIET_TIME`].
#[derive(Debug, Default)]
pub struct ByLoad {
    spread: bool,
    busy_samples: u32,
    quiet: Duration,
}

/// What one sample showed: nanoseconds of work in so long a time.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How long the sample took.
    pub time: Duration,
    /// Work of home.
    pub home_nanos: u64,
    /// Work of all cores together.
    pub all_nanos: u64,
}

impl Sample {
    fn percent(&self, nanos: u64) -> u64 {
        nanos.saturating_mul(100) / (self.time.as_nanos() as u64).max(1)
    }

    /// Whether so little happened that the next look may come later.
    pub fn is_idle(&self) -> bool {
        self.percent(self.all_nanos) <= IDLE_PERCENT
    }
}

impl ByLoad {
    /// Takes a sample; answers whether the shards should be spread.
    pub fn sample(&mut self, sample: Sample) -> bool {
        if self.spread {
            self.quiet = match sample.percent(sample.all_nanos) < QUIET_PERCENT {
                true => self.quiet + sample.time,
                false => Duration::ZERO,
            };
            if self.quiet >= QUIET_TIME {
                *self = ByLoad::default();
            }
        } else {
            self.busy_samples = match sample.percent(sample.home_nanos) > BUSY_PERCENT {
                true => self.busy_samples + 1,
                false => 0,
            };
            if self.busy_samples >= BUSY_SAMPLES {
                *self = ByLoad {
                    spread: true,
                    ..ByLoad::default()
                };
            }
        }
        self.spread
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Percent of home and of all cores together in each sample → spread after it.
    fn check(samples: &[(u64, u64)], expected: &[bool]) {
        let mut load = ByLoad::default();
        let time = SAMPLE_INTERVAL;
        let nanos = |percent| time.as_nanos() as u64 * percent / 100;
        let decide = |&(home, all)| {
            load.sample(Sample {
                time,
                home_nanos: nanos(home),
                all_nanos: nanos(all),
            })
        };
        let decided: Vec<bool> = samples.iter().map(decide).collect();
        assert_eq!(decided, expected);
    }

    #[test]
    fn two_busy_samples_in_a_row_spread() {
        check(
            &[(90, 90), (70, 70), (71, 71), (71, 71), (1, 50)],
            &[false, false, false, true, true],
        );
    }

    #[test]
    fn two_quiet_seconds_gather() {
        let mut samples = vec![(99, 99), (99, 99)];
        let mut expected = vec![false, true];
        samples.extend([(20, 39); 39]);
        expected.extend([true; 39]);
        // Together they are not quiet, whatever home is.
        samples.push((0, 40));
        expected.push(true);
        samples.extend([(20, 39); 40]);
        expected.extend([true; 39]);
        expected.push(false);
        check(&samples, &expected);
    }

    #[test]
    fn a_few_connections_stay_at_home() {
        let mut counts = [0; 3];
        let mut chosen = Vec::new();
        for _ in 0..12 {
            let core = core_for_connection(counts.into_iter());
            counts[usize::from(core)] += 1;
            chosen.push(core);
        }
        assert_eq!(chosen, [0, 0, 0, 0, 1, 2, 1, 2, 1, 2, 1, 2]);
        assert_eq!(core_for_connection([4, 4, 4].into_iter()), 0);
        assert_eq!(core_for_connection([9].into_iter()), 0);
    }
}
