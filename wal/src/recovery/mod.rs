//! From files to a running log: find or create the superblock, repair its copies, scan the lanes, decide.
//!
//! Owns the rules that tell a torn tail (never acknowledged, dropped in silence) from a faulty log
//! (acknowledged and missing, refused with file, offset and what is missing). It writes nothing but copy
//! repairs before the decision, and changes no epoch when the decision is "faulty".

mod decide;
mod error;
mod opening;
mod scan;

pub use error::{Faulty, OpenError};
pub use opening::{AcceptedLoss, Opened, Opening, RecoveryReport};
