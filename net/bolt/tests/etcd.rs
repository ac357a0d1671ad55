//! Snapshots: one that etcd has written (`golden/etcd.sh` says how), and ours.

use bolt::etcd::{
    AlarmMember, ConfState, Downgrade, KeyValue, Lease, Member, RevisionKey, Snapshot,
    SnapshotPlan, SnapshotWriter, State, SumError,
};
use bolt::{Database, ReadError, WriteError};

const GOLDEN: &[u8] = include_bytes!("golden/etcd-3.7.3.db");
const GOLDEN_STATUS: &str = include_str!("golden/etcd-3.7.3.status.json");

type Version = (RevisionKey, KeyValue);

fn open(file: &[u8]) -> Snapshot<&[u8]> {
    Snapshot::open(file, file.len() as u64).expect("a snapshot")
}

fn versions(snapshot: &mut Snapshot<&[u8]>) -> Result<Vec<Version>, ReadError> {
    let mut found = Vec::new();
    let mut versions = snapshot.versions()?;
    while let Some(version) = versions.next_version()? {
        found.push(version);
    }
    Ok(found)
}

fn leases(snapshot: &mut Snapshot<&[u8]>) -> Result<Vec<Lease>, ReadError> {
    let mut found = Vec::new();
    let mut leases = snapshot.leases()?;
    while let Some(lease) = leases.next_lease()? {
        found.push(lease);
    }
    Ok(found)
}

fn at(main: i64, sub: i64) -> RevisionKey {
    RevisionKey {
        main,
        sub,
        tombstone: false,
    }
}

fn deleted(main: i64, sub: i64, key: &str) -> Version {
    let revision = RevisionKey {
        tombstone: true,
        ..at(main, sub)
    };
    let version = KeyValue {
        key: key.to_owned().into(),
        ..KeyValue::default()
    };
    (revision, version)
}

/// A version by revision, creation and count.
fn put(main: i64, sub: i64, (create, version): (i64, i64), key: &str, value: &str) -> Version {
    let version = KeyValue {
        key: key.to_owned().into(),
        create_revision: create,
        mod_revision: main,
        version,
        value: value.to_owned().into(),
        lease: 0,
    };
    (at(main, sub), version)
}

fn lease(id: i64, ttl: i64) -> Lease {
    Lease {
        id,
        ttl,
        remaining_ttl: 0,
    }
}

fn expected_versions() -> Vec<Version> {
    let first = |number: i64| {
        let (key, value) = (format!("key/{number}"), format!("value {number}"));
        put(number + 1, 0, (number + 1, 1), &key, &value)
    };
    // The compaction at 33 has dropped the first version of key/1 and key/2, and not the deletion at 33 itself.
    let mut expected: Vec<Version> = (3..=30).map(first).collect();
    expected.push(put(32, 0, (2, 2), "key/1", "again"));
    expected.push(deleted(33, 0, "key/2"));
    expected.push(put(34, 0, (34, 1), "txn/a", "1"));
    expected.push(put(34, 1, (34, 1), "txn/b", "2"));
    expected.push(deleted(34, 2, "key/3"));
    let mut leased = put(35, 0, (35, 1), "leased", "value");
    leased.1.lease = 0x1234;
    expected.push(leased);
    expected.push(put(36, 0, (36, 1), "large", &"x".repeat(9000)));
    expected.push(put(37, 0, (37, 1), "key/2", "back"));
    expected
}

