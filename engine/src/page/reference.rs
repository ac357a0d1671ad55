//! Where a page is: on disk, or in a slot of the pool.

use std::fmt;

/// Bytes of a stored child reference.
pub(crate) const SWIP_BYTES: usize = 12;
/// Largest block address: 40 bits.
pub(crate) const ADDRESS_MAX: u64 = (1 << 40) - 1;
/// Most blocks of one image.
pub(crate) const BLOCKS_MAX: u8 = 4;

/// In the byte of the block count: the reference is a slot of the pool.
const RESIDENT: u8 = 0xff;

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

/// A slot of the page pool. Says nothing outside the shard that owns the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotId(pub(crate) u32);

/// A child reference as it stands in a page: absent, in memory, or on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swip {
    /// No page.
    Absent,
    /// In this slot; never written to disk.
    Resident(SlotId),
    /// On disk.
    Disk(PageRef),
}

impl Swip {
    /// The stored form: address u40, blocks u8 (0 absent, 255 resident), generation u32, two zeros.
    pub(crate) fn encode(self) -> [u8; SWIP_BYTES] {
        let mut bytes = [0; SWIP_BYTES];
        match self {
            Swip::Absent => {}
            Swip::Resident(slot) => {
                bytes[..4].copy_from_slice(&slot.0.to_le_bytes());
                bytes[5] = RESIDENT;
            }
            Swip::Disk(page) => {
                bytes[..5].copy_from_slice(&page.address.to_le_bytes()[..5]);
                bytes[5] = page.blocks;
                bytes[6..10].copy_from_slice(&page.generation.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads the stored form; `None` if it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Swip> {
        let bytes: &[u8; SWIP_BYTES] = bytes.try_into().ok()?;
        let word = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
        let generation = u32::from_le_bytes(bytes[6..10].try_into().expect("4 bytes"));
        match bytes[5] {
            0 => (*bytes == [0; SWIP_BYTES]).then_some(Swip::Absent),
            RESIDENT => Some(Swip::Resident(SlotId(word as u32))),
            blocks if blocks <= BLOCKS_MAX && bytes[10..] == [0, 0] => Some(Swip::Disk(PageRef {
                address: word & ADDRESS_MAX,
                blocks,
                generation,
            })),
            _ => None,
        }
    }
}
