//! ringctl under the name etcdctl prints what etcdctl prints, against etcd and against ringd; under its own
//! name it says at once when there is no server.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use interop::programs::{Kind, etcd_program, ringctl, root};
use interop::server::{Launch, TemporaryDirectory};
use interop::walk::{Client, Step, TOO_FEW_LINES, differences, walk};
use ringbench::server::free_port;

/// A refusal is said within this time, and with it the start of the process.
const REFUSED: Duration = Duration::from_millis(100);
/// Lines on which etcdctl itself crashes; there ringctl answers instead.
const CRASHES_MAX: usize = 4;

/// Both walks, each on a server of its own.
const SCRIPTS: [&str; 2] = ["ringctl.walk", "etcdctl.walk"];

/// ringctl under the name etcdctl.
fn as_etcdctl(directory: &Path) -> Client {
    let program = directory.join("etcdctl");
    symlink(ringctl(), &program).unwrap();
    Client { program, new: true }
}

fn walk_on(kind: Kind, ours: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for name in SCRIPTS {
        let directory = TemporaryDirectory::new();
        let client = if ours {
            as_etcdctl(directory.path())
        } else {
            let program = etcd_program("etcdctl");
            Client { program, new: true }
        };
        let path = root().join("tools/interop/testscripts").join(name);
        let script = fs::read_to_string(&path).unwrap();
        let server = Launch::new(kind, directory.path()).start();
        steps.extend(walk(&script, &client, &server, directory.path()));
    }
    steps
}

/// What follows an error about a flag is help, which is in our own words.
fn without_usage(mut step: Step) -> Step {
    if let Some((error, rest)) = step.shown.split_once("Usage:\n") {
        let status = rest.rsplit('\n').next().unwrap_or_default();
        step.shown = format!("{error}{status}");
    }
    // What etcdctl could not marshal it shows with its addresses in memory.
    if let Some((error, rest)) = step.shown.split_once(" (&{") {
        let status = rest.rsplit('\n').next().unwrap_or_default();
        step.shown = format!("{error}\n{status}");
    }
    step
}

fn compare(kind: Kind) {
    let (theirs, ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| walk_on(kind, false));
        let ours = scope.spawn(|| walk_on(kind, true));
        (theirs.join().unwrap(), ours.join().unwrap())
    });
    if let Some(path) = std::env::var_os("INTEROP_TRANSCRIPT") {
        let show = |step: &Step| format!("--- {}\n{}\n", step.line, step.shown);
        fs::write(path, theirs.iter().map(show).collect::<String>()).unwrap();
    }
    assert!(theirs.len() > 300, "only {} steps", theirs.len());
    for step in &theirs {
        let stuck = step.shown.starts_with(TOO_FEW_LINES);
        assert!(!stuck, "the walk is wrong: {}: {}", step.line, step.shown);
    }
    let (mut crashes, mut left, mut right) = (0, Vec::new(), Vec::new());
    for (theirs, ours) in theirs.into_iter().zip(ours) {
        if theirs.shown.contains("panic: ") {
            crashes += 1;
            continue;
        }
        left.push(without_usage(theirs));
        right.push(without_usage(ours));
    }
    assert!(crashes <= CRASHES_MAX, "etcdctl crashed {crashes} times");
    let differences = differences(&left, &right, ["etcdctl", "ringctl"]);
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn ringctl_prints_what_etcdctl_prints_against_etcd() {
    compare(Kind::Etcd);
}

#[test]
fn ringctl_prints_what_etcdctl_prints_against_ringd() {
    compare(Kind::Ringd);
}

#[test]
fn a_refused_connection_is_said_at_once() {
    let (left, right) = (free_port().unwrap(), free_port().unwrap());
    for command in [
        "get a",
        "put a b",
        "endpoint status",
        "watch a",
        "lease list",
        "lock a",
        "member list",
    ] {
        let begun = Instant::now();
        let output = Command::new(ringctl())
            .arg(format!("--endpoints={left},http://{right}"))
            .args(command.split(' '))
            .output()
            .unwrap();
        let took = begun.elapsed();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(69), "{command}: {said}");
        assert!(said.contains("connection refused"), "{command}: {said}");
        assert!(!said.contains("{\"level\""), "{command}: {said}");
        assert!(took < REFUSED, "{command} took {took:?}");
    }
}

