//! Everything that one seed decides before the run begins: sizes, speeds, clients and lives.

use std::path::PathBuf;
use std::time::Duration;

use engine::store::MissingHook;
use reactor::sim::{Crash, DiskOperation, Random, SimulationOptions};
use ringd::config::AutoCompaction;
use ringd::cores::placement::Placement;
use ringd::identity::Identity;
use ringd::node::NodeOptions;

/// Where the member's data is on its simulated host.
pub const DATA_DIR: &str = "/data";

/// How a life of the member ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// A crash some steps after so many operations of this life were asked for.
    Load {
        /// Operations.
        operations: usize,
        /// Simulation steps after that.
        steps: u64,
        /// How.
        crash: Crash,
    },
    /// A crash at the n-th disk or network operation of this life: small numbers hit the recovery.
    Submission {
        /// Which, counted from the start of the life.
        after: u64,
        /// At the completion instead of the submission.
        at_completion: bool,
        /// How.
        crash: Crash,
    },
    /// Clients fall silent, and after a while the process is killed or the power goes.
    Idle {
        /// Operations.
        operations: usize,
        /// How.
        crash: Crash,
    },
    /// A clean stop.
    Stop {
        /// Operations.
        operations: usize,
    },
    /// The n-th such disk operation of this life fails.
    Fault {
        /// Kind.
        operation: DiskOperation,
        /// Number, from the start of the life.
        after: u64,
        /// A power cut follows instead of a kill.
        power_cut: bool,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The hardware.
    pub simulation: SimulationOptions,
    /// The member.
    pub options: NodeOptions,
    /// Its cores.
    pub cores: u16,
    /// Calls under way on each link between two of them.
    pub link_capacity: usize,
    /// Clients that read and write.
    pub clients: usize,
    /// Watch streams.
    pub watchers: usize,
    /// Clients that grant, renew and leave leases.
    pub lease_keepers: usize,
    /// Different keys.
    pub keys: u64,
    /// Longest usual pause of a client between two operations.
    pub pause_most: Duration,
    /// Operations in all.
    pub operations: usize,
    /// Crashes at least.
    pub crashes: usize,
    /// Ends of the lives before the last one.
    pub ends: Vec<End>,
    /// Clients speak gRPC through the simulated network.
    pub wire: bool,
    /// What becomes scarce.
    pub shortage: Option<Shortage>,
    /// Keys are at least so long.
    pub key_bytes: usize,
}

/// Something runs out while a life serves, and is there again after a while.
#[derive(Clone, Copy, Debug)]
pub struct Shortage {
    /// What.
    pub of: Scarce,
    /// So many operations after the life began to serve.
    pub after: usize,
    /// For so long.
    pub time: Duration,
}

/// What a shortage is one of.
#[derive(Clone, Copy, Debug)]
pub enum Scarce {
    /// Room on the disk: only so many more bytes can be had.
    Space(u64),
    /// Descriptors: no file can be opened or created.
    Files,
}

/// How long a run is.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// Operations at least.
    pub operations: usize,
    /// Crashes at least.
    pub crashes: usize,
}

impl Length {
    /// What every seed of a campaign has.
    pub const FULL: Length = Length {
        operations: 2_000,
        crashes: 3,
    };
}

impl Plan {
    /// The plan of `seed`; one seed in 50 speaks gRPC.
    pub fn new(seed: u64, length: Length) -> Plan {
        Plan::with_wire(seed, length, seed % 50 == 17)
    }

    /// The plan of `seed`, with or without the wire. Three in four have small stores.
    pub fn with_wire(seed: u64, length: Length, wire: bool) -> Plan {
        let plan = Plan::plain(seed, length, wire);
        match seed % 4 {
            0 => plan,
            _ => plan.with_small_store(),
        }
    }

