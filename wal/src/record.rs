//! One record: a header and a group of entries, written once. See `docs/internals/log.md`.
//!
//! Owns the bytes of a record and nothing else: where it goes is the lane's decision, what it proves is
//! recovery's. Both checksums start from the directory's secret salt, so that bytes stored by a client
//! never pass for a record.

use crate::entry::{Entry, Index, Term};
use crate::planted::{Bug, planted};
use crate::{BLOCK_BYTES, whole_blocks};
use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Length of a record's header, in bytes.
pub const HEADER_BYTES: usize = 128;

/// Length of an entry's header in the body, in bytes.
pub const ENTRY_HEADER_BYTES: usize = 16;

/// Version of the record layout that this build writes.
pub const VERSION: u16 = 1;

const MAGIC: u32 = 0x7267_6f4c; // "Logr"
const SUM_OFFSET: usize = HEADER_BYTES - 4;

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A group of entries.
    Entries,
    /// Only a durable watermark, written when the log falls idle.
    Beacon,
    /// Footer of a segment: every block before it has been written once.
    Footer,
}

/// The place of a record: what its header must say to be believed as data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Lane.
    pub lane: u16,
    /// Segment of the lane.
    pub segment: u64,
    /// Offset in the segment, in bytes.
    pub offset: u64,
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is for.
    pub kind: Kind,
    /// Where it was written to.
    pub place: Place,
    /// Generation of the lane.
    pub lane_generation: u32,
    /// Sequence number over all lanes; never used twice. The highest one holds an index.
    pub wseq: u64,
    /// Epoch in which it was submitted.
    pub epoch: u64,
    /// First index of that epoch.
    pub epoch_start: Index,
    /// Index of the first entry; 0 if there is none.
    pub first_index: Index,
    /// Number of entries.
    pub count: u32,
    /// Length of the body, in bytes.
    pub body_bytes: u32,
    /// Term of the entry before the first.
    pub prev_term: Term,
    /// Term of the last entry; of the durable one if there is no entry.
    pub last_term: Term,
    /// The log was durable up to here when the record was submitted, as seen in `epoch`.
    pub durable_index: Index,
    /// Term of that entry.
    pub durable_term: Term,
    /// Known committed up to here. A hint: it is no evidence.
    pub commit_hint: Index,
    /// Checksum of the body.
    pub body_sum: u64,
}

impl Header {
    /// Length of the whole record in the segment, in bytes.
    pub fn record_bytes(&self) -> u64 {
        whole_blocks(HEADER_BYTES as u64 + u64::from(self.body_bytes))
    }

    /// Index of the last entry; 0 if there is none.
    pub fn last_index(&self) -> Index {
        if self.count == 0 {
            return Index(0);
        }
        Index(self.first_index.0 + u64::from(self.count) - 1)
    }

    /// Highest index that this record says anything about.
    pub fn highest_index(&self) -> Index {
        self.last_index().max(self.durable_index)
    }
}

/// The checksums' secret start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt {
    header: u32,
    body: u64,
}

impl Salt {
    /// What somebody who does not know the salt has to use.
    #[cfg(any(test, feature = "testing"))]
    pub fn unsalted() -> Salt {
        Salt { header: 0, body: 0 }
    }

    /// Seeds from the directory's salt.
    pub fn new(salt: u64) -> Salt {
        if planted(Bug::NoSalt) {
            return Salt { header: 0, body: 0 };
        }
        Salt {
            header: crc32c(&salt.to_le_bytes()),
            body: salt,
        }
    }

    /// Checksum of a body. Not a CRC: bodies that differ by a unit with its own CRC-32C (a value that holds a
    /// log of another program, say) would have equal ones, and a torn write over the older of two such
    /// records would pass for the newer.
    fn body_sum(self, body: &[u8]) -> u64 {
        xxh3_64_with_seed(body, self.body)
    }
}

/// Bytes that an entry with `data_bytes` of payload takes in a record.
pub fn entry_bytes(data_bytes: usize) -> u64 {
    (ENTRY_HEADER_BYTES + data_bytes) as u64
}

