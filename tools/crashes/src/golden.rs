//! Data directories of each format, kept as text, so that a newer build proves that it still reads them.
//!
//! ```text
//! file <path> <length>
//! <offset> <64 hex digits> [x<times>]      bytes that are not zero, and how often they follow each other
//! ```
//!
//! `cargo run -p crashes --bin golden -- format-<n>` writes the directory that this build makes, and what it
//! reads from it, to `tools/crashes/golden/format-<n>.image` and `.state`. Do that when a format changes and
//! never for a name that exists: what was released has to be read for ever.

use diskio::sim::SimDisk;
use diskio::{BLOCK_BYTES, Directory, FileName, IoIds, IoOperation, Machine, Requests};
use engine::command::{Command, DeleteRange, LeaseId, Txn, TxnOperation};
use engine::key::KeyRange;
use engine::testing::Random;

use crate::member::Member;
use crate::opening::open;
use crate::promise::Checked;
use crate::reader::{Reader, Unread, everything};
use crate::settings::{Settings, Shape};
use crate::slip::Slip;
use crate::truth::put;
use crate::world::World;

/// Names the sizes with which golden directories are made and opened.
const SEED: u64 = 1;
const ROW: usize = 32;

/// A small directory with everything in it: several checkpoints, dead versions, a compaction, leases, a value
/// of several blocks, a deleted key, a transaction, and entries that only the log has.
///
/// # Errors
/// A promise was broken on the way.
pub fn build() -> Checked<SimDisk> {
    let mut world = World::new(SEED, Slip::None).of_shape(Shape::Alone);
    let mut member = world.start()?;
    let lease = LeaseId(7);
    let grant = |id, ttl| Command::LeaseGrant {
        id: LeaseId(id),
        ttl,
    };
    world.command(&mut member, vec![grant(7, 60), grant(8, 3600)]);
    let many = (0..12).map(|number| {
        let lease = if number % 3 == 0 {
            lease
        } else {
            LeaseId::NONE
        };
        put(format!("key/{number:02}"), format!("first {number}"), lease)
    });
    world.command(&mut member, many.collect());
    world.checkpoint(&mut member)?;
    for round in 0..3 {
        let again = (0..4).map(|number| {
            put(
                format!("key/{number:02}"),
                format!("round {round}"),
                LeaseId::NONE,
            )
        });
        world.command(&mut member, again.collect());
    }
    world.command(
        &mut member,
        vec![put("large", vec![b'L'; 9000], LeaseId(8))],
    );
    world.command(
        &mut member,
        vec![delete("key/11"), Command::Compact { revision: 18 }],
    );
    world.checkpoint(&mut member)?;
    let txn = Txn {
        compare: Vec::new(),
        success: vec![
            TxnOperation::Put(match put("txn/a", "one", LeaseId::NONE) {
                Command::Put(put) => put,
                _ => unreachable!("a put"),
            }),
            TxnOperation::DeleteRange(DeleteRange {
                range: KeyRange::single("key/10".into()),
                prev_kv: false,
            }),
        ],
        failure: Vec::new(),
    };
    world.command(&mut member, vec![Command::Txn(txn)]);
    world.command(&mut member, vec![put("key/11", "again", lease)]);
    world.settle(&mut member)?;
    world.kill();
    Ok(world.disk)
}

fn delete(key: &'static str) -> Command {
    Command::DeleteRange(DeleteRange {
        range: KeyRange::single(key.into()),
        prev_kv: false,
    })
}

/// The files of `disk` as text.
pub fn dump(disk: &SimDisk) -> String {
    let mut out = String::from("# A data directory of ringd; see tools/crashes/src/golden.rs.\n");
    for (file, length) in disk.file_list() {
        out.push_str(&format!("file {} {length}\n", file.path()));
        let bytes = disk.bytes(file, 0, length);
        let mut rows = bytes.chunks(ROW).enumerate().peekable();
        while let Some((number, row)) = rows.next() {
            if row.iter().all(|byte| *byte == 0) {
                continue;
            }
            let mut times = 1;
            while rows.next_if(|(_, next)| *next == row).is_some() {
                times += 1;
            }
            out.push_str(&format!("{} ", number * ROW));
            for byte in row {
                out.push_str(&format!("{byte:02x}"));
            }
            out.push_str(&if times > 1 {
                format!(" x{times}\n")
            } else {
                "\n".to_owned()
            });
        }
    }
    out
}

