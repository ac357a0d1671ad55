//! How the simulated hardware behaves: durations, and how often what goes wrong.

use std::time::Duration;

use super::random::{Random, Rate};

/// A distribution of durations: `least`, plus up to `spread`, and now and then up to `slow_most` more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    /// Never faster, in nanoseconds.
    pub least: u64,
    /// Uniformly up to so many nanoseconds more.
    pub spread: u64,
    /// How often it is slow.
    pub slow: Rate,
    /// Uniformly up to so many nanoseconds more when it is slow.
    pub slow_most: u64,
}

impl Latency {
    /// `least..least + spread` microseconds, never slow.
    pub const fn micros(least: u64, spread: u64) -> Latency {
        Latency {
            least: least * 1_000,
            spread: spread * 1_000,
            slow: Rate::NEVER,
            slow_most: 0,
        }
    }

    /// The same, but slow at `rate`, by up to `most`.
    pub const fn sometimes(mut self, rate: Rate, most: Duration) -> Latency {
        self.slow = rate;
        self.slow_most = most.as_nanos() as u64;
        self
    }

    /// A duration in nanoseconds, and whether it is a slow one.
    pub(crate) fn draw(&self, random: &mut Random) -> (u64, bool) {
        let usual = self.least
            + if self.spread > 0 {
                random.below(self.spread)
            } else {
                0
            };
        let slow = random.hits(self.slow);
        (
            if slow {
                usual + random.below(self.slow_most)
            } else {
                usual
            },
            slow,
        )
    }
}

/// A host's disk.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Duration of a read.
    pub read: Latency,
    /// Duration of a write until its completion.
    pub write: Latency,
    /// Duration of a file or directory sync.
    pub sync: Latency,
    /// Duration of open, rename, unlink, create and list.
    pub metadata: Latency,
    /// Reads that fail with `EIO`.
    pub read_error: Rate,
    /// Writes that fail with `EIO`; some sectors may have landed.
    pub write_error: Rate,
    /// File and directory syncs that fail with `EIO`.
    pub sync_error: Rate,
    /// Reads that return only a part.
    pub short_read: Rate,
    /// Writes that take only a part.
    pub short_write: Rate,
    /// Reads and writes that end with `EINTR`.
    pub interrupted: Rate,
    /// Reads and writes that end with `EAGAIN`.
    pub try_again: Rate,
    /// Operations at which the whole disk stops for a while.
    pub stall: Rate,
    /// Longest such stop.
    pub stall_most: Duration,
    /// Syncs that report success and make nothing durable.
    pub synced_write_lost: Rate,
    /// Writes that report success and change nothing.
    pub write_vanished: Rate,
    /// Writes that land at another block of the same file.
    pub write_misdirected: Rate,
    /// Reads before which one bit of what they read flips, for good.
    pub bit_rot: Rate,
    /// Longest time between a process's death and the landing of its last write.
    pub late_write_most: Duration,
}

/// The network between and within hosts.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// One way between two hosts.
    pub between_hosts: Latency,
    /// One way within a host.
    pub within_host: Latency,
    /// Bytes in flight and unread per direction of a connection.
    pub window_bytes: usize,
    /// Most bytes that one receive returns.
    pub receive_bytes_max: usize,
    /// Sends that take only a part.
    pub short_send: Rate,
    /// Receives that return only a part of what is there.
    pub short_receive: Rate,
    /// Sends and receives that end with `EINTR`.
    pub interrupted: Rate,
    /// Sends at which the connection is reset.
    pub reset: Rate,
    /// Until a connect to a host that does not answer fails.
    pub connect_timeout: Duration,
    /// Longest time until a connection to a host without power is reset.
    pub dead_peer_timeout: Duration,
    /// Connections that wait for an accept; more are refused.
    pub backlog_max: usize,
}

/// How cores get to run.
#[derive(Clone, Debug)]
pub struct SchedulingOptions {
    /// What a turn costs its core.
    pub turn: Latency,
    /// From a completion or a remote wake until the core runs.
    pub wake: Latency,
    /// Wake-ups at which the core is not scheduled for a while.
    pub stall: Rate,
    /// Longest such while.
    pub stall_most: Duration,
}

/// Everything that may be set about a simulation.
#[derive(Clone, Debug)]
pub struct SimulationOptions {
    /// Of every host at first; see [`super::Simulation::disk_options_mut`].
    pub disk: DiskOptions,
    /// Of all hosts.
    pub network: NetworkOptions,
    /// Of all cores.
    pub scheduling: SchedulingOptions,
}

