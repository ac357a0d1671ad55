//! Storage faults: bytes of a directory change behind everybody's back.
//!
//! Whatever is damaged, a start either refuses and says file and offset, or the member starts and each
//! read is right or an error that says file and offset.

use bytes::Bytes;
use diskio::sim::SimDisk;
use diskio::{BLOCK_BYTES, Directory, FileName};
use engine::command::LeaseId;
use engine::key::KeyRange;
use engine::shard::{Damage, shard_of};
use engine::testing::Random;

use crate::judge::check_executed;
use crate::member::Member;
use crate::opening::{Found, StartError, open};
use crate::promise::{Checked, Promise, broken};
use crate::reader::{Reader, Unread};
use crate::settings::{SHARDS, Shape};
use crate::slip::Slip;
use crate::truth::put;
use crate::world::World;

/// Bytes that one damage changes.
const STEP: u64 = 64;
/// Most live keys of which one damage in an event segment may take the values: those of the records that lie
/// in the bytes, of at least 48 bytes each.
const RECORDS_IN_STEP: usize = 3;
/// Long keys of an image, and how many of them an entry puts.
const KEYS: usize = 150;
const PER_ENTRY: usize = 10;
/// Most long keys of a leaf of 16 KiB.
const LEAF_KEYS: usize = 40;
/// Longest piece or page: as far before the damage may the named offset be.
const REACH: u64 = 256 << 10;

/// What the damages did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Directories with one damage each.
    pub faults: u64,
    /// The superblock, the log or a shard refused, with file and offset.
    pub refused: u64,
    /// Replay needed damaged bytes: the member stops, with file and offset.
    pub stopped: u64,
    /// All reads were right.
    pub intact: u64,
    /// Some reads answered a damage with file and offset, all others were right.
    pub partly: u64,
    /// Of these: a single value, all other keys readable.
    pub one_value: u64,
    /// Of these: a leaf, all other keys readable.
    pub one_leaf: u64,
    /// Of these: a page above the leaves, keys of other pages or shards readable.
    pub inner_page: u64,
    /// Of these: only history.
    pub history_only: u64,
}

impl FaultCounts {
    /// Adds another count.
    pub fn add(&mut self, other: FaultCounts) {
        self.faults += other.faults;
        self.refused += other.refused;
        self.stopped += other.stopped;
        self.intact += other.intact;
        self.partly += other.partly;
        self.one_value += other.one_value;
        self.one_leaf += other.one_leaf;
        self.inner_page += other.inner_page;
        self.history_only += other.history_only;
    }
}

/// A directory at rest with a checkpoint.
pub struct SweepImage {
    world: World,
}

impl SweepImage {
    /// The directory that `seed` leads to; its tree has several leaves. With a `tail` the log has entries behind
    /// the checkpoint.
    ///
    /// # Errors
    /// A promise was broken on the way.
    pub fn new(seed: u64, tail: bool) -> Checked<SweepImage> {
        let mut world = World::new(seed, Slip::None).of_shape(Shape::Alone);
        world.run(1)?;
        let mut member = world.start()?;
        world.live(&mut member, 400)?;
        // Long keys, so that there are leaves to lose; what lives need more of them does not.
        for first in (0..KEYS).step_by(PER_ENTRY) {
            let keys = (first..first + PER_ENTRY).map(|number| format!("z/{number:.<600}"));
            let puts = keys.map(|key| put(key, vec![b'v'; 200], LeaseId::NONE));
            world.command(&mut member, puts.collect());
            world.checkpoint(&mut member)?;
        }
        if tail {
            world.live(&mut member, 30)?;
        }
        // The log's watermark too.
        world.settle(&mut member)?;
        world.settle(&mut member)?;
        world.kill();
        Ok(SweepImage { world })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let files = self.world.disk.file_list();
        files.iter().map(|(_, length)| length).sum()
    }

    /// Every file with its length.
    pub fn files(&self) -> Vec<(FileName, u64)> {
        self.world.disk.file_list()
    }
}

/// How bytes are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damaging {
    Flipped,
    Zeroed,
    Swapped,
}

