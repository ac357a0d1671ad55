//! One event record: its bytes, its checksum, and the hash of what it says.
//!
//! ```text
//!  0 crc32c | 4 len | 8 key len u16, flags u8, zero | 12 main u64 | 20 sub u32 | 24 create u64
//! 32 version u64 | 40 lease u64 | 48 key | value | zeros up to a multiple of 8
//! ```

use thiserror::Error;

use crate::command::LeaseId;
use crate::revision::Revision;

/// Bytes before the key.
pub const RECORD_HEADER_BYTES: usize = 48;
/// Records start at multiples of this.
pub const RECORD_ALIGNMENT: usize = 8;

/// The record is a deletion.
const TOMBSTONE: u8 = 1;
/// The lease field is set.
const LEASE: u8 = 2;

/// A change as it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key was deleted; create revision and version are those of the generation that ends here.
    pub tombstone: bool,
    /// When.
    pub revision: Revision,
    /// Revision of the key's creation.
    pub create: i64,
    /// Changes since creation.
    pub version: i64,
    /// Attached lease; none of a tombstone.
    pub lease: LeaseId,
    /// Key.
    pub key: &'a [u8],
    /// Value; empty of a tombstone.
    pub value: &'a [u8],
}

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The bytes end inside the record.
    #[error("{got} bytes, the record has {expected}")]
    Short {
        /// Bytes there.
        got: usize,
        /// Bytes by the header, or of the header.
        expected: usize,
    },
    /// Damaged bytes, or a record of another data directory.
    #[error("checksum {stored:#010x} stored, {computed:#010x} computed")]
    Checksum {
        /// In the record.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A field is out of its range.
    #[error("{what}")]
    Field {
        /// Which, and how.
        what: &'static str,
    },
}

/// Bytes of a record with its padding.
pub(crate) fn padded(len: usize) -> usize {
    len.next_multiple_of(RECORD_ALIGNMENT)
}

/// What record checksums of a directory start from.
pub(crate) fn checksum_seed(salt: u64) -> u32 {
    (salt ^ (salt >> 32)) as u32
}

impl<'a> Record<'a> {
    /// Bytes without padding.
    pub fn encoded_len(&self) -> usize {
        RECORD_HEADER_BYTES + self.key.len() + self.value.len()
    }

    /// The event hash: CRC-32C over the fields from the key's length on, with only the tombstone bit
    /// of the flags, then key and value. Says what happened, not how it is stored.
    pub fn event_hash(&self) -> u32 {
        let mut header = self.header();
        header[10] &= TOMBSTONE;
        let hash = crc32c::crc32c(&header[8..]);
        crc32c::crc32c_append(crc32c::crc32c_append(hash, self.key), self.value)
    }

    fn header(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut header = [0; RECORD_HEADER_BYTES];
        let len = u32::try_from(self.encoded_len()).expect("a record below 4 GiB");
        let key_len = u16::try_from(self.key.len()).expect("a key below 64 KiB");
        header[4..8].copy_from_slice(&len.to_le_bytes());
        header[8..10].copy_from_slice(&key_len.to_le_bytes());
        if self.tombstone {
            header[10] |= TOMBSTONE;
        }
        if self.lease != LeaseId::NONE {
            header[10] |= LEASE;
        }
        header[12..20].copy_from_slice(&self.revision.main.to_le_bytes());
        header[20..24].copy_from_slice(&self.revision.sub.to_le_bytes());
        header[24..32].copy_from_slice(&self.create.to_le_bytes());
        header[32..40].copy_from_slice(&self.version.to_le_bytes());
        header[40..48].copy_from_slice(&self.lease.0.to_le_bytes());
        header
    }

    /// Appends the record and its padding to `out`.
    pub fn encode(&self, salt: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.header());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
        let sum = crc32c::crc32c_append(checksum_seed(salt), &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&sum.to_le_bytes());
        out.resize(start + padded(self.encoded_len()), 0);
    }

    /// Reads the record at the start of `bytes`, believing nothing.
    ///
    /// # Errors
    /// The first rule that the bytes break; see `docs/internals/event-log.md`.
    pub fn decode(bytes: &'a [u8], salt: u64) -> Result<Self, RecordError> {
        let short = |expected| RecordError::Short {
            got: bytes.len(),
            expected,
        };
        let stored = bytes.first_chunk::<4>().ok_or(short(RECORD_HEADER_BYTES))?;
        let stored = u32::from_le_bytes(*stored);
        let record = Record::parse(bytes)?;
        let computed = crc32c::crc32c_append(checksum_seed(salt), &bytes[4..record.encoded_len()]);
        if stored != computed {
            return Err(RecordError::Checksum { stored, computed });
        }
        record.check()?;
        Ok(record)
    }

    /// Reads the fields without checksum and ranges: of bytes that were written or checked here.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let short = |expected| RecordError::Short {
            got: bytes.len(),
            expected,
        };
        let header = bytes.first_chunk::<RECORD_HEADER_BYTES>();
        let header = header.ok_or(short(RECORD_HEADER_BYTES))?;
        let i64_at =
            |at: usize| i64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let u32_at =
            |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let len = u32_at(4) as usize;
        let key_end = RECORD_HEADER_BYTES + usize::from(u16::from_le_bytes([header[8], header[9]]));
        if key_end > len {
            return Err(RecordError::Field {
                what: "the key is longer than the record",
            });
        }
        let body = bytes.get(..len).ok_or(short(len))?;
        Ok(Record {
            tombstone: header[10] & TOMBSTONE != 0,
            revision: Revision {
                main: i64_at(12),
                sub: u32_at(20),
            },
            create: i64_at(24),
            version: i64_at(32),
            lease: LeaseId(i64_at(40)),
            key: &body[RECORD_HEADER_BYTES..key_end],
            value: &body[key_end..],
        })
        .and_then(|record| {
            match header[10] & !(TOMBSTONE | LEASE) == 0 && header[11] == 0 {
                true if (header[10] & LEASE != 0) == (record.lease != LeaseId::NONE) => Ok(record),
                true => Err(RecordError::Field {
                    what: "the lease bit disagrees with the lease",
                }),
                false => Err(RecordError::Field {
                    what: "unknown flags",
                }),
            }
        })
    }

    fn check(&self) -> Result<(), RecordError> {
        let require = |holds: bool, what: &'static str| {
            if holds {
                Ok(())
            } else {
                Err(RecordError::Field { what })
            }
        };
        require(
            self.create >= 1 && self.create <= self.revision.main,
            "create revision out of range",
        )?;
        require(self.version >= 1, "version out of range")?;
        let empty = self.value.is_empty() && self.lease == LeaseId::NONE;
        require(
            !self.tombstone || empty,
            "a tombstone with a value or a lease",
        )
    }
}
