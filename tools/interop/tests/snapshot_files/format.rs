//! The files alone: what etcd has saved is read, and an etcd serves what was written.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use bolt::etcd::{KeyValue, RevisionKey, Snapshot, State};
use interop::programs::{Kind, etcd_program};
use interop::server::{Launch, TemporaryDirectory};

use crate::*;

#[test]
fn etcds_snapshots_and_ours() {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::Etcd, directory.path()).start();
    let leases = fill(&server);
    let expected = shown(&server, &leases);
    let theirs = directory.path().join("theirs.db");
    let content = save(&server, &theirs);
    drop(server);
    assert_same("newest versions", &[newest(&content)], &expected[..1]);
    let granted = leases.iter().zip(LEASE_SECONDS);
    let granted: BTreeSet<(String, i64)> = granted.map(|(id, ttl)| (id.clone(), ttl)).collect();
    let found = content.leases.iter();
    let found: BTreeSet<(String, i64)> = found
        .map(|lease| (format!("{:016x}", lease.id), lease.ttl))
        .collect();
    assert_eq!(found, granted);
    assert_eq!(content.state.compact_revision(), COMPACTED);

    // All that etcd had, and the least that another server has.
    let least = State {
        consistent_index: 7,
        term: 3,
        storage_version: Some("3.7.0".to_owned()),
        scheduled_compact_revision: Some(COMPACTED),
        finished_compact_revision: Some(COMPACTED),
        ..State::default()
    };
    for (name, state) in [("all", content.state.clone()), ("least", least)] {
        let directory = TemporaryDirectory::new();
        let ours = directory.path().join("ours.db");
        write(&ours, state, &content);
        let again = read(&ours);
        assert_eq!(again.status, etcdutl_status(&ours), "{name}");
        let hash = |status: &str| status.split(',').next().map(str::to_owned);
        assert_eq!(
            hash(&again.status) == hash(&content.status),
            name == "all",
            "the hash is that of the same contents"
        );
        let server = restored(&ours, &directory, &[]);
        assert_same(name, &shown(&server, &leases), &expected);
        // It goes on: bbolt changes and deletes what we laid out.
        etcdctl(&server, &["del", "key/1", "--prefix"], "");
        etcdctl(&server, &["put", "key/new", "value"], "");
        let revision = content.versions.last().unwrap().0.main + 2;
        etcdctl(
            &server,
            &["compact", &revision.to_string(), "--physical"],
            "",
        );
        etcdctl(&server, &["defrag"], "");
        let content = save(&server, &directory.path().join("later.db"));
        let now = fields(&server, &["get", "", "--prefix", "-w=fields"]);
        assert_same(name, &[newest(&content)], &[now]);
    }
}

#[test]
fn a_restored_store_with_a_higher_revision() {
    let directory = TemporaryDirectory::new();
    let content = Content {
        state: State::default(),
        versions: vec![(
            RevisionKey {
                main: 2,
                sub: 0,
                tombstone: false,
            },
            KeyValue {
                key: "key".into(),
                create_revision: 2,
                mod_revision: 2,
                version: 1,
                value: "value".into(),
                lease: 0,
            },
        )],
        leases: Vec::new(),
        status: String::new(),
    };
    let ours = directory.path().join("ours.db");
    write(&ours, State::default(), &content);
    assert_eq!(read(&ours).status, etcdutl_status(&ours));
    let bump = format!("--bump-revision={BUMP}");
    let server = restored(&ours, &directory, &[&bump, "--mark-compacted"]);
    let shown = fields(&server, &["get", "key", "-w=fields"]);
    let current = format!("\"Revision\" : {}", BUMP + 2);
    assert!(shown.contains(&current), "{shown}");
    // The higher revision is one at which nothing changed.
    let saved = save(&server, &directory.path().join("bumped.db"));
    let (last, version) = saved.versions.last().unwrap();
    assert_eq!((last.main, version), (BUMP + 2, &KeyValue::default()));
    assert_eq!(saved.state.revision_min(), BUMP + 2);
}

#[test]
fn etcdutl_refuses_what_was_changed_and_so_do_we() {
    let directory = TemporaryDirectory::new();
    let path = directory.path().join("changed.db");
    let content = Content {
        state: State::default(),
        versions: Vec::new(),
        leases: Vec::new(),
        status: String::new(),
    };
    write(&path, State::default(), &content);
    let mut file = fs::read(&path).unwrap();
    file[4096 + 100] ^= 1;
    fs::write(&path, &file).unwrap();
    let mut snapshot = Snapshot::open(&file[..], file.len() as u64).unwrap();
    let error = snapshot.check_sum().unwrap_err().to_string();
    assert!(error.contains("was changed"), "{error}");
    let refused = Command::new(etcd_program("etcdutl"))
        .args(["snapshot", "restore"])
        .arg(&path)
        .arg(format!(
            "--data-dir={}",
            directory.path().join("data").display()
        ))
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("expected sha256"), "{text}");
}