#[test]
fn a_snapshot_by_etcd_is_read_completely() {
    let mut snapshot = open(GOLDEN);
    snapshot.check_sum().expect("the sum");
    assert_eq!(
        versions(&mut snapshot).expect("versions"),
        expected_versions()
    );
    let expected = [lease(0x1234, 5000), lease(0x5678, 6000)];
    assert_eq!(leases(&mut snapshot).expect("leases"), expected);

    let state = snapshot.state().expect("the state");
    let [member] = state.members.as_slice() else {
        panic!("{:?}", state.members);
    };
    let urls = |url: &str| vec![url.to_owned()];
    assert_eq!(member.name, "golden");
    assert_eq!(member.peer_urls, urls("http://127.0.0.1:23803"));
    assert_eq!(member.client_urls, urls("http://127.0.0.1:23793"));
    let conf_state = state.conf_state.as_ref().expect("a confState");
    assert_eq!(conf_state.voters, [member.id]);
    assert!(state.consistent_index > 40 && state.term == 2, "{state:?}");
    assert_eq!(state.scheduled_compact_revision, Some(33));
    assert_eq!(state.compact_revision(), 33);
    assert_eq!(state.storage_version.as_deref(), Some("3.7.0"));
    assert_eq!(state.cluster_version.as_deref(), Some("3.7.0"));
    assert_eq!((state.auth_enabled, state.auth_revision), (None, Some(3)));
    assert!(state.auth_users.contains_key(&b"alice"[..]));
    assert!(state.auth_roles.contains_key(&b"reader"[..]));
    assert!(state.members_removed.is_empty() && state.alarms.is_empty());
}

#[test]
fn the_status_is_etcdutls() {
    let status = open(GOLDEN).status().expect("a status");
    let shown = format!(
        r#"{{"hash":{},"revision":{},"totalKey":{},"totalSize":{},"version":"{}"}}"#,
        status.hash, status.revision, status.total_keys, status.total_bytes, status.version
    );
    assert_eq!(shown, GOLDEN_STATUS.trim());
}

fn write(state: &State, versions: &[Version], leases: &[Lease]) -> Vec<u8> {
    let mut plan = SnapshotPlan::new(state.clone());
    for (revision, version) in versions {
        plan.add_version(*revision, version);
    }
    plan.add_leases(leases.len() as u64);
    let bytes = plan.file_bytes();
    let mut writer = SnapshotWriter::new(plan).expect("a writer");
    for (revision, version) in versions {
        writer.push_version(*revision, version).expect("a version");
    }
    for lease in leases {
        writer.push_lease(lease).expect("a lease");
    }
    writer.finish();
    let mut file = Vec::new();
    while let Some(piece) = writer.take() {
        file.extend(piece);
    }
    assert!(writer.is_done());
    assert_eq!(file.len() as u64, bytes);
    file
}

/// Something in every field.
fn full_state() -> State {
    State {
        consistent_index: 77,
        term: 5,
        conf_state: Some(ConfState {
            voters: vec![1, u64::MAX],
            learners: vec![9],
            ..ConfState::default()
        }),
        scheduled_compact_revision: Some(8),
        finished_compact_revision: Some(7),
        storage_version: Some("3.7.0".to_owned()),
        cluster_version: Some("3.7.0".to_owned()),
        downgrade: Some(Downgrade {
            target_version: "3.6.0".to_owned(),
            enabled: true,
        }),
        members: vec![
            Member {
                id: 1,
                peer_urls: vec!["http://a:2380".to_owned()],
                is_learner: true,
                ..Member::default()
            },
            Member {
                id: u64::MAX,
                name: "second".to_owned(),
                ..Member::default()
            },
        ],
        members_removed: [3, 0x4000].into(),
        alarms: [AlarmMember {
            member_id: 1,
            alarm: 1,
        }]
        .into(),
        auth_enabled: Some(true),
        auth_revision: Some(12),
        auth_users: [(b"root".to_vec(), b"\x0a\x04root".to_vec())].into(),
        auth_roles: [(b"root".to_vec(), Vec::new())].into(),
    }
}

#[test]
fn what_is_written_is_read_back() {
    let state = full_state();
    let (versions_in, leases_in) = (expected_versions(), [lease(1, 2), lease(i64::MAX, 3)]);
    let file = write(&state, &versions_in, &leases_in);
    let mut snapshot = open(&file);
    snapshot.check_sum().expect("the sum");
    assert_eq!(snapshot.state().expect("the state"), state);
    assert_eq!(versions(&mut snapshot).expect("versions"), versions_in);
    assert_eq!(leases(&mut snapshot).expect("leases"), leases_in);
    let status = snapshot.status().expect("a status");
    assert_eq!((status.revision, status.total_keys), (37, 33));
    assert_eq!(state.revision_min(), 8);
}

