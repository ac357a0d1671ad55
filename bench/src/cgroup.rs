//! A memory limit for the server: one control group, made for it and removed after it.
//!
//! Both versions of the kernel's interface are known. The group is made below the one this process is
//! in, so no limit of that is evaded.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How often and how long apart the removal of a group is tried: the kernel lets go of an ended process late.
const REMOVALS: u32 = 50;
const REMOVAL_DISTANCE: Duration = Duration::from_millis(20);

/// The kernel's two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A limit to make groups with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Memory with page cache and kernel buffers.
    pub bytes: u64,
    /// The group below which the new one is made; this process's own if not given.
    pub parent: Option<PathBuf>,
}

/// A group with a limit; removed when dropped, after its processes.
#[derive(Debug)]
pub struct MemoryGroup {
    directory: PathBuf,
    version: Version,
}

impl MemoryGroup {
    /// Makes a group.
    ///
    /// # Errors
    /// This machine has no memory groups, or this process may not make one; the text says what to do.
    pub fn create(limit: &MemoryLimit, name: &str) -> io::Result<Self> {
        let (parent, version) = match &limit.parent {
            Some(parent) => (parent.clone(), version_of(parent)),
            None => own_group()?,
        };
        let directory = parent.join(name);
        fs::create_dir(&directory)
            .map_err(|error| refusal(&format!("cannot make {}: {error}", directory.display())))?;
        let group = Self { directory, version };
        let limit_file = match version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        let path = group.directory.join(limit_file);
        fs::write(&path, limit.bytes.to_string())
            .map_err(|error| refusal(&format!("cannot write {}: {error}", path.display())))?;
        // Where the kernel swaps or counts swap, nothing may leave the limit that way.
        let (swap_file, swap_bytes) = match version {
            Version::One => ("memory.memsw.limit_in_bytes", limit.bytes),
            Version::Two => ("memory.swap.max", 0),
        };
        let swap = group.directory.join(swap_file);
        if swap.exists() {
            fs::write(swap, swap_bytes.to_string())?;
        }
        Ok(group)
    }

    /// The command of `program` that runs inside the group from its first instruction on.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg("echo $$ > \"$0\" && exec \"$@\"")
            .arg(self.directory.join("cgroup.procs"))
            .arg(program);
        command
    }

    /// The most memory that was in use at once, page cache included, if the kernel tells.
    pub fn bytes_max(&self) -> Option<u64> {
        let file = match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        };
        let text = fs::read_to_string(self.directory.join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// How many processes the kernel killed because the limit was reached.
    pub fn killed(&self) -> u64 {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        fs::read_to_string(self.directory.join(file))
            .ok()
            .and_then(|text| {
                let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
                line.and_then(|count| count.trim().parse().ok())
            })
            .unwrap_or_default()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        for _ in 0..REMOVALS {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(REMOVAL_DISTANCE);
        }
        eprintln!("cannot remove {}", self.directory.display());
    }
}

fn version_of(directory: &Path) -> Version {
    if directory.join("cgroup.controllers").exists() {
        Version::Two
    } else {
        Version::One
    }
}

/// The group of this process that can limit memory.
fn own_group() -> io::Result<(PathBuf, Version)> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let found = find_group(&groups, &mounts);
    let (directory, version) =
        found.ok_or_else(|| refusal("no memory control group is mounted"))?;
    if version == Version::Two {
        let controllers = directory.join("cgroup.subtree_control");
        if !fs::read_to_string(&controllers)?.contains("memory") {
            fs::write(&controllers, "+memory").map_err(|error| {
                refusal(&format!("cannot write {}: {error}", controllers.display()))
            })?;
        }
    }
    Ok((directory, version))
}

/// Finds the own group in the two files that the kernel offers about them. Version 1 comes first: where
/// both are mounted, the memory controller can only be in one, and a named line says that it is there.
fn find_group(groups: &str, mounts: &str) -> Option<(PathBuf, Version)> {
    let group = |wanted: &dyn Fn(&str, &str) -> bool| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            wanted(number, controllers).then(|| path.to_owned())
        })
    };
    let mount = |wanted: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            // … root mount-point options … - type source super-options
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split_whitespace();
            let (kind, options) = (right.next()?, right.nth(1).unwrap_or_default());
            let mut left = left.split_whitespace().skip(3);
            let (root, point) = (left.next()?, left.next()?);
            wanted(kind, options).then(|| (root.to_owned(), point.to_owned()))
        })
    };
    let has_memory = |list: &str| list.split(',').any(|word| word == "memory");
    let place = |(root, point): (String, String), path: String| {
        let below = path
            .strip_prefix(root.trim_end_matches('/'))
            .unwrap_or(&path);
        PathBuf::from(point).join(below.trim_start_matches('/'))
    };
    if let Some(path) = group(&|_, controllers| has_memory(controllers)) {
        let mounted = mount(&|kind, options| kind == "cgroup" && has_memory(options))?;
        return Some((place(mounted, path), Version::One));
    }
    let path = group(&|number, _| number == "0")?;
    let mounted = mount(&|kind, _| kind == "cgroup2")?;
    Some((place(mounted, path), Version::Two))
}

fn refusal(what: &str) -> io::Error {
    io::Error::other(format!(
        "no memory limit: {what}. Run as root; with version 2 give an empty group whose \
         cgroup.subtree_control has `memory` with --memory-group, or run under `systemd-run --scope \
         -p Delegate=yes`; or measure without a limit by --memory-limit 0"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 30 0:29 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
38 30 0:34 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup rw
";

    #[test]
    fn version_one_is_found_beside_an_empty_version_two() {
        let groups = "5:cpu,cpuacct:/\n4:memory:/jobs/seven\n0::/\n";
        let place = PathBuf::from("/sys/fs/cgroup/memory/jobs/seven");
        assert_eq!(find_group(groups, MOUNTS), Some((place, Version::One)));
    }

    #[test]
    fn version_two_is_found_alone() {
        let mounts = "29 22 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let place = PathBuf::from("/sys/fs/cgroup/user.slice/a");
        assert_eq!(
            find_group("0::/user.slice/a\n", mounts),
            Some((place, Version::Two))
        );
        assert_eq!(find_group("0::/\n", ""), None);
    }

    #[test]
    fn a_group_that_cannot_be_made_says_what_to_do() {
        let limit = MemoryLimit {
            bytes: 1 << 30,
            parent: Some(PathBuf::from("/proc/ringbench-nowhere")),
        };
        let error = MemoryGroup::create(&limit, "group").unwrap_err();
        assert!(error.to_string().contains("--memory-limit 0"), "{error}");
    }
}