/// The disk that a dump describes, all of it durable.
///
/// # Errors
/// The line that cannot be understood.
pub fn load(text: &str) -> Result<SimDisk, String> {
    let mut disk = SimDisk::new();
    let mut ids = IoIds::new(Machine::LOG);
    let mut present: Option<(FileName, Vec<u8>)> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let wrong = || format!("not a line of a golden directory: {line}");
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["file", path, length] => {
                store(&mut disk, &mut ids, present.take());
                let file = FileName::parse(path).ok_or_else(wrong)?;
                let length = length.parse().map_err(|_| wrong())?;
                present = Some((file, vec![0; length]));
            }
            [offset, row, ref times @ ..] => {
                let (_, bytes) = present.as_mut().ok_or_else(wrong)?;
                let offset: usize = offset.parse().map_err(|_| wrong())?;
                let row = from_hex(row).ok_or_else(wrong)?;
                let times: usize = match times {
                    [] => 1,
                    [times, ..] => times
                        .strip_prefix('x')
                        .and_then(|times| times.parse().ok())
                        .ok_or_else(wrong)?,
                };
                let place = bytes.get_mut(offset..offset + row.len() * times);
                let place = place.ok_or_else(wrong)?;
                place
                    .chunks_mut(row.len())
                    .for_each(|chunk| chunk.copy_from_slice(&row));
            }
            _ => return Err(wrong()),
        }
    }
    store(&mut disk, &mut ids, present.take());
    disk.settle_all();
    Ok(disk)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = (0..text.len()).step_by(2);
    let bytes = pairs.map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok());
    bytes
        .collect::<Option<Vec<u8>>>()
        .filter(|row| !row.is_empty())
}

fn store(disk: &mut SimDisk, ids: &mut IoIds, file: Option<(FileName, Vec<u8>)>) {
    let Some((file, mut bytes)) = file else {
        return;
    };
    let len = bytes.len() as u64;
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
    let mut requests = Vec::new();
    let mut out = Requests::urgent(ids, &mut requests);
    if matches!(file.directory(), Directory::Lane(_)) {
        out.push(Vec::new(), IoOperation::CreateDirectory(Directory::Log));
    }
    if file.directory() != Directory::Root {
        let create = IoOperation::CreateDirectory(file.directory());
        out.push(Vec::new(), create);
    }
    out.push(Vec::new(), IoOperation::Create { file, len });
    disk.accept(requests);
    while disk.in_flight() > 0 {
        let (_, done) = disk.complete(0);
        done.expect("a directory of its own");
    }
    disk.overwrite(file, 0, bytes);
}

/// Everything that a member reads from `disk`: keys, history, leases, hashes.
///
/// # Errors
/// Why it does not open, or what cannot be read.
pub fn describe(disk: &SimDisk) -> Result<String, String> {
    let settings = Settings::tiny(&mut Random::new(SEED));
    let mut disk = disk.clone();
    let opened = open(
        &mut disk,
        &settings,
        &mut Random::new(SEED),
        &mut |_| Ok(()),
    );
    let found = opened
        .map_err(|violation| violation.to_string())?
        .map_err(|error| error.to_string())?;
    let superblock = &found.opened.superblock;
    let mut out = format!(
        "cluster {} member {} checkpoint {} at index {} entries behind it {}\n",
        superblock.cluster_id,
        superblock.member_id,
        superblock.checkpoint_id,
        superblock.checkpoint_index,
        found.opened.entries.len(),
    );
    let mut member = Member::new(found, Shape::Alone, Slip::None);
    let last = member.last();
    member.commit(last);
    while member
        .step_engine_or_damage(&disk)
        .map_err(|it| it.to_string())?
    {}
    describe_state(&mut member, &disk, &mut out).map_err(|unread| unread.to_string())?;
    Ok(out)
}

fn describe_state(member: &mut Member, disk: &SimDisk, out: &mut String) -> Result<(), Unread> {
    let applied = member.coordinator.applied();
    let (revision, compacted) = (applied.revision, member.coordinator.compact_revision());
    let apply_hash = member.coordinator.apply_hash();
    let leases: Vec<(LeaseId, i64)> = member.coordinator.leases().iter().collect();
    let shards = &mut member.shards;
    let mut reader = Reader { shards, disk };
    let hash = reader.hash(revision, compacted)?;
    out.push_str(&format!("index {} revision {revision} compacted {compacted} apply hash {apply_hash:016x} hash {hash:08x}\n",
        applied.index
    ));
    for (lease, ttl) in leases {
        let keys = reader.lease_keys(lease)?;
        out.push_str(&format!("lease {} ttl {ttl} keys {keys:?}\n", lease.0));
    }
    for kv in reader.range(everything(), revision)? {
        out.push_str(&format!("key {}\n", line(&kv)));
    }
    let (events, unread) = reader.events(compacted.max(1), revision);
    for event in events {
        let (main, sub) = (event.revision.main, event.revision.sub);
        let what = if event.tombstone { "delete" } else { "put" };
        out.push_str(&format!("event {main}.{sub} {what} {}\n", line(&event.kv)));
    }
    unread.map_or(Ok(()), Err)
}

fn line(kv: &engine::command::KeyValue) -> String {
    let shown = &kv.value[..kv.value.len().min(20)];
    format!(
        "{:?} create {} mod {} version {} lease {} value of {} bytes, sum {:08x}, {:?}",
        kv.key,
        kv.create_revision,
        kv.mod_revision,
        kv.version,
        kv.lease.0,
        kv.value.len(),
        kv.value.iter().fold(0_u32, |sum, byte| sum
            .wrapping_mul(31)
            .wrapping_add((*byte).into())),
        String::from_utf8_lossy(shown),
    )
}
