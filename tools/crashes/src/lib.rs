//! Proofs over the log and the shards **together**.
//!
//! `wal` and `engine` prove their own machines; here they run as one member on one simulated disk,
//! composed as the server composes them: ids reserved first, a checkpoint when all images are durable,
//! published when the superblock is, the log cut, replay after the checkpoint. Owns the composition's
//! promises ([`Promise`]), the crash enumeration over it ([`enumerate`]), the storage faults ([`sweep`],
//! [`lost_writes`]) and the golden data directories ([`golden`]). It refuses to know how the machines
//! work: it sees requests, events, answers and bytes of files.
//!
//! ```text
//! World ── random life ──▶ Member (Wal, Coordinator, Shards) ──▶ SimDisk
//!   └─ at each submission and completion: every crash ──▶ recover ──▶ compare with Truth
//! ```
#![forbid(unsafe_code)]

mod enumerate;
mod faults;
pub mod golden;
mod judge;
mod member;
mod opening;
mod promise;
mod reader;
mod settings;
mod slip;
mod truth;
mod world;

pub use enumerate::{Counts, enumerate};
pub use faults::{FaultCounts, SweepImage, lost_writes, sweep};
pub use promise::{Promise, Violation};
pub use settings::{Settings, Shape};
pub use slip::Slip;
pub use wal::testing::budget;
pub use world::World;