/// A whole record as bytes, padded with zeros to whole blocks.
///
/// `header` gives everything but `first_index`, `count`, `body_bytes`, `last_term` and `body_sum`, which
/// follow from `entries`; these are contiguous. One pass over the payload.
pub fn encode(mut header: Header, entries: &[Entry], salt: Salt) -> Vec<u8> {
    let body_bytes: u64 = entries
        .iter()
        .map(|entry| entry_bytes(entry.data.len()))
        .sum();
    let record_bytes = whole_blocks(HEADER_BYTES as u64 + body_bytes) as usize;
    let mut record = Vec::with_capacity(record_bytes);
    record.resize(HEADER_BYTES, 0);
    for entry in entries {
        let mut head = [0; ENTRY_HEADER_BYTES];
        head[..4].copy_from_slice(&(entry.data.len() as u32).to_le_bytes());
        head[4] = entry.kind;
        head[8..].copy_from_slice(&entry.term.0.to_le_bytes());
        record.extend_from_slice(&head);
        record.extend_from_slice(&entry.data);
    }
    header.body_sum = salt.body_sum(&record[HEADER_BYTES..]);
    header.body_bytes = u32::try_from(body_bytes).expect("a record is far below 4 GiB");
    header.count = entries.len() as u32;
    if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
        header.first_index = first.index;
        header.last_term = last.term;
    }
    encode_header(&header, salt, &mut record[..HEADER_BYTES]);
    record.resize(record_bytes, 0);
    record
}

fn encode_header(header: &Header, salt: Salt, out: &mut [u8]) {
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..6].copy_from_slice(&VERSION.to_le_bytes());
    out[6] = match header.kind {
        Kind::Entries => 1,
        Kind::Beacon => 2,
        Kind::Footer => 3,
    };
    out[8..10].copy_from_slice(&header.place.lane.to_le_bytes());
    out[12..16].copy_from_slice(&header.lane_generation.to_le_bytes());
    for (offset, value) in [
        (16, header.place.segment),
        (24, header.place.offset),
        (32, header.wseq),
        (40, header.epoch),
        (48, header.epoch_start.0),
        (56, header.first_index.0),
        (72, header.prev_term.0),
        (80, header.last_term.0),
        (88, header.durable_index.0),
        (96, header.durable_term.0),
        (104, header.commit_hint.0),
        (112, header.body_sum),
    ] {
        out[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }
    out[64..68].copy_from_slice(&header.count.to_le_bytes());
    out[68..72].copy_from_slice(&header.body_bytes.to_le_bytes());
    let sum = crc32c_append(salt.header, &out[..SUM_OFFSET]);
    out[SUM_OFFSET..].copy_from_slice(&sum.to_le_bytes());
}

/// What stands at the beginning of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// No record begins here.
    Nothing,
    /// An intact header.
    Header(Header),
    /// An intact header of a newer layout.
    Newer {
        /// Its version.
        version: u16,
    },
}

/// Looks for a header at the beginning of `block`, which holds at least [`HEADER_BYTES`].
pub fn probe(block: &[u8], salt: Salt) -> Probe {
    if block.len() < HEADER_BYTES || block[..4] != MAGIC.to_le_bytes() {
        return Probe::Nothing;
    }
    let sum = crc32c_append(salt.header, &block[..SUM_OFFSET]);
    if block[SUM_OFFSET..HEADER_BYTES] != sum.to_le_bytes() {
        return Probe::Nothing;
    }
    let version = u16::from_le_bytes([block[4], block[5]]);
    if version > VERSION {
        return Probe::Newer { version };
    }
    match decode_header(block) {
        Some(header) if version == VERSION => Probe::Header(header),
        _ => Probe::Nothing,
    }
}

fn decode_header(block: &[u8]) -> Option<Header> {
    let u64_at = |offset: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&block[offset..offset + 8]);
        u64::from_le_bytes(bytes)
    };
    let u32_at = |offset: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&block[offset..offset + 4]);
        u32::from_le_bytes(bytes)
    };
    let kind = match block[6] {
        1 => Kind::Entries,
        2 => Kind::Beacon,
        3 => Kind::Footer,
        _ => return None,
    };
    let header = Header {
        kind,
        place: Place {
            lane: u16::from_le_bytes([block[8], block[9]]),
            segment: u64_at(16),
            offset: u64_at(24),
        },
        lane_generation: u32_at(12),
        wseq: u64_at(32),
        epoch: u64_at(40),
        epoch_start: Index(u64_at(48)),
        first_index: Index(u64_at(56)),
        count: u32_at(64),
        body_bytes: u32_at(68),
        prev_term: Term(u64_at(72)),
        last_term: Term(u64_at(80)),
        durable_index: Index(u64_at(88)),
        durable_term: Term(u64_at(96)),
        commit_hint: Index(u64_at(104)),
        body_sum: u64_at(112),
    };
    let entries = u64::from(header.count);
    let fits = match kind {
        Kind::Entries => {
            header.count > 0
                && header.first_index.0 > 0
                && header.first_index.0.checked_add(entries).is_some()
                && u64::from(header.body_bytes) >= entries * ENTRY_HEADER_BYTES as u64
        }
        Kind::Beacon | Kind::Footer => header.count == 0 && header.body_bytes == 0,
    };
    let aligned = header.place.offset.is_multiple_of(BLOCK_BYTES);
    (fits && aligned && header.epoch_start.0 > 0).then_some(header)
}

