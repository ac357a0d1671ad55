//! Page images: what is written to disk, and what is believed of what comes back.

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::reference::ADDRESS_MAX;
use super::*;
use crate::mvcc::versions;

/// `"RPG"` and the format's version.
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"RPG\x01");

/// What the reader of an image knows about it from its parent.
#[derive(Clone, Copy, Debug)]
pub struct Expectation {
    /// Shard whose file it was read from.
    pub shard: u16,
    /// The data directory's salt.
    pub salt: u64,
    /// The reference that was followed.
    pub reference: PageRef,
}

impl Expectation {
    fn address(&self) -> u64 {
        self_address(self.shard, self.reference.address)
    }
}

/// Blocks of the image of a page with so many used bytes.
pub(crate) fn blocks_of(used: usize) -> u8 {
    used.div_ceil(BLOCK_BYTES) as u8
}

pub(crate) fn self_address(shard: u16, address: u64) -> u64 {
    u64::from(shard) << 40 | (address & ADDRESS_MAX)
}

/// Why bytes are not the expected page.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PageError {
    /// The image has another size than its reference says.
    #[error("{got} bytes instead of {expected}")]
    Length {
        /// Bytes read.
        got: usize,
        /// Bytes by the reference.
        expected: usize,
    },
    /// Damaged bytes, or a page of another data directory.
    #[error("checksum {stored:#018x} stored, {computed:#018x} computed")]
    Checksum {
        /// In the header.
        stored: u64,
        /// Of the bytes read.
        computed: u64,
    },
    /// No page, or one of a newer format.
    #[error("magic and version {got:#010x}; this build reads {MAGIC:#010x}")]
    Magic {
        /// In the header.
        got: u32,
    },
    /// A misdirected write or read.
    #[error("self address {got:#x} instead of {expected:#x}")]
    Address {
        /// In the header.
        got: u64,
        /// By the reference.
        expected: u64,
    },
    /// A lost write: an older image stands there.
    #[error("generation {got} instead of {expected}")]
    Generation {
        /// In the header.
        got: u32,
        /// By the reference.
        expected: u32,
    },
    /// A field of the header is out of its range.
    #[error("header: {what}")]
    Header {
        /// Which, and how.
        what: &'static str,
    },
    /// A slot or its cell is out of its range.
    #[error("cell {index}: {what}")]
    Cell {
        /// Position of the cell.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The page is well formed but not the one that its parent describes.
    #[error("the parent disagrees: {what}")]
    Parent {
        /// What differs.
        what: &'static str,
    },
}

impl Page {
    /// Blocks of the image that [`Page::encode`] would give.
    pub fn blocks(&self) -> u8 {
        blocks_of(self.used())
    }

    /// The image: compacted, trimmed to the 4 KiB blocks in use, with checksum.
    ///
    /// Child references must be on-disk ones.
    pub fn encode(&self, salt: u64) -> Vec<u8> {
        let mut image = Vec::with_capacity(usize::from(self.blocks()) * BLOCK_BYTES);
        self.encode_as(self.address(), self.generation(), salt, &mut image);
        image
    }

    /// Appends the image as [`Page::encode`] would give it under this identity.
    pub(crate) fn encode_as(&self, address: u64, generation: u32, salt: u64, images: &mut Vec<u8>) {
        let blocks = self.blocks();
        let len = usize::from(blocks) * BLOCK_BYTES;
        let begin = images.len();
        images.resize(begin + len, 0);
        let image = &mut images[begin..];
        let slots_end = Self::slot_at(self.len());
        image[..slots_end].copy_from_slice(&self.bytes[..slots_end]);
        let mut top = len;
        let mut place = |field: usize, bytes: &[u8]| {
            let end = top;
            top -= bytes.len();
            image[top..end].copy_from_slice(bytes);
            image[field..field + 2].copy_from_slice(&(top as u16).to_le_bytes());
        };
        place(at::LOW, self.low());
        if let Some(high) = self.high() {
            place(at::HIGH, high);
        }
        for index in 0..self.len() {
            place(Self::slot_at(index), self.cell(index));
        }
        let mut put =
            |field: usize, bytes: &[u8]| image[field..field + bytes.len()].copy_from_slice(bytes);
        put(at::HEAP_TOP, &(top as u16).to_le_bytes());
        put(at::DEAD, &[0; 2]);
        put(at::BLOCKS, &u16::from(blocks).to_le_bytes());
        put(at::ADDRESS, &address.to_le_bytes());
        put(at::GENERATION, &generation.to_le_bytes());
        let sum = xxh3_64_with_seed(&image[8..], salt);
        image[..8].copy_from_slice(&sum.to_le_bytes());
    }

