//! Records against damage, and the log's places and cursors.

use super::*;
use crate::command::LeaseId;

const SALT: u64 = 77;

fn record(main: i64, value: &[u8]) -> Record<'_> {
    Record {
        tombstone: false,
        revision: Revision { main, sub: 0 },
        create: main,
        version: 1,
        lease: LeaseId(main % 2),
        key: b"a/key",
        value,
    }
}

#[test]
fn a_record_decodes_to_itself() {
    for len in 0..40 {
        let value = vec![9; len];
        let mut bytes = Vec::new();
        record(8, &value).encode(SALT, &mut bytes);
        assert!(bytes.len().is_multiple_of(RECORD_ALIGNMENT));
        assert_eq!(Record::decode(&bytes, SALT), Ok(record(8, &value)));
        assert!(matches!(
            Record::decode(&bytes, SALT + 1),
            Err(RecordError::Checksum { .. })
        ));
    }
}

#[test]
fn every_damaged_byte_of_a_record_is_noticed() {
    let mut bytes = Vec::new();
    record(9, b"some value").encode(SALT, &mut bytes);
    let len = record(9, b"some value").encoded_len();
    for at in 0..len {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            assert!(
                Record::decode(&damaged, SALT).is_err(),
                "byte {at} by {flip:#x}"
            );
        }
    }
    for cut in 0..len {
        assert!(Record::decode(&bytes[..cut], SALT).is_err(), "cut at {cut}");
    }
}

#[test]
fn garbage_under_a_right_checksum_never_panics() {
    let mut bytes = Vec::new();
    record(9, b"some value").encode(SALT, &mut bytes);
    let mut accepted = 0;
    for at in 4..RECORD_HEADER_BYTES {
        for byte in 0..=255 {
            let mut damaged = bytes.clone();
            damaged[at] = byte;
            let len = u32::from_le_bytes(damaged[4..8].try_into().expect("4 bytes")) as usize;
            let end = len.clamp(4, damaged.len());
            let seed = record::checksum_seed(SALT);
            let sum = crc32c::crc32c_append(seed, &damaged[4..end]);
            damaged[..4].copy_from_slice(&sum.to_le_bytes());
            if let Ok(record) = Record::decode(&damaged, SALT) {
                assert_eq!(record.encoded_len(), len);
                accepted += 1;
            }
        }
    }
    let tried = (RECORD_HEADER_BYTES - 4) * 256;
    assert!(accepted < tried, "{accepted} of {tried} accepted");
}

#[test]
fn places_and_cursors_hold_over_segments_and_chunks() {
    let config = StoreConfig {
        segment_bytes_first: 16 * 1024,
        segment_bytes_max: 1 << 20,
        ..StoreConfig::new(0, SALT)
    };
    let mut log = EventLog::new(&config);
    let values: Vec<Vec<u8>> = (0..3_000).map(|i| vec![i as u8; i % 1_000]).collect();
    let revision = |index: usize| 2 + 3 * index as i64;
    let locs: Vec<Loc> = values
        .iter()
        .enumerate()
        .map(|(index, value)| log.append(&record(revision(index), value)))
        .collect();
    log.verify().expect("a valid log");
    assert!(log.segments.len() > 3, "{} segments", log.segments.len());
    let capacities: Vec<u32> = log
        .segments
        .iter()
        .map(|segment| segment.capacity)
        .collect();
    assert!(
        capacities
            .windows(2)
            .all(|pair| pair[1] == (pair[0] * 2).min(1 << 20))
    );
    for (index, (&loc, value)) in locs.iter().zip(&values).enumerate() {
        assert_eq!(log.value(loc).as_deref(), Some(value.as_slice()));
        for main in [revision(index) - 2, revision(index)] {
            let cursor = log.seek(main);
            assert_eq!(log.at(cursor).map(|(loc, _)| loc), Some(loc), "seek {main}");
        }
        let after = (values.len() - 1 - index) as u64;
        let estimate = log.estimate_after(revision(index));
        assert!(
            estimate >= after && estimate < after + 1_400,
            "{estimate} of {after}"
        );
    }
    assert!(log.at(log.seek(revision(3_000))).is_none());
}
