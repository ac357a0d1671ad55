//! Runs etcd's data-driven test files against this core and compares the output text.
//!
//! The folder is `RAFT_TESTDATA`, or the shared copy beside the checkout. A folder that is not
//! there fails the test: a judge that did not sit has not acquitted anybody.
//!
//! What is normalised, because this core's interface differs and its behaviour does not:
//! - A `Ready` is put together from the actions drained since the last one. Replies that wait for
//!   durability are printed with it (etcd lists them there too) and really leave afterwards.
//! - A member's own pre-vote counts at once here; etcd delivers it through `Ready`. Its lines are
//!   printed where etcd prints them. The same holds for the own vote and the own
//!   acknowledgement in asynchronous runs, which etcd carries as messages to itself.
//! - Forwarded proposals and refused membership changes are the caller's business here: the
//!   harness forwards, and puts an empty entry where etcd's core puts one.
//! - Lines about etcd's own in-memory log layout ("unstable") are rebuilt from the durable index.

mod arithmetic;
mod cluster;
mod ready;
mod script;
mod storage;
mod text;

use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    let folder = std::env::var_os("RAFT_TESTDATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/testdata/etcd-raft"),
        PathBuf::from,
    );
    assert!(
        folder.is_dir(),
        "the test files are missing: {} is no folder; set RAFT_TESTDATA to a copy of etcd-raft's testdata",
        folder.display()
    );
    folder
}

fn files(part: &str) -> Vec<PathBuf> {
    let folder = folder().join(part);
    let listing = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{} cannot be listed: {error}", folder.display()));
    let mut files: Vec<PathBuf> = listing
        .map(|entry| entry.expect("directory entry").path())
        .filter(|path| path.extension().is_some_and(|it| it == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no .txt file", folder.display());
    files
}

/// Runs each file through `run`, a fresh one per file; panics with the first difference of each.
fn judge(part: &str, run: impl Fn() -> Box<dyn FnMut(&script::Block) -> String>) {
    let only = std::env::var("RAFT_TESTFILE").ok();
    let mut failures = Vec::new();
    for path in files(part) {
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        if only.as_ref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let mut handler = run();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            script::first_difference(&script::parse(&text), &mut handler)
        }));
        match outcome {
            Ok(None) => println!("pass {part}/{name}"),
            Ok(Some(difference)) => failures.push(format!("FAIL {part}/{name}\n{difference}")),
            Err(_) => failures.push(format!("FAIL {part}/{name}: panicked")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn quorum_files() {
    judge("quorum", || Box::new(arithmetic::quorum));
}

#[test]
fn confchange_files() {
    judge("confchange", || {
        let mut changer = arithmetic::Changer::new();
        Box::new(move |block| changer.run(block))
    });
}

#[test]
fn interaction_files() {
    judge("interaction", || {
        let mut cluster = cluster::Cluster::default();
        Box::new(move |block| cluster.run(block))
    });
}

#[test]
fn the_file_that_must_be_there() {
    let single = folder().join("interaction/single_node.txt");
    assert!(single.is_file(), "{} is missing", single.display());
}

#[test]
fn a_wrong_expectation_is_noticed() {
    let blocks = script::parse("vote cfg=(1) votes=(y)\n----\nVoteLost\n");
    let difference = script::first_difference(&blocks, &mut arithmetic::quorum);
    assert!(difference.is_some_and(|it| it.contains("VoteWon")));
}
