//! Where a page is: on disk, or in a slot of the pool.

use std::fmt;

/// Bytes of a stored child reference.
pub(crate) const SWIP_BYTES: usize = 12;
/// Largest block address: 40 bits.
pub(crate) const ADDRESS_MAX: u64 = (1 << 40) - 1;

/// Address of a page image: first 4 KiB block, number of blocks, and the checkpoint that wrote it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRef {
    /// First 4 KiB block of the shard's page file, below 2^40.
    pub address: u64,
    /// Blocks of the image, 1 to 4.
    pub blocks: u8,
    /// Checkpoint id that wrote the image.
    pub generation: u32,
}

impl fmt::Debug for PageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "page {}+{} of generation {}",
            self.address, self.blocks, self.generation
        )
    }
}
