//! Database files of bbolt, which come from clients.
//!
//! Of a file that is accepted, each bucket alone reads like the same bucket in a walk through everything. What
//! a file holds and a writer can write reads the same again, and so does a snapshot in etcd's layout.

use std::collections::BTreeMap;

use ::bolt::etcd::{
    AlarmMember, ConfState, KeyValue, Lease, Member, RevisionKey, Snapshot, SnapshotPlan,
    SnapshotWriter, State,
};
use ::bolt::{Database, Item, Plan, ReadError, Writer};

use crate::{steer, steered};

/// Leaves the meta pages' checksums as the fuzzer has them.
const KEEP_SUMS: u8 = 1;
/// The input is the pages without the zeros at their ends; the upper bits are the page size.
const PACKED: u8 = 2;
/// Bits of the steering byte below the page size, which is a number of doublings of 1 KiB.
const SIZE_SHIFT: u8 = 4;

type Records = Vec<(Vec<u8>, Vec<u8>)>;
type Buckets = BTreeMap<Vec<u8>, Records>;

/// Reads `data` as a file behind a byte that steers.
pub fn check(data: &[u8]) {
    let Some((steering, input)) = steered(data) else {
        return;
    };
    let mut file = match steering & PACKED {
        0 => input.to_vec(),
        _ => unpack(input, page_bytes(steering)),
    };
    if steering & KEEP_SUMS == 0 {
        repair(&mut file);
    }
    check_snapshot(&file);
    let Ok(mut database) = Database::open(&file[..], file.len() as u64) else {
        return;
    };
    let Some(buckets) = read(&mut database) else {
        return;
    };
    for (name, records) in &buckets {
        let mut walk = database
            .bucket(name)
            .expect("it was read")
            .expect("it is there");
        for (key, value) in records {
            let item = walk.next().expect("it was read");
            assert_eq!(item, Some(Item::Entry { key, value }));
        }
    }
    write_again(&buckets);
}

fn page_bytes(steering: u8) -> usize {
    1024 << ((steering >> SIZE_SHIFT) % 7)
}

/// Each page of `file` as its length without the zeros at its end, and its bytes, behind the byte that steers.
fn pack(file: &[u8], doublings: u8) -> Vec<u8> {
    let steering = PACKED | doublings << SIZE_SHIFT;
    let mut packed = vec![steering];
    for page in file.chunks(page_bytes(steering)) {
        let zeros = page.iter().rev().take_while(|byte| **byte == 0).count();
        let bytes = &page[..page.len() - zeros];
        packed.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        packed.extend_from_slice(bytes);
    }
    packed
}

fn unpack(mut packed: &[u8], page_bytes: usize) -> Vec<u8> {
    let mut file = Vec::new();
    while let Some((len, rest)) = packed.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len))
            .min(page_bytes)
            .min(rest.len());
        let end = file.len() + page_bytes;
        file.extend_from_slice(&rest[..len]);
        file.resize(end, 0);
        packed = &rest[len..];
    }
    file
}