#[test]
fn the_golden_snapshot_written_again_has_the_same_hash() {
    let mut snapshot = open(GOLDEN);
    let state = snapshot.state().expect("the state");
    let versions = versions(&mut snapshot).expect("versions");
    let leases = leases(&mut snapshot).expect("leases");
    let file = write(&state, &versions, &leases);
    let (ours, theirs) = (open(&file).status(), snapshot.status());
    assert_eq!(ours.expect("ours").hash, theirs.expect("theirs").hash);
}

#[test]
fn a_snapshot_of_nothing() {
    let file = write(&State::default(), &[], &[]);
    let mut snapshot = open(&file);
    assert_eq!(snapshot.state().expect("the state"), State::default());
    assert!(versions(&mut snapshot).expect("versions").is_empty());
    let status = snapshot.status().expect("a status");
    assert_eq!((status.revision, status.total_keys), (0, 0));
    assert_eq!(status.version, "");
}

#[test]
fn a_plan_by_counts_is_enough() {
    let versions = expected_versions();
    let mut plan = SnapshotPlan::new(full_state());
    let bytes = |(_, version): &Version| (version.key.len() + version.value.len()) as u64;
    let bytes = versions.iter().map(bytes).sum();
    plan.add_versions(versions.len() as u64, bytes);
    let mut writer = SnapshotWriter::new(plan).expect("a writer");
    for (revision, version) in &versions {
        // The longest numbers.
        let version = KeyValue {
            create_revision: i64::MAX,
            mod_revision: i64::MAX,
            version: i64::MAX,
            lease: -1,
            ..version.clone()
        };
        writer.push_version(*revision, &version).expect("a version");
    }
    let one_more = writer.push_version(at(99, 0), &KeyValue::default());
    assert!(matches!(one_more, Err(WriteError::MoreThanPlanned { .. })));
    let unplanned = writer.push_lease(&lease(1, 1));
    assert!(matches!(unplanned, Err(WriteError::MoreThanPlanned { .. })));
    let late = writer.push_version(at(99, 0), &KeyValue::default());
    assert!(matches!(late, Err(WriteError::Order { .. })));
    writer.finish();
}

/// Every flip and every cut of a file is noticed by its sum. Without it, as with `--skip-hash-check`, nothing panics.
#[test]
fn flips_and_cuts() {
    for at in (0..GOLDEN.len()).step_by(31) {
        let mut flipped = GOLDEN.to_vec();
        flipped[at] ^= 1 << (at % 8);
        let Ok(mut snapshot) = Snapshot::open(&flipped[..], flipped.len() as u64) else {
            continue;
        };
        let sum = snapshot.check_sum();
        assert!(
            matches!(sum, Err(SumError::Wrong { .. })),
            "byte {at}: {sum:?}"
        );
        let read = (
            snapshot.state(),
            versions(&mut snapshot),
            leases(&mut snapshot),
        );
        drop((read, snapshot.status()));
    }
    for len in (0..GOLDEN.len())
        .step_by(97)
        .chain(GOLDEN.len() - 40..GOLDEN.len())
    {
        let cut = &GOLDEN[..len];
        match Snapshot::open(cut, len as u64) {
            Err(error) => drop(error.to_string()),
            Ok(mut snapshot) => assert!(snapshot.check_sum().is_err(), "{len} bytes"),
        }
    }
    // A database that was copied from a data directory.
    let without = &GOLDEN[..GOLDEN.len() - 32];
    assert!(matches!(open(without).check_sum(), Err(SumError::Missing)));
    assert_eq!(
        open(without).status().expect("a status"),
        open(GOLDEN).status().expect("a status")
    );
}

