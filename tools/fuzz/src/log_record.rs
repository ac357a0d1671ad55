//! Records of the log, as a tool scans them in one segment.
//!
//! What is reported as intact has contiguous entries that lie inside the input, in the order of their
//! offsets, and encoding it again gives the same bytes.

use bytes::Bytes;
use wal::inspect::{RecordReport, RecordState, segment_records};
use wal::record::{self, ENTRY_HEADER_BYTES, HEADER_BYTES, Header, Kind, Place, Salt};
use wal::{BLOCK_BYTES, Entry, Index, Term};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{SALT, steer, steered};

const BLOCK: usize = BLOCK_BYTES as usize;
const LANE: u16 = 0;
const SEGMENT: u64 = 1;
/// Where the checksums of body and header stand in a header.
const BODY_SUM: usize = 112;
const HEADER_SUM: usize = HEADER_BYTES - 4;
const BODY_BYTES: usize = 68;
const OFFSET: usize = 24;

/// Leaves the checksums as the fuzzer has them.
const KEEP_SUMS: u8 = 1;
/// Leaves the headers' offsets as the fuzzer has them.
const KEEP_OFFSETS: u8 = 2;

/// Scans `data` as a segment. Each record begins where the input says "new block", so that short inputs
/// reach several.
pub fn check(data: &[u8]) {
    let Some((steering, input)) = steered(data) else {
        return;
    };
    let segment = segment(steering, input);
    let reports = segment_records(LANE, SEGMENT, &segment, SALT);
    let mut end = 0;
    for report in &reports {
        assert!(report.offset >= end, "{report:?} inside another record");
        assert!(report.offset.is_multiple_of(BLOCK_BYTES));
        if report.state == RecordState::Intact {
            end = check_intact(report, &segment);
        }
    }
}

fn segment(steering: u8, input: &[u8]) -> Vec<u8> {
    let mut segment = blocks(input);
    repair(&mut segment, steering);
    segment
}

/// The input cut into pieces at each marker, each piece padded to whole blocks.
fn blocks(input: &[u8]) -> Vec<u8> {
    const MARKER: &[u8] = b"\xfe\xed";
    let mut segment = Vec::new();
    let mut rest = input;
    loop {
        let cut = rest.windows(MARKER.len()).position(|bytes| bytes == MARKER);
        let (piece, more) = match cut {
            Some(at) => (&rest[..at], Some(&rest[at + MARKER.len()..])),
            None => (rest, None),
        };
        segment.extend_from_slice(piece);
        segment.resize(segment.len().next_multiple_of(BLOCK), 0);
        match more {
            Some(more) if segment.len() < 64 * BLOCK => rest = more,
            _ => return segment,
        }
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(word)
}

/// Puts offsets and checksums right wherever a record seems to begin.
fn repair(segment: &mut [u8], steering: u8) {
    let header_seed = crc32c::crc32c(&SALT.to_le_bytes());
    for start in (0..segment.len()).step_by(BLOCK) {
        if segment[start..start + 4] != *b"Logr" {
            continue;
        }
        if steering & KEEP_OFFSETS == 0 {
            let offset = (start as u64).to_le_bytes();
            segment[start + OFFSET..start + OFFSET + 8].copy_from_slice(&offset);
        }
        if steering & KEEP_SUMS != 0 {
            continue;
        }
        let body_bytes = u32_at(segment, start + BODY_BYTES) as usize;
        let body = start + HEADER_BYTES;
        if let Some(body) = segment.get(body..body.saturating_add(body_bytes)) {
            let sum = xxh3_64_with_seed(body, SALT).to_le_bytes();
            segment[start + BODY_SUM..start + BODY_SUM + sum.len()].copy_from_slice(&sum);
        }
        let sum = crc32c::crc32c_append(header_seed, &segment[start..start + HEADER_SUM]);
        segment[start + HEADER_SUM..start + HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Checks an intact record and returns its end.
fn check_intact(report: &RecordReport, segment: &[u8]) -> u64 {
    let header = report.header.expect("an intact record has its header");
    let place = Place {
        lane: LANE,
        segment: SEGMENT,
        offset: report.offset,
    };
    assert_eq!(header.place, place);
    let end = report.offset + header.record_bytes();
    assert!(
        end <= segment.len() as u64,
        "{report:?} ends behind the segment"
    );
    assert_eq!(report.entries.len(), header.count as usize);
    let entries: Vec<Entry> = report
        .entries
        .iter()
        .map(|entry| Entry {
            index: entry.index,
            term: entry.term,
            kind: entry.kind,
            data: entry.data.clone(),
        })
        .collect();
    for (position, entry) in entries.iter().enumerate() {
        assert_eq!(entry.index.0, header.first_index.0 + position as u64);
    }
    let again = record::encode(header, &entries, Salt::new(SALT));
    let reports = segment_records(LANE, SEGMENT, &moved(again, report.offset), SALT);
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].state, RecordState::Intact);
    assert_eq!(reports[0].entries, report.entries);
    end
}

/// `record` at `offset` of a segment that holds nothing else.
fn moved(record: Vec<u8>, offset: u64) -> Vec<u8> {
    let mut segment = vec![0; offset as usize];
    segment.extend_from_slice(&record);
    segment
}

/// A header without entries at `offset` of the segment that the targets scan.
pub(crate) fn header(kind: Kind, offset: u64) -> Header {
    Header {
        kind,
        place: Place {
            lane: LANE,
            segment: SEGMENT,
            offset,
        },
        lane_generation: 1,
        wseq: 1,
        epoch: 1,
        epoch_start: Index(1),
        first_index: Index(0),
        count: 0,
        body_bytes: 0,
        prev_term: Term(0),
        last_term: Term(0),
        durable_index: Index(0),
        durable_term: Term(0),
        commit_hint: Index(0),
        body_sum: 0,
    }
}

/// An empty segment, one record of each kind, and two records in a row. All are intact with the sums that
/// are put right here, so that this stays what the log does.
pub fn seeds() -> Vec<Vec<u8>> {
    let entry = |index: u64, data: &'static [u8]| Entry {
        index: Index(index),
        term: Term(1),
        kind: 1,
        data: Bytes::from_static(data),
    };
    let record = |kind, offset, entries: &[Entry]| {
        let image = record::encode(header(kind, offset), entries, Salt::new(SALT));
        // The padding comes back with the marker or the end.
        let used = HEADER_BYTES
            + entries
                .iter()
                .map(|entry| ENTRY_HEADER_BYTES + entry.data.len())
                .sum::<usize>();
        image[..used].to_vec()
    };
    let two = [entry(1, b"first"), entry(2, b"")];
    let entries = record(Kind::Entries, 0, &two);
    let beacon = record(Kind::Beacon, 0, &[]);
    let footer = record(Kind::Footer, 0, &[]);
    let next = record(Kind::Entries, BLOCK_BYTES, &[entry(3, b"next")]);
    let row = [entries.clone(), b"\xfe\xed".to_vec(), next].concat();
    let plain = [Vec::new(), entries.clone(), beacon, footer, row];
    for (input, records) in plain.iter().zip([0, 1, 1, 1, 2]) {
        let reports = segment_records(LANE, SEGMENT, &segment(0, input), SALT);
        let intact = reports
            .iter()
            .filter(|report| report.state == RecordState::Intact);
        assert_eq!(intact.count(), records, "a seed is no record: {reports:?}");
    }
    let mut seeds: Vec<Vec<u8>> = plain.iter().map(|input| steer(0, input)).collect();
    seeds.push(steer(KEEP_SUMS | KEEP_OFFSETS, &entries));
    seeds
}
