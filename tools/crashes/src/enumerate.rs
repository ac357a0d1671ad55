//! Which crashes there are at a point, and worlds of rising seeds.

use diskio::sim::{Crash, Fate, SimDisk};
use engine::testing::Random;

use crate::promise::Checked;
use crate::slip::Slip;
use crate::world::World;

/// What an enumeration went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Crash states that were recovered from, executed and read.
    pub states: u64,
    /// Those inside a recovery.
    pub states_in_recovery: u64,
    /// Those of which history, older revisions, leases and single keys were read too.
    pub deep: u64,
    /// Points at which the world was cut.
    pub points: u64,
    /// Lives.
    pub lives: u64,
    /// Checkpoints that came to count.
    pub checkpoints: u64,
    /// Event segments created.
    pub segments_created: u64,
    /// Event segments deleted.
    pub segments_deleted: u64,
    /// Log segments given back or taken again.
    pub log_segments_recycled: u64,
    /// Slices of compaction and of emptying segments.
    pub slices: u64,
}

impl Counts {
    /// Adds another count.
    pub fn add(&mut self, other: Counts) {
        self.states += other.states;
        self.states_in_recovery += other.states_in_recovery;
        self.deep += other.deep;
        self.points += other.points;
        self.lives += other.lives;
        self.checkpoints += other.checkpoints;
        self.segments_created += other.segments_created;
        self.segments_deleted += other.segments_deleted;
        self.log_segments_recycled += other.log_segments_recycled;
        self.slices += other.slices;
    }
}

const FATES: [Fate; 5] = [
    Fate::Kept,
    Fate::Lost,
    Fate::Torn(1),
    Fate::Torn(!1),
    Fate::Torn(0x0f0f_0f0f_0f0f_0f0f),
];
/// With so many writes every combination of fates is tried.
const COMBINED_MAX: usize = 2;
/// Beyond it, random ones beside the systematic ones.
const RANDOM_CRASHES: usize = 5;

fn random_fate(random: &mut Random) -> Fate {
    FATES[[0, 0, 0, 0, 1, 1, 1, 2, 3, 4][random.index(10)]]
}

/// Some crash.
pub(crate) fn random_crash(disk: &SimDisk, random: &mut Random) -> Crash {
    if random.one_in(3) {
        let fates = disk.writes_in_flight().map(|_| random_fate(random));
        return Crash::Kill {
            fates: fates.collect(),
        };
    }
    let fates = disk.unsynced();
    let fates = fates.iter().map(|_| random_fate(random)).collect();
    let changes = disk.unsynced_changes();
    let changes = changes.iter().map(|count| random.index(*count + 1));
    Crash::Power {
        fates,
        changes: changes.collect(),
    }
}

fn combinations(writes: usize) -> Vec<Vec<Fate>> {
    let mut all = vec![Vec::new()];
    for _ in 0..writes {
        let with = |fates: &Vec<Fate>| {
            let fates = fates.clone();
            FATES.map(|fate| {
                let mut fates = fates.clone();
                fates.push(fate);
                fates
            })
        };
        all = all.iter().flat_map(with).collect();
    }
    all
}

/// Fates of `writes` writes: all combinations of few; of many all kept, all lost, one other than all.
fn fates(writes: usize, random: &mut Random) -> Vec<Vec<Fate>> {
    if writes <= COMBINED_MAX {
        return combinations(writes);
    }
    let mut all = vec![vec![Fate::Kept; writes], vec![Fate::Lost; writes]];
    for _ in 0..3 {
        let chosen = random.index(writes);
        for (common, other) in [(Fate::Kept, Fate::Lost), (Fate::Lost, Fate::Kept)] {
            let mut fates = vec![common; writes];
            fates[chosen] = other;
            all.push(fates);
        }
    }
    let drawn = (0..RANDOM_CRASHES).map(|_| (0..writes).map(|_| random_fate(random)).collect());
    all.extend(drawn.collect::<Vec<_>>());
    all
}

/// The crashes that are tried at a point.
pub(crate) fn crashes(disk: &SimDisk, random: &mut Random) -> Vec<Crash> {
    let changes = disk.unsynced_changes();
    let mut crashes = Vec::new();
    for fates in fates(disk.unsynced().len(), random) {
        // Names: all of them, or what was changed first.
        let changes = match random.one_in(2) {
            true => changes.clone(),
            false => changes
                .iter()
                .map(|count| random.index(*count + 1))
                .collect(),
        };
        crashes.push(Crash::Power { fates, changes });
    }
    let kills = fates(disk.writes_in_flight().count(), random);
    crashes.extend(kills.into_iter().map(|fates| Crash::Kill { fates }));
    crashes
}

/// Enumerates worlds of rising seeds until `states` crash states are checked. Half of the worlds live two
/// lives before the first cut, so that there is something to recycle, to free and to delete.
///
/// # Errors
/// The seed and the first broken promise.
pub fn enumerate(seed: u64, states: u64, slip: Slip) -> Checked<Counts> {
    let mut total = Counts::default();
    let mut run = seed;
    while total.states < states {
        let mut world = World::new(run, slip);
        let seasoned = match run % 2 {
            0 => world.run(2),
            _ => Ok(()),
        };
        world.enumerate(true);
        seasoned
            .and_then(|()| world.run(2))
            .map_err(|violation| violation.after(format!("seed {run}")))?;
        total.add(world.counts());
        run += 1;
    }
    Ok(total)
}
