//! The manifest: what a shard's image consists of.
//!
//! Described in `docs/internals/checkpoint.md`. The decoder believes nothing: lengths are checked before
//! anything is reserved, and the roots must lie on blocks that the map says are in use.

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::allocator::{Allocator, Extent};
use crate::page::{BLOCK_BYTES, PageRef, Swip};
use crate::revision::Revision;
use crate::tree::PageSums;

/// `"RMF"`; the version follows.
const MAGIC: [u8; 3] = *b"RMF";
/// The newest version that is read, and the one that is written.
pub(crate) const VERSION: u8 = 1;
pub(super) const HEADER_BYTES: usize = 160;

/// Offsets of the header's fields; the checksum stands at 0.
mod at {
    pub(super) const MAGIC: usize = 8;
    pub(super) const VERSION: usize = 11;
    pub(super) const SHARD: usize = 12;
    pub(super) const ID: usize = 16;
    pub(super) const LENGTH: usize = 20;
    pub(super) const BLOCK: usize = 24;
    pub(super) const ROOT: usize = 32;
    pub(super) const LEASE_ROOT: usize = 44;
    pub(super) const KEYS: usize = 56;
    pub(super) const PAGES: usize = 64;
    pub(super) const USED_BYTES: usize = 72;
    pub(super) const PAGE_BLOCKS: usize = 80;
    pub(super) const COMPACTED: usize = 88;
    pub(super) const EVENT_HASHES: usize = 96;
    pub(super) const MAP_WORDS: usize = 104;
    pub(super) const TABLE_BYTES: usize = 112;
    pub(super) const ATTACHMENT_BYTES: usize = 120;
    pub(super) const COMPACTION_MAIN: usize = 128;
    pub(super) const COMPACTION_SUB: usize = 136;
    pub(super) const RESERVED: usize = 140;
}

/// What an image says of its store, fixed at the freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frozen {
    /// Root of the revision tree.
    pub(crate) root: PageRef,
    /// Root of the lease tree.
    pub(crate) lease_root: PageRef,
    /// Live keys.
    pub(crate) keys: u64,
    pub(crate) sums: PageSums,
    /// 0: nothing was compacted.
    pub(crate) compacted: i64,
    /// The first event that the compaction has to walk.
    pub(crate) compaction_next: Revision,
    /// Sum of the event hashes of all versions in the tree.
    pub(crate) event_hashes: u64,
}

/// A whole manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) shard: u16,
    /// The checkpoint.
    pub(crate) id: u32,
    pub(crate) frozen: Frozen,
    /// Blocks in use, the manifest's own too.
    pub(crate) map: Vec<u64>,
    /// The event log's table, in its own codec.
    pub(crate) table: Vec<u8>,
    /// Opaque.
    pub(crate) attachment: Bytes,
}

/// Why bytes are not the expected manifest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ManifestError {
    #[error("{0}")]
    Damaged(&'static str),
    #[error("format version {0}")]
    Newer(u8),
}

use ManifestError::Damaged;

/// Bytes of a manifest without padding.
pub(crate) fn encoded_len(map_words: usize, table: usize, attachment: usize) -> usize {
    HEADER_BYTES + map_words * 8 + table + attachment
}

/// What stands in the header.
pub(super) struct Head {
    pub(super) shard: u16,
    pub(super) id: u32,
    pub(super) frozen: Frozen,
    /// Of the whole manifest in bytes, a number of blocks.
    pub(super) len: usize,
    pub(super) block: u64,
    /// Words of the map, bytes of the table, bytes of the attachment.
    pub(super) lengths: [usize; 3],
}