/// Whether `record`, which holds the whole record, has the body that its header announces.
pub fn body_is_intact(header: &Header, record: &[u8], salt: Salt) -> bool {
    let end = HEADER_BYTES + header.body_bytes as usize;
    record.len() >= end
        && salt.body_sum(&record[HEADER_BYTES..end]) == header.body_sum
        && entries_fit(header, &record[HEADER_BYTES..end])
}

fn entries_fit(header: &Header, body: &[u8]) -> bool {
    let mut rest = body;
    for _ in 0..header.count {
        let Some((_, _, data_bytes)) = entry_head(rest) else {
            return false;
        };
        rest = &rest[ENTRY_HEADER_BYTES + data_bytes..];
    }
    rest.is_empty()
}

/// Kind, term and payload length of the entry at the beginning of `body`, if it is all there.
fn entry_head(body: &[u8]) -> Option<(u8, Term, usize)> {
    let head = body.get(..ENTRY_HEADER_BYTES)?;
    let bytes = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let mut term = [0; 8];
    term.copy_from_slice(&head[8..16]);
    (body.len() - ENTRY_HEADER_BYTES >= bytes)
        .then(|| (head[4], Term(u64::from_le_bytes(term)), bytes))
}

/// Entries of an intact body; their payloads are slices of `body`.
pub fn entries(header: &Header, body: &Bytes) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(header.count as usize);
    let mut offset = 0;
    for position in 0..u64::from(header.count) {
        let Some((kind, term, bytes)) = entry_head(&body[offset..]) else {
            break;
        };
        let start = offset + ENTRY_HEADER_BYTES;
        entries.push(Entry {
            index: Index(header.first_index.0 + position),
            term,
            kind,
            data: body.slice(start..start + bytes),
        });
        offset = start + bytes;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(wseq: u64) -> Header {
        Header {
            kind: Kind::Entries,
            place: Place {
                lane: 3,
                segment: 9,
                offset: 8192,
            },
            lane_generation: 2,
            wseq,
            epoch: 4,
            epoch_start: Index(1),
            first_index: Index(0),
            count: 0,
            body_bytes: 0,
            prev_term: Term(5),
            last_term: Term(0),
            durable_index: Index(6),
            durable_term: Term(4),
            commit_hint: Index(3),
            body_sum: 0,
        }
    }

    /// Two values that differ by a unit with its own CRC have equal CRCs; their records must not.
    #[test]
    fn values_with_their_own_checksum_do_not_collide() {
        let unit = |byte: u8| {
            let mut unit = vec![byte; 64];
            unit.extend(crc32c(&unit).to_le_bytes());
            unit
        };
        let (one, other) = (unit(1), unit(2));
        assert_eq!(crc32c(&one), crc32c(&other));
        let salt = Salt::new(7);
        assert_ne!(salt.body_sum(&one), salt.body_sum(&other));
    }

    proptest! {
        #[test]
        fn records_round_trip(
            wseq in any::<u64>(),
            salt in any::<u64>(),
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 1..12),
            flip in any::<proptest::sample::Index>(),
        ) {
            let entries: Vec<Entry> = payloads
                .into_iter()
                .zip(7..)
                .map(|(data, index)| Entry { index: Index(index), term: Term(index / 3), kind: 1, data: data.into() })
                .collect();
            let salt = Salt::new(salt);
            let mut bytes = encode(header(wseq), &entries, salt);
            let Probe::Header(found) = probe(&bytes, salt) else { panic!("no header") };
            prop_assert_eq!(found.record_bytes(), bytes.len() as u64);
            prop_assert!(body_is_intact(&found, &bytes, salt));
            let end = HEADER_BYTES + found.body_bytes as usize;
            let body = Bytes::copy_from_slice(&bytes[HEADER_BYTES..end]);
            prop_assert_eq!(super::entries(&found, &body), entries);
            let position = flip.index(end);
            bytes[position] ^= 1;
            let intact = matches!(probe(&bytes, salt), Probe::Header(h) if body_is_intact(&h, &bytes, salt));
            prop_assert!(!intact);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..5000), fix in any::<bool>()) {
            let mut bytes = bytes;
            let salt = Salt::new(1);
            if fix && bytes.len() >= HEADER_BYTES {
                bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
                bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
                let sum = crc32c_append(salt.header, &bytes[..SUM_OFFSET]);
                bytes[SUM_OFFSET..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
            }
            if let Probe::Header(header) = probe(&bytes, salt) {
                body_is_intact(&header, &bytes, salt);
                entries_fit(&header, &bytes[HEADER_BYTES..]);
                entries(&header, &Bytes::from(bytes.clone()));
            }
            crate::inspect::segment_records(0, 1, &bytes, 1);
        }
    }
}