/// Damages every 64 bytes of every file, in `of` parts of which this is `part`: flipped, zeroed, and each block
/// swapped with another one of any file.
///
/// # Errors
/// The first silent difference, error without place or key that is lost without need.
pub fn sweep(image: &SweepImage, part: u64, of: u64) -> Checked<FaultCounts> {
    let mut counts = FaultCounts::default();
    let mut number = 0;
    let mut random = Random::new(part);
    let files = image.files();
    for &(file, length) in &files {
        for offset in (0..length).step_by(STEP as usize) {
            number += 1;
            if number % of != part {
                continue;
            }
            for damaging in [Damaging::Flipped, Damaging::Zeroed, Damaging::Swapped] {
                // The other block may be of any file, so also of another shard.
                let (other, blocks) = files[random.index(files.len())];
                let other = (other, random.below(blocks / BLOCK_BYTES) * BLOCK_BYTES);
                let disk = damaged(&image.world.disk, (file, offset), damaging, other);
                let Some(disk) = disk else {
                    continue;
                };
                let bytes = match damaging {
                    Damaging::Swapped => None,
                    _ => Some((file, offset)),
                };
                judge(&image.world, disk, bytes, &mut counts).map_err(|violation| {
                    violation.after(format!("{} at {offset} {damaging:?}", file.path()))
                })?;
            }
        }
    }
    Ok(counts)
}

/// The disk with one damage; `None` if it changes nothing. A swap is with the block `other`.
fn damaged(
    disk: &SimDisk,
    (file, offset): (FileName, u64),
    damaging: Damaging,
    (other_file, other): (FileName, u64),
) -> Option<SimDisk> {
    let block = offset / BLOCK_BYTES * BLOCK_BYTES;
    let start = (offset - block) as usize;
    let old = disk.bytes(file, block, BLOCK_BYTES);
    let mut new = old.clone();
    let mut damaged = disk.clone();
    match damaging {
        Damaging::Flipped => new[start..start + STEP as usize]
            .iter_mut()
            .for_each(|byte| *byte = !*byte),
        Damaging::Zeroed => new[start..start + STEP as usize].fill(0),
        Damaging::Swapped if start == 0 => {
            new = disk.bytes(other_file, other, BLOCK_BYTES);
            damaged.overwrite(other_file, other, old.clone());
        }
        Damaging::Swapped => return None,
    }
    if new == old {
        return None;
    }
    damaged.overwrite(file, block, new);
    Some(damaged)
}

/// Reverts, one by one, the blocks that the last checkpoint of a random life wrote: as if the device had lost
/// the write and said that it is durable.
///
/// # Errors
/// The first silent difference, or an error without place.
pub fn lost_writes(seed: u64, slip: Slip) -> Checked<FaultCounts> {
    let mut world = World::new(seed, slip).of_shape(Shape::Alone);
    world.run(2)?;
    let before = world.disk.clone();
    let mut member = world.start()?;
    world.live(&mut member, 60)?;
    world.checkpoint(&mut member)?;
    world.kill();
    let mut counts = FaultCounts::default();
    for (file, length) in world.disk.file_list() {
        if !matches!(file, FileName::Pages { .. } | FileName::Events { .. }) {
            continue;
        }
        for offset in (0..length).step_by(BLOCK_BYTES as usize) {
            let new = world.disk.bytes(file, offset, BLOCK_BYTES);
            let mut old = before.bytes(file, offset, BLOCK_BYTES);
            old.resize(BLOCK_BYTES as usize, 0);
            if new == old {
                continue;
            }
            let mut disk = world.disk.clone();
            disk.overwrite(file, offset, old);
            judge(&world, disk, None, &mut counts).map_err(|violation| {
                violation.after(format!("{} at {offset} lost", file.path()))
            })?;
        }
    }
    Ok(counts)
}

/// Starts from `disk` and reads everything; `bytes` are the damaged ones, if they lie together.
fn judge(
    world: &World,
    mut disk: SimDisk,
    bytes: Option<(FileName, u64)>,
    counts: &mut FaultCounts,
) -> Checked<()> {
    counts.faults += 1;
    let mut random = Random::new(1);
    let found = open(&mut disk, &world.settings, &mut random, &mut |_| Ok(()))?;
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            counts.refused += 1;
            return refusal_names_its_place(&error);
        }
    };
    let Some(mut member) = started(world, &disk, found, bytes, counts)? else {
        return Ok(());
    };
    let unread = read_all(world, &mut member, &disk, bytes)?;
    classify(&unread, bytes, counts)
}

fn refusal_names_its_place(error: &StartError) -> Checked<()> {
    let text = error.to_string();
    let says_where = text.contains("at byte");
    let by_a_machine = matches!(error, StartError::Log(_) | StartError::Shard(_));
    if says_where && by_a_machine {
        return Ok(());
    }
    broken(Promise::ErrorNamesPlace, text)
}

