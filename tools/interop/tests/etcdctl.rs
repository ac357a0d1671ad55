//! etcdctl, the new release and the distribution's old one, sees no difference between ringd and etcd.

use std::fs;

use interop::programs::{Kind, etcd_program, old_etcdctl, root};
use interop::server::{Launch, TemporaryDirectory};
use interop::walk::{Client, Step, TOO_FEW_LINES, differences, walk};

fn new_client() -> Client {
    Client {
        program: etcd_program("etcdctl"),
        new: true,
    }
}

fn old_client() -> Client {
    Client {
        program: old_etcdctl(),
        new: false,
    }
}

fn walk_on(kind: Kind, client: &Client, script: &str) -> Vec<Step> {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(kind, directory.path()).start();
    walk(script, client, &server, directory.path())
}

fn compare(client: &Client) {
    let path = root().join("tools/interop/testscripts/etcdctl.walk");
    let script = fs::read_to_string(&path).unwrap();
    let under_test = Kind::under_test();
    let (etcd, tested) = std::thread::scope(|scope| {
        let etcd = scope.spawn(|| walk_on(Kind::Etcd, client, &script));
        let tested = scope.spawn(|| walk_on(under_test, client, &script));
        (etcd.join().unwrap(), tested.join().unwrap())
    });
    if let Some(path) = std::env::var_os("INTEROP_TRANSCRIPT") {
        let transcript: String = etcd
            .iter()
            .map(|step| format!("--- {}\n{}\n", step.line, step.shown))
            .collect();
        fs::write(path, transcript).unwrap();
    }
    assert!(etcd.len() > 150, "the walk has only {} steps", etcd.len());
    for step in &etcd {
        let stuck = step.shown.starts_with(TOO_FEW_LINES);
        assert!(
            !stuck,
            "the walk itself is wrong: {}: {}",
            step.line, step.shown
        );
    }
    let differences = differences(&etcd, &tested, ["etcd", "server under test"]);
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn the_new_etcdctl_sees_no_difference() {
    compare(&new_client());
}

#[test]
fn the_old_etcdctl_sees_no_difference() {
    compare(&old_client());
}
