//! Prometheus' text format, version 0.0.4.
//!
//! Written by hand: the libraries for it own the counters they print, behind locks or shared atomics, while ours belong
//! to the cores. The format itself is three kinds of lines.

use std::fmt::Write;

use super::instrument::{Bounds, Snapshot};

/// Value of the `content-type` header that goes with it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives.
    Counter,
    /// It goes both ways.
    Gauge,
    /// Counts by bucket.
    Histogram,
}

impl Kind {
    /// As a `# TYPE` line says it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A metric: all series of one name.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Names of the labels of every series, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// A number.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// Without a fraction.
    Whole(i128),
    /// With one.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        Value::Whole(value.into())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Whole(value.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Real(value)
    }
}

/// A page of metrics that grows.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// The series of one metric, while they are written.
pub struct Samples<'a> {
    text: &'a mut String,
    family: &'static Family,
}

impl Exposition {
    /// Begins a metric. Each may begin once.
    pub fn family(&mut self, family: &'static Family) -> Samples<'_> {
        let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        let (name, kind) = (family.name, family.kind.name());
        let text = &mut self.text;
        push(text, format_args!("# HELP {name} {help}\n"));
        push(text, format_args!("# TYPE {name} {kind}\n"));
        Samples { text, family }
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.text
    }
}

impl Samples<'_> {
    /// A series of a counter or a gauge.
    ///
    /// # Panics
    /// If there are not as many labels as the metric has.
    pub fn value(&mut self, labels: &[&str], value: impl Into<Value>) {
        self.series("", labels, None, value.into());
    }

    /// A series of a histogram.
    pub fn histogram(&mut self, labels: &[&str], snapshot: &Snapshot) {
        self.histogram_from(labels, snapshot, 0);
    }

    /// The same without its `first` lowest bounds: what they hold is shown by the next one.
    pub fn histogram_from(&mut self, labels: &[&str], snapshot: &Snapshot, first: usize) {
        let Bounds { upper, per_unit } = *snapshot.bounds;
        let mut count = 0;
        for (at, bound) in upper.iter().enumerate() {
            count += snapshot.counts[at];
            if at >= first {
                let bound = bound_text(*bound as f64 / per_unit as f64);
                self.series("_bucket", labels, Some(&bound), count.into());
            }
        }
        count += snapshot.counts[upper.len()];
        self.series("_bucket", labels, Some("+Inf"), count.into());
        let sum = match per_unit {
            1 => Value::from(snapshot.sum),
            per_unit => Value::Real(snapshot.sum as f64 / per_unit as f64),
        };
        self.series("_sum", labels, None, sum);
        self.series("_count", labels, None, count.into());
    }

    fn series(&mut self, suffix: &str, labels: &[&str], bound: Option<&str>, value: Value) {
        let Family {
            name,
            labels: names,
            ..
        } = self.family;
        assert_eq!(names.len(), labels.len(), "labels of {name}");
        self.text.push_str(name);
        self.text.push_str(suffix);
        let bound = bound.map(|bound| ("le", bound));
        let pairs = names.iter().copied().zip(labels.iter().copied());
        let mut open = '{';
        for (name, value) in pairs.chain(bound) {
            push(self.text, format_args!("{open}{name}=\""));
            push_escaped(self.text, value);
            self.text.push('"');
            open = ',';
        }
        if open == ',' {
            self.text.push('}');
        }
        match value {
            Value::Whole(value) => push(self.text, format_args!(" {value}\n")),
            Value::Real(value) => push(self.text, format_args!(" {value}\n")),
        }
    }
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    if text.write_fmt(what).is_err() {
        unreachable!("a string takes everything");
    }
}

fn push_escaped(text: &mut String, value: &str) {
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

/// A bound as etcd's library writes it, so that series of both can be added by their label: with an exponent from a
/// million on.
fn bound_text(bound: f64) -> String {
    if bound < 1e6 {
        return bound.to_string();
    }
    let text = format!("{bound:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => format!("{digits}e+{exponent:0>2}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::instrument::Histogram;
    use super::*;

    static PLAIN: Family = Family {
        name: "plain",
        kind: Kind::Gauge,
        labels: &[],
        help: "One \\ two\nthree.",
    };
    static LABELLED: Family = Family {
        name: "labelled_total",
        kind: Kind::Counter,
        labels: &["kind", "place"],
        help: "Things.",
    };
    static TIMES: Family = Family {
        name: "times_seconds",
        kind: Kind::Histogram,
        labels: &["op"],
        help: "Times.",
    };
    static BOUNDS: Bounds = Bounds {
        upper: &[500, 1000, 2_000_000_000],
        per_unit: 1000,
    };

    #[test]
    fn values_stand_behind_their_help_and_type() {
        let mut page = Exposition::default();
        page.family(&PLAIN).value(&[], -1_i64);
        let mut samples = page.family(&LABELLED);
        samples.value(&["a", "b"], u64::MAX);
        samples.value(&["quo\"te", "back\\slash\nline"], 0.25);
        let expected = "# HELP plain One \\\\ two\\nthree.\n# TYPE plain gauge\nplain -1\n\
            # HELP labelled_total Things.\n# TYPE labelled_total counter\n\
            labelled_total{kind=\"a\",place=\"b\"} 18446744073709551615\n\
            labelled_total{kind=\"quo\\\"te\",place=\"back\\\\slash\\nline\"} 0.25\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn buckets_add_up_and_low_ones_may_be_left_out() {
        let histogram = Histogram::new(&BOUNDS);
        for value in [100, 600, 5000, u64::from(u32::MAX)] {
            histogram.observe(value);
        }
        let check = |first: usize, expected: &[&str]| {
            let mut page = Exposition::default();
            let mut samples = page.family(&TIMES);
            samples.histogram_from(&["get"], &histogram.snapshot(), first);
            let text = page.into_text();
            let lines: Vec<&str> = text.lines().skip(2).collect();
            assert_eq!(lines, expected);
        };
        check(
            0,
            &[
                "times_seconds_bucket{op=\"get\",le=\"0.5\"} 1",
                "times_seconds_bucket{op=\"get\",le=\"1\"} 2",
                "times_seconds_bucket{op=\"get\",le=\"2e+06\"} 3",
                "times_seconds_bucket{op=\"get\",le=\"+Inf\"} 4",
                "times_seconds_sum{op=\"get\"} 4294972.995",
                "times_seconds_count{op=\"get\"} 4",
            ],
        );
        check(
            1,
            &[
                "times_seconds_bucket{op=\"get\",le=\"1\"} 2",
                "times_seconds_bucket{op=\"get\",le=\"2e+06\"} 3",
                "times_seconds_bucket{op=\"get\",le=\"+Inf\"} 4",
                "times_seconds_sum{op=\"get\"} 4294972.995",
                "times_seconds_count{op=\"get\"} 4",
            ],
        );
    }

    #[test]
    fn bounds_are_written_as_by_go() {
        let check = |bound: f64, expected: &str| assert_eq!(bound_text(bound), expected);
        check(0.0001, "0.0001");
        check(8.192, "8.192");
        check(524_288.0, "524288");
        check(1_048_576.0, "1.048576e+06");
        check(8_388_608.0, "8.388608e+06");
    }

    #[test]
    #[should_panic = "labels of labelled_total"]
    fn a_series_has_all_labels() {
        let mut page = Exposition::default();
        page.family(&LABELLED).value(&["a"], 1_u64);
    }
}
