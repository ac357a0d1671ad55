//! A manifest on its way to the disk, part by part.
//!
//! The manifest of a large store has megabytes: block map, segment table, leases. Only a part of it is
//! encoded at a time. The checksum stands in front of what it covers, so the first part is kept and goes
//! out last.

use xxhash_rust::xxh3::Xxh3;

use super::attachment::Attachment;
use super::manifest::{Frozen, HEADER_BYTES, Head, encoded_len};
use crate::page::BLOCK_BYTES;

/// Bytes of one field.
const WORD_BYTES: usize = 8;

/// What a manifest consists of.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) shard: u16,
    pub(super) id: u32,
    pub(super) frozen: Frozen,
    /// Blocks in use, the manifest's own too.
    pub(super) map: Vec<u64>,
    pub(super) table: Vec<u8>,
    pub(super) attachment: Attachment,
}

/// Bytes of a manifest and how far behind its start they stand.
pub(super) type Part = (usize, Vec<u8>);

/// Encodes a manifest from front to end.
pub(super) struct ManifestWriter {
    contents: Contents,
    header: Vec<u8>,
    part_bytes: usize,
    /// Whole length.
    len: usize,
    /// Everything before was encoded.
    at: usize,
    /// Part of the attachment that comes next, and the bytes of those before.
    attached: (usize, usize),
    sum: Xxh3,
    /// Kept until the checksum is known.
    first: Option<Vec<u8>>,
}

impl std::fmt::Debug for ManifestWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ManifestWriter at {} of {}", self.at, self.len)
    }
}

impl ManifestWriter {
    /// Of a manifest that stands from `block` on, in parts of `part_bytes`, a multiple of 8 that holds the
    /// header.
    pub(super) fn new(contents: Contents, salt: u64, block: u64, part_bytes: usize) -> Self {
        assert!(part_bytes >= HEADER_BYTES && part_bytes.is_multiple_of(WORD_BYTES));
        let (map, table) = (contents.map.len(), contents.table.len());
        let attachment = contents.attachment.len();
        let len = encoded_len(map, table, attachment).next_multiple_of(BLOCK_BYTES);
        let head = Head {
            shard: contents.shard,
            id: contents.id,
            frozen: contents.frozen,
            len,
            block,
            lengths: [map, table, attachment],
        };
        ManifestWriter {
            header: head.encode(),
            contents,
            part_bytes,
            len,
            at: 0,
            attached: (0, 0),
            sum: Xxh3::with_seed(salt),
            first: None,
        }
    }

    /// Whole length in bytes, a number of blocks.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Encodes the next part, and the first one before it. `None`: all of them were given out.
    pub(super) fn next_part(&mut self) -> Option<Part> {
        if self.at == 0 {
            let first = self.encode();
            self.sum.update(&first[WORD_BYTES..]);
            self.first = Some(first);
        }
        if self.at < self.len {
            let at = self.at;
            let part = self.encode();
            self.sum.update(&part);
            return Some((at, part));
        }
        let mut first = self.first.take()?;
        first[..WORD_BYTES].copy_from_slice(&self.sum.digest().to_le_bytes());
        Some((0, first))
    }

    /// The checksum, once every part was given out.
    pub(super) fn sum(&self) -> Option<u64> {
        (self.at == self.len && self.first.is_none()).then(|| self.sum.digest())
    }

    fn encode(&mut self) -> Vec<u8> {
        let len = self.part_bytes.min(self.len - self.at);
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            self.extend(&mut out, len);
        }
        self.at += len;
        out
    }

    /// Adds bytes of what comes next, up to `len` in all.
    fn extend(&mut self, out: &mut Vec<u8>, len: usize) {
        let contents = &self.contents;
        let room = len - out.len();
        let at = self.at + out.len();
        let map_end = HEADER_BYTES + contents.map.len() * WORD_BYTES;
        let table_end = map_end + contents.table.len();
        if at < HEADER_BYTES {
            out.extend_from_slice(&self.header[at..]);
        } else if at < map_end {
            let words = &contents.map[(at - HEADER_BYTES) / WORD_BYTES..];
            for word in words.iter().take(room / WORD_BYTES) {
                out.extend_from_slice(&word.to_le_bytes());
            }
        } else if at < table_end {
            let rest = &contents.table[at - map_end..];
            out.extend_from_slice(&rest[..rest.len().min(room)]);
        } else if let Some(part) = contents.attachment.parts().get(self.attached.0) {
            let rest = &part[at - table_end - self.attached.1..];
            out.extend_from_slice(&rest[..rest.len().min(room)]);
            if rest.len() <= room {
                self.attached = (self.attached.0 + 1, self.attached.1 + part.len());
            }
        } else {
            out.resize(len, 0);
        }
    }
}
