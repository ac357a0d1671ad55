//! What happened when: calls in slices of time, and named spans to tell the slices apart by.
//!
//! A slice that a span touches belongs to that span; slices that no span touches are the control.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Longest latency in microseconds that is told apart from longer ones.
const LATENCY_MICROS_MAX: u64 = 600_000_000;
/// Two digits keep a slice below 12 KiB.
const LATENCY_DIGITS: u8 = 2;

/// Calls by the time at which they were due.
#[derive(Debug, Clone)]
pub struct Timeline {
    begin: Instant,
    slice: Duration,
    slices: Vec<Option<Histogram<u32>>>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new(Duration::from_millis(100))
    }
}

impl Timeline {
    /// Begins now.
    pub fn new(slice: Duration) -> Self {
        Self {
            begin: Instant::now(),
            slice: slice.max(Duration::from_millis(1)),
            slices: Vec::new(),
        }
    }

    /// Keeps one call.
    pub fn record(&mut self, due: Instant, latency: Duration) {
        let since = due.saturating_duration_since(self.begin);
        let index = (since.as_nanos() / self.slice.as_nanos()) as usize;
        if self.slices.len() <= index {
            self.slices.resize(index + 1, None);
        }
        let histogram = self.slices[index].get_or_insert_with(histogram);
        histogram.saturating_record((latency.as_micros() as u64).max(1));
    }

    /// The slices between `from` and `to` that `wanted` keeps, together.
    pub fn window(
        &self,
        from: Instant,
        to: Instant,
        mut wanted: impl FnMut(Span) -> bool,
    ) -> Window {
        let mut window = Window {
            seconds: 0.0,
            latencies: histogram(),
        };
        for (index, slice) in self.slices.iter().enumerate() {
            let begin = self.begin + self.slice * index as u32;
            let span = Span {
                begin,
                end: begin + self.slice,
            };
            if span.begin < from || span.end > to || !wanted(span) {
                continue;
            }
            window.seconds += self.slice.as_secs_f64();
            if let Some(slice) = slice {
                window.latencies.add(slice).ok();
            }
        }
        window
    }
}

fn histogram() -> Histogram<u32> {
    let bounds = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, LATENCY_DIGITS);
    bounds.expect("the constants are within the histogram's bounds")
}

/// Calls of some slices.
#[derive(Debug, Clone)]
pub struct Window {
    /// Length of all slices.
    pub seconds: f64,
    latencies: Histogram<u32>,
}

impl Window {
    /// Calls that ended well.
    pub fn operations(&self) -> u64 {
        self.latencies.len()
    }

    /// Calls per second; not a number without slices.
    pub fn rate(&self) -> f64 {
        self.operations() as f64 / self.seconds
    }

    /// A percentile of the latency in microseconds; not a number without calls.
    pub fn micros(&self, percentile: f64) -> f64 {
        if self.latencies.is_empty() {
            return f64::NAN;
        }
        self.latencies.value_at_percentile(percentile) as f64
    }
}

/// A span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first moment.
    pub begin: Instant,
    /// Its last moment.
    pub end: Instant,
}

impl Span {
    /// Whether both share a moment.
    pub fn touches(self, other: Span) -> bool {
        self.begin <= other.end && other.begin <= self.end
    }
}

/// A span of one of a server's background activities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Which activity.
    pub label: String,
    /// When.
    pub span: Span,
}

/// The control: what no mark touches.
pub fn is_control(marks: &[Mark], span: Span) -> bool {
    !marks.iter().any(|mark| mark.span.touches(span))
}

/// What marks with `label` touch.
pub fn is_marked(marks: &[Mark], label: &str, span: Span) -> bool {
    marks
        .iter()
        .any(|mark| mark.label == label && mark.span.touches(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn marked_slices_are_apart_from_the_control() {
        let mut timeline = Timeline::new(SECOND);
        let begin = timeline.begin;
        let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
        for second in 0..10u32 {
            let calls = if second == 4 { 2 } else { 10 };
            for _ in 0..calls {
                let latency = Duration::from_micros(if second == 4 { 900 } else { 100 });
                timeline.record(at(f64::from(second) + 0.5), latency);
            }
        }
        let marks = [Mark {
            label: "compaction".to_owned(),
            span: Span {
                begin: at(4.2),
                end: at(4.3),
            },
        }];
        let control = timeline.window(begin, at(10.0), |span| is_control(&marks, span));
        assert_eq!((control.operations(), control.seconds), (90, 9.0));
        assert_eq!(control.micros(99.0), 100.0);
        let marked = timeline.window(begin, at(10.0), |span| {
            is_marked(&marks, "compaction", span)
        });
        assert_eq!((marked.rate(), marked.seconds), (2.0, 1.0));
        assert!((marked.micros(50.0) - 900.0).abs() < 10.0);
        let other = timeline.window(begin, at(10.0), |span| is_marked(&marks, "gc", span));
        assert!(other.rate().is_nan() && other.micros(99.0).is_nan());
    }

    #[test]
    fn a_stall_leaves_empty_slices_that_count() {
        let mut timeline = Timeline::new(SECOND);
        let begin = timeline.begin;
        timeline.record(begin, SECOND);
        timeline.record(begin + 3 * SECOND, SECOND);
        let all = timeline.window(begin, begin + 4 * SECOND, |_| true);
        assert_eq!((all.operations(), all.seconds), (2, 4.0));
    }
}
