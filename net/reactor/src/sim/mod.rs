//! The simulated driver: many hosts with many cores on one thread, with a virtual clock, faulty disks and a
//! faulty network, all of it a function of one seed.
//!
//! ```text
//!   Simulation ── worlds: one per core, the executor that also runs in production
//!       │  picks the next event, gives a core its turn
//!       ▼
//!   universe ── clock, event queue, operations in flight
//!       ├─ disk      per host: what reads see, what is durable, what a crash leaves
//!       └─ sockets   connections between and within hosts, partitions
//! ```
//!
//! What the models promise, and how to use them, stands in `docs/internals/simulation.md`.
//!
//! Invariants of absence: no real clock, no randomness but the seed's, no threads, no iteration over
//! anything that is ordered by address or by a random hash.

mod coverage;
mod disk;
mod options;
mod random;
mod simulation;
mod universe;

pub use coverage::{Coverage, FaultKind};
pub use disk::DiskImage;
pub use options::{
    DiskFault, DiskOperation, DiskOptions, Latency, NetworkOptions, PlannedFault,
    SchedulingOptions, SimulationOptions,
};
pub use random::{Random, Rate};
pub use simulation::{CoreId, Crash, CrashPoint, HostId, RunEnd, Simulation, Step};
pub(crate) use universe::LooseHandle;

#[cfg(test)]
mod tests;