/// The member after its replay; none if it stops in it and says why.
fn started(
    world: &World,
    disk: &SimDisk,
    found: Found,
    bytes: Option<(FileName, u64)>,
    counts: &mut FaultCounts,
) -> Checked<Option<Member>> {
    let mut member = Member::new(found, Shape::Alone, world.slip);
    let last = member.last();
    if last < world.promised.acknowledged {
        return broken(
            Promise::NoSilentDifference,
            format!("the log ends at {last}, {:?}", world.promised),
        );
    }
    member.commit(last);
    loop {
        match member.step_engine_or_damage(disk) {
            Ok(true) => {}
            Ok(false) => break,
            Err(unread) => {
                counts.stopped += 1;
                return names_its_place(&unread, bytes).map(|()| None);
            }
        }
    }
    let executed = check_executed(&member.take_executed(), &world.truth);
    executed.or_else(|violation| broken(Promise::NoSilentDifference, violation.to_string()))?;
    Ok(Some(member))
}

/// A damage is reported with the file that is damaged and a place close before the damage.
fn names_its_place(unread: &Unread, bytes: Option<(FileName, u64)>) -> Checked<()> {
    let Unread::Damaged(Damage { file, offset, .. }) = unread else {
        return broken(Promise::ErrorNamesPlace, unread.to_string());
    };
    let known = FileName::parse(file).is_some();
    let fits = bytes.is_none_or(|(damaged, at)| {
        *file == damaged.path() && *offset < at + STEP && offset + REACH > at
    });
    if known && fits {
        return Ok(());
    }
    broken(
        Promise::ErrorNamesPlace,
        format!("{unread}, damaged is {bytes:?}"),
    )
}

/// What could not be read.
#[derive(Debug, Default)]
struct NotRead {
    /// Live keys.
    keys: Vec<Bytes>,
    history: bool,
}

/// Every key by itself and all of history: right, or a damage that says where.
fn read_all(
    world: &World,
    member: &mut Member,
    disk: &SimDisk,
    bytes: Option<(FileName, u64)>,
) -> Checked<NotRead> {
    let index = member.coordinator.applied().index;
    let Some(state) = world.truth.state(index) else {
        return broken(Promise::NoSilentDifference, format!("entry {index}"));
    };
    let revision = state.oracle.revision();
    let shards = &mut member.shards;
    let mut reader = Reader { shards, disk };
    let mut not_read = NotRead::default();
    for kv in &state.kvs {
        match reader.range(KeyRange::single(kv.key.clone()), revision) {
            Ok(kvs) if kvs.len() == 1 && kvs[0] == *kv => {}
            Ok(kvs) => {
                return broken(
                    Promise::NoSilentDifference,
                    format!("{:?} reads {}", kv.key, text(&kvs)),
                );
            }
            Err(unread) => {
                names_its_place(&unread, bytes)?;
                not_read.keys.push(kv.key.clone());
            }
        }
    }
    let from = state.oracle.compact_revision().max(1);
    let (events, unread) = reader.events(from, revision);
    let should = state.oracle.events(from, revision, None, false);
    let right = should.starts_with(&events) && (unread.is_some() || events.len() == should.len());
    if !right {
        return broken(
            Promise::NoSilentDifference,
            format!("history reads {}", text(&events)),
        );
    }
    if let Some(unread) = &unread {
        names_its_place(unread, bytes)?;
        not_read.history = true;
    }
    Ok(not_read)
}

fn text(it: &impl std::fmt::Debug) -> String {
    format!("{it:?}").chars().take(300).collect()
}

/// Counts the case; damage to one value or one leaf concerns nobody else, and no damage another shard.
fn classify(
    not_read: &NotRead,
    bytes: Option<(FileName, u64)>,
    counts: &mut FaultCounts,
) -> Checked<()> {
    let keys = not_read.keys.len();
    if keys == 0 && !not_read.history {
        counts.intact += 1;
        return Ok(());
    }
    counts.partly += 1;
    if keys == 0 {
        counts.history_only += 1;
        return Ok(());
    }
    let Some((file, _)) = bytes else {
        return Ok(());
    };
    let of_another_shard = not_read.keys.iter().any(|key| {
        let shard = shard_of(key, SHARDS);
        file.directory() != Directory::Shard(shard)
    });
    let too_many = matches!(file, FileName::Events { .. }) && keys > RECORDS_IN_STEP;
    if of_another_shard || too_many {
        return broken(Promise::OthersStayReadable, text(not_read));
    }
    match file {
        FileName::Events { .. } => counts.one_value += 1,
        _ if keys <= LEAF_KEYS => counts.one_leaf += 1,
        _ => counts.inner_page += 1,
    }
    Ok(())
}
