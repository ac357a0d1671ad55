//! A store at its quota: what is refused, what still works, and how etcdctl shows it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use interop::normalise::Normaliser;
use interop::programs::{Kind, etcd_program};
use interop::server::{Launch, Server, TemporaryDirectory};

/// Above what an empty store of either server occupies.
const QUOTA_BYTES: u64 = 16 << 20;
const VALUE_BYTES: usize = 1 << 20;
const PUTS_MAX: u32 = 100;

/// One etcdctl call: its output, errors and exit status.
fn printed(server: &Server, words: &[&str]) -> String {
    let output = Command::new(etcd_program("etcdctl"))
        .arg(format!("--endpoints={}", server.endpoint()))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    format!(
        "{}{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        output.status
    )
}

/// The same, normalised.
fn call(server: &Server, normaliser: &Normaliser, words: &[&str]) -> String {
    normaliser.apply(&printed(server, words))
}

/// Fills the store and walks through what an operator does then.
fn transcript(kind: Kind) -> Vec<(&'static str, String)> {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(kind, directory.path())
        .argument(format!("--quota-backend-bytes={QUOTA_BYTES}"))
        .start();
    let mut normaliser = Normaliser::default();
    normaliser.replace(server.endpoint(), "CLIENT");
    let members = call(&server, &normaliser, &["member", "list"]);
    let id = members.split(',').next().unwrap();
    let decimal = u64::from_str_radix(id, 16).unwrap();
    normaliser.replace_id(decimal, "MEMBER");

    let mut shown = Vec::new();
    let mut step = |name: &'static str, words: &[&str]| {
        shown.push((name, call(&server, &normaliser, words)));
    };
    step("a put below the quota", &["put", "first", "value"]);
    let value = "v".repeat(VALUE_BYTES);
    let refused = (0..PUTS_MAX).find(|index| {
        let key = format!("large/{index}");
        // Too long for a command line: the value is read from standard input.
        !put_from_input(&server, &key, &value)
    });
    assert!(
        refused.is_some(),
        "{PUTS_MAX} MiB fit into a quota of {QUOTA_BYTES} bytes"
    );
    // Whoever is refused finds the alarm raised.
    step("the alarm at once", &["alarm", "list"]);
    step("a small put", &["put", "small", "x"]);
    step("a lease", &["lease", "grant", "60"]);
    step("alarms", &["alarm", "list"]);
    step("health", &["endpoint", "health"]);
    step("a read", &["get", "first"]);
    step("a delete", &["del", "first"]);
    step(
        "a transaction that only deletes",
        &["del", "large/", "large/1"],
    );
    step("disarm", &["alarm", "disarm"]);
    step("no alarm", &["alarm", "list"]);
    shown
}

/// A number of `endpoint status`.
fn status(server: &Server, name: &str) -> i64 {
    let shown = printed(server, &["endpoint", "status", "--write-out=json"]);
    let begin = shown.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
    let number = shown[begin..].split([',', '}']).next().unwrap();
    number.parse().unwrap_or_else(|_| panic!("{name}: {shown}"))
}

fn put_from_input(server: &Server, key: &str, value: &str) -> bool {
    use std::io::Write;
    let mut child = Command::new(etcd_program("etcdctl"))
        .arg(format!("--endpoints={}", server.endpoint()))
        .args(["put", key])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(value.as_bytes())
        .unwrap();
    child.wait().unwrap().success()
}

#[test]
fn the_quota_raises_an_alarm_and_deletes_still_work() {
    let tested = transcript(Kind::under_test());
    let etcd = transcript(Kind::Etcd);
    assert!(etcd[2].1.contains("database space exceeded"), "{etcd:?}");
    assert!(etcd[1].1.contains("alarm:NOSPACE"), "{etcd:?}");
    assert_eq!(tested, etcd);
}

/// The sizes of a server: as it starts, with three values of 1 MiB, and without them again.
fn sizes_follow_the_data(kind: Kind) {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(kind, directory.path()).start();
    let sizes = || [status(&server, "dbSize"), status(&server, "dbSizeInUse")];
    let [size, in_use] = sizes();
    assert!(0 < in_use && in_use <= size, "{in_use} of {size}");
    let value = "v".repeat(VALUE_BYTES);
    for key in ["a", "b", "c"] {
        assert!(put_from_input(&server, key, &value));
    }
    // etcd counts what it has committed to its file, ten times a second.
    let written = 3 * VALUE_BYTES as i64;
    let until = |what: &str, holds: &dyn Fn([i64; 2]) -> bool| {
        let begin = Instant::now();
        while !holds(sizes()) {
            let limit = Duration::from_secs(20);
            assert!(begin.elapsed() < limit, "{what}: {:?}", sizes());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    until("three values", &|[size, used]| {
        used <= size && used >= in_use + written
    });
    printed(&server, &["del", "a", "d"]);
    let revision = status(&server, "revision").to_string();
    printed(&server, &["compact", &revision, "--physical"]);
    until("without them", &|[size, used]| {
        used <= size && used < in_use + written
    });
}

#[test]
fn status_tells_the_quota_and_the_sizes() {
    for (flag, told) in [("-1", -1), ("0", 2 << 30), ("20000000", 20_000_000)] {
        for kind in [Kind::under_test(), Kind::Etcd] {
            let directory = TemporaryDirectory::new();
            let server = Launch::new(kind, directory.path())
                .argument(format!("--quota-backend-bytes={flag}"))
                .start();
            assert_eq!(status(&server, "dbSizeQuota"), told, "{kind:?}");
        }
    }
    sizes_follow_the_data(Kind::under_test());
    sizes_follow_the_data(Kind::Etcd);
}