    /// The plan of `seed` with a store of usual sizes: no checkpoint is ever due, and nothing is scarce.
    pub fn plain(seed: u64, length: Length, wire: bool) -> Plan {
        let mut random = Random::new(seed ^ 0x706c_616e);
        let random = &mut random;
        let rough = random.below(4) > 0;
        let simulation = if rough {
            SimulationOptions::rough(seed)
        } else {
            SimulationOptions::calm()
        };
        let operations = length.operations + random.below(500) as usize;
        let lives = length.crashes + random.below(4) as usize;
        let ends = draw_ends(random, lives, length.crashes, operations);
        let mut options = draw_options(random);
        options.whole_bytes_max = draw_whole_bytes(seed);
        let cores = Cores::draw(seed);
        options.placement = cores.placement;
        Plan {
            seed,
            simulation,
            options,
            cores: cores.count,
            link_capacity: cores.link_capacity,
            clients: random.between(2, 8) as usize,
            watchers: random.between(1, 3) as usize,
            lease_keepers: random.between(1, 2) as usize,
            keys: random.between(8, 60),
            pause_most: Duration::from_micros([0, 200, 2_000, 20_000][random.index(4)]),
            operations,
            crashes: length.crashes,
            ends,
            wire,
            shortage: None,
            key_bytes: 0,
        }
    }

    /// The same with checkpoints every few entries, small segments and tiny caches, and perhaps a shortage.
    fn with_small_store(mut self) -> Plan {
        let mut random = Random::new(self.seed ^ 0x7374_6f72);
        draw_store(&mut random, &mut self.options);
        if random.below(3) == 0 {
            self.keys = random.between(200, 1_000);
            self.key_bytes = [100, 400, 900][random.index(3)];
        }
        if random.below(3) == 0 {
            self.shortage = Some(draw_shortage(&mut random));
        }
        self
    }
}

/// From which size on answers come in parts: a few bytes in half of the seeds.
fn draw_whole_bytes(seed: u64) -> usize {
    let mut random = Random::new(seed ^ 0x6c69_7374);
    [0, 100, 2 << 10, 1 << 20, 1 << 20, 1 << 20][random.index(6)]
}

fn draw_store(random: &mut Random, options: &mut NodeOptions) {
    let checkpoints = &mut options.checkpoints;
    checkpoints.operations = [10, 40, 40, 150, 150, u64::MAX][random.index(6)];
    checkpoints.log_bytes = [4 << 10, 32 << 10, u64::MAX, u64::MAX][random.index(4)];
    checkpoints.dirty_percent = [10, 40][random.index(2)];
    checkpoints.idle = Duration::from_millis([100, 2_000, 600_000][random.index(3)]);
    checkpoints.stop_dirty_bytes_max = [0, 1 << 20][random.index(2)];
    checkpoints.reclaim_bytes = [1 << 10, 16 << 10, 1 << 20][random.index(3)];
    let store = &mut options.store;
    store.segment_bytes_first = [4 << 10, 8 << 10, 32 << 10][random.index(3)];
    store.segment_bytes_max = store.segment_bytes_first << random.below(3);
    store.piece_bytes = 4 << 10;
    store.tail_bytes_max = [0, 16 << 10, 1 << 20][random.index(3)];
    // The smallest hold less than a step of a read needs.
    store.value_cache_bytes = [0, 8 << 10, 128 << 10, 1 << 20][random.index(4)];
    // The tree of a shard has a handful of pages: a few of them leave, or none.
    store.page_cache_bytes = [512 << 10, 1 << 20, 16 << 20][random.index(3)];
    if random.below(3) == 0 {
        let period = Duration::from_millis(random.between(50, 2_000));
        options.auto_compaction = Some(AutoCompaction::Periodic(period));
    }
    if random.below(3) == 0 {
        options.scrub_interval = Duration::from_millis(random.between(100, 2_000));
    }
}

fn draw_shortage(random: &mut Random) -> Shortage {
    Shortage {
        of: match random.below(3) {
            0 => Scarce::Files,
            _ => Scarce::Space(random.below(300) << 10),
        },
        after: random.below(200) as usize,
        time: Duration::from_millis(random.between(20, 3_000)),
    }
}

/// The member's cores.
struct Cores {
    count: u16,
    link_capacity: usize,
    placement: Placement,
}

