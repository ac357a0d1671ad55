//! The newest pieces of the event log, in memory.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::SegmentId;
use super::record::{Record, padded};
use super::segment::{PIECE_ALIGNMENT, Place};
use crate::revision::Revision;

/// One mark for this many bytes of a piece, to find a revision in it.
const MARK_STRIDE_BYTES: usize = 8 * 1024;

/// The bytes of a piece.
#[derive(Debug)]
enum Memory {
    /// Being filled, up to `limit` bytes.
    Open { bytes: Vec<u8>, limit: usize },
    /// Full, with zeros up to a multiple of 4096; values are handed out as slices of it.
    Sealed(Bytes),
}

/// How far a piece is on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    Waiting,
    InFlight,
    Written,
}

/// A piece in memory.
#[derive(Debug)]
pub(super) struct HotPiece {
    pub(super) segment: SegmentId,
    pub(super) offset: u32,
    pub(super) writing: Writing,
    memory: Memory,
    /// Revision and start, from the piece's own start, of one record per stride.
    marks: Vec<(Revision, u32)>,
    /// Starts of records whose version is not its key's newest any more.
    former: Vec<u32>,
}

impl HotPiece {
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Open { bytes, .. } => bytes,
            Memory::Sealed(bytes) => bytes,
        }
    }

    /// The bytes `range`: shared if the piece is sealed, else copied.
    pub(super) fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        let bytes = self.bytes().get(range)?;
        Some(match &self.memory {
            Memory::Open { .. } => Bytes::copy_from_slice(bytes),
            Memory::Sealed(sealed) => sealed.slice_ref(bytes),
        })
    }

    pub(super) fn is_sealed(&self) -> bool {
        matches!(self.memory, Memory::Sealed(_))
    }

    /// Whether a record of `len` bytes fits as well.
    fn has_room(&self, len: usize) -> bool {
        match &self.memory {
            Memory::Open { bytes, limit } => bytes.len() + padded(len) <= *limit,
            Memory::Sealed(_) => false,
        }
    }

    /// Where to start looking for the first record not below `revision`, from the piece's start.
    pub(super) fn seek(&self, revision: Revision) -> u32 {
        let behind = self.marks.partition_point(|(marked, _)| *marked < revision);
        behind
            .checked_sub(1)
            .map_or(0, |before| self.marks[before].1)
    }

    /// Notes that the version of the record `at` bytes behind the start is not the newest any more.
    pub(super) fn supersede(&mut self, at: u32) {
        self.former.push(at);
    }

    /// Offsets in the segment and bytes of the records that are still their key's newest version and whose
    /// value is at least half of them: worth their memory.
    fn worth_keeping(mut self) -> impl Iterator<Item = (u32, Bytes)> {
        self.former.sort_unstable();
        let mut at = 0;
        std::iter::from_fn(move || {
            loop {
                let record = Record::parse(self.bytes().get(at..)?).ok()?;
                let (start, len) = (at, record.encoded_len());
                at += padded(len);
                let is_former = self.former.binary_search(&(start as u32)).is_ok();
                if !record.tombstone && !is_former && record.value.len() * 2 >= len {
                    let bytes = Bytes::copy_from_slice(&self.bytes()[start..start + len]);
                    return Some((self.offset + start as u32, bytes));
                }
            }
        })
    }

    fn append(&mut self, record: &Record<'_>, salt: u64) -> u32 {
        let Memory::Open { bytes, .. } = &mut self.memory else {
            panic!("a record behind the end of a sealed piece");
        };
        let at = bytes.len();
        let due = |(_, mark): &(Revision, u32)| at - *mark as usize >= MARK_STRIDE_BYTES;
        if self.marks.last().is_none_or(due) {
            self.marks.push((record.revision, at as u32));
        }
        record.encode(salt, bytes);
        at as u32
    }

    /// Ends filling; returns the bytes that it takes now.
    fn seal(&mut self) -> usize {
        let Memory::Open { bytes, .. } = &mut self.memory else {
            return 0;
        };
        let mut bytes = std::mem::take(bytes);
        bytes.resize(bytes.len().next_multiple_of(PIECE_ALIGNMENT as usize), 0);
        bytes.shrink_to_fit();
        let len = bytes.len();
        self.memory = Memory::Sealed(Bytes::from(bytes));
        len
    }
}

