//! How much of its time a core works.
//!
//! Knows no clock: the readings come in as arguments, except for those at the beginning.

use std::cell::Cell;
use std::time::Duration;

use crate::driver::{Driver, DriverKind};
use crate::time::Timestamp;

/// See [`crate::World::busy_nanos`].
///
/// Invariant: `busy_nanos` never goes back, and grows by no more than the time between two calls, whatever the
/// granularity of the clocks.
#[derive(Default)]
pub(crate) struct Load {
    parked_nanos: Cell<u64>,
    busy_nanos: Cell<u64>,
    last: Cell<Reading>,
}

/// What the clocks showed when somebody asked.
#[derive(Clone, Copy, Default)]
struct Reading {
    now: Timestamp,
    parked_nanos: u64,
    processor_nanos: u64,
}

impl Load {
    /// Counts from here on. A simulated core has no load, and no look at its clock is spent on it.
    pub(crate) fn new(driver: &dyn Driver) -> Load {
        let load = Load::default();
        if driver.kind() != DriverKind::Simulated {
            load.last.set(Reading {
                now: driver.now(),
                parked_nanos: 0,
                processor_nanos: driver.processor_nanos(),
            });
        }
        load
    }

    /// The core was parked for so long.
    pub(crate) fn parked(&self, time: Duration) {
        let nanos = time.as_nanos() as u64;
        self.parked_nanos.set(self.parked_nanos.get() + nanos);
    }

    /// Working time so far, given the clocks.
    pub(crate) fn busy_nanos(&self, now: Timestamp, processor_nanos: u64) -> u64 {
        let reading = Reading {
            now,
            parked_nanos: self.parked_nanos.get(),
            processor_nanos,
        };
        let last = self.last.replace(reading);
        let passed = now.since(last.now).as_nanos() as u64;
        let outside = passed.saturating_sub(reading.parked_nanos - last.parked_nanos);
        let used = processor_nanos.saturating_sub(last.processor_nanos);
        let busy = self.busy_nanos.get() + outside.max(used).min(passed);
        self.busy_nanos.set(busy);
        busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_figure_of_each_stretch_counts() {
        let load = Load::default();
        // Worked for 30 of 100 and was never held up.
        load.parked(Duration::from_nanos(70));
        assert_eq!(load.busy_nanos(Timestamp(100), 30), 30);
        // Another 40 outside of parking, 20 of them without a processor.
        load.parked(Duration::from_nanos(60));
        assert_eq!(load.busy_nanos(Timestamp(200), 50), 70);
        // Parked all the time, and used half of it.
        load.parked(Duration::from_nanos(100));
        assert_eq!(load.busy_nanos(Timestamp(300), 100), 120);
        // A coarse clock of processor time adds no more than there was.
        assert_eq!(load.busy_nanos(Timestamp(310), 10_000), 130);
        assert_eq!(load.busy_nanos(Timestamp(310), 10_000), 130);
    }
}
