//! Foreign clients against the real binary.
//!
//! This crate owns the harness: it builds or finds the programs, starts a server on free loopback
//! ports with a data directory of its own, waits until it answers, and ends it by its own process
//! id. The tests in `tests/` bring the clients. It refuses to know how a server works inside.
//!
//! `INTEROP_SERVER=etcd` runs the same tests against the pinned etcd, which proves the tests
//! themselves; what concerns ringd alone is skipped then. `RINGD_BINARY` and
//! `RINGCTL_BINARY` name other builds.
//! `RINGD_TEST_BUDGET` multiplies the number of rounds of the long tests.

#![forbid(unsafe_code)]

pub mod console;
pub mod normalise;
pub mod programs;
pub mod server;
pub mod walk;
pub mod web;

/// The factor by which long tests are made longer, 1 by default.
pub fn budget() -> f64 {
    std::env::var("RINGD_TEST_BUDGET")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1.0)
}

/// `rounds` times the budget, at least 1.
pub fn rounds(rounds: u32) -> u32 {
    ((f64::from(rounds) * budget()) as u32).max(1)
}
