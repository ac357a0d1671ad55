//! Durations in Go's notation (`1h30m`, `100ms`, `1.5s`), which etcd's flags use.

use std::time::Duration;

/// Parses a Go duration. A bare `0` is allowed; every other number needs a unit.
///
/// # Errors
/// The text of what is wrong, to be shown behind the flag's name.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err(format!("invalid duration {text:?}: must not be negative"));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err("invalid duration \"\"".to_owned());
    }
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits]
            .parse()
            .map_err(|_| format!("invalid duration {text:?}"))?;
        rest = &rest[digits..];
        let unit_len = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        nanos += number * unit_nanos(&rest[..unit_len]).ok_or_else(|| unit_error(text, rest))?;
        rest = &rest[unit_len..];
    }
    if nanos > i64::MAX as f64 {
        return Err(format!("invalid duration {text:?}: too long"));
    }
    Ok(Duration::from_nanos(nanos as u64))
}

/// A duration as Go writes it: `1.5s`, `250ms`, `74.138µs`, `2h0m0s`.
pub fn text_of(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let seconds = duration.as_secs();
    let in_unit = |unit_nanos: u128, unit: &str| {
        let width = unit_nanos.ilog10() as usize;
        let (whole, part) = (nanos / unit_nanos, nanos % unit_nanos);
        let part = format!(".{part:0width$}");
        let part = part.trim_end_matches('0').trim_end_matches('.');
        format!("{whole}{part}{unit}")
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => in_unit(1_000, "µs"),
        1_000_000..1_000_000_000 => in_unit(1_000_000, "ms"),
        _ if seconds < 60 => in_unit(1_000_000_000, "s"),
        _ => {
            let rest = text_of(Duration::new(seconds % 60, duration.subsec_nanos()));
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            match hours {
                0 => format!("{minutes}m{rest}"),
                _ => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

fn unit_nanos(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => return None,
    })
}

fn unit_error(text: &str, rest: &str) -> String {
    if rest.is_empty() {
        format!("missing unit in duration {text:?} (ns, us, ms, s, m or h)")
    } else {
        format!("unknown unit in duration {text:?} (ns, us, ms, s, m or h)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Duration>) {
        assert_eq!(parse_duration(text).ok(), expected, "{text}");
    }

    #[test]
    fn go_notation() {
        check("10m", Some(Duration::from_secs(600)));
        check("1h30m", Some(Duration::from_secs(5400)));
        check("1.5s", Some(Duration::from_millis(1500)));
        check("100ms", Some(Duration::from_millis(100)));
        check("0", Some(Duration::ZERO));
        check("5", None);
        check("", None);
        check("-1s", None);
        check("3parsec", None);
        check("1e400s", None);
    }

    #[test]
    fn as_go_writes_them() {
        for (nanos, text) in [
            (0, "0s"),
            (999, "999ns"),
            (74_138, "74.138µs"),
            (250_000_000, "250ms"),
            (1_500_000_000, "1.5s"),
            (7_000_000_000, "7s"),
            (90_000_000_000, "1m30s"),
            (7_200_000_000_000, "2h0m0s"),
        ] {
            assert_eq!(text_of(Duration::from_nanos(nanos)), text);
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)));
        }
    }
}
