//! `--auto-compaction-mode` and `--auto-compaction-retention`.

use std::time::Duration;

use super::duration::parse_duration;

/// What an automatic compaction keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// The changes of the last so much time.
    Periodic(Duration),
    /// So many revisions.
    Revision(i64),
}

/// Reads the two flags; none: automatic compaction is off. A bare number is hours in the mode `periodic`.
///
/// # Errors
/// The text of what is wrong.
pub fn parse(mode: &str, retention: &str) -> Result<Option<AutoCompaction>, String> {
    const HOUR_SECONDS: u64 = 3600;
    let number = retention.parse::<i64>().ok().filter(|number| *number >= 0);
    let kept = match (mode, number) {
        ("periodic", Some(hours)) => {
            let seconds = (hours as u64).checked_mul(HOUR_SECONDS);
            let seconds = seconds.filter(|seconds| *seconds <= i64::MAX as u64 / 1_000_000_000);
            let period = seconds.map(Duration::from_secs);
            AutoCompaction::Periodic(period.ok_or_else(|| {
                format!("--auto-compaction-retention={retention}: too many hours")
            })?)
        }
        ("periodic", None) => {
            let period = parse_duration(retention);
            AutoCompaction::Periodic(
                period.map_err(|error| format!("--auto-compaction-retention: {error}"))?,
            )
        }
        ("revision", Some(revisions)) => AutoCompaction::Revision(revisions),
        ("revision", None) => {
            return Err(format!(
                "--auto-compaction-retention={retention}: --auto-compaction-mode=revision takes a number of \
                 revisions"
            ));
        }
        ("", _) => return Err("undefined auto-compaction-mode".to_owned()),
        (mode, _) => {
            return Err(format!(
                "unknown auto-compaction-mode {mode:?} (periodic or revision)"
            ));
        }
    };
    let off = [
        AutoCompaction::Periodic(Duration::ZERO),
        AutoCompaction::Revision(0),
    ];
    Ok((!off.contains(&kept)).then_some(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retentions_as_etcd_reads_them() {
        let hours = |hours: u64| {
            Ok(Some(AutoCompaction::Periodic(Duration::from_secs(
                hours * 3600,
            ))))
        };
        assert_eq!(parse("periodic", "0"), Ok(None));
        assert_eq!(parse("revision", "0"), Ok(None));
        assert_eq!(parse("periodic", "10"), hours(10));
        assert_eq!(parse("periodic", "1h"), hours(1));
        let minutes = Duration::from_secs(5 * 60);
        let expected = Ok(Some(AutoCompaction::Periodic(minutes)));
        assert_eq!(parse("periodic", "5m"), expected);
        let expected = Ok(Some(AutoCompaction::Revision(1000)));
        assert_eq!(parse("revision", "1000"), expected);
        for (mode, retention, part) in [
            ("periodic", "-1", "duration"),
            ("periodic", "9223372036854775807", "too many hours"),
            ("periodic", "1x", "unit"),
            ("revision", "1h", "number of"),
            ("", "1", "undefined"),
            ("hourly", "1", "unknown auto-compaction-mode"),
        ] {
            let error = parse(mode, retention).unwrap_err();
            assert!(error.contains(part), "{mode} {retention}: {error}");
        }
    }
}
