//! A process seen from outside: processor time and memory from `/proc`, and where threads may run.

use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity, set_current_timer_slack};

/// The kernel reports processor time in these units to user space, whatever its own tick is.
const TICKS_PER_SECOND: u64 = 100;

/// Processor time that all threads of a process have used, the ended ones included.
///
/// # Errors
/// The process does not exist.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = read(pid, "stat")?;
    // The name in parentheses may hold anything; fields are counted behind it.
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(ticks_to_time(ticks))
}

fn read(pid: u32, name: &str) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{name}"))
        .map_err(|error| io::Error::new(error.kind(), format!("process {pid}: {error}")))
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident_bytes: u64,
    /// The most that was resident at once.
    pub resident_bytes_max: u64,
}

/// How much memory a process occupies.
///
/// # Errors
/// The process does not exist.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let status = read(pid, "status")?;
    let kibibytes = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or_default()
    };
    Ok(Memory {
        resident_bytes: kibibytes("VmRSS:") * 1024,
        resident_bytes_max: kibibytes("VmHWM:") * 1024,
    })
}

/// Sets the most that was resident to what is resident now.
///
/// # Errors
/// The process does not exist or belongs to somebody else.
pub fn forget_memory_max(pid: u32) -> io::Result<()> {
    /// See `clear_refs` in proc_pid_clear_refs(5).
    const RESET_HIGH_WATER_MARK: &str = "5";
    fs::write(format!("/proc/{pid}/clear_refs"), RESET_HIGH_WATER_MARK)
        .map_err(|error| io::Error::new(error.kind(), format!("process {pid}: {error}")))
}

/// Bytes that a process has caused to be sent to storage, without what it withdrew again by truncation.
///
/// # Errors
/// The process does not exist or belongs to somebody else.
pub fn written_bytes(pid: u32) -> io::Result<u64> {
    let io = read(pid, "io")?;
    let number = |name: &str| {
        io.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.trim().parse::<u64>().ok())
            .unwrap_or_default()
    };
    Ok(number("write_bytes:").saturating_sub(number("cancelled_write_bytes:")))
}

/// Bytes that everybody has written to the device that holds `path`, since the machine started.
///
/// `None` where the device tells no such number, as a memory file system.
pub fn device_written_bytes(path: &std::path::Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    const SECTOR_BYTES: u64 = 512;
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * SECTOR_BYTES)
}

/// Processor time of the whole machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct MachineTime {
    /// Time in which some process or the kernel ran.
    pub busy: Duration,
    /// Time that the hypervisor kept for others.
    pub stolen: Duration,
}

impl MachineTime {
    /// What has been used since the machine started.
    ///
    /// # Errors
    /// `/proc/stat` cannot be read.
    pub fn now() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let fields: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|field| field.parse().ok())
            .collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal
        let busy = field(0) + field(1) + field(2) + field(5) + field(6);
        Ok(Self {
            busy: ticks_to_time(busy),
            stolen: ticks_to_time(field(7)),
        })
    }
}

fn ticks_to_time(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// Number of processors this thread may use.
pub fn processor_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `action` while this thread is bound to one processor; children started by it inherit that.
///
/// # Errors
/// The kernel refuses the processor, or `action` fails.
pub fn on_processor<T>(
    processor: Option<usize>,
    action: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let Some(processor) = processor else {
        return action();
    };
    let before = sched_getaffinity(None)?;
    bind(processor)?;
    let outcome = action();
    sched_setaffinity(None, &before)?;
    outcome
}

/// Binds this thread to one processor.
///
/// # Errors
/// The kernel refuses, for example because there is no such processor.
pub fn bind(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets this thread's timed waits end when they are due; the kernel's default is up to 50 µs later.
///
/// # Errors
/// The kernel refuses.
pub fn wake_exactly() -> io::Result<()> {
    Ok(set_current_timer_slack(Some(NonZeroU64::MIN))?)
}

/// The same process in the form that signals need.
///
/// # Errors
/// `pid` is 0 or too large for the kernel.
pub fn pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a process id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_time_and_memory() {
        let begin = cpu_time(std::process::id()).unwrap();
        let mut sum = 0u64;
        while cpu_time(std::process::id()).unwrap() < begin + Duration::from_millis(20) {
            sum = std::hint::black_box(sum + 1);
        }
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.resident_bytes > 0);
        assert!(memory.resident_bytes <= memory.resident_bytes_max);
    }

    #[test]
    fn written_bytes_grow_with_a_synced_file() {
        let path = std::env::temp_dir().join(format!("ringbench-io-{}", std::process::id()));
        let before = written_bytes(std::process::id()).unwrap();
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        let after = written_bytes(std::process::id()).unwrap();
        fs::remove_file(&path).unwrap();
        // A memory file system counts nothing.
        assert!(after == before || after >= before + (1 << 20));
    }

    #[test]
    fn a_binding_ends_with_its_action() {
        let before = processor_count();
        on_processor(Some(0), || {
            assert_eq!(processor_count(), 1);
            Ok(())
        })
        .unwrap();
        assert_eq!(processor_count(), before);
    }
}
