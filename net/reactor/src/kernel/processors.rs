//! How many processors the process may use: its set of processors, and the time that its control groups grant it.
//!
//! A group's quota is time per period over all processors, so one and a half processors' worth count as two: a core
//! more than there is time for sleeps, a core less leaves time unused.

use std::fs;
use std::path::{Path, PathBuf};

use super::check;

/// The number of processors that this process can keep busy, at least 1.
///
/// Looks at the calling thread's set of processors (sched_getaffinity(2)), so ask before pinning it, and at the quotas
/// of the process's control groups (cgroups(7), both versions) up to the root that it can see; part of a processor
/// counts as one.
pub fn usable_processors() -> usize {
    let allowed = allowed_processors();
    match quota(Path::new("/")) {
        Some(quota) => allowed.min(quota).max(1),
        None => allowed,
    }
}

fn allowed_processors() -> usize {
    // SAFETY: an all-zero `cpu_set_t` is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and size describe `set`; 0 is the calling thread (sched_getaffinity(2)).
    let asked =
        check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) });
    match asked {
        // SAFETY: the set is initialised.
        Ok(_) => usize::try_from(unsafe { libc::CPU_COUNT(&set) }).map_or(1, |count| count.max(1)),
        // More than 1,024 processors: the set is too small for the kernel.
        Err(_) => std::thread::available_parallelism().map_or(1, |count| count.get()),
    }
}

/// The smallest quota among the process's groups and their parents, in processors, rounded up. `root` is where the
/// file system begins.
fn quota(root: &Path) -> Option<usize> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    let quotas = groups.lines().filter_map(|line| {
        let (version, group) = parse_membership(line)?;
        let mount = mounts.iter().find(|mount| mount.version == version)?;
        mount
            .directories(root, group)
            .filter_map(|directory| read_quota(version, &directory))
            .min()
    });
    quotas.min()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    /// A hierarchy of its own for the `cpu` controller.
    One,
    /// The unified hierarchy.
    Two,
}

/// Reads a line of /proc/pid/cgroup: `3:cpu,cpuacct:/group` or `0::/group`. `None` for other controllers.
fn parse_membership(line: &str) -> Option<(Version, &str)> {
    let mut fields = line.splitn(3, ':');
    let (number, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
    if number == "0" && controllers.is_empty() {
        return Some((Version::Two, group));
    }
    let governs_time = controllers.split(',').any(|controller| controller == "cpu");
    governs_time.then_some((Version::One, group))
}

/// Where a hierarchy of groups can be seen.
#[derive(Debug)]
struct Mount {
    version: Version,
    /// The group that is mounted: not the hierarchy's root inside of a container.
    group: PathBuf,
    place: PathBuf,
}

impl Mount {
    /// Reads a line of /proc/pid/mountinfo (proc_pid_mountinfo(5)); `None` if it is about something else:
    /// `31 23 0:28 /group /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu`.
    fn parse(line: &str) -> Option<Mount> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let version = match kind.next()? {
            "cgroup2" => Version::Two,
            "cgroup" if kind.nth(1)?.split(',').any(|option| option == "cpu") => Version::One,
            _ => return None,
        };
        let mut mount = mount.split(' ').skip(3);
        Some(Mount {
            version,
            group: mount.next()?.into(),
            place: mount.next()?.into(),
        })
    }

    /// The group's directory and those of its parents, as far as they can be seen.
    fn directories(&self, root: &Path, group: &str) -> impl Iterator<Item = PathBuf> {
        // A group outside of what is mounted is the mounted one, seen from outside of its name space.
        let below = Path::new(group).strip_prefix(&self.group);
        let below = below.unwrap_or(Path::new("")).to_path_buf();
        let place = root.join(self.place.strip_prefix("/").unwrap_or(&self.place));
        let directories: Vec<PathBuf> = below.ancestors().map(|part| place.join(part)).collect();
        directories.into_iter()
    }
}

/// The directory's quota in processors, rounded up; `None` if there is none.
fn read_quota(version: Version, directory: &Path) -> Option<usize> {
    let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
    let (quota, period) = match version {
        Version::Two => {
            let limit = read("cpu.max")?;
            let (quota, period) = limit.trim().split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
        Version::One => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
    };
    // `max` and `-1` are no limit.
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok()?;
    (period > 0).then(|| usize::try_from(quota.div_ceil(period)).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system with these files, removed when dropped.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Root {
            let name = format!("reactor-quota-{}-{name}", std::process::id());
            let root = Root(std::env::temp_dir().join(name));
            for (path, text) in files {
                let path = root.0.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            root
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    const UNIFIED: &str = "25 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                           26 25 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    const SPLIT: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                         32 31 0:29 /docker/abc /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                         33 31 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";

    fn check_quota(name: &str, files: &[(&str, &str)], expected: Option<usize>) {
        let root = Root::new(name, files);
        assert_eq!(quota(&root.0), expected, "{name}");
    }

    #[test]
    fn the_smallest_quota_on_the_way_up_counts() {
        let unified = |name, outer, inner, expected| {
            let files = [
                ("proc/self/cgroup", "0::/outer/inner\n"),
                ("proc/self/mountinfo", UNIFIED),
                ("sys/fs/cgroup/outer/cpu.max", outer),
                ("sys/fs/cgroup/outer/inner/cpu.max", inner),
            ];
            check_quota(name, &files, expected);
        };
        unified("none", "max 100000\n", "max 100000\n", None);
        unified("inner", "max 100000\n", "300000 100000\n", Some(3));
        unified("outer", "150000 100000\n", "300000 100000\n", Some(2));
        unified("part", "max 100000\n", "1000 100000\n", Some(1));
    }

    #[test]
    fn the_first_version_is_read_through_the_mounted_group() {
        let split = |name, group, expected| {
            let files = [
                ("proc/self/cgroup", group),
                ("proc/self/mountinfo", SPLIT),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/in/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu,cpuacct/in/cpu.cfs_period_us", "100000\n"),
            ];
            check_quota(name, &files, expected);
        };
        split("own", "4:cpuset:/x\n3:cpu,cpuacct:/docker/abc\n", Some(3));
        split("below", "3:cpu,cpuacct:/docker/abc/in\n", Some(3));
        split("name space", "3:cpu,cpuacct:/\n", Some(3));
        split("another", "4:cpuset:/docker/abc\n", None);
    }

    #[test]
    fn what_cannot_be_read_limits_nothing() {
        check_quota("empty", &[], None);
        let files = [
            ("proc/self/cgroup", "0::/\ngarbage\n"),
            ("proc/self/mountinfo", UNIFIED),
            ("sys/fs/cgroup/cpu.max", "100000 0\n"),
        ];
        check_quota("no period", &files, None);
    }

    #[test]
    fn there_is_at_least_one() {
        assert!(usable_processors() >= 1);
        std::thread::spawn(|| {
            // SAFETY: sched_getcpu(3) takes no arguments.
            let here = unsafe { libc::sched_getcpu() };
            crate::kernel::pin::pin_thread(here as usize).unwrap();
            assert_eq!(usable_processors(), 1);
        })
        .join()
        .unwrap();
    }
}
