//! ringd's snapshots: an etcd starts on them, and ringd on etcd's.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use interop::programs::{Kind, old_etcdctl, ringctl};
use interop::server::{Launch, Server, TemporaryDirectory};

use crate::*;

/// `ringd` with these words.
pub(crate) fn ringd(words: &[&str]) -> Output {
    let mut command = Command::new(Kind::Ringd.program());
    command.args(words).output().unwrap()
}

/// A ringd that `ringd restore` has made of a file.
fn restored_ringd(path: &Path, directory: &TemporaryDirectory, more: &[&str]) -> Server {
    let launch = Launch::new(Kind::Ringd, directory.path());
    let data = format!("--data-dir={}", launch.data().display());
    let peer = format!("--initial-advertise-peer-urls=http://{}", launch.peer());
    let path = path.display().to_string();
    let output = ringd(&[&["restore", &path, &data, &peer], more].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ringd restore {more:?}: {errors}");
    launch.start()
}

/// The sum over all keys, and up to which revision it goes.
fn hash(server: &Server) -> String {
    let text = etcdctl(server, &["endpoint", "hashkv", "-w=fields"], "");
    let parts = ["\"Hash", "\"CompactRevision"];
    let lines = text
        .lines()
        .filter(|line| parts.iter().any(|part| line.starts_with(part)));
    lines.map(|line| format!("{line}\n")).collect()
}

/// All keys at a revision, without the newest revision.
fn keys_at(server: &Server, revision: i64) -> String {
    let at = format!("--rev={revision}");
    let shown = fields(server, &["get", "", "--prefix", &at, "-w=fields"]);
    let other = |line: &&str| !line.starts_with("\"Revision\"");
    shown.lines().filter(other).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_etcd_starts_on_a_snapshot_taken_under_writes() {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::Ringd, directory.path()).start();
    let leases = fill(&server);
    let wanted = AtomicBool::new(true);
    let under_writes = directory.path().join("writes.db");
    let from_old = directory.path().join("old.db");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while wanted.load(Ordering::Relaxed) {
                let value = format!("put live/{number} {}\n", "v".repeat(2000));
                let both = format!("\n{value}put live/last {number}\n\n\n");
                etcdctl(&server, &["txn"], &both);
                number += 1;
            }
        });
        let content = save(&server, &under_writes);
        let mut old = Command::new(old_etcdctl());
        old.env("ETCDCTL_API", "3").args(["snapshot", "save"]);
        old.arg(&from_old);
        old.arg(format!("--endpoints={}", server.endpoint()));
        let saved = old.output().unwrap();
        let errors = String::from_utf8_lossy(&saved.stderr).into_owned();
        wanted.store(false, Ordering::Relaxed);
        assert!(saved.status.success(), "{errors}");
        let later = read(&from_old);
        assert_eq!(later.status, etcdutl_status(&from_old));
        // Each is what was there at one revision: that of its last change.
        for content in [content, later] {
            let revision = content.versions.last().unwrap().0.main;
            let found = newest(&content);
            let found = found.split_once('\n').unwrap().1;
            assert_same(
                "at one revision",
                &[found.to_owned()],
                &[keys_at(&server, revision) + "\n"],
            );
        }
    });
    // In peace: the same answers, and the same again behind both directions.
    let expected = shown(&server, &leases);
    let quiet = directory.path().join("quiet.db");
    let content = save(&server, &quiet);
    assert_eq!(content.state.compact_revision(), COMPACTED);
    drop(server);
    let of_etcd = TemporaryDirectory::new();
    let etcd = restored(&quiet, &of_etcd, &[]);
    assert_same("etcd", &shown(&etcd, &leases), &expected);
    let summed = hash(&etcd);
    etcdctl(&etcd, &["put", "new", "value"], "");
    let revision = content.versions.last().unwrap().0.main + 1;
    etcdctl(&etcd, &["compact", &revision.to_string(), "--physical"], "");
    drop(etcd);
    let of_ringd = TemporaryDirectory::new();
    let ours = restored_ringd(&quiet, &of_ringd, &[]);
    assert_same("ringd", &shown(&ours, &leases), &expected);
    let again = of_ringd.path().join("again.db");
    save(&ours, &again);
    drop(ours);
    let last = TemporaryDirectory::new();
    let etcd = restored(&again, &last, &[]);
    assert_eq!(hash(&etcd), summed, "HashKV of the same state");
}

#[test]
fn ringd_starts_on_etcds_snapshot_and_gives_it_back() {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::Etcd, directory.path()).start();
    let leases = fill(&server);
    // A deletion at the compact revision itself stays readable for watchers from there.
    etcdctl(&server, &["del", "moves"], "");
    etcdctl(&server, &["put", "moves", "again"], "");
    let (expected, summed) = (shown(&server, &leases), hash(&server));
    let theirs = directory.path().join("theirs.db");
    let content = save(&server, &theirs);
    drop(server);
    let of_ringd = TemporaryDirectory::new();
    let ringd = restored_ringd(&theirs, &of_ringd, &[]);
    assert_same("ringd", &shown(&ringd, &leases), &expected);
    let back = of_ringd.path().join("back.db");
    let returned = save(&ringd, &back);
    assert_eq!(
        returned.versions, content.versions,
        "every version as it was"
    );
    assert_eq!(returned.leases.len(), content.leases.len());
    // It goes on, over a restart and a compaction.
    let ringd = ringd.kill().start();
    assert_same("ringd again", &shown(&ringd, &leases), &expected);
    etcdctl(&ringd, &["lease", "revoke", &leases[1]], "");
    let gone = etcdctl(&ringd, &["get", &format!("leased/{}", leases[1])], "");
    assert_eq!(gone, "");
    let revision = content.versions.last().unwrap().0.main;
    etcdctl(
        &ringd,
        &["compact", &revision.to_string(), "--physical"],
        "",
    );
    let content = save(&ringd, &of_ringd.path().join("later.db"));
    let now = fields(&ringd, &["get", "", "--prefix", "-w=fields"]);
    assert_same("behind a compaction", &[newest(&content)], &[now]);
    drop(ringd);
    let last = TemporaryDirectory::new();
    let etcd = restored(&back, &last, &[]);
    assert_same("etcd", &shown(&etcd, &leases), &expected);
    assert_eq!(hash(&etcd), summed, "HashKV as before");
}

