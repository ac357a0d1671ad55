//! One member driven step by step, for cases that random lives meet too seldom.
//!
//! A script says what is appended, what completes, how the process ends and which storage fault follows. It
//! checks nothing by itself; its test compares what the next opening finds.

use super::world::{new_directory, open_disk};
use crate::io::{FileName, IoOperation};
use crate::{
    AcceptedLoss, Checkpoint, Config, Entry, Index, OpenError, Opened, Opening, Superblock, Term,
    Vote, Wal, WalEvent,
};
use diskio::sim::{Crash, Fate, SimDisk};

/// What an opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The superblock.
    pub superblock: Superblock,
    /// Terms of the entries after the checkpoint.
    pub terms: Vec<u64>,
    /// The entries themselves.
    pub entries: Vec<Entry>,
    /// Current term.
    pub term: Term,
    /// Vote in it.
    pub vote: Vote,
}

/// A member and its disk.
pub struct Script {
    /// The disk.
    pub disk: SimDisk,
    /// Sizes and limits of the next opening.
    pub config: Config,
    wal: Option<Wal>,
    now: u64,
    events: Vec<WalEvent>,
}

impl Script {
    /// A member with an empty directory, not opened yet: one lane, segments of 8 blocks.
    pub fn new() -> Script {
        Script {
            disk: SimDisk::new(),
            config: Config {
                lanes: 1,
                segment_bytes: 4096 * 8,
                spare_segments: 1,
                free_segments_max: 4,
                batch_bytes_target: 4096,
                record_bytes_max: 4096 * 4,
                writes_in_flight_max: 4,
                busy_bytes_min: 0,
                beacon_delay_nanos: 10,
                space_retry_nanos: 100,
                wseq_reserve: 100,
                prewrite_bytes: 4096 * 8,
                prewrite_gap_bytes: 4096,
                scan_read_bytes: 4096 * 8,
                scan_reads_in_flight_max: 4,
            },
            wal: None,
            now: 0,
            events: Vec::new(),
        }
    }

    /// The log that runs.
    ///
    /// # Panics
    /// If none does.
    pub fn wal(&mut self) -> &mut Wal {
        self.wal.as_mut().expect("the member runs")
    }

    /// Opens the directory, or creates it; the log runs if that succeeds.
    ///
    /// # Errors
    /// What the opening says.
    pub fn open(&mut self) -> Result<Found, OpenError> {
        self.open_with(|opening| opening)
    }

    /// Opens the directory and accepts a loss.
    ///
    /// # Errors
    /// What the opening says.
    pub fn open_accepting(&mut self, loss: AcceptedLoss) -> Result<Found, OpenError> {
        self.open_with(|opening| opening.accept(loss))
    }

    fn open_with(&mut self, with: impl FnOnce(Opening) -> Opening) -> Result<Found, OpenError> {
        let opening = with(Opening::new(self.config.clone(), Some(new_directory())));
        let opened = open_disk(&mut self.disk, opening)?;
        let Opened {
            wal,
            superblock,
            entries,
            term,
            vote,
            ..
        } = opened;
        self.wal = Some(wal);
        self.events.clear();
        self.finish();
        Ok(Found {
            superblock,
            terms: entries.iter().map(|entry| entry.term.0).collect(),
            entries,
            term,
            vote,
        })
    }

    /// The bytes of an entry as scripts append it.
    pub fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index: Index(index),
            term: Term(term),
            kind: 1,
            data: vec![term as u8; 20].into(),
        }
    }

    /// Makes term `term` without a vote durable.
    pub fn term(&mut self, term: u64) {
        self.wal().save_hard_state(Term(term), Vote::None);
        self.finish();
    }

    /// Appends entries of these terms from `first` on; they are submitted, nothing completes.
    pub fn append(&mut self, first: u64, terms: &[u64]) {
        let entries = (first..).zip(terms);
        let entries = entries.map(|(index, term)| Script::entry(index, *term));
        self.wal().append(entries.collect());
        self.poll();
    }

    /// Takes what the log wants to write.
    ///
    /// # Panics
    /// If the log names a deadline that has passed: its owner would poll it again and again.
    pub fn poll(&mut self) {
        let now = self.now;
        let mut requests = Vec::new();
        let wal = self.wal();
        wal.poll(now, &mut requests);
        wal.check();
        let deadline = wal.next_deadline();
        assert!(
            deadline.is_none_or(|at| at > now),
            "at {now} the deadline is {deadline:?}"
        );
        while let Some(event) = self.wal().next_event() {
            self.events.push(event);
        }
        self.disk.accept(requests);
    }

    /// Completes everything in flight and what follows from it.
    pub fn finish(&mut self) {
        self.poll();
        while self.disk.in_flight() > 0 {
            self.complete(0);
        }
    }

    /// Completes everything in flight that `wanted` names, and what follows from it; the rest stays.
    pub fn finish_where(&mut self, wanted: impl Fn(&IoOperation) -> bool) {
        self.poll();
        while let Some(position) =
            (0..self.disk.in_flight()).find(|position| wanted(self.disk.operation(*position)))
        {
            self.complete(position);
        }
    }

    fn complete(&mut self, position: usize) {
        let (id, result) = self.disk.complete(position);
        let now = self.now;
        self.wal().complete(now, id, result);
        self.poll();
    }

    /// Time passes; nothing completes.
    pub fn pass(&mut self) {
        self.now += 1000;
        self.poll();
    }

    /// Time passes, so that the beacon goes out and what was put off is tried again; all completes.
    pub fn idle(&mut self) {
        self.now += 1000;
        self.finish();
    }

    /// Checkpoints at an index; all completes.
    pub fn checkpoint(&mut self, index: u64, term: u64) {
        let image = self.image(index, term);
        self.wal().checkpoint(image);
        self.finish();
    }

    /// An image at this index with a reserved id; reserving completes everything in flight.
    pub fn image(&mut self, index: u64, term: u64) -> Checkpoint {
        let id = self.wal().superblock().checkpoint_ids_reserved + 1;
        self.wal().reserve_checkpoint_ids(id);
        self.finish();
        Checkpoint {
            id,
            index: Index(index),
            term: Term(term),
            section: vec![7; 16],
        }
    }

    /// Events since the last call.
    pub fn events(&mut self) -> Vec<WalEvent> {
        std::mem::take(&mut self.events)
    }

    /// Index of the newest `Durable` event among `events`, 0 without one.
    pub fn durable(events: &[WalEvent]) -> u64 {
        let indexes = events.iter().filter_map(|event| match event {
            WalEvent::Durable { index, .. } => Some(index.0),
            _ => None,
        });
        indexes.max().unwrap_or(0)
    }

    /// The power goes: every write that was not synced is lost; names are kept as they were last.
    pub fn power_cut(&mut self) {
        let fates = vec![Fate::Lost; self.disk.unsynced().len()];
        let changes = self.disk.unsynced_changes();
        self.disk.crash(&Crash::Power { fates, changes });
        self.wal = None;
    }

    /// The process is killed: all it submitted lands.
    pub fn kill(&mut self) {
        let fates = self.disk.writes_in_flight().map(|_| Fate::Kept).collect();
        self.disk.crash(&Crash::Kill { fates });
        self.wal = None;
    }

    /// Storage fault: blocks of a file read as they were on `before`, although their write was synced.
    pub fn lose_write(&mut self, before: &SimDisk, file: FileName, offset: u64, len: u64) {
        let mut old = before.bytes(file, offset, len);
        old.resize(len as usize, 0);
        self.disk.overwrite(file, offset, old);
    }
}

impl Default for Script {
    fn default() -> Script {
        Script::new()
    }
}
