//! Snapshot files in both directions: between etcd and the crate `bolt`, and between etcd and ringd.

mod format;
mod refusals;
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use bolt::etcd::{KeyValue, Lease, RevisionKey, Snapshot, SnapshotPlan, SnapshotWriter, State};
use interop::programs::{Kind, etcd_program};
use interop::server::{Launch, Server, TemporaryDirectory};

/// The revisions up to here are compacted.
const COMPACTED: i64 = 9;
/// What a restore adds to the revision in some of the tests.
const BUMP: i64 = 1_000_000;
const LEASE_SECONDS: [i64; 3] = [5000, 6000, 7000];

/// Runs a program of etcd's and returns what it prints.
fn run(program: &str, words: &[&str], input: &str) -> String {
    let mut command = Command::new(etcd_program(program));
    command.args(words).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn etcdctl(server: &Server, words: &[&str], input: &str) -> String {
    let endpoint = format!("--endpoints={}", server.endpoint());
    run("etcdctl", &[&[endpoint.as_str()], words].concat(), input)
}

/// Grants a lease; its id in hexadecimal digits.
fn grant(server: &Server, seconds: i64) -> String {
    let answer = etcdctl(server, &["lease", "grant", &seconds.to_string()], "");
    answer.split(' ').nth(1).unwrap().to_owned()
}

/// Keys with histories, values of all sizes, deletions, transactions, leases, a compaction. Returns the leases.
fn fill(server: &Server) -> Vec<String> {
    let leases: Vec<String> = LEASE_SECONDS
        .iter()
        .map(|ttl| grant(server, *ttl))
        .collect();
    for round in 0..24_usize {
        let mut operations = String::from("\n");
        for number in 0..60 {
            let key = (number * 7 + round * 5) % 300;
            match (number + round) % 11 {
                0 => operations += &format!("del never/{key}\n"),
                1 => operations += &format!("del key/{key:03}\n"),
                kind => {
                    let bytes = [3, 30, 300, 0, 20_000][(kind + round) % 5];
                    let value = format!("{round}.").repeat(bytes / 2 + 1);
                    operations += &format!("put key/{key:03} {value}\n");
                }
            }
        }
        etcdctl(server, &["txn"], &(operations + "\n\n"));
    }
    for id in &leases {
        let lease = format!("--lease={id}");
        let key = format!("leased/{id}");
        etcdctl(server, &["put", &key, "first", &lease], "");
        let words = ["put", "moves", "from lease to lease", &lease];
        etcdctl(server, &words, "");
    }
    let first = format!("leased/{}", leases[0]);
    etcdctl(server, &["put", &first, "no more"], "");
    etcdctl(
        server,
        &["compact", &COMPACTED.to_string(), "--physical"],
        "",
    );
    etcdctl(server, &["put", "last", "after the compaction"], "");
    leases
}

/// What the server answers: all keys at several revisions, and all leases.
fn shown(server: &Server, leases: &[String]) -> Vec<String> {
    let mut shown = Vec::new();
    for revision in [0, COMPACTED, COMPACTED + 1, 15, 20, 28] {
        let at = format!("--rev={revision}");
        shown.push(fields(server, &["get", "", "--prefix", &at, "-w=fields"]));
    }
    shown.push(sorted(server, &["lease", "list", "-w=fields"]));
    for id in leases {
        let words = ["lease", "timetolive", id, "--keys", "-w=fields"];
        shown.push(sorted(server, &words));
    }
    shown
}

/// The lines of an answer, without what differs between clusters and from second to second.
fn fields(server: &Server, words: &[&str]) -> String {
    let text = etcdctl(server, words, "");
    let other = ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\"", "\"TTL\""];
    let same = text
        .lines()
        .filter(|line| !other.iter().any(|name| line.starts_with(name)));
    same.map(|line| format!("{line}\n")).collect()
}