/// Makes the checksums of both meta pages right at the page size that the first tells.
fn repair(file: &mut [u8]) {
    let Some(page_bytes) = file.get(24..28) else {
        return;
    };
    let page_bytes = page_bytes
        .iter()
        .rev()
        .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    for page in [0, page_bytes] {
        let Some(fields) = page
            .checked_add(80)
            .and_then(|end| file.get_mut(page + 16..end))
        else {
            continue;
        };
        let sum = fields[..56]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
                (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        fields[56..].copy_from_slice(&sum.to_le_bytes());
    }
}

/// What is in a snapshot.
#[derive(Debug, PartialEq)]
struct Content {
    state: State,
    versions: Vec<(RevisionKey, KeyValue)>,
    leases: Vec<Lease>,
}

fn check_snapshot(file: &[u8]) {
    let Ok(mut snapshot) = Snapshot::open(file, file.len() as u64) else {
        return;
    };
    let sum_is_right = snapshot.check_sum().is_ok();
    let status = snapshot.status();
    match read_snapshot(&mut snapshot) {
        Ok(content) => {
            let again = write_snapshot(&content);
            let mut again = Snapshot::open(&again[..], again.len() as u64).expect("our own file");
            again.check_sum().expect("our own sum");
            assert_eq!(read_snapshot(&mut again).expect("our own file"), content);
            let again = again.status().expect("our own file");
            if let Ok(status) = status {
                assert_eq!(again.total_keys, status.total_keys);
            }
        }
        Err(error) => drop((error.to_string(), sum_is_right)),
    }
}

fn read_snapshot(snapshot: &mut Snapshot<&[u8]>) -> Result<Content, ReadError> {
    let state = snapshot.state()?;
    let (mut read, mut versions) = (snapshot.versions()?, Vec::new());
    while let Some(version) = read.next_version()? {
        versions.push(version);
    }
    let (mut read, mut leases) = (snapshot.leases()?, Vec::new());
    while let Some(lease) = read.next_lease()? {
        leases.push(lease);
    }
    Ok(Content {
        state,
        versions,
        leases,
    })
}

fn write_snapshot(content: &Content) -> Vec<u8> {
    let mut plan = SnapshotPlan::new(content.state.clone());
    for (revision, version) in content.versions.iter().rev() {
        plan.add_version(*revision, version);
    }
    plan.add_leases(content.leases.len() as u64);
    let mut writer = SnapshotWriter::new(plan).expect("a writer");
    for (revision, version) in &content.versions {
        writer
            .push_version(*revision, version)
            .expect("a planned version");
    }
    for lease in &content.leases {
        writer.push_lease(lease).expect("a planned lease");
    }
    writer.finish();
    let mut file = Vec::new();
    while let Some(piece) = writer.take() {
        file.extend(piece);
    }
    file
}

/// A little of everything.
fn content() -> Content {
    let revision = |main| RevisionKey {
        main,
        sub: 0,
        tombstone: main == 3,
    };
    let put = KeyValue {
        key: "k".into(),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        value: "v".into(),
        lease: 1,
    };
    let deletion = KeyValue {
        key: "k".into(),
        ..KeyValue::default()
    };
    let member = Member {
        id: 1,
        name: "m".to_owned(),
        ..Member::default()
    };
    let alarm = AlarmMember {
        member_id: 1,
        alarm: 1,
    };
    Content {
        state: State {
            consistent_index: 7,
            term: 3,
            conf_state: Some(ConfState::default()),
            scheduled_compact_revision: Some(2),
            finished_compact_revision: Some(2),
            storage_version: Some("3.7.0".to_owned()),
            cluster_version: Some("3.7.0".to_owned()),
            members: vec![member],
            members_removed: [9].into(),
            alarms: [alarm].into(),
            auth_enabled: Some(true),
            auth_revision: Some(1),
            ..State::default()
        },
        versions: vec![(revision(2), put), (revision(3), deletion)],
        leases: vec![Lease {
            id: 1,
            ttl: 60,
            remaining_ttl: 0,
        }],
    }
}

/// Everything in the database, if it is sound and has no entries outside buckets and no buckets inside others.
fn read(database: &mut Database<&[u8]>) -> Option<Buckets> {
    let mut buckets = Buckets::new();
    let mut walk = database.walk();
    let mut current: Option<(Vec<u8>, Records)> = None;
    let mut is_flat = true;
    loop {
        match walk.next() {
            Ok(Some(Item::Bucket { name, depth })) => {
                is_flat &= depth == 0;
                current = Some((name.to_vec(), Vec::new()));
            }
            Ok(Some(Item::Entry { key, value })) => match &mut current {
                Some((_, records)) => records.push((key.to_vec(), value.to_vec())),
                None => is_flat = false,
            },
            Ok(Some(Item::End)) => buckets.extend(current.take()),
            Ok(None) => return is_flat.then_some(buckets),
            Err(error) => {
                drop(error.to_string());
                assert!(walk.next().is_ok_and(|item| item.is_none()));
                return None;
            }
        }
    }
}

fn write_again(buckets: &Buckets) {
    let mut plan = Plan::new();
    for (name, records) in buckets {
        let Ok(bucket) = plan.bucket(name) else {
            return;
        };
        for (key, value) in records {
            bucket.add(key.len(), value.len());
        }
    }
    let mut writer = Writer::new(plan);
    let mut file = Vec::new();
    for (name, records) in buckets {
        writer.bucket(name).expect("a planned bucket");
        for (key, value) in records {
            writer.push(key, value).expect("a planned record");
        }
    }
    writer.finish();
    while let Some(piece) = writer.take() {
        file.extend(piece);
    }
    let mut database = Database::open(&file[..], file.len() as u64).expect("our own file");
    assert_eq!(read(&mut database).as_ref(), Some(buckets));
}

/// A file of ours, one of bbolt's with buckets in buckets, overflow pages and a free list, and a part of it; a snapshot.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut plan = Plan::new();
    for name in [b"key".as_slice(), b"meta"] {
        plan.bucket(name).expect("a name").add_many(3, 60, 10);
    }
    let mut writer = Writer::new(plan);
    writer.bucket(b"meta").expect("a planned bucket");
    writer.push(b"term", &[0; 8]).expect("a planned record");
    writer.finish();
    let mut file = Vec::new();
    while let Some(piece) = writer.take() {
        file.extend(piece);
    }
    let few = include_bytes!("../../../net/bolt/tests/golden/few-1024.db");
    let short = steer(KEEP_SUMS, &few[..4096]);
    let snapshot = write_snapshot(&content());
    let snapshot = &snapshot[..snapshot.len() - 32];
    vec![pack(&file, 2), pack(few, 0), pack(snapshot, 2), short]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_what_they_claim() {
        let seeds = seeds();
        for seed in &seeds[..3] {
            // No more are read of an input.
            assert!(seed.len() <= 8192, "{}", seed.len());
            let mut file = unpack(&seed[1..], page_bytes(seed[0]));
            let untouched = file.clone();
            repair(&mut file);
            assert!(file == untouched, "the sum is another one");
            let mut database = Database::open(&file[..], file.len() as u64).expect("a file");
            let mut walk = database.walk();
            while walk.next().expect("a sound file").is_some() {}
        }
        seeds.iter().for_each(|seed| check(seed));
    }
}
