//! What one machine gives to ringd's inside, without any connection: the way from core to core, the disk, and a
//! member on one core and on several.
//!
//! The one part of this crate that knows ringd's inside: it runs on the same drivers as the server.

use std::fmt;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use reactor::DriverChoice;

mod cores;
mod disk;
mod hop;

pub use cores::Cores;
pub use disk::Disk;
pub use hop::Hop;

/// The driver that carries the cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Driver {
    /// io_uring, or epoll where it is refused.
    Auto,
    /// io_uring.
    Uring,
    /// epoll and file threads.
    Fallback,
}

impl From<Driver> for DriverChoice {
    fn from(driver: Driver) -> DriverChoice {
        match driver {
            Driver::Auto => DriverChoice::Auto,
            Driver::Uring => DriverChoice::Uring,
            Driver::Fallback => DriverChoice::Fallback,
        }
    }
}

/// Times of one kind of event, from nanoseconds to a minute.
struct Times(Histogram<u64>);

impl Times {
    fn new() -> Times {
        const LONGEST_NANOS: u64 = 60_000_000_000;
        const DIGITS: u8 = 3;
        let histogram = Histogram::new_with_bounds(1, LONGEST_NANOS, DIGITS);
        Times(histogram.expect("the bounds are in order"))
    }

    fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    fn count(&self) -> u64 {
        self.0.len()
    }

    fn micros(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1e3
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "count": self.count(),
            "p50_micros": self.micros(50.0),
            "p90_micros": self.micros(90.0),
            "p99_micros": self.micros(99.0),
            "max_micros": self.0.max() as f64 / 1e3,
        })
    }
}

/// Four columns, as [`TIMES_HEADER`] names them.
impl fmt::Display for Times {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for percent in [50.0, 90.0, 99.0, 100.0] {
            write!(formatter, "{:>10.1}", self.micros(percent))?;
        }
        Ok(())
    }
}

const TIMES_HEADER: &str = "    p50 µs    p90 µs    p99 µs    max µs";
