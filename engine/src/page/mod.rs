//! Tree pages: 16 KiB of slots and cells, searched and edited in place.
//!
//! Owns the bytes of a page: header, fences, slots, heap, and their image on disk. Refuses to know
//! where pages come from, which pages are resident, and what a leaf's payload means (except that
//! [`Page::decode`] asks `mvcc` whether a payload is well formed). The format is described in
//! `docs/internals/page.md`.
//!
//! ```text
//! 0        64          64 + 8n                heap_top                        16384
//! | header | slots ... | free space ......... | cells (growing down) | fences |
//! ```

mod codec;
mod edit;
mod reference;
#[cfg(test)]
mod tests;

pub use codec::{Expectation, PageError};
pub(crate) use codec::{blocks_of, self_address};
pub use reference::PageRef;
pub(crate) use reference::{ADDRESS_MAX, SWIP_BYTES, SlotId, Swip};

/// Bytes of a page in memory.
pub const PAGE_BYTES: usize = 16 * 1024;
/// Unit of page images on disk.
pub const BLOCK_BYTES: usize = 4096;
/// Longest key of a page: a lease id and a key.
pub const PAGE_KEY_BYTES_MAX: usize = 8 + crate::command::KEY_BYTES_MAX;

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const SLOT_BYTES: usize = 8;
/// Payload of an inner cell: child reference and live count.
pub(crate) const CHILD_BYTES: usize = SWIP_BYTES + 4;
/// Largest cell: four fit a page beside its longest fences, so that a split always makes room.
pub(crate) const CELL_BYTES_MAX: usize = 3000;

const _: () = assert!(
    4 * (CELL_BYTES_MAX + SLOT_BYTES) + 2 * PAGE_KEY_BYTES_MAX + HEADER_BYTES <= PAGE_BYTES
);
const _: () = assert!(2 + PAGE_KEY_BYTES_MAX + CHILD_BYTES <= CELL_BYTES_MAX);

/// Offsets of the header's fields; the checksum stands at 0.
mod at {
    pub(super) const MAGIC: usize = 8;
    pub(super) const KIND: usize = 12;
    pub(super) const LEVEL: usize = 13;
    pub(super) const BLOCKS: usize = 14;
    pub(super) const ADDRESS: usize = 16;
    pub(super) const GENERATION: usize = 24;
    pub(super) const RESERVED: usize = 28;
    pub(super) const COUNT: usize = 32;
    pub(super) const HEAP_TOP: usize = 34;
    pub(super) const DEAD: usize = 36;
    pub(super) const PREFIX_LEN: usize = 38;
    pub(super) const LOW: usize = 40;
    pub(super) const HIGH: usize = 44;
    pub(super) const LINK: usize = 48;
}

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageKind {
    /// Keys with their version lists.
    Leaf = 1,
    /// Separators and children.
    Inner = 2,
    /// Older versions of one key.
    Overflow = 3,
    /// Keys without payload: a leaf of the lease tree.
    KeySet = 6,
}

impl PageKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(PageKind::Leaf),
            2 => Some(PageKind::Inner),
            3 => Some(PageKind::Overflow),
            6 => Some(PageKind::KeySet),
            _ => None,
        }
    }
}

/// One page in memory.
///
/// Invariants:
/// - `64 + 8n ≤ heap_top ≤ 16384`; every cell and both fences lie at or above `heap_top`.
/// - `dead` is the number of heap bytes that no slot and no fence covers.
/// - Keys are strictly ascending, `low ≤ key < high`; the prefix is the fences' longest common one and
///   is not stored in the cells.
/// - A slot's head is the first four bytes of its key's suffix, big-endian, padded with zeros.
#[derive(Clone)]
pub struct Page {
    bytes: Box<[u8; PAGE_BYTES]>,
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page")
            .field("kind", &self.kind())
            .field("level", &self.level())
            .field("address", &self.address())
            .field("generation", &self.generation())
            .field("cells", &self.len())
            .field("used", &self.used())
            .finish()
    }
}

/// Length of the longest common prefix.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn prefix_of_fences(low: &[u8], high: Option<&[u8]>) -> usize {
    high.map_or(0, |high| common_prefix(low, high))
}

/// The first four bytes of a suffix as a number that orders like them.
fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk::<4>() {
        Some(head) => u32::from_be_bytes(*head),
        None => {
            let mut head = [0; 4];
            head[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(head)
        }
    }
}

