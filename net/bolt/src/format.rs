//! The fixed parts of the format: numbers, headers, meta pages.

/// The size of the pages that [`Writer`](crate::Writer) produces.
pub const PAGE_BYTES: u32 = 4096;
/// The smallest and the largest page size of a file that is read.
pub(crate) const PAGE_BYTES_RANGE: std::ops::RangeInclusive<u32> = 1024..=65536;
/// The longest key that a bucket may have.
pub const KEY_BYTES_MAX: usize = 32768;

pub(crate) const MAGIC: u32 = 0xed0c_daed;
pub(crate) const VERSION: u32 = 2;
/// Stands in a meta page where the free list is not written.
pub(crate) const NO_FREELIST: u64 = u64::MAX;

pub(crate) const PAGE_HEADER_BYTES: usize = 16;
/// Header of one element, in leaf and branch alike.
pub(crate) const ELEMENT_BYTES: usize = 16;
/// What stands for a bucket in its parent: root page and sequence.
pub(crate) const BUCKET_BYTES: usize = 16;
pub(crate) const META_BYTES: usize = 64;
/// The page's count field holds no more; one less than it could, as bbolt does.
pub(crate) const COUNT_MAX: usize = 0xfffe;

pub(crate) const BRANCH: u16 = 0x01;
pub(crate) const LEAF: u16 = 0x02;
pub(crate) const META: u16 = 0x04;
pub(crate) const FREELIST: u16 = 0x10;
/// Flag of a leaf's element whose value is a bucket.
pub(crate) const IS_BUCKET: u32 = 0x01;

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// The first 16 bytes of every page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    /// Pages that follow and belong to this one.
    pub(crate) overflow: u32,
}

impl PageHeader {
    /// Reads the header at the beginning of `bytes`, of which there are at least 16.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        Self {
            id: u64_at(bytes, 0),
            flags: u16_at(bytes, 8),
            count: u16_at(bytes, 10),
            overflow: u32_at(bytes, 12),
        }
    }

    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.id.to_le_bytes());
        into.extend_from_slice(&self.flags.to_le_bytes());
        into.extend_from_slice(&self.count.to_le_bytes());
        into.extend_from_slice(&self.overflow.to_le_bytes());
    }
}

/// What a meta page says about the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Where the bucket of all top-level buckets begins.
    pub root: u64,
    /// Where the list of free pages begins, if it is written.
    pub freelist: Option<u64>,
    /// Pages in use or free: all ids are below.
    pub pages: u64,
    /// The transaction that wrote this meta page; of two, the higher counts.
    pub transaction: u64,
}

impl Meta {
    /// Bytes of the file, without what may follow behind the pages.
    pub fn file_bytes(&self) -> u64 {
        self.pages.saturating_mul(u64::from(self.page_bytes))
    }

    /// One meta page, `id` 0 or 1.
    pub(crate) fn encode_page(&self, id: u64, into: &mut Vec<u8>) {
        let begin = into.len();
        let header = PageHeader {
            id,
            flags: META,
            count: 0,
            overflow: 0,
        };
        header.encode(into);
        let fields = into.len();
        into.extend_from_slice(&MAGIC.to_le_bytes());
        into.extend_from_slice(&VERSION.to_le_bytes());
        into.extend_from_slice(&self.page_bytes.to_le_bytes());
        into.extend_from_slice(&0_u32.to_le_bytes());
        into.extend_from_slice(&self.root.to_le_bytes());
        into.extend_from_slice(&0_u64.to_le_bytes());
        into.extend_from_slice(&self.freelist.unwrap_or(NO_FREELIST).to_le_bytes());
        into.extend_from_slice(&self.pages.to_le_bytes());
        into.extend_from_slice(&self.transaction.to_le_bytes());
        let sum = fnv1a(&into[fields..]);
        into.extend_from_slice(&sum.to_le_bytes());
        into.resize(begin + self.page_bytes as usize, 0);
    }

    /// Reads meta page `id` from its first 80 bytes. The page ids in it are checked by whoever knows how long
    /// the file is.
    ///
    /// # Errors
    /// The offset inside the page and what is wrong there.
    pub(crate) fn decode_page(bytes: &[u8], id: u64) -> Result<Self, (usize, String)> {
        let header = PageHeader::decode(bytes);
        let fields = &bytes[PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + META_BYTES];
        let at = |field: usize| PAGE_HEADER_BYTES + field;
        let magic = u32_at(fields, 0);
        if magic != MAGIC {
            return Err((at(0), format!("magic number {magic:#x}, not {MAGIC:#x}")));
        }
        let version = u32_at(fields, 4);
        if version != VERSION {
            return Err((at(4), format!("format version {version}, not {VERSION}")));
        }
        let (sum, stored) = (fnv1a(&fields[..META_BYTES - 8]), u64_at(fields, 56));
        if sum != stored {
            return Err((at(56), format!("checksum {stored:#x}, computed {sum:#x}")));
        }
        if header.id != id || header.flags != META {
            let what = format!("page id {} with flags {:#x}", header.id, header.flags);
            return Err((0, format!("{what}, not a meta page {id}")));
        }
        let page_bytes = u32_at(fields, 8);
        if !PAGE_BYTES_RANGE.contains(&page_bytes) || !page_bytes.is_power_of_two() {
            return Err((at(8), format!("page size {page_bytes}")));
        }
        let flags = u32_at(fields, 12);
        if flags != 0 {
            return Err((at(12), format!("flags {flags:#x} that no version knows")));
        }
        Ok(Self {
            page_bytes,
            root: u64_at(fields, 16),
            freelist: Some(u64_at(fields, 32)).filter(|page| *page != NO_FREELIST),
            pages: u64_at(fields, 40),
            transaction: u64_at(fields, 48),
        })
    }
}

/// FNV-1a of 64 bits.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv_1a() {
        // The vectors of the algorithm's authors.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn each_byte_of_a_meta_page_counts() {
        let meta = Meta {
            page_bytes: PAGE_BYTES,
            root: 3,
            freelist: None,
            pages: 4,
            transaction: 2,
        };
        let mut page = Vec::new();
        meta.encode_page(0, &mut page);
        assert_eq!(page.len(), PAGE_BYTES as usize);
        assert_eq!(Meta::decode_page(&page, 0), Ok(meta));
        // Count and overflow of the page's header mean nothing in a meta page.
        for at in (0..10).chain(16..80) {
            let mut flipped = page.clone();
            flipped[at] ^= 0x10;
            assert!(Meta::decode_page(&flipped, 0).is_err(), "byte {at}");
        }
        assert!(Meta::decode_page(&page, 1).is_err());
    }
}
