//! Versions of one key as they stand in leaf cells and overflow pages.
//!
//! Owns the encoding and the rules between neighbouring versions. Knows neither pages nor trees.

pub(crate) mod varint;
pub(crate) mod versions;
