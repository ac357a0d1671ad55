//! The log over files in memory: against a plain list, against damage, against garbage.

mod damage;
mod image;
mod random;

use std::collections::BTreeMap;

use diskio::{FileName, IoFailure, IoIds, IoOperation, IoRequest, Machine, Requests};

use super::*;
use crate::command::LeaseId;
use crate::image::PassingBytes;
use crate::store::LoadError;

const SALT: u64 = 77;

/// Files in memory, and the requests that were not executed yet.
pub(crate) struct Files {
    bytes: BTreeMap<FileName, Vec<u8>>,
    pending: Vec<IoRequest>,
    ids: IoIds,
}

impl Files {
    pub(crate) fn new() -> Self {
        Files {
            bytes: BTreeMap::new(),
            pending: Vec::new(),
            ids: IoIds::new(Machine::shard(3)),
        }
    }

    fn poll(&mut self, log: &mut EventLog, slots: usize) {
        let before = self.pending.len();
        log.poll(
            &mut Requests::background(&mut self.ids, &mut self.pending),
            slots,
        );
        assert!(self.pending.len() <= before + slots);
        assert_eq!(self.pending.len(), log.in_flight());
    }

    /// Executes the pending request at `index`.
    fn execute(&mut self, log: &mut EventLog, index: usize) {
        let request = self.pending.remove(index);
        match request.operation {
            IoOperation::Create { file, len } => {
                assert!(len.is_multiple_of(4096));
                let former = self.bytes.insert(file, vec![0; len as usize]);
                assert!(former.is_none(), "{file:?} was created twice");
            }
            IoOperation::Write { file, offset, data } => {
                assert!(offset.is_multiple_of(4096) && data.len().is_multiple_of(4096));
                let bytes = self.bytes.get_mut(&file).expect("a file that was created");
                bytes[offset as usize..][..data.len()].copy_from_slice(&data);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(log.complete(request.id, Ok(())), Completed::Done);
    }

    /// Lets the pending request at `index` fail.
    fn fail(&mut self, log: &mut EventLog, index: usize, failure: IoFailure) -> Completed {
        let request = self.pending.remove(index);
        log.complete(request.id, Err(failure))
    }

    /// Writes all that is sealed.
    pub(crate) fn drain(&mut self, log: &mut EventLog) {
        loop {
            self.poll(log, 4);
            if self.pending.is_empty() {
                return;
            }
            while !self.pending.is_empty() {
                self.execute(log, 0);
            }
        }
    }

    /// Reads what `need` asks for and hands it to the log.
    pub(crate) fn load(&self, log: &mut EventLog, need: &Need) -> Result<(), LoadError> {
        let bytes = log.read_of(need).map(|(file, offset, len)| {
            assert!(offset.is_multiple_of(4096) && len.is_multiple_of(4096));
            let bytes = self.bytes.get(&file).map_or(&[][..], Vec::as_slice);
            let start = (offset as usize).min(bytes.len());
            let end = ((offset + len) as usize).min(bytes.len());
            Bytes::copy_from_slice(&bytes[start..end])
        });
        // What is for a scan comes alone.
        match (log.passing_bytes_of(need), bytes) {
            (Some(PassingBytes { skip, len }), Some(bytes)) => {
                let start = (skip as usize).min(bytes.len());
                let end = (start + len as usize).min(bytes.len());
                log.load_passing(need, bytes.slice(start..end))
            }
            (_, bytes) => log.load(need, bytes),
        }
    }

    /// Repeats `call` until it answers, loading what it needs.
    fn settle<T>(
        &self,
        log: &mut EventLog,
        mut call: impl FnMut(&mut EventLog) -> Step<T>,
    ) -> Result<T, LoadError> {
        for _ in 0..10_000 {
            match call(log) {
                Step::Ready(value) => return Ok(value),
                Step::Need(need) => self.load(log, &need)?,
            }
        }
        panic!("a call that never ends");
    }

    fn value(&self, log: &mut EventLog, loc: Loc) -> Result<Bytes, LoadError> {
        self.settle(log, |log| log.value(loc, None))
    }

    /// The places of up to `count` records from main revision `main` on, and what ended the walk before.
    fn walk(
        &self,
        log: &mut EventLog,
        main: i64,
        count: usize,
    ) -> (Vec<(Loc, Revision, Bytes)>, Option<LoadError>) {
        let mut found = Vec::new();
        let mut cursor = match self.settle(log, |log| log.seek(Revision { main, sub: 0 })) {
            Ok(cursor) => cursor,
            Err(error) => return (found, Some(error)),
        };
        while found.len() < count {
            let step = self.settle(log, |log| {
                let read = ready!(log.read(cursor, i64::MAX));
                let Some((loc, record)) = read else {
                    return Step::Ready(None);
                };
                let (revision, key_len) = (record.revision, record.key.len());
                let (_, value) = log.key_and_value(cursor, loc, key_len);
                Step::Ready(Some((loc, revision, value)))
            });
            match step {
                Ok(Some(read)) => {
                    cursor = log.behind(cursor, read.0);
                    found.push(read);
                }
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
        (found, None)
    }
}

/// A log of small pieces and segments that keeps nothing in memory once it is written.
fn small() -> StoreConfig {
    StoreConfig {
        segment_bytes_first: 8192,
        segment_bytes_max: 1 << 16,
        piece_bytes: 4096,
        tail_bytes_max: 0,
        value_cache_bytes: 0,
        ..StoreConfig::new(3, SALT)
    }
}

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
