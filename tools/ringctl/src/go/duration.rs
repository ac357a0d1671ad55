//! Spans of time: `5s`, `1m30s`, `1.5ms`.

use std::time::Duration;

use super::quote::quote;

const NANOS: u64 = 1;
const MICROS: u64 = 1_000;
const MILLIS: u64 = 1_000_000;
const SECONDS: u64 = 1_000_000_000;

/// Reads a duration. A negative one is read as none at all: a deadline in the past.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let quoted = quote(text.as_bytes());
    let invalid = || format!("time: invalid duration {quoted}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0f64;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, behind) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let end = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {quoted}"));
        }
        let Some(scale) = scale(unit) else {
            let unit = quote(unit.as_bytes());
            return Err(format!("time: unknown unit {unit} in duration {quoted}"));
        };
        nanos += number * scale as f64;
        rest = behind;
    }
    if nanos > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(if negative {
        Duration::ZERO
    } else {
        Duration::from_nanos(nanos as u64)
    })
}

fn scale(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => NANOS,
        "us" | "µs" | "μs" => MICROS,
        "ms" => MILLIS,
        "s" => SECONDS,
        "m" => 60 * SECONDS,
        "h" => 3600 * SECONDS,
        _ => return None,
    })
}

/// Writes a duration as Go does: the largest unit below a minute with its fraction, then `1m2.5s`, `1h2m3s`.
pub(crate) fn show(duration: Duration) -> String {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    match nanos {
        0 => "0s".to_owned(),
        1..MICROS => format!("{nanos}ns"),
        MICROS..MILLIS => format!("{}µs", fraction(nanos, MICROS)),
        MILLIS..SECONDS => format!("{}ms", fraction(nanos, MILLIS)),
        _ => {
            let seconds = fraction(nanos % (60 * SECONDS), SECONDS);
            let minutes = nanos / (60 * SECONDS);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

fn fraction(nanos: u64, unit: u64) -> String {
    let digits = unit.ilog10() as usize;
    let fraction = format!("{:0digits$}", nanos % unit);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{}{dot}{fraction}", nanos / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let check = |text: &str, shown: &str| {
            assert_eq!(show(parse(text).unwrap()), shown, "{text}");
        };
        check("5s", "5s");
        check("1m30s", "1m30s");
        check("90m", "1h30m0s");
        check("1.5ms", "1.5ms");
        check("250us", "250µs");
        check("7ns", "7ns");
        check("0", "0s");
        check("-5s", "0s");
        check("1.000619307s", "1.000619307s");
    }

    #[test]
    fn what_is_no_duration() {
        let check = |text: &str, error: &str| assert_eq!(parse(text).unwrap_err(), error);
        check("5", "time: missing unit in duration \"5\"");
        check("5y", "time: unknown unit \"y\" in duration \"5y\"");
        check("", "time: invalid duration \"\"");
        check("s", "time: invalid duration \"s\"");
    }
}