#[test]
fn etcdctl_waits_for_a_server_that_starts_late() {
    let directory = TemporaryDirectory::new();
    let launch = Launch::new(Kind::under_test(), directory.path());
    let client = as_etcdctl(directory.path());
    let server = launch.spawn();
    let output = Command::new(&client.program)
        .arg(format!("--endpoints={}", server.endpoint()))
        .args(["put", "early", "bird"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"OK\n");
}

/// An authority, and a certificate of it for a server on loopback and for a client.
const CERTIFICATES: &str = r#"
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority
printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' >extensions
for name in server client; do
  openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name
  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $name.pem -days 2 -extfile extensions
done
"#;

/// Only etcd speaks TLS so far.
#[test]
fn connections_are_encrypted_as_the_flags_say() {
    let directory = TemporaryDirectory::new();
    let folder = directory.path();
    let made = Command::new("sh")
        .args(["-euc", CERTIFICATES])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let (client, peer) = (free_port().unwrap(), free_port().unwrap());
    let endpoint = format!("https://{client}");
    let log = fs::File::create(folder.join("log")).unwrap();
    let server = Command::new(Kind::Etcd.program())
        .args(["--cert-file=server.pem", "--key-file=server.key"])
        .args(["--client-cert-auth", "--trusted-ca-file=ca.pem"])
        .arg("--data-dir=data")
        .arg(format!("--listen-client-urls={endpoint}"))
        .arg(format!("--advertise-client-urls={endpoint}"))
        .arg(format!("--listen-peer-urls=http://{peer}"))
        .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
        .arg(format!("--initial-cluster=default=http://{peer}"))
        .current_dir(folder)
        .stderr(log)
        .spawn()
        .unwrap();
    let _server = Ended(server);
    let call = |endpoint: &str, words: &str| {
        let output = Command::new(ringctl())
            .arg(format!("--endpoints={endpoint}"))
            .args(words.split(' '))
            .current_dir(folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let mine = "--cert client.pem --key client.key";
    let begun = Instant::now();
    while let (code, said) = call(&endpoint, &format!("{mine} --cacert ca.pem put a b"))
        && code != Some(0)
    {
        assert!(begun.elapsed() < Duration::from_secs(30), "{said}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let succeeds = |endpoint: &str, words: &str| {
        let (code, said) = call(endpoint, words);
        assert_eq!(code, Some(0), "{words}: {said}");
    };
    succeeds(
        &endpoint,
        &format!("{mine} --insecure-skip-tls-verify get a"),
    );
    // Certificates alone ask for TLS, too.
    succeeds(
        &client.to_string(),
        &format!("{mine} --cacert ca.pem get a"),
    );
    let fails = |endpoint: &str, words: &str, hint: &str| {
        let (code, said) = call(endpoint, words);
        assert_eq!(code, Some(69), "{words}: {said}");
        assert!(said.contains(hint), "{words}: {said}");
    };
    fails(&endpoint, &format!("{mine} get a"), "--cacert");
    fails(&endpoint, "--cacert ca.pem get a", "--cert and --key");
    fails(&format!("http://{client}"), "get a", "https://");
}

/// A process that ends with the value.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Commands whose examples can be run as they stand on a server of one's own.
const SHOWN: [&str; 22] = [
    "",
    "put",
    "get",
    "del",
    "txn",
    "compaction",
    "lease",
    "lease grant",
    "lease list",
    "endpoint",
    "endpoint health",
    "endpoint hashkv",
    "endpoint status",
    "member",
    "member list",
    "alarm",
    "alarm list",
    "alarm disarm",
    "defrag",
    "snapshot save",
    "options",
    "version",
];
/// What an example may need besides: other machines, a terminal, a lease that exists.
const NEEDS_MORE: [&str; 4] = [
    "10.0.0.",
    "127.0.0.1:2379",
    "--interactive",
    "32695410dcc0ca06",
];

#[test]
fn examples_of_help_work_as_they_stand() {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::Etcd, directory.path()).start();
    symlink(ringctl(), directory.path().join("ringctl")).unwrap();
    fs::write(directory.path().join("config.json"), "{}").unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let shell = |line: &str| {
        Command::new("sh")
            .args(["-c", line])
            .current_dir(directory.path())
            .env("PATH", format!("{}:{path}", directory.path().display()))
            .env("ETCDCTL_ENDPOINTS", server.endpoint())
            .output()
            .unwrap()
    };
    let mut ran = 0;
    for command in SHOWN {
        let help = shell(&format!("ringctl {command} --help"));
        let help = String::from_utf8(help.stdout).unwrap();
        let (_, examples) = help.split_once("\nExamples:\n").unwrap();
        let runnable = |example: &&str| !NEEDS_MORE.iter().any(|needed| example.contains(needed));
        for example in examples.lines().map(str::trim).filter(runnable) {
            let output = shell(example);
            assert!(output.status.success(), "{example}: {output:?}");
            ran += 1;
        }
    }
    assert!(ran > 40, "only {ran} examples");
}