impl Head {
    /// The header; the place of the checksum is zero.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let frozen = &self.frozen;
        let [map, table, attachment] = self.lengths;
        put(at::MAGIC, &MAGIC);
        put(at::VERSION, &[VERSION]);
        put(at::SHARD, &self.shard.to_le_bytes());
        put(at::ID, &self.id.to_le_bytes());
        let length = u32::try_from(self.len).expect("a manifest below 4 GiB");
        put(at::LENGTH, &length.to_le_bytes());
        put(at::BLOCK, &self.block.to_le_bytes());
        put(at::ROOT, &Swip::Disk(frozen.root).encode());
        put(at::LEASE_ROOT, &Swip::Disk(frozen.lease_root).encode());
        for (at, field) in [
            (at::KEYS, frozen.keys),
            (at::PAGES, frozen.sums.pages),
            (at::USED_BYTES, frozen.sums.used_bytes),
            (at::PAGE_BLOCKS, frozen.sums.blocks),
            (at::COMPACTED, frozen.compacted as u64),
            (at::EVENT_HASHES, frozen.event_hashes),
            (at::COMPACTION_MAIN, frozen.compaction_next.main as u64),
            (at::MAP_WORDS, map as u64),
            (at::TABLE_BYTES, table as u64),
            (at::ATTACHMENT_BYTES, attachment as u64),
        ] {
            put(at, &field.to_le_bytes());
        }
        put(
            at::COMPACTION_SUB,
            &frozen.compaction_next.sub.to_le_bytes(),
        );
        bytes
    }
}

