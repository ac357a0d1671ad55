//! The same raw requests to ringd and to etcd: every answer must be equal, field by field.
//!
//! The Go program in `go/differential*.go` holds the requests. With `INTEROP_SERVER=etcd` it compares
//! two etcds, which shows what of etcd's answers is chance. `INTEROP_SEED` seeds the random requests.

use std::process::Command;

use interop::programs::{Kind, go_scenarios};
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
