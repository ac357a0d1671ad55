//! One segment of the event log, in memory.

use bytes::Bytes;

use super::record::{Record, padded};
use super::{Loc, SegmentId};
use crate::revision::Revision;

/// Memory is taken in pieces of this many bytes, or of one record if that is larger.
const CHUNK_BYTES: usize = 64 * 1024;
/// One index entry for this many bytes of records.
const INDEX_STRIDE_BYTES: u32 = 64 * 1024;

/// A contiguous piece of a segment. Records never straddle two pieces.
#[derive(Debug)]
enum Chunk {
    /// Being filled.
    Open(Vec<u8>),
    /// Full; values are handed out as slices of it.
    Sealed(Bytes),
}

impl Chunk {
    /// Ends filling and gives back the memory that was not filled.
    fn seal(&mut self) {
        if let Chunk::Open(bytes) = self {
            let mut bytes = std::mem::take(bytes);
            bytes.shrink_to_fit();
            *self = Chunk::Sealed(Bytes::from(bytes));
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Open(bytes) => bytes,
            Chunk::Sealed(bytes) => bytes,
        }
    }
}

/// A point of the sparse index: the record at `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexPoint {
    pub(super) revision: Revision,
    pub(super) offset: u32,
    /// Records of the whole log before this one.
    pub(super) ordinal: u64,
}

/// A segment.
///
/// Invariants: records stand in ascending (main, sub) order without gaps from 0 to `valid_len`;
/// `index` has its first record and then at least one per 64 KiB; only the last chunk is open.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    /// Bytes that the segment may grow to.
    pub(super) capacity: u32,
    pub(super) valid_len: u32,
    /// Record bytes, without padding, that some version refers to.
    pub(super) live_bytes: u64,
    pub(super) first: Revision,
    pub(super) last: Revision,
    pub(super) index: Vec<IndexPoint>,
    /// With the offset of each chunk's first byte.
    chunks: Vec<(u32, Chunk)>,
}

impl Segment {
    pub(super) fn new(id: SegmentId, capacity: u32, first: Revision) -> Self {
        Segment {
            id,
            capacity,
            valid_len: 0,
            live_bytes: 0,
            first,
            last: first,
            index: Vec::new(),
            chunks: Vec::new(),
        }
    }

    /// Whether a record of `len` bytes fits.
    pub(super) fn fits(&self, len: usize) -> bool {
        self.valid_len as usize + padded(len) <= self.capacity as usize
    }

    /// Appends a record, which fits. `ordinal` records stand before it in the log.
    pub(super) fn append(&mut self, record: &Record<'_>, salt: u64, ordinal: u64) -> Loc {
        let offset = self.valid_len;
        let len = record.encoded_len();
        let due = self
            .index
            .last()
            .is_none_or(|point| offset - point.offset >= INDEX_STRIDE_BYTES);
        if due {
            self.index.push(IndexPoint {
                revision: record.revision,
                offset,
                ordinal,
            });
        }
        record.encode(salt, self.open_chunk(padded(len)));
        self.valid_len += padded(len) as u32;
        self.live_bytes += len as u64;
        self.last = record.revision;
        Loc {
            segment: self.id,
            offset,
            len: len as u32,
        }
    }

    /// The chunk that `len` more bytes go to.
    fn open_chunk(&mut self, len: usize) -> &mut Vec<u8> {
        let has_room = match self.chunks.last_mut() {
            Some((_, Chunk::Open(bytes))) if bytes.len() + len <= bytes.capacity() => true,
            Some((_, chunk)) => {
                chunk.seal();
                false
            }
            None => false,
        };
        if !has_room {
            let bytes = Vec::with_capacity(len.max(CHUNK_BYTES));
            self.chunks.push((self.valid_len, Chunk::Open(bytes)));
        }
        match self.chunks.last_mut() {
            Some((_, Chunk::Open(bytes))) => bytes,
            _ => panic!("the last chunk was just opened"),
        }
    }

    /// Ends appending: the open chunk is sealed as it is.
    pub(super) fn seal(&mut self) {
        if let Some((_, chunk)) = self.chunks.last_mut() {
            chunk.seal();
        }
    }

    fn chunk_at(&self, offset: u32) -> Option<(&Chunk, usize)> {
        let behind = self.chunks.partition_point(|(start, _)| *start <= offset);
        let (start, chunk) = self.chunks.get(behind.checked_sub(1)?)?;
        Some((chunk, (offset - start) as usize))
    }

    /// Bytes from the record at `offset` to the end of its chunk.
    pub(super) fn bytes_at(&self, offset: u32) -> Option<&[u8]> {
        let (chunk, at) = self.chunk_at(offset)?;
        chunk.bytes().get(at..)
    }

    /// The bytes `range` of the record at `offset`: shared if the chunk is sealed, else copied.
    pub(super) fn slice(&self, offset: u32, range: std::ops::Range<usize>) -> Option<Bytes> {
        let (chunk, at) = self.chunk_at(offset)?;
        let bytes = chunk.bytes().get(at + range.start..at + range.end)?;
        Some(match chunk {
            Chunk::Open(_) => Bytes::copy_from_slice(bytes),
            Chunk::Sealed(sealed) => sealed.slice_ref(bytes),
        })
    }

    /// Where to start looking for the first record with main ≥ `main`.
    pub(super) fn seek(&self, main: i64) -> u32 {
        let behind = self
            .index
            .partition_point(|point| point.revision.main < main);
        behind
            .checked_sub(1)
            .map_or(0, |before| self.index[before].offset)
    }
}
