//! Recovery of a whole data directory: superblock, segments, what is missing, what is damaged.
//!
//! Every outcome is one of the documented ones, and is reached with a bounded number of requests. A
//! directory that opens holds contiguous entries. It opens again with the same ones, unless it holds a
//! record from the future of its superblock, which no history leaves behind.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use wal::io::{Directory, FileName, IoFailure, IoOperation, IoOutput, IoRequest};
use wal::record::{self, Header, Kind, Place, Salt};
use wal::superblock::{
    self, COPY_BYTES, COPY_OFFSETS, FILE_BYTES, LaneSlot, LaneState, Superblock,
};
use wal::{
    AcceptedLoss, BLOCK_BYTES, Config, Entry, Index, OpenError, Opened, Opening, Term, Vote,
    Watermark,
};

use crate::SALT;
use crate::superblock::directory;

const BLOCK: usize = BLOCK_BYTES as usize;
const SEGMENT_BLOCKS: u8 = 8;
const SEGMENTS_MAX: u8 = 3;
/// Far more than an opening of so small a directory needs.
const REQUESTS_MAX: usize = 2_000;

#[derive(Arbitrary, Debug)]
struct RawSuperblock {
    term: u8,
    vote: Option<u8>,
    lane_generation: u8,
    lane_state: u8,
    epoch: u8,
    epoch_start: u8,
    epoch_start_term: u8,
    epoch_floor: u8,
    wseq_reserved: u8,
    clean: Option<(u8, u8, u8)>,
    checkpoint: (u8, u8, u8),
}

#[derive(Arbitrary, Debug)]
struct RawRecord {
    segment: u8,
    block: u8,
    kind: u8,
    generation: u8,
    wseq: u8,
    epoch: u8,
    epoch_start: u8,
    first_index: u8,
    entries: Vec<(u8, u8)>,
    prev_term: u8,
    durable: (u8, u8),
    commit_hint: u8,
    /// A byte of the record to change.
    damage: Option<(u16, u8)>,
}

#[derive(Arbitrary, Debug)]
struct RawDirectory {
    superblock: RawSuperblock,
    /// Copies that are damaged, one bit each.
    damaged_copies: u8,
    records: Vec<RawRecord>,
    /// Accept the loss that a first attempt reports.
    accept: bool,
}

/// Builds the directory that `data` describes and opens it.
pub fn check(data: &[u8]) {
    let Ok(raw) = RawDirectory::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    let mut disk = Disk::default();
    disk.files.insert(
        FileName::Superblock,
        superblock_file(&raw.superblock, raw.damaged_copies),
    );
    for record in raw.records.iter().take(12) {
        disk.write_record(record);
    }
    let possible = is_possible(&raw);
    match disk.open(None) {
        Ok(opened) => check_opened(&opened, &mut disk, possible),
        Err(OpenError::Faulty(faulty)) => {
            assert!(faulty.first_missing <= faulty.last_missing, "{faulty:?}");
            drop(OpenError::Faulty(faulty.clone()).to_string());
            if raw.accept {
                let loss = AcceptedLoss {
                    first_missing: faulty.first_missing,
                    last_missing: faulty.last_missing,
                };
                if let Ok(opened) = disk.open(Some(loss)) {
                    assert_eq!(opened.report.accepted, Some(loss));
                    check_opened(&opened, &mut disk, possible);
                }
            }
        }
        Err(error) => drop(error.to_string()),
    }
}

/// Epochs, lane generations and sequence numbers are reserved in the superblock before a record uses them.
fn is_possible(raw: &RawDirectory) -> bool {
    let superblock = &raw.superblock;
    raw.records.iter().all(|record| {
        record.epoch <= superblock.epoch.max(superblock.epoch_floor)
            && record.generation <= superblock.lane_generation
            && record.wseq < superblock.wseq_reserved
    })
}

fn check_opened(opened: &Opened, disk: &mut Disk, possible: bool) {
    opened.wal.check();
    let first = opened.superblock.checkpoint_index.0 + 1;
    for (position, entry) in opened.entries.iter().enumerate() {
        assert_eq!(entry.index.0, first + position as u64, "a gap");
    }
    match disk.open(None) {
        Ok(again) if possible => {
            assert_eq!(again.entries, opened.entries, "another log the second time");
            assert!(again.term >= opened.term);
        }
        Err(error) if possible => panic!("a directory that was opened is refused: {error}"),
        _ => {}
    }
}

