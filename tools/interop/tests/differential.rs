//! The same raw requests to ringd and to etcd: every answer must be equal, field by field.
//!
//! The Go program in `go/differential*.go` holds the requests. With `INTEROP_SERVER=etcd` it compares
//! two etcds, which shows what of etcd's answers is chance. `INTEROP_SEED` seeds the random requests.

use std::collections::BTreeSet;
use std::process::Command;

use interop::programs::{Kind, go_scenarios, root};
use interop::rounds;
use interop::server::{Launch, TemporaryDirectory};

/// Random requests in one run, before `RINGD_TEST_BUDGET`.
const RANDOM_REQUESTS: u32 = 4000;

#[test]
fn every_answer_is_etcds() {
    let (directory, other) = (TemporaryDirectory::new(), TemporaryDirectory::new());
    let tested = Launch::new(Kind::under_test(), directory.path()).start();
    let reference = Launch::new(Kind::Etcd, other.path()).start();
    let seed = std::env::var("INTEROP_SEED").unwrap_or_else(|_| "1".to_owned());
    let output = Command::new(go_scenarios())
        .args(["differential", &tested.endpoint(), &reference.endpoint()])
        .args([seed, rounds(RANDOM_REQUESTS).to_string()])
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What the servers of the errors are started with; `go/errors.go` has the same numbers.
const LIMITS: [&str; 2] = ["--max-txn-ops=16", "--max-request-bytes=8192"];

/// A server of one kind as the errors want it. etcd gives tokens that outlive a change of users.
fn with_limits(kind: Kind, directory: &TemporaryDirectory) -> Launch {
    let launch = Launch::new(kind, directory.path());
    let launch = LIMITS.into_iter().fold(launch, Launch::argument);
    if kind == Kind::Ringd {
        return launch;
    }
    let key = directory.path().join("key");
    std::fs::write(&key, "any bytes sign tokens").unwrap();
    launch.argument(format!(
        "--auth-token=jwt,sign-method=HS256,priv-key={}",
        key.display()
    ))
}

/// The errors that the table tells of, without what is not in etcd's own table: codes and texts.
fn told(table: &str) -> BTreeSet<(String, String)> {
    let lines: Vec<&str> = table.lines().collect();
    let rows = lines.iter().zip(&lines[1..]);
    let rows = rows.filter(|(name, _)| name.starts_with("ErrGRPC"));
    rows.map(|(_, answer)| {
        let (code, text) = answer.trim().split_once(": ").unwrap();
        (code.to_owned(), text.to_owned())
    })
    .collect()
}

/// `testscripts/errors.table` is what the program prints: each error with the ways that provoke it, or why no single
/// node sends it, and what ringd does not serve yet. `INTEROP_REWRITE=1` writes it anew.
#[test]
fn every_error_is_etcds() {
    let (directory, other) = (TemporaryDirectory::new(), TemporaryDirectory::new());
    let tested = with_limits(Kind::under_test(), &directory).start();
    let reference = with_limits(Kind::Etcd, &other).start();
    let output = Command::new(go_scenarios())
        .args(["errors", &tested.endpoint(), &reference.endpoint()])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let table = String::from_utf8(output.stdout).unwrap();

    // Not one of the 63 is left out. Where the server sends another code than the table has, that code is told.
    let mut expected: BTreeSet<(String, String)> = grpc::status::ETCD_ERRORS
        .iter()
        .map(|status| (format!("{:?}", status.code), status.message.to_string()))
        .collect();
    assert_eq!(expected.len(), 63);
    let declared = &grpc::status::MEMBER_NOT_ENOUGH_STARTED;
    let sent = &grpc::status::NOT_ENOUGH_STARTED_MEMBERS;
    assert!(expected.remove(&(format!("{:?}", declared.code), declared.message.to_string())));
    expected.insert((format!("{:?}", sent.code), sent.message.to_string()));
    assert_eq!(told(&table), expected);

    let path = root().join("tools/interop/testscripts/errors.table");
    if std::env::var_os("INTEROP_REWRITE").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    if Kind::under_test() == Kind::Ringd {
        let kept = std::fs::read_to_string(&path).unwrap();
        assert_eq!(table, kept, "{} tells something else", path.display());
    }
}
