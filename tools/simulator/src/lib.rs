//! The simulator: the real server pipeline, `ringd::node::Node`, unchanged over `reactor::sim`.
//!
//! One seed draws everything: the hardware and its faults, the sizes of the log, the clients and what
//! they ask for, the crashes. What clients were told is kept outside the simulated processes; at the
//! end the member's log is read back and everything is judged against a naive etcd.
//!
//! ```text
//! plan ──► run ── lives: member (node + clients, watchers, leases) ── crash ── …
//!                        │ history                                     │ disk image
//!                        ▼                                             ▼
//!                     checker ◄───────────────────────────────────── truth (the log)
//! ```
//!
//! Described in `docs/internals/simulator.md`.
#![forbid(unsafe_code)]

pub mod campaign;
pub mod checker;
pub mod clients;
pub mod history;
pub mod leases;
pub mod member;
pub mod met;
pub mod plan;
pub mod run;
pub mod sweep;
pub mod truth;
pub mod watchers;
pub mod wire;