impl SimulationOptions {
    /// Everything works; only the order of things depends on the seed.
    pub fn calm() -> SimulationOptions {
        let disk = DiskOptions {
            read: Latency::micros(30, 90),
            write: Latency::micros(10, 60),
            sync: Latency::micros(40, 160),
            metadata: Latency::micros(5, 40),
            read_error: Rate::NEVER,
            write_error: Rate::NEVER,
            sync_error: Rate::NEVER,
            short_read: Rate::NEVER,
            short_write: Rate::NEVER,
            interrupted: Rate::NEVER,
            try_again: Rate::NEVER,
            stall: Rate::NEVER,
            stall_most: Duration::ZERO,
            synced_write_lost: Rate::NEVER,
            write_vanished: Rate::NEVER,
            write_misdirected: Rate::NEVER,
            bit_rot: Rate::NEVER,
            late_write_most: Duration::from_millis(2_500),
        };
        let network = NetworkOptions {
            between_hosts: Latency::micros(50, 200),
            within_host: Latency::micros(5, 25),
            window_bytes: 256 << 10,
            receive_bytes_max: 16 << 10,
            short_send: Rate::NEVER,
            short_receive: Rate::NEVER,
            interrupted: Rate::NEVER,
            reset: Rate::NEVER,
            connect_timeout: Duration::from_secs(5),
            dead_peer_timeout: Duration::from_secs(10),
            backlog_max: 128,
        };
        let scheduling = SchedulingOptions {
            turn: Latency {
                least: 400,
                spread: 2_000,
                slow: Rate::NEVER,
                slow_most: 0,
            },
            wake: Latency {
                least: 200,
                spread: 4_000,
                slow: Rate::NEVER,
                slow_most: 0,
            },
            stall: Rate::NEVER,
            stall_most: Duration::ZERO,
        };
        SimulationOptions {
            disk,
            network,
            scheduling,
        }
    }

    /// Trouble that a correct program does not notice: short reads and writes, `EINTR`, `EAGAIN`, slowness, stalls of
    /// disks and cores. How much of each depends on the seed; some seeds see none of a kind.
    pub fn rough(seed: u64) -> SimulationOptions {
        let mut random = Random::new(seed ^ 0x726F_7567_6800_0001);
        let mut options = SimulationOptions::calm();
        let mut rate = |most: u32| {
            if random.below(3) == 0 {
                Rate::NEVER
            } else {
                Rate(random.below(u64::from(most)) as u32)
            }
        };
        let disk = &mut options.disk;
        disk.short_read = rate(50_000);
        disk.short_write = rate(50_000);
        disk.interrupted = rate(20_000);
        disk.try_again = rate(20_000);
        disk.stall = rate(2_000);
        disk.stall_most = Duration::from_millis(100);
        disk.write = disk
            .write
            .sometimes(rate(20_000), Duration::from_millis(10));
        disk.sync = disk.sync.sometimes(rate(20_000), Duration::from_millis(30));
        disk.read = disk.read.sometimes(rate(20_000), Duration::from_millis(10));
        let network = &mut options.network;
        network.short_send = rate(50_000);
        network.short_receive = rate(50_000);
        network.interrupted = rate(10_000);
        network.between_hosts = network
            .between_hosts
            .sometimes(rate(20_000), Duration::from_millis(100));
        network.within_host = network
            .within_host
            .sometimes(rate(10_000), Duration::from_millis(5));
        let scheduling = &mut options.scheduling;
        scheduling.stall = rate(1_000);
        scheduling.stall_most = Duration::from_millis(20);
        options
    }
}

impl Default for SimulationOptions {
    fn default() -> SimulationOptions {
        SimulationOptions::calm()
    }
}

/// Kinds of disk operations, for planned faults.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DiskOperation {
    /// Opening or creating a file, with its reservation.
    Open,
    /// A read.
    Read,
    /// A write (the first half of a write with a sync).
    Write,
    /// A file sync (the second half of a write with a sync).
    Sync,
    /// A directory sync.
    SyncDirectory,
    /// Rename, unlink, create a directory, list.
    Metadata,
}

/// What goes wrong with one disk operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// It fails with this errno. A failed write may have landed in part, unless the errno is `EINTR`, `EAGAIN` or
    /// `ENOSPC`. What a failed sync covered never becomes durable by a later one.
    Error(i32),
    /// A read or write does only a part.
    Short,
    /// A write reports success and changes nothing.
    Vanish,
    /// A write lands at another block of its file.
    Misdirect,
    /// A sync reports success and makes nothing durable.
    LoseSync,
    /// One bit of what is read flips first, for good.
    BitRot,
    /// The whole disk stands still for so long.
    Stall(Duration),
}

/// A fault that will hit a certain operation of a host's disk.
#[derive(Clone, Debug)]
pub struct PlannedFault {
    /// Kind of operation.
    pub operation: DiskOperation,
    /// Only operations on paths that contain this; empty for any.
    pub path_contains: String,
    /// How many matching operations pass unharmed before.
    pub after: u64,
    /// Whether all later ones are hit as well.
    pub repeat: bool,
    /// What goes wrong.
    pub fault: DiskFault,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_stay_in_their_range() {
        let mut random = Random::new(1);
        let latency = Latency::micros(10, 5).sometimes(Rate::percent(10), Duration::from_millis(1));
        let mut slow_ones = 0;
        for _ in 0..10_000 {
            let (nanos, slow) = latency.draw(&mut random);
            slow_ones += u32::from(slow);
            assert!((10_000..if slow { 1_015_000 } else { 15_000 }).contains(&nanos));
        }
        assert!((800..1_200).contains(&slow_ones));
    }

    #[test]
    fn seeds_give_different_trouble() {
        let rates = |seed| SimulationOptions::rough(seed).disk.short_write;
        assert!((0..20).map(rates).any(|rate| rate == Rate::NEVER));
        assert!((0..20).map(rates).any(|rate| rate > Rate(10_000)));
    }
}