fn superblock_file(raw: &RawSuperblock, damaged_copies: u8) -> Vec<u8> {
    let mut content = Superblock::new(&directory());
    content.seq = 5;
    content.term = Term(raw.term.into());
    content.vote = raw.vote.map_or(Vote::None, |vote| Vote::For(vote.into()));
    content.lanes[0] = LaneSlot {
        generation: raw.lane_generation.into(),
        state: match raw.lane_state % 3 {
            0 => LaneState::Active,
            1 => LaneState::Draining,
            _ => LaneState::Retired,
        },
    };
    content.epoch = raw.epoch.into();
    content.epoch_start = Index(u64::from(raw.epoch_start).max(1));
    content.epoch_start_term = Term(raw.epoch_start_term.into());
    content.epoch_floor = raw.epoch_floor.into();
    content.wseq_reserved = raw.wseq_reserved.into();
    content.clean = raw.clean.map(|(index, term, epoch)| Watermark {
        index: Index(index.into()),
        term: Term(term.into()),
        epoch: epoch.into(),
    });
    let (id, index, term) = raw.checkpoint;
    content.checkpoint_id = id.into();
    content.checkpoint_index = Index(index.into());
    content.checkpoint_term = Term(term.into());
    let copy = superblock::encode(&content);
    let mut file = vec![0; FILE_BYTES as usize];
    for (place, offset) in COPY_OFFSETS.into_iter().enumerate() {
        let start = offset as usize;
        file[start..start + COPY_BYTES as usize].copy_from_slice(&copy);
        if damaged_copies & 1 << place != 0 {
            file[start + 20] ^= 1;
        }
    }
    file
}

/// The files of one data directory.
#[derive(Default)]
struct Disk {
    files: BTreeMap<FileName, Vec<u8>>,
}

impl Disk {
    fn write_record(&mut self, raw: &RawRecord) {
        let number = 1 + u64::from(raw.segment % SEGMENTS_MAX);
        let offset = u64::from(raw.block % SEGMENT_BLOCKS) * BLOCK_BYTES;
        let mut bytes = encoded(raw, number, offset);
        if let Some((at, flip)) = raw.damage {
            let at = usize::from(at) % bytes.len();
            bytes[at] ^= flip;
        }
        let file = FileName::Segment { lane: 0, number };
        let segment = self
            .files
            .entry(file)
            .or_insert_with(|| vec![0; usize::from(SEGMENT_BLOCKS) * BLOCK]);
        let start = offset as usize;
        let end = (start + bytes.len()).min(segment.len());
        segment[start..end].copy_from_slice(&bytes[..end - start]);
    }

    /// Runs an opening to its end.
    fn open(&mut self, loss: Option<AcceptedLoss>) -> Result<Opened, OpenError> {
        let config = Config {
            segment_bytes: u64::from(SEGMENT_BLOCKS) * BLOCK_BYTES,
            record_bytes_max: 4 * BLOCK_BYTES,
            batch_bytes_target: 2 * BLOCK_BYTES,
            prewrite_bytes: BLOCK_BYTES,
            prewrite_gap_bytes: BLOCK_BYTES,
            scan_read_bytes: 2 * BLOCK_BYTES,
            wseq_reserve: 16,
            ..Config::default()
        };
        let mut opening = Opening::new(config, None);
        if let Some(loss) = loss {
            opening = opening.accept(loss);
        }
        let mut requests = Vec::new();
        let mut done = 0;
        loop {
            opening.poll(&mut requests);
            if let Some(outcome) = opening.outcome() {
                return outcome;
            }
            assert!(!requests.is_empty(), "neither an outcome nor a request");
            // In the order of their ids every request comes behind those it waits for.
            for request in std::mem::take(&mut requests) {
                done += 1;
                assert!(done < REQUESTS_MAX, "{done} requests and no outcome");
                let IoRequest { id, operation, .. } = request;
                let result = self.execute(operation);
                opening.complete(id, result);
            }
        }
    }

