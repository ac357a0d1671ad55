//! What the kernel says of this process, read from `/proc`.

use std::fs;
use std::sync::OnceLock;

/// Ticks of the processor times in `/proc`, per second: fixed for programs, whatever the kernel's own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// When the machine started: it is read once, because the kernel adds up all its interrupts for it.
static BOOTED: OnceLock<Option<u64>> = OnceLock::new();

/// Figures of this process; those that could not be read are missing.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ProcessFigures {
    /// Processor time, seconds.
    pub(super) cpu_seconds: Option<f64>,
    /// When it began, seconds since 1970.
    pub(super) start_seconds: Option<f64>,
    /// Address space.
    pub(super) virtual_bytes: Option<u64>,
    /// Memory.
    pub(super) resident_bytes: Option<u64>,
    /// Open descriptors.
    pub(super) open_descriptors: Option<u64>,
    /// Most of them.
    pub(super) descriptors_max: Option<u64>,
}

impl ProcessFigures {
    /// As they are now.
    pub(super) fn read() -> ProcessFigures {
        let text = |path: &str| fs::read_to_string(path).ok();
        let stat = text("/proc/self/stat").unwrap_or_default();
        let status = text("/proc/self/status").unwrap_or_default();
        let booted =
            *BOOTED.get_or_init(|| text("/proc/stat").and_then(|stat| boot_seconds(&stat)));
        let began = field(&stat, 22).zip(booted);
        let limits = text("/proc/self/limits").unwrap_or_default();
        ProcessFigures {
            cpu_seconds: field(&stat, 14)
                .zip(field(&stat, 15))
                .map(|(own, kernel)| (own + kernel) as f64 / TICKS_PER_SECOND),
            start_seconds: began
                .map(|(ticks, booted)| booted as f64 + ticks as f64 / TICKS_PER_SECOND),
            virtual_bytes: kibibytes(&status, "VmSize:"),
            resident_bytes: kibibytes(&status, "VmRSS:"),
            open_descriptors: open_descriptors(),
            descriptors_max: descriptor_limit(&limits),
        }
    }
}

/// The kernel tells their number as the size of the folder since 6.2; before, they have to be counted.
fn open_descriptors() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER).ok()?.len() {
        // Without the one that reads the list.
        0 => Some(fs::read_dir(FOLDER).ok()?.count() as u64 - 1),
        count => Some(count),
    }
}

/// A field of `/proc/self/stat`, numbered from 1 as in its manual page. The name, the second one, may hold anything.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let field = behind_name.split_whitespace().nth(number.checked_sub(3)?)?;
    field.parse().ok()
}

/// When the machine started, in seconds since 1970, of `/proc/stat`.
fn boot_seconds(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

/// A line of `/proc/self/status` that counts in kB, in bytes.
fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let count: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    count.checked_mul(1024)
}

/// The soft limit of open files, of `/proc/self/limits`.
fn descriptor_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 111 222 13 14 15 16 17 18 999 20";
        assert_eq!(field(stat, 14), Some(111));
        assert_eq!(field(stat, 15), Some(222));
        assert_eq!(field(stat, 22), Some(999));
        assert_eq!(field(stat, 90), None);
        assert_eq!(field("", 14), None);
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        assert_eq!(
            boot_seconds("cpu 1 2\nbtime 1700000000\n"),
            Some(1_700_000_000)
        );
        let status = "Name:\tx\nVmSize:\t  2048 kB\nVmRSS:\t 12 kB\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(12 * 1024));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(descriptor_limit(limits), Some(1024));
        let unlimited =
            "Max open files            unlimited            unlimited            files\n";
        assert_eq!(descriptor_limit(unlimited), None);
    }

    #[test]
    fn this_process_has_figures() {
        let figures = ProcessFigures::read();
        assert!(
            figures.resident_bytes.is_some_and(|bytes| bytes > 1 << 20),
            "{figures:?}"
        );
        assert!(
            figures.open_descriptors.is_some_and(|count| count >= 3),
            "{figures:?}"
        );
        assert!(
            figures.start_seconds.is_some_and(|at| at > 1.6e9),
            "{figures:?}"
        );
    }
}