impl Page {
    /// An empty page for the keys `low ≤ key < high`.
    pub(crate) fn new(kind: PageKind, level: u8, low: &[u8], high: Option<&[u8]>) -> Self {
        let bytes: Box<[u8; PAGE_BYTES]> = vec![0; PAGE_BYTES]
            .try_into()
            .expect("a vector of the page's size");
        let mut page = Page { bytes };
        page.set_u32(at::MAGIC, codec::MAGIC);
        page.bytes[at::KIND] = kind as u8;
        page.bytes[at::LEVEL] = level;
        page.set_u16(at::HEAP_TOP, PAGE_BYTES);
        page.set_u16(at::PREFIX_LEN, prefix_of_fences(low, high));
        let low_at = page.push_heap(low);
        page.set_u16(at::LOW, low_at);
        page.set_u16(at::LOW + 2, low.len());
        if let Some(high) = high {
            let high_at = page.push_heap(high);
            page.set_u16(at::HIGH, high_at);
            page.set_u16(at::HIGH + 2, high.len());
        }
        page
    }

    /// What the page holds.
    pub fn kind(&self) -> PageKind {
        PageKind::from_byte(self.bytes[at::KIND]).expect("a page in memory has a known kind")
    }

    /// Height above the leaves.
    pub fn level(&self) -> u8 {
        self.bytes[at::LEVEL]
    }

    /// Shard (upper bits) and block address (lower 40 bits) of the page's image.
    pub fn address(&self) -> u64 {
        u64::from_le_bytes(self.bytes[at::ADDRESS..][..8].try_into().expect("8 bytes"))
    }

    /// Checkpoint that wrote the page's image.
    pub fn generation(&self) -> u32 {
        self.u32(at::GENERATION)
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        self.u16(at::COUNT)
    }

    /// Whether the page has no cell.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lower fence, inclusive; empty is unbounded.
    pub fn low(&self) -> &[u8] {
        &self.bytes[self.u16(at::LOW)..][..self.u16(at::LOW + 2)]
    }

    /// Upper fence, exclusive.
    pub fn high(&self) -> Option<&[u8]> {
        match self.u16(at::HIGH) {
            0 => None,
            offset => Some(&self.bytes[offset..][..self.u16(at::HIGH + 2)]),
        }
    }

    /// What all keys of the page begin with.
    pub fn prefix(&self) -> &[u8] {
        &self.low()[..self.u16(at::PREFIX_LEN)]
    }

    /// Header, slots, fences and cells, without free and dead bytes.
    pub fn used(&self) -> usize {
        HEADER_BYTES + self.len() * SLOT_BYTES + PAGE_BYTES
            - self.u16(at::HEAP_TOP)
            - self.u16(at::DEAD)
    }

