//! One storage fault after a life: damage, a lost synced write, a misdirected one.
//!
//! Every outcome is either the whole acknowledged log, or an error that names file, offset and what is
//! missing. The one exception is counted: acknowledged entries above every piece of durable evidence.

use super::promise::{Checked, Promise, broken};
use super::world::{Style, World, new_directory, open_disk};
use super::{Crash, Fate, Random};
use crate::io::FileName;
use crate::{AcceptedLoss, BLOCK_BYTES, OpenError, Opened, Opening};
use diskio::sim::SimDisk;

/// How the life before the fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// A clean stop.
    CleanStop,
    /// Killed while idle, after the beacon.
    IdleKill,
    /// Killed under load.
    LoadedKill,
}

/// Outcomes of the faults tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Faults tried.
    pub faults: u64,
    /// Everything acknowledged was found.
    pub intact: u64,
    /// The log was called faulty, with the missing range.
    pub faulty: u64,
    /// The directory was refused.
    pub refused: u64,
    /// Acknowledged entries above every piece of durable evidence were lost.
    pub above_evidence: u64,
    /// Length of all files, in bytes.
    pub image_bytes: u64,
}

impl FaultCounts {
    /// Adds another count.
    pub fn add(&mut self, other: FaultCounts) {
        self.faults += other.faults;
        self.intact += other.intact;
        self.faulty += other.faulty;
        self.refused += other.refused;
        self.above_evidence += other.above_evidence;
        self.image_bytes = self.image_bytes.max(other.image_bytes);
    }
}

fn image(seed: u64, style: Style, image: Image) -> Checked<World> {
    let mut world = World::new(seed, style, false);
    world.run(1)?;
    world.life()?;
    match image {
        Image::CleanStop => world.stop_once()?,
        Image::IdleKill => world.settle()?,
        Image::LoadedKill => {}
    }
    let fates = world.disk.writes_in_flight().map(|_| Fate::Kept).collect();
    world.end_life(&Crash::Kill { fates });
    world.disk.settle_all();
    Ok(world)
}

/// Damages every 64 bytes of every file: flipped, zeroed, and its block swapped with the next one.
///
/// # Errors
/// The first silent difference, or an error without place.
pub fn sweep(seed: u64, style: Style, kind: Image) -> Checked<FaultCounts> {
    let world = image(seed, style, kind)?;
    let mut counts = FaultCounts::default();
    for (file, length) in world.disk.file_list() {
        counts.image_bytes += length;
        for offset in (0..length).step_by(64) {
            for damage in 0..3 {
                let Some(mut disk) = damaged(&world.disk, file, offset, length, damage) else {
                    continue;
                };
                judge(&world, &mut disk, &mut counts).map_err(|violation| {
                    violation.after(format!("{file} at {offset}, damage {damage}"))
                })?;
            }
        }
    }
    if kind != Image::LoadedKill && counts.above_evidence > 0 {
        return broken(
            Promise::LossReported,
            format!("{kind:?} lost entries above the evidence: {counts:?}"),
        );
    }
    Ok(counts)
}

/// The disk with one damage; `None` if it changes nothing.
fn damaged(
    disk: &SimDisk,
    file: FileName,
    offset: u64,
    length: u64,
    damage: u32,
) -> Option<SimDisk> {
    let block = offset / BLOCK_BYTES * BLOCK_BYTES;
    let start = (offset - block) as usize;
    let old = disk.bytes(file, block, BLOCK_BYTES);
    let mut new = old.clone();
    match damage {
        0 => new[start..start + 64]
            .iter_mut()
            .for_each(|byte| *byte = !*byte),
        1 => new[start..start + 64].fill(0),
        _ => {
            // A swap concerns whole blocks, so once per block is enough.
            let next = (block + BLOCK_BYTES) % length;
            new = disk.bytes(file, next, BLOCK_BYTES);
            if start != 0 || new == old {
                return None;
            }
            let mut damaged = disk.clone();
            damaged.overwrite(file, next, old);
            damaged.overwrite(file, block, new);
            return Some(damaged);
        }
    }
    if new == old {
        return None;
    }
    let mut damaged = disk.clone();
    damaged.overwrite(file, block, new);
    Some(damaged)
}