/// The same of a list without order.
fn sorted(server: &Server, words: &[&str]) -> String {
    let text = fields(server, words);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Compares answers and shows the first line that differs.
fn assert_same(what: &str, actual: &[String], expected: &[String]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (actual, expected) in actual.iter().zip(expected) {
        let mut lines = actual.lines().zip(expected.lines());
        if let Some((actual, expected)) = lines.find(|(actual, expected)| actual != expected) {
            panic!("{what}:\n{actual:.300}\ninstead of\n{expected:.300}");
        }
        assert_eq!(actual.len(), expected.len(), "{what}");
    }
}

/// What is in a snapshot file, all of it checked.
struct Content {
    state: State,
    versions: Vec<(RevisionKey, KeyValue)>,
    leases: Vec<Lease>,
    status: String,
}

fn read(path: &Path) -> Content {
    let file = fs::read(path).unwrap();
    let mut snapshot = Snapshot::open(&file[..], file.len() as u64).unwrap();
    snapshot.check_sum().unwrap();
    let status = snapshot.status().unwrap();
    let status = format!(
        "{{\"hash\":{},\"revision\":{},\"totalKey\":{},\"totalSize\":{},\"version\":\"{}\"}}\n",
        status.hash, status.revision, status.total_keys, status.total_bytes, status.version
    );
    let (mut read, mut versions) = (snapshot.versions().unwrap(), Vec::new());
    while let Some(version) = read.next_version().unwrap() {
        versions.push(version);
    }
    let (mut read, mut leases) = (snapshot.leases().unwrap(), Vec::new());
    while let Some(lease) = read.next_lease().unwrap() {
        leases.push(lease);
    }
    Content {
        state: snapshot.state().unwrap(),
        versions,
        leases,
        status,
    }
}

/// The newest versions as `etcdctl get "" --prefix -w=fields` shows them.
fn newest(content: &Content) -> String {
    let mut keys = BTreeMap::new();
    for (revision, version) in &content.versions {
        if revision.tombstone {
            keys.remove(&version.key);
        } else {
            keys.insert(version.key.clone(), version);
        }
    }
    let revision = content
        .versions
        .last()
        .map_or(1, |(revision, _)| revision.main);
    let mut lines = vec![format!("\"Revision\" : {revision}")];
    for version in keys.values() {
        let quoted = |bytes: &[u8]| format!("{:?}", String::from_utf8(bytes.to_vec()).unwrap());
        lines.push(format!("\"Key\" : {}", quoted(&version.key)));
        lines.push(format!("\"CreateRevision\" : {}", version.create_revision));
        lines.push(format!("\"ModRevision\" : {}", version.mod_revision));
        lines.push(format!("\"Version\" : {}", version.version));
        lines.push(format!("\"Value\" : {}", quoted(&version.value)));
        lines.push(format!("\"Lease\" : {}", version.lease));
    }
    lines.push("\"More\" : false".to_owned());
    lines.push(format!("\"Count\" : {}", keys.len()));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Writes a snapshot as a server would, in pieces.
fn write(path: &Path, state: State, content: &Content) {
    let mut plan = SnapshotPlan::new(state);
    for (revision, version) in content.versions.iter().rev() {
        plan.add_version(*revision, version);
    }
    plan.add_leases(content.leases.len() as u64);
    let mut writer = SnapshotWriter::new(plan).unwrap();
    let mut file = Vec::new();
    for (revision, version) in &content.versions {
        writer.push_version(*revision, version).unwrap();
        while !writer.wants_records() {
            file.extend(writer.take().unwrap());
        }
    }
    for lease in &content.leases {
        writer.push_lease(lease).unwrap();
    }
    writer.finish();
    while let Some(piece) = writer.take() {
        file.extend(piece);
    }
    assert!(writer.is_done());
    assert_eq!(file.len() as u64, writer.file_bytes());
    fs::write(path, file).unwrap();
}

fn etcdutl_status(path: &Path) -> String {
    let path = path.display().to_string();
    run("etcdutl", &["snapshot", "status", &path, "-w=json"], "")
}

/// An etcd on what `etcdutl snapshot restore` makes of a file.
fn restored(path: &Path, directory: &TemporaryDirectory, more: &[&str]) -> Server {
    let data = format!("--data-dir={}", directory.path().join("data").display());
    let path = path.display().to_string();
    let words = ["snapshot", "restore", &path, &data];
    run("etcdutl", &[&words, more].concat(), "");
    Launch::new(Kind::Etcd, directory.path()).start()
}

fn save(server: &Server, path: &Path) -> Content {
    etcdctl(
        server,
        &["snapshot", "save", &path.display().to_string()],
        "",
    );
    let content = read(path);
    assert_eq!(content.status, etcdutl_status(path));
    content
}
