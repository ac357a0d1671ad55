//! Simulated disk and proofs.
pub use crate::planted::{Bug, with_planted};
