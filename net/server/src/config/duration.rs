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
}
