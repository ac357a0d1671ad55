//! What became of the calls of a load.

use std::collections::BTreeMap;
use std::time::Duration;

/// Latencies and errors.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    seconds: Vec<f64>,
    /// How often which error came.
    pub(super) errors: BTreeMap<String, u64>,
}

impl Statistics {
    /// A call that succeeded.
    pub(super) fn succeeded(&mut self, took: Duration) {
        self.seconds.push(took.as_secs_f64());
    }

    /// A call that failed.
    pub(super) fn failed(&mut self, error: String) {
        *self.errors.entry(error).or_default() += 1;
    }

    /// Successes.
    pub(super) fn count(&self) -> usize {
        self.seconds.len()
    }

    /// The longest call in seconds.
    pub(super) fn slowest(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }

    /// The standard deviation of the calls in seconds.
    pub(super) fn deviation(&self) -> f64 {
        let count = self.seconds.len().max(1) as f64;
        let mean = self.seconds.iter().sum::<f64>() / count;
        let squares: f64 = self
            .seconds
            .iter()
            .map(|seconds| (seconds - mean).powi(2))
            .sum();
        (squares / count).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let mut statistics = Statistics::default();
        assert_eq!((statistics.slowest(), statistics.deviation()), (0.0, 0.0));
        for millis in [100, 300] {
            statistics.succeeded(Duration::from_millis(millis));
        }
        statistics.failed("late".to_owned());
        statistics.failed("late".to_owned());
        assert_eq!(statistics.count(), 2);
        assert!((statistics.slowest() - 0.3).abs() < 1e-9);
        assert!((statistics.deviation() - 0.1).abs() < 1e-9);
        assert_eq!(statistics.errors["late"], 2);
    }
}