#[test]
fn a_raised_revision_is_etcdutls() {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::Etcd, directory.path()).start();
    let leases = fill(&server);
    let file = directory.path().join("file.db");
    let last = save(&server, &file).versions.last().unwrap().0.main;
    drop(server);
    let bump = format!("--bump-revision={BUMP}");
    let flags = [bump.as_str(), "--mark-compacted"];
    let (of_etcd, of_ringd) = (TemporaryDirectory::new(), TemporaryDirectory::new());
    let etcd = restored(&file, &of_etcd, &flags);
    let ringd = restored_ringd(&file, &of_ringd, &flags);
    // As etcd does, the compaction is ended before anything is compared.
    let asked = |server: &Server| {
        let below = format!("--rev={}", last + BUMP - 1);
        let refused = Command::new(interop::programs::etcd_program("etcdctl"))
            .arg(format!("--endpoints={}", server.endpoint()))
            .args(["get", "last", &below, "--command-timeout=5s"])
            .output()
            .unwrap();
        let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
        let mut asked = vec![fields(server, &["get", "", "--prefix", "-w=fields"])];
        asked.push(refused.lines().last().unwrap_or_default().to_owned());
        for id in &leases {
            let words = ["lease", "timetolive", id, "--keys", "-w=fields"];
            asked.push(sorted(server, &words));
        }
        asked.push(fields(server, &["put", "next", "value", "-w=fields"]));
        asked
    };
    let (found, expected) = (asked(&ringd), asked(&etcd));
    assert!(expected[1].contains("compacted"), "{}", expected[1]);
    assert_same("bumped", &found, &expected);
    let theirs = save(&etcd, &of_etcd.path().join("bumped.db"));
    let ours = save(&ringd, &of_ringd.path().join("bumped.db"));
    assert_eq!(ours.state.revision_min(), theirs.state.revision_min());
}

#[test]
fn a_raised_revision_of_an_empty_store() {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::Ringd, directory.path()).start();
    let file = directory.path().join("empty.db");
    save(&server, &file);
    drop(server);
    let flags = ["--bump-revision=7", "--mark-compacted"];
    let (of_etcd, of_ringd) = (TemporaryDirectory::new(), TemporaryDirectory::new());
    let etcd = restored(&file, &of_etcd, &flags);
    let ringd = restored_ringd(&file, &of_ringd, &flags);
    let words = ["put", "key", "value", "-w=fields"];
    assert_eq!(fields(&ringd, &words), fields(&etcd, &words));
    // What was raised is raised in the next snapshot, too.
    let flags = [];
    let file = of_ringd.path().join("again.db");
    save(&ringd, &file);
    let last = TemporaryDirectory::new();
    let etcd = restored(&file, &last, &flags);
    let words = ["get", "", "--prefix", "-w=fields"];
    assert_eq!(fields(&etcd, &words), fields(&ringd, &words));
}

#[test]
fn status_and_restore_under_every_name() {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::Ringd, directory.path()).start();
    fill(&server);
    let file = directory.path().join("file.db");
    save(&server, &file);
    let expected = fields(&server, &["get", "", "--prefix", "-w=fields"]);
    drop(server);
    // ringctl finds ringd in its own folder.
    let named = |name: &str, program: &Path| {
        let link = directory.path().join(name);
        std::os::unix::fs::symlink(program, &link).unwrap();
        link
    };
    let etcdutl = named("etcdutl", &Kind::Ringd.program());
    let path = file.display().to_string();
    for format in ["simple", "fields", "json", "table", "protobuf", "none"] {
        let words = ["snapshot", "status", &path, "-w", format];
        let of = |program: &Path| {
            let output = Command::new(program).args(words).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), text, errors)
        };
        let theirs = of(&interop::programs::etcd_program("etcdutl"));
        assert_eq!(of(&etcdutl), theirs, "{format}");
        assert_eq!(of(&ringctl()), theirs, "{format}");
    }
    for (name, program) in [("one", &etcdutl), ("two", &ringctl())] {
        let directory = TemporaryDirectory::new();
        let launch = Launch::new(Kind::Ringd, directory.path());
        let output = Command::new(program)
            .args(["snapshot", "restore", &path])
            .arg(format!("--data-dir={}", launch.data().display()))
            .arg(format!(
                "--initial-advertise-peer-urls=http://{}",
                launch.peer()
            ))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {errors}");
        let server = launch.start();
        let found = fields(&server, &["get", "", "--prefix", "-w=fields"]);
        assert_same(name, &[found], std::slice::from_ref(&expected));
    }
}
