//! Records of the event log.
//!
//! What is accepted is exactly what would be written, byte for byte, and its hash can be taken.

use engine::command::LeaseId;
use engine::events::{RECORD_ALIGNMENT, RECORD_HEADER_BYTES, Record};
use engine::revision::Revision;

use crate::{SALT, steer, steered};

/// Leaves the checksum as the fuzzer has it.
const KEEP_SUM: u8 = 1;
/// Leaves the length as the fuzzer has it.
const KEEP_LEN: u8 = 2;

/// Reads `data` as a record.
pub fn check(data: &[u8]) {
    let Some((steering, input)) = steered(data) else {
        return;
    };
    let bytes = repaired(steering, input);
    match Record::decode(&bytes, SALT) {
        Ok(record) => check_record(&record, &bytes),
        Err(error) => drop(error.to_string()),
    }
}

/// The input with length and checksum put right.
fn repaired(steering: u8, input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    if steering & KEEP_LEN == 0 && bytes.len() >= 8 {
        let len = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
    }
    if steering & KEEP_SUM == 0 && bytes.len() >= 8 {
        let len = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        let end = len.clamp(4, bytes.len());
        let seed = (SALT ^ (SALT >> 32)) as u32;
        let sum = crc32c::crc32c_append(seed, &bytes[4..end]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

fn check_record(record: &Record<'_>, bytes: &[u8]) {
    let len = record.encoded_len();
    assert_eq!(
        len,
        RECORD_HEADER_BYTES + record.key.len() + record.value.len()
    );
    let mut written = Vec::new();
    record.encode(SALT, &mut written);
    assert_eq!(written[..len], bytes[..len], "not what would be written");
    assert_eq!(written.len(), len.next_multiple_of(RECORD_ALIGNMENT));
    let again = Record::decode(&written, SALT).expect("what was written can be read");
    assert_eq!(again, *record);
    assert_eq!(again.event_hash(), record.event_hash());
}

/// A put, a put with a lease, and a tombstone.
pub fn seeds() -> Vec<Vec<u8>> {
    let put = Record {
        tombstone: false,
        revision: Revision { main: 9, sub: 1 },
        create: 5,
        version: 3,
        lease: LeaseId::NONE,
        key: b"some key",
        value: b"some value",
    };
    let leased = Record {
        lease: LeaseId(77),
        value: b"",
        ..put
    };
    let tombstone = Record {
        tombstone: true,
        value: b"",
        ..put
    };
    let encoded = |record: Record<'_>| {
        let mut bytes = Vec::new();
        record.encode(SALT, &mut bytes);
        bytes.truncate(record.encoded_len());
        assert_eq!(repaired(0, &bytes), bytes, "the sum is another one");
        bytes
    };
    vec![
        steer(0, &encoded(put)),
        steer(0, &encoded(leased)),
        steer(0, &encoded(tombstone)),
        steer(KEEP_SUM | KEEP_LEN, &encoded(put)),
    ]
}