/// One random life with one random fault: damage, an older content of a block, a block at a wrong place.
///
/// # Errors
/// The first silent difference, or an error without place.
pub fn random_fault(seed: u64, style: Style, counts: &mut FaultCounts) -> Checked<()> {
    let mut random = Random::new(seed ^ 0xFA17);
    let mut world = World::new(seed, style, false);
    world.run(random.below(3))?;
    let before = world.disk.clone();
    world.life()?;
    if random.percent(40) {
        world.settle()?;
    }
    let fates = world.disk.unsynced().iter().map(|_| Fate::Kept).collect();
    world.end_life(&Crash::Power {
        fates,
        changes: vec![usize::MAX; 8],
    });
    for _ in 0..12 {
        let mut disk = world.disk.clone();
        if fault(&mut disk, &before, &mut random) {
            judge(&world, &mut disk, counts)?;
        }
    }
    Ok(())
}

fn fault(disk: &mut SimDisk, before: &SimDisk, random: &mut Random) -> bool {
    let mut used = Vec::new();
    for (file, length) in disk.file_list() {
        for offset in (0..length).step_by(BLOCK_BYTES as usize) {
            let bytes = disk.bytes(file, offset, BLOCK_BYTES);
            let superblock = file == FileName::Superblock;
            if bytes.iter().any(|byte| *byte != 0) && (!superblock || random.percent(20)) {
                used.push((file, offset, bytes));
            }
        }
    }
    if used.is_empty() {
        return false;
    }
    let (file, offset, mut bytes) = used.swap_remove(random.below(used.len() as u64) as usize);
    match random.below(3) {
        0 => bytes[random.below(BLOCK_BYTES) as usize] ^= 0x40,
        1 => {
            bytes = before.bytes(file, offset, BLOCK_BYTES);
            bytes.resize(BLOCK_BYTES as usize, 0);
        }
        _ => {
            let Some((file, offset, _)) = used.first().cloned() else {
                return false;
            };
            disk.overwrite(file, offset, bytes);
            return true;
        }
    }
    disk.overwrite(file, offset, bytes);
    true
}

fn opening(world: &World) -> Opening {
    Opening::new(world.config.clone(), Some(new_directory()))
}

fn judge(world: &World, disk: &mut SimDisk, counts: &mut FaultCounts) -> Checked<()> {
    counts.faults += 1;
    match open_disk(disk, opening(world)) {
        Ok(opened) => judge_opened(world, &opened, counts),
        Err(OpenError::Faulty(faulty)) => {
            counts.faulty += 1;
            named(&OpenError::Faulty(faulty.clone()))?;
            let loss = AcceptedLoss {
                first_missing: faulty.first_missing,
                last_missing: faulty.last_missing,
            };
            judge_again(world, disk, loss)
        }
        Err(error) => {
            counts.refused += 1;
            named(&error)
        }
    }
}

/// A faulty log stays faulty until the loss is accepted by name; then it opens for good.
fn judge_again(world: &World, disk: &mut SimDisk, loss: AcceptedLoss) -> Checked<()> {
    if open_disk(disk, opening(world)).is_ok() {
        return broken(
            Promise::FaultRemembered,
            "the fault was forgotten at the second opening",
        );
    }
    let opens = |result: Result<Opened, OpenError>| {
        result.or_else(|error| broken(Promise::AcceptedLossOpens, error.to_string()))
    };
    let salvaged = opens(open_disk(disk, opening(world).accept(loss)))?;
    if salvaged.superblock.salvaged.is_none() {
        return broken(
            Promise::AcceptedLossOpens,
            "the accepted loss is not recorded",
        );
    }
    disk.settle_all();
    let again = opens(open_disk(disk, opening(world)))?;
    if again.entries.len() != salvaged.entries.len() {
        return broken(
            Promise::AcceptedLossOpens,
            "the log changed after an accepted loss",
        );
    }
    Ok(())
}

fn named(error: &OpenError) -> Checked<()> {
    let text = error.to_string();
    let missing = ["missing", "superblock", "damaged"];
    let complete = text.contains("at byte") && missing.iter().any(|word| text.contains(word));
    if complete && !matches!(error, OpenError::Io { .. }) {
        return Ok(());
    }
    broken(Promise::ErrorNamesPlace, text)
}

fn judge_opened(world: &World, opened: &Opened, counts: &mut FaultCounts) -> Checked<()> {
    let oracle = &world.oracle;
    let promised = &oracle.log[..oracle.acknowledged];
    let found = world.found_log(opened);
    let pairs = promised.iter().zip(&found);
    let good = pairs.take_while(|(one, other)| one == other).count();
    if good == promised.len() {
        counts.intact += 1;
        return world.check(opened);
    }
    if good as u64 >= oracle.evidence {
        counts.above_evidence += 1;
        return Ok(());
    }
    let evidence = oracle.evidence;
    broken(
        Promise::LossReported,
        format!("{promised:?} promised, {found:?} found, evidence up to {evidence}"),
    )
}
