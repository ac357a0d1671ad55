//! Counters, gauges and histograms that one core writes and every core may read.
//!
//! A write is a relaxed load and a relaxed store, which cost what plain memory costs: no other core writes the same
//! word, so nothing is lost between the two. Whoever reads sees each word as it was a moment ago; the words of one
//! histogram may be a few observations apart.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows. One core writes it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(count), Ordering::Relaxed);
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes both ways. One core writes it.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Now it is `value`.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that only grows and that any core may write. Not for what every request touches.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The buckets of a histogram.
#[derive(Debug)]
pub struct Bounds {
    /// Largest value of each bucket, ascending; above the last there is one more bucket.
    pub upper: &'static [u64],
    /// What one unit of the metric is in these values.
    pub per_unit: u64,
}

/// Bounds that double, from `first` on.
pub const fn doubling<const COUNT: usize>(first: u64) -> [u64; COUNT] {
    let mut bounds = [first; COUNT];
    let mut at = 1;
    while at < COUNT {
        bounds[at] = 2 * bounds[at - 1];
        at += 1;
    }
    bounds
}

/// How often values fell into which bucket. One core writes it.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Without observations.
    pub fn new(bounds: &'static Bounds) -> Histogram {
        let counts = (0..=bounds.upper.len()).map(|_| AtomicU64::new(0));
        Histogram {
            bounds,
            counts: counts.collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Takes in a value.
    pub fn observe(&self, value: u64) {
        self.observe_times(value, 1);
    }

    /// Takes in a value that was met `times` times.
    pub fn observe_times(&self, value: u64, times: u64) {
        let bucket = self.bounds.upper.partition_point(|bound| *bound < value);
        for (word, add) in [
            (&self.counts[bucket], times),
            (&self.sum, value.saturating_mul(times)),
        ] {
            let before = word.load(Ordering::Relaxed);
            word.store(before.wrapping_add(add), Ordering::Relaxed);
        }
    }

    /// Takes in a time, where values are nanoseconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What it holds.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::empty(self.bounds);
        snapshot.add(self);
        snapshot
    }
}

/// What one histogram holds, or several of the same bounds together.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its buckets.
    pub bounds: &'static Bounds,
    /// By bucket, one more than there are bounds.
    pub counts: Vec<u64>,
    /// Of all values.
    pub sum: u64,
}

impl Snapshot {
    /// Of no histogram.
    pub fn empty(bounds: &'static Bounds) -> Snapshot {
        Snapshot {
            bounds,
            counts: vec![0; bounds.upper.len() + 1],
            sum: 0,
        }
    }

    /// What several histograms hold together.
    pub fn of_all<'a>(
        bounds: &'static Bounds,
        histograms: impl Iterator<Item = &'a Histogram>,
    ) -> Snapshot {
        let mut snapshot = Snapshot::empty(bounds);
        histograms.for_each(|histogram| snapshot.add(histogram));
        snapshot
    }

    /// Takes in another histogram of the same bounds.
    pub fn add(&mut self, other: &Histogram) {
        assert!(
            std::ptr::eq(self.bounds, other.bounds),
            "histograms of different bounds have no sum"
        );
        for (count, word) in self.counts.iter_mut().zip(&other.counts) {
            *count += word.load(Ordering::Relaxed);
        }
        self.sum = self.sum.wrapping_add(other.sum.load(Ordering::Relaxed));
    }

    /// Observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TENS: Bounds = Bounds {
        upper: &[10, 20, 40],
        per_unit: 1,
    };

    #[test]
    fn a_value_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let check = |value: u64, bucket: usize| {
            let histogram = Histogram::new(&TENS);
            histogram.observe(value);
            let snapshot = histogram.snapshot();
            let mut expected = vec![0; 4];
            expected[bucket] = 1;
            assert_eq!(snapshot.counts, expected, "{value}");
            assert_eq!(snapshot.sum, value);
        };
        check(0, 0);
        check(10, 0);
        check(11, 1);
        check(20, 1);
        check(40, 2);
        check(41, 3);
    }

    #[test]
    fn histograms_of_cores_add_up() {
        let (one, other) = (Histogram::new(&TENS), Histogram::new(&TENS));
        one.observe_times(5, 3);
        other.observe(30);
        other.observe(99);
        let both = Snapshot::of_all(&TENS, [&one, &other].into_iter());
        assert_eq!(both.counts, [3, 0, 1, 1]);
        assert_eq!((both.count(), both.sum), (5, 144));
    }

    #[test]
    fn bounds_double() {
        assert_eq!(doubling::<4>(125), [125, 250, 500, 1000]);
    }
}