    fn execute(&mut self, operation: IoOperation) -> Result<IoOutput, IoFailure> {
        match operation {
            IoOperation::List(directory) => Ok(IoOutput::Listing(self.list(directory))),
            IoOperation::Open { file } => {
                let bytes = self.files.get(&file).ok_or(IoFailure::NotFound)?;
                Ok(IoOutput::Length(bytes.len() as u64))
            }
            IoOperation::Read { file, offset, len } => {
                let bytes = self.files.get(&file).ok_or(IoFailure::NotFound)?;
                let start = (offset as usize).min(bytes.len());
                let end = (start + len as usize).min(bytes.len());
                Ok(IoOutput::Bytes(bytes[start..end].to_vec()))
            }
            IoOperation::Create { file, len } => {
                assert!(len < 1 << 20, "{len} bytes for {file}");
                self.files.insert(file, vec![0; len as usize]);
                Ok(IoOutput::None)
            }
            IoOperation::Write { file, offset, data } => {
                let bytes = self.files.get_mut(&file).ok_or(IoFailure::NotFound)?;
                let start = offset as usize;
                assert!(start + data.len() <= bytes.len(), "a write behind the end");
                bytes[start..start + data.len()].copy_from_slice(&data);
                Ok(IoOutput::None)
            }
            IoOperation::Rename { from, to } => {
                let bytes = self.files.remove(&from).ok_or(IoFailure::NotFound)?;
                self.files.insert(to, bytes);
                Ok(IoOutput::None)
            }
            IoOperation::Delete { file } => {
                self.files.remove(&file).ok_or(IoFailure::NotFound)?;
                Ok(IoOutput::None)
            }
            IoOperation::CreateDirectory(_)
            | IoOperation::Sync { .. }
            | IoOperation::SyncDirectory(_) => Ok(IoOutput::None),
        }
    }

    fn list(&self, directory: Directory) -> Vec<(String, u64)> {
        let files = self.files.iter();
        let mut names: Vec<(String, u64)> = files
            .filter(|(file, _)| file.directory() == directory)
            .map(|(file, bytes)| (file.name(), bytes.len() as u64))
            .collect();
        match directory {
            Directory::Root => names.push(("wal".to_owned(), 0)),
            Directory::Log => names.push(("lane-00".to_owned(), 0)),
            Directory::Lane(_) | Directory::Shard(_) => {}
        }
        names
    }
}

fn encoded(raw: &RawRecord, segment: u64, offset: u64) -> Vec<u8> {
    let kind = match raw.kind % 8 {
        0 => Kind::Beacon,
        1 => Kind::Footer,
        _ => Kind::Entries,
    };
    let first = u64::from(raw.first_index).max(1);
    let mut entries: Vec<Entry> = raw
        .entries
        .iter()
        .take(6)
        .enumerate()
        .map(|(position, (term, kind))| Entry {
            index: Index(first + position as u64),
            term: Term((*term).into()),
            kind: *kind,
            data: Bytes::from(vec![*kind; usize::from(*kind)]),
        })
        .collect();
    if kind != Kind::Entries {
        entries.clear();
    }
    let header = Header {
        kind,
        place: Place {
            lane: 0,
            segment,
            offset,
        },
        lane_generation: raw.generation.into(),
        wseq: raw.wseq.into(),
        epoch: raw.epoch.into(),
        epoch_start: Index(u64::from(raw.epoch_start).max(1)),
        first_index: Index(0),
        count: 0,
        body_bytes: 0,
        prev_term: Term(raw.prev_term.into()),
        last_term: Term(raw.durable.1.into()),
        durable_index: Index(raw.durable.0.into()),
        durable_term: Term(raw.durable.1.into()),
        commit_hint: Index(raw.commit_hint.into()),
        body_sum: 0,
    };
    record::encode(header, &entries, Salt::new(SALT))
}

/// Bytes that describe an empty directory, and logs of small numbers.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0; 32]];
    for step in 1..6u8 {
        let bytes = (0..200u16).map(|position| match position % 7 {
            0 => 1,
            1..=3 => step,
            _ => (position / 40) as u8,
        });
        seeds.push(bytes.collect());
    }
    seeds
}