    fn move_offsets(&mut self, shift: impl Fn(usize) -> usize) {
        let high = (self.u16(at::HIGH) != 0).then_some(at::HIGH);
        let slots = (0..self.len()).map(Self::slot_at);
        for field in [at::HEAP_TOP, at::LOW].into_iter().chain(high).chain(slots) {
            let offset = shift(self.u16(field));
            self.set_u16(field, offset);
        }
    }

    /// Reads an image, believing nothing.
    ///
    /// # Errors
    /// The first rule that the bytes break; see `docs/internals/page.md`.
    pub fn decode(image: &[u8], expected: &Expectation) -> Result<Page, PageError> {
        check_identity(image, expected)?;
        let shift = PAGE_BYTES - image.len();
        let mut page = Page {
            bytes: vec![0; PAGE_BYTES].try_into().expect("a page's size"),
        };
        page.bytes[..HEADER_BYTES].copy_from_slice(&image[..HEADER_BYTES]);
        page.check_header(image.len())?;
        let slots_end = Self::slot_at(page.len());
        let top = page.u16(at::HEAP_TOP);
        page.bytes[HEADER_BYTES..slots_end].copy_from_slice(&image[HEADER_BYTES..slots_end]);
        page.bytes[top + shift..].copy_from_slice(&image[top..]);
        for index in 0..page.len() {
            page.check_slot(index, image.len())?;
        }
        page.move_offsets(|offset| offset + shift);
        page.set_u16(at::BLOCKS, 0);
        page.check_fences()?;
        page.check_cells()?;
        page.bytes[..8].fill(0);
        Ok(page)
    }

    fn check_header(&self, image_len: usize) -> Result<(), PageError> {
        let require = |holds: bool, what: &'static str| {
            if holds {
                Ok(())
            } else {
                Err(PageError::Header { what })
            }
        };
        let kind = PageKind::from_byte(self.bytes[at::KIND]);
        require(kind.is_some(), "unknown kind")?;
        require(
            (self.level() > 0) == (kind == Some(PageKind::Inner)),
            "level of another kind",
        )?;
        require(self.u32(at::RESERVED) == 0, "reserved bytes are set")?;
        let top = self.u16(at::HEAP_TOP);
        let slots_end = HEADER_BYTES + self.len() * SLOT_BYTES;
        require(
            slots_end <= top && top <= image_len,
            "heap outside the page",
        )?;
        require(self.u16(at::DEAD) == 0, "dead bytes in an image")?;
        let (low, low_len) = (self.u16(at::LOW), self.u16(at::LOW + 2));
        require(
            low >= top && low + low_len <= image_len,
            "lower fence outside the heap",
        )?;
        require(low_len <= PAGE_KEY_BYTES_MAX, "lower fence too long")?;
        let (high, high_len) = (self.u16(at::HIGH), self.u16(at::HIGH + 2));
        if high == 0 {
            require(high_len == 0, "length without upper fence")?;
        } else {
            require(
                high >= top && high + high_len <= image_len,
                "upper fence outside the heap",
            )?;
            require(high_len <= PAGE_KEY_BYTES_MAX, "upper fence too long")?;
        }
        let link = Swip::decode(&self.bytes[at::LINK..at::LINK + SWIP_BYTES]);
        let tail_is_zero = self.bytes[at::LINK + SWIP_BYTES..HEADER_BYTES] == [0; 4];
        match kind {
            Some(PageKind::Inner) => {
                require(matches!(link, Some(Swip::Disk(_))), "no leftmost child")
            }
            Some(PageKind::Overflow) => {
                let on_disk = matches!(link, Some(Swip::Disk(_) | Swip::Absent));
                require(on_disk && tail_is_zero, "no valid link")
            }
            _ => require(
                self.bytes[at::LINK + 8..HEADER_BYTES] == [0; 8],
                "reserved bytes are set",
            ),
        }
    }

    /// Checks a slot whose offset still counts from the image's start.
    fn check_slot(&self, index: usize, image_len: usize) -> Result<(), PageError> {
        let fail = |what| Err(PageError::Cell { index, what });
        let slot = Self::slot_at(index);
        let (offset, len) = (self.u16(slot), self.u16(slot + 2));
        if offset < self.u16(at::HEAP_TOP) || offset + len > image_len {
            return fail("outside the heap");
        }
        if !(2..=CELL_BYTES_MAX).contains(&len) {
            return fail("length out of range");
        }
        let shift = PAGE_BYTES - image_len;
        if 2 + self.u16(offset + shift) > len {
            return fail("key longer than its cell");
        }
        Ok(())
    }

    fn check_fences(&self) -> Result<(), PageError> {
        let fail = |what| Err(PageError::Header { what });
        if self.kind() != PageKind::Overflow && self.high().is_some_and(|high| self.low() >= high) {
            return fail("fences out of order");
        }
        if self.u16(at::PREFIX_LEN) != prefix_of_fences(self.low(), self.high()) {
            return fail("prefix is not the fences' common one");
        }
        let cells: usize = (0..self.len()).map(|index| self.cell(index).len()).sum();
        let fences = self.low().len() + self.high().map_or(0, <[u8]>::len);
        if cells + fences != PAGE_BYTES - self.u16(at::HEAP_TOP) {
            return fail("heap bytes that belong to no cell");
        }
        Ok(())
    }

    fn check_cells(&self) -> Result<(), PageError> {
        let kind = self.kind();
        let prefix_len = self.prefix().len();
        let low = &self.low()[prefix_len..];
        let high = self.high().map(|high| &high[prefix_len..]);
        for index in 0..self.len() {
            let fail = |what| Err(PageError::Cell { index, what });
            if self.head(index) != head_of(self.suffix(index)) {
                return fail("head is not the suffix's");
            }
            let payload = self.payload(index);
            if kind == PageKind::Overflow {
                if !self.suffix(index).is_empty() {
                    return fail("a run with a key");
                }
                if let Err(what) = versions::check_run(payload) {
                    return fail(what);
                }
                continue;
            }
            // The fences share the page's prefix with each other, and so with every key.
            let suffix = self.suffix(index);
            let is_covered = low <= suffix && high.is_none_or(|high| suffix < high);
            if prefix_len + suffix.len() > PAGE_KEY_BYTES_MAX || !is_covered {
                return fail("key outside the fences");
            }
            if index > 0 && self.suffix(index - 1) >= self.suffix(index) {
                return fail("keys out of order");
            }
            let checked = match kind {
                PageKind::Inner => check_child(payload),
                PageKind::KeySet if payload.is_empty() => Ok(()),
                PageKind::KeySet => Err("a set member with a payload"),
                PageKind::Leaf | PageKind::Overflow => versions::check_cell(payload),
            };
            if let Err(what) = checked {
                return fail(what);
            }
        }
        Ok(())
    }
}

