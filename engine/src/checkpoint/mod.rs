//! What a checkpoint is outside of the shards' page files: its order, and the engine's section of the
//! superblock.
//!
//! Owns the [`Section`]'s bytes and, in [`Sequence`], which step follows which. It knows neither the
//! superblock nor the log nor the shards: who composes them says what happened and does what comes out.

mod section;
mod sequence;
#[cfg(test)]
mod tests;

pub use section::{CheckpointError, ManifestRef, SECTION_BYTES_MAX, SECTION_VERSION, Section};
pub(crate) use section::{Fields, put_text};
pub use sequence::{Action, Sequence};
