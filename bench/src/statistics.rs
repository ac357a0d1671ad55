//! The few statistics of a comparison.

use crate::random::Random;

/// Share of the resampled ratios inside the printed interval.
const CONFIDENCE: f64 = 0.95;
const RESAMPLES: usize = 10_000;
/// The same samples give the same interval.
const SEED: u64 = 0x51de_b751;

/// The middle of `samples`; the mean of the two middle ones when their number is even.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
    }
}

/// The smallest of `samples` that `percent` of them do not exceed.
pub fn percentile(samples: &[f64], percent: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// The mean that fits ratios: twice as much and half as much cancel out.
pub fn geometric_mean(samples: &[f64]) -> f64 {
    let logarithms: f64 = samples.iter().map(|sample| sample.ln()).sum();
    (logarithms / samples.len() as f64).exp()
}

/// A ratio with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The geometric mean over the rounds.
    pub mean: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
}

/// The mean of one ratio per round, with a bootstrap interval: rounds are drawn again with repetition.
pub fn bootstrap(rounds: &[f64]) -> Ratio {
    let mut random = Random::new(SEED);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sample: Vec<f64> = rounds
                .iter()
                .map(|_| rounds[random.below(rounds.len() as u64) as usize])
                .collect();
            geometric_mean(&sample)
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
    Ratio {
        mean: geometric_mean(rounds),
        low: at((1.0 - CONFIDENCE) / 2.0),
        high: at((1.0 + CONFIDENCE) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_means() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 50.0), 50.0);
        assert_eq!(percentile(&hundred, 99.0), 99.0);
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
        assert!(percentile(&[], 50.0).is_nan());
        assert!((geometric_mean(&[0.5, 2.0]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn an_interval_holds_its_mean_and_shrinks_to_it_without_scatter() {
        let ratio = bootstrap(&[2.0, 2.2, 1.9, 2.1, 2.05]);
        assert!(ratio.low < ratio.mean && ratio.mean < ratio.high);
        assert!(1.9 <= ratio.low && ratio.high <= 2.2);
        let exact = bootstrap(&[3.0; 5]);
        assert!((exact.high - exact.low).abs() < 1e-9);
    }
}