    #[inline]
    fn u16(&self, offset: usize) -> usize {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]]) as usize
    }

    fn set_u16(&mut self, offset: usize, value: usize) {
        let value = u16::try_from(value).expect("a page offset fits 16 bits");
        self.bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    }

    #[inline]
    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes[offset..][..4].try_into().expect("4 bytes"))
    }

    fn set_u32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    #[inline]
    fn slot_at(index: usize) -> usize {
        HEADER_BYTES + index * SLOT_BYTES
    }

    #[inline]
    fn head(&self, index: usize) -> u32 {
        self.u32(Self::slot_at(index) + 4)
    }

    /// Bytes of a cell: key length, suffix, payload.
    #[inline]
    pub(crate) fn cell(&self, index: usize) -> &[u8] {
        debug_assert!(index < self.len());
        let slot = Self::slot_at(index);
        &self.bytes[self.u16(slot)..][..self.u16(slot + 2)]
    }

    /// A key without the page's prefix.
    #[inline]
    pub(crate) fn suffix(&self, index: usize) -> &[u8] {
        let cell = self.cell(index);
        &cell[2..2 + u16::from_le_bytes([cell[0], cell[1]]) as usize]
    }

    /// What stands behind a key.
    #[inline]
    pub(crate) fn payload(&self, index: usize) -> &[u8] {
        let cell = self.cell(index);
        &cell[2 + u16::from_le_bytes([cell[0], cell[1]]) as usize..]
    }

    pub(crate) fn payload_mut(&mut self, index: usize) -> &mut [u8] {
        let slot = Self::slot_at(index);
        let (offset, len) = (self.u16(slot), self.u16(slot + 2));
        let key_len = self.u16(offset);
        &mut self.bytes[offset + 2 + key_len..offset + len]
    }

    /// Appends the whole key of a cell to `out`.
    #[inline]
    pub(crate) fn key_into(&self, index: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix());
        out.extend_from_slice(self.suffix(index));
    }

    /// The whole key of a cell.
    pub(crate) fn key(&self, index: usize) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix().len() + self.suffix(index).len());
        self.key_into(index, &mut key);
        key
    }

    /// Whether the fences admit `key`.
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        self.low() <= key && self.high().is_none_or(|high| key < high)
    }

    /// Position of `key`, or where it would stand. `key` lies between the fences.
    pub(crate) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        debug_assert!(self.covers(key));
        let suffix = &key[self.u16(at::PREFIX_LEN)..];
        let head = head_of(suffix);
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            let order = self
                .head(middle)
                .cmp(&head)
                .then_with(|| self.suffix(middle).cmp(suffix));
            match order {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// Index of the child that covers `key`.
    pub(crate) fn child_of(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(index) => index + 1,
            Err(index) => index,
        }
    }

    /// Bytes of child `index`'s reference and live count; child 0 stands in the header.
    fn child_bytes(&self, index: usize) -> &[u8] {
        match index.checked_sub(1) {
            None => &self.bytes[at::LINK..at::LINK + CHILD_BYTES],
            Some(cell) => self.payload(cell),
        }
    }

    fn child_bytes_mut(&mut self, index: usize) -> &mut [u8] {
        match index.checked_sub(1) {
            None => &mut self.bytes[at::LINK..at::LINK + CHILD_BYTES],
            Some(cell) => self.payload_mut(cell),
        }
    }

    /// Child 0's reference and live count, as they stand in a cell.
    pub(crate) fn first_child_bytes(&self) -> &[u8] {
        self.child_bytes(0)
    }

    /// Number of children of an inner page.
    pub(crate) fn children(&self) -> usize {
        debug_assert_eq!(self.kind(), PageKind::Inner);
        self.len() + 1
    }

    /// Fences of the page behind child `index`.
    pub(crate) fn fences_of_child(&self, index: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        let low = match index.checked_sub(1) {
            None => self.low().to_vec(),
            Some(cell) => self.key(cell),
        };
        let high = match index < self.len() {
            true => Some(self.key(index)),
            false => self.high().map(<[u8]>::to_vec),
        };
        (low, high)
    }

    pub(crate) fn child(&self, index: usize) -> Swip {
        Swip::decode(&self.child_bytes(index)[..SWIP_BYTES]).expect("a checked child reference")
    }

    pub(crate) fn set_child(&mut self, index: usize, child: Swip) {
        self.child_bytes_mut(index)[..SWIP_BYTES].copy_from_slice(&child.encode());
    }

    /// Live keys below child `index`.
    pub(crate) fn child_live(&self, index: usize) -> u32 {
        let bytes = &self.child_bytes(index)[SWIP_BYTES..CHILD_BYTES];
        u32::from_le_bytes(bytes.try_into().expect("4 bytes"))
    }

    pub(crate) fn set_child_live(&mut self, index: usize, live: u32) {
        self.child_bytes_mut(index)[SWIP_BYTES..CHILD_BYTES].copy_from_slice(&live.to_le_bytes());
    }

    /// The page with the next older versions, of an overflow page.
    pub(crate) fn link(&self) -> Swip {
        Swip::decode(&self.bytes[at::LINK..at::LINK + SWIP_BYTES]).expect("a checked link")
    }

    pub(crate) fn set_link(&mut self, link: Swip) {
        self.bytes[at::LINK..at::LINK + SWIP_BYTES].copy_from_slice(&link.encode());
    }

    /// Live keys in or below the page.
    pub(crate) fn live(&self) -> u32 {
        match self.kind() {
            PageKind::Inner => (0..self.children())
                .map(|index| self.child_live(index))
                .sum(),
            PageKind::KeySet => self.len() as u32,
            PageKind::Leaf => self.live_before(self.len()),
            PageKind::Overflow => 0,
        }
    }

    /// Live keys among the first `end` cells of a leaf.
    pub(crate) fn live_before(&self, end: usize) -> u32 {
        match self.kind() {
            PageKind::KeySet => end as u32,
            _ => (0..end)
                .filter(|&index| crate::mvcc::versions::is_live(self.payload(index)))
                .count() as u32,
        }
    }
}

impl Page {
    /// Checks the invariants of a page in memory.
    pub(crate) fn verify(&self) -> Result<(), String> {
        let top = self.u16(at::HEAP_TOP);
        if Self::slot_at(self.len()) > top || top > PAGE_BYTES {
            return Err(format!("{} slots, heap from {top}", self.len()));
        }
        if self.u16(at::PREFIX_LEN) != prefix_of_fences(self.low(), self.high()) {
            return Err("prefix is not the fences' common one".to_owned());
        }
        let cells: usize = (0..self.len()).map(|index| self.cell(index).len()).sum();
        let fences = self.low().len() + self.high().map_or(0, <[u8]>::len);
        if cells + fences + self.u16(at::DEAD) != PAGE_BYTES - top {
            return Err(format!(
                "{cells} bytes of cells, {} dead",
                self.u16(at::DEAD)
            ));
        }
        for index in 0..self.len() {
            let slot = Self::slot_at(index);
            if self.u16(slot) < top || self.u16(slot) + self.u16(slot + 2) > PAGE_BYTES {
                return Err(format!("cell {index} outside the heap"));
            }
            if self.kind() == PageKind::Overflow {
                continue;
            }
            if self.head(index) != head_of(self.suffix(index)) || !self.covers(&self.key(index)) {
                return Err(format!("cell {index}: head or fences"));
            }
            if index > 0 && self.suffix(index - 1) >= self.suffix(index) {
                return Err(format!("cell {index}: keys out of order"));
            }
        }
        Ok(())
    }
}
