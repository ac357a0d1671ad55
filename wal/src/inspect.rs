//! Read-only decoding for a tool: every superblock copy and every record, as plain structs.
//!
//! Owns no rule: it shows what is there, readable or not, and decides nothing.

use crate::BLOCK_BYTES;
use crate::entry::{Index, Term};
use crate::record::{self, Header, Kind, Place, Probe, Salt};
use crate::superblock::{self, COPY_BYTES, COPY_OFFSETS, CopyError, Superblock};
use bytes::Bytes;

/// One copy of the superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyReport {
    /// Number of the copy, 0 to 3.
    pub copy: usize,
    /// Its offset in the file, in bytes.
    pub offset: u64,
    /// Its content, or why it is not usable.
    pub content: Result<Superblock, CopyError>,
}

/// All four copies in the bytes of a superblock file, which may be short.
pub fn superblock_copies(file: &[u8]) -> Vec<CopyReport> {
    COPY_OFFSETS
        .into_iter()
        .enumerate()
        .map(|(copy, offset)| {
            let start = (offset as usize).min(file.len());
            let end = (start + COPY_BYTES as usize).min(file.len());
            CopyReport {
                copy,
                offset,
                content: superblock::decode(&file[start..end]),
            }
        })
        .collect()
}

/// The copy that recovery would use: the valid one with the highest sequence number.
pub fn newest(copies: &[CopyReport]) -> Option<&Superblock> {
    copies
        .iter()
        .filter_map(|copy| copy.content.as_ref().ok())
        .max_by_key(|superblock| superblock.seq)
}

/// How a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// Header and body are intact, and it lies where its header says.
    Intact,
    /// The header is intact, the body is torn or damaged.
    BadBody,
    /// The header is intact, but names another place.
    Misdirected,
    /// Written by a newer build.
    Newer {
        /// Its layout version.
        version: u16,
    },
}

/// One entry of an intact record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryReport {
    /// Position in the log.
    pub index: Index,
    /// Term.
    pub term: Term,
    /// Kind, opaque here.
    pub kind: u8,
    /// Payload.
    pub data: Bytes,
}

/// One record, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordReport {
    /// Offset in the segment, in bytes.
    pub offset: u64,
    /// How it stands.
    pub state: RecordState,
    /// Its header; `None` for a newer layout.
    pub header: Option<Header>,
    /// Its entries, if it is intact.
    pub entries: Vec<EntryReport>,
}

/// All records in the bytes of one segment. `salt` is the superblock's.
pub fn segment_records(lane: u16, segment: u64, file: &[u8], salt: u64) -> Vec<RecordReport> {
    let salt = Salt::new(salt);
    let mut reports = Vec::new();
    let mut offset = 0;
    while file.len() - offset >= BLOCK_BYTES as usize {
        let at = Place {
            lane,
            segment,
            offset: offset as u64,
        };
        let report = match record::probe(&file[offset..], salt) {
            Probe::Nothing => None,
            Probe::Newer { version } => Some(RecordReport {
                offset: at.offset,
                state: RecordState::Newer { version },
                header: None,
                entries: Vec::new(),
            }),
            Probe::Header(header) => Some(record_report(header, at, &file[offset..], salt)),
        };
        offset += match &report {
            Some(RecordReport {
                state: RecordState::Intact,
                header: Some(header),
                ..
            }) => header.record_bytes() as usize,
            _ => BLOCK_BYTES as usize,
        };
        reports.extend(report);
    }
    reports
}

fn record_report(header: Header, at: Place, bytes: &[u8], salt: Salt) -> RecordReport {
    let end = header.record_bytes() as usize;
    let state = if header.place != at {
        RecordState::Misdirected
    } else if end > bytes.len() || !record::body_is_intact(&header, &bytes[..end], salt) {
        RecordState::BadBody
    } else {
        RecordState::Intact
    };
    let entries = if state == RecordState::Intact && header.kind == Kind::Entries {
        let body_end = record::HEADER_BYTES + header.body_bytes as usize;
        let body = Bytes::copy_from_slice(&bytes[record::HEADER_BYTES..body_end]);
        let entries = record::entries(&header, &body).into_iter();
        entries
            .map(|entry| EntryReport {
                index: entry.index,
                term: entry.term,
                kind: entry.kind,
                data: entry.data,
            })
            .collect()
    } else {
        Vec::new()
    };
    RecordReport {
        offset: at.offset,
        state,
        header: Some(header),
        entries,
    }
}