#[test]
fn a_state_that_no_file_can_have_is_refused_before_anything_is_written() {
    let long = vec![0; bolt::VALUE_BYTES_MAX + 1];
    let record = |name: &[u8], value: &[u8]| [(name.to_vec(), value.to_vec())].into();
    let states = [
        State {
            auth_users: record(b"", b"a user without a name"),
            ..State::default()
        },
        State {
            auth_roles: record(b"role", &long),
            ..State::default()
        },
        State {
            storage_version: Some("3".repeat(long.len())),
            ..State::default()
        },
    ];
    for state in states {
        let refused = SnapshotWriter::new(SnapshotPlan::new(state));
        assert!(matches!(refused, Err(WriteError::Length { .. })));
    }
}

#[test]
fn contents_that_etcd_does_not_write() {
    type Records<'a> = &'a [(&'a [u8], &'a [u8])];
    let file = |bucket: &[u8], records: Records<'_>| {
        let mut plan = bolt::Plan::new();
        for name in [&b"key"[..], b"meta", bucket] {
            plan.bucket(name).expect("a name");
        }
        for (key, value) in records {
            plan.bucket(bucket)
                .expect("a name")
                .add(key.len(), value.len());
        }
        let mut writer = bolt::Writer::new(plan);
        writer.bucket(bucket).expect("planned");
        for (key, value) in records {
            writer.push(key, value).expect("planned");
        }
        writer.finish();
        let mut file = Vec::new();
        while let Some(piece) = writer.take() {
            file.extend(piece);
        }
        file
    };
    let refused = |bucket: &str, records: Records<'_>, part: &str| {
        let file = file(bucket.as_bytes(), records);
        let mut snapshot = open(&file);
        let error = match bucket {
            "key" => versions(&mut snapshot).err(),
            "lease" => leases(&mut snapshot).err(),
            _ => snapshot.state().err(),
        };
        let text = error.expect(part).to_string();
        assert!(text.contains(part), "{text}");
        assert!(text.contains(bucket), "{text}");
    };
    let (first, tombstone) = (
        b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0",
        b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0t",
    );
    let good = b"\x0a\x01k\x10\x02\x18\x02\x20\x01";
    refused("key", &[(b"short", good)], "a revision of 5 bytes");
    refused("key", &[(first, b"\xff")], "not the message expected");
    refused(
        "key",
        &[(first, b"\x0a\x01k\x10\x02\x18\x03\x20\x01")],
        "revision 3",
    );
    refused(
        "key",
        &[(first, b"\x0a\x01k\x10\x03\x18\x02\x20\x01")],
        "create revision 3",
    );
    refused(
        "key",
        &[(first, b"\x10\x02\x18\x02\x20\x01")],
        "without a key",
    );
    refused("key", &[(tombstone, b"")], "without a key");
    refused("key", &[(first, good), (tombstone, b"\x0a\x01k")], "twice");
    refused(
        "lease",
        &[(b"\0\0\0\0\0\0\0\x01", b"\x08\x02")],
        "it is lease 2",
    );
    refused("meta", &[(b"term", b"1")], "a number of 1 bytes");
    refused("meta", &[(b"confState", b"{")], "not the JSON expected");
    refused("members", &[(b"x", b"{}")], "hexadecimal");
    refused("members", &[(b"1", b"{\"id\":2}")], "the member's id is 2");
    refused("auth", &[(b"authEnabled", b"\x02")], "instead of 0 or 1");
    let bumped = file(b"key", &[(first, b"")]);
    let read = versions(&mut open(&bumped)).expect("a revision without a change");
    assert_eq!(read, [(at(2, 0), KeyValue::default())]);
}

#[test]
fn a_database_of_something_else_is_refused() {
    let nested = include_bytes!("golden/nested-2048.db");
    assert!(Database::open(&nested[..], nested.len() as u64).is_ok());
    let error = Snapshot::open(&nested[..], nested.len() as u64).expect_err("no snapshot");
    assert!(
        error.to_string().contains("no etcd wrote this file"),
        "{error}"
    );
}
