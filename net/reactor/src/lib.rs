//! The world of one core: tasks, timers, files, sockets, mailboxes, the clock and randomness.
//!
//! A core is one thread that owns a [`World`]. Everything above this crate is written against `World`
//! and therefore runs unchanged on three drivers: io_uring, epoll with a few file threads (where
//! io_uring is refused), and the seeded simulation in [`sim`].
//!
//! ```text
//!        futures (not Send)          one core, one thread
//!             │
//!   World ── executor: run queues by class, timers, operation table      safe code, no kernel
//!             │ submit / cancel          ▲ completions
//!             ▼                          │
//!          dyn Driver: uring │ fallback │ simulated
//! ```
//!
//! The crate owns all kernel calls of the project and all its `unsafe` code. It refuses to know what the
//! bytes mean.
//!
//! Invariants
//! - A buffer given to an operation belongs to the driver until the completion is reaped, even when the
//!   future that waited for it is gone.
//! - A handle is closed only after its last operation has been reaped.
//! - A core with nothing to do sleeps in the kernel and uses no CPU.

pub mod buffer;
mod detached;
pub mod driver;
mod executor;
mod fallback;
mod file;
mod kernel;
mod load;
pub mod mailbox;
mod net;
mod run;
pub mod sim;
mod task;
mod time;
mod uring;
mod world;

pub use buffer::{AlignedBuffer, BLOCK_BYTES, ReceiveBuffer};
pub use detached::{DetachedFile, DetachedStream};
pub use executor::{Class, PanicPolicy, TurnOutcome};
pub use file::{File, OpenOptions, WriteError};
pub use kernel::processors::usable_processors;
pub use net::{Address, Listener, Signal, Signals, Stream};
pub use run::{CoreThread, DriverChoice, RunOptions, open_driver, run, spawn_core};
pub use task::{JoinHandle, Task};
pub use time::{Elapsed, Sleep, Timestamp};
pub use world::World;