/// The pieces in memory: a suffix of the log.
///
/// Invariants: only the last piece is open; pieces leave at the front, and only when they are written.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Position in the whole log of the front piece, or of the next one if there is none.
    first: u64,
    pieces: VecDeque<HotPiece>,
    /// Bytes of the sealed pieces.
    sealed_bytes: u64,
    /// Forgotten pieces whose records nobody has looked through yet.
    forgotten: Vec<HotPiece>,
}

impl Tail {
    /// An empty tail behind `first` pieces that are not in memory.
    pub(super) fn behind(first: u64) -> Self {
        Tail {
            first,
            ..Tail::default()
        }
    }

    /// Position of the piece that comes next.
    pub(super) fn next(&self) -> u64 {
        self.first + self.pieces.len() as u64
    }

    pub(super) fn get(&self, sequence: u64) -> Option<&HotPiece> {
        let index = sequence.checked_sub(self.first)?;
        self.pieces.get(usize::try_from(index).ok()?)
    }

    pub(super) fn get_mut(&mut self, sequence: u64) -> Option<&mut HotPiece> {
        let index = sequence.checked_sub(self.first)?;
        self.pieces.get_mut(usize::try_from(index).ok()?)
    }

    /// Whether a record of `len` bytes fits into the open piece.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.pieces.back().is_some_and(|piece| piece.has_room(len))
    }

    /// Opens a piece of at most `limit` bytes behind the sealed ones.
    pub(super) fn open(&mut self, segment: SegmentId, offset: u32, limit: usize) {
        assert!(
            self.pieces.back().is_none_or(HotPiece::is_sealed),
            "one open piece"
        );
        self.pieces.push_back(HotPiece {
            segment,
            offset,
            writing: Writing::Waiting,
            memory: Memory::Open {
                bytes: Vec::with_capacity(limit),
                limit,
            },
            marks: Vec::new(),
            former: Vec::new(),
        });
    }

    /// Appends to the open piece, which has room; returns where, from its start.
    pub(super) fn append(&mut self, record: &Record<'_>, salt: u64) -> u32 {
        let piece = self.pieces.back_mut().expect("an open piece");
        piece.append(record, salt)
    }

    /// Ends filling the open piece, if there is one.
    pub(super) fn seal(&mut self) {
        if let Some(piece) = self.pieces.back_mut() {
            self.sealed_bytes += piece.seal() as u64;
        }
    }

    /// Forgets written pieces from the front while there are more than `bytes_max` bytes.
    pub(super) fn trim(&mut self, bytes_max: u64) {
        while self.sealed_bytes > bytes_max
            && let Some(front) = self.pieces.front()
            && front.writing == Writing::Written
        {
            self.sealed_bytes -= front.bytes().len() as u64;
            self.first += 1;
            self.forgotten.extend(self.pieces.pop_front());
        }
    }

    /// What is worth keeping of the pieces that were forgotten since the last call: place and bytes.
    pub(super) fn take_worth_keeping(&mut self) -> impl Iterator<Item = (Place, Bytes)> + use<> {
        std::mem::take(&mut self.forgotten)
            .into_iter()
            .flat_map(|piece| {
                let segment = piece.segment.raw();
                let records = piece.worth_keeping();
                records.map(move |(offset, bytes)| ((segment, offset), bytes))
            })
    }

    /// Memory that the pieces take.
    pub(super) fn memory_bytes(&self) -> u64 {
        let open = match self.pieces.back().map(|piece| &piece.memory) {
            Some(Memory::Open { limit, .. }) => *limit as u64,
            _ => 0,
        };
        self.sealed_bytes + open
    }

    /// Breaks the order: puts the record into the padding of the piece before the open one.
    #[cfg(test)]
    pub(super) fn append_before(
        &mut self,
        record: &Record<'_>,
        salt: u64,
        end: u32,
    ) -> Option<(SegmentId, u32)> {
        let index = self.pieces.len().checked_sub(2)?;
        let piece = &mut self.pieces[index];
        let mut bytes = piece.bytes().to_vec();
        let at = (end - piece.offset) as usize;
        let room = bytes.len() - at;
        if padded(record.encoded_len()) > room {
            return None;
        }
        let mut encoded = Vec::new();
        record.encode(salt, &mut encoded);
        bytes[at..at + encoded.len()].copy_from_slice(&encoded);
        piece.memory = Memory::Sealed(Bytes::from(bytes));
        Some((piece.segment, end))
    }
}
