//! How much memory this process may use: the machine's, or less where a control group says so.
//!
//! Reads Linux's files once, before anything is started; what it finds travels as a number.

use std::path::{Path, PathBuf};

/// Where control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes this process may use, or `None` if the system does not say.
pub fn usable_bytes() -> Option<u64> {
    let text = |path: &Path| std::fs::read_to_string(path).ok();
    let physical = text(Path::new("/proc/meminfo")).and_then(|info| physical_bytes(&info));
    let groups = text(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(&groups);
    let limits = limits.iter().filter_map(|path| text(path));
    let limits = limits.filter_map(|limit| limit.trim().parse::<u64>().ok());
    // A group without a limit says `max` (version 2), or a number near 2^63 (version 1).
    limits.chain(physical).min()
}

/// `MemTotal` of `/proc/meminfo`.
fn physical_bytes(info: &str) -> Option<u64> {
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The files that may hold a limit for a process in these groups (`/proc/self/cgroup`): those of each
/// group and of all groups around it.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (root, name) = if controllers.is_empty() {
            (PathBuf::from(GROUPS), "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (Path::new(GROUPS).join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        // Inside of a container the group's own path may not be visible; its root then is.
        let group = Path::new(group.trim_start_matches('/'));
        for around in group.ancestors() {
            files.push(root.join(around).join(name));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_kibibytes() {
        let info = "MemTotal:       16384256 kB\nMemFree:  1 kB\n";
        assert_eq!(physical_bytes(info), Some(16_384_256 * 1024));
        assert_eq!(physical_bytes("MemFree: 1 kB\n"), None);
        assert_eq!(physical_bytes("MemTotal: 99999999999999999999 kB\n"), None);
    }

    #[test]
    fn limits_are_looked_for_in_every_group_around() {
        let paths = |groups: &str| {
            let files = limit_files(groups);
            let texts = files.iter().map(|path| path.display().to_string());
            texts.collect::<Vec<_>>()
        };
        let expected = [
            "/sys/fs/cgroup/a/b/memory.max",
            "/sys/fs/cgroup/a/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(paths("0::/a/b\n"), expected);
        let expected = [
            "/sys/fs/cgroup/memory/x/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        assert_eq!(paths("9:cpu:/y\n4:hugetlb,memory:/x\nbroken"), expected);
    }

    #[test]
    fn this_machine_has_some() {
        assert!(usable_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
