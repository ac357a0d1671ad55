//! Client libraries that know nothing of ringd, each through its own scenarios.

use std::process::Command;

use interop::programs::{Kind, go_scenarios, python, root, rust_scenarios};
use interop::server::{Launch, TemporaryDirectory};

/// Runs `client` with a fresh server's endpoint as its last argument.
fn check(mut client: Command) {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::under_test(), directory.path()).start();
    let output = client
        .arg(server.endpoint())
        .output()
        .unwrap_or_else(|error| panic!("{client:?}: {error}"));
    let shown = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{shown}");
    assert!(output.status.success(), "{shown}\n{errors}");
}

#[test]
fn etcds_go_client() {
    let mut client = Command::new(go_scenarios());
    client.arg("clients");
    check(client);
}

#[test]
fn the_calls_of_a_kubernetes_api_server() {
    let mut client = Command::new(go_scenarios());
    client.arg("kubernetes");
    check(client);
}

#[test]
fn the_rust_client() {
    check(Command::new(rust_scenarios()));
}

#[test]
fn the_python_client() {
    let mut client = Command::new(python());
    client.arg(root().join("tools/interop/python/scenarios.py"));
    check(client);
}