impl Cores {
    /// Draws of their own, so that the rest of a plan does not depend on them.
    fn draw(seed: u64) -> Cores {
        let mut random = Random::new(seed ^ 0x636f_7265);
        let placement = match random.below(8) {
            0 => Placement::Gathered,
            1..4 => Placement::Spread,
            _ => Placement::Random {
                pause_max: Duration::from_micros([500, 5_000, 50_000][random.index(3)]),
            },
        };
        Cores {
            count: [1, 2, 4][random.index(3)],
            link_capacity: [1, 2, 1024][random.index(3)],
            placement,
        }
    }
}

fn draw_options(random: &mut Random) -> NodeOptions {
    let identity = Identity {
        cluster_id: 0x0c10_57e4,
        member_id: 0x3e3b_e401,
    };
    let mut options = NodeOptions::new(PathBuf::from(DATA_DIR), identity);
    options.entries_in_flight_max = random.between(1, 6);
    options.watch_progress_interval = Duration::from_millis(random.between(50, 2_000));
    if random.below(2) == 0 {
        options.missing = Some(MissingHook {
            seed: random.next_u64(),
            one_in: [3, 10, 50, 300][random.index(4)],
            rearm_after: random.between(1, 64) as u32,
        });
        options.load_delay_max = Duration::from_micros([0, 50, 500][random.index(3)]);
    }
    if random.below(8) == 0 {
        options.request_timeout = Duration::from_millis(random.between(1, 20));
    }
    let log = &mut options.log;
    log.record_bytes_max = 128 << 10;
    log.segment_bytes = log.record_bytes_max + [8 << 10, 32 << 10, 128 << 10][random.index(3)];
    log.batch_bytes_target = [1 << 10, 4 << 10, 32 << 10][random.index(3)];
    log.writes_in_flight_max = random.between(1, 4) as u32;
    log.busy_bytes_min = [0, 0, 2 << 10][random.index(3)];
    log.spare_segments = random.between(1, 3) as u32;
    log.beacon_delay_nanos = [200_000, 2_000_000, 20_000_000][random.index(3)];
    log.wseq_reserve = [16, 64, 1 << 20][random.index(3)];
    log.prewrite_bytes = [4 << 10, 16 << 10, 64 << 10][random.index(3)];
    log.prewrite_gap_bytes = [4 << 10, 16 << 10][random.index(2)];
    log.scan_read_bytes = [4 << 10, 64 << 10, 1 << 20][random.index(3)];
    log.scan_reads_in_flight_max = random.between(1, 4) as u32;
    options
}

fn draw_crash(random: &mut Random) -> Crash {
    match random.below(20) {
        0..8 => Crash::Kill,
        8..16 => Crash::PowerCut,
        16..19 => Crash::PowerCutAllLost,
        _ => Crash::PowerCutAllKept,
    }
}

/// Draws ends until the run has its crashes; every end is one, only clean stops do not count.
fn draw_ends(random: &mut Random, lives: usize, crashes: usize, operations: usize) -> Vec<End> {
    let share = (operations / (lives + 1)).max(10);
    let mut ends = Vec::new();
    let mut crashed = 0;
    while ends.len() < lives || crashed < crashes {
        let end = draw_end(random, share);
        crashed += usize::from(!matches!(end, End::Stop { .. }));
        ends.push(end);
    }
    ends
}

fn draw_end(random: &mut Random, share: usize) -> End {
    let operations = random.between(share as u64 / 2, share as u64 * 3 / 2) as usize;
    let crash = draw_crash(random);
    match random.below(20) {
        0..9 => End::Load {
            operations,
            steps: random.below(300),
            crash,
        },
        9..14 => End::Submission {
            after: match random.below(2) {
                0 => random.below(80),
                _ => random.below(share as u64 * 4),
            },
            at_completion: random.below(2) == 0,
            crash,
        },
        14..16 => End::Idle { operations, crash },
        16 => End::Stop { operations },
        _ => End::Fault {
            operation: [
                DiskOperation::Write,
                DiskOperation::Sync,
                DiskOperation::Sync,
                DiskOperation::Read,
                DiskOperation::SyncDirectory,
            ][random.index(5)],
            after: match random.below(3) {
                0 => random.below(20),
                _ => random.below(share as u64),
            },
            power_cut: random.below(2) == 0,
        },
    }
}