impl Manifest {
    /// Reads the manifest of checkpoint `id` of `shard`, which stands from `block` on with checksum `sum`.
    pub(crate) fn decode(
        bytes: &[u8],
        salt: u64,
        expected: (u16, u32, u64, u64),
    ) -> Result<Manifest, ManifestError> {
        let (shard, id, block, sum) = expected;
        if bytes.len() < HEADER_BYTES || !bytes.len().is_multiple_of(BLOCK_BYTES) {
            return Err(Damaged("it is cut short"));
        }
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..][..8].try_into().expect("8 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..][..4].try_into().expect("4 bytes"));
        let require = |holds: bool, what: &'static str| match holds {
            true => Ok(()),
            false => Err(Damaged(what)),
        };
        let computed = xxh3_64_with_seed(&bytes[8..], salt);
        require(computed == u64_at(0), "checksum")?;
        require(bytes[at::MAGIC..at::VERSION] == MAGIC, "no manifest")?;
        match bytes[at::VERSION] {
            VERSION => {}
            0 => return Err(Damaged("format version 0")),
            newer => return Err(ManifestError::Newer(newer)),
        }
        require(computed == sum, "another manifest stands there")?;
        let shard_there = u16::from_le_bytes([bytes[at::SHARD], bytes[at::SHARD + 1]]);
        require(shard_there == shard, "it is another shard's")?;
        require(u32_at(at::ID) == id, "it is another checkpoint's")?;
        require(u64_at(at::BLOCK) == block, "it belongs to another place")?;
        require(u32_at(at::LENGTH) as usize == bytes.len(), "length")?;
        let reserved = (at::SHARD + 2..at::ID).chain(at::RESERVED..HEADER_BYTES);
        require(
            reserved.into_iter().all(|at| bytes[at] == 0),
            "reserved bytes are set",
        )?;
        let mut rest = &bytes[HEADER_BYTES..];
        let mut section = |len: u64, what: &'static str| {
            let len = usize::try_from(len).map_err(|_| Damaged(what))?;
            let (section, behind) = rest.split_at_checked(len).ok_or(Damaged(what))?;
            rest = behind;
            Ok(section)
        };
        let map_bytes = u64_at(at::MAP_WORDS).checked_mul(8);
        let map_bytes = map_bytes.ok_or(Damaged("length of the block map"))?;
        let map = section(map_bytes, "length of the block map")?;
        let table = section(u64_at(at::TABLE_BYTES), "length of the segment table")?;
        let attachment = section(u64_at(at::ATTACHMENT_BYTES), "length of the attachment")?;
        require(
            rest.len() < BLOCK_BYTES && rest.iter().all(|&byte| byte == 0),
            "bytes behind the end",
        )?;
        let words = map.chunks_exact(8);
        let words = words.map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
        let map: Vec<u64> = words.collect();
        let root_at = |at: usize, what: &'static str| match Swip::decode(&bytes[at..at + 12]) {
            Some(Swip::Disk(root)) => Ok(root),
            _ => Err(Damaged(what)),
        };
        let root = root_at(at::ROOT, "root of the revision tree")?;
        let lease_root = root_at(at::LEASE_ROOT, "root of the lease tree")?;
        let compacted = u64_at(at::COMPACTED) as i64;
        require(compacted >= 0, "compact revision")?;
        let compaction_next = Revision {
            main: u64_at(at::COMPACTION_MAIN) as i64,
            sub: u32_at(at::COMPACTION_SUB),
        };
        require(
            (0..=compacted).contains(&compaction_next.main),
            "progress of the compaction",
        )?;
        let manifest = Manifest {
            shard,
            id,
            frozen: Frozen {
                root,
                lease_root,
                keys: u64_at(at::KEYS),
                sums: PageSums {
                    pages: u64_at(at::PAGES),
                    used_bytes: u64_at(at::USED_BYTES),
                    blocks: u64_at(at::PAGE_BLOCKS),
                },
                compacted,
                compaction_next,
                event_hashes: u64_at(at::EVENT_HASHES),
            },
            map,
            table: table.to_vec(),
            attachment: Bytes::copy_from_slice(attachment),
        };
        manifest.check(block, bytes.len())?;
        Ok(manifest)
    }

    /// Checks the fields against each other.
    fn check(&self, block: u64, len: usize) -> Result<(), ManifestError> {
        let allocator = Allocator::restore(self.map.clone());
        let own = Extent {
            block,
            blocks: (len / BLOCK_BYTES) as u64,
        };
        let used = |extent: Extent| {
            let mut blocks = extent.block..extent.block + extent.blocks;
            blocks.all(|block| allocator.is_used(block))
        };
        let sums = self.frozen.sums;
        let generations = [self.frozen.root, self.frozen.lease_root];
        for (holds, what) in [
            (
                generations.iter().all(|root| root.generation <= self.id),
                "a root of a later checkpoint",
            ),
            (used(Extent::of(self.frozen.root)), "a root on free blocks"),
            (
                used(Extent::of(self.frozen.lease_root)),
                "a root on free blocks",
            ),
            (
                used(own) || crate::planted::planted(crate::planted::Bug::AllocatorForgetsManifest),
                "the manifest on free blocks",
            ),
            (
                allocator.used() >= sums.blocks.saturating_add(own.blocks)
                    || crate::planted::planted(crate::planted::Bug::AllocatorForgetsManifest),
                "fewer blocks in use than pages have",
            ),
            (
                sums.blocks >= sums.pages && sums.pages >= 2,
                "number of pages",
            ),
            (
                sums.used_bytes <= sums.blocks.saturating_mul(BLOCK_BYTES as u64),
                "bytes of pages",
            ),
        ] {
            if !holds {
                return Err(Damaged(what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::attachment::Attachment;
    use crate::image::writer::{Contents, ManifestWriter};

    const SALT: u64 = 77;

    fn sample() -> Manifest {
        let mut allocator = Allocator::default();
        allocator.take(Extent {
            block: 0,
            blocks: 9,
        });
        allocator.take(Extent {
            block: 130,
            blocks: 1,
        });
        let root = |address, blocks| PageRef {
            address,
            blocks,
            generation: 5,
        };
        Manifest {
            shard: 3,
            id: 6,
            frozen: Frozen {
                root: root(0, 3),
                lease_root: root(3, 1),
                keys: 17,
                sums: PageSums {
                    pages: 4,
                    used_bytes: 20_000,
                    blocks: 9,
                },
                compacted: 2,
                compaction_next: Revision { main: 1, sub: 7 },
                event_hashes: 99,
            },
            map: allocator.words().to_vec(),
            table: vec![1; 700],
            attachment: Bytes::from_static(b"leases"),
        }
    }

    /// Encodes in parts of so many bytes.
    fn encode_in(manifest: &Manifest, part_bytes: usize) -> (Vec<u8>, u64) {
        let contents = Contents {
            shard: manifest.shard,
            id: manifest.id,
            frozen: manifest.frozen,
            map: manifest.map.clone(),
            table: manifest.table.clone(),
            attachment: Attachment::new(vec![
                manifest.attachment.slice(..manifest.attachment.len() / 2),
                Bytes::new(),
                manifest.attachment.slice(manifest.attachment.len() / 2..),
            ]),
        };
        let mut writer = ManifestWriter::new(contents, SALT, 130, part_bytes);
        let mut bytes = vec![0xee; writer.len()];
        let mut parts = 0;
        while let Some((at, part)) = writer.next_part() {
            assert!(part.len() <= part_bytes);
            bytes[at..at + part.len()].copy_from_slice(&part);
            parts += 1;
        }
        assert_eq!(parts, bytes.len().div_ceil(part_bytes));
        (bytes, writer.sum().expect("all was given out"))
    }

    fn encode(manifest: &Manifest) -> (Vec<u8>, u64) {
        encode_in(manifest, 128 << 10)
    }

    fn decode(bytes: &[u8], sum: u64) -> Result<Manifest, ManifestError> {
        Manifest::decode(bytes, SALT, (3, 6, 130, sum))
    }

    #[test]
    fn a_manifest_reads_back() {
        let manifest = sample();
        let (bytes, sum) = encode(&manifest);
        assert_eq!(bytes.len(), BLOCK_BYTES);
        assert_eq!(decode(&bytes, sum), Ok(manifest));
    }

    #[test]
    fn a_manifest_is_the_same_in_parts_of_any_length() {
        let mut manifest = sample();
        manifest.table = (0..5001).map(|at| at as u8).collect();
        manifest.attachment = (0..9001).map(|at| (at / 3) as u8).collect();
        // Its blocks are 130 to 133.
        manifest.map[2] |= 0b1111 << 2;
        let (bytes, sum) = encode(&manifest);
        assert_eq!(bytes.len(), 4 * BLOCK_BYTES);
        assert_eq!(xxh3_64_with_seed(&bytes[8..], SALT), sum);
        assert_eq!(decode(&bytes, sum).as_ref(), Ok(&manifest));
        for part_bytes in [HEADER_BYTES, 168, 1000, BLOCK_BYTES, 2 * BLOCK_BYTES] {
            let in_parts = encode_in(&manifest, part_bytes);
            assert_eq!(in_parts, (bytes.clone(), sum), "parts of {part_bytes}");
        }
    }

    #[test]
    fn another_place_time_or_directory_is_refused() {
        let (bytes, sum) = encode(&sample());
        for (salt, expected) in [
            (SALT + 1, (3, 6, 130, sum)),
            (SALT, (2, 6, 130, sum)),
            (SALT, (3, 7, 130, sum)),
            (SALT, (3, 6, 131, sum)),
            (SALT, (3, 6, 130, sum + 1)),
        ] {
            assert!(Manifest::decode(&bytes, salt, expected).is_err());
        }
        let mut newer = bytes.clone();
        newer[at::VERSION] = 2;
        let sum = reseal(&mut newer);
        assert_eq!(decode(&newer, sum), Err(ManifestError::Newer(2)));
    }

    fn reseal(bytes: &mut [u8]) -> u64 {
        let sum = xxh3_64_with_seed(&bytes[8..], SALT);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        sum
    }

    /// Garbage with a right checksum: never a panic.
    #[test]
    fn no_byte_is_believed() {
        let (intact, sum) = encode(&sample());
        for at in 0..intact.len() {
            let mut damaged = intact.clone();
            damaged[at] ^= 0x40;
            assert!(decode(&damaged, sum).is_err(), "byte {at}");
        }
        for at in 8..HEADER_BYTES + 40 {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = intact.clone();
                damaged[at] = byte;
                let sum = reseal(&mut damaged);
                if let Ok(manifest) = decode(&damaged, sum) {
                    assert_eq!(encode(&manifest).0, damaged);
                }
            }
        }
        for len in [0, 7, 100, BLOCK_BYTES - 1, 3 * BLOCK_BYTES] {
            assert!(decode(&vec![0; len], 0).is_err());
        }
    }
}