fn check_child(payload: &[u8]) -> Result<(), &'static str> {
    if payload.len() != CHILD_BYTES {
        return Err("a child reference of another size");
    }
    match Swip::decode(&payload[..SWIP_BYTES]) {
        Some(Swip::Disk(_)) => Ok(()),
        _ => Err("no valid child reference"),
    }
}

/// Checks size, checksum, format, address and generation, in this order.
fn check_identity(image: &[u8], expected: &Expectation) -> Result<(), PageError> {
    let len = usize::from(expected.reference.blocks) * BLOCK_BYTES;
    if image.len() != len || !(BLOCK_BYTES..=PAGE_BYTES).contains(&len) {
        return Err(PageError::Length {
            got: image.len(),
            expected: len,
        });
    }
    let u64_at = |offset: usize| {
        u64::from_le_bytes(image[offset..][..8].try_into().expect("8 bytes of a block"))
    };
    let u32_at = |offset: usize| {
        u32::from_le_bytes(image[offset..][..4].try_into().expect("4 bytes of a block"))
    };
    let (stored, computed) = (u64_at(0), xxh3_64_with_seed(&image[8..], expected.salt));
    if stored != computed {
        return Err(PageError::Checksum { stored, computed });
    }
    if u32_at(at::MAGIC) != MAGIC {
        return Err(PageError::Magic {
            got: u32_at(at::MAGIC),
        });
    }
    if u64_at(at::ADDRESS) != expected.address() {
        let (got, expected) = (u64_at(at::ADDRESS), expected.address());
        return Err(PageError::Address { got, expected });
    }
    let generation = u32_at(at::GENERATION);
    let stale_accepted = crate::planted::planted(crate::planted::Bug::StaleGenerationAccepted);
    if generation != expected.reference.generation && !stale_accepted {
        let expected = expected.reference.generation;
        return Err(PageError::Generation {
            got: generation,
            expected,
        });
    }
    let blocks = u16::from_le_bytes([image[at::BLOCKS], image[at::BLOCKS + 1]]);
    if blocks != u16::from(expected.reference.blocks) {
        return Err(PageError::Header {
            what: "number of blocks is not the reference's",
        });
    }
    Ok(())
}
